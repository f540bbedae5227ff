"""Savepoints: going back to them by name, and names that are refused (TXN-2)."""

from polymem.errors import StorageDataError, StorageError
from polymem.store import Store
from polymem.testing.clause import clause
from polymem.testing.clauses.samples import offered
from polymem.testing.clauses.transactions_all import Undo
from polymem.testing.expect import listed, refused
from polymem.testing.kit import Kit


async def _keys(store: Store) -> list[str]:
    return sorted(await listed(store.kv.scan()))


@clause("transactions", uses=["kv"], needs=lambda f: f.savepoints)
async def going_back(kit: Kit) -> None:
    """`rollback_to` undoes what came after a savepoint, which stays; as often as wanted, in every namespace."""
    async with kit.store.transaction() as tx:
        await tx.kv.put("before", 1)
        await tx.savepoint("mark")
        for key in ("first", "second"):
            await tx.kv.put(key, 1)
            await tx.namespace("n").kv.put(key, 1)
            await tx.kv.delete("before")
            await tx.rollback_to("mark")
            assert await _keys(tx) == ["before"]
            assert await _keys(tx.namespace("n")) == []
        await tx.kv.put("after", 1)
    assert await _keys(kit.store) == ["after", "before"]
    assert await _keys(kit.store.namespace("n")) == []


@clause("transactions", uses=["kv"], needs=lambda f: f.savepoints)
async def going_back_beyond_others(kit: Kit) -> None:
    """Savepoints opened later are gone then; the blocks that opened them end quietly."""
    async with kit.store.transaction() as tx:
        async with tx.savepoint("outer"):
            await tx.kv.put("a", 1)
            async with tx.savepoint("inner"):
                await tx.kv.put("b", 1)
                await tx.rollback_to("outer")
                with refused(StorageDataError, field="name"):
                    await tx.rollback_to("inner")
                await tx.savepoint("inner")
                await tx.kv.put("c", 1)
        with refused(StorageDataError, field="name"):
            await tx.rollback_to("outer")
        try:
            async with tx.savepoint("outer"), tx.savepoint("inner"):
                await tx.rollback_to("outer")
                await tx.kv.put("d", 1)
                raise Undo
        except Undo:
            await tx.kv.put("e", 1)
    assert await _keys(kit.store) == ["c", "e"]


@clause("transactions", needs=lambda f: f.savepoints)
async def bad_savepoints(kit: Kit) -> None:
    """A savepoint's name is a plain name (G-4), and not one that is open; a bad one harms nothing."""
    async with kit.store.transaction() as tx:
        for name in ("", "a b", 'a"; rollback; --', "1", 5):
            for call in (tx.savepoint, tx.rollback_to):
                try:
                    await call(name)  # type: ignore[arg-type]
                except StorageError as error:
                    assert isinstance(error, StorageDataError)  # noqa: PT017 - runs without pytest
                    assert error.field == "name"  # noqa: PT017 - runs without pytest
                else:
                    raise AssertionError(name)
        with refused(StorageDataError, field="name"):
            await tx.rollback_to("absent")
        async with tx.savepoint("outer"), tx.savepoint("Outer"):
            for sample in offered(kit):
                await sample.write(tx, "a")
            with refused(StorageDataError, field="name"):
                async with tx.savepoint("outer"):
                    raise AssertionError
        async with tx.savepoint("outer"):
            pass
    assert all([await sample.count(kit.store) == 1 for sample in offered(kit)])
