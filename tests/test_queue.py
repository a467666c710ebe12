"""The queue's behaviour on real servers: one suite for both twins."""

from __future__ import annotations

import itertools
import json
import re
import socket
import threading
import time
from typing import Self

import attrs
import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from kit import until
from videopoll import (
    AsyncRedisVideoJobQueue,
    ConfigurationError,
    DeadLetterPolicy,
    DeliveryPolicy,
    KeyTtls,
    LeasePolicy,
    OutcomeKind,
    PollingStrategy,
    QueueUnavailableError,
    RedisVideoJobQueue,
)
from videopoll.core.delivery import open_outbox
from videopoll.errors import InvalidJobError, QueueRefusedError
from videopoll.jobs import DeadLetter, JobState, Outcome, VideoJob
from videopoll.jobs.codec import Poison, dump
from videopoll.jobs.transition import (
    Abandoned,
    BeginSend,
    Claim,
    Conclude,
    MissingRecord,
    PollWork,
    Redeliver,
    Release,
    Reschedule,
    SendWork,
    Settle,
    TransitionResult,
)
from videopoll.jobs.views import CancelResult, EnqueueResult, HandedBack
from videopoll.queue import operations
from videopoll.queue.schema import Keys
from videopoll.testing import EmbeddedRedis, unused_port

SPEC = PollingStrategy()
AT_ONCE = PollingStrategy(initial_delay_s=0)
LEASE = LeasePolicy()
POLICY = DeliveryPolicy()
BINARY = b"\xff\xfe\x00id"
KINDS = {"list": "rpush", "set": "sadd", "hash": "hset", "zset": "zadd", "stream": "xadd"}


@attrs.define
class Bench:
    """One queue, and a client beside it that sees what it wrote."""

    kind: str
    url: str
    prefix: str
    call: object
    db: redis.Redis
    queues: list = attrs.field(factory=list)
    options: dict = attrs.field(factory=dict)

    @property
    def queue(self):
        """The queue under test."""
        return self.queues[0] if self.queues else self.another()

    def another(self, url: str | None = None, **options):
        """Build one more queue of the same kind."""
        cls = RedisVideoJobQueue if self.kind == "sync" else AsyncRedisVideoJobQueue
        queue = cls.from_url(url or self.url, **{"prefix": self.prefix, **self.options, **options})
        self.queues.append(queue)
        return queue

    @property
    def keys(self) -> Keys:
        """The names of its keys."""
        return Keys(self.prefix)

    def now_ms(self) -> int:
        """Redis's clock."""
        seconds, micros = self.db.time()
        return seconds * 1000 + micros // 1000

    def enqueue(self, job_id: str = "job_1", **metadata) -> EnqueueResult:
        """Take a job in."""
        return self.call(self.queue.enqueue(job_id, conversation_id="conversation", metadata=metadata))

    def batch(self, polls: int = 100, sends: int = 100, strategy=AT_ONCE, lease=LEASE, worker_id: str = "w", **more):
        """Claim, and give the whole answer."""
        return self.call(
            self.queue.claim(polls=polls, sends=sends, worker_id=worker_id, strategy=strategy, lease=lease, **more)
        )

    def claim(self, *args, **options) -> tuple[Claim, ...]:
        """Claim, and give the jobs."""
        return self.batch(*args, **options).claims

    def one(self, job_id: str = "job_1", **options) -> Claim:
        """Take one job in and claim it."""
        self.enqueue(job_id)
        (claim,) = self.claim(**options)
        return claim

    def apply(self, *transitions) -> list[TransitionResult]:
        """Write what was decided."""
        return self.call(self.queue.apply(transitions))

    def get(self, job_id: str = "job_1"):
        """Look a job up."""
        return self.call(self.queue.get(job_id))

    def counts(self):
        """Count the jobs."""
        return self.call(self.queue.counts())

    def entry(self, claim: Claim, **changes):
        """Give the delivery of a finished video."""
        job = claim.work.job if not isinstance(claim.work, SendWork) else claim.work.entry.job
        outcome = Outcome(OutcomeKind.COMPLETED, self.now_ms(), video_url="https://v/1.mp4")
        return attrs.evolve(open_outbox(job, outcome, POLICY), **changes)

    def expire_lease(self, job_id: str | bytes = "job_1") -> None:
        """Let the holder's time be over."""
        self.db.zadd(self.keys.inflight, {job_id: 1})

    def finish(self, claim: Claim) -> str:
        """Carry a claimed job to its end, as a runner does; give the end."""
        work = claim.work
        if isinstance(work, SendWork):
            entry = work.entry
        elif isinstance(work, PollWork | Abandoned):
            entry = self.entry(claim)
            assert self.apply(Conclude(claim, entry, 600, 12_000)) == [TransitionResult.APPLIED]
        elif isinstance(work, MissingRecord) and work.finished:
            assert self.apply(Settle(claim)) == [TransitionResult.APPLIED]
            return "gone"
        else:
            reason = work.reason if isinstance(work, Poison) else "no record"
            assert self.apply(Settle(claim, letter=DeadLetter(claim.job_id, reason, self.now_ms()))) == [
                TransitionResult.APPLIED
            ]
            return f"dead: {reason}"
        completed = dump(entry.outcome.to_completed(entry.job, delivered=True))
        assert self.apply(Settle(claim, completed)) == [TransitionResult.APPLIED]
        return "delivered"

    def bury(self, job_id: str = "job_1", reason: str = "why", **letter) -> None:
        """Make a dead letter of a new job."""
        claim = self.one(job_id)
        self.apply(Settle(claim, letter=DeadLetter(job_id, reason, self.now_ms(), **letter)))

    def names(self) -> set[str]:
        """The names of all keys, without the prefix."""
        return {
            key.decode("utf-8", "backslashreplace").removeprefix(f"{self.prefix}:")
            for key in self.db.scan_iter(match=f"{self.prefix}:*", count=1000)
        }

    def everything(self) -> dict[bytes, object]:
        """All keys with their values and the times at which they end."""
        return {
            key: (self.db.dump(key), self._ends_ms(key))
            for key in self.db.scan_iter(match=f"{self.prefix}:*", count=1000)
        }

    def _ends_ms(self, key: bytes) -> int:
        try:
            return self.db.pexpiretime(key)
        except redis.ResponseError:  # Redis 6.2 tells only how long it has left
            return min(self.db.pttl(key), 0)


@pytest.fixture
def bench(kind, call, redis_url, prefix):
    """A queue of either kind."""
    with redis.Redis.from_url(redis_url) as db:
        bench = Bench(kind, redis_url, prefix, call, db)
        yield bench
        for queue in bench.queues:
            call(queue.close())


def decoded(values) -> list[str]:
    """Give ids as text."""
    return [value.decode() for value in values]


# --- enqueue ---


def test_a_job_taken_in_twice_is_one_job(bench):
    """A web request may be repeated."""
    assert bench.enqueue(prompt="first") is EnqueueResult.CREATED
    before = bench.everything()
    assert bench.enqueue(prompt="second") is EnqueueResult.KNOWN
    assert bench.everything() == before


def test_an_enqueue_is_one_round_trip(bench):
    """It stands in a web request."""
    bench.enqueue("warm-up")
    bench.db.config_resetstat()
    bench.enqueue()
    stats = bench.db.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 1
    assert "cmdstat_eval" not in stats


def test_five_hundred_jobs_are_taken_in_with_one_round_trip(bench):
    """A back-fill of thousands must not take minutes."""
    bench.enqueue("warm-up")
    bench.db.config_resetstat()
    results = bench.call(bench.queue.enqueue_many((f"job_{number}", "c", None) for number in range(1001)))
    assert results == [EnqueueResult.CREATED] * 1001
    assert bench.db.info("commandstats")["cmdstat_evalsha"]["calls"] == 3
    assert bench.db.llen(bench.keys.queue) == 1002


def test_enqueue_many_sends_nothing_if_one_is_bad(bench):
    """Half a list is harder to repair than none."""
    with pytest.raises(InvalidJobError):
        bench.call(bench.queue.enqueue_many([("job_1", "c", None), ("job 2", "c", None)]))
    assert bench.names() == set()


def test_enqueue_many_takes_a_repeated_id_once_and_nothing_for_nothing(bench):
    """Each gets its answer, in order."""
    jobs = [("job_1", "c", None), ("job_1", "c", None), ("job_2", "c", {"a": 1})]
    results = bench.call(bench.queue.enqueue_many(jobs))
    assert results == [EnqueueResult.CREATED, EnqueueResult.KNOWN, EnqueueResult.CREATED]
    assert decoded(bench.db.lrange(bench.keys.queue, 0, -1)) == ["job_2", "job_1"]
    assert bench.call(bench.queue.enqueue_many([])) == []


def test_an_enqueue_that_was_cut_off_before_its_push_is_healed_by_the_next(bench):
    """The producer's call failed, and it was told to try again."""
    bench.enqueue()
    bench.db.delete(bench.keys.queue)
    assert bench.enqueue() is EnqueueResult.KNOWN
    assert bench.db.lrange(bench.keys.queue, 0, -1) == [b"job_1"]


@pytest.mark.parametrize(("idle_s", "pushed"), [(85, False), (95, True)])
def test_a_job_in_another_workers_memory_is_not_pushed_again_unless_it_is_lost(bench, idle_s, pushed):
    """Between two polls it stands nowhere; its counter tells whether somebody still polls it."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.attempts("job_1"), 3, ex=600 - idle_s)
    assert bench.enqueue() is EnqueueResult.KNOWN
    assert bench.db.llen(bench.keys.queue) == pushed
    assert bench.db.get(bench.keys.attempts("job_1")) == b"3"


@pytest.mark.parametrize("ttl_ms", [50_000, None], ids=["with an end", "without an end"])
def test_a_job_under_another_workers_lock_is_not_pushed_again(bench, ttl_ms):
    """It is being polled, perhaps for the first time. A lock without an end says nothing."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.lock("job_1"), "foreign", px=ttl_ms)
    assert bench.enqueue() is EnqueueResult.KNOWN
    assert bench.db.llen(bench.keys.queue) == (ttl_ms is None)
    bench.claim()
    assert bench.db.ttl(bench.keys.lock("job_1")) <= 60


@pytest.mark.parametrize(("age_s", "pushed"), [(5, False), (20, True)])
def test_a_record_of_another_producer_is_left_to_it_for_a_while(bench, age_s, pushed):
    """It pushes the id 5 s after it has stored the record; twice in the list, their workers poll it twice as often."""
    record = {"jobId": "job_1", "conversationId": "c", "startTime": bench.now_ms() - age_s * 1000, "status": "polling"}
    bench.db.set(bench.keys.job("job_1"), json.dumps(record), ex=600 - age_s)
    assert bench.enqueue() is EnqueueResult.KNOWN
    assert bench.db.llen(bench.keys.queue) == pushed


def test_a_new_job_does_not_inherit_the_attempts_of_an_old_one(bench):
    """The record of its former life expired before its counter did."""
    bench.db.set(bench.keys.attempts("job_1"), 29, ex=100)
    assert bench.enqueue() is EnqueueResult.CREATED
    assert bench.claim()[0].work.attempts == 1


def test_an_enqueue_of_a_job_that_is_somewhere_pushes_nothing(bench):
    """On the schedule, in flight, in the outbox, ended: the id in the list would only make work."""
    claim = bench.one()
    assert bench.enqueue() is EnqueueResult.KNOWN
    bench.apply(Reschedule(claim, bench.now_ms() - 1))
    assert bench.enqueue() is EnqueueResult.KNOWN
    (claim,) = bench.claim()
    entry = bench.entry(claim)
    bench.apply(Conclude(claim, entry, 600, 12_000))
    assert bench.enqueue() is EnqueueResult.DELIVERING
    bench.apply(Redeliver(claim, entry, 600, bench.now_ms() - 1))
    assert bench.enqueue() is EnqueueResult.DELIVERING
    (claim,) = bench.claim()
    bench.finish(claim)
    assert bench.enqueue() is EnqueueResult.FINISHED
    assert not bench.db.exists(bench.keys.queue)
    assert bench.names() == {"completed:job_1"}


@pytest.mark.parametrize(
    "bad", [{"job_id": ""}, {"job_id": "a b"}, {"conversation_id": ""}, {"metadata": {"status": 1}}]
)
def test_a_bad_enqueue_writes_nothing(bench, bad):
    """It is refused before a connection is used."""
    words = {"job_id": "job_1", "conversation_id": "c", "metadata": None, **bad}
    with pytest.raises(InvalidJobError):
        bench.call(bench.queue.enqueue(words.pop("job_id"), **words))
    assert bench.names() == set()


# --- claim ---


def test_a_claim_gives_the_job_its_poll_and_its_lease(bench):
    """All that a worker needs comes with one round trip."""
    bench.enqueue(prompt="x")
    now_ms = bench.now_ms()
    (claim,) = bench.claim()
    assert isinstance(claim.work, PollWork)
    assert claim.work.job == VideoJob("job_1", "conversation", claim.work.job.start_ms, {"prompt": "x"})
    assert (claim.work.attempts, claim.work.faults, claim.work.last_answer_ms) == (1, 0, None)
    assert (claim.taken_over, claim.due_ms) == (False, claim.work.job.start_ms)
    assert now_ms + 12_000 <= bench.db.zscore(bench.keys.inflight, "job_1") <= bench.now_ms() + 12_000
    assert bench.db.hget(bench.keys.leases, "job_1").decode() == claim.token


