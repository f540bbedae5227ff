"""Operations on turns; made-up ids are left out of the comparison."""

from typing import Any

from hypothesis import strategies as st

from polymem.contracts.turns import Turn
from polymem.store import Store
from polymem.testing.models.model import TTL, Memo, Model

SESSION = st.sampled_from(["s", "S", "s/", "\U0001f600"])
CONTENT = st.sampled_from(["", "hello", "\u00e9", [], [{"type": "image"}]])
NUMBER = st.integers(0, 6)


def _seen(turn: Turn | None) -> Any:
    if turn is None:
        return None
    return turn.turn_id, turn.role, turn.content, turn.metadata, turn.created_at, turn.expires_at


async def _append(  # noqa: PLR0917 - drawn arguments
    store: Store, _: Memo, session: str, content: Any, number: int | None, ttl: Any, replace: bool
) -> Any:
    return _seen(await store.turns.append(session, "user", content, turn_id=number, ttl=ttl, replace=replace))


async def _append_many(store: Store, _: Memo, session: str, numbers: list[int | None], ttl: Any, replace: bool) -> Any:
    batch = [{"role": "user", "content": f"{n}", "turn_id": n, "ttl": ttl} for n in numbers]
    return [_seen(turn) for turn in await store.turns.append_many(session, batch, replace=replace)]


async def _get(store: Store, _: Memo, session: str, number: int) -> Any:
    return _seen(await store.turns.get(session, number))


async def _recent(store: Store, _: Memo, session: str, limit: int, offset: int) -> Any:
    return [_seen(turn) for turn in await store.turns.recent(session, limit=limit, offset=offset)]


async def _delete(store: Store, _: Memo, session: str, numbers: list[int]) -> int:
    return await store.turns.delete_many(session, numbers)


async def _touch(store: Store, _: Memo, session: str, ttl: Any) -> int:
    return await store.turns.touch(session, ttl=ttl)


async def _clear(store: Store, _: Memo, session: str) -> int:
    return await store.turns.clear(session)


async def _count(store: Store, _: Memo, session: str) -> Any:
    return await store.turns.count(session), await store.turns.count()


async def _state(store: Store) -> Any:
    sessions = [session async for session in store.turns.sessions()]
    return {session: [_seen(turn) async for turn in store.turns.scan(session)] for session in sessions}


TURNS = Model(
    "turns",
    {
        "append": (_append, (SESSION, CONTENT, st.none() | NUMBER, TTL, st.booleans())),
        "append_many": (_append_many, (SESSION, st.lists(st.none() | NUMBER, max_size=4), TTL, st.booleans())),
        "get": (_get, (SESSION, NUMBER)),
        "recent": (_recent, (SESSION, NUMBER, NUMBER)),
        "delete": (_delete, (SESSION, st.lists(NUMBER, max_size=3))),
        "touch": (_touch, (SESSION, TTL)),
        "clear": (_clear, (SESSION,)),
        "count": (_count, (SESSION,)),
    },
    ("append", "append_many"),
    _state,
)
