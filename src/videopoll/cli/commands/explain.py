"""``videopoll explain``: a job's whole history, in the order of time, and what comes next."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import attrs
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from videopoll.cli.commands.show import live_answer
from videopoll.cli.describe import LONGEST_REASON, OUTCOMES, counted, describe_entry, describe_job, message_in
from videopoll.cli.figures import held_lines
from videopoll.cli.options import (
    DEFAULT_API_URL,
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    ApiUrl,
    AsJson,
    JobId,
    Partitions,
    Prefix,
    RedisUrl,
    open_queue,
)
from videopoll.cli.output import complain, duration, guarded, print_json, time_of_day, when
from videopoll.cli.partitions import of_those_that_answer
from videopoll.errors import QueueError
from videopoll.jobs.codec import JsonValue, is_number
from videopoll.jobs.job import JobState
from videopoll.jobs.outcome import DeadLetter, OutcomeKind
from videopoll.jobs.views import HistoryEntry, HistoryEvent, JobView, WorkerInfo
from videopoll.observe.log import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["explain"]


NOT_FOUND = "not_found"
"""The status of a poll whose job the video API does not know."""


@attrs.frozen
class _Known:
    """All that is known of a job."""

    job_id: str
    view: JobView | None
    history: tuple[HistoryEntry, ...]
    workers: tuple[WorkerInfo, ...] | None
    """None if nothing can be read of them."""
    letter: DeadLetter | None
    live: str | None
    held: Mapping[str, int] = attrs.field(factory=dict)
    serving: str = ""
    """What the workers do that are meant: those of the job's partition, where there are several."""


@guarded
def explain(
    *,
    job: JobId,
    live: Annotated[bool, typer.Option("--live", help="Ask the video API, too; changes nothing.")] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
    api_url: ApiUrl = DEFAULT_API_URL,
) -> None:
    """Explain a job: what happened, where it is, why it waits, and what its user got.

    What happened comes from the history that workers keep for a day (not with
    --no-history); where it is comes from the job's own keys. Changes nothing.
    """
    with open_queue(redis_url, prefix, partitions=partitions) as queue:
        view = queue.get(job)
        letter = queue.dead_letters.get(job) if view is not None and view.state is JobState.DEAD else None
        try:
            history, away = of_those_that_answer(lambda: queue.history(job))
            held, _ = of_those_that_answer(queue.held_accounts)
            if away is not None:
                complain(f"what happened there is left out: {away}")
            # A worker with --serve may live, and not serve this one.
            home = queue.partition_of(job)
            # Not before: on the way more of them may have become known.
            partition = queue.partitions[home]
            workers = partition.workers()
            serving = f" and to serve {partition.keys.prefix}" if len(queue.partitions) > 1 else ""
        except QueueError as error:
            history, workers, held, serving = (), None, {}, ""
            complain(f"the history cannot be read: {error}")
    if view is None and not history:
        complain(f"there is no job {job!r} under the prefix {prefix!r}: it was never enqueued here, or ended long ago")
        raise typer.Exit(1)
    told = live_answer(api_url, job, view) if live else None
    story = _with_ends(job, view, _with_beginning(job, view, history))
    known = _Known(job, view, story, workers, letter, told, held, serving)
    now = _now(known)
    if as_json:
        print_json(
            {
                "job_id": job,
                "now": describe_job(view, reveal=False) if view else None,
                "explanation": now,
                "live": told,
                "story": [
                    {
                        "at_ms": one.at_ms,
                        "step": one.event.value,
                        "worker": one.worker_id,
                        **one.details,
                        **({} if one.text is None else {"text": one.text}),
                    }
                    for one in known.history
                ],
            }
        )
        return
    _print(known, now)


def _with_beginning(job: str, view: JobView | None, history: tuple[HistoryEntry, ...]) -> tuple[HistoryEntry, ...]:
    """Begin the history with the enqueueing, also if no producer keeps a history: later entries tell when it was."""
    if any(entry.event is HistoryEvent.ENQUEUED for entry in history):
        return history
    start_ms = view.job.start_ms if view is not None and view.job is not None else None
    for entry in history:
        elapsed_s = entry.details.get("elapsed_s")
        if start_ms is None and is_number(elapsed_s):
            start_ms = entry.at_ms - round(elapsed_s * 1000)
    if start_ms is None:
        return history
    return (HistoryEntry(start_ms, HistoryEvent.ENQUEUED, job, "", {}), *history)


