"""TXT-1, G-2, G-3: what `Text` checks and passes on, and how a typed query is read."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.contracts.filter import F
from polymem.contracts.text import (
    Document,
    Text,
    TextCollection,
    TextFeatures,
    TextHit,
    TextQuery,
    parse_query,
)
from polymem.core.page import Page
from polymem.errors import StorageDataError, StorageUnsupportedError

COLLECTION = TextCollection("notes")


@pytest.fixture
def driver(recorder: Any) -> Any:
    features = TextFeatures(languages=("english", "german", "trigram"))
    return recorder(features, get_many={}, delete_many=1, count=4, clear=4, search=[], frequencies=(9, {"a": 1}))


@pytest.fixture
def text(driver: Any) -> Text:
    return Text(driver, COLLECTION)


def stored(driver: Any) -> list[Document]:
    return [document for name, args, _ in driver.calls if name == "put_many" for document in args[1]]


def test_put_many_takes_every_form_and_the_last_of_an_id_counts(text: Text, driver: Any) -> None:
    payload = {"tags": ["x"]}
    documents: list[Any] = [
        ("a", "one"),
        ("b", {"title": "T", "body": ""}, payload),
        Document("c", {"text": "three"}, {}),
        {"id": "d", "text": "four"},
        ("a", "", {"k": 1}),
    ]
    asyncio.run(text.put_many(iter(documents)))
    payload["tags"].append("y")
    assert stored(driver) == [
        Document("a", {"text": ""}, {"k": 1}),
        Document("b", {"title": "T", "body": ""}, {"tags": ["x"]}),
        Document("c", {"text": "three"}, {}),
        Document("d", {"text": "four"}, {}),
    ]
    assert driver.calls[0][1][0] == COLLECTION


BAD: list[tuple[str, Callable[[Text], Any]]] = [
    ("id", lambda t: t.put("", "x")),
    ("text", lambda t: t.put("a", None)),  # type: ignore[arg-type]
    ("text", lambda t: t.put("a", {})),
    ("text", lambda t: t.put("a", {"bad name": "x"})),
    ("text", lambda t: t.put("a", {1: "x"})),  # type: ignore[dict-item]
    ("text.body", lambda t: t.put("a", {"body": 3})),  # type: ignore[dict-item]
    ("text.text", lambda t: t.put("a", "x\0")),
    ("payload", lambda t: t.put("a", "x", "y")),  # type: ignore[arg-type]
    ("payload.k", lambda t: t.put("a", "x", {"k": b""})),
    ("documents", lambda t: t.put_many(["ab"])),  # type: ignore[list-item]
    ("documents.text", lambda t: t.put_many([{"id": "a"}])),
    ("documents.body", lambda t: t.put_many([{"id": "a", "text": "x", "body": "y"}])),
    ("id", lambda t: t.get("")),
    ("ids", lambda t: t.get_many("ab")),
    ("ids", lambda t: t.delete_many([3])),  # type: ignore[list-item]
    ("query", lambda t: t.search(b"x")),  # type: ignore[arg-type]
    ("query", lambda t: t.search(None)),  # type: ignore[arg-type]
    ("query.words", lambda t: t.search(TextQuery(words="word"))),  # type: ignore[arg-type]
    ("query.phrases", lambda t: t.search(TextQuery(phrases=("a\0",)))),
    ("query.common", lambda t: t.search(TextQuery(words=("a",), common=0))),
    ("query.common", lambda t: t.search(TextQuery(words=("a",), common=math.nan))),
    ("weights.x", lambda t: t.search(TextQuery(words=("a",), weights=(("x", -1),)))),
    ("weights", lambda t: t.search(TextQuery(words=("a",), weights=("x",)))),  # type: ignore[arg-type]
    ("limit", lambda t: t.search("x", limit=-1)),
    ("offset", lambda t: t.search("x", offset=-1)),
    ("where", lambda t: t.search("x", where="k")),  # type: ignore[arg-type]
    ("weights", lambda t: t.search("x", weights=3)),  # type: ignore[arg-type]
    ("weights", lambda t: t.search("x", weights={"a b": 1})),
    ("weights.title", lambda t: t.search("x", weights={"title": math.inf})),
    ("weights.title", lambda t: t.search("x", weights={"title": True})),
    ("highlight", lambda t: t.search("x", highlight="<b>")),  # type: ignore[arg-type]
    ("highlight", lambda t: t.search("x", highlight=("<b>",))),  # type: ignore[arg-type]
    ("highlight", lambda t: t.search("x", highlight=("<b>", 1))),  # type: ignore[arg-type]
    ("words", lambda t: t.frequencies("word")),
    ("words", lambda t: t.frequencies([None])),  # type: ignore[list-item]
    ("where", lambda t: t.count(where=3)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("field", "call"), BAD)
def test_bad_input_names_the_field_and_calls_nothing(
    text: Text, driver: Any, field: str, call: Callable[[Text], Any]
) -> None:
    with pytest.raises(StorageDataError) as refused:
        asyncio.run(call(text))
    assert refused.value.field == field
    assert driver.calls == []


def test_nothing_to_put_calls_nothing(text: Text, driver: Any) -> None:
    asyncio.run(text.put_many([]))
    assert driver.calls == []


def test_collection_is_checked_when_the_handle_is_made(driver: Any) -> None:
    with pytest.raises(StorageDataError) as refused:
        Text(driver, TextCollection("no:te"))
    assert refused.value.field == "name"
    with pytest.raises(StorageUnsupportedError, match="english, german, trigram") as unsupported:
        Text(driver, TextCollection("notes", "klingon"))
    assert unsupported.value.field == "language"
    assert Text(driver, TextCollection("notes", "german")).collection.language == "german"


def test_search_passes_on_checked_arguments(text: Text, driver: Any) -> None:
    driver.answers["search"] = [TextHit("a", 1.5, {"text": "x"}, {})]
    hits = asyncio.run(
        text.search('say "a b" wor*', limit=3, offset=2, where={"k": 1}, weights={"title": 2}, highlight=("<", ">"))
    )
    assert hits[0].highlights == {}
    _, args, options = driver.calls[0]
    assert args[1] == TextQuery(("say",), ("a b",), ("wor",), (("title", 2),))
    assert options == {"limit": 3, "offset": 2, "where": F("k") == 1, "highlight": ("<", ">")}


def test_own_query_keeps_its_weights_unless_others_are_given(text: Text, driver: Any) -> None:
    query = TextQuery(words=("a",), weights=(("title", 3),), common=0.2)
    asyncio.run(text.search(query))
    asyncio.run(text.search(query, weights={"body": 0}))
    assert [args[1] for _, args, _ in driver.calls] == [
        query,
        TextQuery(words=("a",), weights=(("body", 0),), common=0.2),
    ]


@pytest.mark.parametrize(("query", "limit"), [("", 5), ('  " ', 5), (TextQuery(), 5), ("x", 0)])
def test_nothing_to_look_for_calls_nothing(text: Text, driver: Any, query: Any, limit: int) -> None:
    assert asyncio.run(text.search(query, limit=limit)) == []
    assert driver.calls == []


@pytest.mark.parametrize(("query", "kind"), [('"a b"', "phrases"), ("a*", "prefixes")])
def test_what_the_engine_lacks_is_refused(recorder: Any, query: str, kind: str) -> None:
    text = Text(recorder(TextFeatures(phrases=False, prefixes=False), search=[]), COLLECTION)
    with pytest.raises(StorageUnsupportedError, match=kind):
        asyncio.run(text.search(query))
    assert asyncio.run(text.search("plain words")) == []


def test_scan_reads_page_after_page(text: Text, driver: Any) -> None:
    one, two = (Document(name, {"text": ""}, {}) for name in "ab")
    driver.answers["page"] = lambda space, after, limit, where: Page([two], None) if after else Page([one], "a")

    async def ids() -> list[str]:
        return [document.id async for document in text.scan(where={"x": 1})]

    assert asyncio.run(ids()) == ["a", "b"]


def test_reads_and_removals_pass_through(text: Text, driver: Any) -> None:
    async def all_of_them() -> list[Any]:
        return [
            await text.get("a"),
            await text.exists("a"),
            await text.get_many(["a", "b", "a"]),
            await text.delete("a"),
            await text.delete_many(["a"]),
            await text.frequencies(["a", "b", "a"]),
            await text.count(where={"k": 1}),
            await text.clear(),
        ]

    assert asyncio.run(all_of_them()) == [None, False, {}, True, 1, (9, {"a": 1}), 4, 4]
    assert text.features == driver.features
    assert ("frequencies", (COLLECTION, ["a", "b"]), {}) in driver.calls


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("where does Ada live?", TextQuery(words=("where", "does", "Ada", "live?"))),
        ('"new york" pizza', TextQuery(words=("pizza",), phrases=("new york",))),
        ("\u201cnew york\u201d", TextQuery(phrases=("new york",))),
        ('a"b c"d', TextQuery(words=("a", "d"), phrases=("b c",))),
        ('un "balanced', TextQuery(words=("un", "balanced"))),
        ('""  "  "', TextQuery()),
        ("lis* *bon * **", TextQuery(words=("*bon",), prefixes=("lis",))),
        (
            "AND -not NEAR(a b) title:x ^ 🎉",
            TextQuery(words=("AND", "-not", "NEAR(a", "b)", "title:x", "^", "🎉")),
        ),
        ("a\0b \ud800 c", TextQuery(words=("a", "b", "c"))),
    ],
)
def test_parse_query(typed: str, expected: TextQuery) -> None:
    assert parse_query(typed) == expected


@given(st.text(st.characters(exclude_categories=())) | st.text('"* \0a\ud800\u201c', max_size=12))
def test_no_typed_text_is_an_error(typed: str) -> None:
    """Whatever is typed, what comes out can be stored and sent."""
    query = parse_query(typed)
    for part in (*query.words, *query.phrases, *query.prefixes):
        assert part
        assert "\0" not in part
        part.encode()
