"""What belongs to one process, or to one event loop: it is made anew in a forked child, and for each loop.

A child has its parent's objects, and none of its threads: a lock that one of them
held is held for ever. Its sockets are the parent's, too, and so is the selector of
an event loop: what a destructor of the child closes would be taken from the parent.
So what is left of the parent is kept as it is, and looked at no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import encodings.idna  # noqa: F401 - the first connection of any thread would import it, and a child forked just then hang
import os
import threading
import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, SupportsIndex

__all__ = ["NO_FORK", "OfLoop", "OfProcess", "is_of_other_loop", "leave_to_parent"]

T = TypeVar("T")

NO_FORK = threading.RLock()
"""While it is held, no fork begins: for what is made at its first use by any thread, imports above all.

Python's locks of modules are held for ever in a child whose parent was just importing one.
"""

_ours: weakref.WeakSet[OfProcess] = weakref.WeakSet()
"""What there is in this process."""

_parents: list[object] = []
"""What the parents of this process had open. Nobody uses it here, and no destructor may run."""


class OfProcess:
    """Something that belongs to one process: it is not handed to another one, and a forked child makes its state anew."""

    def _begin_in_process(self) -> None:
        """Call `_begin_in_child` in each forked child from now on; for the end of a constructor."""
        _ours.add(self)

    def _begin_in_child(self) -> None:
        """Make anew what a forked child cannot share with its parent: locks, threads, connections, names."""
        raise NotImplementedError

    @override
    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        msg = (
            f"{type(self).__name__} cannot be copied or handed to another process, as it holds connections or threads:"
            " hand over what it is built from, such as the URL, and build another one there"
        )
        raise TypeError(msg)


def leave_to_parent(*things: object) -> None:
    """Keep what belongs to the parent of this forked child from ever being closed here."""
    _parents.extend(thing for thing in things if thing is not None)


def _begin_all_in_child() -> None:
    for one in list(_ours):
        # One that another thread was just building has nobody here who could use it.
        with contextlib.suppress(AttributeError):
            one._begin_in_child()  # noqa: SLF001 - a method for this


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=NO_FORK.acquire, after_in_parent=NO_FORK.release, after_in_child=NO_FORK.release)
    os.register_at_fork(after_in_child=_begin_all_in_child)


class OfLoop(OfProcess, Generic[T]):
    """A value for each event loop, made where it is first asked for. May be asked in several loops at once.

    Args:
        make: Makes the value of the running event loop.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._open()
        self._begin_in_process()

    def _open(self) -> None:
        self._lock = threading.Lock()
        # A value may hold its loop, and so keep it: closed ones are dropped when a new one comes.
        self._values: dict[asyncio.AbstractEventLoop, T] = {}
        # The loop that was here last: most of the time there is one.
        self._latest: tuple[weakref.ref[asyncio.AbstractEventLoop], T] | None = None

    @override
    def _begin_in_child(self) -> None:
        leave_to_parent(self._values)
        self._open()

    def here(self) -> T:
        """Return the value of the running event loop."""
        loop = asyncio.get_running_loop()
        # Read once: another thread's loop may put its own in between.
        latest = self._latest
        if latest is not None and latest[0]() is loop:
            return latest[1]
        with self._lock:
            if loop not in self._values:
                self._values = {one: value for one, value in self._values.items() if not one.is_closed()}
                self._values[loop] = self._make()
            value = self._values[loop]
            self._latest = (weakref.ref(loop), value)
        return value

    def take(self) -> T | None:
        """Return the value of the running event loop, if there is one, and forget it."""
        with self._lock:
            self._latest = None
            return self._values.pop(asyncio.get_running_loop(), None)


def is_of_other_loop(error: BaseException) -> bool:
    """Return whether a client failed because what it has open belongs to another event loop, or to one that is closed."""
    # asyncio has no type for it: "Event loop is closed", "... attached to a different loop", "... bound to a different event loop".
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("Event loop is closed", "different loop", "different event loop")
    )
