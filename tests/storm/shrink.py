"""Makes a failing plan small: whatever can go while it still fails in the same way goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from storm.fleet import run
from storm.model import judge
from storm.plan import Event, JobPlan, Plan, WorkerPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OF_A_JOB = {"cancel", "cancel and tell", "poll now", "enqueue again", "redrive", "dismiss", "push"}
OF_A_WORKER = {"kill", "freeze", "stop", "cut off", "refuse writes"}


def kinds_of(wrongs: list[str]) -> set[str]:
    """Give what went wrong, without the details."""
    return {wrong.partition(":")[0] for wrong in wrongs}


def fails(plan: Plan, kinds: set[str]) -> bool:
    """Whether a plan still goes wrong in one of these ways."""
    return not kinds.isdisjoint(kinds_of(judge(run(plan))))


def shrink(plan: Plan, kinds: set[str], *, rounds: int = 6, still: Callable[[Plan, set[str]], bool] = fails) -> Plan:
    """Drop and simplify greedily until nothing more can go."""
    for _ in range(rounds):
        smaller = plan
        for build in (_without_events, _without_jobs, _without_workers, _simpler):
            again = True
            while again:
                again = False
                for candidate in build(smaller):
                    if still(candidate, kinds):
                        smaller, again = candidate, True
                        break
        if smaller == plan:
            break
        plan = smaller
    return plan


def _without_events(plan: Plan) -> Iterator[Plan]:
    for place in range(len(plan.events)):
        yield attrs.evolve(plan, events=plan.events[:place] + plan.events[place + 1 :])


def _renumbered(event: Event, gone: int, kinds: set[str]) -> Event | None:
    if event.what not in kinds:
        return event
    number, *rest = event.how
    if number == gone:
        return None
    return attrs.evolve(event, how=(number - (number > gone), *rest))


def _without_jobs(plan: Plan) -> Iterator[Plan]:
    for place in range(len(plan.jobs)):
        if len(plan.jobs) > 1:
            events = tuple(filter(None, (_renumbered(event, place, OF_A_JOB) for event in plan.events)))
            yield attrs.evolve(plan, jobs=plan.jobs[:place] + plan.jobs[place + 1 :], events=events)


def _without_workers(plan: Plan) -> Iterator[Plan]:
    for place in range(len(plan.workers)):
        if len(plan.workers) > 1:
            events = tuple(filter(None, (_renumbered(event, place, OF_A_WORKER) for event in plan.events)))
            yield attrs.evolve(plan, workers=plan.workers[:place] + plan.workers[place + 1 :], events=events)


def _simpler(plan: Plan) -> Iterator[Plan]:
    plain = Plan(seed=plan.seed)
    for name in ("yields", "jitter", "routed", "job_ttl_s", "visible_after_s", "timeout_s"):
        if getattr(plan, name) != getattr(plain, name):
            yield attrs.evolve(plan, **{name: getattr(plain, name)})
    for place, job in enumerate(plan.jobs):
        for name in ("sends", "refused", "ends"):
            if getattr(job, name) != getattr(JobPlan(), name):
                changed = attrs.evolve(job, **{name: getattr(JobPlan(), name)})
                yield attrs.evolve(plan, jobs=(*plan.jobs[:place], changed, *plan.jobs[place + 1 :]))
    for place, worker in enumerate(plan.workers):
        if worker != WorkerPlan():
            yield attrs.evolve(plan, workers=(*plan.workers[:place], WorkerPlan(), *plan.workers[place + 1 :]))


def as_code(value: object) -> str:
    """Write a plan as a test can hold it, without what is as usual."""
    if isinstance(value, tuple):
        return "(" + "".join(f"{as_code(one)}, " for one in value).rstrip() + ")"
    if not attrs.has(type(value)):
        return repr(value)
    fields = attrs.fields(type(value))
    words = [
        f"{field.name}={as_code(getattr(value, field.name))}"
        for field in fields
        if field.default is attrs.NOTHING or getattr(value, field.name) != field.default
    ]
    if isinstance(value, Event):
        words = [repr(value.at_s), repr(value.what), *([repr(value.how)] if value.how else [])]
    return f"{type(value).__name__}({', '.join(words)})"
