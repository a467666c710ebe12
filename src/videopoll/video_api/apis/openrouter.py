"""OpenRouter: many models behind one key, over a ``/v1/videos`` of its own."""

from __future__ import annotations

from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Callback, Certainty, Meaning, Signing
from videopoll.video_api.start import Start

__all__ = ["OPENROUTER"]

OPENROUTER: ApiDescription = ApiDescription(
    name="openrouter",
    base_url="https://openrouter.ai/api/v1",
    poll="{base}/videos/{id}",
    id="id",
    words={
        "pending": Meaning.WORKING,
        "in_progress": Meaning.WORKING,
        "completed": Meaning.DONE,
        "failed": Meaning.FAILED,
        "cancelled": Meaning.CANCELLED,
        "expired": Meaning.EXPIRED,
    },
    # The links of `unsigned_urls` answer 401 without the key; a newer page has signed ones.
    video=("urls[*]",),
    locked="{base}/videos/{id}/content",
    error=("error", "error.message"),
    start=Start(
        url="{base}/videos",
        body={
            "model": "{model}",
            "prompt": "{prompt}",
            "aspect_ratio": "{aspect_ratio}",
            "duration": "{duration}",
            "frame_images": [{"type": "image_url", "image_url": {"url": "{image}"}, "frame_type": "first_frame"}],
        },
        aspect_ratios=("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "9:21"),
        certainty=Certainty.READ,
    ),
    callback=Callback(signing=Signing.OPENROUTER, id="data.id", status="data.status"),
    strategy=PollingStrategy(interval_s=20, timeout_s=1200, max_attempts=60, initial_delay_s=10),
    source="OpenRouterTeam/docs, openapi.yaml; openrouter.ai/docs/api_reference/videos",
    checked="2026-11-25",
    certainty=Certainty.READ,
)
