"""The pure core: every judgement about a job, by example and by property."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from videopoll.core.delivery import (
    Done,
    GiveUp,
    Later,
    LookUp,
    Send,
    Watch,
    after_lookup,
    after_send,
    next_delivery_action,
    open_outbox,
    resume_abandoned,
    resume_delivery,
)
from videopoll.core.polling import SHORTEST_REQUEST_S, Ask, NextPoll, before_poll, decide
from videopoll.errors import ConfigurationError
from videopoll.jobs import MessageForm, OutboxEntry, Outcome, OutcomeKind, VideoJob
from videopoll.jobs.transition import Abandoned, PollWork
from videopoll.messages import Accepted, Delivered, Failed, Found, LookupResult, NotSent, Refused, RepeatSafe, Unknown
from videopoll.observations import Fault, FaultKind, VideoFailed, VideoMissing, VideoReady, VideoWorking
from videopoll.policies import DeliveryPolicy, OnUnknown, PollingStrategy

T0 = 1_757_157_518_000
JOB = VideoJob("job_1", "conversation-1", T0)
SPEC = PollingStrategy()
POLICY = DeliveryPolicy(jitter=0)
VIDEO = Outcome(OutcomeKind.COMPLETED, T0, video_url="https://v/1.mp4")
NOTICE = Outcome(OutcomeKind.FAILED, T0, error="no")
FAULT = Fault(FaultKind.SERVER, "HTTP 503")


def work(attempts: int = 1, faults: int = 0, answered_s: float | None = None) -> PollWork:
    """Give a job whose poll is due; the last answer came so many seconds after its start."""
    return PollWork(JOB, attempts, faults, None if answered_s is None else T0 + round(answered_s * 1000))


def at(seconds: float) -> int:
    """Give a time, in seconds after the job's start."""
    return T0 + round(seconds * 1000)


def entry(outcome: Outcome = VIDEO, policy: DeliveryPolicy = POLICY, **changes) -> OutboxEntry:
    """Give a delivery with some changes."""
    return attrs.evolve(open_outbox(JOB, outcome, policy), **changes)


# --- before a poll ---


def test_a_due_poll_asks_for_as_long_as_a_request_may_take():
    """The common case."""
    assert before_poll(work(), at(5), SPEC) == Ask(15)


def test_a_request_near_the_deadline_is_cut_to_what_is_left():
    """A hanging server cannot stretch the deadline."""
    assert before_poll(work(29), at(290), SPEC) == Ask(10)
    assert before_poll(work(29), at(299.9), SPEC) == Ask(SHORTEST_REQUEST_S)


def test_at_the_deadline_a_job_that_answered_lately_times_out():
    """It said "still working" less than an interval ago: asking again would only be late."""
    ended = before_poll(work(31, answered_s=295), at(300), SPEC)
    assert ended == Outcome(
        OutcomeKind.TIMED_OUT, at(300), error="Video generation timeout: Process exceeded 5 minutes"
    )


@pytest.mark.parametrize("answered_s", [None, 5, 290])
@pytest.mark.parametrize("attempts", [1, 31, 99])
def test_at_the_deadline_a_last_poll_is_made_if_the_last_answer_is_older_than_an_interval(answered_s, attempts):
    """A video that became ready while the API or all workers were away is not thrown away; no attempt is needed for it."""
    assert before_poll(work(attempts, answered_s=answered_s), at(300), SPEC) == Ask(15)


def test_the_deadline_is_checked_before_the_attempts():
    """A job that has used both up has timed out: that is what its user waited for."""
    assert before_poll(work(31, answered_s=299), at(300), SPEC).kind is OutcomeKind.TIMED_OUT
    assert before_poll(work(31, answered_s=289), at(299), SPEC).kind is OutcomeKind.ATTEMPTS_EXHAUSTED


def test_the_limit_of_attempts_acts_when_the_poll_after_the_last_is_due():
    """The last poll is a real one, and its answer counts."""
    fast = PollingStrategy(interval_s=1)
    assert isinstance(before_poll(work(30), at(34), fast), Ask)
    ended = before_poll(work(31), at(35), fast)
    assert (ended.kind, ended.error) == (OutcomeKind.ATTEMPTS_EXHAUSTED, "Max polling attempts exceeded")


def test_used_up_attempts_name_the_last_fault():
    """It is what an operator has to mend; an answer after it says that it is over."""
    fast = PollingStrategy(interval_s=1)
    faulty = attrs.evolve(work(31, faults=2), last_fault="credentials")
    assert (
        before_poll(faulty, at(35), fast).error
        == "Max polling attempts exceeded, the last one by a fault (credentials)"
    )
    answered = attrs.evolve(faulty, faults=0)
    assert before_poll(answered, at(35), fast).error == "Max polling attempts exceeded"


# --- after a poll ---


def test_a_finished_video_is_an_outcome_at_any_time():
    """Also after the deadline, and in the last attempt: it is there."""
    seen = VideoReady("https://v/1.mp4", "f1", "2025")
    for seconds in (5, 299, 301, 9999):
        ended = decide(work(31, 5), at(5), seen, at(seconds), SPEC)
        assert ended == Outcome(
            OutcomeKind.COMPLETED, at(seconds), video_url="https://v/1.mp4", file_id="f1", timestamp="2025"
        )


def test_a_failure_ends_the_job_with_the_apis_reason():
    """The operator reads it in the audit trail."""
    assert decide(work(), at(5), VideoFailed("no"), at(5), SPEC) == Outcome(OutcomeKind.FAILED, at(5), error="no")


def test_a_working_job_is_polled_an_interval_after_it_was_due():
    """Counted from the due time: slow answers and busy workers do not let the schedule drift."""
    assert decide(work(), at(5), VideoWorking(), at(7), SPEC) == NextPoll(at(15), 0, at(7))


def test_a_poll_that_is_very_late_is_followed_by_one_at_once_and_no_burst():
    """max(now, due + interval): missed polls are not made up for."""
    first = decide(work(), at(5), VideoWorking(), at(100), SPEC)
    assert first.due_ms == at(100)
    assert decide(work(2), first.due_ms, VideoWorking(), at(100), SPEC).due_ms == at(110)


def test_a_hint_of_the_api_lengthens_the_wait_up_to_the_bound():
    """Retry-After counts on every reply; a day of it does not."""
    assert decide(work(), at(5), VideoWorking(retry_after_s=30), at(6), SPEC).due_ms == at(36)
    assert decide(work(), at(5), VideoWorking(retry_after_s=3), at(6), SPEC).due_ms == at(15)
    assert decide(work(), at(5), VideoWorking(retry_after_s=86400), at(6), SPEC).due_ms == at(66)
    assert decide(work(), at(5), Fault(FaultKind.THROTTLED, "", 40), at(6), SPEC).due_ms == at(46)
    assert decide(work(), at(5), Fault(FaultKind.THROTTLED, "", 86400), at(6), SPEC).due_ms == at(66)


