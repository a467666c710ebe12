"""The worker with threads: `Runner`. Its asyncio twin is in `videopoll.async_runner`.

The loop claims jobs in batches and hands them to a bounded number of threads,
which carry out the effects of each job's step (`videopoll._steps`). One thread
gathers what is to be written into shared round trips, one renews leases, one
listens for new ids, one looks for jobs that were lost.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue as stdlib_queue
import random
import signal
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, cast

from videopoll import events
from videopoll._engine import (
    FOREIGN_IDLE_S,
    FOREVER_S,
    GATHER_S,
    LARGEST_COMMIT,
    LINGER_S,
    LONGEST_IDLE_S,
    SWEEP_EVERY_S,
    WAKE_JITTER_S,
    Engine,
    RunSummary,
    as_observation,
    as_receipt,
    notifier_failed,
    poller_failed,
    refuse_async,
    trace_of,
)
from videopoll._steps import Answer, Commit, Effect, FindMessage, JobStep, PollApi, SendMessage
from videopoll.errors import QueueError, QueueRefusedError, QueueUnavailableError
from videopoll.messages import Sighting
from videopoll.work import Redeliver, Reschedule, Transition, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType
    from typing import Self

    from videopoll.events import Hook
    from videopoll.policies import DeliveryPolicy, LeasePolicy, PollingStrategy
    from videopoll.protocols import Notifier, VideoJobQueue, VideoPoller
    from videopoll.words import Words
    from videopoll.work import ClaimBatch

__all__ = ["Runner"]

log = logging.getLogger(__name__)

THREADS = "videopoll-"
"""What the names of a runner's threads begin with."""

