"""Every judgement about a job, as pure functions.

Reads no clock and opens no connection: time comes in Unix milliseconds of
Redis's clock, randomness as a number from 0 to 1. Besides the guards in the Lua
scripts, this is the only place that branches on what state a job is in. The
runners carry out what is decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, assert_never

import attrs

from videopoll._reasons import joined, own
from videopoll.jobs.outcome import MessageForm, OutboxEntry, Outcome, OutcomeKind
from videopoll.jobs.urls import readied_url
from videopoll.messages import Delivered, LookupResult, NotSent, Receipt, Refused, Unknown
from videopoll.observations import (
    Fault,
    FaultKind,
    Observation,
    VideoFailed,
    VideoMissing,
    VideoReady,
    VideoWorking,
    checked_video,
)
from videopoll.policies import OnUnknown

if TYPE_CHECKING:
    from videopoll.jobs.job import VideoJob
    from videopoll.jobs.transition import Abandoned, PollWork
    from videopoll.policies import DeliveryPolicy, PollingStrategy

__all__ = [
    "Ask",
    "Done",
    "Find",
    "GiveUp",
    "Later",
    "NextPoll",
    "Send",
    "after_find",
    "after_send",
    "before_poll",
    "decide",
    "deliverable",
    "next_delivery_step",
    "open_outbox",
    "resume_abandoned",
]

BELIEVED = 4
"""How many times the budget of unknown fates a channel has that is known to show its messages, and does not show this one."""

SHORTEST_REQUEST_S = 1.0
"""A poll that starts just before the deadline still gets this long."""


# --- polling --------------------------------------------------------------------------------------


@attrs.frozen
class Ask:
    """Poll the video API, and take no longer than `timeout_s`."""

    timeout_s: float


@attrs.frozen
class NextPoll:
    """Poll again at `due_ms`; remember the faults in a row, the last answer, and since when it is in doubt or missing."""

    due_ms: int
    faults: int = 0
    last_answer_ms: int | None = None
    doubt_ms: int | None = None
    missing_ms: int | None = None


def before_poll(
    work: PollWork, now_ms: int, strategy: PollingStrategy, *, due_ms: int = 0, place: bool = True
) -> Ask | Outcome:
    """Judge a job whose poll is due: ask, or end it because a limit is reached.

    The deadline is checked first. At the deadline one last poll is made, if there is a
    place for it and the last answer is older than an interval: a video that was ready is
    not thrown away. After a fault of that poll one more is made. All that is over an
    interval and the time of a request after the deadline.

    Args:
        work: The job and its counters, this poll included.
        now_ms: What time it is.
        strategy: The host's polling strategy.
        due_ms: When this poll was due; for a job that was taken over, until when
            the earlier poll may have gone on.
        place: Whether there is a place for a poll.
    """
    deadline_ms = _deadline_ms(work.job, strategy)
    if not place:
        return _timed_out(now_ms, strategy)
    if now_ms >= deadline_ms:
        answered_ms = work.last_answer_ms
        # An answer from the future is one from before Redis's clock stepped back: who knows how old it is.
        if answered_ms is not None and 0 <= now_ms - answered_ms < strategy.interval_s * 1000:
            return _timed_out(now_ms, strategy)
        first = due_ms <= deadline_ms
        left_s = (_over_ms(deadline_ms, now_ms if first else due_ms, strategy) - now_ms) / 1000
        if left_s <= 0:
            return _timed_out(now_ms, strategy)
        return Ask(min(strategy.request_timeout_s, max(left_s, SHORTEST_REQUEST_S)))
    left_s = (deadline_ms - now_ms) / 1000
    if work.attempts > strategy.max_attempts:
        return Outcome(OutcomeKind.ATTEMPTS_EXHAUSTED, now_ms, error=own("Max polling attempts exceeded"))
    return Ask(min(strategy.request_timeout_s, max(left_s, SHORTEST_REQUEST_S)))


def decide(  # noqa: PLR0917 - the five values that a judgement depends on, and chance
    work: PollWork, due_ms: int, observation: Observation, now_ms: int, strategy: PollingStrategy, draw: float = 0.5
) -> NextPoll | Outcome:
    """Judge one observation of one job.

    Args:
        work: The job and its counters, this poll included.
        due_ms: When this poll was due.
        observation: What the API said.
        now_ms: When it said so.
        strategy: The host's polling strategy.
        draw: A random number from 0 to 1, for the jitter.
    """
    match observation:
        case VideoReady(video_url, file_id, timestamp):
            return Outcome(OutcomeKind.COMPLETED, now_ms, video_url=video_url, file_id=file_id, timestamp=timestamp)
        case VideoFailed(error, undeliverable_url):
            return Outcome(OutcomeKind.FAILED, now_ms, error=error, undeliverable_url=undeliverable_url)
        case VideoMissing():
            return _after_missing(work, due_ms, now_ms, strategy, draw)
        case VideoWorking(error=str(error)):
            # An answer that is about to end the job is believed when it is given twice, an interval apart.
            doubt_ms = now_ms if work.doubt_ms is None else min(work.doubt_ms, now_ms)
            again_ms = doubt_ms + round(strategy.interval_s * 1000)
            if (work.doubt_ms is not None and now_ms >= again_ms) or now_ms >= _deadline_ms(work.job, strategy):
                return Outcome(OutcomeKind.FAILED, now_ms, error=error)
            return _after_answer(work, again_ms, now_ms, strategy, doubt_ms=doubt_ms)
        case VideoWorking(_, _, hint_s):
            next_ms = max(due_ms + _interval_ms(strategy, draw), now_ms + _hint_ms(hint_s, strategy))
            return _after_answer(work, next_ms, now_ms, strategy)
        case Fault():
            return _after_fault(work, due_ms, observation, now_ms, strategy, draw)
        case _:
            assert_never(observation)


def _after_missing(
    work: PollWork, due_ms: int, now_ms: int, strategy: PollingStrategy, draw: float
) -> NextPoll | Outcome:
    """Judge a job that the API does not know: not there yet, forgotten for a moment, or gone.

    An API that has known a job is believed at the second time in a row, an interval after the
    first: it may be in the middle of a deployment. One that never did, when the grace is over.
    """
    missing_ms = now_ms if work.missing_ms is None else min(work.missing_ms, now_ms)
    again_ms = missing_ms + round(strategy.interval_s * 1000)
    said_again = work.missing_ms is not None and now_ms >= again_ms
    never_known = work.missing_ms is None and not work.known
    if (said_again or never_known) and now_ms - work.job.start_ms >= strategy.not_found_grace_s * 1000:
        return Outcome(OutcomeKind.NOT_FOUND, now_ms, error=own("Job not found on video API"))
    next_ms = due_ms + _interval_ms(strategy, draw)
    if now_ms < again_ms:
        next_ms = max(next_ms, again_ms)
    return _after_answer(work, next_ms, now_ms, strategy, missing_ms=missing_ms)


def _after_answer(
    work: PollWork,
    next_ms: int,
    now_ms: int,
    strategy: PollingStrategy,
    *,
    doubt_ms: int | None = None,
    missing_ms: int | None = None,
) -> NextPoll | Outcome:
    deadline_ms = _deadline_ms(work.job, strategy)
    if now_ms >= deadline_ms:
        return _timed_out(now_ms, strategy)
    next_ms = min(max(next_ms, now_ms), deadline_ms)
    return NextPoll(next_ms, last_answer_ms=now_ms, doubt_ms=doubt_ms, missing_ms=missing_ms)


def _after_fault(  # noqa: PLR0917 - what a judgement depends on
    work: PollWork, due_ms: int, fault: Fault, now_ms: int, strategy: PollingStrategy, draw: float
) -> NextPoll | Outcome:
    deadline_ms = _deadline_ms(work.job, strategy)
    # A hint can only lengthen the wait: "Retry-After: 0" must not burn the attempts.
    wait_ms = max(
        _jittered(strategy.backoff_s(work.faults) * 1000, strategy.jitter, draw),
        _hint_ms(fault.retry_after_s, strategy),
    )
    if now_ms < deadline_ms:
        next_ms = min(now_ms + wait_ms, deadline_ms)
    elif due_ms > deadline_ms or fault.kind is FaultKind.THROTTLED:
        # That was the last one of all; or this worker polls nothing for a while.
        return _timed_out(now_ms, strategy)
    else:
        # Half of the time that is left for the wait, half for the answer.
        left_ms = _over_ms(deadline_ms, now_ms, strategy) - now_ms
        next_ms = max(now_ms + min(wait_ms, left_ms // 2), deadline_ms + 1)
    return NextPoll(next_ms, work.faults + 1, work.last_answer_ms, work.doubt_ms, work.missing_ms)


def _over_ms(deadline_ms: int, met_ms: int, strategy: PollingStrategy) -> int:
    """When the polling of a job is over at last, which was met at `met_ms`, past its deadline.

    In good time, if somebody lived to keep it; otherwise it has the time of one request.
    """
    request_ms = round(strategy.request_timeout_s * 1000)
    over_ms = deadline_ms + round(strategy.interval_s * 1000) + request_ms
    return over_ms if met_ms < over_ms else met_ms + request_ms


def _deadline_ms(job: VideoJob, strategy: PollingStrategy) -> int:
    return job.start_ms + round(strategy.timeout_s * 1000)


def _interval_ms(strategy: PollingStrategy, draw: float) -> int:
    return _jittered(strategy.interval_s * 1000, strategy.jitter, draw)


def _jittered(wait_ms: float, jitter: float, draw: float) -> int:
    return round(wait_ms * (1 + jitter * (2 * draw - 1)))


def _hint_ms(hint_s: float | None, strategy: PollingStrategy) -> int:
    return 0 if hint_s is None else round(min(hint_s, strategy.max_retry_after_s) * 1000)


def _timed_out(now_ms: int, strategy: PollingStrategy) -> Outcome:
    minutes = strategy.timeout_s / 60
    count, unit = (minutes, "minute") if minutes >= 1 else (strategy.timeout_s, "second")
    span = f"{count:g} {unit}" + ("" if count == 1 else "s")
    return Outcome(OutcomeKind.TIMED_OUT, now_ms, error=own(f"Video generation timeout: Process exceeded {span}"))


# --- delivering -----------------------------------------------------------------------------------


@attrs.frozen
class Send:
    """Send the entry's message now, in its form; the entry is to be stored first."""

    entry: OutboxEntry


