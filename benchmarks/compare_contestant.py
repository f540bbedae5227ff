"""What a side of the comparison is: a store that takes JSON documents under keys, and what it promises for them."""

from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["polymem", "raw", "peer"]
"""Ours, a driver used by hand, or another library."""


class Contestant(Protocol):
    """Opened on a folder of its own. Every `put` takes the same documents; every `get` gives an equal one.

    It may have `get_many(keys)`, giving a mapping, and `put_many(mapping)` too.
    """

    name: str
    kind: Kind
    note: str
    """How it encodes, where it waits, and what else its figures depend on."""
    why: str
    """Why it may be ahead of Polymem; printed where it is."""

    async def open(self, folder: Path) -> None: ...
    async def close(self) -> None: ...
    async def get(self, key: str) -> Any: ...
    async def put(self, key: str, value: dict[str, Any]) -> object: ...


class Described:
    """The words about a contestant, for those that need few."""

    name: str
    kind: Kind = "peer"
    note: str = ""
    why: str = ""

    async def close(self) -> None:
        return
