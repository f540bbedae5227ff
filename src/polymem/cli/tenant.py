"""The memory that the configuration names."""

from polymem.cli.connection import configuration, store
from polymem.cli.invocation import Invocation
from polymem.config.schema import MemoryConfig
from polymem.memory.memory import Memory
from polymem.store import Store


def memory(invocation: Invocation, *, must_exist: bool = False) -> Memory:
    """The configured memory, not open yet; closing it closes its store."""
    config = configuration(invocation)
    return memory_on(store(config, must_exist=must_exist), config.memory)


def memory_on(opened: Store, settings: MemoryConfig) -> Memory:
    """The same over a store that is there already."""
    return Memory(
        opened,
        tenant=settings.tenant,
        language=settings.language,
        embed=None if settings.embed == "none" else settings.embed,
        owns_store=True,
    )