def test_a_hint_cannot_shorten_a_back_off():
    """ "Retry-After: 0" must not burn the attempts in a second."""
    assert decide(work(faults=2), at(5), Fault(FaultKind.SERVER, "", 0), at(6), SPEC).due_ms == at(26)


@pytest.mark.parametrize(("faults", "wait_s"), [(0, 5), (1, 10), (2, 20), (3, 40), (4, 60), (5, 60), (500, 60)])
def test_a_fault_backs_off_by_the_faults_in_a_row(faults, wait_s):
    """min(5 s * 2^n, 60 s), from the moment of the fault."""
    after = decide(work(faults=faults), at(5), FAULT, at(6), SPEC)
    assert after == NextPoll(at(6 + wait_s), faults + 1, None)


def test_an_answer_ends_a_row_of_faults():
    """The next fault starts at 5 s again."""
    assert decide(work(9, faults=4), at(50), VideoWorking(), at(50), SPEC).faults == 0


def test_a_fault_keeps_the_time_of_the_last_answer():
    """The last poll at the deadline depends on it."""
    assert decide(work(9, 2, answered_s=30), at(50), FAULT, at(50), SPEC).last_answer_ms == at(30)


def test_a_missing_job_is_not_there_yet_for_a_while():
    """The API may need some seconds to show a job that it has just taken."""
    assert isinstance(decide(work(), at(5), VideoMissing(), at(14.9), SPEC), NextPoll)
    ended = decide(work(), at(15), VideoMissing(), at(15), SPEC)
    assert (ended.kind, ended.error) == (OutcomeKind.NOT_FOUND, "Job not found on video API")


@pytest.mark.parametrize(
    "seen", [VideoWorking(), VideoWorking("unheard of", known=False), Fault(FaultKind.THROTTLED, "")]
)
def test_what_is_no_end_ends_after_the_deadline(seen):
    """The last poll has been made: there is no other one, above all not for a worker that is told to wait."""
    assert decide(work(31), at(300), seen, at(300), SPEC).kind is OutcomeKind.TIMED_OUT


@pytest.mark.parametrize(
    ("faults", "fault_s", "again_s"),
    [(0, 300.1, 305.1), (5, 300.1, 312.55), (0, 315, 320), (9, 315, 320), (0, 324.8, 324.9)],
)
def test_after_a_fault_of_the_last_poll_there_is_one_more_and_then_no_other(faults, fault_s, again_s):
    """A video that is ready is not thrown away for one broken connection; nor is the end put off for long."""
    after = decide(work(31, faults=faults), at(300), FAULT, at(fault_s), SPEC)
    assert after == NextPoll(at(again_s), faults + 1, None)

    asked = before_poll(work(32, faults + 1), at(again_s), SPEC, due_ms=after.due_ms)
    assert isinstance(asked, Ask)
    assert again_s + asked.timeout_s <= 325 + SHORTEST_REQUEST_S
    ended = decide(work(32, faults + 1), after.due_ms, FAULT, at(again_s + asked.timeout_s), SPEC)
    assert ended.kind is OutcomeKind.TIMED_OUT


def test_a_last_poll_that_hung_to_the_end_of_polling_is_followed_by_no_other():
    """It found its place late, and came back a moment after the end: what counts is that it began before."""
    assert decide(work(31), at(300), FAULT, at(325.001), SPEC, took_ms=15_001).kind is OutcomeKind.TIMED_OUT
    assert decide(work(31), at(300), FAULT, at(324), SPEC, took_ms=14_000).due_ms == at(324.5)


@pytest.mark.parametrize("due_s", [290, 299.9])
def test_a_poll_that_began_before_the_deadline_and_came_back_after_it_was_not_the_last_one(due_s):
    """Its request was cut to end at the deadline, and nothing ends at the very millisecond."""
    after = decide(work(29), at(due_s), FAULT, at(300.3), SPEC, took_ms=round((300.3 - due_s) * 1000))
    assert after == NextPoll(at(300), 1, None)

    assert before_poll(work(30, 1), at(300.3), SPEC, due_ms=after.due_ms) == Ask(15)
    again = decide(work(30, 1), after.due_ms, FAULT, at(301), SPEC, took_ms=700)
    assert again == NextPoll(at(311), 2, None)
    assert decide(work(31, 2), again.due_ms, FAULT, at(312), SPEC, took_ms=1000).kind is OutcomeKind.TIMED_OUT

    paused = Fault(FaultKind.THROTTLED, "")
    assert decide(work(29), at(due_s), paused, at(300.3), SPEC, took_ms=9000).kind is OutcomeKind.TIMED_OUT


def test_a_missing_job_is_believed_by_when_it_was_asked_for():
    """A slow "not found" of a poll that began within the grace, or within an interval of the first, proves nothing."""
    assert isinstance(decide(work(), at(14), VideoMissing(), at(16), SPEC, took_ms=2000), NextPoll)
    assert decide(work(), at(15), VideoMissing(), at(17), SPEC, took_ms=2000).kind is OutcomeKind.NOT_FOUND
    missed = PollWork(JOB, 3, 0, None, known=True, missing_ms=at(20))
    assert isinstance(decide(missed, at(29), VideoMissing(), at(31), SPEC, took_ms=2000), NextPoll)
    assert decide(missed, at(30), VideoMissing(), at(32), SPEC, took_ms=2000).kind is OutcomeKind.NOT_FOUND


def test_a_doubtful_answer_is_believed_by_when_it_was_asked_for():
    """The second one has to be asked for an interval after the first."""
    doubted = PollWork(JOB, 3, 0, None, at(20))
    seen = VideoWorking("completed", error="no URL")
    assert isinstance(decide(doubted, at(29), seen, at(31), SPEC, took_ms=2000), NextPoll)
    assert decide(doubted, at(30), seen, at(32), SPEC, took_ms=2000).kind is OutcomeKind.FAILED


def test_polling_is_over_an_interval_and_a_request_after_the_deadline():
    """A last poll that found its place late is cut short, and one more that found it too late is not made."""
    assert before_poll(work(31), at(310), SPEC, due_ms=at(300)) == Ask(15)
    assert before_poll(work(31), at(320), SPEC, due_ms=at(300)) == Ask(5)
    assert before_poll(work(31), at(320), SPEC, due_ms=at(312)) == Ask(5)
    assert before_poll(work(31), at(325), SPEC, due_ms=at(312)).kind is OutcomeKind.TIMED_OUT


