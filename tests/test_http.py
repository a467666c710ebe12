"""`videopoll._http` against real sockets: every transport gives the same answer to the same trouble."""

from __future__ import annotations

import asyncio
import functools
import gzip
import io
import itertools
import logging
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import TYPE_CHECKING, BinaryIO

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import videopoll
from kit import shut
from videopoll._http import NOT_JSON, FailureKind, Http, HttpFailure, HttpReply, HttpRequest, Part, retry_after_s, tls
from videopoll.errors import ConfigurationError
from videopoll.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OWN = ("threads", "asyncio over httpx", "asyncio over aiohttp")
GIVEN = ("threads with a client", "asyncio with a client", "asyncio with an aiohttp client")
SECRET = "s3cr3t-key"


class Server:
    """A TCP server that hands each connection to a function of the test."""

    def __init__(self, talk: Callable[[Server, socket.socket], None]) -> None:
        self._talk = talk
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.requests: list[bytes] = []
        self.over = threading.Event()
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def connections(self) -> int:
        return len(self._sockets)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._talk(self, connection)
        except OSError:
            pass  # The client hung up, which is often the point.
        finally:
            connection.close()

    def read_request(self, connection: socket.socket) -> bytes:
        """Read one request with its body; nothing when the client hung up."""
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = connection.recv(65536)
            if not chunk:
                return b""
            data += chunk
        head, body = data.split(b"\r\n\r\n", 1)
        length = next(
            (int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length")), 0
        )
        while len(body) < length:
            chunk = connection.recv(65536)
            if not chunk:
                return b""
            body += chunk
        request = head + b"\r\n\r\n" + body
        self.requests.append(request)
        return request

    def stop(self) -> None:
        self.over.set()
        shut(self._listener)
        # From here on no connection is added.
        self._accepting.join(5)
        for connection in self._sockets:
            shut(connection)
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers = []

    def start(talk: Callable[[Server, socket.socket], None]) -> Server:
        servers.append(Server(talk))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def response(body: bytes = b"{}", status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def answering(reply: bytes) -> Callable[[Server, socket.socket], None]:
    def talk(server: Server, connection: socket.socket) -> None:
        while server.read_request(connection):
            connection.sendall(reply)

    return talk


class World:
    """One of the transports, behind one way of calling it."""

    def __init__(self, name: str, headers: dict[str, str] | None = None) -> None:
        self.name = name
        self.headers = headers

    def run(
        self,
        *requests: HttpRequest,
        together: bool = False,
        may_send: Callable[[], bool] | None = None,
        **options: object,
    ) -> list[HttpReply | HttpFailure]:
        if self.name.startswith("asyncio"):
            return asyncio.run(self._arun(requests, together, may_send, options))
        if "client" in self.name:
            with httpx.Client(headers=self.headers, verify=False) as client:
                return self._run(Http(client=client, **options), requests, together, may_send)
        http = Http(**options)
        try:
            return self._run(http, requests, together, may_send)
        finally:
            http.close()

    @staticmethod
    def _run(http, requests, together, may_send):
        if not together:
            return [http.send(request, may_send=may_send) for request in requests]
        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(http.send, requests))

    async def _arun(self, requests, together, may_send, options):
        if "aiohttp" in self.name:
            pytest.importorskip("aiohttp")
        client = None
        if self.name == "asyncio with an aiohttp client":
            client = httpx.AsyncClient(
                transport=pytest.importorskip("httpx_aiohttp").AiohttpTransport(verify=False), headers=self.headers
            )
        elif "client" in self.name:
            client = httpx.AsyncClient(headers=self.headers, verify=False)
        transport = "aiohttp" if "over aiohttp" in self.name else "httpx"
        http = Http(async_client=client, transport=transport, **options)
        try:
            if together:
                return await asyncio.gather(*map(http.asend, requests))
            return [await http.asend(request, may_send=may_send) for request in requests]
        finally:
            await http.aclose()
            if client:
                await client.aclose()


@pytest.fixture(params=[*OWN, *GIVEN])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


@pytest.fixture(params=OWN)
def own_world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def get(url: str, timeout_s: float = 10.0, **more: object) -> HttpRequest:
    return HttpRequest(method="GET", url=url, timeout_s=timeout_s, **more)


def failure(result: HttpReply | HttpFailure) -> HttpFailure:
    assert isinstance(result, HttpFailure), result
    return result


def test_a_reply_arrives_whole(world, serve):
    """The plain case: status, headers by lower-case name, and the body."""
    server = serve(answering(response(b'{"a": 1}', "201 Created", X_Thing="One")))
    [reply] = world.run(get(f"{server.url}/job/a%2Fb?x=%20", headers={"X-API-Key": SECRET}))
    assert isinstance(reply, HttpReply)
    assert (reply.status, reply.headers["x-thing"], reply.json()) == (201, "One", {"a": 1})
    head = server.requests[0].lower()
    assert server.requests[0].startswith(b"GET /job/a%2Fb?x=%20 HTTP/1.1\r\n")
    assert b"x-api-key: " + SECRET.encode() in head
    assert b"accept-encoding: identity\r\n" in head
    assert f"host: 127.0.0.1:{server.port}\r\n".encode() in head


@pytest.mark.parametrize(
    ("body", "kind", "sent"),
    [
        ({"json": {"a": "é"}}, b"application/json", b'{"a": "\\u00e9"}'),
        ({"form": {"a": "é &"}}, b"application/x-www-form-urlencoded", b"a=%C3%A9+%26"),
        ({"content": b"raw"}, b"", b"raw"),
        ({}, b"", b""),
    ],
)
def test_a_body_is_sent_once_and_whole(world, serve, body, kind, sent):
    """A message is a POST: its bytes must be the same whichever transport carries it."""
    server = serve(answering(response()))
    [reply] = world.run(HttpRequest(method="POST", url=server.url, timeout_s=10, **body))
    assert isinstance(reply, HttpReply)
    assert len(server.requests) == 1
    head, received = server.requests[0].split(b"\r\n\r\n", 1)
    assert received == sent
    assert b"content-type: " + kind in head.lower() or not kind
    assert b"content-length: %d" % len(sent) in head.lower()


def test_the_size_of_a_file_can_be_asked_for_with_head(world, serve):
    """The headers of a HEAD describe a body that does not come: they are no reason to refuse the reply."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 15000000\r\nContent-Encoding: gzip\r\n\r\n"
    server = serve(answering(head))
    [reply] = world.run(HttpRequest(method="HEAD", url=server.url, timeout_s=10))
    assert isinstance(reply, HttpReply)
    assert (reply.headers["content-length"], reply.body) == ("15000000", b"")


def test_a_redirect_is_not_followed_and_the_key_stays_here(world, serve):
    """A redirect to another host would carry the key there."""
    other = serve(answering(response()))
    server = serve(answering(response(b"", "302 Found", Location=f"{other.url}/elsewhere")))
    [reply] = world.run(get(server.url, headers={"X-API-Key": SECRET}))
    assert isinstance(reply, HttpReply)
    assert reply.status == 302
    assert other.connections == 0


def test_a_refused_connection_proves_that_nothing_was_sent(world):
    """Only then may a message be sent again without asking whether it arrived."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        [result] = world.run(get(f"http://127.0.0.1:{unused.getsockname()[1]}/{SECRET}"))
    assert failure(result).kind is FailureKind.CONNECT
    assert failure(result).surely_not_sent


def test_a_tls_handshake_that_fails_proves_that_nothing_was_sent(world, serve):
    """A server that speaks no TLS never saw the request inside of it."""
    server = serve(lambda server, connection: (connection.recv(1000), connection.sendall(b"HTTP/1.1 400 No\r\n\r\n")))
    [result] = world.run(get(server.url.replace("http", "https")))
    assert failure(result).kind is FailureKind.CONNECT
    assert failure(result).surely_not_sent


def test_a_tls_handshake_that_hangs_proves_that_nothing_was_sent(own_world, serve):
    """The same while the handshake takes up all the time."""
    server = serve(lambda server, connection: server.over.wait(20))
    [result] = own_world.run(get(server.url.replace("http", "https"), timeout_s=0.3))
    assert failure(result).kind is FailureKind.CONNECT_TIMEOUT
    assert failure(result).surely_not_sent


@pytest.mark.parametrize(
    "part", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", b"?\r\n\r\n"]
)
def test_a_connection_that_is_dropped_after_the_request_proves_nothing(world, serve, part):
    """The request may have been acted upon: to call it unsent would send a message twice."""

    def talk(server: Server, connection: socket.socket) -> None:
        server.read_request(connection)
        connection.sendall(part)

    server = serve(talk)
    [result] = world.run(HttpRequest(method="POST", url=server.url, json={}, timeout_s=10))
    assert failure(result).kind is FailureKind.BROKEN
    assert not failure(result).surely_not_sent
    assert len(server.requests) == 1


def post(url: str) -> HttpRequest:
    return HttpRequest(method="POST", url=url, json={"a": 1}, timeout_s=10)


def test_a_request_that_may_go_out_goes_out_once_and_whole(world, serve):
    """Whoever asks before each write changes nothing in what is written, on a new connection or a kept one."""
    server = serve(answering(response()))

    replies = world.run(post(server.url), post(server.url), may_send=lambda: True)

    assert [reply.status for reply in replies] == [200, 200]
    assert [request.rpartition(b"\r\n\r\n")[2] for request in server.requests] == [b'{"a": 1}'] * 2
    assert all(b"chunked" not in request.lower() for request in server.requests)


def test_a_request_that_becomes_too_late_while_it_connects_is_not_sent(world, serve, monkeypatch):
    """A worker may stand still in the look-up of a name, or while it connects: the question comes after that."""
    if world.name == "asyncio with an aiohttp client":
        pytest.skip("httpx-aiohttp does not tell when it has connected")
    late = threading.Event()
    look_up = socket.getaddrinfo

    def slow(*where, **how):
        late.set()
        return look_up(*where, **how)

    monkeypatch.setattr("socket.getaddrinfo", slow)
    server = serve(answering(response()))

    [result] = world.run(post(f"http://localhost:{server.port}"), may_send=lambda: not late.is_set())

    assert failure(result).kind is FailureKind.TOO_LATE
    assert failure(result).surely_not_sent
    assert late.is_set()
    assert not server.requests


def test_a_request_that_is_too_late_is_not_sent_on_a_kept_connection_either(world, serve):
    """There is nothing to connect, and the question comes all the same; the next request finds all in order."""
    server = serve(answering(response()))
    answers = iter([True] * WRITES[world.name] + [False] + [True] * 9)

    replies = world.run(*[post(server.url)] * 3, may_send=lambda: next(answers))

    assert failure(replies[1]).kind is FailureKind.TOO_LATE
    assert [reply.status for reply in replies[::2]] == [200, 200]
    assert len(server.requests) == 2


WRITES = {
    "threads": 2,
    "asyncio over httpx": 2,
    "asyncio over aiohttp": 2,
    "threads with a client": 3,
    "asyncio with a client": 3,
    "asyncio with an aiohttp client": 1,
}
"""How often each transport asks about one request: before all, before the headers, before the body.

httpx-aiohttp takes the body as it is and tells of nothing: there is no later moment to ask at.
"""


def test_a_server_that_never_answers_is_given_up_in_time(world, serve):
    """The request may have arrived, so this is no connect timeout."""
    server = serve(lambda server, connection: server.over.wait(20))
    started = time.monotonic()
    [result] = world.run(get(server.url, timeout_s=0.3))
    assert failure(result).kind is FailureKind.TIMEOUT
    assert not failure(result).surely_not_sent
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"])
def test_a_dripping_server_cannot_stretch_the_time(own_world, serve, head):
    """Each byte comes soon enough for a limit of single reads; only the total ends it."""
    server = serve(dripping(head))
    started = time.monotonic()
    [result] = own_world.run(get(server.url, timeout_s=0.3))
    assert failure(result).kind is FailureKind.TIMEOUT
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("name", GIVEN)
def test_a_dripping_body_cannot_stretch_the_time_of_a_given_client(serve, name):
    """httpx limits single reads only, so the time is looked at between them."""
    server = serve(dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"))
    started = time.monotonic()
    [result] = World(name).run(get(server.url, timeout_s=0.3))
    assert failure(result).kind is FailureKind.TIMEOUT
    assert time.monotonic() - started < 3


def dripping(head: bytes) -> Callable[[Server, socket.socket], None]:
    def talk(server: Server, connection: socket.socket) -> None:
        server.read_request(connection)
        connection.sendall(head)
        while not server.over.wait(0.02):
            connection.sendall(b"x")

    return talk


@pytest.mark.parametrize("length", ["Content-Length: 10000000\r\n", ""])
def test_a_huge_reply_is_refused_before_it_is_in_memory(world, serve, length):
    """Ten megabytes a poll, times a hundred polls, would end the process."""
    sent = []

    def talk(server: Server, connection: socket.socket) -> None:
        server.read_request(connection)
        connection.sendall(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode())
        for _ in range(160):
            connection.sendall(b"x" * 65536)
            sent.append(65536)

    server = serve(talk)
    [result] = world.run(get(server.url), max_reply_bytes=100_000)
    assert failure(result).kind is FailureKind.TOO_LARGE
    server.stop()
    assert sum(sent) < 10_000_000


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(b'{"a": 1}'), "gzip"),
        (gzip.compress(b'{"a": 1}'), "X-GZIP"),
        (zlib.compress(b'{"a": 1}'), "deflate"),
        (zlib.compress(b'{"a": 1}', wbits=-15), "deflate"),
        (gzip.compress(gzip.compress(b'{"a": 1}')), "gzip, gzip"),
        (b'{"a": 1}', "identity"),
        (b"", "gzip"),
    ],
    ids=["gzip", "x-gzip", "zlib", "bare deflate", "twice", "not at all", "nothing"],
)
def test_a_reply_that_was_packed_unasked_is_read(world, serve, body, encoding):
    """Some servers and proxies pack whatever they send; a video that was paid for must not be lost to that."""
    server = serve(answering(response(body, Content_Encoding=encoding)))
    [reply] = world.run(get(server.url))
    assert isinstance(reply, HttpReply), reply
    assert reply.json() == ({"a": 1} if body else NOT_JSON)


