"""Whatever one of a worker's loops meets, it goes on after a pause, or the worker says that it is not alive."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time

import pytest

from kit import FAST, until
from videopoll import LeasePolicy, Runner, SilentNotifier, VideoApiPoller, events
from videopoll.observations import VideoReady, VideoWorking
from videopoll.queue.history import RedisHistory
from videopoll.queue.redis_queue import RedisVideoJobQueue

BRIEF = LeasePolicy.lasting(1.0)


class Ready:
    """A poller that finds every video finished."""

    def poll(self, job, *, timeout_s):
        return VideoReady("https://files.example/1.mp4")


class Breaking:
    """Breaks one method of a running worker's queue, for some calls or for good."""

    def __init__(self, queue, method, answer, times=10**9):
        self.calls = 0
        self.left = times
        self._queue, self._method = queue, method
        whole = getattr(queue, method)

        def broken(*_args, **_kwargs):
            self.calls += 1
            self.left -= 1
            if isinstance(answer, type) and issubclass(answer, BaseException):
                raise answer
            return answer

        if inspect.iscoroutinefunction(whole):

            async def call(*args, **kwargs):
                return broken() if self.left > 0 else await self._count(whole, args, kwargs)

        else:

            def call(*args, **kwargs):
                return broken() if self.left > 0 else self._count(whole, args, kwargs)

        setattr(queue, method, call)

    def _count(self, whole, args, kwargs):
        self.calls += 1
        return whole(*args, **kwargs)

    def mend(self):
        """Let it work again."""
        self.left = 0


def told_failures(caplog):
    return [record for record in caplog.records if "failed; it goes on after a pause" in record.getMessage()]


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
def test_one_renewal_that_raises_costs_no_second_send(world, error):
    """The renewer went on to nothing, and the worker called itself healthy: three sends."""
    sent = []

    class Slow:
        def notify(self, message):
            sent.append(message.reference)
            threading.Event().wait(3 * BRIEF.duration_s)

    world.enqueue()
    worker = world.worker(poller=Ready(), notifier=Slow(), lease=BRIEF)
    other = world.worker(poller=Ready(), notifier=Slow(), lease=BRIEF)
    with worker, other:
        breaks = [Breaking(one.runner._queue, "renew", error, times=1) for one in (worker, other)]
        until(
            lambda: worker.recorder.of(events.JobDelivered) + other.recorder.of(events.JobDelivered), "it is delivered"
        )
        assert all(one.calls > 1 for one in breaks)

    assert len(sent) == 1


@pytest.mark.parametrize("method", ["claim", "apply", "renew", "wait_for_work", "recover"])
@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
def test_a_loop_goes_on_after_what_nobody_foresaw_and_tells_of_it_once(world, method, error, caplog, monkeypatch):
    monkeypatch.setattr("videopoll.worker.upkeep.SWEEP_EVERY_S", 0.1)
    worker = world.worker(poller=Ready(), notifier=SilentNotifier(), lease=BRIEF, foreign_workers=True)
    with worker, caplog.at_level(logging.ERROR):
        broken = Breaking(worker.runner._queue, method, error, times=2)
        world.enqueue()
        until(lambda: broken.calls > 2, f"{method} is called again", 30)
        world.enqueue("job_2")
        until(lambda: worker.recorder.of(events.JobDelivered, "job_2"), "the worker works")
        until(lambda: worker.runner.health().alive, "it is alive")

    if method != "apply":
        assert len(told_failures(caplog)) == 1


def test_a_worker_that_cannot_renew_takes_no_job_says_so_and_goes_on_when_it_can(world):
    worker = world.worker(poller=Ready(), notifier=SilentNotifier(), lease=BRIEF)
    with worker:
        broken = Breaking(worker.runner._queue, "renew", ZeroDivisionError)
        until(lambda: not worker.runner.health().alive, "it is not alive")
        assert "renewer" in " ".join(worker.runner.health().problems)
        world.enqueue()
        calls = broken.calls
        until(lambda: broken.calls > calls + 2, "it tries to renew all the while")
        assert not worker.recorder.of(events.JobClaimed)
        broken.mend()
        until(lambda: worker.recorder.of(events.JobDelivered), "it works")
        assert worker.runner.health().alive


@pytest.mark.parametrize("answer", [[], [True, True, True], None, 7])
def test_a_renewal_that_answers_for_other_leases_than_were_asked_ends_no_work(world, answer):
    release = threading.Event()

    class Slow:
        def poll(self, job, *, timeout_s):
            release.wait(20)
            return VideoReady("https://files.example/1.mp4")

    world.enqueue()
    worker = world.worker(poller=Slow(), notifier=SilentNotifier(), lease=LeasePolicy.lasting(4.0))
    with worker:
        broken = Breaking(worker.runner._queue, "renew", answer, times=2)
        try:
            until(lambda: broken.calls > 2, "leases are renewed again")
        finally:
            release.set()
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")
        assert not worker.recorder.of(events.LeaseLost)


