"""The worker with threads: `Runner`. Its asyncio twin is in `videopoll.async_runner`.

The loop claims jobs in batches and hands them to a bounded number of threads,
which carry out the effects of each job's step (`videopoll._steps`). One thread
gathers what is to be written into shared round trips, one renews leases, one
listens for new ids, one looks for jobs that were lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import queue as stdlib_queue
import signal
import threading
from typing import TYPE_CHECKING

from videopoll import _engine, events
from videopoll._calls import FOREIGN_IDLE_S
from videopoll._engine import (
    MOST_ENDINGS,
    STILL_THERE_S,
    SWEEP_EVERY_S,
    SWEEP_SLOWLY_EVERY_S,
    WAKE_JITTER_S,
    Engine,
    Room,
    RunSummary,
)
from videopoll._hung import GUARD_S, HungCalls, PartCall, not_back
from videopoll._pace import FOREVER_S
from videopoll._parts import (
    as_observation,
    as_receipt,
    as_sighting,
    look_up_failed,
    notifier_failed,
    poller_failed,
    refuse_async,
    trace_of,
)
from videopoll._reasons import told_of
from videopoll._settlers import Settler
from videopoll._steps import Answer, Commit, Effect, FindMessage, JobStep, PollApi, SendMessage, Steps
from videopoll._supervise import BELL, LOOP, RENEWER, SETTLER, SWEEPER, check_renewed
from videopoll.errors import QueueError, QueueRefusedError
from videopoll.messages import Sighting
from videopoll.work import Verdict

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType
    from typing import Self

    from videopoll._clock import Clock
    from videopoll.events import Hook
    from videopoll.policies import DeliveryPolicy, LeasePolicy, PollingStrategy
    from videopoll.protocols import Notifier, VideoJobQueue, VideoPoller
    from videopoll.words import Words

__all__ = ["Runner"]

log = logging.getLogger(__name__)

THREADS = "videopoll-"
"""What the names of a runner's threads begin with."""

SEND_GOES_ON_S = 30.0
"""How long a send that was left to itself may go on: the longest that a shipped channel takes."""

