"""Generations at described video APIs: what is asked for, what its answers come to, and what a poll needs of them."""

from __future__ import annotations

import asyncio
import email.parser
import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import until
from videopoll import AsyncRedisVideoJobQueue, ConfigurationError, RedisVideoJobQueue, events
from videopoll._http import FailureKind, HttpFailure, HttpReply
from videopoll.errors import InvalidJobError
from videopoll.jobs import VideoJob
from videopoll.observations import Fault, FaultKind, VideoMissing, VideoWorking
from videopoll.testing import FakeProviders, FakeServer, Reply
from videopoll.tool import VideoGeneratorTool
from videopoll.video_api import (
    Certainty,
    Generation,
    GenerationErrorCode,
    GenerationFailed,
    GenerationRequest,
    GenerationStarted,
    GenerationUnknown,
    HttpVideoGenerator,
    HttpVideoPoller,
    Start,
)
from videopoll.video_api.apis import ALL, FAL, KLING, LUMA, MINIMAX, REPLICATE, RUNWAY, VIDEOS, XAI
from videopoll.video_api.http_generator import read_start
from videopoll.video_api.http_poller import read_answer
from videopoll.video_api.operation import api_id_of, job_id_of
from videopoll.video_api.start import merged

BASE = "https://api.example/v1"
NOW_S = 1_757_157_518.0
PROMPT = "A red fox walks through fresh snow at dawn"


def job_of(started):
    return VideoJob(started.job_id, "user", round(NOW_S * 1000), started.metadata)


def reply(body, status=200, **headers):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpReply(status=status, headers={"content-type": "application/json", **headers}, body=raw)


# --- the job of a generation ---


def test_a_job_of_a_provider_is_named_after_both_and_knows_what_its_api_calls_it():
    started = GenerationStarted.of("fal", "r-1", status_url="https://queue.fal.run/m/requests/r-1/status")
    assert started.job_id == "fal:r-1"
    assert started.metadata == {
        "provider": "fal",
        "operation": {"id": "r-1", "status_url": "https://queue.fal.run/m/requests/r-1/status"},
    }
    assert "queue.fal.run" not in repr(started)


def test_a_job_without_a_provider_is_called_as_its_api_calls_it():
    started = GenerationStarted(job_id="job_1")
    assert (started.job_id, started.metadata) == ("job_1", {})
    assert api_id_of(job_of(started)) == "job_1"


def test_equal_ids_of_two_providers_are_two_jobs():
    assert GenerationStarted.of("fal", "1").job_id != GenerationStarted.of("xai", "1").job_id


@pytest.mark.parametrize("api_id", ["projects/p/locations/l/operations/1", "video_" + "x" * 350, "x" * 512, "ñ?#%2e"])
def test_an_id_of_any_length_is_asked_for_as_the_api_gave_it(api_id):
    started = GenerationStarted.of("videos", api_id)
    job = job_of(started)
    assert len(started.job_id) <= 512
    assert started.job_id == job_id_of("videos", api_id)
    assert api_id_of(job) == api_id
    assert VIDEOS.url(VIDEOS.poll, BASE, job) == VIDEOS.url(
        VIDEOS.poll, BASE, attrs.evolve(job, job_id=api_id, metadata={})
    )


@pytest.mark.parametrize("api_id", ["", "a b", "..", "x" * 513, "a\nb", "\ud800"])
def test_an_id_that_none_can_be_is_refused(api_id):
    with pytest.raises(InvalidJobError, match="the API's id"):
        GenerationStarted.of("videos", api_id)


def test_an_answer_is_that_of_a_job_by_the_id_of_the_api():
    job = job_of(GenerationStarted.of("replicate", "p-1"))
    assert REPLICATE.url(REPLICATE.poll, BASE, job) == f"{BASE}/predictions/p-1"
    working = read_answer(REPLICATE, BASE, job, reply({"id": "p-1", "status": "starting"}), NOW_S)
    assert type(working) is VideoWorking
    other = read_answer(REPLICATE, BASE, job, reply({"id": "replicate:p-1", "status": "starting"}), NOW_S)
    assert (type(other), other.kind) == (Fault, FaultKind.MALFORMED)
    # A router's words, but for the id that it names.
    gone = reply({"id": "p-1", "error": "not found"}, 404)
    assert read_answer(REPLICATE, BASE, job, gone, NOW_S) == VideoMissing()


@pytest.mark.parametrize("operation", [None, "x", [], {}, {"id": None}, {"id": 7}, {"id": ""}])
def test_an_operation_without_an_id_leaves_the_jobs_own(operation):
    assert api_id_of(VideoJob("job_1", "user", 0, {"operation": operation})) == "job_1"


# --- each description: what is asked for ---

IMAGE = "https://files.example/fox.png"
KEY = "s3cr3t-key"
Code = GenerationErrorCode

