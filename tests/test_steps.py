"""What a worker does with one claimed job, effect by effect: the order in which things are written and sent."""

from __future__ import annotations

import pytest

from kit.stage import START_MS, Stage
from videopoll import DeliveryPolicy, PollingStrategy, VideoJob, events
from videopoll.core.effects import Commit, LookUpMessage, PollApi, SendMessage
from videopoll.core.step import JobStep
from videopoll.jobs import Asset, MessageForm, OutboxEntry, Outcome, OutcomeKind, PublicLink
from videopoll.jobs.transition import (
    BeginSend,
    Conclude,
    Redeliver,
    Release,
    Reschedule,
    Settle,
    TransitionResult,
)
from videopoll.messages import Delivered, LookupResult, NotSent, Refused
from videopoll.observations import Fault, FaultKind, VideoMissing, VideoReady, VideoWorking

VIDEO = VideoReady("https://files.example/1.mp4")


@pytest.fixture
def stage():
    return Stage()


def test_a_poll_that_finds_no_video_ends_with_a_reschedule_that_nobody_waits_for(stage):
    assert isinstance(stage.effect, PollApi)

    stage.next(VideoWorking())

    assert isinstance(stage.written, Reschedule)
    assert not stage.effect.wait
    assert stage.next(None) is None


def test_an_answer_proves_what_was_so_when_it_was_asked_for(stage):
    """The poll begins at the end of the grace, the look-up a moment after the send; both take 60 s."""
    stage.context.strategy = PollingStrategy(not_found_grace_s=16)
    stage.clock.now_s += 60
    assert isinstance(stage.next(VideoMissing()), Commit)
    assert isinstance(stage.written, Reschedule)

    noted = OutboxEntry(
        job=stage.step.claim.work.job,
        outcome=Outcome(OutcomeKind.COMPLETED, START_MS, video_url=VIDEO.video_url),
        form=MessageForm.VIDEO,
        deadline_ms=START_MS + 3_600_000,
        tries=1,
        sending_ms=START_MS + 14_000,
    )
    asking = Stage(entry=noted)
    assert isinstance(asking.effect, LookUpMessage)
    asking.clock.now_s += 60
    assert isinstance(asking.next(LookupResult.ABSENT), Commit)
    assert isinstance(asking.written, Redeliver)
    assert asking.written.entry.sending_ms == noted.sending_ms


def test_a_429_over_a_link_pauses_the_polls_of_all_jobs():
    """The account is the same, whatever a poll of it is for."""
    ended = Outcome(OutcomeKind.COMPLETED, START_MS, assets=(Asset(PublicLink(VIDEO.video_url, 1)),), refreshable=True)
    waiting = OutboxEntry(
        job=VideoJob("job_1", "c", START_MS), outcome=ended, form=MessageForm.VIDEO, deadline_ms=START_MS + 3_600_000
    )
    stage, paused = Stage(entry=waiting), []
    stage.context.pause_polling = paused.append
    assert isinstance(stage.effect, PollApi)

    stage.next(Fault(FaultKind.THROTTLED, "HTTP 429", retry_after_s=7))

    assert paused == [7]
    assert isinstance(stage.written, Redeliver)
    assert (stage.written.entry.tries, stage.written.entry.sending_ms) == (0, None)


@pytest.mark.parametrize("raises", [False, True], ids=["comes back", "is raised"])
def test_a_last_poll_that_ends_after_the_end_of_polling_is_the_last_of_all(stage, raises):
    """Also when it is the step itself that fails after it."""
    stage.context.strategy = PollingStrategy(timeout_s=15, initial_delay_s=1, not_found_grace_s=1)
    stage.clock.now_s += 25.001
    if raises:
        stage.effect = stage.effects.throw(ValueError("a mistake"))
    else:
        stage.next(Fault(FaultKind.TIMEOUT, "no answer"))

    assert isinstance(stage.written, Conclude)
    assert stage.written.entry.outcome.kind is OutcomeKind.TIMED_OUT


def test_the_outcome_and_the_start_of_its_send_are_noted_in_one_write(stage):
    """One round trip lies between the API's answer and the send."""
    stage.next(VIDEO)
    concluded = stage.written
    assert isinstance(concluded, Conclude)
    assert (concluded.entry.tries, concluded.entry.form) == (1, MessageForm.VIDEO)
    assert concluded.entry.sending_ms is not None
    assert concluded.lease_ms == 12_000

    assert isinstance(stage.next(TransitionResult.APPLIED), SendMessage)
    assert isinstance(stage.told[-1], events.JobConcluded)
    assert isinstance(stage.next(Delivered()), Commit)
    assert isinstance(stage.written, Settle)
    assert stage.next(TransitionResult.APPLIED) is None
    assert isinstance(stage.told[-1], events.JobDelivered)


