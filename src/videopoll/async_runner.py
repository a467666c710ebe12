"""The worker with asyncio: `AsyncRunner`. Its threaded twin is in `videopoll.runner`.

The loop claims jobs in batches and starts a task for each, which carries out the
effects of the job's step (`videopoll._steps`). One task gathers what is to be
written into shared round trips, one renews leases, one listens for new ids, one
looks for jobs that were lost. No thread is started unless a host's part is a
sync one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, TypeVar, cast

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
from videopoll._hung import GUARD_S, not_back, poller_not_back
from videopoll._pace import FOREVER_S
from videopoll._parts import (
    as_observation,
    as_receipt,
    as_sighting,
    is_async,
    look_up_failed,
    notifier_failed,
    poller_failed,
    trace_of,
    was_cancelled,
)
from videopoll._reasons import own, told_of
from videopoll._settlers import AsyncSettler
from videopoll._steps import Answer, Commit, Effect, FindMessage, JobStep, PollApi, SendMessage
from videopoll._supervise import BELL, LOOP, RENEWER, SETTLER, SWEEPER, check_renewed
from videopoll._threads import SYNC_PARTS, DaemonThreads
from videopoll.errors import QueueError, QueueRefusedError
from videopoll.messages import NotSent, Sighting
from videopoll.notifiers.base import send_in_time
from videopoll.poller import VideoApiPoller
from videopoll.runner import SEND_GOES_ON_S, STOP_SIGNALS
from videopoll.work import Verdict

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator
    from typing import Self

    from videopoll._clock import Clock
    from videopoll.events import Hook
    from videopoll.jobs import VideoJob
    from videopoll.messages import Message
    from videopoll.observations import Observation
    from videopoll.policies import DeliveryPolicy, LeasePolicy, PollingStrategy
    from videopoll.protocols import AsyncNotifier, AsyncVideoJobQueue, AsyncVideoPoller, Notifier, VideoPoller
    from videopoll.words import Words

__all__ = ["AsyncRunner"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class AsyncRunner(Engine):
    """A worker with asyncio.

    `run` returns when `stop` is called or a signal comes; `start` works in the
    background; `run_once` does one batch. As an async context manager it stops
    at the end, and closes the connections that its poller and notifier opened.

    The poller and the notifier may be asyncio or sync ones. A sync one runs in a
    bounded pool of threads with the context variables copied, so that a slow
    messenger does not hold up the polls.

    Args:
        queue: Where jobs are kept.
        poller: Asks the video API.
        notifier: Brings outcomes to users.
        strategy: When to poll, and when to give up.
        lease: How long a crash costs, at most.
        delivery: How hard to try to reach a user.
        words: The texts that users get.
        hooks: Hear of every event, on the event loop.
        concurrency: Polls at a time.
        delivery_concurrency: Sends at a time.
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
        TypeError: The queue is a sync one.
    """

    def __init__(
        self,
        queue: AsyncVideoJobQueue,
        poller: AsyncVideoPoller | VideoPoller,
        notifier: AsyncNotifier | Notifier,
        *,
        strategy: PollingStrategy | None = None,
        lease: LeasePolicy | None = None,
        delivery: DeliveryPolicy | None = None,
        words: Words | None = None,
        hooks: Iterable[Hook] = (),
        concurrency: int = 100,
        delivery_concurrency: int = 32,
        grace_s: float = 10.0,
        foreign_workers: bool = False,
        recover: bool = True,
        take_new: bool = True,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not is_async(queue, "claim"):
            msg = (
                f"{type(queue).__name__} is no asyncio queue: AsyncRunner needs AsyncRedisVideoJobQueue or another one"
            )
            raise TypeError(msg)
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
        self._threads = self._new_threads()
        self._poll = self._poller_call()
        self._notify = self._notifier_call("notify")
        self._find = self._notifier_call("find") if hasattr(notifier, "find") or hasattr(notifier, "afind") else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._listening = asyncio.Event()
        self._renewal = asyncio.Event()
        self._idle = asyncio.Event()
        self._over = asyncio.Event()
        self._over.set()
        self._background: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], JobStep] = {}
        self._running = False
        self._swept = False
        self._sweep_refused = False
        self._settler = AsyncSettler(self, queue)

    # --- for the host ---

    async def run(self, *, handle_signals: bool = False) -> None:
        """Work until `stop` is called.

        Args:
            handle_signals: Whether SIGTERM and SIGINT stop the runner (a second
                one ends the process at once). Only for whoever owns the process,
                on its main thread.
        """
        with self._signals() if handle_signals else contextlib.nullcontext():
            await self._run()

    def start(self) -> None:
        """Work in a background task until `stop` is called."""
        if self._background is None or self._background.done():
            self.stopping = False
            self._background = asyncio.get_running_loop().create_task(self._run(), name="videopoll-runner")

    async def stop(self) -> None:
        """Claim no more, finish or give back what is in hand, and wait until that is done."""
        self.request_stop()
        await self._over.wait()
        if self._background is not None:
            await asyncio.wait([self._background])

    def request_stop(self) -> None:
        """Ask the runner to stop, without waiting; may be called from another thread."""
        self.stopping = True
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._changed.set)

    async def run_once(self) -> RunSummary:
        """Do one batch: claim what is due, work on it to its end, and return.

        Raises:
            QueueError: Redis is away or says no.
        """
        before = dict(self.counted)
        async with self._machinery():
            claimed = await self._claim(Room(self.concurrency, self.delivery_concurrency, MOST_ENDINGS))
            if self.takeovers.learnt:
                claimed += await self._claim(Room(*self.room(), 0))
            self._settler.be_patient_for(self.lease.duration_s)
            await self._finish_work(FOREVER_S)
        if self._settler.gave_up is not None:
            raise self._settler.gave_up
        return self.summary(before, claimed)

    async def __aenter__(self) -> Self:
        """Give the runner itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, and close what the poller and the notifier opened."""
        await self.stop()
        for part in (self._poller, self._notifier):
            close = getattr(part, "aclose", None) or getattr(part, "close", None)
            if callable(close):
                closing = close()
                if inspect.isawaitable(closing):
                    await closing

    # --- the loop ---

    async def _run(self) -> None:
        async with self._machinery():
            self.be_patient()
            self.emit(events.WorkerStarted(worker_id=self.worker_id))
            self._swept = not self.recover
            helpers = [self._task(BELL, self._listen), self._task(SWEEPER, self._sweep)]
            self.loops.begin(LOOP)
            try:
                while not self.stopping:
                    try:
                        await self._turn()
                    except (asyncio.CancelledError, Exception) as error:
                        if was_cancelled():
                            raise
                        await asyncio.sleep(self.loops.failed(LOOP, error))
                    else:
                        self.loop_fine(LOOP)
            finally:
                self.stopping = True
                await _end(helpers)
                given_back = await self._finish_work(self.grace_s)
                # The next `run` is a new one.
                self.stopping = False
                self.emit(events.WorkerStopped(worker_id=self.worker_id, given_back=given_back))

    async def _turn(self) -> None:
        """Claim what there is room for, begin to work on it, and sleep until the next claim is wanted."""
        room = self.begin_turn()
        if room.any:
            try:
                await self._claim(room)
            except QueueError as error:
                self.claim_failed(error)
            else:
                if self.worth_listening():
                    self._listening.set()
        loop = asyncio.get_running_loop()
        while not self.stopping and (left_s := self.pace.next_s - self.clock.monotonic_s()) > 0:
            self._changed.clear()
            timer = loop.call_later(left_s, self._changed.set)
            await self._changed.wait()
            timer.cancel()

    async def _claim(self, room: Room) -> int:
        """Claim, begin to work on what was found, and plan the next claim; return how many jobs that were."""
        asked = self.ask()
        batch = await self._queue.claim(
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
            self._begin(step)
        self.plan_after(batch)
        return len(batch.claims)

    def wake_at(self, at_s: float) -> None:
        """Have a claim at this time."""
        if self.claim_by(at_s):
            self._changed.set()

    # --- tasks ---

    @contextlib.asynccontextmanager
    async def _machinery(self) -> AsyncIterator[None]:
        """Keep the tasks that write and renew."""
        if self._running:
            msg = "this runner is running already: build another one to run beside it"
            raise RuntimeError(msg)
        self._running, self._loop = True, asyncio.get_running_loop()
        self._over.clear()
        # The tasks that are started from here on inherit it.
        parts = SYNC_PARTS.set(self._threads[1])
        self._settler.open()
        self._renewal.clear()
        self.open_run()
        self.loops.open()
        settler, renewer = self._task(SETTLER, self._write), self._task(RENEWER, self._renew)
        try:
            yield
        finally:
            await _end([renewer])
            self._settler.close()
            await settler
            self.loops.open()
            for threads in self._threads:
                threads.close()
            self._threads = self._new_threads()
            SYNC_PARTS.reset(parts)
            self._running = False
            self._over.set()

    def _begin(self, step: JobStep) -> None:
        task = asyncio.get_running_loop().create_task(self._carry_out(step))
        self._tasks[task] = step
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        step = self._tasks.pop(task)
        if not self._tasks:
            self._idle.set()
        self.let_go(step)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("A job's step failed; its lease will run out\n%s", trace_of(error))

    async def _carry_out(self, step: JobStep) -> None:
        steps = step.steps()
        with contextlib.suppress(StopIteration):
            effect = next(steps)
            while True:
                try:
                    answer = await self._perform(effect)
                except Exception as error:
                    effect = steps.throw(error)
                else:
                    effect = steps.send(answer)

    async def _perform(self, effect: Effect) -> Answer:
        if isinstance(effect, PollApi):
            return await self._poll(effect)
        if isinstance(effect, Commit):
            future = self._settler.put(effect.transition, wait=effect.wait)
            return await future if future else None
        if isinstance(effect, SendMessage):
            limit_s = self.delivery.send_timeout_s
            limit = asyncio.timeout(limit_s)
            try:
                async with limit:
                    return as_receipt(await self._notify(effect.message))
            except (asyncio.CancelledError, Exception, SystemExit) as error:
                if was_cancelled():
                    raise
                if not (isinstance(error, TimeoutError) and limit.expired()):
                    return notifier_failed(error)
                if self._threads[1].never_began(asyncio.current_task()):
                    reason = f"no thread was free for it within {limit_s:g} s: others hang in their sends"
                    return NotSent(own(reason), counts=False, channel_fault=False)
                return not_back(effect, limit_s)
        return as_sighting(await self._look_up(effect))

    async def _look_up(self, effect: FindMessage) -> object:
        if self._find is None:
            return Sighting.CANNOT_TELL
        try:
            async with asyncio.timeout(self.delivery.send_timeout_s):
                return await self._find(effect.message)
        except (asyncio.CancelledError, Exception, SystemExit) as error:
            if was_cancelled():
                raise
            return look_up_failed(error)

    async def _finish_work(self, grace_s: float) -> int:
        """Wait for what is in hand, give back what is not done in time; tell how many that were."""
        if self._tasks:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), None if grace_s == FOREVER_S else grace_s)
        # A channel that is a sync one goes on in its thread, as under `Runner`.
        sends = self._threads[1]
        left = [
            (step, step.relinquish(SEND_GOES_ON_S if sends.runs_for(task) else 0.0))
            for task, step in self._tasks.items()
        ]
        futures = [self._settler.put(transition) for _, transition in left if transition is not None]
        self._settler.be_patient_for(_engine.LONGEST_IDLE_S)
        await _end(self._tasks)
        verdicts = await asyncio.gather(*filter(None, futures))
        return verdicts.count(Verdict.APPLIED)

    def _task(self, name: str, work: Callable[[], Coroutine[object, object, bool]]) -> asyncio.Task[None]:
        """Do a loop's rounds in a task of their own until one says that it was the last, whatever they raise."""

        async def keep() -> None:
            goes_on = True
            while goes_on:
                try:
                    goes_on = await work()
                except (asyncio.CancelledError, Exception) as error:
                    if was_cancelled():
                        # We are being ended. Any other cancellation came out of the queue, and is a failure.
                        self.loops.end(name)
                        raise
                    await asyncio.sleep(self.loops.failed(name, error))
                else:
                    self.loop_fine(name)
            self.loops.end(name)

        task = asyncio.get_running_loop().create_task(keep(), name=f"videopoll-{name}")
        self.loops.begin(name, lambda: not task.done())
        return task

    async def _write(self) -> bool:
        await self._settler.run()
        return False

    async def _renew(self) -> bool:
        """Renew the leases of what is in hand, in one round trip for many; end the work on lost ones."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._renewal.wait(), self.renew_in_s())
        self._renewal.clear()
        asked_s, steps = self.clock.monotonic_s(), self.to_renew()
        try:
            with self.loops.busy(RENEWER):
                held = check_renewed(steps, await self._queue.renew([step.held for step in steps], self.lease))
        except QueueError as error:
            self.renewal_failed(error)
        else:
            self.loop_fine(RENEWER)
            lost = self.renewed(steps, held, asked_s)
            self._settler.hurry()
            for task, step in list(self._tasks.items()):
                if step in lost:
                    task.cancel()
        return True

    def hurry_renewal(self) -> None:
        """Renew at once."""
        self._renewal.set()

    async def _listen(self) -> bool:
        """Wake the loop when an id stands in the list; quiet until the loop has claimed again."""
        await self._listening.wait()
        try:
            rang = await self._queue.wait_for_work(_engine.LONGEST_IDLE_S)
        except QueueError:
            await asyncio.sleep(self.rng.uniform(0.5, 1.0))
            return True
        if not rang:
            await asyncio.sleep(WAKE_JITTER_S)
            return True
        await asyncio.sleep(self.rng.uniform(0, WAKE_JITTER_S))
        with contextlib.suppress(QueueError):
            if await self._queue.wait_for_work(STILL_THERE_S):
                self._listening.clear()
                self.wake_at(self.clock.monotonic_s())
        return True

    async def _sweep(self) -> bool:
        """Look for jobs that nobody has: at the start, and then now and again."""
        if not self.sweeps:
            return False
        wait_s = every_s = SWEEP_EVERY_S if self.foreign_workers else SWEEP_SLOWLY_EVERY_S
        try:
            count = await self._queue.adopt(
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
        await asyncio.sleep(wait_s)
        return True

    # --- the host's parts, sync or asyncio ---

    def hung(self) -> int:
        """Return how many calls of sync parts go on in their threads though they were given up."""
        return sum(threads.hung for threads in self._threads)

    def _new_threads(self) -> tuple[DaemonThreads, DaemonThreads]:
        """Give the threads for sync polls, and those for sync sends."""
        return (
            DaemonThreads(self.concurrency, "videopoll-poll"),
            DaemonThreads(self.delivery_concurrency, "videopoll-send"),
        )

    def _poller_call(self) -> Callable[[PollApi], Awaitable[Observation]]:
        """Give the one way in which this poller is asked."""
        own = getattr(self._poller, "apoll", None)
        if own is not None:
            # Ours keeps its time itself, and a second watch would take a fiftieth of a poll's.
            guard = getattr(own, "__func__", None) is not VideoApiPoller.apoll
            return functools.partial(_ask, own, guard=guard)
        poll = cast("Callable[..., Awaitable[object]]", self._poller.poll)
        if is_async(self._poller, "poll"):
            return functools.partial(_ask, poll)

        async def in_thread(job: VideoJob, *, timeout_s: float) -> object:
            return await _resolve(await self._threads[0].run(functools.partial(poll, job, timeout_s=timeout_s)))

        return functools.partial(_ask, in_thread)

    def _notifier_call(self, method: str) -> Callable[[Message], Awaitable[object]]:
        """Give the one way in which this notifier's method is called."""
        own = getattr(self._notifier, f"a{method}", None)
        if own is not None:
            return cast("Callable[[Message], Awaitable[object]]", own)
        call = getattr(self._notifier, method, None)
        if not callable(call):
            msg = f"the notifier must have a method {method}(), got {type(self._notifier).__name__}"
            raise TypeError(msg)
        if inspect.iscoroutinefunction(call):
            return cast("Callable[[Message], Awaitable[object]]", call)
        if method == "notify":
            call = functools.partial(send_in_time, call)

        async def in_thread(message: Message) -> object:
            return await _resolve(await self._threads[1].run(functools.partial(call, message)))

        return in_thread

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let the first SIGTERM or SIGINT ask for a stop, and the second end the process."""
        loop = asyncio.get_running_loop()

        def handle(number: int) -> None:
            if self.stopping:
                os._exit(128 + number)
            self.request_stop()

        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, handle, number)
        try:
            yield
        finally:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)


async def _ask(poll: Callable[..., Awaitable[object]], effect: PollApi, *, guard: bool = True) -> Observation:
    """Ask a poller, and cut it off if it does not keep to its time."""
    limit = asyncio.timeout(effect.timeout_s + GUARD_S)
    try:
        if not guard:
            return as_observation(await poll(effect.job, timeout_s=effect.timeout_s))
        async with limit:
            return as_observation(await poll(effect.job, timeout_s=effect.timeout_s))
    except (asyncio.CancelledError, Exception, SystemExit) as error:
        if was_cancelled():
            raise
        if isinstance(error, TimeoutError) and limit.expired():
            return poller_not_back(effect)
        return poller_failed(error)


async def _resolve(result: object) -> object:
    """Give a sync part's result, also if it is to be awaited after all."""
    return await result if inspect.isawaitable(result) else result


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    left = set(tasks)
    while left:
        # Again and again: the Redis client swallows a cancellation that comes while it connects.
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.05)
