"""Reads `.env`, for the command line only: a library that did would surprise the program that uses it."""

import re
from pathlib import Path
from typing import Final

from polymem.config.sources import FALLBACKS, PREFIX
from polymem.errors import StorageDataError

_LINE: Final = re.compile(
    r"""(?:export\s+)?(?P<name>\w+)\s*=\s*(?:'(?P<single>[^']*)'|"(?P<double>[^"]*)"|(?P<bare>[^'"\s#][^\s#]*)?)\s*(?:\#.*)?"""
)


def read_dotenv(path: Path) -> dict[str, str]:
    """The variables of the file that concern us; none where there is no file.

    Lines are `NAME=value`, with `export` and quotes if wanted. StorageDataError names the line, never its content.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError):
        raise StorageDataError(f"{path}: cannot be read as UTF-8 text", field="config") from None
    found = dict(_variable(path, number, line.strip()) for number, line in enumerate(lines, 1) if _is_ours(line))
    return {name: value for name, value in found.items() if value}


def _is_ours(line: str) -> bool:
    name = line.strip().removeprefix("export ").lstrip()
    return name.startswith((PREFIX, *FALLBACKS))


def _variable(path: Path, number: int, line: str) -> tuple[str, str]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise StorageDataError(f"{path}, line {number}: expected NAME=value", field="config")
    return match["name"], match["single"] or match["double"] or match["bare"] or ""
