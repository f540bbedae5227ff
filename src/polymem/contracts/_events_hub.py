"""Listeners and hooks of one opened store (EVT-1, EVT-2): `store.on(name, handler)`, `store.use(hook)`."""

import asyncio
import inspect
import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from types import TracebackType
from typing import Any, Final, Self, final
from weakref import WeakMethod

from polymem.contracts._events_types import NAMES, Call, Event
from polymem.contracts._input import several
from polymem.core.namespace import decode, encode
from polymem.errors import StorageDataError

Handler = Callable[[Event], Any]
Hook = Callable[[Call], Call | Awaitable[Call | None] | None]
Emit = Callable[[Event], None]
Switch = Callable[[], None]
_MANY: Final = 100
_GRACE: Final = 1.0
"""Seconds that closing waits for handlers."""
_OF_ALL: Final = frozenset(f"{moment}:{kind}" for kind in ("connect", "disconnect") for moment in ("before", "after"))
_log = logging.getLogger("polymem.events")


@final
class Subscription:
    """One listener with a queue of its own; `cancel` ends it, as does leaving a `with` block."""

    def __init__(
        self, names: tuple[str, ...], handler: Handler, max_queued: int, forget: "Callable[[Subscription], None]"
    ) -> None:
        self.names, self._handler, self._forget = names, handler, forget
        self._queue: deque[Event] = deque(maxlen=max_queued)
        self._task: asyncio.Task[None] | None = None
        self._thread = None if _is_async(handler) else _Thread(handler)
        self._told = self._over = 0
        self._step: asyncio.Future[None] | None = None
        self.delivered = 0
        """Events that the handler has dealt with."""
        self.dropped = 0
        """Events that it never saw, because its queue was full or the store was closed."""
        self.failed = 0
        """Events at which it raised."""

    def __repr__(self) -> str:
        figures = f"delivered={self.delivered} dropped={self.dropped} failed={self.failed}"
        return f"<Subscription {', '.join(self.names)} {figures} queued={len(self._queue)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Hear nothing more; what is queued is dropped. A handler at work is let finish."""
        self._forget(self)
        self._give_up()

    async def drain(self) -> None:
        """Return when everything told before this call has been dealt with; not to be called by the handler itself."""
        last = self._told
        while self._over < last and self._task is not None and not self._task.done():
            self._step = self._step or asyncio.get_running_loop().create_future()
            await asyncio.wait([self._task, self._step], return_when=asyncio.FIRST_COMPLETED)

    def offer(self, event: Event) -> None:
        """Queue an event; where there is no room the oldest goes."""
        if len(self._queue) == self._queue.maxlen:
            self.dropped += 1
            if self.dropped == 1:
                _log.warning("a handler of %s is too slow: its oldest events are dropped", ", ".join(self.names))
        self._queue.append(event)
        self._told += 1
        if self._task is None or self._task.done():
            # of its own context: the task that emits may hold a transaction open, which is none of the handler's
            self._task = asyncio.get_running_loop().create_task(self._deliver(), context=Context())

    async def close(self, seconds: float, caller: "asyncio.Task[Any] | None") -> None:
        """Let it finish, but not for longer than that; nor wait for a handler that is itself the caller."""
        task = self._task
        if task is not None and task is not caller:
            await asyncio.wait([task], timeout=seconds)
            task.cancel()
        self._give_up()

    def _give_up(self) -> None:
        self.dropped += len(self._queue)
        self._queue.clear()
        if self._thread is not None:
            self._thread.stop()

    async def _deliver(self) -> None:
        while self._queue:
            event = self._queue.popleft()
            try:
                await self._call(event)
            except Exception as error:  # noqa: BLE001 - a handler's failure is nobody else's
                self._failed(error)
            else:
                self.delivered += 1
            self._stepped()
            await asyncio.sleep(0)  # a handler that never suspends, or feeds itself, would starve the other tasks

    def _stepped(self) -> None:
        """None is in the handler's hands: all but the queued ones, which are the newest, are over."""
        self._over, step, self._step = self._told - len(self._queue), self._step, None
        if step is not None:
            step.set_result(None)

    async def _call(self, event: Event) -> None:
        result = self._handler(event) if self._thread is None else await self._thread.run(event)
        if inspect.isawaitable(result):
            await result

    def _failed(self, error: Exception) -> None:
        self.failed += 1
        level = logging.WARNING if self.failed == 1 else logging.DEBUG
        _log.log(level, "a handler of %s failed: %s", ", ".join(self.names), type(error.__cause__ or error).__name__)


class HandlerError(Exception):
    """What a plain function raised, `SystemExit` and `StopIteration` included, as its cause."""


