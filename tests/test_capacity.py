"""The capacity model's laws, and the simulation against queues that have a formula."""

from __future__ import annotations

import importlib
import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videopoll import KeyTtls, LeasePolicy, PollingStrategy
from videopoll.worker import line, state, writer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)

sys.path.insert(0, str(BENCHMARKS))
try:
    capacity = importlib.import_module("capacity")
    simulation = importlib.import_module("simulation")
finally:
    sys.path.remove(str(BENCHMARKS))

Load, Scene = capacity.Load, simulation.Scene
STEP = capacity.Step(call_us=40, job_us=10, call_bytes=300, job_bytes=400)
STEPS = ("enqueue", "first_claim", "claim", "reschedule", "conclude", "settle")
COSTS = capacity.Costs(
    poll_us=250,
    wake_us=200,
    message_us=1000,
    kinds={"AsyncRunner [fast]": 1.0, "AsyncRunner": 2.0},
    warm=dict.fromkeys(STEPS, STEP),
    cold=dict.fromkeys(STEPS, replace(STEP, call_us=200)),
    idle_us=1000,
    bytes={"in_flight": 1000, "outbox": 1100, "completed": 500},
    http_poll_bytes=300,
    http_message_bytes=700,
)
FREE = replace(
    COSTS,
    poll_us=0,
    wake_us=0,
    message_us=0,
    warm=dict.fromkeys(STEPS, capacity.Step(0, 0, 0, 0)),
    cold=dict.fromkeys(STEPS, capacity.Step(0, 0, 0, 0)),
)

days = st.floats(1e3, 1e8)
peaks = st.floats(1, 10)


def amounts(plan):
    """What a plan asks an operator to have."""
    return (
        plan.workers,
        plan.shards,
        plan.calls_per_s,
        plan.memory_bytes,
        plan.redis_bytes_per_s,
        plan.http_bytes_per_s,
    )


# --- the model ---


@given(days, st.floats(1, 20), peaks)
@settings(max_examples=40, deadline=None)
def test_more_videos_never_need_less(videos, times, peak):
    little, much = (capacity.plan(COSTS, Load(one, peak=peak)) for one in (videos, videos * times))
    assert all(one <= other for one, other in zip(amounts(little), amounts(much), strict=True))


@given(days, peaks)
@settings(max_examples=40, deadline=None)
def test_a_plan_keeps_each_core_below_its_bound_with_the_spare_workers_missing_too(videos, peak):
    load = Load(videos, peak=peak)
    plan = capacity.plan(COSTS, load)
    needed = plan.workers - plan.spare
    share = capacity.worker_share(COSTS, load.polls_per_s / needed, load.videos_per_s / needed)
    assert share <= 0.7 + 1e-9
    assert plan.redis_share <= 0.5 + 0.05  # a spare worker's claims come on top
    assert load.connections / needed <= 0.8 * plan.places


@given(days, peaks)
@settings(max_examples=40, deadline=None)
def test_only_the_videos_of_the_busiest_hour_count(videos, peak):
    one, other = capacity.plan(COSTS, Load(videos, peak=peak)), capacity.plan(COSTS, Load(videos * peak, peak=1))
    assert amounts(one) == pytest.approx(amounts(other))


def test_figures_have_the_units_that_their_names_say():
    # 864,000 videos a day are 10 a second. A video that takes exactly 90 s is found by the poll at 95 s, the tenth.
    load = Load(864_000, peak=1, spread=1e-6, api_s=0.5, message_s=1.5)
    assert load.videos_per_s == 10
    assert load.polls_per_video == pytest.approx(10)
    assert load.polls_per_s == pytest.approx(100)
    assert load.connections == pytest.approx(50)
    assert load.in_view == pytest.approx(10 * 97)
    # Two hours of 10 ends a second, of 500 bytes each, and 970 jobs of 1,000.
    assert capacity.memory_bytes(COSTS, load) == pytest.approx(10 * 7200 * 500 + 970 * 1000)
    plan = capacity.plan(COSTS, load)
    assert plan.http_bytes_per_s == pytest.approx(100 * 300 + 10 * 700)


