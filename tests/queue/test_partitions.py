"""A queue of several partitions is one queue for producers and operators, and may be given more of them at any time."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter

import attrs
import pytest
import redis

from kit import until
from kit.bench import AT_ONCE, LEASE, Bench
from videopoll.errors import ConfigurationError, JobNotFoundError, QueueRefusedError
from videopoll.jobs import JobState
from videopoll.jobs.transition import Reschedule, Settle
from videopoll.jobs.views import CancelResult, EnqueueResult, Health
from videopoll.queue import layout_calls, partitions
from videopoll.queue.history import RedisHistory
from videopoll.queue.layout import homes, prefix_of
from videopoll.queue.schema import Keys

JOBS = [f"job_{number}" for number in range(60)]


@pytest.fixture
def bench(kind, call, redis_url, prefix):
    """A queue of three partitions, of either kind."""
    with redis.Redis.from_url(redis_url) as db:
        bench = Bench(kind, redis_url, f"{{{prefix}}}", call, db, options={"partitions": 3})
        yield bench
        for queue in bench.queues:
            call(queue.close())


def keys_of(bench, partition: int) -> Keys:
    """Give the names of the keys of a partition."""
    return Keys(prefix_of(bench.prefix, partition))


def where(bench, job_id: str, most: int = 8) -> list[int]:
    """Give the partitions in which a job has a record."""
    return [one for one in range(most) if bench.db.exists(keys_of(bench, one).job(job_id))]


def enqueue(bench, *job_ids: str, queue=None) -> list[EnqueueResult]:
    """Take jobs in."""
    jobs = [(job_id, f"for-{job_id}", None) for job_id in job_ids]
    return bench.call((queue or bench.queue).enqueue_many(jobs))


def test_jobs_are_spread_over_partitions_by_their_ids(bench):
    """Each is a whole queue, at home in a slot of its own."""
    assert enqueue(bench, *JOBS) == [EnqueueResult.CREATED] * 60
    assert enqueue(bench, *JOBS) == [EnqueueResult.KNOWN] * 60
    assert {job_id: where(bench, job_id) for job_id in JOBS} == {job_id: [homes(job_id, 3)[-1]] for job_id in JOBS}
    listed = [bench.db.llen(keys_of(bench, one).queue) for one in range(3)]
    assert sum(listed) == 60
    assert min(listed) > 10


def test_one_partition_is_the_queue_as_it_was(bench):
    """A queue can be given partitions later, and what is in it stays."""
    single, plain = bench.another(partitions=1), bench.another(partitions=None)
    bench.call(plain.enqueue("job_1", conversation_id="c"))
    assert bench.call(single.enqueue("job_1", conversation_id="c")) is EnqueueResult.KNOWN
    assert bench.call(single.get("job_1")).state is JobState.QUEUED
    assert single.keys.prefix == bench.prefix
    assert repr(single).startswith(("RedisVideoJobQueue(", "AsyncRedisVideoJobQueue("))
    assert "partitions=1" in repr(single)


def test_tenants_have_turns_in_each_partition(bench):
    """A tenant's jobs are spread like all others, and so are its turns."""
    queue = bench.another(tenant_key="brand")
    jobs = [(f"{tenant}_{number}", "c", {"brand": tenant}) for tenant in ("heavy", "light") for number in range(60)]
    bench.call(queue.enqueue_many(jobs))

    taken = Counter(claim.job_id.partition("_")[0] for _ in range(3) for claim in bench.claim(polls=8))

    assert taken.total() == 24
    assert 9 <= taken["light"] <= 15
    assert all(bench.db.exists(keys_of(bench, one).lanes) for one in range(3))


