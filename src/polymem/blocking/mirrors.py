"""Blocking mirrors of asynchronous objects."""

import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Final, TypeVar

from polymem.blocking._kinds import is_api
from polymem.blocking.portal import Portal
from polymem.contracts.transactions import Isolation
from polymem.errors import Outcome, StorageError

Result = TypeVar("Result")
_BATCH: Final = 512


class Blocking:
    """The blocking mirror of one asynchronous object: a `KeyValue`, `Vectors`, `MemorySession`, transaction ..."""

    def __init__(self, portal: Portal, target: Any) -> None:
        self._portal, self._target = portal, target

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._target, name)
        return self._method(found) if callable(found) and not is_api(found) else mirror(self._portal, found)

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._target) if not name.startswith("_")]

    def __repr__(self) -> str:
        return f"<Blocking {self._target!r}>"

    def __iter__(self) -> Iterator[Any]:
        """Of an object that is an endless iterator, such as a `Watch`: each item as soon as it is there."""
        if not hasattr(self._target, "__anext__"):
            raise TypeError(f"{type(self._target).__name__} is not iterable")
        return iterate(self._portal, self._target, most=1)

    def __next__(self) -> Any:
        """The next item of such an object, once it is there."""
        return next(iter(self))

    def __enter__(self) -> Any:
        entered = self._portal.call(getattr(self._target, "__aenter__", None) or self._target.__enter__)
        return self if entered is self._target else mirror(self._portal, entered)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        leave = getattr(self._target, "__aexit__", None) or self._target.__exit__
        answer: bool | None = self._portal.call(leave, kind, error, trace)
        return answer

    def _method(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def blocking(*args: Any, **kwargs: Any) -> Any:
            given = [_target(value) for value in args]
            named = {name: _target(value) for name, value in kwargs.items()}
            return mirror(self._portal, self._portal.call(method, *given, **named))

        blocking.__name__ = getattr(method, "__name__", "method")
        blocking.__doc__ = getattr(method, "__doc__", None)
        return blocking


class BlockingTransactions(Blocking):
    """The mirror of a store or of a storage."""

    def run_in_transaction(
        self,
        work: Callable[[Any], Result],
        *,
        retries: int = 3,
        isolation: Isolation = "serializable",
        timeout: float = 5.0,
    ) -> Result:
        """Run `work(tx)`, a plain function, in a transaction in this thread; again when that of the store would be."""
        for left in range(retries, -1, -1):
            try:
                with self.transaction(isolation=isolation, timeout=timeout) as tx:
                    return work(tx)
            except StorageError as error:
                if not error.retryable or error.outcome is Outcome.UNKNOWN or not left:
                    raise
                time.sleep(random.uniform(0, 0.05))  # noqa: S311 - jitter
        raise AssertionError("unreachable")  # pragma: no cover


def mirror(portal: Portal, value: Any) -> Any:
    """Iterators for async iterators, mirrors for other asynchronous objects; data as it is."""
    if hasattr(value, "__anext__") and not is_api(value):
        return iterate(portal, value)
    kind = BlockingTransactions if hasattr(value, "run_in_transaction") else Blocking
    return kind(portal, value) if is_api(value) else value


def _target(value: Any) -> Any:
    return value._target if isinstance(value, Blocking) else value  # noqa: SLF001 - ours


def iterate(portal: Portal, source: Any, most: int = _BATCH) -> Iterator[Any]:
    """The items of an async iterator: one, then two, then four at a time, as each fetch is a change of thread."""
    iterator, size, more = source.__aiter__(), 1, True
    try:
        while more:
            items, error, more = portal.call(_fetch, iterator, size)
            yield from (mirror(portal, item) for item in items)
            if error is not None:
                raise error
            size = min(size * 2, most)
    finally:
        if hasattr(iterator, "aclose"):
            portal.post(iterator.aclose)


async def _fetch(iterator: AsyncIterator[Any], size: int) -> tuple[list[Any], Exception | None, bool]:
    """At most `size` items, the error that came after them, whether there may be more."""
    items: list[Any] = []
    try:
        while len(items) < size:
            items.append(await anext(iterator))
    except StopAsyncIteration:
        return items, None, False
    except Exception as error:  # noqa: BLE001 - raised by the caller, after the items before it
        return items, error, False
    return items, None, True
