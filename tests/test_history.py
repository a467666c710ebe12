"""The history in Redis: what is told of a job, what is never told, and that Redis's trouble harms no worker."""

from __future__ import annotations

import json
import math
import time
import traceback

import pytest
import redis

from kit import API_KEY, TOKEN, phone, until
from videopoll import ConfigurationError, QueueError, RedisVideoJobQueue, events
from videopoll.jobs import HistoryEvent, MessageForm, OutcomeKind
from videopoll.observations import FaultKind
from videopoll.queue import history, history_reader
from videopoll.queue.history import RedisHistory
from videopoll.queue.schema import Keys
from videopoll.testing import Reply, unused_port
from videopoll.worker import Health

SIGNED = "https://files.example/1.mp4?signature=very-secret"
PROMPT = "a private wish"
SECRET = "s3cr3t"


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def keys(prefix):
    return Keys(prefix)


@pytest.fixture
def queue(redis_url, prefix):
    with RedisVideoJobQueue.from_url(redis_url, prefix=prefix) as queue:
        yield queue


@pytest.fixture
def hook(redis_url, prefix):
    with RedisHistory(redis_url, prefix=prefix) as hook:
        yield hook


def polled(job_id="job_1", attempt=1, status="processing", fault=None, **more):
    return events.JobPolled(
        worker_id="w",
        job_id=job_id,
        attempt=attempt,
        elapsed_s=1.0,
        lag_s=0.0,
        took_s=0.1,
        status=status,
        fault=fault,
        next_s=10.0,
        **more,
    )


def test_a_job_from_its_enqueue_to_its_delivery(world, redis_url, prefix, client, keys):
    """With a fault, a failed send and secrets on its way."""
    world.api.job("job_1", Reply.processing(), Reply.processing(), Reply.fault(503), Reply.completed(SIGNED))
    metadata = {"channel": "ultramsg", "to": phone(1), "prompt": PROMPT}

    with RedisHistory(redis_url, prefix=prefix) as hook:
        with world.queue(hooks=[hook]) as queue:
            queue.enqueue("job_1", conversation_id=phone(2), metadata=metadata)
        worker = world.worker(hooks=[hook])
        with worker:
            until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")
    story = queue.history("job_1")

    assert [(entry.event, entry.details.get("status")) for entry in story] == [
        (HistoryEvent.ENQUEUED, None),
        (HistoryEvent.TAKEN, None),
        (HistoryEvent.STATUS, "processing"),
        (HistoryEvent.FAULT, None),
        (HistoryEvent.STATUS, "completed"),
        (HistoryEvent.CONCLUDED, None),
        (HistoryEvent.SENT, None),
        (HistoryEvent.DELIVERED, None),
    ]
    fault, sent = story[3], story[6]
    assert (fault.details["attempt"], fault.details["fault"], fault.details["reason"]) == (3, "server", "HTTP 503")
    assert fault.details["next_s"] > 0
    assert (sent.details["form"], sent.details["result"]) == ("video", "delivered")
    assert {entry.worker_id for entry in story[1:]} == {worker.runner.worker_id}
    assert [entry.at_ms for entry in story] == sorted(entry.at_ms for entry in story)
    assert client.xlen(keys.history) == 8
    stored = repr(client.xrange(keys.history))
    for secret in (PROMPT, phone(1), phone(2), TOKEN, API_KEY, "signature", "://"):
        assert secret not in stored


