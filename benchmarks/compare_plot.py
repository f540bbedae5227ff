"""The figures as small line charts: calls per second over the number of tasks, for each group, operation and size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare_table import Cell, sized
from matplotlib.figure import Figure

OURS = "#c0392b"
OTHERS = ("#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#7f7f7f")


def draw(cells: Sequence[Cell], path: Path) -> None:
    """One row for each group that was measured at several numbers of tasks."""
    single = [cell for cell in cells if cell.operation in {"get", "put"}]
    groups = list(dict.fromkeys(cell.group for cell in single))
    columns = list(dict.fromkeys((cell.operation, cell.size) for cell in single))
    columns.sort()
    figure = Figure(figsize=(3.1 * len(columns) + 2, 2.6 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), len(columns), squeeze=False)
    for row, group in zip(axes, groups, strict=True):
        for place, (operation, size) in zip(row, columns, strict=True):
            found = [c for c in single if (c.group, c.operation, c.size) == (group, operation, size)]
            _panel(place, found, f"{group}: {operation}, {sized(size)}")
        handles, labels = row[0].get_legend_handles_labels()
        row[-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=7, frameon=False)
    figure.suptitle("Calls per second by the number of tasks, median of the rounds; bars: least and greatest")
    figure.savefig(path)


def _panel(place: Any, cells: Sequence[Cell], title: str) -> None:
    place.set_title(title, fontsize=9)
    if not cells:
        place.set_axis_off()
        return
    sides = list(cells[0].rates)
    colours = iter(OTHERS)
    for side in sides:
        spreads = [cell.rate(side) for cell in cells]
        middle = [one.median for one in spreads]
        errors = [[one.median - one.low for one in spreads], [one.high - one.median for one in spreads]]
        ours = side == cells[0].ours
        place.errorbar(
            [cell.tasks for cell in cells], middle, yerr=errors, label=side, marker="o", markersize=3,
            color=OURS if ours else next(colours), linewidth=2 if ours else 1, elinewidth=0.7, zorder=3 if ours else 2,
        )  # fmt: skip
    place.set(xscale="log", yscale="log", xticks=[cell.tasks for cell in cells])
    place.set_xticks([], minor=True)
    place.set_xticklabels([str(cell.tasks) for cell in cells], fontsize=7)
    place.tick_params(axis="y", labelsize=7)
    place.grid(visible=True, which="major", linewidth=0.3)
