"""Opaque ids of turns and sessions: any characters go in, plain ones come out."""

import base64
import binascii
from typing import Final

from polymem.contracts.turns import MAX_TURN_ID
from polymem.core.text import check_key
from polymem.errors import StorageDataError

_WHOLE: Final = "all"


def turn_key(session_id: str, turn_id: int) -> str:
    """The id of a turn."""
    return f"{_coded(session_id)}.{turn_id}"


def session_key(session_id: str) -> str:
    """The id of a whole session."""
    return f"{_coded(session_id)}.{_WHOLE}"


def read_key(id: str) -> tuple[str, int | None]:
    """Session and turn, None for the whole session; `StorageDataError` for what no adapter has given."""
    code, _, number = id.rpartition(".") if isinstance(id, str) else ("", "", "")
    try:
        session_id = base64.b64decode(code + "=" * (-len(code) % 4), altchars=b"-_", validate=True).decode()
        turn_id = None if number == _WHOLE else int(number)
    except (ValueError, binascii.Error):
        raise malformed() from None
    if turn_id is not None and not 0 <= turn_id <= MAX_TURN_ID:
        raise malformed()
    if id != (session_key(session_id) if turn_id is None else turn_key(session_id, turn_id)):
        raise malformed()
    return check_key(session_id, field="id"), turn_id


def malformed() -> StorageDataError:
    """For an id that cannot be one."""
    return StorageDataError("malformed; expected an id that store() gave", field="id")


def _coded(session_id: str) -> str:
    return base64.urlsafe_b64encode(session_id.encode()).decode().rstrip("=")
