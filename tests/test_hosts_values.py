"""Whatever a host's poller hands back or raises, and wherever a step fails: the poll counts, and its user hears."""

from __future__ import annotations

import datetime as dt
import enum
import json
import logging
import math
import time
from collections import Counter
from decimal import Decimal

import attrs
import pytest
import redis

from kit import FAST, phone, until
from videopoll import CallbackNotifier, events
from videopoll.core.delivery import deliverable, open_outbox
from videopoll.core.polling import decide
from videopoll.jobs import Asset, AssetKind, BucketObject, LockedLink, Outcome, OutcomeKind, PublicLink, VideoJob
from videopoll.observations import Fault, FaultKind, VideoFailed, VideoReady, VideoWorking
from videopoll.policies import DeliveryPolicy
from videopoll.queue.schema import Keys

URL = "https://files.example/1.mp4"
QUICK_END = attrs.evolve(FAST, interval_s=0.2, timeout_s=1.2, request_timeout_s=0.3)


class UrlObject:
    """What models and HTTP clients have for a URL: pydantic.HttpUrl, httpx.URL, yarl.URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __str__(self) -> str:
        return self._url


class Links(enum.StrEnum):
    """A string that is none exactly."""

    GOOD = URL


class PlainLinks(str, enum.Enum):  # noqa: UP042 - the older kind, whose str() is its name
    """The same, of the kind that calls itself by its name."""

    GOOD = URL


class Sly(VideoWorking):
    """An observation whose values cannot be had."""

    @property
    def word(self):
        raise RuntimeError

    @word.setter
    def word(self, value):
        pass


# --- the values ---


@pytest.mark.parametrize("url", [UrlObject(URL), Links.GOOD, PlainLinks.GOOD, f" {URL} "])
def test_a_url_may_be_any_object_that_says_it(url):
    made = VideoReady(url)
    assert type(made.video_url) is str
    assert made.video_url.strip() == URL


@pytest.mark.parametrize("made", [VideoWorking, lambda **hint: Fault(FaultKind.SERVER, "x", **hint)])
@pytest.mark.parametrize(
    ("hint", "seconds"),
    [
        ("60", 60),
        ("60.5", 60.5),
        (" 7 ", 7),
        (60, 60),
        (dt.timedelta(minutes=1), 60),
        (-5, 0),
        ("-5", 0),
        (math.nan, None),
        ("nan", None),
        (math.inf, None),
        ("inf", None),
        ("soon", None),
        ("", None),
        (10**400, None),
        ("9" * 400, None),
        (True, None),
        ([1], None),
        (Decimal(5), None),
        (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), None),
        (None, None),
    ],
)
def test_a_hint_is_seconds_or_none(made, hint, seconds):
    assert made(retry_after_s=hint).retry_after_s == seconds


@pytest.mark.parametrize(
    ("kind", "known"),
    [("server", FaultKind.SERVER), (FaultKind.TIMEOUT, FaultKind.TIMEOUT), ("unheard of", FaultKind.INTERNAL)]
    + [(odd, FaultKind.INTERNAL) for odd in (None, 503, [], {}, math.nan, b"server")],
)
def test_a_kind_of_fault_is_one_of_ours(kind, known):
    assert Fault(kind, "x").kind is known


@pytest.mark.parametrize("known", ["", None, 0, "no", [1]])
def test_known_is_yes_or_no(known):
    assert VideoWorking("x", known).known is bool(known)


# --- what a job comes to ---

THUMBNAIL = Asset(PublicLink("https://files.example/1.jpg"), AssetKind.THUMBNAIL, "image/jpeg")

ENDS = {
    "a URL object": (lambda: VideoReady(UrlObject(URL)), "completed"),
    "a datetime": (lambda: VideoReady(URL, timestamp=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)), "completed"),
    "a timestamp that is not a number": (lambda: VideoReady(URL, timestamp=math.nan), "completed"),
    "a file id that is an object": (lambda: VideoReady(URL, file_id=object()), "completed"),
    "a timestamp that JSON does not have": (lambda: VideoReady(URL, timestamp={1, 2}), "completed"),
    "a nested timestamp": (lambda: VideoReady(URL, timestamp={"a": {1, 2}}), "completed"),
    "no URL": (lambda: VideoReady(None), "failed"),
    "a file": (lambda: VideoReady("file:///etc/passwd"), "failed"),
    "a script": (lambda: VideoReady("javascript:alert(1)"), "failed"),
    "a relative URL": (lambda: VideoReady("/files/1.mp4"), "failed"),
    "credentials": (lambda: VideoReady("https://user:password@files.example/1.mp4"), "failed"),
    "bytes": (lambda: VideoReady(URL.encode()), "failed"),
    "a number": (lambda: VideoReady(7), "failed"),
    "true": (lambda: VideoReady(True), "failed"),
    "a huge URL": (lambda: VideoReady("https://files.example/" + "x" * 10**6), "failed"),
    "a reason that is none": (lambda: VideoFailed(None), "failed"),
    "a hint in a string": (lambda: Fault(FaultKind.SERVER, "x", "0.01"), "timed_out"),
    "a hint that is not a number": (lambda: VideoWorking(retry_after_s=math.nan), "timed_out"),
    "an infinite hint": (lambda: Fault(FaultKind.THROTTLED, "x", math.inf), "timed_out"),
    "a hint below zero": (lambda: Fault(FaultKind.SERVER, "x", -1e9), "timed_out"),
    "a kind in a string": (lambda: Fault("server", "x"), "timed_out"),
    "a kind that is none": (lambda: Fault("whatever", "x"), "timed_out"),
    "values that raise": (Sly, "timed_out"),
    "nothing": (lambda: None, "timed_out"),
    "the class itself": (lambda: VideoReady, "timed_out"),
    "a dictionary": (lambda: {"status": "completed", "videoUrl": URL}, "timed_out"),
    "too few values": (VideoFailed, "timed_out"),
    "no values": (VideoReady, "failed"),
    "a link among others": (lambda: VideoReady(assets=[THUMBNAIL, Asset(PublicLink(URL))]), "completed"),
    "a second link, after a bad one": (
        lambda: VideoReady(assets=(Asset(PublicLink("file:///1.mp4")), Asset(PublicLink(URL)))),
        "completed",
    ),
    "a link, and a thing that is none": (lambda: VideoReady(URL, assets=[None, "x"]), "completed"),
    "things that are none": (lambda: VideoReady(assets=7), "failed"),
    "a locked link": (lambda: VideoReady(assets=(Asset(LockedLink(URL)),)), "failed"),
    "an object in a bucket": (lambda: VideoReady(assets=(Asset(BucketObject("s3://films/1.mp4")),)), "failed"),
    "a thumbnail alone": (lambda: VideoReady(assets=(THUMBNAIL,)), "failed"),
    "a reason of another kind": (lambda: VideoFailed("x", reason="because"), "failed"),
    "an exception": (lambda: 1 / 0, "timed_out"),
    "a StopIteration": (lambda: next(iter(())), "timed_out"),
}
"""What a host's poller does, and what its user hears."""

