"""Whether what has ended may be taken over: the judgement alone, on made-up times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    LeasePolicy,
    RedisVideoJobQueue,
    Runner,
    SilentNotifier,
    VideoApiPoller,
)
from videopoll.jobs.transition import ClaimBatch
from videopoll.worker.takeovers import Asked, Takeovers

LEASE = LeasePolicy()  # 12 s, renewed every 4 s
CLOCK_MS = 1_757_000_000_000


class Worker:
    """A worker's view: its own monotonic seconds, and Redis's clock beside it."""

    def __init__(self):
        self.takeovers = Takeovers(LEASE)
        self.now_s = 100.0
        self.step_ms = 0

    def clock_ms(self):
        return CLOCK_MS + round(self.now_s * 1000)

    def claim(self, took_s=0.01, guess_ms=0):
        """Claim; return whether that one could take over."""
        asked = self.takeovers.ask(self.now_s, self.clock_ms() + self.step_ms + guess_ms)
        self.now_s += took_s
        now_ms = self.clock_ms() + self.step_ms
        self.takeovers.claimed(asked, ClaimBatch((), now_ms), self.now_s)
        drifted = asked.clock_ms is not None and abs(now_ms - asked.clock_ms) > LEASE.renew_every_s * 1000
        return asked.take_over and not drifted

    def claims_for(self, seconds, every_s=0.25):
        """Claim for a while; return after how many seconds the first one could take over."""
        began_s = self.now_s
        while self.now_s < began_s + seconds:
            if self.claim():
                return self.now_s - began_s
            self.now_s += every_s
        return None


@pytest.fixture
def worker():
    """One that has claimed before."""
    made = Worker()
    assert made.claim()
    return made


def test_a_worker_takes_over_at_once_when_it_starts():
    assert Worker().claim()


def test_a_worker_whose_wall_clock_is_wrong_takes_over_at_its_second_claim():
    """It learns Redis's clock from the first; a clock that is wrong is no outage."""
    worker = Worker()

    assert not worker.claim(guess_ms=3_600_000)
    assert worker.takeovers.learnt
    assert worker.claim()
    assert not worker.takeovers.learnt


def test_after_an_outage_nothing_is_taken_over_for_one_renewal_period_and_then_it_is(worker):
    for _ in range(10):
        worker.now_s += 2
        worker.takeovers.failed()

    waited_s = worker.claims_for(60)

    assert LEASE.renew_every_s <= waited_s <= LEASE.renew_every_s + 0.5


def test_the_claim_that_finds_redis_back_takes_nothing_over(worker):
    worker.now_s += 20
    worker.takeovers.failed()

    assert not worker.claim()


def test_a_blip_delays_nothing_beyond_the_claim_that_ends_it(worker):
    """A dropped connection is no outage: nobody's lease has ended for it."""
    worker.now_s += 1
    worker.takeovers.failed()

    assert not worker.claim()
    assert worker.claim()


def test_a_claim_that_was_answered_late_is_followed_by_one_renewal_period(worker):
    """Redis stood still for 9 s, and nothing failed."""
    assert not worker.claim(took_s=9)

    assert LEASE.renew_every_s <= worker.claims_for(60) <= LEASE.renew_every_s + 0.5


@pytest.mark.parametrize("step_ms", [60_000, -60_000, 5_000])
def test_after_a_step_of_redis_clock_holders_have_one_renewal_period(worker, step_ms):
    asked = worker.takeovers.ask(worker.now_s, worker.clock_ms())
    worker.step_ms = step_ms
    worker.takeovers.claimed(asked, ClaimBatch((), worker.clock_ms() + step_ms), worker.now_s + 0.01)

    assert LEASE.renew_every_s <= worker.claims_for(60) <= LEASE.renew_every_s + 0.5


def test_a_write_that_was_answered_late_counts_as_well(worker):
    """A full worker claims nothing, and sees by its renewals that Redis stood still."""
    began_s, worker.now_s = worker.now_s, worker.now_s + 9

    assert worker.takeovers.answered(began_s, worker.now_s)
    assert not worker.claim()


def test_a_redis_that_is_always_slow_does_not_keep_takeovers_waiting_for_ever(worker):
    """Every answer takes longer than a stall would: that is how it is here, and nobody is away."""
    taken = [worker.claim(took_s=5) for _ in range(20)]

    assert any(taken[4:10])
    assert any(taken[10:])


def test_a_second_outage_is_a_new_one(worker):
    for _ in range(2):
        worker.now_s += 20
        worker.takeovers.failed()
        assert not worker.claim()
        worker.now_s += LEASE.renew_every_s - 1
        assert not worker.claim()


def test_an_outage_that_begins_when_the_wait_for_the_last_one_ends_is_a_new_one(worker):
    """The claim that hung in it is not believed: who lives has not renewed since."""
    worker.claim(took_s=8)
    worker.now_s += LEASE.renew_every_s
    assert not worker.claim(took_s=10)
    assert worker.claims_for(60) >= LEASE.renew_every_s - 0.5


@pytest.mark.parametrize("kind", [Runner, AsyncRunner])
def test_a_claim_that_is_not_judged_by_the_clock_names_what_is_in_hand(kind):
    """It may hang for longer than the leases of its own worker last."""
    queue = RedisVideoJobQueue if kind is Runner else AsyncRedisVideoJobQueue
    notifier = SilentNotifier()
    poller = VideoApiPoller(base_url="http://localhost:9", api_key="key")
    runner = kind(queue.from_url("redis://localhost:9"), poller, notifier)

    assert runner._state.in_hand(Asked(1.0, CLOCK_MS, take_over=True), lambda: ["job_1"]) == []
    assert runner._state.in_hand(Asked(1.0, None, take_over=True), lambda: ["job_1"]) == ["job_1"]


def test_a_redis_that_refused_to_write_has_refused_the_others_too(worker):
    """This one claims every 4 s; those who hold leases may have tried in vain to renew them for long."""
    worker.now_s += 0.5
    worker.takeovers.failed(answered=True)

    assert not worker.claim()
    assert LEASE.renew_every_s - 0.5 <= worker.claims_for(60) <= LEASE.renew_every_s + 0.5


def test_nothing_is_carried_from_one_run_to_the_next(worker):
    """A batch by cron takes over what has ended, whatever the last one met with."""
    worker.now_s += 20
    worker.takeovers.failed()
    worker.claim()

    worker.takeovers.open()

    assert worker.claim()


@given(st.lists(st.tuples(st.sampled_from(["fails", "refuses", "late", "fine"]), st.floats(0, 30)), max_size=30))
def test_takeovers_never_wait_longer_than_one_period_after_redis_answers_again(history):
    """Whatever happened before: two claims and one renewal period later they go on."""
    worker = Worker()
    for what, seconds in history:
        worker.now_s += 0.0 if what == "late" else seconds
        if what == "fails":
            worker.takeovers.failed()
        elif what == "refuses":
            worker.takeovers.failed(answered=True)
        else:
            worker.claim(took_s=seconds if what == "late" else 0.01)

    assert worker.claims_for(60) <= LEASE.renew_every_s + 1
