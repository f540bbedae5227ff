"""What lies over an engine is configured with it (CFG-1, CCH-1, LAY-1, LAY-2, MET-3)."""

import base64
import os
from dataclasses import replace
from pathlib import Path

import pytest
from config.files import SECRET, refused, written

import polymem
from polymem.config import load, opening, store_of
from polymem.core.metrics_options import MetricsOptions
from polymem.errors import StorageDataError, StorageUnsupportedError
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.layers.encryption import Encryption, Key, Keyring

KEY, OLD = os.urandom(32), os.urandom(32)
ENCRYPTED = """
[engines.local]
url = "memory:"
[engines.local.encryption]
current = "2026-11"
keys = { 2026-11 = "env:AGENT_KEY", 2025-11 = "file:old.key" }
"""


def test_cache_and_compression(folder: Path) -> None:
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


def test_short_forms_and_switches(folder: Path) -> None:
    path = written(folder, "[engines.a]\nurl = 'memory:'\ncache = 5\ncompression = true")
    found = load(path, env={}).only()
    assert (found.cache, found.compression) == (CachePolicy(max_entries=5), {})
    off = load(path, env={"POLYMEM_ENGINES_A_CACHE": "false", "POLYMEM_ENGINES_A_COMPRESSION": "false"}).only()
    assert (off.cache, off.compression) == (None, None)
    env = {"POLYMEM_ENGINES_A_CACHE_KIND": "lfu", "POLYMEM_ENGINES_A_COMPRESSION_LEVEL": "19"}
    more = load(path, env=env).only()
    assert (more.cache, more.compression) == (CachePolicy(kind="lfu", max_entries=5), {"level": 19})
    assert load(written(folder, "[engines.a]\nurl = 'memory:'\ncache = true"), env={}).only().cache == CachePolicy()


def test_arguments_win(folder: Path) -> None:
    path = written(folder, "[engines.a]\nurl = 'memory:'\ncache = 5\ncompression = true")
    store = polymem.open(path, cache=None, compression=False)
    assert type(store.engine).__name__ == "MemoryEngine"
    assert store._session.layers == ()
    assert polymem.open(path, cache=7).engine.policy == CachePolicy(max_entries=7)  # type: ignore[attr-defined]
    assert polymem.open(path, cache=True).engine.policy == CachePolicy()  # type: ignore[attr-defined]
    assert not hasattr(polymem.open(path, cache=False).engine, "policy")


def test_metrics(folder: Path) -> None:
    """MET-3: from the file, the environment and the arguments, in this order."""
    text = "[engines.a]\nurl = 'memory:'\nmetrics = { max_history = 5, percentiles = [50, 99.9], sampling_rate = 0 }"
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


def test_encryption(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys come from where the file says, as hexadecimal, base64 or the bytes themselves."""
    path = written(folder, ENCRYPTED)
    (folder / "old.key").write_bytes(OLD)
    for text in (KEY.hex(), base64.b64encode(KEY).decode(), base64.urlsafe_b64encode(KEY).decode()):
        monkeypatch.setenv("AGENT_KEY", f"{text}\n")
        layer = opening.open(path)._session.layers[0]
        assert isinstance(layer, Encryption)
        ring = Keyring(Key("2026-11", KEY), [Key("2025-11", OLD)])
        for key in (Keyring(Key("2026-11", KEY)), Keyring(Key("2025-11", OLD))):
            assert layer.keyring.open(key.seal(b"x", ("value",)), ("value",)) == b"x"
        assert ring.open(layer.keyring.seal(b"x", ("value",)), ("value",)) == b"x"
        assert ring.is_current(layer.keyring.seal(b"x", ("value",)))
    found = load(path, env={}, dotenv={"AGENT_KEY": KEY.hex()}).only().encryption  # the command line reads .env
    assert found is not None
    assert found.layer().hide_keys is False


def test_hidden_keys(folder: Path) -> None:
    path = written(folder, ENCRYPTED + "hide_keys = true\nnames = 'file:old.key'")
    (folder / "old.key").write_text(OLD.hex())
    config = load(path, env={"AGENT_KEY": KEY.hex()}).only()
    assert config.encryption is not None
    assert config.encryption.layer().hide_keys


def test_it_shows_where_secrets_are_and_never_what(folder: Path) -> None:
    (folder / "old.key").write_bytes(OLD)
    config = load(written(folder, ENCRYPTED), env={"AGENT_KEY": KEY.hex()})
    rows = {row.key: row.value for row in config.describe()}
    assert rows["engines.local.encryption.keys.2026-11"] == "env:AGENT_KEY"
    assert rows["engines.local.encryption.keys.2025-11"] == "file:old.key"
    assert KEY.hex() not in f"{config!r}{config.only()!r}{config.only().encryption!r}{rows}"


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
def test_refusals_name_key_and_file(folder: Path, text: str, key: str, expected: str) -> None:
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
def test_secrets_that_are_not_there(folder: Path, reference: str, expected: str) -> None:
    (folder / "short.key").write_text(SECRET)
    text = f"[engines.a]\nurl='memory:'\nencryption={{current = 'a', keys = {{a = '{reference}'}}}}"
    found = load(written(folder, text), env={"SHORT": SECRET, "SHORT_HEX": "abcd", "TEXT": "0" * 32}).only()
    with pytest.raises(StorageDataError, match=expected) as caught:
        store_of(found)
    assert caught.value.field == "engines.a.encryption.keys.a"
    assert "polymem.toml" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_memory_refuses_a_configured_encryption(folder: Path) -> None:
    with pytest.raises(StorageUnsupportedError, match="encrypt the whole file"):
        polymem.Memory.open(written(folder, ENCRYPTED))
