"""What the commands say of jobs and of the entries of their history: as JSON, as rows of a table, as sentences."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping

from videopoll.cli.output import Cell, duration, mask, masked_url
from videopoll.jobs.codec import JsonValue, is_number
from videopoll.jobs.job import JobState
from videopoll.jobs.views import HistoryEntry, HistoryEvent, JobView, ListedJob
from videopoll.observe.log import shown

__all__ = [
    "JOB_COLUMNS",
    "LONGEST_REASON",
    "OUTCOMES",
    "counted",
    "describe_entry",
    "describe_job",
    "describe_listed",
    "job_row",
    "message_in",
]

MESSAGES = {
    "video": "a video message",
    "text": "a text message",
    "upload": "an uploaded video",
    "document": "a document",
    "template": "a template message",
}
"""What a user gets in each form."""

JOB_COLUMNS = ("job", "state", "age", "polls", "sends", "what is next", "worker")


LONGEST_REASON = 1000
"""Characters of a reason that are kept, and shown where an operator asks for one job."""

PRIVATE = ("to", "prompt", "reply_to")
"""Metadata that is hidden unless asked for."""


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
    "accepted": ("accepted by the channel", "green"),
    "found": ("the channel has it already", "green"),
    "absent": ("the channel does not have it", "yellow"),
    "not_sent": ("not sent, to be tried again", "yellow"),
    "waits": ("waits", "cyan"),
    "refused": ("refused by the channel", "red"),
    "unknown": ("fate unknown, the channel is asked", "yellow"),
}


def counted(reasons: Iterable[object]) -> str:
    """Return reasons in their order, each once: most sends of a job fail for the one reason."""
    times = collections.Counter(shown(str(reason), LONGEST_REASON) for reason in reasons)
    return "; ".join(reason if number == 1 else f"{reason} ({number} times)" for reason, number in times.items())


def message_in(form: object) -> str:
    """Return what a user gets in a form, in words."""
    return MESSAGES.get(str(form), f"a message ({shown(str(form))})")


def describe_job(view: JobView, *, reveal: bool) -> dict[str, JsonValue]:
    """Return all that is known of a job, as JSON; private fields are hidden unless `reveal` is true."""
    job, outcome, entry = view.job, view.outcome, view.entry
    metadata: dict[str, JsonValue] = {}
    for name, value in (job.metadata if job else {}).items():
        hidden = name in PRIVATE and not reveal
        metadata[name] = (mask(str(value)) if name == "to" else "•••") if hidden else value
    url, spoiled = (outcome.video_url, outcome.undeliverable_url) if outcome else (None, None)
    return {
        "job_id": view.job_id,
        "state": view.state.value,
        "conversation": job.conversation_id if job else None,
        "started_ms": job.start_ms if job else None,
        # The counter goes when the polling is over; what is there afterwards is nobody's count.
        "polls": view.attempts if view.outcome is None else None,
        "faults_in_a_row": view.faults,
        "progress": view.progress,
        "place_in_the_apis_queue": view.queue_position,
        "due_ms": view.due_ms,
        "lease_ends_ms": view.lease_ms,
        "worker": view.holder,
        "locked_by_another_kind_of_worker": True if view.foreign_lock else None,
        "outcome": outcome.kind.value if outcome else None,
        "ended_ms": outcome.at_ms if outcome else None,
        "reason": outcome.reason.value if outcome and not outcome.success else None,
        "error": outcome.error if outcome else None,
        "video_url": url if url is None or reveal else masked_url(url),
        "undeliverable_url": spoiled if spoiled is None or reveal else masked_url(spoiled),
        "delivered": view.delivered,
        "accepted_ms": view.accepted_ms,
        "delivered_ms": view.delivered_ms,
        "read_ms": view.read_ms,
        "form": entry.form.value if entry else None,
        "sends": entry.tries if entry else None,
        "send_reasons": list(entry.reasons) if entry else None,
        "metadata": metadata or None,
    }


def describe_listed(job: ListedJob) -> dict[str, JsonValue]:
    """Return a listed job as JSON."""
    return {
        "job_id": job.job_id,
        "state": job.state.value,
        "conversation": job.conversation_id,
        "tenant": job.tenant,
        "start_ms": job.start_ms,
        "at_ms": job.at_ms,
        "polls": job.polls,
        "sends": job.sends,
        "worker": job.worker_id,
        "outcome": job.outcome.value if job.outcome else None,
        "reason": job.reason,
        "delivered": job.delivered,
    }


def job_row(one: ListedJob, now_ms: int) -> list[Cell]:
    """Return a job's row, for the columns of `JOB_COLUMNS`."""
    return [
        one.job_id,
        one.state,
        None if one.start_ms is None else duration((now_ms - one.start_ms) / 1000),
        one.polls,
        one.sends,
        _next_turn(one, now_ms),
        one.worker_id,
    ]


