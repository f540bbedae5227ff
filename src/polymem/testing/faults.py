"""A connection that fails as told: before a call is sent, after it was carried out, or slowly."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import fields
from enum import StrEnum
from types import SimpleNamespace
from typing import Any, cast

from polymem.contracts.drivers import Drivers
from polymem.core.engine import Engine
from polymem.errors import Outcome, StorageConnectionError, StorageQueryError

Call = Callable[..., Awaitable[Any]]


class Fault(StrEnum):
    """What happens to one call, and what is known of it afterwards."""

    REFUSED = "refused"
    """Not sent, and the sender knows it."""
    LOST = "lost"
    """Not carried out, but nobody can know that."""
    REPLY_LOST = "reply lost"
    """Carried out; the answer never came."""
    REJECTED = "rejected"
    """The engine answered with an error that no repetition mends."""
    GARBAGE = "garbage"
    """Carried out; the bytes of the answer arrive damaged."""
    SLOW = "slow"
    """Carried out when the caller has waited a while."""


class Faults:
    """What is to go wrong, by operation ("kv.put"), one fault a call; and what was called."""

    def __init__(self) -> None:
        self._next: dict[str, deque[Fault]] = defaultdict(deque)
        self.calls: list[str] = []
        """Every call that came through, by operation, repetitions included."""
        self.seen = asyncio.Event()
        """Set when a slow call has begun."""
        self.go = asyncio.Event()
        """Set it to let slow calls go on."""

    def plan(self, operation: str, *faults: Fault) -> None:
        """The next calls of an operation meet these faults, one each; later ones succeed."""
        self._next[operation].extend(faults)

    def next(self, operation: str) -> Fault | None:
        self.calls.append(operation)
        planned = self._next[operation]
        return planned.popleft() if planned else None


def faulty_engine(engine: Engine, faults: Faults) -> Engine:
    """The engine seen through such a connection; opening and closing it is left to its owner."""
    return cast("Engine", _FaultyEngine(engine, faults))


class _FaultyEngine:
    """Everything else is the engine's own."""

    def __init__(self, engine: Engine, faults: Faults) -> None:
        self._engine, self._faults = engine, faults

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def drivers(self, namespace: str, /) -> Drivers:
        return _faulty(self._engine.drivers(namespace), self._faults)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def _faulty(drivers: Drivers, faults: Faults) -> Drivers:
    cells = {field.name: getattr(drivers, field.name) for field in fields(drivers)}
    return Drivers(**{name: _driver(cell, name, faults) for name, cell in cells.items() if cell is not None})


def _driver(cell: Any, contract: str, faults: Faults) -> Any:
    names = [name for name in dir(cell) if not name.startswith("_") and name != "features"]
    calls = {name: _call(getattr(cell, name), f"{contract}.{name}", faults) for name in names}
    return SimpleNamespace(features=cell.features, **calls)


def _call(call: Call, operation: str, faults: Faults) -> Call:
    async def faulty(*args: Any, **kwargs: Any) -> Any:
        fault = faults.next(operation)
        match fault:
            case Fault.REFUSED:
                raise _cut_off(Outcome.NOT_APPLIED)
            case Fault.LOST:
                raise _cut_off(Outcome.UNKNOWN)
            case Fault.REJECTED:
                raise StorageQueryError("rejected on purpose")
            case Fault.SLOW:
                faults.seen.set()
                await faults.go.wait()
        result = await call(*args, **kwargs)
        if fault is Fault.REPLY_LOST:
            raise _cut_off(Outcome.UNKNOWN)
        return _damaged(result) if fault is Fault.GARBAGE else result

    return faulty


def _damaged(answer: Any) -> Any:
    """The same answer with every byte in it overwritten."""
    if isinstance(answer, bytes):
        return b"\x00" * len(answer)
    if isinstance(answer, dict):
        return {key: _damaged(value) for key, value in answer.items()}
    if isinstance(answer, tuple):
        make = getattr(answer, "_make", tuple)  # a named tuple stays one
        return make([_damaged(part) for part in answer])
    return answer


def _cut_off(outcome: Outcome) -> StorageConnectionError:
    return StorageConnectionError("cut off on purpose", retryable=True, outcome=outcome)
