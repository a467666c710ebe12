"""What a step asks of its runner, writes and tells until a job's polling is over, and when something raises."""

from __future__ import annotations

import logging

import attrs
import pytest

from kit.stage import APPLIED, ENDING, JOB, KEEP_S, MADE, NOW_MS, START_MS, URL, VIDEO, Stage, entry, sending
from videopoll import DeliveryPolicy, LeasePolicy, PollingStrategy, events
from videopoll._reasons import own
from videopoll.core.effects import Commit, PollApi, SendMessage
from videopoll.core.step import JobStep
from videopoll.jobs import Asset, MessageForm, OutboxEntry, Outcome, OutcomeKind, PublicLink
from videopoll.jobs.codec import Poison
from videopoll.jobs.transition import (
    Abandoned,
    Conclude,
    MissingRecord,
    PollWork,
    Redeliver,
    Release,
    Reschedule,
    TransitionResult,
)
from videopoll.messages import (
    Delivered,
    Unknown,
)
from videopoll.observations import Fault, FaultKind, NotAsked, VideoMissing, VideoReady, VideoWorking

# --- the lease, and how long a step may take ---


def test_a_lease_lasts_from_when_it_was_asked_for():
    assert Stage(asked_s=998.0).step.lease.left_s() == 10.0
    assert Stage().step.lease.left_s() == 12.0


def test_a_write_that_was_confirmed_renews_the_lease_from_when_it_was_asked_for():
    stage = Stage()
    stage.clock.now_s += 3

    stage.next(VIDEO)
    stage.next(APPLIED, after_s=2)

    assert stage.step.lease.left_s() == 10.0


def test_a_renewal_names_the_job_and_its_token_and_whether_there_is_a_lock():
    assert Stage().step.held == ("job_1", "w:1", True)
    assert Stage(entry=entry()).step.held == ("job_1", "w:1", False)


def test_a_step_may_take_its_request_and_its_sends_and_half_a_minute():
    of_its_own = {"strategy_of": lambda _: PollingStrategy(request_timeout_s=90)}

    assert Stage().step.limit_s == 30 + 15
    assert Stage(context=of_its_own).step.limit_s == 30 + 90
    assert Stage(entry=entry()).step.limit_s == 30 + 15 + 4 * 120 + 120


def test_a_step_that_delivers_begins_in_a_slot_for_sends_and_one_that_polls_does_not():
    stage, polls = Stage(entry=entry()), Stage().step
    delivers = JobStep(stage.context, stage.claim)

    assert (polls.sending, polls.polling, polls.entry) == (False, True, None)
    assert (delivers.sending, delivers.polling, delivers.entry) == (True, False, entry())
    assert (polls.released, polls.finished, polls.slot_freed, polls.pending_write) == (False, False, False, False)
    assert polls.started_s == 1000.0


def test_a_lost_lease_is_told_once_and_nothing_begins_any_more():
    stage = Stage()
    stage.told.clear()

    stage.step.lose()
    stage.step.lose()

    assert stage.told == [events.LeaseLost(worker_id="w", job_id="job_1")]
    assert stage.step.released
    assert stage.step.lease.left_s() < 0


@pytest.mark.parametrize("begun", ["poll", "delivery", "send"])
def test_a_step_whose_job_is_the_parents_of_a_forked_child_gives_nothing_back_and_says_nothing(begun):
    """Its copy in the child would hand a job on that its parent is at."""
    stage = Stage() if begun == "poll" else Stage(entry=entry())
    if begun == "send":
        sending(stage)
    stage.told.clear()

    stage.step.disown()

    assert stage.step.release() is None
    assert (stage.step.released, stage.told) == (True, [])
    assert stage.step.lease.left_s() < 0


def test_a_step_whose_job_is_the_parents_of_a_forked_child_begins_no_send():
    stage = Stage(entry=entry(ENDING), context={"delivery": DeliveryPolicy(video_attempts=1)})
    stage.step.disown()

    assert isinstance(stage.next(VIDEO), Commit)
    assert stage.next(APPLIED) is None


# --- release ---


def test_a_job_that_has_ended_is_not_given_back():
    stage = Stage()
    stage.next(VideoWorking())
    assert not stage.step.finished
    stage.next(None)

    assert stage.step.finished
    assert stage.step.release() is None