@attrs.frozen
class Find:
    """Ask the channel what became of the last send."""

    entry: OutboxEntry


@attrs.frozen
class Later:
    """Put the delivery back until `due_ms`."""

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


DeliveryStep: TypeAlias = Send | Find | Later | Done | GiveUp
"""All that can come next in a delivery."""


def open_outbox(job: VideoJob, outcome: Outcome, policy: DeliveryPolicy) -> OutboxEntry:
    """Give the delivery of an outcome its start: nothing tried yet."""
    return OutboxEntry(
        job=job,
        outcome=outcome,
        form=MessageForm.VIDEO if outcome.success else MessageForm.TEXT,
        deadline_ms=outcome.at_ms + round(policy.deadline_s * 1000),
    )


def deliverable(outcome: Outcome) -> Outcome:
    """Return the outcome if it may be sent: a video whose link must not go out is one that failed.

    Ours are checked before they are stored. Other kinds of workers and earlier versions store what they
    like, and not every channel looks at a link.
    """
    if not outcome.success or readied_url(outcome.video_url) == outcome.video_url:
        return outcome
    video = checked_video(outcome.video_url, file_id=outcome.file_id, timestamp=outcome.timestamp)
    if isinstance(video, VideoReady):
        return attrs.evolve(outcome, video_url=video.video_url)
    kept = video.undeliverable_url if isinstance(video, VideoFailed) else None
    return attrs.evolve(outcome, kind=OutcomeKind.FAILED, video_url=None, error=video.error, undeliverable_url=kept)


