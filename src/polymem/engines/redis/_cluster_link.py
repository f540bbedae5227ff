"""Commands to the nodes of a Cluster."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, TypeVar

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.client import NEVER_DECODE
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, ResponseError, TryAgainError

from polymem.core.cancellation import to_the_end
from polymem.engines.redis._errors import translate
from polymem.engines.redis._line import Command, Line, Word
from polymem.engines.redis._pool import Limits, Pool
from polymem.errors import Outcome, StorageConnectionError, StorageError, StorageUnsupportedError

Result = TypeVar("Result")
_OF_ANY_NODE: Final = frozenset({"INFO", "TIME", "CONFIG"})
_OF_SCRIPTS: Final = frozenset({"EVAL", "EVALSHA"})
_FIRST_KEY_OF_SCRIPT: Final = 3
_ELSEWHERE: Final = (AskError, TryAgainError, ClusterDownError)  # MovedError is an AskError
"""What a node says that did nothing, for another one is to be asked, or later."""


class ClusterLink:
    """Connections of our own to each node; redis-py's client knows where the slots are, and follows MOVED and ASK.

    Nothing is repeated after a lost connection: only the guard knows what may be done twice.
    """

    spreads = True

    def __init__(self, client: RedisCluster, limits: Limits, socket_timeout: float, *, owned: bool) -> None:
        """The limits are those of each node."""
        self._client, self._limits, self._socket_timeout, self._owned = client, limits, socket_timeout, owned
        self._pools: dict[str, Pool] = {}
        self._doubtful = True
        """Whether the nodes may be others than those we know."""
        self._learning = asyncio.Lock()
        self._under_way: set[asyncio.Future[Any]] = set()
        """What redis-py is doing."""

    async def calls(self, commands: Sequence[Command], *, finish: bool) -> list[Any]:
        if self._doubtful:
            await self._learn()
        groups: dict[Pool | None, list[int]] = {}
        for at, command in enumerate(commands):
            groups.setdefault(self._pool(command), []).append(at)
        if len(groups) == 1:
            return await self._said(next(iter(groups)), commands, finish=finish)
        together = [self._said(pool, [commands[at] for at in some], finish=finish) for pool, some in groups.items()]
        parts = await asyncio.gather(*together, return_exceptions=True)
        replies: list[Any] = [None] * len(commands)
        for some, part in zip(groups.values(), parts, strict=True):
            if isinstance(part, BaseException) and not isinstance(part, Exception):
                raise part
            for at, reply in zip(some, [part] * len(some) if isinstance(part, Exception) else part, strict=True):
                replies[at] = reply
        return replies

    async def everywhere(self, *words: Word) -> list[Any]:
        return list((await self._each(*words)).values())

    async def ears(self) -> list[AbstractConnection]:
        await self._by_client(self._client.nodes_manager.initialize())
        return [_connection(node) for node in self._client.get_primaries()]

    async def layout(self) -> object:
        said = await self._each("CLUSTER", "SLOTS")
        held = [self._held(node, reply) for node, reply in said.items()]
        if set(held[0].values()) != set(said) or any(one != held[0] for one in held):
            raise StorageConnectionError("the nodes of the cluster do not agree", retryable=True)
        return held[0]

    async def acquire(self) -> Line:
        raise StorageUnsupportedError("a Cluster has no transactions over namespaces")

    async def release(self, line: Line) -> None: ...

    def status(self) -> Mapping[str, int]:
        """Of all nodes together."""
        each = [pool.status() for pool in self._pools.values()]
        found = {name: sum(one[name] for one in each) for name in ("size", "used", "waiting")}
        return {**found, "max_size": self._limits.size * max(len(each), 1)}

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()
        if self._under_way:  # it might connect anew
            await asyncio.wait(self._under_way, timeout=self._socket_timeout)
        if self._owned:
            await self._client.aclose()
            for nodes in ("nodes_cache", "startup_nodes"):  # which it leaves open when one of them has failed
                await self._client.nodes_manager.aclose(nodes)

    async def _each(self, *words: Word) -> dict[ClusterNode, Any]:
        """What each primary replies, as far as redis-py knows which they are."""
        if self._doubtful:
            await self._learn()
        nodes = self._client.get_primaries()
        said = await asyncio.gather(*(self._said(self._pool_of(node), [words], finish=False) for node in nodes))
        return {node: reply for node, (reply,) in zip(nodes, said, strict=True)}

    def _held(self, node: ClusterNode, reply: Any) -> dict[tuple[int, int], ClusterNode | None]:
        """Which primary has which slots, as the node says."""
        if isinstance(reply, Exception):
            raise reply
        nodes = self._client.nodes_manager
        primaries = {
            (first, last): (host.decode() if host else node.host, port) for first, last, (host, port, *_), *_ in reply
        }
        return {slots: nodes.get_node(*nodes.remap_host_port(*primary)) for slots, primary in primaries.items()}

    async def _said(self, pool: Pool | None, commands: Sequence[Command], *, finish: bool) -> list[Any]:
        if pool is None:
            return [await self._follow(command) for command in commands]
        try:
            replies = await pool.say(commands, finish=finish)
        except StorageError:
            self._doubtful = True
            raise
        for at, reply in enumerate(replies):
            if isinstance(reply, _ELSEWHERE):
                replies[at] = await self._follow(commands[at])
        return replies

    async def _follow(self, command: Command) -> Any:
        """By redis-py's client, which goes from node to node, and would throw a connection away when it is cancelled."""
        return await to_the_end(self._send(command))

    async def _send(self, command: Command) -> Any:
        try:
            return await self._by_client(self._client.execute_command(*command, **{NEVER_DECODE: True}))
        except ResponseError as error:
            return error
        except Exception as error:
            raise translate(error, Outcome.UNKNOWN) or error from error

    def _pool(self, command: Command) -> Pool | None:
        """That of the node where the command's keys are; None where any will do."""
        if command[0] in _OF_ANY_NODE:
            return None
        key: Any = command[_FIRST_KEY_OF_SCRIPT if command[0] in _OF_SCRIPTS else 1]
        return self._pool_of(self._client.nodes_manager.get_node_from_slot(key_slot(key)))

    def _pool_of(self, node: ClusterNode) -> Pool:
        pool = self._pools.get(node.name)
        if pool is None:
            pool = self._pools[node.name] = Pool(lambda: Line(_connection(node), self._socket_timeout), self._limits)
        return pool

    async def _learn(self) -> None:
        """Which nodes there are; connections to others are given up."""
        async with self._learning:
            if not self._doubtful:
                return
            try:
                await self._by_client(self._client.nodes_manager.initialize())
            except Exception as error:
                raise translate(error, Outcome.NOT_APPLIED) or error from error
            self._doubtful = False
            for name in self._pools.keys() - self._client.nodes_manager.nodes_cache.keys():
                await self._pools.pop(name).close()

    async def _by_client(self, work: Awaitable[Result]) -> Result:
        """What redis-py does, in a task of its own: by `asyncio.wait_for`, which may keep a cancellation to itself until
        Python 3.12. `TimeoutError` after the time that each node in turn may take.
        """
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            async with asyncio.timeout(self._socket_timeout * len(self._client.nodes_manager.startup_nodes)):
                return await asyncio.shield(task)
        finally:
            task.cancel()


def _connection(node: ClusterNode) -> AbstractConnection:
    made: AbstractConnection = node.connection_class(**node.connection_kwargs)
    return made
