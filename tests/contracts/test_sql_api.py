"""SQ-1, G-2: what `Sql` checks and passes on."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from polymem.contracts.sql import Sql, SqlFeatures
from polymem.errors import StorageDataError


@pytest.fixture
def driver(recorder: Any) -> Any:
    return recorder(SqlFeatures("sqlite"), query=[(1,)], execute=[])


def test_passes_on_own_copies(driver: Any) -> None:
    sql, values, named = Sql(driver), [1, "a", None, b"\0", 2.5], {"a": 1}

    async def run() -> None:
        assert await sql.query("select ?", values) == [(1,)]
        assert await sql.execute("delete from t where a = :a", named) == []
        await sql.execute_many("insert into t values (?)", iter([[1], (2,)]))
        await sql.query("select 1")

    asyncio.run(run())
    assert sql.features.dialect == "sqlite"
    assert driver.calls == [
        ("query", ("select ?", (1, "a", None, b"\0", 2.5)), {}),
        ("execute", ("delete from t where a = :a", {"a": 1}), {}),
        ("execute_many", ("insert into t values (?)", [(1,), (2,)]), {}),
        ("query", ("select 1", ()), {}),
    ]
    assert driver.calls[1][1][1] is not named


BAD: list[tuple[str, Callable[[Sql], Any]]] = [
    ("statement", lambda s: s.query(" ")),
    ("statement", lambda s: s.query(None)),  # type: ignore[arg-type]
    ("statement", lambda s: s.execute("select 1\0")),
    ("statement", lambda s: s.execute_many("", [])),
    ("parameters", lambda s: s.query("select ?", "a")),
    ("parameters", lambda s: s.query("select ?", b"a")),
    ("parameters", lambda s: s.query("select ?", 1)),  # type: ignore[arg-type]
    ("parameters[1]", lambda s: s.query("select ?", (1, "\ud800"))),
    ("parameters[0]", lambda s: s.query("select ?", [2**63])),
    ("parameters", lambda s: s.query("select :a", {"a b": 1})),
    ("parameters", lambda s: s.query("select :a", {1: 1})),  # type: ignore[dict-item]
    ("parameters.a", lambda s: s.query("select :a", {"a": "\0"})),
    ("parameters", lambda s: s.execute_many("select ?", "ab")),
    ("parameters[1]", lambda s: s.execute_many("select ?", [(1,), 2])),  # type: ignore[list-item]
    ("parameters[1][0]", lambda s: s.execute_many("select ?", [(1,), ["\0"]])),
]


@pytest.mark.parametrize(("field", "call"), BAD)
def test_bad_input_names_the_field_and_runs_nothing(driver: Any, field: str, call: Callable[[Sql], Any]) -> None:
    with pytest.raises(StorageDataError) as refused:
        asyncio.run(call(Sql(driver)))
    assert refused.value.field == field
    assert driver.calls == []
