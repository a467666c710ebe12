"""Claim beyond the free slots: what is past its deadline ends all the same."""

from __future__ import annotations

import pytest

from kit.bench import aged, look
from videopoll.jobs.transition import (
    Conclude,
    Release,
    TransitionResult,
)


@pytest.mark.parametrize("place", ["list", "schedule", "inflight"])
def test_what_is_past_its_deadline_ends_without_a_place_wherever_it_stands(bench, place):
    """Nothing counts as a poll, and what is younger stays where it is."""
    aged(bench, "old", by_s=110, place=place)
    aged(bench, "young", by_s=109, place=place)
    bench.db.set(bench.keys.attempts("old"), 7, ex=580)
    bench.db.hset(bench.keys.leases, "old", "dead:1") if place == "inflight" else None

    (claim,) = look(bench).claims

    assert (claim.job_id, claim.ending, claim.work.attempts) == ("old", True, 7)
    assert bench.db.get(bench.keys.attempts("old")) == b"7"
    assert bench.db.get(bench.keys.lock("old")).decode() == f"vp:{claim.token}"
    assert bench.get("young").state == {"list": "queued", "schedule": "scheduled", "inflight": "polling"}[place]
    assert bench.counts().in_flight == 1 + (place == "inflight")
    assert bench.counts().queued == (place == "list")
    assert look(bench).claims == ()


def test_a_job_that_ends_without_a_place_can_be_given_back(bench):
    """A worker that stops has counted nothing."""
    aged(bench, "job_1", by_s=110)
    bench.db.set(bench.keys.attempts("job_1"), 7, ex=600)
    (claim,) = look(bench).claims
    assert bench.apply(Release(claim)) == [TransitionResult.APPLIED]
    assert bench.db.get(bench.keys.attempts("job_1")) == b"7"


def test_a_place_is_taken_for_a_last_poll_before_anything_ends_without_one(bench):
    """Those that are due the longest get the places."""
    aged(bench, "first", by_s=130)
    aged(bench, "second", by_s=120)
    assert [(claim.job_id, claim.ending) for claim in look(bench, polls=1).claims] == [
        ("first", False),
        ("second", True),
    ]


def test_nothing_ends_without_a_place_unless_the_worker_asks_for_it(bench):
    """A worker that has just come leaves it to last polls."""
    aged(bench, "job_1", by_s=500)
    assert look(bench, endings=0).claims == ()


def test_a_job_under_a_foreign_lock_is_not_ended_but_looked_at_when_that_ends(bench):
    """A worker of another kind is polling it."""
    aged(bench, "listed", by_s=200, place="list")
    aged(bench, "scheduled", by_s=200)
    for job_id in ("listed", "scheduled"):
        bench.db.set(bench.keys.lock(job_id), "video_worker_9", ex=30)
    assert look(bench).claims == ()
    assert [bench.get(job_id).state for job_id in ("listed", "scheduled")] == ["scheduled", "scheduled"]
    assert bench.counts().queued == 0


def test_a_delivery_is_not_ended_by_a_look(bench):
    """Its polling is over; it waits for a place for sends."""
    aged(bench, "job_1", by_s=200)
    claim = look(bench).claims[0]
    bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000))
    bench.expire_lease()
    assert look(bench).claims == ()


def test_a_look_goes_through_a_long_schedule_page_by_page(bench):
    """Two old jobs behind a thousand that are due, but not past their deadlines: the work of each claim is bounded."""
    aged(bench, *(f"job_{number}" for number in range(1000)), by_s=50)
    for number in range(1000):
        bench.db.zadd(bench.keys.schedule, {f"job_{number}": 1000 + number})
    aged(bench, "old_1", "old_2", by_s=111)
    found, rank, looks = [], 0, 0
    while not looks or rank:
        batch = look(bench, look_from=rank, endings=1)
        found += [claim.job_id for claim in batch.claims]
        rank, looks = batch.look_from, looks + 1
        assert looks < 10
    assert sorted(found) == ["old_1", "old_2"]
    assert looks >= 5


def test_a_look_ends_no_more_than_it_is_asked_to_and_leaves_none_out(bench):
    """The next one goes on where it stopped, though the ranks have moved."""
    aged(bench, *(f"job_{number}" for number in range(700)), by_s=120)
    found, rank, looks = set(), 0, 0
    while not looks or rank:
        batch = look(bench, look_from=rank, endings=100)
        assert len(batch.claims) <= 100
        found |= {claim.job_id for claim in batch.claims}
        rank, looks = batch.look_from, looks + 1
        assert looks < 20
        if not batch.claims:
            break
    while batch := look(bench).claims:
        found |= {claim.job_id for claim in batch}
    assert len(found) == 700


def test_damaged_records_do_not_stop_a_look(bench):
    """They get a dead letter when there is a place again; meanwhile they live on."""
    aged(bench, "old", by_s=120)
    for job_id, record in {"bad": "{", "odd": '{"startTime":"x"}', "none": "[]"}.items():
        bench.db.set(bench.keys.job(job_id), record, ex=5)
        bench.db.zadd(bench.keys.schedule, {job_id: 1})
    bench.db.zadd(bench.keys.schedule, {"gone": 1})
    bench.db.rpush(bench.keys.job("list"), "x")
    bench.db.expire(bench.keys.job("list"), 60)
    bench.db.zadd(bench.keys.schedule, {"list": 1})
    assert [claim.job_id for claim in look(bench).claims] == ["old"]
    assert bench.db.ttl(bench.keys.job("bad")) > 500