def test_foreign_texts_are_cleaned(hook, client, keys, queue):
    """The API's and the messengers' words may quote anything."""
    said = f"see https://x.example/?sig=1 token=abc123 for {phone(1)}"
    hook(polled(fault=FaultKind.SERVER, detail=said))
    hook(polled(attempt=2, status=said, known=False))
    hook(events.JobDeadLettered(job_id="job_1", reason=said))
    hook(
        events.SendTried(
            job_id="job_1",
            conversation_id="c",
            form=MessageForm.TEXT,
            attempt=1,
            result="refused",
            took_s=0.1,
            reason=said,
        )
    )
    hook(
        events.JobConcluded(
            job_id="job_1",
            conversation_id="c",
            outcome=OutcomeKind.FAILED,
            elapsed_s=1.0,
            attempts=2,
            error=said,
        )
    )
    hook.close()

    assert len(queue.history("job_1")) == 5
    stored = repr(client.xrange(keys.history))
    for secret in ("sig=1", "abc123", phone(1)):
        assert secret not in stored


def test_only_distinct_statuses_are_kept(hook, queue):
    for attempt, status in enumerate(["queued", "queued", "processing", "processing", "queued"], 1):
        hook(polled(attempt=attempt, status=status))
    hook(polled("job_2", status="queued"))
    hook.close()

    told = [(entry.details["status"], entry.details["attempt"]) for entry in queue.history("job_1")]
    assert told == [("queued", 1), ("processing", 3), ("queued", 5)]
    assert len(queue.history("job_2")) == 1


def test_a_poll_that_finds_what_the_last_one_found_costs_nothing(hook):
    """A worker makes thousands of polls a second, and the history must not slow it down."""
    hook(polled(attempt=1))
    until(lambda: not hook._heard, "the first one is taken")

    for attempt in range(2, 100):
        hook(polled(attempt=attempt))

    assert not hook._heard


def test_a_status_after_a_fault_is_told_again(hook, queue):
    """Also if both come before the first is written."""
    for event in (polled(), polled(fault=FaultKind.SERVER, detail="HTTP 503"), polled(attempt=3)):
        hook(event)
    hook.close()

    assert [entry.event for entry in queue.history("job_1")] == [
        HistoryEvent.STATUS,
        HistoryEvent.FAULT,
        HistoryEvent.STATUS,
    ]


def test_a_heartbeat_is_one_round_trip(hook, client):
    """An idle worker makes at most one a second, all in all."""
    hook.follow(Runner())
    until(lambda: client.exists(hook._keys.workers), "it beat")
    before = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    hook._next_beat_s -= history.BEAT_S

    hook._beat(Runner(), leaving=False)

    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before == 1


def test_ids_that_are_no_text_come_back_as_they_were(hook, queue):
    ghost = "gh\nost\udcff"
    hook(events.JobDeadLettered(job_id=ghost, reason="no record"))
    hook.close()

    (entry,) = queue.history(ghost)
    assert entry.job_id == ghost


def test_the_stream_is_bounded_and_has_a_time_to_live(hook, client, keys, monkeypatch, queue):
    monkeypatch.setattr(history, "MAX_ENTRIES", 200)
    for number in range(1_000):
        hook(events.JobEnqueued(job_id=f"job_{number}", conversation_id="c"))
    hook.close()

    assert client.xlen(keys.history) < 400
    assert 0 < client.ttl(keys.history) <= history.KEEP_S
    assert [entry.job_id for entry in queue.history(limit=3)] == ["job_997", "job_998", "job_999"]


