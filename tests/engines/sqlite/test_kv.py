"""Key-value records of a SQLite file, where SQL could get in the way (KV-1, KV-3)."""

import pytest

import polymem
from polymem.core.clock import ManualClock

pytestmark = pytest.mark.anyio
HOSTILE = ["plain", "it's", '"quoted"', "[1]", "a\\u0041", "%_*?", "née", "😀", "line\nbreak", "1", "null", " "]


async def test_many_keys_are_found_by_their_exact_text_in_the_order_asked(tmp_path):
    async with polymem.open(f"sqlite:///{tmp_path / 'a.db'}", sweep_every=None) as store:
        await store.kv.put_many({key: number for number, key in enumerate(HOSTILE)})
        wanted = [*reversed(HOSTILE), "absent", "A"]
        assert list((await store.kv.get_many(wanted)).items()) == [
            (key, HOSTILE.index(key)) for key in reversed(HOSTILE)
        ]


async def test_many_keys_leave_out_the_expired(tmp_path):
    clock = ManualClock()
    async with polymem.open(f"sqlite:///{tmp_path / 'a.db'}", clock=clock, sweep_every=None) as store:
        await store.kv.put_many({"short": 1, "also": 2}, ttl=10)
        await store.kv.put("long", 3)
        clock.advance(10)
        assert await store.kv.get_many(["short", "long", "also"]) == {"long": 3}


async def test_a_body_comes_back_as_the_bytes_that_were_put(tmp_path):
    async with polymem.open(f"sqlite:///{tmp_path / 'a.db'}", sweep_every=None) as store:
        kv = store.engine.drivers("n/").kv
        bodies = {"text": "é😀".encode(), "binary": b"\x00\xff\xfe", "json": b'{"a":1}'}
        for key, body in bodies.items():
            await kv.put(key, body, "json", version=1, expires_at=None)
            assert await kv.get(key) == (body, "json")
            assert (await kv.entry(key)).body == body
        assert {key: body for key, (body, _) in (await kv.get_many(list(bodies))).items()} == bodies
        assert {key: record.body for key, record in (await kv.page("", None, 10)).items} == bodies
