"""The postgres engine against every clause that counts for it, in a database of its own."""

import asyncio
from typing import Any

import pytest
from servers.postgres import database
from servers.suite import ServerSuite

from polymem.contracts.drivers import Layer
from polymem.core.registry import create_engine
from polymem.engines.postgres import _vector_building
from polymem.layers.cache import CachedEngine
from polymem.layers.compression import Compression
from polymem.layers.encryption import Encryption, Key, Keyring
from polymem.testing import EngineHarness, UrlHarness

pytestmark = [pytest.mark.integration]
SEALED = (Encryption(Keyring(Key("test", bytes(range(32))))), Compression(threshold=64))
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


class TestPostgresWithoutVectorIndexes(TestPostgres):
    """There search promises to be exact."""

    contracts = ("vectors",)

    @classmethod
    def connect(cls, url: str) -> None:
        cls.harness = UrlHarness(f"{own_database(url, cls.__name__)}&vector_index=exact")


class TestPostgres18(TestPostgres):
    server = "postgres18"
    examples = 5


def replicated(url: str, name: str) -> str:
    """A database of a primary, read from its replica."""
    primary, _, replica = url.partition("?replicas=")
    own = own_database(primary, name)
    return f"{own}&replicas={replica.rpartition('/')[0]}/{own.partition('?')[0].rpartition('/')[2]}"


class TestReplicatedPostgres(ServerSuite):
    """Reads go to a streaming replica when it shows what was written, else to the primary (PG-4).

    What another store has written may be seen a moment later, so no clause is about two of them.
    """

    server = "postgres_replicated"
    examples = 5
    contracts = BASIC

    @classmethod
    def connect(cls, url: str) -> None:
        cls.harness = UrlHarness(replicated(url, cls.__name__), shared=False)


class TestReplicaOfPostgres(ServerSuite):
    """Every read outside of transactions waits until the replica may answer it."""

    server = "postgres_replicated"
    examples = 5

    @classmethod
    def connect(cls, url: str) -> None:
        own = replicated(url, cls.__name__)
        cls.harness = EngineHarness(lambda _, clock: patient(create_engine(own, clock=clock)), shared=False)


def patient(engine: Any) -> Any:
    replicas = engine._replicas
    reading = replicas._reading

    def waiting(*calls: Any) -> Any:
        read = reading(*calls)

        async def wait(*args: Any, **options: Any) -> Any:
            while replicas.choose() is None:
                await asyncio.sleep(0.001)
            return await read(*args, **options)

        return wait

    replicas._reading = waiting
    return engine


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
        cls.harness = EngineHarness(lambda _, clock: create_engine(own, clock=clock), layers=SEALED)


class TestCachedPostgres(ServerSuite):
    """With a near cache that is told of what others write, a moment later: no clause is about two stores."""

    server = "postgres"
    examples = 5
    contracts = BASIC
    layers: tuple[Layer, ...] = ()

    @classmethod
    def connect(cls, url: str) -> None:
        own = own_database(url, cls.__name__)
        cls.harness = EngineHarness(
            lambda _, clock: CachedEngine(create_engine(own, clock=clock), 1000, cls.layers), shared=False
        )


class TestStackOnPostgres(TestCachedPostgres):
    """Encrypted, then compressed, then cached."""

    examples = 2
    layers = SEALED


class TestApproximateVectors(ServerSuite):
    """With an index for each collection, made while it is used."""

    server = "postgres"
    examples = 5
    contracts = ("vectors",)

    @pytest.fixture(autouse=True)
    def _any_collection_is_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_vector_building, "LEAST", 1)

    @classmethod
    def connect(cls, url: str) -> None:
        cls.harness = UrlHarness(own_database(url, cls.__name__) + "&vector_index=hnsw")
