"""A real cluster of three masters and their replicas: from the URL alone, through slots that move and masters that die."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid

import pytest
import redis
import redis.asyncio
from typer.testing import CliRunner

from kit import open_world, until
from kit.bench import AT_ONCE, Bench, Reschedule, recover
from kit.resp_proxy import RespProxy
from kit.trouble import BRISK, jobs
from videopoll import (
    AsyncRedisVideoJobQueue,
    ConfigurationError,
    RedisVideoJobQueue,
    events,
)
from videopoll.cli.app import build_app
from videopoll.cli.commands.doctor import Mark, check_redis
from videopoll.errors import QueueError, QueueUnavailableError
from videopoll.jobs import JobState
from videopoll.jobs.transition import Conclude, TransitionResult
from videopoll.queue.history import RedisHistory
from videopoll.queue.layout import prefix_of

AT_LENGTH = pytest.mark.at_length


@pytest.fixture
def prefix():
    """A hash tag of the test's own, and so a slot of its own."""
    return f"{{{uuid.uuid4().hex[:8]}}}"


@pytest.fixture
def bench(cluster, kind, call, prefix):
    """A queue on the cluster, and a client to the node that has its keys when the test begins."""
    bench = Bench(kind, cluster.url, prefix, call, cluster.db(prefix))
    yield bench
    for queue in bench.queues:
        call(queue.close())
    until(cluster.is_well, "the cluster is well", 20)
    owner = cluster.db(prefix)
    if keys := list(owner.scan_iter(match=f"{prefix}:*", count=1000)):
        owner.delete(*keys)


def test_tenants_have_turns_in_a_cluster(bench, call):
    """The keys of their lanes, which no script declares, are in the slot of the others."""
    queue = bench.another(tenant_key="brand")
    jobs = [
        (f"{tenant}_{number}", "c", {"brand": tenant})
        for tenant, count in (("heavy", 30), ("light", 3))
        for number in range(count)
    ]
    call(queue.enqueue_many(jobs))

    order = [claim.job_id for _ in range(3) for claim in bench.claim(polls=4)]

    assert sum(job_id.startswith("light") for job_id in order) == 3
    assert bench.db.zcard(bench.keys.lane("heavy")) == 21
    assert bench.counts().scheduled == 21


def test_all_that_a_queue_does_works_from_the_url_alone(bench, cluster, call):
    """Scripts, several in a round trip, the doorbell, scans, the subscription of waits, lists, dead letters, the history."""
    with RedisHistory(cluster.url, prefix=bench.prefix) as history:
        bench.another(hooks=[history])
        assert call(bench.queue.wait_for_work(0.01)) is False
        bench.enqueue("job_1")
        assert call(bench.queue.wait_for_work(1)) is True
        assert bench.finish(bench.claim()[0]) == "delivered"
        assert call(bench.queue.wait("job_1", timeout_s=5)).video_url
        bench.bury("job_2")
        assert [letter.job_id for letter in call(bench.queue.dead_letters.list())] == ["job_2"]
        claim = bench.one("job_3")
        bench.apply(Reschedule(claim, bench.now_ms() + 50_000, 1, 9))
        assert call(bench.queue.poll_now("job_3")) is True
        bench.enqueue("job_4")
        bench.db.delete(bench.keys.queue)
        assert recover(bench) == 1
        listed = call(bench.queue.list_jobs(states=[one for one in JobState if one is not JobState.ORPHANED])).jobs
        assert {job.job_id: job.state for job in listed} == {
            "job_1": JobState.SETTLED,
            "job_2": JobState.DEAD,
            "job_3": JobState.SCHEDULED,
            "job_4": JobState.SCHEDULED,
        }
        until(lambda: len(call(bench.queue.history())) >= 3, "the history is written")
    assert bench.counts().scheduled == 2


def test_a_wait_is_told_by_whichever_node(bench, call, cluster):
    """The end is published by a script at the master, and heard from there."""
    bench.enqueue()
    done = threading.Event()

    def finish():
        with RedisVideoJobQueue.from_url(cluster.url, prefix=bench.prefix) as other:
            until(lambda: bench.db.pubsub_channels(f"{bench.prefix}*"), "somebody listens")
            (claim,) = other.claim(polls=1, sends=0, worker_id="w", strategy=AT_ONCE, lease=BRISK).claims
            Bench("sync", cluster.url, bench.prefix, lambda value: value, bench.db, [other]).finish(claim)
            done.set()

    with contextlib.ExitStack() as stack:
        thread = threading.Thread(target=finish)
        thread.start()
        stack.callback(thread.join)
        assert call(bench.queue.wait("job_1", timeout_s=10)) is not None
    assert done.is_set()