ENDING_THREADS = 2
"""Threads that are free for what ends without a place, while polls and sends hang in all the others."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Runner(Engine):
    """A worker with threads.

    `run` blocks until `stop` is called from another thread or a signal comes;
    `start` works in the background; `run_once` does one batch. As a context
    manager it stops at the end, and closes the connections that its poller and
    notifier opened (they open again when they are used again).

    Args:
        queue: Where jobs are kept.
        poller: Asks the video API.
        notifier: Brings outcomes to users.
        strategy: When to poll, and when to give up.
        lease: How long a crash costs, at most.
        delivery: How hard to try to reach a user.
        words: The texts that users get.
        hooks: Hear of every event, on the thread where it happens.
        concurrency: Polls at a time, a thread each.
        delivery_concurrency: Sends at a time, a thread each.
        grace_s: Seconds that `stop` lets unfinished work go on before it is given back.
        foreign_workers: Whether workers of another kind share this Redis. Then
            jobs that one of them lost are looked for every 30 s, with ``SCAN``.
        recover: Whether to look, with ``SCAN``, for jobs that have a record and
            are nowhere else: at the start, and every two minutes, as a producer
            of another kind may end between its record and its push.
        take_new: Whether to take ids from the list, and to look for lost jobs. Without,
            the runner finishes what is scheduled and delivers what waits: for a
            retirement, or beside workers of another kind that go on alone.
        clock: What time it is; tests hand in one of their own. The waits themselves
            are those of the event loop, or of the threads.
        rng: Where the jitter is drawn from; the system's generator if there is none.

    Raises:
        ConfigurationError: Values that cannot work, alone or together.
        TypeError: A part is an asyncio one; `AsyncRunner` takes those.
    """

    def __init__(
        self,
        queue: VideoJobQueue,
        poller: VideoPoller,
        notifier: Notifier,
        *,
        strategy: PollingStrategy | None = None,
        lease: LeasePolicy | None = None,
        delivery: DeliveryPolicy | None = None,
        words: Words | None = None,
        hooks: Iterable[Hook] = (),
        concurrency: int = 16,
        delivery_concurrency: int = 8,
        grace_s: float = 10.0,
        foreign_workers: bool = False,
        recover: bool = True,
        take_new: bool = True,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        refuse_async(queue, "claim", "queue")
        refuse_async(poller, "poll", "poller")
        refuse_async(notifier, "notify", "notifier")
        super().__init__(
            ttls=queue.ttls,
            strategy=strategy,
            lease=lease,
            delivery=delivery,
            words=words,
            hooks=hooks,
            concurrency=concurrency,
            delivery_concurrency=delivery_concurrency,
            grace_s=grace_s,
            foreign_workers=foreign_workers,
            recover=recover,
            take_new=take_new,
            clock=clock,
            rng=rng,
        )
        self._queue = queue
        self._poller = poller
        self._notifier = notifier
        # Re-entrant, because a signal handler may ask us to stop while we hold it.
        self._changed = threading.Condition(threading.RLock())
        self._background: threading.Thread | None = None
        self._machine = threading.Lock()
        self._loop_thread: threading.Thread | None = None
        self._listening = threading.Event()
        self._stopped = threading.Event()
        self._closed = threading.Event()
        self._renewal = threading.Event()
        self._work: stdlib_queue.SimpleQueue[JobStep | None] = stdlib_queue.SimpleQueue()
        self._ended = threading.Event()
        self._ended.set()
        self._swept = False
        self._sweep_refused = False
        self._settler = Settler(self, queue)
        self._hung = HungCalls(self.concurrency + self.delivery_concurrency)

    # --- for the host ---

    def run(self, *, handle_signals: bool = False) -> None:
        """Work until `stop` is called.

        Args:
            handle_signals: Whether SIGTERM and SIGINT stop the runner (a second
                one ends the process at once). Only for whoever owns the process,
                on its main thread.
        """
        with _signals(self.request_stop) if handle_signals else contextlib.nullcontext():
            self._run()

    def start(self) -> None:
        """Work in a background thread until `stop` is called."""
        if self._background is None or not self._background.is_alive():
            self.stopping = False
            self._background = _thread(self._run, "runner")

    def stop(self) -> None:
        """Claim no more, finish or give back what is in hand, and wait until that is done.

        On one of the runner's own threads (in a hook) it does not wait.
        """
        self.request_stop()
        here = threading.current_thread()
        if here is not self._loop_thread and not here.name.startswith(THREADS):
            self._ended.wait()
            if self._background is not None:
                self._background.join()

    def request_stop(self) -> None:
        """Ask the runner to stop, without waiting; safe in a signal handler."""
        self.stopping = True
        with self._changed:
            self._changed.notify_all()

    def run_once(self) -> RunSummary:
        """Do one batch: claim what is due, work on it to its end, and return.

        Raises:
            QueueError: Redis is away or says no.
        """
        before = dict(self.counted)
        with self._machinery():
            claimed = self._claim(Room(self.concurrency, self.delivery_concurrency, MOST_ENDINGS))
            if self.takeovers.learnt:
                claimed += self._claim(Room(*self.room(), 0))
            self._settler.be_patient_for(self.lease.duration_s)
            self._finish_work(FOREVER_S)
        if self._settler.gave_up is not None:
            raise self._settler.gave_up
        return self.summary(before, claimed)

    def __enter__(self) -> Self:
        """Give the runner itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and close what the poller and the notifier opened."""
        self.stop()
        for part in (self._poller, self._notifier):
            close = getattr(part, "close", None)
            if callable(close):
                close()

    # --- the loop ---

    def _run(self) -> None:
        self._loop_thread = threading.current_thread()
        with self._machinery():
            self.be_patient()
            self.emit(events.WorkerStarted(worker_id=self.worker_id))
            self._swept = not self.recover
            helpers = [self._loop(BELL, self._listen), self._loop(SWEEPER, self._sweep)]
            self.loops.begin(LOOP)
            try:
                while not self.stopping:
                    try:
                        self._turn()
                    except (asyncio.CancelledError, Exception) as error:
                        self._stopped.wait(self.loops.failed(LOOP, error))
                    else:
                        self.loop_fine(LOOP)
            finally:
                self.stopping = True
                self._stopped.set()
                self._listening.set()
                bell, sweeper = helpers
                given_back = self._finish_work(self.grace_s)
                while bell.is_alive():
                    # Again and again: it may be just about to block.
                    self._queue.interrupt()
                    bell.join(0.02)
                self._queue.resume()
                sweeper.join(1.0)
                self._loop_thread = None
                # The next `run` is a new one.
                self.stopping = False
                self.emit(events.WorkerStopped(worker_id=self.worker_id, given_back=given_back))

    def _turn(self) -> None:
        """Claim what there is room for, hand it out, and sleep until the next claim is wanted."""
        with self._changed:
            room = self.begin_turn()
        if room.any:
            try:
                self._claim(room)
            except QueueError as error:
                with self._changed:
                    self.claim_failed(error)
            else:
                if self.worth_listening():
                    self._listening.set()
        with self._changed:
            while not self.stopping and (left_s := self.pace.next_s - self.clock.monotonic_s()) > 0:
                self._changed.wait(left_s)

    def _claim(self, room: Room) -> int:
        """Claim, hand out what was found, and plan the next claim; return how many jobs that were."""
        asked = self.ask()
        batch = self._queue.claim(
            polls=room.polls,
            sends=room.sends,
            worker_id=self.worker_id,
            strategy=self.strategy,
            lease=self.lease,
            foreign_workers=self.foreign_workers,
            endings=room.endings,
            look_from=room.look_from,
            take_new=self.take_new,
            take_over=asked.take_over,
            in_hand=self.in_hand(self._settler.job_ids),
            asked_ms=asked.clock_ms,
        )
        for step in self.take(batch, asked):
            self._work.put(step)
        self.plan_after(batch)
        return len(batch.claims)

    def wake_at(self, at_s: float) -> None:
        """Have a claim at this time."""
        with self._changed:
            if self.claim_by(at_s):
                self._changed.notify_all()

    # --- threads ---

    @contextlib.contextmanager
    def _machinery(self) -> Iterator[None]:
        """Keep the threads that work on jobs, write and renew."""
        if not self._machine.acquire(blocking=False):
            msg = "this runner is running already: build another one to run beside it"
            raise RuntimeError(msg)
        try:
            self._ended.clear()
            self._stopped.clear()
            self._closed.clear()
            self._renewal.clear()
            self.open_run()
            # A queue of its own for each run: a thread that hung in the last one finds its end there.
            work: stdlib_queue.SimpleQueue[JobStep | None] = stdlib_queue.SimpleQueue()
            self._work = work
            self._settler.open()
            self.loops.open()
            settler = self._loop(SETTLER, self._write)
            renewer = self._loop(RENEWER, self._renew)
            # Daemon threads: one that hangs in a host's own part cannot keep the process.
            workers = self.concurrency + self.delivery_concurrency + ENDING_THREADS
            for number in range(workers):
                _thread(functools.partial(self._serve, work), f"worker-{number}")
            try:
                yield
            finally:
                for _ in range(workers):
                    work.put(None)
                self._hung.leave_all()
                self._closed.set()
                self._renewal.set()
                self._settler.close()
                settler.join()
                renewer.join()
                self.loops.open()
        finally:
            self._machine.release()
            self._ended.set()

    def _serve(self, work: stdlib_queue.SimpleQueue[JobStep | None]) -> None:
        """Work on jobs, one after the other, whatever a host's parts raise."""
        while (step := work.get()) is not None:
            if not self._work_on(step, self._begun(step)):
                # A part did not come back in time: another thread has this one's place.
                return

    def _serve_instead(self, call: PartCall, work: stdlib_queue.SimpleQueue[JobStep | None]) -> None:
        """Go on with a job whose part does not come back, and then in the place of the thread that waits for it."""
        answer = not_back(call.effect, self.delivery.send_timeout_s)
        if self._work_on(call.step, lambda: self._carry_out(call.step, call.steps, lambda: call.steps.send(answer))):
            self._serve(work)

    def _begun(self, step: JobStep) -> Callable[[], bool]:
        steps = step.steps()
        return lambda: self._carry_out(step, steps, lambda: next(steps))

    def _work_on(self, step: JobStep, work: Callable[[], bool]) -> bool:
        """Work on a job until it is out of hand; False if another thread goes on with it."""
        ours = True
        try:
            try:
                ours = work()
            finally:
                if ours:
                    self.let_go(step)
        except BaseException as error:
            # A host's logging may raise, too: the place that this thread serves must stay.
            with contextlib.suppress(Exception):
                log.error("A job's step failed; its lease will run out\n%s", trace_of(error))  # noqa: TRY400 - redacted
        return ours

    def _carry_out(self, step: JobStep, steps: Steps, proceed: Callable[[], Effect]) -> bool:
        """Carry out effects from the one on that `proceed` gives; False if another thread goes on."""
        try:
            while True:
                effect = proceed()
                call = None if isinstance(effect, Commit) else self._timed(step, steps, effect)
                try:
                    proceed = functools.partial(steps.send, self._perform(effect))
                except Exception as error:
                    proceed = functools.partial(steps.throw, error)
                if call is not None and not self._hung.end(call):
                    return False
        except StopIteration:
            return True

    def _timed(self, step: JobStep, steps: Steps, effect: Effect) -> PartCall:
        limit_s = effect.timeout_s + GUARD_S if isinstance(effect, PollApi) else self.delivery.send_timeout_s
        call = PartCall(step, steps, effect, self.clock.monotonic_s() + limit_s)
        self._hung.begin(call)
        return call

    def _leave_hung(self) -> None:
        """Go on without the parts that have not come back in their time."""
        work = self._work
        for call in self._hung.overdue(self.clock.monotonic_s()):
            _thread(functools.partial(self._serve_instead, call, work), "worker-instead")

    def hung(self) -> int:
        """Return how many calls of parts were left to themselves and have not come back."""
        return self._hung.count

    def _perform(self, effect: Effect) -> Answer:
        if isinstance(effect, PollApi):
            try:
                return as_observation(self._poller.poll(effect.job, timeout_s=effect.timeout_s))
            except BaseException as error:
                return poller_failed(error)
        if isinstance(effect, Commit):
            future = self._settler.put(effect.transition, wait=effect.wait)
            return future.result() if future else None
        if isinstance(effect, SendMessage):
            try:
                return as_receipt(self._notifier.notify(effect.message))
            except BaseException as error:
                return notifier_failed(error)
        return as_sighting(self._find(effect))

    def _find(self, effect: FindMessage) -> object:
        find = getattr(self._notifier, "find", None)
        if find is None:
            return Sighting.CANNOT_TELL
        try:
            return find(effect.message)
        except BaseException as error:
            return look_up_failed(error)

    def place_freed(self) -> None:
        """Wake the loop if it waits for a place, or for the last job to be done."""
        super().place_freed()
        if not self.steps:
            with self._changed:
                self._changed.notify_all()

    def _finish_work(self, grace_s: float) -> int:
        """Wait for what is in hand, give back what is not done in time; tell how many that were."""
        until_s = self.clock.monotonic_s() + grace_s
        with self._changed:
            while self.steps and (left_s := until_s - self.clock.monotonic_s()) > 0:
                self._changed.wait(min(left_s, _engine.LONGEST_IDLE_S))
        left = [(step, step.relinquish(SEND_GOES_ON_S)) for step in list(self.steps.values())]
        futures = [self._settler.put(transition) for _, transition in left if transition is not None]
        self._settler.be_patient_for(_engine.LONGEST_IDLE_S)
        given_back = sum(future.result() is Verdict.APPLIED for future in futures if future)
        for step, _ in left:
            self.let_go(step)
        return given_back

    def _loop(self, name: str, work: Callable[[], bool]) -> threading.Thread:
        """Do a loop's rounds in a thread of their own until one says that it was the last, whatever they raise."""

        def keep() -> None:
            goes_on = True
            while goes_on:
                try:
                    goes_on = work()
                except BaseException as error:
                    self._stopped.wait(self.loops.failed(name, error))
                else:
                    self.loop_fine(name)
            self.loops.end(name)

        thread = threading.Thread(target=keep, name=f"{THREADS}{name}", daemon=True)
        self.loops.begin(name, lambda: thread.ident is None or thread.is_alive())
        thread.start()
        return thread

    def _write(self) -> bool:
        self._settler.run()
        return False

    def _renew(self) -> bool:
        """Renew the leases of what is in hand, in one round trip for many."""
        self._renewal.wait(self.renew_in_s())
        if self._closed.is_set():
            return False
        self._renewal.clear()
        self._leave_hung()
        asked_s, steps = self.clock.monotonic_s(), self.to_renew()
        try:
            with self.loops.busy(RENEWER):
                held = check_renewed(steps, self._queue.renew([step.held for step in steps], self.lease))
        except QueueError as error:
            self.renewal_failed(error)
        else:
            self.loop_fine(RENEWER)
            # A thread cannot be cut off, but it begins nothing any more.
            self.renewed(steps, held, asked_s)
            self._settler.hurry()
        return True

    def hurry_renewal(self) -> None:
        """Renew at once."""
        self._renewal.set()

    def _listen(self) -> bool:
        """Wake the loop when an id stands in the list; quiet until the loop has claimed again."""
        self._listening.wait()
        if self.stopping:
            return False
        try:
            rang = self._queue.wait_for_work(_engine.LONGEST_IDLE_S)
        except QueueError:
            self._stopped.wait(self.rng.uniform(0.5, 1.0))
            return True
        if not rang:
            # Another runner's stop may have woken everybody who blocks on this queue.
            self._stopped.wait(WAKE_JITTER_S)
            return True
        self._stopped.wait(self.rng.uniform(0, WAKE_JITTER_S))
        with contextlib.suppress(QueueError):
            if not self.stopping and self._queue.wait_for_work(STILL_THERE_S):
                self._listening.clear()
                self.wake_at(self.clock.monotonic_s())
        return True

    def _sweep(self) -> bool:
        """Look for jobs that nobody has: at the start, and then now and again."""
        if self.stopping or not self.sweeps:
            return False
        wait_s = every_s = SWEEP_EVERY_S if self.foreign_workers else SWEEP_SLOWLY_EVERY_S
        try:
            count = self._queue.adopt(
                # At the start nobody else is there, as far as we know; later one of another kind may have come.
                idle_s=FOREIGN_IDLE_S if self.foreign_workers or self._swept else 0.0,
                initial_delay_s=self.strategy.initial_delay_s,
                exclusive=self._swept,
                every_s=every_s,
            )
        except QueueRefusedError as error:
            if not self._sweep_refused:
                log.warning("Lost jobs are not looked for: %s", told_of(error))
            self._sweep_refused = True
        except QueueError:
            wait_s = 1.0
        else:
            self._swept, self._sweep_refused = True, False
            if count:
                self.emit(events.JobsRecovered(worker_id=self.worker_id, count=count))
                self.wake_at(self.clock.monotonic_s())
        self._stopped.wait(wait_s)
        return True


def _thread(target: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=target, name=f"{THREADS}{name}", daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def _signals(request_stop: Callable[[], None]) -> Iterator[None]:
    """Let the first SIGTERM or SIGINT ask for a stop, and the second end the process."""
    asked = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        request_stop()

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
