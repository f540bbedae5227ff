"""The whole state as bytes: a header that says what it is, a checksum, and MessagePack (KV-7).

Uploads in progress are left out; links between nodes and search indexes are derived again. JSON objects
travel as JSON text, because MessagePack ends at 64-bit integers.
"""

import hashlib
from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec
import numpy as np

from polymem.contracts.blobs import BlobInfo
from polymem.contracts.graph import Edge, Node, NodeRef
from polymem.contracts.kv import Record
from polymem.contracts.text import Document, TextCollection
from polymem.contracts.turns import TurnRow
from polymem.contracts.vectors import VectorRecord, VectorSpace
from polymem.core.clock import Clock
from polymem.core.codec import decode_json, encode_json
from polymem.engines._tables.state import Kept, Tables
from polymem.engines._tables.views import View
from polymem.engines.memory._documents import DocumentTable
from polymem.engines.memory._graph_tables import EdgeTable, LinkTable, NodeTable
from polymem.engines.memory.blobs import BlobTable, ContentTable
from polymem.engines.memory.kv import KVTable
from polymem.engines.memory.sql import SqlDatabase
from polymem.engines.memory.turns import SessionTable
from polymem.engines.memory.vectors import VectorTable
from polymem.errors import StorageCorruptError

MAGIC: Final = b"polymem memory snapshot\n"
VERSION: Final = 1
_BODY: Final = len(MAGIC) + 2 + 32
KeptT = TypeVar("KeptT", bound=Kept)
_StoredEdge = tuple[str, NodeRef, NodeRef, str, bytes, int | None, int | None]
_StoredBlob = tuple[str, int, str, str, bytes, int, str, tuple[bytes, ...]]


