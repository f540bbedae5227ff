"""The keys of encryption, and what is done with them: AES-256-GCM and hidden names (LAY-2)."""

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from polymem.contracts._input import several
from polymem.errors import StorageAuthError, StorageCorruptError, StorageDataError, StorageUnsupportedError

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ModuleNotFoundError as error:
    raise StorageUnsupportedError("cryptography is missing: pip install 'polymem[encryption]'") from error

SECRET_BYTES: Final = 32
_MAGIC: Final = b"\xfe\x01"
"""Format 1; the first byte occurs in no UTF-8, so engines that tell text from bytes keep it as bytes."""
_ID_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HEADER_BYTES: Final = len(_MAGIC) + _ID_BYTES
OVERHEAD: Final = _HEADER_BYTES + _NONCE_BYTES + _TAG_BYTES
"""By how much sealed data is longer than what it holds."""
_ID: Final = re.compile(rf"[A-Za-z0-9_.\-]{{1,{_ID_BYTES}}}")

Name = str | int
Place = tuple[Name, ...]
"""Where data belongs: it can be opened there and nowhere else."""


class Key:
    """A secret of 32 random bytes (`os.urandom(32)`, kept in a safe place) and the id that is stored beside its data."""

    __slots__ = ("cipher", "header", "id")

    def __init__(self, id: str, secret: bytes) -> None:
        if not isinstance(id, str) or not _ID.fullmatch(id):
            raise StorageDataError("expected 1 to 16 letters, digits, _, - or .", field="id")
        self.id, self.header = id, _MAGIC + id.encode().ljust(_ID_BYTES, b"\0")
        self.cipher = AESGCM(_secret(secret, "secret"))

    def __repr__(self) -> str:
        return f"<Key {self.id}>"


class Keyring:
    """`current` encrypts, and it and the `previous` keys decrypt.

    `names` is the secret behind hidden keys (`hide_keys=True`); it cannot be changed later, as it decides under
    which name a record is looked for.
    """

    __slots__ = ("_current", "_keys", "_names")

    def __init__(self, current: Key, previous: Iterable[Key] = (), *, names: bytes | None = None) -> None:
        keys: list[Key] = [current, *several(previous, field="previous")]
        for at, key in enumerate(keys):
            if not isinstance(key, Key):
                raise StorageDataError("expected Key(id, secret)", field="previous" if at else "current")
        if len({key.id for key in keys}) < len(keys):
            raise StorageDataError("two keys have the same id", field="previous")
        self._current, self._keys = current, {key.header: key for key in keys}
        self._names = None if names is None else hmac.new(_secret(names, "names"), digestmod=hashlib.sha256)

    def __repr__(self) -> str:
        return f"<Keyring {', '.join(key.id for key in self._keys.values())}>"

    @property
    def hides_names(self) -> bool:
        """Whether there is a secret to hide names with."""
        return self._names is not None

    def seal(self, data: bytes, place: Place) -> bytes:
        """The data encrypted with the current key and bound to its place."""
        nonce = os.urandom(_NONCE_BYTES)
        return self._current.header + nonce + self._current.cipher.encrypt(nonce, data, _bytes(place))

    def open(self, sealed: bytes, place: Place) -> bytes:
        """What was sealed in that place; otherwise `StorageCorruptError`, or `StorageAuthError` naming the key it needs."""
        what = place[0]
        if not sealed.startswith(_MAGIC) or len(sealed) < OVERHEAD:
            raise StorageCorruptError(f"a stored {what} is damaged or was written without encryption")
        header, nonce = sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES : _HEADER_BYTES + _NONCE_BYTES]
        key = self._keys.get(header)
        if key is None:
            raise StorageAuthError(f"a stored {what} needs the key {_id(header)}, which is not in the keyring")
        try:
            return key.cipher.decrypt(nonce, sealed[_HEADER_BYTES + _NONCE_BYTES :], _bytes(place))
        except InvalidTag:
            raise StorageCorruptError(
                f"a stored {what} cannot be decrypted: its key {key.id} is another one, or it was changed or moved"
            ) from None

    def is_current(self, sealed: bytes) -> bool:
        """Whether the current key sealed it."""
        return sealed.startswith(self._current.header)

    def hide(self, place: Place) -> str:
        """A name that stands for a place: always the same one, and telling nothing without the secret."""
        if self._names is None:
            raise StorageDataError("hide_keys=True needs Keyring(..., names=<32 bytes>)", field="names")
        keyed = self._names.copy()
        keyed.update(_bytes(place))
        return base64.urlsafe_b64encode(keyed.digest()).decode().rstrip("=")


def _secret(secret: object, field: str) -> bytes:
    if not isinstance(secret, (bytes, bytearray)) or len(secret) != SECRET_BYTES:
        raise StorageDataError(f"expected {SECRET_BYTES} random bytes", field=field)
    return bytes(secret)


def _bytes(place: Place) -> bytes:
    """Different for different places: JSON is injective."""
    return msgspec.json.encode(place)


def _id(header: bytes) -> str:
    """The id in a header that nobody vouches for."""
    found = header[len(_MAGIC) :].rstrip(b"\0").decode("ascii", "replace")
    return found if _ID.fullmatch(found) else "of an unreadable id"
