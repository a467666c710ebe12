"""``videopoll hand-back``: gives scheduled jobs back to workers of another kind."""

from __future__ import annotations

import attrs
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
from videopoll.cli.output import Cell, complain, guarded, print_json, print_values
from videopoll.cli.partitions import of_those_that_answer
from videopoll.jobs.views import HandedBack
from videopoll.observe.log import shown

__all__ = ["hand_back"]

MOST_SHOWN = 20
"""Ids that are shown at most."""


@guarded
def hand_back(
    *,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
) -> None:
    """Hand scheduled jobs to workers of another kind, e.g. to go back from a migration.

    Stop videopoll's workers first. Ids go from the schedule to the list, where workers of
    another kind look. Outcomes that were not delivered yet stay: only videopoll's workers
    can deliver them (videopoll worker --no-new-jobs). It may be run again; the exit code
    is 1 as long as something is left.
    """
    with open_queue(redis_url, prefix, partitions=partitions) as queue:
        result, away = of_those_that_answer(queue.hand_back)
    left = _left_behind(result)
    complete = result.complete and away is None
    if away is not None:
        left.append(f"nothing was handed back there: {away}")
    if as_json:
        if away is not None:
            complain(left[-1])
        print_json({**attrs.asdict(result), "complete": complete})
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
    if not complete:
        raise typer.Exit(1)


def _left_behind(result: HandedBack) -> list[str]:
    lines = {
        f"{result.locked} under the lock of another worker: hand back again in a minute": result.locked,
        f"{result.in_hand} in the hands of videopoll's workers: stop them, and hand back again": result.in_hand,
        f"{result.sends} to be delivered, which only videopoll's workers can: run videopoll worker --no-new-jobs until"
        " they are; videopoll jobs --state outbox --state in_flight lists them": result.sends,
    }
    return [line for line, count in lines.items() if count]
