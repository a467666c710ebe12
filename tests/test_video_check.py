"""The optional look at a video's size and type."""

from __future__ import annotations

import contextlib

import pytest

from kit import INSTANCE, TOKEN
from videopoll import ConfigurationError, Message, Outcome, OutcomeKind, Recipient, UltraMsgNotifier, VideoJob
from videopoll.jobs import MessageForm
from videopoll.messages import Delivered, Refused
from videopoll.notifiers import VideoCheck
from videopoll.testing import FakeServer, FakeUltraMsg, ReceivedRequest, Reply

MEGABYTE = 1024 * 1024


class Storage(FakeServer):
    """A file host with one file of the given size and type."""

    def __init__(self, size: int = 5, **headers: str) -> None:
        super().__init__()
        self._size = size
        self._headers = headers

    def _handle(self, request: ReceivedRequest) -> Reply:
        return Reply(body=bytes(self._size), headers={name.replace("_", "-"): it for name, it in self._headers.items()})


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
            message = Message(
                job=VideoJob("job_1", "conversation-1", 1_757_157_518_747),
                outcome=Outcome(OutcomeKind.COMPLETED, 1_757_157_583_747, video_url=f"{storage.url}/video.mp4?sig=1"),
                form=MessageForm.VIDEO,
                reference="vp-1",
                recipient=Recipient(channel="ultramsg", to="5491155550000"),
            )
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
    receipt, messages = notify(Storage(17 * MEGABYTE, content_type="video/mp4"))

    assert isinstance(receipt, Refused)
    assert receipt.try_text
    assert not messages


def test_a_type_that_the_channel_does_not_take_is_not_handed_to_it(notify):
    """WhatsApp takes mp4, 3gp and mov."""
    receipt, messages = notify(Storage(content_type="video/webm; codecs=vp9"))

    assert isinstance(receipt, Refused)
    assert not messages


@pytest.mark.parametrize(
    "storage",
    [
        Storage(16 * MEGABYTE, content_type="video/mp4"),
        Storage(content_type="application/octet-stream"),
        Storage(),
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
    storage = Storage()
    storage.fail_next(Reply.hang(30))

    receipt, messages = notify(storage)

    assert isinstance(receipt, Delivered)
    assert messages


def test_a_host_that_was_not_named_is_never_asked(notify):
    """The URL comes from outside: it must not make us send requests wherever it likes."""
    storage = Storage(17 * MEGABYTE)

    receipt, _ = notify(storage, hosts=("files.example",))

    assert isinstance(receipt, Delivered)
    assert not storage.requests


@pytest.mark.parametrize("wrong", [lambda: VideoCheck(()), lambda: VideoCheck("host"), lambda: VideoCheck(["h"], 0)])
def test_a_check_that_cannot_work_is_refused(wrong):
    """Bad configuration fails at construction."""
    with pytest.raises(ConfigurationError):
        wrong()
