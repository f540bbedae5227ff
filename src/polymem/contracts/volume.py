"""How many bytes of data a call moves: encoded values, turns and blobs, as they are handed to the engine.

Counted where the length is at hand. Texts, vectors, graphs, query results and SQL rows are not counted; keys,
records' instants and what a protocol adds never are.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from polymem.contracts.turns import TurnRow
from polymem.core.guard import BODY_FIRST, Size


def _body(args: tuple[Any, ...], _: Any) -> int:
    return len(args[1])


def _turns(rows: Sequence[TurnRow]) -> int:
    text = "".join([row.content + row.metadata for row in rows])
    return len(text) if text.isascii() else len(text.encode())


VOLUME: Final[Mapping[str, Mapping[str, Size | None]]] = {
    "kv": {
        "get": BODY_FIRST,
        "entry": BODY_FIRST,
        "get_many": lambda _, found: sum(len(body) for body, _ in found.values()),
        "put": _body,
        "create": _body,
        "update": _body,
        "replace": _body,
        "put_many": lambda args, _: sum(len(item[1]) for item in args[0]),
        "page": lambda _, page: sum(len(record.body) for _, record in page.items),
    },
    "turns": {
        "append": lambda args, _: _turns(args[0]),
        "get": lambda _, row: 0 if row is None else _turns([row]),
        "recent": lambda _, rows: _turns(rows),
        "page": lambda _, rows: _turns(rows),
    },
    "blobs": {
        "read": lambda _, data: len(data),
        "write_part": lambda args, _: len(args[3]),
    },
}
