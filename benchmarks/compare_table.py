"""The figures as Markdown, and the list of the cells in which Polymem is behind."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from compare_groups import Group

from polymem.jobs.measure import Spread, ratios, spread


@dataclass(frozen=True, slots=True)
class Cell:
    """The calls per second of every side in every round, for one piece of work."""

    group: str
    size: int
    operation: str
    tasks: int
    ours: str
    rates: Mapping[str, Sequence[float]]

    @property
    def heading(self) -> str:
        return self.operation if self.operation.endswith("_many") else f"{self.operation} x{self.tasks}"

    def rate(self, side: str) -> Spread:
        return spread(self.rates[side])

    def ratio(self, side: str) -> Spread:
        """How many times as fast as that side ours is, round by round."""
        return ratios(self.rates[self.ours], self.rates[side])


def short(rate: float) -> str:
    """Three digits at most: 950, 4.2k, 87k, 1.2M."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if rate >= unit:
            return f"{rate / unit:.{0 if rate >= 10 * unit else 1}f}{name}"
    return f"{rate:.{0 if rate >= 10 else 1}f}"


def sized(size: int) -> str:
    return {100: "100 B", 10_000: "10 kB", 1_000_000: "1 MB"}.get(size, f"{size:,} B")


def tables(groups: Iterable[Group], cells: Sequence[Cell]) -> str:
    """For each group who takes part, and a table for each size."""
    return "\n".join(line for group in groups for line in _group(group, [c for c in cells if c.group == group.name]))


def _group(group: Group, cells: Sequence[Cell]) -> Iterator[str]:
    yield f"\n### {group.name}\n\n{group.promise}\n"
    yield from (f"- **{side.name}**: {side.note}" for side in group.sides(group.url) if side.note)
    for size in dict.fromkeys(cell.size for cell in cells):
        found = [cell for cell in cells if cell.size == size]
        yield f"\n| {sized(size)}, calls/s | {' | '.join(cell.heading for cell in found)} |"
        yield f"| --- |{' ---: |' * len(found)}"
        for side in dict.fromkeys(name for cell in found for name in cell.rates):
            yield f"| {side} | {' | '.join(_shown(cell, side) for cell in found)} |"


def _shown(cell: Cell, side: str) -> str:
    if side not in cell.rates:
        return ""
    rate = short(cell.rate(side).median)
    return rate if side == cell.ours else f"{rate} ({cell.ratio(side).median:.2g}x)"


def verdict(groups: Iterable[Group], cells: Sequence[Cell]) -> str:
    """In how many cells Polymem is ahead, and each in which it is behind: by how much, and why."""
    lines: list[str] = []
    compared = {"peer": [0, 0], "raw": [0, 0]}
    for group in groups:
        for side in group.sides(group.url):
            if side.kind == "polymem":
                continue
            theirs = [cell for cell in cells if cell.group == group.name and side.name in cell.rates]
            lost = [cell for cell in theirs if cell.ratio(side.name).median < 1]
            compared[side.kind][0] += len(theirs) - len(lost)
            compared[side.kind][1] += len(theirs)
            if lost:
                lines.append(f"- **{side.name}** ({group.name}): {side.why or 'not known'}.")
                lines += [f"  - {sized(c.size)}, {c.heading}: {_spread(c.ratio(side.name))}" for c in lost]
    (peers, of_peers), (raw, of_raw) = compared.values()
    return "\n".join((
        "\n### The verdict\n",
        f"Ahead of the peers in {peers} of {of_peers} cells, of drivers used by hand in {raw} of {of_raw}.",
        "Behind in these, by Polymem's rate over the other's: median (least to greatest of the rounds).\n",
        *lines,
    ))  # fmt: skip


def _spread(ratio: Spread) -> str:
    level = ", level within its spread" if ratio.high >= 1 else ""
    return f"{ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f}){level}"
