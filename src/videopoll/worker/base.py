"""What both runners have in common: what they are built from, what a run does, how they are, and how they end.

What a run does are flows: `Runner` drives them in its threads, `AsyncRunner` in its tasks.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypedDict, TypeVar, cast

from typing_extensions import override

from videopoll import events
from videopoll._reasons import trace_of
from videopoll.core.belonging import OfProcess, leave_to_parent
from videopoll.core.flow import do
from videopoll.core.wrappers import warn_of_hidden_look_up
from videopoll.errors import QueueError, RunnerError
from videopoll.jobs.checks import check_flags, check_kind
from videopoll.jobs.transition import TransitionResult
from videopoll.jobs.views import Health
from videopoll.observe.log import shown_ids
from videopoll.policies import ENDING_S, KeyTtls
from videopoll.protocols import AsyncVideoJobQueue, VideoJobQueue
from videopoll.worker import state as constants
from videopoll.worker.endings import MOST_ENDINGS
from videopoll.worker.host_parts import check_part, check_publisher
from videopoll.worker.state import Room, WorkerState
from videopoll.worker.upkeep import Upkeep

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterable

    from videopoll.clock import Clock
    from videopoll.core.flow import Flow
    from videopoll.core.step import JobStep
    from videopoll.events import Hook
    from videopoll.jobs.views import RunSummary
    from videopoll.policies import DeliveryPolicy, LeasePolicy, PollingStrategy
    from videopoll.protocols import AsyncPublisher, Publisher, RunnerHistory
    from videopoll.texts import Texts
    from videopoll.worker.stopping import Stopping
    from videopoll.worker.writer import BaseWriter

__all__ = ["HIDING_S", "LATE", "RUNNING", "BaseRun", "BaseRunner"]

log: logging.Logger = logging.getLogger(__name__)

HIDING_S = 2.0
"""Seconds that the end of a run waits for the last of its history to be written."""

LATE = "the worker has not ended in time, see the log: build another runner"
RUNNING = "this runner is running already: build another one to run beside it"


class _Asked(TypedDict, total=False):
    video_api: str
    video_apis: dict[str, str]


def _asked_by(poller: object) -> _Asked:
    """Return which video APIs a poller tells that it asks: by name, or the one."""
    apis, url = getattr(poller, "apis", None), getattr(poller, "base_url", None)
    if isinstance(apis, dict):
        return _Asked(video_apis=apis)
    return _Asked(video_api=url) if isinstance(url, str) else _Asked()


class BaseRun:
    """One run of a runner, from its start to its end.

    Args:
        stopping: Its way to the end.
        background: Whether nobody waits for it.
        asked: Called when somebody asks for its end; takes no lock, as this may be a signal handler.
    """

    def __init__(self, stopping: Stopping, *, background: bool, asked: Callable[[], object]) -> None:
        self.stopping = stopping
        self.background = background
        self._asked = asked

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        raise NotImplementedError

    def ask(self) -> None:
        """Ask for its end, without waiting."""
        self.stopping.ask()
        self._asked()

    def hurry(self) -> None:
        """Ask for its end at once: what is unfinished is given back now."""
        self.stopping.hurry()
        self.ask()


QueueT = TypeVar("QueueT", bound=VideoJobQueue | AsyncVideoJobQueue)
PollerT = TypeVar("PollerT")
NotifierT = TypeVar("NotifierT")
FutureT = TypeVar("FutureT", "Future[TransitionResult]", "asyncio.Future[TransitionResult]")
RunT = TypeVar("RunT", bound=BaseRun)


class BaseRunner(OfProcess, Generic[QueueT, PollerT, NotifierT, FutureT, RunT]):
    """What a runner is built from, what it tells of itself, what a run does, and how it is asked to stop."""

    _log: logging.Logger
    _polls_by_default: int
    _writer: BaseWriter[FutureT]
    _listening: threading.Event | asyncio.Event
    _history: RunnerHistory | None = None

    def __init__(
        self,
        queue: QueueT,
        poller: PollerT,
        notifier: NotifierT,
        *,
        publisher: Publisher | AsyncPublisher | None = None,
        strategy: PollingStrategy | None = None,
        lease: LeasePolicy | None = None,
        delivery: DeliveryPolicy | None = None,
        texts: Texts | None = None,
        hooks: Iterable[Hook] = (),
        concurrency: int | None = None,
        delivery_concurrency: int | None = None,
        account_concurrency: int | None = None,
        grace_s: float = 10.0,
        foreign_workers: bool = False,
        recover: bool = True,
        take_new: bool = True,
        visible: bool = True,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._refuse(queue, poller, notifier, publisher)
        check_kind("the queue's ttls", getattr(queue, "ttls", None), KeyTtls)
        check_publisher(poller, publisher)
        warn_of_hidden_look_up(notifier)
        check_flags("", foreign_workers=foreign_workers, recover=recover, take_new=take_new, visible=visible)
        if rng is not None:
            check_part(rng, "rng", "random")
        polls = self._polls_by_default if concurrency is None else concurrency
        self._new_state = functools.partial(
            WorkerState,
            ttls=queue.ttls,
            poller=poller,
            strategy=strategy,
            lease=lease,
            delivery=delivery,
            texts=texts,
            hooks=hooks,
            concurrency=polls,
            delivery_concurrency=polls if delivery_concurrency is None else delivery_concurrency,
            account_concurrency=account_concurrency,
            grace_s=grace_s,
            foreign_workers=foreign_workers,
            recover=recover,
            take_new=take_new,
            clock=clock,
            rng=rng,
            wake=self._wake,
            begin=self._begin,
            give_back=self._give_back,
            hurry_renewal=self._hurry_renewal,
            hung=self._count_hung,
        )
        self._queue = queue
        self._poller = poller
        self._notifier = notifier
        self._publisher = publisher
        self._visible = visible
        self._open()
        self._begin_in_process()

    def _open(self) -> None:
        """Make all that a run changes: once in each process."""
        self._state = self._new_state()
        self._current: RunT | None = None
        self._asked_before = False

    @override
    def _begin_in_child(self) -> None:
        # Neither threads nor event loops come along, but the one that forked. What they held may stay half done.
        ran = self._under_way is not None
        leave_to_parent(self._current)
        self._disown()
        self._open()
        # A copy that waits for a write of its own would wait for ever; a run begins with it anew.
        self._writer.disown()
        self._state.vitals.left_behind = ran

    def _disown(self) -> None:
        """Take from this child what its copies of the parent's work could do.

        Whoever forks in a part, a hook or a coroutine and comes back from there in the child as well goes on with a copy
        of what it was in the middle of, under its parent's lease: it would send again, or give back what is being sent.
        """
        if self._current is not None:
            self._current.stopping.hurry()
        for step in list(self._state.steps.values()):
            step.disown()
        self._writer.disown()
        history = self._hide()
        leave_to_parent(history)
        disown = getattr(history, "disown", None)
        if callable(disown):
            # Its thread would keep the child alive.
            disown()

    def __repr__(self) -> str:
        how = "not running" if self._under_way is None else "stopping" if self.stopping else "running"
        return f"<{type(self).__name__} {self.worker_id}: {how}, {len(self._state.steps)} jobs in hand>"

    # --- what each kind does in its own way ---

    def _refuse(
        self, queue: QueueT, poller: PollerT, notifier: NotifierT, publisher: Publisher | AsyncPublisher | None
    ) -> None:
        """Refuse parts that this runner cannot work with."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Wake the loop, in whatever thread this is called."""
        raise NotImplementedError

    def _hurry_renewal(self) -> None:
        """Wake what renews leases."""
        raise NotImplementedError

    def _count_hung(self) -> int:
        """Return how many calls of a host's parts were left to themselves."""
        raise NotImplementedError

    def _begin(self, step: JobStep) -> None:
        """Begin to work on a job."""
        raise NotImplementedError

    def _give_back(self, step: JobStep, *, wait: bool = False) -> FutureT | None:
        """Give a job back that was not begun, as if it had not been claimed; with `wait`, return what tells when that is written."""
        transition = step.release()
        future = None if transition is None else self._writer.put(transition, wait=wait)
        self._state.forget(step)
        return future

    def _in_hand(self) -> list[tuple[JobStep, float]]:
        """Return the steps in hand, and for how many seconds a send of each may go on after it is given back."""
        raise NotImplementedError

    def _wait_for(self, run: RunT, futures: list[FutureT]) -> object:
        """Wait until these are written, for as long as an end may take."""
        raise NotImplementedError

    def _wait_to_renew(self, seconds: float) -> bool | Awaitable[bool]:
        """Wait until leases are to be renewed, at most so long; return whether they still are."""
        raise NotImplementedError

    def _cut_off(self, lost: list[JobStep]) -> None:
        """End the work on jobs whose leases are lost, where it can be cut off: it begins nothing more anyhow."""

    # --- for the host ---

    @property
    def worker_id(self) -> str:
        """The name of this worker in Redis, in the log and in events."""
        return self._state.worker_id

    @property
    def concurrency(self) -> int:
        """Polls at a time, at most."""
        return self._state.concurrency

    @property
    def polls_in_hand(self) -> int:
        """Jobs that are being polled now."""
        return self._state.polls_in_hand

    @property
    def sends_in_hand(self) -> int:
        """Jobs whose outcome is being sent now."""
        return self._state.sends_in_hand

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to stop, and has not ended yet."""
        return self._state.stopping

    def add_hook(self, hook: Hook) -> None:
        """Call `hook` with every event from now on, like those that the runner was built with."""
        self._state.emitter.add(hook)

    def health(self) -> Health:
        """Return whether this worker is fit, from what it has seen so far."""
        return self._state.health()

    def request_stop(self) -> None:
        """Ask the runner to stop, without waiting; may be called in another thread, and in a signal handler.

        If nothing runs, it counts for a `run` that is about to begin.
        """
        run = self._under_way
        if run is None:
            self._asked_before = True
        else:
            run.ask()

    # --- a run and its end ---

    @property
    def _under_way(self) -> RunT | None:
        """The run that goes on, if one does."""
        current = self._current
        return None if current is None or current.over else current

    def _to_start(self) -> bool:
        """Whether `start` has something to begin; not if a run in the background goes on.

        Raises:
            RunnerError: One goes on that somebody waits for.
        """
        run = self._under_way
        if run is not None and not run.background:
            raise RunnerError(RUNNING)
        return run is None or run.stopping.asked

    def _ask_to_stop(self) -> RunT | None:
        """Ask the run that goes on for its end, and return it; forget what was asked before."""
        self._asked_before = False
        run = self._under_way
        if run is not None:
            run.ask()
        return run

    def _heed(self, run: RunT) -> None:
        """Ask a run for its end if that was asked before it began."""
        if self._asked_before:
            self._asked_before = False
            run.ask()

    def _log_late(self) -> None:
        """Log that nobody waits for the end of a run any longer."""
        self._log.error(
            "The worker has not ended within its grace of %g s and %g s more; something hangs in the queue, in a hook"
            " or in its loop. Left as they are: %s",
            self._state.grace_s,
            ENDING_S,
            shown_ids(self._state.steps),
        )

    def _closers(self, *names: str) -> list[Callable[[], object]]:
        """Return what closes the notifier, the publisher and the poller: for each the first method of these names."""
        found = (
            next((close for name in names if callable(close := getattr(part, name, None))), None)
            for part in (self._notifier, self._publisher, self._poller)
        )
        return [close for close in found if close is not None]

    # --- what a run does ---

    def _begin_run(self, pause: Callable[[float], object]) -> None:
        """Begin with empty hands, and without what an earlier run has seen; `pause` is that of the loops."""
        self._state.forget_steps()
        self._state.open_run()
        self._state.loops.open()
        self._upkeep = Upkeep(self._state, self._queue, pause)
        self._counted_before = dict(self._state.counted)

    def _end_run(self) -> None:
        self._state.loops.open()
        # The next run is a new one.
        self._state.stopping = False

    def _announce(self) -> None:
        self._state.endings.defer()
        self._state.places.open_softly()
        self._state.emit(events.WorkerStarted(worker_id=self.worker_id))

    def _summary(self, claimed: int) -> RunSummary:
        """Return what the run has done.

        Raises:
            QueueError: Something of it could not be written.
        """
        if self._writer.gave_up is not None:
            raise self._writer.gave_up
        return self._state.summary(self._counted_before, claimed)

    def _rounds(
        self,
        name: str,
        attempt: Callable[[], object],
        pause: Callable[[float], object],
    ) -> Flow[None]:
        """Do a loop's rounds until one says that it was the last, whatever they raise.

        Args:
            name: Which loop it is.
            attempt: Does a round; returns whether there is to be another, or what it raised.
            pause: Waits for so many seconds.
        """
        goes_on = True
        while goes_on:
            came = yield from do(attempt)
            if isinstance(came, BaseException):
                pause_s = self._state.loops.failed(name, came)
                # It would keep all that its trace holds, for as long as the next round takes.
                del came
                yield from do(pause, pause_s)
            else:
                goes_on = came is True
                self._state.round_succeeded(name)
        self._state.loops.end(name)

    def _turn(self, run: RunT, sleep: Callable[[float], object]) -> Flow[bool]:
        """Claim what there is room for, begin to work on it, and sleep until the next claim is wanted."""
        state = self._state
        if run.stopping.asked:
            return False
        yield from self._upkeep.tell()
        room = state.begin_turn()
        if room.any:
            try:
                yield from self._claim(room)
            except QueueError as error:
                state.claim_failed(error)
            else:
                if state.should_listen():
                    self._listening.set()
        while not run.stopping.asked and (left_s := state.coalescer.next_s - state.clock.monotonic_s()) > 0:
            yield from do(sleep, left_s)
        return True

    def _batch(self, run: RunT, rest: Callable[[float], object]) -> Flow[int]:
        """Claim what is due, and work on it to its end; return how many jobs that were."""
        claimed = yield from self._claim(Room(self._state.places.open, self._state.delivery_concurrency, MOST_ENDINGS))
        if self._state.takeovers.learnt:
            claimed += yield from self._claim(Room(*self._state.room(), 0))
        self._writer.give_up_after(self._state.lease.duration_s)
        yield from self._finish(run, rest)
        return claimed

    def _claim(self, room: Room) -> Flow[int]:
        return self._upkeep.claim(room, self._writer.job_ids, self._begin)

    def _finish(self, run: RunT, rest: Callable[[float], object]) -> Flow[int]:
        """Wait for what is in hand, give back what is not done in time; return how many that were.

        Args:
            run: Which run ends.
            rest: Waits until nothing is in hand any more, at most so many seconds.
        """
        stopping, state = run.stopping, self._state
        puts: list[FutureT | None] = [self._give_back(step, wait=True) for step in state.leave_line()]
        while state.steps and (left_s := min(stopping.grace_left_s(), state.hangs_in_s())) > 0:
            yield from do(rest, left_s)
        # Whatever this finds takes its time in the bounds of the end.
        run.ask()
        yield from self._upkeep.tell()
        left = [(step, step.release(send_s)) for step, send_s in self._in_hand()]
        puts += [self._writer.put(transition) for _, transition in left if transition is not None]
        futures = [future for future in puts if future is not None]
        self._writer.give_up_after(constants.LONGEST_IDLE_S)
        yield from do(lambda: self._wait_for(run, futures))
        given_back = sum(future.done() and future.result() is TransitionResult.APPLIED for future in futures)
        state.log_unfinished([step for step, _ in left], given_back)
        for step, _ in left:
            # One that hangs is still there, and can neither write nor begin a send.
            state.forget(step)
        return given_back

    def _write(self) -> Flow[bool]:
        yield from do(self._writer.run)
        return False

    def _renew(self) -> Flow[bool]:
        if not (yield from do(self._wait_to_renew, self._state.renew_in_s())):
            return False
        lost = yield from self._upkeep.renew()
        if lost is not None:
            self._writer.hurry()
            self._cut_off(lost)
        return True

    def _listen(self) -> Flow[bool]:
        yield from do(self._listening.wait)
        if self._state.stopping:
            return False
        yield from self._upkeep.listen(self._listening.clear)
        return True

    # --- for operators ---

    def _show(self, *, beats: bool) -> None:
        """Begin to keep in the queue what happens in this run; with `beats`, also that this worker is alive."""
        before = self._hide()
        if before is not None:
            # Of a run whose event loop stands still, or of the parent of a fork.
            before.close(0)
        offered = getattr(self._queue, "open_history", None)
        if not (self._visible and callable(offered)) or self._state.emitter.keeps_history:
            return
        try:
            history = cast("RunnerHistory | None", offered())
            if history is None:
                return
            if beats:
                history.follow(self, **_asked_by(self._poller))
        except Exception as error:  # noqa: BLE001 - no job needs it
            log.warning("This worker cannot be seen by operators\n%s", trace_of(error))
            return
        self._history = history
        self._state.emitter.add(history)

    def _hide(self) -> RunnerHistory | None:
        """End that; return what is to be closed."""
        history, self._history = self._history, None
        if history is not None:
            self._state.emitter.remove(history)
        return history
