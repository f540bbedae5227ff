"""Full-text search by the server, and hybrid search in one statement (PG-3)."""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import polymem
from polymem.contracts.vectors import similarity
from polymem.engines.postgres import _vector_building
from polymem.engines.postgres.search import enable_full_text, full_text, hybrid
from polymem.errors import StorageDataError, StorageError, StorageUnsupportedError

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("postgres")]
Open = Callable[..., Any]
WORDS = ["river", "bridge", "boat", "water", "stone", "old", "fish", "green", "hill", "road"]
TEXTS = {
    "a": "The old bridge over the river",
    "b": "A bridge, not old, but wide; rivers run below the bridge",
    "c": "Boats on the water",
    "d": {"title": "River", "body": "Telephone wires"},
}


@pytest.fixture(name="space")
async def give_space(opened: Open) -> Any:
    root = await opened()
    yield root.namespace("search")
    await root.drop_namespace("search")


@pytest.fixture(name="text")
async def give_text(space: Any) -> Any:
    text = space.text("notes")
    await enable_full_text(text)
    await text.put_many((id, given, {"n": n % 2}) for n, (id, given) in enumerate(TEXTS.items()))
    return text


async def ids(text: Any, query: str, **options: Any) -> list[str]:
    return [hit.id for hit in await full_text(text, query, **options)]


async def test_what_is_found(text: Any) -> None:
    """Words in any form, phrases within one field, prefixes; the filter is that of the payload."""
    assert set(await ids(text, "rivers")) == {"a", "b", "d"}
    assert set(await ids(text, "boat telephones")) == {"c", "d"}
    assert await ids(text, '"old bridge"') == ["a"]
    assert await ids(text, '"river telephone"') == []
    assert await ids(text, 'boats "old bridge"') == ["a"]
    assert await ids(text, "tele*") == ["d"]
    assert set(await ids(text, '"the" river')) == {"a", "b", "d"}
    assert await ids(text, "the") == await ids(text, "") == await ids(text, "river", limit=0) == []
    assert set(await ids(text, "river", where={"n": 1})) == {"b", "d"}
    hit = (await full_text(text, "telephone"))[0]
    assert (hit.fields, hit.payload) == (TEXTS["d"], {"n": 1})
    assert hit.score > 0


async def test_it_follows_what_is_written(text: Any, space: Any, opened: Open) -> None:
    """By whomever; a transaction sees its own."""
    await text.put("a", "nothing of that kind")
    await text.delete("d")
    assert await ids(text, "river") == ["b"]
    other = (await opened()).namespace("search").text("notes")
    await other.put("e", "a river")
    assert set(await ids(text, "river")) == {"b", "e"}
    async with space.transaction() as tx:
        await tx.text("notes").put("f", "a river")
        assert set(await ids(tx.text("notes"), "river")) == {"b", "e", "f"}


async def test_the_order_is_that_of_the_server(opened: Open, text: Any) -> None:
    generator = random.Random(5)
    given = {f"{n:03}": " ".join(generator.choices(WORDS, k=generator.randint(1, 30))) for n in range(300)}
    await text.put_many(given.items())
    query = "to_tsquery('english', 'river | stone')"
    by_hand = (
        f"select id from (select id, ts_rank(to_tsvector('english', said), {query}, 1) as rank, said "
        "from json_to_recordset($1::text::json) as given(id text, said text)) r "
        f"where to_tsvector('english', said) @@ {query} order by rank desc, id collate \"C\" limit 50"
    )
    documents = json.dumps([{"id": id, "said": said} for id, said in given.items()])
    await text.delete_many(list(TEXTS))
    truth = [id for (id,) in await (await opened()).sql.query(by_hand, [documents])]
    assert await ids(text, "river stones", limit=50) == truth


async def test_it_is_asked_for_once_and_for_all(space: Any) -> None:
    """Before it is an error that says so; then what was written earlier is found, too."""
    text = space.text("later", language="german")
    assert await full_text(text, "haus") == []  # there is no such collection
    await text.put_many((f"{n:04}", "Viele Häuser") for n in range(1500))
    with pytest.raises(StorageDataError, match="enable_full_text") as caught:
        await full_text(text, "haus")
    assert caught.value.field == "text"
    await asyncio.gather(*(enable_full_text(text) for _ in range(3)))
    assert len(await full_text(text, "haus", limit=2000)) == 1500
    await enable_full_text(text, configuration="simple")
    assert len(await full_text(text, "häuser", limit=2000)) == 1500
    assert await full_text(text, "haus") == []
    with pytest.raises(StorageError):
        await enable_full_text(text, configuration="no such thing")
    with pytest.raises(StorageDataError):
        await enable_full_text(space.text("later"))
    await text.clear()
    assert await full_text(text, "haus") == []


