"""Starts generations: what to ask the video API for, what its answers mean, and what may be asked again.

A generation costs money, so this module owns one rule above all: only what
surely started nothing is sent again. Pure functions own all of it:
`build_request` writes the request, `read_reply` turns whatever comes back, however
hostile, into a `Generation`, and `generation_flow` decides what follows.
`VideoApiGenerator` only carries requests between them.
"""

from __future__ import annotations

import abc
import asyncio
import time
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import attrs
from typing_extensions import override

from videopoll._http import NOT_JSON, FailureKind, HttpFailure, HttpReply, HttpRequest, retry_after_s
from videopoll._http.answerer import refused_by_another
from videopoll._reasons import Reason, own, told_of
from videopoll.core.flow import Call, acall, adrive, call, drive
from videopoll.errors import InvalidGenerationError, InvalidJobError
from videopoll.jobs.checks import check_flags, check_seconds, listed
from videopoll.jobs.job import check_id
from videopoll.jobs.urls import readied_url
from videopoll.observe.redact import redacted
from videopoll.video_api.client import DEFAULT_BASE_URL, VideoApiClient, api_headers, refused_in_front
from videopoll.video_api.generation import (
    Generation,
    GenerationErrorCode,
    GenerationFailed,
    GenerationFinished,
    GenerationRequest,
    GenerationStarted,
    GenerationUnknown,
    choose_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from collections.abc import Set as AbstractSet

    import httpx

    from videopoll._http import Http
    from videopoll.core.flow import Flow
    from videopoll.jobs.codec import JsonValue

__all__ = [
    "GeneratingClient",
    "Pace",
    "Prepared",
    "VideoApiGenerator",
    "build_request",
    "generation_flow",
    "read_no_success",
    "read_reply",
    "with_reason",
]

MAX_FILE_ID_CHARS = 256

SHORTEST_QUOTE = 8
"""A prompt of fewer characters is no secret, and its letters are in every error text."""

_Code = GenerationErrorCode

# What the API refuses for good. Every other status but 429 and 503 may come from something in front of an API that has
# already begun: a proxy that lost patience, for one.
_REFUSALS = {
    400: (_Code.INVALID_REQUEST, "the video API refuses the request"),
    401: (_Code.AUTHENTICATION_ERROR, "the video API refuses the API key"),
    403: (_Code.AUTHENTICATION_ERROR, "the video API refuses the API key"),
    402: (_Code.AUTHENTICATION_ERROR, "the account at the video API has no credit"),
    404: (_Code.API_ERROR, "there is nothing to start a video with at this address: check the base URL and the model"),
    405: (_Code.API_ERROR, "there is nothing to start a video with at this address: check the base URL and the model"),
    407: (_Code.API_ERROR, "a proxy on the way wants credentials"),
    413: (_Code.FILE_TOO_LARGE, "the image is too large"),
    422: (_Code.INVALID_REQUEST, "the video API refuses the request"),
}

_FAILURES = {
    FailureKind.CONNECT: _Code.CONNECTION_ERROR,
    FailureKind.CONNECT_TIMEOUT: _Code.TIMEOUT,
    FailureKind.POOL_TIMEOUT: _Code.TIMEOUT,
    FailureKind.TIMEOUT: _Code.TIMEOUT,
    FailureKind.BROKEN: _Code.CONNECTION_ERROR,
    FailureKind.TOO_LARGE: _Code.API_ERROR,
    FailureKind.UNREADABLE: _Code.API_ERROR,
    FailureKind.INVALID: _Code.TOOL_ERROR,
    FailureKind.TOO_LATE: _Code.TOOL_ERROR,
    FailureKind.INCOMPLETE: _Code.CONNECTION_ERROR,
    FailureKind.NOT_PUBLIC: _Code.CONNECTION_ERROR,
}


def build_request(base_url: str, api_key: str, request: GenerationRequest, timeout_s: float) -> HttpRequest:
    """Write ``POST /generate-video`` (contract of the video API)."""
    choice = choose_model(request)
    fields: dict[str, JsonValue] = {
        "prompt": request.prompt,
        "mode": request.mode,
        "version": choice.version,
        "model": choice.model,
        "aspectRatio": choice.aspect_ratio,
    }
    if request.image_url is not None:
        fields["imageUrl"] = cast("str", readied_url(request.image_url))  # Checked when the request was built.
    if request.negative_prompt is not None:
        fields["negativePrompt"] = request.negative_prompt
    return HttpRequest(
        method="POST",
        url=f"{base_url}/generate-video",
        headers=api_headers(api_key),
        json=fields,
        timeout_s=timeout_s,
    )


def read_reply(reply: HttpReply | HttpFailure, now_s: float) -> Generation:
    """Return what a reply, or the lack of one, means. Never raises.

    Args:
        reply: What came back.
        now_s: The time in Unix seconds, for a ``Retry-After`` that is a date.
    """
    if isinstance(reply, HttpReply) and reply.is_success:
        return _read_body(reply.json(), f"HTTP {reply.status}")
    return read_no_success(reply, now_s, starts_nothing=_BUSY)


_BUSY = frozenset({429, 503})
"""Statuses by which the API says that it starts nothing at the moment."""


def read_no_success(
    reply: HttpReply | HttpFailure,
    now_s: float,
    *,
    starts_nothing: AbstractSet[int],
    reason: Callable[[JsonValue], str | None] | None = None,
) -> GenerationFailed | GenerationUnknown:
    """Return what it means that an API, any API, did not answer with a 2xx. Never raises.

    Args:
        reply: What came back.
        now_s: The time in Unix seconds, for a ``Retry-After`` that is a date.
        starts_nothing: The statuses by which the API says "not now"; the same request may work later.
        reason: Finds the API's own words in its answer.
    """
    if isinstance(reply, HttpFailure):
        detail = own(f"{reply.kind.value}: {reply.detail}")
        if reply.surely_not_sent:
            passing = reply.kind is not FailureKind.INVALID
            return GenerationFailed(code=_FAILURES[reply.kind], detail=detail, passing=passing)
        return GenerationUnknown(code=_FAILURES[reply.kind], detail=detail)
    status, name = reply.status, f"HTTP {reply.status}"
    if status in starts_nothing:
        code = _Code.RATE_LIMITED if status == 429 else _Code.SERVICE_UNAVAILABLE  # noqa: PLR2004
        wait_s = retry_after_s(reply.headers, now_s)
        return GenerationFailed(code=code, detail=own(name), passing=True, retry_after_s=wait_s)
    if status in {401, 403} and refused_by_another(reply):
        return GenerationFailed(code=_Code.API_ERROR, detail=refused_in_front(reply))
    body = reply.json()
    words = (reason or _words)(None if body is NOT_JSON else body)
    if status in _REFUSALS:
        code, meaning = _REFUSALS[status]
        return GenerationFailed(code=code, detail=with_reason(f"{name}: {meaning}", words))
    return GenerationUnknown(code=_Code.API_ERROR, detail=with_reason(name, words))


def _read_body(body: object, name: str) -> Generation:
    if body is NOT_JSON or not isinstance(body, dict):
        return GenerationUnknown(code=_Code.API_ERROR, detail=own(f"{name}: not a JSON object"))
    fields = cast("dict[str, JsonValue]", body)
    status, job_id, url = fields.get("status"), fields.get("jobId"), fields.get("videoUrl")
    if isinstance(status, str) and status.strip().lower() == "failed":
        return GenerationFailed(code=_Code.API_ERROR, detail=with_reason(f"{name}: failed", _words(fields)))
    readied = readied_url(url)
    if isinstance(readied, str):
        return GenerationFinished(video_url=readied, file_id=_file_id(fields.get("fileId")))
    try:
        # Without a video that can be handed on, the job can still be followed.
        return GenerationStarted(job_id=check_id(job_id, "the job id"))
    except InvalidJobError:
        problem = "neither a job id" if job_id is None else "a job id that cannot be used, and neither a new one"
        return GenerationUnknown(
            code=_Code.API_ERROR, detail=own(f"{name}: {problem} nor a video URL that can be handed on")
        )


def _file_id(value: JsonValue) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_FILE_ID_CHARS and value.isprintable() else None


def _words(body: JsonValue) -> str | None:
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) else None


