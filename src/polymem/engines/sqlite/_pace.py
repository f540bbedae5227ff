"""Letting the event loop in while a thread works in Python.

A thread that lets go of the interpreter lock for a moment has it back before the loop has woken up, and one that
holds on to it keeps the loop waiting for `sys.getswitchinterval()`, 5 ms. So our threads stop now and then: after a
slice of bulk work for a moment of sleep, and between two reads until the loop has taken what was found so far.
"""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

Item = TypeVar("Item")
SLICE: Final = 0.0002
"""Seconds of work in one go."""
SEARCH_SLICE: Final = 0.0004
"""The same for a search, of which most are over before: a pause costs as much as a fifth of one."""
_NAP: Final = 1e-6
"""Seconds asked for; the system makes them about 60 microseconds."""
_PATIENCE: Final = 0.001
"""Seconds to wait for a loop that is busy with something else."""


class Pace:
    """The slices of one piece of work, however many steps it has."""

    def __init__(self, seconds: float | None = None) -> None:
        self._slice = SLICE if seconds is None else seconds
        self._until = time.perf_counter() + self._slice

    def pause(self) -> None:
        """Let the loop in if a slice is over."""
        if time.perf_counter() > self._until:
            time.sleep(_NAP)
            self._until = time.perf_counter() + self._slice


def paced(items: Iterable[Item], pace: Pace | None = None) -> Iterator[Item]:
    """The items, with pauses where making them and what is done with them takes long."""
    pace = pace or Pace()
    for item in items:
        yield item
        pace.pause()


def give_way(loop: asyncio.AbstractEventLoop) -> None:
    """Wait until the loop has settled what it was told, and the tasks that waited for it have run."""
    had_its_turn = threading.Event()
    try:
        loop.call_soon_threadsafe(loop.call_soon, had_its_turn.set)
    except RuntimeError:  # that loop is closed
        return
    had_its_turn.wait(_PATIENCE)
