"""Draws the throughput of all contenders, and what many videos need, for the docs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import capacity
import matplotlib as mpl
import simulation

mpl.use("svg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

OURS, BARE, OTHERS = "#00897b", "#b0bec5", "#7e8a97"
TITLES = {
    "fast": "over aiohttp",
    "httpx": "over httpx with its aiohttp transport",
    "plain": "over httpx, without extras",
    "blocking": "without asyncio",
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Write one picture with a panel for each setting."""
    mpl.rcParams["svg.fonttype"] = "none"
    # The same figures give the same file.
    mpl.rcParams["svg.hashsalt"] = "videopoll"
    found = results["throughput"]
    sizes = [len(rows) for rows in found.values()]
    figure, panels = plt.subplots(
        len(found), 1, figsize=(9, 0.42 * sum(sizes) + 1.6), height_ratios=sizes, layout="constrained", sharex=True
    )
    for panel, (setting, rows) in zip(panels, found.items(), strict=True):
        names = [row["name"] for row in rows]
        values = [row["polls_per_s"] for row in rows]
        labelled = list(zip(values, rows, strict=True))
        colours = [BARE if name.startswith("bare") else OURS if "videopoll" in name else OTHERS for name in names]
        bars = panel.barh(names, values, color=colours, height=0.7)
        panel.bar_label(
            bars,
            [f"{value:,.0f}  (×{row['ratio']:.2g})" if value >= 1 else "less than 1" for value, row in labelled],
            padding=4,
            fontsize=9,
        )
        panel.invert_yaxis()
        panel.set_title(TITLES[setting], loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
        panel.margins(x=0.16)
    panels[-1].set_xlabel("polls a second on one core (in brackets: times arq; without asyncio, times Celery)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


LINES = {"1e6": "#7e8a97", "1e7": "#00897b", "1e8": "#b3541e"}


def draw_capacity(results: dict[str, Any], path: Path) -> None:
    """Write one picture: what is needed by the size of the load, and what a failover does to what waits."""
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["svg.hashsalt"] = "videopoll"
    costs = capacity.Costs.of(results)
    figure, (needs, waits) = plt.subplots(2, 1, figsize=(9, 8), layout="constrained")
    days = [10 ** (4 + step / 20) for step in range(81)]
    loads = [capacity.Load(videos) for videos in days]
    lines = {
        "requests under way at the API": [load.connections for load in loads],
        "GB of Redis's memory": [capacity.memory_bytes(costs, load) / 1e9 for load in loads],
        "cores for workers": [
            capacity.worker_share(costs, load.polls_per_s / count, load.videos_per_s / count) * count
            for load in loads
            for count in [capacity.workers_for(costs, load)]
        ],
        "cores for Redis": [
            capacity.redis_share(costs, capacity.traffic(load.polls_per_s / many, load.videos_per_s / many, each))
            * many
            for load in loads
            for found in [capacity.plan(costs, load)]
            for many, each in [(found.shards, found.workers / found.shards)]
        ],
    }
    for (name, values), colour in zip(lines.items(), ("#5c6bc0", "#b3541e", "#00897b", "#37474f"), strict=True):
        needs.loglog(days, values, color=colour, linewidth=2, label=name)
    needs.axhline(1, color="#7e8a97", linewidth=0.8, linestyle=":")
    needs.legend(frameon=False)
    needs.set_title("what the peak of a day takes", loc="left", fontsize=10)
    needs.set_xlabel("videos a day")
    scene = results["simulation"]["scales"]
    for row, colour in zip(scene, LINES.values(), strict=True):
        seconds = [left / row["polls_per_s"] for left in row["waiting"]]
        waits.plot(
            [at * simulation.KEPT_EVERY_S for at in range(len(seconds))],
            seconds,
            color=colour,
            linewidth=2,
            label=f"{row['videos_per_day']:,.0f} videos a day",
        )
    away_s, dies_s = simulation.FAILING["shard_away_s"], simulation.FAILING["worker_dies_s"]
    waits.axvspan(away_s, away_s + simulation.Scene.away_for_s, color="#eceff1")
    waits.annotate("Redis away", (away_s, 0), xytext=(-4, 60), textcoords="offset points", ha="right", fontsize=9)
    waits.axvline(dies_s, color="#7e8a97", linewidth=0.8, linestyle=":")
    waits.annotate("a worker dies", (dies_s, 0), xytext=(4, 60), textcoords="offset points", fontsize=9)
    waits.set_xlim(0, simulation.FAILING["lasting_s"])
    waits.set_ylim(0)
    waits.legend(frameon=False)
    waits.set_title("polls that wait, in seconds of what comes in, simulated", loc="left", fontsize=10)
    waits.set_xlabel("seconds")
    for panel in (needs, waits):
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    # On white, so that it can be read on a dark page, too.
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)