class _Thread:
    """Where a plain function runs, for it may block. A daemon: one that never returns must not keep Python alive."""

    def __init__(self, function: Handler) -> None:
        self._function = function
        self._queue: queue.SimpleQueue[tuple[Event, asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._started = False

    async def run(self, event: Event) -> Any:
        if not self._started:
            self._started = True
            threading.Thread(target=self._serve, name="polymem-events", daemon=True).start()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put((event, future))
        result, error = await future
        if error is not None:
            raise HandlerError(type(error).__name__) from error
        return result

    def stop(self) -> None:
        if self._started:
            self._started = False
            self._queue.put(None)

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            event, future = item
            result, error = None, None
            try:
                result = self._function(event)
            except BaseException as raised:  # noqa: BLE001 - whatever it is, it must not end the thread
                error = raised
            try:
                future.get_loop().call_soon_threadsafe(_settle, future, (result, error))
            except RuntimeError:  # that loop is closed
                return


def _settle(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():
        future.set_result(result)


@final
class Observers:
    """Who listens to one opened store. While nobody does, key-value handles are as they are; else they are observed."""

    def __init__(self) -> None:
        self._listening: dict[str, list[tuple[str, Subscription]]] = {}
        self._hooks: list[tuple[str, Hook]] = []
        self._handles: set[WeakMethod[Switch]] = set()

    @property
    def active(self) -> bool:
        return bool(self._listening or self._hooks)

    def adopt(self, switch: Switch) -> None:
        """Call the method whenever `active` changes, for as long as its object lives."""
        self._handles.add(WeakMethod(switch, self._handles.discard))

    def on(self, scope: str, name: str | Iterable[str], handler: Handler, max_queued: int) -> Subscription:
        names = (name,) if isinstance(name, str) else tuple(several(name, field="name"))
        _check(names, handler, max_queued)

        def forget(subscription: Subscription) -> None:
            self._drop(scope, subscription)

        subscription = Subscription(tuple(dict.fromkeys(names)), handler, max_queued, forget)
        for one in subscription.names:
            self._listening.setdefault(one, []).append((scope, subscription))
            if len(self._listening[one]) == _MANY:
                _log.warning("%d handlers of %s: were some never cancelled?", _MANY, one)
        self._switch()
        return subscription

    def use(self, scope: str, hook: Hook) -> "Use":
        if not callable(hook):
            raise StorageDataError("expected a function of one argument, the call", field="hook")
        self._hooks.append((scope, hook))
        self._switch()
        return Use(lambda: self._unhook(scope, hook))

    def subscribers(self, scope: str) -> dict[str, int]:
        """How many listen at or below a namespace, by name; "hook" for those that `use` added."""
        counted: Counter[str] = Counter()
        for name, listening in self._listening.items():
            counted[name] += sum(at.startswith(scope) for at, _ in listening)
        counted["hook"] = sum(at.startswith(scope) for at, _ in self._hooks)
        return {name: count for name, count in counted.items() if count}

    def wants(self, name: str) -> bool:
        return name in self._listening

    def emit(self, event: Event) -> None:
        for scope, subscription in tuple(self._listening.get(event.name, ())):
            if event.name in _OF_ALL or encode(event.namespace).startswith(scope):
                subscription.offer(event)

    def evicted(self, namespace: str, key: str) -> None:
        if self.wants("after:evict"):
            self.emit(Event("after:evict", "evict", decode(namespace), key))

    async def consult(self, call: Call) -> Call:
        """The call as the hooks leave it; what one raises is the veto."""
        inside = encode(call.namespace)
        for hook in [hook for scope, hook in self._hooks if inside.startswith(scope)]:
            answer = hook(call)
            changed = await answer if inspect.isawaitable(answer) else answer
            if changed is not None and not isinstance(changed, Call):
                raise StorageDataError("a hook returns None, or what call.changed(...) made", field="hook")
            call = call if changed is None else changed
        return call

    async def settle(self) -> None:
        """Before the store is closed: what was told is dealt with, as far as handlers take no longer than a second."""
        subscriptions = {one for listening in self._listening.values() for _, one in listening}
        caller = asyncio.current_task()
        await asyncio.gather(*(one.close(_GRACE, caller) for one in subscriptions))

    def _drop(self, scope: str, subscription: Subscription) -> None:
        for name in subscription.names:
            left = [one for one in self._listening.get(name, ()) if one != (scope, subscription)]
            if left:
                self._listening[name] = left
            else:
                self._listening.pop(name, None)
        self._switch()

    def _unhook(self, scope: str, hook: Hook) -> None:
        self._hooks.remove((scope, hook))
        self._switch()

    def _switch(self) -> None:
        for reference in tuple(self._handles):
            switch = reference()
            if switch is not None:
                switch()


@final
class Use:
    """A hook in use; `cancel` takes it out, as does leaving a `with` block."""

    def __init__(self, forget: Callable[[], None]) -> None:
        self._forget: Callable[[], None] | None = forget

    def cancel(self) -> None:
        forget, self._forget = self._forget, None
        if forget is not None:
            forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


@final
class Pending:
    """The events of a transaction: told when it is committed, forgotten when it is rolled back."""

    def __init__(self, observers: Observers, namespace: str) -> None:
        self._emit, self._namespace, self._events = observers.emit, decode(namespace), list[Event]()
        self._over = False
        self._emit(Event("before:transaction", "transaction", self._namespace))

    def emit(self, event: Event) -> None:
        if event.name == "error":
            self._emit(event)
        else:
            self._events.append(event)

    @property
    def mark(self) -> int:
        """Where a savepoint is, for `undo`."""
        return len(self._events)

    def undo(self, mark: int = 0) -> None:
        del self._events[mark:]

    @contextmanager
    def commit(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._emit(Event("error", "commit", self._namespace, error=error))
            raise
        self.end(committed=True)

    def end(self, *, committed: bool) -> None:
        """What comes later changes nothing."""
        if self._over:
            return
        self._over = True
        for event in self._events if committed else ():
            self._emit(event)
        self._events = []
        self._emit(Event("after:transaction", "transaction", self._namespace, committed=committed))


def _check(names: Sequence[str], handler: object, max_queued: object) -> None:
    if not names or not all(name in NAMES for name in names):
        raise StorageDataError(f"expected one of {', '.join(NAMES)}", field="name")
    if not callable(handler):
        raise StorageDataError("expected a function of one argument, the event", field="handler")
    if type(max_queued) is not int or max_queued < 1:
        raise StorageDataError("expected a whole number of at least 1", field="max_queued")


def _is_async(handler: Any) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004 - an object with an async __call__
