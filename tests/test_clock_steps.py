"""Redis's clock steps, or a failover brings a machine with another one: late or early by the step, and nothing worse.

A clock that steps back by ten minutes leaves all that is stored ten minutes ahead of it. So the
tests move what is stored: every time in every value, every score, and every time to live.
"""

from __future__ import annotations

import json
from collections import Counter

import attrs
import pytest
import redis

from kit import FAST, QUICK, Recorder, until
from videopoll import DeliveryPolicy, LeasePolicy, PollingStrategy, events
from videopoll.core.delivery import open_outbox
from videopoll.errors import InvalidJobError
from videopoll.jobs import DeadLetter, JobState, Outcome, OutcomeKind, VideoJob
from videopoll.jobs.codec import dump
from videopoll.jobs.transition import (
    BeginSend,
    Conclude,
    PollWork,
    Redeliver,
    Release,
    Reschedule,
    SendWork,
    Settle,
    TransitionResult,
)
from videopoll.jobs.views import CancelResult
from videopoll.messages import Delivered, NotSent
from videopoll.observations import Fault, FaultKind, VideoReady, VideoWorking
from videopoll.queue.schema import Keys

AT_ONCE = PollingStrategy(initial_delay_s=0)
LEASE, POLICY = LeasePolicy(), DeliveryPolicy()
TEN_MINUTES_S = 600
TIMES = {"startTime", "at", "deadline", "sending", "completedAt", "failedAt", "deliveredAt"}


def _moved(value, by_ms: int):
    if isinstance(value, dict):
        return {
            name: one + by_ms if name in TIMES and type(one) is int else _moved(one, by_ms)
            for name, one in value.items()
        }
    if isinstance(value, str) and value.startswith("{"):
        return dump(_moved(json.loads(value), by_ms))
    return value


def step_back(client: redis.Redis, prefix: str, seconds: float) -> None:
    """Leave everything as it stands after Redis's clock has stepped back by so much; forward, if that is below zero."""
    by_ms, keys = round(seconds * 1000), Keys(prefix)
    for name in client.scan_iter(match=f"{prefix}:*", count=1000):
        ends_ms, kind = client.pexpiretime(name), client.type(name)
        if kind == b"string" and (stored := client.get(name)).startswith(b"{"):
            client.set(name, dump(_moved(json.loads(stored), by_ms)), keepttl=True)
        elif kind == b"zset":
            for member, score in client.zrange(name, 0, -1, withscores=True):
                client.zadd(name, {member: score + by_ms})
        elif name.decode() == keys.letters:
            for field, letter in client.hgetall(name).items():
                client.hset(name, field, dump(_moved(json.loads(letter), by_ms)))
        elif name.decode() == keys.faults:
            for field, state in client.hgetall(name).items():
                count, answered, *more = state.decode().split(":")
                client.hset(name, field, ":".join((count, str(int(answered) + by_ms) if answered else "", *more)))
        if ends_ms > 0:
            client.pexpireat(name, ends_ms + by_ms)


@attrs.define
class Place:
    """A queue, and a client beside it."""

    client: redis.Redis
    prefix: str
    queue: object

    @property
    def keys(self) -> Keys:
        """The names of its keys."""
        return Keys(self.prefix)

    def now_ms(self) -> int:
        """Redis's clock."""
        seconds, micros = self.client.time()
        return seconds * 1000 + micros // 1000

    def claim(self, **options):
        """Claim everything."""
        wanted = {"polls": 50, "sends": 50, "worker_id": "w", "strategy": AT_ONCE, "lease": LEASE, **options}
        return self.queue.claim(**wanted).claims

    def one(self, job_id: str = "job_1"):
        """Take a job in, and claim it."""
        self.queue.enqueue(job_id, conversation_id="c")
        (claim,) = self.claim()
        return claim

    def entry(self, claim, **changes):
        """Give a finished video's delivery."""
        outcome = Outcome(OutcomeKind.COMPLETED, self.now_ms(), video_url="https://v/1.mp4")
        return attrs.evolve(open_outbox(claim.work.job, outcome, POLICY), **changes)

    def step_back(self, seconds: float = TEN_MINUTES_S) -> None:
        """Move Redis's clock."""
        step_back(self.client, self.prefix, seconds)

    def everything_is_due(self) -> None:
        """Let what is waited for pass, and the leases of workers that are dead."""
        self.waits_are_over(self.keys.inflight)

    def waits_are_over(self, *more: str) -> None:
        """Let what is waited for pass."""
        for key in (self.keys.schedule, self.keys.deliveries, *more):
            for member in self.client.zrange(key, 0, -1):
                self.client.zadd(key, {member: 1})


