"""Waiting for a condition, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

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
    """
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while not (value := predicate()):
        if time.monotonic() >= deadline:
            _give_up(predicate, value, timeout_s, describe)
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    return value


async def async_wait_until(predicate: Callable[[], T], *, timeout_s: float = 10.0, describe: str = "") -> T:
    """Wait like `wait_until`, and let the event loop run meanwhile.

    Raises:
        AssertionError: It did not become true in time; the text has the description.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while not (value := predicate()):
        if time.monotonic() >= deadline:
            _give_up(predicate, value, timeout_s, describe)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    return value


def _give_up(predicate: object, value: object, timeout_s: float, describe: str) -> NoReturn:
    what = describe or getattr(predicate, "__qualname__", "the condition")
    msg = f"timed out after {timeout_s:g} s waiting for: {what} (last: {value!r})"
    raise AssertionError(msg)
