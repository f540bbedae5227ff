"""The tables of a graph."""

from typing import ClassVar

from polymem.contracts.graph import Edge, Node, NodeRef
from polymem.engines._tables.state import Table


class NodeTable(Table[NodeRef, Node]):
    """The nodes of a graph."""


class EdgeTable(Table[str, Edge]):
    """The edges of a graph by id."""


class LinkTable(Table[NodeRef, frozenset[str]]):
    """For each node the ids of the edges that start or end there; derived from the edges."""

    counted: ClassVar[bool] = False

    def link(self, edge: Edge) -> None:
        for ref in {edge.source, edge.target}:
            self.put(ref, self.rows.get(ref, frozenset()) | {edge.id})

    def unlink(self, edge: Edge) -> None:
        for ref in {edge.source, edge.target}:
            self.put(ref, self.rows.get(ref, frozenset()) - {edge.id})