def test_each_claim_has_a_token_of_its_own(bench):
    """A worker that claims a job again must not pass for its former self."""
    first = bench.one()
    bench.apply(Release(first))
    (second,) = bench.claim()
    assert first.token != second.token
    assert bench.apply(Reschedule(first, 1)) == [TransitionResult.LOST]


def test_a_young_id_goes_to_the_schedule_when_it_is_first_seen(bench):
    """The initial delay belongs to the worker's strategy; an id that stayed in the list would ring for ever."""
    bench.enqueue()
    batch = bench.batch(strategy=SPEC)
    start_ms = bench.get().job.start_ms
    assert batch.claims == ()
    assert (batch.next_poll_ms, batch.waiting) == (start_ms + 5000, 0)
    assert bench.db.llen(bench.keys.queue) == 0
    assert bench.db.zscore(bench.keys.schedule, "job_1") == start_ms + 5000
    assert not bench.db.exists(bench.keys.attempts("job_1")), "nothing has been polled"


def test_a_producer_whose_clock_is_ahead_does_not_lose_the_initial_delay(bench):
    """Existing producers write their own time, and then push the id."""
    start_ms = bench.now_ms() + 30_000
    record = {"jobId": "job_1", "conversationId": "c", "startTime": start_ms, "status": "polling"}
    bench.db.set(bench.keys.job("job_1"), json.dumps(record), ex=600)
    bench.db.lpush(bench.keys.queue, "job_1")
    assert bench.claim(strategy=SPEC) == ()
    due_ms = bench.db.zscore(bench.keys.schedule, "job_1")
    assert due_ms == pytest.approx(bench.now_ms() + 5000, abs=1000)


def test_the_longest_due_comes_first_from_list_and_schedule_together(bench):
    """Neither kind starves."""
    now_ms = bench.now_ms()
    for number, age_s in enumerate([10, 40, 20, 30]):
        job_id = f"job_{number}"
        record = {"jobId": job_id, "conversationId": "c", "startTime": now_ms - age_s * 1000, "status": "polling"}
        bench.db.set(bench.keys.job(job_id), json.dumps(record), ex=600)
        if number % 2:
            bench.db.zadd(bench.keys.schedule, {job_id: now_ms - age_s * 1000})
        else:
            bench.db.lpush(bench.keys.queue, job_id)
    claims = bench.claim()
    assert [claim.job_id for claim in claims] == ["job_1", "job_3", "job_2", "job_0"]


def test_a_claim_takes_no_more_than_there_is_room_for(bench):
    """Polls and sends have places of their own; what is not taken stays findable."""
    for number in range(5):
        bench.enqueue(f"job_{number}")
    for claim in bench.claim():
        entry = bench.entry(claim)
        bench.apply(Conclude(claim, entry, 600, 12_000), Redeliver(claim, entry, 600, bench.now_ms() - 1))
    for number in range(5, 10):
        bench.enqueue(f"job_{number}")
    assert bench.claim(polls=0, sends=0) == ()
    first = bench.claim(polls=2, sends=0)
    assert [type(claim.work) for claim in first] == [PollWork, PollWork]
    second = bench.claim(polls=0, sends=3)
    assert [type(claim.work) for claim in second] == [SendWork] * 3
    rest = bench.claim()
    assert len(first) + len(second) + len(rest) == 10
    assert len({claim.job_id for claim in (*first, *second, *rest)}) == 10


def test_what_there_is_no_room_for_leaves_the_list_for_the_schedule(bench):
    """The doorbell must not ring for an id that was looked at."""
    bench.enqueue("job_1")
    bench.db.zadd(bench.keys.schedule, {"job_0": 5})
    record = {"jobId": "job_0", "conversationId": "c", "startTime": bench.now_ms() - 9000, "status": "polling"}
    bench.db.set(bench.keys.job("job_0"), json.dumps(record), ex=600)
    (claim,) = bench.claim(polls=1)
    assert claim.job_id == "job_0"
    assert bench.db.llen(bench.keys.queue) == 0
    assert bench.db.zscore(bench.keys.schedule, "job_1") is not None
    assert [claim.job_id for claim in bench.claim()] == ["job_1"]


def test_a_claim_tells_when_the_next_thing_is_due(bench):
    """An idle worker sleeps until then."""
    now_ms = bench.now_ms()
    claim = bench.one("job_1")
    bench.apply(Reschedule(claim, now_ms + 60_000))
    claim = bench.one("job_2")
    entry = bench.entry(claim)
    bench.apply(Conclude(claim, entry, 600, 12_000), Redeliver(claim, entry, 600, now_ms + 70_000))
    bench.one("job_3")
    batch = bench.batch()
    assert (batch.next_poll_ms, batch.next_send_ms) == (now_ms + 60_000, now_ms + 70_000)
    assert batch.next_expiry_ms == bench.db.zscore(bench.keys.inflight, "job_3")


def test_an_id_that_stands_in_the_list_several_times_is_one_poll(bench):
    """Foreign workers push what is there already."""
    bench.enqueue()
    bench.db.lpush(bench.keys.queue, "job_1", "job_1", "job_1")
    (claim,) = bench.claim()
    assert bench.db.llen(bench.keys.queue) == 0
    assert bench.finish(claim) == "delivered"
    assert bench.names() == {"completed:job_1"}


@pytest.mark.parametrize("state", ["polling", "sending", "waiting to be sent"])
def test_an_id_in_the_list_that_is_in_hand_leaves_the_list_and_nothing_else_happens(bench, state):
    """Workers of other kinds push, at their start, what we have in flight."""
    claim = bench.one()
    if state != "polling":
        bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000))
    if state == "waiting to be sent":
        bench.apply(Redeliver(claim, bench.entry(claim), 600, bench.now_ms() + 60_000))
    before = bench.everything()
    bench.db.lpush(bench.keys.queue, "job_1")
    assert bench.claim() == ()
    assert bench.everything() == before


def test_an_id_in_the_list_that_is_scheduled_keeps_its_time(bench):
    """A foreign push must not double the polling."""
    claim = bench.one()
    due_ms = bench.now_ms() + 10_000
    bench.apply(Reschedule(claim, due_ms))
    bench.db.lpush(bench.keys.queue, "job_1")
    assert bench.claim() == ()
    assert bench.db.zscore(bench.keys.schedule, "job_1") <= due_ms
    assert bench.db.zscore(bench.keys.schedule, "job_1") > bench.now_ms() + 8000
    assert bench.db.llen(bench.keys.queue) == 0


def test_a_job_that_a_foreign_worker_polled_and_pushed_back_counts_on(bench):
    """Attempts are shared."""
    bench.enqueue()
    bench.db.set(bench.keys.attempts("job_1"), 7, ex=590)
    (claim,) = bench.claim()
    assert claim.work.attempts == 8
    assert claim.work.last_answer_ms == pytest.approx(bench.now_ms() - 10_000, abs=1500)
    assert claim.attempts_before == 7
    assert bench.db.get(bench.keys.attempts("job_1")) == b"8"


def test_a_foreign_lock_is_respected_until_it_ends(bench):
    """Its holder polls at this moment: two polls would be two messages."""
    bench.enqueue()
    bench.db.set(bench.keys.lock("job_1"), "video_worker_1", px=30_000)
    assert bench.claim() == ()
    due_ms = bench.db.zscore(bench.keys.schedule, "job_1")
    assert due_ms == pytest.approx(bench.now_ms() + 30_000, abs=1500)
    assert bench.db.get(bench.keys.lock("job_1")) == b"video_worker_1"
    assert not bench.db.exists(bench.keys.attempts("job_1"))
    assert bench.db.llen(bench.keys.queue) == 0


def test_a_foreign_lock_without_an_end_is_looked_at_again(bench):
    """A worker that died between SET and EXPIRE must not keep a job for ever unseen."""
    bench.enqueue()
    bench.db.set(bench.keys.lock("job_1"), "video_worker_1")
    assert bench.claim() == ()
    assert bench.db.zscore(bench.keys.schedule, "job_1") == pytest.approx(bench.now_ms() + 60_000, abs=1500)
    bench.db.delete(bench.keys.lock("job_1"))


def test_our_own_old_lock_holds_nobody_up(bench):
    """It outlives the lease of a dead worker by far."""
    bench.one()
    assert bench.db.get(bench.keys.lock("job_1")).startswith(b"vp:")
    bench.expire_lease()
    (claim,) = bench.claim(worker_id="other")
    assert bench.db.get(bench.keys.lock("job_1")).decode() == f"vp:{claim.token}"


# --- leases ---


def test_an_expired_lease_is_taken_over_by_anybody_and_does_not_count(bench):
    """The dead worker's poll may never have been made."""
    bench.one(worker_id="dead")
    assert bench.claim(worker_id="other") == ()
    bench.expire_lease()
    other = bench.another()
    (claim,) = bench.call(other.claim(polls=1, sends=1, worker_id="other", strategy=AT_ONCE, lease=LEASE)).claims
    assert claim.taken_over
    assert claim.work.attempts == 1
    assert bench.db.get(bench.keys.attempts("job_1")) == b"1"
    assert bench.db.zscore(bench.keys.inflight, "job_1") > bench.now_ms() + 10_000


def test_a_claim_that_may_not_take_over_leaves_expired_leases_and_takes_what_is_due(bench):
    """Redis was away: the holders may live, and say so soon."""
    bench.one("held")
    bench.db.zadd(bench.keys.inflight, {"held": 1})
    bench.enqueue("due")

    assert [claim.job_id for claim in bench.claim(take_over=False)] == ["due"]
    assert [claim.job_id for claim in bench.claim()] == ["held"]


def test_a_worker_does_not_take_over_what_is_in_its_own_hands(bench):
    """Its lease has ended all the same, and another worker takes it."""
    mine, others = ["mine", "mine_too"], ["another's"]
    for job_id in mine + others:
        bench.one(job_id)
    bench.db.zadd(bench.keys.inflight, dict.fromkeys(mine + others, 1))

    assert [claim.job_id for claim in bench.claim(in_hand=mine)] == others
    assert {claim.job_id for claim in bench.claim(worker_id="other")} == set(mine)


@pytest.mark.parametrize("drift_ms", [4100, -4100, 3_600_000])
def test_a_claim_that_redis_carries_out_at_another_time_than_it_was_asked_takes_nothing_over(bench, drift_ms):
    """It lay in the socket of a server that stood still, or the clock has stepped: its asker lives, and so may holders."""
    bench.one("held")
    bench.db.zadd(bench.keys.inflight, {"held": 1})
    bench.enqueue("due")

    assert [claim.job_id for claim in bench.claim(asked_ms=bench.now_ms() - drift_ms)] == ["due"]
    assert [claim.job_id for claim in bench.claim(asked_ms=bench.now_ms() - 1000)] == ["held"]


def test_a_claim_that_waited_in_a_server_that_stood_still_takes_nothing_over(bench, kind):
    """Nobody hears its answer any more: a lease that it gave would be a living worker's, taken for nobody."""
    lease = LeasePolicy.lasting(0.6)
    with EmbeddedRedis() as server:
        impatient = Bench(kind, server.url, bench.prefix, bench.call, redis.Redis.from_url(server.url))
        queue = impatient.another(worker_timeout_s=0.3)
        held = impatient.one(lease=lease)
        asked_ms = impatient.now_ms()

        def scripts_run():
            return impatient.db.info("commandstats")["cmdstat_evalsha"]["calls"]

        before, ends_s = scripts_run(), time.monotonic() + lease.duration_s
        server.pause()
        try:
            with pytest.raises(QueueUnavailableError):
                impatient.batch(lease=lease, asked_ms=asked_ms)
            until(lambda: time.monotonic() > ends_s, "the lease has ended")
        finally:
            server.resume()
        until(lambda: scripts_run() > before, "the claim has been carried out")

        assert impatient.call(queue.renew([(held.job_id, held.token, True)], lease)) == [True]
        for one in impatient.queues:
            bench.call(one.close())
        impatient.db.close()


def test_an_expired_delivery_resumes_with_the_delivery(bench):
    """The outcome is known: the API is not asked again."""
    claim = bench.one()
    entry = bench.entry(claim, tries=1, sending_ms=bench.now_ms())
    bench.apply(Conclude(claim, entry, 600, 12_000), BeginSend(claim, entry, 600, 12_000))
    bench.expire_lease()
    (taken,) = bench.claim()
    assert taken.taken_over
    assert taken.work == SendWork(entry)


def test_ending_the_polling_renews_the_lease(bench):
    """The send that begins with it has the whole lease before it."""
    claim = bench.one()
    bench.expire_lease()

    assert bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000)) == [TransitionResult.APPLIED]

    assert bench.db.zscore(bench.keys.inflight, "job_1") > bench.now_ms() + 11_000


def test_a_lease_can_be_renewed_until_it_is_taken(bench):
    """Long uploads keep their job; a zombie learns that it is one."""
    claim = bench.one()
    bench.expire_lease()
    bench.db.expire(bench.keys.lock("job_1"), 5)
    assert bench.call(bench.queue.renew([(claim.job_id, claim.token, True)], LEASE)) == [True]
    assert bench.db.zscore(bench.keys.inflight, "job_1") > bench.now_ms() + 10_000
    assert bench.db.ttl(bench.keys.lock("job_1")) > 50
    bench.expire_lease()
    (taken,) = bench.claim()
    before = bench.everything()
    held = [("job_1", claim.token, True), ("nobody", "x", True), ("job_1", claim.token, False)]
    assert bench.call(bench.queue.renew(held, LeasePolicy(duration_s=99, renew_every_s=1))) == [False] * 3
    assert bench.everything() == before
    assert bench.call(bench.queue.renew([], LEASE)) == []
    assert taken.token != claim.token


