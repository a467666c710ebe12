"""What both runners are to their host: one that works or not, tells how it is, and can be asked to stop."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from typing_extensions import override

from videopoll._reasons import trace_of
from videopoll.core.belonging import OfProcess, leave_to_parent
from videopoll.jobs.views import Health

if TYPE_CHECKING:
    from collections.abc import Callable

    from videopoll.events import Hook
    from videopoll.protocols import RunnerHistory
    from videopoll.worker.state import WorkerState
    from videopoll.worker.stopping import Stopping

__all__ = ["HIDING_S", "RUNNING", "BaseRun", "BaseRunner"]

log: logging.Logger = logging.getLogger(__name__)

HIDING_S = 2.0
"""Seconds that the end of a run waits for the last of its history to be written."""

RUNNING = "this runner is running already: build another one to run beside it"


class BaseRun:
    """One run of a runner, from its start to its end.

    Args:
        stopping: Its way to the end.
        background: Whether nobody waits for it.
        asked: Called when somebody asks for its end; takes no lock, as this may be a signal handler.
    """

    def __init__(self, stopping: Stopping, *, background: bool, asked: Callable[[], object]) -> None:
        self.stopping = stopping
        self.background = background
        self._asked = asked

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        raise NotImplementedError

    def ask(self) -> None:
        """Ask for its end, without waiting."""
        self.stopping.ask()
        self._asked()


RunT = TypeVar("RunT", bound=BaseRun)


class BaseRunner(OfProcess, Generic[RunT]):
    """What a runner tells of itself, and how it is asked to stop."""

    _state: WorkerState
    _current: RunT | None
    _asked_before: bool
    _visible: bool
    _history: RunnerHistory | None = None

    def _open(self) -> None:
        """Make all that a run changes: once in each process."""
        raise NotImplementedError

    @override
    def _begin_in_child(self) -> None:
        # None goes on here: neither threads nor event loops come along. What they held may stay half done.
        current = self._current
        ran = current is not None and not current.over
        leave_to_parent(current)
        self._open()
        self._state.vitals.left_behind = ran

    def __repr__(self) -> str:
        current = self._current
        running = current is not None and not current.over
        how = "not running" if not running else "stopping" if self.stopping else "running"
        return f"<{type(self).__name__} {self.worker_id}: {how}, {len(self._state.steps)} jobs in hand>"

    @property
    def worker_id(self) -> str:
        """The name of this worker in Redis, in the log and in events."""
        return self._state.worker_id

    @property
    def concurrency(self) -> int:
        """Polls at a time, at most."""
        return self._state.concurrency

    @property
    def polls_in_hand(self) -> int:
        """Jobs that are being polled now."""
        return self._state.polls_in_hand

    @property
    def sends_in_hand(self) -> int:
        """Jobs whose outcome is being sent now."""
        return self._state.sends_in_hand

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to stop, and has not ended yet."""
        return self._state.stopping

    def add_hook(self, hook: Hook) -> None:
        """Call `hook` with every event from now on, like those that the runner was built with."""
        self._state.emitter.add(hook)

    def health(self) -> Health:
        """Return whether this worker is fit, from what it has seen so far."""
        return self._state.health()

    def request_stop(self) -> None:
        """Ask the runner to stop, without waiting; may be called in another thread, and in a signal handler.

        If nothing runs, it counts for a `run` that is about to begin.
        """
        current = self._current
        if current is None or current.over:
            self._asked_before = True
        else:
            current.ask()

    # --- for operators ---

    def _show(self, queue: object) -> None:
        """Begin to keep in the queue what happens in this run, and that this worker is alive."""
        before = self._hide()
        if before is not None:
            # Of a run whose event loop stands still, or of the parent of a fork.
            before.close(0)
        offered = getattr(queue, "open_history", None)
        if not (self._visible and callable(offered)) or self._state.emitter.keeps_history:
            return
        try:
            history = cast("RunnerHistory | None", offered())
            if history is None:
                return
            url = getattr(getattr(self, "_poller", None), "base_url", None)
            history.follow(self, video_api=url if isinstance(url, str) else None)
        except Exception as error:  # noqa: BLE001 - no job needs it
            log.warning("This worker cannot be seen by operators\n%s", trace_of(error))
            return
        self._history = history
        self._state.emitter.add(history)

    def _hide(self) -> RunnerHistory | None:
        """End that; return what is to be closed."""
        history, self._history = self._history, None
        if history is not None:
            self._state.emitter.remove(history)
        return history
