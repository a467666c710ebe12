"""Hand back: scheduled jobs are left to workers of another kind."""

from __future__ import annotations

import json

import pytest

from kit.bench import decoded, hand_back, schedule
from videopoll.jobs.transition import (
    Conclude,
    Redeliver,
)
from videopoll.jobs.views import HandedBack


def test_a_hand_back_of_nothing_hands_nothing_back(bench):
    """And says so."""
    assert hand_back(bench) == HandedBack()
    assert hand_back(bench).complete


def test_scheduled_jobs_are_handed_back_the_next_due_first_and_nothing_of_ours_is_left(bench):
    """They are popped from the right; records and attempts are shared."""
    schedule(bench, "job_1", "job_2", "job_3", faults=2, attempts=1)
    bench.enqueue("listed")
    assert hand_back(bench) == HandedBack(handed=3)
    assert [bench.db.rpop(bench.keys.queue).decode() for _ in range(4)] == ["listed", "job_1", "job_2", "job_3"]
    of_jobs = {f"job:{name}" for name in ("listed", "job_1", "job_2", "job_3")}
    assert bench.names() == of_jobs | {f"attempts:job_{number}" for number in (1, 2, 3)}


def test_many_jobs_are_handed_back_in_small_steps(bench):
    """Redis serves nobody else meanwhile; those under a lock do not hold up the others."""
    names = [f"job_{number:04}" for number in range(1203)]
    bench.db.zadd(bench.keys.schedule, {name: 1e13 + place for place, name in enumerate(names)})
    with bench.db.pipeline(transaction=False) as pipeline:
        for name in names:
            record = {"jobId": name, "conversationId": "c", "startTime": bench.now_ms(), "status": "polling"}
            pipeline.set(bench.keys.job(name), json.dumps(record), ex=600)
        for name in names[:3]:
            pipeline.set(bench.keys.lock(name), "foreign", ex=60)
        pipeline.execute()
    assert hand_back(bench) == HandedBack(handed=1200, locked=3)
    assert bench.db.llen(bench.keys.queue) == 1200
    bench.db.delete(*map(bench.keys.lock, names[:3]))
    assert hand_back(bench) == HandedBack(handed=3)
    assert not bench.db.exists(bench.keys.schedule)


def test_a_job_under_a_lock_without_an_end_can_be_handed_back_soon(bench):
    """They drop an id whose lock is held, and nobody would ever take it."""
    schedule(bench, "job_1")
    bench.db.set(bench.keys.lock("job_1"), "foreign")
    assert hand_back(bench) == HandedBack(locked=1)
    assert 50 < bench.db.ttl(bench.keys.lock("job_1")) <= 60


def test_an_id_that_stands_in_the_list_already_is_not_pushed_twice(bench):
    """Their workers would poll it twice as often."""
    schedule(bench, "job_1")
    bench.db.lpush(bench.keys.queue, "job_1")
    assert hand_back(bench) == HandedBack(handed=1)
    assert bench.db.lrange(bench.keys.queue, 0, -1) == [b"job_1"]


def test_a_job_that_they_have_in_their_memory_is_only_forgotten(bench):
    """Its counter has moved on since our last poll, a moment ago: pushed, it would be polled twice as often."""
    schedule(bench, "job_1", "job_2", attempts=1)
    bench.db.set(bench.keys.attempts("job_1"), 3, ex=595)
    bench.db.set(bench.keys.attempts("job_2"), 3, ex=500)
    assert hand_back(bench) == HandedBack(handed=1, theirs=1)
    assert bench.db.lrange(bench.keys.queue, 0, -1) == [b"job_2"], "nobody has polled it for 100 s: it was lost"
    assert not bench.db.exists(bench.keys.schedule, bench.keys.faults)


