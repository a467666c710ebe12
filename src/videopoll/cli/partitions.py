"""What is known of each partition of a queue, for the commands that show it or judge it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar, cast

import attrs

from videopoll.errors import PartitionsAwayError, QueueError
from videopoll.queue.partitioned_queue import PartitionedQueue

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PartitionState", "look_at_partitions", "of_those_that_answer"]

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class PartitionState:
    """One partition, as it was found.

    Args:
        number: Which.
        prefix: What its keys start with.
        redis: Where it is.
        knows: Of how many partitions it knows; None if it did not answer.
        waiting: Jobs that wait for a worker: in the list, or overdue.
        pending: Jobs that have not ended.
        workers: Workers that serve it, and are alive.
        clock_s: By how much its clock is ahead of this machine's, in seconds.
        error: Why it did not answer.
    """

    number: int
    prefix: str
    redis: str
    knows: int | None = None
    waiting: int = 0
    pending: int = 0
    workers: int = 0
    clock_s: float = 0.0
    error: str | None = None


def of_those_that_answer(look: Callable[[], T]) -> tuple[T, PartitionsAwayError | None]:
    """Return what a call finds in the partitions that answer, and which do not, if there are such."""
    try:
        return look(), None
    except PartitionsAwayError as error:
        return cast("T", error.known), error


def look_at_partitions(queue: PartitionedQueue) -> list[PartitionState]:
    """Look at each partition; one that does not answer is told as such."""
    return [_look_at(queue, number) for number in range(len(queue.partitions))]


def _look_at(queue: PartitionedQueue, number: int) -> PartitionState:
    one = queue.partitions[number]
    state = PartitionState(number=number, prefix=one.keys.prefix, redis=queue.address_of(number))
    try:
        began_s = time.time()
        known = queue.layout_of(number)
        ended_s = time.time()
        counts, workers = one.counts(), one.workers()
    except QueueError as error:
        return attrs.evolve(state, error=str(error))
    overdue = counts.lag_s is not None and counts.lag_s > 0
    return attrs.evolve(
        state,
        knows=known.layout.partitions,
        waiting=counts.queued + overdue,
        pending=counts.pending,
        workers=sum(worker.alive for worker in workers),
        clock_s=known.now_ms / 1000 - (began_s + ended_s) / 2,
    )
