"""IDX-1: what the operators find; types as in contracts/filter.py, whose oracle decides."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polymem
from polymem.attribute_index import AttributeIndex
from polymem.contracts.filter import matches, parse

pytestmark = pytest.mark.anyio

DOCUMENTS: dict[str, dict[str, Any]] = {
    "a": {"year": 1999, "title": "Tides", "tags": ["sea", "moon"], "open": True, "note": None},
    "b": {"year": 2005.0, "title": "Tidal power", "tags": ["sea"], "open": False},
    "c": {"year": 2005, "title": "Moon rocks", "tags": ["moon", 1], "open": 1},
    "d": {"year": "2005", "title": "", "tags": [True]},
}


@pytest.fixture
async def documents(index: AttributeIndex) -> AttributeIndex:
    assert await index.index_entities(DOCUMENTS) == 4
    return index


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("year", 2005, "bc"),
        ("year", 2005.0, "bc"),
        ("year", "2005", "d"),
        ("open", True, "a"),
        ("open", 1, "c"),
        ("open", False, "b"),
        ("note", None, "a"),
        ("tags", "moon", "ac"),
        ("tags", 1, "c"),
        ("tags", True, "d"),
        ("title", "", "d"),
        ("title", "tides", ""),
        ("title", "Tide", ""),
        ("nothing", 1, ""),
    ],
)
async def test_equals_never_mixes_types(documents: AttributeIndex, name: str, value: Any, found: str) -> None:
    assert await documents.find_by_attribute(name, value) == set(found)


@pytest.mark.parametrize(
    ("name", "operator", "value", "found"),
    [
        ("title", "contains", "id", "ab"),
        ("title", "contains", "", "abcd"),
        ("tags", "contains", "oo", "ac"),
        ("tags", "contains", 1, "c"),
        ("tags", "contains", True, "d"),
        ("year", "contains", "200", "d"),
        ("note", "contains", None, "a"),
        ("title", "starts_with", "Tid", "ab"),
        ("title", "starts_with", "tid", ""),
        ("title", "starts_with", "", "abcd"),
        ("year", "starts_with", "2", "d"),
        ("nothing", "starts_with", "a", ""),
    ],
)
async def test_texts(documents: AttributeIndex, name: str, operator: Any, value: Any, found: str) -> None:
    assert await documents.find_by_attribute(name, value, operator=operator) == set(found)


@pytest.mark.parametrize(
    ("name", "low", "high", "found"),
    [
        ("year", 1999, 2005, "abc"),
        ("year", 1999.5, None, "bc"),
        ("year", None, 2004.9, "a"),
        ("year", "2", "3", "d"),
        ("year", None, "2005", "d"),
        ("year", 2006, 1999, ""),
        ("open", 0, 1, "c"),
        ("title", "M", "Tidal power", "bc"),
        ("nothing", 1, 2, ""),
    ],
)
async def test_range_includes_both_ends(documents: AttributeIndex, name: str, low: Any, high: Any, found: str) -> None:
    assert await documents.find_by_attribute(name, operator="range", low=low, high=high) == set(found)


async def test_boolean_queries(documents: AttributeIndex) -> None:
    find = documents.find_by_attributes
    sea, moon = ("tags", "sea"), {"name": "tags", "value": "moon"}
    assert await find([sea, moon]) == {"a"}
    assert await find([sea, moon], "AND") == {"a"}
    assert await find([sea, moon], "OR") == {"a", "b", "c"}
    assert await find([sea, moon], "NOT") == {"d"}
    assert await find([("title", "Ti", "starts_with"), {"name": "year", "operator": "range", "low": 2000}]) == {"b"}
    assert await find([("nothing", 1), sea]) == set()
    assert await find([("nothing", 1)], "NOT") == set("abcd")


async def test_answers_belong_to_the_caller(documents: AttributeIndex) -> None:
    """G-3: neither arguments nor answers are tied to the index."""
    for _ in range(2):
        found = await documents.find_by_attribute("tags", "sea")
        assert found == {"a", "b"}
        found.clear()
        (await documents.find_by_attributes([("tags", "sea")])).clear()
        (await documents.values_for("tags")).clear()
        attributes = await documents.attributes_of("a")
        assert attributes is not None
        attributes["tags"].append("more")
    assert await documents.values_for("tags") == [1, "moon", "sea", True]
    assert DOCUMENTS["c"]["tags"] == ["moon", 1]


async def test_listing(documents: AttributeIndex) -> None:
    assert await documents.all_attributes() == ["note", "open", "tags", "title", "year"]
    assert await documents.values_for("year") == [1999, 2005, "2005"]
    assert await documents.values_for("open") == [1, False, True]
    assert await documents.values_for("note") == [None]
    assert await documents.values_for("nothing") == []
    assert await documents.attributes_of("d") == {"year": ["2005"], "title": [""], "tags": [True]}
    assert await documents.attributes_of("e") is None


async def test_sorted_values_follow_changes(documents: AttributeIndex) -> None:
    """A range is answered from sorted values, which are kept up once they are there."""

    async def years() -> set[str]:
        return await documents.find_by_attribute("year", operator="range", low=2000, high=2010)

    assert await years() == {"b", "c"}
    await documents.add_attribute("a", "year", 2003)
    await documents.add_attribute("e", "year", 2010)
    assert await years() == {"a", "b", "c", "e"}
    await documents.remove_entity("e")
    await documents.remove_attribute("a", "year", 2003.0)
    await documents.remove_attribute("b", "year")
    assert await years() == {"c"}
    assert await documents.values_for("year") == [1999, 2005, "2005"]


async def test_a_value_of_many_entities_comes_and_goes(index: AttributeIndex) -> None:
    ids = [f"e{number}" for number in range(12)]
    for entity_id in ids:
        await index.add_attribute(entity_id, "x", 1)
    assert await index.find_by_attribute("x", 1) == set(ids)
    while ids:
        await index.remove_attribute(ids.pop(), "x", 1)
        assert await index.find_by_attribute("x", 1) == set(ids)
    assert await index.all_attributes() == []


numbers = st.integers(-3, 3) | st.sampled_from([-0.0, 0.5, 1.0, 2.0**53, 2**53 + 1, -(2**63), 2**63 - 1, 1e300])
scalars = st.none() | st.booleans() | numbers | st.text("ab\u00e9\U0001f600", max_size=3)
names = st.sampled_from(["x", "y"])
entities = st.dictionaries(st.sampled_from("abcdef"), st.dictionaries(names, scalars | st.lists(scalars, max_size=3)))


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    operator = draw(st.sampled_from(["equals", "contains", "starts_with", "range"]))
    if operator == "range":
        ends = draw(st.tuples(numbers, numbers) | st.tuples(st.text("ab"), st.text("ab")))
        return {"name": draw(names), "operator": operator, "low": ends[0], "high": ends[1]}
    value = draw(st.text("ab", max_size=2) if operator == "starts_with" else scalars)
    return {"name": draw(names), "operator": operator, "value": value}


def expected(attributes: dict[str, Any], condition: dict[str, Any]) -> bool:
    """What the filter language's oracle says of each value by itself."""
    given = attributes.get(condition["name"], [])
    values = given if isinstance(given, list) else [given]
    value, operator = condition.get("value"), condition["operator"]
    if operator == "range":
        test = {"between": [condition["low"], condition["high"]]}
    elif operator == "equals" or (operator == "contains" and not isinstance(value, str)):
        test = {"eq": value}
    else:
        test = {operator: value}
    return any(matches(parse({"v": test}), {"v": one}) for one in values)


@settings(max_examples=300, deadline=None)
@given(first=entities, then=entities, wanted=st.lists(conditions(), min_size=1, max_size=3))
def test_the_oracle_agrees(first: dict[str, Any], then: dict[str, Any], wanted: list[dict[str, Any]]) -> None:
    """Any documents, indexed, partly indexed again, and loaded afresh; any condition, any combination."""

    async def check() -> None:
        async with polymem.open("memory:", sweep_every=None) as store:
            index = AttributeIndex(store, "i")
            await index.index_entities(first)
            await index.find_by_attribute("x", operator="range", low=0)
            await index.index_entities(list(then.items()))
            documents = {**first, **then}
            for seen in (index, AttributeIndex(store, "i")):
                holds = {d: [expected(a, c) for c in wanted] for d, a in documents.items()}
                assert await seen.find_by_attributes(wanted, "AND") == {d for d, h in holds.items() if all(h)}
                assert await seen.find_by_attributes(wanted, "OR") == {d for d, h in holds.items() if any(h)}
                assert await seen.find_by_attributes(wanted, "NOT") == {d for d, h in holds.items() if not any(h)}
                assert await seen.find_by_attribute(**wanted[0]) == {d for d, h in holds.items() if h[0]}

    asyncio.run(check())
