"""Forks at awkward moments: while a host's part hangs, inside of one, while keys are fetched, in the middle of a command."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import attrs
import pytest

from kit import API_KEY, EACH_COMBINATION, QUICK, part, phone, until
from kit.forks import TOO_LONG_S, in_child
from videopoll import events
from videopoll.messages import Delivered
from videopoll.observations import VideoReady
from videopoll.testing import FakeVideoApi, Reply

pytestmark = pytest.mark.timeout(90)

URL = "https://files.example/1.mp4"


def works(world, runner, recorder):
    """Have a runner of this forked child deliver something; return what its health says.

    Its parent works at the same queue, so there is enough for both.
    """
    recorder.events.clear()

    def delivers():
        with world.queue() as queue:
            for number in range(100):
                queue.enqueue(f"child_{number}", conversation_id="c", metadata={"channel": "ultramsg", "to": phone(2)})
                if recorder.of(events.JobDelivered):
                    return
                time.sleep(0.1)
        pytest.fail("it delivers nothing")

    if world.kind == "sync":
        with runner._queue, runner:
            runner.start()
            delivers()
            return runner.health().problems

    async def work():
        async with runner._queue, runner:
            runner.start()
            await asyncio.to_thread(delivers)
            return runner.health().problems

    return asyncio.run(work())


# --- a host's parts ---


@EACH_COMBINATION
def test_a_child_of_a_worker_whose_parts_hang_has_none_that_hang_and_works(world, parts):
    """The threads that hang are its parent's, and so are the places that they take."""
    come_back, ours, begun = threading.Event(), os.getpid(), []

    def notify(message):
        if os.getpid() == ours and not begun:
            begun.append(message)
            yield come_back
        return Delivered("m")

    def poll(job, *, timeout_s):
        return VideoReady(URL)

    delivery = attrs.evolve(QUICK, send_timeout_s=1.0)
    worker = world.worker(
        poller=part(parts, poll=poll), notifier=part(parts, notify=notify), delivery=delivery, delivery_concurrency=1
    )
    with worker:
        world.enqueue("job_1")
        tried = until(lambda: worker.recorder.of(events.SendTried, "job_1"), "it is cut off")
        runner = worker.runner

        def child():
            return [repr(runner), runner._count_hung(), works(world, runner, worker.recorder)]

        how, hung, problems = in_child(child)
        come_back.set()
        world.enqueue("job_2", user=2)
        until(lambda: worker.recorder.of(events.JobDelivered, "job_2"), "the parent works on")

    assert tried[0].result == "unknown"
    assert "not running, 0 jobs in hand" in how
    assert hung == 0
    assert problems == []


class Forking:
    """A part of a host's that forks in its first call, and comes back in the child, too."""

    def __init__(self):
        self.pid = None

    def fork(self):
        if self.pid is None:
            self.pid = os.fork()
            if self.pid == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(int(TOO_LONG_S))
        return self.pid


def ended(pid):
    """Return how a child ended, which must not live on."""
    return until(lambda: (found := os.waitpid(pid, os.WNOHANG))[0] and (found[1],), "the child ends", 10.0)[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("where", ["poll", "notify", "hook"])
def test_a_part_that_forks_and_comes_back_twice_tells_the_user_once(world, where):
    """A copy of the thread went on with a copy of the work, or waited for work for ever."""
    if where == "hook" and world.kind == "async":
        pytest.skip("it is called on the event loop, which is another matter")
    forking, notifier, poller = Forking(), world.notifier(), world.poller()

    def hook(event):
        if where == "hook" and isinstance(event, events.JobClaimed):
            forking.fork()

    class Poller:
        def poll(self, job, *, timeout_s):
            if where == "poll":
                forking.fork()
            return poller.poll(job, timeout_s=timeout_s)

        close = poller.close

    class Notifier:
        def notify(self, message):
            if where == "notify" and forking.fork() == 0:
                return Delivered("m")
            return notifier.notify(message)

        close = notifier.close

    worker = world.worker(poller=Poller(), notifier=Notifier(), hooks=[hook], visible=True)
    with worker:
        to = world.enqueue_ready("job_1")
        until(lambda: worker.recorder.of(events.JobDelivered, "job_1"), "it is delivered")
        assert ended(forking.pid) == 0
        until(lambda: world.ultramsg.inbox(to), "the user has it")

    assert len(world.ultramsg.inbox(to)) == 1
    assert not worker.recorder.of(events.LeaseLost)


@pytest.mark.parametrize("kind", ["async"], indirect=True)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_that_leaves_its_parents_event_loop_gives_none_of_its_jobs_back(world):
    """Its copy of the loop cancels all tasks, as at the end of any program. Another worker would have sent again."""
    forking, sending = Forking(), threading.Event()
    ours, theirs = os.pipe()

    class Notifier:
        async def notify(self, message):
            while not sending.is_set():
                if forking.fork() == 0:
                    logging.getLogger("videopoll").addHandler(logging.StreamHandler(os.fdopen(theirs, "w")))
                    raise SystemExit(3)
                await asyncio.sleep(0.02)
            return Delivered("m")

    worker = world.worker(notifier=Notifier())
    with worker:
        world.enqueue_ready("job_1")
        until(lambda: forking.pid, "it forks")
        ended(forking.pid)
        os.close(theirs)
        with os.fdopen(ours) as told:
            log = told.read()
        sending.set()
        until(lambda: worker.recorder.of(events.JobDelivered, "job_1"), "it is delivered")

    assert "SystemExit" in log
    assert "KeyError" not in log
    assert not worker.recorder.of(events.LeaseLost)
    assert len(worker.recorder.of(events.SendTried)) == 1


# --- what is imported at its first use ---

SLOW_IMPORT = """
import asyncio, os, signal, sys, threading

from videopoll import VideoApiPoller
from videopoll.testing import build_job

kind, url, key = sys.argv[1:]
poller, parent, begun, never = VideoApiPoller(base_url=url, api_key=key), os.getpid(), threading.Event(), threading.Event()


class Slow:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("videopoll._http.transports.", "encodings.idna")) and os.getpid() == parent:
            begun.set()
            never.wait(0.3)


def poll():
    if kind == "sync":
        found = poller.poll(build_job("job_1"), timeout_s=5)
        poller.close()
        return found
    return asyncio.run(apoll())


async def apoll():
    found = await poller.apoll(build_job("job_1"), timeout_s=5)
    await poller.aclose()
    return found


sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=poll)
thread.start()
begun.wait(5)
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    print(type(poll()).__name__, flush=True)
    os._exit(0)
_, status = os.waitpid(pid, 0)
thread.join()
sys.exit(status)
"""


def test_a_fork_while_a_thread_imports_what_its_first_request_needs_leaves_the_child_able_to_ask(world):
    """A module's lock was held in the child for ever: a preloading server forks just when its worker begins."""
    world.api.job("job_1", Reply.completed())

    program = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SLOW_IMPORT]
    ran = subprocess.run(
        [*program, world.kind, world.api.url, API_KEY], capture_output=True, text=True, timeout=60, check=False
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "VideoReady\n", "")


