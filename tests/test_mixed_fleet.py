"""Both deployments on one Redis: their producers and workers beside ours, in every combination.

`foreign` plays the other deployment, command for command. What is checked is
what users see: one message each, whoever took the job in and whoever polled it.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import redis

from kit import FAST, QUICK, phone, until
from kit.foreign import ForeignProducer, ForeignWorker, Pace
from videopoll import (
    AsyncRedisVideoJobQueue,
    LeasePolicy,
    RedisVideoJobQueue,
    events,
)
from videopoll.jobs import JobState
from videopoll.jobs.views import CancelResult, EnqueueResult
from videopoll.policies import KeyTtls
from videopoll.testing import Reply
from videopoll.worker import upkeep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kit import Worker, World

BRISK = LeasePolicy.lasting(1.5)


class Fleet:
    """Jobs of both kinds of producers, and whoever works on them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client = redis.Redis.from_url(world.url, decode_responses=True)
        self.users: dict[str, str] = {}
        self.closing = contextlib.ExitStack()
        self.closing.callback(self.client.close)
        self.producer = self.closing.enter_context(ForeignProducer(world))
        self.queue = self.closing.enter_context(world.queue())

    def user(self, job_id: str) -> dict[str, Any]:
        """Give a job a user of its own: what a producer says of it."""
        number = len(self.users) + 1
        self.users[job_id] = phone(number)
        return {
            "conversation_id": f"conversation-{number}",
            "metadata": {"channel": "ultramsg", "to": phone(number)},
        }

    def theirs(self, *job_ids: str) -> None:
        """Take jobs in by the foreign producer."""
        for job_id in job_ids:
            self.producer.enqueue(job_id, **self.user(job_id))

    def ours(self, *job_ids: str) -> None:
        """Take jobs in by our queue."""
        for job_id in job_ids:
            self.queue.enqueue(job_id, **self.user(job_id))

    def foreign(self, **pace: Any) -> ForeignWorker:
        """Build a foreign worker; it is ended with the test."""
        worker = ForeignWorker(self.world, Pace.scaled(**pace))
        self.closing.callback(worker.crash)
        return worker

    def own(self, **options: Any) -> Worker:
        """Build a worker of ours that knows of the others."""
        options.setdefault("lease", BRISK)
        return self.world.worker(foreign_workers=True, **options)

    def messages(self, job_id: str) -> list[Any]:
        """Give what the user of a job got."""
        return self.world.ultramsg.inbox(self.users[job_id])

    def all_told(self, timeout_s: float = 30.0) -> None:
        """Wait until every user has a message and every record is gone, and check that nobody got two."""
        until(lambda: all(map(self.messages, self.users)), "every user has a message", timeout_s)
        until(lambda: not self.keys("job:*") and not self.keys("poll:outbox:*"), "every job has ended", timeout_s)
        until(lambda: not self.keys("poll:inflight"), "nothing is in flight", timeout_s)
        assert self.told() == dict.fromkeys(self.users, 1)

    def told(self) -> dict[str, int]:
        """Count each user's messages."""
        return {job_id: len(self.messages(job_id)) for job_id in self.users}

    def keys(self, pattern: str) -> list[str]:
        """Give the keys of a pattern."""
        return list(self.client.scan_iter(match=f"{self.world.prefix}:{pattern}", count=1000))

    def key(self, name: str, job_id: str) -> str:
        """Name one key of a job."""
        return f"{self.world.prefix}:{name}:{job_id}"

    def put(self, key: str, ttl_s: int, value: str | int) -> None:
        """Write a key behind everybody's back."""
        self.client.set(key, value, ex=ttl_s)

    @property
    def list(self) -> str:
        """Name the list of ids."""
        return f"{self.world.prefix}:poll:queue"


@pytest.fixture
def fleet(world) -> Iterator[Fleet]:
    """Both deployments on one Redis; workers of theirs end before those of ours."""
    fleet = Fleet(world)
    with fleet.closing:
        yield fleet


@pytest.fixture
def quick_sweeps(monkeypatch):
    """Jobs that other workers lost are looked for at once, instead of after 90 s, every 30 s."""
    monkeypatch.setattr(upkeep, "FOREIGN_IDLE_S", 1.0)
    monkeypatch.setattr(upkeep, "SWEEP_EVERY_S", 0.3)
    monkeypatch.setattr(upkeep, "SWEEP_SLOWLY_EVERY_S", 0.3)


on_one_server = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
"""The kind of server makes no difference to these."""


def names(count: int, start: str = "job") -> list[str]:
    return [f"{start}_{number}" for number in range(count)]


def ready_after(seconds: float) -> Reply:
    """Give a poll that takes so long, and finds the video finished."""
    return attrs.evolve(Reply.completed(), delay_s=seconds)


# --- the four combinations ----------------------------------------------------------------------


