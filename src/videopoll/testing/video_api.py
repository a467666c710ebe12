"""A video API that makes no videos, and fails on demand."""

from __future__ import annotations

import hmac
import itertools
import time
import urllib.parse
from http import HTTPStatus
from typing import TYPE_CHECKING

import attrs
from typing_extensions import override

from videopoll.jobs.checks import check_count, check_flags, check_seconds, check_texts
from videopoll.testing.servers import FakeServer, ReceivedRequest, Reply, check_replies

if TYPE_CHECKING:
    from collections.abc import Mapping

    from videopoll.jobs.codec import JsonValue

__all__ = ["FakeVideoApi"]

_MAX_PROMPT_CHARS = 1255
_MAX_NEGATIVE_PROMPT_CHARS = 500
_MODELS = {2: "veo-2.0-generate-001", 3: "veo-3.0-generate-preview"}
_ASPECT_RATIOS = {2: ("16:9", "9:16"), 3: ("16:9",)}


@attrs.define
class _Job:
    """One job's script and what was asked about it."""

    replies: list[Reply]
    lives: bool  # whether it grows up once the replies are used, or repeats the last of them
    end: Reply
    ready_after_s: float | None
    ready_after_polls: int | None
    started: float | None
    polls: list[float] = attrs.field(factory=list)

    def next_reply(self, now: float) -> Reply:
        """Record a poll, and return its answer."""
        if self.started is None:
            self.started = now
        self.polls.append(now)
        number = len(self.polls)
        if number <= len(self.replies):
            return self.replies[number - 1]
        if not self.lives:
            return self.replies[-1]
        polls_of_life = number - len(self.replies)
        by_time = self.ready_after_s is not None and now - self.started >= self.ready_after_s
        by_polls = self.ready_after_polls is not None and polls_of_life > self.ready_after_polls
        return self.end if by_time or by_polls else Reply.processing()


