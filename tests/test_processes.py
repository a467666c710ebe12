"""One process and another, one event loop and another: what works in each, and what is refused with a sentence."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import signal
import threading

import httpx
import psutil
import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from kit import FAST, QUICK, Recorder, phone, until
from kit.forks import TOO_LONG_S, every_lock_held, fork, in_child
from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    RedisVideoJobQueue,
    Runner,
    events,
)
from videopoll._http import Http, HttpFailure, HttpRequest
from videopoll.clock import Clock
from videopoll.errors import ConfigurationError, QueueError, QueueRefusedError
from videopoll.jobs.views import Health
from videopoll.queue.history import RedisHistory
from videopoll.worker.health_server import HealthServer
from videopoll.worker.stopping import StopSignals


def build(world, *, partitions=None, **options):
    """Return a queue and a runner of the world's kind, with a recorder."""
    recorder = Recorder()
    options = {"strategy": FAST, "delivery": QUICK, "recover": False, "hooks": [recorder], **options}
    if world.kind == "sync":
        queue = RedisVideoJobQueue.from_url(world.url, prefix=world.prefix, partitions=partitions)
        return queue, Runner(queue, world.poller(), world.notifier(), **options), recorder
    queue = AsyncRedisVideoJobQueue.from_url(world.url, prefix=world.prefix, partitions=partitions)
    return queue, AsyncRunner(queue, world.poller(), world.notifier(), **options), recorder


def work_through(world, queue, runner, recorder, number=1):
    """Enqueue a job, and have the runner deliver it in the background; return whether it did."""
    job = {"conversation_id": "c", "metadata": {"channel": "ultramsg", "to": phone(number)}}

    def delivered():
        return recorder.of(events.JobDelivered, f"job_{number}")

    if world.kind == "sync":
        queue.enqueue(f"job_{number}", **job)
        with queue, runner:
            runner.start()
            until(delivered, "it is delivered", TOO_LONG_S)
        return True

    async def work():
        async with queue, runner:
            await queue.enqueue(f"job_{number}", **job)
            runner.start()
            await asyncio.to_thread(until, delivered, "it is delivered", TOO_LONG_S)

    asyncio.run(work())
    return True


# --- a fork ---


def test_a_child_of_a_running_worker_says_that_none_runs_here_and_can_run_one(world):
    """It called itself healthy once, under its parent's name."""
    worker = world.worker()
    with worker:
        runner = worker.runner
        until(lambda: runner.health().healthy, "it works")

        def child():
            told = {"id": runner.worker_id, "how": repr(runner), "health": runner.health().problems}
            told["alive"] = runner.health().alive
            if world.kind == "sync":
                runner.stop()
                runner.start()
                told["started"] = runner.health().problems
                runner.stop()
            else:

                async def run():
                    await runner.stop()
                    runner.start()
                    await asyncio.sleep(0)
                    told["started"] = runner.health().problems
                    await runner.stop()

                asyncio.run(run())
            return told

        pid, result = fork(child)
        told = result()
        world.enqueue_ready()
        until(lambda: worker.recorder.of(events.JobDelivered), "the parent works on")

    assert str(pid) in told["id"]
    assert told["id"] != runner.worker_id
    assert "not running" in told["how"]
    assert "call start() after the fork" in told["health"][0]
    assert not told["alive"]
    assert told["started"] == []


def test_a_worker_that_was_built_before_forks_has_a_name_of_its_own_in_each_child(world):
    runner = build(world)[1]

    names = [in_child(lambda: runner.worker_id) for _ in range(2)]

    assert len({runner.worker_id, *names}) == 3


@pytest.mark.timeout(90)
@pytest.mark.parametrize("partitions", [None, 2])
def test_a_fork_while_other_threads_hold_every_lock_leaves_the_child_a_worker_that_works(world, partitions):
    """A lock that was held at the fork is held in the child for ever."""
    queue, runner, recorder = build(world, partitions=partitions)

    with every_lock_held(runner, queue, runner._poller, runner._notifier) as held:
        _, result = fork(lambda: work_through(world, queue, runner, recorder))

    assert len(held) > 5
    assert result() is True