def test_jobs_of_their_producer_are_delivered_by_our_worker(fleet):
    """The first step of a migration: the workers are replaced, the web servers are not yet."""
    fleet.theirs(*names(10))

    with fleet.own() as worker:
        fleet.all_told()

    assert len(worker.recorder.of(events.JobDelivered)) == 10
    assert not worker.recorder.of(events.JobDeadLettered)
    told = json.loads(fleet.client.get(fleet.key("completed", "job_3")))
    assert (told["success"], told["delivered"]) == (True, True)


def test_jobs_of_our_producer_are_delivered_by_their_worker(fleet):
    """The other first step: the web servers are replaced, the workers are not yet."""
    fleet.ours(*names(10))

    with fleet.foreign() as worker:
        until(lambda: len(worker.sent) == 10, "all are sent")
        fleet.all_told()

    view = fleet.queue.get("job_3")
    assert (view.state, view.outcome.success) == (JobState.SETTLED, True)
    # (Their list may hold an id once more, from a timer of theirs: they find no record, and skip it.)
    assert fleet.queue.counts().scheduled == fleet.queue.counts().in_flight == 0


def test_both_workers_share_the_jobs_of_both_producers_and_neither_starves(fleet):
    """The middle of a migration: each user gets one message, and both kinds do their part of the work."""
    jobs = names(60)
    for job_id in jobs:
        fleet.world.api.job(job_id, ready_after_polls=2)
    with fleet.foreign() as theirs, fleet.foreign() as more_of_theirs, fleet.own() as ours:
        for number, job_id in enumerate(jobs):
            (fleet.theirs, fleet.ours)[number % 2](job_id)
        fleet.all_told(40)

    polls = Counter(
        theirs=len(theirs.polled) + len(more_of_theirs.polled), ours=len(ours.recorder.of(events.JobPolled))
    )
    assert min(polls.values()) >= polls.total() // 10, polls
    assert not ours.recorder.of(events.JobDeadLettered)
    assert max(len(fleet.world.api.polls(job_id)) for job_id in jobs) <= 4


@pytest.mark.parametrize("point", ["after_pop", "after_lock", "after_poll", "after_completed"])
@on_one_server
def test_a_job_that_a_crashed_foreign_worker_held_is_swept_up(fleet, quick_sweeps, point):
    """Their crash loses a job, as it stands nowhere but in its record; a worker of ours finds it, and goes on."""
    foreign = fleet.foreign(lock_s=1).crash_at(point)
    fleet.theirs("job_0")

    with foreign:
        until(lambda: foreign.crashed, "their worker has crashed")
    with fleet.own():
        fleet.theirs("job_1")
        fleet.all_told()


@on_one_server
def test_jobs_in_the_timers_of_a_crashed_foreign_worker_are_swept_up(fleet, quick_sweeps):
    """Between two polls a job of theirs is in their memory only, without a lock: with the process it is gone."""
    jobs = names(8)
    for job_id in jobs:
        fleet.world.api.job(job_id, ready_after_polls=2)

    with fleet.foreign(interval_s=60, lock_s=1).crash_at("after_poll", nth=8) as foreign:
        assert foreign.recovered.wait(10)
        fleet.theirs(*jobs)
        until(lambda: foreign.crashed, "they have polled each once")
    assert fleet.client.llen(fleet.list) == 0
    with fleet.own() as worker:
        fleet.all_told()

    assert sum(event.count for event in worker.recorder.of(events.JobsRecovered)) == 8
    assert {event.attempt for event in worker.recorder.of(events.JobPolled)} == {2, 3}


@on_one_server
def test_a_job_that_their_producer_never_pushed_is_swept_up(fleet, quick_sweeps):
    """Their web server can die in the 5 s between the record and the push."""
    fleet.producer.store("job_0", **fleet.user("job_0"))

    with fleet.own():
        fleet.all_told()


@on_one_server
def test_jobs_that_their_producer_never_pushed_are_found_without_the_flag_too(fleet, quick_sweeps):
    """Their web servers may stay when their workers are gone, and be restarted in the 5 s at any time."""
    with fleet.world.worker(lease=BRISK) as worker:
        fleet.ours("job_0")
        until(lambda: worker.recorder.of(events.JobDelivered), "it works, and has looked for lost jobs at its start")
        for job_id in names(8, "lost"):
            fleet.producer.store(job_id, **fleet.user(job_id))
        fleet.all_told()

    assert sum(event.count for event in worker.recorder.of(events.JobsRecovered)) == 8
    assert not worker.recorder.of(events.JobDeadLettered)


