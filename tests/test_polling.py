"""What is carried from poll to poll, and what holds at the very millisecond: beside the examples of test_decide.py."""

from __future__ import annotations

import attrs
import pytest

from videopoll.core.polling import Ask, NextPoll, after_not_asked, before_poll, decide, pause_after, widest
from videopoll.jobs import Outcome, OutcomeKind, VideoJob
from videopoll.jobs.transition import PollWork
from videopoll.jobs.video import Asset, FailureReason, PublicLink
from videopoll.observations import Fault, FaultKind, VideoFailed, VideoMissing, VideoReady, VideoWorking
from videopoll.policies import PollingStrategy

T0 = 1_757_157_518_000
JOB = VideoJob("job_1", "conversation-1", T0)
SPEC = PollingStrategy(jitter=0)
FAULT = Fault(FaultKind.SERVER, "HTTP 503")
THROTTLED = Fault(FaultKind.THROTTLED, "HTTP 429")
ODD = VideoWorking(error="a word that nobody knows, beside an error")


def at(seconds):
    return T0 + round(seconds * 1000)


def work(**changes):
    return attrs.evolve(PollWork(JOB, 1, 0, None), **changes)


# --- what an outcome takes over from its observation ---


def test_a_finished_video_keeps_all_that_its_api_told():
    link = Asset(PublicLink("https://v/1.mp4", lives_s=60))
    ready = VideoReady(assets=(link,), file_id="f", timestamp="t", refreshable=True)
    outcome = decide(work(), at(5), ready, at(6), SPEC)
    assert (outcome.kind, outcome.at_ms) == (OutcomeKind.COMPLETED, at(6))
    assert (outcome.video_url, outcome.file_id, outcome.timestamp) == ("https://v/1.mp4", "f", "t")
    assert outcome.refreshable
    # How long it lives is counted from the answer.
    assert outcome.assets[0].place.ends_ms == at(66)


def test_a_failure_keeps_its_reason_and_the_link_that_cannot_be_delivered():
    failed = VideoFailed("no", "https://v/locked", reason=FailureReason.MODERATED)
    assert decide(work(), at(5), failed, at(6), SPEC) == Outcome(
        OutcomeKind.FAILED,
        at(6),
        error="no",
        undeliverable_url="https://v/locked",
        reason=FailureReason.MODERATED,
    )


# --- an answer that is believed when it is given twice ---


def test_a_doubt_lives_on_over_faults_and_ends_the_job_an_interval_after_it_began():
    first = decide(work(), at(5), ODD, at(5), SPEC)
    assert (first.due_ms, first.doubt_ms) == (at(15), at(5))
    over_a_fault = decide(work(doubt_ms=first.doubt_ms), at(15), FAULT, at(15), SPEC)
    assert over_a_fault.doubt_ms == at(5)
    early = decide(work(doubt_ms=at(5)), at(14), ODD, at(14.999), SPEC)
    assert (early.doubt_ms, early.due_ms) == (at(5), at(15))
    ended = decide(work(doubt_ms=at(5)), at(15), ODD, at(15), SPEC)
    assert ended == Outcome(OutcomeKind.FAILED, at(15), error=ODD.error)


def test_a_doubt_is_dropped_by_an_answer_in_plain_words():
    assert decide(work(doubt_ms=at(5)), at(15), VideoWorking(), at(15), SPEC).doubt_ms is None


def test_at_the_deadline_a_doubt_ends_the_job_as_it_says():
    assert decide(work(), at(290), ODD, at(299.999), SPEC).due_ms == at(300)
    assert decide(work(), at(290), ODD, at(300), SPEC).kind is OutcomeKind.FAILED


def test_that_a_job_is_missing_lives_on_over_faults():
    known = work(last_answer_ms=at(40), known=True)
    first = decide(known, at(50), VideoMissing(), at(50), SPEC)
    assert (first.missing_ms, first.due_ms) == (at(50), at(60))
    assert decide(attrs.evolve(known, missing_ms=at(50)), at(60), FAULT, at(60), SPEC).missing_ms == at(50)
    again = attrs.evolve(known, missing_ms=at(50))
    # Asked before an interval was over, it may be the same moment of the API: the first one is kept.
    early = decide(again, at(51), VideoMissing(), at(59.999), SPEC)
    assert (early.missing_ms, early.due_ms) == (at(50), at(61))
    assert decide(again, at(60), VideoMissing(), at(60), SPEC).kind is OutcomeKind.NOT_FOUND
    assert decide(again, at(60), VideoMissing(), at(60), SPEC, took_ms=1) == NextPoll(
        at(70), last_answer_ms=at(60), missing_ms=at(50)
    )


def test_a_job_that_its_api_has_known_is_not_given_up_at_the_first_not_found():
    grace_over = at(15)
    assert decide(work(), grace_over, VideoMissing(), grace_over, SPEC).kind is OutcomeKind.NOT_FOUND
    known = work(last_answer_ms=at(5), known=True)
    assert decide(known, grace_over, VideoMissing(), grace_over, SPEC).missing_ms == grace_over
    # Missing once, and then a fault: it was asked about again before an interval was over.
    once = work(missing_ms=grace_over)
    assert isinstance(decide(once, grace_over, VideoMissing(), grace_over + 1, SPEC), NextPoll)


# --- the end ---


