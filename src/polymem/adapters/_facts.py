"""Records of `working_memory`: facts learnt in conversations, in PostgreSQL (PG-1)."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from polymem.adapters._ids import malformed
from polymem.adapters._rows import FACTS, Rows
from polymem.adapters._search import Fields, read_search
from polymem.adapters.validation import validate_field_types, validate_known_fields, validate_required_fields
from polymem.contracts._input import json_object
from polymem.core.clock import Ttl, expiry, to_datetime, to_instant
from polymem.core.codec import encode_json
from polymem.core.text import check_key, check_text
from polymem.errors import StorageDataError
from polymem.store import Store

LIFE: Final = timedelta(days=7)
_LONGEST_TYPE: Final = 50
_LARGEST_TURN: Final = 2**31 - 1
_LARGEST_ID: Final = 2**63 - 1
_REQUIRED: Final = ("session_id", "fact_type", "content")
_TYPES: Final[Mapping[str, Any]] = {
    "session_id": str, "fact_type": str, "content": str, "confidence": int | float, "source_turn_ids": list | tuple,
    "metadata": Mapping, "created_at": datetime, "ttl_expires_at": datetime | None,
}  # fmt: skip
_COLUMNS: Final = {
    "fact_type": "text", "content": "text", "confidence": "double precision", "source_turn_ids": "integer[]",
    "metadata": "text", "ttl_expires_at": "timestamptz",
}  # fmt: skip
"""What can be changed, with the SQL type it travels as."""
_SORTABLE: Final = ("created_at", "updated_at", "confidence", "ttl_expires_at", "session_id", "fact_type")
_FIELDS: Final = Fields(("session_id", "fact_type"), _SORTABLE, (*_TYPES, "updated_at"))
_IS_ONE: Final = "tenant = $1 and id = $2 and (ttl_expires_at is null or ttl_expires_at > $3)"
_DELETE: Final = f"delete from working_memory where {_IS_ONE} returning 1"
_CLEAR: Final = (
    "with gone as (delete from working_memory where tenant = $1 and session_id = $2 returning ttl_expires_at) "
    "select count(*) from gone where ttl_expires_at is null or ttl_expires_at > $3"
)
_INSERT: Final = f"""
insert into working_memory(tenant, session_id, created_at, updated_at, metadata_text, {", ".join(_COLUMNS)})
select $1, session_id, created_at, created_at, nullif(metadata, '{{}}'),
    {", ".join("metadata::jsonb" if name == "metadata" else name for name in _COLUMNS)}
from rows from (json_to_recordset($2::text::json) as (session_id text, created_at timestamptz,
    {", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())})) with ordinality
order by ordinality returning id"""


class FactTable:
    """The four verbs on one tenant's facts."""

    def __init__(self, store: Store, tenant: str) -> None:
        self._store, self._tenant = store, tenant
        self.rows = Rows(store, FACTS, tenant)

    def check(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record with its defaults, as it is stored."""
        validate_required_fields(record, _REQUIRED)
        check_key(record["session_id"], field="session_id")
        now = to_datetime(self._store.engine.clock.now())
        defaults = {"confidence": 1.0, "source_turn_ids": [], "metadata": {}, "created_at": now}
        return _checked({**defaults, "ttl_expires_at": self.expires_at(LIFE), **record})

    async def store(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        """All or nothing."""
        as_json = encode_json([_plain(record) for record in records]).decode()
        found = await self._store.sql.execute(_INSERT, [self._tenant, as_json])
        return [str(id) for id in sorted(id for (id,) in found)]

    async def retrieve(self, id: str) -> dict[str, Any] | None:
        return await self.rows.get(_number(id))

    async def search(self, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        wanted = read_search(query, _FIELDS)
        return await self.rows.search(wanted) if wanted.limit else []

    async def count(self, query: Mapping[str, Any]) -> int:
        return await self.rows.count(read_search(query, _FIELDS))

    async def delete(self, id: str) -> bool:
        return bool(await self._store.sql.execute(_DELETE, [self._tenant, _number(id), self.rows.now()]))

    async def update(self, id: str, changes: Mapping[str, Any]) -> bool:
        """Change some fields; whether the fact is there."""
        validate_known_fields(changes, _COLUMNS)
        if not changes:
            raise StorageDataError(f"expected some of {', '.join(_COLUMNS)}", field="changes")
        checked = _checked(changes)
        values = [self._tenant, _number(id), self.rows.now(), *checked.values()]
        places = {name: f"${number}::{_COLUMNS[name]}" for number, name in enumerate(checked, 4)}
        assigned = [f"{name} = {place}{'::jsonb' * (name == 'metadata')}" for name, place in places.items()]
        if "metadata" in places:
            assigned.append(f"metadata_text = nullif({places['metadata']}, '{{}}')")
        statement = f"update working_memory set {', '.join(assigned)} where {_IS_ONE} returning 1"
        return bool(await self._store.sql.execute(statement, values))

    async def clear(self, session_id: str) -> int:
        check_key(session_id, field="session_id")
        return int((await self._store.sql.execute(_CLEAR, [self._tenant, session_id, self.rows.now()]))[0][0])

    def expires_at(self, ttl: Ttl | None) -> datetime | None:
        instant = expiry(ttl, self._store.engine.clock)
        return None if instant is None else to_datetime(instant)


def _number(id: str) -> int:
    if not isinstance(id, str) or not (id.isascii() and id.isdigit()) or int(id) > _LARGEST_ID or id != str(int(id)):
        raise malformed()
    return int(id)


def _checked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are there, as they are stored."""
    validate_known_fields(fields, _TYPES)
    validate_field_types(fields, _TYPES)
    return {name: _CHECKS[name](value) if name in _CHECKS else value for name, value in fields.items()}


def _fact_type(value: str) -> str:
    if not 1 <= len(check_text(value, field="fact_type")) <= _LONGEST_TYPE:
        raise StorageDataError(f"expected 1 to {_LONGEST_TYPE} characters", field="fact_type")
    return value


def check_confidence(value: float, *, field: str = "confidence") -> float:
    """A number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise StorageDataError("expected a number from 0 to 1", field=field)
    return float(value)


def _turn_ids(value: Sequence[Any]) -> list[int]:
    if any(type(turn_id) is not int or not 0 <= turn_id <= _LARGEST_TURN for turn_id in value):
        raise StorageDataError(f"expected whole numbers from 0 to {_LARGEST_TURN}", field="source_turn_ids")
    return list(value)


def _instant(field: str, value: datetime | None) -> datetime | None:
    return None if value is None else to_datetime(to_instant(value, field=field))


_CHECKS: Final[Mapping[str, Any]] = {
    "fact_type": _fact_type,
    "content": lambda value: check_text(value, field="content"),
    "confidence": check_confidence,
    "source_turn_ids": _turn_ids,
    "metadata": lambda value: encode_json(json_object(value, field="metadata")).decode(),
    "created_at": lambda value: _instant("created_at", value),
    "ttl_expires_at": lambda value: _instant("ttl_expires_at", value),
}


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """A checked record as JSON can hold it."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in record.items()}
