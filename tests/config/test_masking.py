"""No password, key or token in repr, str, errors or printed settings (G-1)."""

from pathlib import Path
from typing import Any

import pytest
from config.files import SECRET, refused, written
from hypothesis import given
from hypothesis import strategies as st

from polymem.config import load, opening, store_of
from polymem.config.masking import is_secret, mask_url
from polymem.errors import StorageDataError, StorageUnsupportedError

TEXT = f"""
engine = "pg"
[engines.pg]
url = "neo4j://ada:{SECRET}@host/db?sslmode=require&password={SECRET}"
password = "{SECRET}"
api_key = "{SECRET}"
user = "ada"
[providers]
anthropic_api_key = "{SECRET}"
"""


def test_nothing_printed_holds_them(folder: Path) -> None:
    config = load(written(folder, TEXT), env={})
    shown = [repr(config), str(config), repr(config.only()), repr(config.providers), repr(config.describe())]
    assert not any(SECRET in text for text in shown)
    rows = {row.key: row.value for row in config.describe()}
    assert rows["engines.pg.url"] == "neo4j://ada:***@host/db?sslmode=require&password=***"
    assert rows["engines.pg.password"] == rows["providers.anthropic_api_key"] == "***"
    assert rows["engines.pg.user"] == "ada"


def test_nor_does_an_error(folder: Path) -> None:
    path = written(folder, TEXT)
    with pytest.raises(StorageUnsupportedError) as caught:
        opening.open(path)
    assert SECRET not in str(caught.value)
    assert SECRET not in str(refused(TEXT + "[memory]\nbogus = 1", folder))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pw@host:6379/0", "redis://:***@host:6379/0"),
        ("postgresql://u:p@ss/w?rd@host/db", "postgresql://u:***@host/db"),
        ("postgresql://u@host/db", "postgresql://u@host/db"),
        ("sqlite:///odd@name.db?durability=normal", "sqlite:///odd@name.db?durability=normal"),
        ("https://host/x?apiKey=abc&max_tokens=5", "https://host/x?apiKey=***&max_tokens=5"),
        ("memory:", "memory:"),
    ],
)
def test_urls(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@given(st.text(st.characters(exclude_characters=":@", exclude_categories=["Cs"])), st.text(), st.text())
def test_no_password_survives_however_it_is_written(user: str, before: str, after: str) -> None:
    if user.startswith("/"):
        user = f"u{user}"
    assert SECRET not in mask_url(f"postgresql://{user}:{before}{SECRET}{after}@host/db")


def test_names() -> None:
    assert all(map(is_secret, ("password", "api_key", "apiKey", "API-KEY", "token", "client_secret", "key")))
    assert not any(map(is_secret, ("max_tokens", "keyspace", "user", "monkey", "url")))


def test_replicas_as_a_list_or_as_text(folder: Path) -> None:
    """PG-4: their passwords are masked like that of the URL."""
    one, two = f"postgresql://u:{SECRET}@a/d", f"postgresql://u:{SECRET}@b/d"
    for text in (f'["{one}", "{two}"]', f'"{one},{two}"'):
        path = written(folder, f'[engines.pg]\nurl = "{one}"\nreplicas = {text}\nmax_staleness = 2.5\n')
        config = load(path)
        assert SECRET not in repr(config.describe())
        engine: Any = store_of(config.only()).engine
        assert [one["replica"] for one in engine.replica_status()] == ["a", "b"]
        assert engine._settings.max_staleness == 2.5
    with pytest.raises(StorageDataError, match="a list of URLs"):
        load(written(folder, f'[engines.pg]\nurl = "{one}"\nreplicas = 3\n'))
