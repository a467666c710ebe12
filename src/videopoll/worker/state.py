"""What both runners share: configuration, the jobs in hand, when to wake up, and health.

Nothing here blocks. The runners (`videopoll.worker.runner`) add threads or tasks.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import threading
from typing import TYPE_CHECKING, NamedTuple

from videopoll import events
from videopoll._reasons import told_of
from videopoll.clock import FOREVER_S, Clock, RedisClock
from videopoll.core.accounts import Accounts
from videopoll.core.context import StepContext
from videopoll.core.loops import RENEWER, Loops
from videopoll.core.polling import widest
from videopoll.core.step import JobStep
from videopoll.core.takeovers import Asked, Takeovers
from videopoll.errors import ConfigurationError, QueueError, QueueUnavailableError
from videopoll.jobs.checks import check_count, check_kinds, check_seconds, given
from videopoll.jobs.transition import PollWork
from videopoll.jobs.views import RunSummary
from videopoll.observe.log import LogHook, shown, shown_ids
from videopoll.policies import DeliveryPolicy, KeyTtls, LeasePolicy, PollingStrategy
from videopoll.texts import SPANISH_AND_ENGLISH, Texts
from videopoll.worker.endings import Endings
from videopoll.worker.health import Vitals
from videopoll.worker.line import Line
from videopoll.worker.places import Places
from videopoll.worker.timing import Coalescer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from videopoll.events import Hook
    from videopoll.jobs.outcome import Outcome
    from videopoll.jobs.transition import ClaimBatch
    from videopoll.jobs.views import Health

log: logging.Logger = logging.getLogger(__name__)

LONGEST_IDLE_S = 4.0
"""The longest that an idle worker sleeps: other workers' schedules and leases may have changed."""

MIN_CLAIM_GAP_S = 0.02
"""How far apart two claims are at least: what falls due meanwhile shares the second one's round trip."""

MIN_LISTEN_S = 0.1
"""A worker that claims again within this time need not listen for new ids: the claim looks for them, too."""

MIN_CLAIM_GAP_BUSY_S = 0.01
"""How far apart they are while slots wait for one: nobody stands in line (`videopoll.worker.line`)."""

RETRY_CLAIM_S = 0.25
"""How soon to look again for what is due and could not be taken, though there was a slot for it."""

OPEN_ON_S = 0.1
"""How soon a worker claims again while its places open, if they are all taken."""

AWAY_S = 1.0
"""After an outage of Redis of so many seconds a worker opens its places anew: much is due by then, for everybody."""

RENEW_EARLIER = 0.8
"""Leases are renewed a little sooner than others wait for it (`videopoll.core.takeovers`)."""

RETRIES_A_PERIOD = 4
"""How often a renewal that fails is tried at least in the time that others wait for it."""

WRITES = frozenset({"apply", "renew"})
"""What a worker writes about jobs in its hands. While it cannot, it takes no more into them."""

TROUBLE_BASE_S = 0.1
TROUBLE_CAP_S = 5.0

_RNG = random.Random()  # noqa: S311 - spreads workers, hides nothing
"""Chance for all runners of a process, a hundred times as quick as the system's; a forked child draws its own."""

if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_RNG.seed)


def strategies_of(given_one: PollingStrategy | None, poller: object) -> tuple[PollingStrategy, ...]:
    """Return the strategy of jobs that have none of their own, and then those that a poller has for its jobs."""
    advised, own = getattr(poller, "strategy", None), getattr(poller, "strategies", None)
    if given_one is None and isinstance(advised, PollingStrategy):
        given_one = advised
    usual = given(given_one, PollingStrategy, "strategy")
    return (usual, *own) if isinstance(own, tuple) else (usual,)


def _clock_of(clock: Clock | None, poller: object) -> Clock:
    """Return what time it is, and tell a poller that counts its pauses, if it is not the usual."""
    use_clock = getattr(poller, "use_clock", None)
    if clock is not None and callable(use_clock):
        use_clock(clock)
    return given(clock, Clock, "clock")


