"""The command as a process of its own: what is loaded, exit codes, streams."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from polymem.cli import main; main()"]


def run(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POLYMEM_")}
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env={**kept, **variables}, capture_output=True, text=True, check=False
    )


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom polymem.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print({'numpy', 'apsw', 'msgspec', 'rich', 'asyncio', 'polymem.store'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "remember" in done.stdout
    assert done.stderr.strip() == "set()"


def test_one_process_writes_another_reads(tmp_path: Path) -> None:
    made = run(tmp_path, "remember", "dark mode", POLYMEM_URL="sqlite:///agent.db")
    assert (made.returncode, made.stderr) == (0, "")
    found = run(tmp_path, "recall", "dark", "--json", POLYMEM_URL="sqlite:///agent.db")
    assert [hit["id"] for hit in json.loads(found.stdout)["hits"]] == [made.stdout.strip()]
    assert [path.name for path in tmp_path.iterdir()] == ["agent.db"]


def test_failure_and_usage_go_to_standard_error(tmp_path: Path) -> None:
    failed, misused = run(tmp_path, "stats"), run(tmp_path, "recall")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("polymem: ")
    assert failed.stderr.count("\n") == 1
    assert (misused.returncode, misused.stdout) == (2, "")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, "stats", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -1', "-", *COMMAND, "doctor", "--matrix"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_ends_cleanly_and_what_was_acknowledged_stays(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(f'{{"session": "s", "content": "number {n}"}}\n' for n in range(8_000)))
    command = [*COMMAND, "--url", "sqlite:///agent.db", "ingest", "talk.jsonl"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("agent.db")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    again = run(tmp_path, "--url", "sqlite:///agent.db", "ingest", "talk.jsonl", "--json")
    found = json.loads(again.stdout)
    assert found["added"] + found["present"] == 8_000
    assert found["added"] > 0
