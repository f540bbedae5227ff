"""Plain SQL in the engine's own dialect, for the root namespace only (a statement knows no tenant)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

from polymem.contracts._input import several
from polymem.core.text import check_text
from polymem.errors import StorageDataError

Parameters = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SqlFeatures:
    """`dialect` is "sqlite" or "postgresql"."""

    dialect: str


class SqlDriver(Protocol):
    """Statements with parameters; the API class adds nothing but checks."""

    @property
    def features(self) -> SqlFeatures: ...

    async def query(self, statement: str, parameters: Parameters, /) -> list[tuple[Any, ...]]:
        """Run a statement that only reads; its rows."""
        ...

    async def execute(self, statement: str, parameters: Parameters, /) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own; its rows (RETURNING)."""
        ...

    async def execute_many(self, statement: str, parameters: Sequence[Parameters], /) -> None:
        """Run a statement once for each set of parameters, all or nothing."""
        ...


@final
class Sql:
    """What users hold: `store.sql`, the engine's own SQL.

    Values travel as parameters only: a sequence for `?` (PostgreSQL: `$1`), a mapping for `:name`. What a
    statement means and which value types it takes is the engine's business; what it rejects is a
    `StorageQueryError`.
    """

    def __init__(self, driver: SqlDriver) -> None:
        self._driver = driver

    @property
    def features(self) -> SqlFeatures:
        return self._driver.features

    async def query(self, statement: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement that only reads."""
        return await self._driver.query(_statement(statement), _parameters(parameters, "parameters"))

    async def execute(self, statement: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own; the rows it returns, if any."""
        return await self._driver.execute(_statement(statement), _parameters(parameters, "parameters"))

    async def execute_many(self, statement: str, parameters: Iterable[Parameters]) -> None:
        """Run a statement once for each set of parameters, all or nothing."""
        sets = several(parameters, field="parameters")
        checked = [_parameters(values, f"parameters[{number}]") for number, values in enumerate(sets)]
        await self._driver.execute_many(_statement(statement), checked)


def _statement(statement: str) -> str:
    if not check_text(statement, field="statement").strip():
        raise StorageDataError("expected a statement", field="statement")
    return statement


def _parameters(parameters: object, field: str) -> Parameters:
    """An own copy; texts hold only what every engine can store."""
    if isinstance(parameters, Mapping):
        return {_name(name, field): _value(value, f"{field}.{name}") for name, value in parameters.items()}
    if isinstance(parameters, Sequence) and not isinstance(parameters, (str, bytes, bytearray, memoryview)):
        return tuple(_value(value, f"{field}[{index}]") for index, value in enumerate(parameters))
    raise StorageDataError("expected a sequence or a mapping of values", field=field)


def _name(name: object, field: str) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise StorageDataError("expected plain names", field=field)
    return name


def _value(value: object, field: str) -> object:
    if isinstance(value, str):
        return check_text(value, field=field)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise StorageDataError("expected a 64-bit integer", field=field)
    return value
