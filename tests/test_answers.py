"""What the video API's answers mean, in all the shapes in which servers write them: a paid video must not be lost to one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import phone, until
from videopoll import PollingStrategy, VideoJob, events
from videopoll._http import NOT_JSON, HttpReply
from videopoll.core.polling import NextPoll, decide
from videopoll.jobs import Outcome, OutcomeKind, urls
from videopoll.jobs.transition import PollWork
from videopoll.jobs.urls import MAX_URL_CHARS, BadUrl, readied_url
from videopoll.observations import Fault, FaultKind, VideoFailed, VideoMissing, VideoReady, VideoWorking
from videopoll.testing import Reply
from videopoll.video_api import GenerationFailed
from videopoll.video_api.generator import read_reply as read_generation
from videopoll.video_api.poller import read_reply

JOB = "job_1757157518747_grhexcfhk"
URL = "https://files.example/abc.mp4?sig=signed"
COMPLETED = {"jobId": JOB, "status": "completed", "videoUrl": URL}
SPEC = PollingStrategy()
T0 = 1_757_157_518_747


def reading(body: object, status: int = 200, **headers: str):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_reply(JOB, HttpReply(status=status, headers=named, body=raw), 1_000_000.0)


# --- encodings ---

TEXT = json.dumps({**COMPLETED, "message": "¡listo! 🎥"}, ensure_ascii=False)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", *(f"utf-{size}{end}" for size in (16, 32) for end in ("", "-le", "-be"))]
)
def test_a_finished_video_is_read_in_every_encoding_of_json(encoding):
    """As httpx's and requests' readers do, with a byte order mark and without."""
    assert reading(TEXT.encode(encoding)) == VideoReady(URL)
    assert reading(f" \r\n\t{TEXT}\n\n".encode(encoding), content_type="application/json") == VideoReady(URL)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("¡listo!".encode("latin-1"), "application/json; charset=iso-8859-1"),
        ("¡listo!".encode("cp1252"), 'application/json;charset="windows-1252"'),
        ("¡listo!".encode("latin-1"), "text/plain"),
        ("¡listo!".encode("latin-1"), "application/json"),
        ("¡listo!".encode("latin-1"), "application/json; charset=utf-8"),
        ("準備".encode("shift_jis"), "application/json; charset=Shift_JIS"),
        ("¡listo!".encode("latin-1"), "application/json; charset=no-such"),
        (b"\xff", "application/json; charset=punycode"),
        (b"cut \xc3", ""),
        (b"\xed\xa0\x80", ""),
    ],
)
def test_bytes_that_are_not_utf_8_do_not_hide_a_finished_video(body, content_type):
    """A message in another encoding, or one that was cut in the middle of a letter, is no reason to lose a video."""
    whole = json.dumps(COMPLETED).encode()[:-1] + b', "message": "' + body + b'"}'
    assert reading(whole, content_type=content_type) == VideoReady(URL)


def test_words_in_a_declared_encoding_are_read_in_it():
    """An operator can read the reason."""
    body = '{"status": "failed", "error": "petición inválida"}'.encode("latin-1")
    assert reading(body, content_type="application/json; charset=latin-1") == VideoFailed("petición inválida")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-0"])
def test_numbers_that_are_none_do_not_hide_a_finished_video(number):
    """Python's own readers take them, and others write them."""
    body = json.dumps(COMPLETED)[:-1] + f', "progress": {number}, "timestamp": {number}}}'
    observation = reading(body.encode())
    assert isinstance(observation, VideoReady)
    json.dumps(observation.timestamp, allow_nan=False)


def test_of_a_name_that_is_there_twice_the_last_one_counts():
    """As in every reader of JSON."""
    assert reading(f'{{"status": "processing", "status": "completed", "videoUrl": "{URL}"}}'.encode()) == VideoReady(
        URL
    )


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b"{}{}"])
def test_what_is_no_json_is_none(body):
    """Whatever the header promises; and nothing raises."""
    for content_type in ("", "application/json; charset=utf-16", "application/json; charset=utf-7", "charset=zlib"):
        assert HttpReply(status=200, headers={"content-type": content_type}, body=body).json() is NOT_JSON


# --- words ---


@pytest.mark.parametrize("word", ["completed", "COMPLETED", " Completed\n"])
def test_a_finished_video_is_finished_in_any_spelling(word):
    assert reading({**COMPLETED, "status": word}) == VideoReady(URL)


@pytest.mark.parametrize("word", ["not_found", "Not Found", "NOT-FOUND "])
def test_not_found_in_any_spelling(word):
    assert reading({"status": word}) == VideoMissing()


