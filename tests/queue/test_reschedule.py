"""Reschedule and release: a job is polled again, with its history."""

from __future__ import annotations

import pytest

from kit.bench import AT_ONCE
from videopoll.jobs import JobState
from videopoll.jobs.transition import (
    Release,
    Reschedule,
    TransitionResult,
)


def test_a_rescheduled_job_is_polled_again_with_its_history(bench):
    """The faults in a row and the last answer survive the worker."""
    claim = bench.one()
    bench.apply(Reschedule(claim, bench.now_ms() - 1, 3, 1_757_157_518_747))
    assert not bench.db.exists(bench.keys.lock("job_1"))
    assert not bench.db.exists(bench.keys.inflight)
    (claim,) = bench.claim()
    assert (claim.work.attempts, claim.work.faults, claim.work.last_answer_ms) == (2, 3, 1_757_157_518_747)
    bench.apply(Reschedule(claim, bench.now_ms() - 1))
    assert not bench.db.exists(bench.keys.faults)
    (claim,) = bench.claim()
    assert (claim.work.attempts, claim.work.faults) == (3, 0)


@pytest.mark.parametrize("faults", [0, 2])
def test_a_job_given_back_is_due_at_once_and_its_poll_did_not_count(bench, faults):
    """An orderly stop costs the user nothing: the id rings the doorbell of the next worker."""
    claim = bench.one(strategy=AT_ONCE)
    bench.apply(Reschedule(claim, bench.now_ms() - 1, faults))
    (claim,) = bench.claim()
    assert claim.work.attempts == 2
    assert bench.apply(Release(claim)) == [TransitionResult.APPLIED]
    assert bench.db.get(bench.keys.attempts("job_1")) == b"1"
    assert 0 < bench.db.ttl(bench.keys.attempts("job_1")) <= 600
    assert not bench.db.exists(bench.keys.lock("job_1"))
    assert bench.db.lrange(bench.keys.queue, 0, -1) == [b"job_1"]
    (again,) = bench.claim()
    assert (again.work.attempts, again.work.faults) == (2, faults)


def test_a_first_poll_given_back_leaves_no_counter(bench):
    """As if it had never been taken."""
    claim = bench.one()
    bench.apply(Release(claim))
    assert bench.names() == {"job:job_1", "poll:queue"}
    assert bench.claim()[0].work.attempts == 1


def test_a_job_taken_over_and_given_back_has_the_counter_of_before(bench):
    """The dead worker's attempt is the one that is undone: nobody knows whether it was made."""
    bench.one()
    bench.expire_lease()
    (claim,) = bench.claim()
    bench.apply(Release(claim))
    assert not bench.db.exists(bench.keys.attempts("job_1"))
    (claim,) = bench.claim()
    assert claim.work.attempts == 1


def test_progress_is_kept_for_whoever_looks_and_judges_nothing(bench):
    """An API's own figures are shown; what is remembered of faults and answers stays what it is."""
    claim = bench.one()
    bench.apply(Reschedule(claim, bench.now_ms() - 1, 2, 1_757_157_518_747, progress=0.405, queue_position=3))
    view = bench.call(bench.queue.get("job_1"))
    assert (view.progress, view.queue_position, view.faults) == (0.405, 3, 2)
    (claim,) = bench.claim()
    assert (claim.work.faults, claim.work.last_answer_ms, claim.work.doubt_ms) == (2, 1_757_157_518_747, None)
    bench.apply(Reschedule(claim, bench.now_ms() - 1, 0, 1_757_157_518_747, progress=0.0))
    view = bench.call(bench.queue.get("job_1"))
    assert (view.progress, view.queue_position) == (0.0, None)
    (claim,) = bench.claim()
    bench.apply(Reschedule(claim, bench.now_ms() - 1))
    assert bench.call(bench.queue.get("job_1")).progress is None


def test_the_last_fault_is_remembered_for_the_reason(bench):
    claim = bench.one()
    bench.apply(Reschedule(claim, bench.now_ms() - 1, 2, last_fault="server"))
    (claim,) = bench.claim()
    assert (claim.work.faults, claim.work.last_fault) == (2, "server")
    bench.apply(Reschedule(claim, bench.now_ms() - 1))
    (claim,) = bench.claim()
    assert claim.work.last_fault is None
    bench.apply(Reschedule(claim, bench.now_ms() - 1, 1))
    bench.db.hset(bench.keys.faults, "job_1", "1::::::0:words of another program")
    assert bench.claim()[0].work.last_fault is None


@pytest.mark.parametrize("state", ["", "x", "1:2:3:4:5:6:7:8:9", "0:::::nan:", ":::::", "0:1::::999999:-5"])
def test_damaged_progress_harms_nothing(bench, state):
    claim = bench.one()
    bench.apply(Reschedule(claim, bench.now_ms() - 1, progress=0.5))
    bench.db.hset(bench.keys.faults, "job_1", state)
    bench.call(bench.queue.get("job_1"))
    assert bench.claim()[0].work.attempts == 2


def test_what_was_not_asked_keeps_its_counters_and_waits_in_the_schedule(bench):
    first = bench.one()
    bench.apply(Reschedule(first, bench.now_ms(), 1, last_fault="server"))
    (claim,) = bench.claim()
    due_ms = bench.now_ms() + 60_000
    bench.apply(Release(claim, due_ms))
    view = bench.get()
    assert (view.state, view.due_ms, view.attempts, view.faults) == (JobState.SCHEDULED, due_ms, 1, 1)
    assert (view.lease_ms, bench.counts().queued) == (None, 0)
