"""The video API: its poller and its generator."""

from __future__ import annotations

from videopoll.video_api.client import ApiHealth
from videopoll.video_api.generator import (
    AsyncVideoGenerator,
    Generation,
    GenerationErrorCode,
    GenerationFailed,
    GenerationFinished,
    GenerationRequest,
    GenerationStarted,
    GenerationUnknown,
    ModelChoice,
    VideoApiGenerator,
    VideoGenerator,
    choose_model,
)
from videopoll.video_api.poller import VideoApiPoller

__all__ = [
    "ApiHealth",
    "AsyncVideoGenerator",
    "Generation",
    "GenerationErrorCode",
    "GenerationFailed",
    "GenerationFinished",
    "GenerationRequest",
    "GenerationStarted",
    "GenerationUnknown",
    "ModelChoice",
    "VideoApiGenerator",
    "VideoApiPoller",
    "VideoGenerator",
    "choose_model",
]