def test_a_hosts_client_of_the_cluster_is_taken(bench, cluster, kind, call, prefix):
    """For its nodes, its user and its options: that it would retry does no harm, as the queue's connections do not."""
    port = cluster.masters[0].port
    if kind == "sync":
        client = redis.RedisCluster(host="127.0.0.1", port=port)
        queue = RedisVideoJobQueue(client, prefix=prefix)
    else:
        client = redis.asyncio.RedisCluster(host="127.0.0.1", port=port)
        queue = AsyncRedisVideoJobQueue(client, prefix=prefix)
    bench.queues.append(queue)
    assert call(queue.enqueue("job_1", conversation_id="c")) == "created"
    assert call(queue.wait_for_work(1)) is True
    assert bench.finish(bench.claim()[0]) == "delivered"
    with queue.open_history() as history:
        assert history is not None
    with pytest.raises(ConfigurationError, match="make the prefix a hash tag"):
        type(queue)(client, prefix="video")
    call(client.close() if kind == "sync" else client.aclose())


def test_a_slot_that_has_moved_is_followed_by_every_connection(bench, cluster, call):
    """Those of producers, of workers, of the doorbell and of the history each lead to the old master at first."""
    bench.enqueue("job_1")
    bench.claim(polls=0)
    call(bench.queue.wait_for_work(0.01))
    cluster.move(bench.prefix)
    bench.db = cluster.db(bench.prefix)

    assert bench.enqueue("job_2") == "created"
    assert call(bench.queue.wait_for_work(0.01)) is True
    assert {bench.finish(claim) for claim in bench.claim()} == {"delivered"}
    assert call(bench.queue.list_jobs()).jobs == ()
    assert call(bench.queue.dead_letters.list()) == []


def test_a_pipeline_meets_a_slot_that_has_moved(bench, cluster):
    """Several scripts in a round trip are refused one by one, and made again."""
    claims = [bench.one("job_1"), bench.one("job_2")]
    entry = bench.entry(claims[1])
    cluster.move(bench.prefix)
    bench.db = cluster.db(bench.prefix)

    later = bench.now_ms() + 50_000
    assert (
        bench.apply(Reschedule(claims[0], later, 1, 9), Conclude(claims[1], entry, 600, 12_000))
        == [TransitionResult.APPLIED] * 2
    )


def test_an_enqueue_waits_for_a_slot_whose_keys_are_on_two_nodes(bench, cluster):
    """TRYAGAIN: neither node can run a script over them."""
    for job_id in jobs(4):
        bench.enqueue(job_id)
    move = cluster.begin_move(bench.prefix)
    move.keys(3)
    refused = errors_of(move.source)
    ended = threading.Thread(
        target=lambda: (
            until(lambda: errors_of(move.source) > refused, "it was refused"),
            move.keys(),
            move.end(),
        )
    )
    ended.start()
    assert bench.enqueue("job_5") == "created"
    ended.join()
    bench.db = cluster.db(bench.prefix)
    assert bench.counts().queued == 5


def test_what_cannot_wait_says_so_and_loses_nothing(bench, cluster, monkeypatch):
    """The scripts that find their keys in Redis are cut off by the move, whatever they were at."""
    monkeypatch.setattr("videopoll.queue.cluster.PATIENCE_S", 0.1)
    for job_id in jobs(3):
        bench.enqueue(job_id)
    bench.apply(Reschedule(bench.claim(polls=1)[0], bench.now_ms() + 10, 1, 9))
    bench.claim(polls=1)
    bench.db.zadd(bench.keys.deliveries, {"none": 9e12})  # now every fixed key exists, and a claim begins
    move = cluster.begin_move(bench.prefix)
    for most in (0, 2, 100):
        move.keys(most) if most else None
        for action in (bench.claim, bench.enqueue, bench.counts):
            with pytest.raises(QueueUnavailableError, match=r"being moved to another node of the cluster\. Try again"):
                action()
    move.end()
    bench.db = cluster.db(bench.prefix)
    bench.db.zrem(bench.keys.deliveries, "none")

    for job_id in jobs(3):
        bench.db.zadd(bench.keys.inflight, {job_id: 1}, xx=True)
    until(lambda: bench.now_ms() and len(bench.claim()) + bench.counts().in_flight >= 3, "all are found again")


def errors_of(server) -> int:
    """Count what a node has refused so far."""
    return server.db.info("stats")["total_error_replies"]


def test_a_single_key_is_asked_for_where_it_has_moved(bench, cluster, call):
    """ASK: the key is at the new master, while the slot is still the old one's."""
    bench.bury("job_1")
    move = cluster.begin_move(bench.prefix)
    move.keys()
    assert [letter.job_id for letter in call(bench.queue.dead_letters.list())] == ["job_1"]
    assert call(bench.queue.wait_for_work(0.01)) is False
    move.end()