@functools.cache
def bomb():
    """Give what unpacks to 100 MB. That takes a second: not before it is wanted."""
    return gzip.compress(b"0" * 100_000_000)


@pytest.mark.parametrize(
    ("body", "encoding", "kind"),
    [
        (bomb, "gzip", FailureKind.TOO_LARGE),
        (lambda: gzip.compress(bomb()), "gzip, gzip", FailureKind.TOO_LARGE),
        (b"no gzip", "gzip", FailureKind.UNREADABLE),
        (b"\x0b", "br", FailureKind.UNREADABLE),
        (b"?", "gzip, gzip, gzip", FailureKind.UNREADABLE),
    ],
    ids=["bomb", "bomb in a bomb", "no gzip", "brotli", "three times"],
)
def test_a_packed_reply_does_not_unpack_to_gigabytes(world, serve, body, encoding, kind):
    """A few kilobytes can."""
    packed = body() if callable(body) else body
    server = serve(answering(response(packed, Content_Encoding=encoding)))
    [result] = world.run(get(server.url))
    assert failure(result).kind is kind


def test_every_request_names_videopoll_and_its_version(own_world, serve):
    """A firewall's owner can let it through by that name, or find it in a log."""
    server = serve(answering(response()))
    own_world.run(get(server.url))
    assert f"\r\nuser-agent: videopoll/{videopoll.__version__}\r\n".encode() in server.requests[0].lower()


