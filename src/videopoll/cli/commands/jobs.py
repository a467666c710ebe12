"""``videopoll jobs``: which jobs are where."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import attrs
import redis
import typer

from videopoll.cli.describe import JOB_COLUMNS, job_row
from videopoll.cli.options import (
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    AsJson,
    Prefix,
    RedisUrl,
    open_client,
)
from videopoll.cli.output import complain, guarded, print_json, print_rows
from videopoll.cli.places import Listed, Place, list_jobs
from videopoll.errors import QueueRefusedError
from videopoll.queue.connect import queue_errors
from videopoll.queue.schema import Keys

__all__ = ["clock_ms", "jobs"]

LIVING: tuple[Place, ...] = (Place.IN_FLIGHT, Place.OUTBOX, Place.SCHEDULED, Place.QUEUED)


@guarded
def jobs(
    *,
    state: Annotated[
        list[Place] | None,
        typer.Option(
            "--state", help="Only jobs in this place; may be given again. By default, all that have not ended."
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
) -> None:
    """List the jobs that have not ended, those first whose turn is next. Changes nothing.

    \b
    videopoll jobs --state in_flight
    videopoll jobs --older-than 120
    videopoll jobs --state scheduled --json | jq '.[].job_id'
    videopoll jobs --conversation c_42
    videopoll jobs --state settled

    Settled jobs are looked for among all keys of the server, in small steps. Those
    that ended last come first.
    """  # noqa: D301 - a backspace keeps line ends in the help
    keys, places = Keys(prefix), _places(state, worker, conversation)
    with open_client(redis_url) as client:
        now_ms = clock_ms(client)

        def keep(one: Listed) -> bool:
            if worker is not None and one.worker != worker:
                return False
            if conversation is not None and one.conversation != conversation:
                return False
            return older_than is None or (one.start_ms is not None and now_ms - one.start_ms > older_than * 1000)

        filtered = not (worker is None and conversation is None and older_than is None)
        found, more = _listed(client, keys, places, limit, keep if filtered else None, must=bool(state))
    if as_json:
        print_json([attrs.asdict(one) for one in found])
    elif found or not sys.stdout.isatty():
        print_rows(JOB_COLUMNS, [job_row(one, now_ms) for one in found], title="Jobs")
    else:
        typer.echo("There are no such jobs.")
    if more:
        complain("there are more: raise --limit")


def _places(state: list[Place] | None, worker: str | None, conversation: str | None) -> tuple[Place, ...]:
    """Return where to look: what was asked for, or where the filters can match."""
    if state:
        return tuple(dict.fromkeys(state))
    if worker is not None:
        return (Place.IN_FLIGHT,)
    return LIVING if conversation is None else (*LIVING, Place.DEAD, Place.SETTLED)


def _listed(
    client: redis.Redis,
    keys: Keys,
    places: tuple[Place, ...],
    limit: int,
    keep: Callable[[Listed], bool] | None,
    *,
    must: bool,
) -> tuple[list[Listed], bool]:
    """List jobs; those that have ended need SCAN, and are left out without it unless they `must` be shown."""
    try:
        return list_jobs(client, keys, places, limit=limit, keep=keep)
    except QueueRefusedError:
        if must or Place.SETTLED not in places:
            raise
    complain("this Redis user may not SCAN: jobs that have ended are left out")
    return list_jobs(client, keys, tuple(one for one in places if one is not Place.SETTLED), limit=limit, keep=keep)


def clock_ms(client: redis.Redis) -> int:
    """Return Redis's time in Unix milliseconds.

    Raises:
        QueueError: Redis is away or says no.
    """
    with queue_errors("reading the clock"):
        seconds, micros = client.time()
    return seconds * 1000 + micros // 1000
