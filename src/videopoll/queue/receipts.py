"""Receipts of channels as flows: finding the jobs that they are about, and writing what they mean.

What a receipt means is judged in `videopoll.core.receipts`; the scripts see to it that
what is written was judged of what is there.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import attrs

from videopoll import events
from videopoll._reasons import shown_name, told_or_withheld
from videopoll.core.receipts import Noted, Reopened, is_about, judge, name_hash, read_receipt
from videopoll.errors import ConfigurationError
from videopoll.jobs.codec import Poison, dump, load_object
from videopoll.jobs.outcome import OutboxEntry
from videopoll.jobs.transition import SendWork
from videopoll.jobs.views import ReceiptCounts
from videopoll.messages import MessageReceipt, ReceiptKind
from videopoll.queue import watch_calls
from videopoll.queue.calls import chunks
from videopoll.queue.errors import REDIS_ERRORS, raise_queue_error
from videopoll.queue.scripts import evaluate, read
from videopoll.queue.watch_calls import Received

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis

    from videopoll.core.flow import Flow
    from videopoll.core.receipts import Judgement
    from videopoll.jobs.codec import JsonValue
    from videopoll.jobs.transition import Claim, ClaimBatch
    from videopoll.policies import DeliveryPolicy, KeyTtls
    from videopoll.queue.schema import Keys

__all__ = ["AT_ONCE", "Receiver", "checked_receipts", "with_early_receipts"]

AT_ONCE = 100
"""Receipts that one script looks for."""

MOST_LOOKS = 5
"""How often a receipt is judged anew because its job has changed meanwhile."""


def checked_receipts(receipts: Iterable[MessageReceipt]) -> list[MessageReceipt]:
    """Check what a host hands in as receipts.

    Raises:
        ConfigurationError: One of them is none.
    """
    if not isinstance(receipts, Iterable):
        msg = f"receive_receipts takes a list of MessageReceipt, got {type(receipts).__name__}"
        raise ConfigurationError(msg)
    given = list(receipts)
    for one in given:
        if not isinstance(one, MessageReceipt):
            msg = f"receive_receipts takes a list of MessageReceipt, got one of {type(one).__name__}"
            raise ConfigurationError(msg)
    return given


@attrs.frozen
class Receiver:
    """Takes receipts in.

    Args:
        client: For the calls.
        keys: The names of the keys.
        ttls: How long the documented keys live.
        delivery: How long an outbox lives.
        emit: Is told what they changed.
    """

    client: redis.Redis
    keys: Keys
    ttls: KeyTtls
    delivery: DeliveryPolicy
    emit: events.Emitter

    def receive(self, receipts: Iterable[MessageReceipt]) -> Flow[ReceiptCounts]:
        """Take receipts in, in the order in which they come; count what came of them."""
        given = checked_receipts(receipts)
        came = collections.Counter[str]()
        for some in chunks(given, AT_ONCE):
            left = list(some)
            for _ in range(MOST_LOOKS):
                left = yield from self._receive(left, came)
                if not left:
                    break
            came["ignored"] += len(left)
        return ReceiptCounts(**came)

    def _receive(
        self, receipts: Sequence[MessageReceipt], came: collections.Counter[str]
    ) -> Flow[list[MessageReceipt]]:
        """Take some in; return those that have to be looked at again."""
        now_ms, found = yield from evaluate(self.client, watch_calls.find_watched(self.keys, receipts))
        again: list[MessageReceipt] = []
        early: list[tuple[MessageReceipt, str | None]] = []
        touched = set[str]()
        for receipt, there in zip(receipts, found, strict=True):
            if there.job_id in touched:
                # An earlier one of this call has changed it.
                again.append(receipt)
                continue
            entry = _entry_of(there)
            judged: Judgement = None
            if entry is not None:
                judged = judge(entry, _fields(there.completed), receipt, now_ms)
            if entry is not None and judged is not None and there.job_id is not None:
                touched.add(there.job_id)
                received = yield from self._carry_out(there, judged)
                if received is Received.CHANGED:
                    again.append(receipt)
                elif received is Received.LIVES:
                    came["ignored"] += 1
                else:
                    came[receipt.kind.value] += 1
                    self._report(entry, receipt, judged, now_ms)
            elif there.known or _is_about(receipt, entry) or receipt.message_id is receipt.reference is None:
                # Doubled, out of order, or too late to matter.
                came["ignored"] += 1
            else:
                early.append((receipt, there.job_id))
        if early:
            known = yield from evaluate(self.client, watch_calls.keep(self.keys, early))
            again += [receipt for (receipt, _), by_now in zip(early, known, strict=True) if by_now]
            came["kept"] += len(known) - sum(known)
        return again

    def _carry_out(self, found: watch_calls.Found, judged: Reopened | Noted) -> Flow[Received]:
        job_id = found.job_id or ""
        if isinstance(judged, Reopened):
            call = watch_calls.receive(
                self.keys, job_id, found, entry=judged.entry.to_json(), keep_s=self.delivery.keep_s, ttls=self.ttls
            )
        else:
            call = watch_calls.receive(self.keys, job_id, found, completed=dump(judged.completed), ttls=self.ttls)
        return (yield from evaluate(self.client, call))

    def _report(self, entry: OutboxEntry, receipt: MessageReceipt, judged: Reopened | Noted, now_ms: int) -> None:
        accepted = entry.accepted
        form = entry.form if accepted is None else accepted.form
        channel = shown_name(None if accepted is None else accepted.channel)
        accepted_ms = now_ms if accepted is None else accepted.at_ms
        self.emit.emit(
            events.ReceiptReceived(
                job_id=entry.job.job_id,
                conversation_id=entry.job.conversation_id,
                kind=receipt.kind.value,
                form=form,
                channel=channel,
                after_s=max(0, now_ms - accepted_ms) / 1000,
                reason=told_or_withheld(receipt.reason) if receipt.kind is ReceiptKind.FAILED else None,
            ),
            receipt.reason,
        )
        if isinstance(judged, Noted) and judged.first:
            self.emit.emit(
                events.JobDelivered(
                    job_id=entry.job.job_id,
                    conversation_id=entry.job.conversation_id,
                    outcome=entry.outcome.kind,
                    form=form,
                    attempts=entry.tries,
                    after_s=max(0, now_ms - entry.outcome.at_ms) / 1000,
                    channel=channel,
                )
            )


def _entry_of(found: watch_calls.Found) -> OutboxEntry | None:
    if found.job_id is None or found.watch is None:
        return None
    entry = OutboxEntry.from_json(found.job_id, found.watch)
    return None if isinstance(entry, Poison) else entry


def _is_about(receipt: MessageReceipt, entry: OutboxEntry | None) -> bool:
    return entry is not None and entry.accepted is not None and is_about(receipt, entry.accepted)


def _fields(completed: bytes | None) -> dict[str, JsonValue] | None:
    fields = None if completed is None else load_object(completed)
    return None if isinstance(fields, Poison) else fields


def with_early_receipts(client: redis.Redis, keys: Keys, batch: ClaimBatch) -> Flow[ClaimBatch]:
    """Add to each delivery of unknown or accepted fate the receipt that came before its message was known."""
    names = [_early_name(claim) for claim in batch.claims]
    wanted = [name for name in names if name is not None]
    if not wanted:
        return batch
    try:
        values = yield from read(client, "looking for receipts", client.hmget, keys.early, wanted)
    except REDIS_ERRORS as error:
        raise_queue_error(error, "looking for receipts")
    kept = dict(zip(wanted, cast("list[bytes | None]", values), strict=True))
    for name in (yield from _of_earlier_messages(client, keys, batch, kept)):
        kept[name] = None
    claims = tuple(
        _with_receipt(claim, None if name is None else kept[name])
        for claim, name in zip(batch.claims, names, strict=True)
    )
    return attrs.evolve(batch, claims=claims)


def _of_earlier_messages(
    client: redis.Redis, keys: Keys, batch: ClaimBatch, kept: Mapping[str, bytes | None]
) -> Flow[list[str]]:
    """Return the names whose receipt tells of a failure before the send began that is in question now.

    It has been acted upon already, and this send is what followed.
    """
    began_ms = {
        name: claim.work.entry.begun_ms
        for claim in batch.claims
        if isinstance(claim.work, SendWork) and claim.work.entry.accepted is None
        for name in [_early_name(claim)]
        if name is not None and (kept.get(name) or b"").startswith(_FAILED) and claim.work.entry.begun_ms is not None
    }
    if not began_ms:
        return []
    names = list(began_ms)
    try:
        times = yield from read(client, "looking for receipts", client.zmscore, keys.early_times, names)
    except REDIS_ERRORS as error:
        raise_queue_error(error, "looking for receipts")
    told_ms = zip(names, times, strict=True)
    return [name for name, at_ms in told_ms if at_ms is not None and at_ms < (began_ms[name] or 0)]


_FAILED = f"{ReceiptKind.FAILED.value}:".encode()


def _early_name(claim: Claim) -> str | None:
    if not isinstance(claim.work, SendWork) or claim.work.entry.sending_ms is None:
        return None
    entry = claim.work.entry
    message_id = None if entry.accepted is None else entry.accepted.message_id
    return name_hash(message_id or entry.job.reference)


def _with_receipt(claim: Claim, stored: bytes | None) -> Claim:
    receipt = read_receipt(stored.partition(b":")[2]) if stored else None
    if receipt is None or not isinstance(claim.work, SendWork):
        return claim
    return attrs.evolve(claim, work=SendWork(claim.work.entry, receipt))