def test_reading_goes_on_from_step_to_step(hook, monkeypatch, queue):
    monkeypatch.setattr(history_reader, "PAGE", 7)
    for number in range(100):
        hook(events.JobClaimed(job_id=f"job_{number % 2}", taken_over=bool(number // 2 % 2)))
    hook.close()

    assert len(queue.history("job_0")) == 50
    assert queue.history("job_9") == ()
    assert len(queue.history(limit=100)) == 100


def test_damaged_entries_are_passed_over(hook, client, keys, queue):
    client.xadd(keys.history, {"job": "job_1"})
    client.xadd(keys.history, {"job": "job_1", "step": "dancing"})
    client.xadd(keys.history, {"job": "job_1", "step": "sent", "details": "no json"})
    client.xadd(keys.history, {"job": "job_1", "step": "sent", "details": "[]", "ago": "x"})
    hook(events.JobCancelled(job_id="job_1"))
    hook.close()

    assert [entry.event for entry in queue.history("job_1")] == [HistoryEvent.CANCELLED]


def test_an_entry_that_was_written_twice_is_told_once(hook, client, keys, queue):
    """A reply that was lost leads to a second try."""
    hook(events.JobCancelled(job_id="job_1"))
    hook.close()
    ((_, fields),) = client.xrange(keys.history)
    client.xadd(keys.history, fields)

    assert len(queue.history("job_1")) == 1


def test_times_are_those_of_the_events_not_of_the_writing(hook, monkeypatch, queue):
    hook._heard.append((time.monotonic() - 30, events.JobCancelled(job_id="job_1")))
    hook(events.JobCancelled(job_id="job_2"))
    hook.close()

    (one,), (other,) = queue.history("job_1"), queue.history("job_2")
    assert other.at_ms - one.at_ms == pytest.approx(30_000, abs=1_000)


def test_without_redis_nothing_is_raised_and_what_does_not_fit_is_counted(monkeypatch, caplog):
    monkeypatch.setattr(history, "BUFFERED", 50)
    hook = RedisHistory(f"redis://127.0.0.1:{unused_port()}/0")
    began_s = time.monotonic()
    for number in range(500):
        hook(events.JobEnqueued(job_id=f"job_{number}", conversation_id="c"))
    assert time.monotonic() - began_s < 0.5
    until(lambda: "cannot reach Redis" in caplog.text, "it says so")
    hook.close()

    assert hook.dropped == 450
    assert caplog.text.count("cannot reach Redis") == 1


def test_what_happened_while_redis_refused_is_written_later(hook, client, keys, caplog, queue):
    client.set(keys.history, "not a stream", ex=60)
    hook(events.JobCancelled(job_id="job_1"))
    until(lambda: "The history is not written" in caplog.text, "it says so")
    with pytest.raises(QueueError):
        queue.history("job_1")
    client.delete(keys.history)

    assert until(lambda: queue.history("job_1"), "it is written")[0].event is HistoryEvent.CANCELLED
    assert hook.dropped == 0


def test_redis_is_not_called_back_before_it_is(caplog):
    """In the four seconds between two beats there is nothing to write, and so nothing to learn."""
    caplog.set_level("INFO")
    with RedisHistory(f"redis://127.0.0.1:{unused_port()}/0") as hook:
        hook.follow(Runner())
        until(lambda: "The history is not written" in caplog.text, "it says so")
        hook(events.WorkerStopped(worker_id="w", given_back=0))
        until(lambda: not hook._heard, "something else happened, which is no job's story")
        until(lambda: not hook._stirred.is_set(), "it was looked at")
    assert "written again" not in caplog.text


class Runner:
    """What the heartbeat is read from."""

    worker_id = "video_worker_1"
    concurrency = 16
    polls_in_hand = 3
    sends_in_hand = 1

    def health(self) -> Health:
        """Be unwell."""
        return Health(healthy=False, problems=("the video API refuses our key: check it",))


def test_a_worker_whose_history_is_refused_is_seen_to_be_alive(hook, client, keys, queue):
    """An ACL may forbid the stream, or its key be taken."""
    client.set(keys.history, "not a stream", ex=60)
    hook(events.JobCancelled(job_id="job_1"))
    hook.follow(Runner())

    (worker,) = until(queue.workers, "it beats")
    assert worker.alive


def test_copies_of_a_process_number_their_entries_apart(hook):
    """Otherwise one's entry would be taken for the other's, written twice."""
    numbers = set()
    for _ in range(2):
        hook._begin_in_child()
        hook._heard.append((time.monotonic(), events.JobCancelled(job_id="job_1")))
        hook._note_all()
        numbers.add(hook._waiting.pop().number)
    assert len(numbers) == 2


def test_a_heartbeat_with_mad_numbers_is_read(client, keys, queue):
    client.zadd(keys.workers, {"mad": int(time.time() * 1000)})
    client.hset(keys.loads, "mad", '{"started_ms":1%s,"pid":1.5,"problems":{}}' % ("0" * 400))

    (worker,) = queue.workers()
    assert (worker.started_ms, worker.pid, worker.problems) == (0, 1, ())
    client.delete(keys.workers, keys.loads)


def test_a_url_that_cannot_be_read_is_not_quoted():
    """Its pieces may be pieces of the password."""
    password = f"{SECRET}#word"
    with pytest.raises(ConfigurationError) as caught:
        RedisHistory(f"redis://user:{password}@127.0.0.1/0")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_the_heartbeat_of_a_worker(hook, client, keys, queue):
    hook.follow(Runner())

    (worker,) = until(queue.workers, "it beats")
    assert worker.alive
    assert (worker.worker_id, worker.kind, worker.concurrency) == ("video_worker_1", "sync", 16)
    assert (worker.polls_in_hand, worker.sends_in_hand) == (3, 1)
    assert worker.problems == ("the video API refuses our key: check it",)
    assert worker.version
    assert worker.pid
    assert client.ttl(keys.workers) > 0
    assert client.ttl(keys.loads) > 0

    hook.close()
    assert queue.workers() == ()
    assert not client.exists(keys.workers, keys.loads)


def test_workers_that_died_are_listed_for_a_while_and_then_removed(hook, client, keys, queue):
    now_ms = int(time.time() * 1000)
    client.zadd(keys.workers, {"dead": now_ms - 60_000, "forgotten": now_ms - 2 * history.WORKERS_KEEP_S * 1000})
    client.hset(keys.loads, mapping={"dead": "no json", "forgotten": "{}"})
    hook.follow(Runner())
    until(lambda: client.zscore(keys.workers, "video_worker_1"), "it beats")

    found = queue.workers()
    assert [(worker.worker_id, worker.alive) for worker in found] == [("video_worker_1", True), ("dead", False)]
    assert set(client.hkeys(keys.loads)) == {b"dead", b"video_worker_1"}


def test_runners_of_both_kinds_have_what_a_heartbeat_needs(world, redis_url, prefix, queue):
    with RedisHistory(redis_url, prefix=prefix) as hook, world.worker(hooks=[hook]) as worker:
        hook.follow(worker.runner)
        (info,) = until(queue.workers, "it beats")
        assert info.kind == world.kind
        assert info.worker_id == worker.runner.worker_id


def test_a_url_that_cannot_be_read_is_told_when_it_is_given():
    with pytest.raises(ConfigurationError, match="the Redis URL cannot be read"):
        RedisHistory("http://x")


def test_its_repr_names_no_password():
    assert "secret" not in repr(RedisHistory("redis://:secret@localhost/0"))


def test_details_are_json(hook, client, keys):
    hook(polled(fault=FaultKind.TIMEOUT, detail="no answer"))
    hook.close()

    ((_, fields),) = client.xrange(keys.history)
    assert json.loads(fields[b"details"])["fault"] == "timeout"


@pytest.mark.parametrize("beat_s", [1021.2443505478565, 1020.6039944999376, 1020.4924904438268])
def test_a_heartbeat_that_need_not_wait_is_made(hook, monkeypatch, beat_s):
    """`beat_s + 4 - now` may be nothing where `now - beat_s` is less than 4: the thread waited for nothing, for ever."""
    now_s = [beat_s]
    monkeypatch.setattr(history.time, "monotonic", lambda: now_s[0])
    hook._runner = Runner()
    assert hook._beat(Runner(), leaving=False)
    due_s = beat_s + history.BEAT_S
    for look_s in (math.nextafter(due_s, 0), due_s):
        now_s[0] = look_s
        waits_s = hook._idle_s()
        assert hook._beat(Runner(), leaving=False) == (waits_s == 0)
