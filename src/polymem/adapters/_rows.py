"""Searching `active_context` and `working_memory` in PostgreSQL itself: nothing is filtered or ordered in Python."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from polymem.adapters._ids import turn_key
from polymem.adapters._search import Search
from polymem.contracts.filter import And, Compare, Filter
from polymem.core.clock import to_datetime
from polymem.core.codec import decode_json
from polymem.engines.postgres.filter_sql import Values, compile_filter
from polymem.store import Store

_INSTANT: Final = "to_char({} at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')"
METADATA: Final = "case when t.metadata_text::jsonb = t.metadata then t.metadata_text else t.metadata::text end"
_LIVE: Final = "(t.ttl_expires_at is null or t.ttl_expires_at > {})"
_ROUND: Final = 1000
_LARGEST_TURN: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Shape:
    """A table and its fields as SQL: as they come back, and as filters see them where that differs."""

    table: str
    columns: Mapping[str, str]
    documents: Mapping[str, str]
    ties: str
    """What decides the order of rows that tie."""

    def document(self) -> str:
        fields = (f"'{name}', {self.documents.get(name, column)}" for name, column in self.columns.items())
        return f"json_build_object({', '.join(fields)})"


_ENCODED: Final = "case when t.encoded then t.content::json else to_json(t.content) end"
_TIMES: Final = {name: _INSTANT.format(f"t.{name}") for name in ("created_at", "updated_at", "ttl_expires_at")}
TURNS: Final = Shape(
    "active_context",
    {
        **{name: f"t.{name}" for name in ("session_id", "turn_id", "role")},
        "content": f"({_ENCODED})::text", "metadata": METADATA, "created_at": "t.created_at",
        "ttl_expires_at": "t.ttl_expires_at",
    },
    {**_TIMES, "content": _ENCODED, "metadata": f"({METADATA})::json"},
    "t.session_id, t.turn_id",
)  # fmt: skip
FACTS: Final = Shape(
    "working_memory",
    {
        **{name: f"t.{name}" for name in ("session_id", "fact_type", "content", "confidence", "source_turn_ids")},
        "metadata": METADATA,
        **{name: f"t.{name}" for name in _TIMES},
    },
    {**_TIMES, "metadata": f"({METADATA})::json"},
    "t.id",
)


class Rows:
    """The rows that one tenant has in one of the tables."""

    def __init__(self, store: Store, shape: Shape, tenant: str) -> None:
        self._store, self._shape, self._tenant = store, shape, tenant

    async def search(self, wanted: Search) -> list[dict[str, Any]]:
        """The records found, in order, with their ids."""
        values = Values()
        columns = ", ".join((*self._shape.columns.values(), "t.id"))
        direction = "desc" if wanted.descending else "asc"
        condition = self._condition(wanted, values)
        found = await self._store.sql.query(
            f"select {columns} from {self._shape.table} t where {condition} "
            f"order by t.{wanted.sort} {direction} nulls last, {self._shape.ties} "
            f"limit {values.add(wanted.limit, 'bigint')} offset {values.add(wanted.offset, 'bigint')}",
            values,
        )
        return [self.record(row) for row in found]

    async def get(self, id: int) -> dict[str, Any] | None:
        """A row that is not expired by the id that the database gave it."""
        columns = ", ".join((*self._shape.columns.values(), "t.id"))
        found = await self._store.sql.query(
            f"select {columns} from {self._shape.table} t where t.tenant = $1 and t.id = $2 and {_LIVE.format('$3')}",
            [self._tenant, id, self.now()],
        )
        return self.record(found[0]) if found else None

    async def count(self, wanted: Search) -> int:
        values = Values()
        statement = f"select count(*) from {self._shape.table} t where {self._condition(wanted, values)}"
        return int((await self._store.sql.query(statement, values))[0][0])

    async def delete_expired(self) -> int:
        """Remove what has expired of every tenant, 1,000 rows a transaction; how many there were."""
        statement = (
            f"delete from {self._shape.table} where ctid in (select ctid from {self._shape.table} "
            f"where ttl_expires_at <= $1 limit {_ROUND} for update skip locked) returning 1"
        )
        total, removed = 0, _ROUND
        while removed == _ROUND:
            removed = len(await self._store.sql.execute(statement, [self.now()]))
            total += removed
        return total

    def record(self, row: tuple[Any, ...]) -> dict[str, Any]:
        """A row of the columns of the shape and the row's own id."""
        found = dict(zip(self._shape.columns, row, strict=False))
        found["metadata"] = decode_json(found["metadata"])
        if self._shape is not TURNS:
            return {"id": str(row[-1]), **found}
        found["content"] = decode_json(found["content"])
        return {"id": turn_key(found["session_id"], found["turn_id"]), **found}

    def now(self) -> datetime:
        return to_datetime(self._store.engine.clock.now())

    def _condition(self, wanted: Search, values: Values) -> str:
        parts = [f"t.tenant = {values.add(self._tenant, 'text')}"]
        parts += [f"t.{name} = {values.add(value, 'text')}" for name, value in wanted.equal.items()]
        if not wanted.include_expired:
            parts.append(_LIVE.format(values.add(self.now(), "timestamptz")))
        if wanted.where is not None:
            document = self._shape.document()
            parts.append(compile_filter(wanted.where, document, values, jsonb="t.metadata", at=("metadata",)))
            parts += [f"t.source_turn_ids @> array[{values.add(id, 'integer')}]" for id in _sources(wanted.where)]
        return " and ".join(parts)


def _sources(where: Filter) -> list[int]:
    """The turns that a fact must come from whatever else it satisfies: an index answers that."""
    tests = where.items if isinstance(where, And) else (where,)
    wanted = (
        one.value for one in tests
        if isinstance(one, Compare) and (one.path, one.op) == (("source_turn_ids",), "contains")
    )  # fmt: skip
    return [id for id in wanted if type(id) is int and 0 <= id <= _LARGEST_TURN]
