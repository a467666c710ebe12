"""What every poller promises, as tests that its author runs over it. See `videopoll.testing.contract`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar, TypeAlias, cast

import attrs
from typing_extensions import override

from videopoll._reasons import quoting
from videopoll.jobs.job import VideoJob
from videopoll.jobs.video import LockedLink
from videopoll.observations import (
    Downloaded,
    Fault,
    FaultKind,
    Observation,
    VideoFailed,
    VideoMissing,
    VideoReady,
    VideoWorking,
)
from videopoll.testing.assertions import Answering
from videopoll.testing.contract import HURRY_S, NO_NEWS, RETRY_AFTER_S, START_MS, THREADS, check
from videopoll.testing.servers import FakeServer, Reply
from videopoll.video_api.http_poller import HttpVideoPoller
from videopoll.video_api.poller import VideoApiPoller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
    from typing import Self

    from videopoll.jobs.codec import JsonValue
    from videopoll.jobs.video import BucketObject
    from videopoll.protocols import AsyncVideoPoller, VideoPoller

__all__ = ["VideoPollerContract"]

JOB_ID = "job_1757157518747_contract"
ANOTHER = "job_1757157518747_somebody-elses"
API_KEY = "s3cr3t-key-of-the-contract"

PATIENCE_S = 10.0
"""Seconds for a poll of a server that answers at once."""

LATE_S = 2.0
"""Seconds by which a poll may be over its time: this machine may be busy."""

_OVER = (VideoReady, VideoFailed, VideoMissing)
"""What ends a job."""

_VIDEO = b"\x00\x00\x00\x18ftypmp42" + b"a video of the contract" * 400

_WHOLE = Reply(status=200, body=_VIDEO, headers={"Content-Type": "video/mp4"})

_TOO_LONG = (str(len(_VIDEO) + 1), str(10**15))
_NO_LENGTHS = ("-1", "a video", f"{len(_VIDEO)}, 1")
"""What a broken server tells in Content-Length."""

_PAGE = b"<!doctype html><html><h1>404 Not Found</h1><p>nginx</p></html>"

_Poller: TypeAlias = "VideoPoller | AsyncVideoPoller"


_DOWNLOADS = ("download", "adownload")


@attrs.frozen
class _Side:
    """One side of a poller: the blocking one, or the one for asyncio, in an event loop of its own."""

    name: str
    method: Callable[..., object]
    ours: bool
    loop: asyncio.Runner | None = None

    def poll(self, job: VideoJob, timeout_s: float = PATIENCE_S) -> Observation:
        """Poll once; an exception counts as a fault, as it does for a worker."""
        return self.polls(job, timeout_s, 1)[0]

    def polls(self, job: VideoJob, timeout_s: float, many: int) -> list[Observation]:
        """Poll several times at once."""
        if self.loop is None:
            with ThreadPoolExecutor(many) as threads:
                told = list(threads.map(lambda _: self._outcome(job, timeout_s), range(many)))
        else:

            async def together() -> list[object]:
                awaited = (cast("Awaitable[object]", self.method(job, timeout_s=timeout_s)) for _ in range(many))
                return list(await asyncio.gather(*awaited, return_exceptions=True))

            told = self.loop.run(together())
        return [self._observation(one) for one in told]

    def _outcome(self, job: VideoJob, timeout_s: float) -> object:
        try:
            return self.method(job, timeout_s=timeout_s)
        except Exception as error:  # noqa: BLE001 - judged in `_observation`
            return error

    def download(
        self, job: VideoJob, place: LockedLink | BucketObject, file: _Sink, timeout_s: float = PATIENCE_S
    ) -> Downloaded | Observation:
        """Download once; an exception counts as a fault, as it does for a worker."""
        try:
            told = self.method(job, place, file, timeout_s=timeout_s)
            if self.loop is not None:
                told = self.loop.run(cast("Coroutine[object, object, object]", told))
        except Exception as error:  # noqa: BLE001 - judged in `_observation`
            told = error
        return told if isinstance(told, Downloaded) else self._observation(told)

    def _observation(self, told: object) -> Observation:
        if isinstance(told, Exception):
            complaint = f"{self.name} raised {type(told).__name__}: build and read may, the poller makes a fault of it"
            check(not self.ours, complaint)
            return Fault(FaultKind.INTERNAL, quoting(f"the poller raised {type(told).__name__}", told))
        check(isinstance(told, Observation), f"{self.name} has to give an Observation, got {type(told).__name__}")
        return cast("Observation", told)


class _Sink:
    """Where a video is written to: it takes no more than `max_bytes`."""

    def __init__(self, max_bytes: int = 2 * len(_VIDEO)) -> None:
        self.max_bytes = max_bytes
        self.data = b""

    def write(self, data: bytes, /) -> int:
        if len(self.data) + len(data) > self.max_bytes:
            msg = f"the video is larger than {self.max_bytes} bytes"
            raise ValueError(msg)
        self.data += data
        return len(data)


@contextlib.contextmanager
def _sides_of(poller: _Poller, *names: str) -> Iterator[list[_Side]]:
    """Yield both sides of a poller, or the one that it has, and close it after them."""
    check(hasattr(poller, "poll"), f"{type(poller).__name__} has no method poll(job, timeout_s=seconds)")
    methods = [(name, getattr(poller, name, None)) for name in names or ("poll", "apoll")]
    with asyncio.Runner() as loop:
        ours = isinstance(poller, HttpVideoPoller | VideoApiPoller)
        try:
            yield [
                _Side(name, method, ours, loop if inspect.iscoroutinefunction(method) else None)
                for name, method in methods
                if method is not None
            ]
        finally:
            for name in ("close", "aclose"):
                close = getattr(poller, name, None)
                if inspect.iscoroutinefunction(close):
                    loop.run(close())
                elif close is not None:
                    close()


class VideoPollerContract(Answering):
    """What a poller has to keep to, over both its sides and a real local server.

    For descriptions of your own, for subclasses of `HttpVideoPoller`, and for any other
    poller over HTTP. Subclass it in a test module, and say how the API answers about the job
    of the contract, which is called `job_id`::

        class TestTasks(VideoPollerContract):
            working = Reply.json({"id": VideoPollerContract.job_id, "state": "running"})
            finished = Reply.json({"id": VideoPollerContract.job_id, "state": "done", "url": VideoPollerContract.video_url})

            def make_poller(self, base_url, api_key):
                return HttpVideoPoller(TASKS, base_url=base_url, api_key=api_key)

    Each ``test_*`` method builds pollers of its own. An exception out of a poller counts as a
    passing fault, as a worker takes it; an `HttpVideoPoller` must not raise any.
    """

    job_id: ClassVar[str] = JOB_ID
    """The id of the job that is polled for."""

    video_url: ClassVar[str] = "https://files.example/video.mp4"
    """The link that `finished` has in it."""

    working: Reply
    """What the API answers while it works."""

    finished: Reply | Sequence[Reply]
    """What it answers when the video is there; several for a poll of several requests. ``{base}`` is the base URL."""

    failed: ClassVar[Reply | Sequence[Reply] | None] = None
    """What it answers when there will be none; None leaves that out."""

    def make_poller(self, base_url: str, api_key: str) -> _Poller:
        """Build the poller, pointed at a server. Called for each test."""
        msg = f"{type(self).__name__} must override make_poller(self, base_url, api_key)"
        raise NotImplementedError(msg)

    def metadata(self, base_url: str) -> Mapping[str, JsonValue]:
        """Return the metadata of the job, such as its ``operation``."""
        del base_url
        return {}

    def locked_place(self, base_url: str) -> LockedLink | BucketObject | None:
        """Return where a video is that only the API's key opens; None leaves out what a poller's `download` promises."""
        return LockedLink(f"{base_url}/video")

    # --- what an answer means ---

    def test_a_job_that_is_worked_on_goes_on(self) -> None:
        """It is asked for again after the interval."""
        for side, told in self._told(self.working):
            self._is(side, told, VideoWorking, "an answer that it works")

    def test_a_finished_video_is_handed_on(self) -> None:
        """With the link that the API gave."""
        for side, told in self._told(self.finished):
            self._is(side, told, VideoReady, "an answer that the video is finished")
            url = told.video_url if isinstance(told, VideoReady) else None
            check(url == self.video_url, f"{side.name}: the video's URL has to be that of the answer")

    def test_a_failure_ends_the_job(self) -> None:
        """So that its user does not wait for the deadline."""
        if self.failed is not None:
            for side, told in self._told(self.failed):
                self._is(side, told, VideoFailed, "an answer that there will be no video")

    def test_an_answer_about_another_job_says_nothing(self) -> None:
        """A proxy's cache may mix answers up, and somebody else's video is nobody's business."""
        for reply in (self.finished, self.failed or ()):
            others = [_about_another(one) for one in _replies(reply)]
            if any(other is not None for other in others):
                mixed = [other or one for other, one in zip(others, _replies(reply), strict=True)]
                for side, told in self._told(mixed):
                    check(not isinstance(told, _OVER), f"{side.name}: an answer that names another job ended this one")

    def test_an_answer_that_says_nothing_ends_no_job(self) -> None:
        """Whatever comes back, a video that was paid for is waited for."""
        for body in NO_NEWS:
            for side, told in self._told(Reply.garbage(body)):
                check(not isinstance(told, _OVER), f"{side.name}: {body[:50]!r} says nothing, and ended the job")

    def test_an_error_is_no_video_and_no_end(self) -> None:
        """What a gateway or a deployment in progress answers passes."""
        for status in (302, 401, 403, 408, 429, 500, 502, 503):
            for body in (_replies(self.finished)[-1].body, b"", _PAGE, b"[" * 50_000):
                for side, told in self._told(Reply(status=status, body=body)):
                    self._is(side, told, Fault, f"HTTP {status}")

    def test_a_404_of_a_proxy_does_not_end_the_job(self) -> None:
        """It knows nothing of the job: `VideoMissing` is for the API's own words."""
        for side, told in self._told(Reply.garbage(_PAGE, status=404)):
            check(not isinstance(told, _OVER), f"{side.name}: a proxy's page with HTTP 404 ended the job")

    def test_a_busy_api_is_left_alone(self) -> None:
        """`FaultKind.THROTTLED` pauses all polls of a worker, for as long as the API says."""
        for side, told in self._told(Reply.fault(429, retry_after=RETRY_AFTER_S)):
            check(
                isinstance(told, Fault) and told.kind is FaultKind.THROTTLED and told.retry_after_s == RETRY_AFTER_S,
                f"{side.name}: HTTP 429 is a fault of the kind THROTTLED with retry_after_s={RETRY_AFTER_S}, got {told!r}",
            )

    def test_a_wrong_key_is_told_as_one(self) -> None:
        """`FaultKind.CREDENTIALS` is what the operator hears of loudly."""
        for side, told in self._told(Reply.json({"error": {"message": "invalid key"}}, status=401)):
            kind = told.kind if isinstance(told, Fault) else None
            check(
                kind is FaultKind.CREDENTIALS, f"{side.name}: HTTP 401 is a fault of the kind CREDENTIALS, got {told!r}"
            )

    def test_a_server_that_is_away_passes(self) -> None:
        """A connection that is refused, or ends without an answer."""
        for side, told in self._told(Reply.dropped()):
            self._is(side, told, Fault, "a connection that ends without an answer")
        with FakeServer() as server:
            server.stop()
            with self._sides(server.url) as sides:
                for side in sides:
                    self._is(side, side.poll(self._job(server.url)), Fault, "a refused connection")

    # --- time, secrets, origins ---

    def test_a_poll_ends_in_time(self) -> None:
        """Or one API that hangs holds up a worker's places."""
        for reply in (Reply.hang(), Reply.drip(60.0)):
            with FakeServer() as server, self._sides(server.url) as sides:
                server.fail_every(1, reply)
                for side in sides:
                    if reply.trickle_s and not side.ours:
                        continue  # Many clients have a limit for each read alone; the runner has one around them.
                    began_s = time.monotonic()
                    self._is(side, side.poll(self._job(server.url), HURRY_S), Fault, "no answer in time")
                    took_s = time.monotonic() - began_s
                    check(took_s < HURRY_S + LATE_S, f"{side.name} took {took_s:.1f} s, and had {HURRY_S} s")

    def test_nothing_tells_the_key(self) -> None:
        """APIs like to quote what they were sent, and observations go to logs and dead letters."""
        quoting: JsonValue = {"error": {"message": API_KEY}, "message": API_KEY, "detail": API_KEY, "status": "failed"}
        replies = [Reply.json(quoting, status=status) for status in (200, 400, 401, 403, 404, 422, 429, 500)]
        with _Log() as log, FakeServer() as server, self._sides(server.url) as sides:
            told: list[object] = [getattr(sides[0].method, "__self__", None)]
            for reply in [
                *replies,
                Reply.garbage(API_KEY.encode()),
                Reply.dropped(),
                Reply.redirect("/elsewhere"),
            ]:
                server.heal()
                server.fail_every(1, reply)
                for side in sides:
                    observed = side.poll(self._job(server.url))
                    # The whole text too, which an operator may ask for.
                    told.append(observed)
                    if side.ours:
                        told += [str(getattr(observed, "detail", "")), str(getattr(observed, "error", ""))]
        for thing in told:
            check(API_KEY not in repr(thing), f"what {type(thing).__name__} tells has the key in it")
        check(not any(API_KEY in line for line in log.lines), "a log line has the key in it")

    def test_the_key_stays_at_its_api(self) -> None:
        """No redirect is followed, and no address out of a job or an answer is asked, at another origin than the API's."""
        with FakeServer() as elsewhere, FakeServer() as server, self._sides(server.url) as sides:
            foreign = [_at(elsewhere.url, one) for one in _replies(self.finished)]
            for replies in (
                [Reply.redirect(f"{elsewhere.url}/jobs/1")],
                [Reply.redirect(elsewhere.url, status=307)],
                foreign,
            ):
                for side in sides:
                    for base_url in (server.url, elsewhere.url):
                        server.heal()
                        server.reply_with(*replies)
                        side.poll(self._job(base_url))
            told = [one for one in elsewhere.requests if API_KEY in f"{one.target} {dict(one.headers)} {one.raw!r}"]
            check(not told, "the key went to another origin than the API's")

    # --- videos that only the key opens, for pollers that have `download` ---

    def test_a_locked_video_is_fetched_whole(self) -> None:
        """What breaks off, or is told to be longer than it is, is no video."""
        for side, told, file in self._fetched(_WHOLE):
            check(isinstance(told, Downloaded), f"{side.name}: a video that came whole is Downloaded, got {told!r}")
            check(file.data == _VIDEO, f"{side.name}: what was written is not the video")
        for side, told, _ in self._fetched(*map(_of_length, _TOO_LONG)):
            check(not isinstance(told, Downloaded), f"{side.name}: a video that broke off was Downloaded")
        for side, told, file in self._fetched(*map(_of_length, _NO_LENGTHS)):
            whole = not isinstance(told, Downloaded) or file.data == _VIDEO
            check(
                whole, f"{side.name}: a part of a video was Downloaded, of a server that tells no good Content-Length"
            )

    def test_a_locked_video_is_no_larger_than_it_may_be(self) -> None:
        """Or one video fills a worker's disk."""
        for side, told, _ in self._fetched(_WHOLE, max_bytes=len(_VIDEO) - 1):
            check(not isinstance(told, Downloaded), f"{side.name}: a video with more than max_bytes was Downloaded")

    def test_an_error_is_no_locked_video(self) -> None:
        """Its body would be published, and sent to a user."""
        quoting: JsonValue = {"error": {"message": API_KEY}, "message": API_KEY, "detail": API_KEY}
        for status in (302, 400, 401, 403, 404, 408, 429, 500, 502, 503):
            for side, told, _ in self._fetched(Reply.garbage(_PAGE, status=status), Reply.json(quoting, status=status)):
                check(not isinstance(told, Downloaded), f"{side.name}: HTTP {status} was Downloaded")
                texts = [repr(told), str(getattr(told, "detail", "")), str(getattr(told, "error", ""))]
                check(not any(API_KEY in text for text in texts), f"{side.name}: what it tells has the key in it")
        for side, told, _ in self._fetched(Reply.dropped()):
            check(not isinstance(told, Downloaded), f"{side.name}: a connection without an answer was Downloaded")

    def test_a_download_ends_in_time(self) -> None:
        """Or one file that never ends holds up a worker's places."""
        began_s = time.monotonic()
        for side, told, _ in self._fetched(Reply.hang(), attrs.evolve(_WHOLE, trickle_s=60.0), timeout_s=HURRY_S):
            took_s, began_s = time.monotonic() - began_s, time.monotonic()
            check(not isinstance(told, Downloaded), f"{side.name}: a video that did not come in time was Downloaded")
            check(took_s < HURRY_S + LATE_S, f"{side.name} took {took_s:.1f} s, and had {HURRY_S} s")

    def test_the_key_of_a_download_stays_at_its_api(self) -> None:
        """Not in a redirect, nor to a place on another host: `place` comes out of an answer."""
        with FakeServer() as elsewhere, FakeServer() as server:
            elsewhere.fail_every(1, _WHOLE)
            with _sides_of(self.make_poller(server.url, API_KEY), *_DOWNLOADS) as sides:
                for side in sides:
                    for status in (301, 302, 303, 307, 308):
                        server.heal()
                        server.fail_every(1, Reply.redirect(f"{elsewhere.url}/video", status=status))
                        for url in (server.url, elsewhere.url):
                            if (place := self.locked_place(url)) is not None:
                                side.download(self._job(server.url), place, _Sink())
            told = [one for one in elsewhere.requests if API_KEY in f"{one.target} {dict(one.headers)} {one.raw!r}"]
            check(not told, "the key of a download went to another origin than the API's")

    # --- both worlds, threads, closing ---

    def test_both_sides_agree(self) -> None:
        """A host may change runners without its users noticing."""
        statuses = [
            Reply.json({"status": "failed", "error": "x"}, status=status) for status in (200, 400, 404, 422, 500)
        ]
        replies = [self.working, self.finished, self.failed or (), *statuses, *map(Reply.garbage, NO_NEWS)]
        for reply in replies:
            said = {_gist(told) for _, told in self._told(reply)} if reply else set()
            check(len(said) <= 1, f"poll and apoll say different things of one answer: {said}")

    def test_many_may_poll_at_once(self) -> None:
        """A worker's places share one poller."""
        with FakeServer() as server, self._sides(server.url) as sides:
            server.fail_every(1, _replies(self.working)[0])
            job = self._job(server.url)
            for side in sides:
                told = side.polls(job, PATIENCE_S, THREADS)
                working = [one for one in told if isinstance(one, VideoWorking)]
                other = next((one for one in told if not isinstance(one, VideoWorking)), None)
                check(
                    len(working) == THREADS,
                    f"{side.name}: not every poll was answered when several were made at once, one got {other!r}",
                )

    def test_a_closed_poller_opens_again(self) -> None:
        """A runner closes its poller at its end, and a host may start another one with it."""
        with FakeServer() as server:
            server.fail_every(1, _replies(self.working)[0])
            poller = self.make_poller(server.url, API_KEY)
            if not isinstance(poller, HttpVideoPoller):
                return  # What a client library does after its end is its own.
            for _ in range(2):
                with _sides_of(poller) as sides:
                    for side in sides:
                        self._is(side, side.poll(self._job(server.url)), VideoWorking, "an answer that it works")
                poller.close()

    # --- helpers ---

    def _job(self, base_url: str) -> VideoJob:
        return VideoJob(self.job_id, "conversation-1", START_MS, self.metadata(base_url))

    def _sides(self, base_url: str) -> contextlib.AbstractContextManager[list[_Side]]:
        return _sides_of(self.make_poller(base_url, API_KEY))

    def _told(self, reply: Reply | Sequence[Reply]) -> list[tuple[_Side, Observation]]:
        told = []
        with FakeServer() as server, self._sides(server.url) as sides:
            replies = [_at(server.url, one) for one in _replies(reply)]
            for side in sides:
                server.heal()
                server.fail_every(1, replies[-1])
                if len(replies) > 1:
                    server.reply_with(*replies)
                told.append((side, side.poll(self._job(server.url))))
        return told

    def _fetched(
        self, *replies: Reply, max_bytes: int = 2 * len(_VIDEO), timeout_s: float = PATIENCE_S
    ) -> Iterator[tuple[_Side, Downloaded | Observation, _Sink]]:
        with FakeServer() as server, _sides_of(self.make_poller(server.url, API_KEY), *_DOWNLOADS) as sides:
            place, job = self.locked_place(server.url), self._job(server.url)
            for reply in replies if place is not None else ():
                server.heal()
                server.fail_every(1, reply)
                for side in sides:
                    if reply.trickle_s and not side.ours:
                        continue  # As in `test_a_poll_ends_in_time`.
                    file = _Sink(max_bytes)
                    yield side, side.download(job, cast("LockedLink | BucketObject", place), file, timeout_s), file

    @staticmethod
    def _is(side: _Side, told: Observation, kind: type[Observation], what: str) -> None:
        check(isinstance(told, kind), f"{side.name}: {what} is {kind.__name__}, got {told!r}")