def test_a_renewal_brings_a_lost_lock_back_but_takes_no_foreign_one(bench):
    """Foreign workers delete our lock blindly: that is no lost lease."""
    claim = bench.one()
    bench.db.delete(bench.keys.lock("job_1"))
    held = [(claim.job_id, claim.token, True)]
    assert bench.call(bench.queue.renew(held, LEASE)) == [True]
    assert bench.db.get(bench.keys.lock("job_1")).decode() == f"vp:{claim.token}"
    bench.db.set(bench.keys.lock("job_1"), "foreign", ex=60)
    assert bench.call(bench.queue.renew(held, LEASE)) == [True]
    assert bench.db.get(bench.keys.lock("job_1")) == b"foreign"


def test_many_leases_are_renewed_together(bench):
    """More than one script call takes."""
    bench.call(bench.queue.enqueue_many((f"job_{number}", "c", None) for number in range(1001)))
    claims = [claim for _ in range(3) for claim in bench.claim(polls=500)]
    assert len(claims) == 1001
    held = [(claim.job_id, claim.token, True) for claim in claims]
    assert bench.call(bench.queue.renew(held, LEASE)) == [True] * 1001
    verdicts = bench.apply(*(Reschedule(claim, 1) for claim in claims))
    assert verdicts == [TransitionResult.APPLIED] * 1001
    assert bench.counts().scheduled == 1001


def transitions_of(bench: Bench, claim: Claim) -> dict[str, object]:
    """Give one transition of every kind."""
    entry = bench.entry(claim)
    letter = DeadLetter(claim.job_id, "why", bench.now_ms())
    return {
        "reschedule": Reschedule(claim, bench.now_ms() + 9, 2, 5),
        "give back": Release(claim),
        "conclude": Conclude(claim, entry, 600, 12_000),
        "begin send": BeginSend(claim, entry, 600, 99_000),
        "redeliver": Redeliver(claim, entry, 600, bench.now_ms()),
        "settle": Settle(claim, "{}"),
        "bury": Settle(claim, letter=letter),
    }


TRANSITIONS = ("reschedule", "give back", "conclude", "begin send", "redeliver", "settle", "bury")


@pytest.mark.parametrize("name", TRANSITIONS)
@pytest.mark.parametrize("now", ["in other hands", "in the outbox", "scheduled", "settled", "cancelled"])
def test_a_stale_token_changes_nothing(bench, name, now):
    """A worker that was stopped past its lease and continued finds everything as it would have been without it."""
    stale = bench.one()
    bench.expire_lease()
    (claim,) = bench.claim()
    if now == "in the outbox":
        bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000), Redeliver(claim, bench.entry(claim), 600, 9))
    elif now == "scheduled":
        bench.apply(Reschedule(claim, bench.now_ms() + 99_000))
    elif now == "settled":
        bench.finish(claim)
    elif now == "cancelled":
        bench.call(bench.queue.cancel("job_1"))
    before = bench.everything()
    assert bench.apply(transitions_of(bench, stale)[name]) == [TransitionResult.LOST]
    assert bench.everything() == before


def test_one_stale_transition_among_others_is_the_only_one_lost(bench):
    """Batches are shared by jobs that have nothing to do with each other."""
    for number in range(3):
        bench.enqueue(f"job_{number}")
    claims = bench.claim()
    bench.db.hset(bench.keys.leases, "job_1", "somebody else")
    verdicts = bench.apply(
        Reschedule(claims[0], 7),
        Reschedule(claims[1], 7),
        Conclude(claims[2], bench.entry(claims[2]), 600, 12_000),
    )
    assert verdicts == [TransitionResult.APPLIED, TransitionResult.LOST, TransitionResult.APPLIED]
    assert bench.apply() == []


@pytest.mark.parametrize("name", ["conclude", "begin send", "redeliver", "settle", "bury"])
def test_a_transition_run_twice_gives_the_same_answer_and_the_same_state(bench, name):
    """Its first reply may have been lost with the connection."""
    claim = bench.one()
    transition = transitions_of(bench, claim)[name]
    if name in {"begin send", "redeliver"}:
        bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000))
    assert bench.apply(transition) == [TransitionResult.APPLIED]
    before = {key: value for key, (value, _) in bench.everything().items()}
    assert bench.apply(transition) == [TransitionResult.APPLIED]
    after = {key: value for key, (value, _) in bench.everything().items()}
    if name in {"begin send", "conclude"}:
        # They renew the lease, too.
        before.pop(bench.keys.inflight.encode()), after.pop(bench.keys.inflight.encode())
    assert after == before


# --- what ends without a place, and what keeps records ---

OVER = attrs.evolve(AT_ONCE, timeout_s=100, interval_s=10)


def aged(bench: Bench, *job_ids: str, by_s: float, ttl_s: float | None = None, place: str = "schedule") -> None:
    """Take jobs in that began so long ago, and put them somewhere."""
    for job_id in job_ids:
        key, start_ms = bench.keys.job(job_id), bench.now_ms() - round(by_s * 1000)
        bench.db.set(key, json.dumps({"jobId": job_id, "conversationId": "c", "startTime": start_ms}))
        bench.db.pexpire(key, round((600 - by_s if ttl_s is None else ttl_s) * 1000))
        if place == "list":
            bench.db.lpush(bench.keys.queue, job_id)
        else:
            score = 1 if place == "inflight" else start_ms
            bench.db.zadd(getattr(bench.keys, place), {job_id: score})


def look(bench: Bench, *, polls: int = 0, endings: int = 100, look_from: int = 0, strategy=OVER):
    """Claim with a look beyond the places, and give the whole answer."""
    return bench.call(
        bench.queue.claim(
            polls=polls,
            sends=0,
            worker_id="w",
            strategy=strategy,
            lease=LEASE,
            endings=endings,
            look_from=look_from,
        )
    )


@pytest.mark.parametrize("place", ["list", "schedule", "inflight"])
def test_what_is_past_its_deadline_ends_without_a_place_wherever_it_stands(bench, place):
    """Nothing counts as a poll, and what is younger stays where it is."""
    aged(bench, "old", by_s=110, place=place)
    aged(bench, "young", by_s=109, place=place)
    bench.db.set(bench.keys.attempts("old"), 7, ex=580)
    bench.db.hset(bench.keys.leases, "old", "dead:1") if place == "inflight" else None

    (claim,) = look(bench).claims

    assert (claim.job_id, claim.ending, claim.work.attempts) == ("old", True, 7)
    assert bench.db.get(bench.keys.attempts("old")) == b"7"
    assert bench.db.get(bench.keys.lock("old")).decode() == f"vp:{claim.token}"
    assert bench.get("young").state == {"list": "queued", "schedule": "scheduled", "inflight": "polling"}[place]
    assert bench.counts().in_flight == 1 + (place == "inflight")
    assert bench.counts().queued == (place == "list")
    assert look(bench).claims == ()


def test_a_job_that_ends_without_a_place_can_be_given_back(bench):
    """A worker that stops has counted nothing."""
    aged(bench, "job_1", by_s=110)
    bench.db.set(bench.keys.attempts("job_1"), 7, ex=600)
    (claim,) = look(bench).claims
    assert bench.apply(Release(claim)) == [TransitionResult.APPLIED]
    assert bench.db.get(bench.keys.attempts("job_1")) == b"7"


def test_a_place_is_taken_for_a_last_poll_before_anything_ends_without_one(bench):
    """Those that are due the longest get the places."""
    aged(bench, "first", by_s=130)
    aged(bench, "second", by_s=120)
    assert [(claim.job_id, claim.ending) for claim in look(bench, polls=1).claims] == [
        ("first", False),
        ("second", True),
    ]


def test_nothing_ends_without_a_place_unless_the_worker_asks_for_it(bench):
    """A worker that has just come leaves it to last polls."""
    aged(bench, "job_1", by_s=500)
    assert look(bench, endings=0).claims == ()


def test_a_job_under_a_foreign_lock_is_not_ended_but_looked_at_when_that_ends(bench):
    """A worker of another kind is polling it."""
    aged(bench, "listed", by_s=200, place="list")
    aged(bench, "scheduled", by_s=200)
    for job_id in ("listed", "scheduled"):
        bench.db.set(bench.keys.lock(job_id), "video_worker_9", ex=30)
    assert look(bench).claims == ()
    assert [bench.get(job_id).state for job_id in ("listed", "scheduled")] == ["scheduled", "scheduled"]
    assert bench.counts().queued == 0


def test_a_delivery_is_not_ended_by_a_look(bench):
    """Its polling is over; it waits for a place for sends."""
    aged(bench, "job_1", by_s=200)
    claim = look(bench).claims[0]
    bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000))
    bench.expire_lease()
    assert look(bench).claims == ()


def test_a_look_goes_through_a_long_schedule_page_by_page(bench):
    """Two old jobs behind a thousand that are due, but not past their deadlines: the work of each claim is bounded."""
    aged(bench, *(f"job_{number}" for number in range(1000)), by_s=50)
    for number in range(1000):
        bench.db.zadd(bench.keys.schedule, {f"job_{number}": 1000 + number})
    aged(bench, "old_1", "old_2", by_s=111)
    found, rank, looks = [], 0, 0
    while not looks or rank:
        batch = look(bench, look_from=rank, endings=1)
        found += [claim.job_id for claim in batch.claims]
        rank, looks = batch.look_from, looks + 1
        assert looks < 10
    assert sorted(found) == ["old_1", "old_2"]
    assert looks >= 5


def test_a_look_ends_no_more_than_it_is_asked_to_and_leaves_none_out(bench):
    """The next one goes on where it stopped, though the ranks have moved."""
    aged(bench, *(f"job_{number}" for number in range(700)), by_s=120)
    found, rank, looks = set(), 0, 0
    while not looks or rank:
        batch = look(bench, look_from=rank, endings=100)
        assert len(batch.claims) <= 100
        found |= {claim.job_id for claim in batch.claims}
        rank, looks = batch.look_from, looks + 1
        assert looks < 20
        if not batch.claims:
            break
    while batch := look(bench).claims:
        found |= {claim.job_id for claim in batch}
    assert len(found) == 700


def test_damaged_records_do_not_stop_a_look(bench):
    """They get a dead letter when there is a place again; meanwhile they live on."""
    aged(bench, "old", by_s=120)
    for job_id, record in {"bad": "{", "odd": '{"startTime":"x"}', "none": "[]"}.items():
        bench.db.set(bench.keys.job(job_id), record, ex=5)
        bench.db.zadd(bench.keys.schedule, {job_id: 1})
    bench.db.zadd(bench.keys.schedule, {"gone": 1})
    bench.db.rpush(bench.keys.job("list"), "x")
    bench.db.expire(bench.keys.job("list"), 60)
    bench.db.zadd(bench.keys.schedule, {"list": 1})
    assert [claim.job_id for claim in look(bench).claims] == ["old"]
    assert bench.db.ttl(bench.keys.job("bad")) > 500


@pytest.mark.parametrize(("by_s", "ttl_s", "renewed"), [(299, 20, False), (301, 20, True), (301, 310, False)])
@pytest.mark.parametrize("how", ["claim", "look", "renew"])
def test_whoever_keeps_a_job_renews_its_record_in_the_second_half_of_its_life(bench, how, by_s, ttl_s, renewed):
    """Its time to live measures how long nobody has kept it; in the first half of it there is nothing to do."""
    patient = attrs.evolve(AT_ONCE, timeout_s=550)
    if how == "renew":
        aged(bench, "job_1", by_s=1)
        (claim,) = bench.claim(strategy=patient)
        bench.db.expire(bench.keys.job("job_1"), ttl_s)
        assert bench.call(bench.queue.renew([("job_1", claim.token, True)], LEASE)) == [True]
        renewed = ttl_s < 300
    else:
        aged(bench, "job_1", by_s=by_s, ttl_s=ttl_s)
        batch = look(bench, polls=int(how == "claim"), endings=10 * (how == "look"), strategy=patient)
        assert len(batch.claims) == (how == "claim")
    left_s = bench.db.ttl(bench.keys.job("job_1"))
    assert (left_s > 590) == renewed
    assert not bench.db.exists(bench.keys.attempts("job_1")) or bench.db.ttl(bench.keys.attempts("job_1")) > 590


def test_a_record_of_a_producer_that_knows_of_no_longer_life_is_kept_by_the_worker(bench):
    """A worker with a longer timeout beside a producer with the defaults."""
    bench.options = {"ttls": KeyTtls(job_s=3600, attempts_s=3600)}
    aged(bench, "job_1", by_s=310)
    bench.claim(strategy=attrs.evolve(AT_ONCE, timeout_s=1800))
    assert bench.db.ttl(bench.keys.job("job_1")) > 3590


def test_a_normal_poll_pays_nothing_for_keeping_its_record(bench):
    """No command more than before, while the job is young."""
    aged(bench, "job_1", by_s=20)
    bench.claim()
    bench.apply(Reschedule(bench.one("job_2"), 1))
    bench.db.config_resetstat()
    bench.claim(worker_id="w")
    stats = bench.db.info("commandstats")
    assert "cmdstat_expire" not in stats
    assert stats.get("cmdstat_pttl", {"calls": 0})["calls"] <= 1, "the age of the last attempt"


# --- transitions ---


