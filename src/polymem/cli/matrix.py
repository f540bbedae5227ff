"""What each engine can do, read off its drivers: printed by `polymem doctor`, and the README's table."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Final, NamedTuple

from polymem.contracts.drivers import CONTRACTS, Drivers
from polymem.core.registry import create_engine
from polymem.errors import StorageUnsupportedError

_URLS: Final = {
    "memory": "memory:",
    "json_file": "file:never-opened.json",
    "sqlite": "sqlite:///never-opened.db",
    "postgres": "postgresql://never-opened",
    "redis": "redis://never-opened",
}
Features = dict[str, dict[str, object]]


def declared() -> dict[str, Features]:
    """What each engine declares before it is opened, by contract; engines whose client is not installed are left out.

    A server may turn out to have less: PostgreSQL without pgvector, a Redis Cluster.
    """
    found: dict[str, Features] = {}
    for name, url in _URLS.items():
        with suppress(StorageUnsupportedError):
            drivers: Drivers = create_engine(url).drivers("")
            found[name] = {contract: asdict(features) for contract, features in drivers.features().items()}
    return found


class Capability(NamedTuple):
    """A contract, or one feature of it, and what each engine says; None where it has no such contract."""

    contract: str
    feature: str | None
    engines: dict[str, object]


def capability_matrix() -> list[Capability]:
    """One row per contract and one per feature; no I/O."""
    engines = declared()
    rows: list[Capability] = []
    for contract in CONTRACTS:
        cells = {name: features.get(contract) for name, features in engines.items()}
        rows.append(Capability(contract, None, {name: cell is not None for name, cell in cells.items()}))
        names = dict.fromkeys(feature for cell in cells.values() for feature in cell or ())
        rows.extend(
            Capability(contract, feature, {n: (cell or {}).get(feature) for n, cell in cells.items()})
            for feature in names
        )
    return rows


def as_cells(rows: Sequence[Capability]) -> list[tuple[str, ...]]:
    """The rows as text: capability, then one cell per engine."""
    return [
        (
            row.contract if row.feature is None else f"{row.contract}: {row.feature}",
            *map(_cell, row.engines.values()),
        )
        for row in rows
    ]


def as_markdown() -> str:
    """The README's table: one row per contract, in each engine's cell the features that it has."""
    engines = declared()
    rows = [(contract, *(_summary(features.get(contract)) for features in engines.values())) for contract in CONTRACTS]
    lines = [("contract", *engines), ("---",) * (len(engines) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _summary(features: dict[str, object] | None) -> str:
    if features is None:
        return "no"
    said = [name if value is True else f"{name} {_cell(value)}" for name, value in features.items() if value]
    return ", ".join(said) or "yes"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list, set, frozenset)):
        return str(len(value))
    return "" if value is None else str(value)
