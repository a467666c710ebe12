"""The scripts of what operators see as typed calls: the history, and the workers' heartbeats."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from videopoll.queue.scripts import Script, ScriptCall

if TYPE_CHECKING:
    from collections.abc import Iterable

    from videopoll.queue.schema import Keys

__all__ = ["SCRIPTS", "HistoryWords", "beat", "note"]

BEAT = Script.load("beat")
NOTE = Script.load("note")

SCRIPTS = (BEAT, NOTE)

HistoryWords: TypeAlias = "tuple[bytes, str, str, str, bytes, int, str]"
"""An entry of the history: job, step, worker, details as JSON or nothing, text or nothing, its age in ms, its number."""


def beat(keys: Keys, worker_id: str, load: str, keep_s: int) -> ScriptCall[bool]:
    """Report how busy a worker is; with no load, that it leaves."""
    return ScriptCall(BEAT, (keys.workers, keys.loads), (worker_id, load, keep_s), lambda reply: reply == 1)


def note(keys: Keys, entries: Iterable[HistoryWords], *, most: int, keep_s: int) -> ScriptCall[bool]:
    """Add entries to the history."""
    words = (most, keep_s, *(word for entry in entries for word in entry))
    return ScriptCall(NOTE, (keys.history,), words, lambda reply: reply == 1)
