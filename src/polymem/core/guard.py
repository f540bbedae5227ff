"""The choke point: every call of every driver passes here once (G-9).

On the happy path a guarded call is the driver's call, one loop check, one counter and one latency sample.
Translation, retry, breaker and logs run only when something goes wrong.
"""

import asyncio
import logging
import os
import weakref
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from threading import get_ident
from time import perf_counter
from types import SimpleNamespace
from typing import Any, Final, NoReturn, TypeVar, cast

from polymem.core.breaker import Breaker, BreakerOpenError, PoolExhaustedError
from polymem.core.clock import check_seconds
from polymem.core.metrics import MetricsCollector
from polymem.core.retry import RetryPolicy
from polymem.errors import Outcome, StorageConnectionError, StorageError, StorageQueryError, StorageTimeoutError

Driver = TypeVar("Driver")
Call = Callable[..., Awaitable[Any]]
Size = Callable[[tuple[Any, ...], Any], int]
"""The bytes of data in the positional arguments and the result of a call."""
BODY_FIRST: Final = None
"""In place of a size: the length of the first item found, if anything is found; counted without a call of its own."""
_log = logging.getLogger("polymem.calls")
_package_log, _root_log = logging.getLogger("polymem"), logging.getLogger()
_DEBUG: Final = logging.DEBUG

in_transaction: ContextVar[object] = ContextVar("polymem_in_transaction", default=None)
"""The guard context whose transaction this task holds open."""
_deadline: ContextVar[asyncio.Timeout | None] = ContextVar("polymem_deadline", default=None)
"""The caller's own limit on the call under way."""

READS = frozenset({
    "get", "entry", "get_many", "page", "count", "recent", "sessions", "search", "rank", "centred_cosines", "mean", "frequencies",
    "get_nodes", "get_edge", "expand", "info", "read", "containers", "query", "find", "aggregate", "explain", "list_indexes",
    "full_text", "hybrid",
})  # fmt: skip
IDEMPOTENT = frozenset({"put", "put_many", "touch", "clear", "abort", "write_part", "begin", "create_index"})


@dataclass(eq=False)
class GuardContext:
    """What the guarded calls of one open engine share."""

    engine: str
    translate: Callable[[Exception], StorageError | None]
    breaker: Breaker | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    metrics: MetricsCollector = field(default_factory=MetricsCollector)
    loop: AbstractEventLoop | None = None
    """The loop the engine was opened on; None while it is not open."""
    state: str = "not open yet"
    thread: int | None = None
    """The thread that loop runs in; None while it is not open."""

    def __post_init__(self) -> None:
        _contexts.add(self)

    def opened(self) -> None:
        self.loop, self.state = get_running_loop(), "open"
        self.thread = get_ident()

    def closed(self, state: str = "closed") -> None:
        self.loop, self.thread, self.state = None, None, state

    def check(self, operation: str) -> None:
        """Refuse a call that is not on the engine's loop.

        The guard first looks whether that loop runs and did so in this thread: a thread runs one loop at a time, and
        asking which one it is costs six times as much, for Python 3.11 asks the system for the process each time.
        """
        if self.loop is None or self.loop is not get_running_loop():
            self._refuse(operation)
        self.thread = get_ident()

    def _refuse(self, operation: str) -> NoReturn:
        if self.loop is None:
            reason = f"the store is {self.state}"
        else:
            reason = "the store belongs to another event loop; open one store per loop, or use polymem.blocking"
        raise StorageConnectionError(reason, engine=self.engine, operation=operation)


_contexts: "weakref.WeakSet[GuardContext]" = weakref.WeakSet()


def _forked() -> None:
    for context in _contexts:
        if context.loop is not None:
            context.closed(f"open in the process that forked {os.getpid()}; fork before opening it")


os.register_at_fork(after_in_child=_forked)


def guard(
    driver: Driver,
    contract: str,
    context: GuardContext,
    *,
    inside: bool = False,
    tenant: str | None = None,
    sizes: Mapping[str, Size | None] | None = None,
) -> Driver:
    """The same driver with every operation guarded; an engine author cannot forget it.

    `inside` a transaction nothing is retried: the whole block is, by its owner. `tenant` is for the logs. `sizes`
    says by operation how many bytes of data a call moved.
    """
    weights = (sizes or {}) if context.metrics.options.track_data_volume else {}
    operations = {
        name: _Operation(getattr(driver, name), f"{contract}.{name}", context, inside, tenant)
        for name in _operations(driver)
    }
    calls = {name: _fused(one, weights.get(name), weighed=name in weights) for name, one in operations.items()}
    features: Any = getattr(driver, "features")  # noqa: B009 - Driver is any driver Protocol
    return cast("Driver", SimpleNamespace(features=features, **calls, _operations=operations))


