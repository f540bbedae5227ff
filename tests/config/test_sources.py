"""Where settings come from and which wins (CFG-1, CFG-2)."""

from pathlib import Path

import pytest
from config.files import FULL, SECRET, origins, written

import polymem
from polymem.config import Row, load


def test_defaults_alone() -> None:
    config = load(env={})
    assert (config.memory.tenant, config.memory.language, config.memory.embed) == ("default", "english", "static")
    assert config.engine is None
    assert not config.engines
    assert set(origins(config).values()) == {"default"}


def test_a_whole_file_is_typed(folder: Path) -> None:
    config = load(written(folder, FULL), env={})
    engine = config.only()
    assert (engine.name, engine.url) == ("local", "sqlite:///agent.db")
    assert engine.options == {"durability": "normal", "cache_mb": 32}
    assert engine.sweep_every is None
    assert engine.retry_writes is False
    assert (config.memory.tenant, config.memory.language, config.memory.embed) == ("acme", "german", "none")
    assert (config.logging.level, config.logging.json) == ("INFO", True)


def test_polymem_toml_here_is_read_by_itself(folder: Path) -> None:
    written(folder, FULL)
    assert load(env={}).memory.tenant == "acme"
    assert polymem.config.load(env={}).describe()[0] == Row("engine", "local", "polymem.toml")


def test_later_wins_and_origins_say_which(folder: Path) -> None:
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


def test_environment_beats_dotenv_beats_file(folder: Path) -> None:
    path = written(folder, '[memory]\ntenant = "file"')
    dotenv = {"POLYMEM_MEMORY_TENANT": "dotenv"}
    assert load(path, env={}, dotenv=dotenv).memory.tenant == "dotenv"
    assert load(path, env={"POLYMEM_MEMORY_TENANT": "env"}, dotenv=dotenv).memory.tenant == "env"


def test_the_real_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMEM_MEMORY_TENANT", "real")
    assert load().memory.tenant == "real"


def test_the_library_never_reads_dotenv(folder: Path) -> None:
    written(folder, "POLYMEM_MEMORY_TENANT=other\n", ".env")
    assert load(env={}).memory.tenant == "default"


def test_variables_reach_a_named_engine(folder: Path) -> None:
    path = written(folder, FULL.replace("local", "my_local"))
    config = load(path, env={"POLYMEM_ENGINES_MY_LOCAL_CACHE_MB": "64", "POLYMEM_ENGINES_MY_LOCAL_SWEEP_EVERY": "5"})
    assert config.only().options["cache_mb"] == 64
    assert config.only().sweep_every == 5.0


def test_a_url_variable_replaces_what_the_file_says_about_engines(folder: Path) -> None:
    path = written(folder, FULL + '[contracts]\nkv = "local"')
    config = load(path, env={"POLYMEM_URL": "memory:"})
    assert config.only().url == "memory:"
    assert config.only().options == {}
    assert not config.routes
    assert config.memory.tenant == "acme"
    assert config.named("local").url == "sqlite:///agent.db"


def test_a_url_argument_beats_the_variable() -> None:
    assert load(env={"POLYMEM_URL": "memory:"}, arguments={"url": "sqlite:///b.db"}).only().url == "sqlite:///b.db"


def test_other_peoples_variables_are_left_alone_and_named() -> None:
    assert load(env={"POLYMEM_SERVICE_HOST": "10.0.0.1", "PATH": "/bin"}).ignored == ("POLYMEM_SERVICE_HOST",)


def test_fallback_variables_count_where_their_engine_is_named(folder: Path) -> None:
    """CFG-2."""
    env = {"REDIS_URL": f"redis://:{SECRET}@host", "NEO4J_URL": "neo4j://host", "OPENAI_API_KEY": SECRET}
    path = written(folder, 'engine = "redis"')
    config = load(path, env=env)
    assert config.named("redis").url == env["REDIS_URL"]
    assert list(config.engines) == ["redis"]
    assert config.providers.openai_api_key == SECRET
    path.unlink()
    assert load(env=env).engine is None


def test_a_fallback_loses_to_everything(folder: Path) -> None:
    path = written(folder, '[engines.postgres]\nurl = "postgresql://file/x"\n[providers]\nopenai_api_key = "file"')
    env = {"POSTGRES_URL": "postgresql://env/x", "POSTGRES_POOL_SIZE": "7", "OPENAI_API_KEY": "env"}
    config = load(path, env=env)
    assert config.only().url == "postgresql://file/x"
    assert config.only().options == {"pool_size": 7}
    assert config.providers.openai_api_key == "file"
