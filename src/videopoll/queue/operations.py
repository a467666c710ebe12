"""What the queue does, each thing once: flows over Redis that `RedisVideoJobQueue` and its asyncio twin carry out.

Most are one script (`videopoll.queue.calls`). The clients are typed as the sync
ones; see `videopoll.queue.scripts`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from videopoll import events
from videopoll._reasons import own
from videopoll.core.delivery import open_outbox
from videopoll.core.flow import do
from videopoll.errors import (
    InvalidJobError,
    JobNotFoundError,
    PartitionsAwayError,
    QueueRefusedError,
    QueueUnavailableError,
)
from videopoll.jobs.checks import check_count, check_flags, check_seconds, given
from videopoll.jobs.codec import dump, text_of
from videopoll.jobs.job import TENANT, check_id, check_is_text, check_metadata, check_tenant_key, with_tenant
from videopoll.jobs.outcome import Outcome, OutcomeKind
from videopoll.jobs.transition import TransitionResult
from videopoll.jobs.views import CancelResult, EnqueueResult, HandedBack
from videopoll.observe.log import LogHook, shown
from videopoll.policies import DeadLetterPolicy, DeliveryPolicy, KeyTtls
from videopoll.queue import brake_calls, calls, layout_calls
from videopoll.queue.brake_calls import read_held_accounts
from videopoll.queue.connect import ms_of
from videopoll.queue.dead_letters import Letters
from videopoll.queue.errors import REDIS_ERRORS, raise_queue_error
from videopoll.queue.history_reader import read_history, read_workers
from videopoll.queue.layout import Moved
from videopoll.queue.listing import list_jobs
from videopoll.queue.receipts import Receiver, with_early_receipts
from videopoll.queue.scripts import evaluate, evaluate_all, let_go_if_moved

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Unpack

    import redis

    from videopoll.core.flow import Flow
    from videopoll.errors import QueueError
    from videopoll.events import Hook
    from videopoll.jobs.codec import JsonValue
    from videopoll.jobs.transition import ClaimBatch, Transition
    from videopoll.jobs.views import HistoryEntry, JobPage, JobView, QueueCounts, ReceiptCounts, WorkerInfo
    from videopoll.messages import MessageReceipt
    from videopoll.policies import LeasePolicy
    from videopoll.protocols import ClaimOptions, RecoverOptions
    from videopoll.queue.layout_calls import CheckedJob
    from videopoll.queue.listing import JobFilter
    from videopoll.queue.schema import Keys

    Rung = Callable[[float], "Awaitable[None] | None"]


__all__ = ["NewJob", "Operations", "new_token", "partition_of"]

NewJob = tuple[str, str, "Mapping[str, JsonValue] | None"]
"""A job to take in: its id, its conversation id, its metadata."""

SCAN_STEP = 500
"""Keys that one step of a scan looks at: a fraction of a millisecond of Redis's time."""

LOOK_EVERY_S = 1.0
"""How often `drain` counts."""

SWEEP_SHARE = 0.02
"""The share of the time that looking for lost jobs may take, where there are so many keys that it matters."""


