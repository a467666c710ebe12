"""What a seed chooses: the fleet, its jobs and policies, and the faults with their moments."""

from __future__ import annotations

import random
from typing import Any

import attrs

from storm.outside import MANNERS, ODD_POLLS
from videopoll import DeliveryPolicy, KeyTtls, LeasePolicy, PollingStrategy

POLICY = {
    "interval_s": 5.0,
    "initial_delay_s": 1.0,
    "backoff_base_s": 2.0,
    "backoff_cap_s": 10.0,
    "request_timeout_s": 6.0,
    "max_retry_after_s": 20.0,
    "not_found_grace_s": 4.0,
}


@attrs.frozen(kw_only=True)
class WorkerPlan:
    """One worker's place in the fleet."""

    runner: str = "async"
    parts: str = "async"
    polls: int = 4
    sends: int = 2
    runners: int = 1


@attrs.frozen(kw_only=True)
class JobPlan:
    """One job, and how the messenger answers its sends, one after the other."""

    at_s: float = 0.5
    takes_s: float = 8.0
    ends: str = "ready"
    refused: str = ""
    sends: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    """What becomes of its messages that the channel has accepted: `FATES`, one after the other; then they arrive."""


@attrs.frozen
class Event:
    """One fault or one act of an operator, at its time."""

    at_s: float
    what: str
    how: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at_s:7.2f} s  {self.what} {' '.join(map(str, self.how))}".rstrip()


@attrs.frozen(kw_only=True)
class Plan:
    """A whole storm."""

    seed: int
    workers: tuple[WorkerPlan, ...] = (WorkerPlan(),)
    jobs: tuple[JobPlan, ...] = (JobPlan(),)
    events: tuple[Event, ...] = ()
    channel: str = "mute"
    routed: bool = False
    on_unknown: str = "at_least_once"
    lease_s: float = 6.0
    timeout_s: float = 60.0
    job_ttl_s: int = 600
    grace_s: float = 3.0
    slow_s: float = 8.0
    visible_after_s: float = 1.0
    jitter: float = 0.0
    yields: float = 0.0
    api_s: float = 0.05
    channel_s: float = 30.0
    tells: bool = False
    """Whether the channel accepts messages, and tells later by receipts what became of them."""
    tenants: int = 0
    """How many tenants the jobs belong to, in turn; 0 if none are named."""

    def __str__(self) -> str:
        """The plan as a person reads it, and as a test can hold it."""
        lines = [
            (
                f"seed {self.seed}: {self.channel} channel{', routed' if self.routed else ''}, {self.on_unknown},"
                f" lease {self.lease_s:g} s, timeout {self.timeout_s:g} s, grace {self.grace_s:g} s,"
                f" slow {self.slow_s:g} s, record {self.job_ttl_s} s, jitter {self.jitter:g}, yields {self.yields:g},"
                f" API answers in {self.api_s:g} s, channel waits {self.channel_s:g} s"
                + (f", {self.tenants} tenants" if self.tenants else "")
            )
        ]
        lines += [
            f"  worker {number}: {one.runner} runner, {one.parts} parts, {one.polls} polls, {one.sends} sends"
            + (f", {one.runners} runners" if one.runners > 1 else "")
            for number, one in enumerate(self.workers)
        ]
        lines += [
            f"  job {number}: at {one.at_s:g} s, {one.ends} after {one.takes_s:g} s"
            + (f", refused: {one.refused}" if one.refused else "")
            + (f", sends: {', '.join(one.sends)}" if one.sends else "")
            + (f", late: {', '.join(one.late)}" if one.late else "")
            for number, one in enumerate(self.jobs)
        ]
        lines += [f"  {event}" for event in self.events]
        return "\n".join(lines)


