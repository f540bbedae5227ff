"""`bench recall` and `bench kv`: measured in a place of their own, dropped at the end."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from polymem.cli import output
from polymem.cli.invocation import Command, Invocation, pass_invocation
from polymem.cli.parameters import COUNT
from polymem.jobs import bench_kv, bench_recall
from polymem.jobs.bench_recall import RecallReport
from polymem.jobs.conversations import Layout

_BEST_OF: Final = 10


@click.group()
def bench() -> None:
    """Measure: a temporary SQLite file unless --url names an engine."""


@bench.command(cls=Command)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--layout", type=click.Choice([layout.value for layout in Layout]), help="Detected unless given.")
@click.option(
    "--limit", type=click.IntRange(min=_BEST_OF), default=_BEST_OF, show_default=True, help="Hits a question."
)
@click.option("--words-only", is_flag=True, help="Without the embedder.")
@pass_invocation
def recall(invocation: Invocation, path: Path, layout: str | None, limit: int, words_only: bool) -> None:
    """Say whether recall finds the turns that hold the answers of an evaluation set (LoCoMo, BEAM)."""
    with output.progress(invocation) as bar:
        task = bar.add_task("conversations", total=None)
        report = asyncio.run(
            bench_recall.bench_recall(
                path,
                url=invocation.url,
                layout=Layout(layout) if layout else None,
                limit=limit,
                embed=None if words_only else "static",
                on_conversation=lambda name: bar.update(task, advance=1, description=name),
            )
        )
    output.show(invocation, asdict(report), lambda: _show_recall(report))


@bench.command(cls=Command)
@click.option("--tasks", type=COUNT, multiple=True, default=bench_kv.TASKS, show_default=True, help="May be repeated.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True)
@click.option("--batch", type=COUNT, default=100, show_default=True, help="Records of put_many and get_many.")
@pass_invocation
def kv(invocation: Invocation, tasks: tuple[int, ...], seconds: float, batch: int) -> None:
    """Measure how fast key-value calls are; --seconds for each operation and number of tasks."""
    with output.progress(invocation, live=False) as bar:
        task = bar.add_task("measuring", total=len(bench_kv.OPERATIONS) * len(tasks))
        report = asyncio.run(
            bench_kv.bench_kv(
                invocation.url, tasks=tasks, seconds=seconds, batch=batch,
                on_figures=lambda figures: bar.update(task, advance=1, description=figures.operation, refresh=True),
            )
        )  # fmt: skip
    title = f"{report.engine}, {report.batch} records a batch, latencies in ms"
    output.show(invocation, asdict(report), lambda: output.table(bench_kv.COLUMNS, report.rows(), title=title))


def _show_recall(report: RecallReport) -> None:
    output.table(bench_recall.COLUMNS, report.rows(), title="with 95 % bootstrap bounds")
    output.pairs(
        {
            "conversations": report.conversations,
            "turns": report.turns,
            "embedding": report.embedder or "none, words alone",
            "ingest": f"{report.ingest_rate:,.0f} turns/s",
            "recall": f"p50 {report.latency.p50:.1f} ms, p95 {report.latency.p95:.1f} ms, p99 {report.latency.p99:.1f} ms",
            "questions without evidence": report.without_evidence,
            "evidence dropped": report.dropped_evidence,
        }
    )
