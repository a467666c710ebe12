"""The scripts of watched messages as typed calls; the others are in `videopoll.queue.calls`."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias, cast

import attrs

from videopoll.core.receipts import name_hash, write_receipt
from videopoll.jobs.codec import raw, text_of
from videopoll.queue.scripts import Script, ScriptCall

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from videopoll.jobs.transition import BeginWatch, TransitionResult
    from videopoll.messages import MessageReceipt
    from videopoll.policies import KeyTtls
    from videopoll.queue.schema import Keys

WATCH = Script.load("watch")
FIND_WATCHED = Script.load("find_watched")
RECEIVE = Script.load("receive")
KEEP_RECEIPTS = Script.load("keep_receipts")

SCRIPTS = (WATCH, FIND_WATCHED, RECEIVE, KEEP_RECEIPTS)

MOST_EARLY = 10_000
"""Receipts of unknown messages that are kept at most, under each of their names: about 5 MB."""

EARLY_S = 600
"""Seconds that they are kept. Our own write comes within a moment of the send, or after a crash within a lease."""


KNOWN_BY_NOW = 2
"""What `KEEP_RECEIPTS` answers if the message is known."""


class Received(enum.IntEnum):
    """What became of a receipt."""

    CHANGED = 0
    """The job has changed since it was looked at."""
    DONE = 1
    LIVES = 2
    """The job lives again: what becomes of it now, another one writes."""


@attrs.frozen
class Found:
    """What is known of the message that a receipt is about.

    Args:
        known: Whether the channel's id of it is known.
        job_id: Its job.
        watch: The entry that is watched, as it was read.
        completed: ``video:completed``, as it was read.
    """

    known: bool
    job_id: str | None
    watch: bytes | None = attrs.field(repr=False)
    completed: bytes | None = attrs.field(repr=False)


def watch(
    keys: Keys,
    items: Sequence[BeginWatch],
    ttls: KeyTtls,
    parse: Callable[[object], list[TransitionResult]],
) -> ScriptCall[list[TransitionResult]]:
    """End the sending of messages that their channels have accepted."""
    args: list[str | bytes | int] = [ttls.completed_s]
    job_keys: list[bytes] = []
    for item in items:
        job_id, entry = item.claim.job_id, item.entry
        reference = name_hash(entry.job.reference)
        message_id = None if entry.accepted is None else entry.accepted.message_id
        name = reference if message_id is None else name_hash(message_id)
        own = (keys.watch(job_id), keys.sent(name), keys.sent(reference))
        job_keys += (raw(key) for key in (*keys.of_job(job_id), *own))
        args += (raw(job_id), item.claim.token, item.completed, entry.to_json(), item.watch_s, item.keep_s, name)
    return ScriptCall(WATCH, (*keys.fixed, keys.watched, keys.early, *job_keys), tuple(args), parse)


def names_of(receipt: MessageReceipt) -> tuple[str, str]:
    """Return the hashes of both names that a receipt has for its message, empty for none."""
    message_id, reference = (
        "" if name is None else name_hash(name) for name in (receipt.message_id, receipt.reference)
    )
    return message_id, reference


_FoundFields: TypeAlias = "tuple[int, bytes | None, bytes | None, bytes | None]"


def find_watched(keys: Keys, receipts: Sequence[MessageReceipt]) -> ScriptCall[tuple[int, list[Found]]]:
    """Find the jobs of receipts; with Redis's clock, in Unix milliseconds."""

    def parse(reply: object) -> tuple[int, list[Found]]:
        now, *found = cast("list[object]", reply)
        return int(cast("bytes", now)), [
            Found(known == 1, None if job_id is None else text_of(job_id), watched, completed)
            for known, job_id, watched, completed in cast("list[_FoundFields]", found)
        ]

    names = (name for receipt in receipts for name in names_of(receipt))
    return ScriptCall(FIND_WATCHED, keys.fixed, (keys.prefix, *names), parse)


def receive(
    keys: Keys,
    job_id: str,
    found: Found,
    *,
    entry: str = "",
    keep_s: int = 1,
    completed: str = "",
    ttls: KeyTtls,
) -> ScriptCall[Received]:
    """Open a delivery again, or note that its user has the message."""
    job, outbox, *_, ended = keys.of_job(job_id)
    return ScriptCall(
        RECEIVE,
        (*keys.fixed, keys.watched, *map(raw, (job, outbox, ended, keys.watch(job_id)))),
        (raw(job_id), found.watch or b"", found.completed or b"", entry, keep_s, completed, ttls.completed_s),
        lambda reply: Received(cast("int", reply)),
        # Run twice, it finds what the first run has written: another one.
        repeatable=False,
    )


def keep(keys: Keys, some: Sequence[tuple[MessageReceipt, str | None]]) -> ScriptCall[list[bool]]:
    """Keep receipts of unknown messages; each with the job that its reference names, if there is one.

    Returns:
        Whether a receipt's message is known by now: then look again.
    """
    guards, args, owners = list[bytes](), list[str](), list[int]()
    for number, (receipt, job_id) in enumerate(some):
        by_id, by_reference = names_of(receipt)
        guard = keys.watch(job_id) if job_id and not by_id else keys.sent(by_id or by_reference)
        for name in filter(None, (by_id, by_reference)):
            guards.append(raw(guard))
            args += (name, receipt.kind.value, write_receipt(receipt), "1" if by_id and name is by_reference else "")
            owners.append(number)

    def parse(reply: object) -> list[bool]:
        known = {
            owner for owner, answer in zip(owners, cast("list[int]", reply), strict=True) if answer == KNOWN_BY_NOW
        }
        return [number in known for number in range(len(some))]

    return ScriptCall(KEEP_RECEIPTS, (keys.early, keys.early_times, *guards), (MOST_EARLY, EARLY_S, *args), parse)
