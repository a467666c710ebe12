"""How long a send may still begin, and how a call that waits for a thread is given up."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import time

import attrs

from videopoll import Message
from videopoll._calling import DaemonThreads
from videopoll.core.permits import Lease, SendPermit
from videopoll.testing import build_job, build_message, build_outcome


def message(permit: SendPermit | None = None) -> Message:
    """A message of a worker."""
    job, outcome = build_job(start_ms=1_757_157_518_747), build_outcome(at_ms=1_757_157_563_747)
    return attrs.evolve(build_message(outcome, job=job), _permit=permit)


def test_the_permission_is_no_part_of_what_a_message_says():
    """Neither its repr nor its equality know of it, and copies keep it."""
    now_s = [100.0]
    lease = Lease(lambda: now_s[0])
    lease.confirm(100.0, 12.0)
    permitted = message(SendPermit(lease))

    assert permitted == message()
    assert repr(permitted) == repr(message())
    evolved = attrs.evolve(permitted, language="en")
    now_s[0] = 112.0
    assert not permitted.may_still_send()
    assert not evolved.may_still_send()
    lease.confirm(111.0, 12.0)
    assert evolved.may_still_send()


def test_a_message_can_still_be_copied_and_pickled():
    """Hosts hand messages to task queues of their own."""
    lease = Lease()
    lease.confirm(time.monotonic(), 60.0)
    permitted = message(SendPermit(lease))

    assert pickle.loads(pickle.dumps(permitted)) == permitted
    assert copy.deepcopy(permitted).may_still_send()


def test_a_lease_that_was_let_go_is_not_revived_by_a_late_confirmation():
    """A renewal may come back after the job was handed on."""
    lease = Lease()
    permit = SendPermit(lease)
    assert not permit.holds()
    lease.confirm(time.monotonic(), 60.0)
    assert permit.holds()

    lease.forfeit()
    lease.confirm(time.monotonic(), 60.0)

    assert not permit.holds()


def test_a_call_that_waits_in_a_pool_of_threads_is_dropped_with_its_task(call):
    """The pool is the place where it is decided: a call begins, or it is given up, and never both."""
    made, free = [], threading.Event()

    async def work():
        threads = DaemonThreads(1, "test")
        first = asyncio.create_task(threads.run(lambda: free.wait(10)))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(threads.run(lambda number=number: made.append(number))) for number in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        free.set()
        await asyncio.gather(first, *waiting[1:])
        free.clear()
        hanging = asyncio.create_task(threads.run(lambda: free.wait(10)))
        await asyncio.sleep(0)
        stranger = asyncio.create_task(threads.run(lambda: made.append("stranger")))
        await asyncio.sleep(0)
        threads.close()
        free.set()
        await asyncio.wait([hanging, stranger], timeout=5)
        late = asyncio.create_task(threads.run(lambda: made.append("late")))
        await asyncio.wait([late], timeout=5)
        return waiting[0].cancelled()

    assert call(work())
    assert made == [1, 2]
