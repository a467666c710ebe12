"""A worker of an earlier version of our own beside a new one, on one Redis: the weeks of a rolling upgrade.

The earlier one is the last that knew neither forms but video and text, nor receipts; its
code is taken from the history of this repository.
"""

from __future__ import annotations

import signal
import subprocess

import attrs
import pytest
import redis

from kit import QUICK, phone, until
from kit.earlier import Earlier
from videopoll import LeasePolicy, PollingStrategy, RoutingNotifier, events
from videopoll.jobs import JobState, MessageForm
from videopoll.jobs.transition import Release
from videopoll.messages import Accepted, MessageReceipt, NotSent, Refused
from videopoll.testing import Reply

EARLIER = "312de0d8bdf6"

# How a new form goes on does not depend on the server.
pytestmark = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The code of the earlier version."""
    return Earlier.of(EARLIER, tmp_path_factory.mktemp("earlier"))


@pytest.fixture
def run(world, earlier, tmp_path):
    """Start a worker of the earlier version; its end is that of the test at the latest."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(earlier.worker(world, tmp_path / f"earlier-{len(started)}.log"))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


class Network:
    """A channel under the name of the messenger that the earlier worker has; its own inbox is its list of sends."""

    def __init__(self, *answers) -> None:
        self.answers = dict(answers)
        self.sent: list = []

    def notify(self, message):
        self.sent.append(message)
        answer = self.answers.get(message.form)
        return Accepted(f"id of {message.job.job_id}") if answer is None else answer

    @property
    def worker_channels(self) -> RoutingNotifier:
        return RoutingNotifier.from_metadata({"ultramsg": self})


def letters(world) -> list:
    with world.queue() as queue:
        return list(queue.dead_letters.list())


def keys(world, pattern: str) -> list[bytes]:
    with redis.Redis.from_url(world.url) as client:
        return list(client.scan_iter(match=f"{world.prefix}:{pattern}", count=1000))


def test_what_is_watched_is_left_alone_and_what_a_receipt_opens_again_is_sent_once(world, earlier, run):
    """One that the network has delivered, one of which nothing is heard, one that has failed."""
    network = Network()
    jobs = ["delivered", "silent", "failed"]
    users = {job: world.enqueue_ready(job, user=number) for number, job in enumerate(jobs)}
    with world.worker(notifier=network.worker_channels, delivery=attrs.evolve(QUICK, watch_s=60.0)) as worker:
        until(lambda: len(worker.recorder.of(events.JobAccepted)) == 3, "all are accepted")
    run()
    assert earlier.enqueued(world, {"silent": phone(9)}) == ["finished"], "nor does its producer take it in again"

    with world.queue() as queue:
        told = [
            MessageReceipt(
                kind=kind, message_id=f"id of {kind}", then=MessageForm.TEMPLATE if kind == "failed" else None
            )
            for kind in ("delivered", "failed")
        ]
        counts = queue.receive_receipts(told)
        assert (counts.delivered, counts.failed) == (1, 1)
        until(lambda: queue.get("failed").delivered, "the earlier worker has sent it")
        world.enqueue_ready("later", user=7)
        until(lambda: world.ultramsg.inbox(phone(7)), "it goes on")
        until(lambda: queue.get("later").delivered, "and ends it")
        assert queue.get("silent").state is JobState.WATCHED
        assert queue.get("delivered").delivered

    assert [one.kind for one in world.ultramsg.inbox(users["failed"])] == ["video"]
    assert world.ultramsg.inbox(users["silent"]) == world.ultramsg.inbox(users["delivered"]) == []
    assert len(network.sent) == 3
    assert not letters(world)


@pytest.mark.parametrize(("form", "kind"), [(MessageForm.UPLOAD, "video"), (MessageForm.TEMPLATE, "text")])
def test_a_delivery_in_a_form_that_it_does_not_know_goes_to_and_fro_and_is_sent_once(world, run, form, kind):
    """It reads the nearest form that it knows, writes that back after a failure, and the new worker goes on with it."""
    network = Network((MessageForm.VIDEO, Refused("no", then=form)), (form, NotSent("not now", 0.2, counts=False)))
    to = world.enqueue_ready("job_1")
    with world.worker(notifier=network.worker_channels):
        until(lambda: network.sent and network.sent[-1].form is form, "it is to go in another form")

    world.ultramsg.online = False
    calls = len(world.ultramsg.requests)
    process = run()
    until(lambda: len(world.ultramsg.requests) > calls, "the earlier worker has tried")
    end(process)
    (entry,) = keys(world, "poll:outbox:*")
    with redis.Redis.from_url(world.url) as client:
        assert b"sendAs" not in client.get(entry), "it has written what it knows"
        # Its pause is longer than a test.
        client.zadd(f"{world.prefix}:poll:deliveries", {"job_1": 1}, xx=True)
    world.ultramsg.online = True
    with world.worker(), world.queue() as queue:
        until(lambda: queue.get("job_1").delivered, "the new worker has sent it")

    assert [one.kind for one in world.ultramsg.inbox(to)] == [kind]
    assert not letters(world)


def test_what_waits_for_its_tenants_turn_is_polled_by_an_earlier_worker_all_the_same(world, run):
    """It knows no lanes, and takes what is due in the schedule: at the latest when such a job is to be looked at again."""
    users = {f"job_{number}": phone(number) for number in range(12)}
    with world.queue(tenant_key="brand") as queue, redis.Redis.from_url(world.url) as client:
        for number, (job_id, to) in enumerate(users.items()):
            world.api.job(job_id, Reply.completed())
            metadata = {"channel": "ultramsg", "to": to, "brand": number % 2}
            queue.enqueue(job_id, conversation_id=f"c-{number}", metadata=metadata)
        batch = queue.claim(
            polls=2, sends=1, worker_id="w", strategy=PollingStrategy(initial_delay_s=0), lease=LeasePolicy()
        )
        queue.apply([Release(claim) for claim in batch.claims])
        waiting = client.zrange(queue.keys.schedule, 0, -1)
        assert len(waiting) == 10
        assert client.zcard(queue.keys.lanes) == 2

        run()
        until(lambda: len(world.ultramsg.messages) == 2, "it has polled the other two")
        client.zadd(queue.keys.schedule, dict.fromkeys(waiting, 1.5))
        until(lambda: len(world.ultramsg.messages) == 12, "it has polled them all")
        with world.worker():
            until(lambda: not keys(world, "poll:lane*"), "a new worker takes away what is left of the lanes")

        until(lambda: all(queue.get(job_id).delivered for job_id in users), "all have ended")
    assert all(len(world.ultramsg.inbox(to)) == 1 for to in users.values())
    assert not letters(world)
