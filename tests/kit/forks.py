"""Functions of a test run in forked children, for real."""

from __future__ import annotations

import json
import os
import select
import signal
import warnings

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
