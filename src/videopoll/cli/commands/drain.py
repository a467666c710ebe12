"""``videopoll drain``: waits until no job is open."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from videopoll.cli.figures import pending
from videopoll.cli.options import (
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    AsJson,
    Prefix,
    RedisUrl,
    open_queue,
)
from videopoll.cli.output import complain, duration, guarded, print_json
from videopoll.errors import QueueUnavailableError
from videopoll.jobs.views import QueueCounts

__all__ = ["drain"]

LOOK_EVERY_S = 1.0


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
