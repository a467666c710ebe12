"""Publishing what only an API's key opens, once for both runners: the poller fetches it, the publisher stores it.

In between it lies in a file of this machine, whole: what breaks off, never ends or
is too large never reaches the publisher, who can be told how large it is, and
reads it in its own way.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast

from videopoll._reasons import own
from videopoll.core.flow import do
from videopoll.jobs.urls import BadUrl, readied_url
from videopoll.jobs.video import Asset, BucketObject, PublicLink, VideoFile
from videopoll.observations import Downloaded, Fault, FaultKind, VideoFailed, VideoMissing, VideoReady
from videopoll.worker.host_parts import kind_of, poller_failed, publisher_failed

if TYPE_CHECKING:
    from videopoll.core.effects import PublishVideo
    from videopoll.core.flow import Flow

__all__ = ["Part", "publishing"]

IN_MEMORY_BYTES = 4_000_000
"""Up to this size a video waits in memory for the publisher, and not in a file."""

SHORTEST_PUBLISH_S = 5.0
"""A publisher gets this many seconds at least, if the fetching took nearly all."""

_ENDINGS = {"video/webm": "webm", "video/quicktime": "mov", "video/x-matroska": "mkv", "video/mpeg": "mpeg"}

LOCKED = "the video was made, but only the API's key opens it: give the worker a publisher, and redrive this letter"
IN_A_BUCKET = "the video was made, but it lies in a bucket: give the worker a publisher, and redrive this letter"

Part: TypeAlias = "Callable[..., object | Awaitable[object]]"
"""A host's method, sync or asyncio."""

Published: TypeAlias = VideoReady | VideoFailed | VideoMissing | Fault


class BoundedFile:
    """Where a poller writes a video: it takes no more than it may hold."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self.max_bytes = max_bytes
        self.size: int = 0
        self.full: bool = False

    def write(self, data: bytes, /) -> int:
        size = memoryview(data).nbytes
        if self.size + size > self.max_bytes:
            self.full = True
            msg = f"the video is larger than {self.max_bytes} bytes"
            raise ValueError(msg)
        self._file.write(data)
        self.size += size
        return size


def publishing(effect: PublishVideo, download: Part | None, publish: Part | None) -> Flow[Published]:
    """Fetch a locked video, publish it, and return the observation with its link, or why there is none.

    Args:
        effect: What to publish.
        download: The poller's `VideoDownload.download`, if it has one.
        publish: The publisher's, if there is one.
    """
    place = effect.locked.place
    if isinstance(place, PublicLink) or download is None or publish is None:
        return VideoFailed(own(IN_A_BUCKET if isinstance(place, BucketObject) else LOCKED))
    until_s = time.monotonic() + effect.timeout_s
    try:
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as spool:
            file = cast("BinaryIO", spool)
            into = BoundedFile(file, effect.max_bytes)
            try:
                got = yield from do(download, effect.job, place, into, timeout_s=effect.timeout_s / 2)
            except Exception as error:  # noqa: BLE001 - a host's part may raise anything
                got = None if into.full else poller_failed(error)
            if into.full:
                return VideoFailed(own(f"the video was made, but has more than {effect.max_bytes} bytes"))
            if not isinstance(got, Downloaded):
                return _not_downloaded(got)
            if not into.size:
                return Fault(FaultKind.MALFORMED, own("the video that only the key opens is empty"))
            file.seek(0)
            media_type = got.media_type or effect.locked.media_type or "video/mp4"
            name = f"{effect.job.reference}.{_ENDINGS.get(media_type, 'mp4')}"
            video = VideoFile(job=effect.job, file=file, size=into.size, media_type=media_type, name=name)
            try:
                link = yield from do(publish, video, timeout_s=max(SHORTEST_PUBLISH_S, until_s - time.monotonic()))
            except Exception as error:  # noqa: BLE001
                return publisher_failed(error)
            return _published(link, media_type)
    except OSError as error:
        # The disk is full, or there is no place for files at all.
        return Fault(FaultKind.INTERNAL, own(f"no place for the video on this machine: {type(error).__name__}"))


def _not_downloaded(got: object) -> Published:
    if isinstance(got, VideoFailed | VideoMissing | Fault):
        return got
    return Fault(FaultKind.INTERNAL, own(f"the poller's download gave {kind_of(got)}, which says nothing of a video"))


def _published(link: object, media_type: str) -> Published:
    url = link.url if isinstance(link, PublicLink) else link
    readied = readied_url(url)
    if isinstance(readied, BadUrl):
        return Fault(FaultKind.INTERNAL, own(f"the publisher's link cannot be delivered: it {readied.problem}"))
    ends_ms, lives_s = (link.ends_ms, link.lives_s) if isinstance(link, PublicLink) else (None, None)
    return VideoReady(assets=(Asset(PublicLink(readied, ends_ms, lives_s=lives_s), media_type=media_type),))
