"""A poller for any video API that an `ApiDescription` describes.

What an answer means is judged by pure functions: `read_answer` for the answer to
a poll, `read_result` for that to the second request of APIs that have one.
`HttpVideoPoller` only carries requests between them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, cast

import attrs

from videopoll._http import NOT_JSON, HttpFailure, HttpReply, HttpRequest, retry_after_s, sent_s
from videopoll._http.answerer import whose_words
from videopoll._reasons import own, quoting, trace_of
from videopoll.core.flow import acall, adrive, call, drive
from videopoll.jobs.bounds import bounded_detail
from videopoll.jobs.codec import is_number
from videopoll.jobs.urls import url_problem
from videopoll.jobs.video import Asset, BucketObject, FailureReason, LockedLink, PublicLink, failure_reason
from videopoll.observations import (
    MAX_WORD_CHARS,
    NO_URL,
    Downloaded,
    Fault,
    FaultKind,
    Observation,
    VideoFailed,
    VideoMissing,
    VideoReady,
    VideoWorking,
    checked_ready,
)
from videopoll.video_api.description import ApiDescription, Meaning, normalized, origin_of
from videopoll.video_api.downloads import downloading
from videopoll.video_api.http_client import HttpApiClient, checked_key
from videopoll.video_api.operation import api_id_of, job_of_another
from videopoll.video_api.replies import (
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

    from videopoll.core.flow import Flow
    from videopoll.jobs.codec import JsonValue
    from videopoll.jobs.job import VideoJob
    from videopoll.policies import PollingStrategy
    from videopoll.protocols import VideoSink
    from videopoll.video_api.http_client import Key

__all__ = ["HttpVideoPoller", "read_answer", "read_result"]

log: logging.Logger = logging.getLogger(__name__)

Exchange: TypeAlias = HttpReply | HttpFailure

SHORTEST_FOLLOW_S = 1.0
"""Seconds that a second request gets at least."""


@attrs.frozen
class Finished:
    """The job is done, and its video is behind one more request."""


def read_answer(
    api: ApiDescription, base_url: str, job: VideoJob, reply: HttpReply | HttpFailure, now_s: float
) -> Observation | Finished:
    """Return what the answer to a poll means for the job, or that a second request has to tell. Never raises."""
    if isinstance(reply, HttpFailure):
        return Fault(FAULTS[reply.kind], own(reply.detail))
    wait_s = retry_after_s(reply.headers, now_s)
    body = reply.json()
    fields = _fields(body)
    word = _word(api, fields)
    meant = api.http.get(reply.status)
    if meant is None and not reply.is_success:
        return _refused(api, job, reply, body, wait_s)
    if meant is None and (nothing := _no_answer(api, job, reply, body, word, wait_s)) is not None:
        return nothing
    meant = meant or api.words.get(normalized(word))
    if meant in {None, Meaning.DONE} and _says_that_it_failed(api, fields):
        meant = Meaning.FAILED
    if meant is None or meant is Meaning.WORKING:
        return _working(api, fields, word, known=meant is not None, wait_s=wait_s)
    if meant is not Meaning.DONE:
        return _ended(api, fields, meant, wait_s)
    if any(value in api.find(fields, path) for path, value in api.rejected_if.items()):
        return _ended(api, fields, Meaning.MODERATED)
    return (
        Finished() if api.follow is not None else _ready(api, base_url, job, fields, sent_s(reply.headers, now_s), word)
    )


def _no_answer(  # noqa: PLR0917 - one answer, and what was read of it already
    api: ApiDescription, job: VideoJob, reply: HttpReply, body: object, word: str, wait_s: float | None
) -> Observation | None:
    """Return what a 2xx means that says nothing of the job; None if it does."""
    waits = api.empty_means_working or reply.status == HTTPStatus.ACCEPTED
    if waits and not reply.body.strip():
        return VideoWorking(retry_after_s=wait_s)
    if not isinstance(body, dict):
        what = f"not JSON, {whose_words(reply)}" if body is NOT_JSON else "not a JSON object"
        return Fault(FaultKind.MALFORMED, own(f"HTTP {reply.status}: {what}"), wait_s)
    named = api.text(body, api.id)
    if named is not None and named.strip() != api_id_of(job):
        return Fault(FaultKind.MALFORMED, own(f"HTTP {reply.status}: the answer names another job"), wait_s)
    if word or _says_that_it_failed(api, body):
        return None
    if waits:
        return VideoWorking(retry_after_s=wait_s)
    return Fault(FaultKind.MALFORMED, own(f"HTTP {reply.status}: the answer has no status"), wait_s)


def _says_that_it_failed(api: ApiDescription, fields: JsonValue) -> bool:
    # A text or a number: what else may stand there is not what the description means.
    return bool(api.fails_if) and any(
        isinstance(one, str | int | float) and one for one in api.find(fields, *api.fails_if)
    )


def _word(api: ApiDescription, fields: JsonValue) -> str:
    found = api.find(fields, *api.status)
    word = found[0] if found else None
    if isinstance(word, str) and word in api.words:
        return word
    return printable(str(word), MAX_WORD_CHARS) if isinstance(word, str | int | float) else ""


def read_result(
    api: ApiDescription, base_url: str, job: VideoJob, reply: HttpReply | HttpFailure, now_s: float
) -> Observation:
    """Return what the reply to the second request means, which has the video of a job that is done. Never raises."""
    if isinstance(reply, HttpFailure):
        return Fault(FAULTS[reply.kind], own(reply.detail))
    body = reply.json()
    if reply.is_success:
        if isinstance(body, dict):
            return _ready(api, base_url, job, body, sent_s(reply.headers, now_s), "completed")
        return Fault(FaultKind.MALFORMED, own(f"HTTP {reply.status}: the result is not a JSON object"))
    if reply.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY} and isinstance(body, dict):
        return _ended(api, body, Meaning.FAILED)
    return _refused(api, job, reply, body, retry_after_s(reply.headers, now_s))


def _ready(  # noqa: PLR0917 - one answer, and what it takes to read it
    api: ApiDescription, base_url: str, job: VideoJob, fields: JsonValue, now_s: float, word: str
) -> Observation:
    lives_s = _lives_s(api, fields, now_s)
    links = [url for path in api.video for url in api.find(fields, path) if isinstance(url, str)]
    assets = [Asset(PublicLink(url, lives_s=lives_s)) for url in links]
    if not assets and api.locked is not None and (url := api.url(api.locked, base_url, job)) is not None:
        assets.append(Asset(LockedLink(url)))
    if not assets:
        # Some APIs write the status a moment before the URL: it is asked once more.
        return VideoWorking(word, error=clean_text(api.text(fields, *api.error), NO_URL) or NO_URL)
    for path, kind in api.others.items():
        assets += [Asset(PublicLink(url), kind) for url in api.find(fields, path) if isinstance(url, str)]
    return checked_ready(VideoReady(assets=tuple(assets), refreshable=api.refreshable))


def _lives_s(api: ApiDescription, fields: JsonValue, now_s: float) -> float | None:
    """Return how long a link lives from now on; `now_s` is the API's own clock, as the end that it tells goes by that."""
    told = api.find(fields, api.ends_s)
    return told[0] - now_s if told and is_number(told[0]) else api.lifetime_s


