"""Several instances of one index, all that each says, and records whose answers are held back."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from polymem.attribute_index import AttributeIndex
from polymem.store import Store


async def everything(index: AttributeIndex) -> dict[str, Any]:
    """All that an index says, values in order."""
    ids = await index.find_by_attributes([("no such attribute", 0)], "NOT")
    found = {}
    for entity_id in ids:
        attributes = await index.attributes_of(entity_id)
        assert attributes is not None
        found[entity_id] = {name: sorted(values, key=repr) for name, values in attributes.items()}
        for name, values in attributes.items():
            for value in values:
                assert entity_id in await index.find_by_attribute(name, value)
    statistics = await index.statistics()
    assert statistics.entities == len(found)
    assert statistics.postings == sum(len(values) for one in found.values() for values in one.values())
    assert statistics.by_attribute.keys() == {name for one in found.values() for name in one}
    return found


def another(store: Store, **options: Any) -> AttributeIndex:
    return AttributeIndex(store, "documents", **options)


class Slow:
    """Lets other tasks in before and after each call of an index's records, as a server far away does."""

    def __init__(self, index: AttributeIndex, seed: int) -> None:
        self.chance = random.Random(seed)
        kv: Any = index._mirror._records.entities
        for name in ("entry", "put_many", "delete_many", "compare_and_set", "clear"):
            setattr(kv, name, self.slowed(getattr(kv, name)))

    def slowed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def late(*args: Any, **kwargs: Any) -> Any:
            await self.pause()
            try:
                return await call(*args, **kwargs)
            finally:
                await self.pause()

        return late

    async def pause(self) -> None:
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(0)


class Held:
    """The reply of one call of an index's records is held back: its work is done, its caller does not know yet."""

    def __init__(self, index: AttributeIndex, name: str) -> None:
        self.done, self.release, self._first = asyncio.Event(), asyncio.Event(), True
        kv: Any = index._mirror._records.entities
        self._call = getattr(kv, name)
        setattr(kv, name, self.scan if name == "entries" else self.held)

    async def held(self, *args: Any) -> Any:
        if not self._first:
            return await self._call(*args)
        self._first = False
        answer = await self._call(*args)
        await self.hold()
        return answer

    async def scan(self) -> Any:
        found = [entry async for entry in self._call()]
        await self.hold()
        for entry in found:
            yield entry

    async def hold(self) -> None:
        self.done.set()
        await self.release.wait()


async def settle(*work: Any) -> None:
    """Start the work and give it time for all it can do now; a bound would not help, it is over at once or blocked."""
    await asyncio.wait([asyncio.ensure_future(one) for one in work], timeout=0.05)
