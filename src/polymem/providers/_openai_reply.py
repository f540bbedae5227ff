"""What a server with OpenAI's `/embeddings` call answers, good or bad (PRV-1)."""

import base64
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

import msgspec
import numpy as np

from polymem.errors import (
    ProviderAuthError,
    ProviderConnectionError,
    ProviderContentError,
    ProviderError,
    ProviderModelError,
    ProviderRateLimitError,
    ProviderReplyError,
    ProviderTimeoutError,
)
from polymem.providers.embedding import Matrix, Vector

_REFUSALS: Final[Mapping[str, type[ProviderError]]] = {
    "invalid_api_key": ProviderAuthError,
    "model_not_found": ProviderModelError,
    "DeploymentNotFound": ProviderModelError,
    "rate_limit_exceeded": ProviderRateLimitError,
    "insufficient_quota": ProviderRateLimitError,
    "content_filter": ProviderContentError,
    "content_policy_violation": ProviderContentError,
    "context_length_exceeded": ProviderContentError,
    "string_above_max_length": ProviderContentError,
}
"""Error codes that say more than the HTTP status. Only these are ever quoted: any other may echo a text or a key."""
_STATUSES: Final[Mapping[int, type[ProviderError]]] = {
    401: ProviderAuthError,
    403: ProviderAuthError,
    404: ProviderModelError,
    408: ProviderTimeoutError,
    429: ProviderRateLimitError,
}
_HINTS: Final[Mapping[type[ProviderError], str]] = {
    ProviderAuthError: "check api_key (OPENAI_API_KEY is sent to api.openai.com only)",
    ProviderModelError: "check the model's name and base_url",
    ProviderContentError: "the server declines to embed one of the texts",
    ProviderError: "is a text too long for the model, an option not known to the server, or no credit left?",
}


class _Item(msgspec.Struct):
    index: int
    embedding: list[float] | str
    """Numbers, or base64 of little-endian float32."""


class _Usage(msgspec.Struct):
    total_tokens: int = 0


class _Reply(msgspec.Struct):
    data: list[_Item]
    usage: _Usage | None = None


def read_embeddings(content: bytes, rows: int, dimensions: int) -> tuple[Matrix, int]:
    """The vectors of an answer in the order of the texts, and the tokens the server counted.

    ProviderModelError where they have another length, ProviderReplyError for anything else amiss.
    """
    try:
        reply = msgspec.json.decode(content, type=_Reply)
        items = sorted(reply.data, key=lambda item: item.index)
        vectors = [_vector(item.embedding) for item in items]
    except (ValueError, RecursionError):  # not JSON, too deep, other fields, not base64, not whole floats
        raise ProviderReplyError("the answer is not a list of embeddings") from None
    if [item.index for item in items] != list(range(rows)):
        raise ProviderReplyError(f"expected {rows} embeddings numbered from 0, got {len(items)} or other numbers")
    other = next((len(vector) for vector in vectors if len(vector) != dimensions), None)
    if other is not None:
        raise ProviderModelError(f"expected vectors of {dimensions} dimensions, got {other}")
    matrix = np.stack(vectors)
    if not np.isfinite(matrix).all():
        raise ProviderReplyError("expected finite numbers, got NaN or infinity")
    return matrix, reply.usage.total_tokens if reply.usage else 0


def _vector(embedding: list[float] | str) -> Vector:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4").astype(np.float32)
    with np.errstate(over="ignore"):  # too large for float32 becomes infinity, which is refused
        return np.asarray(embedding, dtype=np.float32)


def refusal(host: str, status: int, content: bytes, headers: Mapping[str, str]) -> ProviderError:
    """What an answer other than 200 means."""
    code = _code(content)
    kind = _REFUSALS.get(code) or _STATUSES.get(status)
    if kind is None:
        kind = ProviderConnectionError if status >= HTTPStatus.INTERNAL_SERVER_ERROR else ProviderError
    said = f"HTTP {status} {code}".rstrip()
    hint = "the quota is used up" if code == "insufficient_quota" else _HINTS.get(kind)
    return kind(
        f"{said}: {hint}" if hint else said,
        provider=host,
        status=status,
        retryable=False if code == "insufficient_quota" else None,
        retry_after=_retry_after(headers),
    )


def _code(content: bytes) -> str:
    """The `error.code` of the body where it is one we know, else nothing."""
    try:
        body: Any = msgspec.json.decode(content)
    except (ValueError, RecursionError):
        return ""
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) and code in _REFUSALS else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds: OpenAI's retry-after-ms, or the standard's number or date."""
    for header, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(header, "")) / unit
        except ValueError:
            continue
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    try:
        return max(parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
