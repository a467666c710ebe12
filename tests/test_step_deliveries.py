"""What a step asks of its runner, writes and tells over a delivery: sends, links, look-ups and receipts."""

from __future__ import annotations

import attrs
import pytest

from kit.stage import APPLIED, ENDING, JOB, KEEP_S, MADE, NOW_MS, START_MS, VIDEO, Stage, entry, sending
from videopoll import DeliveryPolicy, OnUnknown, PollingStrategy, events
from videopoll._reasons import own
from videopoll.core.accounts import Accounts
from videopoll.core.effects import Commit, LookUpMessage, PollApi, PublishVideo, SendMessage
from videopoll.core.receipts import write_receipt
from videopoll.jobs import Asset, BucketObject, MessageForm, Outcome, OutcomeKind
from videopoll.jobs.codec import Poison
from videopoll.jobs.outcome import AcceptedMessage
from videopoll.jobs.transition import (
    Abandoned,
    BeginSend,
    BeginWatch,
    Conclude,
    MissingRecord,
    Redeliver,
    SendWork,
    Settle,
    TransitionResult,
)
from videopoll.jobs.video import FailureReason
from videopoll.messages import (
    Accepted,
    Delivered,
    Found,
    LookupResult,
    Message,
    MessageReceipt,
    NotSent,
    ReceiptKind,
    Refused,
    Unknown,
)
from videopoll.observations import Fault, FaultKind, NotAsked, VideoReady
from videopoll.texts import ENGLISH, SPANISH_AND_ENGLISH, Texts

LOCKED = Asset(BucketObject("s3://bucket/1.mp4"))
TO_PUBLISH = Outcome(OutcomeKind.COMPLETED, START_MS, assets=(LOCKED,))


def under_way(**more):
    """An entry whose send is of unknown fate."""
    return entry(**{"tries": 1, "sending_ms": NOW_MS - 60_000, **more})


# --- sends ---


def test_a_send_is_noted_before_it_begins():
    stage = Stage(entry=entry(tries=2))

    noted = entry(tries=3, sending_ms=NOW_MS, begun_ms=NOW_MS)
    assert stage.effect == Commit(BeginSend(stage.claim, noted, KEEP_S, 12_000))
    assert stage.next(APPLIED) == SendMessage(
        Message(
            job=JOB,
            outcome=MADE,
            form=MessageForm.VIDEO,
            reference=JOB.reference,
            attempt=3,
            texts=SPANISH_AND_ENGLISH,
        )
    )
    assert stage.passed == [("after_claim", "job_1"), ("before_send", "job_1")]


def test_a_message_goes_without_its_quote_and_with_what_its_channel_prepared_for_it():
    prepared = {"media": "42"}
    stage = sending(Stage(entry=entry(unquoted=True, prepared=prepared, form=MessageForm.UPLOAD)))

    message = stage.effect.message

    assert (message.unquoted, message.prepared, message.form) == (True, prepared, MessageForm.UPLOAD)


def test_a_message_speaks_in_the_hosts_texts():
    texts = Texts({"en": ENGLISH}, default="en")

    assert sending(Stage(entry=entry(), context={"texts": texts})).effect.message.texts is texts


def test_a_delivered_message_is_settled_and_told_of():
    stage = sending(Stage(entry=entry()))
    stage.next(Delivered("m_1"), after_s=1.5)
    assert stage.passed[-2:] == [("after_send", "job_1"), ("before_settle", "job_1")]
    sent = stage.told[-1]
    assert isinstance(sent, events.SendTried)
    assert (sent.result, sent.took_s, sent.attempt) == ("delivered", 1.5, 1)
    assert isinstance(stage.written, Settle)
    assert stage.effect.wait
    assert stage.written.claim is stage.claim
    assert f'"deliveredAt":{NOW_MS + 1500}' in stage.written.completed.replace(" ", "")
    assert stage.step.pending_write

    assert stage.next(APPLIED) is None
    assert stage.passed[-1] == ("after_settle", "job_1")
    assert isinstance(stage.told[-1], events.JobDelivered)
    assert stage.told[-1].after_s == 11.5
    assert stage.step.finished


