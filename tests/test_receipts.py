"""Accepted is not delivered: whole workers of both kinds over a channel that tells later what became of its messages."""

from __future__ import annotations

import json
import signal
from typing import Any

import attrs
import pytest
import redis

from kit import EACH_COMBINATION, QUICK, Worker, World, part, until
from kit.worker_process import end
from videopoll import OnUnknown, Runner, events
from videopoll.jobs import JobState, MessageForm, ReceiptCounts
from videopoll.messages import Accepted, Delivered, MessageReceipt, NotSent, Refused, Unknown

# The scripts run over both servers elsewhere.
pytestmark = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)

STEADY = attrs.evolve(QUICK, jitter=0.0, backoff_base_s=0.05, backoff_cap_s=0.1, appear_within_s=0.05, watch_s=60.0)


@pytest.fixture(autouse=True)
def _eager(idle_at_most):
    idle_at_most(0.1)


class Network:
    """A channel that accepts each message under an id of its own, or answers as it is told to."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent: list[Any] = []

    def notify(self, message):
        self.sent.append(message)
        answer = self.answers.pop(0) if self.answers else Accepted
        if answer is Accepted:
            return Accepted(f"wamid.{len(self.sent)}")
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) else answer

    @property
    def forms(self) -> list[str]:
        return [message.form.value for message in self.sent]


def tell(world: World, kind: str, number: int = 1, **fields: Any) -> dict[str, int]:
    """Have the network tell what became of its message of this number."""
    receipt = MessageReceipt(**{"kind": kind, "message_id": f"wamid.{number}", **fields})
    with world.queue() as queue:
        counts = attrs.asdict(queue.receive_receipts([receipt]))
    return {name: count for name, count in counts.items() if count}


def watched(world: World, worker: Worker, times: int = 1) -> None:
    """Wait until the message of this number was accepted."""
    until(lambda: len(worker.recorder.of(events.JobAccepted)) == times, "the channel has accepted it")
    assert state(world) is JobState.WATCHED


def state(world: World) -> JobState:
    """Where the job is."""
    with world.queue() as queue:
        return queue.get("job_1").state


def buried(worker: Worker) -> events.JobDeadLettered:
    """Wait until the job is a dead letter."""
    return until(lambda: worker.recorder.of(events.JobDeadLettered), "the job is a dead letter")[0]


def completed(world: World) -> dict[str, Any]:
    """What ``video:completed`` says of the job."""
    with redis.Redis.from_url(world.url) as client:
        return json.loads(client.get(f"{world.prefix}:completed:job_1"))


@EACH_COMBINATION
def test_a_message_is_delivered_only_by_its_receipt(world, parts):
    """Until then the channel has it, and nobody knows more."""
    network = Network()
    world.enqueue_ready()
    with world.worker(notifier=part(parts, notify=network.notify), delivery=STEADY) as worker:
        watched(world, worker)
        assert worker.recorder.of(events.JobDelivered) == []
        assert completed(world)["delivered"] is None
        assert [event.result for event in worker.recorder.of(events.SendTried)] == ["accepted"]
        assert tell(world, "delivered") == {"delivered": 1}
    assert completed(world)["delivered"] is True
    assert network.forms == ["video"]


@EACH_COMBINATION
def test_a_late_failure_sends_the_message_in_the_form_that_the_channel_names(world, parts):
    """A codec that WhatsApp does not play is told a minute after the 200."""
    network = Network()
    world.enqueue_ready()
    with world.worker(notifier=part(parts, notify=network.notify), delivery=STEADY) as worker:
        watched(world, worker)
        assert tell(world, "failed", reason="131047", then=MessageForm.TEMPLATE) == {"failed": 1}
        watched(world, worker, 2)
        assert network.forms == ["video", "template"]
        assert network.sent[1].attempt == 2
        tried = [(event.result, event.form.value, event.attempt) for event in worker.recorder.of(events.SendTried)]
        assert tried == [("accepted", "video", 1), ("failed", "video", 1), ("accepted", "template", 2)]
        assert tell(world, "delivered", 1) == {"ignored": 1}
        assert tell(world, "delivered", 2) == {"delivered": 1}
    done = completed(world)
    assert (done["form"], done["sends"], done["messageId"]) == ("template", 2, "wamid.2")


def test_no_form_that_failed_is_tried_again(world):
    """However often the channel names it: from the video to the file, to the text, and to the dead letters."""
    network = Network()
    world.enqueue_ready()
    with world.worker(notifier=part("both", notify=network.notify), delivery=STEADY) as worker:
        for number, then in enumerate((MessageForm.UPLOAD, MessageForm.VIDEO, MessageForm.UPLOAD), 1):
            watched(world, worker, number)
            tell(world, "failed", number, reason="131053", then=then)
        buried(worker)
    assert network.forms == ["video", "upload", "text"]


@pytest.mark.parametrize("last", ["nothing else may go", "the text failed, too", "no sends are left"])
def test_a_late_failure_after_which_nothing_can_go_is_a_dead_letter_with_the_channels_reason(world, last):
    """The operator reads what the channel said."""
    network = Network()
    policy = attrs.evolve(STEADY, max_attempts=1) if last == "no sends are left" else STEADY
    world.enqueue_ready()
    with world.worker(notifier=part("both", notify=network.notify), delivery=policy) as worker:
        watched(world, worker)
        if last == "the text failed, too":
            tell(world, "failed", reason="131053")
            watched(world, worker, 2)
            tell(world, "failed", 2, reason="131026: no WhatsApp")
        else:
            tell(world, "failed", reason="131026: no WhatsApp", try_text=last != "nothing else may go")
        buried(worker)
    with world.queue() as queue:
        letter = queue.dead_letters.get("job_1")
    assert "131026: no WhatsApp" in letter.reason
    assert completed(world)["delivered"] is False
    assert "131026" not in buried(worker).reason, "events carry our own words"


def test_a_dead_letter_of_a_late_failure_can_be_redriven(world):
    """It is sent again, in the form in which it failed, as a person has seen to it."""
    network = Network()
    world.enqueue_ready()
    with world.worker(notifier=part("both", notify=network.notify), delivery=STEADY) as worker:
        watched(world, worker)
        tell(world, "failed", reason="131026", try_text=False)
        buried(worker)
        with world.queue() as queue:
            assert queue.dead_letters.redrive("job_1")
        watched(world, worker, 2)
        assert tell(world, "failed", 1) == {"ignored": 1}
        assert tell(world, "delivered", 2) == {"delivered": 1}


def test_a_passing_failure_is_tried_again_in_the_same_form_after_a_wait(world):
    """WhatsApp's window is closed wrongly now and then: a second try goes through."""
    network = Network()
    world.enqueue_ready()
    with world.worker(notifier=part("both", notify=network.notify), delivery=STEADY) as worker:
        for number in range(1, STEADY.video_attempts + 1):
            watched(world, worker, number)
            assert network.forms == ["video"] * number
            tell(world, "failed", number, passing=True, reason="131016")
        watched(world, worker, STEADY.video_attempts + 1)
    assert network.forms[-1] == "text", "after some videos, as after other failures of the channel"


