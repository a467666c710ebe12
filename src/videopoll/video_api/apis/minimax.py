"""MiniMax, version 2 of its API: Hailuo."""

from __future__ import annotations

from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Certainty, Meaning
from videopoll.video_api.start import Start

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
    # It wants a resolution and a duration.
    start=Start(
        url="{base}/v2/video_generation",
        body={
            "model": "{model}",
            "content": [{"type": "text", "text": "{prompt}"}],
            "resolution": "2K",
            "duration": "{duration}",
            "ratio": "{aspect_ratio}",
        },
        aspect_ratios=("16:9", "9:16"),
        defaults={"duration": 5},
        id="task_id",
        certainty=Certainty.SEEN,
        # The picture has the format.
        with_image=Start(
            url="{base}/v2/video_generation",
            body={
                "model": "{model}",
                "content": [
                    {"type": "text", "text": "{prompt}"},
                    {"type": "image_url", "image_url": {"url": "{image}"}, "role": "first_frame"},
                ],
                "resolution": "2K",
                "duration": "{duration}",
            },
            defaults={"duration": 5},
            id="task_id",
            certainty=Certainty.SEEN,
        ),
    ),
    strategy=PollingStrategy(interval_s=10, timeout_s=900, max_attempts=90, initial_delay_s=10),
    source="platform.minimax.io and platform.minimaxi.com, video generation v2; vercel/ai, minimax",
    checked="2026-11-25",
    certainty=Certainty.READ,
)
