"""What a receipt means: pure functions, on both sides.

A receipt of a message that is watched is judged where it comes in (`judge`): that the user
has the message is noted, and a failure opens the delivery again. A worker claims such a
delivery and decides what follows (`after_receipt`), with its policy and within its budgets;
so it does with a receipt that came before its message was known to be sent.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeAlias

import attrs

from videopoll._reasons import Reason, own
from videopoll.core.delivery import DeliveryAction, Done, Watch, after_send
from videopoll.jobs.codec import JsonValue, Poison, dump, is_number, load_object, text_or_none
from videopoll.jobs.outcome import AcceptedMessage, MessageForm, OutboxEntry
from videopoll.messages import Accepted, Delivered, MessageReceipt, NotSent, ReceiptKind, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from videopoll.policies import DeliveryPolicy

__all__ = [
    "Noted",
    "Reopened",
    "after_receipt",
    "completed_as_accepted",
    "failure_of",
    "is_about",
    "judge",
    "name_hash",
    "read_receipt",
    "reason_of",
    "watched_entry",
    "write_receipt",
]


@attrs.frozen
class Reopened:
    """The message failed: the delivery goes on with this entry."""

    entry: OutboxEntry


@attrs.frozen
class Noted:
    """The user has the message.

    Args:
        completed: What ``video:completed`` says from now on.
        first: Whether that was not known before.
    """

    completed: Mapping[str, JsonValue]
    first: bool


Judgement: TypeAlias = Reopened | Noted | None
"""What becomes of a job by a receipt; None if nothing does."""


def name_hash(name: str) -> str:
    """Return what stands in Redis for a channel's id of a message, or for our reference of one."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def watched_entry(watch: Watch, now_ms: int) -> OutboxEntry:
    """Return the entry of an accepted message as it is watched.

    It keeps the mark of a send: an earlier version that meets it in the outbox, where it is if a
    receipt came first, must not take it for a message that surely did not go out.
    """
    entry, receipt = watch.entry, watch.receipt
    accepted = entry.accepted or AcceptedMessage(
        at_ms=now_ms, form=receipt.form or entry.form, message_id=receipt.message_id, channel=receipt.channel
    )
    return attrs.evolve(entry, accepted=accepted, sending_ms=accepted.at_ms)


def completed_as_accepted(entry: OutboxEntry) -> dict[str, JsonValue]:
    """Return ``video:completed`` of a watched entry: accepted, and nobody knows yet whether it is delivered."""
    accepted = entry.accepted
    told: dict[str, JsonValue] = {"delivered": None}
    if accepted is not None:
        told |= {
            "acceptedAt": accepted.at_ms,
            "form": accepted.form.value,
            "sends": entry.tries,
            "messageId": accepted.message_id,
        }
    return entry.outcome.to_completed(entry.job, **told)


def judge(
    entry: OutboxEntry, completed: Mapping[str, JsonValue] | None, receipt: MessageReceipt, now_ms: int
) -> Judgement:
    """Decide what becomes of a watched job by a receipt.

    Args:
        entry: The entry as it is watched.
        completed: What ``video:completed`` says; None if that has expired.
        receipt: The receipt.
        now_ms: The current time.
    """
    accepted = entry.accepted
    if accepted is None or not is_about(receipt, accepted):
        return None
    fields = completed_as_accepted(entry) if completed is None else dict(completed)
    if fields.get("acceptedAt") != accepted.at_ms:
        # Another message has been sent since.
        return None
    known = fields.get("delivered") is True
    # The channel's clock may be wrong; what it tells happened since the message was accepted.
    at_ms = now_ms if receipt.at_ms is None else min(max(receipt.at_ms, accepted.at_ms), now_ms)
    match receipt.kind:
        case ReceiptKind.SENT:
            return None
        case ReceiptKind.FAILED:
            told = attrs.evolve(accepted, receipt=write_receipt(receipt))
            return None if known else Reopened(attrs.evolve(entry, accepted=told, sending_ms=None, begun_ms=None))
        case ReceiptKind.DELIVERED if known:
            return None
        case ReceiptKind.READ if "readAt" in fields:
            return None
    fields = {"deliveredAt": at_ms, **fields, "delivered": True}
    return Noted({**fields, "readAt": at_ms} if receipt.kind is ReceiptKind.READ else fields, first=not known)


