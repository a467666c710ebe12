"""A send that comes too late does not begin: its worker stood still, somebody else has the job, or nobody waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import attrs
import pytest

from kit import EACH_COMBINATION, FAST, QUICK, Worker, function, part, phone, until
from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    CallbackNotifier,
    LeasePolicy,
    Message,
    OnUnknown,
    QueueUnavailableError,
    Recipient,
    RoutingNotifier,
    events,
)
from videopoll._calling import DaemonThreads
from videopoll.jobs import JobState
from videopoll.messages import Delivered, LookupResult, NotSent, Unknown
from videopoll.observations import VideoReady
from videopoll.testing import Reply

# The server's kind makes no difference here; the scripts are tested on both elsewhere.
pytestmark = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)

BRIEF = LeasePolicy.lasting(0.9)
TO = phone(1)


class Gate:
    """Lets the first message wait until it is told to go on, and counts what is sent after that."""

    def __init__(self) -> None:
        self.waits = threading.Event()
        self.open = threading.Event()
        self.sent: list[str] = []

    def notify(self, message: Message):
        """Wait, and then ask whether the send may still begin, as a host's channel should."""
        if not self.waits.is_set():
            self.waits.set()
            yield self.open
        if not message.may_still_send():
            return NotSent("too late", counts=False)
        self.sent.append(message.job.job_id)
        return Delivered()

    def look_up(self, message: Message) -> LookupResult:
        """Tell what was sent."""
        return LookupResult.FOUND if message.job.job_id in self.sent else LookupResult.ABSENT


def stand_still(worker: Worker) -> None:
    """Have a worker's leases run out, as if its process were stopped; it takes nothing, either."""

    def away(*_: Any, **__: Any) -> Any:
        msg = "this worker stands still"
        raise QueueUnavailableError(msg)

    worker.runner._queue.renew = worker.runner._queue.claim = away


def results(worker: Worker, job_id: str = "job_1") -> list[str]:
    """What became of a job's sends."""
    return [event.result for event in worker.recorder.of(events.SendTried, job_id)]


# --- the lease's end travels with the message -----------------------------------------------------


@EACH_COMBINATION
def test_a_worker_that_stood_still_in_resolve_does_not_send_once_another_has_delivered(world, parts):
    """Asking the host who gets the message may take any time, on a channel that nobody can ask afterwards, too."""
    gate, sent = Gate(), []

    def resolve(_):
        if not gate.waits.is_set():
            gate.waits.set()
            yield gate.open
        return Recipient(channel="own", to=TO)

    own = part(parts, notify=lambda message: sent.append(message.job.job_id))
    router = RoutingNotifier({"own": own}, resolve=function(parts, resolve))
    world.enqueue_ready()
    with world.worker(notifier=router, lease=BRIEF) as slow:
        until(gate.waits.is_set, "the host is being asked")
        stand_still(slow)
        with world.worker(notifier=router, lease=BRIEF) as other:
            until(lambda: other.recorder.of(events.JobDelivered), "another worker delivers it")
        gate.open.set()
        until(lambda: slow.recorder.of(events.LeaseLost), "the slow one finds its lease lost")

    assert sent == ["job_1"]
    assert results(slow) == ["not_sent"]
    assert not slow.recorder.of(events.JobDelivered)


@EACH_COMBINATION
def test_a_hosts_own_channel_that_asks_is_told_that_another_worker_has_the_job(world, parts):
    """`message.may_still_send()` is the live answer of the lease."""
    gate = Gate()
    own = part(parts, notify=gate.notify, look_up=gate.look_up)
    world.enqueue_ready()
    with world.worker(notifier=own, lease=BRIEF) as slow:
        until(gate.waits.is_set, "the send is under way")
        stand_still(slow)
        with world.worker(notifier=own, lease=BRIEF) as other:
            until(lambda: other.recorder.of(events.JobDelivered), "another worker delivers it")
        gate.open.set()
        until(lambda: slow.recorder.of(events.LeaseLost), "the slow one finds its lease lost")

    assert gate.sent == ["job_1"]


@EACH_COMBINATION
def test_renewals_keep_the_permission_to_send(world, parts):
    """A long look-up of a healthy worker is no reason to hold anything back."""
    gate = Gate()
    world.enqueue_ready()
    with world.worker(notifier=part(parts, notify=gate.notify), lease=BRIEF) as worker:
        until(gate.waits.is_set, "the send is under way")
        began_s = time.monotonic()
        until(lambda: time.monotonic() - began_s > 2 * BRIEF.duration_s, "two lease times are over")
        gate.open.set()
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")

    assert results(worker) == ["delivered"]


