"""Fixtures for the tests of an app, with threads and with asyncio.

Name the module in your ``conftest.py``; it is not loaded by itself, as it would cost every pytest
run of a project that has videopoll installed half a second::

    pytest_plugins = ["videopoll.testing.pytest_plugin"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from videopoll.testing.sandbox import AsyncSandbox, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["async_video_sandbox", "video_sandbox"]


@pytest.fixture
def video_sandbox() -> Iterator[Sandbox]:
    """A `Sandbox`: a queue in memory with a worker over it."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def async_video_sandbox() -> AsyncSandbox:
    """An `AsyncSandbox`; begin the test with ``async with async_video_sandbox as sandbox:``.

    So it lives in the event loop of the test, whichever plugin runs that.
    """
    return AsyncSandbox()
