"""Links that end and videos that only the API's key opens, in a worker: no dead link is sent, and no paid video is lost."""

from __future__ import annotations

import logging
import threading
import time

import attrs
import httpx
import pytest

from kit import API_KEY, EACH_COMBINATION, FAST, QUICK, part, until
from videopoll import LeasePolicy, events
from videopoll.jobs import Asset, BucketObject, OutcomeKind, PublicLink
from videopoll.messages import Delivered, NotSent, Refused
from videopoll.observations import Downloaded, Fault, FaultKind, NotAsked, VideoMissing, VideoReady
from videopoll.testing import FakeServer, FolderPublisher, Reply
from videopoll.texts import SPANISH
from videopoll.video_api import HttpVideoPoller, RoutingPoller
from videopoll.video_api.apis import VIDEOS

# The server's kind makes no difference here; the scripts are tested on both elsewhere.
pytestmark = [pytest.mark.parametrize("redis_server", ["valkey"], indirect=True), pytest.mark.usefixtures("eager")]

OLD, NEW = "https://files.example/old.mp4?sig=1", "https://files.example/new.mp4?sig=2"
FAULT = Fault(FaultKind.SERVER, "HTTP 503")
VIDEO = b"\x00\x00\x00\x18ftypmp42" + b"a video" * 1000


@pytest.fixture
def eager(idle_at_most):
    """Let idle workers look again soon."""
    idle_at_most(0.1)


# --- links that end, in a worker ---


def link(url: str, lives_s: float) -> VideoReady:
    return VideoReady(assets=(Asset(PublicLink(url, lives_s=lives_s)),), refreshable=True)


class Api:
    """A poller's method that gives its answers in order, the last one again and again."""

    def __init__(self, *answers) -> None:
        self.answers, self.polls = list(answers), 0

    def poll(self, job, *, timeout_s):
        self.polls += 1
        assert timeout_s > 0
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Channel:
    """A channel that fails so many times before it takes messages."""

    def __init__(self, fails: int = 0, receipt=None) -> None:
        self.left, self.receipt, self.messages = fails, receipt or NotSent("busy"), []

    def notify(self, message):
        self.messages.append(message)
        self.left -= 1
        return self.receipt if self.left >= 0 else Delivered()

    @property
    def sent(self) -> list[str | None]:
        return [message.video_url for message in self.messages]


def delivered(worker) -> events.JobDelivered:
    return until(lambda: worker.recorder.of(events.JobDelivered), "the user is told")[0]


@EACH_COMBINATION
def test_a_late_send_goes_out_with_a_fresh_link(world, parts):
    """The first went out with the link that the poll gave; that one ends soon."""
    api, channel = Api(link(OLD, 5), link(NEW, 5000)), Channel(fails=2)
    world.enqueue()
    with world.worker(poller=part(parts, poll=api.poll), notifier=part(parts, notify=channel.notify)) as worker:
        delivered(worker)
        tried = worker.recorder.of(events.LinkTried)

    assert channel.sent == [OLD, NEW, NEW]
    assert api.polls == 2
    assert [(event.how, event.result) for event in tried] == [("renewed", "ok")]
    view = world.queue().get("job_1")
    assert (view.delivered, view.outcome.video_url) == (True, NEW)


def test_a_poll_for_a_link_counts_no_poll_and_no_send(world):
    api, channel = Api(link(OLD, 0), FAULT, FAULT, link(NEW, 5000)), Channel(fails=1)
    world.enqueue()
    with world.worker(poller=part("both", poll=api.poll), notifier=part("both", notify=channel.notify)) as worker:
        done = delivered(worker)
        polled = worker.recorder.of(events.JobPolled)
        tried = worker.recorder.of(events.LinkTried)

    assert (channel.sent, done.attempts, len(polled)) == ([OLD, NEW], 2, 1)
    assert [event.result for event in tried] == ["later", "later", "ok"]


def test_while_the_old_link_lives_a_fault_holds_nothing_up(world):
    api, channel = Api(link(OLD, 800), FAULT), Channel(fails=1)
    world.enqueue()
    with world.worker(poller=part("both", poll=api.poll), notifier=part("both", notify=channel.notify)) as worker:
        delivered(worker)
        tried = worker.recorder.of(events.LinkTried)

    assert channel.sent == [OLD, OLD]
    assert [event.result for event in tried] == ["kept"]


