"""A clock of seconds for metrics, and a look at what was counted."""

from typing import Any

from polymem import MetricsCollector


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def figures(collector: MetricsCollector, operation: str = "get") -> Any:
    return collector.get_metrics()["operations"][operation]
