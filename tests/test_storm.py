"""Storms in virtual time: a minute of fixed seeds, that a seed is one storm, and that the storm can fail.

`nox -s storm -- --minutes 60` runs fresh seeds; `nox -s storm -- --mutants` shows what the storm finds.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from storm.fleet import run
from storm.model import judge
from storm.mutants import MUTANTS
from storm.plan import KINDS, Event, JobPlan, Plan, WorkerPlan, plan_of
from storm.shrink import as_code, kinds_of, shrink

SEEDS = range(1, 161)
CHUNKS = [SEEDS[first : first + 8] for first in range(0, len(SEEDS), 8)]


@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_a_storm_does_nothing_that_is_not_allowed(seeds):
    failed = {seed: wrongs for seed in seeds if (wrongs := judge(run(plan_of(seed))))}

    assert not failed, "\n".join(f"{plan_of(seed)}\n  {'; '.join(wrongs)}" for seed, wrongs in failed.items())


ONCE_FAILED = {
    "an id that was taken in while it was being cancelled was cancelled without a word to its user": Plan(
        seed=156,
        jobs=(JobPlan(at_s=0.28, takes_s=2.1),),
        events=(Event(0.28, "cancel and tell", (0,)), Event(21.6, "stop", (0, 5.7))),
        grace_s=4.0,
        api_s=3.0,
    ),
    "a worker took its own send over when Redis's clock stepped forward": Plan(
        seed=11,
        jobs=(JobPlan(at_s=1.7, takes_s=15.6, sends=("slow",)),),
        events=(Event(28.28, "clock", (9.0,)),),
        grace_s=1.0,
        slow_s=22.0,
    ),
    "a worker that was frozen before it posted sent after another had sent": Plan(
        seed=192,
        workers=(WorkerPlan(runner="sync", parts="sync", sends=4), WorkerPlan()),
        jobs=(JobPlan(at_s=4.71, takes_s=14.6),),
        events=(Event(15.68, "messenger", ("down", 11.7)), Event(27.76, "freeze", (0, "posting", "reached", 32.4))),
        lease_s=12.0,
        jitter=0.1,
        api_s=0.5,
    ),
    "a receipt of a wrong form made the message go out again": Plan(
        seed=25, jobs=(JobPlan(at_s=0.81, takes_s=1.2, sends=("wrong form",)),), channel="askable", lease_s=12.0
    ),
    "a gateway that answers 500 each time got a message each time": Plan(
        seed=84, jobs=(JobPlan(at_s=18.08, takes_s=1.6, sends=("500",) * 6),), lease_s=12.0, api_s=3.0
    ),
    "a proxy's 404 while the API was deployed ended a job": Plan(
        seed=88, jobs=(JobPlan(at_s=2.45, takes_s=2.2),), events=(Event(6.11, "api", ("stray 404", 3.6, 5.0)),)
    ),
    "a claim that hung in a second stall took over what was in its own hands": Plan(
        seed=50261,
        workers=(WorkerPlan(), WorkerPlan()),
        jobs=(
            JobPlan(at_s=4.69, takes_s=8.5, sends=("slow",)),
            JobPlan(at_s=15.42, takes_s=4.8),
            JobPlan(at_s=3.05, takes_s=3.0),
        ),
        events=(Event(19.24, "stall", (8.1,)), Event(28.68, "stall", (10.3,))),
        grace_s=1.0,
        slow_s=22.0,
    ),
    "a second step of Redis's clock, at the end of the wait for the first, had a living worker's send taken over": Plan(
        seed=56,
        workers=(WorkerPlan(), WorkerPlan()),
        jobs=(JobPlan(at_s=4.93, takes_s=2.2, sends=("slow",)),),
        events=(Event(7.23, "clock", (18.0,)), Event(10.06, "clock", (18.0,))),
        lease_s=12.0,
        grace_s=1.0,
        slow_s=9.0,
        channel_s=70.0,
    ),
    "a claim that hung in a stall, after a step of the clock and an outage, took over from a living worker": Plan(
        seed=1137276988,
        workers=(WorkerPlan(), WorkerPlan()),
        jobs=(JobPlan(at_s=17.62, takes_s=1.4, sends=("slow reply",)),),
        events=(Event(16.65, "clock", (-5.0,)), Event(17.75, "away", (17.1,)), Event(37.72, "stall", (20.6,))),
        lease_s=12.0,
        grace_s=1.0,
        slow_s=16.0,
        api_s=0.5,
    ),
    "a last poll that hung until the end of polling was followed by another one": Plan(
        seed=320804197,
        jobs=tuple(
            JobPlan(at_s=at_s, takes_s=takes_s)
            for at_s, takes_s in (
                (6.83, 4.5),
                (12.18, 11.4),
                (9.57, 16.8),
                (3.57, 1.3),
                (12.93, 22.3),
                (5.74, 21.5),
                (11.84, 22.4),
                (17.51, 17.1),
                (8.1, 7.1),
                (6.3, 9.5),
            )
        ),
        events=(Event(4.49, "api", ("hang", 67.5, 5.0)),),
        timeout_s=30.0,
        grace_s=4.0,
        slow_s=22.0,
    ),
    "a worker that was cut off from Redis sent near its lease's end, and whoever took over sent before that could be listed": Plan(
        seed=1,
        workers=(WorkerPlan(), WorkerPlan()),
        jobs=(JobPlan(at_s=1.0, takes_s=0.5),),
        events=(Event(1.5, "freeze", (1, "posting", "reached", 10.0)), Event(3.0, "cut off", (1, 30.0))),
        channel="askable",
        lease_s=12.0,
        visible_after_s=3.0,
    ),
    "a worker died before a send that it had noted, and nobody was there until the delivery's deadline": Plan(
        seed=986688702,
        jobs=(JobPlan(at_s=1.0, takes_s=0.5), JobPlan(at_s=5.0, takes_s=0.5)),
        events=(Event(4.0, "kill", (0, "conclude", "served", 110.0)),),
    ),
}
"""Storms that once went wrong, made small."""


@pytest.mark.parametrize("plan", ONCE_FAILED.values(), ids=ONCE_FAILED)
def test_a_storm_that_once_failed_passes(plan):
    assert judge(run(plan)) == []


@pytest.mark.parametrize("seed", [10, 43])
def test_a_seed_is_one_storm(seed):
    assert run(plan_of(seed)).trace == run(plan_of(seed)).trace


def test_a_seed_is_the_same_storm_in_another_process():
    """Where in memory things are, and how Python hashes texts, must not matter."""
    code = "import sys; from storm.fleet import run; from storm.plan import plan_of; print(*run(plan_of(10)).trace, sep='\\n')"
    paths = [str(Path(__file__).parent), *filter(None, sys.path)]
    other = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
    )

    assert other.stdout.splitlines() == run(plan_of(10)).trace


def test_a_storm_that_fails_is_shrunk_to_what_makes_it_fail():
    """The two kills and the second worker have nothing to do with it."""
    mutant = next(one for one in MUTANTS if one.name == "at most once sends again")
    plan = Plan(
        seed=1,
        on_unknown="at_most_once",
        workers=(WorkerPlan(), WorkerPlan(runner="sync", parts="sync")),
        jobs=(JobPlan(), JobPlan(at_s=1.0, sends=("lost",))),
        events=(Event(20.0, "kill", (0, "claim", "answered", 1.0)), Event(40.0, "away", (2.0,))),
    )
    with mutant.applied():
        wrongs = judge(run(plan))
        small = shrink(plan, kinds_of(wrongs))

    assert "told twice" in kinds_of(wrongs)
    assert judge(run(plan)) == []
    assert small == attrs.evolve(Plan(seed=1), on_unknown="at_most_once", jobs=(JobPlan(at_s=1.0, sends=("lost",)),))
    assert eval(as_code(small)) == small


@pytest.mark.parametrize(
    ("killed", "judged"),
    [
        (Event(30.0, "kill", (0, "claim", "answered", 1.0)), {"told twice"}),
        (Event(1.5, "kill", (0, "send", "served", 20.0)), set()),
    ],
    ids=["long after its send", "in its send"],
)
def test_the_death_of_a_worker_excuses_a_second_message_only_around_the_first(killed, judged):
    """What was told, and had time to be written, is known, whatever becomes of its worker later."""
    story = run(Plan(seed=1, jobs=(JobPlan(at_s=1.0, takes_s=0.5),), events=(killed,)))
    first, after_s = story.sent[0], (story.lives[0].died_s or 0.0) + 1.0
    story.sent[1:] = [attrs.evolve(first, at_s=after_s, delivered_s=after_s, worker=story.lives[1].name)]

    assert kinds_of(judge(story)) == judged


def test_a_send_that_found_nobody_there_may_have_told_of_the_cancel():
    """A real storm knows of such a send only that it was tried (seed 2052746940)."""
    story = run(
        Plan(
            seed=1,
            jobs=(JobPlan(at_s=1.0, takes_s=0.5),),
            events=(Event(1.5, "messenger", ("down", 30.0)), Event(10.0, "cancel and tell", (0,))),
        )
    )
    for one in story.sent:
        one.outcome = "" if one.manner == "down" else one.outcome

    assert "down" in [one.manner for one in story.sent if one.at_s > 12.0]
    assert judge(story) == []


@pytest.mark.parametrize(("late_s", "judged"), [(0.0, {"told twice"}), (75.0, set())], ids=["virtual", "real"])
def test_on_a_busy_machine_a_send_reaches_the_messenger_after_its_time_has_begun(late_s, judged):
    """Its worker had waited for 25 s, and the messenger for 22.4 s (seed 642901370 of a real storm)."""
    story = run(Plan(seed=1, jobs=(JobPlan(at_s=1.0, takes_s=0.5, sends=("hangs",)),)))
    story.late_s, story.sent[0].at_s = late_s, story.sent[0].at_s + 4.0

    assert kinds_of(judge(story)) == judged


def test_a_write_may_be_refused_a_moment_before_that_is_noted():
    """In a real storm one thread refuses, and another one notes it: the judge takes either order."""
    story = run(Plan(seed=1, jobs=(JobPlan(at_s=1.0, takes_s=0.5),)))
    story.refused, story.lives[0].unwritten = [(1.0, story.lives[0].name)], [(1.001, 1.01)]

    assert judge(story) == []


POINTED_AT = {
    5: "a cancel leaves the token",
    13: "a cancel does not see that a message may be on its way",
    21: "a record dies although somebody keeps it",
    29: "our own start is judged as a stranger's",
    37: "what hangs is renewed for ever",
    45: "a worker claims while its writes fail",
    53: "a send is not noted",
    61: "a send that is taken over has had its time to show up",
    69: "who stands in line at a stop stays there",
}
"""The first seed of each kind of pointed storm, and the mechanism that nothing else needs so much."""


@pytest.mark.parametrize("seed", POINTED_AT)
def test_a_pointed_storm_finds_what_it_is_pointed_at(seed):
    """Chance alone finds few of these within 500 storms."""
    mutant = next(one for one in MUTANTS if one.name == POINTED_AT[seed])

    with mutant.applied():
        assert judge(run(plan_of(seed)))
    assert len(POINTED_AT) == len(KINDS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_applied_and_is_in_the_docs(mutant):
    """When a line that a mutant changes has changed itself, its place has to be named anew."""
    pages = Path(__file__).parents[1] / "docs" / "explanation"
    promise = (pages / "guarantees.md").read_text().partition(f"\n### {mutant.promise}. ")[2].partition("\n#")[0]

    mutant.check()
    assert f"| {mutant.name} | [{mutant.promise}](guarantees.md#" in (pages / "storms.md").read_text()
    assert mutant.covered or mutant.name in promise.partition("**Taken out, the storms find it:**")[2]
