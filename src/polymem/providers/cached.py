"""Embeddings kept in any key-value namespace, so that the same text is paid for once (PRV-2)."""

import asyncio
import base64
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from polymem.contracts.kv import KeyValue
from polymem.core.clock import SystemClock, Ttl, expiry
from polymem.core.text import check_text
from polymem.errors import StorageDataError, StorageError
from polymem.providers.embedding import EmbeddingProvider, Matrix, Vector

_EMBEDDED: Final = 2048
"""Texts given to the provider at a time: what is done stays done when a later part fails."""
_STORED: Final = 256
"""Vectors read or written at a time: coding long ones holds the event loop for a few milliseconds."""
_log = logging.getLogger("polymem.providers")


@dataclass(slots=True)
class CacheStatistics:
    """Texts answered without the provider, texts it embedded, and times the cache itself could not be used."""

    hits: int = 0
    misses: int = 0
    failures: int = 0


@dataclass(eq=False, slots=True)
class _Flight:
    """Texts being looked up and embedded, and how many calls wait for them."""

    task: "asyncio.Task[dict[str, Vector]]"
    keys: frozenset[str]
    waiting: int = 0


class CachedEmbedder:
    """`provider` with a memory: `CachedEmbedder(OpenAIEmbedder(...), store.namespace("embeddings").kv, ttl=30 * 86400)`.

    A vector is stored as base64 of float32 under a hash of the model's name and the text; the text itself is not
    stored. A stored vector of another length, or damaged, is embedded and written anew. Calls that want the same
    text at the same time share one request. A cache that is down costs time, not answers: `statistics.failures`.
    Not worth it in front of the offline model, which is faster than any look-up.
    """

    def __init__(self, provider: EmbeddingProvider, kv: KeyValue[Any], *, ttl: Ttl | None = None) -> None:
        expiry(ttl, SystemClock())  # raises now rather than at the first write
        self._provider, self._kv, self._ttl = provider, kv, ttl
        self._flights: dict[str, _Flight] = {}
        self.statistics = CacheStatistics()

    def __repr__(self) -> str:
        return f"<CachedEmbedder of {self._provider!r}>"

    @property
    def name(self) -> str:
        return self._provider.name

    @property
    def dimensions(self) -> int:
        return self._provider.dimensions

    async def embed(self, text: str) -> Vector:
        """The vector of one text, shape (dimensions,)."""
        vector: Vector = (await self.embed_batch([text]))[0]
        return vector

    async def embed_batch(self, texts: Sequence[str]) -> Matrix:
        """The vectors of many texts in order; only those not in the cache are embedded, each once."""
        if isinstance(texts, str):
            raise StorageDataError("expected several texts, not one string", field="texts")
        keys = [self._key(check_text(text, field=f"texts[{row}]")) for row, text in enumerate(texts)]
        if not keys:
            return np.empty((0, self.dimensions), np.float32)
        wanted = dict(zip(keys, texts, strict=True))
        found = await self._fly(wanted)
        self.statistics.hits += len(keys) - len(wanted)
        return np.stack([found[key] for key in keys])

    def _key(self, text: str) -> str:
        return hashlib.sha256(f"{self.name}\0{text}".encode()).hexdigest()

    async def _fly(self, wanted: dict[str, str]) -> dict[str, Vector]:
        """Join the flights that carry some of the keys, start one for the rest."""
        joined = {self._flights[key] for key in wanted if key in self._flights}
        own = self._start({key: text for key, text in wanted.items() if key not in self._flights})
        flights = joined | own
        for flight in flights:
            flight.waiting += 1
        found: dict[str, Vector] = {}
        try:
            for flight in flights:
                found |= await self._land(flight, wanted, own=flight in own)
        finally:
            for flight in flights:
                self._leave(flight)
        return found

    def _start(self, texts: dict[str, str]) -> set[_Flight]:
        if not texts:
            return set()
        task = asyncio.create_task(self._fetch(texts))
        task.add_done_callback(_seen)
        flight = _Flight(task, frozenset(texts))
        self._flights.update(dict.fromkeys(texts, flight))
        return {flight}

    async def _land(self, flight: _Flight, wanted: dict[str, str], *, own: bool) -> dict[str, Vector]:
        """What a flight brings. One of another call may have failed for a text of its own: then ours go alone."""
        ours = {key: text for key, text in wanted.items() if key in flight.keys}
        try:
            found = await asyncio.shield(flight.task)
        except Exception as error:
            if own or getattr(error, "retryable", False):
                raise
            return await self._fetch(ours)
        if not own:
            self.statistics.hits += len(ours)
        return found

    def _leave(self, flight: _Flight) -> None:
        """The last to leave ends the flight: done or not, nobody waits for it any more."""
        flight.waiting -= 1
        if not flight.waiting:
            flight.task.cancel()
            for key in flight.keys:
                del self._flights[key]

    async def _fetch(self, texts: dict[str, str]) -> dict[str, Vector]:
        found = await self._look_up(list(texts))
        self.statistics.hits += len(found)
        for keys in _parts([key for key in texts if key not in found], _EMBEDDED):
            matrix = await self._provider.embed_batch([texts[key] for key in keys])
            fresh = dict(zip(keys, matrix, strict=True))
            self.statistics.misses += len(fresh)
            await self._keep(fresh)
            found |= fresh
        return found

    async def _look_up(self, keys: list[str]) -> dict[str, Vector]:
        found: dict[str, Vector] = {}
        try:
            for part in _parts(keys, _STORED):
                stored = await self._kv.get_many(part)
                vectors = {key: _decode(value, self.dimensions) for key, value in stored.items()}
                found |= {key: vector for key, vector in vectors.items() if vector is not None}
                await asyncio.sleep(0)
        except StorageError as error:
            self._failed(error)
        return found

    async def _keep(self, vectors: dict[str, Vector]) -> None:
        try:
            for part in _parts(list(vectors), _STORED):
                await self._kv.put_many({key: _encode(vectors[key]) for key in part}, ttl=self._ttl)
                await asyncio.sleep(0)
        except StorageError as error:
            self._failed(error)

    def _failed(self, error: StorageError) -> None:
        if isinstance(error, StorageDataError):  # not a failure: a namespace whose values are of another type
            raise error
        self.statistics.failures += 1
        kind = type(error).__name__
        _log.warning("embedding cache: %s", kind, extra={"operation": "embed", "error_type": kind})


def _parts(keys: list[str], size: int) -> Iterator[list[str]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _seen(task: "asyncio.Task[Any]") -> None:
    """Fetch the error of a task that nobody may be waiting for, or asyncio complains about it."""
    if not task.cancelled():
        task.exception()


def _encode(vector: Vector) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def _decode(value: object, dimensions: int) -> Vector | None:
    """None for anything that isn't a vector of that length."""
    try:
        vector = np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4")  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return vector.astype(np.float32) if len(vector) == dimensions and np.isfinite(vector).all() else None
