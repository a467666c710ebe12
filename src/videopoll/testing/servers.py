"""What all fakes share: a real HTTP server, a log of requests, and programmed trouble.

A fake is an ordinary HTTP/1.1 server on 127.0.0.1. Nothing in videopoll, nor in
an HTTP library, is patched: connections are refused, dropped and kept alive as
they are in production.
"""

from __future__ import annotations

import json
import math
import re
import selectors
import socket
import sys
import threading
import time
import urllib.parse
from collections import deque
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, cast

import attrs
from typing_extensions import override

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import (
    check_choice,
    check_count,
    check_fields,
    check_kind,
    check_seconds,
    check_texts,
    quoted,
)
from videopoll.testing.embedded import unused_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Self, TypeAlias

    from videopoll.jobs.codec import JsonValue

    _Connection: TypeAlias = socket.socket | tuple[bytes, socket.socket]  # the base class serves UDP as well

__all__ = ["FakeServer", "ReceivedRequest", "Reply"]

_HOST = "127.0.0.1"

_MAX_BODY_BYTES = 32 * 1024 * 1024

_CLOSE_PATIENCE_S = 5.0

_BIND_TRIES = 5

_LEAST_STATUS, _MOST_STATUS = 200, 999
"""A reply below 200 is not the last one to its request, and clients wait on; three digits are all that HTTP has."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")

_MOST_PORT = 65_535

_NO_PATH = re.compile(r"\?[^/]*=|[{}]|^//")
"""A query, a place to fill in, a host. A path that is decoded may have a question mark, and hardly one with ``=`` after it."""


@attrs.frozen(kw_only=True)
class ReceivedRequest:
    """One request as it arrived.

    Args:
        at: When, by ``time.monotonic()``.
        method: Such as ``GET``.
        target: The path and query as they came, percent-encoding and all.
        path: The path alone, decoded.
        query: The query's fields; the last one wins.
        headers: The headers, with names in lower case.
        body: The fields of a JSON object or of a form; empty for anything else.
        raw: The body's bytes.
    """

    at: float
    method: str
    target: str
    path: str
    query: Mapping[str, str] = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: Mapping[str, JsonValue] = attrs.field(repr=False)
    raw: bytes = attrs.field(repr=False)


def _plain_status(status: int | None) -> int | None:
    return int(status) if isinstance(status, HTTPStatus) else status


@attrs.frozen(kw_only=True)
class Reply:
    """What a fake answers, and how badly.

    The class methods name the usual ones. A programmed reply comes *instead of*
    handling the request, unless it says `accept`: then the request takes effect
    first (the message is recorded, the generation starts), and only its answer
    is what the reply says.

    Args:
        status: The HTTP status, from 200 to 999; None gives the fake's normal answer.
        body: A JSON value, or bytes as they are.
        headers: Extra headers. A ``Content-Length`` stands in the place of the true one, and
            the connection ends after the body.
        delay_s: Seconds to wait before anything is sent.
        trickle_s: Seconds over which the body is spread, a few bytes at a time.
        drop: Close the connection without an answer.
        accept: Let the request take effect first.
        fill: Let `FakeVideoApi` add what it always says of a job: its id, the
            time, and a made-up URL if the job is completed. `json` sends exactly
            what it was given.
    """

    status: int | None = attrs.field(default=None, converter=_plain_status)
    body: JsonValue | bytes = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    delay_s: float = 0.0
    trickle_s: float = 0.0
    drop: bool = False
    accept: bool = False
    fill: bool = False

    def __attrs_post_init__(self) -> None:
        check_fields(self)
        if self.status is not None and not _LEAST_STATUS <= self.status <= _MOST_STATUS:
            msg = f"Reply.status must be from {_LEAST_STATUS} to {_MOST_STATUS}, got {quoted(self.status)}"
            raise ConfigurationError(msg)
        if not isinstance(self.body, bytes):
            try:
                json.dumps(self.body)
            except (TypeError, ValueError, RecursionError) as error:
                msg = f"Reply.body must be bytes, or what JSON can say ({type(error).__name__})"
                raise ConfigurationError(msg) from None

    @classmethod
    def json(cls, body: JsonValue, *, status: int = HTTPStatus.OK) -> Reply:
        """Answer with this JSON."""
        return cls(status=status, body=body)

    @classmethod
    def processing(cls, word: str = "processing") -> Reply:
        """Answer that the video is not finished, with this status word."""
        return cls(status=HTTPStatus.OK, body={"status": word}, fill=True)

    @classmethod
    def completed(cls, video_url: str | None = None, *, file_id: str | None = None) -> Reply:
        """Answer that the video is finished; without a URL, one is made up from the job's id."""
        body: dict[str, JsonValue] = {"status": "completed"}
        if video_url is not None:
            body["videoUrl"] = video_url
        if file_id is not None:
            body["fileId"] = file_id
        return cls(status=HTTPStatus.OK, body=body, fill=True)

    @classmethod
    def failed(cls, error: str = "content policy violation") -> Reply:
        """Answer that the generation failed."""
        return cls(status=HTTPStatus.OK, body={"status": "failed", "error": error}, fill=True)

    @classmethod
    def vanished(cls) -> Reply:
        """Answer that there is no such job: 404."""
        return cls.json({"error": "Job not found"}, status=HTTPStatus.NOT_FOUND)

    @classmethod
    def fault(cls, status: int = HTTPStatus.SERVICE_UNAVAILABLE, *, retry_after: str | float | None = None) -> Reply:
        """Answer with an error status, and with ``Retry-After`` as seconds or as an HTTP date."""
        reply = cls(status=status)
        reply = attrs.evolve(reply, body={"error": f"fault {reply.status}"})
        if retry_after is None:
            return reply
        if not isinstance(retry_after, str):
            check_seconds("Reply.fault.retry_after", retry_after)
        hint = retry_after if isinstance(retry_after, str) else f"{retry_after:g}"
        return attrs.evolve(reply, headers={"Retry-After": hint})

    @classmethod
    def hang(cls, seconds: float = 3600.0, *, accept: bool = False) -> Reply:
        """Stay silent for `seconds`, then close the connection."""
        return cls(delay_s=seconds, drop=True, accept=accept)

    @classmethod
    def slow(cls, seconds: float) -> Reply:
        """Send the normal answer after `seconds`."""
        return cls(delay_s=seconds, accept=True)

    @classmethod
    def drip(cls, seconds: float) -> Reply:
        """Start a JSON answer at once, and spread it over `seconds`."""
        return cls(status=HTTPStatus.OK, body={"status": "processing", "padding": "x" * 200}, trickle_s=seconds)

    @classmethod
    def dropped(cls, *, accept: bool = False) -> Reply:
        """Close the connection without an answer: before the request took effect, or after it."""
        return cls(drop=True, accept=accept)

    @classmethod
    def garbage(cls, body: bytes = b"<html>not what you asked for</html>", *, status: int = HTTPStatus.OK) -> Reply:
        """Answer with bytes that are no JSON."""
        return cls(status=status, body=body)

    @classmethod
    def redirect(cls, url: str, *, status: int = HTTPStatus.FOUND) -> Reply:
        """Send the client somewhere else."""
        return cls(status=status, headers={"Location": url})