BARE = GenerationRequest(prompt=PROMPT)


@attrs.frozen
class Case:
    """What a description makes of requests, beside the example of its makers."""

    model: str | None
    path: str
    headers: dict
    bare: dict
    """The body for a prompt alone."""
    full: dict
    """The body for a prompt, 9:16, and as much of five seconds and a negative prompt as it takes."""
    image: dict
    """The body for a prompt and an image."""
    reply: dict
    image_path: str | None = None
    operation: dict = attrs.field(factory=dict)


BEARER = {"authorization": f"Bearer {KEY}"}
SECONDS, NEGATIVE = "duration", "negative prompt"
FAL_PATH = "/fal-ai/kling-video/v2.5/requests/r-1"

CASES = {
    "videos": Case(
        "sora-2",
        "/videos",
        BEARER,
        {"model": "sora-2", "prompt": PROMPT, "size": "1280x720"},
        {"model": "sora-2", "prompt": PROMPT, "size": "720x1280", "seconds": "5"},
        {"model": "sora-2", "prompt": PROMPT, "size": "1280x720", "input_reference": {"image_url": IMAGE}},
        {"id": "r-1", "object": "video", "status": "queued", "progress": 0},
    ),
    "openrouter": Case(
        "google/veo-3.1",
        "/videos",
        BEARER,
        {"model": "google/veo-3.1", "prompt": PROMPT},
        {"model": "google/veo-3.1", "prompt": PROMPT, "aspect_ratio": "9:16", "duration": 5},
        {
            "model": "google/veo-3.1",
            "prompt": PROMPT,
            "frame_images": [{"type": "image_url", "image_url": {"url": IMAGE}, "frame_type": "first_frame"}],
        },
        {"id": "r-1", "generation_id": "gen-1", "polling_url": "/api/v1/videos/r-1", "status": "pending"},
    ),
    "fal": Case(
        "fal-ai/kling-video/v2.5/text-to-video",
        "/fal-ai/kling-video/v2.5/text-to-video",
        {"authorization": f"Key {KEY}"},
        {"prompt": PROMPT},
        {"prompt": PROMPT, "negative_prompt": "rain", "aspect_ratio": "9:16"},
        {"prompt": PROMPT, "image_url": IMAGE},
        {
            "request_id": "r-1",
            "status_url": f"BASE{FAL_PATH}/status",
            "response_url": f"BASE{FAL_PATH}",
            "cancel_url": f"BASE{FAL_PATH}/cancel",
        },
        operation={"status_url": f"BASE{FAL_PATH}/status", "response_url": f"BASE{FAL_PATH}"},
    ),
    "replicate": Case(
        "minimax/video-01",
        "/models/minimax/video-01/predictions",
        BEARER,
        {"input": {"prompt": PROMPT}},
        {"input": {"prompt": PROMPT, "aspect_ratio": "9:16", "duration": 5}},
        {"input": {"prompt": PROMPT, "image": IMAGE}},
        {"id": "r-1", "status": "starting", "urls": {"get": "BASE/predictions/r-1"}},
    ),
    "modelark": Case(
        "seedance-1-0-pro",
        "/contents/generations/tasks",
        BEARER,
        {"model": "seedance-1-0-pro", "content": [{"type": "text", "text": PROMPT}]},
        {
            "model": "seedance-1-0-pro",
            "content": [{"type": "text", "text": PROMPT}],
            "ratio": "9:16",
            "duration": 5,
        },
        {
            "model": "seedance-1-0-pro",
            "content": [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": IMAGE}}],
        },
        {"id": "r-1"},
    ),
    "xai": Case(
        "grok-imagine-video-1.5",
        "/videos/generations",
        BEARER,
        {"model": "grok-imagine-video-1.5", "prompt": PROMPT},
        {"model": "grok-imagine-video-1.5", "prompt": PROMPT, "aspect_ratio": "9:16", "duration": 5},
        {"model": "grok-imagine-video-1.5", "prompt": PROMPT, "image": {"url": IMAGE}},
        {"request_id": "r-1"},
    ),
    "dashscope": Case(
        "wan2.5-t2v-preview",
        "/services/aigc/video-generation/video-synthesis",
        {**BEARER, "x-dashscope-async": "enable"},
        {"model": "wan2.5-t2v-preview", "input": {"prompt": PROMPT}},
        {
            "model": "wan2.5-t2v-preview",
            "input": {"prompt": PROMPT, "negative_prompt": "rain"},
            "parameters": {"size": "720*1280", "duration": 5},
        },
        {"model": "wan2.5-t2v-preview", "input": {"prompt": PROMPT, "img_url": IMAGE}},
        {"output": {"task_id": "r-1", "task_status": "PENDING"}, "request_id": "q"},
    ),
    "minimax": Case(
        "MiniMax-H3",
        "/v2/video_generation",
        BEARER,
        {
            "model": "MiniMax-H3",
            "content": [{"type": "text", "text": PROMPT}],
            "resolution": "2K",
            "duration": 5,
        },
        {
            "model": "MiniMax-H3",
            "content": [{"type": "text", "text": PROMPT}],
            "resolution": "2K",
            "duration": 5,
            "ratio": "9:16",
        },
        {
            "model": "MiniMax-H3",
            "content": [
                {"type": "text", "text": PROMPT},
                {"type": "image_url", "image_url": {"url": IMAGE}, "role": "first_frame"},
            ],
            "resolution": "2K",
            "duration": 5,
        },
        {"task_id": "r-1"},
    ),
    "kling": Case(
        "kling-v2-6",
        "/v1/videos/text2video",
        BEARER,
        {"model_name": "kling-v2-6", "prompt": PROMPT},
        {
            "model_name": "kling-v2-6",
            "prompt": PROMPT,
            "negative_prompt": "rain",
            "aspect_ratio": "9:16",
            "duration": "5",
        },
        {"model_name": "kling-v2-6", "prompt": PROMPT, "image": IMAGE},
        {"code": 0, "message": "SUCCEED", "data": {"task_id": "r-1", "task_status": "submitted"}},
        image_path="/v1/videos/image2video",
        operation={"kind": "text2video"},
    ),
    "runway": Case(
        "gen4.5",
        "/text_to_video",
        {**BEARER, "x-runway-version": "2024-11-06"},
        {"model": "gen4.5", "promptText": PROMPT, "ratio": "1280:720", "duration": 6},
        {"model": "gen4.5", "promptText": PROMPT, "ratio": "720:1280", "duration": 5},
        {"model": "gen4.5", "promptText": PROMPT, "promptImage": IMAGE, "ratio": "1280:720", "duration": 6},
        {"id": "r-1"},
        image_path="/image_to_video",
    ),
    "luma": Case(
        "ray-3.2",
        "/generations",
        BEARER,
        {"model": "ray-3.2", "type": "video", "prompt": PROMPT},
        {
            "model": "ray-3.2",
            "type": "video",
            "prompt": PROMPT,
            "aspect_ratio": "9:16",
            "video": {"duration": "5s"},
        },
        {"model": "ray-3.2", "type": "video", "prompt": PROMPT, "video": {"start_frame": {"url": IMAGE}}},
        {"id": "r-1", "state": "queued", "type": "video"},
    ),
    "heygen": Case(
        None,
        "/v3/video-agents",
        {"x-api-key": KEY},
        {"prompt": PROMPT, "mode": "generate"},
        {"prompt": PROMPT, "mode": "generate", "orientation": "portrait"},
        {"prompt": PROMPT, "mode": "generate", "files": [{"type": "url", "url": IMAGE}]},
        {"data": {"session_id": "sess_1", "status": "generating", "video_id": "r-1"}},
    ),
}

NAMES = list(ALL)


def answer_of(name, base_url):
    return json.loads(json.dumps(CASES[name].reply).replace("BASE", base_url))


@pytest.fixture
def server():
    with FakeServer() as server:
        yield server


@pytest.fixture
def generator_at(server, kind, call):
    """Build generators at the server, whose waits a test can sit out, and close them."""
    made = []

    def at(name, **options):
        case = CASES[name]
        given = {"api_key": KEY, "base_url": server.url, "retry_waits_s": (0.01, 0.02), "max_retry_after_s": 0.05}
        if case.model is not None:
            given["model"] = case.model
        api = options.pop("api", ALL[name])
        made.append(HttpVideoGenerator(api, **{**given, **options}))
        return made[-1]

    yield at
    for one in made:
        one.close()
        call(one.aclose())


@pytest.fixture
def generate(generator_at, kind, call):
    """Generate once at the server, in threads or under asyncio."""

    def generate(name, request=BARE, **options):
        generator = generator_at(name, **options)
        if callable(request):
            request = request(generator.capabilities)
        return generator.generate(request) if kind == "sync" else call(generator.agenerate(request))

    return generate


def test_every_description_says_how_a_generation_is_started_and_how_sure_that_is():
    assert CASES.keys() == ALL.keys()
    assert all(api.start is not None and isinstance(api.start.certainty, Certainty) for api in ALL.values())


def as_much_as_it_takes(able):
    return GenerationRequest(
        prompt=PROMPT,
        aspect_ratio="9:16",
        duration_s=5 if able.duration else None,
        negative_prompt="rain" if able.negative_prompt else None,
    )


ASKED = {"bare": BARE, "full": as_much_as_it_takes, "image": GenerationRequest(prompt=PROMPT, image_url=IMAGE)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("asked", ASKED)
def test_the_request_is_that_of_its_makers(server, generate, name, asked):
    case = CASES[name]
    path = case.image_path if asked == "image" and case.image_path else case.path
    server.route("POST", path, Reply.json(answer_of(name, server.url)))

    result = generate(name, ASKED[asked])

    assert isinstance(result, GenerationStarted)
    (sent,) = server.requests
    assert (sent.method, sent.target) == ("POST", path)
    assert sent.body == getattr(case, asked)
    assert case.headers.items() <= sent.headers.items()
    assert sent.headers["content-type"] == "application/json"
    assert "prefer" not in sent.headers, "Replicate would wait"


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_gives_the_job_and_what_a_poll_needs(server, generate, name):
    case = CASES[name]
    server.route("POST", case.path, Reply.json(answer_of(name, server.url), status=202))

    started = generate(name)

    operation = json.loads(json.dumps(case.operation).replace("BASE", server.url))
    assert started == GenerationStarted.of(name, "r-1", **operation)
    # And a poll finds its way with it.
    assert ALL[name].url(ALL[name].poll, server.url, job_of(started)) is not None


def test_kling_keeps_where_a_job_was_started(server, generate):
    server.route("POST", "/v1/videos/image2video", Reply.json(answer_of("kling", server.url)))
    started = generate("kling", GenerationRequest(prompt=PROMPT, image_url=IMAGE))
    url = KLING.url(KLING.poll, server.url, job_of(started))
    assert url == f"{server.url}/v1/videos/image2video/r-1"


# --- each description: what comes back ---

FRONT = "<html>from something in front</html>"


def start_with(server, generate, name, *replies, **options):
    case = CASES[name]
    server.route("POST", case.path, *(replies or (Reply.json(answer_of(name, server.url)),)))
    return generate(name, **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INVALID_REQUEST),
        (401, Code.AUTHENTICATION_ERROR),
        (402, Code.AUTHENTICATION_ERROR),
        (403, Code.AUTHENTICATION_ERROR),
        (404, Code.API_ERROR),
        (405, Code.API_ERROR),
        (413, Code.FILE_TOO_LARGE),
        (422, Code.INVALID_REQUEST),
    ],
)
def test_a_refusal_surely_started_nothing_and_is_not_repeated(server, generate, name, status, code):
    refusal = Reply.json({"error": {"message": f"no, not {PROMPT} with {KEY}"}, "message": "no"}, status=status)
    failed = start_with(server, generate, name, refusal)

    assert (type(failed), failed.code, failed.passing) == (GenerationFailed, code, False)
    assert len(server.requests) == 1
    assert PROMPT not in failed.detail
    assert KEY not in failed.detail


