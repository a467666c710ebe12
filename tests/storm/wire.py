"""The wires of a real storm, on one event loop: a proxy for Redis that can fail between any two commands, and an HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from videopoll.queue import calls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HOST = "127.0.0.1"
NAMES: dict[bytes, str] = {}
SOURCES: dict[str, str] = {}


def know_scripts() -> None:
    """Learn by which hash and which source a worker names each script."""
    for script in calls.SCRIPTS:
        NAMES[script.sha.encode()] = NAMES[script.source.encode()] = script.name
        SOURCES[script.name] = script.source


know_scripts()
GONE = (OSError, EOFError, ValueError)
"""How a connection shows that its other end is gone, or talks nonsense."""


def listening() -> socket.socket:
    """Open a socket that clients can connect to at once, although nobody accepts yet."""
    return socket.create_server((HOST, 0), backlog=256)


class Watcher(Protocol):
    """Who stands beside a worker's way to Redis."""

    def admits(self) -> bool:
        """Whether a new connection is taken."""

    def arrives(self, name: str, words: list[bytes]) -> list[bytes] | bytes | None:
        """Give what the server gets; or a reply in its place; or None if nobody will ever answer."""

    def served(self, name: str) -> bool:
        """Whether the reply, which has just come from the server, gets through."""

    def answered(self, name: str) -> None:
        """The reply is on its way to the worker."""


