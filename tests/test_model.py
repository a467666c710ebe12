"""A model check: random histories on a real queue, against a model that a person can read.

Workers of ours claim, work, crash, lose their leases and come back as zombies.
Workers of another kind take ids, lock, poll, push back, complete and crash, with
their own commands. Users cancel, records expire. Whatever the history: no job is
lost, none ends twice, no lease is held twice, and nothing is left behind.
"""

from __future__ import annotations

from collections import Counter

import attrs
import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from videopoll.core.delivery import open_outbox
from videopoll.jobs import Outcome, OutcomeKind
from videopoll.jobs.codec import Poison, dump
from videopoll.jobs.outcome import DeadLetter
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
from videopoll.jobs.views import CancelResult, EnqueueResult
from videopoll.policies import DeliveryPolicy, LeasePolicy, PollingStrategy
from videopoll.queue.redis_queue import RedisVideoJobQueue

IDS = tuple(f"job_{number}" for number in range(5))
job_ids = st.sampled_from(IDS)
picks = st.integers(0, 30)
AT_ONCE = PollingStrategy(initial_delay_s=0, interval_s=0.001)
LEASE = LeasePolicy(duration_s=600, renew_every_s=60)
POLICY = DeliveryPolicy()


@attrs.define
class Held:
    """A job in the hands of one of our workers."""

    claim: Claim
    entry: object = None


