"""Virtual time: one event loop whose clock jumps, and threads of which one runs at a time.

All that waits, waits here: asyncio tasks on the loop, and a `Runner`'s threads on
primitives that hand the baton back to the loop. So one process holds a fleet, and
the order of everything follows from the seed. A `Process` is what can be killed
or frozen; what it had in hand is then never run again, or not before it is thawed.
"""

from __future__ import annotations

import asyncio
import concurrent
import contextlib
import contextvars
import queue as real_queue
import sys
import threading as real_threading
import time as real_time
from collections import deque
from concurrent.futures import Future as RealFuture
from typing import TYPE_CHECKING, Any, NoReturn

from videopoll.clock import Clock

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("storm_process", default=None)
START_S = 1_800_000_000.0
"""What the wall clock says when a storm begins."""


class Killed(BaseException):
    """Ends the threads of a killed process, once the storm is over."""


class StuckError(Exception):
    """Nothing will ever happen again, and the storm is not over."""


class Process:
    """What is killed, frozen and thawed as one."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel = kernel
        self.name = name
        self.dead = False
        self.frozen_until_s = 0.0
        self.deferred: deque[_Entry] = deque()
        self.traps: list[Any] = []
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)

    @property
    def awake(self) -> bool:
        return not self.dead and self.frozen_until_s <= self.kernel.now_s

    def kill(self) -> None:
        self.dead = True
        self.deferred.clear()

    def freeze(self, seconds: float) -> None:
        until_s = self.kernel.now_s + seconds
        if until_s > self.frozen_until_s:
            self.frozen_until_s = until_s
            self.kernel.at(until_s, self._thaw)

    def _thaw(self) -> None:
        if self.dead or self.frozen_until_s > self.kernel.now_s:
            return
        while self.deferred:
            entry = self.deferred.popleft()
            self.kernel.loop.again(entry)

    def new_context(self) -> contextvars.Context:
        return self.context.run(contextvars.copy_context)


class _Entry:
    """One callback of the loop, which is not run while its process is frozen, and never after its death."""

    __slots__ = ("args", "callback", "context", "handle", "loop", "process")

    def __init__(self, loop: Loop, callback: Any, args: Any, context: contextvars.Context) -> None:
        self.loop, self.callback, self.args, self.context = loop, callback, args, context
        self.process = context.get(PROCESS)
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        process = self.process
        if process is not None:
            if process.dead or (self.handle is not None and self.handle.cancelled()):
                return
            if process.frozen_until_s > self.loop.now_s:
                process.deferred.append(self)
                return
        self.callback(*self.args)


class _Selector:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise StuckError
        if timeout > 0:
            self._loop.now_s += timeout
        return []

    def close(self) -> None:
        pass


class _Task(asyncio.Task):  # type: ignore[type-arg]
    """A task whose place in a set does not depend on where in memory it is."""

    serial = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _Task.serial += 1
        self._serial = _Task.serial
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._serial

    def __eq__(self, other: object) -> bool:
        return self is other


class Loop(asyncio.BaseEventLoop):
    """An event loop whose clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._clock_resolution = 1e-9
        self._selector = _Selector(self)
        self.tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._new_task)
        self.broken: list[BaseException | str] = []
        self.set_exception_handler(self._note)

    def _new_task(self, loop: Any, coro: Any, **options: Any) -> Any:
        task = _Task(coro, loop=loop, **options)
        self.tasks.append(task)
        if len(self.tasks) > 2000:
            self.tasks = [task for task in self.tasks if not task.done()]
        return task

    def _note(self, _loop: Any, context: dict[str, Any]) -> None:
        self.broken.append(context.get("exception") or context["message"])

    def time(self) -> float:
        return self.now_s

    def _process_events(self, _events: object) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        context = context or contextvars.copy_context()
        entry = _Entry(self, callback, args, context)
        entry.handle = super().call_soon(entry, context=context)
        return entry.handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        return self.call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        context = context or contextvars.copy_context()
        entry = _Entry(self, callback, args, context)
        entry.handle = super().call_at(when, entry, context=context)
        return entry.handle

    def again(self, entry: _Entry) -> None:
        super().call_soon(entry, context=entry.context)