def test_a_job_that_is_met_long_after_its_deadline_gets_its_last_poll_and_one_more():
    """No worker lived for ten minutes: the video may be there all the same."""
    assert before_poll(work(31), at(900), SPEC, due_ms=at(300)) == Ask(15)
    after = decide(work(31, faults=4), at(300), FAULT, at(900), SPEC)
    assert after == NextPoll(at(907.5), 5, None)
    assert before_poll(work(32), at(908), SPEC, due_ms=after.due_ms) == Ask(14.5)
    assert before_poll(work(32), at(930), SPEC, due_ms=after.due_ms).kind is OutcomeKind.TIMED_OUT


def test_a_job_without_a_place_ends():
    """Nothing that failed is waited for: neither an API that hangs nor one that wants to be left alone."""
    assert before_poll(work(3), at(310), SPEC, slot=False).kind is OutcomeKind.TIMED_OUT


def test_a_next_poll_is_never_beyond_the_deadline():
    """The user hears of the timeout at five minutes, not at six."""
    assert decide(work(29, 9), at(290), FAULT, at(291), SPEC).due_ms == at(300)
    assert decide(work(29), at(290), VideoWorking(retry_after_s=60), at(291), SPEC).due_ms == at(300)


strategies = st.builds(
    PollingStrategy,
    interval_s=st.floats(0.01, 1000),
    timeout_s=st.floats(1, 5000),
    max_attempts=st.integers(1, 100),
    initial_delay_s=st.floats(0, 0.9),
    backoff_base_s=st.floats(0.01, 50),
    backoff_cap_s=st.floats(50, 1000),
    jitter=st.floats(0, 1),
    max_retry_after_s=st.floats(0.1, 1000),
    not_found_grace_s=st.floats(0, 100),
)
hints = st.none() | st.floats(0, 1e6)
observations = st.one_of(
    st.builds(VideoWorking, st.text(max_size=3), st.booleans(), hints),
    st.builds(VideoReady, st.just("https://v/1.mp4")),
    st.builds(VideoFailed, st.text(max_size=3)),
    st.just(VideoMissing()),
    st.builds(Fault, st.sampled_from(FaultKind), st.just("detail"), hints),
)
spans = st.floats(-10, 10_000)
draws = st.floats(0, 1)
works = st.builds(
    PollWork, st.just(JOB), st.integers(1, 200), st.integers(0, 200), st.none() | st.integers(T0, T0 + 10**7)
)


@given(works, spans, strategies)
def test_any_due_poll_is_a_request_of_some_length_or_an_end(some, seconds, strategy):
    """There is no third way, and no request longer than the host allows."""
    judged = before_poll(some, at(seconds), strategy)
    if isinstance(judged, Ask):
        left_s = (T0 + round(strategy.timeout_s * 1000) - at(seconds)) / 1000
        assert 0 < judged.timeout_s <= strategy.request_timeout_s
        assert left_s <= 0 or judged.timeout_s <= max(left_s, SHORTEST_REQUEST_S)
        assert left_s <= 0 or some.attempts <= strategy.max_attempts
    else:
        assert judged.kind in {OutcomeKind.TIMED_OUT, OutcomeKind.ATTEMPTS_EXHAUSTED}
        assert judged.error


@given(works, spans, st.floats(0, 100), observations, strategies, draws)
def test_a_next_poll_is_neither_before_now_nor_beyond_the_deadline(some, due_s, late_s, seen, strategy, fraction):  # noqa: PLR0917 - drawn
    """Whatever the API says, and however late everybody is."""
    now_ms = at(due_s + late_s)
    after = decide(some, at(due_s), seen, now_ms, strategy, fraction)
    deadline_ms = T0 + round(strategy.timeout_s * 1000)
    if isinstance(after, NextPoll):
        over_ms = max(now_ms, deadline_ms + round(strategy.interval_s * 1000)) + strategy.request_timeout_s * 1000
        assert now_ms <= after.due_ms <= (deadline_ms if now_ms < deadline_ms else over_ms)
        assert after.faults == (some.faults + 1 if isinstance(seen, Fault) else 0)
        assert after.last_answer_ms == (some.last_answer_ms if isinstance(seen, Fault) else now_ms)
    else:
        assert after.at_ms == now_ms
        assert after.success == isinstance(seen, VideoReady)
        assert after.success or after.error is not None


@given(works, st.floats(0, 100), observations, strategies, draws)
def test_a_wait_stays_inside_its_jitter_and_its_hint(some, due_s, seen, strategy, fraction):
    """The jitter spreads polls around the interval; it never makes them arbitrary."""
    after = decide(some, at(due_s), seen, at(due_s), strategy, fraction)
    if not isinstance(after, NextPoll):
        return
    wait_s = strategy.backoff_s(some.faults) if isinstance(seen, Fault) else strategy.interval_s
    hint_s = min(getattr(seen, "retry_after_s", None) or 0, strategy.max_retry_after_s)
    waited_s = (after.due_ms - at(due_s)) / 1000
    most_s = max(wait_s * (1 + strategy.jitter), hint_s)
    assert waited_s <= most_s + 0.002
    deadline_ms = T0 + round(strategy.timeout_s * 1000)
    if after.due_ms < deadline_ms:
        assert waited_s >= max(wait_s * (1 - strategy.jitter), hint_s) - 0.002


@example(PollingStrategy(jitter=0, timeout_s=30), [FAULT], 0.5, 20.0, [0.0, 0.0, 15.5])
@given(
    strategies,
    st.lists(observations, min_size=1, max_size=8),
    draws,
    st.floats(0, 20),
    st.lists(st.floats(0, 20), min_size=1, max_size=8),
)
def test_every_polling_ends_exactly_once_and_in_time(strategy, seen, fraction, took_s, waits_s):
    """Walks a whole life: it ends within its attempts, and at the latest an interval and a request after its deadline."""
    now_ms, attempts, faults, answered_ms = at(strategy.initial_delay_s), 0, 0, None
    due_ms, polls, ended = now_ms, 0, None
    slot_until_ms = at(strategy.timeout_s + strategy.interval_s + 1)
    took_s = min(took_s, strategy.request_timeout_s)
    while ended is None:
        attempts += 1
        some = PollWork(JOB, attempts, faults, answered_ms)
        # It waits for a place; what waits an interval beyond its deadline ends without, when somebody looks.
        now_ms = max(now_ms, min(now_ms + round(waits_s[attempts % len(waits_s)] * 1000), slot_until_ms))
        judged = before_poll(some, now_ms, strategy, due_ms=due_ms, slot=now_ms < slot_until_ms)
        if isinstance(judged, Outcome):
            ended = judged
            break
        polls += 1
        assert polls <= strategy.max_attempts + 2, "more polls than attempts, the last one and one more"
        # A request that hangs is cut a moment after its time.
        took_ms = round(min(took_s, judged.timeout_s) * 1000) + 1
        now_ms += took_ms
        after = decide(some, due_ms, seen[attempts % len(seen)], now_ms, strategy, fraction, took_ms=took_ms)
        if isinstance(after, Outcome):
            ended = after
            break
        faults, answered_ms, due_ms = after.faults, after.last_answer_ms, after.due_ms
        now_ms = max(now_ms, due_ms)
    over_s = strategy.timeout_s + strategy.interval_s + strategy.request_timeout_s
    assert ended.at_ms <= at(over_s + SHORTEST_REQUEST_S) + 4


