"""What receipts mean: the rules in `videopoll.core.receipts`, without a queue."""

from __future__ import annotations

import hashlib
import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videopoll import DeliveryPolicy, OutcomeKind
from videopoll._reasons import Reason, told
from videopoll.core.delivery import Done, GiveUp, Later, Send, Watch
from videopoll.core.receipts import (
    Noted,
    Reopened,
    after_receipt,
    completed_as_accepted,
    failure_of,
    is_about,
    judge,
    name_hash,
    read_receipt,
    watched_entry,
    write_receipt,
)
from videopoll.errors import ConfigurationError
from videopoll.jobs import MessageForm, Outcome, VideoJob
from videopoll.jobs.outcome import AcceptedMessage, OutboxEntry
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


# --- to the letter ---

ACCEPTED = AcceptedMessage(at_ms=at(62), form=MessageForm.VIDEO, message_id="wamid.1", channel="mine")
AS_ACCEPTED = {
    "success": True,
    "videoUrl": "https://v/1.mp4",
    "fileId": None,
    "jobId": "job_1",
    "completedAt": at(60),
    "processingTime": 60_000,
    "timestamp": None,
    "conversationId": "c",
    "outcome": "completed",
    "delivered": None,
    "acceptedAt": at(62),
    "form": "video",
    "sends": 1,
    "messageId": "wamid.1",
}
A_RECEIPT_TELLS = "a receipt of the channel tells of it"


def fields_of(known) -> tuple:
    """Give all that a receipt says; equality ignores the form and the channel."""
    return known.message_id, known.detail, told(known.detail), known.form, known.channel


def test_a_name_stands_in_redis_as_the_beginning_of_its_sha_256():
    assert name_hash("wamid.1") == hashlib.sha256(b"wamid.1").hexdigest()[:32]
    assert name_hash("\ud800") == hashlib.sha256(b"\xed\xa0\x80").hexdigest()[:32]
    assert name_hash("é") == hashlib.sha256(b"\xc3\xa9").hexdigest()[:32]


def test_an_accepted_message_is_watched_with_all_that_is_known_of_it():
    watched = watched_entry(Watch(entry(sending_ms=None), Accepted("wamid.1", channel="mine")), at(62))
    assert watched == entry(sending_ms=at(62), accepted=ACCEPTED)
    in_another = Accepted("wamid.1", form=MessageForm.TEXT)
    assert watched_entry(Watch(entry(), in_another), at(62)).accepted == AcceptedMessage(
        at_ms=at(62), form=MessageForm.TEXT, message_id="wamid.1"
    )


def test_a_message_that_is_watched_already_was_accepted_when_it_was():
    again = watched_entry(Watch(attrs.evolve(WATCHED, sending_ms=None), Accepted("another")), at(99))
    assert again == entry(sending_ms=at(62), accepted=ACCEPTED)


def test_what_is_told_of_an_accepted_message():
    watched = entry(sending_ms=at(62), accepted=ACCEPTED)
    assert completed_as_accepted(watched) == AS_ACCEPTED
    unaccepted = {name: AS_ACCEPTED[name] for name in AS_ACCEPTED.keys() - {"acceptedAt", "form", "sends", "messageId"}}
    assert completed_as_accepted(entry()) == unaccepted


@pytest.mark.parametrize(
    ("said_s", "told_s"), [(None, 70), (65, 65), (62, 62), (61.999, 62), (-99, 62), (70, 70), (70.001, 70)]
)
def test_what_a_receipt_tells_happened_between_the_accepting_and_now(said_s, told_s):
    """The channel's clock may be wrong."""
    at_ms = None if said_s is None else at(said_s)
    noted = judge(WATCHED, AS_ACCEPTED, receipt("delivered", at_ms=at_ms), at(70))
    assert noted == Noted(AS_ACCEPTED | {"delivered": True, "deliveredAt": at(told_s)}, first=True)


def test_a_message_that_is_read_is_delivered_too_and_keeps_the_time_of_its_delivery():
    read = judge(WATCHED, None, receipt("read"), at(70))
    assert read == Noted(AS_ACCEPTED | {"delivered": True, "deliveredAt": at(70), "readAt": at(70)}, first=True)

    delivered = AS_ACCEPTED | {"delivered": True, "deliveredAt": at(65)}
    later = judge(WATCHED, delivered, receipt("read"), at(70))
    assert later == Noted(delivered | {"readAt": at(70)}, first=False)
    for known in ("read", "delivered", "failed", "sent"):
        assert judge(WATCHED, later.completed, receipt(known), at(80)) is None


def test_a_message_that_was_sent_is_nothing_new():
    assert judge(WATCHED, AS_ACCEPTED, receipt("sent"), at(70)) is None


