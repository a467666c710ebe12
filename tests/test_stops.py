"""However a worker is stopped, and whatever hangs meanwhile, it ends within its grace, and nobody is told twice."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import anyio.lowlevel
import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit import API_KEY, FAST, INSTANCE, QUICK, TOKEN, Recorder, phone, until
from kit.worker_process import end, spawn
from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    LeasePolicy,
    RedisVideoJobQueue,
    Runner,
    SilentNotifier,
    events,
)
from videopoll.errors import RunnerError
from videopoll.observations import VideoReady
from videopoll.testing import Reply
from videopoll.worker.stopping import LOOK_S, REPEATED_S, STOP_SIGNALS, calm_ctrl_c

TOO_LONG_S = 30.0
"""How long no end may take, on a machine that is five times slower."""


class Ready:
    """A poller that finds every video finished."""

    def poll(self, job, *, timeout_s):
        return VideoReady("https://files.example/1.mp4")


class Hanging:
    """A poller whose polls come back when the test says so."""

    def __init__(self):
        self.calls = 0
        self.release = threading.Event()

    def poll(self, job, *, timeout_s):
        self.calls += 1
        self.release.wait(60)
        return VideoReady("https://files.example/1.mp4")


class Slow:
    """A channel that takes its time; of the asyncio kind with `anotify`."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.begun, self.ended = [], []

    def notify(self, message):
        self.begun.append(message.reference)
        time.sleep(self.seconds)
        self.ended.append(message.reference)


class SlowAsync(Slow):
    async def notify(self, message):
        self.begun.append(message.reference)
        await asyncio.sleep(self.seconds)
        self.ended.append(message.reference)


def delivered(world, job_id="job_1"):
    with world.queue() as queue:
        view = queue.get(job_id)
    return view is not None and view.delivered is True


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("videopoll-")]


def build(world, poller=None, notifier=None, **options):
    """Build a runner of the world's kind that the test itself drives."""
    recorder = Recorder()
    made = {"strategy": FAST, "delivery": QUICK, "recover": False, **options}
    made["hooks"] = [recorder, *options.get("hooks", ())]
    if world.kind == "sync":
        queue = RedisVideoJobQueue.from_url(world.url, prefix=world.prefix)
        runner = Runner(queue, poller or Ready(), notifier or SilentNotifier(), **made)
    else:
        queue = AsyncRedisVideoJobQueue.from_url(world.url, prefix=world.prefix)
        runner = AsyncRunner(queue, poller or Ready(), notifier or SilentNotifier(), **made)
    runner.recorder = recorder
    return runner


def drive(work):
    """Run an asyncio test, bounded."""
    return asyncio.run(asyncio.wait_for(work, 4 * TOO_LONG_S))


async def soon(condition, describe):
    """Wait for a condition without holding up the loop."""
    await asyncio.to_thread(until, condition, describe, TOO_LONG_S)


# --- any order ---


@pytest.mark.parametrize("kind", ["sync"], indirect=True)
def test_restarts_with_polls_in_hand_leak_no_threads(world):
    """Eighty after ten restarts: each run left those that hung, and they never ended."""
    hanging = Hanging()
    world.enqueue_many(*[f"job_{number}" for number in range(4)])
    made = build(world, hanging, grace_s=0, concurrency=4, delivery_concurrency=4)
    try:
        for number in range(1, 7):
            made.start()
            until(lambda n=number: hanging.calls >= min(4 * n, 16), "polls are in hand")
            made.stop()
        assert len(threads()) <= 2 * (4 + 4 + 2)
    finally:
        hanging.release.set()
    until(lambda: not threads(), "all threads end")
    made.start()
    until(lambda: all(delivered(world, f"job_{number}") for number in range(4)), "they are delivered")
    made.stop()
    made._queue.close()
    assert not threads()


