"""What an app's own tests stand on: a queue in memory, a scripted poller, a recording notifier, a clock that moves."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
import time

import attrs
import pytest

from kit.forks import in_child
from videopoll import AsyncRunner, PollingStrategy, Runner
from videopoll.errors import ConfigurationError, NotSentError
from videopoll.jobs import CancelResult, EnqueueResult, JobState
from videopoll.jobs.outcome import OutcomeKind
from videopoll.messages import Accepted, MessageReceipt, NotSent, Refused
from videopoll.observations import Fault, FaultKind, VideoFailed, VideoReady, VideoWorking
from videopoll.policies import KeyTtls
from videopoll.testing import (
    MemoryServer,
    MovableClock,
    RecordingNotifier,
    ScriptedPoller,
    assert_delivered_once,
    async_memory_queue,
    memory_queue,
)

DAY_S = 86_400
URL = "https://files.example/1.mp4"


class App:
    """An app under test, with a worker of either kind; what has to be awaited is run to its end."""

    def __init__(self, kind: str, loop: asyncio.Runner, **options) -> None:
        self._loop = loop
        self.clock = MovableClock()
        self.poller, self.notifier = ScriptedPoller(), RecordingNotifier()
        build, runner = (memory_queue, Runner) if kind == "sync" else (async_memory_queue, AsyncRunner)
        self.queue = build(**options)
        self.runner = runner(self.queue, self.poller, self.notifier, clock=self.clock)

    def call(self, result):
        async def wait():
            return await result

        return self._loop.run(wait()) if inspect.isawaitable(result) else result

    def enqueue(self, job_id="job_1"):
        return self.call(self.queue.enqueue(job_id, conversation_id="conversation-1"))

    def state(self, job_id="job_1"):
        return self.call(self.queue.get(job_id)).state

    def after(self, seconds):
        """Let time pass, and have the worker do what is due then."""
        self.clock.move(seconds)
        return self.call(self.runner.run_once())


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


@pytest.fixture
def app(kind):
    with asyncio.Runner() as loop:
        app = App(kind, loop)
        with app.clock:
            yield app
        app.call(app.queue.close())


def test_a_job_lives_its_whole_life_in_memory(app):
    app.poller.job("job_1", VideoWorking(), VideoReady(URL))
    began_s = time.monotonic()

    assert app.enqueue() is EnqueueResult.CREATED
    assert app.after(0).claimed == 0
    assert app.after(5).polls == 1
    assert app.state() is JobState.SCHEDULED
    assert app.after(10).delivered == 1
    assert app.state() is JobState.SETTLED

    message = assert_delivered_once(app.notifier, "job_1")
    assert message.conversation_id == "conversation-1"
    assert URL in message.text
    assert time.monotonic() - began_s < PollingStrategy().initial_delay_s


def test_a_job_that_never_ends_times_out_in_no_time(app):
    app.poller.job("job_1", VideoWorking())
    app.enqueue()

    for _ in range(40):
        app.after(10)

    assert_delivered_once(app.notifier, "job_1", outcome=OutcomeKind.TIMED_OUT)
    assert len(app.poller.polls) == 30


def test_what_redis_keeps_for_a_time_is_gone_when_the_clock_has_moved_past_it(app):
    app.enqueue()
    app.after(5)
    assert app.state() is JobState.SETTLED

    app.clock.move(DAY_S)

    assert app.call(app.queue.get("job_1")) is None


def test_whoever_waits_for_an_outcome_gets_it(app):
    app.enqueue()
    app.after(5)

    assert app.call(app.queue.wait("job_1", timeout_s=1)).video_url == "https://files.example/job_1.mp4"


def test_a_cancelled_job_tells_nobody(app):
    app.enqueue()

    assert app.call(app.queue.cancel("job_1")) is CancelResult.CANCELLED
    app.after(60)

    assert app.poller.polls == ()
    assert app.notifier.messages == ()


def test_a_refused_outcome_is_a_dead_letter_that_can_be_redriven(app):
    app.notifier.answer_next(Refused("no such number", try_text=False))
    app.enqueue()
    app.after(5)
    assert app.state() is JobState.DEAD

    app.call(app.queue.dead_letters.redrive("job_1"))
    app.after(1)

    assert_delivered_once(app.notifier, "job_1")


def test_queues_in_memory_know_nothing_of_each_other():
    with memory_queue() as one, memory_queue() as other:
        one.enqueue("job_1", conversation_id="c")

        assert other.get("job_1") is None
        assert other.enqueue("job_1", conversation_id="c") is EnqueueResult.CREATED


def test_a_producer_with_threads_and_a_worker_with_asyncio_share_a_server():
    server, poller, notifier = MemoryServer(), ScriptedPoller(), RecordingNotifier()

    async def work(clock):
        async with (
            async_memory_queue(server) as queue,
            AsyncRunner(queue, poller, notifier, clock=clock) as runner,
        ):
            clock.move(5)
            await runner.run_once()

    with MovableClock() as clock, memory_queue(server) as queue:
        queue.enqueue("job_1", conversation_id="c")
        asyncio.run(work(clock))

        assert queue.get("job_1").state is JobState.SETTLED
    assert_delivered_once(notifier, "job_1")


def test_a_queue_in_memory_takes_the_settings_of_any_other(kind):
    with asyncio.Runner() as loop:
        heard = []
        app = App(kind, loop, prefix="shop", ttls=KeyTtls(job_s=1_000, attempts_s=1_000), hooks=[heard.append])
        app.enqueue()

        assert app.queue.keys.prefix == "shop"
        assert app.queue.ttls.job_s == 1_000
        assert [event.job_id for event in heard] == ["job_1"]
        app.call(app.queue.close())


def test_a_server_in_memory_lets_a_test_look_at_keys():
    server = MemoryServer()
    with memory_queue(server, prefix="shop") as queue, server.client() as client:
        queue.enqueue("job_1", conversation_id="c")

        assert client.exists(queue.keys.job("job_1"))


class TestMovableClock:
    def test_it_never_goes_back(self):
        with pytest.raises(ConfigurationError, match="must be at least 0, got -1"):
            MovableClock().move(-1)

    def test_it_moves_both_times_by_the_same(self):
        clock = MovableClock()
        before_s, before_unix_s = clock.monotonic_s(), clock.unix_s()

        clock.move(DAY_S)

        assert clock.monotonic_s() - before_s >= DAY_S
        assert 0 <= clock.unix_s() - before_unix_s - DAY_S < 60
        assert str(DAY_S) in repr(clock)

    def test_redis_in_memory_is_back_in_the_real_time_afterwards(self):
        with MovableClock() as clock, MemoryServer().client() as client:
            clock.move(DAY_S)
            moved_s = client.time()[0]
        with MemoryServer().client() as client:
            real_s = client.time()[0]

        assert moved_s - time.time() > DAY_S - 60
        assert abs(real_s - time.time()) < 60

    def test_one_clock_at_a_time_moves_the_queues(self):
        with (
            MovableClock(),
            pytest.raises(ConfigurationError, match="another sandbox or MovableClock is in use"),
            MovableClock(),
        ):
            pass
        with MovableClock():
            pass


class TestScriptedPoller:
    def test_its_last_answer_is_repeated(self, app):
        app.poller.job("job_1", VideoWorking("queued"), VideoWorking())
        app.enqueue()

        for _ in range(4):
            app.after(10)

        assert app.poller.polls == ("job_1",) * 4
        assert repr(app.poller) == "<ScriptedPoller polls=4>"

    def test_an_exception_is_a_passing_fault(self, app):
        app.poller.job("job_1", OSError("no route"), Fault(FaultKind.SERVER, "HTTP 503"), VideoReady(URL))
        app.enqueue()

        app.after(5)
        assert app.call(app.queue.get("job_1")).faults == 1
        app.after(300)
        app.after(300)

        assert len(app.poller.polls) >= 2

    def test_a_script_may_be_one_answer(self):
        poller = ScriptedPoller({"job_1": VideoFailed("content policy"), "job_2": [VideoWorking(), VideoReady(URL)]})
        notifier = RecordingNotifier()
        with MovableClock() as clock, memory_queue() as queue, Runner(queue, poller, notifier, clock=clock) as runner:
            for job_id in ("job_1", "job_2"):
                queue.enqueue(job_id, conversation_id="c")
            clock.move(5)
            runner.run_once()

        assert_delivered_once(notifier, "job_1", outcome=OutcomeKind.FAILED)
        assert sorted(poller.polls) == ["job_1", "job_2"]


class TestRecordingNotifier:
    def test_it_answers_as_it_is_told_and_accepts_the_rest(self, app):
        app.notifier.answer_next(NotSent("busy"), NotSentError("busy"))
        app.enqueue()

        app.after(5)
        for _ in range(4):
            app.after(30)

        assert [attempt.delivered for attempt in app.notifier.attempts] == [False, False, True]
        assert repr(app.notifier) == "<RecordingNotifier attempts=3 delivered=1>"
        assert_delivered_once(app.notifier, "job_1")


class TestAssertDeliveredOnce:
    def test_no_message_is_too_few_and_says_what_was_tried(self, app):
        app.notifier.answer_next(NotSent("busy"))
        app.enqueue()
        with pytest.raises(
            AssertionError,
            match=r"job_1 got 0 messages instead of 1 \(no send was tried about any job: was it enqueued",
        ):
            assert_delivered_once(app.notifier, "job_1")

        app.after(5)

        with pytest.raises(AssertionError, match=r"got 0 messages .*\(send 1 as video: NotSent\)"):
            assert_delivered_once(app.notifier, "job_1")
        with pytest.raises(AssertionError, match=r"job_2 got 0 .*\(no send was tried, but sends about job_1 were\)"):
            assert_delivered_once(app.notifier, "job_2")

    def test_two_messages_are_too_many(self, app):
        app.enqueue()
        app.after(5)
        app.call(app.runner.run_once())
        (message,) = app.notifier.messages
        app.notifier.notify(message)

        with pytest.raises(AssertionError, match="got 2 messages instead of 1"):
            assert_delivered_once(app.notifier, "job_1")

    def test_another_outcome_is_wrong(self, app):
        app.poller.job("job_1", VideoFailed("content policy"))
        app.enqueue()
        app.after(5)

        with pytest.raises(AssertionError, match="was told failed, not completed"):
            assert_delivered_once(app.notifier, "job_1")
        assert_delivered_once(app.notifier, "job_1", outcome="failed")

    def test_what_other_users_got_does_not_count(self, app):
        app.enqueue("job_1")
        app.enqueue("job_2")
        app.after(5)

        assert assert_delivered_once(app.notifier, "job_1").job.job_id == "job_1"
        assert len(app.notifier.messages) == 2


@pytest.mark.parametrize("missing", ["fakeredis", "lupa"])
def test_without_the_extra_the_error_says_what_to_install(missing):
    code = f"""