@AT_LENGTH
@pytest.mark.parametrize("how", ["crash", "hang", "asked for"])
def test_a_worker_goes_on_when_its_master_is_gone(cluster, kind, prefix, how):
    """Each user is told once: what was acknowledged has reached the replica before."""
    for world in open_world(kind, cluster.url, prefix):
        for number, job_id in enumerate(jobs(6)):
            world.api.job(job_id, ready_after_polls=3)
            world.enqueue(job_id, user=number)
        with world.worker(lease=BRISK, queue_options={"worker_timeout_s": 1.0}) as worker:
            until(lambda: len(worker.recorder.of(events.JobPolled)) >= 6, "they are under way")
            cluster.owner(prefix).sync(prefix)
            with cluster.failed_over(prefix, how):
                until(lambda: len(worker.recorder.of(events.JobDelivered)) >= 6, "every user has a message", 30)
                until(lambda: worker.runner.health().healthy, "the worker is well", 20)
                with world.queue() as queue:
                    until(lambda: not queue.counts().pending, "nothing is left")
        assert len(world.ultramsg.messages) == 6


@AT_LENGTH
def test_a_producer_leaves_a_master_that_hangs_within_its_time_limit(cluster, kind, call, prefix):
    """It accepts connections, and never answers: its replica has taken over meanwhile."""
    cls = RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue
    queue = cls.from_url(cluster.url, prefix=prefix, front_timeout_s=1.0)
    assert call(queue.enqueue("job_1", conversation_id="c")) == "created"
    cluster.owner(prefix).sync(prefix)
    with cluster.failed_over(prefix, "hang") as was:
        began_s = time.monotonic()
        with pytest.raises(QueueUnavailableError, match="did not answer in time"):
            call(queue.enqueue("job_2", conversation_id="c"))
        assert time.monotonic() - began_s < 2.5
        until(lambda: is_taken_in(call, queue, "job_2"), "the next calls go to the new master", 5)
        assert call(queue.counts()).queued == 2
        db = cluster.owner(prefix, was).db
        db.delete(*db.keys(f"{prefix}:*"))
    call(queue.close())


@AT_LENGTH
def test_a_producer_is_told_to_try_again_while_there_is_no_master(bench, cluster):
    """And reaches the new one as soon as there is one."""
    bench.enqueue("job_0")
    cluster.owner(bench.prefix).sync(bench.prefix)
    refused = 0

    def enqueued():
        nonlocal refused
        with contextlib.suppress(QueueUnavailableError):
            return bench.enqueue("job_1") == "created"
        refused += 1
        return False

    with cluster.failed_over(bench.prefix, wait=False):
        until(enqueued, "it reaches the new master", 20)
        assert refused
        assert bench.counts().queued == 2


def test_a_master_that_is_cut_off_from_its_cluster_is_left(cluster, kind, call, prefix, monkeypatch):
    """It lives, says CLUSTERDOWN, and believes that the slot is its own. The others know who has it by now."""
    monkeypatch.setattr("videopoll.queue.cluster.PATIENCE_S", 0.1)
    was = cluster.owner(prefix)
    with RespProxy(was.port) as proxy:
        # From here its address is the proxy's.
        module = redis if kind == "sync" else redis.asyncio
        client = module.RedisCluster(
            host="127.0.0.1",
            port=next(one.port for one in cluster.masters if one is not was),
            address_remap=lambda node: (node[0], proxy.port if node[1] == was.port else node[1]),
        )
        queue = (RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue)(client, prefix=prefix)
        assert call(queue.enqueue("job_1", conversation_id="c")) == "created"
        assert proxy.commands
        with cluster.failed_over(prefix, "asked for"):
            proxy.answer("*", "CLUSTERDOWN The cluster is down", times=1000)
            proxy.say("cluster", all_slots_at(was.port))
            with pytest.raises(QueueUnavailableError, match="not ready"):
                call(queue.enqueue("job_2", conversation_id="c"))
            until(lambda: is_taken_in(call, queue, "job_2"), "the next calls go to the new master", 5)
            assert cluster.db(prefix).exists(f"{prefix}:job:job_2")
            cluster.db(prefix).delete(*cluster.db(prefix).keys(f"{prefix}:*"))
        call(queue.close())
        call(client.close() if kind == "sync" else client.aclose())