def test_without_a_place_for_a_send_the_outbox_keeps_the_outcome():
    """Nothing is noted as sent that is not."""
    stage = Stage(places=0)
    stage.next(VIDEO)
    assert isinstance(stage.written, Conclude)
    assert (stage.written.entry.tries, stage.written.entry.sending_ms) == (0, None)

    stage.next(TransitionResult.APPLIED)

    assert isinstance(stage.written, Redeliver)
    assert stage.written.entry.sending_ms is None


@pytest.mark.parametrize(
    "verdict", [TransitionResult.LOST, TransitionResult.CONTENDED, TransitionResult.FINISHED_ELSEWHERE]
)
def test_an_outcome_that_could_not_be_stored_is_not_sent(stage, verdict):
    stage.next(VIDEO)

    assert stage.next(verdict) is None


def test_a_send_is_confirmed_again_if_the_worker_stood_still_after_its_note(stage):
    """It was frozen between the note and the send: by now the lease may be somebody else's."""
    stage.next(VIDEO)
    stage.clock.now_s += 1000

    assert isinstance(stage.next(TransitionResult.APPLIED), Commit)
    assert isinstance(stage.written, BeginSend)
    assert isinstance(stage.next(TransitionResult.APPLIED), SendMessage)


def test_the_next_send_of_a_delivery_is_noted_on_its_own(stage):
    """Only the first one shares the write that ends the polling."""
    stage.context.delivery = DeliveryPolicy(video_attempts=1)
    stage.next(VIDEO)
    stage.next(TransitionResult.APPLIED)

    stage.next(NotSent("no"))

    assert isinstance(stage.written, BeginSend)
    assert (stage.written.entry.tries, stage.written.entry.form) == (2, MessageForm.TEXT)


def test_a_poll_that_is_released_is_given_back(stage):
    assert stage.step.release() == Release(stage.step.claim)


def test_a_job_that_is_released_before_it_is_begun_is_not_begun(stage):
    """It waited for a thread when the worker stopped: it has been given back, and somebody else may be asking by now."""
    waiting = JobStep(stage.context, stage.step.claim)
    waiting.release()

    assert list(waiting.steps()) == []


def test_an_outcome_that_is_being_stored_when_the_worker_stops_counts_as_not_sent(stage):
    """The next worker sends it at once, and need not ask the channel about it."""
    stage.next(VIDEO)

    written = stage.step.release()

    assert isinstance(written, Redeliver)
    assert (written.entry.tries, written.entry.sending_ms) == (0, None)
    assert written.entry.outcome == stage.written.entry.outcome


def test_a_worker_that_let_go_while_the_outcome_was_stored_does_not_send_it(stage):
    """Under threads the step goes on; by now the delivery may be in other hands, and nothing tells of a send."""
    stage.next(VIDEO)
    assert isinstance(stage.written, Conclude)
    written = stage.step.release(sends_go_on_s=30)
    assert written.entry.sending_ms is None

    assert stage.next(TransitionResult.APPLIED) is None


def test_a_worker_that_lets_go_after_the_note_of_a_send_hands_that_on(stage):
    """Either the send is told of, or it does not begin."""
    stage.next(VIDEO)
    assert isinstance(stage.next(TransitionResult.APPLIED), SendMessage)
    written = stage.step.release(sends_go_on_s=30)

    assert written.entry.sending_ms == pytest.approx(stage.context.clock.now_ms() + 30_000, abs=1000)
    # The send comes back with a failure that would be tried again at once, as a text.
    left = stage.next(Refused("no video"))
    while left is not None:
        assert not isinstance(left, SendMessage)
        left = stage.next(TransitionResult.APPLIED)


def test_a_send_that_is_under_way_when_the_worker_stops_counts_as_unknown(stage):
    stage.next(VIDEO)
    stage.next(TransitionResult.APPLIED)

    written = stage.step.release(sends_go_on_s=30)

    assert isinstance(written, Redeliver)
    assert written.entry.sending_ms >= stage.context.clock.now_ms() + 29_000


def test_a_message_that_was_delivered_is_settled_also_by_a_worker_that_stops(stage):
    stage.next(VIDEO)
    stage.next(TransitionResult.APPLIED)
    stage.next(Delivered())

    assert stage.step.release() == stage.written
