"""The optional look at a video's size and type."""

from __future__ import annotations

import contextlib
import time

import pytest

from kit import INSTANCE, TOKEN, videos
from videopoll import ConfigurationError, Recipient, UltraMsgNotifier
from videopoll.jobs import MessageForm
from videopoll.messages import Delivered, Refused
from videopoll.notifiers import HttpNotifier, HttpReply, HttpRequest, VideoCheck, VideoLimits
from videopoll.notifiers.video_check import LOOK_TIMEOUT_S, _Enough
from videopoll.notifiers.video_file import HEAD_BYTES, VideoFile
from videopoll.testing import FakeServer, FakeUltraMsg, Reply, build_message, build_outcome

MEGABYTE = 1024 * 1024


WHATSAPP = VideoLimits(
    max_bytes={MessageForm.VIDEO: 16 * MEGABYTE, MessageForm.DOCUMENT: 100 * MEGABYTE},
    containers={"mp4", "3gp"},
    video_codecs={"h264"},
    audio_codecs={"aac"},
    most_audio_tracks=1,
    high_with_b_frames=False,
)
"""What Meta writes of videos of its Cloud API."""


def storage_with(size: int = 5, **headers: str) -> FakeServer:
    """A file host with one file of the given size and type."""
    storage = FakeServer()
    file = Reply(body=bytes(size), headers={name.replace("_", "-"): it for name, it in headers.items()})
    for method in ("HEAD", "GET"):
        storage.route(method, "/video.mp4", file)
    return storage


def storage_of(file: bytes, *, head: Reply | None = None, ranges: bool = True, size: int | None = None) -> FakeServer:
    """A file host with these bytes at the beginning of its file, which has `size` bytes; `head` is its answer to HEAD."""
    storage = FakeServer()
    size = size or len(file)
    part = file.ljust(min(size, HEAD_BYTES), b"\0")
    if ranges:
        get = Reply(status=206, body=part, headers={"Content-Range": f"bytes 0-{len(part) - 1}/{size}"})
    else:
        get = Reply(body=file.ljust(size, b"\0"))
    storage.route("GET", "/video.mp4", get)
    storage.route(
        "HEAD", "/video.mp4", head or Reply(body=b"", headers={"Content-Length": str(size), "Content-Type": ""})
    )
    return storage


class Bare(HttpNotifier):
    """A channel of a host's own."""

    build = read = None


def asked(storage: FakeServer) -> list[str]:
    return [request.method for request in storage.requests]


@pytest.fixture
def notify(kind, call, monkeypatch):
    """Send one video over UltraMsg, having looked at it at the storage: for longer than usual, on a busy machine."""
    with contextlib.ExitStack() as stack:

        def send(storage: FakeServer, hosts=("127.0.0.1",), limits=None, look_s=30.0):
            monkeypatch.setattr("videopoll.notifiers.video_check.LOOK_TIMEOUT_S", look_s)
            stack.enter_context(storage)
            messenger = stack.enter_context(FakeUltraMsg(token=TOKEN, instance_id=INSTANCE))
            notifier = UltraMsgNotifier(
                base_url=messenger.url, instance_id=INSTANCE, token=TOKEN, video_check=VideoCheck(hosts, limits)
            )
            outcome = build_outcome(video_url=f"{storage.url}/video.mp4?sig=1")
            message = build_message(outcome, recipient=Recipient(channel="ultramsg", to="5491155550000"))
            if kind == "sync":
                receipt = notifier.notify(message)
                notifier.close()
            else:
                receipt = call(notifier.anotify(message))
                call(notifier.aclose())
            return receipt, messenger.messages

        yield send


def test_a_video_over_the_limit_is_not_handed_to_the_channel(notify):
    """It goes as a link at once, instead of being uploaded for nothing."""
    receipt, messages = notify(storage_with(17 * MEGABYTE, content_type="video/mp4"))

    assert isinstance(receipt, Refused)
    assert receipt.try_text
    assert not messages


def test_a_type_that_the_channel_does_not_take_is_not_handed_to_it(notify):
    """WhatsApp takes mp4, 3gp and mov."""
    receipt, messages = notify(storage_with(content_type="video/webm; codecs=vp9"))

    assert isinstance(receipt, Refused)
    assert not messages


