"""A host's own parts in a worker process: `serve`, ``--app``, ``--poller``, ``--publisher`` and ``--channel``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from kit import phone, until
from videopoll import ConfigurationError, RedisVideoJobQueue, Runner
from videopoll.testing import RecordingNotifier, ScriptedPoller, unused_port
from videopoll.worker import serve
from videopoll.worker.serve import observed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = '''
import contextlib, os, sys

from videopoll import AsyncRedisVideoJobQueue, AsyncRunner, PollingStrategy, RedisVideoJobQueue, Runner
from videopoll.jobs import Asset, LockedLink, PublicLink
from videopoll.observations import Downloaded, VideoReady
from videopoll.worker import serve

PLACE = {"url": os.environ["HOST_REDIS"], "prefix": os.environ["HOST_PREFIX"]}
QUICK = PollingStrategy(interval_s=0.3, initial_delay_s=0.1, timeout_s=60)


class Poller:
    """Everything is ready at once."""

    timeout_s = 5.0

    def poll(self, job, *, timeout_s):
        return VideoReady("https://cdn.example/video.mp4")


class Notifier:
    """Writes into a file what it is told."""

    def notify(self, message):
        with open(os.environ["HOST_INBOX"], "a") as inbox:
            print(message.job.job_id, file=inbox)


class LockingPoller:
    """Everything is ready at once, and only the key opens it."""

    def poll(self, job, *, timeout_s):
        return VideoReady(assets=(Asset(LockedLink("https://api.example/video")),))

    def download(self, job, place, file, *, timeout_s):
        file.write(b"video")
        return Downloaded("video/mp4")


class Publisher:
    """Writes into a file what it publishes."""

    def publish(self, video, *, timeout_s):
        with open(os.environ["HOST_INBOX"], "a") as inbox:
            print("published", video.file.read().decode(), sep=":", file=inbox)
        return PublicLink("https://cdn.example/video.mp4", lives_s=3600)


class AsyncPublisher:
    async def publish(self, video, *, timeout_s):
        return PublicLink("https://cdn.example/video.mp4")


def build_poller():
    return Poller()


def build_locking():
    return LockingPoller()


def build_publisher():
    return Publisher()


def build_async_publisher():
    return AsyncPublisher()


def build_channel():
    return Notifier()


def sync_runner():
    return Runner(RedisVideoJobQueue.from_url(**PLACE), Poller(), Notifier(), strategy=QUICK)


def async_runner():
    return AsyncRunner(AsyncRedisVideoJobQueue.from_url(**PLACE), Poller(), Notifier(), strategy=QUICK)


async def coroutine():
    return async_runner()


@contextlib.contextmanager
def sync_context():
    with RedisVideoJobQueue.from_url(**PLACE) as queue:
        yield Runner(queue, Poller(), Notifier(), strategy=QUICK)
    print("the host has closed its queue", file=sys.stderr)


@contextlib.asynccontextmanager
async def async_context():
    async with AsyncRedisVideoJobQueue.from_url(**PLACE) as queue:
        yield AsyncRunner(queue, Poller(), Notifier(), strategy=QUICK)
    print("the host has closed its queue", file=sys.stderr)


def nothing():
    return None


async def nothing_async():
    return 5


@contextlib.contextmanager
def nothing_inside():
    yield "a runner"


def broken():
    raise ValueError("no such settings")


@contextlib.asynccontextmanager
async def broken_context():
    raise ValueError("no such settings")
    yield


if __name__ == "__main__":
    serve(globals()[sys.argv[1]], health_port=int(sys.argv[2]), metrics=True)
'''

APPS = ("sync_runner", "async_runner", "coroutine", "sync_context", "async_context")


class Host:
    """A folder with a host's module, and the processes that use it."""

    def __init__(self, folder: Path, redis_url: str, prefix: str) -> None:
        self.folder, self.redis_url, self.prefix = folder, redis_url, prefix
        self.inbox = folder / "inbox"
        (folder / "myhost.py").write_text(HOST, encoding="utf-8")
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        place = {"HOST_REDIS": self.redis_url, "HOST_PREFIX": self.prefix, "HOST_INBOX": str(self.inbox)}
        self.started.append(
            subprocess.Popen(
                [sys.executable, *args],
                env=os.environ | place | env,
                cwd=self.folder,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return self.started[-1]

    def told(self) -> list[str]:
        """The jobs whose users were told, in that order."""
        return self.inbox.read_text(encoding="utf-8").split() if self.inbox.exists() else []


@pytest.fixture
def queue(redis_url, prefix) -> Iterator[RedisVideoJobQueue]:
    with RedisVideoJobQueue.from_url(redis_url, prefix=prefix) as queue:
        yield queue


@pytest.fixture
def host(tmp_path, redis_url, prefix) -> Iterator[Host]:
    made = Host(tmp_path, redis_url, prefix)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def answers(url: str) -> bool:
    try:
        fetch(url)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("way", "app"), [*(("--app", app) for app in APPS), ("serve", "sync_runner"), ("serve", "async_context")]
)
def test_a_runner_of_the_hosts_own_parts_gets_all_that_a_worker_has(host, queue, app, way):
    port = unused_port()
    queue.enqueue("job_1", conversation_id="conversation-1")

    if way == "serve":
        process = host.start("myhost.py", app, str(port))
    else:
        options = ["--health-port", str(port), "--metrics"]
        process = host.start("-m", "videopoll", "worker", "--app", f"myhost:{app}", *options)
    until(lambda: host.told() == ["job_1"] or process.poll() is not None, "the user is told")
    until(lambda: answers(f"http://127.0.0.1:{port}/ready"), "it is ready")
    # The user is told a moment before that is noted.
    until(lambda: 'videopoll_jobs{state="in_flight"} 0.0' in fetch(f"http://127.0.0.1:{port}/metrics"), "it is noted")
    metrics = fetch(f"http://127.0.0.1:{port}/metrics")
    process.send_signal(signal.SIGTERM)
    log = process.communicate(timeout=20)[1]

    assert process.returncode == 0
    assert "videopoll_polls_total{" in metrics
    assert "Starting video polling worker" in log
    assert "Stopped video polling worker" in log
    assert "Traceback" not in log
    assert ("the host has closed its queue" in log) == app.endswith("context")


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("nothing", "the app returned NoneType: it must return a Runner or an AsyncRunner"),
        ("nothing_async", "the app returned int"),
        ("nothing_inside", "the app returned str"),
        ("broken", "myhost:broken raised ValueError: no such settings"),
        ("broken_context", "the app raised ValueError: no such settings"),
        ("missing", "'myhost' has no function 'missing'"),
    ],
)
def test_an_app_that_gives_no_runner_is_told_in_a_sentence(host, app, said):
    process = host.start("-m", "videopoll", "worker", "--app", f"myhost:{app}")
    log = process.communicate(timeout=30)[1]

    assert process.returncode == 2
    assert said in log.splitlines()[-1]
    assert "Traceback" not in log


