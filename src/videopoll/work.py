"""What passes between a queue and a runner: claims, and what was decided about them.

A runner claims a batch of jobs, works on each, and hands back transitions. The
queue carries out each transition only if the claim's token still holds the lease.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias

import attrs

from videopoll._bounds import bounded_detail
from videopoll._reasons import repr_told
from videopoll.jobs import JobState

if TYPE_CHECKING:
    from videopoll.jobs import OutboxEntry, Outcome, Poison, VideoJob

__all__ = [
    "BeginSend",
    "CancelResult",
    "Claim",
    "ClaimBatch",
    "Conclude",
    "DeadLetter",
    "EnqueueResult",
    "GiveBack",
    "HandedBack",
    "JobView",
    "PollWork",
    "QueueCounts",
    "Redeliver",
    "Reschedule",
    "SendWork",
    "Settle",
    "Transition",
    "Verdict",
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
class PollWork:
    """A job whose next poll is due.

    Args:
        job: The job.
        attempts: Polls begun, this one included.
        faults: Faults in a row before this poll.
        last_answer_ms: When the API last answered, in Unix milliseconds; None if never or unknown.
        doubt_ms: Since when the API gives an answer that ends the job, if it says so
            again: it is asked once more. None if its last answer is in no doubt.
        known: Whether the API has known the job at its last answer.
        missing_ms: Since when the API says that it does not know the job; None if
            its last answer was another one.
    """

    job: VideoJob
    attempts: int
    faults: int
    last_answer_ms: int | None
    doubt_ms: int | None = None
    known: bool = attrs.field(default=False, kw_only=True)
    missing_ms: int | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class SendWork:
    """An outcome whose delivery is due."""

    entry: OutboxEntry


@attrs.frozen
class Abandoned:
    """A job whose record and completed record are both there, and nobody's lock.

    Another kind of worker ended its polling and died around the send.
    """

    job: VideoJob
    outcome: Outcome


@attrs.frozen
class Gone:
    """An id without a job to work on.

    Args:
        finished: Whether its job has ended, or nobody knows.
        left_over: Whether it has a record all the same, which somebody wrote again after the end.
    """

    finished: bool
    left_over: bool = False


@attrs.frozen
class Claim:
    """One job in this worker's hands.

    Args:
        job_id: Its id, exactly as it stood in Redis.
        token: The fencing token of the lease.
        due_ms: When it was due, in Unix milliseconds of Redis's clock; for a job that
            was taken over, when the lease on it ended.
        work: What there is to do.
        raw: The record or outbox entry as it was read, for a dead letter; and
        raw_is_entry: which of the two it is.
        taken_over: Whether another worker's lease on it had expired.
        ending: Whether there was no place for its poll, and it is past its deadline: it ends without one.
        attempts_before: Polls begun before this claim, and
        attempts_age_ms: how long ago the last of them was; for giving the claim back.
    """

    job_id: str
    token: str
    due_ms: int
    work: PollWork | SendWork | Abandoned | Gone | Poison
    raw: bytes | None = attrs.field(default=None, repr=False)
    raw_is_entry: bool = attrs.field(default=False, kw_only=True)
    taken_over: bool = False
    ending: bool = False
    attempts_before: int = 0
    attempts_age_ms: int | None = None


@attrs.frozen
class ClaimBatch:
    """The answer to a claim.

    Args:
        claims: The jobs leased, the longest due first.
        now_ms: Redis's clock, in Unix milliseconds.
        next_poll_ms: When the next poll is due that was not claimed; None if there is none.
        next_send_ms: The same for deliveries.
        next_expiry_ms: When the next lease of anybody ends.
        waiting: Ids left in the list.
        look_from: From which rank of the schedule to look for jobs to be ended
            next time; 0 if all that is due has been looked at.
    """

    claims: tuple[Claim, ...]
    now_ms: int
    next_poll_ms: int | None = None
    next_send_ms: int | None = None
    next_expiry_ms: int | None = None
    waiting: int = 0
    look_from: int = 0


@attrs.frozen
class Reschedule:
    """Poll the job again at `due_ms`; remember its faults in a row, its last answer, and since when that is in doubt.

    `attempts` notes the counter, where workers of another kind may move it on.
    """

    claim: Claim
    due_ms: int
    faults: int = 0
    last_answer_ms: int | None = None
    attempts: int | None = None
    doubt_ms: int | None = None
    missing_ms: int | None = None


@attrs.frozen
class GiveBack:
    """Hand an unfinished poll back at once: it does not count as an attempt."""

    claim: Claim


@attrs.frozen
class Conclude:
    """The polling is over: store the outcome in the outbox, and confirm the lease.

    The entry may note already that its send begins, as in `BeginSend`.
    """

    claim: Claim
    entry: OutboxEntry
    keep_s: int
    lease_ms: int


@attrs.frozen
class BeginSend:
    """A send begins: note it in the outbox and confirm the lease, so that it can be accounted for after a crash."""

    claim: Claim
    entry: OutboxEntry
    keep_s: int
    lease_ms: int


@attrs.frozen
class Redeliver:
    """Try the delivery again at `due_ms`."""

    claim: Claim
    entry: OutboxEntry
    keep_s: int
    due_ms: int


@attrs.frozen
class DeadLetter:
    """Something that could not be processed or delivered.

    Args:
        job_id: Its id, exactly as it stood in Redis.
        reason: Why, for the operator.
        at_ms: When, in Unix milliseconds.
        record: The job's record as it was read, if there was one.
        entry: The outbox entry, if there is an outcome to deliver.
        raw_entry: The outbox entry as it was read, if it is damaged.
    """

    job_id: str
    reason: str = attrs.field(converter=bounded_detail, repr=repr_told)
    at_ms: int
    record: str | None = attrs.field(default=None, repr=False)
    entry: OutboxEntry | None = attrs.field(default=None, repr=False)
    raw_entry: str | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Settle:
    """The job is over: write ``video:completed`` and a dead letter where there is one, and clean up."""

    claim: Claim
    completed: str | None = attrs.field(default=None, repr=False)
    letter: DeadLetter | None = None


Transition: TypeAlias = Reschedule | GiveBack | Conclude | BeginSend | Redeliver | Settle
"""All that can be done with a claimed job."""


class Verdict(enum.Enum):
    """What the queue said to a transition."""

    APPLIED = "applied"
    """Done, by this call or by an earlier one whose reply was lost."""
    LOST = "lost"
    """The lease is somebody else's by now: nothing changed."""
    FINISHED_ELSEWHERE = "finished_elsewhere"
    """Another kind of worker completed the job meanwhile: the lease was let go."""
    CONTENDED = "contended"
    """Another kind of worker holds the lock: the job was put back until that lock ends."""


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
