"""What partitions bring and cost: Redis's own time a poll with one shard and with two, idle partitions, a raise under way.

A worker polls jobs of a poller that answers at once, so that nothing but videopoll and Redis is measured. Redis's time
is what the servers' processes say of themselves (``used_cpu_user`` and ``used_cpu_sys``): on a machine of two cores the
clock on the wall would say how its cores are shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from typing import TYPE_CHECKING, Any

import redis

from videopoll import AsyncRedisVideoJobQueue, AsyncRunner, PollingStrategy, RedisVideoJobQueue
from videopoll.observations import VideoWorking
from videopoll.queue.partitioned_queue import AsyncPartitionedQueue
from videopoll.testing import EmbeddedRedis

if TYPE_CHECKING:
    from rich.console import Console

JOBS = 2400
SECONDS = 8.0
STRATEGY = PollingStrategy(interval_s=1.0, timeout_s=300, max_attempts=300, initial_delay_s=0)


class Working:
    """Answers at once that the video is not ready, and counts."""

    def __init__(self) -> None:
        self.polls = 0

    async def poll(self, job: object, *, timeout_s: float) -> VideoWorking:  # noqa: ARG002
        """Count."""
        self.polls += 1
        return VideoWorking()


class Nobody:
    """Is never asked."""

    async def notify(self, message: object) -> None:
        """Send nothing."""


def measure_partitions(console: Console, *, jobs: int = JOBS, seconds: float = SECONDS) -> dict[str, Any]:
    """Measure, and return the figures."""
    found: dict[str, Any] = {}
    for name, shards, each in (
        ("one queue", 1, None),
        ("one shard of 1", 1, 1),
        ("two shards", 2, 1),
        ("eight on one", 1, 8),
    ):
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(EmbeddedRedis(prefer="redis")) for _ in range(shards)]
            found[name] = asyncio.run(_polls(servers, each, jobs, seconds))
        console.print(name, found[name])
    one, two = found["one queue"]["busiest us a poll"], found["two shards"]["busiest us a poll"]
    found["polls that two shards carry, of one"] = round(one / two, 2)
    for name, each in (("idle, one", None), ("idle, eight", 8)):
        with EmbeddedRedis(prefer="redis") as server:
            found[name] = asyncio.run(_idle(server, each, seconds))
        console.print(name, found[name])
    with EmbeddedRedis(prefer="redis") as server:
        found["enqueue, ms"] = _enqueues(server)
    console.print(found["enqueue, ms"], found["polls that two shards carry, of one"])
    return found


def _queue(servers: list[EmbeddedRedis], each: int | None) -> AsyncRedisVideoJobQueue:
    if each is None:
        return AsyncRedisVideoJobQueue.from_url(servers[0].url)
    if len(servers) == 1:
        return AsyncRedisVideoJobQueue.from_url(servers[0].url, partitions=each)
    return AsyncPartitionedQueue(
        lambda number: AsyncRedisVideoJobQueue.from_url(servers[number].url), len(servers), None
    )


async def _polls(servers: list[EmbeddedRedis], each: int | None, jobs: int, seconds: float) -> dict[str, float]:
    poller = Working()
    async with _queue(servers, each) as queue:
        await queue.enqueue_many([(f"job_{number}", "c", None) for number in range(jobs)])
        runner = AsyncRunner(queue, poller, Nobody(), strategy=STRATEGY, concurrency=jobs, visible=False)
        async with runner:
            runner.start()
            await asyncio.sleep(3)
            before, polls, began_s = _cpu_us(servers), poller.polls, time.process_time()
            await asyncio.sleep(seconds)
            after, polls, ended_s = _cpu_us(servers), poller.polls - polls, time.process_time()
    spent = [end - start for start, end in zip(before, after, strict=True)]
    return {
        "polls/s": round(polls / seconds, 1),
        "busiest us a poll": round(max(spent) / polls, 2),
        "all us a poll": round(sum(spent) / polls, 2),
        "worker us a poll": round((ended_s - began_s) * 1e6 / polls, 1),
    }


async def _idle(server: EmbeddedRedis, each: int | None, seconds: float) -> dict[str, float]:
    async with (
        _queue([server], each) as queue,
        AsyncRunner(queue, Working(), Nobody(), strategy=STRATEGY, visible=False) as runner,
    ):
        runner.start()
        await asyncio.sleep(2)
        with redis.Redis.from_url(server.url) as client:
            before, cpu = client.info("stats")["total_commands_processed"], _cpu_us([server])[0]
            await asyncio.sleep(2 * seconds)
            after, spent = client.info("stats")["total_commands_processed"], _cpu_us([server])[0] - cpu
    return {
        "commands/s": round((after - before) / (2 * seconds), 2),
        "Redis ms/s": round(spent / 1000 / (2 * seconds), 3),
    }


def _enqueues(server: EmbeddedRedis, jobs: int = 1000) -> dict[str, float]:
    """Return the medians of an enqueue without partitions, with four that are new, and with four that are old."""
    medians: dict[str, float] = {}
    long_ago = f"4:{round(time.time() * 1000) - 30 * 24 * 3_600_000}"
    for name, partitions in (("one queue", None), ("raise under way", 4), ("after it", 4)):
        prefix = name.replace(" ", "-")
        if name == "after it":
            with redis.Redis.from_url(server.url) as client:
                for number in range(4):
                    client.set(f"{prefix}{f':{number}' if number else ''}:poll:layout", long_ago)
        with RedisVideoJobQueue.from_url(server.url, prefix=prefix, partitions=partitions) as queue:
            took = []
            for number in range(jobs):
                began_s = time.perf_counter()
                queue.enqueue(f"job_{number}", conversation_id="c")
                took.append(time.perf_counter() - began_s)
        medians[name] = round(statistics.median(took) * 1000, 3)
    return medians


def _cpu_us(servers: list[EmbeddedRedis]) -> list[float]:
    found = []
    for server in servers:
        with redis.Redis.from_url(server.url) as client:
            cpu = client.info("cpu")
            found.append((cpu["used_cpu_user"] + cpu["used_cpu_sys"]) * 1e6)
    return found


if __name__ == "__main__":
    from rich.console import Console

    measure_partitions(Console(highlight=False))
