"""Settings of every test."""

import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # for `servers`, which many tests share
from servers.selection import pytest_collection_modifyitems, pytest_configure, pytest_terminal_summary

__all__ = ["pytest_collection_modifyitems", "pytest_configure", "pytest_terminal_summary"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what it runs in the background so
    signal.signal(signal.SIGINT, signal.default_int_handler)

# how long an example takes says something about the machine, not about the code: no test asserts times
settings.register_profile("polymem", deadline=None)
settings.load_profile("polymem")


@pytest.fixture
def anyio_backend() -> str:
    """Polymem runs on asyncio only."""
    return "asyncio"
