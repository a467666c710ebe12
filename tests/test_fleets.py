"""Fleets: many workers at one API account, which bears only so much, and at one Redis."""

from __future__ import annotations

import contextlib
import json
import statistics
import threading
import time

import attrs
import pytest
import redis

from kit import API_KEY, FAST, part, phone, until
from kit.counting_api import CountingApi
from kit.worker_process import end
from videopoll import PollingStrategy, VideoApiPoller, events
from videopoll.observations import VideoWorking
from videopoll.queue.operations import Operations
from videopoll.queue.schema import Keys
from videopoll.testing import Reply
from videopoll.video_api import RoutingPoller

pytestmark = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)

SLOW_S = 60.0
RARELY = PollingStrategy(interval_s=30.0, timeout_s=500.0, initial_delay_s=0.0, max_retry_after_s=2.5)


@pytest.fixture
def db(redis_url):
    with redis.Redis.from_url(redis_url) as db:
        yield db


def enqueue_overdue(db, prefix, count) -> None:
    """Have so many jobs be due for long."""
    keys = Keys(prefix)
    seconds, _ = db.time()
    with db.pipeline(transaction=False) as pipe:
        for number in range(count):
            job_id = f"job_{number}"
            record = {"jobId": job_id, "conversationId": "c", "startTime": seconds * 1000 - 60_000, "to": phone(number)}
            pipe.set(keys.job(job_id), json.dumps(record | {"status": "polling", "channel": "ultramsg"}), ex=700)
            pipe.zadd(keys.schedule, {job_id: seconds * 1000 - 30_000})
        pipe.execute()


