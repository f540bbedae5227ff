"""The postings of a text collection in memory, derived from its rows and kept fresh by the log of changes."""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final, TypeVar

from polymem.core.codec import decode_json
from polymem.engines.postgres._runner import Fetch
from polymem.indexes.analyzer import Analyzer
from polymem.indexes.evicting import IndexCache
from polymem.indexes.search_index import SearchIndex
from polymem.indexes.vocabulary import Vocabulary

MAX_BYTES: Final = 2 << 30
_LASTING: Final = 3600.0
"""Seconds after which an unused index is loaded anew. The log reaches back a day, further than any transaction lasts."""
Result = TypeVar("Result")

# the snapshot and the rows are of one statement, hence of one state of the database
_ALL: Final = """
select pg_current_snapshot()::text, t.id, t.tokens
from pm_collections c left join pm_texts t using(collection) where c.collection = $1"""
_NEWS: Final = """
with news as (
    select distinct unnest(ids) collate "C" as id from pm_changes
    where collection = $1 and xid >= pg_snapshot_xmin($2::text::pg_snapshot)
    and not pg_visible_in_snapshot(xid, $2::text::pg_snapshot))
select pg_current_snapshot()::text, n.id, t.tokens from pm_collections c
left join news n on true left join pm_texts t on t.collection = $1 and t.id = n.id where c.collection = $1"""
_FIELDS: Final = "select fields from pm_texts where collection = $1 and id = any($2)"


class Slot:
    """One index, and the snapshot of the database that it shows."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._index: SearchIndex | None = None
        self._snapshot = ""
        self._seen_at = 0.0

    @property
    def nbytes(self) -> int:
        return 0 if self._index is None else self._index.nbytes

    async def refresh(self, fetch: Fetch, collection: int) -> SearchIndex | None:
        """The index as the database is now, in one round trip; None where the collection is gone."""
        index, asked_at = self._index, monotonic()
        if index is None or asked_at - self._seen_at > _LASTING:
            index, rows = SearchIndex(), await fetch(_ALL, collection)
        else:
            rows = await fetch(_NEWS, collection, self._snapshot)
        if not rows:
            return None
        found = [row[1:] for row in rows if row[1] is not None]
        self._index = None  # until every row is in it
        if found:
            await in_thread(lambda: _apply(index, found))
        self._index, self._snapshot, self._seen_at = index, rows[0][0], asked_at
        return index

    async def vocabulary(self, fetch: Fetch, collection: int, language: Analyzer) -> Vocabulary:
        """Every word of the collection, after `refresh`."""
        index = self._index or SearchIndex()
        words = index.words = index.words or Vocabulary(language)
        unread = list(index.unread)
        rows = await fetch(_FIELDS, collection, unread) if unread else ()
        await in_thread(lambda: words.add(text for (fields,) in rows for text in decode_json(fields).values()))
        del index.unread[: len(unread)]
        return words


class Indexes:
    """The indexes of one engine by collection, the least recently used evicted beyond `max_bytes`."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._slots: IndexCache[int, Slot] = IndexCache(max_bytes)

    def slot(self, collection: int) -> Slot:
        slot = self._slots.get(collection)
        if slot is None:
            slot = Slot()
            self._slots.put(collection, slot)
        return slot

    def measure(self, collection: int, slot: Slot) -> None:
        """Note how large an index has become."""
        self._slots.put(collection, slot)


async def in_thread(work: Callable[[], Result]) -> Result:
    """Work on an index beside the event loop. A caller who is cancelled waits for its end: the next one needs it whole."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


def _apply(index: SearchIndex, rows: Sequence[Any]) -> None:
    index.remove_many([id for id, tokens in rows if tokens is None])
    there = [(id, tokens) for id, tokens in rows if tokens is not None]
    if there:
        index.put_many([id for id, _ in there], [tokens for _, tokens in there])
