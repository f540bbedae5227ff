"""IDX-1 as its users use it: documents with metadata, found by tag, author and year, kept between runs."""

from typing import Any

import pytest

import polymem
from polymem.attribute_index import AttributeIndex, AttributeStatistics

pytestmark = pytest.mark.anyio

PAPERS: dict[str, dict[str, Any]] = {
    "paper-1": {"author": "Turing", "year": 1950, "tags": ["minds", "machines"], "title": "Computing Machinery"},
    "paper-2": {"author": "Shannon", "year": 1948, "tags": ["information"], "title": "Theory of Communication"},
    "paper-3": {"author": ["Shannon", "Weaver"], "year": 1949, "tags": ["information", "book"], "title": "The Theory"},
    "paper-4": {"author": "Hopper", "year": 1952, "tags": ["machines", "compilers"], "title": "Computer Education"},
}


async def test_indexing_and_finding_documents(index: AttributeIndex) -> None:
    for paper, metadata in PAPERS.items():
        for name, value in metadata.items():
            await index.add_attribute(paper, name, value)
    assert await index.find_by_attribute("tags", "information") == {"paper-2", "paper-3"}
    assert await index.find_by_attribute("author", "Weaver") == {"paper-3"}
    assert await index.find_by_attribute("title", "Theory", operator="contains") == {"paper-2", "paper-3"}
    assert await index.find_by_attribute("title", "Comput", operator="starts_with") == {"paper-1", "paper-4"}
    assert await index.find_by_attribute("year", operator="range", low=1949, high=1950) == {"paper-1", "paper-3"}
    assert await index.find_by_attribute("author", "Nobody") == set()


async def test_boolean_queries_over_documents(index: AttributeIndex) -> None:
    await index.index_entities(PAPERS)
    machines = {"name": "tags", "value": "machines"}
    fifties = {"name": "year", "operator": "range", "low": 1950, "high": 1959}
    computing = {"name": "title", "value": "Computing", "operator": "starts_with"}
    assert await index.find_by_attributes([machines, fifties], "AND") == {"paper-1", "paper-4"}
    assert await index.find_by_attributes([machines, fifties, computing], "AND") == {"paper-1"}
    assert await index.find_by_attributes([computing, {"name": "author", "value": "Weaver"}], "OR") == {
        "paper-1",
        "paper-3",
    }
    assert await index.find_by_attributes([machines], "NOT") == {"paper-2", "paper-3"}


async def test_keeping_documents_up_to_date(index: AttributeIndex) -> None:
    await index.index_entities(PAPERS)
    await index.remove_attribute("paper-1", "tags", "minds")
    await index.add_attribute("paper-1", "tags", "classic")
    await index.index_entities({"paper-2": {**PAPERS["paper-2"], "year": 1963}})
    assert await index.remove_entity("paper-4")
    assert await index.find_by_attribute("tags", "minds") == set()
    assert await index.find_by_attribute("tags", "classic") == {"paper-1"}
    assert await index.find_by_attribute("year", 1948) == set()
    assert await index.values_for("year") == [1949, 1950, 1963]
    assert await index.find_by_attribute("author", "Hopper") == set()


async def test_what_is_in_the_index(index: AttributeIndex) -> None:
    await index.index_entities(PAPERS)
    statistics = await index.statistics()
    assert (statistics.entities, statistics.attributes, statistics.unsaved) == (4, 4, 0)
    assert (statistics.values, statistics.postings) == (4 + 4 + 5 + 4, 5 + 4 + 7 + 4)
    assert statistics.by_attribute["author"] == AttributeStatistics(entities=4, values=4)
    assert statistics.by_attribute["tags"] == AttributeStatistics(entities=4, values=5)
    assert await index.all_attributes() == ["author", "tags", "title", "year"]
    assert await index.values_for("author") == ["Hopper", "Shannon", "Turing", "Weaver"]


async def test_saving_and_loading(url: str) -> None:
    """Collect in memory, save once, find it in the next run (on engines that keep anything)."""
    async with polymem.open(url, sweep_every=None) as store:
        index = AttributeIndex(store, "papers", autosave=False)
        await index.index_entities(PAPERS)
        assert (await index.statistics()).unsaved == 4
        assert await index.save() == 4
        again = AttributeIndex(store, "papers")
        await again.load()
        assert await again.statistics() == await index.statistics()
    async with polymem.open(url, sweep_every=None) as store:
        index = AttributeIndex(store, "papers")
        kept = {"paper-1", "paper-4"} if store.kv.features.durable else set()
        assert await index.find_by_attribute("tags", "machines") == kept