# --- delivering ---


def test_a_video_starts_as_a_video_and_a_notice_as_a_text():
    """Nothing tried yet, and an hour to go."""
    assert open_outbox(JOB, VIDEO, POLICY).form is MessageForm.VIDEO
    start = open_outbox(JOB, NOTICE, POLICY)
    assert (start.form, start.tries, start.sending_ms) == (MessageForm.TEXT, 0, None)
    assert start.deadline_ms == at(3600)


def test_a_send_is_counted_and_noted_before_it_begins():
    """A crash afterwards must find that its fate is unknown."""
    step = next_delivery_action(entry(), at(1), POLICY)
    assert isinstance(step, Send)
    assert (step.entry.tries, step.entry.sending_ms) == (1, at(1))


def test_a_send_of_a_holder_whose_lease_is_over_has_its_time_to_show_up_from_the_takeover_on():
    """Cut off from Redis, that holder may have begun it as late as its lease ended."""
    taken = resume_delivery(entry(tries=1, sending_ms=at(0)), at(12), taken_over=True)

    assert isinstance(after_lookup(taken, LookupResult.ABSENT, at(21.9), POLICY), Later)
    assert isinstance(after_lookup(taken, LookupResult.ABSENT, at(22), POLICY), Send)


def test_a_send_that_its_own_worker_noted_keeps_its_time():
    noted = entry(tries=1, sending_ms=at(0))

    assert resume_delivery(noted, at(12), taken_over=False) == noted
    assert resume_delivery(entry(), at(12), taken_over=True) == entry()


def test_a_delivery_with_a_noted_send_asks_the_channel_first():
    """Sending again at once would double what may have gone out."""
    noted = entry(sending_ms=at(0), tries=1)
    assert next_delivery_action(noted, at(1), POLICY) == LookUp(noted)


@pytest.mark.parametrize("changes", [{"tries": 40}, {"deadline_ms": 0}])
def test_a_noted_send_is_asked_for_even_when_all_is_spent(changes):
    """The user may have the video: that decides between "delivered" and a dead letter."""
    assert isinstance(next_delivery_action(entry(sending_ms=at(0), **changes), at(1), POLICY), LookUp)


def test_no_send_is_made_when_the_budget_is_used_up():
    """Whatever the deadline says."""
    assert isinstance(next_delivery_action(entry(tries=40), at(1), POLICY), GiveUp)
    assert isinstance(after_send(entry(tries=40, sending_ms=at(0)), NotSent("busy"), at(1), POLICY), GiveUp)


@pytest.mark.parametrize("late_s", [3600, 3601, 80_000])
@pytest.mark.parametrize("form", MessageForm)
@pytest.mark.parametrize("tries", [0, 1, 39])
def test_the_last_send_is_made_however_late_it_is(late_s, form, tries):
    """No worker lived for longer than the deadline of the delivery: what was kept for a day is not kept in vain."""
    last = next_delivery_action(entry(form=form, tries=tries), at(late_s), POLICY)
    assert isinstance(last, Send)
    assert isinstance(after_send(last.entry, Delivered(), at(late_s), POLICY), Done)


def test_after_the_last_send_there_is_no_other_one():
    """Then it is a dead letter that says so."""
    last = next_delivery_action(entry(tries=3), at(4000), POLICY)
    ended = after_send(last.entry, NotSent("busy"), at(4001), POLICY)
    assert isinstance(ended, GiveUp)
    assert ended.reason.startswith("not delivered within 3600 s")


def test_the_last_send_of_a_video_that_the_channel_refuses_is_a_text():
    """The deadline is no reason to keep the link back."""
    last = next_delivery_action(entry(), at(4000), POLICY)
    text = after_send(last.entry, Refused("too large"), at(4001), POLICY)
    assert isinstance(text, Send)
    assert text.entry.form is MessageForm.TEXT
    for result in (LookupResult.FAILED, LookupResult.ABSENT):
        again = after_lookup(entry(sending_ms=at(0), tries=1), result, at(4001), POLICY)
        assert isinstance(again, Send), result


def test_a_text_at_the_deadline_waits_as_the_channel_asked():
    """It is the last send, and 429 is about the channel."""
    last = next_delivery_action(entry(tries=4, form_failures=4), at(4000), POLICY)
    wait = after_send(last.entry, NotSent("busy", 90), at(4001), POLICY)
    assert (wait.entry.form, wait.due_ms) == (MessageForm.TEXT, at(4091))
    text = next_delivery_action(wait.entry, wait.due_ms, POLICY)
    assert isinstance(text, Send)
    assert isinstance(after_send(text.entry, NotSent("busy", 90), at(4092), POLICY), GiveUp)


def test_what_is_held_back_at_the_deadline_may_still_become_a_send_for_a_while():
    """The instance is offline, or this worker holds the account back: nothing was sent, so that was no last send."""
    held = NotSent("held back", 300, counts=False)
    wait = after_send(next_delivery_action(entry(), at(3600), POLICY).entry, held, at(3600), POLICY)
    assert isinstance(wait, Later)
    assert wait.due_ms == at(3900)
    assert isinstance(next_delivery_action(wait.entry, wait.due_ms, POLICY), Send)
    step = next_delivery_action(wait.entry, at(4200), POLICY)
    assert isinstance(after_send(step.entry, held, at(4200), POLICY), GiveUp)


def test_no_last_send_is_made_while_a_fate_is_unknown():
    """A channel that cannot be asked may have brought it; one that has it not yet may show it in a moment."""
    noted = entry(sending_ms=at(3995), tries=1)
    assert isinstance(after_lookup(noted, LookupResult.CANNOT_TELL, at(4001), POLICY), GiveUp)
    wait = after_lookup(noted, LookupResult.ABSENT, at(4001), POLICY)
    assert isinstance(wait, Later)
    assert isinstance(after_lookup(wait.entry, LookupResult.ABSENT, at(4006), POLICY), Send)


def test_a_redriven_letter_whose_fate_was_unknown_is_sent_at_once():
    """A person has seen it, and it has a deadline of its own."""
    redriven = entry(sending_ms=at(0), tries=0, deadline_ms=at(8000))
    assert isinstance(after_lookup(redriven, LookupResult.CANNOT_TELL, at(5000), POLICY), Send)


