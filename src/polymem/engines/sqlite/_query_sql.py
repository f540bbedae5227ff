"""Queries as SQL over `pm_kv`, with exactly the answers of the memory engine.

SQLite keeps no statistics of our files, so which index serves a query is decided here and said with INDEXED BY.
Of several bounds on one value SQLite seeks the one that is written first.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from polymem.contracts._filter_match import MISSING
from polymem.contracts._filter_values import number
from polymem.contracts._query_values import finite
from polymem.contracts.filter import And, Compare, Filter, Not, Operand, Or, OrderBy
from polymem.contracts.query import IndexInfo, Position, Query
from polymem.engines.sqlite._filter import _exact as exact
from polymem.engines.sqlite._filter import _order_terms as order_terms
from polymem.engines.sqlite._filter import _type as json_type
from polymem.engines.sqlite._filter import compile_filter, extract
from polymem.engines.sqlite._query_indexes import is_document
from polymem.engines.sqlite.kv import prefix_end

VALUE: Final = "kv.value"
KEY_ORDER: Final = "indexed by sqlite_autoindex_pm_kv_1"
_NULL, _MISSING = 1, 2
_NUMBER, _TEXT, _BOOL, _NESTED = range(4)
_SAFE: Final = 9.2e18
"""Up to it SQLite reads every JSON number exactly; integers beyond 64 bits it sometimes rounds wrongly."""


@dataclass(frozen=True, slots=True)
class Statement:
    """Finds keys, each with its order values, in order; LIMIT comes behind."""

    sql: str
    values: list[Any]
    kind: str | None = None
    """Of all the values it finds, where that is one kind; otherwise there are three terms for each value."""

    def position(self, row: Sequence[Any]) -> Position:
        """Where a document stands, given its row."""
        key, *terms = row
        if self.kind is not None:
            found = [_KINDS[self.kind].read(terms[0])]
        else:
            found = [_read(*terms[at : at + 3]) for at in range(0, len(terms), 3)]
        return Position({str(at): value for at, value in enumerate(found) if value is not MISSING}, key)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which records a query may see."""

    namespace: str
    now: int

    def condition(self, prefix: str, where: Filter | None) -> tuple[str, list[Any]]:
        """The documents of a prefix that satisfy a filter."""
        texts, values = ["kv.namespace = ?"], [self.namespace]
        if prefix:
            texts.append("kv.key >= ?")
            values.append(prefix)
        if prefix and (end := prefix_end(prefix)) is not None:
            texts.append("kv.key < ?")
            values.append(end)
        sql, more = compile_filter(where, VALUE)
        texts += [is_document("kv."), "(kv.expires_at is null or kv.expires_at > ?)", sql]
        return " and ".join(texts), [*values, self.now, *more]


def by_key(scope: Scope, query: Query, after: Position | None, hint: str) -> Statement:
    """Documents in key order."""
    condition, values = scope.condition(query.prefix, query.where)
    if after is not None:
        condition, values = f"kv.key > ? and {condition}", [after.key, *values]
    return Statement(f"select kv.key from pm_kv kv {hint} where {condition} order by kv.key", values)


def by_sorting(scope: Scope, query: Query, after: Position | None, hint: str) -> Statement:
    """Documents in any order."""
    condition, values = scope.condition(query.prefix, query.where)
    terms = [term for path, direction in query.order for term in order_terms(path, direction, VALUE)]
    if after is not None:
        beyond, more = _beyond(query.order, after)
        condition, values = f"{condition} and {beyond}", [*values, *more]
    shown = ", ".join(map(_bare, terms))
    sql = f"select kv.key, {shown} from pm_kv kv {hint} where {condition} order by {', '.join(terms)}, kv.key"
    return Statement(sql, values)


def _bare(term: str) -> str:
    return term.rpartition(" ")[0]


def _beyond(order: Sequence[OrderBy], after: Position) -> tuple[str, list[Any]]:
    """The condition that a document comes after a position."""
    steps: list[tuple[str, str, Any]] = []
    for at, (path, direction) in enumerate(order):
        ranks = _ranks(after.values.get(str(at), MISSING))
        terms = order_terms(path, direction, VALUE)
        signs = (">", *(">" if direction == "asc" else "<",) * 2)
        steps += [(_bare(term), sign, rank) for term, sign, rank in zip(terms, signs, ranks, strict=False)]
    sql, values = "kv.key > ?", [after.key]
    for term, sign, rank in reversed(steps):
        sql, values = f"({term} {sign} ? or ({term} = ? and {sql}))", [rank, rank, *values]
    return sql, values