class Histories(RuleBasedStateMachine):
    """What may happen, in any order."""

    url: str
    prefix: str

    def __init__(self) -> None:
        super().__init__()
        self.db = redis.Redis.from_url(self.url)
        self.queue = RedisVideoJobQueue.from_url(self.url, prefix=self.prefix)
        self.keys = self.queue.keys
        self.live: set[str] = set()
        self.ends: Counter[str] = Counter()
        self.held: dict[str, Held] = {}
        self.stale: list[Claim] = []
        self.foreign: set[str] = set()
        self.lost_by_foreign: set[str] = set()

    @initialize()
    def begin(self) -> None:
        """Start with an empty Redis."""
        self._clear()

    def _clear(self) -> None:
        names = list(self.db.scan_iter(match=f"{self.prefix}:*", count=1000))
        if names:
            self.db.delete(*names)

    def _everything(self) -> dict[bytes, bytes]:
        return {key: self.db.dump(key) for key in self.db.scan_iter(match=f"{self.prefix}:*", count=1000)}

    def _now_ms(self) -> int:
        seconds, micros = self.db.time()
        return seconds * 1000 + micros // 1000

    def _end(self, job_id: str) -> None:
        assert job_id in self.live, f"{job_id} ends twice"
        self.live.discard(job_id)
        self.ends[job_id] += 1
        self.lost_by_foreign.discard(job_id)

    # --- producers and users ---

    @rule(job_id=job_ids)
    def enqueue(self, job_id: str) -> None:
        """A producer of ours; also again, after a lost reply."""
        recorded = self.db.exists(self.keys.job(job_id))
        result = self.queue.enqueue(job_id, conversation_id="c", metadata={"to": "1"})
        if job_id in self.live:
            # An expired record is written anew.
            assert result is EnqueueResult.DELIVERING or (result is EnqueueResult.KNOWN) == recorded
            if self._places(job_id):
                # (What a foreign worker polled a moment ago is left to it, and to the sweep.)
                self.lost_by_foreign.discard(job_id)
        elif result is EnqueueResult.CREATED:
            # New, or a dead letter's id, which may be taken in again.
            assert not self.ends[job_id] or self.db.hexists(self.keys.letters, job_id)
            self.live.add(job_id)
        else:
            assert self.ends[job_id]
            assert result is EnqueueResult.FINISHED

    @rule(job_id=job_ids, notify=st.booleans())
    def cancel(self, job_id: str, notify: bool) -> None:
        """A user has changed their mind."""
        result = self.queue.cancel(job_id, notify=notify)
        if result is not CancelResult.CANCELLED:
            assert result is CancelResult.SENDING or job_id not in self.foreign & self.live
            return
        assert job_id in self.live - self.foreign
        if job_id in self.held:
            self.stale.append(self.held.pop(job_id).claim)
        self.lost_by_foreign.discard(job_id)
        if not notify or self.db.exists(self.keys.completed(job_id)):
            self._end(job_id)

    # --- our workers ---

    @rule(polls=st.integers(0, 4), sends=st.integers(0, 4), worker=st.sampled_from("ab"))
    def claim(self, polls: int, sends: int, worker: str) -> None:
        """A worker has room."""
        claims = self.queue.claim(polls=polls, sends=sends, worker_id=worker, strategy=AT_ONCE, lease=LEASE).claims
        assert len({claim.job_id for claim in claims}) == len(claims)
        for claim in claims:
            before = self.held.pop(claim.job_id, None)
            if before is not None:
                assert claim.taken_over, f"the lease of {claim.job_id} is held twice"
                self.stale.append(before.claim)
            assert claim.job_id not in self.foreign or isinstance(claim.work, MissingRecord | SendWork)
            self.held[claim.job_id] = Held(claim, claim.work.entry if isinstance(claim.work, SendWork) else None)

    def _pick(self, pick: int) -> Held | None:
        names = sorted(self.held)
        return self.held[names[pick % len(names)]] if names else None

    def _commit(self, held: Held, transition: object) -> TransitionResult:
        (verdict,) = self.queue.apply([transition])
        return verdict

    @precondition(lambda self: self.held)
    @rule(pick=picks, what=st.sampled_from(["later", "now", "fault", "give back", "conclude", "conclude"]))
    def poll(self, pick: int, what: str) -> None:
        """A poll has been answered, or the worker stops."""
        held = self._pick(pick)
        job_id, claim = held.claim.job_id, held.claim
        if held.entry is not None or not isinstance(claim.work, PollWork | Abandoned):
            return
        if what == "conclude" or isinstance(claim.work, Abandoned):
            outcome = Outcome(OutcomeKind.COMPLETED, self._now_ms(), video_url="https://v/1.mp4")
            entry = open_outbox(claim.work.job, outcome, POLICY)
            verdict = self._commit(held, Conclude(claim, entry, 600, 12_000))
            if verdict is TransitionResult.APPLIED:
                held.entry = entry
                return
            assert verdict in {TransitionResult.CONTENDED, TransitionResult.FINISHED_ELSEWHERE}
            assert (verdict is TransitionResult.CONTENDED) == (job_id in self.foreign)
        else:
            due_ms = self._now_ms() + (60_000 if what == "later" else 0)
            transition = Release(claim) if what == "give back" else Reschedule(claim, due_ms, what == "fault", 7)
            assert self._commit(held, transition) is TransitionResult.APPLIED
        del self.held[job_id]

    @precondition(lambda self: self.held)
    @rule(pick=picks, what=st.sampled_from(["begin", "later", "now", "settle", "settle", "give up"]))
    def deliver(self, pick: int, what: str) -> None:
        """A send begins, fails for now, arrives, or is given up."""
        held = self._pick(pick)
        job_id, claim, entry = held.claim.job_id, held.claim, held.entry
        if entry is None:
            return
        if what == "begin":
            held.entry = attrs.evolve(entry, tries=entry.tries + 1, sending_ms=self._now_ms())
            assert self._commit(held, BeginSend(claim, held.entry, 600, 600_000)) is TransitionResult.APPLIED
            return
        if what in {"later", "now"}:
            due_ms = self._now_ms() + (60_000 if what == "later" else 0)
            transition = Redeliver(claim, entry, 600, due_ms)
        else:
            letter = DeadLetter(job_id, "why", self._now_ms(), entry=entry) if what == "give up" else None
            transition = Settle(claim, dump(entry.outcome.to_completed(entry.job, delivered=letter is None)), letter)
            self._end(job_id)
        assert self._commit(held, transition) is TransitionResult.APPLIED
        # Its reply may have been lost, and the client runs it again.
        assert self._commit(held, transition) is TransitionResult.APPLIED
        del self.held[job_id]

    @precondition(lambda self: self.held)
    @rule(pick=picks)
    def bury(self, pick: int) -> None:
        """What turned out to be no job is put away."""
        held = self._pick(pick)
        job_id, claim = held.claim.job_id, held.claim
        if isinstance(claim.work, MissingRecord) and held.entry is None:
            letter = None if claim.work.finished else DeadLetter(job_id, "no record", self._now_ms())
            enqueued_again = self.db.exists(self.keys.job(job_id), self.keys.outbox(job_id))
            verdict = self._commit(held, Settle(claim, letter=letter))
            assert verdict is (TransitionResult.FINISHED_ELSEWHERE if enqueued_again else TransitionResult.APPLIED)
            if letter and job_id in self.live and not enqueued_again:
                self._end(job_id)
            del self.held[job_id]
        else:
            assert not isinstance(claim.work, Poison), "nobody has damaged anything"

    @precondition(lambda self: self.held)
    @rule(pick=picks)
    def crash(self, pick: int) -> None:
        """A worker dies, and its lease runs out; or it is only frozen."""
        held = self._pick(pick)
        self.db.zadd(self.keys.inflight, {held.claim.job_id: 1})

    @precondition(lambda self: self.held)
    @rule(pick=picks)
    def renew(self, pick: int) -> None:
        """A worker is alive."""
        held = self._pick(pick)
        answer = self.queue.renew([(held.claim.job_id, held.claim.token, held.entry is None)], LEASE)
        assert answer == [True]

    @precondition(lambda self: self.stale)
    @rule(pick=picks, what=st.sampled_from(["reschedule", "give back", "conclude", "begin", "settle", "renew"]))
    def wake_up_as_a_zombie(self, pick: int, what: str) -> None:
        """A worker continues after its lease was given to another one: it changes nothing."""
        claim = self.stale[pick % len(self.stale)]
        before = self._everything()
        if what == "renew":
            assert self.queue.renew([(claim.job_id, claim.token, True)], LEASE) == [False]
        else:
            transition = self._zombies_transition(claim, what)
            if transition is None:
                return
            assert self.queue.apply([transition]) == [TransitionResult.LOST]
        assert self._everything() == before

    def _zombies_transition(self, claim: Claim, what: str) -> object:
        work = claim.work
        job = work.entry.job if isinstance(work, SendWork) else getattr(work, "job", None)
        if what == "reschedule":
            return Reschedule(claim, 1)
        if what == "give back":
            return Release(claim)
        if what == "settle":
            return Settle(claim, '{"written by":"a zombie"}')
        if job is None:
            return None
        entry = open_outbox(job, Outcome(OutcomeKind.FAILED, 1, error="zombie"), POLICY)
        return Conclude(claim, entry, 600, 12_000) if what == "conclude" else BeginSend(claim, entry, 600, 9000)

    @rule()
    def time_passes(self) -> None:
        """What was scheduled for later is due."""
        for key in (self.keys.schedule, self.keys.deliveries):
            for member in self.db.zrange(key, 0, -1):
                self.db.zadd(key, {member: 1})

    # --- workers of another kind ---

    @rule(job_id=job_ids)
    def foreign_push(self, job_id: str) -> None:
        """At its start, it pushes every id that has a record."""
        if self.db.exists(self.keys.job(job_id)):
            self.db.lpush(self.keys.queue, job_id)
            self.lost_by_foreign.discard(job_id)

    @rule()
    def foreign_pop(self) -> None:
        """BRPOP; skip an id without a record, or with a lock; otherwise lock, count, and poll."""
        popped = self.db.rpop(self.keys.queue)
        if popped is None:
            return
        job_id = popped.decode()
        if not self.db.exists(self.keys.job(job_id)):
            # Ours would have made a dead letter of it: they drop it, and it is as if it had never been.
            if not self._places(job_id):
                self.live.discard(job_id)
            return
        if not self.db.set(self.keys.lock(job_id), "video_worker_9", nx=True, ex=60):
            if not self._places(job_id) and job_id not in self.foreign:
                self.lost_by_foreign.add(job_id)
            return
        self.db.incr(self.keys.attempts(job_id))
        self.db.expire(self.keys.attempts(job_id), 600)
        self.foreign.add(job_id)
        self.lost_by_foreign.discard(job_id)

    @precondition(lambda self: self.foreign)
    @rule(pick=picks, what=st.sampled_from(["push back", "complete", "crash"]))
    def foreign_step(self, pick: int, what: str) -> None:
        """It pushes the id back, completes the job, or dies; its lock ends in each case."""
        job_id = sorted(self.foreign)[pick % len(self.foreign)]
        self.foreign.discard(job_id)
        if what == "complete" and self.db.exists(self.keys.job(job_id)):
            self.db.set(self.keys.completed(job_id), '{"success":true,"videoUrl":"https://v/1.mp4"}', ex=7200)
            self.db.delete(self.keys.job(job_id), self.keys.attempts(job_id))
            self._end(job_id)
        elif what == "crash":
            if job_id in self.live and not self._places(job_id):
                self.lost_by_foreign.add(job_id)
        else:
            self.db.lpush(self.keys.queue, job_id)
        self.db.delete(self.keys.lock(job_id))

    @precondition(lambda self: self.held)
    @rule(pick=picks)
    def foreign_unlock(self, pick: int) -> None:
        """It deletes a lock at its end, whoever holds it by then."""
        held = self._pick(pick)
        if held.claim.job_id not in self.foreign:
            self.db.delete(self.keys.lock(held.claim.job_id))

    @rule()
    def sweep(self) -> None:
        """One of our workers looks for lost jobs."""
        self.queue.recover(idle_s=0, initial_delay_s=0)
        found = {job_id for job_id in self.lost_by_foreign if self._places(job_id)}
        self.lost_by_foreign -= found

    @rule(job_id=job_ids)
    def record_expires(self, job_id: str) -> None:
        """No worker lived for ten minutes."""
        if job_id in self.foreign or job_id in self.lost_by_foreign:
            return
        self.db.delete(self.keys.job(job_id), self.keys.attempts(job_id))

    # --- what always holds ---

    def _places(self, job_id: str) -> set[str]:
        keys = self.keys
        found = {
            "list": self.db.lpos(keys.queue, job_id) is not None,
            "schedule": self.db.zscore(keys.schedule, job_id) is not None,
            "inflight": self.db.zscore(keys.inflight, job_id) is not None,
            "deliveries": self.db.zscore(keys.deliveries, job_id) is not None,
        }
        return {name for name, there in found.items() if there}

    @invariant()
    def every_live_job_is_somewhere(self) -> None:
        """In a place of ours, in a foreign worker's memory, or lost by one and found by the next sweep."""
        for job_id in self.live - self.foreign - self.lost_by_foreign:
            assert self._places(job_id), f"{job_id} is lost"
        for job_id in self.lost_by_foreign:
            assert self.db.exists(self.keys.job(job_id)), f"{job_id} is lost for ever"

    @invariant()
    def leases_and_flight_agree(self) -> None:
        """Whoever holds a job holds its token, and nobody else has one."""
        in_flight = {member.decode() for member in self.db.zrange(self.keys.inflight, 0, -1)}
        tokens = {name.decode(): token.decode() for name, token in self.db.hgetall(self.keys.leases).items()}
        assert in_flight == set(tokens) == set(self.held)
        assert all(tokens[job_id] == held.claim.token for job_id, held in self.held.items())

    def teardown(self) -> None:
        """Let workers of ours do what is left: every job ends, and nothing stays."""
        try:
            self._finish_everything()
        finally:
            self._clear()
            self.queue.close()
            self.db.close()

    def _finish_everything(self) -> None:
        for _ in range(20):
            for job_id in self.foreign:
                self.db.delete(self.keys.lock(job_id))
            self.lost_by_foreign |= {job_id for job_id in self.foreign & self.live if not self._places(job_id)}
            self.foreign.clear()
            self.sweep()
            self.time_passes()
            for member in self.db.zrange(self.keys.inflight, 0, -1):
                self.db.zadd(self.keys.inflight, {member: 1})
            self.claim(50, 50, "last")
            for place in range(len(self.held)):
                held = self._pick(place)
                if held is not None and held.entry is None:
                    self.poll(place, "conclude")
            while self.held:
                before = len(self.held)
                self.bury(0)
                if (
                    self.held
                    and self._pick(0).entry is None
                    and not isinstance(self._pick(0).claim.work, MissingRecord)
                ):
                    self.poll(0, "conclude")
                if self.held:
                    self.deliver(0, "settle")
                assert before or not self.held
            if not self.live and not self.db.exists(
                self.keys.queue, self.keys.schedule, self.keys.inflight, self.keys.deliveries
            ):
                break
        assert self.live == set(), "jobs without an end"
        left = {key.decode().removeprefix(f"{self.prefix}:") for key in self.db.keys(f"{self.prefix}:*")}
        ended = {f"completed:{job_id}" for job_id in IDS} | {"poll:dead", "poll:letters"}
        assert left <= ended, "keys were left behind"


@pytest.mark.slow
def test_no_history_loses_a_job_or_ends_it_twice(redis_url, prefix):
    """See the module's description. A failure prints its history, of at most forty steps."""
    machine = type("TheseHistories", (Histories,), {"url": redis_url, "prefix": prefix})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            # Making a failing history shorter can take longer than the test's time limit, which would swallow it.
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
