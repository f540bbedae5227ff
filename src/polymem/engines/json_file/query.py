"""Queries over the records in the file: all of them are in memory, so it is the oracle that answers (QRY-5)."""

from polymem.engines._tables.query import TableQuery


class JsonFileQuery(TableQuery):
    """Sees what is saved, and inside a transaction its own writes too."""

    __slots__ = ()
