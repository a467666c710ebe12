"""ByteDance's ModelArk: Seedance."""

from __future__ import annotations

from videopoll.jobs.video import AssetKind
from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Certainty, Meaning
from videopoll.video_api.start import Start

__all__ = ["MODELARK"]

MODELARK: ApiDescription = ApiDescription(
    name="modelark",
    base_url="https://ark.ap-southeast.bytepluses.com/api/v3",
    poll="{base}/contents/generations/tasks/{id}",
    id="id",
    words={
        "queued": Meaning.WORKING,
        "running": Meaning.WORKING,
        "succeeded": Meaning.DONE,
        "failed": Meaning.FAILED,
        "cancelled": Meaning.CANCELLED,
        "expired": Meaning.EXPIRED,
    },
    video="content.video_url",
    others={"content.last_frame_url": AssetKind.LAST_FRAME},
    lifetime_s=86_400,
    code="error.code",
    codes={
        "InputTextSensitiveContentDetected": Meaning.MODERATED,
        "InputImageSensitiveContentDetected": Meaning.MODERATED,
        "OutputVideoSensitiveContentDetected": Meaning.MODERATED,
        "QuotaExceeded": Meaning.OUT_OF_CREDIT,
    },
    key_variable="ARK_API_KEY",
    start=Start(
        url="{base}/contents/generations/tasks",
        body={
            "model": "{model}",
            "content": [
                {"type": "text", "text": "{prompt}"},
                {"type": "image_url", "image_url": {"url": "{image}"}},
            ],
            "ratio": "{aspect_ratio}",
            "duration": "{duration}",
        },
        aspect_ratios=("16:9", "9:16"),
        certainty=Certainty.SEEN,
    ),
    strategy=PollingStrategy(interval_s=5, timeout_s=1200, max_attempts=240, initial_delay_s=5),
    source="volcengine/volcengine-python-sdk; TanStack/ai, ai-byteplus; for starts vercel/ai, bytedance",
    checked="2026-11-25",
    certainty=Certainty.SEEN,
)
