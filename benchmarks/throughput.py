"""Polls a second on one core: the bare client, other queues, and videopoll, in turns on one machine."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness import Contender, Setting, medians

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness import Arena
    from rich.console import Console

OVER_AIOHTTP = "bare aiohttp"
OVER_HTTPX = "bare httpx, httpx-aiohttp"

# The first is what the others are compared with.
FAST = (
    Contender("arq, aiohttp", "arq_worker.py", "arq", "aiohttp", beside=OVER_AIOHTTP),
    Contender("saq, aiohttp", "saq_worker.py", "saq", "aiohttp", beside=OVER_AIOHTTP),
    Contender("streaq, aiohttp", "streaq_worker.py", "streaq", "aiohttp", beside=OVER_AIOHTTP),
    Contender("docket, aiohttp", "docket_worker.py", "docket", "aiohttp", beside=OVER_AIOHTTP),
    Contender("videopoll AsyncRunner [fast]", "videopoll_async.py", "fast", "aiohttp", beside=OVER_AIOHTTP),
    Contender("videopoll AsyncRunner [fast], described API", "videopoll_async.py", "fast", "aiohttp", described=True),
    Contender("videopoll AsyncRunner [fast], uvloop", "videopoll_async.py", "fast", "aiohttp", loop="uvloop"),
    Contender("bare aiohttp", "bare.py", "fast", "aiohttp"),
    Contender("bare videopoll poller [fast]", "bare.py", "fast", "videopoll-fast", beside=OVER_AIOHTTP),
)
"""Over aiohttp, which is the fastest for all of them."""

HTTPX = (
    Contender("arq, httpx-aiohttp", "arq_worker.py", "arq", "httpx-aiohttp", beside=OVER_HTTPX),
    Contender("saq, httpx-aiohttp", "saq_worker.py", "saq", "httpx-aiohttp", beside=OVER_HTTPX),
    Contender("streaq, httpx-aiohttp", "streaq_worker.py", "streaq", "httpx-aiohttp", beside=OVER_HTTPX),
    Contender("docket, httpx-aiohttp", "docket_worker.py", "docket", "httpx-aiohttp", beside=OVER_HTTPX),
    Contender(
        "videopoll AsyncRunner, client injected", "videopoll_async.py", "fast", "httpx-aiohttp", beside=OVER_HTTPX
    ),
    Contender("bare httpx, httpx-aiohttp", "bare.py", "fast", "httpx-aiohttp"),
)
"""Over httpx with its aiohttp transport, which is the fastest that httpx has."""

PLAIN = (
    Contender("arq, httpx with many small pools", "arq_worker.py", "arq", "httpx-many"),
    Contender("arq, httpx with one pool", "arq_worker.py", "arq", "httpx"),
    Contender("videopoll AsyncRunner", "videopoll_async.py", "plain", "httpx", beside="bare videopoll poller"),
    Contender("bare httpx, one pool", "bare.py", "fast", "httpx"),
    Contender("bare httpx, many small pools", "bare.py", "fast", "httpx-many"),
    Contender("bare videopoll poller", "bare.py", "plain", "videopoll-plain"),
)
"""Without extras."""

BLOCKING = (
    Contender("celery, gevent, requests", "celery_worker.py", "celery", "requests", tells=False),
    Contender("rq, requests", "rq_worker.py", "rq", "requests", concurrency=1, tells=False),
    Contender("videopoll Runner, 64 threads", "videopoll_sync.py", "plain", "httpx", concurrency=64),
    Contender("videopoll Runner [fast], 64 threads", "videopoll_sync.py", "fast", "httpx", concurrency=64),
    Contender("videopoll Runner [fast], 128 threads", "videopoll_sync.py", "fast", "httpx", concurrency=128),
    Contender("bare videopoll poller, 64 threads", "bare_threads.py", "fast", "httpx", concurrency=64),
    Contender("bare videopoll poller, 128 threads", "bare_threads.py", "fast", "httpx", concurrency=128),
)
"""Without asyncio."""

WHOLE = (FAST[0], FAST[4])
"""Those whose bursts and whole lives are measured: arq and videopoll, over one transport."""

PLACES = (100, 200, 400)


def measure(arena: Arena, setting: Setting, contenders: Sequence[Contender], rounds: int, console: Console) -> Any:
    """Let all of them run in turns, and give the medians; the last round delivers, too."""
    runs: dict[str, list[dict[str, float]]] = {one.name: [] for one in contenders}
    for number in range(1, rounds + 1):
        for one in contenders:
            deliver = number == rounds and one.tells and not one.bare
            with console.status(f"round {number} of {rounds}: {one.name}"):
                figures = arena.throughput(one, setting, deliver=deliver)
            runs[one.name].append(figures)
            console.print(f"  {one.name}: {figures['polls_per_s']:.0f} polls/s", style="dim")
    rows = []
    for one in contenders:
        row = medians(runs[one.name]) | {"name": one.name, "ratio": beside(runs[one.name], runs[contenders[0].name])}
        if one.beside:
            row |= {"of_bare": beside(runs[one.name], runs[one.beside]), "bare": one.beside}
        rows.append(row)
    return rows


def beside(found: list[dict[str, float]], others: list[dict[str, float]]) -> float:
    """Give how many times as fast it is; the machine's speed drifts, so each round is compared within itself."""
    return statistics.median([b["polls_per_s"] / a["polls_per_s"] for a, b in zip(others, found, strict=True)])


def measure_bursts(arena: Arena, setting: Setting, rounds: int, console: Console) -> list[dict[str, Any]]:
    """Let 5,000 videos be ready at once, with so many places: how many users are told a second?"""
    return _by_places(arena, rounds, console, "messages_per_s", lambda one: arena.burst(one, setting))


def measure_lives(arena: Arena, setting: Setting, rounds: int, console: Console) -> list[dict[str, Any]]:
    """Let 5,000 jobs go from their first poll to their message, eight polls each, give or take seven."""
    setting = replace(setting, interval_s=0.5, ready=8)
    return _by_places(arena, rounds, console, "requests_per_s", lambda one: arena.whole_life(one, setting))


def _by_places(
    arena: Arena, rounds: int, console: Console, figure: str, run: Callable[[Contender], dict[str, float]]
) -> list[dict[str, Any]]:
    rows = []
    for places in PLACES:
        bare, runs = [], {one.name: [] for one in WHOLE}
        for number in range(1, rounds + 1):
            with console.status(f"round {number} of {rounds}: {places} places"):
                bare_one = replace(next(one for one in FAST if one.name == OVER_AIOHTTP), concurrency=places)
                short = Setting(warm_up_s=2.0, duration_s=3.0)
                bare.append(arena.throughput(bare_one, short, deliver=False)["polls_per_s"])
                for one in WHOLE:
                    runs[one.name].append(run(replace(one, concurrency=places)))
                    console.print(f"  {one.name}, {places} places: {runs[one.name][-1][figure]:.0f}", style="dim")
        # A burst takes two requests for each message.
        share = 2 if figure == "messages_per_s" else 1
        for one in WHOLE:
            found = [row[figure] for row in runs[one.name]]
            others = [row[figure] for row in runs[WHOLE[0].name]]
            rows.append(
                medians(runs[one.name])
                | {
                    "name": one.name,
                    "places": places,
                    "ratio": statistics.median(ours / theirs for ours, theirs in zip(found, others, strict=True)),
                    "of_bare": statistics.median(ours * share / all_ for ours, all_ in zip(found, bare, strict=True)),
                }
            )
    return rows
