"""Polls a second on one core: the bare client, other queues, and videopoll, in turns on one machine."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from harness import Contender, Setting, medians

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness import Arena
    from rich.console import Console

# The first is what the others are compared with.
FAST = (
    Contender("arq, httpx-aiohttp", "arq_worker.py", "arq", "httpx-aiohttp", beside="bare httpx, httpx-aiohttp"),
    Contender("saq, httpx-aiohttp", "saq_worker.py", "saq", "httpx-aiohttp", beside="bare httpx, httpx-aiohttp"),
    Contender(
        "streaq, httpx-aiohttp", "streaq_worker.py", "streaq", "httpx-aiohttp", beside="bare httpx, httpx-aiohttp"
    ),
    Contender(
        "videopoll AsyncRunner [fast]", "videopoll_async.py", "fast", "aiohttp", beside="bare videopoll poller [fast]"
    ),
    Contender("videopoll AsyncRunner [fast], described API", "videopoll_async.py", "fast", "aiohttp", described=True),
    Contender("videopoll AsyncRunner [fast], uvloop", "videopoll_async.py", "fast", "aiohttp", loop="uvloop"),
    Contender(
        "videopoll AsyncRunner, client injected: httpx-aiohttp",
        "videopoll_async.py",
        "fast",
        "httpx-aiohttp",
        beside="bare httpx, httpx-aiohttp",
    ),
    Contender("videopoll Runner [fast], 64 threads", "videopoll_sync.py", "fast", "httpx", concurrency=64),
    Contender("bare httpx, httpx-aiohttp", "bare.py", "fast", "httpx-aiohttp"),
    Contender("bare aiohttp", "bare.py", "fast", "aiohttp"),
    Contender("bare videopoll poller [fast]", "bare.py", "fast", "videopoll-fast", beside="bare aiohttp"),
)
"""With all that makes it fast."""

PLAIN = (
    Contender("arq, httpx", "arq_worker.py", "arq", "httpx"),
    Contender("arq, httpx with many small pools", "arq_worker.py", "arq", "httpx-many"),
    Contender("saq, httpx with many small pools", "saq_worker.py", "saq", "httpx-many"),
    Contender("streaq, httpx with many small pools", "streaq_worker.py", "streaq", "httpx-many"),
    Contender("videopoll AsyncRunner", "videopoll_async.py", "plain", "httpx", beside="bare videopoll poller"),
    Contender("videopoll Runner, 64 threads", "videopoll_sync.py", "plain", "httpx", concurrency=64),
    Contender("bare httpx, one pool", "bare.py", "fast", "httpx"),
    Contender("bare httpx, many small pools", "bare.py", "fast", "httpx-many"),
    Contender("bare videopoll poller", "bare.py", "plain", "videopoll-plain"),
)
"""Without extras."""


def measure(arena: Arena, setting: Setting, contenders: Sequence[Contender], rounds: int, console: Console) -> Any:
    """Let all of them run in turns, and give the medians; the last round delivers, too."""
    runs: dict[str, list[dict[str, float]]] = {one.name: [] for one in contenders}
    for number in range(1, rounds + 1):
        for one in contenders:
            deliver = number == rounds and not one.bare
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
