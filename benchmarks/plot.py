"""Draws the throughput of all contenders, for the docs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

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
