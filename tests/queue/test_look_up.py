"""Look-ups: where a job is, and how many are where. They change nothing."""

from __future__ import annotations

import pytest

from kit.bench import bring
from videopoll.errors import InvalidJobError
from videopoll.jobs import DeadLetter, JobState
from videopoll.jobs.transition import (
    Conclude,
    Redeliver,
    Reschedule,
    Settle,
)


@pytest.mark.parametrize("state", list(JobState))
def test_a_job_tells_where_it_is(bench, state):
    """For hosts, and for the person at the command line."""
    claim = bring(bench, state)
    view = bench.get()
    assert view.state is state
    assert view.job_id == "job_1"
    assert view.job is None or view.job.conversation_id == "conversation"
    expected_due = {JobState.SCHEDULED, JobState.OUTBOX, JobState.WATCHED}
    assert (view.due_ms is not None) == (state in expected_due)
    assert (view.lease_ms is not None) == (state in {JobState.POLLING, JobState.DELIVERING})
    assert (view.holder == "w") == (state in {JobState.POLLING, JobState.DELIVERING})
    assert view.attempts == (1 if state in {JobState.SCHEDULED, JobState.POLLING} else 0)
    assert view.faults == (2 if state is JobState.SCHEDULED else 0)
    assert view.delivered is {JobState.SETTLED: True, JobState.DEAD: False}.get(state)
    known = {JobState.DELIVERING, JobState.OUTBOX, JobState.WATCHED, JobState.SETTLED, JobState.DEAD}
    assert (view.outcome is not None) == (state in known)
    assert not view.foreign_lock
    assert claim is None or claim.job_id == "job_1"


def test_a_job_that_nobody_knows_is_none(bench):
    """And a hostile id is refused like everywhere else."""
    assert bench.get("nobody") is None
    with pytest.raises(InvalidJobError):
        bench.get("no\nbody")


def test_a_look_up_changes_nothing_and_bears_anything(bench):
    """An operator looks at a damaged job in particular."""
    bench.enqueue()
    bench.db.set(bench.keys.job("job_1"), "not JSON", ex=60)
    bench.db.set(bench.keys.attempts("job_1"), "9" * 5000, ex=60)
    bench.db.set(bench.keys.lock("job_1"), b"\xff", ex=60)
    bench.db.set(bench.keys.completed("job_1"), "[", ex=60)
    bench.db.zadd(bench.keys.schedule, {"job_1": "inf"})
    bench.db.hset(bench.keys.faults, "job_1", b"\xff:x")
    bench.db.hset(bench.keys.letters, "job_1", b"\xff")
    bench.db.expire(bench.keys.letters, 60)
    before = bench.everything()
    view = bench.get()
    assert view.foreign_lock
    assert view.job is None
    assert bench.everything() == before
    bench.db.delete(bench.keys.letters, bench.keys.faults)


def test_the_counts_tell_how_many_jobs_are_where(bench):
    """In constant time, from one look."""
    for number in range(6):
        bench.enqueue(f"job_{number}")
    claims = bench.claim(polls=5)
    due_ms = bench.now_ms() + 40_000
    bench.apply(Reschedule(claims[0], due_ms))
    entry = bench.entry(claims[1])
    bench.apply(Conclude(claims[1], entry, 600, 12_000), Redeliver(claims[1], entry, 600, due_ms))
    bench.apply(Settle(claims[2], letter=DeadLetter(claims[2].job_id, "why", 1)))
    counts = bench.counts()
    assert (counts.queued, counts.scheduled, counts.in_flight, counts.deliveries, counts.dead) == (1, 1, 2, 1, 1)
    assert counts.oldest_due_ms == due_ms
    assert counts.now_ms == pytest.approx(bench.now_ms(), abs=2000)


def test_nothing_counts_as_nothing(bench):
    """An empty Redis is no error."""
    counts = bench.counts()
    assert (counts.queued, counts.scheduled, counts.in_flight, counts.deliveries, counts.dead) == (0,) * 5
    assert counts.oldest_due_ms is None
