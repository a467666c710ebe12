"""How a runner comes to its end: what its wish to stop leaves what is in hand, and what signals mean. Both runners share it.

Whatever asks (`stop`, a signal, Ctrl-C, a cancelled task), the end is the same:
nothing more is claimed, what is in hand goes on for `grace_s`, what is unfinished
then is given back, and after a bound beyond that nobody waits any longer.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, cast

from videopoll.clock import FOREVER_S
from videopoll.errors import ConfigurationError
from videopoll.policies import ENDING_S

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Self

    from videopoll.clock import Clock

__all__ = ["LOOK_S", "REPEATED_S", "STOP_SIGNALS", "StopSignals", "Stopping", "calm_ctrl_c"]

log: logging.Logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

REPEATED_S = 1.0
"""A signal that comes within so many seconds of the first is the same wish: process managers forward one more."""

LOOK_S = 0.2
"""How often the main thread wakes while a run goes on, in seconds: it takes a signal only when it is awake.

The system may give a signal to any thread of the process, and does so while the
main one has yet to take another. Python calls the handler on the main thread, but
does not wake it for that. A repeated signal that was seen late would count as a
later one, and end the process in the middle of a send.
"""


class Stopping:
    """One run's way to its end. It takes no locks: a signal handler may ask.

    Args:
        clock: What time it is.
        grace_s: Seconds that what is in hand may go on.
    """

    __slots__ = ("_asked_s", "_clock", "_grace_s")

    def __init__(self, clock: Clock, grace_s: float) -> None:
        self._clock = clock
        self._grace_s = grace_s
        self._asked_s: float | None = None

    @property
    def asked(self) -> bool:
        """Whether anybody has asked for the end."""
        return self._asked_s is not None

    def ask(self) -> None:
        """Ask for the end. The time runs from the first who asks."""
        if self._asked_s is None:
            self._asked_s = self._clock.monotonic_s()

    def ask_again(self) -> None:
        """Take an interruption as a wish to stop; one that comes more than a second later means: at once."""
        if self._asked_s is None:
            self.ask()
        elif self._clock.monotonic_s() - self._asked_s >= REPEATED_S:
            self.hurry()

    def hurry(self) -> None:
        """Ask for the end at once: what is unfinished is given back now."""
        self.ask()
        self._grace_s = 0.0

    def grace_left_s(self) -> float:
        """Return the seconds that what is in hand may still go on; infinity while nobody has asked."""
        return FOREVER_S if self._asked_s is None else self._asked_s + self._grace_s - self._clock.monotonic_s()

    def left_s(self) -> float:
        """Return the seconds until nobody waits for the end any longer."""
        return self.grace_left_s() + ENDING_S


def _look_for_signals(loop: AbstractEventLoop) -> Callable[[], None]:
    """Wake an event loop every `LOOK_S` seconds; return what ends that."""
    timer: TimerHandle

    def look() -> None:
        nonlocal timer
        timer = loop.call_later(LOOK_S, look)

    def stop() -> None:
        timer.cancel()

    look()
    return stop


@contextlib.contextmanager
def calm_ctrl_c(stopping: Callable[[], Stopping | None], ask: Callable[[], None]) -> Iterator[None]:
    """Keep a second Ctrl-C from tearing an event loop while a runner drains.

    `asyncio.run` lets the first one cancel its main task, and raises at the second
    wherever the loop just is: a wake-up that was about to be made is lost then, and
    a task that waits for it waits for ever. So the second one asks for the end at
    once instead, and only a third one, of a second or more later, raises. Nothing
    is done where Ctrl-C is not in the hands of `asyncio.run`.

    Args:
        stopping: Gives the way to the end of the run under way.
        ask: Asks for the end, without waiting.
    """
    before = signal.getsignal(signal.SIGINT)
    ours = isinstance(before, functools.partial) and getattr(before.func, "__name__", "") == "_on_sigint"
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    cancel = cast("Callable[[int, FrameType | None], object]", before)
    pressed, pid = False, os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pid != os.getpid():
            # The event loop that would cancel its task runs in the parent.
            raise KeyboardInterrupt
        way = stopping()
        if way is None or not pressed:
            pressed = True
            ask()
            cancel(number, frame)
        elif way.grace_left_s() <= 0:
            cancel(number, frame)
        else:
            way.ask_again()
            ask()

    signal.signal(signal.SIGINT, handle)
    stop_looking = _look_for_signals(asyncio.get_running_loop())
    try:
        yield
    finally:
        stop_looking()
        if signal.getsignal(signal.SIGINT) is handle:
            signal.signal(signal.SIGINT, before)


class StopSignals:
    """Lets SIGTERM and SIGINT stop a runner while it is entered; for the main thread.

    One wish to stop arrives as two signals where an init program or a process
    manager forwards one more, so what comes within `repeated_s` of the first is
    ignored, also when the run is over by then. Later ones end the process at once.

    Args:
        clock: What time it is.
        request_stop: Asks for the end, without waiting.
        grace_s: Seconds that what is in hand may go on; for the log.
        loop: The event loop of the run, on this thread; None if the run has a thread of its own.
        repeated_s: Seconds after the first signal in which another one is the same wish.
    """

    def __init__(
        self,
        clock: Clock,
        request_stop: Callable[[], None],
        grace_s: float,
        loop: AbstractEventLoop | None = None,
        *,
        repeated_s: float = REPEATED_S,
    ) -> None:
        self._clock = clock
        self._request_stop = request_stop
        self._grace_s = grace_s
        self._loop = loop
        self._repeated_s = repeated_s
        self._stop_looking: Callable[[], None] = lambda: None
        self._first_s: float | None = None
        self._before: dict[signal.Signals, signal._HANDLER] = {}
        self._over = False
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            msg = (
                "run(handle_signals=True) works on the main thread alone: Python lets no other one handle signals."
                " Leave it out here, and have the main thread call stop() or request_stop()"
            )
            raise ConfigurationError(msg)
        for number in STOP_SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        if self._loop is not None:
            self._stop_looking = _look_for_signals(self._loop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_looking()
        self._over = True
        if self._repeats():
            # Python lets go of its handlers before the process has ended, and the default is to be killed.
            atexit.register(self._ignore_repeats)
        else:
            self._restore()

    def _ignore_repeats(self) -> None:
        if self._repeats():
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def _restore(self) -> None:
        atexit.unregister(self._ignore_repeats)
        for number, handler in self._before.items():
            # None is a handler that was not installed from Python: it cannot be put back from here.
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _repeats(self) -> bool:
        return self._first_s is not None and self._clock.monotonic_s() - self._first_s < self._repeated_s

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        forked = self._pid != os.getpid()
        if self._repeats() and not forked:
            return
        if self._over or forked:
            # The run is long over, or its parent's: this one is for whoever handled signals before.
            self._restore()
            signal.raise_signal(number)
            return
        if self._first_s is not None:
            os._exit(128 + number)
        self._first_s = self._clock.monotonic_s()
        self._request_stop()
        name = signal.Signals(number).name

        def tell() -> None:
            log.info(
                "Stopping on %s: what is in hand has up to %g s to end. A signal that follows within %g s is taken for"
                " the same wish; a later one ends the process at once, in the middle of what it does.",
                name,
                self._grace_s,
                self._repeated_s,
            )

        with contextlib.suppress(RuntimeError):
            # The log may be just what was interrupted, and the loop may be closed.
            if self._loop is None:
                tell()
            else:
                self._loop.call_soon_threadsafe(tell)