def test_a_failure_opens_the_delivery_with_its_receipt_and_without_a_send_under_way():
    failed = receipt("failed", reason="131047", at_ms=at(65))
    begun = attrs.evolve(WATCHED, begun_ms=at(61))
    opened = judge(begun, AS_ACCEPTED, failed, at(70))
    assert opened == Reopened(entry(sending_ms=None, accepted=opened.entry.accepted))
    assert json.loads(opened.entry.accepted.receipt) == {
        "kind": "failed",
        "messageId": "wamid.1",
        "reason": "131047",
        "tryText": True,
        "passing": False,
        "channelFault": True,
        "at": at(65),
    }
    assert attrs.evolve(opened.entry.accepted, receipt=None) == ACCEPTED


@pytest.mark.parametrize("kind", ["delivered", "read", "failed"])
def test_a_receipt_of_an_earlier_message_changes_nothing(kind):
    sent_again = AS_ACCEPTED | {"acceptedAt": at(63)}
    assert judge(WATCHED, sent_again, receipt(kind), at(70)) is None
    assert judge(WATCHED, AS_ACCEPTED, receipt(kind, message_id="wamid.0"), at(70)) is None
    assert judge(entry(), AS_ACCEPTED, receipt(kind), at(70)) is None


@pytest.mark.parametrize(
    ("message_id", "channel", "about"),
    [
        ("wamid.1", "mine", True),
        (None, "mine", True),
        ("wamid.1", None, True),
        (None, None, True),
        ("wamid.2", "mine", False),
        ("wamid.1", "another", False),
        ("wamid.2", None, False),
        (None, "another", False),
    ],
)
def test_a_receipt_is_about_a_message_unless_it_names_another_one(message_id, channel, about):
    assert is_about(MessageReceipt(kind="read", message_id=message_id, channel=channel), ACCEPTED) is about
    nameless = attrs.evolve(ACCEPTED, message_id=None, channel=None)
    assert is_about(MessageReceipt(kind="read", message_id=message_id, channel=channel), nameless) is True


@pytest.mark.parametrize("one", [None, receipt("sent", message_id="wamid.2", channel="another")])
def test_a_message_that_is_still_on_its_way_goes_on_being_watched_under_its_own_name(one):
    action = after_receipt(WATCHED, one, at(70), POLICY)
    assert action == Watch(WATCHED, action.receipt)
    assert isinstance(action.receipt, Accepted)
    assert fields_of(action.receipt) == ("wamid.1", A_RECEIPT_TELLS, A_RECEIPT_TELLS, MessageForm.VIDEO, "mine")


def test_a_receipt_that_a_message_was_sent_tells_the_fate_of_one_that_was_unknown():
    action = after_receipt(entry(begun_ms=at(61)), receipt("sent", channel="mine"), at(70), POLICY)
    assert action == Watch(entry(sending_ms=None), action.receipt)
    assert isinstance(action.receipt, Accepted)
    assert fields_of(action.receipt) == ("wamid.1", A_RECEIPT_TELLS, A_RECEIPT_TELLS, None, "mine")


def test_an_unknown_fate_without_a_receipt_counts_as_accepted():
    action = after_receipt(entry(), None, at(70), POLICY)
    assert action == Watch(entry(sending_ms=None), action.receipt)
    assert fields_of(action.receipt) == (None, A_RECEIPT_TELLS, A_RECEIPT_TELLS, None, None)


@pytest.mark.parametrize("kind", ["delivered", "read"])
def test_a_message_that_its_user_has_is_done_and_no_longer_watched(kind):
    begun = attrs.evolve(WATCHED, begun_ms=at(61))
    action = after_receipt(begun, receipt(kind, message_id="wamid.2", channel="another"), at(70), POLICY)
    assert action == Done(entry(sending_ms=None), action.receipt)
    assert fields_of(action.receipt) == ("wamid.1", A_RECEIPT_TELLS, A_RECEIPT_TELLS, MessageForm.VIDEO, "mine")


@pytest.mark.parametrize("kind", ["sent", "delivered"])
def test_what_the_channel_did_not_say_when_it_accepted_the_message_its_receipt_says(kind):
    nameless = attrs.evolve(ACCEPTED, message_id=None, channel=None)
    action = after_receipt(entry(accepted=nameless), receipt(kind, channel="mine"), at(70), POLICY)
    assert fields_of(action.receipt) == ("wamid.1", A_RECEIPT_TELLS, A_RECEIPT_TELLS, MessageForm.VIDEO, "mine")


def test_a_receipt_of_delivery_ends_a_send_of_unknown_fate():
    action = after_receipt(entry(begun_ms=at(61)), receipt("delivered", channel="mine"), at(70), POLICY)
    assert action == Done(entry(sending_ms=None), action.receipt)
    assert fields_of(action.receipt) == ("wamid.1", A_RECEIPT_TELLS, A_RECEIPT_TELLS, None, "mine")


