"""How results are shown: JSON where asked for, otherwise text and tables. Remarks go to standard error."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from polymem.cli.invocation import Invocation

_WIDE = 160
"""Columns where the output is no terminal, so that a file or pipe gets whole lines."""


def show(invocation: Invocation, result: object, text: Callable[[], None]) -> None:
    """Print `result` as JSON, or call `text`, which prints it for people."""
    if invocation.json:
        click.echo(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())
    else:
        text()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """A table on standard output; cells are plain text, whatever brackets they hold."""
    made = Table(*columns, title=title, title_justify="left")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    _console().print(made)


def pairs(values: dict[str, Any]) -> None:
    """Names and values, one line each, without those that are None; collections without their brackets."""
    for name, value in values.items():
        if value is not None:
            click.echo(f"{name}: {_plain(value)}")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name} ({_plain(one)})" if one and isinstance(one, Mapping) else f"{name} {_plain(one)}"
            for name, one in value.items()
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_plain(one)) for one in value)
    return round(value, 3) if isinstance(value, float) else value


def remark(text: str) -> None:
    """Something worth knowing that is not part of the result."""
    click.echo(f"note: {text}", err=True)


def progress(invocation: Invocation, *, live: bool = True) -> Progress:
    """A bar on standard error, silent where nobody watches; `live=False`: drawn when told, by no thread that disturbs."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    silent = invocation.json or not console.is_terminal
    return Progress(*columns, console=console, disable=silent, transient=True, auto_refresh=live)


def _console() -> Console:
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE, highlight=False)
