"""Luma Agents, the API that followed the Dream Machine's. Its links live an hour."""

from __future__ import annotations

from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Certainty, Meaning
from videopoll.video_api.start import Start

__all__ = ["LUMA"]

LUMA: ApiDescription = ApiDescription(
    name="luma",
    base_url="https://agents.lumalabs.ai/v1",
    poll="{base}/generations/{id}",
    id="id",
    status=("state", "status"),
    words={
        "queued": Meaning.WORKING,
        "processing": Meaning.WORKING,
        "completed": Meaning.DONE,
        "failed": Meaning.FAILED,
    },
    video="output[*].url",
    lifetime_s=3600,
    error="failure_reason",
    code="failure_code",
    codes={
        "content_moderated": Meaning.MODERATED,
        "budget_exhausted": Meaning.OUT_OF_CREDIT,
        "invalid_request": Meaning.REFUSED_INPUT,
        "corrupt_input": Meaning.REFUSED_INPUT,
    },
    key_variable="LUMA_AGENTS_API_KEY",
    start=Start(
        url="{base}/generations",
        body={
            "model": "{model}",
            "type": "video",
            "prompt": "{prompt}",
            "aspect_ratio": "{aspect_ratio}",
            "video": {"duration": "{duration}s", "start_frame": {"url": "{image}"}},
        },
        aspect_ratios=("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "2:1", "1:2", "3:1", "1:3"),
        certainty=Certainty.READ,
    ),
    strategy=PollingStrategy(interval_s=5, timeout_s=600, max_attempts=120, initial_delay_s=5),
    source="lumalabs/luma-agents-python",
    checked="2026-11-25",
    certainty=Certainty.READ,
)
