"""HeyGen, version 3 of its API: avatars. Asking again gives a fresh link."""

from __future__ import annotations

from videopoll.jobs.video import AssetKind
from videopoll.policies import PollingStrategy
from videopoll.video_api.description import ApiDescription, Certainty, Meaning
from videopoll.video_api.start import Start

__all__ = ["HEYGEN"]

HEYGEN: ApiDescription = ApiDescription(
    name="heygen",
    base_url="https://api.heygen.com",
    poll="{base}/v3/videos/{id}",
    auth_header="X-Api-Key",
    auth_prefix="",
    status="data.status",
    words={
        "pending": Meaning.WORKING,
        "processing": Meaning.WORKING,
        "queued": Meaning.WORKING,
        "completed": Meaning.DONE,
        "failed": Meaning.FAILED,
        "not_found": Meaning.MISSING,
    },
    video="data.video_url",
    others={
        "data.thumbnail_url": AssetKind.THUMBNAIL,
        "data.gif_url": AssetKind.PREVIEW,
        "data.captioned_video_url": AssetKind.CAPTIONED,
        "data.subtitle_url": AssetKind.SUBTITLES,
    },
    refreshable=True,
    error=("data.failure_message", "error.message", "message"),
    code="data.failure_code",
    # By its agent, which writes and cuts; a picture is material for it. Videos of one avatar need more than a prompt.
    start=Start(
        url="{base}/v3/video-agents",
        body={
            "prompt": "{prompt}",
            "mode": "generate",
            "orientation": "{aspect_ratio}",
            "files": [{"type": "url", "url": "{image}"}],
        },
        aspect_ratios={"16:9": "landscape", "9:16": "portrait"},
        id="data.video_id",
        certainty=Certainty.READ,
    ),
    strategy=PollingStrategy(interval_s=10, timeout_s=1800, max_attempts=180, initial_delay_s=15),
    source="heygen-com/heygen-cli; developers.heygen.com",
    checked="2026-11-25",
    certainty=Certainty.READ,
)
