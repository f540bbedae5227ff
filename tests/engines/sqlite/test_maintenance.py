"""Work on the whole file: backup, compaction, expiry, namespaces, the integrity check."""

import asyncio
import os
import threading
from pathlib import Path

import apsw
import pytest
from conftest import NewStore

from polymem.core.clock import ManualClock
from polymem.engines.sqlite import _maintenance
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import (
    StorageConflictError,
    StorageConnectionError,
    StorageError,
    StorageNotFoundError,
    StorageTimeoutError,
)
from polymem.store import Store

pytestmark = pytest.mark.anyio


def engine_of(store: Store) -> SqliteEngine:
    assert isinstance(store.engine, SqliteEngine)
    return store.engine


async def fill(store: Store, rows: int = 2000) -> None:
    await store.kv.put_many({f"k{n:05}": "x" * 4000 for n in range(rows)})


# --- backup -------------------------------------------------------------------------------------------------------


async def test_backup_while_writing(store: Store, tmp_path: Path, new_store: NewStore) -> None:
    """One state is kept: no hole in what was acknowledged."""
    await fill(store)  # several steps of 1,000 pages
    acknowledged, stop = 0, False

    async def write() -> None:
        nonlocal acknowledged
        while not stop:
            await store.kv.put(f"w{acknowledged:06}", acknowledged)
            acknowledged += 1

    writing = asyncio.ensure_future(write())
    await store.kv.get("w000000")
    least = acknowledged
    target = await asyncio.wait_for(engine_of(store).backup(tmp_path / "backup.db"), 60)
    stop = True
    await writing
    assert sorted(p.name for p in tmp_path.iterdir()) == ["agent.db", "agent.db-shm", "agent.db-wal", "backup.db"]
    async with new_store(target) as copy:
        assert (await copy.check()).ok
        assert await copy.kv.count("k") == 2000
        kept = [key async for key in copy.kv.scan("w")]
        assert kept == [f"w{n:06}" for n in range(len(kept))]
        assert least <= len(kept) <= acknowledged


