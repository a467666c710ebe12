"""The behaviour suite: what users see, over both runners and both servers."""

from __future__ import annotations

import json
import re

import pytest
import redis

from kit import FAST, Recorder, phone, until
from videopoll import events
from videopoll.jobs import JobState
from videopoll.testing import Reply


def test_a_finished_video_arrives_as_a_native_video_with_a_caption(world):
    """The main job: a job id goes in, the video arrives on WhatsApp."""
    to = world.enqueue()

    with world.worker():
        (message,) = until(lambda: world.ultramsg.inbox(to), "the video arrives")

    assert message.kind == "video"
    assert message.video.startswith("http")
    assert message.text.startswith("🎥 ¡Tu video está listo! Se generó en ")


def test_whatsapp_factory_gets_the_link_as_text(world):
    """That service has no video format yet."""
    to = world.enqueue(channel="whatsapp_factory")

    with world.worker():
        (message,) = until(lambda: world.factory.inbox(to), "the text arrives")

    assert "\n\n🔗 Video: http" in message.text


def test_a_video_that_the_channel_refuses_goes_as_text_with_the_link(world):
    """A made video is never dropped because a messenger does not like it."""
    to = world.enqueue()
    world.ultramsg.refuse_videos()

    with world.worker():
        (message,) = until(lambda: world.ultramsg.inbox(to), "the text arrives")

    assert message.kind == "text"
    assert "🔗 Video: http" in message.text


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [(Reply.failed("secret provider words"), "failed"), (Reply.vanished(), "not_found")],
    ids=["failed", "vanished"],
)
def test_a_job_without_a_video_sends_a_plain_word(world, reply, outcome):
    """The user hears of it in their language, and never in the provider's words."""
    to = world.enqueue()
    world.api.job("job_1", reply)

    with world.worker() as worker:
        (message,) = until(lambda: world.ultramsg.inbox(to), "the notice arrives")
        until(lambda: worker.recorder.of(events.JobDelivered), "it is settled")

    assert message.text.startswith("😔 Hubo un problema generando tu video: ")
    assert "secret" not in message.text
    assert worker.recorder.of(events.JobConcluded)[0].outcome == outcome


def test_a_job_that_never_ends_times_out_once(world):
    """The deadline ends it, with a notice."""
    to = world.enqueue()
    world.api.job("job_1", Reply.processing())

    with world.worker(strategy=FAST.__class__(interval_s=0.2, timeout_s=1, initial_delay_s=0.1)) as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "it is settled")

    assert [message.kind for message in world.ultramsg.inbox(to)] == ["text"]
    assert worker.recorder.of(events.JobConcluded)[0].error == "Video generation timeout: Process exceeded 1 second"


def test_a_hundred_jobs_all_end_and_each_user_gets_one_message(world):
    """Nothing is lost, nothing comes twice, and nothing is left in Redis but the audit trail."""
    to = [
        world.enqueue(f"job_{number}", user=number, channel=("ultramsg", "whatsapp_factory")[number % 2])
        for number in range(100)
    ]

    with world.worker() as worker:
        until(lambda: len(worker.recorder.of(events.JobDelivered)) == 100, "all are delivered", 40)

    for number, address in enumerate(to):
        got = world.ultramsg.inbox(address) + world.factory.inbox(address)
        assert len(got) == 1, number
    with redis.Redis.from_url(world.url, decode_responses=True) as client:
        found = list(client.scan_iter(match=f"{world.prefix}:*", count=1000))
        # With partitions there is a number behind the prefix, and the note of how many there are.
        names = [re.sub(r"^\d+:", "", key.removeprefix(f"{world.prefix}:")) for key in found]
        assert {name.split(":")[0] for name in names if name != "poll:layout"} == {"completed"}
        told = json.loads(client.get(next(key for key in found if key.endswith(":completed:job_7"))))
        assert told["success"] is True
        assert told["delivered"] is True


def test_an_idle_worker_stops_within_a_second(world):
    """A deployment does not wait for a blocking read."""
    worker = world.worker().start()
    until(lambda: worker.recorder.of(events.WorkerStarted), "it has started")
    until(worker.runner._listening.is_set, "it listens")

    worker.stop(timeout_s=1.0)


def test_a_stopped_worker_gives_its_unfinished_poll_back_at_once(world):
    """Nobody waits for a lease to run out after an orderly stop."""
    world.enqueue()
    world.api.job("job_1", Reply.hang(30), end=Reply.completed(), ready_after_polls=0)
    worker = world.worker(grace_s=0.1).start()
    until(lambda: world.api.polls("job_1"), "it is being polled")

    worker.stop()

    assert [event.given_back for event in worker.recorder.of(events.WorkerStopped)] == [1]
    with world.queue() as queue:
        view = queue.get("job_1")
        assert (view.state, view.attempts) == (JobState.QUEUED, 0)
    with world.worker() as other:
        until(lambda: other.recorder.of(events.JobDelivered), "the other worker delivers it", 3)


def test_hooks_hear_of_every_stage_and_one_that_raises_harms_nothing(world):
    """A host's hook gets the same records that the log lines are made from."""
    heard = Recorder()

    def broken(event):
        raise RuntimeError

    with world.queue(hooks=[broken, heard]) as queue, world.worker(hooks=[broken]) as worker:
        queue.enqueue("job_1", conversation_id="conversation-1", metadata={"channel": "ultramsg", "to": phone(1)})
        queue.enqueue("job_1", conversation_id="conversation-1")
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")

    names = [type(event).__name__ for event in heard.events + worker.recorder.events]
    wanted = ["JobEnqueued", "JobClaimed", "JobPolled", "JobPolled", "JobConcluded", "SendTried", "JobDelivered"]
    assert [name for name in names if name.startswith(("Job", "Send"))] == wanted
