"""The poller that ships with videopoll: what to ask the video API, and what its answers mean.

Two pure functions own all of that knowledge: `build_request` writes the request
for a job, and `read_reply` turns whatever comes back, however hostile, into an
`Observation`. `VideoApiPoller` only carries requests between them.
"""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar, Literal
from urllib.parse import quote

import attrs

from videopoll._http import NOT_JSON, HttpFailure, HttpReply, HttpRequest, retry_after_s
from videopoll._http.answerer import whose_words
from videopoll._reasons import Reason, own, shown_word
from videopoll.jobs.bounds import MAX_ID_OF_OTHERS_CHARS, time_or_none
from videopoll.jobs.urls import readied_url
from videopoll.observations import (
    MAX_WORD_CHARS,
    NO_URL,
    Fault,
    FaultKind,
    Observation,
    VideoFailed,
    VideoMissing,
    VideoWorking,
    checked_video,
)
from videopoll.video_api.client import DEFAULT_BASE_URL, VideoApiClient, api_headers
from videopoll.video_api.operation import job_of_another
from videopoll.video_api.replies import (
    BETWEEN_WORDS,
    FAULTS,
    NO_REASON,
    clean_text,
    fault_of,
    printable,
    says_something_of_a_job,
    without_key,
)

if TYPE_CHECKING:
    import httpx

    from videopoll.jobs.codec import JsonValue
    from videopoll.jobs.job import VideoJob

__all__ = ["VideoApiPoller", "build_request", "read_reply"]

_WORKING = frozenset({"processing", "queued"})

_END_TIMES = tuple(
    name
    for end in ("completed", "failed", "finished", "ended", "canceled", "cancelled", "aborted", "expired")
    for name in (f"{end}At", f"{end}_at")
)
"""Fields that say when a job ended."""

_NEEDS_NO_QUOTING = re.compile(r"[A-Za-z0-9_~-]+")
"""Almost every id: it is the same in a URL."""


def build_request(base_url: str, api_key: str, job_id: str, timeout_s: float) -> HttpRequest | VideoFailed:
    """Write the request that asks for a job's status.

    Every character of the id that means something in a URL is percent-encoded.
    An id that no URL can carry gives `VideoFailed`: it could never be asked for.
    """
    if not job_id.strip("."):
        return VideoFailed(own("the job id cannot be asked for: it is empty or consists of dots"))
    try:
        name = job_id if _NEEDS_NO_QUOTING.fullmatch(job_id) else quote(job_id, safe="")
    except UnicodeEncodeError:
        return VideoFailed(own("the job id cannot be asked for: it is not valid Unicode"))
    return HttpRequest(
        method="GET",
        url=f"{base_url}/job/{name}",
        headers=api_headers(api_key),
        timeout_s=timeout_s,
    )


def read_reply(job_id: str, reply: HttpReply | HttpFailure, now_s: float) -> Observation:
    """Return what a reply, or the lack of one, means for the job. Never raises.

    Args:
        job_id: The job that was asked for; an answer about another one is malformed.
        reply: What came back.
        now_s: The time in Unix seconds, for a ``Retry-After`` that is a date.
    """
    if isinstance(reply, HttpFailure):
        return Fault(FAULTS[reply.kind], own(reply.detail))
    wait_s = retry_after_s(reply.headers, now_s)
    name = f"HTTP {reply.status}"
    if reply.is_success:
        return _read_body(job_id, reply, name, wait_s)
    if reply.status in {HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST, HTTPStatus.GONE}:
        return _read_refusal(job_id, reply, name, wait_s)
    return fault_of(reply, wait_s)


def _read_refusal(job_id: str, reply: HttpReply, name: str, wait_s: float | None) -> Observation:
    if not says_something_of_a_job(reply, job_id, _named(reply)):
        # A proxy's, or a router's in front of an API that is being deployed: it knows nothing of the job.
        detail = f"{name} in other words than the video API's: {whose_words(reply)}"
        return Fault(FaultKind.SERVER, own(detail), wait_s)
    if reply.status == HTTPStatus.NOT_FOUND:
        return VideoMissing()
    return VideoFailed(_error_text(reply.json(), name) or own(f"the video API refused the job ({name})"))


def _named(reply: HttpReply) -> str | None:
    body = reply.json()
    named = body.get("jobId") if isinstance(body, dict) else None
    return None if named is None else str(named)


def _read_body(job_id: str, reply: HttpReply, name: str, wait_s: float | None) -> Observation:
    if not reply.body.strip(b"\xef\xbb\xbf \t\r\n"):
        # Accepted, and nothing to say yet.
        return VideoWorking(retry_after_s=wait_s)
    body = reply.json()
    if body is NOT_JSON:
        return Fault(FaultKind.MALFORMED, own(f"{name}: not JSON, {whose_words(reply)}"), wait_s)
    if not isinstance(body, dict):
        return Fault(FaultKind.MALFORMED, own(f"{name}: not a JSON object"), wait_s)
    if _names_another(body.get("jobId"), job_id):
        return Fault(FaultKind.MALFORMED, own(f"{name}: the answer names another job"), wait_s)
    status = body.get("status")
    word = printable(status, MAX_WORD_CHARS) if isinstance(status, str) else ""
    if not word:
        if reply.status == HTTPStatus.ACCEPTED:
            return VideoWorking(retry_after_s=wait_s)
        return Fault(FaultKind.MALFORMED, own(f"{name}: the answer has no status"), wait_s)
    return _read_status(body, word, wait_s)