def test_a_delivered_message_is_done():
    """And its receipt is kept."""
    done = after_send(entry(tries=1, sending_ms=at(0)), Delivered("5225"), at(1), POLICY)
    assert done == Done(entry(tries=1), Delivered("5225"))


def test_an_accepted_message_is_watched_and_is_not_yet_delivered():
    watched = after_send(entry(tries=1, sending_ms=at(0)), Accepted("wamid.1"), at(1), POLICY)
    assert watched == Watch(entry(tries=1), Accepted("wamid.1"))
    assert Accepted("wamid.1") != Delivered("wamid.1")


@pytest.mark.parametrize(("tries", "wait_s"), [(1, 2), (2, 4), (3, 8), (4, 16)])
def test_a_passing_failure_waits_longer_each_time(tries, wait_s):
    """2 s, doubling."""
    before = entry(tries=tries, form_failures=tries - 1, sending_ms=at(0))
    step = after_send(before, NotSent("busy"), at(1), POLICY)
    assert isinstance(step, Later)
    assert step.due_ms == at(1 + wait_s)
    assert step.entry.sending_ms is None


def test_a_channels_hint_is_honoured_up_to_the_bound():
    """An hour of Retry-After is ten minutes."""
    some = entry(tries=1, sending_ms=at(0))
    assert after_send(some, NotSent("busy", 60), at(1), POLICY).due_ms == at(61)
    assert after_send(some, NotSent("busy", 3600), at(1), POLICY).due_ms == at(601)


def test_a_wait_ends_at_the_deadline_at_the_latest():
    """It becomes a dead letter then, not an hour later."""
    some = entry(tries=1, deadline_ms=at(10))
    assert after_send(some, NotSent("busy", 60), at(1), POLICY).due_ms == at(10)


def test_a_video_that_keeps_failing_goes_as_text():
    """Five failed sends of the video, then the link."""
    step = after_send(entry(tries=5, form_failures=4, sending_ms=at(0)), NotSent("busy"), at(1), POLICY)
    assert isinstance(step, Send)
    assert (step.entry.form, step.entry.form_failures, step.entry.tries) == (MessageForm.TEXT, 0, 6)


def test_a_text_that_follows_a_video_waits_as_the_channel_asked():
    """429 is about the channel, not about the form of the message."""
    step = after_send(entry(tries=5, form_failures=4, sending_ms=at(0)), NotSent("busy", 90), at(1), POLICY)
    assert isinstance(step, Later)
    assert (step.entry.form, step.due_ms) == (MessageForm.TEXT, at(91))


def test_a_recipient_that_cannot_be_looked_up_is_no_reason_for_a_text():
    """The channel has not even been asked."""
    step = after_send(entry(tries=39), NotSent("no database", channel_fault=False), at(1), POLICY)
    assert isinstance(step, Later)
    assert (step.entry.form, step.entry.form_failures) == (MessageForm.VIDEO, 0)


def test_a_refused_video_goes_as_text_at_once():
    """The file may be too large for the channel; its link is not."""
    step = after_send(entry(tries=1, sending_ms=at(0)), Refused("over 16 MB"), at(1), POLICY)
    assert isinstance(step, Send)
    assert (step.entry.form, step.entry.sending_ms, step.entry.reasons) == (MessageForm.TEXT, at(1), ("over 16 MB",))


@pytest.mark.parametrize(
    ("outcome", "receipt"), [(VIDEO, Refused("wrong number", try_text=False)), (NOTICE, Refused("wrong number"))]
)
def test_what_no_text_can_help_is_given_up_with_its_reason(outcome, receipt):
    """The dead letter tells the operator what the channel said."""
    step = after_send(entry(outcome, tries=1, sending_ms=at(0)), receipt, at(1), POLICY)
    assert isinstance(step, GiveUp)
    assert step.reason == "refused by the channel: wrong number"


def test_a_message_that_may_be_refused_for_its_quote_goes_without_it_once_and_in_its_form():
    """A quoted message that is gone must cost neither the video nor the text."""
    refused = Refused("no such message", try_unquoted=True)
    step = after_send(entry(tries=1, sending_ms=at(0)), refused, at(1), POLICY)
    assert isinstance(step, Send)
    assert (step.entry.form, step.entry.unquoted, step.entry.tries) == (MessageForm.VIDEO, True, 2)
    as_text = after_send(step.entry, refused, at(2), POLICY)
    assert isinstance(as_text, Send)
    assert (as_text.entry.form, as_text.entry.unquoted) == (MessageForm.TEXT, True)
    assert isinstance(after_send(as_text.entry, refused, at(3), POLICY), GiveUp)


def test_a_message_that_the_channel_took_with_its_quote_and_could_not_send_goes_without_it():
    step = after_lookup(entry(tries=1, sending_ms=at(0)), LookupResult.FAILED, at(1), POLICY)
    assert isinstance(step, Send)
    assert (step.entry.form, step.entry.unquoted) == (MessageForm.TEXT, True)


def test_a_channel_that_is_offline_costs_no_attempt():
    """A telephone without power for an hour must not use forty attempts up."""
    step = after_send(entry(tries=1, sending_ms=at(0)), NotSent("offline", counts=False), at(1), POLICY)
    assert (step.entry.tries, step.entry.form_failures) == (0, 0)


def test_an_unknown_send_is_looked_for_later_and_keeps_its_mark():
    """A message needs a moment to show up at the channel."""
    step = after_send(entry(tries=1, sending_ms=at(0)), Unknown("reply lost"), at(1), POLICY)
    assert isinstance(step, Later)
    assert (step.entry.sending_ms, step.due_ms) == (at(1), at(3))  # unknown since the reply was lost


def test_a_message_that_the_channel_has_is_done():
    """No second one."""
    step = after_lookup(entry(tries=1, sending_ms=at(0)), LookupResult.FOUND, at(9), POLICY)
    assert isinstance(step, Done)
    assert step.entry.sending_ms is None


def test_an_absent_message_is_absent_at_the_time_at_which_it_was_asked_for():
    """The look-up was slow, or its worker stood still between the answer and here."""
    some = entry(tries=1, sending_ms=at(0))
    assert isinstance(after_lookup(some, LookupResult.ABSENT, at(14), POLICY, took_ms=4001), Later)
    assert isinstance(after_lookup(some, LookupResult.ABSENT, at(14), POLICY, took_ms=4000), Send)


def test_an_absent_message_counts_as_never_sent_only_after_a_while():
    """Asked too early, every lost reply would become a double."""
    some = entry(tries=1, sending_ms=at(0))
    early = after_lookup(some, LookupResult.ABSENT, at(9.9), POLICY)
    assert isinstance(early, Later)
    assert early.entry.sending_ms == at(0)
    late = after_lookup(some, LookupResult.ABSENT, at(10), POLICY)
    assert isinstance(late, Send)
    assert (late.entry.tries, late.entry.sending_ms) == (2, at(10))


