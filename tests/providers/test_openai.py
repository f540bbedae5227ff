"""Embeddings over HTTP against a real server on this machine: what is asked, and what comes back (PRV-1 to PRV-3)."""

import asyncio
import base64
import os
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from providers.openai_server import KEY, NEVER, Answer, Server, good, refusal, vector_of

import polymem
from polymem.errors import ProviderAuthError, ProviderConnectionError, StorageDataError
from polymem.providers.embedding import EmbeddingProvider
from polymem.providers.openai import OpenAIEmbedder

pytestmark = pytest.mark.anyio


class TestAnswers:
    async def test_it_is_a_provider_named_by_model_and_host(self, embedder: OpenAIEmbedder) -> None:
        assert isinstance(embedder, EmbeddingProvider)
        assert (embedder.name, embedder.dimensions) == ("m@127.0.0.1", 4)

    async def test_vectors_come_in_the_order_of_the_texts(self, embedder: OpenAIEmbedder) -> None:
        texts = ["dog", "tax tax", "lisbon", "nothing"]
        matrix = await embedder.embed_batch(texts)
        assert matrix.dtype == np.float32
        assert np.allclose(matrix, [vector_of(text) for text in texts])

    async def test_one_text(self, embedder: OpenAIEmbedder) -> None:
        assert np.allclose(await embedder.embed("puppy"), vector_of("puppy"))

    async def test_base64_is_understood(self, server: Server, embedder: OpenAIEmbedder) -> None:
        server.script.append(good([base64.b64encode(struct.pack("<4f", 1, 2, 3, -4)).decode()]))
        assert (await embedder.embed("a")).tolist() == [1, 2, 3, -4]

    async def test_a_blank_text_is_the_zero_vector_and_stays_here(
        self, server: Server, embedder: OpenAIEmbedder
    ) -> None:
        """The API refuses an empty string."""
        matrix = await embedder.embed_batch(["", "dog", " \n"])
        assert matrix.any(axis=1).tolist() == [False, True, False]
        assert [asked["input"] for asked in server.asked] == [["dog"]]
        assert (await embedder.embed_batch([])).shape == (0, 4)

    async def test_usage_is_counted(self, server: Server, embedder: OpenAIEmbedder) -> None:
        server.script += [good([[0, 0, 0, 1]] * 2, tokens=7), refusal(500, None), good([[0, 0, 0, 1]], tokens=4)]
        await embedder.embed_batch(["a", "b"])
        await embedder.embed("c")
        assert (embedder.usage.requests, embedder.usage.texts, embedder.usage.tokens) == (2, 3, 11)

    async def test_a_server_that_counts_no_tokens(self, server: Server, embedder: OpenAIEmbedder) -> None:
        server.script.append((200, {}, b'{"data": [{"index": 0, "embedding": [1, 2, 3, 4]}]}'))
        await embedder.embed("a")
        assert embedder.usage.tokens == 0


class TestRequests:
    async def test_batches_by_count(self, server: Server) -> None:
        async with OpenAIEmbedder("m", dimensions=4, base_url=server.url, batch=3) as embedder:
            texts = [f"dog {'x' * n}" for n in range(8)]
            matrix = await embedder.embed_batch(texts)
        assert np.allclose(matrix, [vector_of(text) for text in texts])
        assert sorted(len(asked["input"]) for asked in server.asked) == [2, 3, 3]

    async def test_batches_by_size(self, server: Server, embedder: OpenAIEmbedder) -> None:
        """No request is over 300,000 bytes of text, which is at most as many tokens; a larger text goes alone."""
        texts = ["é" * 60_000, "b" * 150_000, "c" * 100_000, "d" * 400_000, "e"]
        matrix = await embedder.embed_batch(texts)
        assert np.allclose(matrix, [vector_of(text) for text in texts])
        sizes = sorted(tuple(text[0] for text in asked["input"]) for asked in server.asked)
        assert sizes == [("c",), ("d",), ("e",), ("é", "b")]

    async def test_what_is_sent(self, server: Server, embedder: OpenAIEmbedder) -> None:
        await embedder.embed("dog")
        assert server.asked == [{"model": "m", "input": ["dog"], "encoding_format": "float"}]
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        assert server.headers[0]["content-type"] == "application/json"

    @pytest.mark.parametrize(
        ("model", "shorten", "sent"),
        [("text-embedding-3-small", None, True), ("other", None, False), ("other", True, True),
         ("text-embedding-3-small", False, False)],
    )  # fmt: skip
    async def test_the_length_is_asked_for_where_the_model_can_shorten(
        self, server: Server, model: str, shorten: bool | None, sent: bool
    ) -> None:
        async with OpenAIEmbedder(model, dimensions=4, base_url=server.url, shorten=shorten) as embedder:
            await embedder.embed("dog")
        assert server.asked[0].get("dimensions") == (4 if sent else None)

    async def test_at_most_ten_at_once_and_everybody_gets_an_answer(self, server: Server) -> None:
        """RES-3: HTTP 10."""
        now, most, lock = 0, 0, threading.Lock()

        def count(_: Server, request: dict[str, Any]) -> Answer:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            threading.Event().wait(0.02)
            with lock:
                now -= 1
            return good([vector_of(text) for text in request["input"]])

        server.script += [count] * 40
        async with OpenAIEmbedder("m", dimensions=4, base_url=server.url, retry=NEVER) as embedder:
            await asyncio.gather(*(embedder.embed(f"dog {n}") for n in range(40)))
        assert 1 < most <= 10


