"""When a worker looks for jobs that should have ended: the plan alone, over a clock that is moved."""

from __future__ import annotations

import pytest

from videopoll import PollingStrategy
from videopoll.clock import Clock
from videopoll.jobs.transition import Claim, ClaimBatch, MissingRecord
from videopoll.worker.endings import Endings

STRATEGY = PollingStrategy(interval_s=10, request_timeout_s=15)
NOW_MS = 1_757_000_000_000
START_S = 1000.0


class Hand(Clock):
    """A clock whose hand is moved."""

    now_s = START_S

    def monotonic_s(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Hand()


@pytest.fixture
def endings(clock):
    """Those of a worker that has just begun; where there is nothing to end it rests for 4 s."""
    return Endings(STRATEGY, clock, 4.0)


def look(endings, clock, polls=0, *, writes_first=False):
    """Begin a claim now; return how many jobs it is to end."""
    return endings.begin_look(clock.now_s, polls, writes_first=writes_first)


def claimed(endings, *, take_new=True, **told):
    """Note the answer to a claim."""
    endings.plan(ClaimBatch(told.pop("claims", ()), NOW_MS, **told), take_new=take_new)


def in_s(endings, clock):
    """Return in about how many seconds the next look is due."""
    return pytest.approx(endings.look_at_s - clock.now_s)


@pytest.fixture
def patient_no_more(endings, clock):
    """The same a minute later, when nothing was late so far."""
    clock.now_s += 60
    assert endings.in_hand == 0
    return endings


LATE = [
    {"waiting": 1},
    {"next_poll_ms": NOW_MS - 10_000},
    {"next_expiry_ms": NOW_MS},
]
IN_TIME = [
    {},
    {"waiting": 1, "take_new": False},
    {"next_poll_ms": NOW_MS - 9_999},
    {"next_poll_ms": NOW_MS + 1},
    {"next_expiry_ms": NOW_MS + 1},
    {"next_send_ms": NOW_MS - 60_000},
]


def test_a_worker_that_comes_ends_nothing_before_what_is_overdue_has_had_time_for_its_last_poll(endings, clock):
    """An interval and the time of a request: 25 s."""
    clock.now_s += 24.9
    assert look(endings, clock) == 0
    clock.now_s = START_S + 25

    assert endings.wanted_s(0) == START_S + 25
    assert look(endings, clock) == 100
    assert endings.look_from == 0


def test_it_is_as_patient_again_after_an_outage(patient_no_more, clock):
    look(patient_no_more, clock)
    claimed(patient_no_more, look_from=7)

    patient_no_more.defer()

    assert in_s(patient_no_more, clock) == 25
    assert patient_no_more.patient_until_s == clock.now_s + 25
    assert patient_no_more.look_from == 0


def test_while_whatever_is_due_finds_a_place_nobody_looks(patient_no_more, clock):
    assert patient_no_more.wanted_s(1) == float("inf")
    assert look(patient_no_more, clock, polls=1) == 0
    assert look(patient_no_more, clock, polls=0) == 100


@pytest.mark.parametrize(("in_hand", "room"), [(30, 70), (99, 1), (100, 0), (130, 0)])
def test_a_hundred_at_a_time_are_ended(patient_no_more, clock, in_hand, room):
    patient_no_more.in_hand = in_hand

    assert look(patient_no_more, clock) == room

    # One for which there was room, too, was a look.
    claimed(patient_no_more, look_from=7)
    assert patient_no_more.look_from == (7 if room else 0)


def test_while_nothing_may_be_claimed_nothing_is_ended(patient_no_more, clock):
    """And the next look is no sooner than a tenth of a second later: nobody spins."""
    assert look(patient_no_more, clock, writes_first=True) == 0
    assert in_s(patient_no_more, clock) == 0.1

    # That was no look: what a claim finds plans none that goes on.
    claimed(patient_no_more, look_from=7)
    assert patient_no_more.look_from == 0
    assert in_s(patient_no_more, clock) == 0.1


def test_a_look_that_found_nothing_is_followed_by_a_rest(patient_no_more, clock):
    look(patient_no_more, clock)
    assert in_s(patient_no_more, clock) == 0.1

    claimed(patient_no_more)

    assert in_s(patient_no_more, clock) == 4


def test_a_look_that_was_not_through_goes_on_soon_where_it_was(patient_no_more, clock):
    look(patient_no_more, clock)
    claimed(patient_no_more, look_from=7)

    assert patient_no_more.look_from == 7
    assert in_s(patient_no_more, clock) == 0.1

    clock.now_s += 0.1
    look(patient_no_more, clock)
    claimed(patient_no_more)
    assert patient_no_more.look_from == 0
    assert in_s(patient_no_more, clock) == 4


@pytest.mark.parametrize(("ending", "after_s"), [(True, 0.1), (False, 4)])
def test_where_some_are_ended_there_may_be_more(patient_no_more, clock, ending, after_s):
    look(patient_no_more, clock)
    claimed(patient_no_more, claims=(Claim("job_1", "w:1", NOW_MS, MissingRecord(finished=False), ending=ending),))

    assert in_s(patient_no_more, clock) == after_s


@pytest.mark.parametrize("told", LATE)
def test_where_something_is_late_the_next_look_is_in_a_second_whatever_places_are_free(patient_no_more, clock, told):
    look(patient_no_more, clock)

    claimed(patient_no_more, **told)

    assert in_s(patient_no_more, clock) == 1
    assert patient_no_more.wanted_s(5) == patient_no_more.look_at_s


@pytest.mark.parametrize("told", IN_TIME)
def test_where_nothing_is_late_the_next_look_has_time(patient_no_more, clock, told):
    look(patient_no_more, clock)

    claimed(patient_no_more, **told)

    assert in_s(patient_no_more, clock) == 4
    assert patient_no_more.wanted_s(5) == float("inf")


def test_a_claim_that_ended_nothing_puts_the_next_look_forward_if_something_is_late(patient_no_more, clock):
    look(patient_no_more, clock)
    claimed(patient_no_more)
    clock.now_s += 1
    look(patient_no_more, clock, polls=5)

    claimed(patient_no_more)
    assert in_s(patient_no_more, clock) == 3
    claimed(patient_no_more, waiting=1)
    assert in_s(patient_no_more, clock) == 1

    # But never back.
    clock.now_s += 0.75
    claimed(patient_no_more, waiting=1)
    assert in_s(patient_no_more, clock) == 0.25


def test_the_patience_of_a_worker_that_has_come_is_not_cut_short(endings, clock):
    look(endings, clock)

    claimed(endings, waiting=1)

    assert in_s(endings, clock) == 25


def test_short_time_limits_have_short_steps(clock):
    """A look must not be what makes an end late: a quarter of a request's time between two."""
    endings = Endings(PollingStrategy(interval_s=1, request_timeout_s=0.2), clock, 4.0)
    assert in_s(endings, clock) == 1.2
    clock.now_s += 60

    for told in ({"waiting": 1}, {"look_from": 7}):
        look(endings, clock)
        claimed(endings, **told)
        assert in_s(endings, clock) == 0.05
        clock.now_s += 0.05
