"""Waiting for a condition, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from videopoll._calling import is_async
from videopoll.core.flow import acall, adrive, call, do, drive
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_callable, check_seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videopoll.core.flow import Flow

__all__ = ["async_wait_until", "wait_until"]

T = TypeVar("T")

_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05


def wait_until(predicate: Callable[[], T], *, timeout_s: float = 10.0, describe: str = "") -> T:
    """Wait until `predicate` returns something true, and return that.

    Args:
        predicate: Called again and again until it returns something true.
        timeout_s: The longest wait, in seconds.
        describe: What is waited for, as the error says it.

    Raises:
        AssertionError: It did not become true in time; the text has the description.
        ConfigurationError: `predicate` is no plain function.
    """
    return drive(_until(time.sleep, predicate, timeout_s, describe), call)


async def async_wait_until(predicate: Callable[[], T], *, timeout_s: float = 10.0, describe: str = "") -> T:
    """Wait like `wait_until`, and let the event loop run meanwhile.

    Raises:
        AssertionError: It did not become true in time; the text has the description.
    """
    return await adrive(_until(asyncio.sleep, predicate, timeout_s, describe), acall)


def _until(
    sleep: Callable[[float], Awaitable[None] | None], predicate: Callable[[], T], timeout_s: float, describe: str
) -> Flow[T]:
    check_callable(predicate, "what is waited for", "no arguments")
    check_seconds("timeout_s", timeout_s, low=0)
    if is_async(predicate):
        # A coroutine is true: the wait would be over at once, and prove nothing.
        msg = "what is waited for must be a plain function, got an async one: look at what it leaves behind"
        raise ConfigurationError(msg)
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while not (value := predicate()):
        if time.monotonic() >= deadline:
            what = describe or getattr(predicate, "__qualname__", "the condition")
            msg = f"timed out after {timeout_s:g} s waiting for: {what} (last: {value!r})"
            raise AssertionError(msg)
        yield from do(sleep, pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    return value
