"""Turns in the process or in a file, by analogy with the servers."""

from polymem.adapters._engine import TurnAdapter
from polymem.adapters._settings import Declaration


class SqliteAdapter(TurnAdapter):
    """`config`: `url` (`sqlite:///agent.db`), `tenant` ("default"), `durability` and `cache_mb`."""

    declared = Declaration(("sqlite",))


class MemoryAdapter(TurnAdapter):
    """`config`: `tenant` ("default"). What is stored is gone when it disconnects."""

    declared = Declaration(("memory",), url="memory:")
