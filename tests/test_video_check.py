"""The optional look at a video's size and type."""

from __future__ import annotations

import contextlib

import pytest

from kit import INSTANCE, TOKEN
from videopoll import ConfigurationError, Recipient, UltraMsgNotifier
from videopoll.messages import Delivered, Refused
from videopoll.notifiers import VideoCheck
from videopoll.testing import FakeServer, FakeUltraMsg, Reply, build_message, build_outcome

MEGABYTE = 1024 * 1024


def storage_with(size: int = 5, **headers: str) -> FakeServer:
    """A file host with one file of the given size and type."""
    storage = FakeServer()
    file = Reply(body=bytes(size), headers={name.replace("_", "-"): it for name, it in headers.items()})
    for method in ("HEAD", "GET"):
        storage.route(method, "/video.mp4", file)
    return storage


@pytest.fixture
def notify(kind, call):
    """Send one video over UltraMsg, having looked at it at the storage."""
    with contextlib.ExitStack() as stack:

        def send(storage: FakeServer, hosts=("127.0.0.1",)):
            stack.enter_context(storage)
            messenger = stack.enter_context(FakeUltraMsg(token=TOKEN, instance_id=INSTANCE))
            notifier = UltraMsgNotifier(
                base_url=messenger.url, instance_id=INSTANCE, token=TOKEN, video_check=VideoCheck(hosts)
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
        storage_with(),
    ],
    ids=["fits", "says nothing of its type", "says nothing at all"],
)
def test_what_fits_or_cannot_be_learnt_is_sent(notify, storage):
    """Unknown means send: the look must never cost somebody their video."""
    receipt, messages = notify(storage)

    assert isinstance(receipt, Delivered)
    assert [message.kind for message in messages] == ["video"]


def test_a_silent_storage_holds_the_message_up_for_two_seconds_at_most(notify):
    """The look has a time limit of its own."""
    storage = storage_with()
    storage.fail_next(Reply.hang(30))

    receipt, messages = notify(storage)

    assert isinstance(receipt, Delivered)
    assert messages


def test_a_host_that_was_not_named_is_never_asked(notify):
    """The URL comes from outside: it must not make us send requests wherever it likes."""
    storage = storage_with(17 * MEGABYTE)

    receipt, _ = notify(storage, hosts=("files.example",))

    assert isinstance(receipt, Delivered)
    assert not storage.requests


@pytest.mark.parametrize("wrong", [lambda: VideoCheck(()), lambda: VideoCheck("host"), lambda: VideoCheck(["h"], 0)])
def test_a_check_that_cannot_work_is_refused(wrong):
    """Bad configuration fails at construction."""
    with pytest.raises(ConfigurationError):
        wrong()
