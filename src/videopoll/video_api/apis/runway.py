"""Runway. Its links live a day or two, and asking again gives fresh ones."""

from __future__ import annotations

from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Certainty, Meaning
from videopoll.video_api.start import Start

__all__ = ["RUNWAY"]

_RATIOS = {"16:9": "1280:720", "9:16": "720:1280"}
_DEFAULTS: dict[str, str | int] = {"aspect_ratio": "16:9", "duration": 6}
"""Its newest own model wants a duration, and 6 s is one that each of its models makes."""

_SHEDS_LOAD = frozenset({429, 502, 503, 504})
"""Its makers say that a request answered so may be made again."""

RUNWAY: ApiDescription = ApiDescription(
    name="runway",
    base_url="https://api.dev.runwayml.com/v1",
    poll="{base}/tasks/{id}",
    headers={"X-Runway-Version": "2024-11-06"},
    id="id",
    words={
        "pending": Meaning.WORKING,
        "throttled": Meaning.WORKING,
        "running": Meaning.WORKING,
        "succeeded": Meaning.DONE,
        "failed": Meaning.FAILED,
        "cancelled": Meaning.CANCELLED,
    },
    video="output[*]",
    lifetime_s=86_400,
    refreshable=True,
    error=("failure", "error"),
    code="failureCode",
    codes={"SAFETY.": Meaning.MODERATED},
    progress="progress",
    progress_scale=1.0,
    key_variable="RUNWAYML_API_SECRET",
    start=Start(
        url="{base}/text_to_video",
        body={"model": "{model}", "promptText": "{prompt}", "ratio": "{aspect_ratio}", "duration": "{duration}"},
        aspect_ratios=_RATIOS,
        defaults=_DEFAULTS,
        starts_nothing=_SHEDS_LOAD,
        certainty=Certainty.READ,
        with_image=Start(
            url="{base}/image_to_video",
            body={
                "model": "{model}",
                "promptText": "{prompt}",
                "promptImage": "{image}",
                "ratio": "{aspect_ratio}",
                "duration": "{duration}",
            },
            aspect_ratios=_RATIOS,
            defaults=_DEFAULTS,
            starts_nothing=_SHEDS_LOAD,
            certainty=Certainty.READ,
        ),
    ),
    strategy=PollingStrategy(interval_s=6, timeout_s=600, max_attempts=100, initial_delay_s=6),
    source="runwayml/openapi; runwayml/sdk-python; docs.dev.runwayml.com/errors",
    checked="2026-11-25",
    certainty=Certainty.READ,
)