@pytest.mark.parametrize("receipt", [Delivered(), Accepted()])
def test_a_message_whose_end_was_not_written_is_not_told_of(receipt):
    stage = sending(Stage(entry=entry()))
    stage.next(receipt)

    assert stage.next(TransitionResult.LOST) is None
    assert [type(event) for event in stage.told] == [events.SendTried, events.LeaseLost]
    assert stage.passed[-1] == ("after_settle", "job_1")


def test_an_accepted_message_is_watched_and_told_of():
    stage = sending(Stage(entry=entry()))
    stage.next(Accepted("m_1", channel="whatsapp"), after_s=1)
    assert isinstance(stage.written, BeginWatch)
    assert (stage.written.claim, stage.written.watch_s, stage.written.keep_s) == (stage.claim, 3600, KEEP_S)
    assert stage.written.entry.accepted == AcceptedMessage(
        at_ms=NOW_MS + 1000, form=MessageForm.VIDEO, message_id="m_1", channel="whatsapp"
    )
    assert stage.passed[-1] == ("before_settle", "job_1")
    assert stage.step.release() == stage.written

    assert stage.next(APPLIED) is None
    assert stage.passed[-1] == ("after_settle", "job_1")
    assert isinstance(stage.told[-1], events.JobAccepted)
    assert (stage.told[-1].after_s, stage.told[-1].channel) == (11.0, "whatsapp")


NOT_CONFIGURED = Outcome(OutcomeKind.FAILED, START_MS, error=own("no key"), reason=FailureReason.NOT_CONFIGURED)


@pytest.mark.parametrize(
    ("receipt", "first"),
    [(Delivered(), events.JobDelivered), (Accepted(), events.JobAccepted)],
    ids=["done", "watched"],
)
def test_a_user_who_was_told_of_no_video_that_can_be_asked_for_again_leaves_a_dead_letter(receipt, first):
    stage = sending(Stage(entry=entry(NOT_CONFIGURED, form=MessageForm.TEXT)))

    stage.next(receipt)
    assert isinstance(stage.written, Settle)
    assert stage.next(APPLIED) is None

    assert isinstance(stage.told[-2], first)
    assert stage.told[-1] == events.JobDeadLettered(
        worker_id="w",
        job_id="job_1",
        reason="its user was told that there is no video: no key",
        outcome=OutcomeKind.FAILED,
    )


def test_a_send_that_failed_is_tried_again_after_a_pause_that_chance_spreads():
    stage = sending(Stage(entry=entry()))

    stage.next(NotSent(own("offline")))

    failed = entry(tries=1, form_failures=1, reasons=(own("offline"),))
    # 2 s, 10 % less to 10 % more: a quarter of the way from the one to the other.
    assert stage.effect == Commit(Redeliver(stage.claim, failed, KEEP_S, NOW_MS + 1900))
    assert stage.next(APPLIED) is None
    assert stage.step.entry == failed


def test_a_delivery_that_was_given_up_is_a_dead_letter_once_that_is_written():
    stage = sending(Stage(entry=entry(form=MessageForm.TEXT)))

    stage.next(Refused(own("blocked")))
    assert isinstance(stage.written, Settle)
    assert stage.written.letter.at_ms == NOW_MS
    assert [type(event) for event in stage.told] == [events.SendTried]
    assert stage.next(APPLIED) is None

    assert stage.told[-1] == events.JobDeadLettered(
        worker_id="w", job_id="job_1", reason="refused by the channel: blocked", outcome=OutcomeKind.COMPLETED
    )


def test_a_dead_letter_that_was_not_written_is_not_told_of():
    stage = sending(Stage(entry=entry(form=MessageForm.TEXT)))
    stage.next(Refused(own("blocked")))

    assert stage.next(TransitionResult.FINISHED_ELSEWHERE) is None
    assert [type(event) for event in stage.told] == [events.SendTried]


def test_a_send_whose_note_was_not_written_does_not_begin():
    stage = Stage(entry=entry())

    assert stage.next(TransitionResult.LOST) is None
    assert stage.told == [events.LeaseLost(worker_id="w", job_id="job_1")]


@pytest.mark.parametrize(("after_s", "noted_again"), [(5.99, False), (6.0, True)])
def test_a_send_begins_with_more_than_half_a_lease_left(after_s, noted_again):
    stage = Stage(entry=entry())
    first = stage.written

    stage.next(APPLIED, after_s=after_s)

    assert isinstance(stage.effect, Commit) is noted_again
    if noted_again:
        assert stage.written == first
        assert isinstance(stage.next(APPLIED), SendMessage)


