"""When the next round trip is made: at once for the first that asks, together for those that ask soon after."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videopoll import QueueUnavailableError, RedisVideoJobQueue, Runner, SilentNotifier, VideoApiPoller
from videopoll.worker.timing import Coalescer

MOMENTS = st.floats(0, 1000, allow_nan=False)
APART = st.floats(0, 1, allow_nan=False)


def test_nothing_is_planned_until_somebody_asks():
    assert Coalescer().next_s == float("inf")


def test_the_first_that_asks_gets_it_at_once():
    coalescer = Coalescer()

    assert coalescer.request(7.0, apart_s=0.02)
    assert coalescer.next_s == 7.0


def test_who_asks_soon_after_one_shares_the_next():
    coalescer = Coalescer()
    coalescer.started(10.0)

    assert coalescer.request(10.001, apart_s=0.02)
    assert not coalescer.request(10.002, apart_s=0.02)
    assert coalescer.next_s == pytest.approx(10.02)


def test_what_is_more_urgent_comes_sooner():
    coalescer = Coalescer()
    coalescer.started(10.0)
    coalescer.request(10.001, apart_s=0.02)

    assert coalescer.request(10.001, apart_s=0.005)
    assert coalescer.next_s == pytest.approx(10.005)


def test_beginning_serves_all_that_was_asked_for():
    coalescer = Coalescer()
    coalescer.request(5.0, apart_s=0)
    coalescer.started(6.0)

    assert coalescer.next_s == float("inf")


def test_a_hold_stands_above_whatever_is_asked_for():
    """While Redis is away, what falls due must not keep the loop awake."""
    coalescer = Coalescer()
    coalescer.suspend_until(20.0)

    assert coalescer.request(10.0, apart_s=0)
    assert coalescer.next_s == 20.0
    assert not coalescer.request(11.0, apart_s=0)


@given(st.lists(st.tuples(MOMENTS, APART), min_size=1), MOMENTS)
def test_each_wish_is_met_in_time_and_none_too_soon(wishes, began_s):
    """Never later than the most urgent wish allows, never closer to the last one than all wishes allow."""
    coalescer = Coalescer()
    coalescer.started(began_s)

    sooner = [coalescer.request(at_s, apart_s) for at_s, apart_s in wishes]

    assert coalescer.next_s == min(max(at_s, began_s + apart_s) for at_s, apart_s in wishes)
    assert sooner[0]
    assert sum(sooner) == len({min(max(a, began_s + p) for a, p in wishes[: n + 1]) for n in range(len(wishes))})


@pytest.fixture
def worker():
    """What a runner that has not begun knows of itself."""
    return Runner(RedisVideoJobQueue.from_url("redis://h"), VideoApiPoller(api_key="key"), SilentNotifier())._state


def test_a_claim_that_failed_holds_up_the_next_whatever_falls_due(worker):
    worker.begin_turn()
    worker.claim_failed(QueueUnavailableError("away"))
    worker.wake_at(0)

    assert worker.coalescer.next_s - time.monotonic() > 0.04


def test_a_full_worker_claims_when_a_place_is_free(worker):
    worker.polls_in_hand, worker.sends_in_hand = worker.concurrency, worker.delivery_concurrency
    assert not worker.begin_turn().any
    assert worker.coalescer.next_s - time.monotonic() > 3

    worker.on_slot_freed()

    assert worker.coalescer.next_s - time.monotonic() < 0.01


def test_a_worker_with_room_is_not_woken_by_a_place_that_gets_free(worker):
    worker.begin_turn()

    worker.on_slot_freed()

    assert worker.coalescer.next_s == float("inf")