@on_one_server
def test_without_the_flag_too_a_job_in_their_memory_is_left_alone_after_the_start(fleet, quick_sweeps, monkeypatch):
    """Somebody has polled it lately: only what nobody has polled for long is lost."""
    monkeypatch.setattr(upkeep, "FOREIGN_IDLE_S", 90.0)
    with fleet.world.worker(lease=BRISK) as worker:
        fleet.ours("job_0")
        until(lambda: worker.recorder.of(events.JobDelivered), "it has looked for lost jobs at its start")
        fleet.put(fleet.key("attempts", "theirs"), 600, 3)
        fleet.producer.store("theirs", **fleet.user("theirs"))
        scans = _scans(fleet)
        until(lambda: _scans(fleet) >= scans + 3, "it has looked again")

    assert not fleet.world.api.polls("theirs")


@on_one_server
def test_looking_for_lost_jobs_can_be_turned_off(fleet, quick_sweeps):
    """On a Redis with very many other keys, and nobody of another kind."""
    fleet.client.config_resetstat()
    with fleet.world.worker(lease=BRISK, recover=False) as worker:
        for job_id in names(5):
            fleet.ours(job_id)
            until(lambda: worker.recorder.of(events.JobDelivered, job_id), "it works")  # noqa: B023 - called at once

    assert _scans(fleet) == 0


def _scans(fleet) -> int:
    return fleet.client.info("commandstats").get("cmdstat_scan", {}).get("calls", 0)


# --- locks and counters -------------------------------------------------------------------------


@on_one_server
def test_attempts_are_counted_together(fleet):
    """The limit of 30 polls is one for both kinds, also when a job changes hands half-way."""
    fleet.world.api.job("job_0", Reply.processing())
    with fleet.foreign(lock_s=1).crash_at("after_poll", nth=3) as foreign:
        assert foreign.recovered.wait(10)
        fleet.theirs("job_0")
        until(lambda: foreign.crashed, "they have polled it three times")
    fleet.producer.push("job_0")

    with fleet.own(strategy=attrs.evolve(FAST, max_attempts=6)) as worker:
        fleet.all_told()

    assert [event.attempt for event in worker.recorder.of(events.JobPolled)] == [4, 5, 6]
    assert worker.recorder.of(events.JobConcluded)[0].outcome == "attempts_exhausted"
    assert len(fleet.world.api.polls("job_0")) == 6


@on_one_server
def test_their_worker_goes_on_with_our_count(fleet):
    """The other way round."""
    fleet.world.api.job("job_0", Reply.processing())
    fleet.ours("job_0")
    worker = fleet.own().start()
    until(lambda: len(worker.recorder.of(events.JobPolled)) == 3, "we have polled it three times")
    worker.stop()

    with fleet.foreign(max_attempts=6) as foreign:
        fleet.producer.push("job_0")
        fleet.all_told()

    counted = len(worker.recorder.of(events.JobPolled))
    assert foreign.polls("job_0") == 6 - counted


@on_one_server
def test_a_job_under_their_lock_is_left_alone_until_that_lock_ends(fleet):
    """A foreign worker that holds the lock is polling the job: a second poll could double the message."""
    locked = time.monotonic()
    fleet.client.set(fleet.key("lock", "job_0"), "video_worker_7_abcde", px=1200)
    fleet.ours("job_0")

    with fleet.own():
        fleet.ours("job_1")
        fleet.all_told()

    assert fleet.world.api.polls("job_0")[0] - locked >= 1.2


@on_one_server
@pytest.mark.parametrize("point", ["after_lock", "after_poll"])
def test_a_job_under_the_lock_that_their_end_left_is_found_by_a_worker_that_knows_nothing_of_them(fleet, point):
    """Without the flag lost jobs are looked for at the start: those under a lock wait for its end, and are not passed over."""
    with fleet.foreign(lock_s=3).crash_at(point) as foreign:
        assert foreign.recovered.wait(10)
        fleet.theirs("job_0")
        until(lambda: foreign.crashed, "their worker has ended")

    with fleet.world.worker(lease=BRISK) as worker:
        until(lambda: worker.recorder.of(events.JobsRecovered), "it is found")
        fleet.all_told()


@on_one_server
def test_a_lock_of_theirs_without_an_end_gets_one(fleet):
    """A copy of a key that lost its time to live would keep its job from both kinds of workers for ever."""
    fleet.client.set(fleet.key("lock", "job_0"), "video_worker_7_abcde")
    fleet.client.set(fleet.key("lock", "job_1"), "video_worker_7_abcde")
    fleet.ours("job_0")
    fleet.producer.store("job_1", **fleet.user("job_1"))

    with fleet.world.worker(lease=BRISK, queue_options={"ttls": KeyTtls(lock_s=1)}):
        fleet.all_told()


