"""Opening and closing a store or a memory for synchronous callers (G-8)."""

import threading
from pathlib import Path

import pytest
from blocking.calls import double

import polymem
import polymem.blocking
from polymem.blocking import Portal
from polymem.core.clock import ManualClock
from polymem.errors import StorageConnectionError, StorageDataError, StorageUnsupportedError


def test_closing_twice_and_use_after(tmp_path: Path) -> None:
    store = polymem.blocking.open(f"sqlite:///{tmp_path}/a.db")
    store.kv.put("k", 1)
    kv = store.kv
    store.close()
    store.close()
    for use in (lambda: kv.get("k"), lambda: store.kv.get("k"), store.open, lambda: list(store.kv.scan())):
        with pytest.raises(StorageConnectionError):
            use()
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]


def test_a_portal_handed_in_is_not_closed(portal: Portal) -> None:
    first = polymem.blocking.open("memory:", portal=portal)
    with polymem.blocking.open("memory:", portal=portal) as second:
        second.kv.put("k", 1)
        assert first.kv.exists("k") is False
    with pytest.raises(StorageConnectionError):
        second.kv.get("k")
    first.kv.put("k", 2)
    first.close()
    assert portal.call(double, 1) == 2


def test_a_failed_open_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    for bad, error in (("nonsense", StorageDataError), ("qdrant://host", StorageUnsupportedError)):
        with pytest.raises(error):
            polymem.blocking.open(bad)
    assert threading.active_count() == before


def test_options_go_through() -> None:
    clock = ManualClock()
    with polymem.blocking.open("memory:", clock=clock, sweep_every=None) as store:
        store.kv.put("k", 1, ttl=5)
        clock.advance(5)
        assert store.kv.exists("k") is False


def test_a_conversation(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/agent.db"
    with polymem.blocking.Memory.open(url, tenant="acme", embed=None) as memory:
        session = memory.session("s1")
        session.add("user", "I moved to Lisbon", speaker="Ada")
        memory.remember("Ada prefers dark mode", kind="preference", subject="ada")
        assert memory.recall("where is Lisbon?")[0].text == "I moved to Lisbon"
        assert "Lisbon" in session.context(200).text
        assert memory.sessions() == ["s1"]
        assert memory.tenant == "acme"
        assert {record.kind for record in memory.scan()} == {"turn", "preference"}
        assert memory.store.turns.count() == 1
    with pytest.raises(StorageConnectionError):
        memory.recall("Lisbon")
    with polymem.blocking.Memory.open(url, tenant="other", embed=None) as memory:
        assert memory.recall("Lisbon") == []
