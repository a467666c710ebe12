"""Turns of tenants against what a person would call fair: random arrivals and claims on a real Redis."""

from __future__ import annotations

import itertools
from collections import Counter

import attrs
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit import phone, until
from videopoll import events
from videopoll.jobs.transition import Settle
from videopoll.policies import LeasePolicy, PollingStrategy
from videopoll.queue.redis_queue import RedisVideoJobQueue
from videopoll.testing import Reply

AT_ONCE = PollingStrategy(initial_delay_s=0)
TENANTS = ("a", "b", "c", "")
MOST_APART = 3
"""Turns by which one tenant may be ahead of another: one for who begins, and one at each end of a claim."""

SHARES = (("heavy", 40, 0), ("light", 3, 100))
"""Tenants, how many jobs each has, and from where their users' numbers count."""

arrivals = st.tuples(st.just("arrive"), st.sampled_from(TENANTS), st.integers(1, 12))
claims = st.tuples(st.just("claim"), st.integers(1, 5), st.just(0))
acts = st.lists(st.one_of(arrivals, claims, claims), min_size=5, max_size=40)


@attrs.define
class Fair:
    """A queue, what waits on it by tenant, and how many each has had since it last had nothing to wait for."""

    db: redis.Redis
    queue: RedisVideoJobQueue
    numbers: itertools.count = attrs.field(factory=itertools.count)
    waiting: dict[str, list[str]] = attrs.field(factory=lambda: {tenant: [] for tenant in TENANTS})
    ahead: Counter = attrs.field(factory=Counter)

    def arrive(self, tenant: str, count: int) -> None:
        """Some jobs of a tenant become due, one after the other, and all after those that were due before."""
        due = {f"{tenant}-{number:05}": 1_000_000 + number for number in itertools.islice(self.numbers, count)}
        self.queue.enqueue_many([(job_id, "c", {"brand": tenant or None}) for job_id in due])
        self.db.delete(self.queue.keys.queue)
        self.db.zadd(self.queue.keys.schedule, due)
        self.waiting[tenant] += due
        if len(self.waiting[tenant]) == count:
            # It has not waited till now.
            for pair in itertools.permutations(TENANTS, 2):
                if tenant in pair:
                    self.ahead[pair] = 0

    def claim(self, places: int) -> None:
        """A worker has some places, and its jobs end at once."""
        due = sum(map(len, self.waiting.values()))
        batch = self.queue.claim(
            polls=places, sends=places, worker_id="w", strategy=AT_ONCE, lease=LeasePolicy(), take_over=False
        )
        assert len(batch.claims) == min(places, due), "no place stands empty while something is due"
        assert (batch.next_poll_ms is not None) == (due > places)
        backlogged = [tenant for tenant, ids in self.waiting.items() if ids]
        had = Counter(claim.job_id.partition("-")[0] for claim in batch.claims)
        for tenant, count in had.items():
            taken = {claim.job_id for claim in batch.claims if claim.job_id.startswith(f"{tenant}-")}
            assert taken == set(self.waiting[tenant][:count]), "the longest due of a tenant come first"
            del self.waiting[tenant][:count]
        for one, other in itertools.permutations(backlogged, 2):
            self.ahead[one, other] += had[one]
        for one, other in itertools.combinations(backlogged, 2):
            if self.waiting[one] and self.waiting[other]:
                apart = self.ahead[one, other] - self.ahead[other, one]
                assert abs(apart) <= MOST_APART, f"{one or 'none'} and {other or 'none'} are {apart} turns apart"
        self.queue.apply([Settle(claim, '{"success":true}') for claim in batch.claims])

    def finish(self) -> None:
        """Nobody is forgotten, and nothing is left."""
        while any(self.waiting.values()):
            self.claim(5)
        self.claim(1)
        left = {key.decode().rpartition(":poll:")[2] for key in self.db.scan_iter(f"{self.queue.keys.prefix}:poll:*")}
        assert left <= {"tenants"}


@pytest.mark.parametrize("redis_server", ["redis", "valkey"], indirect=True)
def test_tenants_have_turns_whatever_comes_when(redis_url, prefix):
    """Each gets as much as any other that waits as well, give or take some turns, and no place stands empty."""

    @settings(
        max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None
    )
    @given(acts)
    def history(acts) -> None:
        names = list(db.scan_iter(f"{prefix}:*", count=1000))
        if names:
            db.delete(*names)
        fair = Fair(db, queue)
        for what, one, count in acts:
            if what == "arrive":
                fair.arrive(one, count)
            else:
                fair.claim(one)
        fair.finish()

    with (
        redis.Redis.from_url(redis_url) as db,
        RedisVideoJobQueue.from_url(redis_url, prefix=prefix, tenant_key="brand") as queue,
    ):
        history()


def test_a_worker_polls_tenants_in_turn(world):
    """With two places the three of a tenant are polled in turn with another one's, though all of those came before."""
    users = {f"{tenant}-{number}": phone(number + start) for tenant, count, start in SHARES for number in range(count)}
    for job_id in users:
        world.api.job(job_id, Reply.completed())
    with world.queue(tenant_key="brand") as queue:
        queue.enqueue_many(
            [
                (job_id, f"c-{to}", {"channel": "ultramsg", "to": to, "brand": job_id.partition("-")[0]})
                for job_id, to in users.items()
            ]
        )
    with world.worker(concurrency=2) as worker:
        until(lambda: len(world.ultramsg.messages) == len(users), "all are told")

    turns = [claimed.job_id.partition("-")[0] for claimed in worker.recorder.of(events.JobClaimed)]
    assert turns[:6] == ["heavy", "light"] * 3
    assert sorted(message.to for message in world.ultramsg.messages) == sorted(users.values())
