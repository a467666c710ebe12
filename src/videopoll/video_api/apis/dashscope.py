"""Alibaba's DashScope: Wan and HappyHorse. A key belongs to one region, and so does the address."""

from __future__ import annotations

from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Certainty, Meaning

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
    strategy=PollingStrategy(interval_s=10, timeout_s=1200, max_attempts=120, initial_delay_s=10),
    source="dashscope/dashscope-sdk-python; alibabacloud.com/help/doc-detail/3029820.html",
    checked="2026-11-25",
    certainty=Certainty.READ,
)
