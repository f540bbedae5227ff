"""The portal: a thread with its own event loop, and calls into it."""

import asyncio
import contextvars
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Self

from polymem.blocking._kinds import is_awaited
from polymem.errors import StorageConnectionError


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
                self._loop.call_soon_threadsafe(lambda: task[0].cancel())  # noqa: PLW0108 - it may not be there yet
        try:
            outcome.result()
        except Exception:  # noqa: BLE001 - however it ended, the interrupt is what the caller gets
            return


def _run_loop(started: "Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]") -> None:
    async def until_closed() -> None:
        stop = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()

    with asyncio.Runner() as runner:  # its end cancels every task and waits for the executor's threads
        runner.run(until_closed())


async def _invoke(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    found = function(*args, **kwargs)
    return await found if is_awaited(found) else found


def _settle(outcome: "Future[Any]", task: "asyncio.Task[Any]") -> None:
    if task.cancelled():
        outcome.cancel()
        outcome.set_running_or_notify_cancel()
    elif (error := task.exception()) is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(task.result())
