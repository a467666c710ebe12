"""The figures that ``status`` and ``watch`` show, read in a few round trips."""

from __future__ import annotations

import collections
import functools
import time
from typing import TYPE_CHECKING

import attrs

from videopoll.cli.output import duration
from videopoll.cli.partitions import of_those_that_answer
from videopoll.errors import PartitionsAwayError, QueueError
from videopoll.jobs.codec import JsonValue
from videopoll.jobs.job import JobState
from videopoll.jobs.views import ListedJob, QueueCounts, WorkerInfo
from videopoll.observe.log import shown
from videopoll.queue.redis_queue import RedisVideoJobQueue

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Figures", "describe_worker", "held_lines", "lag_s", "read_figures", "worker_rows", "workers_line"]

OLDEST_OF = 100
"""Jobs of each state among which the oldest is looked for."""

LIVING = [[JobState.QUEUED], [JobState.SCHEDULED], [JobState.POLLING, JobState.DELIVERING], [JobState.OUTBOX]]
"""The states of jobs that have not ended, by the index that they stand in."""

MOST_HELD_SHOWN = 10
"""Accounts that are told one by one."""

LONGEST_DETAIL = 1000
"""Characters of what Redis's line says at most."""

LATE_S = 30.0
"""A poll that is later than this, in seconds, shows that the workers are too few, or none."""


@attrs.frozen
class Figures:
    """How it is going.

    Args:
        counts: How many jobs are where; None if Redis did not say.
        workers: The workers of the last hour; None if it cannot be told.
        oldest: The job that waits for its end longest.
        untaken: The job that waits longest for a worker to take it from the list.
        detail: How Redis answered.
        held: The accounts of video APIs that all workers leave alone, and until when, in Unix milliseconds.
        away: Which partitions did not answer; the figures are those of the others.
    """

    counts: QueueCounts | None
    workers: tuple[WorkerInfo, ...] | None
    oldest: ListedJob | None
    untaken: ListedJob | None
    detail: str
    held: Mapping[str, int] = attrs.field(factory=dict)
    away: PartitionsAwayError | None = None

    @property
    def healthy(self) -> bool:
        """Whether Redis answered for all partitions."""
        return self.counts is not None and self.away is None

    @property
    def alive(self) -> tuple[WorkerInfo, ...]:
        """The workers that live."""
        return tuple(worker for worker in self.workers or () if worker.alive)

    @property
    def video_apis(self) -> list[tuple[str | None, str]]:
        """The video APIs that living workers poll: their names, if they are described ones, and their addresses."""
        plain = {worker.video_api for worker in self.alive if worker.video_api}
        named = {one for worker in self.alive for one in worker.video_apis.items()}
        return [*((None, url) for url in sorted(plain)), *sorted(named)]

    @property
    def problems(self) -> list[str]:
        """What is wrong, one sentence each."""
        if self.counts is None:
            return [f"Redis: {self.detail}"]
        return [*([] if self.away is None else [str(self.away)]), *self.troubles]

    @property
    def troubles(self) -> list[str]:
        """What is wrong with the workers."""
        if self.counts is None:
            return []
        found = []
        untaken_s = 0.0
        if self.untaken is not None and self.untaken.start_ms is not None:
            untaken_s = (self.counts.now_ms - self.untaken.start_ms) / 1000
        if self.workers and not self.alive and self.counts.pending:
            found.append("jobs wait and no worker is alive: start one with videopoll worker")
        elif untaken_s > LATE_S and self.alive:
            found.append(f"a job waits for {duration(untaken_s)} and no worker takes it: start more workers")
        elif untaken_s > LATE_S:
            found.append(
                f"a job waits for {duration(untaken_s)} and there is no worker at all: start one with videopoll worker"
            )
        told = collections.Counter(problem for worker in self.alive for problem in worker.problems)
        for problem, count in sorted(told.items()):
            found.append(f"{count} worker{' is' if count == 1 else 's are'} not well: {problem}")
        late_s = lag_s(self.counts)
        if late_s is not None and late_s > LATE_S:
            found.append(
                f"polls are late by {duration(late_s)}: start more workers, or look at the logs of those there are"
            )
        return found


