"""What a video API may say of a generation that has ended: what was made and where it is, or why there is nothing.

References only: a link, or the name of an object in a bucket. No bytes and no
credentials, as all of this is stored in Redis. A `VideoFile` is what a publisher
gets of it, and never leaves the worker's machine.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast

import attrs

from videopoll.jobs.bounds import bounded
from videopoll.jobs.codec import is_number
from videopoll.jobs.urls import BadUrl, readied_url

if TYPE_CHECKING:
    from collections.abc import Iterable

    from videopoll.jobs.codec import JsonValue
    from videopoll.jobs.job import VideoJob

__all__ = ["Asset", "AssetKind", "BucketObject", "FailureReason", "LockedLink", "Place", "PublicLink", "VideoFile"]

MAX_ASSETS = 20
"""Things that one generation may have made, as far as they are kept."""

MAX_MEDIA_TYPE_CHARS = 100
MAX_URI_CHARS = 2048

_OBJECT = re.compile(r"(?:s3|gs)://[A-Za-z0-9._-]{1,255}/[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


class FailureReason(enum.StrEnum):
    """Why there is no video, where the API tells. Users get a text of its own for each."""

    UNKNOWN = "unknown"
    MODERATED = "moderated"
    """A content filter refused the prompt, or what was made of it."""
    REFUSED_INPUT = "refused_input"
    """The API does not take this prompt, image or setting."""
    CANCELLED = "cancelled"
    """Somebody cancelled it at the API."""
    EXPIRED = "expired"
    """It waited too long at the API, or what was made is gone there."""
    OUT_OF_CREDIT = "out_of_credit"
    """The account at the API has no credit left, or has used up its quota."""
    NOT_CONFIGURED = "not_configured"
    """The worker cannot ask the API of this job. The job also becomes a dead letter: a redrive asks again."""


class AssetKind(enum.StrEnum):
    """What a thing is that was made."""

    VIDEO = "video"
    THUMBNAIL = "thumbnail"
    PREVIEW = "preview"
    CAPTIONED = "captioned"
    """The video with its subtitles in the picture."""
    SUBTITLES = "subtitles"
    LAST_FRAME = "last_frame"
    OTHER = "other"


def _text(value: str) -> str:
    return str.__str__(value) if isinstance(value, str) else bounded(value, MAX_URI_CHARS)


def _ms_or_none(value: float | None) -> int | None:
    return max(0, int(value)) if is_number(value) else None


def _seconds_or_none(value: float | None) -> float | None:
    return max(0.0, float(value)) if is_number(value) else None


def _media_type(value: str | None) -> str | None:
    return None if value is None else bounded(value, MAX_MEDIA_TYPE_CHARS)


def _kind(value: AssetKind) -> AssetKind:
    try:
        return AssetKind(value)
    except ValueError:
        return AssetKind.OTHER


@attrs.frozen
class PublicLink:
    """A link that anybody can open.

    Args:
        url: Its http or https URL. Kept out of ``repr``, as it may be signed.
        ends_ms: When it stops working, in Unix milliseconds; None if nobody knows.
        lives_s: How long it works from now on, in seconds, for whoever gives a link to a
            worker: that turns it into `ends_ms` by Redis's clock, so that a wrong clock of
            this machine does not matter.
    """

    url: str = attrs.field(converter=_text, repr=False)
    ends_ms: int | None = attrs.field(default=None, converter=_ms_or_none)
    lives_s: float | None = attrs.field(default=None, converter=_seconds_or_none, kw_only=True)

    def dated(self, now_ms: int) -> PublicLink:
        """Return the link with its end as a time, as it was given at `now_ms`."""
        return self if self.lives_s is None else PublicLink(self.url, now_ms + self.lives_s * 1000)


@attrs.frozen
class LockedLink:
    """A link that only the API's key opens. It is never sent to a user, logged or shown.

    Args:
        url: Its http or https URL. Kept out of ``repr``.
    """

    url: str = attrs.field(converter=_text, repr=False)


@attrs.frozen
class BucketObject:
    """An object in a bucket, which whoever has the right to it can read.

    Args:
        uri: ``s3://bucket/key`` or ``gs://bucket/key``. Kept out of ``repr``.
    """

    uri: str = attrs.field(converter=_text, repr=False)


Place: TypeAlias = PublicLink | LockedLink | BucketObject
"""Where a thing is that was made."""


@attrs.frozen
class Asset:
    """One thing that was made.

    Args:
        place: Where it is.
        kind: What it is.
        media_type: Such as ``video/mp4``, if the API tells.
    """

    place: Place
    kind: AssetKind = attrs.field(default=AssetKind.VIDEO, converter=_kind)
    media_type: str | None = attrs.field(default=None, converter=_media_type)

    def readied(self) -> Asset | BadUrl:
        """Return the asset with its URL in the form in which it is handed on, or why it must not be."""
        place = self.place
        if isinstance(place, BucketObject):
            sound = len(place.uri) <= MAX_URI_CHARS and _OBJECT.fullmatch(place.uri)
            return self if sound else BadUrl("is no s3:// or gs:// object")
        if not isinstance(place, PublicLink | LockedLink):
            return BadUrl("is nowhere")
        url = readied_url(place.url)
        if isinstance(url, BadUrl):
            return url
        return self if url == place.url else attrs.evolve(self, place=attrs.evolve(place, url=url))


@attrs.frozen(kw_only=True)
class VideoFile:
    """A video that only the API's key opens, as the worker fetched it: whole, and no larger than it may be.

    Args:
        job: Whose video it is.
        file: Its bytes, from the start; can be read and sought. Closed when the call is over that got it.
        size: Their number.
        media_type: Such as ``video/mp4``.
        name: A name for it with letters, digits, ``-`` and an ending: the same at every try, so
            that a second one takes the place of the first. Whoever knows the job can guess it.
    """

    job: VideoJob
    file: BinaryIO = attrs.field(repr=False)
    size: int
    media_type: str
    name: str


def public_link(assets: Iterable[Asset]) -> PublicLink | None:
    """Return the link to the first video that anybody can open."""
    return next(
        (one.place for one in assets if one.kind is AssetKind.VIDEO and isinstance(one.place, PublicLink)), None
    )


def public_url(assets: Iterable[Asset]) -> str | None:
    """Return the URL of the first video that anybody can open."""
    link = public_link(assets)
    return None if link is None else link.url


def locked_video(assets: Iterable[Asset]) -> Asset | None:
    """Return the first video that not everybody can open."""
    return next((one for one in assets if one.kind is AssetKind.VIDEO and not isinstance(one.place, PublicLink)), None)


def dated(assets: Iterable[Asset], now_ms: int) -> tuple[Asset, ...]:
    """Return assets whose links say when they end, as they were given at `now_ms`."""
    return tuple(
        attrs.evolve(one, place=one.place.dated(now_ms))
        if isinstance(one.place, PublicLink) and one.place.lives_s is not None
        else one
        for one in assets
    )


def with_video(url: str | None, assets: tuple[Asset, ...]) -> tuple[str | None, tuple[Asset, ...]]:
    """Return the link of the video and all assets, each made of the other where only one of them is given."""
    found = public_url(assets)
    if url is None or url == found:
        return found, assets
    # The other link was that of the video: the URL that is given takes its place.
    rest = (one for one in assets if one.kind is not AssetKind.VIDEO or not isinstance(one.place, PublicLink))
    return url, (Asset(PublicLink(url)), *rest)


_PLACES = {PublicLink: "public", LockedLink: "locked", BucketObject: "object"}


def write_assets(assets: Iterable[Asset], *, locked: bool = True) -> list[JsonValue]:
    """Return assets as they are stored; `locked` is whether to write where the locked ones are."""
    written: list[JsonValue] = []
    for one in assets:
        place = one.place
        fields: dict[str, JsonValue] = {"kind": one.kind.value, "place": _PLACES[type(place)]}
        if locked or not isinstance(place, LockedLink):
            fields["url"] = place.uri if isinstance(place, BucketObject) else place.url
        if isinstance(place, PublicLink) and place.ends_ms is not None:
            fields["endsAt"] = place.ends_ms
        if one.media_type is not None:
            fields["mediaType"] = one.media_type
        written.append(fields)
    return written


def read_assets(stored: JsonValue) -> tuple[Asset, ...]:
    """Read stored assets, and pass over what is none."""
    found = (_read_asset(one) for one in stored[:MAX_ASSETS]) if isinstance(stored, list) else ()
    return tuple(one for one in found if one is not None)


def _read_asset(stored: JsonValue) -> Asset | None:
    if not isinstance(stored, dict) or not isinstance(url := stored.get("url"), str):
        return None
    ends = stored.get("endsAt")
    places: dict[JsonValue, Place] = {
        "public": PublicLink(url, ends if is_number(ends) else None),
        "locked": LockedLink(url),
        "object": BucketObject(url),
    }
    place, media_type = places.get(cast("str", stored.get("place"))), stored.get("mediaType")
    if place is None:
        return None
    return Asset(place, cast("AssetKind", stored.get("kind")), media_type if isinstance(media_type, str) else None)


def failure_reason(value: object) -> FailureReason:
    """Return the reason that a word names; a word of a newer version names none."""
    try:
        return FailureReason(str(value))
    except ValueError:
        return FailureReason.UNKNOWN