def test_a_bad_way_to_the_nodes_loses_nothing(cluster, kind, call, prefix):
    """Each node is behind a line that is slow, loses each fourth reply of an enqueue, and is cut now and then."""
    with contextlib.ExitStack() as stack:
        lines = {one.port: stack.enter_context(RespProxy(one.port)) for one in cluster.servers}
        for line in lines.values():
            line.delay_s = 0.01
            line.lose_reply("enqueue", nth=4, times=1000)
        module = redis if kind == "sync" else redis.asyncio
        client = module.RedisCluster(
            host="127.0.0.1",
            port=cluster.masters[0].port,
            address_remap=lambda node: (node[0], lines[node[1]].port if node[1] in lines else node[1]),
        )
        queue = (RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue)(client, prefix=prefix)
        for number, job_id in enumerate(jobs(20)):
            if number % 5 == 4:
                lines[cluster.owner(prefix).port].cut()
            if number == 10:
                cluster.move(prefix)
            until(lambda: is_taken_in(call, queue, job_id), "it is taken in, at the second try at the latest", 5)  # noqa: B023
        assert call(queue.counts()).queued == 20
        assert sum(line.struck() for line in lines.values()) >= 4
        cluster.db(prefix).delete(*cluster.db(prefix).keys(f"{prefix}:*"))
        call(queue.close())
        call(client.close() if kind == "sync" else client.aclose())


def all_slots_at(port: int) -> bytes:
    """Return what a node says of the slots that takes itself for the only one."""
    host = b"127.0.0.1"
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$%d\r\n%s\r\n:%d\r\n" % (len(host), host, port)


def is_taken_in(call, queue, job_id) -> bool:
    with contextlib.suppress(QueueUnavailableError):
        # "known" is what the second try says of the first one, whose reply was lost.
        return call(queue.enqueue(job_id, conversation_id="c")) in {"created", "known"}
    return False


def test_nodes_that_hang_are_passed_over(bench, cluster):
    """They accept, and never answer. Each is waited for once."""
    # Replicas: the last of three masters would soon say that the cluster is down.
    masters = cluster.masters
    others = [one for one in cluster.servers if one not in masters][:2]
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{one.port}" for one in (*others, cluster.owner(bench.prefix)))
    for one in others:
        one.pause()
    try:
        queue = bench.another(url)
        assert is_taken_in(bench.call, queue, "job_1")
    finally:
        for one in others:
            one.resume()


def test_the_command_line_works_on_a_cluster(cluster, prefix):
    given = ["--redis-url", cluster.url, "--prefix", prefix]

    def run(*words):
        result = CliRunner().invoke(build_app(), [*words, *given])
        assert result.exit_code == 0, result.output
        return result.stdout

    run("enqueue", "job_1", "--conversation", "c")
    assert "waiting to be taken: 1" in run("status")
    assert "job_1" in run("jobs")
    assert "queued" in run("show", "job_1")
    run("cancel", "job_1")
    cluster.db(prefix).delete(*cluster.db(prefix).keys(f"{prefix}:*"))


def test_doctor_is_content_with_a_cluster(cluster, prefix):
    findings = {one.check: one for one in check_redis(cluster.url, prefix, clock=False)}

    assert findings["cluster"].mark is Mark.OK
    assert "its node is followed" in findings["cluster"].found


def test_doctor_looks_at_the_server_of_each_partition(cluster, prefix):
    """What is wrong with one of them is told with the first partition that is there, once."""
    prefixes = [prefix_of(prefix, number) for number in range(8)]
    with RedisVideoJobQueue.from_url(cluster.url, prefix=prefix, partitions=8) as queue:
        queue.announce()
    there, *_ = (one for one in prefixes if cluster.owner(one) != cluster.owner(prefix))
    cluster.owner(there).ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        found = [one for one in check_redis(cluster.url, prefix, clock=False) if one.check.startswith("eviction")]
    finally:
        cluster.owner(there).ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        for one in prefixes:
            cluster.db(one).delete(f"{one}:poll:layout")

    assert [(one.check, one.mark) for one in found] == [("eviction", Mark.OK), (f"eviction of {there}", Mark.NOTE)]


@pytest.mark.one_server("wants a server that is no node")
def test_what_is_no_node_of_a_cluster_says_so(kind, call, redis_url):
    bench = Bench(kind, redis_url.replace("redis://", "redis+cluster://"), "{video}", call, None)
    with pytest.raises(QueueError, match="no node of a cluster: write redis:// in the URL"):
        bench.enqueue()
    call(bench.queue.close())


def test_a_cluster_of_which_no_node_answers_says_so(kind, call):
    bench = Bench(kind, "redis+cluster://127.0.0.1:1,127.0.0.1:2", "{video}", call, None)
    with pytest.raises(QueueUnavailableError, match=r"none of the 2 nodes of the cluster can be asked .*Try again\."):
        bench.enqueue()
    call(bench.queue.close())
