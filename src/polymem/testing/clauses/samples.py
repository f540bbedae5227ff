"""The same few things done through every contract, for clauses that hold for all of them."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from polymem.store import Store
from polymem.testing.expect import listed
from polymem.testing.kit import Kit


@dataclass(frozen=True, slots=True)
class Sample:
    """One contract: write and remove a record of a name, list the names."""

    contract: str
    write: Callable[[Store, str], Awaitable[Any]]
    remove: Callable[[Store, str], Awaitable[Any]]
    names: Callable[[Store], Awaitable[list[str]]]
    count: Callable[[Store], Awaitable[int]]
    clear: Callable[[Store], Awaitable[int]]


def _vectors(store: Store) -> Any:
    return store.vectors("items", dimensions=3)


async def _turns_clear(store: Store) -> int:
    return sum([await store.turns.clear(name) for name in await listed(store.turns.sessions())])


async def _nodes(store: Store) -> int:
    return (await store.graph("items").count()).nodes


async def _ids(items: Any) -> list[str]:
    return [getattr(item, "id", None) or item.key async for item in items]


SAMPLES: Final = {
    sample.contract: sample
    for sample in (
        Sample(
            "kv",
            write=lambda store, name: store.kv.put(name, {"n": name}),
            remove=lambda store, name: store.kv.delete(name),
            names=lambda store: listed(store.kv.scan()),
            count=lambda store: store.kv.count(),
            clear=lambda store: store.kv.clear(),
        ),
        Sample(
            "turns",
            write=lambda store, name: store.turns.append(name, "user", name),
            remove=lambda store, name: store.turns.clear(name),
            names=lambda store: listed(store.turns.sessions()),
            count=lambda store: store.turns.count(),
            clear=_turns_clear,
        ),
        Sample(
            "vectors",
            write=lambda store, name: _vectors(store).put(name, [1, 2, len(name)], {"n": name}),
            remove=lambda store, name: _vectors(store).delete(name),
            names=lambda store: _ids(_vectors(store).scan()),
            count=lambda store: _vectors(store).count(),
            clear=lambda store: _vectors(store).clear(),
        ),
        Sample(
            "text",
            write=lambda store, name: store.text("items").put(name, "some words", {"n": name}),
            remove=lambda store, name: store.text("items").delete(name),
            names=lambda store: _ids(store.text("items").scan()),
            count=lambda store: store.text("items").count(),
            clear=lambda store: store.text("items").clear(),
        ),
        Sample(
            "graph",
            write=lambda store, name: store.graph("items").create_node(name, "Item", {"n": name}),
            remove=lambda store, name: store.graph("items").delete_node(("Item", name)),
            names=lambda store: _ids(store.graph("items").nodes()),
            count=_nodes,
            clear=lambda store: store.graph("items").clear(),
        ),
        Sample(
            "blobs",
            write=lambda store, name: store.blobs("items").put(name, name.encode()),
            remove=lambda store, name: store.blobs("items").delete(name),
            names=lambda store: _ids(store.blobs("items").scan()),
            count=lambda store: store.blobs("items").count(),
            clear=lambda store: store.blobs("items").clear(),
        ),
    )
}


def offered(kit: Kit) -> list[Sample]:
    """The samples of the contracts that the engine has."""
    return [sample for name, sample in SAMPLES.items() if kit.store.supports(name)]


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 - any bytes will do


async def in_pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
        await asyncio.sleep(0)
