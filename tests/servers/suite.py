"""The conformance suite on a server that may be absent, or not be wanted."""

from typing import Any, ClassVar

import servers
from polymem.testing import ConformanceSuite
from servers.selection import wanted


class ServerSuite(ConformanceSuite):
    """Set `server`, and `harness` in `connect`, which is called when the server is up."""

    __test__ = False
    server: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.__test__ = hasattr(cls, "server")

    @classmethod
    def connect(cls, url: str) -> None:
        raise NotImplementedError

    @classmethod
    def pytest_generate_tests(cls, metafunc: Any) -> None:
        suite: type[ServerSuite] = metafunc.cls
        if not wanted(metafunc.config) or servers.absence(suite.server):
            metafunc.parametrize("clause" if "clause" in metafunc.fixturenames else "model", [])
            return
        suite.connect(servers.url(suite.server))
        super().pytest_generate_tests(metafunc)
