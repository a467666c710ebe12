"""Descriptions against aimock, which others make and check against the live APIs; `nox -s aimock` installs it.

It fakes five of the APIs that are described here. The requests go to the APIs' own addresses,
and a transport brings them to aimock, so that what is tested is each description as it is.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from videopoll import VideoJob
from videopoll.jobs import FailureReason
from videopoll.observations import Downloaded, Fault, FaultKind, VideoFailed, VideoMissing, VideoReady, VideoWorking
from videopoll.video_api import (
    ApiDescription,
    GenerationErrorCode,
    GenerationFailed,
    GenerationRequest,
    GenerationStarted,
    HttpVideoGenerator,
    HttpVideoPoller,
)
from videopoll.video_api.apis import FAL, MODELARK, OPENROUTER, VIDEOS, XAI

AIMOCK = os.environ.get("VIDEOPOLL_AIMOCK")
pytestmark = pytest.mark.skipif(not AIMOCK, reason="needs aimock: nox -s aimock, with Node 20 or newer and npm")

KEY = "the-key"
URL = "https://files.example/1.mp4"
OPENAI = "https://api.openai.com/v1"
APIS = {api.name: api for api in (VIDEOS, OPENROUTER, FAL, XAI, MODELARK)}

SERVER = """
import { LLMock } from "@copilotkit/aimock";

const steps = { pollsBeforeInProgress: 2, pollsBeforeCompleted: 3 };
const mock = new LLMock({
  port: 0, logLevel: "silent", auth: { apiKeys: ["the-key"] },
  falQueue: steps, openRouterVideo: steps, grokVideo: steps, bytePlusVideo: steps,
});
const url = "https://files.example/1.mp4";
const video = (model, fields) => mock.addFixture({
  match: { model, endpoint: "video" }, response: { video: { id: `of-${model}`, url, ...fields } },
});
const ark = (model, fields) => mock.addFixture({ match: { model, endpoint: "video" }, response: { json: { model, ...fields } } });
video("good", { status: "completed" });
video("working", { status: "processing" });
video("bad", { status: "failed", error: "a bad prompt" });
mock.onFalVideo("fal-ai/good", { video: { id: "1", status: "completed", url } });
mock.onFalQueue("fal-ai/moderated", { detail: [{ msg: "flagged", type: "content_policy_violation" }] });
ark("ark-good", { status: "succeeded", content: { video_url: url } });
ark("ark-cancelled", { status: "cancelled" });
ark("ark-expired", { status: "expired" });
ark("ark-bad", { status: "failed", error: { code: "OutputVideoSensitiveContentDetected", message: "flagged" } });
for (const endpoint of ["video", "fal"])
  mock.addFixture({ match: { model: "busy", endpoint }, response: { error: { message: "slow down" }, status: 429 } });