def _next_turn(one: ListedJob, now_ms: int) -> str | None:
    outcome = f"{one.outcome}, " if one.outcome else ""
    if one.state is JobState.SETTLED:
        return _end(one, now_ms)
    if one.state is JobState.DEAD:
        return f"{outcome}{one.reason or 'no reason kept'}"
    if one.at_ms is None:
        return "waits to be taken"
    left_s = (one.at_ms - now_ms) / 1000
    if one.state in {JobState.POLLING, JobState.DELIVERING}:
        lease = f"lease ends in {duration(left_s)}" if left_s >= 0 else f"lease ended {duration(-left_s)} ago"
        return f"{outcome}{lease}"
    if one.state is JobState.WATCHED:
        return f"{outcome}accepted by the channel, watched for {duration(left_s)}"
    what = "send" if one.state is JobState.OUTBOX else "poll"
    return f"{outcome}{what} " + (f"in {duration(left_s)}" if left_s >= 0 else f"due for {duration(-left_s)}")


def _end(one: ListedJob, now_ms: int) -> str:
    told = {True: "user told", False: "user not told", None: None}[one.delivered]
    ago = f"{duration((now_ms - one.at_ms) / 1000)} ago" if one.at_ms else None
    return ", ".join(part for part in (one.outcome, ago, told, one.reason) if part)


def describe_entry(entry: HistoryEntry, *, texts: bool = False) -> tuple[str, str]:  # noqa: C901, PLR0912 - one case a step
    """Return a sentence about an entry, and its style. With `texts` it quotes what other systems said."""
    told = entry.details
    if texts and entry.text is not None:
        told = {**told, "status" if entry.event is HistoryEvent.STATUS else "reason": entry.text}
    match entry.event:
        case HistoryEvent.ENQUEUED:
            return "enqueued by a producer", ""
        case HistoryEvent.TAKEN:
            return "taken by a worker", ""
        case HistoryEvent.TAKEN_OVER:
            return "taken over from a worker that died", "yellow"
        case HistoryEvent.STATUS:
            return _status(told), "cyan"
        case HistoryEvent.FAULT:
            fault = FAULTS.get(_text(told, "fault"), _text(told, "fault"))
            return (
                f"poll {_text(told, 'attempt')}: {fault} ({_text(told, 'reason')}){_next(told, 'tried again')}",
                "yellow",
            )
        case HistoryEvent.CONCLUDED:
            outcome = _text(told, "outcome")
            reason = f" ({_text(told, 'reason')})" if told.get("reason") else ""
            end = f"{OUTCOMES.get(outcome, outcome)}{reason}"
            style = "green" if outcome == "completed" else "magenta"
            polls = _text(told, "polls")
            return f"polling over after {polls} {'poll' if polls == '1' else 'polls'}: {end}", style
        case HistoryEvent.LINK:
            result, reason = _text(told, "result"), f" ({_text(told, 'reason')})" if told.get("reason") else ""
            return f"link {_text(told, 'how')}: {result}{reason}", "cyan" if result == "ok" else "yellow"
        case HistoryEvent.SENT:
            result, style = RESULTS.get(_text(told, "result"), (_text(told, "result"), "yellow"))
            reason = f" ({_text(told, 'reason')})" if told.get("reason") and style != "green" else ""
            return f"send {_text(told, 'send')} as {_text(told, 'form')}: {result}{reason}", style
        case HistoryEvent.ACCEPTED:
            return f"a receipt will tell whether the user gets {message_in(told.get('form'))}", "cyan"
        case HistoryEvent.RECEIPT:
            reason = f" ({_text(told, 'reason')})" if told.get("reason") else ""
            said = f"receipt of {message_in(told.get('form'))}: {_text(told, 'kind')}{reason}"
            return f"{said}, {_seconds(told.get('after_s'))} after it was accepted", "yellow" if reason else "green"
        case HistoryEvent.DELIVERED:
            return (
                f"the user got {message_in(told.get('form'))}, {_seconds(told.get('after_s'))} after the outcome",
                "green",
            )
        case HistoryEvent.UNDELIVERABLE:
            return f"became a dead letter: {_text(told, 'reason')}", "red"
        case HistoryEvent.LEASE_LOST:
            return "lease lost: another worker has the job, this one changed nothing", "yellow"
        case HistoryEvent.CANCELLED:
            return "cancelled", "magenta"


def _status(told: Mapping[str, JsonValue]) -> str:
    unknown = " (a word that we do not know)" if told.get("known") is False else ""
    return f"poll {_text(told, 'attempt')}: {_text(told, 'status')}{unknown}{_next(told, 'polled again')}"


def _next(told: Mapping[str, JsonValue], what: str) -> str:
    next_s = told.get("next_s")
    if next_s is None:
        return ""
    return f", {what} {_seconds(next_s)} later" if next_s else f", {what} at once"


def _text(told: Mapping[str, JsonValue], name: str) -> str:
    value = told.get(name)
    return "?" if value is None else shown(str(value), LONGEST_REASON)


def _seconds(value: JsonValue) -> str:
    return duration(value) if is_number(value) else "some time"
