"""Turns and facts in PostgreSQL (ADP-2, PG-1)."""

from collections.abc import Mapping, Sequence
from typing import Any

from polymem.adapters._engine import Life, TurnAdapter
from polymem.adapters._facts import LIFE, FactTable, check_confidence
from polymem.adapters._facts_schema import create_facts_table, create_gin_indexes
from polymem.adapters._rows import TURNS, Rows
from polymem.adapters._settings import Declaration
from polymem.contracts.filter import F
from polymem.core.namespace import child
from polymem.core.text import MAX_COUNT


class PostgresAdapter(TurnAdapter):
    """`config`: `url`; `table` active_context or working_memory (active_context), `tenant` ("default"), `min_size` (2),
    `pool_size` (10), `timeout` (5 s); and the options of the engine.

    Facts, the records of working_memory: `session_id`, `fact_type` (entity, preference, constraint, goal or another
    kind) and `content`; and if you like `confidence` (1.0), `source_turn_ids`, `metadata`, `created_at` and
    `ttl_expires_at` (7 days from now; None: never). The methods on turns and facts work whatever `table` says.
    """

    declared = Declaration(
        ("postgresql", "postgres"),
        tables=("active_context", "working_memory"),
        defaults={"timeout": 5.0},
    )

    def __init__(self, config: Mapping[str, Any] | str) -> None:
        super().__init__(config)
        self._facts = FactTable(self._root, self._tenant)
        if self.settings.table == "working_memory":
            self._table = self._facts

    async def connect(self) -> None:
        await super().connect()
        try:
            await create_facts_table(self._root)
        except BaseException:
            await self._root.close()
            raise
        self._root.sweep_too(self._facts.rows.delete_expired)

    async def add_fact(
        self, session_id: str, fact_type: str, content: str, *, confidence: float = 1.0,
        source_turn_ids: Sequence[int] = (), metadata: Mapping[str, Any] | None = None, ttl: Life = "default",
    ) -> str:  # fmt: skip
        """Store a fact; its id."""
        fact = {
            "session_id": session_id, "fact_type": fact_type, "content": content, "confidence": confidence,
            "source_turn_ids": source_turn_ids, "metadata": metadata or {},
            "ttl_expires_at": self._facts.expires_at(LIFE if ttl == "default" else ttl),
        }  # fmt: skip
        return (await self._facts.store([self._facts.check(fact)]))[0]

    async def get_facts(
        self, session_id: str, fact_type: str | None = None, min_confidence: float = 0.0
    ) -> list[dict[str, Any]]:
        """The facts of a session, newest first."""
        least = check_confidence(min_confidence, field="min_confidence")
        query = {"session_id": session_id, "filters": F("confidence") >= least, "limit": MAX_COUNT}
        return await self._facts.search(query if fact_type is None else {**query, "fact_type": fact_type})

    async def update_fact(self, id: str, **changes: Any) -> bool:
        """Change fields of a fact, or its `ttl`; whether it is there."""
        if "ttl" in changes:
            changes["ttl_expires_at"] = self._facts.expires_at(changes.pop("ttl"))
        return await self._facts.update(id, changes)

    async def clear_session(self, session_id: str) -> int:
        """Remove the turns and facts of a session; how many there were."""
        return await super().clear_session(session_id) + await self._facts.clear(session_id)

    async def cleanup_expired_turns(self) -> int:
        """Remove expired turns of every tenant; how many there were."""
        return await self._rows().delete_expired()

    async def create_gin_indexes(self) -> None:
        """Index the metadata of both tables and `source_turn_ids`, for filters on what they hold.

        It takes an owner of the tables, keeps writers waiting while an index is built, and is harmless once they are there.
        """
        await create_gin_indexes(self._root)

    async def delete_expired(self) -> int:
        """Remove every expired record of the database, facts included; how many there were."""
        return await super().delete_expired() + await self._facts.rows.delete_expired()

    @property
    def _tenant(self) -> str:
        return child("", (self.settings.tenant,))[:-1]

    def _rows(self) -> Rows:
        return Rows(self._root, TURNS, self._tenant)
