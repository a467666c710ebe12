"""A name that leads to another server by now, and connections that something in between has forgotten."""

from __future__ import annotations

import contextlib
import time

import pytest
import redis

from kit import until
from kit.trouble import is_lost, jobs
from videopoll import AsyncRedisVideoJobQueue, QueueUnavailableError, RedisVideoJobQueue, events
from videopoll.queue import pools
from videopoll.testing import EmbeddedRedis


@pytest.fixture
def queue(trouble, call):
    """A producer's queue behind the proxy."""
    cls = RedisVideoJobQueue if trouble.world.kind == "sync" else AsyncRedisVideoJobQueue
    made = cls.from_url(trouble.proxy.url, prefix=trouble.world.prefix, front_timeout_s=1.0)
    yield made
    call(made.close())


@contextlib.contextmanager
def move(trouble):
    """Let the name lead to a new primary; the old one lives on as its replica."""
    with (
        EmbeddedRedis() as primary,
        redis.Redis.from_url(primary.url) as new,
        redis.Redis.from_url(trouble.server.url) as old,
    ):
        old.config_set("repl-diskless-sync-delay", 0)
        new.config_set("repl-diskless-sync-delay", 0)
        new.replicaof("127.0.0.1", trouble.server.port)
        until(lambda: new.info("replication")["master_link_status"] == "up", "it has caught up")

        def switch():
            old.execute_command("WAIT", 1, 5000)
            new.replicaof("NO", "ONE")
            old.replicaof("127.0.0.1", primary.port)
            trouble.proxy.upstream = primary.port

        yield switch, new
        old.replicaof("NO", "ONE")


def enqueue(trouble, queue, call, job_id):
    name, conversation_id, metadata = trouble.job(job_id)
    return call(queue.enqueue(name, conversation_id=conversation_id, metadata=metadata))


def test_the_first_enqueue_after_a_move_reaches_the_new_primary(trouble, queue, call):
    """Its pooled connection leads to a replica by now: READONLY, for as long as it is kept."""
    assert enqueue(trouble, queue, call, "job_0") == "created"
    with move(trouble) as (switch, new):
        switch()
        assert enqueue(trouble, queue, call, "job_1") == "created"
        assert new.exists(f"{trouble.world.prefix}:job:job_1")


def test_a_worker_goes_on_at_the_new_primary_without_a_restart(trouble):
    """Its claims, its writes, its renewals, its bell and its sweeper have connections of their own."""
    for job_id in jobs(6):
        trouble.world.api.job(job_id, ready_after_polls=3)
    with move(trouble) as (switch, new):
        trouble.enqueue(*jobs(6))
        with trouble.worker() as worker:
            until(lambda: len(worker.recorder.of(events.JobPolled)) >= 6, "they are under way")
            switch()
            until(lambda: all(trouble.told().values()), "every user has a message", 30)
            until(lambda: not new.zcard(f"{trouble.world.prefix}:poll:inflight"), "nothing is in flight")
            until(lambda: worker.runner.health().healthy, "the worker is well")

    assert trouble.told() == dict.fromkeys(trouble.users, 1)


def test_a_worker_whose_redis_has_become_a_replica_for_good_says_so(trouble, queue, call):
    with trouble.client as client, trouble.worker() as worker:
        until(lambda: "claim" in trouble.proxy.commands, "it works")
        trouble.enqueue("job_0")
        client.replicaof("127.0.0.1", 1)
        is_lost(worker)
        until(lambda: "it is a replica" in " ".join(worker.runner.health().problems), "it says why")
        assert not worker.runner.health().healthy
        with pytest.raises(QueueUnavailableError, match="it is a replica"):
            enqueue(trouble, queue, call, "job_1")
        client.replicaof("NO", "ONE")
        assert enqueue(trouble, queue, call, "job_1") == "created"
        trouble.all_told_once(worker)


def test_the_first_enqueue_of_the_morning_does_not_meet_a_connection_that_was_forgotten(
    trouble, queue, call, monkeypatch
):
    """A firewall forgets idle connections and says nothing: whoever uses one waits for an answer in vain."""
    monkeypatch.setattr(pools, "RESTED_S", 0.2)
    enqueue(trouble, queue, call, "job_0")
    trouble.proxy.forget()
    slept_s = time.monotonic() + 0.3
    until(lambda: time.monotonic() > slept_s, "a night is over")

    connections, began_s = trouble.proxy.connections, time.monotonic()
    assert enqueue(trouble, queue, call, "job_1") == "created"
    assert time.monotonic() - began_s < 1.0, "it did not wait for its time limit"
    assert trouble.proxy.connections == connections + 1


def test_connections_that_are_in_use_are_kept(trouble, queue, call):
    for number in range(5):
        enqueue(trouble, queue, call, f"job_{number}")

    assert trouble.proxy.connections == 1