@pytest.fixture
def place(world):
    """A queue whose Redis's clock steps."""
    with redis.Redis.from_url(world.url) as client, world.queue() as queue:
        yield Place(client, world.prefix, queue)


STEPS = pytest.mark.parametrize("seconds", [-200, -30, 30, TEN_MINUTES_S, 86_400, 10 * 365 * 86_400])


@STEPS
@pytest.mark.parametrize("where", ["list", "schedule", "in flight", "after a fault", "given back"])
def test_a_job_is_still_a_job(place, seconds, where):
    """Wherever it stood."""
    if where == "list":
        place.queue.enqueue("job_1", conversation_id="c")
    else:
        claim = place.one()
        if where == "schedule":
            place.queue.apply([Reschedule(claim, place.now_ms() + 10_000)])
        elif where == "after a fault":
            place.queue.apply([Reschedule(claim, place.now_ms() + 10_000, 3, place.now_ms())])
        elif where == "given back":
            place.queue.apply([Release(claim)])
    place.step_back(seconds)
    place.everything_is_due()

    assert place.queue.get("job_1").job.conversation_id == "c"
    place.claim()
    place.everything_is_due()
    (claim,) = place.claim()
    assert isinstance(claim.work, PollWork)


@STEPS
@pytest.mark.parametrize("where", ["outbox", "in flight", "sending"])
def test_a_finished_video_is_still_a_finished_video(place, seconds, where):
    """It was paid for, and is delivered."""
    claim = place.one()
    entry = place.entry(claim, sending_ms=place.now_ms() if where == "sending" else None, tries=1)
    assert place.queue.apply([Conclude(claim, entry, 90_000, 12_000)]) == [TransitionResult.APPLIED]
    if where == "sending":
        place.queue.apply([BeginSend(claim, entry, 90_000, 12_000)])
    elif where == "outbox":
        place.queue.apply([Redeliver(claim, entry, 90_000, place.now_ms() + 5000)])
    place.step_back(seconds)
    place.everything_is_due()

    view = place.queue.get("job_1")
    assert (view.outcome.video_url, view.state) != (None, JobState.DEAD)
    (claim,) = place.claim()
    assert isinstance(claim.work, SendWork)
    assert claim.work.entry.outcome.video_url == "https://v/1.mp4"


@STEPS
def test_a_letter_brings_back_what_it_was(place, seconds):
    """A video stays a video, and a record goes on."""
    claim = place.one("video")
    entry = place.entry(claim)
    place.queue.apply([Conclude(claim, entry, 90_000, 12_000)])
    place.queue.apply([Settle(claim, "{}", DeadLetter("video", "why", place.now_ms(), entry=entry))])
    record = place.one("record")
    letter = DeadLetter("record", "why", place.now_ms(), record=record.raw.decode())
    place.queue.apply([Settle(record, letter=letter)])
    place.step_back(seconds)

    assert place.queue.get("video").outcome.video_url == "https://v/1.mp4"
    assert place.queue.dead_letters.redrive_all() == 2
    works = {claim.job_id: claim.work for claim in place.claim()}
    assert isinstance(works["video"], SendWork)
    assert isinstance(works["record"], PollWork)


@STEPS
def test_a_cancelled_job_still_tells_its_user(place, seconds):
    """The notice needs to know whom it is for."""
    place.queue.enqueue("job_1", conversation_id="c")
    place.step_back(seconds)
    assert place.queue.cancel("job_1", notify=True) is CancelResult.CANCELLED
    place.everything_is_due()
    (claim,) = place.claim()
    assert claim.work.entry.outcome.kind is OutcomeKind.CANCELLED


def test_a_strangers_start_in_the_future_is_still_refused(place):
    """His record lives no longer than any other: it is his clock that is wrong, not ours that stepped."""
    start_ms = place.now_ms() + 86_400_000
    record = {"jobId": "job_1", "conversationId": "c", "startTime": start_ms, "status": "polling"}
    place.client.set(place.keys.job("job_1"), json.dumps(record), ex=600)
    place.client.lpush(place.keys.queue, "job_1")
    (claim,) = place.claim(polls=0, endings=0) or place.claim()
    assert claim.work.reason == "startTime is in the future"
    assert not place.client.exists(place.keys.attempts("job_1"))


