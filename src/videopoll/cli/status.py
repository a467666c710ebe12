"""``videopoll status``: how many jobs are where, and whether Redis and the video API are well."""

from __future__ import annotations

import sys
import time
from typing import Annotated, cast

import attrs
import redis
import typer

from videopoll._scripts import to_queue_error
from videopoll.cli.options import (
    API_KEY,
    DEFAULT_API_URL,
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    ApiUrl,
    AsJson,
    Prefix,
    RedisUrl,
    open_queue,
    secret,
)
from videopoll.cli.output import Cell, guarded, print_json, print_values
from videopoll.errors import QueueError, QueueRefusedError
from videopoll.poller import VideoApiPoller
from videopoll.schema import Keys
from videopoll.work import QueueCounts

__all__ = ["status"]

SCAN_STEP = 500
SCAN_BUDGET_S = 5.0
"""How long keys are counted; what was found by then is shown as "at least"."""

API_TIMEOUT_S = 5.0


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
        bool, typer.Option("--check", help="Exit with 1 when Redis or the video API is not well.")
    ] = False,
    scan: Annotated[
        bool, typer.Option("--scan/--no-scan", help="Count records, locks and completed jobs, in small steps.")
    ] = True,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    api_url: ApiUrl = DEFAULT_API_URL,
) -> None:
    """Tell how many jobs are where, and whether Redis and the video API are well.

    \b
    videopoll status
    videopoll status --json | jq .queued
    videopoll status --check --no-scan        for a health check
    """  # noqa: D301 - a backspace keeps line ends in the help
    counts: QueueCounts | None = None
    keys: KeyCounts | None = None
    scan_problem = None if scan else "not counted (--no-scan)"
    began_s = time.monotonic()
    with open_queue(redis_url, prefix) as queue:
        try:
            counts = queue.counts()
            redis_detail = f"answers in {(time.monotonic() - began_s) * 1000:.0f} ms"
        except QueueError as error:
            redis_detail = str(error)
            scan_problem = "unknown"
    if scan_problem is None:
        try:
            keys = count_keys(redis_url, Keys(prefix))
        except QueueRefusedError:
            scan_problem = "unknown: this Redis user may not SCAN"
        except QueueError:
            scan_problem = "unknown"
    api = _api_health(api_url)
    if as_json:
        print_json(
            {
                "queued": counts.queued if counts else None,
                "scheduled": counts.scheduled if counts else None,
                "in_flight": counts.in_flight if counts else None,
                "deliveries": counts.deliveries if counts else None,
                "dead": counts.dead if counts else None,
                "lag_s": _lag_s(counts),
                "active": keys.active if keys else None,
                "locked": keys.locked if keys else None,
                "completed": keys.completed if keys else None,
                "counted_all_keys": keys.complete if keys else False,
                "scan_problem": scan_problem,
                "redis": {"healthy": counts is not None, "detail": redis_detail},
                "video_api": {"healthy": api[0], "detail": api[1]},
            }
        )
    else:
        _print(counts, keys, scan_problem, (counts is not None, redis_detail), api)
    if check and not (counts is not None and api[0]):
        raise typer.Exit(1)


def count_keys(redis_url: str, keys: Keys) -> KeyCounts:
    """Count the documented keys in small steps, within a few seconds.

    Raises:
        QueueError: Redis is away or says no.
    """
    starts = {"active": keys.job(""), "locked": keys.lock(""), "completed": keys.completed("")}
    found = dict.fromkeys(starts, 0)
    until_s = time.monotonic() + SCAN_BUDGET_S
    cursor = 0
    try:
        with redis.Redis.from_url(redis_url, socket_timeout=5.0, socket_connect_timeout=5.0) as client:
            while True:
                cursor, found_now = client.scan(cursor, match=f"{keys.prefix}:*", count=SCAN_STEP)
                some = cast("list[bytes]", found_now)
                for name, start in starts.items():
                    found[name] += sum(key.startswith(start.encode()) for key in some)
                if cursor == 0 or time.monotonic() > until_s:
                    return KeyCounts(**found, complete=cursor == 0)
    except (redis.RedisError, OSError) as error:
        raise to_queue_error(error, "counting keys") from error


def _api_health(api_url: str) -> tuple[bool, str]:
    # The health call sends no key; the poller wants one all the same.
    poller = VideoApiPoller(base_url=api_url, api_key=secret(API_KEY) or "none")
    try:
        health = poller.health(timeout_s=API_TIMEOUT_S)
    finally:
        poller.close()
    return health.up, health.detail


def _lag_s(counts: QueueCounts | None) -> float | None:
    """Seconds by which the longest waiting poll is late."""
    if counts is None or counts.oldest_due_ms is None:
        return None
    return round(max(0, counts.now_ms - counts.oldest_due_ms) / 1000, 3)


def _print(
    counts: QueueCounts | None,
    keys: KeyCounts | None,
    scan_problem: str | None,
    redis_health: tuple[bool, str],
    api_health: tuple[bool, str],
) -> None:
    values: dict[str, Cell] = {}
    if counts is not None:
        values |= {
            "waiting to be taken": counts.queued,
            "scheduled": counts.scheduled,
            "in flight": counts.in_flight,
            "waiting to be delivered": counts.deliveries,
            "dead letters": counts.dead,
        }
        lag_s = _lag_s(counts)
        if lag_s:
            values["polls are late by"] = f"{lag_s:.1f} s"
    if keys is not None:
        about = "about " if keys.complete else "at least "
        values |= {
            "job records": f"{about}{keys.active:,}",
            "locks": f"{about}{keys.locked:,}",
            "completed": f"{about}{keys.completed:,}",
        }
    elif scan_problem:
        values["records, locks, completed"] = scan_problem
    for name, (healthy, detail) in (("Redis", redis_health), ("video API", api_health)):
        mark = ("✔ " if healthy else "✘ ") if sys.stdout.isatty() else ("ok: " if healthy else "down: ")
        values[name] = f"{mark}{detail}"
    print_values(values, title="videopoll")
