"""The file as text: what is written, and what may be read.

A value that is JSON stands in the file as JSON, byte for byte but for the white space between its tokens; anything
else stands there in base64. Instants are ISO 8601 with microseconds. Namespaces and keys are in order, so that two
versions of a file compare well. Only `value` is necessary in a record that a person adds.
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

from polymem.contracts.kv import Record, new_version
from polymem.core.clock import to_datetime, to_instant
from polymem.core.codec import check_json, decode_json
from polymem.core.namespace import decode, encode
from polymem.core.text import check_key, check_text
from polymem.engines.json_file._errors import DamagedError
from polymem.errors import StorageCorruptError, StorageError

State = Mapping[str, Mapping[str, Record]]
"""Records by encoded namespace and key."""
MARK: Final = "polymem json file"
FORMAT: Final = 1
_HEAD: Final = b'{\n  "format": "%s",\n  "format_version": %d,\n  "namespaces": {' % (MARK.encode(), FORMAT)
_NAMESPACE, _RECORD = b"\n    ", b"\n      "
_Texts = dict[str, tuple[Record, bytes]]
_Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class _Stored(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A record in the file. An unknown field is refused: a misspelt `expires_at` must not be lost in silence."""

    value: msgspec.Raw = msgspec.Raw(b"")
    base64: bytes | None = None
    codec: str = "json"
    version: int | None = None
    created_at: _Instant | None = None
    updated_at: _Instant | None = None
    expires_at: _Instant | None = None


class _Kind(msgspec.Struct):
    """What says whose file it is."""

    format: Any = None
    format_version: Any = None


class _Whole(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    format_version: int
    namespaces: dict[str, dict[str, _Stored]]


class Renderer:
    """Keeps the text of every record it wrote, so that a save costs encoding only for what changed."""

    def __init__(self) -> None:
        self._known: dict[str, _Texts] = {}

    def render(self, state: State) -> bytes:
        """The text of a state."""
        names = sorted(name for name in state if state[name])
        self._known = {name: _texts(state[name], self._known.get(name, {})) for name in names}
        texts = [text for name, known in self._known.items() for text in _namespace_texts(name, known)]
        if not texts:
            return _HEAD + b"}\n}\n"
        texts[0] = _HEAD + texts[0]
        texts[-1] += b"\n  }\n}\n"
        return b",".join(texts)  # once: of a large file each copy costs as much as writing it


def _texts(records: Mapping[str, Record], known: _Texts) -> _Texts:
    """In order of the keys; of a record that is the very same as before, the text it had."""
    texts: _Texts = {}
    for key in sorted(records):
        record, kept = records[key], known.get(key)
        texts[key] = kept if kept is not None and kept[0] is record else (record, _record_text(key, record))
    return texts


def _namespace_texts(name: str, known: _Texts) -> list[bytes]:
    """What stands between commas: the first and the last also have what is around the records."""
    texts = [text for _, text in known.values()]
    texts[0] = b"".join((_NAMESPACE, msgspec.json.encode(f"/{name}"), b": {", texts[0]))
    texts[-1] += _NAMESPACE + b"}"
    return texts


def _record_text(key: str, record: Record) -> bytes:
    stored = _Stored(
        codec=record.codec,
        version=record.version,
        created_at=to_datetime(record.created_at),
        updated_at=to_datetime(record.updated_at),
        expires_at=None if record.expires_at is None else to_datetime(record.expires_at),
    )
    if _is_plain_json(record.body):
        stored.value = msgspec.Raw(record.body)
    else:
        stored.base64 = record.body
    text = msgspec.json.format(msgspec.json.encode({key: stored}), indent=2)
    return text[1:-2].replace(b"\n  ", _RECORD)  # without the braces, and where it belongs


def _is_plain_json(body: bytes) -> bool:
    """Whether the very bytes come back when the text is indented and compacted again."""
    try:
        body.decode()
        return bool(body) and msgspec.json.format(body, indent=-1) == body
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False


def parse(data: bytes, now: int) -> dict[str, dict[str, Record]]:
    """The state in a file. `DamagedError` for what cannot be read, `StorageCorruptError` for what is not for us.

    What a person left out is made up: a new version, and `now` for the instants.
    """
    try:
        data.decode()
        text = data.removeprefix(BOM_UTF8)
        _check_kind(text)
        whole = msgspec.json.decode(text, type=_Whole)
        return {_namespace(name): _records(found, now) for name, found in whole.namespaces.items()}
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise DamagedError(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, msgspec.DecodeError):
        return str(error)  # says where, and never what
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else "it is nested too deeply"


def _check_kind(text: bytes) -> None:
    try:
        kind = msgspec.json.decode(text, type=_Kind)
    except msgspec.ValidationError:  # not an object: JSON of others, or none at all
        msgspec.json.decode(text)
        kind = _Kind()
    if kind.format != MARK:
        raise StorageCorruptError("it is JSON of another application")
    version = kind.format_version
    if type(version) is int and version > FORMAT:
        raise StorageCorruptError(
            f"it has format {version}, written by a newer version; this one reads up to {FORMAT}: upgrade polymem"
        )


def _namespace(name: str) -> str:
    encoded = name.removeprefix("/")
    if encoded == name or encode(decode(encoded)) != encoded:
        raise DamagedError("a namespace is not written as / or /name/")
    for name_or_segment in (encoded, *decode(encoded)) if encoded else ():
        _checked(check_key, name_or_segment, field="namespace")
    return encoded


def _records(found: Mapping[str, _Stored], now: int) -> dict[str, Record]:
    return {_checked(check_key, key, field="key"): _record(stored, now) for key, stored in found.items()}


def _record(stored: _Stored, now: int) -> Record:
    created = now if stored.created_at is None else to_instant(stored.created_at)
    return Record(
        _body(stored),
        _checked(check_text, stored.codec, field="codec"),
        new_version() if stored.version is None else stored.version,
        created,
        created if stored.updated_at is None else to_instant(stored.updated_at),
        None if stored.expires_at is None else to_instant(stored.expires_at),
    )


def _body(stored: _Stored) -> bytes:
    text = bytes(stored.value)
    if bool(text) is (stored.base64 is not None):
        raise DamagedError("a record has not exactly one of value and base64")
    if stored.base64 is not None:
        return stored.base64
    body = msgspec.json.format(text, indent=-1)
    if b"\\u" in body:  # only an escape brings in what no engine can hold
        _checked(check_json, decode_json(body), field="value")
    return body


def _checked(check: Callable[..., Any], value: Any, *, field: str) -> Any:
    try:
        check(value, field=field)
    except StorageError as error:
        raise DamagedError(f"a {field} cannot be stored: {error}") from error
    return value
