"""Counts the fsyncs that SQLite asks for: a VFS that passes everything on."""

from typing import Any

import apsw


class SyncCounter(apsw.VFS):
    """The usual VFS; `syncs` is how often a file was synced."""

    def __init__(self, name: str) -> None:
        self.name, self.syncs = name, 0
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> "CountedFile":  # noqa: N802
        return CountedFile(self, name, flags)


class CountedFile(apsw.VFSFile):
    def __init__(self, counter: SyncCounter, name: Any, flags: list[int]) -> None:
        self._counter = counter
        super().__init__("", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._counter.syncs += 1
        super().xSync(flags)
