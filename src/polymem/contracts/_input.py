"""What the API classes share: taking records apart, copying JSON, looping over pages (G-2, G-3)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any, Final, TypeVar

from polymem.contracts.filter import Filter
from polymem.core.codec import decode_json, encode_json
from polymem.core.page import Page
from polymem.core.text import check_key
from polymem.errors import StorageDataError

Item = TypeVar("Item")
PAGE: Final = 500
_SLICE: Final = 0.0002
"""Seconds of checking before other tasks get a turn."""
Where = Filter | Mapping[str, Any]
"""A filter in either form, see contracts/filter.py."""


async def stream(page: Callable[[str | None], Awaitable[Page[Item]]]) -> AsyncIterator[Item]:
    """Every item of a listing, one page at a time; no snapshot."""
    after: str | None = None
    while True:
        found = await page(after)
        for item in found.items:
            yield item
        if found.after is None:
            return
        after = found.after


def json_object(value: object, *, field: str) -> dict[str, Any]:
    """A copy of a JSON object, which the caller cannot change any more; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise StorageDataError(f"expected a mapping, got {type(value).__name__}", field=field)
    copied: dict[str, Any] = decode_json(encode_json(dict(value), field=field))
    return copied


def unique_ids(ids: object, *, field: str = "ids") -> list[str]:
    """Checked ids, each once, in the order given."""
    return list(dict.fromkeys(check_key(item, field=field) for item in several(ids, field=field)))


def several(values: object, *, field: str) -> Iterable[Any]:
    """An iterable that is not itself one string or mapping, the usual slip."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise StorageDataError(f"expected several items, got {type(values).__name__}", field=field)
    return values


async def all_checked(items: object, check: Callable[[Any], Item], *, field: str) -> list[Item]:
    """Each item as `check` gives it; now and then other tasks get a turn, so that bulk work stalls nobody."""
    found: list[Item] = []
    began = perf_counter()
    for item in several(items, field=field):
        found.append(check(item))
        if perf_counter() - began > _SLICE:
            await asyncio.sleep(0)
            began = perf_counter()
    return found


def members(item: object, *, required: Sequence[str], optional: Sequence[str], field: str) -> dict[str, Any]:
    """The members of a record given as a mapping, or as a tuple with the required ones first."""
    known = [*required, *optional]
    if isinstance(item, Mapping):
        found = dict(item)
    elif isinstance(item, tuple) and len(item) <= len(known):
        found = dict(zip(known, item, strict=False))
    else:
        raise StorageDataError(f"expected a tuple or mapping of {', '.join(known)}", field=field)
    for name in found.keys() - set(known):
        raise StorageDataError(f"unknown member; expected {', '.join(known)}", field=f"{field}.{name}")
    for name in required:
        if name not in found:
            raise StorageDataError("this member is missing", field=f"{field}.{name}")
    return found