@pytest.mark.parametrize("name", GIVEN)
def test_a_client_of_the_host_may_have_a_name_of_its_own(serve, name):
    """It was chosen by somebody; a client without one says ours."""
    server = serve(answering(response()))
    World(name).run(get(server.url))
    World(name, {"User-Agent": "agent-of-the-host/2"}).run(get(server.url))
    World(name, {"User-Agent": "agent-of-the-host/2"}).run(get(server.url, headers={"User-Agent": "request/3"}))
    agents = [line for one in server.requests for line in one.split(b"\r\n") if line.lower().startswith(b"user-agent")]
    assert [agent.partition(b": ")[2] for agent in agents] == [
        f"videopoll/{videopoll.__version__}".encode(),
        b"agent-of-the-host/2",
        b"request/3",
    ]


def test_connections_are_reused_one_after_the_other(own_world, serve):
    """A handshake for each poll would cost more than the poll."""
    server = serve(answering(response()))
    results = own_world.run(*[get(server.url)] * 10)
    assert all(isinstance(result, HttpReply) for result in results)
    assert server.connections == 1


def test_many_requests_share_a_bounded_number_of_connections(own_world, serve):
    """The API's limit on connections is respected, and nobody goes without an answer."""
    server = serve(answering(response()))
    results = own_world.run(*[get(server.url)] * 40, together=True, max_connections=4)
    assert all(isinstance(result, HttpReply) for result in results)
    assert server.connections <= 4


