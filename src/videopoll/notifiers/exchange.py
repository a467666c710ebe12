"""One message in several requests, as a generator of steps that does no I/O itself.

A channel that needs more than one request writes `HttpNotifier.exchange`. It takes
each step with ``yield from``, and gets what came of it::

    def exchange(self, message):
        video = yield from Fetch(message.video_url, max_bytes=16_000_000)
        uploaded = yield from Ask(self.upload(video))
        media_id = uploaded.json()["id"]
        yield from Keep({"media": media_id})
        reply = yield from Post(self.send(message, media_id))
        return self.read(reply, message)

What fails before the `Post` was surely not sent; only the `Post` can leave the fate of
the message open. Who does not catch `StepFailedError` need not think of either.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Generator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast
from urllib.parse import urljoin, urlsplit

import attrs

from videopoll._http import FailureKind, HttpFailure, HttpReply, HttpRequest, retry_after_s
from videopoll._reasons import joined, own, quoting
from videopoll.jobs.bounds import bounded_detail
from videopoll.jobs.codec import JsonValue
from videopoll.jobs.outcome import prepared_or_none
from videopoll.jobs.urls import is_public_https, is_web_url
from videopoll.messages import Delivered, Message, NotSent, Receipt, Refused, Unknown, receipt_for_error
from videopoll.notifiers.receipts import receipt_for_failure
from videopoll.notifiers.video_file import HEAD_BYTES, read_video_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from videopoll.core.flow import Flow

__all__ = [
    "Ask",
    "Await",
    "Exchange",
    "Exchanging",
    "Fetch",
    "FetchedVideo",
    "Keep",
    "Post",
    "Step",
    "StepFailedError",
]

IN_MEMORY_BYTES = 4_000_000
"""Up to this size a video that is to be uploaded waits in memory, and not in a file."""

FETCH_TIMEOUT_S = 45.0
"""Seconds for a download: with the upload after it, less than `DeliveryPolicy.send_timeout_s`."""

MOST_REDIRECTS = 3

MOST_POSTS = 3
"""A channel may post again where the one before was surely refused, and not for ever."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_GONE = frozenset({400, 401, 403, 404, 405, 410, 416})
"""With these a storage says that the link is no good, and will be none."""

_REFUSED = frozenset(range(400, 500)) - {HTTPStatus.REQUEST_TIMEOUT}
"""After such a reply to a post, what fails later says that nothing was sent."""

_BYTES = frozenset({"application/octet-stream", "binary/octet-stream", "application/mp4", ""})
"""What a server calls a video whose type it does not know."""

_OF_A_KEY = re.compile(r"auth|token|secret|api-?_?key", re.IGNORECASE)

_VIDEOS = frozenset({"mp4", "mov", "3gp", "webm", "mkv", "avi", "flv", "mpeg", "ogg", "wmv"})
"""What the bytes of a file say where its type does not: "text/plain", "application/force-download"."""

_VIDEO_TYPE = re.compile(r"video/[a-z0-9.+-]{1,50}")


class StepFailedError(Exception):
    """A step of an exchange came to nothing. Catch it to go on in another way.

    Args:
        receipt: What the whole exchange comes to if nobody catches it.
    """

    def __init__(self, receipt: Receipt) -> None:
        super().__init__(type(receipt).__name__)
        self.receipt = receipt


@attrs.frozen
class Ask:
    """Make a request that sends nothing to the user: get an upload's address, upload, open a chat.

    Returns:
        The reply, whatever its status.

    Raises:
        StepFailedError: There was no reply. It stands for `NotSent`; after a `Post` that was not refused, for `Unknown`.
    """

    request: HttpRequest

    def __iter__(self) -> Generator[Step, object, HttpReply]:
        return cast("HttpReply", (yield self))


@attrs.frozen
class Post:
    """Make the one request that sends the message.

    It may be followed by another `Post` only where its reply says that it surely sent nothing, e.g.
    that the chat has moved. If there is no reply the exchange ends here, with what that means.

    Returns:
        The reply, whatever its status.
    """

    request: HttpRequest

    def __iter__(self) -> Generator[Step, object, HttpReply]:
        return cast("HttpReply", (yield self))


@attrs.frozen(kw_only=True)
class FetchedVideo:
    """A video that was downloaded. The file is there until the exchange ends.

    Args:
        file: The file, to be handed on in a `Part`.
        size: Its size in bytes.
        media_type: What its host says it is, if that is a kind of video; else ``video/mp4``.
    """

    file: BinaryIO = attrs.field(repr=False)
    size: int
    media_type: str


