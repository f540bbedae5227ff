"""JSON in and out, equal on every engine (KV-3), and typed codecs on top of it."""

import inspect
import math
import re
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar

import msgspec

from polymem.core.text import check_text
from polymem.errors import StorageCorruptError, StorageDataError

T = TypeVar("T")
_MAX_DEPTH: Final = 200
_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder()
_PLAIN: Final = frozenset({str, int, bool, type(None)})
"""Exact types that need no look inside; a subclass such as an enum is refused like any other object."""
REMEDIES: Final = {
    "aes-gcm": "open the store with encryption=",
    "zstd+": "open the store with compression=",
}
"""How to read what was written under a tag that begins so."""


class Codec(Protocol[T]):
    """Turns values into bytes and back; `tag` is stored beside the bytes and checked on reading.

    `decode` raises `StorageDataError` for what is not of its type, or `msgspec.DecodeError` for what is not JSON.
    """

    @property
    def tag(self) -> str: ...

    def encode(self, value: T, /) -> bytes: ...

    def decode(self, body: bytes, /) -> T: ...


class JsonCodec:
    """Any JSON value; NaN, infinities, non-string keys, bytes and dates are refused."""

    tag = "json"

    @staticmethod
    def encode(value: Any, /) -> bytes:
        return encode_json(value)

    decode = _DECODER.decode  # bare, for speed: `KeyValue` says what a decode error means