FIRST_USE = """
import asyncio, sys

from videopoll import AsyncRedisVideoJobQueue, AsyncRunner, RedisVideoJobQueue, Runner, VideoApiPoller
from videopoll import UltraMsgNotifier
from videopoll._http import Http, HttpRequest
from videopoll.core.belonging import NO_FORK

part, redis_url, prefix, url, key = sys.argv[1:]
request = HttpRequest(method="GET", url=url + "/health", timeout_s=5)
unguarded = []


class Unguarded:
    def find_spec(self, name, path=None, target=None):
        if not NO_FORK._is_owned():
            unguarded.append(name)


def begin():
    sys.meta_path.insert(0, Unguarded())


def sync_http():
    http = Http()
    begin()
    http.send(request)
    http.close()


async def async_http(transport):
    http = Http(transport=transport)
    begin()
    await http.asend(request)
    await http.aclose()


def sync_queue():
    queue = RedisVideoJobQueue.from_url(redis_url, prefix=prefix)
    begin()
    queue.enqueue("job_1", conversation_id="c")
    queue.cancel("job_1")
    queue.wait("job_1", timeout_s=0.1)
    queue.close()


async def async_queue():
    queue = AsyncRedisVideoJobQueue.from_url(redis_url, prefix=prefix)
    begin()
    await queue.enqueue("job_1", conversation_id="c")
    await queue.cancel("job_1")
    await queue.wait("job_1", timeout_s=0.1)
    await queue.close()


def sync_runner():
    queue = RedisVideoJobQueue.from_url(redis_url, prefix=prefix)
    poller = VideoApiPoller(base_url=url, api_key=key)
    runner = Runner(queue, poller, UltraMsgNotifier(base_url=url))
    begin()
    queue.enqueue("job_1", conversation_id="c")
    runner.run_once()
    runner.start()
    runner.stop()
    queue.close()


async def async_runner():
    queue = AsyncRedisVideoJobQueue.from_url(redis_url, prefix=prefix)
    poller = VideoApiPoller(base_url=url, api_key=key)
    runner = AsyncRunner(queue, poller, UltraMsgNotifier(base_url=url))
    begin()
    await queue.enqueue("job_1", conversation_id="c")
    await runner.run_once()
    runner.start()
    await runner.stop()
    await queue.close()


if part.startswith("async over"):
    asyncio.run(async_http(part.split()[-1]))
elif part.startswith("async"):
    asyncio.run(globals()[part]())
else:
    globals()[part]()
print(unguarded)
"""


@pytest.mark.parametrize(
    "used",
    ["sync_http", "async over httpx", "async over aiohttp", "sync_queue", "async_queue", "sync_runner", "async_runner"],
)
def test_the_first_use_of_a_part_imports_nothing_that_a_fork_could_fall_into(redis_url, prefix, used):
    """A module that a thread of the parent is importing stays locked in the child for ever."""
    if "aiohttp" in used:
        pytest.importorskip("aiohttp")
    with FakeVideoApi(api_key=API_KEY) as api:
        program = [sys.executable, "-c", FIRST_USE, used, redis_url, prefix, api.url, API_KEY]
        ran = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)

    assert (ran.stdout, ran.stderr) == ("[]\n", "")
