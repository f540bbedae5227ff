"""The choke point: every call of every driver passes here once (G-9).

On the happy path a guarded call is the driver's call, one loop check, one counter and one latency sample.
Translation, retry, breaker and logs run only when something goes wrong.
"""

import asyncio
import logging
import os
import weakref
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from types import SimpleNamespace
from typing import Any, NoReturn, TypeVar, cast

from polymem.core.breaker import Breaker
from polymem.core.metrics import Metrics, OperationMetrics
from polymem.core.retry import RetryPolicy
from polymem.errors import Outcome, StorageConnectionError, StorageError, StorageQueryError

Driver = TypeVar("Driver")
Call = Callable[..., Awaitable[Any]]
_log = logging.getLogger("polymem.calls")

in_transaction: ContextVar[object] = ContextVar("polymem_in_transaction", default=None)
"""The guard context whose transaction this task holds open."""

READS = frozenset({
    "get", "entry", "get_many", "page", "count", "recent", "sessions", "search", "rank", "centred_cosines", "mean", "frequencies",
    "get_nodes", "get_edge", "expand", "info", "read", "query", "find", "aggregate", "explain", "list_indexes",
})  # fmt: skip
IDEMPOTENT = frozenset({"put", "put_many", "touch", "clear", "abort", "write_part", "begin", "create_index"})


@dataclass(eq=False)
class GuardContext:
    """What the guarded calls of one open engine share."""

    engine: str
    translate: Callable[[Exception], StorageError | None]
    breaker: Breaker | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    metrics: Metrics = field(default_factory=Metrics)
    loop: AbstractEventLoop | None = None
    """The loop the engine was opened on; None while it is not open."""
    state: str = "not open yet"

    def __post_init__(self) -> None:
        _contexts.add(self)

    def opened(self) -> None:
        self.loop, self.state = get_running_loop(), "open"

    def closed(self) -> None:
        self.loop, self.state = None, "closed"

    def refuse(self, operation: str) -> NoReturn:
        if self.loop is None:
            reason = f"the store is {self.state}"
        else:
            reason = "the store belongs to another event loop; open one store per loop, or use polymem.blocking"
        raise StorageConnectionError(reason, engine=self.engine, operation=operation)


_contexts: "weakref.WeakSet[GuardContext]" = weakref.WeakSet()


def _forked() -> None:
    for context in _contexts:
        if context.loop is not None:
            context.loop, context.state = None, f"open in the process that forked {os.getpid()}; fork before opening it"


os.register_at_fork(after_in_child=_forked)


def guard(
    driver: Driver, contract: str, context: GuardContext, *, inside: bool = False, tenant: str | None = None
) -> Driver:
    """The same driver with every operation guarded; an engine author cannot forget it.

    `inside` a transaction nothing is retried: the whole block is, by its owner. `tenant` is for the logs.
    """
    calls = {
        name: _fuse(_Operation(getattr(driver, name), f"{contract}.{name}", context, inside, tenant))
        for name in _operations(driver)
    }
    features: Any = getattr(driver, "features")  # noqa: B009 - Driver is any driver Protocol
    return cast("Driver", SimpleNamespace(features=features, **calls))


def _operations(driver: object) -> list[str]:
    own = getattr(driver, "__dict__", {})
    return [n for n in {*dir(type(driver)), *own} if not n.startswith("_") and n != "features"]


def _fuse(operation: "_Operation") -> Call:
    context, call, name = operation.context, operation.call, operation.name
    metrics, breaker = operation.metrics, context.breaker
    sample, recover = metrics.samples.append, operation.recover
    logs, debug = _log.isEnabledFor, logging.DEBUG
    outside_write = not operation.inside and not operation.reads

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        if context.loop is not get_running_loop():
            context.refuse(name)
        if outside_write and in_transaction.get() is context:
            _refuse_outside(context, name)
        started = perf_counter()
        try:
            if breaker is not None and breaker.disturbed:
                breaker.admit()
            result = await call(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - sorted out and raised again by the recovery
            return await recover(error, started, args, kwargs)
        if breaker is not None and breaker.disturbed:
            breaker.succeeded()
        metrics.succeeded += 1
        sample(perf_counter() - started)
        if logs(debug):
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
        self.metrics: OperationMetrics = context.metrics.operation(name)
        verb = name.rpartition(".")[2]
        self.reads, self._idempotent = verb in READS, verb in IDEMPOTENT

    async def recover(self, error: BaseException, started: float, args: Any, kwargs: Any) -> Any:
        for attempt in range(1, self.context.retry.attempts + 1):
            failure = self._judge(error)
            delay = self._delay(failure, attempt)
            if delay is None:
                self._give_up(failure, started, attempt)
            self._log(logging.WARNING, "retry", failure, attempt)
            self.metrics.retries += 1
            await asyncio.sleep(delay)
            try:
                result = await self._again(args, kwargs)
            except BaseException as repeated:  # noqa: BLE001 - judged in the next round
                error = repeated
                continue
            self.metrics.succeeded += 1
            self.metrics.samples.append(perf_counter() - started)
            return result
        raise AssertionError("the last attempt has no delay")  # pragma: no cover

    async def _again(self, args: Any, kwargs: Any) -> Any:
        if self.context.breaker is None:
            return await self.call(*args, **kwargs)
        self.context.breaker.admit()
        result = await self.call(*args, **kwargs)
        self.context.breaker.succeeded()
        return result

    def _judge(self, error: BaseException) -> StorageError:
        """The library's error, told to the breaker; what is not an engine's failure passes untouched."""
        breaker = self.context.breaker
        if not isinstance(error, Exception):
            self.metrics.cancelled += 1
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
        if self.inside:
            return None
        return self.context.retry.delay(failure, attempt, reads=self.reads, idempotent=self._idempotent)

    def _give_up(self, failure: StorageError, started: float, attempt: int) -> NoReturn:
        self.metrics.errors[type(failure).__name__] += 1
        self.metrics.samples.append(perf_counter() - started)
        self._log(logging.ERROR, "failed", failure, attempt)
        raise failure

    def _log(self, level: int, what: str, failure: StorageError, attempt: int) -> None:
        kind = type(failure).__name__
        fields = {**self._fields(), "outcome": failure.outcome.value, "error_type": kind, "attempt": attempt}
        _log.log(level, "%s %s %s: %s", self.context.engine, self.name, what, kind, extra=fields)

    def debug(self, started: float) -> None:
        took = round((perf_counter() - started) * 1000, 3)
        fields = {**self._fields(), "duration_ms": took, "outcome": "applied"}
        _log.debug("%s %s %.3f ms", self.context.engine, self.name, took, extra=fields)

    def _fields(self) -> dict[str, str | None]:
        return {"engine": self.context.engine, "operation": self.name, "tenant": self._tenant}
