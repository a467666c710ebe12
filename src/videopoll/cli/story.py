"""Says in words what an entry of the history tells, for ``explain`` and ``watch``."""

from __future__ import annotations

from collections.abc import Mapping

from videopoll.cli.output import duration
from videopoll.jobs.codec import JsonValue, is_number
from videopoll.observe.log import shown
from videopoll.queue.history import HistoryEntry, Step

__all__ = ["OUTCOMES", "tell"]

OUTCOMES = {
    "completed": "the video is ready",
    "failed": "the generation failed",
    "timed_out": "it took longer than the timeout",
    "not_found": "the video API does not know the job any more",
    "attempts_exhausted": "no answer within the polls allowed",
    "cancelled": "it was cancelled",
}

FAULTS = {
    "connection": "no connection to the video API",
    "timeout": "the video API did not answer in time",
    "server": "the video API is in trouble",
    "throttled": "the video API wants fewer requests",
    "credentials": "the video API refuses our key",
    "blocked": "something in front of the video API refuses us",
    "malformed": "the video API's answer could not be read",
    "internal": "the poller raised an exception",
}

RESULTS = {
    "delivered": ("accepted by the channel", "green"),
    "found": ("the channel has it already", "green"),
    "absent": ("the channel does not have it", "yellow"),
    "not_sent": ("not sent, to be tried again", "yellow"),
    "refused": ("refused by the channel", "red"),
    "unknown": ("fate unknown, the channel is asked", "yellow"),
}


def tell(entry: HistoryEntry, *, texts: bool = False) -> tuple[str, str]:  # noqa: C901 - one case a step
    """Return a sentence for an entry, and its style; `texts` has it say what others said in words of their own."""
    told = entry.details
    if texts and entry.text is not None:
        told = {**told, "status" if entry.step is Step.STATUS else "reason": entry.text}
    match entry.step:
        case Step.ENQUEUED:
            return "enqueued by a producer", ""
        case Step.TAKEN:
            return "taken by a worker", ""
        case Step.TAKEN_OVER:
            return "taken over from a worker that died", "yellow"
        case Step.STATUS:
            return _status(told), "cyan"
        case Step.FAULT:
            fault = FAULTS.get(_text(told, "fault"), _text(told, "fault"))
            return (
                f"poll {_text(told, 'attempt')}: {fault} ({_text(told, 'reason')}){_next(told, 'tried again')}",
                "yellow",
            )
        case Step.CONCLUDED:
            outcome = _text(told, "outcome")
            reason = f" ({_text(told, 'reason')})" if told.get("reason") else ""
            end = f"{OUTCOMES.get(outcome, outcome)}{reason}"
            style = "green" if outcome == "completed" else "magenta"
            return f"polling over after {_text(told, 'polls')} polls: {end}", style
        case Step.SENT:
            result, style = RESULTS.get(_text(told, "result"), (_text(told, "result"), "yellow"))
            reason = f" ({_text(told, 'reason')})" if told.get("reason") and style != "green" else ""
            return f"send {_text(told, 'send')} as {_text(told, 'form')}: {result}{reason}", style
        case Step.DELIVERED:
            return (
                f"the user got a {_text(told, 'form')} message, {_seconds(told.get('after_s'))} after the outcome",
                "green",
            )
        case Step.UNDELIVERABLE:
            return f"became a dead letter: {_text(told, 'reason')}", "red"
        case Step.LEASE_LOST:
            return "lease lost: another worker has the job, this one changed nothing", "yellow"
        case Step.CANCELLED:
            return "cancelled", "magenta"


def _status(told: Mapping[str, JsonValue]) -> str:
    unknown = " (a word that we do not know)" if told.get("known") is False else ""
    return f"poll {_text(told, 'attempt')}: {_text(told, 'status')}{unknown}{_next(told, 'polled again')}"


def _next(told: Mapping[str, JsonValue], what: str) -> str:
    next_s = told.get("next_s")
    return "" if next_s is None else f", {what} {_seconds(next_s)} later"


def _text(told: Mapping[str, JsonValue], name: str) -> str:
    value = told.get(name)
    return "?" if value is None else shown(str(value))


def _seconds(value: JsonValue) -> str:
    return duration(value) if is_number(value) else "some time"
