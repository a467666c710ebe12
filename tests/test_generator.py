"""`videopoll.video_api.generator` against a real HTTP server: what is asked for, what is sent again, and what never is."""

from __future__ import annotations

import json
import os
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videopoll._http import FailureKind, HttpFailure, HttpReply, HttpRequest
from videopoll.errors import ConfigurationError, InvalidGenerationError
from videopoll.testing import FakeVideoApi, Reply
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
from videopoll.video_api.generator import (
    VideoApiGenerator,
    generation_flow,
    read_reply,
)

KEY = "s3cr3t-key"
PROMPT = "A red fox walks through fresh snow at dawn"
POST = "/generate-video"
Code = GenerationErrorCode


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def api():
    with FakeVideoApi(api_key=KEY) as api:
        yield api


@pytest.fixture
def generate(kind, api):
    """Generate in threads or under asyncio, with waits that a test can sit out."""

    def generate(request=None, *, base_url=api.url, **options):
        import asyncio

        options = {"retry_waits_s": (0.01, 0.02), "max_retry_after_s": 0.05, "api_key": KEY, **options}
        request = request or GenerationRequest(prompt=PROMPT)
        generator = VideoApiGenerator(base_url=base_url, **options)
        if kind == "sync":
            try:
                return generator.generate(request)
            finally:
                generator.close()

        async def main():
            try:
                return await generator.agenerate(request)
            finally:
                await generator.aclose()

        return asyncio.run(main())

    return generate


def posts(api):
    return [request for request in api.requests if request.path == POST]


def test_an_asynchronous_generation_gives_a_job_id(api, generate):
    result = generate(
        GenerationRequest(prompt=PROMPT, image_url="https://files.example/a.png", negative_prompt="blurry")
    )

    assert result == GenerationStarted(job_id=api.generated[0])
    (request,) = posts(api)
    assert request.headers["x-api-key"] == KEY
    assert request.headers["accept"] == "application/json"
    assert request.body == {
        "prompt": PROMPT,
        "mode": "async",
        "version": 2,
        "model": "veo-2.0-generate-001",
        "aspectRatio": "16:9",
        "imageUrl": "https://files.example/a.png",
        "negativePrompt": "blurry",
    }


def test_a_synchronous_generation_gives_the_video(api, generate):
    result = generate(GenerationRequest(prompt=PROMPT, mode="sync"))

    (job_id,) = api.generated
    assert result == GenerationFinished(video_url=api.video_url(job_id), file_id=f"file_{job_id}")


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Reply.fault(429), Code.RATE_LIMITED), (Reply.fault(503), Code.SERVICE_UNAVAILABLE)],
    ids=["429", "503"],
)
def test_what_surely_started_nothing_is_tried_two_more_times(api, generate, fault, code):
    api.fail_next(fault, fault, path=POST)
    assert generate() == GenerationStarted(job_id=api.generated[0], retries=2)
    assert len(api.generated) == 1

    api.fail_next(fault, fault, fault, path=POST)
    result = generate()
    assert (result.code, result.passing, result.retries) == (code, True, 2)
    assert len(posts(api)) == 6
    assert len(api.generated) == 1


def test_a_refused_connection_is_tried_again(generate):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = generate(base_url=f"http://127.0.0.1:{unused.getsockname()[1]}")

    assert (result.code, result.passing, result.retries) == (Code.CONNECTION_ERROR, True, 2)


def test_the_waits_are_those_of_the_contract():
    request = HttpRequest(method="POST", url="http://a/", timeout_s=1)
    flow = generation_flow(request)
    steps = [next(flow), flow.send(HttpReply(status=503)), next(flow), flow.send(HttpReply(status=429)), next(flow)]

    assert steps == [request, 1.0, request, 2.0, request]
    with pytest.raises(StopIteration) as end:
        flow.send(HttpReply(status=503))
    assert end.value.value.retries == 2


@pytest.mark.parametrize(("hint", "wait_s"), [("0", 1.0), ("4", 4.0), ("3600", 10.0), ("soon", 1.0)])
def test_retry_after_is_honoured_up_to_a_bound(hint, wait_s):
    flow = generation_flow(HttpRequest(method="POST", url="http://a/", timeout_s=1))
    next(flow)

    assert flow.send(HttpReply(status=429, headers={"retry-after": hint})) == wait_s


@pytest.mark.parametrize("kind_of_failure", list(FailureKind))
def test_only_a_request_that_was_not_sent_is_sent_again(kind_of_failure):
    failure = HttpFailure(kind=kind_of_failure, detail="x")
    flow = generation_flow(HttpRequest(method="POST", url="http://a/", timeout_s=1), retry_waits_s=(1.0,))
    next(flow)
    try:
        again = flow.send(failure) == 1.0
        result = None
    except StopIteration as end:
        again, result = False, end.value

    assert again == (failure.surely_not_sent and kind_of_failure is not FailureKind.INVALID)
    assert isinstance(result, GenerationUnknown) == (not failure.surely_not_sent)


