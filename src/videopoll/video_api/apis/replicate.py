"""Replicate: predictions of any model; the output is a link or a list of links, by model."""

from __future__ import annotations

from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Callback, Certainty, Meaning, Signing
from videopoll.video_api.start import Start

__all__ = ["REPLICATE"]

REPLICATE: ApiDescription = ApiDescription(
    name="replicate",
    base_url="https://api.replicate.com/v1",
    poll="{base}/predictions/{id}",
    id="id",
    words={
        "starting": Meaning.WORKING,
        "processing": Meaning.WORKING,
        "succeeded": Meaning.DONE,
        "failed": Meaning.FAILED,
        "canceled": Meaning.CANCELLED,
        # Its deadline was over before it started.
        "aborted": Meaning.EXPIRED,
    },
    video=("output", "output[*]", "output.video", "output.url"),
    lifetime_s=3600,
    error="error",
    key_variable="REPLICATE_API_TOKEN",
    # Without a header "Prefer" it answers at once. Further inputs are by model.
    start=Start(
        url="{base}/models/{model}/predictions",
        body={
            "input": {
                "prompt": "{prompt}",
                "image": "{image}",
                "aspect_ratio": "{aspect_ratio}",
                "duration": "{duration}",
            }
        },
        aspect_ratios=("16:9", "9:16"),
        certainty=Certainty.SEEN,
    ),
    callback=Callback(signing=Signing.STANDARD_WEBHOOKS, id="id", status="status"),
    strategy=PollingStrategy(interval_s=5, timeout_s=1800, max_attempts=360, initial_delay_s=5),
    source="replicate/replicate-python; replicate.com/docs/topics/predictions/lifecycle; for starts vercel/ai, replicate",
    checked="2026-11-25",
    certainty=Certainty.READ,
)
