"""Key-value records of a SQLite file, where SQL could get in the way (KV-1, KV-3)."""

import apsw
import pytest

import polymem
from polymem.core.clock import ManualClock
from polymem.engines.sqlite import _changes
from polymem.engines.sqlite._schema import APPLICATION_ID, FORMAT, TABLES
from polymem.errors import StorageError

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


async def test_documents_are_readable_text_in_the_file_and_what_a_layer_made_is_a_blob(tmp_path):
    async with polymem.open(f"sqlite:///{tmp_path / 'a.db'}", sweep_every=None) as store:
        kv = store.engine.drivers("n/").kv
        bodies = {"json": '"né 😀"'.encode(), "model:m.Note": b"{}", "aes-gcm+json": b"\xff\x00", "mine": b"text"}
        for tag, body in bodies.items():
            await kv.create(f"created {tag}", body, tag, version=1, expires_at=None)
            await kv.put(tag, b"1", "json", version=1, expires_at=None)
            await kv.update(tag, body, tag, version=2)
            await kv.put(f"replaced {tag}", b"1", "json", version=1, expires_at=None)
            await kv.replace(f"replaced {tag}", body, tag, expected=1, version=2, expires_at=None)
            for key in (f"created {tag}", tag, f"replaced {tag}"):
                assert await kv.get(key) == (body, tag)
        kinds = await store.sql.execute("select distinct type, typeof(value) kind from pm_kv order by type")
    assert kinds == [
        ("aes-gcm+json", "blob"), ("json", "text"), ("mine", "blob"), ("model:m.Note", "text"),
    ]  # fmt: skip


async def pages_written(store, work):
    """How many pages `work` appends to an empty log."""
    runner = store.engine._runner
    await runner.unbatched(lambda c: c.execute("pragma wal_checkpoint(truncate)").fetchall())
    await work()
    ((_, pages, _),) = await runner.unbatched(lambda c: c.execute("pragma wal_checkpoint(passive)").fetchall())
    return pages


async def test_a_large_value_is_written_to_the_log_once_and_what_it_replaces_is_wiped(tmp_path):
    path, clock = tmp_path / "a.db", ManualClock()
    async with polymem.open(f"sqlite:///{path}", clock=clock, sweep_every=None) as store:
        await store.kv.put("note", "secret " * 50_000)
        clock.advance(1)
        assert await pages_written(store, lambda: store.kv.put("note", "x" * 360_000)) < 100  # of 4 kB
        assert await pages_written(store, lambda: store.kv.put_many({"note": "y" * 350_000, "b": 1})) < 100
        entry = await store.kv.entry("note")
        assert (entry.value, entry.created_at < entry.updated_at) == ("y" * 350_000, True)
    assert b"secret" not in path.read_bytes()


async def test_a_large_value_that_cannot_be_written_leaves_the_old_one(tmp_path):
    async with polymem.open(f"sqlite:///{tmp_path / 'a.db'}", sweep_every=None) as store:
        await store.kv.put("note", 1)
        refuse = "when new.value > 'x' begin select raise(abort, 'no'); end"
        await store.sql.execute(f"create trigger no before update on pm_kv {refuse}")
        with pytest.raises(StorageError):
            await store.kv.put("note", {"text": "x" * 100_000})
        assert await store.kv.get("note") == 1


async def test_a_large_value_is_logged_and_indexed_once(tmp_path):
    async with polymem.open(f"sqlite:///{tmp_path / 'a.db'}", sweep_every=None) as store:
        await store.kv.create_index("kind")
        await store.kv.put("note", {"kind": "old", "text": "x" * 100_000})
        await store.kv.put("note", {"kind": "new", "text": "y" * 100_000})
        assert await store.kv.count(where=polymem.F("kind") == "old") == 0
        assert await store.kv.count(where=polymem.F("kind") == "new") == 1
        start = await store.engine._runner.write(lambda c: _changes.watch(c, "", 1))
        await store.kv.put("note", {"kind": "newest", "text": "z" * 100_000})
        page, _ = await store.engine._runner.read(lambda c: _changes.page(c, "", start, 10))
        assert [(change.op, change.key) for change in page.changes] == [("put", "note")]


async def test_a_key_is_found_without_reading_the_values_beside_it(tmp_path):
    async with polymem.open(f"sqlite:///{tmp_path / 'a.db'}", sweep_every=None) as store:
        await store.kv.put_many({f"{number:03}": "x" * 200_000 for number in range(64)})
        inline = store.engine._runner._inline
        kinds = (apsw.SQLITE_DBSTATUS_CACHE_HIT, apsw.SQLITE_DBSTATUS_CACHE_MISS)
        before = sum(inline.status(kind)[0] for kind in kinds)
        await store.kv.get("040")
        assert sum(inline.status(kind)[0] for kind in kinds) - before < 100  # a value has 50


async def test_a_file_whose_table_has_no_rowid_works_as_before(tmp_path):
    old = TABLES.replace("primary key(namespace, key));", "primary key(namespace, key)) without rowid;", 1)
    assert old != TABLES
    connection = apsw.Connection(str(tmp_path / "a.db"))
    connection.execute(old)
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", FORMAT)
    connection.close()
    async with polymem.open(f"sqlite:///{tmp_path / 'a.db'}", sweep_every=None) as store:
        await store.kv.create_index("n")
        await store.kv.put_many({f"{n}": {"n": n, "text": "x" * 70_000 * (n % 2)} for n in range(6)})
        await store.kv.put("1", {"n": 10, "text": "y" * 80_000})
        assert await store.kv.count(where=polymem.F("n") > 3) == 3
        assert [key async for key in store.kv.scan()] == ["0", "1", "2", "3", "4", "5"]
        assert await store.kv.increment("counter") == 1
        assert (await store.kv.get("1"))["n"] == 10
        assert await store.kv.delete_many(["1", "2"]) == 2


async def test_listing_and_counting_read_what_they_need_alone(tmp_path):
    """Keys behind the prefix are not looked at, and a count reads no record: it would be fetched from anywhere."""
    async with polymem.open(f"sqlite:///{tmp_path / 'a.db'}", sweep_every=None) as store:
        await store.kv.put_many({"a1": 1, "a2": 2, "b": 3, "\U0010ffff": 4}, ttl=9)
        await store.kv.put("a3", 5)
        run, seen = store.engine._runner.read, []

        async def watched(operation):
            def traced(connection):
                connection.exec_trace = lambda _, sql, values: seen.append((sql, values)) or True
                try:
                    return operation(connection)
                finally:
                    connection.exec_trace = None

            return await run(traced)

        store.engine._runner.read = watched
        assert [await store.kv.count(prefix) for prefix in ("", "a", "\U0010ffff")] == [5, 3, 1]
        assert [entry.key async for entry in store.kv.entries("a")] == ["a1", "a2", "a3"]
        plans = [await run(lambda c, s=s: c.execute(f"explain query plan {s[0]}", s[1]).fetchall()) for s in seen]
    steps = [str(step[3]) for plan in plans for step in plan if "pm_kv" in str(step[3])]
    assert len(steps) == 3 * 2 + 1
    for step in steps:
        assert "key>? AND key<?" in step or "pm_kv_expires (expires_at<?)" in step
    assert sum("COVERING INDEX" in step for step in steps) == 3