def _ranks(value: Any) -> tuple[Any, ...]:
    """The order terms of a value, as far as they tell it from others."""
    if value is MISSING or value is None:
        return (_MISSING if value is MISSING else _NULL,)
    if isinstance(value, bool):
        return 0, _BOOL, int(value)
    if isinstance(value, list):
        return 0, _NESTED
    return (0, _TEXT, value) if isinstance(value, str) else (0, _NUMBER, number(value))


def _read(null: int, kind: int, value: Any) -> Any:
    """The order value that three terms stand for."""
    if null:
        return MISSING if null == _MISSING else None
    if kind == _NESTED:
        return []
    return bool(value) if kind == _BOOL else value if kind == _TEXT else finite(value)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Values that lie together in an index. SQLite's own order mixes true with 1 and "[1]" with [1]."""

    condition: str
    """With {v} for the value and {t} for its type."""
    read: Any
    ordered: bool = False
    """The values are many, else they are ties."""
    sorts: bool = False
    """The index is not in the exact order, so that these few are sorted."""


_IS_NUMBER: Final = "{t} in ('integer', 'real')"
_KINDS: Final = {
    "low": _Kind(f"{{v}} < -{_SAFE!r} and {_IS_NUMBER}", finite, ordered=True, sorts=True),
    "number": _Kind(f"{{v}} >= -{_SAFE!r} and {{v}} <= {_SAFE!r} and {_IS_NUMBER}", finite, ordered=True),
    "high": _Kind(f"{{v}} > {_SAFE!r} and {{v}} < '' and {_IS_NUMBER}", finite, ordered=True, sorts=True),
    "text": _Kind("{v} >= '' and {t} is 'text'", str, ordered=True),
    "false": _Kind("{v} = 0 and {t} is 'false'", lambda _: False),
    "true": _Kind("{v} = 1 and {t} is 'true'", lambda _: True),
    "nested": _Kind("{v} >= '[' and {v} < '|' and {t} in ('array', 'object')", lambda _: []),
    "null": _Kind("{v} is null and {t} is 'null'", lambda _: None),
    "missing": _Kind("{v} is null and {t} is null", lambda _: MISSING),
}
_LAST: Final = ("null", "missing")
_FIRST: Final = tuple(kind for kind in _KINDS if kind not in _LAST)


def by_index(scope: Scope, query: Query, after: Position | None, hint: str) -> Iterator[Statement]:
    """Documents in the order of one field, read off an index: a statement for each kind of value."""
    _, direction = query.order[0]
    names = (*(_FIRST if direction == "asc" else reversed(_FIRST)), *_LAST)
    if after is not None:
        names = names[names.index(_kind_of(after.values.get("0", MISSING))) :]
    possible = _possible(query)
    for at, name in enumerate(names):
        if name in possible:
            yield _of_kind(scope, query, name, None if at else after, hint)


def _possible(query: Query) -> set[str]:
    """The kinds that the filter leaves."""
    kinds = set(_KINDS)
    for item in _sought(query.where, _SOUGHT):
        if item.path == query.order[0][0]:
            kinds &= {"text"} if _of_text(item.value) else {"low", "number", "high"}
            kinds -= set() if item.op in ("lt", "le") else {"low"}
            kinds -= set() if item.op in ("gt", "ge", "starts_with") else {"high"}
    return kinds


def _of_text(operand: Operand) -> bool:
    return isinstance(operand[0] if isinstance(operand, tuple) else operand, str)


