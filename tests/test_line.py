"""While more is due than there are places, jobs stand in line for them: no place waits for a claim."""

from __future__ import annotations

import threading
import time

import pytest
import redis

from kit import until
from videopoll import (
    PollingStrategy,
    RedisVideoJobQueue,
    Runner,
    SilentNotifier,
    VideoApiPoller,
    VideoJob,
    events,
)
from videopoll.core import opening
from videopoll.jobs.transition import Claim, ClaimBatch, PollWork
from videopoll.observations import Fault, FaultKind, VideoWorking
from videopoll.queue.schema import Keys
from videopoll.worker import line
from videopoll.worker.state import WorkerState

ONCE = PollingStrategy(interval_s=60, initial_delay_s=0.01, timeout_s=300, max_attempts=5, request_timeout_s=30)
"""Each job is polled once in the time of a test."""

SLOW_S = 60
"""How long some hundred polls may take on a busy machine."""


def enqueue(world, count: int, name: str = "job") -> list[str]:
    ids = [f"{name}_{number}" for number in range(count)]
    with world.queue() as queue:
        queue.enqueue_many((job_id, "conversation", {}) for job_id in ids)
    return ids


def attempts(world, ids: list[str]) -> dict[str, int]:
    with redis.Redis.from_url(world.url) as client:
        keys = Keys(world.prefix)
        counted = client.mget([keys.attempts(job_id) for job_id in ids])
    return {job_id: int(count or 0) for job_id, count in zip(ids, counted, strict=True)}


class Turns:
    """A poller that answers after some milliseconds, until it is told to do something else."""

    def __init__(self) -> None:
        self.polled: list[str] = []
        self.after = 10**9
        self.then = VideoWorking
        self.lock = threading.Lock()

    def poll(self, job, *, timeout_s):
        with self.lock:
            self.polled.append(job.job_id)
            last = len(self.polled) > self.after
        if last:
            return self.then()
        time.sleep(0.005)
        return VideoWorking()


def worker_of(world, poller, **options):
    options = {"strategy": ONCE, "concurrency": 4, "recover": False, **options}
    return world.worker(poller=poller, notifier=SilentNotifier(), **options)


@pytest.fixture
def claims(monkeypatch) -> list[int]:
    """How many polls are asked for, claim by claim."""
    counted = []
    begin = WorkerState.begin_turn

    def turn(state):
        room = begin(state)
        if room.any:
            counted.append(room.polls)
        return room

    monkeypatch.setattr(WorkerState, "begin_turn", turn)
    return counted


def test_a_busy_worker_claims_more_than_it_has_places_for(world, claims):
    ids, poller = enqueue(world, 300), Turns()
    worker = worker_of(world, poller)

    with worker:
        until(lambda: len(worker.recorder.of(events.JobPolled)) == len(ids), "all are polled", SLOW_S)

    assert sorted(poller.polled) == sorted(ids)
    assert claims[0] == 4
    assert max(claims) > 4


def test_never_more_polls_at_a_time_than_places(world):
    """Who stands in line is not asked about."""
    at_once, most, lock = [0], [0], threading.Lock()

    class Poller:
        def poll(self, job, *, timeout_s):
            with lock:
                at_once[0] += 1
                most[0] = max(most[0], at_once[0])
            time.sleep(0.003)
            with lock:
                at_once[0] -= 1
            return VideoWorking()

    enqueue(world, 300)
    worker = worker_of(world, Poller())

    with worker:
        until(lambda: len(worker.recorder.of(events.JobPolled)) == 300, "all are polled", SLOW_S)

    assert most[0] == 4


@pytest.fixture
def for_ever(monkeypatch) -> None:
    """Nobody leaves the line as it takes too long."""
    monkeypatch.setattr(line, "LONGEST_WAIT_S", 1000)


def test_a_pause_gives_back_who_stands_in_line_and_counts_no_attempt(world, for_ever):
    """A 429 is for all: another worker, with another key, may go on at once."""
    ids, poller = enqueue(world, 400), Turns()
    poller.after, poller.then = 150, lambda: Fault(FaultKind.THROTTLED, "429", retry_after_s=30)
    worker = worker_of(world, poller)

    with worker:
        until(
            lambda: any(event.fault for event in worker.recorder.of(events.JobPolled)),
            "the API asks for a pause",
            SLOW_S,
        )
        until(lambda: not world.queue().counts().in_flight, "nothing is in hand")
        counted = attempts(world, ids)

    # Each place may have begun another poll while the first refusal was on its way.
    assert len(poller.polled) <= 150 + 2 * 4
    assert {job_id for job_id, count in counted.items() if count} == set(poller.polled)
    assert set(counted.values()) == {0, 1}


