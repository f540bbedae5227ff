"""The bulk half of `KeyValue` (BLK-1)."""

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from polymem.contracts._input import PAGE
from polymem.contracts._kv_bulk import Bulk, batch_write
from polymem.contracts.bulk import (
    BatchResult,
    BulkRecord,
    LoadProgress,
    LoadReport,
    OnError,
    Operation,
    Records,
)
from polymem.core.clock import Clock, Ttl
from polymem.core.codec import Codec
from polymem.core.text import check_text

if TYPE_CHECKING:
    from polymem.contracts.kv import KeyValue, KeyValueDriver

T = TypeVar("T")


class BulkApi(Generic[T]):
    """Many writes at once, and all records in or out. Files: `polymem.jobs.bulk`."""

    _driver: "KeyValueDriver"
    _clock: Clock
    _codec: Codec[T]

    async def batch_write(self, operations: Iterable[Operation]) -> BatchResult:
        """Apply operations (`polymem.contracts.bulk`: Put, Create, Update, CompareAndSet, Increment, Touch, Delete).

        Each has its own outcome, in the order given: one that fails stops no other. Operations on one key take effect
        in order, those on different keys in any. Something that is no operation is a `StorageDataError`, and nothing
        is written. All or nothing takes a transaction::

            async with store.transaction() as tx:
                (await tx.kv.batch_write(operations)).raise_first()
        """
        return await batch_write(cast("KeyValue[Any]", self), operations)

    async def delete_prefix(self, prefix: str) -> int:
        """Remove the records whose keys start with `prefix`, page by page; how many there were.

        Each page goes at once, as with `delete_many`; in a transaction all of them do. What is written meanwhile may
        stay.
        """
        check_text(prefix, field="prefix")
        removed, after, more = 0, None, True
        while more:
            page = await self._driver.page(prefix, after, PAGE)
            removed += await self._driver.delete_many([key for key, _ in page.items]) if page.items else 0
            after, more = page.after, page.after is not None
        return removed

    async def bulk_load(
        self,
        records: Records[T],
        *,
        ttl: Ttl | None = None,
        skip: int = 0,
        on_error: OnError = "stop",
        progress: LoadProgress | None = None,
    ) -> LoadReport:
        """Put every record of a (plain or asynchronous) iterable of (key, value) or (key, value, ttl).

        Records are stored in chunks of up to 1,000 or 4 MB, each all or nothing (where `features.atomic_batches`), while
        the next ones are read. `ttl` is for records without one of their own; seconds count from the start. A bad
        record is a `StorageDataError` that names it, and nothing of its chunk is stored; with `on_error="collect"` it
        is left out and named in the report. `progress` is called with the report after every chunk. A cancelled load
        finishes the chunk under way and tells of it. `skip` passes over as many records at the start:
        `report.position` goes on where a load ended, and loading all of it again gives the same records.
        """
        return await self.bulk.load_records(records, ttl=ttl, skip=skip, on_error=on_error, progress=progress)

    async def bulk_export(self, prefix: str = "") -> AsyncIterator[BulkRecord[T]]:
        """The live records whose keys start with `prefix`, as `bulk_load` takes them, read page by page.

        As with `scan` there is no snapshot: a write made meanwhile may or may not be seen, a record present
        throughout comes exactly once (where `features.ordered`).
        """
        async for entry in cast("KeyValue[T]", self).entries(prefix):
            yield BulkRecord(entry.key, entry.value, entry.expires_at)

    @property
    def bulk(self) -> Bulk[T]:
        """Encoding records and storing chunks of them, for those who write a file format."""
        return Bulk(self._driver, self._clock, self._codec)
