"""Recover: jobs that stand nowhere are taken up."""

from __future__ import annotations

import pytest

from kit import until
from kit.bench import bring, recover
from videopoll import (
    RedisVideoJobQueue,
)
from videopoll.jobs import JobState
from videopoll.queue import operations

BINARY = b"\xff\xfe\x00id"


def test_a_job_that_is_nowhere_is_taken_up(bench):
    """Another kind of worker popped it and died before it pushed it back."""
    bring(bench, JobState.ORPHANED)
    assert recover(bench) == 1
    assert bench.get().state is JobState.SCHEDULED
    assert recover(bench) == 0


def test_a_job_that_was_never_polled_is_not_due_before_its_first_delay(bench):
    """A foreign producer writes the record 5 s before it pushes the id."""
    bring(bench, JobState.ORPHANED)
    assert recover(bench, initial_delay_s=5) == 1
    assert bench.get().due_ms == pytest.approx(bench.get().job.start_ms + 5000, abs=1500)


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.ORPHANED])
def test_a_job_that_is_somewhere_is_left_alone(bench, state):
    """In the list, on the schedule, in flight, in the outbox, or ended."""
    bring(bench, state)
    before = bench.everything()
    assert recover(bench) == 0
    assert bench.everything() == before


def test_a_job_that_comes_in_meanwhile_is_not_taken_for_lost(bench, monkeypatch):
    """It was not in the list yet when that was read, and it has its record by now."""
    client = bench.queue._client
    scan = client.scan

    def late(*args, **kwargs):
        until(lambda: bench.now_ms() > read_at_ms, "the clock has moved on")
        with RedisVideoJobQueue.from_url(bench.url, prefix=bench.prefix) as producer:
            producer.enqueue("job_1", conversation_id="c")
        return scan(*args, **kwargs)

    read_at_ms = bench.now_ms()
    monkeypatch.setattr(client, "scan", late)
    assert recover(bench) == 0
    assert bench.get().state is JobState.QUEUED
    assert bench.db.zcard(bench.keys.schedule) == 0


def test_a_locked_job_is_taken_up_for_when_that_lock_ends(bench):
    """Somebody is polling it, or died while it did: a worker that looks only once must not pass it over."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.lock("job_1"), "foreign", px=50_000)
    assert recover(bench) == 1
    assert bench.get().due_ms == pytest.approx(bench.now_ms() + 50_000, abs=5000)
    assert bench.claim() == ()


def test_a_lock_of_another_kind_of_worker_without_an_end_gets_one(bench):
    """It would keep its job from everybody for ever."""
    bring(bench, JobState.ORPHANED)
    bench.enqueue("listed")
    for job_id in ("job_1", "listed"):
        bench.db.set(bench.keys.lock(job_id), "foreign")
    assert recover(bench) == 1
    assert bench.claim() == ()
    assert 50 < bench.db.ttl(bench.keys.lock("job_1")) <= 60
    assert 50 < bench.db.ttl(bench.keys.lock("listed")) <= 60


def test_a_lock_of_ours_that_nobody_holds_is_no_obstacle(bench):
    """Without its lease it is left over."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.lock("job_1"), "vp:w:1", ex=60)
    assert recover(bench, initial_delay_s=0) == 1
    assert len(bench.claim()) == 1


@pytest.mark.parametrize("held", [True, False])
def test_a_job_under_a_lock_is_lost_all_the_same_when_nobody_has_polled_it_for_long(bench, held):
    """Beside living workers of another kind, a lock alone says nothing: its counter does."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.lock("job_1"), "foreign", ex=60)
    bench.db.set(bench.keys.attempts("job_1"), 3, ex=600 - (10 if held else 100))
    assert recover(bench, idle_s=90) == (not held)


@pytest.mark.parametrize(("idle_s", "adopted"), [(89, 0), (95, 1)])
def test_a_job_is_lost_when_nobody_has_polled_it_for_long(bench, idle_s, adopted):
    """Foreign workers keep a job in their memory between two polls; its counter tells how long that has been."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.attempts("job_1"), 3, ex=600 - idle_s)
    assert recover(bench, idle_s=90) == adopted


def test_lost_jobs_are_looked_for_by_one_worker_at_a_time(bench):
    """A fleet of a hundred must not scan a hundred times."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.sweeper, "vp", ex=30)
    assert recover(bench, exclusive=True) == 0
    bench.db.delete(bench.keys.sweeper)
    assert recover(bench, exclusive=True) == 1
    assert 0 < bench.db.ttl(bench.keys.sweeper) <= 30


def test_a_look_for_lost_jobs_that_takes_long_is_made_less_often(bench, monkeypatch):
    """Where there are very many keys, it takes a fiftieth of the time at most."""
    monkeypatch.setattr(operations, "SWEEP_SHARE", 1e-9)
    recover(bench, exclusive=True, every_s=120)
    assert bench.db.ttl(bench.keys.sweeper) > 120
    bench.db.delete(bench.keys.sweeper)
    monkeypatch.undo()
    recover(bench, exclusive=True, every_s=120)
    assert 0 < bench.db.ttl(bench.keys.sweeper) <= 120


def test_many_lost_jobs_among_others_are_all_found(bench):
    """In small steps; records of a wrong type are passed over."""
    bench.call(bench.queue.enqueue_many((f"job_{number}", "c", None) for number in range(1200)))
    bench.db.ltrim(bench.keys.queue, 0, 99)
    bench.db.rpush(bench.keys.job("no record"), "x")
    bench.db.expire(bench.keys.job("no record"), 60)
    bench.db.set(bench.keys.job("").encode() + BINARY, "{}", ex=60)
    assert recover(bench) == 1101
    bench.db.delete(bench.keys.job("").encode() + BINARY)