def within(driver: Driver, seconds: float) -> Driver:
    """A guarded driver whose calls each end after so many seconds at most, retries included.

    The caller then gets a `StorageTimeoutError`, with outcome `unknown` for a write: what was sent may still be
    carried out. Others who wait for the same batch or connection are not disturbed.
    """
    return cast("Driver", _Within(driver, check_seconds(seconds, field="timeout")))


class _Within:
    def __init__(self, driver: Any, seconds: float) -> None:
        self._driver, self._seconds = driver, seconds

    def __getattr__(self, name: str) -> Call:
        operation: _Operation = self._driver._operations[name]  # noqa: SLF001 - of this module
        return partial(operation.within, getattr(self._driver, name), self._seconds)


def _operations(driver: object) -> list[str]:
    own = getattr(driver, "__dict__", {})
    return [n for n in {*dir(type(driver)), *own} if not n.startswith("_") and n != "features"]


def _fused(operation: "_Operation", size: Size | None, *, weighed: bool) -> Call:  # noqa: C901 - see `guarded`
    context, call, name = operation.context, operation.call, operation.name
    metrics, recover = operation.metrics, operation.recover
    ending = operation.inside and name.startswith("transactions.")  # of an open one, whatever the breaker says
    breaker = None if ending else context.breaker
    measured, done, sample = context.metrics.options.enabled, metrics.done.append, metrics.pending.append
    metrics.weighed = metrics.weighed or weighed
    body_first = weighed and size is BODY_FIRST
    outside_write = not operation.inside and not operation.reads

    # one function, however long: calling others would cost more than all that it does
    async def guarded(*args: Any, **options: Any) -> Any:  # noqa: C901, PLR0912
        if get_ident() != context.thread or not context.loop.is_running():  # type: ignore[union-attr]  # with a thread goes a loop
            context.check(name)
        if outside_write and in_transaction.get() is context:
            _refuse_outside(context, name)
        debug = (_log.level or _package_log.level or _root_log.level) <= _DEBUG and _log.isEnabledFor(_DEBUG)
        started = 0.0
        if measured:
            left = metrics.left
            if left and not debug:
                metrics.left = left - 1
            else:
                metrics.timed_at += metrics.every - left
                metrics.left = metrics.every - 1
                started = perf_counter()
        try:
            if breaker is not None and breaker.disturbed:
                breaker.admit()
            result = await call(*args, **options)
        except BaseException as error:  # noqa: BLE001 - sorted out and raised again by the recovery
            return await recover(error, started, partial(call, *args, **options))
        if breaker is not None and breaker.disturbed:
            breaker.succeeded()
        if measured:
            if body_first:
                done(0 if result is None else len(result[0]))
            else:
                done(0 if size is None else size(args, result))
            if started:
                ended = perf_counter()
                sample(ended - started)
                if ended >= metrics.due:
                    metrics.fold(ended)
        if debug:
            operation.debug(started)
        return result

    return guarded


def _refuse_outside(context: GuardContext, operation: str) -> NoReturn:
    """Such a write would wait for the very transaction that its task holds open."""
    raise StorageQueryError(
        "a transaction is open in this task: write through the store it gave",
        engine=context.engine,
        operation=operation,
    )


