"""Changes of key-value records (EVT-1)."""

from polymem.engines._tables.events import TableEvents


class MemoryEvents(TableEvents):
    """The latest changes, for as long as the engine is open; nobody else can write."""
