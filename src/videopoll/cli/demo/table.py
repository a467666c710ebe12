"""What the demo shows: a live table of the jobs on a terminal, plain lines in a pipe, and the results at the end."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self

import attrs
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from videopoll import events
from videopoll.cli.demo.cases import CHANNELS, Case, CaseResult
from videopoll.cli.output import mask
from videopoll.testing import FakeMessage

__all__ = ["JobTable", "print_results"]

OUTCOMES = {
    "completed": "video ready",
    "failed": "failed",
    "timed_out": "timed out",
    "not_found": "vanished",
}
RESULTS = {
    "delivered": "accepted",
    "refused": "refused",
    "unknown": "reply lost, asking the messenger",
    "not_sent": "not sent, trying again",
    "waits": "waits its turn",
    "found": "the messenger has it",
    "absent": "not there yet",
}


@attrs.define
class _Row:
    polls: int = 0
    stage: str = "enqueued"
    style: str = "dim"
    ended: bool = False


class JobTable:
    """A hook that shows what happens to each job. A context manager, as a live table has an end."""

    def __init__(self, cases: tuple[Case, ...], *, title: str) -> None:
        self._cases = {case.job_id: case for case in cases}
        self._rows = {job_id: _Row() for job_id in self._cases}
        self._title = title
        self._began_s = time.monotonic()
        self._lock = threading.Lock()
        self._console = Console()
        self._live = Live(
            console=self._console, get_renderable=self._table, refresh_per_second=8, redirect_stderr=False
        )

    def __enter__(self) -> Self:
        self._began_s = time.monotonic()
        if self._console.is_terminal:
            self._live.start()
        else:
            sys.stdout.write(self._title + "\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, event: events.Event) -> None:
        """Show what an event says of its job."""
        job_id = getattr(event, "job_id", None)
        told = _stage(event)
        if told is None or job_id not in self._rows:
            return
        with self._lock:
            row = self._rows[job_id]
            if isinstance(event, events.JobPolled):
                row.polls = event.attempt
            row.stage, row.style = told
            row.ended = isinstance(event, events.JobDelivered | events.JobDeadLettered)
            if not self._console.is_terminal:
                elapsed_s = time.monotonic() - self._began_s
                sys.stdout.write(f"{elapsed_s:5.1f} s  {job_id}  {self._cases[job_id].name}: {row.stage}\n")
                sys.stdout.flush()

    def _table(self) -> Table:
        table = Table(
            title=f"{self._title} · {time.monotonic() - self._began_s:.0f} s", title_justify="left", expand=False
        )
        table.add_column("job", no_wrap=True)
        table.add_column("what is special", no_wrap=True)
        table.add_column("polls", justify="right")
        table.add_column("now", no_wrap=True, min_width=36)
        with self._lock:
            for job_id, row in self._rows.items():
                table.add_row(job_id, self._cases[job_id].name, str(row.polls), Text(row.stage, style=row.style))
        return table


def _stage(event: events.Event) -> tuple[str, str] | None:
    """Return the stage that an event brings a job to, in a few words, and its style; None for other events."""
    match event:
        case events.JobClaimed():
            return "taken by the worker", ""
        case events.JobPolled(fault=None, next_s=next_s) if next_s is not None:
            return f"{event.status}, next poll in {next_s:.1f} s", "cyan"
        case events.JobPolled(next_s=next_s) if next_s is not None:
            return f"{event.detail or event.status}, next try in {next_s:.1f} s", "yellow"
        case events.JobConcluded():
            return f"{OUTCOMES.get(event.outcome.value, event.outcome.value)}, telling the user", "magenta"
        case events.SendTried() if event.result != "delivered":
            return f"{event.form.value}: {RESULTS.get(event.result, event.result)}", "yellow"
        case events.JobDelivered():
            return f"✔ {OUTCOMES.get(event.outcome.value, event.outcome.value)}, user told", "green"
        case events.JobDeadLettered():
            return f"✘ dead letter: {event.reason}", "red"
        case _:
            return None


def print_results(results: list[CaseResult], *, took_s: float) -> None:
    """Show who received what, and whether that is right."""
    console = Console()
    good = sum(result.good for result in results)
    if console.is_terminal:
        table = Table(title="Who received what, as the messengers have it", title_justify="left")
        for column in ("user", "received", "message", "ended as", ""):
            table.add_column(column, overflow="fold")
        for result in results:
            over, kind, message = _received(result)
            what = f"{over},\n{kind}" if result.received else "nothing"
            sign = Text("✔", "green") if result.good else Text("✘ " + "; ".join(result.problems), "red")
            table.add_row(mask(result.case.to), what, Text(message), str(result.outcome or "-"), sign)
        console.print()
        console.print(table)
    else:
        sys.stdout.write("Who received what, as the messengers have it:\n")
        for result in results:
            over, kind, message = _received(result)
            mark = "ok" if result.good else "WRONG: " + "; ".join(result.problems)
            line = (mask(result.case.to), over, kind, str(result.outcome or "-"), mark, " ".join(message.split()))
            sys.stdout.write("\t".join(line) + "\n")
    said = f"All {good} jobs ended as they should, each user with exactly one message, in {took_s:.0f} s."
    if good < len(results):
        said = f"{len(results) - good} of {len(results)} jobs did NOT end as they should."
    console.print(Text(said, style="bold green" if good == len(results) else "bold red"), soft_wrap=True)


def _received(result: CaseResult) -> tuple[str, str, str]:
    return (
        "\n".join(CHANNELS[name] for name, _ in result.received) or "-",
        "\n".join(message.kind for _, message in result.received) or "-",
        "\n".join(_text(message) for _, message in result.received) or "-",
    )


def _text(message: FakeMessage) -> str:
    lines = [line for line in message.text.splitlines() if line.strip()]
    return "\n".join([*lines, f"▶ {message.video}"] if message.video else lines)
