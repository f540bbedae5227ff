"""What can happen to the attributes of one entity, as pure functions of what is stored.

A change is kept as what the caller asked for, not as the state it led to: so it can be applied again to whatever
another writer has stored meanwhile, and neither is lost.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from polymem.attribute_index.values import Attributes, Scalar, distinct, kind_of


@dataclass(frozen=True, slots=True)
class Add:
    """More values of one attribute."""

    name: str
    values: list[Scalar]

    def apply(self, attributes: Attributes | None) -> Attributes:
        before = attributes or {}
        values = distinct([*before.get(self.name, []), *self.values])
        return {**before, self.name: values} if values else before


@dataclass(frozen=True, slots=True)
class Remove:
    """Some values of one attribute, or all of them."""

    name: str
    values: list[Scalar] | None

    def apply(self, attributes: Attributes | None) -> Attributes | None:
        if attributes is None or self.name not in attributes:
            return attributes
        others = {name: values for name, values in attributes.items() if name != self.name}
        if self.values is None:
            return others
        gone = {(kind_of(value), value) for value in self.values}
        left = [value for value in attributes[self.name] if (kind_of(value), value) not in gone]
        return {**others, self.name: left} if left else others


@dataclass(frozen=True, slots=True)
class Replace:
    """Exactly these attributes whatever was there; None: the entity is no longer indexed."""

    attributes: Attributes | None

    def apply(self, _: Attributes | None) -> Attributes | None:
        return self.attributes


Change: TypeAlias = Add | Remove | Replace


def replay(changes: Iterable[Change], attributes: Attributes | None) -> Attributes | None:
    """The attributes after all the changes, in order."""
    for change in changes:
        attributes = change.apply(attributes)
    return attributes


@dataclass(slots=True)
class Unsaved:
    """Changes of one entity that are not stored yet, and what was stored before them."""

    stored: Attributes | None
    changes: list[Change]

    def add(self, change: Change) -> None:
        if isinstance(change, Replace):
            self.changes.clear()
        self.changes.append(change)

    def settle(self, done: Iterable[Change]) -> None:
        """Take away the changes that are stored now; others may have come meanwhile."""
        known = {id(change) for change in done}
        self.changes = [change for change in self.changes if id(change) not in known]

    @property
    def absolute(self) -> bool:
        """Whether the outcome does not depend on what is stored."""
        return isinstance(self.changes[0], Replace)
