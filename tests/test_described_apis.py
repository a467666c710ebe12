"""Video APIs described as data: what each word, status and trap of theirs comes to."""

from __future__ import annotations

import asyncio
import json
import re
from email.utils import formatdate

import attrs
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import until
from videopoll import ConfigurationError, events
from videopoll._http import FailureKind, HttpFailure, HttpReply
from videopoll.jobs import Asset, AssetKind, BucketObject, FailureReason, LockedLink, PublicLink, VideoJob
from videopoll.observations import Fault, FaultKind, VideoFailed, VideoMissing, VideoReady, VideoWorking
from videopoll.testing import FakeServer, Reply
from videopoll.video_api import GenerationStarted, HttpVideoPoller, VideoApiPoller
from videopoll.video_api.apis import ALL, FAL, HEYGEN, KLING, MODELARK, OPENROUTER, REPLICATE, RUNWAY, VIDEOS, XAI
from videopoll.video_api.description import ApiDescription, Certainty, Meaning, find, steps_of
from videopoll.video_api.http_poller import Finished, read_answer, read_result

URL = "https://files.example/1.mp4"
NOW_S = 1_757_157_518.0
JOB = VideoJob("job_1", "user", round(NOW_S * 1000))

BASE = "https://api.example/v1"

KINDS = {
    Meaning.WORKING: VideoWorking,
    Meaning.MISSING: VideoMissing,
    Meaning.FAULT: Fault,
}

# An answer of each API around a status word and a result: the fields that its description names.
ANSWERS = {
    "videos": lambda word: {"id": "job_1", "status": word, "url": URL},
    "openrouter": lambda word: {"id": "job_1", "status": word, "urls": [URL]},
    "fal": lambda word: {"request_id": "job_1", "status": word, "queue_position": 3},
    "replicate": lambda word: {"id": "job_1", "status": word, "output": URL},
    "modelark": lambda word: {"id": "job_1", "status": word, "content": {"video_url": URL}},
    "xai": lambda word: {"status": word, "video": {"url": URL, "respect_moderation": True}},
    "dashscope": lambda word: {"output": {"task_id": "job_1", "task_status": word, "video_url": URL}},
    "minimax": lambda word: {"task": {"status": word, "content": {"url": URL}}},
    "kling": lambda word: {
        "code": 0,
        "data": {"task_id": "job_1", "task_status": word, "task_result": {"videos": [{"url": URL}]}},
    },
    "runway": lambda word: {"id": "job_1", "status": word, "output": [URL]},
    "luma": lambda word: {"id": "job_1", "state": word, "output": [{"type": "video", "url": URL}]},
    "heygen": lambda word: {"data": {"status": word, "video_url": URL, "thumbnail_url": "https://x.example/1.jpg"}},
}


def reply(body: object, status: int = 200, **headers: str) -> HttpReply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpReply(status=status, headers={"content-type": "application/json", **headers}, body=raw)


def read(api: ApiDescription, body: object, status: int = 200, job: VideoJob = JOB):
    return read_answer(api, api.base_url or BASE, job, reply(body, status), NOW_S)


# --- each description ---


def test_every_description_has_an_answer_here():
    assert ANSWERS.keys() == ALL.keys()


WORDS = [(name, word, meant) for name, api in ALL.items() for word, meant in api.words.items()]


@pytest.mark.parametrize(("name", "word", "meant"), WORDS)
@pytest.mark.parametrize("written", [str.lower, str.upper, lambda word: word.replace("_", " ").title()])
def test_each_word_means_what_its_makers_say(name, word, meant, written):
    api, answer = ALL[name], ANSWERS[name](written(word))
    read_as = read(api, answer)

    if meant is Meaning.DONE and api.follow is not None:
        assert read_as == Finished()
    elif meant is Meaning.DONE:
        assert (type(read_as), read_as.video_url) == (VideoReady, URL)
    elif meant in KINDS:
        assert type(read_as) is KINDS[meant]
    else:
        expected = FailureReason.UNKNOWN if meant is Meaning.FAILED else FailureReason(meant.value)
        assert (type(read_as), read_as.reason) == (VideoFailed, expected)


