"""Queries over the records of a dict: the executable specification of `contracts.query`."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from polymem.contracts._filter_match import find
from polymem.contracts._query_values import (
    Comparable,
    comparable,
    comparable_key,
    figure,
    partial,
    path_text,
    position_key,
    position_of,
    revealed,
)
from polymem.contracts.filter import Filter, Path, matches, sort_key
from polymem.contracts.kv import Record
from polymem.contracts.query import (
    DOCUMENT_TAG,
    AggregateRow,
    Aggregation,
    Explanation,
    Found,
    IndexInfo,
    Position,
    Query,
    QueryFeatures,
    is_document,
)
from polymem.core.codec import decode_json, encode_json
from polymem.engines._tables.kv import KVTable
from polymem.engines._tables.state import starting
from polymem.engines._tables.views import View
from polymem.errors import StorageUnsupportedError

Document = tuple[str, Record, Any]
"""Key, record and decoded value."""


class TableQuery:
    """Every query looks at every document of its prefix; there are no indexes."""

    __slots__ = ("_namespace", "_view")

    def __init__(self, view: View, namespace: str) -> None:
        self._view, self._namespace = view, namespace

    @property
    def features(self) -> QueryFeatures:
        return QueryFeatures(indexes=False)

    async def find(self, query: Query, after: Position | None, limit: int, /) -> Found:
        rest = islice(self._ordered(query, after), query.offset, query.offset + limit + 1)
        documents = list(rest)
        items = [(key, _selected(record, document, query.select)) for key, record, document in documents[:limit]]
        if len(documents) <= limit or not items:
            return Found(items, None)
        key, _, document = documents[limit - 1]
        return Found(items, position_of(document, query.order, key))

    async def count(self, prefix: str, where: Filter | None, /) -> int:
        return sum(1 for _ in self._matching(prefix, where))

    async def aggregate(self, wanted: Aggregation, /) -> list[AggregateRow]:
        groups = self._groups(wanted)
        rows = (_row(wanted, group, groups[group]) for group in sorted(groups, key=_group_key))
        kept = (row for row in rows if matches(wanted.having, row.values))
        return list(islice(kept, wanted.limit))

    async def explain(self, query: Query, /) -> Explanation:
        self._view.check()
        return Explanation((), (f"look at every document{' and sort' if query.order else ''}",))

    async def create_index(self, index: IndexInfo, /) -> None:  # noqa: ARG002 - the same for all  # noqa: ARG002 - all are refused
        raise _no_indexes()

    async def drop_index(self, name: str, /) -> bool:  # noqa: ARG002 - the same for all  # noqa: ARG002 - all are refused
        raise _no_indexes()

    async def list_indexes(self) -> list[IndexInfo]:
        raise _no_indexes()

    def _matching(self, prefix: str, where: Filter | None, after: str | None = None) -> Iterator[Document]:
        table, now = self._view.find(KVTable, self._namespace), self._view.clock.now()
        for key in () if table is None else starting(table.keys(), prefix, after):
            record = table.live(key, now) if table is not None else None
            if record is not None and is_document(record.codec):
                document = decode_json(record.body)
                if matches(where, document):
                    yield key, record, document

    def _ordered(self, query: Query, after: Position | None) -> Iterator[Document]:
        if not query.order:
            return self._matching(query.prefix, query.where, None if after is None else after.key)
        keyed = ((sort_key(d[2], query.order, d[0]), d) for d in self._matching(query.prefix, query.where))
        if after is not None:
            start = position_key(after, query.order)
            keyed = (item for item in keyed if start < item[0])
        return (document for _, document in sorted(keyed, key=lambda item: item[0]))

    def _groups(self, wanted: Aggregation) -> dict[tuple[Comparable, ...], list[Any]]:
        groups: dict[tuple[Comparable, ...], list[Any]] = {} if wanted.group_by else {(): []}
        for _, _, document in self._matching(wanted.prefix, wanted.where):
            group = tuple(comparable(find(document, path)) for path in wanted.group_by)
            groups.setdefault(group, []).append(document)
        return groups


def _group_key(group: tuple[Comparable, ...]) -> list[tuple[int, Any]]:
    return [comparable_key(value) for value in group]


def _row(wanted: Aggregation, group: tuple[Comparable, ...], documents: Sequence[Any]) -> AggregateRow:
    named = zip(map(path_text, wanted.group_by), group, strict=True)
    values = {name: figure(result, documents) for name, result in wanted.results.items()}
    return AggregateRow({path: revealed(value) for path, value in named if value is not None}, values)


def _selected(record: Record, document: object, select: Sequence[Path] | None) -> Record:
    if select is None:
        return record
    body = encode_json(partial(select, [find(document, path) for path in select]))
    return record._replace(body=body, codec=DOCUMENT_TAG)


def _no_indexes() -> StorageUnsupportedError:
    return StorageUnsupportedError("there are no indexes; queries work without them")
