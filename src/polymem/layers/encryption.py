"""Key-value bodies, turns and blobs are kept encrypted, AES-256-GCM with a random nonce each (LAY-2).

    keyring = Keyring(Key("2026-11", secret), previous=[Key("2025-11", old_secret)])
    async with polymem.open("sqlite:///agent.db", encryption=keyring) as store: ...

Whatever is sealed is bound to its namespace, contract and name: moved elsewhere it cannot be opened. Contracts that
need to look into what is stored (vectors, text, graph, sql, queries) are not there. docs/encryption.md says what
stays readable.
"""

from polymem.contracts.drivers import Drivers
from polymem.errors import StorageDataError
from polymem.layers._encrypted_blobs import EncryptedBlobs
from polymem.layers._encrypted_kv import EncryptedKV
from polymem.layers._encrypted_turns import EncryptedTurns
from polymem.layers._keyring import Key, Keyring
from polymem.layers._room import Room
from polymem.layers._rotation import Progress, rotate

__all__ = ["Encryption", "Key", "Keyring", "Progress", "rotate"]


class Encryption:
    """The layer. With `hide_keys` keys, session ids and ids are stored as keyed hashes (HMAC-SHA256).

    Hidden names can't be found by prefix and are listed in no order; the keyring needs `names` for them.
    """

    def __init__(self, keyring: Keyring, *, hide_keys: bool = False) -> None:
        if not isinstance(keyring, Keyring):
            raise StorageDataError("expected Keyring(Key(id, secret))", field="encryption")
        if hide_keys and not keyring.hides_names:
            raise StorageDataError("hide_keys=True needs Keyring(..., names=<32 bytes>)", field="names")
        self.keyring, self.hide_keys = keyring, bool(hide_keys)

    def __repr__(self) -> str:
        return f"<Encryption {self.keyring!r} hide_keys={self.hide_keys}>"

    def __call__(self, drivers: Drivers, namespace: str) -> Drivers:
        """The drivers of a namespace with what they store sealed; what is not named here is gone."""
        room = Room(self.keyring, namespace, self.hide_keys)
        return Drivers(
            kv=None if drivers.kv is None else EncryptedKV(drivers.kv, room),
            turns=None if drivers.turns is None else EncryptedTurns(drivers.turns, room),
            blobs=None if drivers.blobs is None else EncryptedBlobs(drivers.blobs, room),
            transactions=drivers.transactions,
            events=None if self.hide_keys else drivers.events,
        )
