"""Alibaba's DashScope: Wan and HappyHorse. A key belongs to one region, and so does the address."""

from __future__ import annotations

from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Certainty, Meaning
from videopoll.video_api.start import Start

__all__ = ["DASHSCOPE"]

DASHSCOPE: ApiDescription = ApiDescription(
    name="dashscope",
    base_url="https://dashscope-intl.aliyuncs.com/api/v1",
    poll="{base}/tasks/{id}",
    id="output.task_id",
    status="output.task_status",
    words={
        "pending": Meaning.WORKING,
        "running": Meaning.WORKING,
        "suspended": Meaning.WORKING,
        "succeeded": Meaning.DONE,
        "failed": Meaning.FAILED,
        "canceled": Meaning.CANCELLED,
        "unknown": Meaning.MISSING,
    },
    video="output.video_url",
    lifetime_s=86_400,
    error=("output.message", "message"),
    code=("output.code", "code"),
    codes={"DataInspectionFailed": Meaning.MODERATED},
    start=Start(
        url="{base}/services/aigc/video-generation/video-synthesis",
        headers={"X-DashScope-Async": "enable"},
        body={
            "model": "{model}",
            "input": {"prompt": "{prompt}", "negative_prompt": "{negative_prompt}"},
            "parameters": {"size": "{aspect_ratio}", "duration": "{duration}"},
        },
        aspect_ratios={"16:9": "1280*720", "9:16": "720*1280"},
        id="output.task_id",
        certainty=Certainty.SEEN,
        # Wan's models for images; the picture has the format.
        with_image=Start(
            url="{base}/services/aigc/video-generation/video-synthesis",
            headers={"X-DashScope-Async": "enable"},
            body={
                "model": "{model}",
                "input": {"prompt": "{prompt}", "negative_prompt": "{negative_prompt}", "img_url": "{image}"},
                "parameters": {"duration": "{duration}"},
            },
            id="output.task_id",
            certainty=Certainty.SEEN,
        ),
    ),
    strategy=PollingStrategy(interval_s=10, timeout_s=1200, max_attempts=120, initial_delay_s=10),
    source="dashscope/dashscope-sdk-python; alibabacloud.com/help/doc-detail/3029820.html; for starts vercel/ai, alibaba",
    checked="2026-11-25",
    certainty=Certainty.READ,
)
