"""`videopoll.video_api.poller` against a real HTTP server: what each answer of the video API means for a job."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videopoll._http import FailureKind, HttpFailure, HttpReply
from videopoll.errors import ConfigurationError
from videopoll.jobs import VideoJob
from videopoll.observations import Fault, FaultKind, Observation, VideoFailed, VideoMissing, VideoReady, VideoWorking
from videopoll.video_api.client import ApiHealth
from videopoll.video_api.poller import VideoApiPoller, read_reply

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = VideoJob("job_1757157518747_grhexcfhk", "68bb", 1_757_157_518_747)
KEY = "s3cr3t-key"
URL = "https://files.api-ai-mvp.com/file/abc.mp4?sig=signed"
WORLDS = ("threads", "httpx", "aiohttp")


class Api:
    """The video API: answers everything with `status`, `headers` and `body`."""

    def __init__(self) -> None:
        api = self
        self.status, self.headers, self.body = 200, {}, b"{}"
        self.seen: list[tuple[str, dict[str, str]]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                api.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                self.send_response(api.status)
                for name, value in {"Content-Length": str(len(api.body)), **api.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(api.body)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Say nothing: a client that hangs up is often the point."""

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()

    def answers(self, body: object, status: int = 200, **headers: str) -> None:
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()

    def stop(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def running_api() -> Iterator[Api]:
    api = Api()
    yield api
    api.stop()


@pytest.fixture
def api(running_api: Api) -> Api:
    running_api.answers({})
    running_api.seen.clear()
    return running_api


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


class Asker:
    """Asks in threads or under asyncio."""

    def __init__(self, world: str) -> None:
        self.world = world

    def poll(self, base_url: str, job: VideoJob = JOB, timeout_s: float = 10.0) -> Observation:
        return self._ask(
            base_url, lambda p: p.poll(job, timeout_s=timeout_s), lambda p: p.apoll(job, timeout_s=timeout_s)
        )

    def health(self, base_url: str) -> ApiHealth:
        return self._ask(base_url, lambda p: p.health(), lambda p: p.ahealth())

    def _ask(self, base_url, sync, async_):
        if self.world == "threads":
            poller = VideoApiPoller(base_url=base_url, api_key=KEY)
            try:
                return sync(poller)
            finally:
                poller.close()
        pytest.importorskip(self.world)

        async def main():
            poller = VideoApiPoller(base_url=base_url, api_key=KEY, transport=self.world)
            try:
                return await async_(poller)
            finally:
                await poller.aclose()

        return asyncio.run(main())


@pytest.fixture(params=WORLDS)
def asker(request: pytest.FixtureRequest) -> Asker:
    return Asker(request.param)


def reading(body: object, status: int = 200, **headers: str) -> Observation:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_reply(JOB.job_id, HttpReply(status=status, headers=headers, body=raw), 1_000_000.0)


def test_a_finished_video_is_ready_with_what_the_api_says_of_it(asker, api):
    """The path that everything else is for."""
    api.answers({"jobId": JOB.job_id, "status": "completed", "videoUrl": URL, "fileId": "f1", "timestamp": "2025"})
    assert asker.poll(api.url) == VideoReady(URL, "f1", "2025")
    [(path, headers)] = api.seen
    assert path == f"/job/{JOB.job_id}"
    assert headers["x-api-key"] == KEY
    assert headers["accept"] == "application/json"


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        (200, {}, {"status": "processing"}, VideoWorking("processing")),
        (404, {}, {"error": "Job not found"}, VideoMissing()),
        (400, {}, {"error": "bad prompt"}, VideoFailed("bad prompt")),
        (401, {}, b"", Fault(FaultKind.CREDENTIALS, "HTTP 401: the video API refuses the API key")),
        (429, {"Retry-After": "7"}, b"", Fault(FaultKind.THROTTLED, "HTTP 429: too many requests", 7.0)),
        (503, {"Retry-After": "3"}, b"<html>", Fault(FaultKind.SERVER, "HTTP 503", 3.0)),
        (200, {"Content-Encoding": "br"}, b"?", Fault(FaultKind.MALFORMED, "HTTP 200 with an encoded body")),
        (200, {}, b"[" * 2_000_000, Fault(FaultKind.MALFORMED, "HTTP 200 with more than 1000000 bytes")),
    ],
)
def test_an_answer_means_the_same_in_threads_and_under_asyncio(asker, api, *, status, headers, body, expected):
    """One of each family over a real connection; the rest of the table is read without one below."""
    api.answers(body, status, **{name.replace("-", "_"): value for name, value in headers.items()})
    assert asker.poll(api.url) == expected


