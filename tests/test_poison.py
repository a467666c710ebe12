"""What stands in Redis and is no job: each sort becomes a dead letter, and the jobs beside it go on.

The keys are shared with other programs and with people at a ``redis-cli``.
Nothing that they leave there may stop a worker, spin it, or be swallowed.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import redis

from kit import phone, until
from videopoll import LeasePolicy, events
from videopoll.jobs import JobState
from videopoll.queue.schema import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@attrs.frozen
class Place:
    """Redis, and how to make a mess of it."""

    client: redis.Redis
    keys: Keys

    def listed(self, job_id: bytes, record: Any = None) -> None:
        """Push an id, with a record of these bytes or of this JSON."""
        if record is not None:
            raw = record if isinstance(record, bytes) else json.dumps(record).encode()
            self.client.set(self.keys.job(job_id.decode()), raw, ex=600)
        self.client.lpush(self.keys.queue, job_id)

    def scheduled(self, job_id: bytes) -> None:
        """Put an id on the schedule, due now."""
        self.client.zadd(self.keys.schedule, {job_id: 0})

    def of_type(self, name: str, job_id: str, kind: str) -> None:
        """Put a key of another type where a string belongs."""
        key = getattr(self.keys, name)(job_id)
        if kind == "list":
            self.client.rpush(key, "a")
        elif kind == "hash":
            self.client.hset(key, "a", "b")
        else:
            self.client.sadd(key, "a")
        self.client.expire(key, 600)


def record(job_id: str, **fields: Any) -> dict[str, Any]:
    """Give a record as a producer writes it, with some fields changed; None takes one away."""
    whole = {
        "jobId": job_id,
        "conversationId": "conversation-1",
        "startTime": round(time.time() * 1000),
        "status": "polling",
        "channel": "ultramsg",
        "to": phone(1),
        **fields,
    }
    return {name: value for name, value in whole.items() if value is not None}


def _wrong_type(name: str, kind: str) -> Callable[[Place, str], None]:
    def make(place: Place, job_id: str) -> None:
        place.of_type(name, job_id, kind)
        place.listed(job_id.encode(), None if name == "job" else record(job_id))

    return make


def _attempts(value: str) -> Callable[[Place, str], None]:
    def make(place: Place, job_id: str) -> None:
        place.client.set(place.keys.attempts(job_id), value, ex=600)
        place.listed(job_id.encode(), record(job_id))

    return make


def _record(raw: bytes) -> Callable[[Place, str], None]:
    return lambda place, job_id: place.listed(job_id.encode(), raw)


def _fields(**fields: Any) -> Callable[[Place, str], None]:
    return lambda place, job_id: place.listed(job_id.encode(), record(job_id, **fields))


def _outbox(raw: bytes) -> Callable[[Place, str], None]:
    def make(place: Place, job_id: str) -> None:
        place.client.set(place.keys.outbox(job_id), raw, ex=600)
        place.client.zadd(place.keys.deliveries, {job_id: 0})

    return make


def _completed(raw: bytes) -> Callable[[Place, str], None]:
    def make(place: Place, job_id: str) -> None:
        place.client.set(place.keys.completed(job_id), raw, ex=600)
        place.listed(job_id.encode(), record(job_id))

    return make


def _expired(place: Place, job_id: str) -> None:
    place.listed(job_id.encode(), record(job_id))
    place.client.delete(place.keys.job(job_id))


SORTS: dict[str, tuple[Callable[[Place, str], None], str]] = {
    "an id without a record": (lambda place, job_id: place.listed(job_id.encode()), "no record"),
    "a record that expired in the list": (_expired, "no record: it expired before its poll"),
    "a record that expired on the schedule": (lambda place, job_id: place.scheduled(job_id.encode()), "no record"),
    "a record that is no JSON": (_record(b"{not json"), "record is not JSON"),
    "an empty record": (_record(b""), "record is not JSON"),
    "a record that is no text": (_record(b"\xff\xfe\x00"), "record is not JSON"),
    "a record nested too deep": (_record(b"[" * 50_000), "record is not JSON"),
    "a record that is a list": (_record(b"[1, 2]"), "record is not a JSON object"),
    "a record that is a number": (_record(b"7"), "record is not a JSON object"),
    "a record that is null": (_record(b"null"), "record is not a JSON object"),
    "no job id": (_fields(jobId=None), "record names no job id"),
    "the id of another job": (_fields(jobId="another"), "record names no job id, or that of another job"),
    "no conversation": (_fields(conversationId=None), "record has no conversationId"),
    "a conversation that is a number": (_fields(conversationId=7), "record has no conversationId"),
    "no start": (_fields(startTime=None), "record has no startTime"),
    "a start as a string": (_fields(startTime="1757157518747"), "record has no startTime"),
    "a start that is true": (_fields(startTime=True), "record has no startTime"),
    "a start in seconds": (_fields(startTime=1_757_157_518), "startTime is not in milliseconds"),
    "a start below zero": (_fields(startTime=-(10**300)), "startTime is not in milliseconds"),
    "a start tomorrow": (_fields(startTime=round(time.time() + 86400) * 1000), "startTime is in the future"),
    "a start at the end of time": (_fields(startTime=10**300), "startTime is in the future"),
    "a start that is infinite": (_record(b'{"jobId":"x","startTime":1e999}'), "record"),
    "a start that is not a number": (_record(b'{"jobId":"x","startTime":NaN}'), "record is not JSON"),
    "a record that is a list in Redis": (_wrong_type("job", "list"), "the job key holds a list"),
    "a record that is a hash in Redis": (_wrong_type("job", "hash"), "the job key holds a hash"),
    "a lock that is a set": (_wrong_type("lock", "set"), "the lock key holds a set"),
    "a counter that is a hash": (_wrong_type("attempts", "hash"), "the attempts key holds a hash"),
    "a counter that is a word": (_attempts("many"), "the attempts key holds no number"),
    "a counter that is infinite": (_attempts("inf"), "the attempts key holds no number"),
    "a counter that is not a number": (_attempts("nan"), "the attempts key holds no number"),
    "a counter beyond any number": (_attempts("9" * 400), "the attempts key holds no number"),
    "an outbox entry that is no JSON": (_outbox(b"{"), "outbox entry is not JSON"),
    "an outbox entry of something else": (_outbox(b"{}"), "outbox entry has no record or no outcome"),
    "a delivery without an outcome": (
        lambda place, job_id: place.client.zadd(place.keys.deliveries, {job_id: 0}),
        "no record",
    ),
    "a completed record that is no JSON": (_completed(b"done"), "the completed key is not JSON"),
}
"""Each sort of poison: how it gets into Redis, and the start of the reason in its dead letter."""

HOSTILE_IDS = {
    "empty": b"",
    "no text": b"\xff\xfe-job",
    "lines": b"job\r\nERROR forged line",
    "long": b"j" * 5000,
    "dots": b"..",
    "colour": b"\x1b[31mjob",
    "spaces": b"job 1",
}
"""Ids that come from outside, in the list without a record."""


@pytest.fixture
def place(world) -> Iterator[Place]:
    """The Redis of a test, raw."""
    with redis.Redis.from_url(world.url) as client:
        yield Place(client, Keys(world.prefix))


def deliver_another(world, job_id: str, number: int) -> Callable[[], Any]:
    """Take a sound job in, and give what tells whether its user has the video."""
    with world.queue() as queue:
        queue.enqueue(
            job_id,
            conversation_id=f"conversation-{number}",
            metadata={"channel": "ultramsg", "to": phone(number)},
        )
    return lambda: world.ultramsg.inbox(phone(number))


def about_letters(caplog) -> list[logging.LogRecord]:
    return [one for one in caplog.records if "Dead letter" in one.getMessage()]


def test_each_sort_of_poison_becomes_a_dead_letter_with_its_reason(world, place, caplog):
    """A person can see what was wrong with each; and the jobs before and behind them are delivered."""
    names = {f"poison_{number}": name for number, name in enumerate(SORTS)}
    before = deliver_another(world, "job_before", 2)
    for job_id, name in names.items():
        SORTS[name][0](place, job_id)
    behind = deliver_another(world, "job_behind", 3)

    with world.worker() as worker:
        until(lambda: len(worker.recorder.of(events.JobDeadLettered)) >= len(SORTS), "all are dead letters")
        until(lambda: before() and behind(), "the sound jobs are delivered")
        after = deliver_another(world, "job_after", 4)
        until(after, "a job that comes later is delivered, too")
        until(lambda: len(worker.recorder.of(events.JobDelivered)) == 3, "they are settled")

    with world.queue() as queue:
        letters = {letter.job_id: letter for letter in queue.dead_letters.list(limit=200)}
        reasons = {names[job_id]: letter.reason for job_id, letter in letters.items()}
        wrong = {
            name: reasons.get(name)
            for name, (_, start) in SORTS.items()
            if not (reasons.get(name) or "").startswith(start)
        }
        assert not wrong
        counts = queue.counts()
        assert counts.dead == len(SORTS) == len(letters)
        assert (counts.queued, counts.scheduled, counts.in_flight, counts.deliveries) == (0, 0, 0, 0)
        assert queue.get("poison_3").state == JobState.DEAD
    told = [event.job_id for event in worker.recorder.of(events.JobDeadLettered)]
    assert sorted(told) == sorted(names), "each is counted once"
    lines = about_letters(caplog)
    assert len(lines) == len(SORTS), "each is one line"
    assert {line.levelname for line in lines} == {"ERROR"}
    assert not world.ultramsg.inbox(phone(1)), "nobody was told of a thing that is no job"
    assert not worker.recorder.of(events.RedisLost)


def test_the_letter_keeps_the_record_for_a_person_to_look_at(world, place):
    """The evidence is not thrown away with the key."""
    place.listed(b"job_1", record("job_1", startTime="yesterday", prompt="a dance"))

    with world.worker() as worker:
        until(lambda: worker.recorder.of(events.JobDeadLettered), "it is a dead letter")

    with world.queue() as queue:
        letter = queue.dead_letters.get("job_1")
    assert json.loads(letter.record)["prompt"] == "a dance"
    assert not place.client.exists(place.keys.job("job_1"))


def test_hostile_ids_become_dead_letters_and_cannot_forge_a_log_line(world, place, caplog):
    """An id comes from outside: it may be anything that Redis can hold."""
    for job_id in HOSTILE_IDS.values():
        place.listed(job_id)
    sound = deliver_another(world, "job_1", 2)

    with world.worker() as worker:
        until(lambda: len(worker.recorder.of(events.JobDeadLettered)) == len(HOSTILE_IDS), "all are dead letters")
        until(sound, "the sound job is delivered")

    assert set(place.client.zrange(place.keys.dead, 0, -1)) == set(HOSTILE_IDS.values())
    lines = [line.getMessage() for line in about_letters(caplog)]
    assert len(lines) == len(HOSTILE_IDS)
    assert all(line.isprintable() for line in lines)
    assert all(len(line) < 500 for line in lines)
    assert place.client.llen(place.keys.queue) == 0


def test_poison_in_a_dead_workers_lease_becomes_a_dead_letter(world, place):
    """The way in by an expired lease has the same guards as the list."""
    place.client.zadd(place.keys.inflight, {"job_gone": 1, "job_odd": 1})
    place.client.hset(place.keys.leases, mapping={"job_gone": "a-dead-worker:1", "job_odd": "a-dead-worker:1"})
    place.client.set(place.keys.job("job_odd"), "{", ex=600)
    place.client.hset(place.keys.faults, "job_odd", "nan:-")

    with world.worker() as worker:
        until(lambda: len(worker.recorder.of(events.JobDeadLettered)) == 2, "both are dead letters")

    assert place.client.hlen(place.keys.leases) == place.client.hlen(place.keys.faults) == 0


def test_a_damaged_note_of_faults_does_not_stop_a_sound_job(world, place):
    """What cannot be read there is as good as not there."""
    sound = deliver_another(world, "job_1", 2)
    place.client.hset(place.keys.faults, "job_1", b"\xff:inf")

    with world.worker():
        until(sound, "it is delivered")


def test_absurd_scores_do_not_stop_the_schedule(world, place):
    """A person at a redis-cli can write any number."""
    sound = deliver_another(world, "job_1", 2)
    place.client.zadd(place.keys.schedule, {"job_minus": "-inf", "job_far": "inf"})
    place.client.zadd(place.keys.deliveries, {"job_minus_too": "-inf", "job_far_too": "inf"})

    with world.worker() as worker:
        until(sound, "the sound job is delivered")
        until(lambda: len(worker.recorder.of(events.JobDeadLettered)) == 2, "what is due is a dead letter")

    place.client.delete(place.keys.schedule, place.keys.deliveries)


@pytest.mark.parametrize("name", ["queue", "schedule", "inflight", "leases", "faults", "deliveries"])
@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
def test_a_shared_key_of_the_wrong_type_is_told_once_and_waited_out(world, place, caplog, name):
    """Without it nothing can go on: the operator is told what it is, and nobody has to restart the worker then."""
    key = getattr(place.keys, name)
    sound = deliver_another(world, "job_1", 2)
    kept = place.client.dump(key) if name == "queue" else None
    place.client.delete(key)
    place.client.set(key, "not what belongs here", ex=600)

    with world.worker(lease=LeasePolicy.lasting(1.0)) as worker:
        until(lambda: worker.recorder.of(events.RedisLost), "the loss is told")
        assert not worker.runner.health().healthy
        assert "WRONGTYPE" in worker.recorder.of(events.RedisLost)[0].reason
        place.client.delete(key)
        if kept is not None:
            place.client.restore(key, 0, kept)
        until(sound, "the job is delivered")
        until(lambda: worker.runner.health().healthy, "the worker is well again")

    assert len([one for one in caplog.records if "cannot be used" in one.getMessage()]) == 1
    assert not worker.recorder.of(events.JobDeadLettered)


def test_poison_does_not_keep_an_idle_worker_busy(world, place):
    """An id that stayed in the list would ring the bell for ever."""
    for number in range(20):
        place.listed(b"poison", None if number % 2 else b"{")

    with world.worker() as worker:
        until(lambda: worker.recorder.of(events.JobDeadLettered), "it is a dead letter")
        until(lambda: place.client.llen(place.keys.queue) == 0, "the list is empty")
        until(worker.runner._listening.is_set, "the worker is idle")
        place.client.config_resetstat()
        until_s = time.monotonic() + 0.6
        until(lambda: time.monotonic() > until_s, "a while has passed")
        calls = place.client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)

    assert calls <= 3
