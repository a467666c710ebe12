"""Leases: taken over when they have ended, and renewed until then."""

from __future__ import annotations

import time

import pytest
import redis

from kit import until
from kit.bench import AT_ONCE, LEASE, Bench
from videopoll import (
    LeasePolicy,
    QueueUnavailableError,
)
from videopoll.jobs.transition import (
    Reschedule,
    TransitionResult,
)
from videopoll.testing import EmbeddedRedis


def test_an_expired_lease_is_taken_over_by_anybody_and_does_not_count(bench):
    """The dead worker's poll may never have been made."""
    bench.one(worker_id="dead")
    assert bench.claim(worker_id="other") == ()
    bench.expire_lease()
    other = bench.another()
    (claim,) = bench.call(other.claim(polls=1, sends=1, worker_id="other", strategy=AT_ONCE, lease=LEASE)).claims
    assert claim.taken_over
    assert claim.work.attempts == 1
    assert bench.db.get(bench.keys.attempts("job_1")) == b"1"
    assert bench.db.zscore(bench.keys.inflight, "job_1") > bench.now_ms() + 10_000


def test_a_claim_that_may_not_take_over_leaves_expired_leases_and_takes_what_is_due(bench):
    """Redis was away: the holders may live, and say so soon."""
    bench.one("held")
    bench.db.zadd(bench.keys.inflight, {"held": 1})
    bench.enqueue("due")

    assert [claim.job_id for claim in bench.claim(take_over=False)] == ["due"]
    assert [claim.job_id for claim in bench.claim()] == ["held"]


def test_a_worker_does_not_take_over_what_is_in_its_own_hands(bench):
    """Its lease has ended all the same, and another worker takes it."""
    mine, others = ["mine", "mine_too"], ["another's"]
    for job_id in mine + others:
        bench.one(job_id)
    bench.db.zadd(bench.keys.inflight, dict.fromkeys(mine + others, 1))

    assert [claim.job_id for claim in bench.claim(in_hand=mine)] == others
    assert {claim.job_id for claim in bench.claim(worker_id="other")} == set(mine)


@pytest.mark.parametrize("drift_ms", [4100, -4100, 3_600_000])
def test_a_claim_that_redis_carries_out_at_another_time_than_it_was_asked_takes_nothing_over(bench, drift_ms):
    """It lay in the socket of a server that stood still, or the clock has stepped: its asker lives, and so may holders."""
    bench.one("held")
    bench.db.zadd(bench.keys.inflight, {"held": 1})
    bench.enqueue("due")

    assert [claim.job_id for claim in bench.claim(asked_ms=bench.now_ms() - drift_ms)] == ["due"]
    assert [claim.job_id for claim in bench.claim(asked_ms=bench.now_ms() - 1000)] == ["held"]


def test_a_claim_that_waited_in_a_server_that_stood_still_takes_nothing_over(bench, kind):
    """Nobody hears its answer any more: a lease that it gave would be a living worker's, taken for nobody."""
    lease = LeasePolicy.lasting(0.6)
    with EmbeddedRedis() as server:
        impatient = Bench(kind, server.url, bench.prefix, bench.call, redis.Redis.from_url(server.url))
        queue = impatient.another(worker_timeout_s=0.3)
        held = impatient.one(lease=lease)
        asked_ms = impatient.now_ms()

        def scripts_run():
            return impatient.db.info("commandstats")["cmdstat_evalsha"]["calls"]

        before, ends_s = scripts_run(), time.monotonic() + lease.duration_s
        server.pause()
        try:
            with pytest.raises(QueueUnavailableError):
                impatient.batch(lease=lease, asked_ms=asked_ms)
            until(lambda: time.monotonic() > ends_s, "the lease has ended")
        finally:
            server.resume()
        until(lambda: scripts_run() > before, "the claim has been carried out")

        assert impatient.call(queue.renew([(held.job_id, held.token, True)], lease)) == [True]
        for one in impatient.queues:
            bench.call(one.close())
        impatient.db.close()


def test_a_lease_can_be_renewed_until_it_is_taken(bench):
    """Long uploads keep their job; a zombie learns that it is one."""
    claim = bench.one()
    bench.expire_lease()
    bench.db.expire(bench.keys.lock("job_1"), 5)
    assert bench.call(bench.queue.renew([(claim.job_id, claim.token, True)], LEASE)) == [True]
    assert bench.db.zscore(bench.keys.inflight, "job_1") > bench.now_ms() + 10_000
    assert bench.db.ttl(bench.keys.lock("job_1")) > 50
    bench.expire_lease()
    (taken,) = bench.claim()
    before = bench.everything()
    held = [("job_1", claim.token, True), ("nobody", "x", True), ("job_1", claim.token, False)]
    assert bench.call(bench.queue.renew(held, LeasePolicy(duration_s=99, renew_every_s=1))) == [False] * 3
    assert bench.everything() == before
    assert bench.call(bench.queue.renew([], LEASE)) == []
    assert taken.token != claim.token


def test_a_renewal_brings_a_lost_lock_back_but_takes_no_foreign_one(bench):
    """Foreign workers delete our lock blindly: that is no lost lease."""
    claim = bench.one()
    bench.db.delete(bench.keys.lock("job_1"))
    held = [(claim.job_id, claim.token, True)]
    assert bench.call(bench.queue.renew(held, LEASE)) == [True]
    assert bench.db.get(bench.keys.lock("job_1")).decode() == f"vp:{claim.token}"
    bench.db.set(bench.keys.lock("job_1"), "foreign", ex=60)
    assert bench.call(bench.queue.renew(held, LEASE)) == [True]
    assert bench.db.get(bench.keys.lock("job_1")) == b"foreign"


def test_many_leases_are_renewed_together(bench):
    """More than one script call takes."""
    bench.call(bench.queue.enqueue_many((f"job_{number}", "c", None) for number in range(1001)))
    claims = [claim for _ in range(3) for claim in bench.claim(polls=500)]
    assert len(claims) == 1001
    held = [(claim.job_id, claim.token, True) for claim in claims]
    assert bench.call(bench.queue.renew(held, LEASE)) == [True] * 1001
    verdicts = bench.apply(*(Reschedule(claim, 1) for claim in claims))
    assert verdicts == [TransitionResult.APPLIED] * 1001
    assert bench.counts().scheduled == 1001
