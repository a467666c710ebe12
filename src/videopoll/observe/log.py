"""Writes events as log lines in the specification's pattern, with their fields in ``extra``.

Every line goes to the logger ``videopoll.jobs``. Ids are shown in a form that
cannot break a line, whatever stands in Redis.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias

import attrs

from videopoll import events
from videopoll.jobs.outcome import OutcomeKind
from videopoll.observations import FaultKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["LogHook", "shown", "shown_ids"]

log: logging.Logger = logging.getLogger("videopoll.jobs")

Line: TypeAlias = tuple[int, str, *tuple[object, ...]]
"""A level, a text with placeholders, and what fills them."""

LONGEST_SHOWN = 120
MOST_SHOWN = 100

MOST_REMEMBERED = 10_000
"""Jobs whose unknown status word is remembered as logged."""


def shown(text: str, longest: int = LONGEST_SHOWN) -> str:
    """Return hostile text in a printable form of one line, cut to 120 characters or as many as said."""
    safe = text if text.isprintable() else ascii(text)[1:-1]
    return safe if len(safe) <= longest else safe[:longest] + "…"


def shown_ids(job_ids: Iterable[str]) -> str:
    """Return ids for one line of the log, at most a hundred."""
    ids = list(job_ids)
    more = f" and {len(ids) - MOST_SHOWN} more" if len(ids) > MOST_SHOWN else ""
    return (", ".join(map(shown, ids[:MOST_SHOWN])) or "nothing") + more


_LOGGED_AS: dict[type[events.Event], str] = {
    events.JobClaimed: "JobTaken",
    events.JobDeadLettered: "JobUndeliverable",
}
"""Names of events in the JSON log that differ from the class: logs of running deployments have them."""


class LogHook:
    """The hook that logs. Runners add it themselves."""

    def __init__(self) -> None:
        # Jobs whose unknown status word was logged, the newest last. A dictionary: hooks are called on any thread.
        self._logged: dict[str, None] = {}

    def __call__(self, event: events.Event) -> None:
        """Log one event."""
        if isinstance(event, events.JobPolled) and event.fault is None:
            if event.known and not log.isEnabledFor(logging.INFO):
                # Nearly every event is this one, and nobody wants to read it.
                return
            level, text, *args = _line(event) if event.known or self._is_news(event.job_id) else _polled(event)
        else:
            level, text, *args = _line(event)
        if log.isEnabledFor(level):
            fields = {f"vp_{name}": value for name, value in attrs.asdict(event, recurse=False).items()}
            log.log(level, text, *args, extra={"vp_event": _LOGGED_AS.get(type(event), type(event).__name__), **fields})

    def _is_news(self, job_id: str) -> bool:
        """Whether this worker has logged no unknown word of this job so far, as far as it remembers."""
        if job_id in self._logged:
            return False
        self._logged[job_id] = None
        if len(self._logged) > MOST_REMEMBERED:
            self._logged.pop(next(iter(list(self._logged))), None)
        return True


def _line(event: events.Event) -> Line:
    write = _WRITTEN_BY.get(type(event))
    return (write and write(event)) or _other_line(event)


def _poll_line(event: events.Event) -> Line | None:
    match event:
        case events.JobPolled(fault=None, known=False):
            return (
                logging.WARNING,
                "🔍 [%s] Unknown video status %s (attempt %d, elapsed: %.0fs), polling on",
                shown(event.job_id),
                shown(event.status),
                event.attempt,
                event.elapsed_s,
            )
        case events.JobPolled(fault=None):
            return _polled(event)
        case events.JobPolled(fault=FaultKind.CREDENTIALS):
            return (
                logging.WARNING,
                "🔑 [%s] The video API refuses our key (attempt %d): %s",
                shown(event.job_id),
                event.attempt,
                event.detail,
            )
        case events.JobPolled(fault=FaultKind.BLOCKED):
            return (
                logging.WARNING,
                "🧱 [%s] Something in front of the video API refuses us (attempt %d): %s",
                shown(event.job_id),
                event.attempt,
                event.detail,
            )
        case events.JobPolled():
            return (
                logging.WARNING,
                "⚠️ [%s] No answer from the video API (attempt %d, elapsed: %.0fs): %s, next try in %.0fs",
                shown(event.job_id),
                event.attempt,
                event.elapsed_s,
                event.detail,
                event.next_s or 0,
            )
        case _:
            return None


def _polled(event: events.JobPolled) -> Line:
    return (
        logging.INFO,
        "🔍 [%s] Polling video status (attempt %d, elapsed: %.0fs): %s",
        shown(event.job_id),
        event.attempt,
        event.elapsed_s,
        shown(event.status),
    )


def _send_line(event: events.Event) -> Line | None:
    match event:
        case events.SendTried():
            tried = (shown(event.job_id), event.attempt, event.form.value, event.result)
            if event.result in {"delivered", "accepted", "found"}:
                return logging.DEBUG, "📨 [%s] Send %d as %s: %s", *tried
            if event.result == "waits":
                return logging.INFO, "📨 [%s] Send %d as %s: %s (%s)", *tried, shown(event.reason or "")
            return logging.WARNING, "📨 [%s] Send %d as %s: %s (%s)", *tried, shown(event.reason or "")
        case events.JobAccepted():
            return (
                logging.INFO,
                "📨 Video notification accepted by the channel for conversation: %s",
                shown(event.conversation_id),
            )
        case events.ReceiptReceived():
            told = (shown(event.job_id), event.form.value, shown(event.kind), event.after_s)
            if event.reason is None:
                return logging.DEBUG, "📬 [%s] Receipt of the %s: %s, %.0fs after its acceptance", *told
            failed = "📭 [%s] Receipt of the %s: %s, %.0fs after its acceptance (%s)"
            return logging.WARNING, failed, *told, shown(event.reason)
        case events.LinkTried():
            level = logging.DEBUG if event.result == "ok" else logging.WARNING
            return (
                level,
                "🔗 [%s] Link %s: %s (%s)",
                shown(event.job_id),
                event.how,
                event.result,
                shown(event.reason or ""),
            )
        case events.ChannelHeldBack():
            channel = "the channel" if event.channel is None else shown(event.channel)
            if event.refused:
                return (
                    logging.ERROR,
                    "⛔ An account of %s is refused: check its instance, token and plan. Held back for %.0fs",
                    channel,
                    event.pause_s,
                )
            return (
                logging.ERROR,
                "⛔ Nobody knows what became of the last %d messages of one account of %s: held back for %.0fs",
                event.messages,
                channel,
                event.pause_s,
            )
        case _:
            return None


def _job_line(event: events.Event) -> Line | None:
    match event:
        case events.JobDelivered():
            return (
                logging.INFO,
                "🎥 Video notification sent successfully for conversation: %s",
                shown(event.conversation_id),
            )
        case events.JobEnqueued():
            return logging.INFO, "📥 Video job enqueued for background polling: %s", shown(event.job_id)
        case events.JobCancelled():
            return logging.INFO, "🛑 Video job cancelled: %s", shown(event.job_id)
        case events.JobClaimed(taken_over=True):
            return logging.INFO, "♻️ Taking over video job from a dead worker: %s", shown(event.job_id)
        case events.JobClaimed():
            return logging.INFO, "🎬 Processing video job from queue: %s", shown(event.job_id)
        case events.LeaseLost():
            return logging.WARNING, "🔓 [%s] Lease lost: another worker has the job", shown(event.job_id)
        case events.JobConcluded(outcome=OutcomeKind.COMPLETED):
            return logging.INFO, "✅ [%s] Video generation completed", shown(event.job_id)
        case events.JobConcluded():
            return (
                logging.WARNING,
                "❌ [%s] Video generation ended without a video: %s (%s)",
                shown(event.job_id),
                event.outcome.value,
                shown(event.error or ""),
            )
        case events.JobDeadLettered():
            return logging.ERROR, "💀 [%s] Dead letter: %s", shown(event.job_id), shown(event.reason)
        case _:
            return None


def _worker_line(event: events.Event) -> Line | None:
    match event:
        case events.WorkerStarted():
            return logging.INFO, "🚀 Starting video polling worker: %s", event.worker_id
        case events.WorkerStopped():
            return (
                logging.INFO,
                "👋 Stopped video polling worker: %s (%d jobs given back)",
                event.worker_id,
                event.given_back,
            )
        case events.JobsRecovered():
            return logging.INFO, "♻️ Recovering %d video jobs after restart", event.count
        case events.RedisLost():
            return logging.ERROR, "🔌 Redis cannot be used, waiting for it: %s", event.reason
        case events.RedisRegained():
            return logging.WARNING, "🔌 Redis is back after %.1fs", event.after_s
        case events.AccountHeldBack():
            who = "Another worker" if event.learnt else "This worker"
            level = logging.INFO if event.learnt else logging.WARNING
            return level, "⏸️ %s was told 429: %s is left alone for %.0f s", who, shown(event.account), event.pause_s
        case _:
            return None


def _other_line(event: events.Event) -> Line:
    if isinstance(event, events.CallbackReceived):
        level = logging.WARNING if event.result == "refused" else logging.INFO
        said = shown(event.job_id or event.reason or "no poll of it is due")
        return level, "🔔 Callback of %s: %s (%s)", shown(event.provider), event.result, said
    return logging.DEBUG, "%s", event


_WRITTEN_BY: dict[type[events.Event], Callable[[events.Event], Line | None]] = {
    kind: write
    for write, kinds in {
        _poll_line: (events.JobPolled,),
        _send_line: (
            events.SendTried,
            events.JobAccepted,
            events.ReceiptReceived,
            events.LinkTried,
            events.ChannelHeldBack,
        ),
        _job_line: (
            events.JobEnqueued,
            events.JobCancelled,
            events.JobClaimed,
            events.LeaseLost,
            events.JobConcluded,
            events.JobDelivered,
            events.JobDeadLettered,
        ),
        _worker_line: (
            events.WorkerStarted,
            events.WorkerStopped,
            events.JobsRecovered,
            events.RedisLost,
            events.RedisRegained,
            events.AccountHeldBack,
        ),
    }.items()
    for kind in kinds
}
"""What writes the line of an event. Most events are not logged: it must not cost much to find that out."""
