"""``videopoll jobs``: which jobs are where."""

from __future__ import annotations

import enum
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from videopoll.cli.describe import JOB_COLUMNS, describe_listed, job_row
from videopoll.cli.options import (
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    AsJson,
    Partitions,
    Prefix,
    RedisUrl,
    open_queue,
)
from videopoll.cli.output import complain, guarded, print_json, print_rows
from videopoll.cli.partitions import of_those_that_answer
from videopoll.errors import PartitionsAwayError, QueueRefusedError
from videopoll.jobs.job import JobState
from videopoll.jobs.views import JobPage

__all__ = ["ListedState", "jobs"]


class ListedState(enum.StrEnum):
    """What ``--state`` takes: states of jobs, those in a worker's hands as one."""

    QUEUED = "queued"
    SCHEDULED = "scheduled"
    IN_FLIGHT = "in_flight"
    OUTBOX = "outbox"
    WATCHED = "watched"
    DEAD = "dead"
    SETTLED = "settled"


PENDING = (ListedState.IN_FLIGHT, ListedState.OUTBOX, ListedState.SCHEDULED, ListedState.QUEUED)


@guarded
def jobs(
    *,
    state: Annotated[
        list[ListedState] | None,
        typer.Option(
            "--state", help="Only jobs in this state; may be given again. By default, all that have not ended."
        ),
    ] = None,
    worker: Annotated[
        str | None, typer.Option("--worker", help="Only jobs in this worker's hands.", show_default=False)
    ] = None,
    conversation: Annotated[
        str | None,
        typer.Option(
            "--conversation",
            metavar="ID",
            help="Only jobs for this conversation, those that have ended and dead ones as well.",
            show_default=False,
        ),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than", min=0, help="Only jobs enqueued more than so many seconds ago.", show_default=False
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
) -> None:
    """List the jobs that have not ended, those first whose turn is next. Changes nothing.

    \b
    videopoll jobs --state in_flight
    videopoll jobs --older-than 120
    videopoll jobs --state scheduled --json | jq '.[].job_id'
    videopoll jobs --conversation c_42
    videopoll jobs --state settled

    Settled jobs are looked for among all keys of the server, in small steps. Those
    that ended last come first. The exit code is 1 if a partition does not answer.
    """  # noqa: D301 - a backspace keeps line ends in the help
    in_words = list(dict.fromkeys(state)) if state else _default(worker, conversation)
    with open_queue(redis_url, prefix, partitions=partitions) as queue:

        def listed(words: Sequence[ListedState]) -> tuple[JobPage, PartitionsAwayError | None]:
            return of_those_that_answer(
                lambda: queue.list_jobs(
                    states=[state for word in words for state in _states_of(word)],
                    conversation_id=conversation,
                    worker_id=worker,
                    older_than_s=older_than,
                    limit=limit,
                )
            )

        try:
            page, away = listed(in_words)
        except QueueRefusedError:
            # Jobs that have ended need SCAN, and are left out without it unless they were asked for.
            if state or ListedState.SETTLED not in in_words:
                raise
            complain("this Redis user may not SCAN: jobs that have ended are left out")
            page, away = listed([word for word in in_words if word is not ListedState.SETTLED])
    if as_json:
        print_json([describe_listed(one) for one in page.jobs])
    elif page.jobs or not sys.stdout.isatty():
        print_rows(JOB_COLUMNS, [job_row(one, page.now_ms) for one in page.jobs], title="Jobs")
    else:
        typer.echo("There are no such jobs.")
    if page.more:
        complain("there are more: raise --limit")
    if away is not None:
        complain(f"their jobs are left out: {away}")
        raise typer.Exit(1)


def _states_of(word: ListedState) -> Sequence[JobState]:
    return (JobState.POLLING, JobState.DELIVERING) if word is ListedState.IN_FLIGHT else (JobState(word.value),)


def _default(worker: str | None, conversation: str | None) -> Sequence[ListedState]:
    """Return where the filters can match."""
    if worker is not None:
        return (ListedState.IN_FLIGHT,)
    ended = (ListedState.WATCHED, ListedState.DEAD, ListedState.SETTLED)
    return PENDING if conversation is None else (*PENDING, *ended)
