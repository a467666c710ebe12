"""``videopoll drain``: waits until no job is open."""

from __future__ import annotations

import time
from typing import Annotated, cast

import typer

from videopoll.cli.options import (
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    AsJson,
    Partitions,
    Prefix,
    RedisUrl,
    open_queue,
)
from videopoll.cli.output import complain, duration, guarded, print_json
from videopoll.errors import PartitionsAwayError, QueueUnavailableError
from videopoll.jobs.views import QueueCounts

__all__ = ["drain"]

TELL_EVERY_S = 30.0
"""How often a drain in a pipe says that it still waits."""


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
    partitions: Partitions = None,
) -> None:
    """Wait until nothing is in the list, the schedule, flight or the outbox. Stops nobody.

    Stop your producers first, then drain, then stop the workers. The exit code is
    1 if something is left when --timeout ends.
    """
    began_s = time.monotonic()
    until_s = float("inf") if timeout is None else began_s + timeout
    slice_s = 0.0
    counts: QueueCounts | None = None
    line = told = ""
    with open_queue(redis_url, prefix, partitions=partitions) as queue:
        while True:
            try:
                counts = queue.drain(timeout_s=slice_s)
            except QueueUnavailableError as error:
                counts, line = None, _why(error)
            else:
                line = _left(counts) if counts.pending else ""
            slice_s = min(TELL_EVERY_S, until_s - time.monotonic())
            if not line or slice_s <= 0:
                break
            if not as_json and line != told:
                complain(line)
                told = line
    took_s = time.monotonic() - began_s
    if as_json:
        print_json({"drained": not line, "left": counts.pending if counts else None, "took_s": round(took_s, 3)})
    elif line:
        complain(f"not drained: {line}")
    else:
        typer.echo(f"drained in {duration(took_s)}")
    if line:
        raise typer.Exit(1)


def _left(counts: QueueCounts) -> str:
    return (
        f"{counts.queued} to be taken, {counts.scheduled} scheduled, {counts.in_flight} in flight,"
        f" {counts.deliveries} to be delivered"
    )


def _why(error: QueueUnavailableError) -> str:
    """Return why it cannot be told whether all is drained.

    Raises:
        PartitionsAwayError: Waiting does not cure it.
    """
    if not isinstance(error, PartitionsAwayError):
        return str(error)
    if error.refused:
        raise error
    # What those have that are away, nobody knows.
    return f"{_left(cast('QueueCounts', error.known))}, and {error}"
