"""Apply: many transitions in one round trip, each carried out once, and none with a stale token."""

from __future__ import annotations

import pytest

from kit.bench import Bench
from videopoll.errors import QueueRefusedError
from videopoll.jobs import DeadLetter, JobState
from videopoll.jobs.transition import (
    BeginSend,
    Claim,
    Conclude,
    Redeliver,
    Release,
    Reschedule,
    Settle,
    TransitionResult,
)


def transitions_of(bench: Bench, claim: Claim) -> dict[str, object]:
    """Give one transition of every kind."""
    entry = bench.entry(claim)
    letter = DeadLetter(claim.job_id, "why", bench.now_ms())
    return {
        "reschedule": Reschedule(claim, bench.now_ms() + 9, 2, 5),
        "give back": Release(claim),
        "leave alone": Release(claim, bench.now_ms() + 9),
        "conclude": Conclude(claim, entry, 600, 12_000),
        "begin send": BeginSend(claim, entry, 600, 99_000),
        "redeliver": Redeliver(claim, entry, 600, bench.now_ms()),
        "settle": Settle(claim, "{}"),
        "bury": Settle(claim, letter=letter),
    }


TRANSITIONS = ("reschedule", "give back", "leave alone", "conclude", "begin send", "redeliver", "settle", "bury")


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


@pytest.mark.one_server("the servers of a fleet read what the others say, too")
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
