"""A worker that dies between any two effects: another one goes on, and the user gets one message."""

from __future__ import annotations

import signal
import time

import attrs
import pytest
import redis

import kit
from kit import QUICK, phone, until
from kit.worker_process import end, stands_still
from videopoll import LeasePolicy, OnUnknown, events
from videopoll.testing import CRASH_POINTS, FolderPublisher, Reply
from videopoll.video_api import HttpVideoPoller
from videopoll.video_api.apis import VIDEOS

LEASE_S = 0.9

# The scripts run over both servers elsewhere; here it is the process that matters.
pytestmark = pytest.mark.parametrize("redis_server", ["redis"], indirect=True)


@pytest.mark.parametrize("point", [point for point in CRASH_POINTS if point != "after_link"])
def test_a_user_gets_one_message_whatever_instant_the_worker_dies_at(world, point):
    """UltraMsg can be asked for a message by its reference, so even a crash right after the send doubles nothing."""
    to = world.enqueue()
    dying = world.process(crash_at=point)
    assert dying.wait(20) == -signal.SIGKILL

    with world.worker(lease=LeasePolicy.lasting(LEASE_S)) as worker:
        until(lambda: world.queue().get("job_1").delivered, "the job is settled")
    took_over = worker.recorder.of(events.JobDelivered)

    assert [message.kind for message in world.ultramsg.inbox(to)] == ["video"]
    assert bool(took_over) == (point != "after_settle")


@pytest.mark.parametrize("point", ["after_conclude", "after_link", "before_send", "after_send", "before_settle"])
def test_a_video_is_published_again_only_if_its_link_was_not_stored_yet(world, tmp_path, point):
    """Under the same name, so that there is one of it; and the user gets one message."""
    world.api.route("GET", "/videos/job_1", Reply.json({"id": "job_1", "status": "completed"}))
    world.api.route("GET", "/videos/job_1/content", Reply(body=b"a video", headers={"Content-Type": "video/mp4"}))
    to = world.enqueue()
    dying = world.process(crash_at=point, publish_to=str(tmp_path))
    assert dying.wait(20) == -signal.SIGKILL
    there_before = point not in {"after_conclude", "after_link"}

    with (
        FolderPublisher(tmp_path) as publisher,
        world.worker(
            poller=HttpVideoPoller(VIDEOS, base_url=world.api.url, api_key=kit.API_KEY),
            publisher=publisher,
            lease=LeasePolicy.lasting(LEASE_S),
        ),
    ):
        until(lambda: world.queue().get("job_1").delivered, "the job is settled")

    [message] = world.ultramsg.inbox(to)
    assert message.video.endswith(publisher.published[0] if publisher.published else ".mp4")
    assert bool(publisher.published) is not there_before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("point", "choice", "messages"),
    [
        ("before_send", OnUnknown.AT_LEAST_ONCE, 1),
        ("before_send", OnUnknown.AT_MOST_ONCE, 0),
        ("after_send", OnUnknown.AT_LEAST_ONCE, 2),
        ("after_send", OnUnknown.AT_MOST_ONCE, 1),
    ],
)
def test_where_the_channel_cannot_be_asked_the_host_chooses(world, point, choice, messages):
    """After a crash between the note of a send and its settlement, WhatsApp Factory cannot tell: again, or a dead letter."""
    to = world.enqueue(channel="whatsapp_factory")
    dying = world.process(crash_at=point)
    assert dying.wait(20) == -signal.SIGKILL

    with (
        world.worker(lease=LeasePolicy.lasting(LEASE_S), delivery=attrs.evolve(QUICK, on_unknown=choice)) as worker,
        world.queue() as queue,
    ):
        until(lambda: worker.recorder.of(events.JobDelivered) or queue.counts().dead, "the job has ended")
        dead = queue.counts().dead

    assert len(world.factory.inbox(to)) == messages
    assert dead == (choice is OnUnknown.AT_MOST_ONCE)


