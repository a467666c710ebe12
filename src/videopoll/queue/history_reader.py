"""Reads what `videopoll.queue.history` keeps: what happened to jobs, and which workers there are; each a flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from videopoll.jobs.codec import Poison, is_number, load_object, raw, text_of
from videopoll.jobs.views import HistoryEntry, HistoryEvent, WorkerInfo
from videopoll.queue.connect import ms_of
from videopoll.queue.history import MAX_ENTRIES
from videopoll.queue.scripts import read

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis

    from videopoll.core.flow import Flow
    from videopoll.jobs.codec import JsonValue
    from videopoll.queue.schema import Keys

__all__ = ["read_history", "read_workers"]

PAGE = 1_000
"""Entries that one step of reading looks at: a few milliseconds of Redis's time."""

ALIVE_MS = 10_000
"""A worker whose last beat is older than this, in milliseconds, is not alive."""

MOST_PROBLEMS = 10
MOST_APIS = 100
"""Problems of a worker that are read."""

_BETWEEN_POLLS = frozenset({HistoryEvent.TAKEN, HistoryEvent.TAKEN_OVER, HistoryEvent.LEASE_LOST})


def read_history(client: redis.Redis, keys: Keys, job_id: str | None, *, limit: int) -> Flow[tuple[HistoryEntry, ...]]:
    """Return the newest entries of one job, or of all, in the order of time.

    The stream is read backwards, in steps; what cannot be read is passed over.
    """
    wanted = None if job_id is None else raw(job_id)
    # Without a filter, no step reads more than is returned.
    page = PAGE if job_id is not None else min(limit, PAGE)
    newest: list[HistoryEntry] = []
    last, seen, looked = "+", set[bytes](), 0
    while looked < 2 * MAX_ENTRIES and len(newest) < limit:
        reply = yield from read(client, "reading the history", client.xrevrange, keys.history, max=last, count=page)
        found = cast("list[tuple[bytes, dict[bytes, bytes]]]", reply)
        for stream_id, fields in found:
            # A repeated write has the number of the first.
            number = fields.get(b"n", stream_id)
            entry = _entry_of(stream_id, fields) if wanted in {None, fields.get(b"job")} else None
            if entry is not None and number not in seen and len(newest) < limit:
                seen.add(number)
                newest.append(entry)
        looked += len(found)
        if len(found) < page:
            break
        last = f"({found[-1][0].decode()}"
    ordered = _in_order(newest)
    return ordered if job_id is None else _without_repeats(ordered)


def _without_repeats(entries: tuple[HistoryEntry, ...]) -> tuple[HistoryEntry, ...]:
    """Leave out a status that was known: each worker that meets it first tells of it."""
    told: list[HistoryEntry] = []
    last: object = None
    for entry in entries:
        if entry.event is HistoryEvent.STATUS:
            if entry.details.get("status") == last:
                continue
            last = entry.details.get("status")
        elif entry.event not in _BETWEEN_POLLS:
            last = None
        told.append(entry)
    return tuple(told)


def _entry_of(stream_id: bytes, fields: dict[bytes, bytes]) -> HistoryEntry | None:
    text = fields.get(b"text")
    try:
        at_ms = int(stream_id.partition(b"-")[0]) - int(fields.get(b"ago", b"0"))
        event = HistoryEvent(text_of(fields[b"step"]))
    except (KeyError, ValueError):
        return None
    details = load_object(fields.get(b"details", b"{}"))
    if isinstance(details, Poison):
        return None
    return HistoryEntry(
        at_ms,
        event,
        text_of(fields.get(b"job", b"")),
        text_of(fields.get(b"by", b"")),
        details,
        text_of(text) if text else None,
    )


def _in_order(entries: Iterable[HistoryEntry]) -> tuple[HistoryEntry, ...]:
    # Turned around first: entries of the same millisecond keep the order in which they were written.
    found = list(entries)
    found.reverse()
    return tuple(sorted(found, key=lambda entry: entry.at_ms))


def read_workers(client: redis.Redis, keys: Keys) -> Flow[tuple[WorkerInfo, ...]]:
    """Return the workers of the last hour that keep a history, those that beat last first; 1,000 at most."""
    doing = "reading the workers"
    reply = yield from read(client, doing, client.zrevrange, keys.workers, 0, PAGE - 1, withscores=True)
    beats = cast("list[tuple[bytes, float]]", reply)
    if not beats:
        return ()
    ids = cast("list[str]", [one for one, _ in beats])
    loads = cast("list[bytes | None]", (yield from read(client, doing, client.hmget, keys.loads, ids)))
    now_ms = ms_of((yield from read(client, doing, client.time)))
    return tuple(_worker_of(one, round(beat), now_ms, load) for (one, beat), load in zip(beats, loads, strict=True))


def _addresses(told: JsonValue) -> dict[str, str]:
    named = list(told.items())[:MOST_APIS] if isinstance(told, dict) else []
    return {name: url for name, url in named if isinstance(url, str)}


def _worker_of(worker_id: bytes, beat_ms: int, now_ms: int, load: bytes | None) -> WorkerInfo:
    fields = {} if load is None else load_object(load)
    if isinstance(fields, Poison):
        fields = {}

    def text(name: str) -> str:
        value = fields.get(name)
        return value if isinstance(value, str) else ""

    def number(name: str) -> int:
        value = fields.get(name)
        return int(value) if is_number(value) else 0

    problems = fields.get("problems")
    return WorkerInfo(
        worker_id=text_of(worker_id),
        beat_ms=beat_ms,
        alive=now_ms - beat_ms <= ALIVE_MS,
        version=text("version"),
        kind=text("kind"),
        concurrency=number("concurrency"),
        polls_in_hand=number("polls_in_hand"),
        sends_in_hand=number("sends_in_hand"),
        started_ms=number("started_ms"),
        host=text("host"),
        pid=number("pid"),
        problems=tuple(str(one) for one in problems[:MOST_PROBLEMS]) if isinstance(problems, list) else (),
        video_api=text("video_api"),
        video_apis=_addresses(fields.get("video_apis")),
    )