class _OnLoop:
    """What a primitive sees as the running thread while the loop itself runs."""

    name = "MainThread"
    process = None


class Thread:
    """A thread of a process: a real one, that runs only while it holds the baton."""

    def __init__(
        self, group: None = None, target: Any = None, name: str = "", *, args: Any = (), daemon: bool | None = None
    ) -> None:
        del group, daemon
        self.kernel = Kernel.now
        self.process = PROCESS.get()
        self.name = name
        self._target, self._args = target, args
        self._gate = real_threading.Lock()
        self._gate.acquire()
        self._epoch = 0
        self._parked = False
        self._woken = False
        self.poisoned = False
        self.finished = False
        self._joiners: list[Waiting] = []
        here = contextvars.copy_context()
        self._wake_context, self._run_context = here, here.run(contextvars.copy_context)
        self._real = real_threading.Thread(target=self._body, name=f"storm-{name}", daemon=True)

    def start(self) -> None:
        self.kernel.threads.append(self)
        self._real.start()
        self._parked = True
        self._epoch += 1
        self.kernel.loop.call_soon(self._resume, self._epoch, True, context=self._wake_context)

    def _body(self) -> None:
        self._gate.acquire()
        try:
            if not self.poisoned:
                self._run_context.run(self._target, *self._args)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - told at the end of the storm
            self.kernel.loop.broken.append(error)
        finally:
            self.finished = True
            if not self.poisoned:
                for waiting in self._joiners:
                    waiting.wake()
            self.kernel.baton.release()

    def _resume(self, epoch: int, woken: bool) -> None:
        if self._parked and epoch == self._epoch:
            self._woken = woken
            self.switch_to()

    def switch_to(self) -> None:
        """Run this thread until it waits or ends; on the loop."""
        self._parked = False
        before, self.kernel.running = self.kernel.running, self
        self._gate.release()
        self.kernel.baton.acquire()
        self.kernel.running = before

    def park(self, until_s: float | None) -> bool:
        """Wait until somebody unparks this thread (True), or until the time has come (False)."""
        if self.poisoned:
            self.die()
        self._epoch += 1
        self._parked = True
        timer = None
        if until_s is not None:
            timer = self.kernel.loop.call_at(until_s, self._resume, self._epoch, False, context=self._wake_context)
        self.kernel.baton.release()
        self._gate.acquire()
        if self.poisoned:
            self.die()
        if timer is not None:
            timer.cancel()
        return self._woken

    def die(self) -> NoReturn:
        """End this thread, after the storm; whoever goes on for a while whatever is raised finds that time over."""
        self.kernel.loop.now_s += 10.0
        raise Killed

    def unpark(self, epoch: int) -> None:
        self.kernel.loop.call_soon(self._resume, epoch, True, context=self._wake_context)

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def ident(self) -> int | None:
        return self._real.ident

    def is_alive(self) -> bool:
        return not self.finished

    def join(self, timeout: float | None = None) -> None:
        # With no time it only asks whether there is something to wait for, as the event loop may.
        if not self.finished and timeout != 0:
            waiting = Waiting(self.kernel)
            self._joiners.append(waiting)
            waiting.wait(timeout)


class Waiting:
    """One wait of one thread for one event."""

    __slots__ = ("_epoch", "kernel", "thread", "woken")

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.thread = kernel.running
        self._epoch = -1
        self.woken = False

    def wait(self, timeout_s: float | None = None) -> bool:
        if self.woken:
            return True
        thread = self.thread
        if not isinstance(thread, Thread):
            msg = "the loop itself would wait for ever"
            raise RuntimeError(msg)  # noqa: TRY004 - it is no type that is wrong
        self._epoch = thread.epoch + 1
        until_s = None if timeout_s is None else self.kernel.now_s + max(0.0, timeout_s)
        thread.park(until_s)
        return self.woken

    def wake(self) -> None:
        if not self.woken:
            self.woken = True
            if isinstance(self.thread, Thread):
                self.thread.unpark(self._epoch)


