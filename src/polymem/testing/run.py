"""Run the suite without pytest: the body of `polymem conformance <url>`."""

import asyncio
import time
from collections.abc import Callable, Collection

from polymem.contracts.drivers import CONTRACTS
from polymem.errors import StorageDataError, StorageQueryError
from polymem.testing.clause import Clause, clauses
from polymem.testing.harness import Harness, capabilities
from polymem.testing.kit import Kit
from polymem.testing.report import Report, Result


async def run(
    harness: Harness,
    contracts: Collection[str] | None = None,
    on_result: Callable[[Result], None] | None = None,
    *,
    examples: int = 0,
) -> Report:
    """Run every clause that counts for the engine, of all contracts or the named ones; the report.

    "engine" stands for the clauses of no contract. `on_result` hears of each clause as it ends. With `examples` above 0 that many random sequences of operations per
    contract are compared with the memory engine as well, which needs Hypothesis.
    """
    _check(contracts)
    engine = await capabilities(harness)
    report = Report(engine.engine)
    for wanted in clauses(engine, contracts):
        _note(report, await _timed(wanted, harness), on_result)
    if examples:
        from polymem.testing.machine import model_clauses  # noqa: PLC0415 - needs Hypothesis

        for model in model_clauses(engine, examples, contracts):
            _note(report, await _timed(model, harness), on_result)
    return report


async def run_clause(wanted: Clause, harness: Harness) -> None:
    """One clause on a store of its own; raises what it raises, and leaves nothing behind."""
    kit = Kit(harness)
    async with asyncio.timeout(harness.timeout * wanted.patience):
        await kit.start()
        try:
            await wanted.run(kit)
        finally:
            await kit.finish()


async def _timed(wanted: Clause, harness: Harness) -> Result:
    started = time.perf_counter()
    try:
        await run_clause(wanted, harness)
    except (Exception, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # the run itself is to end
        return Result(wanted, time.perf_counter() - started, error)
    return Result(wanted, time.perf_counter() - started)


def _note(report: Report, result: Result, on_result: Callable[[Result], None] | None) -> None:
    report.results.append(result)
    if on_result is not None:
        on_result(result)


def _check(contracts: Collection[str] | None) -> None:
    if not __debug__:
        raise StorageQueryError("python -O removes the checks of the suite; run it without")
    for name in contracts or ():
        if name not in ("engine", *CONTRACTS):
            raise StorageDataError(f"expected some of engine, {', '.join(CONTRACTS)}", field="contracts")
