"""The world outside of the fleet: the video API, the messengers, and the parts of a host that ask them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
from typing import TYPE_CHECKING, Any

import attrs

from storm.kernel import PROCESS, Waiting
from storm.server import spring
from videopoll import Recipient, VideoApiPoller
from videopoll._http.values import FailureKind, HttpFailure, HttpReply
from videopoll.jobs import MessageForm
from videopoll.messages import Accepted, Delivered, LookupResult, NotSent, Refused, Unknown
from videopoll.observations import VideoReady

if TYPE_CHECKING:
    from collections.abc import Callable

    from storm.kernel import Kernel, Process
    from storm.plan import JobPlan, Plan


class Trip:
    """One request to the outside, on its way there and back.

    `serve` is called when it arrives; it gives the seconds until the reply leaves
    and the reply, None for none at all.
    """

    def __init__(
        self, kernel: Kernel, name: str, serve: Callable[[], tuple[float, Any]], timeout_s: float, late: Any
    ) -> None:
        self.kernel, self.names, self._serve = kernel, [name], serve
        self.process = PROCESS.get()
        self.done, self.value = False, None
        self.wake: Callable[[], None] = lambda: None
        self._context = contextvars.copy_context()
        self._timer = kernel.loop.call_later(timeout_s, self._finish, late)
        kernel.at(kernel.now_s + self._latency(), self._arrive)

    def _latency(self) -> float:
        return 0.002 + 0.02 * self.kernel.rng.random()

    def _arrive(self) -> None:
        stay_s, reply = self._serve()
        spring(self.process, self.names, "served")
        if reply is not None:
            at_s = self.kernel.now_s + stay_s + self._latency()
            self.kernel.loop.call_at(at_s, self._finish, reply, context=self._context)

    def _finish(self, value: Any) -> None:
        if self.done:
            return
        self.done, self.value = True, value
        self._timer.cancel()
        spring(self.process, self.names, "answered")
        if self.process is not None and not self.process.awake:
            self.kernel.loop.call_soon(self._wake_up, context=self._context)
            return
        self.wake()

    def _wake_up(self) -> None:
        self.wake()

    def result(self) -> Any:
        while not self.done:
            waiting = Waiting(self.kernel)
            self.wake = waiting.wake
            waiting.wait()
        return self.value

    async def aresult(self) -> Any:
        future = self.kernel.loop.create_future()
        self.wake = lambda: None if future.done() else future.set_result(None)
        if not self.done:
            await future
        return self.value


def pause(kernel: Kernel, name: str) -> None:
    """A point at which a worker's thread may be killed or frozen, with nothing on its way."""
    process = PROCESS.get()
    spring(process, [name], "reached")
    if process is not None and not process.awake:
        waiting = Waiting(kernel)
        kernel.loop.call_soon(waiting.wake, context=process.new_context())
        waiting.wait()


async def apause(kernel: Kernel, name: str) -> None:
    process = PROCESS.get()
    spring(process, [name], "reached")
    if process is not None and not process.awake:
        future = kernel.loop.create_future()
        kernel.loop.call_soon(lambda: None if future.done() else future.set_result(None), context=process.new_context())
        await future


@attrs.define
class Polled:
    """One request to the video API."""

    at_s: float
    job_id: str
    worker: str
    reply: str
    hint_s: float = 0.0


