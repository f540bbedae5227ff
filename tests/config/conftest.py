"""Every test begins in an empty folder."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and no variables of ours."""
    monkeypatch.chdir(tmp_path)
    for name in ("POLYMEM_URL", "POLYMEM_ENGINE", "POLYMEM_MEMORY_TENANT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
