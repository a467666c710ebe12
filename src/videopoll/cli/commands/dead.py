"""``videopoll dead``: what could not be processed or delivered, for a person to look at and decide."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Annotated, TypeAlias

import typer

from videopoll._reasons import WITHHELD, told_or_withheld
from videopoll.cli.describe import counted
from videopoll.cli.options import (
    DEFAULT_JOB_TTL_S,
    DEFAULT_PREFIX,
    DEFAULT_REDIS_URL,
    AsJson,
    JobId,
    JobTtl,
    Partitions,
    Prefix,
    RedisUrl,
    open_queue,
)
from videopoll.cli.output import Cell, complain, guarded, print_json, print_rows, print_values, when
from videopoll.cli.partitions import of_those_that_answer
from videopoll.errors import ConfigurationError, InvalidJobError
from videopoll.jobs.codec import JsonValue
from videopoll.jobs.outcome import DeadLetter
from videopoll.observe.log import shown
from videopoll.queue.dead_letters import DeadLetters

__all__ = ["app"]

PAGE = 200
"""Letters that are read at a time."""

app: typer.Typer = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Dead letters: list them, look at one, redrive or dismiss them.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Some: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="[JOB]", help="The job's id; or give --all.", show_default=False)
]
All: TypeAlias = Annotated[bool, typer.Option("--all", help="All of them.")]


@app.command("list")
@guarded
def list_letters(
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most, the newest first.")] = 50,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
) -> None:
    """List dead letters, the newest first. The exit code is 1 if a partition does not answer."""
    with open_queue(redis_url, prefix, partitions=partitions) as queue:
        letters: list[DeadLetter] = []
        while len(letters) < limit:
            size, offset = min(PAGE, limit - len(letters)), len(letters)
            look = functools.partial(queue.dead_letters.list, limit=size, offset=offset)
            page, _ = of_those_that_answer(look)
            if not page:
                break
            letters += page
        counts, away = of_those_that_answer(queue.counts)
    if as_json:
        print_json([_listed(letter) for letter in letters])
    else:
        _print_letters(letters, counts.dead)
    if away is not None:
        complain(f"their dead letters are left out: {away}")
        raise typer.Exit(1)


def _print_letters(letters: Sequence[DeadLetter], dead: int) -> None:
    rows: list[list[Cell]] = [
        [letter.job_id, when(letter.at_ms), _kept(letter), shown(told_or_withheld(letter.reason) or WITHHELD)]
        for letter in letters
    ]
    if rows or not sys.stdout.isatty():
        print_rows(["job", "since", "kept", "reason"], rows, title="Dead letters")
    else:
        typer.echo("There are no dead letters.")
    if dead > len(letters):
        complain(f"{dead - len(letters)} more: raise --limit")


@app.command("show")
@guarded
def show_letter(
    *,
    job: JobId,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
) -> None:
    """Show one dead letter: its reason, its outcome, and what was tried."""
    with open_queue(redis_url, prefix, partitions=partitions) as queue:
        letter = queue.dead_letters.get(job)
    if letter is None:
        raise _none(job)
    values = _describe(letter)
    if as_json:
        print_json(values)
        return
    cells: dict[str, Cell] = {}
    for name, value in values.items():
        if name == "at_ms":
            cells["since"] = when(letter.at_ms)
        elif isinstance(value, list):
            cells["tried"] = counted(value) or None
        elif value is not None and not isinstance(value, dict):
            cells[name.replace("_", " ")] = value
    print_values(cells, title=f"Dead letter {shown(job)}")


@app.command("redrive")
@guarded
def redrive(
    *,
    job: Some = None,
    everything: All = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
    job_ttl: JobTtl = DEFAULT_JOB_TTL_S,
) -> None:
    """Bring a dead letter back: an outcome to its delivery, a record to its polling."""
    _check_choice(job, everything=everything)
    with open_queue(redis_url, prefix, job_ttl, partitions=partitions) as queue:
        letters = queue.dead_letters
        if job is None:
            count = letters.redrive_all()
            left = queue.counts().dead
            _tell_all("redriven", count, as_json=as_json)
            if left:
                complain(f"{left} left: see videopoll dead list")
            return
        try:
            done = letters.redrive(job)
        except InvalidJobError as error:
            complain(str(error))
            raise typer.Exit(1) from error
    _tell(job, "redriven", done=done, as_json=as_json)


@app.command("dismiss")
@guarded
def dismiss(
    *,
    job: Some = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    prefix: Prefix = DEFAULT_PREFIX,
    partitions: Partitions = None,
) -> None:
    """Throw a dead letter away, with all that it keeps."""
    _check_choice(job, everything=everything)
    with open_queue(redis_url, prefix, partitions=partitions) as queue:
        letters = queue.dead_letters
        if job is None:
            if not yes and sys.stdin.isatty():
                typer.confirm(f"Throw {queue.counts().dead} dead letters away for good?", abort=True)
            _tell_all("dismissed", _dismiss_all(letters), as_json=as_json)
            return
        done = letters.dismiss(job)
    _tell(job, "dismissed", done=done, as_json=as_json)


def _dismiss_all(letters: DeadLetters) -> int:
    dismissed = skipped = 0
    while page := letters.list(limit=PAGE, offset=skipped):
        for letter in page:
            gone = letters.dismiss(letter.job_id)
            dismissed += gone
            # One that was changed meanwhile is not what was listed: it stays.
            skipped += not gone
    return dismissed


def _check_choice(job: str | None, *, everything: bool) -> None:
    if (job is None) is not everything:
        msg = "give either a job's id or --all"
        raise ConfigurationError(msg)


def _tell(job: str, result: str, *, done: bool, as_json: bool) -> None:
    if not done:
        if as_json:
            print_json({"job_id": job, "result": "unknown"})
        raise _none(job)
    if as_json:
        print_json({"job_id": job, "result": result})
    else:
        typer.echo(f"{shown(job)}\t{result}")


def _tell_all(result: str, count: int, *, as_json: bool) -> None:
    if as_json:
        print_json({result: count})
    else:
        typer.echo(f"{count} {result}")


def _none(job: str) -> typer.Exit:
    complain(f"there is no dead letter {shown(job)}: see videopoll dead list")
    return typer.Exit(1)


def _kept(letter: DeadLetter) -> str:
    """Return what a redrive can resume from: the outcome, the record, or only the id."""
    if letter.entry is not None:
        return letter.entry.outcome.kind.value
    if letter.raw_entry is not None:
        return "outcome, unreadable"
    return "record" if letter.record is not None else "id only"


def _listed(letter: DeadLetter) -> dict[str, JsonValue]:
    """Describe a letter among others: what others said is shown by ``dead show`` only."""
    reasons = letter.entry.reasons if letter.entry else ()
    return {
        **_describe(letter),
        "reason": told_or_withheld(letter.reason) or WITHHELD,
        "error": told_or_withheld(letter.entry.outcome.error) if letter.entry else None,
        "send_reasons": [told_or_withheld(reason) for reason in reasons] if letter.entry else None,
    }


def _describe(letter: DeadLetter) -> dict[str, JsonValue]:
    entry = letter.entry
    return {
        "job_id": letter.job_id,
        "reason": letter.reason,
        "at_ms": letter.at_ms,
        "kept": _kept(letter),
        "conversation": entry.job.conversation_id if entry else None,
        "error": entry.outcome.error if entry else None,
        "form": entry.form.value if entry else None,
        "sends": entry.tries if entry else None,
        "send_reasons": list(entry.reasons) if entry else None,
    }