class FakeVideoApi(FakeServer):
    """A video API over real HTTP whose jobs end as you say.

    ::

        with FakeVideoApi(api_key="secret") as api:
            api.job("job_1", Reply.processing(), Reply.fault(503), Reply.completed())
            api.job("job_2", end=Reply.failed("bad prompt"), ready_after_s=3)

    A job that was not announced says ``processing`` until it is ready, and then
    ``completed`` with a made-up URL.

    Args:
        api_key: The key that every call but ``/health`` has to bring; None asks for none.
        ready_after_s: Seconds from a job's creation, or else from its first
            poll, until it is ready.
        ready_after_polls: How many polls find a job still at work. With neither
            of the two given it is 1; with both, whichever comes first.
        strict: Answer 404 for jobs that were neither announced nor generated here.
        port: The port on 127.0.0.1; None chooses a free one.
        latency_s: Seconds that every answer takes.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        ready_after_s: float | None = None,
        ready_after_polls: int | None = None,
        strict: bool = False,
        port: int | None = None,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(port=port, latency_s=latency_s)
        check_texts("FakeVideoApi", api_key=api_key)
        check_flags("FakeVideoApi", strict=strict)
        if ready_after_s is not None:
            check_seconds("FakeVideoApi.ready_after_s", ready_after_s, low=0)
        if ready_after_polls is not None:
            check_count("FakeVideoApi.ready_after_polls", ready_after_polls, low=0)
        self._api_key = api_key
        self._ready_after_s = ready_after_s
        self._ready_after_polls = 1 if ready_after_s is None and ready_after_polls is None else ready_after_polls
        self._strict = strict
        self._jobs: dict[str, _Job] = {}
        self._generated: list[str] = []
        self._serial = itertools.count(1)

    @property
    def api_key(self) -> str | None:
        """The key that calls have to bring. Assign to it to rotate the key."""
        return self._api_key

    @api_key.setter
    def api_key(self, value: str | None) -> None:
        self._api_key = value

    @property
    def generated(self) -> list[str]:
        """The ids of the jobs that ``POST /generate-video`` started, in order: each one cost money."""
        with self._lock:
            return list(self._generated)

    def job(
        self,
        job_id: str,
        *replies: Reply,
        end: Reply | None = None,
        ready_after_s: float | None = None,
        ready_after_polls: int | None = None,
    ) -> None:
        """Set how a job answers its polls; a second call replaces its script.

        Args:
            job_id: The job. What `polls` remembers of it starts anew, too.
            replies: What the first polls get, one each. If nothing else is given, the last is then repeated.
            end: What a job that is ready answers; a made-up video if not given.
            ready_after_s: Seconds from the first poll until it is ready.
            ready_after_polls: How many polls, after `replies`, find it still at work.
        """
        lives = not replies or end is not None or ready_after_s is not None or ready_after_polls is not None
        check_replies([*replies, end])
        with self._lock:
            job = self._new_job(started=None)
            job.replies = list(replies)
            job.lives = lives
            job.end = end if end is not None else Reply.completed()
            if ready_after_s is not None or ready_after_polls is not None:
                job.ready_after_s = ready_after_s
                job.ready_after_polls = ready_after_polls
            self._jobs[job_id] = job

    def polls(self, job_id: str) -> list[float]:
        """When the job was asked about, by ``time.monotonic()``.

        Polls that met with programmed trouble (`fail_next` and the like) or a
        wrong key are in `requests` only.
        """
        with self._lock:
            job = self._jobs.get(job_id)
            return list(job.polls) if job is not None else []

    def video_url(self, job_id: str) -> str:
        """The made-up URL of a job's video. Nothing is there."""
        return f"{self.url}/file/{urllib.parse.quote(job_id, safe='')}.mp4"

    @override
    def _handle(self, request: ReceivedRequest) -> Reply:
        path = urllib.parse.urlsplit(request.target).path
        if request.method == "GET" and path == "/health":
            return Reply.json({"status": "ok"})
        if not self._has_key(request.headers):
            return Reply.json({"error": "Invalid API key"}, status=HTTPStatus.UNAUTHORIZED)
        if request.method == "POST" and path == "/generate-video":
            return self._generate(request.body)
        # Split before decoding: an encoded slash belongs to the id.
        parts = path.split("/")
        if request.method == "GET" and len(parts) == 3 and parts[1] == "job":  # noqa: PLR2004 - "", "job", the id
            return self._poll(urllib.parse.unquote(parts[2]), request.at)
        return Reply.json({"error": "Not found"}, status=HTTPStatus.NOT_FOUND)

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        if self._api_key is None:
            return True
        given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self._api_key.encode())

    def _new_job(self, *, started: float | None) -> _Job:
        return _Job([], True, Reply.completed(), self._ready_after_s, self._ready_after_polls, started)  # noqa: FBT003

    def _poll(self, job_id: str, now: float) -> Reply:
        job = self._jobs.get(job_id)
        if job is None:
            if self._strict:
                return Reply.vanished()
            job = self._jobs[job_id] = self._new_job(started=None)
        reply = job.next_reply(now)
        if not reply.fill or not isinstance(reply.body, dict):
            return reply
        body: dict[str, JsonValue] = {"jobId": job_id, "timestamp": _iso_now(), **reply.body}
        if body.get("status") == "completed":
            body.setdefault("videoUrl", self.video_url(job_id))
            body.setdefault("fileId", f"file_{job_id}")
            body.setdefault("completedAt", _iso_now())
        return attrs.evolve(reply, body=body)

    def _generate(self, body: Mapping[str, JsonValue]) -> Reply:
        version = body.get("version", 2)
        wrong = _what_is_wrong(body, version)
        if wrong is not None:
            return Reply.json({"error": wrong}, status=HTTPStatus.BAD_REQUEST)
        job_id = f"job_{time.time_ns() // 1_000_000}_{next(self._serial):09d}"
        self._generated.append(job_id)
        if body.get("mode", "sync") == "sync":
            return Reply.json(
                {"videoUrl": self.video_url(job_id), "fileId": f"file_{job_id}", "status": "completed", "mode": "sync"}
            )
        self._jobs[job_id] = self._new_job(started=time.monotonic())
        return Reply.json(
            {
                "jobId": job_id,
                "status": "processing",
                "mode": "async",
                "message": "Video generation started",
                "statusUrl": f"/job/{job_id}",
                "details": {"version": version, "aspectRatio": body.get("aspectRatio", "16:9")},
            }
        )


def _what_is_wrong(body: Mapping[str, JsonValue], version: JsonValue) -> str | None:
    """Return why the API would refuse to generate this, or None."""
    prompt, negative = body.get("prompt"), body.get("negativePrompt")
    if not isinstance(prompt, str) or not prompt.strip():
        return "prompt is required"
    if len(prompt) > _MAX_PROMPT_CHARS:
        return f"prompt is longer than {_MAX_PROMPT_CHARS} characters"
    if negative is not None and (not isinstance(negative, str) or len(negative) > _MAX_NEGATIVE_PROMPT_CHARS):
        return f"negativePrompt is longer than {_MAX_NEGATIVE_PROMPT_CHARS} characters"
    if body.get("mode", "sync") not in {"async", "sync"}:
        return "mode must be async or sync"
    if not isinstance(version, int) or version not in _MODELS:
        return "version must be 2 or 3"
    if body.get("model", _MODELS[version]) not in _MODELS.values():
        return "unknown model"
    if body.get("aspectRatio", "16:9") not in _ASPECT_RATIOS[version]:
        return f"aspectRatio must be one of {', '.join(_ASPECT_RATIOS[version])} with version {version}"
    return None


def _iso_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
