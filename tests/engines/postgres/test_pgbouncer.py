"""Behind PgBouncer in transaction mode: noticed, and nothing is left to a session (PG-2)."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from servers._process import cache_folder
from servers.postgres import PASSWORD, PgBouncer

from polymem.engines.postgres import _vector_building
from polymem.engines.postgres.search import index_vectors
from polymem.errors import StorageAuthError, StorageDataError, StorageQueryError

pytestmark = [pytest.mark.integration, pytest.mark.server("postgres"), pytest.mark.server("pgbouncer")]


@pytest.fixture(name="bouncer", scope="module")
def give_bouncer(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With two connections to the server for all its clients, so that each meets the traces of others."""
    folder = Path(cache_folder()) / f"bouncer-{tmp_path_factory.getbasetemp().name}-{id(url):x}"
    pooler = PgBouncer(folder, int(urlsplit(url).port or 0), pool_size=2)
    yield url.replace(f":{urlsplit(url).port}/", f":{pooler.port}/")
    pooler.stop()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.anyio
async def test_a_wrong_password_is_called_that(bouncer: str, opened: Any) -> None:
    with pytest.raises(StorageAuthError):
        await opened(bouncer.replace(PASSWORD, "wrong"))


@pytest.mark.anyio
async def test_it_is_noticed_and_shared_without_traces(bouncer: str, url: str, opened: Any) -> None:
    direct = await opened(url)
    assert (await direct.check()).details["pooled"] is False
    stores = [(await opened(bouncer)).namespace(f"pooled{number}") for number in range(4)]
    assert (await stores[0].check()).details["pooled"] is True

    async def work(number: int) -> None:
        store = stores[number % 4]
        await store.kv.put(f"{number}", {"n": number})
        await store.kv.increment("count")
        assert await store.kv.get(f"{number}") == {"n": number}
        assert await store.kv.count(where={"n": number}) == 1
        await store.turns.append("s", "user", "x")

    await asyncio.gather(*map(work, range(80)))
    assert [await store.kv.get("count") for store in stores] == [20] * 4
    for store in stores:
        await store.kv.clear()
        await store.turns.clear("s")


@pytest.mark.anyio
async def test_prepared_statements_would_fail(bouncer: str, opened: Any) -> None:
    """Why they are switched off: a pooler that does not know them mixes those of its clients."""
    with pytest.raises(StorageQueryError, match="prepared_statements=False"):
        stores = [await opened(bouncer, prepared_statements=True) for _ in range(4)]
        for _ in range(20):
            await asyncio.gather(*(store.kv.entry(f"{number}") for number, store in enumerate(stores)))


@pytest.mark.anyio
async def test_a_schema_is_the_roles_own_affair(bouncer: str, opened: Any) -> None:
    """Nothing is asked of the session: a schema that the role does not have anyway is refused."""
    assert await opened(bouncer, schema="public")
    with pytest.raises(StorageDataError) as caught:
        await opened(bouncer, schema="elsewhere")
    assert caught.value.field == "schema"


@pytest.mark.anyio
async def test_an_index_of_vectors_is_made_through_it(
    bouncer: str, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a statement that cannot run within a transaction (PG-3)."""
    monkeypatch.setattr(_vector_building, "LEAST", 100)
    store = await opened(bouncer)
    vectors = store.namespace("pooled").vectors("v", dimensions=2)
    await vectors.put_many((f"{n:03}", [n, 1]) for n in range(150))
    await index_vectors(vectors)
    assert await store.sql.query("select count(*)::int from pg_indexes where indexname ~ '^pm_vectors_.*_hnsw'") == [
        (1,)
    ]
    assert len(await vectors.search([149, 1], limit=10)) == 10
    await store.drop_namespace("pooled")
    await store.delete_expired()
