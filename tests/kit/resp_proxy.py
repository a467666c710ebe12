"""A TCP proxy in front of Redis that understands its protocol, and makes trouble on demand.

It passes whole commands and whole replies, one at a time on each connection, so
that it can act exactly between the two: the server executes a command and its
reply is lost, or an error comes instead of it. Nothing in a client is patched.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import attrs

from videopoll.queue import calls
from videopoll.testing import unused_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

HOST = "127.0.0.1"

_NAMES = {script.sha.encode(): script.name for script in calls.SCRIPTS} | {
    script.source.encode(): script.name for script in calls.SCRIPTS
}


@attrs.define
class _Rule:
    """One piece of trouble for the commands of one name."""

    name: str
    nth: int
    times: float
    error: bytes | None
    executed: bool
    seen: int = 0
    hits: int = 0

    def strikes(self, name: str) -> bool:
        """Count a command, and say whether this one meets with the trouble."""
        if self.name != name and not (self.name == "*" and name in _NAMES.values()):
            return False
        self.seen += 1
        if self.seen % self.nth or self.hits >= self.times:
            return False
        self.hits += 1
        return True


class _Stream:
    """One side of a connection, read in whole messages."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._buffer = b""

    def line(self) -> bytes:
        """Read up to and with the end of a line."""
        while b"\r\n" not in self._buffer:
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line + b"\r\n"

    def exactly(self, size: int) -> bytes:
        """Read so many bytes."""
        while len(self._buffer) < size:
            self._fill()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def message(self) -> bytes:
        """Read one value of the protocol, however deep, as its bytes."""
        line = self.line()
        kind, count = line[:1], line[1:-2]
        if kind in b"$!=":
            return line if int(count) < 0 else line + self.exactly(int(count) + 2)
        if kind in b"*~>":
            return line + b"".join(self.message() for _ in range(max(0, int(count))))
        if kind in b"%|":
            inside = b"".join(self.message() for _ in range(2 * int(count)))
            return line + inside + (self.message() if kind == b"|" else b"")
        return line

    def words(self) -> tuple[list[bytes], bytes]:
        """Read one command: its words, and its bytes."""
        head = self.line()
        words, raw = [], [head]
        for _ in range(int(head[1:-2])):
            line = self.line()
            word = self.exactly(int(line[1:-2]) + 2)
            raw += [line, word]
            words.append(word[:-2])
        return words, b"".join(raw)

    @property
    def pending(self) -> bool:
        """Whether something has been read that is not used yet."""
        return bool(self._buffer)

    def _fill(self) -> None:
        found = self.socket.recv(65536)
        if not found:
            raise ConnectionResetError
        self._buffer += found