@pytest.mark.parametrize(("warm", "cold"), [(0.0, 0.0), (0.1, 0.4), (0.5, 0.5), (0.9, 3.0)])
def test_a_core_pays_for_waking_up_in_the_share_that_it_is_idle(warm, cold):
    share = capacity.busy(warm, cold)
    assert share == pytest.approx(warm * share + cold * (1 - share))
    assert warm <= share <= 1


@given(st.floats(1, 1e5), st.integers(1, 50))
@settings(deadline=None)
def test_claims_are_no_closer_together_than_a_worker_makes_them(polls, workers):
    calls, jobs = capacity.traffic(polls, 0.0, workers).steps["claim"]
    assert jobs == polls
    assert calls <= min(polls, workers / 0.02) + 1e-9


def test_a_worker_that_serves_all_shards_claims_in_each_and_brings_no_more_jobs():
    one, all_of_them = (capacity.traffic(5000, 500, 4, served=served).steps for served in (1, 3))
    assert all_of_them["claim"][0] == pytest.approx(3 * one["claim"][0])
    assert {name: jobs for name, (_, jobs) in one.items()} == {name: jobs for name, (_, jobs) in all_of_them.items()}
    assert all(calls <= jobs for name, (calls, jobs) in all_of_them.items() if name != "claim")


def test_a_runner_that_takes_twice_the_cpu_needs_about_twice_the_cores():
    load = Load(20_000_000)
    fast, plain = (capacity.workers_for(COSTS, load, kind) for kind in ("AsyncRunner [fast]", "AsyncRunner"))
    assert plain == pytest.approx(2 * fast, abs=2)


def test_what_breaks_first_is_just_what_no_longer_fits():
    points = capacity.breaking_points(COSTS, Load(1))
    assert list(points.values()) == sorted(points.values())
    core = next(videos for name, videos in points.items() if "core of one worker" in name)
    assert capacity.workers_for(COSTS, Load(core * 0.99)) == 1
    assert capacity.workers_for(COSTS, Load(core * 1.01)) == 2
    assert points["an account of a messenger that takes 1 message a second"] == pytest.approx(86_400 / 3)


def test_the_model_has_the_products_own_times():
    load, strategy = Load(1), PollingStrategy()
    assert (load.initial_delay_s, load.interval_s, load.max_polls) == (
        strategy.initial_delay_s,
        strategy.interval_s,
        strategy.max_attempts,
    )
    assert KeyTtls().completed_s == capacity.KEPT_S
    assert (LeasePolicy().duration_s, LeasePolicy().renew_every_s) == (simulation.LEASE_S, simulation.RENEWED_S)
    assert (state.MIN_CLAIM_GAP_S, state.MIN_CLAIM_GAP_BUSY_S) == (capacity.CLAIM_GAP_S, simulation.HUNGRY_GAP_S)
    assert (writer.WRITES_APART_S, writer.AWAITED_APART_S) == (capacity.WRITE_GAP_S, capacity.SEND_GAP_S)
    assert line.AHEAD_S == simulation.AHEAD_S


# --- what was measured ---

RESULTS = json.loads((BENCHMARKS / "results.json").read_text())


def off(results):
    """By how much the model misses a worker's core, as it was measured, at the most."""
    rows = capacity.check(capacity.Costs.of(results), results)
    return max(abs(row["worker_modelled"] / row["worker_measured"] - 1) for row in rows)


def test_the_model_tells_what_whole_workers_took():
    assert off(RESULTS) < 0.3


def test_a_wrong_constant_is_noticed():
    message, poll = (json.loads(json.dumps(RESULTS)) for _ in range(2))
    message["capacity"]["message"]["cpu_us_per_message"] *= 4
    for row in poll["throughput"]["fast"]:
        row["cpu_us_per_poll"] *= 2
    assert off(message) > 0.3
    assert off(poll) > 0.3


# --- the simulation ---


