"""Key-value operations with somebody listening or a hook in use (EVT-1, EVT-2)."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, final

from polymem.contracts._events_hub import Emit, Observers
from polymem.contracts._events_types import Call, Event, Reader, nothing
from polymem.core.codec import Codec
from polymem.core.namespace import decode
from polymem.core.text import check_key
from polymem.errors import StorageDataError

if TYPE_CHECKING:
    from polymem.contracts.kv import Item, KeyValueDriver, KVFeatures, Record

Result = TypeVar("Result")


class Observation(NamedTuple):
    """How the handles of one store are observed: by whom, where, and whether at once or after a commit."""

    observers: Observers
    emit: Emit
    namespace: str


class _After(NamedTuple):
    """What an event tells of the result."""

    existed: bool | None = None
    records: int | None = None
    read: Reader | None = None
    """None: what was to be written."""


@final
class ObservedKV:
    """A guarded driver whose calls are told, and may be changed or refused by hooks. Listings pass untold."""

    def __init__(self, inner: "KeyValueDriver", codec: Codec[Any], observation: Observation) -> None:
        self._inner, self._codec = inner, codec
        self._observers, self._emit, namespace = observation
        self._namespace = decode(namespace)
        self.page, self.count = inner.page, inner.count
        self._operations = getattr(inner, "_operations", {})  # of the guard, for calls with a timeout of their own

    @property
    def features(self) -> "KVFeatures":
        return self._inner.features

    async def get(self, key: str, /) -> tuple[bytes, str] | None:
        def after(_: Call, found: tuple[bytes, str] | None) -> _After:
            return _After(found is not None, None, nothing if found is None else self._value(found[0]))

        return await self._through(self._call("get", "get", key), lambda c: self._inner.get(_key(c)), after)

    async def entry(self, key: str, /) -> "Record | None":
        def after(_: Call, found: "Record | None") -> _After:
            return _After(found is not None, None, nothing if found is None else self._value(found.body))

        return await self._through(self._call("get", "entry", key), lambda c: self._inner.entry(_key(c)), after)

    async def get_many(self, keys: Sequence[str], /) -> dict[str, tuple[bytes, str]]:
        def after(_: Call, found: dict[str, tuple[bytes, str]]) -> _After:
            return _After(None, len(found), lambda: {k: self._codec.decode(body) for k, (body, _) in found.items()})

        return await self._through(self._batch("get_many", keys), lambda _: self._inner.get_many(keys), after)

    async def put(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> None:
        await self._through(
            self._call("put", "put", key, self._value(body)),
            lambda c: self._inner.put(
                _key(c), self._body(c, body), codec, version=version, expires_at=expires_at
            ),
            lambda _, __: _After(),
        )  # fmt: skip

    async def put_many(self, items: "Sequence[Item]", /) -> None:
        def value() -> dict[str, Any]:
            return {key: self._codec.decode(body) for key, body, *_ in items}

        await self._through(
            self._batch("put_many", [item[0] for item in items], value),
            lambda c: self._inner.put_many(self._items(c, items)),
            lambda _, __: _After(None, len(items)),
        )

    async def create(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> bool:
        return await self._through(
            self._call("put", "create", key, self._value(body)),
            lambda c: self._inner.create(
                _key(c), self._body(c, body), codec, version=version, expires_at=expires_at
            ),
            _if_done,
        )  # fmt: skip

    async def update(self, key: str, body: bytes, codec: str, /, *, version: int) -> bool:
        return await self._through(
            self._call("put", "update", key, self._value(body)),
            lambda c: self._inner.update(_key(c), self._body(c, body), codec, version=version),
            _if_done,
        )

    async def replace(
        self, key: str, body: bytes, codec: str, /, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        return await self._through(
            self._call("put", "compare_and_set", key, self._value(body)),
            lambda c: self._inner.replace(
                _key(c), self._body(c, body), codec, expected=expected, version=version, expires_at=expires_at
            ),
            _if_done,
        )

    async def delete(self, key: str, /) -> bool:
        return await self._through(
            self._call("delete", "delete", key), lambda c: self._inner.delete(_key(c)), lambda _, done: _After(done)
        )

    async def delete_many(self, keys: Sequence[str], /) -> int:
        return await self._through(
            self._batch("delete_many", keys), lambda _: self._inner.delete_many(keys), lambda _, n: _After(None, n)
        )

    async def increment(self, key: str, delta: int, /, *, version: int) -> int:
        return await self._through(
            self._call("put", "increment", key, lambda: delta),
            lambda c: self._inner.increment(_key(c), _delta(c), version=version),
            lambda _, value: _After(None, None, lambda: value),
        )

    async def touch(self, key: str, /, *, expires_at: int | None) -> bool:
        return await self._through(
            self._call("put", "touch", key), lambda c: self._inner.touch(_key(c), expires_at=expires_at), _if_done
        )

    async def clear(self) -> int:
        return await self._through(
            Call("clear", "clear", self._namespace), lambda _: self._inner.clear(), lambda _, n: _After(None, n)
        )

    async def _through(
        self,
        call: Call,
        run: Callable[[Call], Awaitable[Result]],
        after: Callable[[Call, Result], _After | None],
    ) -> Result:
        given, call = call, await self._observers.consult(call)
        if call.keys != given.keys or (call.rewritten and given.kind in ("get", "delete", "clear")):
            raise StorageDataError(
                "a hook cannot change the keys of a batch, or the value of what writes none", field="hook"
            )
        self._tell("before", call, _After())
        try:
            result = await run(call)
        except Exception as error:
            if self._observers.wants("error"):
                self._emit(Event("error", call.operation, self._namespace, call.key, call.keys, error=error))
            raise
        told = after(call, result)
        if told is not None:
            self._tell("after", call, told)
        return result

    def _tell(self, moment: str, call: Call, after: _After) -> None:
        name = f"{moment}:{call.kind}"
        if self._observers.wants(name):
            existed, records, read = after
            self._emit(
                Event(
                    name, call.operation, self._namespace, call.key, call.keys, existed, records, read=read or call.read
                )
            )

    def _call(self, kind: Any, operation: str, key: str, read: Reader = nothing) -> Call:
        return Call(kind, operation, self._namespace, key, (), read)

    def _batch(self, operation: str, keys: Sequence[str], read: Reader = nothing) -> Call:
        return Call("batch", operation, self._namespace, None, tuple(keys), read)

    def _value(self, body: bytes) -> Reader:
        return lambda: self._codec.decode(body)

    def _body(self, call: Call, body: bytes) -> bytes:
        return self._codec.encode(call.value) if call.rewritten else body

    def _items(self, call: Call, items: "Sequence[Item]") -> "Sequence[Item]":
        if not call.rewritten:
            return items
        values = call.value
        if not isinstance(values, Mapping) or values.keys() != {item[0] for item in items}:
            raise StorageDataError("a hook gives a batch the same keys with other values", field="hook")
        return [(item[0], self._codec.encode(values[item[0]]), *item[2:]) for item in items]


def _key(call: Call) -> str:
    return check_key(call.key or "")


def _delta(call: Call) -> int:
    if type(call.value) is not int:
        raise StorageDataError("expected a 64-bit integer", field="delta")
    return call.value


def _if_done(_: Call, done: bool) -> _After | None:
    return _After() if done else None
