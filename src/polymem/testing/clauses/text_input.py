"""Ranked text: bad input is refused by name; what a user typed is never bad input (G-2, TXT-1)."""

from typing import Any, Final

from polymem.contracts.text import TextQuery
from polymem.errors import StorageDataError, StorageUnsupportedError
from polymem.testing.clause import clause
from polymem.testing.clauses.names import HOSTILE, NOT_TEXT, TOO_LONG
from polymem.testing.expect import listed, refused
from polymem.testing.kit import Kit

_TYPED: Final = (
    "", " ", '"', '""', '" "', '"a', 'a"b"c', "*", "**", "a*b", "-a", "+a", "a AND", "AND OR NOT", "NEAR(a b)", "NEAR/2",
    "(", ")", "((a)", "a:b", "text:a", "{a}", "^a", "a^2", "a~1", "[a TO b]", "\\", "a\\", "'", "; drop table x", "%", "_",
    "a || b", "a && b", "!", "!a", "\x00", "a\x00b", "\ud800", "\U0001f600", "\u201cquick\u201d", "\u0301", "\n\t",
    "the of and", '"the"', "the*", "x" * 10_000, "word " * 2000, '"' * 501, "c++", "a.b.c", "e-mail", "don't", "1,000",
)  # fmt: skip


@clause("text")
async def no_query_is_a_syntax_error(kit: Kit) -> None:
    """Whatever a user types is searched for, and finds something or nothing (TXT-1)."""
    text = kit.store.text("t")
    await text.put_many(
        [(f"{number}", typed.replace("\x00", "").replace("\ud800", "")) for number, typed in enumerate(_TYPED)]
    )
    features = text.features
    for query in (*_TYPED, *HOSTILE):
        if ("*" in query and not features.prefixes) or ('"' in query and not features.phrases):
            continue
        hits = await text.search(query, limit=3, highlight=("<", ">"))
        assert len(hits) <= 3
    assert await text.search("") == await text.search("   ") == await text.search('""') == []


@clause("text")
async def bad_queries(kit: Kit) -> None:
    """What is not text or a TextQuery, or a query whose parts make no sense, is refused by its name."""
    text: Any = kit.store.text("t")
    for query in (None, 1, b"a", ["a"], {"words": ["a"]}):
        with refused(StorageDataError, field="query"):
            await text.search(query)
    bad: Any = [
        ("words", "ab"),
        ("words", (1,)),
        ("phrases", None),
        ("prefixes", ("\x00",)),
        ("common", 0),
        ("common", 1.5),
    ]
    for name, value in bad:
        with refused(StorageDataError, field=f"query.{name}"):
            await text.search(TextQuery(**{name: value}))
    for words in ("ab", None, 1, [1], ["\x00"]):
        with refused(StorageDataError, field="words"):
            await text.frequencies(words)


@clause("text")
async def bad_options(kit: Kit) -> None:
    """limit, offset, weights, highlight and where are refused by their names, also where nothing is stored."""
    text: Any = kit.store.text("t")
    for number in (-1, 1.5, "1", None, True):
        for field in ("limit", "offset"):
            with refused(StorageDataError, field=field):
                await text.search("a", **{field: number})
    for weights in (
        1,
        "a",
        {"a": -1},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": "1"},
        {"a b": 1},
        {1: 1},
        {"a": True},
    ):
        with refused(StorageDataError, field="weights"):
            await text.search("a", weights=weights)
    for highlight in ("ab", ("a",), ("a", "b", "c"), ("a", 1), ("\x00", "a"), ["a", "b"], 1):
        with refused(StorageDataError, field="highlight"):
            await text.search("a", highlight=highlight)
    for where in ("a", 1, [1], {"a": {"like": "x"}}, {1: 2}):
        for call in (text.search("a", where=where), text.count(where=where)):
            with refused(StorageDataError, field="where"):
                await call
        with refused(StorageDataError, field="where"):
            await listed(text.scan(where=where))


@clause("text")
async def bad_documents(kit: Kit) -> None:
    """Ids, texts, field names and payloads are checked; one bad document stops the batch."""
    text: Any = kit.store.text("t")
    for id in (*NOT_TEXT, *TOO_LONG):
        for call in (
            lambda i: text.put(i, "x"),
            text.get,
            text.delete,
            lambda i: text.put_many([("a", "x"), (i, "x")]),
        ):
            with refused(StorageDataError, field="id"):
                await call(id)
    for content in (None, 1, b"x", [], ["x"], {}, {"a": 1}, {"a b": "x"}, {"": "x"}, {1: "x"}, "\x00", {"a": "\ud800"}):
        with refused(StorageDataError, field="text"):
            await text.put_many([("a", "x"), ("b", content)])
    for payload in ("a", [1], {"a": float("nan")}, {1: 2}, {"a": "\x00"}):
        with refused(StorageDataError, field="payload"):
            await text.put_many([("a", "x"), ("b", "x", payload)])
    for documents in (
        "ab",
        None,
        1,
        {"id": "a"},
        ["a"],
        [("a",)],
        [{"id": "a"}],
        [{"id": "a", "text": "x", "extra": 1}],
    ):
        with refused(StorageDataError, field="documents"):
            await text.put_many(documents)
    for several in ("ab", None, 1):
        with refused(StorageDataError, field="ids"):
            await text.get_many(several)
    assert await text.count() == 0


@clause("text")
async def bad_collections(kit: Kit) -> None:
    """Names are plain; a language the engine lacks is named by the error, which lists those there are."""
    make: Any = kit.store.text
    for name in ("", "a b", "1a", "a'", None, 1, "x" * 64, "\u00e9"):
        with refused(StorageDataError, field="name"):
            make(name)
    with refused(StorageUnsupportedError, field="language"):
        make("t", language="klingon")
    for language in ("", 1, None, "a b"):
        with refused(StorageDataError, field="language"):
            make("t", language=language)