def test_one_connection_serves_several_hosts_in_turn(own_world, serve):
    """An idle connection to another host must give way, not block."""
    servers = [serve(answering(response(str(number).encode()))) for number in range(3)]
    results = own_world.run(*[get(server.url) for server in servers * 2], max_connections=1)
    assert [result.body for result in results] == [b"0", b"1", b"2"] * 2


def test_waiting_for_a_connection_counts_and_proves_that_nothing_was_sent(own_world, serve):
    """A full pool is no fault of the server: what waited may safely go again."""
    server = serve(lambda server, connection: (server.read_request(connection), server.over.wait(20)))
    # Whoever comes first holds the only connection until its time is up, which for most of them is soon.
    requests = [get(server.url, timeout_s=timeout_s) for timeout_s in (1.0, 0.3, 0.3)]
    results = own_world.run(*requests, together=True, max_connections=1)
    kinds = [failure(result).kind for result in results]
    assert FailureKind.POOL_TIMEOUT in kinds
    assert all(result.surely_not_sent for result in results if result.kind is FailureKind.POOL_TIMEOUT)
    assert len(server.requests) <= kinds.count(FailureKind.TIMEOUT)


def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again(own_world, serve):
    """Servers close idle connections after some seconds; that must not fail the next poll."""

    def talk(server: Server, connection: socket.socket) -> None:
        server.read_request(connection)
        connection.sendall(response())

    server = serve(talk)
    post = HttpRequest(method="POST", url=server.url, json={}, timeout_s=10)

    def closed(sent: int) -> None:
        # The reply may be here before the server has noted the thread that sent it.
        wait_until(lambda: len(server._threads) == sent, describe="the server has noted the connection")
        for thread in server._threads:
            thread.join(5)

    if own_world.name == "threads":
        http = Http()
        for sent in range(1, 4):
            assert isinstance(http.send(post), HttpReply)
            closed(sent)
        http.close()
    else:
        transport = "aiohttp" if "aiohttp" in own_world.name else "httpx"
        pytest.importorskip(transport)

        async def main() -> None:
            http = Http(transport=transport)
            for sent in range(1, 4):
                assert isinstance(await http.asend(post), HttpReply)
                await asyncio.to_thread(closed, sent)
                for _ in range(3):
                    # The loop looks at its sockets after it has called us.
                    await asyncio.sleep(0)
            await http.aclose()

        asyncio.run(main())
    assert server.connections == 3