def test_a_rescheduled_job_is_polled_again_with_its_history(bench):
    """The faults in a row and the last answer survive the worker."""
    claim = bench.one()
    bench.apply(Reschedule(claim, bench.now_ms() - 1, 3, 1_757_157_518_747))
    assert not bench.db.exists(bench.keys.lock("job_1"))
    assert not bench.db.exists(bench.keys.inflight)
    (claim,) = bench.claim()
    assert (claim.work.attempts, claim.work.faults, claim.work.last_answer_ms) == (2, 3, 1_757_157_518_747)
    bench.apply(Reschedule(claim, bench.now_ms() - 1))
    assert not bench.db.exists(bench.keys.faults)
    (claim,) = bench.claim()
    assert (claim.work.attempts, claim.work.faults) == (3, 0)


@pytest.mark.parametrize("faults", [0, 2])
def test_a_job_given_back_is_due_at_once_and_its_poll_did_not_count(bench, faults):
    """An orderly stop costs the user nothing: the id rings the doorbell of the next worker."""
    claim = bench.one(strategy=AT_ONCE)
    bench.apply(Reschedule(claim, bench.now_ms() - 1, faults))
    (claim,) = bench.claim()
    assert claim.work.attempts == 2
    assert bench.apply(Release(claim)) == [TransitionResult.APPLIED]
    assert bench.db.get(bench.keys.attempts("job_1")) == b"1"
    assert 0 < bench.db.ttl(bench.keys.attempts("job_1")) <= 600
    assert not bench.db.exists(bench.keys.lock("job_1"))
    assert bench.db.lrange(bench.keys.queue, 0, -1) == [b"job_1"]
    (again,) = bench.claim()
    assert (again.work.attempts, again.work.faults) == (2, faults)


def test_a_first_poll_given_back_leaves_no_counter(bench):
    """As if it had never been taken."""
    claim = bench.one()
    bench.apply(Release(claim))
    assert bench.names() == {"job:job_1", "poll:queue"}
    assert bench.claim()[0].work.attempts == 1


def test_a_job_taken_over_and_given_back_has_the_counter_of_before(bench):
    """The dead worker's attempt is the one that is undone: nobody knows whether it was made."""
    bench.one()
    bench.expire_lease()
    (claim,) = bench.claim()
    bench.apply(Release(claim))
    assert not bench.db.exists(bench.keys.attempts("job_1"))
    (claim,) = bench.claim()
    assert claim.work.attempts == 1


def test_a_conclusion_stores_the_outcome_and_clears_the_polling(bench):
    """In one step, before anything is sent; the lease stays."""
    claim = bench.one()
    bench.apply(Reschedule(claim, 1, 1))
    (claim,) = bench.claim()
    bench.db.zadd(bench.keys.schedule, {"job_1": 99})
    assert bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000)) == [TransitionResult.APPLIED]
    assert bench.names() == {"poll:outbox:job_1", "poll:inflight", "poll:leases"}
    assert 590 < bench.db.ttl(bench.keys.outbox("job_1")) <= 600


def test_a_conclusion_beside_a_foreign_lock_waits_for_its_end(bench):
    """Our lock vanished and another kind of worker took it: it may be sending this very outcome."""
    claim = bench.one()
    bench.db.set(bench.keys.lock("job_1"), "foreign", px=40_000)
    assert bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000)) == [TransitionResult.CONTENDED]
    assert bench.db.zscore(bench.keys.schedule, "job_1") == pytest.approx(bench.now_ms() + 40_000, abs=1500)
    assert bench.names() == {"job:job_1", "lock:job_1", "attempts:job_1", "poll:schedule"}


def test_a_conclusion_of_what_somebody_else_finished_sends_nothing(bench):
    """The user has their message already, and only the audit trail is left."""
    claim = bench.one()
    bench.db.delete(bench.keys.job("job_1"))
    bench.db.set(bench.keys.completed("job_1"), '{"success":true}', ex=60)
    assert bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000)) == [TransitionResult.FINISHED_ELSEWHERE]
    assert bench.names() == {"completed:job_1"}


def test_a_conclusion_after_the_record_expired_is_stored(bench):
    """The worker has the job in its hands: the video is not lost with the record."""
    claim = bench.one()
    bench.db.delete(bench.keys.job("job_1"))
    assert bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000)) == [TransitionResult.APPLIED]
    assert bench.get().state is JobState.DELIVERING


def test_a_delivery_put_back_is_taken_when_it_is_due(bench):
    """On its own schedule, outside the poll timeout."""
    claim = bench.one()
    entry = bench.entry(claim, tries=3)
    bench.apply(Conclude(claim, entry, 600, 12_000), Redeliver(claim, entry, 600, bench.now_ms() + 50_000))
    assert bench.claim() == ()
    bench.db.zadd(bench.keys.deliveries, {"job_1": 77})
    (claim,) = bench.claim()
    assert (claim.work, claim.due_ms) == (SendWork(entry), 77)
    assert not bench.db.exists(bench.keys.lock("job_1"), bench.keys.attempts("job_1")), "a delivery never counts"


def test_a_settlement_leaves_the_audit_trail_and_nothing_else(bench):
    """After the retention time nothing is left behind."""
    claim = bench.one()
    bench.db.hset(bench.keys.faults, "job_1", "1:")
    bench.db.zadd(bench.keys.schedule, {"job_1": 99})
    bench.db.zadd(bench.keys.deliveries, {"job_1": 99})
    bench.apply(Settle(claim, '{"success":true}'))
    assert bench.names() == {"completed:job_1"}
    assert 7190 < bench.db.ttl(bench.keys.completed("job_1")) <= 7200


def test_a_settlement_leaves_a_foreign_lock_alone(bench):
    """It is not ours to delete."""
    claim = bench.one()
    bench.db.set(bench.keys.lock("job_1"), "foreign", ex=60)
    bench.apply(Settle(claim, "{}"))
    assert bench.names() == {"completed:job_1", "lock:job_1"}


# --- cancel ---


def bring(bench: Bench, state: JobState) -> Claim | None:
    """Bring job_1 into a state."""
    if state is JobState.ORPHANED:
        bench.enqueue()
        bench.db.delete(bench.keys.queue)
        return None
    if state is JobState.QUEUED:
        bench.enqueue()
        return None
    claim = bench.one()
    entry = bench.entry(claim)
    if state is JobState.SCHEDULED:
        bench.apply(Reschedule(claim, bench.now_ms() + 50_000, 2, 9))
    elif state is JobState.DELIVERING:
        bench.apply(Conclude(claim, entry, 600, 12_000))
    elif state is JobState.OUTBOX:
        bench.apply(Conclude(claim, entry, 600, 12_000), Redeliver(claim, entry, 600, bench.now_ms() + 50_000))
    elif state is JobState.SETTLED:
        bench.finish(claim)
    elif state is JobState.DEAD:
        letter = DeadLetter("job_1", "why", bench.now_ms(), entry=entry)
        bench.apply(Settle(claim, dump(entry.outcome.to_completed(entry.job, delivered=False)), letter))
    return claim


@pytest.mark.parametrize("state", list(JobState))
def test_a_job_tells_where_it_is(bench, state):
    """For hosts, and for the person at the command line."""
    claim = bring(bench, state)
    view = bench.get()
    assert view.state is state
    assert view.job_id == "job_1"
    assert view.job is None or view.job.conversation_id == "conversation"
    expected_due = {JobState.SCHEDULED, JobState.OUTBOX}
    assert (view.due_ms is not None) == (state in expected_due)
    assert (view.lease_ms is not None) == (state in {JobState.POLLING, JobState.DELIVERING})
    assert (view.holder == "w") == (state in {JobState.POLLING, JobState.DELIVERING})
    assert view.attempts == (1 if state in {JobState.SCHEDULED, JobState.POLLING} else 0)
    assert view.faults == (2 if state is JobState.SCHEDULED else 0)
    assert view.delivered is {JobState.SETTLED: True, JobState.DEAD: False}.get(state)
    known = {JobState.DELIVERING, JobState.OUTBOX, JobState.SETTLED, JobState.DEAD}
    assert (view.outcome is not None) == (state in known)
    assert not view.foreign_lock
    assert claim is None or claim.job_id == "job_1"


def test_a_job_that_nobody_knows_is_none(bench):
    """And a hostile id is refused like everywhere else."""
    assert bench.get("nobody") is None
    with pytest.raises(InvalidJobError):
        bench.get("no\nbody")


def test_a_look_up_changes_nothing_and_bears_anything(bench):
    """An operator looks at a damaged job in particular."""
    bench.enqueue()
    bench.db.set(bench.keys.job("job_1"), "not JSON", ex=60)
    bench.db.set(bench.keys.attempts("job_1"), "9" * 5000, ex=60)
    bench.db.set(bench.keys.lock("job_1"), b"\xff", ex=60)
    bench.db.set(bench.keys.completed("job_1"), "[", ex=60)
    bench.db.zadd(bench.keys.schedule, {"job_1": "inf"})
    bench.db.hset(bench.keys.faults, "job_1", b"\xff:x")
    bench.db.hset(bench.keys.letters, "job_1", b"\xff")
    bench.db.expire(bench.keys.letters, 60)
    before = bench.everything()
    view = bench.get()
    assert view.foreign_lock
    assert view.job is None
    assert bench.everything() == before
    bench.db.delete(bench.keys.letters, bench.keys.faults)


@pytest.mark.parametrize("notify", [False, True])
@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.SCHEDULED, JobState.POLLING, JobState.ORPHANED])
def test_a_job_that_is_still_polled_can_be_cancelled(bench, state, notify):
    """It is never polled again; its user hears of it only if the host wants that."""
    claim = bring(bench, state)
    assert bench.call(bench.queue.cancel("job_1", notify=notify)) is CancelResult.CANCELLED
    if claim is not None:
        before = bench.everything()
        assert bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000)) == [TransitionResult.LOST]
        assert bench.everything() == before
    taken = bench.claim()
    if notify:
        assert [claim.work.entry.outcome.kind for claim in taken] == [OutcomeKind.CANCELLED]
        assert bench.finish(taken[0]) == "delivered"
    else:
        assert taken == ()
    assert bench.names() == {"completed:job_1"}
    told = json.loads(bench.db.get(bench.keys.completed("job_1")))
    assert (told["success"], told["error"], told["jobId"]) == (False, "Cancelled", "job_1")
    assert told["delivered"] is notify


@pytest.mark.parametrize("notify", [False, True])
def test_an_outcome_that_waits_can_be_cancelled(bench, notify):
    """The messenger has been down for an hour, and nobody wants the video any more."""
    bring(bench, JobState.OUTBOX)
    assert bench.call(bench.queue.cancel("job_1", notify=notify)) is CancelResult.CANCELLED
    taken = bench.claim()
    assert [claim.work.entry.outcome.kind for claim in taken] == [OutcomeKind.CANCELLED] * notify


@pytest.mark.parametrize("notify", [False, True])
@pytest.mark.parametrize(
    ("state", "result"),
    [
        (JobState.DELIVERING, CancelResult.SENDING),
        (JobState.SETTLED, CancelResult.FINISHED),
        (JobState.DEAD, CancelResult.FINISHED),
    ],
)
def test_a_cancel_that_comes_too_late_changes_nothing(bench, state, result, notify):
    """It says so."""
    bring(bench, state)
    before = bench.everything()
    assert bench.call(bench.queue.cancel("job_1", notify=notify)) is result
    assert bench.everything() == before


def test_a_cancel_of_nothing_says_unknown(bench):
    """And makes no job of it."""
    assert bench.call(bench.queue.cancel("nobody")) is CancelResult.UNKNOWN
    assert bench.names() == set()


def test_a_cancel_in_a_long_list_needs_no_search(bench):
    """The id is dropped when a worker meets it."""
    bench.enqueue()
    bench.db.lpush(bench.keys.queue, *(f"other_{number}" for number in range(1001)))
    assert bench.call(bench.queue.cancel("job_1")) is CancelResult.CANCELLED
    bench.db.ltrim(bench.keys.queue, -1, -1)
    (claim,) = bench.claim()
    assert claim.work == MissingRecord(finished=True)
    assert bench.finish(claim) == "gone"
    assert bench.names() == {"completed:job_1"}


@pytest.mark.parametrize("notify", [False, True])
def test_a_job_under_a_foreign_lock_is_not_cancelled(bench, notify):
    """Its holder may be sending: it looks at the record no more."""
    bench.enqueue()
    bench.db.set(bench.keys.lock("job_1"), "foreign", ex=60)
    before = bench.everything()
    assert bench.call(bench.queue.cancel("job_1", notify=notify)) is CancelResult.SENDING
    assert bench.everything() == before
    bench.db.delete(bench.keys.lock("job_1"))
    assert bench.call(bench.queue.cancel("job_1", notify=notify)) is CancelResult.CANCELLED


def test_a_foreign_lock_without_an_end_does_not_keep_a_job_from_being_cancelled_for_ever(bench):
    """It gets the end that it should have."""
    bench.enqueue()
    bench.db.set(bench.keys.lock("job_1"), "foreign")
    assert bench.call(bench.queue.cancel("job_1")) is CancelResult.SENDING
    assert 50 < bench.db.ttl(bench.keys.lock("job_1")) <= 60


# --- counts ---


