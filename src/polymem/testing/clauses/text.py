"""Ranked text: what each operation does (TXT-1)."""

import asyncio
from copy import deepcopy
from typing import Any, Final

from polymem.contracts.text import Document, Text, TextHit, TextQuery
from polymem.errors import StorageDataError
from polymem.testing.clause import clause
from polymem.testing.clauses.names import VALUES
from polymem.testing.expect import listed, refused, same
from polymem.testing.kit import Kit

_POEM: Final = {
    "lisbon": "Ada moved to Lisbon in spring, and Lisbon welcomed her",
    "porto": "Ben moved to Porto in the winter of a cold year",
    "dogs": "The dogs were running along the river; a dog barked",
    "cafe": "They met at the caf\u00e9 by the river every Sunday",
    "empty": "",
}


def _ids(hits: list[TextHit]) -> list[str]:
    return [hit.id for hit in hits]


async def _poem(kit: Kit) -> Text:
    text = kit.store.text("poem")
    await text.put_many(list(_POEM.items()))
    return text


@clause("text")
async def put_and_get(kit: Kit) -> None:
    """A document comes back with its fields and payload, whichever form it was given in."""
    text = kit.store.text("t")
    await text.put("a", "one text", {"n": [None]})
    await text.put_many([("b", {"title": "T", "body": ""}), {"id": "c", "text": ""}])
    assert await text.get("a") == Document("a", {"text": "one text"}, {"n": [None]})
    found = await text.get_many(["b", "c", "d"])
    assert found == {"b": Document("b", {"title": "T", "body": ""}, {}), "c": Document("c", {"text": ""}, {})}
    assert await text.exists("a")
    assert await text.count() == 3
    assert [document.id async for document in text.scan()] == ["a", "b", "c"]


@clause("text")
async def absent(kit: Kit) -> None:
    """An unknown collection reads as empty, an unknown id as None."""
    text = kit.store.text("t")
    assert await text.get("a") is None
    assert not await text.exists("a")
    assert not await text.delete("a")
    assert await text.get_many(["a"]) == {}
    assert await text.search("word") == []
    assert await listed(text.scan()) == []
    assert await text.count() == await text.clear() == await text.delete_many(["a"]) == 0
    total, counts = await text.frequencies(["word"])
    assert total == 0
    assert dict(counts) == {"word": 0}


@clause("text")
async def finds_by_word(kit: Kit) -> None:
    """Any of the words is enough; a document without one is no hit; scores fall and are above 0."""
    text = await _poem(kit)
    assert _ids(await text.search("Lisbon")) == ["lisbon"]
    assert set(_ids(await text.search("Lisbon Porto"))) == {"lisbon", "porto"}
    assert await text.search("Madrid") == []
    hits = await text.search("moved river Lisbon")
    assert hits[0].id == "lisbon"
    assert hits[0].fields == {"text": _POEM["lisbon"]}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.score > 0 for hit in hits)


@clause("text")
async def stems_and_folds(kit: Kit) -> None:
    """English: word forms, upper case and accents do not matter."""
    text = await _poem(kit)
    for query in ("dog", "DOGS", "barking", "run", "runs"):
        assert _ids(await text.search(query)) == ["dogs"], query
    for query in ("cafe", "caf\u00e9", "cafe\u0301", "CAF\u00c9S"):
        assert _ids(await text.search(query)) == ["cafe"], query


@clause("text")
async def ranks_by_bm25(kit: Kit) -> None:
    """Rare words count more than frequent ones, repeated words more than single ones, short texts more than long."""
    text = kit.store.text("t")
    await text.put_many([(f"filler{n}", "common words here") for n in range(20)])
    await text.put_many([("rare", "zebra alone here"), ("often", "common common common")])
    assert _ids(await text.search("common zebra"))[:2] == ["rare", "often"]
    await text.put_many([("short", "giraffe"), ("long", "giraffe " + "padding " * 50)])
    assert _ids(await text.search("giraffe")) == ["short", "long"]