class TestOpenAI:
    """api.openai.com itself, its requests led to the server on this machine."""

    @pytest.fixture
    async def client(self, server: Server) -> AsyncIterator[httpx.AsyncClient]:
        class Detour(httpx.AsyncHTTPTransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                assert request.url.host == "api.openai.com"
                request.url = httpx.URL(server.url).join(request.url.path)
                return await super().handle_async_request(request)

        async with httpx.AsyncClient(transport=Detour()) as client:
            yield client

    async def test_base64_is_asked_for_and_the_name_is_the_models(
        self, server: Server, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
        embedder = OpenAIEmbedder("text-embedding-3-small", dimensions=4, client=client)
        await embedder.embed("dog")
        assert embedder.name == "text-embedding-3-small"
        assert (server.asked[0]["encoding_format"], server.asked[0]["dimensions"]) == ("base64", 4)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"

    async def test_a_client_handed_in_is_not_closed(self, server: Server, client: httpx.AsyncClient) -> None:
        async with OpenAIEmbedder("m", dimensions=4, api_key=KEY, client=client) as embedder:
            await embedder.embed("dog")
        assert not client.is_closed
        await client.aclose()
        with pytest.raises(ProviderConnectionError, match="closed"):
            await embedder.embed("dog")

    async def test_its_key_is_not_sent_elsewhere(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        async with OpenAIEmbedder("m", dimensions=4, base_url=server.url) as embedder:
            await embedder.embed("dog")
        assert "authorization" not in server.headers[0]

    async def test_no_key_is_noticed_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(ProviderAuthError, match="OPENAI_API_KEY"):
            OpenAIEmbedder("m", dimensions=4)


class TestArguments:
    @pytest.mark.parametrize(("arguments", "field"), [
        ({"model": " "}, "model"), ({"model": None}, "model"), ({"dimensions": 0}, "dimensions"),
        ({"dimensions": True}, "dimensions"), ({"dimensions": 3.0}, "dimensions"), ({"batch": 0}, "batch"),
        ({"batch": 2049}, "batch"), ({"timeout": 0}, "timeout"), ({"timeout": float("nan")}, "timeout"),
        ({"timeout": "30"}, "timeout"), ({"base_url": "api.openai.com"}, "base_url"), ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "http://"}, "base_url"), ({"base_url": "http://user:pass@x/v1"}, "base_url"),
        ({"base_url": "http://x/v1?key=1"}, "base_url"), ({"base_url": "http://x:port/"}, "base_url"),
        ({"base_url": "http://[/"}, "base_url"), ({"api_key": 7}, "api_key"),
    ])  # fmt: skip
    def test_refused_at_once(self, arguments: dict[str, Any], field: str) -> None:
        with pytest.raises(StorageDataError) as raised:
            OpenAIEmbedder(**{"model": "m", "dimensions": 4, "api_key": KEY, **arguments})
        assert raised.value.field == field

    @pytest.mark.parametrize(("texts", "field"), [
        ("one text", "texts"), (["a", None], "texts[1]"), (["\ud800"], "texts[0]"), (["a\x00"], "texts[0]"),
    ])  # fmt: skip
    async def test_texts(self, server: Server, embedder: OpenAIEmbedder, texts: Any, field: str) -> None:
        with pytest.raises(StorageDataError) as raised:
            await embedder.embed_batch(texts)
        assert (raised.value.field, server.asked) == (field, [])

    async def test_a_name_of_ones_own(self, server: Server) -> None:
        async with OpenAIEmbedder("m", dimensions=4, base_url=server.url, name="m-2024") as embedder:
            assert embedder.name == "m-2024"


async def test_memory_recalls_by_vector_and_records_the_model(server: Server, embedder: OpenAIEmbedder) -> None:
    """End to end: no word of the question is in the memory that answers it."""
    async with polymem.Memory.open("memory:", embed=embedder) as memory:
        await memory.remember("Ada adopted a puppy")
        await memory.remember("The accountant called on Monday")
        await memory.remember("She moved to Portugal")
        hits = await memory.recall("which dog")
        assert hits[0].text == "Ada adopted a puppy"
        assert hits[0].scores["vector"] > 0
        assert hits[0].scores["text"] == 0
        await memory.session("s1").add_many([
            {"role": "user", "content": f"turn {n} about tax"} for n in range(5)
        ])  # fmt: skip
        with pytest.raises(StorageDataError, match=r"m@127.0.0.1.*other") as raised:
            await memory.store.vectors("memory", dimensions=4, model="other").count()
        assert raised.value.field == "model"
    assert len(server.asked[-1]["input"]) == 5


async def test_a_missing_package_says_what_to_install() -> None:
    """Importing the module needs nothing, making an embedder needs httpx."""
    code = (
        "import sys; sys.modules['httpx'] = None\n"
        "from polymem.providers.openai import OpenAIEmbedder\n"
        "try: OpenAIEmbedder('m', dimensions=4, api_key='k')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "ProviderError httpx is missing: pip install 'polymem[openai]'"


@pytest.mark.integration
@pytest.mark.skipif(not os.environ.get("OPENAI_API_KEY"), reason="OPENAI_API_KEY is not set")
async def test_live() -> None:
    async with OpenAIEmbedder("text-embedding-3-small", dimensions=256) as embedder:
        pet, dog, tax = await embedder.embed_batch(["my pet puppy", "a dog", "annual tax return"])
    assert pet @ dog > pet @ tax + 0.1
    assert embedder.usage.tokens > 0
