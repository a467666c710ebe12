"""The answers of the tool to the model, as pure functions.

No answer quotes the video API or an exception.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

from videopoll.jobs.codec import JsonValue
from videopoll.video_api.generation import (
    GenerationErrorCode,
    GenerationFinished,
    GenerationStarted,
    ModelChoice,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["IN_PROGRESS", "Answer", "error_answer", "finished_answer", "started_answer"]

Answer: TypeAlias = "dict[str, JsonValue]"
"""An answer of the tool to the model, ready for JSON."""

STARTED_POLLING = "Job enqueued for background polling - you will receive the video when ready"
NOT_FOLLOWED = "Job could not be enqueued - the video cannot be followed automatically"

_Code = GenerationErrorCode

SAID: Mapping[GenerationErrorCode, tuple[str, str]] = {
    _Code.INVALID_REQUEST: (
        "The video API refused the request",
        "The video was not started: the video service refused this request. Offer the user to describe it differently.",
    ),
    _Code.AUTHENTICATION_ERROR: (
        "The video API refused our credentials",
        "The video was not started: the video service cannot be used at the moment. Trying again does not help.",
    ),
    _Code.FILE_TOO_LARGE: (
        "The image is too large",
        "The video was not started: the image is too large (25 MB at most). Ask the user for a smaller one.",
    ),
    _Code.RATE_LIMITED: (
        "Too many videos are being started",
        "The video was not started: too many videos are being made right now. The user can try again in a minute.",
    ),
    _Code.SERVICE_UNAVAILABLE: (
        "The video API is not available",
        "The video was not started: the video service is not available right now. The user can try again later.",
    ),
    _Code.TIMEOUT: (
        "The video API did not answer in time",
        "The video was not started: the video service did not answer in time. The user can try again later.",
    ),
    _Code.CONNECTION_ERROR: (
        "The video API cannot be reached",
        "The video was not started: the video service cannot be reached right now. The user can try again later.",
    ),
    _Code.API_ERROR: (
        "The video API answered with an error",
        "The video was not started: the video service answered with an error. The user can try again later.",
    ),
    _Code.TOOL_ERROR: (
        "The tool failed",
        "The video was not started: there is a problem on our side. Trying again at once does not help.",
    ),
}

_MAYBE_STARTED = (
    "It is not known whether the video was started: it may be in the making, but it cannot be delivered automatically."
    " Do not call the tool again by yourself: tell the user, and start it again only if the user asks for it."
)

IN_PROGRESS = (
    "This very call was made before, and its answer is not known yet: the video may have been started. Do not call the"
    " tool again by yourself; if it was started, the user gets the video when it is ready."
)


def error_answer(
    code: GenerationErrorCode,
    *,
    error: str | None = None,
    message: str | None = None,
    may_have_started: bool = False,
    retries: int = 0,
) -> Answer:
    """Return the answer for a failure; `error` and `message` replace the default texts of the code."""
    said = SAID[code]
    return {
        "success": False,
        "error": error or said[0],
        "error_code": code.value,
        "message": message or (_MAYBE_STARTED if may_have_started else said[1]),
        "may_have_started": may_have_started,
        "retries_used": retries,
    }


def _details(choice: ModelChoice, retries: int) -> Answer:
    return {
        "model_used": choice.model,
        "version_used": choice.version,
        "aspect_ratio": choice.aspect_ratio,
        "model_selection_reason": choice.reason,
        "auto_switch_applied": choice.switched,
        "retries_used": retries,
    }


def started_answer(result: GenerationStarted, choice: ModelChoice, *, followed: bool) -> Answer:
    """Return the answer for a started video; `followed` is whether its job was enqueued for delivery."""
    # How long it takes is known of the one API that is not described.
    takes = "1 to 2 minutes" if result.provider is None else "a few minutes"
    if followed:
        message = f"The video is being made and takes {takes}. The user gets it in this chat as soon as it is ready."
    else:
        message = (
            "The video is being made, but it cannot be followed automatically, so the user may not get it in this chat."
            " Tell the user, and do not start it again by yourself."
        )
    return {
        "success": True,
        "message": message,
        "job_id": result.job_id,
        # Built from the checked id: what the API writes here is not ours to trust.
        "status_url": f"/job/{quote(result.job_id, safe='')}",
        "polling_status": STARTED_POLLING if followed else NOT_FOLLOWED,
        "processing_mode": "async",
        "video_url": None,
        "estimated_time": takes.replace(" to ", "-"),
        **_details(choice, result.retries),
    }


def finished_answer(result: GenerationFinished, choice: ModelChoice) -> Answer:
    """Return the answer for a finished video, with its link."""
    return {
        "success": True,
        "message": "The video is ready: give the user its link.",
        "processing_mode": "sync",
        "video_url": result.video_url,
        "download_url": result.video_url,
        **_details(choice, result.retries),
    }
