"""MiniMax, version 2 of its API: Hailuo."""

from __future__ import annotations

from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Certainty, Meaning

__all__ = ["MINIMAX"]

MINIMAX: ApiDescription = ApiDescription(
    name="minimax",
    base_url="https://api.minimax.io",
    poll="{base}/v2/query/video_generation/{id}",
    status=("task.status", "status"),
    words={
        "queued": Meaning.WORKING,
        "running": Meaning.WORKING,
        "succeeded": Meaning.DONE,
        "failed": Meaning.FAILED,
        "cancelled": Meaning.CANCELLED,
        "expired": Meaning.EXPIRED,
    },
    video="task.content.url",
    error=("task.error.message", "error.message"),
    code=("task.error.code", "error.type"),
    refreshable=True,
    strategy=PollingStrategy(interval_s=10, timeout_s=900, max_attempts=90, initial_delay_s=10),
    source="platform.minimax.io and platform.minimaxi.com, video generation v2; vercel/ai, minimax",
    checked="2026-11-25",
    certainty=Certainty.READ,
)
