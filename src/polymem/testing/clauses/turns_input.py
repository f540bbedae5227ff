"""Conversation turns: bad input is refused by name, and nothing is written (G-2)."""

from datetime import datetime
from typing import Any

from polymem.contracts.turns import MAX_TURN_ID, TurnInput
from polymem.errors import StorageDataError
from polymem.testing.clause import clause
from polymem.testing.clauses.names import NOT_TEXT, TOO_LONG
from polymem.testing.expect import listed, refused
from polymem.testing.kit import Kit


@clause("turns")
async def bad_sessions(kit: Kit) -> None:
    """Every operation refuses a session id that is not 1 to 512 bytes of text."""
    turns: Any = kit.store.turns
    for session in (*NOT_TEXT, *TOO_LONG):
        for call in (
            lambda s: turns.append(s, "user", "x"), lambda s: turns.append_many(s, []), lambda s: turns.get(s, 1),
            turns.recent, turns.clear, turns.touch, lambda s: turns.delete(s, 1), lambda s: listed(turns.scan(s)),
        ):  # fmt: skip
            with refused(StorageDataError, field="session_id"):
                await call(session)
        if session is not None:
            with refused(StorageDataError, field="session_id"):
                await turns.count(session)
    assert await turns.count() == 0


@clause("turns")
async def bad_turns(kit: Kit) -> None:
    """Role, content, metadata, id, turn_id, at and ttl are each refused by their name."""
    bad: dict[str, tuple[Any, ...]] = {
        "role": ("", None, 1, "a\x00", "\ud800"),
        "content": (None, 1, b"x", {"a": 1}, ["text"], [1], [None], "\x00", "\ud800", [{"a": float("nan")}], [{1: 2}]),
        "metadata": ("a", [1], 1, {"a": float("inf")}, {1: 2}, {"a": "\x00"}, {"a": b""}),
        "id": ("", 1, "x" * 513, "\ud800"),
        "turn_id": (-1, 1.0, True, "1", MAX_TURN_ID + 1),
        "at": ("2020-01-01", 0, datetime(2020, 1, 1)),  # noqa: DTZ001 - that is what is refused
        "ttl": ("1", True, float("nan"), 1e30, datetime(2099, 1, 1)),  # noqa: DTZ001
    }
    good = {"role": "user", "content": "x"}
    for field, values in bad.items():
        for value in values:
            given: dict[str, Any] = {**good, field: value}
            with refused(StorageDataError, field=field):
                await kit.store.turns.append("s", given.pop("role"), given.pop("content"), **given)
            with refused(StorageDataError, field=field):
                await kit.store.turns.append_many("s", [good, {**good, field: value}])
    assert await kit.store.turns.count() == 0


@clause("turns")
async def bad_batches(kit: Kit) -> None:
    """Members that are missing or unknown are named; a string or a mapping is not several turns."""
    turns: Any = kit.store.turns
    for batch in ("x", {"role": "user", "content": "x"}, None, 1, [1], ["x"], [{"role": "user"}], [{"content": "x"}]):
        with refused(StorageDataError, field="turns"):
            await turns.append_many("s", batch)
    with refused(StorageDataError, field="turns.speaker"):
        await turns.append_many("s", [TurnInput("user", "x"), {"role": "user", "content": "x", "speaker": "Ada"}])
    assert await turns.count() == 0


@clause("turns")
async def bad_numbers(kit: Kit) -> None:
    """limit, offset and turn ids are whole numbers of at least 0."""
    turns: Any = kit.store.turns
    for number in (-1, 1.5, True, "1", None):
        with refused(StorageDataError, field="limit"):
            await turns.recent("s", limit=number)
        with refused(StorageDataError, field="offset"):
            await turns.recent("s", offset=number)
        with refused(StorageDataError, field="turn_id"):
            await turns.get("s", number)
        with refused(StorageDataError, field="turn_id"):
            await turns.delete_many("s", [1, number])
    for several in ("12", None, {1: 2}, 1):
        with refused(StorageDataError, field="turn_ids"):
            await turns.delete_many("s", several)
