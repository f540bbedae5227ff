import pytest
from core.figures import Clock

from polymem import MetricsCollector


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def collector(clock: Clock) -> MetricsCollector:
    return MetricsCollector("fake", clock=clock)
