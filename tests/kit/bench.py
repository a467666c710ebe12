"""A queue of either kind on a bench, with a client beside it that sees what it wrote."""

from __future__ import annotations

import json

import attrs
import redis

from kit import QUEUES
from videopoll import (
    AsyncRedisVideoJobQueue,
    DeliveryPolicy,
    LeasePolicy,
    OutcomeKind,
    PollingStrategy,
    RedisVideoJobQueue,
)
from videopoll.core.delivery import Watch as WatchAction
from videopoll.core.delivery import open_outbox
from videopoll.core.receipts import completed_as_accepted, watched_entry
from videopoll.jobs import DeadLetter, JobState, Outcome
from videopoll.jobs.codec import Poison, dump
from videopoll.jobs.transition import (
    Abandoned,
    BeginWatch,
    Claim,
    Conclude,
    MissingRecord,
    PollWork,
    Redeliver,
    Reschedule,
    SendWork,
    Settle,
    TransitionResult,
)
from videopoll.jobs.views import EnqueueResult, HandedBack
from videopoll.messages import Accepted, MessageReceipt
from videopoll.queue.schema import Keys

SPEC = PollingStrategy()
AT_ONCE = PollingStrategy(initial_delay_s=0)
LEASE = LeasePolicy()
POLICY = DeliveryPolicy()
KINDS = {"list": "rpush", "set": "sadd", "hash": "hset", "zset": "zadd", "stream": "xadd"}
OVER = attrs.evolve(AT_ONCE, timeout_s=100, interval_s=10)


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
        queue = cls.from_url(url or self.url, **{"prefix": self.prefix, **QUEUES, **self.options, **options})
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

    def watch(self, claim: Claim, message_id: str | None = "wamid.1", watch_s: int = 3600, **changes):
        """Have the channel accept the message of a claimed job; give what is watched."""
        if not isinstance(claim.work, SendWork):
            self.apply(Conclude(claim, self.entry(claim), 600, 12_000))
        entry = self.entry(claim, tries=1, **changes) if not isinstance(claim.work, SendWork) else claim.work.entry
        entry = watched_entry(WatchAction(entry, Accepted(message_id)), self.now_ms())
        verdict = self.apply(BeginWatch(claim, entry, dump(completed_as_accepted(entry)), watch_s, 600))
        assert verdict == [TransitionResult.APPLIED]
        return entry

    def receive(self, *kinds: str, message_id: str | None = "wamid.1", **fields):
        """Take in what the channel tells of a message."""
        receipts = [MessageReceipt(kind=kind, message_id=message_id, **fields) for kind in kinds]
        counts = self.call(self.queue.receive_receipts(receipts))
        return {name: count for name, count in attrs.asdict(counts).items() if count}

    def completed(self, job_id: str = "job_1") -> dict:
        """What the audit trail says."""
        return json.loads(self.db.get(self.keys.completed(job_id)))

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


def decoded(values) -> list[str]:
    """Give ids as text."""
    return [value.decode() for value in values]


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
    elif state is JobState.WATCHED:
        bench.watch(claim)
    elif state is JobState.SETTLED:
        bench.finish(claim)
    elif state is JobState.DEAD:
        letter = DeadLetter("job_1", "why", bench.now_ms(), entry=entry)
        bench.apply(Settle(claim, dump(entry.outcome.to_completed(entry.job, delivered=False)), letter))
    return claim


def recover(bench: Bench, **options) -> int:
    """Look for lost jobs."""
    return bench.call(bench.queue.recover(**{"idle_s": 0, **options}))


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
