"""The other deployment: its producer and its worker, command for command, with threads.

They share Redis with videopoll during a migration. What they do, and in which
order, is written down in the contracts (§2); nothing here is better or worse
than that: locks are not renewed and are deleted whoever holds them, timers live
in memory only, an error of a send is swallowed. Only the times can be scaled.

A worker stops at named points: `ForeignWorker.crash` ends it there as a SIGKILL
would, and `ForeignWorker.at` runs something there, such as a wait.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import attrs
import httpx
import redis

from kit import API_KEY, FAST, INSTANCE, TOKEN, phone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from kit import World

POINTS = (
    "after_pop",
    "after_lock",
    "after_poll",
    "after_completed",
    "after_send",
    "after_cleanup",
    "after_recovered_record",
    "after_recovered_notice",
)
"""The places between two effects at which a worker can be stopped."""

_serial = itertools.count(1)


@attrs.frozen
class Pace:
    """The numbers of the deployment; the defaults are its own, `scaled` gives faster ones."""

    interval_s: float = 10.0
    timeout_s: float = 300.0
    max_attempts: int = 30
    initial_delay_s: float = 5.0
    backoff_base_s: float = 5.0
    backoff_cap_s: float = 60.0
    block_s: float = 15.0
    request_timeout_s: float = 15.0
    record_s: int = 600
    lock_s: int = 60
    attempts_s: int = 600
    completed_s: int = 7200

    @classmethod
    def scaled(cls, **changes: Any) -> Pace:
        """Give the pace of `kit.FAST`; the keys live as long as in production."""
        fast: dict[str, Any] = {
            "interval_s": FAST.interval_s,
            "timeout_s": FAST.timeout_s,
            "max_attempts": FAST.max_attempts,
            "initial_delay_s": FAST.initial_delay_s,
            "backoff_base_s": FAST.backoff_base_s,
            "backoff_cap_s": FAST.backoff_cap_s,
            "block_s": 1.0,
            "request_timeout_s": 2.0,
        }
        return cls(**{**fast, **changes})


class _CrashError(BaseException):
    """The process is gone: nothing may catch this and go on."""


def number_of(conversation_id: str) -> str:
    """Whom a conversation is with: the deployment looks it up in its own database."""
    return phone(int(conversation_id.rpartition("-")[2]))


class ForeignProducer:
    """The existing producer: it stores the record, and pushes the id a while later."""

    def __init__(self, world: World, pace: Pace | None = None) -> None:
        self._client = redis.Redis.from_url(world.url, decode_responses=True)
        self._prefix = world.prefix
        self._pace = pace or Pace.scaled()
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()
            timer.join()
        self._client.close()

    def enqueue(self, job_id: str, *, conversation_id: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Store the record now, push the id after the initial delay."""
        self.store(job_id, conversation_id=conversation_id, metadata=metadata)
        timer = threading.Timer(self._pace.initial_delay_s, self.push, [job_id])
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def store(
        self,
        job_id: str,
        *,
        conversation_id: str,
        metadata: Mapping[str, Any] | None = None,
        age_s: float = 0.0,
    ) -> None:
        """Store a record, as if `age_s` seconds ago; a producer that dies now never pushes its id."""
        record = {
            "jobId": job_id,
            "conversationId": conversation_id,
            "startTime": round((time.time() - age_s) * 1000),
            "status": "polling",
            "prompt": "a dancing person",
            "model": "veo-2.0-generate-001",
            "version": 2,
            "aspectRatio": "9:16",
            "hasNegativePrompt": False,
            **(metadata or {}),
        }
        self._client.execute_command("SETEX", f"{self._prefix}:job:{job_id}", self._pace.record_s, json.dumps(record))

    def push(self, job_id: str) -> None:
        """Push an id."""
        self._client.lpush(f"{self._prefix}:poll:queue", job_id)


