"""The same with threads and with asyncio: every part has the same methods in both worlds."""

from __future__ import annotations

import asyncio

from videopoll import AsyncRunner, Runner
from videopoll.observations import VideoReady, VideoWorking
from videopoll.testing import (
    MemoryServer,
    MovableClock,
    RecordingNotifier,
    ScriptedPoller,
    assert_delivered_once,
    async_memory_queue,
    memory_queue,
)

URL = "https://files.example/1.mp4"


def test_with_threads():
    """What a sandbox does, by hand: a queue, a poller, a notifier, and a runner that brings them together."""
    poller = ScriptedPoller({"job_1": [VideoWorking(), VideoReady(URL)]})
    notifier = RecordingNotifier()
    with (
        MovableClock() as clock,
        memory_queue() as queue,
        Runner(queue, poller, notifier, clock=clock) as runner,
    ):
        queue.enqueue("job_1", conversation_id="maria")

        assert runner.run_once().claimed == 0, "nothing is due yet"
        clock.move(5)
        assert runner.run_once().polls == 1
        clock.move(10)
        assert runner.run_once().delivered == 1

    assert_delivered_once(notifier, "job_1")


def test_with_asyncio():
    """The same, awaited. The poller and the notifier are even the same objects."""
    poller = ScriptedPoller({"job_1": [VideoWorking(), VideoReady(URL)]})
    notifier = RecordingNotifier()

    async def main():
        with MovableClock() as clock:
            async with (
                async_memory_queue() as queue,
                AsyncRunner(queue, poller, notifier, clock=clock) as runner,
            ):
                await queue.enqueue("job_1", conversation_id="maria")

                clock.move(5)
                assert (await runner.run_once()).polls == 1
                clock.move(10)
                assert (await runner.run_once()).delivered == 1

    asyncio.run(main())
    assert_delivered_once(notifier, "job_1")


def test_a_producer_with_threads_and_a_worker_with_asyncio():
    """They share nothing but the server."""
    server, notifier = MemoryServer(), RecordingNotifier()

    async def work(clock):
        async with (
            async_memory_queue(server) as queue,
            AsyncRunner(queue, ScriptedPoller(), notifier, clock=clock) as runner,
        ):
            clock.move(5)
            await runner.run_once()

    with MovableClock() as clock, memory_queue(server) as queue:
        queue.enqueue("job_1", conversation_id="maria")
        asyncio.run(work(clock))
        assert queue.wait("job_1", timeout_s=1).success
    assert_delivered_once(notifier, "job_1")