@pytest.mark.parametrize("name", NAMES)
def test_what_surely_started_nothing_at_the_moment_is_asked_again(server, generate, name):
    for status in STARTS_NOTHING.get(name, {429}):
        server.fail_next(Reply.fault(status, retry_after=0), Reply.fault(status))
        started = start_with(server, generate, name)
        assert (type(started), started.retries) == (GenerationStarted, 2)
        server.fail_next(*[Reply.fault(status)] * 3)
        assert start_with(server, generate, name).passing


STARTS_NOTHING = {"runway": {429, 502, 503, 504}}
"""By the words of their makers; of all others 429 alone."""

AMBIGUOUS = {
    "500": Reply.fault(500),
    "502": Reply.fault(502),
    "503": Reply.fault(503),
    "504": Reply.fault(504),
    "409": Reply.fault(409),
    "408": Reply.fault(408),
    "redirect": Reply.redirect("https://elsewhere.example/"),
    "no answer": Reply.dropped(),
    "late": Reply.hang(),
    "page": Reply.garbage(FRONT.encode()),
    "nothing": Reply(status=200, body=b""),
    "list": Reply.json(["r-1"]),
    "no id": Reply.json({"status": "queued", "code": 1201, "message": "no"}),
    "null id": Reply.json(None),
    "huge": Reply(status=200, body=b" " * 2_000_000),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reply", AMBIGUOUS)
def test_what_may_have_started_a_video_is_said_and_never_repeated(server, generate, name, reply):
    sheds_load = reply.isdigit() and int(reply) in STARTS_NOTHING.get(name, {429})
    timeout_s = 1.5 if reply == "late" else 5
    result = start_with(server, generate, name, AMBIGUOUS[reply], timeout_s=timeout_s)

    expected = GenerationFailed if sheds_load else GenerationUnknown
    assert type(result) is expected
    assert len(server.requests) == (3 if sheds_load else 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("api_id", ["", " ", "a b", "..", "x" * 513, "a\nb", None, True, {}, [], "\ud800"])
def test_an_id_that_none_can_be_may_have_started_a_video(name, api_id):
    api = ALL[name]
    answer = json.loads(json.dumps(answer_of(name, BASE)).replace('"r-1"', json.dumps(api_id)))
    result = read_start(api, api.start, BASE, reply(answer), NOW_S)
    assert type(result) is GenerationUnknown


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("api_id", ["projects/p/operations/1", "video_" + "x" * 350, "x" * 512, "ñ?#", 17])
def test_an_id_of_any_length_is_kept_as_it_is(name, api_id):
    api = ALL[name]
    answer = json.loads(json.dumps(answer_of(name, BASE)).replace('"r-1"', json.dumps(api_id)))
    started = read_start(api, api.start, BASE, reply(answer), NOW_S)
    assert started.operation["id"] == str(api_id)
    assert len(started.job_id) <= 512


@pytest.mark.parametrize(
    "url",
    [
        "https://queue.fal.run.evil.example/x",
        "http://queue.fal.run/x",
        "https://queue.fal.run:8443/x",
        "https://user@queue.fal.run/x",
        "/x",
        "https://queue.fal.run/" + "x" * 5000,
        None,
        7,
        ["https://queue.fal.run/x"],
    ],
)
@pytest.mark.parametrize("field", ["status_url", "response_url"])
def test_an_address_that_the_key_must_not_go_to_is_not_kept(url, field):
    """The video is being made, and cannot be followed: that is said, with its id."""
    answer = {**answer_of("fal", FAL.base_url), field: url}
    result = read_start(FAL, FAL.start, FAL.base_url, reply(answer), NOW_S)
    assert type(result) is GenerationUnknown
    assert "its id is r-1" in result.detail


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "request_id", "data", "task_id", "output", "error", "status_url"]), inner
        )
    ),
    max_leaves=12,
)


