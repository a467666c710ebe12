"""HTTP exchanges as values, and the two executors that carry them out.

An exchange is described once, as an `HttpRequest`, and comes back as an
`HttpReply` or an `HttpFailure`; nothing that a network or a server can do raises
an exception. `Http.send` is the executor for threads, `Http.asend` the one for
asyncio. Both follow no redirect, read a reply up to a size limit, ask for no
compression and accept none, and end within the request's total time.

httpx's connection pools slow down with the square of their connections, so our
own side keeps single connections (of httpcore, the layer under httpx) on a
last-in-first-out shelf, or uses aiohttp under asyncio where it is installed. A
host that needs its own proxies, certificates or hooks hands in an httpx client.
Proxies of the environment (``HTTPS_PROXY`` ...) are honoured too, by a plain
httpx client, which is slower.
"""

from __future__ import annotations

import asyncio
import email.utils
import enum
import functools
import importlib.metadata
import json as jsonlib
import math
import os
import re
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Final, Generic, Literal, Protocol, TypeAlias, TypeGuard, TypeVar, cast
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies

import attrs
import httpcore
import httpx

from videopoll.errors import ConfigurationError
from videopoll.jobs import JsonValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
    from types import SimpleNamespace
    from typing import NoReturn

__all__ = ["NOT_JSON", "FailureKind", "Http", "HttpFailure", "HttpReply", "HttpRequest", "NotJson", "retry_after_s"]

KEEP_ALIVE_S = 4.0
"""How long an idle connection is kept: less than the 5 s after which many servers (Node, Apache, uvicorn) close it,
so that a message is hardly ever sent into a connection that is just being closed."""

CONNECT_SHARE = 0.9
"""The part of the time that a host's asyncio client may spend before the request goes out: its connect timeout must
come before the end of the total time, or a request that surely was not sent looks like one that may have been."""

MAX_TIMEOUT_S = 86_400.0
"""The longest time for a request; sockets do not take any float."""


class FailureKind(enum.StrEnum):
    """Why an exchange gave no reply."""

    CONNECT = "connect"
    """Refused, unreachable, unresolvable, or no TLS: the request was not sent."""
    CONNECT_TIMEOUT = "connect_timeout"
    """No connection within the time: the request was not sent."""
    POOL_TIMEOUT = "pool_timeout"
    """All connections were in use for the whole time: the request was not sent."""
    TIMEOUT = "timeout"
    """No full reply within the time: the request may have arrived."""
    BROKEN = "broken"
    """The connection broke, or what came back was not HTTP: the request may have arrived."""
    TOO_LARGE = "too_large"
    """The reply is larger than the limit."""
    UNREADABLE = "unreadable"
    """The reply is compressed or encoded, which we did not ask for."""
    INVALID = "invalid"
    """The request itself cannot be sent: its URL, a header or the body is unusable."""


_NOT_SENT = frozenset({FailureKind.CONNECT, FailureKind.CONNECT_TIMEOUT, FailureKind.POOL_TIMEOUT, FailureKind.INVALID})


class NotJson(enum.Enum):
    """The type of `NOT_JSON`."""

    NOT_JSON = "not JSON"


NOT_JSON: Final = NotJson.NOT_JSON
"""What `HttpReply.json` gives for a body that is no JSON (None is JSON's ``null``)."""


