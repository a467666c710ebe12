"""The worker with asyncio: `AsyncRunner`. Its threaded twin is in `videopoll.worker.runner`.

The loop claims jobs in batches and starts a task for each, which carries out the
effects of the job's step (`videopoll.core.step`). One task gathers what is to be
written into shared round trips, one renews leases, one listens for new ids, one
looks for jobs that were lost. No thread is started unless a host's part is a
sync one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING

from typing_extensions import override

from videopoll import events
from videopoll._calling import is_async
from videopoll._shield import to_the_end, wait_on
from videopoll.core.effects import Answer, Commit, Effect, PollApi, PublishVideo, SendMessage
from videopoll.core.flow import acall, adrive
from videopoll.core.loops import BELL, LOOP, RENEWER, SWEEPER, WRITER
from videopoll.core.step import JobStep
from videopoll.errors import ConfigurationError, RunnerError
from videopoll.jobs.transition import TransitionResult
from videopoll.jobs.views import RunSummary
from videopoll.policies import ENDING_S, LONGEST_SEND_S
from videopoll.worker import state
from videopoll.worker.async_parts import AsyncParts
from videopoll.worker.base import HIDING_S, LATE, RUNNING, BaseRun, BaseRunner
from videopoll.worker.host_parts import (
    check_part,
    resume,
    trace_of,
    was_cancelled,
)
from videopoll.worker.stopping import Stopping, StopSignals, calm_ctrl_c
from videopoll.worker.writer import AsyncTransitionWriter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from videopoll.core.flow import Flow
    from videopoll.protocols import (
        AsyncNotifier,
        AsyncPublisher,
        AsyncVideoJobQueue,
        AsyncVideoPoller,
        Notifier,
        Publisher,
        VideoPoller,
    )

__all__ = ["AsyncRunner"]

log: logging.Logger = logging.getLogger(__name__)

LAST_CALL_S = 3.0
"""How long a task that is ended may take for it, in seconds; one that swallows its cancellation is left to itself."""


class _Run(BaseRun):
    """One run, in a task of its own: no cancellation of whoever waits for it cuts its end short.

    Args:
        stopping: Its way to the end.
        background: Whether nobody waits for it.
        asked: Called when somebody asks for its end.
    """

    task: asyncio.Task[object]

    def __init__(self, stopping: Stopping, *, background: bool, asked: Callable[[], object]) -> None:
        super().__init__(stopping, background=background, asked=asked)
        self.loop = asyncio.get_running_loop()
        # No future of a loop: another one, in another thread, may wait for it.
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._late: asyncio.TimerHandle | None = None

    @property
    @override
    def over(self) -> bool:
        """Whether it has ended; so has one whose event loop runs no more."""
        return self.ended.done() or not self.loop.is_running()

    def end(self, _task: object = None) -> None:
        """Note that it has ended."""
        if self._late is not None:
            self._late.cancel()
        if not self.ended.done():
            self.ended.set_result(None)

    async def nap(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for an event, at most so long."""
        event.clear()
        timer = self.loop.call_later(min(seconds, state.LONGEST_IDLE_S), event.set)
        try:
            await event.wait()
        except asyncio.CancelledError:
            # Of the run's own task: its event loop is about to close.
            self.hurry()
        finally:
            timer.cancel()

    async def cancel(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Cancel tasks, and wait until they have ended, for as long as that may take."""
        left = set(tasks)
        until_s = self.loop.time() + LAST_CALL_S
        while left and self.loop.time() < until_s:
            # Again and again: the Redis client swallows a cancellation that comes while it connects.
            for task in left:
                task.cancel()
            if await wait_on(left, 0.05) is not None:
                self.hurry()
            left = {task for task in left if not task.done()}

    def call_when_late(self, late: Callable[[], None]) -> None:
        """Call `late`, once, when nobody is to wait for the end any longer."""
        if self._late is None and not self.ended.done():
            self._late = self.loop.call_later(max(0.0, self.stopping.left_s()), late)


class AsyncRunner(
    BaseRunner[
        "AsyncVideoJobQueue",
        "AsyncVideoPoller | VideoPoller",
        "AsyncNotifier | Notifier",
        "asyncio.Future[TransitionResult]",
        "_Run",
    ]
):
    """A worker with asyncio.

    `run` returns when `stop` is called or a signal comes; `start` works in the
    background; `run_once` does one batch. As an async context manager it stops
    at the end, and closes the connections that its poller and notifier opened.

    The poller and the notifier may be asyncio or sync ones. A sync one runs in a
    bounded pool of threads with the context variables copied, so that a slow
    messenger does not hold up the polls.

    Args:
        queue: Where jobs are kept: an `AsyncVideoJobQueue`.
        poller: Asks the video API: an `AsyncVideoPoller` or a `VideoPoller`.
        notifier: Brings outcomes to users: an `AsyncNotifier` or a `Notifier`.
        publisher: Puts videos that only the API's key opens where everybody can fetch them: an `AsyncPublisher` or a `Publisher`.
        strategy: When to poll, and when to give up.
        lease: How long a crash costs, at most.
        delivery: How hard to try to reach a user.
        texts: The texts that users get.
        hooks: Hear of every event, on the event loop.
        concurrency: Polls at a time; 100 if it is not given.
        delivery_concurrency: Sends at a time; as many as polls if it is not given.
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
        ConfigurationError: Values that cannot work, alone or together; or the queue is a sync one; or a part is a
            class, or has not the method that is needed.
    """

    _log = log
    _polls_by_default = 100

    @override
    def _refuse(
        self,
        queue: AsyncVideoJobQueue,
        poller: AsyncVideoPoller | VideoPoller,
        notifier: AsyncNotifier | Notifier,
        publisher: Publisher | AsyncPublisher | None,
    ) -> None:
        check_part(queue, "queue", "claim")
        if not is_async(getattr(queue, "claim", None)):
            msg = f"{type(queue).__name__} is no asyncio queue: AsyncRunner needs one, such as AsyncRedisVideoJobQueue"
            raise ConfigurationError(msg)

    @override
    def _open(self) -> None:
        super()._open()
        self._parts = AsyncParts(self._state, self._poller, self._notifier, self._publisher)
        self._tasks: dict[asyncio.Task[None], JobStep] = {}
        self._writer = AsyncTransitionWriter(self._state, self._queue)
        self._new_events()

    @override
    def _disown(self) -> None:
        super()._disown()
        if self._current is not None:
            # As of Python 3.14 an exception ends no loop that came along in a fork: the child would live on in it, and
            # take from its parent what their common selector tells.
            self._current.loop.stop()

    def _new_events(self) -> None:
        """Make what is bound to an event loop at its first use anew: each run may have another one."""
        self._changed = asyncio.Event()
        self._listening = asyncio.Event()
        self._idle = asyncio.Event()
        self._renewal = asyncio.Event()

    # --- for the host ---

    async def run(self, *, handle_signals: bool = False) -> None:
        """Work until `stop` is called.

        A cancellation stops the runner, and goes on when what is in hand is finished
        or given back, within `grace_s` and a few seconds, however often it comes.

        Args:
            handle_signals: Whether SIGTERM and SIGINT stop the runner; another one
                that comes a second or more later ends the process at once. Only
                for whoever owns the process, on its main thread.

        Raises:
            ConfigurationError: `handle_signals` on another thread than the main one.
            RunnerError: It is running already.
        """
        with self._signals() if handle_signals else calm_ctrl_c(self._way_to_the_end, self.request_stop):
            await self._attend(self._launch(self._work_until_stopped))

    def start(self) -> None:
        """Work in a background task until `stop` is called.

        Raises:
            ConfigurationError: No event loop is running here.
            RunnerError: It is running in `run` or `run_once`.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            msg = (
                "AsyncRunner.start() needs a running event loop: call it in a coroutine, such as the lifespan of your"
                " framework, or use Runner, whose threads need none"
            )
            raise ConfigurationError(msg) from None
        if self._to_start():
            self._asked_before = False
            self._launch(self._work_until_stopped, background=True, before=self._under_way)

    async def stop(self) -> None:
        """Claim no more, finish or give back what is in hand, and wait until that is done.

        That takes `grace_s` and a few seconds at most: then it returns all the
        same, and says in the log what hangs. It is not cut short by a cancellation,
        which goes on afterwards. In one of the runner's own tasks (in a notifier) it
        does not wait. It does nothing if nothing runs.
        """
        run = self._ask_to_stop()
        here = asyncio.current_task()
        if run is None or here is run.task or here in self._tasks:
            return
        cancelled = await wait_on([asyncio.wrap_future(run.ended)], run.stopping.left_s() + 1.0)
        if cancelled is not None:
            raise cancelled

    async def run_once(self) -> RunSummary:
        """Do one batch: claim what is due, work on it to its end, and return.

        What hangs in the poller or in a notifier is given back when it is late
        beyond doubt, about a minute or two.

        Raises:
            QueueError: Redis is away or says no.
            RunnerError: It is running already, or has not ended in time after it was stopped.
        """
        self._asked_before = False
        summary = await self._attend(self._launch(self._do_batch))
        if not isinstance(summary, RunSummary):
            raise RunnerError(LATE)
        return summary

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.stop()
        finally:
            await to_the_end(self._close_parts(), "closing of the poller and the notifier", within_s=ENDING_S)

    async def _close_parts(self) -> None:
        async with contextlib.AsyncExitStack() as closing:
            for close in self._closers("aclose", "close"):
                closing.push_async_callback(acall, close)

    # --- a run and its end ---

    def _way_to_the_end(self) -> Stopping | None:
        run = self._under_way
        return None if run is None else run.stopping

    def _signals(self) -> StopSignals:
        return StopSignals(self._state.clock, self.request_stop, self._state.grace_s, asyncio.get_running_loop())

    def _launch(
        self,
        work: Callable[[_Run], Coroutine[object, object, object]],
        *,
        background: bool = False,
        before: _Run | None = None,
    ) -> _Run:
        """Begin a run in a task of its own; `before` is one that has to end first.

        Raises:
            RunnerError: There is one already.
        """
        current = self._current
        if current is not None and current is not before:
            if not current.over:
                raise RunnerError(RUNNING)
            # If it is over because its loop stands still, and that goes on one day, it ends.
            current.stopping.hurry()
        run: _Run = _Run(
            Stopping(self._state.clock, self._state.grace_s),
            background=background,
            asked=lambda: self._asked(run),
        )

        async def do() -> object:
            if before is not None:
                await wait_on([asyncio.wrap_future(before.ended)], before.stopping.left_s())
            return await work(run)

        run.task = run.loop.create_task(do(), name="videopoll-runner")
        run.task.add_done_callback(run.end)
        if background:
            run.task.add_done_callback(_tell_failure)
        self._current = run
        self._heed(run)
        return run

    def _asked(self, run: _Run) -> None:
        self._state.stopping = True
        with contextlib.suppress(RuntimeError):
            # Its loop may be closed just now.
            run.loop.call_soon_threadsafe(self._hear, run)

    def _hear(self, run: _Run) -> None:
        if run is self._current:
            self._changed.set()
            self._idle.set()
        run.call_when_late(functools.partial(self._give_up, run))

    # --- what the state asks for ---

    @override
    def _wake(self) -> None:
        self._changed.set()

    @override
    def _hurry_renewal(self) -> None:
        self._renewal.set()

    @override
    def _count_hung(self) -> int:
        return self._parts.hung

    # --- waiting for the end ---

    def _give_up(self, run: _Run) -> None:
        self._log_late()
        run.task.cancel()
        run.end()

    async def _attend(self, run: _Run) -> object:
        """Wait for a run's end, whatever comes up meanwhile; return what it gave, if it has ended."""

        def interrupted() -> None:
            if not run.stopping.asked:
                run.ask()

        cancelled = await wait_on([asyncio.wrap_future(run.ended)], None, interrupted)
        if cancelled is not None:
            if run.task.done():
                _tell_failure(run.task)
            raise cancelled
        return run.task.result() if run.task.done() else None

    # --- the loop ---

    async def _work_until_stopped(self, run: _Run) -> None:
        async with self._shown(run, beats=True):
            await self._serve_queue(run)

    async def _serve_queue(self, run: _Run) -> None:
        async with self._machinery(run):
            self._announce()
            helpers = [self._task(run, BELL, self._listen), self._task(run, SWEEPER, self._upkeep.recover)]
            self._state.loops.begin(LOOP)
            sleep = functools.partial(run.nap, self._changed)
            try:
                await self._keep(run, LOOP, lambda: self._turn(run, sleep), sleep)
                given_back = await adrive(self._finish(run, functools.partial(run.nap, self._idle)), acall)
            finally:
                if run.loop.is_running():
                    self._state.stopping = True
                    await run.cancel(helpers)
        self._state.emit(events.WorkerStopped(worker_id=self._state.worker_id, given_back=given_back))

    @contextlib.asynccontextmanager
    async def _shown(self, run: _Run, *, beats: bool) -> AsyncIterator[None]:
        """Show operators what happens meanwhile; at the end, wait until that is written."""
        self._show(beats=beats)
        try:
            yield
        finally:
            history = self._hide()
            if history is not None:
                until_s = run.loop.time() + HIDING_S
                while not history.close(0) and run.loop.time() < until_s:  # noqa: ASYNC110 - a thread is waited for
                    await asyncio.sleep(0.01)

    async def _do_batch(self, run: _Run) -> RunSummary:
        async with self._shown(run, beats=False), self._machinery(run):
            claimed = await adrive(self._batch(run, functools.partial(run.nap, self._idle)), acall)
        return self._summary(claimed)

    @override
    async def _wait_for(self, run: _Run, futures: list[asyncio.Future[TransitionResult]]) -> None:
        await run.cancel(self._tasks)
        if await wait_on(futures, ENDING_S) is not None:
            run.hurry()

    @override
    def _in_hand(self) -> list[tuple[JobStep, float]]:
        return [
            (step, LONGEST_SEND_S if self._parts.sends_in_thread(task) else 0.0) for task, step in self._tasks.items()
        ]

    # --- tasks ---

    @contextlib.asynccontextmanager
    async def _machinery(self, run: _Run) -> AsyncIterator[None]:
        """Keep the tasks that write and renew."""
        self._begin_run(asyncio.sleep)
        self._tasks = {}
        self._new_events()
        self._parts.open()
        # Of its own, as a run whose event loop was closed under it may still have the last one in its hands.
        self._writer = writer = AsyncTransitionWriter(self._state, self._queue)
        writing, renewer = self._task(run, WRITER, self._write), self._task(run, RENEWER, self._renew)
        # Whoever waits for a result must get one, however the writing ends.
        writing.add_done_callback(lambda _: writer.abandon())
        try:
            yield
        finally:
            if run.loop.is_running():
                self._state.stopping = True
                await run.cancel([renewer])
                writer.close()
                await wait_on([writing], ENDING_S)
                writer.abandon()
                await run.cancel([writing])
                self._parts.close()
                self._end_run()

    @override
    def _begin(self, step: JobStep) -> None:
        task = asyncio.get_running_loop().create_task(self._carry_out(step))
        self._tasks[task] = step
        task.add_done_callback(functools.partial(self._ended, self._tasks, step))

    def _ended(self, tasks: dict[asyncio.Task[None], JobStep], step: JobStep, task: asyncio.Task[None]) -> None:
        tasks.pop(task, None)
        if not self._tasks:
            self._idle.set()
        self._state.forget(step)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("A job's step failed; its lease will run out\n%s", trace_of(error))

    async def _carry_out(self, step: JobStep) -> None:
        steps = step.steps()
        try:
            effect = next(steps)
            while True:
                try:
                    answer = await self._perform(effect)
                except Exception as error:
                    effect = steps.throw(error)
                else:
                    effect = steps.send(answer)
        except StopIteration:
            return
        except asyncio.CancelledError:
            if not step.released and (transition := step.release()) is not None:
                # Whoever closes the event loop has cancelled everything: another worker goes on at once.
                self._writer.put(transition, wait=False)
            raise

    async def _perform(self, effect: Effect) -> Answer:
        if isinstance(effect, PollApi):
            return await self._parts.poll(effect)
        if isinstance(effect, Commit):
            future = self._writer.put(effect.transition, wait=effect.wait)
            return await future if future else None
        if isinstance(effect, SendMessage):
            return await self._parts.send(effect)
        if isinstance(effect, PublishVideo):
            return await self._parts.publish(effect)
        return await self._parts.look_up(effect)

    def _task(self, run: _Run, name: str, work: Callable[[], Flow[bool]]) -> asyncio.Task[None]:
        """Do a loop's rounds in a task of their own."""
        keeping = self._keep(run, name, work, asyncio.sleep)
        task = run.loop.create_task(keeping, name=f"videopoll-{name}")
        # The run's own task is cancelled, too; but the Redis client swallows a cancellation that comes while it connects.
        task.add_done_callback(lambda task: self._torn_down(run) if task.cancelled() else None)
        self._state.loops.begin(name, lambda: not task.done())
        return task

    async def _keep(
        self, run: _Run, name: str, work: Callable[[], Flow[bool]], pause: Callable[[float], object]
    ) -> None:
        """Do a loop's rounds in this task, until it is ended."""

        async def attempt() -> bool | BaseException:
            try:
                return await adrive(work(), acall)
            except (asyncio.CancelledError, Exception) as error:
                if not was_cancelled():
                    # A cancellation that came out of the queue is a failure.
                    return error
                if name == LOOP:
                    run.hurry()
                elif name == WRITER and not self._writer.over:
                    # Whoever closes the event loop has cancelled everything; what was decided has to be written.
                    resume()
                    self._torn_down(run)
                else:
                    self._state.loops.end(name)
                    raise
                return True

        await adrive(self._rounds(name, attempt, pause), acall)

    def _torn_down(self, run: _Run) -> None:
        if not self._state.stopping:
            run.hurry()

    @override
    async def _wait_to_renew(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._renewal.wait(), seconds)
        self._renewal.clear()
        return True

    @override
    def _cut_off(self, lost: list[JobStep]) -> None:
        for task, step in list(self._tasks.items()):
            if step in lost:
                task.cancel()


def _tell_failure(task: asyncio.Task[object]) -> None:
    """Log what a run ended with, where nobody else gets it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("The worker ended with an exception\n%s", trace_of(error))
