"""The values of an HTTP exchange: what is asked for, and what comes back.

Nothing in here does any I/O, and no ``repr`` shows a URL, a header or a body.
"""

from __future__ import annotations

import codecs
import email.utils
import enum
import json as jsonlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Final, cast

import attrs

from videopoll._http.parts import Part
from videopoll.jobs.codec import LENIENT_JSON, JsonValue


class FailureKind(enum.StrEnum):
    """Why an exchange gave no reply."""

    CONNECT = "connect"
    """Refused, unreachable, unresolvable, or no TLS: the request was not sent."""
    CONNECT_TIMEOUT = "connect_timeout"
    """No connection within the time: the request was not sent."""
    POOL_TIMEOUT = "pool_timeout"
    """All connections were in use for the whole time: the request was not sent."""
    TOO_LATE = "too_late"
    """Whoever asked for it said, when it was about to go out, that it may not any more: the request was not sent."""
    NOT_PUBLIC = "not_public"
    """The host's name leads to an address that is not public, and that must not be asked: the request was not sent."""
    INCOMPLETE = "incomplete"
    """It broke off, or took too long, while a body of several parts was going out: no server acts on half of one."""
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


_NOT_SENT = frozenset(
    {
        FailureKind.CONNECT,
        FailureKind.CONNECT_TIMEOUT,
        FailureKind.POOL_TIMEOUT,
        FailureKind.TOO_LATE,
        FailureKind.NOT_PUBLIC,
        FailureKind.INCOMPLETE,
        FailureKind.INVALID,
    }
)


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
            to the last byte of the reply. A poller's are those that its runner gives it.
        json: A body to send as JSON. At most one of `json`, `form`, `content` and `parts` may be given.
        form: A body to send as a form.
        content: A body to send as it is.
        parts: A body of several parts (``multipart/form-data``); its files are read as they go out.
        sink: Called with the body of a 2xx piece by piece, as it comes in; that of the
            reply is empty then. What it raises breaks the exchange off.
        max_bytes: The largest such body.
        public_only: Whether to ask nobody but a host at a public address, whatever its name says. A
            client of the host's, or a proxy, may look the name up by itself: then it is looked up here before.
    """

    method: str
    url: str = attrs.field(repr=False)
    timeout_s: float = 30.0
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    json: object | None = attrs.field(default=None, repr=False)
    form: Mapping[str, str] | None = attrs.field(default=None, repr=False)
    content: bytes | None = attrs.field(default=None, repr=False)
    sink: Callable[[bytes], object] | None = attrs.field(default=None, repr=False)
    max_bytes: int | None = None
    parts: Sequence[Part] | None = attrs.field(default=None, repr=False)
    public_only: bool = False


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

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status <= 299  # noqa: PLR2004 - the definition of success

    def json(self) -> JsonValue | NotJson:
        """Read the body as JSON, in all the ways in which httpx and requests do; `NOT_JSON` if it is none. Never raises.

        That is UTF-8, UTF-16 or UTF-32, with or without a byte order mark, or
        else the encoding that the header ``content-type`` names; bytes that do
        not fit become U+FFFD. ``NaN`` and the infinities are read as null.
        """
        body = self.body
        # As `json.loads` and so httpx reads it. Nearly all begin in this way, and no UTF-16 or UTF-32 does.
        encoding = "utf-8" if body.startswith(b'{"') else jsonlib.detect_encoding(body)
        value = _read(body, encoding, "surrogatepass")
        if value is NOT_JSON:
            # As requests does.
            value = _read(body, _declared_encoding(self.headers.get("content-type", "")), "replace")
        return value


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


_CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9._:-]{1,40})", re.IGNORECASE)

_NO_TEXT = frozenset({"idna", "mbcs", "oem", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})
"""Codecs of Python that no API writes its answers in; some of them are slow."""


def _read(body: bytes, encoding: str, errors: str) -> JsonValue | NotJson:
    try:
        return cast("JsonValue", LENIENT_JSON.decode(body.decode(encoding, errors)))
    except (ValueError, RecursionError, LookupError):
        return NOT_JSON


def _declared_encoding(content_type: str) -> str:
    found = _CHARSET.search(content_type)
    try:
        name = codecs.lookup(found[1]).name if found else "utf-8-sig"
    except (LookupError, ValueError):
        return "utf-8-sig"
    return "utf-8-sig" if name in _NO_TEXT or name == "utf-8" else name


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """Read ``Retry-After`` from lower-case `headers`: seconds to wait, finite and not negative; None without one.

    Args:
        headers: As in `HttpReply.headers`.
        now_s: The time in Unix seconds, which an HTTP date is compared with.
    """
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{0,9})?", text):
        return float(text)
    when_s = _date_s(text)
    return None if when_s is None else max(0.0, when_s - now_s)


def sent_s(headers: Mapping[str, str], now_s: float) -> float:
    """Return when a reply was sent by its server's own clock, in Unix seconds; `now_s` if it does not say."""
    when_s = _date_s(headers.get("date", ""))
    return now_s if when_s is None else when_s


def _date_s(text: str) -> float | None:
    try:
        when = email.utils.parsedate_to_datetime(text)
        if when.tzinfo is None:  # "-0000", or no zone at all: HTTP dates are in UTC.
            when = when.replace(tzinfo=UTC)
        when_s = when.timestamp()
    except (ValueError, TypeError, IndexError, OverflowError, AttributeError):
        return None
    return when_s if math.isfinite(when_s) else None