def test_the_counts_tell_how_many_jobs_are_where(bench):
    """In constant time, from one look."""
    for number in range(6):
        bench.enqueue(f"job_{number}")
    claims = bench.claim(polls=5)
    due_ms = bench.now_ms() + 40_000
    bench.apply(Reschedule(claims[0], due_ms))
    entry = bench.entry(claims[1])
    bench.apply(Conclude(claims[1], entry, 600, 12_000), Redeliver(claims[1], entry, 600, due_ms))
    bench.apply(Settle(claims[2], letter=DeadLetter(claims[2].job_id, "why", 1)))
    counts = bench.counts()
    assert (counts.queued, counts.scheduled, counts.in_flight, counts.deliveries, counts.dead) == (1, 1, 2, 1, 1)
    assert counts.oldest_due_ms == due_ms
    assert counts.now_ms == pytest.approx(bench.now_ms(), abs=2000)


def test_nothing_counts_as_nothing(bench):
    """An empty Redis is no error."""
    counts = bench.counts()
    assert (counts.queued, counts.scheduled, counts.in_flight, counts.deliveries, counts.dead) == (0,) * 5
    assert counts.oldest_due_ms is None


# --- dead letters ---


def test_dead_letters_are_listed_the_newest_first(bench):
    """And page by page."""
    for number in range(5):
        bench.bury(f"job_{number}", f"reason {number}")
        bench.db.zadd(bench.keys.dead, {f"job_{number}": bench.now_ms() + number})
    letters = bench.queue.dead_letters
    assert [letter.job_id for letter in bench.call(letters.list())] == [f"job_{number}" for number in (4, 3, 2, 1, 0)]
    assert [letter.reason for letter in bench.call(letters.list(limit=2, offset=1))] == ["reason 3", "reason 2"]
    assert bench.call(letters.list(limit=0)) == []
    assert bench.call(letters.get("job_3")).reason == "reason 3"
    assert bench.call(letters.get("nobody")) is None


def test_an_undelivered_outcome_can_be_redriven(bench):
    """The video is delivered after all, with fresh attempts and a fresh deadline."""
    claim = bench.one()
    entry = bench.entry(claim, tries=40, form_failures=3, deadline_ms=5, reasons=("busy",), sending_ms=bench.now_ms())
    completed = dump(entry.outcome.to_completed(entry.job, delivered=False))
    bench.apply(Settle(claim, completed, DeadLetter("job_1", "40 sends failed", bench.now_ms(), entry=entry)))
    assert bench.call(bench.queue.dead_letters.get("job_1")).entry == entry
    assert bench.call(bench.queue.dead_letters.redrive("job_1")) is True
    assert bench.call(bench.queue.dead_letters.redrive("job_1")) is False
    (claim,) = bench.claim()
    assert (claim.work.entry.tries, claim.work.entry.form_failures) == (0, 0)
    assert claim.work.entry.sending_ms == entry.sending_ms, "the channel is asked first"
    assert claim.work.entry.deadline_ms > bench.now_ms() + 3_500_000
    assert bench.finish(claim) == "delivered"
    assert bench.names() == {"completed:job_1"}


def test_a_damaged_record_can_be_redriven(bench):
    """After the operator has repaired what was wrong beside it."""
    claim = bench.one()
    record = claim.raw.decode()
    bench.apply(Settle(claim, letter=DeadLetter("job_1", "the lock key holds a list", bench.now_ms(), record=record)))
    assert bench.names() == {"poll:dead", "poll:letters"}
    assert bench.call(bench.queue.dead_letters.redrive("job_1")) is True
    (again,) = bench.claim()
    assert again.work.job == claim.work.job
    assert bench.finish(again) == "delivered"


def test_a_bare_id_cannot_be_redriven_and_says_what_to_do(bench):
    """There is nothing to go on with."""
    bench.bury()
    before = bench.everything()
    with pytest.raises(InvalidJobError, match="enqueue the job again"):
        bench.call(bench.queue.dead_letters.redrive("job_1"))
    assert bench.everything() == before
    assert bench.call(bench.queue.dead_letters.dismiss("job_1")) is True
    assert bench.call(bench.queue.dead_letters.dismiss("job_1")) is False
    assert bench.names() == set()


def test_all_that_can_be_redriven_is(bench):
    """Bare ids stay for a person."""
    for number in range(5):
        claim = bench.one(f"job_{number}")
        record = claim.raw.decode() if number % 2 else None
        bench.apply(Settle(claim, letter=DeadLetter(claim.job_id, "why", bench.now_ms(), record=record)))
    assert bench.call(bench.queue.dead_letters.redrive_all()) == 2
    assert sorted(claim.job_id for claim in bench.claim()) == ["job_1", "job_3"]
    assert bench.counts().dead == 3


def test_letters_that_die_again_at_once_do_not_keep_redrive_all_for_ever(bench):
    """The messenger is still down, and the workers are quick."""
    claim = bench.one()
    letter = DeadLetter("job_1", "why", bench.now_ms(), record=claim.raw.decode())
    bench.apply(Settle(claim, letter=letter))
    letters = bench.queue.dead_letters
    redrive, rounds = letters._redrive, itertools.count()

    def redrive_to_die_again(job_id):
        assert next(rounds) < 50, "it does not end"
        revived = yield from redrive(job_id)
        with RedisVideoJobQueue.from_url(bench.url, prefix=bench.prefix) as other:
            claims = other.claim(polls=9, sends=9, worker_id="quick", strategy=AT_ONCE, lease=LEASE).claims
            deaths = [attrs.evolve(letter, reason=f"again {next(rounds)}") for _ in claims]
            other.apply([Settle(one, letter=death) for one, death in zip(claims, deaths, strict=True)])
        return revived

    letters._redrive = redrive_to_die_again
    assert bench.call(letters.redrive_all()) == 1


def test_dead_letters_are_bounded_by_their_number(bench):
    """The oldest go."""
    bench.options["dead_letters"] = DeadLetterPolicy(max_count=3)
    for number in range(6):
        bench.bury(f"job_{number}")
        bench.db.zadd(bench.keys.dead, {f"job_{number}": bench.now_ms() - 1000 + number})
    bench.bury("job_6")
    assert [letter.job_id for letter in bench.call(bench.queue.dead_letters.list())] == ["job_6", "job_5", "job_4"]
    assert bench.db.hlen(bench.keys.letters) == 3


def test_dead_letters_are_bounded_by_their_age(bench):
    """A week later nobody will redrive them."""
    bench.bury("job_old")
    bench.db.zadd(bench.keys.dead, {"job_old": bench.now_ms() - 8 * 86_400_000})
    bench.bury("job_new")
    assert [letter.job_id for letter in bench.call(bench.queue.dead_letters.list())] == ["job_new"]
    assert bench.db.hkeys(bench.keys.letters) == [b"job_new"]
    for key in (bench.keys.dead, bench.keys.letters):
        assert 7 * 86400 - 10 < bench.db.ttl(key) <= 7 * 86400


@pytest.mark.parametrize(
    "stored",
    [
        b"\xff",
        b"[]",
        b"{}",
        b'{"reason":7,"at":"x","entry":"{","record":1}',
        b'{"entry":"\\ud800","at":1e999}',
        b'{"entry":"\\ud800"}',
    ],
)
def test_a_damaged_dead_letter_can_be_read_and_dismissed(bench, stored):
    """Even the place for what is broken may be broken."""
    bench.db.hset(bench.keys.letters, "job_1", stored)
    bench.db.zadd(bench.keys.dead, {"job_1": bench.now_ms()})
    for key in (bench.keys.dead, bench.keys.letters):
        bench.db.expire(key, 60)
    (letter,) = bench.call(bench.queue.dead_letters.list())
    assert letter.job_id == "job_1"
    with pytest.raises(InvalidJobError):
        bench.call(bench.queue.dead_letters.redrive("job_1"))
    assert bench.call(bench.queue.dead_letters.redrive_all()) == 0
    assert bench.call(bench.queue.dead_letters.dismiss("job_1")) is True
    assert bench.names() == set()


def test_a_dead_letter_whose_record_is_no_text_is_redriven_as_it_was(bench):
    """Byte for byte: nobody else can repair it."""
    claim = bench.one()
    raw = b'{"jobId":"job_1","conversationId":"c","x":"\xff"}'
    letter = DeadLetter("job_1", "why", 1, record=raw.decode("utf-8", "surrogateescape"))
    bench.apply(Settle(claim, letter=letter))
    assert bench.call(bench.queue.dead_letters.redrive("job_1")) is True
    assert bench.db.get(bench.keys.job("job_1")) == raw


# --- recover ---


def recover(bench: Bench, **options) -> int:
    """Look for lost jobs."""
    return bench.call(bench.queue.recover(**{"idle_s": 0, **options}))


def test_a_job_that_is_nowhere_is_taken_up(bench):
    """Another kind of worker popped it and died before it pushed it back."""
    bring(bench, JobState.ORPHANED)
    assert recover(bench) == 1
    assert bench.get().state is JobState.SCHEDULED
    assert recover(bench) == 0


def test_a_job_that_was_never_polled_is_not_due_before_its_first_delay(bench):
    """A foreign producer writes the record 5 s before it pushes the id."""
    bring(bench, JobState.ORPHANED)
    assert recover(bench, initial_delay_s=5) == 1
    assert bench.get().due_ms == pytest.approx(bench.get().job.start_ms + 5000, abs=1500)


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.ORPHANED])
def test_a_job_that_is_somewhere_is_left_alone(bench, state):
    """In the list, on the schedule, in flight, in the outbox, or ended."""
    bring(bench, state)
    before = bench.everything()
    assert recover(bench) == 0
    assert bench.everything() == before


def test_a_job_that_comes_in_meanwhile_is_not_taken_for_lost(bench, monkeypatch):
    """It was not in the list yet when that was read, and it has its record by now."""
    client = bench.queue._client
    scan = client.scan

    def late(*args, **kwargs):
        until(lambda: now_ms(bench) > read_at_ms, "the clock has moved on")
        with RedisVideoJobQueue.from_url(bench.url, prefix=bench.prefix) as producer:
            producer.enqueue("job_1", conversation_id="c")
        return scan(*args, **kwargs)

    read_at_ms = now_ms(bench)
    monkeypatch.setattr(client, "scan", late)
    assert recover(bench) == 0
    assert bench.get().state is JobState.QUEUED
    assert bench.db.zcard(bench.keys.schedule) == 0


def now_ms(bench: Bench) -> int:
    """Give the server's time."""
    seconds, micros = bench.db.time()
    return seconds * 1000 + micros // 1000


def test_a_locked_job_is_taken_up_for_when_that_lock_ends(bench):
    """Somebody is polling it, or died while it did: a worker that looks only once must not pass it over."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.lock("job_1"), "foreign", px=50_000)
    assert recover(bench) == 1
    assert bench.get().due_ms == pytest.approx(bench.now_ms() + 50_000, abs=5000)
    assert bench.claim() == ()


def test_a_lock_of_another_kind_of_worker_without_an_end_gets_one(bench):
    """It would keep its job from everybody for ever."""
    bring(bench, JobState.ORPHANED)
    bench.enqueue("listed")
    for job_id in ("job_1", "listed"):
        bench.db.set(bench.keys.lock(job_id), "foreign")
    assert recover(bench) == 1
    assert bench.claim() == ()
    assert 50 < bench.db.ttl(bench.keys.lock("job_1")) <= 60
    assert 50 < bench.db.ttl(bench.keys.lock("listed")) <= 60


def test_a_lock_of_ours_that_nobody_holds_is_no_obstacle(bench):
    """Without its lease it is left over."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.lock("job_1"), "vp:w:1", ex=60)
    assert recover(bench, initial_delay_s=0) == 1
    assert len(bench.claim()) == 1


@pytest.mark.parametrize("held", [True, False])
def test_a_job_under_a_lock_is_lost_all_the_same_when_nobody_has_polled_it_for_long(bench, held):
    """Beside living workers of another kind, a lock alone says nothing: its counter does."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.lock("job_1"), "foreign", ex=60)
    bench.db.set(bench.keys.attempts("job_1"), 3, ex=600 - (10 if held else 100))
    assert recover(bench, idle_s=90) == (not held)


@pytest.mark.parametrize(("idle_s", "adopted"), [(89, 0), (95, 1)])
def test_a_job_is_lost_when_nobody_has_polled_it_for_long(bench, idle_s, adopted):
    """Foreign workers keep a job in their memory between two polls; its counter tells how long that has been."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.attempts("job_1"), 3, ex=600 - idle_s)
    assert recover(bench, idle_s=90) == adopted


def test_lost_jobs_are_looked_for_by_one_worker_at_a_time(bench):
    """A fleet of a hundred must not scan a hundred times."""
    bring(bench, JobState.ORPHANED)
    bench.db.set(bench.keys.sweeper, "vp", ex=30)
    assert recover(bench, exclusive=True) == 0
    bench.db.delete(bench.keys.sweeper)
    assert recover(bench, exclusive=True) == 1
    assert 0 < bench.db.ttl(bench.keys.sweeper) <= 30


def test_a_look_for_lost_jobs_that_takes_long_is_made_less_often(bench, monkeypatch):
    """Where there are very many keys, it takes a fiftieth of the time at most."""
    monkeypatch.setattr(operations, "SWEEP_SHARE", 1e-9)
    recover(bench, exclusive=True, every_s=120)
    assert bench.db.ttl(bench.keys.sweeper) > 120
    bench.db.delete(bench.keys.sweeper)
    monkeypatch.undo()
    recover(bench, exclusive=True, every_s=120)
    assert 0 < bench.db.ttl(bench.keys.sweeper) <= 120


