"""Operations on blobs; versions are left out of the comparison."""

from typing import Any

from hypothesis import strategies as st

from polymem.contracts.blobs import Blob
from polymem.store import Store
from polymem.testing.models.model import NAMES, PAYLOAD, Memo, Model

KEY, PREFIX = st.sampled_from(NAMES), st.sampled_from(["", "a", "%", "z"])
DATA = st.sampled_from([b"", b"a", b"\x00\xff" * 50, b"x" * 300_000])
PLACE = st.sampled_from([0, 1, 99, 262_144, 300_000, 300_001])


def _seen(blob: Blob | None) -> Any:
    if blob is None:
        return None
    return blob.key, blob.size, blob.checksum, blob.content_type, blob.metadata, blob.created_at


async def _put(store: Store, _: Memo, key: str, data: bytes, metadata: Any) -> Any:
    return _seen(await store.blobs().put(key, data, metadata=metadata))


async def _get(store: Store, _: Memo, key: str) -> Any:
    return await store.blobs().get(key), _seen(await store.blobs().info(key))


async def _read(store: Store, _: Memo, key: str, start: int, length: int) -> bytes:
    return await store.blobs().read(key, start, length)


async def _copy(store: Store, _: Memo, source: str, target: str) -> Any:
    return _seen(await store.blobs().copy(source, target))


async def _delete(store: Store, _: Memo, key: str) -> bool:
    return await store.blobs().delete(key)


async def _list(store: Store, _: Memo, prefix: str) -> Any:
    return [blob.key async for blob in store.blobs().scan(prefix)], await store.blobs().count(prefix)


async def _clear(store: Store, _: Memo) -> int:
    return await store.blobs().clear()


async def _state(store: Store) -> Any:
    found = [blob async for blob in store.blobs().scan()]
    return [(_seen(blob), await store.blobs().get(blob.key)) for blob in found]


BLOBS = Model(
    "blobs",
    {
        "put": (_put, (KEY, DATA, PAYLOAD)),
        "get": (_get, (KEY,)),
        "read": (_read, (KEY, PLACE, PLACE)),
        "copy": (_copy, (KEY, KEY)),
        "delete": (_delete, (KEY,)),
        "list": (_list, (PREFIX,)),
        "clear": (_clear, ()),
    },
    ("put", "copy"),
    _state,
)
