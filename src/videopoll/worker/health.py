"""Whether a worker is fit: what it has seen that tells, and the judgement. Both runners share it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from videopoll.jobs.views import Health
from videopoll.observations import FaultKind
from videopoll.observe.log import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from videopoll.clock import Clock
    from videopoll.core.accounts import Accounts
    from videopoll.core.loops import Loops
    from videopoll.core.step import JobStep
    from videopoll.events import JobPolled

__all__ = ["Vitals"]

log: logging.Logger = logging.getLogger(__name__)

API_KEY_PROBLEM = "the video API refuses our key (401 or 403): check the API key"

BLOCKED_PROBLEM = (
    "something in front of the video API refuses us (401 or 403, not in the API's words): have its firewall or proxy"
    " let this machine through; the API key may be right"
)

LEFT_BEHIND_PROBLEM = (
    "the worker runs in the process that this one was forked from, and not here: call start() after the fork"
)

_REFUSALS = {
    FaultKind.CREDENTIALS: (API_KEY_PROBLEM, "The video API refuses our key (%s). No job can go on until it is right."),
    FaultKind.BLOCKED: (
        BLOCKED_PROBLEM,
        "Something in front of the video API refuses us (%s). No job can go on until it lets us through.",
    ),
}

MOST_APIS = 100
"""Video APIs that are remembered because they refuse us."""


def _named(text: str, api: str | None) -> str:
    return text if api is None else text.replace(" video API ", f" video API {api} ", 1)


_HELD_BACK = {
    True: "as the channel refuses the credentials or the instance: check them",
    False: "as nobody knows what became of the last messages: look at what the channel answers",
}


class Vitals:
    """What a worker has seen of its loop, of Redis and of the video API.

    Args:
        clock: What time it is.
        longest_silence_s: How long the loop may stand still, in seconds.
    """

    def __init__(self, clock: Clock, longest_silence_s: float) -> None:
        self._clock = clock
        self._longest_silence_s = longest_silence_s
        self._ticked_s = clock.monotonic_s()
        # By the names of the video APIs, where jobs name them.
        self._refused: dict[str | None, FaultKind] = {}
        self.lost_since_s: float | None = None
        self.lost_reason = ""
        self.left_behind = False
        """Whether it ran in the process that this one was forked from, and has not begun to run here."""

    def tick(self) -> None:
        """Note that the loop moves."""
        self._ticked_s = self._clock.monotonic_s()

    def polled(self, event: JobPolled) -> None:
        """Note whether the video API lets us in; a refusal is logged once, until a poll succeeds."""
        fault = event.fault
        if fault is None:
            self._refused.pop(event.provider, None)
        elif fault in _REFUSALS and self._refused.get(event.provider) is not fault and len(self._refused) < MOST_APIS:
            self._refused[event.provider] = fault
            log.error(_named(_REFUSALS[fault][1], event.provider), event.detail)

    def judge(self, *, loops: Loops, steps: Iterable[JobStep], hung: int, accounts: Accounts) -> Health:
        """Return whether the worker is fit; asked in other threads.

        Args:
            loops: How its loops do.
            steps: The jobs in hand.
            hung: Calls of a host's parts that were left to themselves.
            accounts: The accounts that are held back.
        """
        problems = []
        # Each is read once: other threads write them.
        now_s, lost_since_s, refused = self._clock.monotonic_s(), self.lost_since_s, list(self._refused.items())
        if lost_since_s is not None:
            problems.append(
                f"Redis cannot be used for {now_s - lost_since_s:.0f} s:"
                f" check that it runs and can be reached ({self.lost_reason})"
            )
        problems += [_named(_REFUSALS[fault][0], name) for name, fault in refused]
        silent_s = now_s - self._ticked_s
        alive = silent_s <= self._longest_silence_s or lost_since_s is not None
        if self.left_behind:
            alive = False
            problems.append(LEFT_BEHIND_PROBLEM)
        elif not alive:
            problems.append(f"the worker's loop has not moved for {silent_s:.0f} s: restart it")
        loops_problems, loops_alive = loops.judge(redis_away=lost_since_s is not None)
        problems += loops_problems
        stuck = hung + sum(now_s - step.started_s > step.limit_s for step in steps)
        if stuck:
            problems.append(f"{stuck} polls or sends do not come back: the poller or a notifier hangs")
        held = accounts.held()
        for of_account, why in _HELD_BACK.items():
            channels = [name for name, was_refused in held if was_refused is of_account]
            if channels:
                names = ", ".join(sorted({"the channel" if name is None else shown(name) for name in channels}))
                count = f"{len(channels)} account{'s' if len(channels) > 1 else ''}"
                problems.append(f"{names}: {count} held back, {why}")
        return Health(not problems, tuple(problems), alive and loops_alive)
