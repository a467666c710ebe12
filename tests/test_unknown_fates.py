"""What may have gone out and nobody can say: asked for, sent again a few times at most, and never forgotten."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

import attrs
import pytest
import redis

from kit import EACH_COMBINATION, QUICK, Worker, part, phone, until
from videopoll import OnUnknown, Recipient, RoutingNotifier, events
from videopoll.jobs import JobState
from videopoll.jobs.views import CancelResult, EnqueueResult
from videopoll.messages import LookupResult, NotSent, Unknown
from videopoll.testing import Reply

# The server's kind makes no difference here; the scripts are tested on both elsewhere.
pytestmark = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)

STEADY = attrs.evolve(QUICK, jitter=0.0, backoff_base_s=0.05, backoff_cap_s=0.1, appear_within_s=0.05)


@pytest.fixture(autouse=True)
def _eager(idle_at_most):
    idle_at_most(0.1)


class Gateway:
    """A channel that delivers, and whose answers tell nothing of it."""

    def __init__(self, answer: Any = None, result: Any = LookupResult.CANNOT_TELL) -> None:
        self.sent: list[str] = []
        self.forms: list[str] = []
        self.answer = answer or (lambda: Unknown("HTTP 500"))
        self.result = result

    def notify(self, message):
        self.sent.append(message.job.job_id)
        self.forms.append(message.form.value)
        return self.answer()

    def look_up(self, message):
        return self.result


def raising() -> None:
    """Lose the reply."""
    raise ConnectionResetError


def buried(worker: Worker, job_id: str = "job_1") -> events.JobDeadLettered:
    """Wait until a job is a dead letter."""
    return until(lambda: worker.recorder.of(events.JobDeadLettered, job_id), "it is a dead letter")[0]


# --- a budget of their own ------------------------------------------------------------------------


@EACH_COMBINATION
@pytest.mark.parametrize(
    "gateway",
    [
        Gateway,
        lambda: Gateway(raising),
        lambda: Gateway(lambda: {"success": True}),
        lambda: Gateway(result=LookupResult.ABSENT),
    ],
    ids=["500", "raises", "another shape", "its list is empty"],
)
def test_a_gateway_that_delivers_and_does_not_say_so_sends_a_user_three_copies_at_most(world, parts, gateway):
    """Then a person looks, and reads that the user may have it."""
    channel = gateway()
    world.enqueue_ready()
    with (
        world.worker(notifier=part(parts, notify=channel.notify, look_up=channel.look_up), delivery=STEADY) as worker,
        world.queue() as queue,
    ):
        reason = buried(worker).reason
        letter = queue.dead_letters.get("job_1")

    assert len(channel.sent) == 3
    # The upload may be what breaks: the last one is the text with the link.
    assert channel.forms == ["video", "video", "text"]
    assert reason.startswith("nobody can say whether the message went out, after 3 sends: the user may have it already")
    assert (letter.entry.unknowns, letter.entry.sending_ms is None) == (3, False)


@pytest.mark.parametrize(
    "reply",
    [
        attrs.evolve(Reply.fault(500), accept=True),
        attrs.evolve(Reply.json({"success": True, "data": {"key": {"id": "ABC"}}}), accept=True),
    ],
    ids=["500", "another shape of success"],
)
def test_a_shipped_channel_whose_server_answers_so_has_the_same_budget(world, reply):
    """WhatsApp Factory cannot be asked."""
    world.enqueue_ready(channel="whatsapp_factory")
    world.factory.fail_every(1, reply)

    with world.worker(delivery=STEADY) as worker:
        assert "after 3 sends" in buried(worker).reason

    assert len(world.factory.inbox(phone(1))) == 3


@EACH_COMBINATION
def test_at_most_once_is_one_send_of_unknown_fate(world, parts):
    """The budget of at least once is no concern of it."""
    channel = Gateway()
    world.enqueue_ready()
    once = attrs.evolve(STEADY, on_unknown=OnUnknown.AT_MOST_ONCE)

    with world.worker(notifier=part(parts, notify=channel.notify), delivery=once) as worker:
        assert "at most once" in buried(worker).reason

    assert len(channel.sent) == 1


@EACH_COMBINATION
def test_the_budget_is_the_hosts_to_set(world, parts):
    channel = Gateway()
    world.enqueue_ready()

    with world.worker(
        notifier=part(parts, notify=channel.notify), delivery=attrs.evolve(STEADY, unknown_attempts=1)
    ) as worker:
        assert "after 1 send:" in buried(worker).reason

    assert len(channel.sent) == 1


@EACH_COMBINATION
def test_a_refusal_in_between_does_not_refill_the_budget(world, parts):
    """What surely was not sent costs nothing of it, and gives nothing back."""
    answers = iter([Unknown("a"), NotSent("busy"), Unknown("b"), NotSent("busy"), Unknown("c"), NotSent("d")])
    channel = Gateway(lambda: next(answers))
    world.enqueue_ready()

    with world.worker(notifier=part(parts, notify=channel.notify), delivery=STEADY) as worker:
        buried(worker)

    assert len(channel.sent) == 5


def test_a_redriven_letter_has_a_fresh_budget(world):
    """Somebody has decided to have it sent again."""
    channel = Gateway()
    world.enqueue_ready()

    with world.worker(notifier=part("sync", notify=channel.notify), delivery=STEADY) as worker, world.queue() as queue:
        buried(worker)
        assert queue.dead_letters.redrive("job_1")
        until(lambda: len(worker.recorder.of(events.JobDeadLettered)) == 2, "it is a dead letter again")

    assert len(channel.sent) == 6


def test_an_entry_of_an_earlier_version_has_used_nothing_of_the_budget(world):
    """Its outbox entries do not count these sends."""
    channel = Gateway()
    world.enqueue_ready()
    patient = attrs.evolve(STEADY, backoff_base_s=0.6, backoff_cap_s=0.6)
    with world.worker(notifier=part("sync", notify=channel.notify), delivery=patient), world.queue() as queue:
        until(lambda: queue.get("job_1").state is JobState.OUTBOX, "it waits")
    with redis.Redis.from_url(world.url) as client:
        key = f"{world.prefix}:poll:outbox:job_1"
        entry = json.loads(client.get(key))
        del entry["unknowns"]
        client.set(key, json.dumps(entry), keepttl=True)

    with world.worker(notifier=part("sync", notify=channel.notify), delivery=STEADY) as worker:
        buried(worker)

    assert len(channel.sent) == 3


# --- an account that tells nothing is held back ---------------------------------------------------


def routed(parts: str, channel: Gateway, account: Any = lambda _: {}) -> RoutingNotifier:
    """Route every conversation over one channel, by the account that is given for it."""
    own = part(parts, notify=channel.notify, look_up=channel.look_up)
    return RoutingNotifier({"own": own}, resolve=lambda c: Recipient(channel="own", to=TO, **account(c)))


TO = phone(1)
JOBS = [f"job_{number}" for number in range(1, 13)]
SLOW = attrs.evolve(STEADY, backoff_base_s=5.0, backoff_cap_s=5.0)


@EACH_COMBINATION
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "routed"])
def test_a_channel_that_tells_nothing_of_message_after_message_is_held_back_with_one_alarm(world, parts, alone):
    """Its users are not flooded: one event, one line of the log, a problem in the health, and nothing more is sent."""
    channel = Gateway()
    own = part(parts, notify=channel.notify, look_up=channel.look_up) if alone else routed(parts, channel)
    world.enqueue_many(*JOBS, answer=Reply.completed())
    with (
        world.worker(notifier=own, delivery=SLOW, delivery_concurrency=1, concurrency=2) as worker,
        world.queue() as queue,
    ):
        until(lambda: len({e.job_id for e in worker.recorder.of(events.SendTried)}) == len(JOBS), "all were tried")
        held = [event for event in worker.recorder.of(events.SendTried) if event.result == "waits"]
        health = worker.runner.health()
        views = {job_id: queue.get(job_id) for job_id in JOBS}

    assert len(channel.sent) == 3
    (alarm,) = worker.recorder.of(events.ChannelHeldBack)
    assert (alarm.channel, alarm.messages, alarm.pause_s) == (None if alone else "own", 3, 5.0)
    assert any("held back" in problem for problem in health.problems)
    # They keep their budgets.
    kept = [view.entry for job_id, view in views.items() if job_id not in channel.sent and view.entry]
    assert len(kept) == len(held) == len(JOBS) - 3
    assert {(entry.tries, entry.unknowns, entry.sending_ms) for entry in kept} == {(0, 0, None)}


@EACH_COMBINATION
def test_one_message_finds_out_whether_the_account_is_well_again(world, parts):
    """After the pause; when it is told of, the others follow and the problem is over."""
    well: list[bool] = []
    channel = Gateway(lambda: None if well else Unknown("HTTP 500"))
    world.enqueue_many(*JOBS, answer=Reply.completed())
    with world.worker(notifier=routed(parts, channel), delivery=STEADY, delivery_concurrency=1) as worker:
        until(lambda: worker.recorder.of(events.ChannelHeldBack), "it is held back")
        well.append(True)
        until(lambda: len(worker.recorder.of(events.JobDelivered)) == len(JOBS), "all are delivered")
        assert not any("held back" in problem for problem in worker.runner.health().problems)

    assert max(Counter(channel.sent).values()) <= 3
    assert len(worker.recorder.of(events.ChannelHeldBack)) == 1


def test_another_account_of_the_same_channel_goes_on(world):
    """An account is a channel and its credentials; nothing of them is shown."""
    bad: list[str] = []

    def notify(message):
        if message.recipient.token == "bad-token":
            bad.append(message.job.job_id)
            return Unknown("HTTP 500")
        return None

    router = RoutingNotifier(
        {"own": part("sync", notify=notify)},
        resolve=lambda c: Recipient(channel="own", to=TO, token="good" if c.endswith(("1", "2")) else "bad-token"),
    )
    world.enqueue_many(*JOBS, answer=Reply.completed())
    with world.worker(notifier=router, delivery=SLOW, delivery_concurrency=1) as worker:
        until(lambda: len({e.job_id for e in worker.recorder.of(events.SendTried)}) == len(JOBS), "all were tried")
        until(lambda: len(worker.recorder.of(events.JobDelivered)) == 4, "what was sent is settled")
        delivered = {event.job_id for event in worker.recorder.of(events.JobDelivered)}
        problems = " ".join(worker.runner.health().problems)

    assert delivered == {job_id for job_id in JOBS if job_id.endswith(("1", "2"))}
    assert len(bad) == 3
    assert "bad-token" not in problems
    assert "bad-token" not in repr(worker.recorder.of(events.ChannelHeldBack))


@EACH_COMBINATION
def test_an_account_that_is_refused_is_held_back_at_its_first_refusal(world, parts):
    """A wrong token, an instance that is gone: each message would fail, and none uses up a try while it is held."""
    channel = Gateway(lambda: NotSent("HTTP 401", channel_fault=False, account_fault=True))
    world.enqueue_many(*JOBS, answer=Reply.completed())
    with (
        world.worker(notifier=routed(parts, channel), delivery=SLOW, delivery_concurrency=1) as worker,
        world.queue() as queue,
    ):
        until(lambda: len({e.job_id for e in worker.recorder.of(events.SendTried)}) == len(JOBS), "all were tried")
        health = worker.runner.health()

        def tries():
            views = [queue.get(job_id) for job_id in JOBS]
            return sorted(view.entry.tries for view in views if view and view.entry and not view.entry.sending_ms)

        until(lambda: len(tries()) == len(JOBS), "what was held back is written")
        tried = tries()

    assert len(channel.sent) == 1
    assert tried == [0] * 11 + [1]
    (alarm,) = worker.recorder.of(events.ChannelHeldBack)
    assert (alarm.channel, alarm.messages, alarm.refused) == ("own", 1, True)
    assert any("held back, as the channel refuses the credentials" in problem for problem in health.problems)


# --- what is done to such a job -------------------------------------------------------------------


@EACH_COMBINATION
@pytest.mark.parametrize("notify", [False, True])
def test_a_message_that_may_have_gone_out_cannot_be_cancelled(world, parts, notify):
    """The user would get the video and "cancelled", and the URL would be lost; the answer is "sending"."""
    channel = Gateway()
    world.enqueue_ready()
    with (
        world.worker(notifier=part(parts, notify=channel.notify), delivery=SLOW) as worker,
        world.queue() as queue,
    ):
        until(lambda: worker.recorder.of(events.SendTried), "its fate is unknown")
        until(lambda: queue.get("job_1").state is JobState.OUTBOX, "it waits for its next try")
        assert queue.cancel("job_1", notify=notify) is CancelResult.SENDING
        view = queue.get("job_1")
        assert view.outcome.video_url == world.api.video_url("job_1")
        assert view.entry.sending_ms is not None
        assert queue.enqueue("job_1", conversation_id="job_1") is EnqueueResult.DELIVERING
        assert not queue.poll_now("job_1")

    assert len(channel.sent) == 1


def test_a_message_that_surely_was_not_sent_can_be_cancelled_still(world):
    """Also if the job's own data have a word for sending."""
    with world.queue() as queue:
        world.api.job("job_1", Reply.completed())
        queue.enqueue("job_1", conversation_id="c", metadata={"sending": 7, "note": '"sending":7'})
        with world.worker(notifier=part("sync", notify=lambda _: NotSent("busy")), delivery=SLOW) as worker:
            until(lambda: worker.recorder.of(events.SendTried), "it was tried")
            until(lambda: queue.get("job_1").state is JobState.OUTBOX, "it waits for its next try")
            assert queue.cancel("job_1") is CancelResult.CANCELLED