@contextlib.contextmanager
def fleet(world, api, count, **options):
    """So many worker processes, started at once."""
    strategy = attrs.asdict(options.pop("strategy", RARELY))
    processes = [
        world.process(
            api_url=api.url, strategy=strategy, lease_s=12.0, options={"visible": True, "concurrency": 100, **options}
        )
        for _ in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            end(process)


def forget(db, prefix) -> None:
    """Remove the jobs that are left."""
    for key in db.scan_iter(match=f"{prefix}:*", count=1000):
        db.delete(key)


@pytest.mark.parametrize("kind", ["async"], indirect=True)
def test_a_fleet_that_starts_at_once_stays_within_what_the_account_bears(world, db, prefix):
    """Four processes have 400 places; the account bears 20 requests at a time."""
    enqueue_overdue(db, prefix, 500)
    always = attrs.evolve(RARELY, interval_s=1.0, max_attempts=10_000)

    with CountingApi(0.1) as api:
        with fleet(world, api, 4, strategy=always, account_concurrency=20):
            until(lambda: db.zcard(Keys(prefix).workers) == 4, "all have come", SLOW_S)
            until(lambda: api.came, "one polls", SLOW_S)
            seen_s = time.monotonic() + 1.5
            until(lambda: sum(at_s > seen_s for at_s, _, _ in api.came) >= 100, "all know of each other", SLOW_S)
            later = [count for at_s, _, count in api.came if at_s > seen_s]
        forget(db, prefix)

    # One that comes in takes its share before the others have given theirs back.
    assert api.most <= 20 + 20 // 2 + 20 // 3 + 20 // 4
    assert max(later) <= 20


@pytest.mark.parametrize("kind", ["sync"], indirect=True)
def test_a_429_that_one_worker_met_stops_the_whole_fleet_and_outlives_its_worker(world, db, prefix):
    """Three workers poll; one of them meets a 429 and is killed. The others are quiet until the pause is over."""
    until_s = [0.0]

    def throttled(_path):
        if until_s[0] == 0.0 and len(api.came) > 150:
            until_s[0] = time.monotonic() + 2.5
            return 2.5
        return max(0.0, until_s[0] - time.monotonic()) or None

    often = attrs.evolve(FAST, timeout_s=500.0, max_attempts=10_000, max_retry_after_s=2.5)
    enqueue_overdue(db, prefix, 60)
    with CountingApi(0.02, throttled) as api:
        with fleet(world, api, 3, strategy=often, concurrency=10) as processes:
            until(lambda: db.exists(Keys(prefix).brakes), "it is told", SLOW_S)
            told_s = time.monotonic()
            end(processes[0])
            until(lambda: time.monotonic() > until_s[0] + 1.5, "the pause is over", SLOW_S)
            after = [at_s for at_s, _, _ in api.came if told_s + 0.4 < at_s]
        forget(db, prefix)

    assert [at_s for at_s in after if at_s < until_s[0] - 0.1] == [], "somebody polled in the pause"
    assert after, "nobody came back"


def test_a_worker_that_starts_begins_with_an_eighth_of_its_places(world, db, prefix):
    """No poll comes back meanwhile: what is under way is what was open."""
    began, done = [], threading.Event()

    def poll(_job, *, timeout_s):
        began.append(time.monotonic())
        yield done
        return VideoWorking()

    enqueue_overdue(db, prefix, 200)
    poller = part(world.kind, poll=poll)
    with world.worker(poller=poller, concurrency=96, strategy=RARELY, recover=False):
        until(lambda: len(began) >= 96, "all places are open", SLOW_S)
        done.set()
    forget(db, prefix)

    assert sum(at_s < began[0] + 0.3 for at_s in began[:96]) <= 24
    assert sum(at_s < began[0] + 1.0 for at_s in began[:96]) <= 48
    assert began[95] > began[0] + 1.3


def test_the_first_poll_of_a_worker_that_finds_little_goes_out_at_once(world):
    world.enqueue_ready()
    began_s = time.monotonic()
    with world.worker(strategy=attrs.evolve(FAST, initial_delay_s=0.0)) as worker:
        until(lambda: worker.recorder.of(events.JobPolled), "it is polled")

    assert world.api.polls("job_1")
    assert time.monotonic() - began_s < 3, "on a busy machine; 0.5 s on one that is not"


# --- several APIs ---


def routed(world, urls, name_of, **options):
    """A worker of its own poller, which asks at an API for each name."""
    poller = RoutingPoller(
        {name: VideoApiPoller(base_url=url, api_key="key") for name, url in urls.items()}, by=name_of
    )
    strategy = options.pop("strategy", attrs.evolve(FAST, timeout_s=500.0, max_attempts=10_000))
    return world.worker(poller=poller, strategy=strategy, visible=True, recover=False, **options)


def by_number(job):
    """Name the API of a job: the even ones are kling's, the odd ones are fal's."""
    return "fal" if int(job.job_id.removeprefix("job_")) % 2 else "kling"


def test_a_429_of_one_api_is_heeded_by_another_worker_and_holds_up_no_other_api(world, db, prefix):
    """Only one of the workers is told 429; the other would have gone on asking."""
    began_s = []

    def throttled(_path):
        if len(fal.came) > 20 and not began_s:
            began_s.append(time.monotonic())
            return 2.0
        return None

    enqueue_overdue(db, prefix, 20)
    with CountingApi(0.02, throttled) as fal, CountingApi(0.02) as kling:
        urls = {"fal": fal.url, "kling": kling.url}
        with routed(world, urls, by_number) as one, routed(world, urls, by_number) as other:
            until(lambda: began_s, "one is told 429", SLOW_S)
            until(lambda: time.monotonic() > began_s[0] + 1.8, "the pause is nearly over", SLOW_S)
            until(lambda: fal.came[-1][0] > began_s[0] + 2, "they come back", SLOW_S)
            (account,) = db.zrange(Keys(prefix).brakes, 0, -1) or [b"fal:gone"]
        forget(db, prefix)

    # What was under way, or claimed, when it was told.
    late = [at_s for at_s, _, _ in fal.came if began_s[0] + 0.3 < at_s < began_s[0] + 1.99]
    assert late == []
    assert sum(began_s[0] + 0.3 < at_s < began_s[0] + 1.8 for at_s, _, _ in kling.came) > 20
    assert account.startswith(b"fal:")
    told = [event for worker in (one, other) for event in worker.recorder.of(events.AccountHeldBack)]
    (paused,) = {event.account for event in told}
    assert paused.startswith("fal:")
    assert sorted(event.learnt for event in told) == [False, True]
    assert all(1 < event.pause_s <= 2.5 for event in told)


def test_each_account_has_a_cap_of_its_own(world, db, prefix):
    enqueue_overdue(db, prefix, 200)
    with CountingApi(0.05) as fal, CountingApi(0.05) as kling:
        urls = {"fal": fal.url, "kling": kling.url}
        with routed(world, urls, by_number, concurrency=40, account_concurrency=3, strategy=RARELY):
            until(lambda: len(fal.came) >= 30 and len(kling.came) >= 30, "many are polled", SLOW_S)
        forget(db, prefix)

    assert (fal.most, kling.most) == (3, 3)


def test_the_share_of_a_worker_that_stops_is_free_for_the_others(world, db, prefix):
    enqueue_overdue(db, prefix, 400)
    often = attrs.evolve(RARELY, interval_s=0.5)
    with CountingApi(0.05) as api:
        poller = VideoApiPoller(base_url=api.url, api_key="key")
        options = {"poller": poller, "visible": True, "account_concurrency": 8, "strategy": often, "recover": False}
        workers = [world.worker(**options).start() for _ in range(2)]
        until(lambda: db.zcard(Keys(prefix).workers) == 2, "both are seen", SLOW_S)
        until(lambda: workers[0].runner._state.places.open == 4, "they share", SLOW_S)
        workers[1].stop()
        until(lambda: workers[0].runner._state.places.open == 8, "one has all", SLOW_S)
        workers[0].stop()
        forget(db, prefix)

    assert api.most <= 16


@pytest.mark.parametrize("score", [float("inf"), 2.0**60, -5.0])
def test_what_somebody_else_wrote_there_holds_up_no_job(world, db, prefix, score):
    account = VideoApiPoller(base_url=world.api.url, api_key=API_KEY).account
    db.zadd(Keys(prefix).brakes, {account: score, "\xff" * 2000: 2.0**52})
    db.expire(Keys(prefix).brakes, 60)
    world.enqueue_ready()

    with world.worker() as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered", 5)


def test_a_worker_that_may_not_tell_the_others_says_so_once_and_pauses_alone(world, db, prefix, caplog):
    db.rpush(Keys(prefix).brakes, "of another type")
    db.expire(Keys(prefix).brakes, 60)
    world.api.fail_next(Reply.fault(429, retry_after=0.4), Reply.fault(429, retry_after=0.4), path="job_1")
    world.enqueue_ready()

    with world.worker() as worker:
        until(lambda: worker.recorder.of(events.JobDelivered), "it is delivered")

    assert caplog.text.count("are not told of pauses") == 1


# --- idle ones ---


def test_one_job_wakes_few_of_many_idle_workers(world, monkeypatch, idle_at_most):
    """Twelve hear the bell; the first takes the job, and the others stay asleep."""
    idle_at_most(60)  # A look that is due anyhow is none that the bell has caused.
    claimed: list[float] = []
    claim = Operations.claim

    def counted(operations, *args, **options):
        claimed.append(time.monotonic())
        return claim(operations, *args, **options)

    monkeypatch.setattr(Operations, "claim", counted)
    at_once = attrs.evolve(FAST, initial_delay_s=0.0)
    workers = [world.worker(strategy=at_once, concurrency=2, recover=False).start() for _ in range(12)]
    until(lambda: len(claimed) >= 12, "all are idle")
    until(lambda: time.monotonic() > claimed[-1] + 0.3, "nobody claims")
    scripts = []
    for job_id in [f"job_{number}" for number in range(7)]:
        began_s = time.monotonic()
        world.enqueue_ready(job_id)
        until(lambda told=job_id: any(one.recorder.of(events.JobDelivered, told) for one in workers), "it is delivered")
        scripts.append(sum(at_s > began_s for at_s in claimed))

    # The claim that takes it, and one or two for its delivery.
    assert statistics.median(scripts) <= 4
