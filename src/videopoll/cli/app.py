"""Puts the commands together: their order, their groups, and what the whole says of itself."""

from __future__ import annotations

from typing import Annotated

import typer

from videopoll import __version__
from videopoll.cli.commands import (
    cancel,
    dead,
    doctor,
    drain,
    enqueue,
    explain,
    hand_back,
    jobs,
    poll_now,
    providers,
    show,
    status,
    watch,
    worker,
)
from videopoll.cli.demo import command as demo

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    no_args_is_help=True,
    # A stack trace with local variables would show tokens.
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - the signature of an option's callback
    if asked:
        typer.echo(f"videopoll {__version__}")
        raise typer.Exit


@app.callback()
def videopoll(
    version: Annotated[  # noqa: FBT002 - its callback has acted
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Wait for AI-generated videos, and deliver them.

    A worker polls the video API for every job in Redis, and brings the finished
    video, or a word about what went wrong, to the person who asked.

    \b
    videopoll demo                                  see all of it work, on this machine alone
    videopoll worker                                run a worker
    videopoll enqueue job_17 --conversation c_42    hand it a job
    videopoll status                                how is it going?
    videopoll explain job_17                        where is this user's video, and why?
    videopoll doctor                                what is wrong, and what fixes it?

    Settings are environment variables, too: --redis-url is VIDEOPOLL_REDIS_URL.
    """  # noqa: D301 - a backspace keeps line ends in the help


RUN, OPERATE = "Run", "Look and act"
app.command("demo", rich_help_panel=RUN)(demo.demo)
app.command("worker", rich_help_panel=RUN)(worker.worker)
app.command("enqueue", rich_help_panel=RUN)(enqueue.enqueue)
app.command("providers", rich_help_panel=RUN)(providers.providers)
app.command("status", rich_help_panel=OPERATE)(status.status)
app.command("watch", rich_help_panel=OPERATE)(watch.watch)
app.command("jobs", rich_help_panel=OPERATE)(jobs.jobs)
app.command("show", rich_help_panel=OPERATE)(show.show)
app.command("explain", rich_help_panel=OPERATE)(explain.explain)
app.command("poll-now", rich_help_panel=OPERATE)(poll_now.poll_now)
app.command("cancel", rich_help_panel=OPERATE)(cancel.cancel)
app.command("drain", rich_help_panel=OPERATE)(drain.drain)
app.command("hand-back", rich_help_panel=OPERATE)(hand_back.hand_back)
app.command("doctor", rich_help_panel=OPERATE)(doctor.doctor)
app.add_typer(dead.app, name="dead", rich_help_panel=OPERATE)
