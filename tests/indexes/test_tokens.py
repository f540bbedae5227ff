"""The token BLOB."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.errors import StorageDataError
from polymem.indexes import tokens
from polymem.indexes.analyzer import analyzer, term_hash
from polymem.indexes.segment import build
from polymem.indexes.tokens import (
    FORMAT,
    decode_tokens,
    encode_tokens,
    field_hash,
    join_streams,
    keep_documents,
)

ENGLISH = analyzer("english")
fields = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.text(alphabet="xyz ", max_size=12))


def test_layout() -> None:
    """The format is on disk: this test changes only together with FORMAT."""
    blob = encode_tokens(ENGLISH, {"body": "Running dogs", "title": ""})
    body = bytes([FORMAT, 2, 0, 0]) + field_hash("body").to_bytes(4, "little")
    title = bytes([FORMAT, 0, 0, 0]) + field_hash("title").to_bytes(4, "little")
    assert blob == body + term_hash("run") + term_hash("dog") + title
    assert term_hash("run").hex() == "fb4b0d4947c68395"
    assert field_hash("body") == 2_993_413_083
    assert encode_tokens(ENGLISH, {}) == b""


@given(st.lists(fields, max_size=6), st.integers(0, 100))
def test_streams_survive_joining_and_indexing(documents: list[dict[str, str]], first: int) -> None:
    blobs = [encode_tokens(ENGLISH, document) for document in documents]
    stream = decode_tokens(blobs, first)
    headers = [first + n for n, document in enumerate(documents) for _ in document]
    assert stream.header_documents.tolist() == headers
    halves = [decode_tokens(blobs[:2], first), decode_tokens(blobs[2:], first + len(blobs[:2]))]
    for other in (join_streams(halves), build(stream).stream()):
        kept = other.words.copy()
        kept[stream.header_slots] = stream.words[stream.header_slots]  # an index drops the headers' words
        assert kept.tobytes() == b"".join(blobs)
        assert [column.tolist() for column in other[1:]] == [column.tolist() for column in stream[1:]]


@given(st.lists(fields, max_size=6), st.data())
def test_documents_can_be_dropped(documents: list[dict[str, str]], data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.booleans(), min_size=len(documents), max_size=len(documents)))
    blobs = [encode_tokens(ENGLISH, document) for document in documents]
    numbers = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    left = keep_documents(decode_tokens(blobs, 0), numbers)
    expected = decode_tokens([blob for blob, keep in zip(blobs, kept, strict=True) if keep], 0)
    assert [column.tolist() for column in left] == [column.tolist() for column in expected]


def test_a_field_of_too_many_words_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_MAX_TOKENS", 2)
    encode_tokens(ENGLISH, {"text": "one two"})
    with pytest.raises(StorageDataError) as error:
        encode_tokens(ENGLISH, {"text": "one two three"})
    assert error.value.field == "fields"
