"""Ranked text without the documents: `rank` finds what `search` finds (TXT-1)."""

from typing import Any

from polymem.contracts.filter import F
from polymem.contracts.text import Text, TextQuery
from polymem.errors import StorageDataError
from polymem.testing.clause import clause
from polymem.testing.expect import refused
from polymem.testing.kit import Kit

_COUNT = 12


async def _rivers(kit: Kit) -> Text:
    """Twelve documents that hold "river", some of them "bank" too; the later the longer."""
    text = kit.store.text("rivers")
    await text.put_many(
        (f"{n:02}", {"title": "river", "body": "water " * n + ("the banks of it" if n % 2 else "")}, {"n": n})
        for n in range(_COUNT)
    )
    return text


async def _agree(text: Text, query: str | TextQuery, **options: Any) -> list[str]:
    """The ids, after comparing both operations to the last digit of the scores."""
    ranked = await text.rank(query, **options)
    assert ranked == [(hit.id, hit.score) for hit in await text.search(query, **options)]
    return [id for id, _ in ranked]


@clause("text")
async def rank_is_search_without_documents(kit: Kit) -> None:
    """The same ids with the same scores in the same order, under every limit and filter."""
    text = await _rivers(kit)
    for query in ("river", "bank river", "water bank", TextQuery(words=("river", "bank"), common=0.5), "nothing"):
        for limit in (1, 5, 10, 99):
            await _agree(text, query, limit=limit)
            await _agree(text, query, limit=limit, where=F("n") > 3)
    assert len(await _agree(text, "river", limit=99)) == _COUNT
    assert await _agree(text, "river", limit=99, where={"n": 7}) == ["07"]
    assert set(await _agree(text, "bank", limit=99)) == {f"{n:02}" for n in range(1, _COUNT, 2)}


@clause("text", needs=lambda f: f.phrases and f.prefixes)
async def rank_knows_phrases_prefixes_and_weights(kit: Kit) -> None:
    """What a query can ask of search it can ask of rank."""
    text = await _rivers(kit)
    assert await _agree(text, '"banks of it" riv*', limit=99) != []
    assert await _agree(text, '"it of banks"') == []
    weighted = TextQuery(words=("river", "bank"), weights=(("title", 0.0), ("body", 2.0)))
    assert len(await _agree(text, weighted, limit=99)) == _COUNT // 2


@clause("text")
async def rank_of_nothing(kit: Kit) -> None:
    """Nothing to look for, nothing wanted and nothing stored all give nothing."""
    text = await _rivers(kit)
    assert await text.rank("") == await text.rank("river", limit=0) == []
    assert await kit.store.text("unknown").rank("river") == []


@clause("text")
async def rank_sees_every_change(kit: Kit) -> None:
    """Documents that were put, replaced or deleted count at once."""
    text = await _rivers(kit)
    await text.put("00", "a lake")
    await text.delete("01")
    assert set(await _agree(text, "river", limit=99)) == {f"{n:02}" for n in range(2, _COUNT)}
    assert await _agree(text, "lake") == ["00"]
    await text.clear()
    assert await _agree(text, "river") == []


@clause("text")
async def bad_ranks(kit: Kit) -> None:
    """limit, where and query are refused by their names."""
    text: Any = kit.store.text("t")
    for limit in (-1, 1.5, "1", None, True):
        with refused(StorageDataError, field="limit"):
            await text.rank("a", limit=limit)
    for where in ("a", 1, {"a": {"like": "x"}}):
        with refused(StorageDataError, field="where"):
            await text.rank("a", where=where)
    for query in (None, 1, ["a"]):
        with refused(StorageDataError, field="query"):
            await text.rank(query)