@pytest.mark.parametrize("kind", ["async"], indirect=True)
def test_restarts_with_sync_polls_in_hand_leak_no_threads_under_asyncio(world):
    hanging = Hanging()
    world.enqueue_many(*[f"job_{number}" for number in range(4)])
    made = build(world, hanging, grace_s=0, concurrency=4, delivery_concurrency=4)

    async def work():
        for number in range(1, 7):
            made.start()
            # From the third run on there is no thread to be had for them.
            await soon(lambda n=number: made.polls_in_hand == 4 and hanging.calls >= min(4 * n, 8), "polls are in hand")
            await made.stop()
        try:
            assert hanging.calls == 8
        finally:
            hanging.release.set()
        await soon(lambda: not threads(), "all threads end")
        made.start()
        await soon(lambda: all(delivered(world, f"job_{number}") for number in range(4)), "they are delivered")
        await made.stop()
        await made._queue.close()

    drive(work())
    until(lambda: not threads(), "all threads end")


def run_until_delivered(world, made, job_id):
    """Run it until a new job is delivered, whatever happened to it before."""
    world.enqueue(job_id)
    if world.kind == "sync":
        running = threading.Thread(target=made.run)
        running.start()
        until(lambda: delivered(world, job_id), "it works")
        made.stop()
        running.join(TOO_LONG_S)
        assert not running.is_alive()
        return

    async def work():
        running = asyncio.create_task(made.run())
        await soon(lambda: delivered(world, job_id), "it works")
        await made.stop()
        await running
        await made._queue.close()

    drive(work())


def test_a_stop_while_nothing_runs_does_not_end_the_next_run(world, call):
    made = build(world)
    call(made.stop())
    run_until_delivered(world, made, "job_1")
    if world.kind == "sync":
        made.stop()
    else:
        asyncio.run(made.stop())
    run_until_delivered(world, made, "job_2")
    call(made._queue.close())


def test_a_stop_that_is_asked_for_before_a_run_begins_counts_for_that_run_only(world, call):
    """A signal handler of the host's may be a moment early: it must not be lost."""
    made = build(world)
    made.request_stop()
    call(made.run())
    assert len(made.recorder.of(events.WorkerStopped)) == 1
    run_until_delivered(world, made, "job_1")
    call(made._queue.close())


@pytest.mark.parametrize("kind", ["async"], indirect=True)
@pytest.mark.parametrize("how", ["cancelled", "left", "standing"])
def test_a_runner_works_on_a_second_event_loop(world, how):
    """However the first one ended: cancelled, with the runner at work, or without an end, as it only stands still."""
    made = build(world)
    loop = asyncio.new_event_loop()

    async def left():
        made.start()
        await soon(lambda: made.recorder.of(events.WorkerStarted), "it works")

    async def cancelled():
        running = asyncio.create_task(made.run())
        await soon(lambda: made.recorder.of(events.WorkerStarted), "it works")
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    async def the_rest():
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        _, left = await asyncio.wait(others, timeout=TOO_LONG_S) if others else ((), ())
        assert not left

    first = made._queue

    def close():
        loop.run_until_complete(the_rest())
        loop.run_until_complete(first.close())
        loop.close()

    loop.run_until_complete(cancelled() if how == "cancelled" else left())
    if how != "standing":
        close()
    # Connections belong to a loop: those of one that may go on are not for another.
    made._queue = AsyncRedisVideoJobQueue.from_url(world.url, prefix=world.prefix)
    asyncio.run(made.stop())
    run_until_delivered(world, made, "job_1")
    if how == "standing":
        # It goes on after all, and finds that its run is over.
        close()
        run_until_delivered(world, made, "job_2")


async def run_for_a_moment(made):
    """Run it until it has begun, then stop it; what runs already is only refused."""
    begun = len(made.recorder.of(events.WorkerStarted))
    task = asyncio.create_task(made.run())
    await soon(lambda: task.done() or len(made.recorder.of(events.WorkerStarted)) > begun, "it runs")
    if not task.done():
        await made.stop()
    with contextlib.suppress(RunnerError):
        await task


