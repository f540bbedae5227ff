"""Whether an opened engine answers, told within a few seconds and without ever raising (RES-4)."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final, Literal

from polymem.core.engine import pool_of, probe_of, replicas_of
from polymem.core.guard import GuardContext, guard
from polymem.errors import PolymemError

LIMIT: Final = 5.0
_SLOW: Final = 1.0
_left: set[asyncio.Task[Any]] = set()
"""Probes that outlived the patience of whoever asked; a loop holds its tasks weakly."""


@dataclass(frozen=True, slots=True)
class HealthCheckResult:
    """`healthy`; `degraded`: it answers, but `details["reasons"]` say what is wrong; `unhealthy`: `error` says why."""

    status: Literal["healthy", "degraded", "unhealthy"]
    engine: str
    latency_ms: float | None
    """How long the answer took; None if there was none."""
    checked_at: datetime
    server_version: str | None = None
    pool: Mapping[str, int] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    """What went wrong; never a stored value or a secret."""


class _Probe:
    """The one call that is made, in a shape the guard can wrap."""

    features = None

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def probe(self) -> str | None:
        return await probe_of(self._engine)


async def check_health(engine: Any, context: GuardContext) -> HealthCheckResult:
    """Ask the engine once, for `LIMIT` seconds at most; a breaker that is open answers for it."""
    asked = asyncio.ensure_future(guard(_Probe(engine), "engine", context, inside=True).probe())
    started, checked_at = perf_counter(), datetime.now(UTC)
    troubled = context.breaker is not None and context.breaker.disturbed
    try:
        await asyncio.wait({asked}, timeout=LIMIT)
    finally:
        _leave(asked)
    latency = round((perf_counter() - started) * 1000, 3)
    pool, error = _pool(engine), _error(asked)
    if error is not None:
        return HealthCheckResult("unhealthy", context.engine, None, checked_at, pool=pool, error=error)
    replicas = replicas_of(engine)
    away = [f"replica {one['replica']} is {one['state']}" for one in replicas if one["state"] != "ready"]
    reasons = [*_reasons(latency, pool, troubled=troubled), *away]
    details = {name: found for name, found in (("reasons", reasons), ("replicas", replicas)) if found}
    return HealthCheckResult(
        "degraded" if reasons else "healthy", context.engine, latency, checked_at, asked.result(), pool, details
    )


def _leave(asked: asyncio.Task[Any]) -> None:
    """Nobody waits for it any longer; it may take its time to end."""
    if not asked.done():
        asked.cancel()
        _left.add(asked)
        asked.add_done_callback(_forget)


def _forget(asked: asyncio.Task[Any]) -> None:
    _left.discard(asked)
    if not asked.cancelled():
        asked.exception()  # which nobody else will look at


def _error(asked: asyncio.Task[Any]) -> str | None:
    if not asked.done():
        return f"no answer within {LIMIT:g} s"
    if asked.cancelled():
        return "the probe was cancelled"
    error = asked.exception()
    if error is None:
        return None
    return str(error) if isinstance(error, PolymemError) else type(error).__name__


def _pool(engine: Any) -> Mapping[str, int] | None:
    try:
        return pool_of(engine)
    except Exception:  # noqa: BLE001 - a health check never raises
        return None


def _reasons(latency: float, pool: Mapping[str, int] | None, *, troubled: bool) -> list[str]:
    reasons = []
    if latency > _SLOW * 1000:
        reasons.append(f"the answer took {latency:.0f} ms")
    if pool is not None and pool.get("waiting", 0) > 0:
        reasons.append(f"{pool['waiting']} callers wait for a connection")
    if troubled:
        reasons.append("calls failed just before")
    return reasons
