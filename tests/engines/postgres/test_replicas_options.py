"""Which replicas a store may be given (PG-4, G-2)."""

from typing import Any

import pytest
import servers
from engines.postgres.replicas import Pair
from servers.postgres import PASSWORD

from polymem.core.registry import create_engine
from polymem.errors import StorageDataError

pytestmark = [pytest.mark.integration, pytest.mark.server("postgres"), pytest.mark.anyio]


@pytest.mark.parametrize("kind", ["database", "cluster"])
async def test_another_database_is_refused(kind: str, pair: Pair, opened: Any) -> None:
    primary, replica = pair
    if kind == "cluster":
        if servers.absence("postgres18"):
            pytest.skip("needs a server that was made apart")
        wrong = servers.url("postgres18")
    else:
        wrong = f"{replica.url.rpartition('/')[0]}/template1"
    with pytest.raises(StorageDataError, match="is no replica of this database") as caught:
        await opened(primary.url, replicas=wrong)
    assert caught.value.field == "replicas"
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"replicas": "mysql://h/d"}, "replicas"), ({"replicas": ["postgresql://h/d?max_size=3"]}, "replicas"),
     ({"replicas": [3]}, "replicas"), ({"replicas": "h1,h2"}, "replicas"), ({"max_staleness": 0}, "max_staleness"),
     ({"max_staleness": "x"}, "max_staleness")],
)  # fmt: skip
async def test_bad_options_are_named(options: dict[str, Any], field: str) -> None:
    """G-2."""
    with pytest.raises(StorageDataError) as caught:
        create_engine("postgresql://u:hidden@h/d", **options)
    assert caught.value.field == field


async def test_a_list_of_urls_of_several_hosts() -> None:
    url = "postgresql://u:p@h/d?replicas=postgresql://u:p@a:1,b:2/d,%20postgres://c/d%3Fsslmode%3Drequire&read_your_writes=no"
    engine: Any = create_engine(url)
    assert engine._settings.replicas == ("postgresql://u:p@a:1,b:2/d", "postgres://c/d?sslmode=require")
    assert engine._settings.read_your_writes is False
    assert [one["replica"] for one in engine.replica_status()] == ["a:1,b:2", "c"]
