"""What a transaction has read and what it is going to write."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from polymem.contracts.events import Op
from polymem.engines.redis._line import Command
from polymem.errors import StorageDataError


class Place(NamedTuple):
    """A record or a session."""

    kind: str
    namespace: str
    name: str


class Overlay:
    """Staged values over those read; a value is None where nothing is there, and never changed in place."""

    def __init__(self, ask: Callable[[Sequence[Command]], Awaitable[list[Any]]], check: Callable[[], None]) -> None:
        self._ask = ask
        self.check = check
        """Raises when the transaction is over."""
        self.read: dict[Place, Any] = {}
        self.staged: dict[Place, Any] = {}
        self.journal: list[tuple[str, Op, str]] = []
        """What happened to records, for those who watch: namespace, what, key."""
        self._listed: set[bytes] = set()
        self._savepoints: list[tuple[str, dict[Place, Any], int]] = []
        self.watches = False

    def see(self, place: Place) -> Any:
        """The value as the transaction sees it; it was loaded before."""
        return self.staged[place] if place in self.staged else self.read[place]

    def stage(self, place: Place, value: Any) -> None:
        self.staged[place] = value

    def names(self, kind: str, namespace: str) -> list[str]:
        """Everything known of a kind in a namespace, in order; what is there is known once it was listed."""
        return sorted({p.name for p in (*self.read, *self.staged) if p.kind == kind and p.namespace == namespace})

    def namespaces(self) -> list[str]:
        """Those written to."""
        return sorted({place.namespace for place in self.staged})

    def changes(self, kind: str, namespace: str) -> dict[str, Any]:
        found = ((place, value) for place, value in self.staged.items() if place.kind == kind)
        return {place.name: value for place, value in found if place.namespace == namespace}

    async def watch(self, keys: Sequence[bytes], *commands: Command) -> list[Any]:
        """The replies to `commands`, which read `keys`: from now on nobody may change those."""
        self.watches = True
        return (await self._ask([("WATCH", *keys), *commands]))[1:]

    async def listing(self, index: bytes) -> list[str]:
        """The members of an index, read once and watched."""
        if index in self._listed:
            return []
        (members,) = await self.watch([index], ("ZRANGE", index, 0, -1))
        self._listed.add(index)
        return [member.decode() for member in members]

    def savepoint(self, name: str) -> None:
        self._savepoints.append((name, dict(self.staged), len(self.journal)))

    def rollback_to(self, name: str) -> None:
        at = self._find(name)
        _, staged, told = self._savepoints[at]
        self.staged = dict(staged)
        del self.journal[told:], self._savepoints[at + 1 :]

    def release(self, name: str) -> None:
        del self._savepoints[self._find(name) :]

    def _find(self, name: str) -> int:
        """The newest of that name: it hides the others."""
        for at in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[at][0] == name:
                return at
        raise StorageDataError("expected the name of a savepoint of this transaction", field="name")
