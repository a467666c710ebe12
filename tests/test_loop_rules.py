"""What is known of a runner's loops: how long they pause after a failure, and which of them make a worker not alive."""

from __future__ import annotations

import logging
import random

import pytest

from videopoll.clock import Clock
from videopoll.core.loops import BELL, LOOP, RENEWER, SWEEPER, WRITER, Loops, check_renewed


class Hand(Clock):
    """A clock that a test moves."""

    now_s = 0.0

    def monotonic_s(self):
        return self.now_s


@pytest.fixture
def loops():
    """The account of one worker's loops, and its clock."""
    hand = Hand()
    made = Loops(hand, random.Random(1), patience_s=12.0, limit_s=24.0, pause_cap_s=4.0)
    made.clock = hand
    return made


def test_a_pause_grows_up_to_a_bound_and_begins_anew_after_a_success(loops):
    loops.begin(RENEWER)
    pauses = [loops.failed(RENEWER, ValueError()) for _ in range(12)]
    assert pauses[0] < 0.2
    assert 1.9 < pauses[-1] <= 4.0
    loops.fine(RENEWER)
    assert loops.failed(RENEWER, ValueError()) < 0.2


def test_a_loop_that_fails_for_longer_than_a_lease_lasts_is_not_alive(loops):
    loops.begin(RENEWER)
    loops.failed(RENEWER, ValueError())
    assert loops.judge(redis_away=False)[1]
    loops.clock.now_s = 12.5
    loops.failed(RENEWER, ValueError())
    (problem,), alive = loops.judge(redis_away=False)
    assert "renewer fails for 12 s (ValueError)" in problem
    assert not alive
    loops.fine(RENEWER)
    assert loops.judge(redis_away=False) == ([], True)


def test_a_loop_that_has_ended_is_not_alive_even_the_bell(loops):
    loops.begin(BELL, lambda: False)
    (problem,), alive = loops.judge(redis_away=True)
    assert "bell has ended" in problem
    assert not alive
    loops.end(BELL)
    assert loops.judge(redis_away=False) == ([], True)


def test_a_loop_that_does_not_come_back_is_not_alive_unless_it_waits_for_redis(loops):
    loops.begin(WRITER)
    with loops.busy(WRITER):
        loops.clock.now_s = 25.0
        (problem,), alive = loops.judge(redis_away=False)
        assert "settler has not come back for 25 s" in problem
        assert not alive
        assert loops.judge(redis_away=True) == ([], True)
    assert loops.judge(redis_away=False) == ([], True)


class Highest:
    """Chance at its upper end."""

    def uniform(self, low, high):
        assert low == 0.5
        return high


@pytest.fixture
def exact():
    """The account of one worker's loops, with a clock, and pauses that are not spread."""
    hand = Hand()
    made = Loops(hand, Highest(), patience_s=12.0, limit_s=24.0, pause_cap_s=4.0)
    made.clock = hand
    return made


def test_a_pause_doubles_from_a_tenth_of_a_second_up_to_its_bound(exact):
    exact.begin(LOOP)

    pauses = [exact.failed(LOOP, ValueError()) for _ in range(8)]

    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 4.0, 4.0]


def test_a_pause_does_not_grow_beyond_a_thousand_times_the_first_one_however_often_a_loop_fails():
    loops = Loops(Hand(), Highest(), patience_s=12.0, limit_s=24.0, pause_cap_s=1e9)
    loops.begin(LOOP)

    pauses = [loops.failed(LOOP, ValueError()) for _ in range(13)]

    assert pauses[-3:] == [102.4, 102.4, 102.4]


def test_what_no_loop_knows_pauses_briefly_and_harms_nothing(exact):
    assert exact.failed(BELL, ValueError()) == 0.1
    exact.fine(BELL)
    exact.end(BELL)
    with exact.busy(BELL):
        assert exact.judge(redis_away=False) == ([], True)
    assert not exact.failing(BELL)


def test_a_failure_is_told_once_for_each_loop_and_kind_of_exception(exact, caplog):
    with caplog.at_level(logging.ERROR):
        for name, error in [(LOOP, ValueError), (LOOP, ValueError), (LOOP, KeyError), (BELL, ValueError)]:
            exact.failed(name, error("a prompt"))

    lines = [record.getMessage() for record in caplog.records]
    told = "The worker's {} failed; it goes on after a pause. This is told once a kind\n{}"
    assert lines == [
        told.format("loop", "ValueError"),
        told.format("loop", "KeyError"),
        told.format("bell", "ValueError"),
    ]