def test_a_slow_look_at_the_lines_state_holds_the_message_back_too(world):
    """UltraMsg's `instance/status` lies between the note of a send and its request."""
    world.enqueue_ready()
    world.ultramsg.fail_next(Reply.slow(2.5), when=lambda request: request.path.endswith("/instance/status"))
    with world.worker(lease=BRIEF) as slow:
        until(lambda: any("instance/status" in one.path for one in world.ultramsg.requests), "it looks")
        stand_still(slow)
        with world.worker(lease=BRIEF) as other:
            until(lambda: other.recorder.of(events.JobDelivered), "another worker delivers it")
        until(lambda: slow.recorder.of(events.LeaseLost), "the slow one finds its lease lost")

    assert len(world.ultramsg.inbox(TO)) == 1
    assert results(slow) == ["not_sent"]


@pytest.mark.parametrize("kind", ["async"], indirect=True)
@pytest.mark.parametrize(("place", "method"), [("poller", "poll"), ("notifier", "notify")])
def test_a_task_whose_job_another_worker_has_is_cut_off(world, place, method):
    """Its place is free at once. A thread cannot be cut off: it goes on, and begins nothing more."""
    waits, ended = threading.Event(), threading.Event()

    async def hang(*_: Any, **__: Any) -> None:
        waits.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    own = type("Part", (), {method: hang})()
    world.enqueue_ready()
    with world.worker(**{place: own}, lease=BRIEF, grace_s=0.1) as slow:
        until(waits.is_set, "it is under way")
        stand_still(slow)
        with world.worker(lease=BRIEF) as other:
            until(lambda: other.recorder.of(events.JobDelivered), "another worker delivers it")
        assert not ended.is_set()
        del slow.runner._queue.renew
        until(ended.is_set, "it is cut off", 10)
        until(lambda: not slow.runner.polls_in_hand + slow.runner.sends_in_hand, "its place is free")

    assert [type(one).__name__ for one in slow.recorder.events].count("LeaseLost") == 1
    assert not slow.recorder.of(events.JobDelivered)


# --- what was given up does not begin -------------------------------------------------------------

WEARY = attrs.evolve(
    QUICK, send_timeout_s=0.3, on_unknown=OnUnknown.AT_MOST_ONCE, deadline_s=2.0, max_retry_after_s=0.5
)
# What was held back may still go out for `max_retry_after_s` past the deadline.


@pytest.mark.parametrize("kind", ["async"], indirect=True)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda own: own,
        lambda own: RoutingNotifier.from_metadata({"ultramsg": own}),
        lambda own: CallbackNotifier(own.notify),
    ],
    ids=["plain", "routed", "callback"],
)
def test_a_send_that_was_given_up_while_it_waited_for_a_thread_is_never_made(world, wrap):
    """It is surely not sent: neither is it of unknown fate, nor may it go out after its dead letter."""
    gate = Gate()
    world.enqueue_ready()
    with world.worker(
        notifier=wrap(part("sync", notify=gate.notify)), delivery=WEARY, delivery_concurrency=1
    ) as worker:
        until(gate.waits.is_set, "the only thread hangs in a send")
        until(lambda: results(worker), "it is given up")
        world.enqueue_ready("job_2")
        until(lambda: results(worker, "job_2"), "another send is given up that waited for the thread")
        until(lambda: worker.recorder.of(events.JobDeadLettered, "job_2"), "it is a dead letter")
        gate.open.set()
        world.enqueue_ready("job_3")
        until(lambda: worker.recorder.of(events.JobDelivered, "job_3"), "the thread is free again")

    assert set(results(worker, "job_2")) == {"not_sent"}
    assert gate.sent == ["job_3"]


