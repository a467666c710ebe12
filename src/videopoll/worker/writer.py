"""Writes what was decided about jobs, many transitions in a round trip, and keeps at it until they are written.

`TransitionWriter` serves the threaded runner, `AsyncTransitionWriter` the asyncio one; what they
share keeps no clock of its own and does no I/O.

Whatever the queue answers, a write is kept and tried again until it is carried
out, or until its lease is somebody else's. What is wrong with one job's data
becomes a dead letter, so that it does not hold up the others. Only a stop, and
the end of a `run_once`, end the patience: then what is unwritten is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, cast

import attrs
from typing_extensions import override

from videopoll import events
from videopoll._reasons import WITHHELD, own, told_or_withheld, trace_of
from videopoll.clock import FOREVER_S
from videopoll.core.flow import acall_unchecked, adrive, call_unchecked, do, drive
from videopoll.core.loops import WRITER
from videopoll.errors import QueueError, QueueRefusedError, QueueUnavailableError
from videopoll.jobs.outcome import DeadLetter
from videopoll.jobs.transition import (
    BeginSend,
    BeginWatch,
    Conclude,
    Redeliver,
    Release,
    Reschedule,
    SendWork,
    Settle,
    Transition,
    TransitionResult,
)
from videopoll.observe.log import shown
from videopoll.worker.host_parts import resume, was_cancelled
from videopoll.worker.timing import Coalescer

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from videopoll.core.flow import Flow
    from videopoll.jobs.outcome import OutboxEntry
    from videopoll.protocols import AsyncVideoJobQueue, VideoJobQueue
    from videopoll.worker.state import WorkerState

__all__ = ["AsyncTransitionWriter", "BaseWriter", "TransitionWriter"]

log: logging.Logger = logging.getLogger(__name__)

WRITES_APART_S = 0.05
"""How far apart two writes are at least, if nobody waits for them: a poll that is due in 10 s can wait for company."""

AWAITED_APART_S = 0.005
"""The same for what somebody waits for: the start of a send, the end of one."""

LARGEST_COMMIT = 250
"""Transitions that are written together at most."""

MOST_REFUSALS = 8
"""After so many, whatever is refused is not for the sake of single jobs: the others wait untried."""

MOST_NAMED = 100
"""Ids in a log line at most."""

_DUE_LATER = (Reschedule, Redeliver)

F = TypeVar("F", "Future[TransitionResult]", "asyncio.Future[TransitionResult]")


@attrs.define(eq=False)
class _Write(Generic[F]):
    """One transition on its way to the queue.

    Args:
        transition: What to write.
        future: What its verdict will come in, if somebody waits for it.
        tries: How often it was refused.
        again_s: When to try it again, in monotonic seconds.
        refused: Whether the queue would not do it when it was tried last; not so if the fault is in the job's own data.
        instead: The dead letter that is written in its place, while that is tried.
        answered: Whether it is over.
    """

    transition: Transition
    future: F | None
    tries: int = 0
    again_s: float = -FOREVER_S
    refused: bool = False
    instead: Settle | None = None
    answered: bool = False

    @property
    def job_id(self) -> str:
        """Whose it is."""
        return self.transition.claim.job_id

    @property
    def to_apply(self) -> Transition:
        """What to hand to the queue."""
        return self.instead or self.transition


Attempt: TypeAlias = "Sequence[object] | BaseException"
"""What the queue gave: verdicts, or what it raised."""


class BaseWriter(Generic[F]):
    """What waits to be written, when to write it, and for how long to try."""

    _lock: contextlib.AbstractContextManager[object]

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._coalescer = Coalescer()
        self._pending: list[_Write[F]] = []
        # Touched only by whoever writes: what is being written, and what was refused.
        self._writing: list[_Write[F]] = []
        self._kept: list[_Write[F]] = []
        self.open()

    def open(self) -> None:
        """Begin afresh, with patience without end."""
        self._closing = False
        self.over: bool = False
        self._patience_s, self._patience_from_s = FOREVER_S, 0.0
        self._failing_since_s: float | None = None
        self._coalescer.suspend_until(-FOREVER_S)
        self.gave_up: QueueError | None = None

    def give_up_after(self, seconds: float) -> None:
        """Stop trying to write what could not be written for so long: the leases will bring the jobs back."""
        self._patience_s, self._patience_from_s = seconds, self._state.clock.monotonic_s()

    def abandon(self) -> None:
        """Write no more: whatever waits is lost, and so is what comes later. The leases bring the jobs back."""
        self.over = True
        left = self._writing + self._kept + self._pending
        self._kept, self._pending = [], []
        for write in left:
            self._tell(write, TransitionResult.LOST)

    def disown(self) -> None:
        """Write nothing, in a forked child: what waits is its parent's to write, and so is what comes of copies of its work."""
        self.over = True
        self._kept, self._pending = [], []

    def job_ids(self) -> list[str]:
        """Return the ids of the jobs of which something is yet to be written."""
        return [write.job_id for some in (self._writing, self._kept, self._pending) for write in list(some)]

    def put(self, transition: Transition, *, wait: bool = True) -> F | None:
        """Write a transition with the next round trip; with `wait`, return the future of its result. When nobody writes any more, it is lost."""
        future = self._new_future() if wait else None
        with self._lock:
            write = _Write(transition, future)
            if self.over:
                self._tell(write, TransitionResult.LOST)
                return future
            self._pending.append(write)
            apart_s = AWAITED_APART_S if wait else WRITES_APART_S
            if self._coalescer.request(self._state.clock.monotonic_s(), apart_s):
                self._changed()
        return future

    def hurry(self) -> None:
        """Try at once what was refused: Redis answers again."""
        with self._lock:
            for write in list(self._kept):
                write.again_s = -FOREVER_S
            self._coalescer.suspend_until(-FOREVER_S)
            if self._kept:
                self._changed()

    def close(self) -> None:
        """End `run` when all is written."""
        with self._lock:
            self._closing = True
            self._changed()

    # --- how threads and asyncio differ ---

    def run(self) -> Awaitable[None] | None:
        """Write until it is closed."""
        raise NotImplementedError

    def _new_future(self) -> F:
        """Return what somebody can wait for."""
        raise NotImplementedError

    def _changed(self) -> None:
        """Make `_next` look again; called under the lock."""
        raise NotImplementedError

    def _next(self) -> list[_Write[F]] | Awaitable[list[_Write[F]]]:
        """Wait until something is to be written, and return it; nothing at the end."""
        raise NotImplementedError

    def _apply(self, transitions: list[Transition]) -> Attempt | Awaitable[Attempt]:
        """Hand transitions to the queue, and return what came of it."""
        raise NotImplementedError

    # --- when ---

    @property
    def _empty(self) -> bool:
        return not (self._pending or self._kept)

    def _left_s(self) -> float | None:
        """Seconds until the next write, 0 when it is due, None while there is nothing to write."""
        now_s = self._state.clock.monotonic_s()
        at_s = self._coalescer.next_s if self._pending else FOREVER_S
        if self._kept:
            at_s = min(at_s, max(self._coalescer.held_until_s, min(write.again_s for write in self._kept)))
        return None if at_s == FOREVER_S else max(0.0, at_s - now_s)

    def _ready(self) -> list[_Write[F]] | None:
        """Return what is to be written now: None if nothing is yet, nothing at the end."""
        if self.over or (self._closing and self._empty):
            self.over = True
            return []
        return self._take() if self._left_s() == 0 or (self._closing and self._pending and not self._kept) else None

    def _take(self) -> list[_Write[F]]:
        """Return what is to be written now, what was refused before first: what is written of one job keeps its order."""
        now_s = self._state.clock.monotonic_s()
        self._coalescer.started(now_s)
        waiting = self._kept + self._pending
        due = [write for write in waiting if write.again_s <= now_s][:LARGEST_COMMIT]
        taken = set(map(id, due))
        self._writing = due
        self._kept = [write for write in self._kept if id(write) not in taken]
        self._pending = [write for write in self._pending if id(write) not in taken]
        if self._pending:
            self._coalescer.request(now_s, 0.0)
        return due

    # --- writing ---

    @contextlib.contextmanager
    def _safe(self) -> Iterator[None]:
        """Lose nothing of what is being written, whatever is raised on the way."""
        try:
            yield
        except BaseException:
            kept = set(map(id, self._kept))
            self._kept += [write for write in self._writing if id(write) not in kept and not write.answered]
            raise
        finally:
            self._writing = []

    def _write_all(self) -> Flow[None]:
        """Write until it is closed."""
        while batch := (yield from do(self._next)):
            with self._safe():
                yield from self._write(batch)

    def _write(self, batch: list[_Write[F]]) -> Flow[None]:
        left: list[list[_Write[F]]] = [batch]
        refusals, asked_s, done = 0, 0.0, False
        while left:
            some = left.pop()
            asked_s = self._state.clock.monotonic_s()
            with self._state.loops.busy(WRITER):
                found = cast("Attempt", (yield from do(self._apply, [write.to_apply for write in some])))
            if not isinstance(found, BaseException):
                done = self._answer(some, found, asked_s) or done
            elif isinstance(found, QueueUnavailableError):
                # It is the same for all.
                for others in reversed(left):
                    some += others
                self._all_wait(some, found)
                return
            elif len(some) > 1 and refusals < MOST_REFUSALS:
                # One that cannot be written, or cannot even be put into words, must not take others along.
                half = len(some) // 2
                left += [some[half:], some[:half]]
            elif len(some) == 1 and (simpler := self._letter_for(some[0], found)) is not None:
                some[0].instead = simpler
                left.append(some)
            else:
                refusals += 1
                for write in some:
                    self._refused(write, found)
        if done and not any(write.refused for write in self._kept):
            self._failing_since_s = None
            self._state.redis_recovered("apply", asked_s)

    def _answer(self, batch: list[_Write[F]], verdicts: Sequence[object], asked_s: float) -> bool:
        """Answer whoever waits, and plan a claim for when the first of what was scheduled falls due; return whether all is answered."""
        self._state.takeovers.answered(asked_s, self._state.clock.monotonic_s())
        due_ms = [write.transition.due_ms for write in batch if isinstance(write.transition, _DUE_LATER)]
        if due_ms:
            self._state.wake_at(self._state.monotonic_of(min(due_ms)))
        known, all_known = list(verdicts) if isinstance(verdicts, Sequence) else [], True
        for place, write in enumerate(batch):
            verdict = known[place] if len(known) == len(batch) else None
            if isinstance(verdict, QueueError):
                self._waits_apart(write, verdict)
                all_known = False
            elif not isinstance(verdict, TransitionResult):
                msg = f"the queue gave no verdict on a {type(write.to_apply).__name__}: it has to give one for each"
                self._refused(write, QueueRefusedError(own(msg)))
                all_known = False
            elif write.instead is None:
                self._tell(write, verdict)
            else:
                self._buried(write, verdict)
        return all_known

    def _tell(self, write: _Write[F], verdict: TransitionResult) -> None:
        write.answered = True
        if write.future is not None and not write.future.done():
            write.future.set_result(verdict)

    def _all_wait(self, batch: list[_Write[F]], error: QueueUnavailableError) -> None:
        """Keep what could not be written as Redis is away, and everything else with it for a while."""
        now_s = self._state.clock.monotonic_s()
        wait_s = self._state.redis_lost(error, "apply")
        for write in batch:
            write.refused = True
        self._kept = batch + self._kept
        left_s = self._patience_left_s(now_s)
        if left_s <= 0:
            self._give_up(error)
        else:
            self._coalescer.suspend_until(now_s + min(wait_s, left_s))

    def _refused(self, write: _Write[F], error: BaseException) -> None:
        """Keep what would not be written, while others are."""
        now_s = self._state.clock.monotonic_s()
        write.instead, write.refused = None, not _is_about_data(error)
        if not write.tries and not (write.refused and isinstance(error, QueueError)):
            log.error("What was decided about the job %s cannot be written\n%s", shown(write.job_id), trace_of(error))
        if write.refused:
            reason = error if isinstance(error, QueueError) else QueueRefusedError(own("the queue failed at a write"))
            self._state.redis_lost(reason, "apply")
        self._kept.append(write)
        left_s = self._patience_left_s(now_s)
        if left_s <= 0:
            self._give_up(error)
        else:
            write.again_s = now_s + min(self._state.trouble_s(write.tries), left_s)
            write.tries += 1

    def _waits_apart(self, write: _Write[F], error: QueueError) -> None:
        """Keep what could not be written as a part of the queue is away: the queue itself claims nothing there meanwhile."""
        now_s = self._state.clock.monotonic_s()
        write.refused = False
        self._kept.append(write)
        left_s = self._patience_left_s(now_s)
        if left_s <= 0:
            self._give_up(error)
        else:
            write.again_s = now_s + min(self._state.trouble_s(write.tries), left_s)
            write.tries += 1

    def _patience_left_s(self, now_s: float) -> float:
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        return max(self._failing_since_s, self._patience_from_s) + self._patience_s - now_s

    def _give_up(self, error: BaseException) -> None:
        """Answer for what cannot be written: whoever waits must not wait for ever. The leases bring the jobs back."""
        self.gave_up = error if isinstance(error, QueueError) else QueueRefusedError(own("the queue failed at a write"))
        given_up, self._kept, self._pending = self._kept + self._pending, [], []
        ids = [shown(job_id) for job_id in dict.fromkeys(write.job_id for write in given_up)]
        log.error(
            "What was decided about %d jobs is not written, and their fate stays unknown until their leases end: %s%s",
            len(ids),
            ", ".join(ids[:MOST_NAMED]),
            " …" if len(ids) > MOST_NAMED else "",
        )
        for write in given_up:
            self._tell(write, TransitionResult.LOST)

    # --- what is wrong with one job's data ---

    def _letter_for(self, write: _Write[F], error: BaseException) -> Settle | None:
        """Return the dead letter to write in place of what cannot be, with as much in it as can be written."""
        transition = write.transition
        if not _is_about_data(error) or isinstance(transition, Release):
            return None
        if write.instead is None:
            entry: OutboxEntry | None = None
            if isinstance(transition, Conclude | BeginSend | Redeliver | BeginWatch):
                entry = transition.entry
            elif isinstance(transition, Settle) and transition.letter is not None:
                entry = transition.letter.entry
        elif write.instead.letter is not None and write.instead.letter.entry is not None:
            # It is the entry itself: what was stored of it before can be.
            entry = None
        else:
            return None
        claim = transition.claim
        if entry is None and isinstance(claim.work, SendWork):
            entry = claim.work.entry if write.instead is None else None
        record = None if claim.raw is None or entry is not None else claim.raw.decode("utf-8", "surrogateescape")
        reason = f"what was decided about it cannot be written: {type(transition).__name__}, {type(error).__name__}"
        letter = DeadLetter(claim.job_id, own(reason), self._state.context.clock.now_ms(), record=record, entry=entry)
        return Settle(claim, letter=letter)

    def _buried(self, write: _Write[F], verdict: TransitionResult) -> None:
        """Report a dead letter that was written in place of something else."""
        if verdict is TransitionResult.APPLIED and write.instead is not None and write.instead.letter is not None:
            worker_id, reason = self._state.worker_id, told_or_withheld(write.instead.letter.reason) or WITHHELD
            self._state.emit(
                events.JobDeadLettered(worker_id=worker_id, job_id=write.job_id, reason=reason, outcome=None)
            )
            verdict = TransitionResult.FINISHED_ELSEWHERE
        self._tell(write, verdict)