class RespProxy:
    """Stands between clients and a server. All methods may be called from any thread.

    Commands are named by their script (``claim``, ``settle`` …) or by their own
    name in lower case (``blmove``); ``*`` is every script.

    Args:
        port: The server's port.
    """

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.port = unused_port()
        self.delay_s = 0.0
        self.connections = 0
        self.commands: list[str] = []
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._forgotten: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._hanging_up = False
        self._mute = False
        self._unmuted = threading.Event()

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def open_connections(self) -> int:
        """How many connections there are now."""
        with self._lock:
            return len(self._open) // 2

    def __enter__(self) -> Self:
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()

    # --- trouble ---

    def lose_reply(self, name: str, *, nth: int = 1, times: float = 1) -> None:
        """Let the server execute each `nth` such command, then cut the connection instead of replying."""
        self._add(_Rule(name, nth, times, None, executed=True))

    def answer(self, name: str, error: str, *, nth: int = 1, times: float = 1, executed: bool = False) -> None:
        """Reply to each `nth` such command with an error, in place of the server or (`executed`) after it."""
        self._add(_Rule(name, nth, times, f"-{error}\r\n".encode(), executed=executed))

    def say(self, name: str, reply: bytes) -> None:
        """Reply to each such command in place of the server, from now on."""
        self._add(_Rule(name, 1, float("inf"), reply, executed=False))

    def heal(self) -> None:
        """Forget the trouble with commands, and answer again."""
        with self._lock:
            self._rules.clear()
        self.delay_s = 0.0
        self._mute, self._hanging_up = False, False
        self._unmuted.set()

    def struck(self) -> int:
        """How many commands have met with trouble."""
        with self._lock:
            return sum(rule.hits for rule in self._rules)

    def refuse(self) -> None:
        """Refuse connections, and cut those that are open."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()

    def accept(self) -> None:
        """Listen (again), on the same port."""
        if self._listener is None:
            listener = socket.create_server((HOST, self.port), backlog=256)
            self._listener = listener
            threading.Thread(target=self._listen, args=(listener,), name="resp-proxy", daemon=True).start()

    def cut(self) -> None:
        """Cut every connection that is open."""
        self._unmuted.set()
        with self._lock:
            for one in list(self._open):
                _cut(one)

    def hang_up(self) -> None:
        """Take connections and close them at once, so that tries can be counted; until `heal`."""
        self._hanging_up = True
        self.cut()

    def forget(self) -> None:
        """Answer nothing any more on connections that are open now, as a firewall does that has forgotten them."""
        with self._lock:
            self._forgotten |= self._open

    def mute(self) -> None:
        """Take connections and commands, and answer nothing any more; until `heal`."""
        self._unmuted.clear()
        self._mute = True

    # --- the work ---

    def _add(self, rule: _Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            if self._hanging_up:
                client.close()
            else:
                threading.Thread(target=self._serve, args=(client,), name="resp-proxy-link", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection((HOST, self.upstream), timeout=5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open |= {client, server}
            if self._listener is None or self._hanging_up:
                # It came in just before the trouble began, and too late to be cut with the others.
                _cut(client)
        try:
            self._relay(_Stream(client), _Stream(server))
        except (OSError, ValueError):
            pass  # one of the two is gone, and so is the other
        finally:
            with self._lock:
                self._open -= {client, server}
                self._forgotten -= {client, server}
            client.close()
            server.close()

    def _relay(self, client: _Stream, server: _Stream) -> None:
        while True:
            words, raw = client.words()
            if client.socket in self._forgotten:
                continue
            self._stay_mute()
            name = _name_of(words)
            self.commands.append(name)
            rule = self._rule_for(name, lambda rule: not rule.executed)
            if rule is not None and rule.error is not None:
                client.socket.sendall(rule.error)
                continue
            server.socket.sendall(raw)
            _await_reply(client, server)
            reply = server.message()
            if not reply.startswith(b"-NOSCRIPT"):
                rule = self._rule_for(name, lambda rule: rule.executed)
                if rule is not None and rule.error is None:
                    raise ConnectionResetError
                reply = reply if rule is None or rule.error is None else rule.error
            if self.delay_s:
                time.sleep(self.delay_s)
            self._stay_mute()
            client.socket.sendall(reply)

    def _stay_mute(self) -> None:
        if self._mute:
            self._unmuted.wait(60)

    def _rule_for(self, name: str, concerns: Callable[[_Rule], bool]) -> _Rule | None:
        with self._lock:
            return next((rule for rule in self._rules if concerns(rule) and rule.strikes(name)), None)


def _name_of(words: list[bytes]) -> str:
    command = words[0].lower()
    if command in {b"evalsha", b"eval"}:
        return _NAMES.get(words[1], "unknown script")
    return command.decode()


def _await_reply(client: _Stream, server: _Stream) -> None:
    """Wait for the server's word; a client that goes away meanwhile ends its blocking command."""
    watched = [client.socket, server.socket]
    while not server.pending:
        ready, _, _ = select.select(watched, [], [])
        if server.socket in ready:
            return
        if not client.socket.recv(1, socket.MSG_PEEK):
            raise ConnectionResetError
        watched = [server.socket]  # it has sent its next command already


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # A reset, not an orderly end: what was on its way is lost.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)
