"""How a job leaves the queue: the last write about it, as pure functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from videopoll._reasons import joined, own
from videopoll.core.receipts import completed_as_accepted, watched_entry
from videopoll.jobs.codec import dump
from videopoll.jobs.job import bounded_record
from videopoll.jobs.outcome import DeadLetter
from videopoll.jobs.transition import BeginWatch, Settle
from videopoll.jobs.video import FailureReason

if TYPE_CHECKING:
    from videopoll.core.delivery import Done, GiveUp, Watch
    from videopoll.jobs.outcome import OutboxEntry, Outcome
    from videopoll.jobs.transition import Claim
    from videopoll.policies import DeliveryPolicy

__all__ = ["settle_accepted", "settle_delivered", "settle_undeliverable", "settle_unreadable"]

LARGEST_ENTRY_BYTES = 65_536
"""An outbox entry of ours is smaller: larger ones are not kept whole in a dead letter."""


def settle_delivered(claim: Claim, done: Done, now_ms: int) -> Settle:
    """Return the settlement of a job whose user has the message.

    A video that was made and could not be handed on also becomes a dead letter, as it was paid
    for: the API can be asked for it again. So does one whose API this worker cannot ask.
    """
    entry, receipt = done.entry, done.receipt
    completed = entry.outcome.to_completed(
        entry.job,
        delivered=True,
        deliveredAt=now_ms,
        form=(receipt.form or entry.form).value,
        sends=entry.tries,
        messageId=receipt.message_id,
    )
    return Settle(claim, dump(completed), _letter_for_video(claim, entry, now_ms))


def settle_accepted(claim: Claim, watch: Watch, now_ms: int, policy: DeliveryPolicy) -> BeginWatch | Settle:
    """Return the last write about a job whose channel has accepted the message: it is watched, if the policy says so.

    One that becomes a dead letter all the same is not watched.
    """
    entry = watched_entry(watch, now_ms)
    completed, letter = dump(completed_as_accepted(entry)), _letter_for_video(claim, entry, now_ms)
    if not policy.watch_s or letter is not None:
        return Settle(claim, completed, letter)
    return BeginWatch(claim, entry, completed, math.ceil(policy.watch_s), policy.keep_s)


def _letter_for_video(claim: Claim, entry: OutboxEntry, now_ms: int) -> DeadLetter | None:
    outcome = entry.outcome
    kept = outcome.undeliverable_url is not None or outcome.reason is FailureReason.NOT_CONFIGURED
    return DeadLetter(claim.job_id, _made(outcome), now_ms, dump(entry.job.to_record())) if kept else None


def _made(outcome: Outcome) -> str:
    return joined("its user was told that there is no video", outcome.error or own("the video cannot be delivered"))


def settle_undeliverable(claim: Claim, given_up: GiveUp, now_ms: int) -> Settle:
    """Return the settlement of a job whose message cannot be delivered: a dead letter with the entry."""
    entry, reason = given_up.entry, given_up.reason
    completed = entry.outcome.to_completed(entry.job, delivered=False, undeliverable=reason, sends=entry.tries)
    return Settle(claim, dump(completed), DeadLetter(claim.job_id, reason, now_ms, entry=entry))


def settle_unreadable(claim: Claim, reason: str, now_ms: int) -> Settle:
    """Return the settlement of a claim that is no readable job: a dead letter with what is there."""
    raw = claim.raw
    record = None if raw is None else bounded_record(raw)
    if raw is not None and claim.raw_is_entry:
        # A redrive goes on with its delivery, not with the polling, if it can be read one day.
        whole = raw.decode("utf-8", "surrogateescape") if len(raw) <= LARGEST_ENTRY_BYTES else record
        return Settle(claim, letter=DeadLetter(claim.job_id, reason, now_ms, raw_entry=whole))
    return Settle(claim, letter=DeadLetter(claim.job_id, reason, now_ms, record=record))