@given(
    body=json_values | st.binary(),
    name=st.sampled_from(NAMES),
    status=st.sampled_from([200, 201, 202, 400, 404, 429, 500, 503]) | st.integers(100, 999),
    headers=st.dictionaries(st.sampled_from(["retry-after", "server"]), st.text()),
)
def test_whatever_comes_back_is_a_generation(body, name, status, headers):
    api = ALL[name]
    result = read_start(api, api.start, BASE, reply(body, status, **headers), NOW_S)
    assert isinstance(result, Generation)
    if isinstance(result, GenerationStarted):
        assert 200 <= status < 300
        assert result.operation["id"].isprintable()
    if isinstance(result, GenerationFailed) and result.passing:
        assert status in api.start.starts_nothing


@pytest.mark.parametrize("kind_of_failure", FailureKind)
def test_what_was_surely_not_sent_started_nothing(kind_of_failure):
    failure = HttpFailure(kind=kind_of_failure, detail="x")
    result = read_start(XAI, XAI.start, BASE, failure, NOW_S)
    assert type(result) is (GenerationFailed if failure.surely_not_sent else GenerationUnknown)


def test_a_host_to_whom_no_video_is_worse_than_two_may_say_so(server, generate):
    server.fail_next(Reply.dropped())
    assert start_with(server, generate, "xai", resubmit_unknown=True).retries == 1