def queue_options(plan: Plan, scale: float = 1.0) -> dict[str, Any]:
    """Give what a plan says of a queue; `scale` is how long a second of the plan takes."""
    record_s = round(plan.job_ttl_s * scale)
    return {
        "ttls": KeyTtls(job_s=record_s, attempts_s=record_s),
        "delivery": _delivery(plan, scale),
        "tenant_key": "brand" if plan.tenants else None,
    }


def runner_options(plan: Plan, worker: WorkerPlan, scale: float = 1.0) -> dict[str, Any]:
    """Give what a plan says of the runners of a worker."""
    policy = {name: seconds * scale for name, seconds in POLICY.items()}
    return {
        "strategy": PollingStrategy(
            **policy,
            timeout_s=plan.timeout_s * scale,
            jitter=plan.jitter,
            max_attempts=30,  # type: ignore[arg-type]
        ),
        "lease": LeasePolicy.lasting(plan.lease_s * scale),
        "delivery": _delivery(plan, scale),
        "concurrency": worker.polls,
        "delivery_concurrency": worker.sends,
        "grace_s": plan.grace_s * scale,
    }


def _delivery(plan: Plan, scale: float) -> DeliveryPolicy:
    return DeliveryPolicy(
        max_attempts=6,
        video_attempts=3,
        backoff_base_s=1.0 * scale,
        backoff_cap_s=8.0 * scale,
        deadline_s=90.0 * scale,
        retention_s=600.0 * scale,
        appear_within_s=4.0 * scale,
        max_retry_after_s=20.0 * scale,
        send_timeout_s=25.0 * scale,
        jitter=plan.jitter,
        on_unknown=plan.on_unknown,  # type: ignore[arg-type]
    )


def address(job_id: str) -> str:
    """Give the phone number of the user of a job."""
    return f"54911{int(job_id.removeprefix('job')):08d}"


def metadata_of(plan: Plan, job_id: str) -> dict[str, Any]:
    """Give what a producer stores with a job."""
    brand = {"brand": int(job_id.removeprefix("job")) % plan.tenants} if plan.tenants else {}
    return {"channel": "c", "to": address(job_id), **brand}


def named(runner: Any, worker: str, number: int) -> Any:
    """Let a runner sign its leases with the name that its worker has in the storm."""
    runner._state.worker_id = runner._state.context.worker_id = f"video_worker_{worker}{':b' * number}"
    return runner


TRAPS = (
    (("claim",), "answered"),
    (("claim",), "served"),
    (("poll",), "served"),
    (("poll",), "answered"),
    (("conclude",), "before it is served"),
    (("conclude",), "served"),
    (("conclude",), "answered"),
    (("begin_send",), "served"),
    (("begin_send",), "answered"),
    (("send",), "served"),
    (("send",), "answered"),
    (("settle",), "before it is served"),
    (("settle",), "served"),
    (("settle",), "answered"),
    (("redeliver",), "served"),
    (("redeliver",), "before it is served"),
    (("reschedule",), "served"),
    (("reschedule",), "before it is served"),
    (("look_up",), "answered"),
    (("renew",), "served"),
)
"""Where workers are killed and frozen: at which round trip, and when on its way."""

FROZEN_AT = (
    *TRAPS,
    *((("posting",), "reached"),) * 3,
    (("resolving",), "reached"),
    *(((name,), "before it is served") for name in ("conclude", "begin_send", "settle", "redeliver", "reschedule") * 2),
)

THEMES = ("kill", "freeze", "redis", "api", "messenger", "operator", "stop", "crowd", "clock", "broken", "odd")
ACTS = ("cancel", "cancel", "cancel and tell", "poll now", "enqueue again", "push", "push", "redrive", "dismiss")
REFUSALS = (
    "READONLY You can't write against a read only replica.",
    "NOPERM this user has no permissions to run the 'evalsha' command",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "ERR something that nobody has seen before",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "BUSY Redis is busy running a script.",
)
BROKEN_OFF = ("claim", "claim", "claim", "conclude", "settle", "redeliver", "redeliver", "reschedule", "enqueue")
SCRIPTS = ("claim", "conclude", "begin_send", "settle", "redeliver", "reschedule", "renew", "release", "enqueue")


