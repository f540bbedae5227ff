"""What a run of the suite found."""

import linecache
import traceback
from dataclasses import dataclass, field

from polymem.testing.clause import Clause


@dataclass(frozen=True, slots=True)
class Result:
    """One clause run against one engine."""

    clause: Clause
    seconds: float
    error: BaseException | None = None

    @property
    def passed(self) -> bool:
        return self.error is None

    @property
    def reason(self) -> str:
        """Why it failed: the error and the line of the clause; empty where it passed."""
        if self.error is None:
            return ""
        what = str(self.error) or type(self.error).__name__
        notes = " ".join(" ".join(getattr(self.error, "__notes__", [])).split())
        return f"{what.splitlines()[0]} ({_line(self.error)}) {notes}".rstrip()


@dataclass(slots=True)
class Report:
    """Every clause that counts for an engine, with its result."""

    engine: str
    results: list[Result] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.results) and not self.failures

    @property
    def failures(self) -> list[Result]:
        return [result for result in self.results if not result.passed]

    @property
    def cells(self) -> dict[str, tuple[int, int]]:
        """By contract: how many clauses passed, and how many there are."""
        counts: dict[str, tuple[int, int]] = {}
        for result in self.results:
            passed, total = counts.get(result.clause.contract, (0, 0))
            counts[result.clause.contract] = passed + result.passed, total + 1
        return counts


def _line(error: BaseException) -> str:
    """The innermost line within a clause, as it reads; an assertion without pytest has no other message."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "clauses" in f.filename] or [
        *traceback.extract_tb(error.__traceback__)
    ]
    if not frames:
        return "no line"
    file, number = frames[-1].filename, frames[-1].lineno or 0
    return f"{file.rpartition('/')[2]}:{number}: {linecache.getline(file, number).strip()}"