def test_an_api_that_knows_a_request_by_its_key_is_asked_again_with_the_same(server, generate):
    """None of the twelve does."""
    api = attrs.evolve(XAI, start=attrs.evolve(XAI.start, idempotency_header="Idempotency-Key"))
    for _ in range(2):
        server.fail_next(Reply.dropped(), Reply.fault(500))
        assert start_with(server, generate, "xai", api=api).retries == 2

    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert len(keys) == 6
    assert [len(set(keys[:3])), len(set(keys[3:])), len(set(keys))] == [1, 1, 2], "another video, another key"
    assert all(api.start.idempotency_header is None for api in ALL.values())


# --- what an API cannot make ---


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("videos", {"negative_prompt": "rain"}, "takes no negative prompt"),
        ("videos", {"aspect_ratio": "1:1"}, "ask for 16:9 or 9:16"),
        ("videos", {"mode": "sync"}, "mode must be async"),
        ("videos", {"version": 2}, "leave version out"),
        ("videos", {"model": "sora-9"}, "model must be sora-2"),
        ("heygen", {"model": "x"}, "model must be left out"),
        ("fal", {"duration_s": 5}, "how long the video is"),
        ("kling", {"image_url": IMAGE, "aspect_ratio": "9:16"}, "aspect ratio 9:16 here: leave it out"),
        ("minimax", {"image_url": IMAGE, "aspect_ratio": "16:9"}, "leave it out"),
        ("text only", {"image_url": IMAGE}, "starts from no image"),
    ],
)
def test_what_an_api_cannot_make_is_refused_with_a_sentence_before_anything_is_sent(
    server, generate, name, asked, said
):
    text_only = attrs.evolve(XAI, start=attrs.evolve(XAI.start, body={"model": "{model}", "prompt": "{prompt}"}))
    api, name = (text_only, "xai") if name == "text only" else (ALL[name], name)
    failed = generate(name, GenerationRequest(prompt=PROMPT, **asked), api=api)

    assert (type(failed), failed.code, failed.passing) == (GenerationFailed, Code.INVALID_REQUEST, False)
    assert said in failed.detail
    assert server.requests == []


