"""An optional look at a video before it is handed to a channel that has limits.

Two requests of at most 2 s each, to hosts that the operator has named and to no other: the
URL comes from outside. What cannot be learnt is no reason not to send.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import attrs

from videopoll._http import HttpReply, HttpRequest
from videopoll._reasons import own
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_choice, check_count, check_flags, check_kinds, mapped
from videopoll.jobs.outcome import MessageForm
from videopoll.messages import Refused
from videopoll.notifiers.exchange import Ask, Step, StepFailedError
from videopoll.notifiers.hosts import host_names
from videopoll.notifiers.video_file import HEAD_BYTES, VideoFile, read_video_file

if TYPE_CHECKING:
    from collections.abc import Generator

    from videopoll.messages import Message

__all__ = ["META_LIMITS", "WHATSAPP_LIMITS", "VideoCheck", "VideoLimits"]

LOOK_TIMEOUT_S = 2.0

MEGABYTE = 1024 * 1024

NO_VIDEO = frozenset({"text", "playlist"})
"""What stands where a video should be: "this link has expired", or a list of other files."""

_CONTAINERS = {
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/3gpp": "3gp",
    "video/3gpp2": "3gp",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "video/x-msvideo": "avi",
    "video/x-flv": "flv",
    "video/mpeg": "mpeg",
    "video/mp2t": "mpeg",
    "application/vnd.apple.mpegurl": "playlist",
    "application/x-mpegurl": "playlist",
    "application/dash+xml": "playlist",
    "application/json": "text",
    "application/xml": "text",
}

_SAYS_NOTHING = frozenset({"application/octet-stream", "binary/octet-stream", "text/plain", ""})
"""Servers give these to files whose type they do not know."""


def _sizes(sizes: Mapping[MessageForm, int]) -> Mapping[MessageForm, int]:
    limits = mapped(sizes, "VideoLimits.max_bytes", needed=True)
    for form, size in limits.items():
        check_choice("a form of VideoLimits.max_bytes", form, *MessageForm)
        check_count(f"VideoLimits.max_bytes of {form}", size)
    return {MessageForm(form): size for form, size in limits.items()}


def _words(words: Iterable[str] | None) -> frozenset[str] | None:
    if isinstance(words, Iterable) and not isinstance(words, str):
        given = tuple(words)
        if all(isinstance(one, str) for one in given):
            return frozenset(given)
    # None; and what is no list of texts, which is refused where its name is known.
    return cast("None", words)


@attrs.frozen(kw_only=True)
class VideoLimits:
    """What a channel takes, and what follows where a video does not fit.

    A file that does not fit goes in the next form that takes it, in the order of `max_bytes`, or
    else as a text with the link. A document takes every video that is not too large.

    Args:
        max_bytes: The largest file in bytes, for each form with a video that the channel has.
        containers: The kinds of files that it shows as videos (`VideoFile.container`); None for all.
        video_codecs: The codecs that its apps play (`VideoFile.video_codec`); None for all.
        audio_codecs: The same for sound. A video without sound always fits.
        most_audio_tracks: How many tracks of sound a file may have; None for any number.
        high_with_b_frames: Whether its apps play H.264 in a High profile that has B-frames.
    """

    max_bytes: Mapping[MessageForm, int] = attrs.field(converter=_sizes)
    containers: frozenset[str] | None = attrs.field(default=None, converter=_words)
    video_codecs: frozenset[str] | None = attrs.field(default=None, converter=_words)
    audio_codecs: frozenset[str] | None = attrs.field(default=None, converter=_words)
    most_audio_tracks: int | None = None
    high_with_b_frames: bool = True

    def __attrs_post_init__(self) -> None:
        for name in ("containers", "video_codecs", "audio_codecs"):
            words = getattr(self, name)
            if words is not None and not isinstance(words, frozenset):
                msg = f"VideoLimits.{name} must be a list of names, or None for all of them"
                raise ConfigurationError(msg)
        check_flags("VideoLimits", high_with_b_frames=self.high_with_b_frames)
        if self.most_audio_tracks is not None:
            check_count("VideoLimits.most_audio_tracks", self.most_audio_tracks, low=0)

    @property
    def looks_inside(self) -> bool:
        """Whether it takes the file's own bytes to tell, as its headers do not."""
        asked = (self.video_codecs, self.audio_codecs, self.most_audio_tracks)
        return not self.high_with_b_frames or any(one is not None for one in asked)

    def refusal(self, form: MessageForm, file: VideoFile, size: int | None) -> Refused | None:
        """Return why a file does not go in this form, with the form to try next; None if it does.

        Args:
            form: The form of the message.
            file: What is known of the file.
            size: Its size in bytes, if that is known.
        """
        why = self._problem(form, file, size)
        if why is None:
            return None
        others = (one for one in self.max_bytes if one is not form)
        return Refused(own(why), then=next((one for one in others if self._problem(one, file, size) is None), None))

    def _problem(self, form: MessageForm, file: VideoFile, size: int | None) -> str | None:
        most = self.max_bytes.get(form)
        if most is not None and size is not None and size > most:
            return f"the video has {size} bytes, the channel takes {most}"
        if file.container in NO_VIDEO:
            return f"there is no video at the link, but a {file.container}"
        return None if form is MessageForm.DOCUMENT else self._unplayable(file)

    def _unplayable(self, file: VideoFile) -> str | None:
        sound = file.audio_codecs or ()
        if not _fits(file.container, self.containers):
            return f"the file is {file.container}, which the channel does not show as a video"
        if not _fits(file.video_codec, self.video_codecs):
            return f"the video is {file.video_codec}, which the channel does not play"
        if not all(_fits(codec, self.audio_codecs) for codec in sound):
            return f"the sound is {' and '.join(sorted(set(sound)))}, which the channel does not play"
        if self.most_audio_tracks is not None and len(sound) > self.most_audio_tracks:
            return f"the video has {len(sound)} tracks of sound, the channel plays {self.most_audio_tracks}"
        high = file.video_codec == "h264" and (file.profile or "").startswith("High")
        if high and file.b_frames and not self.high_with_b_frames:
            return "the video is H.264 in a High profile with B-frames, which not all apps of the channel play"
        return None