@pytest.mark.parametrize("answers", [(link(OLD, 0), VideoMissing()), (attrs.evolve(link(OLD, 0), refreshable=False),)])
def test_a_link_that_is_gone_is_told_and_kept_for_the_operator(world, answers):
    """Never a dead link; and a redrive asks the API again."""
    api, channel = Api(*answers), Channel(fails=1)
    world.enqueue()
    with (
        world.worker(poller=part("both", poll=api.poll), notifier=part("both", notify=channel.notify)) as worker,
        world.queue() as queue,
    ):
        assert delivered(worker).outcome is OutcomeKind.FAILED
        letter = queue.dead_letters.get("job_1")
        text = channel.messages[-1].text
        assert channel.sent == [OLD, None]
        assert SPANISH.expired_reason in text
        assert OLD not in repr(letter)
        assert worker.recorder.of(events.JobDeadLettered)

        api.answers = [link(NEW, 5000)]
        assert queue.dead_letters.redrive("job_1")
        until(lambda: len(worker.recorder.of(events.JobDelivered)) > 1, "it is delivered after all")

    assert channel.sent[-1] == NEW


def test_a_redrive_after_days_goes_out_with_a_fresh_link(world):
    """What became a dead letter with a link has it renewed, by whichever worker takes it."""
    api, channel = Api(link(OLD, 0), link(NEW, 5000)), Channel(fails=1, receipt=Refused("no", try_text=False))
    world.enqueue()
    with (
        world.worker(poller=part("both", poll=api.poll), notifier=part("both", notify=channel.notify)) as worker,
        world.queue() as queue,
    ):
        until(lambda: worker.recorder.of(events.JobDeadLettered), "it is a dead letter")
        assert queue.dead_letters.redrive("job_1")
        delivered(worker)

    assert channel.sent == [OLD, NEW]


@pytest.mark.parametrize("receipt", [NotSent("busy"), Refused("no", try_text=False)], ids=["at once", "redriven"])
def test_a_poll_for_a_link_has_the_time_of_its_own_api(world, receipt):
    api, channel, asked = Api(link(OLD, 0), link(NEW, 5000)), Channel(fails=1, receipt=receipt), []

    def poll(job, *, timeout_s):
        asked.append(timeout_s)
        return api.poll(job, timeout_s=timeout_s)

    slow = attrs.evolve(FAST, request_timeout_s=FAST.request_timeout_s + 3)
    poller = RoutingPoller({"slow": part("both", poll=poll)}, strategies={"slow": slow})
    world.enqueue(provider="slow")
    with (
        world.worker(poller=poller, notifier=part("both", notify=channel.notify), strategy=FAST) as worker,
        world.queue() as queue,
    ):
        if isinstance(receipt, Refused):
            until(lambda: worker.recorder.of(events.JobDeadLettered), "it is a dead letter")
            assert queue.dead_letters.redrive("job_1")
        delivered(worker)

    assert channel.sent == [OLD, NEW]
    assert len(asked) == 2
    assert asked == pytest.approx([slow.request_timeout_s] * 2, abs=1)


def test_an_api_that_throttles_the_poll_for_a_link_has_a_pause(world):
    throttled = Fault(FaultKind.THROTTLED, "HTTP 429", retry_after_s=1)
    api, channel = Api(link(OLD, 0), throttled, link(NEW, 5000)), Channel(fails=1)
    world.enqueue()
    began_s = time.monotonic()
    with world.worker(poller=part("both", poll=api.poll), notifier=part("both", notify=channel.notify)) as worker:
        delivered(worker)

    assert channel.sent == [OLD, NEW]
    assert time.monotonic() - began_s > 1


def test_a_poller_that_hangs_over_a_link_is_left_to_itself(world, monkeypatch):
    monkeypatch.setattr("videopoll.worker.hung.GUARD_S", 0.1)
    monkeypatch.setattr("videopoll.worker.async_parts.GUARD_S", 0.1)
    release = threading.Event()
    asked = []

    def poll(job, *, timeout_s):
        asked.append(timeout_s)
        if len(asked) == 2:
            yield release
        return link(OLD, 0) if len(asked) == 1 else link(NEW, 5000)

    channel = Channel(fails=1)
    world.enqueue()
    strategy = attrs.evolve(FAST, request_timeout_s=0.5)
    with world.worker(
        poller=part("sync" if world.kind == "sync" else "async", poll=poll),
        notifier=part("both", notify=channel.notify),
        strategy=strategy,
        lease=LeasePolicy.lasting(0.9),
    ) as worker:
        delivered(worker)
        release.set()

    assert channel.sent == [OLD, NEW]