def test_an_aspect_ratio_is_read_from_the_prompt_where_the_api_can_be_asked_for_it(generator_at):
    vertical = GenerationRequest(prompt=f"{PROMPT}, vertical")
    able = generator_at("kling").capabilities
    assert able.choose(vertical).aspect_ratio == "9:16"
    assert "read from the prompt" in able.choose(vertical).reason
    assert able.choose(attrs.evolve(vertical, image_url=IMAGE)).aspect_ratio is None
    assert able.choose(BARE).aspect_ratio is None
    assert generator_at("runway").capabilities.choose(BARE).aspect_ratio == "16:9"


def test_of_several_models_a_request_may_name_one(server, generate):
    models = ("sora-2", "sora-2-pro")
    assert isinstance(start_with(server, generate, "videos", model=models), GenerationStarted)
    generate("videos", GenerationRequest(prompt=PROMPT, model="sora-2-pro"), model=models)
    assert [request.body["model"] for request in server.requests] == ["sora-2", "sora-2-pro"]


def test_a_host_adds_to_each_body_what_its_model_takes(server, generate):
    more = {"input": {"resolution": "720p", "prompt": "mine"}, "webhook": "https://x.example/"}
    start_with(server, generate, "replicate", body=more)
    (request,) = server.requests
    assert request.body == {"input": {"prompt": "mine", "resolution": "720p"}, "webhook": "https://x.example/"}
    assert merged({"a": {"b": 1}}, {"a": 2}) == {"a": 2}


def test_words_in_braces_in_a_prompt_are_words(server, generate):
    server.route("POST", "/videos/generations", Reply.json({"request_id": "r-1"}))
    prompt = "A sign that reads {model} and {image} and {base}"
    generate("xai", GenerationRequest(prompt=prompt))
    assert server.requests[0].body["prompt"] == prompt


def test_a_form_where_the_server_wants_one(server, generate):
    """vLLM-Omni does."""
    api = attrs.evolve(VIDEOS, start=attrs.evolve(VIDEOS.start, multipart=True))
    server.route("POST", "/videos", Reply.json({"id": "r-1", "status": "queued"}))
    request = GenerationRequest(prompt="Un zorro — ñandú\r\n--x", image_url=IMAGE, duration_s=4)
    assert isinstance(generate("videos", request, api=api), GenerationStarted)

    (sent,) = server.requests
    head = f"Content-Type: {sent.headers['content-type']}\r\n\r\n".encode()
    parts = email.parser.BytesParser().parsebytes(head + sent.raw).get_payload()
    fields = {part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in parts}
    assert fields["prompt"].decode() == request.prompt
    assert fields["seconds"] == b"4"
    assert json.loads(fields["input_reference"]) == {"image_url": IMAGE}


# --- keys, addresses, construction ---


def test_a_key_that_changes_is_asked_for_at_each_generation(server, generator_at, kind, call):
    keys = iter(["first", "second"])
    generator = generator_at("xai", api_key=lambda: next(keys))
    server.route("POST", "/videos/generations", Reply.json({"request_id": "r-1"}))
    for expected in ("Bearer first", "Bearer second"):
        assert isinstance(generator.generate(BARE) if kind == "sync" else call(generator.agenerate(BARE)), Generation)
        assert server.requests[-1].headers["authorization"] == expected
    failed = generator.generate(BARE)
    assert (type(failed), failed.code) == (GenerationFailed, Code.TOOL_ERROR)
    assert len(server.requests) == 2


def test_a_key_may_have_to_be_awaited(server, generator_at, kind, call):
    async def key():
        await asyncio.sleep(0)
        return "awaited"

    generator = generator_at("xai", api_key=key)
    server.route("POST", "/videos/generations", Reply.json({"request_id": "r-1"}))
    if kind == "sync":
        failed = generator.generate(BARE)
        assert (type(failed), failed.code, server.requests) == (GenerationFailed, Code.TOOL_ERROR, [])
    else:
        assert type(call(generator.agenerate(BARE))) is GenerationStarted
        assert server.requests[-1].headers["authorization"] == "Bearer awaited"


def test_a_redirect_is_not_followed_so_that_the_key_stays(server, generate):
    with FakeServer() as other:
        server.route("POST", "/videos/generations", Reply.redirect(f"{other.url}/videos/generations", status=307))
        assert type(generate("xai")) is GenerationUnknown
        assert other.requests == []


