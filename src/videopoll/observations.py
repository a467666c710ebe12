"""The results of a poll, as values.

A `VideoPoller` turns a reply, or the lack of one, into one of these. Faults of the
network are values, not exceptions, so that `videopoll.core.polling` can judge them
in a pure function.
"""

from __future__ import annotations

import datetime as dt
import enum
from typing import TYPE_CHECKING, TypeAlias

import attrs

from videopoll._reasons import own, repr_told, shown_word
from videopoll.jobs.bounds import bounded, bounded_detail, bounded_detail_or_none, bounded_id_or_none, time_or_none
from videopoll.jobs.codec import JsonValue, is_number
from videopoll.jobs.urls import MAX_URL_CHARS, BadUrl, readied_url
from videopoll.jobs.video import (
    MAX_ASSETS,
    MAX_MEDIA_TYPE_CHARS,
    Asset,
    FailureReason,
    failure_reason,
    locked_video,
    public_url,
    with_video,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Downloaded",
    "Fault",
    "FaultKind",
    "NotAsked",
    "Observation",
    "VideoFailed",
    "VideoMissing",
    "VideoReady",
    "VideoWorking",
]


MAX_WORD_CHARS = 50
"""Characters of a status word that are kept."""

SHORTEST_WAIT_S = 0.1
"""Seconds that a job waits at least whose poller has not asked."""

MAX_KEPT_URL_CHARS = 2 * MAX_URL_CHARS
"""Characters of an undeliverable video URL that are kept for the operator."""


# A host's own poller hands on what its HTTP client or its models gave it: a URL that is an object, a
# time that is one, "60" as seconds. Whoever made an observation, its values are what they say.


def _word(value: str) -> str:
    return bounded(value, MAX_WORD_CHARS)


def _seconds_or_none(value: float | None) -> float | None:
    if isinstance(value, str):
        value = _number_or_none(value)
    elif isinstance(value, dt.timedelta):
        value = value.total_seconds()
    # A wait is never below zero, and NaN and infinity are none.
    return max(0.0, value) if is_number(value) else None


def _wait(value: float) -> float:
    seconds = _seconds_or_none(value)
    return SHORTEST_WAIT_S if seconds is None else max(SHORTEST_WAIT_S, seconds)


