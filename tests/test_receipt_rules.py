"""What receipts mean: the rules in `videopoll.core.receipts`, without a queue."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videopoll import DeliveryPolicy, OutcomeKind
from videopoll.core.delivery import Done, GiveUp, Later, Send, Watch
from videopoll.core.receipts import (
    Noted,
    Reopened,
    after_receipt,
    completed_as_accepted,
    failure_of,
    judge,
    read_receipt,
    watched_entry,
    write_receipt,
)
from videopoll.errors import ConfigurationError
from videopoll.jobs import MessageForm, Outcome, VideoJob
from videopoll.jobs.outcome import OutboxEntry
from videopoll.messages import Accepted, MessageReceipt, ReceiptKind

T0 = 1_757_157_518_747
POLICY = DeliveryPolicy(jitter=0.0)
JOB = VideoJob("job_1", "c", T0)
OUTCOME = Outcome(OutcomeKind.COMPLETED, T0 + 60_000, video_url="https://v/1.mp4")


def at(seconds: float) -> int:
    return T0 + round(seconds * 1000)


def entry(**changes) -> OutboxEntry:
    plain = OutboxEntry(JOB, OUTCOME, MessageForm.VIDEO, at(3660), tries=1, sending_ms=at(61))
    return attrs.evolve(plain, **changes)


WATCHED = watched_entry(Watch(entry(sending_ms=None), Accepted("wamid.1", channel="mine")), at(62))
COMPLETED = completed_as_accepted(WATCHED)


def receipt(kind: str, **fields) -> MessageReceipt:
    return MessageReceipt(**{"kind": kind, "message_id": "wamid.1", **fields})


receipts = st.builds(
    MessageReceipt,
    kind=st.sampled_from(ReceiptKind),
    message_id=st.sampled_from(["wamid.1", "wamid.2", None]),
    reference=st.sampled_from([JOB.reference, "another", None]),
    reason=st.none() | st.text(max_size=30),
    then=st.sampled_from([None, *MessageForm]),
    try_text=st.booleans(),
    passing=st.booleans(),
    channel_fault=st.booleans(),
    at_ms=st.none() | st.integers(-(2**60), 2**60),
    channel=st.sampled_from([None, "mine", "another"]),
)


@given(receipts)
def test_a_receipt_that_was_kept_is_the_same_when_it_is_read(one):
    assert read_receipt(write_receipt(one)) == one


@pytest.mark.parametrize("stored", ["", "[]", "{}", '{"kind":"eaten"}', '{"kind":5}', "\\ud800"])
def test_a_receipt_that_is_damaged_is_none(stored):
    assert read_receipt(stored) is None


@given(st.lists(receipts, max_size=12))
def test_whatever_comes_in_whatever_order_a_job_is_opened_once_at_most_and_never_undelivered(some):
    """And what its user has is not sent again."""
    fields, opened = COMPLETED, 0
    for one in some:
        if opened:
            break
        match judge(WATCHED, fields, one, at(90)):
            case Noted(told, first):
                assert first is (fields["delivered"] is not True)
                assert told["delivered"] is True
                assert at(62) <= told["deliveredAt"] <= at(90)
                fields = dict(told)
            case Reopened(reopened):
                assert fields["delivered"] is None
                assert failure_of(reopened) == one
                opened += 1
    assert opened <= 1


@given(receipts, st.integers(0, 10**7))
def test_what_follows_a_receipt_keeps_to_the_budgets(one, late_s):
    """A failure begins one more send, or waits, or gives up; everything else ends the delivery, or watches it."""
    action = after_receipt(WATCHED, one, at(62 + late_s), POLICY)
    kinds = {ReceiptKind.FAILED: (Send, Later, GiveUp), ReceiptKind.SENT: Watch}
    assert isinstance(action, kinds.get(one.kind, Done))
    assert action.entry.tries - WATCHED.tries == isinstance(action, Send)
    if one.kind is ReceiptKind.FAILED:
        assert action.entry.accepted is None
        assert action.entry.deadline_ms - WATCHED.deadline_ms == late_s * 1000


def test_without_its_receipt_an_accepted_message_is_watched_and_not_sent_again():
    """It was kept for some minutes, and no worker was running."""
    action = after_receipt(WATCHED, None, at(9000), POLICY)
    assert action == Watch(WATCHED, action.receipt)
    assert watched_entry(action, at(9000)) == WATCHED


def test_a_late_failure_of_a_text_names_no_form_and_is_the_end():
    action = after_receipt(
        watched_entry(Watch(entry(form=MessageForm.TEXT), Accepted("1")), at(62)), receipt("failed"), at(70), POLICY
    )
    assert isinstance(action, GiveUp)
    assert action.reason == "refused by the channel: the channel accepted the message and could not deliver it"


@pytest.mark.parametrize(("channel_fault", "form"), [(True, MessageForm.TEXT), (False, MessageForm.VIDEO)])
def test_what_is_about_the_account_or_the_pace_turns_no_video_into_a_text(channel_fault, form):
    """The account has not paid, say: once it has, the video goes out."""
    late = entry(form_failures=POLICY.video_attempts - 1)
    watched = watched_entry(Watch(late, Accepted("wamid.1")), at(62))
    action = after_receipt(watched, receipt("failed", passing=True, channel_fault=channel_fault), at(70), POLICY)
    assert action.entry.form is form


def test_an_entry_that_is_watched_survives_its_writing():
    assert OutboxEntry.from_json("job_1", WATCHED.to_json().encode()) == WATCHED
    opened = judge(WATCHED, COMPLETED, receipt("failed", reason="131047"), at(70)).entry
    assert OutboxEntry.from_json("job_1", opened.to_json().encode()) == opened


def test_watch_s_is_checked_where_the_policy_is_built():
    with pytest.raises(ConfigurationError, match=r"DeliveryPolicy.watch_s must be at least 0"):
        DeliveryPolicy(watch_s=-1)


@pytest.mark.parametrize("word", list(ReceiptKind))
def test_what_a_receipt_says_is_no_secret_and_whom_it_is_about_is(word):
    """A WhatsApp message's id contains the number that it went to."""
    told = repr(MessageReceipt(kind=word, message_id="wamid.5491155550001", reason="to 5491155550001"))
    assert "5491155550001" not in told
    assert word.value in told