class _State(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What is written, contract by contract: (namespace, name or collection, records)."""

    kv: list[tuple[str, dict[str, Record]]]
    turns: list[tuple[str, str, list[TurnRow]]]
    vectors: list[tuple[str, VectorSpace, list[tuple[str, bytes, bytes]]]]
    text: list[tuple[str, TextCollection, list[tuple[str, dict[str, str], bytes]]]]
    nodes: list[tuple[str, str, list[tuple[str, str, bytes]]]]
    edges: list[tuple[str, str, list[_StoredEdge]]]
    blobs: list[tuple[str, str, list[_StoredBlob]]]
    sql: bytes


def dump(tables: Tables) -> bytes:
    """The snapshot of a state."""
    body = msgspec.msgpack.encode(
        _State(
            kv=[(namespace, table.rows) for namespace, _, table in _all(tables, KVTable)],
            turns=[
                (namespace, name, list(table.rows.values())) for namespace, name, table in _all(tables, SessionTable)
            ],
            vectors=[(namespace, t.space, _vectors(t)) for namespace, _, t in _all(tables, VectorTable)],
            text=[(namespace, t.collection, _documents(t)) for namespace, _, t in _all(tables, DocumentTable)],
            nodes=[(namespace, name, _nodes(table)) for namespace, name, table in _all(tables, NodeTable)],
            edges=[(namespace, name, _edges(table)) for namespace, name, table in _all(tables, EdgeTable)],
            blobs=[
                (namespace, name, _blobs(table, tables[ContentTable, namespace][name].rows))
                for namespace, name, table in _all(tables, BlobTable)
            ],
            sql=b"".join(table.connection.serialize("main") for _, _, table in _all(tables, SqlDatabase)),
        )
    )
    return MAGIC + VERSION.to_bytes(2, "big") + hashlib.sha256(body).digest() + body


def load(data: bytes, clock: Clock) -> Tables:
    """The state of a snapshot; `StorageCorruptError` for anything else."""
    state = _decode(data)
    view = View(clock, {})
    _load_collections(view, state)
    _load_records(view, state)
    _load_graphs(view, state)
    _load_blobs(view, state)
    if state.sql:
        view.tables[SqlDatabase, ""] = {"": SqlDatabase.of(state.sql)}
    return view.tables


def _decode(data: bytes) -> _State:
    if not data.startswith(MAGIC) or len(data) < _BODY:
        raise StorageCorruptError("this is not a snapshot of a memory engine")
    version = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 2], "big")
    if version != VERSION:
        raise StorageCorruptError(f"the snapshot has format {version}, this version reads format {VERSION}")
    body = data[_BODY:]
    if hashlib.sha256(body).digest() != data[_BODY - 32 : _BODY]:
        raise StorageCorruptError("the snapshot is damaged: its checksum does not match")
    try:
        return msgspec.msgpack.decode(body, type=_State)
    except msgspec.DecodeError as error:
        raise StorageCorruptError("the snapshot is damaged: its records cannot be read") from error


def _all(tables: Tables, kind: type[KeptT]) -> Iterator[tuple[str, str, KeptT]]:
    for (filed, namespace), named in tables.items():
        if filed is kind:
            for name, table in named.items():
                yield namespace, name, table


def _vectors(table: VectorTable) -> list[tuple[str, bytes, bytes]]:
    return [(r.id, r.vector.astype("<f4").tobytes(), encode_json(r.payload)) for r in table.rows.values()]


def _documents(table: DocumentTable) -> list[tuple[str, dict[str, str], bytes]]:
    return [(d.id, d.fields, encode_json(d.payload)) for d in table.rows.values()]


def _nodes(table: NodeTable) -> list[tuple[str, str, bytes]]:
    return [(node.label, node.id, encode_json(node.properties)) for node in table.rows.values()]


def _edges(table: EdgeTable) -> list[_StoredEdge]:
    return [
        (e.id, e.source, e.target, e.type, encode_json(e.properties), e.valid_from, e.valid_to)
        for e in table.rows.values()
    ]


def _blobs(table: BlobTable, contents: dict[str, tuple[bytes, ...]]) -> list[_StoredBlob]:
    return [
        (
            b.key,
            b.size,
            b.checksum,
            b.content_type,
            encode_json(b.metadata),
            b.created_at,
            b.version,
            contents[b.version],
        )
        for b in table.rows.values()
    ]


def _load_records(view: View, state: _State) -> None:
    for namespace, records in state.kv:
        for key, record in records.items():
            view.table(KVTable, namespace).put(key, record)
    for namespace, session, turns in state.turns:
        for row in turns:
            view.table(SessionTable, namespace, session).put(row.turn_id or 0, row)


def _load_collections(view: View, state: _State) -> None:
    for namespace, space, vectors in state.vectors:
        table = view.table(VectorTable, namespace, space.name)
        table.space = space
        for id_, vector, payload in vectors:
            table.put(id_, VectorRecord(id_, np.frombuffer(vector, "<f4").astype(np.float32), decode_json(payload)))
    for namespace, collection, documents in state.text:
        texts = view.table(DocumentTable, namespace, collection.name)
        texts.collection = collection
        for id_, fields, payload in documents:
            texts.put(id_, Document(id_, fields, decode_json(payload)))


def _load_graphs(view: View, state: _State) -> None:
    for namespace, graph, nodes in state.nodes:
        for label, id_, properties in nodes:
            node = Node(label, id_, decode_json(properties))
            view.table(NodeTable, namespace, graph).put(node.ref, node)
    for namespace, graph, edges in state.edges:
        for id_, source, target, type_, properties, valid_from, valid_to in edges:
            edge = Edge(id_, source, target, type_, decode_json(properties), valid_from, valid_to)
            view.table(EdgeTable, namespace, graph).put(id_, edge)
            view.table(LinkTable, namespace, graph).link(edge)


def _load_blobs(view: View, state: _State) -> None:
    for namespace, container, blobs in state.blobs:
        for key, size, checksum, content_type, metadata, created_at, version, parts in blobs:
            described = decode_json(metadata)
            info = BlobInfo(key, size, checksum, content_type, described, created_at, version)
            view.table(BlobTable, namespace, container).put(info.key, info)
            view.table(ContentTable, namespace, container).put(info.version, parts)
