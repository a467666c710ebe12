"""Callbacks as a doorbell: a verified one makes the next poll of its job due now, and no more.

The poll stays the truth. What a callback says is not believed, so one that is
forged, late, early, doubled or lost changes nothing but the moment of a poll.
"""

from __future__ import annotations

import enum
import importlib.util
import time
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs

from videopoll._calling import is_async
from videopoll._http import Http, HttpFailure, HttpReply, HttpRequest
from videopoll._reasons import Reason, own, told
from videopoll.core.flow import acall, adrive, call, do, drive
from videopoll.errors import ConfigurationError, InvalidJobError
from videopoll.events import CallbackReceived, Emitter
from videopoll.jobs.checks import check_callable, check_kind
from videopoll.observe.log import LogHook
from videopoll.video_api.callbacks import (
    CallbackRefused,
    CallbackVerified,
    Headers,
    keys_of,
    keys_of_jwks,
    verify_callback,
)
from videopoll.video_api.description import ApiDescription, Signing
from videopoll.video_api.operation import job_id_of

if TYPE_CHECKING:
    import httpx

    from videopoll.core.flow import Flow
    from videopoll.events import Hook

__all__ = ["Doorbell", "Ring", "RingResult"]

KEPT_S = 86_400.0
"""How long published keys are kept, as fal asks for."""

AGAIN_AFTER_S = 300.0
"""Keys are not asked for again any sooner, however many signatures do not fit."""

TIMEOUT_S = 10.0

Send: TypeAlias = Callable[[HttpRequest], HttpReply | HttpFailure | Awaitable[HttpReply | HttpFailure]]


class RingResult(enum.StrEnum):
    """What came of a callback."""

    RUNG = "rung"
    """The next poll of its job is due now."""
    NOTHING = "nothing"
    """It is the API's own, and no job of that id waits for a poll: one that is polled just now, has ended, or is not enqueued yet."""
    WORKING = "working"
    """It is the API's own, and says that the job is still worked on."""
    REFUSED = "refused"
    """It is not the API's own, or cannot be read."""


@attrs.frozen
class Ring:
    """What came of a callback, and what to answer.

    Args:
        result: What came of it.
        http_status: What to answer: 204, or for a refusal 400, 401 or 413; 503 if the API's keys cannot be had just now.
        job_id: The job whose poll is due now.
        reason: Why it was refused, in our own words.
    """

    result: RingResult
    http_status: int = HTTPStatus.NO_CONTENT
    job_id: str | None = None
    reason: Reason | None = None


class PollsNow(Protocol):
    """A queue of either kind, as far as a doorbell needs it."""

    def poll_now(self, job_id: str, *, counted: bool) -> bool | Awaitable[bool]:
        """Make the next poll of a job due at once."""
        ...


