"""Brakes: which accounts a worker leaves alone, what it tells the others, and what it believes them."""

from __future__ import annotations

import itertools
import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as some

from videopoll import RedisVideoJobQueue, Runner, SilentNotifier, VideoApiPoller, events
from videopoll.core.accounts import api_account
from videopoll.core.brakes import Brakes
from videopoll.core.flow import call, drive
from videopoll.errors import ConfigurationError, QueueUnavailableError
from videopoll.jobs import VideoJob
from videopoll.jobs.transition import Claim, ClaimBatch, PollWork
from videopoll.observations import Fault, FaultKind, VideoWorking
from videopoll.observe.log import LogHook
from videopoll.policies import PollingStrategy
from videopoll.testing import MovableClock
from videopoll.video_api import HttpVideoPoller
from videopoll.video_api.apis import FAL
from videopoll.worker.upkeep import Upkeep

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


def test_a_short_pause_is_told_again_when_it_is_longer_by_half_and_any_by_a_quarter_of_a_second(brakes):
    told = []
    for wait_s in (0.2, 0.32, 0.44, 10.0, 10.24, 10.26):
        brakes.hold("a", wait_s)
        told.append("a" in brakes.news())

    assert told == [True, False, True, True, False, True]


def test_what_is_read_of_a_pause_that_was_told_is_new_when_it_is_longer_by_a_quarter_of_a_second(brakes):
    brakes.hold("a", 10.0)

    assert brakes.learn({"a": 10_240}, 0, 60.0) == {}
    assert brakes.learn({"a": 10_800}, 0, 60.0) == {"a": 10.8}


def test_what_is_read_of_a_pause_makes_no_worker_come_back_at_another_time_while_it_waits_for_longer(brakes):
    class Latest:
        def random(self):
            return 1.0

    brakes.rng = Latest()
    brakes.hold("a", 10.0)
    comes_back_in_s = brakes.held_s("a")
    assert comes_back_in_s > 10.3

    brakes.learn({"a": 10_300}, 0, 60.0)

    assert brakes.held_s("a") == comes_back_in_s


def backed_off_s(brakes, clock, account):
    """How long an account is left alone after one more 429 without a hint, once its pause is over."""
    clock.s += 100
    brakes.note(account, clock.s, Fault(FaultKind.THROTTLED, "HTTP 429"), STRATEGY)
    return brakes.held_s(account)


def test_a_pause_that_was_learnt_takes_nothing_from_how_often_there_was_one(brakes, clock):
    brakes.hold("a", 1.0, in_row=2)
    brakes.learn({"a": 5000, "b": 5000}, 0, 60.0)
    brakes.hold("c", 1.0)

    assert [backed_off_s(brakes, clock, account) for account in "abc"] == [40.0, 10.0, 10.0]


def test_a_pause_that_is_over_hides_none_that_is_read_after_it(brakes):
    assert brakes.learn({"over": 1000, "lasts": 1500}, 1000, 60.0) == {"lasts": 0.5}


# --- requests under way ---


def test_a_worker_that_was_told_nothing_of_its_places_has_nobody_wait(clock):
    brakes = Brakes(clock.now_s)

    assert {brakes.enter("a") for _ in range(100)} == {0}


def test_each_that_waits_for_a_place_has_a_turn_of_its_own(brakes):
    brakes.places = 1
    assert brakes.enter("a") == 0

    turns = [brakes.enter("a") for _ in range(4)]

    assert turns == sorted(set(turns))


def test_a_worker_that_knows_of_no_other_has_all_that_an_account_bears(brakes):
    brakes.places, brakes.cap = 10, 4

    assert [bool(brakes.enter("a")) for _ in range(5)] == [False] * 4 + [True]


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
    clock.s += 1
    assert max(brakes.enter("a") for _ in range(2000)) <= 1


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


# --- the places of a worker ---


@pytest.fixture
def state():
    """What a runner with 80 places knows of itself, on a clock that the test moves."""
    with MovableClock() as clock:
        queue, poller = RedisVideoJobQueue.from_url("redis://h"), VideoApiPoller(api_key="key")
        made = Runner(queue, poller, SilentNotifier(), concurrency=80, clock=clock)._state
        yield made


def move(state, seconds: float) -> None:
    state.clock.move(seconds)


def test_places_open_again_after_an_outage_of_redis_and_not_after_a_hiccup(state):
    assert state.places.open == 80

    for away_s, places in ((0.5, 80), (3.0, 10)):
        state.redis_lost(QueueUnavailableError("away"), "claim")
        move(state, away_s)
        state._no_longer_lost("claim")
        assert state.places.open == places


def test_places_open_again_after_a_pause(state):
    state._throttled(8)
    assert state.room()[0] == 0
    move(state, 8 + 1)

    assert 10 <= state.places.open < 40
    move(state, 2)
    assert state.places.open == 80


