"""What `StorageAdapter` gives to adapters of one's own (ADP-1)."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from polymem import StorageAdapter
from polymem.errors import StorageConnectionError, StorageDataError

pytestmark = pytest.mark.anyio


class DictAdapter(StorageAdapter):
    """The least that an adapter is."""

    def __init__(self, config: Mapping[str, Any] | str = "dict:") -> None:
        super().__init__(config)
        self.records: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.trouble: BaseException | None = None

    async def connect(self) -> None:
        self.calls.append("connect")
        await asyncio.sleep(0)
        if self.trouble is not None:
            raise self.trouble

    async def disconnect(self) -> None:
        self.calls.append("disconnect")
        if self.trouble is not None:
            raise self.trouble

    async def store(self, data: Mapping[str, Any], /) -> str:
        if self.trouble is not None:
            raise self.trouble
        id = str(len(self.records))
        self.records[id] = {**data, "id": id}
        return id

    async def retrieve(self, id: str, /) -> dict[str, Any] | None:
        return self.records.get(id)

    async def search(self, query: Mapping[str, Any], /) -> list[dict[str, Any]]:
        return list(self.records.values())[: query.get("limit", 10)]

    async def delete(self, id: str, /) -> bool:
        return self.records.pop(id, None) is not None


@pytest.mark.parametrize("verb", ["connect", "disconnect", "store", "retrieve", "search", "delete"])
def test_a_subclass_supplies_every_verb(verb: str) -> None:
    some = {name: member for name, member in vars(DictAdapter).items() if name != verb and not name.startswith("_abc")}
    with pytest.raises(TypeError, match=verb):
        type("Half", (StorageAdapter,), some)("dict:")


async def test_it_knows_whether_it_is_connected() -> None:
    adapter = DictAdapter()
    assert not adapter.is_connected
    async with adapter as entered:
        assert entered is adapter
        assert adapter.is_connected
    assert not adapter.is_connected
    await adapter.connect()
    assert adapter.is_connected
    assert adapter.calls == ["connect", "disconnect", "connect"]


async def test_connecting_and_disconnecting_twice_at_once_is_once() -> None:
    adapter = DictAdapter()
    await asyncio.gather(adapter.connect(), adapter.connect())
    await asyncio.gather(adapter.disconnect(), adapter.disconnect())
    assert adapter.calls == ["connect", "disconnect"]


async def test_a_failed_connect_is_told_and_counted() -> None:
    adapter = DictAdapter()
    adapter.trouble = StorageConnectionError("nobody is there")
    with pytest.raises(StorageConnectionError):
        await adapter.connect()
    assert not adapter.is_connected
    metrics = adapter.get_metrics()
    assert metrics["operations"]["connect"]["error_count"] == 1
    assert metrics["connection"]["connect_count"] == 0


async def test_disconnect_logs_and_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    adapter = DictAdapter()
    await adapter.connect()
    adapter.trouble = OSError("secret")
    with caplog.at_level(logging.WARNING, logger="polymem.adapters"):
        await adapter.disconnect()
    assert not adapter.is_connected
    assert caplog.messages == ["disconnecting dict failed: OSError"]


def test_a_url_alone_is_a_config_and_the_config_is_a_copy() -> None:
    assert DictAdapter("dict:x").config == {"url": "dict:x"}
    given = {"url": "dict:", "metrics": {"max_errors": 5}}
    adapter = DictAdapter(given)
    adapter.config["url"] = "other"
    assert given["url"] == "dict:"
    assert adapter.collector.options.max_errors == 5
    with pytest.raises(StorageDataError) as caught:
        DictAdapter(5)  # type: ignore[arg-type]
    assert caught.value.field == "config"


async def test_batches_keep_the_order_of_what_was_given() -> None:
    adapter = DictAdapter()
    assert await adapter.store_batch([{"n": 1}, {"n": 2}]) == ["0", "1"]
    assert await adapter.retrieve_batch(["1", "none", "0"]) == [{"n": 2, "id": "1"}, None, {"n": 1, "id": "0"}]
    assert await adapter.delete_batch(["1", "none", "1"]) == {"1": True, "none": False}
    assert await adapter.count() == 1
    with pytest.raises(StorageDataError) as caught:
        await adapter.retrieve_batch("01")
    assert caught.value.field == "ids"


async def test_counting_counts_beyond_a_page() -> None:
    adapter = DictAdapter()
    await adapter.store_batch([{}] * 25)
    assert await adapter.count() == await adapter.count({"limit": 3}) == 25


async def test_health_never_raises() -> None:
    adapter = DictAdapter()
    assert (await adapter.health_check()).status == "unhealthy"
    async with adapter:
        health = await adapter.health_check()
        assert (health.status, health.engine) == ("healthy", "dict")


async def test_what_it_does_is_counted() -> None:
    async with DictAdapter() as adapter:
        await adapter.store({})
        adapter.trouble = StorageDataError("bad", field="x")
        with pytest.raises(StorageDataError):
            await adapter.store({})
        adapter.trouble = None
        metrics = adapter.get_metrics()
        assert metrics["adapter_type"] == "dict"
        assert metrics["connection"]["current_state"] == "connected"
        figures = metrics["operations"]["store"]
        assert (figures["total_count"], figures["success_count"], figures["errors"]) == (2, 1, {"StorageDataError": 1})
        assert 'adapter="dict"' in adapter.export_metrics("prometheus")
        adapter.reset_metrics()
        assert adapter.get_metrics()["operations"] == {}


async def test_a_call_through_several_classes_is_counted_once() -> None:
    class Louder(DictAdapter):
        async def store(self, data: Mapping[str, Any], /) -> str:
            return await super().store({**data, "loud": True})

        async def connect(self) -> None:
            await super().connect()

        async def disconnect(self) -> None:
            await super().disconnect()

    async with Louder() as adapter:
        id = await adapter.store({})
        found = await adapter.retrieve(id)
        assert found == {"loud": True, "id": "0"}
        metrics = adapter.get_metrics()
        assert metrics["adapter_type"] == "louder"
        assert metrics["operations"]["store"]["total_count"] == 1
        assert metrics["connection"]["connect_count"] == 1
    assert adapter.calls == ["connect", "disconnect"]


async def test_metrics_can_be_switched_off() -> None:
    async with DictAdapter({"metrics": False}) as adapter:
        await adapter.store({})
        assert adapter.get_metrics()["operations"] == {}


def test_it_shows_no_secrets() -> None:
    assert repr(DictAdapter("dict://me:secret@there")) == "<DictAdapter disconnected>"
