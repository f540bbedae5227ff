"""Nodes and edges as rows of `pm_nodes` and `pm_edges`, the same in every SQL engine."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from polymem.contracts.graph import Edge, Node, NodeRef
from polymem.core.codec import decode_json, encode_json
from polymem.errors import StorageDataError

EDGE: Final = (
    "e.id, e.source_label, e.source_id, e.target_label, e.target_id, e.type, e.properties, e.valid_from, e.valid_to"
)
"""The columns of an edge, in the order of `edge_row`."""


def edge_row(edge: Edge) -> tuple[Any, ...]:
    properties = json_text(edge.properties)
    return (edge.id, *edge.source, *edge.target, edge.type, properties, edge.valid_from, edge.valid_to)


def edge_of(row: Sequence[Any]) -> Edge:
    id, source_label, source_id, target_label, target_id, type, properties, since, until = row
    source, target = NodeRef(source_label, source_id), NodeRef(target_label, target_id)
    return Edge(id, source, target, type, decode_json(properties), since, until)


def node_of(row: Sequence[Any]) -> Node:
    label, id, properties = row
    return Node(label, id, decode_json(properties))


def json_text(properties: dict[str, Any]) -> str:
    return encode_json(properties, field="properties").decode()


def json_array(values: Iterable[str]) -> str:
    return msgspec.json.encode(list(values)).decode()


def position(after: str) -> tuple[str, str]:
    """Label and id that the cursor of a page of nodes stands for."""
    try:
        return msgspec.json.decode(after, type=tuple[str, str])
    except msgspec.DecodeError:
        raise StorageDataError("expected a position from the previous page", field="after") from None
