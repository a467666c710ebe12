"""The results of a poll, as values.

A `VideoPoller` turns a reply, or the lack of one, into one of these. Faults of the
network are values, not exceptions, so that `videopoll.core.polling` can judge them
in a pure function.
"""

from __future__ import annotations

import datetime as dt
import enum
from typing import TypeAlias

import attrs

from videopoll._reasons import own, repr_told, shown_word
from videopoll.jobs.bounds import bounded, bounded_detail, bounded_detail_or_none, bounded_id_or_none, time_or_none
from videopoll.jobs.codec import JsonValue, is_number
from videopoll.jobs.urls import MAX_URL_CHARS, readied_url

__all__ = ["Fault", "FaultKind", "Observation", "VideoFailed", "VideoMissing", "VideoReady", "VideoWorking"]


MAX_WORD_CHARS = 50
"""Characters of a status word that are kept."""

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


def _number_or_none(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _url(value: str) -> str:
    """Return a URL as a text, whatever object it is; what is no text at all is found out when it is checked."""
    if isinstance(value, str):
        # Exactly a string: an enum's member or another kind of string may say something else of itself.
        return str.__str__(value)
    if value is None or isinstance(value, bytes | bytearray | bool | int | float):
        return value
    return bounded(value, MAX_KEPT_URL_CHARS)


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
    """

    word: str = attrs.field(default="processing", converter=_word, repr=_repr_word)
    known: bool = attrs.field(default=True, converter=bool)
    retry_after_s: float | None = attrs.field(default=None, converter=_seconds_or_none)
    error: str | None = attrs.field(default=None, converter=bounded_detail_or_none, repr=repr_told)


@attrs.frozen
class VideoReady:
    """The video is finished.

    Args:
        video_url: Its http or https URL. Kept out of ``repr``, as it may be signed.
        file_id: The API's id of the file.
        timestamp: When the API completed it, in the API's own format.
    """

    video_url: str = attrs.field(converter=_url, repr=False)
    file_id: str | None = attrs.field(default=None, converter=bounded_id_or_none, repr=False)
    timestamp: JsonValue = attrs.field(default=None, converter=time_or_none, repr=False)


@attrs.frozen
class VideoFailed:
    """The generation failed for good, or the API will never answer for this job.

    Args:
        error: The API's reason, for the operator: its first 1000 characters are kept.
        undeliverable_url: The URL of a video that was made and cannot be delivered, for
            the operator. Kept out of ``repr``.
    """

    error: str = attrs.field(converter=bounded_detail, repr=repr_told)
    undeliverable_url: str | None = attrs.field(default=None, converter=_url_or_none, repr=False)


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


Observation: TypeAlias = VideoWorking | VideoReady | VideoFailed | VideoMissing | Fault
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


NO_URL = own("the video API says completed, but gives no video URL")
