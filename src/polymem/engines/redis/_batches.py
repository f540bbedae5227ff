"""What batches are made of, and how their replies are shared out."""

from collections import defaultdict
from collections.abc import Sequence
from copy import copy
from itertools import islice
from typing import Any

from polymem.engines.redis._errors import translate
from polymem.engines.redis._keys import Names
from polymem.errors import Outcome, StorageError

Read = tuple[Names, bytes]
"""A record to read, by its key as Redis knows it."""
Write = tuple[Names, Sequence[bytes], Sequence[bytes]]
"""Keys as Redis knows them, and for each the record to store (without created_at) or, where b"", to delete: all or
nothing, in order. Plain tuples: making anything else costs as much as sending it.
"""


def grouped(items: Sequence[Read | Write], *, apart: bool) -> list[list[int]]:
    """Which items go together: those of one namespace, or all."""
    if not apart:
        return [[*range(len(items))]]
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for at, item in enumerate(items):
        groups[item[0].records].append(at)
    return [*groups.values()]


def spread(count: int, groups: Sequence[Sequence[int]], replies: Sequence[Any]) -> list[Any]:
    """Each item's part of the replies; an error is everybody's."""
    answers: list[Any] = [None] * count
    for group, reply in zip(groups, replies, strict=True):
        parts = [_own(reply) for _ in group] if isinstance(reply, Exception) else reply
        for at, part in zip(group, parts, strict=True):
            answers[at] = part
    return answers


def _own(error: Exception) -> Exception:
    """The guard writes into an error, so each caller needs its own."""
    failure = copy(error) if isinstance(error, StorageError) else translate(error, Outcome.NOT_APPLIED) or error
    failure.__cause__ = error.__cause__ or error
    return failure


def summed(answers: Any, items: Sequence[Write]) -> Any:
    """How many live records each item met."""
    if isinstance(answers, Exception) or len(answers) == len(items):
        return answers
    given = iter(answers)
    return [sum(islice(given, len(keys))) for _, keys, _ in items]


def size(item: Write) -> int:
    records = item[2]
    return len(records[0]) if len(records) == 1 else sum(map(len, records))


def written(item: Write) -> Sequence[bytes]:
    """No two batches under way have a key in common."""
    return item[1]