def test_a_delivery_is_given_back_to_be_due_at_once_without_a_send_that_was_not_begun():
    stage = Stage(entry=entry(ENDING))
    assert isinstance(stage.effect, PollApi)

    assert stage.step.release(sends_go_on_s=30) == Redeliver(stage.claim, entry(ENDING), KEEP_S, NOW_MS)
    assert stage.step.released
    assert stage.step.lease.left_s() < 0


def test_a_send_under_way_is_handed_on_as_long_as_it_may_still_go_on():
    stage = sending(Stage(entry=entry()))

    written = stage.step.release(sends_go_on_s=2.5)

    assert written == Redeliver(stage.claim, attrs.evolve(stage.step.entry, sending_ms=NOW_MS + 2500), KEEP_S, NOW_MS)
    assert sending(Stage(entry=entry())).step.release().entry.sending_ms == NOW_MS


@pytest.mark.parametrize("work", [Abandoned(JOB, MADE), MissingRecord(finished=False), Poison("no JSON")])
def test_what_is_no_poll_is_not_given_back_as_one(work):
    step = JobStep(Stage().context, Stage(work=work).claim)

    assert step.release() is None


def test_a_step_that_was_released_during_a_renewal_of_its_link_begins_nothing():
    stage = Stage(entry=entry(ENDING), context={"delivery": DeliveryPolicy(video_attempts=1)})
    stage.step.release()

    assert isinstance(stage.next(VIDEO), Commit)
    assert stage.next(APPLIED) is None


def test_a_send_that_is_given_up_may_not_begin_any_more():
    stage = Stage(entry=entry())
    stage.step.give_up_send()
    sending(stage)
    message = stage.effect.message
    assert message.may_still_send()

    stage.step.give_up_send()

    assert not message.may_still_send()


def test_a_send_that_has_come_back_may_not_begin_any_more():
    """What is left of it may still stand before its first byte."""
    stage = sending(Stage(entry=entry()))
    message = stage.effect.message

    stage.next(Unknown("no reply"))

    assert not message.may_still_send()


# --- polls ---


def test_a_first_poll_is_told_of_and_later_ones_are_not():
    first = Stage(work=PollWork(JOB, 1, 0, None))

    assert first.told == [events.JobClaimed(worker_id="w", job_id="job_1", taken_over=False)]
    assert first.passed == [("after_claim", "job_1")]
    assert first.effect == PollApi(JOB, 15.0)
    assert Stage().told == []


def test_a_job_that_is_taken_over_is_told_of():
    assert Stage(taken_over=True).told == [events.JobClaimed(worker_id="w", job_id="job_1", taken_over=True)]


def test_a_job_whose_account_may_be_left_alone_is_told_of_once_it_was_asked_about():
    stage = Stage(work=PollWork(JOB, 1, 0, None), context={"holds_back": True})
    assert stage.told == []

    stage.next(VideoWorking())

    assert [type(event) for event in stage.told] == [events.JobClaimed, events.JobPolled]
    later = Stage(context={"holds_back": True})
    later.next(VideoWorking())
    assert [type(event) for event in later.told] == [events.JobPolled]


def test_a_job_that_was_not_asked_about_is_given_back_until_its_account_is_free():
    stage = Stage(work=PollWork(JOB, 1, 0, None), context={"holds_back": True})

    stage.next(NotAsked(7.5), after_s=1)

    assert stage.effect == Commit(Release(stage.claim, NOW_MS + 8500), wait=False)
    assert stage.next(None) is None
    assert stage.told == []
    assert stage.step.finished


def test_a_job_that_was_not_asked_about_until_its_end_ends():
    stage = Stage(context={"strategy": PollingStrategy(timeout_s=15, initial_delay_s=1, not_found_grace_s=1)})

    stage.next(NotAsked(60), after_s=10)

    assert isinstance(stage.written, Conclude)
    assert stage.written.entry.outcome.kind is OutcomeKind.TIMED_OUT


def test_an_answer_is_written_with_all_that_the_api_told():
    stage = Stage(work=PollWork(JOB, 2, 3, START_MS))

    stage.next(VideoWorking("queued", progress=0.25, queue_position=4), after_s=1.5)

    assert stage.effect == Commit(
        Reschedule(stage.claim, NOW_MS + 10_000, 0, NOW_MS + 1500, None, None, None, 0.25, 4, None), wait=False
    )
    assert stage.passed == [("after_claim", "job_1"), ("after_poll", "job_1")]
    assert stage.told[-1].took_s == 1.5
    assert (stage.told[-1].lag_s, stage.told[-1].next_s) == (0.0, 8.5)


