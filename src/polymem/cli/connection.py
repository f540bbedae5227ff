"""From the shared options to a configuration and a store."""

from pathlib import Path

from polymem.cli.dotenv import read_dotenv
from polymem.cli.invocation import Invocation
from polymem.config import Config, load, store_of
from polymem.config.masking import mask_url
from polymem.errors import StorageNotFoundError
from polymem.logs import configure_logging
from polymem.store import Store


def configuration(invocation: Invocation) -> Config:
    """Defaults, polymem.toml, .env, environment, options; switches logging on where that is configured."""
    arguments = {"url": invocation.url, "memory.tenant": invocation.tenant}
    config = load(invocation.config, dotenv=read_dotenv(Path(".env")), arguments=arguments)
    if config.logging.level is not None:
        configure_logging(config.logging.level, json=config.logging.json)
    if config.engine is not None:
        invocation.engine = mask_url(config.only().url)
    return config


def store(config: Config, *, must_exist: bool = False) -> Store:
    """The configured store, not open yet. With `must_exist` a database file is not made by just looking."""
    found = store_of(config.only(), sweep_every=None)
    path = getattr(found.engine, "path", None)
    if must_exist and isinstance(path, Path) and not path.exists():
        raise StorageNotFoundError(f"there is no {path} yet; polymem remember, ingest or load makes it", field="url")
    return found