@on_one_server
def test_their_worker_drops_an_id_that_we_are_polling(fleet):
    """Our lock is one that they respect: the id that they push at their start comes to nothing."""
    fleet.world.api.job("job_0", ready_after(1.0))
    fleet.ours("job_0")

    with fleet.own():
        until(lambda: fleet.world.api.polls("job_0"), "we are polling it")
        with fleet.foreign() as foreign:
            # Our own worker may be faster to the list, and takes the id of a job that it holds off it.
            until(lambda: foreign.popped or fleet.producer.push("job_0"), "they have popped it")
            fleet.all_told()

    assert "job_0" in foreign.dropped
    assert foreign.polls("job_0") == 0


@on_one_server
def test_our_lock_stays_while_a_poll_takes_longer_than_the_lock_lives(fleet):
    """The lock is renewed with the lease: their `SET NX` fails as long as we work."""
    fleet.world.api.job("job_0", ready_after(2.5))
    fleet.ours("job_0")
    ttls = KeyTtls(lock_s=1)

    with fleet.own(queue_options={"ttls": ttls}, lease=LeasePolicy.lasting(0.9)):
        until(lambda: fleet.world.api.polls("job_0"), "we are polling it")
        with fleet.foreign() as foreign:
            until(lambda: _age_s(fleet, "job_0") > 1.8, "the lock would have ended")
            before = len(foreign.popped)
            until(lambda: len(foreign.popped) > before or fleet.producer.push("job_0"), "they have popped it again")
            fleet.all_told()

    assert "job_0" in foreign.dropped
    assert foreign.polls("job_0") == 0


def _age_s(fleet, job_id: str) -> float:
    return time.monotonic() - fleet.world.api.polls(job_id)[0]


# --- what they do to us -------------------------------------------------------------------------


@on_one_server
def test_an_id_that_they_push_at_their_start_is_not_polled_twice_as_often(fleet):
    """Their restart pushes every job that we have on the schedule: its polls must not come from both kinds for good."""
    interval_s = 0.6
    fleet.world.api.job("job_0", Reply.processing())
    fleet.ours("job_0")

    with fleet.own(strategy=attrs.evolve(FAST, interval_s=interval_s)) as worker:
        until(lambda: worker.recorder.of(events.JobPolled), "we poll it")
        with fleet.foreign(interval_s=interval_s) as foreign:
            assert foreign.recovered.wait(10)
            until(lambda: _taken_up_by(foreign) or _push_alone(fleet), "they poll it, too")
            before, began = _polls(fleet), time.monotonic()
            until(lambda: _polls(fleet) >= before + 6, "it has been polled six times more")
            took_s = time.monotonic() - began

    assert took_s > 4 * interval_s


def _taken_up_by(foreign) -> bool:
    with contextlib.suppress(AssertionError):
        until(lambda: foreign.polls("job_0"), "they poll it", 0.2)
    return foreign.polls("job_0") > 0


def _push_alone(fleet) -> None:
    """Push the id if it is not in the list: an id that they find twice they poll twice as often all by themselves."""
    if not fleet.client.llen(fleet.list):
        fleet.producer.push("job_0")


def _polls(fleet) -> int:
    return len(fleet.world.api.polls("job_0"))


@on_one_server
def test_videos_that_are_enqueued_again_while_they_poll_them_are_not_called_failed(fleet, twin, call):
    """A second id in the list would start a second chain of polls, and both would use up the attempts that they share."""
    jobs = names(8)
    users = {job_id: fleet.user(job_id) for job_id in jobs}
    for job_id in jobs:
        fleet.world.api.job(job_id, ready_after_s=4.0)

    # One chain makes some 8 polls in 4 s, of which a pair makes twice as many.
    with fleet.foreign(interval_s=0.5, max_attempts=12, timeout_s=60.0) as foreign:
        assert foreign.recovered.wait(10)
        for job_id in jobs:
            call(twin.enqueue(job_id, **users[job_id]))
        until(lambda: all(map(foreign.polls, jobs)), "they poll each")
        for _ in range(3):
            again = [call(twin.enqueue(job_id, **users[job_id])) for job_id in jobs]
            assert again == [EnqueueResult.KNOWN] * len(jobs)
        until(lambda: len(foreign.sent) == len(jobs), "all have ended", 60)

    assert {job_id: fleet.queue.get(job_id).outcome.kind for job_id in jobs} == dict.fromkeys(jobs, "completed")
    assert fleet.told() == dict.fromkeys(jobs, 1)
    assert max(map(foreign.polls, jobs)) <= 10


@on_one_server
def test_an_id_that_is_pushed_twice_while_we_have_it_is_one_job(fleet):
    """Pushed ids that we hold leave the list, or every idle worker would spin on them."""
    fleet.world.api.job("job_0", ready_after(0.8))
    fleet.ours("job_0")

    with fleet.own() as worker:
        until(lambda: fleet.world.api.polls("job_0"), "we are polling it")
        for _ in range(3):
            fleet.producer.push("job_0")
        until(lambda: fleet.client.llen(fleet.list) == 0, "the list is empty")
        fleet.all_told()

    assert len(worker.recorder.of(events.JobPolled)) == 1


