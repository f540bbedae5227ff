"""One page of a listing: drivers have no streams, the API classes loop over pages."""

from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item", covariant=True)  # noqa: PLC0105 - the item of a page is what it is


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """`items` in order and the key to continue after, None at the end."""

    items: list[Item]
    after: str | None
