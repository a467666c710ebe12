"""A checked request on its way: what is written, how its reply is read, and what a break in between means.

Each transport gets a `PreparedRequest` from `prepare`, moves its phase along while
the request proceeds, and reads the reply through a `Reading`, so that all of them
keep to the same limits and report the same failures.
"""

from __future__ import annotations

import enum
import functools
import json as jsonlib
import os
import re
import socket
import ssl
import time
import zlib
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlencode, urlsplit

import attrs

from videopoll._http.parts import Multipart
from videopoll._http.values import FailureKind, HttpFailure, HttpReply
from videopoll.jobs.urls import is_public_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator

    from videopoll._http.values import HttpRequest

KEEP_ALIVE_S = 4.0
"""How long an idle connection is kept: less than the 5 s after which many servers (Node, Apache, uvicorn) close it,
so that a message is hardly ever sent into a connection that is just being closed."""

_STRICT_JSON = jsonlib.JSONEncoder(allow_nan=False)

_UNPACKED = frozenset({"gzip", "x-gzip", "deflate"})
MOST_ENCODINGS = 2
"""Encodings that are taken off, as some servers and proxies pack what nobody asked them to pack."""

MAX_TIMEOUT_S = 86_400.0
"""The longest time for a request; sockets do not take any float."""

_QUOTED = re.compile(r"'[^']*'?")
_AFTER_HOST = re.compile(r"[/?#]")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

Headers: TypeAlias = "tuple[tuple[str, str], ...]"


class Phase(enum.Enum):
    """How far a request has come."""

    WAITING = enum.auto()
    """For one of the connections that may be open at once."""
    CONNECTING = enum.auto()
    """Nothing of it was written yet."""
    SENDING = enum.auto()
    """Some of it may have been written."""


_TIMED_OUT = {
    Phase.WAITING: FailureKind.POOL_TIMEOUT,
    Phase.CONNECTING: FailureKind.CONNECT_TIMEOUT,
    Phase.SENDING: FailureKind.TIMEOUT,
}


class TooLateError(Exception):
    """The request may not go out any more. Never leaves this package."""


class NotPublicError(Exception):
    """The host is at an address that must not be asked. Never leaves this package."""


class Streamed:
    """The body of a request as it goes out, for threads and for asyncio."""

    def __init__(self, prepared: PreparedRequest) -> None:
        self._prepared = prepared

    def __iter__(self) -> Iterator[bytes]:
        yield from self._prepared.chunks()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._prepared.chunks():
            yield chunk


@attrs.define(eq=False)
class PreparedRequest:
    """A checked request on its way, and how far it has come."""

    request: HttpRequest
    origin: tuple[str, str, int]
    target: str
    headers: Headers
    body: bytes | Multipart
    max_bytes: int
    deadline_s: float
    phase: Phase = Phase.WAITING
    may_send: Callable[[], bool] | None = None
    held_back: bool = False
    is_inside: bool = False
    handed_over: bool = False

    def check(self) -> None:
        """Ask whether the request may go out at this moment: before its headers are written, and before its body.

        Raises:
            TooLateError: It may not. Headers without their body are no request that a server acts on.
        """
        if self.may_send is not None and not self.may_send():
            self.held_back = True
            raise TooLateError

    def check_address(self, address: object) -> None:
        """Ask whether this address of the host may be asked, before anything is written to it.

        Raises:
            NotPublicError: It may not.
        """
        if self.request.public_only and not is_public_address(str(address)):
            self.is_inside = True
            raise NotPublicError

    @property
    def content(self) -> bytes | Streamed:
        """The body: its bytes, or its pieces."""
        return self.body if isinstance(self.body, bytes) else Streamed(self)

    def chunks(self) -> Iterator[bytes]:
        """Yield the body's pieces, each once it may go out, and note when the last one is handed over."""
        pieces = iter((self.body,)) if isinstance(self.body, bytes) else self.body.chunks()
        left = len(self.body) if isinstance(self.body, bytes) else self.body.length
        for piece in pieces:
            self.check()
            left -= len(piece)
            self.handed_over = self.handed_over or not left
            yield piece

    def remaining_s(self) -> float:
        return self.deadline_s - time.monotonic()

    def timed_out(self) -> HttpFailure:
        return self.judged(
            HttpFailure(kind=_TIMED_OUT[self.phase], detail=f"no reply within {self.request.timeout_s:g} s")
        )

    def judged(self, failure: HttpFailure) -> HttpFailure:
        """Return a failure, or a better one where we know more than what carried the request."""
        if self.held_back:
            return self.too_late()
        if self.is_inside:
            return HttpFailure(kind=FailureKind.NOT_PUBLIC, detail="the host is at an address that is not public")
        if isinstance(self.body, bytes) or self.handed_over or failure.surely_not_sent:
            return failure
        return HttpFailure(kind=FailureKind.INCOMPLETE, detail=f"before all of it was sent: {failure.detail}")

    def failure(self, error: Exception, late: type[Exception] = TimeoutError) -> HttpFailure:
        """Return what an error of our own connections means, which depends on whether anything was written.

        Any error: libraries raise more than what they name (a `UnicodeError` for a host of 64 letters, for one), and
        more in a version to come. The phase tells what it means for the request, whatever it is called.

        Args:
            error: The error.
            late: What the library raises when its time is over, beside a `TimeoutError`.
        """
        if isinstance(error, TimeoutError | late):
            return self.timed_out()
        kind = FailureKind.BROKEN if self.phase is Phase.SENDING else FailureKind.CONNECT
        return self.judged(HttpFailure(kind=kind, detail=describe(error)))

    def too_late(self) -> HttpFailure:
        return HttpFailure(kind=FailureKind.TOO_LATE, detail="the request might not go out any more")


