"""Embeddings over HTTP against a real server on this machine (PRV-1 to PRV-3, RES-1).

The bodies of refusals have the shape of OpenAI's API description: `error` with message, type, param and code.
"""

import asyncio
import base64
import json
import logging
import os
import struct
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest

import polymem
from polymem.core.retry import RetryPolicy
from polymem.errors import (
    PolymemError,
    ProviderAuthError,
    ProviderConnectionError,
    ProviderContentError,
    ProviderError,
    ProviderModelError,
    ProviderRateLimitError,
    ProviderReplyError,
    ProviderTimeoutError,
    StorageDataError,
)
from polymem.providers.embedding import EmbeddingProvider
from polymem.providers.openai import OpenAIEmbedder

pytestmark = pytest.mark.anyio

KEY = "sk-proj-1234567890secret"
TEXT = "my diagnosis is confidential"
AT_ONCE = RetryPolicy(attempts=3, first_delay=0, max_delay=0)
NEVER = RetryPolicy(attempts=1)
CONCEPTS = {"dog": 0, "puppy": 0, "tax": 1, "accountant": 1, "lisbon": 2, "portugal": 2}

Answer = tuple[int, dict[str, str], bytes]
Script = Callable[["Server", dict[str, Any]], Answer]


def vector_of(text: str) -> list[float]:
    """Three axes of meaning, so that recall by vector is seen to work without a shared word."""
    found = [float(sum(CONCEPTS.get(word) == axis for word in text.lower().split())) for axis in range(3)]
    return [*found, len(text) / 100]


