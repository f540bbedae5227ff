"""The example engine outside the package: its own six-line suite, and its URL through the entry point."""

import asyncio
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from polymem.errors import StorageConnectionError, StorageCorruptError
from polymem.testing import UrlHarness
from polymem.testing.run import run

EXAMPLE = Path(__file__).parents[2] / "examples" / "third_party_engine"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What installing the example would put on the path, made from its own pyproject.toml."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / "polymem_log-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(info.parent)
    monkeypatch.syspath_prepend(EXAMPLE / "src")
    return tmp_path


def test_its_own_suite_passes() -> None:
    """As its author would run it, in a process of its own."""
    path = os.pathsep.join([str(EXAMPLE / "src"), *filter(None, sys.path)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert len((EXAMPLE / "tests" / "test_log.py").read_text().split("\n\n\n")[1].splitlines()) <= 6


def test_its_url_is_found(installed: Path) -> None:
    report = asyncio.run(run(UrlHarness(f"log:///{installed}/a.log"), examples=20))
    assert report.ok, [result.reason for result in report.failures]
    assert report.engine == "log"
    assert set(report.cells) == {"kv", "engine"}
    assert "kv.model" in [r.clause.id for r in report.results]


def test_crashes_and_second_users(installed: Path) -> None:
    """A torn last line is cut off, a damaged one refused without touching it, a second store refused."""
    path, url = installed / "b.log", f"log:///{installed}/b.log"

    async def scenario() -> None:
        store = await UrlHarness(url).open(_clock())
        await store.kv.put("a", 1)
        with pytest.raises(StorageConnectionError):
            await UrlHarness(url).open(_clock())
        await store.close()
        whole = path.read_bytes()
        path.write_bytes(whole + b'[["", "b", ["MQ=')
        store = await UrlHarness(url).open(_clock())
        assert await store.kv.get_many(["a", "b"]) == {"a": 1}
        await store.kv.put("c", 3)
        await store.close()
        damaged = b"not json\n" + path.read_bytes()
        path.write_bytes(damaged)
        with pytest.raises(StorageCorruptError):
            await UrlHarness(url).open(_clock())
        assert path.read_bytes() == damaged

    asyncio.run(scenario())


def _clock():  # type: ignore[no-untyped-def]
    from polymem.testing import ManualClock

    return ManualClock()