class Kernel:
    """The loop, the baton, and the chance of one storm."""

    now: Kernel

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.loop = Loop()
        self.baton = real_threading.Lock()
        self.baton.acquire()
        self.threads: list[Thread] = []
        self.running: Thread | _OnLoop = _OnLoop()
        self.yields = 0.0
        self.clock = VirtualClock(self)
        self._nobody = contextvars.copy_context()
        self._nobody.run(PROCESS.set, None)

    @property
    def now_s(self) -> float:
        return self.loop.now_s

    def at(self, at_s: float, call: Callable[..., object], *args: object) -> Any:
        """Have something happen outside of every process."""
        return self.loop.call_at(at_s, call, *args, context=self._nobody)

    async def sleep(self, seconds: float) -> None:
        """Let seconds of the storm pass."""
        await asyncio.sleep(seconds)

    def maybe_yield(self) -> None:
        """Let others run here, now and then: a thread may be interrupted anywhere."""
        thread = self.running
        if isinstance(thread, Thread):
            if thread.poisoned:
                thread.die()
            if self.yields and self.rng.random() < self.yields:
                waiting = Waiting(self)
                self.loop.call_soon(waiting.wake, context=self._nobody)
                waiting.wait()

    def run(self, main: Any) -> Any:
        with substituted(self):
            try:
                return self.loop.run_until_complete(self.loop.create_task(main))
            finally:
                self._clean_up()

    def _clean_up(self) -> None:
        # What a killed thread or task says on its way out: it may still want a lock, as its steps are closed.
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            for thread in self.threads:
                thread.poisoned = True
            for thread in self.threads:
                for _ in range(1000):
                    if thread.finished:
                        break
                    thread.switch_to()
            for task in self.loop.tasks:
                if not task.done():
                    task._log_destroy_pending = False
                    coro: Any = task.get_coro()
                    for _ in range(100):
                        try:
                            coro.close()
                            break
                        except BaseException:  # noqa: BLE001 - as above
                            continue
            self.loop.tasks.clear()
            self.loop._ready.clear()
            self.loop._scheduled.clear()
            self.loop.close()
        finally:
            sys.unraisablehook = hook