def _working(api: ApiDescription, fields: JsonValue, word: str, *, known: bool, wait_s: float | None) -> VideoWorking:
    progress, place = api.find(fields, api.progress), api.find(fields, api.queue_position)
    share = progress[0] / api.progress_scale if progress and is_number(progress[0]) else None
    position = place[0] if place and is_number(place[0]) else None
    return VideoWorking(
        word or "working",
        known,
        wait_s,
        progress=share,
        queue_position=None if position is None else int(position),
    )


def _ended(api: ApiDescription, fields: JsonValue, meant: Meaning, wait_s: float | None = None) -> Observation:
    """Return how a job ended that has no video; its code may say more than its word."""
    code = api.text(fields, *api.code)
    if code is not None:
        meant = next((meaning for start, meaning in api.codes.items() if code.startswith(start)), meant)
    if meant is Meaning.MISSING:
        return VideoMissing()
    if meant is Meaning.FAULT:
        return Fault(FaultKind.SERVER, own("the video API is in trouble"), wait_s)
    reason = FailureReason.UNKNOWN if meant is Meaning.FAILED else failure_reason(meant.value)
    told = NO_REASON if reason is FailureReason.UNKNOWN else f"the video API says: {reason.value.replace('_', ' ')}"
    return VideoFailed(clean_text(api.text(fields, *api.error), told) or own(told), reason=reason)


def _refused(
    api: ApiDescription, job: VideoJob, reply: HttpReply, body: object, wait_s: float | None
) -> VideoMissing | Fault:
    """Return what a status that is no success means, where the description says nothing of it."""
    gone = reply.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
    if gone and says_something_of_a_job(reply, api_id_of(job), api.text(_fields(body), api.id)):
        return VideoMissing()
    if reply.status == HTTPStatus.PAYMENT_REQUIRED:
        return Fault(FaultKind.CREDENTIALS, own("HTTP 402: the account at the video API has no credit"), wait_s)
    # Also a 400: what this API means by it is not known, and a video may have been paid for.
    return fault_of(reply, wait_s)