async def test_writers_that_meet_the_beginning(space: Any, opened: Open) -> None:
    """What is written while it is asked for is found afterwards."""
    text, other = space.text("busy"), (await opened()).namespace("search").text("busy")
    await text.put("first", "river")

    async def write(text: Any, name: str) -> None:
        for number in range(40):
            await text.put(f"{name}{number}", "river")

    await asyncio.gather(write(text, "a"), write(other, "b"), enable_full_text(text))
    assert len(await full_text(text, "river", limit=100)) == 81


HOSTILE = [
    "'", "''", "\\", "\\'", "' | !a", "a & b | c", "!a", "(", ")", "a <-> b", ":*", "*", "a:* b:", "'a':*", '"', '""', '"\'"', "-a",
    "or", "and or not", "$1", "%s", "\x00", "\ud800", "a\x00b", "\n", "é", "\U0001f600", "http://x.example/?a=1&b='2'", "a-b_c.d@e",
    "x" * 3000, "é" * 3000, '"' + "y " * 3000 + '"', "z* " * 3000, "w " * 100_000, "<script>", "ein haus'*", "\\* '*",
]  # fmt: skip


@pytest.mark.parametrize("query", HOSTILE, ids=lambda query: ascii(query[:12]))
async def test_a_query_is_never_a_syntax_error(text: Any, space: Any, query: str) -> None:
    assert isinstance(await full_text(text, query), list)
    await hybrid(space.vectors("notes", dimensions=2), [1, 0], query)


LARGE = {
    "distinct words": " ".join(f"w{n}" for n in range(200_000)),
    "compounds": " ".join(f"a{n}-b{n}-c{n}" for n in range(50_000)),
    "addresses": " ".join(f"http://h{n}.example.org/p{n}?q={n}" for n in range(30_000)),
    "wide": "".join(f"{chr(0x4E00 + n % 20_000)} " for n in range(400_000)),
    "one word": "x" * 1_000_000,
    "one wide word": "\u4e00" * 500_000,
}