def test_a_job_id_cannot_leave_its_place_in_the_url(asker, api):
    """Ids come from outside: one with a slash must not ask for something else with our key."""
    api.answers({"status": "queued"})
    for hostile in ("a/../../admin", "a?b=c#d", "%2e%2e", "é&x", "..;/x"):
        asker.poll(api.url, VideoJob(hostile, "c", 1))
    assert [path for path, _ in api.seen] == [
        "/job/a%2F..%2F..%2Fadmin",
        "/job/a%3Fb%3Dc%23d",
        "/job/%252e%252e",
        "/job/%C3%A9%26x",
        "/job/..%3B%2Fx",
    ]


@pytest.mark.parametrize("job_id", ["", ".", "..", "\ud800"])
def test_a_job_id_that_no_url_can_carry_is_not_asked_for(asker, api, job_id):
    """`/job/..` is another page of the API."""
    assert isinstance(asker.poll(api.url, VideoJob(job_id, "c", 1)), VideoFailed)
    assert api.seen == []


def test_a_path_in_the_base_url_stays_in_front(asker, api):
    """APIs behind a gateway have one."""
    api.answers({"status": "queued"})
    assert asker.poll(f"{api.url}/video/v1/") == VideoWorking("queued")
    assert api.seen[0][0] == f"/video/v1/job/{JOB.job_id}"


def test_a_redirect_is_a_passing_fault_and_is_not_followed(asker, api):
    """Following it would hand our key to whoever it names."""
    api.answers(b"", 302, Location=f"{api.url}/elsewhere")
    observation = asker.poll(api.url)
    assert isinstance(observation, Fault)
    assert observation.kind is FaultKind.SERVER
    assert len(api.seen) == 1


def test_an_api_that_is_down_is_a_passing_fault(asker):
    """It comes back; the job waits."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        observation = asker.poll(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert isinstance(observation, Fault)
    assert observation.kind is FaultKind.CONNECTION


def test_an_api_that_hangs_is_given_up_in_time(asker):
    """The deadline of a job holds inside a request too."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        observation = asker.poll(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3)
    assert isinstance(observation, Fault)
    assert observation.kind is FaultKind.TIMEOUT
    assert time.monotonic() - started < 3


def test_health_is_asked_without_the_key(asker, api):
    """It needs none, and what is not sent cannot leak."""
    api.answers({"ok": True})
    assert asker.health(api.url)
    [(path, headers)] = api.seen
    assert path == "/health"
    assert "x-api-key" not in headers
    for body, status in ((b"<html>", 200), ({}, 500), ({}, 404)):
        api.answers(body, status)
        assert not asker.health(api.url)


def test_an_unreachable_api_is_not_healthy(asker):
    """A health check reports trouble; it does not raise it."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert not asker.health(f"http://127.0.0.1:{unused.getsockname()[1]}")


@pytest.mark.parametrize("word", ["processing", "queued", " Processing\n", "QUEUED"])
def test_known_words_keep_polling(word):
    """The API's spelling is not ours to trust."""
    assert reading({"status": word}) == VideoWorking(word.strip(), known=True)


