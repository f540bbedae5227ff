"""Files of earlier versions: texts whose tokens have an older format (REL-1)."""

import logging
from pathlib import Path

import apsw
import pytest
from conftest import NewStore

from polymem.engines.sqlite import _renewal
from polymem.errors import StorageCorruptError
from polymem.indexes import tokens
from polymem.indexes.analyzer import Analyzer, term_hash

pytestmark = pytest.mark.anyio
TEXTS = {f"t{n}": f"Ada has seen {n} running dogs" for n in range(7)}


@pytest.fixture
async def old_file(path: Path, new_store: NewStore, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Written by a version whose analysis was another: it neither folded nor stemmed."""
    with monkeypatch.context() as earlier:
        earlier.setattr(Analyzer, "hashes", lambda _, text: b"".join(map(term_hash, text.split())))
        async with new_store(path) as store:
            await store.text("t").put_many(TEXTS.items())
            await store.text("t").put("empty", {"title": "", "body": ""})
            await store.namespace("acme").text("t", language="french").put("a", "les chevaux")
            assert await store.text("t").search("dog") == []
    monkeypatch.setattr(tokens, "FORMAT", 2)
    monkeypatch.setattr(_renewal, "_ROWS", 3)
    return path


def formats(path: Path) -> list[int]:
    connection = apsw.Connection(str(path))
    found = [blob[0] for (blob,) in connection.execute("select tokens from pm_texts order by rowid")]
    connection.close()
    return found


async def test_an_older_file_is_searched_as_a_new_one(
    old_file: Path, new_store: NewStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "polymem.sqlite"):
        async with new_store(old_file) as store:
            assert {hit.id for hit in await store.text("t").search("dog")} == TEXTS.keys()
            french = store.namespace("acme").text("t", language="french")
            assert [hit.id for hit in await french.search("cheval")] == ["a"]
            assert await store.text("t").count() == len(TEXTS) + 1
    said = [record.getMessage() for record in caplog.records if record.name == "polymem.sqlite"]
    assert said == [f"encoded {n} of 9 texts anew for this version's search" for n in (3, 6, 9)]
    assert formats(old_file) == [2] * 9


async def test_it_is_done_once(old_file: Path, new_store: NewStore, caplog: pytest.LogCaptureFixture) -> None:
    async with new_store(old_file):
        pass
    caplog.clear()
    with caplog.at_level(logging.INFO, "polymem.sqlite"):
        async with new_store(old_file) as store:
            assert await store.text("t").search("dog") != []
    assert [record for record in caplog.records if record.name == "polymem.sqlite"] == []


async def test_an_interrupted_renewal_goes_on(
    old_file: Path, new_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, left, seen = tokens.encode_tokens, [5], list[str]()

    def break_down(analyzer: Analyzer, fields: dict[str, str]) -> bytes:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return encode(analyzer, fields)

    def count(analyzer: Analyzer, fields: dict[str, str]) -> bytes:
        seen.append(" ".join(fields.values()))
        return encode(analyzer, fields)

    with monkeypatch.context() as short:
        short.setattr(tokens, "encode_tokens", break_down)
        with pytest.raises(KeyboardInterrupt):
            await new_store(old_file).open()
    assert formats(old_file) == [2] * 3 + [1] * 6
    monkeypatch.setattr(tokens, "encode_tokens", count)
    async with new_store(old_file) as store:
        assert len(seen) == 6
        assert {hit.id for hit in await store.text("t").search("dog")} == TEXTS.keys()


async def test_texts_indexed_by_a_newer_version_are_refused(
    old_file: Path, new_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_store(old_file):
        pass
    monkeypatch.setattr(tokens, "FORMAT", 1)
    with pytest.raises(StorageCorruptError, match="upgrade polymem") as caught:
        await new_store(old_file).open()
    assert caught.value.field == "url"
    assert formats(old_file) == [2] * 9
