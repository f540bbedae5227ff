"""Opaque positions in a listing that a caller can keep and hand back."""

import base64
import binascii
from hashlib import blake2b
from typing import Any, Final

import msgspec

from polymem.errors import StorageDataError

_FORMAT: Final = 1


def encode_cursor(query: str, position: Any) -> str:
    """`position` of the listing that `query` describes, as URL-safe text."""
    body = msgspec.json.encode([_FORMAT, _fingerprint(query), position])
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


def decode_cursor(query: str, cursor: str) -> Any:
    """The position in a cursor; one that was made for another listing, or by nobody, is a `StorageDataError`."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        version, fingerprint, position = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (TypeError, ValueError, binascii.Error) as error:
        raise StorageDataError("expected a cursor that an earlier call returned", field="cursor") from error
    if version != _FORMAT or fingerprint != _fingerprint(query):
        raise StorageDataError("the cursor belongs to another listing", field="cursor")
    return position


def _fingerprint(query: str) -> str:
    return blake2b(query.encode(), digest_size=6).hexdigest()
