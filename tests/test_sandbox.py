"""The sandbox and the small helpers of `videopoll.testing`: a host's test of its integration, in few lines."""

from __future__ import annotations

import subprocess
import sys
import time

import httpx
import pytest

from videopoll import DeliveryPolicy, OutcomeKind, PollingStrategy, RedisVideoJobQueue
from videopoll.errors import ConfigurationError
from videopoll.jobs import Asset, LockedLink, MessageForm, PublicLink
from videopoll.messages import NotSent, Recipient
from videopoll.observations import Downloaded, VideoFailed, VideoReady, VideoWorking
from videopoll.testing import (
    CRASH_POINTS,
    AsyncSandbox,
    FakeServer,
    MemoryServer,
    RecordingNotifier,
    Reply,
    Sandbox,
    ScriptedPoller,
    assert_no_keys_leaked,
    build_job,
    build_message,
    build_outcome,
    die_at,
    memory_queue,
)
from videopoll.texts import ENGLISH, Texts

DAY_S = 86_400


@pytest.fixture
def open_sandbox(kind, call):
    """Build sandboxes of either kind, and close them."""
    opened = []

    def build(**options):
        sandbox = (Sandbox if kind == "sync" else AsyncSandbox)(**options)
        opened.append(sandbox)
        if kind == "sync":
            return sandbox.__enter__()
        return call(sandbox.__aenter__())

    yield build
    for sandbox in opened:
        call(sandbox.__exit__(None, None, None) if kind == "sync" else sandbox.__aexit__(None, None, None))


@pytest.fixture
def sandbox(open_sandbox):
    return open_sandbox()


def test_a_job_is_carried_to_its_end(sandbox, call):
    """The delay before the first poll and the interval pass at once."""
    sandbox.poller.job("job_1", VideoWorking(), VideoWorking(), VideoReady("https://files.example/1.mp4"))
    call(sandbox.queue.enqueue("job_1", conversation_id="c"))
    began_s = time.monotonic()

    call(sandbox.run_until_settled())

    assert sandbox.assert_delivered_once("job_1").video_url == "https://files.example/1.mp4"
    assert sandbox.poller.polls == ("job_1",) * 3
    assert time.monotonic() - began_s < PollingStrategy().initial_delay_s
    assert repr(sandbox).endswith("<ScriptedPoller polls=3> <RecordingNotifier attempts=1 delivered=1>>")


class Locking:
    """Finishes every job with a video that only its key opens."""

    def poll(self, job, *, timeout_s):
        return VideoReady(assets=(Asset(LockedLink("https://api.example/video")),))

    def download(self, job, place, file, *, timeout_s):
        file.write(b"a video")
        return Downloaded("video/mp4")


class Shelf:
    """A publisher that remembers what it got."""

    def __init__(self):
        self.videos = []

    def publish(self, video, *, timeout_s):
        self.videos.append(video.file.read())
        return PublicLink("https://files.example/1.mp4", lives_s=3600)


def test_a_locked_video_is_published_by_the_hosts_publisher(open_sandbox, call):
    shelf = Shelf()
    sandbox = open_sandbox(poller=Locking(), publisher=shelf)
    call(sandbox.queue.enqueue("job_1", conversation_id="c"))

    call(sandbox.run_until_settled())

    assert sandbox.assert_delivered_once("job_1").video_url == "https://files.example/1.mp4"
    assert shelf.videos == [b"a video"]


def test_jobs_with_every_end_are_carried_there(sandbox, call):
    """A timeout takes its five minutes of polls, a failed send its back-off."""
    sandbox.poller.job("slow", VideoWorking())
    sandbox.poller.job("failed", VideoFailed("content policy"))
    sandbox.notifier.answer_next(NotSent("busy"))
    for job_id in ("slow", "failed", "ready"):
        call(sandbox.queue.enqueue(job_id, conversation_id=job_id))

    call(sandbox.run_until_settled())

    ends = {"slow": "timed_out", "failed": OutcomeKind.FAILED, "ready": "completed"}
    assert [sandbox.assert_delivered_once(job_id, outcome=end).job.job_id for job_id, end in ends.items()] == [*ends]
    assert len([job_id for job_id in sandbox.poller.polls if job_id == "slow"]) == 30
    assert_no_keys_leaked(sandbox.server.client())


