"""A worker that dies in the middle of a job, for tests of what becomes of its users."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from videopoll.core.step import CRASH_POINTS
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_choice, check_texts, kind_name
from videopoll.worker.base import BaseRunner

if TYPE_CHECKING:
    from videopoll.worker.async_runner import AsyncRunner
    from videopoll.worker.runner import Runner

__all__ = ["CRASH_POINTS", "die_at"]


def die_at(runner: Runner | AsyncRunner, point: str, *, job_id: str | None = None) -> None:
    """Kill this process, as ``kill -9`` does, when a job of the runner comes to a point between two effects.

    Call it in a process of its own, before the runner begins. What the process leaves behind is
    what a crash leaves behind: another worker takes the job up when its lease ends.

    Args:
        runner: Either runner.
        point: One of `CRASH_POINTS`, e.g. ``"after_send"``: the message is out, and nobody knows of it. If no job
            comes there, the process goes on.
        job_id: The job whose worker dies; any by default.

    Raises:
        ConfigurationError: There is no such point, or an argument is of the wrong kind.
    """
    if not isinstance(runner, BaseRunner):
        msg = f"the runner must be a Runner or an AsyncRunner, got {kind_name(runner)}"
        raise ConfigurationError(msg)
    check_texts("die_at", job_id=job_id)
    check_choice("the crash point", point, *CRASH_POINTS)

    def crash(here: str, job: str) -> None:
        if here == point and job_id in {None, job}:
            os.kill(os.getpid(), signal.SIGKILL)

    runner._state.context.crash_point = crash  # noqa: SLF001 - nobody but a test sets it
