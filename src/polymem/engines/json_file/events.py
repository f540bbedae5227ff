"""Changes of key-value records (EVT-1)."""

from polymem.engines._tables.events import TableEvents


class JsonFileEvents(TableEvents):
    """The latest changes, for as long as the engine is open; no other process can write meanwhile."""
