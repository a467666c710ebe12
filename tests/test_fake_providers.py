"""The fake of every described API: it says what it is told to in the API's own words, and keeps the API's rules."""

from __future__ import annotations

import attrs
import httpx
import pytest

from kit import until
from videopoll import ConfigurationError, VideoJob, events
from videopoll.jobs import FailureReason
from videopoll.observations import Fault, FaultKind, VideoFailed, VideoMissing, VideoReady, VideoWorking
from videopoll.testing import FakeProviders, Reply
from videopoll.video_api import (
    GenerationErrorCode,
    GenerationRequest,
    GenerationStarted,
    HttpVideoGenerator,
    HttpVideoPoller,
    Meaning,
)
from videopoll.video_api.apis import ALL, OPENROUTER, REPLICATE, RUNWAY, VIDEOS

KEY = "the-key"

ENDS = {
    Meaning.FAILED: FailureReason.UNKNOWN,
    Meaning.MODERATED: FailureReason.MODERATED,
    Meaning.REFUSED_INPUT: FailureReason.REFUSED_INPUT,
    Meaning.CANCELLED: FailureReason.CANCELLED,
    Meaning.EXPIRED: FailureReason.EXPIRED,
    Meaning.OUT_OF_CREDIT: FailureReason.OUT_OF_CREDIT,
}


@pytest.fixture
def providers():
    with FakeProviders(api_key=KEY, public_links=True) as providers:
        yield providers


@pytest.fixture
def poll(providers):
    """Polls a job once with the poller of its API."""
    pollers = {name: HttpVideoPoller(api, api_key=KEY, base_url=providers.base_url(name)) for name, api in ALL.items()}
    yield lambda started: pollers[started.provider].poll(job_of(started), timeout_s=5)
    for poller in pollers.values():
        poller.close()


def job_of(started) -> VideoJob:
    return VideoJob(started.job_id, "user", 0, started.metadata)


@pytest.mark.parametrize("name", ALL)
def test_a_job_works_in_each_word_of_its_api_and_is_done_with_a_link_that_works(providers, poll, name):
    words = [word for word, meant in ALL[name].words.items() if meant is Meaning.WORKING]
    started = providers.job(name, *[Meaning.WORKING] * len(words), Meaning.DONE)

    seen = [poll(started) for _ in range(len(words) + 2)]

    assert [one.word for one in seen[:-2]] == words
    for ready in seen[-2:]:
        assert type(ready) is VideoReady
        assert httpx.get(ready.video_url).content.startswith(b"\x00\x00\x00\x18ftyp")
    assert seen[-1].video_url == providers.video_url(started.job_id)
    assert len(providers.polls(started.job_id)) == len(seen)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("meaning", [*ENDS, Meaning.MISSING, Meaning.FAULT])
def test_every_end_that_an_api_can_say_is_read_as_what_was_meant(providers, poll, name, meaning):
    api = ALL[name]
    can_say = {*api.words.values(), *api.codes.values(), Meaning.FAILED, Meaning.MISSING, Meaning.FAULT}
    if meaning not in can_say and not (meaning is Meaning.MODERATED and api.rejected_if):
        with pytest.raises(ConfigurationError, match=f"{name} has no word for '{meaning.value}'"):
            providers.job(name, meaning)
        return
    seen = poll(providers.job(name, meaning))
    if meaning in ENDS:
        assert (type(seen), seen.reason) == (VideoFailed, ENDS[meaning])
    else:
        assert type(seen) is (VideoMissing if meaning is Meaning.MISSING else Fault)


@pytest.mark.parametrize("name", ALL)
def test_what_an_api_does_not_know_it_answers_with_a_404_of_its_own(providers, poll, name):
    known = providers.job(name)
    other = ALL[name].url(ALL[name].poll, providers.base_url(name), job_of(known)).replace("-1", "-2")
    assert httpx.get(other).status_code == 401, "the key comes first"
    reply = httpx.get(other, headers={**ALL[name].headers, ALL[name].auth_header: ALL[name].auth_prefix + KEY})
    assert (reply.status_code, reply.json()) == (404, {"error": "Job not found"})


def test_a_step_that_is_none_is_refused(providers):
    """It would be told at the first poll, by a server of whose log nobody knows."""
    with pytest.raises(ConfigurationError, match="a step of a job at fal is a Meaning or a Reply, got str"):
        providers.job("fal", "working")
    with pytest.raises(ConfigurationError, match="a step of a job at fal is a Meaning or a Reply, got str"):
        providers.on_start("fal", "done")


