"""Every script, cut off at each of its commands: nothing is lost, and every job ends once.

Lua does not roll back. A script that fails half-way (a forbidden command, a key
of the wrong type, a slot on the move) has done what it did. Here each script is
run with a `redis.call` that raises at its k-th use, for every k, on a situation
with several jobs; then workers go on as usual.
"""

from __future__ import annotations

import json
from collections import Counter

import attrs
import pytest
import redis

from videopoll.core.delivery import Watch, open_outbox
from videopoll.core.receipts import completed_as_accepted, judge, watched_entry
from videopoll.jobs import MessageForm, Outcome, OutcomeKind
from videopoll.jobs.codec import Poison, dump
from videopoll.jobs.outcome import DeadLetter, OutboxEntry
from videopoll.jobs.transition import (
    Abandoned,
    BeginSend,
    BeginWatch,
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
from videopoll.messages import Accepted, MessageReceipt
from videopoll.policies import DeadLetterPolicy, DeliveryPolicy, KeyTtls, LeasePolicy, PollingStrategy
from videopoll.queue import calls, layout_calls, watch_calls
from videopoll.queue.redis_queue import RedisVideoJobQueue
from videopoll.queue.schema import Keys
from videopoll.queue.scripts import evaluate, run

AT_ONCE = PollingStrategy(initial_delay_s=0)
TTLS, LEASE, POLICY, DEAD = KeyTtls(), LeasePolicy(), DeliveryPolicy(), DeadLetterPolicy()
MOST_CALLS = 300

SABOTAGE = """local untouched, calls_left = redis, %d
local function counting(name)
  return function(...)
    calls_left = calls_left - 1
    if calls_left == 0 then error('cut off here') end
    return untouched[name](...)
  end
end
local redis = {call = counting('call'), pcall = counting('pcall')}
"""


@attrs.define
class Stage:
    """A queue with jobs on it, and what happens to them."""

    db: redis.Redis
    queue: RedisVideoJobQueue
    prefix: str
    ends: Counter = attrs.field(factory=Counter)
    jobs: set[str] = attrs.field(factory=set)
    doomed: set[str] = attrs.field(factory=set)

    @property
    def keys(self) -> Keys:
        """The names of its keys."""
        return Keys(self.prefix)

    def clear(self) -> None:
        """Start again."""
        names = list(self.db.scan_iter(match=f"{self.prefix}:*", count=1000))
        if names:
            self.db.delete(*names)
        self.ends.clear()
        self.jobs.clear()
        self.doomed.clear()

    def now_ms(self) -> int:
        """Redis's clock."""
        seconds, micros = self.db.time()
        return seconds * 1000 + micros // 1000

    def enqueue(self, *job_ids: str) -> None:
        """Take jobs in."""
        for job_id in job_ids:
            self.queue.enqueue(job_id, conversation_id="c", metadata={"to": "1"})
            self.jobs.add(job_id)

    def claim(self) -> dict[str, Claim]:
        """Take everything that is due."""
        batch = self.queue.claim(polls=100, sends=100, worker_id="w", strategy=AT_ONCE, lease=LEASE)
        return {claim.job_id: claim for claim in batch.claims}

    def entry(self, claim: Claim):
        """Give the outcome of a claimed job."""
        if isinstance(claim.work, SendWork):
            return claim.work.entry
        outcome = Outcome(OutcomeKind.COMPLETED, self.now_ms(), video_url="https://v/1.mp4")
        return open_outbox(claim.work.job, outcome, POLICY)

    def poison(self, job_id: str) -> None:
        """Put something in the list that is no job."""
        self.db.set(self.keys.job(job_id), f'{{"jobId":"{job_id}","damaged":true}}', ex=600)
        self.db.lpush(self.keys.queue, job_id)
        self.jobs.add(job_id)
        self.doomed.add(job_id)

    def everywhere(self) -> None:
        """Have a job in every place at once."""
        self.enqueue("scheduled", "faulty", "expired", "resumed", "sent", "waiting")
        claims = self.claim()
        later = self.now_ms() - 5
        for name in ("resumed", "sent", "waiting"):
            self.queue.apply([Conclude(claims[name], self.entry(claims[name]), 600, 12_000)])
        sending = attrs.evolve(self.entry(claims["resumed"]), sending_ms=later, tries=1)
        self.queue.apply(
            [
                Reschedule(claims["scheduled"], later),
                Reschedule(claims["faulty"], later, 3, later),
                BeginSend(claims["resumed"], sending, 600, 1),
                Redeliver(claims["sent"], self.entry(claims["sent"]), 600, later),
                Redeliver(claims["waiting"], self.entry(claims["waiting"]), 600, later + 99_000),
            ]
        )
        self.db.zadd(self.keys.inflight, {"expired": 1, "resumed": 1})
        self.enqueue("listed", "twice", "abandoned")
        self.db.lpush(self.keys.queue, "twice", "scheduled")
        self.db.set(self.keys.completed("abandoned"), '{"success":true,"videoUrl":"https://v/1.mp4"}', ex=600)
        self.enqueue("locked")
        self.db.set(self.keys.lock("locked"), "somebody else", px=60_000)
        self.poison("poison")
        self.db.lpush(self.keys.queue, "bare")
        self.jobs.add("bare")
        self.doomed.add("bare")

    # --- running a script that is cut off ---

    def cut_off(self, call: calls.ScriptCall, at: int) -> bool:
        """Run a script whose `at`-th command fails; say whether it got that far."""
        try:
            self.db.execute_command("EVAL", SABOTAGE % at + call.script.source, *call.words())
        except redis.ResponseError as error:
            if "cut off here" not in str(error):
                raise
            return True
        return False

    # --- judging ---

    def places(self, job_id: str) -> set[str]:
        """Give where a job can be found by workers, or by people at its end."""
        keys = self.keys
        found = {
            "list": self.db.lpos(keys.queue, job_id) is not None,
            "schedule": self.db.zscore(keys.schedule, job_id) is not None,
            "inflight": self.db.zscore(keys.inflight, job_id) is not None,
            "deliveries": self.db.zscore(keys.deliveries, job_id) is not None,
            "dead": self.db.zscore(keys.dead, job_id) is not None and self.db.hexists(keys.letters, job_id),
            "settled": bool(self.db.exists(keys.completed(job_id)))
            and not self.db.exists(keys.job(job_id), keys.outbox(job_id)),
        }
        return {name for name, there in found.items() if there}

    def nothing_is_lost(self) -> None:
        """Check that every job is somewhere."""
        assert {job_id for job_id in self.jobs if not self.places(job_id)} == set()

    def over(self, job_id: str) -> bool:
        """Whether a job has ended and nobody will take it up again."""
        return self.places(job_id) <= {"settled", "dead"}

    def go_on(self) -> None:
        """Let workers do their work, with all waits and leases over, until nothing is left to do."""
        for _ in range(12):
            for key in (self.keys.schedule, self.keys.inflight, self.keys.deliveries):
                for member in self.db.zrange(key, 0, -1):
                    self.db.zadd(key, {member: 1})
            for key in self.db.scan_iter(match=self.keys.lock("*"), count=1000, _type="string"):
                if self.db.get(key) == b"somebody else":
                    self.db.delete(key)
            claims = self.claim()
            if not claims and not self.db.exists(
                self.keys.queue, self.keys.schedule, self.keys.inflight, self.keys.deliveries
            ):
                return
            for claim in claims.values():
                self.finish(claim)
        pytest.fail("the jobs do not come to an end")

    def finish(self, claim: Claim) -> None:
        """Carry a claimed job to its end, as a runner does."""
        work, now_ms = claim.work, self.now_ms()
        if isinstance(work, MissingRecord) and work.finished:
            assert self.queue.apply([Settle(claim)]) == [TransitionResult.APPLIED]
            return
        self.ends[claim.job_id] += 1
        if isinstance(work, PollWork | Abandoned | SendWork):
            entry = self.entry(claim)
            if not isinstance(work, SendWork):
                assert self.queue.apply([Conclude(claim, entry, 600, 12_000)]) == [TransitionResult.APPLIED]
            completed = dump(entry.outcome.to_completed(entry.job, delivered=True))
            assert self.queue.apply([Settle(claim, completed)]) == [TransitionResult.APPLIED]
            return
        assert isinstance(work, Poison | MissingRecord)
        reason = work.reason if isinstance(work, Poison) else "no record"
        record = claim.raw.decode() if claim.raw else None
        assert self.queue.apply([Settle(claim, letter=DeadLetter(claim.job_id, reason, now_ms, record=record))]) == [
            TransitionResult.APPLIED
        ]

    def all_ended_once(self, over_before: set[str]) -> None:
        """Check the ends of all jobs, and that nothing else is left."""
        for job_id in self.jobs:
            assert self.places(job_id) in ({"settled"}, {"dead"}, {"settled", "dead"}), job_id
            assert "dead" not in self.places(job_id) or job_id in self.doomed, f"{job_id} had an end of its own"
            assert self.ends[job_id] <= 1, job_id
            assert self.ends[job_id] == 1 or job_id in over_before or "settled" in self.places(job_id), job_id
        left = {name.decode().removeprefix(f"{self.prefix}:") for name in self.db.keys(f"{self.prefix}:*")}
        ended = {f"completed:{job_id}" for job_id in self.jobs} | {"poll:dead", "poll:letters", "poll:watched"}
        # What is watched, and receipts, go by themselves.
        ended |= {name for name in left if self.db.ttl(f"{self.prefix}:{name}") > 0}
        assert left <= ended, "keys were left behind"


@pytest.fixture
def stage(redis_url, prefix):
    """A queue on which things go wrong."""
    with redis.Redis.from_url(redis_url) as db, RedisVideoJobQueue.from_url(redis_url, prefix=prefix) as queue:
        stage = Stage(db, queue, prefix)
        yield stage
        stage.clear()


def claim_everything(stage: Stage):
    """All places at once; the reply is lost with the script."""
    stage.everywhere()
    return calls.claim(stage.keys, polls=100, sends=100, token="w:cut", strategy=AT_ONCE, lease=LEASE, ttls=TTLS)


def claim_with_little_room(stage: Stage):
    """Most of what it looks at is put elsewhere."""
    stage.everywhere()
    return calls.claim(stage.keys, polls=3, sends=1, token="w:cut", strategy=AT_ONCE, lease=LEASE, ttls=TTLS)


def claim_in_turn(stage: Stage):
    """Tenants wait for their turn in lanes; one job has left the schedule, one lives again, one has just come."""
    stage.everywhere()
    stage.queue.enqueue_many([(f"{name}{n}", "c", {"tenant": name}) for name in "ab" for n in range(4)])
    stage.jobs |= {f"{name}{n}" for name in "ab" for n in range(4)}
    stage.db.set(stage.keys.tenants, "1", ex=600)
    stage.db.zadd(stage.keys.schedule, dict.fromkeys(("a0", "a1", "a2", "b0"), 1))
    stage.queue.claim(polls=2, sends=1, worker_id="w", strategy=AT_ONCE, lease=LEASE)
    assert stage.db.zcard(stage.keys.lanes) == 3
    stage.queue.cancel("a2")
    stage.queue.cancel("b2")
    stage.db.delete(stage.keys.completed("b2"))
    stage.enqueue("b2", "fresh")
    return calls.claim(stage.keys, polls=4, sends=1, token="w:cut", strategy=AT_ONCE, lease=LEASE, ttls=TTLS)


def claim_without_a_place(stage: Stage):
    """Everything is past its deadline: it is leased to be ended, from wherever it stands."""
    stage.everywhere()
    hasty = attrs.evolve(AT_ONCE, timeout_s=0.001, interval_s=0.001)
    return calls.claim(stage.keys, polls=1, sends=0, token="w:cut", strategy=hasty, lease=LEASE, ttls=TTLS, endings=100)


def claim_too_early(stage: Stage):
    """Ids that are too young move to the schedule."""
    stage.enqueue("job_1", "job_2", "job_3")
    stage.poison("poison")
    return calls.claim(
        stage.keys, polls=100, sends=100, token="w:cut", strategy=PollingStrategy(), lease=LEASE, ttls=TTLS
    )


def claim_expired_beside_a_foreign_lock(stage: Stage):
    """An expired lease is let go for the schedule."""
    stage.enqueue("job_1", "locked")
    stage.claim()
    stage.db.zadd(stage.keys.inflight, {"job_1": 1, "locked": 1})
    stage.db.set(stage.keys.lock("locked"), "somebody else", px=60_000)
    return calls.claim(stage.keys, polls=9, sends=9, token="w:cut", strategy=AT_ONCE, lease=LEASE, ttls=TTLS)


def claim_wrong_types(stage: Stage):
    """Keys of the wrong type in the batch."""
    stage.enqueue("job_1", "job_2", "job_3", "job_4")
    stage.doomed |= {"job_1", "job_2", "job_3"}
    stage.db.rpush(stage.keys.lock("job_1"), "x")
    stage.db.rpush(stage.keys.attempts("job_2"), "x")
    stage.db.delete(stage.keys.job("job_3"))
    stage.db.rpush(stage.keys.job("job_3"), "x")
    return calls.claim(stage.keys, polls=9, sends=9, token="w:cut", strategy=AT_ONCE, lease=LEASE, ttls=TTLS)


def the_call(stage: Stage, *transitions):
    """Give the one script call of some transitions."""
    (((_, call),),) = calls.apply(stage.keys, transitions, TTLS, DEAD)
    return call


def three(stage: Stage) -> list[Claim]:
    """Give three claimed jobs, beside others that nothing happens to."""
    stage.everywhere()
    stage.claim()
    stage.enqueue("job_1", "job_2", "job_3")
    claims = stage.claim()
    return [claims[job_id] for job_id in ("job_1", "job_2", "job_3")]


def reschedule(stage: Stage):
    """Some with faults, some without."""
    one, two, other = three(stage)
    return the_call(stage, Reschedule(one, stage.now_ms()), Reschedule(two, 9, 2, 5), Reschedule(other, 9))


def release(stage: Stage):
    """Some with a counter to restore, one to be due later."""
    one, two, other = three(stage)
    stage.queue.apply([Reschedule(other, 1, 1)])
    again = stage.claim()["job_3"]
    return the_call(stage, Release(one), Release(two, stage.now_ms() + 9000), Release(again))


def conclude(stage: Stage):
    """One ordinary, one beside a foreign lock, one finished elsewhere."""
    one, two, other = three(stage)
    stage.db.set(stage.keys.lock("job_2"), "somebody else", px=60)
    stage.db.delete(stage.keys.job("job_3"))
    stage.db.set(stage.keys.completed("job_3"), '{"success":true}', ex=600)
    return the_call(stage, *(Conclude(claim, stage.entry(claim), 600, 12_000) for claim in (one, two, other)))


def begin_send(stage: Stage):
    """The last step before a message goes out."""
    claims = three(stage)
    for claim in claims:
        stage.queue.apply([Conclude(claim, stage.entry(claim), 600, 12_000)])
    return the_call(stage, *(BeginSend(claim, stage.entry(claim), 600, 9000) for claim in claims))


def redeliver(stage: Stage):
    """Deliveries that are put back."""
    claims = three(stage)
    for claim in claims:
        stage.queue.apply([Conclude(claim, stage.entry(claim), 600, 12_000)])
    return the_call(stage, *(Redeliver(claim, stage.entry(claim), 600, 9) for claim in claims))


def settle_delivered(stage: Stage):
    """Users have their videos."""
    claims = three(stage)
    for claim in claims:
        stage.queue.apply([Conclude(claim, stage.entry(claim), 600, 12_000)])
    return the_call(stage, *(Settle(claim, '{"success":true}') for claim in claims))


def watching(stage: Stage):
    """Channels have accepted messages; a receipt of one of them was here first."""
    claims = three(stage)
    watches = []
    for claim in claims:
        stage.queue.apply([Conclude(claim, stage.entry(claim), 600, 12_000)])
        entry = watched_entry(Watch(attrs.evolve(stage.entry(claim), tries=1), Accepted(claim.job_id)), stage.now_ms())
        watches.append(BeginWatch(claim, entry, dump(completed_as_accepted(entry)), 600, 600))
    stage.queue.receive_receipts([MessageReceipt(kind="failed", message_id="job_2")])
    return the_call(stage, *watches)


def settle_dead(stage: Stage):
    """An undelivered outcome, and a poison; there are too many letters already."""
    stage.poison("poison_2")
    one, _, _ = three(stage)
    stage.doomed.add("job_1")
    entry = stage.entry(one)
    stage.queue.apply([Conclude(one, entry, 600, 12_000)])
    stage.db.zadd(stage.keys.inflight, {"poison_2": 1})
    poison = stage.claim()["poison_2"]
    letters = (
        Settle(one, '{"success":true,"delivered":false}', DeadLetter("job_1", "why", stage.now_ms(), entry=entry)),
        Settle(poison, letter=DeadLetter("poison_2", "damaged", stage.now_ms(), record=poison.raw.decode())),
    )
    return the_call(stage, *letters)


def renew(stage: Stage):
    """Of several jobs, polls and sends."""
    one, two, other = three(stage)
    stage.queue.apply([Conclude(two, stage.entry(two), 600, 12_000)])
    held = [(claim.job_id, claim.token, claim is not two) for claim in (one, two, other)]
    return calls.renew(stage.keys, held, LEASE, TTLS)


def cancelling(state: str, *, notify: bool):
    """Cancel a job that is in this state."""

    def prepare(stage: Stage):
        stage.everywhere()
        if state == "inflight":
            stage.claim()
        job_id = {"inflight": "listed"}.get(state, state)
        view = stage.queue.get(job_id)
        outcome = Outcome(OutcomeKind.CANCELLED, view.now_ms, error="Cancelled")
        notice = open_outbox(view.job, outcome, POLICY)
        assert notice.form is MessageForm.TEXT
        return calls.cancel(
            stage.keys,
            job_id,
            completed='{"success":false,"error":"Cancelled"}',
            ttls=TTLS,
            notice=notice.to_json() if notify else "",
            notice_s=600,
        )

    prepare.__name__ = f"cancel_{state}_{'with' if notify else 'without'}_notice"
    return prepare


def recover(stage: Stage):
    """Jobs that workers of other kinds lost, one of them under a lock that never ends."""
    stage.enqueue("job_1", "job_2")
    stage.db.delete(stage.keys.queue)
    stage.db.set(stage.keys.lock("job_2"), "somebody else")
    return calls.recover(stage.keys, ["job_1", "job_2"], idle_s=0, initial_delay_s=0, looked_at_ms=2**53, ttls=TTLS)


def hand_back(stage: Stage):
    """Jobs in every place, for workers of another kind; a worker of ours goes on after it."""
    stage.everywhere()
    stage.jobs.add("ended")
    stage.db.zadd(stage.keys.schedule, {"ended": 1})
    stage.db.set(stage.keys.completed("ended"), '{"success":true}', ex=600)
    return calls.hand_back(stage.keys, TTLS, stay=0, leases=True)


def redriving(what: str):
    """Bring a dead letter back."""

    def prepare(stage: Stage):
        one, _, _ = three(stage)
        entry = stage.entry(one)
        stage.queue.apply([Conclude(one, entry, 600, 12_000)])
        record = one.raw.decode()
        letter = DeadLetter("job_1", "why", 1, record=record, entry=entry if what == "entry" else None)
        stage.queue.apply([Settle(one, '{"success":true}', letter)])
        stored = stage.db.hget(stage.keys.letters, "job_1")
        words = {"entry": entry.to_json(), "entry_s": 600} if what == "entry" else {"record": record}
        return calls.redrive(stage.keys, "job_1", stored, ttls=TTLS, **words)

    prepare.__name__ = f"redrive_{what}"
    return prepare


SITUATIONS = [
    claim_everything,
    claim_with_little_room,
    claim_in_turn,
    claim_without_a_place,
    claim_too_early,
    claim_expired_beside_a_foreign_lock,
    claim_wrong_types,
    reschedule,
    release,
    conclude,
    begin_send,
    redeliver,
    settle_delivered,
    watching,
    settle_dead,
    renew,
    hand_back,
    *(
        cancelling(state, notify=notify)
        for state in ("listed", "scheduled", "inflight", "waiting")
        for notify in (0, 1)
    ),
]


@pytest.mark.parametrize("prepare", SITUATIONS, ids=lambda prepare: prepare.__name__)
def test_a_script_that_is_cut_off_anywhere_loses_nothing(stage, prepare):
    """After each abort every job is findable, and workers bring each to its end once, and leave nothing behind."""
    for at in range(1, MOST_CALLS):
        stage.clear()
        call = prepare(stage)
        cut = stage.cut_off(call, at)
        stage.nothing_is_lost()
        over_before = {job_id for job_id in stage.jobs if stage.over(job_id)}
        stage.go_on()
        stage.all_ended_once(over_before)
        if not cut:
            assert at > 2, "it has to be cut off somewhere"
            return
    pytest.fail("the script has more commands than that")


def test_an_enqueue_that_is_cut_off_anywhere_is_healed_by_the_next(stage):
    """Its producer got an error, and was told to try again."""
    jobs = [(f"job_{number}", "c", {"to": "1"}) for number in range(3)]
    for at in range(1, MOST_CALLS):
        stage.clear()
        cut = stage.cut_off(layout_calls.enqueue(stage.keys, jobs, TTLS), at)
        stage.queue.enqueue_many(jobs)
        stage.jobs = {job_id for job_id, _, _ in jobs}
        stage.nothing_is_lost()
        assert stage.db.llen(stage.keys.queue) == 3
        stage.go_on()
        stage.all_ended_once(set())
        if not cut:
            return


def test_an_adoption_that_is_cut_off_anywhere_is_healed_by_the_next(stage):
    """The next sweep finds what this one did not take up."""
    for at in range(1, MOST_CALLS):
        stage.clear()
        cut = stage.cut_off(recover(stage), at)
        stage.queue.recover(idle_s=0, initial_delay_s=0)
        stage.nothing_is_lost()
        stage.go_on()
        stage.all_ended_once(set())
        if not cut:
            return


@pytest.mark.parametrize("what", ["entry", "record"])
def test_a_redrive_that_is_cut_off_anywhere_is_healed_by_the_next(stage, what):
    """The letter goes last: until then the operator, who got an error, can do it again."""
    prepare = redriving(what)
    for at in range(1, MOST_CALLS):
        stage.clear()
        cut = stage.cut_off(prepare(stage), at)
        stage.queue.dead_letters.redrive("job_1")
        stage.nothing_is_lost()
        over_before = {job_id for job_id in stage.jobs if stage.over(job_id)}
        stage.go_on()
        assert stage.ends["job_1"] == 1
        assert stage.places("job_1") == {"settled"}
        stage.all_ended_once(over_before)
        if not cut:
            return


def test_a_settlement_that_is_cut_off_keeps_the_letter_that_says_more(stage):
    """The record of a poison is all that a redrive has: whoever takes the id over finds it bare."""
    for at in range(1, MOST_CALLS):
        stage.clear()
        call = settle_dead(stage)
        cut = stage.cut_off(call, at)
        stage.go_on()
        letter = json.loads(stage.db.hget(stage.keys.letters, "poison_2"))
        assert letter["record"] == '{"jobId":"poison_2","damaged":true}', f"cut off at {at}"
        if not cut:
            return


@pytest.mark.parametrize("kind", ["failed", "delivered"])
def test_a_receipt_that_is_cut_off_anywhere_is_taken_when_it_comes_again(stage, kind):
    """Its channel got an error, and sends it again; until it is carried out the watch stays."""
    receipt = MessageReceipt(kind=kind, message_id="job_1")
    for at in range(1, MOST_CALLS):
        stage.clear()
        stage.queue.apply([])
        call = watching(stage)
        assert not stage.cut_off(call, MOST_CALLS)
        _, (found,) = run(evaluate(stage.db, watch_calls.find_watched(stage.keys, [receipt])))
        entry = OutboxEntry.from_json("job_1", found.watch)
        judged = judge(entry, json.loads(found.completed), receipt, stage.now_ms())
        words = {"completed": dump(judged.completed)} if kind == "delivered" else {"entry": judged.entry.to_json()}
        cut = stage.cut_off(watch_calls.receive(stage.keys, "job_1", found, keep_s=600, ttls=TTLS, **words), at)
        stage.queue.receive_receipts([receipt])
        if kind == "failed":
            assert stage.places("job_1") == {"deliveries"}
            assert stage.claim()["job_1"].work.entry.accepted.receipt
        else:
            assert stage.queue.get("job_1").delivered is True
        if not cut:
            assert at > 3
            return


def test_early_receipts_whose_script_is_cut_off_anywhere_are_bounded_all_the_same(stage):
    """What is kept and not counted would stay for as long as others come."""
    some = [(MessageReceipt(kind="failed", message_id=f"{number}"), None) for number in range(3)]
    for at in range(1, MOST_CALLS):
        stage.clear()
        cut = stage.cut_off(watch_calls.keep(stage.keys, some), at)
        kept = set(stage.db.hkeys(stage.keys.early))
        assert kept <= set(stage.db.zrange(stage.keys.early_times, 0, -1))
        stage.queue.receive_receipts([one for one, _ in some])
        assert stage.db.hlen(stage.keys.early) == 3
        if not cut:
            return


@pytest.mark.parametrize("prepare", SITUATIONS, ids=lambda prepare: prepare.__name__)
def test_a_script_cut_off_lets_no_stale_worker_in(stage, prepare):
    """Where an id is not in flight, nobody's token is left: a token without a lease would open the fence."""
    for at in range(1, MOST_CALLS):
        stage.clear()
        cut = stage.cut_off(prepare(stage), at)
        held = {name.decode() for name in stage.db.hkeys(stage.keys.leases)}
        in_flight = {name.decode() for name in stage.db.zrange(stage.keys.inflight, 0, -1)}
        assert held <= in_flight, f"cut off at {at}"
        if not cut:
            return