def run_for_a_moment_in_a_thread(made):
    begun, refused = len(made.recorder.of(events.WorkerStarted)), []

    def run():
        try:
            made.run()
        except RunnerError as error:
            refused.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: refused or len(made.recorder.of(events.WorkerStarted)) > begun, "it runs")
    if not refused:
        made.stop()
    thread.join(TOO_LONG_S)
    assert not thread.is_alive()


async def do(made, operation):
    if operation == "run":
        await run_for_a_moment(made)
    elif operation == "with":
        async with made:
            pass
    else:
        with contextlib.suppress(RunnerError):
            done = getattr(made, operation)()
            if done is not None:
                await done


def do_sync(made, operation):
    if operation == "run":
        run_for_a_moment_in_a_thread(made)
    elif operation == "with":
        with made:
            pass
    else:
        with contextlib.suppress(RunnerError):
            getattr(made, operation)()


OPERATIONS = ("start", "stop", "request_stop", "run", "run_once", "with")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(st.sampled_from(OPERATIONS), max_size=7))
def test_whatever_was_called_in_whatever_order_it_works_afterwards_and_leaves_nothing(world, operations):
    made = build(world, grace_s=1.0)
    job_id = f"job_{time.monotonic_ns()}"

    def sync():
        for operation in operations:
            do_sync(made, operation)
        made.start()
        world.enqueue(job_id)
        until(lambda: delivered(world, job_id), f"it works after {operations}")
        made.stop()
        made._queue.close()

    async def asynchronous():
        for operation in operations:
            await do(made, operation)
        made.start()
        world.enqueue(job_id)
        await soon(lambda: delivered(world, job_id), f"it works after {operations}")
        await made.stop()
        await made._queue.close()

    if world.kind == "sync":
        sync()
    else:
        drive(asynchronous())
    assert not made._state.steps
    assert not made.stopping
    until(lambda: not threads(), "all threads end")


# --- cancelled, once and again ---


@pytest.fixture(params=[Slow, SlowAsync])
def channel(request):
    """A slow channel of either kind."""
    return request.param(1.0)


async def cancel_twice(made, channel):
    running = asyncio.create_task(made.run())
    await soon(lambda: channel.begun, "it is being sent")
    running.cancel()
    await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert running.cancelling() == 2


async def cancel_once(made, channel):
    running = asyncio.create_task(made.run())
    await soon(lambda: channel.begun, "it is being sent")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def cancel_an_anyio_scope(made, channel):
    """Every await raises again and again: Starlette, FastAPI, MCP servers."""
    async with anyio.create_task_group() as group:
        group.start_soon(made.run)
        await soon(lambda: channel.begun, "it is being sent")
        group.cancel_scope.cancel()


async def time_out(made, channel):
    watch = asyncio.create_task(soon(lambda: channel.begun, "it is being sent"))

    async def limited():
        async with asyncio.timeout(None) as limit:
            watch.add_done_callback(lambda _: limit.reschedule(0))
            await made.run()

    with pytest.raises(TimeoutError):
        await limited()


async def fail_beside_it(made, channel):
    async def sibling():
        await soon(lambda: channel.begun, "it is being sent")
        raise ZeroDivisionError

    async def together():
        async with asyncio.TaskGroup() as group:
            group.create_task(made.run())
            group.create_task(sibling())

    with pytest.raises(ExceptionGroup):
        await together()


async def leave_the_block_in_a_cancelled_scope(made, channel):
    with anyio.CancelScope() as scope:
        async with made:
            made.start()
            await soon(lambda: channel.begun, "it is being sent")
            scope.cancel()
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("kind", ["async"], indirect=True)
@pytest.mark.parametrize(
    "how",
    [
        cancel_once,
        cancel_twice,
        cancel_an_anyio_scope,
        time_out,
        fail_beside_it,
        leave_the_block_in_a_cancelled_scope,
    ],
)
def test_a_send_under_way_is_settled_however_the_run_is_cancelled_and_none_goes_out_later(world, channel, how):
    world.enqueue_many("job_1", *[f"other_{number}" for number in range(5)])
    made = build(world, notifier=channel, delivery_concurrency=1)

    async def work():
        async with AsyncRedisVideoJobQueue.from_url(world.url, prefix=world.prefix) as queue:
            made._queue = queue
            await how(made, channel)
            assert made._current.over
            begun, ended = list(channel.begun), list(channel.ended)
            assert begun == ended
            await made.stop()
            await asyncio.sleep(0.3)
            assert channel.begun == begun
            return begun

    begun = drive(work())
    with world.queue() as queue:
        settled = [job_id for job_id in ("job_1", *[f"other_{n}" for n in range(5)]) if delivered(world, job_id)]
        assert len(settled) == len(begun)
        assert queue.counts().in_flight == 0


