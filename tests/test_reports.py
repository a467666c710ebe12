"""What a step tells of a job: each event, field by field, and what goes beside it for those who ask for it."""

from __future__ import annotations

import pytest

from kit.stage import NOW_MS, START_MS, Stage
from videopoll import VideoJob, events
from videopoll._reasons import own
from videopoll.core import report
from videopoll.core.delivery import GetLink, Later, Send
from videopoll.core.polling import NextPoll
from videopoll.jobs import Asset, BucketObject, MessageForm, OutboxEntry, Outcome, OutcomeKind
from videopoll.jobs.outcome import AcceptedMessage
from videopoll.jobs.transition import Claim, PollWork
from videopoll.jobs.video import FailureReason
from videopoll.messages import (
    Accepted,
    Delivered,
    Failed,
    Found,
    LookupResult,
    MessageReceipt,
    NotSent,
    ReceiptKind,
    Refused,
    RepeatSafe,
    Unknown,
)
from videopoll.observations import Fault, FaultKind, VideoFailed, VideoMissing, VideoReady, VideoWorking

WITHHELD = "in words of others, which videopoll explain shows"
VIDEO = VideoReady("https://files.example/1.mp4")
JOB = VideoJob("job_1", "c_1", START_MS, metadata={"provider": "runway"})
CLAIM = Claim("job_1", "w:1", NOW_MS - 2000, PollWork(JOB, 2, 0, None), taken_over=True)
READY = Outcome(OutcomeKind.COMPLETED, START_MS + 5000, video_url=VIDEO.video_url)
FAILED = Outcome(OutcomeKind.FAILED, START_MS + 5000, error="prompt of a user", reason=FailureReason.MODERATED)


def entry(outcome=READY, **more):
    return OutboxEntry(job=JOB, outcome=outcome, form=MessageForm.VIDEO, deadline_ms=NOW_MS, tries=4, **more)


@pytest.fixture
def stage():
    """A stage on which nothing was told yet."""
    return Stage()


def told(stage):
    """What was told: the event, and what went beside it."""
    assert len(stage.told) == 1
    return stage.told[0], *stage.texts[0]


def polled(stage, observation, after, *, job=JOB, asked_ms=NOW_MS - 1500):
    work = PollWork(job, 3, 0, None)
    report.report_polled(stage.context, CLAIM, work, observation, asked_ms, 0.75, after)
    return told(stage)


def test_a_claim_and_a_lost_lease_are_told_with_the_worker_and_the_job(stage):
    report.report_claimed(stage.context, CLAIM)
    report.report_lease_lost(stage.context, "job_1")

    assert stage.told == [
        events.JobClaimed(worker_id="w", job_id="job_1", taken_over=True),
        events.LeaseLost(worker_id="w", job_id="job_1"),
    ]


def test_a_poll_is_told_with_its_times_in_seconds_and_what_the_api_said(stage):
    working = VideoWorking("rendering", known=False, progress=0.5, queue_position=3)

    event, text = polled(stage, working, NextPoll(NOW_MS + 8500))

    assert event == events.JobPolled(
        worker_id="w",
        job_id="job_1",
        attempt=3,
        elapsed_s=15.0,
        lag_s=0.5,
        took_s=0.75,
        status="rendering",
        known=False,
        fault=None,
        detail=None,
        next_s=8.5,
        progress=0.5,
        queue_position=3,
        provider="runway",
    )
    assert text == "rendering"


def test_a_fault_of_a_poll_is_told_in_our_words_and_goes_whole_to_who_asks_for_it(stage):
    event, text = polled(stage, Fault(FaultKind.SERVER, own("HTTP 503")), NextPoll(NOW_MS + 1000))

    assert (event.status, event.fault, event.detail, event.known) == ("server", FaultKind.SERVER, "HTTP 503", True)
    assert (event.progress, event.queue_position) == (None, None)
    assert text == "HTTP 503"


def test_the_words_of_others_are_withheld_in_a_poll(stage):
    event, text = polled(stage, Fault(FaultKind.INTERNAL, "a prompt"), NextPoll(NOW_MS))

    assert event.detail == WITHHELD
    assert text == "a prompt"


@pytest.mark.parametrize(
    ("observation", "status"), [(VIDEO, "completed"), (VideoFailed("no"), "failed"), (VideoMissing(), "not_found")]
)
def test_a_last_poll_says_how_it_ended_and_names_no_next_one(stage, observation, status):
    event, text = polled(stage, observation, READY)

    assert (event.status, event.next_s, event.known, event.fault) == (status, None, True, None)
    assert text == status


def test_a_status_word_that_looks_like_none_is_not_shown(stage):
    event, text = polled(stage, VideoWorking("call 555 0100"), NextPoll(NOW_MS))

    assert event.status == "(no plain word)"
    assert text == "call 555 0100"