LOST = {
    "dropped after it was taken": Reply.dropped(accept=True),
    "hangs after it was taken": Reply.hang(accept=True),
    "500": Reply.fault(500),
    "502": Reply.fault(502),
    "504": Reply.fault(504),
    "408": Reply.fault(408),
    "redirect": Reply.redirect("https://elsewhere.example/"),
    "no JSON": Reply.garbage(),
    "no job id": Reply.json({"status": "processing"}),
    "a hostile job id": Reply.json({"jobId": "a b\n", "status": "processing"}),
    "a job id of dots": Reply.json({"jobId": "..", "status": "processing"}),
    "a hostile video": Reply.json({"videoUrl": "javascript:alert(1)", "status": "completed"}),
    "too large": Reply.garbage(b"[" * 1_100_000),
    "null": Reply.json(None),
}


@pytest.mark.parametrize("reply", LOST.values(), ids=LOST)
def test_what_has_no_clear_answer_is_not_submitted_again(api, generate, reply):
    api.fail_next(reply, path=POST)

    result = generate(timeout_s=0.5)

    assert isinstance(result, GenerationUnknown), result
    assert result.retries == 0
    assert len(posts(api)) == 1


def test_a_host_may_ask_for_a_second_submission(api, generate):
    api.fail_next(Reply.dropped(accept=True), path=POST)

    result = generate(resubmit_unknown=True)

    assert result == GenerationStarted(job_id=api.generated[1], retries=1)
    assert len(api.generated) == 2


def test_a_lost_reply_stays_in_doubt_whatever_the_later_tries_say(api, generate):
    """That the last try started nothing does not prove it for the first."""
    api.fail_next(Reply.dropped(accept=True), Reply.fault(503), Reply.fault(503), path=POST)

    result = generate(resubmit_unknown=True)

    assert isinstance(result, GenerationUnknown)
    assert (result.code, result.retries) == (Code.CONNECTION_ERROR, 2)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INVALID_REQUEST),
        (401, Code.AUTHENTICATION_ERROR),
        (403, Code.AUTHENTICATION_ERROR),
        (404, Code.API_ERROR),
        (413, Code.FILE_TOO_LARGE),
        (422, Code.INVALID_REQUEST),
    ],
)
def test_a_refusal_is_final(api, generate, status, code):
    api.fail_next(Reply.json({"error": f"refused {KEY} for {PROMPT} at https://x.example/?sig=1"}, status=status))

    result = generate()

    assert isinstance(result, GenerationFailed)
    assert (result.code, result.passing, result.retries) == (code, False, 0)
    for secret in (KEY, PROMPT, "sig=1"):
        assert secret not in repr(result)
    assert len(posts(api)) == 1


def test_a_wrong_key_says_so(generate):
    assert generate(api_key="wrong").code is Code.AUTHENTICATION_ERROR


def test_a_generation_that_fails_at_once_is_a_failure(api, generate):
    api.fail_next(Reply.json({"jobId": "job_1", "status": "failed", "error": "policy"}))

    assert isinstance(generate(), GenerationFailed)


@pytest.mark.parametrize(
    ("prompt", "ratio"),
    [
        ("Video vertical para TikTok de persona bailando", "9:16"),
        ("videos VERTICALES", "9:16"),
        ("for my Tik Tok", "9:16"),
        ("dos tiktoks", "9:16"),
        ("#reels", "9:16"),
        ("un reel de comida", "9:16"),
        ("Instagram Stories.", "9:16"),
        ("para historias de Instagram", "9:16"),
        ("in 9:16", "9:16"),
        ("a 16:9 clip about TikTok", "16:9"),
        ("the story of a fox", "16:9"),
        ("una historia de terror", "16:9"),
        ("verticality, tiktokers, surreels, histories", "16:9"),
        ("at 19:16 o'clock", "16:9"),
        ("a fox", "16:9"),
    ],
)
def test_an_unset_aspect_ratio_is_read_from_the_prompt(prompt, ratio):
    assert choose_model(GenerationRequest(prompt=prompt)).aspect_ratio == ratio


def test_the_users_own_aspect_ratio_wins():
    choice = choose_model(GenerationRequest(prompt="vertical, for TikTok", aspect_ratio="16:9", version=3))

    assert (choice.aspect_ratio, choice.version, choice.switched) == ("16:9", 3, False)


