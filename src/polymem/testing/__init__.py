"""The conformance suite: what every engine must do, as clauses that any engine can be run against.

With pytest, from anywhere::

    from polymem.testing import ConformanceSuite, UrlHarness

    class TestAcme(ConformanceSuite):
        harness = UrlHarness("acme://localhost/test")

Without pytest: `polymem conformance <url>`, or `await run(harness)` of `polymem.testing.run`.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polymem.core.clock import ManualClock
    from polymem.testing.clause import Clause
    from polymem.testing.faults import Fault, Faults
    from polymem.testing.harness import EngineHarness, Harness, UrlHarness
    from polymem.testing.kit import Kit
    from polymem.testing.report import Report, Result
    from polymem.testing.suite import ConformanceSuite

if "pytest" in sys.modules:  # so that a failed assertion in a clause shows its values
    sys.modules["pytest"].register_assert_rewrite("polymem.testing.clauses", "polymem.testing.expect")

_HOMES = {
    "Clause": "polymem.testing.clause",
    "ConformanceSuite": "polymem.testing.suite",
    "EngineHarness": "polymem.testing.harness",
    "Fault": "polymem.testing.faults",
    "Faults": "polymem.testing.faults",
    "Harness": "polymem.testing.harness",
    "Kit": "polymem.testing.kit",
    "ManualClock": "polymem.core.clock",
    "Report": "polymem.testing.report",
    "Result": "polymem.testing.report",
    "UrlHarness": "polymem.testing.harness",
}
__all__ = [
    "Clause",
    "ConformanceSuite",
    "EngineHarness",
    "Fault",
    "Faults",
    "Harness",
    "Kit",
    "ManualClock",
    "Report",
    "Result",
    "UrlHarness",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'polymem.testing' has no attribute {name!r}")
    return getattr(import_module(home), name)
