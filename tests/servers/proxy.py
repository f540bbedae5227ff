"""A TCP proxy that misbehaves as told: slow, cut, half open, damaged, silent."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST instead of FIN."""


class FaultProxy:
    """Stands between a client and `target`; its settings count from the next chunk of bytes on."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._server: asyncio.Server
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self.latency = 0.0
        """Seconds that every chunk is held up, each way."""
        self.black_hole = False
        """Nothing gets through, in either direction, and nobody is told."""
        self.deaf = False
        """Half open: what the client sends arrives, what the server answers does not."""
        self.garbage = False
        """Answers arrive with other bytes than were sent."""
        self.refuse = False
        """New connections are reset at once."""
        self.cut_after: int | None = None
        """Reset the connection when so many more chunks have come from the client and one was not answered."""
        self.arrived = asyncio.Event()
        """Set whenever something has come from the client."""
        self.accepted = 0

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Those that are open now."""
        return len(self._pairs)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()
        while self._pairs:
            await asyncio.sleep(0.01)

    def heal(self) -> None:
        """Behave from now on; what was swallowed stays so."""
        self.latency, self.cut_after = 0.0, None
        self.black_hole = self.deaf = self.garbage = self.refuse = False

    def cut(self) -> None:
        """Reset every connection, as a crashing host or a firewall does."""
        for client, server in list(self._pairs):
            _reset(client)
            _reset(server)

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refuse:
            _reset(client)
            return
        try:
            answers, server = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(client)
            return
        pair = (client, server)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._forward(reader, server, pair), self._back(answers, client))
        finally:
            self._pairs.discard(pair)
            _close(client)
            _close(server)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        async for chunk in _chunks(reader):
            self.arrived.set()
            await asyncio.sleep(self.latency)
            if self.black_hole:
                continue
            if self.cut_after is not None and self.cut_after <= 0:
                await self._cut(chunk, pair)
                break
            if self.cut_after is not None:
                self.cut_after -= 1
            server.write(chunk)
        _close(server)

    async def _cut(self, chunk: bytes, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        """Let it arrive and be answered, but not the answer."""
        self.cut_after, self.deaf = None, True
        pair[1].write(chunk)
        await asyncio.sleep(0.05)
        _reset(pair[0])
        self.deaf = False

    async def _back(self, answers: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        async for chunk in _chunks(answers):
            await asyncio.sleep(self.latency)
            if not (self.black_hole or self.deaf):
                client.write(bytes(byte ^ 0x15 for byte in chunk) if self.garbage else chunk)
        _close(client)


@asynccontextmanager
async def fault_proxy(host: str, port: int) -> AsyncIterator[FaultProxy]:
    proxy = FaultProxy((host, port))
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        try:
            chunk = await reader.read(65_536)
        except OSError:
            return
        if not chunk:
            return
        yield chunk


def _reset(writer: asyncio.StreamWriter) -> None:
    peer: socket.socket | None = writer.get_extra_info("socket")
    if peer is not None and peer.fileno() >= 0:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


def _close(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        writer.close()