class Operations:
    """The flows of one queue.

    Args:
        client: For the workers' calls.
        front: For the calls of producers and operators.
        keys: The names of the keys.
        ttls: How long the documented keys live.
        dead_letters: How many dead letters are kept, and how long.
        delivery: The delivery policy of notices that `cancel` and redrives start.
        hooks: Hear of jobs that are enqueued and cancelled here.
        tenant_key: The entry of the metadata that says whose a job is, if any.
    """

    def __init__(
        self,
        client: redis.Redis,
        front: redis.Redis,
        *,
        keys: Keys,
        ttls: KeyTtls | None,
        dead_letters: DeadLetterPolicy | None,
        delivery: DeliveryPolicy | None,
        hooks: Iterable[Hook],
        tenant_key: str | None,
    ) -> None:
        self.client = client
        self.front = front
        self.keys = keys
        self.ttls: KeyTtls = given(ttls, KeyTtls, "ttls")
        self.dead: DeadLetterPolicy = given(dead_letters, DeadLetterPolicy, "dead_letters")
        self.delivery: DeliveryPolicy = given(delivery, DeliveryPolicy, "delivery")
        self.partition: int = 0
        """Which partition of its queue this is; claims tell it in their tokens."""
        self._emitter = events.Emitter(LogHook(), hooks)
        self.tenant_key: str | None = check_tenant_key(tenant_key)

    # --- for producers ---

    def enqueue(self, jobs: Iterable[NewJob]) -> Flow[list[EnqueueResult]]:
        """Take jobs in; all are checked before the first is sent."""
        try:
            return (yield from self.take_in(self.checked(jobs)))
        except Moved as moved:
            msg = (
                f"enqueue: this queue has {moved.partitions} partitions by now, and what was handed in may be at home in"
                f" any of them: build the queue with partitions={moved.partitions} (--partitions)"
            )
            raise QueueRefusedError(own(msg)) from None

    def take_in(self, jobs: Sequence[CheckedJob], partitions: int = 1) -> Flow[list[EnqueueResult]]:
        """Take jobs in that were checked, for a producer that knows of so many partitions.

        Raises:
            Moved: There are more.
        """
        results: list[EnqueueResult] = []
        for some in calls.chunks(jobs):
            tenants = self.tenant_key is not None and any(TENANT in metadata for _, _, metadata in some)
            call = layout_calls.enqueue(self.keys, some, self.ttls, tenants=tenants, partitions=partitions)
            found = yield from evaluate(self.front, call)
            for (job_id, conversation_id, _), result in zip(some, found, strict=True):
                if result is EnqueueResult.CREATED:
                    self._emitter.emit(events.JobEnqueued(job_id=job_id, conversation_id=conversation_id))
            results += found
        return results

    def checked(self, jobs: Iterable[NewJob]) -> list[CheckedJob]:
        """Check jobs that are to be taken in.

        Raises:
            InvalidJobError: They are none, or one of them cannot be stored.
        """
        if not isinstance(jobs, Iterable) or isinstance(jobs, Mapping | str | bytes):
            msg = f"enqueue_many takes a list of tuples (job_id, conversation_id, metadata), got {_kind_of(jobs)}"
            raise InvalidJobError(msg)
        return [self._checked(job) for job in jobs]

    def _checked(self, job: NewJob) -> CheckedJob:
        job_id, conversation_id, metadata = _checked(job)
        return (
            job_id,
            conversation_id,
            metadata if self.tenant_key is None else with_tenant(metadata, self.tenant_key),
        )

    def get(self, job_id: str) -> Flow[JobView | None]:
        """Look a job up."""
        return evaluate(self.front, calls.inspect(self.keys, check_id(job_id, "job_id")))

    def cancel(self, job_id: str, *, notify: bool) -> Flow[CancelResult]:
        """Stop a job, and tell its user if `notify`."""
        check_flags("cancel", notify=notify)
        view = yield from self.get(job_id)
        if view is None:
            # One that comes in from now on is another job: cancelled unseen, its user would not be told.
            return CancelResult.UNKNOWN
        completed, notice = dump({"success": False, "error": "Cancelled", "jobId": job_id}), ""
        if view.job is not None:
            outcome = Outcome(OutcomeKind.CANCELLED, view.now_ms, error=own("Cancelled"))
            completed = dump(outcome.to_completed(view.job, delivered=False))
            notice = open_outbox(view.job, outcome, self.delivery).to_json() if notify else ""
        call = calls.cancel(
            self.keys, job_id, completed=completed, ttls=self.ttls, notice=notice, notice_s=self.delivery.keep_s
        )
        result = yield from evaluate(self.front, call)
        if result is CancelResult.CANCELLED:
            self._emitter.emit(events.JobCancelled(job_id=job_id))
        return result

    def receive_receipts(self, receipts: Iterable[MessageReceipt]) -> Flow[ReceiptCounts]:
        """Take in what channels tell of messages that they accepted before."""
        return Receiver(self.front, self.keys, self.ttls, self.delivery, self._emitter).receive(receipts)

    def wait(self, job_id: str, rung: Rung, *, timeout_s: float) -> Flow[Outcome | None]:
        """Wait for the outcome of a job; `rung` returns when it is time to look."""
        check_seconds("wait.timeout_s", timeout_s)
        until_s = time.monotonic() + timeout_s
        while True:
            outcome = _outcome_of((yield from self.get(job_id)), job_id)
            left_s = until_s - time.monotonic()
            if outcome is not None or left_s <= 0:
                return outcome
            yield from do(rung, left_s)

    # --- for runners ---

    def claim(self, worker_id: str, **wanted: Unpack[ClaimOptions]) -> Flow[ClaimBatch]:
        """Lease what is due."""
        call = calls.claim(self.keys, token=new_token(worker_id, self.partition), ttls=self.ttls, **wanted)
        batch = yield from evaluate(self.client, call)
        return (yield from with_early_receipts(self.client, self.keys, batch))

    def apply(self, transitions: Sequence[Transition]) -> Flow[Sequence[TransitionResult | QueueError]]:
        """Carry out what was decided about claimed jobs."""
        results = [TransitionResult.LOST] * len(transitions)
        for trip in calls.apply(self.keys, transitions, self.ttls, self.dead):
            replies = yield from evaluate_all(self.client, [call for _, call in trip])
            for (indexes, _), found in zip(trip, replies, strict=True):
                for index, result in zip(indexes, found, strict=True):
                    results[index] = result
        return results

    def renew(self, claims: Sequence[tuple[str, str, bool]], lease: LeasePolicy) -> Flow[Sequence[bool | None]]:
        """Renew leases."""
        held: list[bool] = []
        for some in calls.chunks(claims):
            held += yield from evaluate(self.client, calls.renew(self.keys, some, lease, self.ttls))
        return held

    def brake(self, pauses_s: Mapping[str, float]) -> Flow[int]:
        """Tell all workers to leave accounts alone."""
        return evaluate(self.client, brake_calls.brake(self.keys, pauses_s))

    def held_accounts(self) -> Flow[dict[str, int]]:
        """Return the accounts that all workers leave alone, and until when."""
        return read_held_accounts(self.front, self.keys)

    def wait_for_work(self, client: redis.Redis, timeout_s: float) -> Flow[bool]:
        """Block on a connection of this client until an id stands in the list; return whether one may."""
        execute = cast("Callable[..., object]", client.execute_command)
        try:
            return (yield from do(execute, *calls.doorbell(self.keys, timeout_s))) is not None
        except REDIS_ERRORS as error:
            yield from let_go_if_moved(client, error)
            raise_queue_error(error, "waiting for work")

    def recover(self, **wanted: Unpack[RecoverOptions]) -> Flow[int]:
        """Take up jobs that have a record and are nowhere else."""
        try:
            return (yield from self._recover(**wanted))
        except REDIS_ERRORS as error:
            yield from let_go_if_moved(self.client, error)
            raise_queue_error(error, "looking for lost jobs")

    def _recover(
        self, *, idle_s: float, initial_delay_s: float = 5.0, exclusive: bool = False, every_s: float = 30.0
    ) -> Flow[int]:
        client, keys = self.client, self.keys
        recovered, cursor, start = 0, 0, keys.job("")
        began_s = time.monotonic()
        if exclusive and not (yield from do(client.set, keys.sweeper, "vp", nx=True, px=calls.ms(every_s))):
            return 0
        looked_at_ms = ms_of((yield from do(client.time)))
        listed = set[bytes | str]()
        for first, last in calls.LIST_ENDS:
            listed.update((yield from do(client.lrange, keys.queue, first, last)))
        while True:
            cursor, found = yield from do(client.scan, cursor, match=f"{start}*", count=SCAN_STEP, _type="string")
            # Without those that wait in the list.
            loose = [text_of(one) for one in (key[len(start) :] for key in found) if one not in listed]
            if loose:
                call = calls.recover(
                    keys,
                    loose,
                    idle_s=idle_s,
                    initial_delay_s=initial_delay_s,
                    looked_at_ms=looked_at_ms,
                    ttls=self.ttls,
                )
                recovered += sum((yield from evaluate(client, call)))
            if cursor == 0:
                break
        rest_s = (time.monotonic() - began_s) / SWEEP_SHARE
        if exclusive and rest_s > every_s:
            # This look was too long for its pace: nobody looks again for that long.
            yield from do(client.pexpire, keys.sweeper, calls.ms(rest_s))
        return recovered

    # --- for operators ---

    @property
    def letters(self) -> Letters:
        """What can be done with dead letters."""
        return Letters(self)

    def counts(self) -> Flow[QueueCounts]:
        """Count the jobs by where they are."""
        return evaluate(self.front, calls.count(self.keys))

    def list_jobs(self, wanted: JobFilter, *, limit: int, offset: int) -> Flow[JobPage]:
        """List jobs."""
        check_count("list_jobs.limit", limit)
        check_count("list_jobs.offset", offset, low=0)
        return list_jobs(self.front, self.keys, wanted, limit=limit, offset=offset)

    def history(self, job_id: str | None, *, limit: int) -> Flow[tuple[HistoryEntry, ...]]:
        """Read what happened lately."""
        check_count("history.limit", limit)
        if job_id is not None:
            check_is_text(job_id, "job_id")
        return read_history(self.front, self.keys, job_id, limit=limit)

    def workers(self) -> Flow[tuple[WorkerInfo, ...]]:
        """Read which workers there are."""
        return read_workers(self.front, self.keys)

    def drain(self, sleep: Rung, *, timeout_s: float) -> Flow[QueueCounts]:
        """Wait until nothing is pending."""
        check_seconds("drain.timeout_s", timeout_s)
        until_s = time.monotonic() + timeout_s
        while True:
            left_s = until_s - time.monotonic()
            try:
                counts = yield from self.counts()
            except QueueUnavailableError as error:
                if left_s <= 0 or (isinstance(error, PartitionsAwayError) and error.refused):
                    raise
            else:
                if left_s <= 0 or not counts.pending:
                    return counts
            yield from do(sleep, min(left_s, LOOK_EVERY_S))

    def poll_now(self, job_id: str, *, counted: bool) -> Flow[bool]:
        """Make the next poll of a job due at once."""
        check_flags("poll_now", counted=counted)
        return evaluate(self.front, calls.poll_now(self.keys, check_id(job_id, "job_id"), counted=counted))

    def hand_back(self) -> Flow[HandedBack]:
        """Hand scheduled jobs to workers of another kind, a bounded number a call."""
        so_far, stay, leases = HandedBack(), 0, True
        while True:
            call = calls.hand_back(self.keys, self.ttls, stay=stay, leases=leases)
            reply = yield from evaluate(self.client, call)
            looked_at, staying, handed, theirs, ended, locked, in_hand, sends, gone = reply
            stay, leases = stay + staying, False
            so_far = HandedBack(
                handed=so_far.handed + handed,
                theirs=so_far.theirs + theirs,
                ended=so_far.ended + ended,
                gone=so_far.gone + tuple(map(text_of, gone)),
                locked=so_far.locked + locked,
                in_hand=in_hand,
                sends=sends,
            )
            if looked_at < calls.MAX_BATCH:
                return so_far


