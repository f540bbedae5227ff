"""The inverted index in memory: attribute -> value -> ids, and for each entity the postings it is in."""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from polymem.attribute_index.values import Attributes, Kind, Scalar, kind_of

_FEW: Final = 4
"""Up to so many ids are kept in a tuple: most values of a unique attribute have one id, and a set takes 216 bytes."""
_KINDS: Final[tuple[Kind, ...]] = ("number", "text", "bool", "null")


@dataclass(frozen=True, slots=True)
class AttributeStatistics:
    """One attribute: how many entities have it, how many distinct values it has."""

    entities: int
    values: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """The size of an index; `postings` counts pairs of an entity and one of its values."""

    entities: int
    attributes: int
    values: int
    postings: int
    unsaved: int
    """Entities with changes that are not stored yet."""
    by_attribute: dict[str, AttributeStatistics]


class Posting:
    """The ids that have one value of one attribute."""

    __slots__ = ("ids", "terms", "value")

    def __init__(self, terms: "Terms", value: Scalar) -> None:
        self.terms, self.value = terms, value
        self.ids: tuple[str, ...] | set[str] = ()

    def add(self, entity_id: str) -> None:
        if isinstance(self.ids, set):
            self.ids.add(entity_id)
        else:
            self.ids = (*self.ids, entity_id) if len(self.ids) < _FEW else {*self.ids, entity_id}

    def remove(self, entity_id: str) -> None:
        if isinstance(self.ids, set):
            self.ids.remove(entity_id)
        else:
            self.ids = tuple(other for other in self.ids if other != entity_id)
        if not self.ids:
            self.terms.drop(self)


class Terms:
    """The distinct values of one attribute, apart by kind; sorted when a range or prefix first needs it."""

    def __init__(self, name: str) -> None:
        self.name, self.entities = name, 0
        self._postings: dict[Kind, dict[Any, Posting]] = {kind: {} for kind in _KINDS}
        self._sorted: dict[Kind, list[Any]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._postings.values()))

    def posting(self, value: Scalar) -> Posting:
        """The posting of a value, made where there is none."""
        kind = kind_of(value)
        found = self._postings[kind].get(value)
        if found is None:
            found = self._postings[kind][value] = Posting(self, value)
            if kind in self._sorted:
                insort(self._sorted[kind], value)
        return found

    def drop(self, posting: Posting) -> None:
        """Forget a value that no entity has any more."""
        kind = kind_of(posting.value)
        del self._postings[kind][posting.value]
        if kind in self._sorted:
            values = self._sorted[kind]
            del values[bisect_left(values, posting.value)]

    def unsort(self) -> None:
        """Sort again when needed: cheaper than to keep many new values in order one by one."""
        self._sorted.clear()

    def ids(self, value: Scalar) -> Collection[str]:
        found = self._postings[kind_of(value)].get(value)
        return () if found is None else found.ids

    def texts(self) -> Iterator[tuple[str, Collection[str]]]:
        """Each text value with its ids."""
        return ((text, posting.ids) for text, posting in self._postings["text"].items())

    def values(self, kind: Kind) -> list[Any]:
        """The values of one kind in order; not to be changed."""
        found = self._sorted.get(kind)
        if found is None:
            found = self._sorted[kind] = sorted(self._postings[kind])
        return found

    def all_values(self) -> list[Scalar]:
        return [value for kind in _KINDS for value in self.values(kind)]


class Postings:
    """The whole index of some entities; every call is atomic for other tasks, because none awaits."""

    def __init__(self) -> None:
        self._terms: dict[str, Terms] = {}
        self._entities: dict[str, tuple[Posting, ...]] = {}

    def put(self, entity_id: str, attributes: Attributes | None) -> None:
        """Index the entity under exactly these attributes; None removes it."""
        before = self._entities.get(entity_id, ())
        after = () if attributes is None else tuple(dict.fromkeys(self._find(attributes)))
        if attributes is None:
            self._entities.pop(entity_id, None)
        else:
            self._entities[entity_id] = after
        kept = {*before}.intersection(after)
        for posting in after:
            if posting not in kept:
                posting.add(entity_id)
        self._recount(before, after)
        for posting in before:
            if posting not in kept:
                posting.remove(entity_id)

    def _find(self, attributes: Attributes) -> Iterator[Posting]:
        for name, values in attributes.items():
            terms = self._terms.get(name)
            if terms is None:
                terms = self._terms[name] = Terms(name)
            for value in values:
                yield terms.posting(value)

    def _recount(self, before: tuple[Posting, ...], after: tuple[Posting, ...]) -> None:
        old, new = {posting.terms for posting in before}, {posting.terms for posting in after}
        for terms in new - old:
            terms.entities += 1
        for terms in old - new:
            terms.entities -= 1
            if not terms.entities:
                del self._terms[terms.name]

    def attributes(self, entity_id: str) -> Attributes | None:
        """What the entity is indexed under; None where it is not."""
        postings = self._entities.get(entity_id)
        if postings is None:
            return None
        found: Attributes = {}
        for posting in postings:
            found.setdefault(posting.terms.name, []).append(posting.value)
        return found

    def terms(self, name: str) -> Terms | None:
        return self._terms.get(name)

    def names(self) -> list[str]:
        return sorted(self._terms)

    def ids(self) -> Collection[str]:
        return self._entities.keys()

    def unsort(self) -> None:
        for terms in self._terms.values():
            terms.unsort()

    def statistics(self, unsaved: int) -> Statistics:
        terms = {name: AttributeStatistics(self._terms[name].entities, len(self._terms[name])) for name in self.names()}
        return Statistics(
            entities=len(self._entities),
            attributes=len(terms),
            values=sum(one.values for one in terms.values()),
            postings=sum(map(len, self._entities.values())),
            unsaved=unsaved,
            by_attribute=terms,
        )
