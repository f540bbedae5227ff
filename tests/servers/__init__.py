"""Real servers for the tests, started without containers and shared by all processes of a test run.

    pytestmark = [pytest.mark.integration, pytest.mark.server("redis")]

    store = await polymem.open(servers.url("redis"))

`POLYMEM_TEST_REDIS_URL` names a server to use instead of starting one. A machine that cannot have a server deselects
its tests and says why, unless `POLYMEM_REQUIRE=redis,postgres` demands it: then its absence is a failure.
"""

import os
from functools import cache
from importlib import import_module
from typing import Final

from servers._process import Absent, shared

STARTERS: Final = {
    "postgres": "servers.postgres:start_16",
    "postgres18": "servers.postgres:start_18",
    "postgres_replicated": "servers.postgres:start_replicated",
    "pgbouncer": "servers.postgres:start_pgbouncer",
    "redis": "servers.redis:start_7",
    "redis8": "servers.redis:start_8",
    "redis_cluster": "servers.redis:start_cluster",
}
"""By name, the function that starts a server in a folder and returns its URL."""


def url(name: str) -> str:
    """Where the server is, started if need be; `Absent` where this machine cannot have it."""
    given = os.environ.get(f"POLYMEM_TEST_{name.upper()}_URL")
    return given or _start(name)


def absence(name: str) -> str | None:
    """Why there is no such server; None where there is one. A required one that is missing raises."""
    try:
        url(name)
    except Absent as absent:
        if name in os.environ.get("POLYMEM_REQUIRE", "").split(","):
            raise RuntimeError(f"POLYMEM_REQUIRE names {name}: {absent}") from absent
        return str(absent)
    return None


@cache
def _start(name: str) -> str:
    module, _, function = STARTERS[name].partition(":")
    return shared(name, getattr(import_module(module), function))
