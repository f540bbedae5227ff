"""`polymem ingest`: every layout, once and only once, resumable (CLI-1)."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import polymem
from polymem.memory.session import MemorySession

from .conftest import Run

DB = "sqlite:///agent.db"


def lines(folder: Path, count: int, *, sessions: int = 1, name: str = "talk.jsonl") -> Path:
    path = folder / name
    rows = [
        {"session": f"s{n % sessions}", "role": "user", "content": f"number {n}", "speaker": "Ada",
         "at": f"2026-01-01T00:00:{n % 60:02}Z", "metadata": {"n": n}}
        for n in range(count)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stored(folder: Path, session: str, tenant: str = "default") -> list[Any]:
    async def work() -> list[Any]:
        async with polymem.open(f"sqlite:///{folder}/agent.db") as store:
            return [turn async for turn in store.namespace(tenant).turns.scan(session)]

    return asyncio.run(work())


def test_turns_come_in_whole_and_in_order(run: Run, folder: Path) -> None:
    path = lines(folder, 4, sessions=2)
    assert run("--url", DB, "ingest", str(path), "--json").json == {"added": 4, "present": 0, "sessions": 2}
    turns = stored(folder, "s1")
    assert [(turn.turn_id, turn.content) for turn in turns] == [(1, "number 1"), (2, "number 3")]
    assert turns[0].metadata == {"n": 1, "turn": "2"}
    assert turns[0].created_at.isoformat() == "2026-01-01T00:00:01+00:00"
    hits = run("--url", DB, "recall", "number 3", "--json").json["hits"]
    assert hits[0]["text"] == "number 3"
    assert hits[0]["speaker"] == "Ada"


def test_again_adds_nothing_and_a_longer_file_only_what_is_new(run: Run, folder: Path) -> None:
    path = lines(folder, 7, sessions=2)
    run("--url", DB, "ingest", str(path))
    assert run("--url", DB, "ingest", str(path), "--json").json == {"added": 0, "present": 7, "sessions": 2}
    lines(folder, 10, sessions=2)
    assert run("--url", DB, "ingest", str(path)).out == "added: 3\npresent: 7\nsessions: 2\n"
    assert [turn.content for turn in stored(folder, "s0")] == [f"number {n}" for n in (0, 2, 4, 6, 8)]
    assert run("--url", DB, "stats", "--json").json["memories"] == 10


def test_an_interrupted_run_goes_on(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, whole, calls = lines(folder, 1200), MemorySession.add_many, 0

    async def breaks(self: Any, turns: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return await whole(self, turns, **options)

    with monkeypatch.context() as patched:
        patched.setattr(MemorySession, "add_many", breaks)
        assert "Aborted" in run("--url", DB, "ingest", str(path), code=1).err
    assert len(stored(folder, "s0")) == 500
    assert run("--url", DB, "ingest", str(path), "--json").json == {"added": 700, "present": 500, "sessions": 1}
    assert [turn.content for turn in stored(folder, "s0")] == [f"number {n}" for n in range(1200)]


def test_alternating_sessions_do_not_pile_up(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymem.cli.ingest._HELD", 50)
    path, largest, whole = lines(folder, 400, sessions=100), 0, MemorySession.add_many

    async def noted(self: Any, turns: Any, **options: Any) -> Any:
        nonlocal largest
        largest = max(largest, len(turns))
        return await whole(self, turns, **options)

    monkeypatch.setattr(MemorySession, "add_many", noted)
    assert run("--url", DB, "ingest", str(path), "--json").json == {"added": 400, "present": 0, "sessions": 100}
    assert largest < 4
    assert [turn.content for turn in stored(folder, "s7")] == ["number 7", "number 107", "number 207", "number 307"]


def test_a_bad_line_is_named_and_nothing_is_written(run: Run, folder: Path) -> None:
    """G-2."""
    path = lines(folder, 600)
    with path.open("a") as file:
        file.write('{"role": "user"}\n')
    outcome = run("--url", DB, "ingest", str(path), code=1)
    assert "line 601" in outcome.err
    assert "content" in outcome.err
    assert not (folder / "agent.db").exists()


def test_a_session_with_other_turns_is_not_mixed(run: Run, folder: Path) -> None:
    run("--url", DB, "ingest", str(lines(folder, 3)))
    other = folder / "other.jsonl"
    other.write_text("".join(f'{{"session": "s0", "turn": "x{n}", "content": "other"}}\n' for n in range(5)))
    outcome = run("--url", DB, "ingest", str(other), code=1)
    assert "--session-prefix" in outcome.err
    assert len(stored(folder, "s0")) == 3
    run("--url", DB, "ingest", str(other), "--session-prefix", "b/")
    assert len(stored(folder, "b/s0")) == 5


def test_metadata_of_the_file_is_kept_as_it_is(run: Run, folder: Path) -> None:
    path = folder / "talk.jsonl"
    path.write_text('{"session": "s", "content": "hi", "metadata": {"turn": {"n": 1}}}\n')
    for added in (1, 0):
        assert run("--url", DB, "ingest", str(path), "--json").json["added"] == added
    assert stored(folder, "s")[0].metadata == {"turn": {"n": 1}}


def test_a_shorter_file_is_no_conflict(run: Run, folder: Path) -> None:
    run("--url", DB, "ingest", str(lines(folder, 5)))
    path = lines(folder, 2)
    assert run("--url", DB, "ingest", str(path), "--json").json == {"added": 0, "present": 2, "sessions": 1}


def test_tenant(run: Run, folder: Path) -> None:
    run("--url", DB, "ingest", str(lines(folder, 2)), "--tenant", "acme")
    assert len(stored(folder, "s0", "acme")) == 2
    assert stored(folder, "s0") == []


LOCOMO = [
    {
        "sample_id": name,
        "conversation": {
            "session_1": [{"speaker": "Ada", "dia_id": "D1:1", "text": f"hello {name}"}],
            "session_1_date_time": "1:56 pm on 8 May, 2023",
        },
        "qa": [],
    }
    for name in ("conv-1", "conv-2")
]
BEAM = [{"time_anchor": "March-15-2024", "turns": [[{"id": 1, "role": "user", "content": "hi"},
                                                   {"id": 2, "role": "assistant", "content": "yes"}]]}]  # fmt: skip
LAYOUTS = {
    "locomo.json": (json.dumps(LOCOMO), {"conv-1/session_1": 1, "conv-2/session_1": 1}),
    "beam/7/chat.json": (json.dumps(BEAM), {"7/batch_1": 2}),
    "messages.json": (json.dumps({"messages": [{"role": "user", "content": "hi"}]}), {"messages": 1}),
    "chat.txt": ("[2026-01-31 12:00] Ada: hi\n[2026-01-31 12:01] Bob: hello\nthere\n", {"chat": 2}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(run: Run, folder: Path, name: str) -> None:
    content, sessions = LAYOUTS[name]
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    source = folder / "beam" if name.startswith("beam") else path
    expected = {"added": sum(sessions.values()), "present": 0, "sessions": len(sessions)}
    assert run("--url", DB, "ingest", str(source), "--json").json == expected
    assert {session: len(stored(folder, session)) for session in sessions} == sessions
    assert run("--url", DB, "ingest", str(source), "--json").json["added"] == 0


def test_an_unknown_layout(run: Run, folder: Path) -> None:
    (folder / "x.bin").write_bytes(b"\x00\xff")
    assert "x.bin" in run("--url", DB, "ingest", "x.bin", code=1).err
    (folder / "y.txt").write_text("nothing of the kind")
    assert "layout" in run("--url", DB, "ingest", "y.txt", code=1).err
    assert not (folder / "agent.db").exists()
