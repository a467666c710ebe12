"""Plays workers, shards, the API and the messenger moment by moment, with the measured costs, up to 100 million videos a day.

Events in the order of their times, no clock and no I/O. What is modelled: each
worker's core and each shard's core take one thing after the other; a worker has
places for polls, gathers claims and writes as the real one does, and keeps a short line;
the API's and the messenger's answers take a time that is drawn. What fails: a worker dies
with all it has in hand, which others take over when its leases end, and another one is started;
a shard is away while a replica takes its place.

A large fleet is played as a slice: one shard with its workers. Jobs are spread
over shards by their ids, so each shard's arrivals are a Poisson process of their own, and no
shard waits for another.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import math
import random
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from capacity import CLAIM_GAP_S, DAY_S, KINDS, SEND_GAP_S, WRITE_GAP_S, Costs, Load, Step, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEASE_S, RENEWED_S = 12.0, 4.0
HUNGRY_GAP_S, AHEAD_S = 0.01, 0.04
LONGEST_IDLE_S, LONGEST_RETRY_S = 4.0, 5.0
LARGEST_CLAIM, LARGEST_WRITE = 500, 250
SHARE_OVER_S = 0.5
"""Over how long it is averaged how busy a core is."""

BEFORE = 4
"""How many times as long as a job is in view in the mean: nothing that came in before is still there."""

NEVER_S = math.inf


class Core:
    """A core that does one thing after the other; what it takes depends on how busy it was lately, as in `capacity.busy`."""

    def __init__(self) -> None:
        self.free_s = self.busy_s = self.share = 0.0
        self._looked_s = self._busy_then_s = 0.0

    def serve(self, at_s: float, warm_s: float, cold_s: float) -> float:
        """Give when it has done what comes in now."""
        if at_s - self._looked_s >= SHARE_OVER_S:
            self.share = min(1.0, (self.busy_s - self._busy_then_s) / (at_s - self._looked_s))
            self._looked_s, self._busy_then_s = at_s, self.busy_s
        took_s = cold_s + (warm_s - cold_s) * self.share
        self.free_s = max(at_s, self.free_s) + took_s
        self.busy_s += took_s
        return self.free_s

    def begin(self) -> None:
        """Count what it does from now on."""
        self._busy_then_s -= self.busy_s
        self.busy_s = 0.0


class Job:
    """A video on its way."""

    __slots__ = ("due_s", "found_s", "ready_s")

    def __init__(self, due_s: float, ready_s: float) -> None:
        self.due_s, self.ready_s = due_s, ready_s
        self.found_s = NEVER_S  # when the API told that it is ready


class Shard:
    """One Redis: its core, and the jobs that are due one day."""

    def __init__(self, warm: dict[str, Step], cold: dict[str, Step]) -> None:
        self.core = Core()
        self.warm, self.cold = warm, cold
        self.schedule: list[tuple[float, int, Job]] = []
        self.down_until_s = 0.0
        self.calls = 0

    def call(self, at_s: float, steps: Sequence[tuple[str, int, int]]) -> float:
        """Carry out steps, each with its calls and jobs; give when that is done."""
        warm, cold = (
            sum(costs[name].us(calls, jobs) for name, calls, jobs in steps) / 1e6 for costs in (self.warm, self.cold)
        )
        self.calls += sum(calls for _, calls, _ in steps)
        return self.core.serve(at_s, warm, max(warm, cold))


class Worker:
    """One worker: its core, and what it has in hand."""

    def __init__(self, shard: Shard, now_s: float) -> None:
        self.shard = shard
        self.core = Core()
        self.alive = True
        self.polls = self.sends = self.freed = 0
        self.line: deque[Job] = deque()
        self.hand: set[Job] = set()
        self.writes: list[tuple[str, Job]] = []
        self.waiting: deque[Job] = deque()  # for a place for their send
        self.claim_at_s = self.write_at_s = NEVER_S
        self.claimed_s = self.wrote_s = -NEVER_S
        self.claiming = self.writing = self.backlog = False
        self.rate, self.looked_s = 0.0, now_s


@dataclass(frozen=True)
class Scene:
    """What is played.

    Args:
        load: What comes in, and how long answers take. With `jobs` it is only how they are polled.
        workers: How many there are, and
        places: how many polls, and as many sends, each may have under way.
        shards: How many there are; a worker serves one.
        lasting_s: How long it is watched, after
        warm_up_s: in which it settles.
        jobs: So many that are never ready and came in evenly over an interval, instead of a day's arrivals.
        varied: Whether answers take a time that is drawn, and not always the same.
        worker_dies_s: When the first worker dies, from the begin of the watch; and
        restart_s: how long until another one is there.
        shard_away_s: When the first shard is away, for
        away_for_s: so long.
        network_s: To Redis and back.
        gaps: Whether claims and writes are gathered.
    """

    load: Load
    workers: int
    places: int
    shards: int = 1
    lasting_s: float = 600.0
    warm_up_s: float = 20.0
    jobs: int = 0
    varied: bool = True
    worker_dies_s: float | None = None
    restart_s: float = 30.0
    shard_away_s: float | None = None
    away_for_s: float = 15.0
    network_s: float = 0.0005
    gaps: bool = True
    seed: int = 1


@dataclass
class Seen:
    """What came of it: each poll of the watch with when it was due and when it was made, and each message."""

    due_s: list[float] = field(default_factory=list)
    polled_s: list[float] = field(default_factory=list)
    told_s: list[float] = field(default_factory=list)
    after_ready_s: list[float] = field(default_factory=list)
    after_answer_s: list[float] = field(default_factory=list)
    arrived: int = 0
    in_view: int = 0
    in_hand_s: float = 0.0


class Simulation:
    """Plays one scene."""

    def __init__(self, scene: Scene, costs: Costs) -> None:
        self.scene, self.costs, self.load = scene, costs, scene.load
        self.random = random.Random(scene.seed)
        self.events: list[tuple[float, int, Callable[..., None], Any]] = []
        self.order = itertools.count()
        self.now_s = 0.0
        self.shards = [Shard(dict(costs.warm), dict(costs.cold)) for _ in range(scene.shards)]
        self.workers = [Worker(self.shards[number % scene.shards], 0.0) for number in range(scene.workers)]
        self.turn = 0
        self.seen = Seen()
        self.open = 0
        times = self.load.times
        self._mu, self._sigma = times.mean, times.stdev
        self._curve = curve(self.load.peak)
        self._gap_s = CLAIM_GAP_S if scene.gaps else 0.0
        self._hungry_s = HUNGRY_GAP_S if scene.gaps else 0.0

    def at(self, when_s: float, do: Callable[..., None], what: Any) -> None:
        """Plan an event."""
        heapq.heappush(self.events, (when_s, next(self.order), do, what))

    def run(self) -> Seen:
        """Play it to its end."""
        scene, end_s = self.scene, self.scene.warm_up_s + self.scene.lasting_s
        if scene.jobs:
            for number in range(scene.jobs):
                at_s = self.load.interval_s * number / scene.jobs
                self._add(Job(at_s + self.load.initial_delay_s, NEVER_S), self.shards[number % scene.shards])
        else:
            self._begin_in_view()
            self.at(self._gap(0.0), self._arrive, None)
        for number, worker in enumerate(self.workers):
            self._want_claim(worker, number * self._gap_s / len(self.workers))
        if scene.worker_dies_s is not None:
            self.at(scene.warm_up_s + scene.worker_dies_s, self._die, self.workers[0])
        if scene.shard_away_s is not None:
            self.at(scene.warm_up_s + scene.shard_away_s, self._fail, self.shards[0])
        self.at(scene.warm_up_s, self._begin_watch, None)
        events = self.events
        while events and events[0][0] <= end_s:
            self.now_s, _, do, what = heapq.heappop(events)
            do(what)
        self.seen.in_view = self.open
        return self.seen

    def shares(self) -> tuple[float, float]:
        """Give how busy the workers' and the shards' cores were in the watch, in the mean."""
        scene = self.scene
        return (
            sum(worker.core.busy_s for worker in self.workers) / scene.lasting_s / scene.workers,
            sum(shard.core.busy_s + self.costs.idle_us / 1e6 * scene.lasting_s for shard in self.shards)
            / scene.lasting_s
            / scene.shards,
        )

    def _begin_watch(self, _: None) -> None:
        self.seen.arrived = 0
        for one in (*self.workers, *self.shards):
            one.core.begin()

    # --- what comes in ---

    def _gap(self, at_s: float) -> float:
        """Give when the next video comes in, by the curve of the day: the watch is around its peak."""
        middle_s = self.scene.warm_up_s + self.scene.lasting_s / 2
        while True:
            at_s += self.random.expovariate(self.load.videos_per_s)
            if self.random.random() < self._curve(at_s - middle_s):
                return at_s

    def _begin_in_view(self) -> None:
        """Bring in what came in before the beginning, and is not found yet: so the beginning is like any other moment."""
        delay_s, interval_s = self.load.initial_delay_s, self.load.interval_s
        at_s = -BEFORE * self.load.in_view_s
        while (at_s := at_s + self.random.expovariate(self.load.videos_per_s)) < 0:
            job = Job(at_s + delay_s, at_s + self.random.lognormvariate(self._mu, self._sigma))
            job.due_s += interval_s * max(0, math.ceil(-job.due_s / interval_s))
            if job.due_s - interval_s < job.ready_s or job.due_s == at_s + delay_s:
                self.open += 1
                self._add(job, self.shards[self.random.randrange(len(self.shards))])

    def _arrive(self, _: None) -> None:
        now_s = self.now_s
        self.at(self._gap(now_s), self._arrive, None)
        shard = self.shards[self.random.randrange(len(self.shards))]
        self.seen.arrived += 1
        self.open += 1
        ready_s = now_s + self.random.lognormvariate(self._mu, self._sigma)
        job = Job(now_s + self.load.initial_delay_s, ready_s)
        if now_s < shard.down_until_s:
            # Whoever enqueues tries again.
            self.at(shard.down_until_s, self._enqueue, (job, shard))
        else:
            self._enqueue((job, shard))

    def _enqueue(self, what: tuple[Job, Shard]) -> None:
        job, shard = what
        shard.call(self.now_s, (("enqueue", 1, 1), ("first_claim", 0, 1)))
        self._add(job, shard)
        # The bell wakes a worker.
        for _ in self.workers:
            self.turn = (self.turn + 1) % len(self.workers)
            worker = self.workers[self.turn]
            if worker.shard is shard and worker.alive:
                self._want_claim(worker, self.now_s)
                break

    def _add(self, job: Job, shard: Shard, due_s: float | None = None) -> None:
        heapq.heappush(shard.schedule, (job.due_s if due_s is None else due_s, next(self.order), job))

    def _took(self, mean_s: float) -> float:
        """Draw how long an answer takes: at least half of the mean, and a tail."""
        return mean_s / 2 + self.random.expovariate(2 / mean_s) if self.scene.varied and mean_s else mean_s

    # --- claims ---

    def _want_claim(self, worker: Worker, at_s: float) -> None:
        gap_s = self._hungry_s if worker.polls >= self.scene.places and not worker.line else self._gap_s
        at_s = max(at_s, self.now_s, worker.claimed_s + gap_s, worker.shard.down_until_s)
        if at_s < worker.claim_at_s and worker.alive and not worker.claiming:
            worker.claim_at_s = at_s
            self.at(at_s, self._claim, worker)

    def _room(self, worker: Worker) -> int:
        free = self.scene.places - worker.polls
        ahead = int(worker.rate * AHEAD_S) if worker.backlog else 0
        return free + (max(0, ahead + 1 - len(worker.line)) if ahead else 0)

    def _claim(self, worker: Worker) -> None:
        now_s, shard = self.now_s, worker.shard
        if not worker.alive or worker.claiming or worker.claim_at_s != now_s:
            return
        worker.claim_at_s = NEVER_S
        if now_s < shard.down_until_s:
            self._want_claim(worker, shard.down_until_s + self.random.uniform(0, LONGEST_RETRY_S))
            return
        over_s = now_s - worker.looked_s
        if over_s > 0:
            worker.rate += (1 - math.exp(-over_s / 0.5)) * (worker.freed / over_s - worker.rate)
            worker.looked_s, worker.freed = now_s, 0
        room = min(self._room(worker), LARGEST_CLAIM)
        worker.claimed_s = now_s
        if room <= 0:
            self._want_claim(worker, now_s + LONGEST_IDLE_S)
            return
        jobs: list[Job] = []
        schedule = shard.schedule
        while len(jobs) < room and schedule and schedule[0][0] <= now_s:
            jobs.append(heapq.heappop(schedule)[2])
        worker.backlog = len(jobs) >= room
        worker.hand.update(jobs)
        worker.claiming = True
        done_s = shard.call(now_s + self.scene.network_s / 2, (("claim", 1, len(jobs)),))
        self.at(done_s + self.scene.network_s / 2, self._claimed, (worker, jobs))

    def _claimed(self, what: tuple[Worker, list[Job]]) -> None:
        worker, jobs = what
        if not worker.alive:
            return
        worker.claiming = False
        schedule = worker.shard.schedule
        for job in jobs:
            if job.found_s < NEVER_S:
                self._send(worker, job)  # another worker's, that died
            elif worker.polls < self.scene.places:
                self._poll(worker, job)
            else:
                worker.line.append(job)
        self._want_claim(worker, schedule[0][0] if schedule else self.now_s + LONGEST_IDLE_S)

    # --- polls ---

    def _poll(self, worker: Worker, job: Job) -> None:
        worker.polls += 1
        half_s, wake_s = self.costs.poll_us / 2e6, self.costs.wake_us / 1e6
        asked_s = worker.core.serve(self.now_s, half_s, half_s + wake_s / 2)
        if asked_s >= self.scene.warm_up_s:
            self.seen.due_s.append(job.due_s)
            self.seen.polled_s.append(asked_s)
        took_s = self._took(self.load.api_s)
        self.seen.in_hand_s += took_s
        self.at(asked_s + took_s, self._answer, (worker, job, asked_s))

    def _answer(self, what: tuple[Worker, Job, float]) -> None:
        worker, job, asked_s = what
        if not worker.alive:
            return
        half_s, wake_s = self.costs.poll_us / 2e6, self.costs.wake_us / 1e6
        read_s = worker.core.serve(self.now_s, half_s, half_s + wake_s / 2)
        if job.ready_s <= asked_s:
            job.found_s = self.now_s
        self.at(read_s, self._decided, (worker, job))

    def _decided(self, what: tuple[Worker, Job]) -> None:
        worker, job = what
        if not worker.alive:
            return
        worker.polls -= 1
        worker.freed += 1
        if job.found_s < NEVER_S:
            self._write(worker, "conclude", job, SEND_GAP_S)
        else:
            job.due_s = max(self.now_s, job.due_s + self.load.interval_s)
            self._write(worker, "reschedule", job, WRITE_GAP_S)
        if worker.line:
            self._poll(worker, worker.line.popleft())
        if worker.backlog:
            self._want_claim(worker, self.now_s)

    # --- messages ---

    def _send(self, worker: Worker, job: Job) -> None:
        if worker.sends >= self.scene.places:
            worker.waiting.append(job)
            return
        worker.sends += 1
        half_s = self.costs.message_us / 2e6
        sent_s = worker.core.serve(self.now_s, half_s, half_s)
        if sent_s >= self.scene.warm_up_s:
            self.seen.told_s.append(sent_s)
            self.seen.after_ready_s.append(sent_s - job.ready_s)
            self.seen.after_answer_s.append(sent_s - job.found_s)
        self.at(sent_s + self._took(self.load.message_s), self._accepted, (worker, job))

    def _accepted(self, what: tuple[Worker, Job]) -> None:
        worker, job = what
        if not worker.alive:
            return
        worker.core.serve(self.now_s, self.costs.message_us / 2e6, self.costs.message_us / 2e6)
        worker.sends -= 1
        self._write(worker, "settle", job, SEND_GAP_S)
        if worker.waiting:
            self._send(worker, worker.waiting.popleft())

    # --- writes ---

    def _write(self, worker: Worker, kind: str, job: Job, gap_s: float) -> None:
        worker.writes.append((kind, job))
        self._want_write(worker, worker.wrote_s + (gap_s if self.scene.gaps else 0.0))

    def _want_write(self, worker: Worker, at_s: float) -> None:
        at_s = max(at_s, self.now_s, worker.shard.down_until_s)
        if at_s < worker.write_at_s and not worker.writing:
            worker.write_at_s = at_s
            self.at(at_s, self._flush, worker)

    def _flush(self, worker: Worker) -> None:
        now_s, shard = self.now_s, worker.shard
        if not worker.alive or worker.writing or worker.write_at_s != now_s:
            return
        worker.write_at_s = NEVER_S
        if now_s < shard.down_until_s:
            self._want_write(worker, shard.down_until_s + self.random.uniform(0, LONGEST_RETRY_S))
            return
        worker.writes, batch = worker.writes[LARGEST_WRITE:], worker.writes[:LARGEST_WRITE]
        if not batch:
            return
        worker.wrote_s, worker.writing = now_s, True
        counts: dict[str, int] = {}
        for kind, _ in batch:
            counts[kind] = counts.get(kind, 0) + 1
        done_s = shard.call(now_s + self.scene.network_s / 2, [(kind, 1, count) for kind, count in counts.items()])
        self.at(done_s + self.scene.network_s / 2, self._written, (worker, batch))

    def _written(self, what: tuple[Worker, list[tuple[str, Job]]]) -> None:
        worker, batch = what
        if not worker.alive:
            return
        worker.writing = False
        for kind, job in batch:
            if kind == "conclude":
                self._send(worker, job)
                continue
            worker.hand.discard(job)
            if kind == "reschedule":
                self._add(job, worker.shard)
            else:
                self.open -= 1
        if worker.writes:
            awaited = any(kind != "reschedule" for kind, _ in worker.writes)
            self._want_write(worker, worker.wrote_s + (SEND_GAP_S if awaited else WRITE_GAP_S))
        schedule = worker.shard.schedule
        if schedule:
            self._want_claim(worker, schedule[0][0])

    # --- what fails ---

    def _die(self, worker: Worker) -> None:
        worker.alive = False
        for job in worker.hand:
            # Its lease was renewed a while ago.
            self._add(job, worker.shard, self.now_s + LEASE_S - self.random.uniform(0, RENEWED_S))
        self.at(self.now_s + self.scene.restart_s, self._replace, worker)

    def _replace(self, worker: Worker) -> None:
        new = Worker(worker.shard, self.now_s)
        new.core = worker.core
        self.workers[self.workers.index(worker)] = new
        self._want_claim(new, self.now_s)

    def _fail(self, shard: Shard) -> None:
        shard.down_until_s = self.now_s + self.scene.away_for_s
        for worker in self.workers:
            if worker.shard is shard:
                # It looks again after a pause that grows; what is planned meanwhile comes to nothing.
                retry_s = shard.down_until_s + self.random.uniform(0, LONGEST_RETRY_S)
                worker.claimed_s = worker.wrote_s = retry_s
                worker.claim_at_s = worker.write_at_s = NEVER_S
                self._want_claim(worker, retry_s)
                self._want_write(worker, retry_s)


def curve(peak: float) -> Callable[[float], float]:
    """Give the arrivals as a share of those at the peak, so many seconds from it: a hump whose mean over a day is ``1 / peak``."""
    low, high = 0.0, 1e4

    def mean(power: float) -> float:
        return math.exp(math.lgamma(power + 0.5) - math.lgamma(power + 1)) / math.sqrt(math.pi)

    for _ in range(100):
        power = (low + high) / 2
        low, high = (power, high) if mean(power) > 1 / peak else (low, power)
    return lambda from_peak_s: ((1 + math.cos(2 * math.pi * from_peak_s / DAY_S)) / 2) ** power


def quantile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that at least this share of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else math.nan


def lateness(seen: Seen, from_s: float = 0.0, until_s: float = NEVER_S) -> list[float]:
    """Give how late each poll was that was due in a stretch of time."""
    rows = zip(seen.due_s, seen.polled_s, strict=True)
    return [polled_s - due_s for due_s, polled_s in rows if from_s <= due_s < until_s]


def backlog(seen: Seen, begin_s: float, lasting_s: float, every_s: float = 1.0) -> list[int]:
    """Give how many polls were due and not made yet, second by second."""
    due, polled = sorted(seen.due_s), sorted(seen.polled_s)
    moments = [begin_s + number * every_s for number in range(int(lasting_s / every_s))]
    return [bisect_right(due, at_s) - bisect_right(polled, at_s) for at_s in moments]


def summed_up(scene: Scene, costs: Costs) -> dict[str, Any]:
    """Play a scene, and give what users and operators would see of it: first of the time before anything fails."""
    simulation = Simulation(scene, costs)
    gc.disable()  # many tuples, and no cycles
    try:
        seen = simulation.run()
    finally:
        gc.enable()
    began_s = scene.warm_up_s
    end_s = began_s + scene.lasting_s
    fails_s = [began_s + at_s for at_s in (scene.shard_away_s, scene.worker_dies_s) if at_s is not None]
    calm_s = min(fails_s, default=end_s)
    late_s = lateness(seen, began_s, calm_s)
    told = [row for row in zip(seen.told_s, seen.after_ready_s, seen.after_answer_s, strict=True) if row[0] < calm_s]
    worker, redis = simulation.shares()
    found: dict[str, Any] = {
        "polls_per_s": sum(began_s <= at_s < calm_s for at_s in seen.polled_s) / (calm_s - began_s),
        "cpu_share": worker,
        "redis_cpu_share": redis,
        "in_view": seen.in_view,
        "lag_p50_ms": quantile(late_s, 0.5) * 1000,
        "lag_p99_ms": quantile(late_s, 0.99) * 1000,
    }
    if told:
        _, ready_s, answer_s = zip(*told, strict=True)
        found |= {
            "messages_per_s": len(told) / (calm_s - began_s),
            "told_p50_s": quantile(ready_s, 0.5),
            "told_p99_s": quantile(ready_s, 0.99),
            "wait_p50_ms": quantile(answer_s, 0.5) * 1000,
            "wait_p99_ms": quantile(answer_s, 0.99) * 1000,
        }
    if fails_s:
        waiting = backlog(seen, began_s, scene.lasting_s)
        usual = quantile(waiting[: int(calm_s - began_s)], 0.99)
        found |= {"backlog": max(waiting), "waiting": waiting[::KEPT_EVERY_S]}
        if scene.shard_away_s is not None:
            back_s = scene.shard_away_s + scene.away_for_s
            found["drained_s"] = next(at for at, left in enumerate(waiting[int(back_s) :]) if left <= 2 * usual + 1)
        if scene.worker_dies_s is not None:
            died_s = began_s + scene.worker_dies_s
            rows = zip(seen.due_s, seen.polled_s, strict=True)
            found["death_lag_max_s"] = max(polled_s - due_s for due_s, polled_s in rows if polled_s >= died_s)
    return found


# --- what the benchmarks keep of it -----------------------------------------------------------------

KEPT_EVERY_S = 2
"""How many seconds lie between two figures of the plot."""

SCALES = (1e6, 1e7, 1e8)
"""Videos a day."""

FAILING = {"lasting_s": 220.0, "shard_away_s": 60.0, "worker_dies_s": 140.0}
"""A minute of calm, a failover, and a death."""

AS_MEASURED = {"places": 400, "varied": False, "network_s": 0.0002}
"""How the other parts of the benchmarks are set up: on one machine."""


def sliced(costs: Costs, videos_per_day: float, shards: int = 1) -> tuple[Scene, int]:
    """Give so many shards of what is planned for a day, with their workers; and how many shards it has."""
    load = Load(videos_per_day)
    found = plan(costs, load)
    share = shards / found.shards
    part = replace(load, videos_per_day=videos_per_day * share)
    return Scene(part, round(found.workers * share), found.places, shards=shards, **FAILING), found.shards


def play_all(results: dict[str, Any], say: Callable[[str], None] = print) -> dict[str, Any]:
    """Play what was measured, and what cannot be."""
    costs = Costs.of(results)
    scales = []
    for videos_per_day in SCALES:
        scene, shards = sliced(costs, videos_per_day)
        say(f"  {videos_per_day:,.0f} videos a day: {scene.workers} workers of shard 1 of {shards}")
        found = summed_up(scene, costs)
        scales.append({"videos_per_day": videos_per_day, "shards": shards, "workers": scene.workers} | found)
    say(f"  {SCALES[-1]:,.0f} videos a day: two shards")
    whole, _ = sliced(costs, SCALES[-1], shards=2)
    two = {"shards": 2, "workers": whole.workers} | summed_up(replace(whole, seed=2), costs)
    del two["waiting"]
    return {"checks": checks(results, costs), "scales": scales, "two_shards": two}


def checks(results: dict[str, Any], costs: Costs) -> list[dict[str, Any]]:
    """Play the settings of `throughput`, `punctuality` and `delivery`, and set the figures beside those measured."""
    full = next(row for row in results["throughput"]["fast"] if row["name"] == KINDS["AsyncRunner [fast]"][1])
    told = results["delivery"]
    second = Load(1, interval_s=1, initial_delay_s=0, api_s=0.05)
    runs = [("throughput", full, Scene(second, 1, jobs=5000, lasting_s=6, warm_up_s=4, **AS_MEASURED))]
    for row in results["punctuality"]:
        scene = Scene(Load(1, api_s=0.05), 1, jobs=row["jobs"], lasting_s=15, warm_up_s=20, **AS_MEASURED)
        runs.append((f"punctuality, {row['jobs']:,} jobs", row, scene))
    # Its videos are ready at their eighth poll, give or take seven.
    eight = Load(
        told["messages_per_s"] * DAY_S,
        peak=1,
        generation_s=7.5,
        spread=0.57,
        initial_delay_s=0.5,
        interval_s=1,
        api_s=0.05,
        message_s=0.05,
    )
    runs.append(("delivery", told, Scene(eight, 1, lasting_s=20, warm_up_s=30, **AS_MEASURED)))
    rows = []
    for name, measured, scene in runs:
        played = summed_up(scene, costs)
        rows += [
            {"name": name, "what": what, "measured": measured[what], "simulated": played[what]}
            for what in CHECKED
            if what in measured and what in played and not (name == "throughput" and what.startswith("lag"))
        ]
    return rows


CHECKED = ("polls_per_s", "cpu_share", "redis_cpu_share", "lag_p50_ms", "lag_p99_ms", "wait_p50_ms", "wait_p99_ms")