WHATSAPP_LIMITS = VideoLimits(max_bytes={MessageForm.VIDEO: 16 * MEGABYTE}, containers={"mp4", "3gp", "mov"})
"""What gateways to WhatsApp take. Of codecs they say nothing."""


META_LIMITS = VideoLimits(
    max_bytes={MessageForm.VIDEO: 16 * MEGABYTE, MessageForm.UPLOAD: 16 * MEGABYTE},
    containers={"mp4", "3gp"},
    video_codecs={"h264"},
    audio_codecs={"aac"},
    most_audio_tracks=1,
    high_with_b_frames=False,
)
"""What Meta writes of videos: also that WhatsApp for Android does not play B-frames in a High profile."""


def _fits(what: str | None, taken: frozenset[str] | None) -> bool:
    return what is None or taken is None or what in taken


def _hosts(hosts: Iterable[str]) -> frozenset[str]:
    return host_names(hosts, "VideoCheck.hosts")


@attrs.frozen
class VideoCheck:
    """Looks at a file before it is sent; what the channel would not take goes in another form, or as a link, at once.

    A ``HEAD`` request asks the file's host for its size and type. Where the channel's limits are about
    codecs, where ``HEAD`` is refused (as for many signed links) or says too little, the first 256 KB of
    the file are read.

    Args:
        hosts: The only hosts that may be asked, e.g. ``{"files.api-ai-mvp.com"}``.
        limits: What the channel takes; None for its own `HttpNotifier.video_limits`. To change one
            of those: ``attrs.evolve(WhatsAppCloudNotifier.video_limits, high_with_b_frames=True)``.

    Raises:
        ConfigurationError: `hosts` is empty or a string.
    """

    hosts: frozenset[str] = attrs.field(converter=_hosts)
    limits: VideoLimits | None = None

    def __attrs_post_init__(self) -> None:
        check_kinds("VideoCheck", VideoLimits, limits=self.limits)
        if not self.hosts:
            msg = "VideoCheck.hosts must name at least one host that may be asked"
            raise ConfigurationError(msg)

    def look(self, message: Message, limits: VideoLimits | None) -> Generator[Step, object, Refused | None]:
        """Ask for the file; return why the message does not go in its form, None if it does. A part of an exchange.

        Args:
            message: The message.
            limits: What its channel takes, unless this check has limits of its own.
        """
        limits, url = self.limits or limits, message.video_url
        if limits is None or message.form is not MessageForm.VIDEO or not url:
            return None
        if urlsplit(url).hostname not in self.hosts:
            return None
        found = _Found()
        for method in ("GET", "HEAD") if limits.looks_inside else ("HEAD", "GET"):
            try:
                found.take((yield from Ask(found.question(method, url))))
            except StepFailedError:
                found.take(None)
            if found.silent or found.knows_enough:
                break
        return limits.refusal(message.form, found.file, found.size)


class _Enough(Exception):  # noqa: N818 - no error
    """The beginning of the file is there: the rest is not read."""


@attrs.define
class _Found:
    """What has been learnt of a file so far."""

    file: VideoFile = attrs.field(factory=VideoFile)
    size: int | None = None
    head: bytearray = attrs.field(factory=bytearray)
    silent: bool = False

    @property
    def knows_enough(self) -> bool:
        return self.size is not None and self.file.container is not None

    def question(self, method: str, url: str) -> HttpRequest:
        if method == "HEAD":
            return HttpRequest(method="HEAD", url=url, timeout_s=LOOK_TIMEOUT_S)
        return HttpRequest(
            method="GET",
            url=url,
            timeout_s=LOOK_TIMEOUT_S,
            headers={"Range": f"bytes=0-{HEAD_BYTES - 1}"},
            # A host that knows no ranges begins to send the whole file.
            sink=self._keep,
            max_bytes=2**63,
        )

    def _keep(self, chunk: bytes) -> None:
        left = HEAD_BYTES - len(self.head)
        self.head += chunk[:left]
        if len(chunk) > left:
            raise _Enough

    def take(self, reply: HttpReply | None) -> None:
        """Learn from an answer, and from what was read before it broke off."""
        if self.head:
            self.file = read_video_file(bytes(self.head))
        self.silent = reply is None and not self.head
        if reply is not None and reply.is_success:
            self.size = self.size or _size(reply)
            if self.file.container is None:
                self.file = attrs.evolve(self.file, container=_container(reply.headers.get("content-type", "")))


def _size(reply: HttpReply) -> int | None:
    """Return the size of the whole file; None also for 0, which is what some servers say to a HEAD."""
    whole = re.fullmatch(r"bytes [0-9]{1,20}-[0-9]{1,20}/([0-9]{1,20})", reply.headers.get("content-range", ""))
    if whole:
        return int(whole[1]) or None
    length = reply.headers.get("content-length", "")
    return (int(length) or None) if reply.status == 200 and re.fullmatch(r"[0-9]{1,20}", length) else None  # noqa: PLR2004 - no part


def _container(content_type: str) -> str | None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _SAYS_NOTHING:
        return None
    family = kind.partition("/")[0]
    # Of what else is "application/…" (force-download, mp4, x-download) only the bytes can tell.
    unknown = family if family in {"text", "image", "audio"} else "other" if family == "video" else None
    return _CONTAINERS.get(kind, unknown)
