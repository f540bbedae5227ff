"""Erasing a person: every record, index entry, former version and blob, and no byte left behind (TIER-5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polymem.contracts.filter import F
from polymem.contracts.text import Document
from polymem.memory.records import TURN
from polymem.memory.shelf import Shelf
from polymem.store import TransactionStore


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What was erased."""

    subject: str
    memories: int
    """Turns and other memories, with their vectors and former versions."""
    turns: int
    blobs: int


async def forget(shelf: Shelf, subject: str) -> ForgetReport:
    """Erase what is about a subject or was said by them, in one transaction, then purge the deleted bytes.

    Names are compared without regard to case.
    """

    async def work(tx: TransactionStore) -> ForgetReport:
        inside = shelf.inside(tx)
        condition = F("about").contains(subject.casefold())
        found = [document async for document in inside.text.scan(where=condition)]
        blobs = await _erase_turns(inside, [d for d in found if d.payload["kind"] == TURN])
        await inside.remove([document.id for document in found])
        await _erase_notes(inside, subject, {document.id for document in found})
        return ForgetReport(subject, len(found), sum(d.payload["kind"] == TURN for d in found), blobs)

    report = await shelf.store.run_in_transaction(work, timeout=600.0)
    await shelf.store.purge()
    return report


async def erase(shelf: Shelf, document: Document) -> None:
    """Remove one memory, and its turn if it is one."""

    async def work(tx: TransactionStore) -> None:
        inside = shelf.inside(tx)
        if document.payload["kind"] == TURN:
            await _erase_turns(inside, [document])
        await inside.remove([document.id])

    await shelf.store.run_in_transaction(work)


async def _erase_turns(shelf: Shelf, documents: Sequence[Document]) -> int:
    """Remove turns with the blobs their parts name; how many blobs there were."""
    gone = 0
    for document in documents:
        session, number = document.payload["session"], document.payload["turn"]
        turn = await shelf.store.turns.get(session, number, include_expired=True)
        if turn is None:
            continue
        await shelf.store.turns.delete(session, number)
        for key in _blob_keys(turn.content):
            gone += await shelf.store.blobs().delete(key)
    return gone


def _blob_keys(content: object) -> list[str]:
    parts = content if isinstance(content, list) else []
    return [part["blob"] for part in parts if isinstance(part, dict) and isinstance(part.get("blob"), str)]


async def _erase_notes(shelf: Shelf, subject: str, ids: set[str]) -> None:
    wanted = subject.casefold()
    names = [key async for key in shelf.notes.scan("subject/") if key.removeprefix("subject/").casefold() == wanted]
    once = [entry.key async for entry in shelf.notes.entries("once/") if ids.intersection(_ids(entry.value))]
    await shelf.notes.delete_many([*names, *once])


def _ids(note: Any) -> list[str]:
    ids: list[str] = note["ids"]
    return ids


