"""The postgres engine against every clause that counts for it, in a database of its own."""

import pytest
from servers.postgres import database
from servers.suite import ServerSuite

from polymem.core.registry import create_engine
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.layers.compression import Compression
from polymem.layers.encryption import Encryption, Key, Keyring
from polymem.testing import EngineHarness, UrlHarness

pytestmark = [pytest.mark.integration]
BASIC = ("engine", "kv", "query", "turns", "transactions", "sql")


def own_database(url: str, name: str) -> str:
    """Calls wait for a connection as long as it takes on a machine with other work to do."""
    return f"{database(url, name)}?acquire_timeout=60"


class TestPostgres(ServerSuite):
    server = "postgres"
    examples = 30

    @classmethod
    def connect(cls, url: str) -> None:
        cls.harness = UrlHarness(own_database(url, cls.__name__))


class TestPostgres18(TestPostgres):
    server = "postgres18"
    contracts = BASIC
    examples = 5


class TestPgBouncer(TestPostgres):
    """The same through a pooler in transaction mode, which is noticed."""

    server = "pgbouncer"
    examples = 10


class TestLayersOnPostgres(ServerSuite):
    """Encrypted, then compressed."""

    server = "postgres"
    examples = 5
    contracts = BASIC

    @classmethod
    def connect(cls, url: str) -> None:
        own = own_database(url, cls.__name__)
        layers = (Encryption(Keyring(Key("test", bytes(range(32))))), Compression(threshold=64))
        cls.harness = EngineHarness(lambda _, clock: create_engine(own, clock=clock), layers=layers)


class TestCachedPostgres(ServerSuite):
    server = "postgres"
    examples = 5
    contracts = BASIC

    @classmethod
    def connect(cls, url: str) -> None:
        own = own_database(url, cls.__name__)
        policy = CachePolicy(max_staleness=3600)  # alone on the database

        cls.harness = EngineHarness(
            lambda _, clock: CachedEngine(create_engine(own, clock=clock), policy), shared=False
        )


class TestApproximateVectors(ServerSuite):
    """With an index per collection."""

    server = "postgres"
    examples = 5
    contracts = ("vectors",)

    @classmethod
    def connect(cls, url: str) -> None:
        cls.harness = UrlHarness(own_database(url, cls.__name__) + "&vector_index=hnsw")
