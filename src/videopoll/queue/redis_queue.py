"""The queue on Redis: `RedisVideoJobQueue` for threads, `AsyncRedisVideoJobQueue` for asyncio.

Every effect is one script (`videopoll.queue.calls`); the twins below only run them.
Three pools of connections serve three needs: producers, whose calls fail fast;
workers, who can wait for a slow server; and the one connection on which an idle
worker blocks.

No client retries on its own: a claim that was run twice would lease jobs to
nobody. Calls that are safe to repeat are repeated here.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from typing import TYPE_CHECKING, cast

import redis
import redis.asyncio
from redis import exceptions as redis_errors
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from videopoll import events
from videopoll._reasons import own
from videopoll._shield import to_the_end
from videopoll.core.delivery import open_outbox
from videopoll.errors import ConfigurationError, JobNotFoundError
from videopoll.jobs.codec import dump
from videopoll.jobs.job import check_id, check_metadata
from videopoll.jobs.outcome import Outcome, OutcomeKind
from videopoll.jobs.transition import TransitionResult
from videopoll.jobs.views import CancelResult, EnqueueResult
from videopoll.observe.log import LogHook, shown
from videopoll.policies import ENDING_S, DeadLetterPolicy, DeliveryPolicy, KeyTtls, LeasePolicy, PollingStrategy
from videopoll.queue import calls
from videopoll.queue.connect import AsyncFreshPool, FreshPool
from videopoll.queue.dead_letters import AsyncDeadLetters, DeadLetters
from videopoll.queue.schema import DEFAULT_PREFIX, Keys
from videopoll.queue.scripts import (
    ScriptCall,
    alet_go_if_moved,
    arun,
    arun_all,
    cause_of,
    let_go_if_moved,
    run,
    run_all,
    to_queue_error,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
    from typing import Self

    from videopoll.events import Hook
    from videopoll.jobs.codec import JsonValue
    from videopoll.jobs.transition import ClaimBatch, Transition
    from videopoll.jobs.views import HandedBack, JobView, QueueCounts

__all__ = ["AsyncRedisVideoJobQueue", "NewJob", "RedisVideoJobQueue"]

NewJob = tuple[str, str, "Mapping[str, JsonValue] | None"]
"""A job to take in: its id, its conversation id, its metadata."""


SCAN_STEP = 500
"""Keys that one step of a scan looks at: a fraction of a millisecond of Redis's time."""

LOOK_EVERY_S = 1.0
"""How often `wait` looks at the keys besides: other kinds of workers publish nothing."""

SWEEP_SHARE = 0.02
"""The share of the time that looking for lost jobs may take, where there are so many keys that it matters."""

_URL_HELP = "the Redis URL cannot be read; it looks like redis://127.0.0.1:6379/0, rediss://… or unix://…"


