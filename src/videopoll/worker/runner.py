"""The worker with threads: `Runner`. Its asyncio twin is in `videopoll.worker.async_runner`.

The loop claims jobs in batches and hands them to a bounded number of threads,
which carry out the effects of each job's step (`videopoll.core.step`). One thread
gathers what is to be written into shared round trips, one renews leases, one
listens for new ids, one looks for jobs that were lost.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import functools
import logging
import queue as stdlib_queue
import threading
from typing import TYPE_CHECKING

from typing_extensions import override

from videopoll import events
from videopoll.core import flow
from videopoll.core.effects import Answer, Commit, Effect, LookUpMessage, PollApi, PublishVideo, SendMessage, Steps
from videopoll.core.loops import BELL, LOOP, RENEWER, SWEEPER, WRITER
from videopoll.core.step import JobStep
from videopoll.errors import RunnerError
from videopoll.jobs.transition import TransitionResult
from videopoll.jobs.views import RunSummary
from videopoll.messages import LookupResult
from videopoll.policies import ENDING_S, LONGEST_SEND_S
from videopoll.worker import state
from videopoll.worker.base import HIDING_S, LATE, RUNNING, BaseRun, BaseRunner
from videopoll.worker.host_parts import (
    as_lookup_answer,
    as_observation,
    as_receipt,
    look_up_failed,
    notifier_failed,
    poller_failed,
    publisher_failed,
    refuse_async,
    trace_of,
)
from videopoll.worker.hung import HungCalls, PartCall, limit_s, not_back
from videopoll.worker.publishing import publishing
from videopoll.worker.stopping import LOOK_S, Stopping, StopSignals
from videopoll.worker.writer import TransitionWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from videopoll.core.flow import Flow
    from videopoll.protocols import AsyncPublisher, Notifier, Publisher, VideoJobQueue, VideoPoller

__all__ = ["Runner"]

log: logging.Logger = logging.getLogger(__name__)

THREADS = "videopoll-"
"""What the names of a runner's threads begin with."""

ENDING_THREADS = 2
"""Threads that are free for what ends without a place, while polls and sends hang in all the others."""

IDLE_THREADS_END_S = 1.0
"""How long a run waits for threads that have nothing to do any more, in seconds."""


class _Run(BaseRun):
    """One run, in a thread of its own: what Ctrl-C interrupts is only whoever waits for it, in whatever it does.

    Args:
        work: What to do; may be called once.
        stopping: Its way to the end.
        background: Whether nobody waits for it.
        asked: Called when somebody asks for its end.
    """

    def __init__(
        self, work: Callable[[_Run], object], stopping: Stopping, *, background: bool, asked: Callable[[], object]
    ) -> None:
        super().__init__(stopping, background=background, asked=asked)
        self._work = work
        self._ended = False
        self.result: object = None
        self.error: BaseException | None = None
        # Of all locks this one is safe where an exception may come up between any two instructions.
        self._gate = threading.Lock()
        self._gate.acquire()

    @property
    @override
    def over(self) -> bool:
        return self._ended

    def do(self) -> None:
        """Do the work, in its thread."""
        try:
            self.result = self._work(self)
        except BaseException as error:
            self.error = error
            if self.background:
                log.error("The worker ended with an exception\n%s", trace_of(error))  # noqa: TRY400 - redacted
        finally:
            self.end()

    def end(self) -> None:
        """Note that it is over, and let go whoever waits."""
        self._ended = True
        with contextlib.suppress(RuntimeError):
            self._gate.release()

    def wait(self, seconds: float) -> None:
        """Wait until it is over, at most so long."""
        if self._gate.acquire(timeout=seconds):
            self._gate.release()


