"""Prefixes: queues in one Redis do not see each other."""

from __future__ import annotations

import json

import attrs
import pytest

from kit.bench import AT_ONCE, LEASE, Bench, recover
from videopoll import (
    ConfigurationError,
)
from videopoll.jobs import DeadLetter
from videopoll.jobs.codec import Poison
from videopoll.jobs.transition import (
    Reschedule,
    Settle,
    TransitionResult,
)
from videopoll.jobs.views import CancelResult


def test_two_prefixes_do_not_see_each_other(bench):
    """Several deployments share one Redis."""
    bench.enqueue()
    other = bench.another(prefix=f"{bench.prefix}x")
    assert bench.call(other.get("job_1")) is None
    assert bench.call(other.claim(polls=9, sends=9, worker_id="w", strategy=AT_ONCE, lease=LEASE)).claims == ()
    assert bench.call(other.recover(idle_s=0)) == 0


@pytest.mark.parametrize("word", ["job", "poll", "lock", "attempts", "completed", "tool"])
@pytest.mark.parametrize("rest", ["", ":eu", ":queue", "job"])
def test_a_prefix_whose_keys_would_be_those_of_another_is_refused(bench, word, rest):
    """Its jobs would be taken, and their records deleted, by the queue with the shorter prefix."""
    if rest == "job":
        bench.another(prefix=f"{bench.prefix}:{word}{rest}")
        return
    with pytest.raises(ConfigurationError, match=f"the word '{word}' of our own keys"):
        bench.another(prefix=f"{bench.prefix}:{word}{rest}")


@pytest.mark.parametrize("inner", ["eu", "jobs", "eu:west", "poller", "x:"])
def test_two_queues_of_which_one_stands_inside_of_the_other_do_not_meet(bench, inner):
    """Whatever the ids are, and whatever each of them looks for, ends and cancels."""
    outer, nested = bench.queue, bench.another(prefix=f"{bench.prefix}:{inner}")
    ids = ["job_1", f"{inner}:job:job_1", "job:job_1", f"{inner}:poll:queue"]
    for queue in (outer, nested):
        for job_id in ids:
            bench.call(queue.enqueue(job_id, conversation_id=queue.keys.prefix))
    for queue in (outer, nested):
        assert bench.call(queue.recover(idle_s=0, initial_delay_s=0)) == 0
    bench.db.delete(outer.keys.queue, nested.keys.queue)
    for queue in (outer, nested):
        assert bench.call(queue.recover(idle_s=0, initial_delay_s=0)) == len(ids)
        batch = bench.call(queue.claim(polls=9, sends=9, worker_id="w", strategy=AT_ONCE, lease=LEASE))
        assert sorted(claim.job_id for claim in batch.claims) == sorted(ids)
        assert {claim.work.job.conversation_id for claim in batch.claims} == {queue.keys.prefix}
        bench.call(queue.cancel("job_1"))
    assert len(list(bench.db.scan_iter(match=f"{outer.keys.job('')}*", count=1000))) == len(ids) - 1
    assert len(list(bench.db.scan_iter(match=f"{nested.keys.job('')}*", count=1000))) == len(ids) - 1
    bench.db.delete(*nested.keys.fixed)


@attrs.define
class Stranger:
    """A queue of an earlier version whose keys stand where ours has the records of jobs."""

    bench: Bench
    keys: tuple[str, ...] = ()

    def write(self) -> dict[bytes, object]:
        """Have one job in every place, and give all keys."""
        db, inner = self.bench.db, f"{self.bench.prefix}:job"
        record = {"jobId": "abc", "conversationId": "theirs", "startTime": self.bench.now_ms(), "status": "polling"}
        db.set(f"{inner}:job:abc", json.dumps(record), ex=600)
        db.set(f"{inner}:attempts:abc", 3, ex=600)
        db.set(f"{inner}:lock:abc", "vp:w:1", ex=60)
        db.set(f"{inner}:completed:abc", json.dumps({"jobId": "abc", "success": True}), ex=600)
        db.set(f"{inner}:poll:outbox:abc", json.dumps({"v": 1, "record": record, "outcome": {}}), ex=600)
        db.set(f"{inner}:poll:sweeper", "vp", ex=30)
        db.lpush(f"{inner}:poll:queue", "abc")
        db.expire(f"{inner}:poll:queue", 60)
        return self.all()

    def all(self) -> dict[bytes, object]:
        """Give all its keys with their values."""
        db = self.bench.db
        return {key: db.dump(key) for key in db.scan_iter(match=f"{self.bench.prefix}:job:*", count=1000)}


def test_the_start_of_a_queue_takes_nothing_of_another_that_stands_in_its_way(bench):
    """Of an earlier version, which let it be built. Its record is told by the job that it names."""
    stranger = Stranger(bench)
    before = stranger.write()
    assert recover(bench, initial_delay_s=0) == 0
    for job_id in ("job:abc", "completed:abc"):
        assert bench.call(bench.queue.cancel(job_id)) is CancelResult.UNKNOWN
    assert bench.claim() == ()
    assert stranger.all() == before


def test_an_id_that_an_earlier_version_took_from_another_queue_ends_without_its_record(bench):
    """It stands in the schedule already: it becomes a dead letter, and what belongs to the other queue stays."""
    stranger = Stranger(bench)
    before = stranger.write()
    bench.db.zadd(bench.keys.schedule, {"job:abc": 1, "completed:abc": 1})
    for claim in bench.claim():
        assert isinstance(claim.work, Poison)
        letter = DeadLetter(claim.job_id, claim.work.reason, bench.now_ms())
        settle = Settle(claim, letter=letter)
        assert bench.apply(settle) == [TransitionResult.APPLIED]
        assert bench.apply(settle) == [TransitionResult.APPLIED], "its reply may have been lost"
    assert bench.counts().dead == 2
    assert stranger.all() == before


def test_a_prefix_may_be_a_hash_tag(bench):
    """One slot of a cluster; all of a job's life works with it."""
    bench.prefix = f"{{{bench.prefix}}}"
    claim = bench.one()
    assert bench.db.exists(f"{bench.prefix}:lock:job_1")
    bench.apply(Reschedule(claim, 1))
    bring_back = bench.claim()[0]
    assert bench.finish(bring_back) == "delivered"
    bench.enqueue("job_2")
    bench.db.delete(bench.keys.queue)
    assert recover(bench) == 1
    assert bench.names() == {"completed:job_1", "job:job_2", "poll:schedule"}
