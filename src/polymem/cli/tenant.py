"""The memory that the configuration names."""

from polymem.cli.connection import configuration, store
from polymem.cli.invocation import Invocation
from polymem.memory.memory import Memory


def memory(invocation: Invocation, *, must_exist: bool = False) -> Memory:
    """The configured memory, not open yet; closing it closes its store."""
    config = configuration(invocation)
    settings = config.memory
    return Memory(
        store(config, must_exist=must_exist),
        tenant=settings.tenant,
        language=settings.language,
        embed=None if settings.embed == "none" else settings.embed,
        owns_store=True,
    )