@on_one_server
@pytest.mark.parametrize(("ours_s", "theirs_s"), [(1.2, 0.2), (0.6, 1.2)], ids=["theirs ends first", "ours ends first"])
def test_a_lock_of_ours_that_they_deleted_mid_poll_doubles_nothing(fleet, ours_s, theirs_s):
    """They delete locks blindly; then both kinds poll one job at once, and only one of them may tell the user."""
    fleet.world.api.job("job_0", ready_after(ours_s), ready_after(theirs_s))
    fleet.ours("job_0")

    # With a long lease, as its renewal would set the lock again.
    with fleet.own(lease=LeasePolicy.lasting(30)) as worker:
        until(lambda: fleet.world.api.polls("job_0"), "we are polling it")
        fleet.client.delete(fleet.key("lock", "job_0"))
        with fleet.foreign() as foreign:
            # Our own worker may be faster to the list, and takes the id of a job that it holds off it.
            until(lambda: foreign.polls("job_0") or fleet.producer.push("job_0"), "they poll it, too")
            fleet.all_told()

    assert foreign.sent == ["job_0"]
    assert not worker.recorder.of(events.JobDelivered)
    assert not worker.recorder.of(events.JobDeadLettered)


@on_one_server
def test_an_id_whose_job_somebody_else_finished_is_no_dead_letter(fleet, caplog):
    """Without a record but with its completed record, it was finished elsewhere: nobody has to look at it."""
    fleet.put(fleet.key("completed", "job_0"), 7200, json.dumps({"success": True, "jobId": "job_0"}))
    fleet.producer.push("job_0")

    with fleet.own() as worker:
        until(lambda: fleet.client.llen(fleet.list) == 0, "the list is empty")
        until(lambda: fleet.queue.counts().in_flight == 0, "it is out of hand")

    assert fleet.queue.counts().dead == 0
    assert not worker.recorder.of(events.JobDeadLettered)
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]
    assert fleet.client.ttl(fleet.key("completed", "job_0")) > 7000, "the audit trail stays"


def _left_around_the_send(fleet) -> None:
    """Leave a job as a foreign worker does that dies around its send."""
    fleet.producer.store("job_0", **fleet.user("job_0"))
    written = {"success": True, "videoUrl": "https://files.example/0.mp4", "fileId": "f", "jobId": "job_0"}
    completed = {**written, "completedAt": round(time.time() * 1000), "processingTime": 1000, "timestamp": None}
    fleet.put(fleet.key("completed", "job_0"), 7200, json.dumps(completed))
    fleet.put(fleet.key("attempts", "job_0"), 600, 2)


@on_one_server
def test_a_send_that_their_crash_left_open_is_made_again_by_default(fleet):
    """Record and completed record are both there, and no lock: at least once is the default."""
    _left_around_the_send(fleet)
    fleet.producer.push("job_0")

    with fleet.own() as worker:
        fleet.all_told()

    (message,) = fleet.messages("job_0")
    assert message.video == "https://files.example/0.mp4"
    assert not worker.recorder.of(events.JobPolled), "the video was known: nothing to poll"


@on_one_server
def test_a_send_that_their_crash_left_open_becomes_a_dead_letter_if_the_host_wants_that(fleet):
    """At most once: a person looks, and can redrive it, as the letter has the video."""
    _left_around_the_send(fleet)
    fleet.producer.push("job_0")

    with fleet.own(delivery=attrs.evolve(QUICK, on_unknown="at_most_once")) as worker:
        until(lambda: worker.recorder.of(events.JobDeadLettered), "it is a dead letter")

    assert fleet.told() == {"job_0": 0}
    letter = fleet.queue.dead_letters.get("job_0")
    assert "another worker died around the send" in letter.reason
    assert letter.entry.outcome.video_url == "https://files.example/0.mp4"


@on_one_server
def test_a_crash_of_theirs_after_the_send_is_told_apart_by_the_host_only(fleet, quick_sweeps):
    """They send without a reference, so nobody can ask: at most once keeps the user from a second message."""
    foreign = fleet.foreign(lock_s=1).crash_at("after_send")
    fleet.theirs("job_0")
    with foreign:
        until(lambda: foreign.crashed, "they have sent, and crashed")
    assert fleet.told() == {"job_0": 1}

    with fleet.own(delivery=attrs.evolve(QUICK, on_unknown="at_most_once")) as worker:
        until(lambda: worker.recorder.of(events.JobDeadLettered), "it is a dead letter")

    assert fleet.told() == {"job_0": 1}


