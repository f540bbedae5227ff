"""What callers say of queries, checked (G-2)."""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, get_args

from polymem.contracts._filter_values import parse_path
from polymem.contracts._input import Where
from polymem.contracts.filter import Filter, OrderBy, Path, fingerprint, parse, parse_order, paths_in
from polymem.contracts.query import Aggregate, AggregateOp, Aggregation, IndexInfo, Position, Query
from polymem.core.cursor import decode_cursor, encode_cursor
from polymem.core.text import check_limit, check_name, check_text
from polymem.errors import StorageDataError

OPS: Final = get_args(AggregateOp)
MAX_ORDER: Final = 8
MAX_SELECT: Final = 64
MAX_RESULTS: Final = 32
MAX_GROUPS: Final = 8
MAX_INDEX_PATHS: Final = 4
MAX_INDEX_BYTES: Final = 512
INDEX_PREFIX: Final = "pm_query_"


def checked_query(
    prefix: object, where: Where | None, order_by: object, select: object = None, offset: Any = 0
) -> Query:
    check_text(prefix, field="prefix")  # type: ignore[arg-type]  # which is what is checked
    paths = None if select is None else paths_of(select, "select", MAX_SELECT)
    return Query(str(prefix), parse(where), _order(order_by), paths, check_limit(offset, field="offset"))


def checked_aggregation(
    results: object, *, prefix: object, where: Where | None, group_by: object, having: Where | None, limit: Any
) -> Aggregation:
    if limit is not None:
        check_limit(limit)
    check_text(prefix, field="prefix")  # type: ignore[arg-type]  # which is what is checked
    named, groups = _results(results), paths_of(group_by, "group_by", MAX_GROUPS)
    if not named and not groups:
        raise StorageDataError("expected at least one result or group", field="results")
    return Aggregation(named, str(prefix), parse(where), groups, _having(having, named), limit)


def _having(having: Where | None, results: Mapping[str, Aggregate]) -> Filter | None:
    try:
        where = parse(having)
    except StorageDataError as error:
        field = "having" + (error.field or "").removeprefix("where")
        raise StorageDataError(str(error.args[0]).replace("where", "having", 1), field=field) from error
    if any(path[0] not in results for path in paths_in(where)):
        raise StorageDataError(f"expected a filter on the results by name: {', '.join(results)}", field="having")
    return where


def paths_of(paths: object, field: str, most: int) -> tuple[Path, ...]:
    """Paths, each once, in the order given."""
    if isinstance(paths, str) or not isinstance(paths, Sequence):
        raise StorageDataError("expected a list of paths", field=field)
    unique = tuple(dict.fromkeys(parse_path(path, field) for path in paths))
    if len(unique) > most:
        raise StorageDataError(f"expected at most {most} paths", field=field)
    return unique


def _order(order_by: object) -> tuple[OrderBy, ...]:
    order = parse_order(order_by)
    if len(order) > MAX_ORDER:
        raise StorageDataError(f"expected at most {MAX_ORDER} fields", field="order_by")
    return order


def _results(results: object) -> dict[str, Aggregate]:
    if not isinstance(results, Mapping) or len(results) > MAX_RESULTS:
        raise StorageDataError(f"expected a mapping of at most {MAX_RESULTS} names to results", field="results")
    return {
        check_name(name, field="results"): _aggregate(wanted, f"results.{name}") for name, wanted in results.items()
    }


def _aggregate(wanted: object, field: str) -> Aggregate:
    match wanted:
        case Aggregate(op, path) if op in OPS:
            pass
        case "count":
            op, path = "count", None
        case (str(op), given) if op in OPS:
            path = parse_path(given, field)
        case _:
            raise StorageDataError(f'expected "count", or one of {", ".join(OPS)} with a path', field=field)
    if path is None and op != "count":
        raise StorageDataError(f"expected a path to take the {op} of", field=field)
    return Aggregate(op, path if path is None else parse_path(path, field))  # type: ignore[arg-type]  # one of OPS


def checked_index(paths: Sequence[object]) -> IndexInfo:
    """The index on these paths, by the name they give it."""
    parsed = tuple(parse_path(path, "path") for path in paths)
    if not 1 <= len(parsed) <= MAX_INDEX_PATHS or len(set(parsed)) < len(parsed):
        raise StorageDataError(f"expected 1 to {MAX_INDEX_PATHS} different paths", field="path")
    text = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > MAX_INDEX_BYTES:
        raise StorageDataError(f"expected paths of at most {MAX_INDEX_BYTES} bytes to index", field="path")
    return IndexInfo(INDEX_PREFIX + blake2b(text, digest_size=8).hexdigest(), parsed)


class Listing:
    """Cursors of one query: they hold for its namespace, prefix, filter and order, whatever is selected."""

    def __init__(self, scope: str, query: Query) -> None:
        self._query = query
        self._name = json.dumps(["query", scope, query.prefix, fingerprint(query.where), query.order])

    def encode(self, position: Position | None) -> str | None:
        return None if position is None else encode_cursor(self._name, position)

    def decode(self, cursor: str | None) -> Position | None:
        if cursor is None:
            return None
        if self._query.offset:
            raise StorageDataError("expected no offset beside a cursor", field="offset")
        match decode_cursor(self._name, cursor):
            case [dict(values), str(key)] if self._fits(values):
                return Position(values, key)
        raise StorageDataError("expected a cursor that an earlier call returned", field="cursor")

    def _fits(self, values: dict[str, Any]) -> bool:
        fields = {str(at) for at in range(len(self._query.order))}
        return values.keys() <= fields and all(
            value == [] or not isinstance(value, list | dict) for value in values.values()
        )
