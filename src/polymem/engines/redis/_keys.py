"""The names of Redis keys (KV-10).

Everything of a namespace is in one hash slot: the braces hold the namespace and nothing else, and a key's own braces
come after them. So scripts, batches and transactions of a namespace also run in a Cluster, which spreads namespaces.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Names:
    """The Redis keys of one namespace. A `}` in its name ends the part that is hashed early, but for all keys alike."""

    records: bytes
    """What the key of a record starts with."""
    keys: bytes
    """Sorted set of the keys, for listing in order."""
    expiries: bytes
    """Sorted set of the keys that expire, by instant."""
    log: bytes
    """Stream of the changes of records, while somebody watches."""
    scratch: bytes
    """Used within a script only."""
    turns: bytes
    """What the key of a session starts with: a sorted set of its turns."""
    sessions: bytes
    """Sorted set of the sessions."""
    expiring: bytes
    """Sorted set of the sessions with a turn that expires, by the first instant."""


def names(prefix: str, namespace: str) -> Names:
    """The slash makes the hashed part of the root namespace more than nothing."""
    base = f"{prefix}:{{/{namespace}}}:".encode()
    return Names(
        base + b"kv:", base + b"keys", base + b"expiries", base + b"log", base + b"scratch",
        base + b"turns:", base + b"sessions", base + b"expiring",
    )  # fmt: skip


def registry(prefix: str) -> bytes:
    """Sorted set of every namespace that was ever written to."""
    return f"{prefix}:namespaces".encode()


def lease(prefix: str, name: str) -> bytes:
    return f"{prefix}:lease:{name}".encode()
