"""Watching, listening and hooks for synchronous callers (EVT-1)."""

import threading
from pathlib import Path

import pytest

from polymem import blocking
from polymem.contracts.events import Call, Event


def test_each_change_comes_at_once(tmp_path: Path) -> None:
    with blocking.open(f"sqlite:///{tmp_path / 'a.db'}") as store, store.kv.watch("a") as watch:
        store.kv.put_many({"a1": 1, "a2": 1})
        changes = iter(watch)
        assert sorted([next(changes).key, next(changes).key]) == ["a1", "a2"]  # though there is no third
        store.kv.put("a3", 1)
        assert [change.key for change in watch.read(wait=5)] == ["a3"]
        again = store.watch("a", after=watch.position)
        store.kv.put("a4", 1)
        assert next(again).key == "a4"


def test_listeners_and_hooks() -> None:
    heard, told = list[str | None](), threading.Event()

    def hear(event: Event) -> None:
        heard.append(event.key)
        told.set()

    def refuse(call: Call) -> None:
        if call.kind == "delete":
            raise PermissionError

    with blocking.open("memory:") as store:
        store.on("after:put", hear)
        store.use(refuse)
        store.kv.put("a", 1)
        assert told.wait(10)
        assert heard == ["a"]
        with pytest.raises(PermissionError):
            store.kv.delete("a")


def test_a_listener_and_a_hook_for_the_time_of_a_block() -> None:
    heard = list[str | None]()
    with blocking.open("memory:") as store:
        with store.on("after:put", lambda event: heard.append(event.key)) as subscription, store.use(_louder):
            store.kv.put("a", "x")
            subscription.drain()
        store.kv.put("b", "x")
        assert (heard, store.kv.get_many(["a", "b"])) == (["a"], {"a": "X", "b": "x"})
        assert store.subscribers() == {}


def _louder(call: Call) -> Call:
    return call.changed(value=call.value.upper())


def test_other_mirrors_are_not_iterable() -> None:
    with blocking.open("memory:") as store, pytest.raises(TypeError, match="KeyValue is not iterable"):
        iter(store.kv)