def test_a_fault_is_written_with_its_kind_and_backs_off():
    stage = Stage(work=PollWork(JOB, 2, 1, START_MS, START_MS + 1, missing_ms=START_MS + 2))

    stage.next(Fault(FaultKind.SERVER, own("HTTP 503")))

    assert stage.written == Reschedule(
        stage.claim, NOW_MS + 10_000, 2, START_MS, None, START_MS + 1, START_MS + 2, None, None, "server"
    )
    assert stage.paused == []


def test_an_answer_in_doubt_is_written_with_when_that_began():
    stage = Stage()
    stage.next(VideoWorking(error="no URL"))
    assert (stage.written.doubt_ms, stage.written.missing_ms) == (NOW_MS, None)

    missing = Stage(work=PollWork(JOB, 2, 0, START_MS, known=True))
    missing.next(VideoMissing())
    assert (missing.written.doubt_ms, missing.written.missing_ms) == (None, NOW_MS)


def test_the_counter_is_written_where_workers_of_another_kind_may_move_it_on():
    stage = Stage(context={"foreign_workers": True})

    stage.next(VideoWorking())

    assert (stage.written.attempts, stage.written.last_fault) == (2, None)


def test_chance_spreads_the_next_poll():
    stage = Stage(context={"strategy": PollingStrategy(jitter=0.4)})

    stage.next(VideoWorking())

    # 10 s, 40 % less to 40 % more: a quarter of the way from the one to the other.
    assert stage.written.due_ms == NOW_MS + 8000


def test_a_429_has_this_worker_pause_as_long_as_the_api_says():
    stage = Stage(work=PollWork(JOB, 2, 1, None))

    stage.next(Fault(FaultKind.THROTTLED, own("HTTP 429")))

    assert stage.paused == [10.0]


def test_each_job_is_judged_by_the_strategy_of_its_own_api():
    stage = Stage(context={"strategy_of": lambda job: PollingStrategy(interval_s=20, request_timeout_s=7)})
    assert stage.effect == PollApi(JOB, 7.0)

    stage.next(VideoWorking())

    assert stage.written.due_ms == NOW_MS + 20_000


def test_a_job_whose_own_strategy_cannot_be_told_goes_by_the_workers(caplog):
    def broken(_job):
        msg = "a prompt"
        raise KeyError(msg)

    with caplog.at_level(logging.ERROR):
        stage = Stage(context={"strategy_of": broken})

    assert stage.effect == PollApi(JOB, 15.0)
    [record] = caplog.records
    assert record.getMessage().startswith("The strategy of a job cannot be told; the worker's own is used\n")
    assert record.getMessage().endswith("KeyError")
    assert Stage(context={"strategy_of": lambda _: "no strategy"}).effect == PollApi(JOB, 15.0)


def test_the_strategy_of_a_job_is_told_by_the_job():
    asked = []

    Stage(context={"strategy_of": asked.append})

    assert asked == [JOB]


@pytest.mark.parametrize(
    ("due_ms", "taken_over", "asked"),
    [(NOW_MS - 3000, False, False), (NOW_MS - 3000, True, True), (NOW_MS - 2999, True, False)],
)
def test_a_job_that_was_taken_over_was_due_at_the_latest_when_its_lease_began(due_ms, taken_over, asked):
    """Its polling was to end 9 s ago, and the time of a last poll is over, too. A lease lasts 6 s."""
    strategy = PollingStrategy(timeout_s=6, interval_s=1, initial_delay_s=1, not_found_grace_s=1, request_timeout_s=2)

    context = {"strategy": strategy, "lease": LeasePolicy(duration_s=6, renew_every_s=2)}
    stage = Stage(context=context, due_ms=due_ms, taken_over=taken_over)

    assert isinstance(stage.effect, PollApi) is asked


@pytest.mark.parametrize(("taken_over", "next_ms"), [(False, NOW_MS + 7000), (True, NOW_MS + 10_000)])
def test_the_polls_of_a_job_that_was_taken_over_go_on_from_the_present_one(taken_over, next_ms):
    stage = Stage(due_ms=NOW_MS - 3000, taken_over=taken_over)

    stage.next(VideoWorking(), after_s=1)

    assert stage.written.due_ms == next_ms


