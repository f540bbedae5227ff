"""Texts whose tokens an earlier version made are encoded anew when their file is opened (REL-1)."""

import logging
from typing import Any, Final

import apsw

from polymem.core.codec import decode_json
from polymem.engines.sqlite._file import writing
from polymem.errors import StorageCorruptError
from polymem.indexes import tokens
from polymem.indexes.analyzer import analyzer

_log = logging.getLogger("polymem.sqlite")
_ROWS: Final = 1000
"""Texts a transaction: an interrupted renewal goes on after the last, and other processes get to write."""
_FIRST: Final = 1
"""The format of files that don't say."""
_OLD: Final = "length(tokens) > 0 and substr(tokens, 1, 1) <> ?"
_NEXT: Final = (
    "select t.rowid, c.options ->> 'language', t.fields from pm_texts t join pm_collections c using(collection) "
    f"where t.rowid > ? and {_OLD} order by t.rowid limit ?"
)


def renew_tokens(connection: apsw.Connection) -> None:
    """Encode every text whose tokens are of an older format; those of a newer one are a `StorageCorruptError`."""
    stored = connection.execute("select value from pm_meta where name = 'tokens'").get
    found = _FIRST if stored is None else int(stored)
    if found > tokens.FORMAT:
        raise StorageCorruptError("the texts of the file were indexed by a newer version: upgrade polymem", field="url")
    if found < tokens.FORMAT:
        _renew(connection, bytes([tokens.FORMAT]))
        with writing(connection):
            connection.execute("insert or replace into pm_meta values('tokens', ?)", (str(tokens.FORMAT),))


def _renew(connection: apsw.Connection, current: bytes) -> None:
    total = connection.execute(f"select count(*) from pm_texts where {_OLD}", (current,)).get
    position = done = 0
    while True:
        with writing(connection):
            rows: Any = connection.execute(_NEXT, (position, current, _ROWS)).fetchall()
            connection.executemany("update pm_texts set tokens = ? where rowid = ?", map(_encoded, rows))
        if not rows:
            return
        position, done = rows[-1][0], done + len(rows)
        _log.info("encoded %d of %d texts anew for this version's search", done, total)


def _encoded(row: tuple[int, str, str]) -> tuple[bytes, int]:
    number, language, fields = row
    return tokens.encode_tokens(analyzer(language), decode_json(fields)), number
