"""A layer below the cache that holds calls back, so that a test decides what overtakes what."""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from polymem.contracts.drivers import Drivers

Open = Callable[..., Any]
"""Opens a store with a near cache over a gate: the fixture `cached`."""


class Held:
    """One call: `reached` is set when it is there; it goes on after `go.set()`."""

    def __init__(self, *, after: bool) -> None:
        self.after = after
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self.go.wait()


class Gate:
    """Counts the calls of kv that reach the engine; holds, or fails, those it was told to."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.failures: dict[str, Exception] = {}
        self.order: list[tuple[str, Any]] = []
        self._held: dict[str, deque[Held]] = defaultdict(deque)

    def hold(self, operation: str, *, after: bool = False) -> Held:
        """The next such call waits before the engine sees it, or (`after`) with the engine's answer in its hand."""
        held = Held(after=after)
        self._held[operation].append(held)
        return held

    def __call__(self, drivers: Drivers, _: str) -> Drivers:
        kv: Any = drivers.kv
        names = [name for name in dir(kv) if not name.startswith("_") and name != "features"]
        return replace(drivers, kv=SimpleNamespace(features=kv.features, **{n: self._gated(n, kv) for n in names}))

    def _gated(self, name: str, kv: Any) -> Any:
        call = getattr(kv, name)

        async def gated(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            self.order.append((name, args[0] if args else None))
            held = self._held[name].popleft() if self._held[name] else None
            if held is not None and not held.after:
                await held.wait()
            if name in self.failures:
                raise self.failures[name]
            result = await call(*args, **kwargs)
            if held is not None and held.after:
                await held.wait()
            return result

        return gated
