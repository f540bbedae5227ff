"""What adapters are told by their config (ADP-2, CFG-1)."""

from typing import Any

import pytest

from polymem import MemoryAdapter, PostgresAdapter, RedisAdapter, SqliteAdapter
from polymem.errors import StorageDataError

POSTGRES = "postgresql://me:secret@nowhere/db"


def test_defaults_of_postgres() -> None:
    settings = PostgresAdapter(POSTGRES)._root.engine._settings  # type: ignore[attr-defined]
    assert (settings.min_size, settings.max_size, settings.timeout) == (2, 10, 5.0)
    adapter = PostgresAdapter({"url": POSTGRES})
    assert (adapter.settings.table, adapter.settings.tenant, adapter.settings.ttl) == (
        "active_context",
        "default",
        86_400,
    )


def test_options_of_postgres() -> None:
    config = {"url": f"{POSTGRES}?timeout=9", "pool_size": 1, "schema": "mine"}
    settings = PostgresAdapter(config)._root.engine._settings  # type: ignore[attr-defined]
    assert (settings.min_size, settings.max_size, settings.timeout, settings.schema) == (1, 1, 9.0, "mine")


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"url": f"{POSTGRES}?max_size=20"}, 20), ({"url": f"{POSTGRES}?pool_size=20"}, 20),
        ({"url": f"{POSTGRES}?pool_size=20", "pool_size": 5}, 5), ({"url": f"{POSTGRES}?max_size=20", "pool_size": 5}, 5),
        ({"url": POSTGRES, "max_size": 5}, 5), ({"url": f"{POSTGRES}?max_size=20", "max_size": 1}, 1),
    ],
)  # fmt: skip
def test_the_size_of_the_pool_by_either_name(config: dict[str, Any], size: int) -> None:
    """What is said wins over the default, and the config over the URL."""
    settings = PostgresAdapter(config)._root.engine._settings  # type: ignore[attr-defined]
    assert (settings.max_size, settings.min_size) == (size, min(size, 2))


def test_defaults_of_redis() -> None:
    adapter = RedisAdapter({})
    engine: Any = adapter._root.engine
    address = engine._server._address
    assert (address.hosts, address.db, address.password) == ((("localhost", 6379),), 0, None)
    assert address.socket_timeout == 5.0
    assert (engine._turn_options.window, engine._turn_options.ttl, engine._turn_options.refresh_on_read) == (
        10,
        86_400,
        False,
    )
    assert (adapter.settings.limit, adapter.settings.ttl) == (10, 86_400)


def test_options_of_redis() -> None:
    config = {
        "host": "there", "port": 7000, "db": 3, "password": "secret", "window_size": 3, "ttl_seconds": 60,
        "refresh_ttl_on_read": True,
    }  # fmt: skip
    adapter = RedisAdapter(config)
    engine: Any = adapter._root.engine
    address = engine._server._address
    assert (address.hosts, address.db, address.password) == ((("there", 7000),), 3, "secret")
    assert (engine._turn_options.window, engine._turn_options.ttl, engine._turn_options.refresh_on_read) == (
        3,
        60,
        True,
    )
    assert (adapter.settings.limit, adapter.settings.ttl) == (3, 60)
    assert RedisAdapter("redis://there:7000/3")._root.engine._server._address.db == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "config", "field"),
    [
        (PostgresAdapter, {}, "url"), (PostgresAdapter, "sqlite:///a.db", "url"), (PostgresAdapter, "nonsense", "url"),
        (PostgresAdapter, {"url": None}, "url"), (PostgresAdapter, {"url": POSTGRES, "table": "users"}, "table"),
        (PostgresAdapter, {"url": POSTGRES, "pool_size": True}, "pool_size"),
        (PostgresAdapter, {"url": POSTGRES, "pool_size": 0}, "pool_size"),
        (PostgresAdapter, {"url": POSTGRES, "min_size": -1}, "min_size"),
        (PostgresAdapter, {"url": POSTGRES, "min_size": 20}, "max_size"),
        (PostgresAdapter, {"url": POSTGRES, "timeout": "5"}, "timeout"),
        (PostgresAdapter, {"url": POSTGRES, "timeout": float("nan")}, "timeout"),
        (PostgresAdapter, {"url": POSTGRES, "window_size": 5}, "window_size"),
        (PostgresAdapter, {"url": POSTGRES, "tenant": ""}, "tenant"),
        (PostgresAdapter, {"url": POSTGRES, "metrics": {"percentile": 5}}, "metrics.percentile"),
        (PostgresAdapter, {"url": f"{POSTGRES}?pool_size=x"}, "pool_size"),
        (PostgresAdapter, "postgresql://me:secret@[::1/db", "url"), (RedisAdapter, "redis://:secret@[::1/0", "url"),
        (PostgresAdapter, "postgresql://me:secret@here,there:port/db", "url"), (RedisAdapter, {"port": 70_000}, "port"),
        (RedisAdapter, "redis://h?turn_window=5", "url"), (RedisAdapter, {"url": "redis://h?turn_ttl=5"}, "url"),
        (RedisAdapter, {"ttl_seconds": 1e300}, "ttl_seconds"), (RedisAdapter, {"client": object()}, "client"),
        (RedisAdapter, POSTGRES, "url"), (RedisAdapter, {"port": "6379"}, "port"), (RedisAdapter, {"db": -1}, "db"),
        (RedisAdapter, {"window_size": -1}, "window_size"), (RedisAdapter, {"ttl_seconds": 0}, "ttl_seconds"),
        (RedisAdapter, {"turn_window": 5}, "turn_window"), (RedisAdapter, {"refresh_ttl_on_read": 1}, "refresh_ttl_on_read"),
        (RedisAdapter, {"table": "working_memory"}, "table"), (SqliteAdapter, {}, "url"),
        (MemoryAdapter, {"pool_size": 5}, "pool_size"), (MemoryAdapter, {"sweep_every": -1}, "sweep_every"),
    ],
)  # fmt: skip
def test_a_bad_config_is_refused(kind: Any, config: Any, field: str) -> None:
    with pytest.raises(StorageDataError) as caught:
        kind(config)
    assert caught.value.field == field
    assert "secret" not in str(caught.value)


def test_the_config_is_left_alone() -> None:
    given = {"url": POSTGRES, "pool_size": 1, "metrics": {"max_errors": 3}}
    before = {**given}
    adapter = PostgresAdapter(given)
    assert given == before
    assert adapter.collector.options.max_errors == adapter._root.collector.options.max_errors == 3
    assert "secret" not in repr(adapter) + repr(adapter.settings)