# --- accounts ---


class Channel:
    """Stands for an account of a channel that other messages have met before."""

    def __init__(self, **more):
        self.stage = Stage(entry=entry(), **more)
        sending(self.stage)
        self.permit = self.stage.effect.message._permit
        self.permit.goes_over("whatsapp", "token")


def test_an_account_that_refuses_its_credentials_is_held_back_at_once():
    channel = Channel()

    channel.stage.next(NotSent(own("HTTP 401"), account_fault=True))

    assert channel.stage.told[-1] == events.ChannelHeldBack(
        worker_id="w", channel="whatsapp", messages=1, pause_s=2.0, refused=True
    )
    assert channel.stage.context.accounts.held() == [("whatsapp", True)]


def test_an_account_is_held_back_after_three_messages_of_unknown_fate():
    channel = Channel()
    accounts = channel.stage.context.accounts
    for other in ("a", "b"):
        accounts.note(channel.permit.account, "whatsapp", other, Unknown("?"))

    channel.stage.next(Unknown(own("no reply")))

    assert channel.stage.told[-1] == events.ChannelHeldBack(
        worker_id="w", channel="whatsapp", messages=3, pause_s=2.0, refused=False
    )


def test_a_message_of_a_channel_that_stands_alone_waits_while_its_account_is_held_back():
    stage = Stage(entry=entry())
    stage.context.accounts.note("", None, "another", NotSent("401", account_fault=True))

    stage.next(APPLIED)

    assert isinstance(stage.written, Redeliver)
    assert (stage.written.entry.tries, stage.written.entry.sending_ms) == (0, None)
    assert stage.told[-1].result == "waits"
    assert stage.passed[-1] == ("after_send", "job_1")


def test_a_message_that_finds_its_account_still_refused_doubles_the_pause():
    stage = Stage(entry=entry())
    stage.context.accounts.note("", None, "another", NotSent("401", account_fault=True))
    stage.clock.now_s += 2

    sending(stage)
    stage.next(NotSent(own("HTTP 401"), account_fault=True))

    assert stage.context.accounts.held_s("", "a third one") == 4.0


def one_place():
    """A worker with one place for sends, and the permit of a send that is about to take it."""
    stage = Stage(entry=entry())
    stage.context.accounts = Accounts(stage.context.clock.monotonic_s, 2.0, places=1)
    sending(stage)
    permit = stage.effect.message._permit
    return stage, permit


def test_a_place_among_those_of_an_account_is_free_when_its_send_has_come_back():
    stage, permit = one_place()
    permit.goes_over("whatsapp")
    assert permit.held_back() is None

    stage.next(Delivered())

    assert stage.context.accounts.enter(permit.account) == 0


def test_a_message_without_a_place_waits_for_its_turn_and_nobody_is_told_of_a_send():
    stage, permit = one_place()
    permit.goes_over("whatsapp")
    for _ in range(50):
        stage.context.accounts.enter(permit.account)
    receipt = permit.held_back()
    assert receipt is not None

    stage.next(receipt)

    unsent = attrs.evolve(entry(), tries=0)
    assert stage.written == Redeliver(stage.claim, unsent, KEEP_S, NOW_MS + round(permit.turn_s * 1000))
    assert stage.told == []


# --- links ---


def test_a_link_that_ends_is_asked_for_again_before_the_send():
    stage = Stage(entry=entry(ENDING))
    assert stage.effect == PollApi(JOB, 15.0)

    stage.next(VideoReady("https://files.example/2.mp4"), after_s=0.5)

    assert stage.passed[-1] == ("after_link", "job_1")
    assert stage.told[-1].result == "ok"
    assert stage.told[-1].took_s == 0.5
    assert isinstance(stage.written, BeginSend)
    assert stage.written.entry.outcome.video_url == "https://files.example/2.mp4"


def test_a_link_is_asked_for_in_the_time_that_the_jobs_own_strategy_gives():
    quick = PollingStrategy(request_timeout_s=7)
    stage = Stage(entry=entry(ENDING), context={"strategy_of": lambda job: quick if job == JOB else None})

    assert stage.effect == PollApi(JOB, 7.0)


