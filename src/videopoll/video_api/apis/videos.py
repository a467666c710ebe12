"""The ``/v1/videos`` dialect: OpenAI's own API is gone, and LiteLLM's proxy, vLLM-Omni and many gateways speak it."""

from __future__ import annotations

from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Certainty, Meaning
from videopoll.video_api.start import Start

__all__ = ["VIDEOS"]

VIDEOS: ApiDescription = ApiDescription(
    name="videos",
    base_url=None,
    poll="{base}/videos/{id}",
    id="id",
    words={
        "queued": Meaning.WORKING,
        "in_progress": Meaning.WORKING,
        "completed": Meaning.DONE,
        "failed": Meaning.FAILED,
        # Words that gateways add.
        "cancelled": Meaning.CANCELLED,
        "canceled": Meaning.CANCELLED,
        "expired": Meaning.EXPIRED,
    },
    # Some gateways add a link; without one the file is behind the key.
    video=("url", "video_url", "output.videos[0].url", "outputs.video_url"),
    locked="{base}/videos/{id}/content",
    ends_s="expires_at",
    code="error.code",
    codes={"moderation": Meaning.MODERATED, "content_policy": Meaning.MODERATED},
    progress="progress",
    # OpenAI's own asked for multipart/form-data, as vLLM-Omni does; most others take JSON.
    start=Start(
        url="{base}/videos",
        body={
            "model": "{model}",
            "prompt": "{prompt}",
            "size": "{aspect_ratio}",
            "seconds": "{seconds}",
            "input_reference": {"image_url": "{image}"},
        },
        aspect_ratios={"16:9": "1280x720", "9:16": "720x1280"},
        # Left to itself, OpenAI's makes upright videos.
        defaults={"aspect_ratio": "16:9"},
        certainty=Certainty.READ,
    ),
    strategy=PollingStrategy(interval_s=10, timeout_s=900, max_attempts=90, initial_delay_s=5),
    source="openai/openai-python, resources/videos.py and types/video.py",
    checked="2026-11-25",
    certainty=Certainty.READ,
)