@pytest.mark.parametrize(
    "storage",
    [
        storage_with(16 * MEGABYTE, content_type="video/mp4"),
        storage_with(content_type="application/octet-stream"),
        storage_with(MEGABYTE, content_type="application/force-download"),
        storage_with(MEGABYTE, content_type="application/mp4"),
        storage_with(),
    ],
    ids=["fits", "says nothing of its type", "is to be saved", "is an mp4 of some kind", "says nothing at all"],
)
def test_what_fits_or_cannot_be_learnt_is_sent(notify, storage):
    """Unknown means send: the look must never cost somebody their video."""
    receipt, messages = notify(storage)

    assert isinstance(receipt, Delivered)
    assert [message.kind for message in messages] == ["video"]


def test_a_silent_storage_holds_the_message_up_for_two_seconds_at_most(notify):
    """The look has a time limit of its own."""
    storage = storage_with()
    storage.fail_next(Reply.hang(60), Reply.hang(60))

    began_s = time.monotonic()
    receipt, messages = notify(storage, look_s=LOOK_TIMEOUT_S)

    assert time.monotonic() - began_s < 20.0
    # Whoever is silent is not asked a second time.
    assert asked(storage) == ["HEAD"]
    assert isinstance(receipt, Delivered)
    assert messages


def test_a_look_takes_two_seconds_at_most():
    (question, *_), _ = questions()

    assert question.timeout_s == 2.0


def test_a_host_that_was_not_named_is_never_asked(notify):
    """The URL comes from outside: it must not make us send requests wherever it likes."""
    storage = storage_with(17 * MEGABYTE)

    receipt, _ = notify(storage, hosts=("files.example",))

    assert isinstance(receipt, Delivered)
    assert not storage.requests


FORBIDDEN = Reply.fault(403)


def test_a_signed_link_that_allows_only_get_is_read_at_its_beginning(notify):
    """Its host refuses HEAD, as the signature is for GET."""
    storage = storage_of(videos.HIGH_B_FRAMES, head=FORBIDDEN, size=17 * MEGABYTE)

    receipt, messages = notify(storage)

    assert isinstance(receipt, Refused)
    assert not messages
    assert asked(storage) == ["HEAD", "GET"]
    assert storage.requests[1].headers["range"] == "bytes=0-262143"


