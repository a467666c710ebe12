"""What a worker does with one claimed job, written once for both runners.

`JobStep.steps` is a generator of effects (`videopoll.core.effects`): it yields what
is to be done and is sent the answer. It does no I/O and never waits; the runners
carry the effects out, each in its own way. The judgements in between are those of
`videopoll.core.polling` and `videopoll.core.delivery`, the events those of
`videopoll.core.report`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator
from typing import TYPE_CHECKING, assert_never, cast

import attrs

from videopoll._reasons import own, trace_of
from videopoll.core.delivery import (
    DeliveryAction,
    Done,
    GetLink,
    GiveUp,
    Later,
    LookUp,
    Send,
    Watch,
    after_link,
    after_lookup,
    after_no_place,
    after_send,
    next_delivery_action,
    open_outbox,
    resume_abandoned,
    resume_delivery,
)
from videopoll.core.effects import Answer, Commit, Effect, LookUpMessage, PollApi, PublishVideo, SendMessage, Steps
from videopoll.core.permits import Lease, SendPermit
from videopoll.core.polling import Ask, NextPoll, after_not_asked, before_poll, decide, pause_after
from videopoll.core.receipts import after_receipt, failure_of
from videopoll.core.report import (
    report_accepted,
    report_claimed,
    report_concluded,
    report_dead_lettered,
    report_delivered,
    report_failed_later,
    report_held_back,
    report_lease_lost,
    report_link,
    report_polled,
    report_sent,
)
from videopoll.core.settlement import settle_accepted, settle_delivered, settle_undeliverable, settle_unreadable
from videopoll.jobs.codec import Poison
from videopoll.jobs.outcome import OutboxEntry, Outcome
from videopoll.jobs.transition import (
    Abandoned,
    BeginSend,
    BeginWatch,
    Claim,
    Conclude,
    MissingRecord,
    PollWork,
    Redeliver,
    Release,
    Reschedule,
    SendWork,
    Settle,
    Transition,
    TransitionResult,
)
from videopoll.messages import LookupAnswer, LookupResult, Message, NotSent, Receipt, ReceiptKind, Unknown
from videopoll.observations import Answered, Fault, FaultKind, NotAsked, Observation, VideoWorking

if TYPE_CHECKING:
    from videopoll.core.context import StepContext
    from videopoll.jobs.job import VideoJob
    from videopoll.policies import PollingStrategy

log: logging.Logger = logging.getLogger(__name__)

CRASH_POINTS = (
    "after_claim",
    "after_poll",
    "before_conclude",
    "after_conclude",
    "after_link",
    "before_send",
    "after_send",
    "before_settle",
    "after_settle",
)
"""The points between two effects at which tests kill a worker, in the order of a job's life.