def test_many_lost_jobs_among_others_are_all_found(bench):
    """In small steps; records of a wrong type are passed over."""
    bench.call(bench.queue.enqueue_many((f"job_{number}", "c", None) for number in range(1200)))
    bench.db.ltrim(bench.keys.queue, 0, 99)
    bench.db.rpush(bench.keys.job("no record"), "x")
    bench.db.expire(bench.keys.job("no record"), 60)
    bench.db.set(bench.keys.job("").encode() + BINARY, "{}", ex=60)
    assert recover(bench) == 1101
    bench.db.delete(bench.keys.job("").encode() + BINARY)


# --- records that are written again ---


TOLD = '{"success":true,"videoUrl":"https://v/1.mp4","outcome":"completed","delivered":true}'
CANCELLED = '{"success":false,"error":"Cancelled","outcome":"cancelled","delivered":false}'


@pytest.mark.parametrize("completed", [TOLD, CANCELLED], ids=["told", "cancelled"])
def test_a_record_that_is_written_again_after_the_end_is_cleared_away(bench, completed):
    """A producer or worker of another kind wrote it late: its user knows already, or wants to hear nothing."""
    bench.enqueue()
    bench.db.set(bench.keys.completed("job_1"), completed, ex=60)
    (claim,) = bench.claim()
    assert claim.work == MissingRecord(finished=True, left_over=True)
    assert bench.apply(Settle(claim)) == [TransitionResult.APPLIED]
    assert bench.names() == {"completed:job_1"}
    assert bench.db.get(bench.keys.completed("job_1")) == completed.encode()


@pytest.mark.parametrize(("completed", "said"), [(TOLD, "finished"), (CANCELLED, "cancelled")])
def test_a_cancel_of_such_a_job_says_how_it_is(bench, completed, said):
    """Told is told. A cancel that was cut off before the record went is carried out by the next."""
    bench.enqueue()
    bench.db.set(bench.keys.completed("job_1"), completed, ex=60)
    assert bench.call(bench.queue.cancel("job_1")) == said


def test_such_a_record_is_not_handed_back(bench):
    """They would poll it, and tell the user again."""
    schedule(bench, "job_1")
    bench.db.set(bench.keys.completed("job_1"), TOLD, ex=60)
    assert hand_back(bench) == HandedBack(ended=1)
    assert bench.names() == {"completed:job_1"}


def test_a_letter_that_was_cut_off_is_not_taken_for_told(bench):
    """Not delivered is not the end: whoever comes next goes on."""
    bench.enqueue()
    bench.db.set(bench.keys.completed("job_1"), TOLD.replace("true}", "false}"), ex=60)
    (claim,) = bench.claim()
    assert isinstance(claim.work, Abandoned)


# --- hand back ---


def hand_back(bench: Bench) -> HandedBack:
    """Leave the jobs to workers of another kind."""
    return bench.call(bench.queue.hand_back())


def schedule(bench: Bench, *job_ids: str, **options) -> None:
    """Have jobs wait for their next poll, in this order, each polled once."""
    for job_id in job_ids:
        bench.enqueue(job_id)
    claims = {claim.job_id: claim for claim in bench.claim()}
    due_ms = bench.now_ms() + 10_000
    bench.apply(*(Reschedule(claims[job_id], due_ms + place, **options) for place, job_id in enumerate(job_ids)))


def test_a_hand_back_of_nothing_hands_nothing_back(bench):
    """And says so."""
    assert hand_back(bench) == HandedBack()
    assert hand_back(bench).complete


def test_scheduled_jobs_are_handed_back_the_next_due_first_and_nothing_of_ours_is_left(bench):
    """They are popped from the right; records and attempts are shared."""
    schedule(bench, "job_1", "job_2", "job_3", faults=2, attempts=1)
    bench.enqueue("listed")
    assert hand_back(bench) == HandedBack(handed=3)
    assert [bench.db.rpop(bench.keys.queue).decode() for _ in range(4)] == ["listed", "job_1", "job_2", "job_3"]
    of_jobs = {f"job:{name}" for name in ("listed", "job_1", "job_2", "job_3")}
    assert bench.names() == of_jobs | {f"attempts:job_{number}" for number in (1, 2, 3)}


def test_many_jobs_are_handed_back_in_small_steps(bench):
    """Redis serves nobody else meanwhile; those under a lock do not hold up the others."""
    names = [f"job_{number:04}" for number in range(1203)]
    bench.db.zadd(bench.keys.schedule, {name: 1e13 + place for place, name in enumerate(names)})
    with bench.db.pipeline(transaction=False) as pipeline:
        for name in names:
            record = {"jobId": name, "conversationId": "c", "startTime": bench.now_ms(), "status": "polling"}
            pipeline.set(bench.keys.job(name), json.dumps(record), ex=600)
        for name in names[:3]:
            pipeline.set(bench.keys.lock(name), "foreign", ex=60)
        pipeline.execute()
    assert hand_back(bench) == HandedBack(handed=1200, locked=3)
    assert bench.db.llen(bench.keys.queue) == 1200
    bench.db.delete(*map(bench.keys.lock, names[:3]))
    assert hand_back(bench) == HandedBack(handed=3)
    assert not bench.db.exists(bench.keys.schedule)


def test_a_job_under_a_lock_without_an_end_can_be_handed_back_soon(bench):
    """They drop an id whose lock is held, and nobody would ever take it."""
    schedule(bench, "job_1")
    bench.db.set(bench.keys.lock("job_1"), "foreign")
    assert hand_back(bench) == HandedBack(locked=1)
    assert 50 < bench.db.ttl(bench.keys.lock("job_1")) <= 60


def test_an_id_that_stands_in_the_list_already_is_not_pushed_twice(bench):
    """Their workers would poll it twice as often."""
    schedule(bench, "job_1")
    bench.db.lpush(bench.keys.queue, "job_1")
    assert hand_back(bench) == HandedBack(handed=1)
    assert bench.db.lrange(bench.keys.queue, 0, -1) == [b"job_1"]


def test_a_job_that_they_have_in_their_memory_is_only_forgotten(bench):
    """Its counter has moved on since our last poll, a moment ago: pushed, it would be polled twice as often."""
    schedule(bench, "job_1", "job_2", attempts=1)
    bench.db.set(bench.keys.attempts("job_1"), 3, ex=595)
    bench.db.set(bench.keys.attempts("job_2"), 3, ex=500)
    assert hand_back(bench) == HandedBack(handed=1, theirs=1)
    assert bench.db.lrange(bench.keys.queue, 0, -1) == [b"job_2"], "nobody has polled it for 100 s: it was lost"
    assert not bench.db.exists(bench.keys.schedule, bench.keys.faults)


def test_what_they_have_ended_is_forgotten_and_makes_no_dead_letter(bench):
    """Stale places would become false dead letters whenever a worker of ours comes back."""
    schedule(bench, "ended", "long_ago", attempts=1)
    for job_id in ("ended", "long_ago"):
        bench.db.delete(bench.keys.job(job_id), bench.keys.attempts(job_id))
    bench.db.set(bench.keys.completed("ended"), '{"success":true}', ex=60)
    assert hand_back(bench) == HandedBack(ended=1, gone=("long_ago",))
    assert bench.names() == {"completed:ended"}
    assert bench.claim() == ()


def test_what_is_remembered_of_faults_goes_when_nobody_keeps_the_jobs(bench):
    """A job that was given back may be ended by a worker of another kind, which does not know of this key."""
    schedule(bench, "job_1", faults=1)
    assert 500 < bench.db.ttl(bench.keys.faults) <= 600


def test_a_job_that_they_have_and_that_we_doubt_is_only_forgotten(bench):
    """What else is remembered of it hides not whose its last poll was."""
    schedule(bench, "job_1", attempts=1, doubt_ms=7)
    bench.db.set(bench.keys.attempts("job_1"), 3, ex=595)
    assert hand_back(bench) == HandedBack(theirs=1)


def test_a_record_that_is_about_to_expire_lives_on_for_them(bench):
    """They need it until they have ended the job."""
    schedule(bench, "job_1", "job_2")
    bench.db.expire(bench.keys.job("job_1"), 50)
    bench.db.expire(bench.keys.job("job_2"), 400)
    hand_back(bench)
    assert bench.db.ttl(bench.keys.job("job_1")) > 500
    assert 300 < bench.db.ttl(bench.keys.job("job_2")) <= 400


@pytest.mark.parametrize(
    ("age_s", "used", "left"), [(100, 40, b"10"), (100, 10, b"10"), (100, 3, b"3"), (-50, 5, b"0")]
)
def test_polls_of_ours_do_not_use_up_what_they_need(bench, age_s, used, left):
    """They end a job after 30 polls, 10 s apart: a shorter interval of ours must not make them call it failed."""
    schedule(bench, "job_1")
    record = json.loads(bench.db.get(bench.keys.job("job_1")))
    record["startTime"] -= age_s * 1000
    bench.db.set(bench.keys.job("job_1"), json.dumps(record), ex=500)
    bench.db.set(bench.keys.attempts("job_1"), used, ex=500)
    assert hand_back(bench) == HandedBack(handed=1)
    assert bench.db.get(bench.keys.attempts("job_1")) == left
    assert 400 < bench.db.ttl(bench.keys.attempts("job_1")) <= 500


def test_a_dead_workers_jobs_are_handed_back_and_a_living_ones_are_not(bench):
    """Its lock would make them drop the id."""
    for job_id in ("dead", "living"):
        bench.one(job_id)
    bench.expire_lease("dead")
    bench.db.set(bench.keys.lock("dead"), "vp:w:1", ex=60)
    assert hand_back(bench) == HandedBack(handed=1, in_hand=1)
    assert bench.db.lrange(bench.keys.queue, 0, -1) == [b"dead"]
    assert not bench.db.exists(bench.keys.lock("dead"))
    assert decoded(bench.db.hkeys(bench.keys.leases)) == ["living"]


def test_outcomes_that_are_not_delivered_yet_stay_and_are_told(bench):
    """Only our workers know of them."""
    for job_id in ("waiting", "sending", "dead"):
        claim = bench.one(job_id)
        bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000))
        if job_id == "waiting":
            bench.apply(Redeliver(claim, bench.entry(claim), 600, bench.now_ms() + 50_000))
    bench.expire_lease("dead")
    bench.db.zadd(bench.keys.schedule, {"waiting": 1})
    before = bench.everything()
    result = hand_back(bench)
    assert result == HandedBack(sends=3)
    assert not result.complete
    assert before.keys() - bench.everything().keys() == {bench.keys.schedule.encode()}


# --- poison ---


@pytest.mark.parametrize("kind_of_key", KINDS)
@pytest.mark.parametrize("name", ["job", "lock", "attempts", "outbox", "completed"])
def test_a_key_of_the_wrong_type_harms_no_other_job(bench, name, kind_of_key):
    """The job becomes a dead letter or goes on; the others in the batch do not notice; nothing is left behind."""
    for number in range(3):
        bench.enqueue(f"job_{number}")
    key = getattr(bench.keys, name)("job_1")
    bench.db.delete(key)
    arguments = {"rpush": ["x"], "sadd": ["x"], "hset": ["x", "y"], "zadd": [{"x": 1}], "xadd": [{"x": 1}]}
    command = KINDS[kind_of_key]
    getattr(bench.db, command)(key, *arguments[command])
    claims = bench.claim()
    ends = {claim.job_id: bench.finish(claim) for claim in claims}
    assert ends["job_0"] == ends["job_2"] == "delivered"
    fatal = name in {"job", "lock", "attempts"}
    assert ends["job_1"] == (f"dead: the {name} key holds a {kind_of_key}" if fatal else "delivered")
    left = {"completed:job_0", "completed:job_2"}
    assert bench.names() == left | ({"poll:dead", "poll:letters"} if fatal else {"completed:job_1"})


@pytest.mark.parametrize(
    "text", ["abc", "", "nan", "-nan", "inf", "-inf", "1e400", "1e300", "1.5", "0x10", "-7", "9" * 400, " 7 ", "\xff"]
)
def test_a_counter_that_is_no_number_is_poison_for_its_job_alone(bench, text):
    """Lua reads many things as numbers that Python does not, and the whole batch would be lost."""
    bench.enqueue("job_0")
    bench.enqueue("job_1")
    bench.db.set(bench.keys.attempts("job_1"), text, ex=60)
    ends = {claim.job_id: bench.finish(claim) for claim in bench.claim()}
    assert ends == {"job_0": "delivered", "job_1": "dead: the attempts key holds no number"}
    assert bench.names() == {"completed:job_0", "poll:dead", "poll:letters"}


