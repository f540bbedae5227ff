"""What the engine holds: see `engines/_tables/state.py`."""

from polymem.engines._tables.state import K, Kept, R, Table, Tables, detached, page_of, starting

__all__ = ["K", "Kept", "R", "Table", "Tables", "detached", "page_of", "starting"]
