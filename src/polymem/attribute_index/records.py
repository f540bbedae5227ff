"""How an index is stored: format 1.

In the namespace `attribute_index/<name>` the key `header` holds `{"format": 1}`; in `entities` below it each entity
is one record under its own id: `{"tags": ["new", "short"], "year": [2024]}`. These records are the truth; the
inverted index is built from them in memory. Any change of this layout gets a new format number.
"""

from typing import Any, Final

from polymem.contracts.kv import KeyValue
from polymem.errors import StorageConflictError, StorageCorruptError
from polymem.store import Store

FORMAT: Final = 1
NAMESPACE: Final = "attribute_index"
_HEADER: Final = "header"


class Records:
    """The stored side of one index."""

    def __init__(self, store: Store, name: str) -> None:
        self._header: KeyValue[Any] = store.namespace(NAMESPACE, name).kv
        self.entities: KeyValue[Any] = store.namespace(NAMESPACE, name, "entities").kv
        self._marked = False

    async def check_format(self) -> None:
        """Refuse what a newer version wrote."""
        header = await self._header.get(_HEADER)
        if header is None:
            return
        found = header.get("format") if isinstance(header, dict) else None
        if type(found) is not int:
            raise StorageCorruptError("the header of the attribute index is damaged", field="format")
        if found > FORMAT:
            raise StorageCorruptError(
                f"the attribute index has format {found}, written by a newer version; this one reads up to {FORMAT}: "
                "upgrade polymem. It was left untouched",
                field="format",
            )
        self._marked = True

    async def mark_format(self) -> None:
        """Write the header before the first entity."""
        if self._marked:
            return
        try:
            await self._header.create(_HEADER, {"format": FORMAT})
        except StorageConflictError:
            await self.check_format()
        self._marked = True