def test_an_http_object_works_again_after_it_was_closed(serve):
    """A host may stop and start its worker with the same parts, on another event loop."""
    server = serve(answering(response()))
    http = Http(transport="httpx")
    for _ in range(2):
        assert isinstance(http.send(get(server.url)), HttpReply)
        http.close()

        async def main() -> None:
            assert isinstance(await http.asend(get(server.url)), HttpReply)
            await http.aclose()

        asyncio.run(main())
    assert server.connections == 4


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_a_cancelled_request_gives_its_place_back(serve, transport):
    """A worker that shuts down cancels its polls; the places must not leak away."""
    pytest.importorskip(transport)
    server = serve(lambda server, connection: server.over.wait(20))

    async def main() -> None:
        http = Http(transport=transport, max_connections=1)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await http.asend(get(server.url))
        assert failure(await http.asend(get(server.url, timeout_s=0.2))).kind is FailureKind.TIMEOUT
        await http.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "request_",
    [
        get("ftp://127.0.0.1/"),
        get("http:///path"),
        get("http://127.0.0.1:99999/"),
        get("http://127.0.0.1/a b"),
        get("http://127.0.0.1/\r\nX: y"),
        get("http://user:word@127.0.0.1/"),
        get("http://bücher.example/"),
        get("http://api..example/"),
        get(f"http://{'a' * 64}.example/"),
        get("nonsense"),
        get("http://127.0.0.1/", headers={"X": "a\r\nY: b"}),
        get("http://127.0.0.1/", headers={"X\n": "a"}),
        get("http://127.0.0.1/", json=float("nan")),
        get("http://127.0.0.1/", json=object()),
        get("http://127.0.0.1/", json={}, content=b""),
        get("http://127.0.0.1/", form={"a": "\ud800"}),
    ],
    ids=repr,
)
def test_a_request_that_cannot_be_sent_is_a_value_too(world, request_):
    """Hostile ids and texts end up in requests: none of them may raise, or slip a header in."""
    [result] = world.run(request_)
    assert failure(result).kind is FailureKind.INVALID
    assert failure(result).surely_not_sent


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
def test_a_request_without_time_is_not_sent(world, serve, timeout_s):
    """At a deadline the time that is left may be nothing."""
    server = serve(answering(response()))
    [result] = world.run(get(server.url, timeout_s=timeout_s))
    assert failure(result).surely_not_sent
    assert server.connections == 0