def test_a_worker_that_was_frozen_past_its_lease_changes_nothing_and_sends_nothing(world):
    """A thawed worker finds that its lease is another one's: no write, no send."""
    to = world.enqueue()
    world.api.job("job_1", Reply.slow(0.5), end=Reply.completed(), ready_after_polls=0)
    frozen = world.process()
    until(lambda: world.api.polls("job_1"), "the worker is polling")
    frozen.send_signal(signal.SIGSTOP)
    try:
        with world.worker(lease=LeasePolicy.lasting(LEASE_S)) as worker:
            until(lambda: worker.recorder.of(events.JobDelivered), "another worker delivers it")
            before = snapshot(world)
            frozen.send_signal(signal.SIGCONT)
            frozen.send_signal(signal.SIGTERM)
            assert frozen.wait(20) == 0
    finally:
        end(frozen)

    assert snapshot(world) == before
    assert len(world.ultramsg.inbox(to)) == 1


@pytest.mark.parametrize("point", ["resolve", "status", "video_check", "connect"])
def test_a_worker_that_is_frozen_in_the_middle_of_a_send_does_not_send_when_it_thaws(world, point):
    """Its lease was confirmed before; by now another worker has delivered, and nothing that posts may begin."""
    channel, messenger = ("whatsapp_factory", world.factory) if point == "connect" else ("ultramsg", world.ultramsg)
    to = world.enqueue(channel=channel)
    by_name = {"factory_url": world.factory.url.replace("127.0.0.1", "localhost")}
    frozen = world.process(freeze_at=point, **by_name if point == "connect" else {})
    try:
        until(lambda: stands_still(frozen), "the worker stands still in its send")
        with world.worker(lease=LeasePolicy.lasting(LEASE_S)) as worker:
            until(lambda: worker.recorder.of(events.JobDelivered), "another worker delivers it")
        frozen.send_signal(signal.SIGCONT)
        world.enqueue("job_2", user=2, channel=channel)
        until(lambda: messenger.inbox(phone(2)), "the worker goes on with other jobs")
    finally:
        end(frozen, signal.SIGTERM)

    assert len(messenger.inbox(to)) == 1


def test_a_long_upload_is_not_cut_short(world):
    """A send takes many lease times: the lease is renewed, and nobody else sends the same."""
    to = world.enqueue()
    world.ultramsg.fail_next(Reply.slow(4 * LEASE_S), path="/messages/video")

    with (
        world.worker(lease=LeasePolicy.lasting(LEASE_S)) as one,
        world.worker(lease=LeasePolicy.lasting(LEASE_S)) as two,
    ):
        until(lambda: [*one.recorder.of(events.JobDelivered), *two.recorder.of(events.JobDelivered)], "it is delivered")
        taken_over = [event for worker in (one, two) for event in worker.recorder.of(events.LeaseLost)]

    assert len(world.ultramsg.inbox(to)) == 1
    assert not taken_over


def snapshot(world: kit.World) -> dict[bytes, bytes | None]:
    """All keys of this world, with their content."""
    with redis.Redis.from_url(world.url) as client:
        return {key: client.dump(key) for key in client.scan_iter(match=f"{world.prefix}:*", count=1000)}


@pytest.mark.slow
def test_with_the_defaults_a_killed_workers_job_is_polled_again_within_15_seconds(world):
    """Dead workers are told by their leases, in seconds, by whoever lives."""
    world.enqueue()
    world.api.job("job_1", Reply.hang(60), end=Reply.completed(), ready_after_polls=0)
    dying = world.process(lease_s=LeasePolicy().duration_s)
    until(lambda: world.api.polls("job_1"), "the dying worker is polling")
    end(dying)
    killed_s = time.monotonic()

    with world.worker(lease=LeasePolicy()):
        until(lambda: len(world.api.polls("job_1")) > 1, "it is polled again", 20)

    assert time.monotonic() - killed_s <= 15
