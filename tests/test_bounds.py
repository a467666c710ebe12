"""What comes from outside is small when it is stored, whatever its type and size: an outcome is written several times."""

from __future__ import annotations

import datetime as dt
import json
import uuid

import pytest
import redis

from kit import until
from videopoll import CallbackNotifier, NotSentError, Outcome, OutcomeKind, RefusedError, VideoJob, events
from videopoll.jobs.codec import Poison
from videopoll.jobs.job import MAX_METADATA_BYTES
from videopoll.messages import Delivered, NotSent, Refused, Unknown
from videopoll.observations import Fault, FaultKind, VideoFailed, VideoReady, VideoWorking
from videopoll.queue.schema import Keys
from videopoll.testing import Reply
from videopoll.worker.host_parts import as_observation

HUGE = "ñ" * 10_000_000
URL = "https://files.example/x.mp4"
T0 = 1_757_157_518_747


class Untold:
    """What cannot even say what it is."""

    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


VALUES = [
    HUGE,
    HUGE.encode(),
    {"a": [HUGE]},
    10**400,
    Untold(),
    1e999,
    uuid.UUID(int=7),
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    [],
    True,
]
KINDS = ["text", "bytes", "nested", "digits", "untold", "infinity", "uuid", "date", "list", "bool"]


@pytest.mark.parametrize("value", VALUES, ids=KINDS)
def test_what_a_hosts_parts_hand_back_is_small_and_can_be_stored(value):
    """Of any type: after a send it is too late to complain."""
    made = [
        VideoWorking(value),
        VideoFailed(value),
        VideoReady(URL, value, value),
        Fault(FaultKind.INTERNAL, value),
        Delivered(value, value),
        NotSent(value),
        Refused(value),
        Unknown(value),
        Outcome(OutcomeKind.FAILED, T0, error=value, file_id=value, timestamp=value),
    ]
    assert len(json.dumps([repr(one) for one in made])) < 100_000
    json.dumps([made[2].file_id, made[4].message_id], allow_nan=False)
    if not isinstance(value, bytes | Untold | uuid.UUID):
        json.dumps([made[2].timestamp, made[8].timestamp], allow_nan=False)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, VideoReady(URL, "f", 5)),
        ("https://files.example/my video.mp4", VideoReady("https://files.example/my%20video.mp4", "f", 5)),
        (None, VideoWorking("completed", error="the video API says completed, but gives no video URL")),
        ("", VideoWorking("completed", error="the video API says completed, but gives no video URL")),
    ],
)
def test_a_video_of_a_hosts_poller_is_checked_as_one_of_ours(url, expected):
    assert as_observation(VideoReady(url, "f", 5)) == expected


@pytest.mark.parametrize("url", ["javascript:alert(1)", "https://user:word@a/x", HUGE, 7, b"https://a/x"])
def test_a_hosts_poller_cannot_have_a_dangerous_link_sent(url):
    observation = as_observation(VideoReady(url))
    assert isinstance(observation, VideoFailed)
    assert "cannot be delivered" in observation.error
    assert len(observation.undeliverable_url or "") < 20_000


def record(**metadata: object) -> bytes:
    fields = {"jobId": "job_1", "conversationId": "c", "startTime": T0, "status": "polling", **metadata}
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "metadata",
    [
        {"note": HUGE},
        {"nested": {"a": [HUGE]}},
        {f"field_{number}": "x" * 50 for number in range(50_000)},
        {"n" * 100_000: 1, HUGE: 2},
    ],
    ids=["text", "nested", "many", "names"],
)
def test_metadata_of_a_foreign_record_are_bounded_and_the_small_ones_stay(metadata):
    """They go into the outbox, and into a dead letter."""
    job = VideoJob.from_record("job_1", record(channel="ultramsg", to="5491155550001", **metadata), T0)
    assert isinstance(job, VideoJob)
    assert len(json.dumps(dict(job.metadata))) < 2 * MAX_METADATA_BYTES
    assert (job.metadata["channel"], job.metadata["to"]) == ("ultramsg", "5491155550001")