class RedisProxy:
    """One worker's way to Redis: whole commands and whole replies, one at a time on each connection."""

    def __init__(self, upstream: int, watcher: Watcher) -> None:
        self.upstream, self.watcher = upstream, watcher
        self._socket = listening()
        self.url = f"redis://{HOST}:{self._socket.getsockname()[1]}/0"
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._socket)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._socket.close()
        self.cut()

    def cut(self) -> None:
        """Cut every connection, with a reset."""
        for one in list(self._open):
            one.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.watcher.admits():
            writer.transport.abort()
            return
        try:
            above, to_above = await asyncio.open_connection(HOST, self.upstream)
        except OSError:
            writer.transport.abort()
            return
        self._open.add(writer)
        commands: asyncio.Queue[list[bytes]] = asyncio.Queue()
        reading = asyncio.ensure_future(self._read(reader, commands, to_above))
        try:
            while True:
                if not await self._pass(await commands.get(), writer, above, to_above):
                    # Nobody will ever answer: that ends when the worker gives the connection up.
                    while await commands.get():
                        pass
                    raise EOFError
        except GONE:
            writer.transport.abort()
        except asyncio.CancelledError:
            pass  # The storm is over.
        finally:
            reading.cancel()
            self._open.discard(writer)
            # An orderly end: what has gone to the server is served, as it would be without a proxy.
            to_above.close()
            writer.close()

    @staticmethod
    async def _read(
        reader: asyncio.StreamReader, commands: asyncio.Queue[list[bytes]], to_above: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                commands.put_nowait(await _command(reader))
        except GONE:
            to_above.close()  # Whatever waits for its reply ends with that.
            commands.put_nowait([])

    async def _pass(
        self,
        words: list[bytes],
        writer: asyncio.StreamWriter,
        above: asyncio.StreamReader,
        to_above: asyncio.StreamWriter,
    ) -> bool:
        """Pass a command on, and its reply back. Returns whether it is answered at all."""
        if not words:
            raise EOFError
        name = name_of(words)
        sent = self.watcher.arrives(name, words)
        if sent is None:
            return False
        if isinstance(sent, bytes):
            writer.write(sent)
        else:
            to_above.write(b"".join((b"*%d\r\n" % len(sent), *(b"$%d\r\n%s\r\n" % (len(one), one) for one in sent))))
            reply = await _reply(above)
            if not reply.startswith(b"-NOSCRIPT") and not self.watcher.served(name):
                raise EOFError
            writer.write(reply)
            await writer.drain()
        self.watcher.answered(name)
        return True


def name_of(words: list[bytes]) -> str:
    """Name a command: by its script, or by its own word in lower case."""
    word = words[0].lower()
    return NAMES.get(words[1], "script") if word in {b"evalsha", b"eval"} else word.decode()


async def _command(reader: asyncio.StreamReader) -> list[bytes]:
    count = int((await reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(count):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


async def _reply(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readuntil(b"\r\n")
    kind = line[:1]
    if kind in b"$=!" and int(line[1:]) >= 0:
        return line + await reader.readexactly(int(line[1:]) + 2)
    if kind in b"*~>%":
        count = int(line[1:]) * (2 if kind == b"%" else 1)
        return line + b"".join([await _reply(reader) for _ in range(max(0, count))])
    return line


WRITES = [
    "SET",
    "ZADD",
    "HSET",
    "LPUSH",
    "RPUSH",
    "DEL",
    "HDEL",
    "ZREM",
    "LTRIM",
    "EXPIRE",
    "PEXPIRE",
    "LREM",
    "GETEX",
    "LMOVE",
]

TROUBLED = """local untouched, step, left = redis, {step}, {writes}
local WRITES = {{{writing}}}
local function call(word, ...)
  if word == 'TIME' then
    local time = untouched.call('TIME')
    return {{string.format('%.0f', time[1] + step), time[2]}}
  end
  if WRITES[word] then
    if left == 0 then error('the storm breaks this script off') end
    left = left - 1
  end
  return untouched.call(word, ...)
end
local redis = setmetatable({{call = call}}, {{__index = untouched}})
"""


def troubled(words: list[bytes], step_s: float, writes: int) -> list[bytes]:
    """Give a script's call with a stepped clock, or broken off at its next write after so many; -1 for all of them."""
    writing = ", ".join(f"{word} = true" for word in WRITES)
    head = TROUBLED.format(step=f"{step_s:.0f}", writes=writes, writing=writing)
    return [b"EVAL", (head + SOURCES[name_of(words)]).encode(), *words[2:]]


@attrs.frozen
class Request:
    """One HTTP request."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    reader: asyncio.StreamReader

    @property
    def gone(self) -> bool:
        """Whether the client has gone away meanwhile."""
        return self.reader.at_eof()

    async def never(self) -> None:
        """Wait until the client has given up."""
        while not self.gone:
            await asyncio.sleep(0.05)


@attrs.frozen
class Answer:
    """What a request is answered; without a status the connection is dropped."""

    status: int = 0
    body: Any = None
    headers: dict[str, str] = attrs.field(factory=dict)
    then: Callable[[], object] = lambda: None


class HttpServer:
    """A small HTTP/1.1 server that stops listening, and listens again on the same port, at will."""

    def __init__(self, answer: Callable[[Request], Awaitable[Answer]]) -> None:
        self._answer = answer
        self._socket: socket.socket | None = listening()
        self._port = self._socket.getsockname()[1]
        self.url = f"http://{HOST}:{self._port}"
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen (again)."""
        self._socket = self._socket or socket.create_server((HOST, self._port), backlog=256)
        self._server = await asyncio.start_server(self._serve, sock=self._socket)

    def stop(self) -> None:
        """Refuse connections; those that are open stay so."""
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.close()
        self._server = self._socket = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                answer = await self._answer(await _request(reader))
                if not answer.status:
                    raise EOFError
                writer.write(_written(answer))
                await writer.drain()
                answer.then()
        except GONE:
            writer.transport.abort()
        except asyncio.CancelledError:
            pass  # The storm is over.
        finally:
            writer.close()


async def _request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    raw = await reader.readexactly(int(headers.get("content-length", "0")))
    path, _, asked = target.partition("?")
    query = dict(one.partition("=")[::2] for one in asked.split("&"))
    body = None
    with contextlib.suppress(ValueError):
        body = json.loads(raw)
    return Request(method, path, query, body, reader)


def _written(answer: Answer) -> bytes:
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    headers = {"Content-Type": "application/json", **answer.headers, "Content-Length": str(len(body))}
    lines = [f"HTTP/1.1 {answer.status} Storm", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body
