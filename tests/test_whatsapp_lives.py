"""Whole lives over WhatsApp's Cloud API: worker processes, a real Redis, an endpoint for receipts, and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from kit import API_KEY, phone, until
from videopoll import RedisVideoJobQueue
from videopoll.errors import BadSignatureError
from videopoll.notifiers import WhatsAppCloudNotifier
from videopoll.testing import FakeWhatsAppCloud, Reply

TOKEN = "EAAG-token-of-the-tests"
NUMBER_ID = "106540352242922"
SECRET = "app-secret-of-the-tests"
QUICK = {"INTERVAL": "0.3", "INITIAL_DELAY": "0.1", "TIMEOUT": "60", "LEASE": "1.5"}


class Endpoint:
    """A host's endpoint for receipts, as the how-to page has it."""

    def __init__(self, url: str, prefix: str) -> None:
        self.counts: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        queue = RedisVideoJobQueue.from_url(url, prefix=prefix)
        endpoint, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    receipts = WhatsAppCloudNotifier.read_receipts(self.headers, body, SECRET)
                    counts, status = queue.receive_receipts(receipts), 200
                except BadSignatureError:
                    counts, status = None, 401
                with lock:
                    endpoint.answers[status] += 1
                    if counts is not None:
                        endpoint.note(counts)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._queue = queue
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/whatsapp"

    def note(self, counts) -> None:
        for name in ("delivered", "read", "failed", "kept", "ignored"):
            self.counts[name] += getattr(counts, name)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._queue.close()


@pytest.fixture
def endpoint(world):
    made = Endpoint(world.url, world.prefix)
    yield made
    made.close()


@pytest.fixture
def cloud(endpoint):
    with FakeWhatsAppCloud(
        token=TOKEN,
        number_id=NUMBER_ID,
        app_secret=SECRET,
        templates={("video_ready", "es"): 0},
        notice_templates={("no_video", "es"): 1},
        webhook_url=endpoint.url,
    ) as fake:
        yield fake


class Process:
    """``videopoll worker --channel whatsapp_cloud``, configured by its environment alone."""

    def __init__(self, world, cloud, log, channel: str, **env: str) -> None:
        self.log = log
        variables = {
            **QUICK,
            "REDIS_URL": world.url,
            "PREFIX": world.prefix,
            "API_URL": world.api.url,
            "API_KEY": API_KEY,
            "WHATSAPP_CLOUD_TOKEN": TOKEN,
            "WHATSAPP_CLOUD_NUMBER_ID": NUMBER_ID,
            "WHATSAPP_CLOUD_TEMPLATE": "video_ready:es",
            "WHATSAPP_CLOUD_NOTICE_TEMPLATE": "no_video:es:caption",
            "WHATSAPP_CLOUD_BASE_URL": cloud.url,
            "RUNNER": world.kind,
            **env,
        }
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "videopoll", "worker", "--channel", channel],
                env=os.environ | {f"VIDEOPOLL_{name}": value for name, value in variables.items()},
                stderr=file,
                cwd=log.parent,
            )
        until(
            lambda: "Starting video polling worker" in self.text() or self.process.poll() is not None, "it starts", 60
        )
        assert self.process.poll() is None, self.text()

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def run(world, cloud, tmp_path):
    started: list[Process] = []

    def start(channel: str = "whatsapp_cloud", **env: str) -> Process:
        started.append(Process(world, cloud, tmp_path / f"worker-{len(started)}.log", channel, **env))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def enqueue(world, count: int, failing: int | None = None) -> list[str]:
    """Take jobs in, one for each user, whose videos are ready at once but for one; give the users' numbers."""
    to = [phone(number) for number in range(count)]
    for number in range(count):
        world.api.job(f"job_{number}", Reply.failed() if number == failing else Reply.completed())
    with world.queue() as queue:
        queue.enqueue_many(
            (f"job_{number}", f"conversation-{number}", {"channel": "whatsapp_cloud", "to": address})
            for number, address in enumerate(to)
        )
    return to