def plan_of(seed: int) -> Plan:
    """Give the storm of a seed; of eight, one is pointed at a race that chance alone seldom meets."""
    rng = random.Random(seed)
    if seed % EVERY == POINTED:
        return KINDS[seed // EVERY % len(KINDS)](seed, rng)
    themes = set(rng.sample(THEMES, rng.choice((1, 2, 2, 3, 3, 4))))
    lease_s = rng.choice((6.0, 12.0))
    workers = tuple(
        WorkerPlan(
            runner=(runner := rng.choice(("async", "sync"))),
            parts="sync" if runner == "sync" else rng.choice(("async", "async", "sync")),
            polls=rng.choice((1, 2)) if "crowd" in themes else rng.choice((2, 4, 8)),
            sends=rng.choice((1, 1, 2, 4)),
            runners=rng.choice((1, 1, 1, 1, 2)),
        )
        for _ in range(rng.choice((1, 2, 2, 3)))
    )
    jobs = tuple(_job(rng, themes) for _ in range(rng.choice((6, 10, 14)) if "crowd" in themes else rng.randint(1, 5)))
    events: list[Event] = []
    for theme in sorted(themes):
        for _ in range(rng.choice((3, 4, 5)) if theme == "freeze" else rng.choice((1, 2, 3, 4))):
            events += _events(rng, theme, workers, jobs, lease_s)
    return Plan(
        seed=seed,
        workers=workers,
        jobs=jobs,
        events=tuple(sorted(events, key=lambda event: event.at_s)),
        channel=rng.choice(("mute", "mute", "askable")),
        routed=rng.random() < 0.4,
        on_unknown=rng.choice(("at_least_once", "at_least_once", "at_most_once")),
        lease_s=lease_s,
        timeout_s=rng.choice((30.0, 60.0)),
        job_ttl_s=rng.choice((75, 600)),
        grace_s=rng.choice((1.0, 4.0)),
        slow_s=rng.choice((4.0, 9.0, 16.0, 22.0)),
        visible_after_s=rng.choice((0.0, 1.5)),
        jitter=rng.choice((0.0, 0.1)),
        yields=rng.choice((0.0, 0.05)),
        api_s=rng.choice((0.05, 0.05, 0.5, 3.0)),
        channel_s=rng.choice((30.0, 30.0, 70.0)),
        tenants=(0, 2, 0, 3)[seed % 4],
    )


FATES = ("arrives", "arrives", "fails", "fails for now")


def telling_plan_of(seed: int) -> Plan:
    """Give the storm of a seed over a channel that tells by receipts; kills and freezes fall around the watch."""
    plan, rng = plan_of(seed), random.Random(seed ^ 0x5EED)
    jobs = tuple(
        attrs.evolve(job, late=tuple(rng.choice(FATES) for _ in range(rng.randint(0, 3)))) for job in plan.jobs
    )
    events = tuple(
        attrs.evolve(event, how=tuple("watch" if one == "settle" else one for one in event.how))
        if event.what in {"kill", "freeze", "break off"}
        else event
        for event in plan.events
    )
    return attrs.evolve(plan, jobs=jobs, events=events, channel="mute", tells=True)


def _job(rng: random.Random, themes: set[str]) -> JobPlan:
    sends: list[str] = []
    if "messenger" in themes and rng.random() < 0.7:
        sends = [rng.choice(MANNERS) for _ in range(rng.choice((1, 1, 2, 3)))]
        if rng.random() < 0.1:
            sends = [rng.choice(("lost", "500", "throttled", "dropped"))] * 6
    elif "broken" in themes and rng.random() < 0.5:
        sends = [rng.choice(("unreachable", "throttled", "lost"))] * rng.choice((1, 2))
    elif rng.random() < 0.4:
        sends = ["slow"]
    return JobPlan(
        at_s=round(rng.uniform(0.0, 20.0), 2),
        takes_s=round(rng.choice((2.0, 8.0, 20.0)) * rng.uniform(0.5, 1.5), 1),
        ends=rng.choice(("ready",) * 8 + ("failed", "missing", "never")),
        refused=rng.choice(("",) * 8 + ("video", "all")),
        sends=tuple(sends),
    )


def _events(
    rng: random.Random, theme: str, workers: tuple[WorkerPlan, ...], jobs: tuple[JobPlan, ...], lease_s: float
) -> list[Event]:
    at_s = round(rng.uniform(0.0, 40.0), 2)
    worker, job = rng.randrange(len(workers)), rng.randrange(len(jobs))
    long_s = round(
        rng.choice((0.5, 2.0, lease_s * 0.6, lease_s * 1.5, lease_s * 1.5, lease_s * 2.5)) * rng.uniform(0.8, 1.2), 1
    )
    short_s = round(rng.uniform(0.1, 10.0), 1)
    how: tuple[Any, ...]
    match theme:
        case "kill" | "freeze":
            return _worker_events(rng, theme, at_s, worker, long_s)
        case "stop":
            how = (worker, short_s)
        case "clock":
            how = (rng.choice((-600.0, -30.0, -5.0, 5.0, lease_s * 1.5, 30.0)),)
        case "redis":
            return [_redis_event(rng, at_s, worker, long_s)]
        case "odd":
            return [Event(at_s, "odd polls", tuple(rng.choice(ODD_POLLS) for _ in range(rng.randint(1, 3))))]
        case "operator":
            # Most of them around the time when the job ends.
            one = jobs[job]
            around_s = one.at_s + one.takes_s + rng.uniform(-6.0, 8.0)
            return [Event(round(max(one.at_s, rng.choice((at_s, around_s, around_s))), 2), rng.choice(ACTS), (job,))]
        case "api":
            for_s = round(rng.choice((3.0, 15.0, 80.0)) * rng.uniform(0.8, 1.2), 1)
            how = (
                rng.choice(("throttle", "throttle", "down", "hang", "stray 404")),
                for_s,
                rng.choice((1.0, 5.0, 20.0)),
            )
        case "messenger":
            how = (rng.choice(("down", "mum")), round(rng.uniform(2.0, 40.0), 1))
        case "broken":
            return [
                Event(
                    round(rng.uniform(0.0, 40.0), 2),
                    *rng.choice(((kind, (script, rng.randrange(8))), (kind, (script, 1)))),
                )
                for kind, script in (("break off", rng.choice(BROKEN_OFF)) for _ in range(3))
            ]
        case _:
            return []
    return [Event(at_s, theme, how)]


def _worker_events(rng: random.Random, theme: str, at_s: float, worker: int, long_s: float) -> list[Event]:
    names, phase = rng.choice(TRAPS if theme == "kill" else FROZEN_AT)
    seconds, more = long_s, []
    if theme == "kill":
        # Sometimes nobody comes back for longer than the deadline of a delivery.
        seconds = 110.0 if rng.random() < 0.08 else round(rng.uniform(0.1, 10.0), 1)
    elif rng.random() < 0.3:
        # It is to stop when it wakes up, and what it has in hand is somebody else's by then.
        more = [Event(round(at_s + 1.0, 2), "stop", (worker, 5.0))]
    return [Event(at_s, theme, (worker, "/".join(names), phase, seconds)), *more]


def _redis_event(rng: random.Random, at_s: float, worker: int, long_s: float) -> Event:
    kind = rng.choice(("away", "stall", "stall", "full", "refuse", "cut off", "lose reply", "break off", "restart"))
    how: tuple[Any, ...] = (long_s,)
    if kind == "refuse":
        how = (long_s, rng.choice(REFUSALS))
    elif kind == "cut off":
        how = (worker, long_s)
    elif kind == "lose reply":
        how = (rng.choice(SCRIPTS),)
    elif kind == "break off":
        how = (rng.choice(SCRIPTS), rng.randrange(6))
    return Event(at_s, kind, how)


# --- small ones, each pointed at a rare race ---

EVERY, POINTED = 8, 5
"""Of so many seeds, the one with this remainder is pointed."""


def _fleet(rng: random.Random, count: int) -> tuple[WorkerPlan, ...]:
    kinds = (WorkerPlan(runner="sync", parts="sync"), WorkerPlan(), WorkerPlan(parts="sync"))
    return tuple(rng.choice(kinds) for _ in range(count))


def _cancel_in_a_poll(seed: int, rng: random.Random) -> Plan:
    """The API is asked, and will say that the video is there: a cancel comes before its answer."""
    jobs, events = [], []
    for number in range(rng.choice((1, 2, 3))):
        at_s, polled_after_s = round(rng.uniform(0.0, 10.0), 2), rng.choice((1.0, 6.0))
        jobs.append(JobPlan(at_s=at_s, takes_s=polled_after_s - 0.6))
        cancel_s = at_s + polled_after_s + rng.uniform(0.1, 1.8)
        events.append(Event(round(cancel_s, 2), rng.choice(("cancel", "cancel", "cancel and tell")), (number,)))
    return Plan(
        seed=seed,
        workers=_fleet(rng, rng.choice((1, 2))),
        jobs=tuple(jobs),
        events=tuple(sorted(events, key=lambda event: event.at_s)),
        channel=rng.choice(("mute", "askable")),
        api_s=3.0,
        yields=rng.choice((0.0, 0.05)),
    )


def _cancel_in_a_send(seed: int, rng: random.Random) -> Plan:
    """The message is out and its reply is lost: a cancel comes before anybody knows."""
    jobs, events = [], []
    channel = rng.choice(("mute", "askable", "askable"))
    for number in range(rng.choice((1, 2))):
        at_s = round(rng.uniform(0.0, 10.0), 2)
        jobs.append(JobPlan(at_s=at_s, takes_s=0.4, sends=(rng.choice(("lost", "500", "slow")),)))
        if channel == "askable":
            events.append(Event(round(at_s + 1.0, 2), "messenger", ("mum", round(rng.uniform(4.0, 14.0), 1))))
        for _ in range(2):
            late_s = rng.uniform(1.25, 2.1) if channel == "mute" else rng.uniform(1.3, 6.0)
            events.append(Event(round(at_s + late_s, 2), rng.choice(("cancel", "cancel and tell")), (number,)))
    return Plan(
        seed=seed,
        workers=_fleet(rng, rng.choice((1, 2))),
        jobs=tuple(jobs),
        events=tuple(sorted(events, key=lambda event: event.at_s)),
        channel=channel,
        slow_s=4.0,
        yields=rng.choice((0.0, 0.05)),
    )


def _kept_record(seed: int, rng: random.Random) -> Plan:
    """Each claim of an overdue job is cut off by a death, until its record would have died without its keepers."""
    lease_s, at_s = rng.choice((6.0, 12.0)), round(rng.uniform(0.0, 5.0), 2)
    deaths = 2 if lease_s == 12.0 else 4
    apart_s = 1.02 * lease_s
    return Plan(
        seed=seed,
        workers=_fleet(rng, 1),
        jobs=(JobPlan(at_s=at_s, ends="never"),),
        events=tuple(
            Event(round(at_s + 56.0 + apart_s * number, 2), "kill", (0, "conclude", "before it is served", 1.0))
            for number in range(deaths)
        ),
        # Of a channel that can be asked a death says nothing about how many sends there were.
        channel="askable",
        lease_s=lease_s,
        job_ttl_s=75,
    )


def _start_in_the_future(seed: int, rng: random.Random) -> Plan:
    """Redis's clock steps back by minutes: a job that it has dated itself begins in its future, and is polled at once."""
    at_s = round(rng.uniform(0.0, 5.0), 2)
    step_s = at_s + rng.uniform(2.0, 12.0)
    acts = [
        Event(
            round(step_s + rng.uniform(0.5, 12.0), 2),
            rng.choice(("poll now", "poll now", "push", "enqueue again")),
            (0,),
        )
        for _ in range(3)
    ]
    return Plan(
        seed=seed,
        workers=_fleet(rng, rng.choice((1, 2))),
        jobs=(JobPlan(at_s=at_s, takes_s=14.0),),
        events=tuple(
            sorted(
                (Event(round(step_s, 2), "clock", (rng.choice((-120.0, -600.0)),)), *acts), key=lambda event: event.at_s
            )
        ),
    )


def _poll_that_hangs_on(seed: int, rng: random.Random) -> Plan:
    """A host's poller never comes back, and does not listen to its cancellation: others have to take its job over."""
    jobs = tuple(
        JobPlan(at_s=round(rng.uniform(0.0, 5.0), 2), takes_s=rng.choice((0.5, 8.0))) for _ in range(rng.choice((1, 2)))
    )
    return Plan(
        seed=seed,
        workers=(WorkerPlan(),) * 2,
        jobs=jobs,
        events=(Event(round(rng.uniform(0.0, 3.0), 2), "odd polls", ("hangs on",)),),
    )


def _writes_that_fail(seed: int, rng: random.Random) -> Plan:
    """Redis refuses the writes of one worker, while jobs come to their deadlines and another worker has time."""
    at_s = [round(rng.uniform(0.0, 4.0), 2) for _ in range(3)]
    return Plan(
        seed=seed,
        workers=(*_fleet(rng, 1), WorkerPlan()),
        jobs=tuple(JobPlan(at_s=one, ends="never") for one in at_s),
        events=(Event(round(min(at_s) + rng.uniform(5.0, 28.0), 2), "refuse writes", (0, 40.0)),),
        timeout_s=30.0,
    )


def _death_in_a_second_send(seed: int, rng: random.Random) -> Plan:
    """The first send has failed, and the worker dies in the next one: that has to be noted as the first one was."""
    at_s = round(rng.uniform(0.0, 5.0), 2)
    return Plan(
        seed=seed,
        workers=_fleet(rng, 1),
        jobs=(JobPlan(at_s=at_s, takes_s=0.5, sends=(rng.choice(("unreachable", "throttled")),)),),
        events=(Event(round(at_s + 1.6, 2), "kill", (0, "send", rng.choice(("served", "answered")), 1.0)),),
        channel="askable",
    )


def _send_at_the_end_of_a_lease(seed: int, rng: random.Random) -> Plan:
    """A worker stands still before its send, is cut off from Redis, and sends just before others may take over."""
    at_s = round(rng.uniform(0.0, 4.0), 2)
    return Plan(
        seed=seed,
        workers=_fleet(rng, 2),
        jobs=tuple(JobPlan(at_s=round(at_s + rng.uniform(0.0, 2.0), 2), takes_s=0.5) for _ in range(3)),
        events=(
            Event(round(at_s + 1.0, 2), "freeze", (0, "posting", "reached", round(rng.uniform(9.0, 11.0), 1))),
            Event(round(at_s + 8.0, 2), "cut off", (0, 30.0)),
        ),
        channel="askable",
        routed=rng.random() < 0.4,
        lease_s=12.0,
        visible_after_s=3.0,
    )


def _stop_with_a_line(seed: int, rng: random.Random) -> Plan:
    """More is due than a worker has places for, so that jobs stand in line; the API hangs, and the worker is to stop."""
    at_s = round(rng.uniform(0.0, 4.0), 2)
    hangs_s = at_s + rng.uniform(1.4, 1.7)
    return Plan(
        seed=seed,
        workers=(WorkerPlan(polls=4),),
        jobs=tuple(JobPlan(at_s=at_s, takes_s=4.0) for _ in range(60)),
        events=(
            Event(round(hangs_s, 2), "api", ("hang", 8.0, 5.0)),
            Event(round(hangs_s + rng.uniform(0.06, 0.16), 2), "stop", (0, 2.0)),
        ),
    )


KINDS = (
    _cancel_in_a_poll,
    _cancel_in_a_send,
    _kept_record,
    _start_in_the_future,
    _poll_that_hangs_on,
    _writes_that_fail,
    _death_in_a_second_send,
    _send_at_the_end_of_a_lease,
    _stop_with_a_line,
)
"""Storms that are pointed at one race each; the seed chooses which one."""


# --- large ones ---


def kill_storm(seed: int, *, jobs: int = 1000, kills: int = 100, for_s: float = 750.0) -> Plan:
    """Three workers that keep being killed, now and then frozen, over a Redis that restarts: nobody may stay untold."""
    rng = random.Random(seed)
    workers = (WorkerPlan(runner="sync", parts="sync", polls=32, sends=8), *(WorkerPlan(polls=100, sends=32),) * 2)
    events = [
        Event(round(for_s * (number + 1) / (kills + 1), 2), "kill", (number % 3, "/".join(names), phase, 1.0))
        for number, (names, phase) in enumerate(rng.choice(TRAPS) for _ in range(kills))
    ]
    for number in range(max(1, kills // 33)):
        at_s = round(rng.uniform(0.1, 0.9) * for_s, 2)
        names, phase = rng.choice(FROZEN_AT)
        events.append(Event(at_s, "freeze", (number % 3, "/".join(names), phase, 15.0)))
    events += [Event(round(share * for_s, 2), "restart", (2.0,)) for share in (0.35, 0.7)]
    events += [Event(round(share * for_s, 2), "api", ("down", 5.0, 1.0)) for share in (0.2, 0.5, 0.8)]
    return Plan(
        seed=seed,
        workers=workers,
        jobs=tuple(JobPlan(at_s=round(number * for_s / jobs, 2), takes_s=8.0) for number in range(jobs)),
        events=tuple(sorted(events, key=lambda event: event.at_s)),
        channel="askable",
        timeout_s=200.0,
        job_ttl_s=1800,
    )


def delivery_storm(seed: int, *, jobs: int = 500, kills: int = 40, for_s: float = 300.0) -> Plan:
    """A messenger that misbehaves in every way, and workers that die in the midst of their sends."""
    rng = random.Random(seed)
    sending = [
        trap for trap in TRAPS if {"conclude", "begin_send", "send", "settle", "redeliver", "look_up"} & set(trap[0])
    ]
    chosen = [
        JobPlan(
            at_s=round(number * for_s / jobs, 2),
            takes_s=1.0,
            refused="all" if number % 25 == 0 else "video" if number % 10 == 3 else "",
            sends=(rng.choice(MANNERS),) if number % 2 else (),
        )
        for number in range(jobs)
    ]
    events = [
        Event(round(for_s * (number + 1) / (kills + 1), 2), "kill", (number % 2, "/".join(names), phase, 0.5))
        for number, (names, phase) in enumerate(rng.choice(sending) for _ in range(kills))
    ]
    events.append(Event(round(for_s / 2, 2), "messenger", ("down", 30.0)))
    return Plan(
        seed=seed,
        workers=(WorkerPlan(polls=32, sends=32), WorkerPlan(runner="sync", parts="sync", polls=32, sends=32)),
        jobs=tuple(chosen),
        events=tuple(sorted(events, key=lambda event: event.at_s)),
        channel="askable",
        timeout_s=200.0,
        job_ttl_s=1800,
    )


LARGE = {"kills": kill_storm, "deliveries": delivery_storm}
"""Storms that are the same from seed to seed but for their moments: what a night's fleet goes through."""
