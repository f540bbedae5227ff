"""The redis engine against every clause that counts for it, on Redis 7 and 8 and on a Cluster."""

import asyncio
import os

import pytest
import servers
from servers.suite import ServerSuite

from polymem.contracts.drivers import Layer
from polymem.engines.redis._keys import registry
from polymem.engines.redis.engine import from_url
from polymem.layers.cache import CachedEngine
from polymem.layers.compression import Compression
from polymem.layers.encryption import Encryption, Key, Keyring
from polymem.testing import EngineHarness, UrlHarness

pytestmark = pytest.mark.integration
SEALED = (Encryption(Keyring(Key("test", bytes(range(32))))), Compression(threshold=64))
PREFIX = f"polymem-conformance-{os.getpid()}"
"""The clocks of several processes differ: none must sweep what another one still sees."""


class RedisSuite(ServerSuite):
    examples = 30

    @classmethod
    def connect(cls, url: str) -> None:
        cls.harness = UrlHarness(url, shared=True, prefix=PREFIX)

    @classmethod
    def teardown_class(cls) -> None:
        asyncio.run(forget(servers.url(cls.server)))


@pytest.mark.server("redis")
class TestRedis7(RedisSuite):
    server = "redis"


@pytest.mark.server("redis")
class TestRedisThroughLayers(RedisSuite):
    """Encrypted and compressed."""

    server, examples = "redis", 10

    @classmethod
    def connect(cls, url: str) -> None:
        cls.harness = EngineHarness(
            lambda _, clock: from_url(url, prefix=PREFIX, clock=clock), shared=True, layers=SEALED
        )


@pytest.mark.server("redis")
class TestCachedRedis(RedisSuite):
    """With a near cache that is told of what others write, a moment later: no clause is about two stores."""

    server, examples = "redis", 10
    layers: tuple[Layer, ...] = ()

    @classmethod
    def connect(cls, url: str) -> None:
        cls.harness = EngineHarness(
            lambda _, clock: CachedEngine(from_url(url, prefix=PREFIX, clock=clock), 1000, cls.layers), shared=False
        )


@pytest.mark.server("redis")
class TestStackOnRedis(TestCachedRedis):
    """Encrypted, then compressed, then cached."""

    examples = 2
    layers = SEALED


@pytest.mark.server("redis8")
class TestRedis8(RedisSuite):
    server = "redis8"


@pytest.mark.server("redis_cluster")
class TestRedisCluster(RedisSuite):
    server = "redis_cluster"


async def forget(url: str) -> None:
    """The list of namespaces is all that the clauses leave behind."""
    engine = from_url(url, prefix=PREFIX)
    await engine.open()
    await engine._server.call("UNLINK", registry(PREFIX))
    await engine.close()
