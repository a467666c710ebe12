"""Calls of a host's functions: of which kind they are, and threads for the sync ones under asyncio.

The threads are bounded, and no hindrance to the end of the process. The event
loop's own executor serves name look-ups too, and Python waits for its threads at
exit: a messenger that hangs would hold up both.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import queue
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from typing_extensions import override

from videopoll.core.belonging import OfProcess
from videopoll.messages import TOO_LATE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from videopoll.messages import Message, Receipt

__all__ = [
    "SYNC_PARTS",
    "DaemonThreads",
    "aclose_parts",
    "async_sender",
    "call_async",
    "call_sync",
    "close_parts",
    "in_thread",
    "is_async",
    "send_in_time",
]

T = TypeVar("T")


class _Call:
    """One call, which either begins in a thread or is given up before: never both."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.task = asyncio.current_task()
        self._lock = threading.Lock()
        self._over = False

    def begin(self) -> bool:
        """Return whether the call may begin, in the thread that is about to make it."""
        with self._lock:
            # The cancellation of whoever waits is seen here at once, before it has woken up.
            self._over, over = True, self._over or self.future.cancelled()
        return not over

    def give_up(self) -> bool:
        """Forbid the call to begin; return False if it has begun."""
        with self._lock:
            self._over, over = True, self._over
        return not over


class DaemonThreads(OfProcess):
    """A bounded pool of daemon threads.

    A call that is given up while it waits for a thread (its time is over, its task
    was cancelled, the pool was closed) is never made.

    Args:
        most: Threads at most; further calls wait for one. With those that hang in the
            pools before there are never more than twice as many.
        name: What they are called.
        before: The pool that this one goes on for.
    """

    def __init__(self, most: int, name: str, before: DaemonThreads | None = None) -> None:
        self._most = most
        self._before = before
        self._name = name
        self._work: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._started = 0
        self._busy = 0
        self.closed = False
        self._running: list[_Call] = []
        self._unbegun: weakref.WeakSet[asyncio.Task[object]] = weakref.WeakSet()
        self._begin_in_process()

    @override
    def _begin_in_child(self) -> None:
        # Its threads are not here, but the one that forked, which ends with its call.
        self.closed = True
        self._work.put(None)

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call` in a thread, with the context variables copied.

        Raises:
            asyncio.CancelledError: The pool was closed before the call could begin.
        """
        work = _Call(partial(contextvars.copy_context().run, call))
        self._busy += 1
        if self._busy > self._started < min(self._most, 2 * self._most - self._hanging_before):
            self._started += 1
            threading.Thread(target=self._serve, name=f"{self._name}-{self._started}", daemon=True).start()
        self._work.put(work)
        try:
            return cast("T", await work.future)
        finally:
            if work.give_up():
                self._busy -= 1
                if work.task is not None:
                    self._unbegun.add(work.task)

    @property
    def hung(self) -> int:
        """How many calls go on for which nobody waits any more."""
        here = sum(work.future.cancelled() for work in list(self._running))
        return here + (self._before.hung if self._before is not None else 0)

    @property
    def hanging(self) -> int:
        """How many threads are busy here, also with what was given up, and in the pools before this one."""
        return len(self._running) + self._hanging_before

    @property
    def _hanging_before(self) -> int:
        return self._before.hanging if self._before is not None else 0

    def renewed(self) -> DaemonThreads:
        """Return a pool to go on with after `close`; threads that still hang in this one leave fewer for that one."""
        return DaemonThreads(self._most, self._name, self if self.hanging else None)

    def runs_for(self, task: asyncio.Task[None]) -> bool:
        """Return whether a call that `task` made is going on in a thread, also one that was given up."""
        return any(work.task is task for work in list(self._running))

    def never_began(self, task: asyncio.Task[object] | None) -> bool:
        """Return, once, whether the last call of `task` was given up before it began: it surely did nothing."""
        never = task in self._unbegun
        if task is not None:
            self._unbegun.discard(task)
        return never

    def close(self) -> None:
        """Begin no call any more, and let idle threads end; one that hangs is left to itself."""
        self.closed = True
        for _ in range(self._started):
            self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            if self.closed:
                self._tell(work, work.future.cancel)
            elif work.begin():
                self._running.append(work)
                try:
                    result, error = work.call(), None
                except BaseException as raised:  # noqa: BLE001 - whatever a host's part raises is its answer
                    result, error = None, raised
                finally:
                    self._running.remove(work)
                self._tell(work, partial(self._answer, work.future, result, error))

    @staticmethod
    def _tell(work: _Call, what: Callable[[], object]) -> None:
        # The loop may be closed at any moment: then nobody waits.
        with contextlib.suppress(RuntimeError):
            work.future.get_loop().call_soon_threadsafe(what)

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
    """Run a sync call of a host in the runner's threads; outside of a runner, in the event loop's.

    What is given up while it waits for one of the event loop's threads is not made either.
    """
    threads = SYNC_PARTS.get()
    return await (asyncio.to_thread(call) if threads is None or threads.closed else threads.run(call))


def is_async(function: object) -> bool:
    """Return whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def call_sync(function: Callable[..., T | Awaitable[T]], argument: object, name: str) -> T:
    """Call a host's function from a thread.

    Raises:
        TypeError: It is asynchronous.
    """
    result = None if is_async(function) else function(argument)
    if is_async(function) or inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        msg = f"{name} is asynchronous: use AsyncRunner, or give Runner a plain function"
        raise TypeError(msg)
    return cast("T", result)


async def call_async(function: Callable[..., T | Awaitable[T]], argument: object) -> T:
    """Call a host's function from asyncio: a sync one in a thread, with the context copied."""
    result: object = function(argument) if is_async(function) else await in_thread(partial(function, argument))
    return await cast("Awaitable[T]", result) if inspect.isawaitable(result) else cast("T", result)


def async_sender(send: Callable[[Message], T | Awaitable[T]]) -> Callable[[Message], Awaitable[T | Receipt]]:
    """Return what sends a message under asyncio: a sync function in a thread, unless it is too late when one is free.

    Of which kind it is is found out once, and not at each message.
    """
    if is_async(send):
        return cast("Callable[[Message], Awaitable[T]]", send)

    async def in_time(message: Message) -> T | Receipt:
        return await call_async(partial(send_in_time, send), message)

    return in_time


def send_in_time(send: Callable[[Message], T | Awaitable[T]], message: Message) -> T | Awaitable[T] | Receipt:
    """Call what sends a message, unless it is too late."""
    return send(message) if message.may_still_send() else TOO_LATE


def close_parts(parts: Iterable[object]) -> None:
    """Close those parts of a host's that can be closed from a thread."""
    for part in parts:
        close: Callable[[], object] | None = getattr(part, "close", None)
        if close is not None and not is_async(close):
            close()


async def aclose_parts(parts: Iterable[object]) -> None:
    """Close those parts of a host's that can be closed, both their sides."""
    for part in parts:
        for name in ("close", "aclose"):
            close: Callable[[], object] | None = getattr(part, name, None)
            closing = close() if close is not None else None
            if inspect.isawaitable(closing):
                await closing