def test_a_message_that_the_channel_failed_to_send_goes_as_text():
    """It has it and cannot send it: a new send is no double."""
    step = after_lookup(entry(tries=1, sending_ms=at(0)), LookupResult.FAILED, at(9), POLICY)
    assert isinstance(step, Send)
    assert step.entry.form is MessageForm.TEXT
    given_up = after_lookup(entry(NOTICE, tries=1, sending_ms=at(0)), LookupResult.FAILED, at(9), POLICY)
    assert isinstance(given_up, GiveUp)


def test_where_nobody_can_be_asked_the_hosts_choice_decides():
    """At least once sends again, at most once does not."""
    some = entry(tries=1, sending_ms=at(0))
    assert isinstance(after_lookup(some, LookupResult.CANNOT_TELL, at(9), POLICY), Send)
    once = attrs.evolve(POLICY, on_unknown=OnUnknown.AT_MOST_ONCE)
    step = after_lookup(some, LookupResult.CANNOT_TELL, at(9), once)
    assert isinstance(step, GiveUp)
    assert step.entry.sending_ms == at(0), "a redrive has to know that its fate is unknown"


def test_a_channel_that_does_not_answer_is_asked_until_the_deadline():
    """With longer and longer waits; then a person has to look."""
    some = entry(tries=1, sending_ms=at(0))
    waits = []
    for lookups in range(4):
        step = after_lookup(attrs.evolve(some, lookups=lookups), LookupResult.NO_ANSWER, at(9), POLICY)
        waits.append((step.due_ms - at(9)) / 1000)
    assert waits == [2, 4, 8, 16]
    assert isinstance(after_lookup(some, LookupResult.NO_ANSWER, at(3600), POLICY), GiveUp)


def test_an_abandoned_job_follows_the_hosts_choice():
    """Another worker died around its send, and left no reference to ask for."""
    found = Abandoned(JOB, VIDEO)
    step = resume_abandoned(found, at(9), POLICY)
    assert isinstance(step, OutboxEntry)
    assert step.deadline_ms == at(3609), "a full hour from now on"
    once = attrs.evolve(POLICY, on_unknown=OnUnknown.AT_MOST_ONCE)
    assert isinstance(resume_abandoned(found, at(9), once), GiveUp)


policies = st.builds(
    DeliveryPolicy,
    max_attempts=st.integers(1, 12),
    video_attempts=st.integers(1, 12),
    backoff_base_s=st.floats(0.1, 5),
    backoff_cap_s=st.floats(5, 120),
    jitter=st.floats(0, 1),
    deadline_s=st.floats(1, 200),
    on_unknown=st.sampled_from(OnUnknown),
    appear_within_s=st.floats(0, 60),
)
receipts = st.one_of(
    st.just(Delivered("1")),
    st.builds(NotSent, st.just("busy"), hints, st.booleans()),
    st.builds(Refused, st.just("no"), st.booleans()),
    st.just(Unknown("lost")),
)


def walk(policy, answers, sightings, fraction=0.5, *, outcome=VIDEO):
    """Carry a delivery to its end; give the steps. The clock moves to each due time, and a little with each effect."""
    now_ms = T0
    step = next_delivery_action(open_outbox(JOB, outcome, policy), now_ms, policy)
    steps = [step]
    for number in range(10_000):
        decided_ms = now_ms
        now_ms += 500
        if isinstance(step, Send):
            step = after_send(step.entry, answers[number % len(answers)], now_ms, policy, fraction)
        elif isinstance(step, LookUp):
            step = after_lookup(step.entry, sightings[number % len(sightings)], now_ms, policy, fraction)
        elif isinstance(step, Later):
            assert step.due_ms >= decided_ms, "a wait that lies in the past"
            now_ms = max(now_ms, step.due_ms)
            step = next_delivery_action(step.entry, now_ms, policy)
        else:
            return steps
        steps.append(step)
    pytest.fail("the delivery does not end")


@given(
    policies,
    st.lists(receipts, min_size=1, max_size=6),
    st.lists(st.sampled_from(LookupResult), min_size=1, max_size=6),
    draws,
    st.sampled_from([VIDEO, NOTICE]),
)
def test_any_delivery_ends_within_its_attempts(policy, answers, sightings, fraction, outcome):
    """Done or a dead letter: never for ever, and never more sends than the host allows (offline times aside)."""
    steps = walk(policy, answers, sightings, fraction, outcome=outcome)
    assert isinstance(steps[-1], Done | GiveUp)
    free = any(isinstance(receipt, NotSent) and not receipt.counts for receipt in answers)
    sends = sum(isinstance(step, Send) for step in steps)
    assert free or sends <= policy.max_attempts
    assert isinstance(steps[-1], Done) or steps[-1].reason
    # A text never turns back into a video, and a notice is never one.
    forms = [step.entry.form for step in steps]
    assert forms == sorted(forms, key=[MessageForm.VIDEO, MessageForm.TEXT].index)
    assert outcome is VIDEO or MessageForm.VIDEO not in forms


@given(policies, st.lists(receipts, min_size=1, max_size=6), draws)
def test_at_most_once_never_sends_again_what_may_have_gone_out(policy, answers, fraction):
    """Where no channel can be asked, an unknown send is the last one."""
    once = attrs.evolve(policy, on_unknown=OnUnknown.AT_MOST_ONCE)
    steps = walk(once, answers, [LookupResult.CANNOT_TELL], fraction)
    looked = [number for number, step in enumerate(steps) if isinstance(step, LookUp)]
    assert not looked or not any(isinstance(step, Send) for step in steps[looked[0] :])


@given(policies, st.lists(receipts, min_size=1, max_size=6), st.lists(st.sampled_from(LookupResult), min_size=1), draws)
def test_an_unknown_send_is_always_looked_for_before_the_next(policy, answers, sightings, fraction):
    """Between a send of unknown fate and the next send, the channel is asked."""
    steps = walk(policy, answers, sightings, fraction)
    open_send = False
    for step in steps:
        if isinstance(step, Later):
            open_send = step.entry.sending_ms is not None
        elif isinstance(step, LookUp):
            open_send = False
        elif isinstance(step, Send):
            assert not open_send


@given(policies, st.lists(st.just(NotSent("busy")), min_size=1), draws)
def test_a_made_video_is_tried_as_text_before_it_is_given_up(policy, answers, fraction):
    """The native video may be what the channel cannot take; the dead letters come last."""
    roomy = attrs.evolve(policy, max_attempts=policy.video_attempts + 3, deadline_s=1e7)
    forms = [step.entry.form for step in walk(roomy, answers, [LookupResult.ABSENT], fraction)]
    assert MessageForm.TEXT in forms


