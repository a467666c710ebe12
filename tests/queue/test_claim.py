"""Claim: what is due goes to a worker, the longest due first."""

from __future__ import annotations

import json

import pytest

from kit.bench import SPEC
from videopoll import (
    LeasePolicy,
)
from videopoll.jobs import VideoJob
from videopoll.jobs.transition import (
    Conclude,
    PollWork,
    Redeliver,
    Release,
    Reschedule,
    SendWork,
    TransitionResult,
)


def test_a_claim_gives_the_job_its_poll_and_its_lease(bench):
    """All that a worker needs comes with one round trip."""
    bench.enqueue(prompt="x")
    now_ms = bench.now_ms()
    (claim,) = bench.claim()
    assert isinstance(claim.work, PollWork)
    assert claim.work.job == VideoJob("job_1", "conversation", claim.work.job.start_ms, {"prompt": "x"})
    assert (claim.work.attempts, claim.work.faults, claim.work.last_answer_ms) == (1, 0, None)
    assert (claim.taken_over, claim.due_ms) == (False, claim.work.job.start_ms)
    assert now_ms + 12_000 <= bench.db.zscore(bench.keys.inflight, "job_1") <= bench.now_ms() + 12_000
    assert bench.db.hget(bench.keys.leases, "job_1").decode() == claim.token


def test_each_claim_has_a_token_of_its_own(bench):
    """A worker that claims a job again must not pass for its former self."""
    first = bench.one()
    bench.apply(Release(first))
    (second,) = bench.claim()
    assert first.token != second.token
    assert bench.apply(Reschedule(first, 1)) == [TransitionResult.LOST]


def test_a_young_id_goes_to_the_schedule_when_it_is_first_seen(bench):
    """The initial delay belongs to the worker's strategy; an id that stayed in the list would ring for ever."""
    bench.enqueue()
    batch = bench.batch(strategy=SPEC)
    start_ms = bench.get().job.start_ms
    assert batch.claims == ()
    assert (batch.next_poll_ms, batch.waiting) == (start_ms + 5000, 0)
    assert bench.db.llen(bench.keys.queue) == 0
    assert bench.db.zscore(bench.keys.schedule, "job_1") == start_ms + 5000
    assert not bench.db.exists(bench.keys.attempts("job_1")), "nothing has been polled"


def test_a_producer_whose_clock_is_ahead_does_not_lose_the_initial_delay(bench):
    """Existing producers write their own time, and then push the id."""
    start_ms = bench.now_ms() + 30_000
    record = {"jobId": "job_1", "conversationId": "c", "startTime": start_ms, "status": "polling"}
    bench.db.set(bench.keys.job("job_1"), json.dumps(record), ex=600)
    bench.db.lpush(bench.keys.queue, "job_1")
    assert bench.claim(strategy=SPEC) == ()
    due_ms = bench.db.zscore(bench.keys.schedule, "job_1")
    assert due_ms == pytest.approx(bench.now_ms() + 5000, abs=1000)


def test_the_longest_due_comes_first_from_list_and_schedule_together(bench):
    """Neither kind starves."""
    now_ms = bench.now_ms()
    for number, age_s in enumerate([10, 40, 20, 30]):
        job_id = f"job_{number}"
        record = {"jobId": job_id, "conversationId": "c", "startTime": now_ms - age_s * 1000, "status": "polling"}
        bench.db.set(bench.keys.job(job_id), json.dumps(record), ex=600)
        if number % 2:
            bench.db.zadd(bench.keys.schedule, {job_id: now_ms - age_s * 1000})
        else:
            bench.db.lpush(bench.keys.queue, job_id)
    claims = bench.claim()
    assert [claim.job_id for claim in claims] == ["job_1", "job_3", "job_2", "job_0"]


def test_a_claim_takes_no_more_than_there_is_room_for(bench):
    """Polls and sends have places of their own; what is not taken stays findable."""
    for number in range(5):
        bench.enqueue(f"job_{number}")
    for claim in bench.claim():
        entry = bench.entry(claim)
        bench.apply(Conclude(claim, entry, 600, 12_000), Redeliver(claim, entry, 600, bench.now_ms() - 1))
    for number in range(5, 10):
        bench.enqueue(f"job_{number}")
    assert bench.claim(polls=0, sends=0) == ()
    first = bench.claim(polls=2, sends=0)
    assert [type(claim.work) for claim in first] == [PollWork, PollWork]
    second = bench.claim(polls=0, sends=3)
    assert [type(claim.work) for claim in second] == [SendWork] * 3
    rest = bench.claim()
    assert len(first) + len(second) + len(rest) == 10
    assert len({claim.job_id for claim in (*first, *second, *rest)}) == 10


def test_what_there_is_no_room_for_leaves_the_list_for_the_schedule(bench):
    """The doorbell must not ring for an id that was looked at."""
    bench.enqueue("job_1")
    bench.db.zadd(bench.keys.schedule, {"job_0": 5})
    record = {"jobId": "job_0", "conversationId": "c", "startTime": bench.now_ms() - 9000, "status": "polling"}
    bench.db.set(bench.keys.job("job_0"), json.dumps(record), ex=600)
    (claim,) = bench.claim(polls=1)
    assert claim.job_id == "job_0"
    assert bench.db.llen(bench.keys.queue) == 0
    assert bench.db.zscore(bench.keys.schedule, "job_1") is not None
    assert [claim.job_id for claim in bench.claim()] == ["job_1"]


