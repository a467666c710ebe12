"""Video APIs: their pollers, their generators, and their descriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from videopoll._lazy import export

if TYPE_CHECKING:
    from videopoll._http import HttpReply, HttpRequest
    from videopoll.video_api.capabilities import Capabilities
    from videopoll.video_api.client import ApiHealth
    from videopoll.video_api.description import ApiDescription, Callback, Certainty, Meaning, Signing
    from videopoll.video_api.doorbell import Doorbell, Ring, RingResult
    from videopoll.video_api.generation import (
        AsyncVideoGenerator,
        Generation,
        GenerationErrorCode,
        GenerationFailed,
        GenerationFinished,
        GenerationRequest,
        GenerationStarted,
        GenerationUnknown,
        ModelChoice,
        VideoGenerator,
        choose_model,
    )
    from videopoll.video_api.generator import VideoApiGenerator
    from videopoll.video_api.http_generator import HttpVideoGenerator
    from videopoll.video_api.http_poller import HttpVideoPoller
    from videopoll.video_api.operation import api_id_of
    from videopoll.video_api.poller import VideoApiPoller
    from videopoll.video_api.routing_poller import RoutingPoller
    from videopoll.video_api.start import Start
else:
    __getattr__, __dir__ = export(
        __name__,
        {
            "videopoll._http": "HttpReply HttpRequest",
            "videopoll.video_api.capabilities": "Capabilities",
            "videopoll.video_api.client": "ApiHealth",
            "videopoll.video_api.description": "ApiDescription Callback Certainty Meaning Signing",
            "videopoll.video_api.doorbell": "Doorbell Ring RingResult",
            "videopoll.video_api.generation": "AsyncVideoGenerator Generation GenerationErrorCode GenerationFailed GenerationFinished GenerationRequest GenerationStarted GenerationUnknown ModelChoice VideoGenerator choose_model",
            "videopoll.video_api.generator": "VideoApiGenerator",
            "videopoll.video_api.http_generator": "HttpVideoGenerator",
            "videopoll.video_api.http_poller": "HttpVideoPoller",
            "videopoll.video_api.operation": "api_id_of",
            "videopoll.video_api.poller": "VideoApiPoller",
            "videopoll.video_api.routing_poller": "RoutingPoller",
            "videopoll.video_api.start": "Start",
        },
    )

__all__ = [
    "ApiDescription",
    "ApiHealth",
    "AsyncVideoGenerator",
    "Callback",
    "Capabilities",
    "Certainty",
    "Doorbell",
    "Generation",
    "GenerationErrorCode",
    "GenerationFailed",
    "GenerationFinished",
    "GenerationRequest",
    "GenerationStarted",
    "GenerationUnknown",
    "HttpReply",
    "HttpRequest",
    "HttpVideoGenerator",
    "HttpVideoPoller",
    "Meaning",
    "ModelChoice",
    "Ring",
    "RingResult",
    "RoutingPoller",
    "Signing",
    "Start",
    "VideoApiGenerator",
    "VideoApiPoller",
    "VideoGenerator",
    "api_id_of",
    "choose_model",
]
