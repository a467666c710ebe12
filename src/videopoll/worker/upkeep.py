"""What a worker does with its queue again and again: claim, renew leases, listen for new ids, look for lost jobs.

Each is written once, as a flow; `Runner` drives them in its threads, `AsyncRunner` in its tasks.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from videopoll import events
from videopoll._reasons import told_of
from videopoll.core.flow import do
from videopoll.core.loops import RENEWER, check_renewed
from videopoll.errors import QueueError, QueueRefusedError
from videopoll.policies import FOREIGN_IDLE_S
from videopoll.worker import state as constants

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from videopoll.core.flow import Flow
    from videopoll.core.step import JobStep
    from videopoll.protocols import AsyncVideoJobQueue, VideoJobQueue
    from videopoll.worker.state import Room, WorkerState

__all__ = ["Upkeep"]

log: logging.Logger = logging.getLogger(__name__)

SWEEP_EVERY_S = 30.0
"""How often lost jobs are looked for beside workers of another kind."""

SWEEP_SLOWLY_EVERY_S = 120.0
"""How often otherwise: a producer of another kind may end between its record and its push."""

WAKE_JITTER_S = 0.02
"""Workers that wake for the same id spread their claims over this long, so that the first one takes it."""

WAKE_RECHECK_S = 0.001
"""How long a worker that heard the bell looks whether somebody else has taken the id meanwhile."""

RECOVER_AGAIN_S = 1.0
"""How soon to look for lost jobs again, in seconds, when Redis was away."""


class Upkeep:
    """The rounds of the loops of one run.

    Args:
        state: What the worker holds.
        queue: Where jobs are kept, sync or asyncio.
        pause: Waits for so many seconds, or until the runner stops.
    """

    def __init__(
        self,
        state: WorkerState,
        queue: VideoJobQueue | AsyncVideoJobQueue,
        pause: Callable[[float], object | Awaitable[object]],
    ) -> None:
        self._state = state
        self._queue = queue
        self._pause = pause
        self._recovered, self._refused = not state.recover, False
        self._untold = False

    def claim(
        self, room: Room, unwritten: Callable[[], Iterable[str]], begin: Callable[[JobStep], object]
    ) -> Flow[int]:
        """Claim, begin to work on what was found, and plan the next claim.

        Args:
            room: How much to claim.
            unwritten: Returns the ids of jobs of which something is yet to be written.
            begin: Begins to work on a job.

        Returns:
            How many jobs were claimed.

        Raises:
            QueueError: Redis is away or says no.
        """
        state = self._state
        asked = state.ask()
        in_hand = state.in_hand(asked, unwritten)
        batch = yield from do(
            lambda: self._queue.claim(
                polls=room.polls,
                sends=room.sends,
                worker_id=state.worker_id,
                strategy=state.strategy,
                lease=state.lease,
                foreign_workers=state.foreign_workers,
                endings=room.endings,
                look_from=room.look_from,
                take_new=state.take_new,
                take_over=asked.take_over,
                in_hand=in_hand,
                asked_ms=asked.clock_ms,
            )
        )
        for step in state.take(batch, asked):
            begin(step)
        state.plan_after(batch)
        return len(batch.claims)

    def tell(self) -> Flow[None]:
        """Tell the other workers which accounts of video APIs have asked for a pause here, if there are any."""
        brakes, brake = self._state.places.brakes, getattr(self._queue, "brake", None)
        self._state.held_back(brakes.news(), learnt=False)
        pauses_s = brakes.untold()
        if not pauses_s or brake is None:
            return
        try:
            yield from do(lambda: brake(pauses_s))
        except QueueRefusedError as error:
            if not self._untold:
                log.warning("Other workers are not told of pauses that a video API asks for: %s", told_of(error))
            self._untold = True
        except QueueError:
            # Again with the next claim, which has to wait for Redis as well.
            brakes.tell_again(pauses_s)

    def renew(self) -> Flow[list[JobStep] | None]:
        """Renew the leases of what is in hand, in one round trip for many.

        Returns:
            The steps that have lost theirs; None if Redis did not say.
        """
        state = self._state
        asked_s, steps = state.clock.monotonic_s(), state.to_renew()
        try:
            with state.loops.busy(RENEWER):
                held = yield from do(lambda: self._queue.renew([step.held for step in steps], state.lease))
                held = check_renewed(steps, held)
        except QueueError as error:
            state.renewal_failed(error)
            return None
        state.round_succeeded(RENEWER)
        return state.renewed(steps, held, asked_s)

    def listen(self, heard: Callable[[], object]) -> Flow[None]:
        """Wake the loop when an id stands in the list; `heard` has it quiet until the loop has claimed again."""
        state = self._state
        try:
            rang = yield from do(lambda: self._queue.wait_for_work(constants.LONGEST_IDLE_S))
        except QueueError:
            yield from do(lambda: self._pause(state.rng.uniform(0.5, 1.0)))
            return
        if not rang:
            # Another runner's stop may have woken everybody who blocks on this queue.
            yield from do(lambda: self._pause(WAKE_JITTER_S))
            return
        yield from do(lambda: self._pause(state.rng.uniform(0, WAKE_JITTER_S)))
        if state.stopping:
            return
        with contextlib.suppress(QueueError):
            if (yield from do(lambda: self._queue.wait_for_work(WAKE_RECHECK_S))):
                heard()
                state.wake_at(state.clock.monotonic_s())

    def recover(self) -> Flow[bool]:
        """Look for jobs that nobody has: at the start, and then now and again; return whether to go on with that."""
        state = self._state
        if state.stopping or not state.sweeps:
            return False
        wait_s = every_s = SWEEP_EVERY_S if state.foreign_workers else SWEEP_SLOWLY_EVERY_S
        # At the start nobody else is there, as far as we know; later one of another kind may have come.
        idle_s = FOREIGN_IDLE_S if state.foreign_workers or self._recovered else 0.0
        try:
            count = yield from do(
                lambda: self._queue.recover(
                    idle_s=idle_s,
                    initial_delay_s=state.strategy.initial_delay_s,
                    exclusive=self._recovered,
                    every_s=every_s,
                )
            )
        except QueueRefusedError as error:
            if not self._refused:
                log.warning("Lost jobs are not looked for: %s", told_of(error))
            self._refused = True
        except QueueError:
            wait_s = RECOVER_AGAIN_S
        else:
            self._recovered, self._refused = True, False
            if count:
                state.emit(events.JobsRecovered(worker_id=state.worker_id, count=count))
                state.wake_at(state.clock.monotonic_s())
        yield from do(lambda: self._pause(wait_s))
        return True
