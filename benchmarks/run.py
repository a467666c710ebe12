"""Measures videopoll, the bare HTTP client and other queues in one run on one machine; see README.md.

`nox -s bench` makes the environments and runs this. The figures go to
`results.json`, the plot to `docs/assets/benchmark.svg`.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import behaviour
import costs
import fairness
import partitions
import plot
import scaling
import simulation
import throughput
from harness import CORES, HERE, Arena, Setting, open_redis, open_world
from rich.console import Console
from rich.table import Table

PARTS = (
    *(
        "throughput",
        "bursts",
        "lives",
        "punctuality",
        "delivery",
        "memory",
        "idling",
        "imports",
        "scaling",
        "partitions",
    ),
    *("capacity", "simulation", "fairness"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=Path, required=True, help="a directory with a virtual environment each")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure only this; may be given several times")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender has its turn")
    parser.add_argument("--pending", type=int, default=1_000_000, help="pending jobs for the scaling")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--plot", type=Path, default=HERE.parent / "docs" / "assets" / "benchmark.svg")
    asked = parser.parse_args()
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 160
    if len(CORES) < 2:
        console.print("A benchmark needs two cores: one for the contender, one for the rest.")
        sys.exit(2)
    pythons = {path.name: str(path / "bin" / "python") for path in asked.environments.iterdir()}
    results = json.loads(asked.results.read_text()) if asked.results.exists() and asked.only else {}
    results["machine"] = describe_machine(pythons)
    for part in asked.only or PARTS:
        console.rule(part)
        results[part] = measure(part, asked, pythons, results, console)
        asked.results.write_text(json.dumps(results, indent=1) + "\n")
    if "throughput" in results:
        plot.draw(results, asked.plot)
    if "simulation" in results:
        plot.draw_capacity(results, asked.plot.with_name("capacity.svg"))


EQUAL = {"equal_places": True}
"""As many sends at a time as polls: other queues make no difference between the two."""


def measure(part: str, asked: argparse.Namespace, pythons: dict[str, str], results: dict, console: Console) -> Any:  # noqa: C901, PLR0912 - a part after the other
    """Measure one part, and show it."""
    if part == "partitions":
        return partitions.measure_partitions(console)
    if part == "imports":
        found = behaviour.measure_imports(pythons["plain"])
        show(console, "import videopoll, CPU seconds", [found])
        return found
    if part == "scaling":
        rows = [scaling.measure_scaling(which, console, many=asked.pending) for which in ("redis", "valkey")]
        show(console, "Redis's time and memory for pending jobs", rows)
        return rows
    if part == "simulation":
        found = simulation.play_all(results, lambda said: console.print(said, style="dim"))
        show(console, "the simulation beside what was measured", found["checks"])
        return found
    if part == "fairness":
        return measure_fairness(console)
    with open_redis("redis") as server, open_world() as world:
        arena = Arena(server, world, pythons)
        if part == "throughput":
            groups = {
                "fast": throughput.FAST,
                "httpx": throughput.HTTPX,
                "plain": throughput.PLAIN,
                "blocking": throughput.BLOCKING,
            }
            found = {
                name: throughput.measure(arena, Setting(), group, asked.rounds, console)
                for name, group in groups.items()
            }
            for name, rows in found.items():
                show(console, f"{name}: 5,000 jobs at 1 s, 400 at a time, an API that answers in 50 ms", rows)
            return found
        if part == "bursts":
            found = throughput.measure_bursts(arena, Setting(options=EQUAL), asked.rounds, console)
            show(console, "5,000 videos ready at once", found)
            return found
        if part == "lives":
            found = throughput.measure_lives(arena, Setting(options=EQUAL), asked.rounds, console)
            show(console, "5,000 jobs from their first poll to their message", found)
            return found
        if part == "memory":
            found = behaviour.measure_memory(arena, console)
            show(console, "a worker's memory beside pending jobs", found)
            return found
        if part == "punctuality":
            tries = [behaviour.measure_punctuality(arena, console), *behaviour.find_most_jobs(arena, console)]
            show(console, "jobs at 10 s on one core: how late their polls are", tries)
            return tries
        if part == "delivery":
            at_full = next(
                row["polls_per_s"] for row in results["throughput"]["fast"] if row["name"] == behaviour.FAST.name
            )
            found = behaviour.measure_delivery(arena, console, polls_per_s=at_full / 2)
            show(console, "from the API's answer to the messenger, at half load", [found])
            return found
        if part == "capacity":
            found = costs.measure_steps(console) | {"message": costs.measure_message(arena, console)}
            for kind in ("warm", "cold"):
                rows = [{"step": name} | row for name, row in found[kind].items()]
                show(console, f"Redis's time and network, {kind}: a call, and each job in it", rows)
            show(console, "Redis's memory for a job, in bytes", [found["bytes"]])
            show(console, "a poll and a message", [found["message"]])
            return found
        found = behaviour.measure_idling(arena, console)
        show(console, "idle workers, each", [found])
        return found


def measure_fairness(console: Console) -> dict[str, list[dict[str, Any]]]:
    """Measure what tenants feel of each other, and show it."""
    found = {"lateness": fairness.measure_lateness(console), "turns": fairness.measure_turns(console)}
    show(console, "ten jobs of a tenant at 10 s beside 100,000 of another", found["lateness"])
    show(console, "Redis's time for a claim of 100 overdue jobs", found["turns"])
    return found


HEADINGS = {
    "name": "",
    "server": "",
    "jobs": "jobs",
    "polls_per_s": "polls/s",
    "ratio": "×",
    "of_bare": "of its bare client",
    "cpu_us_per_poll": "CPU µs a poll",
    "round_trips_per_poll": "round trips a poll",
    "commands_per_poll": "commands a poll",
    "rss_mb": "MB",
    "users_told": "users told",
    "messages": "messages",
    "places": "places",
    "messages_per_s": "messages/s",
    "requests_per_s": "requests/s",
}
"""The columns that every table has where there is something to put into them, and what they are called."""

LEFT_OUT = {"bare", "cpu_share", "redis_cpu_share", "deliver_s", "polled"}
"""In `results.json` only."""


def show(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table; a column is a figure."""
    table = Table(title=title, title_justify="left")
    found = dict.fromkeys(name for row in rows for name in row if name not in LEFT_OUT)
    names = [name for name in HEADINGS if name in found] + [name for name in found if name not in HEADINGS]
    for name in names:
        justify = "left" if name in {"name", "server"} else "right"
        table.add_column(HEADINGS.get(name, name.replace("_", " ")), justify=justify, min_width=6)
    for row in rows:
        table.add_row(*(form(row.get(name)) for name in names))
    console.print(table)


def form(value: object) -> str:
    """Write a figure with three digits or so."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def describe_machine(pythons: dict[str, str]) -> dict[str, Any]:
    """Say where this was measured, and with which versions."""
    names = (
        "aiohttp",
        "arq",
        "celery",
        "hiredis",
        "httpcore",
        "httpx",
        "httpx-aiohttp",
        "pydocket",
        "redis",
        "rq",
        "saq",
        "streaq",
        "uvloop",
    )
    code = (
        "import importlib.metadata as m, json, sys;"
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    versions = {}
    for name, python in sorted(pythons.items()):
        found = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)
        versions[name] = {one: found[one] for one in names if one in found}
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "processor": processor,
        "cores": len(CORES),
        "versions": versions,
    }


if __name__ == "__main__":
    main()