@clause("text")
async def ties_by_id(kit: Kit) -> None:
    """Equal documents come in order of id, whatever limit and offset."""
    text, names = kit.store.text("t"), ["b", "a", "C", "\u00e9", "10", "9", "\U0001f600", "\uffff"]
    await text.put_many([(name, "the same word") for name in names])
    for limit in range(4):
        for offset in range(9):
            hits = await text.search("word", limit=limit, offset=offset)
            assert _ids(hits) == sorted(names)[offset : offset + limit]


@clause("text", needs=lambda f: f.phrases)
async def phrases(kit: Kit) -> None:
    """A phrase needs its words next to each other and in order, within one field; each phrase must be there."""
    text = kit.store.text("t")
    await text.put_many([
        ("a", "the quick brown fox"), ("b", "the brown quick fox"), ("c", "quick and brown"),
        ("d", {"one": "quick", "two": "brown"}), ("e", "a quick brown dog and a red fox"),
    ])  # fmt: skip
    assert set(_ids(await text.search('"quick brown"'))) == {"a", "e"}
    assert _ids(await text.search('"quick brown" "red fox"')) == ["e"]
    assert await text.search('"fox quick"') == []
    assert set(_ids(await text.search('"quick brown" fox'))) >= {"a", "e"}


@clause("text", needs=lambda f: f.prefixes)
async def prefixes(kit: Kit) -> None:
    """word* finds words that begin so."""
    text = kit.store.text("t")
    await text.put_many([("a", "telephone"), ("b", "television"), ("c", "intel"), ("d", "tel")])
    assert set(_ids(await text.search("tel*"))) == {"a", "b", "d"}
    assert set(_ids(await text.search("telev*"))) == {"b"}
    assert set(_ids(await text.search("TELEP* intel"))) == {"a", "c"}
    assert await text.search("xyz*") == []


@clause("text")
async def field_weights(kit: Kit) -> None:
    """A weight makes a field count more or less; with 0 it is not searched."""
    text = kit.store.text("t")
    await text.put_many([
        ("a", {"title": "apple", "body": "pear pear"}), ("b", {"title": "pear", "body": "apple apple"}),
        ("c", {"title": "plum", "body": "plum"}),
    ])  # fmt: skip
    assert _ids(await text.search("apple", weights={"title": 10}))[0] == "a"
    assert _ids(await text.search("apple", weights={"title": 0.1, "body": 5}))[0] == "b"
    assert _ids(await text.search("apple", weights={"title": 0})) == ["b"]
    assert await text.search("apple", weights={"title": 0, "body": 0}) == []
    assert len(await text.search("apple", weights={"nonsense": 3})) == 2


@clause("text")
async def highlights(kit: Kit) -> None:
    """The words that matched are marked in the fields where they are, the rest of the text is as it was."""
    text = await _poem(kit)
    hit = (await text.search("lisbon moving", highlight=("[", "]")))[0]
    assert dict(hit.highlights) == {"text": "Ada [moved] to [Lisbon] in spring, and [Lisbon] welcomed her"}
    await text.put("two", {"title": "a zebra", "body": "no match here"})
    hit = (await text.search("zebra", highlight=("<b>", "</b>")))[0]
    assert dict(hit.highlights) == {"title": "a <b>zebra</b>"}
    assert dict((await text.search("zebra"))[0].highlights) == {}


@clause("text")
async def filters_come_first(kit: Kit) -> None:
    """Limit and offset count what satisfies `where`; its scores are those of the whole collection."""
    text = kit.store.text("t")
    await text.put_many([(f"{n:03}", "word " * (n + 1), {"n": n}) for n in range(40)])
    every = {hit.id: hit.score for hit in await text.search("word", limit=100)}
    hits = await text.search("word", where={"n": {"lt": 3}})
    assert sorted(_ids(hits)) == ["000", "001", "002"]
    assert all(hit.score == every[hit.id] for hit in hits)
    assert await text.search("word", where={"n": 99}) == []
    assert await text.count(where={"n": {"ge": 30}}) == 10
    assert [document.id async for document in text.scan(where={"n": {"in": [5, 6]}})] == ["005", "006"]


