"""How places open, how an account is shared, and how workers come back after a pause: pure functions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from videopoll.core.opening import ever_open, open_places, share_of, spread_s

PLACES, SINCE_S = some.integers(1, 10_000), some.floats(-100, 100)


@given(PLACES, SINCE_S)
def test_some_places_are_always_open_and_never_more_than_there_are(places, since_s):
    assert min(places, 8) <= open_places(places, since_s) <= places


@given(PLACES, SINCE_S, some.floats(0, 10))
def test_places_only_open(places, since_s, later_s):
    assert open_places(places, since_s) <= open_places(places, since_s + later_s)


@given(PLACES, some.floats(2, 1e12))
def test_after_two_seconds_all_are_open(places, since_s):
    assert open_places(places, since_s) == places


@given(some.integers(64, 10_000), some.floats(0, 1.3))
def test_an_eighth_is_open_at_once_and_it_doubles_three_times(places, since_s):
    assert open_places(places, 0) == -(-places // 8)
    assert open_places(places, since_s + 2 / 3) <= 2 * open_places(places, since_s) + 1
    assert open_places(places, 2 / 3) >= places // 4


@given(some.integers(1, 100_000), some.integers(1, 1000))
def test_the_shares_of_all_workers_are_no_more_than_the_whole(cap, workers):
    """Unless there are more workers than requests: each has one."""
    assert share_of(cap, workers) >= 1
    assert workers * share_of(cap, workers) <= max(cap, workers)
    assert share_of(cap, workers) > cap / workers - 1


def test_a_share_is_whole_requests_rounded_down():
    """A half of one would be one too many."""
    assert [share_of(7, workers) for workers in (0, 1, 2, 3, 4, 7, 8)] == [7, 7, 3, 2, 1, 1, 1]
    assert all(isinstance(share_of(7, workers), int) for workers in range(9))


@given(PLACES, some.integers(1, 1000), some.integers(0, 1000))
def test_a_cap_never_gives_more_places_than_there_are(places, cap, workers):
    assert ever_open(places, None, workers) == places
    assert 1 <= ever_open(places, cap, workers) <= min(places, cap)


@given(some.floats(0, 1e6), some.floats(0, 1))
def test_workers_come_back_within_a_second_and_within_a_quarter_of_a_short_pause(pause_s, chance):
    assert 0 <= spread_s(pause_s, chance) <= min(1, pause_s / 4)


def test_where_in_that_time_a_worker_comes_back_is_chance():
    assert [spread_s(60, chance) for chance in (0.0, 0.5, 1.0)] == [0, 0.5, 1]
    assert [spread_s(2, chance) for chance in (0.0, 0.5, 1.0)] == [0, 0.25, 0.5]
