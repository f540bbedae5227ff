"""Marks of tests that need a server, and the type of `new_store`."""

from collections.abc import Callable
from typing import Any

import pytest

from polymem.store import Store

NewStore = Callable[..., Store]
on_server = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("redis")]


def integration(test: Any) -> Any:
    """Not for the whole module, of which some tests need no server."""
    for mark in on_server:
        test = mark(test)
    return test
