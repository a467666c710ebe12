"""Whose turn is when among the calls over one account that have to wait: the judgement alone, on made-up times."""

from __future__ import annotations

import pytest

from videopoll.core.turns import Turns

NOW_S = 1000.0


def filled(most: int) -> Turns:
    """Give an account over which so many calls are under way that there is no place."""
    turns = Turns()
    assert [turns.enter(NOW_S, most) for _ in range(most)] == [0.0] * most
    return turns


def test_as_many_calls_begin_as_there_are_places_and_the_next_one_has_to_wait():
    turns = filled(3)

    assert turns.enter(NOW_S, 3) > 0
    assert turns.enter(NOW_S, 4) == 0


def test_a_part_of_a_place_is_one():
    """Three quarters of two places are two."""
    turns = Turns()

    assert [turns.enter(NOW_S, 1.5) > 0 for _ in range(3)] == [False, False, True]


def test_a_place_is_free_again_when_its_call_has_ended():
    turns = filled(3)

    turns.leave(NOW_S, NOW_S)

    assert turns.enter(NOW_S, 3) == 0
    assert turns.enter(NOW_S, 3) > 0


def test_the_first_to_wait_is_tried_again_soon_and_the_others_as_far_apart_as_calls_end():
    """Of four calls that take a second each, one ends every quarter."""
    turns = filled(4)

    assert [turns.enter(NOW_S, 4) for _ in range(4)] == pytest.approx([0.05, 0.30, 0.55, 0.80])
    # Later on, whoever comes is behind those that wait already.
    assert turns.enter(NOW_S + 0.5, 4) == pytest.approx(1.05 - 0.5)
    # When all turns are over, nobody is.
    assert turns.enter(NOW_S + 9, 4) == pytest.approx(0.05)


def test_where_calls_end_quickly_no_turn_is_sooner_than_a_twentieth_of_a_second():
    turns = filled(100)
    for _ in range(50):
        assert turns.enter(NOW_S, 100) >= 0.0499

    assert turns.enter(NOW_S + 2, 100) == pytest.approx(0.05)


def test_how_long_calls_take_is_learnt_from_those_that_end():
    """Each counts a quarter: 1 s as a rule, then 5 s and 10 s, make 2 s, then 4 s."""
    turns = filled(4)
    turns.leave(NOW_S, NOW_S - 5)
    turns.enter(NOW_S, 4)
    first, second = turns.enter(NOW_S, 4), turns.enter(NOW_S, 4)
    assert second - first == pytest.approx(2 / 4)

    turns.leave(NOW_S, NOW_S - 10)
    turns.enter(NOW_S, 4)
    assert turns.enter(NOW_S, 4) - second == pytest.approx(4 / 4)


def test_no_turn_is_further_off_than_a_minute():
    turns = filled(1)

    assert max(turns.enter(NOW_S, 1) for _ in range(100)) == pytest.approx(60)


@pytest.mark.parametrize(("latest_s", "wait_s"), [(2.0, 2.0), (0.05, 0.05), (0.01, 0.05), (-3.0, 0.05)])
def test_no_turn_is_further_off_than_places_take_to_open(latest_s, wait_s):
    """And never sooner than a twentieth of a second."""
    turns = filled(1)

    assert max(turns.enter(NOW_S, 1, latest_s) for _ in range(100)) == pytest.approx(wait_s)


def test_an_account_is_remembered_while_calls_are_under_way():
    turns = filled(2)

    assert not turns.leave(NOW_S, NOW_S)
    assert turns.leave(NOW_S, NOW_S)


def test_an_account_is_remembered_until_the_last_turn_has_come():
    """Whoever waits then meets the turns of those that wait with it."""
    turns = filled(1)
    last_s = NOW_S + [turns.enter(NOW_S, 1) for _ in range(3)][-1]
    assert not turns.leave(NOW_S, NOW_S)

    turns.enter(last_s, 1)
    assert turns.leave(last_s, last_s)
