"""Counting work of one's own beside an engine's calls (MET-3)."""

from time import perf_counter
from types import TracebackType
from typing import Any, Self

from polymem.core.metrics import MetricsCollector


class OperationTimer:
    """Counts and times a block, as `with` or `async with`; the failure of the block is counted and goes on.

    `metadata["bytes"]`, which the block may still set, is counted as the data it moved; the rest is the caller's.
    """

    def __init__(self, collector: MetricsCollector, operation: str, metadata: dict[str, Any] | None = None) -> None:
        self._collector, self._operation = collector, operation
        self.metadata: dict[str, Any] = dict(metadata or {})
        self._started = 0.0

    def __enter__(self) -> Self:
        self._started = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = perf_counter() - self._started
        if error is None:
            self._collector.record_operation(self._operation, seconds)
        else:
            self._collector.record_error(error, self._operation, seconds=seconds)
        if "bytes" in self.metadata:
            self._collector.record_data_volume(self._operation, self.metadata["bytes"])

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
