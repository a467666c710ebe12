"""Places for sends: how many of a worker's an account may take, and what a message is told that has to wait for one."""

from __future__ import annotations

import pickle
import time

import pytest

from videopoll.core.accounts import Accounts
from videopoll.core.permits import Lease, SendPermit


class Hand:
    """A clock that stands still."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def held():
    """A lease that is held."""
    lease = Lease(Hand())
    lease.confirm(1000.0, 12.0)
    return lease


def test_an_account_takes_three_of_four_places_and_the_fourth_is_for_another():
    accounts = Accounts(Hand(), 2.0, places=4)

    assert [bool(accounts.enter("a")) for _ in range(4)] == [False, False, False, True]
    assert accounts.enter("b") == 0
    assert accounts.enter("b") > 0
    assert accounts.enter("c") == 0, "each may have one, however full it is"


def test_a_place_that_is_free_again_is_taken_once():
    accounts = Accounts(Hand(), 2.0, places=4)
    for account in ("a", "a", "a", "b"):
        assert accounts.enter(account) == 0

    accounts.leave("a", 999.0)

    assert accounts.enter("a") == 0
    assert accounts.enter("b") > 0
    assert accounts.enter("a") > 0


def permit(lease, accounts, *credentials):
    made = SendPermit(lease, accounts, "a message")
    if credentials:
        made.goes_over(*credentials)
    return made


def test_a_message_without_a_place_surely_was_not_sent_and_waits_for_its_turn_uncounted(held):
    accounts = Accounts(Hand(), 2.0, places=1)
    first, second = permit(held, accounts, "whatsapp", "t"), permit(held, accounts, "whatsapp", "t")
    assert first.held_back() is None
    assert first.held_back() is None, "it has its place already"
    assert first.turn_s == 0

    receipt = second.held_back()

    said = "waits for its turn: other messages over this account of the channel are under way"
    assert (receipt.reason, receipt.reason.told, receipt.channel) == (said, said, "whatsapp")
    assert (receipt.counts, receipt.channel_fault, receipt.account_fault, receipt.waits) == (False, False, False, True)
    assert receipt.retry_after_s == second.turn_s > 0


def test_a_send_that_has_ended_frees_its_place_once(held):
    accounts = Accounts(Hand(), 2.0, places=1)
    first, second, third = (permit(held, accounts, "whatsapp", "t") for _ in range(3))
    assert first.held_back() is None

    first.ended()
    first.ended()

    assert second.held_back() is None
    assert third.held_back() is not None


def test_a_channel_that_stands_alone_shares_its_places_with_nobody(held):
    accounts = Accounts(Hand(), 2.0, places=1)

    assert [permit(held, accounts).held_back() for _ in range(3)] == [None, None, None]


def test_a_copy_of_a_permit_may_not_begin_what_the_permit_may_not():
    lease = Lease()
    lease.confirm(time.monotonic(), 60.0)
    whole, given_up = SendPermit(lease), SendPermit(lease)
    given_up.withdraw()

    assert pickle.loads(pickle.dumps(whole)).holds()
    assert not pickle.loads(pickle.dumps(given_up)).holds()
