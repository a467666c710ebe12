"""The tables of `explanation/capacity.md`, made of `benchmarks/results.json` by the model and the simulation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import capacity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DAYS = (1e4, 1e5, 1e6, 1e7, 1e8)
"""Videos a day that are planned for."""


def plans() -> str:
    """Give what a day of so many videos takes."""
    found = [capacity.told(capacity.plan(_costs(), capacity.Load(videos))) for videos in DAYS]
    heads = ("at the peak", *(f"{videos:,.0f} a day" for videos in DAYS))
    return _table(heads, ([name, *(plan[name] for plan in found)] for name in found[0]))


def limits() -> str:
    """Give what breaks first."""
    points = capacity.breaking_points(_costs(), capacity.Load(1))
    rows = ((name, f"{float(f'{videos:.2g}'):,.0f}") for name, videos in points.items())
    return _table(("what is reached", "at videos a day"), rows)


def runners() -> str:
    """Give how many cores each runner needs."""
    costs, days = _costs(), DAYS[2:]
    heads = ("cores", *(f"{videos:,.0f} a day" for videos in days))
    rows = (
        [f"`{kind}`", *(str(capacity.workers_for(costs, capacity.Load(videos), kind)) for videos in days)]
        for kind in capacity.KINDS
    )
    return _table(heads, rows)


def costs() -> str:
    """Give the measured constants."""
    found = _costs()
    rows = [
        ("a worker's CPU for a poll, on a busy core", f"{found.poll_us:,.0f} µs"),
        ("more of it on an idle core", f"{found.wake_us:,.0f} µs"),
        ("a worker's CPU for a message, with its writes", f"{found.message_us:,.0f} µs"),
        ("a poll on the wire, without TLS", f"{found.http_poll_bytes:,.0f} bytes"),
        ("a message on the wire, without TLS", f"{found.http_message_bytes:,.0f} bytes"),
    ]
    places = {"scheduled": "that waits for a poll", "in_flight": "in a worker's hands"}
    places |= {"outbox": "that waits for its message", "completed": "that has ended, for two hours"}
    rows += [(f"Redis's memory for a job {said}", f"{found.bytes[name]:,.0f} bytes") for name, said in places.items()]
    return _table(("measured", ""), rows)


def steps() -> str:
    """Give what each step costs Redis."""
    found = _costs()
    heads = ("", "a call, µs", "after a pause", "each job in it, µs", "after a pause ", "bytes a call", "and a job")
    rows = (
        [
            f"`{name}`",
            *(f"{value:.0f}" for value in (warm.call_us, found.cold[name].call_us)),
            *(f"{value:.1f}" for value in (warm.job_us, found.cold[name].job_us)),
            *(f"{value:.0f}" for value in (warm.call_bytes, warm.job_bytes)),
        ]
        for name, warm in found.warm.items()
    )
    return _table(heads, rows)


def modelled() -> str:
    """Set the model beside what was measured."""
    heads = ("", "polls a second", "of the worker's core", "modelled", "of Redis's core", "modelled ")
    shares = ("worker_measured", "worker_modelled", "redis_measured", "redis_modelled")
    rows = (
        [row["name"], f"{row['polls_per_s']:,.0f}", *(f"{row[name]:.1%}" for name in shares)]
        for row in capacity.check(_costs(), _results())
    )
    return _table(heads, rows)


SIMULATED: dict[str, tuple[str, Callable[[float], str]]] = {
    "workers": ("workers", str),
    "polls_per_s": ("polls a second", capacity.figure),
    "lag_p50_ms": ("half of the polls late by", lambda value: f"{value:.0f} ms"),
    "lag_p99_ms": ("99 %", lambda value: f"{value:.0f} ms"),
    "told_p50_s": ("half told after", lambda value: f"{value:.1f} s"),
    "told_p99_s": ("99 % ", lambda value: f"{value:.1f} s"),
    "backlog": ("failover: polls that wait", capacity.figure),
    "drained_s": ("made up after", lambda value: f"{value:.0f} s"),
    "death_lag_max_s": ("a death: polls late by", lambda value: f"{value:.1f} s"),
}


def simulated() -> str:
    """Give what the simulation shows."""
    return _simulated(
        {
            f"{row['videos_per_day']:,.0f} a day" + (f", 1 of {row['shards']} shards" if row["shards"] > 1 else ""): row
            for row in _results()["simulation"]["scales"]
        }
    )


def slices() -> str:
    """Set one shard beside two."""
    found = _results()["simulation"]
    return _simulated({"one shard": found["scales"][-1], "two shards": found["two_shards"]})


def _simulated(rows: dict[str, dict[str, Any]]) -> str:
    heads = ("", *(head for head, _ in SIMULATED.values()))
    return _table(
        heads, ([name, *(write(row[what]) for what, (_, write) in SIMULATED.items())] for name, row in rows.items())
    )


CHECKED: dict[str, tuple[str, Callable[[float], str]]] = {
    "polls_per_s": ("polls a second", capacity.figure),
    "cpu_share": ("of the worker's core", "{:.0%}".format),
    "redis_cpu_share": ("of Redis's core", "{:.1%}".format),
    "lag_p50_ms": ("half of the polls late by", "{:.0f} ms".format),
    "lag_p99_ms": ("99 % of the polls late by", "{:.0f} ms".format),
    "wait_p50_ms": ("from the answer to the messenger, half", "{:.0f} ms".format),
    "wait_p99_ms": ("from the answer to the messenger, 99 %", "{:.0f} ms".format),
}


def checked() -> str:
    """Set the simulation beside what was measured."""
    rows = []
    for row in _results()["simulation"]["checks"]:
        said, write = CHECKED[row["what"]]
        off = row["simulated"] / row["measured"] - 1
        rows.append((row["name"], said, write(row["measured"]), write(row["simulated"]), f"{off:+.0%}"))
    return _table(("part of the benchmarks", "figure", "measured", "simulated", "off by"), rows)


def _results() -> dict[str, Any]:
    return capacity.read_results()


def _costs() -> capacity.Costs:
    return capacity.Costs.of(_results())


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    words = ("part of the benchmarks", "figure")
    rules = ["---" if not number or head in words else "---:" for number, head in enumerate(heads)]
    lines = (heads, rules, *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    f"capacity_{part.__name__}": part
    for part in (plans, limits, runners, costs, steps, modelled, simulated, slices, checked)
}
"""What stands in the page, by the name of its placeholder."""
