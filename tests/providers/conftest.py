"""An embedder and the server that it asks."""

import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from providers.openai_server import AT_ONCE, KEY, Server

from polymem.providers.openai import OpenAIEmbedder


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