def completed(world, count: int) -> list[dict[str, object]]:
    """What ``video:completed`` says of each job, as far as it is there."""
    with redis.Redis.from_url(world.url) as client:
        found = client.mget([f"{world.prefix}:completed:job_{number}" for number in range(count)])
    return [json.loads(one) for one in found if one is not None]


def delivered_count(world, count: int) -> int:
    return sum(one.get("delivered") is True for one in completed(world, count))


def letters(world) -> list:
    with world.queue() as queue:
        return list(queue.dead_letters.list())


def kinds(cloud, to: str) -> list[str]:
    return [message.kind for message in cloud.inbox(to)]


def messages_posted(cloud) -> int:
    return len([request for request in cloud.requests if request.path.endswith("/messages")])


def test_what_fails_late_ends_in_the_form_that_gets_through(world, cloud, endpoint, run):
    """The 200 comes first, and what Meta really thinks of the message by webhook: twice, and before our own write."""
    cloud.doubled = True
    fine, window, codec, nobody, early, notice = (phone(number) for number in range(6))
    for closed in (window, notice):
        cloud.close_window(closed, late=True)
    cloud.fail(131053, to=codec, kinds={"video"}, late=True, details="Unsupported Video mime type video/x-msvideo")
    cloud.fail(131026, to=nobody, late=True, details="Message undeliverable")
    cloud.reply_with(Reply.slow(1.0), when=lambda request: request.body.get("to") == early)
    enqueue(world, 6, failing=5)
    run()

    until(lambda: delivered_count(world, 6) == 5 and letters(world), "all have ended", 60)

    assert kinds(cloud, fine) == ["video"]
    assert kinds(cloud, window) == ["template"]
    assert kinds(cloud, codec) == ["text"]
    assert world.api.video_url("job_2") in cloud.inbox(codec)[0].text
    assert kinds(cloud, nobody) == []
    assert [("131026" in letter.reason, letter.job_id) for letter in letters(world)] == [(True, "job_3")]
    assert kinds(cloud, early) == ["video"]
    assert kinds(cloud, notice) == ["template"]
    assert cloud.inbox(notice)[0].text.startswith("😔")
    assert messages_posted(cloud) == 9  # the templates and the link besides
    assert endpoint.counts["failed"] <= 4, "one that came before our own write is kept instead"
    by_job = {one["jobId"]: one for one in completed(world, 6)}
    assert {job: one.get("form") for job, one in by_job.items() if one["delivered"]} == {
        "job_0": "video",
        "job_1": "template",
        "job_2": "text",
        "job_4": "video",
        "job_5": "template",
    }

    # Forged, of somebody else's message, out of order, and a failure after its user has it.
    message_id = cloud.inbox(fine)[0].id
    for webhook in (
        cloud.webhook(message_id, "failed", code=131053, app_secret="somebody-elses"),
        cloud.webhook("wamid.of-somebody-else", "failed", code=131053),
        cloud.webhook(message_id, "sent"),
        cloud.webhook(message_id, "failed", code=131053),
    ):
        httpx.post(endpoint.url, content=webhook.body, headers=webhook.headers, trust_env=False)
    assert endpoint.answers[401] == 1
    assert endpoint.counts["failed"] <= 4
    assert delivered_count(world, 6) == 5


def test_a_token_that_has_ended_holds_all_messages_back_with_one_alarm(world, cloud, run):
    cloud.fail(190, status=401, details="Session has expired")
    to = enqueue(world, 20)
    worker = run()
    held_back = "held back: the channel refuses this account"

    until(lambda: worker.text().count(held_back) >= 15, "all have come to it", 60)
    asked, waited = messages_posted(cloud), worker.text().count(held_back)
    until(lambda: worker.text().count(held_back) >= waited + 15, "they have come again", 60)
    assert messages_posted(cloud) - asked <= 3, "one finds out after each pause"
    alarms = [line for line in worker.text().splitlines() if " ERROR " in line]
    assert len(alarms) == 1, alarms
    assert letters(world) == []
    cloud.heal()  # somebody gives it a new one

    until(lambda: delivered_count(world, 20) == 20, "all users have their video", 60)
    assert all(kinds(cloud, one) == ["video"] for one in to)
    assert TOKEN not in worker.text()


