"""Cancel: a job ends before its video."""

from __future__ import annotations

import json

import pytest

from kit.bench import bring
from videopoll import (
    OutcomeKind,
)
from videopoll.jobs import JobState
from videopoll.jobs.transition import (
    Conclude,
    MissingRecord,
    TransitionResult,
)
from videopoll.jobs.views import CancelResult


@pytest.mark.parametrize("notify", [False, True])
@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.SCHEDULED, JobState.POLLING, JobState.ORPHANED])
def test_a_job_that_is_still_polled_can_be_cancelled(bench, state, notify):
    """It is never polled again; its user hears of it only if the host wants that."""
    claim = bring(bench, state)
    assert bench.call(bench.queue.cancel("job_1", notify=notify)) is CancelResult.CANCELLED
    if claim is not None:
        before = bench.everything()
        assert bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000)) == [TransitionResult.LOST]
        assert bench.everything() == before
    taken = bench.claim()
    if notify:
        assert [claim.work.entry.outcome.kind for claim in taken] == [OutcomeKind.CANCELLED]
        assert bench.finish(taken[0]) == "delivered"
    else:
        assert taken == ()
    assert bench.names() == {"completed:job_1"}
    told = json.loads(bench.db.get(bench.keys.completed("job_1")))
    assert (told["success"], told["error"], told["jobId"]) == (False, "Cancelled", "job_1")
    assert told["delivered"] is notify


@pytest.mark.parametrize("notify", [False, True])
def test_an_outcome_that_waits_can_be_cancelled(bench, notify):
    """The messenger has been down for an hour, and nobody wants the video any more."""
    bring(bench, JobState.OUTBOX)
    assert bench.call(bench.queue.cancel("job_1", notify=notify)) is CancelResult.CANCELLED
    taken = bench.claim()
    assert [claim.work.entry.outcome.kind for claim in taken] == [OutcomeKind.CANCELLED] * notify


@pytest.mark.parametrize("notify", [False, True])
@pytest.mark.parametrize(
    ("state", "result"),
    [
        (JobState.DELIVERING, CancelResult.SENDING),
        (JobState.SETTLED, CancelResult.FINISHED),
        (JobState.DEAD, CancelResult.FINISHED),
    ],
)
def test_a_cancel_that_comes_too_late_changes_nothing(bench, state, result, notify):
    """It says so."""
    bring(bench, state)
    before = bench.everything()
    assert bench.call(bench.queue.cancel("job_1", notify=notify)) is result
    assert bench.everything() == before


def test_a_cancel_of_nothing_says_unknown(bench):
    """And makes no job of it."""
    assert bench.call(bench.queue.cancel("nobody")) is CancelResult.UNKNOWN
    assert bench.names() == set()


def test_a_cancel_in_a_long_list_needs_no_search(bench):
    """The id is dropped when a worker meets it."""
    bench.enqueue()
    bench.db.lpush(bench.keys.queue, *(f"other_{number}" for number in range(1001)))
    assert bench.call(bench.queue.cancel("job_1")) is CancelResult.CANCELLED
    bench.db.ltrim(bench.keys.queue, -1, -1)
    (claim,) = bench.claim()
    assert claim.work == MissingRecord(finished=True)
    assert bench.finish(claim) == "gone"
    assert bench.names() == {"completed:job_1"}


@pytest.mark.parametrize("notify", [False, True])
def test_a_job_under_a_foreign_lock_is_not_cancelled(bench, notify):
    """Its holder may be sending: it looks at the record no more."""
    bench.enqueue()
    bench.db.set(bench.keys.lock("job_1"), "foreign", ex=60)
    before = bench.everything()
    assert bench.call(bench.queue.cancel("job_1", notify=notify)) is CancelResult.SENDING
    assert bench.everything() == before
    bench.db.delete(bench.keys.lock("job_1"))
    assert bench.call(bench.queue.cancel("job_1", notify=notify)) is CancelResult.CANCELLED


def test_a_foreign_lock_without_an_end_does_not_keep_a_job_from_being_cancelled_for_ever(bench):
    """It gets the end that it should have."""
    bench.enqueue()
    bench.db.set(bench.keys.lock("job_1"), "foreign")
    assert bench.call(bench.queue.cancel("job_1")) is CancelResult.SENDING
    assert 50 < bench.db.ttl(bench.keys.lock("job_1")) <= 60
