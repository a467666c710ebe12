"""Functions of a test run in forked children, for real."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import threading
import types
import warnings
from contextlib import contextmanager

TOO_LONG_S = 30.0


def fork(work):
    """Run a function in a forked child; return its process id, and what tells what it returned."""
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 and later warn where there are threads: that is what these tests are about.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        # Nothing of the test run may go on here, and a child that hangs must not stay.
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(TOO_LONG_S))
            try:
                told = work()
            except BaseException as error:  # noqa: BLE001 - the parent tells of it
                told = f"{type(error).__name__}: {error}"
            os.write(theirs, json.dumps(told).encode())
        finally:
            os._exit(0)
    os.close(theirs)

    def result():
        ready, _, _ = select.select([ours], [], [], TOO_LONG_S + 5)
        raw = os.read(ours, 65536) if ready else b""
        os.close(ours)
        os.waitpid(pid, 0)
        assert raw, "the child hung"
        return json.loads(raw)

    return pid, result


def in_child(work):
    """Run a function in a forked child, and return what it returns."""
    return fork(work)[1]()


def locks_of(thing):
    """Yield the locks that a part of videopoll has, and those of the parts that it has, its clients of Redis too."""
    seen, rest = set(), [thing]
    while rest:
        one = rest.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if (
            hasattr(one, "acquire")
            and hasattr(one, "release")
            and not isinstance(one, asyncio.Semaphore | asyncio.Lock)
        ):
            yield one
        ours = type(one).__module__.startswith(("videopoll", "redis.")) or isinstance(
            one, dict | list | tuple | types.MethodType | threading.Event
        )
        if ours and not isinstance(one, type):
            rest += gc.get_referents(one)


@contextmanager
def every_lock_held(*parts):
    """Have another thread hold every lock of these meanwhile; gives what it holds."""
    held, holding, done = [], threading.Event(), threading.Event()

    def hold():
        for part in parts:
            held.extend(lock for lock in locks_of(part) if lock.acquire(blocking=False))
        holding.set()
        done.wait(TOO_LONG_S)
        for lock in held:
            lock.release()

    holder = threading.Thread(target=hold)
    holder.start()
    assert holding.wait(5), "the locks could not be taken"
    try:
        yield held
    finally:
        done.set()
        holder.join()