async def test_backup_keeps_the_state_it_began_with(
    store: Store, path: Path, tmp_path: Path, new_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each write meanwhile would make SQLite start anew, and with a busy writer it would never end."""
    await store.kv.put("before", 1)
    copy = _maintenance._copy

    def copy_after_a_write(connection: apsw.Connection, partial: Path) -> None:
        other = apsw.Connection(str(path))
        other.execute("insert into pm_kv select namespace, 'late', value, type, 0, 0, null, 1 from pm_kv")
        other.close()
        copy(connection, partial)

    monkeypatch.setattr(_maintenance, "_copy", copy_after_a_write)
    target = await engine_of(store).backup(tmp_path / "backup.db")
    assert [key async for key in store.kv.scan()] == ["before", "late"]
    async with new_store(target) as backup:
        assert [key async for key in backup.kv.scan()] == ["before"]


async def test_backup_sees_every_write_made_before(store: Store, tmp_path: Path, new_store: NewStore) -> None:
    await store.kv.put("k", 1)
    target = await engine_of(store).backup(tmp_path / "backup.db")
    async with new_store(target) as copy:
        assert await copy.kv.get("k") == 1


async def test_backup_refuses_an_existing_target(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "there"
    target.write_bytes(b"precious")
    with pytest.raises(StorageConflictError) as caught:
        await engine_of(store).backup(target)
    assert caught.value.field == "target"
    assert target.read_bytes() == b"precious"


async def test_backup_refuses_a_target_that_appears_meanwhile(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, copy = tmp_path / "there", _maintenance._copy

    def slow_copy(connection: apsw.Connection, partial: Path) -> None:
        copy(connection, partial)
        target.write_bytes(b"precious")

    monkeypatch.setattr(_maintenance, "_copy", slow_copy)
    with pytest.raises(StorageConflictError):
        await engine_of(store).backup(target)
    assert target.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["agent.db", "agent.db-shm", "agent.db-wal", "there"]


async def test_backup_into_a_missing_folder(store: Store, tmp_path: Path) -> None:
    with pytest.raises((apsw.CantOpenError, StorageError)) as caught:
        await engine_of(store).backup(tmp_path / "absent" / "b.db")
    error = caught.value
    ours = error if isinstance(error, StorageError) else store.engine.translate(error)
    assert isinstance(ours, StorageConnectionError)


async def test_a_backup_that_fails_leaves_nothing(store: Store, tmp_path: Path) -> None:
    """The disk of the target is full: a limit on the size of files stands for it."""
    await fill(store, 500)

    class FullVFS(apsw.VFS):
        def xOpen(self, name: object, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
            return FullFile("unix", name, flags)  # type: ignore[arg-type]

    class FullFile(apsw.VFSFile):
        def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
            if offset > 500_000:
                raise apsw.FullError
            super().xWrite(data, offset)

    vfs = FullVFS("full", "unix", makedefault=True)
    try:
        with pytest.raises((apsw.FullError, StorageError)):
            await engine_of(store).backup(tmp_path / "backup.db")
    finally:
        vfs.unregister()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["agent.db", "agent.db-shm", "agent.db-wal"]
    await store.kv.put("k", 1)


# --- compaction and the integrity check ---------------------------------------------------------------------------


async def test_purge_gives_space_back_and_empties_the_log(store: Store, path: Path) -> None:
    await fill(store, 1000)
    await store.kv.put("kept", "value")
    await store.kv.delete_many([f"k{n:05}" for n in range(1000)])
    await engine_of(store).purge()
    assert path.with_name("agent.db-wal").stat().st_size == 0
    assert path.stat().st_size < 400_000
    assert await store.kv.get("kept") == "value"
    assert (await store.check()).details["free_bytes"] == 0


async def test_purge_leaves_no_deleted_byte(store: Store, path: Path) -> None:
    await store.kv.put("k", "unforgettable")
    await store.turns.append("s", "user", "unforgettable")
    await store.kv.delete("k")
    await store.turns.clear("s")
    await engine_of(store).purge()
    for name in ("agent.db", "agent.db-wal"):
        assert b"unforgettable" not in path.with_name(name).read_bytes()


async def test_purge_while_another_process_reads_says_so(store: Store, path: Path) -> None:
    await store.kv.put("k", 1)
    other = apsw.Connection(str(path))
    other.execute("begin")
    other.execute("select * from pm_kv").fetchall()
    await store.kv.put("k", 2)
    await engine_of(store)._runner.unbatched(lambda c: c.set_busy_handler(None))
    with pytest.raises((StorageTimeoutError, apsw.BusyError)):
        await engine_of(store).purge()
    other.close()
    await engine_of(store).purge()
    assert await store.kv.get("k") == 2


async def test_check_of_a_healthy_file(store: Store) -> None:
    await store.kv.put("k", 1)
    health = await store.check()
    assert (health.engine, health.ok, health.problems) == ("sqlite", True, [])
    assert health.details["records"]["pm_kv"] == 1
    assert health.details["file_bytes"] > 0


async def test_check_names_problems(store: Store) -> None:
    """An index that does not fit its table is found."""
    await store.turns.append("s", "user", "x")
    runner = engine_of(store)._runner

    def spoil(connection: apsw.Connection) -> None:
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        connection.pragma("writable_schema", 1)
        connection.execute(
            "update sqlite_schema set sql = replace(sql, '(expires_at)', '(created_at)') where name = 'pm_turns_expires'"
        )
        connection.pragma("writable_schema", 0)

    await runner.unbatched(spoil)
    await store.close()
    await store.open()
    health = await store.check()
    assert not health.ok
    assert health.problems


# --- expiry -------------------------------------------------------------------------------------------------------


async def test_delete_expired_removes_exactly_what_is_over(store: Store, clock: ManualClock) -> None:
    """G-6: expires_at <= now."""
    for seconds in (1, 2, 3):
        await store.kv.put(f"k{seconds}", 1, ttl=seconds)
        await store.namespace("n").turns.append("s", "user", "x", ttl=seconds)
    await store.kv.put("for ever", 1)
    clock.advance(2)
    assert await store.delete_expired() == 4
    assert await store.delete_expired() == 0
    assert await store.kv.count() == 2
    assert await store.namespace("n").turns.count(include_expired=True) == 1


async def test_delete_expired_is_bounded(store: Store, clock: ManualClock) -> None:
    await store.kv.put_many({f"k{n}": 1 for n in range(30)}, ttl=1)
    await store.turns.append_many("s", [{"role": "user", "content": "x", "ttl": 1} for _ in range(30)])
    clock.advance(1)
    removed = []
    while (count := await engine_of(store).delete_expired(25)) > 0:
        removed.append(count)
    assert removed == [25, 25, 10]


async def test_sweeping_gives_up_uploads_after_a_day(store: Store, clock: ManualClock) -> None:
    blobs = store.engine.drivers("").blobs
    old = await blobs.begin("c")
    await blobs.write_part("c", old, 0, b"x" * 1000)
    clock.advance(86_400)
    new = await blobs.begin("c")
    await blobs.write_part("c", new, 0, b"y")
    await store.blobs("c").put("kept", b"z")
    clock.advance(1)
    with pytest.raises(StorageNotFoundError):
        await blobs.write_part("c", old, 1, b"late")
    await store.delete_expired()
    assert await store.sql.query("select count(*) from pm_uploads") == [(2,)]
    assert await store.sql.query("select count(*) from pm_blob_parts") == [(2,)]
    assert await store.blobs("c").get("kept") == b"z"


async def test_sweeping_uses_indexes(store: Store) -> None:
    for table in ("pm_kv", "pm_turns"):
        plan = await store.sql.query(f"explain query plan select 1 from {table} where expires_at <= 5 limit 9")
        assert f"{table}_expires" in str(plan)
    plan = await store.sql.query(
        "explain query plan select upload from pm_uploads where not committed and started_at < 5"
    )
    assert "pm_uploads_open" in str(plan)


# --- namespaces ---------------------------------------------------------------------------------------------------

SIBLINGS = [
    ("a", "b"),
    ("ab",),
    ("a%",),
    ("a0",),
    ("a/",),
    ("A",),
    ("a", "b", "c"),
    ("a.",),
    ("b", "a"),
    ("\U0010ffff",),
]


async def write_everywhere(store: Store) -> None:
    await store.kv.put("k", 1)
    await store.turns.append("s", "user", "x")
    await store.graph().create_node("n", "P")
    await store.graph().create_edge(("P", "n"), ("P", "n"), "SELF", id="e")
    await store.blobs().put("b", b"x")


async def holds(store: Store) -> list[int]:
    nodes, edges = await store.graph().count()
    return [await store.kv.count(), await store.turns.count(), nodes, edges, await store.blobs().count()]


async def test_drop_namespace_takes_the_subtree_and_nothing_else(store: Store) -> None:
    """Siblings with the same beginning are disjoint."""
    for names in (("a",), *SIBLINGS):
        await write_everywhere(store.namespace(*names))
    await write_everywhere(store)
    assert await store.drop_namespace("a") == 3 * 5
    below = {("a", "b"), ("a", "b", "c")}
    for names in (("a",), *SIBLINGS):
        gone = names == ("a",) or names in below
        assert await holds(store.namespace(*names)) == [0 if gone else 1] * 5, names
    assert await holds(store) == [1] * 5
    assert await store.sql.query("select count(*) from pm_uploads") == [(len(SIBLINGS) + 2 - 3,)]
    assert await store.sql.query("select count(*) from pm_blob_parts") == [(len(SIBLINGS) + 2 - 3,)]
    assert await store.drop_namespace("a") == 0


async def test_namespaces_are_listed_in_order(store: Store) -> None:
    for names in (("a",), *SIBLINGS):
        await store.namespace(*names).turns.append("s", "user", "x")
    listed = [names async for names in store.namespaces()]
    assert sorted(listed) == sorted([("a",), *SIBLINGS])
    assert [names async for names in store.namespaces("a")] == [("a",), ("a", "b"), ("a", "b", "c")]


async def test_namespaces_come_in_pages(store: Store) -> None:
    names = sorted(f"t{n:03}/" for n in range(23))
    for n in range(23):
        await (
            store.namespace(f"t{n:03}").kv if n % 2 else store.namespace(f"t{n:03}").graph()
        ).clear()  # leave nothing
        await store.namespace(f"t{n:03}").graph().create_node("n", "P")
    listed: list[str] = []
    after: str | None = None
    while True:
        page = await engine_of(store).namespaces("", after, 5)
        assert len(page.items) <= 5
        listed += page.items
        if (after := page.after) is None:
            break
    assert listed == names


async def test_listing_namespaces_does_not_read_the_records(store: Store) -> None:
    """One search of an index for each table and name, however many records there are."""
    for table in _maintenance._SPACED:
        plan = await store.sql.query(f"explain query plan select min(namespace) from {table} where namespace >= 'x'")
        assert "SEARCH" in str(plan), plan


async def test_maintenance_leaves_the_loop_free(store: Store) -> None:
    """Backup, check and compaction run on other threads than the loop's."""
    seen: set[int] = set()
    runner = engine_of(store)._runner
    for run in (runner.read, runner.write, runner.unbatched):
        await run(lambda _: seen.add(threading.get_ident()))
    assert threading.get_ident() not in seen
    assert len(seen) >= 2
    assert os.getpid()
