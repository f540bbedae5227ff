"""A snapshot of metrics in other formats (MET-2)."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

Snapshot = dict[str, Any]
_CSV_COLUMNS: Final = ("timestamp", "adapter", "operation", "total_count", "success_count", "avg_latency_ms")
_STATUSES: Final = (("success", "success_count"), ("error", "error_count"))


def as_csv(snapshot: Snapshot) -> str:
    """One line an operation; a figure there is none of is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    start = (snapshot["timestamp"], snapshot["adapter_type"])
    for name, figures in snapshot["operations"].items():
        writer.writerow([*start, name, figures["total_count"], figures["success_count"], _latency(figures, "avg")])
    return out.getvalue()


def as_markdown(snapshot: Snapshot) -> str:
    """A table of operations."""
    lines = ["| Operation | Total | Success Rate | Avg Latency (ms) | P95 Latency (ms) |", "|---|---:|---:|---:|---:|"]
    for name, figures in snapshot["operations"].items():
        rate = figures["success_rate"]
        cells = (
            name,
            figures["total_count"],
            "" if rate is None else f"{rate:.1%}",
            _latency(figures, "avg"),
            _latency(figures, "p95"),
        )
        lines.append(f"| {' | '.join('' if cell is None else str(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def as_prometheus(snapshot: Snapshot) -> str:
    """The text exposition format 0.0.4, as scraped from `/metrics`."""
    families = (
        ("storage_operations_total", "counter", "Calls that ended, by outcome.", _operations),
        ("storage_operations_cancelled_total", "counter", "Calls that were cancelled.", _field("cancelled_count")),
        ("storage_operations_in_flight", "gauge", "Calls under way.", _field("in_flight")),
        ("storage_operation_bytes_total", "counter", "Bytes of values moved, where counted.", _field("bytes")),
        ("storage_operation_duration_seconds", "histogram", "How long calls took.", _durations),
        ("storage_errors_total", "counter", "Failed calls, by type of error.", _errors),
        ("storage_pool_connections", "gauge", "Connections and callers waiting for one, by state.", _pool),
        ("storage_uptime_seconds", "gauge", "Seconds since counting began.", _uptime),
    )
    lines: list[str] = []
    for name, kind, meaning, samples in families:
        found = [f"{name}{line}" for line in samples(snapshot)]
        if found:
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", *found]
    return "\n".join(lines) + "\n"


def _operations(snapshot: Snapshot) -> Iterator[str]:
    for name, figures in snapshot["operations"].items():
        for status, count in _STATUSES:
            yield _sample(figures[count], adapter=snapshot["adapter_type"], operation=name, status=status)


def _field(field: str) -> Callable[[Snapshot], Iterator[str]]:
    def samples(snapshot: Snapshot) -> Iterator[str]:
        for name, figures in snapshot["operations"].items():
            if figures[field] is not None:
                yield _sample(figures[field], adapter=snapshot["adapter_type"], operation=name)

    return samples


def _durations(snapshot: Snapshot) -> Iterator[str]:
    for name, figures in snapshot["operations"].items():
        labels = {"adapter": snapshot["adapter_type"], "operation": name}
        histogram = figures["histogram"]
        for bound, count in histogram["buckets"].items():
            yield f"_bucket{_sample(count, **labels, le=bound)}"
        yield f"_sum{_sample(histogram['sum'], **labels)}"
        yield f"_count{_sample(histogram['count'], **labels)}"


def _errors(snapshot: Snapshot) -> Iterator[str]:
    for kind, count in snapshot["errors"]["by_type"].items():
        yield _sample(count, adapter=snapshot["adapter_type"], type=kind)


def _pool(snapshot: Snapshot) -> Iterator[str]:
    pool: Mapping[str, int] | None = snapshot["connection"]["pool"]
    for state, count in (pool or {}).items():
        yield _sample(count, adapter=snapshot["adapter_type"], state=state)


def _uptime(snapshot: Snapshot) -> Iterator[str]:
    yield _sample(snapshot["uptime_seconds"], adapter=snapshot["adapter_type"])


def _sample(value: float, /, **labels: str) -> str:
    shown = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
    return f"{{{shown}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _latency(figures: Mapping[str, Any], name: str) -> float | None:
    latencies: Mapping[str, float] | None = figures["latency_ms"]
    return None if latencies is None else latencies.get(name)


EXPORTS: Final[Mapping[str, Callable[[Snapshot], Any]]] = {
    "dict": lambda snapshot: snapshot,
    "json": json.dumps,
    "csv": as_csv,
    "markdown": as_markdown,
    "prometheus": as_prometheus,
}