class VideoApi:
    """The video API: each job is ready some seconds after it was taken in; and the API's own troubles."""

    def __init__(self, kernel: Kernel, jobs: dict[str, JobPlan]) -> None:
        self.kernel, self.jobs = kernel, jobs
        self.born_s: dict[str, float] = {}
        self.troubles: dict[str, float] = {}
        self.retry_after_s = 5.0
        self.answers_in_s = 0.05
        self.polls: list[Polled] = []
        self.odd: list[str] = []

    def trouble(self) -> str | None:
        now_s = self.kernel.now_s
        return next((name for name, until_s in self.troubles.items() if until_s > now_s), None)

    def serve(self, job_id: str, worker: str) -> tuple[float, HttpReply | None]:
        trouble = self.trouble()
        name, reply = trouble, None
        if trouble == "throttle":
            reply = HttpReply(status=429, headers={"retry-after": f"{self.retry_after_s:g}"})
        elif trouble == "down":
            reply = HttpReply(status=503)
        elif trouble == "stray 404":
            reply = HttpReply(status=404, headers={"content-type": "text/plain"}, body=b"404 page not found")
        elif trouble is None:
            name, body = self._answer(job_id)
            reply = HttpReply(
                status=404 if body is None else 200,
                headers={"content-type": "application/json"},
                body=json.dumps(body or {"jobId": job_id, "error": "not found", "status": "not_found"}).encode(),
            )
        self.polls.append(Polled(self.kernel.now_s, job_id, worker, name or "?", self.retry_after_s))
        return (self.answers_in_s, reply)

    def _answer(self, job_id: str) -> tuple[str, dict[str, Any] | None]:
        plan, age_s = self.jobs[job_id], self.kernel.now_s - self.born_s.get(job_id, 0.0)
        if plan.ends == "missing":
            return "missing", None
        body: dict[str, Any] = {"jobId": job_id, "status": "processing"}
        if age_s >= plan.takes_s and plan.ends != "never":
            if plan.ends == "failed":
                return "failed", body | {"status": "failed", "error": "it went wrong"}
            return "ready", body | {"status": "completed", "videoUrl": f"https://files.example/{job_id}.mp4"}
        return "working", body


class ApiClient:
    """What stands in for the HTTP client inside of the real `VideoApiPoller`."""

    def __init__(self, kernel: Kernel, api: VideoApi) -> None:
        self.kernel, self.api = kernel, api

    def _trip(self, request: Any) -> Trip:
        process = PROCESS.get()
        name = process.name if process is not None else "?"
        job_id = request.url.rpartition("/")[2]
        late = HttpFailure(kind=FailureKind.TIMEOUT, detail="no reply")
        return Trip(self.kernel, "poll", lambda: self.api.serve(job_id, name), request.timeout_s, late)

    def send(self, request: Any, *_: Any, **__: Any) -> Any:
        return self._trip(request).result()

    async def asend(self, request: Any, *_: Any, **__: Any) -> Any:
        return await self._trip(request).aresult()

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class BadTextError(Exception):
    """An exception that cannot even be shown."""

    def __str__(self) -> str:
        msg = "no text"
        raise ValueError(msg)


ODD_POLLS = ("raises", "nonsense", "no url", "bad url", "bad text", "hangs")

HANGS_S = 150.0
"""How long a host's own poller hangs, whatever time it was given."""

HANGS_ON_S = 900.0
"""How long one hangs that does not listen to its cancellation either: for longer than any storm."""


def odd_observation(how: str) -> Any:
    """What a careless host's poller comes back with."""
    if how == "raises":
        raise KeyError(how)
    if how == "bad text":
        raise BadTextError
    if how == "no url":
        return VideoReady(None)  # type: ignore[arg-type]
    if how == "bad url":
        return VideoReady("file:///etc/passwd")
    return {"status": "completed"}


class OwnPoller:
    """A host's own poller, with threads: now and then it comes back with what is no answer."""

    def __init__(self, kernel: Kernel, api: VideoApi) -> None:
        self.api = api
        self._real = VideoApiPoller(base_url="https://api.example", api_key="k")
        self._real._http = ApiClient(kernel, api)  # type: ignore[assignment]

    def poll(self, job: Any, *, timeout_s: float) -> Any:
        observation = self._real.poll(job, timeout_s=timeout_s)
        how = self.api.odd.pop(0) if self.api.odd else ""
        if how == "hangs":
            Trip(self.api.kernel, "hanging", lambda: (0.0, None), HANGS_S, None).result()
            return observation
        return odd_observation(how) if how else observation