def test_a_job_that_ends_without_a_place_begins_neither_a_poll_nor_a_send():
    stage = Stage(ending=True)
    assert isinstance(stage.written, Conclude)
    assert stage.written.entry.outcome.kind is OutcomeKind.TIMED_OUT
    assert stage.slots.free == 1

    stage.next(APPLIED)

    assert stage.written == Redeliver(stage.claim, stage.step.entry, KEEP_S, NOW_MS)


@pytest.mark.parametrize(("grace_s", "ended"), [(10, True), (11, False)])
def test_a_clock_that_stepped_back_during_a_poll_makes_no_answer_newer(grace_s, ended):
    """Ten seconds after its start, by the new time, the API does not know the job."""
    stage = Stage(context={"strategy": PollingStrategy(not_found_grace_s=grace_s)})
    stage.context.clock.set(NOW_MS - 5000)

    stage.next(VideoMissing())

    assert isinstance(stage.written, Conclude) is ended


# --- the end of polling ---


def test_an_outcome_is_stored_with_the_note_of_its_send_and_told_of_when_that_is_written():
    stage = Stage()
    stage.next(VIDEO)
    noted = OutboxEntry(
        job=JOB,
        outcome=Outcome(OutcomeKind.COMPLETED, NOW_MS, video_url=URL, assets=stage.written.entry.outcome.assets),
        form=MessageForm.VIDEO,
        deadline_ms=NOW_MS + 3_600_000,
        tries=1,
        sending_ms=NOW_MS,
        begun_ms=NOW_MS,
    )
    assert stage.effect == Commit(Conclude(stage.claim, noted, KEEP_S, 12_000))
    assert stage.step.pending_write
    assert stage.step.polling
    assert stage.passed[-1] == ("before_conclude", "job_1")
    assert [type(event) for event in stage.told] == [events.JobPolled]

    stage.next(APPLIED)

    assert not stage.step.pending_write
    assert stage.step.entry == noted
    assert stage.passed[-2:] == [("after_conclude", "job_1"), ("before_send", "job_1")]
    concluded = events.JobConcluded(
        worker_id="w", job_id="job_1", conversation_id="c", outcome=OutcomeKind.COMPLETED, elapsed_s=15.0, attempts=2
    )
    assert stage.told[-1] == concluded


def test_a_link_that_has_just_been_given_is_not_asked_for_again_however_soon_it_ends():
    stage = Stage()
    stage.next(VideoReady(assets=(Asset(PublicLink(URL, lives_s=60)),), refreshable=True))
    assert stage.written.entry.tries == 1

    assert isinstance(stage.next(APPLIED), SendMessage)


def test_what_is_released_while_an_outcome_is_stored_is_a_delivery_that_was_not_tried():
    stage = Stage()
    stage.next(VIDEO)

    unsent = attrs.evolve(stage.written.entry, tries=0, sending_ms=None, begun_ms=None)

    assert stage.step.release() == Redeliver(stage.claim, unsent, KEEP_S, NOW_MS)


@pytest.mark.parametrize("verdict", [TransitionResult.CONTENDED, TransitionResult.FINISHED_ELSEWHERE])
def test_an_outcome_that_another_kind_of_worker_stored_is_no_lost_lease(verdict):
    stage = Stage()
    stage.next(VIDEO)

    assert stage.next(verdict) is None
    assert [type(event) for event in stage.told] == [events.JobPolled]
    assert stage.step.entry is None
    assert not stage.step.released


def test_an_outcome_for_which_the_lease_was_lost_is_told_as_that():
    stage = Stage()
    stage.next(VIDEO)

    assert stage.next(TransitionResult.LOST) is None
    assert stage.told[-1] == events.LeaseLost(worker_id="w", job_id="job_1")
    assert not stage.step.pending_write


def test_a_lease_that_this_worker_released_itself_is_not_lost():
    stage = Stage()
    stage.next(VIDEO)
    stage.step.release()

    assert stage.next(TransitionResult.LOST) is None
    assert [type(event) for event in stage.told] == [events.JobPolled]


