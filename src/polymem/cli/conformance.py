"""`conformance`: the shipped suite against any engine."""

import asyncio
from typing import Any

import click

from polymem.cli import output
from polymem.cli.invocation import Command, Invocation, pass_invocation
from polymem.config.masking import mask_url
from polymem.contracts.drivers import CONTRACTS
from polymem.testing.harness import UrlHarness
from polymem.testing.report import Report, Result
from polymem.testing.run import run


@click.command(cls=Command)
@click.argument("target", metavar="URL")
@click.option(
    "--contract", "contracts", multiple=True, type=click.Choice(CONTRACTS), help="Only this; may be repeated."
)
@click.option("--examples", type=click.IntRange(min=0), default=0, show_default=True,
              help="Random sequences per contract to compare with the memory engine; needs hypothesis.")  # fmt: skip
@pass_invocation
def conformance(invocation: Invocation, target: str, contracts: tuple[str, ...], examples: int) -> None:
    """Run the conformance suite against an engine.

    It works in namespaces of its own, which it drops, so the database may be one that others use too.
    """
    invocation.engine = mask_url(target)
    with output.progress(invocation) as bar:
        task = bar.add_task("clauses", total=None)

        def heard(result: Result) -> None:
            bar.update(task, advance=1, description=result.clause.contract)

        report = asyncio.run(run(UrlHarness(target), contracts or None, heard, examples=examples))
    output.show(invocation, _summary(report), lambda: _show_report(report))
    if not report.ok:
        raise click.exceptions.Exit(1)


def _summary(report: Report) -> dict[str, Any]:
    cells = {name: {"passed": passed, "clauses": total} for name, (passed, total) in report.cells.items()}
    failures = [{"clause": r.clause.id, "contract": r.clause.contract, "reason": r.reason} for r in report.failures]
    return {"engine": report.engine, "ok": report.ok, "cells": cells, "failures": failures}


def _show_report(report: Report) -> None:
    output.table(("contract", "passed", "clauses"), [(name, *counts) for name, counts in report.cells.items()])
    for failure in report.failures:
        click.echo(f"failed: {failure.clause.contract} {failure.clause.id}: {failure.reason}")
    click.echo(f"{report.engine}: {'conforms' if report.ok else 'does not conform'}")
