"""What the commands print: tables for people, plain lines for pipes, JSON for programs; and how errors end.

Everything that comes out of Redis is shown as text, never read as markup.
"""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar
from urllib.parse import urlsplit

import typer

from videopoll.cli.certificates import with_certificates, without_certificates
from videopoll.errors import ConfigurationError, InvalidJobError, QueueUnavailableError, VideopollError
from videopoll.observe.log import LONGEST_SHOWN, shown

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "age",
    "complain",
    "complain_of_address",
    "duration",
    "guarded",
    "mask",
    "masked_url",
    "print_json",
    "print_rows",
    "print_values",
    "when",
]

P = ParamSpec("P")
T = TypeVar("T")

Cell: TypeAlias = str | int | float | None

USAGE = 2
"""The exit code of a call that cannot work as it is written."""

SHORT_ADDRESS_CHARS = 8

LONGEST_VALUE = 5000
"""Characters of a value that stands alone in its line: several reasons for one job, at most."""

MINUTE_S = 60
"""Also the minutes of an hour."""

INTERRUPTED = 130
"""The exit code after a Ctrl-C, as in a shell."""


def guarded(command: Callable[P, T]) -> Callable[P, T]:
    """Wrap a command so that its errors end as one line and an exit code, never as a stack trace.

    If it has a URL of Redis, it has the options for certificates, too.
    """

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **without_certificates(kwargs))
        except VideopollError as error:
            complain(str(error))
            if isinstance(error, QueueUnavailableError):
                complain_of_address(kwargs.get("redis_url"), kwargs.get("partitions"))
            # Both say that what was asked for is wrong, not that it failed.
            raise typer.Exit(USAGE if isinstance(error, ConfigurationError | InvalidJobError) else 1) from error
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of our output has closed it. What Python flushes at its end goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None

    with_certificates(command, call)
    call.__doc__ = _flowing(command.__doc__)
    return call


def _flowing(text: str | None) -> str | None:
    """Return a help whose paragraphs have no line ends of their own, which Typer keeps; lines below a backspace do."""
    if text is None:
        return None
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(one if one.startswith("\b") else one.replace("\n", " ") for one in paragraphs)


def complain(text: str) -> None:
    """Write one line to standard error."""
    typer.echo(f"videopoll: {text}", err=True)


def complain_of_address(redis_url: object, partitions: object = None) -> None:
    """Write to standard error where Redis was looked for, as most often another one was meant. No credentials are written."""
    if isinstance(redis_url, str):
        at = re.sub(r"//.*@", "//", redis_url, flags=re.DOTALL).partition("?")[0]
        complain(f"Redis was looked for at {shown(at)}: --redis-url or VIDEOPOLL_REDIS_URL names another place")
        if partitions is None and "+cluster:" in redis_url:
            # Their number is asked of the first one.
            complain("if the queue has several partitions, --partitions N looks at those that answer")


def print_json(value: object) -> None:
    """Write one line of JSON; an id that is no text stays as escapes."""
    typer.echo(json.dumps(value))


def print_values(values: Mapping[str, Cell], *, title: str = "") -> None:
    """Write names and values: a table on a terminal, ``name: value`` in a pipe."""
    if not sys.stdout.isatty():
        for name, value in values.items():
            typer.echo(f"{name}: {_plain(value, LONGEST_VALUE)}")
        return
    table = _table(title, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(_text(name), _cell(value, LONGEST_VALUE))
    _show(table)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, title: str = "") -> None:
    """Write records: a table on a terminal, lines with tabs and without a head in a pipe."""
    if not sys.stdout.isatty():
        for row in rows:
            typer.echo("\t".join(_plain(value) for value in row))
        return
    table = _table(title)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    _show(table)


# rich is for terminals: a worker and a pipe start a tenth sooner without.


def _table(title: str, *, show_header: bool = True) -> Table:
    from rich.table import Table  # noqa: PLC0415

    return Table(title=title or None, title_justify="left", show_header=show_header)


def _text(text: str) -> Text:
    from rich.text import Text  # noqa: PLC0415

    return Text(text)


def _show(table: Table) -> None:
    from rich.console import Console  # noqa: PLC0415

    Console().print(table)


def _plain(value: Cell, longest: int = LONGEST_SHOWN) -> str:
    if value is None:
        return "-"
    return shown(str(value), longest) if isinstance(value, str) else f"{value:,}".replace(",", "")


def _cell(value: Cell, longest: int = LONGEST_SHOWN) -> Text:
    if isinstance(value, int):
        return _text(f"{value:,}")
    return _text(_plain(value, longest))


def when(at_ms: int | None) -> str | None:
    """Format a time in Unix milliseconds as UTC; None stays None."""
    if at_ms is None:
        return None
    try:
        return (
            dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC)
            .isoformat(sep=" ", timespec="seconds")
            .replace("+00:00", "Z")
        )
    except (OverflowError, OSError, ValueError):
        return f"{at_ms} ms"


def time_of_day(at_ms: int) -> str:
    """Format a time in Unix milliseconds as UTC, without the day."""
    moment = when(at_ms) or ""
    return f"{moment[11:19]}.{at_ms % 1000 // 100}" if moment.endswith("Z") else moment


def age(from_ms: int, to_ms: int) -> str:
    """Format the distance of two times in Unix milliseconds, e.g. ``in 4.0 s`` or ``3 min 5 s ago``."""
    seconds = (from_ms - to_ms) / 1000
    return f"in {duration(seconds)}" if seconds >= 0 else f"{duration(-seconds)} ago"


def duration(seconds: float) -> str:
    """Format a duration, e.g. ``850 ms``, ``4.2 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < MINUTE_S:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), MINUTE_S)
    if minutes < MINUTE_S:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, MINUTE_S)
    return f"{hours} h {minutes} min"


def mask(address: str) -> str:
    """Hide the middle of a phone number or another address."""
    shown_part = re.sub(r"\D", "", address.partition("@")[0]) or address
    # Of a short one, three and two characters would give away too much.
    return f"{shown_part[:3]}•••{shown_part[-2:]}" if len(shown_part) > SHORT_ADDRESS_CHARS else "•••"


def masked_url(url: str) -> str:
    """Return a URL without its query, which may be a signature; what is no URL is hidden whole."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "•••"
    if parts.scheme not in {"http", "https"}:
        return "•••"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?•••" if parts.query else "")