class Runner(
    BaseRunner["VideoJobQueue", "VideoPoller", "Notifier", "concurrent.futures.Future[TransitionResult]", "_Run"]
):
    """A worker with threads.

    `run` blocks until `stop` is called from another thread or a signal comes;
    `start` works in the background; `run_once` does one batch. As a context
    manager it stops at the end, and closes the connections that its poller and
    notifier opened (they open again when they are used again).

    Args:
        queue: Where jobs are kept: a `VideoJobQueue`.
        poller: Asks the video API: a `VideoPoller`.
        notifier: Brings outcomes to users: a `Notifier`.
        publisher: Puts videos that only the API's key opens where everybody can fetch them: a `Publisher`.
        strategy: When to poll, and when to give up.
        lease: How long a crash costs, at most.
        delivery: How hard to try to reach a user.
        texts: The texts that users get.
        hooks: Hear of every event, on the thread where it happens.
        concurrency: Polls at a time, a thread each; 16 if it is not given.
        delivery_concurrency: Sends at a time, a thread each; as many as polls if it is not given.
            One account of a channel takes at most three quarters of them.
        account_concurrency: Requests at a time, at most, to one account of a video API (an API and a key) by all
            workers together. Each has an equal share, one at least; those with `visible=False` are not counted.
            Without it, as many as they have places. A 429 is heeded by all of them, with or without it.
        grace_s: Seconds that `stop` lets unfinished work go on before it is given back.
        foreign_workers: Whether workers of another kind share this Redis. Then
            jobs that one of them lost are looked for every 30 s, with ``SCAN``.
        recover: Whether to look, with ``SCAN``, for jobs that have a record and
            are nowhere else: at the start, and every two minutes, as a producer
            of another kind may end between its record and its push.
        take_new: Whether to take ids from the list, and to look for lost jobs. Without,
            the runner finishes what is scheduled and delivers what waits: for a
            retirement, or beside workers of another kind that go on alone.
        visible: Whether operators see the runner: a heartbeat every 4 s for ``status`` and
            ``doctor``, and what happens to its jobs for ``explain`` and ``watch``, on a
            thread and a connection of its own, where the queue has `open_history`.
            A `RedisHistory` among the hooks takes its place. `run_once` sends no heartbeat.
        clock: What time it is; tests hand in one of their own. The waits themselves
            are those of the event loop, or of the threads.
        rng: Where the jitter is drawn from; the system's generator if there is none.

    Raises:
        ConfigurationError: Values that cannot work, alone or together; or a part is a class, or an asyncio one
            (`AsyncRunner` takes those), or has not the method that is needed.
    """

    _log = log
    _polls_by_default = 16

    @override
    def _refuse(
        self,
        queue: VideoJobQueue,
        poller: VideoPoller,
        notifier: Notifier,
        publisher: Publisher | AsyncPublisher | None,
    ) -> None:
        refuse_async(queue, "claim", "queue")
        refuse_async(poller, "poll", "poller")
        refuse_async(notifier, "notify", "notifier")
        if publisher is not None:
            refuse_async(publisher, "publish", "publisher")
        # What they may have besides.
        if getattr(notifier, "look_up", None) is not None:
            refuse_async(notifier, "look_up", "notifier")
        if getattr(poller, "download", None) is not None:
            refuse_async(poller, "download", "poller")

    @override
    def _open(self) -> None:
        super()._open()
        self._filling = threading.Lock()
        # A queue, because a signal handler may put something in while the same thread does.
        self._wakes: stdlib_queue.SimpleQueue[None] = stdlib_queue.SimpleQueue()
        self._beginning = threading.Lock()
        self._own = threading.local()
        self._threads = self._most_threads
        self._workers: list[threading.Thread] = []
        self._busy: set[int] = set()
        self._listening = threading.Event()
        self._stopped = threading.Event()
        self._closed = threading.Event()
        self._renewal = threading.Event()
        self._work: stdlib_queue.SimpleQueue[JobStep | None] = stdlib_queue.SimpleQueue()
        self._writer = TransitionWriter(self._state, self._queue)
        self._hung = HungCalls(self._state.concurrency + self._state.delivery_concurrency)

    @override
    def _disown(self) -> None:
        super()._disown()
        # If it is one of the threads that work on jobs, it ends with its copy of one.
        self._work.put(None)

    @override
    def _begin_in_child(self) -> None:
        super()._begin_in_child()
        # Until a run begins here, no thread is to be started in the place of one.
        self._closed.set()

    # --- for the host ---

    def run(self, *, handle_signals: bool = False) -> None:
        """Work until `stop` is called.

        Ctrl-C, or whatever else a signal handler of yours raises here, stops the
        runner, and is raised again when what is in hand is finished or given back;
        a second one gives back at once, and a third one waits for nothing.

        Args:
            handle_signals: Whether SIGTERM and SIGINT stop the runner; another one
                that comes a second or more later ends the process at once. Only
                for whoever owns the process, on its main thread.

        Raises:
            ConfigurationError: `handle_signals` on another thread than the main one.
            RunnerError: It is running already.
        """
        with self._signals() if handle_signals else contextlib.nullcontext():
            self._attend(self._launch(self._work_until_stopped))

    def start(self) -> None:
        """Work in a background thread until `stop` is called.

        Raises:
            RunnerError: It is running in `run` or `run_once`.
        """
        if self._to_start():
            self.stop()
            self._launch(self._work_until_stopped, background=True)

    def stop(self) -> None:
        """Claim no more, finish or give back what is in hand, and wait until that is done.

        That takes `grace_s` and a few seconds at most: then it returns all the
        same, and says in the log what hangs. On one of the runner's own threads (in
        a hook, in a notifier) it does not wait. It does nothing if nothing runs.
        """
        run = self._ask_to_stop()
        if run is not None and not getattr(self._own, "here", False):
            self._attend(run, tell=False)

    def run_once(self) -> RunSummary:
        """Do one batch: claim what is due, work on it to its end, and return.

        What hangs in the poller or in a notifier is given back when it is late
        beyond doubt, about a minute or two.

        Raises:
            QueueError: Redis is away or says no.
            RunnerError: It is running already, or has not ended in time after it was stopped.
        """
        self._asked_before = False
        summary = self._attend(self._launch(self._do_batch))
        if not isinstance(summary, RunSummary):
            raise RunnerError(LATE)
        return summary

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as closing:
            for close in self._closers("close"):
                closing.callback(close)
            self.stop()

    # --- a run and its end ---

    def _signals(self) -> StopSignals:
        return StopSignals(self._state.clock, self.request_stop, self._state.grace_s)

    def _launch(self, work: Callable[[_Run], object], *, background: bool = False) -> _Run:
        """Begin a run in a thread of its own.

        Raises:
            RunnerError: There is one already.
        """
        run = _Run(work, Stopping(self._state.clock, self._state.grace_s), background=background, asked=self._asked)
        context = contextvars.copy_context()
        with self._beginning:
            if self._under_way is not None:
                raise RunnerError(RUNNING)
            self._current = run
        try:
            self._thread(lambda: context.run(run.do), "runner")
        except BaseException:
            # Ctrl-C, or no thread to be had.
            run.stopping.hurry()
            run.end()
            raise
        self._heed(run)
        return run

    def _asked(self) -> None:
        self._state.stopping = True
        self._wake()

    # --- what the state asks for ---

    @override
    def _wake(self) -> None:
        self._wakes.put(None)

    @override
    def _hurry_renewal(self) -> None:
        self._renewal.set()

    @override
    def _count_hung(self) -> int:
        return self._hung.count

    # --- waiting for the end ---

    def _attend(self, run: _Run, *, tell: bool = True) -> object:
        """Wait for a run's end, whatever comes up meanwhile, for as long as an end may take; return what it gave, if it has ended."""
        raised: BaseException | None = None
        while not run.over and run.stopping.left_s() > 0:
            try:
                run.wait(LOOK_S)
            except BaseException as error:
                # Ctrl-C, or what a host's signal handler raises. The third one has no patience left.
                if raised is not None and run.stopping.grace_left_s() <= 0:
                    raise
                run.stopping.ask_again()
                run.ask()
                raised = error
        if not run.over:
            self._log_late()
        if raised is not None:
            raise raised
        if tell and run.error is not None:
            raise run.error
        return run.result

    # --- the loop ---

    def _work_until_stopped(self, run: _Run) -> None:
        with self._shown(beats=True):
            self._serve_queue(run)

    def _serve_queue(self, run: _Run) -> None:
        with self._machinery():
            self._announce()
            bell = self._loop(BELL, self._listen, self._stopped)
            sweeper = self._loop(SWEEPER, self._upkeep.recover, self._stopped)
            self._state.loops.begin(LOOP)
            try:
                self._keep(LOOP, lambda: self._turn(run, self._wait_for_wake), self._wait_for_wake)
                given_back = flow.drive(self._finish(run, self._wait_for_wake), flow.call)
            finally:
                self._state.stopping = True
                self._stopped.set()
                self._listening.set()
                until_s = self._state.clock.monotonic_s() + ENDING_S
                while bell.is_alive() and self._state.clock.monotonic_s() < until_s:
                    # Again and again: it may be just about to block.
                    self._queue.interrupt()
                    bell.join(0.02)
                self._queue.resume()
                sweeper.join(1.0)
        self._state.emit(events.WorkerStopped(worker_id=self._state.worker_id, given_back=given_back))

    @contextlib.contextmanager
    def _shown(self, *, beats: bool) -> Iterator[None]:
        """Show operators what happens meanwhile; at the end, wait until that is written."""
        self._show(beats=beats)
        try:
            yield
        finally:
            history = self._hide()
            if history is not None:
                history.close(HIDING_S)

    def _do_batch(self, run: _Run) -> RunSummary:
        with self._shown(beats=False), self._machinery():
            claimed = flow.drive(self._batch(run, self._wait_for_wake), flow.call)
        return self._summary(claimed)

    def _wait_for_wake(self, seconds: float) -> None:
        """Wait until something has changed, at most so long."""
        with contextlib.suppress(stdlib_queue.Empty):
            self._wakes.get(timeout=min(seconds, state.LONGEST_IDLE_S))
            while True:
                # All that has changed by now is looked at together.
                self._wakes.get_nowait()

    @override
    def _wait_for(self, run: _Run, futures: list[concurrent.futures.Future[TransitionResult]]) -> None:
        concurrent.futures.wait(futures, ENDING_S)

    @override
    def _begin(self, step: JobStep) -> None:
        self._work.put(step)

    @override
    def _in_hand(self) -> list[tuple[JobStep, float]]:
        return [(step, LONGEST_SEND_S) for step in list(self._state.steps.values())]

    # --- threads ---

    def _thread(self, target: Callable[[], object], name: str) -> threading.Thread:
        """Start a thread of this runner's. A daemon: one that hangs in a host's own part cannot keep the process."""

        def own() -> None:
            self._own.here = True
            target()

        thread = threading.Thread(target=own, name=f"{THREADS}{name}", daemon=True)
        thread.start()
        return thread

    @contextlib.contextmanager
    def _machinery(self) -> Iterator[None]:
        """Keep the threads that work on jobs, write and renew."""
        self._stopped.clear()
        self._listening.clear()
        self._closed.clear()
        self._renewal.clear()
        self._begin_run(self._stopped.wait)
        # A queue of its own for each run: a thread that hung in the last one finds its end there.
        work: stdlib_queue.SimpleQueue[JobStep | None] = stdlib_queue.SimpleQueue()
        self._work = work
        self._writer.open()
        writing = self._loop(WRITER, self._write, self._closed)
        renewer = self._loop(RENEWER, self._renew, self._closed)
        self._threads, self._workers = 0, []
        self._fill_up(work)
        try:
            yield
        finally:
            self._state.stopping = True
            for _ in range(self._most_threads):
                work.put(None)
            self._hung.leave_all()
            self._closed.set()
            self._renewal.set()
            self._writer.close()
            for thread in (writing, renewer):
                thread.join(ENDING_S)
            self._wait_for_idle_threads()
            self._end_run()

    def _wait_for_idle_threads(self) -> None:
        """Wait until those threads have ended that do not hang in a host's part."""
        until_s = self._state.clock.monotonic_s() + IDLE_THREADS_END_S
        for thread in self._workers:
            while thread.is_alive() and thread.ident not in self._busy and self._state.clock.monotonic_s() < until_s:
                thread.join(0.01)

    @property
    def _most_threads(self) -> int:
        return self._state.concurrency + self._state.delivery_concurrency + ENDING_THREADS

    def _fill_up(self, work: stdlib_queue.SimpleQueue[JobStep | None]) -> None:
        """Start the threads that work on jobs: one for each place, but never more than two for each that there ever are.

        Those that hang in a host's part since an earlier run are still there.
        """
        places = self._most_threads
        with self._filling:
            if work is not self._work:
                return
            more = max(0, min(places - self._threads, 2 * places - self._hung.count))
            numbers = range(self._threads, self._threads + more)
            self._threads += more
            self._state.capacity = self._threads - ENDING_THREADS
        for number in numbers:
            self._workers.append(self._thread(lambda: self._serve(work), f"worker-{number}"))

    def _serve(self, work: stdlib_queue.SimpleQueue[JobStep | None]) -> None:
        """Work on jobs, one after the other, whatever a host's parts raise."""
        while (step := work.get()) is not None:
            if not self._work_on(step, self._begun(step)):
                # A part did not come back in time: another thread has this one's place.
                break
        if work is not self._work and not self._closed.is_set():
            # It hung since an earlier run, and the one of today may have had to begin with fewer.
            self._fill_up(self._work)
            self._state.on_slot_freed()

    def _serve_instead(self, call: PartCall, work: stdlib_queue.SimpleQueue[JobStep | None]) -> None:
        """Go on with a job whose part does not come back, and then in the place of the thread that waits for it."""
        answer = not_back(call.effect, self._state.delivery.send_timeout_s)
        if self._work_on(call.step, lambda: self._carry_out(call.step, call.steps, lambda: call.steps.send(answer))):
            self._serve(work)

    def _begun(self, step: JobStep) -> Callable[[], bool]:
        steps = step.steps()
        return lambda: self._carry_out(step, steps, lambda: next(steps))

    def _work_on(self, step: JobStep, work: Callable[[], bool]) -> bool:
        """Work on a job until it is out of hand; False if another thread goes on with it."""
        ours, here = True, threading.get_ident()
        self._busy.add(here)
        try:
            try:
                ours = work()
            finally:
                self._busy.discard(here)
                if ours:
                    self._forget(step)
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
        until_s = self._state.clock.monotonic_s() + limit_s(effect, self._state.delivery.send_timeout_s)
        call = PartCall(step, steps, effect, until_s)
        self._hung.begin(call)
        return call

    def _leave_hung(self) -> None:
        """Go on without the parts that have not come back in their time."""
        work = self._work
        for call in self._hung.overdue(self._state.clock.monotonic_s()):
            self._thread(functools.partial(self._serve_instead, call, work), "worker-instead")

    def _perform(self, effect: Effect) -> Answer:
        if isinstance(effect, PollApi):
            try:
                return as_observation(self._poller.poll(effect.job, timeout_s=effect.timeout_s))
            except BaseException as error:
                return poller_failed(error)
        if isinstance(effect, Commit):
            future = self._writer.put(effect.transition, wait=effect.wait)
            return future.result() if future else None
        if isinstance(effect, SendMessage):
            try:
                return as_receipt(self._notifier.notify(effect.message))
            except BaseException as error:
                return notifier_failed(error)
        if isinstance(effect, PublishVideo):
            download, publish = getattr(self._poller, "download", None), getattr(self._publisher, "publish", None)
            try:
                return flow.drive(publishing(effect, download, publish), flow.call)
            except BaseException as error:
                return publisher_failed(error)
        return as_lookup_answer(self._look_up(effect))

    def _look_up(self, effect: LookUpMessage) -> object:
        look_up = getattr(self._notifier, "look_up", None)
        if look_up is None:
            return LookupResult.CANNOT_TELL
        try:
            return look_up(effect.message)
        except BaseException as error:
            return look_up_failed(error)

    def _forget(self, step: JobStep) -> None:
        """Forget a job that is out of hand, and wake the loop if it waits for the last one."""
        self._state.forget(step)
        if not self._state.steps:
            self._wake()

    def _loop(self, name: str, work: Callable[[], Flow[bool]], ended: threading.Event) -> threading.Thread:
        """Do a loop's rounds in a thread of their own."""
        began = threading.Event()

        def keep() -> None:
            began.wait()
            self._keep(name, work, ended.wait)

        thread = self._thread(keep, name)
        self._state.loops.begin(name, thread.is_alive)
        began.set()
        return thread

    def _keep(self, name: str, work: Callable[[], Flow[bool]], pause: Callable[[float], object]) -> None:
        """Do a loop's rounds in this thread."""

        def attempt() -> bool | BaseException:
            try:
                return flow.drive(work(), flow.call)
            except BaseException as error:
                return error

        flow.drive(self._rounds(name, attempt, pause), flow.call)

    @override
    def _wait_to_renew(self, seconds: float) -> bool:
        self._renewal.wait(seconds)
        self._renewal.clear()
        self._leave_hung()
        return not self._closed.is_set()