@on_one_server
def test_a_stop_of_theirs_in_the_middle_of_a_send_can_double_the_message_by_default(fleet, quick_sweeps):
    """What cannot be kept: the message may have gone out, and they left nothing by which a channel could be asked. The docs say so."""
    foreign = fleet.foreign(lock_s=1).crash_at("after_send")
    fleet.theirs("job_0")
    with foreign:
        until(lambda: foreign.crashed, "they have sent, and stopped")

    with fleet.own():
        until(lambda: fleet.told() == {"job_0": 2}, "we have sent it again")
        until(lambda: not fleet.keys("job:*") and not fleet.keys("poll:outbox:*"), "it has ended")


@on_one_server
def test_a_send_of_theirs_under_way_is_not_taken_for_a_crash(fleet, quick_sweeps):
    """While they hold the lock, record and completed record are both there for an honest reason."""
    go_on = threading.Event()
    foreign = fleet.foreign().at("after_completed", lambda _: go_on.wait(10))
    fleet.theirs("job_0")

    with foreign:
        until(lambda: fleet.keys("completed:job_0"), "they have begun to send")
        with fleet.own() as worker:
            fleet.producer.push("job_0")
            until(lambda: fleet.client.llen(fleet.list) == 0, "we have seen the id")
            until(lambda: fleet.queue.get("job_0").due_ms, "we look at it again when their lock ends")
            go_on.set()
            until(lambda: foreign.sent, "they have sent it")

    assert fleet.told() == {"job_0": 1}
    assert not worker.recorder.of(events.JobPolled)


@on_one_server
def test_their_timeout_notice_during_our_poll_is_the_only_one(fleet):
    """Their start ends jobs older than the timeout without asking; ours, mid-poll, then keeps quiet."""
    fleet.world.api.job("job_0", ready_after(1.0))
    fleet.producer.store("job_0", **fleet.user("job_0"), age_s=19.0)
    fleet.producer.push("job_0")

    with fleet.own() as worker:
        until(lambda: fleet.world.api.polls("job_0"), "we are polling it")
        with fleet.foreign(timeout_s=5.0) as foreign:
            until(lambda: foreign.sent, "they have told the user")
            fleet.all_told()
            until(lambda: fleet.queue.counts().in_flight == 0, "it is out of our hands")

    assert not worker.recorder.of(events.JobConcluded)


@on_one_server
def test_their_timeout_notice_can_double_ours_when_both_come_at_once(fleet):
    """What cannot be kept: they tell the user first and write it down later, and take no lock for that.

    A job past its timeout, a restart of theirs, and an end of ours between their
    look at the record and their write: then the user hears of it twice. Nothing
    that we could check would show it. The docs say so.
    """
    told, go_on = threading.Event(), threading.Event()
    fleet.world.api.job("job_0", Reply.processing())
    fleet.producer.store("job_0", **fleet.user("job_0"), age_s=300.0)

    foreign = fleet.foreign().at("after_recovered_notice", lambda _: (told.set(), go_on.wait(10)))
    with foreign:
        assert told.wait(10)
        fleet.producer.push("job_0")
        with fleet.own() as worker:
            until(lambda: worker.recorder.of(events.JobDelivered), "we have told the user, too")
        go_on.set()
        until(lambda: "delivered" not in fleet.client.get(fleet.key("completed", "job_0")), "they write it down")

    assert fleet.told() == {"job_0": 2}


@pytest.mark.parametrize("pushed", [True, False], ids=["pushed", "not pushed"])
@on_one_server
def test_a_record_that_their_producer_writes_late_is_told_once(fleet, quick_sweeps, pushed):
    """Two web servers took the same job in: the one's worker has told the user before the other has stored its record."""
    user = fleet.user("job_0")
    with fleet.own() as worker:
        fleet.queue.enqueue("job_0", **user)
        until(lambda: worker.recorder.of(events.JobDelivered), "we have told the user")
        fleet.producer.store("job_0", **user, age_s=100.0)
        if pushed:
            fleet.producer.push("job_0")
        else:
            fleet.client.expire(fleet.key("job", "job_0"), 500)
        until(lambda: not fleet.keys("job:*"), "it is cleared away")
        fleet.all_told()

    assert not worker.recorder.of(events.JobDeadLettered)
    assert json.loads(fleet.client.get(fleet.key("completed", "job_0")))["delivered"] is True


# --- cancelling ---------------------------------------------------------------------------------


@on_one_server
@pytest.mark.parametrize("point", ["after_lock", "after_poll", "after_completed"])
def test_a_job_that_they_have_in_hand_is_not_called_cancelled(fleet, twin, call, point):
    """They would send its outcome all the same: who cancels has to know that."""
    there, go_on = threading.Event(), threading.Event()
    fleet.world.api.job("job_0", Reply.completed())

    with fleet.foreign().at(point, lambda _: (there.set(), go_on.wait(20))) as foreign:
        assert foreign.recovered.wait(10)
        fleet.theirs("job_0")
        assert there.wait(10)
        results = [call(twin.cancel("job_0", notify=notify)) for notify in (False, True)]
        go_on.set()
        until(lambda: foreign.sent, "they have sent it")
        fleet.all_told()

    assert results == [CancelResult.SENDING] * 2
    view = fleet.queue.get("job_0")
    assert (view.state, view.outcome.kind) == (JobState.SETTLED, "completed")
    assert view.outcome.video_url, "its URL is still known"


