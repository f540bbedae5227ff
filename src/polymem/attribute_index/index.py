"""`AttributeIndex`: what users hold."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

from polymem.attribute_index.changes import Add, Change, Remove, Replace
from polymem.attribute_index.conditions import (
    NOT_GIVEN,
    BooleanWord,
    ConditionOperator,
    NotGiven,
    check_condition,
    check_conditions,
    check_word,
    combine,
    find,
)
from polymem.attribute_index.mirror import Mirror
from polymem.attribute_index.postings import Statistics
from polymem.attribute_index.records import Records
from polymem.attribute_index.values import Attributes, Scalar, check_attributes, check_values
from polymem.contracts._input import all_checked
from polymem.core.text import check_key, check_name
from polymem.errors import StorageDataError
from polymem.store import Store

Values = Scalar | Sequence[Scalar]
"""One value, or a list of which each member is a value of the attribute."""


@final
class AttributeIndex:
    """Finds entities by the values of their attributes, on any store with key-value records (IDX-1).

    `name` is a plain name; indexes of different names on one store know nothing of each other. Nothing is read or
    written before the first call, which loads the index. Answers come from memory.

    With `autosave` a change is stored when its call returns; without, changes are kept in memory until `save()`.
    Changes that several tasks, instances or processes make to one entity are all kept: each is made on top of what
    is stored at that moment. What another instance stored is seen after `refresh()`.
    """

    def __init__(self, store: Store, name: str, *, autosave: bool = True) -> None:
        if not isinstance(autosave, bool):
            raise StorageDataError("expected a bool", field="autosave")
        self._mirror = Mirror(Records(store, check_name(name, field="name")))
        self._autosave = autosave

    async def add_attribute(self, entity_id: str, name: str, value: Values) -> bool:
        """Give the entity one more value of an attribute, or several; False: it had them already.

        An entity not indexed yet is from now on.
        """
        values = check_values(value, field="value")
        return await self._change(entity_id, Add(check_key(name, field="name"), values))

    async def remove_attribute(self, entity_id: str, name: str, value: Values | NotGiven = NOT_GIVEN) -> bool:
        """Take one value of an attribute away, or several, or without `value` all; whether there was any.

        An entity that loses its last attribute stays indexed until `remove_entity`.
        """
        values = None if isinstance(value, NotGiven) else check_values(value, field="value")
        return await self._change(entity_id, Remove(check_key(name, field="name"), values))

    async def remove_entity(self, entity_id: str) -> bool:
        """Remove the entity from the index; whether it was there."""
        check_key(entity_id, field="entity_id")
        await self._mirror.ready()
        if not self._autosave:
            return self._mirror.note(entity_id, Replace(None))
        return bool(await self._mirror.replace({entity_id: None}))

    async def index_entities(
        self, entities: Mapping[str, Mapping[str, Values]] | Iterable[tuple[str, Mapping[str, Values]]]
    ) -> int:
        """Index each entity under exactly these attributes, whatever it had before; how many entities.

        Bad input anywhere changes nothing. A failure of the store in the middle leaves whole entities, not halves.
        """
        pairs = entities.items() if isinstance(entities, Mapping) else entities
        checked = dict(await all_checked(pairs, _check_entity, field="entities"))
        await self._mirror.ready()
        if self._autosave:
            await self._mirror.replace(checked)
        else:
            await self._mirror.note_all({entity_id: Replace(attributes) for entity_id, attributes in checked.items()})
        return len(checked)

    async def find_by_attribute(
        self,
        name: str,
        value: Scalar | NotGiven = NOT_GIVEN,
        *,
        operator: ConditionOperator = "equals",
        low: float | str | None = None,
        high: float | str | None = None,
    ) -> set[str]:
        """The ids of the entities of which one value of the attribute satisfies the condition.

        `equals`: the same value, None included. `contains`: a text with the given one in it, or an equal value that
        is no text. `starts_with`: a text. `range`: from `low` to `high`, both included, None for no bound.
        """
        condition = check_condition(name, value, operator, low, high)
        await self._mirror.ready()
        return set(find(self._mirror.postings, condition))

    async def find_by_attributes(
        self, conditions: Sequence[Mapping[str, Any] | tuple[Any, ...]], operator: BooleanWord = "AND"
    ) -> set[str]:
        """The ids of the entities for which all (AND), at least one (OR) or none (NOT) of the conditions hold.

        A condition is a mapping of `name`, `value`, `operator`, `low` and `high`, or a tuple in that order.
        """
        checked, word = check_conditions(conditions), check_word(operator)
        await self._mirror.ready()
        return combine(self._mirror.postings, checked, word)

    async def attributes_of(self, entity_id: str) -> Attributes | None:
        """The values of each attribute of an entity, None where it is not indexed."""
        check_key(entity_id, field="entity_id")
        await self._mirror.ready()
        return self._mirror.postings.attributes(entity_id)

    async def all_attributes(self) -> list[str]:
        """The names in use, in order."""
        await self._mirror.ready()
        return self._mirror.postings.names()

    async def values_for(self, name: str) -> list[Scalar]:
        """The distinct values of an attribute: numbers, texts, bools, null, each in order; [] for an unknown name."""
        check_key(name, field="name")
        await self._mirror.ready()
        terms = self._mirror.postings.terms(name)
        return [] if terms is None else terms.all_values()

    async def statistics(self) -> Statistics:
        """How many entities, attributes, values and postings there are, and how many are not saved yet."""
        await self._mirror.ready()
        return self._mirror.postings.statistics(len(self._mirror.unsaved))

    async def save(self) -> int:
        """Store what is not stored yet; how many entities. Each is stored whole; what fails stays unsaved."""
        await self._mirror.ready()
        return await self._mirror.save()

    async def load(self) -> None:
        """Read what is stored; unsaved changes are dropped."""
        self._mirror.discard()
        await self._mirror.refresh()

    async def refresh(self) -> int:
        """Take over what others stored before this call, keeping unsaved changes; how many entities differed.

        Reads every record once; only those with another version than the one known are indexed again.
        """
        return await self._mirror.refresh()

    async def clear(self) -> int:
        """Remove every entity, at once even without autosave, damaged records too; how many were stored."""
        return await self._mirror.clear()

    async def _change(self, entity_id: str, change: Change) -> bool:
        check_key(entity_id, field="entity_id")
        await self._mirror.ready()
        if self._autosave:
            return await self._mirror.change(entity_id, [change])
        return self._mirror.note(entity_id, change)


def _check_entity(item: object) -> tuple[str, Attributes]:
    if not isinstance(item, tuple | list) or len(item) != 2:  # noqa: PLR2004 - a pair
        raise StorageDataError("expected a mapping of ids to attributes, or pairs of both", field="entities")
    return check_key(item[0], field="entities id"), check_attributes(item[1], field="attributes")