@pytest.mark.parametrize("name", ALL)
def test_a_word_of_tomorrow_keeps_the_job_polling_and_is_counted(name):
    read_as = read(ALL[name], ANSWERS[name]("levitating"))
    assert (type(read_as), read_as.word, read_as.known) == (VideoWorking, "levitating", False)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, FaultKind.SERVER),
        (401, FaultKind.CREDENTIALS),
        (402, FaultKind.CREDENTIALS),
        (403, FaultKind.CREDENTIALS),
        (404, None),
        (429, FaultKind.THROTTLED),
        (500, FaultKind.SERVER),
        (503, FaultKind.SERVER),
    ],
)
def test_a_refusal_is_read_alike_everywhere(name, status, expected):
    read_as = read(ALL[name], {"error": {"message": "no such task"}}, status)
    assert read_as == VideoMissing() if expected is None else read_as.kind is expected


@pytest.mark.parametrize("name", ALL)
def test_a_page_of_a_proxy_says_nothing_of_the_job(name):
    for status, kind in ((200, FaultKind.MALFORMED), (403, FaultKind.BLOCKED), (404, FaultKind.SERVER)):
        page = HttpReply(status=status, headers={"content-type": "text/html"}, body=b"<html>Sorry</html>")
        assert read_answer(ALL[name], BASE, JOB, page, NOW_S).kind is kind


@pytest.mark.parametrize("name", [name for name, api in ALL.items() if api.id is not None])
def test_an_answer_about_another_job_is_malformed(name):
    api = ALL[name]
    answer = json.loads(json.dumps(ANSWERS[name]("failed")).replace("job_1", "job_2"))
    assert read(api, answer).kind is FaultKind.MALFORMED


@pytest.mark.parametrize("name", ALL)
def test_a_description_says_how_sure_it_is_and_gives_a_job_the_time_it_takes(name):
    api = ALL[name]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", api.checked)
    assert api.source
    assert isinstance(api.certainty, Certainty)
    assert api.strategy.timeout_s >= 600
    assert api.strategy.max_attempts * api.strategy.interval_s >= api.strategy.timeout_s


# --- the traps ---

FAL_JOB = attrs.evolve(
    JOB,
    metadata={
        "operation": {
            "status_url": "https://queue.fal.run/fal-ai/kling/requests/job_1/status",
            "response_url": "https://queue.fal.run/fal-ai/kling/requests/job_1",
        }
    },
)


def result(api: ApiDescription, body: object, status: int = 200):
    return read_result(api, api.base_url or BASE, FAL_JOB, reply(body, status), NOW_S)


def test_fals_completed_is_no_success_by_itself():
    assert read(FAL, {"status": "COMPLETED"}) == Finished()
    failed = read(FAL, {"status": "COMPLETED", "error": "out of memory", "error_type": "internal"})
    assert (type(failed), failed.error) == (VideoFailed, "out of memory")
    assert result(FAL, {"video": {"url": URL}}).video_url == URL
    assert result(FAL, {"video_url": URL}).video_url == URL


def test_a_result_that_fal_refuses_is_a_failure_with_its_reason():
    refused = result(FAL, {"detail": [{"msg": "flagged", "type": "content_policy_violation"}]}, 422)
    assert (type(refused), refused.error, refused.reason) == (VideoFailed, "flagged", FailureReason.MODERATED)
    assert result(FAL, {"detail": "later"}, 503).kind is FaultKind.SERVER
    assert result(FAL, b"<html>").kind is FaultKind.MALFORMED
    failure = HttpFailure(kind=FailureKind.TIMEOUT, detail="late")
    assert read_result(FAL, BASE, FAL_JOB, failure, NOW_S).kind is FaultKind.TIMEOUT


