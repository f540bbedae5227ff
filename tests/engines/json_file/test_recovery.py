"""KV-6: damaged and foreign files are reported and never destroyed; the last good copy recovers damaged ones."""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from polymem.core.clock import ManualClock
from polymem.engines.json_file._datafile import DataFile
from polymem.errors import StorageCorruptError, StorageError
from polymem.store import Store

from .conftest import NewStore

pytestmark = pytest.mark.anyio


async def everything(store: Store) -> dict[str, object]:
    return {entry.key: entry.value async for entry in store.kv.entries()}


@pytest.fixture
async def content(new_store: NewStore) -> dict[str, object]:
    """What two good files, the data and its copy, hold."""
    async with new_store() as store:
        await store.kv.put_many({f"{n}": {"n": n} for n in range(20)})
        await store.kv.put("last", "acknowledged")
        return await everything(store)


def damage(path: Path) -> Iterator[tuple[str, bytes]]:
    """Torn writes and other accidents."""
    good, chance = path.read_bytes(), random.Random(3)  # noqa: S311
    yield "empty", b""
    for end in sorted(chance.randrange(1, len(good) - 2) for _ in range(20)):
        yield f"cut at {end}", good[:end]
        yield f"zeros from {end}", good[:end] + bytes(len(good) - end)
    yield "a block of zeros", good[:512] + bytes(512) + good[1024:]
    yield "zeros at the start", bytes(512) + good[512:]
    yield "garbage", chance.randbytes(1000)
    yield "not UTF-8", good.replace(b"acknowledged", b"acknow\xffedged")
    yield "twice", good + good
    yield "a misspelt field", good.replace(b"updated_at", b"update_at", 1)


