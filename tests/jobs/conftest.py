from collections.abc import AsyncIterator

import pytest

import polymem


@pytest.fixture
async def store() -> AsyncIterator[polymem.Store]:
    async with polymem.open("memory:", sweep_every=None) as opened:
        yield opened
