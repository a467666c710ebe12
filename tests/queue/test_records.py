"""Records: how long they live, who keeps them alive, and what becomes of one that is written again."""

from __future__ import annotations

import attrs
import pytest

from kit.bench import AT_ONCE, LEASE, aged, hand_back, look, schedule
from videopoll import (
    KeyTtls,
)
from videopoll.jobs.transition import (
    Abandoned,
    MissingRecord,
    Reschedule,
    Settle,
    TransitionResult,
)
from videopoll.jobs.views import HandedBack


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


def test_custom_ttls_are_used(bench):
    """Longer jobs need longer records."""
    bench.options["ttls"] = KeyTtls(job_s=1000, lock_s=100, completed_s=2000, attempts_s=900)
    claim = bench.one()
    assert 990 < bench.db.ttl(bench.keys.job("job_1")) <= 1000
    assert 90 < bench.db.ttl(bench.keys.lock("job_1")) <= 100
    assert 890 < bench.db.ttl(bench.keys.attempts("job_1")) <= 900
    bench.finish(claim)
    assert 1990 < bench.db.ttl(bench.keys.completed("job_1")) <= 2000
