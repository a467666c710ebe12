"""``videopoll cancel``: stops one job."""

from __future__ import annotations

from typing import Annotated

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
from videopoll.jobs.views import CancelResult

__all__ = ["cancel"]

TOO_LATE = {
    CancelResult.SENDING: (
        "too late: its outcome is being sent at this moment, or a worker of another kind has it in hand;"
        " try again in a minute"
    ),
    CancelResult.FINISHED: "too late: it has ended",
    CancelResult.UNKNOWN: "there is no such job",
}


@guarded
def cancel(
    *,
    job: JobId,
    notify: Annotated[bool, typer.Option("--notify", help="Tell the user.")] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
) -> None:
    """Stop a job. Its user hears of it only with --notify."""
    with open_queue(redis_url, prefix, partitions=partitions) as queue:
        result = queue.cancel(job, notify=notify)
    if as_json:
        print_json({"job_id": job, "result": result.value})
    elif result is CancelResult.CANCELLED:
        typer.echo(f"{job}\t{result.value}")
    else:
        complain(f"{job}: {TOO_LATE[result]}")
    if result is not CancelResult.CANCELLED:
        raise typer.Exit(1)
