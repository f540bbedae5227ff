"""Which index serves a query: SQLite keeps no statistics of our files, so it is decided here.

Where several could, entries are counted up to a bound, which takes less than the wrong choice.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from polymem.contracts.filter import And, Compare, Filter
from polymem.contracts.query import IndexInfo, Query
from polymem.engines.sqlite._filter import compile_at
from polymem.engines.sqlite._query_places import VALUE, Source

MANY: Final = 2000
"""So many entries need not be told from more: a page is then found sooner by walking the order wanted."""
_SOUGHT: Final = ("lt", "le", "gt", "ge", "between", "in", "starts_with")
"""Operators for which an index finds the place; `eq` and `exists: false` fix the value."""
_NOTHING: Final = (0, False, False)
Score = tuple[int, bool, bool]
Entries = Callable[[Source, Filter], int]
"""How many entries of an index satisfy a filter, at most `MANY`."""


class Choice:
    """Which index serves a filter and an order best."""

    def __init__(self, indexes: Sequence[IndexInfo], query: Query, entries: Entries) -> None:
        self._query = query
        self._fixing = [item for item in _musts(query.where) if _fixes(item)]
        self._limiting = [item for item in _musts(query.where) if item.op in _SOUGHT and _is_plain(item.value)]
        scores = {index: self._score(index) for index in indexes}
        counts = self._counted(scores, entries)
        best = min(scores, key=lambda i: (counts.get(i, MANY), *(-int(part) for part in scores[i])), default=None)
        most = _NOTHING if best is None else scores[best]
        self.best = Source() if most == _NOTHING else Source(best)
        """The index that narrows the filter down most, or at least holds all that it asks for."""
        few = best is not None and counts.get(best, MANY) < MANY
        ordering = [i for i in indexes if self._orders(i) and (i == best or not few)]
        self.ordered = Source(max(ordering, key=scores.__getitem__)) if ordering else None
        """The index that has the documents in the order wanted, unless another leaves few of them to sort."""
        self.gives_key_order = self.best.index is not None and most[0] == len(self.best.index.paths)
        """Whether the filter fixes every value of the best index, so that its documents lie in key order."""

    def _score(self, index: IndexInfo) -> Score:
        """How many of the first paths the filter fixes, whether it limits the next one, whether it holds all."""
        fixed = self._fixed(index)
        following = index.paths[fixed : fixed + 1]
        return fixed, bool(following) and following[0] in {item.path for item in self._limiting}, self._holds(index)

    def _counted(self, scores: dict[IndexInfo, Score], entries: Entries) -> dict[IndexInfo, int]:
        """The entries that the filter leaves of the indexes it narrows down, where that decides anything."""
        seeking = [index for index, score in scores.items() if score >= (0, True)]
        if not seeking or (len(seeking) == 1 and not self._query.order):
            return {}
        return {index: entries(Source(index), self._held(index)) for index in seeking}

    def _held(self, index: IndexInfo) -> Filter:
        """The part of the filter for which the index finds the place."""
        return And(tuple(item for item in (*self._fixing, *self._limiting) if item.path in index.paths))

    def _fixed(self, index: IndexInfo) -> int:
        equal = {item.path for item in self._fixing}
        return next((at for at, path in enumerate(index.paths) if path not in equal), len(index.paths))

    def _holds(self, index: IndexInfo) -> bool:
        asked = self._query.where is not None or bool(self._query.order)
        ordered = all(path in index.paths for path, _ in self._query.order)
        return asked and ordered and VALUE not in compile_at(self._query.where, Source(index).place)[0]

    def _orders(self, index: IndexInfo) -> bool:
        """Whether documents lie in the order wanted."""
        order = self._query.order
        return len(order) == 1 and index.paths[self._fixed(index) :] == (order[0][0],)


def _musts(where: Filter | None) -> Iterator[Compare]:
    """The comparisons that every match must satisfy."""
    for item in where.items if isinstance(where, And) else (where,):
        if isinstance(item, Compare):
            yield item


def _fixes(item: Compare) -> bool:
    return (item.op == "eq" and _is_scalar(item.value)) or (item.op == "exists" and item.value is False)


def _is_scalar(operand: Any) -> bool:
    return operand is None or isinstance(operand, str | int | float)


def _is_plain(operand: Any) -> bool:
    """Numbers, or strings, but not both, for which there are two places."""
    several = operand if isinstance(operand, tuple) else (operand,)
    kinds = {isinstance(item, str) for item in several if not isinstance(item, bool)}
    return len(kinds) == 1 and all(
        isinstance(item, str | int | float) and not isinstance(item, bool) for item in several
    )