def test_xai_that_says_nothing_works_on_and_moderates_what_is_done():
    assert type(read(XAI, b"", 202)) is VideoWorking
    assert type(read(XAI, {}, 202)) is VideoWorking
    moderated = read(XAI, {"status": "done", "video": {"url": URL, "respect_moderation": False}})
    assert (type(moderated), moderated.reason) == (VideoFailed, FailureReason.MODERATED)


@pytest.mark.parametrize("output", [URL, [URL], [URL, "https://files.example/2.mp4"], {"video": URL}])
def test_replicates_output_is_a_link_or_a_list_of_links(output):
    ready = read(REPLICATE, {"id": "job_1", "status": "succeeded", "output": output})
    assert ready.video_url == URL
    assert ready.assets[0].place.lives_s == 3600


def test_what_only_the_key_opens_is_no_link_for_a_user():
    """A publisher makes one of it, or nobody does."""
    answer = {"id": "job_1", "status": "completed", "unsigned_urls": ["https://openrouter.ai/content?index=0"]}
    locked = read(OPENROUTER, answer)
    assert (type(locked), locked.video_url) == (VideoReady, None)
    assert locked.assets == (Asset(LockedLink("https://openrouter.ai/api/v1/videos/job_1/content")),)
    assert "openrouter.ai" not in repr(locked)
    assert read(OPENROUTER, {**answer, "urls": [URL]}).video_url == URL


@pytest.mark.parametrize("off_s", [-3600, 0, 3600])
def test_a_link_lives_as_long_as_its_apis_own_clock_says(off_s):
    """The end that it tells goes by that clock, and that of this machine may be wrong."""
    answer = {"id": "job_1", "status": "completed", "url": URL, "expires_at": NOW_S + 600}
    dated = HttpReply(status=200, headers={"date": formatdate(NOW_S)}, body=json.dumps(answer).encode())
    ready = read_answer(VIDEOS, BASE, JOB, dated, NOW_S + off_s)
    assert ready.assets == (Asset(PublicLink(URL, lives_s=600)),)
    assert read(VIDEOS, answer).assets[0].place.lives_s == 600


def test_other_things_that_were_made_come_after_the_video():
    ready = read(HEYGEN, {"data": {"status": "completed", "video_url": URL, "gif_url": "https://x.example/1.gif"}})
    assert ready.assets[1:] == (Asset(PublicLink("https://x.example/1.gif"), AssetKind.PREVIEW),)
    assert ready.refreshable


@pytest.mark.parametrize(
    ("api", "answer", "reason"),
    [
        (RUNWAY, {"status": "FAILED", "failure": "no", "failureCode": "SAFETY.INPUT.TEXT"}, FailureReason.MODERATED),
        (RUNWAY, {"status": "FAILED", "failureCode": "INTERNAL.BAD_OUTPUT.CODE01"}, FailureReason.UNKNOWN),
        (MODELARK, {"status": "failed", "error": {"code": "QuotaExceeded"}}, FailureReason.OUT_OF_CREDIT),
        (MODELARK, {"status": "failed", "error": {"code": 5, "message": ["x"]}}, FailureReason.UNKNOWN),
        (HEYGEN, {"data": {"status": "failed"}}, FailureReason.UNKNOWN),
    ],
)
def test_a_code_says_more_than_the_word(api, answer, reason):
    assert read(api, answer).reason is reason


def test_progress_is_a_share_whatever_its_scale():
    assert read(VIDEOS, {"status": "in_progress", "progress": 40}).progress == 0.4
    assert read(RUNWAY, {"status": "RUNNING", "progress": 0.4}).progress == 0.4
    assert read(FAL, {"status": "IN_QUEUE", "queue_position": 3}).queue_position == 3