def _number_or_none(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _share_or_none(value: float | None) -> float | None:
    value = _number_or_none(value) if isinstance(value, str) else value
    return min(max(0.0, float(value)), 1.0) if is_number(value) else None


def _count_or_none(value: float | None) -> int | None:
    value = _number_or_none(value) if isinstance(value, str) else value
    return max(0, int(value)) if is_number(value) else None


def _assets(value: Iterable[Asset]) -> tuple[Asset, ...]:
    try:
        return tuple(one for one in value if isinstance(one, Asset))[:MAX_ASSETS]
    except TypeError:
        return ()


def _url(value: str | None) -> str | None:
    """Return a URL as a text, whatever object it is; what is no text at all is found out when it is checked."""
    if isinstance(value, str):
        # Exactly a string: an enum's member or another kind of string may say something else of itself.
        return str.__str__(value)
    if value is None or isinstance(value, bytes | bytearray | bool | int | float):
        return value
    return bounded(value, MAX_KEPT_URL_CHARS)


def _media_type(value: str | None) -> str | None:
    return None if value is None else bounded(value, MAX_MEDIA_TYPE_CHARS)


def _url_or_none(value: str | None) -> str | None:
    return None if value is None else bounded(value, MAX_KEPT_URL_CHARS)


def _kind(value: FaultKind) -> FaultKind:
    try:
        return FaultKind(value)
    except ValueError:
        return FaultKind.INTERNAL


def _repr_word(value: str) -> str:
    return repr(shown_word(value))


@attrs.frozen
class VideoWorking:
    """The video is not finished yet.

    Args:
        word: The API's status word.
        known: Whether videopoll knows that word. An unknown one keeps the job polling,
            and is counted.
        retry_after_s: How long the API asked to wait, in seconds.
        error: Why the job fails if the API answers the same an interval later; None if
            it just goes on. An API may answer "completed" a moment before it has the URL.
        progress: How much of it is done, from 0 to 1, if the API tells. Shown, never judged by.
        queue_position: Its place in the API's own queue, if the API tells; 0 is the next.
    """

    word: str = attrs.field(default="processing", converter=_word, repr=_repr_word)
    known: bool = attrs.field(default=True, converter=bool)
    retry_after_s: float | None = attrs.field(default=None, converter=_seconds_or_none)
    error: str | None = attrs.field(default=None, converter=bounded_detail_or_none, repr=repr_told)
    progress: float | None = attrs.field(default=None, converter=_share_or_none, kw_only=True)
    queue_position: int | None = attrs.field(default=None, converter=_count_or_none, kw_only=True)


@attrs.frozen
class VideoReady:
    """The video is finished.

    Args:
        video_url: Its http or https URL. Kept out of ``repr``, as it may be signed. None if
            `assets` say where it is.
        file_id: The API's id of the file.
        timestamp: When the API completed it, in the API's own format.
        assets: All that was made, the video first, where there is more to say than the URL:
            when a link ends, a thumbnail, subtitles. See `videopoll.jobs.video`.
        refreshable: Whether asking the API again gives a fresh link.
    """

    video_url: str | None = attrs.field(default=None, converter=_url, repr=False)
    file_id: str | None = attrs.field(default=None, converter=bounded_id_or_none, repr=False)
    timestamp: JsonValue = attrs.field(default=None, converter=time_or_none, repr=False)
    assets: tuple[Asset, ...] = attrs.field(default=(), converter=_assets, kw_only=True, repr=False)
    refreshable: bool = attrs.field(default=False, converter=bool, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.assets or isinstance(self.video_url, str):
            url, assets = with_video(self.video_url, self.assets)
            object.__setattr__(self, "video_url", url)
            object.__setattr__(self, "assets", assets)


@attrs.frozen
class VideoFailed:
    """The generation failed for good, or the API will never answer for this job.

    Args:
        error: The API's reason, for the operator: its first 1000 characters are kept.
        undeliverable_url: The URL of a video that was made and cannot be delivered, for
            the operator: the job also becomes a dead letter. Kept out of ``repr``.
        reason: Why, where the API tells. Users get a text for it.
    """

    error: str = attrs.field(converter=bounded_detail, repr=repr_told)
    undeliverable_url: str | None = attrs.field(default=None, converter=_url_or_none, repr=False)
    reason: FailureReason = attrs.field(default=FailureReason.UNKNOWN, converter=failure_reason, kw_only=True)


@attrs.frozen
class Downloaded:
    """A video that only the API's key opens was written, whole, where it should be.

    Args:
        media_type: Such as ``video/mp4``, if the API told.
    """

    media_type: str | None = attrs.field(default=None, converter=_media_type)


@attrs.frozen
class VideoMissing:
    """The API does not know the job."""


class FaultKind(enum.StrEnum):
    """Why a poll got no answer."""

    CONNECTION = "connection"
    """There was no connection, or it broke."""
    TIMEOUT = "timeout"
    """There was no answer within the request's timeout."""
    SERVER = "server"
    """The API answered with a server error (5xx, 408, 425) or a redirect."""
    THROTTLED = "throttled"
    """429: too many requests of this account."""
    CREDENTIALS = "credentials"
    """401 or 403: the API key is wrong, which the operator has to correct."""
    BLOCKED = "blocked"
    """401 or 403, but not from the API: a firewall or a proxy blocks the request."""
    MALFORMED = "malformed"
    """The answer cannot be read: it is not JSON, not an object, or too large."""
    INTERNAL = "internal"
    """The poller raised an exception."""


@attrs.frozen
class Fault:
    """A passing fault: the worker backs off and polls again.

    Args:
        kind: The kind of fault.
        detail: What happened, for the operator. No secrets, no URLs.
        retry_after_s: How long the API asked to wait, in seconds.
    """

    kind: FaultKind = attrs.field(converter=_kind)
    detail: str = attrs.field(converter=bounded_detail, repr=repr_told)
    retry_after_s: float | None = attrs.field(default=None, converter=_seconds_or_none)


@attrs.frozen
class NotAsked:
    """The poller has not asked the API, as its account there is to be left alone for a while.

    That counts neither as a poll nor as a fault. The job waits, and its worker polls others meanwhile.

    Args:
        wait_s: Seconds until it may be asked; no job waits beyond its deadline.
    """

    wait_s: float = attrs.field(converter=_wait)


Answered: TypeAlias = VideoWorking | VideoReady | VideoFailed | VideoMissing | Fault
"""The result of one poll that was made."""

Observation: TypeAlias = Answered | NotAsked
"""The result of one poll."""


def checked_video(
    url: object, *, word: str = "completed", error: str | None = None, file_id: object = None, timestamp: object = None
) -> VideoReady | VideoWorking | VideoFailed:
    """Return the observation for a video that the API calls finished.

    Args:
        url: Its URL. Without one the video is not there yet: some APIs write the status a
            moment before the URL. One that must not be delivered is kept for the operator.
        word: The status word that came with it.
        error: Why the job fails if the URL does not come.
        file_id: The API's id of the file.
        timestamp: When the API completed it, in the API's own format.
    """
    readied = readied_url(url)
    if isinstance(readied, str):
        return VideoReady(readied, bounded_id_or_none(file_id), time_or_none(timestamp))
    if not url or (isinstance(url, str) and not url.strip()):
        return VideoWorking(word, known=True, error=error or NO_URL)
    problem = f"the video was made, but its video URL cannot be delivered: it {readied.problem}"
    return VideoFailed(own(problem), url[:MAX_KEPT_URL_CHARS] if isinstance(url, str) else None)


def checked_ready(ready: VideoReady) -> VideoReady | VideoWorking | VideoFailed:
    """Return what a finished video comes to, whoever's poller found it: its links are those that may be handed on.

    Things beside the video that cannot be handed on are left out. What becomes of a video that
    nobody can open without the API's key is decided before it is sent.
    """
    assets = tuple(one for one in map(Asset.readied, ready.assets) if not isinstance(one, BadUrl))
    url = public_url(assets)
    if url is not None or locked_video(assets) is not None:
        # Most of the time it is ours, and checked already.
        same = url == ready.video_url and assets == ready.assets
        return ready if same else attrs.evolve(ready, video_url=url, assets=assets)
    return checked_video(ready.video_url, file_id=ready.file_id, timestamp=ready.timestamp)


NO_URL = own("the video API says completed, but gives no video URL")
