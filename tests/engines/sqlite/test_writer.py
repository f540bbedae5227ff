"""G-8: group commit; whatever happens to one write or one caller is nobody else's trouble."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from conftest import NewStore

from polymem.engines.sqlite._database import Database, FileRunner
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import (
    StorageConnectionError,
    StorageError,
    StorageFullError,
    StorageQueryError,
    StorageTimeoutError,
)
from polymem.store import Store

pytestmark = pytest.mark.anyio
_holding: set[asyncio.Future[None]] = set()


def runner_of(store: Store) -> FileRunner:
    assert isinstance(store.engine, SqliteEngine)
    return store.engine._runner


def database_of(store: Store) -> Database:
    return runner_of(store).database


async def on_writer(store: Store, statement: str) -> list[Any]:
    """Run a pragma on the writer's own connection, outside any transaction."""
    return await runner_of(store).unbatched(lambda c: c.execute(statement).fetchall())


async def hold(store: Store) -> asyncio.Event:
    """Keep the writer busy until the event is set, so that later writes meet in one batch."""
    go, loop = asyncio.Event(), asyncio.get_running_loop()
    held = loop.create_future()

    def wait(_: apsw.Connection) -> None:
        loop.call_soon_threadsafe(held.set_result, None)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result()

    _holding.add(asyncio.ensure_future(runner_of(store).write(wait)))
    await held
    return go


async def test_many_concurrent_puts_share_few_commits(store: Store) -> None:
    before = database_of(store).writer.commits
    await asyncio.gather(*(store.kv.put(f"k{n}", n) for n in range(500)))
    assert await store.kv.count() == 500
    assert database_of(store).writer.commits - before < 50


async def test_waiting_writes_are_one_commit(store: Store) -> None:
    go = await hold(store)
    puts = [asyncio.ensure_future(store.kv.put(f"k{n}", n)) for n in range(100)]
    await asyncio.sleep(0)
    before = database_of(store).writer.commits
    go.set()
    await asyncio.gather(*puts)
    assert database_of(store).writer.commits - before == 2  # the one that held, and the hundred


async def test_a_batch_is_bounded(store: Store) -> None:
    go = await hold(store)
    puts = [asyncio.ensure_future(store.kv.put(f"k{n}", n)) for n in range(1100)]
    await asyncio.sleep(0)
    before = database_of(store).writer.commits
    go.set()
    await asyncio.gather(*puts)
    assert database_of(store).writer.commits - before == 4


async def test_a_failing_operation_harms_no_other_of_its_batch(store: Store) -> None:
    def fail_late(connection: apsw.Connection) -> None:
        connection.execute("insert into pm_meta values('half', 'done')")
        raise ZeroDivisionError

    go = await hold(store)
    puts = [asyncio.ensure_future(store.kv.put(f"k{n}", n)) for n in range(10)]
    bad = asyncio.ensure_future(runner_of(store).write(fail_late))
    puts += [asyncio.ensure_future(store.kv.put(f"k{n}", n)) for n in range(10, 20)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*puts)
    with pytest.raises(ZeroDivisionError):
        await bad
    assert await store.kv.count() == 20
    assert await store.sql.query("select count(*) from pm_meta where name = 'half'") == [(0,)]


async def test_an_operation_cannot_commit_the_others(store: Store) -> None:
    go = await hold(store)
    bad = asyncio.ensure_future(runner_of(store).write(lambda c: c.execute("rollback") and None, savepoint=False))
    put = asyncio.ensure_future(store.kv.put("k", 1))
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(StorageQueryError):
        await bad
    await put
    assert await store.kv.get("k") == 1


async def test_when_the_commit_fails_each_write_is_tried_alone(store: Store) -> None:
    """A deferred constraint fails at the commit of the batch, which says nothing about who broke it."""
    for statement in (
        "create table parent(id integer primary key)",
        "create table child(id integer references parent deferrable initially deferred)",
    ):
        await store.sql.execute(statement)
    go = await hold(store)
    good = [asyncio.ensure_future(store.kv.put(f"k{n}", n)) for n in range(5)]
    bad = asyncio.ensure_future(store.sql.execute("insert into child values(1)"))
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*good)
    with pytest.raises(StorageError):
        await bad
    assert await store.kv.count() == 5
    assert await store.sql.query("select count(*) from child") == [(0,)]


async def _fill(store: Store) -> list[str]:
    """Put until the disk is full; the keys that were acknowledged."""
    acknowledged: list[str] = []
    with pytest.raises(StorageFullError):
        for n in range(10_000):
            await store.kv.put(f"k{n}", "x" * 3000)
            acknowledged.append(f"k{n}")
    return acknowledged


async def _check_all_there(store: Store, keys: list[str]) -> None:
    assert [key async for key in store.kv.scan("k")] == sorted(keys)
    assert (await store.check()).ok


async def test_disk_full_loses_nothing_acknowledged(store: Store) -> None:
    """G-1, issue: the failed write raises, what was acknowledged is there, writing works again when there is space."""
    (pages,) = (await on_writer(store, "pragma page_count"))[0]
    await on_writer(store, f"pragma max_page_count={pages + 20}")
    acknowledged = await _fill(store)
    await _check_all_there(store, acknowledged)
    await on_writer(store, "pragma max_page_count=4294967294")
    await store.kv.put("k later", 1)
    await _check_all_there(store, [*acknowledged, "k later"])


