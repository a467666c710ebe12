"""Starts what a benchmark needs, each process on its own core, and measures a contender from outside.

The contender has a core for itself; the outside world, Redis and this process
share another one, where they are far from their limits.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import redis

from videopoll import RedisVideoJobQueue
from videopoll.testing import EmbeddedRedis, unused_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).parent
CORES = sorted(os.sched_getaffinity(0))
WORLD_CORE, WORKER_CORE = CORES[0], CORES[-1]


END_S = 1.0
"""Seconds that a run goes on after all users were told: for messages that would be too many."""


class World:
    """The video API and the messenger, in a process of their own."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: dict | None = None) -> Any:
        """Send one request, and give what was answered."""
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.url + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    def reset(self, **control: Any) -> None:
        """Forget everything, and answer like this from now on; see `world.py`."""
        self.call("POST", "/control", control)

    def figures(self) -> dict[str, Any]:
        """Tell what happened since the last reset."""
        return self.call("GET", "/figures")


@contextlib.contextmanager
def open_world() -> Iterator[World]:
    """Run the outside world."""
    port = unused_port()
    process = start([sys.executable, str(HERE / "world.py"), str(port)], WORLD_CORE)
    try:
        yield World(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def open_redis(which: str = "auto") -> Iterator[EmbeddedRedis]:
    """Run a Redis or Valkey of our own."""
    with EmbeddedRedis(prefer=which) as server:
        psutil.Process(server.pid).cpu_affinity([WORLD_CORE])
        yield server


def start(command: Sequence[str], core: int, **options: Any) -> subprocess.Popen[str]:
    """Start a process on one core, and wait until it says that it is ready."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509 - the parent has one thread
        **options,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if line.strip() != "ready":
        process.kill()
        msg = f"{' '.join(command[:2])} did not come up"
        raise RuntimeError(msg)
    return process


@dataclass(frozen=True)
class Contender:
    """One thing to measure.

    Args:
        name: What tables and plots call it.
        script: Its file in `contenders/`.
        environment: Which virtual environment it runs in.
        transport: What carries its HTTP requests.
        concurrency: Requests at a time, if not those of the setting.
        beside: The bare contender with the same transport.
        loop: Its event loop, ``asyncio`` for Python's own or ``uvloop``.
        described: Whether it asks with `HttpVideoPoller` and a description, instead of `VideoApiPoller`.
        tells: Whether it is let deliver all videos at the end.
    """

    name: str
    script: str
    environment: str
    transport: str
    concurrency: int | None = None
    beside: str | None = None
    loop: str = "asyncio"
    described: bool = False
    tells: bool = True

    @property
    def bare(self) -> bool:
        """Whether it only asks, and delivers nothing."""
        return self.script.startswith("bare")


@dataclass(frozen=True)
class Setting:
    """What is the same for all contenders of a run."""

    jobs: int = 5000
    interval_s: float = 1.0
    concurrency: int = 400
    answer_ms: float = 50
    warm_up_s: float = 4.0
    duration_s: float = 6.0
    ready: int | str = "never"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What can be seen from outside at one moment."""

    at_s: float
    polls: int
    messages: int
    cpu_s: float
    redis_cpu_s: float
    commands: int
    round_trips: int


class Arena:
    """One Redis, one outside world, and a contender after the other.

    Args:
        server: The Redis.
        world: The outside world.
        pythons: The interpreter of each environment.
    """

    def __init__(self, server: EmbeddedRedis, world: World, pythons: dict[str, str]) -> None:
        self.server, self.world, self.pythons = server, world, pythons
        self.redis = redis.Redis.from_url(server.url)

    @contextlib.contextmanager
    def contender(self, contender: Contender, setting: Setting) -> Iterator[psutil.Process]:
        """Run a contender on its core, on an empty Redis; give its process."""
        self.redis.flushall()
        scene = {
            "redis_url": self.server.url,
            "world_url": self.world.url,
            "jobs": setting.jobs,
            "interval_s": setting.interval_s,
            "concurrency": contender.concurrency or setting.concurrency,
            "transport": contender.transport,
            "loop": contender.loop,
            "described": contender.described,
            "options": setting.options,
        }
        script = HERE / "contenders" / contender.script
        process = start([self.pythons[contender.environment], str(script), json.dumps(scene)], WORKER_CORE)
        try:
            yield psutil.Process(process.pid)
        finally:
            # Some contenders fork.
            forked = psutil.Process(process.pid).children(recursive=True)
            for one in (process, *forked):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()

    def look(self, worker: psutil.Process) -> Look:
        """See how far everything is."""
        figures = self.world.figures()
        times, server = worker.cpu_times(), psutil.Process(self.server.pid).cpu_times()
        commands = sum(one["calls"] for one in self.redis.info("commandstats").values())
        return Look(
            at_s=figures["at_s"],
            polls=figures["polls"],
            messages=figures["messages"],
            cpu_s=sum(times[:4]),  # its own, and that of children that have ended
            redis_cpu_s=server.user + server.system,
            commands=commands,
            # What a client sends at once is read at once: a pipeline is one round trip, and so is a script.
            round_trips=self.redis.info("stats")["total_reads_processed"],
        )

    def sight(self, worker: psutil.Process) -> dict[str, float]:
        """See what has been used so far, for differences: times by their own clocks, and bytes over the network."""
        look, stats = self.look(worker), self.redis.info("stats")
        cpu = self.redis.info("cpu")
        return {
            "at_s": look.at_s,
            "polls": look.polls,
            "messages": look.messages,
            "cpu_s": look.cpu_s,
            "redis_cpu_s": cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"],
            "redis_bytes": stats["total_net_input_bytes"] + stats["total_net_output_bytes"],
            "bytes": self.world.figures()["bytes"],
        }

    def between(self, before: Look, after: Look) -> dict[str, float]:
        """Give the figures of a stretch of time."""
        took_s, polls = after.at_s - before.at_s, max(1, after.polls - before.polls)
        return {
            "polls_per_s": polls / took_s,
            "cpu_us_per_poll": (after.cpu_s - before.cpu_s) / polls * 1e6,
            "cpu_share": (after.cpu_s - before.cpu_s) / took_s,
            "redis_cpu_share": (after.redis_cpu_s - before.redis_cpu_s) / took_s,
            "commands_per_poll": (after.commands - before.commands) / polls,
            "round_trips_per_poll": (after.round_trips - before.round_trips) / polls,
        }

    def throughput(self, contender: Contender, setting: Setting, *, deliver: bool) -> dict[str, float]:
        """Measure polls a second and what they cost; with `deliver`, let all videos be ready, and count messages."""
        self.world.reset(answer_ms=setting.answer_ms, message_ms=setting.answer_ms)
        with self.contender(contender, setting) as worker:
            time.sleep(setting.warm_up_s)
            before = self.look(worker)
            time.sleep(setting.duration_s)
            figures = self.between(before, self.look(worker))
            figures["rss_mb"] = worker.memory_info().rss / 2**20
            return figures | (self._delivered(setting) if deliver else {})

    def _delivered(
        self, setting: Setting, *, look_every_s: float = 0.2, within_s: float = 240.0, all_ready: bool = True
    ) -> dict[str, float]:
        began_s = time.monotonic()
        if all_ready:
            self.world.call("POST", "/ready")
        while self.world.figures()["jobs_told"] < setting.jobs and time.monotonic() - began_s < within_s:
            time.sleep(look_every_s)
        took_s = time.monotonic() - began_s
        time.sleep(END_S)
        figures = self.world.figures()
        return {"messages": figures["messages"], "users_told": figures["jobs_told"], "deliver_s": took_s}

    def burst(self, contender: Contender, setting: Setting) -> dict[str, float]:
        """Let the videos of all jobs be ready at once while they are polled: how many users are told a second?"""
        self.world.reset(answer_ms=setting.answer_ms, message_ms=setting.answer_ms)
        with self.contender(contender, setting):
            time.sleep(setting.warm_up_s)
            found = self._delivered(setting, look_every_s=0.02)
        return found | {"messages_per_s": found["users_told"] / found["deliver_s"]}

    def whole_life(self, contender: Contender, setting: Setting) -> dict[str, float]:
        """Let all jobs go from their first poll to their message: how many requests a second is that?"""
        self.world.reset(answer_ms=setting.answer_ms, message_ms=setting.answer_ms, ready=setting.ready)
        with self.contender(contender, setting):
            began_s = time.monotonic()
            found = self._delivered(setting, look_every_s=0.05, all_ready=False)
            took_s = time.monotonic() - began_s - END_S
            figures = self.world.figures()
        return found | {"requests_per_s": (figures["polls"] + figures["messages"]) / took_s}

    def memory(self, contender: Contender, setting: Setting) -> dict[str, float]:
        """Measure a worker's memory beside so many pending jobs, at its highest."""
        self.world.reset(answer_ms=setting.answer_ms, message_ms=setting.answer_ms)
        with self.contender(contender, replace(setting, jobs=0)) as worker:
            self.enqueue_evenly(0, setting.jobs, within_s=setting.warm_up_s)
            before, highest = self.look(worker), 0.0
            until_s = time.monotonic() + setting.duration_s
            while time.monotonic() < until_s:
                highest = max(highest, worker.memory_info().rss / 2**20)
                time.sleep(0.1)
            figures = self.between(before, self.look(worker))
        return {"jobs": setting.jobs, "polls_per_s": figures["polls_per_s"], "rss_mb": highest}

    def punctuality(self, contender: Contender, setting: Setting, initial_delay_s: float = 5.0) -> dict[str, float]:
        """Measure how late each poll comes at the API, in ms after it was due by the job's own start."""
        self.world.reset(answer_ms=setting.answer_ms, message_ms=setting.answer_ms, keep_times=True)
        with self.contender(contender, replace(setting, jobs=0)) as worker:
            self.enqueue_evenly(0, setting.jobs, within_s=setting.interval_s)
            time.sleep(initial_delay_s + setting.warm_up_s)
            before, since_ms = self.look(worker), time.time() * 1000
            time.sleep(setting.duration_s)
            figures = self.between(before, self.look(worker))
            figures["rss_mb"] = worker.memory_info().rss / 2**20
            times = self.world.call("GET", "/polls")
        lags_ms = []
        for first in range(0, setting.jobs, 1000):
            ids = [job_id(number) for number in range(first, min(first + 1000, setting.jobs))]
            for one, record in zip(ids, self.redis.mget([f"video:job:{one}" for one in ids]), strict=True):
                due_ms = json.loads(record)["startTime"] + initial_delay_s * 1000
                for number, at_ms in enumerate(times.get(one, [])):
                    if at_ms >= since_ms:
                        lags_ms.append(at_ms - due_ms - number * setting.interval_s * 1000)
        return figures | {
            "jobs": setting.jobs,
            "polled": len(times),
            "lag_p50_ms": quantile(lags_ms, 0.5),
            "lag_p99_ms": quantile(lags_ms, 0.99),
            "lag_max_ms": max(lags_ms),
        }

    def enqueue_evenly(self, first: int, last: int, *, within_s: float) -> None:
        """Take jobs in, some every 10 ms; a pause of this process delays the rest and makes no burst."""
        step = max(1, round((last - first) * 0.01 / within_s))
        with RedisVideoJobQueue.from_url(self.server.url) as queue:
            for number in range(first, last, step):
                began_s = time.monotonic()
                queue.enqueue_many((job_id(one), f"c-{one}", {}) for one in range(number, min(number + step, last)))
                time.sleep(max(0.0, began_s + within_s * step / (last - first) - time.monotonic()))


def job_id(number: int) -> str:
    """Give an id of the form that the video API gives, numbered at its end."""
    return f"job_1757157518747_{number:09d}"


def quantile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that at least this share of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Give the median of each figure over several runs."""
    names = {name for run in runs for name in run}
    return {name: statistics.median([run[name] for run in runs if name in run]) for name in sorted(names)}
