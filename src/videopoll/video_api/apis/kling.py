"""Kling, with its one Bearer key. A job is asked for where it was started: by text, by image."""

from __future__ import annotations

from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Certainty, Meaning
from videopoll.video_api.start import Start

__all__ = ["KLING"]

KLING: ApiDescription = ApiDescription(
    name="kling",
    base_url="https://api-singapore.klingai.com",
    # The job's operation has the path after /v1/videos, such as text2video or image2video.
    poll="{base}/v1/videos/{operation.kind}/{id}",
    id="data.task_id",
    status="data.task_status",
    words={
        "submitted": Meaning.WORKING,
        "processing": Meaning.WORKING,
        "succeed": Meaning.DONE,
        "failed": Meaning.FAILED,
    },
    video="data.task_result.videos[*].url",
    lifetime_s=30 * 86_400,
    error=("data.task_status_msg", "message"),
    # Its codes are not known: a 2xx without a task may have started one.
    start=Start(
        url="{base}/v1/videos/text2video",
        body={
            "model_name": "{model}",
            "prompt": "{prompt}",
            "negative_prompt": "{negative_prompt}",
            "aspect_ratio": "{aspect_ratio}",
            "duration": "{seconds}",
        },
        aspect_ratios=("16:9", "9:16"),
        id="data.task_id",
        constants={"kind": "text2video"},
        certainty=Certainty.SEEN,
        # The picture has the format.
        with_image=Start(
            url="{base}/v1/videos/image2video",
            body={
                "model_name": "{model}",
                "image": "{image}",
                "prompt": "{prompt}",
                "negative_prompt": "{negative_prompt}",
                "duration": "{seconds}",
            },
            id="data.task_id",
            constants={"kind": "image2video"},
            certainty=Certainty.SEEN,
        ),
    ),
    strategy=PollingStrategy(interval_s=10, timeout_s=1200, max_attempts=120, initial_delay_s=15),
    source="vercel/ai, klingai; ComfyUI's nodes for the average of 319 s",
    checked="2026-11-25",
    certainty=Certainty.SEEN,
)