class VirtualClock(Clock):
    """The monotonic clock of every process, and a wall clock."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def monotonic_s(self) -> float:
        return 1000.0 + self._kernel.now_s

    def unix_s(self) -> float:
        return START_S + self._kernel.now_s


# --- what stands in for `threading`, `queue`, `time` and `concurrent.futures.Future` in videopoll's modules ---


class _Lock:
    reentrant = False

    def __init__(self) -> None:
        self._owner: object = None
        self._depth = 0
        self._waiting: deque[Waiting] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        kernel = Kernel.now
        kernel.maybe_yield()
        me = kernel.running
        while self._depth and not (self.reentrant and self._owner is me):
            if not blocking:
                return False
            waiting = Waiting(kernel)
            self._waiting.append(waiting)
            if not waiting.wait(None if timeout < 0 else timeout):
                with contextlib.suppress(ValueError):
                    self._waiting.remove(waiting)
                return False
        self._owner = me
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            if self._waiting:
                self._waiting.popleft().wake()

    def locked(self) -> bool:
        return self._depth > 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def release_all(self) -> int:
        depth, self._depth = self._depth, 1
        self.release()
        return depth

    def acquire_again(self, depth: int) -> None:
        self.acquire()
        self._depth = depth


class _RLock(_Lock):
    reentrant = True


class _Condition:
    def __init__(self, lock: _Lock | None = None) -> None:
        self._lock = lock or _RLock()
        self._waiting: deque[Waiting] = deque()
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        waiting = Waiting(Kernel.now)
        self._waiting.append(waiting)
        depth = self._lock.release_all()
        woken = waiting.wait(timeout)
        with contextlib.suppress(ValueError):
            self._waiting.remove(waiting)
        self._lock.acquire_again(depth)
        return woken

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        until_s = None if timeout is None else Kernel.now.now_s + timeout
        while not (result := predicate()):
            left_s = None if until_s is None else until_s - Kernel.now.now_s
            if left_s is not None and left_s <= 0:
                return predicate()
            self.wait(left_s)
        return result

    def notify(self, n: int = 1) -> None:
        for _ in range(min(n, len(self._waiting))):
            self._waiting.popleft().wake()

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class _Event:
    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Waiting] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        Kernel.now.maybe_yield()
        if not self._set:
            waiting = Waiting(Kernel.now)
            self._waiting.append(waiting)
            waiting.wait(timeout)
        return self._set


class _SimpleQueue:
    def __init__(self, maxsize: int = 0) -> None:
        del maxsize
        self._items: deque[Any] = deque()
        self._waiting: deque[Waiting] = deque()

    @classmethod
    def __class_getitem__(cls, _: object) -> type:
        return cls

    def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
        del block, timeout
        self._items.append(item)
        if self._waiting:
            self._waiting.popleft().wake()

    put_nowait = put

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        kernel = Kernel.now
        kernel.maybe_yield()
        while not self._items:
            if not block:
                raise real_queue.Empty
            waiting = Waiting(kernel)
            self._waiting.append(waiting)
            if not waiting.wait(timeout):
                with contextlib.suppress(ValueError):
                    self._waiting.remove(waiting)
                raise real_queue.Empty
        return self._items.popleft()

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)


class _Future:
    def __init__(self) -> None:
        self._done = _Event()
        self._result: Any = None
        self._error: BaseException | None = None
        self._calls: list[Any] = []

    @classmethod
    def __class_getitem__(cls, _: object) -> type:
        return cls

    def done(self) -> bool:
        return self._done.is_set()

    def set_result(self, result: object) -> None:
        self._result = result
        self._done.set()
        for call in self._calls:
            call(self)

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        self._done.set()
        for call in self._calls:
            call(self)

    def add_done_callback(self, call: Any) -> None:
        if self.done():
            call(self)
        else:
            self._calls.append(call)

    def result(self, timeout: float | None = None) -> Any:
        if not self._done.wait(timeout):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._result


class _Threading:
    Lock, RLock, Condition, Event, Thread = _Lock, _RLock, _Condition, _Event, Thread

    @staticmethod
    def current_thread() -> Any:
        return Kernel.now.running

    def __getattr__(self, name: str) -> Any:
        return getattr(real_threading, name)


class _Queue:
    SimpleQueue = Queue = _SimpleQueue

    def __getattr__(self, name: str) -> Any:
        return getattr(real_queue, name)


class _Time:
    @staticmethod
    def monotonic() -> float:
        return Kernel.now.clock.monotonic_s()

    @staticmethod
    def time() -> float:
        return Kernel.now.clock.unix_s()

    @staticmethod
    def sleep(seconds: float) -> None:
        Waiting(Kernel.now).wait(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(real_time, name)


def _wait_for_futures(futures: Any, timeout: float | None = None) -> tuple[list[Any], list[Any]]:
    until_s = None if timeout is None else Kernel.now.now_s + timeout
    for future in futures:
        future._done.wait(None if until_s is None else max(0.0, until_s - Kernel.now.now_s))
    return [one for one in futures if one.done()], [one for one in futures if not one.done()]


class _Futures:
    Future = _Future
    wait = staticmethod(_wait_for_futures)


class _Concurrent:
    futures = _Futures


STAND_INS = (
    (concurrent, _Concurrent),
    (real_threading, _Threading()),
    (real_queue, _Queue()),
    (real_time, _Time()),
    (RealFuture, _Future),
    (real_threading.Lock, _Lock),
)


@contextlib.contextmanager
def substituted(kernel: Kernel) -> Iterator[None]:
    """Let videopoll's modules find this storm's threads, locks and time instead of the real ones."""
    before = []
    for name, module in list(sys.modules.items()):
        if module is None or not (name == "videopoll" or name.startswith("videopoll.")):
            continue
        if name.startswith(("videopoll.testing", "videopoll.cli")):
            continue
        for attribute, value in list(vars(module).items()):
            for real, stand_in in STAND_INS:
                if value is real and not (real is concurrent and name.endswith("async_runner")):
                    before.append((module, attribute, value))
                    setattr(module, attribute, stand_in)
    Kernel.now = kernel
    try:
        yield
    finally:
        for module, attribute, value in before:
            setattr(module, attribute, value)
