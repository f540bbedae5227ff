"""Adapters over the engines of this library: conversation turns as records."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import islice
from typing import Any, ClassVar, Final, Literal, Protocol, TypeVar

from polymem.adapters._ids import session_key
from polymem.adapters._rows import Rows
from polymem.adapters._settings import Declaration, read_config
from polymem.adapters._turns import TurnTable, as_record
from polymem.adapters.adapter import StorageAdapter
from polymem.contracts._input import several
from polymem.contracts.turns import Content
from polymem.core.clock import Ttl
from polymem.core.engine import details_of, pool_of
from polymem.core.health import HealthCheckResult
from polymem.store import Store

Result = TypeVar("Result")
Life = Ttl | Literal["default"] | None
"""How long a record lives: seconds, a timedelta, an instant, None for ever, or as long as `config` says."""
_AT_ONCE: Final = 100


class Table(Protocol):
    """The four verbs on records of one kind."""

    def check(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """The record as `store` takes it; `StorageDataError` for a bad one."""
        ...

    async def store(self, records: list[Mapping[str, Any]]) -> list[str]: ...

    async def retrieve(self, id: str) -> dict[str, Any] | None: ...

    async def search(self, query: Mapping[str, Any]) -> list[dict[str, Any]]: ...

    async def delete(self, id: str) -> bool: ...

    async def count(self, query: Mapping[str, Any]) -> int: ...


class TurnAdapter(StorageAdapter):
    """Records of the table `active_context`: `session_id`, `turn_id` and `content`; and if you like `role` ("user"),
    `metadata`, `created_at` and `ttl_expires_at` (None: never).

    A session and turn id that exist are a `StorageConflictError`.
    """

    declared: ClassVar[Declaration]

    def __init__(self, config: Mapping[str, Any] | str) -> None:
        super().__init__(config)
        self.settings = read_config(self.config, self.declared)
        self._root = self.settings.store()
        self._turns = TurnTable(
            self.backend, ttl=self.settings.ttl, limit=self.settings.limit, one_session=self.declared.one_session,
            rows=self._rows(),
        )  # fmt: skip
        self._table: Table = self._turns

    @property
    def backend(self) -> Store:
        """The store that holds this tenant's records, for all that four verbs cannot do."""
        return self._root.namespace(self.settings.tenant)

    async def connect(self) -> None:
        await self._root.open()

    async def disconnect(self) -> None:
        await self._root.close()

    async def store(self, data: Mapping[str, Any], /) -> str:
        return (await self._table.store([self._table.check(data)]))[0]

    async def retrieve(self, id: str, /) -> dict[str, Any] | None:
        return await self._table.retrieve(id)

    async def search(self, query: Mapping[str, Any], /) -> list[dict[str, Any]]:
        return await self._table.search(query)

    async def delete(self, id: str, /) -> bool:
        return await self._table.delete(id)

    async def count(self, query: Mapping[str, Any] | None = None, /) -> int:
        """How many records a query finds, all of them without one."""
        return await self._table.count(query or {})

    async def store_batch(self, records: Iterable[Mapping[str, Any]], /) -> list[str]:
        """Store records, all or nothing; on an engine without transactions that is so for each session."""
        checked = [self._table.check(record) for record in several(records, field="records")]
        return await self._table.store(checked) if checked else []

    async def retrieve_batch(self, ids: Iterable[str], /) -> list[dict[str, Any] | None]:
        """The records of several ids, in the same order."""
        return await _each(self._table.retrieve, several(ids, field="ids"))

    async def delete_batch(self, ids: Iterable[str], /) -> dict[str, bool]:
        """Remove several records; for each id whether it was there."""
        unique = list(dict.fromkeys(several(ids, field="ids")))
        return dict(zip(unique, await _each(self._table.delete, unique), strict=True))

    async def health_check(self) -> HealthCheckResult:
        """Whether the engine answers; never raises and takes at most 5 seconds."""
        return await self._root.health()

    def session_key(self, session_id: str) -> str:
        """The id of a whole session, which `delete` takes."""
        return session_key(session_id)

    async def add_turn(
        self, session_id: str, content: Content, metadata: Mapping[str, Any] | None = None, *,
        role: str = "user", turn_id: int | None = None, ttl: Life = "default",
    ) -> int:  # fmt: skip
        """Store a turn; its turn id, the next one (from 1, whatever runs at the same time) unless given."""
        turn = await self.backend.turns.append(
            session_id, role, content, turn_id=turn_id, metadata=metadata, ttl=self._life(ttl)
        )
        return turn.turn_id

    async def get_recent_turns(self, session_id: str, limit: int = 10) -> list[dict[str, Any]]:
        """The newest turns, oldest first."""
        turns = await self.backend.turns.recent(session_id, limit=limit, newest_first=False)
        return [as_record(turn) for turn in turns]

    async def delete_turn(self, session_id: str, turn_id: int) -> bool:
        """Remove a turn; whether it was there."""
        return await self.backend.turns.delete(session_id, turn_id)

    async def get_session_size(self, session_id: str) -> int:
        """How many turns a session has."""
        return await self.backend.turns.count(session_id)

    async def session_exists(self, session_id: str) -> bool:
        """Whether a session has turns."""
        return await self.get_session_size(session_id) > 0

    async def clear_session(self, session_id: str) -> int:
        """Remove a whole session; how many records it had."""
        return await self.backend.turns.clear(session_id)

    async def refresh_ttl(self, session_id: str, ttl: Life = "default") -> bool:
        """Let every turn of a session live so long from now on; whether there were any."""
        return await self.backend.turns.touch(session_id, ttl=self._life(ttl)) > 0

    async def delete_expired(self) -> int:
        """Remove every expired record of the database; how many there were."""
        return await self._root.delete_expired()

    def _life(self, ttl: Life) -> Ttl | None:
        return self.settings.ttl if ttl == "default" else ttl

    def _rows(self) -> Rows | None:
        """What searches turns in the database itself, None where nothing does."""
        return None

    def _pool(self) -> Mapping[str, int] | None:
        return pool_of(self._root.engine)

    def _details(self) -> Mapping[str, Any] | None:
        return details_of(self._root.engine)


async def _each(call: Callable[[str], Awaitable[Result]], ids: Iterable[str]) -> list[Result]:
    """The answers in order, some calls at once; none is left running when one of them fails."""
    waiting, found = iter(ids), list[Result]()
    while some := list(islice(waiting, _AT_ONCE)):
        answers = await asyncio.gather(*map(call, some), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            found.append(answer)
    return found
