"""Where text becomes a vector (PRV-2): the offline model, and whatever callable the user brings."""

import asyncio
import inspect
import re
import threading
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from polymem.errors import StorageDataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]
EmbedFunction = Callable[[list[str]], Any] | Callable[[list[str]], Awaitable[Any]]
"""Takes texts, returns one vector for each: lists or arrays of numbers, directly or awaitable."""

INSTALL_HINT: Final = "no embedder is installed, recall uses text alone: pip install 'polymem[embeddings]'"

_WORD: Final = re.compile(r"\w+")
_BATCH: Final = 512


@runtime_checkable
class EmbeddingProvider(Protocol):
    """Turns text into vectors of one length. `name` is the model's, stored beside every vector."""

    @property
    def name(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    async def embed(self, text: str) -> Vector:
        """The vector of one text, shape (dimensions,)."""
        ...

    async def embed_batch(self, texts: Sequence[str]) -> Matrix:
        """The vectors of many texts in order, float32, shape (len(texts), dimensions)."""
        ...


class TokenVectors(NamedTuple):
    """The model tokens of a text: the word each one belongs to ("" for punctuation) and its vector."""

    words: tuple[str, ...]
    vectors: Matrix


class StaticEmbedder:
    """Unit-length mean of wordllama's static token vectors, read from the files in its wheel without network.

    Loaded at the first use, about 35 MB of memory; any thread may call it. A text without a single token has
    the zero vector, which says nothing and must not be indexed by cosine.
    """

    name: str = "wordllama-l2-supercat-256"
    dimensions: int = 256

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._loaded: tuple[Tokenizer, Matrix] | None = None

    async def embed(self, text: str) -> Vector:
        """Inline: one text takes about 0.1 ms, less than the hop to a thread."""
        vector: Vector = self.encode([text])[0]
        return vector

    async def embed_batch(self, texts: Sequence[str]) -> Matrix:
        return await asyncio.to_thread(self.encode, texts)

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Blocking form of `embed_batch`, for callers that have a thread of their own."""
        tokenizer, table = self._load()
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            for row, encoding in enumerate(encodings, start):
                if encoding.ids:
                    vectors[row] = table[encoding.ids].sum(axis=0)
        return unit(vectors)

    def tokens(self, text: str) -> TokenVectors:
        """The tokens of `text` one by one, for callers that weight them (`memory.ranking.query_vector`)."""
        tokenizer, table = self._load()
        encoding = tokenizer.encode(text, add_special_tokens=False)
        spans = [(match.start(), match.end(), match.group()) for match in _WORD.finditer(text)]
        ends = [end for _, end, _ in spans]
        words = tuple(_word_at(spans, bisect_right(ends, start), stop) for start, stop in encoding.offsets)
        return TokenVectors(words, table[encoding.ids].reshape(len(words), self.dimensions))

    def _load(self) -> tuple["Tokenizer", Matrix]:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read()
            return self._loaded

    def _read(self) -> tuple["Tokenizer", Matrix]:
        from safetensors.numpy import load_file  # noqa: PLC0415  these two are an extra, and slow to import
        from tokenizers import Tokenizer  # noqa: PLC0415

        (table,) = load_file(self._folder / _WEIGHTS).values()
        tokenizer = Tokenizer.from_file(str(self._folder / _TOKENIZER))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer, np.asarray(table, dtype=np.float32)


class CallableEmbedder:
    """An `embed=` callable of the user as an `EmbeddingProvider`; made by `adapt`."""

    def __init__(self, function: EmbedFunction, *, name: str, dimensions: int) -> None:
        self.name = name
        self.dimensions = dimensions
        self._function = function

    async def embed(self, text: str) -> Vector:
        vector: Vector = (await self.embed_batch([text]))[0]
        return vector

    async def embed_batch(self, texts: Sequence[str]) -> Matrix:
        """StorageDataError (field `embed`) unless the answer is a finite vector of the right length each."""
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        matrix = await _call(self._function, list(texts))
        if matrix.shape[1] != self.dimensions:
            raise StorageDataError(
                f"expected vectors of {self.dimensions} dimensions, got {matrix.shape[1]}", field="embed"
            )
        return matrix


async def adapt(embed: EmbeddingProvider | EmbedFunction, *, name: str | None = None) -> EmbeddingProvider:
    """`embed` as a provider. A plain callable is asked for one vector to learn their length.

    A callable that isn't a coroutine function runs in a thread, since it may block. `name` defaults to the
    callable's own qualified name. Raises StorageDataError (field `embed`).
    """
    if isinstance(embed, EmbeddingProvider):
        return embed
    if not callable(embed):
        raise StorageDataError("expected a callable that takes a list of strings", field="embed")
    probe = await _call(embed, ["dimensions"])
    return CallableEmbedder(embed, name=name or _name(embed), dimensions=probe.shape[1])


def load_default() -> StaticEmbedder | None:
    """The offline model, or None where the `embeddings` extra is not installed: then give `INSTALL_HINT`."""
    spec = find_spec("wordllama")  # not imported: that pulls in a downloader
    if spec is None or spec.origin is None or not (find_spec("tokenizers") and find_spec("safetensors")):
        return None
    folder = Path(spec.origin).parent
    if not ((folder / _WEIGHTS).is_file() and (folder / _TOKENIZER).is_file()):
        return None
    return _shared(folder)


def unit(vectors: Matrix) -> Matrix:
    """Each row (last axis) scaled to length 1; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


_WEIGHTS: Final = Path("weights", "l2_supercat_256.safetensors")
_TOKENIZER: Final = Path("tokenizers", "l2_supercat_tokenizer_config.json")


def _word_at(spans: Sequence[tuple[int, int, str]], first: int, stop: int) -> str:
    """The word `first` if it begins before `stop`."""
    return spans[first][2] if first < len(spans) and spans[first][0] < stop else ""


@cache
def _shared(folder: Path) -> StaticEmbedder:
    return StaticEmbedder(folder)


async def _call(function: EmbedFunction, texts: list[str]) -> Matrix:
    inline = inspect.iscoroutinefunction(function)
    answer = function(texts) if inline else await asyncio.to_thread(function, texts)
    if inspect.isawaitable(answer):
        answer = await answer
    return _matrix(answer, len(texts))


def _matrix(answer: object, rows: int) -> Matrix:
    try:
        matrix = np.asarray(answer, dtype=np.float32)
    except (TypeError, ValueError):
        raise StorageDataError("expected vectors of numbers, all of one length", field="embed") from None
    if matrix.ndim != 2 or matrix.shape[0] != rows or matrix.shape[1] == 0:  # noqa: PLR2004 - rows and numbers
        raise StorageDataError(f"expected {rows} vectors, got shape {matrix.shape}", field="embed")
    if not np.isfinite(matrix).all():
        raise StorageDataError("expected finite numbers, got NaN or infinity", field="embed")
    return matrix


def _name(function: EmbedFunction) -> str:
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}.{kind.__qualname__}"
