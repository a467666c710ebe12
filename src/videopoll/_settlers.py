"""Writes what was decided about jobs, many transitions in a round trip, and keeps at it while Redis is away.

`Settler` serves the threaded runner, `AsyncSettler` the asyncio one; what they
share keeps no clock of its own and does no I/O.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

from videopoll._pace import FOREVER_S, Pace
from videopoll._parts import trace_of, was_cancelled
from videopoll._supervise import SETTLER
from videopoll.errors import QueueError, QueueUnavailableError
from videopoll.work import Redeliver, Reschedule, Transition, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from videopoll._engine import Engine
    from videopoll.protocols import AsyncVideoJobQueue, VideoJobQueue

__all__ = ["AsyncSettler", "Settler"]

log = logging.getLogger(__name__)

WRITES_APART_S = 0.05
"""How far apart two writes are at least, if nobody waits for them: a poll that is due in 10 s can wait for company."""

AWAITED_APART_S = 0.005
"""The same for what somebody waits for: the start of a send, the end of one."""

LARGEST_COMMIT = 250
"""Transitions that are written together at most."""

F = TypeVar("F", "Future[Verdict]", "asyncio.Future[Verdict]")


class _Pending(Generic[F]):
    """What waits to be written, when to write it, and for how long to try."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pace = Pace()
        self._pending: list[tuple[Transition, F | None]] = []
        self._closing = False
        self.open()

    def open(self) -> None:
        """Begin afresh, with patience without end."""
        self._closing = False
        self._patience_s, self._patience_from_s = FOREVER_S, 0.0
        self._failing_since_s: float | None = None
        self.gave_up: QueueError | None = None

    def be_patient_for(self, seconds: float) -> None:
        """Give up when Redis is away for so long: the leases will bring the jobs back."""
        self._patience_s, self._patience_from_s = seconds, self._engine.clock.monotonic_s()

    def _add(self, transition: Transition, future: F | None) -> bool:
        """Take something in; say whether it is to be written sooner than planned."""
        self._pending.append((transition, future))
        return self._pace.want(self._engine.clock.monotonic_s(), WRITES_APART_S if future is None else AWAITED_APART_S)

    def _left_s(self) -> float:
        """Seconds until the next write, 0 when it is due."""
        return max(0.0, self._pace.next_s - self._engine.clock.monotonic_s())

    def _take(self) -> list[tuple[Transition, F | None]]:
        """Give what is to be written now."""
        now_s = self._engine.clock.monotonic_s()
        self._pace.begin(now_s)
        batch, self._pending = self._pending[:LARGEST_COMMIT], self._pending[LARGEST_COMMIT:]
        if self._pending:
            self._pace.want(now_s, 0.0)
        return batch

    def _failed(self, error: QueueUnavailableError) -> float | None:
        """Note that Redis is away: give the seconds to wait, None when the patience is over."""
        now_s = self._engine.clock.monotonic_s()
        self._failing_since_s = self._failing_since_s or now_s
        left_s = max(self._failing_since_s, self._patience_from_s) + self._patience_s - now_s
        if left_s <= 0:
            self.gave_up = error
            return None
        return min(self._engine.redis_lost(error, "apply"), left_s)

    def _written(self) -> None:
        self._engine.redis_fine("apply")
        self._failing_since_s = None

    def _answer(self, batch: Sequence[tuple[Transition, F | None]], verdicts: Sequence[Verdict]) -> None:
        """Tell whoever waits, and have a claim when the first of what was scheduled falls due."""
        due_ms = [one.due_ms for one, _ in batch if isinstance(one, Reschedule | Redeliver)]
        if due_ms:
            self._engine.wake_at(self._engine.at_of(min(due_ms)))
        for place, (_, future) in enumerate(batch):
            if future is not None and not future.done():
                # A host's queue may give fewer verdicts than it should.
                future.set_result(verdicts[place] if place < len(verdicts) else Verdict.LOST)

    def _give_up_on(self, batch: Sequence[tuple[Transition, F | None]], error: BaseException) -> None:
        """Answer for what cannot be written: whoever waits must not wait for ever. The leases bring the jobs back."""
        log.error("A job's step could not be written, it will be taken up again\n%s", trace_of(error))
        self._answer(batch, [Verdict.LOST] * len(batch))