import sys
import threading
sys.modules[{missing!r}] = None
from videopoll.testing import memory_queue
try:
    memory_queue()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == "a queue in memory needs fakeredis with Lua: pip install 'videopoll[testing]'\n"


# --- receipts -------------------------------------------------------------------------------------


def told(app, kind, number=1, **fields):
    """Take in what the channel tells of its message of this number."""
    receipt = MessageReceipt(kind=kind, message_id=f"wamid.{number}", **fields)
    counts = app.call(app.queue.receive_receipts([receipt]))
    return {name: count for name, count in attrs.asdict(counts).items() if count}


def accepting(app, times=9):
    """Have the channel accept messages, and tell later."""
    app.notifier.answer_next(*(Accepted(f"wamid.{number}") for number in range(1, times + 1)))


def test_an_accepted_message_is_settled_when_its_watch_is_over_though_nobody_does_anything(app):
    """A host that has mounted no endpoint for receipts, and no worker that sweeps."""
    accepting(app)
    app.enqueue()
    app.after(5)
    assert app.state() is JobState.WATCHED
    app.clock.move(3590)
    assert app.state() is JobState.WATCHED
    app.clock.move(20)
    view = app.call(app.queue.get("job_1"))
    assert (view.state, view.delivered) == (JobState.SETTLED, None)
    assert app.call(app.queue.counts()).watched == 0
    assert told(app, "failed") == {"kept": 1}
    assert app.state() is JobState.SETTLED


