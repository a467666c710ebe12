"""A channel that asks for a gap between two messages to one user gets one, and nobody's budget pays for it."""

from __future__ import annotations

import logging
from itertools import pairwise

import attrs
import pytest

from kit import INSTANCE, TOKEN, until
from videopoll import DeliveryPolicy, Recipient, RoutingNotifier, UltraMsgNotifier, events
from videopoll.messages import AcknowledgementMessage, Delivered, NotSent, Refused
from videopoll.notifiers.pace import MOST_USERS, Pace
from videopoll.testing import FakeUltraMsg, Reply, build_message

EACH_SIDE = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)

GAP_S = 1.0


class Slow(UltraMsgNotifier):
    """A channel that wants a second between two messages to a user."""

    gap_s = GAP_S


ONE_TRY = DeliveryPolicy(max_attempts=1, video_attempts=1, backoff_base_s=0.05, backoff_cap_s=0.1, jitter=0)
"""Whoever counts a send that was held back gives the message up."""


@EACH_SIDE
def test_a_user_gets_messages_one_after_the_other_and_others_do_not_wait(world, caplog):
    """Four videos of one user, each with a single send to its name; and one of somebody else."""
    notifier = RoutingNotifier.from_metadata(
        {"ultramsg": Slow(base_url=world.ultramsg.url, instance_id=INSTANCE, token=TOKEN)}
    )
    for number in range(4):
        to = world.enqueue_ready(f"job_{number}", user=1)
    other = world.enqueue_ready("job_other", user=2)

    with world.worker(notifier=notifier, delivery=ONE_TRY) as worker:
        until(lambda: len(worker.recorder.of(events.JobDelivered)) == 5, "all have their videos")

    at_s = [request.at for request in world.ultramsg.requests if request.body.get("to") == to]
    assert len(at_s) == 4
    # The first byte goes out after the note, by a little more or less.
    assert all(after - before > GAP_S - 0.2 for before, after in pairwise(at_s))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], "nothing is wrong"
    waited = [event for event in worker.recorder.of(events.SendTried) if event.result == "waits"]
    assert len(waited) >= 3
    assert {message.kind for message in world.ultramsg.inbox(to)} == {"video"}
    assert [request.at < at_s[1] for request in world.ultramsg.requests if request.body.get("to") == other] == [True]
    assert {event.attempts for event in worker.recorder.of(events.JobDelivered)} == {1}


@pytest.fixture
def send(kind, call):
    """Send to a user over a slow channel whose messenger answers as it was told."""
    with FakeUltraMsg(token=TOKEN, instance_id=INSTANCE) as messenger:
        slow = Slow(base_url=messenger.url, instance_id=INSTANCE, token=TOKEN)

        def one(*replies, to="5491155550000", **changes):
            if replies:
                messenger.fail_next(*replies, path="/messages/video")
            message = build_message(recipient=Recipient(channel="ultramsg", to=to))
            message = attrs.evolve(message, **changes)
            return slow.notify(message) if kind == "sync" else call(slow.anotify(message))

        one.early = lambda early: slow.notify(early) if kind == "sync" else call(slow.anotify(early))
        one.messenger = messenger
        yield one
        call(slow.aclose())
        slow.close()


def test_what_comes_too_early_is_not_sent_and_told_when_it_may(send):
    assert isinstance(send(), Delivered)
    held = send()

    assert isinstance(held, NotSent)
    assert (held.counts, held.channel_fault, held.account_fault) == (False, False, False)
    assert 0 < held.retry_after_s <= GAP_S
    assert len(send.messenger.messages) == 1
    assert isinstance(send(to="5491155550001"), Delivered)


@pytest.mark.parametrize("reply", [Reply.fault(503), Reply.fault(400)], ids=["not sent", "refused"])
def test_what_was_not_sent_holds_nothing_back(send, reply):
    """The text that follows a video that was refused goes out at once."""
    assert isinstance(send(reply), NotSent | Refused)
    assert isinstance(send(), Delivered)


def test_what_may_have_been_sent_counts(send):
    send(Reply.dropped(accept=True))

    assert isinstance(send(), NotSent)


def test_what_the_tool_says_beforehand_never_waits_and_is_counted(send):
    """It has one chance, and nobody would send it later."""
    to = Recipient(channel="ultramsg", to="5491155550000")
    early = AcknowledgementMessage(
        form="text", reference="r", conversation_id="c", metadata={}, text="I am on it.", recipient=to
    )

    assert isinstance(send.early(early), Delivered)
    assert isinstance(send.early(early), Delivered)
    assert isinstance(send(), NotSent)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def take(pace, to, instance="one"):
    turn = pace.turn(build_message(recipient=Recipient(channel="c", to=to, instance_id=instance)))
    return turn.too_early() or turn.take()


def test_a_gap_ends_to_the_second():
    clock = Clock()
    pace = Pace(6.0, clock)
    assert take(pace, "1") is None
    clock.now_s += 5.9
    assert take(pace, "1").retry_after_s == pytest.approx(0.1)
    clock.now_s += 0.1
    assert take(pace, "1") is None
    # It began anew.
    clock.now_s += 5.9
    assert take(pace, "1") is not None


def test_another_instance_is_another_sender():
    pace = Pace(6.0, Clock())
    assert take(pace, "1", "one") is None
    assert take(pace, "1", "two") is None


def test_several_requests_for_one_message_are_one_message():
    turn = Pace(6.0, Clock()).turn(build_message(recipient=Recipient(channel="c", to="1")))
    assert turn.take() is None
    assert turn.take() is None


def test_no_more_users_are_remembered_than_can_be():
    """Not even if they all come at once, and none once their gap is over."""
    clock = Clock()
    pace = Pace(6.0, clock)
    for number in range(MOST_USERS + 50):
        take(pace, str(number))
    assert len(pace._until_s) == 10_000
    clock.now_s += 6.0
    take(pace, "late")
    assert len(pace._until_s) == 1


def test_a_channel_that_asks_for_no_gap_has_none():
    pace = Pace(0.0, Clock())
    assert take(pace, "1") is None
    assert take(pace, "1") is None
