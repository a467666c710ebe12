"""Hands for several calls at once, each to a server of its own: one that is silent must not hold up the others.

`Hands` has threads, `AsyncHands` tasks. A call that takes longer than its patience is left to itself: its answer is
dropped, and until it has come back there is no other of its kind to the same partition. So what is written of a job
keeps its order.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import queue as stdlib_queue
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, cast

from typing_extensions import override

from videopoll._reasons import own
from videopoll.core.belonging import OfLoop, OfProcess
from videopoll.errors import QueueUnavailableError
from videopoll.policies import ENDING_S
from videopoll.queue.scripts import arun, run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from videopoll.core.flow import Flow

__all__ = ["Answers", "AsyncHands", "Hands"]

T = TypeVar("T")
FutureT = TypeVar("FutureT", "concurrent.futures.Future[object]", "asyncio.Task[object]")

Answers: TypeAlias = "dict[int, T | Exception]"
"""What each partition answered, or what was raised instead."""

PATIENCE_S = 1.0
"""Seconds for which a partition may hold up the others, once: less than leases can do without (`LeasePolicy`)."""

SHORTEST_PATIENCE_S = 0.25
"""The least of it, however short leases are: a busy server is no silent one."""

LONGEST_PATIENCE_S = 4.0
"""The most, for a server that is known to answer, and late."""

PROBATION_S = 0.05
"""The same for one that did not answer the last time."""

IDLE_S = 10.0
"""Seconds after which a thread without work ends."""


class _Patience(Generic[FutureT]):
    """How long to wait for whom."""

    def __init__(self) -> None:
        self.usual_s: float = PATIENCE_S
        self._lock = threading.Lock()
        self._overdue = collections.Counter[tuple[str, int]]()
        self._silent = set[int]()
        self._late_s = dict[int, float]()

    def begin(
        self, kind: str, flows: Mapping[int, Flow[T]], begin: Callable[[Flow[T]], FutureT]
    ) -> tuple[dict[int, FutureT], Answers[object], float]:
        """Begin those of some calls that may be made.

        Returns:
            What was begun for each partition; an error for each that has not answered the last call of its kind yet;
            and when that was, in monotonic seconds.
        """
        began_s = time.monotonic()
        overdue = {partition for partition in flows if self._overdue[kind, partition]}
        calls = {partition: begin(flow) for partition, flow in flows.items() if partition not in overdue}
        return calls, {partition: _silence(kind) for partition in overdue}, began_s

    def wait_at_most(self, seconds: float) -> None:
        """Set how long a partition may hold up the others."""
        self.usual_s = max(SHORTEST_PATIENCE_S, min(PATIENCE_S, seconds))

    def limits(self, partitions: Iterable[int]) -> list[tuple[float, set[int]]]:
        """Return for how many seconds to wait, and for whom."""
        some = set(partitions)
        late = {one: self._late_s[one] for one in some if one in self._late_s}
        if late:
            # Some answer late, as a rule: without their answers there would be no end of that.
            return [(max(self.usual_s, min(LONGEST_PATIENCE_S, 2 * max(late.values()))), some)]
        return [(self.usual_s, some - self._silent), (PROBATION_S, some & self._silent)]

    def told(self, kind: str, calls: Mapping[int, FutureT], began_s: float) -> Answers[object]:
        """Return the answers that are there; the others are left to themselves.

        Args:
            kind: What was asked for.
            calls: What was begun for each partition.
            began_s: When, in monotonic seconds.
        """
        answers: Answers[object] = {}
        for partition, call in calls.items():
            if call.done():
                answers[partition] = self._heard(partition, call)
                if time.monotonic() - began_s < self.usual_s:
                    self._late_s.pop(partition, None)
                continue
            answers[partition] = _silence(kind)
            with self._lock:
                self._overdue[kind, partition] += 1
                self._silent.add(partition)
            call.add_done_callback(cast("Callable[[object], None]", self._forget(kind, partition, began_s)))
        return answers

    def _heard(self, partition: int, call: FutureT) -> object:
        error = QueueUnavailableError("it was interrupted. Try again.") if call.cancelled() else call.exception()
        if isinstance(error, QueueUnavailableError):
            self._silent.add(partition)
        else:
            self._silent.discard(partition)
        return call.result() if error is None else error

    def _forget(self, kind: str, partition: int, began_s: float) -> Callable[[FutureT], None]:
        def forget(call: FutureT) -> None:
            with self._lock:
                self._overdue[kind, partition] -= 1
            if not isinstance(self._heard(partition, call), Exception):
                self._late_s[partition] = time.monotonic() - began_s

        return forget


def _silence(kind: str) -> QueueUnavailableError:
    return QueueUnavailableError(own(f"{kind}: this partition's Redis has not answered in time. Try again."))


# --- threads ---


class Hands(OfProcess):
    """Makes calls in threads of its own, which end when there is nothing to do."""

    def __init__(self) -> None:
        self._open()
        self._begin_in_process()

    def _open(self) -> None:
        self._patience: _Patience[concurrent.futures.Future[object]] = _Patience()
        self._lock = threading.Lock()
        self._work: stdlib_queue.SimpleQueue[tuple[Flow[object], concurrent.futures.Future[object]] | None] = (
            stdlib_queue.SimpleQueue()
        )
        self._idle = 0

    @override
    def _begin_in_child(self) -> None:
        self._open()

    def wait_at_most(self, seconds: float) -> None:
        """Bound how long a partition may hold up the others."""
        self._patience.wait_at_most(seconds)

    def all(self, kind: str, flows: Mapping[int, Flow[T]]) -> Answers[T]:
        """Carry out a flow for each partition, all at once; wait for those that answer in time."""
        calls, answers, began_s = self._patience.begin(kind, flows, self.begin)
        for limit_s, some in self._patience.limits(calls):
            left_s = max(0.0, began_s + limit_s - time.monotonic())
            concurrent.futures.wait([calls[partition] for partition in some], left_s)
        return cast("Answers[T]", answers | self._patience.told(kind, calls, began_s))

    def begin(self, flow: Flow[object]) -> concurrent.futures.Future[object]:
        """Begin to carry out a flow in a thread."""
        future: concurrent.futures.Future[object] = concurrent.futures.Future()
        with self._lock:
            starts = self._idle == 0
            self._idle -= not starts
        self._work.put((flow, future))
        if starts:
            # A daemon: one that waits for a silent server cannot keep the process.
            threading.Thread(target=self._serve, name="videopoll-partition", daemon=True).start()
        return future

    def close(self) -> None:
        """End the threads that have nothing to do."""
        with self._lock:
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._work.put(None)

    def _serve(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=IDLE_S)
            except stdlib_queue.Empty:
                with self._lock:
                    if self._idle > 0:
                        self._idle -= 1
                        return
                # Something is on its way.
                continue
            if work is None:
                return
            flow, future = work
            try:
                result = run(flow)
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                self._rest()
                future.set_exception(error)
            else:
                self._rest()
                future.set_result(result)
            del work, flow, future

    def _rest(self) -> None:
        with self._lock:
            self._idle += 1


# --- asyncio ---


class AsyncHands(OfProcess):
    """Makes calls in tasks of the running event loop; the asyncio side of `Hands`."""

    def __init__(self) -> None:
        self._tasks: OfLoop[set[asyncio.Task[object]]] = OfLoop(set)
        self._open()
        self._begin_in_process()

    def _open(self) -> None:
        self._patience: _Patience[asyncio.Task[object]] = _Patience()

    @override
    def _begin_in_child(self) -> None:
        # A call of the parent that has not come back never does here: its partition would not be asked again.
        self._open()

    def wait_at_most(self, seconds: float) -> None:
        """Bound how long a partition may hold up the others."""
        self._patience.wait_at_most(seconds)

    async def all(self, kind: str, flows: Mapping[int, Flow[T]]) -> Answers[T]:
        """Carry out a flow for each partition, all at once; wait for those that answer in time."""
        calls, answers, began_s = self._patience.begin(kind, flows, self.begin)
        try:
            for limit_s, some in self._patience.limits(calls):
                if some:
                    left_s = max(0.0, began_s + limit_s - time.monotonic())
                    await asyncio.wait([calls[partition] for partition in some], timeout=left_s)
        except asyncio.CancelledError:
            await self.cancel(calls.values())
            raise
        return cast("Answers[T]", answers | self._patience.told(kind, calls, began_s))

    def begin(self, flow: Flow[object]) -> asyncio.Task[object]:
        """Begin to carry out a flow in a task."""
        task = asyncio.get_running_loop().create_task(_carry_out(flow), name="videopoll-partition")
        here = self._tasks.here()
        here.add(task)
        task.add_done_callback(here.discard)
        return task

    async def cancel(self, tasks: Iterable[asyncio.Task[object]]) -> None:
        """Cut calls off, and wait until that is done."""
        left = [task for task in tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=ENDING_S)

    async def close(self) -> None:
        """Cut off what still goes on in this event loop."""
        await self.cancel(tuple(self._tasks.here()))


def _carry_out(flow: Flow[object]) -> Coroutine[object, object, object]:
    return arun(flow)