def test_done_without_a_video_is_asked_once_more_and_then_fails():
    locked = read(VIDEOS, {"id": "job_1", "status": "completed"})
    assert type(locked.assets[0].place) is LockedLink, "this one is behind the key"
    waits = read(MODELARK, {"id": "job_1", "status": "succeeded", "content": {}})
    assert (type(waits), bool(waits.error)) == (VideoWorking, True)


@pytest.mark.parametrize(
    "place", ["file:///1.mp4", "javascript:alert(1)", "https://u:p@x.example/1.mp4", "s3://b/1.mp4"]
)
def test_a_link_that_must_not_be_handed_on_is_kept(place):
    failed = read(MODELARK, {"id": "job_1", "status": "succeeded", "content": {"video_url": place}})
    assert (type(failed), failed.undeliverable_url) == (VideoFailed, place)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.just("completed"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["status", "id", "data", "output", "video", "url", "error", "detail", "code", "task", "x"])
            | st.text(max_size=5),
            inner,
            max_size=6,
        )
    ),
    max_leaves=15,
)


@given(json_values, st.sampled_from(sorted(ALL)), st.sampled_from([200, 201, 202, 400, 404, 410, 422, 500]))
def test_whatever_an_api_answers_is_read_without_a_word(body, name, status):
    for read_as in (read(ALL[name], body, status), result(ALL[name], body, status)):
        assert isinstance(read_as, VideoWorking | VideoReady | VideoFailed | VideoMissing | Fault | Finished)


# --- addresses and keys ---


@pytest.mark.parametrize(
    "job_id", ["a/b", "projects/p/locations/l/operations/1", "video_" + "x" * 350, "ñ?#%2e", "a b"]
)
def test_an_id_stays_one_part_of_the_path(job_id):
    url = VIDEOS.url("{base}/videos/{id}", BASE, attrs.evolve(JOB, job_id=job_id))
    assert re.fullmatch(r"https://api\.example/v1/videos/[A-Za-z0-9._~%-]+", url)


@pytest.mark.parametrize("job_id", ["..", ".", "\udcff"])
def test_an_id_that_no_path_can_have_is_not_asked_for(job_id):
    assert VIDEOS.url("{base}/videos/{id}", BASE, attrs.evolve(JOB, job_id=job_id)) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://queue.fal.run.evil.example/x",
        "http://queue.fal.run/x",
        "https://queue.fal.run:8443/x",
        "https://user@queue.fal.run/x",
        "/x",
        None,
        7,
    ],
)
def test_the_key_goes_to_the_origin_of_the_api_and_nowhere_else(url):
    """The address came out of a reply, and has been in Redis since."""
    job = attrs.evolve(JOB, metadata={"operation": {"status_url": url}})
    assert FAL.url(FAL.poll, FAL.base_url, job) is None
    with FakeServer() as server:
        poller = HttpVideoPoller(FAL, api_key="secret", base_url=server.url)
        fault = poller.poll(job, timeout_s=5)
        poller.close()
        assert (fault.kind, server.requests) == (FaultKind.INTERNAL, [])


def test_kling_is_asked_where_the_job_was_started():
    job = attrs.evolve(JOB, metadata={"operation": {"kind": "text2video"}})
    assert KLING.url(KLING.poll, "https://k.example", job) == "https://k.example/v1/videos/text2video/job_1"
    job = attrs.evolve(JOB, metadata={"operation": {"kind": "../../x"}})
    assert KLING.url(KLING.poll, "https://k.example", job) == "https://k.example/v1/videos/..%2F..%2Fx/job_1"
    assert KLING.url(KLING.poll, "https://k.example", JOB) is None


