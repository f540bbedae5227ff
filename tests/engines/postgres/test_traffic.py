"""Gathered calls by key on PostgreSQL: how they travel, and what each caller gets (KV-1, G-8)."""

import asyncio
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers.postgres import run_sql

from polymem.engines.postgres import _traffic
from polymem.engines.postgres._traffic import joined, put_many

texts = st.text("\x1f0ab", max_size=5)
columns = st.integers(2, 6).flatmap(
    lambda count: st.lists(st.lists(texts, min_size=count, max_size=count), min_size=1, max_size=3)
)


@given(columns)
def test_texts_that_travel_as_one_are_told_apart_again(columns):
    separator, *given = joined(*columns)
    assert [text.split(separator) for text in given] == columns


def test_a_separator_that_occurs_in_a_text_is_replaced(monkeypatch):
    tokens = iter("01")
    monkeypatch.setattr(_traffic, "token_hex", lambda _: next(tokens))
    assert joined(["a", "b"], ["\x1f", "\x1f0"]) == ["\x1f1", "a\x1f1b", "\x1f\x1f1\x1f0"]


def test_a_batch_writes_the_last_of_each_key_in_the_order_of_keys():
    """Two batches that lock rows in different orders would wait for each other."""
    puts = [("", key, f'"{number}"', None, "json", number, 0, None) for number, key in enumerate("cabca")]
    statement, separator, _, _, keys, *_, bodies = put_many(puts)
    assert "string_to_array" in statement
    assert (keys.split(separator), bodies.split(separator)) == (["a", "b", "c"], ['"4"', '"2"', '"3"'])


def test_large_documents_travel_apart():
    """The server is slow to find where each ends in a text of all."""
    puts = [("", key, body, None, "json", 1, 0, None) for key, body in (("a", "1"), ("b", "2" * _traffic._LARGE))]
    statement, *_, bodies, data = put_many(puts)
    assert "bytea[]" in statement
    assert (list(bodies), list(data)) == (["1", "2" * _traffic._LARGE], [None, None])


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"min_size": 1, "max_size": 1}])
async def test_large_and_small_values_of_one_key_keep_their_order(opened, options):
    store = await opened(**options)
    await store.kv.clear()
    sizes = (1, 60_000, 2, 3, 120_000, 200_000, 4)

    async def rounds(number):
        for last in range(1, len(sizes) + 1):
            calls = [store.kv.put(f"{number}", "x" * size) for size in sizes[:last]]
            await asyncio.gather(*calls, store.kv.put(f"other {number}", number))  # in the order of submission
            assert await store.kv.get(f"{number}") == "x" * sizes[last - 1]

    await asyncio.gather(*(rounds(number) for number in range(12)))
    assert await store.kv.count() == 24
    assert store.engine.pool_status()["size"] <= store.engine.pool_status()["max_size"]


@pytest.mark.anyio
async def test_large_puts_use_the_pool(opened):
    """Each is a statement of its own: the server compresses several at once."""
    store = await opened(max_size=6)
    pool = store.engine._runner.pool
    used, release = [], pool.release

    def noted(link):
        used.append(pool.figures()["used"])
        release(link)

    pool.release = noted
    await asyncio.gather(*(store.kv.put(f"large {number}", "x" * 300_000) for number in range(12)))
    assert max(used) == 4, "all but the two that batches take"
    await store.kv.put_many({f"large {number}": "y" * 60_000 for number in range(5)})
    assert await store.kv.get("large 4") == "y" * 60_000