@attrs.frozen
class Fetch:
    """Download the video, to upload it.

    It must be at a public https address, by its name and by what the name resolves to, or on a
    host that was given as `trusted_hosts`; redirects are followed to the same host alone.

    Args:
        url: Where it is.
        max_bytes: The largest file that the channel takes.
        timeout_s: Seconds for all of it.

    Returns:
        The video.

    Raises:
        StepFailedError: There is none. It stands for `Refused`, so that a text with the link
            follows, if the file is too large, gone or must not be fetched; otherwise for `NotSent`.
    """

    url: str = attrs.field(repr=False)
    max_bytes: int = attrs.field(kw_only=True)
    timeout_s: float = attrs.field(default=FETCH_TIMEOUT_S, kw_only=True)

    def __iter__(self) -> Generator[Step, object, FetchedVideo]:
        return cast("FetchedVideo", (yield self))


def _keepable(value: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    kept = prepared_or_none(dict(value))
    if kept is None:
        msg = "what a channel keeps with a delivery is JSON of 2048 bytes at most"
        raise ValueError(msg)
    return kept


@attrs.frozen
class Keep:
    """Keep a little with the delivery, in place of what was kept before: `Message.prepared` at the next try.

    It is stored with the next write about the delivery: after a crash before that, it is prepared anew.

    Raises:
        ValueError: It is more than 2048 bytes of JSON, or none.
    """

    prepared: Mapping[str, JsonValue] = attrs.field(repr=False, converter=_keepable)

    def __iter__(self) -> Generator[Step, object, None]:
        yield self


@attrs.frozen
class Await:
    """Wait until another exchange has answered a question that all share, for at most so many seconds."""

    future: Future[bool]
    timeout_s: float

    def __iter__(self) -> Generator[Step, object, None]:
        yield self


Step: TypeAlias = Ask | Post | Fetch | Keep | Await
"""What an exchange can take."""

Exchange: TypeAlias = Generator[Step, object, Receipt]
"""An exchange: `HttpNotifier.exchange` makes one for each send."""


class Exchanging:
    """One exchange under way: carries its steps out, and says what it came to.

    Args:
        message: The message.
        send: Carries a request out; a flow.
        wait: Waits for a future; a flow.
        trusted_hosts: Hosts that a video may be fetched from whatever their address is.
        hold: Asked before the message is posted; it may return why that is too early.

    Attributes:
        keys: What the requests bore as keys in their headers: no receipt may tell them.
    """

    def __init__(
        self,
        message: Message,
        send: Callable[..., Flow[HttpReply | HttpFailure]],
        wait: Callable[[Future[bool], float], Flow[None]],
        trusted_hosts: frozenset[str],
        hold: Callable[[], NotSent | None],
    ) -> None:
        self._message = message
        self._hold = hold
        self._send = send
        self._wait = wait
        self._trusted_hosts = trusted_hosts
        self._prepared: Mapping[str, JsonValue] | None = None
        # The last post's reply, and how many there were.
        self._posted: HttpReply | None = None
        self._posts = 0
        self._files: list[BinaryIO] = []
        self.keys: set[str] = set()

    def run(self, exchange: Exchange) -> Flow[Receipt]:
        """Carry all steps out, and return the receipt, with what was kept. Whatever was opened is closed."""
        try:
            receipt = yield from self._run(exchange)
        finally:
            with suppress(Exception):  # The receipt is there, and must not give way to what a host's `finally` raises.
                exchange.close()
            for file in self._files:
                file.close()
        return receipt if self._prepared is None else attrs.evolve(receipt, prepared=self._prepared)

    def _run(self, exchange: Exchange) -> Flow[Receipt]:
        answer: object = None
        while True:
            try:
                step = exchange.throw(answer) if isinstance(answer, StepFailedError) else exchange.send(answer)
            except StopIteration as end:
                return self._checked(end.value)
            except StepFailedError as failed:
                return self._failed(failed.receipt)
            except Exception as error:  # noqa: BLE001 - a host's channel may raise anything
                return self._checked(receipt_for_error(error) or self._raised(error))
            if isinstance(step, Post):
                reply = yield from self._post(step.request)
                if not isinstance(reply, HttpReply):
                    return reply
                answer = reply
            else:
                answer = yield from self._take(step)

    def _take(self, step: Step) -> Flow[HttpReply | FetchedVideo | StepFailedError | None]:
        match step:
            case Ask(request):
                self._note_keys(request)
                reply = yield from self._send(request)
                return StepFailedError(receipt_for_failure(reply)) if isinstance(reply, HttpFailure) else reply
            case Fetch():
                fetched = yield from self._fetch(step)
                return fetched if isinstance(fetched, FetchedVideo) else StepFailedError(fetched)
            case Keep(prepared):
                self._prepared = prepared
            case Await(future, timeout_s):
                yield from self._wait(future, timeout_s)
            case _:
                return StepFailedError(Refused(own(f"the channel yields {type(step).__name__}, which is no step")))
        return None

    def _post(self, request: HttpRequest) -> Flow[HttpReply | Receipt]:
        if self._posted is not None and (self._posted.is_success or self._posts == MOST_POSTS):
            return Unknown(own(f"HTTP {self._posted.status}, and the channel would post the message once more"))
        held = self._hold()
        if held is not None:
            return held
        self._note_keys(request)
        reply = yield from self._send(request, may_send=self._message.may_still_send)
        if isinstance(reply, HttpFailure):
            return receipt_for_failure(reply)
        self._posted, self._posts = reply, self._posts + 1
        return reply

    def _note_keys(self, request: HttpRequest) -> None:
        named = request.headers.items()
        self.keys.update(value.rpartition(" ")[2] for name, value in named if _OF_A_KEY.search(name))

    def _failed(self, receipt: Receipt) -> Receipt:
        """Return what a step that failed makes of the exchange: of the message itself it says nothing."""
        if self._posted is None or isinstance(receipt, Delivered):
            return self._checked(receipt)
        if self._posted.status in _REFUSED:
            return NotSent(receipt.reason) if isinstance(receipt, Unknown) else receipt
        return Unknown(joined(f"HTTP {self._posted.status}, and a later step failed", receipt.reason))

    def _checked(self, receipt: object) -> Receipt:
        """Return what an exchange ended with, as far as that can be."""
        if self._posted is not None:
            if isinstance(receipt, Receipt):
                return receipt
            return Unknown(own(f"HTTP {self._posted.status}, and the channel gave no receipt"))
        if isinstance(receipt, NotSent | Refused):
            return receipt
        if isinstance(receipt, Unknown):
            return NotSent(receipt.reason, channel=receipt.channel, prepared=receipt.prepared)
        word = "Delivered" if isinstance(receipt, Delivered) else "no receipt"
        return Refused(own(f"the channel posted nothing, and gave {word}"), try_text=False)

    def _raised(self, error: Exception) -> Receipt:
        if self._posted is None:
            return Refused(quoting(type(error).__name__, bounded_detail(error)), try_text=False)
        # The request went out: only what follows it could have told its fate.
        told = f"HTTP {self._posted.status}, whose body could not be read: {type(error).__name__}"
        return Unknown(own(told))

    # --- downloads ---

    def _fetch(self, fetch: Fetch) -> Flow[FetchedVideo | Receipt]:
        url, until_s = fetch.url, time.monotonic() + fetch.timeout_s
        try:
            file = cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES))  # noqa: SIM115
        except OSError as error:
            return NotSent(own(f"no place for the video on this machine: {type(error).__name__}"), channel_fault=False)
        self._files.append(file)
        for _ in range(MOST_REDIRECTS + 1):
            trusted = _host(url) in self._trusted_hosts
            if not (is_web_url(url) if trusted else is_public_https(url)):
                return Refused(own("the video is at no public https address, and is not fetched"))
            request = HttpRequest(
                method="GET",
                url=url,
                headers={"Accept": "*/*"},
                timeout_s=max(0.0, until_s - time.monotonic()),
                sink=file.write,
                max_bytes=fetch.max_bytes,
                public_only=not trusted,
            )
            reply = yield from self._send(request)
            if isinstance(reply, HttpFailure):
                return _not_fetched(reply, fetch.max_bytes)
            if reply.status not in _REDIRECTS:
                return _fetched(reply, file)
            before, url = url, _joined(url, reply.headers.get("location", ""))
            if _host(url) != _host(before):
                return Refused(own(f"HTTP {reply.status}: the video is redirected to another host, and not fetched"))
        return Refused(own(f"the video is redirected more than {MOST_REDIRECTS} times"))


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        return ""