@on_one_server
def test_a_job_in_their_memory_is_cancelled_for_good(fleet, twin, call):
    """Between two polls nothing can be on its way: they find no record, and skip the id."""
    fleet.world.api.job("job_0", Reply.processing(), Reply.completed())

    with fleet.foreign(interval_s=1.0) as foreign:
        assert foreign.recovered.wait(10)
        fleet.theirs("job_0")
        until(lambda: foreign.polls("job_0") and not fleet.keys("lock:*"), "they have polled it")
        until(lambda: call(twin.cancel("job_0")) is CancelResult.CANCELLED, "it is cancelled")
        popped = len(foreign.popped)
        until(lambda: len(foreign.popped) > popped, "their timer has brought it back")
        fleet.theirs("job_1")
        until(lambda: fleet.messages("job_1"), "they go on")

    assert foreign.polls("job_0") == 1
    assert not fleet.messages("job_0")


@on_one_server
def test_a_job_whose_send_their_crash_left_open_is_not_called_cancelled(fleet, twin, call):
    """Its user may have the video. A worker of ours goes on with it, and its URL is not lost."""
    _left_around_the_send(fleet)
    fleet.producer.push("job_0")

    assert call(twin.cancel("job_0", notify=True)) is CancelResult.SENDING

    with fleet.own():
        fleet.all_told()
    assert fleet.messages("job_0")[0].video == "https://files.example/0.mp4"


# --- the way back ------------------------------------------------------------------------------


def test_jobs_that_we_leave_are_handed_back_and_leave_nothing_of_ours(fleet, twin, call):
    """After a stop, jobs stand where they do not look; handed back, each is told once, and none makes a false dead letter."""
    jobs = names(40)
    for job_id in jobs:
        fleet.world.api.job(job_id, ready_after_polls=3)
    patient = attrs.evolve(FAST, interval_s=15.0)

    with fleet.foreign(interval_s=0.5) as foreign:
        assert foreign.recovered.wait(10)
        ours = fleet.own(strategy=patient).start()
        fleet.ours(*jobs)
        until(lambda: fleet.queue.counts().scheduled >= 8, "some wait for our next poll")
        ours.stop()
        left = fleet.queue.counts().scheduled
        assert left, "they do not find these"

        until(lambda: call(twin.hand_back()).complete, "all are handed back")
        fleet.all_told()

    assert not fleet.keys("poll:schedule") + fleet.keys("poll:faults") + fleet.keys("poll:leases")
    for key in fleet.keys("completed:*"):
        fleet.client.delete(key)  # as two hours later
    with fleet.own() as back:
        fleet.ours("job_40")
        until(lambda: back.recorder.of(events.JobDelivered, "job_40"), "a worker of ours is back")
    assert not back.recorder.of(events.JobDeadLettered)
    assert not ours.recorder.of(events.JobDeadLettered)


@on_one_server
def test_a_worker_that_takes_no_new_jobs_finishes_what_it_has(fleet):
    """The other way back: theirs take what comes in, ours end what they have begun, and are not woken by the list."""
    fleet.world.api.job("job_0", ready_after_polls=3)
    fleet.ours("job_0")
    first = fleet.own().start()
    until(lambda: first.recorder.of(events.JobPolled), "we have begun it")
    first.stop()
    if fleet.client.lrem(fleet.list, 0, "job_0"):  # given back in the middle of a poll
        fleet.client.zadd(f"{fleet.world.prefix}:poll:schedule", {"job_0": 1})

    with fleet.own(take_new=False) as last:
        fleet.ours("job_1")
        fleet.producer.store("lost", **fleet.user("lost"))
        fleet.client.config_resetstat()
        until(lambda: last.recorder.of(events.JobDelivered, "job_0"), "it ends what is scheduled")
    assert fleet.client.lrange(fleet.list, 0, -1) == ["job_1"]
    stats = fleet.client.info("commandstats")
    assert "cmdstat_blmove" not in stats
    assert "cmdstat_scan" not in stats
    fleet.client.delete(fleet.key("job", "lost"))
    del fleet.users["lost"]

    with fleet.foreign():
        fleet.all_told()


# --- the sweep ----------------------------------------------------------------------------------


@pytest.fixture
def twin(kind, world, call):
    """A queue of either kind."""
    cls = RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue
    queue = cls.from_url(world.url, prefix=world.prefix)
    yield queue
    call(queue.close())


