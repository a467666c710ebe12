"""Whether what has ended may be taken over: the judgement alone, on made-up times."""

from __future__ import annotations

import heapq
import itertools

import pytest
from hypothesis import example, given
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
from videopoll.core.takeovers import Asked, Takeovers
from videopoll.jobs.transition import ClaimBatch
from videopoll.worker.state import LONGEST_IDLE_S, RENEW_EARLIER, RETRIES_A_PERIOD

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
        drifted = abs(now_ms - asked.clock_ms) > LEASE.renew_every_s * 1000
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


@pytest.mark.parametrize("took_s", [5, 9, 15])
def test_a_redis_that_is_always_slow_does_not_keep_takeovers_waiting_for_ever(worker, took_s):
    """Every answer takes longer than a stall would: that is how it is here, and nobody is away."""
    taken = [worker.claim(took_s=took_s + place % 3) for place in range(20)]

    assert any(taken[4:10])
    assert any(taken[10:])


def test_a_claim_that_hangs_takes_nothing_over_however_often_takeovers_have_waited(worker):
    """A step of the clock, an outage, and then a stall: none of them says that answers are always late."""
    worker.step_ms = -5000
    worker.takeovers.claimed(
        worker.takeovers.ask(worker.now_s, worker.clock_ms()),
        ClaimBatch((), worker.clock_ms() + worker.step_ms),
        worker.now_s + 0.01,
    )
    worker.now_s += 17
    worker.takeovers.failed()
    assert not worker.claim()
    worker.now_s += LEASE.renew_every_s

    assert not worker.claim(took_s=9)


def test_a_step_of_the_clock_while_takeovers_wait_lets_them_wait_anew(worker):
    """Holders renewed after the first step, by a clock that was put forward once more."""
    for step_ms in (-30_000, 12_000):
        worker.now_s += 2
        asked = worker.takeovers.ask(worker.now_s, worker.clock_ms())
        worker.takeovers.claimed(asked, ClaimBatch((), worker.clock_ms() + step_ms), worker.now_s)

    assert worker.claims_for(60) >= LEASE.renew_every_s


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
def test_a_claim_that_may_run_after_the_leases_in_hand_names_them(kind):
    """Where answers are always late, it runs when they have ended."""
    queue = RedisVideoJobQueue if kind is Runner else AsyncRedisVideoJobQueue
    notifier = SilentNotifier()
    poller = VideoApiPoller(base_url="http://localhost:9", api_key="key")
    state = kind(queue.from_url("redis://localhost:9"), poller, notifier)._state

    assert state.in_hand(Asked(1.0, CLOCK_MS, take_over=True, late_s=0.0), lambda: ["job_1"]) == []
    assert state.in_hand(Asked(1.0, CLOCK_MS, take_over=True, late_s=9.0), lambda: ["job_1"]) == ["job_1"]


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


# --- to the millisecond ---


@pytest.fixture
def known():
    """The takeovers of a worker that has claimed at 100 s, and was answered at once."""
    made = Takeovers(LEASE)
    assert not claimed(made, 100.0, 100.0)
    return made


def claimed(takeovers, asked_s, now_s, step_ms=0):
    """Note a claim, of which Redis's clock said so much more than expected; return whether takeovers wait from then on."""
    asked = takeovers.ask(asked_s, CLOCK_MS)
    return takeovers.claimed(asked, ClaimBatch((), asked.clock_ms + step_ms), now_s)


@pytest.mark.parametrize(
    ("duration_s", "renew_every_s", "gap_s"), [(12, 4, 4), (12, 5, 2), (12, 6, 1), (30, 5, 20), (6, 2.8, 2.8 / 6)]
)
def test_an_absence_is_long_if_the_lease_of_who_had_just_to_renew_may_end_in_it(duration_s, renew_every_s, gap_s):
    """Two renewals fit in beside it; where a lease is hardly longer than two, a sixth of a period is left."""
    takeovers = Takeovers(LeasePolicy(duration_s=duration_s, renew_every_s=renew_every_s))

    assert takeovers.gap_s == pytest.approx(gap_s)


