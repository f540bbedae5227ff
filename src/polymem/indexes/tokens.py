"""The token BLOB kept beside each document, and its bulk decoding.

A BLOB is a row of little-endian 64-bit words. Each field is one header, then one `term_hash` per token in the
order of the text. A header holds, from the lowest bits: the format (8 bits), the number of tokens (24 bits)
and the first 32 bits of the hash of the field's name. Headers take up a place of their own, so tokens of
two fields are never neighbours. No fields: no bytes.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymem.errors import StorageCorruptError, StorageDataError
from polymem.indexes.analyzer import Analyzer

FORMAT: Final = 1
"""Goes up whenever the layout or the analysis changes; engines then encode what older versions wrote again."""
_MAX_TOKENS: Final = (1 << 24) - 1


class Stream(NamedTuple):
    """Tokens of many documents: the words of their BLOBs one after the other, and where the headers are."""

    words: NDArray[np.uint64]
    header_slots: NDArray[np.int32]
    header_fields: NDArray[np.uint32]
    header_documents: NDArray[np.int32]

    @property
    def header_tokens(self) -> NDArray[np.int32]:
        """How many tokens each header has."""
        return np.diff(self.header_slots, append=np.int32(len(self.words))) - np.int32(1)


def field_hash(name: str) -> int:
    """The 32 bits that stand for a field."""
    return int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=4).digest(), "little")


def encode_tokens(analyzer: Analyzer, fields: Mapping[str, str]) -> bytes:
    """The token BLOB of a document; more than 16,777,215 tokens in a field are a `StorageDataError`."""
    return b"".join(_encode_field(analyzer, name, text) for name, text in fields.items())


def _encode_field(analyzer: Analyzer, name: str, text: str) -> bytes:
    tokens = analyzer.hashes(text)
    count = len(tokens) // 8
    if count > _MAX_TOKENS:
        raise StorageDataError(f"longer than {_MAX_TOKENS} words", field="fields")
    return (FORMAT | count << 8 | field_hash(name) << 32).to_bytes(8, "little") + tokens


def decode_tokens(blobs: Sequence[bytes], first: int) -> Stream:
    """The tokens of documents numbered from `first`; a BLOB that is not ours is a `StorageCorruptError`."""
    sizes = np.fromiter(map(len, blobs), np.int64, len(blobs))
    if np.any(sizes % 8):
        raise StorageCorruptError("a token BLOB is not made of 64-bit words")
    words = np.frombuffer(b"".join(blobs), "<u8").astype(np.uint64, copy=False)
    ends = np.cumsum(sizes // 8)
    at = ends - sizes // 8
    documents = np.arange(first, first + len(blobs), dtype=np.int32)
    rounds: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = []
    while len(at := at[open_ := at < ends]):  # the n-th headers of all documents at once
        ends, documents = ends[open_], documents[open_]
        rounds.append((at, documents))
        at = at + 1 + _token_counts(words[at])
        if np.any(at > ends):
            raise StorageCorruptError("a token BLOB is cut short")
    return _stream(words, rounds)


def _token_counts(headers: NDArray[np.uint64]) -> NDArray[np.int64]:
    if np.any(headers & np.uint64(0xFF) != FORMAT):
        raise StorageCorruptError(f"a token BLOB is not of format {FORMAT}")
    return (headers >> np.uint64(8) & np.uint64(_MAX_TOKENS)).astype(np.int64)


def _stream(words: NDArray[np.uint64], rounds: list[tuple[NDArray[np.int64], NDArray[np.int32]]]) -> Stream:
    slots = np.concatenate([np.empty(0, np.int64), *(slots for slots, _ in rounds)])
    documents = np.concatenate([np.empty(0, np.int32), *(documents for _, documents in rounds)])
    order = np.argsort(slots) if len(rounds) > 1 else slice(None)
    slots, documents = slots[order], documents[order]
    return Stream(words, slots.astype(np.int32), (words[slots] >> np.uint64(32)).astype(np.uint32), documents)


def join_streams(streams: Sequence[Stream]) -> Stream:
    """One after the other."""
    if len(streams) == 1:
        return streams[0]
    starts = np.cumsum([0, *(len(stream.words) for stream in streams)])
    slots = [stream.header_slots + np.int32(start) for stream, start in zip(streams, starts, strict=False)]
    return Stream(
        np.concatenate([stream.words for stream in streams]),
        np.concatenate(slots),
        np.concatenate([stream.header_fields for stream in streams]),
        np.concatenate([stream.header_documents for stream in streams]),
    )


def keep_documents(stream: Stream, numbers: NDArray[np.int32]) -> Stream:
    """Without the documents whose entry in `numbers` is negative; the others get that number."""
    kept = numbers[stream.header_documents] >= 0
    places = stream.header_tokens + 1
    words = stream.words[np.repeat(kept, places)]
    slots = (np.cumsum(places[kept]) - places[kept]).astype(np.int32)
    return Stream(words, slots, stream.header_fields[kept], numbers[stream.header_documents[kept]])
