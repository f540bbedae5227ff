"""What a listener was told, for tests of listeners and hooks."""

from dataclasses import dataclass

from polymem.contracts._events_types import NAMES, Event
from polymem.store import Store


class Heard(list[Event]):
    """What a listener of these names was told; `names` waits until it has been."""

    def __init__(self, store: Store, *names: str) -> None:
        async def hear(event: Event) -> None:
            self.append(event)

        super().__init__()
        self.subscription = store.on(names or NAMES, hear)

    async def names(self) -> list[str]:
        await self.subscription.drain()
        return [event.name for event in self]


@dataclass
class Point:
    x: int