def good(vectors: list[Any], *, tokens: int = 5) -> Answer:
    data = [{"object": "embedding", "index": row, "embedding": vector} for row, vector in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body = {"object": "list", "model": "m", "data": data[::-1], "usage": usage}  # out of order, as the API allows
    return 200, {}, json.dumps(body).encode()


def refusal(status: int, code: str | None, kind: str = "invalid_request_error", **headers: str) -> Answer:
    error = {"message": f"about {KEY} and {TEXT}", "type": kind, "param": None, "code": code}
    return status, {name.replace("_", "-"): v for name, v in headers.items()}, json.dumps({"error": error}).encode()


class Server(ThreadingHTTPServer):
    """Gives the scripted answers one by one, then embeds; remembers what it was asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: deque[Answer | Script] = deque()
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.arrived, self.released = threading.Semaphore(0), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answer(self, request: dict[str, Any]) -> Answer:
        step = self.script.popleft() if self.script else None
        if step is None:
            return good([vector_of(text) for text in request["input"]])
        return step(self, request) if callable(step) else step

    def handle_error(self, *_: object) -> None:
        """A client that went away in the middle is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet
    server: Server

    def do_POST(self) -> None:
        assert self.path == "/v1/embeddings"
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(request)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.server.arrived.release()
        status, headers, body = self.server.answer(request)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def stuck(server: Server, request: dict[str, Any]) -> Answer:
    server.released.wait(30)
    return good([vector_of(text) for text in request["input"]])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
async def embedder(server: Server) -> AsyncIterator[OpenAIEmbedder]:
    async with OpenAIEmbedder("m", dimensions=4, api_key=KEY, base_url=server.url, retry=AT_ONCE, timeout=20) as made:
        yield made


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, none of which takes time."""
    waits: list[float] = []
    sleep = asyncio.sleep

    async def record(delay: float) -> None:
        waits.append(delay)
        await sleep(0)

    monkeypatch.setattr("polymem.providers.openai.asyncio.sleep", record)
    return waits


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


class TestRefusals:
    @pytest.mark.parametrize(
        ("answer", "error", "says"),
        [
            (refusal(401, "invalid_api_key"), ProviderAuthError, "HTTP 401 invalid_api_key"),
            (refusal(403, None), ProviderAuthError, "HTTP 403"),
            (refusal(404, "model_not_found"), ProviderModelError, "HTTP 404 model_not_found"),
            (refusal(403, "model_not_found"), ProviderModelError, "HTTP 403 model_not_found"),
            ((404, {}, b"<h1>not found</h1>"), ProviderModelError, "base_url"),
            (refusal(400, "content_filter"), ProviderContentError, "HTTP 400 content_filter"),
            (refusal(400, "context_length_exceeded"), ProviderContentError, "context_length_exceeded"),
            (refusal(400, None), ProviderError, "HTTP 400: is a text too long"),
            (refusal(429, "insufficient_quota", "insufficient_quota"), ProviderRateLimitError, "quota is used up"),
            ((302, {"Location": "http://127.0.0.1:1/"}, b""), ProviderError, "HTTP 302"),
            ((400, {}, b"[" * 5000), ProviderError, "HTTP 400"),
        ],
    )
    async def test_what_cannot_succeed_is_not_repeated(
        self, server: Server, embedder: OpenAIEmbedder, answer: Answer, error: type[ProviderError], says: str
    ) -> None:
        server.script.append(answer)
        with pytest.raises(error, match=says) as raised:
            await embedder.embed(TEXT)
        assert type(raised.value) is error
        assert (raised.value.status, raised.value.retryable) == (answer[0], False)
        assert len(server.asked) == 1

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
    async def test_what_may_succeed_later_is_repeated(
        self, server: Server, embedder: OpenAIEmbedder, status: int
    ) -> None:
        server.script += [refusal(status, None)] * 2
        assert np.allclose(await embedder.embed("dog"), vector_of("dog"))
        assert len(server.asked) == 3

    async def test_until_the_attempts_are_used_up(self, server: Server, embedder: OpenAIEmbedder) -> None:
        server.script += [refusal(503, None)] * 3
        with pytest.raises(ProviderConnectionError, match="127.0.0.1: HTTP 503") as raised:
            await embedder.embed("dog")
        assert (len(server.asked), raised.value.retryable) == (3, True)

    async def test_one_refused_part_fails_the_batch_with_its_own_error(self, server: Server) -> None:
        server.script += [refusal(400, "content_filter")]
        async with OpenAIEmbedder("m", dimensions=4, base_url=server.url, batch=1) as embedder:
            with pytest.raises(ProviderContentError):
                await embedder.embed_batch(["a", "b", "c"])

    def test_they_share_a_root_with_the_storage_errors(self) -> None:
        """G-1; a timeout is also Python's own."""
        assert issubclass(ProviderError, PolymemError)
        assert issubclass(ProviderTimeoutError, TimeoutError)


class TestRetryAfter:
    @pytest.mark.parametrize(("header", "value", "seconds"), [
        ("Retry-After", "7", 7), ("Retry-After", "0.25", 0.25), ("retry-after-ms", "1500", 1.5), ("Retry-After", "-3", 0),
        ("Retry-After", "soon", 0), ("Retry-After", "nan", 0),
    ])  # fmt: skip
    async def test_the_wait_is_at_least_what_the_server_asks(
        self, server: Server, embedder: OpenAIEmbedder, slept: list[float], header: str, value: str, seconds: float
    ) -> None:
        server.script.append(refusal(429, "rate_limit_exceeded", **{header: value}))
        await embedder.embed("dog")
        assert slept == [seconds]

    async def test_a_date(self, server: Server, embedder: OpenAIEmbedder, slept: list[float]) -> None:
        moment = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
        server.script.append(refusal(503, None, Retry_After=moment))
        await embedder.embed("dog")
        assert 0 < slept[0] <= 40

    async def test_full_jitter_comes_on_top(self, server: Server, slept: list[float]) -> None:
        """RES-1: a random share of first_delay x 2^n, at most max_delay."""
        policy = RetryPolicy(attempts=9, first_delay=1, max_delay=4)
        async with OpenAIEmbedder("m", dimensions=4, base_url=server.url, retry=policy) as embedder:
            server.script += [refusal(500, None)] * 8
            await embedder.embed("dog")
            server.script += [refusal(429, None, Retry_After="10")] * 8
            await embedder.embed("dog")
        bounds = [1, 2, 4, 4, 4, 4, 4, 4]
        assert all(0 <= wait <= bound for wait, bound in zip(slept[:8], bounds, strict=True))
        assert all(10 <= wait <= 10 + bound for wait, bound in zip(slept[8:], bounds, strict=True))
        assert len(set(slept)) == 16

    async def test_a_long_wait_is_left_to_the_caller(
        self, server: Server, embedder: OpenAIEmbedder, slept: list[float]
    ) -> None:
        server.script.append(refusal(429, "rate_limit_exceeded", Retry_After="3600"))
        with pytest.raises(ProviderRateLimitError) as raised:
            await embedder.embed("dog")
        assert (raised.value.retry_after, raised.value.retryable, slept) == (3600, True, [])


class TestBadReplies:
    @pytest.mark.parametrize("body", [
        b"", b"<html>", b"[]", b'{"error": {}}', b'{"data": [{"embedding": [1, 2, 3, 4]}]}', b"[" * 5000,
        b'{"data": [{"index": 0, "embedding": [1, 2, 3, null]}]}', b'{"data": [{"index": 0, "embedding": "%%%"}]}',
        b'{"data": [{"index": 0, "embedding": "AAAA"}]}', b'{"data": [{"index": 0, "embedding": ["1", 2, 3, 4]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2, 3, NaN]}]}',
    ])  # fmt: skip
    async def test_garbage(self, server: Server, embedder: OpenAIEmbedder, body: bytes) -> None:
        server.script.append((200, {}, body))
        with pytest.raises(ProviderReplyError, match="not a list of embeddings"):
            await embedder.embed("dog")
        assert embedder.usage.requests == 0

    @pytest.mark.parametrize("indexes", [[], [0], [0, 1, 2], [1, 2], [0, 0]])
    async def test_other_texts_than_asked_for(
        self, server: Server, embedder: OpenAIEmbedder, indexes: list[int]
    ) -> None:
        data = [{"index": index, "embedding": [1, 2, 3, 4]} for index in indexes]
        server.script.append((200, {}, json.dumps({"data": data}).encode()))
        with pytest.raises(ProviderReplyError, match="expected 2 embeddings"):
            await embedder.embed_batch(["a", "b"])

    @pytest.mark.parametrize("vector", [[1.0, 2.0], [1.0] * 5, []])
    async def test_another_length_names_both(
        self, server: Server, embedder: OpenAIEmbedder, vector: list[float]
    ) -> None:
        server.script.append(good([[1, 2, 3, 4], vector]))
        with pytest.raises(ProviderModelError, match=f"expected vectors of 4 dimensions, got {len(vector)}"):
            await embedder.embed_batch(["a", "b"])

    @pytest.mark.parametrize("vector", [
        base64.b64encode(struct.pack("<4f", 1, 2, float("nan"), 4)).decode(),
        base64.b64encode(struct.pack("<4f", 1, 2, float("-inf"), 4)).decode(),
        [1e300, 1, 1, 1],
    ])  # fmt: skip
    async def test_numbers_that_are_none(self, server: Server, embedder: OpenAIEmbedder, vector: object) -> None:
        server.script.append(good([vector]))
        with pytest.raises(ProviderReplyError, match="finite"):
            await embedder.embed("a")


class TestNetwork:
    async def test_no_answer_in_time(self, server: Server) -> None:
        server.script += [stuck] * 2
        policy = RetryPolicy(attempts=2, first_delay=0)
        async with OpenAIEmbedder("m", dimensions=4, base_url=server.url, timeout=0.5, retry=policy) as embedder:
            with pytest.raises(ProviderTimeoutError, match=r"no answer within 0.5 s"):
                await embedder.embed("dog")
        assert len(server.asked) == 2

    async def test_a_trickle_is_no_answer_either(self, server: Server) -> None:
        """Every byte is in time, the whole is not."""
        async with OpenAIEmbedder("m", dimensions=4, base_url="http://x/v1", timeout=0.3, retry=NEVER) as embedder:

            async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                try:
                    while not reader.at_eof():
                        writer.write(b" ")
                        await writer.drain()
                        await asyncio.sleep(0.02)
                except ConnectionError:
                    pass
                finally:
                    writer.close()

            slow = await asyncio.start_server(trickle, "127.0.0.1", 0)
            async with slow:
                embedder._url = f"http://127.0.0.1:{slow.sockets[0].getsockname()[1]}/"
                with pytest.raises(ProviderTimeoutError):
                    await embedder.embed("dog")

    async def test_nobody_listens(self) -> None:
        async with OpenAIEmbedder("m", dimensions=4, base_url="http://127.0.0.1:1/v1", retry=NEVER) as embedder:
            with pytest.raises(ProviderConnectionError, match="127.0.0.1: ") as raised:
                await embedder.embed("dog")
        assert raised.value.retryable

    async def test_cut_off_and_back(self, server: Server, embedder: OpenAIEmbedder) -> None:
        server.script += [(200, {"Content-Length": "5000", "Connection": "close"}, b"{"), refusal(500, None)]
        assert np.allclose(await embedder.embed("dog"), vector_of("dog"))

    async def test_a_cancelled_call_leaves_room_for_others(self, server: Server, embedder: OpenAIEmbedder) -> None:
        server.script += [stuck] * 10
        calls = [asyncio.create_task(embedder.embed(f"dog {n}")) for n in range(10)]
        for _ in calls:
            await asyncio.to_thread(server.arrived.acquire)
        for call in calls:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 10
        assert np.allclose(await embedder.embed("dog"), vector_of("dog"))

    async def test_closed(self, embedder: OpenAIEmbedder) -> None:
        await embedder.close()
        with pytest.raises(ProviderConnectionError, match="closed") as raised:
            await embedder.embed("dog")
        assert not raised.value.retryable

    async def test_another_event_loop_is_told_so(self, embedder: OpenAIEmbedder) -> None:
        await embedder.embed("dog")
        with pytest.raises(ProviderConnectionError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, embedder.embed("dog"))


class TestSecrets:
    """Neither the key nor a text is in any message, chain of causes, log record or repr."""

    @pytest.mark.parametrize("step", [
        refusal(401, "invalid_api_key"), refusal(401, KEY), refusal(400, TEXT, TEXT), refusal(404, "model_not_found"),
        refusal(429, "rate_limit_exceeded", Retry_After="0"), refusal(500, KEY, KEY), (200, {}, f'"{KEY} {TEXT}"'.encode()),
        (200, {}, json.dumps({"data": [{"index": 0, "embedding": [KEY, TEXT]}]}).encode()),
        (200, {}, json.dumps({"data": [{"index": 0, "embedding": TEXT}]}).encode()), good([[1, 2]]), stuck,
        (200, {"Content-Length": "5000", "Connection": "close"}, TEXT.encode()), good([[1, 2, 3, 4]]),
    ])  # fmt: skip
    async def test_are_kept(self, server: Server, caplog: pytest.LogCaptureFixture, step: Answer | Script) -> None:
        caplog.set_level(logging.DEBUG)
        server.script += [step] * 2
        policy, seen = RetryPolicy(attempts=2, first_delay=0), ""
        async with OpenAIEmbedder(
            "m", dimensions=4, api_key=KEY, base_url=server.url, timeout=0.3, retry=policy
        ) as embedder:
            try:
                await embedder.embed(TEXT)
            except ProviderError as error:
                seen = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__context__)
        seen += repr(embedder) + caplog.text + repr([vars(record) for record in caplog.records])
        assert server.asked[0]["input"] == [TEXT]
        assert caplog.records
        assert KEY not in seen
        assert TEXT not in seen

    @pytest.mark.parametrize("key", ["sk two", "sk\nsecret", "clé"])
    async def test_a_key_no_header_can_hold(self, key: str) -> None:
        with pytest.raises(StorageDataError) as raised:
            OpenAIEmbedder("m", dimensions=4, api_key=key)
        assert raised.value.field == "api_key"
        assert key not in str(raised.value)


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
