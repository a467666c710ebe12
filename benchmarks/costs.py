"""What one video costs, for the capacity model: Redis's time, memory and network for each step, a worker's CPU for a message."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import redis
from behaviour import FAST, TEN_SECONDS
from harness import job_id, open_redis

from videopoll import DeliveryPolicy, LeasePolicy, OutcomeKind, PollingStrategy, RedisVideoJobQueue
from videopoll.core.delivery import open_outbox
from videopoll.jobs import Outcome
from videopoll.jobs.codec import dump
from videopoll.jobs.transition import Conclude, Reschedule, Settle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness import Arena
    from rich.console import Console

    from videopoll.jobs.transition import Claim

AT_ONCE = PollingStrategy(initial_delay_s=0)
LEASE = LeasePolicy()
POLICY = DeliveryPolicy()
METADATA = {"prompt": "A fox in a snowy forest turns around, looks into the camera, and jumps away", "userId": "u_42"}
"""What a host stores with a job; it is most of the record."""

URL = "https://cdn.example.com/videos/2026/11/{}/output.mp4?signature=0123456789abcdef0123456789abcdef"
STEPS = ("enqueue", "first_claim", "reschedule", "claim", "conclude", "settle")
"""What happens to a video in Redis. `claim` and `reschedule` come once a poll, the others once a video."""

PLACES = ("listed", "scheduled", "in_flight", "outbox", "completed")
"""Where a job is, and takes memory."""


class Lives:
    """Leads jobs through their steps on a Redis of its own, so many in a call, and looks at what each step costs.

    A call costs more after a pause, when other things are in the processor's caches.
    With `apart_s` there is one after each.
    """

    def __init__(self, url: str, *, apart_s: float = 0.0) -> None:
        self.apart_s = apart_s
        self.queue = RedisVideoJobQueue.from_url(url)
        self.db = redis.Redis.from_url(url)
        self.steps: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.bytes: dict[str, float] = {}

    def lead(self, jobs: int, at_a_time: int) -> None:
        """Lead so many jobs from their enqueue to their end."""
        self.db.flushall()
        start = self._used()
        names = [(job_id(one), f"68bb3c3585425ee98e{one:06d}", METADATA) for one in range(jobs)]
        self._step("enqueue", at_a_time, names, self.queue.enqueue_many)
        listed = self._used()
        claims: list[Claim] = []
        self._step("first_claim", at_a_time, names, lambda some: claims.extend(self._claim(len(some))))
        in_flight = self._used()
        now_ms = int(self.db.time()[0]) * 1000
        self._step("reschedule", at_a_time, [Reschedule(one, now_ms, 0, now_ms) for one in claims], self.queue.apply)
        scheduled = self._used()
        claims.clear()
        self._step("claim", at_a_time, names, lambda some: claims.extend(self._claim(len(some))))
        assert len(claims) == jobs
        entries = []
        for one in claims:
            outcome = Outcome(OutcomeKind.COMPLETED, now_ms, video_url=URL.format(one.job_id))
            entries.append(open_outbox(one.work.job, outcome, POLICY))
        ends = [
            Conclude(one, entry, POLICY.keep_s, round(LEASE.duration_s * 1000))
            for one, entry in zip(claims, entries, strict=True)
        ]
        self._step("conclude", at_a_time, ends, self.queue.apply)
        outbox = self._used()
        settled = [
            Settle(one, dump(entry.outcome.to_completed(entry.job, delivered=True)))
            for one, entry in zip(claims, entries, strict=True)
        ]
        self._step("settle", at_a_time, settled, self.queue.apply)
        used = (listed, scheduled, in_flight, outbox, self._used())
        assert self.db.zcard(self.queue.keys.inflight) == self.db.zcard(self.queue.keys.schedule) == 0
        self.bytes = {name: (one - start) / jobs for name, one in zip(PLACES, used, strict=True)}

    def _claim(self, count: int) -> Sequence[Claim]:
        return self.queue.claim(polls=count, sends=0, worker_id="w", strategy=AT_ONCE, lease=LEASE).claims

    def _used(self) -> int:
        return self.db.info("memory")["used_memory"]

    def _step(self, name: str, at_a_time: int, items: list[Any], do: Callable[[list[Any]], object]) -> None:
        before = self._look()
        for first in range(0, len(items), at_a_time):
            do(items[first : first + at_a_time])
            if self.apart_s:
                time.sleep(self.apart_s)
        after = self._look()
        self.steps.setdefault(name, []).append(
            (at_a_time, {key: (after[key] - before[key]) / len(items) for key in before})
        )

    def _look(self) -> dict[str, float]:
        found = self.db.info("cpu") | self.db.info("stats")
        return {
            # Of the thread that carries out commands: reading, the script, and the answer.
            "us": (found["used_cpu_user_main_thread"] + found["used_cpu_sys_main_thread"]) * 1e6,
            "bytes_in": found["total_net_input_bytes"],
            "bytes_out": found["total_net_output_bytes"],
        }

    def fitted(self) -> dict[str, dict[str, float]]:
        """Give for each step what a call costs, and what each job in it adds."""
        return {
            name: {
                f"{kind}_{what}": value
                for what in ("us", "bytes_in", "bytes_out")
                for kind, value in zip(("call", "job"), fit([(n, row[what]) for n, row in rows]), strict=True)
            }
            for name, rows in self.steps.items()
        }


def fit(rows: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Give `call` and `job` of ``call / n + job``, by least squares, from the medians of each n."""
    sizes = sorted({n for n, _ in rows})
    points = [(1 / n, statistics.median(value for size, value in rows if size == n)) for n in sizes]
    slope, base = statistics.linear_regression(*zip(*points, strict=True))
    return max(0.0, slope), max(0.0, base)