def test_operators_see_all_partitions_as_one(bench):
    """The counts, the list, in the order of their turn, and a job by its id."""
    enqueue(bench, *JOBS)
    taken = bench.claim(polls=20)
    assert len(taken) == 20
    counts = bench.counts()
    assert (counts.queued, counts.in_flight, counts.pending) == (40, 20, 60)
    first = bench.call(bench.queue.list_jobs(limit=25))
    rest = bench.call(bench.queue.list_jobs(limit=100, offset=25))
    assert (len(first.jobs), first.more) == (25, True)
    assert (len(rest.jobs), rest.more) == (35, False)
    assert {job.job_id for job in (*first.jobs, *rest.jobs)} == set(JOBS)
    states = [job.state for job in (*first.jobs, *rest.jobs)]
    assert states == [JobState.POLLING] * 20 + [JobState.QUEUED] * 40
    assert {bench.get(job_id).job_id for job_id in JOBS} == set(JOBS)
    assert bench.get("another") is None


def test_a_queue_that_is_closed_leaves_no_thread(bench):
    """A host that closes it means it: a check for threads that are left would find those which ask several servers."""
    before = set(threading.enumerate())
    enqueue(bench, *JOBS)
    assert len(bench.claim(polls=20)) == 20
    bench.call(bench.queue.close())
    until(lambda: set(threading.enumerate()) <= before, "they have ended", 5)


def test_each_call_by_id_finds_its_partition(bench):
    """Cancel, the next poll, the outcome: nobody says where the job is."""
    enqueue(bench, *JOBS)
    assert [bench.call(bench.queue.cancel(job_id)) for job_id in JOBS[:6]] == [CancelResult.CANCELLED] * 6
    assert bench.call(bench.queue.cancel("another")) is CancelResult.UNKNOWN
    assert bench.call(bench.queue.wait(JOBS[0], timeout_s=1)).kind.value == "cancelled"
    assert bench.call(bench.queue.wait(JOBS[10], timeout_s=0)) is None
    with pytest.raises(JobNotFoundError):
        bench.call(bench.queue.wait("another", timeout_s=1))
    assert bench.claim(polls=60, strategy=bench_strategy(5)) == ()
    assert {bench.call(bench.queue.poll_now(job_id)) for job_id in JOBS[6:20]} == {True}
    assert bench.call(bench.queue.poll_now("another")) is False
    assert bench.call(bench.queue.drain(timeout_s=0)).pending == 54


def bench_strategy(initial_delay_s: float):
    """Give a strategy whose first poll is so far off."""
    return type(AT_ONCE)(initial_delay_s=initial_delay_s)


def test_dead_letters_of_all_partitions_are_one_list(bench):
    """The newest first; and each can be redriven or dismissed by its id."""
    enqueue(bench, *JOBS[:9])
    claims = bench.claim()
    bench.apply(*(Settle(claim, letter=bench_letter(bench, claim)) for claim in claims))
    letters = bench.queue.dead_letters
    assert [len(bench.call(letters.list(limit=4, offset=offset))) for offset in (0, 4, 8)] == [4, 4, 1]
    assert {letter.job_id for letter in bench.call(letters.list())} == set(JOBS[:9])
    assert bench.call(letters.get(JOBS[3])).job_id == JOBS[3]
    assert bench.call(letters.dismiss(JOBS[0])) is True
    assert bench.call(letters.redrive(JOBS[1])) is True
    assert bench.call(letters.redrive("another")) is False
    assert bench.call(letters.redrive_all()) == 7
    assert (bench.counts().dead, bench.counts().pending) == (0, 8)


def bench_letter(bench, claim):
    """Give a dead letter of a claimed job."""
    from videopoll._reasons import own
    from videopoll.jobs import DeadLetter

    return DeadLetter(claim.job_id, own("for a test"), bench.now_ms(), record=claim.raw.decode())


@pytest.mark.parametrize("options", [{"partitions": 0}, {"partitions": 2.0}, {"partitions": 1001}, {"serve": ()}])
def test_numbers_that_cannot_be_are_refused_when_the_queue_is_built(bench, options):
    """Not at the first job."""
    with pytest.raises(ConfigurationError):
        bench.another(**options)