@clause("text")
async def common_words_are_dropped(kit: Kit) -> None:
    """`common` leaves out words of more than that share of the documents while a rarer one is left."""
    text = kit.store.text("t")
    await text.put_many([(f"{n:02}", "everywhere" + (" seldom" if n == 7 else "")) for n in range(10)])
    assert _ids(await text.search(TextQuery(words=("everywhere", "seldom"), common=0.5))) == ["07"]
    assert len(await text.search(TextQuery(words=("everywhere", "seldom")), limit=99)) == 10
    assert len(await text.search(TextQuery(words=("everywhere",), common=0.5), limit=99)) == 10


@clause("text")
async def frequencies_by_stem(kit: Kit) -> None:
    """Frequencies counts documents that hold any form of a word, under the word as it was given."""
    text = await _poem(kit)
    total, counts = await text.frequencies(["dog", "Dogs", "river", "moved", "moving", "nothing"])
    assert total == 5
    assert dict(counts) == {"dog": 1, "Dogs": 1, "river": 2, "moved": 2, "moving": 2, "nothing": 0}


@clause("text")
async def replaced_and_deleted_words_are_gone(kit: Kit) -> None:
    """No word of a replaced, deleted or cleared document is found or counted any more."""
    text = kit.store.text("t")
    await text.put_many([("a", "alpha"), ("b", "beta"), ("c", "gamma")])
    await text.put("a", "delta")
    assert await text.search("alpha") == []
    assert _ids(await text.search("delta")) == ["a"]
    assert await text.delete("b")
    assert not await text.delete("b")
    assert await text.search("beta") == []
    total, counts = await text.frequencies(["alpha", "beta", "delta"])
    assert total == 2
    assert dict(counts) == {"alpha": 0, "beta": 0, "delta": 1}
    assert await text.delete_many(["a", "a", "b"]) == 1
    assert await text.clear() == 1
    assert await text.search("gamma") == []
    assert await text.count() == 0


@clause("text")
async def scores_ignore_history(kit: Kit) -> None:
    """What was replaced or deleted leaves no trace in the scores."""
    fresh, used = kit.store.text("fresh"), kit.store.text("used")
    await used.put_many([(f"x{n}", "river river old words") for n in range(30)])
    await used.put_many([(name, "something else about a river") for name in _POEM])
    await used.delete_many([f"x{n}" for n in range(30)])
    for text in (fresh, used):
        await text.put_many(list(_POEM.items()))
    for query in ("river", "moved to the river", "dog lisbon"):
        assert await fresh.search(query) == await used.search(query)


@clause("text")
async def scores_ignore_other_namespaces(kit: Kit) -> None:
    """Data of other namespaces and collections changes neither hits nor scores, not in the last digit (G-10)."""
    text = await _poem(kit)
    before = [await text.search(query) for query in ("river", "moved lisbon", "every dog")]
    for other in (kit.store.namespace("a").text("poem"), kit.store.text("other"), kit.store.text("Poem")):
        await other.put_many([(f"{n}", "river lisbon dog " * n) for n in range(1, 40)])
    assert [await text.search(query) for query in ("river", "moved lisbon", "every dog")] == before
    total, counts = await text.frequencies(["river"])
    assert (total, counts["river"]) == (5, 2)


@clause("text", needs=lambda f: "german" in f.languages)
async def a_collection_keeps_its_language(kit: Kit) -> None:
    """Another language than the first write's is refused by every operation; each has its own stems."""
    await kit.store.text("t", language="german").put("a", "die H\u00e4user der Stadt")
    assert _ids(await kit.store.text("t", language="german").search("Haus")) == ["a"]
    other = kit.store.text("t")
    for call in (other.put("b", "x"), other.search("x"), other.get("a"), other.delete("a"), other.count()):
        with refused(StorageDataError, field="language"):
            await call
    await kit.store.text("t", language="german").clear()
    await other.put("a", "the houses")
    assert _ids(await other.search("house")) == ["a"]


