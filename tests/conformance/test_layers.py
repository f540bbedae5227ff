"""Every clause through each layer, through both, and with a near cache above them, over the embedded engines (LAY-1, LAY-2)."""

from polymem.contracts.drivers import Layer
from polymem.engines.memory.engine import MemoryEngine
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.layers.compression import Compression
from polymem.layers.encryption import Encryption, Key, Keyring
from polymem.testing import ConformanceSuite, EngineHarness

COMPRESSION = Compression(threshold=64)  # as low as it goes, so that most values are compressed
ENCRYPTION = Encryption(Keyring(Key("test", bytes(range(32)))))
EXAMPLES = 30


def _memory(*layers: Layer) -> EngineHarness:
    return EngineHarness(lambda _, clock: MemoryEngine(clock), layers=layers)


def _sqlite(*layers: Layer) -> EngineHarness:
    return EngineHarness(lambda folder, clock: SqliteEngine(folder / "layers.db", clock=clock), layers=layers)


class TestCompressedMemory(ConformanceSuite):
    harness, examples = _memory(COMPRESSION), EXAMPLES


class TestCompressedSqlite(ConformanceSuite):
    harness, examples = _sqlite(COMPRESSION), EXAMPLES


class TestEncryptedMemory(ConformanceSuite):
    harness, examples = _memory(ENCRYPTION), EXAMPLES


class TestEncryptedSqlite(ConformanceSuite):
    harness, examples = _sqlite(ENCRYPTION), EXAMPLES


class TestStackOnMemory(ConformanceSuite):
    harness, examples = _memory(ENCRYPTION, COMPRESSION), EXAMPLES


class TestStackOnSqlite(ConformanceSuite):
    harness, examples = _sqlite(ENCRYPTION, COMPRESSION), EXAMPLES


class TestWholeStackOnSqlite(ConformanceSuite):
    """As `polymem.open(url, cache=, compression=, encryption=)` makes it."""

    harness = EngineHarness(
        lambda folder, clock: CachedEngine(
            SqliteEngine(folder / "layers.db", clock=clock), CachePolicy(), [ENCRYPTION, COMPRESSION]
        )
    )
    examples = EXAMPLES