@pytest.mark.parametrize("operation", [None, "x", [], {"kind": {}}, {"kind": ".."}])
def test_an_operation_that_is_none_is_not_asked_for(operation):
    assert KLING.url(KLING.poll, BASE, attrs.evolve(JOB, metadata={"operation": operation})) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"video": "a..b"}, "is no path"),
        ({"status": "a[x]"}, "is no path"),
        ({"poll": "https://elsewhere.example/{id}"}, "must begin with {base}"),
        # Without a slash it is another host.
        ({"poll": "{base}v2/{id}"}, "must begin with {base}/"),
        ({"poll": "{base}@elsewhere.example/{id}"}, "must begin with {base}/"),
        ({"poll": "{base}/{who}"}, "may have {id}"),
        # "a:b" and its id "c" would be the job of "a" with the id "b:c".
        ({"name": "a:b"}, "name is letters"),
        ({"name": ""}, "name is letters"),
        ({"name": "a\nb"}, "name is letters"),
        ({"poll": "{base}/{operation}"}, "may have {id}"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"words": {"done": "finished"}}, "finished"),
    ],
)
def test_a_description_that_cannot_work_is_refused_when_it_is_made(change, said):
    with pytest.raises((ConfigurationError, ValueError), match=re.escape(said)):
        attrs.evolve(REPLICATE, **change)


@pytest.mark.parametrize(
    ("api", "options", "said"),
    [
        (VIDEOS, {"api_key": "k"}, "give HttpVideoPoller its base_url"),
        (REPLICATE, {}, "give HttpVideoPoller its api_key"),
        (REPLICATE, {"api_key": "two words"}, "printable ASCII"),
        (REPLICATE, {"api_key": ""}, "not empty"),
        (REPLICATE, {"api_key": "k", "base_url": "https://x.example?a=1"}, "must not have a query"),
        (REPLICATE, {"api_key": "k", "base_url": "nowhere"}, "http"),
    ],
)
def test_a_poller_that_cannot_work_is_refused_when_it_is_built(api, options, said):
    with pytest.raises(ConfigurationError, match=said):
        HttpVideoPoller(api, **options)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a", [{"b": [1, {"c": 2}]}]),
        ("a.b[0]", [1]),
        ("a.b[1].c", [2]),
        ("a.b[*]", [1, {"c": 2}]),
        ("a.b[*].c", [2]),
        ("a.b[7]", []),
        ("a.x.y", []),
        ("a[0]", []),
    ],
)
def test_a_path_leads_to_what_stands_there_or_to_nothing(path, found):
    assert find({"a": {"b": [1, {"c": 2}]}}, steps_of(path)) == found


# --- over HTTP, under both runners ---


@pytest.fixture
def server():
    with FakeServer() as server:
        yield server


def test_a_job_of_fal_is_polled_and_its_result_fetched_and_delivered(world, server):
    where = {"status_url": f"{server.url}/m/requests/job_1/status", "response_url": f"{server.url}/m/requests/job_1"}
    working, done = {"status": "IN_QUEUE", "queue_position": 1}, {"status": "COMPLETED"}
    server.route("GET", "/m/requests/job_1/status", Reply.json(working, status=202), Reply.json(done))
    server.route("GET", "/m/requests/job_1", Reply.json({"video": {"url": URL}}))
    world.enqueue("job_1", operation=where)
    poller = HttpVideoPoller(FAL, api_key="the-key", base_url=server.url)

    with world.worker(poller=poller) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the user has the video")

    assert [one.headers["authorization"] for one in server.requests] == ["Key the-key"] * 3
    assert worker.recorder.of(events.JobPolled)[0].queue_position == 1
    assert "the-key" not in repr(poller)


def test_a_key_that_changes_is_asked_for_at_each_poll(world, server):
    keys = iter(["first", "second", "third"])
    server.route("GET", "/predictions/job_1", Reply.json({"status": "starting"}), Reply.json({"status": "failed"}))
    world.enqueue("job_1")

    with world.worker(poller=HttpVideoPoller(REPLICATE, api_key=lambda: next(keys), base_url=server.url)) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "the user has heard")

    assert [one.headers["authorization"] for one in server.requests] == ["Bearer first", "Bearer second"]


