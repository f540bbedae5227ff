"""Work on the whole file: namespaces, expiry, integrity, backup, compaction."""

import os
from pathlib import Path
from typing import Any, Final

import apsw

from polymem.core.engine import Health
from polymem.core.namespace import subtree_end
from polymem.core.page import Page
from polymem.engines.sqlite import _changes, _query_indexes
from polymem.engines.sqlite._schema import FORMAT, UPLOAD_LIFETIME
from polymem.errors import StorageConflictError, StorageCorruptError, StorageTimeoutError

_SPACED: Final = ("pm_kv", "pm_turns", "pm_nodes", "pm_edges", "pm_blobs", "pm_collections")
_COLLECTED: Final = ("pm_vectors", "pm_texts", "pm_changes")
_EXPIRING: Final = {"pm_kv": "namespace, key", "pm_turns": "namespace, session_id, turn_id"}
_KEPT_CHANGES: Final = 100_000


def namespaces(connection: apsw.Connection, prefix: str, after: str | None, limit: int) -> Page[str]:
    """Each step jumps to the next distinct name, so the cost grows with the names, not with the records."""
    found: list[str] = []
    position = prefix if after is None else after + "\x00"
    end = subtree_end(prefix)
    while len(found) < limit:
        candidates = [
            connection.execute(f"select min(namespace) from {table} where namespace >= ?", (position,)).get
            for table in _SPACED
        ]
        name = min((n for n in candidates if n is not None), default=None)
        if name is None or (end and name >= end):
            return Page(found, None)
        found.append(name)
        position = name + "\x00"
    return Page(found, found[-1])


def drop_namespace(connection: apsw.Connection, prefix: str) -> int:
    """Every record at or below `prefix`; how many there were."""
    _changes.forget_keys(connection, prefix)
    logged = _changes.newest(connection)
    bounds = (prefix, subtree_end(prefix))
    span = "namespace >= ? and namespace < ?"
    removed = 0
    inside = f"collection in (select collection from pm_collections where {span})"
    for table in _COLLECTED:
        connection.execute(f"delete from {table} where {inside}", bounds)
        removed += connection.changes() if table in ("pm_vectors", "pm_texts") else 0
    connection.execute(
        f"delete from pm_blob_parts where upload in (select upload from pm_uploads where {span})", bounds
    )
    connection.execute(f"delete from pm_uploads where {span}", bounds)
    for table in _SPACED:
        connection.execute(f"delete from {table} where {span}", bounds)
        removed += connection.changes() if table != "pm_collections" else 0
    _changes.cleared(connection, logged)
    _query_indexes.drop_namespace(connection, prefix)
    return removed


def delete_expired(connection: apsw.Connection, now: int, limit: int) -> int:
    """At most `limit` expired records; also uploads a day old that nobody finished, and changes nobody needs."""
    removed, logged = 0, _changes.newest(connection)
    for table, key in _EXPIRING.items():
        connection.execute(
            f"delete from {table} where ({key}) in (select {key} from {table} where expires_at <= ? limit ?)",
            (now, limit - removed),
        )
        removed += connection.changes()
    _changes.expired(connection, logged)
    _changes.trim(connection, now)
    stale = "select upload from pm_uploads where not committed and started_at < ?"
    day_ago = (now - UPLOAD_LIFETIME,)
    connection.execute(f"delete from pm_blob_parts where upload in ({stale})", day_ago)
    connection.execute("delete from pm_uploads where not committed and started_at < ?", day_ago)
    connection.execute("delete from pm_changes where seq <= (select max(seq) from pm_changes) - ?", (_KEPT_CHANGES,))
    return removed


def lease(connection: apsw.Connection, claim: tuple[str, str], now: int, until: int) -> bool:
    """Whether the claim (its name and who wants it) was free, ours or has run out; it is then ours up to an instant."""
    name, holder = claim
    connection.execute(
        "insert into pm_meta values('lease ' || ?1, ?2 || ' ' || ?4) on conflict do update set value = excluded.value "
        "where substr(value, 1, length(?2) + 1) = ?2 || ' ' "
        "or cast(substr(value, instr(value, ' ')) as integer) <= ?3",
        (name, holder, now, until),
    )
    return connection.changes() > 0


def check(connection: apsw.Connection) -> Health:
    """SQLite's integrity check, and the size of things."""
    problems = _problems(connection)
    pages, free, size = (int(connection.pragma(p)) for p in ("page_count", "freelist_count", "page_size"))
    details: dict[str, Any] = {
        "format": FORMAT,
        "file_bytes": pages * size,
        "free_bytes": free * size,
    }
    if not problems:
        counted = (*_SPACED, "pm_vectors", "pm_texts")
        details["records"] = {t: connection.execute(f"select count(*) from {t}").get for t in counted}
    return Health("sqlite", apsw.sqlite_lib_version(), not problems, problems, details)


def _problems(connection: apsw.Connection) -> list[str]:
    try:
        rows = connection.execute("pragma integrity_check(20)").fetchall()
    except apsw.CorruptError:
        return ["the file is so damaged that the check could not be finished"]
    return [str(row) for (row,) in rows if row != "ok"]


def compact(connection: apsw.Connection) -> None:
    """Rewrite the file without free space and empty the write-ahead log, so that no deleted byte is left.

    The change logs name deleted records, so they go too: indexes of other processes are then loaded anew, and readers
    that are behind are told.
    """
    _changes.forget(connection, _changes.newest(connection))
    connection.execute("delete from pm_changes")
    connection.execute("vacuum")
    truncate_log(connection)


def truncate_log(connection: apsw.Connection) -> None:
    """Move the write-ahead log into the file and empty it; a reader that blocks it is a `StorageTimeoutError`."""
    busy, _, _ = connection.execute("pragma wal_checkpoint(truncate)").fetchall()[0]
    if busy:
        raise StorageTimeoutError(
            "another process is reading, so the write-ahead log could not be emptied", retryable=False
        )


def backup(connection: apsw.Connection, target: Path) -> None:
    """SQLite's online backup into a new file, checked, then moved into place."""
    partial = target.with_name(target.name + ".partial")
    if target.exists():
        raise StorageConflictError("the target exists already", field="target")
    connection.execute(
        "select 1 from sqlite_schema"
    ).fetchall()  # fixes the state to copy: else each write starts it anew
    try:
        _copy(connection, partial)
        _place(partial, target)
    finally:
        for end in ("", "-journal", "-wal", "-shm"):
            partial.with_name(partial.name + end).unlink(missing_ok=True)


def _place(partial: Path, target: Path) -> None:
    try:
        os.link(partial, target)  # unlike a rename it never replaces a file that appeared meanwhile
    except FileExistsError:
        raise StorageConflictError("the target exists already", field="target") from None
    except OSError:  # a file system without links
        partial.rename(target)


def _copy(connection: apsw.Connection, partial: Path) -> None:
    copy = apsw.Connection(str(partial))
    try:
        with copy.backup("main", connection, "main") as steps:
            while not steps.done:
                steps.step(1000)
        copy.pragma("journal_mode", "delete")
        if copy.pragma("quick_check") != "ok":
            raise StorageCorruptError("the backup did not pass its integrity check")
    finally:
        copy.close()