def test_an_unknown_word_keeps_polling_and_is_cut():
    """A new word of the API must not end jobs, nor fill the log."""
    assert reading({"status": "warming\x00 up" + "x" * 500}) == VideoWorking(
        ("warming up" + "x" * 500)[:50], known=False
    )


def test_retry_after_is_read_on_an_answer_that_is_no_fault_too():
    """An API that asks to be polled less often says so on a plain 200."""
    assert reading({"status": "queued"}, **{"retry-after": "20"}) == VideoWorking("queued", retry_after_s=20.0)
    dated = reading({}, 503, **{"retry-after": formatdate(1_000_030, usegmt=True)})
    assert dated == Fault(FaultKind.SERVER, "HTTP 503", 30.0)


@pytest.mark.parametrize(
    "url",
    [
        7,
        "javascript:alert(1)",
        "data:video/mp4;base64,AA",
        "ftp://files/x",
        "//files/x",
        "https://",
        "https:///x",
        "https://a b/x",
        "https://a/\u202e",
        "https://user:word@a/x",
        "https://a\\@b/x",
        "https://a:99999/x",
        "https://[a/x",
        "https://a/" + "x" * 8192,
    ],
)
def test_completed_without_a_safe_url_is_a_failure(url):
    """There is no video to send, and a link that is not http may run code on the user's phone."""
    observation = reading({"status": "completed", "videoUrl": url})
    assert isinstance(observation, VideoFailed)
    assert "video URL" in observation.error


@pytest.mark.parametrize(
    ("fields", "file_id", "timestamp"),
    [
        ({"fileId": 7, "completedAt": 5}, None, 5),
        ({"fileId": "f\x00" + "x" * 999, "timestamp": None}, ("f " + "x" * 999)[:256], None),
        ({"timestamp": float("1e300"), "completedAt": "late"}, None, "late"),
        ({"timestamp": {"a": []}}, None, None),
    ],
)
def test_what_is_kept_of_a_finished_video_is_bounded(fields, file_id, timestamp):
    """It is stored in Redis, and written as JSON again."""
    assert reading({"status": "completed", "videoUrl": URL, **fields}) == VideoReady(URL, file_id, timestamp)


def test_an_infinite_timestamp_is_left_out():
    """``1e999`` is JSON, reads as infinity, and could not be written as JSON again."""
    body = f'{{"status": "completed", "videoUrl": "{URL}", "timestamp": 1e999}}'.encode()
    assert reading(body) == VideoReady(URL)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"error": "no people"}, "no people"),
        ({"error": {"message": "no\tpeople", "code": 3}}, "no people"),
        ({"message": "sorry"}, "sorry"),
        ({"error": "", "message": "sorry"}, "sorry"),
        ({"error": ["x"]}, "the video API gave no reason"),
        ({}, "the video API gave no reason"),
        ({"error": "é" * 5000}, "é" * 300),
        ({"error": f"cannot read {URL} now"}, "cannot read <url> now"),
    ],
)
def test_a_failed_generation_says_why(fields, error):
    """The operator reads it in the audit trail, so it is bounded and holds no signed URL."""
    assert reading({"status": "Failed", **fields}) == VideoFailed(error)


@pytest.mark.parametrize(
    "body", [b"<html>", b"null", b"[]", b'"completed"', b"{}", b'{"status": 3}', b'{"status": " "}', b"[" * 99_999]
)
def test_an_answer_that_is_none_is_a_passing_fault(body):
    """A gateway's page with status 200 must not end a job."""
    observation = reading(body)
    assert isinstance(observation, Fault)
    assert observation.kind is FaultKind.MALFORMED


