"""What an embedder does when the server refuses, babbles or is silent, and what it keeps to itself (PRV-3, RES-1)."""

import asyncio
import base64
import json
import logging
import struct
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
from providers.openai_server import KEY, NEVER, TEXT, Answer, Script, Server, good, refusal, stuck, vector_of

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
from polymem.providers.openai import OpenAIEmbedder

pytestmark = pytest.mark.anyio


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
