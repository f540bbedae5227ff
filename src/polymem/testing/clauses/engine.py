"""What holds for an engine whatever contracts it has: opening, closing, refusing (G-7, G-8)."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from polymem.contracts.drivers import CONTRACTS
from polymem.errors import StorageConnectionError, StorageDataError, StorageUnsupportedError
from polymem.store import Store
from polymem.testing.clause import clause
from polymem.testing.clauses.samples import offered
from polymem.testing.expect import listed, refused
from polymem.testing.kit import Kit


def _handle(store: Store, contract: str) -> Any:
    match contract:
        case "vectors":
            return store.vectors("items", dimensions=3)
        case "text" | "graph" | "blobs":
            return getattr(store, contract)("items")
        case "events":
            return store.watch()
        case _:
            return getattr(store, contract)


@clause("engine")
async def offers_something(kit: Kit) -> None:
    """At least one contract is there, and supports says which."""
    there = [name for name in CONTRACTS if kit.root.supports(name)]
    assert there
    assert sorted(kit.root.features()) == sorted(there)
    with refused(StorageDataError, field="contract"):
        kit.root.supports("nonsense")


@clause("engine")
async def absent_contracts_are_refused(kit: Kit) -> None:
    """What an engine lacks is an error that names it, never an empty answer."""
    for name in CONTRACTS:
        if kit.store.supports(name):
            await _reached(kit.store, name)
        elif name not in ("query", "events") or kit.store.supports("kv"):  # these two are reached through kv
            with refused(StorageUnsupportedError) as caught:
                await _reached(kit.store, name)
            assert name in str(caught.error)


async def _reached(store: Store, name: str) -> None:
    """Take a contract into the hand the way its users do."""
    match name:
        case "transactions":
            async with store.transaction():
                pass
        case "query":
            await store.kv.count(where={"a": 1})
        case "events":
            store.kv.watch()
        case _:
            _handle(store, name)


@clause("engine")
async def closing_is_idempotent(kit: Kit) -> None:
    """Closing twice, at once or one after the other, is harmless; so is opening (G-8)."""
    await asyncio.gather(kit.root.open(), kit.root.open())
    await asyncio.gather(kit.root.close(), kit.root.close(), kit.store.close())
    await kit.root.close()


@clause("engine")
async def closed_is_closed(kit: Kit) -> None:
    """After close every contract answers with a StorageConnectionError that names the engine."""
    await kit.root.close()
    for sample in offered(kit):
        for call, *names in ((sample.write, "a"), (sample.names,), (sample.remove, "a")):
            with refused(StorageConnectionError) as caught:
                await call(kit.store, *names)
            assert caught.error.engine == kit.root.engine.name, sample.contract
            assert caught.error.operation, sample.contract
    for work in (lambda: kit.root.drop_namespace("a"), kit.root.delete_expired, kit.root.check):
        with refused(StorageConnectionError):
            await work()
    with refused(StorageConnectionError):
        await listed(kit.root.namespaces())


@clause("engine")
async def opens_again(kit: Kit) -> None:
    """A closed store can be opened again and works."""
    await kit.root.close()
    await kit.root.open()
    for sample in offered(kit):
        await sample.write(kit.store, "a")
        assert await sample.names(kit.store) == ["a"]


@clause("engine", uses=["shared"])
async def instances_close_alone(kit: Kit) -> None:
    """Closing one of two instances, also with writes under way in the other, leaves the other open (G-8)."""
    other = await kit.second()
    for sample in offered(kit):
        writing = [asyncio.ensure_future(sample.write(kit.store, f"{number}")) for number in range(8)]
        await other.close()
        await asyncio.gather(*writing)
        assert await sample.count(kit.store) == 8
        await other.open()
        assert await sample.count(other) == 8


@clause("engine")
async def leaks_nothing(kit: Kit) -> None:
    """Opening and closing again and again leaves no task, thread or open file behind."""
    counts = []
    for _ in range(8):
        await kit.root.close()
        await kit.root.open()
        for sample in offered(kit):
            await sample.names(kit.store)
        counts.append((len(asyncio.all_tasks()), _open_files(), threading.active_count()))
    assert counts[-1][0] == counts[0][0], f"tasks: {counts}"
    assert counts[-1][1] <= counts[0][1] + 2, f"open files: {counts}"
    assert counts[-1][2] <= counts[0][2] + 4, f"threads: {counts}"  # a pool may still be filling


def _open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


@clause("engine")
async def belongs_to_its_loop(kit: Kit) -> None:
    """Used from another event loop it raises instead of mixing them up."""
    for sample in offered(kit):
        with refused(StorageConnectionError):
            await asyncio.to_thread(asyncio.run, _to_coroutine(sample.write, kit.store))
        assert await sample.names(kit.store) == []


async def _to_coroutine(write: Any, store: Store) -> None:
    await write(store, "a")


@clause("engine")
async def is_healthy(kit: Kit) -> None:
    """Check finds nothing wrong after writes to every contract."""
    for sample in offered(kit):
        await sample.write(kit.store, "a")
    health = await kit.root.check()
    assert health.ok
    assert not health.problems
    assert health.version
    assert health.engine == kit.root.engine.name


@clause("engine")
async def purging_keeps_the_living(kit: Kit) -> None:
    """Purge makes deleted bytes unrecoverable and changes nothing that is there."""
    for sample in offered(kit):
        await sample.write(kit.store, "a")
        await sample.write(kit.store, "b")
        await sample.remove(kit.store, "a")
    await kit.root.purge()
    for sample in offered(kit):
        assert await sample.names(kit.store) == ["b"]


@clause("engine")
async def bad_namespaces(kit: Kit) -> None:
    """A segment that is not 1 to 512 bytes of text, or no segment at all, is refused naming `namespace` (G-2)."""
    store: Any = kit.store
    for segment in ("", None, 1, b"a", "a\x00", "\ud800", "x" * 513, ["a"]):
        with refused(StorageDataError, field="namespace"):
            store.namespace(segment)
        with refused(StorageDataError, field="namespace"):
            await store.drop_namespace(segment)
    with refused(StorageDataError, field="namespace"):
        store.namespace()
    with refused(StorageDataError, field="namespace"):
        await store.drop_namespace()
    with refused(StorageDataError, field="namespace"):
        store.namespace(*["%" * 50] * 10)


@clause("engine")
async def counts_its_calls(kit: Kit) -> None:
    """Every call is counted by operation, successes and errors apart (MET-1)."""
    for sample in offered(kit):
        before = _total(kit, sample.contract)
        await sample.write(kit.store, "a")
        assert _total(kit, sample.contract) > before, sample.contract


def _total(kit: Kit, contract: str) -> int:
    operations = kit.root.metrics()["operations"]
    return sum(figures["success_count"] for name, figures in operations.items() if name.startswith(f"{contract}."))
