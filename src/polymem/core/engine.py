"""What every engine offers besides its cells."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from polymem.core.clock import Clock
from polymem.core.page import Page
from polymem.errors import StorageError


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of `Engine.check`: what was looked at and every problem found."""

    engine: str
    version: str
    ok: bool
    problems: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


class Pooled(Protocol):
    """What an engine with a connection pool also offers."""

    def pool_status(self) -> Mapping[str, int] | None:
        """Connections by state: `size` (open), `used`, `waiting` (callers in the queue) and `max_size`.

        Answers from memory, at any time; None while there is no pool.
        """
        ...


class Detailed(Protocol):
    """What an engine also offers that has figures of its own."""

    def details(self) -> Mapping[str, Any] | None:
        """What only this kind of engine can tell, as JSON has it. Answers from memory; None while it is not open."""
        ...


class Replicated(Protocol):
    """What an engine also offers whose reads may be answered by replicas."""

    def replica_status(self) -> Sequence[Mapping[str, Any]]:
        """Each replica, at any time from memory: `replica` (its address) and `state`, `ready` where it is read from."""
        ...


class Probed(Protocol):
    """What an engine also offers whose server is asked over a network, or whose `check` is long."""

    async def probe(self) -> str:
        """The server's version, by one short call that proves that the engine answers."""
        ...


class Leasing(Protocol):
    """What an engine also offers whose database several stores can have open at once."""

    async def lease(self, name: str, holder: str, seconds: float, /) -> bool:
        """Take or prolong the claim `name` by the engine's clock; False while another holder's has not run out.

        0 seconds give it back.
        """
        ...


class Hearer(Protocol):
    """Whoever wants to know of changes by others; it is told in no task of its own, so it must not wait."""

    def changed(self, namespace: str, key: str | None) -> None:
        """Somebody, perhaps this very instance, may have written this record; None: any of the namespace."""
        ...

    def drop(self) -> None:
        """Anything may have been written."""
        ...


class Following(Protocol):
    """Telling that goes on until it is closed."""

    def current(self) -> bool:
        """Whether every write that was acknowledged longer ago than agreed has been told."""
        ...

    async def close(self) -> None: ...


class Telling(Protocol):
    """What an engine also offers that hears from its server which key-value records are written, by any process."""

    async def follow_changes(self, hearer: Hearer, within: float, /) -> Following:
        """Tell of every write within so many seconds, as `current` says; `StorageUnsupportedError` where refused."""
        ...


def pool_of(engine: object) -> Mapping[str, int] | None:
    """The figures of the engine's pool, None where it has none."""
    status = getattr(engine, "pool_status", None)
    found: Mapping[str, int] | None = None if status is None else status()
    return found


def details_of(engine: object) -> Mapping[str, Any] | None:
    """What the engine tells of itself, None where it tells nothing."""
    details = getattr(engine, "details", None)
    found: Mapping[str, Any] | None = None if details is None else details()
    return found


def replicas_of(engine: object) -> Sequence[Mapping[str, Any]]:
    """The engine's replicas, none where it knows of none."""
    status = getattr(engine, "replica_status", None)
    found: Sequence[Mapping[str, Any]] = () if status is None else status()
    return found


async def probe_of(engine: Any) -> str | None:
    """Ask the engine by its own `probe`, or else by its least listing, which tells no version."""
    probe: Callable[[], Awaitable[str | None]] | None = getattr(engine, "probe", None)
    if probe is not None:
        return await probe()
    await engine.namespaces("", None, 1)
    return None


class Engine(Protocol):
    """A database: opened once, shared by every namespace of a `Store`. It may be `Pooled`, `Detailed`,
    `Replicated`, `Probed`, `Leasing` and `Telling` too.
    """

    name: str
    remote: bool
    """True where calls cross a network: then a circuit breaker watches them."""
    clock: Clock

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def drivers(self, namespace: str, /) -> Any:
        """The `Drivers` of one encoded namespace; no I/O."""
        ...

    def translate(self, error: Exception, /) -> StorageError | None:
        """The error map: the library's error for a driver exception, None where it is not ours."""
        ...

    async def namespaces(self, prefix: str, after: str | None, limit: int, /) -> Page[str]:
        """Encoded names at or below `prefix` that hold something, in order; what expired may count until it is swept."""
        ...

    async def drop_namespace(self, prefix: str, /) -> int:
        """Remove the subtree at `prefix`, in one transaction; the number of records removed, expired ones perhaps."""
        ...

    async def delete_expired(self, limit: int, /) -> int:
        """Remove at most `limit` expired records; how many were removed."""
        ...

    async def purge(self) -> None:
        """Make deleted bytes unrecoverable, in free space and logs too."""
        ...

    async def check(self) -> Health:
        """Version, integrity and figures."""
        ...