def test_what_only_the_key_opens_is_published_within_the_policys_bounds():
    policy = DeliveryPolicy(publish_timeout_s=33, max_video_bytes=4444)
    stage = Stage(entry=entry(TO_PUBLISH), context={"delivery": policy})

    assert stage.effect == PublishVideo(JOB, LOCKED, 33, 4444)

    stage.next(VIDEO)

    assert stage.told[-1].how == "published"


def test_a_link_that_does_not_come_is_tried_again_after_a_pause_that_chance_spreads():
    stage = Stage(entry=entry(ENDING))

    stage.next(Fault(FaultKind.SERVER, own("HTTP 503")))

    assert stage.written.due_ms == NOW_MS + 1900
    assert stage.written.entry.lookups == 1
    assert stage.paused == []


def test_a_link_whose_account_is_left_alone_pauses_nothing():
    stage = Stage(entry=entry(ENDING))

    stage.next(NotAsked(7))

    assert stage.paused == []
    assert stage.written == Redeliver(stage.claim, entry(ENDING), KEEP_S, NOW_MS + 7000)


def test_a_429_over_a_link_pauses_the_longer_the_more_often_it_was_tried():
    stage = Stage(entry=entry(ENDING, lookups=1))

    stage.next(Fault(FaultKind.THROTTLED, own("HTTP 429")))

    assert stage.paused == [10.0]


# --- look-ups ---


def test_a_send_of_unknown_fate_is_looked_up_by_its_reference():
    stage = Stage(entry=under_way())

    assert stage.effect == LookUpMessage(
        Message(
            job=JOB,
            outcome=MADE,
            form=MessageForm.VIDEO,
            reference=JOB.reference,
            attempt=1,
            texts=SPANISH_AND_ENGLISH,
        )
    )


def test_a_message_that_was_redriven_is_looked_up_as_a_first_one():
    assert Stage(entry=under_way(tries=0)).effect.message.attempt == 1


def test_a_message_that_was_found_is_settled_and_its_account_believed():
    stage = Stage(entry=under_way())
    permit = stage.effect.message._permit
    permit.goes_over("whatsapp")

    stage.next(Found("m_1"), after_s=0.5)

    assert isinstance(stage.written, Settle)
    assert (stage.told[-1].result, stage.told[-1].took_s) == ("found", 0.5)
    assert stage.context.accounts.shows(permit.account)


@pytest.mark.parametrize(("shows", "sent_again"), [(True, True), (False, False)])
def test_a_channel_that_has_shown_a_message_before_is_believed_more_often(shows, sent_again):
    stage = Stage(entry=under_way(unknowns=2, tries=3, sending_ms=NOW_MS - 600_000))
    if shows:
        stage.context.accounts.note("", None, "another", Found())

    stage.next(LookupResult.ABSENT)

    assert isinstance(stage.written, BeginSend) is sent_again


def test_an_answer_that_is_none_is_noted_and_asked_for_again():
    stage = Stage(entry=under_way())

    stage.next("a NoneType")

    assert stage.told[-1].result == "no_answer"
    assert isinstance(stage.written, Redeliver)
    assert stage.written.entry.reasons == ("the notifier's look_up gave a NoneType, which is no LookupResult",)
    assert stage.written.due_ms == NOW_MS + 1900


def test_a_look_up_that_took_long_says_what_was_so_when_it_was_asked():
    """It was asked 9 s after the send, and answered 2 s later: a message has 10 s to show up."""
    stage = Stage(entry=under_way(sending_ms=NOW_MS - 9000))

    stage.next(LookupResult.ABSENT, after_s=2)

    assert isinstance(stage.written, Redeliver)
    assert stage.written.due_ms == NOW_MS + 2000 + 1000


def test_a_look_up_over_which_the_clock_stepped_back_says_what_was_so_when_it_was_answered():
    stage = Stage(entry=under_way(sending_ms=NOW_MS - 13_000))
    stage.context.clock.set(NOW_MS - 3000)

    stage.next(LookupResult.ABSENT)

    assert isinstance(stage.written, BeginSend)


# --- deliveries that go on ---


FAILURE = MessageReceipt(kind=ReceiptKind.FAILED, message_id="m_1", reason=own("131053"))


