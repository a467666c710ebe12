"""What a host is told: what an enqueue or a cancel found, where jobs are, whether a worker is fit."""

from __future__ import annotations

import enum

import attrs

from videopoll.jobs.job import JobState, VideoJob
from videopoll.jobs.outcome import OutboxEntry, Outcome

__all__ = ["CancelResult", "EnqueueResult", "HandedBack", "Health", "JobView", "QueueCounts", "RunSummary"]


class EnqueueResult(enum.StrEnum):
    """What an enqueue found."""

    CREATED = "created"
    """The job is new, and waits to be taken."""
    KNOWN = "known"
    """The job was there already; nothing changed."""
    DELIVERING = "delivering"
    """Its outcome is known already, and on its way to the user."""
    FINISHED = "finished"
    """It has ended already; ``video:completed`` says how."""


class CancelResult(enum.StrEnum):
    """What a cancel could do."""

    CANCELLED = "cancelled"
    """The job will not be polled or delivered any more."""
    SENDING = "sending"
    """Too late: a worker is sending its outcome at this moment, or one of another kind has the job in hand and may be.

    Nothing was cancelled. The latter lasts for a poll, or for a minute if that worker died; then it can be tried again.
    """
    FINISHED = "finished"
    """Too late: it has ended."""
    UNKNOWN = "unknown"
    """There is no such job."""


@attrs.frozen
class QueueCounts:
    """How many jobs are where, all from one look.

    Args:
        queued: Ids in the list: ``LLEN video:poll:queue``.
        scheduled: Jobs that wait for their next poll.
        in_flight: Jobs in workers' hands, polls and sends.
        deliveries: Outcomes that wait for their next send.
        dead: Dead letters.
        oldest_due_ms: When the longest waiting poll was due, in Unix milliseconds.
        now_ms: Redis's clock.
    """

    queued: int
    scheduled: int
    in_flight: int
    deliveries: int
    dead: int
    oldest_due_ms: int | None
    now_ms: int


@attrs.frozen(kw_only=True)
class HandedBack:
    """What was handed back to workers of another kind, and what was not.

    Args:
        handed: Jobs whose ids stand in the list now.
        theirs: Jobs that such a worker has in its memory already; only our note of them went.
        ended: Jobs that such a worker has ended meanwhile; only our note of them went.
        gone: Ids that have no record any more, and nobody knows how they ended: their
            record expired, or their end is longer ago than ``video:completed`` lives.
        locked: Jobs under the lock of such a worker, which may have died. They stay
            on the schedule: hand back again when the lock has ended, within a minute.
        in_hand: Jobs in the hands of workers of ours, which have to stop first.
        sends: Outcomes that wait to be delivered, or are being delivered. Only our workers can.
    """

    handed: int = 0
    theirs: int = 0
    ended: int = 0
    gone: tuple[str, ...] = ()
    locked: int = 0
    in_hand: int = 0
    sends: int = 0

    @property
    def complete(self) -> bool:
        """Whether nothing of ours is left that a worker of another kind would miss."""
        return not (self.locked or self.in_hand or self.sends)


@attrs.frozen
class JobView:
    """All that Redis knows of a job.

    Args:
        job_id: The job's id.
        state: Where it is.
        job: Its record, if it has one.
        outcome: How it ended, if it has.
        entry: Its delivery, if its outcome is not delivered yet.
        delivered: Whether its user got the outcome; None while that is open.
        attempts: Polls begun.
        faults: Faults in a row.
        due_ms: When its next poll or send is due, in Unix milliseconds.
        lease_ms: When the lease on it ends.
        holder: The worker that holds it.
        foreign_lock: Whether another kind of worker has locked it.
        now_ms: Redis's clock.
    """

    job_id: str
    state: JobState
    job: VideoJob | None = None
    outcome: Outcome | None = None
    entry: OutboxEntry | None = None
    delivered: bool | None = None
    attempts: int = 0
    faults: int = 0
    due_ms: int | None = None
    lease_ms: int | None = None
    holder: str | None = None
    foreign_lock: bool = False
    now_ms: int = 0

    @property
    def dead(self) -> bool:
        """Whether it is a dead letter."""
        return self.state is JobState.DEAD


@attrs.frozen
class Health:
    """Whether a worker is fit.

    Args:
        healthy: Whether nothing is wrong.
        problems: What is wrong, and what to do, one sentence each.
        alive: Whether the loop moves, and what writes and renews does its work. A
            restart helps if not; it is no use while Redis is away.
    """

    healthy: bool
    problems: tuple[str, ...] = ()
    alive: bool = True


@attrs.frozen(kw_only=True)
class RunSummary:
    """What one `run_once` did.

    Args:
        claimed: Jobs taken.
        polls: Polls made.
        concluded: Jobs whose polling ended.
        delivered: Users who got their outcome.
        undeliverable: Dead letters written.
    """

    claimed: int = 0
    polls: int = 0
    concluded: int = 0
    delivered: int = 0
    undeliverable: int = 0
