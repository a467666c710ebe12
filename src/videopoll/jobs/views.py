"""What a host is told: what an enqueue or a cancel found, where jobs are, what happened to them, which workers there are."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs

from videopoll._reasons import repr_told
from videopoll.jobs.codec import JsonValue
from videopoll.jobs.job import JobState, VideoJob
from videopoll.jobs.outcome import OutboxEntry, Outcome, OutcomeKind

__all__ = [
    "CancelResult",
    "EnqueueResult",
    "HandedBack",
    "Health",
    "HistoryEntry",
    "HistoryEvent",
    "JobPage",
    "JobView",
    "ListedJob",
    "QueueCounts",
    "ReceiptCounts",
    "RunSummary",
    "WorkerInfo",
]


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
        watched: Jobs that have ended, and whose channels have accepted the message: a
            receipt may still open the delivery again.
    """

    queued: int
    scheduled: int
    in_flight: int
    deliveries: int
    dead: int
    oldest_due_ms: int | None
    now_ms: int
    watched: int = 0

    @property
    def pending(self) -> int:
        """How many jobs have not ended. Those that are watched have."""
        return self.queued + self.scheduled + self.in_flight + self.deliveries

    @property
    def lag_s(self) -> float | None:
        """Seconds by which the longest waiting poll is late; None if no poll waits."""
        return None if self.oldest_due_ms is None else max(0, self.now_ms - self.oldest_due_ms) / 1000


@attrs.frozen(kw_only=True)
class ReceiptCounts:
    """What came of receipts.

    Args:
        delivered: Users who are known to have their message.
        read: Users who are known to have read it.
        failed: Deliveries that go on: the channel could not deliver the message that it had accepted.
        kept: Receipts of messages that are not known, or not yet. They are kept for some minutes.
        ignored: Receipts that change nothing: doubled, out of order, too late.
    """

    delivered: int = 0
    read: int = 0
    failed: int = 0
    kept: int = 0
    ignored: int = 0


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
        progress: How much of the video is done, from 0 to 1, if the video API told at its last answer.
        queue_position: Its place in the API's own queue, if the API told; 0 is the next.
        accepted_ms: When its channel accepted the message of which it tells later, in Unix milliseconds.
        delivered_ms: When its user got the message, and
        read_ms: when they read it, if that is known.
        due_ms: When its next poll or send is due, or its watch ends, in Unix milliseconds.
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
    progress: float | None = None
    queue_position: int | None = None
    accepted_ms: int | None = None
    delivered_ms: int | None = None
    read_ms: int | None = None

    @property
    def dead(self) -> bool:
        """Whether it is a dead letter."""
        return self.state is JobState.DEAD


@attrs.frozen(kw_only=True)
class ListedJob:
    """A job as `list_jobs` lists it; `JobView` has more of one.

    Args:
        job_id: Its id, exactly as it stands in Redis.
        state: Where it is.
        conversation_id: Whom it is for; None without a record.
        start_ms: When it was enqueued, in Unix milliseconds; None without a record.
        at_ms: When it is due, its lease ends, it ended or died; None for a queued one.
        polls: Polls begun; None where that is not kept.
        sends: Sends begun; None where that is not kept.
        worker_id: The worker that holds it.
        outcome: How its polling ended.
        reason: Why it is a dead letter, or there is no video.
        delivered: Whether its user has got its outcome; None where that is not kept.
        tenant: Whose it is, if its record says so; None for one that is over.
    """

    job_id: str
    state: JobState
    conversation_id: str | None = None
    start_ms: int | None = None
    at_ms: int | None = None
    polls: int | None = 0
    sends: int | None = 0
    worker_id: str | None = None
    outcome: OutcomeKind | None = None
    reason: str | None = attrs.field(default=None, repr=repr_told)
    delivered: bool | None = None
    tenant: str | None = None


@attrs.frozen
class JobPage:
    """Some of the jobs that were asked for.

    Args:
        jobs: In each state those first whose turn is next, or who ended last.
        more: Whether there are more, beyond these.
        now_ms: Redis's clock, in Unix milliseconds.
    """

    jobs: tuple[ListedJob, ...]
    more: bool
    now_ms: int


class HistoryEvent(enum.StrEnum):
    """What an entry of the history tells."""

    ENQUEUED = "enqueued"
    TAKEN = "taken"
    TAKEN_OVER = "taken_over"
    STATUS = "status"
    """The video API answered with another word than before."""
    FAULT = "fault"
    CONCLUDED = "concluded"
    LINK = "link"
    """The link of a video was asked for anew, or the video was published, before a send."""
    SENT = "sent"
    """A message was handed to its channel, or the channel was asked about one."""
    ACCEPTED = "accepted"
    """The channel accepted the message, and tells later what becomes of it."""
    RECEIPT = "receipt"
    """The channel told what became of it."""
    DELIVERED = "delivered"
    UNDELIVERABLE = "undeliverable"
    LEASE_LOST = "lease_lost"
    CANCELLED = "cancelled"


@attrs.frozen
class HistoryEntry:
    """One thing that happened to a job.

    Args:
        at_ms: When, in Unix milliseconds of Redis's clock.
        event: What.
        job_id: To which job.
        worker_id: In which worker; empty for a producer.
        details: The figures of it, e.g. ``attempt``, ``status``, ``next_s``, ``reason``.
        text: The whole reason, or the API's word, where that is more than `details`
            may show: in the words of others. Out of ``repr``.
    """

    at_ms: int
    event: HistoryEvent
    job_id: str
    worker_id: str
    details: Mapping[str, JsonValue]
    text: str | None = attrs.field(default=None, repr=False)


@attrs.frozen
class WorkerInfo:
    """What a worker last told of itself.

    Args:
        worker_id: Its id, as in the log.
        beat_ms: When it did, in Unix milliseconds of Redis's clock.
        alive: Whether that is recent.
        version: Its version of videopoll.
        kind: ``async`` or ``sync``.
        concurrency: Polls that it makes at a time at most.
        polls_in_hand: Polls that it has in hand.
        sends_in_hand: Sends that it has in hand.
        started_ms: When it started, in Unix milliseconds of its own clock.
        host: The name of its machine.
        pid: Its process.
        problems: Why it is not well, by its own account; see `videopoll.worker.Health`.
        video_api: The base URL of the video API that it polls; empty if its poller does not say.
        video_apis: The base URLs of described ones, by their names.
    """

    worker_id: str
    beat_ms: int
    alive: bool
    version: str = ""
    kind: str = ""
    concurrency: int = 0
    polls_in_hand: int = 0
    sends_in_hand: int = 0
    started_ms: int = 0
    host: str = ""
    pid: int = 0
    problems: tuple[str, ...] = ()
    video_api: str = ""
    video_apis: Mapping[str, str] = attrs.field(factory=dict)


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
        accepted: Users whose outcome their channel has accepted, and will tell of.
        undeliverable: Dead letters written.
    """

    claimed: int = 0
    polls: int = 0
    concluded: int = 0
    delivered: int = 0
    undeliverable: int = 0
    accepted: int = 0