# --- what only the key opens ---


@pytest.fixture
def locking(world):
    """A video API that finishes `job_1`, and wants its key for the video."""
    with FakeServer() as api:
        api.route("GET", "/v1/videos/job_1", Reply.json({"id": "job_1", "status": "completed"}))
        api.route("GET", "/v1/videos/job_1/content", Reply(body=VIDEO, headers={"Content-Type": "video/mp4"}))
        yield api


def poller_for(api: FakeServer) -> HttpVideoPoller:
    return HttpVideoPoller(VIDEOS, base_url=f"{api.url}/v1", api_key=API_KEY)


def fetch(url: str) -> bytes:
    return httpx.get(url, trust_env=False).content


def contents(api: FakeServer) -> list:
    return [request for request in api.requests if request.path.endswith("/content")]


@pytest.mark.parametrize("side", ["publish", "apublish"])
def test_a_locked_video_is_fetched_with_the_key_and_its_user_gets_the_published_link(world, locking, tmp_path, side):
    channel = Channel()
    world.enqueue()
    with FolderPublisher(tmp_path) as folder:
        publisher = folder
        if side == "publish":
            publisher = type(
                "Sync", (), {"publish": lambda _, video, *, timeout_s: folder.publish(video, timeout_s=timeout_s)}
            )()
        with world.worker(
            poller=poller_for(locking), notifier=part("both", notify=channel.notify), publisher=publisher
        ) as worker:
            delivered(worker)
            tried = worker.recorder.of(events.LinkTried)
        [url] = channel.sent
        assert fetch(url) == VIDEO
        assert fetch(url.replace(folder._secret, "guessed")) != VIDEO

    assert url.startswith(folder.url)
    [request] = contents(locking)
    assert request.headers["authorization"] == f"Bearer {API_KEY}"
    assert [(event.how, event.result) for event in tried] == [("published", "ok")]
    assert world.queue().get("job_1").outcome.video_url == url


def test_a_published_link_is_used_for_all_sends_while_it_lives(world, locking, tmp_path):
    channel = Channel(fails=2)
    world.enqueue()
    with (
        FolderPublisher(tmp_path) as folder,
        world.worker(
            poller=poller_for(locking), notifier=part("both", notify=channel.notify), publisher=folder
        ) as worker,
    ):
        delivered(worker)

    assert len(channel.sent) == 3
    assert len(folder.published) == 1


def test_a_published_link_that_ends_is_published_again_under_the_same_name(world, locking, tmp_path):
    channel = Channel(fails=1)
    world.enqueue()
    with (
        FolderPublisher(tmp_path, lives_s=60) as folder,
        world.worker(
            poller=poller_for(locking), notifier=part("both", notify=channel.notify), publisher=folder
        ) as worker,
    ):
        delivered(worker)

    assert len(folder.published) == 2
    assert len(set(folder.published)) == 1


def test_without_a_publisher_the_video_is_kept_and_the_user_hears_a_plain_word(world, locking, caplog):
    """It is said when the worker is built, too."""
    channel = Channel()
    world.enqueue()
    with (
        world.worker(poller=poller_for(locking), notifier=part("both", notify=channel.notify)) as worker,
        world.queue() as queue,
    ):
        assert delivered(worker).outcome is OutcomeKind.FAILED
        letter = queue.dead_letters.get("job_1")

    assert "the worker has no publisher" in caplog.text
    assert "give the worker a publisher" in letter.reason
    assert channel.sent == [None]
    assert SPANISH.failed_reason in channel.messages[0].text
    assert not contents(locking)


def test_a_letter_of_a_locked_video_is_redriven_to_a_worker_with_a_publisher(world, locking, tmp_path):
    channel = Channel()
    world.enqueue()
    with world.worker(poller=poller_for(locking), notifier=part("both", notify=channel.notify)) as worker:
        delivered(worker)
    with (
        FolderPublisher(tmp_path) as folder,
        world.queue() as queue,
        world.worker(
            poller=poller_for(locking), notifier=part("both", notify=channel.notify), publisher=folder
        ) as worker,
    ):
        assert queue.dead_letters.redrive("job_1")
        assert delivered(worker).outcome is OutcomeKind.COMPLETED

    assert channel.sent[-1].startswith(folder.url)


