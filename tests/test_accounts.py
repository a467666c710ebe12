"""Accounts that are held back, of messengers and of video APIs: pure, over a clock that is moved."""

from __future__ import annotations

import hashlib

import pytest

from videopoll.core.accounts import Accounts, account_key
from videopoll.core.brakes import Brakes
from videopoll.core.permits import Lease, SendPermit
from videopoll.messages import Delivered, LookupResult, NotSent, Refused, Unknown
from videopoll.observations import Fault, FaultKind, VideoWorking
from videopoll.policies import PollingStrategy

LOST = Unknown("the reply was lost")
BAD_TOKEN = NotSent("HTTP 401", account_fault=True)


class Hand:
    """A clock whose hand is moved."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Hand()


@pytest.fixture
def accounts(clock):
    return Accounts(clock, first_pause_s=10.0)


def lose(accounts, *references, key="a"):
    """Note messages of unknown fate; return what the last one led to."""
    return [accounts.note(key, "ultramsg", reference, LOST) for reference in references][-1]


# --- of messengers ---


def test_an_account_is_named_by_its_channel_and_credentials_and_tells_neither():
    keys = {account_key("ultramsg", "i1", "t"), account_key("ultramsg", "i1t"), account_key("other", "i1", "t")}
    assert len(keys) == 3
    assert account_key("ultramsg", None) == account_key("ultramsg", "")
    assert account_key("ultramsg", None, "t") == hashlib.sha256(b"ultramsg\0\0t").hexdigest()
    assert account_key("ultramsg", "i1", "t") == hashlib.sha256(b"ultramsg\0i1\0t").hexdigest()
    assert account_key("ultramsg", "\ud800") != account_key("ultramsg", "")


def test_three_different_messages_of_unknown_fate_in_a_row_hold_an_account_back(accounts):
    assert lose(accounts, "one", "two") is None
    assert accounts.held_s("a", "new") == 0
    assert accounts.held() == []

    assert lose(accounts, "three") == 10.0
    assert accounts.held_s("a", "new") == 10.0
    assert accounts.held_s("b", "new") == 0
    assert accounts.held() == [("ultramsg", False)]
    assert not accounts.refused("a")


def test_the_same_message_counts_once(accounts):
    assert lose(accounts, *["one"] * 5, "two") is None
    assert lose(accounts, "three") == 10.0


@pytest.mark.parametrize("well", [Delivered("id"), Refused("no WhatsApp"), LookupResult.FOUND, LookupResult.FAILED])
def test_a_message_whose_fate_is_known_begins_the_row_anew(accounts, well):
    lose(accounts, "one", "two")
    assert accounts.note("a", "ultramsg", "two", well) is None
    assert lose(accounts, "three", "four") is None
    assert lose(accounts, "five") == 10.0


@pytest.mark.parametrize(
    "silent", [NotSent("offline"), LookupResult.ABSENT, LookupResult.CANNOT_TELL, LookupResult.NO_ANSWER]
)
def test_what_tells_nothing_of_the_account_leaves_the_row_as_it_is(accounts, silent):
    lose(accounts, "one", "two")
    assert accounts.note("a", "ultramsg", "two", silent) is None
    assert lose(accounts, "three") == 10.0


def test_refused_credentials_hold_an_account_back_at_the_first_message(accounts):
    assert accounts.note("a", "ultramsg", "one", BAD_TOKEN) == 10.0
    assert accounts.refused("a")
    assert not accounts.refused("b")
    assert accounts.held() == [("ultramsg", True)]


def test_after_a_pause_one_message_finds_out_and_the_others_wait_for_it(accounts, clock):
    lose(accounts, "one", "two", "three")
    clock.now_s += 9.5
    assert accounts.held_s("a", "probe") == 0.5
    clock.now_s += 0.5
    assert accounts.held_s("a", "probe") == 0
    assert accounts.held_s("a", "other") == 10.0

    accounts.note("a", "ultramsg", "probe", Delivered("id"))
    assert accounts.held_s("a", "other") == 0


def test_a_probe_that_fails_doubles_the_pause_up_to_five_minutes(accounts, clock):
    lose(accounts, "one", "two", "three")
    pauses = []
    for _ in range(7):
        clock.now_s += accounts.held_s("a", "wait")
        assert accounts.held_s("a", "probe") == 0
        # The alarm is raised once.
        assert accounts.note("a", "ultramsg", "probe", LOST) is None
        pauses.append(accounts.held_s("a", "wait"))
    assert pauses == [20, 40, 80, 160, 300, 300, 300]


def test_what_went_out_before_a_pause_does_not_lengthen_it(accounts, clock):
    lose(accounts, "one", "two", "three")
    clock.now_s += 4
    assert lose(accounts, "four") is None
    assert accounts.held_s("a", "new") == 6.0
    clock.now_s += 6
    assert accounts.held_s("a", "probe") == 0
    assert lose(accounts, "five") is None
    assert accounts.held_s("a", "new") == 10.0
    # And a second word about the probe is none about a probe.
    assert lose(accounts, "probe", "probe") is None
    assert accounts.held_s("a", "new") == 20.0


def test_an_account_is_refused_if_that_was_its_last_result(accounts, clock):
    accounts.note("a", "ultramsg", "one", BAD_TOKEN)
    clock.now_s += 10
    accounts.held_s("a", "probe")
    accounts.note("a", "ultramsg", "probe", LOST)
    assert not accounts.refused("a")


def test_a_probe_that_is_refused_again_doubles_the_pause(accounts, clock):
    accounts.note("a", "ultramsg", "one", BAD_TOKEN)
    clock.now_s += 10
    assert accounts.held_s("a", "probe") == 0
    assert accounts.note("a", "ultramsg", "probe", BAD_TOKEN) is None
    assert accounts.held_s("a", "other") == 20


def test_the_first_pause_is_never_longer_than_the_longest(clock):
    accounts = Accounts(clock, first_pause_s=1000.0)
    assert accounts.note("a", None, "one", BAD_TOKEN) == 300.0
    assert accounts.held() == [(None, True)]


def test_an_account_shows_its_messages_once_it_has_shown_one(accounts):
    for result in (Delivered("id"), LookupResult.ABSENT, LookupResult.NO_ANSWER, LookupResult.CANNOT_TELL):
        accounts.note("a", "ultramsg", "one", result)
        assert not accounts.shows("a")
    accounts.note("a", "ultramsg", "one", LookupResult.FOUND)
    assert accounts.shows("a")
    assert not accounts.shows("b")


@pytest.mark.parametrize("remembers", ["held", "shows"])
def test_of_ten_thousand_accounts_the_oldest_are_forgotten_first(accounts, remembers):
    result = BAD_TOKEN if remembers == "held" else LookupResult.FOUND
    knows = accounts.refused if remembers == "held" else accounts.shows
    for number in range(10_000):
        accounts.note(f"a{number}", "c", "one", result)
    # What is heard of again is new again.
    accounts.note("a0", "c", "one", result)
    assert knows("a0")
    assert knows("a1")
    accounts.note("new", "c", "one", result)
    assert [knows(key) for key in ("new", "a0", "a1", "a2")] == [True, True, False, True]


def test_a_permit_says_why_its_account_is_held_back(accounts, clock):
    lease = Lease(clock)
    lease.confirm(clock.now_s, 12.0)
    permit = SendPermit(lease, accounts, "one")
    assert permit.held_back() is None
    permit.goes_over("ultramsg", "i1", "t")
    assert permit.account == account_key("ultramsg", "i1", "t")

    accounts.note(permit.account, "ultramsg", "other", BAD_TOKEN)
    held = permit.held_back()
    said = "held back: the channel refuses this account"
    assert held == NotSent(said, 10.0, counts=False, channel_fault=False, waits=True)
    assert held.channel == "ultramsg"
    clock.now_s += 10
    assert permit.held_back() is None
    accounts.note(permit.account, "ultramsg", "one", LOST)
    held = permit.held_back()
    assert held.retry_after_s == 20.0
    assert held.reason == "held back: nobody knows what became of the last messages over this account of the channel"
    assert SendPermit(lease).held_back() is None


def test_a_permit_holds_to_the_end_of_its_lease_unless_it_is_withdrawn(clock):
    lease = Lease(clock)
    lease.confirm(clock.now_s, 12.0)
    permit, other = SendPermit(lease), SendPermit(lease)
    clock.now_s += 11.5
    assert permit.holds()
    permit.withdraw()
    assert not permit.holds()
    assert other.holds()
    clock.now_s += 0.5
    assert not other.holds()


# --- of video APIs ---

STRATEGY = PollingStrategy(max_retry_after_s=60, jitter=0)


def throttled(hint_s=None):
    return Fault(FaultKind.THROTTLED, "HTTP 429", hint_s)


def test_a_429_leaves_an_account_alone_for_as_long_as_it_asks(clock):
    brakes = Brakes(clock)
    brakes.note("key-1", clock.now_s, throttled(7), STRATEGY)
    assert brakes.held_s("key-1") == 7
    assert brakes.held_s("key-2") == 0
    clock.now_s += 8
    assert brakes.held_s("key-1") == 0


def test_a_wait_that_is_asked_for_is_bounded(clock):
    brakes = Brakes(clock)
    brakes.note("key-1", clock.now_s, throttled(100_000), STRATEGY)
    assert brakes.held_s("key-1") == 60


def test_without_a_hint_each_429_in_a_row_waits_for_longer(clock):
    brakes, waits = Brakes(clock), []
    for _ in range(4):
        brakes.note("key-1", clock.now_s, throttled(), STRATEGY)
        waits.append(brakes.held_s("key-1"))
        clock.now_s += waits[-1]
    assert waits == [STRATEGY.backoff_s(faults) for faults in range(4)]
    assert waits[0] < waits[1] < waits[2]

    brakes.note("key-1", clock.now_s, VideoWorking(), STRATEGY)
    brakes.note("key-1", clock.now_s, throttled(), STRATEGY)
    assert brakes.held_s("key-1") == waits[0]


def test_polls_that_were_under_way_together_are_one_time(clock):
    brakes, began_s = Brakes(clock), clock.now_s
    for _ in range(5):
        brakes.note("key-1", began_s, throttled(), STRATEGY)
    assert brakes.held_s("key-1") == STRATEGY.backoff_s(0)


def test_an_answer_to_what_was_asked_before_a_pause_does_not_end_it(clock):
    brakes, began_s = Brakes(clock), clock.now_s
    clock.now_s += 1
    brakes.note("key-1", clock.now_s, throttled(30), STRATEGY)
    brakes.note("key-1", began_s, VideoWorking(), STRATEGY)
    assert brakes.held_s("key-1") == 30
    clock.now_s += 30
    brakes.note("key-1", clock.now_s, Fault(FaultKind.SERVER, "HTTP 500"), STRATEGY)
    brakes.note("key-1", clock.now_s, throttled(), STRATEGY)
    assert brakes.held_s("key-1") == STRATEGY.backoff_s(0)


def test_a_shorter_wait_never_ends_a_longer_one(clock):
    brakes = Brakes(clock)
    brakes.hold("key-1", 30)
    brakes.hold("key-1", 5)
    assert brakes.held_s("key-1") == 30


def test_of_ten_thousand_video_apis_the_oldest_are_forgotten_first(clock):
    brakes = Brakes(clock)
    for number in range(10_000):
        brakes.hold(f"a{number}", 30)
    brakes.hold("a0", 30)
    assert brakes.held_s("a1") == 30
    brakes.hold("new", 30)
    assert [brakes.held_s(account) for account in ("new", "a0", "a1", "a2")] == [30, 30, 0, 30]