SEND_GOES_ON_S = 30.0
"""How long a send that was left to itself may go on: the longest that a shipped channel takes."""

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
            jobs that one of them lost are looked for, now and then, with ``SCAN``.
        recover: Whether to look once at the start, with ``SCAN``, for jobs that
            have a record and are nowhere else.

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
        )
        self._queue = queue
        self._poller = poller
        self._notifier = notifier
        # Re-entrant, because a signal handler may ask us to stop while we hold it.
        self._changed = threading.Condition(threading.RLock())
        self._woken = False
        self._gathering = False
        self._due_s = FOREVER_S
        self._background: threading.Thread | None = None
        self._machine = threading.Lock()
        self._loop_thread: threading.Thread | None = None
        self._listening = threading.Event()
        self._stopped = threading.Event()
        self._closed = threading.Event()
        self._work: stdlib_queue.SimpleQueue[JobStep | None] = stdlib_queue.SimpleQueue()
        self._ended = threading.Event()
        self._ended.set()
        self._settler = _Settler(self)

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
        self._wake()

    def run_once(self) -> RunSummary:
        """Do one batch: claim what is due, work on it to its end, and return.

        Raises:
            QueueError: Redis is away or says no.
        """
        before = dict(self.counted)
        with self._machinery():
            batch = self._claim(self.concurrency, self.delivery_concurrency)
            for step in self.take(batch):
                self._work.put(step)
            self._settler.be_patient_for(self.lease.duration_s)
            self._finish_work(FOREVER_S)
        if self._settler.gave_up is not None:
            raise self._settler.gave_up
        return self.summary(before, len(batch.claims))

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
            self.emit(events.WorkerStarted(worker_id=self.worker_id))
            helpers = [_thread(self._listen, "bell"), _thread(self._sweep, "sweeper")]
            try:
                while not self.stopping:
                    self._turn()
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
        """Claim what there is room for, hand it out, and sleep until there is more to do."""
        polls, sends = self.room()
        if not polls and not sends:
            self.beat()
            self._due_s = FOREVER_S
            self._sleep(self.pause_left_s() or LONGEST_IDLE_S, gathering=True)
            return
        self._due_s = FOREVER_S
        try:
            batch = self._claim(polls, sends)
        except QueueError as error:
            self._pause(self.redis_lost(error, "claim"))
            return
        self.redis_fine("claim")
        steps = self.take(batch)
        for step in steps:
            self._work.put(step)
        taken = sum(not step.sending for step in steps)
        polls, sends = polls - taken, sends - (len(steps) - taken)
        if polls:
            self._listening.set()
        self._sleep(self.sleep_s(batch, polls, sends), gathering=not (polls and sends))

    def _claim(self, polls: int, sends: int) -> ClaimBatch:
        return self._queue.claim(
            polls=polls,
            sends=sends,
            worker_id=self.worker_id,
            strategy=self.strategy,
            lease=self.lease,
            foreign_workers=self.foreign_workers,
        )

    def _sleep(self, timeout_s: float, *, gathering: bool) -> None:
        """Sleep until something may be due, an id waits, we are to stop, or (`gathering`) a place is free."""
        until_s = time.monotonic() + timeout_s
        with self._changed:
            self._gathering = gathering
            while not self.stopping and not self._woken:
                left_s = min(until_s, self._due_s) - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
            freed = gathering and self._woken
            self._woken = self._gathering = False
        if freed and not self.stopping:
            time.sleep(GATHER_S)

    def _pause(self, seconds: float) -> None:
        """Sleep, and let nothing but a stop end it earlier."""
        until_s = time.monotonic() + seconds
        with self._changed:
            while not self.stopping and (left_s := until_s - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def due_at(self, due_ms: int) -> None:
        """Note that this worker has scheduled a poll or a send: it must not sleep longer than that."""
        due_s = time.monotonic() + (due_ms - self.shop.clock.now_ms() + 1) / 1000
        with self._changed:
            if due_s < self._due_s:
                self._due_s = due_s
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
            # A queue of its own for each run: a thread that hung in the last one finds its end there.
            work: stdlib_queue.SimpleQueue[JobStep | None] = stdlib_queue.SimpleQueue()
            self._work = work
            self._settler.open()
            settler = _thread(self._settler.run, "settler")
            renewer = _thread(self._renew, "renewer")
            # Daemon threads: one that hangs in a host's own part cannot keep the process.
            workers = self.concurrency + self.delivery_concurrency
            for number in range(workers):
                _thread(functools.partial(self._serve, work), f"worker-{number}")
            try:
                yield
            finally:
                for _ in range(workers):
                    work.put(None)
                self._closed.set()
                self._settler.close()
                settler.join()
                renewer.join()
        finally:
            self._machine.release()
            self._ended.set()

    def _serve(self, work: stdlib_queue.SimpleQueue[JobStep | None]) -> None:
        """Work on jobs, one after the other, whatever a host's parts raise."""
        while (step := work.get()) is not None:
            try:
                self._carry_out(step)
            except BaseException as error:
                log.error("A job's step failed; its lease will run out\n%s", trace_of(error))  # noqa: TRY400 - redacted
            finally:
                self._let_go(step)

    def _carry_out(self, step: JobStep) -> None:
        steps = step.steps()
        answer: Answer = None
        with contextlib.suppress(StopIteration):
            while True:
                answer = self._perform(steps.send(answer))

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
        return self._find(effect)

    def _find(self, effect: FindMessage) -> Sighting:
        find = getattr(self._notifier, "find", None)
        if find is None:
            return Sighting.CANNOT_TELL
        try:
            return cast("Sighting", find(effect.message))
        except BaseException as error:
            log.error("The notifier could not look a message up\n%s", trace_of(error))  # noqa: TRY400 - redacted
            return Sighting.NO_ANSWER

    def _let_go(self, step: JobStep) -> None:
        self.let_go(step)
        self.place_freed()

    def place_freed(self) -> None:
        """Wake the loop if it waits for a place, or for the last job to be done."""
        with self._changed:
            if self._gathering or not self.steps:
                self._woken = True
                self._changed.notify_all()

    def _finish_work(self, grace_s: float) -> int:
        """Wait for what is in hand, give back what is not done in time; tell how many that were."""
        until_s = time.monotonic() + grace_s
        with self._changed:
            while self.steps and (left_s := until_s - time.monotonic()) > 0:
                self._changed.wait(min(left_s, LONGEST_IDLE_S))
        left = [(step, step.relinquish(SEND_GOES_ON_S)) for step in list(self.steps.values())]
        futures = [self._settler.put(transition) for _, transition in left if transition is not None]
        self._settler.be_patient_for(LONGEST_IDLE_S)
        given_back = sum(future.result() is Verdict.APPLIED for future in futures if future)
        for step, _ in left:
            self.let_go(step)
        return given_back

    def _renew(self) -> None:
        """Renew the leases of what is in hand, in one round trip for many."""
        while not self._closed.wait(self.lease.renew_every_s):
            steps = self.to_renew()
            try:
                self._queue.renew([step.held for step in steps], self.lease)
            except QueueError as error:
                log.debug("Leases could not be renewed: %s", error)

    def _listen(self) -> None:
        """Wake the loop when an id stands in the list; quiet until the loop has claimed again."""
        while self._listening.wait() and not self.stopping:
            try:
                rang = self._queue.wait_for_work(LONGEST_IDLE_S)
            except QueueError:
                self._stopped.wait(random.uniform(0.5, 1.0))  # noqa: S311 - spreads workers
                continue
            if not rang:
                # Another runner's stop may have woken everybody who blocks on this queue.
                self._stopped.wait(WAKE_JITTER_S)
            elif not self.stopping:
                self._listening.clear()
                time.sleep(random.uniform(0, WAKE_JITTER_S))  # noqa: S311 - spreads workers
                self._wake()

    def _sweep(self) -> None:
        """Look for jobs that nobody has: at the start, and now and then beside foreign workers."""
        idle_s = FOREIGN_IDLE_S if self.foreign_workers else 0.0
        exclusive = not self.recover
        while not self.stopping and (self.recover or self.foreign_workers):
            wait_s = SWEEP_EVERY_S
            try:
                count = self._queue.adopt(
                    idle_s=idle_s, initial_delay_s=self.strategy.initial_delay_s, exclusive=exclusive
                )
            except QueueRefusedError as error:
                log.warning("Lost jobs are not looked for: %s", error)
                return
            except QueueError:
                wait_s = 1.0
            else:
                exclusive = True
                if count:
                    self.emit(events.JobsRecovered(worker_id=self.worker_id, count=count))
                    self._wake()
                if not self.foreign_workers:
                    return
            self._stopped.wait(wait_s)


class _Settler:
    """Gathers transitions and writes them together, and keeps at it while Redis is away.

    A reschedule lingers a little for company; what somebody waits for goes at once.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._changed = threading.Condition()
        self._pending: list[tuple[Transition, Future[Verdict] | None]] = []
        self._urgent = False
        self._closing = False
        self.open()

    def open(self) -> None:
        """Begin afresh, with patience without end."""
        self._closing = False
        self._patience_s, self._patience_from_s = FOREVER_S, 0.0
        self._failing_since_s: float | None = None
        self.gave_up: QueueError | None = None

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def be_patient_for(self, seconds: float) -> None:
        """Give up when Redis is away for so long: the leases will bring the jobs back."""
        self._patience_s, self._patience_from_s = seconds, time.monotonic()

    def put(self, transition: Transition, *, wait: bool = True) -> Future[Verdict] | None:
        future: Future[Verdict] | None = Future() if wait else None
        with self._changed:
            self._pending.append((transition, future))
            self._urgent = self._urgent or wait
            if wait or len(self._pending) == 1:
                self._changed.notify_all()
        return future

    def run(self) -> None:
        while True:
            with self._changed:
                while not self._pending and not self._closing:
                    self._changed.wait()
                if not self._pending:
                    return
                until_s = time.monotonic() + LINGER_S
                while not self._urgent and not self._closing and (left_s := until_s - time.monotonic()) > 0:
                    self._changed.wait(left_s)
                batch, self._pending = self._pending[:LARGEST_COMMIT], self._pending[LARGEST_COMMIT:]
                self._urgent = bool(self._pending)
            try:
                self._write(batch)
            except Exception as error:
                # Whoever waits must not wait for ever; the leases will bring the jobs back.
                log.error("Some steps could not be written\n%s", trace_of(error))  # noqa: TRY400 - redacted
                for _, future in batch:
                    if future is not None and not future.done():
                        future.set_result(Verdict.LOST)

    def _patience_left_s(self) -> float:
        now_s = time.monotonic()
        self._failing_since_s = self._failing_since_s or now_s
        return max(self._failing_since_s, self._patience_from_s) + self._patience_s - now_s

    def _write(self, batch: list[tuple[Transition, Future[Verdict] | None]]) -> None:
        transitions = [transition for transition, _ in batch]
        verdicts: list[Verdict] | None = None
        while verdicts is None:
            try:
                verdicts = self._runner._queue.apply(transitions)  # noqa: SLF001 - one unit with its runner
                self._runner.redis_fine("apply")
                self._failing_since_s = None
            except QueueUnavailableError as error:
                left_s = self._patience_left_s()
                if left_s <= 0:
                    self.gave_up = error
                    verdicts = [Verdict.LOST] * len(batch)
                else:
                    time.sleep(min(self._runner.redis_lost(error, "apply"), left_s))
            except Exception as error:
                if len(batch) > 1:
                    # One that cannot be written, or cannot even be put into words, must not take others along.
                    for one in batch:
                        self._write([one])
                    return
                log.error("A job's step could not be written, it will be taken up again\n%s", trace_of(error))  # noqa: TRY400
                verdicts = [Verdict.LOST]
        for (transition, future), verdict in zip(batch, verdicts, strict=True):
            if isinstance(transition, Reschedule | Redeliver):
                self._runner.due_at(transition.due_ms)
            if future is not None:
                future.set_result(verdict)


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
