"""The json_file engine against every clause that counts for it, with and without autosave."""

from polymem.engines.json_file.engine import JsonFileEngine
from polymem.testing import ConformanceSuite, EngineHarness


class TestJsonFile(ConformanceSuite):
    harness = EngineHarness(lambda folder, clock: JsonFileEngine(folder / "data.json", clock=clock))


class TestJsonFileWithoutAutosave(ConformanceSuite):
    harness = EngineHarness(lambda folder, clock: JsonFileEngine(folder / "data.json", autosave=False, clock=clock))
