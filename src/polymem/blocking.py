"""Polymem for synchronous callers (scripts, notebooks): one explicit portal, owned and closed by its caller.

    with polymem.blocking.open("sqlite:///agent.db") as store:
        store.kv.put("theme", {"dark": True})
        for key in store.kv.scan():
            ...

    with polymem.blocking.Memory.open("sqlite:///agent.db", tenant="acme") as memory:
        memory.session("s1").add("user", "I moved to Lisbon")

A `Portal` is a thread with an event loop of its own, so it works where a loop already runs (it blocks that loop for
the time of the call). What it gives out mirrors the asynchronous objects: a method that is awaited there returns its
result here, async iterators are iterators, async context managers are context managers. Signatures and behaviour are
those of the asynchronous classes; since they are mirrored at run time, type checkers see `Any`.

Any thread may use a portal. Each thread has its own transactions, as each task has in asyncio.
"""

import asyncio
import contextvars
import inspect
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import polymem.config
from polymem.errors import StorageConnectionError, StorageError

Result = TypeVar("Result")
_BATCH: Final = 512


class Portal:
    """A thread with its own event loop. Close it, or use it as a context manager; closing twice is harmless."""

    def __init__(self) -> None:
        # reentrant: the garbage collector may run an iterator's end, and so `post`, at any line
        self._pid, self._lock, self._open = os.getpid(), threading.RLock(), True
        self._callers = threading.local()
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=_run_loop, args=(started,), name="polymem-portal", daemon=True)
        self._thread.start()
        self._loop, self._stop = started.result()

    def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `function` in the portal, await what it gives if that is awaitable, and return the result.

        Its exceptions are raised here. KeyboardInterrupt cancels the call and waits for it to clean up. Raises
        StorageConnectionError if the portal is closed, before or during the call, or belongs to another process.
        """
        outcome: Future[Any] = Future()
        task = self._start(_invoke(function, args, kwargs), outcome)
        try:
            return outcome.result()
        except CancelledError:
            raise StorageConnectionError("the portal was closed during the call") from None
        except BaseException:
            if not outcome.done():
                self._cancel(task, outcome)
            raise

    def post(self, function: Callable[[], Awaitable[object]], /) -> None:
        """Run `function` in the portal some time, without waiting; harmless when it is closed."""
        with self._lock:
            if self._open and self._pid == os.getpid():
                self._loop.call_soon_threadsafe(lambda: asyncio.ensure_future(function()))

    def close(self) -> None:
        """Cancel what still runs, end the thread."""
        with self._lock:
            if self._open and self._pid == os.getpid():
                self._loop.call_soon_threadsafe(self._stop.set)
            self._open = False
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Portal {'open' if self._open else 'closed'}>"

    def _start(self, call: Any, outcome: "Future[Any]") -> "list[asyncio.Task[Any]]":
        """Schedule `call` in this thread's context; the list receives its task."""
        holder: list[asyncio.Task[Any]] = []
        context = self._context()

        def begin() -> None:
            task = self._loop.create_task(call, context=context)
            holder.append(task)
            task.add_done_callback(lambda done: _settle(outcome, done))

        with self._lock:
            reason = self._unusable()
            if reason is None:
                self._loop.call_soon_threadsafe(begin)
        if reason is not None:
            call.close()
            raise StorageConnectionError(reason)
        return holder

    def _unusable(self) -> str | None:
        if not self._open:
            return "the portal is closed"
        if os.getpid() != self._pid:
            return f"the portal belongs to process {self._pid}, not to {os.getpid()}; open one here"
        if threading.current_thread() is self._thread:
            return "a blocking call inside the portal would wait for itself; await the asynchronous API there"
        return None

    def _context(self) -> contextvars.Context:
        """One context per calling thread: what opening a transaction sets is seen by the calls that follow."""
        found: contextvars.Context | None = getattr(self._callers, "context", None)
        if found is None:
            found = self._callers.context = contextvars.copy_context()
        return found

    def _cancel(self, task: "list[asyncio.Task[Any]]", outcome: "Future[Any]") -> None:
        with self._lock:
            if self._open:  # otherwise closing cancels it
                self._loop.call_soon_threadsafe(lambda: task[0].cancel())
        try:
            outcome.result()
        except (Exception, CancelledError):
            return  # what matters is that it ended


def _run_loop(started: "Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]") -> None:
    async def until_closed() -> None:
        stop = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()

    with asyncio.Runner() as runner:  # its end cancels every task and waits for the executor's threads
        runner.run(until_closed())