MADE = {"a file", "a script", "a relative URL", "credentials", "a huge URL", "a locked link", "an object in a bucket"}
"""Where there is a video that nobody can be handed: it was paid for."""


def poller_of(answers, *, asynchronous: bool):
    """Build a host's poller that answers for each job in its own way."""

    class Sync:
        def poll(self, job, *, timeout_s):
            return answers[job.job_id]()

    class Async:
        async def poll(self, job, *, timeout_s):
            return answers[job.job_id]()

    return Async() if asynchronous else Sync()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync part", "async part"])
def test_every_user_hears_whatever_the_poller_hands_back(world, asynchronous):
    """Each poll is counted and backs off, the deadline ends it, and no link goes out that must not."""
    if asynchronous and world.kind == "sync":
        pytest.skip("Runner refuses asyncio parts")
    told: dict[str, list] = {}
    names = {f"job_{number}": name for number, name in enumerate(ENDS)}
    answers = {job_id: ENDS[name][0] for job_id, name in names.items()}

    def tell(message) -> None:
        told.setdefault(names[message.job.job_id], []).append((message.outcome.kind.value, message.video_url))

    with world.queue() as queue:
        queue.enqueue_many((job_id, "user", None) for job_id in names)
        with world.worker(
            poller=poller_of(answers, asynchronous=asynchronous),
            notifier=CallbackNotifier(tell),
            strategy=QUICK_END,
            concurrency=40,
        ) as worker:
            until(lambda: len(told) == len(ENDS), "everybody has heard")
            until(lambda: len(worker.recorder.of(events.JobDelivered)) == len(ENDS), "all is settled")
        assert {names[letter.job_id] for letter in queue.dead_letters.list()} == MADE

    expected = {name: [(end, URL if end == "completed" else None)] for name, (_, end) in ENDS.items()}
    assert told == expected
    polls = Counter(event.job_id for event in worker.recorder.of(events.JobPolled))
    most = {names[job_id]: count for job_id, count in polls.items() if count > 12}
    assert not most, "each backs off"
    assert all(polls.values())


