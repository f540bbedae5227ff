"""What every benchmark prints and saves: figures, the bars they are held to, and the machine they come from."""

import argparse
import os
import platform
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import apsw
import msgspec
from rich.console import Console
from rich.table import Table

from polymem.jobs.measure import ROUNDS, Spread

WIDE = 140


@dataclass(frozen=True, slots=True)
class Figure:
    """One line: a number, or the spread of several rounds, judged by its median where there is a bar."""

    name: str
    value: float | Spread
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def median(self) -> float:
        return self.value.median if isinstance(self.value, Spread) else self.value

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None without one."""
        if self.at_most is not None:
            return self.median <= self.at_most
        return None if self.at_least is None else self.median >= self.at_least

    def cells(self) -> tuple[str, ...]:
        low, high = (shown(self.value.low), shown(self.value.high)) if isinstance(self.value, Spread) else ("", "")
        return (
            self.name,
            shown(self.median),
            low,
            high,
            self.unit,
            self.bar,
            {None: "", True: "yes", False: "NO"}[self.met],
        )

    @property
    def bar(self) -> str:
        if self.at_most is not None:
            return f"<= {shown(self.at_most)}"
        return "" if self.at_least is None else f">= {shown(self.at_least)}"


def shown(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}"


def arguments(description: str, *, rounds: int | None = ROUNDS) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where database files are made"
    )
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds (%(default)s)")
    return parser


def finish(title: str, figures: Iterable[Figure], options: argparse.Namespace) -> None:
    """Print the table; save it where asked."""
    found = list(figures)
    table = Table("figure", *(right("median", "min", "max")), "unit", "bar", "met", title=title, title_justify="left")
    for figure in found:
        table.add_row(*figure.cells())
    Console(width=WIDE, highlight=False).print(table)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"title": title, "machine": machine(options.folder), "figures": [_saved(figure) for figure in found]}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def right(*names: str) -> list[Any]:
    from rich.table import Column

    return [Column(name, justify="right") for name in names]


def _saved(figure: Figure) -> dict[str, Any]:
    return {**asdict(figure), "met": figure.met}


def machine(folder: Path) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "polymem": version("polymem"),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "filesystem": filesystem(folder),
    }


def filesystem(folder: Path) -> str:
    """The kind of file system; tmpfs syncs for nothing, so durable figures from it mean little."""
    best, kind, real = "", "unknown", folder.resolve()
    mounts = Path("/proc/mounts")
    for line in mounts.read_text().splitlines() if mounts.exists() else ():
        _, mount, found, *_ = line.split(" ")
        if len(mount) >= len(best) and real.is_relative_to(mount):
            best, kind = mount, found
    return kind


def rss_mb(pid: int | str = "self", what: str = "VmRSS") -> float:
    """Resident memory of a process in MB; `VmHWM` is the most it has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(what))