def test_a_claim_tells_when_the_next_thing_is_due(bench):
    """An idle worker sleeps until then."""
    now_ms = bench.now_ms()
    claim = bench.one("job_1")
    bench.apply(Reschedule(claim, now_ms + 60_000))
    claim = bench.one("job_2")
    entry = bench.entry(claim)
    bench.apply(Conclude(claim, entry, 600, 12_000), Redeliver(claim, entry, 600, now_ms + 70_000))
    bench.one("job_3")
    batch = bench.batch()
    assert (batch.next_poll_ms, batch.next_send_ms) == (now_ms + 60_000, now_ms + 70_000)
    assert batch.next_expiry_ms == bench.db.zscore(bench.keys.inflight, "job_3")


def test_an_id_that_stands_in_the_list_several_times_is_one_poll(bench):
    """Foreign workers push what is there already."""
    bench.enqueue()
    bench.db.lpush(bench.keys.queue, "job_1", "job_1", "job_1")
    (claim,) = bench.claim()
    assert bench.db.llen(bench.keys.queue) == 0
    assert bench.finish(claim) == "delivered"
    assert bench.names() == {"completed:job_1"}


@pytest.mark.parametrize("state", ["polling", "sending", "waiting to be sent"])
def test_an_id_in_the_list_that_is_in_hand_leaves_the_list_and_nothing_else_happens(bench, state):
    """Workers of other kinds push, at their start, what we have in flight."""
    claim = bench.one()
    if state != "polling":
        bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000))
    if state == "waiting to be sent":
        bench.apply(Redeliver(claim, bench.entry(claim), 600, bench.now_ms() + 60_000))
    before = bench.everything()
    bench.db.lpush(bench.keys.queue, "job_1")
    assert bench.claim() == ()
    assert bench.everything() == before


def test_an_id_in_the_list_that_is_scheduled_keeps_its_time(bench):
    """A foreign push must not double the polling."""
    claim = bench.one()
    due_ms = bench.now_ms() + 10_000
    bench.apply(Reschedule(claim, due_ms))
    bench.db.lpush(bench.keys.queue, "job_1")
    assert bench.claim() == ()
    assert bench.db.zscore(bench.keys.schedule, "job_1") <= due_ms
    assert bench.db.zscore(bench.keys.schedule, "job_1") > bench.now_ms() + 8000
    assert bench.db.llen(bench.keys.queue) == 0


def test_a_job_that_a_foreign_worker_polled_and_pushed_back_counts_on(bench):
    """Attempts are shared."""
    bench.enqueue()
    bench.db.set(bench.keys.attempts("job_1"), 7, ex=590)
    (claim,) = bench.claim()
    assert claim.work.attempts == 8
    assert claim.work.last_answer_ms == pytest.approx(bench.now_ms() - 10_000, abs=1500)
    assert claim.attempts_before == 7
    assert bench.db.get(bench.keys.attempts("job_1")) == b"8"


def test_a_foreign_lock_is_respected_until_it_ends(bench):
    """Its holder polls at this moment: two polls would be two messages."""
    bench.enqueue()
    bench.db.set(bench.keys.lock("job_1"), "video_worker_1", px=30_000)
    assert bench.claim() == ()
    due_ms = bench.db.zscore(bench.keys.schedule, "job_1")
    assert due_ms == pytest.approx(bench.now_ms() + 30_000, abs=1500)
    assert bench.db.get(bench.keys.lock("job_1")) == b"video_worker_1"
    assert not bench.db.exists(bench.keys.attempts("job_1"))
    assert bench.db.llen(bench.keys.queue) == 0


def test_a_foreign_lock_without_an_end_is_looked_at_again(bench):
    """A worker that died between SET and EXPIRE must not keep a job for ever unseen."""
    bench.enqueue()
    bench.db.set(bench.keys.lock("job_1"), "video_worker_1")
    assert bench.claim() == ()
    assert bench.db.zscore(bench.keys.schedule, "job_1") == pytest.approx(bench.now_ms() + 60_000, abs=1500)
    bench.db.delete(bench.keys.lock("job_1"))


def test_our_own_old_lock_holds_nobody_up(bench):
    """It outlives the lease of a dead worker by far."""
    bench.one()
    assert bench.db.get(bench.keys.lock("job_1")).startswith(b"vp:")
    bench.expire_lease()
    (claim,) = bench.claim(worker_id="other")
    assert bench.db.get(bench.keys.lock("job_1")).decode() == f"vp:{claim.token}"


def test_full_places_for_sends_do_not_hold_up_dead_workers_polls(bench):
    """A messenger that hangs must not stop the polling of jobs whose worker died."""
    for number in range(6):
        bench.enqueue(f"send_{number}")
    for claim in bench.claim():
        bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000))
        bench.expire_lease(claim.job_id)
    bench.enqueue("poll")
    bench.claim(polls=1, sends=0, lease=LeasePolicy(duration_s=60))
    bench.db.zadd(bench.keys.inflight, {"poll": 2})
    taken = bench.claim(polls=2, sends=0)
    assert [claim.job_id for claim in taken] == ["poll"]
