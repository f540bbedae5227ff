"""Logging (LOG-1): standard loggers under `polymem.*`, silent until someone listens.

Records carry `engine`, `operation`, `tenant`, `duration_ms`, `outcome`, `error_type` and `attempt` as attributes, any
handler may use them. They never carry values, vectors, query parameters or credentials.
"""

import json as _json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from polymem.errors import StorageDataError

FIELDS: Final = ("engine", "operation", "tenant", "duration_ms", "outcome", "error_type", "attempt")
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class _Stream(logging.StreamHandler[TextIO]):
    """The handler `configure_logging` put in place, told from others by its class."""


def configure_logging(level: str = "INFO", *, json: bool = False, stream: TextIO | None = None) -> logging.Handler:
    """Write the records of `polymem.*` to `stream` (standard error) as text or as JSON lines; returns the handler.

    Calling it again replaces the handler of the call before. Raises StorageDataError for an unknown level. Tracebacks
    are not written: the driver's exception in them may quote a stored value.
    """
    if not isinstance(level, str) or level.upper() not in _LEVELS:
        raise StorageDataError(f"expected one of {', '.join(_LEVELS)}", field="level")
    logger = logging.getLogger("polymem")
    for handler in [h for h in logger.handlers if isinstance(h, _Stream)]:
        logger.removeHandler(handler)
    added = _Stream(stream or sys.stderr)
    added.setFormatter(_JsonLines() if json else _TextLines())
    logger.addHandler(added)
    logger.setLevel(level.upper())
    return added


class _TextLines(logging.Formatter):
    """`time level logger: message field=value ...`, one line each."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        return line.replace("\r", "\\r").replace("\n", "\\n")


class _JsonLines(logging.Formatter):
    """One JSON object a line: at, level, logger, message and the fields that are known."""

    def format(self, record: logging.LogRecord) -> str:
        head = {
            "at": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        return _json.dumps({**head, **_fields(record)}, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found = {name: getattr(record, name, None) for name in FIELDS}
    if found["error_type"] is None and record.exc_info and record.exc_info[0]:
        found["error_type"] = record.exc_info[0].__name__
    return {name: value for name, value in found.items() if value is not None}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
