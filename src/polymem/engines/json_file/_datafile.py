"""The data file with its copy and its lock: opening, recovering, saving. Every function here blocks."""

import logging
import os
from pathlib import Path

from polymem.core.clock import Clock
from polymem.engines.json_file._errors import DamagedError, UnsyncedError
from polymem.engines.json_file._file import check_place, erase, keep_as, set_aside, write_whole
from polymem.engines.json_file._lock import LockFile
from polymem.engines.json_file._text import Renderer, State, parse
from polymem.errors import StorageCorruptError, StorageNotFoundError

_log = logging.getLogger("polymem.json_file")


class DataFile:
    """One file. `<path>.bak` is the last good copy: the version before the last save, after a clean close the same."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path, self._clock = path, clock
        self.copy = path.with_name(f"{path.name}.bak")
        self.notes: list[str] = []
        """What a person should know of this file: recoveries, changes by other programs."""
        self._lock = LockFile(path.with_name(f"{path.name}.lock"))
        self._renderer = Renderer()
        self._seen: tuple[int, int, int] | None = None
        """What the file looked like when we last read or wrote it; None where there was none."""
        self._copy_is_older = False

    def open(self) -> State:
        """Take the lock and read the file; where it is damaged or missing, recover the copy."""
        check_place(self.path)
        self._lock.acquire()
        self.notes, self._seen, self._copy_is_older = [], None, False
        try:
            return self._read_or_recover()
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Make the copy as good as the file, and let others in."""
        try:
            if self._copy_is_older and self._looks() == self._seen:
                self._copy_file()
        except (OSError, UnsyncedError) as error:
            _log.warning("%s could not be brought up to date: %s", self.copy, type(error).__name__)
        finally:
            self._lock.release()

    def load(self) -> State:
        """The state in the file; nothing is recovered or changed."""
        try:
            return self._read()
        except FileNotFoundError as error:
            raise StorageNotFoundError(f"there is no {self.path}") from error
        except DamagedError as error:
            raise StorageCorruptError(f"{self.path} is damaged: {error}; it was left untouched") from error

    def write(self, state: State) -> None:
        """Save: durable when it returns, and nothing has happened where it raises."""
        keep = self._keep_previous if self._looks() == self._seen else self._keep_foreign
        try:
            write_whole(self.path, self._renderer.render(state), keep)
        except UnsyncedError:
            self._written()
            raise
        self._written()

    def purge(self, state: State) -> None:
        """Save, and leave nothing of what was deleted in the file or its copy."""
        erase(self.copy)
        self.write(state)
        erase(self.copy)
        self._copy_file()

    def problems(self, state: State) -> list[str]:
        """What is wrong with the files, given what was saved last."""
        return [*self._problems_of_file(state), *self._problems_of_copy()]

    def set_aside(self) -> list[str]:
        """Names of the versions kept for a person to look at."""
        names = (name for why in ("damaged", "changed") for name in self.path.parent.glob(f"{self.path.name}.{why}-*"))
        return sorted(str(name) for name in names)

    def _read(self) -> State:
        data = self.path.read_bytes()
        try:
            state = parse(data, self._clock.now())
        except StorageCorruptError as error:
            raise StorageCorruptError(f"{self.path} is not ours to use: {error}; it was left untouched") from error
        self._seen = self._looks()
        return state

    def _read_or_recover(self) -> State:
        try:
            return self._read()
        except FileNotFoundError:
            return self._recover("is missing") if self.copy.exists() else {}
        except DamagedError as error:
            return self._recover(f"is damaged ({error})")

    def _recover(self, why: str) -> State:
        try:
            data = self.copy.read_bytes()
            state = parse(data, self._clock.now())
        except (FileNotFoundError, DamagedError, StorageCorruptError) as error:
            raise StorageCorruptError(
                f"{self.path} {why} and there is no good copy of it; it was left untouched"
            ) from error
        kept: list[Path] = []
        write_whole(self.path, data, lambda: kept.extend(self._aside("damaged")))
        self._seen = self._looks()
        self._note(f"{self.path} {why}: recovered {self.copy}, which may lack the last writes", kept)
        return state

    def _written(self) -> None:
        self._seen, self._copy_is_older = self._looks(), True

    def _keep_previous(self) -> None:
        if self._seen is not None:
            keep_as(self.path, self.copy)

    def _keep_foreign(self) -> None:
        kept = self._aside("changed")
        self._note(f"{self.path} was changed or removed by another program while it was open", kept)

    def _aside(self, why: str) -> list[Path]:
        return [set_aside(self.path, why)] if self.path.exists() else []

    def _note(self, what: str, kept: list[Path]) -> None:
        note = "; ".join([what, *(f"what was there is kept as {name}" for name in kept)])
        self.notes.append(note)
        _log.warning("%s", note)

    def _copy_file(self) -> None:
        if self.path.exists():
            write_whole(self.copy, self.path.read_bytes())
        self._copy_is_older = False

    def _looks(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.path)  # noqa: PTH116 - a symbolic link was resolved when it was opened
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _problems_of_file(self, state: State) -> list[str]:
        try:
            found = parse(self.path.read_bytes(), self._clock.now())
        except FileNotFoundError:
            return [f"{self.path} is missing"] if self._seen is not None else []
        except (DamagedError, StorageCorruptError) as error:
            return [f"{self.path} is damaged: {error}"]
        return [] if found == state else [f"{self.path} was changed by another program"]

    def _problems_of_copy(self) -> list[str]:
        try:
            parse(self.copy.read_bytes(), self._clock.now())
        except FileNotFoundError:
            return []
        except (DamagedError, StorageCorruptError) as error:
            return [f"the copy {self.copy} is damaged: {error}"]
        return []
