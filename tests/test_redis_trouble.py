"""Redis goes away, comes back, says no, answers late or never: nothing is lost, and nothing comes twice.

Each test has a server of its own, and most talk to it through `RespProxy`. The
users are on a channel that cannot be asked about its messages, so a send whose
note was lost would come twice: nothing but the order of the writes prevents it.
"""

from __future__ import annotations

import logging
import time

import attrs
import pytest
import redis

from kit import FAST, until
from kit.trouble import at_least, is_lost, jobs
from videopoll import (
    AsyncRedisVideoJobQueue,
    LeasePolicy,
    QueueError,
    QueueUnavailableError,
    RedisVideoJobQueue,
    events,
)
from videopoll.errors import QueueRefusedError
from videopoll.testing import EmbeddedRedis, Reply, unused_port

# --- Redis is away ------------------------------------------------------------------------------


def test_a_worker_that_starts_before_redis_waits_for_it(trouble, caplog):
    """After a reboot nobody knows which of the two comes up first."""
    trouble.enqueue(*jobs(3))
    trouble.server.stop()

    with trouble.worker() as worker:
        is_lost(worker)
        trouble.server.start()
        trouble.all_told_once(worker)
        trouble.loss_is_told_once(worker, caplog)


def test_a_restart_in_the_middle_of_the_work_loses_nothing(trouble):
    """An upgrade of the server, with its append-only file."""
    for job_id in jobs(40):
        trouble.world.api.job(job_id, ready_after_polls=3)
    trouble.enqueue(*jobs(40))

    with trouble.worker() as worker:
        until(lambda: len(worker.recorder.of(events.JobPolled)) > 40, "they are under way")
        trouble.server.restart()
        until(lambda: len(worker.recorder.of(events.JobDelivered)) > 5, "some are delivered")
        trouble.server.kill()
        trouble.server.start()
        trouble.all_told_once(worker)


def test_an_outage_is_sat_out_told_once_and_costs_next_to_nothing(trouble, caplog):
    """Nobody needs a log line a millisecond, or a core that connects as fast as it can."""
    caplog.set_level(logging.INFO)
    trouble.enqueue("job_0")
    trouble.world.api.job("job_0", ready_after_polls=3)

    with trouble.worker() as worker:
        until(lambda: worker.recorder.of(events.JobPolled), "it is under way")
        tries_before, cpu_before = trouble.proxy.connections, time.process_time()
        with at_least(2.5):
            trouble.proxy.hang_up()
            is_lost(worker)
        tries, cpu_s = trouble.proxy.connections - tries_before, time.process_time() - cpu_before
        assert worker.recorder.of(events.RedisRegained) == []
        trouble.proxy.heal()
        trouble.all_told_once(worker)
        trouble.loss_is_told_once(worker, caplog)

    assert 3 <= tries <= 30, "each of its parts begins with a few quick tries, and then takes its time"
    assert cpu_s < 1.0
    assert worker.recorder.of(events.RedisRegained)[0].after_s > 2


def test_a_worker_with_work_in_hand_keeps_it_through_an_outage(trouble, caplog):
    """A poll's answer is not thrown away because Redis cannot take it at this moment."""
    trouble.world.api.job("job_0", attrs.evolve(Reply.completed(), delay_s=0.5))
    trouble.enqueue("job_0")

    with trouble.worker(lease=LeasePolicy.lasting(30)) as worker:
        until(lambda: trouble.world.api.polls("job_0"), "it is being polled")
        with at_least(1.5):
            trouble.proxy.refuse()
            is_lost(worker)
        trouble.proxy.accept()
        trouble.all_told_once(worker)
        trouble.loss_is_told_once(worker, caplog)

    assert len(trouble.world.api.polls("job_0")) == 1


def test_a_worker_can_be_stopped_while_redis_is_away(trouble, idle_at_most):
    """A deployment goes on during an outage; the leases bring the jobs back."""
    idle_at_most(1.0)
    trouble.world.api.job("job_0", attrs.evolve(Reply.completed(), delay_s=0.3))
    trouble.enqueue("job_0")
    worker = trouble.worker(grace_s=0.5).start()
    until(lambda: trouble.world.api.polls("job_0"), "it is being polled")
    trouble.proxy.refuse()
    is_lost(worker)

    worker.stop(timeout_s=4)

    trouble.proxy.accept()
    with trouble.worker() as other:
        trouble.all_told_once(other)


