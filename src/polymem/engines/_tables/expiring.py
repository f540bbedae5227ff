"""Tables of records that may expire."""

from typing import Protocol, TypeVar

from polymem.engines._tables.state import K, Table


class Perishable(Protocol):
    """A record that may expire."""

    @property
    def expires_at(self) -> int | None: ...


P = TypeVar("P", bound=Perishable)


def is_live(record: Perishable, now: int) -> bool:
    """An expired record is absent at once, swept or not (G-6)."""
    return record.expires_at is None or record.expires_at > now


class ExpiringTable(Table[K, P]):
    """Records that may expire."""

    def __init__(self) -> None:
        super().__init__()
        self._soonest: float = float("inf")
        """No record expires before; it spares tables without expired records the search for them."""

    def put(self, key: K, record: P) -> None:
        super().put(key, record)
        if record.expires_at is not None and record.expires_at < self._soonest:
            self._soonest = record.expires_at

    def live(self, key: K, now: int) -> P | None:
        record = self.rows.get(key)
        return record if record is not None and is_live(record, now) else None

    def pop_live(self, key: K, now: int) -> bool:
        """Remove a record; whether it was there for its readers."""
        record = self.pop(key)
        return record is not None and is_live(record, now)

    def held(self, now: int) -> int:
        if self._soonest > now:
            return len(self.rows)
        return sum(is_live(record, now) for record in self.rows.values())

    def expire(self, now: int, limit: int) -> int:
        if self._soonest > now:
            return 0
        expired = [key for key, record in self.rows.items() if not is_live(record, now)]
        for key in expired[:limit]:
            self.pop(key)
        instants = (record.expires_at for record in self.rows.values() if record.expires_at is not None)
        self._soonest = min(instants, default=float("inf"))
        return len(expired[:limit])
