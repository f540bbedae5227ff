"""TXT-1 on the driver: the index always follows the records."""

import pytest

from polymem.contracts.filter import F
from polymem.contracts.text import Document, TextCollection, TextDriver, TextHit, TextQuery
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageDataError

pytestmark = pytest.mark.anyio
NOTES = TextCollection("notes")


@pytest.fixture
async def text(engine: MemoryEngine) -> TextDriver:
    driver = engine.drivers("").text
    assert driver is not None
    texts = {"1": "the cat sat", "2": "a dog runs fast", "3": "dogs and cats run, a fast dog"}
    await driver.put_many(NOTES, [Document(id_, {"text": body}, {"n": int(id_)}) for id_, body in texts.items()])
    return driver


async def search(text: TextDriver, query: TextQuery, **options: object) -> list[TextHit]:
    chosen = {"limit": 9, "offset": 0, "where": None, "highlight": None, **options}
    return await text.search(NOTES, query, **chosen)  # type: ignore[arg-type]


async def ids(text: TextDriver, query: TextQuery, **options: object) -> list[str]:
    return [hit.id for hit in await search(text, query, **options)]


async def test_search_follows_every_write(text: TextDriver) -> None:
    assert await ids(text, TextQuery(words=("dogs",))) == ["3", "2"]
    assert await ids(text, TextQuery(words=("dogs",)), limit=1, offset=1) == ["2"]
    assert await ids(text, TextQuery(words=("dogs",)), where=F("n") == 2) == ["2"]
    assert await ids(text, TextQuery(phrases=("fast dog",))) == ["3"]
    assert await ids(text, TextQuery(prefixes=("sa",))) == ["1"]
    await text.put_many(NOTES, [Document("1", {"text": "a saddle"}, {})])
    assert await ids(text, TextQuery(words=("sat",))) == []
    assert await ids(text, TextQuery(prefixes=("sad",))) == ["1"], "words written after the first prefix are known"
    assert await text.delete_many(NOTES, ["3", "3", "none"]) == 1
    assert await ids(text, TextQuery(words=("dogs",))) == ["2"]
    assert await text.frequencies(NOTES, ["running", "cats", "..."]) == (
        2,
        {"running": 1, "cats": 0, "...": 0},
    )
    assert await ids(text, TextQuery(phrases=("...",))) == []


async def test_weights_and_common_words(text: TextDriver) -> None:
    await text.put_many(NOTES, [Document("4", {"title": "cat"}, {})])
    assert await ids(text, TextQuery(words=("cat",), weights=(("text", 0.0),))) == ["4"]
    assert await ids(text, TextQuery(words=("dog", "sat"), common=0.3)) == ["1"]


async def test_highlights(text: TextDriver) -> None:
    [hit] = await search(text, TextQuery(words=("cat",), phrases=("fast dog",)), highlight=("<", ">"))
    assert hit.highlights == {"text": "dogs and <cats> run, a <fast> <dog>"}
    [hit] = await search(text, TextQuery(prefixes=("sa",)), highlight=("<", ">"))
    assert hit.highlights == {"text": "the cat <sat>"}
    assert (await search(text, TextQuery(words=("cat",))))[0].highlights == {}
    await text.put_many(NOTES, [Document("z", {"text": "我喜欢猫"}, {})])
    [hit] = await search(text, TextQuery(words=("喜欢猫",)), highlight=("<", ">"))
    assert hit.highlights == {"text": "我<喜欢猫>"}


async def test_the_first_write_fixes_the_language(text: TextDriver) -> None:
    german = TextCollection("notes", "german")
    for call in (text.count(german, where=None), text.put_many(german, []), text.clear(german)):
        with pytest.raises(StorageDataError) as caught:
            await call
        assert caught.value.field == "language"
    with pytest.raises(StorageDataError):
        await text.put_many(TextCollection("other", "klingon"), [Document("a", {"text": "x"}, {})])
    assert await text.clear(NOTES) == 3
    assert await text.count(german, where=None) == 0
    assert await text.frequencies(german, ["x"]) == (0, {"x": 0})


async def test_documents_are_detached_and_paged(text: TextDriver) -> None:
    read = (await text.get_many(NOTES, ["1", "none"]))["1"]
    read.fields["text"] = "changed"
    read.payload["n"] = 0
    page = await text.page(NOTES, None, 2, where=None)
    assert page.items[0] == Document("1", {"text": "the cat sat"}, {"n": 1})
    assert page.after == "2"
    assert [d.id for d in (await text.page(NOTES, "1", 9, where=F("n") >= 2)).items] == ["2", "3"]
    assert await text.count(NOTES, where=F("n") >= 2) == 2
