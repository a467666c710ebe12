"""What a host does with a runner: one batch at a time, in the background, again after a stop."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import redis

from kit import EACH_COMBINATION, FAST, QUICK, Recorder, part, phone, until
from kit.trouble import at_least
from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    KeyTtls,
    LeasePolicy,
    PollingStrategy,
    QueueUnavailableError,
    RedisVideoJobQueue,
    RoutingNotifier,
    Runner,
    SilentNotifier,
    VideoJob,
    events,
)
from videopoll.clock import Clock
from videopoll.errors import RunnerError
from videopoll.jobs.transition import Claim, ClaimBatch, PollWork, Settle, TransitionResult
from videopoll.messages import Delivered, LookupResult
from videopoll.observations import Fault, FaultKind, VideoReady, VideoWorking
from videopoll.queue.operations import new_token
from videopoll.queue.schema import Keys


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


def test_run_once_does_a_batch_and_says_what_it_did(world, runner, call):
    """For cron and Celery beat: no process that stays."""
    world.enqueue()
    made = runner()

    summaries = []
    until(lambda: summaries.append(call(made.run_once())) or summaries[-1].delivered, "a batch delivers it")

    assert (summaries[-1].claimed, summaries[-1].polls, summaries[-1].concluded) == (1, 1, 1)
    assert sum(summary.polls for summary in summaries) == 2
    assert call(made.run_once()).claimed == 0
    assert len(world.ultramsg.inbox(phone(1))) == 1


class AnHourFast(Clock):
    """A wall clock that nobody has set."""

    def unix_s(self):
        return super().unix_s() + 3600


def test_a_batch_takes_over_what_a_dead_worker_had_though_the_wall_clock_is_wrong(world, runner, call):
    """The first claim only teaches it Redis's clock; cron starts a new process each time, which never has a second turn."""
    world.enqueue_ready()
    with world.queue() as queue, redis.Redis.from_url(world.url) as client:
        dead = {"worker_id": "dead", "strategy": FAST, "lease": LeasePolicy()}
        until(lambda: queue.claim(polls=1, sends=0, **dead).claims, "another worker has it")
        client.zadd(Keys(world.prefix).inflight, {"job_1": 1})

    summary = call(runner(clock=AnHourFast()).run_once())

    assert (summary.claimed, summary.polls) == (1, 1)


def test_a_runner_works_in_the_background_and_again_after_a_stop(world, runner, call):
    """Embedded in a web application it starts and stops with it."""
    made = runner()

    if world.kind == "sync":
        for number in (1, 2):
            world.enqueue(f"job_{number}", user=number)
            made.start()
            until(lambda number=number: world.ultramsg.inbox(phone(number)), "the video arrives")
            made.stop()
            assert not made.stopping
    else:

        async def work():
            for number in (1, 2):
                world.enqueue(f"job_{number}", user=number)
                made.start()
                await asyncio.to_thread(until, lambda number=number: world.ultramsg.inbox(phone(number)), "it arrives")
                await made.stop()
                assert not made.stopping

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

    world.enqueue()
    made = runner(Poller(), Notifier())

    until(lambda: call(made.run_once()).delivered, "it is delivered")

    ((text, on_main_thread),) = told
    assert text.endswith("🔗 Video: https://files.example/job_1.mp4")
    assert not on_main_thread


def test_used_up_polls_say_which_fault_the_last_one_met(world, runner, call):
    """In the audit trail, where the operator looks."""

    class Poller:
        def poll(self, job, *, timeout_s):
            return Fault(FaultKind.SERVER, "words of the API")

    class Notifier:
        def notify(self, message):
            pass

    strategy = PollingStrategy(max_attempts=2, initial_delay_s=0.0, backoff_base_s=0.05, interval_s=1.0)
    world.enqueue()
    made = runner(Poller(), Notifier(), strategy=strategy)

    until(lambda: call(made.run_once()).delivered, "its user was told")

    assert world.queue().get("job_1").outcome.error == "Max polling attempts exceeded, the last one by a fault (server)"


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

    world.enqueue()
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

    world.enqueue()
    made = runner(Poller(), SilentNotifier())

    until(lambda: call(made.run_once()).delivered, "it is delivered")

    assert [event.fault for event in made.recorder.of(events.JobPolled)] == ["internal", None]


