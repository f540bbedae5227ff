"""A portal, and a store of each engine that needs no server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import polymem
import polymem.blocking
from polymem.blocking import BlockingStore, Portal


@pytest.fixture
def portal() -> Iterator[Portal]:
    with Portal() as opened:
        yield opened


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlockingStore]:
    url = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/blocking.db"
    with polymem.blocking.open(url) as opened:
        yield opened
