"""Opening, closing, namespaces, sweeping and the figures."""

import pytest

from polymem.contracts.blobs import BlobInfo
from polymem.contracts.drivers import CONTRACTS
from polymem.contracts.graph import Edge, Node
from polymem.contracts.turns import TurnRow
from polymem.core.clock import ManualClock
from polymem.core.engine import Engine
from polymem.core.page import Page
from polymem.core.registry import create_engine
from polymem.engines.memory._graph_tables import NodeTable
from polymem.engines.memory.blobs import ContentTable
from polymem.engines.memory.engine import MemoryEngine, from_url
from polymem.errors import StorageConnectionError, StorageDataError

pytestmark = pytest.mark.anyio


async def put(engine: MemoryEngine, namespace: str, key: str, expires_at: int | None = None) -> None:
    kv = engine.drivers(namespace).kv
    assert kv
    await kv.put(key, b"1", "json", version=1, expires_at=expires_at)


async def append(engine: MemoryEngine, namespace: str, session: str, expires_at: int | None = None) -> None:
    turns = engine.drivers(namespace).turns
    assert turns
    await turns.append([TurnRow("i", session, None, "user", '""', "{}", 0, expires_at)], replace=False)


def test_it_is_an_engine() -> None:
    engine: Engine = create_engine("memory:")
    assert isinstance(engine, MemoryEngine)
    assert (engine.name, engine.remote) == ("memory", False)


@pytest.mark.parametrize(("url", "options", "field"), [
    ("memory:", {"path": 1}, "path"), ("memory:?size=3", {}, "size"),
    ("memory:x", {}, "url"), ("memory://host/x", {}, "url"),
])  # fmt: skip
def test_unknown_options_and_urls(url: str, options: dict[str, object], field: str) -> None:
    with pytest.raises(StorageDataError) as caught:
        from_url(url, **options)  # type: ignore[arg-type]
    assert caught.value.field == field


async def test_lifecycle(clock: ManualClock) -> None:
    """G-8: use before open or after close is refused; both are idempotent; closing forgets."""
    engine = from_url("memory://", clock=clock)
    kv = engine.drivers("").kv
    assert kv and engine.clock is clock
    assert not (await engine.check()).ok
    for _ in range(2):
        for call in (
            kv.get("k"),
            kv.clear(),
            put(engine, "", "k"),
            engine.namespaces("", None, 1),
            engine.snapshot(),
        ):
            with pytest.raises(StorageConnectionError):
                await call
        await engine.open()
        await put(engine, "", "k")
        await engine.open()
        assert await kv.count("") == 1
        await engine.close()
        await engine.close()
    await engine.open()
    assert await kv.count("") == 0


async def test_two_engines_share_nothing(engine: MemoryEngine) -> None:
    other = MemoryEngine()
    await other.open()
    await put(engine, "", "k")
    assert (await other.namespaces("", None, 9)).items == []


async def test_namespaces(engine: MemoryEngine, clock: ManualClock) -> None:
    """KV-4: listed in order where they hold something live, parents and children apart."""
    for namespace in ("b/", "", "a/", "a/x/", "a%2Fx/", "ab/"):
        await put(engine, namespace, "k")
    await append(engine, "a/t/", "s")
    await put(engine, "expired/", "k", clock.now())
    await append(engine, "expired/too/", "s", clock.now())
    await put(engine, "emptied/", "k")
    kv = engine.drivers("emptied/").kv
    assert kv
    await kv.delete("k")
    assert (await engine.namespaces("", None, 99)).items == ["", "a%2Fx/", "a/", "a/t/", "a/x/", "ab/", "b/"]
    assert await engine.namespaces("a/", None, 2) == Page(["a/", "a/t/"], "a/t/")
    assert await engine.namespaces("a/", "a/t/", 2) == Page(["a/x/"], None)
    assert (await engine.namespaces("", "", 1)).items == ["a%2Fx/"]


async def test_drop_namespace_takes_the_subtree(engine: MemoryEngine, clock: ManualClock) -> None:
    for namespace in ("a/", "a/x/", "ab/"):
        await put(engine, namespace, "k")
    await put(engine, "a/", "expired", clock.now())
    graph = engine.drivers("a/").graph
    assert graph
    await graph.create_nodes("g", [Node("P", "a", {})])
    ref = Node("P", "a", {}).ref
    await graph.create_edges("g", [Edge("e", ref, ref, "T", {}, None, None)])
    assert await engine.drop_namespace("a/") == 4, "two values, a node and an edge"
    assert (await engine.namespaces("", None, 9)).items == ["ab/"]
    sql = engine.drivers("").sql
    assert sql
    await sql.execute("create table t (x)", ())
    assert await engine.drop_namespace("") == 1
    assert await sql.query("select * from t", ()) == [], "SQL tables belong to no namespace"


async def test_sweeping(engine: MemoryEngine, clock: ManualClock) -> None:
    """G-6: in batches, counted; what is still live stays."""
    for number in range(5):
        await put(engine, f"{number % 2}/", str(number), clock.now() + 10)
        await append(engine, "", str(number), clock.now() + 20)
    await put(engine, "0/", "kept")
    assert await engine.delete_expired(9) == 0
    clock.advance(10e-6)
    assert [await engine.delete_expired(3) for _ in range(3)] == [3, 2, 0]
    clock.advance(10e-6)
    assert [await engine.delete_expired(4) for _ in range(3)] == [4, 1, 0]
    assert [len(tables) for tables in engine._view.tables.values()] == [1], "emptied tables are gone"
    await put(engine, "0/", "kept", clock.now())
    assert await engine.delete_expired(9) == 1


async def test_check(engine: MemoryEngine, clock: ManualClock) -> None:
    await put(engine, "a/", "k")
    await put(engine, "b/", "k", clock.now())
    health = await engine.check()
    assert (health.ok, health.problems) == (True, [])
    assert health.details == {"namespaces": 1, "records": {"kv": 1}}


async def test_check_finds_broken_references(engine: MemoryEngine) -> None:
    graph, blobs = engine.drivers("").graph, engine.drivers("").blobs
    assert graph and blobs
    await graph.create_nodes("g", [Node("P", "a", {})])
    ref = Node("P", "a", {}).ref
    await graph.create_edges("g", [Edge("e", ref, ref, "T", {}, None, None)])
    await blobs.commit("c", await blobs.begin("c"), BlobInfo("k", 0, "", "t", {}, 0, "v"))
    assert (await engine.check()).ok
    engine._view.table(NodeTable, "", "g").pop(ref)
    engine._view.table(ContentTable, "", "c").pop("v")
    assert len((await engine.check()).problems) == 2


async def test_features_say_that_nothing_is_durable(engine: MemoryEngine) -> None:
    features = engine.drivers("").features()
    assert set(features) == set(CONTRACTS)
    assert not any(getattr(feature, "durable", False) for feature in features.values())
