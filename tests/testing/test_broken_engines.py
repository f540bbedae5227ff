"""The suite can fail: each engine here is broken in one way, and the clauses meant for it notice (TST-1)."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from polymem.contracts.drivers import Drivers
from polymem.contracts.vectors import similarity
from polymem.core.clock import Clock
from polymem.engines.memory.engine import MemoryEngine
from polymem.opened import Session
from polymem.store import Store
from polymem.testing import Harness
from polymem.testing.run import run

Breaking = Callable[[Drivers], dict[str, Any]]


def altered(driver: Any, **calls: Any) -> Any:
    """The same driver with some operations replaced."""
    own = {name: getattr(driver, name) for name in dir(driver) if not name.startswith("_")}
    return SimpleNamespace(**{**own, **calls})


class BrokenEngine(MemoryEngine):
    """A memory engine with some cells replaced."""

    breaking: Breaking

    def drivers(self, namespace: str, /) -> Drivers:
        whole = super().drivers(namespace)
        return replace(whole, **type(self).breaking(whole))


class BrokenHarness(Harness):
    def __init__(self, engine: type[MemoryEngine]) -> None:
        self._engine = engine

    async def open(self, clock: Clock) -> Store:
        return await Store(Session(self._engine(clock), sweep_every=None))


def failures(engine: type[MemoryEngine], *contracts: str, examples: int = 0) -> set[str]:
    report = asyncio.run(run(BrokenHarness(engine), contracts, examples=examples))
    return {result.clause.id for result in report.failures}


def broken(breaking: Breaking) -> type[MemoryEngine]:
    return type("Broken", (BrokenEngine,), {"breaking": staticmethod(breaking)})


def test_nothing_fails_without_a_fault() -> None:
    """The baseline: what follows is caused by the fault alone."""
    assert failures(broken(lambda d: {"kv": altered(d.kv)}), "kv", examples=10) == set()


def _ignores_ttl(d: Drivers) -> dict[str, Any]:
    async def put(*record: Any, version: int, expires_at: int | None) -> None:
        await d.kv.put(*record, version=version, expires_at=None)

    return {"kv": altered(d.kv, put=put)}


def _lists_the_expired(d: Drivers) -> dict[str, Any]:
    async def page(prefix: str, after: str | None, limit: int) -> Any:
        found = await d.kv.page(prefix, after, limit)
        return replace(found, items=[item for item in found.items if not item[0].startswith("later")])

    return {"kv": altered(d.kv, page=page)}


def _loses_updates(d: Drivers) -> dict[str, Any]:
    async def increment(key: str, delta: int, *, version: int) -> int:
        found = await d.kv.get(key)
        await asyncio.sleep(0)
        value = delta + (int(found[0]) if found else 0)
        await d.kv.put(key, b"%d" % value, "json", version=version, expires_at=None)
        return value

    return {"kv": altered(d.kv, increment=increment)}


def _swaps_without_comparing(d: Drivers) -> dict[str, Any]:
    async def replace_(
        key: str, body: bytes, codec: str, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        if await d.kv.entry(key) is None:
            return False
        await d.kv.put(key, body, codec, version=version, expires_at=expires_at)
        return True

    return {"kv": altered(d.kv, replace=replace_)}


def _folds_case(d: Drivers) -> dict[str, Any]:
    async def get(key: str) -> Any:
        return await d.kv.get(key) or await d.kv.get(key.lower())

    return {"kv": altered(d.kv, get=get)}


def _writes_half_a_batch(d: Drivers) -> dict[str, Any]:
    async def put_many(items: Any) -> None:
        for key, body, codec, version, expires_at in items:
            await d.kv.put(key, body, codec, version=version, expires_at=expires_at)
            await asyncio.sleep(0)

    return {"kv": altered(d.kv, put_many=put_many)}


def _says_deleted(d: Drivers) -> dict[str, Any]:
    async def delete(key: str) -> bool:
        await d.kv.delete(key)
        return True

    return {"kv": altered(d.kv, delete=delete)}


def _cuts_the_listing(d: Drivers) -> dict[str, Any]:
    async def page(prefix: str, after: str | None, limit: int) -> Any:
        return replace(await d.kv.page(prefix, after, limit), after=None)

    return {"kv": altered(d.kv, page=page)}


def _repeats_turn_ids(d: Drivers) -> dict[str, Any]:
    async def append(rows: Any, *, replace: bool) -> list[int]:
        newest = await d.turns.recent(rows[0].session_id, limit=1, offset=0, include_expired=True)
        await asyncio.sleep(0)
        first = (newest[0].turn_id or 0) + 1 if newest else 1
        numbered = [row if row.turn_id is not None else row._replace(turn_id=first + n) for n, row in enumerate(rows)]
        return await d.turns.append(numbered, replace=True)

    return {"turns": altered(d.turns, append=append)}


def _filters_after_the_limit(d: Drivers) -> dict[str, Any]:
    async def search(space: Any, vector: Any, *, limit: int, where: Any, min_score: Any) -> Any:
        near = await d.vectors.search(space, vector, limit=limit, where=None, min_score=min_score)
        wanted = await d.vectors.search(space, vector, limit=10**6, where=where, min_score=min_score)
        return [hit for hit in near if hit in wanted]

    return {"vectors": altered(d.vectors, search=search)}


def _compares_without_centring(d: Drivers) -> dict[str, Any]:
    async def centred_cosines(space: Any, vector: Any, ids: Any) -> dict[str, float]:
        return {id: similarity(vector, found.vector) for id, found in (await d.vectors.get_many(space, ids)).items()}

    return {"vectors": altered(d.vectors, centred_cosines=centred_cosines)}


def _ranks_everything(d: Drivers) -> dict[str, Any]:
    async def rank(collection: Any, query: Any, *, limit: int, where: Any) -> Any:
        return await d.text.rank(collection, query, limit=limit, where=None)

    return {"text": altered(d.text, rank=rank)}


def _forgets_edges_ends(d: Drivers) -> dict[str, Any]:
    async def expand(graph: str, refs: Any, *, direction: str, types: Any, as_of: Any) -> Any:
        return await d.graph.expand(graph, refs, direction=direction, types=types, as_of=None)

    return {"graph": altered(d.graph, expand=expand)}


def _rolls_nothing_back(d: Drivers) -> dict[str, Any]:
    async def begin(*, timeout: float) -> Any:
        opened = await d.transactions.begin(timeout=timeout)
        return altered(opened, rollback=opened.commit)

    return {"transactions": altered(d.transactions, begin=begin)}


@pytest.mark.parametrize(
    ("breaking", "contract", "noticed"),
    [
        (_ignores_ttl, "kv", {"kv.ttl-expires", "kv.expired-is-absent-to-everything", "kv.ttl-forms"}),
        (_lists_the_expired, "kv", {"kv.sweeping-removes-just-the-expired"}),
        (_loses_updates, "kv", {"kv.increment-loses-nothing", "kv.who-keeps-the-expiry"}),
        (_swaps_without_comparing, "kv", {"kv.compare-and-set", "kv.compare-and-set-loses-nothing", "kv.late-writer"}),
        (_folds_case, "kv", {"kv.keys-next-to-each-other"}),
        (_writes_half_a_batch, "kv", {"kv.cancelled-batch", "kv.batches-are-whole"}),
        (_says_deleted, "kv", {"kv.delete-is-truthful", "kv.one-deleter-wins", "kv.absent"}),
        (_cuts_the_listing, "kv", {"kv.several-pages", "kv.pages-end-exactly", "kv.scan-in-order"}),
        (_repeats_turn_ids, "turns", {"turns.concurrent-appends", "turns.a-taken-turn-id"}),
        (_filters_after_the_limit, "vectors", {"vectors.filters-come-first"}),
        (_compares_without_centring, "vectors", {"vectors.centred-cosines-by-the-book"}),
        (_ranks_everything, "text", {"text.rank-is-search-without-documents"}),
        (_forgets_edges_ends, "graph", {"graph.validity"}),
        (_rolls_nothing_back, "transactions", {"transactions.kv-rollback", "transactions.all-contracts-together"}),
    ],
)
def test_a_fault_is_noticed(breaking: Breaking, contract: str, noticed: set[str]) -> None:
    found = failures(broken(breaking), contract)
    assert noticed <= found, noticed - found


@pytest.mark.parametrize(
    ("breaking", "contract"),
    [
        (_ignores_ttl, "kv"), (_swaps_without_comparing, "kv"), (_says_deleted, "kv"), (_repeats_turn_ids, "turns"),
        (_filters_after_the_limit, "vectors"), (_forgets_edges_ends, "graph"),
    ],
)  # fmt: skip
def test_the_model_notices_it_too(breaking: Breaking, contract: str) -> None:
    """Random operations against the memory engine find it without a clause made for it."""
    assert f"{contract}.model" in failures(broken(breaking), contract, examples=100)


def test_leaking_namespaces() -> None:
    """An engine that ignores the namespace fails for every contract."""

    class Leaking(MemoryEngine):
        def drivers(self, namespace: str, /) -> Drivers:
            return super().drivers("all/")

    found = failures(Leaking, "kv", "turns", "vectors", "text", "graph", "blobs")
    for contract in ("kv", "turns", "vectors", "text", "graph", "blobs"):
        assert {f"{contract}.namespaces-are-disjoint", f"{contract}.namespaces-nest"} <= found
    assert {"vectors.scores-ignore-other-namespaces", "text.scores-ignore-other-namespaces"} <= found


def test_a_prefix_instead_of_a_namespace() -> None:
    """Dropping "a" by prefix takes "ab" along."""

    class Sloppy(MemoryEngine):
        async def drop_namespace(self, prefix: str, /) -> int:
            gone = 0
            for name in (await super().namespaces("", None, 10_000)).items:
                if name.startswith(prefix.rstrip("/")):
                    gone += await super().drop_namespace(name)
            return gone

    assert "kv.namespaces-are-dropped-whole" in failures(Sloppy, "kv")


def test_scores_of_other_namespaces() -> None:
    """Statistics shared between namespaces are noticed though the hits are right."""

    def shared(d: Drivers) -> dict[str, Any]:
        seen = broken_text.setdefault("size", [0])

        async def put_many(collection: Any, documents: Any) -> None:
            seen[0] += len(documents)
            await d.text.put_many(collection, documents)

        async def search(*given: Any, **options: Any) -> Any:
            return [hit._replace(score=hit.score * (1 + seen[0])) for hit in await d.text.search(*given, **options)]

        return {"text": altered(d.text, put_many=put_many, search=search)}

    broken_text: dict[str, list[int]] = {}
    assert "text.scores-ignore-other-namespaces" in failures(broken(shared), "text")


def test_an_engine_that_forgets() -> None:
    """One that says it is durable and is not."""

    def lies(d: Drivers) -> dict[str, Any]:
        return {"kv": altered(d.kv, features=replace(d.kv.features, durable=True))}

    found = failures(broken(lies), "kv")
    assert {"kv.survives-reopening", "kv.reopening-keeps-everything", "kv.two-instances-agree"} <= found


def test_use_after_close() -> None:
    """An engine that leaves tasks behind."""

    class Leaky(MemoryEngine):
        kept: list[Any] = []

        async def open(self) -> None:
            await super().open()
            self.kept.append(asyncio.create_task(asyncio.sleep(60)))

    assert "engine.leaks-nothing" in failures(Leaky, "engine")


def test_a_clause_that_hangs_fails() -> None:
    """A hang is a failure, not the end of the run."""

    class Hanging(BrokenHarness):
        timeout = 0.3  # enough for those that do not hang

    async def hang(*_: Any, **__: Any) -> None:
        await asyncio.sleep(60)

    engine = broken(lambda d: {"kv": altered(d.kv, touch=hang)})
    report = asyncio.run(run(Hanging(engine), ["kv"]))
    assert any(isinstance(result.error, TimeoutError) for result in report.failures)
    assert len(report.results) > 60
