"""`load` and `export`: key-value records of a namespace from and to files (BLK-2)."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from polymem.cli import connection, output
from polymem.cli.invocation import Command, Invocation, pass_invocation
from polymem.contracts.bulk import ExportReport, LoadReport, OnError
from polymem.errors import StorageError
from polymem.jobs import bulk
from polymem.jobs._bulk_files import Compression, Format
from polymem.store import Store

_format: Final = click.option(
    "--format", type=click.Choice(["jsonl", "parquet"]), help="What the name says unless given."
)
_namespace: Final = click.option(
    "--namespace",
    "names",
    multiple=True,
    help="The namespace; repeat it for one inside another. The root unless given.",
)


@click.command(cls=Command)
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_namespace
@_format
@click.option("--skip", type=click.IntRange(min=0), default=0, show_default=True, help="Records to pass over.")
@click.option("--on-error", type=click.Choice(["stop", "collect"]), default="stop", show_default=True)
@click.option("--check-first", is_flag=True, help="Read all of it before anything is stored.")
@click.option("--dry-run", is_flag=True, help="Only read.")
@pass_invocation
def load(
    invocation: Invocation,
    /,
    *,
    path: Path,
    names: tuple[str, ...],
    format: Format | None,
    skip: int,
    on_error: OnError,
    check_first: bool,
    dry_run: bool,
) -> None:
    """Put the records of a file: JSON Lines (.jsonl, perhaps .gz or .zst) or Parquet.

    A line is {"key": ..., "value": ..., "expires_at": ...}; expires_at is an instant and may be left out. The columns of
    a Parquet file are called alike, with values as JSON text. Records go in by the thousand; running it again gives
    the same records, and --skip goes on where a run ended. With --on-error collect bad records are left out and
    named, and the exit code is 1.
    """
    if dry_run:
        invocation.url = "memory:"  # nothing is stored, so nothing need be configured or made
    seen = [LoadReport()]

    async def work() -> LoadReport:
        async with _store(invocation, names) as store:
            with output.progress(invocation) as bar:
                task = bar.add_task("0 records", total=100)

                def show(report: LoadReport) -> None:
                    seen[0] = report
                    bar.update(
                        task, completed=round(100 * (report.share or 0)), description=f"{report.position:,} records"
                    )

                return await bulk.load_file(
                    store.kv,
                    path,
                    format=format,
                    skip=skip,
                    on_error=on_error,
                    progress=show,
                    check_first=check_first,
                    dry_run=dry_run,
                )

    try:
        report = asyncio.run(work())
    except (StorageError, KeyboardInterrupt):
        if seen[0].position > skip:
            output.remark(f"{seen[0].position} records are done with; --skip {seen[0].position} goes on")
        raise
    _show(invocation, report)
    if report.failed:
        raise click.exceptions.Exit(1)


@click.command(cls=Command)
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@_namespace
@_format
@click.option("--compression", type=click.Choice(["none", "gzip", "zstd"]), help="What the name says unless given.")
@click.option("--prefix", default="", help="Only keys that start with it.")
@click.option("--force", is_flag=True, help="Overwrite the file if there is one.")
@pass_invocation
def export(
    invocation: Invocation,
    /,
    *,
    path: Path,
    names: tuple[str, ...],
    format: Format | None,
    compression: Compression | None,
    prefix: str,
    force: bool,
) -> None:
    """Write the records of a namespace to a file: JSON Lines (.jsonl, perhaps .gz or .zst) or Parquet.

    Expired records and those of namespaces inside it are left out. The file takes its name when it is whole.
    """

    async def work() -> ExportReport:
        async with _store(invocation, names, must_exist=True) as store:
            with output.progress(invocation) as bar:
                task = bar.add_task("records", total=await store.kv.count(prefix))
                return await bulk.export_file(
                    store.kv,
                    path,
                    format=format,
                    compression=compression,
                    prefix=prefix,
                    overwrite=force,
                    progress=lambda report: bar.update(task, completed=report.exported),
                )

    report = asdict(asyncio.run(work()))
    output.show(invocation, report, lambda: output.pairs(report))


def _store(invocation: Invocation, names: tuple[str, ...], *, must_exist: bool = False) -> Store:
    if invocation.tenant is not None:
        raise click.UsageError("--tenant is for memories; records have a --namespace")
    found = connection.store(connection.configuration(invocation), must_exist=must_exist)
    return found.namespace(*names) if names else found


def _show(invocation: Invocation, report: LoadReport) -> None:
    figures: dict[str, Any] = {**asdict(report), "errors": [bad._asdict() for bad in report.errors]}
    del figures["share"]
    shown = {name: figure for name, figure in figures.items() if name != "errors"}
    output.show(invocation, figures, lambda: output.pairs(shown))
    for bad in () if invocation.json else report.errors:
        output.remark(str(bad))