async def _invoke(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    found = function(*args, **kwargs)
    return found if _is_api(found) or not inspect.isawaitable(found) else await found


def _settle(outcome: "Future[Any]", task: "asyncio.Task[Any]") -> None:
    if task.cancelled():
        outcome.cancel()
        outcome.set_running_or_notify_cancel()
    elif (error := task.exception()) is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(task.result())


class Blocking:
    """The blocking mirror of one asynchronous object: a `KeyValue`, `Vectors`, `MemorySession`, transaction ..."""

    def __init__(self, portal: Portal, target: Any) -> None:
        self._portal, self._target = portal, target

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._target, name)
        return self._method(found) if callable(found) and not _is_api(found) else _mirror(self._portal, found)

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._target) if not name.startswith("_")]

    def __repr__(self) -> str:
        return f"<Blocking {self._target!r}>"

    def __enter__(self) -> Any:
        entered = self._portal.call(self._target.__aenter__)
        return self if entered is self._target else _mirror(self._portal, entered)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        answer: bool | None = self._portal.call(self._target.__aexit__, kind, error, trace)
        return answer

    def _method(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def blocking(*args: Any, **kwargs: Any) -> Any:
            given = [_target(value) for value in args]
            named = {name: _target(value) for name, value in kwargs.items()}
            return _mirror(self._portal, self._portal.call(method, *given, **named))

        blocking.__name__ = getattr(method, "__name__", "method")
        blocking.__doc__ = getattr(method, "__doc__", None)
        return blocking


class _Owner(Blocking):
    """A mirror that was opened here, so closing it closes what it was opened with."""

    def __init__(self, portal: Portal, target: Any, *, owned: bool) -> None:
        super().__init__(portal, target)
        self._owned, self._closed = owned, False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> Self:
        """Open already, unless closed: then StorageConnectionError."""
        if self._closed:
            raise StorageConnectionError("the store is closed")
        return self

    def close(self) -> None:
        """Close the store, and its portal unless one was handed in. Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        try:
            self._portal.call(self._target.close)
        finally:
            if self._owned:
                self._portal.close()


class BlockingStore(_Owner):
    """A `polymem.Store`, opened; the methods are those of `Store`, without await."""

    def run_in_transaction(
        self, work: "Callable[[Any], Result]", *, retries: int = 3, timeout: float = 5.0
    ) -> Result:
        """Run `work(tx)` in a transaction in this thread, again after a retryable failure."""
        for left in range(retries, -1, -1):
            try:
                with self.transaction(timeout=timeout) as tx:
                    return work(tx)
            except StorageError as error:
                if not error.retryable or not left:
                    raise
                time.sleep(random.uniform(0, 0.05))  # noqa: S311 - jitter
        raise AssertionError("unreachable")  # pragma: no cover


def open(url: str | Path | None = None, *, portal: Portal | None = None, **options: Any) -> BlockingStore:
    """An opened store; `url` and `options` as for `polymem.open`.

    Without a `portal` it starts its own, which `close()` ends; several stores may share one that is handed in.
    """
    return BlockingStore(*_opened(portal, lambda: polymem.config.open(url, **options)), owned=portal is None)


class BlockingMemory(_Owner):
    """A `polymem.Memory`, opened; the methods are those of `Memory`, without await."""


class Memory:
    """Where a blocking memory comes from: `polymem.blocking.Memory.open(...)`."""

    @staticmethod
    def open(
        url: str | Path | None = None, *, portal: Portal | None = None, **options: Any
    ) -> BlockingMemory:
        """An opened memory; `url` and `options` (tenant=, embed=, ...) as for `polymem.Memory.open`."""
        from polymem.memory.memory import Memory as AsyncMemory  # noqa: PLC0415 - slow, and a plain store needs none of it

        return BlockingMemory(
            *_opened(portal, lambda: AsyncMemory.open(url, **options)), owned=portal is None
        )


def _opened(portal: Portal | None, make: Callable[[], Any]) -> tuple[Portal, Any]:
    entrance = portal or Portal()
    try:
        target = entrance.call(make)
        return entrance, entrance.call(target.__aenter__)
    except BaseException:
        if portal is None:
            entrance.close()
        raise


def _mirror(portal: Portal, value: Any) -> Any:
    """Iterators for async iterators, mirrors for other asynchronous objects; data as it is."""
    if hasattr(value, "__anext__"):
        return _iterate(portal, value)
    return Blocking(portal, value) if _is_api(value) else value


def _target(value: Any) -> Any:
    return value._target if isinstance(value, Blocking) else value


def _is_api(value: object) -> bool:
    """Whether `value` is one of our asynchronous objects, or a context manager one of their methods gave."""
    kind = type(value)
    if kind.__module__ == "contextlib":
        return hasattr(kind, "__aenter__")
    if not kind.__module__.startswith(
        "polymem."
    ):  # data, which may well have asynchronous methods of its own
        return False
    members = (
        member for owner in kind.__mro__ for name, member in vars(owner).items() if not name.startswith("_")
    )
    return any(inspect.iscoroutinefunction(m) or inspect.isasyncgenfunction(m) for m in members)


def _iterate(portal: Portal, source: Any) -> Iterator[Any]:
    """The items of an async iterator: one, then two, then four at a time, as each fetch is a change of thread."""
    iterator, size, more = source.__aiter__(), 1, True
    try:
        while more:
            items, error, more = portal.call(_fetch, iterator, size)
            yield from (_mirror(portal, item) for item in items)
            if error is not None:
                raise error
            size = min(size * 2, _BATCH)
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
