"""Erasing a person: every record, index entry, former version and blob, and no byte left behind (TIER-5)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from polymem.contracts.filter import F
from polymem.contracts.text import Document
from polymem.errors import Outcome, StorageTimeoutError
from polymem.memory.records import TURN, is_expired
from polymem.memory.shelf import Shelf
from polymem.memory.subjects import count_subjects
from polymem.store import TransactionStore

_TIMEOUT: Final = 600.0
_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What was erased."""

    subject: str
    memories: int
    """Turns and other memories, with their vectors and former versions."""
    turns: int
    blobs: int


async def forget(shelf: Shelf, subject: str, *, refresh: bool) -> ForgetReport:
    """Erase what is about a subject or was said by them, in one transaction, then purge the deleted bytes.

    Names are compared without regard to case. `refresh` brings the search indexes up to date before the purge,
    which takes the change log with it: else they would have to be loaded anew.
    """
    wanted = subject.casefold()

    async def work(tx: TransactionStore) -> ForgetReport:
        inside = shelf.inside(tx)
        found = [document async for document in inside.text.scan(where=F("about").contains(wanted))]
        blobs = await erase(inside, found)
        await _erase_notes(inside, wanted, {document.id for document in found})
        return ForgetReport(subject, len(found), sum(d.payload["kind"] == TURN for d in found), blobs)

    report = await shelf.store.run_in_transaction(work, timeout=_TIMEOUT)
    if refresh:
        await _refresh(shelf)
    await _purge(shelf)
    return report


async def delete(shelf: Shelf, memory_id: str) -> bool:
    """Remove one memory, and its turn if it is one; whether it was there and not expired."""
    return await _erase_where(shelf, [memory_id], expired=False) > 0


async def sweep(shelf: Shelf) -> int:
    """Remove expired memories, some hundred at a time so that writers get their turn; how many there were."""
    condition, removed = F("expires_at") <= shelf.store.engine.clock.now(), 0
    ids = [document.id async for document in shelf.text.scan(where=condition)]
    for start in range(0, len(ids), _CHUNK):
        removed += await _erase_where(shelf, ids[start : start + _CHUNK], expired=True)
    return removed


async def _erase_where(shelf: Shelf, ids: Sequence[str], *, expired: bool) -> int:
    async def work(tx: TransactionStore) -> int:
        inside, now = shelf.inside(tx), shelf.store.engine.clock.now()
        documents = (await inside.text.get_many(ids)).values()
        found = [document for document in documents if is_expired(document.payload, now) == expired]
        await erase(inside, found)
        return len(found)

    return await shelf.store.run_in_transaction(work, timeout=_TIMEOUT)


async def erase(shelf: Shelf, documents: Sequence[Document]) -> int:
    """Remove memories with their turns, and the blobs that no other memory names; how many blobs there were."""
    turns = defaultdict(list)
    for document in documents:
        if document.payload["kind"] == TURN:
            turns[document.payload["session"]].append(document.payload["turn"])
    for session, numbers in turns.items():
        await shelf.store.turns.delete_many(session, numbers)
    if documents:
        await shelf.remove([document.id for document in documents])
    await count_subjects(shelf, (), lost=documents)
    return await erase_blobs(shelf, documents)


async def erase_blobs(shelf: Shelf, gone: Iterable[Document]) -> int:
    """Remove the blobs of memories that are gone, if no other memory names them; how many there were."""
    keys = {key for document in gone for key in document.payload.get("blobs", ())}
    if not keys:
        return 0
    async for document in shelf.text.scan(where=F("blobs").exists()):
        keys = keys.difference(document.payload["blobs"])
    return sum([await shelf.store.blobs().delete(key) for key in sorted(keys)])


async def _erase_notes(shelf: Shelf, wanted: str, ids: set[str]) -> None:
    """Names, idempotency keys, and former versions of memories that are about somebody else now."""
    notes = shelf.notes
    names = [entry.key async for entry in notes.entries("subject/") if entry.value["name"].casefold() == wanted]
    keys = [entry.key async for entry in notes.entries("once/") if ids.intersection(entry.value["ids"])]
    async for entry in notes.entries("history/"):
        kept = [version for version in entry.value if not _is_about(version, wanted)]
        if len(kept) < len(entry.value):
            await notes.put(entry.key, kept)
    await notes.delete_many([*names, *keys])


def _is_about(version: Any, wanted: str) -> bool:
    return wanted in version["payload"].get("about", ())


async def _refresh(shelf: Shelf) -> None:
    await shelf.text.frequencies(["any"])
    embedding = await shelf.current()
    if embedding is not None:
        await shelf.space(embedding).mean()


async def _purge(shelf: Shelf) -> None:
    try:
        await shelf.store.purge()
    except StorageTimeoutError as error:
        raise StorageTimeoutError(
            "the memories are erased, but deleted bytes may still be in the file, since somebody else kept it in "
            "use; call forget again when they have finished",
            engine=error.engine, operation="forget", outcome=Outcome.APPLIED,
        ) from error  # fmt: skip