@pytest.mark.parametrize("serve", [(-1,), ("0",), "0,1", (1000,)])
def test_partitions_to_serve_that_cannot_be_are_refused(bench, serve):
    """They are numbers from 0."""
    with pytest.raises(ConfigurationError, match="serve"):
        bench.another(serve=serve)


# --- more partitions ---


def test_a_producer_learns_of_more_partitions(bench):
    """Whoever was first to know tells the others, by Redis."""
    enqueue(bench, *JOBS)
    more = bench.another(partitions=5)
    assert enqueue(bench, *JOBS, queue=more) == [EnqueueResult.KNOWN] * 60
    new = [f"new_{number}" for number in range(60)]
    assert enqueue(bench, *new) == [EnqueueResult.CREATED] * 60
    assert {job_id: where(bench, job_id) for job_id in new} == {job_id: [homes(job_id, 5)[-1]] for job_id in new}
    assert enqueue(bench, *new, queue=more) == [EnqueueResult.KNOWN] * 60
    assert "partitions=5" in repr(bench.queue)


NEW = [job_id for job_id in JOBS if homes(job_id, 5)[-1] > 2]
"""Those at home in the fourth and fifth of five partitions."""


@pytest.fixture
def grown(bench):
    """A bench whose queue has five partitions, of which the queues of `bench` do not know; its jobs are in the last two."""
    grown = attrs.evolve(bench, queues=[], options={"partitions": 5})
    enqueue(grown, *NEW)
    assert len(NEW) > 10
    yield grown
    for queue in grown.queues:
        bench.call(queue.close())


def test_an_operator_sees_partitions_that_have_come_since(bench, grown):
    """Who only looks hands no job in from which it would learn: a drain would be over too soon."""
    grown.apply(*(Reschedule(claim, bench.now_ms() + 60_000, 0, 0) for claim in grown.claim()))
    for job_id in NEW:
        bench.db.xadd(keys_of(bench, homes(job_id, 5)[-1]).history, {"job": job_id, "step": "taken", "by": "w"})
    last = keys_of(bench, 4)
    bench.db.zadd(last.workers, {"w": bench.now_ms()})
    bench.db.zadd(last.brakes, {"fal:1": bench.now_ms() + 60_000})
    for key in (keys_of(bench, 3).history, last.history, last.workers, last.brakes):
        bench.db.expire(key, 60)

    def older():
        return bench.another()

    assert bench.call(older().counts()).scheduled == len(NEW)
    assert bench.call(older().drain(timeout_s=0)).pending == len(NEW)
    assert {job.job_id for job in bench.call(older().list_jobs()).jobs} == set(NEW)
    assert {entry.job_id for entry in bench.call(older().history())} == set(NEW)
    assert len(bench.call(older().history(NEW[0]))) == 1
    assert [worker.worker_id for worker in bench.call(older().workers())] == ["w"]
    assert list(bench.call(older().held_accounts())) == ["fal:1"]
    assert bench.call(older().hand_back()).handed == len(NEW)


def test_an_operator_sees_dead_letters_of_partitions_that_have_come_since(bench, grown):
    """The list, one of them, and all at once."""
    grown.apply(*(Settle(claim, letter=bench_letter(bench, claim)) for claim in grown.claim()))
    assert {letter.job_id for letter in bench.call(bench.another().dead_letters.list())} == set(NEW)
    assert bench.call(bench.another().dead_letters.dismiss(NEW[0])) is True
    assert bench.call(bench.another().dead_letters.redrive(NEW[1])) is True
    assert bench.call(bench.another().dead_letters.redrive_all()) == len(NEW) - 2


class Idle:
    """A runner that has nothing to do."""

    worker_id, concurrency, polls_in_hand, sends_in_hand, stopping = "idle", 1, 0, 0, False

    def health(self):
        """Say that all is well."""
        return Health(healthy=True)