def test_a_log_that_raises_changes_no_pause(exact, monkeypatch):
    def broken(*_args):
        raise OSError

    monkeypatch.setattr("videopoll.core.loops.log.error", broken)
    exact.begin(LOOP)

    assert exact.failed(LOOP, ValueError()) == 0.1


def test_one_failure_is_enough_for_a_loop_to_be_failing(exact):
    exact.begin(LOOP)
    assert not exact.failing(LOOP)

    exact.failed(LOOP, ValueError())

    assert exact.failing(LOOP)


def test_a_loop_fails_since_its_first_failure_in_a_row(exact):
    exact.begin(RENEWER)
    for at_s, error in [(100.0, ValueError), (105.0, KeyError), (112.0, KeyError)]:
        exact.clock.now_s = at_s
        exact.failed(RENEWER, error())
    assert exact.failing(RENEWER)

    wrong = "the worker's renewer fails for 12 s (KeyError): see the log, and restart it"
    assert exact.judge(redis_away=False) == ([wrong], True)
    exact.clock.now_s = 112.1
    assert exact.judge(redis_away=False) == ([wrong], False)

    exact.fine(RENEWER)
    assert not exact.failing(RENEWER)
    exact.failed(RENEWER, ValueError())
    (problem,), alive = exact.judge(redis_away=False)
    assert "fails for 0 s" in problem
    assert alive


@pytest.mark.parametrize("name", [BELL, SWEEPER])
def test_a_loop_that_only_saves_time_makes_no_worker_dead_by_failing_or_hanging(exact, name):
    exact.begin(name)
    with exact.busy(name):
        exact.clock.now_s = 1000.0
        assert exact.judge(redis_away=False) == (
            [f"the worker's {name} has not come back for 1000 s: restart it"],
            True,
        )
    exact.failed(name, ValueError())
    exact.clock.now_s = 2000.0
    (problem,), alive = exact.judge(redis_away=False)
    assert "fails for 1000 s" in problem
    assert alive


def test_one_dead_loop_is_not_hidden_by_the_others(exact):
    exact.begin(LOOP, lambda: False)
    exact.begin(RENEWER)
    exact.failed(RENEWER, ValueError())
    exact.begin(WRITER)
    with exact.busy(WRITER):
        exact.clock.now_s = 25.0
        exact.fine(RENEWER)
        exact.failed(RENEWER, ValueError())

        problems, alive = exact.judge(redis_away=False)

    assert problems == [
        "the worker's loop has ended: restart it",
        "the worker's renewer fails for 0 s (ValueError): see the log, and restart it",
        "the worker's settler has not come back for 25 s: restart it",
    ]
    assert alive is False


def test_a_hanging_loop_is_not_hidden_by_a_bell_that_hangs_or_fails_after_it(exact):
    exact.begin(WRITER)
    exact.begin(BELL)
    with exact.busy(WRITER), exact.busy(BELL):
        exact.clock.now_s = 25.0
        assert not exact.judge(redis_away=False)[1]
        exact.failed(BELL, ValueError())
        assert not exact.judge(redis_away=False)[1]


def test_a_round_may_take_as_long_as_its_limit(exact):
    exact.begin(WRITER)
    exact.clock.now_s = 100.0
    with exact.busy(WRITER):
        exact.clock.now_s = 124.0
        assert exact.judge(redis_away=False) == ([], True)
        exact.clock.now_s = 124.6
        assert exact.judge(redis_away=False) == (["the worker's settler has not come back for 25 s: restart it"], False)


def test_a_round_that_raises_has_come_back(exact):
    exact.begin(WRITER)
    with pytest.raises(KeyError), exact.busy(WRITER):
        raise KeyError
    exact.clock.now_s = 1000.0

    assert exact.judge(redis_away=False) == ([], True)


def test_a_runner_that_begins_afresh_has_no_loops_of_before(exact):
    exact.begin(LOOP, lambda: False)

    exact.open()

    assert exact.judge(redis_away=False) == ([], True)


def test_a_renewal_that_answers_for_another_number_of_leases_says_of_none_that_it_is_lost():
    assert check_renewed(["a", "b"], [True, None]) == [True, None]
    with pytest.raises(ValueError, match=r"^the renewal of 2 leases was answered for 1$"):
        check_renewed(["a", "b"], [True])
