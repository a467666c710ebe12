"""The one mechanism for what both worlds do: a generator of calls, and its two drivers."""

from __future__ import annotations

import asyncio

import pytest

from videopoll.core.flow import acall, adrive, call, do, drive


def thrice(function):
    """A flow that calls a function until it has three values, and passes over a `ValueError`."""
    values = []
    while len(values) < 3:
        try:
            values.append((yield from do(function, len(values))))
        except ValueError as error:
            values.append(str(error))
    return values


def square(number):
    return number * number


async def asquare(number):
    await asyncio.sleep(0)
    return number * number


def test_a_flow_comes_to_the_same_in_both_worlds():
    assert drive(thrice(square), call) == [0, 1, 4]
    assert asyncio.run(adrive(thrice(asquare), acall)) == [0, 1, 4]


def test_asyncio_carries_out_plain_functions_as_well():
    assert asyncio.run(adrive(thrice(square), acall)) == [0, 1, 4]


def test_a_thread_refuses_what_is_asynchronous_and_names_the_driver_that_is_not():
    with pytest.raises(TypeError, match=r"^the flow called something asynchronous: drive it with adrive$"):
        drive(thrice(asquare), call)


def test_a_call_gets_its_arguments_by_position_and_by_name():
    def flow():
        return (yield from do(sorted, "bca", key=str.upper, reverse=True))

    assert drive(flow(), call) == ["c", "b", "a"]


def test_what_a_call_raises_is_raised_where_the_flow_asked_for_it():
    def fails_at_one(number):
        if number == 1:
            raise ValueError(number)
        return number

    assert drive(thrice(fails_at_one), call) == [0, "1", 2]
    assert asyncio.run(adrive(thrice(fails_at_one), acall)) == [0, "1", 2]


def test_what_a_flow_does_not_judge_ends_it():
    def fails(number):
        raise LookupError(number)

    with pytest.raises(LookupError):
        drive(thrice(fails), call)
    with pytest.raises(LookupError):
        asyncio.run(adrive(thrice(fails), acall))


def test_a_stop_iteration_of_a_call_is_no_end_of_the_flow():
    def stops(number):
        raise StopIteration(number)

    with pytest.raises(RuntimeError, match="StopIteration"):
        drive(thrice(stops), call)
    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(adrive(thrice(stops), acall))


@pytest.fixture
def ended():
    return []


@pytest.fixture
def noting(ended):
    def flow(function):
        try:
            yield from do(function)
        except Exception:  # noqa: BLE001 - it is what the flow would see
            ended.append("judged")
        finally:
            ended.append("ended")

    return flow


def test_an_interruption_ends_a_flow_at_once_and_is_not_judged_by_it(noting, ended):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(noting(interrupted), call)

    assert ended == ["ended"]


def test_a_cancellation_ends_a_flow_at_once_and_is_not_judged_by_it(noting, ended):
    async def cancelled():
        task = asyncio.current_task()
        task.cancel()
        await asyncio.sleep(0)

    async def driven():
        with pytest.raises(asyncio.CancelledError):
            await adrive(noting(cancelled), acall)
        assert ended == ["ended"]

    asyncio.run(driven())


def test_what_a_flow_yields_is_up_to_who_carries_it_out():
    def flow():
        return (yield 2) + (yield 3)

    assert drive(flow(), square) == 13
    assert asyncio.run(adrive(flow(), asquare)) == 13
