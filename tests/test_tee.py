"""Storing what came of a job, and sending it: with the part that is made for it, with a wrapper, and with events."""

from __future__ import annotations

import logging
from functools import partial
from unittest import mock

import attrs
import pytest

from kit import EACH_COMBINATION, function, until
from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    CallbackNotifier,
    ConfigurationError,
    RedisVideoJobQueue,
    RoutingNotifier,
    Runner,
    UltraMsgNotifier,
    events,
)
from videopoll.core.permits import Lease, SendPermit
from videopoll.errors import NotSentError, RefusedError
from videopoll.events import with_outcome
from videopoll.messages import AcknowledgementMessage, Delivered, LookupResult, NotSent, Refused
from videopoll.notifiers import TeeNotifier
from videopoll.testing import Reply, build_message

EACH_SIDE = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
"""The server's kind makes no difference here."""

URL = "https://files.example/1.mp4?sig=a-secret"


# --- the part -------------------------------------------------------------------------------------


@EACH_COMBINATION
@EACH_SIDE
def test_the_url_is_stored_and_the_video_sent_once_though_the_reply_was_lost(world, parts):
    """The wrapper that comes to mind first hides the look-up, and its users get the video twice."""
    stored = []
    to = world.enqueue_ready()
    world.ultramsg.fail_next(Reply.dropped(accept=True), path="/messages/video")
    store = function(parts, lambda message: stored.append((message.job.job_id, message.video_url)))

    with world.worker(notifier=TeeNotifier(world.notifier(), store=store)) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the job is settled")

    (message,) = world.ultramsg.inbox(to)
    assert set(stored) == {("job_1", message.video)}


@EACH_COMBINATION
@EACH_SIDE
def test_nothing_is_sent_before_it_is_stored(world, parts):
    """A database that is down holds the message up, and turns no video into a text."""
    tries = []

    def store(message):
        tries.append(len(world.ultramsg.inbox(to)))
        if len(tries) < 4:
            raise ConnectionError(message.video_url)

    to = world.enqueue_ready()
    with world.worker(notifier=TeeNotifier(world.notifier(), store=function(parts, store))) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the job is settled")

    assert tries == [0, 0, 0, 0]
    assert [message.kind for message in world.ultramsg.inbox(to)] == ["video"]
    assert {event.result for event in worker.recorder.of(events.SendTried)[:3]} == {"not_sent"}
    assert not any("://" in str(event.reason) for event in worker.recorder.of(events.SendTried))


@pytest.fixture
def notify(kind, call):
    """Send a message over a notifier, from a thread or from asyncio."""
    return lambda notifier, message: (
        notifier.notify(message) if kind == "sync" else call(getattr(notifier, "anotify", notifier.notify)(message))
    )


def test_a_message_that_nobody_must_get_is_refused_by_store(notify):
    def store(_):
        said = "the user is gone"
        raise RefusedError(said, try_text=False)

    sent = []
    receipt = notify(TeeNotifier(CallbackNotifier(sent.append), store=store), build_message())

    assert receipt == Refused("the user is gone", try_text=False)
    assert not sent


@pytest.mark.parametrize("kind_of_error", [ValueError, NotSentError, RefusedError])
def test_what_store_raises_tells_no_url(notify, kind_of_error):
    """Its text may quote the row."""

    def store(_):
        said = f"duplicate key: {URL} token=abcdef"
        raise kind_of_error(said)

    receipt = notify(TeeNotifier(CallbackNotifier(lambda _: None), store=store), build_message())

    assert isinstance(receipt, Refused if kind_of_error is RefusedError else NotSent)
    assert not getattr(receipt, "channel_fault", False)
    assert "duplicate key: [url]" in receipt.reason
    assert kind_of_error is not ValueError or "TeeNotifier.store raised ValueError" in receipt.reason
    assert "sig=" not in receipt.reason
    assert "abcdef" not in receipt.reason