@pytest.mark.parametrize("asked", [{"version": 3}, {"model": "veo-3.0-generate-preview"}])
@pytest.mark.parametrize("ratio", [{"aspect_ratio": "9:16"}, {}])
def test_a_model_that_cannot_make_it_is_switched_with_the_reason(asked, ratio):
    request = GenerationRequest(prompt="vertical, for TikTok", **asked, **ratio)
    choice = choose_model(request)

    assert (choice.version, choice.model, choice.aspect_ratio) == (2, "veo-2.0-generate-001", "9:16")
    assert choice.switched
    assert "Veo 3 cannot make 9:16" in choice.reason
    settled = choose_model(choice.applied_to(request))
    assert (settled.version, settled.aspect_ratio, settled.switched) == (2, "9:16", False)


def test_the_default_model_is_the_hosts_choice():
    assert choose_model(GenerationRequest(prompt="a fox")).version == 2
    assert choose_model(GenerationRequest(prompt="a fox"), default_version=3).model == "veo-3.0-generate-preview"


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ""},
        {"prompt": " \n"},
        {"prompt": "x" * 1256},
        {"prompt": "\ud800"},
        {"prompt": None},
        {"prompt": 5},
        {"mode": "later"},
        {"version": 4},
        {"version": True},
        {"version": 2.0},
        {"model": " "},
        {"model": "x" * 257},
        {"version": 2, "model": "veo-3.0-generate-preview"},
        {"aspect_ratio": "wide"},
        {"aspect_ratio": "16:9\n"},
        {"duration_s": 0},
        {"duration_s": 5.0},
        {"duration_s": True},
        {"negative_prompt": "x" * 501},
        {"image_url": "file:///etc/passwd"},
        {"image_url": "https://user:password@a/"},
        {"image_url": 5},
    ],
)
def test_a_request_that_cannot_work_is_refused_early(wrong):
    with pytest.raises(InvalidGenerationError) as caught:
        GenerationRequest(**{"prompt": PROMPT, **wrong})

    assert "password" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"model": "veo-9"}, {"aspect_ratio": "1:1"}, {"duration_s": 5}])
def test_what_this_api_cannot_make_is_refused_before_anything_is_sent(api, generate, wrong):
    request = GenerationRequest(prompt=PROMPT, **wrong)
    with pytest.raises(InvalidGenerationError):
        choose_model(request)

    result = generate(request)

    assert (result.code, result.passing) == (Code.INVALID_REQUEST, False)
    assert not api.requests


def test_the_limits_themselves_are_taken():
    GenerationRequest(prompt="x" * 1255, negative_prompt="x" * 500)
    GenerationRequest(prompt="x")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_fields = st.dictionaries(st.sampled_from(["jobId", "status", "videoUrl", "fileId", "error", "message"]), _json)


@given(
    status=st.sampled_from([200, 200, 200, 201, 400, 429, 500]) | st.integers(100, 999),
    body=st.binary() | (_json | _fields).map(lambda value: json.dumps(value).encode()),
    headers=st.dictionaries(st.just("retry-after"), st.text()),
)
def test_any_reply_is_a_generation(status, body, headers):
    """Replies are hostile: none raises, and a job id that comes out of one is usable as such."""
    result = read_reply(HttpReply(status=status, headers=headers, body=body), 1_000_000.0)

    assert isinstance(result, Generation)
    if isinstance(result, GenerationStarted):
        assert result.job_id.isprintable()
        assert 200 <= status < 300
    if isinstance(result, GenerationFailed) and result.passing:
        assert status in {429, 503}


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "ftp://a"},
        {"api_key": "a b"},
        {"timeout_s": 0},
        {"sync_timeout_s": float("inf")},
        {"retry_waits_s": (-1.0,)},
        {"max_retry_after_s": float("nan")},
    ],
)
def test_a_generator_that_cannot_work_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=r"VideoApiGenerator\.") as caught:
        VideoApiGenerator(**{"api_key": KEY, **wrong})

    assert "VideoApiPoller" not in str(caught.value)


def test_nothing_secret_is_in_a_repr(api):
    generator = VideoApiGenerator(base_url=f"{api.url}/", api_key=KEY)

    assert repr(generator) == f"VideoApiGenerator(base_url={api.url!r})"
    request = GenerationRequest(prompt=PROMPT, negative_prompt="no cats", image_url="https://a/?sig=1")
    finished = GenerationFinished(video_url="https://a/?sig=2")
    assert not {"fox", "cats", "sig"} & set(repr((request, finished)).replace("=", " ").split())


def test_health_in_both_worlds(api, call):
    generator = VideoApiGenerator(base_url=api.url, api_key=KEY)

    assert generator.health()
    assert call(generator.ahealth())
    api.stop()
    assert not generator.health(timeout_s=1)
    assert not call(generator.ahealth(timeout_s=1))
    call(generator.aclose())
    generator.close()


def test_a_hanging_api_is_given_up_in_time(api, generate):
    api.fail_next(Reply.hang())
    started = time.monotonic()

    assert generate(timeout_s=0.3).code is Code.TIMEOUT
    assert time.monotonic() - started < 3
