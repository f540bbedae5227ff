"""Changing a memory; its former state stays in the history."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from polymem.contracts.text import Document
from polymem.contracts.turns import TurnInput
from polymem.core.clock import Clock, expiry, to_datetime
from polymem.errors import StorageDataError, StorageNotFoundError
from polymem.memory.records import TURN, Draft, MemoryRecord, draft_of, instant, is_expired, record_of
from polymem.memory.shelf import Shelf
from polymem.memory.write import replace_memory

_CHANGEABLE: Final = (
    "text", "kind", "subject", "source", "confidence", "importance", "metadata", "valid_from", "valid_to", "ttl",
)  # fmt: skip


async def update(shelf: Shelf, memory_id: str, changes: Mapping[str, Any]) -> MemoryRecord:
    """Change some fields; of two callers at once the second changes what the first left."""
    for name in changes:
        if name not in _CHANGEABLE:
            raise StorageDataError(f"expected some of {', '.join(_CHANGEABLE)}", field=name)
    clock = shelf.store.engine.clock
    prepared = _prepared(changes, clock)
    while True:
        before = await shelf.text.get(memory_id)
        if before is None or is_expired(before.payload, clock.now()):
            raise StorageNotFoundError("no such memory", field="memory_id")
        if "kind" in changes and TURN in (before.payload["kind"], changes["kind"]):
            raise StorageDataError("a turn stays a turn, and nothing else becomes one", field="kind")
        draft = replace(draft_of(before), **prepared)
        after = await replace_memory(shelf, before, draft, await _turn(shelf, before, draft, "text" in changes))
        if after is not None:
            return record_of(after)


def _prepared(changes: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    prepared = {name: value for name, value in changes.items() if name != "ttl"}
    for name in prepared.keys() & {"valid_from", "valid_to"}:
        prepared[name] = instant(prepared[name], name=name)
    if "ttl" in changes:
        prepared["expires_at"] = expiry(changes["ttl"], clock)
    return prepared


async def _turn(shelf: Shelf, before: Document, draft: Draft, rewritten: bool) -> TurnInput | None:
    """The new state of the turn that a memory is of, so that the session says the same."""
    if before.payload["kind"] != TURN:
        return None
    turn = await shelf.store.turns.get(before.payload["session"], before.payload["turn"])
    if turn is None:
        return None
    if rewritten and not isinstance(turn.content, str):
        raise StorageDataError("this turn is made of parts, from which its text follows", field="text")
    ttl = None if draft.expires_at is None else to_datetime(draft.expires_at)
    content = draft.text if rewritten else turn.content
    return TurnInput(turn.role, content, turn.turn_id, draft.metadata, turn.created_at, ttl, turn.id)
