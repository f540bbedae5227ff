"""The memory engine against every clause that counts for it."""

from polymem.testing import ConformanceSuite, UrlHarness


class TestMemory(ConformanceSuite):
    harness = UrlHarness("memory:")
    examples = 20  # it is compared with itself: this checks the comparison