@pytest.mark.anyio
async def test_documents_are_compressed_by_the_quick_method_where_the_server_has_it(opened, url):
    await opened(schema="compressed")
    asked = "select 'lz4' = any(enumvals) from pg_settings where name = 'default_toast_compression'"
    has_it = run_sql(url, asked).strip() == "t"
    method = "attcompression from pg_attribute where attrelid = 'compressed.pm_kv'::regclass and attname = 'body'"
    assert run_sql(url, f"select {method}").strip() == ("l" if has_it else "")


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"min_size": 1, "max_size": 1}, {"prepared_statements": False}])
async def test_a_crowd_of_every_kind_of_record_reads_what_it_wrote(opened, options):
    store = await opened(**options)
    keys = ["plain", "\x1f", "a\x1f\x1fb", "ключ", "\n", *(f"many {number}" for number in range(60))]
    values = ["\x1f", None, "", {"text": "\x1f\\u001f"}, [1.5], *range(60)]
    tenants = [store, store.namespace("a\x1fb")]
    calls = [(tenant.kv, key, value) for tenant in tenants for key, value in zip(keys, values, strict=True)]
    for kv in (tenant.kv for tenant in tenants):
        await kv.clear()
    for _ in range(2):  # inserted first, updated then
        await asyncio.gather(*(kv.put(key, value) for kv, key, value in calls))
        assert await asyncio.gather(*(kv.get(key, "absent") for kv, key, _ in calls)) == [call[2] for call in calls]
    assert await asyncio.gather(*(store.kv.get(f"absent {number}", 0) for number in range(20))) == [0] * 20
    assert await asyncio.gather(*(store.kv.get("plain") for _ in range(20))) == ["\x1f"] * 20
    assert all(await asyncio.gather(*(kv.delete(key) for kv, key, _ in calls)))


@pytest.mark.anyio
async def test_documents_bytes_and_expiries_share_a_batch(opened):
    store = await opened()
    driver, now = store.engine.drivers("parts/").kv, store.engine.clock.now()
    soon, bodies = now + 60_000_000, [b'"text"', b"", b"\x00\xff", b'{"a":1}']
    rows = [
        (f"{codec} {number}", body, codec, 2**63 - 1 - number, end)
        for number, (body, codec, end) in enumerate(
            (body, codec, end)
            for body in bodies
            for codec in ("json", "zstd+json")
            for end in (None, soon, now - 1)
            if body or codec != "json"  # nothing is no JSON, and an index of another test may look into all documents
        )
    ]
    await store.namespace("parts").kv.clear()
    await asyncio.gather(*(driver.put(k, body, codec, version=v, expires_at=end) for k, body, codec, v, end in rows))
    for key, body, codec, version, end in rows:
        found = await driver.entry(key)
        if end is not None and end < now:
            assert found is None
        else:
            assert (found.body, found.codec, found.version, found.expires_at) == (body, codec, version, end)
    got = await asyncio.gather(*(driver.get(row[0]) for row in rows))
    assert got == [None if end is not None and end < now else (body, codec) for _, body, codec, _, end in rows]


@pytest.mark.anyio
async def test_a_key_keeps_its_order_over_two_connections(opened):
    """The later of two calls wins, also where a batch is still under way with the earlier one."""
    store = await opened()
    await store.kv.put("warm", 0)
    numbers = range(40)

    async def rounds(number):
        for value in range(10):
            calls = [store.kv.put(f"{number % 20}", [number, value, step]) for step in range(3)]
            await asyncio.gather(*calls)  # in the order of submission
            found = await store.kv.get(f"{number % 20}")
            assert found[0] != number or found == [number, value, 2]

    await asyncio.gather(*(rounds(number) for number in numbers))
    assert store.engine.pool_status()["size"] > 1
    left = await asyncio.gather(*(store.kv.get(f"{number}") for number in range(20)))
    assert {value[1:] == [9, 2] for value in left} == {True}


@pytest.mark.anyio
async def test_puts_and_deletes_of_one_batch_are_carried_out_in_order(opened):
    store = await opened()
    await store.kv.clear()
    calls = ((store.kv.put(f"{number}", number), store.kv.delete(f"{number}")) for number in range(40))
    answers = await asyncio.gather(*chain.from_iterable(calls), store.kv.put("last", 1), store.kv.delete("never"))
    assert answers[1:-2:2] == [True] * 40
    assert answers[-1] is False
    assert [key async for key in store.kv.scan()] == ["last"]