def test_an_option_that_the_app_would_pass_over_is_refused(host):
    process = host.start("-m", "videopoll", "worker", "--app", "myhost:sync_runner", "--interval", "5")
    log = process.communicate(timeout=30)[1]

    assert process.returncode == 2
    assert "--interval would have no effect" in log


@pytest.mark.parametrize("runner", ["sync", "async"])
def test_a_poller_and_a_channel_of_the_hosts_are_named_by_options(host, queue, runner):
    queue.enqueue("job_1", conversation_id="conversation-1", metadata={"channel": "own", "to": phone(1)})

    process = host.start(
        "-m",
        "videopoll",
        "worker",
        *("--redis-url", host.redis_url, "--prefix", host.prefix, "--runner", runner),
        *("--initial-delay", "0.1", "--interval", "0.3", "--no-history"),
        *("--poller", "myhost:build_poller", "--channel", "own=myhost:build_channel"),
        VIDEOPOLL_API_KEY="",
    )
    until(lambda: host.told() == ["job_1"] or process.poll() is not None, "the user is told")
    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == 0


@pytest.mark.parametrize("runner", ["sync", "async"])
def test_a_publisher_of_the_hosts_is_named_by_an_option(host, queue, runner):
    queue.enqueue("job_1", conversation_id="conversation-1", metadata={"channel": "own", "to": phone(1)})

    process = host.start(
        *("-m", "videopoll", "worker", "--redis-url", host.redis_url, "--prefix", host.prefix, "--runner", runner),
        *("--initial-delay", "0.1", "--interval", "0.3", "--no-history"),
        *("--poller", "myhost:build_locking", "--publisher", "myhost:build_publisher"),
        *("--channel", "own=myhost:build_channel"),
        VIDEOPOLL_API_KEY="",
    )
    until(lambda: len(host.told()) == 2 or process.poll() is not None, "the user is told")
    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == 0
    assert host.told() == ["published:video", "job_1"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--poller myhost:build_locking --publisher nowhere", "--publisher looks like"),
        ("--poller myhost:build_locking --publisher myhost:broken", "--publisher: myhost:broken raised"),
        (
            "--poller myhost:build_locking --publisher myhost:build_channel",
            "builds Notifier, which has no method publish(",
        ),
        ("--poller myhost:build_poller --publisher myhost:build_publisher", "Poller has no method download()"),
        ("--poller myhost:build_locking --publisher myhost:build_async_publisher --runner sync", "use --runner async"),
    ],
)
def test_a_publisher_that_cannot_work_is_told_in_a_sentence(host, options, says):
    channel = ("--channel", "own=myhost:build_channel", "--no-history")
    process = host.start("-m", "videopoll", "worker", *channel, *options.split())
    log = process.communicate(timeout=30)[1]

    assert process.returncode == 2
    assert says in log.splitlines()[-1]
    assert "Traceback" not in log