def resume_abandoned(work: Abandoned, now_ms: int, policy: DeliveryPolicy) -> OutboxEntry | GiveUp:
    """Judge a job that another kind of worker completed and left around the send.

    That worker sent without a reference, so no channel can be asked: the host's choice decides.
    """
    entry = attrs.evolve(
        open_outbox(work.job, deliverable(work.outcome), policy), deadline_ms=now_ms + round(policy.deadline_s * 1000)
    )
    if policy.on_unknown is OnUnknown.AT_MOST_ONCE:
        return GiveUp(entry, own("another worker died around the send, and the policy is at most once"))
    # That was one send of unknown fate.
    entry = attrs.evolve(entry, unknowns=1)
    return GiveUp(entry, _unknown(entry)) if policy.unknown_attempts == 1 else entry


def next_delivery_step(entry: OutboxEntry, now_ms: int, policy: DeliveryPolicy) -> Send | Find | GiveUp:
    """Judge a delivery that is due.

    The deadline does not act here, but after a send that failed: whatever happened until now (no worker
    lived, all places hung), the last send is made before a video becomes a dead letter.
    """
    if entry.sending_ms is not None:
        return Find(entry)
    if entry.tries >= policy.max_attempts:
        return _used_up(entry)
    return Send(attrs.evolve(entry, tries=entry.tries + 1, sending_ms=now_ms, finds=0))


