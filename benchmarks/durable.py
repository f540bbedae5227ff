"""A file replaced by hand so that it survives a power cut: what the comparisons with files of one's own write."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replaced(path: Path, mode: str = "w", *, copy: bool = False) -> Iterator[IO[Any]]:
    """A temporary file to write to, which then takes the place of `path`; `copy` keeps the version before as `.bak`."""
    temporary = path.with_suffix(".new")
    with temporary.open(mode) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    if copy and path.exists():
        spare = path.with_suffix(".spare")
        os.link(path, spare)
        spare.replace(path.with_suffix(".bak"))
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
