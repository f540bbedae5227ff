"""Random interleavings of a batcher against a model: logical time only, so a failing example replays exactly (G-8)."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from operator import itemgetter

import pytest
from core.batch_server import run, ticks
from hypothesis import given, settings
from hypothesis import strategies as st

from polymem.core.batch import Batcher
from polymem.errors import Outcome, StorageConnectionError, StorageDataError, StorageError, StorageQueryError


def lost(outcome, kind: type[StorageError] = StorageConnectionError):
    return kind("lost", outcome=outcome)


FATES = ("ok", "ok", "ok", "refused", "away", "lost before", "lost after", "each")


@dataclass
class Model:
    """A server with a store, told by `fates` how each driver call goes; it takes so many calls at a time."""

    fates: list
    delays: list
    log: list = field(default_factory=list)  # writes as they were applied: (key, serial)
    stored: dict = field(default_factory=dict)
    calls: int = 0
    flights: int = 1
    busy: list = field(default_factory=list)  # the keys of the calls under way

    def apply(self, item):
        operation, key, serial = item
        if operation == "put":
            self.stored[key] = serial
            self.log.append((key, serial))
        return self.stored.get(key, -1)

    async def call(self, items):
        keys = {key for _, key, _ in items}
        assert len(self.busy) < self.flights, "too many driver calls at a time"
        assert self.flights == 1 or all(map(keys.isdisjoint, self.busy)), "a key in two calls at a time"
        self.busy.append(keys)
        fate = self.fates[self.calls % len(self.fates)] if self.fates else "ok"
        delay = self.delays[self.calls % len(self.delays)] if self.delays else 0
        self.calls += 1
        try:
            await ticks(delay // 2)
            return self.carry_out(fate, items)
        finally:
            self.busy.remove(keys)

    def carry_out(self, fate, items):
        if fate == "refused":
            raise StorageQueryError("refused")
        if fate == "away":
            raise lost(Outcome.NOT_APPLIED)
        if fate == "lost before":
            raise lost(Outcome.UNKNOWN)
        each = [StorageDataError("") if fate == "each" and i % 3 == 1 else self.apply(x) for i, x in enumerate(items)]
        if fate == "lost after":
            raise lost(Outcome.UNKNOWN, StorageQueryError)
        return each

    async def one(self, item):
        return (await self.call([item]))[0]

    async def many(self, items):
        assert 1 < len(items) <= 4
        return await self.call(items)


@dataclass
class History:
    submitted: list = field(default_factory=list)
    acknowledged: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    reads: list = field(default_factory=list)

    async def step(self, batcher, operation, key):
        serial = len(self.submitted)
        floor = max((s for k, s in self.acknowledged if k == key), default=-1)
        self.submitted.append((key, serial))
        try:
            value = await batcher.submit((operation, key, serial))
        except StorageError as error:
            if error.outcome is Outcome.NOT_APPLIED:
                self.refused.append((key, serial))
            return
        if operation == "put":
            self.acknowledged.append((key, serial))
        else:
            self.reads.append((key, serial, floor, value))


async def client(history, batchers, script):
    for operation, key, pause in script:
        await ticks(pause)
        await history.step(batchers[operation], operation, key)


def size(item):
    """Some are large."""
    return 1 + (item[2] % 3 == 0)


operations = st.tuples(st.sampled_from(["put", "put", "get"]), st.sampled_from("jkl"), st.integers(0, 3))
scripts = st.lists(st.lists(operations, min_size=1, max_size=5), min_size=1, max_size=8)
servers = st.builds(Model, st.lists(st.sampled_from(FATES), max_size=12), st.lists(st.integers(0, 8), max_size=5))
cancellations = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 7)), max_size=6)


@settings(deadline=None, max_examples=300)
@given(scripts, servers, cancellations, st.booleans(), st.integers(0, 60), st.integers(1, 2), st.integers(0, 2))
def test_any_interleaving_keeps_the_promises(scripts, server, cancellations, shared, close_at, flights, singles):
    async def work():
        history = History()
        server.flights = flights + singles
        alone = {"large": 1, "singles": singles} if singles else {}
        writes = Batcher(
            server.one, server.many, size=size, max_calls=4, flights=flights, keys=itemgetter(1), **alone
        )  # fmt: skip
        reader = server if shared else Model(server.fates[::-1], server.delays[::-1], stored=server.stored)
        reads = writes if shared else Batcher(reader.one, reader.many, size=len, max_calls=4)
        tasks = [asyncio.create_task(client(history, {"put": writes, "get": reads}, script)) for script in scripts]
        closing = None
        for now in range(3000):
            for when, whom in cancellations:
                if when == now:
                    tasks[whom % len(tasks)].cancel()
            if now >= close_at and closing is None:
                closing = asyncio.gather(writes.close(), reads.close())
            if closing is not None and closing.done() and all(task.done() for task in tasks):
                break
            await asyncio.sleep(0)
        else:
            pytest.fail("somebody hangs")
        for task in tasks:
            assert task.cancelled() or task.exception() is None
        return history

    history = run(work)
    written = Counter(server.log)
    assert all(count == 1 for count in written.values()), "a write was applied twice"
    assert set(history.acknowledged) <= set(written), "an acknowledged write is missing"
    assert not set(history.refused) & set(written), "a write was called not applied, but it was"
    for key in "jkl":
        serials = [serial for k, serial in server.log if k == key]
        assert serials == sorted(serials), "a key lost its order"
    for key, serial, floor, value in history.reads:
        assert value >= floor, "a read missed a write acknowledged before it"
        if shared:
            before = [s for k, s in server.log if k == key and s < serial]
            assert value == max(before, default=-1), "with one batcher for all, reads keep their place too"
