"""When to send a message again, and when a delivery ends: pure functions.

Nothing here reads a clock or opens a connection. Time comes in Unix milliseconds
of Redis's clock, chance as a number from 0 to 1. An `OutboxEntry` holds the state
of a delivery; each function returns the `DeliveryAction` that comes next, with the
entry to store first. The runners carry it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, assert_never

import attrs

from videopoll._reasons import joined, own
from videopoll.core.links import LinkStep, link_lives, next_link_step
from videopoll.jobs.outcome import MessageForm, OutboxEntry, Outcome, OutcomeKind
from videopoll.jobs.video import Asset, AssetKind, BucketObject, FailureReason, PublicLink, dated, locked_video
from videopoll.messages import (
    Accepted,
    Delivered,
    Failed,
    Found,
    LookupAnswer,
    LookupResult,
    NotSent,
    Receipt,
    Refused,
    RepeatSafe,
    Unknown,
)
from videopoll.observations import (
    Fault,
    NotAsked,
    Observation,
    VideoFailed,
    VideoMissing,
    VideoReady,
    VideoWorking,
    checked_ready,
)
from videopoll.policies import OnUnknown, jittered_ms

if TYPE_CHECKING:
    from videopoll.jobs.job import VideoJob
    from videopoll.jobs.transition import Abandoned
    from videopoll.policies import DeliveryPolicy

__all__ = [
    "DeliveryAction",
    "Done",
    "GetLink",
    "GiveUp",
    "Later",
    "LookUp",
    "Send",
    "Watch",
    "after_link",
    "after_lookup",
    "after_no_place",
    "after_send",
    "deliverable",
    "next_delivery_action",
    "open_outbox",
    "resume_abandoned",
    "resume_delivery",
]

LAST_TRIES = 3
"""Tries in a row to get a link that are made at least, however late it is: no worker may have been running."""

BELIEVED = 4
"""The budget of sends of unknown fate is multiplied by this for a channel that reliably lists its messages."""


@attrs.frozen
class Send:
    """Send the message of the entry now, in its form. The entry is stored first."""

    entry: OutboxEntry


@attrs.frozen
class GetLink:
    """Get a link for the message before it is sent.

    Args:
        entry: The entry.
        locked: What to publish, as only the API's key opens it; None to ask the API again.
    """

    entry: OutboxEntry
    locked: Asset | None = None


@attrs.frozen
class LookUp:
    """Ask the channel what became of the last send."""

    entry: OutboxEntry


@attrs.frozen
class Later:
    """Postpone the delivery until `due_ms`."""

    entry: OutboxEntry
    due_ms: int


@attrs.frozen
class Done:
    """The user has the message."""

    entry: OutboxEntry
    receipt: Delivered


@attrs.frozen
class GiveUp:
    """The message cannot be delivered: it becomes a dead letter."""

    entry: OutboxEntry
    reason: str


@attrs.frozen
class Watch:
    """The channel has the message, and a receipt will tell whether its user gets it: the job is watched until then."""

    entry: OutboxEntry
    receipt: Accepted


DeliveryAction: TypeAlias = Send | GetLink | LookUp | Later | Watch | Done | GiveUp
"""What comes next in a delivery."""


def open_outbox(job: VideoJob, outcome: Outcome, policy: DeliveryPolicy) -> OutboxEntry:
    """Return the outbox entry of an outcome, with nothing tried yet."""
    return OutboxEntry(
        job=job,
        outcome=outcome,
        form=MessageForm.VIDEO if outcome.success else MessageForm.TEXT,
        deadline_ms=outcome.at_ms + round(policy.deadline_s * 1000),
    )


def deliverable(outcome: Outcome) -> Outcome:
    """Return the outcome, or a failure instead of a video whose link must not be sent.

    videopoll checks links before it stores them. Workers of another kind and earlier versions do
    not, and not every channel checks a link.
    """
    if not outcome.success:
        return outcome
    video = checked_ready(VideoReady(outcome.video_url, assets=outcome.assets))
    if isinstance(video, VideoReady):
        same = video.assets == outcome.assets
        return outcome if same else attrs.evolve(outcome, video_url=video.video_url, assets=video.assets)
    kept = video.undeliverable_url if isinstance(video, VideoFailed) else None
    return attrs.evolve(
        outcome, kind=OutcomeKind.FAILED, video_url=None, assets=(), error=video.error, undeliverable_url=kept
    )


def resume_abandoned(work: Abandoned, now_ms: int, policy: DeliveryPolicy) -> OutboxEntry | GiveUp:
    """Decide about a job that a worker of another kind completed and abandoned around the send.

    That worker sent without a reference, so no channel can be asked: `DeliveryPolicy.on_unknown` decides.
    """
    entry = attrs.evolve(
        open_outbox(work.job, deliverable(work.outcome), policy), deadline_ms=now_ms + round(policy.deadline_s * 1000)
    )
    if policy.on_unknown is OnUnknown.AT_MOST_ONCE:
        return GiveUp(entry, own("another worker died around the send, and the policy is at most once"))
    # That was one send of unknown fate.
    entry = attrs.evolve(entry, unknowns=1)
    return GiveUp(entry, _unknown(entry)) if policy.unknown_attempts == 1 else entry


def resume_delivery(entry: OutboxEntry, now_ms: int, *, taken_over: bool) -> OutboxEntry:
    """Return a stored entry as this worker goes on with it.

    Args:
        entry: The entry as it is stored.
        now_ms: The current time.
        taken_over: Whether its lease expired in the hands of another worker. If that worker
            had noted a send and was cut off from Redis, it may have begun it as late as its
            lease ended: the message has its time to show up from now on.
    """
    outcome = deliverable(entry.outcome)
    if outcome.success is not entry.outcome.success:
        entry = attrs.evolve(entry, outcome=outcome, form=MessageForm.TEXT)
    if taken_over and entry.sending_ms is not None:
        entry = attrs.evolve(entry, sending_ms=max(entry.sending_ms, now_ms))
        entry = entry.noting(own("a worker died around this send"))
    return entry


def next_delivery_action(
    entry: OutboxEntry, now_ms: int, policy: DeliveryPolicy, *, fresh: bool = False
) -> Send | GetLink | LookUp | GiveUp:
    """Decide about a delivery that is due.

    The deadline is checked after a send that failed, not here: if no worker was running, or all slots
    hung, one last send is still made before a video becomes a dead letter.

    Args:
        entry: The entry as it is stored.
        now_ms: The current time.
        policy: How hard to try.
        fresh: Whether its link was asked for just now.
    """
    if entry.sending_ms is not None:
        return LookUp(entry)
    if entry.tries >= policy.max_attempts:
        return _used_up(entry)
    match next_link_step(entry.outcome, now_ms, fresh=fresh):
        case LinkStep.ASK_AGAIN:
            return GetLink(entry)
        case LinkStep.PUBLISH:
            return GetLink(entry, locked_video(entry.outcome.assets))
        case LinkStep.TOO_LATE:
            entry = _without_video(entry, own("the link to the video had ended before it could be sent"))
        case LinkStep.NOTHING:
            pass
    return _begin(entry, now_ms)


def _begin(entry: OutboxEntry, now_ms: int) -> Send:
    begun_ms = now_ms if entry.begun_ms is None else entry.begun_ms
    return Send(attrs.evolve(entry, tries=entry.tries + 1, sending_ms=now_ms, begun_ms=begun_ms, lookups=0))


def after_link(
    entry: OutboxEntry, answer: Observation, now_ms: int, policy: DeliveryPolicy, fraction: float = 0.5
) -> DeliveryAction:
    """Decide what follows the attempt to get a link.

    A link that still lives is sent as it is if there is no better one. Otherwise a fault is
    tried again, within the delivery's limits. That there is no video any more is believed
    of an API that says so at the second try in a row: it may be in the middle of a deployment.

    Args:
        entry: The entry as it is stored.
        answer: What the API, or the publisher, answered.
        now_ms: When it answered.
        policy: How hard to try.
        fraction: A random number from 0 to 1, for the jitter.
    """
    if isinstance(answer, VideoReady):
        entry = attrs.evolve(entry, outcome=_with_link(entry.outcome, answer, now_ms), lookups=0)
        return next_delivery_action(entry, now_ms, policy, fresh=True)
    if link_lives(entry.outcome, now_ms):
        return next_delivery_action(entry, now_ms, policy, fresh=True)
    if isinstance(answer, NotAsked):
        return Later(entry, now_ms + round(answer.wait_s * 1000))
    tries = entry.lookups + 1
    wait_s: float | None = None
    reason: str = own("the video API calls a video unfinished that it called finished before")
    match answer:
        case VideoFailed(error, reason=why):
            return next_delivery_action(_without_video(entry, error, why), now_ms, policy)
        case VideoMissing():
            reason = own("the video API does not know the job any more")
            if entry.lookups:
                return next_delivery_action(_without_video(entry, reason, FailureReason.EXPIRED), now_ms, policy)
        case Fault():
            reason, wait_s = answer.detail, answer.retry_after_s
        case VideoWorking():
            pass
        case _:
            assert_never(answer)
    entry = attrs.evolve(entry.noting(reason), lookups=tries)
    if tries >= policy.max_attempts or (now_ms >= entry.deadline_ms and tries >= LAST_TRIES):
        told = joined("there was no link to the video in time", reason)
        return next_delivery_action(_without_video(entry, told), now_ms, policy)
    wait_ms = jittered_ms(policy.backoff_s(entry.lookups - 1) * 1000, policy.jitter, fraction)
    return Later(entry, now_ms + max(wait_ms, round(min(wait_s or 0, policy.max_retry_after_s) * 1000)))


def _with_link(outcome: Outcome, ready: VideoReady, now_ms: int) -> Outcome:
    """Return an outcome with the link, or links, that were just given for it.

    A published link stands before what it was made of, which can be published again when it ends.
    """
    assets = dated(ready.assets, now_ms)
    if locked_video(outcome.assets) is not None and locked_video(assets) is None:
        kept = (
            one for one in outcome.assets if one.kind is not AssetKind.VIDEO or not isinstance(one.place, PublicLink)
        )
        assets = (*assets, *kept)
    return attrs.evolve(outcome, video_url=None, assets=assets)


def _without_video(entry: OutboxEntry, error: str, reason: FailureReason = FailureReason.UNKNOWN) -> OutboxEntry:
    """Return an entry whose user is told that there is no video; where it was is kept for the operator."""
    outcome = entry.outcome
    locked, kept = locked_video(outcome.assets), outcome.video_url
    if kept is not None and reason is FailureReason.UNKNOWN:
        # There was a link that worked.
        reason = FailureReason.EXPIRED
    if locked is not None:
        place = locked.place
        kept = place.uri if isinstance(place, BucketObject) else place.url.partition("?")[0]
    told = attrs.evolve(
        outcome,
        kind=OutcomeKind.FAILED,
        video_url=None,
        assets=(),
        refreshable=False,
        error=error,
        reason=reason,
        undeliverable_url=kept,
    )
    return attrs.evolve(_as_text(entry), outcome=told)


def after_send(
    entry: OutboxEntry, receipt: Receipt, now_ms: int, policy: DeliveryPolicy, fraction: float = 0.5
) -> DeliveryAction:
    """Decide what follows the receipt of a send that was begun with `entry`."""
    if receipt.prepared is not None:
        entry = attrs.evolve(entry, prepared=receipt.prepared)
    match receipt:
        case Accepted():
            return Watch(_fate_known(entry), receipt)
        case Delivered():
            return Done(_fate_known(entry), receipt)
        case NotSent(reason, hint_s, counts, channel_fault):
            failed = counts and channel_fault and not _repeats(entry)
            entry = attrs.evolve(
                _unsent(entry.noting(reason), counts=counts), form_failures=entry.form_failures + failed
            )
            # What the channel or this worker held back was no send: it may still become one for a while.
            grace_s = 0 if counts else policy.max_retry_after_s
            return _try_again(entry, hint_s, now_ms, policy, fraction, grace_ms=round(grace_s * 1000))
        case Refused(reason, try_text, try_unquoted=try_unquoted, then=then):
            entry = _fate_known(entry.noting(reason))
            if try_unquoted and not entry.unquoted:
                return next_delivery_action(attrs.evolve(entry, unquoted=True), now_ms, policy)
            return _refused(entry, reason, now_ms, policy, then=then, try_text=try_text)
        case Unknown(reason):
            # From now on its fate is unknown: that is when the wait for it to show up begins.
            entry = attrs.evolve(entry.noting(reason), sending_ms=now_ms)
            return Later(entry, now_ms + round(policy.backoff_base_s * 1000))
        case _:
            assert_never(receipt)


def after_no_place(entry: OutboxEntry, turn_s: float, now_ms: int) -> Later:
    """Wait for a place among those of the account, for which the send of `entry` did not begin.

    However long that takes, the message is sent once it has one: the deadline is judged after a send.
    """
    return Later(_unsent(entry, counts=False), now_ms + round(turn_s * 1000))


def after_lookup(
    entry: OutboxEntry,
    result: LookupAnswer,
    now_ms: int,
    policy: DeliveryPolicy,
    fraction: float = 0.5,
    *,
    shows: bool = False,
    took_ms: int = 0,
) -> DeliveryAction:
    """Decide what follows the look-up of a message whose send is of unknown fate.

    Args:
        entry: The entry as it is stored.
        result: What the channel answered.
        now_ms: When it answered.
        policy: How hard to try.
        fraction: A random number from 0 to 1, for the jitter.
        shows: Whether the channel has shown a message to this worker before: then its "not there" is believed more often.
        took_ms: How long the answer took: "not there" may be as old.
    """
    match result:
        case LookupResult.FOUND:
            return after_lookup(entry, Found(), now_ms, policy)
        case Found():
            return _found(_fate_known(entry), result)
        case LookupResult.FAILED:
            # It had taken the quote as well, and may have failed for that.
            failed = Failed(own("the channel took the message and could not send it"))
            return after_lookup(attrs.evolve(entry, unquoted=True), failed, now_ms, policy)
        case Failed(reason, then=then, try_text=try_text):
            return _refused(_fate_known(entry.noting(reason)), reason, now_ms, policy, then=then, try_text=try_text)
        case RepeatSafe(within_s):
            safe = policy.repeat_safely and _age_ms(entry, now_ms) < within_s * 1000
            return _repeat(entry, now_ms, policy) if safe else _cannot_tell(entry, now_ms, policy)
        case LookupResult.ABSENT:
            limit = policy.unknown_attempts * (BELIEVED if shows else 1)
            return _send_again(entry, policy.appear_within_s, now_ms, policy, limit, took_ms=took_ms)
        case LookupResult.CANNOT_TELL:
            return _cannot_tell(entry, now_ms, policy)
        case LookupResult.NO_ANSWER:
            if now_ms >= entry.deadline_ms:
                return GiveUp(entry, own("nobody can say whether the message went out: the channel does not answer"))
            wait_ms = jittered_ms(policy.backoff_s(entry.lookups) * 1000, policy.jitter, fraction)
            return Later(attrs.evolve(entry, lookups=entry.lookups + 1), now_ms + wait_ms)
        case _:
            assert_never(result)


def _cannot_tell(entry: OutboxEntry, now_ms: int, policy: DeliveryPolicy) -> DeliveryAction:
    # Without a try of its own it was redriven: a person has seen that it may have gone out.
    if policy.on_unknown is OnUnknown.AT_MOST_ONCE and entry.tries:
        return GiveUp(entry, own("nobody can say whether the message went out, and the policy is at most once"))
    if now_ms >= entry.deadline_ms and entry.tries:
        # The last send is made for what surely did not go out.
        entry = attrs.evolve(entry, unknowns=entry.unknowns + 1)
        return GiveUp(entry, _unknown(entry))
    return _send_again(entry, 0, now_ms, policy, policy.unknown_attempts)


def _age_ms(entry: OutboxEntry, now_ms: int) -> int:
    """Return for how long the send may have been under way whose fate is unknown, or the first that it repeats."""
    began_ms = entry.sending_ms if entry.begun_ms is None else entry.begun_ms
    return now_ms - (now_ms if began_ms is None else began_ms)


def _repeat(entry: OutboxEntry, now_ms: int, policy: DeliveryPolicy) -> DeliveryAction:
    """Send the same message again, in the same form, to a channel that makes one message of both.

    The deadline is no limit to that: it is how the fate of the first is learnt.
    """
    unknowns = entry.unknowns + (entry.tries > 0)
    if unknowns >= policy.unknown_attempts or entry.tries >= policy.max_attempts:
        entry = attrs.evolve(entry, unknowns=unknowns)
        return GiveUp(entry, _unknown(entry))
    began_ms = entry.sending_ms if entry.begun_ms is None else entry.begun_ms
    return _begin(attrs.evolve(entry, begun_ms=began_ms, unknowns=unknowns), now_ms)


def _found(entry: OutboxEntry, found: Found) -> Watch | Done:
    detail = own("found at the channel")
    if found.accepted:
        return Watch(entry, Accepted(found.message_id, detail, found.form))
    return Done(entry, Delivered(found.message_id, detail, found.form))


def _send_again(
    entry: OutboxEntry, patience_s: float, now_ms: int, policy: DeliveryPolicy, limit: int, *, took_ms: int = 0
) -> DeliveryAction:
    """Send again a message the channel still does not list `patience_s` after the send.

    A channel whose replies are lost every time must not get a message every few
    seconds, so the wait grows here too, and the last send is a text. Such sends have
    a budget of their own, even if the channel lists none of them: its list may be wrong.
    """
    patience_s = max(patience_s, policy.backoff_s(max(0, entry.tries - 1)))
    left_ms = (entry.sending_ms or now_ms) + round(patience_s * 1000) - (now_ms - took_ms)
    if left_ms > 0:
        wait_ms = min(left_ms, round(policy.backoff_s(entry.lookups) * 1000))
        return Later(attrs.evolve(entry, lookups=entry.lookups + 1), now_ms + wait_ms)
    # Without a try of its own it was redriven: that send was counted before.
    unknowns = entry.unknowns + (entry.tries > 0)
    if unknowns >= limit:
        # With its mark: a redrive has to know that its fate is unknown.
        entry = attrs.evolve(entry, unknowns=unknowns)
        return GiveUp(entry, _unknown(entry))
    entry = attrs.evolve(_fate_known(entry), lookups=0, form_failures=entry.form_failures + 1, unknowns=unknowns)
    as_text = _no_more_videos(entry, policy) or (_may_go_as_text(entry) and unknowns == limit - 1)
    return next_delivery_action(_as_text(entry) if as_text else entry, now_ms, policy)


def _no_more_videos(entry: OutboxEntry, policy: DeliveryPolicy) -> bool:
    # The last send of all is a text, also where the host allows fewer sends than videos.
    spent = entry.form_failures >= policy.video_attempts or entry.tries == policy.max_attempts - 1
    return _may_go_as_text(entry) and entry.form_failures > 0 and spent


def _may_go_as_text(entry: OutboxEntry) -> bool:
    return entry.form.has_video and MessageForm.TEXT not in entry.refused_forms


def _try_again(
    entry: OutboxEntry, hint_s: float | None, now_ms: int, policy: DeliveryPolicy, fraction: float, *, grace_ms: int
) -> DeliveryAction:
    last_ms = entry.deadline_ms + grace_ms
    repeats = entry.sending_ms is not None
    if not repeats and _no_more_videos(entry, policy):
        entry = _as_text(entry)
        if hint_s is None:
            return next_delivery_action(entry, now_ms, policy)
        # The text is the last send, if the video was due at the deadline; and the channel asked for a wait.
        last_ms = max(last_ms, now_ms + round(policy.max_retry_after_s * 1000))
    if entry.tries >= policy.max_attempts:
        return _used_up(entry)
    if now_ms >= last_ms and not repeats:
        return GiveUp(entry, _with_last_reason(f"not delivered within {policy.deadline_s:g} s", entry))
    wait_ms = jittered_ms(policy.backoff_s(max(0, entry.tries - 1)) * 1000, policy.jitter, fraction)
    if hint_s is not None:
        # Never shorter, but spread: many may have got the same hint.
        hint_ms = min(hint_s, policy.max_retry_after_s) * 1000
        wait_ms = max(wait_ms, round(hint_ms * (1 + policy.jitter * fraction)))
    return Later(entry, now_ms + wait_ms if repeats else min(now_ms + wait_ms, last_ms))


def _refused(
    entry: OutboxEntry,
    reason: str,
    now_ms: int,
    policy: DeliveryPolicy,
    *,
    then: MessageForm | None,
    try_text: bool,
) -> DeliveryAction:
    """Send the message in the form that the channel names, or as a text; none that it has refused is tried again."""
    refused = entry.refused_forms | {entry.form}
    entry = attrs.evolve(entry, refused_forms=refused)
    text = MessageForm.TEXT if try_text and MessageForm.TEXT not in refused else None
    if then in refused or (then and then.has_video and not entry.outcome.success):
        then = None
    # The last send of all is a text, if that may go through.
    following = text or then if entry.tries == policy.max_attempts - 1 else then or text
    if following is not None:
        return next_delivery_action(attrs.evolve(entry, form=following, form_failures=0), now_ms, policy)
    return GiveUp(entry, joined("refused by the channel", reason))


def _repeats(entry: OutboxEntry) -> bool:
    """Whether the send that is under way repeats one of unknown fate."""
    return entry.begun_ms is not None and entry.begun_ms != entry.sending_ms


def _unsent(entry: OutboxEntry, *, counts: bool) -> OutboxEntry:
    """Return an entry whose last send surely did not go out; `counts` is whether it was a try.

    If that was a repeat, the fate of the first send is as unknown as before. It was counted when it was
    repeated, and is counted when it is repeated again.
    """
    repeats = _repeats(entry)
    return attrs.evolve(
        entry if repeats else _fate_known(entry),
        unknowns=max(0, entry.unknowns - repeats),
        tries=entry.tries if counts else entry.tries - 1,
    )


def _fate_known(entry: OutboxEntry) -> OutboxEntry:
    """Return an entry without a send under way."""
    return attrs.evolve(entry, sending_ms=None, begun_ms=None)


def _as_text(entry: OutboxEntry) -> OutboxEntry:
    return attrs.evolve(entry, form=MessageForm.TEXT, form_failures=0)


def _unknown(entry: OutboxEntry) -> str:
    """Return why a message of unknown fate is not sent again."""
    sends = "1 send" if entry.unknowns == 1 else f"{entry.unknowns} sends"
    said = f"nobody can say whether the message went out, after {sends}: the user may have it already"
    return joined(f"{said}; the last reason", entry.reasons[-1]) if entry.reasons else own(said)


def _used_up(entry: OutboxEntry) -> GiveUp:
    if entry.sending_ms is not None:
        entry = attrs.evolve(entry, unknowns=entry.unknowns + 1)
        return GiveUp(entry, _unknown(entry))
    return GiveUp(entry, _with_last_reason(f"{entry.tries} sends failed", entry))


def _with_last_reason(said: str, entry: OutboxEntry) -> str:
    return joined(said, entry.reasons[-1]) if entry.reasons else own(said)
