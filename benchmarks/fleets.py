"""What a fleet does at once: to an API that it comes back to, and to Redis while it has nothing to do.

    python benchmarks/fleets.py burst      four workers start on 5,000 jobs that are overdue
    python benchmarks/fleets.py idle       scripts a second of 10 and of 50 workers without a job

Each worker is a process (idle ones are tasks of one process, with connections of their own). The API answers in
a second, so that it, and not the processor, decides how many are under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import sys
import time
from typing import Any

import redis

from videopoll import AsyncRedisVideoJobQueue, AsyncRunner, PollingStrategy, SilentNotifier, VideoApiPoller
from videopoll.core import opening
from videopoll.testing import EmbeddedRedis

JOBS, WORKERS, PLACES, LATENCY_S, CAP = 5_000, 4, 100, 1.0, 80
REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 24\r\n\r\n" + b'{"status": "processing"}'
STRATEGY = PollingStrategy(interval_s=60, timeout_s=500)


class Api:
    """Counts the requests that come, and how many are under way."""

    def __init__(self) -> None:
        self.came: list[tuple[float, int]] = []
        self.under_way = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.under_way += 1
                self.came.append((time.monotonic(), self.under_way))
                await asyncio.sleep(LATENCY_S)
                self.under_way -= 1
                writer.write(REPLY)
        writer.close()


def work(redis_url: str, api_url: str, go: Any, how: dict[str, Any]) -> None:
    """Be a worker, once all are ready."""
    if not how.pop("soft"):
        opening.AT_ONCE = PLACES

    async def run() -> None:
        queue = AsyncRedisVideoJobQueue.from_url(redis_url)
        poller = VideoApiPoller(base_url=api_url, api_key="key")
        runner = AsyncRunner(queue, poller, SilentNotifier(), strategy=STRATEGY, concurrency=PLACES, **how)
        go.wait()
        await runner.run()

    asyncio.run(run())


async def burst(url: str, how: dict[str, Any]) -> str:
    """Start the workers at once; tell how it came to the API."""
    api = Api()
    server = await asyncio.start_server(api.talk, "127.0.0.1", 0, backlog=1000)
    api_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    fill(url)
    context = multiprocessing.get_context("spawn")
    go = context.Event()
    fleet = [context.Process(target=work, args=(url, api_url, go, dict(how))) for _ in range(WORKERS)]
    for process in fleet:
        process.start()
    await asyncio.sleep(8)
    go.set()
    while not api.came:  # noqa: ASYNC110 - it counts, and has nobody to tell
        await asyncio.sleep(0.01)
    await asyncio.sleep(6)
    for process in fleet:
        process.kill()
    # They have gone: whoever serves them notices.
    await asyncio.sleep(1.5)
    first_s = api.came[0][0]
    spans = {"0.25 s": (0, 0.25), "1 s": (0, 1), "2 s": (1, 2), "3 s": (2, 3)}
    counts = {name: sum(first_s + a <= at_s < first_s + b for at_s, _ in api.came) for name, (a, b) in spans.items()}
    most = {
        name: max((n for at_s, n in api.came if a <= at_s - first_s < b), default=0) for name, (a, b) in spans.items()
    }
    return f"requests {counts}, at a time {most}, ever {max(n for _, n in api.came)}"


def fill(url: str) -> None:
    """Have jobs be overdue."""
    now_ms = round(time.time() * 1000)
    with redis.Redis.from_url(url) as client, client.pipeline(transaction=False) as pipe:
        client.flushall()
        for number in range(JOBS):
            record = {
                "jobId": f"job_{number}",
                "conversationId": "c",
                "startTime": now_ms - 60_000,
                "status": "polling",
            }
            pipe.set(f"video:job:job_{number}", json.dumps(record), ex=600)
            pipe.zadd("video:poll:schedule", {f"job_{number}": now_ms - 60_000 + number})
        pipe.execute()


async def idle(url: str, workers: int) -> str:
    """Have so many workers wait; tell what they ask of Redis."""
    client = redis.Redis.from_url(url)
    client.flushall()
    queues = [AsyncRedisVideoJobQueue.from_url(url) for _ in range(workers)]
    poller = VideoApiPoller(base_url="http://127.0.0.1:1", api_key="key")
    runners = [AsyncRunner(queue, poller, SilentNotifier()) for queue in queues]
    for runner in runners:
        runner.start()
    await asyncio.sleep(10)
    before, seconds = client.info("commandstats"), 20
    await asyncio.sleep(seconds)
    after = client.info("commandstats")

    def calls(*names: str) -> float:
        return (
            sum(
                after.get(f"cmdstat_{one}", {}).get("calls", 0) - before.get(f"cmdstat_{one}", {}).get("calls", 0)
                for one in names
            )
            / seconds
        )

    used = sum(
        one["usec"] - before.get(name, {}).get("usec", 0)
        for name, one in after.items()
        if name not in {"cmdstat_evalsha", "cmdstat_info"}
    )
    scripts, told = (
        calls("evalsha"),
        sum(one["calls"] - before.get(name, {}).get("calls", 0) for name, one in after.items()) / seconds,
    )
    for runner in runners:
        await runner.stop()
    for queue in queues:
        await queue.close()
    return f"{scripts:6.1f} scripts/s, {calls('blmove'):5.1f} blocking reads/s, {told:6.1f} commands/s, {used / seconds / 1000:.2f} ms of Redis a second"


def each(soft: bool = True, **more: int) -> dict[str, Any]:  # noqa: FBT001, FBT002
    """Return how a fleet is set up."""
    return {"soft": soft, **more}


def main() -> None:
    """Measure what the command line names."""
    with EmbeddedRedis() as server:
        if sys.argv[1:] == ["idle"]:
            for workers in (10, 50):
                print(f"{workers:3} idle workers: {asyncio.run(idle(server.url, workers))}")
            return
        ways = {
            "places open at once": each(soft=False),
            "as it is": each(),
            "as it is, account_concurrency=80": each(account_concurrency=80),
            "at once, account_concurrency=80": each(soft=False, account_concurrency=80),
        }
        for name, how in ways.items():
            print(f"{name:36} {asyncio.run(burst(server.url, how))}", flush=True)


if __name__ == "__main__":
    main()