class _Base:
    """What both twins share: configuration, and the checks of what comes from outside."""

    def __init__(
        self,
        *,
        prefix: str,
        ttls: KeyTtls | None,
        dead_letters: DeadLetterPolicy | None,
        delivery: DeliveryPolicy | None,
        hooks: Iterable[Hook],
    ) -> None:
        self._emitter = events.Emitter((LogHook(), *hooks))
        self._keys = Keys(prefix)
        self._ttls = ttls or KeyTtls()
        self._dead = dead_letters or DeadLetterPolicy()
        self._delivery = delivery or DeliveryPolicy()

    @property
    def keys(self) -> Keys:
        """The names of this queue's keys."""
        return self._keys

    @property
    def ttls(self) -> KeyTtls:
        """How long the keys live."""
        return self._ttls

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prefix={self._keys.prefix!r})"

    def _token(self, worker_id: str) -> str:
        # Unique for each claim, also among forked processes: a worker that claims a job again must not
        # pass for its former self.
        return f"{worker_id}:{secrets.token_hex(8)}"

    def _adoption(
        self, job_ids: list[str], clock: tuple[int, int], idle_s: float, initial_delay_s: float
    ) -> ScriptCall[list[bool]]:
        """Return the call that takes up what stood in no list at `clock`, seconds and microseconds of Redis."""
        seconds, micros = clock
        return calls.recover(
            self._keys,
            job_ids,
            idle_s=idle_s,
            initial_delay_s=initial_delay_s,
            looked_at_ms=seconds * 1000 + micros // 1000,
            ttls=self._ttls,
        )

    @staticmethod
    def _checked(jobs: Iterable[NewJob]) -> list[tuple[str, str, Mapping[str, JsonValue]]]:
        return [
            (check_id(job_id, "job_id"), check_id(conversation_id, "conversation_id"), check_metadata(metadata))
            for job_id, conversation_id, metadata in jobs
        ]

    def _cancel(self, job_id: str, view: JobView, *, notify: bool) -> ScriptCall[CancelResult]:
        completed, notice = dump({"success": False, "error": "Cancelled", "jobId": job_id}), ""
        if view.job is not None:
            outcome = Outcome(OutcomeKind.CANCELLED, view.now_ms, error=own("Cancelled"))
            completed = dump(outcome.to_completed(view.job, delivered=False))
            notice = open_outbox(view.job, outcome, self._delivery).to_json() if notify else ""
        return calls.cancel(
            self._keys, job_id, completed=completed, ttls=self._ttls, notice=notice, notice_s=self._delivery.keep_s
        )

    def _told(
        self, jobs: Sequence[tuple[str, str, Mapping[str, JsonValue]]], results: list[EnqueueResult]
    ) -> list[EnqueueResult]:
        for (job_id, conversation_id, _), result in zip(jobs, results, strict=True):
            if result is EnqueueResult.CREATED:
                self._emitter.emit(events.JobEnqueued(job_id=job_id, conversation_id=conversation_id))
        return results

    def _told_cancelled(self, job_id: str, result: CancelResult) -> CancelResult:
        if result is CancelResult.CANCELLED:
            self._emitter.emit(events.JobCancelled(job_id=job_id))
        return result

    @staticmethod
    def _outcome(view: JobView | None, job_id: str) -> Outcome | None:
        """Return the job's outcome, or None while it is running.

        Raises:
            JobNotFoundError: There is no such job.
        """
        if view is None or (view.outcome is None and view.dead):
            what = "became a dead letter without an outcome" if view else "is not known, or was forgotten long ago"
            msg = f"the job {shown(job_id)} {what}"
            raise JobNotFoundError(msg)
        return view.outcome


def _loose(found: Iterable[bytes | str], start: str, listed: set[bytes | str]) -> list[str]:
    """Return the ids of scanned records, without those that wait in the list."""
    ids = (key[len(start) :] for key in found)
    return [calls.text_of(one) for one in ids if one not in listed]


def _rest_s(took_s: float, every_s: float) -> float | None:
    """Return how long nobody looks for lost jobs after a look that was too long for its pace."""
    rest_s = took_s / SWEEP_SHARE
    return rest_s if rest_s > every_s else None


def _check_client(client: object, wanted: type, twin: str) -> None:
    if not isinstance(client, wanted):
        msg = f"expected a {wanted.__module__}.{wanted.__qualname__}, got {type(client).__name__}; {twin} is the other one"
        raise ConfigurationError(msg)


def _check_behaviour(decode_responses: object, retry: Retry | AsyncRetry | None) -> None:
    if decode_responses:
        msg = "the Redis client must not decode responses, as an id in Redis may be no text: leave out decode_responses"
        raise ConfigurationError(msg)
    if retry is not None and retry.get_retries() != 0:
        msg = (
            "the Redis client must not retry, as a claim that is run twice leases jobs to nobody:"
            " build it with retry=Retry(NoBackoff(), 0), or use from_url"
        )
        raise ConfigurationError(msg)