def test_a_late_failure_goes_on_in_the_form_that_it_names_and_has_the_time_of_the_watch_back():
    failed = receipt("failed", reason=Reason("131047 window", "131047"), then=MessageForm.TEMPLATE, try_text=False)
    action = after_receipt(attrs.evolve(WATCHED, begun_ms=at(61)), failed, at(72), POLICY)
    assert action == Send(
        entry(
            form=MessageForm.TEMPLATE,
            tries=2,
            deadline_ms=at(3670),
            sending_ms=at(72),
            begun_ms=at(72),
            refused_forms=frozenset({MessageForm.VIDEO}),
            reasons=("131047 window",),
        )
    )


def test_a_late_failure_that_names_no_form_goes_on_as_a_text_if_that_may_go_through():
    assert after_receipt(WATCHED, receipt("failed"), at(72), POLICY).entry.form is MessageForm.TEXT
    end = after_receipt(WATCHED, receipt("failed", reason="blocked", try_text=False), at(72), POLICY)
    assert isinstance(end, GiveUp)
    assert end.reason == "refused by the channel: blocked"
    for nothing in (None, ""):
        unsaid = after_receipt(WATCHED, receipt("failed", reason=nothing, try_text=False), at(72), POLICY).reason
        assert told(unsaid) == "refused by the channel: the channel accepted the message and could not deliver it"


@pytest.mark.parametrize(("fraction", "wait_s"), [(0.0, 1), (0.25, 1.5), (0.5, 2), (1.0, 3)])
def test_a_passing_failure_waits_as_after_a_send_that_failed(fraction, wait_s):
    spread = DeliveryPolicy(jitter=0.5)
    failed = receipt("failed", reason="busy", passing=True)
    action = after_receipt(WATCHED, failed, at(72), spread, fraction)
    after = entry(sending_ms=None, deadline_ms=at(3670), form_failures=1, reasons=("busy",))
    assert action == Later(after, at(72 + wait_s))


def test_a_passing_failure_that_is_no_fault_of_the_form_brings_no_text_nearer():
    failed = receipt("failed", passing=True, channel_fault=False)
    assert after_receipt(WATCHED, failed, at(72), POLICY).entry.form_failures == 0


def test_without_a_word_about_chance_a_wait_is_in_the_middle():
    failed = receipt("failed", passing=True)
    assert after_receipt(WATCHED, failed, at(72), DeliveryPolicy(jitter=0.5)).due_ms == at(74)


def test_a_failure_of_a_send_of_unknown_fate_gives_no_time_back():
    """Nor does a clock that stepped back take any away."""
    failed = receipt("failed", passing=True)
    assert after_receipt(entry(), failed, at(72), POLICY).entry.deadline_ms == at(3660)
    assert after_receipt(WATCHED, failed, at(61), POLICY).entry.deadline_ms == at(3660)


def test_a_receipt_is_kept_in_few_words_and_what_of_it_is_ours_stays_ours():
    """As earlier and later versions read it."""
    full = receipt(
        "failed",
        reference="vp-1",
        reason=Reason("131047 to 549", "131047"),
        then=MessageForm.TEMPLATE,
        try_text=False,
        passing=True,
        channel_fault=False,
        at_ms=7,
        channel="mine",
    )
    stored = {
        "kind": "failed",
        "messageId": "wamid.1",
        "reference": "vp-1",
        "reason": "131047 to 549",
        "told": "131047",
        "then": "template",
        "tryText": False,
        "passing": True,
        "channelFault": False,
        "at": 7,
        "channel": "mine",
    }
    assert json.loads(write_receipt(full)) == stored
    read = read_receipt(json.dumps(stored).encode())
    assert read == full
    assert told(read.reason) == "131047"
    short = json.loads(write_receipt(MessageReceipt(kind="read", reason="to 549")))
    assert short == {"kind": "read", "reason": "to 549", "tryText": True, "passing": False, "channelFault": True}
    assert told(read_receipt(json.dumps(short)).reason) is None


def test_of_a_receipt_that_is_half_damaged_what_can_be_read_counts():
    stored = {"kind": "read", "messageId": 7, "reference": [], "reason": 7, "then": "carousel", "tryText": "no"}
    read = read_receipt(json.dumps(stored | {"passing": "yes", "channelFault": "no", "at": "soon", "channel": {}}))
    assert read == MessageReceipt(kind="read")
    assert read_receipt('{"kind":"read","at":7.9}').at_ms == 7


def test_the_receipt_that_opened_a_delivery_again_is_there_to_be_read():
    opened = judge(WATCHED, AS_ACCEPTED, receipt("failed", reason="131047"), at(70)).entry
    assert failure_of(opened) == receipt("failed", reason="131047")
    assert failure_of(WATCHED) is None
    assert failure_of(entry()) is None