@pytest.mark.parametrize(
    "start",
    [
        "-1e999",
        "1e999",
        "NaN",
        "-Infinity",
        "-1e300",
        "1e300",
        "0",
        "1757157518",
        '"1757157518747"',
        "null",
        "true",
        "[1]",
        "99999999999999",
    ],
)
def test_an_absurd_start_time_is_poison_for_its_job_alone(bench, start):
    """Redis's JSON reads infinities; a due time of "-inf" is no time."""
    bench.enqueue("job_0")
    bench.db.set(bench.keys.job("job_1"), f'{{"jobId":"job_1","conversationId":"c","startTime":{start}}}', ex=60)
    bench.db.lpush(bench.keys.queue, "job_1")
    claims = bench.claim(strategy=AT_ONCE)
    ends = {claim.job_id: bench.finish(claim) for claim in claims}
    assert ends["job_0"] == "delivered"
    assert ends["job_1"].startswith(("dead: startTime is", "dead: record is not JSON", "dead: record has no startTime"))


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[]", b"7", b"null", b'{"jobId":"other"}', b"[" * 5000], ids=repr)
@pytest.mark.parametrize("strategy", [AT_ONCE, SPEC], ids=["at once", "after five seconds"])
def test_a_record_that_is_no_job_is_taken_at_once_and_named(bench, raw, strategy):
    """It must not wait for anything, and never be looked at for ever."""
    bench.db.set(bench.keys.job("job_1"), raw, ex=60)
    bench.db.lpush(bench.keys.queue, "job_1")
    (claim,) = bench.claim(strategy=strategy)
    assert isinstance(claim.work, Poison)
    assert claim.raw == raw
    assert bench.finish(claim).startswith("dead: record")
    assert bench.names() == {"poll:dead", "poll:letters"}


@pytest.mark.parametrize(
    "job_id",
    [BINARY, b"", b" ", b"a\nb", b"x" * 100_000, "ñ🎥".encode(), b"..", b"*", b"a:b:c"],
    ids=lambda one: repr(one[:9]),
)
@pytest.mark.parametrize("record", [False, True])
def test_any_bytes_in_the_list_come_to_an_end(bench, job_id, record):
    """The list is written by others: whatever stands in it leaves it, and everything of it is cleaned up."""
    if record:
        bench.db.set(bench.keys.job("").encode() + job_id, b"{}", ex=60)
    bench.enqueue("job_0")
    bench.db.lpush(bench.keys.queue, job_id)
    ends = [bench.finish(claim) for claim in bench.claim()]
    assert sorted(end[:4] for end in ends) == ["dead", "deli"]
    assert bench.names() == {"completed:job_0", "poll:dead", "poll:letters"}
    (letter,) = bench.call(bench.queue.dead_letters.list())
    assert letter.job_id.encode("utf-8", "surrogateescape") == job_id
    assert bench.call(bench.queue.dead_letters.dismiss(letter.job_id)) is True


@pytest.mark.parametrize("score", ["inf", "-inf", "1e300", "-1e300", "0.5"])
@pytest.mark.parametrize("name", ["schedule", "inflight", "deliveries"])
def test_an_absurd_score_does_not_blind_the_workers(bench, name, score):
    """One entry written by hand must not make every claim fail."""
    bench.enqueue("job_0")
    bench.db.zadd(getattr(bench.keys, name), {"odd": score})
    claims = bench.claim()
    assert "job_0" in {claim.job_id for claim in claims}
    for claim in claims:
        bench.finish(claim)
    bench.counts()
    bench.batch()
    bench.db.delete(getattr(bench.keys, name))


def test_a_record_that_expired_before_its_poll_is_gone(bench):
    """It becomes a dead letter with its bare id."""
    bench.enqueue()
    bench.db.delete(bench.keys.job("job_1"))
    (claim,) = bench.claim()
    assert claim.work == MissingRecord(finished=False)
    assert claim.raw is None
    assert not bench.db.exists(bench.keys.lock("job_1"), bench.keys.attempts("job_1"))
    assert bench.finish(claim) == "dead: no record"


def test_a_job_that_somebody_else_completed_is_no_dead_letter(bench):
    """Its record is gone and its completed record is there."""
    bench.enqueue()
    bench.db.delete(bench.keys.job("job_1"))
    bench.db.set(bench.keys.completed("job_1"), '{"success":true}', ex=60)
    (claim,) = bench.claim()
    assert claim.work == MissingRecord(finished=True)
    bench.finish(claim)
    assert bench.names() == {"completed:job_1"}


def test_a_job_with_both_records_was_abandoned_around_its_send(bench):
    """Another kind of worker writes the completed record, sends, and then deletes the job's record."""
    bench.enqueue()
    completed = {"success": True, "videoUrl": "https://v/1.mp4", "completedAt": 9}
    bench.db.set(bench.keys.completed("job_1"), json.dumps(completed), ex=60)
    (claim,) = bench.claim()
    assert isinstance(claim.work, Abandoned)
    assert claim.work.outcome == Outcome(OutcomeKind.COMPLETED, 9, video_url="https://v/1.mp4")
    assert bench.finish(claim) == "delivered"
    assert bench.names() == {"completed:job_1"}


def test_a_completed_record_that_is_no_json_is_poison(bench):
    """Nobody can say whether the user has the video."""
    bench.enqueue()
    bench.db.set(bench.keys.completed("job_1"), "[", ex=60)
    (claim,) = bench.claim()
    assert isinstance(claim.work, Poison)


def test_a_damaged_outbox_is_poison(bench):
    """It does not start a delivery to nobody."""
    claim = bench.one()
    bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000))
    bench.db.set(bench.keys.outbox("job_1"), "{}", ex=60)
    bench.expire_lease()
    (claim,) = bench.claim()
    assert isinstance(claim.work, Poison)
    assert bench.finish(claim).startswith("dead: outbox entry")


def test_a_delivery_whose_outbox_expired_is_gone(bench):
    """All workers were away for longer than the retention."""
    bring(bench, JobState.OUTBOX)
    bench.db.delete(bench.keys.outbox("job_1"))
    bench.db.zadd(bench.keys.deliveries, {"job_1": 5})
    (claim,) = bench.claim()
    assert claim.work == MissingRecord(finished=False)
    bench.finish(claim)
    assert bench.names() == {"poll:dead", "poll:letters"}


def test_full_places_for_sends_do_not_hold_up_dead_workers_polls(bench):
    """A messenger that hangs must not stop the polling of jobs whose worker died."""
    for number in range(6):
        bench.enqueue(f"send_{number}")
    for claim in bench.claim():
        bench.apply(Conclude(claim, bench.entry(claim), 600, 12_000))
        bench.expire_lease(claim.job_id)
    bench.enqueue("poll")
    bench.claim(polls=1, sends=0, lease=LeasePolicy(duration_s=60))
    bench.db.zadd(bench.keys.inflight, {"poll": 2})
    taken = bench.claim(polls=2, sends=0)
    assert [claim.job_id for claim in taken] == ["poll"]


# --- prefixes, users, clients, errors ---


def test_two_prefixes_do_not_see_each_other(bench):
    """Several deployments share one Redis."""
    bench.enqueue()
    other = bench.another(prefix=f"{bench.prefix}x")
    assert bench.call(other.get("job_1")) is None
    assert bench.call(other.claim(polls=9, sends=9, worker_id="w", strategy=AT_ONCE, lease=LEASE)).claims == ()
    assert bench.call(other.recover(idle_s=0)) == 0


@pytest.mark.parametrize("word", ["job", "poll", "lock", "attempts", "completed", "tool"])
@pytest.mark.parametrize("rest", ["", ":eu", ":queue", "job"])
def test_a_prefix_whose_keys_would_be_those_of_another_is_refused(bench, word, rest):
    """Its jobs would be taken, and their records deleted, by the queue with the shorter prefix."""
    if rest == "job":
        bench.another(prefix=f"{bench.prefix}:{word}{rest}")
        return
    with pytest.raises(ConfigurationError, match=f"the word '{word}' of our own keys"):
        bench.another(prefix=f"{bench.prefix}:{word}{rest}")


@pytest.mark.parametrize("inner", ["eu", "jobs", "eu:west", "poller", "x:"])
def test_two_queues_of_which_one_stands_inside_of_the_other_do_not_meet(bench, inner):
    """Whatever the ids are, and whatever each of them looks for, ends and cancels."""
    outer, nested = bench.queue, bench.another(prefix=f"{bench.prefix}:{inner}")
    ids = ["job_1", f"{inner}:job:job_1", "job:job_1", f"{inner}:poll:queue"]
    for queue in (outer, nested):
        for job_id in ids:
            bench.call(queue.enqueue(job_id, conversation_id=queue.keys.prefix))
    for queue in (outer, nested):
        assert bench.call(queue.recover(idle_s=0, initial_delay_s=0)) == 0
    bench.db.delete(outer.keys.queue, nested.keys.queue)
    for queue in (outer, nested):
        assert bench.call(queue.recover(idle_s=0, initial_delay_s=0)) == len(ids)
        batch = bench.call(queue.claim(polls=9, sends=9, worker_id="w", strategy=AT_ONCE, lease=LEASE))
        assert sorted(claim.job_id for claim in batch.claims) == sorted(ids)
        assert {claim.work.job.conversation_id for claim in batch.claims} == {queue.keys.prefix}
        bench.call(queue.cancel("job_1"))
    assert len(list(bench.db.scan_iter(match=f"{outer.keys.job('')}*", count=1000))) == len(ids) - 1
    assert len(list(bench.db.scan_iter(match=f"{nested.keys.job('')}*", count=1000))) == len(ids) - 1
    bench.db.delete(*nested.keys.fixed)


@attrs.define
class Stranger:
    """A queue of an earlier version whose keys stand where ours has the records of jobs."""

    bench: Bench
    keys: tuple[str, ...] = ()

    def write(self) -> dict[bytes, object]:
        """Have one job in every place, and give all keys."""
        db, inner = self.bench.db, f"{self.bench.prefix}:job"
        record = {"jobId": "abc", "conversationId": "theirs", "startTime": self.bench.now_ms(), "status": "polling"}
        db.set(f"{inner}:job:abc", json.dumps(record), ex=600)
        db.set(f"{inner}:attempts:abc", 3, ex=600)
        db.set(f"{inner}:lock:abc", "vp:w:1", ex=60)
        db.set(f"{inner}:completed:abc", json.dumps({"jobId": "abc", "success": True}), ex=600)
        db.set(f"{inner}:poll:outbox:abc", json.dumps({"v": 1, "record": record, "outcome": {}}), ex=600)
        db.set(f"{inner}:poll:sweeper", "vp", ex=30)
        db.lpush(f"{inner}:poll:queue", "abc")
        db.expire(f"{inner}:poll:queue", 60)
        return self.all()

    def all(self) -> dict[bytes, object]:
        """Give all its keys with their values."""
        db = self.bench.db
        return {key: db.dump(key) for key in db.scan_iter(match=f"{self.bench.prefix}:job:*", count=1000)}


def test_the_start_of_a_queue_takes_nothing_of_another_that_stands_in_its_way(bench):
    """Of an earlier version, which let it be built. Its record is told by the job that it names."""
    stranger = Stranger(bench)
    before = stranger.write()
    assert recover(bench, initial_delay_s=0) == 0
    for job_id in ("job:abc", "completed:abc"):
        assert bench.call(bench.queue.cancel(job_id)) is CancelResult.UNKNOWN
    assert bench.claim() == ()
    assert stranger.all() == before


def test_an_id_that_an_earlier_version_took_from_another_queue_ends_without_its_record(bench):
    """It stands in the schedule already: it becomes a dead letter, and what belongs to the other queue stays."""
    stranger = Stranger(bench)
    before = stranger.write()
    bench.db.zadd(bench.keys.schedule, {"job:abc": 1, "completed:abc": 1})
    for claim in bench.claim():
        assert isinstance(claim.work, Poison)
        letter = DeadLetter(claim.job_id, claim.work.reason, bench.now_ms())
        settle = Settle(claim, letter=letter)
        assert bench.apply(settle) == [TransitionResult.APPLIED]
        assert bench.apply(settle) == [TransitionResult.APPLIED], "its reply may have been lost"
    assert bench.counts().dead == 2
    assert stranger.all() == before


def test_a_prefix_may_be_a_hash_tag(bench):
    """One slot of a cluster; all of a job's life works with it."""
    bench.prefix = f"{{{bench.prefix}}}"
    claim = bench.one()
    assert bench.db.exists(f"{bench.prefix}:lock:job_1")
    bench.apply(Reschedule(claim, 1))
    bring_back = bench.claim()[0]
    assert bench.finish(bring_back) == "delivered"
    bench.enqueue("job_2")
    bench.db.delete(bench.keys.queue)
    assert recover(bench) == 1
    assert bench.names() == {"completed:job_1", "job:job_2", "poll:schedule"}


@pytest.fixture
def restricted(bench, redis_server):
    """A queue whose user may neither SCAN nor KEYS, and may touch no key of another prefix."""
    name = f"user-{bench.prefix}"
    bench.db.acl_setuser(
        name, enabled=True, passwords=["+secret"], keys=[f"{bench.prefix}:*"], commands=["+@all", "-scan", "-keys"]
    )
    host = bench.url.partition("://")[2]
    bench.another(f"redis://{name}:secret@{host}")
    yield bench
    bench.db.acl_deluser(name)


def test_a_user_without_scan_and_keys_can_do_everything_but_recover(restricted):
    """Operators forbid both on large servers."""
    bench = restricted
    claim = bench.one("job_1")
    bench.call(bench.queue.renew([(claim.job_id, claim.token, True)], LEASE))
    bench.apply(Reschedule(claim, 1, 1))
    bench.apply(Release(bench.claim()[0]))
    (claim,) = bench.claim()
    entry = bench.entry(claim)
    bench.apply(
        Conclude(claim, entry, 600, 12_000), BeginSend(claim, entry, 600, 9000), Redeliver(claim, entry, 600, 1)
    )
    (claim,) = bench.claim()
    bench.apply(Settle(claim, "{}", DeadLetter("job_1", "why", bench.now_ms(), entry=entry)))
    assert bench.call(bench.queue.dead_letters.redrive_all()) == 1
    bench.enqueue("job_2")
    bench.call(bench.queue.cancel("job_2", notify=True))
    assert bench.get("job_2").state is JobState.OUTBOX
    assert bench.counts().deliveries == 2
    assert bench.call(bench.queue.wait_for_work(0.01)) is False
    assert hand_back(bench).sends == 2
    with pytest.raises(QueueRefusedError, match="may not run a command"):
        recover(bench)


