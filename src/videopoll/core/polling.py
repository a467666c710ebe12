"""When to poll a job again, and when its polling ends: pure functions.

Nothing here reads a clock or opens a connection. Time comes in Unix milliseconds
of Redis's clock, chance as a number from 0 to 1. `before_poll` judges a job whose
poll is due, `decide` what the video API answered; the runners carry out what comes
of it. What happens after the last poll is in `videopoll.core.delivery`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import attrs

from videopoll._reasons import own
from videopoll.jobs.outcome import Outcome, OutcomeKind
from videopoll.jobs.video import dated
from videopoll.observations import Answered, Fault, FaultKind, VideoFailed, VideoMissing, VideoReady, VideoWorking
from videopoll.policies import jittered_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from videopoll.jobs.job import VideoJob
    from videopoll.jobs.transition import PollWork
    from videopoll.policies import PollingStrategy

__all__ = ["Ask", "NextPoll", "after_not_asked", "before_poll", "decide", "pause_after", "widest"]

SHORTEST_REQUEST_S = 1.0
"""A poll that starts just before the deadline still gets this many seconds."""


@attrs.frozen
class Ask:
    """Poll the video API, within `timeout_s` seconds."""

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
    work: PollWork, now_ms: int, strategy: PollingStrategy, *, due_ms: int = 0, slot: bool = True
) -> Ask | Outcome:
    """Decide about a job whose poll is due: poll it, or end it because a limit is reached.

    The deadline is checked first. At the deadline one last poll is made, if there is a
    slot for it and the last answer is older than an interval: a video that was ready is
    not thrown away. After a fault of that poll one more is made. All polling is over one
    interval plus one request timeout after the deadline.

    Args:
        work: The job and its counters, this poll included.
        now_ms: The current time.
        strategy: The host's polling strategy.
        due_ms: When this poll was due. For a job that was taken over: the latest time at
            which its earlier holder may have polled.
        slot: Whether a slot for a poll is free.
    """
    deadline_ms = _deadline_ms(work.job, strategy)
    if not slot:
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
        last = f", the last one by a fault ({work.last_fault})" if work.faults and work.last_fault else ""
        return Outcome(OutcomeKind.ATTEMPTS_EXHAUSTED, now_ms, error=own(f"Max polling attempts exceeded{last}"))
    return Ask(min(strategy.request_timeout_s, max(left_s, SHORTEST_REQUEST_S)))


def decide(  # noqa: PLR0917 - the five values that a judgement depends on, and chance
    work: PollWork,
    due_ms: int,
    observation: Answered,
    now_ms: int,
    strategy: PollingStrategy,
    fraction: float = 0.5,
    *,
    took_ms: int = 0,
) -> NextPoll | Outcome:
    """Decide what follows an observation: the next poll, or the outcome of the job.

    A poll is judged by when it began: whether it was the last one, and what its answer proves.

    Args:
        work: The job and its counters, this poll included.
        due_ms: When this poll was due.
        observation: What the API answered.
        now_ms: When it answered.
        strategy: The host's polling strategy.
        fraction: A random number from 0 to 1, for the jitter.
        took_ms: How long the poll took until then.
    """
    asked_ms = now_ms - took_ms
    match observation:
        case VideoReady():
            return Outcome(
                OutcomeKind.COMPLETED,
                now_ms,
                video_url=observation.video_url,
                file_id=observation.file_id,
                timestamp=observation.timestamp,
                assets=dated(observation.assets, now_ms),
                refreshable=observation.refreshable,
            )
        case VideoFailed(error, undeliverable_url, reason=reason):
            return Outcome(OutcomeKind.FAILED, now_ms, error=error, undeliverable_url=undeliverable_url, reason=reason)
        case VideoMissing():
            return _after_missing(work, due_ms, asked_ms, now_ms, strategy, fraction)
        case VideoWorking(error=str(error)):
            # An answer that is about to end the job is believed when it is given twice, an interval apart.
            doubt_ms = now_ms if work.doubt_ms is None else min(work.doubt_ms, now_ms)
            again_ms = doubt_ms + round(strategy.interval_s * 1000)
            if (work.doubt_ms is not None and asked_ms >= again_ms) or now_ms >= _deadline_ms(work.job, strategy):
                return Outcome(OutcomeKind.FAILED, now_ms, error=error)
            return _after_answer(work, again_ms, now_ms, strategy, doubt_ms=doubt_ms)
        case VideoWorking(_, _, hint_s):
            next_ms = max(due_ms + _interval_ms(strategy, fraction), now_ms + _hint_ms(hint_s, strategy))
            return _after_answer(work, next_ms, now_ms, strategy)
        case Fault():
            return _after_fault(work, due_ms, observation, asked_ms, now_ms, strategy, fraction)
        case _:
            assert_never(observation)


def pause_after(observation: Answered, faults: int, strategy: PollingStrategy) -> float | None:
    """Return the seconds for which this worker must poll nothing after a 429, else None.

    Args:
        observation: What the API answered.
        faults: The faults in a row before it.
        strategy: The host's polling strategy.
    """
    if not isinstance(observation, Fault) or observation.kind is not FaultKind.THROTTLED:
        return None
    hint_s = observation.retry_after_s
    return min(strategy.backoff_s(faults) if hint_s is None else hint_s, strategy.max_retry_after_s)


def after_not_asked(work: PollWork, wait_s: float, now_ms: int, strategy: PollingStrategy) -> int | Outcome:
    """Return when a job is due again that was not asked about, or its end: no pause holds that up.

    Args:
        work: The job and its counters.
        wait_s: Seconds for which its account is left alone.
        now_ms: The current time.
        strategy: The polling strategy of the job.
    """
    deadline_ms = _deadline_ms(work.job, strategy)
    last_ms = deadline_ms + round(strategy.interval_s * 1000)
    if now_ms >= last_ms:
        return _timed_out(now_ms, strategy)
    return min(now_ms + round(wait_s * 1000), deadline_ms if now_ms < deadline_ms else last_ms)


def widest(strategies: Sequence[PollingStrategy]) -> PollingStrategy:
    """Return what a claim goes by for jobs of several strategies: the earliest first poll, the latest end.

    Each job is judged by its own strategy afterwards. One that should have ended, and finds no slot, may wait for
    the latest end; none ends too early.
    """
    first, *others = strategies
    if not others:
        return first
    interval_s = min(one.interval_s for one in strategies)
    return attrs.evolve(
        first,
        interval_s=interval_s,
        timeout_s=max(one.timeout_s + one.interval_s for one in strategies) - interval_s,
        initial_delay_s=min(one.initial_delay_s for one in strategies),
        request_timeout_s=max(one.request_timeout_s for one in strategies),
    )


def _after_missing(  # noqa: PLR0917 - what a judgement depends on
    work: PollWork, due_ms: int, asked_ms: int, now_ms: int, strategy: PollingStrategy, fraction: float
) -> NextPoll | Outcome:
    """Decide about a job that the API does not know: not there yet, missing for a moment, or gone.

    An API that has known the job is believed at the second "not found" in a row, an interval
    after the first: it may be in the middle of a deployment. One that never did is believed
    when the grace period is over.
    """
    missing_ms = now_ms if work.missing_ms is None else min(work.missing_ms, now_ms)
    again_ms = missing_ms + round(strategy.interval_s * 1000)
    said_again = work.missing_ms is not None and asked_ms >= again_ms
    never_known = work.missing_ms is None and not work.known
    if (said_again or never_known) and asked_ms - work.job.start_ms >= strategy.not_found_grace_s * 1000:
        return Outcome(OutcomeKind.NOT_FOUND, now_ms, error=own("Job not found on video API"))
    next_ms = due_ms + _interval_ms(strategy, fraction)
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
    work: PollWork,
    due_ms: int,
    fault: Fault,
    asked_ms: int,
    now_ms: int,
    strategy: PollingStrategy,
    fraction: float,
) -> NextPoll | Outcome:
    deadline_ms = _deadline_ms(work.job, strategy)
    # A hint can only lengthen the wait: "Retry-After: 0" must not burn the attempts.
    wait_ms = max(
        jittered_ms(strategy.backoff_s(work.faults) * 1000, strategy.jitter, fraction),
        _hint_ms(fault.retry_after_s, strategy),
    )
    if now_ms >= deadline_ms and fault.kind is FaultKind.THROTTLED:
        # This worker polls nothing for a while.
        return _timed_out(now_ms, strategy)
    if asked_ms < deadline_ms:
        # The last one is still to come, also if this one has ended after the deadline.
        next_ms = min(now_ms + wait_ms, deadline_ms)
    else:
        left_ms = _over_ms(deadline_ms, asked_ms, strategy) - now_ms
        if due_ms > deadline_ms or left_ms <= 0:
            # That was the last one of all.
            return _timed_out(now_ms, strategy)
        # Half of the time that is left for the wait, half for the answer.
        next_ms = max(now_ms + min(wait_ms, left_ms // 2), deadline_ms + 1)
    return NextPoll(next_ms, work.faults + 1, work.last_answer_ms, work.doubt_ms, work.missing_ms)


def _over_ms(deadline_ms: int, met_ms: int, strategy: PollingStrategy) -> int:
    """Return when the polling of a job ends for good that was seen at `met_ms`, past its deadline.

    If no worker was running in time, the job still gets the time of one request.
    """
    request_ms = round(strategy.request_timeout_s * 1000)
    over_ms = deadline_ms + round(strategy.interval_s * 1000) + request_ms
    return over_ms if met_ms < over_ms else met_ms + request_ms


def _deadline_ms(job: VideoJob, strategy: PollingStrategy) -> int:
    return job.start_ms + round(strategy.timeout_s * 1000)


def _interval_ms(strategy: PollingStrategy, fraction: float) -> int:
    return jittered_ms(strategy.interval_s * 1000, strategy.jitter, fraction)


def _hint_ms(hint_s: float | None, strategy: PollingStrategy) -> int:
    return 0 if hint_s is None else round(min(hint_s, strategy.max_retry_after_s) * 1000)


def _timed_out(now_ms: int, strategy: PollingStrategy) -> Outcome:
    minutes = strategy.timeout_s / 60
    count, unit = (minutes, "minute") if minutes >= 1 else (strategy.timeout_s, "second")
    span = f"{count:g} {unit}" + ("" if count == 1 else "s")
    return Outcome(OutcomeKind.TIMED_OUT, now_ms, error=own(f"Video generation timeout: Process exceeded {span}"))
