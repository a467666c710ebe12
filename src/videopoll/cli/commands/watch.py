"""``videopoll watch``: the figures of ``status``, the jobs in view and what happened lately, live."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import attrs
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from videopoll.cli.commands.status import describe
from videopoll.cli.describe import JOB_COLUMNS, describe_entry, job_row
from videopoll.cli.figures import (
    WORKER_COLUMNS,
    Figures,
    lag_s,
    read_figures,
    worker_rows,
)
from videopoll.cli.options import DEFAULT_PREFIX, DEFAULT_REDIS_URL, AsJson, Partitions, Prefix, RedisUrl, open_queue
from videopoll.cli.output import complain, duration, guarded, print_json, time_of_day
from videopoll.cli.partitions import of_those_that_answer
from videopoll.errors import QueueError
from videopoll.jobs.views import HistoryEntry, ListedJob
from videopoll.observe.log import shown
from videopoll.queue.redis_queue import RedisVideoJobQueue

__all__ = ["watch"]

MOST_WORKERS = 5
"""Workers that are shown, those that told of themselves last."""

RECENT = 200
"""Entries of the history that one look reads."""

HEAD_LINES = 8
"""Lines that are no jobs, workers or events: the figures, titles, heads, and empty lines between."""


NUMBERS = frozenset({"age", "polls", "sends"})

LONG = frozenset({"what is next", "process"})
"""The columns that give way where the terminal is narrow."""


@attrs.frozen
class _Look:
    """What one look found."""

    figures: Figures
    jobs: tuple[ListedJob, ...]
    recent: tuple[HistoryEntry, ...]

    @property
    def now_ms(self) -> int:
        """Redis's time."""
        return self.figures.counts.now_ms if self.figures.counts else round(time.time() * 1000)