def test_a_frozen_server_is_noticed_and_sat_out(trouble, caplog):
    """It takes connections and answers nothing: only a time limit can tell."""
    for job_id in jobs(10):
        trouble.world.api.job(job_id, ready_after_polls=3)
    trouble.enqueue(*jobs(10))

    with trouble.worker() as worker:
        until(lambda: worker.recorder.of(events.JobPolled), "they are under way")
        trouble.server.pause()
        try:
            with at_least(3.0):
                is_lost(worker)
        finally:
            trouble.server.resume()
        trouble.all_told_once(worker)
        trouble.loss_is_told_once(worker, caplog)


def test_a_slow_server_delays_and_breaks_nothing(trouble):
    """Every reply comes 100 ms late: slow is no reason to do a thing twice."""
    for job_id in jobs(10):
        trouble.world.api.job(job_id, ready_after_polls=2)
    trouble.enqueue(*jobs(10))
    trouble.proxy.delay_s = 0.1

    with trouble.worker() as worker:
        trouble.all_told_once(worker)

    assert not worker.recorder.of(events.RedisLost)
    assert not worker.recorder.of(events.LeaseLost)


# --- Redis forgets, is full, or changes its role ------------------------------------------------


def test_scripts_that_are_flushed_are_sent_again(trouble):
    """`SCRIPT FLUSH`, a restart and a failover all empty the script cache."""
    for job_id in jobs(20):
        trouble.world.api.job(job_id, ready_after_polls=3)
    trouble.enqueue(*jobs(20))

    with trouble.worker() as worker, trouble.client as client:
        for count in (5, 20, 40, 60):
            until(lambda count=count: len(worker.recorder.of(events.JobPolled)) >= count, "they are under way")
            client.script_flush("SYNC")
        trouble.all_told_once(worker)

    assert not worker.recorder.of(events.RedisLost)


def test_a_full_memory_is_waited_out(trouble, caplog, idle_at_most):
    """`OOM command not allowed`: the worker keeps what it has in hand until there is room.

    A claim that finds nothing only reads, and so works: that is no sign that all is well.
    """
    idle_at_most(0.2)
    trouble.world.api.job("job_0", attrs.evolve(Reply.completed(), delay_s=0.6))
    trouble.enqueue("job_0")

    with trouble.worker(lease=LeasePolicy.lasting(30)) as worker, trouble.client as client:
        until(lambda: trouble.world.api.polls("job_0"), "it is being polled")
        client.config_set("maxmemory", 1)
        try:
            with at_least(2.5):
                is_lost(worker)
            with (
                trouble.world.queue() as queue,
                pytest.raises(QueueUnavailableError, match="not ready"),
            ):
                queue.enqueue("job_1", conversation_id="conversation-1")
        finally:
            client.config_set("maxmemory", 0)
        trouble.all_told_once(worker)
        trouble.loss_is_told_once(worker, caplog)

    assert len(trouble.world.api.polls("job_0")) == 1


def test_a_server_that_turns_into_a_replica_and_back_is_waited_out(trouble, caplog):
    """A failover and its end: `UNBLOCKED` for those who wait, `READONLY` for those who write."""
    for job_id in jobs(5):
        trouble.world.api.job(job_id, ready_after_polls=4)
    trouble.enqueue(*jobs(5))

    with trouble.worker() as worker, trouble.client as client:
        until(lambda: worker.recorder.of(events.JobPolled), "they are under way")
        client.replicaof("127.0.0.1", unused_port())
        try:
            with at_least(1.5):
                is_lost(worker)
        finally:
            client.replicaof("NO", "ONE")
        trouble.all_told_once(worker)
        trouble.loss_is_told_once(worker, caplog)


