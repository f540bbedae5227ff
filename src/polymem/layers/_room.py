"""What the encrypted drivers of one namespace share."""

from dataclasses import dataclass

from polymem.errors import StorageCorruptError, StorageUnsupportedError
from polymem.layers._keyring import Keyring, Name


@dataclass(frozen=True, slots=True)
class Room:
    """A namespace with its keys: everything sealed here is bound to it."""

    keyring: Keyring
    namespace: str
    hides: bool
    """Whether keys, ids and session ids are stored as keyed hashes."""

    def seal(self, data: bytes, what: str, *names: Name) -> bytes:
        """Data bound to what it is and to its names."""
        return self.keyring.seal(data, (what, self.namespace, *names))

    def open(self, sealed: bytes, what: str, *names: Name) -> bytes:
        """The data of a record of that name."""
        return self.keyring.open(sealed, (what, self.namespace, *names))

    def stored(self, name: str, what: str, *inside: Name) -> str:
        """Under which name something is stored."""
        return self.keyring.hide((what, self.namespace, *inside, name)) if self.hides else name

    def kept(self, name: str) -> str:
        """The name as it is kept inside the sealed data: only there where it is hidden."""
        return name if self.hides else ""

    def shown(self, stored: str, kept: str) -> str:
        """The name to show of a record, from the one it is stored under and the one that was sealed."""
        if bool(kept) is not self.hides:
            raise StorageCorruptError("a record was written with the other setting of hide_keys")
        return kept or stored

    def check_prefix(self, prefix: str) -> None:
        """Hidden names have no beginnings in common."""
        if prefix and self.hides:
            raise StorageUnsupportedError("keys are hidden (hide_keys=True): they can't be found by a prefix")
