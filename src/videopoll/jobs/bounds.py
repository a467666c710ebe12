"""Keeps what comes from outside, of whatever type and size, small and of one type before it is stored.

What ends a job is written to Redis several times: in the outbox, in the audit
trail, in a dead letter. A reason of ten megabytes would be there as often.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from videopoll._reasons import Reason
from videopoll.jobs.codec import is_number

if TYPE_CHECKING:
    from videopoll.jobs.codec import JsonValue

__all__ = [
    "MAX_DETAIL_CHARS",
    "MAX_ID_OF_OTHERS_CHARS",
    "bounded",
    "bounded_detail",
    "bounded_detail_or_none",
    "bounded_id_or_none",
    "time_or_none",
]

MAX_DETAIL_CHARS = 1_000
"""How much of a reason or a detail is kept."""

MAX_ID_OF_OTHERS_CHARS = 256
"""How much of an id that is not ours is kept: a message's at its channel, a file's at the API."""


def bounded(value: object, limit: int) -> str:
    """Return a value as a text of at most `limit` characters. Never raises."""
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - a host's object may not even be able to say what it is
        text = f"({type(value).__name__}: {type(error).__name__})"
    if isinstance(value, Reason):
        return value if len(text) <= limit else Reason(f"{text[: limit - 1]}…", value.told[:limit])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def bounded_detail(value: object) -> str:
    """Return a reason or a detail as a text that may be kept."""
    return bounded(value, MAX_DETAIL_CHARS)


def bounded_detail_or_none(value: object) -> str | None:
    """Return the same, and None for None."""
    return None if value is None else bounded_detail(value)


def bounded_id_or_none(value: object) -> str | None:
    """Return somebody else's id as a text that may be kept."""
    return None if value is None else bounded(value, MAX_ID_OF_OTHERS_CHARS)


def time_or_none(value: object) -> JsonValue:
    """Return somebody else's time if it is a number, a date or a short text; None for everything else."""
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, str):
        return value if value.strip() and len(value) <= MAX_ID_OF_OTHERS_CHARS and value.isprintable() else None
    return value if is_number(value) else None