def with_reason(text: str, words: str | None) -> Reason:
    """Add the API's own words; secrets are taken out by the flow, which knows them."""
    return Reason(f"{text} ({words})", text) if words and words.strip() else own(text)


def generation_flow(
    request: HttpRequest,
    *,
    read: Callable[[HttpReply | HttpFailure, float], Generation] = read_reply,
    retry_waits_s: Sequence[float] = (1.0, 2.0),
    max_retry_after_s: float = 10.0,
    resubmit_unknown: bool = False,
    clock: Callable[[], float] = time.time,
) -> Generator[HttpRequest | float, HttpReply | HttpFailure | None, Generation]:
    """Decide what follows each reply; opens no connection and does not sleep.

    Yields a request, to be sent in its reply (or the lack of one), or a number
    of seconds to wait. Its value is what came of it all.

    Args:
        request: What to send.
        read: What a reply, at a time in Unix seconds, means.
        retry_waits_s: Seconds to wait before each further try.
        max_retry_after_s: The longest ``Retry-After`` that is waited for, in seconds.
        resubmit_unknown: Whether to send again what may have started a generation.
        clock: Gives the time in Unix seconds, for a ``Retry-After`` that is a date.
    """
    lost: GenerationUnknown | None = None
    for retries, wait_s in enumerate((*retry_waits_s, None)):
        reply = yield request
        if reply is None:
            msg = "a request needs a reply"
            raise TypeError(msg)
        result = attrs.evolve(read(reply, clock()), retries=retries)
        hint_s = 0.0
        match result:
            case GenerationUnknown():
                again, lost = resubmit_unknown, result
            case GenerationFailed():
                again, hint_s = result.passing, result.retry_after_s or 0.0
            case _:
                return result
        if not again or wait_s is None:
            # That nothing was started by the last try does not prove it for the others.
            return attrs.evolve(lost, retries=retries) if lost is not None else result
        yield max(wait_s, min(hint_s, max_retry_after_s))
    raise AssertionError


