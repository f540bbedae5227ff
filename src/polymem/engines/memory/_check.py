"""What `Engine.check` looks at."""

from typing import Any

from polymem.engines._tables.state import Tables
from polymem.engines.memory._graph_tables import EdgeTable, NodeTable
from polymem.engines.memory.blobs import BlobTable, ContentTable


def figures(tables: Tables, now: int) -> dict[str, Any]:
    """How many namespaces there are, and live records of each kind."""
    records: dict[str, int] = {}
    namespaces: set[str] = set()
    for (kind, namespace), named in tables.items():
        held = sum(table.held(now) for table in named.values()) if kind.counted else 0
        if held:
            label = kind.__name__.removesuffix("Table").lower()
            records[label] = records.get(label, 0) + held
            namespaces.add(namespace)
    return {"namespaces": len(namespaces), "records": records}


def problems(tables: Tables) -> list[str]:
    """Broken references: edges without an end, blobs without content."""
    found = []
    for (kind, namespace), named in tables.items():
        for name, table in named.items():
            if kind is EdgeTable:
                nodes = tables.get((NodeTable, namespace), {}).get(name)
                ends = {end for edge in table.rows.values() for end in (edge.source, edge.target)}
                if nodes is None or ends - set(nodes.rows):
                    found.append(f"graph {name}: an edge has no node at one end")
            elif kind is BlobTable:
                contents = tables.get((ContentTable, namespace), {}).get(name)
                if contents is None or {info.version for info in table.rows.values()} - set(contents.rows):
                    found.append(f"blobs {name}: a blob has no content")
    return found
