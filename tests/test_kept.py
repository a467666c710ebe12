"""Whoever keeps a job keeps its record, and what is overdue ends: while the API throttles, hangs, or has no place to spare."""

from __future__ import annotations

import threading
import time
from collections import Counter

import attrs
import pytest
import redis

from kit import QUICK, until
from videopoll import KeyTtls, LeasePolicy, PollingStrategy, events
from videopoll.messages import Delivered
from videopoll.observations import Fault, FaultKind, VideoReady, VideoWorking
from videopoll.queue.schema import Keys

# The defaults, eighty times as fast; a record lives twice as long as a job may take.
STRATEGY = PollingStrategy(
    interval_s=0.13,
    timeout_s=3.8,
    initial_delay_s=0.06,
    backoff_base_s=0.06,
    backoff_cap_s=0.75,
    request_timeout_s=0.2,
    max_retry_after_s=0.75,
    not_found_grace_s=0.2,
)
TTLS = KeyTtls(job_s=8, attempts_s=8)


class Told:
    """A notifier that remembers who heard what."""

    def __init__(self) -> None:
        self.words: Counter[tuple[str, str]] = Counter()

    def notify(self, message) -> Delivered:
        self.words[message.conversation_id, message.outcome.kind.value] += 1
        return Delivered()

    @property
    def users(self) -> set[str]:
        """Who heard anything."""
        return {user for user, _ in list(self.words)}


class Poller:
    """A host's poller that does what it is told."""

    def __init__(self, poll) -> None:
        self._poll = poll
        self.polls = 0

    def poll(self, job, *, timeout_s):
        self.polls += 1
        return self._poll(job, timeout_s)


def throttled(_job, _timeout_s) -> Fault:
    return Fault(FaultKind.THROTTLED, "HTTP 429", 0.75)


def hangs(_job, timeout_s) -> Fault:
    time.sleep(timeout_s)
    return Fault(FaultKind.TIMEOUT, "nothing came")


def enqueue(world, count: int) -> set[str]:
    """Take jobs in, each for a user of their own."""
    with world.queue(ttls=TTLS) as queue:
        queue.enqueue_many((f"job_{number}", f"user_{number}", None) for number in range(count))
    return {f"user_{number}" for number in range(count)}


def worker(world, poller, told, **options):
    """Build a worker with the scaled defaults."""
    return world.worker(
        poller=poller,
        notifier=told,
        **{"strategy": STRATEGY, "delivery": QUICK, "queue_options": {"ttls": TTLS}, **options},
    )


def only_timeouts(told: Told, users: set[str]) -> None:
    """Check that everybody heard once, and what."""
    assert dict(told.words) == {(user, "timed_out"): 1 for user in users}


def test_everybody_hears_though_the_api_throttles_for_longer_than_a_record_lives(world):
    """429 all the time, two hundred jobs, one worker: a pause leaves no place for a poll, and none is needed to end."""
    told = Told()
    users = enqueue(world, 200)

    with worker(world, Poller(throttled), told, concurrency=16) as running:
        until(lambda: told.users == users, "everybody has heard", 25)
        until(lambda: len(running.recorder.of(events.JobDelivered)) == 200, "all is settled")

    only_timeouts(told, users)
    assert not running.recorder.of(events.JobDeadLettered)


def test_everybody_hears_though_the_api_hangs_and_places_are_few(world):
    """A thousand jobs (here: three hundred), four places, each taken for as long as a request may take."""
    told = Told()
    users = enqueue(world, 300)

    with worker(world, Poller(hangs), told, concurrency=4) as running:
        until(lambda: told.users == users, "everybody has heard", 25)
        until(lambda: len(running.recorder.of(events.JobDelivered)) == 300, "all is settled")

    only_timeouts(told, users)
    assert not running.recorder.of(events.JobDeadLettered)


