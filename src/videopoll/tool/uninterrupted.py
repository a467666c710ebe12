"""Flows that come to their end also when their caller is interrupted, as what they have begun costs money.

`drive_to_end` and `adrive_to_end` carry a flow out (`videopoll.core.flow`). An interruption
(Ctrl-C, ``sys.exit``, a cancelled task) goes on only when the flow is done, or its time is up.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
import time
from concurrent import futures
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from videopoll._calling import is_async
from videopoll.core.flow import acall, adrive, call, drive

if TYPE_CHECKING:
    from videopoll.core.flow import Call, Flow

__all__ = ["InterruptedStepError", "adrive_to_end", "call_in_thread", "drive_to_end"]

log: logging.Logger = logging.getLogger("videopoll.tool")

T = TypeVar("T")

LOOK_S = 0.2
"""How often a thread that waits wakes, in seconds.

Python calls the handler of a signal on the main thread, but wakes it only if the
system gave the signal to that thread, and in the middle of its wait. A Ctrl-C that
came a moment before would be heard when the flow ends.
"""

LAST_STEPS_S = 5.0
"""Seconds that a flow whose time is up still gets to report what became of it."""


class InterruptedStepError(Exception):
    """A step of the flow was cut off by an interruption; the flow goes on to its end."""


async def call_in_thread(effect: Call) -> object:
    """Carry out one call of a flow under asyncio: an async function in the event loop, a plain one in a thread."""
    if is_async(effect):
        return await acall(effect)
    value = await asyncio.to_thread(effect)
    return await value if inspect.isawaitable(value) else value


def drive_to_end(flow: Flow[T], grace_s: float) -> T:
    """Carry a flow out to its end in a thread of its own, and wait for it.

    An interruption reaches this thread alone, at any point. It goes on once the
    flow is done, after `grace_s` seconds at the latest.

    Raises:
        BaseException: The interruption.
    """
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(_drive_through(flow))
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
        while not outcome.done():
            futures.wait([outcome], timeout=LOOK_S)
        return outcome.result()
    except BaseException:
        if not outcome.done():
            log.warning("🎬 Interrupted: a video that is paid for is followed first, for at most %g s", grace_s)
            if not futures.wait([outcome], timeout=grace_s).done:
                log.error("🎬 A video may have been started, and cannot be followed: the time is up")  # noqa: TRY400
        raise


async def adrive_to_end(flow: Flow[T], grace_s: float) -> T:
    """Carry a flow out to its end under asyncio, also when this task is cancelled.

    The cancellation goes on once the flow is done, after about `grace_s` seconds
    at the latest.

    Raises:
        asyncio.CancelledError: This task was cancelled meanwhile.
    """
    work = asyncio.create_task(_adrive_through(flow), name="videoGenerator")
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


def _drive_through(flow: Flow[T]) -> T:
    """Drive a flow to its end in this thread, and raise the first interruption after it."""
    interruption: BaseException | None = None

    def carry_out(effect: Call) -> object:
        nonlocal interruption
        try:
            return call(effect)
        except Exception:
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised when the flow has ended
            interruption = interruption or error
            raise InterruptedStepError(type(error).__name__) from None

    result = drive(flow, carry_out)
    if interruption is not None:
        raise interruption
    return result


async def _adrive_through(flow: Flow[T]) -> T:
    """Drive a flow to its end under asyncio; the async side of `_drive_through`."""
    interruption: BaseException | None = None

    async def carry_out(effect: Call) -> object:
        nonlocal interruption
        try:
            return await call_in_thread(effect)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                msg = "the time is up"
                raise TimeoutError(msg) from None
            # A library's own task was cancelled, below the step.
            msg = "cancelled"
            raise InterruptedStepError(msg) from None
        except (KeyboardInterrupt, SystemExit) as error:
            interruption = interruption or error
            raise InterruptedStepError(type(error).__name__) from None

    result = await adrive(flow, carry_out)
    if interruption is not None:
        raise interruption
    return result