def test_a_runner_that_runs_refuses_to_run_a_second_time(world, runner, call):
    """Two loops over one set of places would count wrong."""
    made = runner()
    if world.kind == "sync":
        made.start()
        until(lambda: made.recorder.of(events.WorkerStarted), "it runs")
        with pytest.raises(RunnerError, match="build another one"):
            made.run_once()
        made.stop()
    else:

        async def work():
            made.start()
            await asyncio.sleep(0)
            with pytest.raises(RunnerError, match="build another one"):
                await made.run_once()
            await made.stop()

        call(work())


class Stubborn:
    """A queue whose `apply` fails while told to."""

    def __init__(self, queue):
        self.queue = queue
        self.away = False

    def __getattr__(self, name):
        return getattr(self.queue, name)

    def apply(self, transitions):
        if self.away and any(isinstance(one, Settle) for one in transitions):
            msg = "away"
            raise QueueUnavailableError(msg)
        return self.queue.apply(transitions)


def test_a_message_that_was_delivered_is_not_sent_again_after_a_stop_in_an_outage(world):
    """What could not be settled in time says more than a return to the outbox: the next worker asks the channel."""
    sent = []

    class Channel:
        def notify(self, message):
            sent.append(message.reference)

        def look_up(self, message):
            return LookupResult.FOUND if message.reference in sent else LookupResult.ABSENT

    world.enqueue()
    with world.queue() as plain:
        queue = Stubborn(plain)
        queue.away = True
        brief = LeasePolicy.lasting(1)
        first = Runner(queue, world.poller(), Channel(), strategy=FAST, delivery=QUICK, lease=brief, grace_s=0.1)
        with first:
            first.start()
            until(lambda: sent, "it is sent")
            first.stop()
        with Runner(
            plain, world.poller(), Channel(), strategy=FAST, delivery=QUICK, lease=LeasePolicy.lasting(1)
        ) as other:
            other.start()
            until(lambda: plain.get("job_1").delivered, "it is settled")

    assert len(sent) == 1


def test_a_hosts_queue_that_answers_nonsense_is_asked_again_and_keeps_no_stop_waiting(world, idle_at_most, caplog):
    """A write without a verdict may not have been made. At a stop, what is unwritten is named, and its lease ends."""
    idle_at_most(0.5)

    class Nonsense(Stubborn):
        calls = 0

        def apply(self, transitions):
            self.calls += 1

    world.enqueue()
    with world.queue() as plain:
        queue = Nonsense(plain)
        with Runner(queue, Ready(), SilentNotifier(), strategy=FAST, delivery=QUICK, grace_s=0.5) as made:
            made.start()
            until(lambda: queue.calls > 2, "it was asked to write, again and again")
            assert made._state.steps
            made.stop()

    assert any("is not written" in record.message and "job_1" in record.message for record in caplog.records)


class LosingQueue:
    """A queue of one job whose settlement is carried out, and answered only after leases were renewed."""

    ttls = KeyTtls()

    def __init__(self):
        now_ms = round(time.time() * 1000)
        self.claims = (Claim("job_1", "w:1", now_ms, PollWork(VideoJob("job_1", "c", now_ms), 1, 0, None)),)
        self.settled = False
        self.renewed = asyncio.Event()

    async def claim(self, **_):
        found, self.claims = self.claims, ()
        return ClaimBatch(found, round(time.time() * 1000))

    async def apply(self, transitions):
        if any(isinstance(one, Settle) for one in transitions) and not self.renewed.is_set():
            self.settled = True
            await self.renewed.wait()
            msg = "the reply was lost"
            raise QueueUnavailableError(msg)
        return [TransitionResult.APPLIED for _ in transitions]

    async def renew(self, claims, lease):
        if self.settled:
            self.renewed.set()
        return [not self.settled for _ in claims]

    async def wait_for_work(self, timeout_s):
        await asyncio.sleep(timeout_s)
        return False


class Ready:
    """A poller that finds every video finished."""

    def poll(self, job, *, timeout_s):
        return VideoReady("https://files.example/1.mp4")


def test_a_delivered_message_is_told_of_though_its_lease_ended_with_the_write(call):
    """The settlement was carried out and its answer lost: no lease is there to renew, and nobody took the job over."""
    recorder = Recorder()

    async def work():
        told = asyncio.Event()

        def hear(event):
            if isinstance(event, events.JobDelivered | events.LeaseLost):
                told.set()

        made = AsyncRunner(
            LosingQueue(),
            Ready(),
            SilentNotifier(),
            hooks=[recorder, hear],
            recover=False,
            lease=LeasePolicy.lasting(0.3),
        )
        async with made:
            made.start()
            await told.wait()

    call(asyncio.wait_for(work(), 15))
    assert [type(event).__name__ for event in recorder.events if "Lease" in type(event).__name__] == []