class ForeignWorker:
    """The existing worker: one job after the other, and its timers in its own memory."""

    def __init__(self, world: World, pace: Pace | None = None) -> None:
        self.pace = pace or Pace.scaled()
        self.worker_id = f"video_worker_{os.getpid()}_{next(_serial):05x}"
        self.polled: list[tuple[str, float]] = []
        self.popped: list[str] = []
        self.dropped: list[str] = []
        self.sent: list[str] = []
        self._world = world
        self._prefix = world.prefix
        self._client = redis.Redis.from_url(world.url, decode_responses=True)
        self._blocking = redis.Redis.from_url(
            world.url, decode_responses=True, socket_timeout=self.pace.block_s + 5, max_connections=1
        )
        self._http = httpx.Client(timeout=self.pace.request_timeout_s)
        self._at: dict[str, Callable[[str], object]] = {}
        self._timers: list[threading.Timer] = []
        self._stopping = threading.Event()
        self._gone = threading.Event()
        self.recovered = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreign-worker", daemon=True)

    # --- for tests ---

    def start(self) -> Self:
        """Begin: first what it does at its start, then the loop."""
        self._thread.start()
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.crash()

    def at(self, point: str, act: Callable[[str], object]) -> Self:
        """Run `act` with the job's id whenever the worker comes to `point`."""
        assert point in POINTS, point
        self._at[point] = act
        return self

    def crash_at(self, point: str, *, nth: int = 1) -> Self:
        """End as by a SIGKILL when the worker comes to `point` for the `nth` time."""
        times = itertools.count(1)

        def die(_: str) -> None:
            if next(times) == nth:
                self._gone.set()

        return self.at(point, die)

    def crash(self) -> None:
        """End as by a SIGKILL, now: timers are forgotten, connections break."""
        self._gone.set()
        self._stopping.set()
        self._forget()
        if self._thread.ident is not None:
            # Again and again: it may be just about to block.
            while self._thread.is_alive():
                self._blocking.connection_pool.disconnect(inuse_connections=True)
                self._thread.join(0.02)
        for timer in self._timers:
            timer.join()  # one that was just pushing
        self._blocking.close()
        self._client.close()
        self._http.close()

    @property
    def crashed(self) -> bool:
        """Whether it has ended."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def polls(self, job_id: str) -> int:
        """How often it has asked about a job."""
        return sum(one == job_id for one, _ in self.polled)

    # --- the deployment's code ---

    def _key(self, name: str, job_id: str) -> str:
        return f"{self._prefix}:{name}:{job_id}"

    @property
    def _queue(self) -> str:
        return f"{self._prefix}:poll:queue"

    def _point(self, name: str, job_id: str) -> None:
        act = self._at.get(name)
        if act is not None:
            act(job_id)
        if self._gone.is_set():
            raise _CrashError

    def _run(self) -> None:
        try:
            self._recover()
            self.recovered.set()
            while not self._stopping.is_set():
                try:
                    popped = self._blocking.brpop([self._queue], timeout=self.pace.block_s)
                except Exception:
                    if self._gone.is_set():
                        return  # the connection was closed under it, which shows in many ways
                    raise
                if popped:
                    self._process(popped[1])
        except _CrashError:
            self._forget()

    def _forget(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _recover(self) -> None:
        for key in self._client.keys(f"{self._prefix}:job:*"):
            job_id = key.removeprefix(f"{self._prefix}:job:")
            found = self._client.get(key)
            if found is None:
                continue
            job = json.loads(found)
            self._point("after_recovered_record", job_id)
            if self._elapsed_s(job) < self.pace.timeout_s:
                self._client.lpush(self._queue, job_id)
                continue
            self._send_failure(job, "timeout")
            self._point("after_recovered_notice", job_id)
            self._write_failure(job, "Video generation timeout: Process exceeded 5 minutes")
            self._client.delete(key)

    def _process(self, job_id: str) -> None:
        self.popped.append(job_id)
        self._point("after_pop", job_id)
        lock = self._key("lock", job_id)
        if not self._client.set(lock, self.worker_id, nx=True, ex=self.pace.lock_s):
            self.dropped.append(job_id)
            return
        try:
            self._point("after_lock", job_id)
            self._poll(job_id)
        finally:
            if not self._gone.is_set():
                self._client.delete(lock)

    def _poll(self, job_id: str) -> None:
        found = self._client.get(self._key("job", job_id))
        if found is None:
            return
        job = json.loads(found)
        attempts = self._client.incr(self._key("attempts", job_id))
        self._client.expire(self._key("attempts", job_id), self.pace.attempts_s)
        if attempts > self.pace.max_attempts:
            self._fail(job, "Max polling attempts exceeded")
            return
        if self._elapsed_s(job) > self.pace.timeout_s:
            self._fail(job, "Video generation timeout: Process exceeded 5 minutes")
            return
        self.polled.append((job_id, time.monotonic()))
        try:
            reply = self._http.get(f"{self._world.api.url}/job/{job_id}", headers={"X-API-Key": API_KEY})
            answer = {"status": "not_found"} if reply.status_code == httpx.codes.NOT_FOUND else None
            if answer is None:
                reply.raise_for_status()
                answer = dict(reply.json())
        except (httpx.HTTPError, TypeError, ValueError):
            self._point("after_poll", job_id)
            wait_s = min(self.pace.backoff_base_s * 2.0**attempts, self.pace.backoff_cap_s)
            self._push_later(job_id, wait_s)
            return
        self._point("after_poll", job_id)
        status = answer.get("status")
        if status == "completed":
            self._complete(job, answer)
        elif status == "failed":
            self._fail(job, str(answer.get("error")))
        elif status == "not_found":
            self._fail(job, "Job not found on video API")
        else:
            self._push_later(job_id, self.pace.interval_s)

    def _push_later(self, job_id: str, wait_s: float) -> None:
        def push() -> None:
            if not self._gone.is_set():
                self._client.lpush(self._queue, job_id)

        timer = threading.Timer(wait_s, push)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _complete(self, job: dict[str, Any], answer: dict[str, Any]) -> None:
        job_id = job["jobId"]
        written = {
            "success": True,
            "videoUrl": answer.get("videoUrl"),
            "fileId": answer.get("fileId"),
            "jobId": job_id,
            "completedAt": round(time.time() * 1000),
            "processingTime": round(self._elapsed_s(job) * 1000),
            "timestamp": answer.get("timestamp"),
        }
        self._client.execute_command(
            "SETEX", self._key("completed", job_id), self.pace.completed_s, json.dumps(written)
        )
        self._point("after_completed", job_id)
        caption = f"🎥 ¡Tu video está listo! Se generó en {self._elapsed_s(job):.0f} segundos."
        self._send("video", job, {"video": answer.get("videoUrl"), "caption": caption})
        self._point("after_send", job_id)
        self._clean_up(job_id)
        self._point("after_cleanup", job_id)

    def _fail(self, job: dict[str, Any], error: str) -> None:
        self._send_failure(job, "no se pudo")
        self._point("after_send", job["jobId"])
        self._write_failure(job, error)
        self._clean_up(job["jobId"])
        self._point("after_cleanup", job["jobId"])

    def _write_failure(self, job: dict[str, Any], error: str) -> None:
        written = {
            "success": False,
            "error": error,
            "jobId": job["jobId"],
            "failedAt": round(time.time() * 1000),
            "processingTime": round(self._elapsed_s(job) * 1000),
        }
        self._client.execute_command(
            "SETEX", self._key("completed", job["jobId"]), self.pace.completed_s, json.dumps(written)
        )

    def _clean_up(self, job_id: str) -> None:
        self._client.delete(self._key("job", job_id), self._key("attempts", job_id))

    def _send_failure(self, job: dict[str, Any], reason: str) -> None:
        text = f"😔 Hubo un problema generando tu video: {reason}. Por favor intenta nuevamente."
        self._send("chat", job, {"body": text})

    def _send(self, call: str, job: dict[str, Any], fields: dict[str, Any]) -> None:
        to = number_of(job["conversationId"])
        try:
            self._http.post(
                f"{self._world.ultramsg.url}/{INSTANCE}/messages/{call}", json={"token": TOKEN, "to": to, **fields}
            )
        except httpx.HTTPError:
            return  # this deployment swallows what goes wrong here
        self.sent.append(job["jobId"])

    @staticmethod
    def _elapsed_s(job: dict[str, Any]) -> float:
        return time.time() - job["startTime"] / 1000