def test_nobody_stands_in_line_for_places_that_hang_while_another_worker_has_one(world):
    """The lease would be renewed for as long as the polls hang."""
    ids, poller, let_go = enqueue(world, 400), Turns(), threading.Event()
    poller.after, poller.then = 150, lambda: (let_go.wait(20), VideoWorking())[1]
    worker, other = worker_of(world, poller), Turns()

    with worker:
        until(lambda: len(poller.polled) == 150 + 4, "all its places hang", SLOW_S)
        with worker_of(world, other) as idle:
            until(lambda: len(other.polled) == len(ids) - 154, "the other one polls all the rest", SLOW_S)
            assert len(idle.recorder.of(events.JobClaimed)) == len(ids) - 154
            let_go.set()

    assert sorted(poller.polled + other.polled) == sorted(ids)
    assert set(attempts(world, ids).values()) == {1}


def test_a_stop_gives_back_who_stands_in_line(world, for_ever):
    """None of them is begun in the grace, and none waits for a lease to end."""
    ids, poller, hangs = enqueue(world, 400), Turns(), threading.Event()
    poller.after, poller.then = 150, lambda: (hangs.wait(1.0), VideoWorking())[1]
    worker = worker_of(world, poller)

    with worker:
        until(lambda: len(poller.polled) == 150 + 4, "its places are taken for a while", SLOW_S)

    assert len(poller.polled) == 150 + 4
    assert world.queue().counts().in_flight == 0
    assert {job_id for job_id, count in attempts(world, ids).items() if count} == set(poller.polled)


def test_a_worker_with_places_to_spare_claims_no_more_than_it_begins(world, claims, monkeypatch):
    monkeypatch.setattr(opening, "AT_ONCE", 1000)
    ids, poller = enqueue(world, 50), Turns()
    worker = worker_of(world, poller, concurrency=100)

    with worker:
        until(lambda: len(worker.recorder.of(events.JobPolled)) == len(ids), "all are polled")

    assert max(claims) == 100


@pytest.fixture
def state():
    """What a runner with two places knows of itself; it notes what it begins, and what it gives back."""
    queue, poller = RedisVideoJobQueue.from_url("redis://h"), VideoApiPoller(api_key="key")
    made = Runner(queue, poller, SilentNotifier(), concurrency=2)._state
    made.begun, made.given_back = [], []
    made._begin, made._give_back = made.begun.append, made.given_back.append
    return made


def claim_four(state) -> list:
    now_ms = state.context.clock.now_ms()
    claims = tuple(
        Claim(f"job_{n}", "w:1", now_ms, PollWork(VideoJob(f"job_{n}", "c", now_ms), 1, 0, None)) for n in range(4)
    )
    return state.take(ClaimBatch(claims, now_ms), state.ask())


def test_a_place_that_gets_free_is_filled_before_anything_else_happens(state):
    begun = claim_four(state)
    assert [step.claim.job_id for step in begun] == ["job_0", "job_1"]

    state.forget(begun[0])

    assert [step.claim.job_id for step in state.begun] == ["job_2"]
    assert state.polls_in_hand == 2


def test_who_stood_in_line_for_longer_than_its_lease_is_not_polled(state):
    """This process may have stood still: another worker may have the job."""
    begun = claim_four(state)
    waiting = state.steps["job_2"]
    waiting.lease.forfeit()

    state.forget(begun[0])

    assert state.given_back == [waiting]
    assert [step.claim.job_id for step in state.begun] == ["job_3"]


def test_what_is_claimed_when_the_api_has_asked_for_a_pause_is_given_back_at_once(state):
    """The claim was under way."""
    state._throttled(30)

    assert claim_four(state) == []
    assert [step.claim.job_id for step in state.given_back] == [f"job_{n}" for n in range(4)]
    assert state.polls_in_hand == 0


def test_a_pause_gives_back_all_who_stand_in_line(state):
    claim_four(state)

    state._throttled(30)

    assert [step.claim.job_id for step in state.given_back] == ["job_2", "job_3"]


def test_who_stands_in_line_is_in_hand_and_takes_no_place(state):
    claim_four(state)

    assert (len(state.steps), state.polls_in_hand) == (4, 2)