async def test_disk_full_in_a_batch_fails_only_what_does_not_fit(store: Store) -> None:
    (pages,) = (await on_writer(store, "pragma page_count"))[0]
    await on_writer(store, f"pragma max_page_count={pages + 20}")
    results = await asyncio.gather(
        *(store.kv.put(f"k{n}", "x" * (100_000 if n % 5 == 2 else 10)) for n in range(20)), return_exceptions=True
    )
    failed = {n for n, result in enumerate(results) if isinstance(result, StorageFullError)}
    assert failed == {2, 7, 12, 17}
    await _check_all_there(store, [f"k{n}" for n in range(20) if n not in failed])


@pytest.mark.parametrize("rows", [1, 3])
async def test_disk_full_with_a_savepoint_is_still_disk_full(store: Store, rows: int) -> None:
    """SQLite drops every savepoint of its own accord then, which must not hide the reason."""
    (pages,) = (await on_writer(store, "pragma page_count"))[0]
    await on_writer(store, f"pragma max_page_count={pages + 5}")
    with pytest.raises(StorageFullError):
        await store.kv.put_many({f"k{n}": "x" * 50_000 for n in range(rows)})
    assert await store.kv.count() == 0


async def test_disk_full_within_a_transaction_ends_it(store: Store) -> None:
    """What comes after the failure must not be committed on its own."""
    (pages,) = (await on_writer(store, "pragma page_count"))[0]
    await on_writer(store, f"pragma max_page_count={pages + 5}")
    with pytest.raises(StorageConnectionError, match="rolled back"):
        async with store.transaction() as tx:
            await tx.kv.put("before", 1)
            with pytest.raises(StorageFullError):
                await tx.kv.put("big", "x" * 100_000)
            await tx.kv.put("after", 1)
    assert [key async for key in store.kv.scan()] == []
    await store.kv.put("next", 1)


async def test_disk_full_error_leaves_the_transaction_block_as_it_was(store: Store) -> None:
    (pages,) = (await on_writer(store, "pragma page_count"))[0]
    await on_writer(store, f"pragma max_page_count={pages + 5}")
    with pytest.raises(StorageFullError):
        async with store.transaction() as tx:
            await tx.kv.put("big", "x" * 100_000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this machine does not let the tests mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_really_full_disk(small_disk: Path, new_store: NewStore) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(500_000))
    async with new_store(small_disk / "agent.db") as store:
        acknowledged = await _fill(store)
        assert acknowledged
        await _check_all_there(store, acknowledged)
        ballast.unlink()
        await store.kv.put("k later", 1)
        await _check_all_there(store, [*acknowledged, "k later"])
    async with new_store(small_disk / "agent.db") as store:
        await _check_all_there(store, [*acknowledged, "k later"])


async def test_the_write_of_a_cancelled_caller_lands_and_disturbs_nobody(store: Store) -> None:
    """A cancelled caller leaves its write in the batch."""
    go = await hold(store)
    puts = [asyncio.ensure_future(store.kv.put(f"k{n}", n)) for n in range(10)]
    await asyncio.sleep(0)
    puts[3].cancel()
    go.set()
    results = await asyncio.gather(*puts, return_exceptions=True)
    assert [n for n, result in enumerate(results) if isinstance(result, asyncio.CancelledError)] == [3]
    assert await store.kv.count() == 10


async def test_close_finishes_what_is_queued(new_store: NewStore) -> None:
    store = await new_store().open()
    go = await hold(store)
    puts = [asyncio.ensure_future(store.kv.put(f"k{n}", n)) for n in range(50)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(closing, *puts)
    async with new_store() as again:
        assert await again.kv.count() == 50


async def test_a_locked_file_fails_the_batch_at_once(store: Store, path: Path) -> None:
    """Each write of a batch alone would wait as long again."""
    other = apsw.Connection(str(path))
    other.execute("begin immediate")
    waits = 0

    def never(_: int) -> bool:
        nonlocal waits
        waits += 1
        return False

    go = await hold_with_busy_handler(store, never, other)
    writes = [runner_of(store).write(lambda c: c.execute("select 1").fetchall()) for _ in range(20)]
    tasks = [asyncio.ensure_future(write) for write in writes]
    await asyncio.sleep(0)
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, apsw.BusyError) for result in results)
    assert waits <= 2
    other.execute("rollback")
    other.close()
    await store.kv.put("k", 1)


async def hold_with_busy_handler(store: Store, handler: Any, other: apsw.Connection) -> asyncio.Event:
    """As `hold`, but outside a transaction, as another connection holds the lock."""
    go, loop = asyncio.Event(), asyncio.get_running_loop()
    held = loop.create_future()

    def wait(connection: apsw.Connection) -> None:
        assert other.in_transaction
        connection.set_busy_handler(handler)
        loop.call_soon_threadsafe(held.set_result, None)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result()

    _holding.add(asyncio.ensure_future(runner_of(store).unbatched(wait)))
    await held
    return go


async def test_a_lock_held_too_long_is_a_timeout(store: Store, path: Path) -> None:
    other = apsw.Connection(str(path))
    other.execute("begin immediate")
    await runner_of(store).unbatched(lambda c: c.set_busy_handler(lambda _: False))
    store._session.guard.retry = type(store._session.guard.retry)(attempts=1)
    try:
        with pytest.raises(StorageTimeoutError):
            await store.kv.put("k", 1)
    finally:
        other.close()
