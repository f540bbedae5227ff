"""What an open file leaves in the process and in its folder."""

import threading
from pathlib import Path


def threads() -> list[str]:
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("polymem-sqlite"))


def files_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())
