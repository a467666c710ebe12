"""Conclude and redeliver: an outcome is kept in the outbox until its user has it."""

from __future__ import annotations

import pytest

from videopoll.jobs import JobState
from videopoll.jobs.transition import (
    BeginSend,
    Conclude,
    Redeliver,
    Reschedule,
    SendWork,
    TransitionResult,
)


def test_an_expired_delivery_resumes_with_the_delivery(bench):
    """The outcome is known: the API is not asked again."""
    claim = bench.one()
    entry = bench.entry(claim, tries=1, sending_ms=bench.now_ms())
    bench.apply(Conclude(claim, entry, 600, 12_000), BeginSend(claim, entry, 600, 12_000))
    bench.expire_lease()
    (taken,) = bench.claim()
    assert taken.taken_over
    assert taken.work == SendWork(entry)


def test_ending_the_polling_renews_the_lease(bench):
    """The send that begins with it has the whole lease before it."""
    claim = bench.one()
    bench.expire_lease()

    assert bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000)) == [TransitionResult.APPLIED]

    assert bench.db.zscore(bench.keys.inflight, "job_1") > bench.now_ms() + 11_000


def test_a_conclusion_stores_the_outcome_and_clears_the_polling(bench):
    """In one step, before anything is sent; the lease stays."""
    claim = bench.one()
    bench.apply(Reschedule(claim, 1, 1))
    (claim,) = bench.claim()
    bench.db.zadd(bench.keys.schedule, {"job_1": 99})
    assert bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000)) == [TransitionResult.APPLIED]
    assert bench.names() == {"poll:outbox:job_1", "poll:inflight", "poll:leases"}
    assert 590 < bench.db.ttl(bench.keys.outbox("job_1")) <= 600


def test_a_conclusion_beside_a_foreign_lock_waits_for_its_end(bench):
    """Our lock vanished and another kind of worker took it: it may be sending this very outcome."""
    claim = bench.one()
    bench.db.set(bench.keys.lock("job_1"), "foreign", px=40_000)
    assert bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000)) == [TransitionResult.CONTENDED]
    assert bench.db.zscore(bench.keys.schedule, "job_1") == pytest.approx(bench.now_ms() + 40_000, abs=1500)
    assert bench.names() == {"job:job_1", "lock:job_1", "attempts:job_1", "poll:schedule"}


def test_a_conclusion_of_what_somebody_else_finished_sends_nothing(bench):
    """The user has their message already, and only the audit trail is left."""
    claim = bench.one()
    bench.db.delete(bench.keys.job("job_1"))
    bench.db.set(bench.keys.completed("job_1"), '{"success":true}', ex=60)
    assert bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000)) == [TransitionResult.FINISHED_ELSEWHERE]
    assert bench.names() == {"completed:job_1"}


def test_a_conclusion_after_the_record_expired_is_stored(bench):
    """The worker has the job in its hands: the video is not lost with the record."""
    claim = bench.one()
    bench.db.delete(bench.keys.job("job_1"))
    assert bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000)) == [TransitionResult.APPLIED]
    assert bench.get().state is JobState.DELIVERING


def test_a_delivery_put_back_is_taken_when_it_is_due(bench):
    """On its own schedule, outside the poll timeout."""
    claim = bench.one()
    entry = bench.entry(claim, tries=3)
    bench.apply(Conclude(claim, entry, 600, 12_000), Redeliver(claim, entry, 600, bench.now_ms() + 50_000))
    assert bench.claim() == ()
    bench.db.zadd(bench.keys.deliveries, {"job_1": 77})
    (claim,) = bench.claim()
    assert (claim.work, claim.due_ms) == (SendWork(entry), 77)
    assert not bench.db.exists(bench.keys.lock("job_1"), bench.keys.attempts("job_1")), "a delivery never counts"
