"""Runs the benchmarks one after another, saves what they say, and prints the figures that have a bar.

Alone on the machine, please: figures taken beside other work say little. With a data set (a LoCoMo file or BEAM
folder, `--recall`, may be repeated) recall is measured too, on real turns.
"""

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from report import WIDE, Figure, arguments, finish, right
from rich.console import Console
from rich.table import Table

from polymem.jobs.bench_recall import COLUMNS, RecallReport, bench_recall
from polymem.jobs.measure import Spread

HERE = Path(__file__).parent
QUICK = ("import_time", "guard", "sqlite_kv", "loop_lag", "two_processes", "crash")
LONG = ("recall_scale",)
RECALL_BARS = {"locomo": {"R@10": 0.73, "MRR": 0.50}, "beam": {"R@10": 0.54}}
WITH_DATASET = ("loop_lag", "recall_scale")


def main() -> None:
    options = parsed()
    failed = []
    for name in chosen(options):
        command = [sys.executable, str(HERE / f"{name}.py"), "--folder", str(options.folder)]
        command += ["--json", str(options.results / f"{name}.json")]
        command += [str(options.recall[0])] if options.recall and name in WITH_DATASET else []
        command += ["--cycles", str(options.cycles)] if name == "crash" else []
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    for path in options.recall:
        evidence(path, options)
    summary(options.results)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def parsed() -> argparse.Namespace:
    parser = arguments(__doc__ or "", rounds=None)
    parser.add_argument("--recall", type=Path, action="append", default=[], metavar="DATASET")
    parser.add_argument("--only", nargs="+", choices=(*QUICK, *LONG), help="just these")
    parser.add_argument("--long", action="store_true", help=f"{', '.join(LONG)} too (many minutes)")
    parser.add_argument("--cycles", type=int, default=20, help="of the crash benchmark (%(default)s)")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[str]:
    if options.only:
        return list(options.only)
    return [*QUICK, *(LONG if options.long else ())]


def evidence(path: Path, options: argparse.Namespace) -> None:
    """Evidence recall on one data set."""
    found = asyncio.run(bench_recall(path))
    table = Table(*COLUMNS, title=f"Evidence recall, {path.stem}", title_justify="left")
    for row in found.rows():
        table.add_row(*row)
    Console(width=WIDE, highlight=False).print(table)
    options.json = options.results / f"recall_{path.stem}.json"
    finish(f"Evidence recall, {path.stem}", recall_figures(path, found), options)


def recall_figures(path: Path, found: RecallReport) -> list[Figure]:
    bars = next((bars for name, bars in RECALL_BARS.items() if path.stem.startswith(name)), {})
    quality = {
        "R@5": found.overall.r5,
        "R@10": found.overall.r10,
        "MRR": found.overall.mrr,
        "nDCG@10": found.overall.ndcg10,
    }
    return [
        *(
            Figure(name, Spread(one.value, one.low, one.high, found.overall.questions), at_least=bars.get(name))
            for name, one in quality.items()
        ),
        Figure("questions", found.overall.questions),
        Figure("dropped evidence", found.dropped_evidence),
        Figure("recall p50", found.latency.p50, "ms"),
        Figure("recall p95", found.latency.p95, "ms"),
        Figure("ingest with embedding", found.ingest_rate, "turns/s"),
    ]  # fmt: skip


def summary(results: Path) -> None:
    """Every figure with a bar, from what is saved."""
    table = Table(
        "benchmark", "figure", *right("median", "min", "max"), "unit", "bar", "met", title="Bars", title_justify="left"
    )
    for title, figure in saved(results):
        if figure["met"] is not None:
            table.add_row(title, *_cells(figure))
    Console(width=WIDE + 40, highlight=False).print(table)


def saved(results: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(results.glob("*.json")):
        content = msgspec.json.decode(path.read_bytes())
        for figure in content["figures"]:
            yield content["title"], figure


def _cells(figure: dict[str, Any]) -> tuple[str, ...]:
    value = figure["value"]
    rounds = Spread(**value) if isinstance(value, dict) else value
    made = Figure(figure["name"], rounds, figure["unit"], figure["at_most"], figure["at_least"])
    return made.cells()


if __name__ == "__main__":
    main()
