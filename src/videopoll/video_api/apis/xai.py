"""xAI: Grok Imagine. While it works it answers 202, sometimes without a body."""

from __future__ import annotations

from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Certainty, Meaning
from videopoll.video_api.start import Start

__all__ = ["XAI"]

XAI: ApiDescription = ApiDescription(
    name="xai",
    base_url="https://api.x.ai/v1",
    poll="{base}/videos/{id}",
    words={
        "pending": Meaning.WORKING,
        "done": Meaning.DONE,
        "failed": Meaning.FAILED,
        "expired": Meaning.EXPIRED,
    },
    http={202: Meaning.WORKING},
    empty_means_working=True,
    video="video.url",
    rejected_if={"video.respect_moderation": False},
    lifetime_s=86_400,
    progress="progress",
    start=Start(
        url="{base}/videos/generations",
        body={
            "model": "{model}",
            "prompt": "{prompt}",
            "aspect_ratio": "{aspect_ratio}",
            "duration": "{duration}",
            "image": {"url": "{image}"},
        },
        aspect_ratios=("16:9", "9:16"),
        id="request_id",
        certainty=Certainty.SEEN,
    ),
    strategy=PollingStrategy(interval_s=5, timeout_s=600, max_attempts=120, initial_delay_s=5),
    source="xai-org/xai-sdk-python; for starts vercel/ai, xai",
    checked="2026-11-25",
    certainty=Certainty.READ,
)
