"""The change log in the file: made when it is wanted, trimmed, dropped, read across processes (EVT-1, G-10)."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from polymem.core.clock import ManualClock
from polymem.engines.sqlite import _changes
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import StorageDataError
from polymem.opened import Session
from polymem.store import Store

pytestmark = pytest.mark.anyio
NewStore = Callable[..., Store]
DAY = 86_400


async def schema(store: Store) -> set[str]:
    rows = await store.sql.query("select name from sqlite_schema where name like 'pm_watched' or name like 'pm_kv_%'")
    return {name for (name,) in rows} - {"pm_kv_expires"}


async def logged(store: Store) -> list[tuple[str, str | None, str]]:
    rows = await store.sql.query("select namespace, key, op from pm_kv_changes order by seq")
    return [(namespace, key, op) for namespace, key, op in rows]


MADE = {"pm_watched", "pm_kv_changes", "pm_kv_inserted", "pm_kv_updated", "pm_kv_deleted"}


async def test_a_file_that_nobody_watches_has_no_log(store: Store) -> None:
    await store.kv.put("a", 1)
    await store.kv.clear()
    await store.delete_expired()
    await store.drop_namespace("n")
    assert await schema(store) == set()
    async with store.kv.watch():
        assert await schema(store) == MADE


async def test_only_watched_namespaces_are_logged(store: Store) -> None:
    async with store.namespace("a").kv.watch():
        for names in (("a",), ("ab",), ("a", "b")):
            await store.namespace(*names).kv.put("k", 1)
        assert await logged(store) == [("a/", "k", "put")]


async def test_other_ways_to_write_are_seen(store: Store) -> None:
    """Plain SQL, whoever runs it, is logged by the same triggers."""
    await store.kv.put("a", 1)
    async with store.kv.watch() as watch:
        await store.sql.execute("update pm_kv set value = '2' where key = 'a'")
        await store.sql.execute("delete from pm_kv where key = 'a'")
        assert [(change.op, change.key) for change in await watch.read()] == [("put", "a"), ("delete", "a")]


async def test_what_nobody_reads_for_a_day_is_dropped(store: Store, clock: ManualClock) -> None:
    kept, left = store.namespace("kept"), store.namespace("left")
    async with kept.kv.watch() as reader, left.kv.watch() as gone:
        await left.kv.put("k", 1)
        clock.advance(DAY / 2)
        await reader.read()  # noted, though not awaited: behind it in the writer's queue
        await kept.kv.put("k", 1)
        clock.advance(DAY / 2 + 1)
        await store.delete_expired()
        assert await logged(store) == [("kept/", "k", "put")]
        with pytest.raises(StorageDataError):
            await gone.read()
        assert [change.key for change in await reader.read()] == ["k"]
        clock.advance(DAY + 1)
        await store.delete_expired()
        assert await schema(store) == set()
        with pytest.raises(StorageDataError):
            await reader.read()
        async with kept.kv.watch() as anew:
            await kept.kv.put("k", 2)
            assert [change.key for change in await anew.read()] == ["k"]
        with pytest.raises(StorageDataError, match="load everything again"):
            await kept.kv.watch(after=reader.position).read()


async def test_trimmed_by_number(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_changes, "KEPT", 3)
    async with store.kv.watch() as slow, store.kv.watch() as quick:
        for number in range(5):
            await store.kv.put(f"{number}", number)
        await quick.read()
        await store.delete_expired()
        assert [key for _, key, _ in await logged(store)] == ["2", "3", "4"]
        with pytest.raises(StorageDataError):
            await slow.read()
        await store.kv.put("5", 5)
        assert [change.key for change in await quick.read()] == ["5"]


async def test_purging_leaves_no_key_and_spares_readers_that_are_not_behind(store: Store, path: Path) -> None:
    async with store.kv.watch() as behind, store.kv.watch() as close:
        await store.kv.put("confidential-key", 1)
        await store.kv.delete("confidential-key")
        await close.read()
        await store.purge()
        assert b"confidential-key" not in b"".join(
            file.read_bytes() for file in path.parent.iterdir() if file.is_file()
        )
        with pytest.raises(StorageDataError):
            await behind.read()
        await store.kv.put("a", 1)
        assert [change.key for change in await close.read()] == ["a"]


async def test_a_dropped_namespace_takes_its_keys_out_of_the_log(store: Store) -> None:
    inside, beside = store.namespace("a"), store.namespace("b")
    async with inside.kv.watch() as watch, beside.kv.watch():
        await inside.kv.put("secret", 1)
        await beside.kv.put("k", 1)
        await store.drop_namespace("a")
        assert await logged(store) == [("b/", "k", "put"), ("a/", None, "clear")]
        assert [change.op for change in await watch.read()] == ["clear"]


async def test_positions_of_another_file_are_refused(store: Store, new_store: NewStore, tmp_path: Path) -> None:
    async with new_store(tmp_path / "other.db") as other, other.kv.watch() as elsewhere, store.kv.watch():
        with pytest.raises(StorageDataError):
            await store.kv.watch(after=elsewhere.position).read()


async def test_a_reader_inside_a_transaction_sees_what_is_committed(store: Store, clock: ManualClock) -> None:
    """Reading needs no right to write, even when it is time to note that somebody reads."""
    async with store.kv.watch() as watch:
        clock.advance(DAY / 2)
        async with store.transaction() as tx:
            await tx.kv.put("a", 1)
            assert await watch.read() == []
        assert [change.key for change in await watch.read()] == ["a"]


async def test_a_failed_write_within_a_batch_is_not_logged(store: Store) -> None:
    async with store.kv.watch() as watch:
        await store.kv.put("text", "x")
        results = await asyncio.gather(
            *(store.kv.put(f"{number}", 1) for number in range(8)), store.kv.increment("text"), return_exceptions=True
        )
        assert isinstance(results[-1], StorageDataError)
        assert [change.key for change in await watch.read()] == ["text", *"01234567"]


async def test_an_old_connection_notices_that_somebody_began_to_watch(path: Path) -> None:
    """Connections of other programs too: the log is in the schema, which each of them reads again."""
    async with Store(Session(SqliteEngine(path), sweep_every=None)) as store:
        await store.kv.put("a", 1)
        other = apsw.Connection(str(path))
        statement = "update pm_kv set value = value + 1 where key = 'a'"
        other.execute(statement)
        async with store.kv.watch() as watch:
            other.execute(statement)
            assert [change.key for change in await watch.read()] == ["a"]
        other.close()


WRITER = """
import asyncio, sys, polymem
async def main():
    async with polymem.open(f"sqlite:///{sys.argv[1]}", sweep_every=None) as store:
        kv = store.namespace("n").kv
        print("ready", flush=True)
        sys.stdin.readline()
        await asyncio.gather(*(kv.put(f"{number}", number) for number in range(200)))
        try:
            async with store.transaction() as tx:
                await tx.namespace("n").kv.put("undone", 1)
                raise KeyError
        except KeyError:
            pass
        async with store.transaction() as tx:
            await tx.namespace("n").kv.put("done", 1)
            await tx.namespace("other").kv.put("elsewhere", 1)
        await kv.clear()
asyncio.run(main())
"""


async def test_changes_of_another_process(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"  # it had the file open before we watch
        async with Store(Session(SqliteEngine(path), sweep_every=None)) as store:
            mine = store.namespace("n").kv
            async with mine.watch() as watch:
                process.stdin.write("go\n")
                process.stdin.flush()
                await asyncio.gather(*(mine.put(f"mine {number}", 1) for number in range(50)))
                found = [await asyncio.wait_for(anext(watch), 30)]
                while found[-1].op != "clear":
                    found.append(await asyncio.wait_for(anext(watch), 30))
        assert await asyncio.to_thread(process.wait) == 0
    keys = [change.key for change in found[:-1] if change.key is not None and not change.key.startswith("mine")]
    assert sorted(keys) == sorted([*(f"{number}" for number in range(200)), "done"])
    assert {change.op for change in found[:-1]} == {"put"}