@attrs.frozen(kw_only=True)
class HttpRequest:
    """One request. The URL, the headers and the body stay out of ``repr``: they may hold secrets.

    Args:
        method: ``GET``, ``HEAD``, ``POST`` ...
        url: Absolute, http or https, already percent-encoded, without credentials.
        headers: Sent as they are, besides ``Host``, ``User-Agent``, ``Accept-Encoding``
            and those of the body, which are added where they are missing.
        timeout_s: Seconds for the whole exchange, from waiting for a connection
            to the last byte of the reply.
        json: A body to send as JSON. At most one of `json`, `form` and `content` may be given.
        form: A body to send as a form.
        content: A body to send as it is.
    """

    method: str
    url: str = attrs.field(repr=False)
    timeout_s: float
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    json: object | None = attrs.field(default=None, repr=False)
    form: Mapping[str, str] | None = attrs.field(default=None, repr=False)
    content: bytes | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class HttpReply:
    """One reply, complete.

    Args:
        status: The HTTP status.
        headers: By lower-case name; a repeated one is joined with commas.
        body: The bytes as they came; empty for ``HEAD``.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes = attrs.field(default=b"", repr=False)

    def json(self) -> JsonValue | NotJson:
        """Read the body as JSON; `NOT_JSON` if it is none. Never raises."""
        try:
            return cast("JsonValue", jsonlib.loads(self.body, parse_constant=_refuse_constant))
        except (ValueError, RecursionError):
            return NOT_JSON


@attrs.frozen(kw_only=True)
class HttpFailure:
    """No reply, and why.

    Args:
        kind: What sort of failure.
        detail: What happened, for the operator: no URL, no secrets.
    """

    kind: FailureKind
    detail: str

    @property
    def surely_not_sent(self) -> bool:
        """Whether the server surely never saw the request, so that sending it again cannot do it twice."""
        return self.kind in _NOT_SENT


_Result: TypeAlias = HttpReply | HttpFailure


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(text)


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """Read ``Retry-After`` from lower-case `headers`: seconds to wait, finite and not negative; None without one.

    Args:
        headers: As in `HttpReply.headers`.
        now_s: The time in Unix seconds, which an HTTP date is compared with.
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{0,9})?", text):
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
        if when.tzinfo is None:  # "-0000", or no zone at all: HTTP dates are in UTC.
            when = when.replace(tzinfo=UTC)
        wait_s = when.timestamp() - now_s
    except (ValueError, TypeError, IndexError, OverflowError, AttributeError):
        return None
    return max(0.0, wait_s) if math.isfinite(wait_s) else None


@attrs.define(eq=False)
class _Wire:
    """A checked request on its way, and how far it has come."""

    request: HttpRequest
    origin: tuple[str, str, int]
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    max_bytes: int
    deadline_s: float
    # What it means if the time is up, or an error comes, at this point.
    late: FailureKind = FailureKind.POOL_TIMEOUT

    def remaining_s(self) -> float:
        return self.deadline_s - time.monotonic()

    def timed_out(self) -> HttpFailure:
        return HttpFailure(kind=self.late, detail=f"no reply within {self.request.timeout_s:g} s")


def _prepare(request: HttpRequest, max_bytes: int) -> _Wire | HttpFailure:
    """Check everything that can be wrong with a request before any of it is sent."""
    try:
        url = request.url
        if not (url.isascii() and url.isprintable()) or " " in url:
            return _invalid("the URL has characters that must be percent-encoded")
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
        if scheme not in {"http", "https"} or not host or "@" in parts.netloc:
            return _invalid("the URL must be http or https, with a host and without credentials")
        if not request.timeout_s > 0:
            return HttpFailure(kind=FailureKind.POOL_TIMEOUT, detail="no time left for the request")
        given = {name.lower() for name in request.headers}
        body, content_type = _encode(request)
        added = {"Host": parts.netloc, "User-Agent": "videopoll", "Accept-Encoding": "identity"}
        if content_type:
            added["Content-Type"] = content_type
        if body or request.method not in {"GET", "HEAD"}:
            added["Content-Length"] = str(len(body))
        headers = [(name, value) for name, value in added.items() if name.lower() not in given]
        headers += request.headers.items()
        names, values = zip(*headers, strict=True)
        text = "".join(values)
        if "" in names or not _TOKEN.fullmatch("".join(names)) or not (text.isascii() and text.isprintable()):
            return _invalid("a header has characters that cannot be sent")
    except (ValueError, TypeError, RecursionError) as error:
        return _invalid(f"the request cannot be encoded ({type(error).__name__})")
    return _Wire(
        request=request,
        origin=(scheme, host, port or (443 if scheme == "https" else 80)),
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        headers=headers,
        body=body,
        max_bytes=max_bytes,
        deadline_s=time.monotonic() + min(request.timeout_s, MAX_TIMEOUT_S),
    )


_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def _invalid(detail: str) -> HttpFailure:
    return HttpFailure(kind=FailureKind.INVALID, detail=detail)


def _encode(request: HttpRequest) -> tuple[bytes, str | None]:
    if sum(body is not None for body in (request.json, request.form, request.content)) > 1:
        msg = "more than one body"
        raise ValueError(msg)
    if request.json is not None:
        return jsonlib.dumps(request.json, allow_nan=False).encode(), "application/json"
    if request.form is not None:
        return urlencode(request.form).encode(), "application/x-www-form-urlencoded"
    return request.content or b"", None