def test_a_letter_whose_job_is_being_sent_again_cannot_be_redriven(world):
    """What is noted about that send would be overwritten, and the message doubled after a crash."""
    waits, free = threading.Event(), threading.Event()

    def notify(message):
        if message.attempt > 1 or redriven:
            waits.set()
            free.wait(30)
            return None
        return Unknown("lost")

    redriven: list[bool] = []
    world.enqueue_ready()
    once = attrs.evolve(STEADY, on_unknown=OnUnknown.AT_MOST_ONCE)
    with (
        world.worker(notifier=part("sync", notify=notify), delivery=once) as worker,
        world.queue() as queue,
        redis.Redis.from_url(world.url) as client,
    ):
        buried(worker)
        letters, dead = f"{world.prefix}:poll:letters", f"{world.prefix}:poll:dead"
        letter = client.hget(letters, "job_1")
        assert letter, client.keys(f"{world.prefix}:*")
        redriven.append(queue.dead_letters.redrive("job_1"))
        until(waits.is_set, "it is being sent again")
        # As after a redrive that was cut off before its end.
        client.hset(letters, "job_1", letter)
        client.zadd(dead, {"job_1": 1})
        assert not queue.dead_letters.redrive("job_1")
        assert queue.get("job_1").entry.tries == 1
        free.set()
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")
        assert queue.dead_letters.dismiss("job_1")
