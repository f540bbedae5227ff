"""Queries over the records of a dict: the executable specification of `contracts.query`."""

from polymem.engines._tables.query import TableQuery


class MemoryQuery(TableQuery):
    """Every query looks at every document of its prefix; there are no indexes."""

    __slots__ = ()
