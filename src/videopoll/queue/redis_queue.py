"""The queue on Redis: `RedisVideoJobQueue` for threads, `AsyncRedisVideoJobQueue` for asyncio.

What they do is in `videopoll.queue.operations`, each thing once; the twins below
say what a host gets, and carry it out. Pools of connections serve four needs:
producers, whose calls fail fast; workers, who can wait for a slow server; the one
connection on which an idle worker blocks; and the one on which all waits listen.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

import redis
import redis.asyncio
from typing_extensions import override

from videopoll._shield import to_the_end
from videopoll.jobs.job import check_id
from videopoll.policies import ENDING_S
from videopoll.queue.base import BaseQueue
from videopoll.queue.connect import async_client_of, async_client_of_cluster, client_of, client_of_cluster
from videopoll.queue.dead_letters import AsyncDeadLetters, DeadLetters
from videopoll.queue.listing import JobFilter
from videopoll.queue.pools import aleave, leave
from videopoll.queue.scripts import arun, run
from videopoll.queue.waits import AsyncSeats, Seats

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Self, Unpack

    from videopoll.errors import QueueError
    from videopoll.jobs.codec import JsonValue
    from videopoll.jobs.job import JobState
    from videopoll.jobs.outcome import Outcome
    from videopoll.jobs.transition import ClaimBatch, Transition, TransitionResult
    from videopoll.jobs.views import (
        CancelResult,
        EnqueueResult,
        HandedBack,
        HistoryEntry,
        JobPage,
        JobView,
        QueueCounts,
        ReceiptCounts,
        WorkerInfo,
    )
    from videopoll.messages import MessageReceipt
    from videopoll.policies import LeasePolicy
    from videopoll.protocols import ClaimOptions, RecoverOptions
    from videopoll.queue.operations import NewJob

__all__ = ["AsyncRedisVideoJobQueue", "RedisVideoJobQueue"]


class RedisVideoJobQueue(BaseQueue[redis.Redis, redis.RedisCluster, Seats]):
    """Keeps jobs in Redis, for threads and for code without an event loop.

    Producers need `enqueue`, `get` and `cancel`; the rest is for runners and operators.
    An instance may be shared by threads, and used in a forked child.

    Args:
        client: A client for the workers' calls. It must not retry and not decode. A client of a whole cluster
            is only asked for its nodes, user, password and certificates: the queue opens connections of its own to
            the node that has its keys, and needs no other client.
        front: A client for producers' calls, with short timeouts; `client` if there is none. Give
            it a ``BlockingConnectionPool``: others do not wait for a free connection. Where a
            firewall forgets idle connections, build it with ``health_check_interval``.
        blocking: A client whose socket timeout is longer than a block of an idle
            worker; without one, idle workers look again every second instead.
        prefix: What every key starts with.
        ttls: How long the documented keys live.
        dead_letters: How many dead letters are kept, and how long.
        delivery: The delivery policy of notices that `cancel` and `redrive` start.
        hooks: Hear of jobs that are enqueued and cancelled here.
        tenant_key: The entry of the jobs' metadata that says whose a job is, e.g. ``brand``: a string of 1 to 128
            printable characters, or a whole number. Where there is more to do than there are workers, tenants get
            places in turn. None, and a job without that entry: all such jobs are one tenant's.

    Raises:
        ConfigurationError: A client retries, or decodes responses, or is no `redis.Redis`; it is a cluster's, and
            the prefix has no hash tag; or another argument cannot be what it is to be.
    """

    _client_type = redis.Redis
    _cluster_type = redis.RedisCluster
    _new_client = staticmethod(client_of)
    _new_client_of_cluster = staticmethod(client_of_cluster)
    _new_seats = Seats
    _carry_out = staticmethod(run)

    @classmethod
    @override
    def _of_partitions(cls, make: Callable[[int], object], partitions: int, serve: Collection[int] | None) -> object:
        from videopoll.queue.partitioned_queue import PartitionedQueue  # noqa: PLC0415 - it is one of this class

        return PartitionedQueue(cast("Callable[[int], RedisVideoJobQueue]", make), partitions, serve)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that `from_url` opened, and the one that waits listen on.

        One that another thread uses just now is closed when its call is over. A closed queue can still be used;
        what it opens within 10 s is closed after each call.
        """
        self._seats.close()
        for client in self._owned:
            leave(client)

    # --- for producers ---

    def enqueue(
        self, job_id: str, *, conversation_id: str, metadata: Mapping[str, JsonValue] | None = None
    ) -> EnqueueResult:
        """Take a job in, in one round trip; the same id twice is one job.

        Args:
            job_id: The video API's id of the generation.
            conversation_id: Your name for whom the video is for.
            metadata: What is stored with the job, as JSON: at most 16 KiB. A
                ``prompt`` is cut to 100 characters.

        Raises:
            InvalidJobError: An id or the metadata cannot be stored.
            QueueUnavailableError: Redis is away; the call may be made again.
            QueueRefusedError: Redis says no.
        """
        return run(self._operations.enqueue([(job_id, conversation_id, metadata)]))[0]

    def enqueue_many(self, jobs: Iterable[NewJob]) -> list[EnqueueResult]:
        """Take many jobs in, 500 a round trip; all are checked before the first is sent.

        Raises:
            InvalidJobError: An id or some metadata cannot be stored: nothing was sent.
            QueueUnavailableError: Redis is away; the call may be made again.
            QueueRefusedError: Redis says no.
        """
        return run(self._operations.enqueue(jobs))

    def get(self, job_id: str) -> JobView | None:
        """Look a job up: where it is, what is next, how it ended; None if there is no such job.

        Raises:
            QueueError: Redis is away or says no.
        """
        return run(self._operations.get(job_id))

    def cancel(self, job_id: str, *, notify: bool = False) -> CancelResult:
        """Stop a job; a worker that is polling it at this moment changes nothing any more.

        Args:
            job_id: Which job.
            notify: Whether to tell its user.

        Raises:
            QueueError: Redis is away or says no.
        """
        return run(self._operations.cancel(job_id, notify=notify))

    def receive_receipts(self, receipts: Iterable[MessageReceipt]) -> ReceiptCounts:
        """Take in what channels tell of messages that they accepted before (`Accepted`).

        That the user has the message is noted in ``video:completed``. One that failed is sent again
        by a worker, in the form that the receipt names, within the delivery's budgets. What
        is doubled, too late, or about messages of others, changes nothing. Call it with what
        the channel's own ``read_receipts`` gave, which checks who sent it; and have the channel send
        them again if this raises.

        Args:
            receipts: The receipts, in the order in which they came.

        Returns:
            What came of them.

        Raises:
            ConfigurationError: One of them is no `MessageReceipt`.
            QueueError: Redis is away or says no; the call may be made again.
        """
        return run(self._operations.receive_receipts(receipts))

    def wait(self, job_id: str, *, timeout_s: float) -> Outcome | None:
        """Wait for the outcome of a job, for a host that wants the answer itself.

        It comes back as soon as the polling ends, whether or not the outcome has
        been delivered by then. (For a host that wants no messages: `SilentNotifier`.)

        Args:
            job_id: Which job.
            timeout_s: Seconds to wait at most.

        Returns:
            How it ended, or None if it has not by then.

        Raises:
            ConfigurationError: `timeout_s` is no finite number.
            JobNotFoundError: There is no such job, or its record is none.
            QueueError: Redis is away or says no.
        """
        with self._seats.seat(self.keys.ended(check_id(job_id, "job_id"))) as seat:
            return run(self._operations.wait(job_id, seat.rung, timeout_s=timeout_s))

    # --- for runners ---

    def claim(self, *, worker_id: str, **wanted: Unpack[ClaimOptions]) -> ClaimBatch:
        """Lease at most so many polls and sends that are due, in one step; see `VideoJobQueue.claim`."""
        return run(self._operations.claim(worker_id, **wanted))

    def apply(self, transitions: Sequence[Transition]) -> Sequence[TransitionResult | QueueError]:
        """Carry out what was decided about claimed jobs, each only if its lease is still held.

        Returns:
            A result for each; an error in the place of it where a partition of the queue does not answer.
        """
        return run(self._operations.apply(transitions))

    def renew(self, claims: Sequence[tuple[str, str, bool]], lease: LeasePolicy) -> Sequence[bool | None]:
        """Renew leases, each an id, a token and whether the job is being polled; False for a lost one.

        None where a partition of the queue does not answer.
        """
        return run(self._operations.renew(claims, lease))

    def wait_for_work(self, timeout_s: float) -> bool:
        """Block until an id stands in the list, at most so many seconds; takes nothing away.

        Returns:
            Whether there may be one.

        Raises:
            QueueError: Redis is away or says no.
        """
        if self._interrupted.is_set():
            return False
        if self._blocking is None:
            return not self._interrupted.wait(min(timeout_s, 1.0))
        try:
            return run(self._operations.wait_for_work(self._blocking, timeout_s))
        except Exception:
            if self._interrupted.is_set():
                # Its connection was closed while it was being read: the client has no one error for that.
                return False
            raise

    def interrupt(self) -> None:
        """Wake a `wait_for_work` in another thread, for good: its connection is closed."""
        self._interrupted.set()
        if self._blocking is not None:
            self._blocking.connection_pool.disconnect(inuse_connections=True)

    def resume(self) -> None:
        """Allow `wait_for_work` to block again after an `interrupt`."""
        self._interrupted.clear()

    def recover(self, **wanted: Unpack[RecoverOptions]) -> int:
        """Take up jobs that have a record and are in no list, schedule, flight or outbox.

        A job under the lock of a worker of another kind is looked at again when that lock ends.

        Args:
            **wanted: Which jobs, and how often; see `videopoll.protocols.RecoverOptions`. Where there are so many
                keys that this takes more than a fiftieth of `every_s`, nobody begins it for longer than that.

        Returns:
            How many were taken up.

        Raises:
            QueueError: Redis is away or says no (an ACL may forbid ``SCAN``).
        """
        return run(self._operations.recover(**wanted))

    def brake(self, pauses_s: Mapping[str, float]) -> None:
        """Tell all workers to leave accounts of video APIs alone, each for so many seconds at least.

        They learn of it with their next claim (`ClaimBatch.brakes`). A pause is never made shorter.

        Args:
            pauses_s: Seconds by account; a day at most.

        Raises:
            QueueError: Redis is away or says no; the call may be made again.
        """
        run(self._operations.brake(pauses_s))

    # --- for operators ---

    def held_accounts(self) -> dict[str, int]:
        """Return the accounts of video APIs that all workers leave alone now, and until when, in Unix milliseconds.

        An account is named by its API and by a hash of its key. Redis's clock counts. The longest pauses come
        first; 1,000 at most.

        Raises:
            QueueError: Redis is away or says no.
        """
        return run(self._operations.held_accounts())

    def counts(self) -> QueueCounts:
        """Count the jobs by where they are, in constant time.

        Raises:
            PartitionsAwayError: Some partitions of the queue did not answer; it has the counts of the others.
            QueueError: Redis is away or says no.
        """
        return run(self._operations.counts())

    def list_jobs(
        self,
        *,
        states: Iterable[JobState] | None = None,
        conversation_id: str | None = None,
        worker_id: str | None = None,
        older_than_s: float | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> JobPage:
        """List jobs, state by state; in each those first whose turn is next, or who ended last.

        Jobs move meanwhile, so this is no snapshot: one that moves from state to state
        is listed once, where it was met first. Redis is asked in small steps.

        Args:
            states: In which states; all that have not ended by default. Jobs that have
                ended (`JobState.SETTLED`) are looked for among all keys of the server,
                with ``SCAN``. Orphaned ones cannot be listed.
            conversation_id: Only jobs for this conversation.
            worker_id: Only jobs that this worker holds.
            older_than_s: Only jobs that were enqueued more than so many seconds ago.
            limit: How many at most.
            offset: How many to pass over first.

        Raises:
            ConfigurationError: An argument cannot be what it is to be.
            QueueError: Redis is away or says no (an ACL may forbid ``SCAN``).
        """
        wanted = JobFilter.of(states, conversation_id, worker_id, older_than_s)
        return run(self._operations.list_jobs(wanted, limit=limit, offset=offset))

    def history(self, job_id: str | None = None, *, limit: int = 1000) -> tuple[HistoryEntry, ...]:
        """Return what happened lately to a job, in the order of time, if workers keep a history (`RedisHistory`).

        Args:
            job_id: To which job; to all by default.
            limit: How many entries at most, the newest.

        Raises:
            QueueError: Redis is away or says no.
        """
        return run(self._operations.history(job_id, limit=limit))

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the workers of the last hour that keep a history, alive or not, those that told of themselves last first.

        1,000 at most.

        Raises:
            QueueError: Redis is away or says no.
        """
        return run(self._operations.workers())

    def drain(self, *, timeout_s: float) -> QueueCounts:
        """Wait until no job is pending: none in the list, the schedule, flight or the outbox. Stops nobody.

        Stop your producers first, then drain, then stop the workers. An outage of Redis is waited out.

        Args:
            timeout_s: Seconds to wait at most; 0 looks once.

        Returns:
            The counts of the last look, whose ``pending`` is 0 unless the time was up.

        Raises:
            ConfigurationError: `timeout_s` is no finite number.
            QueueError: Redis says no, or is away when the time is up.
        """
        return run(self._operations.drain(time.sleep, timeout_s=timeout_s))

    def poll_now(self, job_id: str, *, counted: bool = True) -> bool:
        """Make the next poll of a job due at once, instead of after its interval or backoff.

        It is an ordinary poll: the next one is due an interval later. A worker notices within about 4 s.

        Args:
            job_id: The job.
            counted: Whether it counts among `PollingStrategy.max_attempts`. One that is made
                because somebody else says so, however often, should use none of them up.

        Returns:
            False if the job does not wait for a poll: it is in a worker's hands,
            not taken yet, or over its polling.

        Raises:
            QueueError: Redis is away or says no.
        """
        return run(self._operations.poll_now(job_id, counted=counted))

    def hand_back(self) -> HandedBack:
        """Hand the jobs that our workers have scheduled to workers of another kind, by the list that they take ids from.

        For the way back from a migration: stop our workers first, which gives what
        is in their hands back to the list. What workers of another kind have, or
        have ended, is forgotten here. It may be called again.

        Returns:
            What was handed back, and what was not, as only our workers can go on with it.

        Raises:
            QueueError: Redis is away or says no; the call may be made again.
        """
        return run(self._operations.hand_back())

    @property
    def dead_letters(self) -> DeadLetters:
        """What could not be processed or delivered."""
        return DeadLetters(self._operations.letters)


class AsyncRedisVideoJobQueue(BaseQueue[redis.asyncio.Redis, redis.asyncio.RedisCluster, AsyncSeats]):
    """The asyncio side of `RedisVideoJobQueue`: the same methods, to be awaited.

    A queue of `from_url` has connections for each event loop that uses it, and `close` closes
    those of the running one. A client that you hand in belongs to one loop: in another one it is
    refused with a `QueueRefusedError`.

    Args:
        client: A client for the workers' calls. It must not retry and not decode. A client of a whole cluster
            is only asked for its nodes, user, password and certificates: the queue opens connections of its own to
            the node that has its keys, and needs no other client.
        front: A client for producers' calls, with short timeouts; `client` if there is none. Give
            it a ``BlockingConnectionPool``: others do not wait for a free connection. Where a
            firewall forgets idle connections, build it with ``health_check_interval``.
        blocking: A client whose socket timeout is longer than a block of an idle
            worker; without one, idle workers look again every second instead.
        prefix: What every key starts with.
        ttls: How long the documented keys live.
        dead_letters: How many dead letters are kept, and how long.
        delivery: The delivery policy of notices that `cancel` and `redrive` start.
        hooks: Hear of jobs that are enqueued and cancelled here.
        tenant_key: The entry of the jobs' metadata that says whose a job is; see `RedisVideoJobQueue`.

    Raises:
        ConfigurationError: A client retries, or decodes responses, or is no `redis.asyncio.Redis`; it is a cluster's,
            and the prefix has no hash tag; or another argument cannot be what it is to be.
    """

    _client_type = redis.asyncio.Redis
    _cluster_type = redis.asyncio.RedisCluster
    _new_client = staticmethod(async_client_of)
    _new_client_of_cluster = staticmethod(async_client_of_cluster)
    _new_seats = AsyncSeats
    _carry_out = staticmethod(arun)

    @classmethod
    @override
    def _of_partitions(cls, make: Callable[[int], object], partitions: int, serve: Collection[int] | None) -> object:
        from videopoll.queue.partitioned_queue import AsyncPartitionedQueue  # noqa: PLC0415 - it is one of this class

        return AsyncPartitionedQueue(cast("Callable[[int], AsyncRedisVideoJobQueue]", make), partitions, serve)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; see `RedisVideoJobQueue.close`. A cancellation does not cut that short."""
        await to_the_end(self._close_owned(), "closing of the queue", within_s=ENDING_S)

    async def _close_owned(self) -> None:
        await self._seats.close()
        for client in self._owned:
            await aleave(client)

    # --- for producers ---

    async def enqueue(
        self, job_id: str, *, conversation_id: str, metadata: Mapping[str, JsonValue] | None = None
    ) -> EnqueueResult:
        """Take a job in, in one round trip; see `RedisVideoJobQueue.enqueue`."""
        return (await arun(self._operations.enqueue([(job_id, conversation_id, metadata)])))[0]

    async def enqueue_many(self, jobs: Iterable[NewJob]) -> list[EnqueueResult]:
        """Take many jobs in, 500 a round trip; see `RedisVideoJobQueue.enqueue_many`."""
        return await arun(self._operations.enqueue(jobs))

    async def get(self, job_id: str) -> JobView | None:
        """Look a job up; see `RedisVideoJobQueue.get`."""
        return await arun(self._operations.get(job_id))

    async def cancel(self, job_id: str, *, notify: bool = False) -> CancelResult:
        """Stop a job; see `RedisVideoJobQueue.cancel`."""
        return await arun(self._operations.cancel(job_id, notify=notify))

    async def receive_receipts(self, receipts: Iterable[MessageReceipt]) -> ReceiptCounts:
        """Take in what channels tell of messages; see `RedisVideoJobQueue.receive_receipts`."""
        return await arun(self._operations.receive_receipts(receipts))

    async def wait(self, job_id: str, *, timeout_s: float) -> Outcome | None:
        """Wait for the outcome of a job; see `RedisVideoJobQueue.wait`."""
        async with self._seats.seat(self.keys.ended(check_id(job_id, "job_id"))) as seat:
            return await arun(self._operations.wait(job_id, seat.rung, timeout_s=timeout_s))

    # --- for runners ---

    async def claim(self, *, worker_id: str, **wanted: Unpack[ClaimOptions]) -> ClaimBatch:
        """Lease at most so many polls and sends that are due, in one step; see `VideoJobQueue.claim`."""
        return await arun(self._operations.claim(worker_id, **wanted))

    async def apply(self, transitions: Sequence[Transition]) -> Sequence[TransitionResult | QueueError]:
        """Carry out what was decided about claimed jobs, each only if its lease is still held."""
        return await arun(self._operations.apply(transitions))

    async def renew(self, claims: Sequence[tuple[str, str, bool]], lease: LeasePolicy) -> Sequence[bool | None]:
        """Renew leases, each an id, a token and whether the job is being polled; False for a lost one."""
        return await arun(self._operations.renew(claims, lease))

    async def wait_for_work(self, timeout_s: float) -> bool:
        """Block until an id stands in the list, at most so many seconds; takes nothing away. May be cancelled.

        Returns:
            Whether there may be one.

        Raises:
            QueueError: Redis is away or says no.
        """
        if self._blocking is None:
            await asyncio.sleep(min(timeout_s, 1.0))
            return True
        return await arun(self._operations.wait_for_work(cast("redis.Redis", self._blocking), timeout_s))

    async def recover(self, **wanted: Unpack[RecoverOptions]) -> int:
        """Take up jobs that have a record and are nowhere else; see `RedisVideoJobQueue.recover`."""
        return await arun(self._operations.recover(**wanted))

    async def brake(self, pauses_s: Mapping[str, float]) -> None:
        """Tell all workers to leave accounts of video APIs alone; see `RedisVideoJobQueue.brake`."""
        await arun(self._operations.brake(pauses_s))

    # --- for operators ---

    async def held_accounts(self) -> dict[str, int]:
        """Return the accounts that all workers leave alone now, and until when; see `RedisVideoJobQueue.held_accounts`."""
        return await arun(self._operations.held_accounts())

    async def counts(self) -> QueueCounts:
        """Count the jobs by where they are, in constant time; see `RedisVideoJobQueue.counts`."""
        return await arun(self._operations.counts())

    async def list_jobs(
        self,
        *,
        states: Iterable[JobState] | None = None,
        conversation_id: str | None = None,
        worker_id: str | None = None,
        older_than_s: float | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> JobPage:
        """List jobs, state by state; see `RedisVideoJobQueue.list_jobs`."""
        wanted = JobFilter.of(states, conversation_id, worker_id, older_than_s)
        return await arun(self._operations.list_jobs(wanted, limit=limit, offset=offset))

    async def history(self, job_id: str | None = None, *, limit: int = 1000) -> tuple[HistoryEntry, ...]:
        """Return what happened lately to a job, or to all; see `RedisVideoJobQueue.history`."""
        return await arun(self._operations.history(job_id, limit=limit))

    async def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the workers of the last hour that keep a history; see `RedisVideoJobQueue.workers`."""
        return await arun(self._operations.workers())

    async def drain(self, *, timeout_s: float) -> QueueCounts:
        """Wait until no job is pending; see `RedisVideoJobQueue.drain`."""
        return await arun(self._operations.drain(asyncio.sleep, timeout_s=timeout_s))

    async def poll_now(self, job_id: str, *, counted: bool = True) -> bool:
        """Make the next poll of a job due at once; see `RedisVideoJobQueue.poll_now`."""
        return await arun(self._operations.poll_now(job_id, counted=counted))

    async def hand_back(self) -> HandedBack:
        """Hand scheduled jobs to workers of another kind; see `RedisVideoJobQueue.hand_back`."""
        return await arun(self._operations.hand_back())

    @property
    def dead_letters(self) -> AsyncDeadLetters:
        """What could not be processed or delivered."""
        return AsyncDeadLetters(self._operations.letters)
