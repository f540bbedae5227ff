"""How memories come in: durable before the call returns, all or nothing, without a language model."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from polymem.contracts._input import all_checked
from polymem.contracts.text import Document
from polymem.contracts.turns import TurnInput
from polymem.core.codec import encode_json
from polymem.core.text import check_text
from polymem.errors import StorageConflictError
from polymem.memory.forget import erase_blobs
from polymem.memory.records import Draft, is_expired, turn_memory_id
from polymem.memory.shelf import Shelf, history_key
from polymem.memory.subjects import count_subjects
from polymem.store import TransactionStore

ONCE_SECONDS: Final = 7 * 86_400
TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Once:
    """An idempotency key and what was asked under it, both hashed: erasing a person leaves no word in them."""

    key: str
    digest: str


def once(operation: str, key: str | None, asked: object) -> Once | None:
    """`asked` is what makes two calls the same: the arguments as given, without what was filled in."""
    if key is None:
        return None
    check_text(key, field="idempotency_key")
    return Once(f"once/{operation}/{_digest(key)}", _digest(asked))


async def add_turns(
    shelf: Shelf,
    session: str,
    turns: Sequence[tuple[TurnInput, Draft]],
    *,
    asked: Once | None = None,
    skip_existing: bool = False,
) -> list[str]:
    """Append turns to a session and index them, in one transaction; the ids of their memories."""
    matrix = await shelf.embed([draft for _, draft in turns])

    async def work(tx: TransactionStore) -> list[str]:
        inside = shelf.inside(tx)
        done = await _earlier(inside, asked)
        if done is not None:
            return done
        kept = await _missing(inside, session, turns) if skip_existing else list(range(len(turns)))
        stored = await inside.store.turns.append_many(session, [turns[n][0] for n in kept])
        ids = [turn_memory_id(session, turn.turn_id) for turn in stored]
        made = zip(kept, ids, stored, strict=True)
        documents = await all_checked(made, lambda m: turns[m[0]][1].document(m[1], m[2].turn_id), field="turns")
        await _put(inside, documents, None if matrix is None else matrix[kept])
        await _remember_once(inside, asked, ids)
        return ids

    return await shelf.store.run_in_transaction(work, timeout=TIMEOUT)


async def add_memory(shelf: Shelf, memory_id: str, draft: Draft, *, asked: Once | None = None) -> str:
    """Store one memory under its id; the id, or that of the earlier call with the same idempotency key."""
    matrix = await shelf.embed([draft])

    async def work(tx: TransactionStore) -> str:
        inside = shelf.inside(tx)
        done = await _earlier(inside, asked)
        if done is not None:
            return done[0]
        await _put(inside, [draft.document(memory_id)], matrix)
        await _remember_once(inside, asked, [memory_id])
        return memory_id

    return await shelf.store.run_in_transaction(work, timeout=TIMEOUT)


async def replace_memory(
    shelf: Shelf, before: Document, draft: Draft, turn: TurnInput | None = None
) -> Document | None:
    """Store the new state of a memory and keep the former one in its history; None if it changed meanwhile.

    `turn` is the new state of its turn, where that changes too.
    """
    matrix = await shelf.embed([draft])
    after = draft.document(before.id, before.payload.get("turn"))

    async def work(tx: TransactionStore) -> Document | None:
        inside = shelf.inside(tx)
        if await inside.text.get(before.id) != before:
            return None
        if turn is not None:
            await inside.store.turns.append_many(before.payload["session"], [turn], replace=True)
        key = history_key(before.id)
        history: Any = await inside.notes.get(key) or ()
        version = {"fields": before.fields, "payload": before.payload}
        await inside.notes.put(key, [*history, version])
        await _put(inside, [after], matrix, lost=[before])
        return after

    return await shelf.store.run_in_transaction(work, timeout=TIMEOUT)


async def _put(shelf: Shelf, documents: Sequence[Document], matrix: Any, lost: Sequence[Document] = ()) -> None:
    if not documents:
        return
    # a turn may take the place of an expired one, whose memory was not swept yet
    ids = [document.id for document in documents if document.payload.get("turn") is not None and not lost]
    replaced = await shelf.text.get_many(ids) if ids else {}
    await shelf.put(documents, matrix)
    await count_subjects(shelf, documents, [*lost, *replaced.values()])
    if replaced:
        await shelf.notes.delete_many([history_key(memory_id) for memory_id in replaced])
        await erase_blobs(shelf, replaced.values())


async def _missing(shelf: Shelf, session: str, turns: Sequence[tuple[TurnInput, Draft]]) -> list[int]:
    ids = [turn_memory_id(session, turn.turn_id or 0) for turn, _ in turns]
    now = shelf.store.engine.clock.now()
    present = {i for i, document in (await shelf.text.get_many(ids)).items() if not is_expired(document.payload, now)}
    return [n for n, memory_id in enumerate(ids) if memory_id not in present]


async def _earlier(shelf: Shelf, asked: Once | None) -> list[str] | None:
    note = None if asked is None else await shelf.notes.get(asked.key)
    if asked is None or note is None:
        return None
    if note["digest"] != asked.digest:
        raise StorageConflictError("this key was used for other content within 7 days", field="idempotency_key")
    ids: list[str] = note["ids"]
    return ids


async def _remember_once(shelf: Shelf, asked: Once | None, ids: Sequence[str]) -> None:
    if asked is not None:
        await shelf.notes.put(asked.key, {"digest": asked.digest, "ids": list(ids)}, ttl=ONCE_SECONDS)


def _digest(content: object) -> str:
    return hashlib.sha256(encode_json(content)).hexdigest()
