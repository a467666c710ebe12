"""What a host does with a runner: one batch at a time, in the background, again after a stop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from kit import FAST, QUICK, Recorder, phone, until
from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    Delivered,
    RedisVideoJobQueue,
    Runner,
    SilentNotifier,
    VideoReady,
    events,
)


@pytest.fixture
def runner(world, call):
    """A runner of either kind that the test itself drives."""
    twin = (RedisVideoJobQueue, Runner) if world.kind == "sync" else (AsyncRedisVideoJobQueue, AsyncRunner)
    queue = twin[0].from_url(world.url, prefix=world.prefix)
    recorder = Recorder()
    runners = []

    def build(poller=None, notifier=None, **options):
        options = {"strategy": FAST, "delivery": QUICK, "hooks": [recorder], "recover": False, **options}
        made = twin[1](queue, poller or world.poller(), notifier or world.notifier(), **options)
        made.recorder = recorder
        runners.append(made)
        return made

    yield build
    for made in runners:
        if world.kind == "sync":
            made.__exit__(None, None, None)
        else:
            call(made.__aexit__(None, None, None))
    call(queue.close())


def enqueue(world, job_id="job_1", number=1):
    with world.queue() as queue:
        queue.enqueue(job_id, conversation_id="c", metadata={"channel": "ultramsg", "to": phone(number)})


def test_run_once_does_a_batch_and_says_what_it_did(world, runner, call):
    """For cron and Celery beat: no process that stays."""
    enqueue(world)
    made = runner()

    summaries = []
    until(lambda: summaries.append(call(made.run_once())) or summaries[-1].delivered, "a batch delivers it")

    assert (summaries[-1].claimed, summaries[-1].polls, summaries[-1].concluded) == (1, 1, 1)
    assert sum(summary.polls for summary in summaries) == 2
    assert call(made.run_once()).claimed == 0
    assert len(world.ultramsg.inbox(phone(1))) == 1


def test_a_runner_works_in_the_background_and_again_after_a_stop(world, runner, call):
    """Embedded in a web application it starts and stops with it."""
    made = runner()

    if world.kind == "sync":
        for number in (1, 2):
            enqueue(world, f"job_{number}", number)
            made.start()
            until(lambda number=number: world.ultramsg.inbox(phone(number)), "the video arrives")
            made.stop()
    else:

        async def work():
            for number in (1, 2):
                enqueue(world, f"job_{number}", number)
                made.start()
                await asyncio.to_thread(until, lambda number=number: world.ultramsg.inbox(phone(number)), "it arrives")
                await made.stop()

        call(work())

    assert len(made.recorder.of(events.WorkerStopped)) == 2


def test_a_hosts_own_parts_need_one_side_only(world, runner, call):
    """A plain class with one method is a poller, another one a notifier, under either runner."""
    told = []

    class Poller:
        def poll(self, job, *, timeout_s):
            return VideoReady(f"https://files.example/{job.job_id}.mp4")

    class Notifier:
        def notify(self, message):
            told.append((message.text, threading.current_thread() is threading.main_thread()))

    enqueue(world)
    made = runner(Poller(), Notifier())

    until(lambda: call(made.run_once()).delivered, "it is delivered")

    ((text, on_main_thread),) = told
    assert text.endswith("🔗 Video: https://files.example/job_1.mp4")
    assert not on_main_thread


@pytest.mark.parametrize("kind", ["async"], indirect=True)
def test_async_parts_run_on_the_event_loop(world, runner, call):
    """No thread is started for them."""
    threads = []

    class Poller:
        async def poll(self, job, *, timeout_s):
            threads.append(threading.current_thread())
            return VideoReady("https://files.example/1.mp4")

    class Notifier:
        async def notify(self, message):
            threads.append(threading.current_thread())
            return Delivered("1")

    enqueue(world)
    made = runner(Poller(), Notifier())

    until(lambda: call(made.run_once()).delivered, "it is delivered")

    assert set(threads) == {threading.main_thread()}


def test_a_poller_that_raises_is_a_passing_fault(world, runner, call):
    """A host's mistake costs a back-off, not the worker."""

    class Poller:
        calls = 0

        def poll(self, job, *, timeout_s):
            self.calls += 1
            if self.calls == 1:
                raise ZeroDivisionError
            return VideoReady("https://files.example/1.mp4")

    enqueue(world)
    made = runner(Poller(), SilentNotifier())

    until(lambda: call(made.run_once()).delivered, "it is delivered")

    assert [event.fault for event in made.recorder.of(events.JobPolled)] == ["internal", None]


def test_a_runner_that_runs_refuses_to_run_a_second_time(world, runner, call):
    """Two loops over one set of places would count wrong."""
    made = runner()
    if world.kind == "sync":
        made.start()
        until(lambda: made.recorder.of(events.WorkerStarted), "it runs")
        with pytest.raises(RuntimeError, match="build another one"):
            made.run_once()
        made.stop()
    else:

        async def work():
            made.start()
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="build another one"):
                await made.run_once()
            await made.stop()

        call(work())