def _read_status(body: dict[str, JsonValue], word: str, wait_s: float | None) -> Observation:
    match BETWEEN_WORDS.sub("_", word.lower()):
        case "completed":
            return _read_video(body, word, wait_s)
        case "failed":
            return VideoFailed(_error_text(body) or own(NO_REASON))
        case "not_found":
            return VideoMissing()
        case lowered if lowered in _WORKING:
            return VideoWorking(word, known=True, retry_after_s=wait_s)
        case _ if _is_over(body):
            return _read_end(body, word)
        case _:
            return VideoWorking(word, known=False, retry_after_s=wait_s)


def _names_another(named: JsonValue, job_id: str) -> bool:
    # An id of digits may come as a number.
    if isinstance(named, bool) or not isinstance(named, str | int):
        return False
    return str(named).strip() not in {"", job_id}


def _is_over(body: dict[str, JsonValue]) -> bool:
    """Whether an answer whose word we do not know says in another field that the job is over: an error, or an end time."""
    return _has_error(body.get("error")) or any(time_or_none(body.get(name)) for name in _END_TIMES)


def _has_error(error: JsonValue) -> bool:
    return bool(error.strip()) if isinstance(error, str) else bool(error)


def _read_end(body: dict[str, JsonValue], word: str) -> Observation:
    """Read how a job ended whose last word we do not know."""
    if not _has_error(body.get("error")) and isinstance(readied_url(body.get("videoUrl")), str):
        return _read_video(body, word, None)
    said = f"it ended with a status word that we do not know: {shown_word(word)}"
    return VideoFailed(_error_text(body, said) or own(said))


def _read_video(body: dict[str, JsonValue], word: str, wait_s: float | None) -> Observation:
    file_id = body.get("fileId")
    times = (time_or_none(body.get(name)) for name in ("timestamp", "completedAt"))
    video = checked_video(
        body.get("videoUrl"),
        word=word,
        error=_error_text(body, NO_URL),
        file_id=printable(file_id, MAX_ID_OF_OTHERS_CHARS) or None if isinstance(file_id, str) else None,
        timestamp=next((time for time in times if time is not None), None),
    )
    return attrs.evolve(video, retry_after_s=wait_s) if isinstance(video, VideoWorking) else video


def _error_text(body: object, told: str = "") -> Reason | None:
    """Return the API's own reason, of which nothing but `told` may be shown where nobody asked for it."""
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    if isinstance(error, dict):
        error = error.get("message")
    texts = (clean_text(text, told) for text in (error, body.get("message")) if isinstance(text, str))
    return next((text for text in texts if text is not None), None)


class VideoApiPoller(VideoApiClient):
    """Asks the video API about jobs, in threads (`poll`) and under asyncio (`apoll`).

    One poller may be shared by any number of threads and event loops. It opens
    connections when they are first needed.

    Args:
        base_url: Where the API is, http or https, with a path in front if there is one.
        api_key: Sent as ``X-API-Key``. Kept out of ``repr`` and of error texts.
        client: The host's httpx client for `poll`, with its own hooks, proxies and
            certificates; it is never closed here. By default, connections of our own.
        async_client: The same for `apoll`.
        max_connections: Connections open at most, for threads and for each event loop.
            A runner opens no more than its `concurrency`.
        transport: What carries `apoll` without `async_client`: ``"aiohttp"`` (the
            extra ``fast``), ``"httpx"``, or ``"auto"``: aiohttp if it is installed.

    Raises:
        ConfigurationError: A value cannot work, or the environment names a proxy or
            certificates that cannot be used; the text says what to change.
    """

    keeps_time: ClassVar[bool] = True
    """Whether `apoll` ends within its time by itself, so that `AsyncRunner` sets no time limit around it.

    A poller of a host's own may have this, too. A subclass with an `apoll` of its own has to say it anew.
    """

    def __init_subclass__(cls) -> None:
        if "apoll" in vars(cls) and "keeps_time" not in vars(cls):
            cls.keeps_time = False

    def __init__(
        self,
        *,
        base_url: str = DEFAULT_BASE_URL,
        api_key: str,
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        max_connections: int = 1000,
        transport: Literal["auto", "httpx", "aiohttp"] = "auto",
    ) -> None:
        super().__init__(
            base_url=base_url,
            api_key=api_key,
            client=client,
            async_client=async_client,
            max_connections=max_connections,
            transport=transport,
        )

    def poll(self, job: VideoJob, *, timeout_s: float) -> Observation:
        """Ask about `job` once, within `timeout_s` seconds."""
        request = self._request(job, timeout_s)
        if not isinstance(request, HttpRequest):
            return request
        return without_key(read_reply(job.job_id, self._http.send(request), time.time()), self._api_key)

    async def apoll(self, job: VideoJob, *, timeout_s: float) -> Observation:
        """Ask about `job` once, within `timeout_s` seconds."""
        request = self._request(job, timeout_s)
        if not isinstance(request, HttpRequest):
            return request
        return without_key(read_reply(job.job_id, await self._http.asend(request), time.time()), self._api_key)

    def _request(self, job: VideoJob, timeout_s: float) -> HttpRequest | Observation:
        stranger = job_of_another(job, None)
        return stranger or build_request(self._base_url, self._api_key, job.job_id, timeout_s)