def test_nothing_to_do_is_settled(sandbox, call):
    call(sandbox.run_until_settled())

    assert sandbox.poller.polls == ()


def test_what_does_not_end_in_time_is_told(open_sandbox, call):
    """With where it stands; an endless loop would tell nothing."""
    sandbox = open_sandbox(strategy=PollingStrategy(interval_s=60, timeout_s=550))
    sandbox.poller.job("job_1", VideoWorking())
    call(sandbox.queue.enqueue("job_1", conversation_id="c"))

    with pytest.raises(
        AssertionError, match=r"left after 300 s of the sandbox's clock \(polled again later: job_1\): "
    ):
        call(sandbox.run_until_settled(within_s=300))


def test_what_nobody_may_take_is_told_as_well(sandbox, call):
    """A lock of another kind of worker ends after a minute; here it never does."""
    call(sandbox.queue.enqueue("job_1", conversation_id="c"))
    keys = sandbox.queue.keys
    with sandbox.server.client() as client:
        client.set(keys.lock("job_1"), "foreign", ex=DAY_S)

        with pytest.raises(AssertionError, match="jobs are left after 100 s"):
            call(sandbox.run_until_settled(within_s=100))


def test_a_host_brings_its_own_parts_and_policies(open_sandbox, call):
    """What is not brought is scripted and recorded."""
    poller, heard = ScriptedPoller({"job_1": VideoReady("https://files.example/own.mp4")}), []
    sandbox = open_sandbox(
        poller=poller,
        strategy=PollingStrategy(initial_delay_s=60, timeout_s=300),
        delivery=DeliveryPolicy(),
        texts=Texts({"en": ENGLISH}, default="en"),
        hooks=[heard.append],
    )
    before_s = sandbox.clock.monotonic_s()
    call(sandbox.queue.enqueue("job_1", conversation_id="c"))
    call(sandbox.run_until_settled())

    assert sandbox.poller is poller
    assert poller.polls == ("job_1",)
    assert "Your video is ready" in sandbox.assert_delivered_once("job_1").text
    assert sandbox.clock.monotonic_s() - before_s >= 60
    assert {type(event).__name__ for event in heard} >= {"JobEnqueued", "JobPolled", "JobDelivered"}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_sandbox_that_is_not_in_use_runs_nothing(kind, call, open_sandbox, after):
    """Its clock would move alone: the test would take the five seconds of the first poll, or wait for ever."""
    sandbox = open_sandbox() if after else (Sandbox if kind == "sync" else AsyncSandbox)()
    if after:
        call(sandbox.__exit__(None, None, None) if kind == "sync" else sandbox.__aexit__(None, None, None))
    entered = "`with Sandbox() as sandbox:`" if kind == "sync" else "`async with AsyncSandbox() as sandbox:`"

    with pytest.raises(ConfigurationError) as refused:
        call(sandbox.run_until_settled())
    assert str(refused.value) == f"this sandbox is not in use: do that inside of {entered}"


def test_a_runner_that_was_started_is_not_run_a_second_time(sandbox, call):
    """What a service starts in its own code; a `RuntimeError` of the runner would not name what to leave out."""

    async def started():
        sandbox.runner.start()
        if isinstance(sandbox, AsyncSandbox):
            await sandbox.run_until_settled()
        else:
            sandbox.run_until_settled()

    with pytest.raises(ConfigurationError, match=r"leave runner\.start\(\) out"):
        call(started())


@pytest.mark.parametrize("within_s", ["60", -1, float("nan")])
def test_how_far_a_clock_may_be_moved_is_a_number_of_seconds(sandbox, call, within_s):
    with pytest.raises(ConfigurationError, match="within_s must be"):
        call(sandbox.run_until_settled(within_s=within_s))


def test_jobs_that_are_left_are_named_by_where_they_are(open_sandbox, call):
    sandbox = open_sandbox()
    sandbox.notifier.answer_next(NotSent("busy", 3000))
    for number in range(8):
        sandbox.poller.job(f"slow_{number}", VideoWorking())
        call(sandbox.queue.enqueue(f"slow_{number}", conversation_id="c"))
    call(sandbox.queue.enqueue("unsent", conversation_id="c"))

    with pytest.raises(AssertionError) as left:
        call(sandbox.run_until_settled(within_s=60))

    told = str(left.value)
    assert "sent again later: unsent)" in told
    assert "slow_0" in told
    assert "and 3 more" in told
    assert told.endswith(": let them end, or raise within_s")


