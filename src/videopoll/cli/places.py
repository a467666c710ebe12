"""Which jobs are where: read in bounded steps from the list, the schedule, the flight, the outbox and the dead letters.

A list of jobs that move is no snapshot: one that moves between two steps is told
once, where it was met first. Jobs that have ended stand in no list: they are
looked for among all keys, in bounded steps as well.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import attrs
import redis

from videopoll.jobs.codec import Poison, is_number, load_object, raw, text_of
from videopoll.jobs.job import VideoJob
from videopoll.jobs.outcome import DeadLetter, OutboxEntry, Outcome
from videopoll.queue.calls import counted, holder_of
from videopoll.queue.connect import queue_errors
from videopoll.queue.schema import Keys

__all__ = ["Listed", "Place", "list_jobs", "oldest_of"]

T = TypeVar("T")

PAGE = 200
"""Jobs that one step looks at: about a millisecond of Redis's time."""

SCAN_STEP = 1000
"""Keys that one step passes by while it looks for jobs that have ended."""

OLDEST_OF = 100
"""Jobs of each place among which the oldest is looked for."""

FAR_FUTURE_MS = 1 << 60
"""Records are read whatever their producer's clock says."""


class Place(enum.StrEnum):
    """Where a job can be listed."""

    QUEUED = "queued"
    SCHEDULED = "scheduled"
    IN_FLIGHT = "in_flight"
    OUTBOX = "outbox"
    DEAD = "dead"
    SETTLED = "settled"


@attrs.frozen(kw_only=True)
class Listed:
    """A job as it is listed.

    Args:
        job_id: Its id, exactly as it stands in Redis.
        place: Where it is.
        state: A closer word for it: of the jobs in flight, some are polled and some delivered.
        conversation: Whom it is for; None without a record.
        start_ms: When it was enqueued, in Unix milliseconds; None without a record.
        at_ms: When it is due, its lease ends, it ended or died; None in the list.
        polls: Polls begun; None where that is not kept.
        sends: Sends begun; None where that is not kept.
        worker: Who holds it.
        outcome: How its polling ended.
        reason: Why it is a dead letter, or there is no video.
        delivered: Whether its user has got its outcome; None where that is not kept.
    """

    job_id: str
    place: Place
    state: str
    conversation: str | None = None
    start_ms: int | None = None
    at_ms: int | None = None
    polls: int | None = 0
    sends: int | None = 0
    worker: str | None = None
    outcome: str | None = None
    reason: str | None = None
    delivered: bool | None = None


def list_jobs(
    client: redis.Redis,
    keys: Keys,
    places: tuple[Place, ...],
    *,
    limit: int,
    keep: Callable[[Listed], bool] | None = None,
) -> tuple[list[Listed], bool]:
    """Return jobs, in each place those first whose turn is next or who ended last, and whether there are more.

    Raises:
        QueueError: Redis is away or says no.
    """
    found: list[Listed] = []
    seen = set[str]()
    for place in places:
        for some in _steps(client, keys, place, keep, limit - len(found) + 1):
            for one in some:
                if one.job_id not in seen and (keep is None or keep(one)):
                    seen.add(one.job_id)
                    found.append(one)
            if len(found) > limit:
                return found[:limit], True
    return found, False


def _steps(
    client: redis.Redis, keys: Keys, place: Place, keep: Callable[[Listed], bool] | None, wanted: int
) -> Iterator[Iterator[Listed]]:
    if place is Place.SETTLED:
        ended = (one for some in _settled(client, keys) for one in some if keep is None or keep(one))
        yield iter(heapq.nlargest(wanted, ended, key=lambda one: one.at_ms or 0))
        return
    # Without a filter, no step reads more than is shown.
    for some in _pages(client, keys, place, PAGE if keep else max(1, min(PAGE, wanted))):
        yield _describe(client, keys, place, some)


def oldest_of(client: redis.Redis, keys: Keys) -> Listed | None:
    """Return the job that waits for its end longest, of the first 100 of each place.

    Raises:
        QueueError: Redis is away or says no.
    """
    living = (Place.QUEUED, Place.SCHEDULED, Place.IN_FLIGHT, Place.OUTBOX)
    found = [one for place in living for one in list_jobs(client, keys, (place,), limit=OLDEST_OF)[0]]
    return min((one for one in found if one.start_ms is not None), key=lambda one: one.start_ms or 0, default=None)


