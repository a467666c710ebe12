"""The video API: its poller and its generator."""

from __future__ import annotations

from videopoll._http import HttpReply, HttpRequest
from videopoll.video_api.client import ApiHealth
from videopoll.video_api.description import ApiDescription, Certainty, Meaning
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
from videopoll.video_api.http_poller import HttpVideoPoller
from videopoll.video_api.operation import api_id_of
from videopoll.video_api.poller import VideoApiPoller
from videopoll.video_api.routing_poller import RoutingPoller

__all__ = [
    "ApiDescription",
    "ApiHealth",
    "AsyncVideoGenerator",
    "Certainty",
    "Generation",
    "GenerationErrorCode",
    "GenerationFailed",
    "GenerationFinished",
    "GenerationRequest",
    "GenerationStarted",
    "GenerationUnknown",
    "HttpReply",
    "HttpRequest",
    "HttpVideoPoller",
    "Meaning",
    "ModelChoice",
    "RoutingPoller",
    "VideoApiGenerator",
    "VideoApiPoller",
    "VideoGenerator",
    "api_id_of",
    "choose_model",
]
