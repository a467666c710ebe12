"""What users and operators feel: how punctual the polls are, how soon a finished video is sent, what idling costs."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
from harness import WORKER_CORE, Contender, Setting, quantile

from videopoll import RedisVideoJobQueue

if TYPE_CHECKING:
    from harness import Arena
    from rich.console import Console

FAST = Contender("videopoll AsyncRunner [fast]", "videopoll_async.py", "fast", "aiohttp")
TEN_SECONDS = Setting(interval_s=10.0, warm_up_s=5.0, duration_s=15.0, options={"initial_delay_s": 5.0})
"""The specification's schedule, with jobs that come in evenly."""


def measure_punctuality(arena: Arena, console: Console, *, jobs: int = 10_000) -> dict[str, float]:
    """How late are the polls of so many jobs at the default interval?"""
    with console.status(f"{jobs} jobs at 10 s"):
        return arena.punctuality(FAST, replace(TEN_SECONDS, jobs=jobs))


def find_most_jobs(arena: Arena, console: Console, *, bound_ms: float = 1000.0) -> list[dict[str, float]]:
    """How many jobs can one core keep in view with 99 % of the polls less than a second late? Give all tries."""
    tries = []
    most, too_many, jobs = 0, 0, 24_000
    while not too_many or too_many - most > 8000:
        found = measure_punctuality(arena, console, jobs=jobs)
        tries.append(found)
        console.print(f"  {jobs} jobs: p99 {found['lag_p99_ms']:.0f} ms", style="dim")
        if found["lag_p99_ms"] < bound_ms:
            most = jobs
        else:
            too_many = jobs
        jobs = (most + too_many) // 2000 * 1000 if too_many else most + 8000
    return tries


def measure_delivery(
    arena: Arena, console: Console, *, polls_per_s: float, lasting_s: float = 30.0
) -> dict[str, float]:
    """How soon is a finished video with the messenger, at so many polls a second?

    A job is polled every second and is ready at its eighth poll, give or take
    seven. The clock runs from the API's answer to the messenger's receipt of the
    request, both at the wire: the messenger's own 50 ms are not in it.
    """
    polls_each = 8
    setting = replace(TEN_SECONDS, interval_s=1.0, jobs=0, options={"initial_delay_s": 0.5})
    arena.world.reset(answer_ms=50, message_ms=50, ready=polls_each)
    rate = polls_per_s / polls_each
    made, warm_up_s = round(rate * lasting_s), 2.0 * polls_each
    with (
        console.status(f"deliveries at {polls_per_s:.0f} polls a second"),
        arena.contender(FAST, setting) as worker,
    ):
        early = round(rate * warm_up_s)
        arena.enqueue_evenly(0, early, within_s=warm_up_s)
        before, told_before = arena.look(worker), len(arena.world.figures()["waits_ms"])
        arena.enqueue_evenly(early, made, within_s=lasting_s - warm_up_s)
        after = arena.look(worker)
        waits_ms = arena.world.figures()["waits_ms"][told_before:]
        figures = arena.between(before, after)
        figures |= {
            "messages_per_s": (after.messages - before.messages) / (after.at_s - before.at_s),
            "wait_p50_ms": quantile(waits_ms, 0.5),
            "wait_p99_ms": quantile(waits_ms, 0.99),
            "deliveries": len(waits_ms),
        }
        ended_s = time.monotonic()
        while arena.world.figures()["jobs_told"] < made and time.monotonic() - ended_s < 2 * lasting_s:
            time.sleep(0.2)
        time.sleep(1.0)
        end = arena.world.figures()
        return figures | {"jobs": made, "users_told": end["jobs_told"], "messages": end["messages"]}


def measure_memory(arena: Arena, console: Console) -> list[dict[str, float]]:
    """How much memory does a worker take beside few pending jobs, and beside many?"""
    rows = []
    for jobs in (1_000, 100_000):
        with console.status(f"{jobs} pending jobs"):
            setting = replace(TEN_SECONDS, interval_s=60.0, warm_up_s=10.0, duration_s=20.0, jobs=jobs)
            rows.append(arena.memory(FAST, setting))
    return rows


def measure_idling(arena: Arena, console: Console, *, workers: int = 10, lasting_s: float = 20.0) -> dict[str, float]:
    """What does `videopoll worker` cost while there is nothing to do, and when one job comes in?"""
    arena.redis.flushall()
    arena.world.reset(answer_ms=50)
    environment = os.environ | {
        "VIDEOPOLL_REDIS_URL": arena.server.url,
        "VIDEOPOLL_API_URL": arena.world.url,
        "VIDEOPOLL_API_KEY": "a-key",
        "VIDEOPOLL_LOG_LEVEL": "error",
        "VIDEOPOLL_INITIAL_DELAY": "0",
    }
    command = [sys.executable, "-m", "videopoll", "worker"]
    with console.status("idle workers"):
        processes = [subprocess.Popen(command, env=environment) for _ in range(workers)]
        try:
            for process in processes:
                psutil.Process(process.pid).cpu_affinity([WORKER_CORE])
            while arena.redis.zcard("video:poll:workers") < workers:
                if any(process.poll() is not None for process in processes):
                    msg = "a worker ended; see what it wrote"
                    raise RuntimeError(msg)
                time.sleep(0.1)
            time.sleep(5.0)
            before, cpu_before = arena.redis.info("stats")["total_reads_processed"], _cpu_s(processes)
            time.sleep(lasting_s)
            after, cpu_after = arena.redis.info("stats")["total_reads_processed"], _cpu_s(processes)
            looks = 1  # our own INFO
            claims = []
            with RedisVideoJobQueue.from_url(arena.server.url) as queue:
                for number in range(10):
                    calls = _scripts_run(arena)
                    queue.enqueue(f"job_{number}", conversation_id="c")
                    while arena.world.figures()["jobs_polled"] <= number:
                        time.sleep(0.001)
                    time.sleep(0.2)
                    claims.append(_scripts_run(arena) - calls)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    return {
        "workers": workers,
        "cpu_share": (cpu_after - cpu_before) / lasting_s / workers,
        "round_trips_per_s": (after - before - looks) / lasting_s / workers,
        # The enqueue itself, one claim and one reschedule are needed.
        "scripts_per_arrival": statistics.median(claims),
    }


def _cpu_s(processes: list[subprocess.Popen[bytes]]) -> float:
    return sum(sum(psutil.Process(process.pid).cpu_times()[:2]) for process in processes)


def _scripts_run(arena: Arena) -> int:
    return arena.redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]


def measure_imports(python: str, *, runs: int = 15) -> dict[str, float]:
    """What does `import videopoll` cost, beside importing what it stands on?"""
    codes = {
        "redis": "import redis",
        "videopoll": "import videopoll",
        "producer": "from videopoll import RedisVideoJobQueue",
        "everything": "from videopoll import *",
    }
    found: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(runs + 1):
        for name, code in codes.items():
            before = os.times()
            subprocess.run([python, "-c", code], check=True)
            after = os.times()
            spent = after.children_user - before.children_user + after.children_system - before.children_system
            found[name].append(spent)
    return {f"{name}_s": statistics.median(spent[1:]) for name, spent in found.items()}