def rate(per_s, **changes):
    """Give a load of so many videos a second all day, each ready at its first poll, which is due at once."""
    return Load(per_s * 86_400, peak=1, generation_s=1e-9, initial_delay_s=1e-6, message_s=0, **changes)


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_one_place_is_the_queue_of_pollaczek_and_khinchin(share):
    # M/D/1: Poisson arrivals, answers that always take the same time, one place;
    # and so few of them that no line forms in the worker.
    took_s = 0.05
    load = rate(share / took_s, api_s=took_s)
    scene = Scene(load, workers=1, places=1, lasting_s=500, varied=False, network_s=0, gaps=False)
    waits_s = simulation.lateness(simulation.Simulation(scene, FREE).run())
    assert statistics.mean(waits_s) == pytest.approx(share * took_s / (2 * (1 - share)), rel=0.1)


def test_two_places_wait_as_long_as_two_servers():
    # M/D/2: half of what M/M/2 waits, with Cosmetatos' correction, which is good to about one percent.
    took_s, share = 0.01, 0.7
    scene = Scene(rate(2 * share / took_s, api_s=took_s), 1, 2, lasting_s=60, varied=False, network_s=0, gaps=False)
    waits_s = simulation.lateness(simulation.Simulation(scene, FREE).run())
    exponential = 2 * share**2 / (1 + share) / (2 * (1 - share))
    corrected = 1 + (1 - share) * (math.sqrt(4 + 5 * 2) - 2) / (16 * share * 2)
    assert statistics.mean(waits_s) / took_s == pytest.approx(exponential * corrected / 2, rel=0.1)


def test_a_core_makes_as_many_polls_as_it_has_time_for_and_no_more():
    # 5,000 are due every second, and each takes 250 µs of a busy core.
    second = Load(1, interval_s=1, initial_delay_s=0, api_s=0.05)
    played = simulation.summed_up(Scene(second, 1, 400, lasting_s=5, warm_up_s=3, jobs=5000, varied=False), COSTS)
    assert played["polls_per_s"] == pytest.approx(4000, rel=0.02)
    assert played["cpu_share"] == pytest.approx(1, abs=0.02)


def test_a_slow_answer_moves_no_later_poll():
    load = Load(1, interval_s=10, api_s=4)
    seen = simulation.Simulation(Scene(load, 1, 100, lasting_s=200, warm_up_s=0, jobs=10, varied=False), COSTS).run()
    assert len(seen.due_s) == pytest.approx(10 * 200 / 10, abs=10)


def test_as_much_is_under_way_as_littles_law_says():
    load = Load(86_400 * 20, peak=1, api_s=0.4)
    scene = Scene(load, 1, 1000, lasting_s=30, warm_up_s=5)
    seen = simulation.Simulation(scene, COSTS).run()
    assert seen.in_hand_s / 35 == pytest.approx(load.connections, rel=0.05)
    assert seen.in_view == pytest.approx(load.in_view, rel=0.1)
    assert len(seen.due_s) / 30 == pytest.approx(load.polls_per_s, rel=0.05)


def test_a_day_has_as_many_videos_as_its_mean_says():
    share = simulation.curve(3.0)
    hours = [share(hour * 3600 - 43_200) for hour in range(24)]
    assert max(hours) == share(0) == 1
    assert statistics.mean(hours) == pytest.approx(1 / 3, rel=1e-6)


def test_nobody_is_lost_when_a_worker_dies_and_a_shard_is_away_and_the_backlog_drains():
    scene = Scene(
        Load(86_400 * 10, peak=1), 2, 100, lasting_s=100, warm_up_s=1, shard_away_s=20, worker_dies_s=60, restart_s=10
    )
    played = simulation.summed_up(scene, COSTS)
    # While it is away all that is due waits: a hundred polls a second for 15 s, and until somebody looks.
    assert 100 * 10 < played["backlog"] < 100 * 21
    assert 0 < played["drained_s"] < 15
    # The jobs of the dead go on when their leases end: the last after 12 s, renewed at most 4 s before.
    assert 7 < played["death_lag_max_s"] < 13
    assert played["in_view"] == pytest.approx(scene.load.in_view, rel=0.15)


def test_two_runs_of_a_seed_are_the_same_and_another_seed_is_another_day():
    scene = Scene(Load(86_400), 2, 100, lasting_s=20)
    runs = [simulation.Simulation(replace(scene, seed=seed), COSTS).run().polled_s for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert not math.isnan(simulation.quantile(runs[0], 0.5))
