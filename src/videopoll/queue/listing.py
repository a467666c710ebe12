"""Which jobs are where: a flow that reads the list, the schedule, the flight, the outbox and the dead letters in steps.

A list of jobs that move is no snapshot: one that moves between two steps is told
once, where it was met first. Jobs that have ended stand in no list: they are
looked for among all keys, in bounded steps as well.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, TypeVar, cast

import attrs

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_seconds, check_texts, listed
from videopoll.jobs.codec import Poison, is_number, load_object, raw, text_of
from videopoll.jobs.job import JobState, VideoJob
from videopoll.jobs.outcome import DeadLetter, OutboxEntry, Outcome
from videopoll.jobs.views import JobPage, ListedJob
from videopoll.queue.calls import counted, holder_of
from videopoll.queue.connect import ms_of
from videopoll.queue.scripts import read

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis

    from videopoll.core.flow import Flow
    from videopoll.queue.schema import Keys

__all__ = ["JobFilter", "list_jobs"]

T = TypeVar("T")

IN_FLIGHT = (JobState.POLLING, JobState.DELIVERING)
"""Two states that share an index: only a job's keys tell them apart."""

PENDING = (*IN_FLIGHT, JobState.OUTBOX, JobState.SCHEDULED, JobState.QUEUED)
"""The states of jobs that have not ended, those first that somebody has in hand."""

PAGE = 200
"""Jobs that one step looks at: about a millisecond of Redis's time."""

SCAN_STEP = 1000
"""Keys that one step passes by while it looks for jobs that have ended."""

HALF = 0.5
"""What a score has behind the point if its job waits for its tenant's turn: since when it is due is in its lane."""

FAR_FUTURE_MS = 1 << 60
"""A score beyond this is no time."""

DOING = "listing jobs"


@attrs.frozen(kw_only=True)
class JobFilter:
    """Which jobs are asked for.

    Args:
        states: In these states; by default, all that have not ended.
        conversation_id: For this conversation.
        worker_id: In the hands of this worker.
        older_than_s: Enqueued more than so many seconds ago.
    """

    states: tuple[JobState, ...]
    conversation_id: str | None = None
    worker_id: str | None = None
    older_than_s: float | None = None

    @classmethod
    def of(
        cls,
        states: Iterable[JobState | str] | None,
        conversation_id: str | None,
        worker_id: str | None,
        older_than_s: float | None,
    ) -> JobFilter:
        """Read what a host asks for.

        Raises:
            ConfigurationError: A value cannot be what it is to be.
        """
        if isinstance(states, str):
            states = (states,)
        listable = [state for state in JobState if state is not JobState.ORPHANED]
        given = PENDING if states is None else listed(states, "list_jobs.states", "states")
        if not given or not all(isinstance(one, str) and one in listable for one in given):
            msg = (
                f"list_jobs.states must be of {', '.join(listable)}. An orphaned job stands in no list: look it up by"
                " its id, with get"
            )
            raise ConfigurationError(msg)
        if older_than_s is not None:
            check_seconds("list_jobs.older_than_s", older_than_s)
        check_texts("list_jobs", conversation_id=conversation_id, worker_id=worker_id)
        return cls(
            states=tuple(dict.fromkeys(JobState(one) for one in given)),
            conversation_id=conversation_id,
            worker_id=worker_id,
            older_than_s=older_than_s,
        )

    def keeps(self, job: ListedJob, now_ms: int) -> bool:
        """Whether this is a job that is asked for."""
        return (
            job.state in self.states
            and self.conversation_id in {None, job.conversation_id}
            and self.worker_id in {None, job.worker_id}
            and (
                self.older_than_s is None
                or (job.start_ms is not None and now_ms - job.start_ms > self.older_than_s * 1000)
            )
        )

    @property
    def everything(self) -> bool:
        """Whether all jobs of an index are asked for, so that no step has to read more than is returned."""
        narrowed = (self.conversation_id, self.worker_id, self.older_than_s) != (None, None, None)
        return not narrowed and len(set(IN_FLIGHT) & set(self.states)) != 1