class ModelCodec(Generic[T]):
    """Values of one msgspec, dataclass, typed-dict or pydantic type."""

    def __init__(self, model: type[T]) -> None:
        self._model = model
        self._pydantic: Any = model if hasattr(model, "model_validate_json") else None
        self._by_name = _by_name(model)
        try:
            self._decoder = None if self._pydantic else msgspec.json.Decoder(model)
        except TypeError as error:
            raise StorageDataError(
                "expected a type such as a dataclass, a msgspec or pydantic model, int or list[str]", field="model"
            ) from error
        self._name = getattr(model, "__qualname__", str(model))  # a union has no name of its own
        self.tag = f"model:{getattr(model, '__module__', 'builtins')}.{self._name}"

    def encode(self, value: T, /) -> bytes:
        self._check_type(value)
        body = self._encoded(value)
        self._check_readable(body)
        if b"null" in body or b"\\u0000" in body:  # NaN and infinities are written as null
            plain = value.model_dump() if self._pydantic else value  # type: ignore[attr-defined]
            check_json(msgspec.to_builtins(plain, str_keys=True, enc_hook=str))
        return body

    def _encoded(self, value: T) -> bytes:
        try:
            if self._pydantic:  # its warnings quote what is stored, and `_check_readable` says it all
                text = value.model_dump_json(warnings=False, by_alias=False, round_trip=True)  # type: ignore[attr-defined]
                return str(text).encode()
            return _ENCODER.encode(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise StorageDataError(f"cannot be encoded: {error}", field="value") from error

    def decode(self, body: bytes, /) -> T:
        try:
            if self._decoder is None:
                model: T = self._pydantic.model_validate_json(body, **self._by_name)
                return model
            return self._decoder.decode(body)
        except ValueError as error:  # msgspec.ValidationError and pydantic's are ValueErrors
            raise StorageDataError(f"the stored value does not fit {self._name}", field="value") from error

    def _check_readable(self, body: bytes) -> None:
        """Types look at their fields when they are decoded, not when they are made."""
        try:
            self.decode(body)
        except StorageDataError as error:
            where = re.search(r"\$([^`]*)`$", str(error.__cause__))
            field = f"value{where[1]}" if where and not self._pydantic else "value"
            old = "; aliases need pydantic 2.11 or populate_by_name" if self._pydantic and not self._by_name else ""
            raise StorageDataError(f"its types do not fit {self._name}{old}", field=field) from error.__cause__

    def _check_type(self, value: object) -> None:
        origin = getattr(self._model, "__origin__", self._model)
        if not isinstance(origin, type) or msgspec_like(origin) or type(value) is origin:
            return
        got = f"expected {self._name}, got {type(value).__name__}"
        if not isinstance(value, origin):
            raise StorageDataError(got, field="value")
        if self._pydantic or issubclass(origin, msgspec.Struct) or hasattr(origin, "__dataclass_fields__"):
            raise StorageDataError(f"{got}, a subclass: what it adds would be lost", field="value")


def _by_name(model: Any) -> dict[str, bool]:
    """What tells a pydantic model to read fields by the names that it was written and is queried by, not by aliases."""
    validate = getattr(model, "model_validate_json", None)
    knows = validate is not None and "by_name" in inspect.signature(validate).parameters
    return {"by_alias": False, "by_name": True} if knows else {}


def msgspec_like(origin: type) -> bool:
    """Typed dicts are plain dicts at run time, so isinstance cannot judge them."""
    return hasattr(origin, "__total__")


def encode_json(value: Any, *, field: str = "value") -> bytes:
    """The JSON text of a value; `StorageDataError` names the path of what JSON, or one of the engines, cannot hold."""
    if not _storable(value, 0):
        _explain(value, field, 0)
    try:
        body = _ENCODER.encode(value)
    except ValueError:  # a surrogate, which UTF-8 can't hold, or an integer that Python refuses to print
        _explain(value, field, 0)
        raise  # pragma: no cover - the line above says which
    if b"\\" in body and b"\\u0000" in body:  # one byte is found soonest; a backslash before u0000 is fine
        _explain(value, field, 0)
    return body


def decode_json(body: bytes | str) -> Any:
    """The value of a stored JSON text; damage is a `StorageCorruptError`, never an absent value."""
    try:
        return _DECODER.decode(body)
    except msgspec.DecodeError as error:
        raise StorageCorruptError("a stored value is not valid JSON") from error


def check_json(value: Any, *, field: str = "value") -> None:
    """Refuse what `encode_json` refuses."""
    encode_json(value, field=field)


def _storable(value: Any, depth: int) -> bool:
    """The quick answer for what is nearly always fine, its text aside: that is seen sooner in what it is encoded to.

    Exact types, so an enum or another subclass is looked at again.
    """
    kind = type(value)
    if kind is dict:
        for key in value:  # plain loops: a generator would cost as much again
            if type(key) is not str:
                return False
        value = value.values()
    elif kind is not list:
        return kind in _PLAIN or (kind is float and math.isfinite(value))
    if depth >= _MAX_DEPTH:
        return False
    for item in value:
        kind = type(item)  # no call for each number of an embedding
        if not (kind in _PLAIN or (kind is float and math.isfinite(item)) or _storable(item, depth + 1)):
            return False
    return True


def _explain(value: Any, field: str, depth: int) -> None:
    """The thorough answer, with the path to what is wrong."""
    if isinstance(value, str):
        check_text(value, field=field)
    elif type(value) in (int, float):
        _explain_number(value, field)
    elif depth >= _MAX_DEPTH and isinstance(value, (dict, list, tuple)):
        raise StorageDataError(f"nested deeper than {_MAX_DEPTH} levels", field=field)
    elif isinstance(value, dict):
        _explain_object(value, field, depth)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _explain(item, f"{field}[{index}]", depth + 1)
    elif type(value) not in _PLAIN:
        _refuse(value, field)


def _explain_number(value: float, field: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise StorageDataError("NaN and infinities are not JSON", field=field)
    try:
        str(value)
    except ValueError:
        raise StorageDataError("an integer has too many digits", field=field) from None


def _explain_object(value: dict[Any, Any], field: str, depth: int) -> None:
    for key, item in value.items():
        if type(key) is not str:
            raise StorageDataError(f"object keys must be strings, got {type(key).__name__}", field=field)
        check_text(key, field=f"{field} key")
        _explain(item, f"{field}.{key}", depth + 1)


def _refuse(value: object, field: str) -> NoReturn:
    raise StorageDataError(
        f"{type(value).__name__} is not a JSON value; use a typed codec (`kv.typed(Model)`) or a blob", field=field
    )
