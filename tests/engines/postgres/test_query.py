"""QRY-4, QRY-5, QRY-6: PostgreSQL gives exactly the answers of the memory engine, with and without indexes."""

import asyncio
import os
from collections.abc import Iterator

import pytest
from drawn.pair import Pair, opened
from drawn.queries import INDEXES, agreements

from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine

pytestmark = [pytest.mark.integration, pytest.mark.server("postgres")]
EXAMPLES = 20_000 if os.environ.get("POLYMEM_NIGHTLY") == "1" else 300


@pytest.fixture(name="pair", scope="module")
def give_pair(url: str, runner: asyncio.Runner) -> Iterator[Pair]:
    """Namespaces with different indexes."""
    clock = ManualClock()
    store = runner.run(opened(create_engine(url, clock=clock)))
    pair = Pair(runner, clock, *(store.namespace(f"{number}") for number in range(len(INDEXES))))
    yield pair
    pair.close()
    runner.run(store.close())


test_finding, test_aggregates, test_selecting = agreements(EXAMPLES)
