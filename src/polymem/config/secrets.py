"""Encryption keys: a configuration says where they are, and never what they are (G-1)."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from polymem.errors import StorageDataError

if TYPE_CHECKING:
    from polymem.layers.encryption import Encryption

SOURCES: Final = ("env", "file")
_BYTES: Final = 32
_LARGEST: Final = 1024


@dataclass(frozen=True, slots=True)
class Secret:
    """32 bytes in a variable or a file: `env:NAME` or `file:PATH`, read when the store is made."""

    reference: str
    key: str
    """Of the setting that refers to it."""
    origin: str
    variables: Mapping[str, str] = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        source, _, where = self.reference.partition(":")
        if source not in SOURCES or not where:
            self._refuse("expected env:NAME or file:PATH; a secret does not belong into a configuration")

    def read(self) -> bytes:
        """The bytes; what is wrong with them is told by the setting, never by what was found."""
        source, _, where = self.reference.partition(":")
        found = self._variable(where) if source == "env" else self._file(where)
        as_it_is = source == "file" and len(found) == _BYTES  # text of that length has far fewer bits
        secret = found if as_it_is else _decoded(found.strip())
        if secret is None:
            self._refuse(f"expected {_BYTES} bytes as hexadecimal or base64 (openssl rand -hex {_BYTES})")
        return secret

    def _variable(self, name: str) -> bytes:
        if name not in self.variables:
            self._refuse(f"the variable {name} is not set")
        return self.variables[name].encode()

    def _file(self, path: str) -> bytes:
        try:
            with Path(path).expanduser().open("rb") as file:
                return file.read(_LARGEST)
        except OSError as error:
            self._refuse(f"{path}: {error.strerror}")

    def _refuse(self, what: str) -> NoReturn:
        raise StorageDataError(f"{self.origin}: {self.key}: {what}", field=self.key)


def _decoded(text: bytes) -> bytes | None:
    for decode in (binascii.unhexlify, lambda given: base64.b64decode(given, altchars=b"-_", validate=True)):
        try:
            secret = decode(text)
        except binascii.Error:
            continue
        if len(secret) == _BYTES:
            return secret
    return None


@dataclass(frozen=True, slots=True)
class EncryptionConfig:
    """The keys of one engine by their ids, and which of them seals what is written."""

    current: str
    keys: Mapping[str, Secret]
    names: Secret | None = None
    hide_keys: bool = False

    def layer(self) -> "Encryption":
        """The encryption with its secrets read; `StorageDataError` names the setting whose secret is not there."""
        from polymem.layers.encryption import Encryption, Key, Keyring  # noqa: PLC0415 - needs an extra

        previous = [Key(id, secret.read()) for id, secret in self.keys.items() if id != self.current]
        names = None if self.names is None else self.names.read()
        keyring = Keyring(Key(self.current, self.keys[self.current].read()), previous, names=names)
        return Encryption(keyring, hide_keys=self.hide_keys)