@pytest.mark.parametrize("named", [JOB, f" {JOB} ", "", None, {}, [], True])
def test_only_another_jobs_id_makes_it_another_jobs_answer(named):
    """What names no job at all is no reason to disbelieve the answer to our question."""
    assert reading({**COMPLETED, "jobId": named}) == VideoReady(URL)


def test_an_id_of_digits_may_come_as_a_number():
    reply = HttpReply(status=200, body=b'{"jobId": 42, "status": "completed", "videoUrl": "%s"}' % URL.encode())
    assert read_reply("42", reply, 0.0) == VideoReady(URL)
    assert isinstance(read_reply("43", reply, 0.0), Fault)


@pytest.mark.parametrize("word", ["canceled", "aborted", "Rejected"])
@pytest.mark.parametrize(
    "beside",
    [
        {"error": "by the user"},
        {"error": {"code": 7}},
        {"completedAt": "2026-11-25T10:00:00Z"},
        {"failedAt": 1_757_157_518_747},
        {"cancelled_at": "2026-11-25"},
    ],
)
def test_an_unknown_last_word_ends_a_job_that_is_over_by_another_field(word, beside):
    """Otherwise its user waits for a video that nobody is making."""
    observation = reading({"status": word, **beside})
    assert isinstance(observation, VideoFailed)
    assert observation.error == beside.get("error") or word in observation.error


@pytest.mark.parametrize(
    "beside",
    [
        {},
        {"error": None},
        {"error": ""},
        {"error": " "},
        {"error": []},
        {"error": False},
        {"completedAt": None},
        {"completedAt": ""},
        {"completedAt": 0},
        {"timestamp": "2026-11-25"},
        {"message": "on its way"},
        {"startedAt": 5},
    ],
)
def test_an_unknown_word_alone_keeps_polling(beside):
    """A new word of the API for "working" must not end jobs that will bring a video."""
    assert reading({"status": "rendering", **beside}) == VideoWorking("rendering", known=False)


@pytest.mark.parametrize("beside", [{"error": "slow today"}, {"completedAt": "2026-11-25"}])
def test_a_known_word_says_itself_whether_the_job_is_over(beside):
    assert reading({"status": "processing", **beside}) == VideoWorking("processing")


def test_an_unknown_last_word_beside_a_video_is_that_video():
    assert reading({**COMPLETED, "status": "succeeded", "completedAt": "2026"}) == VideoReady(URL, timestamp="2026")


@pytest.mark.parametrize("status", [200, 202, 204])
@pytest.mark.parametrize("body", [b"", b" \r\n", b"\xef\xbb\xbf"])
def test_a_success_without_a_body_says_that_it_is_being_worked_on(status, body):
    assert reading(body, status, retry_after="7") == VideoWorking(retry_after_s=7.0)


def test_accepted_without_a_status_says_the_same():
    assert reading({"message": "accepted"}, 202) == VideoWorking()
    assert isinstance(reading(b"<html>", 202), Fault)


# --- completed, and no URL yet ---


def judged(after_s: float, *, doubt_s: float | None = None, faults: int = 0, observation=None):
    job = VideoJob(JOB, "c", T0)
    doubt_ms = None if doubt_s is None else T0 + round(doubt_s * 1000)
    now_ms = T0 + round(after_s * 1000)
    seen = observation or reading({"jobId": JOB, "status": "completed"})
    return decide(PollWork(job, 3, faults, None, doubt_ms), now_ms, seen, now_ms, SPEC)


@pytest.mark.parametrize("url", [{}, {"videoUrl": None}, {"videoUrl": ""}, {"videoUrl": " "}])
def test_completed_a_moment_before_its_url_is_asked_again(url):
    """A poll later the URL is there; the video was paid for."""
    observation = reading({"status": "completed", **url})
    assert isinstance(observation, VideoWorking)
    assert (observation.word, observation.known) == ("completed", True)
    after = judged(60, observation=observation)
    assert after == NextPoll(T0 + 70_000, last_answer_ms=T0 + 60_000, doubt_ms=T0 + 60_000)


def test_completed_without_a_url_for_a_whole_interval_is_a_failure():
    after = judged(70, doubt_s=60)
    assert isinstance(after, Outcome)
    assert (after.kind, after.error) == (OutcomeKind.FAILED, "the video API says completed, but gives no video URL")


def test_it_has_its_interval_also_if_it_is_asked_sooner_or_cannot_be_asked():
    """A person has it polled at once, or the API has a fault in between."""
    sooner = judged(63, doubt_s=60)
    assert (sooner.due_ms, sooner.doubt_ms) == (T0 + 70_000, T0 + 60_000)
    faulty = judged(70, doubt_s=60, observation=Fault(FaultKind.SERVER, "HTTP 503"))
    assert faulty.doubt_ms == T0 + 60_000
    assert judged(70, doubt_s=60, observation=VideoWorking()).doubt_ms is None