def test_a_redirect_is_not_followed_so_that_the_key_stays(server):
    with FakeServer() as other:
        server.route(
            "GET", "/predictions/job_1", Reply(status=302, headers={"location": f"{other.url}/predictions/job_1"})
        )
        poller = HttpVideoPoller(REPLICATE, api_key="k", base_url=server.url)
        assert poller.poll(JOB, timeout_s=5).kind is FaultKind.SERVER
        poller.close()
        assert other.requests == []


KEY = "sk-a-key-of-some-length"


@pytest.mark.parametrize(
    "answer",
    [
        {"status": KEY},
        {"status": f"bad {KEY}"},
        {"status": "succeeded", "error": f"{KEY} is bad"},
        {"status": "failed", "error": f"{KEY} is bad"},
        {"status": "succeeded", "output": f"ftp://files.example/?key={KEY}"},
        {"status": "succeeded", "output": f"https://files.example/?key={KEY}"},
        {"status": "succeeded", "output": [URL, f"https://files.example/?key={KEY}"]},
    ],
    ids=str,
)
def test_a_key_that_an_api_quotes_is_kept_nowhere(server, answer):
    server.route("GET", "/predictions/job_1", Reply.json(answer))
    poller = HttpVideoPoller(REPLICATE, api_key=KEY, base_url=server.url)
    told = poller.poll(JOB, timeout_s=5)
    poller.close()
    assert KEY not in str(attrs.asdict(told))
    assert not isinstance(told, VideoReady)


def test_the_key_that_is_taken_out_is_that_of_the_poll_and_not_of_another_one_under_way():
    keys = iter([KEY, "sk-the-next-one-of-them"])
    both = asyncio.Barrier(2)

    async def answer(request):
        await both.wait()
        return httpx.Response(200, json={"status": "failed", "error": request.headers["authorization"]})

    async def polls():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            poller = HttpVideoPoller(REPLICATE, api_key=lambda: next(keys), async_client=client)
            return await asyncio.gather(*(poller.apoll(JOB, timeout_s=5) for _ in range(2)))

    assert not any("sk-" in told.error for told in asyncio.run(polls()))


def poller_of_no_provider(url):
    return VideoApiPoller(base_url=url, api_key=KEY)


def poller_of_videos(url):
    return HttpVideoPoller(VIDEOS, base_url=url, api_key=KEY)


@pytest.mark.parametrize("poller_at", [poller_of_no_provider, poller_of_videos])
def test_a_job_of_another_api_is_not_asked_for_and_not_called_missing(server, poller_at):
    """Somebody else's job may have its id there, and the video may have been paid for."""
    started = GenerationStarted.of("replicate", "job_1")
    job = VideoJob(started.job_id, "user", 1, started.metadata)
    poller = poller_at(server.url)
    told = [poller.poll(job, timeout_s=5), asyncio.run(poller.apoll(job, timeout_s=5))]
    poller.close()
    assert {type(one) for one in told} == {VideoFailed}
    assert {one.reason for one in told} == {FailureReason.NOT_CONFIGURED}
    assert all("started at the video API replicate" in one.error for one in told)
    assert server.requests == []


@pytest.mark.parametrize(
    "metadata", [{"provider": "whatsapp"}, {"provider": "whatsapp", "operation": {"id": "7"}}, {"provider": 5}]
)
def test_a_hosts_own_field_of_that_name_is_no_start_at_another_api(server, metadata):
    server.route("GET", "/job/job_1", Reply.processing())
    poller = poller_of_no_provider(server.url)
    assert isinstance(poller.poll(attrs.evolve(JOB, metadata=metadata), timeout_s=5), VideoWorking)
    poller.close()


def test_a_bucket_object_is_no_link():
    assert Asset(BucketObject("gs://films/1.mp4")).readied() == Asset(BucketObject("gs://films/1.mp4"))
