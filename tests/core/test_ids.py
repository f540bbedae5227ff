"""Ids are UUIDs of version 7 that sort by the time they were made (RFC 9562)."""

import threading
import time
import uuid

import pytest

from polymem.core import ids
from polymem.core.ids import uuid7


def test_is_a_version_7_uuid_in_canonical_form() -> None:
    made = uuid7()
    parsed = uuid.UUID(made)
    assert str(parsed) == made
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122


def test_starts_with_the_milliseconds_of_its_making() -> None:
    before = time.time_ns() // 1_000_000
    made = [uuid.UUID(uuid7()).int >> 80 for _ in range(3)]
    assert before - 1 <= made[0] <= made[-1] <= time.time_ns() // 1_000_000 + 1


def test_sorts_in_the_order_of_making_even_within_one_tick() -> None:
    made = [uuid7() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_never_goes_backwards_when_the_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    first = uuid7()
    monkeypatch.setattr(time, "time_ns", lambda: 1_600_000_000_000_000_000)
    assert uuid7() > first


def test_random_part_differs_where_the_time_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes in the same tick do not meet."""
    monkeypatch.setattr(ids, "_ticks", type("Stopped", (), {"next": staticmethod(lambda: 1)}))
    made = {uuid7() for _ in range(1000)}
    assert len(made) == 1000
    assert len({one[:19] for one in made}) == 1


def test_threads_get_different_ids_each_in_order() -> None:
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda own=own: own.extend(uuid7() for _ in range(2000))) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(own == sorted(own) for own in made)
    assert len({one for own in made for one in own}) == 8000