def list_jobs(client: redis.Redis, keys: Keys, wanted: JobFilter, *, limit: int, offset: int) -> Flow[JobPage]:
    """Return the jobs that are asked for, index by index, without the first `offset`."""
    now_ms = ms_of((yield from read(client, DOING, client.time)))
    found: dict[str, ListedJob] = {}
    enough = offset + limit + 1
    for states in _indexes(wanted.states):
        if states == (JobState.SETTLED,):
            for job in (yield from _settled(client, keys, wanted, now_ms, enough - len(found))):
                found.setdefault(job.job_id, job)
            continue
        start = 0
        while len(found) < enough:
            page = min(PAGE, enough - len(found)) if wanted.everything else PAGE
            ids = yield from _page(client, keys, states[0], start, page)
            for job in (yield from _describe(client, keys, states[0], ids)) if ids else ():
                if wanted.keeps(job, now_ms):
                    found.setdefault(job.job_id, job)
            start += len(ids)
            if len(ids) < page:
                break
    jobs = tuple(found.values())[offset:]
    return JobPage(jobs[:limit], more=len(jobs) > limit, now_ms=now_ms)


def _indexes(states: tuple[JobState, ...]) -> Iterable[tuple[JobState, ...]]:
    """Return what is to be gone through: a state's index, or the flight, which has the jobs of two."""
    return dict.fromkeys(IN_FLIGHT if state in IN_FLIGHT else (state,) for state in states)


def _page(
    client: redis.Redis, keys: Keys, state: JobState, start: int, page: int
) -> Flow[list[tuple[bytes, float | None]]]:
    """Return ids and scores of an index."""
    last = start + page - 1
    if state is JobState.WATCHED:
        # Those whose watch is over stay in the set for a while.
        now_ms = ms_of((yield from read(client, DOING, client.time)))
        scores = yield from read(
            client, DOING, client.zrangebyscore, keys.watched, now_ms, "+inf", start, page, withscores=True
        )
        return cast("list[tuple[bytes, float | None]]", scores)
    if state is JobState.QUEUED:
        # Jobs are taken from the right end.
        ids = yield from read(client, DOING, client.lrange, keys.queue, -last - 1, -start - 1)
        return [(one, None) for one in reversed(cast("list[bytes]", ids))]
    key = {
        JobState.SCHEDULED: keys.schedule,
        JobState.POLLING: keys.inflight,
        JobState.OUTBOX: keys.deliveries,
        JobState.DEAD: keys.dead,
    }[state]
    scores = yield from read(
        client, DOING, client.zrange, key, start, last, desc=state is JobState.DEAD, withscores=True
    )
    return cast("list[tuple[bytes, float | None]]", scores)


def _ms(score: float | None) -> int | None:
    return int(score) if score is not None and abs(score) < FAR_FUTURE_MS else None


def _describe(
    client: redis.Redis, keys: Keys, index: JobState, some: list[tuple[bytes, float | None]]
) -> Flow[list[ListedJob]]:
    ids = [text_of(one) for one, _ in some]
    fields = cast("list[str]", [one for one, _ in some])

    def ask() -> object:
        batch = client.pipeline(transaction=False)
        for key in (keys.job, keys.watch if index is JobState.WATCHED else keys.outbox, keys.attempts):
            batch.mget([raw(key(one)) for one in ids])
        batch.hmget(keys.leases, fields)
        batch.hmget(keys.letters, fields)
        return batch.execute()

    columns = cast("list[list[bytes | None]]", (yield from read(client, DOING, ask)))
    jobs = [
        _job_of(job_id, _ms(score), index, *values)
        for (_, score), job_id, *values in zip(some, ids, *columns, strict=True)
    ]
    if not any(score is not None and score % 1 == HALF for _, score in some):
        return jobs

    def ask_lanes() -> object:
        lane = keys.lane if index is JobState.SCHEDULED else keys.send_lane
        batch = client.pipeline(transaction=False)
        for field, job in zip(fields, jobs, strict=True):
            batch.zscore(lane(job.tenant or ""), field)
        return batch.execute()

    dues = cast("list[float | None]", (yield from read(client, DOING, ask_lanes)))
    return [
        job if due is None or score is None or score % 1 != HALF else attrs.evolve(job, at_ms=_ms(due))
        for job, due, (_, score) in zip(jobs, dues, some, strict=True)
    ]