def _fault_or_reply(reply: Exchange) -> Fault | HttpReply:
    return Fault(FAULTS[reply.kind], own(reply.detail)) if isinstance(reply, HttpFailure) else reply


def _fields(body: object) -> JsonValue:
    return body if isinstance(body, dict) else {}


class HttpVideoPoller(HttpApiClient):
    """Asks a described video API about jobs, in threads (`poll`) and under asyncio (`apoll`).

    What a description cannot say stands in a subclass: `build` and `read` are pure methods, and
    work under both runners.

    ::

        from videopoll.video_api.apis import REPLICATE

        poller = HttpVideoPoller(REPLICATE, api_key=os.environ["REPLICATE_API_TOKEN"])
        runner = Runner(queue, poller, notifier)

    Args:
        api: The description.
        api_key: The key, or a function that gives the one of this moment: it is called for
            each poll, so it keeps what it made. Kept out of ``repr`` and of error
            texts; sent to the origin of the base URL only.
        base_url: Where the API is, if not where the description says.
        client: The host's httpx client for `poll`; it is never closed here.
        async_client: The same for `apoll`.
        max_connections: Connections open at most, for threads and for each event loop.
        transport: What carries `apoll` without `async_client`; see `VideoApiPoller`.

    Raises:
        ConfigurationError: A value cannot work, or there is no base URL.
    """

    keeps_time: bool = True

    _builds_plainly: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        if "apoll" in vars(cls) and "keeps_time" not in vars(cls):
            cls.keeps_time = False
        cls._builds_plainly = cls.build is HttpVideoPoller.build

    def __init__(
        self,
        api: ApiDescription,
        *,
        api_key: Key | None = None,
        base_url: str | None = None,
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        max_connections: int = 1000,
        transport: Literal["auto", "httpx", "aiohttp"] = "auto",
    ) -> None:
        super().__init__(
            api,
            api_key=api_key,
            base_url=base_url,
            client=client,
            async_client=async_client,
            max_connections=max_connections,
            transport=transport,
        )
        if callable(api_key):
            # How long it takes is not for us to say.
            self.keeps_time = False

    @property
    def strategy(self) -> PollingStrategy:
        """When to poll, as the API's makers advise: a runner that is given no strategy goes by it."""
        return self._api.strategy

    def poll(self, job: VideoJob, *, timeout_s: float) -> Observation:
        """Ask about `job` once, within `timeout_s` seconds."""
        if callable(self._key):
            return drive(self._ask(job, timeout_s), lambda asked: call(self._effect(asked, self._http.send)))
        return drive(self._ask(job, timeout_s), self._http.send)

    async def apoll(self, job: VideoJob, *, timeout_s: float) -> Observation:
        """Ask about `job` once, within `timeout_s` seconds."""
        if callable(self._key):
            return await adrive(self._ask(job, timeout_s), lambda asked: acall(self._effect(asked, self._http.asend)))
        return await adrive(self._ask(job, timeout_s), self._http.asend)

    @property
    def may_lock(self) -> bool:
        """Whether this API may finish with a video that only its key opens: then a runner needs a publisher."""
        return self._api.locked is not None

    def download(
        self, job: VideoJob, place: LockedLink | BucketObject, file: VideoSink, *, timeout_s: float
    ) -> Downloaded | VideoMissing | VideoFailed | Fault:
        """Write a video that only the key opens to `file`, within `timeout_s` seconds."""
        return drive(self._download(job, place, file, timeout_s, self._http.send), call)

    async def adownload(
        self, job: VideoJob, place: LockedLink | BucketObject, file: VideoSink, *, timeout_s: float
    ) -> Downloaded | VideoMissing | VideoFailed | Fault:
        """Write a video that only the key opens to `file`, within `timeout_s` seconds."""
        return await adrive(self._download(job, place, file, timeout_s, self._http.asend), acall)

    def build(self, job: VideoJob) -> HttpRequest | Observation:
        """Write the request that asks about `job`, without the key and the time limit, which are put in when it goes out.

        Override it for what the description cannot say. No I/O here.

        Returns:
            The request, to the origin of the base URL; or what is to be observed without one.

        Raises:
            Exception: It cannot be asked for now, which is a passing fault.
        """
        return self._get(self._api.poll, job)

    def read(self, reply: HttpReply, job: VideoJob) -> Observation | HttpRequest:
        """Return what an answer means, or the one more request that has to be made for it. See `read_result`.

        Override it for answers that take code to read; replies of any kind come here, also refusals. No I/O here.

        Raises:
            Exception: The answer cannot be read, which is a passing fault.
        """
        answer = read_answer(self._api, self._base_url, job, reply, time.time())
        if not isinstance(answer, Finished):
            return answer
        return self._get(self._api.follow or "", job)

    def read_result(self, reply: HttpReply, job: VideoJob) -> Observation:
        """Return what the answer to the second request means, that `read` asked for.

        Raises:
            Exception: The answer cannot be read, which is a passing fault.
        """
        return read_result(self._api, self._base_url, job, reply, time.time())

    def _ask(self, job: VideoJob, timeout_s: float) -> Generator[Any, Any, Observation]:
        """Yield the one or two requests of a poll, and before them the function for the key, if there is one."""
        if (stranger := job_of_another(job, self._api.name)) is not None:
            return stranger
        began_s, key = time.monotonic(), None
        try:
            if self._builds_plainly and not callable(self._key):
                # Almost every poll: the request is made once, as it goes out.
                key = self._key
                told: object = self._get(self._api.poll, job, headers=self._headers(key), timeout_s=timeout_s)
            else:
                told = self.build(job)
                if isinstance(told, HttpRequest):
                    key = checked_key((yield self._key)) if callable(self._key) else self._key
                    told = self._outgoing(told, key, timeout_s)
            if isinstance(told, HttpRequest):
                told = _fault_or_reply((yield told))
            if isinstance(told, HttpReply):
                told = self.read(told, job)
                if isinstance(told, HttpRequest):
                    left_s = max(SHORTEST_FOLLOW_S, timeout_s - (time.monotonic() - began_s))
                    told = yield from self._ask_more(self._outgoing(told, key, left_s), job)
        except Exception as error:  # noqa: BLE001 - a host's subclass, or its function for the key, may raise anything
            log.error("A poller raised an exception; it counts as a passing fault\n%s", trace_of(error))  # noqa: TRY400 - the error's text is not ours
            told = Fault(
                FaultKind.INTERNAL, quoting(f"the poller raised {type(error).__name__}", bounded_detail(error))
            )
        if not isinstance(told, Observation):
            return Fault(FaultKind.INTERNAL, own(f"the poller made {type(told).__name__}, which is no Observation"))
        return without_key(told, key)

    def _ask_more(self, told: HttpRequest | Fault, job: VideoJob) -> Generator[Any, Any, object]:
        """Yield the second request, and return what its answer means."""
        if not isinstance(told, HttpRequest):
            return told
        reply = _fault_or_reply((yield told))
        return self.read_result(reply, job) if isinstance(reply, HttpReply) else reply

    @staticmethod
    def _effect(asked: object, send: Callable[[HttpRequest], object]) -> Callable[[], object]:
        return partial(send, asked) if isinstance(asked, HttpRequest) else cast("Callable[[], object]", asked)

    def _outgoing(self, request: HttpRequest, key: str | None, timeout_s: float) -> HttpRequest | Fault:
        """Return a request as it goes out, with the key in it."""
        if not request.url.startswith(self._inside) and origin_of(request.url) != origin_of(self._base_url):
            elsewhere = "the request goes to another origin than that of the base URL, where the key must not go"
            return Fault(FaultKind.INTERNAL, own(elsewhere))
        headers = self._headers(key)
        if request.headers:
            headers = {**headers, **request.headers}
        return attrs.evolve(request, headers=headers, timeout_s=timeout_s)

    def _download(
        self,
        job: VideoJob,
        place: LockedLink | BucketObject,
        file: VideoSink,
        timeout_s: float,
        send: Callable[[HttpRequest], Exchange | Awaitable[Exchange]],
    ) -> Flow[Downloaded | VideoMissing | VideoFailed | Fault]:
        if isinstance(place, BucketObject):
            return VideoFailed(own("the video lies in a bucket, which this poller has no right to"))
        if url_problem(place.url) is not None or origin_of(place.url) != origin_of(self._base_url):
            elsewhere = "the video is on another host than the API: the key is not sent there"
            return Fault(FaultKind.INTERNAL, own(elsewhere))
        headers = self._headers((yield from self._ask_key()))
        got = yield from downloading(place.url, headers, file, timeout_s, send)
        if not isinstance(got, HttpReply):
            return got
        return _refused(self._api, job, got, got.json(), retry_after_s(got.headers, time.time()))

    def _get(
        self, template: str, job: VideoJob, *, headers: Mapping[str, str] | None = None, timeout_s: float = 30.0
    ) -> HttpRequest | Fault:
        url = self._api.url(template, self._base_url, job)
        if url is None:
            lacks = f"the job has no URL to ask for: {self._api.name} needs what {template} names, on its own host"
            return Fault(FaultKind.INTERNAL, own(lacks))
        return HttpRequest(method="GET", url=url, headers=headers or {}, timeout_s=timeout_s)
