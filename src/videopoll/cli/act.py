"""``videopoll poll-now``, ``drain`` and ``hand-back``: hurry one job, wait for the end of all, leave them to others."""

from __future__ import annotations

import time
from typing import Annotated

import attrs
import typer

from videopoll.cli.figures import pending
from videopoll.cli.options import (
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    AsJson,
    JobId,
    Prefix,
    RedisUrl,
    open_queue,
)
from videopoll.cli.output import Cell, complain, duration, guarded, print_json, print_values
from videopoll.errors import QueueUnavailableError
from videopoll.jobs.job import JobState
from videopoll.jobs.views import HandedBack, JobView, QueueCounts
from videopoll.observe.log import shown

__all__ = ["drain", "hand_back", "poll_now"]

LOOK_EVERY_S = 1.0

TELL_EVERY_S = 30.0
"""How often a drain in a pipe says that it still waits."""

MOST_SHOWN = 20
"""Ids that are shown at most."""

NOT_SCHEDULED = {
    JobState.QUEUED: "it waits in the list: a worker takes it as soon as there is one",
    JobState.POLLING: "it is being polled at this moment",
    JobState.DELIVERING: "its polling is over, and its outcome is being sent",
    JobState.OUTBOX: "its polling is over, and its outcome waits for the next send",
    JobState.SETTLED: "it has ended",
    JobState.DEAD: "it is a dead letter: see videopoll dead show",
    JobState.ORPHANED: "no list and no schedule has it: a worker of another kind holds it, or lost it",
}


@guarded
def poll_now(
    *,
    job: JobId,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
) -> None:
    """Make a job's next poll due at once, e.g. when the video API is back after a long backoff.

    A worker notices within about 4 seconds. It is an ordinary poll, and counts as an attempt.
    """
    with open_queue(redis_url, prefix) as queue:
        moved = queue.poll_now(job)
        view = None if moved else queue.get(job)
    if as_json:
        print_json({"job_id": job, "result": "due" if moved else _state(view)})
    elif moved:
        typer.echo(f"{job}\tdue")
    else:
        complain(f"{job}: {_why(view)}")
    if not moved:
        raise typer.Exit(1)


def _state(view: JobView | None) -> str:
    return "unknown" if view is None else view.state.value


def _why(view: JobView | None) -> str:
    if view is None:
        return "there is no such job"
    # Between the two looks its poll may have come.
    return NOT_SCHEDULED.get(view.state, "its poll has just been made: try again if you want another one")


@guarded
def hand_back(
    *, as_json: AsJson = False, redis_url: RedisUrl = DEFAULT_REDIS_URL, prefix: Prefix = DEFAULT_PREFIX
) -> None:
    """Hand scheduled jobs to workers of another kind, e.g. to go back from a migration.

    Stop videopoll's workers first. Ids go from the schedule to the list, where workers of
    another kind look. Outcomes that were not delivered yet stay: only videopoll's workers
    can deliver them (videopoll worker --no-new-jobs). It may be run again; the exit code
    is 1 as long as something is left.
    """
    with open_queue(redis_url, prefix) as queue:
        result = queue.hand_back()
    left = _left_behind(result)
    if as_json:
        print_json({**attrs.asdict(result), "complete": result.complete})
    else:
        values: dict[str, Cell] = {
            "handed back": result.handed,
            "theirs already": result.theirs,
            "ended by them": result.ended,
            "without a record": len(result.gone),
        }
        print_values(values, title="videopoll")
        for job_id in result.gone[:MOST_SHOWN]:
            complain(f"{shown(job_id)} has no record any more: it expired, or its end is long ago")
        if len(result.gone) > MOST_SHOWN:
            complain(f"and {len(result.gone) - MOST_SHOWN:,} more; all of them with --json")
        for line in left:
            complain(line)
    if not result.complete:
        raise typer.Exit(1)


def _left_behind(result: HandedBack) -> list[str]:
    lines = {
        f"{result.locked} under the lock of another worker: hand back again in a minute": result.locked,
        f"{result.in_hand} in the hands of videopoll's workers: stop them, and hand back again": result.in_hand,
        f"{result.sends} to be delivered, which only videopoll's workers can: run videopoll worker --no-new-jobs until"
        " they are; videopoll jobs --state outbox --state delivering lists them": result.sends,
    }
    return [line for line, count in lines.items() if count]


@guarded
def drain(
    *,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0, help="Seconds to wait at most; without end by default.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
) -> None:
    """Wait until nothing is in the list, the schedule, flight or the outbox. Stops nobody.

    Stop your producers first, then drain, then stop the workers. The exit code is
    1 if something is left when --timeout ends.
    """
    began_s = told_s = time.monotonic()
    told: str | None = None
    with open_queue(redis_url, prefix) as queue:
        line = ""
        while True:
            counts: QueueCounts | None = None
            problem = "Redis did not answer"
            try:
                counts = queue.counts()
            except QueueUnavailableError as error:
                problem = str(error)
            now_s = time.monotonic()
            left_s = None if timeout is None else timeout - (now_s - began_s)
            if counts is not None and not pending(counts):
                break
            line = problem if counts is None else _left(counts)
            if not as_json and line != told and (told is None or now_s - told_s >= TELL_EVERY_S):
                complain(line)
                told, told_s = line, now_s
            if left_s is not None and left_s <= 0:
                break
            time.sleep(min(LOOK_EVERY_S, left_s) if left_s is not None else LOOK_EVERY_S)
    drained = counts is not None and not pending(counts)
    if as_json:
        left = None if counts is None else pending(counts)
        print_json({"drained": drained, "left": left, "took_s": round(time.monotonic() - began_s, 3)})
    elif drained:
        typer.echo(f"drained in {duration(time.monotonic() - began_s)}")
    else:
        complain(f"not drained: {line}")
    if not drained:
        raise typer.Exit(1)


def _left(counts: QueueCounts) -> str:
    return (
        f"{counts.queued} to be taken, {counts.scheduled} scheduled, {counts.in_flight} in flight,"
        f" {counts.deliveries} to be delivered"
    )