def test_claims_of_forked_workers_have_tokens_of_their_own():
    """A runner that was built before a fork must not share its fencing tokens with its copies."""
    copies = [new_token("video_worker_1"), new_token("video_worker_1")]

    assert len(set(copies)) == 2
    assert all(len(token.rpartition(":")[2]) == 16 for token in copies)


def test_a_full_worker_sleeps_until_a_place_is_free(world, runner):
    """A messenger that hangs must not cost a core."""
    turns = []
    release = threading.Event()

    class Slow:
        def poll(self, job, *, timeout_s):
            release.wait(10)
            return VideoWorking()

    for number in range(3):
        world.enqueue(f"job_{number}", user=number)
    worker = world.worker(poller=Slow(), concurrency=1, delivery_concurrency=1)
    with worker:
        until(lambda: world.queue().counts().in_flight, "a job is in hand")
        worker.runner._state.room = lambda room=worker.runner._state.room: turns.append(1) or room()
        since_s = time.monotonic()
        with at_least(1.0):
            pass
        turns_a_second = len(turns) / (time.monotonic() - since_s)
        release.set()

    assert turns_a_second < 50


class OddError(BaseException):
    """Neither an Exception nor anything that Python knows."""


@EACH_COMBINATION
@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError, GeneratorExit, OddError])
def test_whatever_type_an_exception_of_a_poller_has_it_counts(world, parts, error):
    """Under both runners, from sync and asyncio parts: the job goes on with its next poll, and not when its lease ends."""
    polled: list[str] = []

    def poll(job, *, timeout_s):
        polled.append(job.job_id)
        if len(polled) == 1:
            raise error
        return VideoReady("https://files.example/1.mp4")

    world.enqueue()
    with world.worker(poller=part(parts, poll=poll), notifier=SilentNotifier()) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")
        first, *_ = worker.recorder.of(events.JobPolled)

    assert first.fault is FaultKind.INTERNAL
    assert not worker.recorder.of(events.LeaseLost)


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
def test_a_poller_that_raises_what_ends_threads_is_a_passing_fault_all_the_same(world, runner, call, error):
    """Such an exception must neither end a worker's thread nor lose the job until its lease runs out."""

    class Poller:
        calls = 0

        def poll(self, job, *, timeout_s):
            self.calls += 1
            if self.calls == 1:
                raise error
            return VideoReady("https://files.example/1.mp4")

    world.enqueue()
    made = runner(Poller(), SilentNotifier(), concurrency=1, delivery_concurrency=1)

    until(lambda: call(made.run_once()).delivered, "it is delivered")

    assert [event.fault for event in made.recorder.of(events.JobPolled)] == ["internal", None]


def test_one_answer_that_is_no_json_takes_no_job_along(world):
    """What a host's poller gives beside the URL is made storable where it is built."""

    class Poller:
        def poll(self, job, *, timeout_s):
            return VideoReady("https://files.example/1.mp4", timestamp=object() if job.job_id == "bad" else None)

    for number, job_id in enumerate(["bad", "good_1", "good_2"]):
        world.enqueue(job_id, user=number)

    with world.worker(poller=Poller(), notifier=SilentNotifier()) as worker:
        until(lambda: len(worker.recorder.of(events.JobDelivered)) == 3, "all are delivered")
        assert not worker.recorder.of(events.LeaseLost)


def test_a_slow_sync_channel_behind_a_router_does_not_hold_up_other_sends(world, call):
    """Sync channels run in the runner's own threads: three quarters of those that send, for one account."""
    together = threading.Barrier(8, timeout=10)

    class Slow:
        def notify(self, message):
            together.wait()

    for number in range(8):
        world.enqueue(f"job_{number}", user=number)
    router = RoutingNotifier.from_metadata({"ultramsg": Slow()})

    with world.worker(notifier=router, delivery_concurrency=11, concurrency=8) as worker:
        until(lambda: len(worker.recorder.of(events.JobDelivered)) == 8, "all are sent at once")


def test_a_stop_waits_for_a_run_in_another_thread_and_a_second_run_works(world):
    """A host closes its queue after `stop`: nothing may be using it by then."""
    with world.queue() as queue, Runner(queue, world.poller(), world.notifier(), strategy=FAST, delivery=QUICK) as made:
        for number in (1, 2):
            world.enqueue(f"job_{number}", user=number)
            running = threading.Thread(target=made.run)
            running.start()
            until(lambda number=number: world.ultramsg.inbox(phone(number)), "the video arrives")
            made.stop()
            assert not made._state.steps
            running.join(1)
            assert not running.is_alive()