@attrs.frozen(kw_only=True)
class Pace:
    """How long and how often a generator tries; seconds, checked."""

    owner: str
    timeout_s: float
    sync_timeout_s: float
    retry_waits_s: Sequence[float]
    max_retry_after_s: float
    resubmit_unknown: bool

    def __attrs_post_init__(self) -> None:
        check_seconds(f"{self.owner}.timeout_s", self.timeout_s, above=0)
        check_seconds(f"{self.owner}.sync_timeout_s", self.sync_timeout_s, above=0)
        for wait_s in self.retry_waits_s:
            check_seconds(f"each of {self.owner}.retry_waits_s", wait_s, low=0)
        check_seconds(f"{self.owner}.max_retry_after_s", self.max_retry_after_s, low=0)
        check_flags(self.owner, resubmit_unknown=self.resubmit_unknown)


Effect: TypeAlias = HttpRequest | float | Call
"""What a generation takes: a request to be sent, seconds to wait, a function of the host's to call."""


@attrs.frozen
class Prepared:
    """A request that is ready to be sent, and what its replies mean."""

    request: HttpRequest
    read: Callable[[HttpReply | HttpFailure, float], Generation]
    key: str | None
    resubmit_unknown: bool


class GeneratingClient(abc.ABC):
    """What asks an API for videos, in threads and under asyncio: the twins of both generators."""

    _http: Http
    _pace: Pace

    @abc.abstractmethod
    def _prepared(self, request: GenerationRequest) -> Flow[Prepared | GenerationFailed]:
        """Return what to send, or why nothing is sent; may raise `InvalidGenerationError`, and call for a key."""

    def generate(self, request: GenerationRequest) -> Generation:
        """Ask for a video; blocks while requests are sent again."""
        return drive(self._flow(request), self._carry_out)

    async def agenerate(self, request: GenerationRequest) -> Generation:
        """Ask for a video; the asyncio side of `generate`.

        Cancelling it leaves open whether a generation was started.
        """
        return await adrive(self._flow(request), self._acarry_out)

    def _carry_out(self, effect: Effect) -> object:
        if isinstance(effect, HttpRequest):
            return self._http.send(effect)
        if callable(effect):
            return call(effect)
        time.sleep(effect)
        return None

    async def _acarry_out(self, effect: Effect) -> object:
        if isinstance(effect, HttpRequest):
            return await self._http.asend(effect)
        return await acall(effect) if callable(effect) else await asyncio.sleep(effect, None)

    def _flow(self, request: GenerationRequest) -> Generator[Effect, object, Generation]:
        prepared: Prepared | GenerationFailed
        try:
            prepared = yield from self._prepared(request)
        except InvalidGenerationError as error:
            prepared = GenerationFailed(code=_Code.INVALID_REQUEST, detail=own(told_of(error)))
        if isinstance(prepared, GenerationFailed):
            return prepared
        asking = generation_flow(
            prepared.request,
            read=prepared.read,
            retry_waits_s=self._pace.retry_waits_s,
            max_retry_after_s=self._pace.max_retry_after_s,
            resubmit_unknown=prepared.resubmit_unknown,
        )
        result = yield from cast("Generator[Effect, object, Generation]", asking)
        if isinstance(result, GenerationFailed | GenerationUnknown):
            # The API's words may quote what it was sent.
            quoted = (request.prompt, request.negative_prompt, request.image_url)
            secrets = [text for text in quoted if text and len(text) >= SHORTEST_QUOTE]
            return attrs.evolve(result, detail=redacted(result.detail, prepared.key, *secrets))
        return result