@EACH_COMBINATION
def test_a_hosts_own_poller_and_publisher_of_either_kind(world, parts):
    """A bucket is opened by whoever has the right to it."""
    stored = {}

    def poll(job, *, timeout_s):
        return VideoReady(assets=(Asset(BucketObject("s3://bucket/1.mp4")),))

    def download(job, place, file, *, timeout_s):
        assert place == BucketObject("s3://bucket/1.mp4")
        file.write(VIDEO[:10])
        file.write(memoryview(VIDEO)[10:])
        return Downloaded("video/webm")

    def publish(video, *, timeout_s):
        stored[video.name] = (video.file.read(), video.size, video.media_type, video.job.job_id)
        return PublicLink(NEW, lives_s=3600)

    channel = Channel()
    world.enqueue()
    with world.worker(
        poller=part(parts, poll=poll, download=download),
        notifier=part(parts, notify=channel.notify),
        publisher=part(parts, publish=publish),
    ) as worker:
        delivered(worker)

    assert channel.sent == [NEW]
    assert list(stored.values()) == [(VIDEO, len(VIDEO), "video/webm", "job_1")]
    assert [name.endswith(".webm") for name in stored] == [True]


@EACH_COMBINATION
def test_among_several_apis_each_video_is_opened_by_its_own(world, locking, tmp_path, parts):
    """A poller that cannot, keeps its video for the operator."""
    channel = Channel()

    def poll(job, *, timeout_s):
        return VideoReady(assets=(Asset(BucketObject("s3://bucket/2.mp4")),))

    poller = RoutingPoller({"videos": poller_for(locking), "ours": part(parts, poll=poll)}, strategies={"videos": FAST})
    assert poller.may_lock
    world.enqueue("job_1", provider="videos")
    world.enqueue("job_2", user=2, provider="ours")
    with (
        FolderPublisher(tmp_path) as folder,
        world.worker(poller=poller, notifier=part("both", notify=channel.notify), publisher=folder) as worker,
        world.queue() as queue,
    ):
        until(lambda: len(worker.recorder.of(events.JobDelivered)) == 2, "both users are told")
        letter = queue.dead_letters.get("job_2")

    sent = {message.job.job_id: message.video_url for message in channel.messages}
    assert sent == {"job_1": f"{folder.url}/{folder._secret}/{folder.published[0]}", "job_2": None}
    assert "the poller of ours cannot open" in letter.reason


def test_an_account_that_is_left_alone_is_asked_for_a_link_later(world):
    api, channel = Api(link(OLD, 0), NotAsked(0.2), link(NEW, 5000)), Channel(fails=1)
    world.enqueue()
    with world.worker(poller=part("both", poll=api.poll), notifier=part("both", notify=channel.notify)) as worker:
        delivered(worker)
        tried = worker.recorder.of(events.LinkTried)

    assert channel.sent == [OLD, NEW]
    assert [event.result for event in tried] == ["later", "ok"]


class Moody:
    """A publisher that does what it is told, in order."""

    def __init__(self, *does) -> None:
        self.does, self.calls = list(does), 0

    def publish(self, video, *, timeout_s):
        self.calls += 1
        did = self.does.pop(0)
        if isinstance(did, Exception):
            raise did
        return did