class Silent:
    """A notifier and a poller of a host's own, of which no script and no record exists."""

    def poll(self, job, *, timeout_s):
        return VideoReady("https://files.example/own.mp4")

    def notify(self, message):
        return None


def test_a_sandbox_has_no_record_of_what_a_hosts_own_notifier_sends(open_sandbox, call):
    """It said that the user got nothing, which is not known; and a script for another poller changed nothing."""
    sandbox = open_sandbox(poller=Silent(), notifier=Silent())
    call(sandbox.queue.enqueue("job_1", conversation_id="c"))
    call(sandbox.run_until_settled())

    for ask in (lambda: sandbox.assert_delivered_once("job_1"), lambda: sandbox.notifier):
        with pytest.raises(
            ConfigurationError, match="this sandbox sends with your Silent, and has no RecordingNotifier"
        ):
            ask()
    with pytest.raises(ConfigurationError, match="this sandbox polls with your Silent, and has no ScriptedPoller"):
        _ = sandbox.poller
    assert "Silent object" in repr(sandbox)


def test_a_recording_notifier_of_the_hosts_is_the_one_of_the_sandbox(open_sandbox, call):
    recording = RecordingNotifier()
    sandbox = open_sandbox(notifier=recording)
    call(sandbox.queue.enqueue("job_1", conversation_id="c"))
    call(sandbox.run_until_settled())

    assert sandbox.notifier is recording
    assert sandbox.assert_delivered_once("job_1") is recording.messages[0]


class TestAFailedAssertion:
    """It is read by somebody who does not know yet what went wrong."""

    def test_it_tells_why_there_was_no_video_in_our_own_words_only(self, sandbox, call):
        sandbox.poller.job("slow", VideoWorking())
        sandbox.poller.job("failed", VideoFailed("a prompt about 5491155550001"))
        for job_id in ("slow", "failed"):
            call(sandbox.queue.enqueue(job_id, conversation_id="c"))
        call(sandbox.run_until_settled())

        with pytest.raises(AssertionError) as slow:
            sandbox.assert_delivered_once("slow")
        with pytest.raises(AssertionError) as failed:
            sandbox.assert_delivered_once("failed")

        assert str(slow.value).startswith(
            "the user of slow was told timed_out, not completed (Video generation timeout"
        )
        assert str(failed.value) == "the user of failed was told failed, not completed"

    def test_many_sends_are_told_in_few_words(self, sandbox, call):
        sandbox.notifier.answer_next(*[NotSent("busy")] * 100)
        call(sandbox.queue.enqueue("job_1", conversation_id="c"))
        call(sandbox.run_until_settled())

        with pytest.raises(AssertionError) as left:
            sandbox.assert_delivered_once("job_1")

        assert "sends 1, 2, 3, 4, 5 as video: NotSent; 3" in str(left.value)
        assert "sends from 6 to " in str(left.value)
        assert len(str(left.value)) < 200

    def test_a_worker_that_did_not_run_is_thought_of(self, sandbox, call):
        call(sandbox.queue.enqueue("job_1", conversation_id="c"))

        with pytest.raises(
            AssertionError, match="no send was tried about any job: was it enqueued, and did the worker"
        ):
            sandbox.assert_delivered_once("job_1")

    def test_a_job_is_meant_by_its_id(self, sandbox):
        with pytest.raises(ConfigurationError, match=r"assert_delivered_once\.job_id must be a text, got VideoJob"):
            sandbox.assert_delivered_once(build_job())


def test_one_sandbox_at_a_time(sandbox):
    """Two clocks cannot move the same time."""
    with pytest.raises(ConfigurationError, match="another sandbox or MovableClock is in use"), Sandbox():
        pass


FIXTURES = """
import asyncio

def test_threads(video_sandbox):
    video_sandbox.queue.enqueue("job_1", conversation_id="c")
    video_sandbox.run_until_settled()
    video_sandbox.assert_delivered_once("job_1")

def test_asyncio(async_video_sandbox):
    async def main():
        async with async_video_sandbox as sandbox:
            await sandbox.queue.enqueue("job_1", conversation_id="c")
            await sandbox.run_until_settled()
            sandbox.assert_delivered_once("job_1")
    asyncio.run(main())

def test_unused(async_video_sandbox):
    pass
"""


