"""What of a setting may be shown: never a password, key, token or secret (G-1)."""

import re
from typing import Final

MASK: Final = "***"
_SECRET_WORDS: Final = frozenset({
    "apikey", "credential", "credentials", "key", "passphrase", "passwd", "password", "pwd", "secret", "token",
})  # fmt: skip
_USERINFO: Final = re.compile(r"(?P<start>[A-Za-z][\w+.-]*://(?!/)[^:@]*:).*@", re.DOTALL)
_QUERY: Final = re.compile(r"(?P<start>[?&;](?P<name>[^=&;#]+)=)[^&;#]*")


def is_secret(name: str) -> bool:
    """Whether a setting or URL parameter of this name holds a secret: `api_key` does, `max_tokens` does not."""
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return not _SECRET_WORDS.isdisjoint(words)


def mask_url(url: str) -> str:
    """The URL with `***` for the password and for secret parameters.

    Everything up to the last @ is taken for the password: one that was not escaped must not show either.
    """
    return _QUERY.sub(_parameter, _USERINFO.sub(rf"\g<start>{MASK}@", url))


def masked(name: str, value: object) -> object:
    """The value as it may be printed."""
    if value is None:
        return None
    if is_secret(name.rpartition(".")[2]):
        return MASK
    if isinstance(value, (list, tuple)):
        return [masked(name, one) for one in value]
    return mask_url(value) if isinstance(value, str) else value


def _parameter(match: re.Match[str]) -> str:
    return match["start"] + MASK if is_secret(match["name"]) else match[0]
