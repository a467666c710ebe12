"""What every job step of a worker shares."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Protocol

import attrs

from videopoll._reasons import trace_of
from videopoll.clock import RedisClock
from videopoll.core.accounts import Accounts
from videopoll.policies import PollingStrategy

if TYPE_CHECKING:
    from collections.abc import Callable

    from videopoll.events import Event
    from videopoll.jobs.job import VideoJob
    from videopoll.jobs.outcome import Outcome
    from videopoll.policies import DeliveryPolicy, LeasePolicy
    from videopoll.texts import Texts

__all__ = ["Emit", "StepContext"]

log: logging.Logger = logging.getLogger(__name__)


class Emit(Protocol):
    """Passes an event on, with the whole text of its reason and the outcome, for those who ask for them."""

    def __call__(self, event: Event, text: str | None = None, outcome: Outcome | None = None, /) -> None:
        """Pass an event on."""
        ...


def _no_crash(_point: str, _job_id: str) -> None:
    """Do nothing; tests put a crash in its place."""


@attrs.define(kw_only=True, eq=False)
class StepContext:
    """What every job step needs: policies, the clock, and the event sink.

    Args:
        worker_id: The name of the worker.
        strategy: When to poll.
        strategy_of: Gives the strategy of a job that has one of its own, else None.
        lease: How long a lease lasts.
        delivery: How hard to try to deliver.
        texts: The texts of messages.
        emit: The event sink.
        pause_polling: Called with the seconds that the video API asked this worker to wait (429).
        holds_back: Whether the poller keeps pauses of its own: a job that is claimed may not be asked about.
        start_sending: Called with a step: moves it to a slot for sends. Returns False if all are taken.
        foreign_workers: Whether workers of another kind share the queue.
        clock: Redis's clock.
        rng: The source of jitter.
        crash_point: Called between two effects with the name of the point and the job id.
        accounts: Which accounts of channels this worker holds back.
    """

    worker_id: str
    strategy: PollingStrategy
    lease: LeasePolicy
    delivery: DeliveryPolicy
    texts: Texts
    emit: Emit
    pause_polling: Callable[[float], None]
    # Called with the step. Its type would have the step and its context import each other.
    start_sending: Callable[..., bool]
    strategy_of: Callable[[VideoJob], object] | None = None
    holds_back: bool = False
    foreign_workers: bool = False
    clock: RedisClock = attrs.field(factory=RedisClock)
    rng: random.Random = attrs.field(factory=random.Random)
    crash_point: Callable[[str, str], None] = _no_crash
    accounts: Accounts = attrs.field(
        default=attrs.Factory(
            lambda context: Accounts(context.clock.monotonic_s, context.delivery.backoff_base_s), takes_self=True
        )
    )

    def own_strategy(self, job: VideoJob) -> PollingStrategy | None:
        """Return the strategy of a job that has one of its own, else None. Never raises."""
        if self.strategy_of is None:
            return None
        try:
            own = self.strategy_of(job)
        except Exception as error:  # noqa: BLE001 - a host's function may raise anything, and the job has to go on
            log.error("The strategy of a job cannot be told; the worker's own is used\n%s", trace_of(error))  # noqa: TRY400 - redacted
            return None
        return own if isinstance(own, PollingStrategy) else None