def accepted(**more):
    return AcceptedMessage(at_ms=NOW_MS - 1000, form=MessageForm.VIDEO, message_id="m_1", **more)


def test_a_message_that_failed_by_its_receipt_goes_out_as_a_text():
    stage = Stage(entry=entry(tries=1, accepted=accepted(receipt=write_receipt(FAILURE))))

    assert [event.result for event in stage.told] == ["failed"]
    assert isinstance(stage.written, BeginSend)
    assert (stage.written.entry.form, stage.written.entry.tries) == (MessageForm.TEXT, 2)


def test_a_receipt_that_came_before_its_send_was_noted_spares_the_channel_a_question():
    stage = Stage(work=SendWork(under_way(), FAILURE))
    assert [event.result for event in stage.told] == ["failed"]
    assert isinstance(stage.written, BeginSend)

    delivered = Stage(work=SendWork(under_way(), attrs.evolve(FAILURE, kind=ReceiptKind.DELIVERED)))
    assert delivered.told == []
    assert isinstance(delivered.written, Settle)


def test_a_passing_failure_by_a_receipt_is_tried_again_after_a_pause_that_chance_spreads():
    stage = Stage(work=SendWork(under_way(), attrs.evolve(FAILURE, passing=True)))

    assert stage.written.due_ms == NOW_MS + 1900


def test_a_message_that_was_accepted_and_has_no_receipt_is_watched_on():
    stage = Stage(entry=entry(tries=1, accepted=accepted()))

    assert isinstance(stage.written, BeginWatch)
    assert stage.told == []


def test_a_send_in_the_hands_of_a_worker_that_died_has_its_time_to_show_up_from_now_on():
    stage = Stage(entry=under_way(), taken_over=True)

    stage.next(LookupResult.ABSENT)

    assert isinstance(stage.written, Redeliver)
    assert stage.written.entry.sending_ms == NOW_MS
    assert stage.written.entry.reasons == ("a worker died around this send",)


def test_a_job_that_another_kind_of_worker_left_behind_is_delivered():
    stage = Stage(work=Abandoned(JOB, MADE))
    assert isinstance(stage.written, Conclude)
    assert (stage.written.entry.unknowns, stage.written.entry.deadline_ms) == (1, NOW_MS + 3_600_000)

    assert isinstance(stage.next(APPLIED), SendMessage)
    assert stage.told == []
    assert Stage(work=Abandoned(JOB, MADE)).next(TransitionResult.CONTENDED) is None


def test_a_job_that_another_kind_of_worker_left_behind_is_given_up_where_the_policy_says_so():
    stage = Stage(work=Abandoned(JOB, MADE), context={"delivery": DeliveryPolicy(on_unknown=OnUnknown.AT_MOST_ONCE)})

    assert isinstance(stage.written, Settle)
    assert stage.next(APPLIED) is None
    assert [type(event) for event in stage.told] == [events.JobDeadLettered]
    assert stage.told[0].outcome is OutcomeKind.COMPLETED


# --- what is not a job ---


def test_what_cannot_be_read_is_a_dead_letter_once_that_is_written():
    stage = Stage(work=Poison("no JSON"))
    assert isinstance(stage.written, Settle)
    assert (stage.written.claim, stage.written.letter.reason, stage.written.letter.at_ms) == (
        stage.claim,
        "no JSON",
        NOW_MS,
    )
    assert stage.told == []

    assert stage.next(APPLIED) is None
    assert stage.told == [events.JobDeadLettered(worker_id="w", job_id="job_1", reason="no JSON")]
    lost = Stage(work=Poison("no JSON"))
    assert lost.next(TransitionResult.FINISHED_ELSEWHERE) is None
    assert lost.told == []


def test_an_id_whose_job_has_ended_is_cleaned_up_and_nobody_waits_for_it():
    stage = Stage(work=MissingRecord(finished=True))

    assert stage.effect == Commit(Settle(stage.claim), wait=False)
    assert stage.next(None) is None
    assert stage.told == []


def test_an_id_without_a_record_is_a_dead_letter_that_says_what_may_have_happened():
    stage = Stage(work=MissingRecord(finished=False))
    stage.next(APPLIED)

    why = "no record: it expired before its poll, or there never was a job with this id"
    assert stage.told == [events.JobDeadLettered(worker_id="w", job_id="job_1", reason=why)]
