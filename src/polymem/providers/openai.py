"""Embeddings from OpenAI, and from any server that has its `/embeddings` call (PRV-1, PRV-2)."""

import asyncio
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import msgspec
import numpy as np

from polymem.core.retry import RetryPolicy
from polymem.core.text import check_text
from polymem.errors import (
    ProviderAuthError,
    ProviderConnectionError,
    ProviderError,
    ProviderTimeoutError,
    StorageDataError,
)
from polymem.providers._openai_reply import read_embeddings, refusal
from polymem.providers.embedding import Matrix, Vector

if TYPE_CHECKING:
    import httpx

OPENAI: Final = "https://api.openai.com/v1"
INSTALL_HINT: Final = "httpx is missing: pip install 'polymem[openai]'"
RETRY: Final = RetryPolicy(attempts=4, first_delay=0.5, max_delay=8.0)
"""Slower than a database's: the limits of a model's server are counted by the minute."""

_MAX_TEXTS: Final = 2048
_MAX_BYTES: Final = 300_000
"""Per request. OpenAI takes 300,000 tokens, and a token is at least one byte of UTF-8."""
_CONNECTIONS: Final = 10
_CONNECT_TIMEOUT: Final = 5.0
_PATIENCE: Final = 60.0
"""A server that asks for more seconds than this gets no retry: the caller hears of it instead."""
_log = logging.getLogger("polymem.providers")


@dataclass(slots=True)
class EmbeddingUsage:
    """What was answered so far; `tokens` as the server counts them, 0 where it does not say."""

    requests: int = 0
    texts: int = 0
    tokens: int = 0


class OpenAIEmbedder:
    """An `EmbeddingProvider` over HTTP: `Memory.open(url, embed=OpenAIEmbedder("text-embedding-3-small", dimensions=1536))`.

    `api_key` defaults to the environment's OPENAI_API_KEY for api.openai.com; another `base_url` is sent a key only
    if one is given here. `batch` is how many texts go in one request (at most 2048), `timeout` the seconds one
    request may take. `dimensions` is checked against every answer; it is also asked for where the model can shorten
    its vectors: `shorten` None means the text-embedding-3 models. `name` is recorded beside every vector: the
    model, with the host where that is not OpenAI's. A blank text has the zero vector and is not sent.

    Up to ten requests are under way at once. A `client` handed in is used as it is and never closed; otherwise
    `close`, or use this as `async with`, on the event loop of the first call. Raises StorageDataError for
    arguments, ProviderError for everything the server or the network does.
    """

    def __init__(
        self,
        model: str,
        *,
        dimensions: int,
        api_key: str | None = None,
        base_url: str = OPENAI,
        batch: int = 256,
        timeout: float = 30.0,
        retry: RetryPolicy = RETRY,
        shorten: bool | None = None,
        name: str | None = None,
        client: "httpx.AsyncClient | None" = None,
    ) -> None:
        self._model = _check_model(model)
        self.dimensions = _check_whole(dimensions, "dimensions", most=1 << 20)
        self._batch = _check_whole(batch, "batch", most=_MAX_TEXTS)
        self._timeout = _check_timeout(timeout)
        self._host, self._url = _check_url(base_url)
        self.name = name or (model if self._is_openai else f"{model}@{self._host}")
        self._headers = self._authorization(api_key, required=client is None)
        self._options = self._request_options(shorten)
        self._retry = retry
        self.usage = EmbeddingUsage()
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._client, self._owns_client = client or _client(), client is None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<OpenAIEmbedder {self.name!r} dimensions={self.dimensions}>"

    async def embed(self, text: str) -> Vector:
        """The vector of one text, shape (dimensions,)."""
        vector: Vector = (await self.embed_batch([text]))[0]
        return vector

    async def embed_batch(self, texts: Sequence[str]) -> Matrix:
        """The vectors of many texts in order; all or an error. Texts go out in as few requests as the limits allow."""
        if isinstance(texts, str):
            raise StorageDataError("expected several texts, not one string", field="texts")
        matrix = np.zeros((len(texts), self.dimensions), np.float32)
        rows = [row for row, text in enumerate(texts) if check_text(text, field=f"texts[{row}]").strip()]
        if rows:
            self._check_open()
            matrix[rows] = await self._all(list(_split([texts[row] for row in rows], self._batch)))
        return matrix

    async def close(self) -> None:
        """Close the connections, unless the client was handed in."""
        if self._owns_client:
            await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _is_openai(self) -> bool:
        return self._url.startswith("https://api.openai.com/")

    def _authorization(self, api_key: str | None, *, required: bool) -> dict[str, str]:
        if api_key is None:
            api_key = os.environ.get("OPENAI_API_KEY", "") if self._is_openai else ""
        key = check_text(api_key, field="api_key").strip()  # a key read from a file ends in a newline
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise StorageDataError("expected printable ASCII without spaces", field="api_key")
        if not key and required and self._is_openai:
            raise ProviderAuthError("no key: set OPENAI_API_KEY or give api_key", provider=self._host)
        json = {"Content-Type": "application/json"}
        return {**json, "Authorization": f"Bearer {key}"} if key else json

    def _request_options(self, shorten: bool | None) -> dict[str, Any]:
        """base64 is a quarter of the bytes, but only OpenAI is sure to know it; both are understood from anyone."""
        options: dict[str, Any] = {"model": self._model, "encoding_format": "base64" if self._is_openai else "float"}
        if "text-embedding-3" in self._model if shorten is None else shorten:
            options["dimensions"] = self.dimensions
        return options

    def _check_open(self) -> None:
        """Connections belong to one event loop."""
        if self._client.is_closed:
            raise ProviderConnectionError("the embedder is closed", provider=self._host, retryable=False)
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise ProviderConnectionError(
                "the embedder belongs to another event loop; make one per loop", provider=self._host, retryable=False
            )

    async def _all(self, chunks: list[list[str]]) -> Matrix:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._chunk(chunk)) for chunk in chunks]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the others failed or were cancelled with it
        return np.concatenate([task.result() for task in tasks])

    async def _chunk(self, texts: list[str]) -> Matrix:
        """One request, again while that may help."""
        body = msgspec.json.encode({**self._options, "input": texts})
        attempt = 1
        while True:
            try:
                async with self._slots:
                    content = await self._post(body)
                return await self._accept(content, texts)
            except ProviderError as error:
                delay = _delay(self._retry, error, attempt)
                kind = type(error).__name__
                if delay is None:
                    raise
            self._log_retry(kind, attempt)
            await asyncio.sleep(delay)
            attempt += 1

    def _log_retry(self, kind: str, attempt: int) -> None:
        fields = {"engine": self._host, "operation": "embed", "error_type": kind, "attempt": attempt}
        _log.warning("%s embed retry: %s", self._host, kind, extra=fields)

    async def _post(self, body: bytes) -> bytes:
        """The body of a good answer. No cause is attached: a driver's message may quote headers or the request."""
        import httpx  # noqa: PLC0415 - an extra, and slow to import

        limits = httpx.Timeout(self._timeout, connect=min(_CONNECT_TIMEOUT, self._timeout))
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.post(
                    self._url, content=body, headers=self._headers, timeout=limits, follow_redirects=False
                )
        except httpx.ConnectTimeout:
            raise ProviderTimeoutError(f"no connection within {limits.connect:g} s", provider=self._host) from None
        except (TimeoutError, httpx.TimeoutException):
            raise ProviderTimeoutError(f"no answer within {self._timeout:g} s", provider=self._host) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) if isinstance(error, httpx.ConnectError) else ""  # the system's own words
            raise ProviderConnectionError(reason or type(error).__name__, provider=self._host) from None
        if response.status_code != httpx.codes.OK:
            raise refusal(self._host, response.status_code, response.content, response.headers)
        return response.content

    async def _accept(self, content: bytes, texts: list[str]) -> Matrix:
        """The vectors of an answer; in a thread, since reading some megabytes of numbers takes milliseconds."""
        try:
            matrix, tokens = await asyncio.to_thread(read_embeddings, content, len(texts), self.dimensions)
        except ProviderError as error:
            error.provider = self._host
            raise
        self.usage.requests += 1
        self.usage.texts += len(texts)
        self.usage.tokens += tokens
        return matrix


