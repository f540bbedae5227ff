"""Tables of records that may expire: see `engines/_tables/expiring.py`."""

from polymem.engines._tables.expiring import ExpiringTable, is_live

__all__ = ["ExpiringTable", "is_live"]
