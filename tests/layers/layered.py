"""Stores over one engine through layers, and keys and values for them."""

from typing import Any

from polymem import Store
from polymem.core.registry import create_engine
from polymem.layers._keyring import OVERHEAD
from polymem.layers.encryption import Encryption, Key, Keyring
from polymem.opened import Session

LONG = {"text": "all work and no play " * 200}
OLD, NEW, NAMES = b"o" * 32, b"n" * 32, b"h" * 32
OLD_RING, NEW_RING = Keyring(Key("old", OLD)), Keyring(Key("new", NEW), [Key("old", OLD)])
WORD = "confidential-plaintext"
PART = 256 * 1024 - OVERHEAD


async def opened(*layers: Any, engine: Any = None) -> Store:
    """Stores over one engine; opening it twice is harmless."""
    return await Store(Session(engine or create_engine("memory:"), sweep_every=None, layers=layers))


def sealing(ring: Keyring = OLD_RING, **options: Any) -> Encryption:
    return Encryption(ring, **options)