def test_no_time_of_a_poll_is_below_zero_after_a_clock_has_stepped_back(stage):
    ahead = VideoJob("job_1", "c_1", NOW_MS + 1)

    event, _ = polled(stage, VIDEO, NextPoll(NOW_MS - 1), job=ahead, asked_ms=CLAIM.due_ms - 1)

    assert (event.elapsed_s, event.lag_s, event.next_s) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("metadata", "provider"),
    [
        ({}, None),
        ({"provider": 7}, None),
        ({"provider": "a b"}, "(no plain word)"),
        ({"provider": "veo-3.1"}, "veo-3.1"),
    ],
)
def test_a_poll_names_the_api_of_its_job_where_the_name_is_a_plain_one(stage, metadata, provider):
    event, _ = polled(stage, VIDEO, READY, job=VideoJob("job_1", "c_1", START_MS, metadata=metadata))

    assert event.provider == provider


def test_the_end_of_polling_is_told_with_our_reason_and_the_whole_outcome_goes_beside_it(stage):
    report.report_concluded(stage.context, JOB, FAILED, 7)

    event, text, outcome = told(stage)
    assert event == events.JobConcluded(
        worker_id="w",
        job_id="job_1",
        conversation_id="c_1",
        outcome=OutcomeKind.FAILED,
        elapsed_s=5.0,
        attempts=7,
        error=WITHHELD,
        reason=FailureReason.MODERATED,
    )
    assert (text, outcome) == ("prompt of a user", FAILED)


def test_an_end_of_polling_with_a_video_has_no_reason(stage):
    early = VideoJob("job_1", "c_1", START_MS + 6000)

    report.report_concluded(stage.context, early, READY, 1)

    event, text, outcome = told(stage)
    assert (event.outcome, event.error, event.reason, event.elapsed_s) == (OutcomeKind.COMPLETED, None, None, 0.0)
    assert (text, outcome) == (None, READY)


def linked(stage, answer, action, locked=None):
    report.report_link(stage.context, GetLink(entry(), locked), answer, action, stage.clock.now_s - 0.5)
    return told(stage)


def test_a_link_that_was_renewed_is_told_with_what_it_took(stage):
    event, text = linked(stage, VIDEO, Send(entry()))

    assert event == events.LinkTried(
        worker_id="w",
        job_id="job_1",
        conversation_id="c_1",
        how="renewed",
        result="ok",
        took_s=0.5,
        reason=None,
    )
    assert text is None


def test_a_link_to_what_only_the_key_opens_is_told_as_published(stage):
    event, _ = linked(stage, VIDEO, Send(entry()), locked=Asset(BucketObject("s3://bucket/1.mp4")))

    assert event.how == "published"


def test_a_link_that_will_never_come_is_told_with_why_there_is_no_video(stage):
    event, text = linked(stage, VideoFailed("prompt of a user"), Send(entry(FAILED)))

    assert (event.result, event.reason, text) == ("none", WITHHELD, "prompt of a user")


@pytest.mark.parametrize(
    ("action", "result"), [(Later(entry(), NOW_MS), "later"), (Send(entry()), "kept")], ids=["later", "kept"]
)
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Fault(FaultKind.SERVER, own("HTTP 503")), "HTTP 503"),
        (VideoMissing(), "the answer was VideoMissing"),
    ],
    ids=["fault", "answer"],
)
def test_a_link_that_did_not_come_is_told_with_what_becomes_of_the_message(stage, action, result, answer, reason):
    event, text = linked(stage, answer, action)

    assert (event.result, event.reason, text) == (result, reason, reason)


def sent(stage, result):
    report.report_sent(stage.context, entry(), result, stage.clock.now_s - 0.5)
    return told(stage)


def test_a_send_is_told_with_its_number_its_form_and_its_channel(stage):
    event, text = sent(stage, Delivered("m_1", own("after an upload"), MessageForm.UPLOAD, channel="ultramsg"))

    assert event == events.SendTried(
        worker_id="w",
        job_id="job_1",
        conversation_id="c_1",
        form=MessageForm.UPLOAD,
        attempt=4,
        result="delivered",
        took_s=0.5,
        reason="after an upload",
        channel="ultramsg",
    )
    assert text == "after an upload"