@pytest.mark.parametrize(
    ("api", "options", "said"),
    [
        (attrs.evolve(XAI, start=None), {}, "does not say how a generation is started"),
        (XAI, {"model": ()}, "xai needs to be told which"),
        (XAI, {"model": ""}, "must be a model's name"),
        (FAL, {"model": "fal-ai/../x"}, "must be a model's name"),
        (FAL, {"model": "/x"}, "must be a model's name"),
        (ALL["heygen"], {"model": "x"}, "no choice of models"),
        (VIDEOS, {}, "give HttpVideoGenerator its base_url"),
        (XAI, {"api_key": None}, "give HttpVideoGenerator its api_key"),
        (XAI, {"timeout_s": 0}, "HttpVideoGenerator.timeout_s"),
        (XAI, {"retry_waits_s": (-1,)}, "HttpVideoGenerator.retry_waits_s"),
    ],
)
def test_a_generator_that_cannot_work_is_refused_when_it_is_built(api, options, said):
    with pytest.raises(ConfigurationError, match=said):
        HttpVideoGenerator(api, **{"api_key": KEY, "model": "m", **options})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"url": "https://elsewhere.example"}, "must begin with {base}"),
        ({"url": "{base}{model}"}, "must begin with {base}/"),
        ({"url": "{base}/{prompt}"}, "must begin with {base}"),
        ({"body": {"prompt": "{prompt}", "x": "{who}"}}, "got who"),
        ({"body": {"model": "{model}"}}, "must have {prompt}"),
        ({"id": "a..b"}, "is no path"),
        ({"operation": {"x": "a[b]"}}, "is no path"),
        ({"defaults": {"aspect_ratio": "1:1"}}, "one of aspect_ratios"),
        ({"defaults": {"model": "x"}}, "defaults may have"),
        ({"with_image": RUNWAY.start}, "with_image of its own"),
    ],
)
def test_a_start_that_cannot_work_is_refused_when_it_is_made(change, said):
    with pytest.raises(ConfigurationError, match=said):
        attrs.evolve(XAI.start, **change)


def test_a_model_is_a_path_and_stays_within_it(server, generate):
    server.route("POST", "/a b/c?d", Reply.json(answer_of("fal", server.url)))
    assert isinstance(generate("fal", model="a b/c?d"), GenerationStarted)
    assert server.requests[0].target == "/a%20b/c%3Fd"


def test_nothing_secret_is_in_a_repr(generator_at, server):
    assert repr(generator_at("fal")) == f"HttpVideoGenerator('fal', base_url={server.url!r})"


def test_a_start_without_a_field_of_its_own_is_filled_by_what_there_is():
    start = Start(
        url="{base}/x",
        body={
            "a": {"b": {"c": "{image}"}, "d": "{seconds} s"},
            "e": ["{prompt}", {"k": 1, "f": "{duration}"}],
            "g": {},
        },
        certainty=Certainty.READ,
    )
    assert start.made_body({"prompt": "p"}) == {"e": ["p"], "g": {}}
    assert start.made_body({"prompt": "p", "duration": 5, "seconds": "5"}) == {
        "a": {"d": "5 s"},
        "e": ["p", {"k": 1, "f": 5}],
        "g": {},
    }


# --- the tool ---


@attrs.define
class Kept:
    jobs: list = attrs.field(factory=list)

    def enqueue(self, job_id, *, conversation_id, metadata):
        self.jobs.append((job_id, conversation_id, metadata))


def test_the_tool_hands_on_what_a_poll_needs(kind, call):
    class Generator:
        def generate(self, request):
            return GenerationStarted.of("fal", "r-1", status_url="https://queue.fal.run/x")

    queue = Kept()
    tool = VideoGeneratorTool(queue, Generator())
    ask = tool.call if kind == "sync" else tool.acall
    answer = call(ask({"prompt": PROMPT}, conversation_id="c", metadata={"to": "1", "operation": "mine"}))

    assert answer["job_id"] == "fal:r-1"
    ((job_id, _, metadata),) = queue.jobs
    assert job_id == "fal:r-1"
    assert metadata["to"] == "1"
    assert (metadata["provider"], metadata["operation"]) == (
        "fal",
        {"id": "r-1", "status_url": "https://queue.fal.run/x"},
    )
    job = VideoJob(job_id, "c", 0, metadata)
    assert FAL.url(FAL.poll, "https://queue.fal.run", job) == "https://queue.fal.run/x"


SAID = {"prompt": PROMPT, "messageToUser": "Your video is being made."}


@pytest.fixture
def tool_at(kind, redis_url, prefix, call, generator_at):
    queues = []

    def at(name, **options):
        kinds = {"sync": RedisVideoJobQueue, "async": AsyncRedisVideoJobQueue}
        queue = kinds[kind].from_url(redis_url, prefix=prefix)
        queues.append(queue)
        return VideoGeneratorTool(queue, generator_at(name, **options), file_url="https://files.example/")

    yield at
    for queue in queues:
        call(queue.close())


