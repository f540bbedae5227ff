"""The public names of README and ARCHITECTURE with their types; `make lint` type-checks this file, nothing runs it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_type

import polymem
from polymem import F
from polymem.contracts.bulk import LoadReport
from polymem.contracts.events import Call, Change, Subscription, Watch
from polymem.contracts.filter import Filter
from polymem.contracts.kv import Entry, KeyValue
from polymem.contracts.text import TextHit
from polymem.contracts.vectors import VectorHit
from polymem.core.health import HealthCheckResult
from polymem.memory.context import ContextBlock
from polymem.memory.forget import ForgetReport
from polymem.memory.recall import Recalled
from polymem.memory.records import Hit, MemoryRecord


@dataclass
class Theme:
    dark: bool


async def storage() -> None:
    async with polymem.open("sqlite:///agent.db") as store:
        assert_type(store, polymem.Store)
        assert_type(await store.kv.put("theme", {"dark": True}, ttl=3600), int)
        assert_type(await store.kv.get("theme", default=None), Any | None)
        themes = store.kv.typed(Theme)
        assert_type(themes, KeyValue[Theme])
        assert_type(await themes.get("theme"), Theme | None)
        assert_type(await themes.get("theme", Theme(dark=False)), Theme)
        assert_type(await themes.get("theme", timeout=0.5), Theme | None)
        assert_type(await themes.get("theme", Theme(dark=False), timeout=0.5), Theme)
        assert_type(await themes.entry("theme"), Entry[Theme] | None)
        assert_type(await store.health(), HealthCheckResult)
        assert_type(store.collector, polymem.MetricsCollector)
        assert_type(await store.kv.increment("n"), int)
        await store.engine.backup("copy.db")  # which only SQLite has
        acme = store.namespace("acme")
        assert_type(acme, polymem.Store)
        storage = acme.storage("themes", Theme)
        assert_type(storage, polymem.Storage[Theme])
        assert_type(await storage.set("theme", Theme(dark=True), ttl=3600), int)
        assert_type(await storage.get("theme"), Theme | None)
        assert_type(await storage.get("theme", Theme(dark=False)), Theme)
        assert_type((await storage.has("theme"), await storage.add("t", Theme(dark=True))), tuple[bool, int])
        assert_type(await storage.size(), int)
        assert_type([key async for key in storage.keys()], list[str])  # noqa: SIM118 - no dict
        assert_type([theme async for theme in storage.values()], list[Theme])
        assert_type([entry async for entry in storage.entries()], list[Entry[Theme]])
        assert_type([entry async for entry in storage.query(F("dark") == True)], list[Entry[Theme]])  # noqa: E712
        assert_type(await storage.find_one(), Entry[Theme] | None)
        assert_type(await storage.find_many(limit=5), tuple[list[Entry[Theme]], str | None])
        assert_type(await storage.bulk_load([("a", Theme(dark=True))]), LoadReport)
        assert_type(storage.namespace("old"), polymem.Storage[Theme])
        async with storage.transaction() as inside:
            assert_type(await inside.get("theme"), Theme | None)
            async with inside.savepoint("s"):
                await inside.delete("theme")
        assert_type(await storage.run_in_transaction(lambda tx: tx.size()), int)
        assert_type(acme.storage("any"), polymem.Storage[Any])
        numbers: polymem.Storage[int | None] = acme.storage("numbers", int | None)
        assert_type(await numbers.get("n"), int | None)
        assert_type(store.kv.typed(Theme | None), KeyValue[Any])
        episodes = acme.vectors("episodes", dimensions=3)
        await episodes.put_many([("e1", [0.1, 0.2, 0.3], {"session": "s1"})])
        assert_type(F("session") == "s1", Filter)
        assert_type(await episodes.search([0.1, 0.2, 0.3], limit=5, where=F("session") == "s1"), list[VectorHit])
        assert_type(await acme.text("notes").search("rye bread"), list[TextHit])
        assert_type(store.supports("vectors"), bool)
        async with store.transaction() as tx:
            await tx.kv.put("a", 1)
            await tx.namespace("acme").turns.append("s1", "user", "hello")
    assert_type(await polymem.open("memory:"), polymem.Store)


async def events(call: Call) -> Call | None:
    async with polymem.open("memory:") as store, store.kv.watch("user/") as changes:
        assert_type(store.watch("user/", after=changes.position), Watch)
        async for change in changes:
            assert_type((change.key, change.position), tuple[str | None, str])
        assert_type(await changes.read(10, wait=1), list[Change])
        with store.on(["after:put", "error"], print) as subscription:
            assert_type(subscription, Subscription)
            assert_type((subscription.delivered, subscription.dropped), tuple[int, int])
        store.use(events).cancel()
        assert_type(store.subscribers(), dict[str, int])
    return call.changed(value=1) if call.kind == "put" else None


async def memory(when: datetime) -> None:
    async with polymem.Memory.open("sqlite:///agent.db", tenant="acme") as remembered:
        session = remembered.session("s1")
        added = await session.add("user", "I moved to Lisbon", speaker="Ada", at=when, metadata={"turn": "D1:3"})
        assert_type(added, str)
        parts: list[dict[str, Any]] = [{"type": "tool_call", "name": "search"}, {"type": "image", "blob": "b1"}]
        await session.add("assistant", parts)
        await session.add_many([{"role": "user", "content": "hi"}])
        await remembered.remember("Ada prefers dark mode", kind="preference", subject="ada", confidence=0.9)
        hits = await remembered.recall("where does Ada live?", limit=10, subject="Ada", kinds=["turn"], as_of=when)
        assert_type(hits, Recalled)
        hit = hits[0]
        assert_type(hit, Hit)
        assert_type((hit.id, hit.text, hit.score, hit.kind), tuple[str, str, float, str])
        assert_type(hit.scores, dict[str, float])
        assert_type(
            (hit.subject, hit.session, hit.speaker, hit.source), tuple[str | None, str | None, str | None, str | None]
        )
        assert_type(hit.neighbours, tuple[MemoryRecord, ...])
        assert_type((hit.valid_from, hit.valid_to), tuple[datetime | None, datetime | None])
        block = await session.context(token_budget=2000)
        assert_type(block, ContextBlock)
        assert_type((block.text, block.tokens), tuple[str, int])
        assert_type(await remembered.get(hit.id), MemoryRecord | None)
        assert_type(await remembered.list(), list[MemoryRecord])
        assert_type(await remembered.update(hit.id, text="new"), MemoryRecord)
        assert_type(await remembered.delete(hit.id), bool)
        assert_type(await remembered.sessions(), list[str])
        assert_type(await remembered.subjects(), list[str])
        assert_type(await remembered.history(hit.id), list[MemoryRecord])
        assert_type(await remembered.forget("ada"), ForgetReport)