class _Log(logging.Handler):
    """Everything that is logged meanwhile."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        root = logging.getLogger()
        self._level = root.level
        root.addHandler(self)
        root.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *_: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        root.setLevel(self._level)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def _replies(reply: Reply | Sequence[Reply]) -> list[Reply]:
    return [reply] if isinstance(reply, Reply) else list(reply)


def _of_length(length: str) -> Reply:
    return attrs.evolve(_WHOLE, headers={**_WHOLE.headers, "Content-Length": length})


def _about_another(reply: Reply) -> Reply | None:
    """Return the same answer about another job; None if it names none."""
    changed = _changed(reply.body, lambda text: ANOTHER if text == JOB_ID else text)
    return None if changed == reply.body else attrs.evolve(reply, body=changed)


def _at(base_url: str, reply: Reply) -> Reply:
    """Return the same answer, with a base URL in the place of ``{base}``."""
    return attrs.evolve(reply, body=_changed(reply.body, lambda text: text.replace("{base}", base_url)))


def _changed(body: JsonValue | bytes, change: Callable[[str], str]) -> JsonValue | bytes:
    if isinstance(body, str):
        return change(body)
    if isinstance(body, list):
        return [cast("JsonValue", _changed(one, change)) for one in body]
    if isinstance(body, dict):
        return {name: cast("JsonValue", _changed(one, change)) for name, one in body.items()}
    return body


def _gist(told: Observation) -> str:
    """Return what two sides have to agree on: times may differ by as much as the polls are apart."""
    fields = [type(told).__name__, getattr(told, "kind", ""), getattr(told, "video_url", "")]
    return json.dumps([str(one) for one in fields])
