"""Who memories are about: names counted, so that one nobody is left for disappears."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from polymem.contracts.text import Document
from polymem.memory.shelf import Shelf, subject_key


async def count_subjects(shelf: Shelf, gained: Sequence[Document], lost: Sequence[Document] = ()) -> None:
    """Note in the transaction that some documents came and others went."""
    changes = Counter(_names(gained))
    changes.subtract(_names(lost))
    if not changes:
        return
    stored: dict[str, Any] = await shelf.notes.get_many([subject_key(name) for name in changes])
    expiries = {name: _latest([d for d in gained if d.payload.get("subject") == name]) for name in _names(gained)}
    put, gone = {}, []
    for name, change in changes.items():
        key = subject_key(name)
        before = stored.get(key, {"memories": 0, "until": 0})
        count = before["memories"] + change
        if count > 0:
            put[key] = {"name": name, "memories": count, "until": _later(before["until"], expiries.get(name, 0))}
        else:
            gone.append(key)
    await shelf.notes.put_many(put)
    await shelf.notes.delete_many(gone)


async def subjects(shelf: Shelf, now: int) -> list[str]:
    """The names that a memory is about, in order; those of expired memories are gone at once."""
    notes = [entry.value async for entry in shelf.notes.entries("subject/")]
    return sorted(note["name"] for note in notes if note["until"] is None or note["until"] > now)


def _names(documents: Sequence[Document]) -> list[str]:
    return [document.payload["subject"] for document in documents if document.payload.get("subject")]


def _latest(documents: Sequence[Document]) -> int | None:
    """When the last of them expires; None is never."""
    latest: int | None = 0
    for document in documents:
        latest = _later(latest, document.payload.get("expires_at"))
    return latest


def _later(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)