def test_everybody_hears_though_every_poll_hangs_for_ever(world, monkeypatch):
    """A host's sync poller that does not come back: its job ends when the lease runs out, the others without a place."""
    monkeypatch.setattr("videopoll.core.step.JobStep.limit_s", 0.5)
    told, ended = Told(), threading.Event()
    users = enqueue(world, 40)

    def for_ever(_job, _timeout_s):
        ended.wait(60)
        return VideoWorking()

    options = {"concurrency": 4, "lease": LeasePolicy.lasting(0.9), "kind": "sync", "grace_s": 0.1}
    try:
        with worker(world, Poller(for_ever), told, **options), worker(world, Poller(for_ever), told, **options):
            until(lambda: told.users == users, "everybody has heard", 25)
    finally:
        ended.set()

    only_timeouts(told, users)


def test_a_worker_that_comes_late_polls_what_is_overdue_instead_of_ending_it(world):
    """No worker lived until all were past their deadlines: the videos are there, and nobody is told otherwise."""
    told = Told()
    users = enqueue(world, 16)
    with redis.Redis.from_url(world.url) as client:
        until(lambda: client.pttl(Keys(world.prefix).job("job_0")) < 4000, "they are overdue")

    # It waits for as long as a request may take, and the machine may be slow.
    slow = attrs.evolve(STRATEGY, request_timeout_s=3.0)
    with worker(world, Poller(lambda _job, _s: VideoReady("https://v/1.mp4")), told, concurrency=4, strategy=slow):
        until(lambda: told.users == users, "everybody has heard")

    assert {word for _, word in told.words} == {"completed"}


def test_a_job_ends_within_an_interval_and_a_request_of_its_deadline_without_a_place(world):
    """All places are taken by polls that take long; nobody waits for them."""
    heard_s, started_s = [], time.monotonic()
    enqueue(world, 30)

    class Timed(Told):
        def notify(self, message):
            heard_s.append(time.monotonic() - started_s)
            return super().notify(message)

    told = Timed()
    with worker(world, Poller(hangs), told, concurrency=1, delivery_concurrency=30):
        until(lambda: len(told.users) == 30, "everybody has heard", 40)

    over_s = STRATEGY.timeout_s + STRATEGY.interval_s + STRATEGY.request_timeout_s
    assert min(heard_s) >= STRATEGY.timeout_s - 0.1
    # The machine may be slow: the usual one, not the slowest.
    assert sorted(heard_s)[15] <= over_s + 2


@pytest.mark.parametrize("places", [0, 2])
def test_a_worker_without_a_free_place_does_not_spin(world, places):
    """Its looks are paced, whether it pauses or its places are taken."""
    told, release = Told(), threading.Event()
    patient = PollingStrategy(interval_s=0.2, timeout_s=500, initial_delay_s=0, request_timeout_s=0.4)

    def slow(_job, _timeout_s):
        if not places:
            return Fault(FaultKind.THROTTLED, "HTTP 429", 60.0)
        release.wait(0.3)
        return VideoWorking()

    with world.queue() as queue:
        queue.enqueue_many((f"job_{number}", "user", None) for number in range(40))
    poller = Poller(slow)
    options = {"strategy": patient, "queue_options": {}, "concurrency": max(1, places), "delivery_concurrency": 1}
    with worker(world, poller, told, **options) as running, redis.Redis.from_url(world.url) as client:
        until(lambda: poller.polls, "it works")
        until(lambda: time.monotonic() > running.runner._state.endings.patient_until_s + 0.2, "it has begun to look")
        client.config_resetstat()
        before, from_s = poller.polls, time.monotonic()
        until(lambda: time.monotonic() > from_s + 2, "a while has passed")
        calls = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
        polled, took_s = poller.polls - before, time.monotonic() - from_s
        release.set()

    # A look every tenth of a second, at most two calls each, as is a poll: a claim and a write.
    assert calls <= 2 * 10 * took_s + 2 * polled + 5