def test_a_video_that_cannot_be_handed_on_is_kept_for_the_operator(world):
    """It was paid for: the user hears a plain word, and somebody can look for it."""
    answers = {"job_1": lambda: VideoReady("file:///videos/1.mp4")}
    with world.queue() as queue, redis.Redis.from_url(world.url) as client:
        queue.enqueue("job_1", conversation_id="user")
        with world.worker(
            poller=poller_of(answers, asynchronous=False), notifier=CallbackNotifier(lambda _: None)
        ) as one:
            until(lambda: one.recorder.of(events.JobDelivered), "the user has heard")
        completed = json.loads(client.get(Keys(world.prefix).completed("job_1")))
    assert completed["undeliverableUrl"] == "file:///videos/1.mp4"
    assert "cannot be delivered" in completed["error"]


def test_a_video_that_cannot_be_handed_on_is_asked_for_again_by_a_redrive(world):
    """Somebody has seen to it that the API gives another link; the user, who heard that there is none, gets it."""
    answers = [VideoReady("file:///videos/1.mp4"), VideoReady(URL)]
    told: list[tuple[str, str | None]] = []
    poller = poller_of({"job_1": lambda: answers.pop(0)}, asynchronous=False)
    notifier = CallbackNotifier(lambda message: told.append((message.outcome.kind.value, message.video_url)))
    with world.queue() as queue:
        queue.enqueue("job_1", conversation_id="user")
        with world.worker(poller=poller, notifier=notifier) as worker:
            until(lambda: worker.recorder.of(events.JobDeadLettered), "it is a dead letter, too")
            letter = queue.dead_letters.get("job_1")
            assert queue.dead_letters.redrive("job_1")
            until(lambda: len(worker.recorder.of(events.JobDelivered)) == 2, "the user has the video")
        assert queue.counts().dead == 0

    assert "its user was told that there is no video" in letter.reason
    assert "user" in letter.record
    assert told == [("failed", None), ("completed", URL)]


# --- a step that raises ---


def test_a_step_that_raises_counts_as_a_fault_and_the_deadline_ends_it(world, monkeypatch):
    """Not only "its lease will run out": that poll would be made again and again, and counted never."""

    def failing(work, due_ms, observation, *rest, **more):
        if isinstance(observation, VideoWorking):
            msg = "a mistake"
            raise ZeroDivisionError(msg)
        return decide(work, due_ms, observation, *rest, **more)

    monkeypatch.setattr("videopoll.core.step.decide", failing)
    told = []
    with world.queue() as queue:
        queue.enqueue("job_1", conversation_id="user")
        poller = poller_of({"job_1": VideoWorking}, asynchronous=False)
        with world.worker(poller=poller, notifier=CallbackNotifier(told.append), strategy=QUICK_END) as worker:
            until(lambda: told, "the user has heard")
    assert told[0].outcome.kind is OutcomeKind.TIMED_OUT
    polled = worker.recorder.of(events.JobPolled)
    assert [event.attempt for event in polled] == list(range(1, len(polled) + 1))
    assert {event.fault for event in polled} == {FaultKind.INTERNAL}
    assert len(polled) <= 10


class Spiteful(logging.Filter):
    """A host's own filter that fails."""

    def filter(self, record):
        raise RuntimeError


def test_a_hosts_logging_that_raises_costs_no_poll_its_count(world):
    """The exception of a poller is logged, and what raises there is one of the worker's own."""
    told, spite = [], Spiteful()
    parts = logging.getLogger("videopoll.worker.host_parts")
    parts.addFilter(spite)
    try:
        with world.queue() as queue:
            queue.enqueue("job_1", conversation_id="user")
            poller = poller_of({"job_1": lambda: 1 / 0}, asynchronous=False)
            with world.worker(poller=poller, notifier=CallbackNotifier(told.append), strategy=QUICK_END):
                until(lambda: told, "the user has heard")
    finally:
        parts.removeFilter(spite)
    assert told[0].outcome.kind is OutcomeKind.TIMED_OUT


