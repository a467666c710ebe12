"""A real primary that three sentinels watch: from the URL alone, through failovers."""

from __future__ import annotations

import contextlib
import functools
import uuid

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from kit import open_world, until
from kit.bench import Bench
from kit.fleets import Fleet
from kit.trouble import BRISK, jobs
from videopoll import AsyncRedisVideoJobQueue, RedisVideoJobQueue, events
from videopoll.errors import QueueRefusedError, QueueUnavailableError


@pytest.fixture
def prefix():
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def bench(watched, kind, call, prefix):
    """A queue on whoever is the primary."""
    bench = Bench(kind, watched.url, prefix, call, watched.primary.db)
    yield bench
    for queue in bench.queues:
        call(queue.close())
    watched.primary.db.flushall()


def test_a_job_is_done_from_the_url_alone(bench):
    assert bench.finish(bench.one()) == "delivered"
    assert bench.call(bench.queue.wait_for_work(0.01)) is False
    assert bench.call(bench.queue.list_jobs()).jobs == ()


@pytest.mark.parametrize("how", ["crash", pytest.param("hang", marks=pytest.mark.at_length)])
def test_a_worker_goes_on_at_the_new_primary(watched, kind, prefix, how):
    """Each user is told once: what was acknowledged has reached the replica before."""
    for world in open_world(kind, watched.url, prefix):
        for number, job_id in enumerate(jobs(6)):
            world.api.job(job_id, ready_after_polls=3)
            world.enqueue(job_id, user=number)
        with world.worker(lease=BRISK, queue_options={"worker_timeout_s": 1.0}) as worker:
            until(lambda: len(worker.recorder.of(events.JobPolled)) >= 6, "they are under way")
            watched.primary.sync()
            with watched.failed_over(how=how):
                until(lambda: len(worker.recorder.of(events.JobDelivered)) >= 6, "every user has a message", 30)
                until(lambda: worker.runner.health().healthy, "the worker is well", 20)
        assert len(world.ultramsg.messages) == 6


def test_a_primary_that_has_become_a_replica_is_left(bench, watched):
    """The sentinels move the service while it lives on; every connection to it has to go."""
    bench.enqueue("job_1")
    bench.claim(polls=0)
    assert bench.call(bench.queue.wait_for_work(0.01)) is True
    watched.primary.sync()
    watched.switch()
    bench.db = watched.primary.db

    assert bench.enqueue("job_2") == "created"
    # READONLY was the answer of a connection that is let go: a claim is made again where it may be.
    assert {bench.finish(claim) for claim in bench.claim()} == {"delivered"}


def test_a_primary_that_is_cut_off_from_its_fleet_is_left(bench, watched):
    """It lives, and takes itself for the primary; with min-replicas-to-write it takes no writes. The others have another."""
    was = watched.primary
    bench.enqueue("job_1")
    bench.claim(polls=0)
    assert bench.call(bench.queue.wait_for_work(0.01)) is True
    was.sync()
    # As if the sentinels did not reach it: they cannot tell it what it is by now.
    was.ask("ACL", "SETUSER", "default", "-slaveof", "-replicaof")
    try:
        watched.fail_over_in_peace()
        was.ask("CLIENT", "UNPAUSE")
        was.ask("CONFIG", "SET", "min-replicas-to-write", 1)
        with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
            was.ask("SET", "a", "b")
        bench.db = watched.primary.db

        # Producers, the doorbell and workers each have connections of their own.
        def done(doing) -> bool:
            with contextlib.suppress(QueueUnavailableError):
                return bool(bench.call(doing()))
            return False

        for doing in (functools.partial(bench.enqueue, "job_2"), lambda: bench.queue.wait_for_work(0.01)):
            with pytest.raises(QueueUnavailableError, match="NOREPLICAS"):
                bench.call(doing())
            until(functools.partial(done, doing), "the next calls go to the new primary", 5)
        with pytest.raises(QueueUnavailableError, match="NOREPLICAS"):
            bench.claim()
        claims = until(functools.partial(claimed, bench), "so do claims", 5)
        assert {bench.finish(claim) for claim in claims} == {"delivered"}
    finally:
        was.ask("CONFIG", "SET", "min-replicas-to-write", 0)
        was.ask("ACL", "SETUSER", "default", "+@all")
        was.ask("REPLICAOF", "127.0.0.1", watched.primary.port)
        until(watched.is_well, "the old one is a replica", 30)