@pytest.mark.parametrize("name", LARGE)
async def test_a_text_of_any_size_can_be_stored(opened: Open, name: str) -> None:
    """A tsvector holds 1 MB, so that of a large text has the words of its beginning, whatever they are."""
    sql, fields = (await opened()).sql, json.dumps({"head": "river " + LARGE[name], "tail": LARGE[name]})
    made = "select to_tsvector('english', pm_words($1)) @@ to_tsquery('english', 'river')"
    assert await sql.query(made, [fields]) == [(True,)]
    if name == "distinct words":
        with pytest.raises(StorageError):
            await sql.query(made.replace("pm_words($1)", "$1::text::json"), [fields])


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("index", ["exact", "hnsw"])
async def test_hybrid_is_the_fusion_of_both_lists(
    opened: Open, metric: Any, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a computation in Python (PG-3), with ids that have only a text or only a vector."""
    monkeypatch.setattr(_vector_building, "LEAST", 100)
    root = await opened(vector_index=index)
    space = root.namespace("fused")
    text, vectors = space.text("said"), space.vectors("seen", dimensions=8, metric=metric)
    generator, numbers = random.Random(1), np.random.default_rng(1)
    points = {f"{n:03}": numbers.normal(size=8) for n in range(400)}
    said = {f"{n:03}": " ".join(generator.choices(WORDS, k=8)) for n in range(100, 500)}
    await vectors.put_many((id, point, {"n": int(id) % 3, "by": "vector"}) for id, point in points.items())
    await text.put_many((id, given, {"n": int(id) % 3, "by": "text"}) for id, given in said.items())
    if index == "hnsw":
        await root.engine._approximate.settle()
    await enable_full_text(text)
    sought = numbers.normal(size=8)
    for where, weight in ((None, 0.5), ({"n": 1}, 0.5), (None, 0.8), (None, 0.0), (None, 1.0)):
        near = sorted(points, key=lambda one: (-similarity(sought, points[one], metric), one))
        near = [id for id in near if where is None or int(id) % 3 == 1][:200]
        matching = [hit.id for hit in await full_text(text, "river stone", limit=200, where=where)]
        score = dict.fromkeys({*near, *matching}, 0.0)
        for share, found in ((1 - weight, near), (weight, matching)):
            for place, id in enumerate(found, 1):
                score[id] += share / (60 + place)
        truth = sorted((id for id in score if score[id]), key=lambda one: (-score[one], one))[:30]
        hits = await hybrid(vectors, sought, "river stone", text="said", limit=30, where=where, text_weight=weight)
        if index == "exact":
            assert [hit.id for hit in hits] == truth
            assert [hit.score for hit in hits] == pytest.approx([score[id] for id in truth])
        assert len({hit.id for hit in hits} & set(truth)) >= 0.95 * len(truth)
        for hit in hits:
            assert hit.text_place == (matching.index(hit.id) + 1 if hit.id in matching else None)
            assert (hit.vector_place is None) == (hit.id not in near) or index == "hnsw"
            assert hit.fields == ({"text": said[hit.id]} if hit.id in said else {})
            assert hit.payload == {"n": int(hit.id) % 3, "by": "text" if hit.id in said else "vector"}
    await root.drop_namespace("fused")
    await root.delete_expired()


async def test_namespaces_never_meet(opened: Open) -> None:
    """G-10."""
    root = await opened()
    one, other = root.namespace("search", "one"), root.namespace("search", "other")
    for space, id in ((one, "mine"), (other, "theirs")):
        await space.text("notes").put(id, "river")
        await space.vectors("notes", dimensions=2).put(id, [1, 0])
        await enable_full_text(space.text("notes"))
    assert await ids(one.text("notes"), "river") == ["mine"]
    assert [hit.id for hit in await hybrid(one.vectors("notes", dimensions=2), [1, 0], "river")] == ["mine"]
    await one.text("notes").clear()
    assert [hit.id for hit in await hybrid(one.vectors("notes", dimensions=2), [1, 0], "river")] == ["mine"]
    await one.vectors("notes", dimensions=2).clear()
    assert await hybrid(one.vectors("notes", dimensions=2), [1, 0], "river") == []
    await root.drop_namespace("search")


async def test_what_is_refused(space: Any, text: Any) -> None:
    vectors = space.vectors("notes", dimensions=2)
    await vectors.put("a", [1, 0])
    for options, field in (
        ({"vector": [1, 0, 0]}, "vector"), ({"vector": [0, 0]}, "vector"), ({"query": 1}, "query"), ({"limit": -1}, "limit"),
        ({"text_weight": 1.5}, "text_weight"), ({"text_weight": True}, "text_weight"), ({"text": "a b"}, "text"),
        ({"where": {"a": {"nope": 1}}}, "where.a"),
    ):  # fmt: skip
        with pytest.raises(StorageDataError) as caught:
            await hybrid(**{"vectors": vectors, "vector": [1, 0], "query": "x", **options})
        assert caught.value.field == field
    with pytest.raises(StorageDataError) as other:
        await hybrid(space.vectors("notes", dimensions=3), [1, 0, 0], "x")
    assert other.value.field == "dimensions"
    await space.text("unasked").put("a", "river")
    with pytest.raises(StorageDataError, match="enable_full_text"):
        await hybrid(vectors, [1, 0], "river", text="unasked")
    assert await hybrid(vectors, [1, 0], "x", limit=0) == []


async def test_other_engines_cannot() -> None:
    async with polymem.open("memory:") as store:
        for call in (
            full_text(store.text("t"), "x"), enable_full_text(store.text("t")),
            hybrid(store.vectors("v", dimensions=1), [1], "x"),
        ):  # fmt: skip
            with pytest.raises(StorageUnsupportedError):
                await call


async def test_calls_are_counted(space: Any, text: Any) -> None:
    """G-9."""
    before = space.metrics()["operations"].get("text.full_text", {"total_count": 0})["total_count"]
    await full_text(text, "river")
    assert space.metrics()["operations"]["text.full_text"]["total_count"] == before + 1