@pytest.mark.parametrize("at", ["videopoll.core.step.open_outbox", "videopoll.core.step.next_delivery_action"])
def test_a_step_that_fails_once_around_the_outcome_is_tried_again(world, monkeypatch, at):
    """The video arrives all the same, once."""
    module, name = at.rsplit(".", 1)
    real, failed = getattr(__import__(module, fromlist=[name]), name), []

    def once(*values, **named):
        if not failed:
            failed.append(1)
            raise ZeroDivisionError
        return real(*values, **named)

    monkeypatch.setattr(at, once)
    told = []
    with world.queue() as queue:
        queue.enqueue("job_1", conversation_id="user")
        poller = poller_of({"job_1": lambda: VideoReady(URL)}, asynchronous=False)
        with world.worker(poller=poller, notifier=CallbackNotifier(told.append)) as worker:
            until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered", 5)
    assert [message.video_url for message in told] == [URL]


# --- links that others stored ---

LINKS = [None, "", "javascript:alert(1)", "file:///etc/passwd", "https://user:word@x/1.mp4", "/1.mp4"]


@pytest.mark.parametrize("url", LINKS)
def test_a_link_that_another_kind_of_worker_stored_goes_out_only_if_it_may(world, url):
    """Not every channel looks at it: a function of the host, or Apprise, hands on whatever it gets."""
    told, keys = [], Keys(world.prefix)
    with world.queue() as queue, redis.Redis.from_url(world.url) as client:
        queue.enqueue("job_1", conversation_id="user", metadata={"to": phone(1)})
        done = {"success": True, "videoUrl": url, "jobId": "job_1", "completedAt": round(time.time() * 1000)}
        client.set(keys.completed("job_1"), json.dumps(done), ex=60)
        with world.worker(notifier=CallbackNotifier(told.append)):
            until(lambda: told, "the user has heard")
    assert (told[0].outcome.kind, told[0].video_url) == (OutcomeKind.FAILED, None)
    assert "javascript" not in told[0].text


@pytest.mark.parametrize("url", LINKS)
def test_a_link_that_an_earlier_version_stored_goes_out_only_if_it_may(world, url):
    """Its outbox entry is still there after the upgrade."""
    told, keys = [], Keys(world.prefix)
    job = VideoJob("job_1", "user", round(time.time() * 1000))
    entry = open_outbox(job, Outcome(OutcomeKind.COMPLETED, job.start_ms, video_url=url), DeliveryPolicy())
    with redis.Redis.from_url(world.url) as client:
        client.set(keys.outbox("job_1"), entry.to_json(), ex=60)
        client.zadd(keys.deliveries, {"job_1": 1})
        with world.worker(notifier=CallbackNotifier(told.append)):
            until(lambda: told, "the user has heard")
    assert (told[0].outcome.kind, told[0].video_url, told[0].form.value) == (OutcomeKind.FAILED, None, "text")


def test_an_outcome_that_may_be_sent_stays_as_it_is():
    """And one with spaces in its link gets it in the form in which it is handed on."""
    outcome = Outcome(OutcomeKind.COMPLETED, 1, video_url=URL)
    assert deliverable(outcome) is outcome
    assert deliverable(attrs.evolve(outcome, video_url="https://x/a b")).video_url == "https://x/a%20b"
    failed = Outcome(OutcomeKind.FAILED, 1, error="no")
    assert deliverable(failed) is failed


# --- what is told of it ---


def test_an_unknown_status_word_is_told_once_a_job(world, caplog):
    """The contract: an unknown value is not an end: keep polling, and log it once per job."""
    caplog.set_level(logging.INFO, "videopoll.jobs")
    with world.queue() as queue:
        queue.enqueue_many((f"job_{number}", "user", None) for number in range(2))
        answers = {f"job_{number}": lambda: VideoWorking("warming", known=False) for number in range(2)}
        poller = poller_of(answers, asynchronous=False)
        with world.worker(poller=poller, notifier=CallbackNotifier(lambda _: None), strategy=QUICK_END) as worker:
            until(lambda: len(worker.recorder.of(events.JobDelivered)) == 2, "both have ended")
    assert len(worker.recorder.of(events.JobPolled)) > 4
    lines = [line.getMessage() for line in caplog.records if "Unknown video status" in line.getMessage()]
    assert len(lines) == 2
