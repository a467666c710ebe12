"""``videopoll status``: how many jobs are where, and whether Redis and the video API are well."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Annotated, cast

import attrs
import typer

from videopoll.cli.figures import (
    WORKER_COLUMNS,
    Figures,
    describe_oldest,
    describe_worker,
    held_lines,
    lag_s,
    read_figures,
    worker_rows,
    workers_line,
)
from videopoll.cli.options import (
    API_KEY,
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    AsJson,
    GivenApiUrl,
    Partitions,
    Prefix,
    RedisUrl,
    open_client,
    open_queue,
    secret,
)
from videopoll.cli.output import (
    Cell,
    complain,
    complain_of_address,
    duration,
    guarded,
    print_json,
    print_rows,
    print_values,
)
from videopoll.cli.providers import health_of
from videopoll.errors import QueueError, QueueRefusedError
from videopoll.observe.log import shown
from videopoll.queue.errors import queue_errors
from videopoll.queue.schema import Keys
from videopoll.video_api.client import ApiHealth
from videopoll.video_api.poller import VideoApiPoller

__all__ = ["describe", "status"]

SCAN_STEP = 500
SCAN_BUDGET_S = 5.0
"""How long keys are counted; what was found by then is shown as "at least"."""

API_TIMEOUT_S = 5.0


@attrs.frozen
class ApiAnswer:
    """How a video API is; by its name, if it is a described one."""

    name: str | None
    url: str | None
    healthy: bool | None
    detail: str

    @property
    def label(self) -> str:
        """What it is called."""
        return "video API" if self.name is None else f"video API {shown(self.name)}"


NOT_ASKED = ApiAnswer(None, None, None, "not asked: no living worker says that it polls one (--api-url asks)")
"""What is told of the video API where none is known to be in use."""


@attrs.frozen
class KeyCounts:
    """How many keys of the documented kinds there are: a scan is no snapshot, so the numbers are approximate.

    Args:
        active: Jobs with a record.
        locked: Locks, of any kind of worker.
        completed: Jobs that ended within the audit trail's time.
        complete: Whether all keys were looked at.
    """

    active: int = 0
    locked: int = 0
    completed: int = 0
    complete: bool = True


@guarded
def status(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 when Redis, the video API or the workers are not well.")
    ] = False,
    scan: Annotated[
        bool, typer.Option("--scan/--no-scan", help="Count records, locks and completed jobs, in small steps.")
    ] = True,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
    api_url: GivenApiUrl = None,
) -> None:
    """Show how many jobs are where, and whether Redis and the video API are well.

    It asks the video APIs that living workers poll, or the one that you name.

    \b
    videopoll status
    videopoll status --json | jq .queued
    videopoll status --check --no-scan        for a health check
    videopoll watch                           the same, live
    """  # noqa: D301 - a backspace keeps line ends in the help
    keys: KeyCounts | None = None
    scan_problem = None if scan else "not counted (--no-scan)"
    with open_queue(redis_url, prefix, partitions=partitions) as queue:
        figures = read_figures(queue)
        away = figures.away.partitions if figures.away else ()
        each = [one.keys for number, one in enumerate(queue.partitions) if number not in away]
    if figures.counts is None:
        scan_problem = "unknown"
    if scan_problem is None:
        try:
            keys = count_keys(redis_url, each)
            keys = attrs.evolve(keys, complete=keys.complete and not away)
        except QueueRefusedError:
            scan_problem = "unknown: this Redis user may not SCAN"
        except QueueError:
            scan_problem = "unknown"
    apis = [_asked(name, url) for name, url in ([(None, api_url)] if api_url else figures.video_apis)]
    down = [api for api in apis if not api.healthy]
    api = (down or apis or [NOT_ASKED])[0]
    problems = figures.problems + [f"{api.label}: {api.detail}" for api in down]
    if as_json:
        print_json(
            {
                **describe(figures),
                "active": keys.active if keys else None,
                "locked": keys.locked if keys else None,
                "completed": keys.completed if keys else None,
                "counted_all_keys": keys.complete if keys else False,
                "scan_problem": scan_problem,
                "redis": {"healthy": figures.healthy, "detail": figures.detail},
                "video_api": {"healthy": api.healthy, "detail": api.detail},
                "video_apis": [
                    {"provider": one.name, "url": one.url, "healthy": one.healthy, "detail": one.detail} for one in apis
                ],
                "problems": problems,
            }
        )
    else:
        _print(figures, keys, scan_problem, apis or [NOT_ASKED])
        if figures.counts is None:
            complain_of_address(redis_url, partitions)
    if check and problems:
        raise typer.Exit(1)


def describe(figures: Figures) -> dict[str, object]:
    """Return the figures as JSON; what Redis did not answer is null, and what partitions that are away have is left out."""
    counts = figures.counts
    return {
        "queued": counts.queued if counts else None,
        "scheduled": counts.scheduled if counts else None,
        "in_flight": counts.in_flight if counts else None,
        "deliveries": counts.deliveries if counts else None,
        "watched": counts.watched if counts else None,
        "dead": counts.dead if counts else None,
        "lag_s": lag_s(counts),
        "oldest": describe_oldest(figures.oldest, counts.now_ms) if counts else None,
        "held_accounts": [
            {"account": account, "for_s": (until_ms - counts.now_ms) / 1000}
            for account, until_ms in figures.held.items()
        ]
        if counts
        else None,
        "partitions_away": list(figures.away.partitions) if figures.away else [],
        "workers_alive": None if figures.workers is None else len(figures.alive),
        "workers": None if figures.workers is None else [describe_worker(worker) for worker in figures.workers],
    }


def count_keys(redis_url: str, each: Iterable[Keys]) -> KeyCounts:
    """Count the documented keys of all partitions in small steps, within a few seconds.

    Args:
        redis_url: Where they are.
        each: The keys of each partition.

    Raises:
        QueueError: Redis is away or says no.
    """
    found, complete = {"active": 0, "locked": 0, "completed": 0}, True
    until_s = time.monotonic() + SCAN_BUDGET_S
    for keys in each:
        starts = {"active": keys.job(""), "locked": keys.lock(""), "completed": keys.completed("")}
        cursor = 0
        with open_client(redis_url, keys.prefix) as client, queue_errors("counting keys"):
            while True:
                cursor, found_now = client.scan(cursor, match=f"{keys.prefix}:*", count=SCAN_STEP)
                some = cast("list[bytes]", found_now)
                for name, start in starts.items():
                    found[name] += sum(key.startswith(start.encode()) for key in some)
                if cursor == 0 or time.monotonic() > until_s:
                    break
        complete = complete and cursor == 0
    return KeyCounts(**found, complete=complete)


def _asked(name: str | None, url: str) -> ApiAnswer:
    health = health_of(url, API_TIMEOUT_S) if name is not None else _plain_health(url)
    return ApiAnswer(name, url, health.up, health.detail)


def _plain_health(api_url: str) -> ApiHealth:
    # The health call sends no key; the poller wants one all the same.
    poller = VideoApiPoller(base_url=api_url, api_key=secret(API_KEY) or "none")
    try:
        return poller.health(timeout_s=API_TIMEOUT_S)
    finally:
        poller.close()


def _print(
    figures: Figures,
    keys: KeyCounts | None,
    scan_problem: str | None,
    apis: list[ApiAnswer],
) -> None:
    counts, tty = figures.counts, sys.stdout.isatty()
    values: dict[str, Cell] = {}
    if counts is not None:
        values |= {
            "waiting to be taken": counts.queued,
            "scheduled": counts.scheduled,
            "in flight": counts.in_flight,
            "waiting to be delivered": counts.deliveries,
            "watched for receipts": counts.watched,
            "dead letters": counts.dead,
        }
        late_s = lag_s(counts)
        if late_s is not None:
            values["polls are late by"] = duration(late_s)
        if figures.oldest is not None and figures.oldest.start_ms is not None:
            old = duration((counts.now_ms - figures.oldest.start_ms) / 1000)
            values["oldest job"] = f"{shown(figures.oldest.job_id)}, {old} old, {figures.oldest.state}"
        values["workers alive"] = workers_line(figures)
        held = ", ".join(held_lines(figures.held, counts.now_ms))
        values |= {"held back after a 429": held} if held else {}
    if keys is not None:
        about = "about " if keys.complete else "at least "
        values |= {
            "job records": f"{about}{keys.active:,}",
            "locks": f"{about}{keys.locked:,}",
            "completed": f"{about}{keys.completed:,}",
        }
    elif scan_problem:
        values["records, locks, completed"] = scan_problem
    answers = [("Redis", figures.healthy, figures.detail), *((one.label, one.healthy, one.detail) for one in apis)]
    for name, healthy, detail in answers:
        marks = {True: "✔ ", False: "✘ "} if tty else {True: "ok: ", False: "down: "}
        mark = "" if healthy is None else marks[healthy]
        values[name] = f"{mark}{detail}"
    rows = worker_rows(figures.workers or (), counts.now_ms if counts else 0)
    if not tty:
        values |= {f"worker {row[0]}": ", ".join(_labelled(row)) for row in rows}
    print_values(values, title="videopoll")
    if tty and rows:
        print_rows(WORKER_COLUMNS, rows, title="Workers")
    # That Redis or the video API is down stands in the table.
    for problem in figures.troubles:
        complain(problem)


def _labelled(row: list[str]) -> list[str]:
    _, version, polls, sends, up, process, beat = row
    return [version, f"{polls} polls", f"{sends} sends", f"up {up}", process, f"last beat {beat}"]