def test_what_a_child_leaves_and_collects_costs_its_parent_no_connection(world):
    """The child of an event loop shares its selector: what it closes there would be deaf in the parent."""
    worker = world.worker()
    with worker:
        world.enqueue_ready("job_1")
        until(lambda: worker.recorder.of(events.JobDelivered, "job_1"), "connections are open")
        connections = sorted(open_connections(world))

        def child():
            if world.kind == "sync":
                worker.runner.__exit__()
                worker.runner._queue.close()
            else:

                async def leave():
                    await worker.runner.__aexit__()
                    await worker.runner._queue.close()
                    worker.runner = None
                    # In a running loop a destructor of the client would close what it has.
                    gc.collect()

                asyncio.run(leave())
            worker.runner = None
            gc.collect()
            return True

        assert in_child(child) is True
        assert sorted(open_connections(world)) == connections
        world.enqueue_ready("job_2", user=2)
        until(lambda: worker.recorder.of(events.JobDelivered, "job_2"), "the parent works on")
        assert not worker.recorder.of(events.RedisLost)


def open_connections(world):
    """Return the addresses of this process's connections to a world's Redis, which no idleness of a few seconds ends."""
    servers = {int(world.url.rpartition(":")[2].partition("/")[0])}
    return [
        one.laddr.port
        for one in psutil.Process().net_connections("tcp")
        if one.raddr and one.raddr.port in servers and one.status == psutil.CONN_ESTABLISHED
    ]


def test_a_signal_to_a_child_of_a_worker_that_handles_signals_ends_the_child():
    """It took it for the wish to stop a worker that is not there."""
    asked = []
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with StopSignals(Clock(), lambda: asked.append(1), 1.0):
            ours, theirs = os.pipe()
            pid, _ = fork(lambda: (os.write(theirs, b"here"), signal.pause()))
            os.read(ours, 4)
            os.kill(pid, signal.SIGTERM)
            _, status = os.waitpid(pid, 0)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert asked == []


class Fit:
    """A runner that has nothing to do."""

    worker_id, concurrency, polls_in_hand, sends_in_hand, stopping = "fit", 1, 0, 0, False

    def health(self):
        """Say that all is well."""
        return Health(healthy=True)


def test_a_child_does_not_keep_the_port_of_its_parents_health_endpoint():
    """A probe that came to it would wait for an answer that nobody gives."""

    ours, theirs = os.pipe()
    server = HealthServer(Fit(), 0)
    pid, _ = fork(lambda: (os.write(theirs, b"here"), signal.pause()))
    os.read(ours, 4)
    server.close()
    try:
        taken = HealthServer(Fit(), server.port)
        taken.close()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_child_that_learns_of_more_partitions_shows_no_worker_of_its_parent_there(world):
    queue, _, _ = build(world, partitions=1)
    history = queue.open_history()
    history.follow(Fit())
    with RedisVideoJobQueue.from_url(world.url, prefix=world.prefix, partitions=2) as newer:
        newer.announce()

        def child():
            queue.counts() if world.kind == "sync" else asyncio.run(queue.counts())
            return [repr(queue), *(thread.name for thread in threading.enumerate())]

        shown, *threads = in_child(child)
    history.close()

    assert "partitions=2" in shown
    assert "videopoll-history" not in threads


def test_a_child_writes_its_own_history_and_not_its_parents(redis_url, prefix):
    with RedisHistory(redis_url, prefix=prefix) as history:
        history(events.JobEnqueued(job_id="job_1", conversation_id="c"))

        def child():
            history(events.JobEnqueued(job_id="job_2", conversation_id="c"))
            history.close()
            return True

        assert in_child(child) is True

    with redis.Redis.from_url(redis_url) as client:
        entries = client.xrange(f"{prefix}:poll:history")
    assert sorted(fields[b"job"] for _, fields in entries) == [b"job_1", b"job_2"]


# --- another process ---


@pytest.mark.parametrize("to_another", [pickle.dumps, copy.copy, copy.deepcopy])
def test_what_holds_connections_is_not_handed_to_another_process(world, to_another):
    queue, runner, _ = build(world)

    for part in (queue, runner, world.poller(), world.notifier()):
        if to_another is copy.copy and part not in (queue, runner):
            continue  # The copy shares what is inside.
        with pytest.raises(TypeError, match=r"cannot be copied or handed to another process.* build another one there"):
            to_another(part)


# --- event loops ---


@pytest.fixture
def async_queue(redis_url, prefix):
    return AsyncRedisVideoJobQueue.from_url(redis_url, prefix=prefix)


def test_one_queue_works_in_one_event_loop_after_the_other(async_queue):
    async def use(number):
        async with async_queue:
            return await async_queue.enqueue(f"job_{number}", conversation_id="c")

    assert [asyncio.run(use(number)) for number in range(3)] == ["created"] * 3


