"""Work that is described once and carried out by both worlds: a flow, and its two drivers.

A flow is a generator. It yields what is to be done and gets back what came of it;
what goes wrong is raised where it yielded, for the flow to judge. `drive` carries
a flow out in a thread, `adrive` under asyncio; neither knows what the flow does::

    def enqueue_all(jobs: Sequence[NewJob]) -> Flow[int]:
        for job in jobs:
            yield from do(queue.enqueue, job)
        return len(jobs)

    drive(enqueue_all(jobs), call)
    await adrive(enqueue_all(jobs), acall)

What a flow yields is up to it and to who carries it out: a function to call (with
`do`), an HTTP request, a Redis script.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Awaitable, Callable, Generator
from typing import ParamSpec, TypeAlias, TypeVar, cast

__all__ = ["Call", "Flow", "acall", "acall_unchecked", "adrive", "call", "call_unchecked", "do", "drive"]

P = ParamSpec("P")
T = TypeVar("T")
EffectT = TypeVar("EffectT")
AnswerT = TypeVar("AnswerT")

Call: TypeAlias = Callable[[], object]
"""Something to call, whose value, or whose awaited value, the flow gets back."""

Flow: TypeAlias = Generator[Call, object, T]
"""A flow of calls that comes to a value."""


def do(function: Callable[P, T | Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> Flow[T]:
    """Call a function, sync or async, through the driver and return its value: ``yield from`` this."""
    return cast("T", (yield functools.partial(function, *args, **kwargs)))


def call(effect: Call) -> object:
    """Carry out one call of a flow in this thread.

    Raises:
        TypeError: It is asynchronous.
    """
    value = effect()
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        msg = "the flow called something asynchronous: drive it with adrive"
        raise TypeError(msg)
    return value


async def acall(effect: Call) -> object:
    """Carry out one call of a flow under asyncio, in the event loop's own thread."""
    value = effect()
    return await value if inspect.isawaitable(value) else value


call_unchecked: Callable[[Call], object] = cast("Callable[[Call], object]", operator.call)
"""`call` where every call is known to be a sync one: nothing is looked at."""

acall_unchecked: Callable[[Call], Awaitable[object]] = cast("Callable[[Call], Awaitable[object]]", operator.call)
"""`acall` where every call is known to be an async one: what it returns is awaited at once."""


def drive(flow: Generator[EffectT, AnswerT, T], carry_out: Callable[[EffectT], AnswerT]) -> T:
    """Carry a flow out in this thread, and return what it came to.

    Args:
        flow: The flow, not begun.
        carry_out: Does what the flow yields; what it returns, or raises, goes back into
            the flow. An interruption (Ctrl-C, ``sys.exit``) ends the flow instead.
    """
    try:
        effect = next(flow)
        while True:
            try:
                answer = carry_out(effect)
            except Exception as error:  # noqa: BLE001 - the flow judges it
                effect = flow.throw(error)
            else:
                effect = flow.send(answer)
    except StopIteration as end:
        return cast("T", end.value)
    finally:
        flow.close()


async def adrive(flow: Generator[EffectT, AnswerT, T], carry_out: Callable[[EffectT], Awaitable[AnswerT]]) -> T:
    """Carry a flow out under asyncio; the async side of `drive`. A cancellation ends the flow."""
    try:
        effect = next(flow)
        while True:
            try:
                answer = await carry_out(effect)
            except Exception as error:  # noqa: BLE001 - the flow judges it
                effect = flow.throw(error)
            else:
                effect = flow.send(answer)
    except StopIteration as end:
        return cast("T", end.value)
    finally:
        flow.close()