class _Reading:
    """Collects a reply, and refuses one that is encoded or too large before it is in memory."""

    def __init__(self, wire: _Wire, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        named: dict[str, str] = {}
        for raw_name, raw_value in headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            named[name] = f"{named[name]}, {value}" if name in named else value
        self._wire, self._status, self._headers = wire, status, named
        self._chunks: list[bytes] = []
        self._size = 0
        self.refusal: HttpFailure | None = None
        if wire.request.method != "HEAD":  # The headers of a HEAD describe a body that does not come.
            encoding = named.get("content-encoding", "identity").strip().lower()
            if encoding not in {"", "identity"}:
                self.refusal = HttpFailure(kind=FailureKind.UNREADABLE, detail=f"HTTP {status} with an encoded body")
            length = named.get("content-length", "")
            if length.isdigit() and len(length) <= 20 and int(length) > wire.max_bytes:  # noqa: PLR2004
                self._too_large()

    def _too_large(self) -> None:
        detail = f"HTTP {self._status} with more than {self._wire.max_bytes} bytes"
        self.refusal = HttpFailure(kind=FailureKind.TOO_LARGE, detail=detail)

    def add(self, chunk: bytes) -> bool:
        """Take a piece of the body; False when no more of it should be read."""
        self._size += len(chunk)
        if self._size > self._wire.max_bytes:
            self._too_large()
            return False
        self._chunks.append(chunk)
        if self._wire.remaining_s() <= 0:
            self.refusal = self._wire.timed_out()
            return False
        return True

    def result(self) -> _Result:
        return self.refusal or HttpReply(status=self._status, headers=self._headers, body=b"".join(self._chunks))


# --- faults -----------------------------------------------------------------------------------------------------------

_CORE_FAULTS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    OSError,
)
_HTTPX_FAULTS = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError)


def _detail(error: BaseException) -> str:
    """Name an error without quoting it: the texts of network errors hold URLs and parts of replies."""
    cause: BaseException | None = error
    while cause is not None:
        why = None
        if isinstance(cause, ssl.SSLError):
            why = getattr(cause, "verify_message", None) or getattr(cause, "reason", None)
        elif isinstance(cause, socket.gaierror):
            why = cause.strerror
        elif isinstance(cause, OSError) and cause.errno:
            why = os.strerror(cause.errno)
        if why:
            return f"{type(error).__name__}: {why}"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _fault(error: Exception, wire: _Wire) -> HttpFailure:
    """Say what an error of our own connections means, which depends on whether anything was written."""
    if isinstance(error, httpcore.TimeoutException | TimeoutError):
        return wire.timed_out()
    kind = FailureKind.BROKEN if wire.late is FailureKind.TIMEOUT else FailureKind.CONNECT
    return HttpFailure(kind=kind, detail=_detail(error))


def _client_fault(error: Exception) -> HttpFailure:
    """Say what an error of a host's httpx client means; whatever is in doubt counts as sent."""
    for cause in (error, error.__cause__):
        if _is_aiohttp(cause):
            # httpx-aiohttp reports every broken connection as a connect timeout, which would prove that nothing was sent.
            return HttpFailure(kind=_aiohttp_kind(cause), detail=_detail(cause))
    match error:
        case httpx.ConnectTimeout():
            kind = FailureKind.CONNECT_TIMEOUT
        case httpx.PoolTimeout():
            kind = FailureKind.POOL_TIMEOUT
        case httpx.TimeoutException():
            kind = FailureKind.TIMEOUT
        case httpx.ConnectError() | httpx.ProxyError():
            kind = FailureKind.CONNECT
        case httpx.UnsupportedProtocol() | httpx.InvalidURL():
            kind = FailureKind.INVALID
        case _:
            kind = FailureKind.BROKEN
    return HttpFailure(kind=kind, detail=_detail(error))


def _is_aiohttp(error: BaseException | None) -> TypeGuard[Exception]:
    return error is not None and type(error).__module__.startswith("aiohttp.")