def test_at_the_deadline_there_is_no_more_asking():
    assert judged(300, doubt_s=299).kind is OutcomeKind.FAILED


def test_a_video_whose_url_comes_a_poll_later_is_delivered(world):
    """Over Redis, which remembers since when the URL is waited for."""
    world.api.job("job_1", Reply(status=200, body={"status": "completed"}), Reply.completed(URL))
    world.api.job("job_2", Reply(status=200, body={"status": "completed"}))
    with world.queue() as queue:
        for number in (1, 2):
            queue.enqueue(f"job_{number}", conversation_id="c", metadata={"channel": "ultramsg", "to": phone(number)})
        with world.worker() as worker:
            until(lambda: len(worker.recorder.of(events.JobDelivered)) == 2, "both have ended")
    ends = {event.job_id: event.outcome for event in worker.recorder.of(events.JobConcluded)}
    assert ends == {"job_1": OutcomeKind.COMPLETED, "job_2": OutcomeKind.FAILED}
    assert len(worker.recorder.of(events.JobPolled, "job_2")) == 2


# --- who refuses us ---

KEY_REFUSED = {"error": "Invalid API key"}
CLOUDFLARE = {"server": "cloudflare", "cf_ray": "8f00", "content_type": "text/plain; charset=UTF-8"}


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    ("body", "headers", "looks"),
    [
        (b"error code: 1010", CLOUDFLARE, "plain text from cloudflare, code 1010"),
        (b"<html><h1>403 Forbidden</h1> secret-words</html>", {"server": "nginx/1.25.3"}, "HTML from nginx"),
        (b"Access denied by secret-words", {}, "plain text"),
        (b"<?xml version='1.0'?><Error/>", {"server": "AmazonS3"}, "XML"),
        (b"", {"server": "cloudflare"}, "no body from cloudflare"),
        (b"", {"x_amzn_waf_action": "block"}, "no body from AWS WAF"),
        ({"title": "Error 1010: Access denied", "ray_id": "8f", "cloudflare_error": True}, CLOUDFLARE, "JSON"),
        (b"denied", {"server": "secret-words of 30 and more and more"}, "plain text from secret-words"),
    ],
)
def test_a_firewalls_refusal_is_not_called_a_wrong_key(status, body, headers, looks):
    """An operator would change a good key. What came and from whom it looks is said, and none of its words."""
    observation = reading(body, status, **headers)
    assert isinstance(observation, Fault)
    assert observation.kind is FaultKind.BLOCKED
    assert looks in observation.detail
    assert "the key may be right" in observation.detail
    assert "Access denied" not in observation.detail
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    generation = read_generation(HttpReply(status=status, headers=named, body=raw), 0.0)
    assert isinstance(generation, GenerationFailed)
    assert (generation.code.value, generation.passing) == ("API_ERROR", False)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("body", [KEY_REFUSED, {"message": "Forbidden"}, b""])
@pytest.mark.parametrize("headers", [{}, {"cf_ray": "8f00", "server": "gunicorn"}])
def test_the_apis_own_refusal_is_a_wrong_key(status, body, headers):
    """Also if it stands behind a network of others."""
    observation = reading(body, status, **headers)
    assert isinstance(observation, Fault)
    assert observation.kind is FaultKind.CREDENTIALS


def test_a_page_with_status_200_is_told_with_its_kind():
    assert reading(b"<html>secret-words", server="squid/6.1").detail == "HTTP 200: not JSON, HTML from squid"


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply(status=403, body=b"error code: 1010", headers={"Server": "cloudflare"}), "the API key may be right"),
        (Reply(status=401, body={"error": "no such key"}), "check the API key"),
    ],
)
def test_a_worker_says_who_refuses_it(world, caplog, reply, problem):
    caplog.set_level("INFO")
    world.api.job("job_1", reply)
    with world.queue() as queue, world.worker() as worker:
        queue.enqueue("job_1", conversation_id="c", metadata={"channel": "ultramsg", "to": phone(1)})
        until(lambda: worker.recorder.of(events.JobPolled), "it was polled")
        until(lambda: not worker.runner.health().healthy, "its health says so")
        (told,) = worker.runner.health().problems
    assert problem in told
    assert ("refuses our key" in caplog.text) == ("check the API key" in problem)
    assert ("in front of the video API" in caplog.text) == ("may be right" in problem)


# --- URLs ---


