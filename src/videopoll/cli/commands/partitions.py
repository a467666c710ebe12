"""``videopoll partitions``: shows the partitions of a queue, and raises their number."""

from __future__ import annotations

from typing import Annotated

import attrs
import typer

from videopoll.cli.options import DEFAULT_PREFIX, DEFAULT_REDIS_URL, AsJson, Partitions, Prefix, RedisUrl, open_queue
from videopoll.cli.output import complain, duration, guarded, print_json, print_rows
from videopoll.cli.partitions import look_at_partitions
from videopoll.errors import ConfigurationError

__all__ = ["partitions"]

CLOCKS_APART_S = 0.1
"""Clocks that are further apart than that are told."""


@guarded
def partitions(
    *,
    raise_to: Annotated[
        int | None,
        typer.Option(
            "--raise-to", min=1, metavar="N", help="Have that many from now on; never fewer.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
) -> None:
    """Show the partitions of a queue: where each is, what is in it, and who serves it.

    With --raise-to there are more. Producers and workers learn it by themselves, the
    workers within a few seconds; jobs stay where they are until they end. A worker with
    --serve takes nothing from those that it does not name. The exit code is 1 if a
    partition does not answer.

    \b
    videopoll partitions --prefix '{video}'
    videopoll partitions --prefix '{video}' --raise-to 6
    """  # noqa: D301 - a backspace keeps line ends in the help
    with open_queue(redis_url, prefix, partitions=raise_to or partitions) as queue:
        if raise_to is not None:
            if len(queue.partitions) > raise_to:
                msg = f"there are {len(queue.partitions)} partitions, and there can never be fewer"
                raise ConfigurationError(msg)
            queue.announce()
        states = look_at_partitions(queue)
    if as_json:
        print_json([attrs.asdict(state) for state in states])
    else:
        print_rows(
            ("partition", "Redis", "pending", "workers", "knows of", "clock"),
            [
                (
                    state.prefix,
                    state.redis,
                    state.error or state.pending,
                    None if state.error else state.workers,
                    state.knows,
                    f"{'+' if state.clock_s > 0 else '-'}{duration(abs(state.clock_s))}"
                    if abs(state.clock_s) > CLOCKS_APART_S
                    else None,
                )
                for state in states
            ],
        )
    away = [state.prefix for state in states if state.error is not None]
    if away:
        if raise_to is not None:
            complain(f"not told of the number: {', '.join(away)}. Run this again when they are back.")
        raise typer.Exit(1)
