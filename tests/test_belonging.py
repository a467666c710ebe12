"""What belongs to one event loop, or to one process: each has its own, and what is left of another is left alone."""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
import pickle
import threading
import weakref

import pytest

from kit.forks import in_child
from videopoll.core import belonging
from videopoll.core.belonging import OfLoop, OfProcess, is_of_other_loop, leave_to_parent


@pytest.fixture
def numbered():
    """Something of each event loop: the first has 1, the next 2."""
    return OfLoop(itertools.count(1).__next__)


async def here(of_loop):
    return of_loop.here(), of_loop.here()


def test_an_event_loop_has_one_value_and_the_next_loop_another(numbered):
    assert asyncio.run(here(numbered)) == (1, 1)
    assert asyncio.run(here(numbered)) == (2, 2)


def test_outside_of_an_event_loop_there_is_no_value(numbered):
    with pytest.raises(RuntimeError, match="no running event loop"):
        numbered.here()


def test_two_event_loops_that_take_turns_keep_their_values(numbered):
    one, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        turns = [loop.run_until_complete(here(numbered)) for loop in (one, other, one, other)]
    finally:
        one.close()
        other.close()

    assert turns == [(1, 1), (2, 2), (1, 1), (2, 2)]


def test_the_value_of_a_closed_event_loop_goes_when_a_new_one_comes_and_that_of_an_open_one_stays():
    kept = OfLoop(object)
    still_open = asyncio.new_event_loop()
    try:
        first = still_open.run_until_complete(here(kept))[0]
        asyncio.run(here(kept))
        asyncio.run(here(kept))

        assert len(kept._values) == 2
        assert still_open.run_until_complete(here(kept))[0] is first
    finally:
        still_open.close()


def test_what_was_taken_is_made_anew(numbered):
    async def turns():
        return numbered.take(), numbered.here(), numbered.take(), numbered.take(), numbered.here()

    assert asyncio.run(turns()) == (None, 1, 1, None, 2)


def test_what_one_event_loop_takes_is_its_own(numbered):
    async def take():
        return numbered.take()

    one, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        one.run_until_complete(here(numbered))
        other.run_until_complete(here(numbered))
        assert one.run_until_complete(take()) == 1
        assert other.run_until_complete(here(numbered)) == (2, 2)
    finally:
        one.close()
        other.close()


# --- processes ---


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


class Part(OfProcess):
    """Notes in which process it began."""

    def __init__(self):
        self.began = []
        self._begin_in_process()

    def _begin_in_child(self):
        self.began.append("child")


class HalfBuilt(Part):
    def _begin_in_child(self):
        return self.not_there_yet


@forks
def test_a_forked_child_begins_anew_and_its_parent_goes_on():
    part = Part()

    assert in_child(lambda: part.began) == ["child"]
    assert part.began == []


@forks
def test_a_part_that_another_thread_was_just_building_does_not_keep_the_others_from_beginning():
    parts = [HalfBuilt(), Part(), HalfBuilt(), Part()]

    assert in_child(lambda: [part.began for part in parts]) == [[], ["child"], [], ["child"]]


def test_what_begins_in_a_child_is_all_that_there_is_and_can(monkeypatch):
    parts = [HalfBuilt(), Part(), HalfBuilt(), Part()]
    monkeypatch.setattr(belonging, "_ours", weakref.WeakSet(parts))

    belonging._begin_all_in_child()

    assert [part.began for part in parts] == [[], ["child"], [], ["child"]]


@forks
def test_a_lock_that_was_held_in_the_parent_holds_nobody_up_in_the_child_and_the_parents_value_is_kept():
    values = OfLoop(object)
    asyncio.run(here(values))
    held = values._values

    def child():
        fresh = asyncio.run(here(values))
        return fresh[0] is fresh[1], len(values._values), any(one is held for one in belonging._parents)

    with values._lock:
        assert in_child(child) == [True, 1, True]


def test_a_part_that_does_not_say_how_it_begins_in_a_child_is_a_mistake():
    with pytest.raises(NotImplementedError):
        OfProcess()._begin_in_child()


def test_what_is_left_to_a_parent_is_never_let_go(monkeypatch):
    monkeypatch.setattr(belonging, "_parents", [])
    one, other = object(), object()

    leave_to_parent(one, None, other)

    assert belonging._parents == [one, other]


@pytest.mark.parametrize("to_another", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_part_of_one_process_says_what_to_hand_over_instead(to_another):
    with pytest.raises(TypeError) as refused:
        to_another(Part())

    assert str(refused.value) == (
        "Part cannot be copied or handed to another process, as it holds connections or threads:"
        " hand over what it is built from, such as the URL, and build another one there"
    )


# --- errors of another event loop ---


def error_of_another_loop():
    """What asyncio says of a lock that one loop waits for and another one uses."""
    lock = asyncio.Lock()

    async def hold():
        await lock.acquire()

    async def wait():
        await asyncio.wait_for(lock.acquire(), 0.01)

    asyncio.run(hold())
    with pytest.raises(TimeoutError):
        asyncio.run(wait())
    with pytest.raises(RuntimeError) as refused:
        asyncio.run(wait())
    return refused.value


def error_of_a_closed_loop():
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError) as refused:
        loop.call_soon(print)
    return refused.value


def error_of_a_future_of_another_loop():
    loop = asyncio.new_event_loop()
    future = loop.create_future()

    async def wait():
        await future

    with pytest.raises(RuntimeError) as refused:
        asyncio.run(wait())
    loop.close()
    return refused.value


@pytest.mark.parametrize("made", [error_of_another_loop, error_of_a_closed_loop, error_of_a_future_of_another_loop])
def test_asyncios_errors_of_another_event_loop_are_known(made):
    assert is_of_other_loop(made())


@pytest.mark.parametrize("error", [RuntimeError("no loop"), ValueError("Event loop is closed"), KeyError()])
def test_other_errors_are_taken_for_what_they_are(error):
    assert not is_of_other_loop(error)


def test_event_loops_of_many_threads_at_once_have_a_value_each(numbered):
    together = threading.Barrier(8, timeout=10)
    seen = []

    async def ask():
        together.wait()
        seen.append(numbered.here())

    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert sorted(seen) == [1, 2, 3, 4, 5, 6, 7, 8]
