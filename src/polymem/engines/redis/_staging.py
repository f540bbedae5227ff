"""Large records on their way to a script: Lua would copy each several times, so they wait as values of their own.

Such a value is sent just before the script, which completes and renames it. It is in the slot of its record, and Redis
removes it should the script never come.
"""

from collections.abc import Sequence
from secrets import token_hex
from typing import Final, TypeGuard

from polymem.engines.redis._line import Command, Word
from polymem.engines.redis._record import LARGE, ROOM
from polymem.engines.redis._scripts import Script

LIFE: Final = 60_000
"""Milliseconds that a value waits at most."""
_FIRST: Final = 4
"""Arguments from here on are bytes."""

Call = tuple[Script, Sequence[bytes], Sequence[Word]]
"""A script that stores records, its keys, of which the first is the index, and its arguments, records last."""


def commands(script: Script, keys: Sequence[bytes], arguments: Sequence[Word]) -> list[Command]:
    """What to send for a call: the script, last, and what is to wait for it."""
    if max(map(len, arguments[_FIRST:]), default=0) < LARGE:  # type: ignore[arg-type]
        return [by_digest(script, keys, arguments)]
    heads, places, waiting = [*arguments], list[bytes](), list[Command]()
    token = token_hex(8).encode()
    for at, record in enumerate(arguments):
        if is_large(record):
            place = b"%b:%b:%d" % (keys[0], token, at)
            places.append(place)
            waiting.append(("SET", place, record, "PX", LIFE))
            heads[at] = b"\0" + record[len(ROOM) + 1 : len(ROOM) + 9] + place
    return [*waiting, by_digest(script, [*keys, *places], heads)]


def at_once(script: Script, keys: Sequence[bytes], arguments: Sequence[Word]) -> Command:
    """The call by itself, for nothing to be lost on its way."""
    return in_full(script, keys, [word[len(ROOM) :] if is_large(word) else word for word in arguments])


def is_large(word: Word) -> TypeGuard[bytes]:
    return isinstance(word, bytes) and len(word) > LARGE and word.startswith(ROOM)


def by_digest(script: Script, keys: Sequence[Word], arguments: Sequence[Word]) -> Command:
    return "EVALSHA", script.digest, len(keys), *keys, *arguments


def in_full(script: Script, keys: Sequence[Word], arguments: Sequence[Word]) -> Command:
    return "EVAL", script.body, len(keys), *keys, *arguments
