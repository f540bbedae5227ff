"""Nodes, edges and what searches of a graph give; how they are taken from the user's input (GRA-1)."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from polymem.contracts._input import json_object, members
from polymem.core.clock import to_datetime, to_instant
from polymem.core.ids import uuid7
from polymem.core.text import check_key, check_name
from polymem.errors import StorageDataError

Direction = Literal["out", "in", "both"]


class NodeRef(NamedTuple):
    """A node's identity within its graph."""

    label: str
    id: str


class Node(NamedTuple):
    """A node and its properties (any JSON object)."""

    label: str
    id: str
    properties: dict[str, Any]

    @property
    def ref(self) -> NodeRef:
        return NodeRef(self.label, self.id)


class Edge(NamedTuple):
    """A directed edge, valid in [valid_from, valid_to), instants in microseconds, None: unbounded."""

    id: str
    source: NodeRef
    target: NodeRef
    type: str
    properties: dict[str, Any]
    valid_from: int | None
    valid_to: int | None


@dataclass(frozen=True, slots=True)
class Relationship:
    """An edge as users see it: valid from `valid_from` up to, not including, `valid_to`; None: unbounded."""

    id: str
    source: NodeRef
    target: NodeRef
    type: str
    properties: dict[str, Any]
    valid_from: datetime | None
    valid_to: datetime | None


class Neighbour(NamedTuple):
    """An edge of a node and the node at its other end."""

    edge: Relationship
    node: Node


class Visit(NamedTuple):
    """A node met by `Graph.traverse`, how many edges from the start, and the edge that led to it."""

    node: Node
    depth: int
    edge: Relationship | None


class Subgraph(NamedTuple):
    """Nodes and the edges between them; of a path, both in the order of the path."""

    nodes: list[Node]
    edges: list[Relationship]


class GraphSize(NamedTuple):
    """How many nodes and edges there are."""

    nodes: int
    edges: int


NodeLike = Node | NodeRef | tuple[str, str]
"""A node, or its (label, id)."""

EDGE_MEMBERS: Final[tuple[str, ...]] = (
    "source",
    "target",
    "type",
    "properties",
    "valid_from",
    "valid_to",
    "id",
)


def node_ref(node: object, field: str) -> NodeRef:
    """The identity of a `NodeLike`."""
    if not isinstance(node, Node) and not (isinstance(node, tuple) and len(node) == len(NodeRef._fields)):
        raise StorageDataError("expected a node or its (label, id)", field=field)
    return NodeRef(check_name(node[0], field=f"{field}.label"), check_key(node[1], field=f"{field}.id"))


def new_node(node: object) -> Node:
    """A node to create; its id is made up where there is none."""
    given = members(node, required=("label",), optional=("id", "properties"), field="nodes")
    label, id = check_name(given["label"], field="label"), given.get("id")
    properties = json_object(given.get("properties"), field="properties")
    return Node(label, uuid7() if id is None else check_key(id, field="id"), properties)


def new_edge(edge: object) -> Edge:
    """An edge to write; its id is made up where there is none."""
    if isinstance(edge, Relationship):
        edge = {field.name: getattr(edge, field.name) for field in fields(edge)}
    given = members(edge, required=EDGE_MEMBERS[:3], optional=EDGE_MEMBERS[3:], field="edges")
    since, until = (_instant(given.get(name), name) for name in ("valid_from", "valid_to"))
    if since is not None and until is not None and until < since:
        raise StorageDataError("expected an instant not before valid_from", field="valid_to")
    return Edge(
        id=uuid7() if given.get("id") is None else check_key(given["id"], field="id"),
        source=node_ref(given["source"], "source"),
        target=node_ref(given["target"], "target"),
        type=check_name(given["type"], field="type"),
        properties=json_object(given.get("properties"), field="properties"),
        valid_from=since,
        valid_to=until,
    )


def _instant(moment: datetime | None, field: str) -> int | None:
    return None if moment is None else to_instant(moment, field=field)


def as_relationship(edge: Edge) -> Relationship:
    """The edge as users see it."""
    since, until = (None if at is None else to_datetime(at) for at in (edge.valid_from, edge.valid_to))
    return Relationship(edge.id, edge.source, edge.target, edge.type, edge.properties, since, until)
