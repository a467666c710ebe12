"""What passes between a queue and a runner: claims, and what was decided about them.

A runner claims a batch of jobs, works on each, and hands back transitions. The
queue carries out each transition only if the claim's token still holds the lease.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from videopoll.jobs.codec import Poison
    from videopoll.jobs.job import VideoJob
    from videopoll.jobs.outcome import DeadLetter, OutboxEntry, Outcome
    from videopoll.messages import MessageReceipt

__all__ = [
    "Abandoned",
    "BeginSend",
    "BeginWatch",
    "Claim",
    "ClaimBatch",
    "Conclude",
    "MissingRecord",
    "PollWork",
    "Redeliver",
    "Release",
    "Reschedule",
    "SendWork",
    "Settle",
    "Transition",
    "TransitionResult",
]


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
        last_fault: The kind of the last of those faults, a word of `FaultKind`; None if there is none.
    """

    job: VideoJob
    attempts: int
    faults: int
    last_answer_ms: int | None
    doubt_ms: int | None = None
    known: bool = attrs.field(default=False, kw_only=True)
    missing_ms: int | None = attrs.field(default=None, kw_only=True)
    last_fault: str | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class SendWork:
    """An outcome whose delivery is due.

    Args:
        entry: The delivery.
        receipt: What the channel told of its last send before that send was known to be accepted.
    """

    entry: OutboxEntry
    receipt: MessageReceipt | None = None


@attrs.frozen
class Abandoned:
    """A job whose record and completed record are both there, and nobody's lock.

    Another kind of worker ended its polling and died around the send.
    """

    job: VideoJob
    outcome: Outcome


@attrs.frozen
class MissingRecord:
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
    work: PollWork | SendWork | Abandoned | MissingRecord | Poison
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
        brakes: Accounts of video APIs that all workers leave alone, and until when, in Unix
            milliseconds of Redis's clock; 100 at most, those with the longest pauses.
        workers: How many workers of this queue tell that they live; 0 if that is not known.
    """

    claims: tuple[Claim, ...]
    now_ms: int
    next_poll_ms: int | None = None
    next_send_ms: int | None = None
    next_expiry_ms: int | None = None
    waiting: int = 0
    look_from: int = 0
    brakes: Mapping[str, int] = attrs.field(factory=dict)
    workers: int = 0


@attrs.frozen
class Reschedule:
    """Poll the job again at `due_ms`; remember its faults in a row, its last answer, and since when that is in doubt.

    `attempts` notes the counter, where workers of another kind may move it on. What the API told of
    its progress, and of its place in the API's queue, is there to be shown.
    """

    claim: Claim
    due_ms: int
    faults: int = 0
    last_answer_ms: int | None = None
    attempts: int | None = None
    doubt_ms: int | None = None
    missing_ms: int | None = None
    progress: float | None = None
    queue_position: int | None = None
    last_fault: str | None = None


@attrs.frozen
class Release:
    """Hand an unfinished poll back: it does not count as an attempt. At once, or to be due at `due_ms`."""

    claim: Claim
    due_ms: int | None = None


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
class Settle:
    """The job is over: write ``video:completed`` and a dead letter where there is one, and clean up."""

    claim: Claim
    completed: str | None = attrs.field(default=None, repr=False)
    letter: DeadLetter | None = None


@attrs.frozen
class BeginWatch:
    """The channel has accepted the message: write ``video:completed``, and watch the job for `watch_s` seconds.

    Until then a receipt may open the delivery again.
    """

    claim: Claim
    entry: OutboxEntry
    completed: str = attrs.field(repr=False)
    watch_s: int
    keep_s: int


Transition: TypeAlias = Reschedule | Release | Conclude | BeginSend | Redeliver | BeginWatch | Settle
"""All that can be done with a claimed job."""


class TransitionResult(enum.Enum):
    """What the queue said to a transition."""

    APPLIED = "applied"
    """Done, by this call or by an earlier one whose reply was lost."""
    LOST = "lost"
    """The lease is somebody else's by now: nothing changed."""
    FINISHED_ELSEWHERE = "finished_elsewhere"
    """Another kind of worker completed the job meanwhile: the lease was let go."""
    CONTENDED = "contended"
    """Another kind of worker holds the lock: the job was put back until that lock ends."""