@on_one_server
@pytest.mark.parametrize("key", ["attempts", "job"])
def test_a_job_counts_as_lost_after_exactly_ninety_seconds_without_a_poll(fleet, twin, call, key):
    """They poll at least every 60 s: earlier would double their polls, later would lose time."""
    for job_id in ("job_fresh", "job_lost"):
        fleet.producer.store(job_id, **fleet.user(job_id))
        if key == "attempts":
            fleet.put(fleet.key("attempts", job_id), 600, 3)
    # The age of the counter (before the first poll, of the record) is 600 s less what it has to live.
    fleet.client.pexpire(fleet.key(key, "job_fresh"), 600_000 - 88_000)
    fleet.client.pexpire(fleet.key(key, "job_lost"), 600_000 - 90_000)

    assert call(twin.recover(idle_s=90.0)) == 1

    assert fleet.queue.get("job_lost").state == JobState.SCHEDULED
    assert fleet.queue.get("job_fresh").state != JobState.SCHEDULED
    assert call(twin.recover(idle_s=90.0)) == 0, "once is enough"


@on_one_server
def test_a_job_that_somebody_has_is_never_swept(fleet, twin, call):
    """In the list, on the schedule, in flight, in the outbox: each is somebody's."""
    for job_id in ("listed", "scheduled", "leased", "delivering"):
        fleet.producer.store(job_id, **fleet.user(job_id))
        fleet.put(fleet.key("attempts", job_id), 100, 3)
    fleet.producer.push("listed")
    later = (time.time() + 60) * 1000
    prefix = fleet.world.prefix
    fleet.client.zadd(f"{prefix}:poll:schedule", {"scheduled": later})
    fleet.client.zadd(f"{prefix}:poll:inflight", {"leased": later})
    fleet.client.zadd(f"{prefix}:poll:deliveries", {"delivering": later})

    assert call(twin.recover(idle_s=90.0)) == 0


@on_one_server
def test_one_sweeper_at_a_time(fleet, twin, call):
    """Ten workers must not scan one Redis ten times."""
    fleet.client.config_resetstat()

    first = call(twin.recover(idle_s=0.0, exclusive=True))
    fleet.producer.store("job_0", **fleet.user("job_0"))
    second = call(twin.recover(idle_s=0.0, exclusive=True))

    assert (first, second) == (0, 0)
    scans = fleet.client.info("commandstats")["cmdstat_scan"]["calls"]
    assert 25 <= fleet.client.ttl(f"{fleet.world.prefix}:poll:sweeper") <= 30
    fleet.client.delete(f"{fleet.world.prefix}:poll:sweeper")
    assert call(twin.recover(idle_s=0.0, exclusive=True)) == 1
    assert fleet.client.info("commandstats")["cmdstat_scan"]["calls"] > scans


@on_one_server
def test_the_sweep_goes_in_small_steps_and_never_uses_keys(fleet, twin, call):
    """A long command would make every client of that Redis wait."""
    with fleet.client.pipeline(transaction=False) as pipeline:
        for number in range(3000):
            pipeline.set(fleet.key("completed", f"job_{number}"), "{}", ex=60)
        pipeline.execute()
    fleet.client.config_resetstat()

    call(twin.recover(idle_s=90.0))

    stats = fleet.client.info("commandstats")
    assert stats["cmdstat_scan"]["calls"] >= 3000 // 1000
    assert stats["cmdstat_scan"]["usec_per_call"] < 5000
    assert "cmdstat_keys" not in stats


@on_one_server
@pytest.mark.parametrize("foreign_workers", [True, False])
def test_a_sweep_that_an_acl_forbids_is_told_once(fleet, caplog, quick_sweeps, foreign_workers):
    """Everything else works without `SCAN`; the operator reads why lost jobs are not looked for."""
    name = f"user-{fleet.world.prefix}"
    fleet.client.acl_setuser(name, enabled=True, nopass=True, keys=["*"], commands=["+@all", "-scan", "-keys"])
    limited = fleet.world.url.replace("redis://", f"redis://{name}:any@")
    try:
        fleet.ours("job_0")
        worker = attrs.evolve(fleet.world, url=limited).worker(foreign_workers=foreign_workers)
        with worker:
            until(lambda: fleet.messages("job_0"), "the job is delivered all the same")
            until(lambda: [one for one in caplog.records if "not looked for" in one.message], "it says so")
            until(lambda: worker.recorder.of(events.JobDelivered), "it is settled")
            # The right may be granted while it runs: it tries again, and says nothing more.
            fleet.producer.store("job_1", **fleet.user("job_1"))
            fleet.client.acl_setuser(name, enabled=True, nopass=True, keys=["*"], commands=["+@all"])
            fleet.all_told()
        assert len([one for one in caplog.records if "not looked for" in one.message]) == 1
    finally:
        fleet.client.acl_deluser(name)