class RedisVideoJobQueue(_Base):
    """Keeps jobs in Redis, for threads and for code without an event loop.

    Producers need `enqueue`, `get` and `cancel`; the rest is for runners and operators.
    An instance may be shared by threads.

    Args:
        client: A client for the workers' calls. It must not retry and not decode.
        front: A client for producers' calls, with short timeouts; `client` if there is none. Where
            a firewall forgets idle connections, build it with ``health_check_interval``.
        blocking: A client whose socket timeout is longer than a block of an idle
            worker; without one, idle workers look again every second instead.
        prefix: What every key starts with.
        ttls: How long the documented keys live.
        dead_letters: How many dead letters are kept, and how long.
        delivery: The delivery policy of notices that `cancel` and `redrive` start.
        hooks: Hear of jobs that are enqueued and cancelled here.

    Raises:
        ConfigurationError: A client retries, or decodes responses, or is an asyncio one.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        front: redis.Redis | None = None,
        blocking: redis.Redis | None = None,
        prefix: str = DEFAULT_PREFIX,
        ttls: KeyTtls | None = None,
        dead_letters: DeadLetterPolicy | None = None,
        delivery: DeliveryPolicy | None = None,
        hooks: Iterable[Hook] = (),
    ) -> None:
        super().__init__(prefix=prefix, ttls=ttls, dead_letters=dead_letters, delivery=delivery, hooks=hooks)
        for one in filter(None, (client, front, blocking)):
            _check_client(one, redis.Redis, "AsyncRedisVideoJobQueue")
            _check_behaviour(one.connection_pool.connection_kwargs.get("decode_responses"), one.get_retry())
        self._client = client
        self._front = front or client
        self._blocking = blocking
        self._interrupted = threading.Event()
        self._owned: tuple[redis.Redis, ...] = ()

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        prefix: str = DEFAULT_PREFIX,
        ttls: KeyTtls | None = None,
        dead_letters: DeadLetterPolicy | None = None,
        delivery: DeliveryPolicy | None = None,
        hooks: Iterable[Hook] = (),
        front_timeout_s: float = 2.0,
        worker_timeout_s: float = 10.0,
    ) -> RedisVideoJobQueue:
        """Build a queue with connections of its own.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``.
            prefix: What every key starts with.
            ttls: How long the documented keys live.
            dead_letters: How many dead letters are kept, and how long.
            delivery: The delivery policy of notices that `cancel` and `redrive` start.
            hooks: Hear of jobs that are enqueued and cancelled here.
            front_timeout_s: Seconds that a producer's call waits for the
                connection, and again for the reply, before it fails.
            worker_timeout_s: The same for a worker's calls.

        Raises:
            ConfigurationError: The URL cannot be read.
        """

        def client(timeout_s: float) -> redis.Redis:
            pool = FreshPool.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=min(timeout_s, 5.0),
                retry=Retry(NoBackoff(), 0),
                health_check_interval=0,
            )
            return redis.Redis.from_pool(pool)

        limits_s = (worker_timeout_s, front_timeout_s, calls.LONGEST_BLOCK_S + 10)
        try:
            worker, front, blocking = (client(limit_s) for limit_s in limits_s)
        except ValueError:
            # The cause would quote a part of the URL, and so of the password.
            raise ConfigurationError(_URL_HELP) from None
        queue = cls(
            worker,
            front=front,
            blocking=blocking,
            prefix=prefix,
            ttls=ttls,
            dead_letters=dead_letters,
            delivery=delivery,
            hooks=hooks,
        )
        queue._owned = (worker, front, blocking)
        return queue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that `from_url` opened."""
        for client in self._owned:
            client.close()

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
        jobs = self._checked([(job_id, conversation_id, metadata)])
        return self._told(jobs, run(self._front, calls.enqueue(self._keys, jobs, self._ttls)))[0]

    def enqueue_many(self, jobs: Iterable[NewJob]) -> list[EnqueueResult]:
        """Take many jobs in, 500 a round trip; all are checked before the first is sent.

        Raises:
            InvalidJobError: An id or some metadata cannot be stored: nothing was sent.
            QueueUnavailableError: Redis is away; the call may be made again.
            QueueRefusedError: Redis says no.
        """
        results: list[EnqueueResult] = []
        for some in calls.chunks(self._checked(jobs)):
            results += self._told(some, run(self._front, calls.enqueue(self._keys, some, self._ttls)))
        return results

    def get(self, job_id: str) -> JobView | None:
        """Look a job up: where it is, what is next, how it ended; None if there is no such job.

        Raises:
            QueueError: Redis is away or says no.
        """
        return run(self._front, calls.inspect(self._keys, check_id(job_id, "job_id")))

    def cancel(self, job_id: str, *, notify: bool = False) -> CancelResult:
        """Stop a job; a worker that is polling it at this moment changes nothing any more.

        Args:
            job_id: Which job.
            notify: Whether to tell its user.

        Raises:
            QueueError: Redis is away or says no.
        """
        view = self.get(job_id)
        # One that comes in from now on is another job: cancelled unseen, its user would not be told.
        result = CancelResult.UNKNOWN
        if view is not None:
            result = run(self._front, self._cancel(job_id, view, notify=notify))
        return self._told_cancelled(job_id, result)

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
            JobNotFoundError: There is no such job, or its record is none.
            QueueError: Redis is away or says no.
        """
        until_s = time.monotonic() + timeout_s
        outcome = self._outcome(self.get(job_id), job_id)
        if outcome is not None:
            return outcome
        with self._front.pubsub(ignore_subscribe_messages=True) as ended:  # type: ignore[no-untyped-call]
            subscribed = False
            while outcome is None and (left_s := until_s - time.monotonic()) > 0:
                try:
                    if not subscribed:
                        ended.subscribe(self._keys.ended(job_id))
                        subscribed = True
                    else:
                        ended.get_message(timeout=min(left_s, LOOK_EVERY_S))
                except (redis_errors.RedisError, OSError):
                    # Without the right to subscribe, or the connection: looking now and then is enough.
                    time.sleep(min(left_s, LOOK_EVERY_S))
                # A look after the subscription, and after each message: none can be missed in between.
                outcome = self._outcome(self.get(job_id), job_id)
        return outcome

    # --- for runners ---

    def claim(
        self,
        *,
        polls: int,
        sends: int,
        worker_id: str,
        strategy: PollingStrategy,
        lease: LeasePolicy,
        foreign_workers: bool = False,
        endings: int = 0,
        look_from: int = 0,
        take_new: bool = True,
        take_over: bool = True,
        in_hand: Collection[str] = (),
        asked_ms: int | None = None,
    ) -> ClaimBatch:
        """Lease at most so many polls and sends that are due, in one step; see `VideoJobQueue.claim`."""
        return run(
            self._client,
            calls.claim(
                self._keys,
                polls=polls,
                sends=sends,
                token=self._token(worker_id),
                strategy=strategy,
                lease=lease,
                ttls=self._ttls,
                foreign_workers=foreign_workers,
                endings=endings,
                look_from=look_from,
                take_new=take_new,
                take_over=take_over,
                in_hand=in_hand,
                asked_ms=asked_ms,
            ),
        )

    def apply(self, transitions: Sequence[Transition]) -> list[TransitionResult]:
        """Carry out what was decided about claimed jobs, each only if its lease is still held."""
        verdicts = [TransitionResult.LOST] * len(transitions)
        for trip in calls.apply(self._keys, transitions, self._ttls, self._dead):
            for (places, _), found in zip(trip, run_all(self._client, [call for _, call in trip]), strict=True):
                for place, verdict in zip(places, found, strict=True):
                    verdicts[place] = verdict
        return verdicts

    def renew(self, claims: Sequence[tuple[str, str, bool]], lease: LeasePolicy) -> list[bool]:
        """Renew leases, each an id, a token and whether the job is being polled; False for a lost one."""
        held: list[bool] = []
        for some in calls.chunks(claims):
            held += run(self._client, calls.renew(self._keys, some, lease, self._ttls))
        return held

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
            block = cast("Callable[..., object]", self._blocking.execute_command)
            return block(*calls.doorbell(self._keys, timeout_s)) is not None
        except Exception as error:
            if self._interrupted.is_set():
                # Its connection was closed while it was being read: the client has no one error for that.
                return False
            if isinstance(error, redis_errors.RedisError | OSError):
                let_go_if_moved(self._blocking, error)
                raise to_queue_error(error, "waiting for work") from cause_of(error)
            raise

    def interrupt(self) -> None:
        """Wake a `wait_for_work` in another thread, for good: its connection is closed."""
        self._interrupted.set()
        if self._blocking is not None:
            self._blocking.connection_pool.disconnect(inuse_connections=True)

    def resume(self) -> None:
        """Allow `wait_for_work` to block again after an `interrupt`."""
        self._interrupted.clear()

    def recover(
        self, *, idle_s: float, initial_delay_s: float = 5.0, exclusive: bool = False, every_s: float = 30.0
    ) -> int:
        """Take up jobs that have a record and are in no list, schedule, flight or outbox.

        A job under the lock of a worker of another kind is looked at again when that lock ends.

        Args:
            idle_s: Seconds that nobody must have polled them for.
            initial_delay_s: Seconds from a job's start to its first poll.
            exclusive: Whether to leave it to another worker that has begun this a short while ago.
            every_s: How long that while is, in seconds; longer where there are so many
                keys that this takes more than a fiftieth of it.

        Returns:
            How many were taken up.

        Raises:
            QueueError: Redis is away or says no (an ACL may forbid ``SCAN``).
        """
        adopted, cursor, start = 0, 0, self._keys.job("")
        began_s = time.monotonic()
        try:
            if exclusive and not self._client.set(self._keys.sweeper, "vp", nx=True, px=calls.ms(every_s)):
                return 0
            clock = self._client.time()
            listed = {one for end in calls.LIST_ENDS for one in self._client.lrange(self._keys.queue, *end)}
            while True:
                cursor, found = self._client.scan(cursor, match=f"{start}*", count=SCAN_STEP, _type="string")
                loose = _loose(found, start, listed)
                if loose:
                    adopted += sum(run(self._client, self._adoption(loose, clock, idle_s, initial_delay_s)))
                if cursor == 0:
                    break
            rest_s = _rest_s(time.monotonic() - began_s, every_s)
            if exclusive and rest_s:
                self._client.pexpire(self._keys.sweeper, calls.ms(rest_s))
        except (redis_errors.RedisError, OSError) as error:
            let_go_if_moved(self._client, error)
            raise to_queue_error(error, "looking for lost jobs") from cause_of(error)
        return adopted

    # --- for operators ---

    def counts(self) -> QueueCounts:
        """Count the jobs by where they are, in constant time.

        Raises:
            QueueError: Redis is away or says no.
        """
        return run(self._front, calls.count(self._keys))

    def poll_now(self, job_id: str) -> bool:
        """Make the next poll of a job due at once, instead of after its interval or backoff.

        It is an ordinary poll: it counts as an attempt, and the next one is due
        an interval later. A worker notices within about 4 s.

        Returns:
            False if the job does not wait for a poll: it is in a worker's hands,
            not taken yet, or over its polling.

        Raises:
            QueueError: Redis is away or says no.
        """
        return run(self._front, calls.poll_now(self._keys, check_id(job_id, "job_id")))

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
        work = calls.hand_back(self._keys, self._ttls)
        call = next(work)
        while True:
            try:
                call = work.send(run(self._client, call))
            except StopIteration as end:
                return cast("HandedBack", end.value)

    @property
    def dead_letters(self) -> DeadLetters:
        """What could not be processed or delivered."""
        return DeadLetters(self._front, self._keys, self._ttls, self._delivery)


class AsyncRedisVideoJobQueue(_Base):
    """The asyncio side of `RedisVideoJobQueue`: the same methods, to be awaited.

    Args:
        client: A client for the workers' calls. It must not retry and not decode.
        front: A client for producers' calls, with short timeouts; `client` if there is none. Where
            a firewall forgets idle connections, build it with ``health_check_interval``.
        blocking: A client whose socket timeout is longer than a block of an idle
            worker; without one, idle workers look again every second instead.
        prefix: What every key starts with.
        ttls: How long the documented keys live.
        dead_letters: How many dead letters are kept, and how long.
        delivery: The delivery policy of notices that `cancel` and `redrive` start.
        hooks: Hear of jobs that are enqueued and cancelled here.

    Raises:
        ConfigurationError: A client retries, or decodes responses, or is a sync one.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        front: redis.asyncio.Redis | None = None,
        blocking: redis.asyncio.Redis | None = None,
        prefix: str = DEFAULT_PREFIX,
        ttls: KeyTtls | None = None,
        dead_letters: DeadLetterPolicy | None = None,
        delivery: DeliveryPolicy | None = None,
        hooks: Iterable[Hook] = (),
    ) -> None:
        super().__init__(prefix=prefix, ttls=ttls, dead_letters=dead_letters, delivery=delivery, hooks=hooks)
        for one in filter(None, (client, front, blocking)):
            _check_client(one, redis.asyncio.Redis, "RedisVideoJobQueue")
            _check_behaviour(one.connection_pool.connection_kwargs.get("decode_responses"), one.get_retry())
        self._client = client
        self._front = front or client
        self._blocking = blocking
        self._owned: tuple[redis.asyncio.Redis, ...] = ()

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        prefix: str = DEFAULT_PREFIX,
        ttls: KeyTtls | None = None,
        dead_letters: DeadLetterPolicy | None = None,
        delivery: DeliveryPolicy | None = None,
        hooks: Iterable[Hook] = (),
        front_timeout_s: float = 2.0,
        worker_timeout_s: float = 10.0,
    ) -> AsyncRedisVideoJobQueue:
        """Build a queue with connections of its own; the arguments are those of `RedisVideoJobQueue.from_url`.

        Raises:
            ConfigurationError: The URL cannot be read.
        """

        def client(timeout_s: float) -> redis.asyncio.Redis:
            pool = AsyncFreshPool.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=min(timeout_s, 5.0),
                retry=AsyncRetry(NoBackoff(), 0),
            )
            return redis.asyncio.Redis.from_pool(pool)

        limits_s = (worker_timeout_s, front_timeout_s, calls.LONGEST_BLOCK_S + 10)
        try:
            worker, front, blocking = (client(limit_s) for limit_s in limits_s)
        except ValueError:
            # The cause would quote a part of the URL, and so of the password.
            raise ConfigurationError(_URL_HELP) from None
        queue = cls(
            worker,
            front=front,
            blocking=blocking,
            prefix=prefix,
            ttls=ttls,
            dead_letters=dead_letters,
            delivery=delivery,
            hooks=hooks,
        )
        queue._owned = (worker, front, blocking)
        return queue

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections that `from_url` opened; a cancellation does not cut that short."""
        await to_the_end(self._close_owned(), "closing of the queue", within_s=ENDING_S)

    async def _close_owned(self) -> None:
        for client in self._owned:
            await client.aclose()

    # --- for producers ---

    async def enqueue(
        self, job_id: str, *, conversation_id: str, metadata: Mapping[str, JsonValue] | None = None
    ) -> EnqueueResult:
        """Take a job in, in one round trip; see `RedisVideoJobQueue.enqueue`."""
        jobs = self._checked([(job_id, conversation_id, metadata)])
        return self._told(jobs, await arun(self._front, calls.enqueue(self._keys, jobs, self._ttls)))[0]

    async def enqueue_many(self, jobs: Iterable[NewJob]) -> list[EnqueueResult]:
        """Take many jobs in, 500 a round trip; see `RedisVideoJobQueue.enqueue_many`."""
        results: list[EnqueueResult] = []
        for some in calls.chunks(self._checked(jobs)):
            results += self._told(some, await arun(self._front, calls.enqueue(self._keys, some, self._ttls)))
        return results

    async def get(self, job_id: str) -> JobView | None:
        """Look a job up; see `RedisVideoJobQueue.get`."""
        return await arun(self._front, calls.inspect(self._keys, check_id(job_id, "job_id")))

    async def cancel(self, job_id: str, *, notify: bool = False) -> CancelResult:
        """Stop a job; see `RedisVideoJobQueue.cancel`."""
        view = await self.get(job_id)
        result = CancelResult.UNKNOWN
        if view is not None:
            result = await arun(self._front, self._cancel(job_id, view, notify=notify))
        return self._told_cancelled(job_id, result)

    async def wait(self, job_id: str, *, timeout_s: float) -> Outcome | None:
        """Wait for the outcome of a job; see `RedisVideoJobQueue.wait`."""
        until_s = time.monotonic() + timeout_s
        outcome = self._outcome(await self.get(job_id), job_id)
        if outcome is not None:
            return outcome
        async with self._front.pubsub(ignore_subscribe_messages=True) as ended:
            subscribed = False
            while outcome is None and (left_s := until_s - time.monotonic()) > 0:
                try:
                    if not subscribed:
                        await ended.subscribe(self._keys.ended(job_id))
                        subscribed = True
                    else:
                        await ended.get_message(timeout=min(left_s, LOOK_EVERY_S))
                except (redis_errors.RedisError, OSError):
                    await asyncio.sleep(min(left_s, LOOK_EVERY_S))
                outcome = self._outcome(await self.get(job_id), job_id)
        return outcome

    # --- for runners ---

    async def claim(
        self,
        *,
        polls: int,
        sends: int,
        worker_id: str,
        strategy: PollingStrategy,
        lease: LeasePolicy,
        foreign_workers: bool = False,
        endings: int = 0,
        look_from: int = 0,
        take_new: bool = True,
        take_over: bool = True,
        in_hand: Collection[str] = (),
        asked_ms: int | None = None,
    ) -> ClaimBatch:
        """Lease at most so many polls and sends that are due, in one step; see `VideoJobQueue.claim`."""
        return await arun(
            self._client,
            calls.claim(
                self._keys,
                polls=polls,
                sends=sends,
                token=self._token(worker_id),
                strategy=strategy,
                lease=lease,
                ttls=self._ttls,
                foreign_workers=foreign_workers,
                endings=endings,
                look_from=look_from,
                take_new=take_new,
                take_over=take_over,
                in_hand=in_hand,
                asked_ms=asked_ms,
            ),
        )

    async def apply(self, transitions: Sequence[Transition]) -> list[TransitionResult]:
        """Carry out what was decided about claimed jobs, each only if its lease is still held."""
        verdicts = [TransitionResult.LOST] * len(transitions)
        for trip in calls.apply(self._keys, transitions, self._ttls, self._dead):
            for (places, _), found in zip(trip, await arun_all(self._client, [call for _, call in trip]), strict=True):
                for place, verdict in zip(places, found, strict=True):
                    verdicts[place] = verdict
        return verdicts

    async def renew(self, claims: Sequence[tuple[str, str, bool]], lease: LeasePolicy) -> list[bool]:
        """Renew leases, each an id, a token and whether the job is being polled; False for a lost one."""
        held: list[bool] = []
        for some in calls.chunks(claims):
            held += await arun(self._client, calls.renew(self._keys, some, lease, self._ttls))
        return held

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
        try:
            block = cast("Callable[..., Awaitable[object]]", self._blocking.execute_command)
            return await block(*calls.doorbell(self._keys, timeout_s)) is not None
        except (redis_errors.RedisError, OSError) as error:
            await alet_go_if_moved(self._blocking, error)
            raise to_queue_error(error, "waiting for work") from cause_of(error)

    async def recover(
        self, *, idle_s: float, initial_delay_s: float = 5.0, exclusive: bool = False, every_s: float = 30.0
    ) -> int:
        """Take up jobs that have a record and are nowhere else; see `RedisVideoJobQueue.recover`."""
        adopted, cursor, start = 0, 0, self._keys.job("")
        began_s = time.monotonic()
        try:
            if exclusive and not await self._client.set(self._keys.sweeper, "vp", nx=True, px=calls.ms(every_s)):
                return 0
            clock = await self._client.time()
            listed = {one for end in calls.LIST_ENDS for one in await self._client.lrange(self._keys.queue, *end)}
            while True:
                cursor, found = await self._client.scan(cursor, match=f"{start}*", count=SCAN_STEP, _type="string")
                loose = _loose(found, start, listed)
                if loose:
                    adopted += sum(await arun(self._client, self._adoption(loose, clock, idle_s, initial_delay_s)))
                if cursor == 0:
                    break
            rest_s = _rest_s(time.monotonic() - began_s, every_s)
            if exclusive and rest_s:
                await self._client.pexpire(self._keys.sweeper, calls.ms(rest_s))
        except (redis_errors.RedisError, OSError) as error:
            await alet_go_if_moved(self._client, error)
            raise to_queue_error(error, "looking for lost jobs") from cause_of(error)
        return adopted

    # --- for operators ---

    async def counts(self) -> QueueCounts:
        """Count the jobs by where they are, in constant time; see `RedisVideoJobQueue.counts`."""
        return await arun(self._front, calls.count(self._keys))

    async def poll_now(self, job_id: str) -> bool:
        """Make the next poll of a job due at once; see `RedisVideoJobQueue.poll_now`."""
        return await arun(self._front, calls.poll_now(self._keys, check_id(job_id, "job_id")))

    async def hand_back(self) -> HandedBack:
        """Hand scheduled jobs to workers of another kind; see `RedisVideoJobQueue.hand_back`."""
        work = calls.hand_back(self._keys, self._ttls)
        call = next(work)
        while True:
            try:
                call = work.send(await arun(self._client, call))
            except StopIteration as end:
                return cast("HandedBack", end.value)

    @property
    def dead_letters(self) -> AsyncDeadLetters:
        """What could not be processed or delivered."""
        return AsyncDeadLetters(self._front, self._keys, self._ttls, self._delivery)