class _Operation:
    """One operation of one driver, and its unhappy path: translate, count, retry or raise."""

    def __init__(self, call: Call, name: str, context: GuardContext, inside: bool, tenant: str | None) -> None:
        self.call, self.name, self.context, self.inside, self._tenant = call, name, context, inside, tenant
        self.metrics = context.metrics.operation(name)
        verb = name.rpartition(".")[2]
        self.reads, self._idempotent = verb in READS, verb in IDEMPOTENT

    async def recover(self, error: BaseException, started: float, call: Call) -> Any:
        unsure = False
        for attempt in range(1, self.context.retry.attempts + 1):
            failure = self._judge(error)
            if unsure:  # an earlier attempt may have been carried out, whatever is said of this one
                failure.outcome = Outcome.UNKNOWN
            unsure = failure.outcome is Outcome.UNKNOWN
            delay = self._delay(failure, attempt)
            if delay is None:
                self._give_up(failure, started, attempt)
            self._log(logging.WARNING, "retry", failure, attempt)
            self.metrics.retries += 1
            try:
                await asyncio.sleep(delay)
                result = await self._again(call)
            except BaseException as repeated:  # noqa: BLE001 - judged in the next round
                error = repeated
                continue
            self.metrics.end(_since(started), perf_counter())
            return result
        raise AssertionError("the last attempt has no delay")  # pragma: no cover

    async def _again(self, call: Call) -> Any:
        if self.context.breaker is None:
            return await call()
        self.context.breaker.admit()
        result = await call()
        self.context.breaker.succeeded()
        return result

    def _judge(self, error: BaseException) -> StorageError:
        """The library's error, told to the breaker; what is not an engine's failure passes untouched."""
        breaker = self.context.breaker
        if not isinstance(error, Exception):
            self._cancelled()
            if breaker is not None:
                breaker.abandoned()
            raise error
        failure = error if isinstance(error, StorageError) else self._translate(error)
        failure.engine = failure.engine or self.context.engine
        failure.operation = failure.operation or self.name
        if breaker is not None:
            breaker.failed(failure)
        return failure

    def _translate(self, error: Exception) -> StorageError:
        failure = self.context.translate(error)
        if failure is None:  # a gap in the error map; the outcome of an unforeseen failure is not known
            failure = StorageError(f"unexpected {type(error).__name__}", outcome=Outcome.UNKNOWN)
        failure.__cause__ = error
        return failure

    def _delay(self, failure: StorageError, attempt: int) -> float | None:
        # who waited for a connection in vain would wait again, behind all others; an open breaker says when to come back
        if self.inside or isinstance(failure, (BreakerOpenError, PoolExhaustedError)):
            return None
        return self.context.retry.delay(failure, attempt, reads=self.reads, idempotent=self._idempotent)

    def _give_up(self, failure: StorageError, started: float, attempt: int) -> NoReturn:
        self.context.metrics.failed(self.metrics, self.name, failure, _since(started))
        self._log(logging.ERROR, "failed", failure, attempt)
        raise failure

    def _log(self, level: int, what: str, failure: StorageError, attempt: int) -> None:
        kind = type(failure).__name__
        fields = {**self._fields(), "outcome": failure.outcome.value, "error_type": kind, "attempt": attempt}
        _log.log(level, "%s %s %s: %s", self.context.engine, self.name, what, kind, extra=fields)

    async def within(self, guarded: Call, seconds: float, /, *args: Any, **kwargs: Any) -> Any:
        started = perf_counter()
        limit = asyncio.timeout(seconds)
        token = _deadline.set(limit)
        try:
            async with limit:
                return await guarded(*args, **kwargs)
        except TimeoutError as error:
            if isinstance(error, StorageError):
                raise
            self.metrics.begin()
            outcome = Outcome.NOT_APPLIED if self.reads else Outcome.UNKNOWN
            late = StorageTimeoutError(
                f"no answer within {seconds:g} s", engine=self.context.engine, operation=self.name, outcome=outcome
            )
            self._give_up(late, started, 1)
        finally:
            _deadline.reset(token)

    def _cancelled(self) -> None:
        """A call whose own deadline has passed is counted as a timeout, by whoever set the deadline."""
        limit = _deadline.get()
        if limit is not None and limit.expired():
            self.metrics.timed_at -= 1  # as if it had not begun
        else:
            self.metrics.cancelled += 1

    def debug(self, started: float) -> None:
        took = round((_since(started) or 0.0) * 1000, 3)
        fields = {**self._fields(), "duration_ms": took, "outcome": "applied"}
        _log.debug("%s %s %s ms", self.context.engine, self.name, took, extra=fields)

    def _fields(self) -> dict[str, str | None]:
        return {"engine": self.context.engine, "operation": self.name, "tenant": self._tenant}


def _since(started: float) -> float | None:
    """Seconds; None for a call that was not timed."""
    return perf_counter() - started if started else None