@pytest.mark.parametrize("reply", [None, 7, b"no", [], [[]], {"a": 1}, [1, 2, 3, 4, 5, [[1]]]])
def test_a_reply_of_redis_in_a_shape_of_its_own_does_not_end_a_worker(world, reply):
    """A proxy in between, another kind of server, a version to come."""
    worker = world.worker(poller=Ready(), notifier=SilentNotifier(), lease=BRIEF)
    with worker:
        # Every script's reply is of that shape once: of a claim, of a write, of a renewal.
        seen = set()
        client = worker.runner._queue._client
        whole = client.execute_command

        def strange(*words):
            strange_one = words[0] == "EVALSHA" and words[1] not in seen
            seen.update(words[1:2])
            return strange_one

        if world.kind == "sync":
            client.execute_command = lambda *words, **more: reply if strange(*words) else whole(*words, **more)
        else:

            async def execute(*words, **more):
                return reply if strange(*words) else await whole(*words, **more)

            client.execute_command = execute
        world.enqueue()
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered", 30)
        until(lambda: worker.runner.health().healthy, "all is well")


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, asyncio.CancelledError])
def test_a_hook_that_raises_harms_nothing_whatever_it_raises(world, error):
    def hook(_event):
        raise error

    world.enqueue_many("job_1", "job_2")
    with world.worker(poller=Ready(), notifier=SilentNotifier(), hooks=[hook]) as worker:
        until(lambda: len(worker.recorder.of(events.JobDelivered)) == 2, "both are delivered")
        assert worker.runner.health().healthy


def test_an_exception_that_cannot_say_what_it_is_costs_no_place(world):
    class UntoldError(Exception):
        def __str__(self):
            raise ZeroDivisionError

    class Poller:
        calls = 0

        def poll(self, job, *, timeout_s):
            self.calls += 1
            if self.calls < 4:
                raise UntoldError
            return VideoReady("https://files.example/1.mp4")

    world.enqueue()
    with world.worker(poller=Poller(), notifier=SilentNotifier(), concurrency=1) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")


def test_a_claim_that_cannot_be_read_takes_no_other_along(world, monkeypatch):
    """Those that were leased with it would wait for their leases to end, again and again."""
    from videopoll.queue import calls

    whole = calls._read_claim

    def read(fields, token, now_ms):
        if fields[0] == b"bad":
            raise TypeError
        return whole(fields, token, now_ms)

    monkeypatch.setattr(calls, "_read_claim", read)
    world.enqueue_many("good_1", "bad", "good_2")

    with world.worker(poller=Ready(), notifier=SilentNotifier()) as worker:
        until(lambda: len(worker.recorder.of(events.JobDelivered)) == 2, "the others are delivered")
        until(lambda: worker.recorder.of(events.JobDeadLettered, "bad"), "it is a dead letter")
        with world.queue() as queue:
            (letter,) = queue.dead_letters.list()
    assert letter.record is not None


def test_writes_that_go_well_do_not_hide_a_stuck_loop(monkeypatch):
    """The writer has a thread of its own: it says nothing of the loop that claims."""
    runner = Runner(RedisVideoJobQueue.from_url("redis://h"), VideoApiPoller(api_key="key"), SilentNotifier())
    monkeypatch.setattr(runner._state.vitals, "_ticked_s", time.monotonic() - 1000)

    runner._state.redis_recovered("apply", time.monotonic())

    assert not runner.health().alive


def test_a_loop_that_raises_in_its_own_logging_goes_on(world, monkeypatch):
    """A host's filter that raises is called wherever a line is logged."""

    class Poller:
        calls = 0

        def poll(self, job, *, timeout_s):
            self.calls += 1
            return VideoReady("https://files.example/1.mp4") if self.calls > 2 else VideoWorking()

    def refuse(_record):
        raise ZeroDivisionError

    logger = logging.getLogger("videopoll.jobs")
    monkeypatch.setattr(logger, "filters", [refuse])
    monkeypatch.setattr(logging.getLogger("videopoll.events"), "filters", [refuse])
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    world.enqueue()
    with world.worker(poller=Poller(), notifier=SilentNotifier(), strategy=FAST, lease=BRIEF) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered", 30)


def test_the_history_goes_on_after_what_nobody_foresaw(redis_url, prefix, monkeypatch, caplog):
    queue = RedisVideoJobQueue.from_url(redis_url, prefix=prefix)
    with queue, RedisHistory(redis_url, prefix=prefix) as history:
        whole, calls = history._write, []

        def write(some):
            calls.append(1)
            if len(calls) < 3:
                raise ZeroDivisionError
            whole(some)

        monkeypatch.setattr(history, "_write", write)
        history(events.JobEnqueued(job_id="job_1", conversation_id="c"))
        until(lambda: queue.history("job_1"), "the entry is written")
    assert len(told_failures(caplog)) == 1