def test_a_send_that_comes_too_late_after_store_does_not_begin(notify):
    """The database took so long that another worker may have the job."""
    lease = Lease()
    lease.confirm(0.0, 10**12)
    sent = []
    tee = TeeNotifier(CallbackNotifier(sent.append), store=lambda _: lease.forfeit())

    assert notify(tee, attrs.evolve(build_message(), _permit=SendPermit(lease))).counts is False
    assert not sent


def test_what_the_tool_says_beforehand_is_sent_and_not_stored(notify):
    """There is no outcome yet."""
    stored, sent = [], []
    early = AcknowledgementMessage(form="text", reference="r", conversation_id="c", metadata={}, text="I am on it.")

    notify(TeeNotifier(CallbackNotifier(sent.append), store=stored.append), early)

    assert sent == [early]
    assert not stored


class Whole:
    """A notifier with all that one may have."""

    def __init__(self):
        self.called = []

    def notify(self, message):
        self.called.append("notify")
        return Delivered("17", "said", channel="whole")

    def look_up(self, message):
        self.called.append("look_up")
        return LookupResult.ABSENT

    def close(self):
        self.called.append("close")


def test_all_else_is_the_inner_notifiers(kind, call):
    inner = Whole()
    tee = TeeNotifier(inner, store=lambda _: None)

    if kind == "sync":
        assert tee.notify(build_message()) == Delivered("17", "said")
        assert tee.look_up(build_message()) is LookupResult.ABSENT
        tee.close()
    else:
        assert call(tee.anotify(build_message())) == Delivered("17", "said")
        assert call(tee.alook_up(build_message())) is LookupResult.ABSENT
        call(tee.aclose())

    assert inner.called == ["notify", "look_up", "close"]


def test_a_notifier_that_cannot_be_asked_still_cannot(kind, call):
    tee = TeeNotifier(CallbackNotifier(lambda _: None), store=lambda _: None)

    answer = tee.look_up(build_message()) if kind == "sync" else call(tee.alook_up(build_message()))

    assert answer is LookupResult.CANNOT_TELL


async def coroutine(_):
    """Do nothing."""