def _not_fetched(failure: HttpFailure, max_bytes: int) -> Receipt:
    match failure.kind:
        case FailureKind.TOO_LARGE:
            return Refused(own(f"the video has more than {max_bytes} bytes, which the channel does not take"))
        case FailureKind.NOT_PUBLIC | FailureKind.INVALID:
            return Refused(own(f"the video is not fetched: {failure.detail}"))
        case _:
            return NotSent(own(f"the video could not be fetched: {failure.kind.value}: {failure.detail}"))


def _fetched(reply: HttpReply, file: BinaryIO) -> FetchedVideo | Receipt:
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if reply.status in _GONE:
        return Refused(own(f"the video cannot be fetched: HTTP {reply.status}"))
    if reply.status != HTTPStatus.OK:
        wait_s = retry_after_s(reply.headers, time.time())
        return NotSent(own(f"the video could not be fetched: HTTP {reply.status}"), wait_s)
    size = file.tell()
    if size and not _VIDEO_TYPE.fullmatch(kind):
        file.seek(0)
        container = read_video_file(file.read(HEAD_BYTES)).container
        if container not in _VIDEOS and (container is not None or kind not in _BYTES):
            # A page of a proxy, or of a storage.
            return Refused(own("what is at the video's link is no video"))
    if not size:
        return NotSent(own("the video could not be fetched: it is empty"))
    return FetchedVideo(file=file, size=size, media_type=kind if _VIDEO_TYPE.fullmatch(kind) else "video/mp4")
