"""What a power cut leaves of a database: a VFS that records every write and sync, and disks made from the record.

Whatever was synced is there. Of what was not, any part may be there: each sector of 512 bytes of each write is kept
or lost by itself, or each write as a whole.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import apsw

SECTOR: Final = 512


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a file; `offset` of a truncation is the new size."""

    file: str
    kind: Literal["write", "truncate", "sync", "delete"]
    offset: int = 0
    data: bytes = b""


class PowerCutVFS(apsw.VFS):
    """The usual VFS, recording; `len(log)` is the time."""

    def __init__(self, name: str) -> None:
        self.log: list[Event] = []
        self.vfs_name = name
        super().__init__(name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "RecordedFile":  # noqa: N802
        return RecordedFile(self.log, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        self.log.append(Event(Path(filename).name, "delete"))


class RecordedFile(apsw.VFSFile):
    """A file whose writes are recorded."""

    def __init__(self, log: list[Event], name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        filename = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._log, self._name = log, Path(filename).name
        super().__init__("", name, flags)  # type: ignore[arg-type]

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._log.append(Event(self._name, "write", offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._log.append(Event(self._name, "truncate", newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._log.append(Event(self._name, "sync"))


@dataclass(slots=True)
class _File:
    synced: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)


class Disk:
    """The files as they are on the medium at some time of the record."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}

    def apply(self, event: Event) -> None:
        if event.kind == "delete":
            self._files.pop(event.file, None)
            return
        file = self._files.setdefault(event.file, _File())
        if event.kind == "sync":
            for change in file.pending:
                _apply(file.synced, change)
            file.pending.clear()
        else:
            file.pending.append(event)

    def after_power_cut(self, chance: random.Random) -> dict[str, bytes]:
        """The contents of each file: what was synced and a random part of the rest."""
        return {name: _survivor(file, chance) for name, file in self._files.items()}


def _survivor(file: _File, chance: random.Random) -> bytes:
    content, kept, whole = bytearray(file.synced), chance.choice((0.0, 0.2, 0.5, 0.9)), chance.random() < 0.3
    for event in file.pending:
        for piece in [event] if whole else _sectors(event):
            if chance.random() < kept:
                _apply(content, piece)
    return bytes(content)


def _sectors(event: Event) -> list[Event]:
    """A write in pieces that each lie within one sector."""
    if event.kind != "write":
        return [event]
    first = SECTOR - event.offset % SECTOR
    cuts = [0, *range(first, len(event.data), SECTOR), len(event.data)]
    return [
        Event(event.file, "write", event.offset + start, event.data[start:end])
        for start, end in zip(cuts, cuts[1:], strict=False)
    ]


def _apply(content: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        del content[event.offset :]
        return
    content.extend(bytes(max(0, event.offset - len(content))))
    content[event.offset : event.offset + len(event.data)] = event.data
