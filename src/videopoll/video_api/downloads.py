"""Fetching what only an API's key opens: which requests it takes, and what their replies mean.

The key goes to the API's own origin alone. A redirect is followed, without the key, if
it leads to a public https address: many APIs sign a link of their storage that way.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, cast
from urllib.parse import urljoin

from videopoll._http import FailureKind, HttpFailure, HttpReply, HttpRequest
from videopoll._reasons import own
from videopoll.core.flow import Flow, do
from videopoll.jobs.bounds import bounded
from videopoll.jobs.urls import is_public_https
from videopoll.jobs.video import MAX_MEDIA_TYPE_CHARS
from videopoll.observations import Downloaded, Fault, FaultKind, VideoFailed
from videopoll.video_api.replies import FAULTS

if TYPE_CHECKING:
    from videopoll.protocols import VideoSink

__all__ = ["downloading"]

MOST_REDIRECTS = 3

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_BYTES = frozenset({"application/octet-stream", "binary/octet-stream", "application/mp4", ""})
"""What a server calls a video whose type it does not know."""


def downloading(
    url: str,
    headers: Mapping[str, str],
    file: VideoSink,
    timeout_s: float,
    send: Callable[[HttpRequest], HttpReply | HttpFailure | Awaitable[HttpReply | HttpFailure]],
) -> Flow[Downloaded | HttpReply | VideoFailed | Fault]:
    """Make the requests of a download; return what it came to, or the API's own reply if that is no success.

    Args:
        url: Where the video is, at the API's own origin.
        headers: The headers for that origin, the key among them.
        file: Where the video goes.
        timeout_s: Seconds for all of it.
        send: What carries a request out.
    """
    until_s = time.monotonic() + timeout_s
    sent: Mapping[str, str] = {**headers, "Accept": "*/*"}
    for hop in range(MOST_REDIRECTS + 1):
        left_s = max(0.0, until_s - time.monotonic())
        request = HttpRequest(
            method="GET", url=url, headers=sent, timeout_s=left_s, sink=file.write, max_bytes=file.max_bytes
        )
        reply = cast("HttpReply | HttpFailure", (yield from do(send, request)))
        if isinstance(reply, HttpFailure):
            if reply.kind is FailureKind.TOO_LARGE:
                return VideoFailed(own(f"the video was made, but has more than {file.max_bytes} bytes"))
            return Fault(FAULTS[reply.kind], own(reply.detail))
        if reply.is_success:
            return _downloaded(reply)
        if reply.status not in _REDIRECTS:
            # A link of the storage that has ended is signed anew when the API is asked again.
            return (
                reply
                if not hop
                else Fault(FaultKind.SERVER, own(f"HTTP {reply.status} from where the API redirects to"))
            )
        url, sent = _joined(url, reply.headers.get("location", "")), {"Accept": "*/*"}
        if not is_public_https(url):
            return Fault(FaultKind.SERVER, own(f"HTTP {reply.status}: a redirect to no public https address"))
    return Fault(FaultKind.SERVER, own(f"more than {MOST_REDIRECTS} redirects"))


def _joined(url: str, location: str) -> str:
    """Return where a redirect leads; nothing if that is no URL at all, such as ``//[``."""
    try:
        return urljoin(url, location)
    except ValueError:
        return ""


def _downloaded(reply: HttpReply) -> Downloaded | Fault:
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if reply.status != HTTPStatus.OK:
        return Fault(FaultKind.MALFORMED, own(f"HTTP {reply.status} in place of a whole video"))
    if not kind.startswith("video/") and kind not in _BYTES:
        # A page of a proxy, or the job's status: nothing to hand on to a user.
        return Fault(FaultKind.MALFORMED, own(f"HTTP {reply.status}: what came is no video"))
    return Downloaded(bounded(kind, MAX_MEDIA_TYPE_CHARS) if kind.startswith("video/") else None)
