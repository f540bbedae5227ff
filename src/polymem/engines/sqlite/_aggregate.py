"""SQL functions for aggregates: exact sums and means, and values as comparables (`contracts._query_values`)."""

import json

import apsw

from polymem.contracts._query_values import ExactSum, revealed


def register(connection: apsw.Connection) -> None:
    """Add the functions; needed once per connection."""
    connection.create_aggregate_function("polymem_exact", _Exact, 1)
    connection.create_scalar_function("polymem_sum", _sum, 4, deterministic=True)
    connection.create_scalar_function("polymem_avg", _avg, 4, deterministic=True)
    connection.create_scalar_function("polymem_json", _json, 1, deterministic=True)


class _Exact:
    """The exact sum of numbers given as JSON text, as `ExactSum.packed`; NULL of none."""

    def __init__(self) -> None:
        self._exact = ExactSum()

    def step(self, *values: "apsw.SQLiteValue") -> None:
        digits = str(values[0])
        self._exact.add(int(digits) if digits.removeprefix("-").isdecimal() else float(digits))

    def final(self) -> str | None:
        return self._exact.packed() if self._exact.count else None


def _total(*arguments: "apsw.SQLiteValue") -> ExactSum:
    """From the sums of the high and the low halves of 64-bit integers, their number, and the rest's `polymem_exact`."""
    high, low, count, rest = arguments
    exact = ExactSum.unpacked(rest) if isinstance(rest, str) else ExactSum()
    if isinstance(high, int) and isinstance(low, int) and isinstance(count, int):
        exact.add_integers((high << 32) + low, count)
    return exact


def _sum(*arguments: "apsw.SQLiteValue") -> str:
    return json.dumps(_total(*arguments).total())


def _avg(*arguments: "apsw.SQLiteValue") -> str:
    return json.dumps(_total(*arguments).mean())


def _json(*arguments: "apsw.SQLiteValue") -> str:
    (scalar,) = arguments
    return "null" if scalar is None else json.dumps(revealed(scalar), ensure_ascii=False)