def new_token(worker_id: str, partition: int = 0) -> str:
    """Return a fencing token, which tells the partition of its job.

    It is unique for each claim, also among forked processes: a worker that claims a job again must not pass for
    its former self.
    """
    return f"{worker_id}:{f'{partition}-' if partition else ''}{secrets.token_hex(8)}"


def partition_of(token: str) -> int:
    """Return the partition of the job that a fencing token is of."""
    partition, dash, _ = token.rpartition(":")[2].partition("-")
    return int(partition) if dash and partition.isdecimal() else 0


def _checked(job: NewJob) -> tuple[str, str, dict[str, JsonValue]]:
    if not isinstance(job, tuple | list) or len(job) != len(("job_id", "conversation_id", "metadata")):
        msg = f"each job of enqueue_many is a tuple (job_id, conversation_id, metadata), got {_kind_of(job)}"
        raise InvalidJobError(msg)
    job_id, conversation_id, metadata = job
    return check_id(job_id, "job_id"), check_id(conversation_id, "conversation_id"), check_metadata(metadata)


def _kind_of(value: object) -> str:
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{size}"


def _outcome_of(view: JobView | None, job_id: str) -> Outcome | None:
    """Return the outcome of a job, None while it is open.

    Raises:
        JobNotFoundError: There is no such job.
    """
    if view is None or (view.outcome is None and view.dead):
        what = "became a dead letter without an outcome" if view else "is not known, or was forgotten long ago"
        msg = f"the job {shown(job_id)} {what}"
        raise JobNotFoundError(msg)
    return view.outcome
