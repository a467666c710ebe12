"""Time limits that share a timer, in an event loop whose clock jumps to the next timer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from videopoll.core import deadlines
from videopoll.core.deadlines import Deadlines

START_S = 1000.0


class Loop(asyncio.SelectorEventLoop):
    """Waits for nobody: when all wait for a timer, it is that time."""

    def __init__(self) -> None:
        self.now_s = START_S
        super().__init__()
        self.timers = 0
        select = self._selector.select

        def jump(timeout):
            assert timeout is not None, "all wait, and for no timer"
            self.now_s += timeout
            return select(0)

        self._selector.select = jump

    def time(self):
        return self.now_s

    def call_at(self, when, callback, *args, context=None):
        self.timers += 1
        return super().call_at(when, callback, *args, context=context)


def run(main):
    """Run `main`, which is given the deadlines and the loop."""
    with asyncio.Runner(loop_factory=Loop) as runner, pytest.MonkeyPatch.context() as patch:
        loop = runner.get_loop()
        patch.setattr(deadlines, "time", SimpleNamespace(monotonic=loop.time))
        return runner.run(main(Deadlines(), loop))


async def for_ever():
    await asyncio.Event().wait()


@given(some.floats(0, 100_000))
def test_what_does_not_end_is_cut_off_at_its_deadline_or_a_fiftieth_of_a_second_later(after_s):
    async def main(deadlines, loop):
        deadline = deadlines.at(START_S + after_s)
        assert not deadline.expired
        with pytest.raises(TimeoutError) as caught, deadline:
            await for_ever()
        assert deadline.expired is True
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert after_s - 1e-6 <= loop.now_s - START_S <= after_s + 0.02 + 1e-6
        assert asyncio.current_task().cancelling() == 0

    run(main)


def test_what_ends_in_time_is_left_alone_then_and_afterwards():
    async def main(deadlines, loop):
        with deadlines.at(START_S + 1) as deadline:
            await asyncio.sleep(0.9)
        await asyncio.sleep(10)
        return deadline.expired, loop.now_s

    assert run(main) == (False, pytest.approx(START_S + 10.9))


@pytest.mark.parametrize("ago_s", [0.5, 5_000])
def test_what_begins_after_its_deadline_is_cut_off_when_it_first_waits(ago_s):
    """Each time anew, also if another has just been cut off at the same deadline."""

    async def main(deadlines, loop):
        for _ in range(2):
            with pytest.raises(TimeoutError), deadlines.at(START_S - ago_s):
                await for_ever()
        return loop.now_s

    assert run(main) == START_S


def test_requests_whose_deadlines_fall_together_share_a_timer():
    """And each is cut off, but for those that have ended."""

    async def request(deadlines, after_s, over=for_ever):
        with deadlines.at(START_S + after_s) as deadline:
            await over()
        return deadline.expired

    async def at_once():
        await asyncio.sleep(0)

    async def main(deadlines, loop):
        tasks = [asyncio.create_task(request(deadlines, 1.001 + number / 10_000)) for number in range(100)]
        tasks.append(asyncio.create_task(request(deadlines, 1.0015, at_once)))
        await asyncio.sleep(0)
        assert loop.timers == 1
        late = asyncio.create_task(request(deadlines, 1.025))
        await asyncio.sleep(0)
        assert loop.timers == 2
        *cut, ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert ended is False
        assert [type(error) for error in cut] == [TimeoutError] * 100
        assert not late.done()
        with pytest.raises(TimeoutError):
            await late

    run(main)


def test_a_cancellation_from_outside_is_let_through():
    async def main(deadlines, loop):
        deadline = deadlines.at(START_S + 5)

        async def request():
            with deadline:
                await for_ever()

        task = asyncio.create_task(request())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(10)
        return deadline.expired

    assert run(main) is False


@pytest.mark.parametrize("first", ["deadline", "outside"])
def test_a_cancellation_from_outside_at_the_very_deadline_is_let_through(first):
    """A worker that is stopped must not take it for a slow answer, and go on."""

    async def main(deadlines, loop):
        async def request():
            with deadlines.at(START_S + 5):
                await for_ever()

        task = asyncio.create_task(request())
        if first == "outside":
            loop.call_at(START_S + 5, task.cancel)
        await asyncio.sleep(0)
        if first == "deadline":
            loop.call_at(START_S + 5, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        return loop.now_s, task.cancelling()

    assert run(main) == (START_S + 5, 1)


def test_a_task_that_was_cancelled_before_may_still_have_a_deadline():
    """As when a worker that is stopped gives a job back within a time limit."""

    async def main(deadlines, loop):
        async def request():
            try:
                await for_ever()
            finally:
                with pytest.raises(TimeoutError), deadlines.at(loop.now_s + 5):
                    await for_ever()

        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return loop.now_s, task.cancelling()

    assert run(main) == (START_S + 5, 1)


def test_an_error_of_what_was_cut_off_comes_out_as_it_is():
    """A client may make one of a cancellation; whoever asks learns by `expired` that the time was over."""

    async def fail_if_cancelled():
        try:
            await for_ever()
        except asyncio.CancelledError:
            raise ConnectionError from None

    async def main(deadlines, loop):
        with pytest.raises(ConnectionError), deadlines.at(START_S + 5) as deadline:
            await fail_if_cancelled()
        return deadline.expired, asyncio.current_task().cancelling()

    assert run(main) == (True, 0)


def test_what_ends_well_though_it_was_cut_off_has_ended_well():
    async def main(deadlines, loop):
        with deadlines.at(START_S + 5) as deadline:
            try:
                await for_ever()
            except asyncio.CancelledError:
                answer = "in time"
        return answer, deadline.expired, asyncio.current_task().cancelling()

    assert run(main) == ("in time", True, 0)


def test_the_outer_of_two_deadlines_ends_what_the_inner_one_allows():
    async def main(deadlines, loop):
        with pytest.raises(TimeoutError), deadlines.at(START_S + 5) as outer, deadlines.at(START_S + 50) as inner:
            await for_ever()
        assert (outer.expired, inner.expired, loop.now_s) == (True, False, START_S + 5)

        with deadlines.at(loop.now_s + 50) as outer:
            with pytest.raises(TimeoutError), deadlines.at(loop.now_s + 5) as inner:
                await for_ever()
            await asyncio.sleep(10)
        assert (outer.expired, inner.expired, loop.now_s) == (False, True, START_S + 20)

    run(main)


def test_what_is_no_task_has_no_deadline():
    async def main(deadlines, loop):
        told = loop.create_future()

        def enter():
            with pytest.raises(RuntimeError) as caught, deadlines.at(START_S + 5):
                pass
            told.set_result(str(caught.value))

        loop.call_soon(enter)
        return await told

    assert run(main) == "a deadline needs a task"
