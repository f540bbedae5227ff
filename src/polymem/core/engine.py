"""What every engine offers besides its cells."""

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


class Engine(Protocol):
    """A database: opened once, shared by every namespace of a `Store`."""

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
