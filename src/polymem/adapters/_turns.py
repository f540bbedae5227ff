"""Records of `active_context`: the turns of conversations, whatever keeps them."""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from polymem.adapters._ids import read_key, turn_key
from polymem.adapters._rows import Rows
from polymem.adapters._search import Fields, Search, read_search
from polymem.adapters.validation import validate_field_types, validate_known_fields, validate_required_fields
from polymem.contracts.filter import matches
from polymem.contracts.turns import Turn, TurnInput, Turns
from polymem.core.clock import Ttl, to_instant
from polymem.errors import StorageDataError
from polymem.store import Store

REQUIRED: Final = ("session_id", "turn_id", "content")
_TYPES: Final[Mapping[str, Any]] = {
    "session_id": str, "turn_id": int, "content": str | list, "role": str, "metadata": Mapping,
    "created_at": datetime, "ttl_expires_at": datetime | None,
}  # fmt: skip
_SORTABLE: Final = ("turn_id", "created_at", "ttl_expires_at", "session_id")


class TurnTable:
    """The four verbs on turns. `rows` searches them in the database itself, where it can."""

    def __init__(self, store: Store, *, ttl: float, limit: int, one_session: bool, rows: Rows | None = None) -> None:
        self._store, self._ttl, self._rows = store, ttl, rows
        required = ("session_id",) if one_session else ()
        self._fields = Fields(("session_id",), _SORTABLE, tuple(_TYPES), required, limit)

    @property
    def turns(self) -> Turns:
        return self._store.turns

    async def store(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        """All or nothing, but for several sessions on an engine without transactions."""
        sessions: dict[str, list[TurnInput]] = defaultdict(list)
        for record in records:
            sessions[record["session_id"]].append(self._turn(record))
        if len(sessions) > 1 and self._store.supports("transactions"):
            async with self._store.transaction() as tx:
                await _append(tx.turns, sessions)
        else:
            await _append(self.turns, sessions)
        return [turn_key(record["session_id"], record["turn_id"]) for record in records]

    def check(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        validate_required_fields(record, REQUIRED)
        validate_known_fields(record, _TYPES)
        validate_field_types(record, _TYPES)
        for name in ("created_at", "ttl_expires_at"):
            if record.get(name) is not None:
                to_instant(record[name], field=name)
        return record

    async def retrieve(self, id: str) -> dict[str, Any] | None:
        session_id, turn_id = read_key(id)
        if turn_id is None:
            raise StorageDataError("this is the id of a whole session; search() shows its turns", field="id")
        turn = await self.turns.get(session_id, turn_id)
        return None if turn is None else as_record(turn)

    async def delete(self, id: str) -> bool:
        session_id, turn_id = read_key(id)
        if turn_id is None:
            return await self.turns.clear(session_id) > 0
        return await self.turns.delete(session_id, turn_id)

    async def search(self, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        wanted = read_search(query, self._fields)
        if not wanted.limit:
            return []
        if wanted.where is None and wanted.equal and wanted.sort == "turn_id" and wanted.descending:
            turns = await self.turns.recent(
                wanted.equal["session_id"], limit=wanted.limit, offset=wanted.offset,
                include_expired=wanted.include_expired,
            )  # fmt: skip
            return [as_record(turn) for turn in turns]
        if self._rows is not None:
            return await self._rows.search(wanted)
        found = [record async for record in self._matching(wanted)]
        return _sorted(found, wanted)[wanted.offset : wanted.offset + wanted.limit]

    async def count(self, query: Mapping[str, Any]) -> int:
        wanted = read_search(query, self._fields._replace(required=()))
        if wanted.where is None:
            return await self.turns.count(wanted.equal.get("session_id"), include_expired=wanted.include_expired)
        if self._rows is not None:
            return await self._rows.count(wanted)
        return len([record async for record in self._matching(wanted)])

    async def _matching(self, wanted: Search) -> AsyncIterator[dict[str, Any]]:
        async for session_id in self._sessions(wanted):
            async for turn in self.turns.scan(session_id, include_expired=wanted.include_expired):
                record = as_record(turn)
                if matches(wanted.where, as_document(record)):
                    yield record

    async def _sessions(self, wanted: Search) -> AsyncIterator[str]:
        if wanted.equal:
            yield wanted.equal["session_id"]
            return
        if wanted.include_expired:
            raise StorageDataError("include_expired needs a session here", field="session_id")
        async for session_id in self.turns.sessions():
            yield session_id

    def _turn(self, record: Mapping[str, Any]) -> TurnInput:
        ttl: Ttl | None = record.get("ttl_expires_at", self._ttl)
        return TurnInput(
            record.get("role", "user"), record["content"], record["turn_id"], record.get("metadata"),
            record.get("created_at"), ttl,
        )  # fmt: skip


async def _append(turns: Turns, sessions: Mapping[str, list[TurnInput]]) -> None:
    for session_id, several in sessions.items():
        await turns.append_many(session_id, several)


def as_record(turn: Turn) -> dict[str, Any]:
    return {
        "id": turn_key(turn.session_id, turn.turn_id), "session_id": turn.session_id, "turn_id": turn.turn_id,
        "role": turn.role, "content": turn.content, "metadata": turn.metadata, "created_at": turn.created_at,
        "ttl_expires_at": turn.expires_at,
    }  # fmt: skip


def as_document(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as filters see it: instants are ISO-8601 text of one length, in UTC."""
    instants = (name for name in record if isinstance(record[name], datetime))
    return {**record, **{name: record[name].isoformat(timespec="microseconds") for name in instants}}


def _sorted(records: list[dict[str, Any]], wanted: Search) -> list[dict[str, Any]]:
    """In the order wanted, None last; what ties goes by session and turn."""
    by_key = sorted(records, key=lambda record: (record["session_id"], record["turn_id"]))
    given = [record for record in by_key if record[wanted.sort] is not None]
    given.sort(key=lambda record: record[wanted.sort], reverse=wanted.descending)
    return given + [record for record in by_key if record[wanted.sort] is None]