def _pages(client: redis.Redis, keys: Keys, place: Place, page: int) -> Iterator[list[tuple[bytes, int | None]]]:
    """Return ids and times of a place, step by step."""
    offset = 0
    while True:
        with queue_errors("listing jobs"):
            some = _page(client, keys, place, offset, page)
        if some:
            yield some
        if len(some) < page:
            return
        offset += len(some)


def _page(client: redis.Redis, keys: Keys, place: Place, offset: int, page: int) -> list[tuple[bytes, int | None]]:
    last = offset + page - 1
    if place is Place.QUEUED:
        # Jobs are taken from the right end.
        ids = cast("list[bytes]", client.lrange(keys.queue, -last - 1, -offset - 1))
        return [(one, None) for one in reversed(ids)]
    key = {
        Place.SCHEDULED: keys.schedule,
        Place.IN_FLIGHT: keys.inflight,
        Place.OUTBOX: keys.deliveries,
        Place.DEAD: keys.dead,
    }[place]
    scores = client.zrange(key, offset, last, desc=place is Place.DEAD, withscores=True)
    return [(one, _ms(score)) for one, score in cast("list[tuple[bytes, float]]", scores)]


def _ms(score: float) -> int | None:
    return int(score) if abs(score) < FAR_FUTURE_MS else None


def _describe(client: redis.Redis, keys: Keys, place: Place, some: list[tuple[bytes, int | None]]) -> Iterator[Listed]:
    ids = [text_of(one) for one, _ in some]
    with queue_errors("listing jobs"), client.pipeline(transaction=False) as batch:
        for key in (keys.job, keys.outbox, keys.attempts):
            batch.mget([raw(key(one)) for one in ids])
        batch.hmget(keys.leases, cast("list[str]", [one for one, _ in some]))
        batch.hmget(keys.letters, cast("list[str]", [one for one, _ in some]))
        records, outboxes, attempts, tokens, letters = cast("list[list[bytes | None]]", batch.execute())
    for (_, at_ms), job_id, record, outbox, polls, token, letter in zip(
        some, ids, records, outboxes, attempts, tokens, letters, strict=True
    ):
        job = _good(VideoJob.from_record(job_id, record)) if record is not None else None
        entry = _good(OutboxEntry.from_json(job_id, outbox)) if outbox is not None else None
        dead = DeadLetter.from_json(job_id, letter) if place is Place.DEAD and letter is not None else None
        if dead is not None:
            entry = entry or dead.entry
        job = job or (entry.job if entry else None)
        yield Listed(
            job_id=job_id,
            place=place,
            state=("delivering" if entry else "polling") if place is Place.IN_FLIGHT else place.value,
            conversation=job.conversation_id if job else None,
            start_ms=job.start_ms if job else None,
            at_ms=at_ms,
            polls=counted(polls) if entry is None else None,
            sends=entry.tries if entry else 0,
            worker=holder_of(token) if place is Place.IN_FLIGHT else None,
            outcome=entry.outcome.kind.value if entry else None,
            reason=dead.reason if dead else None,
        )


def _settled(client: redis.Redis, keys: Keys) -> Iterator[Iterator[Listed]]:
    """Return the jobs that have ended, step by step, in no order."""
    start, cursor = keys.completed("").encode(), 0
    met = set[bytes]()
    while True:
        with queue_errors("looking for jobs that have ended"):
            cursor, found = client.scan(cursor, match=f"{keys.completed('')}*", count=SCAN_STEP, _type="string")
            # A scan may give the same key twice.
            names = [name for name in cast("list[bytes]", found) if name not in met]
            met.update(names)
            values = cast("list[bytes | None]", client.mget(names)) if names else []
        yield (
            _ended(text_of(name.removeprefix(start)), value)
            for name, value in zip(names, values, strict=True)
            if value is not None
        )
        if cursor == 0:
            return


def _ended(job_id: str, value: bytes) -> Listed:
    outcome, fields = _good(Outcome.from_completed(value)), _good(load_object(value)) or {}
    at_ms = outcome.at_ms if outcome else None
    took_ms, delivered, conversation = (fields.get(name) for name in ("processingTime", "delivered", "conversationId"))
    return Listed(
        job_id=job_id,
        place=Place.SETTLED,
        state=Place.SETTLED.value,
        conversation=conversation if isinstance(conversation, str) else None,
        start_ms=at_ms - int(took_ms) if at_ms and is_number(took_ms) else None,
        at_ms=at_ms,
        polls=None,
        sends=None,
        outcome=outcome.kind.value if outcome else None,
        reason=outcome.error if outcome else None,
        delivered=delivered if isinstance(delivered, bool) else None,
    )


def _good(value: T | Poison) -> T | None:
    return None if isinstance(value, Poison) else value
