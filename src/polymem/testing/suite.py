"""The suite as pytest tests: `class TestAcme(ConformanceSuite): harness = AcmeHarness()`."""

import asyncio
from typing import Any, ClassVar

from polymem.testing.clause import Clause, clauses
from polymem.testing.harness import Harness, capabilities
from polymem.testing.run import run_clause


class ConformanceSuite:
    """One test for each clause that counts for the engine, and one comparison with the memory engine per contract.

    `examples` random sequences of operations are compared (1,000 with POLYMEM_NIGHTLY=1); 0 leaves that out.
    """

    harness: ClassVar[Harness]
    contracts: ClassVar[tuple[str, ...] | None] = None
    """Only these, where given."""
    examples: ClassVar[int] = 100

    @classmethod
    def pytest_generate_tests(cls, metafunc: Any) -> None:
        suite: type[ConformanceSuite] = metafunc.cls
        engine = asyncio.run(capabilities(suite.harness))
        chosen = clauses(engine, suite.contracts) if "clause" in metafunc.fixturenames else _models(suite, engine)
        name = "clause" if "clause" in metafunc.fixturenames else "model"
        metafunc.parametrize(name, chosen, ids=[c.id for c in chosen])

    def test_clause(self, clause: Clause) -> None:
        asyncio.run(run_clause(clause, self.harness))

    def test_model(self, model: Clause) -> None:
        asyncio.run(run_clause(model, self.harness))


def _models(suite: type[ConformanceSuite], engine: Any) -> list[Clause]:
    if not suite.examples:
        return []
    from polymem.testing.machine import model_clauses  # noqa: PLC0415 - needs Hypothesis

    return model_clauses(engine, suite.examples, suite.contracts)