@pytest.mark.parametrize("kind", ["async"], indirect=True)
def test_a_cancelled_run_once_finishes_what_it_has_in_hand(world, channel):
    world.enqueue()
    made = build(world, notifier=channel)

    async def work():
        async def batches():
            while True:
                await made.run_once()
                await asyncio.sleep(0.02)

        running = asyncio.create_task(batches())
        await soon(lambda: channel.begun, "it is being sent")
        running.cancel()
        await asyncio.sleep(0.1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await made._queue.close()

    drive(work())
    assert channel.begun == channel.ended
    assert delivered(world)


@pytest.mark.parametrize("kind", ["async"], indirect=True)
def test_a_queue_that_is_left_in_a_cancelled_scope_closes_its_connections(world):
    """An open one is told of as a leak."""

    async def work():
        with anyio.CancelScope() as scope:
            async with AsyncRedisVideoJobQueue.from_url(world.url, prefix=world.prefix) as queue:
                await queue.counts()
                pool = queue._client.connection_pool._pools.here()
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        assert not [one for one in pool._available_connections if one.is_connected]

    drive(work())


# --- whatever hangs ---


class Deaf:
    """A channel that swallows every cancellation."""

    def __init__(self):
        self.begun = []
        self.deaf = True

    async def notify(self, message):
        self.begun.append(message.reference)
        while self.deaf:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)


class Stuck:
    """A channel whose sends hang in a thread."""

    def __init__(self):
        self.begun = []
        self.release = threading.Event()

    def notify(self, message):
        self.begun.append(message.reference)
        self.release.wait(120)


def bounded(started_s):
    took_s = time.monotonic() - started_s
    assert took_s < TOO_LONG_S, f"it took {took_s:.1f} s"


@pytest.mark.parametrize("kind", ["async"], indirect=True)
def test_a_channel_that_swallows_its_cancellation_does_not_hold_up_a_stop(world, caplog):
    deaf = Deaf()
    world.enqueue()
    made = build(world, notifier=deaf, grace_s=0.2, lease=LeasePolicy.lasting(60))

    async def work():
        async with made:
            made.start()
            await soon(lambda: deaf.begun, "it is being sent")
            started_s = time.monotonic()
            await made.stop()
            bounded(started_s)
            (left,) = [record for record in caplog.records if "not done in time" in record.getMessage()]
            assert "job_1" in left.getMessage()
            begun = len(deaf.begun)
            deaf.deaf = False
            await asyncio.sleep(0.3)
            assert len(deaf.begun) == begun
        await made._queue.close()

    drive(work())


def test_a_channel_that_hangs_in_a_thread_does_not_hold_up_a_stop(world, caplog):
    stuck = Stuck()
    world.enqueue()
    made = build(world, notifier=stuck, grace_s=0.2)

    async def work():
        async with made:
            made.start()
            await soon(lambda: stuck.begun, "it is being sent")
            started_s = time.monotonic()
            await made.stop()
            bounded(started_s)
        await made._queue.close()

    try:
        if world.kind == "async":
            drive(work())
        else:
            with made:
                made.start()
                until(lambda: stuck.begun, "it is being sent")
                started_s = time.monotonic()
                made.stop()
                bounded(started_s)
            made._queue.close()
        assert [
            record for record in caplog.records if "job_1" in record.getMessage() and "not done" in record.getMessage()
        ]
    finally:
        stuck.release.set()
    until(lambda: not threads(), "all threads end")
    assert len(stuck.begun) == 1