def after_send(
    entry: OutboxEntry, receipt: Receipt, now_ms: int, policy: DeliveryPolicy, draw: float = 0.5
) -> DeliveryStep:
    """Judge what became of a send that was begun with `entry`."""
    match receipt:
        case Delivered():
            return Done(attrs.evolve(entry, sending_ms=None), receipt)
        case NotSent(reason, hint_s, counts, channel_fault):
            entry = attrs.evolve(
                entry.noting(reason),
                sending_ms=None,
                tries=entry.tries if counts else entry.tries - 1,
                form_failures=entry.form_failures + (counts and channel_fault),
            )
            # What the channel or this worker held back was no send: it may still become one for a while.
            grace_s = 0 if counts else policy.max_retry_after_s
            return _try_again(entry, hint_s, now_ms, policy, draw, grace_ms=round(grace_s * 1000))
        case Refused(reason, try_text, try_unquoted=try_unquoted):
            entry = attrs.evolve(entry.noting(reason), sending_ms=None)
            if try_unquoted and not entry.unquoted:
                return next_delivery_step(attrs.evolve(entry, unquoted=True), now_ms, policy)
            return _refused(entry, reason, now_ms, policy, try_text=try_text)
        case Unknown(reason):
            # From now on its fate is unknown: that is when the wait for it to show up begins.
            entry = attrs.evolve(entry.noting(reason), sending_ms=now_ms)
            return Later(entry, now_ms + round(policy.backoff_base_s * 1000))
        case _:
            assert_never(receipt)


def after_find(
    entry: OutboxEntry,
    sighting: LookupResult,
    now_ms: int,
    policy: DeliveryPolicy,
    draw: float = 0.5,
    *,
    shows: bool = False,
) -> DeliveryStep:
    """Judge what the channel said about a send whose fate was unknown.

    `shows` tells whether it has shown a message to this worker before: then it is
    believed more often that it does not have one.
    """
    match sighting:
        case LookupResult.FOUND:
            found = Delivered(detail=own("found at the channel"))
            return Done(attrs.evolve(entry, sending_ms=None), found)
        case LookupResult.FAILED:
            reason = own("the channel took the message and could not send it")
            # It had taken the quote as well, and may have failed for that.
            entry = attrs.evolve(entry.noting(reason), sending_ms=None, unquoted=True)
            return _refused(entry, reason, now_ms, policy, try_text=True)
        case LookupResult.ABSENT:
            limit = policy.unknown_attempts * (BELIEVED if shows else 1)
            return _send_again(entry, policy.appear_within_s, now_ms, policy, limit)
        case LookupResult.CANNOT_TELL:
            # Without a try of its own it was redriven: a person has seen that it may have gone out.
            if policy.on_unknown is OnUnknown.AT_MOST_ONCE and entry.tries:
                return GiveUp(entry, own("nobody can say whether the message went out, and the policy is at most once"))
            if now_ms >= entry.deadline_ms and entry.tries:
                # The last send is made for what surely did not go out.
                entry = attrs.evolve(entry, unknowns=entry.unknowns + 1)
                return GiveUp(entry, _unknown(entry))
            return _send_again(entry, 0, now_ms, policy, policy.unknown_attempts)
        case LookupResult.NO_ANSWER:
            if now_ms >= entry.deadline_ms:
                return GiveUp(entry, own("nobody can say whether the message went out: the channel does not answer"))
            wait_ms = _jittered(policy.backoff_s(entry.finds) * 1000, policy.jitter, draw)
            return Later(attrs.evolve(entry, finds=entry.finds + 1), now_ms + wait_ms)
        case _:
            assert_never(sighting)


