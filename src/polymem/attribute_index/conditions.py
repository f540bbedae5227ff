"""Conditions on one attribute, and their combinations.

An attribute is a set of values. A condition holds for an entity when at least one of its values satisfies it:
`equals` the same value; `contains` a text that has the given one in it, or a value of another kind that equals it;
`starts_with` a text that begins so; `range` a number or text from `low` to `high`, both included, None for no bound.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import filterfalse, islice, takewhile
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from polymem.attribute_index.postings import Postings, Terms
from polymem.attribute_index.values import Kind, Scalar, check_scalar, kind_of
from polymem.contracts._input import members
from polymem.core.text import check_key
from polymem.errors import StorageDataError

ConditionOperator: TypeAlias = Literal["equals", "contains", "starts_with", "range"]
BooleanWord: TypeAlias = Literal["AND", "OR", "NOT"]
_OPERATORS: Final = get_args(ConditionOperator)


class NotGiven:
    """Stands for a value that was not given, because None is one."""


NOT_GIVEN: Final = NotGiven()


class Condition(NamedTuple):
    """A checked condition on one attribute; a tuple, since a frozen dataclass takes as long to make as a lookup."""

    name: str
    operator: ConditionOperator
    value: Scalar = None
    low: Scalar = None
    high: Scalar = None


def check_condition(
    name: object, value: object, operator: object, low: object, high: object, *, field: str = ""
) -> Condition:
    """A condition, or a `StorageDataError` that names the argument (below `field`)."""
    name = check_key(name, field=f"{field}name")  # type: ignore[arg-type]  # checked there
    if operator not in _OPERATORS:
        raise StorageDataError(f"expected one of {', '.join(_OPERATORS)}", field=f"{field}operator")
    if operator == "range":
        if value is not NOT_GIVEN:
            raise StorageDataError("a range takes low and high, no value", field=f"{field}value")
        return Condition(name, "range", None, *_bounds(low, high, field))
    if low is not None or high is not None:
        side = "high" if low is None else "low"
        raise StorageDataError("only a range takes low and high", field=f"{field}{side}")
    return Condition(name, operator, _operand(value, operator, f"{field}value"))  # type: ignore[arg-type]  # checked above


def _operand(value: object, operator: object, field: str) -> Scalar:
    if value is NOT_GIVEN:
        raise StorageDataError("expected a value", field=field)
    if operator == "starts_with" and not isinstance(value, str):
        raise StorageDataError("expected a string", field=field)
    return check_scalar(value, field=field)


def _bounds(low: object, high: object, field: str) -> tuple[Scalar, Scalar]:
    if low is None and high is None:
        raise StorageDataError("a range needs low, high or both", field=f"{field}low")
    bounds = check_scalar(low, field=f"{field}low"), check_scalar(high, field=f"{field}high")
    for side, bound in zip(("low", "high"), bounds, strict=True):
        if isinstance(bound, bool):
            raise StorageDataError("expected a number or a string", field=f"{field}{side}")
    if low is not None and high is not None and kind_of(bounds[0]) != kind_of(bounds[1]):
        raise StorageDataError("expected the same type as low, a number or a string", field=f"{field}high")
    return bounds


def check_conditions(conditions: object) -> list[Condition]:
    """Conditions given as mappings (name, value, operator, low, high) or tuples in that order."""
    if not isinstance(conditions, Sequence) or isinstance(conditions, str | bytes):
        raise StorageDataError("expected a list of conditions", field="conditions")
    if not conditions:
        raise StorageDataError("expected at least one condition", field="conditions")
    return [_one_of_many(item, f"conditions[{position}]") for position, item in enumerate(conditions)]


def _one_of_many(item: object, field: str) -> Condition:
    found = members(item, required=["name"], optional=["value", "operator", "low", "high"], field=field)
    value, operator = found.get("value", NOT_GIVEN), found.get("operator", "equals")
    return check_condition(found["name"], value, operator, found.get("low"), found.get("high"), field=f"{field}.")


def check_word(word: object) -> BooleanWord:
    for known in get_args(BooleanWord):
        if word == known:
            return known  # type: ignore[no-any-return]  # one of the literals
    raise StorageDataError("expected AND, OR or NOT", field="operator")


def find(postings: Postings, condition: Condition) -> Collection[str]:
    """The ids for which the condition holds; may be the index's own set, so not to be changed."""
    terms = postings.terms(condition.name)
    return () if terms is None else _FINDERS[condition.operator](terms, condition)


def combine(postings: Postings, conditions: Iterable[Condition], word: BooleanWord) -> set[str]:
    """The ids for which all (AND), some (OR) or none (NOT) of the conditions hold."""
    found = sorted((find(postings, condition) for condition in conditions), key=len)
    if word == "OR":
        return set[str]().union(*found)
    if word == "NOT":
        return set(filterfalse(set[str]().union(*found).__contains__, postings.ids()))
    least = found[0] if isinstance(found[0], set) else set(found[0])
    return least.intersection(*found[1:])


def _equals(terms: Terms, condition: Condition) -> Collection[str]:
    return terms.ids(condition.value)


def _contains(terms: Terms, condition: Condition) -> Collection[str]:
    part = condition.value
    if not isinstance(part, str):
        return terms.ids(part)
    return set[str]().union(*(ids for text, ids in terms.texts() if part in text))


def _starts_with(terms: Terms, condition: Condition) -> Collection[str]:
    texts: list[str] = terms.values("text")
    prefix = str(condition.value)
    following = islice(texts, bisect_left(texts, prefix), None)
    found: list[str] = list(takewhile(lambda text: text.startswith(prefix), following))
    return _union(terms, found)


def _range(terms: Terms, condition: Condition) -> Collection[str]:
    low, high = condition.low, condition.high
    kind: Kind = kind_of(high if low is None else low)
    values: list[Any] = terms.values(kind)
    first = 0 if low is None else bisect_left(values, low)
    return _union(terms, values[first : len(values) if high is None else bisect_right(values, high)])


def _union(terms: Terms, values: Iterable[Scalar]) -> set[str]:
    return set[str]().union(*(terms.ids(value) for value in values))


_FINDERS: Final[dict[ConditionOperator, Callable[[Terms, Condition], Collection[str]]]] = {
    "equals": _equals,
    "contains": _contains,
    "starts_with": _starts_with,
    "range": _range,
}