def hanging(world, monkeypatch):
    """A runner whose claims hang; with what tells that one does, and what lets those in threads go on."""
    monkeypatch.setattr("videopoll.worker.stopping.ENDING_S", 0.3)
    waits, release = threading.Event(), threading.Event()
    made = build(world, grace_s=0.1)
    claim = made._queue.claim

    def hang(**options):
        waits.set()
        release.wait(TOO_LONG_S)
        return claim(**options)

    async def ahang(**_):
        waits.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(made._queue, "claim", hang if world.kind == "sync" else ahang)
    return made, waits, release


@pytest.mark.parametrize("operation", ["run", "run_once"])
def test_a_run_that_hangs_returns_and_a_batch_says_that_it_has_not_ended(world, monkeypatch, operation):
    """There is no summary of a batch that goes on."""
    made, waits, release = hanging(world, monkeypatch)
    told = pytest.raises(RunnerError, match="has not ended in time") if operation == "run_once" else nullcontext()

    async def work():
        run = asyncio.create_task(getattr(made, operation)())
        await soon(waits.is_set, "it hangs")
        made.request_stop()
        with told:
            await run
        await made._queue.close()

    if world.kind == "async":
        drive(work())
    else:
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(getattr(made, operation))
            until(waits.is_set, "it hangs")
            made.request_stop()
            with told:
                run.result()
        release.set()
        until(lambda: not threads(), "all threads end")
        made._queue.close()


def test_a_stop_whose_run_hangs_says_so_as_an_error_of_the_runners_module(world, monkeypatch, caplog):
    """Levels and names are what operators filter by."""
    made, waits, release = hanging(world, monkeypatch)

    async def work():
        async with made:
            made.start()
            await soon(waits.is_set, "it hangs")
        await made._queue.close()

    if world.kind == "async":
        drive(work())
    else:
        with made:
            made.start()
            until(waits.is_set, "it hangs")
        release.set()
        until(lambda: not threads(), "all threads end")
        made._queue.close()

    (told,) = [record for record in caplog.records if "has not ended" in record.getMessage()]
    assert (told.levelname, told.name) == ("ERROR", type(made).__module__)


def test_a_channel_that_waits_for_a_thread_that_stops_the_worker_is_no_deadlock(world):
    loops = []

    class Joining:
        def __init__(self):
            self.begun = []

        def notify(self, message):
            self.begun.append(message.reference)
            thread = threading.Thread(target=self.stop)
            thread.start()
            thread.join()

        def stop(self):
            if world.kind == "sync":
                made.stop()
            else:
                asyncio.run_coroutine_threadsafe(made.stop(), loops[0]).result()

    joining = Joining()
    world.enqueue()
    made = build(world, notifier=joining, grace_s=0.2)
    started_s = time.monotonic()

    async def work():
        loops.append(asyncio.get_running_loop())
        async with made:
            await made.run()
        await made._queue.close()

    if world.kind == "sync":
        with made:
            made.run()
        made._queue.close()
    else:
        drive(work())

    bounded(started_s)
    assert len(joining.begun) == 1


@pytest.mark.parametrize("kind", ["async"], indirect=True)
@pytest.mark.parametrize("within", [False, True])
def test_an_asyncio_channel_that_awaits_the_stop_of_its_worker_is_no_deadlock(world, within):
    class Stopping:
        async def notify(self, message):
            if within:
                # In a task of its own, as wait_for itself makes one before Python 3.12.
                await asyncio.wait_for(asyncio.ensure_future(made.stop()), 60)
            else:
                await made.stop()

    world.enqueue()
    made = build(world, notifier=Stopping(), grace_s=0.2)
    started_s = time.monotonic()

    async def work():
        async with made:
            await made.run()
        await made._queue.close()

    drive(work())
    bounded(started_s)
    assert delivered(world) is not within