def test_proxies_of_the_environment_are_used(own_world, serve, monkeypatch):
    """In many networks the proxy is the only way out."""
    proxy = serve(answering(response(b'"proxied"')))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    [reply] = own_world.run(get("http://api.example.invalid/job/1"))
    assert reply.json() == "proxied"
    assert proxy.requests[0].startswith(b"GET http://api.example.invalid/job/1 HTTP/1.1")


def test_a_hook_that_reads_the_reply_first_does_no_harm(serve):
    """Hosts log replies in hooks of their clients; httpx then has no stream left."""
    server = serve(answering(response(b'{"a": 1}')))
    with httpx.Client(event_hooks={"response": [lambda reply: reply.read()]}) as client:
        assert Http(client=client).send(get(server.url)).json() == {"a": 1}

    async def main() -> None:
        async def read(reply: httpx.Response) -> None:
            await reply.aread()

        async with httpx.AsyncClient(event_hooks={"response": [read]}) as client:
            reply = await Http(async_client=client).asend(get(server.url))
            assert reply.json() == {"a": 1}

    asyncio.run(main())


def test_a_given_client_is_never_closed(serve):
    """It belongs to the host."""
    server = serve(answering(response()))
    with httpx.Client() as client:
        http = Http(client=client)
        http.send(get(server.url))
        http.close()
        assert not client.is_closed


def test_secrets_stay_out_of_every_repr(world, serve):
    """Reprs end up in logs and error trackers."""
    server = serve(lambda server, connection: (server.read_request(connection), None))
    request = HttpRequest(
        method="POST", url=f"{server.url}/{SECRET}", headers={"K": SECRET}, json={"token": SECRET}, timeout_s=5
    )
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = get(f"http://127.0.0.1:{unused.getsockname()[1]}/{SECRET}")
        results = world.run(request, refused, get(f"http://[{SECRET}/"))
    reply = HttpReply(status=200, headers={"k": SECRET}, body=SECRET.encode())
    assert SECRET not in repr([request, results, reply, Http()])


def telling(url: str) -> HttpRequest:
    """A request with a secret wherever one can be, to a server that gives it back."""
    return get(f"{url}/job?token={SECRET}", headers={"X-API-Key": SECRET, "Cookie": f"a={SECRET}"})


def echoing() -> Callable[[Server, socket.socket], None]:
    # Cookie jars of aiohttp tell the log of such a name.
    headers = {"Location": f"/?token={SECRET}", "X_Echo": SECRET, "Set_Cookie": f'"{SECRET}=b'}
    return answering(response(SECRET.encode(), "302 Found", **headers))


def test_secrets_stay_out_of_the_logs(world, serve, caplog):
    """httpx logs full URLs at INFO, httpcore the headers of replies at DEBUG: both end up in the host's logs."""
    caplog.set_level(logging.DEBUG)
    server, silent = serve(echoing()), serve(lambda server, connection: (server.read_request(connection), None))
    reply, _ = world.run(telling(server.url), telling(silent.url))
    assert isinstance(reply, HttpReply)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_secrets_stay_out_of_the_logs_on_the_way_through_a_proxy(own_world, serve, caplog, monkeypatch, level):
    """This way leads through an httpx client, too."""
    caplog.set_level(level)
    monkeypatch.setenv("HTTP_PROXY", serve(echoing()).url)
    [reply] = own_world.run(telling("http://api.example.invalid"))
    assert isinstance(reply, HttpReply)
    assert SECRET not in caplog.text