def test_what_they_have_ended_is_forgotten_and_makes_no_dead_letter(bench):
    """Stale places would become false dead letters whenever a worker of ours comes back."""
    schedule(bench, "ended", "long_ago", attempts=1)
    for job_id in ("ended", "long_ago"):
        bench.db.delete(bench.keys.job(job_id), bench.keys.attempts(job_id))
    bench.db.set(bench.keys.completed("ended"), '{"success":true}', ex=60)
    assert hand_back(bench) == HandedBack(ended=1, gone=("long_ago",))
    assert bench.names() == {"completed:ended"}
    assert bench.claim() == ()


def test_what_is_remembered_of_faults_goes_when_nobody_keeps_the_jobs(bench):
    """A job that was given back may be ended by a worker of another kind, which does not know of this key."""
    schedule(bench, "job_1", faults=1)
    assert 500 < bench.db.ttl(bench.keys.faults) <= 600


def test_a_job_that_they_have_and_that_we_doubt_is_only_forgotten(bench):
    """What else is remembered of it hides not whose its last poll was."""
    schedule(bench, "job_1", attempts=1, doubt_ms=7)
    bench.db.set(bench.keys.attempts("job_1"), 3, ex=595)
    assert hand_back(bench) == HandedBack(theirs=1)


def test_a_record_that_is_about_to_expire_lives_on_for_them(bench):
    """They need it until they have ended the job."""
    schedule(bench, "job_1", "job_2")
    bench.db.expire(bench.keys.job("job_1"), 50)
    bench.db.expire(bench.keys.job("job_2"), 400)
    hand_back(bench)
    assert bench.db.ttl(bench.keys.job("job_1")) > 500
    assert 300 < bench.db.ttl(bench.keys.job("job_2")) <= 400


@pytest.mark.parametrize(
    ("age_s", "used", "left"), [(100, 40, b"10"), (100, 10, b"10"), (100, 3, b"3"), (-50, 5, b"0")]
)
def test_polls_of_ours_do_not_use_up_what_they_need(bench, age_s, used, left):
    """They end a job after 30 polls, 10 s apart: a shorter interval of ours must not make them call it failed."""
    schedule(bench, "job_1")
    record = json.loads(bench.db.get(bench.keys.job("job_1")))
    record["startTime"] -= age_s * 1000
    bench.db.set(bench.keys.job("job_1"), json.dumps(record), ex=500)
    bench.db.set(bench.keys.attempts("job_1"), used, ex=500)
    assert hand_back(bench) == HandedBack(handed=1)
    assert bench.db.get(bench.keys.attempts("job_1")) == left
    assert 400 < bench.db.ttl(bench.keys.attempts("job_1")) <= 500


def test_a_dead_workers_jobs_are_handed_back_and_a_living_ones_are_not(bench):
    """Its lock would make them drop the id."""
    for job_id in ("dead", "living"):
        bench.one(job_id)
    bench.expire_lease("dead")
    bench.db.set(bench.keys.lock("dead"), "vp:w:1", ex=60)
    assert hand_back(bench) == HandedBack(handed=1, in_hand=1)
    assert bench.db.lrange(bench.keys.queue, 0, -1) == [b"dead"]
    assert not bench.db.exists(bench.keys.lock("dead"))
    assert decoded(bench.db.hkeys(bench.keys.leases)) == ["living"]


def test_outcomes_that_are_not_delivered_yet_stay_and_are_told(bench):
    """Only our workers know of them."""
    for job_id in ("waiting", "sending", "dead"):
        claim = bench.one(job_id)
        bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000))
        if job_id == "waiting":
            bench.apply(Redeliver(claim, bench.entry(claim), 600, bench.now_ms() + 50_000))
    bench.expire_lease("dead")
    bench.db.zadd(bench.keys.schedule, {"waiting": 1})
    before = bench.everything()
    result = hand_back(bench)
    assert result == HandedBack(sends=3)
    assert not result.complete
    assert before.keys() - bench.everything().keys() == {bench.keys.schedule.encode()}