def _with_ends(job: str, view: JobView | None, history: tuple[HistoryEntry, ...]) -> tuple[HistoryEntry, ...]:
    """Add what the job's own keys tell of a cancellation and of receipts: who brings those mostly keeps no history."""
    if view is None or view.outcome is None:
        return history
    known = {(one.event, one.details.get("kind")) for one in history}
    more = []
    if view.outcome.kind is OutcomeKind.CANCELLED and (HistoryEvent.CANCELLED, None) not in known:
        more.append(HistoryEntry(view.outcome.at_ms, HistoryEvent.CANCELLED, job, "", {}))
    form = next((one.details.get("form") for one in reversed(history) if one.event is HistoryEvent.ACCEPTED), "video")
    for kind, at_ms in (("delivered", view.delivered_ms), ("read", view.read_ms)):
        if view.accepted_ms is None or at_ms is None or (HistoryEvent.RECEIPT, kind) in known:
            continue
        after_s = max(0, at_ms - view.accepted_ms) / 1000
        told: dict[str, JsonValue] = {"kind": kind, "form": form, "after_s": after_s}
        more.append(HistoryEntry(at_ms, HistoryEvent.RECEIPT, job, "", told))
    return tuple(sorted((*history, *more), key=lambda one: one.at_ms)) if more else history


def _sentence(text: str) -> str:
    return text if text.endswith((".", "…", "!", "?")) else f"{text}."


def _now(known: _Known) -> list[str]:
    """Return where the job is, and why; a sentence each."""
    view = known.view
    if view is None:
        told = known.history[-1].event
        return [
            f"Redis has forgotten the job; the last that is known is: {describe_entry(known.history[-1], texts=True)[0]} ({told.value})."
        ]
    said = [_state(known, view)]
    if view.state is JobState.SCHEDULED:
        said.append(_why(known, view))
        # Of a job that is late `_why` tells it.
        said += [_no_worker(known)] if _alive(known) == 0 and not _is_late(view) else []
        said += _progress(view)
    if view.state in {JobState.SCHEDULED, JobState.QUEUED} and known.held:
        held = ", ".join(held_lines(known.held, view.now_ms))
        said.append(f"All workers leave an account of a video API alone after a 429, and its jobs wait: {held}.")
    if view.state is JobState.QUEUED and _alive(known) == 0:
        said.append(_no_worker(known))
    if view.holder is not None:
        said.append(_holder(known, view))
    if view.foreign_lock:
        said.append("A worker of another kind has locked it; ours look again when that lock ends.")
    said += _user(known, view)
    if known.live is not None:
        said.append(f"The video API says at this moment: {known.live}.")
    return said


def _state(known: _Known, view: JobView) -> str:
    polls = f"{view.attempts} poll{'' if view.attempts == 1 else 's'}"
    match view.state:
        case JobState.QUEUED:
            return "It waits in the list for a worker to take it."
        case JobState.SCHEDULED:
            return f"It waits for its next poll, {_due(view)}, after {polls}."
        case JobState.POLLING:
            return f"It is being polled at this moment (poll {view.attempts})."
        case JobState.DELIVERING:
            return "Its polling is over, and its outcome is being sent at this moment."
        case JobState.OUTBOX:
            return f"Its polling is over; the next send is due {_due(view)}."
        case JobState.WATCHED:
            left = "" if view.due_ms is None else f", for {duration((view.due_ms - view.now_ms) / 1000)} more"
            return f"It has ended: the channel accepted the message, and is watched for receipts{left}."
        case JobState.SETTLED:
            return "It has ended."
        case JobState.DEAD:
            reason = known.letter.reason if known.letter else "no reason kept"
            return f"It is a dead letter: {_sentence(shown(reason, LONGEST_REASON))} Bring it back with videopoll dead redrive."
        case JobState.ORPHANED:
            return "It has a record and is in no list: a worker of another kind holds it, or lost it."


def _progress(view: JobView) -> list[str]:
    """Return what the API told of its progress."""
    said = []
    if view.progress is not None:
        said.append(f"The video API said that {view.progress:.0%} of it is done.")
    if view.queue_position is not None:
        ahead = "is the next" if not view.queue_position else f"has {view.queue_position} before it"
        said.append(f"In the API's own queue it {ahead}.")
    return said


def _due(view: JobView) -> str:
    if view.due_ms is None:
        return "at an unknown time"
    left_s = (view.due_ms - view.now_ms) / 1000
    return f"in {duration(left_s)}" if left_s >= 0 else f"which is {duration(-left_s)} late"


def _is_late(view: JobView) -> bool:
    return view.due_ms is not None and view.due_ms < view.now_ms


def _alive(known: _Known) -> int | None:
    """Return how many workers are known to be alive; None if nothing can be read of them."""
    return None if known.workers is None else sum(worker.alive for worker in known.workers)


def _no_worker(known: _Known) -> str:
    return f"No worker is known to be alive{known.serving}: start one with videopoll worker."