@pytest.mark.parametrize("channel", ["own", "=myhost:build_channel", "own=nowhere", "own=myhost:broken"])
def test_a_channel_that_cannot_be_built_is_told_in_a_sentence(host, channel):
    process = host.start(
        "-m", "videopoll", "worker", "--channel", channel, "--poller", "myhost:build_poller", "--no-history"
    )
    log = process.communicate(timeout=30)[1]

    assert process.returncode == 2
    assert "--channel" in log.splitlines()[-1]
    assert "Traceback" not in log


def test_metrics_without_a_port_are_refused_before_anything_is_built():
    with pytest.raises(ConfigurationError, match="metrics need a health port"):
        serve(lambda: pytest.fail("it was built"), metrics=True)


@pytest.mark.parametrize("options", [{"log_level": "loud"}, {"log_format": "xml"}])
def test_a_log_that_does_not_exist_is_refused(options):
    with pytest.raises(ConfigurationError, match="must be one of"):
        serve(lambda: pytest.fail("it was built"), **options)


def test_an_embedded_runner_is_observed_for_as_long_as_the_block_lasts(queue):
    queue.enqueue("job_1", conversation_id="conversation-1")
    runner = Runner(queue, ScriptedPoller(), RecordingNotifier())
    registry = CollectorRegistry()
    port = unused_port()

    with observed(runner, health_port=port, metrics=True, registry=registry):
        runner.run_once()
        metrics = fetch(f"http://127.0.0.1:{port}/metrics")

    assert "videopoll_jobs{" in metrics
    assert not answers(f"http://127.0.0.1:{port}/live")
    assert b"videopoll_jobs{" not in generate_latest(registry)


def test_two_runners_cannot_share_a_registry(queue):
    runner = Runner(queue, ScriptedPoller(), RecordingNotifier())
    registry = CollectorRegistry()

    with (
        observed(runner, metrics=True, registry=registry),
        pytest.raises(ConfigurationError, match="a registry of its own"),
        observed(runner, metrics=True, registry=registry),
    ):
        pytest.fail("it is observed twice")