def read_figures(queue: RedisVideoJobQueue) -> Figures:
    """Look once. Does not raise while Redis is away: `Figures.detail` tells of it."""
    began_s = time.monotonic()
    try:
        counts, away = of_those_that_answer(queue.counts)
    except QueueError as error:
        return Figures(None, None, None, None, str(error))
    detail = f"answers in {(time.monotonic() - began_s) * 1000:.0f} ms"
    if away is not None:
        detail = f"the figures leave out what does not answer: {shown(str(away), LONGEST_DETAIL)}"
    workers: tuple[WorkerInfo, ...] | None = None
    oldest: ListedJob | None = None
    untaken: ListedJob | None = None
    held: Mapping[str, int] = {}
    try:
        held, _ = of_those_that_answer(queue.held_accounts)
        workers, _ = of_those_that_answer(queue.workers)
        oldest, untaken = _oldest(queue, LIVING), _oldest(queue, [[JobState.QUEUED]])
    except QueueError:
        # The counts are worth more than nothing: a Redis user may be allowed only what workers need.
        pass
    return Figures(counts, workers, oldest, untaken, detail, held, away)


def held_lines(held: Mapping[str, int], now_ms: int) -> list[str]:
    """Return which accounts of video APIs are left alone and for how long, the longest first."""
    said = [
        f"{shown(account)} for another {duration((until_ms - now_ms) / 1000)}" for account, until_ms in held.items()
    ]
    return [
        *said[:MOST_HELD_SHOWN],
        *([f"and {len(said) - MOST_HELD_SHOWN} more"] if len(said) > MOST_HELD_SHOWN else []),
    ]


def _oldest(queue: RedisVideoJobQueue, indexes: list[list[JobState]]) -> ListedJob | None:
    """Return the job that waits for its end longest, of those first in each index."""
    pages = [
        of_those_that_answer(functools.partial(queue.list_jobs, states=one, limit=OLDEST_OF))[0] for one in indexes
    ]
    found = [job for page in pages for job in page.jobs]
    return min((job for job in found if job.start_ms is not None), key=lambda job: job.start_ms or 0, default=None)


def lag_s(counts: QueueCounts | None) -> float | None:
    """Seconds by which the longest waiting poll is late; None without one."""
    return None if counts is None else counts.lag_s


def workers_line(figures: Figures) -> str:
    """Return a line: how many workers are alive, and of which versions."""
    if figures.workers is None:
        return "unknown"
    if not figures.workers:
        return "none (those that have stopped, or are silent for an hour, are not counted)"
    versions = collections.Counter(worker.version or "unknown version" for worker in figures.alive)
    told = ", ".join(f"{number} of {version}" for version, number in sorted(versions.items()))
    silent = len(figures.workers) - len(figures.alive)
    return f"{told or 'none'}" + (f"; {silent} silent" if silent else "")


def worker_rows(workers: tuple[WorkerInfo, ...], now_ms: int) -> list[list[str]]:
    """Return a table's rows: worker, version, kind, polls, sends, since when, where, last beat."""
    return [
        [
            shown(worker.worker_id),
            f"{shown(worker.version)} {shown(worker.kind)}",
            f"{worker.polls_in_hand} of {worker.concurrency}",
            str(worker.sends_in_hand),
            duration((now_ms - worker.started_ms) / 1000) if worker.started_ms else "-",
            f"{shown(worker.host)}:{worker.pid}",
            duration((now_ms - worker.beat_ms) / 1000) + (" ago" if worker.alive else " ago: silent"),
        ]
        for worker in workers
    ]


WORKER_COLUMNS = ("worker", "version", "polls", "sends", "up", "process", "last beat")


def describe_worker(worker: WorkerInfo) -> dict[str, JsonValue]:
    """Return a worker as JSON."""
    return dict(attrs.asdict(worker))


def describe_oldest(oldest: ListedJob | None, now_ms: int) -> dict[str, JsonValue] | None:
    """Return the oldest job as JSON."""
    if oldest is None or oldest.start_ms is None:
        return None
    return {"job_id": oldest.job_id, "state": oldest.state, "age_s": round((now_ms - oldest.start_ms) / 1000, 3)}
