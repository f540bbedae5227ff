"""How memories come in: durable before the call returns, all or nothing, without a language model."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from polymem.contracts.text import Document
from polymem.contracts.turns import TurnInput
from polymem.core.codec import encode_json
from polymem.core.text import check_text
from polymem.errors import StorageConflictError, StorageDataError
from polymem.memory.records import Draft, draft_of, turn_memory_id
from polymem.memory.shelf import Shelf
from polymem.store import TransactionStore

ONCE_SECONDS: Final = 7 * 86_400
_TIMEOUT: Final = 60.0
_CHUNK: Final = 500


async def add_turns(
    shelf: Shelf,
    session: str,
    turns: Sequence[tuple[TurnInput, Draft]],
    *,
    once: str | None = None,
    skip_existing: bool = False,
) -> list[str]:
    """Append turns to a session and index them, in one transaction; the ids of their memories."""
    matrix = await shelf.embed([draft for _, draft in turns])

    async def work(tx: TransactionStore) -> list[str]:
        inside = shelf.inside(tx)
        digest = _digest(("turns", session, [[i.role, i.content, i.turn_id, dict(i.metadata or {})] for i, _ in turns]))
        done = await _earlier(inside, once, digest)
        if done is not None:
            return done
        kept = await _missing(inside, session, turns) if skip_existing else range(len(turns))
        stored = await inside.store.turns.append_many(session, [turns[n][0] for n in kept])
        ids = [turn_memory_id(session, turn.turn_id) for turn in stored]
        documents = [turns[n][1].document(i, t.turn_id) for n, i, t in zip(kept, ids, stored, strict=True)]
        await inside.put(documents, None if matrix is None else matrix[list(kept)])
        await _remember_once(inside, once, digest, ids)
        await _note_subjects(inside, [turns[n][1] for n in kept])
        return ids

    return await shelf.store.run_in_transaction(work, timeout=_TIMEOUT)


async def add_memory(shelf: Shelf, memory_id: str, draft: Draft, *, once: str | None = None) -> str:
    """Store one memory under its id; the id, or that of the earlier call with the same idempotency key."""
    matrix = await shelf.embed([draft])
    document = draft.document(memory_id)

    async def work(tx: TransactionStore) -> str:
        inside = shelf.inside(tx)
        digest = _digest(("memory", draft.text, _comparable(document)))
        done = await _earlier(inside, once, digest)
        if done is not None:
            return done[0]
        await inside.put([document], matrix)
        await _remember_once(inside, once, digest, [memory_id])
        await _note_subjects(inside, [draft])
        return memory_id

    return await shelf.store.run_in_transaction(work, timeout=_TIMEOUT)


async def replace_memory(shelf: Shelf, before: Document, draft: Draft) -> None:
    """Store the new state of a memory and keep the former one in its history."""
    matrix = await shelf.embed([draft])

    async def work(tx: TransactionStore) -> None:
        inside = shelf.inside(tx)
        key = f"history/{before.id}"
        history: Any = await inside.notes.get(key) or ()
        version = {"fields": before.fields, "payload": before.payload, "replaced_at": shelf.store.engine.clock.now()}
        await inside.notes.put(key, [*history, version])
        await inside.put([draft.document(before.id, before.payload.get("turn"))], matrix)
        await _note_subjects(inside, [draft])

    await shelf.store.run_in_transaction(work, timeout=_TIMEOUT)


def once_key(key: str) -> str:
    """Where an idempotency key is kept: hashed, so that erasing a person leaves no name in it."""
    return "once/" + hashlib.sha256(check_text(key, field="idempotency_key").encode()).hexdigest()


async def _missing(shelf: Shelf, session: str, turns: Sequence[tuple[TurnInput, Draft]]) -> list[int]:
    present = {turn.turn_id async for turn in shelf.store.turns.scan(session)}
    return [n for n, (turn, _) in enumerate(turns) if turn.turn_id not in present]


async def _earlier(shelf: Shelf, once: str | None, digest: str) -> list[str] | None:
    if once is None:
        return None
    note = await shelf.notes.get(once_key(once))
    if note is None:
        return None
    if note["digest"] != digest:
        raise StorageConflictError("this key was used for other content within 7 days", field="idempotency_key")
    ids: list[str] = note["ids"]
    return ids


async def _remember_once(shelf: Shelf, once: str | None, digest: str, ids: Sequence[str]) -> None:
    if once is not None:
        await shelf.notes.put(once_key(once), {"digest": digest, "ids": list(ids)}, ttl=ONCE_SECONDS)


async def _note_subjects(shelf: Shelf, drafts: Sequence[Draft]) -> None:
    names = {draft.subject for draft in drafts if draft.subject}
    if names:
        await shelf.notes.put_many({f"subject/{name}": None for name in names})


def _comparable(document: Document) -> Mapping[str, Any]:
    """What makes two calls the same: all but the instant they were made."""
    return {name: value for name, value in document.payload.items() if name not in ("at", "expires_at")}


def _digest(content: object) -> str:
    return hashlib.sha256(encode_json(content)).hexdigest()


async def reembed(shelf: Shelf, on_progress: Callable[[int], Awaitable[None] | None] | None = None) -> int:
    """Replace every vector by one of the shelf's model; how many memories were embedded."""
    if shelf.embedder is None:
        raise StorageDataError("there is no embedder to embed with", field="embed")
    stored = await shelf.stored_model()
    if stored is not None:
        await shelf.store.vectors("memory", dimensions=stored["dimensions"], model=stored["model"]).clear()
    ours = {"model": shelf.embedder.name, "dimensions": shelf.embedder.dimensions}
    await shelf.notes.put("embedding", ours)
    total, batch = 0, []
    async for document in shelf.text.scan():
        batch.append(document)
        if len(batch) == _CHUNK:
            total, batch = total + await _embed_again(shelf, batch), []
            await _tell(on_progress, total)
    total += await _embed_again(shelf, batch)
    await _tell(on_progress, total)
    return total


async def _embed_again(shelf: Shelf, documents: Sequence[Document]) -> int:
    matrix = await shelf.embed([draft_of(document) for document in documents])
    await shelf.put_vectors(documents, matrix)
    return len(documents)


async def _tell(on_progress: Callable[[int], Awaitable[None] | None] | None, total: int) -> None:
    told = on_progress(total) if on_progress is not None else None
    if told is not None:
        await told
