"""The log of changes of key-value records (EVT-1): triggers write it, this reads and trims it.

Changes are told once no older transaction that writes is open, in the order of transactions: then nothing can appear
before what was told. A position is the log's name, the place of the last change, and the snapshot of the beginning
as long as that may show changes behind this place.
"""

import re
from typing import Any, Final, NamedTuple, Self

from polymem.contracts.events import Change, ChangePage
from polymem.core.ids import uuid7
from polymem.core.namespace import subtree_end
from polymem.engines.postgres._pool import Link
from polymem.engines.postgres._runner import PoolRunner
from polymem.engines.postgres._schema_events import TRIGGERS

KEPT: Final = 100_000
DAY: Final = 86_400_000_000
"""How long a namespace is logged that nobody reads."""
_LOG: Final = "(select value from pm_meta where name = 'kv_changes')"
_NOW: Final = "pg_snapshot_xmin(pg_current_snapshot())"
_KNOWN: Final = f"update pm_watched set read_at = $2 where namespace = $1 returning {_LOG}, pg_current_snapshot()::text"
_WATCH: Final = f"insert into pm_watched values($1, {_NOW}, $2) on conflict do nothing"
_READ: Final = f"""
select {_LOG} as log, {_NOW}::text as xmin, w.since::text, w.read_at, c.*
from pm_watched w left join lateral (
    select op, key, xid::text, seq, expires_at, at from pm_kv_changes
    where namespace = w.namespace and (xid, seq) > ($2::text::xid8, $3::bigint) and xid < {_NOW}
    and ($4::text is null or not pg_visible_in_snapshot(xid, $4::text::pg_snapshot))
    order by pm_kv_changes.xid, seq limit $5) c on true
where w.namespace = $1"""
_CUT: Final = f"select xid::text from pm_kv_changes where xid < {_NOW} order by pm_kv_changes.xid desc, seq desc offset $1 limit 1"
_POSITION: Final = re.compile(
    r"([0-9a-f-]{36})\.([1-9][0-9]{0,18})\.(0|[1-9][0-9]{0,17})\.([0-9]{1,19}:[0-9]{1,19}:[0-9,]*)?\.", re.ASCII
)


class Position(NamedTuple):
    """Behind the change `seq` of the transaction `xid`, and behind everything that `snapshot` shows."""

    log: str
    xid: int
    seq: int
    snapshot: str | None

    def __str__(self) -> str:
        return f"{self.log}.{self.xid}.{self.seq}.{self.snapshot or ''}."

    @classmethod
    def read(cls, text: str) -> Self | None:
        found = _POSITION.fullmatch(text)
        if found is None:
            return None
        log, xid, seq, snapshot = found.groups()
        return cls(log, int(xid), int(seq), snapshot)

    def at(self, xid: int, seq: int) -> "Position":
        """Further on."""
        passed = self.snapshot is not None and xid >= int(self.snapshot.split(":")[1])
        return Position(self.log, xid, seq, None if passed else self.snapshot)


class Found(NamedTuple):
    """A page, and when reading was last noted."""

    page: ChangePage
    read_at: int


async def watch(runner: PoolRunner, namespace: str, now: int) -> str:
    """Log a namespace from here on; the position behind its newest committed change."""
    rows = await runner.fetch(_KNOWN, namespace, now)
    if not rows:
        await _begin(runner, namespace, now)
        rows = await runner.fetch(_KNOWN, namespace, now)
    log, snapshot = rows[0]
    return str(Position(log, int(snapshot.split(":")[0]), 0, snapshot))


async def page(runner: PoolRunner, namespace: str, after: str, limit: int, removed_at: int | None) -> Found | None:
    """The changes behind a position, None where it is lost. `removed_at`: see `_change`."""
    position = Position.read(after)
    if position is None:
        return None
    snapshot = position.snapshot
    rows = await runner.fetch(_READ, namespace, str(position.xid), position.seq, snapshot, limit)
    if not rows or rows[0]["log"] != position.log:
        return None
    xmin = int(rows[0]["xmin"])
    if not int(rows[0]["since"]) <= position.xid <= xmin:
        return None
    changes = [_change(position, row, removed_at) for row in rows if row["op"] is not None]
    last = changes[-1].position if len(changes) == limit else str(position.at(xmin, 0))
    return Found(ChangePage(changes, last), rows[0]["read_at"])


async def note_reader(runner: PoolRunner, namespace: str, now: int) -> None:
    """Go on logging: somebody reads."""
    await runner.fetch("update pm_watched set read_at = $2 where namespace = $1", namespace, now)


async def forget_keys(link: Link, prefix: str) -> None:
    """The log names keys: those of namespaces that are dropped go with them; that they were cleared stays."""
    await link.fetch(
        "delete from pm_kv_changes where namespace >= $1 and ($2 = '' or namespace < $2) and key is not null",
        prefix, subtree_end(prefix),
    )  # fmt: skip


async def trim(runner: PoolRunner, now: int, kept: int = KEPT) -> None:
    """Keep the latest changes, and no log of what nobody has read for a day."""
    async with runner.unit() as link:
        rows = await link.fetch(_CUT, kept)
        if rows:
            cut = rows[0][0]
            await link.fetch("delete from pm_kv_changes where xid <= $1::text::xid8", cut)
            since = str(int(cut) + 1)
            await link.fetch("update pm_watched set since = $1::text::xid8 where since < $1::text::xid8", since)
        gone = await link.fetch("delete from pm_watched where read_at < $1 returning namespace", now - DAY)
        await link.fetch("delete from pm_kv_changes where namespace = any($1)", [name for (name,) in gone])


async def _begin(runner: PoolRunner, namespace: str, now: int) -> None:
    """Waits for open transactions, which might write without being logged, and lets new ones wait for it."""
    async with runner.unit() as link:
        await link.run("lock table pm_gate in access exclusive mode; lock table pm_kv in share row exclusive mode")
        await link.run(TRIGGERS)
        await link.fetch("insert into pm_meta values('kv_changes', $1) on conflict do nothing", uuid7())
        await link.fetch(_WATCH, namespace, now)


def _change(position: Position, row: Any, removed_at: int | None) -> Change:
    """A removal after the expiry is one by expiry. The log has the server's time; `removed_at` is that of a clock of
    the caller's, if there is one.
    """
    op, expires_at = row["op"], row["expires_at"]
    if expires_at is not None and expires_at <= (row["at"] if removed_at is None else removed_at):
        op = "expire"
    return Change(op, row["key"], str(position.at(int(row["xid"]), row["seq"])))
