"""Enqueue: a job is taken in, once."""

from __future__ import annotations

import json
import re

import pytest

from kit.bench import bring, decoded
from videopoll.errors import InvalidJobError
from videopoll.jobs import JobState
from videopoll.jobs.transition import (
    Conclude,
    Redeliver,
    Reschedule,
)
from videopoll.jobs.views import EnqueueResult


def test_a_job_taken_in_twice_is_one_job(bench):
    """A web request may be repeated."""
    assert bench.enqueue(prompt="first") is EnqueueResult.CREATED
    before = bench.everything()
    assert bench.enqueue(prompt="second") is EnqueueResult.KNOWN
    assert bench.everything() == before


def test_an_enqueue_is_one_round_trip(bench):
    """It stands in a web request."""
    bench.enqueue("warm-up")
    bench.db.config_resetstat()
    bench.enqueue()
    stats = bench.db.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 1
    assert "cmdstat_eval" not in stats


def test_five_hundred_jobs_are_taken_in_with_one_round_trip(bench):
    """A back-fill of thousands must not take minutes."""
    bench.enqueue("warm-up")
    bench.db.config_resetstat()
    results = bench.call(bench.queue.enqueue_many((f"job_{number}", "c", None) for number in range(1001)))
    assert results == [EnqueueResult.CREATED] * 1001
    assert bench.db.info("commandstats")["cmdstat_evalsha"]["calls"] == 3
    assert bench.db.llen(bench.keys.queue) == 1002


def test_enqueue_many_sends_nothing_if_one_is_bad(bench):
    """Half a list is harder to repair than none."""
    with pytest.raises(InvalidJobError):
        bench.call(bench.queue.enqueue_many([("job_1", "c", None), ("job 2", "c", None)]))
    assert bench.names() == set()


def test_enqueue_many_takes_a_repeated_id_once_and_nothing_for_nothing(bench):
    """Each gets its answer, in order."""
    jobs = [("job_1", "c", None), ("job_1", "c", None), ("job_2", "c", {"a": 1})]
    results = bench.call(bench.queue.enqueue_many(jobs))
    assert results == [EnqueueResult.CREATED, EnqueueResult.KNOWN, EnqueueResult.CREATED]
    assert decoded(bench.db.lrange(bench.keys.queue, 0, -1)) == ["job_2", "job_1"]
    assert bench.call(bench.queue.enqueue_many([])) == []


def test_an_enqueue_that_was_cut_off_before_its_push_is_healed_by_the_next(bench):
    """The producer's call failed, and it was told to try again."""
    bench.enqueue()
    bench.db.delete(bench.keys.queue)
    assert bench.enqueue() is EnqueueResult.KNOWN
    assert bench.db.lrange(bench.keys.queue, 0, -1) == [b"job_1"]


@pytest.mark.parametrize(("idle_s", "pushed"), [(85, False), (95, True)])
def test_a_job_in_another_workers_memory_is_not_pushed_again_unless_it_is_lost(bench, idle_s, pushed):
    """Between two polls it stands nowhere; its counter tells whether somebody still polls it."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.attempts("job_1"), 3, ex=600 - idle_s)
    assert bench.enqueue() is EnqueueResult.KNOWN
    assert bench.db.llen(bench.keys.queue) == pushed
    assert bench.db.get(bench.keys.attempts("job_1")) == b"3"


@pytest.mark.parametrize("ttl_ms", [50_000, None], ids=["with an end", "without an end"])
def test_a_job_under_another_workers_lock_is_not_pushed_again(bench, ttl_ms):
    """It is being polled, perhaps for the first time. A lock without an end says nothing."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.lock("job_1"), "foreign", px=ttl_ms)
    assert bench.enqueue() is EnqueueResult.KNOWN
    assert bench.db.llen(bench.keys.queue) == (ttl_ms is None)
    bench.claim()
    assert bench.db.ttl(bench.keys.lock("job_1")) <= 60


@pytest.mark.parametrize(("age_s", "pushed"), [(5, False), (20, True)])
def test_a_record_of_another_producer_is_left_to_it_for_a_while(bench, age_s, pushed):
    """It pushes the id 5 s after it has stored the record; twice in the list, their workers poll it twice as often."""
    record = {"jobId": "job_1", "conversationId": "c", "startTime": bench.now_ms() - age_s * 1000, "status": "polling"}
    bench.db.set(bench.keys.job("job_1"), json.dumps(record), ex=600 - age_s)
    assert bench.enqueue() is EnqueueResult.KNOWN
    assert bench.db.llen(bench.keys.queue) == pushed


def test_a_new_job_does_not_inherit_the_attempts_of_an_old_one(bench):
    """The record of its former life expired before its counter did."""
    bench.db.set(bench.keys.attempts("job_1"), 29, ex=100)
    assert bench.enqueue() is EnqueueResult.CREATED
    assert bench.claim()[0].work.attempts == 1


def test_an_enqueue_of_a_job_that_is_somewhere_pushes_nothing(bench):
    """On the schedule, in flight, in the outbox, ended: the id in the list would only make work."""
    claim = bench.one()
    assert bench.enqueue() is EnqueueResult.KNOWN
    bench.apply(Reschedule(claim, bench.now_ms() - 1))
    assert bench.enqueue() is EnqueueResult.KNOWN
    (claim,) = bench.claim()
    entry = bench.entry(claim)
    bench.apply(Conclude(claim, entry, 600, 12_000))
    assert bench.enqueue() is EnqueueResult.DELIVERING
    bench.apply(Redeliver(claim, entry, 600, bench.now_ms() - 1))
    assert bench.enqueue() is EnqueueResult.DELIVERING
    (claim,) = bench.claim()
    bench.finish(claim)
    assert bench.enqueue() is EnqueueResult.FINISHED
    assert not bench.db.exists(bench.keys.queue)
    assert bench.names() == {"completed:job_1"}


@pytest.mark.parametrize(
    "bad", [{"job_id": ""}, {"job_id": "a b"}, {"conversation_id": ""}, {"metadata": {"status": 1}}]
)
def test_a_bad_enqueue_writes_nothing(bench, bad):
    """It is refused before a connection is used."""
    words = {"job_id": "job_1", "conversation_id": "c", "metadata": None, **bad}
    with pytest.raises(InvalidJobError):
        bench.call(bench.queue.enqueue(words.pop("job_id"), **words))
    assert bench.names() == set()


@pytest.mark.parametrize(
    ("jobs", "says"),
    [
        ({"job_1": "c"}, "takes a list of tuples (job_id, conversation_id, metadata), got a dict"),
        ("job_1", "takes a list of tuples (job_id, conversation_id, metadata), got a str"),
        (None, "takes a list of tuples (job_id, conversation_id, metadata), got a NoneType"),
        (("job_1", "c", None), "each job of enqueue_many is a tuple (job_id, conversation_id, metadata), got a str"),
        ([{"job_id": "job_1"}], "each job of enqueue_many is a tuple (job_id, conversation_id, metadata), got a dict"),
        ([("job_1", "c")], "(job_id, conversation_id, metadata), got a tuple of 2"),
    ],
    ids=["dict", "id", "None", "one job", "list of dicts", "pairs"],
)
def test_what_is_no_list_of_jobs_is_refused(bench, jobs, says):
    """And nothing of it is taken in."""
    with pytest.raises(InvalidJobError, match=re.escape(says)):
        bench.call(bench.queue.enqueue_many(jobs))
    assert bench.names() == set()