def test_a_letter_that_an_earlier_version_made_of_a_video_brings_back_the_video(place):
    """It kept the outbox entry where the record belongs, and a redrive made something that names no job."""
    claim = place.one()
    entry = place.entry(claim)
    broken = DeadLetter("job_1", "startTime is in the future", place.now_ms(), record=entry.to_json())
    place.queue.apply([Conclude(claim, entry, 90_000, 12_000)])
    place.queue.apply([Settle(claim, letter=broken)])

    (letter,) = place.queue.dead_letters.list()
    assert (letter.entry, letter.record) == (entry, None)
    assert place.queue.get("job_1").outcome.video_url == "https://v/1.mp4"
    assert place.queue.dead_letters.redrive("job_1")
    (claim,) = place.claim()
    assert claim.work.entry.outcome.video_url == "https://v/1.mp4"


def test_an_outcome_that_cannot_be_read_is_kept_apart_from_records(world, place):
    """A redrive says so, instead of making a record of it that names no job."""
    claim = place.one()
    place.queue.apply([Conclude(claim, place.entry(claim), 90_000, 1)])
    damaged = '{"v":1,"record":{"jobId":"job_1"},"outcome":{}}'
    place.client.set(place.keys.outbox("job_1"), damaged, ex=60)
    with world.worker() as worker:
        until(lambda: worker.recorder.of(events.JobDeadLettered), "it is a dead letter")

    letter = place.queue.dead_letters.get("job_1")
    assert (letter.record, letter.entry, letter.raw_entry) == (None, None, damaged)
    with pytest.raises(InvalidJobError, match="cannot be read"):
        place.queue.dead_letters.redrive("job_1")
    assert place.queue.dead_letters.dismiss("job_1")


@pytest.mark.parametrize("seconds", [TEN_MINUTES_S, -5])
def test_everybody_hears_once_though_the_clock_steps_in_the_middle(world, place, seconds):
    """Jobs that are polled and meet with a fault, and videos that meet with a messenger that is down."""
    told, stepped = Counter(), []

    class Messenger:
        def notify(self, message):
            if not stepped:
                # None is in hand while the stored times are moved: its note would be late by the step, too.
                return NotSent("down", retry_after_s=10, counts=False)
            told[message.conversation_id, message.outcome.kind.value] += 1
            return Delivered()

    class Api:
        def poll(self, job, *, timeout_s):
            number = int(job.job_id.removeprefix("job_"))
            if number % 2 or len(stepped) > 1:
                return VideoReady("https://v/1.mp4")
            return Fault(FaultKind.SERVER, "HTTP 503") if stepped else VideoWorking()

    with world.queue() as queue:
        queue.enqueue_many((f"job_{number}", f"user_{number}", None) for number in range(10))
    recorder = Recorder()
    strategy = attrs.evolve(FAST, timeout_s=60.0)
    with world.worker(poller=Api(), notifier=Messenger(), strategy=strategy, delivery=QUICK, hooks=[recorder]):
        until(lambda: place.client.zcard(place.keys.deliveries) == 5, "five videos wait for the messenger")
        until(lambda: len(recorder.of(events.JobPolled)) > 20, "the others are being polled")
        place.step_back(seconds)
        stepped.append(1)
        until(
            lambda: any(event.fault for event in recorder.of(events.JobPolled)), "a fault", 5
        ) if seconds < 0 else None
        stepped.append(1)
        # What comes late by the step is not sat out here.
        until(lambda: place.waits_are_over() or len(told) == 10, "everybody has heard")

    assert set(told.values()) == {1}
    assert {word for _, word in told} == {"completed"}
    assert not place.queue.counts().dead
    assert all(event.elapsed_s >= 0 and event.took_s >= 0 for event in recorder.of(events.JobPolled))


def test_what_was_accepted_can_be_read_again():
    """An entry is written by us alone: no check for what strangers write stands in its way."""
    job = VideoJob("job_1", "c", 4_000_000_000_000, {"outcome": 1, "record": {"jobId": "x"}})
    outcome = Outcome(OutcomeKind.COMPLETED, 1, video_url="https://v/1.mp4", timestamp=[1, {"a": None}])
    entry = open_outbox(job, outcome, POLICY)
    assert type(entry).from_json("job_1", entry.to_json().encode()) == entry