def _is_about_data(error: BaseException) -> bool:
    """Whether an error is about the words of one write: they cannot be encoded, or Redis cannot take them."""
    if isinstance(error, QueueRefusedError):
        return error.about_data
    return isinstance(error, ValueError | TypeError | OverflowError | RecursionError)


class TransitionWriter(BaseWriter["Future[TransitionResult]"]):
    """For threads: `put` may be called on any of them, `run` has one of its own."""

    def __init__(self, state: WorkerState, queue: VideoJobQueue) -> None:
        self._lock = self._condition = threading.Condition()
        self._queue = queue
        super().__init__(state)

    @override
    def run(self) -> None:
        """Write until it is closed."""
        drive(self._write_all(), call_unchecked)

    @override
    def _new_future(self) -> Future[TransitionResult]:
        return Future()

    @override
    def _changed(self) -> None:
        self._condition.notify_all()

    @override
    def _next(self) -> list[_Write[Future[TransitionResult]]]:
        with self._lock:
            while (batch := self._ready()) is None:
                self._condition.wait(self._left_s())
            return batch

    @override
    def _apply(self, transitions: list[Transition]) -> Attempt:
        try:
            return self._queue.apply(transitions)
        except BaseException as error:  # noqa: BLE001 - a host's queue may raise anything; the worker goes on
            return error


