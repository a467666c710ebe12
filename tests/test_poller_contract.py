"""The conformance suite for pollers, over those that ship and those of the docs, and over pollers with one mistake each."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import inspect
import json
import re
import time
from pathlib import Path

import attrs
import httpx
import pytest

from kit import until
from videopoll import VideoApiPoller, events
from videopoll._http import NOT_JSON, HttpRequest
from videopoll.observations import Downloaded, Fault, FaultKind, VideoFailed, VideoReady, VideoWorking
from videopoll.testing import FakeServer, Reply, VideoPollerContract, build_job
from videopoll.testing.contract import HURRY_S
from videopoll.testing.poller_contract import LATE_S
from videopoll.video_api import HttpVideoPoller
from videopoll.video_api.apis import FAL, KLING, REPLICATE, VIDEOS, XAI

JOB_ID, URL = VideoPollerContract.job_id, VideoPollerContract.video_url
JOB = build_job("job_1")


class TestVideoApi(VideoPollerContract):
    """The poller of the one API."""

    working = Reply.json({"jobId": JOB_ID, "status": "processing"})
    finished = Reply.json({"jobId": JOB_ID, "status": "completed", "videoUrl": URL})
    failed = Reply.json({"jobId": JOB_ID, "status": "failed", "error": "too dark"})

    def make_poller(self, base_url, api_key):
        return VideoApiPoller(base_url=base_url, api_key=api_key)


class TestVideos(VideoPollerContract):
    working = Reply.json({"id": JOB_ID, "status": "in_progress", "progress": 40})
    finished = Reply.json({"id": JOB_ID, "status": "completed", "url": URL})
    failed = Reply.json({"id": JOB_ID, "status": "failed", "error": {"message": "too dark"}})

    def make_poller(self, base_url, api_key):
        return HttpVideoPoller(VIDEOS, base_url=f"{base_url}/v1", api_key=api_key)


class TestFal(VideoPollerContract):
    """Two requests, at addresses that came with the start."""

    working = Reply.json({"request_id": JOB_ID, "status": "IN_QUEUE", "queue_position": 3}, status=202)
    finished = (Reply.json({"request_id": JOB_ID, "status": "COMPLETED"}), Reply.json({"video": {"url": URL}}))
    failed = (finished[0], Reply.json({"detail": [{"msg": "no", "type": "content_policy_violation"}]}, status=422))

    def make_poller(self, base_url, api_key):
        return HttpVideoPoller(FAL, base_url=base_url, api_key=api_key)

    def metadata(self, base_url):
        job = f"{base_url}/fal-ai/kling/requests/{JOB_ID}"
        return {"operation": {"status_url": f"{job}/status", "response_url": job}}


class TestXai(VideoPollerContract):
    """Its answers name no job, and may be empty."""

    working = Reply.garbage(b"", status=202)
    finished = Reply.json({"status": "done", "video": {"url": URL}})
    failed = Reply.json({"status": "done", "video": {"url": URL, "respect_moderation": False}})

    def make_poller(self, base_url, api_key):
        return HttpVideoPoller(XAI, base_url=base_url, api_key=api_key)


def names_of_the_docs():
    """What the page makes that tells how to write a poller; its blocks belong together."""
    page = Path(__file__).parent.parent / "docs" / "how-to" / "add-a-video-api.md"
    names = {"__name__": "docs"}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    return names


def of_the_docs(name):
    return names_of_the_docs()[name]


class TestTaskPollerOfTheDocs(VideoPollerContract):
    """What authors copy from has to keep to the contract itself."""

    poller = "TaskPoller"
    working = Reply.json({"id": JOB_ID, "state": "running"})
    finished = Reply.json({"id": JOB_ID, "state": "succeeded", "video": {"url": URL}})
    failed = Reply.json({"id": JOB_ID, "state": "failed", "reason": "too dark"})

    def make_poller(self, base_url, api_key):
        return of_the_docs(self.poller)(base_url, api_key)


class TestAsyncTaskPollerOfTheDocs(TestTaskPollerOfTheDocs):
    poller = "AsyncTaskPoller"


class TestFilmsOfTheDocs(VideoPollerContract):
    """A description with code."""

    working = Reply.json({"data": {"taskId": JOB_ID, "state": "generating"}})
    finished = Reply.json(
        {"data": {"taskId": JOB_ID, "state": "success", "resultJson": f'{{"resultUrls": ["{URL}"]}}'}}
    )
    failed = Reply.json({"data": {"taskId": JOB_ID, "state": "fail", "failMsg": "too dark"}})

    def make_poller(self, base_url, api_key):
        names = names_of_the_docs()
        return names["FilmPoller"](names["FILMS"], base_url=base_url, api_key=api_key)


# --- pollers with one mistake each ---


class Two(HttpVideoPoller):
    """A poller of two requests: the address of the second one comes in the answer to the first."""

    def read(self, reply, job):
        body = reply.json()
        if reply.is_success and isinstance(body, dict) and body.get("id") == job.job_id and "next" in body:
            return HttpRequest(method="GET", url=body["next"])
        return super().read(reply, job)


class TestTwo(TestVideos):
    kind = Two
    finished = (
        Reply.json({"id": JOB_ID, "status": "completed", "next": "{base}/files/17"}),
        Reply.json({"url": URL}),
    )
    failed = None

    def make_poller(self, base_url, api_key):
        return self.kind(VIDEOS, base_url=base_url, api_key=api_key)


class FollowsElsewhere(Two):
    def _outgoing(self, request, key, timeout_s):
        self._base_url = re.match(r"https?://[^/]+", request.url)[0]
        return super()._outgoing(request, key, timeout_s)


class Raises(Two):
    def poll(self, job, *, timeout_s):
        raise ConnectionError

    apoll = None


class TakesAnother(HttpVideoPoller):
    def read(self, reply, job):
        body = reply.json()
        if reply.is_success and isinstance(body, dict) and body.get("status") == "completed":
            return VideoReady(URL)
        return super().read(reply, job)


class TakesAnyAnswer(HttpVideoPoller):
    def read(self, reply, job):
        answer = super().read(reply, job)
        return VideoFailed("no") if isinstance(answer, Fault) and reply.is_success else answer


class EndsAtErrors(HttpVideoPoller):
    def read(self, reply, job):
        return super().read(reply, job) if reply.is_success else VideoFailed("an error")


class CallsAll404Missing(HttpVideoPoller):
    def read(self, reply, job):
        return VideoFailed("gone") if reply.status == 404 else super().read(reply, job)


class ForgetsTheHint(HttpVideoPoller):
    def read(self, reply, job):
        return Fault(FaultKind.SERVER, "busy") if reply.status == 429 else super().read(reply, job)


class CallsAWrongKeyAFault(HttpVideoPoller):
    def read(self, reply, job):
        return Fault(FaultKind.SERVER, "401") if reply.status == 401 else super().read(reply, job)


class ShowsItsKey(HttpVideoPoller):
    def __repr__(self):
        return f"ShowsItsKey({self._key!r})"


class QuotesTheKey(HttpVideoPoller):
    def poll(self, job, *, timeout_s):
        super().poll(job, timeout_s=timeout_s)
        return Fault(FaultKind.SERVER, f"refused: {self._key}")

    async def apoll(self, job, *, timeout_s):
        await super().apoll(job, timeout_s=timeout_s)
        return Fault(FaultKind.SERVER, f"refused: {self._key}")


class TakesItsTime(HttpVideoPoller):
    def poll(self, job, *, timeout_s):
        return super().poll(job, timeout_s=timeout_s + 4)

    async def apoll(self, job, *, timeout_s):
        return await super().apoll(job, timeout_s=timeout_s + 4)


class AnotherInTheOtherWorld(HttpVideoPoller):
    async def apoll(self, job, *, timeout_s):
        return VideoWorking("asleep")


class FollowsRedirects:
    """A client that takes a header of its own along."""

    def __init__(self, api, *, base_url, api_key):
        self._client = httpx.Client(base_url=base_url, headers={"x-key": api_key}, follow_redirects=True)

    def poll(self, job, *, timeout_s):
        self._client.get(f"/videos/{job.job_id}", timeout=timeout_s)
        return VideoWorking("asleep")

    def close(self):
        self._client.close()


class Fetches(HttpVideoPoller):
    """A poller that fetches what only the key opens with a client of its own."""

    adownload = None
    longest_s = 0.0
    follows = False

    def download(self, job, place, file, *, timeout_s):
        limit_s = max(timeout_s, self.longest_s)
        options = {"headers": {"x-key": self._key}, "timeout": limit_s, "follow_redirects": self.follows}
        try:
            with httpx.Client(**options) as client, client.stream("GET", place.url) as reply:
                return self.take(reply, file)
        except (httpx.HTTPError, ValueError) as error:
            return Fault(FaultKind.SERVER, type(error).__name__)

    def take(self, reply, file):
        if reply.status_code != 200:
            return Fault(FaultKind.SERVER, "an error")
        for chunk in reply.iter_raw():
            file.write(chunk)
        return Downloaded("video/mp4")


class TakesErrors(Fetches):
    def take(self, reply, file):
        reply.status_code = 200
        return super().take(reply, file)


class TakesAHalf(Fetches):
    def take(self, reply, file):
        try:
            return super().take(reply, file)
        except httpx.RemoteProtocolError:
            return Downloaded("video/mp4")


class CutsOff(Fetches):
    def take(self, reply, file):
        try:
            return super().take(reply, file)
        except ValueError:
            return Downloaded("video/mp4")


class WaitsLong(Fetches):
    longest_s = HURRY_S + LATE_S + 1


class TakesItsKeyAlong(Fetches):
    follows = True


class QuotesTheKeyOfADownload(Fetches):
    def take(self, reply, file):
        return Fault(FaultKind.SERVER, f"refused: {self._key}")


MISTAKES = [
    (QuotesTheKeyOfADownload, TestTwo.test_an_error_is_no_locked_video, "has the key in it"),
    (TakesErrors, TestTwo.test_an_error_is_no_locked_video, "HTTP 302 was Downloaded"),
    (TakesAHalf, TestTwo.test_a_locked_video_is_fetched_whole, "broke off"),
    (CutsOff, TestTwo.test_a_locked_video_is_no_larger_than_it_may_be, "more than max_bytes"),
    (WaitsLong, TestTwo.test_a_download_ends_in_time, "and had 0.4 s"),
    (TakesItsKeyAlong, TestTwo.test_the_key_of_a_download_stays_at_its_api, "the key of a download"),
    (FollowsElsewhere, TestTwo.test_the_key_stays_at_its_api, "another origin"),
    (FollowsRedirects, TestTwo.test_the_key_stays_at_its_api, "another origin"),
    (Raises, TestTwo.test_a_job_that_is_worked_on_goes_on, "raised ConnectionError"),
    (TakesAnother, TestVideos.test_an_answer_about_another_job_says_nothing, "names another job"),
    (TakesAnyAnswer, TestTwo.test_an_answer_that_says_nothing_ends_no_job, "says nothing"),
    (EndsAtErrors, TestTwo.test_an_error_is_no_video_and_no_end, "HTTP 302 is Fault"),
    (CallsAll404Missing, TestTwo.test_a_404_of_a_proxy_does_not_end_the_job, "proxy's page"),
    (ForgetsTheHint, TestTwo.test_a_busy_api_is_left_alone, "THROTTLED"),
    (CallsAWrongKeyAFault, TestTwo.test_a_wrong_key_is_told_as_one, "CREDENTIALS"),
    (ShowsItsKey, TestTwo.test_nothing_tells_the_key, "has the key in it"),
    (QuotesTheKey, TestTwo.test_nothing_tells_the_key, "has the key in it"),
    (TakesItsTime, TestTwo.test_a_poll_ends_in_time, "and had 0.4 s"),
    (AnotherInTheOtherWorld, TestTwo.test_both_sides_agree, "different things"),
]


@pytest.mark.parametrize(("poller", "test", "said"), MISTAKES, ids=lambda one: getattr(one, "__name__", ""))
def test_a_mistake_is_found_by_the_test_for_it(poller, test, said):
    class Mistaken(TestVideos if "TestVideos" in test.__qualname__ else TestTwo):
        kind = poller

        def make_poller(self, base_url, api_key):
            return self.kind(VIDEOS, base_url=base_url, api_key=api_key)

    if poller is TakesAnother:
        Mistaken.finished = TestVideos.finished
    with pytest.raises(AssertionError, match=said):
        getattr(Mistaken(), test.__name__)()


def test_every_promise_is_broken_by_one_of_these_or_by_none_in_particular():
    """The rest says what an answer means, which each of the suites above shows."""
    broken = {test.__name__ for _, test, _ in MISTAKES}
    promises = {name for name, _ in inspect.getmembers(VideoPollerContract) if name.startswith("test_")}
    assert promises - broken == {
        "test_a_finished_video_is_handed_on",
        "test_a_failure_ends_the_job",
        "test_a_server_that_is_away_passes",
        "test_many_may_poll_at_once",
        "test_a_closed_poller_opens_again",
    }


# --- build and read ---


class Posts(HttpVideoPoller):
    """An API that is asked with a POST, and answers with a list."""

    def build(self, job):
        return HttpRequest(method="POST", url=f"{self.base_url}/status", json={"id": job.job_id})

    def read(self, reply, job):
        body = reply.json()
        if body is NOT_JSON:
            msg = f"{reply.body!r} is not JSON"
            raise ValueError(msg)
        return VideoReady(body[0]) if body else VideoWorking()


@pytest.fixture
def server():
    with FakeServer() as server:
        yield server


def test_a_subclass_with_build_and_read_delivers_under_both_runners(world, server):
    server.route("POST", "/status", Reply.json([]), Reply.json([URL]))
    world.enqueue("job_1")

    with world.worker(poller=Posts(REPLICATE, api_key="the-key", base_url=server.url)) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the user has the video")

    assert [one.body for one in server.requests] == [{"id": "job_1"}] * 2
    assert [one.headers["authorization"] for one in server.requests] == ["Bearer the-key"] * 2


@pytest.fixture(params=["threads", "asyncio"])
def poll(request):
    """Polls once, in either world."""

    def once(poller, job=JOB):
        async def apoll():
            try:
                return await poller.apoll(job, timeout_s=5)
            finally:
                await poller.aclose()

        try:
            return poller.poll(job, timeout_s=5) if request.param == "threads" else asyncio.run(apoll())
        finally:
            poller.close()

    return once


def test_a_body_goes_out_as_build_wrote_it_also_an_empty_one(poll, server):
    class Empty(HttpVideoPoller):
        def build(self, job):
            return HttpRequest(method="POST", url=f"{self.base_url}/status", json={}, headers={"X-Own": "1"})

    server.route("POST", "/status", Reply.json({"status": "processing"}))
    poll(Empty(REPLICATE, api_key="the-key", base_url=server.url))

    (asked,) = server.requests
    assert (asked.body, asked.headers["x-own"], asked.headers["authorization"]) == ({}, "1", "Bearer the-key")


def test_what_read_raises_is_a_fault_without_the_key_in_it(poll, server, caplog):
    server.route("POST", "/status", Reply.garbage(b"the-key is wrong"))
    told = poll(Posts(REPLICATE, api_key="the-key", base_url=server.url))

    assert told.kind is FaultKind.INTERNAL
    assert "ValueError" in repr(told)
    assert "the-key" not in told.detail + repr(told) + caplog.text
    assert "in read" in caplog.text


def test_what_build_asks_of_another_origin_is_not_asked(poll, server):
    class Astray(HttpVideoPoller):
        def build(self, job):
            return HttpRequest(method="GET", url=f"{server.url}/x")

    # Equal at the beginning, and another origin.
    for base_url in ("http://127.0.0.1:1", server.url[:-1], "http://127.0.0.1"):
        told = poll(Astray(REPLICATE, api_key="the-key", base_url=base_url))
        assert "another origin" in told.detail
    assert server.requests == []


@pytest.mark.parametrize("made", [None, "text", 7, object()])
def test_what_is_neither_a_request_nor_an_observation_is_a_fault(poll, server, made):
    class Odd(HttpVideoPoller):
        def build(self, job):
            return made

    told = poll(Odd(REPLICATE, api_key="k", base_url=server.url))
    assert (told.kind, "no Observation" in told.detail) == (FaultKind.INTERNAL, True)


def test_build_may_say_what_is_to_be_observed_without_a_request(poll, server):
    class Knows(HttpVideoPoller):
        def build(self, job):
            return VideoFailed("it is known")

    assert poll(Knows(REPLICATE, api_key="k", base_url=server.url)) == VideoFailed("it is known")


# --- keys that expire ---


def test_a_key_that_cannot_be_had_is_a_passing_fault(poll, server):
    def away():
        msg = "https://sso.example/?client_secret=s3cr3t is away"
        raise ConnectionError(msg)

    told = poll(HttpVideoPoller(REPLICATE, api_key=away, base_url=server.url))
    assert (told.kind, "s3cr3t" in repr(told)) == (FaultKind.INTERNAL, False)
    told = poll(HttpVideoPoller(REPLICATE, api_key=lambda: "two words", base_url=server.url))
    assert told.kind is FaultKind.INTERNAL
    assert server.requests == []


def test_kling_takes_the_tokens_of_the_page(poll, server):
    """A signed token of the kind that its accounts had before plain keys: made once, good for a quarter of an hour and more."""
    server.route("GET", f"/v1/videos/text2video/{JOB.job_id}", Reply.json({"data": {"task_status": "processing"}}))
    names = names_of_the_docs()
    token_of, now_s = names["token_of"], time.time()
    job = attrs.evolve(JOB, metadata={"operation": {"kind": "text2video"}})

    for _ in range(2):
        key = lambda: token_of(int(now_s // 900), "the-access-key", "the-secret-key")  # noqa: E731
        assert isinstance(poll(HttpVideoPoller(KLING, api_key=key, base_url=server.url), job), VideoWorking)

    first, second = (one.headers["authorization"] for one in server.requests)
    assert first == second
    head, claims, signature = first.removeprefix("Bearer ").split(".")
    assert decoded(head) == {"alg": "HS256", "typ": "JWT"}
    told = decoded(claims)
    assert (told["iss"], told["nbf"] < now_s < told["exp"] - 900 + 1, told["exp"] - told["nbf"]) == (
        "the-access-key",
        True,
        1805,
    )
    signed = hmac.digest(b"the-secret-key", f"{head}.{claims}".encode(), hashlib.sha256)
    assert base64.urlsafe_b64encode(signed).rstrip(b"=").decode() == signature


def test_an_oauth_token_is_fetched_and_kept_until_its_end_is_near(poll, server):
    server.route("POST", "/token", *(Reply.json({"access_token": f"token-{n}", "expires_in": 3600}) for n in (1, 2)))
    server.route("GET", f"/predictions/{JOB.job_id}", Reply.json({"status": "starting"}))
    hour = 0

    @functools.lru_cache(maxsize=1)
    def token_of(half_hour):
        reply = httpx.post(f"{server.url}/token", data={"grant_type": "client_credentials"})
        return reply.json()["access_token"]

    for hour in (0, 0, 1):
        poll(HttpVideoPoller(REPLICATE, api_key=lambda now=hour: token_of(now), base_url=server.url))

    sent = [one.headers["authorization"] for one in server.requests if one.method == "GET"]
    assert sent == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


def test_an_async_function_for_the_key_is_awaited_under_asyncio(server):
    server.route("GET", f"/predictions/{JOB.job_id}", Reply.json({"status": "starting"}))

    async def token():
        await asyncio.sleep(0)
        return "token-1"

    async def polled():
        poller = HttpVideoPoller(REPLICATE, api_key=token, base_url=server.url)
        told = await poller.apoll(JOB, timeout_s=5)
        await poller.aclose()
        return told, poller.poll(JOB, timeout_s=5)

    under_asyncio, in_a_thread = asyncio.run(polled())
    assert isinstance(under_asyncio, VideoWorking)
    assert in_a_thread.kind is FaultKind.INTERNAL
    assert [one.headers["authorization"] for one in server.requests] == ["Bearer token-1"]


def decoded(text):
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


class Breaks:
    """A poller of another class, with a mistake of its own in it."""

    def poll(self, job, *, timeout_s):
        return {}["url"]


class TestContractOfBreaks:
    """What its author reads: that it raised, and what; not only that a fault came."""

    def contract(self):
        class TestHalf(VideoPollerContract):
            def make_poller(self, base_url, api_key):
                return Breaks()

        return TestHalf()

    def test_an_exception_of_a_poller_is_named(self):
        contract = self.contract()
        contract.working = Reply.json({"state": "running"})
        for test in (contract.test_a_job_that_is_worked_on_goes_on, contract.test_many_may_poll_at_once):
            with pytest.raises(AssertionError, match="the poller raised KeyError"):
                test()

    def test_what_a_contract_has_to_be_told_is_named(self):
        with pytest.raises(AttributeError, match=r"TestHalf has no working: set working = Reply\.json\(…\)"):
            self.contract().test_a_job_that_is_worked_on_goes_on()