@pytest.mark.parametrize(("serve", "seen"), [(None, [0, 1, 2, 3, 4]), ((0, 4), [0, 4])])
def test_an_idle_worker_is_seen_in_partitions_that_have_come_since(bench, serve, seen):
    """Nothing has to happen there first: `doctor` would say that nobody serves them."""
    queue = bench.another(serve=serve)
    history = queue.open_history()
    history.follow(Idle())
    enqueue(bench, *NEW, queue=bench.another(partitions=5))
    bench.call(queue.counts())

    until(lambda: [one for one in range(5) if bench.db.exists(keys_of(bench, one).workers)] == seen, "it is seen")
    assert history.close()


def test_a_worker_that_cannot_be_shown_in_new_partitions_holds_up_nobody(bench, monkeypatch, caplog):
    """Whoever learns of them may be a producer: its job is taken in all the same."""

    def no_thread(*_args, **_options):
        msg = "can't start new thread"
        raise RuntimeError(msg)

    queue = bench.another()
    history = queue.open_history()
    history.follow(Idle())
    enqueue(bench, NEW[0], queue=bench.another(partitions=5))
    monkeypatch.setattr(RedisHistory, "follow", no_thread)

    enqueue(bench, NEW[1], queue=queue)
    assert bench.get(NEW[1]).state is JobState.QUEUED
    assert "partitions=5" in repr(queue)
    assert "cannot be seen in all partitions" in caplog.text
    assert history.close()


def test_a_receipt_finds_its_message_in_a_partition_that_has_come_since(bench, grown):
    """Whoever takes receipts in may never hand a job in."""
    claims = {claim.job_id: claim for claim in grown.claim()}
    grown.watch(claims[NEW[0]])

    assert bench.receive("delivered") == {"delivered": 1}
    assert bench.get(NEW[0]).delivered is True


def test_a_job_is_found_where_it_was_taken_in(bench):
    """By its id, also by who knows of fewer partitions, and by who knows of more."""
    old = JOBS[:30]
    enqueue(bench, *old)
    more = bench.another(partitions=5)
    new = JOBS[30:]
    enqueue(bench, *new, queue=more)
    for queue in (bench.another(), more):
        assert {bench.call(queue.get(job_id)).job_id for job_id in JOBS} == set(JOBS)
    assert {bench.call(more.cancel(job_id)) for job_id in old} == {CancelResult.CANCELLED}
    late = bench.another()
    assert {bench.call(late.cancel(job_id)) for job_id in new} == {CancelResult.CANCELLED}


def test_a_queue_without_partitions_refuses_what_may_be_at_home_elsewhere(bench):
    """It says what to do; nothing is taken in twice."""
    enqueue(bench, *JOBS)
    plain = bench.another(partitions=None)
    with pytest.raises(QueueRefusedError, match="partitions=3"):
        enqueue(bench, "job_1", queue=plain)


def test_a_queue_of_one_partition_grows_into_many(bench):
    """Its jobs stay where they are, and none is taken in again."""
    single = bench.another(partitions=1)
    enqueue(bench, *JOBS, queue=single)
    assert enqueue(bench, *JOBS) == [EnqueueResult.KNOWN] * 60
    assert enqueue(bench, *JOBS, queue=single) == [EnqueueResult.KNOWN] * 60
    assert {tuple(where(bench, job_id)) for job_id in JOBS} == {(0,)}
    assert len(bench.claim(polls=100)) == 60


def test_a_job_that_has_ended_is_known_at_its_former_home(bench):
    """For as long as without partitions."""
    enqueue(bench, *JOBS)
    for job_id in JOBS:
        bench.call(bench.queue.cancel(job_id))
    more = bench.another(partitions=8)
    assert enqueue(bench, *JOBS, queue=more) == [EnqueueResult.FINISHED] * 60