def test_the_time_of_the_watch_does_not_count_towards_the_deadline(world):
    """The template after a window that was closed five minutes after the acceptance has to go, and to be tried again."""
    network = Network(Accepted, NotSent("busy"), NotSent("busy"), Accepted)
    world.enqueue_ready()
    hasty = attrs.evolve(STEADY, deadline_s=3.0)
    with world.worker(notifier=part("both", notify=network.notify), delivery=hasty) as worker:
        watched(world, worker)
        with redis.Redis.from_url(world.url) as client:
            # As if it had been accepted, and the video been ready, an hour ago.
            key = f"{world.prefix}:poll:watch:job_1"
            entry, done = json.loads(client.get(key)), completed(world)
            for fields, name in ((entry, "deadline"), (entry["accepted"], "at"), (done, "acceptedAt")):
                fields[name] -= 3600_000
            client.set(key, json.dumps(entry), keepttl=True)
            client.set(f"{world.prefix}:completed:job_1", json.dumps(done), ex=60)
        assert tell(world, "failed") == {"failed": 1}
        watched(world, worker, 2)
    assert network.forms == ["video", "text", "text", "text"]


@EACH_COMBINATION
def test_a_receipt_that_overtakes_the_reply_to_the_send_is_not_lost(world, parts):
    """The channel calls back while the notifier has not even returned."""
    seen = []

    def overtaken():
        seen.append(tell(world, "failed", 1, reason="131053"))
        return Accepted("wamid.1")

    network = Network(overtaken)
    world.enqueue_ready()
    with world.worker(notifier=part(parts, notify=network.notify), delivery=STEADY) as worker:
        until(lambda: network.forms == ["video", "text"], "the text goes out")
        until(lambda: state(world) is JobState.WATCHED, "the text was accepted")
        assert worker.recorder.of(events.JobDeadLettered) == []
    assert seen == [{"kept": 1}]


def test_a_receipt_of_delivery_that_overtakes_the_reply_settles_the_job(world):
    """The user has the video before we know that it was sent."""

    def overtaken():
        tell(world, "delivered")
        return Accepted("wamid.1")

    network = Network(overtaken)
    world.enqueue_ready()
    with world.worker(notifier=part("both", notify=network.notify), delivery=STEADY) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")
    assert (completed(world)["delivered"], completed(world)["messageId"]) == (True, "wamid.1")
    assert network.forms == ["video"]


@pytest.mark.parametrize("choice", list(OnUnknown))
@pytest.mark.parametrize(("said", "sends", "told"), [("sent", 1, None), ("delivered", 1, True), ("failed", 2, None)])
def test_a_receipt_with_our_reference_tells_the_fate_of_a_send_whose_reply_was_lost(world, choice, said, sends, told):
    """It is the look-up of a channel that has none: whatever the host chose for unknown fates."""

    def lost():
        tell(world, said, 1, reference=network.sent[0].reference)
        return Unknown("the reply was lost")

    network = Network(lost)
    world.enqueue_ready()
    policy = attrs.evolve(STEADY, on_unknown=choice)
    with world.worker(notifier=part("both", notify=network.notify), delivery=policy):
        until(lambda: state(world) in {JobState.WATCHED, JobState.SETTLED}, "its fate is known")
        assert len(network.sent) == sends
        assert completed(world)["delivered"] is told
        if said == "sent":
            assert tell(world, "delivered", 1) == {"delivered": 1}


