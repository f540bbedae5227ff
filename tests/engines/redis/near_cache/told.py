"""What tests of the near cache over Redis share."""

import math
from time import monotonic

from engines.near_cache import listening, until

from polymem.store import Store


async def told(store: Store) -> None:
    """Return when the store has been told of everything that is acknowledged by now."""
    now = monotonic()

    def proven() -> bool:
        parts = listening(store)._parts
        for part in parts:
            part._every = 0.01  # don't be long about it
        return min((part.proven for part in parts), default=-math.inf) >= now

    await until(proven)


async def _all_see(cached: Store, store: Store, value: int) -> None:
    spaces = [f"n{number}" for number in range(30)]
    await told(cached)
    for name in spaces:
        await cached.namespace(name).kv.get("a")
    for name in spaces:
        await store.namespace(name).kv.put("a", value)
    await told(cached)
    for name in spaces:
        assert await cached.namespace(name).kv.get("a") == value
