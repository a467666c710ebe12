"""Whether a tenant with ten jobs feels another one's 100,000, and what turns cost Redis."""

from __future__ import annotations

import asyncio
import os
import statistics
from typing import TYPE_CHECKING

import redis
from harness import CORES, WORKER_CORE, open_redis, quantile

from videopoll import AsyncRedisVideoJobQueue, AsyncRunner, LeasePolicy, PollingStrategy, RedisVideoJobQueue
from videopoll.events import JobPolled
from videopoll.jobs.transition import Reschedule
from videopoll.notifiers import SilentNotifier
from videopoll.observations import VideoWorking

if TYPE_CHECKING:
    from rich.console import Console

    from videopoll.events import Event
    from videopoll.jobs import VideoJob
    from videopoll.observations import Observation

HEAVY, LIGHT = 100_000, 10
PLACES, ANSWER_S, LASTING_S = 50, 0.05, 90.0
STRATEGY = PollingStrategy(interval_s=10, initial_delay_s=5, timeout_s=590, max_attempts=1_000_000)
CLAIMED = 100
AT_ONCE = PollingStrategy(initial_delay_s=0)
LEASE = LeasePolicy()
FAR_MS = 3_000_000


class StandIn:
    """A video API that answers after 50 ms, and has no video ever."""

    async def poll(self, job: VideoJob, *, timeout_s: float) -> Observation:  # noqa: ARG002 - as the runner calls it
        """Return that the job is being worked on."""
        await asyncio.sleep(ANSWER_S)
        return VideoWorking()


class Watch:
    """Hears how late each poll of the light tenant began."""

    def __init__(self) -> None:
        self.polls = 0
        self.lags_s: list[float] = []
        self.first: set[str] = set()
        self.first_lags_s: list[float] = []

    def __call__(self, event: Event) -> None:
        """Note a poll."""
        if not isinstance(event, JobPolled):
            return
        self.polls += 1
        if event.job_id.startswith("light"):
            (self.lags_s if event.job_id in self.first else self.first_lags_s).append(event.lag_s)
            self.first.add(event.job_id)


async def _lives(url: str, tenant_key: str | None) -> dict[str, float]:
    queue = AsyncRedisVideoJobQueue.from_url(url, tenant_key=tenant_key)
    async with queue:
        for tenant, count in (("heavy", HEAVY), ("light", LIGHT)):
            for first in range(0, count, 10_000):
                numbers = range(first, min(first + 10_000, count))
                await queue.enqueue_many([(f"{tenant}-{number:06}", "c", {"brand": tenant}) for number in numbers])
        watch = Watch()
        runner = AsyncRunner(queue, StandIn(), SilentNotifier(), strategy=STRATEGY, concurrency=PLACES, hooks=[watch])
        async with runner:
            runner.start()
            await asyncio.sleep(LASTING_S)
            await runner.stop()
    return {
        "polls_per_s": watch.polls / LASTING_S,
        "light_polls": len(watch.lags_s) + len(watch.first_lags_s),
        "first_poll_late_s": max(watch.first_lags_s, default=float("nan")),
        "lag_p50_ms": 1000 * quantile(watch.lags_s, 0.5) if watch.lags_s else float("nan"),
        "lag_p99_ms": 1000 * quantile(watch.lags_s, 0.99) if watch.lags_s else float("nan"),
    }


def measure_lateness(console: Console) -> list[dict[str, object]]:
    """How late are the ten jobs of a tenant beside 100,000 of another, with and without turns?"""
    rows: list[dict[str, object]] = []
    for name, tenant_key in (("without tenants", None), ("with tenant_key", "brand")):
        with open_redis("redis") as server, console.status(name):
            os.sched_setaffinity(0, {WORKER_CORE})
            try:
                rows.append({"name": name, **asyncio.run(_lives(server.url, tenant_key))})
            finally:
                os.sched_setaffinity(0, set(CORES))
    return rows


def measure_turns(console: Console, *, jobs: int = 20_000, looks: int = 30) -> list[dict[str, object]]:
    """How long does Redis take for a claim of 100 jobs that are overdue, by the number of their tenants?"""
    rows: list[dict[str, object]] = []
    for tenants in (0, 1, 100, 10_000):
        with open_redis("redis") as server, console.status(f"{tenants} tenants"):
            rows.append({"name": f"{tenants} tenants", **_turns(server.url, tenants, jobs, looks)})
    return rows


def _turns(url: str, tenants: int, jobs: int, looks: int) -> dict[str, float]:
    with (
        redis.Redis.from_url(url) as db,
        RedisVideoJobQueue.from_url(url, tenant_key="brand" if tenants else None) as queue,
    ):
        names = [f"{number % max(tenants, 1):05}-{number:06}" for number in range(jobs)]
        queue.enqueue_many([(name, "c", {"brand": name[:5]}) for name in names])
        db.delete(queue.keys.queue)
        now_s, _ = db.time()
        for first in range(0, jobs, 5000):
            db.zadd(queue.keys.schedule, dict.fromkeys(names[first : first + 5000], now_s * 1000 - 1000))

        def claim() -> tuple[int, int]:
            before = db.info("commandstats")
            batch = queue.claim(polls=CLAIMED, sends=1, worker_id="w", strategy=AT_ONCE, lease=LEASE)
            after = db.info("commandstats")
            spent = [one.get("cmdstat_evalsha", {"usec": 0})["usec"] for one in (before, after)]
            calls = [sum(stat["calls"] for stat in one.values()) for one in (before, after)]
            assert len(batch.claims) == CLAIMED
            queue.apply([Reschedule(claim, batch.now_ms + FAR_MS) for claim in batch.claims])
            return spent[1] - spent[0], calls[1] - calls[0]

        # Until all that is due stands in its lane.
        filling = []
        while tenants and db.zcount(queue.keys.schedule, "-inf", now_s * 1000):
            filling.append(claim()[0])
        spent = [claim() for _ in range(looks)]
        return {
            "claim_us": statistics.median(us for us, _ in spent),
            "commands": statistics.median(calls for _, calls in spent),
            "claim_us_filling": statistics.median(filling) if filling else float("nan"),
        }
