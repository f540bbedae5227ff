"""What `search` takes, checked (ADP-1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from polymem.adapters.validation import validate_known_fields, validate_required_fields
from polymem.contracts.filter import And, Compare, Filter, parse, paths_in
from polymem.core.text import check_key, check_limit
from polymem.errors import StorageDataError


class Fields(NamedTuple):
    """The fields of a kind of records by what a search can do with them."""

    shorthands: tuple[str, ...]
    """Strings that a query may name beside `filters`."""
    sortable: tuple[str, ...]
    """The first is the default."""
    filterable: tuple[str, ...]
    required: tuple[str, ...] = ()
    """The shorthands that a query must name."""
    limit: int = 10


@dataclass(frozen=True, slots=True)
class Search:
    """Which records, in which order."""

    equal: Mapping[str, str]
    where: Filter | None
    limit: int
    offset: int
    sort: str
    descending: bool
    include_expired: bool


_OPTIONS = ("filters", "limit", "offset", "sort", "order", "include_expired")


def read_search(query: Mapping[str, Any], fields: Fields) -> Search:
    """`StorageDataError` names the key to blame."""
    validate_known_fields(query, (*fields.shorthands, *_OPTIONS))
    where = _filter(query.get("filters"), fields.filterable)
    equal = {name: query[name] for name in fields.shorthands if name in query}
    where = _lifted(where, fields.shorthands, equal)
    validate_required_fields(equal, fields.required)
    return Search(
        equal={name: check_key(value, field=name) for name, value in equal.items()},
        where=where,
        limit=check_limit(query.get("limit", fields.limit)),
        offset=check_limit(query.get("offset", 0), field="offset"),
        sort=_one_of("sort", query.get("sort", fields.sortable[0]), fields.sortable),
        descending=_one_of("order", query.get("order", "desc"), ("asc", "desc")) == "desc",
        include_expired=_one_of("include_expired", query.get("include_expired", False), (True, False)),
    )


def _one_of(field: str, value: Any, known: tuple[Any, ...]) -> Any:
    if type(value) is not type(known[0]) or value not in known:
        raise StorageDataError(f"expected one of {', '.join(map(str, known))}", field=field)
    return value


def _filter(filters: Filter | Mapping[str, Any] | None, names: tuple[str, ...]) -> Filter | None:
    try:
        where = parse(filters)
    except StorageDataError as error:
        found = f"filters{(error.field or 'where').removeprefix('where')}"
        raise StorageDataError(error.args[0].replace(error.field or "", found), field=found) from None
    for path in paths_in(where):
        if path[0] not in names:
            raise StorageDataError(f"unknown field; expected {', '.join(names)}", field=f"filters.{path[0]}")
    return where


def _lifted(where: Filter | None, names: tuple[str, ...], equal: dict[str, Any]) -> Filter | None:
    """What is left of a filter when what it says in the words of shorthands goes to `equal`, which indexes serve."""
    rest: list[Filter] = []
    for item in where.items if isinstance(where, And) else () if where is None else (where,):
        name = item.path[0] if isinstance(item, Compare) and item.op == "eq" and len(item.path) == 1 else None
        if isinstance(item, Compare) and name in names and name not in equal and isinstance(item.value, str):
            equal[name] = item.value
        else:
            rest.append(item)
    return And(tuple(rest)) if len(rest) > 1 else rest[0] if rest else None
