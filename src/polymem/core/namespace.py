"""Namespaces as one string: injective, readable, deletable by range.

Each segment is escaped (`%` -> `%25`, `/` -> `%2F`) and ended by `/`, so siblings are disjoint and the
subtree of `a/` is exactly the range ["a/", "a0"): "0" is the character after "/".
"""

from polymem.core.text import check_key


def encode(segments: tuple[str, ...]) -> str:
    return "".join(s.replace("%", "%25").replace("/", "%2F") + "/" for s in segments)


def decode(namespace: str) -> tuple[str, ...]:
    return tuple(s.replace("%2F", "/").replace("%25", "%") for s in namespace.split("/")[:-1])


def child(namespace: str, segments: tuple[str, ...]) -> str:
    """The encoded name of a namespace below `namespace`; raises `StorageDataError` for a bad segment."""
    for segment in segments:
        check_key(segment, field="namespace")
    encoded = namespace + encode(segments)
    check_key(encoded, field="namespace")
    return encoded


def subtree_end(namespace: str) -> str:
    """The least string above every namespace that starts with `namespace`; '' means no bound."""
    return namespace[:-1] + "0" if namespace else ""
