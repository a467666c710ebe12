"""``videopoll worker`` as a process of its own: jobs go in, messages come out, whatever happens to the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import redis

from kit import API_KEY, INSTANCE, TOKEN, phone, until
from videopoll.testing import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUICK = {"INTERVAL": "0.3", "INITIAL_DELAY": "0.1", "TIMEOUT": "60", "LEASE": "1.5"}


class Process:
    """``videopoll worker`` against a world."""

    def __init__(self, world, log: Path, *args: str, **env: str) -> None:
        self.log = log
        variables = {
            **QUICK,
            "REDIS_URL": world.url,
            "PREFIX": world.prefix,
            "API_URL": world.api.url,
            "API_KEY": API_KEY,
            "ULTRAMSG_URL": world.ultramsg.url,
            "ULTRAMSG_INSTANCE": INSTANCE,
            "ULTRAMSG_TOKEN": TOKEN,
            "WHATSAPP_FACTORY_URL": world.factory.url,
            "WHATSAPP_FACTORY_INSTANCE": INSTANCE,
            "WHATSAPP_FACTORY_TOKEN": TOKEN,
            "RUNNER": world.kind,
            **env,
        }
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "videopoll", "worker", *args],
                env=os.environ | {f"VIDEOPOLL_{name}": value for name, value in variables.items()},
                stderr=file,
                cwd=log.parent,
            )

    def text(self) -> str:
        """What it has logged so far."""
        return self.log.read_text(encoding="utf-8")

    def wait_started(self) -> Process:
        """Wait until it claims jobs, and so handles signals."""
        until(lambda: "Starting video polling worker" in self.text() or self.process.poll() is not None, "it starts")
        assert self.process.poll() is None, self.text()
        return self

    def stop(self) -> int:
        """Ask it to end, and give its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def run(world, tmp_path) -> Iterator:
    """Start workers; the fixture ends them."""
    started: list[Process] = []

    def start(*args: str, **env: str) -> Process:
        started.append(Process(world, tmp_path / f"worker-{len(started)}.log", *args, **env))
        return started[-1].wait_started()

    yield start
    for one in started:
        one.kill()


def enqueue(world, count: int, channels: tuple[str, ...]) -> list[str]:
    """Take jobs in, one for each user; give the users' numbers."""
    to = [phone(number) for number in range(count)]
    with world.queue() as queue:
        queue.enqueue_many(
            (f"job_{number}", f"conversation-{number}", {"channel": channels[number % len(channels)], "to": address})
            for number, address in enumerate(to)
        )
    return to


def settled(world, count: int) -> list[dict[str, object]]:
    """What ``video:completed`` says of each job, as far as it is there."""
    with redis.Redis.from_url(world.url) as client:
        found = client.mget([f"{world.prefix}:completed:job_{number}" for number in range(count)])
    return [json.loads(one) for one in found if one is not None]


@pytest.mark.slow
def test_a_hundred_jobs_are_each_delivered_once(world, run):
    to = enqueue(world, 100, ("ultramsg", "whatsapp_factory"))

    worker = run()
    until(lambda: len(settled(world, 100)) == 100, "all are settled", 60)

    assert worker.stop() == 0
    assert all(one["success"] is True and one["delivered"] is True for one in settled(world, 100))
    got = [world.ultramsg.inbox(address) + world.factory.inbox(address) for address in to]
    assert [len(messages) for messages in got] == [1] * 100
    assert len(world.ultramsg.messages) == len(world.factory.messages) == 50
    log = worker.text()
    assert TOKEN not in log
    assert API_KEY not in log
    assert not [address for address in to if address in log]


@pytest.mark.slow
def test_a_worker_that_was_killed_and_started_again_finishes_all_its_jobs(world, run):
    """SIGKILL in the middle: some jobs are delivered, some being polled, some not even taken."""
    to = enqueue(world, 40, ("ultramsg",))
    for number in range(40):
        world.api.job(f"job_{number}", ready_after_polls=number % 8)
    first = run()
    until(lambda: len(world.ultramsg.messages) >= 5, "some are delivered")

    first.kill()
    assert len(settled(world, 40)) < 40
    run()

    until(lambda: len(settled(world, 40)) == 40, "the second worker finishes them all", 60)
    assert [len(world.ultramsg.inbox(address)) for address in to] == [1] * 40


def test_sigterm_drains(world, run):
    """The delivery under way is finished, no poll is lost, and the exit code is 0."""
    (to,) = enqueue(world, 1, ("ultramsg",))
    world.api.job("job_0", ready_after_polls=0)
    world.ultramsg.fail_next(Reply.slow(1.0), path="/messages/video")
    worker = run()
    until(lambda: [one for one in world.ultramsg.requests if one.path.endswith("/messages/video")], "it is being sent")

    assert worker.stop() == 0

    assert len(world.ultramsg.inbox(to)) == 1
    assert settled(world, 1)[0]["delivered"] is True
    assert "Stopped video polling worker" in worker.text()


def test_an_idle_worker_is_gone_within_a_second_of_sigint(world, run):
    worker = run()

    worker.process.send_signal(signal.SIGINT)

    assert worker.process.wait(5) == 0
    assert "Traceback" not in worker.text()


def test_a_second_signal_ends_it_at_once(world, run):
    """Even in the middle of a poll that takes for ever."""
    enqueue(world, 1, ("ultramsg",))
    world.api.job("job_0", Reply.hang(30))
    worker = run()
    until(lambda: world.api.polls("job_0"), "it is being polled")

    # Signals that come together may be one; so the second is sent until it was heard.
    def ended() -> bool:
        worker.process.send_signal(signal.SIGTERM)
        return worker.process.poll() is not None

    until(ended, "it ends without waiting for the poll", 5)
    assert worker.process.returncode == 128 + signal.SIGTERM


def test_a_resolver_is_found_in_the_working_directory(world, run, tmp_path):
    to = phone(1)
    (tmp_path / "people.py").write_text(
        "from videopoll import Recipient\n"
        f"{'async ' if world.kind == 'async' else ''}def recipient_of(conversation_id):\n"
        f"    return Recipient(channel='ultramsg', to={to!r}, instance_id={INSTANCE!r}, token={TOKEN!r})\n",
        encoding="utf-8",
    )
    with world.queue() as queue:
        queue.enqueue("job_0", conversation_id="conversation-0")

    run("--resolver", "people:recipient_of", ULTRAMSG_TOKEN="", ULTRAMSG_INSTANCE="")

    (message,) = until(lambda: world.ultramsg.inbox(to), "the resolver's user has the video")
    assert message.kind == "video"


def test_json_lines_have_the_fields_of_the_events(world, run):
    enqueue(world, 1, ("ultramsg",))
    worker = run("--log-format", "json")
    until(lambda: settled(world, 1), "it is settled")
    worker.stop()

    lines = [json.loads(line) for line in worker.text().splitlines()]
    polled = [line for line in lines if line.get("event") == "JobPolled"]
    assert polled[0]["job_id"] == "job_0"
    assert polled[0]["attempt"] == 1
    assert polled[0]["level"] == "info"


def test_without_a_channel_it_says_so_and_loses_nothing(world, run):
    enqueue(world, 1, ("ultramsg",))
    world.api.job("job_0", ready_after_polls=0)

    worker = run(ULTRAMSG_TOKEN="", WHATSAPP_FACTORY_URL="")

    assert "No channel is configured" in worker.text()
    assert "UltraMsg is left out" in worker.text()
    until(lambda: world.api.polls("job_0"), "it polls all the same")
    with world.queue() as queue:
        until(lambda: queue.counts().deliveries == 1, "the outcome waits for a channel")
