"""How a job leaves the queue: the last write about it, word for word."""

from __future__ import annotations

import json

import attrs
import pytest

from videopoll import DeliveryPolicy, OutcomeKind
from videopoll._reasons import own, told
from videopoll.core.delivery import Done, GiveUp, Watch
from videopoll.core.settlement import settle_accepted, settle_delivered, settle_undeliverable, settle_unreadable
from videopoll.jobs import FailureReason, MessageForm, Outcome, VideoJob
from videopoll.jobs.codec import Poison
from videopoll.jobs.outcome import AcceptedMessage, DeadLetter, OutboxEntry
from videopoll.jobs.transition import BeginWatch, Claim, SendWork, Settle
from videopoll.messages import Accepted, Delivered

T0 = 1_757_157_518_747
POLICY = DeliveryPolicy(watch_s=1800.2, deadline_s=3600, retention_s=86400)
JOB = VideoJob("job_1", "conversation-1", T0, {"model": "m"})
RECORD = {
    "jobId": "job_1",
    "conversationId": "conversation-1",
    "startTime": T0,
    "status": "polling",
    "model": "m",
}
VIDEO = Outcome(OutcomeKind.COMPLETED, T0 + 60_000, video_url="https://v/1.mp4", file_id="f1", timestamp="2025")
NO_VIDEO = Outcome(OutcomeKind.FAILED, T0 + 60_000, error="no")
MADE = attrs.evolve(NO_VIDEO, error=own("the file is gone"), undeliverable_url="https://api/1")
NOBODY_ASKED = attrs.evolve(NO_VIDEO, error=None, reason=FailureReason.NOT_CONFIGURED)


def entry(outcome: Outcome = VIDEO, form: str = "video", **changes) -> OutboxEntry:
    return attrs.evolve(OutboxEntry(JOB, outcome, MessageForm(form), T0 + 3_660_000, tries=2), **changes)


CLAIM = Claim("job_1", "token", T0, SendWork(entry()))
TOLD_OF_THE_VIDEO = {
    "success": True,
    "videoUrl": "https://v/1.mp4",
    "fileId": "f1",
    "jobId": "job_1",
    "completedAt": T0 + 60_000,
    "processingTime": 60_000,
    "timestamp": "2025",
    "conversationId": "conversation-1",
    "outcome": "completed",
}


def test_a_delivered_video_is_told_with_its_message():
    settled = settle_delivered(CLAIM, Done(entry(), Delivered("m-1")), T0 + 70_000)

    assert settled.claim is CLAIM
    assert settled.letter is None
    assert json.loads(settled.completed) == TOLD_OF_THE_VIDEO | {
        "delivered": True,
        "deliveredAt": T0 + 70_000,
        "form": "video",
        "sends": 2,
        "messageId": "m-1",
    }


def test_the_form_that_the_channel_names_is_the_one_that_is_told():
    done = Done(entry(), Delivered("m-1", form=MessageForm.TEXT))
    assert json.loads(settle_delivered(CLAIM, done, T0).completed)["form"] == "text"


def test_a_user_who_was_told_that_there_is_none_of_a_video_that_was_made_leaves_a_dead_letter():
    """It was paid for."""
    settled = settle_delivered(CLAIM, Done(entry(MADE, "text"), Delivered()), T0 + 70_000)

    letter = settled.letter
    assert letter.reason == "its user was told that there is no video: the file is gone"
    assert told(letter.reason) == letter.reason
    assert (letter.job_id, letter.at_ms, letter.entry, letter.raw_entry) == ("job_1", T0 + 70_000, None, None)
    assert json.loads(letter.record) == RECORD
    completed = json.loads(settled.completed)
    assert (completed["delivered"], completed["undeliverableUrl"]) == (True, "https://api/1")


def test_so_does_a_job_whose_api_this_worker_cannot_ask():
    letter = settle_delivered(CLAIM, Done(entry(NOBODY_ASKED, "text"), Delivered()), T0).letter
    assert letter.reason == "its user was told that there is no video: the video cannot be delivered"
    assert told(letter.reason) == letter.reason


@pytest.mark.parametrize("reason", set(FailureReason) - {FailureReason.NOT_CONFIGURED})
def test_a_failure_of_which_its_user_was_told_is_no_dead_letter(reason):
    failed = entry(attrs.evolve(NO_VIDEO, reason=reason), "text")
    assert settle_delivered(CLAIM, Done(failed, Delivered()), T0).letter is None