def test_a_hook_that_stops_the_worker_is_no_deadlock(world):
    tasks = []

    def hook(event):
        if isinstance(event, events.JobPolled):
            if world.kind == "sync":
                made.stop()
            else:
                tasks.append(asyncio.get_running_loop().create_task(made.stop()))

    world.enqueue()
    made = build(world, hooks=[hook])
    started_s = time.monotonic()

    async def work():
        async with made:
            await made.run()
            await asyncio.gather(*tasks)
        await made._queue.close()

    if world.kind == "sync":
        with made:
            made.run()
        made._queue.close()
    else:
        drive(work())
    bounded(started_s)
    assert delivered(world)


@pytest.mark.parametrize("kind", ["sync"], indirect=True)
def test_a_hook_that_waits_for_a_thread_that_stops_the_worker_is_no_deadlock(world, monkeypatch):
    """Its loop hangs in the hook, so that it cannot end before `stop` has returned."""
    monkeypatch.setattr("videopoll.worker.stopping.ENDING_S", 0.5)

    def hook(event):
        if isinstance(event, events.WorkerStarted):
            thread = threading.Thread(target=made.stop)
            thread.start()
            thread.join()

    made = build(world, hooks=[hook], grace_s=0.1)
    started_s = time.monotonic()
    made.run()
    made.stop()
    made._queue.close()
    bounded(started_s)


@pytest.mark.parametrize("kind", ["sync"], indirect=True)
def test_a_stop_in_another_runners_thread_waits(world):
    """What a hook of one runner stops is another one: nothing is in its way."""
    world.enqueue()
    slow = Slow(0.5)
    other = build(world, notifier=slow)
    other.start()
    until(lambda: slow.begun, "it is being sent")
    over = []

    def hook(event):
        if isinstance(event, events.WorkerStarted):
            other.stop()
            over.append(list(slow.ended))

    made = build(world, hooks=[hook])
    made.start()
    until(lambda: over, "it is stopped")
    made.stop()
    for one in (made, other):
        one._queue.close()
    assert len(over[0]) == 1


# --- signals ---


@attrs.define
class Process:
    """A worker process, and what it logs."""

    process: subprocess.Popen
    log: object

    def send(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self):
        return self.process.wait(TOO_LONG_S)

    def text(self):
        return self.log.read_text(encoding="utf-8")


@pytest.fixture
def run(world, tmp_path):
    """Start worker processes; the fixture ends them."""
    started = []

    def start(**more):
        log = tmp_path / f"worker-{len(started)}.log"
        with log.open("ab") as file:
            process = spawn(
                **{
                    "kind": world.kind,
                    "url": world.url,
                    "prefix": world.prefix,
                    "api_url": world.api.url,
                    "api_key": API_KEY,
                    "ultramsg_url": world.ultramsg.url,
                    "factory_url": world.factory.url,
                    "instance": INSTANCE,
                    "token": TOKEN,
                    "strategy": attrs.asdict(FAST),
                    "delivery": attrs.asdict(QUICK),
                    "lease_s": 12.0,
                    "log": file,
                    "log_level": "INFO",
                    **more,
                }
            )
        started.append(process)
        made = Process(process, log)
        until(
            lambda: "Starting video polling worker" in made.text() or process.poll() is not None,
            "it starts",
            TOO_LONG_S,
        )
        assert process.poll() is None, made.text()
        return made

    yield start
    for process in started:
        end(process)


def slow_send(world, seconds=1.5):
    """Have one job whose send takes its time."""
    world.enqueue()
    world.api.job("job_1", ready_after_polls=0)
    world.ultramsg.fail_next(Reply.slow(seconds), path="/messages/video")


