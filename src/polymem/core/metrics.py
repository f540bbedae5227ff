"""What is counted of every call and connection of one engine, in bounded memory (MET-1, MET-3, MET-4)."""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from threading import Lock
from time import perf_counter
from typing import Any, Final, Literal

from polymem.core.metrics_export import EXPORTS
from polymem.core.metrics_options import MetricsOptions
from polymem.core.operation_metrics import OperationMetrics
from polymem.errors import PolymemError, StorageDataError

ConnectionEvent = Literal["connect", "disconnect"]
Pool = Mapping[str, int]
_MOST_OPERATIONS: Final = 500
_MOST_TYPES: Final = 100
_OTHERS: Final = "(others)"
_LONGEST_MESSAGE: Final = 200


class MetricsCollector:
    """Recording is synchronous and safe from any thread; reading never waits for a call.

    A store has one, and its guard records every call; `record_*` and `OperationTimer` are for what else is worth
    counting. `clock` is in seconds and never goes back. `pool` is asked for a connection pool's figures, `details` for what
    else there is to say of the engine.
    """

    def __init__(
        self,
        adapter_type: str = "storage",
        options: MetricsOptions | Mapping[str, Any] | bool | None = None,
        *,
        pool: Callable[[], Pool | None] = lambda: None,
        details: Callable[[], Mapping[str, Any] | None] = lambda: None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.adapter_type, self.options = adapter_type, MetricsOptions.of(options)
        self._pool, self._details, self._clock, self._lock = pool, details, clock, Lock()
        self._operations: dict[str, OperationMetrics] = {}
        self._connected_at: float | None = None
        self._clear()

    def _clear(self) -> None:
        self._since = self._clock()
        self._errors: Counter[str] = Counter()
        self._recent: deque[dict[str, Any]] = deque(maxlen=self.options.max_errors)
        self._connects = self._disconnects = 0
        self._connect_seconds: float | None = None
        self._connected_seconds: float | None = None

    def operation(self, name: str) -> OperationMetrics:
        """The counters of one operation; names beyond the first 500 share "(others)"."""
        with self._lock:
            if name not in self._operations and len(self._operations) >= _MOST_OPERATIONS:
                name = _OTHERS
            return self._operations.setdefault(name, OperationMetrics(self.options, self._clock()))

    def record_operation(self, operation: str, seconds: float, *, success: bool = True) -> None:
        """Count a call that ended. A failure is better told with `record_error`, which knows why."""
        if not success:
            self.record_error("error", operation, seconds=seconds)
        elif self.options.enabled:
            found = self.operation(operation)
            found.end(seconds if found.begin() else None, self._clock())

    def record_error(
        self, error: BaseException | str, operation: str, message: str = "", *, seconds: float | None = None
    ) -> None:
        """Count a call that failed with an exception, or with an error of this type; a cancelled one as cancelled.

        `message` must hold no stored values. Of an exception it is kept only where the library raised it.
        """
        if self.options.enabled:
            found = self.operation(operation)
            kept = found.begin() or self.options.always_sample_errors
            self.failed(found, operation, error, seconds if kept else None, message)

    def failed(
        self,
        found: OperationMetrics,
        operation: str,
        error: BaseException | str,
        seconds: float | None,
        message: str = "",
    ) -> None:
        """Count the failure of a call that was counted when it began."""
        if not self.options.enabled:
            return
        if not isinstance(error, (str, Exception)):
            with self._lock:
                found.cancelled += 1
            return
        kind = error if isinstance(error, str) else type(error).__name__
        if kind not in self._errors and len(self._errors) >= _MOST_TYPES:
            kind = _OTHERS
        found.fail(kind, seconds, self._clock())
        with self._lock:
            self._errors[kind] += 1
            if self.options.track_errors:
                self._recent.append(_error(kind, operation, error, seconds, message))

    def record_connection_event(self, event: ConnectionEvent, seconds: float | None = None) -> None:
        """Count a connect, which took so long, or a disconnect."""
        if event not in ("connect", "disconnect"):
            raise StorageDataError("expected connect or disconnect", field="event")
        with self._lock:
            self._connected_seconds = self._connected_for()
            if event == "connect":
                self._connects, self._connect_seconds, self._connected_at = self._connects + 1, seconds, self._clock()
            else:
                self._disconnects, self._connected_at = self._disconnects + 1, None

    def record_data_volume(self, operation: str, data_bytes: int) -> None:
        """Count bytes that an operation moved."""
        if self.options.enabled and self.options.track_data_volume:
            self.operation(operation).weigh(data_bytes)

    def get_metrics(self) -> dict[str, Any]:
        """A snapshot (MET-4): operations that were called, latencies in milliseconds. No data is None, not 0."""
        now = self._clock()
        found = {name: one.snapshot(now) for name, one in sorted(self._operations.copy().items())}
        return {
            "adapter_type": self.adapter_type,
            "enabled": self.options.enabled,
            "timestamp": datetime.now(UTC).isoformat(),
            "uptime_seconds": round(now - self._since, 3),
            "operations": {name: figures for name, figures in found.items() if self.options.enabled and _used(figures)},
            "connection": self._connection(),
            "errors": {"by_type": dict(self._errors), "recent_errors": list(self._recent)},
            "backend_specific": self._details(),
        }

    def reset_metrics(self) -> None:
        """Begin anew; calls in flight and the state of the connection are kept."""
        with self._lock:
            self._clear()
            if self._connected_at is not None:
                self._connected_at = self._since
            for operation in self._operations.values():
                operation.reset(self._since)

    def export_metrics(self, format: str = "dict") -> Any:
        """The snapshot as `dict`, `json`, `csv`, `markdown` or `prometheus` (text exposition format); MET-2."""
        if format not in EXPORTS:
            raise StorageDataError(f"expected one of {', '.join(EXPORTS)}", field="format")
        return EXPORTS[format](self.get_metrics())

    def _connection(self) -> dict[str, Any]:
        connected, took = self._connected_for(), self._connect_seconds
        return {
            "connect_count": self._connects,
            "disconnect_count": self._disconnects,
            "current_state": "disconnected" if self._connected_at is None else "connected",
            "last_connect_duration_ms": None if took is None else round(took * 1000, 4),
            "total_connection_time_seconds": None if connected is None else round(connected, 3),
            "pool": self._pool(),
        }

    def _connected_for(self) -> float | None:
        """Seconds connected, all connections together."""
        if self._connected_at is None:
            return self._connected_seconds
        return (self._connected_seconds or 0.0) + self._clock() - self._connected_at


def _used(figures: dict[str, Any]) -> bool:
    return bool(figures["total_count"] or figures["in_flight"] or figures["bytes"])


def _error(
    kind: str, operation: str, error: BaseException | str, seconds: float | None, message: str
) -> dict[str, Any]:
    text = str(error) if isinstance(error, PolymemError) else message  # other exceptions may quote what was stored
    return {
        "timestamp": datetime.now(UTC).isoformat(),
        "type": kind,
        "operation": operation,
        "message": text[:_LONGEST_MESSAGE] or None,
        "duration_ms": None if seconds is None else round(seconds * 1000, 4),
    }
