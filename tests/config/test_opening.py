"""What `open` makes of a URL, a file or nothing (CFG-1)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from config.files import FULL, written

import polymem
from polymem.config import StorageFactory, load, opening, resolve
from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine
from polymem.errors import StorageDataError, StorageUnsupportedError


def test_a_url_reads_no_file(folder: Path) -> None:
    written(folder, "nonsense")
    assert resolve("memory:", env={}).only().url == "memory:"


def test_a_toml_path(folder: Path) -> None:
    path = written(folder, FULL, "other.toml")
    assert resolve(path, env={}).only() == resolve(str(path), env={}).only() == load(path, env={}).only()


@pytest.mark.parametrize("bad", ["agent.db", "", Path("agent.db"), 5, "://x"])
def test_anything_else_is_refused(bad: Any) -> None:
    with pytest.raises(StorageDataError) as caught:
        polymem.open(bad)
    assert caught.value.field == "url"


def test_without_a_url_the_variable_wins_over_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(folder, FULL)
    assert polymem.open().engine.name == "sqlite"
    monkeypatch.setenv("POLYMEM_URL", "memory:")
    assert polymem.open().engine.name == "memory"


def test_options_of_the_file_and_of_the_call_reach_the_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def spy(url: str, **options: Any) -> Any:
        seen.update(options, url=url)
        return create_engine(url, **options)

    monkeypatch.setattr(opening, "create_engine", spy)
    clock = ManualClock()
    store = opening.open(written(folder, FULL), clock=clock, cache_mb=8)
    assert seen == {"url": "sqlite:///agent.db", "durability": "normal", "cache_mb": 8, "clock": clock}
    assert store.engine.clock is clock


def test_sweeping_and_retries(folder: Path) -> None:
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
def test_bad_options_are_named(option: str, value: Any) -> None:
    with pytest.raises(StorageDataError) as caught:
        polymem.open("memory:", **{option: value})
    assert caught.value.field == option


def test_several_engines_for_one_store_are_refused_clearly(folder: Path) -> None:
    path = written(
        folder,
        "engine = 'a'\n[engines.a]\nurl = 'memory:'\n[engines.b]\nurl = 'memory:'\n[tiers]\nepisodic = 'b'",
    )
    with pytest.raises(StorageUnsupportedError, match="tiers.episodic is served by engine b"):
        polymem.open(path)
    factory = StorageFactory(load(path, env={}))
    assert factory.create_backend("a").engine.name == factory.create_backend("b").engine.name == "memory"


def test_a_route_to_the_default_engine_is_no_composite(folder: Path) -> None:
    path = written(folder, FULL + "[contracts]\nkv = 'local'\n[stores]\nmemory = 'local'")
    assert polymem.open(path).engine.name == "sqlite"


def test_the_factory(folder: Path) -> None:
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


def test_an_engine_of_a_third_party_checks_its_options_itself(folder: Path) -> None:
    path = written(folder, "[engines.a]\nurl = 'acme://host'\nshards = 3\nnested = [1]")
    with pytest.raises(StorageDataError, match=r"engines.a.nested: expected a string, a number, true or false"):
        load(path, env={})
    assert load(written(folder, "[engines.a]\nurl = 'acme://host'\nshards = 3"), env={}).only().options == {"shards": 3}


def test_a_planned_engine_says_so() -> None:
    with pytest.raises(StorageUnsupportedError, match="qdrant engine is not part of this version"):
        polymem.open("qdrant://host/db")