def _job_of(  # noqa: PLR0917 - what stands under the keys of one job
    job_id: str,
    at_ms: int | None,
    index: JobState,
    record: bytes | None,
    outbox: bytes | None,
    polls: bytes | None,
    token: bytes | None,
    letter: bytes | None,
) -> ListedJob:
    entry = _good(OutboxEntry.from_json(job_id, outbox)) if outbox is not None else None
    dead = DeadLetter.from_json(job_id, letter) if index is JobState.DEAD and letter is not None else None
    if dead is not None:
        entry = entry or dead.entry
        record = record or (dead.record.encode() if dead.record is not None else None)
    job = _good(VideoJob.from_record(job_id, record)) if record is not None else None
    job = job or (entry.job if entry else None)
    in_flight = index in IN_FLIGHT
    return ListedJob(
        job_id=job_id,
        state=JobState.DELIVERING if in_flight and entry else index,
        conversation_id=job.conversation_id if job else None,
        tenant=job.tenant if job else None,
        start_ms=job.start_ms if job else None,
        at_ms=at_ms,
        polls=counted(polls) if entry is None else None,
        sends=entry.tries if entry else 0,
        worker_id=holder_of(token) if in_flight else None,
        outcome=entry.outcome.kind if entry else None,
        reason=dead.reason if dead else None,
    )


def _settled(client: redis.Redis, keys: Keys, wanted: JobFilter, now_ms: int, most: int) -> Flow[list[ListedJob]]:
    """Return jobs that have ended, those that ended last first."""
    start, cursor = keys.completed("").encode(), 0
    met, last = set[bytes](), list[ListedJob]()
    while True:
        cursor, some = yield from read(
            client, DOING, client.scan, cursor, f"{keys.completed('')}*", SCAN_STEP, "string"
        )
        # A scan may give the same key twice.
        names = [name for name in cast("list[bytes]", some) if name not in met]
        met.update(names)
        values = (yield from read(client, DOING, client.mget, names)) if names else []
        jobs = [
            _settled_job(text_of(name.removeprefix(start)), value)
            for name, value in zip(names, cast("list[bytes | None]", values), strict=True)
            if value is not None
        ]
        unsure = [raw(keys.watch(job.job_id)) for job in jobs if job.delivered is None]
        if unsure:
            # Those that are watched are listed as such.
            values = yield from read(client, DOING, client.mget, unsure)
            held = {name for name, value in zip(unsure, cast("list[bytes | None]", values), strict=True) if value}
            jobs = [job for job in jobs if job.delivered is not None or raw(keys.watch(job.job_id)) not in held]
        last = heapq.nlargest(
            most, (*last, *(job for job in jobs if wanted.keeps(job, now_ms))), key=lambda job: job.at_ms or 0
        )
        if cursor == 0:
            return last


def _settled_job(job_id: str, value: bytes) -> ListedJob:
    outcome, fields = _good(Outcome.from_completed(value)), _good(load_object(value)) or {}
    at_ms = outcome.at_ms if outcome else None
    took_ms, delivered, conversation = (fields.get(name) for name in ("processingTime", "delivered", "conversationId"))
    return ListedJob(
        job_id=job_id,
        state=JobState.SETTLED,
        conversation_id=conversation if isinstance(conversation, str) else None,
        start_ms=at_ms - int(took_ms) if at_ms and is_number(took_ms) else None,
        at_ms=at_ms,
        polls=None,
        sends=None,
        outcome=outcome.kind if outcome else None,
        reason=outcome.error if outcome else None,
        delivered=delivered if isinstance(delivered, bool) else None,
    )


def _good(value: T | Poison) -> T | None:
    return None if isinstance(value, Poison) else value
