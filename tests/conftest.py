"""Settings of every test."""

import pytest
from hypothesis import settings

# how long an example takes says something about the machine, not about the code: no test asserts times
settings.register_profile("polymem", deadline=None)
settings.load_profile("polymem")


@pytest.fixture
def anyio_backend() -> str:
    """Polymem runs on asyncio only."""
    return "asyncio"