@pytest.mark.parametrize("kind", ["async"], indirect=True)
def test_nothing_begins_after_a_stop(world, call):
    """Calls that waited for a thread are dropped; what waits inside of a send may not go on to its request."""
    gate, polls = Gate(), []

    def poll(job, **_):
        polls.append(job.job_id)
        return VideoReady("https://files.example/1.mp4")

    for job_id in ("job_1", "job_2"):
        world.enqueue_ready(job_id)

    async def work():
        queue = AsyncRedisVideoJobQueue.from_url(world.url, prefix=world.prefix)
        async with queue:
            runner = AsyncRunner(
                queue,
                part("sync", poll=poll),
                part("sync", notify=gate.notify),
                strategy=FAST,
                delivery=QUICK,
                delivery_concurrency=2,
                grace_s=0.1,
            )
            # One thread for two places, as if another send had been given up in the second one.
            runner._parts._threads = (runner._parts._threads[0], DaemonThreads(1, "videopoll-send"))
            async with runner:
                runner.start()
                await asyncio.to_thread(
                    until, lambda: gate.waits.is_set() and runner.sends_in_hand == 2, "both are sent"
                )
                await runner.stop()
                gate.open.set()
                await asyncio.to_thread(until, lambda: not sending_threads(), "the threads have ended")

    call(work())

    assert gate.sent == []


def sending_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("videopoll-send")]


@EACH_COMBINATION
def test_a_send_that_stands_before_its_request_when_the_worker_stops_is_not_made(world, parts):
    """A thread cannot be cut off, but it is told: the next worker sends the message, and it is the only one."""
    gate = Gate()
    own = part(parts, notify=gate.notify, look_up=gate.look_up)
    world.enqueue_ready()
    worker = world.worker(notifier=own, grace_s=0.1).start()
    until(gate.waits.is_set, "the send is under way")
    worker.stop()
    gate.open.set()

    with world.queue() as queue:
        view = queue.get("job_1")
        assert view.state is JobState.OUTBOX
        goes_on = view.entry.sending_ms - view.now_ms
    # A thread may have been past that point: the next worker gives it time. A task was cut off.
    assert (goes_on > 20_000) == (parts != "async")
    assert gate.sent == []


# --- what does not come back ----------------------------------------------------------------------


@EACH_COMBINATION
def test_a_send_that_does_not_come_back_in_its_time_is_of_unknown_fate(world, parts):
    """The job goes on without it, under threads too, and what still stands before its request does not go out."""
    gate = Gate()
    own = part(parts, notify=gate.notify)
    world.enqueue_ready()
    weary = attrs.evolve(QUICK, send_timeout_s=0.3)
    with world.worker(notifier=own, delivery=weary, lease=BRIEF) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered by another try")
        hangs = any("do not come back" in problem for problem in worker.runner.health().problems)
        gate.open.set()
        until(
            lambda: not any("do not come back" in problem for problem in worker.runner.health().problems),
            "the first try has come back",
        )

    assert results(worker) == ["unknown", "cannot_tell", "delivered"]
    assert gate.sent == ["job_1"]
    # A task was cut off; a thread cannot be, and is told of.
    assert hangs == (parts != "async")


@EACH_COMBINATION
def test_a_poll_that_does_not_come_back_in_its_time_is_a_fault(world, parts, monkeypatch):
    """A worker that is the only one must not wait for a poller that hangs."""
    monkeypatch.setattr("videopoll.worker.hung.GUARD_S", 0.1)
    monkeypatch.setattr("videopoll.worker.async_parts.GUARD_S", 0.1)
    waits, free = threading.Event(), threading.Event()

    def poll(job, **_):
        if not waits.is_set():
            waits.set()
            yield free
        return VideoReady("https://files.example/1.mp4")

    sent: list[str] = []
    world.enqueue_ready()
    quick = attrs.evolve(FAST, request_timeout_s=0.2)
    own = part(parts, notify=lambda message: sent.append(message.job.job_id))
    with world.worker(poller=part(parts, poll=poll), notifier=own, strategy=quick, lease=BRIEF) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")
        free.set()

    assert [event.fault for event in worker.recorder.of(events.JobPolled)] == ["timeout", None]
    assert sent == ["job_1"]


@EACH_COMBINATION
def test_a_look_up_that_does_not_come_back_in_its_time_is_no_answer(world, parts):
    """It is made again, and nothing is sent before it has answered."""
    waits, free, sent = threading.Event(), threading.Event(), []

    def notify(message):
        sent.append(message.job.job_id)
        return Unknown("lost")

    def look_up(_):
        if not waits.is_set():
            waits.set()
            yield free
        return LookupResult.FOUND

    world.enqueue_ready()
    own = part(parts, notify=notify, look_up=look_up)
    with world.worker(notifier=own, delivery=attrs.evolve(QUICK, send_timeout_s=0.3), lease=BRIEF) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "it is found")
        free.set()

    assert results(worker) == ["unknown", "no_answer", "found"]
    assert sent == ["job_1"]