@pytest.mark.parametrize(
    ("result", "word"),
    [
        (Accepted(), "accepted"),
        (Delivered(), "delivered"),
        (NotSent(own("why")), "not_sent"),
        (NotSent(own("why"), waits=True), "waits"),
        (Refused(own("why")), "refused"),
        (Unknown(own("why")), "unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_send_is_told_with_what_came_of_it(stage, result, word):
    event, text = sent(stage, result)

    reason = None if isinstance(result, Delivered) else "why"
    assert (event.result, event.form, event.reason, text) == (word, MessageForm.VIDEO, reason, reason)


def test_what_a_channel_says_beside_its_success_is_not_even_said_to_be_there(stage):
    event, text = sent(stage, Delivered(detail="sent to +1 555 0100"))

    assert event.reason is None
    assert text == "sent to +1 555 0100"


def test_what_a_channel_says_of_a_failure_is_withheld(stage):
    event, text = sent(stage, Refused("no such number: +1 555 0100", channel="not a plain name"))

    assert (event.reason, event.channel) == (WITHHELD, "(no plain word)")
    assert text == "no such number: +1 555 0100"


ASKED = "asked the channel for the message of an earlier send"


@pytest.mark.parametrize(
    ("result", "word", "reason"),
    [
        (LookupResult.ABSENT, "absent", ASKED),
        (LookupResult.NO_ANSWER, "no_answer", ASKED),
        (Found(), "found", ASKED),
        (Failed(own("blocked")), "failed", "blocked"),
        (RepeatSafe(60), "repeat_safe", ASKED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_look_up_is_told_with_the_answer_of_the_channel(stage, result, word, reason):
    event, text = sent(stage, result)

    assert (event.result, event.reason, event.channel, text) == (word, reason, None, reason)


def test_a_message_that_a_receipt_calls_failed_is_told_as_it_was_accepted(stage):
    accepted = AcceptedMessage(at_ms=NOW_MS, form=MessageForm.DOCUMENT, channel="whatsapp")
    receipt = MessageReceipt(kind=ReceiptKind.FAILED, message_id="m_1", reason=own("131053"), channel="other")

    report.report_failed_later(stage.context, entry(accepted=accepted), receipt)

    event, text = told(stage)
    assert event == events.SendTried(
        worker_id="w",
        job_id="job_1",
        conversation_id="c_1",
        form=MessageForm.DOCUMENT,
        attempt=4,
        result="failed",
        took_s=0.0,
        reason="131053",
        channel="whatsapp",
    )
    assert text == "131053"


def test_a_failure_of_a_message_that_was_not_known_to_be_accepted_is_told_as_it_was_sent(stage):
    receipt = MessageReceipt(kind=ReceiptKind.FAILED, message_id="m_1", reason="words of others", channel="other")

    report.report_failed_later(stage.context, entry(), receipt)

    event, text = told(stage)
    assert (event.form, event.channel, event.reason) == (MessageForm.VIDEO, "other", WITHHELD)
    assert text == "words of others"


def test_an_accepted_message_is_told_with_the_form_that_it_went_in(stage):
    receipt = Accepted("m_1", form=MessageForm.TEXT, channel="whatsapp")

    report.report_accepted(stage.context, entry(), receipt, START_MS + 7500)

    assert stage.told == [
        events.JobAccepted(
            worker_id="w",
            job_id="job_1",
            conversation_id="c_1",
            outcome=OutcomeKind.COMPLETED,
            form=MessageForm.TEXT,
            attempts=4,
            after_s=2.5,
            channel="whatsapp",
        )
    ]


def test_a_delivered_message_is_told_and_the_outcome_that_was_sent_goes_beside_it(stage):
    receipt = Delivered("m_1", form=MessageForm.TEXT, channel="telegram")

    report.report_delivered(stage.context, entry(), receipt, START_MS + 7500)

    event, text, outcome = told(stage)
    assert event == events.JobDelivered(
        worker_id="w",
        job_id="job_1",
        conversation_id="c_1",
        outcome=OutcomeKind.COMPLETED,
        form=MessageForm.TEXT,
        attempts=4,
        after_s=2.5,
        channel="telegram",
    )
    assert (text, outcome) == (None, READY)


@pytest.mark.parametrize(
    ("tell", "receipt"), [(report.report_accepted, Accepted()), (report.report_delivered, Delivered())]
)
def test_a_message_went_in_the_form_that_was_asked_for_and_never_before_its_outcome(stage, tell, receipt):
    tell(stage.context, entry(), receipt, START_MS + 4999)

    assert (stage.told[0].form, stage.told[0].after_s, stage.told[0].channel) == (MessageForm.VIDEO, 0.0, None)


def test_a_dead_letter_is_told_with_our_reason(stage):
    report.report_dead_lettered(stage.context, "job_1", own("no record"), None)

    event, text = told(stage)
    assert event == events.JobDeadLettered(worker_id="w", job_id="job_1", reason="no record", outcome=None)
    assert text == "no record"


@pytest.mark.parametrize("reason", ["words of others", ""])
def test_a_dead_letter_without_words_of_ours_says_that_they_are_withheld(stage, reason):
    report.report_dead_lettered(stage.context, "job_1", reason, FAILED)

    event, text = told(stage)
    assert (event.reason, event.outcome) == (WITHHELD, OutcomeKind.FAILED)
    assert text == reason


@pytest.mark.parametrize(("refused", "messages"), [(True, 1), (False, 3)], ids=["refused", "unknown"])
def test_a_channel_that_is_held_back_is_told_with_how_many_messages_led_to_it(stage, refused, messages):
    report.report_held_back(stage.context, "whatsapp", 2.0, refused=refused)

    assert stage.told == [
        events.ChannelHeldBack(worker_id="w", channel="whatsapp", messages=messages, pause_s=2.0, refused=refused)
    ]
