"""A fleet goes on while its Redis is replaced by a newer version, or by Valkey: on the same data, and by a replica.

The older one is the Redis that is found; see `kit.servers` for how to name another. In peace, nothing is lost.
"""

from __future__ import annotations

import contextlib

import pytest

from kit import open_world, phone, until
from kit.fleet_storm import PREFIX, Producer, all_told_once, end, job_of, settled, tally
from kit.fleets import Cluster, Watched
from kit.servers import NEWER_REDIS, named_binary
from videopoll.testing import EmbeddedRedis
from videopoll.testing.embedded import _require_binary

JOBS = 80

pytestmark = pytest.mark.at_length


@pytest.fixture(params=["valkey", "redis"])
def newer(request, require_server):
    """The binary of a newer server."""
    require_server("redis")
    if request.param == "valkey":
        require_server("valkey")
        return _require_binary("valkey")
    return named_binary(NEWER_REDIS) or pytest.skip(f"{NEWER_REDIS} names no newer Redis")


@contextlib.contextmanager
def at_work(kind, url):
    """Have two workers and a producer at work; all users have to be told once, whatever happens meanwhile."""
    for world in open_world(kind, url, PREFIX):
        for number in range(JOBS):
            world.api.job(job_of(number), ready_after_polls=2)
        workers = [world.process(log_level="CRITICAL") for _ in range(2)]
        try:
            Producer(url, range(1)).run()
            until(lambda: world.ultramsg.messages, "they are at work", 60)  # noqa: B023 - there is one world
            producer = Producer(url, range(1, JOBS), pause_s=0.1)
            producer.start()
            yield
            told = len(world.ultramsg.messages)
            producer.join()
            dead = settled(url, PREFIX, 60)
        finally:
            for one in workers:
                end(one)
        assert told < JOBS, "the trouble came when all was done"
        messages = [len(world.ultramsg.inbox(phone(number))) for number in range(JOBS)]
        assert tally(messages) | {"dead letters": dead} == all_told_once(JOBS)


def version_of(db):
    """Say what a server is."""
    info = db.info("server")
    return info.get("valkey_version", info["redis_version"])


def test_a_server_is_restarted_as_a_newer_one_on_the_same_data(kind, newer):
    """With an append-only file, as the page on deployment says."""
    with EmbeddedRedis(prefer="redis", append_only=True) as server, at_work(kind, server.url):
        before = server.version
        server.stop()
        server._binary = newer
        server.start()
        assert server.version != before


def test_a_newer_replica_takes_over_under_sentinel(kind, newer):
    """Replicas first, then a failover, then the old primary: an old replica cannot follow a new primary for long."""
    with Watched() as watched, at_work(kind, watched.url):
        was, replica = watched.primary, next(one for one in watched.data if one is not watched.primary)
        before = version_of(was.db)
        replica.upgrade(newer, was)
        until(watched.is_well, "the newer one is a replica", 30)
        watched.fail_over_in_peace()
        assert version_of(watched.primary.db) != before
        was.upgrade(newer, replica)
        until(watched.is_well, "the old one is a newer replica", 30)


def test_a_newer_replica_takes_over_in_a_cluster(kind, newer):
    """One shard after the other, each as under Sentinel."""
    with Cluster() as cluster, at_work(kind, cluster.url):
        was, replica = cluster.owner(PREFIX), cluster.replica_of(PREFIX)
        before = version_of(was.db)
        replica.upgrade(newer)
        until(cluster.is_well, "the newer one is a replica", 30)
        with cluster.failed_over(PREFIX, "asked for"):
            assert version_of(cluster.owner(PREFIX, was).db) != before
            was.upgrade(newer)
