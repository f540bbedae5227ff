"""The mirrors: what is asynchronous below is plain here, and data stays what it is."""

import gc
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from polymem.blocking import BlockingStore, Portal
from polymem.blocking.mirrors import iterate
from polymem.errors import StorageConflictError, StorageDataError


def test_key_values(store: BlockingStore) -> None:
    kv = store.kv
    version = kv.put("a", {"x": [1, None]})
    assert kv.get("a") == {"x": [1, None]}
    assert kv.entry("a").version == version
    assert kv.get("b", default=5) == 5
    assert kv.exists("b") is False
    with pytest.raises(StorageConflictError):
        kv.create("a", 1)
    with pytest.raises(StorageDataError) as caught:
        kv.get("")
    assert caught.value.field == "key"


def test_async_iterators_become_iterators(store: BlockingStore) -> None:
    store.kv.put_many({f"{n:04}": n for n in range(1200)})
    scan = store.kv.scan()
    assert next(scan) == "0000"
    scan.close()
    assert list(store.kv.scan()) == [f"{n:04}" for n in range(1200)]
    assert [entry.value for entry in store.kv.entries("119")] == list(range(1190, 1200))


def test_an_iterator_gives_what_came_before_an_error(portal: Portal) -> None:
    async def numbers() -> AsyncIterator[int]:
        for n in range(10):
            yield n
        raise StorageConflictError("late")

    seen: list[int] = []
    with pytest.raises(StorageConflictError, match="late"):
        seen.extend(iter_into(iterate(portal, numbers()), seen))
    assert seen == list(range(10))


def test_leaving_an_iterator_early_closes_it(portal: Portal) -> None:
    closed = threading.Event()

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    for _ in iterate(portal, endless()):
        break
    gc.collect()
    assert closed.wait(10)


def test_namespaces_and_plain_methods(store: BlockingStore) -> None:
    acme = store.namespace("acme")
    acme.kv.put("k", 1)
    assert store.kv.exists("k") is False
    assert list(store.namespaces()) == [("acme",)]
    assert store.supports("kv")
    assert "kv" in store.features()
    assert store.metrics()["operations"]["kv.put"]["success_count"] == 1
    assert store.drop_namespace("acme") == 1
    assert store.engine.check().ok


def test_every_contract(store: BlockingStore) -> None:
    store.turns.append("s", "user", "hello")
    assert [turn.content for turn in store.turns.scan("s")] == ["hello"]
    vectors = store.vectors("v", dimensions=2)
    vectors.put("a", [1, 0])
    assert vectors.search([1, 0])[0].id == "a"
    text = store.text("t")
    text.put("a", "quick brown fox")
    assert [hit.id for hit in text.search("foxes")] == ["a"]
    graph = store.graph()
    graph.create_node("ada", "Person")
    assert graph.count().nodes == 1
    blobs = store.blobs()
    blobs.put("b", b"x" * 1000)
    assert b"".join(blobs.stream("b")) == b"x" * 1000


def test_typed_values_stay_themselves(store: BlockingStore) -> None:
    """Data is never mirrored, though it may have asynchronous methods of its own."""
    typed = store.kv.typed(Point)
    typed.put("p", Point(1, 2))
    assert typed.get("p") == Point(1, 2)
    assert type(typed.get("p")) is Point


def test_absent_names(store: BlockingStore) -> None:
    with pytest.raises(AttributeError):
        store.kv.nonsense()
    with pytest.raises(AttributeError):
        store.kv._driver()
    assert "put" in dir(store.kv)
    assert "Store" in repr(store)


def test_several_threads_share_a_store(store: BlockingStore) -> None:
    def count(_: int) -> None:
        for _ in range(25):
            store.kv.increment("n")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(4)))
    assert store.kv.get("n") == 100


@dataclass
class Point:
    x: int
    y: int

    async def publish(self) -> None:
        raise NotImplementedError


def iter_into(source: Iterator[int], seen: list[int]) -> Iterator[int]:
    for item in source:
        seen.append(item)
    return iter(())
