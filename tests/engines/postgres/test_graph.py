"""Edges and nodes that come and go at once (GRA-1)."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from polymem.errors import StorageNotFoundError

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("postgres")]
Open = Callable[..., Any]


async def test_no_edge_to_a_node_that_goes_meanwhile(opened: Open) -> None:
    """Either the edge is refused, or it goes with the node."""
    graph = (await opened()).namespace("race").graph("g")
    await graph.create_node("a", "N")
    for number in range(30):
        node = await graph.create_node(f"b{number}", "N")
        made, gone = await asyncio.gather(
            graph.create_edge(("N", "a"), node, "KNOWS"), graph.delete_node(node), return_exceptions=True
        )
        assert not isinstance(made, Exception) or isinstance(made, StorageNotFoundError)
        assert gone is True
        assert (await graph.count())[1] == 0
    await graph.clear()
