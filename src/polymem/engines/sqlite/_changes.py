"""The log of changes of key-value records in the file (EVT-1): triggers write it, this reads and trims it."""

from typing import Any, Final

import apsw

from polymem.contracts.events import Change, ChangePage
from polymem.core.clock import MICROSECONDS
from polymem.core.ids import uuid7
from polymem.core.namespace import subtree_end
from polymem.engines.sqlite._schema import UNWATCH, WATCH

KEPT: Final = 100_000
DAY: Final = 86_400 * MICROSECONDS
"""How long a namespace is logged that nobody reads."""
_LOG: Final = "select value from pm_meta where name = 'kv_changes'"
_NEWEST: Final = "select seq from sqlite_sequence where name = 'pm_kv_changes'"


def watch(connection: apsw.Connection, namespace: str, now: int) -> str:
    """Log a namespace from here on; the position behind its newest change."""
    log = connection.execute(_LOG).get
    if log is None:
        log = uuid7()
        connection.execute(WATCH)
        connection.execute("insert into pm_meta values('kv_changes', ?)", (log,))
    seq = newest(connection) or 0
    connection.execute(
        "insert into pm_watched values(?1, ?2, ?3) on conflict do update set read_at = ?3", (namespace, seq, now)
    )
    return f"{log}.{seq}"


def newest(connection: apsw.Connection) -> int | None:
    """The number of the newest change; None where nobody watches."""
    if connection.execute(_LOG).get is None:
        return None
    return int(connection.execute(_NEWEST).get or 0)


def page(connection: apsw.Connection, namespace: str, after: str, limit: int) -> tuple[ChangePage, int] | None:
    """The changes behind a position, None where it is lost; and when this was last noted to be read."""
    log, _, number = after.rpartition(".")
    last = newest(connection)
    if last is None or log != connection.execute(_LOG).get or not (number.isascii() and number.isdecimal()):
        return None
    found: list[Any] = connection.execute(
        "select since, read_at from pm_watched where namespace = ?", (namespace,)
    ).fetchall()
    if not found or not found[0][0] <= int(number) <= last:
        return None
    rows: Any = connection.execute(
        "select op, key, seq from pm_kv_changes where namespace = ? and seq > ? order by seq limit ?",
        (namespace, int(number), limit),
    ).fetchall()
    changes = [Change(op, key, f"{log}.{seq}") for op, key, seq in rows]
    return ChangePage(changes, changes[-1].position if len(changes) == limit else f"{log}.{last}"), found[0][1]


def note_reader(connection: apsw.Connection, namespace: str, now: int) -> None:
    """Go on logging: somebody reads."""
    if newest(connection) is not None:
        connection.execute("update pm_watched set read_at = ? where namespace = ?", (now, namespace))


def expired(connection: apsw.Connection, after: int | None) -> None:
    """The removals logged behind `after` were of expired records."""
    if after is not None:
        connection.execute("update pm_kv_changes set op = 'expire' where seq > ? and op = 'delete'", (after,))


def had_expired(connection: apsw.Connection, namespace: str, key: str) -> None:
    """The removal just made was of an expired record."""
    if newest(connection) is not None:
        last = "select max(seq) from pm_kv_changes"
        connection.execute(
            f"update pm_kv_changes set op = 'expire' where seq = ({last}) and namespace = ? and key = ?",
            (namespace, key),
        )


def cleared(connection: apsw.Connection, after: int | None) -> None:
    """The removals logged behind `after` were of whole namespaces: one change each instead of one for each key."""
    if after is not None:
        names = connection.execute("select distinct namespace from pm_kv_changes where seq > ?", (after,)).fetchall()
        connection.execute("delete from pm_kv_changes where seq > ?", (after,))
        connection.executemany("insert into pm_kv_changes(namespace, key, op) values(?, null, 'clear')", names)


def forget_keys(connection: apsw.Connection, prefix: str) -> None:
    """The log names keys: those of namespaces that are dropped go with them."""
    if newest(connection) is not None:
        bounds = (prefix, subtree_end(prefix))
        connection.execute("delete from pm_kv_changes where namespace >= ? and namespace < ?", bounds)


def trim(connection: apsw.Connection, now: int) -> None:
    """Keep the latest changes, and no log of what nobody has read for a day."""
    last = newest(connection)
    if last is None:
        return
    forget(connection, last - KEPT)
    connection.execute("delete from pm_watched where read_at < ?", (now - DAY,))
    if connection.changes():
        connection.execute("delete from pm_kv_changes where namespace not in (select namespace from pm_watched)")
    if connection.execute("select 1 from pm_watched limit 1").get is None:
        connection.execute(UNWATCH)
        connection.execute("delete from pm_meta where name = 'kv_changes'")


def forget(connection: apsw.Connection, until: int | None) -> None:
    """Drop the changes up to a number; readers that have not come so far are told."""
    if until is not None and until > 0:
        connection.execute("update pm_watched set since = ?1 where since < ?1", (until,))
        connection.execute("delete from pm_kv_changes where seq <= ?", (until,))