class OwnAsyncPoller(OwnPoller):
    """The same for asyncio."""

    async def poll(self, job: Any, *, timeout_s: float) -> Any:  # type: ignore[override]
        observation = await self._real.apoll(job, timeout_s=timeout_s)
        how = self.api.odd.pop(0) if self.api.odd else ""
        if how == "hangs":
            await Trip(self.api.kernel, "hanging", lambda: (0.0, None), HANGS_S, None).aresult()
            return observation
        if how == "hangs on":
            hanging = Trip(self.api.kernel, "hanging", lambda: (0.0, None), HANGS_ON_S, None)
            while not hanging.done:
                with contextlib.suppress(asyncio.CancelledError):
                    await hanging.aresult()
            return observation
        return odd_observation(how) if how else observation


@attrs.define
class Sent:
    """One request to the messenger: when it came, from whom, and what became of it."""

    at_s: float
    job_id: str
    worker: str
    form: str
    outcome: str
    reference: str
    manner: str
    delivered: bool = False
    delivered_s: float | None = None
    told: str = "nothing"
    told_s: float | None = None
    message_id: str = ""
    fate: str = ""
    heard_s: float | None = None
    """When our side had taken in a receipt that tells its fate."""
    lease_until_s: float | None = None


MANNERS = (
    "ok",
    "lost",
    "500",
    "dropped",
    "unreachable",
    "throttled",
    "slow",
    "slow reply",
    "hangs",
    "raises",
    "nonsense",
    "wrong form",
    "bad text",
)
"""How a messenger, or a host's own part, may answer one send."""

KNOWN = {"ok", "unreachable", "throttled", "slow", "slow reply", "refused", "refused video", "down"}
"""Those whose fate its worker learns."""

DELIVERS = {"ok", "lost", "500", "slow", "slow reply", "hangs", "raises", "nonsense", "wrong form", "bad text"}


class Messenger:
    """The messenger: what it got is what the users got."""

    def __init__(self, kernel: Kernel, plan: Plan, jobs: dict[str, JobPlan]) -> None:
        self.kernel, self.plan, self.jobs = kernel, plan, jobs
        self.sent: list[Sent] = []
        self.manners = {job_id: list(job.sends) for job_id, job in jobs.items()}
        self.down_until_s = 0.0
        self.mum_until_s = 0.0
        self.on_find: Callable[[str, LookupResult], None] = lambda *_: None
        self.fates = {job_id: list(job.late) for job_id, job in jobs.items()}
        self.tell: Callable[[Sent], None] = lambda _: None

    def serve(self, message: Any, worker: str, waits: Sent) -> tuple[float, str | None]:
        job_id, now_s = message.job.job_id, self.kernel.now_s
        job = self.jobs[job_id]
        manners = self.manners[job_id]
        manner = "down" if self.down_until_s > now_s else manners.pop(0) if manners else "ok"
        if manner != "down" and job.refused == "all":
            manner = "refused"
        elif manner != "down" and job.refused == "video" and message.form is MessageForm.VIDEO:
            manner = "refused video"
        waits.at_s, waits.manner = now_s, manner
        waits.message_id = f"m{len(self.sent)}"
        self.sent.append(waits)
        stay_s = self.plan.slow_s if manner in {"slow", "slow reply"} else 0.1
        if manner == "slow":
            self.kernel.at(now_s + stay_s, self._deliver, waits)
        elif manner in DELIVERS:
            self._deliver(waits)
        return stay_s, None if manner == "hangs" else manner

    def _deliver(self, one: Sent) -> None:
        if self.plan.tells:
            fates = self.fates[one.job_id]
            one.fate = fates.pop(0) if fates else "arrives"
            self.tell(one)
            if one.fate != "arrives":
                return
        one.delivered, one.delivered_s = True, self.kernel.now_s

    def look_up(self, reference: str) -> tuple[float, LookupResult]:
        now_s = self.kernel.now_s
        if max(self.down_until_s, self.mum_until_s) > now_s:
            self.on_find(reference, LookupResult.NO_ANSWER)
            return 0.1, LookupResult.NO_ANSWER
        seen = any(
            one.delivered
            and one.reference == reference
            and (one.delivered_s or 0.0) + self.plan.visible_after_s <= now_s
            for one in self.sent
        )
        result = LookupResult.FOUND if seen else LookupResult.ABSENT
        self.on_find(reference, result)
        return 0.05, result