def _aiohttp_kind(error: BaseException) -> FailureKind:
    import aiohttp  # noqa: PLC0415 (optional)

    match error:
        case aiohttp.ConnectionTimeoutError():
            return FailureKind.CONNECT_TIMEOUT
        case TimeoutError():
            return FailureKind.TIMEOUT
        case aiohttp.ClientConnectorError():
            return FailureKind.CONNECT
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return FailureKind.INVALID
        case _:
            return FailureKind.BROKEN


# --- our own connections ----------------------------------------------------------------------------------------------

_Connection = TypeVar("_Connection", httpcore.HTTPConnection, httpcore.AsyncHTTPConnection)


@attrs.define(eq=False)
class _Line(Generic[_Connection]):
    """One connection and the place it leads to, in threads also the network under it."""

    origin: tuple[str, str, int]
    connection: _Connection
    network: _Network | None = None


class _Shelf(Generic[_Connection]):
    """Which connections are idle. Does no I/O: it says which ones are to be closed."""

    def __init__(self, size: int) -> None:
        self._size, self._busy, self._closed = size, 0, False
        self._idle: list[_Line[_Connection]] = []
        self._lock = threading.Lock()

    def take(self, origin: tuple[str, str, int]) -> tuple[_Line[_Connection] | None, list[_Line[_Connection]]]:
        """Give the idle line to `origin` that was used last (None: open one), and lines to close."""
        with self._lock:
            self._busy += 1
            to_close: list[_Line[_Connection]] = []
            for index in reversed(range(len(self._idle))):
                if self._idle[index].origin == origin:
                    line = self._idle.pop(index)
                    if not line.connection.has_expired():
                        return line, to_close
                    to_close.append(line)
            if self._idle and len(self._idle) + self._busy > self._size:
                to_close.append(self._idle.pop(0))
            return None, to_close

    def put(self, line: _Line[_Connection] | None) -> list[_Line[_Connection]]:
        """Take a line back that was given or opened, and say which ones to close."""
        with self._lock:
            self._busy -= 1
            if line is None:
                return []
            if self._closed or not line.connection.is_available():
                return [line]
            self._idle.append(line)
            return [self._idle.pop(0)] if self._idle[0].connection.has_expired() else []

    def close(self) -> list[_Line[_Connection]]:
        """Keep no line from now on, and say which ones to close."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            return idle


def _core_request(wire: _Wire) -> httpcore.Request:
    scheme, host, port = wire.origin
    return httpcore.Request(
        wire.request.method,
        httpcore.URL(scheme=scheme.encode(), host=host.encode(), port=port, target=wire.target.encode()),
        headers=wire.headers,
        content=wire.body,
    )


class _Network(httpcore.NetworkBackend):
    """Sockets whose every step gets what is left of the request's time, so that the steps together keep to it."""

    def __init__(self) -> None:
        self.wire: _Wire | None = None

    def left_s(self, late: type[httpcore.TimeoutException]) -> float:
        left_s = self.wire.remaining_s() if self.wire else 0.0
        if left_s <= 0:
            raise late
        return left_s

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,
        socket_options: object = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError from error
        addresses = list(dict.fromkeys(str(address[4][0]) for address in found))
        for number, address in enumerate(addresses, 1):
            # An address that swallows packets must leave time for the next one.
            share_s = self.left_s(httpcore.ConnectTimeout) / (len(addresses) - number + 1)
            try:
                stream = httpcore.SyncBackend().connect_tcp(address, port, share_s, local_address)
                return _Stream(stream, self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise httpcore.ConnectError


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, network: _Network) -> None:
        self._inner, self._network = inner, network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._inner.read(max_bytes, self._network.left_s(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        left_s = self._network.left_s(httpcore.WriteTimeout)
        if self._network.wire:
            self._network.wire.late = FailureKind.TIMEOUT
        self._inner.write(buffer, left_s)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        left_s = self._network.left_s(httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left_s), self._network)

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


# --- the executors: each carries out one exchange ---------------------------------------------------------------------


class _Side(Protocol):
    def exchange(self, wire: _Wire) -> _Result: ...
    def close(self) -> None: ...


class _AsyncSide(Protocol):
    async def exchange(self, wire: _Wire) -> _Result: ...
    async def close(self) -> None: ...


class _CoreSide:
    """Threads, over our own connections."""

    def __init__(self, max_connections: int) -> None:
        self._slots = threading.Semaphore(max_connections)
        self._shelf: _Shelf[httpcore.HTTPConnection] = _Shelf(max_connections)
        self._tls = httpx.create_ssl_context()

    def exchange(self, wire: _Wire) -> _Result:
        if not self._slots.acquire(timeout=max(0.0, wire.remaining_s())):
            return wire.timed_out()
        wire.late = FailureKind.CONNECT_TIMEOUT
        line = None
        try:
            line, stale = self._shelf.take(wire.origin)
            for old in stale:
                old.connection.close()
            line = line or self._open(wire.origin)
            if line.network:
                line.network.wire = wire
            response = line.connection.handle_request(_core_request(wire))
            try:
                reading = _Reading(wire, response.status, response.headers)
                if reading.refusal is None:
                    for chunk in cast("Iterable[bytes]", response.stream):
                        if not reading.add(chunk):
                            break
            finally:
                response.close()
            return reading.result()
        except _CORE_FAULTS as error:
            return _fault(error, wire)
        finally:
            for old in self._shelf.put(line):
                old.connection.close()
            self._slots.release()

    def _open(self, origin: tuple[str, str, int]) -> _Line[httpcore.HTTPConnection]:
        network, (scheme, host, port) = _Network(), origin
        connection = httpcore.HTTPConnection(
            httpcore.Origin(scheme.encode(), host.encode(), port), self._tls, KEEP_ALIVE_S, network_backend=network
        )
        return _Line(origin, connection, network)

    def close(self) -> None:
        for line in self._shelf.close():
            line.connection.close()


class _AsyncCoreSide:
    """asyncio, over our own connections. The time is kept by the caller."""

    def __init__(self, max_connections: int) -> None:
        self._slots = asyncio.Semaphore(max_connections)
        self._shelf: _Shelf[httpcore.AsyncHTTPConnection] = _Shelf(max_connections)
        self._tls = httpx.create_ssl_context()

    async def exchange(self, wire: _Wire) -> _Result:
        async with self._slots:
            request, line = _core_request(wire), None
            opened: list[httpcore.AsyncNetworkStream] = []
            try:
                line, stale = self._shelf.take(wire.origin)
                wire.late = FailureKind.TIMEOUT if line else FailureKind.CONNECT_TIMEOUT
                for old in stale:
                    await old.connection.aclose()
                if line is None:
                    line = self._open(wire.origin)
                    request.extensions["trace"] = _noting(wire, opened)
                response = await line.connection.handle_async_request(request)
                try:
                    reading = _Reading(wire, response.status, response.headers)
                    if reading.refusal is None:
                        async for chunk in cast("AsyncIterable[bytes]", response.stream):
                            if not reading.add(chunk):
                                break
                finally:
                    await response.aclose()
                return reading.result()
            except _CORE_FAULTS as error:
                return _fault(error, wire)
            finally:
                for old in self._shelf.put(line):
                    await old.connection.aclose()
                    if old is line:
                        # httpcore forgets a socket whose TLS handshake was cancelled.
                        for stream in opened:
                            await stream.aclose()

    def _open(self, origin: tuple[str, str, int]) -> _Line[httpcore.AsyncHTTPConnection]:
        scheme, host, port = origin
        place = httpcore.Origin(scheme.encode(), host.encode(), port)
        return _Line(origin, httpcore.AsyncHTTPConnection(place, self._tls, KEEP_ALIVE_S))

    async def close(self) -> None:
        for line in self._shelf.close():
            await line.connection.aclose()


def _noting(
    wire: _Wire, opened: list[httpcore.AsyncNetworkStream]
) -> Callable[[str, Mapping[str, object]], Awaitable[None]]:
    async def trace(event: str, info: Mapping[str, object]) -> None:
        if event == "connection.connect_tcp.complete":
            opened.append(cast("httpcore.AsyncNetworkStream", info["return_value"]))
        elif event == "http11.send_request_headers.started":
            wire.late = FailureKind.TIMEOUT

    return trace


class _AiohttpSide:
    """asyncio, over aiohttp: several times as fast. The time is kept by the caller."""

    def __init__(self, max_connections: int) -> None:
        import aiohttp.http_exceptions  # noqa: PLC0415 (optional)
        import yarl  # noqa: PLC0415 (comes with aiohttp)

        self._slots = asyncio.Semaphore(max_connections)
        self._faults = (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, OSError)
        # A URL that is parsed afresh would be normalised: "%2E%2E" would climb the path.
        self._url = functools.partial(yarl.URL, encoded=True)
        noting = aiohttp.TraceConfig()
        noting.on_request_headers_sent.append(_note_headers)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=httpx.create_ssl_context(), keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            trace_configs=[noting],
        )

    async def exchange(self, wire: _Wire) -> _Result:
        async with self._slots:
            wire.late = FailureKind.CONNECT_TIMEOUT
            try:
                async with self._session.request(
                    wire.request.method,
                    self._url(wire.request.url),
                    headers=wire.headers,
                    data=wire.body or None,
                    allow_redirects=False,
                    trace_request_ctx=wire,
                ) as response:
                    reading = _Reading(wire, response.status, response.raw_headers)
                    if reading.refusal is None:
                        async for chunk in response.content.iter_any():
                            if not reading.add(chunk):
                                break
                    if reading.refusal is not None:
                        response.close()
                    return reading.result()
            except self._faults as error:
                return _fault(error, wire)

    async def close(self) -> None:
        await self._session.close()