def check_replies(replies: Iterable[Reply | None]) -> None:
    """Refuse what is neither a `Reply` nor None: a fake would fail in the middle of an answer.

    Raises:
        ConfigurationError: One is something else.
    """
    for reply in replies:
        if reply is not None:
            check_kind("a reply", reply, Reply)


@attrs.define
class _Trouble:
    """Replies that come instead of the normal answer, for the requests that match."""

    matches: Callable[[ReceivedRequest], bool]
    every: int  # 1 is each request, 2 each second one
    replies: Iterator[Reply]
    seen: int = 0


class FakeServer:
    """A small real HTTP server that answers as you say; the base of the fakes.

    ::

        with FakeServer() as server:
            server.route("GET", "/jobs/17", Reply.json({"state": "running"}), Reply.json({"state": "done"}))
            server.reply_with(Reply.fault(503))  # before that

    What answers a request, in this order:

    1. what `reply_with`, `fail_next` and `fail_every` programmed for it, the newest first; what is used up is passed over;
    2. the newest `route` of its method and path;
    3. what a fake like `FakeVideoApi` answers by itself;
    4. 404.

    Use it in a ``with`` statement, or call `start` and `stop`. After a `stop`
    connections are refused; a later `start` listens on the same port again, with
    everything remembered. All methods may be called from any thread.

    Args:
        port: The port on 127.0.0.1; None chooses a free one.
        latency_s: Seconds that every answer takes.
    """

    def __init__(self, *, port: int | None = None, latency_s: float = 0.0) -> None:
        self._lock = threading.RLock()
        self._port_is_ours_to_choose = port is None
        if port is not None:
            check_count(f"{type(self).__name__}.port", port)
            if port > _MOST_PORT:
                msg = f"{type(self).__name__}.port must be at most {_MOST_PORT}, got {quoted(port)}"
                raise ConfigurationError(msg)
        check_seconds(f"{type(self).__name__}.latency_s", latency_s, low=0)
        self._port = unused_port() if port is None else port
        self._latency_s = latency_s
        self._requests: list[ReceivedRequest] = []
        self._troubles: list[_Trouble] = []
        self._routes: dict[tuple[str, str], deque[Reply]] = {}
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "listening" if self._listener is not None else "stopped"
        return f"<{type(self).__name__} {self.url} {state} requests={len(self.requests)}>"

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"http://{_HOST}:{self._port}"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request so far, also those that met with programmed trouble."""
        with self._lock:
            return list(self._requests)

    def start(self) -> None:
        """Start to listen; does nothing if it listens already."""
        with self._lock:
            if self._listener is not None:
                return
            self._listener = self._bind()
            self._thread = threading.Thread(target=self._listener.serve, name=type(self).__name__, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop listening and cut every connection; does nothing if it does not listen."""
        with self._lock:
            listener, self._listener = self._listener, None
            thread, self._thread = self._thread, None
        if listener is not None and thread is not None:
            listener.wake()
            thread.join()
            listener.server_close()
            listener.cut_connections()

    def route(self, method: str, path: str, *replies: Reply) -> None:
        """Answer a path from now on; a second call for it replaces the first.

        Args:
            method: Such as ``GET``.
            path: The whole path, decoded, e.g. ``/jobs/17``. A request may have a query behind it; see `requests`.
            replies: What to answer, in this order; the last one is repeated.

        Raises:
            ConfigurationError: There is no reply, no such method, or no request can have this path.
        """
        check_texts("route", method=method or "", path=path or "")
        check_choice("route.method", method.upper(), *METHODS)
        if not path.startswith("/") or _NO_PATH.search(path):
            msg = (
                f"route.path must be a whole path such as /jobs/17, without a host, a query or a place to fill in, got"
                f" {quoted(path, text=True)}"
            )
            raise ConfigurationError(msg)
        if not replies:
            msg = f"route needs at least one Reply for {method} {path}"
            raise ConfigurationError(msg)
        check_replies(replies)
        with self._lock:
            self._routes[method.upper(), path] = deque(replies)

    def reply_with(
        self, *replies: Reply, path: str = "", when: Callable[[ReceivedRequest], bool] | None = None
    ) -> None:
        """Answer the next requests that match with these replies, one each.

        Args:
            replies: What to answer, in this order.
            path: Only requests whose path contains this.
            when: Only requests of which this is true.

        Raises:
            ConfigurationError: There is no reply.
        """
        if not replies:
            msg = "at least one Reply is needed: hand in what to answer"
            raise ConfigurationError(msg)
        check_replies(replies)
        self._add_trouble(iter(replies), every=1, path=path, when=when)

    def fail_next(self, *replies: Reply, path: str = "", when: Callable[[ReceivedRequest], bool] | None = None) -> None:
        """Do the same as `reply_with`, where the replies are faults."""
        self.reply_with(*replies, path=path, when=when)

    def fail_every(
        self, nth: int, reply: Reply, *, path: str = "", when: Callable[[ReceivedRequest], bool] | None = None
    ) -> None:
        """Answer each n-th request that matches with this reply, until `heal`.

        Args:
            nth: 1 for every request, 2 for each second one.
            reply: What to answer.
            path: Only requests whose path contains this.
            when: Only requests of which this is true.

        Raises:
            ConfigurationError: `nth` is less than 1.
        """
        check_count("fail_every.nth", nth)
        check_replies([reply])
        self._add_trouble(iter(lambda: reply, None), every=nth, path=path, when=when)

    def heal(self) -> None:
        """Forget all programmed trouble."""
        with self._lock:
            self._troubles.clear()

    def _bind(self) -> _Listener:
        for _ in range(_BIND_TRIES if self._port_is_ours_to_choose else 0):
            try:
                listener = _Listener(self._port, self)
            except OSError:  # another process was faster
                self._port = unused_port()
            else:
                self._port_is_ours_to_choose = False  # a later start is on the same one
                return listener
        try:
            return _Listener(self._port, self)
        except OSError as error:
            msg = f"{type(self).__name__}.port {self._port} cannot be listened on: {error.strerror}; None chooses a free one"
            raise OSError(error.errno, msg) from None

    def _add_trouble(
        self, replies: Iterator[Reply], *, every: int, path: str, when: Callable[[ReceivedRequest], bool] | None
    ) -> None:
        def matches(request: ReceivedRequest) -> bool:
            return path in request.path and (when is None or when(request))

        with self._lock:
            self._troubles.append(_Trouble(matches, every, replies))

    def _handle(self, request: ReceivedRequest) -> Reply:
        """Return the normal answer. Called with the lock held; the fakes override it."""
        return Reply.json({"error": f"nothing answers {request.method} {request.path}"}, status=HTTPStatus.NOT_FOUND)

    def _normal(self, request: ReceivedRequest) -> Reply:
        route = self._routes.get((request.method, request.path))
        if route is None:
            return self._handle(request)
        return route.popleft() if len(route) > 1 else route[0]

    def _receive(self, request: ReceivedRequest) -> Reply:
        """Log a request and find its answer."""
        with self._lock:
            self._requests.append(request)
            trouble = self._trouble_for(request)
            if trouble is None:
                reply = self._normal(request)
            elif trouble.accept:
                normal = self._normal(request)
                reply = trouble if trouble.status is not None or trouble.drop else _late(normal, trouble)
            else:
                reply = trouble
        return attrs.evolve(reply, delay_s=reply.delay_s + self._latency_s)

    def _trouble_for(self, request: ReceivedRequest) -> Reply | None:
        # The newest goes first, so that a test can lay a single fault over a lasting one.
        for trouble in reversed(self._troubles):
            if not trouble.matches(request):
                continue
            trouble.seen += 1
            if trouble.seen % trouble.every == 0:
                reply = next(trouble.replies, None)
                if reply is not None:
                    return reply
        return None