@pytest.mark.parametrize("ranges", [True, False], ids=["a part", "the whole file"])
def test_a_file_whose_host_tells_nothing_of_its_type_is_known_by_its_bytes(notify, ranges):
    """A host that knows no ranges sends the whole file: it is broken off, and its headers are asked for the size."""
    untold = Reply(body=b"", headers={"Content-Type": "application/octet-stream"})
    storage = storage_of(b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm", head=untold, ranges=ranges, size=MEGABYTE)

    receipt, messages = notify(storage)

    assert isinstance(receipt, Refused)
    assert "webm" in receipt.reason
    assert not messages


@pytest.mark.parametrize(
    ("file", "then", "why"),
    [
        (videos.HIGH_B_FRAMES, MessageForm.DOCUMENT, "B-frames"),
        (videos.H265, MessageForm.DOCUMENT, "h265"),
        (videos.MP3_SOUND, MessageForm.DOCUMENT, "mp3"),
        (videos.PRORES, MessageForm.DOCUMENT, "mov"),
        (b"<!doctype html><title>This link has expired", None, "no video"),
    ],
    ids=["b-frames", "h265", "mp3", "mov", "a page"],
)
def test_what_the_app_would_not_play_goes_in_the_form_that_the_channels_limits_name(notify, file, then, why):
    """Its users would get a black card; a document they can download."""
    storage = storage_of(file)

    receipt, messages = notify(storage, limits=WHATSAPP)

    assert isinstance(receipt, Refused)
    assert receipt.then is then
    assert receipt.try_text
    assert why in receipt.reason
    assert not messages
    assert asked(storage) == ["GET"]


def test_what_fits_no_form_goes_as_a_link(notify):
    """It is too large for a document, too."""
    receipt, _ = notify(storage_of(videos.MAIN_SILENT, size=101 * MEGABYTE), limits=WHATSAPP)

    assert isinstance(receipt, Refused)
    assert receipt.then is None
    assert receipt.try_text


@pytest.mark.parametrize(
    "storage",
    [
        storage_of(videos.MAIN_SILENT),
        storage_of(videos.BASELINE),
        storage_of(videos.FRAGMENTED),
        storage_of(videos.MAIN_SILENT[:300]),
        storage_of(videos.MAIN_SILENT, ranges=False),
        storage_of(b"", head=FORBIDDEN),
    ],
    ids=["silent", "with sound", "of unknown order", "cut off", "whole", "nothing told"],
)
def test_what_plays_or_is_not_known_not_to_is_sent(notify, storage):
    receipt, messages = notify(storage, limits=WHATSAPP)

    assert isinstance(receipt, Delivered)
    assert [message.kind for message in messages] == ["video"]


def questions(*replies: HttpReply, body: bytes = b"") -> tuple[list[HttpRequest], Refused | None]:
    """Answer the questions of a check with these, and GET with this body; return them, and what came of it."""
    message = build_message(build_outcome(video_url="https://files.example/video.mp4"))
    looking = VideoCheck({"files.example"}).look(message, WHATSAPP)
    asked = [next(looking).request]
    try:
        for reply in replies:
            if asked[-1].sink is not None and body:
                asked[-1].sink(body)
            asked.append(looking.send(reply).request)
    except StopIteration as over:
        return asked, over.value
    return asked, None


def test_no_more_is_kept_than_the_beginning():
    """A host that knows no ranges begins to send the whole file, of whatever size."""
    (question, *_), _ = questions()
    chunk = bytes(100_000)

    question.sink(chunk)
    question.sink(chunk)
    with pytest.raises(_Enough):
        question.sink(chunk)


@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (206, {"content-range": "bytes 0-262143/99999999", "content-length": "262144"}, True),
        (200, {"content-length": "99999999"}, True),
        (206, {"content-range": "bytes 0-262143/*", "content-length": "262144"}, False),
        (206, {"content-range": "bytes 0-1/" + "9" * 21}, False),
        (200, {"content-length": "0"}, False),
        (200, {"content-length": "-1"}, False),
        (200, {}, False),
    ],
)
def test_the_size_is_that_of_the_whole_file_or_the_headers_are_asked(status, headers, told):
    """The length of a part says nothing, and some servers say 0 to a HEAD."""
    reply = HttpReply(status=status, headers=headers)
    asked, refused = questions(reply, HttpReply(status=404), body=videos.MAIN_SILENT)

    assert [question.method for question in asked] == (["GET"] if told else ["GET", "HEAD"])
    assert (refused is not None) is told


SIZES = VideoLimits(max_bytes={MessageForm.VIDEO: 20, MessageForm.UPLOAD: 50, MessageForm.DOCUMENT: 100})


@pytest.mark.parametrize(
    ("size", "then"), [(21, MessageForm.UPLOAD), (50, MessageForm.UPLOAD), (51, MessageForm.DOCUMENT), (101, None)]
)
def test_the_next_form_is_the_first_that_takes_the_file(size, then):
    refused = SIZES.refusal(MessageForm.VIDEO, VideoFile(container="mp4"), size)

    assert refused.then is then


def test_a_file_of_unknown_size_fits():
    assert SIZES.refusal(MessageForm.VIDEO, VideoFile(container="mp4"), None) is None
    assert SIZES.refusal(MessageForm.VIDEO, VideoFile(), 20) is None


def test_a_channel_without_limits_of_its_own_needs_some():
    """Else the check would look for nothing."""
    with pytest.raises(ConfigurationError, match="knows no limits"):
        Bare(video_check=VideoCheck(["h"]))
    Bare(video_check=VideoCheck(["h"], SIZES))


@pytest.mark.parametrize(
    "wrong",
    [lambda: VideoCheck(()), lambda: VideoCheck("host"), lambda: VideoLimits(max_bytes={MessageForm.VIDEO: 0})],
)
def test_a_check_that_cannot_work_is_refused(wrong):
    """Bad configuration fails at construction."""
    with pytest.raises(ConfigurationError):
        wrong()
