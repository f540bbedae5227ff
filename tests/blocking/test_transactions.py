"""Transactions for synchronous callers: they belong to their thread (TXN-1)."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from polymem.blocking import BlockingStore
from polymem.errors import Outcome, StorageConflictError, StorageConnectionError, StorageQueryError


def test_context_managers(store: BlockingStore) -> None:
    with store.transaction() as tx:
        tx.kv.put("in", 1)
        assert tx.kv.get("in") == 1
        with pytest.raises(StorageQueryError, match="through the store it gave"):
            store.kv.put("out", 2)
        with pytest.raises(KeyError), tx.savepoint():
            put_and_fail(tx, "undone")
    assert store.kv.get_many(["in", "out", "undone"]) == {"in": 1}
    with pytest.raises(KeyError), store.transaction() as tx:
        put_and_fail(tx, "lost")
    assert store.kv.exists("lost") is False


def test_transactions_belong_to_their_thread(store: BlockingStore) -> None:
    """While one thread's transaction is open another thread's write waits; it does not join it, nor fail."""
    with ThreadPoolExecutor(1) as pool:
        with store.transaction() as tx:
            tx.kv.put("a", 1)
            other = pool.submit(store.kv.put, "b", 2)
            time.sleep(0.05)
        other.result(10)
    assert store.kv.get_many(["a", "b"]) == {"a": 1, "b": 2}


def test_run_in_transaction_takes_a_plain_function(store: BlockingStore) -> None:
    attempts: list[int] = []

    def work(tx: Any) -> str:
        attempts.append(tx.kv.increment("n"))
        if len(attempts) < 3:
            raise StorageConflictError("lost the race", retryable=True)
        return "done"

    assert store.run_in_transaction(work) == "done"
    assert attempts == [1, 1, 1]
    assert store.kv.get("n") == 1
    with pytest.raises(StorageConflictError):
        store.run_in_transaction(_conflict, retries=1)


def test_run_in_transaction_of_a_namespace_and_a_storage_is_the_same(store: BlockingStore) -> None:
    def work(tx: Any) -> int:
        tx.kv.put("a", 1)
        return int(tx.kv.put("b", 2, ttl=60))

    for inner in (store.namespace("acme"), store.storage("numbers")):
        assert inner.run_in_transaction(work, isolation="read_committed") == inner.kv.entry("b").version
        assert inner.kv.get_many(["a", "b"]) == {"a": 1, "b": 2}


def test_run_in_transaction_does_not_repeat_what_may_have_been_committed(store: BlockingStore) -> None:
    attempts: list[int] = []

    def work(tx: Any) -> None:
        attempts.append(tx.kv.increment("n"))
        raise StorageConnectionError("lost", retryable=True, outcome=Outcome.UNKNOWN)

    with pytest.raises(StorageConnectionError, match="lost"):
        store.run_in_transaction(work)
    assert attempts == [1]


def put_and_fail(tx: Any, key: str) -> None:
    tx.kv.put(key, 1)
    raise KeyError


def _conflict(tx: Any) -> None:
    raise StorageConflictError("always", retryable=True)