@guarded
def watch(
    *,
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 1.0,
    seconds: Annotated[
        float | None,
        typer.Option("--for", min=0, metavar="SECONDS", help="End by itself after so long.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
) -> None:
    """Watch the jobs, live, until Ctrl-C. Changes nothing.

    On a terminal: the figures of status, the workers, the jobs whose turn is
    next, and what happened lately. In a pipe: a line for each thing that
    happens. With --json: an object a look, with what happened since the last.

    What happened comes from the history that workers keep (not with --no-history).
    """
    until_s = None if seconds is None else time.monotonic() + seconds
    try:
        with open_queue(redis_url, prefix, partitions=partitions) as queue:
            if as_json:
                _follow(queue, every, until_s, as_json=True)
            elif sys.stdout.isatty():
                _show(queue, every, until_s)
            else:
                _follow(queue, every, until_s, as_json=False)
    except KeyboardInterrupt:
        # The one way to end it: no failure.
        return


def _look(queue: RedisVideoJobQueue, jobs: int) -> _Look:
    figures = read_figures(queue)
    if figures.counts is None:
        return _Look(figures, (), ())
    try:
        found = of_those_that_answer(lambda: queue.list_jobs(limit=jobs))[0].jobs if jobs else ()
        recent, _ = of_those_that_answer(lambda: queue.history(limit=RECENT))
        return _Look(figures, found, recent)
    except QueueError as error:
        return _Look(attrs.evolve(figures, detail=str(error)), (), ())


def _wait(every: float, until_s: float | None) -> bool:
    """Sleep until the next look; False if there is none."""
    left_s = every if until_s is None else min(every, until_s - time.monotonic())
    if left_s <= 0:
        return False
    time.sleep(left_s)
    return until_s is None or time.monotonic() < until_s


# --- in a pipe ---


def _follow(queue: RedisVideoJobQueue, every: float, until_s: float | None, *, as_json: bool) -> None:
    told: set[tuple[object, ...]] = set()
    problem: str | None = None
    while True:
        look = _look(queue, 0)
        fresh = [entry for entry in look.recent if _identity(entry) not in told]
        # While Redis is away nothing is read, and nothing is forgotten.
        told = {_identity(entry) for entry in look.recent} or told
        if as_json:
            print_json({"at_ms": look.now_ms, **describe(look.figures), "events": [_as_json(entry) for entry in fresh]})
        else:
            for entry in fresh:
                typer.echo(f"{time_of_day(entry.at_ms)}\t{shown(entry.job_id)}\t{describe_entry(entry)[0]}")
            now = "; ".join(look.figures.problems) or None
            if now != problem:
                complain(now or "all is well again")
                problem = now
        sys.stdout.flush()
        if not _wait(every, until_s):
            return


def _identity(entry: HistoryEntry) -> tuple[object, ...]:
    return entry.at_ms, entry.event, entry.job_id, entry.worker_id, str(entry.details)


def _as_json(entry: HistoryEntry) -> dict[str, object]:
    return {
        "at_ms": entry.at_ms,
        "step": entry.event.value,
        "job_id": entry.job_id,
        "worker": entry.worker_id,
        **entry.details,
    }


# --- on a terminal ---


def _show(queue: RedisVideoJobQueue, every: float, until_s: float | None) -> None:
    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            height = console.height
            look = _look(queue, max(3, height))
            live.update(_page(look, queue.keys.prefix, height), refresh=True)
            if not _wait(every, until_s):
                return


def _page(look: _Look, prefix: str, height: int) -> Group:
    """Fit it all into the height: a line a worker, a job and an event."""
    workers = worker_rows((look.figures.workers or ())[:MOST_WORKERS], look.now_ms)
    left = max(4, height - HEAD_LINES - (len(workers) + 2 if workers else 1) - len(look.figures.problems))
    events = min(len(look.recent), max(left // 3, left - len(look.jobs)))
    jobs = max(1, left - events)
    parts: list[Text | Table] = [_figures(look, prefix)]
    parts += [Text(f"✘ {shown(problem)}", style="bold red", no_wrap=True) for problem in look.figures.problems]
    if look.figures.counts is None:
        return Group(*parts)
    parts.append(Text())
    if workers:
        more = len(look.figures.workers or ()) - len(workers)
        parts.append(_table("Workers" + (f" ({more} more)" if more else ""), WORKER_COLUMNS, workers))
    else:
        parts.append(
            Text(
                "No worker is alive. Those that have stopped, or are silent for an hour, are not shown.", style="yellow"
            )
        )
    total = look.figures.counts.pending
    cells = [["-" if cell is None else shown(str(cell)) for cell in job_row(one, look.now_ms)] for one in look.jobs]
    title = f"Jobs ({min(jobs, len(cells))} of {total})" if cells else "No jobs"
    parts += [Text(), _table(title, JOB_COLUMNS, cells[:jobs]) if cells else Text(title, style="dim")]
    parts += [Text(), _events(look.recent[len(look.recent) - events :])]
    return Group(*parts)


def _figures(look: _Look, prefix: str) -> Text:
    counts, oldest = look.figures.counts, look.figures.oldest
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"videopoll {prefix}", style="bold")
    text.append(f"  {time_of_day(look.now_ms)}  Ctrl-C ends\n", style="dim")
    if counts is None:
        text.append("Redis does not answer", style="bold red")
        return text
    late_s = lag_s(counts) or 0.0
    for number, (name, value, style) in enumerate(
        (
            ("queue", counts.queued, ""),
            ("scheduled", counts.scheduled, "cyan"),
            ("in flight", counts.in_flight, "cyan"),
            ("to deliver", counts.deliveries, "magenta"),
            ("watched", counts.watched, "green"),
            ("dead", counts.dead, "bold red"),
        )
    ):
        text.append(" · " if number else "", style="dim")
        text.append(f"{name} ")
        text.append(f"{value:,}", style=style if value else "dim")
    text.append(" · late ", style="")
    text.append(duration(late_s), style="bold red" if late_s > 1 else "dim")
    if oldest is not None and oldest.start_ms is not None:
        text.append(" · oldest ")
        text.append(duration((look.now_ms - oldest.start_ms) / 1000), style="bold")
    return text


def _table(title: str, columns: tuple[str, ...], rows: list[list[str]]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), header_style="dim"
    )
    for column in columns:
        # The one column that may shrink is for Rich one that wraps; its cells do not.
        table.add_column(
            column, no_wrap=column not in LONG, overflow="ellipsis", justify="right" if column in NUMBERS else "left"
        )
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    return table


def _events(entries: tuple[HistoryEntry, ...]) -> Table | Text:
    if not entries:
        return Text("Nothing has happened lately, or the workers keep no history.", style="dim")
    table = Table(
        title="Lately", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), show_header=False
    )
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=36)
    table.add_column(overflow="ellipsis")
    for entry in entries:
        said, style = describe_entry(entry)
        text = Text(said, style=style, no_wrap=True, overflow="ellipsis")
        table.add_row(Text(time_of_day(entry.at_ms), style="dim"), Text(shown(entry.job_id)), text)
    return table