def test_a_path_that_belongs_to_no_api_is_answered_as_a_router_would(providers):
    poller = HttpVideoPoller(REPLICATE, api_key=KEY, base_url=f"{providers.url}/elsewhere")
    assert poller.poll(job_of(providers.job("replicate")), timeout_s=5).kind is FaultKind.SERVER
    poller.close()


@pytest.mark.parametrize("name", ALL)
def test_each_api_wants_the_key_in_its_own_header(providers, name):
    poller = HttpVideoPoller(ALL[name], api_key="another", base_url=providers.base_url(name))
    assert poller.poll(job_of(providers.job(name)), timeout_s=5).kind is FaultKind.CREDENTIALS
    poller.close()
    assert providers.polls(f"{name}:{name}-1") == []


def test_an_api_misses_its_other_headers(providers):
    plain = attrs.evolve(RUNWAY, headers={})
    poller = HttpVideoPoller(plain, api_key=KEY, base_url=providers.base_url("runway"))
    assert poller.poll(job_of(providers.job("runway")), timeout_s=5).kind is FaultKind.SERVER
    poller.close()


def test_no_key_is_asked_for_where_none_was_given():
    with FakeProviders(VIDEOS, public_links=True) as providers:
        poller = HttpVideoPoller(VIDEOS, api_key="any", base_url=providers.base_url("videos"))
        assert type(poller.poll(job_of(providers.job("videos", Meaning.DONE)), timeout_s=5)) is VideoReady
        poller.close()


def test_a_step_may_be_a_reply_as_it_is_and_trouble_comes_before_all_steps(providers, poll):
    started = providers.job("xai", Reply(status=202, body=b""), Reply.fault(503, retry_after=7), Meaning.DONE)
    providers.fail_next(Reply.fault(429), path="/xai/")

    assert poll(started).kind is FaultKind.THROTTLED
    assert type(poll(started)) is VideoWorking
    assert poll(started).retry_after_s == 7
    assert type(poll(started)) is VideoReady
    assert len(providers.polls(started.job_id)) == 3


def test_a_link_ends_and_a_fresh_one_comes_where_the_api_gives_one(providers, poll):
    stays, renewed = providers.job("replicate", Meaning.DONE), providers.job("runway", Meaning.DONE)
    first = [poll(one).video_url for one in (stays, renewed)]

    providers.end_links()

    assert [httpx.get(url).status_code for url in first] == [403, 403]
    assert poll(stays).video_url == first[0]
    assert httpx.get(poll(renewed).video_url).status_code == 200


def test_a_link_lives_as_long_as_the_description_or_the_test_says():
    with FakeProviders(public_links=True, link_life_s=-1) as providers:
        poller = HttpVideoPoller(VIDEOS, api_key="any", base_url=providers.base_url("videos"))
        ready = poller.poll(job_of(providers.job("videos", Meaning.DONE)), timeout_s=5)
        poller.close()
        assert ready.assets[0].place.lives_s == 0, "this API says when its links end"
        assert httpx.get(ready.video_url).status_code == 403


@pytest.mark.parametrize("api", [VIDEOS, OPENROUTER], ids=lambda api: api.name)
def test_a_file_that_only_the_key_opens_is_opened_by_it_once_it_is_there(api):
    with FakeProviders(api_key=KEY) as providers:
        started = providers.job(api.name, Meaning.WORKING, Meaning.DONE)
        content = f"{providers.base_url(api.name)}/videos/{api.name}-1/content"
        key = {"Authorization": f"Bearer {KEY}"}
        poller = HttpVideoPoller(api, api_key=KEY, base_url=providers.base_url(api.name))

        assert httpx.get(content, headers=key).status_code == 400
        poller.poll(job_of(started), timeout_s=5)
        assert httpx.get(content, headers=key).status_code == 400
        poller.poll(job_of(started), timeout_s=5)
        poller.close()

        assert httpx.get(content).status_code == 401
        opened = httpx.get(content, headers=key)
        assert (opened.status_code, opened.headers["content-type"]) == (200, "video/mp4")
        assert providers.video_url(started.job_id) is None


def test_fals_result_is_at_a_second_address(providers, poll):
    started = providers.job("fal", Meaning.WORKING, Meaning.DONE)
    response_url = started.operation["response_url"]
    key = {"Authorization": f"Key {KEY}"}

    assert httpx.get(response_url, headers=key).status_code == 400
    assert [type(poll(started)) for _ in range(2)] == [VideoWorking, VideoReady]
    assert httpx.get(response_url, headers=key).json() == {"video": {"url": providers.video_url(started.job_id)}}
    assert httpx.get(response_url).status_code == 401


