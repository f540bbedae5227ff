"""Transactions, through every contract that keeps records (TXN-1, TXN-2)."""

from polymem.testing.clause import Run, clause
from polymem.testing.clauses.samples import SAMPLES, Sample
from polymem.testing.kit import Kit


class Undo(Exception):  # noqa: N818 - not a failure
    """Raised by a clause to roll back."""


def _commits(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """A transaction reads its own writes; nobody else sees them before the commit, everybody after it."""
        await sample.write(kit.store, "a")
        async with kit.store.transaction() as tx:
            await sample.write(tx, "b")
            await sample.remove(tx, "a")
            await sample.write(tx.namespace("n"), "c")
            assert await sample.names(tx) == ["b"]
            assert await sample.count(tx) == 1
            assert await sample.names(kit.store) == ["a"]
            assert await sample.count(kit.store) == 1
            assert await sample.names(kit.store.namespace("n")) == []
        assert await sample.names(kit.store) == ["b"]
        assert await sample.names(kit.store.namespace("n")) == ["c"]

    return run


def _rolls_back(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """When the block raises, nothing it did has happened: writes, removals, clearing."""
        for name in ("a", "b"):
            await sample.write(kit.store, name)
        try:
            async with kit.store.transaction() as tx:
                await sample.write(tx, "c")
                await sample.remove(tx, "a")
                await sample.clear(tx)
                await sample.write(tx, "d")
                assert await sample.names(tx) == ["d"]
                raise Undo
        except Undo:
            assert await sample.names(kit.store) == ["a", "b"]
            assert await sample.count(kit.store) == 2
        await sample.write(kit.store, "e")
        assert await sample.names(kit.store) == ["a", "b", "e"]

    return run


def _savepoints(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """A savepoint that raises undoes its own work only; savepoints nest."""
        async with kit.store.transaction() as tx:
            await sample.write(tx, "a")
            async with tx.savepoint():
                await sample.write(tx, "b")
            try:
                async with tx.savepoint():
                    await sample.write(tx, "c")
                    async with tx.savepoint():
                        await sample.remove(tx, "a")
                    assert await sample.names(tx) == ["b", "c"]
                    raise Undo
            except Undo:
                assert await sample.names(tx) == ["a", "b"]
            async with tx.savepoint("outer"):
                await sample.write(tx, "d")
                try:
                    async with tx.savepoint("inner"):
                        await sample.clear(tx)
                        raise Undo
                except Undo:
                    assert await sample.names(tx) == ["a", "b", "d"]
        assert await sample.names(kit.store) == ["a", "b", "d"]

    return run


def _isolated(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """Another instance sees nothing of a transaction before it commits."""
        other = await kit.second()
        await sample.write(other, "a")
        async with kit.store.transaction() as tx:
            await sample.write(tx, "b")
            await sample.remove(tx, "a")
            assert await sample.names(other) == ["a"]
        assert await sample.names(other) == ["b"]

    return run


for _sample in SAMPLES.values():
    _name = _sample.contract
    clause("transactions", id=f"{_name}-commit", uses=[_name])(_commits(_sample))
    clause("transactions", id=f"{_name}-rollback", uses=[_name])(_rolls_back(_sample))
    clause("transactions", id=f"{_name}-savepoints", uses=[_name], needs=lambda f: f.savepoints)(_savepoints(_sample))
    clause("transactions", id=f"{_name}-isolated", uses=[_name, "shared"])(_isolated(_sample))