def prepare(
    request: HttpRequest, max_bytes: int, may_send: Callable[[], bool] | None = None
) -> PreparedRequest | HttpFailure:
    """Check everything that can be wrong with a request before any of it is sent."""
    try:
        url = request.url
        if not (url.isascii() and url.isprintable()) or " " in url:
            return _invalid("the URL has characters that must be percent-encoded")
        found = _AFTER_HOST.search(url, len("https://"))
        end = found.start() if found else len(url)
        site = _site(url[:end])
        if site is None:
            return _invalid("the URL must be http or https, with the name or address of a host and without credentials")
        if not request.timeout_s > 0:
            return HttpFailure(kind=FailureKind.POOL_TIMEOUT, detail="no time left for the request")
        body, content_type = _encode(request)
        size = len(body) if isinstance(body, bytes) else body.length
        length = size if size or request.method not in {"GET", "HEAD"} else None
        headers = _headers(tuple(request.headers.items()), site.netloc, content_type, length)
        if headers is None:
            return _invalid("a header has characters that cannot be sent")
    except (ValueError, TypeError, RecursionError, OSError) as error:
        return _invalid(f"the request cannot be encoded ({type(error).__name__})")
    return PreparedRequest(
        request=request,
        origin=site.origin,
        target=_target(url[end:]),
        headers=headers,
        body=body,
        max_bytes=max_bytes,
        deadline_s=time.monotonic() + min(request.timeout_s, MAX_TIMEOUT_S),
        may_send=may_send,
    )


@attrs.frozen
class _Site:
    """A URL up to its path, taken apart."""

    origin: tuple[str, str, int]
    netloc: str


# A worker asks one site thousands of times a second, with the same headers.
@functools.lru_cache(maxsize=256)
def _site(start: str) -> _Site | None:
    parts = urlsplit(start)
    scheme, host, port = parts.scheme, parts.hostname, parts.port
    if scheme not in {"http", "https"} or not host or "@" in parts.netloc:
        return None
    try:
        host.encode("idna")
    except UnicodeError:
        # A label is empty or too long. Looking it up would raise this, and some clients let it through.
        return None
    origin = (scheme, host, port or (443 if scheme == "https" else 80))
    return _Site(origin, parts.netloc)


def _target(rest: str) -> str:
    """Return the request's target: path and query, without the fragment."""
    target = rest.partition("#")[0]
    return target if target.startswith("/") else f"/{target}"


@functools.lru_cache(maxsize=256)
def _headers(
    given: tuple[tuple[str, str], ...], netloc: str, content_type: str | None, length: int | None
) -> Headers | None:
    """Return all headers of a request; None if one of them cannot be sent."""
    added = {"Host": netloc, "User-Agent": user_agent(), "Accept-Encoding": "identity"}
    if content_type:
        added["Content-Type"] = content_type
    if length is not None:
        added["Content-Length"] = str(length)
    own = {name.lower() for name, _ in given}
    headers = (*((name, value) for name, value in added.items() if name.lower() not in own), *given)
    names, values = zip(*headers, strict=True)
    text = "".join(values)
    if "" in names or not _TOKEN.fullmatch("".join(names)) or not (text.isascii() and text.isprintable()):
        return None
    return headers


def user_agent() -> str:
    """Return what we call ourselves: an operator of a firewall lets it through, or finds it in a log."""
    from videopoll import __version__  # noqa: PLC0415 - the package imports its parts

    return f"videopoll/{__version__}"


def _invalid(detail: str) -> HttpFailure:
    return HttpFailure(kind=FailureKind.INVALID, detail=detail)


def _encode(request: HttpRequest) -> tuple[bytes | Multipart, str | None]:
    if request.json is None and request.form is None and request.parts is None:
        return request.content or b"", None
    if [request.json, request.form, request.content, request.parts].count(None) < 3:  # noqa: PLR2004 - one of four
        msg = "more than one body"
        raise ValueError(msg)
    if request.parts is not None:
        body = Multipart(request.parts)
        return body, body.content_type
    if request.json is not None:
        return _STRICT_JSON.encode(request.json).encode(), "application/json"
    return urlencode(request.form or {}).encode(), "application/x-www-form-urlencoded"