To conclude is to write that the polling is over, to settle is to write that the job has ended. Only a job whose link
is renewed or published before a send comes to ``after_link``.
"""


class JobStep:
    """One claimed job on its way through a worker.

    A runner drives `steps`, renews the lease with `held` and `confirm`, and writes what
    `release` returns if it has to stop half-way.

    Args:
        context: What all steps of the worker share.
        claim: The claim of the job.
        asked_s: The monotonic time at which the claim was asked for; None for now.

    Attributes:
        claim: The claim of the job.
        lease: The lease, as far as Redis has confirmed it.
        entry: The outbox entry of the delivery; None while the job is polled.
        sending: Whether the step holds a slot for sends; otherwise one for polls.
        released: Whether this worker must begin nothing more with the job.
        finished: Whether `steps` has come to its end.
        slot_freed: Whether the slot is free again.
        started_s: The monotonic time at which the step began.
    """

    __slots__ = (
        "_context",
        "_lost",
        "_noted",
        "_own_strategy",
        "_pending_write",
        "_permit",
        "claim",
        "entry",
        "finished",
        "lease",
        "released",
        "sending",
        "slot_freed",
        "started_s",
    )

    def __init__(self, context: StepContext, claim: Claim, asked_s: float | None = None) -> None:
        self._context = context
        self.claim: Claim = claim
        # As it is confirmed: by the claim, which was asked for at `asked_s`, and then by each write and renewal.
        self.lease: Lease = Lease(context.clock.monotonic_s)
        self.confirm(context.clock.monotonic_s() if asked_s is None else asked_s)
        self.entry: OutboxEntry | None = claim.work.entry if isinstance(claim.work, SendWork) else None
        self.sending: bool = self.entry is not None
        self._pending_write: Transition | None = None
        self.released: bool = False
        self._lost = False
        # The entry whose send is noted in Redis.
        self._noted: OutboxEntry | None = None
        # The permit of the send under way.
        self._permit: SendPermit | None = None
        # The one of its video API, if there are several.
        work = claim.work
        self._own_strategy = context.own_strategy(work.job) if isinstance(work, PollWork) else None
        self.finished: bool = False
        self.slot_freed: bool = False
        self.started_s: float = context.clock.monotonic_s()

    @property
    def _strategy(self) -> PollingStrategy:
        return self._own_strategy or self._context.strategy

    @property
    def polling(self) -> bool:
        """Whether the job is still being polled, and so has a lock."""
        return self.entry is None

    @property
    def pending_write(self) -> bool:
        """Whether a write is under way that may end this worker's lease, and whose result will tell."""
        return self._pending_write is not None

    @property
    def held(self) -> tuple[str, str, bool]:
        """What a renewal of the lease needs: the id, the token, and whether there is a lock."""
        return self.claim.job_id, self.claim.token, self.polling

    @property
    def limit_s(self) -> float:
        """Seconds that this step may take. Beyond that something is stuck, and its lease is not renewed any more."""
        context = self._context
        delivery, request_s = context.delivery, self._strategy.request_timeout_s
        return 30 + request_s + (0 if self.polling else 4 * delivery.send_timeout_s + delivery.publish_timeout_s)

    def confirm(self, asked_s: float) -> None:
        """Note that Redis has confirmed the lease, which it was asked to do at this monotonic time."""
        self.lease.confirm(asked_s, self._context.lease.duration_s)

    def lose(self) -> None:
        """Note that another worker holds the lease: nothing begins here any more. Emits `LeaseLost` once."""
        self.released = True
        self.lease.forfeit()
        if not self._lost:
            self._lost = True
            report_lease_lost(self._context, self.claim.job_id)

    def disown(self) -> None:
        """Begin and write nothing more here, without a word: this is a forked child, and the job its parent's."""
        self.released = self.finished = True
        self.lease.forfeit()

    def give_up_send(self) -> None:
        """Forbid the send under way to begin, if it has not begun: nobody waits for it any more."""
        if self._permit is not None:
            self._permit.withdraw()

    def release(self, sends_go_on_s: float = 0.0) -> Transition | None:
        """Return what to write so that another worker goes on at once; None for nothing. From now on no send begins here.

        Under threads the step goes on meanwhile. This sets a flag and then reads the entry;
        a send stores its entry and then reads the flag. So either the send is seen here, or
        it does not begin. One that is noted and has not gone out yet does not go out any more.

        Args:
            sends_go_on_s: How long a send under way may still go on, in seconds.
        """
        self.released = True
        self.lease.forfeit()
        if self.finished:
            return None
        if self._pending_write is not None:
            # What was about to be written says more than the entry in hand: the user has the message, or nothing was sent.
            return self._pending_write
        if self.entry is not None:
            now_ms = self._context.clock.now_ms()
            entry = self.entry
            if entry.sending_ms is not None:
                entry = attrs.evolve(entry, sending_ms=now_ms + round(sends_go_on_s * 1000))
            return Redeliver(self.claim, entry, self._context.delivery.keep_s, now_ms)
        return Release(self.claim) if isinstance(self.claim.work, PollWork) else None

    def steps(self) -> Steps:
        """Yield the effects of the job until it leaves this worker, whatever is raised on the way.

        The runner throws in what an effect raised. A step that fails counts as a fault, so it
        backs off, and the deadline ends it.
        """
        if self.released:
            # It waited for a thread, and was released meanwhile.
            return
        try:
            yield from self._work()
        except Exception as error:  # noqa: BLE001 - a host's values, hooks and logging may raise anything
            yield from self._account_for(error)
        self.finished = True

    def _account_for(self, error: Exception) -> Steps:
        """Continue after an exception as after a fault of the poll, or of the send."""
        context, work, now_ms = self._context, self.claim.work, self._now()
        with contextlib.suppress(Exception):
            log.error("A job's step failed; it counts as a fault, and is tried again\n%s", trace_of(error))
        reason = own(f"a step of the worker raised {type(error).__name__}")
        if self._pending_write is not None:
            # What was being written says more than what was raised while the step waited for it.
            yield Commit(self._pending_write)
        elif self.entry is not None:
            sent = self.entry.sending_ms is not None
            receipt = Unknown(reason) if sent else NotSent(reason)
            yield from self._deliver(after_send(self.entry, receipt, now_ms, context.delivery))
        elif isinstance(work, PollWork):
            fault = Fault(FaultKind.INTERNAL, reason)
            took_ms = round((self._monotonic_s() - self.started_s) * 1000)
            chance = context.rng.random()
            after = decide(work, self.claim.due_ms, fault, now_ms, self._strategy, chance, took_ms=took_ms)
            report_polled(context, self.claim, work, fault, now_ms, 0.0, after)
            if isinstance(after, NextPoll):
                yield self._reschedule(work, after, fault)
            else:
                yield from self._conclude(work.job, after, work.attempts)
        else:
            raise error

    def _work(self) -> Steps:
        self._crash_point("after_claim")
        work = self.claim.work
        if isinstance(work, PollWork):
            yield from self._poll(work)
        elif isinstance(work, SendWork):
            now_ms = self._now()
            yield from self._deliver(self._resume_delivery(work, now_ms))
        elif isinstance(work, Abandoned):
            yield from self._resume(work)
        elif isinstance(work, Poison):
            yield from self._dead_letter(own(work.reason))
        else:
            yield from self._discard(work)

    def _resume_delivery(self, work: SendWork, now_ms: int) -> DeliveryAction:
        policy, receipt = self._context.delivery, work.receipt or failure_of(work.entry)
        if receipt is not None or work.entry.accepted is not None:
            # Nobody has to be asked: the channel has told.
            if receipt is not None and receipt.kind is ReceiptKind.FAILED:
                report_failed_later(self._context, work.entry, receipt)
            return after_receipt(work.entry, receipt, now_ms, policy, self._context.rng.random())
        entry = resume_delivery(work.entry, now_ms, taken_over=self.claim.taken_over)
        return next_delivery_action(entry, now_ms, policy)

    # --- polling ---

    def _poll(self, work: PollWork) -> Steps:
        context, claim = self._context, self.claim
        # Told once, also if it is claimed again and again while its account is left alone.
        untold = claim.taken_over or work.attempts == 1
        if untold and not context.holds_back:
            report_claimed(context, claim)
        now_ms = self._now()
        due_ms = claim.due_ms
        if claim.taken_over:
            # Its holder was alive at the last renewal, and may have been asking until then.
            due_ms -= round(context.lease.duration_s * 1000)
        judged = before_poll(work, now_ms, self._strategy, due_ms=due_ms, slot=not claim.ending)
        if isinstance(judged, Ask):
            started_s = self._monotonic_s()
            observation = cast("Observation", (yield PollApi(work.job, judged.timeout_s)))
            took_s = self._monotonic_s() - started_s
            self._crash_point("after_poll")
            asked_ms, now_ms = now_ms, self._now()
            if isinstance(observation, NotAsked):
                waits = after_not_asked(work, observation.wait_s, now_ms, self._strategy)
                if not isinstance(waits, Outcome):
                    yield Commit(Release(claim, waits), wait=False)
                    return
                judged = waits
            else:
                if untold and context.holds_back:
                    report_claimed(context, claim)
                due_ms = asked_ms if claim.taken_over else claim.due_ms
                if (pause_s := pause_after(observation, work.faults, self._strategy)) is not None:
                    context.pause_polling(pause_s)
                # Redis's clock may have stepped back meanwhile.
                took_ms, chance = max(0, now_ms - asked_ms), context.rng.random()
                after = decide(work, due_ms, observation, now_ms, self._strategy, chance, took_ms=took_ms)
                report_polled(context, claim, work, observation, asked_ms, took_s, after)
                if isinstance(after, NextPoll):
                    yield self._reschedule(work, after, observation)
                    return
                judged = after
        yield from self._conclude(work.job, judged, work.attempts)

    def _reschedule(self, work: PollWork, after: NextPoll, observation: Answered) -> Commit:
        working = observation if isinstance(observation, VideoWorking) else VideoWorking()
        return Commit(
            Reschedule(
                self.claim,
                after.due_ms,
                after.faults,
                after.last_answer_ms,
                work.attempts if self._context.foreign_workers else None,
                after.doubt_ms,
                after.missing_ms,
                working.progress,
                working.queue_position,
                observation.kind.value if isinstance(observation, Fault) else None,
            ),
            wait=False,
        )

    def _conclude(self, job: VideoJob, outcome: Outcome, attempts: int) -> Steps:
        self._crash_point("before_conclude")
        action = yield from self._open_outbox(open_outbox(job, outcome, self._context.delivery))
        if action is not None:
            self._crash_point("after_conclude")
            report_concluded(self._context, job, outcome, attempts)
            yield from self._deliver(action)

    def _resume(self, work: Abandoned) -> Steps:
        resumed = resume_abandoned(work, self._now(), self._context.delivery)
        if isinstance(resumed, GiveUp):
            yield from self._give_up(resumed)
            return
        action = yield from self._open_outbox(resumed)
        if action is not None:
            yield from self._deliver(action)

    # --- delivering ---

    def _open_outbox(self, entry: OutboxEntry) -> Generator[Effect, Answer, DeliveryAction | None]:
        """Store an outcome, and note in the same script that its send begins, if there is a slot for it.

        Returns:
            What to do next: without a slot, the outbox keeps the outcome until there is
            one. None if the lease is lost.
        """
        context = self._context
        action: DeliveryAction = Later(entry, self._now())
        # A job that ends without a slot begins no send: whoever has one takes it from the outbox.
        if not self.claim.ending and context.start_sending(self):
            action = next_delivery_action(entry, self._now(), context.delivery, fresh=True)
        # If the worker has to release the job while this is being written, nothing has been sent yet.
        self._pending_write = Redeliver(self.claim, entry, context.delivery.keep_s, self._now())
        applied = yield from self._note(Conclude(self.claim, action.entry, context.delivery.keep_s, self._lease_ms))
        if applied:
            self.entry = action.entry
        # After the entry: whoever releases the job in between must not take it for one that is polled.
        self._pending_write = None
        return action if applied else None

    def _note(self, transition: Conclude | BeginSend) -> Generator[Effect, Answer, bool]:
        """Write an entry and confirm the lease in one step; remember both. Returns whether it was written."""
        asked_s = self._monotonic_s()
        result = yield Commit(transition)
        if result is TransitionResult.APPLIED:
            self._noted = transition.entry
            self.confirm(asked_s)
            return True
        self._not_applied(result)
        return False

    def _write_last(self, transition: Redeliver | BeginWatch | Settle) -> Generator[Effect, Answer, bool]:
        """Write what ends this worker's lease. Returns whether it was written."""
        self._pending_write = transition
        result = yield Commit(transition)
        if result is TransitionResult.APPLIED:
            return True
        self._not_applied(result)
        return False

    def _not_applied(self, result: Answer) -> None:
        # A lease that this worker has released itself is not lost.
        if result is TransitionResult.LOST and not self.released:
            self.lose()

    @property
    def _lease_ms(self) -> int:
        return round(self._context.lease.duration_s * 1000)

    def _deliver(self, action: DeliveryAction) -> Steps:
        following: DeliveryAction | None = action
        while following is not None:
            self.entry = following.entry
            match following:
                case Send(entry):
                    following = yield from self._send(entry)
                case GetLink():
                    following = yield from self._get_link(following)
                case LookUp(entry):
                    following = yield from self._look_up(entry)
                case Later(entry, due_ms):
                    yield from self._write_last(Redeliver(self.claim, entry, self._context.delivery.keep_s, due_ms))
                    return
                case Watch():
                    yield from self._watch(following)
                    return
                case Done():
                    yield from self._settle_delivered(following)
                    return
                case GiveUp():
                    yield from self._give_up(following)
                    return
                case _:
                    assert_never(following)

    def _send(self, entry: OutboxEntry) -> Generator[Effect, Answer, DeliveryAction | None]:
        if not (yield from self._begin_send(entry)):
            return None
        context, started_s = self._context, self._monotonic_s()
        message, permit = self._message(entry)
        self._permit = permit
        # A channel that stands alone has one account.
        try:
            receipt = permit.held_back() or cast("Receipt", (yield SendMessage(message)))
        finally:
            # It has come back, or nobody waits for it any more: then it may still stand before its first byte.
            self.give_up_send()
            permit.ended()
        self._crash_point("after_send")
        if permit.turn_s and isinstance(receipt, NotSent):
            return after_no_place(entry, permit.turn_s, self._now())
        report_sent(context, entry, receipt, started_s)
        self._judge_account(permit, receipt, message.reference)
        return after_send(entry, receipt, self._now(), context.delivery, context.rng.random())

    def _get_link(self, wanted: GetLink) -> Generator[Effect, Answer, DeliveryAction | None]:
        """Get a link. It is stored when the send is noted that it is for: until then a crash has it asked for again."""
        context, entry, started_s = self._context, wanted.entry, self._monotonic_s()
        if self.released:
            return None
        delivery = context.delivery
        # A step that began with the delivery does not know it yet: most of them poll nothing.
        self._own_strategy = self._own_strategy or context.own_strategy(entry.job)
        if wanted.locked is None:
            effect: Effect = PollApi(entry.job, self._strategy.request_timeout_s)
        else:
            effect = PublishVideo(entry.job, wanted.locked, delivery.publish_timeout_s, delivery.max_video_bytes)
        answer = cast("Observation", (yield effect))
        self._crash_point("after_link")
        if not isinstance(answer, NotAsked):
            pause_s = pause_after(answer, entry.lookups, self._strategy)
            if pause_s is not None:
                context.pause_polling(pause_s)
        action = after_link(entry, answer, self._now(), delivery, context.rng.random())
        report_link(context, wanted, answer, action, started_s)
        return action

    def _look_up(self, entry: OutboxEntry) -> Generator[Effect, Answer, DeliveryAction]:
        context, started_s, asked_ms = self._context, self._monotonic_s(), self._now()
        message, permit = self._message(entry)
        result = yield LookUpMessage(message)
        if not isinstance(result, LookupAnswer):
            entry = entry.noting(own(f"the notifier's look_up gave {result}, which is no LookupResult"))
            result = LookupResult.NO_ANSWER
        report_sent(context, entry, result, started_s)
        self._judge_account(permit, result, message.reference)
        shows, now_ms = context.accounts.shows(permit.account), self._now()
        took_ms, chance = max(0, now_ms - asked_ms), context.rng.random()
        return after_lookup(entry, result, now_ms, context.delivery, chance, shows=shows, took_ms=took_ms)

    def _judge_account(self, permit: SendPermit, result: Receipt | LookupAnswer, reference: str) -> None:
        accounts, refused = self._context.accounts, isinstance(result, NotSent)
        pause_s = accounts.note(permit.account, permit.channel, reference, result)
        if pause_s is not None:
            report_held_back(self._context, permit.channel, pause_s, refused=refused)

    def _begin_send(self, entry: OutboxEntry) -> Generator[Effect, Answer, bool]:
        """Note the send and confirm the lease; again if the confirmation is old by then.

        The second look leaves the send half a lease to begin in. What stands still
        after it is held back by `Message.may_still_send`.
        """
        context = self._context
        while True:
            if self._noted is not entry:
                begin = BeginSend(self.claim, entry, context.delivery.keep_s, self._lease_ms)
                if not (yield from self._note(begin)):
                    return False
            self._crash_point("before_send")
            if self.released:
                return False
            if self.lease.left_s() > context.lease.duration_s / 2:
                return True
            self._noted = None

    def _watch(self, watch: Watch) -> Steps:
        now_ms = self._now()
        self._crash_point("before_settle")
        last = settle_accepted(self.claim, watch, now_ms, self._context.delivery)
        applied = yield from self._write_last(last)
        self._crash_point("after_settle")
        if applied:
            report_accepted(self._context, watch.entry, watch.receipt, now_ms)
            if isinstance(last, Settle) and last.letter is not None:
                report_dead_lettered(self._context, self.claim.job_id, last.letter.reason, watch.entry.outcome)

    def _settle_delivered(self, done: Done) -> Steps:
        now_ms = self._now()
        self._crash_point("before_settle")
        settlement = settle_delivered(self.claim, done, now_ms)
        applied = yield from self._write_last(settlement)
        self._crash_point("after_settle")
        if applied:
            report_delivered(self._context, done.entry, done.receipt, now_ms)
            if settlement.letter is not None:
                report_dead_lettered(self._context, self.claim.job_id, settlement.letter.reason, done.entry.outcome)

    def _give_up(self, given_up: GiveUp) -> Steps:
        settlement = settle_undeliverable(self.claim, given_up, self._now())
        if (yield from self._write_last(settlement)):
            report_dead_lettered(self._context, self.claim.job_id, given_up.reason, given_up.entry.outcome)

    # --- what is not a job ---

    def _dead_letter(self, reason: str) -> Steps:
        if (yield from self._write_last(settle_unreadable(self.claim, reason, self._now()))):
            report_dead_lettered(self._context, self.claim.job_id, reason, None)

    def _discard(self, missing: MissingRecord) -> Steps:
        if missing.finished:
            # Another kind of worker, or a cancel, ended it: there is nothing left to do.
            yield Commit(Settle(self.claim), wait=False)
        else:
            yield from self._dead_letter(
                own("no record: it expired before its poll, or there never was a job with this id")
            )

    def _message(self, entry: OutboxEntry) -> tuple[Message, SendPermit]:
        """Build the message, and its permit."""
        reference = entry.job.reference
        permit = SendPermit(self.lease, self._context.accounts, reference)
        message = Message(
            job=entry.job,
            outcome=entry.outcome,
            form=entry.form,
            reference=reference,
            attempt=max(1, entry.tries),
            texts=self._context.texts,
            _permit=permit,
            unquoted=entry.unquoted,
            prepared=entry.prepared,
        )
        return message, permit

    def _now(self) -> int:
        return self._context.clock.now_ms()

    def _monotonic_s(self) -> float:
        return self._context.clock.monotonic_s()

    def _crash_point(self, point: str) -> None:
        self._context.crash_point(point, self.claim.job_id)
