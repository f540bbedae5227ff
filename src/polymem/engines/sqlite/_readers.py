"""Threads for reads that scan, rank or search, so that the event loop never waits for them."""

import asyncio
import queue
import threading
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import apsw

from polymem.engines.sqlite._pace import SLICE, give_way
from polymem.engines.sqlite._writer import Job, Operation, _resolve


class Readers:
    """A queue of reads served by one thread per connection."""

    def __init__(self, name: str, connections: Sequence[apsw.Connection]) -> None:
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, args=(c,), name=f"polymem-sqlite-{name}-{n}", daemon=True)
            for n, c in enumerate(connections)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, operation: Operation) -> "asyncio.Future[Any]":
        loop = asyncio.get_running_loop()
        job = Job(operation, loop.create_future(), loop, savepoint=False)
        self._queue.put(job)
        return job.future

    def stop(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self, connection: apsw.Connection) -> None:
        began = perf_counter()
        while (job := self._queue.get()) is not None:
            if not job.future.cancelled():  # a read that nobody waits for need not run
                self._read(connection, job)
                _resolve([job])
                if perf_counter() - began > SLICE and not self._queue.empty():
                    give_way(job.loop)
                    began = perf_counter()

    @staticmethod
    def _read(connection: apsw.Connection, job: Job) -> None:
        try:
            connection.execute("begin")  # several statements of one read see one state
            try:
                job.result = job.operation(connection)
            finally:
                connection.execute("rollback")
        except Exception as error:  # noqa: BLE001 - belongs to this caller alone
            job.error = error
