"""What clauses say of errors and values; plain `assert` says the rest."""

import json
from collections.abc import AsyncIterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from polymem.errors import StorageError

Item = TypeVar("Item")


class Caught:
    """The error that was expected."""

    error: StorageError


@contextmanager
def refused(kind: type[StorageError], *, field: str | None = None) -> Iterator[Caught]:
    """The block must raise exactly this kind of public error, blaming `field` or something inside it."""
    caught = Caught()
    try:
        yield caught
    except StorageError as error:
        public = next(cls for cls in type(error).__mro__ if cls.__module__ == StorageError.__module__)
        assert public is kind, f"expected {kind.__name__}, got {type(error).__name__}: {error}"  # noqa: PT017 - runs without pytest
        _check_field(error.field, field)
        caught.error = error
    else:
        raise AssertionError(f"expected {kind.__name__}, nothing was raised")


def _check_field(blamed: str | None, field: str | None) -> None:
    if field is not None:
        inside = blamed is not None and blamed.startswith((f"{field}.", f"{field}[", f"{field} "))
        assert blamed == field or inside, f"expected the field {field!r} to be blamed, not {blamed!r}"


def same(left: Any, right: Any) -> bool:
    """Equal as JSON: true is not 1, and 1.0 is not 1; the order of keys does not matter."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


async def listed(items: AsyncIterable[Item]) -> list[Item]:
    return [item async for item in items]