def test_a_worker_whose_open_places_are_taken_claims_again_when_more_are_open(state):
    """Nothing else would wake it: what it polls may take long."""
    state.places.open_softly()
    now_ms = state.context.clock.now_ms()
    polls = [PollWork(VideoJob(f"job_{n}", "c", now_ms), 1, 0, None) for n in range(30)]
    claims = tuple(Claim(work.job.job_id, "w:1", now_ms, work) for work in polls)
    batch = ClaimBatch(claims, now_ms, next_poll_ms=now_ms - 1000)

    state.begin_turn()
    state.take(batch, state.ask())
    state.plan_after(batch)

    assert 10 <= state.polls_in_hand < 20
    assert state.coalescer.next_s - state.clock.monotonic_s() <= 0.11


def test_what_another_worker_was_told_stands_in_the_log_once(state, caplog):
    caplog.set_level("INFO")
    account = VideoApiPoller(api_key="key").account
    for _ in range(3):
        state.take(ClaimBatch((), 1_000, brakes={account: 31_000, "odd\x1b[2J": 21_000}), state.ask())

    assert caplog.text.count(f"{account} is left alone for 30 s") == 1
    assert caplog.text.count("for 20 s") == 1
    assert "Another worker was told 429" in caplog.text
    assert "\x1b" not in caplog.text
    assert state.room()[0] == 0


def test_a_worker_has_its_share_of_what_an_account_bears(state):
    state.places.brakes.cap = 20
    for workers, share in ((0, 20), (1, 20), (3, 6), (50, 1)):
        state.places.learn(ClaimBatch((), 0, workers=workers))
        assert state.room()[0] == share


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "20"])
def test_a_cap_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="account_concurrency must be a whole number of at least 1"):
        Runner(
            RedisVideoJobQueue.from_url("redis://h"),
            VideoApiPoller(api_key="key"),
            SilentNotifier(),
            account_concurrency=wrong,
        )


# --- accounts ---


def test_the_name_of_an_account_tells_the_api_and_hides_the_key():
    one, same, other = (VideoApiPoller(base_url="https://api.example/v1", api_key=key) for key in ("k-1", "k-1", "k-2"))

    assert one.account == same.account != other.account
    assert re.fullmatch(r"api\.example:[0-9a-f]{16}", one.account)
    assert VideoApiPoller(base_url="https://api.example/v2", api_key="k-1").account != one.account


def test_the_name_of_an_account_is_bounded_and_plain():
    assert re.fullmatch(r"[A-Za-z0-9._-]{40}:[0-9a-f]{16}", api_account("evil\x1b[2J: \ud800" * 20, "key"))


def test_what_is_not_plain_in_the_name_of_an_account_is_an_underscore_each():
    assert api_account("my api/v2", "key").partition(":")[0] == "my_api_v2"


def test_accounts_whose_names_differ_at_their_end_alone_are_two():
    assert api_account("n" * 40 + "1", "key") != api_account("n" * 40 + "2", "key")


def test_accounts_of_a_described_api_go_by_their_keys():
    fal = HttpVideoPoller(FAL, api_key="key-1")

    assert fal.account.startswith("fal:")
    assert fal.with_key("key-2").account != fal.account
    assert (
        HttpVideoPoller(FAL, api_key=lambda: "key-1").account == HttpVideoPoller(FAL, api_key=lambda: "key-2").account
    )


class Forgetful:
    """A queue that is away once."""

    def __init__(self):
        self.told = []

    def brake(self, pauses_s):
        self.told.append(dict(pauses_s))
        if len(self.told) == 1:
            msg = "away"
            raise QueueUnavailableError(msg)


def test_a_pause_is_one_event_though_the_others_are_told_at_the_second_try(state, caplog):
    queue, heard = Forgetful(), []
    state.emitter = events.Emitter(LogHook(), [heard.append])
    upkeep = Upkeep(state, queue, lambda seconds: None)
    state._throttled(30)
    for _ in range(3):
        drive(upkeep.tell(), call)
    state._throttled(50)
    drive(upkeep.tell(), call)

    account = VideoApiPoller(api_key="key").account
    assert [list(told) for told in queue.told] == [[account]] * 3
    pauses = [(event.account, round(event.pause_s), event.learnt) for event in heard]
    assert pauses == [(account, 30, False), (account, 50, False)]
    assert caplog.text.count(f"This worker was told 429: {account} is left alone for 30 s") == 1


def test_a_pause_that_is_made_longer_while_the_others_cannot_be_told_is_another_event(state):
    heard = []
    state.emitter = events.Emitter(heard.append, [])
    upkeep = Upkeep(state, Forgetful(), lambda seconds: None)
    state._throttled(30)
    drive(upkeep.tell(), call)
    state._throttled(50)
    drive(upkeep.tell(), call)

    assert [round(event.pause_s) for event in heard] == [30, 50]
