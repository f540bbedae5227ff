"""Each test that asks for `store` runs on every engine that opens without a server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import polymem
from polymem.attribute_index import AttributeIndex
from polymem.store import Store

ENGINES = {"memory": "memory:", "sqlite": "sqlite:///{folder}/index.db"}


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return ENGINES[request.param].format(folder=tmp_path)


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with polymem.open(url, sweep_every=None) as opened:
        yield opened


@pytest.fixture
def index(store: Store) -> AttributeIndex:
    return AttributeIndex(store, "documents")