def test_an_answer_about_another_job_is_not_believed():
    """A cache or a proxy that mixes replies up would send one user another user's video."""
    observation = reading({"jobId": "job_other", "status": "completed", "videoUrl": URL})
    assert isinstance(observation, Fault)
    assert observation.kind is FaultKind.MALFORMED


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[
            (status, FaultKind.SERVER)
            for status in (101, 301, 304, 307, 402, 405, 408, 409, 422, 425, 500, 502, 504, 599)
        ],
        (401, FaultKind.CREDENTIALS),
        (403, FaultKind.CREDENTIALS),
        (429, FaultKind.THROTTLED),
    ],
)
def test_a_status_that_may_pass_is_a_fault(status, kind):
    """Only what surely ends a job ends it."""
    observation = reading(b"", status, **{"retry-after": "4"})
    assert isinstance(observation, Fault)
    assert (observation.kind, observation.retry_after_s) == (kind, 4.0)


@pytest.mark.parametrize("status", [400, 410])
def test_a_status_that_ends_the_job_is_a_failure(status):
    """Asking again cannot help."""
    assert reading({}, status) == VideoFailed(f"the video API refused the job (HTTP {status})")


def test_not_found_is_said_by_status_and_by_word():
    """Both are in use."""
    assert reading(b"", 404) == reading({"status": "not_found"}) == VideoMissing()


@pytest.mark.parametrize("kind", FailureKind)
def test_every_failure_of_the_network_is_a_fault(kind):
    """A kind that was forgotten here would raise in the middle of a poll."""
    observation = read_reply(JOB.job_id, HttpFailure(kind=kind, detail="why"), 0.0)
    assert isinstance(observation, Fault)
    assert observation.detail == "why"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
_status = st.sampled_from(["completed", "failed", "processing", "not_found"]) | st.text()
_object = st.fixed_dictionaries(
    {"status": _status | _json},
    optional=dict.fromkeys(["videoUrl", "error", "message", "fileId", "timestamp", "completedAt", "jobId"], _json),
)


@given(
    status=st.sampled_from([200, 200, 200, 400, 404, 410, 429, 500]) | st.integers(100, 999),
    body=st.binary()
    | _json.map(lambda value: json.dumps(value).encode())
    | _object.map(lambda o: json.dumps(o).encode()),
    headers=st.dictionaries(st.just("retry-after"), st.text()),
)
def test_any_reply_is_an_observation(status, body, headers):
    """Replies are hostile input: none may raise, and what is kept of them can be stored again."""
    observation = reading(body, status, **headers)
    assert isinstance(observation, Observation)
    if isinstance(observation, VideoReady):
        json.dumps([observation.video_url, observation.file_id, observation.timestamp], allow_nan=False)
    if isinstance(observation, VideoFailed):
        assert observation.error.isprintable()
        assert 0 < len(observation.error) <= 300


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "video.api",
        "ftp://a",
        "https://",
        "https://u:p@a",
        "https://a?x=1",
        "https://a#x",
        "https://a b",
        "https://é",
        None,
    ],
)
def test_a_base_url_that_cannot_work_is_refused(base_url):
    """The mistake shows when the poller is built, and the text does not repeat what may be a secret."""
    with pytest.raises(ConfigurationError, match=r"base_url .* should look like"):
        VideoApiPoller(base_url=base_url, api_key=KEY)


@pytest.mark.parametrize("api_key", ["", " ", "a b", "key\n", "\tkey", "ké", None, b"key"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(api_key):
    """A line end from a file is the usual mistake."""
    with pytest.raises(ConfigurationError, match="api_key must be printable") as caught:
        VideoApiPoller(api_key=api_key)
    assert repr(api_key) not in str(caught.value)


def test_the_key_and_signed_urls_stay_out_of_every_repr(asker, api):
    """Reprs end up in logs."""
    api.answers({"status": "completed", "videoUrl": URL})
    poller = VideoApiPoller(base_url=api.url, api_key=KEY)
    text = repr([poller, asker.poll(api.url), asker.poll("http://127.0.0.1:1")])
    assert KEY not in text
    assert "signed" not in text
    assert repr(poller) == f"VideoApiPoller(base_url={api.url!r})"
