"""Settle: the audit trail stays, and nothing else."""

from __future__ import annotations

from videopoll.jobs import DeadLetter
from videopoll.jobs.transition import (
    MissingRecord,
    PollWork,
    Settle,
    TransitionResult,
)


def test_a_settlement_leaves_the_audit_trail_and_nothing_else(bench):
    """After the retention time nothing is left behind."""
    claim = bench.one()
    bench.db.hset(bench.keys.faults, "job_1", "1:")
    bench.db.zadd(bench.keys.schedule, {"job_1": 99})
    bench.db.zadd(bench.keys.deliveries, {"job_1": 99})
    bench.apply(Settle(claim, '{"success":true}'))
    assert bench.names() == {"completed:job_1"}
    assert 7190 < bench.db.ttl(bench.keys.completed("job_1")) <= 7200


def test_a_settlement_leaves_a_foreign_lock_alone(bench):
    """It is not ours to delete."""
    claim = bench.one()
    bench.db.set(bench.keys.lock("job_1"), "foreign", ex=60)
    bench.apply(Settle(claim, "{}"))
    assert bench.names() == {"completed:job_1", "lock:job_1"}


def test_a_job_that_is_enqueued_again_while_its_old_self_is_buried_lives(bench):
    """A bare id on its way to the dead letters must not take the new record with it."""
    bench.enqueue()
    bench.db.delete(bench.keys.job("job_1"))
    (bare,) = bench.claim()
    assert bare.work == MissingRecord(finished=False)
    bench.enqueue()

    (verdict,) = bench.call(bench.queue.apply([Settle(bare, letter=DeadLetter("job_1", "no record", 1))]))

    assert verdict is TransitionResult.FINISHED_ELSEWHERE
    assert bench.call(bench.queue.counts()).dead == 0
    (claim,) = bench.claim()
    assert isinstance(claim.work, PollWork)