def test_an_accepted_message_is_watched_for_as_long_as_the_policy_says_in_whole_seconds():
    step = settle_accepted(CLAIM, Watch(entry(), Accepted("m-1", channel="mine")), T0 + 70_000, POLICY)

    accepted = AcceptedMessage(at_ms=T0 + 70_000, form=MessageForm.VIDEO, message_id="m-1", channel="mine")
    assert step == BeginWatch(
        CLAIM, entry(accepted=accepted, sending_ms=T0 + 70_000), step.completed, watch_s=1801, keep_s=90_000
    )
    assert step.claim is CLAIM
    assert json.loads(step.completed) == TOLD_OF_THE_VIDEO | {
        "delivered": None,
        "acceptedAt": T0 + 70_000,
        "form": "video",
        "sends": 2,
        "messageId": "m-1",
    }


def test_an_accepted_message_that_is_not_watched_is_told_as_accepted_all_the_same():
    step = settle_accepted(CLAIM, Watch(entry(), Accepted("m-1")), T0, attrs.evolve(POLICY, watch_s=0))

    assert isinstance(step, Settle)
    assert (step.claim, step.letter) == (CLAIM, None)
    completed = json.loads(step.completed)
    assert (completed["delivered"], completed["acceptedAt"]) == (None, T0)


def test_what_becomes_a_dead_letter_is_not_watched():
    step = settle_accepted(CLAIM, Watch(entry(MADE, "text"), Accepted("m-1")), T0 + 5, POLICY)

    assert isinstance(step, Settle)
    assert step.claim is CLAIM
    assert (step.letter.job_id, step.letter.at_ms) == ("job_1", T0 + 5)
    assert json.loads(step.letter.record) == RECORD
    assert json.loads(step.completed)["acceptedAt"] == T0 + 5


def test_what_cannot_be_delivered_is_a_dead_letter_with_all_that_a_redrive_needs():
    given_up = entry(reasons=("blocked",))
    settled = settle_undeliverable(CLAIM, GiveUp(given_up, own("40 sends failed")), T0 + 5)

    assert settled == Settle(
        CLAIM, settled.completed, DeadLetter("job_1", "40 sends failed", T0 + 5, record=None, entry=given_up)
    )
    assert told(settled.letter.reason) == "40 sends failed"
    assert json.loads(settled.completed) == TOLD_OF_THE_VIDEO | {
        "delivered": False,
        "undeliverable": "40 sends failed",
        "sends": 2,
    }


def unreadable(raw: bytes | None, *, is_entry: bool = False) -> Claim:
    return Claim("job_1", "token", T0, Poison("no JSON"), raw, raw_is_entry=is_entry)


@pytest.mark.parametrize(("raw", "kept"), [(None, None), (b"{", "{"), (b"", ""), (b"\xff", "\udcff")])
def test_a_record_that_cannot_be_read_is_kept_as_it_is(raw, kept):
    claim = unreadable(raw)
    assert settle_unreadable(claim, "no JSON", T0) == Settle(
        claim, None, DeadLetter("job_1", "no JSON", T0, record=kept)
    )


@pytest.mark.parametrize(("raw", "kept"), [(b"{", "{"), (b"\xff", "\udcff"), (b"x" * 65_536, "x" * 65_536)])
def test_an_outbox_entry_that_cannot_be_read_is_kept_whole(raw, kept):
    """A redrive goes on with its delivery if it can be read one day."""
    claim = unreadable(raw, is_entry=True)
    assert settle_unreadable(claim, "no JSON", T0) == Settle(
        claim, None, DeadLetter("job_1", "no JSON", T0, raw_entry=kept)
    )


def test_a_huge_entry_is_kept_without_its_huge_fields():
    claim = unreadable(json.dumps({"v": 1, "outcome": "x" * 65_536}).encode(), is_entry=True)
    letter = settle_unreadable(claim, "damaged", T0).letter
    assert letter.record is None
    assert json.loads(letter.raw_entry) == {"v": 1, "outcome": "(left out: 65550 bytes)"}
    nonsense = unreadable(b"x" * 65_537, is_entry=True)
    assert settle_unreadable(nonsense, "no JSON", T0).letter == DeadLetter("job_1", "no JSON", T0)


def test_without_anything_there_is_no_entry_either():
    claim = unreadable(None, is_entry=True)
    assert settle_unreadable(claim, "gone", T0) == Settle(claim, None, DeadLetter("job_1", "gone", T0))