def _why(known: _Known, view: JobView) -> str:
    """Return why the next poll is due when it is."""
    if _is_late(view):
        alive = _alive(known)
        tenant = view.job.tenant if view.job is not None else None
        turn = f" Where more is due than there are places, its tenant, {shown(tenant)}, has its turn." if tenant else ""
        if alive is None:
            return f"It is due already.{turn}"
        if not alive:
            return f"It is due already. {_no_worker(known)}{turn}"
        return f"It is due already: {alive} worker{' is' if alive == 1 else 's are'} known to be alive{known.serving}.{turn}"
    if not view.attempts:
        return "That is so because a first poll waits for the initial delay."
    if view.faults:
        last = next((entry for entry in reversed(known.history) if entry.event is HistoryEvent.FAULT), None)
        reason = f" The last: {shown(str(last.text or last.details.get('reason')), LONGEST_REASON)}." if last else ""
        row = "one fault" if view.faults == 1 else f"{view.faults} faults in a row"
        return f"That is so because of the backoff after {row}.{reason}"
    said = next((entry for entry in reversed(known.history) if entry.event is HistoryEvent.STATUS), None)
    if said is not None and said.details.get("status") == NOT_FOUND:
        return "The video API says that it does not know the job, and is asked again before that is believed."
    return "That is so because a job that is still working is polled once an interval."


def _holder(known: _Known, view: JobView) -> str:
    lease = ""
    if view.lease_ms is not None:
        left_s = (view.lease_ms - view.now_ms) / 1000
        lease = (
            f", its lease ends in {duration(left_s)}" if left_s >= 0 else f", its lease ended {duration(-left_s)} ago"
        )
    worker = next((one for one in known.workers or () if one.worker_id == view.holder), None)
    if worker is None:
        health = ""
    elif worker.alive:
        health = f", alive on {shown(worker.host)}:{worker.pid}"
    else:
        health = ", silent: another one takes over when the lease ends"
    return f"Held by {shown(view.holder or '')}{lease}{health}."


def _user(known: _Known, view: JobView) -> list[str]:
    """Return what the user got; a sentence each."""
    if view.outcome is None:
        return ["The user has been told nothing yet."]
    outcome = view.outcome
    # A cancelled job's error is that word once more.
    told = outcome.error if outcome.kind is not OutcomeKind.CANCELLED else None
    error = f" ({shown(told, LONGEST_REASON)})" if told else ""
    said = [f"How it ended: {OUTCOMES.get(outcome.kind.value, outcome.kind.value)}{error}."]
    entry = view.entry
    if entry is not None:
        reasons = " What went wrong: " + _sentence(counted(entry.reasons)) if entry.reasons else ""
        said.append(f"Sends so far: {entry.tries}, the next as {entry.form.value}.{reasons}")
    if view.delivered:
        form = next(
            (one.details.get("form") for one in reversed(known.history) if one.event is HistoryEvent.DELIVERED), None
        )
        said.append("The user was told" + (f", with {message_in(form)}." if form else "."))
        if view.accepted_ms is not None:
            said.append("A receipt says so" + (", and that they have read it." if view.read_ms is not None else "."))
    elif view.accepted_ms is not None:
        said.append("The channel accepted the message, and no receipt has told whether the user got it.")
    elif view.delivered is False or view.state is JobState.DEAD:
        said.append("The user was NOT told.")
    elif view.state is JobState.SETTLED:
        said.append("Whether the user was told is not recorded.")
    else:
        said.append("The user has been told nothing yet.")
    return said


def _print(known: _Known, now: list[str]) -> None:
    start_ms = known.history[0].at_ms if known.history else 0
    if not sys.stdout.isatty():
        for entry in known.history:
            line = (
                when(entry.at_ms) or "-",
                _offset(entry, start_ms),
                describe_entry(entry, texts=True)[0],
                entry.worker_id or "-",
            )
            typer.echo("\t".join(line))
        for sentence in now:
            typer.echo(sentence)
        return
    console = Console()
    conversation = f" · conversation {shown(known.view.job.conversation_id)}" if known.view and known.view.job else ""
    console.print(Text.assemble((f"Job {shown(known.job_id)}", "bold"), (conversation, "dim")))
    if known.history:
        console.print(Text(f"since {when(start_ms)}", style="dim"))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("time", no_wrap=True)
        table.add_column("after", justify="right", no_wrap=True)
        table.add_column("what happened", overflow="fold", ratio=1)
        table.add_column("worker", overflow="fold", style="dim")
        last = ""
        for entry in known.history:
            said, style = describe_entry(entry, texts=True)
            worker = shown(entry.worker_id)
            # A worker is named where it changes.
            table.add_row(
                time_of_day(entry.at_ms),
                _offset(entry, start_ms),
                Text(said, style=style),
                Text("" if worker == last else worker),
            )
            last = worker
        console.print(table)
    else:
        console.print(Text("No history is kept of it.", style="dim"))
    console.print()
    for sentence in now:
        console.print(Text(sentence))


def _offset(entry: HistoryEntry, start_ms: int) -> str:
    return f"+{duration(max(0, entry.at_ms - start_ms) / 1000)}"