# A server has a handful of them.
@functools.lru_cache(maxsize=256)
def _header_name(raw: bytes) -> str:
    return raw.decode("latin-1").lower()


class Reading:
    """Collects a reply, and refuses one that is encoded or too large before it is in memory."""

    def __init__(
        self, prepared: PreparedRequest, status: int, headers: Iterable[tuple[bytes, bytes]], *, unpacked: bool = False
    ) -> None:
        named: dict[str, str] = {}
        for raw_name, raw_value in headers:
            name, value = _header_name(raw_name), raw_value.decode("latin-1")
            named[name] = f"{named[name]}, {value}" if name in named else value
        self._prepared, self._status, self._headers = prepared, status, named
        self._chunks: list[bytes] = []
        self._size = 0
        asked = prepared.request
        self._sink = asked.sink if 200 <= status <= 299 else None  # noqa: PLR2004 - the definition of success
        self._max_bytes = asked.max_bytes if self._sink and asked.max_bytes else prepared.max_bytes
        self._length: int | None = None
        self._encodings: list[str] = []
        self.refusal: HttpFailure | None = None
        if prepared.request.method != "HEAD":  # The headers of a HEAD describe a body that does not come.
            if "content-encoding" in named and not unpacked:
                given = (one.strip() for one in named["content-encoding"].lower().split(","))
                self._encodings = [one for one in given if one not in {"", "identity"}]
            if len(self._encodings) > (0 if self._sink else MOST_ENCODINGS) or not _UNPACKED.issuperset(
                self._encodings
            ):
                self.refusal = HttpFailure(kind=FailureKind.UNREADABLE, detail=f"HTTP {status} with an encoded body")
            length = named.get("content-length", "")
            if length.isdecimal() and len(length) <= 20:  # noqa: PLR2004
                self._length = int(length)
                if self._length > self._max_bytes:
                    self._too_large()

    def _too_large(self) -> None:
        detail = f"HTTP {self._status} with more than {self._max_bytes} bytes"
        self.refusal = HttpFailure(kind=FailureKind.TOO_LARGE, detail=detail)

    def read(self, chunks: Iterable[bytes]) -> HttpReply | HttpFailure:
        """Read the body, as far as it should be."""
        for chunk in chunks if self.refusal is None else ():
            if not self._take(chunk):
                break
        return self._result()

    async def aread(self, chunks: AsyncIterable[bytes]) -> HttpReply | HttpFailure:
        """The same under asyncio."""
        if self.refusal is None:
            async for chunk in chunks:
                if not self._take(chunk):
                    break
        return self._result()

    def _take(self, chunk: bytes) -> bool:
        self._size += len(chunk)
        if self._size > self._max_bytes:
            self._too_large()
        elif self._prepared.remaining_s() <= 0:
            self.refusal = self._prepared.timed_out()
        elif self._sink is None:
            self._chunks.append(chunk)
        else:
            try:
                self._sink(chunk)
            except Exception as error:  # noqa: BLE001 - a full disk, or a file that is closed by now
                self.refusal = HttpFailure(kind=FailureKind.BROKEN, detail=f"not stored: {describe(error)}")
        return self.refusal is None

    def _result(self) -> HttpReply | HttpFailure:
        if self._sink is not None and self.refusal is None and self._length not in {None, self._size}:
            # Some clients take a body that ends too early for the whole.
            self.refusal = HttpFailure(
                kind=FailureKind.BROKEN, detail=f"HTTP {self._status} with a body of another length"
            )
        body = b"".join(self._chunks)
        if self._encodings and body and self.refusal is None:
            body = self._unpacked(body)
        return self.refusal or HttpReply(status=self._status, headers=self._headers, body=body)

    def _unpacked(self, body: bytes) -> bytes:
        """Unpack a body that was packed though we asked for none of it, no further than the size limit."""
        for encoding in reversed(self._encodings):
            try:
                # "deflate" should have zlib's frame, and often has none.
                framed = encoding != "deflate" or body[0] & 0x0F == zlib.DEFLATED
                unpacker = zlib.decompressobj(32 + zlib.MAX_WBITS if framed else -zlib.MAX_WBITS)
                body = unpacker.decompress(body, self._prepared.max_bytes + 1)
            except (zlib.error, IndexError):
                detail = f"HTTP {self._status} with an encoded body that cannot be unpacked"
                self.refusal = HttpFailure(kind=FailureKind.UNREADABLE, detail=detail)
                return b""
            if len(body) > self._prepared.max_bytes:
                self._too_large()
                return b""
        return body


def describe(error: BaseException) -> str:
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
            # OpenSSL quotes the host, of a URL that may be a secret.
            return f"{type(error).__name__}: {_QUOTED.sub('…', why)}"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
