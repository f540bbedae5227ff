"""Configuration: sources, precedence, validation, masking, and what is built from it (CFG-1, CFG-2, G-1, G-2)."""

import asyncio
import base64
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import polymem
from polymem.config import Config, Row, StorageFactory, load, opening, resolve, store_of
from polymem.config.masking import is_secret, mask_url
from polymem.core.clock import ManualClock
from polymem.core.metrics_options import MetricsOptions
from polymem.core.registry import create_engine
from polymem.errors import StorageDataError, StorageUnsupportedError
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.layers.encryption import Encryption, Key, Keyring

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


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and no variables of ours."""
    monkeypatch.chdir(tmp_path)
    for name in ("POLYMEM_URL", "POLYMEM_ENGINE", "POLYMEM_MEMORY_TENANT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


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


class TestSources:
    def test_defaults_alone(self) -> None:
        config = load(env={})
        assert (config.memory.tenant, config.memory.language, config.memory.embed) == ("default", "english", "static")
        assert config.engine is None
        assert not config.engines
        assert set(origins(config).values()) == {"default"}

    def test_a_whole_file_is_typed(self, folder: Path) -> None:
        config = load(written(folder, FULL), env={})
        engine = config.only()
        assert (engine.name, engine.url) == ("local", "sqlite:///agent.db")
        assert engine.options == {"durability": "normal", "cache_mb": 32}
        assert engine.sweep_every is None
        assert engine.retry_writes is False
        assert (config.memory.tenant, config.memory.language, config.memory.embed) == ("acme", "german", "none")
        assert (config.logging.level, config.logging.json) == ("INFO", True)

    def test_polymem_toml_here_is_read_by_itself(self, folder: Path) -> None:
        written(folder, FULL)
        assert load(env={}).memory.tenant == "acme"
        assert polymem.config.load(env={}).describe()[0] == Row("engine", "local", "polymem.toml")

    def test_later_wins_and_origins_say_which(self, folder: Path) -> None:
        """CFG-1: defaults, file, .env, environment, arguments."""
        path = written(folder, '[memory]\ntenant = "file"\nlanguage = "french"\n[logging]\nlevel = "INFO"')
        config = load(
            path,
            dotenv={"POLYMEM_MEMORY_TENANT": "dotenv", "POLYMEM_LOGGING_LEVEL": "ERROR"},
            env={"POLYMEM_MEMORY_TENANT": "env", "POLYMEM_LOGGING_JSON": "true"},
            arguments={"memory.tenant": "argument", "memory.embed": None},
        )
        assert config.memory.tenant == "argument"
        assert config.memory.language == "french"
        assert (config.logging.level, config.logging.json) == ("ERROR", True)
        found = origins(config)
        assert found["memory.tenant"] == "argument"
        assert found["memory.language"] == str(path)
        assert found["logging.level"] == ".env POLYMEM_LOGGING_LEVEL"
        assert found["logging.json"] == "environment POLYMEM_LOGGING_JSON"
        assert found["memory.embed"] == "default"

    def test_environment_beats_dotenv_beats_file(self, folder: Path) -> None:
        path = written(folder, '[memory]\ntenant = "file"')
        dotenv = {"POLYMEM_MEMORY_TENANT": "dotenv"}
        assert load(path, env={}, dotenv=dotenv).memory.tenant == "dotenv"
        assert load(path, env={"POLYMEM_MEMORY_TENANT": "env"}, dotenv=dotenv).memory.tenant == "env"

    def test_the_real_environment_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POLYMEM_MEMORY_TENANT", "real")
        assert load().memory.tenant == "real"

    def test_the_library_never_reads_dotenv(self, folder: Path) -> None:
        written(folder, "POLYMEM_MEMORY_TENANT=other\n", ".env")
        assert load(env={}).memory.tenant == "default"

    def test_variables_reach_a_named_engine(self, folder: Path) -> None:
        path = written(folder, FULL.replace("local", "my_local"))
        config = load(
            path, env={"POLYMEM_ENGINES_MY_LOCAL_CACHE_MB": "64", "POLYMEM_ENGINES_MY_LOCAL_SWEEP_EVERY": "5"}
        )
        assert config.only().options["cache_mb"] == 64
        assert config.only().sweep_every == 5.0

    def test_a_url_variable_replaces_what_the_file_says_about_engines(self, folder: Path) -> None:
        path = written(folder, FULL + '[contracts]\nkv = "local"')
        config = load(path, env={"POLYMEM_URL": "memory:"})
        assert config.only().url == "memory:"
        assert config.only().options == {}
        assert not config.routes
        assert config.memory.tenant == "acme"
        assert config.named("local").url == "sqlite:///agent.db"

    def test_a_url_argument_beats_the_variable(self) -> None:
        assert load(env={"POLYMEM_URL": "memory:"}, arguments={"url": "sqlite:///b.db"}).only().url == "sqlite:///b.db"

    def test_other_peoples_variables_are_left_alone_and_named(self) -> None:
        assert load(env={"POLYMEM_SERVICE_HOST": "10.0.0.1", "PATH": "/bin"}).ignored == ("POLYMEM_SERVICE_HOST",)

    def test_fallback_variables_count_where_their_engine_is_named(self, folder: Path) -> None:
        """CFG-2."""
        env = {"REDIS_URL": f"redis://:{SECRET}@host", "NEO4J_URL": "neo4j://host", "OPENAI_API_KEY": SECRET}
        path = written(folder, 'engine = "redis"')
        config = load(path, env=env)
        assert config.named("redis").url == env["REDIS_URL"]
        assert list(config.engines) == ["redis"]
        assert config.providers.openai_api_key == SECRET
        path.unlink()
        assert load(env=env).engine is None

    def test_a_fallback_loses_to_everything(self, folder: Path) -> None:
        path = written(folder, '[engines.postgres]\nurl = "postgresql://file/x"\n[providers]\nopenai_api_key = "file"')
        env = {"POSTGRES_URL": "postgresql://env/x", "POSTGRES_POOL_SIZE": "7", "OPENAI_API_KEY": "env"}
        config = load(path, env=env)
        assert config.only().url == "postgresql://file/x"
        assert config.only().options == {"pool_size": 7}
        assert config.providers.openai_api_key == "file"


class TestRefusals:
    """G-2 and CFG-1: the error names key and file and says what was expected."""

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
    def test_names_key_and_file(self, folder: Path, text: str, key: str, expected: str) -> None:
        error = refused(text, folder)
        assert error.field == key
        assert key in str(error)
        assert expected in str(error)
        assert "polymem.toml" in str(error)

    def test_a_variable_is_named_and_its_value_is_not(self) -> None:
        env = {"POLYMEM_URL": "sqlite:///a.db", "POLYMEM_ENGINES_DEFAULT_CACHE_MB": SECRET}
        with pytest.raises(StorageDataError, match="environment POLYMEM_ENGINES_DEFAULT_CACHE_MB.*a whole number") as e:
            load(env=env)
        assert SECRET not in str(e.value)

    @pytest.mark.parametrize("name", ["POLYMEM_MEMORY_TENENT", "POLYMEM_ENGINES_LOCAL_BOGUS", "POLYMEM_ENGINES_X"])
    def test_a_misspelt_variable_of_a_section(self, name: str) -> None:
        with pytest.raises(StorageDataError, match=name):
            load(env={name: "x"})

    def test_no_such_file(self, folder: Path) -> None:
        with pytest.raises(StorageDataError, match=r"none\.toml"):
            load(folder / "none.toml", env={})

    @pytest.mark.parametrize("content", [b"[memory\ntenant = 'hunter2'", b"\xff\xfe\x00", b"password = hunter2"])
    def test_not_toml(self, folder: Path, content: bytes) -> None:
        path = folder / "polymem.toml"
        path.write_bytes(content)
        with pytest.raises(StorageDataError, match="not valid TOML") as caught:
            load(path, env={})
        assert "hunter2" not in str(caught.value)

    def test_a_toml_error_says_where(self, folder: Path) -> None:
        assert "line 2" in str(refused("[memory]\ntenant = ?", folder))

    def test_no_engine_says_what_to_do(self) -> None:
        with pytest.raises(StorageDataError, match=r"POLYMEM_URL.*polymem init"):
            load(env={}).only()


class TestSecrets:
    """G-1: no password, key or token in repr, str, errors or printed settings."""

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

    def test_nothing_printed_holds_them(self, folder: Path) -> None:
        config = load(written(folder, self.TEXT), env={})
        shown = [repr(config), str(config), repr(config.only()), repr(config.providers), repr(config.describe())]
        assert not any(SECRET in text for text in shown)
        rows = {row.key: row.value for row in config.describe()}
        assert rows["engines.pg.url"] == "neo4j://ada:***@host/db?sslmode=require&password=***"
        assert rows["engines.pg.password"] == rows["providers.anthropic_api_key"] == "***"
        assert rows["engines.pg.user"] == "ada"

    def test_nor_does_an_error(self, folder: Path) -> None:
        path = written(folder, self.TEXT)
        with pytest.raises(StorageUnsupportedError) as caught:
            opening.open(path)
        assert SECRET not in str(caught.value)
        assert SECRET not in str(refused(self.TEXT + "[memory]\nbogus = 1", folder))

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
    def test_urls(self, url: str, shown: str) -> None:
        assert mask_url(url) == shown

    @given(st.text(st.characters(exclude_characters=":@", exclude_categories=["Cs"])), st.text(), st.text())
    def test_no_password_survives_however_it_is_written(self, user: str, before: str, after: str) -> None:
        if user.startswith("/"):
            user = f"u{user}"
        assert SECRET not in mask_url(f"postgresql://{user}:{before}{SECRET}{after}@host/db")

    def test_names(self) -> None:
        assert all(map(is_secret, ("password", "api_key", "apiKey", "API-KEY", "token", "client_secret", "key")))
        assert not any(map(is_secret, ("max_tokens", "keyspace", "user", "monkey", "url")))


class TestLayers:
    """What lies over an engine is configured with it (CFG-1, CCH-1, LAY-1, LAY-2)."""

    KEY, OLD = os.urandom(32), os.urandom(32)
    ENCRYPTED = """
    [engines.local]
    url = "memory:"
    [engines.local.encryption]
    current = "2026-11"
    keys = { 2026-11 = "env:AGENT_KEY", 2025-11 = "file:old.key" }
    """

    def test_cache_and_compression(self, folder: Path) -> None:
        text = """
        [engines.local]
        url = "memory:"
        sweep_every = 30
        compression = { level = 1, threshold = 64 }
        [engines.local.cache]
        kind = "ttl"
        ttl = 60
        max_bytes = 1_000_000
        negative = 0.5
        max_staleness = inf
        """
        found = load(written(folder, text), env={}).only()
        policy = CachePolicy(kind="ttl", ttl=60.0, max_bytes=1_000_000, negative=0.5, max_staleness=float("inf"))
        assert (found.cache, found.compression, found.sweep_every) == (policy, {"level": 1, "threshold": 64}, 30.0)
        store = polymem.open(folder / "polymem.toml")
        assert isinstance(store.engine, CachedEngine)
        assert store.engine.policy == policy
        assert [repr(layer) for layer in store.engine._layers] == ["Compression(level=1, threshold=64)"]

    def test_short_forms_and_switches(self, folder: Path) -> None:
        path = written(folder, "[engines.a]\nurl = 'memory:'\ncache = 5\ncompression = true")
        found = load(path, env={}).only()
        assert (found.cache, found.compression) == (CachePolicy(max_entries=5), {})
        off = load(path, env={"POLYMEM_ENGINES_A_CACHE": "false", "POLYMEM_ENGINES_A_COMPRESSION": "false"}).only()
        assert (off.cache, off.compression) == (None, None)
        env = {"POLYMEM_ENGINES_A_CACHE_KIND": "lfu", "POLYMEM_ENGINES_A_COMPRESSION_LEVEL": "19"}
        more = load(path, env=env).only()
        assert (more.cache, more.compression) == (CachePolicy(kind="lfu", max_entries=5), {"level": 19})
        assert load(written(folder, "[engines.a]\nurl = 'memory:'\ncache = true"), env={}).only().cache == CachePolicy()

    def test_arguments_win(self, folder: Path) -> None:
        path = written(folder, "[engines.a]\nurl = 'memory:'\ncache = 5\ncompression = true")
        store = polymem.open(path, cache=None, compression=False)
        assert type(store.engine).__name__ == "MemoryEngine"
        assert store._session.layers == ()
        assert polymem.open(path, cache=7).engine.policy == CachePolicy(max_entries=7)  # type: ignore[attr-defined]
        assert polymem.open(path, cache=True).engine.policy == CachePolicy()  # type: ignore[attr-defined]
        assert not hasattr(polymem.open(path, cache=False).engine, "policy")

    def test_metrics(self, folder: Path) -> None:
        """MET-3: from the file, the environment and the arguments, in this order."""
        text = (
            "[engines.a]\nurl = 'memory:'\nmetrics = { max_history = 5, percentiles = [50, 99.9], sampling_rate = 0 }"
        )
        path = written(folder, text)
        wanted = MetricsOptions(max_history=5, percentiles=[50, 99.9], sampling_rate=0)
        assert polymem.open(path).collector.options == wanted
        env = {"POLYMEM_ENGINES_A_METRICS_PERCENTILES": "50,95.5", "POLYMEM_ENGINES_A_METRICS_MAX_HISTORY": "7"}
        assert load(path, env=env).only().metrics == replace(wanted, max_history=7, percentiles=[50, 95.5])
        assert not load(path, env={"POLYMEM_ENGINES_A_METRICS": "false"}).only().metrics.enabled
        assert polymem.open(path, metrics={"max_errors": 9}).collector.options == MetricsOptions(max_errors=9)
        off = written(folder, "[engines.a]\nurl = 'memory:'\nmetrics = false")
        assert not polymem.open(off).collector.options.enabled
        assert polymem.open(off, metrics=True).collector.options == MetricsOptions()
        with pytest.raises(StorageDataError, match="METRICS_PERCENTILES: engines.a.metrics.percentiles: .* numbers"):
            load(path, env={"POLYMEM_ENGINES_A_METRICS_PERCENTILES": "50;95"})

    def test_encryption(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The keys come from where the file says, as hexadecimal, base64 or the bytes themselves."""
        path = written(folder, self.ENCRYPTED)
        (folder / "old.key").write_bytes(self.OLD)
        for text in (self.KEY.hex(), base64.b64encode(self.KEY).decode(), base64.urlsafe_b64encode(self.KEY).decode()):
            monkeypatch.setenv("AGENT_KEY", f"{text}\n")
            layer = opening.open(path)._session.layers[0]
            assert isinstance(layer, Encryption)
            ring = Keyring(Key("2026-11", self.KEY), [Key("2025-11", self.OLD)])
            for key in (Keyring(Key("2026-11", self.KEY)), Keyring(Key("2025-11", self.OLD))):
                assert layer.keyring.open(key.seal(b"x", ("value",)), ("value",)) == b"x"
            assert ring.open(layer.keyring.seal(b"x", ("value",)), ("value",)) == b"x"
            assert ring.is_current(layer.keyring.seal(b"x", ("value",)))
        found = (
            load(path, env={}, dotenv={"AGENT_KEY": self.KEY.hex()}).only().encryption
        )  # the command line reads .env
        assert found is not None
        assert found.layer().hide_keys is False

    def test_hidden_keys(self, folder: Path) -> None:
        path = written(folder, self.ENCRYPTED + "hide_keys = true\nnames = 'file:old.key'")
        (folder / "old.key").write_text(self.OLD.hex())
        config = load(path, env={"AGENT_KEY": self.KEY.hex()}).only()
        assert config.encryption is not None
        assert config.encryption.layer().hide_keys

    def test_it_shows_where_secrets_are_and_never_what(self, folder: Path) -> None:
        (folder / "old.key").write_bytes(self.OLD)
        config = load(written(folder, self.ENCRYPTED), env={"AGENT_KEY": self.KEY.hex()})
        rows = {row.key: row.value for row in config.describe()}
        assert rows["engines.local.encryption.keys.2026-11"] == "env:AGENT_KEY"
        assert rows["engines.local.encryption.keys.2025-11"] == "file:old.key"
        assert self.KEY.hex() not in f"{config!r}{config.only()!r}{config.only().encryption!r}{rows}"

    @pytest.mark.parametrize(
        ("text", "key", "expected"),
        [
            ("cache = {}", "cache", "true or false or a number of entries"),
            ("cache = 0", "cache", "a number of entries"),
            ("cache = 'all'", "cache", "true or false or"),
            ("cache = {sort = 'lru'}", "cache.sort", "expected one of cache, cache.kind"),
            ("cache = {kind = 'fifo'}", "cache.kind", "lru, lfu, ttl"),
            ("cache = {kind = 'ttl'}", "cache.ttl", "seconds"),
            ("cache = {max_entries = 0}", "cache.max_entries", "at least 1"),
            ("cache = {max_staleness = nan}", "cache.max_staleness", "seconds"),
            ("cache = {ttl = inf, kind = 'ttl'}", "cache.ttl", "finite"),
            ("cache = {negative = 'no'}", "cache.negative", "true or false or a number"),
            ("metrics = 1", "metrics", "true or false"),
            ("metrics = {}", "metrics", "true or false"),
            ("metrics = {max_histroy = 9}", "metrics.max_histroy", "expected one of metrics, metrics.enabled"),
            ("metrics = {max_history = 0}", "metrics.max_history", "from 1 to"),
            ("metrics = {sampling_rate = 2}", "metrics.sampling_rate", "from 0 to 1"),
            ("metrics = {percentiles = ['a']}", "metrics.percentiles", "a list of numbers"),
            ("metrics = {percentiles = [0]}", "metrics.percentiles", "above 0"),
            ("compression = 3", "compression", "true or false"),
            ("compression = {level = 20}", "compression.level", "from 1 to 19"),
            ("compression = {threshold = 1}", "compression.threshold", "at least 64"),
            ("compression = {levle = 3}", "compression.levle", "compression.level"),
            ("encryption = 'secret'", "encryption", "encryption.current"),
            ("encryption = {current = 'a'}", "encryption.current", "there are: none"),
            ("encryption = {keys = {a = 'env:A'}}", "encryption.current", "there are: a"),
            ("encryption = {current = 'b', keys = {a = 'env:A'}}", "encryption.current", "there are: a"),
            ("encryption = {current = 'a', keys = {a = 5}}", "encryption.keys.a", "a string"),
            ("encryption = {current = 'a', keys = {'a b' = 'env:A'}}", "encryption.keys.a b", "16 letters"),
            (
                f"encryption = {{current = 'a', keys = {{a = '{SECRET}'}}}}",
                "encryption.keys.a",
                "env:NAME or file:PATH",
            ),
            ("encryption = {current = 'a', keys = {a = 'env:'}}", "encryption.keys.a", "env:NAME"),
            ("encryption = {current = 'a', keys = {a = 'env:A'}, hide_keys = true}", "encryption.names", "missing"),
            ("encryption = {current = 'a', keys = {a = 'env:A'}, names = 'x'}", "encryption.names", "env:NAME"),
        ],
    )
    def test_refusals_name_key_and_file(self, folder: Path, text: str, key: str, expected: str) -> None:
        error = refused(f"[engines.a]\nurl = 'memory:'\n{text}", folder)
        assert error.field == f"engines.a.{key}"
        assert expected in str(error)
        assert "polymem.toml" in str(error)
        assert SECRET not in str(error)

    @pytest.mark.parametrize(
        ("reference", "expected"),
        [
            ("env:NOT_SET", "NOT_SET is not set"),
            ("env:SHORT", "32 bytes"),
            ("env:SHORT_HEX", "32 bytes"),
            ("env:TEXT", "32 bytes"),
            ("file:absent.key", "absent.key: No such file"),
            ("file:short.key", "32 bytes"),
        ],
    )
    def test_secrets_that_are_not_there(self, folder: Path, reference: str, expected: str) -> None:
        (folder / "short.key").write_text(SECRET)
        text = f"[engines.a]\nurl='memory:'\nencryption={{current = 'a', keys = {{a = '{reference}'}}}}"
        found = load(written(folder, text), env={"SHORT": SECRET, "SHORT_HEX": "abcd", "TEXT": "0" * 32}).only()
        with pytest.raises(StorageDataError, match=expected) as caught:
            store_of(found)
        assert caught.value.field == "engines.a.encryption.keys.a"
        assert "polymem.toml" in str(caught.value)
        assert SECRET not in str(caught.value)

    def test_a_memory_refuses_a_configured_encryption(self, folder: Path) -> None:
        with pytest.raises(StorageUnsupportedError, match="encrypt the whole file"):
            polymem.Memory.open(written(folder, self.ENCRYPTED))