@pytest.mark.slow
def test_without_a_template_such_a_user_gets_nothing_and_the_operator_hears_why(world, cloud, run):
    cloud.close_window(late=True)
    (to,) = enqueue(world, 1)
    run(WHATSAPP_CLOUD_TEMPLATE="")

    until(lambda: letters(world), "it is a dead letter", 60)

    assert kinds(cloud, to) == []
    assert "template" in letters(world)[0].reason
    # A text would have failed in the same way: it was not even tried.
    assert messages_posted(cloud) == 1


OWN = """
import os
from videopoll.notifiers import WhatsAppCloudNotifier

def build():
    return WhatsAppCloudNotifier(
        token=os.environ["VIDEOPOLL_WHATSAPP_CLOUD_TOKEN"],
        number_id=os.environ["VIDEOPOLL_WHATSAPP_CLOUD_NUMBER_ID"],
        base_url=os.environ["VIDEOPOLL_WHATSAPP_CLOUD_BASE_URL"],
        upload=True,
        trusted_hosts=["127.0.0.1"],
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["fetch", "media", "messages"])
def test_a_worker_that_is_killed_at_any_step_of_an_upload_sends_one_video(world, cloud, run, tmp_path, step):
    """The one at the message is the worst: it has arrived. A receipt with our reference tells the next worker."""
    (tmp_path / "ownhost.py").write_text(OWN, encoding="utf-8")
    video = bytes(range(256)) * 1000
    place = urlsplit(world.api.video_url("job_0")).path
    world.api.route("GET", place, Reply(status=200, body=video, headers={"Content-Type": "video/mp4"}))
    server, path = (world.api, place) if step == "fetch" else (cloud, f"/{step}")
    server.reply_with(Reply.slow(60), path=path)
    (to,) = enqueue(world, 1)

    first = run("whatsapp_cloud=ownhost:build")
    until(lambda: [one for one in server.requests if one.path.endswith(path)], "it is at that step", 60)
    first.kill()
    run("whatsapp_cloud=ownhost:build")

    until(lambda: delivered_count(world, 1) == 1, "the user has the video", 60)
    assert kinds(cloud, to) == ["video"]
    assert cloud.inbox(to)[0].file == video
    assert messages_posted(cloud) == 1
    assert len(cloud.uploads) == {"fetch": 1, "media": 2, "messages": 1}[step]


LATE = [
    ("fine", None, "video"),
    ("window", 131047, "template"),
    ("codec", 131053, "text"),
    ("nobody", 131026, None),
    ("passing", 131000, "video"),
]
USERS = int(os.environ.get("WHATSAPP_USERS", "20"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_of_many_users_has_one_message_or_a_dead_letter_with_the_reason(world, cloud, run):
    """Every fifth user fails in another way, late; receipts come twice and in the wrong order; one worker is killed."""
    cloud.doubled = cloud.reverse = True
    to = [phone(number) for number in range(USERS)]
    for number, address in enumerate(to):
        name, code, _ = LATE[number % len(LATE)]
        if name == "window":
            cloud.close_window(address, late=True)
        elif code is not None:
            hit = {"video"} if name == "codec" else ()
            cloud.fail(code, to=address, late=True, kinds=hit, times=1 if name == "passing" else None)
    enqueue(world, USERS)
    first = run()
    until(lambda: len(cloud.messages) >= 2, "some are delivered")
    first.kill()
    run()
    run()

    dead = USERS // len(LATE)
    until(lambda: len(letters(world)) == dead and delivered_count(world, USERS) == USERS - dead, "all have ended", 200)

    got = {address: kinds(cloud, address) for address in to}
    wanted = {address: [kind] if kind else [] for address, (_, _, kind) in zip(to, LATE * (USERS // 5), strict=True)}
    assert got == wanted
    assert all("131026" in letter.reason for letter in letters(world))
