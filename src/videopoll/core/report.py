"""The events of a job's step. They carry codes and our own words; the whole reason goes beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from videopoll import events
from videopoll._reasons import WITHHELD, own, shown_name, shown_word, told, told_or_withheld
from videopoll.core.accounts import IN_A_ROW
from videopoll.core.delivery import Later
from videopoll.core.polling import NextPoll
from videopoll.core.receipts import reason_of
from videopoll.jobs.video import FailureReason
from videopoll.messages import (
    Accepted,
    Delivered,
    Failed,
    Found,
    LookupAnswer,
    LookupResult,
    NotSent,
    Refused,
    RepeatSafe,
)
from videopoll.observations import Fault, VideoFailed, VideoMissing, VideoReady, VideoWorking

if TYPE_CHECKING:
    from videopoll.core.context import StepContext
    from videopoll.core.delivery import DeliveryAction, GetLink
    from videopoll.jobs.job import VideoJob
    from videopoll.jobs.outcome import OutboxEntry, Outcome
    from videopoll.jobs.transition import Claim, PollWork
    from videopoll.messages import MessageReceipt, Receipt
    from videopoll.observations import Answered, Observation

__all__ = [
    "report_accepted",
    "report_claimed",
    "report_concluded",
    "report_dead_lettered",
    "report_delivered",
    "report_failed_later",
    "report_held_back",
    "report_lease_lost",
    "report_link",
    "report_polled",
    "report_sent",
]


def report_claimed(context: StepContext, claim: Claim) -> None:
    """Emit `JobClaimed`."""
    context.emit(events.JobClaimed(worker_id=context.worker_id, job_id=claim.job_id, taken_over=claim.taken_over))


def report_lease_lost(context: StepContext, job_id: str) -> None:
    """Emit `LeaseLost`."""
    context.emit(events.LeaseLost(worker_id=context.worker_id, job_id=job_id))


def report_polled(  # noqa: PLR0917 - one poll, from its claim to what came of it
    context: StepContext,
    claim: Claim,
    work: PollWork,
    observation: Answered,
    asked_ms: int,
    took_s: float,
    after: NextPoll | Outcome,
) -> None:
    """Emit `JobPolled`.

    Args:
        context: What the step shares with others.
        claim: The claim of the job.
        work: The job and its counters, this poll included.
        observation: What the API answered.
        asked_ms: When the poll began, in Unix milliseconds.
        took_s: Seconds that it took.
        after: What was decided.
    """
    now_ms = context.clock.now_ms()
    fault = observation if isinstance(observation, Fault) else None
    context.emit(
        events.JobPolled(
            worker_id=context.worker_id,
            job_id=claim.job_id,
            attempt=work.attempts,
            # Redis's clock may have stepped back since.
            elapsed_s=max(0, now_ms - work.job.start_ms) / 1000,
            lag_s=max(0, asked_ms - claim.due_ms) / 1000,
            took_s=took_s,
            status=shown_word(_status(observation)),
            known=not isinstance(observation, VideoWorking) or observation.known,
            fault=fault.kind if fault else None,
            detail=told_or_withheld(fault.detail) if fault else None,
            next_s=max(0.0, (after.due_ms - now_ms) / 1000) if isinstance(after, NextPoll) else None,
            progress=observation.progress if isinstance(observation, VideoWorking) else None,
            queue_position=observation.queue_position if isinstance(observation, VideoWorking) else None,
            provider=_provider(work.job),
        ),
        fault.detail if fault else _status(observation),
    )


def _provider(job: VideoJob) -> str | None:
    name = job.metadata.get("provider")
    return shown_name(name) if isinstance(name, str) else None


def _status(observation: Answered) -> str:
    match observation:
        case VideoWorking(word):
            return word
        case VideoReady():
            return "completed"
        case VideoFailed():
            return "failed"
        case VideoMissing():
            return "not_found"
        case Fault(kind):
            return kind.value


def report_concluded(context: StepContext, job: VideoJob, outcome: Outcome, attempts: int) -> None:
    """Emit `JobConcluded`, after `attempts` polls."""
    context.emit(
        events.JobConcluded(
            worker_id=context.worker_id,
            job_id=job.job_id,
            conversation_id=job.conversation_id,
            outcome=outcome.kind,
            elapsed_s=max(0, outcome.at_ms - job.start_ms) / 1000,
            attempts=attempts,
            error=told_or_withheld(outcome.error),
            reason=None if outcome.reason is FailureReason.UNKNOWN else outcome.reason,
        ),
        outcome.error,
        outcome,
    )


def report_link(
    context: StepContext, wanted: GetLink, answer: Observation, action: DeliveryAction, started_s: float
) -> None:
    """Emit `LinkTried`, for what began at this monotonic time and came to this action."""
    before, after = wanted.entry, action.entry
    reason: str | None = None
    if isinstance(answer, VideoReady):
        result = "ok"
    elif not after.outcome.success:
        result, reason = "none", after.outcome.error
    else:
        result = "later" if isinstance(action, Later) else "kept"
        reason = answer.detail if isinstance(answer, Fault) else own(f"the answer was {type(answer).__name__}")
    context.emit(
        events.LinkTried(
            worker_id=context.worker_id,
            job_id=before.job.job_id,
            conversation_id=before.job.conversation_id,
            how="renewed" if wanted.locked is None else "published",
            result=result,
            took_s=context.clock.monotonic_s() - started_s,
            reason=told_or_withheld(reason),
        ),
        reason,
    )


_SEND_RESULTS: dict[type, str] = {Accepted: "accepted", Delivered: "delivered", NotSent: "not_sent", Refused: "refused"}

_LOOKUP_ANSWERS: dict[type, str] = {
    Found: LookupResult.FOUND.value,
    Failed: LookupResult.FAILED.value,
    RepeatSafe: "repeat_safe",
}


def report_sent(context: StepContext, entry: OutboxEntry, result: Receipt | LookupAnswer, started_s: float) -> None:
    """Emit `SendTried`, for a send or a look-up that began at this monotonic time."""
    reason: str | None
    if isinstance(result, LookupAnswer):
        word = result.value if isinstance(result, LookupResult) else _LOOKUP_ANSWERS[type(result)]
        # A channel without a look-up was not asked at all.
        asked = "the channel cannot tell what became of an earlier send"
        if result is not LookupResult.CANNOT_TELL:
            asked = "asked the channel for the message of an earlier send"
        reason = own(asked)
        if isinstance(result, Failed):
            reason = result.reason
    else:
        waits = isinstance(result, NotSent) and result.waits
        word = "waits" if waits else _SEND_RESULTS.get(type(result), "unknown")
        reason = result.detail if isinstance(result, Delivered) else result.reason
    context.emit(
        events.SendTried(
            worker_id=context.worker_id,
            job_id=entry.job.job_id,
            conversation_id=entry.job.conversation_id,
            form=(isinstance(result, Delivered) and result.form) or entry.form,
            attempt=entry.tries,
            result=word,
            took_s=context.clock.monotonic_s() - started_s,
            # What a channel says beside its success is nothing that the log lacks.
            reason=told(reason) if isinstance(result, Delivered) else told_or_withheld(reason),
            channel=None if isinstance(result, LookupAnswer) else shown_name(result.channel),
        ),
        reason,
    )


def report_failed_later(context: StepContext, entry: OutboxEntry, receipt: MessageReceipt) -> None:
    """Emit `SendTried`, for a message that a receipt says has failed: as if the channel had been asked for it now."""
    accepted, reason = entry.accepted, reason_of(receipt)
    context.emit(
        events.SendTried(
            worker_id=context.worker_id,
            job_id=entry.job.job_id,
            conversation_id=entry.job.conversation_id,
            form=entry.form if accepted is None else accepted.form,
            attempt=entry.tries,
            result=LookupResult.FAILED.value,
            took_s=0.0,
            reason=told_or_withheld(reason),
            channel=shown_name(receipt.channel if accepted is None else accepted.channel),
        ),
        reason,
    )


def report_accepted(context: StepContext, entry: OutboxEntry, receipt: Accepted, at_ms: int) -> None:
    """Emit `JobAccepted`."""
    context.emit(
        events.JobAccepted(
            worker_id=context.worker_id,
            job_id=entry.job.job_id,
            conversation_id=entry.job.conversation_id,
            outcome=entry.outcome.kind,
            form=receipt.form or entry.form,
            attempts=entry.tries,
            after_s=max(0, at_ms - entry.outcome.at_ms) / 1000,
            channel=shown_name(receipt.channel),
        )
    )


def report_delivered(context: StepContext, entry: OutboxEntry, receipt: Delivered, at_ms: int) -> None:
    """Emit `JobDelivered`."""
    context.emit(
        events.JobDelivered(
            worker_id=context.worker_id,
            job_id=entry.job.job_id,
            conversation_id=entry.job.conversation_id,
            outcome=entry.outcome.kind,
            form=receipt.form or entry.form,
            attempts=entry.tries,
            after_s=max(0, at_ms - entry.outcome.at_ms) / 1000,
            channel=shown_name(receipt.channel),
        ),
        None,
        entry.outcome,
    )


def report_dead_lettered(context: StepContext, job_id: str, reason: str, outcome: Outcome | None) -> None:
    """Emit `JobDeadLettered`."""
    context.emit(
        events.JobDeadLettered(
            worker_id=context.worker_id,
            job_id=job_id,
            reason=told_or_withheld(reason) or WITHHELD,
            outcome=outcome.kind if outcome else None,
        ),
        reason,
    )


def report_held_back(context: StepContext, channel: str | None, pause_s: float, *, refused: bool) -> None:
    """Emit `ChannelHeldBack`."""
    context.emit(
        events.ChannelHeldBack(
            worker_id=context.worker_id,
            channel=shown_name(channel),
            messages=1 if refused else IN_A_ROW,
            pause_s=pause_s,
            refused=refused,
        )
    )
