"""What a poll needs to know of a job besides its name: the id that the API knows, and what came with the start.

It travels in the job's metadata, as ``provider`` and ``operation``. Pure functions.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from videopoll._reasons import own, shown_name
from videopoll.jobs.job import MAX_ID_CHARS
from videopoll.jobs.video import FailureReason
from videopoll.observations import VideoFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from videopoll.jobs.codec import JsonValue
    from videopoll.jobs.job import VideoJob

__all__ = ["api_id_of", "job_id_of", "operation_of"]


def job_id_of(provider: str, api_id: str) -> str:
    """Return the id under which videopoll keeps a provider's job: ids that are equal at two providers are two jobs.

    Args:
        provider: The name of the API's description.
        api_id: The id that the API gave.
    """
    job_id = f"{provider}:{api_id}"
    if len(job_id) <= MAX_ID_CHARS:
        return job_id
    return f"{provider}:{hashlib.sha256(api_id.encode('utf-8', 'surrogatepass')).hexdigest()}"


def operation_of(job: VideoJob) -> Mapping[str, JsonValue]:
    """Return what came with the start of a job; empty where nothing did. Its values are not checked."""
    operation = job.metadata.get("operation")
    return operation if isinstance(operation, dict) else {}


def api_id_of(job: VideoJob) -> str:
    """Return the id that the API knows: that of the job's operation, or else the job's own."""
    api_id = operation_of(job).get("id")
    return api_id if isinstance(api_id, str) and api_id else job.job_id


def job_of_another(job: VideoJob, name: str | None) -> VideoFailed | None:
    """Return what it comes to that a job was started at another described API than the one that is to be asked.

    That one would say that there is no such job, or answer about somebody else's of the same
    id. It fails for its user, and becomes a dead letter: the video may have been paid for.

    Args:
        job: The job. One that is not named after a provider, as `job_id_of` does it, may be anybody's.
        name: The name of the API's description; None for one that has none.
    """
    provider = job.metadata.get("provider")
    if provider == name or not isinstance(provider, str):
        return None
    api_id = operation_of(job).get("id")
    if not isinstance(api_id, str) or job.job_id != job_id_of(provider, api_id):
        return None
    told = own(f"the job was started at the video API {shown_name(provider)}, and this worker asks {name or 'another'}")
    return VideoFailed(told, reason=FailureReason.NOT_CONFIGURED)