def test_a_hosts_conftest_names_the_fixtures_in_one_line(tmp_path):
    """Of both worlds, in a pytest of its own, where every warning is an error."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["videopoll.testing.pytest_plugin"]\n')
    (tmp_path / "test_app.py").write_text(FIXTURES)
    command = [
        sys.executable,
        "-X",
        "dev",
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "no:randomly",
        # An old one warns of a new pytest.
        "-p",
        "no:anyio",
        "-p",
        "no:cacheprovider",
        ".",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)

    assert "3 passed" in done.stdout, done.stdout + done.stderr


class TestBuilders:
    def test_a_message_is_what_a_worker_would_send_first(self):
        ready, failed = build_message(), build_message("failed")

        assert (ready.form, ready.video_url) == (MessageForm.VIDEO, "https://files.example/video.mp4")
        assert (failed.form, failed.video_url) == (MessageForm.TEXT, None)
        assert ready.reference == ready.job.reference

    def test_everything_can_be_said(self):
        job = build_job("job_7", conversation_id="c_7", metadata={"to": "1"}, start_ms=1_757_157_518_747)
        outcome = build_outcome("failed", error="content policy", at_ms=1_757_157_528_747)
        recipient = Recipient(channel="ultramsg", to="1")
        message = build_message(
            outcome,
            job=job,
            form="text",
            recipient=recipient,
            language="en",
            texts=Texts({"en": ENGLISH}, default="en"),
        )

        assert (message.job, message.outcome, message.recipient) == (job, outcome, recipient)
        assert (job.start_ms, dict(job.metadata), outcome.error) == (1_757_157_518_747, {"to": "1"}, "content policy")
        assert "video" in message.text

    @pytest.mark.parametrize("outcome", ["timeout", build_job()])
    def test_a_wrong_outcome_is_refused_by_the_name_of_the_argument(self, outcome):
        with pytest.raises(ConfigurationError, match=r"^build_message\.outcome must be one of completed, "):
            build_message(outcome)

    def test_without_a_video_there_is_no_message_in_the_form_of_one(self):
        """A worker never makes it; a test of it would prove nothing."""
        with pytest.raises(ConfigurationError, match="a job that ended as failed has no video"):
            build_message("failed", form="video")


class TestRoutes:
    def get(self, server, path="/jobs/17", method="GET"):
        with httpx.Client(trust_env=False) as client:
            return client.request(method, f"{server.url}{path}")

    def test_a_path_answers_in_order_and_the_last_answer_stays(self):
        with FakeServer() as server:
            server.route("get", "/jobs/17", Reply.json({"state": "running"}, status=202), Reply.json({"state": "done"}))

            replies = [self.get(server) for _ in range(3)]

        assert [(reply.status_code, reply.json()["state"]) for reply in replies] == [
            (202, "running"),
            (200, "done"),
            (200, "done"),
        ]

    @pytest.mark.parametrize(("method", "path"), [("GET", "/jobs/1"), ("POST", "/jobs/17"), ("GET", "/jobs/17/more")])
    def test_what_nobody_expects_is_not_found(self, method, path):
        with FakeServer() as server:
            server.route("GET", "/jobs/17", Reply.json({}))
            reply = self.get(server, path, method)

        assert (reply.status_code, reply.json()) == (404, {"error": f"nothing answers {method} {path}"})

    def test_the_rules_have_an_order(self):
        """Replies for the next requests, then faults that last, then routes."""
        with FakeServer() as server:
            server.route("GET", "/jobs/17", Reply.json("an older route"))
            server.route("GET", "/jobs/17", Reply.json("the route"))
            server.fail_every(2, Reply.fault(500))
            server.reply_with(Reply.json("first"), Reply.json("second"))

            assert [self.get(server).json() for _ in range(5)] == [
                "first",
                "second",
                "the route",
                {"error": "fault 500"},
                "the route",
            ]

    def test_a_route_needs_an_answer(self):
        with pytest.raises(ConfigurationError, match="at least one Reply for GET /x"):
            FakeServer().route("GET", "/x")
        with pytest.raises(ConfigurationError, match="at least one Reply is needed"):
            FakeServer().reply_with()

    @pytest.mark.parametrize(
        "path", ["jobs/17", "http://127.0.0.1:1/jobs/17", "/jobs/17?full=1", "/jobs/{id}", "//jobs", "*", ""]
    )
    def test_a_route_that_no_request_can_take_is_refused(self, path):
        """Its test would be told 404 for ever, and not why."""
        with pytest.raises(ConfigurationError, match=r"route\.path must be a"):
            FakeServer().route("GET", path, Reply.json({}))

    @pytest.mark.parametrize("method", ["GTE", "/jobs/17", "", None])
    def test_a_route_has_a_method_of_http(self, method):
        with pytest.raises(ConfigurationError, match=r"route\.method must be"):
            FakeServer().route(method, "/jobs/17", Reply.json({}))

    @pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 1000])
    def test_a_reply_has_a_status_that_ends_a_request(self, status):
        """After 100 a client waits for another one."""
        with pytest.raises(ConfigurationError, match=f"Reply.status must be from 200 to 999, got {status}"):
            Reply.json({}, status=status)

    @pytest.mark.parametrize("status", [200, 204, 304, 418, 599, 600, 999])
    def test_any_other_status_is_answered_as_it_is(self, status):
        with FakeServer() as server:
            server.route("GET", "/jobs/17", Reply.json({}, status=status))

            assert self.get(server).status_code == status

    @pytest.mark.parametrize("body", [object(), {"at": {1, 2}}, {"raw": b"bytes"}])
    def test_a_reply_that_json_cannot_say_is_refused_where_it_is_written(self, body):
        with pytest.raises(ConfigurationError, match=r"Reply\.body must be bytes, or what JSON can say"):
            Reply.json(body)

    def test_a_port_that_another_has_is_named(self):
        with FakeServer() as server:
            port = int(server.url.rpartition(":")[2])
            with pytest.raises(OSError, match=f"FakeServer.port {port} cannot be listened on: .*; None chooses a free"):
                FakeServer(port=port).start()

    @pytest.mark.parametrize("port", [0, 65_536])
    def test_a_server_has_a_port_that_there_is(self, port):
        with pytest.raises(ConfigurationError, match=r"FakeServer\.port must be"):
            FakeServer(port=port)


class TestLeakCheck:
    def test_a_key_without_an_end_is_named(self, redis_server, prefix):
        import redis

        with (
            redis.Redis.from_url(redis_server.url) as client,
            RedisVideoJobQueue.from_url(redis_server.url, prefix=prefix) as queue,
        ):
            queue.enqueue("job_1", conversation_id="c")
            client.set(f"{prefix}x:mine", "of another prefix", ex=60)
            assert_no_keys_leaked(client, prefix)

            client.persist(queue.keys.job("job_1"))
            with pytest.raises(AssertionError, match=f"left behind: {prefix}:job:job_1$"):
                assert_no_keys_leaked(client, prefix)
            client.expire(queue.keys.job("job_1"), 60)

    def test_it_looks_with_a_client_of_redis_py(self):
        """With a queue or a client for asyncio it ended in an `AttributeError`, deep inside."""
        server = MemoryServer()
        for other in (server, memory_queue(server)):
            with pytest.raises(
                ConfigurationError, match=r"must be a redis\.Redis, such as MemoryServer\.client\(\) gives"
            ):
                assert_no_keys_leaked(other)
        with pytest.raises(ConfigurationError, match="got one for asyncio"):
            assert_no_keys_leaked(server.async_client())


def test_there_are_no_other_points_to_die_at():
    with (
        Sandbox() as sandbox,
        pytest.raises(ConfigurationError, match=f"crash point must be one of {CRASH_POINTS[0]}, "),
    ):
        die_at(sandbox.runner, "after_lunch")


def test_what_is_to_die_is_a_runner():
    with Sandbox() as sandbox:
        with pytest.raises(ConfigurationError, match="must be a Runner or an AsyncRunner, got Sandbox"):
            die_at(sandbox, "after_send")
        with pytest.raises(ConfigurationError, match=r"die_at\.job_id must be a text, got int"):
            die_at(sandbox.runner, "after_send", job_id=17)