@pytest.fixture
def ask(kind, call):
    def ask(tool, arguments, **options):
        method = tool.call if kind == "sync" else tool.acall
        answer = call(method(arguments, conversation_id="conversation-1", **options))
        json.dumps(answer, allow_nan=False)
        return answer

    return ask


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("kling", {"prompt", "imageFileId", "aspectRatio", "negativePrompt", "messageToUser"}),
        ("videos", {"prompt", "imageFileId", "aspectRatio", "messageToUser"}),
    ],
)
def test_the_model_is_offered_what_the_api_can_be_asked_for(tool_at, name, offered):
    tool = tool_at(name)
    schema = tool.parameters()
    assert set(schema["properties"]) == set(schema["required"]) == offered
    assert "Veo" not in json.dumps(tool.schema_responses())
    assert "1 to 2 minutes" not in json.dumps(tool.schema_chat())


def test_the_model_is_offered_a_choice_of_models_where_the_host_gives_one(tool_at, server, ask):
    tool = tool_at("videos", model=("sora-2", "sora-2-pro"))
    assert tool.parameters()["properties"]["modelSelected"]["enum"] == ["sora-2", "sora-2-pro", None]
    assert tool.parameters()["properties"]["aspectRatio"]["enum"] == ["16:9", "9:16", None]
    server.route("POST", "/videos", Reply.json(answer_of("videos", server.url)))

    answer = ask(tool, {**SAID, "modelSelected": "sora-2-pro", "aspectRatio": "9:16", "negativePrompt": None})

    assert answer["job_id"] == "videos:r-1"
    assert (answer["model_used"], answer["version_used"], answer["aspect_ratio"]) == ("sora-2-pro", None, "9:16")
    assert answer["estimated_time"] == "a few minutes"
    assert server.requests[0].body["model"] == "sora-2-pro"
    assert ask(tool, {**SAID, "modelSelected": 2})["error_code"] == "INVALID_REQUEST"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"negativePrompt": "rain"}, "takes no negative prompt"),
        ({"modelSelected": 3}, "modelSelected must be"),
        ({"aspectRatio": "1:1"}, "aspectRatio must be one of"),
    ],
)
def test_the_tool_refuses_what_the_api_cannot_make_before_anything_is_sent(tool_at, server, ask, arguments, said):
    answer = ask(tool_at("videos"), {**SAID, **arguments})
    assert (answer["error_code"], answer["may_have_started"]) == ("INVALID_REQUEST", False)
    assert said in answer["message"]
    assert server.requests == []


def test_the_same_call_again_starts_nothing(tool_at, server, ask):
    server.route("POST", "/videos", Reply.json(answer_of("videos", server.url)))
    tool = tool_at("videos")
    first, second = (ask(tool, SAID, call_id="call_1") for _ in range(2))
    assert first == second
    assert len(server.requests) == 1


def test_a_lost_reply_is_told_to_the_model(tool_at, server, ask):
    server.fail_next(Reply.dropped())
    answer = ask(tool_at("videos"), SAID)
    assert (answer["success"], answer["may_have_started"]) == (False, True)
    assert len(server.requests) == 1


def test_no_video_is_paid_for_whose_job_has_no_room(tool_at, server, ask):
    answer = ask(tool_at("fal"), SAID, metadata={"x": "y" * 13_000})
    assert answer["error_code"] == "TOOL_ERROR"
    assert server.requests == []


def test_a_mode_that_the_api_does_not_have_is_refused_when_the_tool_is_built(generator_at):
    with pytest.raises(ConfigurationError, match='must be "async"'):
        VideoGeneratorTool(Kept(), generator_at("luma"), mode="sync")
    assert LUMA.start.certainty is Certainty.READ
    assert MINIMAX.start.defaults == {"duration": 5}


# --- whole lives ---


@pytest.mark.parametrize("name", NAMES)
def test_a_video_is_started_by_the_tool_polled_and_delivered(world, kind, call, ask, name):
    """The tool, Redis, a worker with the poller of the same description, and the user."""
    api, model = ALL[name], CASES[name].model
    queues = {"sync": RedisVideoJobQueue, "async": AsyncRedisVideoJobQueue}
    with FakeProviders(api_key=KEY, public_links=True) as providers:
        there = {"api_key": KEY, "base_url": providers.base_url(name)}
        generator = HttpVideoGenerator(api, model=model or (), **there)
        queue = queues[kind].from_url(world.url, prefix=world.prefix)
        user = {"channel": "ultramsg", "to": "5491100000001"}
        answer = ask(VideoGeneratorTool(queue, generator), SAID, metadata=user)

        with world.worker(poller=HttpVideoPoller(api, **there)) as worker:
            until(lambda: worker.recorder.of(events.JobDelivered), "the user has the video")

        assert [started.job_id for started in providers.generated] == [answer["job_id"]], "paid for once"
        assert [message.video for message in world.ultramsg.messages] == [providers.video_url(answer["job_id"])]
        generator.close()
        call(generator.aclose())
        call(queue.close())
