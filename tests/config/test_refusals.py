"""The error names key and file and says what was expected (CFG-1, G-2)."""

from pathlib import Path

import pytest
from config.files import SECRET, refused

from polymem.config import load
from polymem.errors import StorageDataError


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("[memroy]\ntenant = 'x'", "memroy.tenant", "unknown key"),
        ("[memory]\ntenent = 'x'", "memory.tenent", "memory.tenant"),
        ("[memory]\ntenant = 5", "memory.tenant", "a string"),
        ("[memory]\nembed = 'dynamic'", "memory.embed", "static, none"),
        ("[memory.tenant]\nname = 'x'", "memory.tenant.name", "unknown key"),
        ("memory = 'x'", "memory", "unknown key"),
        ("tenant = 'x'", "tenant", "unknown key"),
        ("engine = 5", "engine", "a string"),
        ("[engines.local]\nurl = 'memory:'\nbogus = 1", "engines.local.bogus", "url, sweep_every"),
        ("[engines.local]\nurl = 'memory:'\ncache_mb = 1", "engines.local.cache_mb", "unknown key"),
        ("[engines.local]\nurl = 'sqlite:///a'\ncache_mb = '1'", "engines.local.cache_mb", "a whole number"),
        ("[engines.local]\nurl = 'sqlite:///a'\ncache_mb = true", "engines.local.cache_mb", "a whole number"),
        ("[engines.local]\nurl = 'sqlite:///a'\ndurability = 'x'", "engines.local.durability", "full, normal"),
        ("[engines.local]\nurl = 'memory:'\nsweep_every = nan", "engines.local.sweep_every", "finite"),
        ("[engines.local]\nurl = 'memory:'\nsweep_every = -1", "engines.local.sweep_every", "seconds"),
        ("[engines.local]\nurl = 'memory:'\nretry_writes = 1", "engines.local.retry_writes", "true or false"),
        ("[engines.local]\nretry_writes = true", "engines.local.url", "missing"),
        ("[engines.local]\nurl = 'nonsense'\ncache_mb = 1", "engines.local.url", "expected a URL"),
        ("[engines.local]\nurl = 5", "engines.local.url", "a string"),
        ("[engines.Local]\nurl = 'memory:'", "engines.Local.url", "lower case"),
        ("engines = 'x'", "engines", "unknown key"),
        ("[engines]\nurl = 'memory:'", "engines.url", "engines.<name>"),
        ("[engines.a]\nurl = 'memory:'\n[engines.b]\nurl = 'memory:'", "engine", "among a, b"),
        ("engine = 'c'\n[engines.a]\nurl = 'memory:'", "engine", "there are: a"),
        ("[engines.a]\nurl = 'memory:'\n[contracts]\nkv = 'c'", "contracts.kv", "there are: a"),
        ("[engines.a]\nurl = 'memory:'\n[contracts]\nkvs = 'a'", "contracts.kvs", "contracts.kv"),
        ("[engines.a]\nurl = 'memory:'\n[tiers]\nl5 = 'a'", "tiers.l5", "tiers.active"),
        ("[engines.a]\nurl = 'memory:'\n[stores]\nx = 'a'", "stores.x", "stores.memory"),
        ("[logging]\nlevel = 'LOUD'", "logging.level", "DEBUG"),
        ("'a.b' = 1", "a.b", "unknown key"),
    ],
)
def test_names_key_and_file(folder: Path, text: str, key: str, expected: str) -> None:
    error = refused(text, folder)
    assert error.field == key
    assert key in str(error)
    assert expected in str(error)
    assert "polymem.toml" in str(error)


def test_a_variable_is_named_and_its_value_is_not() -> None:
    env = {"POLYMEM_URL": "sqlite:///a.db", "POLYMEM_ENGINES_DEFAULT_CACHE_MB": SECRET}
    with pytest.raises(StorageDataError, match="environment POLYMEM_ENGINES_DEFAULT_CACHE_MB.*a whole number") as e:
        load(env=env)
    assert SECRET not in str(e.value)


@pytest.mark.parametrize("name", ["POLYMEM_MEMORY_TENENT", "POLYMEM_ENGINES_LOCAL_BOGUS", "POLYMEM_ENGINES_X"])
def test_a_misspelt_variable_of_a_section(name: str) -> None:
    with pytest.raises(StorageDataError, match=name):
        load(env={name: "x"})


def test_no_such_file(folder: Path) -> None:
    with pytest.raises(StorageDataError, match=r"none\.toml"):
        load(folder / "none.toml", env={})


@pytest.mark.parametrize("content", [b"[memory\ntenant = 'hunter2'", b"\xff\xfe\x00", b"password = hunter2"])
def test_not_toml(folder: Path, content: bytes) -> None:
    path = folder / "polymem.toml"
    path.write_bytes(content)
    with pytest.raises(StorageDataError, match="not valid TOML") as caught:
        load(path, env={})
    assert "hunter2" not in str(caught.value)


def test_a_toml_error_says_where(folder: Path) -> None:
    assert "line 2" in str(refused("[memory]\ntenant = ?", folder))


def test_no_engine_says_what_to_do() -> None:
    with pytest.raises(StorageDataError, match=r"POLYMEM_URL.*polymem init"):
        load(env={}).only()