async def _note_headers(_: object, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.late = FailureKind.TIMEOUT


class _ClientSide:
    """Threads, over an httpx client: the host's, or one that goes through the environment's proxies."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def exchange(self, wire: _Wire) -> _Result:
        wire.late = FailureKind.TIMEOUT  # It does not say how far it came.
        try:
            response = self._client.send(_client_request(self._client, wire), stream=True, follow_redirects=False)
            try:
                reading = _Reading(wire, response.status_code, response.headers.raw)
                if reading.refusal is None:
                    # A hook of the host may have read the body already.
                    for chunk in [response.content] if response.is_stream_consumed else response.iter_raw():
                        if not reading.add(chunk):
                            break
            finally:
                response.close()
            return reading.result()
        except _HTTPX_FAULTS as error:
            return _client_fault(error)

    def close(self) -> None:
        self._client.close()


class _AsyncClientSide:
    """asyncio, over an httpx client: the host's, or one that goes through the environment's proxies."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def exchange(self, wire: _Wire) -> _Result:
        wire.late = FailureKind.TIMEOUT
        try:
            request = _client_request(self._client, wire, CONNECT_SHARE)
            response = await self._client.send(request, stream=True, follow_redirects=False)
            try:
                reading = _Reading(wire, response.status_code, response.headers.raw)
                if reading.refusal is None and response.is_stream_consumed:
                    reading.add(response.content)
                elif reading.refusal is None:
                    async for chunk in response.aiter_raw():
                        if not reading.add(chunk):
                            break
            finally:
                await response.aclose()
            return reading.result()
        except Exception as error:
            if isinstance(error, _HTTPX_FAULTS) or _is_aiohttp(error):  # httpx-aiohttp lets some of them through.
                return _client_fault(error)
            raise

    async def close(self) -> None:
        await self._client.aclose()


def _client_request(client: httpx.Client | httpx.AsyncClient, wire: _Wire, connect_share: float = 1.0) -> httpx.Request:
    total_s = wire.remaining_s()
    first_s = total_s * connect_share
    return client.build_request(
        wire.request.method,
        wire.request.url,
        headers=wire.headers,
        content=wire.body or None,
        timeout=httpx.Timeout(total_s, connect=first_s, pool=first_s),
    )


# --- the public face --------------------------------------------------------------------------------------------------


class Http:
    """Carries out requests, in threads and under asyncio. Connections are opened when they are first needed.

    May be shared between threads and between event loops (each loop has
    connections of its own), and is usable again after it was closed, and in a
    forked process.

    The time limit of a request covers all of it. Two things are outside of our
    hands: in threads, the operating system's own time for looking up a name; and,
    in threads with a client of the host or a proxy, a server that sends its
    headers byte by byte, since httpx limits single reads there.

    Args:
        client: The host's httpx client for threads, with its own hooks, proxies
            and certificates. It is never closed here.
        async_client: The same for asyncio.
        max_reply_bytes: Larger replies are refused, before they are in memory.
        max_connections: Connections open at most, for threads and for each event
            loop. Further requests wait for one within their time. A host's
            clients have their own limits.
        transport: What carries asyncio requests without `async_client`: aiohttp
            (the extra ``fast``), httpx's own layer, or ``"auto"``: aiohttp if it is installed.

    Raises:
        ConfigurationError: A limit is less than 1, or aiohttp is asked for and not installed.
    """

    def __init__(
        self,
        *,
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        max_reply_bytes: int = 1_000_000,
        max_connections: int = 100,
        transport: Literal["auto", "httpx", "aiohttp"] = "auto",
    ) -> None:
        if max_reply_bytes < 1 or max_connections < 1:
            msg = f"max_reply_bytes and max_connections must be at least 1, got {max_reply_bytes} and {max_connections}"
            raise ConfigurationError(msg)
        has_aiohttp = _has_aiohttp()
        if transport not in {"auto", "httpx", "aiohttp"}:
            msg = f'transport must be "auto", "httpx" or "aiohttp", got {transport!r}'
            raise ConfigurationError(msg)
        if transport == "aiohttp" and not has_aiohttp:
            msg = 'transport="aiohttp" needs aiohttp 3.10 or later: install videopoll[fast], or use transport="auto"'
            raise ConfigurationError(msg)
        self._max_reply_bytes, self._max_connections = max_reply_bytes, max_connections
        self._use_aiohttp = has_aiohttp and transport != "httpx"
        self._given = _ClientSide(client) if client else None
        self._async_given = _AsyncClientSide(async_client) if async_client else None
        self._lock = threading.Lock()
        self._own: _Side | None = None
        self._async_own: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _AsyncSide] = weakref.WeakKeyDictionary()
        self._pid = os.getpid()

    def __repr__(self) -> str:
        """Name the object, and nothing that it holds."""
        return f"{type(self).__name__}(max_connections={self._max_connections})"

    def send(self, request: HttpRequest) -> HttpReply | HttpFailure:
        """Carry out `request` in this thread, within its `HttpRequest.timeout_s`."""
        wire = _prepare(request, self._max_reply_bytes)
        return wire if isinstance(wire, HttpFailure) else self._side().exchange(wire)

    async def asend(self, request: HttpRequest) -> HttpReply | HttpFailure:
        """Carry out `request` under asyncio, within its `HttpRequest.timeout_s`."""
        wire = _prepare(request, self._max_reply_bytes)
        if isinstance(wire, HttpFailure):
            return wire
        side = self._async_side()
        try:
            async with asyncio.timeout(wire.remaining_s()):
                return await side.exchange(wire)
        except TimeoutError:
            return wire.timed_out()

    def close(self) -> None:
        """Close our own connections for threads; one in use closes when its request ends."""
        with self._lock:
            side, self._own = self._own, None
        if side:
            side.close()

    async def aclose(self) -> None:
        """Close our own connections of the running event loop."""
        with self._lock:
            side = self._async_own.pop(asyncio.get_running_loop(), None)
        if side:
            await side.close()

    def _forget_parent(self) -> None:
        # After a fork the sockets are shared with the parent: two processes would read each other's replies.
        if self._pid != os.getpid():
            self._own, self._async_own, self._pid = None, weakref.WeakKeyDictionary(), os.getpid()

    def _side(self) -> _Side:
        if self._given:
            return self._given
        with self._lock:
            self._forget_parent()
            if self._own is None:
                limits = httpx.Limits(max_connections=self._max_connections, keepalive_expiry=KEEP_ALIVE_S)
                self._own = (
                    _ClientSide(httpx.Client(limits=limits)) if _has_proxies() else _CoreSide(self._max_connections)
                )
            return self._own

    def _async_side(self) -> _AsyncSide:
        if self._async_given:
            return self._async_given
        loop = asyncio.get_running_loop()
        with self._lock:
            self._forget_parent()
            side = self._async_own.get(loop)
            if side is None:
                limits = httpx.Limits(max_connections=self._max_connections, keepalive_expiry=KEEP_ALIVE_S)
                if _has_proxies():
                    side = _AsyncClientSide(httpx.AsyncClient(limits=limits))
                else:
                    side = (_AiohttpSide if self._use_aiohttp else _AsyncCoreSide)(self._max_connections)
                self._async_own[loop] = side
            return side


def _has_aiohttp() -> bool:
    try:
        major, minor = importlib.metadata.version("aiohttp").split(".")[:2]
        return (int(major), int(minor)) >= (3, 10)  # Earlier ones do not tell a connect timeout from others.
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False


def _has_proxies() -> bool:
    return not {"http", "https", "all"}.isdisjoint(getproxies())
