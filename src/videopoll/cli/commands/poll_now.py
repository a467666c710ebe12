"""``videopoll poll-now``: makes one job's next poll due at once."""

from __future__ import annotations

import typer

from videopoll.cli.options import (
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    AsJson,
    JobId,
    Partitions,
    Prefix,
    RedisUrl,
    open_queue,
)
from videopoll.cli.output import complain, guarded, print_json
from videopoll.jobs.job import JobState
from videopoll.jobs.views import JobView

__all__ = ["poll_now"]

NOT_SCHEDULED = {
    JobState.QUEUED: "it waits in the list: a worker takes it as soon as there is one",
    JobState.POLLING: "it is being polled at this moment",
    JobState.DELIVERING: "its polling is over, and its outcome is being sent",
    JobState.OUTBOX: "its polling is over, and its outcome waits for the next send",
    JobState.WATCHED: "it has ended: its channel accepted the message",
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
    partitions: Partitions = None,
) -> None:
    """Make a job's next poll due at once, e.g. when the video API is back after a long backoff.

    A worker notices within about 4 seconds. It is an ordinary poll, and counts as an attempt.
    """
    with open_queue(redis_url, prefix, partitions=partitions) as queue:
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