console.log(await mock.start());
"""


class ToAimock(httpx.HTTPTransport):
    """Brings what goes to an API's own address to aimock, as fal's own client does in front of it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = httpx.URL(url)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on."""
        if request.url.host == "queue.fal.run":
            request.headers["x-fal-target-host"] = request.url.host
            request.url = request.url.copy_with(raw_path=b"/fal" + request.url.raw_path)
        request.url = request.url.copy_with(scheme="http", host=self._url.host, port=self._url.port)
        return super().handle_request(request)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    node = shutil.which("node")
    assert node is not None
    command = [node, "--input-type=module", "--eval", SERVER]
    with subprocess.Popen(command, cwd=Path(AIMOCK or ""), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        with httpx.Client(transport=ToAimock(url)) as client:
            yield client
        server.kill()


def base_url(api: ApiDescription) -> str | None:
    return OPENAI if api is VIDEOS else None


@pytest.fixture
def start(client):
    """Starts a generation with a model."""

    def start(name: str, model: str):
        generator = HttpVideoGenerator(
            APIS[name], api_key=KEY, base_url=base_url(APIS[name]), model=model, client=client, retry_waits_s=()
        )
        return generator.generate(GenerationRequest(prompt="a dancing fox"))

    return start


@pytest.fixture
def poll(client):
    """Polls a job that was started."""

    def poll(started: GenerationStarted, *, key: str = KEY):
        api = APIS[started.provider or ""]
        poller = HttpVideoPoller(api, api_key=key, base_url=base_url(api), client=client)
        return poller.poll(VideoJob(started.job_id, "user", 0, started.metadata), timeout_s=5)

    return poll


MODELS = {"openrouter": "good", "fal": "fal-ai/good", "xai": "good", "modelark": "ark-good"}


@pytest.mark.parametrize("name", MODELS)
def test_a_generation_is_started_and_polled_to_its_end(start, poll, name):
    started = start(name, MODELS[name])
    assert type(started) is GenerationStarted

    seen = [poll(started) for _ in range(3)]

    assert [type(one) for one in seen] == [VideoWorking, VideoWorking, VideoReady], seen
    assert all(one.known for one in seen[:2])
    # What OpenRouter made, only the key opens.
    assert seen[2].video_url == (None if name == "openrouter" else URL)
    assert type(poll(started)) is VideoReady


def test_the_dialect_of_v1_videos_says_one_word_for_ever(start, poll):
    ready, bad = poll(start("videos", "good")), poll(start("videos", "bad"))
    assert (type(ready), ready.video_url) == (VideoReady, URL)
    assert type(bad) is VideoFailed


@pytest.mark.parametrize("name", ["openrouter", "xai"])
def test_a_generation_that_failed_says_why(start, poll, name):
    started = start(name, "bad")
    last = [poll(started) for _ in range(3)][-1]
    assert (type(last), str(last.error)) == (VideoFailed, "a bad prompt")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("ark-bad", FailureReason.MODERATED),
        ("ark-cancelled", FailureReason.CANCELLED),
        ("ark-expired", FailureReason.EXPIRED),
    ],
)
def test_modelark_ends_in_the_words_that_its_client_library_declares(start, poll, model, reason):
    started = start("modelark", model)
    last = [poll(started) for _ in range(3)][-1]
    assert (type(last), last.reason) == (VideoFailed, reason)


class Sink(io.BytesIO):
    """Where a video is written to."""

    max_bytes = 1_000_000


def test_what_openrouter_made_only_the_key_opens(client, start, poll):
    started = start("openrouter", "good")
    (asset,) = [poll(started) for _ in range(3)][-1].assets
    place, job, file = asset.place, VideoJob(started.job_id, "user", 0, started.metadata), Sink()
    assert client.get(place.url).status_code == 401

    opened = HttpVideoPoller(OPENROUTER, api_key=KEY, client=client).download(job, place, file, timeout_s=5)

    assert opened == Downloaded("video/mp4")
    assert b"ftyp" in file.getvalue()


def test_a_job_that_was_cancelled_at_fal_has_ended(client, start, poll):
    started = start("fal", "fal-ai/good")
    cancel_url = started.operation["status_url"].removesuffix("/status") + "/cancel"
    client.put(cancel_url, headers={"Authorization": f"Key {KEY}"}).raise_for_status()
    cancelled = poll(started)
    assert (type(cancelled), cancelled.reason) == (VideoFailed, FailureReason.CANCELLED)


@pytest.mark.parametrize("name", APIS)
def test_a_job_that_the_api_does_not_know_is_missing(poll, name):
    where = {"status_url": f"{FAL.base_url}/fal-ai/good/requests/nobody/status", "response_url": f"{FAL.base_url}/x"}
    unknown = GenerationStarted.of(name, "nobody", **(where if name == "fal" else {}))
    assert poll(unknown) == VideoMissing()


@pytest.mark.parametrize("name", APIS)
def test_another_key_is_refused_as_one(poll, name):
    unknown = GenerationStarted.of(name, "x", status_url=f"{FAL.base_url}/fal-ai/good/requests/x/status")
    refused = poll(unknown, key="another")
    assert (type(refused), refused.kind) == (Fault, FaultKind.CREDENTIALS)


@pytest.mark.parametrize("name", APIS)
def test_a_start_that_is_refused_for_now_says_so(start, name):
    busy = start(name, "busy")
    assert (type(busy), busy.code) == (GenerationFailed, GenerationErrorCode.RATE_LIMITED)