def is_about(receipt: MessageReceipt, accepted: AcceptedMessage) -> bool:
    """Whether a receipt is about this very message: an earlier one of the same job has the same reference."""
    return all(
        None in {told, known} or told == known
        for told, known in ((receipt.message_id, accepted.message_id), (receipt.channel, accepted.channel))
    )


def after_receipt(
    entry: OutboxEntry,
    receipt: MessageReceipt | None,
    now_ms: int,
    policy: DeliveryPolicy,
    fraction: float = 0.5,
) -> DeliveryAction:
    """Decide what follows a receipt, of a message that was accepted or whose fate was unknown.

    The time for which the message was watched does not count towards the delivery's deadline.

    Args:
        entry: The entry as it is stored.
        receipt: The receipt; None if there is none (it was not kept for long enough).
        now_ms: The current time.
        policy: How hard to try.
        fraction: A random number from 0 to 1, for the jitter.
    """
    accepted = entry.accepted
    kind = ReceiptKind.SENT if receipt is None else receipt.kind
    # What the channel said when it accepted the message, and else what its receipt says.
    message_id = None if receipt is None else receipt.message_id
    channel = None if receipt is None else receipt.channel
    form: MessageForm | None = None
    if accepted is not None:
        message_id, channel, form = accepted.message_id or message_id, accepted.channel or channel, accepted.form
    detail = own("a receipt of the channel tells of it")
    if kind is ReceiptKind.SENT:
        known = Accepted(message_id, detail, form, channel=channel)
        return Watch(entry, known) if accepted else after_send(entry, known, now_ms, policy, fraction)
    watched_ms = max(0, now_ms - accepted.at_ms) if accepted else 0
    entry = attrs.evolve(entry, accepted=None, sending_ms=None, begun_ms=None)
    if kind is not ReceiptKind.FAILED or receipt is None:
        return Done(entry, Delivered(message_id, detail, form, channel=channel))
    entry = attrs.evolve(entry, deadline_ms=entry.deadline_ms + watched_ms)
    reason = reason_of(receipt)
    if receipt.passing:
        failure = NotSent(reason, channel_fault=receipt.channel_fault)
        return after_send(entry, failure, now_ms, policy, fraction)
    return after_send(entry, Refused(reason, receipt.try_text, then=receipt.then), now_ms, policy, fraction)


def reason_of(receipt: MessageReceipt) -> str:
    """Return why a message failed, as its receipt says; our own words where it does not say."""
    return receipt.reason or own("the channel accepted the message and could not deliver it")


def failure_of(entry: OutboxEntry) -> MessageReceipt | None:
    """Return the receipt that opened a delivery again; None if none did."""
    return None if entry.accepted is None or entry.accepted.receipt is None else read_receipt(entry.accepted.receipt)


def write_receipt(receipt: MessageReceipt) -> str:
    """Return a receipt as it is kept."""
    reason = receipt.reason
    fields: dict[str, JsonValue] = {
        "kind": receipt.kind.value,
        "messageId": receipt.message_id,
        "reference": receipt.reference,
        "reason": reason,
        "told": reason.told if isinstance(reason, Reason) else None,
        "then": None if receipt.then is None else receipt.then.value,
        "tryText": receipt.try_text,
        "passing": receipt.passing,
        "channelFault": receipt.channel_fault,
        "at": receipt.at_ms,
        "channel": receipt.channel,
    }
    return dump({name: value for name, value in fields.items() if value is not None})


def read_receipt(stored: str | bytes) -> MessageReceipt | None:
    """Read a receipt that was kept; None for one that is damaged."""
    fields = load_object(stored.encode() if isinstance(stored, str) else stored)
    if isinstance(fields, Poison):
        return None
    reason, told, at_ms = text_or_none(fields.get("reason")), text_or_none(fields.get("told")), fields.get("at")
    try:
        kind = ReceiptKind(str(fields.get("kind")))
    except ValueError:
        return None
    return MessageReceipt(
        kind=kind,
        message_id=text_or_none(fields.get("messageId")),
        reference=text_or_none(fields.get("reference")),
        reason=None if reason is None else Reason(reason, told or ""),
        then=next((form for form in MessageForm if form.value == fields.get("then")), None),
        try_text=fields.get("tryText") is not False,
        passing=fields.get("passing") is True,
        channel_fault=fields.get("channelFault") is not False,
        at_ms=int(at_ms) if is_number(at_ms) else None,
        channel=text_or_none(fields.get("channel")),
    )
