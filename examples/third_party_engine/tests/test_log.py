from polymem_log.engine import LogEngine

from polymem.testing import ConformanceSuite, EngineHarness


class TestLog(ConformanceSuite):
    harness = EngineHarness(lambda folder, clock: LogEngine(folder / "test.log", clock=clock))
