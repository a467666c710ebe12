"""fal: a queue in front of hundreds of models. Its status says that the queue is through, and no more."""

from __future__ import annotations

from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Callback, Certainty, Meaning, Signing
from videopoll.video_api.start import Start

__all__ = ["FAL"]

FAL: ApiDescription = ApiDescription(
    name="fal",
    base_url="https://queue.fal.run",
    # Its makers ask not to build these addresses: they come with the start of the job.
    poll="{operation.status_url}",
    follow="{operation.response_url}",
    auth_prefix="Key ",
    id="request_id",
    words={
        "in_queue": Meaning.WORKING,
        "in_progress": Meaning.WORKING,
        "completed": Meaning.DONE,
        "cancelled": Meaning.CANCELLED,
    },
    fails_if=("error", "error_type"),
    video=("video.url", "video_url", "videos[*].url"),
    error=("error", "detail[0].msg", "detail"),
    code=("error_type", "detail[0].type"),
    codes={"content_policy_violation": Meaning.MODERATED},
    queue_position="queue_position",
    key_variable="FAL_KEY",
    # Further fields are by model, the duration among them. A 503 of its ingress looks like one of an app.
    start=Start(
        url="{base}/{model}",
        body={
            "prompt": "{prompt}",
            "negative_prompt": "{negative_prompt}",
            "aspect_ratio": "{aspect_ratio}",
            "image_url": "{image}",
        },
        aspect_ratios=("16:9", "9:16"),
        id="request_id",
        operation={"status_url": "status_url", "response_url": "response_url"},
        certainty=Certainty.SEEN,
    ),
    # Of `request_id` and `gateway_request_id`, the one that the queue goes by.
    callback=Callback(signing=Signing.FAL, id="request_id", keys_url="https://rest.fal.ai/.well-known/jwks.json"),
    strategy=PollingStrategy(interval_s=5, timeout_s=900, max_attempts=180, initial_delay_s=5),
    source="fal-ai/fal, projects/fal_client; fal.ai/docs on errors and the queue; for starts vercel/ai, fal",
    checked="2026-11-25",
    certainty=Certainty.SEEN,
)