def claimed(bench):
    with contextlib.suppress(QueueUnavailableError):
        return bench.claim()
    return []


def test_a_hosts_client_of_sentinel_goes_through_a_failover(watched, kind, call, prefix):
    """redis-py's own, with the retries off."""
    nodes = [("127.0.0.1", server.port) for server in watched.sentinels]
    if kind == "sync":
        manager = redis.Sentinel(nodes)
        client = manager.master_for(watched.service, retry=Retry(NoBackoff(), 0))
        queue = RedisVideoJobQueue(client, prefix=prefix)
    else:
        manager = redis.asyncio.Sentinel(nodes)
        client = manager.master_for(watched.service, retry=AsyncRetry(NoBackoff(), 0))
        queue = AsyncRedisVideoJobQueue(client, prefix=prefix)

    assert call(queue.enqueue("job_1", conversation_id="c")) == "created"
    watched.primary.sync()
    watched.switch()
    assert call(queue.enqueue("job_2", conversation_id="c")) == "created"
    assert call(queue.counts()).queued == 2
    with queue.open_history() as history:
        assert history is not None
    call(queue.close())
    for one in (client, *manager.sentinels):
        call(one.close() if kind == "sync" else one.aclose())
    watched.primary.db.flushall()


def test_a_sentinel_that_is_down_is_passed_over(bench, watched):
    watched.sentinels[0].pause()
    try:
        assert bench.enqueue() == "created"
    finally:
        watched.sentinels[0].resume()


def test_a_service_that_no_sentinel_knows_is_told(bench, watched):
    url = watched.url.replace(watched.service, "other")
    with pytest.raises(QueueRefusedError, match="the sentinels know no service 'other': check its name"):
        bench.call(bench.another(url).enqueue("a", conversation_id="c"))


def test_what_is_no_sentinel_is_told(bench, watched):
    url = f"redis+sentinel://127.0.0.1:{watched.primary.port}/{watched.service}"
    with pytest.raises(QueueRefusedError, match="what answers is no Sentinel: check the hosts and ports"):
        bench.call(bench.another(url).enqueue("a", conversation_id="c"))


def test_sentinels_that_do_not_answer_are_told(bench):
    with pytest.raises(
        QueueUnavailableError, match=r"none of the 2 sentinels can be asked for the primary\. Try again"
    ):
        bench.call(bench.another("redis+sentinel://127.0.0.1:1,127.0.0.1:2/x").enqueue("a", conversation_id="c"))


def test_sentinels_and_server_each_have_their_own_password(kind, call, require_server):
    """The URL's user and password are the server's; the sentinels' are options."""
    require_server("redis")
    with Fleet() as fleet:
        data = fleet.add("--requirepass", "of-data")
        sentinel = fleet.add_sentinel(data, "video", "sentinel auth-pass video of-data", "requirepass of-sentinel")
        data.password, sentinel.password = "of-data", "of-sentinel"
        fleet.wait()
        where = f"127.0.0.1:{sentinel.port}/video"
        bench = Bench(kind, f"redis+sentinel://:of-data@{where}?sentinel_password=of-sentinel", "video", call, data.db)
        assert bench.enqueue() == "created"
        for url in (f"redis+sentinel://:of-data@{where}", f"redis+sentinel://:of-data@{where}?sentinel_password=no"):
            with pytest.raises(
                QueueRefusedError, match=r"sentinels refuse .* \?sentinel_username=…&sentinel_password=…"
            ):
                call(bench.another(url).enqueue("a", conversation_id="c"))
        wrong = f"redis+sentinel://:no@{where}?sentinel_password=of-sentinel"
        with pytest.raises(QueueRefusedError, match="refused the credentials"):
            call(bench.another(wrong).enqueue("a", conversation_id="c"))
        for queue in bench.queues:
            call(queue.close())
