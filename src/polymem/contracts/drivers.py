"""What one engine can do in one namespace: the wiring and the declaration at once."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from polymem.contracts.blobs import BlobDriver
from polymem.contracts.events import EventsDriver
from polymem.contracts.graph import GraphDriver
from polymem.contracts.kv import KeyValueDriver
from polymem.contracts.query import QueryDriver
from polymem.contracts.sql import SqlDriver
from polymem.contracts.text import TextDriver
from polymem.contracts.transactions import TransactionDriver
from polymem.contracts.turns import TurnDriver
from polymem.contracts.vectors import VectorDriver


@dataclass(frozen=True, slots=True)
class Drivers:
    """One optional driver per contract; None: the engine has no such cell."""

    kv: KeyValueDriver | None = None
    query: QueryDriver | None = None
    turns: TurnDriver | None = None
    vectors: VectorDriver | None = None
    text: TextDriver | None = None
    graph: GraphDriver | None = None
    blobs: BlobDriver | None = None
    sql: SqlDriver | None = None
    transactions: TransactionDriver | None = None
    events: EventsDriver | None = None

    def features(self) -> dict[str, Any]:
        """The features of every contract that is there, by its name."""
        present = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: driver.features for name, driver in present if driver is not None}


Layer = Callable[[Drivers, str], Drivers]
"""Called with the drivers of a namespace and its encoded name.

Changes meaning: what a layer that alters data doesn't know is gone from its answer, so it fails closed.
"""

CONTRACTS = tuple(f.name for f in fields(Drivers))