def _of_kind(scope: Scope, query: Query, name: str, after: Position | None, hint: str) -> Statement:
    path, direction = query.order[0]
    kind, value = _KINDS[name], extract(path, VALUE)
    term = exact(path, VALUE) if kind.sorts else value
    condition, values = scope.condition(query.prefix, query.where)
    only = kind.condition.format(v=value, t=json_type(path, VALUE))
    # the narrower bound first: the filter's, or that of a kind of few values
    condition = f"{condition} and {only}" if kind.ordered and not kind.sorts else f"{only} and {condition}"
    if after is not None:
        beyond, more = _beyond_in(kind, term, direction, after)
        condition, values = f"{beyond} and {condition}", [*more, *values]
    order = f"{term} {direction}, kv.key" if kind.ordered else "kv.key"
    return Statement(f"select kv.key, {term} from pm_kv kv {hint} where {condition} order by {order}", values, name)


def _beyond_in(kind: _Kind, term: str, direction: str, after: Position) -> tuple[str, list[Any]]:
    if not kind.ordered:
        return "kv.key > ?", [after.key]
    sign = ">" if direction == "asc" else "<"
    value = _ranks(after.values["0"])[2]
    return f"{term} {sign}= ? and ({term} {sign} ? or kv.key > ?)", [value, value, after.key]


def _kind_of(value: Any) -> str:
    ranks = _ranks(value)
    if ranks[0]:
        return "missing" if ranks[0] == _MISSING else "null"
    if ranks[1] != _NUMBER:
        return {_TEXT: "text", _NESTED: "nested", _BOOL: "true" if value else "false"}[ranks[1]]
    return "low" if ranks[2] < -_SAFE else "high" if ranks[2] > _SAFE else "number"


class Choice:
    """Which index serves a filter and an order best."""

    def __init__(self, indexes: Iterable[IndexInfo], query: Query) -> None:
        self._equal = {item.path for item in _sought(query.where, ("eq",))}
        self._sought = {item.path for item in _sought(query.where, _SOUGHT)}
        # an empty `in` is a constant, for which SQLite has "no query solution" when told to use an index
        available = [] if _has_empty(query.where) else list(indexes)
        self._most = max(map(self._score, available), default=(0, 0))
        self.best = next((i for i in available if self._score(i) == self._most != (0, 0)), None)
        """The index that narrows the filter down most; None: none does."""
        self.ordered = next((i for i in available if self._orders(i, query)), None)
        """The index that has the documents in the order wanted."""

    @property
    def gives_key_order(self) -> bool:
        """Whether the filter fixes every value of the best index, so that its documents lie in key order."""
        return self.best is not None and self._most[0] == len(self.best.paths)

    def _score(self, index: IndexInfo) -> tuple[int, int]:
        """How many of the first paths the filter fixes, and whether it limits the next one."""
        fixed = self._fixed(index)
        following = index.paths[fixed : fixed + 1]
        return fixed, int(bool(following) and following[0] in self._sought)

    def _fixed(self, index: IndexInfo) -> int:
        return next((at for at, path in enumerate(index.paths) if path not in self._equal), len(index.paths))

    def _orders(self, index: IndexInfo, query: Query) -> bool:
        """Whether documents lie in the order wanted, and no other index narrows them down better."""
        fixed = self._fixed(index)
        ordered = len(query.order) == 1 and index.paths[fixed:] == (query.order[0][0],)
        return ordered and fixed >= self._most[0]


_SOUGHT: Final = ("eq", "lt", "le", "gt", "ge", "between", "in", "starts_with")
"""Operators for which an index finds the place."""


def _has_empty(where: Filter | None) -> bool:
    match where:
        case Compare():
            return where.value == ()
        case And(items) | Or(items):
            return any(map(_has_empty, items))
        case Not(item):
            return _has_empty(item)
        case _:
            return False


def hint_of(index: IndexInfo | None) -> str:
    return "" if index is None else f'indexed by "{index.name}"'


def _sought(where: Filter | None, ops: Sequence[str]) -> Iterator[Compare]:
    """The comparisons with numbers or strings by these operators that every match must satisfy."""
    for item in where.items if isinstance(where, And) else (where,):
        if isinstance(item, Compare) and item.op in ops and _is_plain(item.value):
            yield item


def _is_plain(operand: Any) -> bool:
    if isinstance(operand, tuple):
        return len({isinstance(item, str) for item in operand}) == 1 and all(map(_is_plain, operand))
    if isinstance(operand, bool) or not isinstance(operand, int | float):
        return isinstance(operand, str)
    return abs(operand) < _SAFE