def test_a_worker_expects_to_be_answered_at_once_until_it_was_answered_late_three_times():
    takeovers, asked = Takeovers(LEASE), []
    for at_s in (100.0, 110.0, 120.0, 130.0):
        asked.append(takeovers.ask(at_s, CLOCK_MS))
        takeovers.claimed(asked[-1], ClaimBatch((), asked[-1].clock_ms), at_s + 2)

    assert asked[:3] == [Asked(at_s, CLOCK_MS, take_over=True, late_s=0.0) for at_s in (100.0, 110.0, 120.0)]
    assert asked[3] == Asked(130.0, CLOCK_MS + 2000, take_over=True, late_s=2.0)


def test_an_absence_of_four_seconds_is_a_long_one(known):
    """The lease of whoever had renewed four seconds before it, as it is due, ends as soon as Redis is back."""
    assert not known.answered(100.0, 103.999)
    assert known.answered(104.0, 108.0)


def test_takeovers_wait_for_just_one_renewal_period(known):
    assert known.answered(100.0, 109.0)

    assert not known.ask(112.999, CLOCK_MS).take_over
    assert known.ask(113.0, CLOCK_MS).take_over


def test_what_is_late_while_takeovers_wait_tells_of_the_same_absence(known):
    """It is told once, and the wait is not made longer."""
    assert known.answered(100.0, 109.0)
    assert not known.answered(101.0, 109.5)

    assert known.held_until_s == 113.0


def test_what_is_late_when_the_wait_is_over_tells_of_a_new_absence(known):
    assert known.answered(100.0, 109.0)
    assert known.answered(109.0, 113.0)

    assert known.held_until_s == 117.0


def test_a_redis_that_refuses_while_takeovers_wait_lets_them_wait_anew(known):
    """Who lives may not have renewed in between."""
    assert known.answered(100.0, 109.0)
    known.failed(answered=True)

    assert known.answered(110.0, 110.0)
    assert known.held_until_s == 114.0


def test_a_worker_that_starts_while_redis_is_away_does_not_know_for_how_long_it_was():
    """Those who live may have tried for long to renew their leases."""
    takeovers = Takeovers(LEASE)
    takeovers.failed()

    assert takeovers.answered(100.5, 100.5)
    assert takeovers.held_until_s == 104.5

    takeovers.open()
    takeovers.failed()
    assert takeovers.answered(200.5, 200.5)


def test_one_that_was_quick_and_never_failed_lets_nobody_wait():
    """Also where an absence is long after half a second."""
    takeovers = Takeovers(LeasePolicy(duration_s=3, renew_every_s=1.5))

    assert not takeovers.answered(100.0, 100.2)
    assert not takeovers.answered(200.0, 200.2)


@pytest.mark.parametrize(("step_ms", "waits"), [(4000, False), (-4000, False), (4001, True), (-4001, True)])
def test_a_clock_that_is_off_by_more_than_a_renewal_period_has_stepped(known, step_ms, waits):
    assert claimed(known, 110.0, 110.0, step_ms) == waits
    assert known.ask(110.0, CLOCK_MS).take_over != waits


def test_a_claim_that_was_answered_late_says_that_takeovers_wait(known):
    assert claimed(known, 110.0, 119.0)


def test_a_worker_has_learnt_the_clock_only_by_a_first_claim_that_was_off():
    takeovers = Takeovers(LEASE)
    assert takeovers.learnt is False

    assert not claimed(takeovers, 100.0, 100.0)
    assert not takeovers.learnt
    assert claimed(takeovers, 110.0, 110.0, 60_000)
    assert not takeovers.learnt


# --- a living holder, an idle worker, and a Redis in trouble ---


