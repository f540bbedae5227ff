"""Parquet: `key` string, `value` string of JSON, `expires_at` instant, which may be missing (BLK-2)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from polymem.contracts._kv_bulk import CHUNK_BYTES, CHUNK_RECORDS, Bulk, Chunk, Packer, Row
from polymem.contracts.bulk import BulkRecord
from polymem.core.clock import to_datetime
from polymem.errors import StorageDataError
from polymem.jobs._bulk_files import Compression, failures_told, library
from polymem.jobs._bulk_lines import row_of_json

_COLUMNS: Final = ("key", "value", "expires_at")
_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_GROUP_ROWS: Final = 50_000
_GROUP_BYTES: Final = 16 << 20
Item = tuple[object, object, int | None]
"""Key, JSON text, microseconds."""


def read_parquet(path: Path, bulk: Bulk[Any], *, skip: int, stop: bool) -> Iterator[Chunk]:
    """The records of the file, encoded, in chunks; row groups before `skip` are not read."""
    arrow = library("pyarrow", "parquet")
    packer = Packer(lambda item: _row(bulk, item), place=f"{path.name} row", stop=stop)
    with failures_told(path, arrow.ArrowException), path.open("rb") as raw:
        file = library("pyarrow.parquet", "parquet").ParquetFile(raw, pre_buffer=False, buffer_size=1 << 20)
        per_second = _checked_columns(arrow, file.schema_arrow, path)
        total = file.metadata.num_rows or 1
        for position, item in _items(arrow, file, per_second, skip):
            if packer.add(item, position):
                yield packer.take(position / total)
    yield packer.take(1.0)


def _checked_columns(arrow: Any, schema: Any, path: Path) -> int:
    """Units of `expires_at` in a second; columns that are wrong are refused before anything is read."""
    for name in schema.names:
        if name not in _COLUMNS:
            raise _wrong(path, name, "unknown column; expected key, value and perhaps expires_at")
    for name in ("key", "value"):
        if schema.names.count(name) != 1:
            raise _wrong(path, name, "this column is missing, or there twice")
        if not _is_text(arrow.types, schema.field(name).type):
            raise _wrong(path, name, f"expected a column of strings, got {schema.field(name).type}")
    if "expires_at" not in schema.names:
        return 1
    kind = schema.field("expires_at").type
    if not arrow.types.is_timestamp(kind) or kind.tz is None:
        raise _wrong(path, "expires_at", f"expected a column of timestamps with a time zone, got {kind}")
    return _PER_SECOND[kind.unit]


def _wrong(path: Path, column: str, message: str) -> StorageDataError:
    return StorageDataError(f"{path.name} column {column}: {message}", field=column)


def _is_text(types: Any, kind: Any) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _items(arrow: Any, file: Any, per_second: int, skip: int) -> Iterator[tuple[int, Item]]:
    """Each row with its number, from 1; a batch holds about as many bytes as a chunk."""
    metadata, position = file.metadata, 0
    groups: list[int] = []
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if position + rows <= skip and not groups:
            position += rows
        else:
            groups.append(group)
    for batch in file.iter_batches(batch_size=_batch_size(metadata), row_groups=groups) if groups else ():
        for item in _rows(arrow, batch, per_second):
            position += 1
            if position > skip:
                yield position, item


def _batch_size(metadata: Any) -> int:
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    widest = max((group.total_byte_size / (group.num_rows or 1) for group in groups), default=1)
    return max(1, min(CHUNK_RECORDS, int(CHUNK_BYTES / max(widest, 1))))


def _rows(arrow: Any, batch: Any, per_second: int) -> Iterable[Item]:
    keys, values = batch.column("key").to_pylist(), batch.column("value").to_pylist()
    if "expires_at" not in batch.schema.names:
        return zip(keys, values, [None] * len(keys), strict=True)
    instants = batch.column("expires_at").cast(arrow.int64()).to_pylist()
    return zip(keys, values, [_microseconds(one, per_second) for one in instants], strict=True)


def _microseconds(count: int | None, per_second: int) -> int | None:
    """Rounded up where there is more than microseconds (KV-2)."""
    return None if count is None else -(-count * 1_000_000 // per_second)


def _row(bulk: Bulk[Any], item: Item) -> Row:
    key, text, expires_at = item
    if not isinstance(key, str) or not isinstance(text, str):
        raise StorageDataError("is null", field="value" if isinstance(key, str) else "key")
    if expires_at is not None:
        try:
            to_datetime(expires_at)
        except OverflowError as error:
            raise StorageDataError("expected an instant in the years 1 to 9999", field="expires_at") from error
    return row_of_json(bulk, key, text, expires_at)


class ParquetWriter:
    """Writes records to an open file, a row group at a time."""

    def __init__(self, raw: IO[bytes], bulk: Bulk[Any], compression: Compression) -> None:
        self._arrow, parquet = library("pyarrow", "parquet"), library("pyarrow.parquet", "parquet")
        fields = [("key", self._arrow.string()), ("value", self._arrow.string())]
        self._schema = self._arrow.schema([*fields, ("expires_at", self._arrow.timestamp("us", tz="UTC"))])
        self._bulk, self._file = bulk, parquet.ParquetWriter(raw, self._schema, compression=compression)
        self._rows: list[tuple[str, bytes, Any]] = []
        self._bytes = 0

    def write(self, records: Sequence[BulkRecord[Any]]) -> int:
        """Bytes of the keys and values."""
        rows = [(record.key, self._bulk.codec.encode(record.value), record.expires_at) for record in records]
        size = sum(len(key) + len(body) for key, body, _ in rows)
        self._rows += rows
        self._bytes += size
        if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._write_group()
        return size

    def _write_group(self) -> None:
        keys, bodies, instants = zip(*self._rows, strict=True)
        texts = [body.decode() for body in bodies]
        columns = [list(keys), texts, list(instants)]
        arrays = [self._arrow.array(c, type=f.type) for c, f in zip(columns, self._schema, strict=True)]
        self._file.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows, self._bytes = [], 0

    def finish(self) -> None:
        if self._rows:
            self._write_group()
        self._file.close()

    def abandon(self) -> None:
        with suppress(Exception):  # the file is thrown away; what matters is that nothing is held any more
            self._file.close()