def sending(world):
    return [one for one in world.ultramsg.requests if one.path.endswith("/messages/video")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_is_forwarded_once_more_cuts_no_send(world, run, number):
    """Init programs, process managers and `uv run` make two of one."""
    slow_send(world)
    worker = run(repeated_s=TOO_LONG_S)
    until(lambda: sending(world), "it is being sent", TOO_LONG_S)

    worker.send(number)
    until(lambda: "Stopping on" in worker.text(), "the first one is heard")
    worker.send(signal.SIGTERM)
    worker.send(signal.SIGINT)

    assert worker.wait() == 0, worker.text()
    assert delivered(world)
    assert len(world.ultramsg.inbox(phone(1))) == 1
    (line,) = [line for line in worker.text().splitlines() if "Stopping on" in line]
    assert number.name in line
    assert "a later one ends the process at once" in line
    assert "Traceback" not in worker.text()


@pytest.fixture
def own_signals():
    """Let a test take signals over in this process."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("kind", ["async"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, "Ctrl-C"])
def test_a_signal_that_another_thread_gets_wakes_the_event_loop(world, own_signals, number):
    """It was heard when a reply came: one that was forwarded once more then came late, and ended the process."""
    made = build(world)

    def give_it_to_this_thread():
        time.sleep(0.1)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT if number == "Ctrl-C" else number)

    async def work():
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        made.request_stop = lambda: loop.call_soon_threadsafe(heard.set)
        begun_s = time.monotonic()
        with calm_ctrl_c(lambda: None, made.request_stop) if number == "Ctrl-C" else made._signals():
            threading.Thread(target=give_it_to_this_thread).start()
            # The loop has nothing else to wake for.
            with contextlib.suppress(asyncio.CancelledError, asyncio.TimeoutError):
                await asyncio.wait_for(heard.wait(), 2 * TOO_LONG_S)
        await made._queue.close()
        bounded(begun_s)

    asyncio.run(work())


def test_a_thread_that_waits_for_a_run_wakes_often_enough_to_tell_a_repeated_signal():
    assert LOOK_S <= REPEATED_S / 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_ends_well_though_its_signal_comes_twice(world, run, number):
    """It is through before the second one comes: what handled signals before must not get it."""
    worker = run()
    for _ in range(3):
        worker.send(number)
        time.sleep(0.002)
    assert worker.wait() == 0, worker.text()
    assert "Traceback" not in worker.text()


def test_a_signal_that_comes_a_second_later_ends_the_process_at_once(world, run):
    slow_send(world, 30)
    worker = run(grace_s=60)
    until(lambda: sending(world), "it is being sent", TOO_LONG_S)
    worker.send()
    until(lambda: "Stopping on" in worker.text(), "it is heard")
    time.sleep(1.2)
    worker.send()
    assert worker.wait() == 128 + signal.SIGTERM


def test_the_first_signal_drains_though_a_stop_was_asked_for_before(world, run):
    """Under asyncio it killed; with threads it drained."""
    slow_send(world)
    worker = run(stop_at="before_send")
    until(lambda: sending(world), "it is being sent", TOO_LONG_S)
    worker.send()
    assert worker.wait() == 0, worker.text()
    assert delivered(world)


@pytest.mark.parametrize("idle", [True, False])
@pytest.mark.parametrize("apart_s", [0.0, 0.05, 0.4])
def test_ctrl_c_twice_ends_a_worker_that_handles_no_signals(world, run, idle, apart_s):
    """Thirteen of twenty hung until a third one came."""
    if not idle:
        slow_send(world)
    worker = run(handle_signals=False)
    if not idle:
        until(lambda: sending(world), "it is being sent", TOO_LONG_S)
    worker.send(signal.SIGINT)
    time.sleep(apart_s)
    worker.send(signal.SIGINT)
    assert worker.wait() in {1, -signal.SIGINT, 130}
    with world.queue() as queue:
        assert queue.counts().in_flight in {0, 1}


def test_one_ctrl_c_drains_a_worker_that_handles_no_signals(world, run):
    slow_send(world)
    worker = run(handle_signals=False)
    until(lambda: sending(world), "it is being sent", TOO_LONG_S)
    worker.send(signal.SIGINT)
    assert worker.wait() in {1, -signal.SIGINT, 130}
    assert delivered(world)
    assert "Stopped video polling worker" in worker.text()