class Fleet:
    """A worker that holds a lease and one that looks for leases that have ended; `troubles` come one after the other.

    A stall holds back what is asked in it, also for who has stopped waiting; away, Redis refuses; a step is of its clock.
    """

    TIMEOUT_S = 10.0

    def __init__(self, lease, troubles):
        self.lease, self.takeovers, self.taken = lease, Takeovers(lease), []
        self.troubles, self.over_s = [], 20.0
        for after_s, kind, size_s in troubles:
            # Two steps that cancel each other out would not be noticed.
            from_s = self.over_s + after_s + (max(LONGEST_IDLE_S, lease.duration_s / 2) if kind == "step" else 0)
            self.over_s = from_s + (0.0 if kind == "step" else size_s)
            self.troubles.append((kind, from_s, self.over_s, size_s))
        self.ends_s, self.offset_s, self.losses = lease.duration_s, 0.0, {"claim": 0, "renew": 0}
        self.agenda, self.numbers = [], itertools.count()
        self.then(0.0, 4, self.renew)
        self.then(0.0, 4, self.claim)

    def run(self):
        """Run all of it; return the claims that took the lease over."""
        while self.agenda and self.agenda[0][0] < self.over_s + 60:
            now_s, _, _, do, args = heapq.heappop(self.agenda)
            do(now_s, *args)
        return self.taken

    def then(self, at_s, order, do, *args):
        heapq.heappush(self.agenda, (at_s, order, next(self.numbers), do, args))

    def clock_s(self, now_s):
        return now_s + sum(size_s for kind, from_s, _, size_s in self.troubles if kind == "step" and from_s <= now_s)

    def ask(self, now_s, order, serve, answer, fail):
        here = next((one for one in self.troubles if one[1] <= now_s < one[2]), ("", 0, now_s, 0))
        if here[0] == "away":
            self.then(now_s + 0.001, 5, fail)
            return
        served_s = here[2]
        self.then(served_s, order, serve)
        if served_s - now_s < self.TIMEOUT_S:
            self.then(served_s + 0.005, 3, answer, served_s)
        else:
            self.then(now_s + self.TIMEOUT_S, 3, fail)

    def renew(self, now_s):
        def serve(at_s):
            self.ends_s = self.clock_s(at_s) + self.lease.duration_s

        def answer(at_s, _):
            self.losses["renew"] = 0
            self.then(at_s + self.lease.renew_every_s * RENEW_EARLIER, 4, self.renew)

        # What stood before the server at once is served in any order: here, in the worst.
        wait_s = min(self.lease.renew_every_s / RETRIES_A_PERIOD, 0.1 * 2.0 ** self.losses["renew"])
        self.ask(now_s, 2, serve, answer, lambda at_s: self.lose(at_s, "renew", wait_s, self.renew))

    def claim(self, now_s):
        asked = self.takeovers.ask(now_s, round((now_s + self.offset_s) * 1000))

        def serve(at_s):
            on_time = abs(self.clock_s(at_s) * 1000 - asked.clock_ms) <= self.lease.renew_every_s * 1000
            if asked.take_over and on_time and self.ends_s <= self.clock_s(at_s):
                self.taken.append(asked)

        def answer(at_s, served_s):
            self.losses["claim"] = 0
            self.takeovers.claimed(asked, ClaimBatch((), round(self.clock_s(served_s) * 1000)), at_s)
            self.offset_s = self.clock_s(served_s) - at_s
            held_s = self.takeovers.held_until_s - at_s
            self.then(at_s + min(LONGEST_IDLE_S, self.takeovers.gap_s, held_s if held_s > 0 else 9), 4, self.claim)

        def fail(at_s):
            self.takeovers.failed()
            self.lose(at_s, "claim", min(5.0, 0.1 * 2.0 ** self.losses["claim"]), self.claim)

        self.ask(now_s, 1, serve, answer, fail)

    def lose(self, now_s, what, wait_s, again):
        self.losses[what] = min(10, self.losses[what] + 1)
        self.then(now_s + wait_s, 4, again)


leases = st.builds(
    lambda duration_s, renewals: LeasePolicy(duration_s=duration_s, renew_every_s=duration_s / renewals),
    st.floats(1, 30),
    st.floats(2, 6),
)
troubles = st.tuples(st.floats(0, 30), st.sampled_from(["stall", "away", "step"]), st.floats(0, 60))


@example(LEASE, [(0.0, "step", 5.0), (1.0, "away", 17.0), (3.0, "stall", 20.0)])
@example(LeasePolicy(duration_s=3, renew_every_s=1.5), [(0.0, "stall", 1.0), (1.0, "stall", 2.0)])
@example(LeasePolicy.lasting(1), [(0.0, "stall", 1.0)] * 3)
@given(leases, st.lists(troubles, max_size=3))
def test_nothing_is_taken_over_from_a_living_holder(lease, some):
    """Whatever Redis does up to three times in a row: one that stood still each time would be one that is always slow."""
    assert Fleet(lease, some).run() == []