def _late(normal: Reply, trouble: Reply) -> Reply:
    return attrs.evolve(normal, delay_s=normal.delay_s + trouble.delay_s, trickle_s=trouble.trickle_s)


class _Listener(ThreadingHTTPServer):
    """The socket of one fake, and the connections that came in through it."""

    daemon_threads = True
    request_queue_size = 1024
    timeout = 0

    def __init__(self, port: int, fake: FakeServer) -> None:
        self.fake = fake
        self._waking, self._woken = socket.socketpair()
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__((_HOST, port), _Handler)

    def serve(self) -> None:
        """Take connections until somebody calls `wake`; unlike `shutdown`, that is noticed at once."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ, "wake")
            while all(key.data is None for key, _ in selector.select()):
                self.handle_request()

    def wake(self) -> None:
        """End `serve`."""
        self._waking.close()

    @override
    def server_close(self) -> None:
        """Close the socket."""
        super().server_close()
        self._waking.close()
        self._woken.close()

    @override
    def server_bind(self) -> None:
        """Bind without the look-up of the host's name, which may be slow."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)

    @override
    def process_request(self, request: _Connection, client_address: object) -> None:
        """Serve a connection in a thread of its own, and remember it."""
        with self._changed:
            self._connections.add(cast("socket.socket", request))
        super().process_request(request, client_address)

    @override
    def shutdown_request(self, request: _Connection) -> None:
        """Close a connection, and forget it."""
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(cast("socket.socket", request))
            self._changed.notify_all()

    def cut_connections(self) -> None:
        """Close what is open, and wait until its threads are gone."""
        self.stopping.set()
        with self._changed:
            for connection in self._connections:
                _shut(connection)
            self._changed.wait_for(lambda: not self._connections, _CLOSE_PATIENCE_S)

    @override
    def handle_error(self, request: _Connection, client_address: object) -> None:
        """Keep quiet about a client that goes away in the middle: it is what the fakes are for."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024
    server: _Listener  # pyright: ignore[reportIncompatibleVariableOverride]  # it is always ours

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: the requests are in the fake's own log."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"\d{1,9}", length) or int(length) > _MAX_BODY_BYTES:
            self.close_connection = True
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return
        raw = self.rfile.read(int(length))
        if len(raw) < int(length):
            self.close_connection = True
            return
        self._answer(self.server.fake._receive(self._read(raw)))  # noqa: SLF001 - the two are halves of one thing

    def _read(self, raw: bytes) -> ReceivedRequest:
        parts = urllib.parse.urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        return ReceivedRequest(
            at=time.monotonic(),
            method=self.command,
            target=self.path,
            path=urllib.parse.unquote(parts.path),
            query=dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True)),
            headers=headers,
            body=_fields(raw, headers.get("content-type", "")),
            raw=raw,
        )

    def _answer(self, reply: Reply) -> None:
        if reply.delay_s > 0:
            self.server.stopping.wait(reply.delay_s)
        if reply.drop or self.server.stopping.is_set():
            self.close_connection = True
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body, ensure_ascii=False).encode()
        self.send_response(reply.status if reply.status is not None else HTTPStatus.OK)
        if not isinstance(reply.body, bytes):
            self.send_header("Content-Type", "application/json; charset=utf-8")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if any(name.lower() == "content-length" for name in reply.headers):
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if reply.trickle_s > 0:
            self._trickle(body, reply.trickle_s)
        else:
            self.wfile.write(body)

    def _trickle(self, body: bytes, seconds: float) -> None:
        pauses = max(1, min(len(body) - 1, math.ceil(seconds / 0.1)))
        for step in range(pauses + 1):
            if step and self.server.stopping.wait(seconds / pauses):
                return
            self.wfile.write(body[len(body) * step // (pauses + 1) : len(body) * (step + 1) // (pauses + 1)])
            self.wfile.flush()


def _fields(raw: bytes, content_type: str) -> dict[str, JsonValue]:
    """Read a JSON object or a form; anything else has no fields."""
    try:
        if content_type.startswith("application/x-www-form-urlencoded"):
            return dict(urllib.parse.parse_qsl(raw.decode(), keep_blank_values=True))
        value = json.loads(raw) if raw else {}
    except ValueError:
        return {}
    return cast("dict[str, JsonValue]", value) if isinstance(value, dict) else {}


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it closed by itself
