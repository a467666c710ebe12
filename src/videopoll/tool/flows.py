"""Two drivers for one description: a generator yields what to do, and gets back what came of it.

An exception of a step is thrown into the generator, which judges it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

from videopoll.notifiers.base import is_async

if TYPE_CHECKING:
    from videopoll.tool.answers import Answer

__all__ = ["Flow", "Step", "arun_flow", "do", "run_flow"]

T = TypeVar("T")

Step: TypeAlias = Callable[[], object]
"""Something to do, whose value, or whose awaited value, the flow gets back."""

Flow: TypeAlias = Generator[Step, object, T]


def do(function: Callable[..., T | Awaitable[T]], *args: object, **kwargs: object) -> Flow[T]:
    """Have one step carried out by the driver, and give its value: ``yield from`` this."""
    return cast("T", (yield functools.partial(function, *args, **kwargs)))


def run_flow(flow: Flow[Answer]) -> Answer:
    """Carry a flow out in this thread."""
    try:
        step = next(flow)
        while True:
            try:
                value = step()
                _refuse_awaitable(value)
            except Exception as error:  # noqa: BLE001 - the flow judges whatever a host's part raises
                step = flow.throw(error)
            else:
                step = flow.send(value)
    except StopIteration as end:
        return cast("Answer", end.value)


async def arun_flow(flow: Flow[Answer]) -> Answer:
    """Carry a flow out under asyncio, plain functions in threads, with the context copied."""
    try:
        step = next(flow)
        while True:
            try:
                value = step() if is_async(step) else await asyncio.to_thread(step)
                if inspect.isawaitable(value):
                    value = await value
            except Exception as error:  # noqa: BLE001 - the flow judges whatever a host's part raises
                step = flow.throw(error)
            else:
                step = flow.send(value)
    except StopIteration as end:
        return cast("Answer", end.value)


def _refuse_awaitable(value: object) -> None:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        msg = "a part of the tool is asynchronous: use acall"
        raise TypeError(msg)