@pytest.mark.parametrize(
    ("given", "delivered"),
    [
        (URL, URL),
        (f" {URL}\r\n", URL),
        ("https://files.example/my video (1).mp4?x=1 2", "https://files.example/my%20video%20(1).mp4?x=1%202"),
        ("https://files.example/100%.mp4?a=%2F", "https://files.example/100%25.mp4?a=%2F"),
        ("https://files.example/ñandú 🎥.mp4", "https://files.example/%C3%B1and%C3%BA%20%F0%9F%8E%A5.mp4"),
        ("https://files.example/👩\u200d🚀.mp4", "https://files.example/%F0%9F%91%A9%E2%80%8D%F0%9F%9A%80.mp4"),
        ("https://vídeos.example:8443/x", "https://xn--vdeos-zsa.example:8443/x"),
        ("https://straße.example/x", "https://xn--strae-oqa.example/x"),
        ("HTTPS://Files.example/x", "https://Files.example/x"),
        ('https://files.example/a"b<c>{d}|e\\f', "https://files.example/a%22b%3Cc%3E%7Bd%7D%7Ce%5Cf"),
        ("https://[::1]:8080/x", "https://[::1]:8080/x"),
        ("https://files.example/x?" + "s" * 8000, "https://files.example/x?" + "s" * 8000),
    ],
)
def test_a_video_url_is_delivered_in_the_form_of_a_url(given, delivered):
    assert reading({**COMPLETED, "videoUrl": given}) == VideoReady(delivered)
    assert readied_url(delivered) == delivered


@pytest.mark.parametrize("path", ["s3", "gcs", "azure", "cloudfront"])
def test_signed_links_of_the_large_storages_are_delivered(path):
    """With a session's token, a policy and a key's id they have some thousand characters."""
    url = f"https://{path}.example/x.mp4?X-Amz-Security-Token=" + "A%2B" * 900 + "&X-Amz-Signature=" + "0" * 64
    assert len(url) > 3_500
    assert reading({**COMPLETED, "videoUrl": url}) == VideoReady(url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("javascript:alert(1)", "is not http or https"),
        ("https://a b/x", "host"),
        ("https://user:word@a/x", "credentials"),
        ("https://a\\@b/x", "host"),
        ("https://files.example/" + "ñ" * 2000, f"longer than {MAX_URL_CHARS}"),
        ("https://files.example/a\nb", "control characters"),
        ("https://files.example/\u202egpj.exe", "control characters"),
        ("https://xn--" + "a" * 300 + "/x", "no name"),
        ("https://é" + "b" * 80 + ".example/x", "no name"),
        (7, "is no text"),
    ],
)
def test_a_video_that_cannot_be_handed_on_is_a_failure_in_plain_words(url, problem):
    """The user must not get it; the operator is told what is wrong, without the URL in the text."""
    assert isinstance(readied_url(url), BadUrl)
    observation = reading({**COMPLETED, "videoUrl": url})
    assert isinstance(observation, VideoFailed)
    assert observation.error.startswith("the video was made, but its video URL cannot be delivered: it ")
    assert problem in observation.error
    assert str(url) not in observation.error + repr(observation)
    assert observation.undeliverable_url == (url if isinstance(url, str) else None)


def test_a_video_that_cannot_be_handed_on_is_kept_for_the_operator(world):
    """In the outbox and in the audit trail, where `videopoll show --reveal` finds it; the user hears of the failure."""
    url = f"ftp://files.example/x.mp4?sig={'0' * 100}"
    world.api.job("job_1", Reply(status=200, body={"status": "completed", "videoUrl": url}))
    with world.queue() as queue, world.worker() as worker:
        queue.enqueue("job_1", conversation_id="c", metadata={"channel": "ultramsg", "to": phone(1)})
        until(lambda: worker.recorder.of(events.JobDelivered), "the user is told")
        outcome = queue.get("job_1").outcome
    assert (outcome.kind, outcome.undeliverable_url) == (OutcomeKind.FAILED, url)
    (message,) = world.ultramsg.inbox(phone(1))
    assert "ftp" not in message.text
    assert "ftp" not in repr(worker.recorder.events)


@given(
    st.one_of(
        st.text(max_size=60),
        st.text(alphabet="az09AZ-._~:/?#[]@!$&'()*+,;=%25 |\\^`{}\"<>é\t\u200d", max_size=60).map("https://{}".format),
        st.from_regex(r"https?://[a-z0-9._-]{1,12}(:[0-9]{0,6})?([/?#][!-~]{0,30})?", fullmatch=True),
    )
)
def test_a_plain_url_comes_to_the_same_by_the_short_way_and_by_the_long_one(url):
    assert urls.readied_url(url) == urls._readied(url)
    if isinstance(urls.readied_url(url), str) and url.startswith("http"):
        assert urls.is_web_url(urls.readied_url(url))
