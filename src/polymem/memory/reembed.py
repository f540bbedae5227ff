"""Vectors of another model in the place of those there are, while memories come and go (PRV-2).

They gather in a collection of their own, and one transaction switches to it: until then everybody goes on with
the old ones, and an interrupted run is taken up where it stopped. What is written meanwhile is noted as stale.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from polymem.contracts.text import Document
from polymem.core.ids import uuid7
from polymem.errors import StorageConflictError, StorageDataError
from polymem.memory.records import draft_of
from polymem.memory.shelf import Embedding, Shelf, vector_records
from polymem.store import TransactionStore

Progress = Callable[[int], Awaitable[None] | None]
_CHUNK: Final = 500
_TIMEOUT: Final = 600.0


async def reembed(shelf: Shelf, on_progress: Progress | None = None) -> int:
    """Replace every vector by one of the shelf's model; how many memories have one now.

    `on_progress` is told how many are done, those of an interrupted run included.
    """
    wanted = await _begin(shelf)
    total, batch = 0, []
    async for document in shelf.text.scan():
        batch.append(document)
        if len(batch) == _CHUNK:
            total, batch = total + await _embed_missing(shelf, wanted, batch), []
            await _tell(on_progress, total)
    total += await _embed_missing(shelf, wanted, batch)
    await _finish(shelf, wanted)
    await _tell(on_progress, total)
    return total


async def _begin(shelf: Shelf) -> Embedding:
    """The collection to fill: that of an interrupted run, if it was for this model."""
    ours = shelf.model
    if ours is None:
        raise StorageDataError("there is no embedder to embed with", field="embed")
    started = Embedding(ours.model, ours.dimensions, f"memory-{uuid7()}")

    async def work(tx: TransactionStore) -> Embedding:
        inside = shelf.inside(tx)
        unfinished = await inside.next()
        if unfinished is not None and unfinished.same_model(ours):
            return unfinished
        if unfinished is not None:
            await inside.space(unfinished).clear()
        await inside.announce(started)
        return started

    return await shelf.store.run_in_transaction(work, timeout=_TIMEOUT)


async def _embed_missing(shelf: Shelf, wanted: Embedding, documents: Sequence[Document]) -> int:
    present = await shelf.space(wanted).get_many([document.id for document in documents])
    missing = [document for document in documents if document.id not in present]
    matrix = await shelf.embed([draft_of(document) for document in missing])

    async def work(tx: TransactionStore) -> None:
        inside = shelf.inside(tx)
        await _check_ours(inside, wanted)
        still = await inside.text.get_many([document.id for document in missing])
        records = [] if matrix is None else vector_records(missing, matrix)
        await inside.space(wanted).put_many([record for record in records if record.id in still])

    if missing:
        await shelf.store.run_in_transaction(work, timeout=_TIMEOUT)
    return len(documents)


async def _finish(shelf: Shelf, wanted: Embedding) -> None:
    """Bring what changed meanwhile up to date and switch, while nobody can write."""

    async def work(tx: TransactionStore) -> None:
        inside = shelf.inside(tx)
        await _check_ours(inside, wanted)
        stale = [entry.value async for entry in inside.notes.entries("stale/")]
        for start in range(0, len(stale), _CHUNK):
            await _embed_again(inside, wanted, stale[start : start + _CHUNK])
        former = await inside.current()
        if former is not None:
            await inside.space(former).clear()
        await inside.switch(wanted)

    await shelf.store.run_in_transaction(work, timeout=_TIMEOUT)


async def _embed_again(shelf: Shelf, wanted: Embedding, ids: Sequence[str]) -> None:
    documents = list((await shelf.text.get_many(ids)).values())
    matrix = await shelf.embed([draft_of(document) for document in documents])
    await shelf.space(wanted).delete_many(ids)
    if matrix is not None:
        await shelf.space(wanted).put_many(vector_records(documents, matrix))


async def _check_ours(shelf: Shelf, wanted: Embedding) -> None:
    if await shelf.next() != wanted:
        raise StorageConflictError("another call of reembed took over or has finished")


async def _tell(on_progress: Progress | None, total: int) -> None:
    told = on_progress(total) if on_progress is not None else None
    if told is not None:
        await told
