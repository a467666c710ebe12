"""Drivers for one description: a generator yields what to do, and gets back what came of it.

An exception of a step is thrown into the generator, which judges it. `run_flow`
and `arun_flow` end with an interruption (Ctrl-C, ``sys.exit``, a cancelled task).
`see_through` and `asee_through` carry a flow out to its end all the same, as what
it has begun costs money, and let the interruption go on only then.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from concurrent import futures
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

from videopoll._calling import is_async

if TYPE_CHECKING:
    from videopoll.tool.answers import Answer

__all__ = ["Flow", "InterruptedStepError", "Step", "arun_flow", "asee_through", "do", "run_flow", "see_through"]

log = logging.getLogger("videopoll.tool")

T = TypeVar("T")

Step: TypeAlias = Callable[[], object]
"""Something to do, whose value, or whose awaited value, the flow gets back."""

Flow: TypeAlias = Generator[Step, object, T]

LAST_STEPS_S = 5.0
"""What a flow that has used up its time still gets for telling what became of it."""


class InterruptedStepError(Exception):
    """A step was cut off half-way by an interruption, and the flow is to come to its end."""


def do(function: Callable[..., T | Awaitable[T]], *args: object, **kwargs: object) -> Flow[T]:
    """Have one step carried out by the driver, and return its value: ``yield from`` this."""
    return cast("T", (yield functools.partial(function, *args, **kwargs)))


def run_flow(flow: Flow[T]) -> T:
    """Carry a flow out in this thread."""
    try:
        step = next(flow)
        while True:
            try:
                value = _done(step)
            except Exception as error:  # noqa: BLE001 - the flow judges whatever a host's part raises
                step = flow.throw(error)
            else:
                step = flow.send(value)
    except StopIteration as end:
        return cast("T", end.value)


async def arun_flow(flow: Flow[T]) -> T:
    """Carry a flow out under asyncio, plain functions in threads, with the context copied."""
    try:
        step = next(flow)
        while True:
            try:
                value = await _adone(step)
            except Exception as error:  # noqa: BLE001 - the flow judges whatever a host's part raises
                step = flow.throw(error)
            else:
                step = flow.send(value)
    except StopIteration as end:
        return cast("T", end.value)


def see_through(flow: Flow[Answer], grace_s: float) -> Answer:
    """Carry a flow out to its end in a thread of its own, and wait for it.

    An interruption reaches this thread alone, at any point. It goes on once the
    flow is done, after `grace_s` seconds at the latest.

    Raises:
        BaseException: The interruption.
    """
    outcome: Future[Answer] = Future()

    def work() -> None:
        try:
            outcome.set_result(_through(flow))
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            outcome.set_exception(error)

    # A daemon: who interrupts a second time, or has waited for long enough, may end the process.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="videoGenerator", daemon=True)
    try:
        try:
            thread.start()
        except RuntimeError:
            # No thread is to be had, at the end of the interpreter for one: better unprotected than not at all.
            work()
        return outcome.result()
    except BaseException:
        if not outcome.done():
            log.warning("🎬 Interrupted: a video that is paid for is followed first, for at most %g s", grace_s)
            if not futures.wait([outcome], timeout=grace_s).done:
                log.error("🎬 A video may have been started, and cannot be followed: the time is up")  # noqa: TRY400
        raise


async def asee_through(flow: Flow[Answer], grace_s: float) -> Answer:
    """Carry a flow out to its end under asyncio, also when this task is cancelled.

    The cancellation goes on once the flow is done, after about `grace_s` seconds
    at the latest.

    Raises:
        asyncio.CancelledError: This task was cancelled meanwhile.
    """
    work = asyncio.create_task(_athrough(flow), name="videoGenerator")
    # Whoever shuts a loop down cancels all tasks in sight and waits for them. This one stays out of sight, or its request
    # would be cut off after it was paid for; the one in sight is ours, which waits for it.
    asyncio.tasks._unregister_task(work)  # noqa: SLF001 - documented for task implementations of others
    cancelled, until_s = False, None
    while not work.done():
        left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
        try:
            done, _ = await asyncio.wait([work], timeout=left_s)
        except asyncio.CancelledError:
            if not cancelled:
                log.warning("🎬 Cancelled: a video that is paid for is followed first, for at most %g s", grace_s)
                cancelled, until_s = True, time.monotonic() + grace_s
            continue
        if done:
            break
        if left_s is not None and work.cancelling():
            log.error("🎬 A video may have been started, and cannot be followed: the time is up")
            raise asyncio.CancelledError
        # Whatever it waits for is cut off: it still tells what is known.
        work.cancel()
        until_s = time.monotonic() + LAST_STEPS_S
    if cancelled:
        work.exception()  # an interruption has gone its way out of the loop already
        raise asyncio.CancelledError
    return work.result()


def _through(flow: Flow[Answer]) -> Answer:
    interruption: BaseException | None = None
    try:
        step = next(flow)
        while True:
            try:
                value = _done(step)
            except Exception as error:  # noqa: BLE001 - the flow judges whatever a host's part raises
                step = flow.throw(error)
            except BaseException as error:  # noqa: BLE001 - it is raised when the flow has ended
                interruption = interruption or error
                step = flow.throw(InterruptedStepError(type(error).__name__))
            else:
                step = flow.send(value)
    except StopIteration as end:
        if interruption is not None:
            raise interruption from None
        return cast("Answer", end.value)


async def _athrough(flow: Flow[Answer]) -> Answer:
    interruption: BaseException | None = None
    try:
        step = next(flow)
        while True:
            try:
                value = await _adone(step)
            except Exception as error:  # noqa: BLE001 - the flow judges whatever a host's part raises
                step = flow.throw(error)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    step = flow.throw(TimeoutError("the time is up"))
                else:
                    # A library's own task was cancelled, below the step.
                    step = flow.throw(InterruptedStepError("cancelled"))
            except (KeyboardInterrupt, SystemExit) as error:
                interruption = interruption or error
                step = flow.throw(InterruptedStepError(type(error).__name__))
            else:
                step = flow.send(value)
    except StopIteration as end:
        if interruption is not None:
            raise interruption from None
        return cast("Answer", end.value)


def _done(step: Step) -> object:
    value = step()
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        msg = "a part of the tool is asynchronous: use acall"
        raise TypeError(msg)
    return value


async def _adone(step: Step) -> object:
    value = step() if is_async(step) else await asyncio.to_thread(step)
    return await value if inspect.isawaitable(value) else value
