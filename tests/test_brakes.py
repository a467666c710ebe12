"""Brakes: which accounts a worker leaves alone, what it tells the others, and what it believes them."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from videopoll.core.brakes import Brakes
from videopoll.observations import Fault, FaultKind, VideoWorking
from videopoll.policies import PollingStrategy

THROTTLED = Fault(FaultKind.THROTTLED, "HTTP 429", retry_after_s=10)
STRATEGY = PollingStrategy()


class Time:
    """A clock that a test moves."""

    s = 1000.0

    def now_s(self) -> float:
        return self.s


@pytest.fixture
def clock():
    return Time()


@pytest.fixture
def brakes(clock):
    return Brakes(clock.now_s)


# --- telling ---


def test_a_pause_is_told_once(brakes, clock):
    brakes.hold("a", 10)
    clock.s += 1

    assert brakes.untold() == {"a": 9}
    assert brakes.untold() == {}


def test_those_that_were_under_way_together_tell_one_pause(brakes, clock):
    """Four hundred requests, each answered 429 a few milliseconds after the one before."""
    told = []
    for _ in range(400):
        brakes.hold("a", 10)
        told.append(brakes.untold())
        clock.s += 0.0005

    assert [one for one in told if one] == [{"a": 10}]


def test_a_pause_that_became_longer_is_told_again(brakes):
    brakes.hold("a", 10)
    brakes.untold()
    brakes.hold("a", 30)

    assert brakes.untold() == {"a": 30}


def test_what_could_not_be_told_is_told_later_unless_it_is_over_by_then(brakes, clock):
    brakes.hold("a", 10)
    brakes.hold("b", 1)
    brakes.tell_again(brakes.untold())
    clock.s += 5

    assert brakes.untold() == {"a": 5}


def test_what_others_told_is_not_told_again(brakes):
    brakes.learn({"a": 30_000}, 0, 60)

    assert brakes.untold() == {}
    brakes.hold("a", 20)
    assert brakes.untold() == {}, "they know of a longer one"


# --- learning ---


def test_what_one_worker_met_another_leaves_alone(brakes, clock):
    brakes.learn({"a": 1_030_000}, 1_000_000, 60)

    assert brakes.held_s("a") == 30
    clock.s += 30
    assert brakes.held_s("a") == 0


def test_a_pause_that_others_know_to_be_longer_becomes_longer_and_never_shorter(brakes):
    brakes.hold("a", 10)
    brakes.learn({"a": 30_000}, 0, 60)
    assert brakes.held_s("a") == 30

    brakes.learn({"a": 5_000}, 0, 60)
    assert brakes.held_s("a") == 30


def test_a_pause_without_an_end_holds_a_worker_back_once_and_no_longer_than_it_allows(brakes, clock):
    """Whatever stands in Redis: it is read again with each claim."""
    year_ms = 365 * 86_400_000
    held = 0
    for turn in range(2000):
        # Of a queue in partitions: each has a clock of its own, and not all answer each time.
        if turn % 3:
            brakes.learn({"a": year_ms + turn % 7}, round(clock.s * 1000), 60)
        held += brakes.held_s("a") > 0
        brakes.note("a", clock.s, VideoWorking(), STRATEGY)
        clock.s += 0.1

    assert 600 <= held <= 601


@given(some.dictionaries(some.text(max_size=5), some.integers(-(2**63), 2**63), max_size=5), some.integers(0, 2**53))
def test_whatever_is_read_the_pause_has_a_bound(untils_ms, now_ms):
    brakes = Brakes(lambda: 0.0)

    brakes.learn(untils_ms, now_ms, 60)

    assert all(0 <= brakes.held_s(account) <= 60 for account in untils_ms)


def test_a_pause_that_this_worker_told_does_not_become_longer_when_it_comes_back(brakes, clock):
    """Redis's clock and the way there make it a few milliseconds more."""
    brakes.rng = random.Random(1)
    brakes.hold("a", 10)
    (left_s,) = brakes.untold().values()
    held_s = brakes.held_s("a")

    brakes.learn({"a": round(left_s * 1000) + 30}, 0, 60)

    assert brakes.held_s("a") == held_s


def test_each_worker_comes_back_at_a_time_of_its_own(clock):
    fleet = [Brakes(clock.now_s) for _ in range(50)]
    for number, one in enumerate(fleet):
        one.rng = random.Random(number)
        one.learn({"a": 10_000}, 0, 60)

    back = sorted(one.held_s("a") for one in fleet)

    assert 10 <= back[0] < 10.1
    assert 10.9 < back[-1] <= 11
    assert max(after - before for before, after in itertools.pairwise(back)) < 0.2


# --- requests under way ---


def test_an_account_has_its_share_of_requests_at_a_time(brakes):
    brakes.places, brakes.cap, brakes.workers = 100, 20, 4

    assert [bool(brakes.enter("a")) for _ in range(7)] == [False] * 5 + [True] * 2
    assert brakes.enter("b") == 0, "another account has a share of its own"
    brakes.leave("a", 1000)
    assert brakes.enter("a") == 0


def test_without_a_cap_nobody_waits(brakes):
    brakes.places = 100

    assert {brakes.enter("a") for _ in range(100)} == {0}


def test_after_a_pause_the_requests_of_an_account_begin_gradually(brakes, clock):
    brakes.places = 800
    brakes.note("a", clock.s, THROTTLED, STRATEGY)
    clock.s += 10

    def begin() -> int:
        return next(count for count in range(801) if count == 800 or brakes.enter("a"))

    began = begin()
    assert began == 100
    clock.s += 1.0
    brakes.note("a", clock.s, VideoWorking(), STRATEGY)
    began += begin()
    assert 200 < began < 400, "an answer opens none of them sooner"
    clock.s += 1.0
    assert began + next(count for count in range(801) if brakes.enter("a")) == 800


def test_those_that_wait_while_places_open_do_not_wait_for_longer_than_that(brakes, clock):
    brakes.places = 800
    brakes.note("a", clock.s, THROTTLED, STRATEGY)
    clock.s += 10

    waits = [wait_s for _ in range(2000) if (wait_s := brakes.enter("a"))]

    assert len(waits) == 1900
    assert max(waits) <= 2


@given(some.lists(some.sampled_from(["enter", "leave", "wait", "429", "fewer", "more"]), max_size=80))
def test_never_more_than_the_share_begins_and_nobody_waits_for_ever(acts):
    clock = Time()
    brakes = Brakes(clock.now_s)
    brakes.places, brakes.cap, brakes.workers = 50, 12, 2
    under_way = 0
    for act in acts:
        share = max(1, 12 // brakes.workers)
        if act == "enter":
            wait_s = brakes.enter("a")
            assert bool(wait_s) == (under_way >= share)
            assert math.isfinite(wait_s)
            assert wait_s <= 60
            under_way += not wait_s
        elif act == "leave" and under_way:
            brakes.leave("a", clock.s - 1)
            under_way -= 1
        elif act == "wait":
            clock.s += 3
        elif act == "429":
            brakes.hold("a", 1)
        elif act in {"fewer", "more"}:
            brakes.workers = 2 if act == "fewer" else 6
