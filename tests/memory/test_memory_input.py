"""Bad input: `StorageDataError` names the field and nothing is written (G-2, G-3)."""

from collections.abc import Awaitable, Callable
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest

from polymem.errors import StorageDataError, StorageUnsupportedError
from polymem.memory.memory import Memory
from polymem.memory.session import NewTurn
from polymem.store import Store

pytestmark = pytest.mark.anyio
NAIVE = datetime(2024, 1, 1)  # noqa: DTZ001 - the point
AWARE = datetime(2024, 1, 1, tzinfo=UTC)
LONG = "x" * 513
NAMES: list[Any] = ["", "\0", "\ud800", 5, LONG]
SHARES: list[Any] = [-0.1, 1.1, "1", True, None, float("nan")]
METADATA: list[Any] = [5, "x", [1], {"a": float("nan")}, {1: 2}, {"a": {"b": object()}}, {"a": "\0"}]
TTLS: list[Any] = ["x", True, float("nan"), 1e300, NAIVE]
TURN: dict[str, list[Any]] = {
    "role": [*NAMES, None],
    "content": [5, None, {"a": 1}, ["x"], "\0", "\ud800", [{"a": float("inf")}], [{"text": "\0"}], b"x"],
    "speaker": NAMES, "subject": NAMES, "at": [NAIVE, 5, "now"], "metadata": METADATA, "source": ["\0", 5],
    "confidence": SHARES, "importance": SHARES, "ttl": TTLS, "turn_id": [-1, True, "1", 1.5, 2**53 + 1],
}  # fmt: skip
FACT: dict[str, list[Any]] = {
    "text": ["", "  \n", "\0", 5, None], "kind": [*NAMES, "turn", None], "subject": NAMES, "session": NAMES,
    "at": [NAIVE, 5], "source": ["\0", 5], "confidence": SHARES, "importance": SHARES, "metadata": METADATA,
    "valid_from": [NAIVE, 5], "valid_to": [NAIVE, "x"], "ttl": TTLS, "idempotency_key": [5, "\0"],
}  # fmt: skip
FILTERS: dict[str, list[Any]] = {
    "session": NAMES, "subject": NAMES, "kinds": ["fact", 5, [""], [5]], "where": [5, {"a": {"$bad": 1}}],
    "limit": [-1, True, "1", 1.5, None],
}  # fmt: skip
RECALL = {**FILTERS, "query": [5, None, "\0"], "as_of": [NAIVE, 5], "weights": [{"text": 1}, 5]}
Call = Callable[[Memory, dict[str, Any]], Awaitable[Any]]
CALLS: list[tuple[str, Call, dict[str, Any], dict[str, list[Any]]]] = [
    ("add", lambda m, a: m.session("s").add(**a), {"role": "user", "content": "hi"}, {**TURN, "idempotency_key": [5, "\0"]}),
    ("add_many", lambda m, a: m.session("s").add_many([{"role": "user", "content": "fine"}, a]),
     {"role": "user", "content": "hi"}, TURN),
    ("NewTurn", lambda m, a: m.session("s").add_many([NewTurn(**a)]), {"role": "user", "content": "hi"}, TURN),
    ("remember", lambda m, a: m.remember(**a), {"text": "hi"}, FACT),
    ("recall", lambda m, a: m.recall(**a), {"query": "hi"}, RECALL),
    ("list", lambda m, a: m.list(**a), {}, FILTERS),
    ("update", lambda m, a: m.update(**a), {},
     {k: v for k, v in FACT.items() if k not in ("session", "at", "idempotency_key", "subject")}),
    ("get", lambda m, a: m.get(**a), {}, {"memory_id": NAMES}),
    ("delete", lambda m, a: m.delete(**a), {}, {"memory_id": NAMES}),
    ("history", lambda m, a: m.history(**a), {}, {"memory_id": NAMES}),
    ("update id", lambda m, a: m.update(**a), {"text": "x"}, {"memory_id": NAMES}),
    ("forget", lambda m, a: m.forget(**a), {}, {"subject": NAMES}),
    ("turns", lambda m, a: m.session("s").turns(**a), {}, {"limit": [-1, True, "1"], "offset": [-1, None]}),
    ("context", lambda m, a: m.session("s").context(**a), {"token_budget": 10},
     {"token_budget": [0, -1, True, "1", 1.5, None], "query": [5, "\0"]}),
]  # fmt: skip


@pytest.fixture
async def kept(memory: Memory) -> str:
    return await memory.remember("kept", subject="Ada")


