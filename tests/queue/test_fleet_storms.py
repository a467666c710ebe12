"""Storms on a real cluster and under Sentinel, small ones of `python -m kit.fleet_storm`; and whether they can fail."""

from __future__ import annotations

import pytest

from kit.bench import Bench
from kit.fleet_storm import FLEETS, PARTITIONS, PREFIX, Storm, all_told_once
from kit.route_mutants import ROUTE_MUTANTS
from videopoll.errors import QueueError

AT_LENGTH = pytest.mark.at_length


@pytest.fixture(params=list(FLEETS))
def fleet(request, require_server):
    """A fleet of the storm's own."""
    require_server("redis")
    with FLEETS[request.param]() as fleet:
        yield fleet


@AT_LENGTH
def test_a_small_storm_loses_no_job_and_doubles_no_message(fleet, kind):
    """Workers are killed, the keys go elsewhere in peace, a master dies."""
    found = Storm(kind, jobs=60, workers=2, kills=3, moves=2, failovers=1, seed=1).run(fleet)

    assert found == all_told_once(60)


@AT_LENGTH
@pytest.mark.parametrize("fleet", ["cluster"], indirect=True)
def test_masters_of_some_partitions_die_and_no_job_is_lost_and_no_message_doubled(fleet, kind):
    """The other partitions go on meanwhile, also those on the same node when it is back."""
    found = Storm(kind, jobs=60, workers=2, kills=2, moves=2, failovers=2, seed=2, partitions=PARTITIONS).run(fleet)

    assert found == all_told_once(60)


@AT_LENGTH
@pytest.mark.parametrize(
    ("fleet", "without", "trouble"),
    [
        ("cluster", "MOVED", {"moves": 1}),
        ("sentinel", "READONLY", {"moves": 1}),
        ("sentinel", "fresh answers", {"failovers": 1}),
    ],
    indirect=["fleet"],
)
def test_a_storm_finds_what_is_taken_out_of_the_workers(fleet, kind, without, trouble):
    """Workers that are killed would find their way when they begin anew: here they live.

    In a cluster a stale answer is put right by MOVED.
    """
    storm = Storm(
        kind, 150, workers=2, kills=0, **{"moves": 0, "failovers": 0, **trouble}, without=without, patience_s=8
    )

    assert storm.run(fleet)["lost"] > 0


def test_what_asks_for_one_key_would_fail_without_ask(cluster, kind, call):
    """While a slot moves, its keys that have moved are asked for there; scripts of several keys have to wait anyway."""
    bench = Bench(kind, cluster.url, PREFIX, call, cluster.db(PREFIX))
    bench.bury("job_1")
    move = cluster.begin_move(PREFIX)
    move.keys()
    try:
        assert [letter.job_id for letter in call(bench.queue.dead_letters.list())] == ["job_1"]
        with ROUTE_MUTANTS["ASK"].applied(), pytest.raises(QueueError, match="being moved"):
            call(bench.queue.dead_letters.list())
    finally:
        move.end()
        call(bench.queue.close())
        cluster.db(PREFIX).flushall()


@pytest.mark.parametrize("mutant", ROUTE_MUTANTS.values(), ids=list(ROUTE_MUTANTS))
def test_the_place_of_what_is_taken_out_is_still_found(mutant):
    """Else its storm would fail for another reason."""
    mutant.check()