def _client() -> "httpx.AsyncClient":
    try:
        import httpx  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise ProviderError(INSTALL_HINT) from error
    return httpx.AsyncClient(limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS))


def _split(texts: Sequence[str], most: int) -> Iterator[list[str]]:
    """In order, in chunks that one request may hold; a text that is too large alone goes alone."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode())
        if chunk and (len(chunk) == most or size + length > _MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(text)
        size += length
    yield chunk


def _delay(policy: RetryPolicy, error: ProviderError, attempt: int) -> float | None:
    """Seconds to wait before another attempt; None: give up.

    Jitter comes on top of what the server asks for, or all its callers would be back at the same moment.
    """
    asked = error.retry_after or 0.0
    if not error.retryable or attempt >= policy.attempts or asked > _PATIENCE:
        return None
    return asked + policy.jitter(attempt)


def _check_model(model: str) -> str:
    if not check_text(model, field="model").strip():
        raise StorageDataError("expected the name of a model", field="model")
    return model


def _check_whole(value: int, field: str, *, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise StorageDataError(f"expected a whole number from 1 to {most}", field=field)
    return value


def _check_timeout(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise StorageDataError("expected seconds, more than 0", field="timeout")
    return float(value)


def _check_url(base_url: str) -> tuple[str, str]:
    """Host and address of the call. A password or query is refused: addresses end up in logs."""
    try:
        parts = urlsplit(check_text(base_url, field="base_url"))
        plain = not (parts.username or parts.password or parts.query or parts.fragment)
        good = parts.scheme in {"http", "https"} and plain and parts.port != 0
        host = parts.hostname
    except ValueError:  # a port or bracket that makes no sense
        good, host = False, None
    if not good or not host:
        raise StorageDataError("expected http(s)://host/path, without user, password or query", field="base_url")
    return host, base_url.rstrip("/") + "/embeddings"