class AsyncTransitionWriter(BaseWriter["asyncio.Future[TransitionResult]"]):
    """For asyncio; all of it on one event loop."""

    def __init__(self, state: WorkerState, queue: AsyncVideoJobQueue) -> None:
        self._lock = contextlib.nullcontext()
        self._queue = queue
        super().__init__(state)

    @override
    def open(self) -> None:
        """Begin afresh, maybe on another event loop."""
        self._wake = asyncio.Event()
        super().open()

    @override
    async def run(self) -> None:
        """Write until it is closed."""
        await adrive(self._write_all(), acall_unchecked)

    @override
    def _new_future(self) -> asyncio.Future[TransitionResult]:
        return asyncio.get_running_loop().create_future()

    @override
    def _changed(self) -> None:
        self._wake.set()

    @override
    async def _next(self) -> list[_Write[asyncio.Future[TransitionResult]]]:
        loop = asyncio.get_running_loop()
        while (batch := self._ready()) is None:
            left_s = self._left_s()
            self._wake.clear()
            timer = None if left_s is None else loop.call_later(left_s, self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()
        return batch

    @override
    async def _apply(self, transitions: list[Transition]) -> Attempt:
        try:
            return await self._queue.apply(transitions)
        except (asyncio.CancelledError, Exception) as error:
            if not was_cancelled():
                return error
            if self.over:
                raise
            # The event loop is being closed, and everything was cancelled: what was decided has to be written all the same.
            resume()
            return QueueUnavailableError("apply: the write was interrupted. Try again.")
