"""A server of embeddings on this machine, which answers by a script and then embeds.

The bodies of refusals have the shape of OpenAI's API description: `error` with message, type, param and code.
"""

import json
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from polymem.core.retry import RetryPolicy

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

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

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

    def log_message(self, format: str, *args: Any) -> None:
        pass


def stuck(server: Server, request: dict[str, Any]) -> Answer:
    server.released.wait(30)
    return good([vector_of(text) for text in request["input"]])