def test_what_a_host_sends_itself_is_logged_as_ever(serve, caplog):
    """Its client is ours for the time of a request only, in threads and among tasks."""
    caplog.set_level(logging.DEBUG)
    reached = threading.Event()
    server = serve(answering(response()))
    slow = serve(lambda server, connection: (server.read_request(connection), reached.set(), server.over.wait(20)))

    async def main() -> None:
        async with httpx.AsyncClient() as client:
            ours = asyncio.create_task(Http(async_client=client).asend(telling(slow.url)))
            await asyncio.to_thread(reached.wait, 20)
            await client.get(f"{server.url}/meanwhile")
            ours.cancel()
            await asyncio.wait([ours])
            await client.get(f"{server.url}/later")

    asyncio.run(main())
    with httpx.Client() as client:
        Http(client=client).send(telling(server.url))
        client.get(f"{server.url}/thread")
    logged = [record.getMessage() for record in caplog.records if (record.name, record.levelname) == ("httpx", "INFO")]
    assert [message.split("/")[3].split()[0] for message in logged] == ["meanwhile", "later", "thread"]
    assert "receive_response_headers.complete" in caplog.text
    assert SECRET not in caplog.text


def test_a_tls_context_is_made_once_and_only_for_https(own_world, serve):
    """Making one takes tens of milliseconds."""
    tls._make.cache_clear()
    own_world.run(get(serve(answering(response())).url))
    assert tls._make.cache_info().misses == 0
    no_tls = serve(lambda server, connection: connection.recv(1000)).url.replace("http", "https")
    for _ in range(2):
        own_world.run(get(no_tls), get(no_tls))
    assert tls._make.cache_info().misses == 1


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_httpx_is_loaded_for_those_who_send_only():
    """A web application that submits jobs need not wait for it."""
    code = "import sys; from videopoll import *; print({'httpx', 'httpcore', 'aiohttp'} & set(sys.modules))"

    assert python(code) == "set()"


def test_a_missing_httpcore_is_told_in_a_sentence():
    """It is no dependency of ours, and an httpx to come may do without it."""
    said = python(
        "import sys; sys.modules['httpcore'] = None\n"
        "from videopoll._http import Http\n"
        "from videopoll.errors import ConfigurationError\n"
        "try: Http()\n"
        "except ConfigurationError as error: print(error)"
    )
    assert said.startswith("videopoll needs httpcore")


def test_limits_that_cannot_work_are_refused():
    """A mistake in the configuration shows when the worker starts, not at the first poll."""
    for options in ({"max_connections": 0}, {"max_reply_bytes": 0}, {"transport": "carrier pigeon"}):
        with pytest.raises(ConfigurationError):
            Http(**options)


@given(st.binary() | st.sampled_from([b"[" * 100_000, b"9" * 5000, b"NaN", b'"\\ud800"', b"\xff\xfe"]))
def test_reading_json_never_raises(body):
    """Bodies are hostile: deep nesting and endless digits raise unusual errors in the parser."""
    reply = HttpReply(status=200, body=body)
    assert reply.json() is NOT_JSON or reply.json() == reply.json()


@given(st.text() | st.from_regex(r"\A[A-Za-z]{3}, \d+ [A-Za-z]{3} \d+ \d+:\d+:\d+ .{0,6}\Z"), st.floats(0, 1e10))
def test_any_retry_after_is_read_or_ignored(text, now_s):
    """The header is hostile too: a negative or infinite wait would stop a worker for good, or spin it."""
    wait_s = retry_after_s({"retry-after": text}, now_s)
    assert wait_s is None or 0 <= wait_s < float("inf")


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("120", 120.0),
        (" 0.5 ", 0.5),
        ("-1", None),
        ("1e9", None),
        ("inf", None),
        ("", None),
        (formatdate(1_000_030, usegmt=True), 30.0),
        (formatdate(999_000, usegmt=True), 0.0),
        ("Mon, 12 Jan 1970 13:47:10 -0000", 30.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text, wait_s):
    """Both forms are in use; a date in the past means now."""
    assert retry_after_s({"retry-after": text}, 1_000_000) == wait_s


