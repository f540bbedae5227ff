"""Where a query finds values: in the documents of `pm_kv`, or in the table of an index.

Both give a value as a pair: its rank, which is its kind in the order of `contracts.query`, and a scalar, which is 0
where the rank says it all. Numbers are exact. Equal values have equal pairs, and the pairs have the order of the values.
"""

from dataclasses import dataclass
from typing import Any, Final

from polymem.contracts._filter_match import MISSING
from polymem.contracts._filter_values import number
from polymem.contracts._query_values import finite
from polymem.contracts.filter import Path
from polymem.contracts.query import IndexInfo
from polymem.engines.sqlite._filter import Place, in_document

VALUE: Final = "kv.value"
NUMBER, TEXT, BOOL, NESTED, NULL, MISSED = range(6)
_KINDS: Final = {
    "integer": NUMBER, "real": NUMBER, "text": TEXT, "true": BOOL, "false": BOOL, "array": NESTED, "object": NESTED,
    "null": NULL,
}  # fmt: skip


def pair_of(place: Place) -> tuple[str, str]:
    """The SQL for the rank and the scalar of a value."""
    if isinstance(place, Held):
        return place.rank, place.value
    value = place.value
    integer = f"case typeof({value}) when 'real' then polymem_number({place.node}) else {value} end"
    # one look at the kind, as each look searches the document
    cases = f"when 'integer' then {integer} when 'real' then {value} when 'text' then {value} when 'true' then 1 else 0"
    return _cases(place, "asc"), f"case {place.kind} {cases} end"


def turned(rank: int, direction: str) -> int:
    """The rank to sort by, ascending: null and missing are last in both directions."""
    return rank if direction == "asc" or rank > NESTED else NESTED - rank


def sorting_pair(place: Place, direction: str) -> tuple[str, str]:
    """The SQL for the pair with its rank `turned`."""
    rank, scalar = pair_of(place)
    if direction == "asc":
        return rank, scalar
    if isinstance(place, Held):
        return f"iif({rank} > {NESTED}, {rank}, {NESTED} - {rank})", scalar
    return _cases(place, direction), scalar


def _cases(place: Place, direction: str) -> str:
    cases = " ".join(f"when '{kind}' then {turned(rank, direction)}" for kind, rank in _KINDS.items())
    return f"case {place.kind} {cases} else {MISSED} end"


def standing(value: Any) -> tuple[int, str | float]:
    """Rank and scalar of a value."""
    if value is MISSING or value is None:
        return (MISSED if value is MISSING else NULL), 0
    if isinstance(value, bool):
        return BOOL, int(value)
    if isinstance(value, list):
        return NESTED, 0
    return (TEXT, value) if isinstance(value, str) else (NUMBER, number(value))


def value_at(rank: int, scalar: Any) -> Any:
    """The order value that a pair stands for; arrays and objects are ties."""
    if rank in (NUMBER, TEXT):
        return scalar if rank == TEXT else finite(scalar)
    return {BOOL: bool(scalar), NESTED: [], NULL: None, MISSED: MISSING}[rank]


class Held(Place):
    """A value that an index holds; only the inside of an array or object is read in the document."""

    def __init__(self, rank: str, value: str, document: Place) -> None:
        super().__init__(document.kind, value, value, document.node)
        self.rank = rank

    def is_a(self, kind: str) -> str:
        if kind in ("array", "object"):
            return f"({self.rank} = {NESTED} AND {super().is_a(kind)})"
        fixed = {"true": 1, "false": 0, "null": 0}
        only = f" AND {self.value} = {fixed[kind]}" if kind in fixed else ""  # lets the key order what is equal
        return f"({self.rank} = {_KINDS[kind]}{only})"

    def is_number(self) -> str:
        return f"{self.rank} = {NUMBER}"

    def is_missing(self) -> str:
        return f"({self.rank} = {MISSED} AND {self.value} = 0)"


@dataclass(frozen=True, slots=True)
class Source:
    """What a statement reads: an index, and documents only where it must; without an index documents."""

    index: IndexInfo | None = None

    @property
    def table(self) -> str:
        """How the columns namespace, key and expires_at are qualified."""
        return "kv" if self.index is None else f'"{self.index.name}"'

    def place(self, path: Path) -> Place:
        document = in_document(path, VALUE)
        if self.index is None or path not in self.index.paths:
            return document
        at = self.index.paths.index(path)
        return Held(f"{self.table}.rank{at}", f"{self.table}.value{at}", document)

    def tables(self, *parts: str) -> str:
        """What a statement of these parts selects from."""
        if self.index is None:
            return "pm_kv kv"
        if not any(VALUE in part for part in parts):
            return self.table
        # CROSS JOIN: the index outside, so that each of its documents is looked up
        return (
            f"{self.table} cross join pm_kv kv on kv.namespace = {self.table}.namespace and kv.key = {self.table}.key"
        )