@pytest.mark.parametrize(
    ("then", "forms"),
    [
        ([("failed", 1)], ["video", "text", "text"]),
        ([("sent", 2)], ["video", "text"]),
        ([("failed", 1), ("sent", 2), ("failed", 1)], ["video", "text"]),
        ([("sent", 2), ("sent", 1), ("delivered", 2)], ["video", "text"]),
    ],
    ids=str,
)
def test_what_was_told_of_one_message_is_not_believed_of_the_next_one(world, then, forms):
    """All messages of a job bear its reference, and channels call back several times; here each reply is lost, too."""

    def lost(*said):
        def answer():
            for kind, number in said:
                tell(world, kind, number, reference=network.sent[0].reference)
            return Unknown("the reply was lost")

        return answer

    network = Network(lost(("failed", 1)), lost(*then))
    world.enqueue_ready()
    with world.worker(notifier=part("both", notify=network.notify), delivery=STEADY) as worker:
        until(lambda: state(world) in {JobState.WATCHED, JobState.SETTLED, JobState.DEAD}, "its fate is known")
        assert worker.recorder.of(events.JobDeadLettered) == []
        failed = [event.reason for event in worker.recorder.of(events.SendTried) if event.result == "failed"]
    assert network.forms == forms
    assert failed == ["the channel accepted the message and could not deliver it"]


@pytest.mark.parametrize("watch_s", [0.0, 60.0])
def test_a_delivered_message_is_never_watched_and_an_accepted_one_only_for_as_long_as_the_host_says(world, watch_s):
    """A host that takes no receipts in has no more keys for it."""
    network = Network(Delivered("5225") if watch_s else Accepted)
    world.enqueue_ready()
    with world.worker(
        notifier=part("both", notify=network.notify), delivery=attrs.evolve(STEADY, watch_s=watch_s)
    ) as worker:
        kind = events.JobDelivered if watch_s else events.JobAccepted
        until(lambda: worker.recorder.of(kind), "it is over")
    assert state(world) is JobState.SETTLED
    assert completed(world)["delivered"] is (True if watch_s else None)
    assert tell(world, "failed", 1) == {"kept": 1}
    assert state(world) is JobState.SETTLED


def test_a_channel_that_refuses_the_next_form_at_once_is_believed(world):
    """Both kinds of no end in the same way."""
    network = Network(Accepted, Refused("blocked", try_text=False))
    world.enqueue_ready()
    with world.worker(notifier=part("both", notify=network.notify), delivery=STEADY) as worker:
        watched(world, worker)
        tell(world, "failed", reason="131053")
        buried(worker)
    with world.queue() as queue:
        assert "blocked" in queue.dead_letters.get("job_1").reason


def test_a_run_of_a_cron_job_tells_of_what_was_accepted(world):
    """It is neither delivered nor undeliverable."""
    world.enqueue_ready()
    network = Network()
    with (
        world.queue() as queue,
        Runner(queue, world.poller(), part("sync", notify=network.notify), delivery=STEADY, visible=False) as runner,
    ):
        until(lambda: runner.run_once().accepted == 1, "it is accepted")


# --- a worker that dies ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "said", "messages", "state_then"),
    [
        ("after_send", "delivered", 1, JobState.SETTLED),
        ("before_settle", "failed", 2, JobState.WATCHED),
        ("after_settle", "failed", 2, JobState.WATCHED),
    ],
)
def test_a_receipt_that_comes_while_no_worker_lives_is_heard(world, point, said, messages, state_then):
    """Before our own write it is found by our reference, and answers for a channel that cannot be asked; else by its id."""
    to = world.enqueue_ready(channel="whatsapp_factory")
    once = attrs.asdict(STEADY) | {"on_unknown": "at_most_once"}
    dying = world.process(crash_at=point, accepting=True, delivery=once)
    assert dying.wait(20) == -signal.SIGKILL
    (sent,) = world.factory.inbox(to)
    with world.queue() as queue:
        view = queue.get("job_1")
    written = point == "after_settle"
    assert (view.state is JobState.WATCHED) is written
    reference = None if view.entry is None else view.entry.job.reference
    receipt = MessageReceipt(kind=said, message_id=sent.id, reference=reference, reason="131053")
    with world.queue() as queue:
        counts = queue.receive_receipts([receipt])
    assert counts == (ReceiptCounts(failed=1) if written else ReceiptCounts(kept=1))

    living = world.process(accepting=True, delivery=once)
    try:
        until(lambda: len(world.factory.inbox(to)) == messages and state(world) is state_then, "it has gone on")
    finally:
        end(living)
    assert (completed(world)["delivered"], completed(world)["sends"]) == ({1: True, 2: None}[messages], messages)