def test_a_promoted_replica_goes_on_where_the_primary_ended(trouble):
    """A real failover: another server, without the scripts, with the leases of the first."""
    for job_id in jobs(20):
        trouble.world.api.job(job_id, ready_after_polls=4)
    with EmbeddedRedis() as replica, redis.Redis.from_url(replica.url) as other, trouble.client as client:
        client.config_set("repl-diskless-sync-delay", 0)
        other.replicaof("127.0.0.1", trouble.server.port)
        until(lambda: other.info("replication")["master_link_status"] == "up", "the replica has caught up")
        trouble.enqueue(*jobs(20))
        with trouble.worker() as worker:
            until(lambda: len(worker.recorder.of(events.JobPolled)) > 20, "they are under way")
            assert client.wait(1, 5000) == 1
            trouble.proxy.refuse()
            trouble.server.kill()
            other.replicaof("NO", "ONE")
            trouble.proxy.upstream = replica.port
            trouble.proxy.accept()
            until(lambda: all(trouble.told().values()), "every user has a message", 30)
            until(lambda: not other.zcard(f"{trouble.world.prefix}:poll:inflight"), "nothing is in flight")

    assert trouble.told() == dict.fromkeys(jobs(20), 1)


# --- errors instead of replies ------------------------------------------------------------------

PASSING = {
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "TRYAGAIN": "TRYAGAIN Multiple keys request during rehashing of slot",
    "UNBLOCKED": "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "CLUSTERDOWN": "CLUSTERDOWN The cluster is down",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "READONLY": "READONLY You can't write against a read only replica.",
    "OOM": "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF": "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "NOREPLICAS": "NOREPLICAS Not enough good replicas to write.",
    "MOVED": "MOVED 3999 127.0.0.1:6381",
    "ASK": "ASK 3999 127.0.0.1:6381",
}
"""Errors that pass by themselves, in the words of the servers."""


@pytest.mark.parametrize("name", ["LOADING", "TRYAGAIN", "UNBLOCKED", "CLUSTERDOWN", "READONLY", "OOM"])
def test_an_error_that_passes_is_waited_out(trouble, caplog, name):
    """Each script meets with it several times, also those that write down that a message is out."""
    trouble.world.factory.fail_next(Reply.fault(503))  # the second send of a delivery is noted on its own
    trouble.enqueue(*jobs(2))
    for script in ("claim", "reschedule", "conclude", "begin_send", "settle"):
        trouble.proxy.answer(script, PASSING[name], times=2)
    trouble.proxy.answer("blmove", PASSING[name], times=1)

    with trouble.worker() as worker:
        trouble.all_told_once(worker)
        until(lambda: worker.runner.health().healthy, "the worker is well again")

    assert trouble.proxy.struck() >= 10
    assert worker.recorder.of(events.RedisLost)
    assert not worker.recorder.of(events.LeaseLost)
    assert not [one for one in caplog.records if "could not be written" in one.message]


def test_an_enqueue_that_meets_with_an_error_that_passes_says_to_try_again(trouble, call):
    """A web request can tell "later" from "never"."""
    cls = RedisVideoJobQueue if trouble.world.kind == "sync" else AsyncRedisVideoJobQueue
    queue = cls.from_url(trouble.proxy.url, prefix=trouble.world.prefix)
    said = {}
    for name, error in PASSING.items():
        trouble.proxy.answer("enqueue", error, times=float("inf"))  # a replica is asked once more, by name
        try:
            call(queue.enqueue("job_0", conversation_id="conversation-0"))
        except QueueError as failure:
            said[name] = type(failure), str(failure).endswith("Try again.")
        trouble.proxy.heal()
    trouble.proxy.answer("enqueue", "WRONGTYPE Operation against a key holding the wrong kind of value")
    with pytest.raises(QueueRefusedError):
        call(queue.enqueue("job_0", conversation_id="conversation-0"))
    call(queue.close())

    assert said == dict.fromkeys(PASSING, (QueueUnavailableError, True))


# --- lost replies -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script", ["claim", "reschedule", "conclude", "begin_send", "redeliver", "settle", "renew", "recover", "blmove"]
)
def test_a_lost_reply_costs_neither_a_job_nor_a_second_message(trouble, script, idle_at_most):
    """The server has done it and the worker does not know: the same thing again must be the same thing."""
    trouble.world.api.job("job_0", Reply.processing(), attrs.evolve(Reply.completed(), delay_s=0.9))
    trouble.world.factory.fail_next(Reply.fault(503))
    idle_at_most(1.0)
    trouble.enqueue("job_0")
    if script == "recover":
        with trouble.client as client:
            client.delete(f"{trouble.world.prefix}:poll:queue")
    trouble.proxy.lose_reply(script)

    with trouble.worker() as worker:
        trouble.all_told_once(worker)
        while not trouble.proxy.struck():
            trouble.enqueue(f"job_{len(trouble.users)}")  # it rings the bell
            until(lambda: all(trouble.told().values()), "it is delivered, too")
        trouble.all_told_once(worker)
        until(lambda: worker.runner.health().healthy, "the worker is well again")

    if script != "redeliver":  # its delivery may be due, and claimed, before the call is made again
        assert not worker.recorder.of(events.LeaseLost), "it is the same worker's own work"