@pytest.mark.parametrize("later_s", [300, 3500])
def test_a_failure_that_is_told_late_leaves_the_delivery_the_time_it_had(app, later_s):
    """The watch has used none of it up: the next form is tried for as long as the first would have been."""
    accepting(app, 1)
    app.enqueue()
    app.after(5)
    app.clock.move(later_s)
    assert told(app, "failed", reason="131047") == {"failed": 1}
    app.notifier.answer_next(*[NotSent("busy")] * 20, Accepted("wamid.2"))
    until = app.clock.unix_s() + 3500
    while app.state() is not JobState.WATCHED:
        assert app.clock.unix_s() < until
        app.after(30)
    assert app.call(app.queue.get("job_1")).accepted_ms / 1000 > later_s
    assert told(app, "delivered", 2) == {"delivered": 1}


def test_a_receipt_that_was_here_first_is_heard_also_long_after_it_was_forgotten(app):
    """No worker ran for longer than receipts are kept: the message was accepted, and is not sent again."""
    accepting(app)
    told(app, "failed")
    app.enqueue()
    app.after(5)
    assert app.state() is JobState.OUTBOX
    app.clock.move(900)
    app.after(1)
    assert app.state() is JobState.WATCHED
    assert len(app.notifier.attempts) == 1
    assert told(app, "delivered") == {"delivered": 1}


def test_a_fork_in_the_middle_of_a_command_leaves_the_child_a_queue_that_works():
    """A lock that another thread held was held in the child for ever, and half a script was done there."""
    server = MemoryServer()
    under_way, ended = threading.Event(), threading.Event()

    def command():
        with server._server.lock:
            under_way.set()
            ended.wait(0.3)

    thread = threading.Thread(target=command)
    thread.start()
    under_way.wait(5)

    def child():
        queue = memory_queue(server)
        return [queue.enqueue("job_1", conversation_id="c"), queue.counts().queued]

    assert in_child(child) == ["created", 1]
    ended.set()
    thread.join()
    # What a child does stays there.
    assert memory_queue(server).counts().queued == 0
