"""Child processes: free ports, start and stop by process id, one set of servers for all workers of a test run.

Nothing is left running: when the last process of a run has ended, killed or not, its watchman stops the servers,
also those that one test started for itself.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, ClassVar, Final, NamedTuple

PATIENCE: Final = 30.0
"""Seconds a server may take to start or stop; nothing waits as long on a machine that is well."""


class Absent(Exception):
    """This machine cannot have the server; the message says what is missing."""


def cache_folder() -> Path:
    """A folder outside the repository for what is worth keeping between runs, such as a fresh database."""
    home = Path("/var/tmp") if os.geteuid() == 0 else Path.home() / ".cache"  # PostgreSQL runs as nobody if we are root
    folder = Path(os.environ.get("POLYMEM_TEST_CACHE", home)) / "polymem-tests"
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        folder.chmod(0o755)  # whatever the umask is
    return folder


def free_ports(count: int = 1, *, also: int = 0) -> list[int]:
    """Different ports of 127.0.0.1 that are free now; with `also`, so is each port plus that number."""
    held: list[socket.socket] = []
    ports: list[int] = []
    while len(ports) < count:
        try:
            port = _bind(0, held)
            if also and port + also < 65_536:
                _bind(port + also, held)
        except OSError:
            continue
        if port + also < 65_536:
            ports.append(port)
    for one in held:
        one.close()
    return ports


def _bind(port: int, held: list[socket.socket]) -> int:
    one = socket.socket()
    held.append(one)
    one.bind(("127.0.0.1", port))
    return int(one.getsockname()[1])


def wait_for(ready: Callable[[], Any], what: str, *, patience: float = PATIENCE) -> Any:
    """Ask until the answer is true, and give it; an `OSError` is a no. `TimeoutError` after `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            answer = ready()
        except OSError:
            answer = None
        if answer:
            return answer
        if time.monotonic() > end:
            raise TimeoutError(f"{what} took longer than {patience:g} s")
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    socket.create_connection(("127.0.0.1", port), timeout=1).close()
    return True


_started: Final[list[subprocess.Popen[bytes]]] = []
"""Kept: one that is forgotten while it runs makes Python warn."""


class Process:
    """One child process, its output in `folder/log`; a test may pause and kill it."""

    ending: ClassVar[int] = signal.SIGTERM
    """The signal that ends it soonest and well."""

    def __init__(self, arguments: Sequence[str | Path], folder: Path, env: Mapping[str, str] | None = None) -> None:
        self._arguments, self._folder, self._env = [str(a) for a in arguments], folder, env
        self.start()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, again perhaps."""
        with (self._folder / "log").open("ab") as log:
            self._child = subprocess.Popen(
                self._arguments, cwd=self._folder, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        _started.append(self._child)
        _note(_Child(self.pid, str(self._folder), self.ending))

    def stop(self, how: int | None = None) -> None:
        """Send it a signal and wait for its end; killed if it takes too long."""
        self._child.send_signal(how or self.ending)
        try:
            self._child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._child.kill()
        self._child.wait(PATIENCE)

    def pause(self) -> None:
        self._child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._child.send_signal(signal.SIGCONT)


def shared(name: str, start: Callable[[Path], str]) -> str:
    """The URL of the server `name` of this test run, started by whichever process asks first."""
    folder = _run_folder() / name
    with locked(_run_folder() / f"{name}.lock"):
        told = folder / "url"
        if not told.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
            folder.mkdir()
            told.write_text(start(folder))
        return told.read_text()


_users: IO[str] | None = None
"""Locked as long as this process lives: as long as anybody has it, the servers of the run stay."""


def _run_folder() -> Path:
    """One folder per test run, with a watchman; made, and those of dead runs removed, when first asked for."""
    global _users  # noqa: PLW0603 - one run per process
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
    folder = cache_folder() / f"run-{run}"
    if _users is None:
        with locked(cache_folder() / "runs.lock"):
            first = not folder.exists()
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)  # servers that refuse to run as root must get through
            _users = (folder / "users").open("w")
            fcntl.flock(_users, fcntl.LOCK_SH)
            if first:
                _started.append(_watchman(folder))
            for other in cache_folder().glob("run-*"):
                _end(other)  # those whose watchman was killed too
    return folder


def _watchman(run: Path) -> subprocess.Popen[bytes]:
    """A process that outlives the run; how that ends does not matter, since the system gives up the locks of the dead."""
    silent = subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-I", __file__, str(run)], stdin=silent, stdout=silent, stderr=silent, start_new_session=True
    )


def watch(run: Path) -> None:
    """Wait until nobody uses the servers of a run any more, and stop them."""
    ended = False
    while not ended and run.exists():
        with (run / "users").open("w") as users:
            fcntl.flock(users, fcntl.LOCK_EX)
        with locked(cache_folder() / "runs.lock"):  # somebody may have come meanwhile
            ended = not run.exists() or _end(run)


def _end(run: Path) -> bool:
    """Stop the servers of a run that nobody uses any more; False: somebody does."""
    with (run / "users").open("w") as users:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        noted = [_Child(*json.loads(note.read_text())) for note in run.glob("*.pid")]
        for child in filter(_is_ours, noted):
            _tell(child)
        for child in noted:
            _see_end(child)
            if cache_folder() in Path(child.folder).parents:  # elsewhere somebody else cleans up
                shutil.rmtree(child.folder, ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)
        return True


class _Child(NamedTuple):
    """What to stop at the end of a run, and how."""

    pid: int
    folder: str
    ending: int


def _note(child: _Child) -> None:
    (_run_folder() / f"{child.pid}.pid").write_text(json.dumps(child))


def _tell(child: _Child) -> None:
    with suppress(ProcessLookupError, FileNotFoundError):
        for pid in (*children(child.pid), child.pid):
            os.kill(pid, signal.SIGCONT)  # a test may have paused it
        os.kill(child.pid, child.ending)


def _see_end(child: _Child) -> None:
    try:
        wait_for(lambda: not _is_ours(child), f"stopping {child.pid}")
    except TimeoutError:
        os.kill(child.pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_ours(child: _Child) -> bool:
    """Whether it still is what we started: its command line or its directory names our folder."""
    with suppress(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)  # a child of this process would stay a zombie
    try:
        command = Path(f"/proc/{child.pid}/cmdline").read_bytes().decode(errors="replace")
        return child.folder in command or Path(f"/proc/{child.pid}/cwd").resolve().is_relative_to(child.folder)
    except OSError:
        return False


class locked:  # noqa: N801 - reads as a verb
    def __init__(self, path: Path) -> None:
        self._file = path.open("w")

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