class Room(NamedTuple):
    """What a worker can take in one claim."""

    polls: int
    sends: int
    endings: int = 0
    look_from: int = 0

    @property
    def any(self) -> bool:
        """Whether a claim is worth its round trip."""
        return bool(self.polls or self.sends or self.endings)


class WorkerState:
    """What a runner holds and judges without any I/O: the jobs in hand, what is counted, and when to do what.

    Args:
        poller: Asks the video API; it may have strategies of its own (`videopoll.protocols.OwnStrategies`).
        wake: Wakes the runner's loop, in whatever thread it is called.
        begin: Begins to work on a job, in whatever thread it is called.
        give_back: Gives a job back that was not begun.
        hurry_renewal: Wakes what renews leases.
        hung: Returns how many calls of a host's parts were left to themselves.
    """

    def __init__(
        self,
        *,
        ttls: KeyTtls,
        poller: object,
        strategy: PollingStrategy | None,
        lease: LeasePolicy | None,
        delivery: DeliveryPolicy | None,
        texts: Texts | None,
        hooks: Iterable[Hook],
        concurrency: int,
        delivery_concurrency: int,
        account_concurrency: int | None,
        grace_s: float,
        foreign_workers: bool,
        recover: bool,
        take_new: bool,
        clock: Clock | None,
        rng: random.Random | None,
        wake: Callable[[], object],
        begin: Callable[[JobStep], object],
        give_back: Callable[[JobStep], object],
        hurry_renewal: Callable[[], object],
        hung: Callable[[], int],
    ) -> None:
        usual, *own = strategies_of(strategy, poller)
        for one in (usual, *own):
            ttls.check_outlive(one)
        self.strategy: PollingStrategy = widest([usual, *own])
        """What a claim goes by; a job's own strategy is its step's to know."""
        self.lease: LeasePolicy = given(lease, LeasePolicy, "lease")
        self.delivery: DeliveryPolicy = given(delivery, DeliveryPolicy, "delivery")
        for name, count in (("concurrency", concurrency), ("delivery_concurrency", delivery_concurrency)):
            check_count(name, count)
        check_seconds("grace_s", grace_s, low=0)
        if foreign_workers and (ttls.job_s, ttls.attempts_s) != (KeyTtls().job_s, KeyTtls().attempts_s):
            msg = (
                f"beside workers of another kind KeyTtls.job_s and attempts_s must stay {KeyTtls().job_s}: the age"
                " of their counters tells which of their jobs are lost"
            )
            raise ConfigurationError(msg)
        self.concurrency = concurrency
        self.delivery_concurrency = delivery_concurrency
        self.grace_s = grace_s
        self.foreign_workers = foreign_workers
        self.recover = recover
        self.take_new = take_new
        self.worker_id: str = f"video_worker_{os.getpid()}_{secrets.token_hex(3)}"
        self.clock: Clock = _clock_of(clock, poller)
        self.rng: random.Random = _RNG if rng is None else rng
        self.places: Places = Places(
            poller,
            concurrency,
            account_concurrency,
            longest_pause_s=max(one.max_retry_after_s for one in (usual, *own)),
            clock=self.clock,
            rng=self.rng,
        )
        check_kinds("", Texts, texts=texts)
        self.emitter: events.Emitter = events.Emitter(LogHook(), hooks)
        self.context: StepContext = StepContext(
            worker_id=self.worker_id,
            strategy=usual,
            strategy_of=getattr(poller, "strategy_of", None) if own else None,
            lease=self.lease,
            delivery=self.delivery,
            texts=texts or SPANISH_AND_ENGLISH,
            emit=self.emit,
            pause_polling=self._throttled,
            holds_back=getattr(poller, "holds_back", False) is True,
            start_sending=self._start_sending,
            clock=RedisClock(self.clock),
            accounts=Accounts(self.clock.monotonic_s, self.delivery.backoff_base_s, delivery_concurrency),
            rng=self.rng,
            foreign_workers=foreign_workers,
        )
        self._wake, self._hurry_renewal, self._hung = wake, hurry_renewal, hung
        self._begin, self._give_back = begin, give_back
        self._planning = threading.RLock()
        self._slots = threading.Lock()
        self.capacity: int = concurrency + delivery_concurrency
        """How many jobs at a time there are hands for."""
        self.steps: dict[str, JobStep] = {}
        self.polls_in_hand: int = 0
        self.sends_in_hand: int = 0
        self._line = Line()
        self.coalescer: Coalescer = Coalescer()
        self._full = self.stopping = False
        self.counted: dict[type[events.Event], int] = {}
        self.endings: Endings = Endings(self.strategy, self.clock, LONGEST_IDLE_S)
        self._lost: dict[str, int] = {}
        longest_silence_s = 3 * LONGEST_IDLE_S + self.lease.duration_s
        self.vitals: Vitals = Vitals(self.clock, longest_silence_s)
        self.loops: Loops = Loops(
            self.clock,
            self.rng,
            patience_s=self.lease.duration_s,
            limit_s=longest_silence_s,
            # A renewer that pauses for longer than that would lose leases by the pause alone.
            pause_cap_s=min(TROUBLE_CAP_S, self.lease.renew_every_s),
        )
        self.takeovers: Takeovers = Takeovers(self.lease)
        self._renew_first = False
        self._renewed_s = self.clock.monotonic_s()

    # --- events and health ---

    def emit(self, event: events.Event, text: str | None = None, outcome: Outcome | None = None) -> None:
        """Count an event and give it to the hooks.

        Args:
            event: The event.
            text: The whole of its reason, for who asks for it.
            outcome: The whole outcome, for who asks for it.
        """
        self.counted[type(event)] = self.counted.get(type(event), 0) + 1
        if isinstance(event, events.JobPolled):
            self.vitals.polled(event)
        self.emitter.emit(event, text, outcome)

    def health(self) -> Health:
        """Return whether this worker is fit, from what it has seen so far."""
        return self.vitals.judge(
            loops=self.loops, steps=list(self.steps.values()), hung=self._hung(), accounts=self.context.accounts
        )

    def redis_lost(self, error: QueueError, doing: str) -> float:
        """Note that Redis failed at `doing`; give the seconds to wait. Told once, not at every try."""
        self.takeovers.failed(answered=not isinstance(error, QueueUnavailableError) or error.answered)
        self.vitals.lost_reason = str(error)
        losses = self._lost.get(doing, 0)
        self._lost[doing] = losses + 1
        if self.vitals.lost_since_s is None:
            self.vitals.lost_since_s = self.clock.monotonic_s()
            self.emit(events.RedisLost(worker_id=self.worker_id, reason=told_of(error)), str(error))
        return self.trouble_s(losses)

    def trouble_s(self, failures_before: int) -> float:
        """Return the seconds to wait after a failure that followed `failures_before` others."""
        return min(TROUBLE_BASE_S * 2.0 ** min(failures_before, 10), TROUBLE_CAP_S) * self.rng.uniform(0.5, 1.0)

    def redis_recovered(self, doing: str, asked_s: float) -> None:
        """Note that Redis did what it was asked at `asked_s`; a full one still answers claims while it refuses to write."""
        if self.takeovers.answered(asked_s, self.clock.monotonic_s()):
            self.renew_first()
        self._no_longer_lost(doing)

    def _no_longer_lost(self, doing: str) -> None:
        if self._lost.pop(doing, None) and doing in WRITES:
            self.coalescer.suspend_until(-FOREVER_S)
            self._claim_again()
        if self._lost:
            return
        # Taken at once: the writer and the loop may be here together.
        lost_since_s, self.vitals.lost_since_s = self.vitals.lost_since_s, None
        if lost_since_s is not None:
            after_s = self.clock.monotonic_s() - lost_since_s
            if after_s >= AWAY_S:
                self.places.open_softly()
            self.emit(events.RedisRegained(worker_id=self.worker_id, after_s=after_s))

    def round_succeeded(self, name: str) -> None:
        """Note that a round of a loop went well; claims that waited for the renewer are wanted now."""
        if self.loops.failing(name):
            self.loops.fine(name)
            self.wake_at(self.clock.monotonic_s())

    def summary(self, before: dict[type[events.Event], int], claimed: int) -> RunSummary:
        """Return what has happened since `before`."""

        def since(kind: type[events.Event]) -> int:
            return self.counted.get(kind, 0) - before.get(kind, 0)

        return RunSummary(
            claimed=claimed,
            polls=since(events.JobPolled),
            concluded=since(events.JobConcluded),
            delivered=since(events.JobDelivered),
            undeliverable=since(events.JobDeadLettered),
            accepted=since(events.JobAccepted),
        )

    # --- slots, how much to claim, and when ---

    def _throttled(self, wait_s: float) -> None:
        if self.places.throttled(wait_s):
            for step in self.leave_line():
                self._give_back(step)
        # The others are to know at once.
        self.wake_at(self.clock.monotonic_s())

    def held_back(self, pauses_s: Mapping[str, float], *, learnt: bool) -> None:
        """Emit an event for each account of a video API that is left alone from now on, with its seconds."""
        for account, pause_s in pauses_s.items():
            self.emit(
                events.AccountHeldBack(worker_id=self.worker_id, account=shown(account), pause_s=pause_s, learnt=learnt)
            )

    @property
    def writes_first(self) -> bool:
        """Whether no job may be claimed now: a write about those in hand has failed, or their leases may have ended.

        The claim might find them among the expired ones; and whoever cannot write what became of a job, sends no more.
        """
        unwritten = self.loops.failing(RENEWER) or not WRITES.isdisjoint(self._lost)
        return unwritten or (bool(self.steps) and (self._renew_first or self._overslept))

    @property
    def _overslept(self) -> bool:
        """Whether leases may have ended that are held here: none was renewed for too long."""
        return self.clock.monotonic_s() - self._renewed_s > self.lease.duration_s - self.lease.renew_every_s

    def room(self) -> tuple[int, int]:
        """How many more polls and sends this worker can take; none while it cannot keep, or write down, what it has.

        The polls are those for which there is a place, or will be in a moment.
        """
        if self.writes_first:
            return 0, 0
        paused = self.places.pause_left_s() > 0
        polls = 0 if paused else self.places.open - self.polls_in_hand
        free = max(0, self.capacity - self.polls_in_hand - self.sends_in_hand)
        polls = max(0, min(polls, free))
        sends = max(0, min(self.delivery_concurrency - self.sends_in_hand, free - polls))
        return polls + (0 if paused else self._line.room), sends

    def begin_turn(self) -> Room:
        """Begin a turn of the loop: give what to claim; nothing when there is no slot at all, and no look is due."""
        with self._planning:
            self.vitals.tick()
            now_s = self.clock.monotonic_s()
            self.coalescer.started(now_s)
            for step in self._leave_line(now_s):
                self._give_back(step)
            with self._slots:
                self._line.look(now_s)
            polls, sends = self._look_for_room()
            endings = self.endings.begin_look(now_s, polls, writes_first=self.writes_first)
            room = Room(polls, sends, endings, self.endings.look_from)
            if not room.any:
                idle_s = self.places.pause_left_s() or (OPEN_ON_S if self.places.opening else LONGEST_IDLE_S)
                next_s = min(now_s + idle_s, self.endings.look_at_s, self._line.late_s)
                self.coalescer.request(next_s, 0.0)
            return room

    def _look_for_room(self) -> tuple[int, int]:
        # Set before the look: a slot that another thread frees after it must wake the loop.
        self._full = True
        polls, sends = self.room()
        self._full = not (polls and sends)
        return polls, sends

    def claim_failed(self, error: QueueError) -> None:
        """Note that Redis failed at a claim: the next one waits."""
        with self._planning:
            until_s = self.clock.monotonic_s() + self.redis_lost(error, "claim")
            self.coalescer.suspend_until(until_s)
            self.coalescer.request(until_s, 0.0)
            self.endings.defer()
            self.renew_first()

    def _claim_again(self) -> None:
        """Plan the claim that waited for writes, if none of them is open any more."""
        if not self.writes_first:
            self.wake_at(self.clock.monotonic_s())

    def ask(self) -> Asked:
        """Return how to ask for a claim that begins now."""
        return self.takeovers.ask(self.clock.monotonic_s(), self.context.clock.now_ms())

    def take(self, batch: ClaimBatch, asked: Asked) -> list[JobStep]:
        """Note the answer to a claim, and its jobs as in hand; return those to begin now."""
        if self.takeovers.claimed(asked, batch, self.clock.monotonic_s()):
            self.renew_first()
        self._no_longer_lost("claim")
        self.context.clock.set(batch.now_ms)
        self.held_back(self.places.learn(batch), learnt=True)
        paused, places = self.places.pause_left_s() > 0, self.places.open
        taken = [JobStep(self.context, claim, asked.at_s) for claim in batch.claims]
        at_once, now_s = [], self.clock.monotonic_s()
        with self._slots:
            for step in taken:
                self.steps[step.claim.job_id] = step
                polls = isinstance(step.claim.work, PollWork) and not step.claim.ending
                if polls and (paused or self.polls_in_hand >= places):
                    # What begins nothing keeps no place.
                    step.slot_freed = True
                    self._line.join(step, now_s)
                else:
                    self._move(step, 1)
                    at_once.append(step)
        if not self._line_moves:
            # It was claimed for places of which something has got hold, or the API asked for a pause meanwhile.
            for step in self.leave_line():
                self._give_back(step)
        return at_once

    @property
    def _line_moves(self) -> bool:
        """Whether polls may begin."""
        return not self.stopping and not self.places.pause_left_s()

    def leave_line(self) -> list[JobStep]:
        """Empty the line, and return who waited for a place."""
        return self._leave_line(FOREVER_S)

    def _leave_line(self, now_s: float) -> list[JobStep]:
        with self._slots:
            return self._line.leave(now_s)

    def _serve_line(self) -> None:
        """Begin what waits for a place, as far as there are any."""
        while self._line and (step := self._next_in_line()) is not None:
            if step.slot_freed:
                self._give_back(step)
            else:
                self._begin(step)

    def _next_in_line(self) -> JobStep | None:
        with self._slots:
            free = min(self.places.open - self.polls_in_hand, self.capacity - self.polls_in_hand - self.sends_in_hand)
            if not self._line or free <= 0 or not self._line_moves:
                return None
            step = self._line.first()
            # This process may have stood still: what is not held any more is not begun.
            if not step.released and step.lease.left_s() > 0:
                step.slot_freed = False
                self._move(step, 1)
            return step

    def plan_after(self, batch: ClaimBatch) -> None:
        """Plan the next claim for when something may be due that this one did not take."""
        self.endings.plan(batch, take_new=self.take_new)
        overdue = batch.next_poll_ms is not None and batch.next_poll_ms <= batch.now_ms
        self._line.backlog = overdue or (self.take_new and batch.waiting > 0)
        polls, sends = self._look_for_room()
        self.wake_at(min(self.clock.monotonic_s() + self._sleep_s(batch, polls, sends), self._line.late_s))
        # A place may have got free before the line was there.
        self._serve_line()

    @property
    def sweeps(self) -> bool:
        """Whether this worker looks for jobs that others lost."""
        return self.take_new and (self.recover or self.foreign_workers)

    def should_listen(self) -> bool:
        """Whether a new id could be polled here, and would wait for long before it is seen."""
        return self.take_new and self.room()[0] > 0 and self.coalescer.next_s - self.clock.monotonic_s() > MIN_LISTEN_S

    def monotonic_of(self, due_ms: int) -> float:
        """Return the monotonic time at which something is due on Redis's clock."""
        return self.clock.monotonic_s() + (due_ms - self.context.clock.now_ms() + 1) / 1000

    def forget(self, step: JobStep) -> None:
        """Forget a job that is out of hand; a claim that was held up by a lack of slots is wanted now."""
        with self._slots:
            # A worker that lost a lease may have claimed the same job again meanwhile.
            if self.steps.get(step.claim.job_id) is step:
                del self.steps[step.claim.job_id]
            if not step.slot_freed:
                step.slot_freed = True
                self._move(step, -1)
        self.on_slot_freed()

    def forget_steps(self) -> None:
        """Begin a run with empty hands: what an earlier one has left behind takes no slot in this one."""
        with self._slots:
            for step in self.steps.values():
                step.slot_freed = True
            self.steps = {}
            self._line = Line()
            self.polls_in_hand = self.sends_in_hand = self.endings.in_hand = 0

    def hangs_in_s(self) -> float:
        """Return the seconds until everything in hand has taken longer than it may."""
        now_s = self.clock.monotonic_s()
        return max((step.started_s + step.limit_s - now_s for step in list(self.steps.values())), default=0.0)

    def log_unfinished(self, left: Sequence[JobStep], given_back: int) -> None:
        """Log what a stop did not wait for; what could not even be given back is taken up when its lease ends."""
        if left:
            log.warning(
                "%d polls or sends were not done in time; %d of them are given back, the leases of the others run out: %s",
                len(left),
                given_back,
                shown_ids(step.claim.job_id for step in left),
            )

    def _start_sending(self, step: JobStep) -> bool:
        """Move a job whose polling is over to a slot for sends; False if there is none."""
        with self._slots:
            if self.sends_in_hand >= self.delivery_concurrency or step.slot_freed:
                return False
            self._move(step, -1)
            step.sending = True
            self._move(step, 1)
        self.on_slot_freed()
        return True

    def on_slot_freed(self) -> None:
        """Begin what stands in line for a slot; wake the loop if it waits for one."""
        self._serve_line()
        if self._full:
            self.wake_at(self.clock.monotonic_s())

    def wake_at(self, at_s: float) -> None:
        """Plan a claim at this time, in monotonic seconds."""
        with self._planning:
            hungry = self._full and not self._line
            sooner = self.coalescer.request(at_s, MIN_CLAIM_GAP_BUSY_S if hungry else MIN_CLAIM_GAP_S)
        if sooner:
            self._wake()

    def _move(self, step: JobStep, by: int) -> None:
        if step.sending:
            self.sends_in_hand += by
        elif step.claim.ending:
            self.endings.in_hand += by
        else:
            self.polls_in_hand += by
            if by < 0:
                self._line.place_freed()

    def _sleep_s(self, batch: ClaimBatch, polls: int, sends: int) -> float:
        """Seconds until something may be due that this claim did not take; `polls` and `sends` are the slots left."""
        dues_ms = [
            # With one kind of slot full, an expired lease may have to wait for such a slot.
            batch.next_expiry_ms if (polls and sends) or (batch.next_expiry_ms or 0) > batch.now_ms else None,
            batch.next_poll_ms if polls else None,
            batch.next_send_ms if sends else None,
        ]
        now_ms = self.context.clock.now_ms()
        sleep_s = min(LONGEST_IDLE_S, self.takeovers.gap_s)
        held_s = self.takeovers.held_until_s - self.clock.monotonic_s()
        if held_s > 0:
            # What has ended meanwhile is looked at when takeovers have waited long enough.
            sleep_s, dues_ms[0] = min(sleep_s, held_s), None
        for due_ms in dues_ms:
            if due_ms is not None:
                left_s = (due_ms - now_ms + 1) / 1000
                # A claim has its bounds: what it left is taken by the next one, unless this one took nothing.
                sleep_s = min(sleep_s, left_s if due_ms > batch.now_ms else 0.0 if batch.claims else RETRY_CLAIM_S)
        pause_s = self.places.pause_left_s()
        if not (polls or pause_s) and self.places.opening:
            sleep_s = min(sleep_s, OPEN_ON_S)
        sleep_s = min(sleep_s, self.endings.wanted_s(polls) - self.clock.monotonic_s())
        return max(0.0, min(sleep_s, pause_s) if pause_s else sleep_s)

    # --- leases ---

    def open_run(self) -> None:
        """Forget what an earlier run has seen of Redis: it says nothing about the leases of this one."""
        self.vitals.left_behind = False
        self.takeovers.open()
        self.places.open_at_once()
        self._renewed_s, self._renew_first = self.clock.monotonic_s(), False
        for doing in WRITES:
            self._lost.pop(doing, None)

    def renew_first(self) -> None:
        """Ask for the leases in hand to be renewed at once, before the next claim: others may be about to take them over."""
        if self.steps:
            self._renew_first = True
            self._hurry_renewal()

    def renew_in_s(self) -> float:
        """Return the seconds to wait for the next renewal."""
        period_s = self.lease.renew_every_s
        if "renew" not in self._lost:
            return period_s * RENEW_EARLIER
        return min(period_s / RETRIES_A_PERIOD, TROUBLE_BASE_S * 2.0 ** min(self._lost["renew"], 10))

    def renewal_failed(self, error: QueueError) -> None:
        """Note that leases could not be renewed."""
        log.debug("Leases could not be renewed: %s", told_of(error))
        self.redis_lost(error, "renew")

    def renewed(self, steps: Sequence[JobStep], held: Sequence[bool | None], asked_s: float) -> list[JobStep]:
        """Note what became of a renewal of leases that was asked for at `asked_s`; give the steps that lost theirs."""
        waited_for = self._renew_first or self.writes_first
        self._renewed_s, self._renew_first = asked_s, False
        if steps:
            self.takeovers.answered(asked_s, self.clock.monotonic_s())
            self._no_longer_lost("renew")
        elif self._lost.pop("renew", None):
            # What could not be renewed is out of hand: that says nothing about Redis.
            waited_for = True
        if waited_for:
            self._claim_again()
        lost = []
        for step, still in zip(steps, held, strict=False):
            if still:
                step.confirm(asked_s)
            elif still is not None and not (step.finished or step.pending_write):
                step.lose()
                lost.append(step)
        return lost

    def in_hand(self, asked: Asked, unwritten: Callable[[], Iterable[str]]) -> list[str]:
        """Return the ids of jobs that are worked on here, if their leases may have ended when the claim runs.

        Args:
            asked: How the claim is asked for. It takes nothing over if it runs more than a renewal period later than usual.
            unwritten: Returns the ids of those of which something is yet to be written.
        """
        now_s = self.clock.monotonic_s()
        if now_s - self._renewed_s <= self.lease.duration_s - self.lease.renew_every_s - asked.late_s:
            return []
        here = {step.claim.job_id for step in list(self.steps.values()) if now_s - step.started_s < step.limit_s}
        return [*here.union(unwritten())]

    def to_renew(self) -> list[JobStep]:
        """Return the steps whose leases are to be renewed: not those that are stuck."""
        now_s = self.clock.monotonic_s()
        fresh_s = self.lease.renew_every_s / 4
        return [
            step
            for step in list(self.steps.values())
            if fresh_s < now_s - step.started_s < step.limit_s and not step.finished
        ]