def test_a_user_who_may_not_touch_the_keys_is_told_so(restricted):
    """The text says what to grant; no id and no prompt is in it."""
    host = restricted.url.partition("://")[2]
    other = restricted.another(f"redis://user-{restricted.prefix}:secret@{host}", prefix="forbidden")
    with pytest.raises(QueueRefusedError) as caught:
        restricted.call(other.enqueue("secret-id", conversation_id="c", metadata={"prompt": "secret wish"}))
    assert "secret" not in str(caught.value)


def client_of(kind: str, **options):
    """Build a client of the queue's kind, which is not connected."""
    module = redis if kind == "sync" else redis.asyncio
    return module.Redis(**options)


def queue_of(kind: str, *args, **options):
    """Build a queue on clients."""
    return (RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue)(*args, **options)


def never(kind: str):
    """Give a policy of no retries."""
    if kind == "sync":
        return Retry(NoBackoff(), 0)
    return AsyncRetry(NoBackoff(), 0)


def test_a_client_that_retries_is_refused(kind):
    """A claim that is run twice leases jobs to nobody; and the client's own default is ten retries."""
    with pytest.raises(ConfigurationError, match="must not retry"):
        queue_of(kind, client_of(kind))
    fine = client_of(kind, retry=never(kind))
    for role in ("front", "blocking"):
        with pytest.raises(ConfigurationError, match="must not retry"):
            queue_of(kind, fine, **{role: client_of(kind)})
    assert queue_of(kind, fine).keys.prefix == "video"


def test_a_client_that_decodes_is_refused(kind):
    """An id in Redis may be no text."""
    with pytest.raises(ConfigurationError, match="must not decode"):
        queue_of(kind, client_of(kind, decode_responses=True, retry=never(kind)))


def test_a_client_of_the_other_kind_is_refused(kind):
    """The sentence names the other queue."""
    other = "async" if kind == "sync" else "sync"
    with pytest.raises(ConfigurationError, match=r"use (Async)?RedisVideoJobQueue for it"):
        queue_of(kind, client_of(other, retry=never(other)))


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1", "http://x", "redis://127.0.0.1:port/0", "redis://127.0.0.1:1/0?socket_timeout=x"]
)
def test_a_url_that_cannot_be_read_is_refused_without_repeating_it(kind, url):
    """It may hold a password."""
    cls = RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue
    with pytest.raises(ConfigurationError, match="it looks like redis://"):
        cls.from_url(url)


def test_a_queue_does_not_print_its_password(kind):
    """Not in a traceback either."""
    cls = RedisVideoJobQueue if kind == "sync" else AsyncRedisVideoJobQueue
    assert "secret" not in repr(cls.from_url("redis://user:secret@127.0.0.1:1/0"))


def test_a_redis_that_is_away_is_told_within_a_second(kind, call):
    """An enqueue in a web request fails fast, with a clear error."""
    bench = Bench(kind, f"redis://127.0.0.1:{unused_port()}/0", "video", call, None)
    actions = [
        bench.enqueue,
        bench.claim,
        bench.get,
        bench.counts,
        lambda: call(bench.queue.cancel("job_1")),
        lambda: call(bench.queue.recover(idle_s=0)),
        lambda: call(bench.queue.dead_letters.list()),
        lambda: call(bench.queue.dead_letters.redrive("job_1")),
        lambda: call(bench.queue.wait_for_work(5)),
    ]
    for action in actions:
        started_s = time.monotonic()
        with pytest.raises(QueueUnavailableError, match="cannot reach Redis"):
            action()
        assert time.monotonic() - started_s < 1
    call(bench.queue.close())


def test_a_redis_that_does_not_answer_is_told_in_time(kind, call):
    """A frozen server is worse than none: the host chooses how long to wait."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bench = Bench(kind, f"redis://127.0.0.1:{silent.getsockname()[1]}/0", "video", call, None)
        bench.options["front_timeout_s"] = 0.2
        started_s = time.monotonic()
        with pytest.raises(QueueUnavailableError, match="did not answer in time"):
            bench.enqueue()
        assert time.monotonic() - started_s < 1.5
        call(bench.queue.close())


class Grumpy:
    """A server that answers every script, scan and read with the same error, and counts them."""

    def __init__(self, error: str, *, hang_up: bool = False) -> None:
        self._reply = b"" if hang_up else f"-{error}\r\n".encode()
        self.scripts = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._socket.getsockname()[1]}/0?protocol=2"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                for command in re.findall(rb"\*\d+\r\n\$\d+\r\n([A-Za-z]+)", data):
                    if command.upper() in {b"EVALSHA", b"EVAL"}:
                        self.scripts += 1
                        if not self._reply:
                            return
                        connection.sendall(self._reply)
                    else:
                        connection.sendall(b"+OK\r\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


@pytest.mark.parametrize(
    "error",
    [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "NOREPLICAS Not enough good replicas to write.",
        "BUSY Redis is busy running a script.",
    ],
    ids=lambda error: error.split()[0],
)
def test_an_error_that_passes_says_try_again(kind, call, error):
    """Restarts and failovers are waited out by the worker; a person need not act."""
    with Grumpy(error) as server:
        bench = Bench(kind, server.url, "video", call, None)
        for action in (bench.enqueue, bench.claim):
            with pytest.raises(QueueUnavailableError, match="Try again"):
                action()
        call(bench.queue.close())


@pytest.mark.parametrize(
    "error", ["WRONGTYPE Operation against a key", "ERR unknown command 'EVALSHA'", "NOPERM no permissions"]
)
def test_an_error_that_does_not_pass_says_no(kind, call, error):
    """An operator has to act."""
    with Grumpy(error) as server:
        bench = Bench(kind, server.url, "video", call, None)
        for action in (bench.enqueue, bench.claim):
            with pytest.raises(QueueRefusedError):
                action()
        call(bench.queue.close())


def test_a_claim_whose_reply_was_lost_is_not_run_twice_and_an_enqueue_is(kind, call):
    """The lost claim's lease covers it; the enqueue gives the same answer twice."""
    with Grumpy("", hang_up=True) as server:
        bench = Bench(kind, server.url, "video", call, None)
        with pytest.raises(QueueUnavailableError):
            bench.claim()
        assert server.scripts == 1
        with pytest.raises(QueueUnavailableError):
            bench.enqueue()
        assert server.scripts == 3
        call(bench.queue.close())


def test_a_full_memory_is_told_and_passes(bench):
    """OOM command not allowed."""
    bench.enqueue("warm-up")
    before = bench.db.config_get("maxmemory")["maxmemory"]
    bench.db.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueUnavailableError, match="Try again"):
            bench.enqueue()
        with pytest.raises(QueueUnavailableError):
            bench.claim()
    finally:
        bench.db.config_set("maxmemory", before)
    assert bench.enqueue() is EnqueueResult.CREATED


@pytest.mark.parametrize("kind_of_key", ["set", "hash", "string"])
def test_a_queue_key_of_the_wrong_type_is_refused_before_anything_is_written(bench, kind_of_key):
    """No record without an id in the list."""
    if kind_of_key == "string":
        bench.db.set(bench.keys.queue, "x", ex=60)
    else:
        getattr(bench.db, KINDS[kind_of_key])(bench.keys.queue, *(["x", "y"] if kind_of_key == "hash" else ["x"]))
    with pytest.raises(QueueRefusedError, match="WRONGTYPE"):
        bench.enqueue()
    with pytest.raises(QueueRefusedError, match="WRONGTYPE"):
        bench.claim()
    assert bench.names() == {"poll:queue"}
    bench.db.delete(bench.keys.queue)


def test_flushed_scripts_are_loaded_again(bench):
    """A failover to a server that has never seen them."""
    bench.enqueue("job_0")
    bench.db.script_flush()
    (claim,) = bench.claim()
    bench.db.script_flush()
    assert bench.finish(claim) == "delivered"
    bench.db.script_flush()
    assert bench.enqueue() is EnqueueResult.CREATED


def mixed(bench: Bench) -> tuple:
    """Claim a job for each kind of transition that shares a round trip, and decide about them."""
    for number in range(4):
        bench.enqueue(f"job_{number}")
    first, second, third, fourth = bench.claim()
    return (
        Conclude(first, bench.entry(first), 600, 12_000),
        Settle(second, letter=DeadLetter(second.job_id, "why", 1)),
        Reschedule(third, bench.now_ms() + 60_000),
        Release(fourth),
    )


def test_transitions_of_all_kinds_take_one_round_trip_and_those_that_give_deliveries_away_a_second(bench):
    """At load a write holds some of each kind, and each round trip is time that a user waits."""
    decided = mixed(bench)
    later = Redeliver(decided[0].claim, bench.entry(decided[0].claim), 600, bench.now_ms() + 60_000)
    bench.apply(*decided, later)
    before = bench.db.info("stats")["total_reads_processed"]
    bench.apply(*decided)
    assert bench.db.info("stats")["total_reads_processed"] - before == 2, "that of this INFO included"
    before = bench.db.info("stats")["total_reads_processed"]
    bench.apply(decided[3], later)
    assert bench.db.info("stats")["total_reads_processed"] - before == 3


def test_scripts_flushed_before_a_mixed_write_are_loaded_again(bench):
    """Each of them, though the server knows some already."""
    decided = mixed(bench)
    bench.db.script_flush()
    assert bench.apply(decided[2]) == [TransitionResult.APPLIED]
    assert bench.apply(*decided) == [
        TransitionResult.APPLIED,
        TransitionResult.APPLIED,
        TransitionResult.LOST,
        TransitionResult.APPLIED,
    ]


def test_a_mixed_write_of_which_a_part_was_refused_can_be_made_again(bench):
    """Once the cause is gone, each part has been carried out once."""
    decided = mixed(bench)
    bench.db.set(bench.keys.dead, "a list it should be", ex=60)
    with pytest.raises(QueueRefusedError, match="WRONGTYPE"):
        bench.apply(*decided)
    bench.db.delete(bench.keys.dead)
    assert bench.apply(*decided)[:2] == [TransitionResult.APPLIED, TransitionResult.APPLIED]
    assert [bench.get(transition.claim.job_id).state for transition in decided] == [
        JobState.DELIVERING,
        JobState.DEAD,
        JobState.SCHEDULED,
        JobState.QUEUED,
    ]
    assert bench.db.llen(bench.keys.queue) == 1


# --- waiting ---


def test_waiting_takes_nothing_away(bench):
    """Every id is claimed by a script, never popped into a worker's memory."""
    assert bench.call(bench.queue.wait_for_work(0.01)) is False
    bench.enqueue("job_1")
    bench.enqueue("job_2")
    assert bench.call(bench.queue.wait_for_work(5)) is True
    assert decoded(bench.db.lrange(bench.keys.queue, 0, -1)) == ["job_2", "job_1"]


def test_an_idle_worker_wakes_for_a_new_id(bench):
    """Within milliseconds, not at the next look."""
    woken: list[bool] = []
    waiting = bench.another() if bench.kind == "sync" else None
    other = RedisVideoJobQueue.from_url(bench.url, prefix=bench.prefix)

    def push_when_blocked() -> None:
        until(lambda: bench.db.info("clients")["blocked_clients"], "somebody waits")
        other.enqueue("job_1", conversation_id="c")

    with other:
        helper = threading.Thread(target=push_when_blocked)
        helper.start()
        started_s = time.monotonic()
        woken.append(bench.call((waiting or bench.queue).wait_for_work(30)))
        helper.join()
    assert woken == [True]
    assert time.monotonic() - started_s < 10


def test_an_interrupted_wait_ends_at_once(redis_url, prefix):
    """A deployment that stops does not sit out a blocking read."""
    with RedisVideoJobQueue.from_url(redis_url, prefix=prefix) as queue, redis.Redis.from_url(redis_url) as db:
        answers: list[bool] = []
        waiting = threading.Thread(target=lambda: answers.append(queue.wait_for_work(30)))
        waiting.start()
        until(lambda: db.info("clients")["blocked_clients"], "it waits")
        queue.interrupt()
        waiting.join(2)
        assert answers == [False]
        assert queue.wait_for_work(30) is False
        queue.resume()
        assert queue.wait_for_work(0.01) is False


def test_custom_ttls_are_used(bench):
    """Longer jobs need longer records."""
    bench.options["ttls"] = KeyTtls(job_s=1000, lock_s=100, completed_s=2000, attempts_s=900)
    claim = bench.one()
    assert 990 < bench.db.ttl(bench.keys.job("job_1")) <= 1000
    assert 90 < bench.db.ttl(bench.keys.lock("job_1")) <= 100
    assert 890 < bench.db.ttl(bench.keys.attempts("job_1")) <= 900
    bench.finish(claim)
    assert 1990 < bench.db.ttl(bench.keys.completed("job_1")) <= 2000


def test_a_job_that_is_enqueued_again_while_its_old_self_is_buried_lives(bench):
    """A bare id on its way to the dead letters must not take the new record with it."""
    bench.enqueue()
    bench.db.delete(bench.keys.job("job_1"))
    (bare,) = bench.claim()
    assert bare.work == MissingRecord(finished=False)
    bench.enqueue()

    (verdict,) = bench.call(bench.queue.apply([Settle(bare, letter=DeadLetter("job_1", "no record", 1))]))

    assert verdict is TransitionResult.FINISHED_ELSEWHERE
    assert bench.call(bench.queue.counts()).dead == 0
    (claim,) = bench.claim()
    assert isinstance(claim.work, PollWork)
