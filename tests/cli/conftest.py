"""Runs the real command in an empty folder, with none of our variables set."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from polymem.cli import main
from polymem.config.sources import FALLBACKS


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _logging_untouched() -> Iterator[None]:
    """A configured command adds a handler to the logger of this very process."""
    logger = logging.getLogger("polymem")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("POLYMEM_") or name in FALLBACKS]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Run:
    def call(*arguments: str, code: int = 0, **given: Any) -> Outcome:
        result = CliRunner().invoke(main, arguments, **given)
        assert result.exit_code == code, (result.output, result.exception)
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return call