@pytest.mark.parametrize("api_id", ["a/b", "projects/p/operations/1", "ñ?#%2e", "video_" + "x" * 350])
def test_an_id_is_found_whatever_is_in_it(providers, poll, api_id):
    assert type(poll(providers.job("videos", Meaning.DONE, api_id=api_id))) is VideoReady


def test_an_id_is_found_however_a_client_writes_it(providers):
    providers.job("videos", api_id="a:b")
    key = {"Authorization": f"Bearer {KEY}"}
    for written in ("a:b", "a%3Ab", "a%3ab"):
        assert httpx.get(f"{providers.base_url('videos')}/videos/{written}", headers=key).status_code == 200


def test_a_job_at_work_is_told_with_the_http_status_that_its_api_has_for_it(providers):
    providers.job("xai", Meaning.WORKING, Meaning.DONE)
    url, key = f"{providers.base_url('xai')}/videos/xai-1", {"Authorization": f"Bearer {KEY}"}
    assert [httpx.get(url, headers=key).status_code for _ in range(2)] == [202, 200]


@pytest.fixture
def start(providers):
    """Starts a generation at an API."""

    def start(name, *, key=KEY, api=None, **request):
        model = "a-model" if ALL[name].start.takes("model") else ()
        api = api or ALL[name]
        generator = HttpVideoGenerator(
            api, api_key=key, base_url=providers.base_url(name), model=model, retry_waits_s=(0,)
        )
        try:
            return generator.generate(GenerationRequest(**{"prompt": "a dancing fox", **request}))
        finally:
            generator.close()

    return start


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("image", [None, "https://files.example/fox.jpg"])
def test_a_generation_is_started_and_ends_as_was_said(providers, poll, start, name, image):
    providers.on_start(name, Meaning.WORKING, Meaning.FAILED)

    started = start(name, image_url=image)

    assert providers.generated == [started]
    assert [type(poll(started)) for _ in range(2)] == [VideoWorking, VideoFailed]
    assert type(start(name)) is GenerationStarted
    assert len({one.job_id for one in providers.generated}) == 2


@pytest.mark.parametrize("name", ALL)
def test_a_start_needs_the_key_and_a_prompt(providers, start, name):
    assert start(name, key="another").code is GenerationErrorCode.AUTHENTICATION_ERROR
    url = ALL[name].start.made_url(providers.base_url(name), "a-model")
    headers = {**ALL[name].headers, **ALL[name].start.headers, ALL[name].auth_header: ALL[name].auth_prefix + KEY}
    for body in ({}, {"prompt": " "}, {"input": []}, []):
        assert httpx.post(url, headers=headers, json=body).status_code == 422
    assert providers.generated == []


def test_a_start_misses_the_headers_of_its_own(providers, start):
    plain = attrs.evolve(ALL["dashscope"], start=attrs.evolve(ALL["dashscope"].start, headers={}))
    assert start("dashscope", api=plain).code is GenerationErrorCode.INVALID_REQUEST
    assert providers.generated == []


def test_a_start_that_is_sent_again_under_its_key_of_idempotency_is_the_same_job():
    api = attrs.evolve(VIDEOS, start=attrs.evolve(VIDEOS.start, idempotency_header="Idempotency-Key"))
    with FakeProviders(api) as providers:
        generator = HttpVideoGenerator(
            api, api_key="k", base_url=providers.base_url("videos"), model="m", retry_waits_s=(0,)
        )
        providers.fail_next(Reply.dropped(accept=True))
        first, second = (generator.generate(GenerationRequest(prompt="a fox")) for _ in range(2))
        generator.close()
        assert [one.job_id for one in providers.generated] == [first.job_id, second.job_id]
        assert first.operation["id"] == "videos-1", "what it was told at first"
        assert len(providers.requests) == 3


def test_what_does_not_exist_is_refused_with_what_does(providers):
    with pytest.raises(ConfigurationError, match="no 'sora'; it has videos, openrouter, fal"):
        providers.job("sora")
    with pytest.raises(ConfigurationError, match="replicate has no word for 'moderated'"):
        providers.job("replicate", Meaning.WORKING, Meaning.MODERATED)
    assert providers.polls("sora:1") == []
    assert providers.video_url("sora:1") is None


@pytest.mark.parametrize("name", ALL)
def test_a_job_of_each_api_is_polled_and_delivered(world, providers, name):
    started = providers.job(name)
    world.enqueue(started.job_id, **started.metadata)
    poller = HttpVideoPoller(ALL[name], api_key=KEY, base_url=providers.base_url(name))

    with world.worker(poller=poller) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the user has the video")

    assert len(providers.polls(started.job_id)) == 2
