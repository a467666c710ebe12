"""Threads for a host's sync parts under asyncio: bounded, and no hindrance to the end of the process.

The event loop's own executor serves name look-ups too, and Python waits for its
threads at exit: a messenger that hangs would hold up both.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SYNC_PARTS", "DaemonThreads", "in_thread"]

T = TypeVar("T")

_Work = tuple["Callable[[], object]", asyncio.AbstractEventLoop, "asyncio.Future[object]"]


class DaemonThreads:
    """A bounded pool of daemon threads.

    Args:
        most: Threads at most; further calls wait for one.
        name: What they are called.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._started = 0
        self._busy = 0

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call` in a thread, with the context variables copied."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        self._busy += 1
        if self._busy > self._started < self._most:
            self._started += 1
            threading.Thread(target=self._serve, name=f"{self._name}-{self._started}", daemon=True).start()
        context = contextvars.copy_context()
        self._work.put((lambda: context.run(call), loop, future))
        return cast("T", await future)

    def close(self) -> None:
        """Let idle threads end; one that hangs is left to itself."""
        for _ in range(self._started):
            self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            call, loop, future = work
            try:
                result, error = call(), None
            except BaseException as raised:  # noqa: BLE001 - whatever a host's part raises is its answer
                result, error = None, raised
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._answer, future, result, error)

    def _answer(self, future: asyncio.Future[object], result: object, error: BaseException | None) -> None:
        # Here and not where the future is awaited: a call that was given up keeps its thread.
        self._busy -= 1
        _settle(future, result, error)


def _settle(future: asyncio.Future[object], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        future.set_exception(error)
    else:
        # A future cannot carry these, and they are not meant for our event loop.
        future.set_exception(RuntimeError(f"a sync part raised {type(error).__name__}"))


SYNC_PARTS: contextvars.ContextVar[DaemonThreads | None] = contextvars.ContextVar("videopoll_sync_parts", default=None)
"""The threads in which sync channels and sync `resolve` functions run, set by the runner that sends."""


async def in_thread(call: Callable[[], T]) -> T:
    """Run a sync call of a host in the runner's threads; outside of a runner, in the event loop's."""
    threads = SYNC_PARTS.get()
    return await (asyncio.to_thread(call) if threads is None else threads.run(call))