class TestOpening:
    def test_a_url_reads_no_file(self, folder: Path) -> None:
        written(folder, "nonsense")
        assert resolve("memory:", env={}).only().url == "memory:"

    def test_a_toml_path(self, folder: Path) -> None:
        path = written(folder, FULL, "other.toml")
        assert resolve(path, env={}).only() == resolve(str(path), env={}).only() == load(path, env={}).only()

    @pytest.mark.parametrize("bad", ["agent.db", "", Path("agent.db"), 5, "://x"])
    def test_anything_else_is_refused(self, bad: Any) -> None:
        with pytest.raises(StorageDataError) as caught:
            polymem.open(bad)
        assert caught.value.field == "url"

    def test_without_a_url_the_variable_wins_over_the_file(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written(folder, FULL)
        assert polymem.open().engine.name == "sqlite"
        monkeypatch.setenv("POLYMEM_URL", "memory:")
        assert polymem.open().engine.name == "memory"

    def test_options_of_the_file_and_of_the_call_reach_the_engine(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, Any] = {}

        def spy(url: str, **options: Any) -> Any:
            seen.update(options, url=url)
            return create_engine(url, **options)

        monkeypatch.setattr(opening, "create_engine", spy)
        clock = ManualClock()
        store = opening.open(written(folder, FULL), clock=clock, cache_mb=8)
        assert seen == {"url": "sqlite:///agent.db", "durability": "normal", "cache_mb": 8, "clock": clock}
        assert store.engine.clock is clock

    def test_sweeping_and_retries(self, folder: Path) -> None:
        path = written(folder, FULL)

        def settings(store: Any) -> tuple[float | None, bool]:
            return store._session._sweep_every, store._session.guard.retry.retry_writes

        assert settings(polymem.open("memory:")) == (60.0, True)
        assert settings(polymem.open(path)) == (None, False)
        assert settings(polymem.open(path, sweep_every=5, retry_writes=True)) == (5, True)
        assert settings(polymem.open("memory:", sweep_every=None)) == (None, True)
        assert settings(polymem.open("memory:", sweep_every=0)) == (None, True)

    @pytest.mark.parametrize(
        ("option", "value"),
        [("sweep_every", -1), ("sweep_every", "60"), ("sweep_every", True), ("retry_writes", 1), ("bogus", 1)],
    )
    def test_bad_options_are_named(self, option: str, value: Any) -> None:
        with pytest.raises(StorageDataError) as caught:
            polymem.open("memory:", **{option: value})
        assert caught.value.field == option

    def test_several_engines_for_one_store_are_refused_clearly(self, folder: Path) -> None:
        path = written(
            folder,
            "engine = 'a'\n[engines.a]\nurl = 'memory:'\n[engines.b]\nurl = 'memory:'\n[tiers]\nepisodic = 'b'",
        )
        with pytest.raises(StorageUnsupportedError, match="tiers.episodic is served by engine b"):
            polymem.open(path)
        factory = StorageFactory(load(path, env={}))
        assert factory.create_backend("a").engine.name == factory.create_backend("b").engine.name == "memory"

    def test_a_route_to_the_default_engine_is_no_composite(self, folder: Path) -> None:
        path = written(folder, FULL + "[contracts]\nkv = 'local'\n[stores]\nmemory = 'local'")
        assert polymem.open(path).engine.name == "sqlite"

    def test_the_factory(self, folder: Path) -> None:
        written(folder, FULL.replace("sqlite:///agent.db", f"sqlite:///{folder}/made.db"))
        factory = StorageFactory()

        async def work() -> object:
            async with factory.create_backend("local") as store:
                await store.kv.put("k", 1)
            async with factory.create_backend() as store:
                return await store.kv.get("k")

        assert asyncio.run(work()) == 1
        assert (folder / "made.db").exists()
        with pytest.raises(StorageDataError, match="there are: local"):
            factory.create_backend("remote")

    def test_an_engine_of_a_third_party_checks_its_options_itself(self, folder: Path) -> None:
        path = written(folder, "[engines.a]\nurl = 'acme://host'\nshards = 3\nnested = [1]")
        with pytest.raises(StorageDataError, match=r"engines.a.nested: expected a string, a number, true or false"):
            load(path, env={})
        assert load(written(folder, "[engines.a]\nurl = 'acme://host'\nshards = 3"), env={}).only().options == {
            "shards": 3
        }

    def test_a_planned_engine_says_so(self) -> None:
        with pytest.raises(StorageUnsupportedError, match="qdrant engine is not part of this version"):
            polymem.open("qdrant://host/db")


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