class VideoApiGenerator(GeneratingClient, VideoApiClient):
    """Asks the video API for videos, in threads (`generate`) and under asyncio (`agenerate`).

    One generator may be shared by any number of threads and event loops. It
    opens connections when they are first needed.

    **It never pays twice.** Sent again (after 1 s and 2 s, or as long as a
    ``Retry-After`` says) is only what surely started nothing: a refused
    connection, a connect timeout, HTTP 429 and 503. A lost reply, or anything
    else without a clear answer, comes back as `GenerationUnknown`.

    Args:
        base_url: Where the API is, http or https, with a path in front if there is one.
        api_key: Sent as ``X-API-Key``. Kept out of ``repr`` and of error texts.
        client: The host's httpx client for `generate`, with its own hooks, proxies
            and certificates; it is never closed here. By default, connections of our own.
        async_client: The same for `agenerate`.
        timeout_s: Seconds for one request in the mode ``async``.
        sync_timeout_s: Seconds for one request in the mode ``sync``, in which the API makes the whole video.
        retry_waits_s: Seconds to wait before each further try; ``()`` for no further ones.
        max_retry_after_s: The longest ``Retry-After`` that is waited for, in seconds.
        resubmit_unknown: Send again what may have started a generation: a lost
            reply then costs a second video rather than none.
        max_connections: Connections open at most, for threads and for each event loop.
        transport: What carries `agenerate` without `async_client`: ``"aiohttp"``
            (the extra ``fast``), ``"httpx"``, or ``"auto"``: aiohttp if it is installed.

    Raises:
        ConfigurationError: A value cannot work; the text says what to change.
    """

    def __init__(
        self,
        *,
        base_url: str = DEFAULT_BASE_URL,
        api_key: str,
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        timeout_s: float = 60.0,
        sync_timeout_s: float = 300.0,
        retry_waits_s: Sequence[float] = (1.0, 2.0),
        max_retry_after_s: float = 10.0,
        resubmit_unknown: bool = False,
        max_connections: int = 20,
        transport: Literal["auto", "httpx", "aiohttp"] = "auto",
    ) -> None:
        owner = type(self).__name__
        self._pace = Pace(
            owner=owner,
            timeout_s=timeout_s,
            sync_timeout_s=sync_timeout_s,
            retry_waits_s=listed(retry_waits_s, f"{owner}.retry_waits_s", "seconds"),
            max_retry_after_s=max_retry_after_s,
            resubmit_unknown=resubmit_unknown,
        )
        super().__init__(
            base_url=base_url,
            api_key=api_key,
            client=client,
            async_client=async_client,
            max_connections=max_connections,
            transport=transport,
        )

    @override
    def _prepared(self, request: GenerationRequest) -> Flow[Prepared]:
        yield from ()  # Its key is a text: there is nothing to call for.
        timeout_s = self._pace.timeout_s if request.mode == "async" else self._pace.sync_timeout_s
        sent = build_request(self._base_url, self._api_key, request, timeout_s)
        return Prepared(sent, read_reply, self._api_key, self._pace.resubmit_unknown)
