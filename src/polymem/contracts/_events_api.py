"""What `KeyValue` and `Store` have for those who watch, listen and hook in (EVT-1, EVT-2)."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from polymem.contracts._events_hub import Handler, Hook, Observers, Pending, Subscription, Use
from polymem.contracts._events_kv import Observation, ObservedKV
from polymem.contracts.events import EventsDriver, Watch
from polymem.core.codec import Codec
from polymem.errors import StorageUnsupportedError

if TYPE_CHECKING:
    from polymem.contracts.kv import KeyValue


class Watchable:
    """What handles can tell of changes, and how they are observed themselves."""

    _codec: Codec[Any]
    _driver: Any
    _read: Any
    _unobserved: Any
    _events: EventsDriver | None
    _observation: Observation | None

    def watch(self, prefix: str = "", *, after: str | None = None) -> Watch:
        """The changes that are committed from here on to keys that start with `prefix`, whoever makes them.

        Only those of exactly this namespace. `after` is the `position` of an earlier watch, to go on where that ended.
        """
        if self._events is None:
            raise _nothing_to_watch()
        return Watch(self._events, prefix, after)

    def _be_observed(self, observation: Observation | None) -> None:
        """Go through an `ObservedKV` whenever anybody listens, and past it when nobody does."""
        self._observation, self._unobserved = observation, self._driver
        if observation is not None:
            observation.observers.adopt(self._switch)
            self._switch()

    def _switch(self) -> None:
        observation, driver = self._observation, self._unobserved
        if observation is None or not observation.observers.active:
            self._driver = driver
        else:
            self._driver = ObservedKV(driver, self._codec, observation)
        self._read = self._driver.get


def _nothing_to_watch() -> StorageUnsupportedError:
    return StorageUnsupportedError(
        "there is nothing to watch: not inside a transaction, with hidden keys, or on an engine without events; "
        "scan the entries instead, or listen with store.on",
        operation="watch",
    )


class Observable:
    """The part of `Store` for listeners and hooks."""

    if TYPE_CHECKING:  # what a store has

        @property
        def kv(self) -> "KeyValue[Any]": ...

    _observers: Observers
    _namespace: str
    _pending: Pending | None
    _drivers: Any

    def watch(self, prefix: str = "", *, after: str | None = None) -> Watch:
        """`kv.watch`: the committed changes of this namespace, whoever makes them."""
        if self._drivers.events is None:
            raise _nothing_to_watch()
        return self.kv.watch(prefix, after=after)

    def on(self, name: str | Iterable[str], handler: Handler, *, max_queued: int = 1000) -> Subscription:
        """Call `handler(event)` at every event of a name, or of several, here or in a namespace below.

        Events are what this opened store does; `watch` tells what others do too.
        Names are before:get and after:get, likewise put, delete, clear, batch, transaction, connect, disconnect; and
        after:expire, after:evict, error. Events are queued: the operation has gone on meanwhile, and nothing a
        handler does or raises can hold it up. A handler may be async, or a plain function, which runs in a thread. At
        most `max_queued` events wait for it, then the oldest are dropped and counted. Events of a transaction come
        after its commit, never after a rollback.
        """
        return self._observers.on(self._namespace, name, handler, max_queued)

    def use(self, hook: Hook) -> Use:
        """Await `hook(call)` before every get, put, delete, clear and batch of `kv` here and in the namespaces below.

        It answers None to let the call go on, `call.changed(key=..., value=...)` to change it, and raises to refuse
        it: the caller gets that very error. Hooks are asked in the order in which they came.
        """
        return self._observers.use(self._namespace, hook)

    def subscribers(self) -> dict[str, int]:
        """How many listen here or in a namespace below, by name of the event; "hook" counts the hooks."""
        return self._observers.subscribers(self._namespace)

    def _observation(self) -> Observation:
        emit = self._observers.emit if self._pending is None else self._pending.emit
        return Observation(self._observers, emit, self._namespace)
