"""`polymem load` and `polymem export` (BLK-2, CLI-1)."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import polymem

from .conftest import Run

DB = "sqlite:///agent.db"


def lines(folder: Path, count: int, *more: str) -> Path:
    path = folder / "x.jsonl"
    rows = [json.dumps({"key": f"k{n:05}", "value": {"n": n}}) for n in range(count)]
    path.write_text("".join(row + "\n" for row in (*rows, *more)))
    return path


def stored(folder: Path, *names: str) -> dict[str, Any]:
    async def work() -> dict[str, Any]:
        async with polymem.open(f"sqlite:///{folder}/agent.db") as store:
            space = store.namespace(*names) if names else store
            return {record.key: record.value async for record in space.kv.bulk_export()}

    return asyncio.run(work())


def test_in_and_out_again(run: Run, folder: Path) -> None:
    lines(folder, 2500)
    found = run("--url", DB, "load", "x.jsonl", "--namespace", "a", "--namespace", "b/c", "--json").json
    assert (found.pop("seconds") > 0, found.pop("bytes") > 0) == (True, True)
    assert found == {"skipped": 0, "loaded": 2500, "failed": 0, "errors": []}
    assert stored(folder, "a", "b/c") == {f"k{n:05}": {"n": n} for n in range(2500)}
    assert stored(folder) == {}
    run("--url", DB, "export", "y.parquet", "--namespace", "a", "--namespace", "b/c", "--prefix", "k000")
    assert run("--url", DB, "load", "y.parquet", "--json").json["loaded"] == 100
    assert list(stored(folder)) == [f"k000{n:02}" for n in range(100)]
    out = run("--url", DB, "export", "z.jsonl.gz", "--json").json
    assert out["exported"] == 100


def test_a_tenant_is_no_namespace(run: Run, folder: Path) -> None:
    """Otherwise the records of one tenant would end up in the root, unseen."""
    lines(folder, 1)
    for command in (("load", "x.jsonl"), ("export", "y.jsonl")):
        assert "--namespace" in run("--url", DB, "--tenant", "acme", *command, code=2).err
    assert not (folder / "agent.db").exists()


def test_text_for_people(run: Run, folder: Path) -> None:
    lines(folder, 3)
    assert "loaded: 3\n" in run("--url", DB, "load", "x.jsonl").out
    assert run("--url", DB, "export", "y.jsonl").out.startswith("exported: 3\n")
    assert (folder / "y.jsonl").read_text().count("\n") == 3


def test_a_bad_line_is_named_and_the_rest_can_be_gone_on_with(run: Run, folder: Path) -> None:
    lines(folder, 2100, '{"key": "z"}', '{"key": "last", "value": 1}')
    failed = run("--url", DB, "load", "x.jsonl", code=1)
    assert "x.jsonl line 2101" in failed.err
    assert "--skip 2000" in failed.err
    assert len(stored(folder)) == 2000
    collected = run("--url", DB, "load", "x.jsonl", "--skip", "2000", "--on-error", "collect", "--json", code=1).json
    assert (collected["skipped"], collected["loaded"], collected["failed"]) == (2000, 101, 1)
    assert collected["errors"][0]["where"] == "x.jsonl line 2101"
    assert collected["errors"][0]["field"] == "value"
    assert len(stored(folder)) == 2101
    shown = run("--url", DB, "load", "x.jsonl", "--on-error", "collect", code=1)
    assert "note: x.jsonl line 2101: value: " in shown.err


@pytest.mark.parametrize("option", ["--check-first", "--dry-run"])
def test_checked_before_anything_is_stored(run: Run, folder: Path, option: str) -> None:
    lines(folder, 2100, "{")
    assert "line 2101" in run("--url", DB, "load", "x.jsonl", option, code=1).err
    assert not (folder / "agent.db").exists() or stored(folder) == {}
    lines(folder, 2100)
    assert run("--url", DB, "load", "x.jsonl", option, "--json").json["loaded"] == 2100
    if option == "--dry-run":
        assert not (folder / "agent.db").exists()


def test_a_file_that_is_there_is_kept_unless_forced(run: Run, folder: Path) -> None:
    lines(folder, 3)
    run("--url", DB, "load", "x.jsonl")
    assert "--force" in run("--url", DB, "export", "x.jsonl", code=1).err
    run("--url", DB, "export", "x.jsonl", "--force")
    assert (folder / "x.jsonl").read_text().startswith('{"key":"k00000","value":{"n":0}}\n')


def test_export_makes_no_database(run: Run, folder: Path) -> None:
    run("--url", DB, "export", "x.jsonl", code=1)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("load",), ("load", "absent.jsonl"), ("load", "x.jsonl", "--skip", "-1"), ("load", "x.jsonl", "--format", "csv"),
        ("load", "x.jsonl", "--on-error", "ignore"), ("export",), ("export", "y.jsonl", "--compression", "rar"),
    ],
)  # fmt: skip
def test_wrong_usage(run: Run, folder: Path, arguments: tuple[str, ...]) -> None:
    lines(folder, 3)
    run("--url", DB, *arguments, code=2)
    assert [path.name for path in folder.iterdir()] == ["x.jsonl"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and pipes")
def test_ctrl_c_says_where_to_go_on(folder: Path) -> None:
    """BLK-1: whole chunks are stored, and told. The file is a pipe, which ends when the test says so."""
    os.mkfifo(folder / "pipe.jsonl")
    command = [sys.executable, "-c", "from polymem.cli import main; main()", "--url", DB, "load", "pipe.jsonl"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with (folder / "pipe.jsonl").open("w") as pipe:
            pipe.write("".join(f'{{"key": "k{n}", "value": {n}}}\n' for n in range(2500)))
            pipe.flush()
            while not (folder / "agent.db").exists() or len(stored(folder)) < 2000:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "2000 records are done with; --skip 2000 goes on" in errors
    assert len(stored(folder)) == 2000