@pytest.mark.parametrize(
    ("timeout_s", "told"),
    [(300, "5 minutes"), (60, "1 minute"), (90, "1.5 minutes"), (59, "59 seconds"), (1, "1 second")],
)
def test_a_timeout_says_how_long_it_was(timeout_s, told):
    strategy = PollingStrategy(timeout_s=timeout_s, interval_s=0.5, initial_delay_s=0.1)
    ended = before_poll(work(), at(timeout_s), strategy, slot=False)
    assert ended == Outcome(
        OutcomeKind.TIMED_OUT, at(timeout_s), error=f"Video generation timeout: Process exceeded {told}"
    )


def test_an_answer_of_this_very_moment_is_young():
    assert before_poll(work(last_answer_ms=at(300)), at(300), SPEC) == Outcome(
        OutcomeKind.TIMED_OUT, at(300), error="Video generation timeout: Process exceeded 5 minutes"
    )
    # One from the future is from before the clock stepped back.
    assert isinstance(before_poll(work(last_answer_ms=at(300) + 1), at(300), SPEC), Ask)


def test_a_poll_that_nobody_could_make_in_time_times_out_when_it_is_looked_at():
    assert before_poll(work(), at(400), SPEC, due_ms=at(301)) == Outcome(
        OutcomeKind.TIMED_OUT, at(400), error="Video generation timeout: Process exceeded 5 minutes"
    )
    assert isinstance(before_poll(work(), at(400), SPEC, due_ms=at(300)), Ask)


def test_a_fault_of_the_last_poll_leaves_one_more_in_what_is_left():
    # Due at the deadline, asked then, and answered with a fault 1 s later: 24 s are left of interval and request.
    after = decide(work(), at(300), FAULT, at(301), SPEC, took_ms=1000)
    assert after.due_ms == at(301) + min(round(SPEC.backoff_s(0) * 1000), 12_000)
    slow = attrs.evolve(SPEC, backoff_base_s=100.0, backoff_cap_s=100.0)
    assert decide(work(), at(300), FAULT, at(301), slow, took_ms=1000).due_ms == at(313)
    # Of an odd number of milliseconds, the half without the rest.
    assert decide(work(), at(300), FAULT, at(301) - 1, slow, took_ms=999).due_ms == at(300.999) + 12_000
    assert decide(work(), at(301), FAULT, at(302), SPEC, took_ms=1000).kind is OutcomeKind.TIMED_OUT
    assert decide(work(), at(300), FAULT, at(325), SPEC, took_ms=25_000) == Outcome(
        OutcomeKind.TIMED_OUT, at(325), error="Video generation timeout: Process exceeded 5 minutes"
    )
    assert decide(work(), at(300), FAULT, at(325) - 1, SPEC, took_ms=24_999).due_ms == at(325) - 1
    # Never due at the deadline itself, or the same fault would give it one more, and so on.
    eager = attrs.evolve(SPEC, backoff_base_s=0.001)
    assert decide(work(), at(300), FAULT, at(300), eager).due_ms == at(300) + 1


def test_at_the_deadline_a_429_ends_a_job():
    ended = decide(work(), at(300), THROTTLED, at(300), SPEC)
    assert (ended.kind, ended.at_ms) == (OutcomeKind.TIMED_OUT, at(300))
    assert decide(work(), at(299), THROTTLED, at(299.999), SPEC).due_ms == at(300)


# --- pauses ---


def test_a_pause_after_a_429_grows_with_the_faults_in_a_row():
    assert pause_after(THROTTLED, 0, SPEC) == SPEC.backoff_s(0)
    assert pause_after(THROTTLED, 3, SPEC) == SPEC.backoff_s(3) > SPEC.backoff_s(0)
    assert pause_after(Fault(FaultKind.THROTTLED, "HTTP 429", 7), 3, SPEC) == 7
    assert pause_after(Fault(FaultKind.THROTTLED, "HTTP 429", 1e9), 0, SPEC) == SPEC.max_retry_after_s
    assert pause_after(FAULT, 0, SPEC) is None
    assert pause_after(VideoWorking(), 0, SPEC) is None


def test_a_job_that_is_not_asked_about_waits_for_its_account_but_not_past_its_end():
    assert after_not_asked(work(), 2.5, at(100), SPEC) == at(102.5)
    assert after_not_asked(work(), 60, at(290), SPEC) == at(300)
    assert after_not_asked(work(), 60, at(300), SPEC) == at(310)
    assert after_not_asked(work(), 2, at(300), SPEC) == at(302)
    assert after_not_asked(work(), 60, at(309.999), SPEC) == at(310)
    assert after_not_asked(work(), 60, at(310), SPEC) == Outcome(
        OutcomeKind.TIMED_OUT, at(310), error="Video generation timeout: Process exceeded 5 minutes"
    )


def test_a_claim_for_several_strategies_begins_with_the_earliest_and_ends_with_the_latest():
    quick = PollingStrategy(interval_s=2, initial_delay_s=4, timeout_s=100, request_timeout_s=20)
    slow = PollingStrategy(interval_s=30, initial_delay_s=1, timeout_s=90, request_timeout_s=10)
    assert widest([quick]) is quick
    assert (widest([slow, quick]).interval_s, widest([slow, quick]).request_timeout_s) == (2, 20)
    both = widest([quick, slow])
    assert (both.interval_s, both.initial_delay_s, both.request_timeout_s) == (2, 1, 20)
    # Each may be polled once more an interval after its deadline: 102 s and 120 s.
    assert both.timeout_s == 118
    assert both.max_attempts == quick.max_attempts