class TestDamaged:
    async def test_the_copy_recovers(
        self, new_store: NewStore, path: Path, content: dict[str, object], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nothing acknowledged is lost after a clean close; the damaged file is kept, a warning and check tell."""
        for number, (what, damaged) in enumerate(list(damage(path)), 1):
            path.write_bytes(damaged)
            caplog.clear()
            async with new_store() as store:
                assert await everything(store) == content, what
                health = await store.check()
                assert health.ok, what
                kept = path.with_name(f"data.json.damaged-{number}")
                assert kept.read_bytes() == damaged, what
                assert str(kept) in health.details["set_aside"]
                assert "recovered" in health.details["notes"][0]
                assert str(kept) in health.details["notes"][0]
            assert [r.levelname for r in caplog.records if r.name == "polymem.json_file"] == ["WARNING"], what

    async def test_a_missing_file(self, new_store: NewStore, path: Path, content: dict[str, object]) -> None:
        path.unlink()
        async with new_store() as store:
            assert await everything(store) == content
            assert path.exists()
            assert "is missing" in (await store.check()).details["notes"][0]

    async def test_without_a_copy(self, new_store: NewStore, path: Path, copy: Path, content: object) -> None:
        """An error names the file, which is left byte for byte as it is."""
        copy.unlink()
        for what, damaged in list(damage(path)):
            path.write_bytes(damaged)
            before = path.stat()
            with pytest.raises(StorageCorruptError, match=str(path)):
                await new_store()
            assert path.read_bytes() == damaged, what
            assert path.stat().st_mtime_ns == before.st_mtime_ns
            assert [p.name for p in path.parent.iterdir()] == ["data.json"]

    @pytest.mark.parametrize("bad", [b"", b"{", b'{"other": 1}'])
    @pytest.mark.parametrize("present", [True, False])
    async def test_with_a_bad_copy(
        self, new_store: NewStore, path: Path, copy: Path, content: object, bad: bytes, present: bool
    ) -> None:
        """Neither is touched; in particular a missing file with a bad copy is not taken for a new one."""
        path.write_bytes(b"damaged") if present else path.unlink()
        copy.write_bytes(bad)
        with pytest.raises(StorageCorruptError, match="no good copy"):
            await new_store()
        assert copy.read_bytes() == bad
        assert (path.read_bytes() if path.exists() else None) == (b"damaged" if present else None)

    async def test_a_copy_of_the_save_before(self, new_store: NewStore, path: Path, copy: Path) -> None:
        """Without a clean close the copy is one save older; what it lacks is told, not hidden."""
        async with new_store() as store:
            await store.kv.put("a", 1)
            await store.kv.put("a", 2)
            older, newer = copy.read_bytes(), path.read_bytes()
        assert older != newer
        path.write_bytes(newer[:-10])
        copy.write_bytes(older)
        async with new_store() as store:
            assert await everything(store) == {"a": 1}
            assert "may lack the last writes" in (await store.check()).details["notes"][0]


class TestForeign:
    """Somebody else's file is not recovered over, copy or not."""

    @pytest.mark.parametrize("with_copy", [True, False])
    @pytest.mark.parametrize("foreign", [b'{"name": "app", "version": "1.0.0"}', b"[1, 2, 3]", b'"text"', b"17"])
    async def test_refused(
        self, new_store: NewStore, path: Path, copy: Path, content: object, foreign: bytes, with_copy: bool
    ) -> None:
        if not with_copy:
            copy.unlink()
        path.write_bytes(foreign)
        names = sorted(p.name for p in path.parent.iterdir())
        with pytest.raises(StorageCorruptError, match=f"{path}.*another application"):
            await new_store()
        assert path.read_bytes() == foreign
        assert sorted(p.name for p in path.parent.iterdir()) == names

    async def test_newer(self, new_store: NewStore, path: Path, content: object) -> None:
        newer = path.read_bytes().replace(b'"format_version": 1', b'"format_version": 2')
        path.write_bytes(newer)
        with pytest.raises(StorageCorruptError, match="upgrade polymem"):
            await new_store()
        assert path.read_bytes() == newer

    async def test_it_can_be_opened_when_it_is_put_right(
        self, new_store: NewStore, path: Path, content: object
    ) -> None:
        """A refusal leaves no lock behind."""
        good = path.read_bytes()
        path.write_bytes(b"[]")
        store = new_store()
        for _ in range(2):
            with pytest.raises(StorageCorruptError):
                await store.open()
        path.write_bytes(good)
        async with store:
            assert await everything(store) == content


# --- a power cut at every system call -----------------------------------------------------------------------------


class Died(BaseException):
    """The machine is off."""


class Power:
    """Counts the system calls of a save and ends everything at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, links: bool) -> None:
        self.left = 10**9
        for name in ("open", "fsync", "link", "replace", "unlink"):
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name), links=links))

    def _counted(self, name: str, real: object, *, links: bool) -> object:
        def call(*args: object, **kwargs: object) -> object:
            self.left -= 1
            if self.left <= 0:
                raise Died
            if name == "link" and not links:
                raise OSError(errno.EPERM, "no hard links here")
            return real(*args, **kwargs)  # type: ignore[operator]

        return call


@pytest.mark.parametrize("links", [True, False])
def test_death_at_any_call_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """Whatever was saved before is there afterwards, and of the save itself everything or nothing.

    Without hard links there is a moment with a copy and no file: then the copy, complete, is recovered.
    """
    from polymem.contracts.kv import Record  # noqa: PLC0415

    old, new = ({"": {"a": Record(body, "json", 1, 0, 0, None)}} for body in (b"1", b"2"))
    outcomes = set()
    for calls in range(1, 40):
        folder = tmp_path / f"{calls}"
        folder.mkdir()
        file = DataFile(folder / "data.json", ManualClock())
        file.open()
        file.write({})
        file.write(old)
        with monkeypatch.context() as patched:
            power = Power(patched, links=links)
            power.left = calls
            try:
                file.write(new)
                died = False
            except Died:
                died = True
        os.close(file._lock._descriptor)  # as the system does for a dead process
        again = DataFile(folder / "data.json", ManualClock())
        found = again.open()
        assert found in ((old, new) if died else (new,)), calls
        assert bool(again.notes) <= (not links)
        outcomes.add((died, found == new))
        again.write({"": {}})
        again.close()
    assert outcomes == {(True, False), (True, True), (False, True)}


async def test_a_failed_recovery_can_be_repeated(
    new_store: NewStore, path: Path, content: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk while recovering leaves both files as they are."""
    path.write_bytes(b"damaged")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError):
            await new_store()
    assert path.read_bytes() == b"damaged"
    async with new_store() as store:
        assert await everything(store) == content
    assert len(list(path.parent.glob("*.damaged-*"))) == 1