class Settler(_Pending["Future[Verdict]"]):
    """For threads: `put` may be called on any of them, `run` has one of its own."""

    def __init__(self, engine: Engine, queue: VideoJobQueue) -> None:
        self._changed = threading.Condition()
        self._queue = queue
        super().__init__(engine)

    def put(self, transition: Transition, *, wait: bool = True) -> Future[Verdict] | None:
        """Have a transition written; with `wait`, give what its verdict will come in."""
        future: Future[Verdict] | None = Future() if wait else None
        with self._changed:
            if self._add(transition, future):
                self._changed.notify_all()
        return future

    def close(self) -> None:
        """Let `run` end when all is written."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def run(self) -> None:
        """Write until it is closed."""
        while batch := self._next():
            try:
                with self._engine.loops.busy(SETTLER):
                    self._write(batch)
            except BaseException as error:  # noqa: BLE001 - a host's queue may raise anything; the worker goes on
                self._give_up_on(batch, error)

    def _next(self) -> list[tuple[Transition, Future[Verdict] | None]]:
        with self._changed:
            while not (self._closing or (self._pending and self._left_s() <= 0)):
                self._changed.wait(self._left_s() if self._pending else None)
            return self._take()

    def _write(self, batch: Sequence[tuple[Transition, Future[Verdict] | None]]) -> None:
        while True:
            try:
                verdicts = self._queue.apply([transition for transition, _ in batch])
            except QueueUnavailableError as error:
                wait_s = self._failed(error)
                if wait_s is None:
                    self._answer(batch, [Verdict.LOST] * len(batch))
                    return
                time.sleep(wait_s)
            except Exception as error:  # noqa: BLE001 - a host's queue may raise anything; the worker goes on
                if len(batch) == 1:
                    self._give_up_on(batch, error)
                else:
                    # One that cannot be written, or cannot even be put into words, must not take others along.
                    for one in batch:
                        self._write([one])
                return
            else:
                self._written()
                self._answer(batch, verdicts)
                return


class AsyncSettler(_Pending["asyncio.Future[Verdict]"]):
    """For asyncio; all of it on one event loop."""

    def __init__(self, engine: Engine, queue: AsyncVideoJobQueue) -> None:
        self._changed = asyncio.Event()
        self._queue = queue
        super().__init__(engine)

    def put(self, transition: Transition, *, wait: bool = True) -> asyncio.Future[Verdict] | None:
        """Have a transition written; with `wait`, give what its verdict will come in."""
        future: asyncio.Future[Verdict] | None = asyncio.get_running_loop().create_future() if wait else None
        if self._add(transition, future):
            self._changed.set()
        return future

    def close(self) -> None:
        """Let `run` end when all is written."""
        self._closing = True
        self._changed.set()

    async def run(self) -> None:
        """Write until it is closed."""
        while batch := await self._next():
            try:
                with self._engine.loops.busy(SETTLER):
                    await self._write(batch)
            except (asyncio.CancelledError, Exception) as error:
                self._give_up_on(batch, error)
                if was_cancelled():
                    raise

    async def _next(self) -> list[tuple[Transition, asyncio.Future[Verdict] | None]]:
        loop = asyncio.get_running_loop()
        while not (self._closing or (self._pending and self._left_s() <= 0)):
            self._changed.clear()
            timer = loop.call_later(self._left_s(), self._changed.set) if self._pending else None
            await self._changed.wait()
            if timer is not None:
                timer.cancel()
        return self._take()

    async def _write(self, batch: Sequence[tuple[Transition, asyncio.Future[Verdict] | None]]) -> None:
        while True:
            try:
                verdicts = await self._queue.apply([transition for transition, _ in batch])
            except QueueUnavailableError as error:
                wait_s = self._failed(error)
                if wait_s is None:
                    self._answer(batch, [Verdict.LOST] * len(batch))
                    return
                await asyncio.sleep(wait_s)
            except Exception as error:  # noqa: BLE001 - a host's queue may raise anything; the worker goes on
                if len(batch) == 1:
                    self._give_up_on(batch, error)
                else:
                    for one in batch:
                        await self._write([one])
                return
            else:
                self._written()
                self._answer(batch, verdicts)
                return