@pytest.mark.one_server("reads the figures of one")
def test_former_homes_are_asked_no_more_once_nothing_can_be_known_there(bench):
    """A raise costs a round trip for a while, and not for ever."""
    more = bench.another(partitions=5)
    moved = next(job_id for job_id in JOBS if len(homes(job_id, 5)) > 1)
    enqueue(bench, moved, queue=more)
    long_ago_ms = bench.now_ms() - 30 * 24 * 3600 * 1000
    for partition in range(5):
        bench.db.set(keys_of(bench, partition).layout, f"5:{long_ago_ms}")
    fresh = bench.another(partitions=5)
    enqueue(bench, "warm-up", moved, queue=fresh)
    other = next(f"x{n}" for n in range(999) if homes(f"x{n}", 5) == homes(moved, 5))
    bench.db.config_resetstat()
    enqueue(bench, other, queue=fresh)
    assert bench.db.info("commandstats")["cmdstat_evalsha"]["calls"] == 1


@pytest.mark.parametrize("stored", ["99999999:1", "1000000 "])
def test_a_number_that_cannot_be_is_said_to_be_none(bench, stored):
    """Instead of a million clients."""
    bench.db.set(keys_of(bench, 0).layout, stored)
    job_id = next(job_id for job_id in JOBS if homes(job_id, 3) == (0,))
    with pytest.raises(QueueRefusedError, match="layout"):
        enqueue(bench, job_id)


@pytest.mark.parametrize("seed", [0])
def test_producers_of_all_numbers_at_once_make_one_job_of_each_id(bench, seed):
    """In whatever order they come, and however often."""
    assert doubled(bench, seed) == []


@pytest.mark.one_server("deletes keys of several slots at once")
@pytest.mark.parametrize("broken", ["no layout is compared", "no former home is asked"])
def test_without_either_rule_ids_become_two_jobs(bench, monkeypatch, broken):
    """The test above can fail."""
    if broken == "no layout is compared":
        usual = layout_calls.enqueue
        monkeypatch.setattr(
            layout_calls, "enqueue", lambda *args, **options: usual(*args, **options | {"partitions": 999})
        )
    else:
        monkeypatch.setattr(partitions, "leavings", lambda *_: ())
    assert any(doubled(bench, seed) for seed in range(3))


def doubled(bench, seed: int) -> list[str]:
    """Have producers of several numbers take in the same ids in an order of their own; give those that are two jobs."""
    chance = random.Random(seed)
    bench.db.delete(*bench.names()) if bench.names() else None
    ids = [f"seed_{seed}_{number}" for number in range(6)]
    known = [bench.another(partitions=number) for number in (2, 3, 5, 5)]
    # One that has heard of nothing yet, for each id: a process that has just begun.
    turns = [(known[0], job_id) for job_id in ids] + [(None, job_id) for job_id in ids]
    turns += itertools.product(known[1:], ids)
    chance.shuffle(turns)
    created = Counter[str]()
    for queue, job_id in turns:
        producer = queue or bench.another(partitions=2)
        created[job_id] += enqueue(bench, job_id, queue=producer) == [EnqueueResult.CREATED]
    assert set(created) == set(ids)
    assert all(created.values())
    return [job_id for job_id in ids if created[job_id] > 1 or len(where(bench, job_id)) > 1]


def test_claims_of_all_partitions_are_one_batch(bench):
    """And what was decided goes back to where it came from."""
    enqueue(bench, *JOBS)
    batch = bench.batch(polls=30)
    assert (len(batch.claims), batch.waiting) == (30, 30)
    assert set(bench.call(bench.queue.renew([(one.job_id, one.token, True) for one in batch.claims], LEASE))) == {True}
    assert {result.value for result in bench.apply(*(Settle(claim, completed="{}") for claim in batch.claims))} == {
        "applied"
    }
    assert bench.counts().pending == 30


def test_a_worker_that_serves_some_partitions_takes_nothing_from_the_others(bench):
    """For a worker beside each server."""
    enqueue(bench, *JOBS)
    some = bench.another(serve=(0, 2))
    claims = bench.call(some.claim(polls=100, sends=1, worker_id="w", strategy=AT_ONCE, lease=LEASE)).claims
    assert {homes(claim.job_id, 3)[-1] for claim in claims} == {0, 2}
    assert {homes(job.job_id, 3)[-1] for job in bench.call(bench.queue.list_jobs(states=[JobState.QUEUED])).jobs} == {1}
