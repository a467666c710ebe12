"""Puts the commands together: their order, their groups, and what the whole says of itself."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated

import typer

from videopoll import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "build_app"]

RUN, OPERATE = "Run", "Look and act"

COMMANDS = {
    "demo": (RUN, "videopoll.cli.demo.command", "demo"),
    "worker": (RUN, "videopoll.cli.commands.worker", "worker"),
    "enqueue": (RUN, "videopoll.cli.commands.enqueue", "enqueue"),
    "providers": (RUN, "videopoll.cli.commands.providers", "providers"),
    "channels": (RUN, "videopoll.cli.commands.channels", "channels"),
    "status": (OPERATE, "videopoll.cli.commands.status", "status"),
    "watch": (OPERATE, "videopoll.cli.commands.watch", "watch"),
    "jobs": (OPERATE, "videopoll.cli.commands.jobs", "jobs"),
    "show": (OPERATE, "videopoll.cli.commands.show", "show"),
    "explain": (OPERATE, "videopoll.cli.commands.explain", "explain"),
    "poll-now": (OPERATE, "videopoll.cli.commands.poll_now", "poll_now"),
    "cancel": (OPERATE, "videopoll.cli.commands.cancel", "cancel"),
    "drain": (OPERATE, "videopoll.cli.commands.drain", "drain"),
    "hand-back": (OPERATE, "videopoll.cli.commands.hand_back", "hand_back"),
    "partitions": (OPERATE, "videopoll.cli.commands.partitions", "partitions"),
    "doctor": (OPERATE, "videopoll.cli.commands.doctor", "doctor"),
    "acl": (OPERATE, "videopoll.cli.commands.acl", "acl"),
    "dead": (OPERATE, "videopoll.cli.commands.dead", "app"),
}
"""In the order of the help: each command's group, its module, and what it is called there."""


def build_app(arguments: Sequence[str] = ()) -> typer.Typer:
    """Return the command line.

    Args:
        arguments: What the process was called with. If they begin with a command,
            the others are left out: to import and build them all takes half a second.
    """
    app = typer.Typer(
        no_args_is_help=True,
        # A stack trace with local variables would show tokens.
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(videopoll)
    for name in arguments[:1] if COMMANDS.keys() & set(arguments[:1]) else COMMANDS:
        group, module, attribute = COMMANDS[name]
        command = getattr(importlib.import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=group)
        else:
            app.command(name, rich_help_panel=group)(command)
    return app


def _print_version(asked: bool) -> None:  # noqa: FBT001 - the signature of an option's callback
    if asked:
        typer.echo(f"videopoll {__version__}")
        raise typer.Exit


def videopoll(
    version: Annotated[  # noqa: FBT002 - its callback has acted
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Wait for AI-generated videos, and deliver them.

    A worker polls the video API for every job in Redis, and brings the finished
    video, or a word about what went wrong, to the person who asked.

    \b
    videopoll demo                                  see all of it work
    videopoll worker                                run a worker
    videopoll enqueue job_17 --conversation c_42    hand it a job
    videopoll status                                how is it going?
    videopoll explain job_17                        where is this user's video?
    videopoll doctor                                what is wrong?

    Settings are environment variables, too: --redis-url is VIDEOPOLL_REDIS_URL.
    """  # noqa: D301 - a backspace keeps line ends in the help