SIZES = (1, 10, 50, 200)
"""Jobs in a call."""

CALLS = 40
"""Calls of each size with a pause after each."""

APART_S = 0.02
"""The pause: as far apart are the claims of a worker that has something to do."""


def measure_steps(console: Console, *, jobs: int = 4000, rounds: int = 3) -> dict[str, Any]:
    """Measure what Redis does for each step, call after call and with pauses between calls, and what a job takes of its memory."""
    found: dict[str, Any] = {}
    with open_redis("redis") as server, console.status("a video's life in Redis"):
        for name, apart_s in (("warm", 0.0), ("cold", APART_S)):
            lives = Lives(server.url, apart_s=apart_s)
            for _ in range(rounds):
                for at_a_time in SIZES:
                    lives.lead(CALLS * at_a_time if apart_s else jobs, at_a_time)
            found[name] = lives.fitted()
        lives = Lives(server.url)
        lives.lead(5 * jobs, SIZES[-1])
        before = lives._look()
        time.sleep(5.0)
        idle_us = lives._look()["us"] - before["us"]
        return found | {
            "server": f"{server.name} {server.version}",
            "idle_us_per_s": idle_us / 5.0,
            "bytes": lives.bytes,
        }


def measure_message(arena: Arena, console: Console, *, polls_per_s: float = 1600, lasting_s: float = 25.0) -> Any:
    """Compare a worker that polls with one that polls as much and tells, in CPU; and see what crosses the network.

    A video is ready at its eighth poll, give or take seven, as in the part `delivery`.
    """
    polls_each, warm_up_s = 8, 16.0
    found = {}
    for name, ready in (("polling", "never"), ("telling", polls_each)):
        jobs = round(polls_per_s if name == "polling" else polls_per_s / polls_each * lasting_s)
        setting = replace(TEN_SECONDS, interval_s=1.0, jobs=0, options={"initial_delay_s": 0.5})
        arena.world.reset(answer_ms=50, message_ms=50, ready=ready)
        with (
            console.status(f"{name} at {polls_per_s:.0f} polls a second"),
            arena.contender(FAST, setting) as worker,
        ):
            if name == "polling":
                arena.enqueue_evenly(0, jobs, within_s=1.0)
                time.sleep(3.0)
                before = arena.sight(worker)
                time.sleep(lasting_s - warm_up_s)
            else:
                early = round(jobs * warm_up_s / lasting_s)
                arena.enqueue_evenly(0, early, within_s=warm_up_s)
                before = arena.sight(worker)
                arena.enqueue_evenly(early, jobs, within_s=lasting_s - warm_up_s)
            after = arena.sight(worker)
        found[name] = {key: after[key] - before[key] for key in before}
    polling, telling = found["polling"], found["telling"]
    messages = telling["messages"]
    polls = {key: value / polling["polls"] for key, value in polling.items()}
    return {
        "polls_per_s": telling["polls"] / telling["at_s"],
        "messages_per_s": messages / telling["at_s"],
        "cpu_us_per_poll": polls["cpu_s"] * 1e6,
        "cpu_us_per_message": (telling["cpu_s"] - polls["cpu_s"] * telling["polls"]) / messages * 1e6,
        "redis_us_per_poll": polls["redis_cpu_s"] * 1e6,
        "redis_us_per_message": (telling["redis_cpu_s"] - polls["redis_cpu_s"] * telling["polls"]) / messages * 1e6,
        "redis_bytes_per_poll": polls["redis_bytes"],
        "redis_bytes_per_message": (telling["redis_bytes"] - polls["redis_bytes"] * telling["polls"]) / messages,
        "http_bytes_per_poll": polls["bytes"],
        "http_bytes_per_message": (telling["bytes"] - polls["bytes"] * telling["polls"]) / messages,
    }