def test_one_queue_works_in_two_event_loops_at_once(async_queue):
    together = threading.Barrier(2, timeout=10)
    results = []

    async def use(number):
        async with async_queue:
            for turn in range(20):
                await asyncio.to_thread(together.wait)
                results.append(await async_queue.enqueue(f"job_{number}_{turn}", conversation_id="c"))

    threads = [threading.Thread(target=asyncio.run, args=(use(number),), daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TOO_LONG_S)

    assert results == ["created"] * 40


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_event_loops_that_end_without_closing_the_queue_leave_no_pile_of_connections(async_queue, redis_url):
    """As in a Flask view that calls asyncio.run: each loop is forgotten when the next one comes."""
    with redis.Redis.from_url(redis_url, client_name=None) as client:
        before = len(client.client_list())
        for number in range(20):
            asyncio.run(async_queue.enqueue(f"job_{number}", conversation_id="c"))
        asyncio.run(async_queue.close())
        gc.collect()

        until(lambda: len(client.client_list()) <= before + 2, "the connections are closed")


@pytest.mark.parametrize(("name", "arguments"), [("counts", ()), ("wait_for_work", (0.1,)), ("get", ("job_1",))])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_hosts_client_in_a_second_event_loop_is_refused_with_what_to_do(redis_url, prefix, name, arguments):
    """A bare RuntimeError went past every `except QueueError`."""
    client = redis.asyncio.Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0))
    queue = AsyncRedisVideoJobQueue(client, prefix=prefix, blocking=client)
    asyncio.run(queue.counts())

    with pytest.raises(QueueRefusedError, match=r"connections of another event loop.* from_url works in any loop"):
        asyncio.run(getattr(queue, name)(*arguments))
    assert issubclass(QueueRefusedError, QueueError)
    del client, queue
    gc.collect()


def test_a_hosts_client_that_is_closed_in_between_works_in_a_second_event_loop(redis_url, prefix):
    client = redis.asyncio.Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0))
    queue = AsyncRedisVideoJobQueue(client, prefix=prefix)

    async def use():
        counts = await queue.counts()
        await client.aclose()
        return counts.queued

    assert [asyncio.run(use()) for _ in range(2)] == [0, 0]


@pytest.mark.parametrize("kind", ["async"], indirect=True)
def test_one_runner_works_in_one_event_loop_after_the_other(world):
    queue, runner, recorder = build(world)

    assert [work_through(world, queue, runner, recorder, number) for number in (1, 2)] == [True, True]


@pytest.mark.parametrize("kind", ["async"], indirect=True)
def test_start_without_an_event_loop_says_what_to_do(world):
    _, runner, _ = build(world)

    with pytest.raises(ConfigurationError, match=r"needs a running event loop.* or use Runner"):
        runner.start()
    assert "not running" in repr(runner)


def test_signals_are_handled_on_the_main_thread_alone(world):
    runner = build(world)[1]
    errors = []

    def run():
        try:
            work = runner.run(handle_signals=True)
            if world.kind == "async":
                asyncio.run(work)
        except ConfigurationError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(TOO_LONG_S)

    assert "on the main thread alone" in errors[0]


# --- connections at the end ---


def test_after_the_end_that_the_docs_show_no_connection_is_left_open(world):
    queue, runner, recorder = build(world)
    world.enqueue_ready()

    def delivered():
        return recorder.of(events.JobDelivered)

    if world.kind == "sync":
        runner.start()
        until(delivered, "it is delivered")
        assert open_connections(world)
        runner.stop()
        for part in (runner._poller, runner._notifier, queue):
            part.close()
    else:

        async def work():
            runner.start()
            await asyncio.to_thread(until, delivered, "it is delivered")
            assert open_connections(world)
            await runner.stop()
            await runner._poller.aclose()
            await runner._notifier.aclose()
            await queue.close()

        asyncio.run(work())

    assert open_connections(world) == []


def test_after_the_blocks_of_a_queue_and_a_runner_no_connection_is_left_open(world):
    queue, runner, recorder = build(world)

    assert work_through(world, queue, runner, recorder)

    assert open_connections(world) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_hosts_http_client_in_a_second_event_loop_is_told_of_in_a_sentence(world):
    client = httpx.AsyncClient()
    http = Http(async_client=client)
    request = HttpRequest(method="GET", url=f"{world.api.url}/health", timeout_s=5.0)
    asyncio.run(http.asend(request))

    failure = asyncio.run(http.asend(request))

    assert isinstance(failure, HttpFailure)
    assert "give each loop a client of its own" in failure.detail
    del client, http
    gc.collect()
