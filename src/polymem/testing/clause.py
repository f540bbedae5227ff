"""A clause: one thing an engine must do, and for which engines it counts."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from inspect import getdoc
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from polymem.testing.kit import Kit

Run = Callable[["Kit"], Awaitable[None]]
Needs = Callable[[Any], bool]
_clauses: Final[dict[str, "Clause"]] = {}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What decides which clauses an engine is run against."""

    engine: str
    features: dict[str, Any]
    """The features of every contract it offers, by contract; "engine" stands for what has no contract."""
    shared: bool
    """A second instance can be opened beside the first and works on the same data."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A plain async function on a `Kit`, filed under a contract; the id is `contract.name`."""

    id: str
    contract: str
    run: Run
    needs: Needs | None = None
    """Asked with the features of the contract."""
    uses: tuple[str, ...] = ()
    """Further contracts it needs, or "shared"."""
    patience: float = 1.0
    """How many times longer than others it may take."""

    @property
    def says(self) -> str:
        """What must hold, in words."""
        return getdoc(self.run) or self.id

    def applies(self, engine: Capabilities) -> bool:
        if not all(self._available(name, engine) for name in (self.contract, *self.uses)):
            return False
        return self.needs is None or bool(self.needs(engine.features[self.contract]))

    def _available(self, name: str, engine: Capabilities) -> bool:
        return engine.shared if name == "shared" else name in engine.features


def clause(
    contract: str, *, id: str | None = None, needs: Needs | None = None, uses: Collection[str] = ()
) -> Callable[[Run], Run]:
    """File a function as a clause of a contract; without `id` it is called as the function is."""

    def register(run: Run) -> Run:
        called = id or getattr(run, "__name__", "").replace("_", "-")
        name = f"{contract}.{called}"
        if name in _clauses:
            raise ValueError(f"there are two clauses {name}")
        _clauses[name] = Clause(name, contract, run, needs, tuple(uses))
        return run

    return register


def clauses(engine: Capabilities, contracts: Collection[str] | None = None) -> list[Clause]:
    """Every clause that counts for an engine, by contract; those of others do not exist for it."""
    package = import_module("polymem.testing.clauses")
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    wanted = [c for c in _clauses.values() if contracts is None or c.contract in contracts]
    return sorted((c for c in wanted if c.applies(engine)), key=lambda c: c.contract)