def test_without_a_place_the_delivery_is_due_at_once_for_whoever_has_one():
    stage = Stage(places=0)
    stage.next(VIDEO)
    stored = stage.written.entry

    stage.next(APPLIED)

    assert stage.effect == Commit(Redeliver(stage.claim, stored, KEEP_S, NOW_MS))
    assert stage.next(APPLIED) is None
    assert [type(event) for event in stage.told] == [events.JobPolled, events.JobConcluded]


# --- what raises ---


def test_a_poll_in_which_something_raises_counts_as_a_fault_of_ours(caplog):
    stage = Stage(work=PollWork(JOB, 2, 1, START_MS))
    stage.clock.now_s += 1

    with caplog.at_level(logging.ERROR):
        stage.throw(KeyError("a prompt"))

    assert stage.written == Reschedule(
        stage.claim, NOW_MS + 1000 + 10_000, 2, START_MS, None, None, None, None, None, "internal"
    )
    polled = stage.told[-1]
    assert (polled.fault, polled.detail, polled.took_s) == (
        FaultKind.INTERNAL,
        "a step of the worker raised KeyError",
        0.0,
    )
    assert (polled.lag_s, polled.next_s) == (1.0, 10.0)
    [record] = caplog.records
    assert record.getMessage().startswith("A job's step failed; it counts as a fault, and is tried again\n")
    assert record.getMessage().endswith("KeyError")
    assert "a prompt" not in record.getMessage()
    assert stage.next(None) is None
    assert stage.step.finished


def test_chance_spreads_the_poll_after_one_in_which_something_raised():
    stage = Stage(context={"strategy": PollingStrategy(jitter=0.4)})

    stage.throw(KeyError())

    assert stage.written.due_ms == NOW_MS + 4000


def test_a_poll_in_which_something_raises_moves_the_counter_of_workers_of_another_kind_on():
    stage = Stage(context={"foreign_workers": True})

    stage.throw(KeyError())

    assert stage.written.attempts == 2


def test_an_event_that_raises_after_an_outcome_was_stored_leaves_a_delivery():
    """It is no poll any more: the user gets what was stored."""
    stage = Stage()
    stage.next(VIDEO)

    def broken(*_told):
        raise KeyError

    stage.context.emit = broken
    stage.next(APPLIED)

    assert isinstance(stage.written, Redeliver)


def test_a_log_that_raises_harms_no_job(monkeypatch):
    def broken(*_args):
        raise OSError

    monkeypatch.setattr("videopoll.core.step.log.error", broken)
    stage = Stage()

    stage.throw(KeyError())

    assert isinstance(stage.written, Reschedule)


def test_a_last_poll_in_which_something_raised_ends_the_job_with_the_polls_that_it_took():
    stage = Stage(context={"strategy": PollingStrategy(timeout_s=15, initial_delay_s=1, not_found_grace_s=1)})
    stage.clock.now_s += 25.001

    stage.throw(KeyError())
    stage.next(APPLIED)

    [concluded] = [event for event in stage.told if isinstance(event, events.JobConcluded)]
    assert (concluded.outcome, concluded.attempts, concluded.job_id) == (OutcomeKind.TIMED_OUT, 2, "job_1")


def test_a_send_in_which_something_raises_may_have_gone_out():
    stage = sending(Stage(entry=entry()))

    stage.throw(KeyError("a prompt"))

    assert stage.written.entry.sending_ms == NOW_MS
    assert stage.written.entry.reasons == ("a step of the worker raised KeyError",)
    assert stage.written.due_ms == NOW_MS + 2000


def test_a_delivery_in_which_something_raises_before_its_send_was_not_sent():
    stage = Stage(entry=entry(ENDING, tries=1))
    assert isinstance(stage.effect, PollApi)

    stage.throw(KeyError("a prompt"))

    assert isinstance(stage.written, Redeliver)
    assert (stage.written.entry.sending_ms, stage.written.entry.form_failures) == (None, 1)
    assert stage.written.entry.reasons == ("a step of the worker raised KeyError",)


def test_what_was_being_written_when_something_raised_is_written():
    stage = sending(Stage(entry=entry()))
    stage.next(Delivered())
    settled = stage.effect

    stage.throw(KeyError())

    assert stage.effect == settled
    assert stage.next(APPLIED) is None
    assert stage.step.finished


def test_what_raises_over_something_that_is_no_job_is_raised():
    stage = Stage(work=MissingRecord(finished=True))

    with pytest.raises(KeyError):
        stage.throw(KeyError())
    assert not stage.step.finished
