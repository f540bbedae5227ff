"""Configuration files for tests, and what is said of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from polymem.config import Config, load
from polymem.errors import StorageDataError

SECRET = "hunter2-very-secret"
FULL = """
engine = "local"
[engines.local]
url = "sqlite:///agent.db"
durability = "normal"
cache_mb = 32
sweep_every = 0
retry_writes = false
[memory]
tenant = "acme"
language = "german"
embed = "none"
[logging]
level = "INFO"
json = true
"""


def written(folder: Path, text: str, name: str = "polymem.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def origins(config: Config) -> Mapping[str, str]:
    return {row.key: row.origin for row in config.describe()}


def refused(text: str, folder: Path, **more: Any) -> StorageDataError:
    path = written(folder, text)
    with pytest.raises(StorageDataError) as caught:
        load(path, env={}, **more)
    return caught.value
