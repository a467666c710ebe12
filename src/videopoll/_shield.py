"""Waits that a cancellation cannot cut: what has to end, ends, and then the cancellation goes on.

A host may cancel once, twice, or without an end: in a cancelled scope of anyio
(Starlette, FastAPI, MCP servers) every ``await`` raises again. So what must not be
cut runs in a task of its own, which no scope knows of, and whoever waits for it
waits on, however often that is interrupted, up to a bound.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from videopoll._reasons import trace_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

T = TypeVar("T")

__all__ = ["to_the_end", "wait_on"]

log = logging.getLogger(__name__)


async def wait_on(
    waiting: Iterable[asyncio.Future[T]], within_s: float | None, interrupted: Callable[[], object] | None = None
) -> asyncio.CancelledError | None:
    """Wait until all of these are done, at most so long, however often we are cancelled meanwhile.

    Args:
        waiting: Futures or tasks; they are not cancelled.
        within_s: The bound, in seconds; None if there is none.
        interrupted: Called at each cancellation.

    Returns:
        The last cancellation, for the caller to raise; None if there was none.
    """
    loop = asyncio.get_running_loop()
    until_s = None if within_s is None else loop.time() + within_s
    left = {one for one in waiting if not one.done()}
    cancelled: asyncio.CancelledError | None = None
    while left and (until_s is None or loop.time() < until_s):
        try:
            _, left = await asyncio.wait(left, timeout=None if until_s is None else until_s - loop.time())
        except asyncio.CancelledError as error:
            cancelled = error
            left = {one for one in left if not one.done()}
            if interrupted is not None:
                interrupted()
    return cancelled


async def to_the_end(work: Coroutine[object, object, None], name: str, *, within_s: float) -> None:
    """Do something that has to be done, in a task of its own, whatever happens to the caller's.

    Raises:
        asyncio.CancelledError: The caller was cancelled meanwhile; by now the work is done, or its time is over.
    """
    task = asyncio.get_running_loop().create_task(work, name=f"videopoll-{name}")
    cancelled = await wait_on([task], within_s)
    if not task.done():
        task.cancel()
        log.error("The %s has not ended within %g s, and is left to itself", name, within_s)
    if cancelled is not None:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            log.error("The %s failed\n%s", name, trace_of(error))
        raise cancelled
    if task.done():
        task.result()
