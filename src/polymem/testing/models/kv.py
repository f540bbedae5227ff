"""Key-value operations, versions told apart by where they came from."""

from typing import Any

from hypothesis import strategies as st

from polymem.contracts.kv import Entry
from polymem.store import Store
from polymem.testing.models.model import NAMES, TTL, Memo, Model

KEY, PREFIX = st.sampled_from(NAMES), st.sampled_from(["", "a", "ab", "%", "z", "\u00e9"])
KEYS = st.lists(KEY, max_size=4)
VALUE = st.sampled_from([None, 0, 1, -5, 2**63 - 1, 1.5, "1", "\u00e9", True, [1, {}], {"a": None}])
WHICH = st.sampled_from(["absent", "current", "stale"])


def _seen(entry: Entry[Any] | None) -> Any:
    return None if entry is None else (entry.key, entry.value, entry.created_at, entry.updated_at, entry.expires_at)


async def _get(store: Store, _: Memo, key: str) -> Any:
    return await store.kv.get(key, "absent"), _seen(await store.kv.entry(key)), await store.kv.exists(key)


async def _put(store: Store, memo: Memo, key: str, value: Any, ttl: Any) -> None:
    memo.setdefault(key, await store.kv.put(key, value, ttl=ttl))


async def _put_many(store: Store, _: Memo, keys: list[str], value: Any, ttl: Any) -> list[str]:
    return sorted(await store.kv.put_many(dict.fromkeys(keys, value), ttl=ttl))


async def _create(store: Store, _: Memo, key: str, value: Any, ttl: Any) -> None:
    await store.kv.create(key, value, ttl=ttl)


async def _update(store: Store, _: Memo, key: str, value: Any) -> None:
    await store.kv.update(key, value)


async def _replace(store: Store, memo: Memo, key: str, which: str, value: Any, ttl: Any) -> None:  # noqa: PLR0917 - drawn arguments
    entry = await store.kv.entry(key)
    current = None if entry is None else entry.version
    expected = {"absent": None, "current": current, "stale": memo.get(key)}[which]
    await store.kv.compare_and_set(key, expected, value, ttl=ttl)


async def _delete(store: Store, _: Memo, keys: list[str]) -> Any:
    return await store.kv.delete(keys[0]) if len(keys) == 1 else await store.kv.delete_many(keys)


async def _increment(store: Store, _: Memo, key: str, delta: int) -> int:
    return await store.kv.increment(key, delta)


async def _touch(store: Store, _: Memo, key: str, ttl: Any) -> bool:
    return await store.kv.touch(key, ttl=ttl)


async def _ttl(store: Store, _: Memo, key: str) -> float | None:
    return await store.kv.ttl(key)


async def _list(store: Store, _: Memo, prefix: str) -> Any:
    return sorted([key async for key in store.kv.scan(prefix)]), await store.kv.count(prefix)


async def _get_many(store: Store, _: Memo, keys: list[str]) -> dict[str, Any]:
    return await store.kv.get_many(keys)


async def _clear(store: Store, _: Memo) -> int:
    return await store.kv.clear()


async def _state(store: Store) -> Any:
    return sorted([_seen(entry) async for entry in store.kv.entries()])


KV = Model(
    "kv",
    {
        "get": (_get, (KEY,)),
        "put": (_put, (KEY, VALUE, TTL)),
        "put_many": (_put_many, (KEYS, VALUE, TTL)),
        "create": (_create, (KEY, VALUE, TTL)),
        "update": (_update, (KEY, VALUE)),
        "compare_and_set": (_replace, (KEY, WHICH, VALUE, TTL)),
        "delete": (_delete, (KEYS,)),
        "increment": (_increment, (KEY, st.sampled_from([1, -7, 0, 2**63 - 1]))),
        "touch": (_touch, (KEY, TTL)),
        "ttl": (_ttl, (KEY,)),
        "list": (_list, (PREFIX,)),
        "get_many": (_get_many, (KEYS,)),
        "clear": (_clear, ()),
    },
    ("put", "compare_and_set", "increment"),
    _state,
)