def test_the_last_attempt_of_a_video_is_a_text():
    """Even where the host allows fewer sends than videos: a link is better than a dead letter."""
    few = DeliveryPolicy(max_attempts=3, video_attempts=5, jitter=0)
    forms = [
        step.entry.form for step in walk(few, [NotSent("busy")], [LookupResult.ABSENT], 0.5) if isinstance(step, Send)
    ]
    assert forms == [MessageForm.VIDEO, MessageForm.VIDEO, MessageForm.TEXT]


# --- forms that only some channels have ---


def test_a_refusal_that_names_a_form_is_followed_by_that_form():
    """The channel knows what would go through: an upload in place of a link, a template outside the window."""
    step = after_send(sent(), Refused("too large by link", then=MessageForm.UPLOAD), at(1), POLICY)
    assert isinstance(step, Send)
    assert (step.entry.form, step.entry.refused_forms) == (MessageForm.UPLOAD, {MessageForm.VIDEO})
    text = attrs.evolve(sent(), form=MessageForm.TEXT)
    step = after_send(text, Refused("window closed", False, then=MessageForm.TEMPLATE), at(1), POLICY)
    assert isinstance(step, Send)
    assert step.entry.form is MessageForm.TEMPLATE


def test_a_form_that_was_refused_is_not_tried_again():
    """A channel that sends from one to the other and back gets each once, then the text, then it is over."""
    tried, step = [], Send(sent())
    while isinstance(step, Send):
        form = step.entry.form
        tried.append(form.value)
        other = MessageForm.VIDEO if form is MessageForm.UPLOAD else MessageForm.UPLOAD
        step = after_send(step.entry, Refused("the other one", then=other), at(len(tried)), POLICY)
    assert tried == ["video", "upload", "text"]
    assert isinstance(step, GiveUp)
    assert step.reason == "refused by the channel: the other one"


def test_a_form_that_needs_a_video_is_not_tried_without_one():
    """A notice cannot be uploaded; a template may carry it."""
    notice = entry(NOTICE, tries=1, sending_ms=at(0))
    assert isinstance(after_send(notice, Refused("no", then=MessageForm.UPLOAD), at(1), POLICY), GiveUp)
    step = after_send(notice, Refused("no", then=MessageForm.TEMPLATE), at(1), POLICY)
    assert step.entry.form is MessageForm.TEMPLATE


def test_the_last_send_of_all_is_a_text_whatever_the_channel_names():
    """The link is worth more than one more form that may be refused."""
    few = DeliveryPolicy(jitter=0, max_attempts=2)
    step = after_send(sent(), Refused("too large", then=MessageForm.UPLOAD), at(1), few)
    assert step.entry.form is MessageForm.TEXT
    step = after_send(sent(), Refused("window closed", False, then=MessageForm.TEMPLATE), at(1), few)
    assert step.entry.form is MessageForm.TEMPLATE


@pytest.mark.parametrize("form", ["upload", "document"])
def test_an_upload_that_keeps_failing_goes_as_text_too(form):
    some = entry(form=MessageForm(form), tries=5, form_failures=4, sending_ms=at(0))
    assert after_send(some, NotSent("busy"), at(1), POLICY).entry.form is MessageForm.TEXT
    refused_text = attrs.evolve(some, refused_forms=frozenset({MessageForm.TEXT}))
    assert after_send(refused_text, NotSent("busy"), at(1), POLICY).entry.form is MessageForm(form)


receipts = st.one_of(
    st.builds(Refused, st.just("no"), st.booleans(), then=st.none() | st.sampled_from(MessageForm)),
    st.builds(
        Refused,
        st.just("quote"),
        st.booleans(),
        then=st.none() | st.sampled_from(MessageForm),
        try_unquoted=st.just(True),
    ),
    st.builds(NotSent, st.just("busy"), st.none() | st.floats(0, 900), counts=st.booleans()),
    st.builds(Unknown, st.just("lost")),
    st.builds(Delivered),
    st.builds(Accepted),
)
answers = st.one_of(
    st.sampled_from(LookupResult),
    st.builds(Found, st.none() | st.just("7"), st.none() | st.sampled_from(MessageForm)),
    st.builds(Failed, st.just("codec"), then=st.none() | st.sampled_from(MessageForm), try_text=st.booleans()),
    st.builds(RepeatSafe, st.sampled_from([0.0, 30.0, 300.0])),
)


@given(
    st.sampled_from([VIDEO, NOTICE]),
    st.lists(receipts, min_size=60, max_size=60),
    st.lists(answers, min_size=60, max_size=60),
    st.builds(
        DeliveryPolicy,
        max_attempts=st.integers(1, 8),
        on_unknown=st.sampled_from(OnUnknown),
        repeat_safely=st.booleans(),
        deadline_s=st.just(600),
    ),
)
def test_whatever_a_channel_answers_a_delivery_ends_within_its_budgets(outcome, said, seen, policy):
    """No circle of forms, no form that was refused before, no double beyond the budget of unknown fates."""
    said, seen, now_ms = iter(said), iter(seen), at(1)
    action = next_delivery_action(entry(outcome, policy), now_ms, policy)
    counted, refused, quoted = 0, set(), 0
    for _ in range(50):
        now_ms += 1000
        assert action.entry.unknowns >= 0
        assert action.entry.tries <= policy.max_attempts
        match action:
            case Send(noted):
                assert noted.form not in refused or noted.unquoted, "it was refused before"
                receipt = next(said)
                counted += not (isinstance(receipt, NotSent) and not receipt.counts)
                if isinstance(receipt, Refused):
                    if receipt.try_unquoted and not noted.unquoted:
                        quoted += 1
                    else:
                        refused.add(noted.form)
                assert not (noted.form.has_video and not outcome.success)
                action = after_send(noted, receipt, now_ms, policy)
            case LookUp(noted):
                answer = next(seen)
                if isinstance(answer, Failed) or answer is LookupResult.FAILED:
                    refused.add(noted.form)
                action = after_lookup(noted, answer, now_ms, policy)
            case Later(noted, due_ms):
                now_ms = max(now_ms, due_ms)
                action = next_delivery_action(noted, now_ms, policy)
            case _:
                break
    assert counted <= policy.max_attempts
    assert quoted <= 1
    assert len(refused) <= len(MessageForm)


# --- channels that make one message of repeats ---


