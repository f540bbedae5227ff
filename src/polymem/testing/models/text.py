"""Operations on texts. Scores may differ in their last digits between engines, so hits are compared by id."""

from typing import Any

from hypothesis import strategies as st

from polymem.contracts.text import Text
from polymem.store import Store
from polymem.testing.models.model import NAMES, PAYLOAD, WHERE, Memo, Model

ID, NAME = st.sampled_from(NAMES), st.sampled_from(["t", "T"])
IDS = st.lists(ID, max_size=4)
WORDS = ("dog", "Dogs", "running", "ran", "river", "caf\u00e9", "cafe", "the", "\u6771\u4eac", "a1", "x")
SENTENCE = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
CONTENT = SENTENCE | st.fixed_dictionaries({"title": SENTENCE, "body": SENTENCE})
QUERY = SENTENCE | st.sampled_from(['"dog river"', "ri*", '"the dog" ca*', '"', "* -dog", "zebra", "dog zebra"])
WEIGHTS = st.sampled_from([None, {"title": 3}, {"title": 0, "body": 2}, {"text": 0.5}])


def _text(store: Store, name: str) -> Text:
    return store.text(name)


async def _put(store: Store, _: Memo, name: str, documents: list[Any]) -> None:
    await _text(store, name).put_many(documents)


async def _get(store: Store, _: Memo, name: str, ids: list[str]) -> Any:
    return await _text(store, name).get_many(ids)


async def _delete(store: Store, _: Memo, name: str, ids: list[str]) -> int:
    return await _text(store, name).delete_many(ids)


async def _search(store: Store, _: Memo, name: str, query: str, where: Any, weights: Any) -> Any:
    hits = await _text(store, name).search(query, limit=99, where=where, weights=weights, highlight=("[", "]"))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    return {hit.id: (hit.score, hit.fields, hit.payload, dict(hit.highlights)) for hit in hits}


async def _cut(store: Store, _: Memo, name: str, query: str, limit: int, offset: int) -> Any:
    return [hit.score for hit in await _text(store, name).search(query, limit=limit, offset=offset)]


async def _frequencies(store: Store, _: Memo, name: str, words: list[str]) -> Any:
    total, counts = await _text(store, name).frequencies(words)
    return total, dict(counts)


async def _count(store: Store, _: Memo, name: str, where: Any) -> int:
    return await _text(store, name).count(where=where)


async def _clear(store: Store, _: Memo, name: str) -> int:
    return await _text(store, name).clear()


async def _state(store: Store) -> Any:
    texts = [_text(store, name) for name in ("t", "T")]
    found = [[document async for document in text.scan()] for text in texts]
    hits = [{hit.id: hit.score for hit in await text.search("dog river the")} for text in texts]
    return found, hits, [await text.frequencies(["dog", "cafe"]) for text in texts]


TEXT = Model(
    "text",
    {
        "put": (_put, (NAME, st.lists(st.tuples(ID, CONTENT, PAYLOAD), max_size=4))),
        "get": (_get, (NAME, IDS)),
        "delete": (_delete, (NAME, IDS)),
        "search": (_search, (NAME, QUERY, WHERE, WEIGHTS)),
        "cut": (_cut, (NAME, QUERY, st.integers(0, 5), st.integers(0, 3))),
        "frequencies": (_frequencies, (NAME, st.lists(st.sampled_from(WORDS), max_size=3))),
        "count": (_count, (NAME, WHERE)),
        "clear": (_clear, (NAME,)),
    },
    ("put", "search"),
    _state,
)
