"""How a memory is opened and looked after (CFG-1, G-6)."""

import asyncio

import pytest

import polymem


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_memory_section_is_honoured_and_arguments_win(folder):
    (folder / "polymem.toml").write_text(
        'engine = "local"\n[engines.local]\nurl = "memory:"\n[memory]\ntenant = "acme"\nembed = "none"\nlanguage = "german"\n'
    )

    async def work():
        async with polymem.Memory.open() as memory:
            assert (memory.tenant, memory.embedder) == ("acme", None)
            await memory.remember("Die Häuser sind blau")
            assert [hit.text for hit in await memory.recall("Haus")] == ["Die Häuser sind blau"]
        async with polymem.Memory.open("polymem.toml", tenant="other", embed="static") as memory:
            assert memory.tenant == "other"
            assert memory.embedder is not None

    asyncio.run(work())


def test_the_sweeper_removes_expired_memories(folder):
    async def work():
        async with polymem.Memory.open("memory:", embed=None, sweep_every=0.02) as memory:
            await memory.remember("soon gone", ttl=0.001)
            for _ in range(200):
                await asyncio.sleep(0.01)
                if not await memory.store.text("memory").count():
                    return
            raise AssertionError("never swept")

    asyncio.run(work())