def test_a_lost_reply_is_repeated_where_that_makes_no_second_message():
    """Whatever the host says of unknown fates: the repeat learns the fate of the first."""
    for on_unknown in OnUnknown:
        policy = DeliveryPolicy(jitter=0, on_unknown=on_unknown)
        step = after_lookup(sent(unquoted=True), RepeatSafe(60), at(9), policy)
        assert isinstance(step, Send)
        assert (step.entry.form, step.entry.begun_ms, step.entry.sending_ms) == (MessageForm.VIDEO, at(0), at(9))
        assert (step.entry.tries, step.entry.unknowns) == (2, 1)


def test_repeats_that_stay_unknown_have_the_budget_of_unknown_fates():
    step, tries = after_lookup(sent(), RepeatSafe(600), at(2), POLICY), 1
    while isinstance(step, Send):
        tries += 1
        lost = after_send(step.entry, Unknown("lost"), at(2 * tries), POLICY)
        step = after_lookup(lost.entry, RepeatSafe(600), lost.due_ms, POLICY)
    assert tries == 3
    assert isinstance(step, GiveUp)
    assert "after 3 sends" in step.reason
    assert step.entry.sending_ms is not None, "a redrive has to know that its fate is unknown"


def test_the_time_for_repeats_counts_from_the_beginning_of_the_first_send():
    """Its reply was waited for, and was lost a minute later."""
    step = after_send(sent(), Unknown("lost"), at(60), POLICY)
    once = attrs.evolve(POLICY, on_unknown=OnUnknown.AT_MOST_ONCE)
    assert isinstance(after_lookup(step.entry, RepeatSafe(61), at(60.9), once), Send)
    assert isinstance(after_lookup(step.entry, RepeatSafe(61), at(61), once), GiveUp)


def test_a_taken_over_send_is_repeated_by_the_time_of_its_beginning():
    """It shows up later, but the channel counts from when it began."""
    taken = resume_delivery(sent(), at(50), taken_over=True)
    once = attrs.evolve(POLICY, on_unknown=OnUnknown.AT_MOST_ONCE)
    assert isinstance(after_lookup(taken, RepeatSafe(40), at(51), once), GiveUp)


def test_a_repeat_that_was_not_sent_leaves_the_first_as_unknown_as_before():
    """The channel was busy: past the time for repeats, at most once means that nothing goes out any more."""
    once = attrs.evolve(POLICY, on_unknown=OnUnknown.AT_MOST_ONCE)
    repeat = after_lookup(sent(), RepeatSafe(100), at(9), once)
    wait = after_send(repeat.entry, NotSent("busy", 60), at(10), once)
    assert isinstance(wait, Later)
    asked = next_delivery_action(wait.entry, at(70), once)
    assert isinstance(asked, LookUp)
    again = after_lookup(asked.entry, RepeatSafe(100), at(70), once)
    assert isinstance(again, Send)
    assert again.entry.unknowns == 1, "only the first one is of unknown fate"
    assert isinstance(after_lookup(asked.entry, RepeatSafe(100), at(100), once), GiveUp)


def test_a_host_may_turn_repeats_off():
    off = attrs.evolve(POLICY, repeat_safely=False, on_unknown=OnUnknown.AT_MOST_ONCE)
    assert isinstance(after_lookup(sent(), RepeatSafe(600), at(1), off), GiveUp)
    with pytest.raises(ConfigurationError, match="repeat_safely is True or False"):
        DeliveryPolicy(repeat_safely="yes")


def test_a_look_up_that_knows_more_says_it():
    """The message's id, or why it failed and what would go through."""
    done = after_lookup(sent(), Found("7", MessageForm.TEXT), at(9), POLICY)
    assert isinstance(done, Done)
    assert (done.receipt.message_id, done.receipt.form) == ("7", MessageForm.TEXT)
    watched = after_lookup(sent(), Found("7", accepted=True), at(9), POLICY)
    assert isinstance(watched, Watch)
    assert watched.receipt.message_id == "7"
    step = after_lookup(sent(), Failed("codec", then=MessageForm.DOCUMENT), at(9), POLICY)
    assert isinstance(step, Send)
    assert (step.entry.form, step.entry.reasons, step.entry.unquoted) == (MessageForm.DOCUMENT, ("codec",), False)
    assert isinstance(after_lookup(sent(), Failed("blocked", try_text=False), at(9), POLICY), GiveUp)


# --- what a channel has prepared ---


@pytest.mark.parametrize("receipt", [NotSent("busy"), Unknown("lost"), Refused("no"), Refused("no", then="upload")])
def test_what_a_channel_has_prepared_is_kept_for_its_next_try(receipt):
    step = after_send(sent(), attrs.evolve(receipt, prepared={"media": "m-1"}), at(1), POLICY)
    assert step.entry.prepared == {"media": "m-1"}
    again = after_send(attrs.evolve(step.entry, sending_ms=at(2)), receipt, at(3), POLICY)
    assert again.entry.prepared == {"media": "m-1"}, "a receipt that says nothing of it changes nothing"


@pytest.mark.parametrize("kept", [{"x": "y" * 2048}, {"x": object()}, ["x"], "x", 7, {"x": float("nan")}])
def test_what_cannot_be_kept_is_prepared_anew(kept):
    """It comes from a channel, after a send: nothing raises then."""
    assert NotSent("busy", prepared=kept).prepared is None


# --- as it is stored ---


@given(
    st.sampled_from(MessageForm),
    st.frozensets(st.sampled_from(MessageForm)),
    st.none() | st.integers(0, T0),
    st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers(0, 9), max_size=3),
)
def test_an_entry_is_read_as_it_was_written(form, refused, begun_ms, prepared):
    some = sent(form=form, refused_forms=refused, begun_ms=begun_ms, prepared=prepared)
    assert OutboxEntry.from_json("job_1", some.to_json().encode()) == some


@pytest.mark.parametrize(
    ("form", "known"),
    [("video", "video"), ("upload", "video"), ("document", "video"), ("template", "text"), ("text", "text")],
)
def test_a_worker_of_an_earlier_version_finds_a_form_that_it_knows(form, known):
    """It reads `form` alone, and sends the message in that: the job is not lost in a rolling upgrade."""
    assert json.loads(sent(form=MessageForm(form)).to_json())["form"] == known


@pytest.mark.parametrize("word", ["carousel", 7, None, ["video"]])
def test_a_form_of_a_later_version_is_read_as_the_nearest_that_all_know(word):
    stored = json.loads(sent(form=MessageForm.UPLOAD).to_json()) | {"sendAs": word, "refused": ["carousel", "text", 7]}
    read = OutboxEntry.from_json("job_1", json.dumps(stored).encode())
    assert (read.form, read.refused_forms) == (MessageForm.VIDEO, {MessageForm.TEXT})


def sent(**changes) -> OutboxEntry:
    """Give a delivery with one send under way."""
    return entry(**{"tries": 1, "sending_ms": at(0), "begun_ms": at(0), **changes})