def test_metadata_within_the_limit_stay_as_they_are():
    job = VideoJob.from_record("job_1", record(note="x" * (MAX_METADATA_BYTES - 100), other=[1, {"a": None}]), T0)
    assert job.metadata == {"note": "x" * (MAX_METADATA_BYTES - 100), "other": [1, {"a": None}]}


def test_a_conversation_id_of_megabytes_is_no_conversation():
    assert isinstance(VideoJob.from_record("job_1", record().replace(b'"c"', b'"' + b"c" * 5000 + b'"'), T0), Poison)


def stored(client: redis.Redis, prefix: str) -> int:
    """Count the bytes of all that stands under a prefix."""
    return sum(len(client.dump(key)) for key in client.scan_iter(match=f"{prefix}:*"))


REASON = "no " + "x" * 10_000_000


def refusing(message):
    raise RefusedError(REASON, try_text=False)


def not_sending(message):
    raise NotSentError(REASON)


@pytest.mark.parametrize(
    "channel",
    [
        lambda _: Delivered(REASON, REASON),
        lambda _: Refused(REASON, try_text=False),
        lambda _: Unknown(REASON),
        lambda _: NotSent(REASON),
        refusing,
        not_sending,
    ],
    ids=["delivered", "refused", "unknown", "not sent", "raises refused", "raises not sent"],
)
def test_a_channels_receipt_of_megabytes_is_not_stored(world, channel):
    """Once in the outbox, once in the audit trail and once in the dead letter."""
    world.api.job("job_1", Reply.completed(URL))
    with world.queue() as queue, redis.Redis.from_url(world.url) as client:
        queue.enqueue("job_1", conversation_id="c")
        with world.worker(notifier=CallbackNotifier(channel)) as worker:
            until(lambda: worker.recorder.of(events.SendTried), "it was sent")
            until(lambda: not queue.counts().in_flight, "what came of it is written")
            assert stored(client, world.prefix) < 50_000


def test_a_poller_s_reason_of_megabytes_is_not_stored(world):
    class Verbose:
        def poll(self, job, *, timeout_s):
            return VideoFailed(REASON) if job.job_id == "job_1" else VideoReady(URL, REASON, REASON)

    with world.queue() as queue, redis.Redis.from_url(world.url) as client:
        for number in (1, 2):
            queue.enqueue(f"job_{number}", conversation_id="c")
        with world.worker(poller=Verbose(), notifier=CallbackNotifier(lambda _: None)) as worker:
            until(lambda: len(worker.recorder.of(events.JobDelivered)) == 2, "both have ended")
        assert stored(client, world.prefix) < 50_000


def test_a_foreign_record_of_megabytes_is_not_copied(world):
    """Neither as an outcome nor as a dead letter."""
    keys = Keys(world.prefix)
    world.api.job("job_1", Reply.completed(URL))
    now_ms = round(dt.datetime.now(dt.UTC).timestamp() * 1000)
    with redis.Redis.from_url(world.url) as client:
        for job_id, start in (("job_1", now_ms), ("job_2", "no time")):
            fields = {"jobId": job_id, "conversationId": "c", "startTime": start, "status": "polling", "note": REASON}
            client.set(keys.job(job_id), json.dumps(fields), ex=60)
            client.lpush(keys.queue, job_id)
        with world.worker(notifier=CallbackNotifier(lambda _: Unknown("?"))) as worker, world.queue() as queue:
            until(lambda: worker.recorder.of(events.SendTried, "job_1"), "one is sent")
            until(lambda: worker.recorder.of(events.JobDeadLettered, "job_2"), "one is a dead letter")
            until(lambda: not queue.counts().in_flight, "all is written")
            letter = queue.dead_letters.get("job_2")
            assert json.loads(letter.record)["conversationId"] == "c"
            client.delete(keys.job("job_1"), keys.job("job_2"))
            assert stored(client, world.prefix) < 50_000