class Doorbell:
    """Takes the callbacks of one API: `ring` for a `RedisVideoJobQueue`, `aring` for an `AsyncRedisVideoJobQueue`.

    ::

        bell = Doorbell(queue, REPLICATE, secret=os.environ["REPLICATE_WEBHOOK_SECRET"])

        def endpoint(request):  # of whatever web framework
            return Response(status=bell.ring(request.headers, request.body).http_status)

    It may be shared by threads and event loops.

    Args:
        queue: Where the jobs are.
        api: The description of the API that calls.
        secret: What the API signs with, or several while it is being changed. For fal,
            whose keys are public, None has them fetched when they are needed, and kept for a day.
        hooks: Are called with a `videopoll.events.CallbackReceived` for each callback.
        client: The host's httpx client to fetch keys with, in `ring`.
        async_client: The same for `aring`.
        clock: Gives the time in Unix seconds.

    Raises:
        ConfigurationError: The API has no callbacks whose signature is known, or the secret cannot be one.
        ImportError: fal's signatures need the extra ``callbacks``.
    """

    def __init__(
        self,
        queue: PollsNow,
        api: ApiDescription,
        *,
        secret: str | Iterable[str] | None = None,
        hooks: Iterable[Hook] = (),
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_kind("Doorbell.api", api, ApiDescription)
        check_callable(getattr(queue, "poll_now", None), "Doorbell.queue's poll_now", "a job id")
        check_callable(clock, "Doorbell.clock", "nothing")
        if api.callback is None:
            msg = f"{api.name} has no callbacks whose signature is known: leave it to the polls"
            raise ConfigurationError(msg)
        self._keys_url = api.callback.keys_url if secret is None else None
        if secret is None and self._keys_url is None:
            msg = f"the callbacks of {api.name} are signed with a secret: give Doorbell its secret"
            raise ConfigurationError(msg)
        if api.callback.signing is Signing.FAL and importlib.util.find_spec("cryptography") is None:
            msg = f"the signatures of {api.name} need cryptography: pip install 'videopoll[callbacks]'"
            raise ImportError(msg)
        self._queue, self._api, self._clock = queue, api, clock
        self._keys = () if secret is None else keys_of(api, secret)
        self._fetched_s: float | None = None
        self._emitter = Emitter(LogHook(), hooks)
        self._http = Http(client=client, async_client=async_client)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._api.name!r})"

    def ring(self, headers: Headers, body: bytes) -> Ring:
        """Take a callback, and make the next poll of its job due now if it is the API's own.

        Args:
            headers: The request's headers: a mapping, or pairs.
            body: Its body, byte for byte as it came.

        Raises:
            ConfigurationError: The body is no bytes, or the queue is for asyncio.
            QueueError: Redis is away or says no: answer 503, and the API calls again.
        """
        if is_async(self._queue.poll_now):
            msg = f"{type(self._queue).__name__} is for asyncio: await Doorbell.aring"
            raise ConfigurationError(msg)
        return drive(self._ring(headers, body, self._http.send), call)

    async def aring(self, headers: Headers, body: bytes) -> Ring:
        """Take a callback, as `ring` does."""
        if not is_async(self._queue.poll_now):
            msg = (
                f"{type(self._queue).__name__} blocks: give Doorbell an AsyncRedisVideoJobQueue, or call Doorbell.ring"
            )
            raise ConfigurationError(msg)
        return await adrive(self._ring(headers, body, self._http.asend), acall)

    def close(self) -> None:
        """Close our own connections for threads; it may be used again."""
        self._http.close()

    async def aclose(self) -> None:
        """Close our own connections of the running event loop; it may be used again."""
        await self._http.aclose()

    def _ring(self, headers: Headers, body: bytes, send: Send) -> Flow[Ring]:
        verified = yield from self._verified(headers, body, send)
        ring = Ring(RingResult.WORKING)
        if isinstance(verified, CallbackRefused):
            ring = Ring(RingResult.REFUSED, verified.http_status, reason=verified.reason)
        elif not verified.working:
            ring = yield from self._due_now(verified.api_id)
        self._emitter.emit(
            CallbackReceived(
                provider=self._api.name, result=ring.result.value, job_id=ring.job_id, reason=told(ring.reason)
            )
        )
        return ring

    def _due_now(self, api_id: str) -> Flow[Ring]:
        # Under the name that a start through the description gives, or under the API's own.
        for job_id in (job_id_of(self._api.name, api_id), api_id):
            try:
                # What others say must not use up the attempts of a job, however often they say it.
                moved = yield from do(self._queue.poll_now, job_id, counted=False)
            except InvalidJobError:
                continue
            if moved:
                return Ring(RingResult.RUNG, job_id=job_id)
        return Ring(RingResult.NOTHING)

    def _verified(self, headers: Headers, body: bytes, send: Send) -> Flow[CallbackVerified | CallbackRefused]:
        now_s = self._clock()
        if self._keys_url is not None and not self._is_fresh(now_s, KEPT_S):
            yield from self._fetch(self._keys_url, send, now_s)
        keys = self._keys
        if not keys:
            return CallbackRefused(own("the API's keys cannot be had"), HTTPStatus.SERVICE_UNAVAILABLE)
        verified = verify_callback(self._api, headers, body, keys, now_s=now_s)
        refused = isinstance(verified, CallbackRefused) and verified.http_status == HTTPStatus.UNAUTHORIZED
        if self._keys_url is not None and refused and not self._is_fresh(now_s, AGAIN_AFTER_S):
            # They may have been changed.
            yield from self._fetch(self._keys_url, send, now_s)
            verified = verify_callback(self._api, headers, body, self._keys, now_s=now_s)
        return verified

    def _is_fresh(self, now_s: float, kept_s: float) -> bool:
        kept_s = kept_s if self._keys else min(kept_s, AGAIN_AFTER_S)
        return self._fetched_s is not None and 0 <= now_s - self._fetched_s < kept_s

    def _fetch(self, url: str, send: Send, now_s: float) -> Flow[None]:
        """Fetch the API's keys; those of before are kept if that does not succeed."""
        if self._keys:
            # Who comes meanwhile goes by those of before. Without any, each fetches them: the first callbacks of a process
            # come all at once, and a fetch that is cut off (a cancelled request, a fork) must not close the door for minutes.
            self._fetched_s = now_s
        request = HttpRequest(method="GET", url=url, headers={"Accept": "application/json"}, timeout_s=TIMEOUT_S)
        reply = yield from do(send, request)
        found = keys_of_jwks(reply.json()) if isinstance(reply, HttpReply) and reply.is_success else ()
        self._fetched_s, self._keys = now_s, found or self._keys