@pytest.mark.parametrize(("name", "call", "good", "bad"), CALLS, ids=[call[0] for call in CALLS])
async def test_each_argument(
    memory: Memory, kept: str, name: str, call: Call, good: dict[str, Any], bad: dict[str, list[Any]]
) -> None:
    before = await memory.stats()
    for field, values in bad.items():
        for value in values:
            arguments = {**good, field: value, **({"memory_id": kept} if name == "update" else {})}
            with pytest.raises(StorageDataError) as caught:
                await call(memory, arguments)
            assert _names(caught.value.field, field), (name, field, value, caught.value.field)
    assert await memory.stats() == before
    assert [record.text for record in await memory.list()] == ["kept"]
    assert await memory.sessions() == []


def _names(blamed: str | None, field: str) -> bool:
    return blamed is not None and blamed.removeprefix("turns.").split(".")[0].split("[")[0].split(" ")[0] in {
        field, *({"where", "op"} if field == "where" else ()),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("turns", "field"),
    [
        (5, "turns"), ("hello", "turns"), ({"role": "user", "content": "x"}, "turns"), (["hello"], "turns"),
        ([{"content": "x"}], "turns.role"), ([{"role": "user"}], "turns.content"), ([("user", "x")], "turns"),
        ([{"role": "user", "content": "x", "tekst": 1}], "turns.tekst"), ([{"role": "u", "content": "x", 5: 1}], "turns.5"),
    ],
)  # fmt: skip
async def test_turns_that_are_none(memory: Memory, turns: Any, field: str) -> None:
    with pytest.raises(StorageDataError) as caught:
        await memory.session("s").add_many(turns)
    assert caught.value.field == field
    assert await memory.sessions() == []


async def test_options_of_add_many(memory: Memory) -> None:
    session, turn = memory.session("s"), {"role": "user", "content": "x"}
    with pytest.raises(StorageDataError) as caught:
        await session.add_many([turn], skip_existing=True)
    assert caught.value.field == "turns.turn_id"
    with pytest.raises(StorageDataError) as caught:
        await session.add_many([turn] * 501, idempotency_key="k")
    assert caught.value.field == "turns"
    assert await session.count() == 0


async def test_an_unknown_change(memory: Memory, kept: str) -> None:
    for field in ("colour", "id", "session", "at"):
        with pytest.raises(StorageDataError) as caught:
            await memory.update(kept, **{field: "x"})
        assert caught.value.field == field
    assert len(await memory.history(kept)) == 1


async def test_an_interval_that_ends_before_it_begins(memory: Memory, kept: str) -> None:
    earlier = AWARE.replace(year=2023)
    for call in (
        memory.remember("x", valid_from=AWARE, valid_to=earlier), memory.update(kept, valid_from=AWARE, valid_to=earlier)
    ):  # fmt: skip
        with pytest.raises(StorageDataError) as caught:
            await call
        assert caught.value.field == "valid_to"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenant", ""),
        ("tenant", 5),
        ("tenant", LONG),
        ("embed", "openai"),
        ("embed", 5),
        ("count_tokens", 5),
        ("language", 5),
    ],
)
async def test_the_constructor(store: Store, field: str, value: Any) -> None:
    with pytest.raises(StorageDataError) as caught:
        Memory(store, **{field: value})
    assert caught.value.field == field


async def test_an_unknown_language(store: Store) -> None:
    with pytest.raises((StorageDataError, StorageUnsupportedError)) as caught:
        Memory(store, language="klingon")
    assert caught.value.field == "language"


@pytest.mark.parametrize("value", NAMES)
async def test_a_session_and_its_subject(memory: Memory, value: Any) -> None:
    for field, arguments in (("session", {"session": value}), ("subject", {"session": "s", "subject": value})):
        with pytest.raises(StorageDataError) as caught:
            memory.session(**arguments)
        assert caught.value.field == field


async def test_scan_says_so_at_once(memory: Memory) -> None:
    with pytest.raises(StorageDataError) as caught:
        memory.scan(kinds="fact")
    assert caught.value.field == "kinds"


async def test_input_is_never_changed(memory: Memory) -> None:
    """G-3, in both directions."""
    parts = [{"type": "call", "arguments": {"a": [1, {"b": 2}]}}]
    turn = {"role": "tool", "content": parts, "metadata": {"x": {"y": [1]}}}
    fact, where, kinds = {"k": {"deep": [1]}}, {"metadata.k.deep": {"$exists": True}}, ["fact"]
    given = [turn, fact, where, kinds]
    copy = deepcopy(given)
    await memory.session("s").add_many([turn])
    id = await memory.remember("a fact", metadata=fact)
    await memory.update(id, metadata=fact)
    hits = await memory.recall("a fact", kinds=kinds)
    hits[0].metadata["k"]["deep"].append(2)
    (await memory.session("s").turns())[0].content[0]["arguments"] = None  # type: ignore[index]
    assert given == copy
    parts.append({"late": 1})
    fact["k"]["deep"].append(9)
    found = await memory.get(id)
    assert found is not None
    assert found.metadata == {"k": {"deep": [1]}}
    assert (await memory.session("s").turns())[0].content == copy[0]["content"]  # type: ignore[index]