@pytest.mark.parametrize(
    ("after_host", "target"),
    [("", "/"), ("?token=a/b", "/?token=a/b"), ("#part/of/it", "/"), ("/path?next=/a#part", "/path?next=/a")],
)
def test_what_is_asked_for_is_path_and_query_wherever_a_slash_stands(world, serve, after_host, target):
    """A query may have slashes, and a webhook's URL need not have a path."""
    server = serve(answering(response()))

    world.run(get(f"{server.url}{after_host}"))

    assert server.requests[0].split()[1] == target.encode()


# --- bodies of several parts, and addresses ---


def upload(url: str, file: BinaryIO, **more: object) -> HttpRequest:
    parts = [Part(name="to", content="añ"), Part(name="file", content=file, filename="v.mp4", media_type="video/mp4")]
    return HttpRequest(method="POST", url=url, parts=parts, timeout_s=5, **more)


def test_a_body_of_several_parts_is_sent_whole_with_its_length(world, serve):
    """Its file is read from the beginning, whoever read it before, and stays open."""
    server, file = serve(answering(response())), io.BytesIO(bytes(300_000) + b"end")
    file.seek(7)

    for may_send in (None, lambda: True):
        [reply] = world.run(upload(server.url, file), may_send=may_send)
        assert reply.status == 200
    for request in server.requests:
        head, _, body = request.partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}".encode() in head.lower()
        assert b"chunked" not in head.lower()
        boundary = re.search(rb"boundary=(\S+)", head)[1]
        assert body.startswith(
            b"--" + boundary + b'\r\nContent-Disposition: form-data; name="to"\r\n\r\n' + "añ".encode()
        )
        assert bytes(300_000) + b"end\r\n--" + boundary + b"--\r\n" in body
    assert not file.closed


def test_an_upload_that_breaks_off_half_way_was_surely_not_sent(world, serve):
    """No server acts on half a body; and a larger one than this would never go through at once."""

    def hang_up(server, connection):
        server.requests.append(connection.recv(1000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    server = serve(hang_up)
    [result] = world.run(upload(server.url, io.BytesIO(bytes(30_000_000))))

    assert failure(result).surely_not_sent
    assert len(server.requests) == 1


def test_an_upload_whose_reply_is_lost_may_have_been_sent(world, serve):
    def swallow(server, connection):
        server.read_request(connection)

    [result] = world.run(upload(serve(swallow).url, io.BytesIO(bytes(300_000))))

    assert not failure(result).surely_not_sent


def test_an_upload_stops_when_it_may_not_go_on(world, serve):
    """The lease ends in the middle: what has gone out is no request yet."""
    server, answers = serve(answering(response())), itertools.chain([True] * 6, itertools.repeat(False))
    [result] = world.run(upload(server.url, io.BytesIO(bytes(2_000_000))), may_send=lambda: next(answers))

    assert failure(result).kind is FailureKind.TOO_LATE
    server.stop()
    assert not any(request.endswith(b"--\r\n") for request in server.requests)


def test_a_file_that_becomes_shorter_is_a_failure_that_sent_nothing(world, serve):
    class Short(io.BytesIO):
        def read(self, size=-1):
            return b""

    [result] = world.run(upload(serve(answering(response())).url, Short(bytes(300_000))))
    assert failure(result).surely_not_sent


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_host_inside_is_not_asked_where_only_public_ones_may_be(world, serve, name):
    server = serve(answering(response()))
    url = server.url.replace("127.0.0.1", name)
    # A connection that somebody else has opened is no way around it.
    replies = world.run(get(url), get(url, public_only=True))

    assert replies[0].status == 200
    assert failure(replies[1]).kind is FailureKind.NOT_PUBLIC
    assert failure(replies[1]).surely_not_sent
    assert len(server.requests) == 1


def test_a_public_host_is_asked_as_ever(world, serve, monkeypatch):
    monkeypatch.setattr("videopoll._http.prepare.is_public_address", lambda address: address == "127.0.0.1")
    [reply] = world.run(get(serve(answering(response())).url, public_only=True))
    assert reply.status == 200