def receipt_of(manner: str) -> Any:
    """What the host's notifier makes of the messenger's answer."""
    match manner:
        case "ok" | "slow" | "slow reply":
            return Delivered("m1")
        case "unreachable" | "down":
            return NotSent("no connection")
        case "throttled":
            return NotSent("HTTP 429", retry_after_s=3.0)
        case "refused":
            return Refused("no such user", try_text=False)
        case "refused video":
            return Refused("too large")
        case "raises":
            msg = "after the send"
            raise RuntimeError(msg)
        case "bad text":
            raise BadTextError
        case "nonsense":
            return 42
        case "wrong form":
            return Delivered("m1", form="text")  # type: ignore[arg-type]
        case _:
            return Unknown(manner)


class _Channel:
    """The storm's channel: it asks whether it may still send at the moment when its request begins, as documented."""

    def __init__(self, kernel: Kernel, messenger: Messenger, ended: Callable[[Sent], None]) -> None:
        self.kernel, self.messenger, self.ended = kernel, messenger, ended

    def _may(self, message: Any) -> bool:
        ask = getattr(message, "may_still_send", None)
        return ask is None or bool(ask())

    def _request(self, message: Any) -> tuple[Trip, Sent]:
        process: Process | None = PROCESS.get()
        name = process.name if process is not None else "?"
        one = Sent(
            self.kernel.now_s,
            message.job.job_id,
            name,
            message.form.value,
            message.outcome.kind.value,
            message.reference,
            "?",
        )
        late = "no reply"
        return Trip(
            self.kernel, "send", lambda: self.messenger.serve(message, name, one), self.messenger.plan.channel_s, late
        ), one

    def _told(self, one: Sent, manner: str) -> Any:
        one.told, one.told_s = manner, self.kernel.now_s
        self.ended(one)
        receipt = receipt_of(manner)
        if self.messenger.plan.tells and isinstance(receipt, Delivered):
            return Accepted(one.message_id, form=receipt.form)
        return receipt

    def _asked(self, message: Any) -> Trip:
        return Trip(
            self.kernel,
            "look_up",
            lambda: self.messenger.look_up(message.reference),
            self.messenger.plan.channel_s,
            LookupResult.NO_ANSWER,
        )


class MuteChannel(_Channel):
    """For threads; it cannot be asked."""

    def notify(self, message: Any) -> Any:
        pause(self.kernel, "posting")
        if not self._may(message):
            return NotSent("the lease may be somebody else's by now", counts=False, channel_fault=False)
        trip, one = self._request(message)
        return self._told(one, trip.result())


class AskableChannel(MuteChannel):
    """For threads; it can be asked."""

    def look_up(self, message: Any) -> Any:
        return self._asked(message).result()


class AsyncMuteChannel(_Channel):
    """For asyncio; it cannot be asked."""

    async def notify(self, message: Any) -> Any:
        await apause(self.kernel, "posting")
        if not self._may(message):
            return NotSent("the lease may be somebody else's by now", counts=False, channel_fault=False)
        trip, one = self._request(message)
        return self._told(one, await trip.aresult())


class AsyncAskableChannel(AsyncMuteChannel):
    """For asyncio; it can be asked."""

    async def look_up(self, message: Any) -> Any:
        return await self._asked(message).aresult()


CHANNELS = {
    ("sync", "mute"): MuteChannel,
    ("sync", "askable"): AskableChannel,
    ("async", "mute"): AsyncMuteChannel,
    ("async", "askable"): AsyncAskableChannel,
}


def resolver(kernel: Kernel, parts: str) -> Callable[[str], Any]:
    """A host's `resolve`, which takes its time, and in which a worker may be frozen."""

    def resolve(conversation_id: str) -> Recipient:
        Trip(kernel, "resolve", lambda: (0.01, True), 10.0, None).result()
        pause(kernel, "resolving")
        return Recipient(channel="c", to=conversation_id)

    async def aresolve(conversation_id: str) -> Recipient:
        await Trip(kernel, "resolve", lambda: (0.01, True), 10.0, None).aresult()
        await apause(kernel, "resolving")
        return Recipient(channel="c", to=conversation_id)

    return resolve if parts == "sync" else aresolve
