"""A fake server for tests of the batcher, and calls that are held there."""

import asyncio
from functools import wraps
from typing import Any

from polymem.core.batch import Batcher
from polymem.errors import StorageDataError


class Lost(Exception):
    """A driver's own exception."""


class Server:
    """Remembers what it was sent; `gate` holds answers back, `script` has a failure for each driver call to come.

    An item of the form ("bad", ...) is refused, in a batch together with all the others.
    """

    def __init__(self):
        self.sent = []  # one entry for each driver call: ("one", item) or ("many", items)
        self.script = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.tasks = []
        self.ticks = 1

    async def _call(self, kind, what):
        self.sent.append((kind, what))
        self.tasks.append(asyncio.current_task())
        await ticks(self.ticks)
        await self.gate.wait()
        if self.script and (failure := self.script.pop(0)) is not None:
            raise failure

    async def one(self, item):
        await self._call("one", item)
        return self.answer(item)

    async def many(self, items):
        await self._call("many", list(items))
        return [self.answer(item) for item in items]

    def answer(self, item):
        if item[0] == "bad":
            raise StorageDataError("refused", field="value")
        return f"did {item}"

    def batcher(self, **options):
        return Batcher(self.one, self.many, size=len, **options)


def run(work):
    """Run `work`; afterwards no task of ours may be left and asyncio may have nothing to complain of."""
    complaints = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        result = await work()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    result = asyncio.run(main())
    assert complaints == []
    return result


def settled(test):
    """A test of its own event loop, which leaves nothing behind."""

    @wraps(test)
    def alone(**given):
        run(lambda: test(**given))

    return alone


async def ticks(number=5):
    for _ in range(number):
        await asyncio.sleep(0)


async def started(*calls):
    tasks = [asyncio.create_task(call) for call in calls]
    await ticks()
    return tasks


async def outcomes(tasks) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def behind_a_held_call(server, batcher, *items):
    """Tasks for `items`, all queued while a direct call is held at the gate."""
    server.gate.clear()
    return await started(batcher.submit("direct"), *(batcher.submit(item) for item in items))


def first(item):
    return item[0]


async def in_two_flights(server, batcher, *items):
    """Calls for `items`, sent as soon as a direct call has ended, and held at the gate."""
    tasks = await behind_a_held_call(server, batcher, *items)
    server.gate.set()
    await tasks.pop(0)
    server.gate.clear()
    await ticks()
    server.sent.pop(0)
    return tasks
