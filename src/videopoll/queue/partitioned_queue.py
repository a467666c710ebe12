"""The queue of several partitions, for threads and for asyncio: what `from_url` returns where it is told of partitions.

Producers, operators and runners use it as they use the one queue. What it does is in `videopoll.queue.partitions` and
`videopoll.queue.rounds`, each thing once; here is what the twins do each in its own way.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, cast

from typing_extensions import override

from videopoll import events
from videopoll._reasons import trace_of
from videopoll.core.belonging import OfProcess
from videopoll.core.flow import do
from videopoll.errors import QueueUnavailableError
from videopoll.queue.connect import shown_address
from videopoll.queue.hands import AsyncHands, Hands
from videopoll.queue.layout import homes
from videopoll.queue.partitions import Partitions
from videopoll.queue.redis_queue import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.queue.scripts import arun, run

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from videopoll.core.flow import Flow
    from videopoll.jobs.outcome import Outcome
    from videopoll.protocols import RunnerStatus
    from videopoll.queue.history import RedisHistory
    from videopoll.queue.layout_calls import KnownHere
    from videopoll.queue.operations import Operations
    from videopoll.queue.rounds import Rounds

__all__ = ["AsyncPartitionedQueue", "PartitionedQueue"]

log: logging.Logger = logging.getLogger(__name__)

Ring: TypeAlias = "concurrent.futures.Future[object] | asyncio.Task[object]"
Rings: TypeAlias = "dict[int, Ring]"
"""Doorbells that are listened to, by partition."""

FIRST_COMPLETED = concurrent.futures.FIRST_COMPLETED

QueueT = TypeVar("QueueT", RedisVideoJobQueue, AsyncRedisVideoJobQueue)

GRACE_S = 1.0
"""How long a doorbell may take longer than it was told to."""

QUIET_S = 1.0
"""How long a partition whose doorbell failed is not listened to."""


class _History(OfProcess, events.TextKeeper):
    """Keeps the stories of jobs, each in the partition of its id, and the heartbeat of a worker in each that it serves."""

    def __init__(
        self,
        open_one: Callable[[int], RedisHistory | None],
        served: Callable[[], Collection[int]],
        count: Callable[[], int],
    ) -> None:
        self._open_one = open_one
        self._served = served
        self._count = count
        self._kept: dict[int, RedisHistory | None] = {}
        self._open()
        self._begin_in_process()

    def _open(self) -> None:
        self._followed: tuple[RunnerStatus, str | None, Mapping[str, str] | None] | None = None
        self._told = set[int]()
        self._lock = threading.Lock()

    @override
    def _begin_in_child(self) -> None:
        # The runner that is followed goes on in the parent alone.
        self._open()

    def _of(self, partition: int) -> RedisHistory | None:
        with self._lock:
            if partition not in self._kept:
                self._kept[partition] = self._open_one(partition)
            return self._kept[partition]

    def __call__(self, event: events.Event) -> None:
        """Take an event."""
        self.keep(event, None)

    @override
    def keep(self, event: events.Event, text: str | None) -> None:
        """Take an event, and the whole text of its reason."""
        job_id = getattr(event, "job_id", None)
        history = self._of(homes(job_id, self._count())[-1]) if isinstance(job_id, str) else None
        if history is not None:
            history.keep(event, text)

    def follow(
        self, runner: RunnerStatus, *, video_api: str | None = None, video_apis: Mapping[str, str] | None = None
    ) -> None:
        """Report from time to time that this runner is alive, until `close`."""
        self._told = set()
        self._followed = (runner, video_api, video_apis)
        self.beat_in_new_ones()

    def beat_in_new_ones(self) -> None:
        """Report it in partitions that have come since, too."""
        followed = self._followed
        if followed is None:
            return
        runner, video_api, video_apis = followed
        with self._lock:
            # Several threads may learn of them at once.
            new = [one for one in self._served() if one not in self._told]
            self._told.update(new)
        for partition in new:
            history = self._of(partition)
            if history is not None:
                history.follow(runner, video_api=video_api, video_apis=video_apis)

    def close(self, patience_s: float = 2.0) -> bool:
        """End it; return whether that is done within so many seconds."""
        until_s = time.monotonic() + patience_s
        self._followed = None
        open_ones = [one for one in list(self._kept.values()) if one is not None]
        for one in open_ones:
            one.close(0)
        closed = [one.close(max(0.0, until_s - time.monotonic())) for one in open_ones]
        return all(closed)


class _Parts(Generic[QueueT]):
    """The queues of the partitions, made as they are needed.

    Args:
        make: Makes the queue of one.
        partitions: How many there are, as far as is known here.
        serve: Which are served; None for all.
        hands: Makes calls to several at once.
    """

    def __init__(
        self,
        make: Callable[[int], QueueT],
        partitions: int,
        serve: Collection[int] | None,
        hands: Hands | AsyncHands,
    ) -> None:
        self.queues: list[QueueT] = []

        def operations_of(partition: int) -> Operations:
            queue = make(partition)
            self.queues.append(queue)
            operations = queue._operations  # noqa: SLF001 - the same room
            operations.partition = partition
            return operations

        self.all: Partitions = Partitions(operations_of, partitions, serve, hands)
        self.rounds: Rounds = self.all.rounds
        self._hands = hands
        self._quiet_s: dict[int, float] = {}
        self._histories: weakref.WeakSet[_History] = weakref.WeakSet()
        self.all.on_growth = self._beat_in_new_ones

    def history(self) -> _History:
        """Return what keeps the history of a runner."""
        history = _History(
            lambda one: self.queues[one].open_history(), lambda: self.rounds.served, lambda: self.all.count
        )
        self._histories.add(history)
        return history

    def _beat_in_new_ones(self) -> None:
        for history in list(self._histories):
            try:
                history.beat_in_new_ones()
            except Exception as error:  # noqa: BLE001 - whoever learnt of more partitions, an enqueue perhaps, does not need it
                log.warning("A worker cannot be seen in all partitions by operators\n%s", trace_of(error))

    def __repr__(self) -> str:
        first = self.queues[0]
        address = shown_address(self.all.client)
        return f"(prefix={first.keys.prefix!r}, partitions={self.all.count}, redis={address!r})"

    def wait_for_work(
        self, rings: Rings, timeout_s: float, any_of: Callable[[Rings, float], object], interrupted: Callable[[], bool]
    ) -> Flow[bool]:
        """Listen to the doorbells of all partitions that are served; return whether one rang.

        Those that did not ring go on in `rings`, so that a bell that rings somewhere breaks no connection elsewhere.

        Raises:
            QueueUnavailableError: None of them can be listened to.
        """
        until_s = time.monotonic() + timeout_s
        while not interrupted():
            now_s = time.monotonic()
            left_s = max(0.0, until_s - now_s)
            new = [one for one in self.rounds.served if one not in rings and self._quiet_s.get(one, now_s) <= now_s]
            for one in new if left_s > 0 else ():
                rings[one] = self._hands.begin(_listening(self.queues[one], left_s))
            if not rings:
                if left_s > 0:
                    msg = "waiting for work: no partition that is served answers. Try again."
                    raise QueueUnavailableError(msg)
                return False
            yield from do(any_of, rings, left_s + (GRACE_S if new else 0.0))
            rang = [self._rang(one, rings.pop(one)) for one in list(rings) if rings[one].done()]
            if any(rang):
                return True
            if time.monotonic() >= until_s:
                return False
        return False

    def _rang(self, partition: int, ring: Ring) -> bool:
        """Note what a doorbell answered; return whether it rang."""
        if ring.cancelled() or ring.exception() is not None:
            self._quiet_s[partition] = time.monotonic() + QUIET_S
            return False
        if ring.result():
            self.rounds.rung(partition)
        return bool(ring.result())


def _listening(queue: RedisVideoJobQueue | AsyncRedisVideoJobQueue, seconds: float) -> Flow[object]:
    return (yield lambda: queue.wait_for_work(seconds))


class PartitionedQueue(RedisVideoJobQueue):
    """A `RedisVideoJobQueue` of several partitions; made by `RedisVideoJobQueue.from_url`."""

    def __init__(
        self, make: Callable[[int], RedisVideoJobQueue], partitions: int, serve: Collection[int] | None
    ) -> None:
        self._hands = Hands()
        self._parts: _Parts[RedisVideoJobQueue] = _Parts(make, partitions, serve, self._hands)
        self._operations = self._parts.all
        self._own = threading.local()
        self._interrupted = threading.Event()
        self._begin_in_process()

    @override
    def _begin_in_child(self) -> None:
        super()._begin_in_child()
        # What the parent's threads listen to never rings here.
        self._own = threading.local()

    @property
    def partitions(self) -> tuple[RedisVideoJobQueue, ...]:
        """The partitions, as far as they are known here, each a queue of its own."""
        return tuple(self._parts.queues)

    def address_of(self, partition: int) -> str:
        """Return where a partition is, without user and password."""
        return shown_address(self._parts.all.cells[partition].client)

    def partition_of(self, job_id: str) -> int:
        """Return the partition that knows a job; where it would be taken in, if none does.

        Raises:
            QueueError: A Redis is away or says no.
        """
        return run(self._parts.all.locate(job_id))

    def layout_of(self, partition: int) -> KnownHere:
        """Return what a partition knows of the number of partitions, and its clock.

        Raises:
            QueueError: Its Redis is away or says no.
        """
        return run(self._parts.all.look_at(partition))

    def learn(self) -> None:
        """Learn how many partitions there are, from the first one that answers.

        Raises:
            QueueError: None of those that are known here answers.
        """
        run(self._parts.all.learn())

    def announce(self) -> None:
        """Tell all partitions that answer how many there are."""
        run(self._parts.all.announce())

    @override
    def close(self) -> None:
        """Close all connections."""
        for queue in self._parts.queues:
            queue.close()
        self._hands.close()

    @override
    def wait(self, job_id: str, *, timeout_s: float) -> Outcome | None:
        """Wait for the outcome of a job; see `RedisVideoJobQueue.wait`."""
        return self._parts.queues[self.partition_of(job_id)].wait(job_id, timeout_s=timeout_s)

    @override
    def wait_for_work(self, timeout_s: float) -> bool:
        """Block until an id stands in the list of a partition that is served, at most so many seconds."""
        # Of each thread its own: they go on listening while the thread claims.
        rings: Rings = self._own.__dict__.setdefault("rings", {})
        return run(self._parts.wait_for_work(rings, timeout_s, _any_of, self._interrupted.is_set))

    @override
    def interrupt(self) -> None:
        """Wake a `wait_for_work` in another thread, for good."""
        self._interrupted.set()
        for queue in self._parts.queues:
            queue.interrupt()

    @override
    def resume(self) -> None:
        """Allow `wait_for_work` to block again after an `interrupt`."""
        for queue in self._parts.queues:
            queue.resume()
        self._interrupted.clear()

    @override
    def open_history(self) -> _History:  # type: ignore[override]
        """Return what keeps the stories of jobs and the heartbeat of a worker."""
        return self._parts.history()

    @override
    def __repr__(self) -> str:
        return f"RedisVideoJobQueue{self._parts!r}"


def _any_of(rings: Rings, seconds: float) -> None:
    concurrent.futures.wait(
        cast("list[concurrent.futures.Future[object]]", [*rings.values()]), seconds, FIRST_COMPLETED
    )


class AsyncPartitionedQueue(AsyncRedisVideoJobQueue):
    """An `AsyncRedisVideoJobQueue` of several partitions; made by `AsyncRedisVideoJobQueue.from_url`."""

    def __init__(
        self, make: Callable[[int], AsyncRedisVideoJobQueue], partitions: int, serve: Collection[int] | None
    ) -> None:
        self._hands = AsyncHands()
        self._parts: _Parts[AsyncRedisVideoJobQueue] = _Parts(make, partitions, serve, self._hands)
        self._operations = self._parts.all
        self._rings: weakref.WeakKeyDictionary[asyncio.Task[object], Rings] = weakref.WeakKeyDictionary()
        self._begin_in_process()

    @override
    async def _close_owned(self) -> None:
        await self._hands.close()
        for queue in self._parts.queues:
            await queue.close()

    @override
    async def wait(self, job_id: str, *, timeout_s: float) -> Outcome | None:
        """Wait for the outcome of a job; see `RedisVideoJobQueue.wait`."""
        return await self._parts.queues[await arun(self._parts.all.locate(job_id))].wait(job_id, timeout_s=timeout_s)

    @override
    async def wait_for_work(self, timeout_s: float) -> bool:
        """Block until an id stands in the list of a partition that is served, at most so many seconds."""
        rings = self._rings.setdefault(cast("asyncio.Task[object]", asyncio.current_task()), {})
        try:
            return await arun(self._parts.wait_for_work(rings, timeout_s, _async_any_of, lambda: False))
        except asyncio.CancelledError:
            await self._hands.cancel(cast("list[asyncio.Task[object]]", [*rings.values()]))
            raise

    @override
    def open_history(self) -> _History:  # type: ignore[override]
        """Return what keeps the stories of jobs and the heartbeat of a worker."""
        return self._parts.history()

    @override
    def __repr__(self) -> str:
        return f"AsyncRedisVideoJobQueue{self._parts!r}"


async def _async_any_of(rings: Rings, seconds: float) -> None:
    tasks = cast("list[asyncio.Task[object]]", [*rings.values()])
    await asyncio.wait(tasks, timeout=seconds, return_when=FIRST_COMPLETED)
