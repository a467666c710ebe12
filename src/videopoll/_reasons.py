"""What may be shown of a reason: our own words and codes, and never the words of others, by construction.

A reason for an operator is often somebody else's text: an API's error, what a
channel answered, what a host's function raised. Nobody can tell what stands in
it: a prompt, a number, a token. So a `Reason` carries two texts: all of it, for
who asks (``videopoll explain``, ``videopoll dead show``), and what of it is ours.
A plain string is somebody else's, and nothing of it is ours: who forgets to say
so shows too little, and never too much.

`told` is the one gate to events, and so to log lines, metrics and traces; to
`repr`, and to the lists of the command line. A host may open it (`show_texts`).
"""

from __future__ import annotations

import collections
import re
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

__all__ = [
    "WITHHELD",
    "Reason",
    "frames_of",
    "joined",
    "own",
    "quoting",
    "repr_told",
    "show_texts",
    "shown_name",
    "shown_word",
    "told",
    "told_of",
    "told_or_withheld",
    "trace_of",
]

LONGEST_WORD = 30

NO_WORD = "(no plain word)"

WITHHELD = "in words of others, which videopoll explain shows"
"""Stands where a reason is nothing but somebody else's text."""

MOST_EXCEPTIONS = 10
"""Exceptions of a chain or of a group that are named."""

_texts_shown = False

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")


class Reason(str):
    """A reason: the whole text, and in `told` what of it is ours."""

    __slots__ = ("told",)

    told: str

    def __new__(cls, text: str, told: str = "") -> Self:
        reason = super().__new__(cls, text)
        reason.told = told
        return reason

    def __reduce__(self) -> tuple[type[Reason], tuple[str, str]]:
        return Reason, (str(self), self.told)


def own(text: str) -> Reason:
    """Return a reason that is ours word for word: fixed words, numbers, names of types and settings."""
    return Reason(text, text)


def quoting(told: str, text: object) -> Reason:
    """Return a reason of our own words, and after them somebody else's."""
    return Reason(f"{told}: {text}", told)


def joined(before: str, reason: str) -> Reason:
    """Return our own words before a reason."""
    said = reason.told if isinstance(reason, Reason) else ""
    return Reason(f"{before}: {reason}", f"{before}: {said}" if said else before)


def told(reason: str | None) -> str | None:
    """Return what may be shown of a reason; None if that is nothing."""
    if reason is None or _texts_shown:
        return None if reason is None else str(reason)
    return (reason.told or None) if isinstance(reason, Reason) else None


def told_or_withheld(reason: str | None) -> str | None:
    """Return what may be shown of a reason, or that there is one; None if there is none."""
    return told(reason) or (WITHHELD if reason else None)


def told_of(error: BaseException) -> str:
    """Return what may be shown of an exception: our own words, if it has any, or its type."""
    said = error.args[0] if error.args else None
    return (told(said) if isinstance(said, str) else None) or type(error).__name__


def repr_told(value: object) -> str:
    """Write a reason as a part of a ``repr``."""
    if not isinstance(value, str):
        return repr(value) if value is None else f"<{type(value).__name__}>"
    shown = told(value)
    return "'…'" if shown is None else repr(shown)


def shown_word(word: str) -> str:
    """Return a status word of an API if it looks like one: letters, ``_`` and ``-``, at most 30; else a word of ours."""
    plain = len(word) <= LONGEST_WORD and word.replace("_", "").replace("-", "").isalpha()
    return word if plain or _texts_shown else NO_WORD


def shown_name(name: str | None) -> str | None:
    """Return a name that a host gave to a part of its own, if it is a plain one."""
    return name if name is None or _NAME.fullmatch(name) or _texts_shown else NO_WORD


def show_texts(shown: bool = True) -> None:  # noqa: FBT001, FBT002 - a switch with one argument
    """Show the words of others in events, log lines and ``repr``, too, in this process, from now on.

    They may quote prompts, phone numbers, tokens and signed links: turn it on
    where nobody but you reads them, for as long as you look for something.
    """
    global _texts_shown  # noqa: PLW0603 - one switch for the process, like the level of a log
    _texts_shown = shown


def trace_of(error: BaseException) -> str:
    """Return an exception's trace for the log: where and of which types, without texts and lines of source."""
    if _texts_shown:
        try:
            return "".join(traceback.format_exception(error)).rstrip()
        except Exception as untold:  # noqa: BLE001 - it may not even be able to say what it is
            return f"{type(error).__name__}, whose trace cannot be had ({type(untold).__name__})"
    named = [f"{frames_of(one)}{type(one).__name__}" for one in _chain(error)]
    return "\n-- which came of the following --\n".join(named)


def frames_of(error: BaseException) -> str:
    """Return where an exception came from, a line a frame."""
    found = collections.deque(traceback.walk_tb(error.__traceback__), MOST_FRAMES)
    return "".join(
        f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}\n' for frame, line in found
    )


MOST_FRAMES = 30


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, those in it if it is a group, and those that it came of."""
    waiting, met = [error], set[int]()
    while waiting and len(met) < MOST_EXCEPTIONS:
        one = waiting.pop(0)
        if id(one) in met:
            continue
        met.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        before = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        if before is not None:
            waiting.append(before)
