"""The server's time, so that all clients of a database agree on what has expired."""

import time

from polymem.engines.postgres._runner import Runner

_NOW = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint"


class ServerClock:
    """The machine's clock plus its distance from the server's; the machine's own until first corrected."""

    def __init__(self) -> None:
        self._ahead = 0

    def now(self) -> int:
        return time.time_ns() // 1000 + self._ahead

    async def correct(self, runner: Runner) -> None:
        """Ask the server; half of the time that the question takes is the most by which the answer can be wrong."""
        asked = time.time_ns() // 1000
        there = int((await runner.fetch(_NOW))[0][0])
        self._ahead = there - (asked + time.time_ns() // 1000) // 2