@pytest.mark.parametrize(
    "tee",
    [
        TeeNotifier(CallbackNotifier(lambda _: None), store=coroutine),
        TeeNotifier(CallbackNotifier(coroutine), store=lambda _: None),
    ],
)
def test_an_asyncio_part_of_it_needs_the_asyncio_runner(world, tee):
    assert tee.async_only
    with world.queue() as queue, pytest.raises(ConfigurationError, match="AsyncRunner"):
        Runner(queue, world.poller(), tee)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: TeeNotifier(UltraMsgNotifier, store=print),
        lambda: TeeNotifier(object(), store=print),
        lambda: TeeNotifier(CallbackNotifier(print), store="videos"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(wrong):
    with pytest.raises(ConfigurationError, match="TeeNotifier"):
        wrong()


# --- a wrapper of a host's own --------------------------------------------------------------------


class Wrapper:
    """What comes to mind first."""

    def __init__(self, inner):
        self.inner = inner

    def notify(self, message):
        return self.inner.notify(message)


class Slotted:
    __slots__ = ("_inner",)

    def __init__(self, inner):
        self._inner = inner

    def notify(self, message):
        return self._inner.notify(message)


class Choosing:
    def __init__(self, inner):
        self.channels = {"one": [inner]}

    def notify(self, message):
        return self.channels["one"][0].notify(message)


class Passing(Wrapper):
    """One that does it right."""

    def look_up(self, message):
        return self.inner.look_up(message)


CHANNEL = UltraMsgNotifier(instance_id="instance1150", token="t")


class UsingGlobal:
    def notify(self, message):
        return CHANNEL.notify(message)


def with_a_global(message):
    return CHANNEL.notify(message)


class Lazy:
    """A proxy such as Flask's: whoever asks for its class outside of a request gets an exception."""

    @property
    def __class__(self):
        said = "working outside of application context"
        raise RuntimeError(said)


HIDING = {
    "an attribute": Wrapper,
    "a slot": Slotted,
    "a mapping of lists": Choosing,
    "a closure": lambda inner: CallbackNotifier(lambda message: [inner.notify(message)][0]),
    "a bound method": lambda inner: CallbackNotifier(inner.notify),
    "a method of what holds it": lambda inner: CallbackNotifier(Wrapper(inner).notify),
    "a partial": lambda inner: CallbackNotifier(partial(lambda one, message: one.notify(message), inner)),
    "a global in a function": lambda _: CallbackNotifier(with_a_global),
    "a global in a method": lambda _: UsingGlobal(),
    "a wrapper in a wrapper": lambda inner: Wrapper(Wrapper(inner)),
}

HIDING_NOTHING = {
    "itself": lambda inner: inner,
    "the part that is made for it": lambda inner: TeeNotifier(inner, store=print),
    "a wrapper that passes it on": Passing,
    "a channel that cannot be asked": lambda _: CallbackNotifier(lambda message: message.text),
    "a wrapper of one": lambda _: Wrapper(CallbackNotifier(print)),
    "a wrapper of a mock": lambda _: Wrapper(mock.MagicMock()),
    "a wrapper of a lazy object": lambda _: Wrapper(Lazy()),
}


def warnings_of(kind, notifier, caplog):
    """Build a runner, and give what it warns of."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        if kind == "sync":
            with RedisVideoJobQueue.from_url("redis://127.0.0.1:1") as queue:
                Runner(queue, mock.Mock(spec=["poll"]), notifier)
        else:
            AsyncRunner(AsyncRedisVideoJobQueue.from_url("redis://127.0.0.1:1"), mock.Mock(spec=["poll"]), notifier)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("how", HIDING)
def test_a_wrapper_that_hides_the_look_up_is_warned_of(kind, how, caplog):
    (warning,) = warnings_of(kind, HIDING[how](CHANNEL), caplog)

    assert "holds a UltraMsgNotifier" in warning
    assert "TeeNotifier" in warning


@pytest.mark.parametrize("how", HIDING_NOTHING)
def test_nobody_is_warned_who_hides_nothing(kind, how, caplog):
    assert not warnings_of(kind, HIDING_NOTHING[how](CHANNEL), caplog)


def test_a_channel_of_a_router_may_hide_it_as_well(caplog):
    with caplog.at_level(logging.WARNING):
        RoutingNotifier.from_metadata({"ultramsg": Wrapper(CHANNEL), "other": CHANNEL})

    assert len(caplog.records) == 1


# --- events ---------------------------------------------------------------------------------------


@EACH_SIDE
def test_a_hook_that_asks_for_it_gets_the_url_and_nobody_else_does(world, caplog):
    """It is signed: whoever has it can see the video."""
    seen = []
    world.enqueue("job_1", Reply.completed(URL, file_id="f1"))

    with caplog.at_level(logging.DEBUG), world.worker(hooks=[with_outcome(seen.append)], visible=True) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the job is settled")

    told = [event for event in seen if isinstance(event, events.JobConcluded | events.JobDelivered)]
    assert [(event.full_outcome.video_url, event.full_outcome.file_id) for event in told] == [(URL, "f1")] * 2
    assert len(seen) == len(worker.recorder.events)
    assert "a-secret" not in repr(seen) + caplog.text
    for event in worker.recorder.of(events.JobConcluded) + worker.recorder.of(events.JobDelivered):
        assert event.full_outcome is None
    with world.queue() as queue:
        assert queue.history("job_1")
        assert "a-secret" not in repr(queue.history("job_1"))


@EACH_SIDE
def test_a_hook_that_asks_for_outcomes_gets_those_without_a_video_too(world):
    seen = []
    world.enqueue("job_1", Reply.failed("no"))

    with world.worker(hooks=[with_outcome(seen.append)]) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the job is settled")

    assert [event.full_outcome.error for event in seen if isinstance(event, events.JobConcluded)] == ["no"]


@pytest.mark.parametrize("wrong", [None, "store", coroutine])
def test_an_outcome_hook_that_cannot_be_called_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        with_outcome(wrong)