def test_replies_lost_all_the_time_cost_neither_a_job_nor_a_second_message(trouble):
    """Half of all replies never come: slow, and right all the same."""
    for job_id in jobs(12):
        trouble.world.api.job(job_id, ready_after_polls=1)
    trouble.world.factory.fail_next(*[Reply.fault(503)] * 6)
    trouble.enqueue(*jobs(12))
    for script in ("reschedule", "conclude", "begin_send", "redeliver", "settle", "renew"):
        trouble.proxy.lose_reply(script, nth=2, times=float("inf"))
    trouble.proxy.lose_reply("claim", nth=5, times=float("inf"))

    with trouble.worker() as worker:
        trouble.all_told_once(worker, 40)

    assert trouble.proxy.struck() >= 3


@pytest.mark.parametrize("lost", [1, 2])
def test_an_enqueue_whose_reply_was_lost_takes_the_job_in_once(trouble, call, lost):
    """It is made again; if that fails, too, the host may do so, and there is one job all the same."""
    cls = RedisVideoJobQueue if trouble.world.kind == "sync" else AsyncRedisVideoJobQueue
    queue = cls.from_url(trouble.proxy.url, prefix=trouble.world.prefix)
    trouble.proxy.lose_reply("enqueue", times=lost)
    job_id, conversation_id, metadata = trouble.job("job_0")

    def enqueue():
        return call(queue.enqueue(job_id, conversation_id=conversation_id, metadata=metadata))

    if lost == 2:
        with pytest.raises(QueueUnavailableError):
            enqueue()
    assert enqueue() == "known"
    with trouble.client as client:
        assert client.llen(f"{trouble.world.prefix}:poll:queue") == 1
    call(queue.close())
    with trouble.worker() as worker:
        trouble.all_told_once(worker)


# --- a web request ------------------------------------------------------------------------------


@pytest.mark.parametrize("away", ["refused", "mute", "mute later", "frozen", "hung up"])
def test_an_enqueue_in_a_web_request_fails_in_time(trouble, call, away):
    """The user waits for this call: it takes twice its limit at most, also when the server never answers."""
    cls = RedisVideoJobQueue if trouble.world.kind == "sync" else AsyncRedisVideoJobQueue
    queue = cls.from_url(trouble.proxy.url, prefix=trouble.world.prefix, front_timeout_s=0.3)
    if away == "mute later":
        call(queue.enqueue("job_before", conversation_id="conversation-0"))
    make, end = {
        "refused": (trouble.proxy.refuse, trouble.proxy.accept),
        "mute": (trouble.proxy.mute, trouble.proxy.heal),
        "mute later": (trouble.proxy.mute, trouble.proxy.heal),
        "frozen": (trouble.server.pause, trouble.server.resume),
        "hung up": (trouble.proxy.hang_up, trouble.proxy.heal),
    }[away]
    make()
    try:
        began = time.monotonic()
        with pytest.raises(QueueUnavailableError, match="Try again"):
            call(queue.enqueue("job_0", conversation_id="conversation-0"))
        took_s = time.monotonic() - began
    finally:
        end()
    assert took_s < 0.9
    assert call(queue.enqueue("job_1", conversation_id="conversation-0")) == "created"
    call(queue.close())


def test_an_idle_worker_behind_a_mute_server_is_unhealthy_and_recovers(trouble, caplog):
    """A load balancer that keeps connections to a dead server."""
    with trouble.worker(strategy=attrs.evolve(FAST, interval_s=0.2)) as worker:
        until(lambda: "claim" in trouble.proxy.commands, "it works")
        trouble.proxy.mute()
        is_lost(worker)
        trouble.proxy.heal()
        trouble.enqueue("job_0")
        trouble.all_told_once(worker)
        trouble.loss_is_told_once(worker, caplog)