@clause("text", needs=lambda f: "trigram" in f.languages)
async def trigrams(kit: Kit) -> None:
    """The trigram option finds parts of words, in any script."""
    text = kit.store.text("t", language="trigram")
    await text.put_many([("a", "unbelievable"), ("b", "\u6771\u4eac\u90fd\u5e81"), ("c", "nothing")])
    assert _ids(await text.search("believ")) == ["a"]
    assert _ids(await text.search("\u4eac\u90fd\u5e81")) == ["b"]


@clause("text")
async def payloads_and_fields_are_lossless(kit: Kit) -> None:
    """Any text and any JSON beside it come back as they are."""
    text, payload = kit.store.text("t"), {f"{n}": value for n, value in enumerate(VALUES)}
    fields = {"a": "x\ty\n\u2028 zebra", "B": "\U0001f600\u0301 ' \" <b> %_*", "c_1": "", "d-e": "word " * 60_000}
    await text.put("a", fields, payload)
    for document in (await text.get("a"), *await listed(text.scan()), *await text.search("zebra")):
        assert document is not None
        assert document.fields == fields
        assert same(document.payload, payload)


@clause("text")
async def a_written_document_is_found_at_once(kit: Kit) -> None:
    """Search sees every acknowledged write, whichever task made it."""
    text = kit.store.text("t")

    async def work(number: int) -> None:
        await text.put(f"{number:02}", f"word{number} shared")
        assert _ids(await text.search(f"word{number}")) == [f"{number:02}"]
        if number % 2:
            await text.delete(f"{number:02}")
            assert await text.search(f"word{number}") == []

    await kit.together(work)
    assert _ids(await text.search("shared", limit=99)) == [f"{n:02}" for n in range(0, 16, 2)]


@clause("text", uses=["shared"])
async def the_other_instance_searches_it(kit: Kit) -> None:
    """So does search through another instance, after puts, replacements, deletes and clear; the scores agree."""
    text = await _poem(kit)
    other = (await kit.second()).text("poem")
    assert await other.search("river dog") == await text.search("river dog")
    await other.put("dogs", "only cats")
    assert _ids(await text.search("cat")) == ["dogs"]
    assert await text.search("barked") == []
    await text.delete("cafe")
    assert await other.search("river") == []
    await other.clear()
    assert await text.search("lisbon") == []


@clause("text")
async def batches_are_whole(kit: Kit) -> None:
    """A cancelled put_many is there whole or not at all, in count and in search."""
    text = kit.store.text("t")
    for pauses in range(4):
        await text.clear()
        task = asyncio.create_task(text.put_many([(f"{n}", "word") for n in range(50)]))
        for _ in range(pauses):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await text.put("x", "word")
        assert await text.count() in (1, 51)
        assert len(await text.search("word", limit=99)) == await text.count()


@clause("text")
async def input_is_not_mutated(kit: Kit) -> None:
    """Fields and payloads come back untouched; later changes to them, or to what was read, change nothing (G-3)."""
    text, fields, payload = kit.store.text("t"), {"a": "one"}, {"n": [1]}
    before: Any = deepcopy((fields, payload))
    await text.put_many([("a", fields, payload)])
    assert (fields, payload) == before
    fields["a"] = "changed"
    payload["n"].append(2)
    for _ in range(2):
        document = await text.get("a")
        hit = (await text.search("one"))[0]
        assert document is not None
        assert (document.fields, document.payload) == before
        assert (hit.fields, hit.payload) == before
        document.fields["a"] = hit.fields["a"] = "changed"
        document.payload["n"].append(3)
        hit.payload["n"].append(3)


@clause("text", needs=lambda f: f.durable)
async def survives_reopening(kit: Kit) -> None:
    """Documents, hits and scores are the same after closing and opening."""
    text = await _poem(kit)
    await text.delete("cafe")
    before = [await text.search(query, highlight=("[", "]")) for query in ("river", "moved lisbon")]
    text = (await kit.reopen()).text("poem")
    assert [await text.search(query, highlight=("[", "]")) for query in ("river", "moved lisbon")] == before
    assert await text.count() == 4