@pytest.mark.parametrize(
    "trouble",
    [ValueError("s3cr3t"), OSError("s3cr3t"), None, "javascript:alert(1)", PublicLink("/files/x"), 17],
    ids=repr,
)
def test_a_publisher_that_fails_is_asked_again(world, locking, trouble, caplog):
    publisher, channel = Moody(trouble, NEW), Channel()
    world.enqueue()
    with world.worker(
        poller=poller_for(locking), notifier=part("both", notify=channel.notify), publisher=publisher
    ) as worker:
        delivered(worker)
        tried = worker.recorder.of(events.LinkTried)

    assert (channel.sent, publisher.calls) == ([NEW], 2)
    assert [event.result for event in tried] == ["later", "ok"]
    assert "s3cr3t" not in repr(tried) + "".join(event.reason or "" for event in tried)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply.json({"status": "completed"}), "is no video"),
        (Reply(body=b"<html>", headers={"Content-Type": "text/html"}), "is no video"),
        (Reply(body=b"", headers={"Content-Type": "video/mp4"}), "is empty"),
        (Reply(status=206, body=b"half", headers={"Content-Type": "video/mp4"}), "in place of a whole video"),
        (Reply(body=b"zip", headers={"Content-Type": "video/mp4", "Content-Encoding": "gzip"}), "encoded body"),
        (Reply.fault(503), "HTTP 503"),
        (Reply.fault(401), "refuses the API key"),
        (Reply.redirect("http://127.0.0.1/1.mp4"), "no public https address"),
        (Reply.redirect("https://169.254.169.254/latest"), "no public https address"),
        (Reply.redirect("/v1/videos/job_1/content"), "no public https address"),
    ],
)
def test_what_is_no_whole_video_is_never_published(world, locking, tmp_path, reply, says):
    """It is asked for again, and then the user has the video."""
    locking.reply_with(reply, path="/content")
    channel = Channel()
    world.enqueue()
    with (
        FolderPublisher(tmp_path) as folder,
        world.worker(
            poller=poller_for(locking), notifier=part("both", notify=channel.notify), publisher=folder
        ) as worker,
    ):
        delivered(worker)
        later = worker.recorder.of(events.LinkTried)[0]

    assert later.result == "later"
    assert says in later.reason
    assert len(folder.published) == 1
    assert (tmp_path / folder.published[0]).read_bytes() == VIDEO


def test_a_video_that_is_too_large_is_kept_and_told(world, locking, tmp_path):
    channel = Channel()
    world.enqueue()
    with (
        FolderPublisher(tmp_path) as folder,
        world.worker(
            poller=poller_for(locking),
            notifier=part("both", notify=channel.notify),
            publisher=folder,
            delivery=attrs.evolve(QUICK, max_video_bytes=100),
        ) as worker,
        world.queue() as queue,
    ):
        assert delivered(worker).outcome is OutcomeKind.FAILED
        letter = queue.dead_letters.get("job_1")

    assert "more than 100 bytes" in letter.reason
    assert (channel.sent, folder.published) == ([None], ())


def test_a_video_that_is_gone_at_its_api_has_expired(world, locking, tmp_path):
    locking.route("GET", "/v1/videos/job_1/content", Reply.json({"error": "no such video"}, status=404))
    channel = Channel()
    world.enqueue()
    with (
        FolderPublisher(tmp_path) as folder,
        world.worker(
            poller=poller_for(locking), notifier=part("both", notify=channel.notify), publisher=folder
        ) as worker,
        world.queue() as queue,
    ):
        delivered(worker)
        assert queue.dead_letters.get("job_1") is not None

    assert SPANISH.expired_reason in channel.messages[0].text
    assert len(contents(locking)) == 2


def test_a_publisher_that_never_works_ends_with_a_word_and_a_letter(world, locking):
    publisher, channel = Moody(*[ValueError("down")] * 100), Channel()
    world.enqueue()
    with (
        world.worker(
            poller=poller_for(locking),
            notifier=part("both", notify=channel.notify),
            publisher=publisher,
            delivery=attrs.evolve(QUICK, deadline_s=0.5),
        ) as worker,
        world.queue() as queue,
    ):
        delivered(worker)
        assert "no link to the video in time" in queue.dead_letters.get("job_1").reason

    assert channel.sent == [None]


def test_nothing_locked_or_signed_is_told(world, locking, tmp_path, caplog):
    """In logs, events and reprs there is neither the locked URL, nor the key, nor the published link."""
    caplog.set_level(logging.DEBUG)
    channel = Channel(fails=1)
    world.enqueue()
    with (
        FolderPublisher(tmp_path) as folder,
        world.worker(
            poller=poller_for(locking), notifier=part("both", notify=channel.notify), publisher=folder
        ) as worker,
    ):
        delivered(worker)
        told = f"{worker.recorder.events!r}{worker.runner!r}{channel.messages!r}"

    for secret in (folder._secret, API_KEY, f"{locking.url}/v1/videos/job_1/content"):
        assert secret not in told
        assert secret not in caplog.text
