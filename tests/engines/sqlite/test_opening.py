"""Which files are opened, whatever they are called, and which are refused and left as they were (G-8)."""

import os
import stat
from pathlib import Path

import apsw
import pytest
from conftest import NewStore
from engines.sqlite.threads_and_files import files_in, threads

from polymem.engines.sqlite import _file
from polymem.errors import (
    StorageConnectionError,
    StorageCorruptError,
    StorageError,
    StorageQueryError,
    StorageUnsupportedError,
)
from polymem.store import Store

pytestmark = pytest.mark.anyio


async def refusal(store: Store) -> StorageError:
    with pytest.raises(StorageError) as caught:
        await store.open()
    assert not threads()
    return caught.value


async def closed_file(new_store: NewStore, path: Path, keys: int = 200) -> bytes:
    async with new_store(path) as store:
        await store.kv.put_many({f"k{n}": "x" * 500 for n in range(keys)})
    return path.read_bytes()


async def refuses(new_store: NewStore, path: Path, content: bytes, kind: type[StorageError], match: str) -> None:
    path.write_bytes(content)
    error = await refusal(new_store(path))
    assert isinstance(error, kind)
    assert match in str(error)
    assert path.read_bytes() == content
    assert files_in(path.parent) == [path.name]


@pytest.mark.parametrize("content", [b"hello", b"\0" * 5000, b"SQLite format 2\0" + b"x" * 5000])
async def test_not_a_database(new_store: NewStore, path: Path, content: bytes) -> None:
    await refuses(new_store, path, content, StorageCorruptError, "not a SQLite database")


@pytest.mark.parametrize("kept", [16, 99, 107, 4096, 20_000, -1])
async def test_truncated(new_store: NewStore, path: Path, kept: int) -> None:
    content = (await closed_file(new_store, path))[:kept]
    await refuses(new_store, path, content, StorageCorruptError, "missing")


async def test_newer_format(new_store: NewStore, path: Path) -> None:
    content = bytearray(await closed_file(new_store, path))
    content[60:64] = (_file.FORMAT + 1).to_bytes(4)
    await refuses(new_store, path, bytes(content), StorageCorruptError, f"format {_file.FORMAT + 1}")


async def test_another_application(new_store: NewStore, path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("create table theirs(x)")
    connection.close()
    await refuses(new_store, path, path.read_bytes(), StorageCorruptError, "another application")


async def test_another_application_with_all_in_its_log(new_store: NewStore, path: Path) -> None:
    """The file alone looks new then."""
    connection = apsw.Connection(str(path))
    connection.execute("pragma journal_mode=wal").fetchall()
    connection.execute("create table theirs(x)")
    before = path.read_bytes()
    assert "another application" in str(await refusal(new_store(path)))
    assert path.read_bytes() == before
    assert connection.execute("select count(*) from theirs").get == 0
    connection.close()


async def test_read_only_file(new_store: NewStore, path: Path) -> None:
    """Even for root, whom the permission bits would not stop."""
    content = await closed_file(new_store, path)
    path.chmod(stat.S_IRUSR | stat.S_IRGRP)
    error = await refusal(new_store(path))
    assert isinstance(error, StorageQueryError)
    assert "read-only" in str(error)
    assert path.read_bytes() == content
    assert files_in(path.parent) == [path.name]


async def test_a_folder_or_pipe_in_place_of_the_file(new_store: NewStore, tmp_path: Path) -> None:
    assert isinstance(await refusal(new_store(tmp_path)), StorageConnectionError)
    os.mkfifo(tmp_path / "pipe")
    assert isinstance(await refusal(new_store(tmp_path / "pipe")), StorageConnectionError)


async def test_missing_folder(new_store: NewStore, tmp_path: Path) -> None:
    error = await refusal(new_store(tmp_path / "absent" / "agent.db"))
    assert isinstance(error, StorageConnectionError)
    assert "existing folder" in str(error)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
async def test_network_file_system(
    new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """SQLite's locks do not hold there; also when a link leads there and when the path has blanks."""
    remote, mounts = tmp_path / "far away", tmp_path / "mounts"
    remote.mkdir()
    (tmp_path / "link").symlink_to(remote)
    escaped = str(remote).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {escaped} {kind} rw 0 0\n")
    monkeypatch.setattr(_file, "_MOUNTS", mounts)
    for folder in (remote, tmp_path / "link"):
        error = await refusal(new_store(folder / "agent.db"))
        assert isinstance(error, StorageUnsupportedError)
        assert kind in str(error)
    assert files_in(remote) == []
    async with new_store(tmp_path / "near.db") as store:
        await store.kv.put("k", 1)


async def test_damaged_pages(new_store: NewStore, path: Path) -> None:
    """Damage inside is found when it is read, and by `check`; the file stays as it is."""
    content = bytearray(await closed_file(new_store, path, keys=2000))
    for page in range(40, len(content) // 4096):
        content[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    path.write_bytes(content)
    async with new_store(path) as store:
        with pytest.raises(StorageCorruptError):
            await store.kv.count()
        health = await store.check()
        assert not health.ok
        assert health.problems
    assert path.read_bytes() == content


async def test_damaged_schema(new_store: NewStore, path: Path) -> None:
    content = bytearray(await closed_file(new_store, path))
    content[100:4096] = b"\xa5" * 3996
    await refuses(new_store, path, bytes(content), StorageCorruptError, "damaged")


async def test_an_empty_file_is_a_new_one(new_store: NewStore, path: Path) -> None:
    path.touch()
    async with new_store(path) as store:
        await store.kv.put("k", 1)


async def test_a_creation_cut_short_is_a_new_file(new_store: NewStore, path: Path) -> None:
    """A crash between the first page and the tables must not make the file unusable."""
    connection = apsw.Connection(str(path))
    for pragma in ("page_size=4096", "auto_vacuum=incremental", "journal_mode=wal"):
        connection.execute(f"pragma {pragma}").fetchall()
    connection.close()
    assert path.stat().st_size
    async with new_store(path) as store:
        await store.kv.put("k", 1)


@pytest.mark.parametrize(
    "name", ["a b.db", "ü 文件 🙂.db", "a?mode=ro&x=%41.db", "file:x.db", 'it\'s "q".db', ":x:", "-x", "a#b"]
)
async def test_hostile_file_names(new_store: NewStore, tmp_path: Path, name: str) -> None:
    async with new_store(tmp_path / name) as store:
        await store.kv.put("k", 1)
    assert files_in(tmp_path) == [name]
    async with new_store(tmp_path / name) as store:
        assert await store.kv.get("k") == 1