def _send_again(entry: OutboxEntry, patience_s: float, now_ms: int, policy: DeliveryPolicy, limit: int) -> DeliveryStep:
    """Send what the channel does not show, once it has had `patience_s` since the send.

    A channel whose replies are lost every time must not get a message every few
    seconds, so the wait grows here too; and its video is turned into a text in the end.
    Such sends have a budget of their own, also where the channel shows none of them:
    it may be its list that is wrong.
    """
    patience_s = max(patience_s, policy.backoff_s(max(0, entry.tries - 1)))
    left_ms = (entry.sending_ms or now_ms) + round(patience_s * 1000) - now_ms
    if left_ms > 0:
        wait_ms = min(left_ms, round(policy.backoff_s(entry.finds) * 1000))
        return Later(attrs.evolve(entry, finds=entry.finds + 1), now_ms + wait_ms)
    # Without a try of its own it was redriven: that send was counted before.
    unknowns = entry.unknowns + (entry.tries > 0)
    if unknowns >= limit:
        # With its mark: a redrive has to know that its fate is unknown.
        entry = attrs.evolve(entry, unknowns=unknowns)
        return GiveUp(entry, _unknown(entry))
    entry = attrs.evolve(entry, sending_ms=None, form_failures=entry.form_failures + 1, unknowns=unknowns)
    as_text = _no_more_videos(entry, policy) or (entry.form is MessageForm.VIDEO and unknowns == limit - 1)
    return next_delivery_step(_as_text(entry) if as_text else entry, now_ms, policy)


def _no_more_videos(entry: OutboxEntry, policy: DeliveryPolicy) -> bool:
    # The last send of all is a text, also where the host allows fewer sends than videos.
    spent = entry.form_failures >= policy.video_attempts or entry.tries == policy.max_attempts - 1
    return entry.form is MessageForm.VIDEO and entry.form_failures > 0 and spent


def _try_again(
    entry: OutboxEntry, hint_s: float | None, now_ms: int, policy: DeliveryPolicy, draw: float, *, grace_ms: int
) -> DeliveryStep:
    last_ms = entry.deadline_ms + grace_ms
    if _no_more_videos(entry, policy):
        entry = _as_text(entry)
        if hint_s is None:
            return next_delivery_step(entry, now_ms, policy)
        # The text is the last send, if the video was due at the deadline; and the channel asked for a wait.
        last_ms = max(last_ms, now_ms + round(policy.max_retry_after_s * 1000))
    if entry.tries >= policy.max_attempts:
        return _used_up(entry)
    if now_ms >= last_ms:
        return GiveUp(entry, _with_last_reason(f"not delivered within {policy.deadline_s:g} s", entry))
    wait_ms = _jittered(policy.backoff_s(max(0, entry.tries - 1)) * 1000, policy.jitter, draw)
    if hint_s is not None:
        # Never shorter, but not all of those at once that were told the same.
        hint_ms = min(hint_s, policy.max_retry_after_s) * 1000
        wait_ms = max(wait_ms, round(hint_ms * (1 + policy.jitter * draw)))
    return Later(entry, min(now_ms + wait_ms, last_ms))


def _refused(entry: OutboxEntry, reason: str, now_ms: int, policy: DeliveryPolicy, *, try_text: bool) -> DeliveryStep:
    if entry.form is MessageForm.VIDEO and try_text:
        return next_delivery_step(_as_text(entry), now_ms, policy)
    return GiveUp(entry, joined("refused by the channel", reason))


def _as_text(entry: OutboxEntry) -> OutboxEntry:
    return attrs.evolve(entry, form=MessageForm.TEXT, form_failures=0)


def _unknown(entry: OutboxEntry) -> str:
    """Return why a message whose fate nobody can learn is not sent again."""
    sends = "1 send" if entry.unknowns == 1 else f"{entry.unknowns} sends"
    said = f"nobody can say whether the message went out, after {sends}: the user may have it already"
    return joined(f"{said}; the last reason", entry.reasons[-1]) if entry.reasons else own(said)


def _used_up(entry: OutboxEntry) -> GiveUp:
    return GiveUp(entry, _with_last_reason(f"{entry.tries} sends failed", entry))


def _with_last_reason(said: str, entry: OutboxEntry) -> str:
    return joined(said, entry.reasons[-1]) if entry.reasons else own(said)
