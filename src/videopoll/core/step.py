"""What a worker does with one claimed job, written once for both runners.

A `JobStep` is a generator of effects: it yields what is to be done (ask the API,
commit a transition, send a message, ask a channel) and is sent the answer. It
does no I/O and waits for nothing; the runners carry the effects out, each in its
own way. The judgements in between are those of `videopoll.core.polling`
and `videopoll.core.delivery`.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypeAlias, cast

import attrs

from videopoll import events
from videopoll._reasons import WITHHELD, own, shown_name, shown_word, told, told_or_withheld, trace_of
from videopoll.clock import RedisClock
from videopoll.core.accounts import IN_A_ROW, Accounts
from videopoll.core.delivery import (
    DeliveryAction,
    Done,
    GiveUp,
    Later,
    LookUp,
    Send,
    after_lookup,
    after_send,
    deliverable,
    next_delivery_action,
    open_outbox,
    resume_abandoned,
)
from videopoll.core.permits import Lease, SendPermit
from videopoll.core.polling import Ask, NextPoll, before_poll, decide
from videopoll.jobs.codec import Poison, dump
from videopoll.jobs.job import VideoJob, bounded_record
from videopoll.jobs.outcome import DeadLetter, MessageForm, OutboxEntry, Outcome
from videopoll.jobs.transition import (
    Abandoned,
    BeginSend,
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
from videopoll.messages import Delivered, LookupResult, Message, NotSent, Receipt, Refused, Unknown
from videopoll.observations import Fault, FaultKind, Observation, VideoFailed, VideoMissing, VideoReady, VideoWorking

if TYPE_CHECKING:
    from videopoll.policies import DeliveryPolicy, LeasePolicy, PollingStrategy
    from videopoll.texts import Texts

log = logging.getLogger(__name__)

CRASH_POINTS = (
    "after_claim",
    "after_poll",
    "before_conclude",
    "after_conclude",
    "before_send",
    "after_send",
    "before_settle",
    "after_settle",
)
"""The places between two effects at which tests kill a worker."""


@attrs.frozen
class PollApi:
    """Ask the video API; answered with an `Observation`."""

    job: VideoJob
    timeout_s: float


@attrs.frozen
class Commit:
    """Write a transition to the queue; answered with a `TransitionResult`, unless nobody waits for it."""

    transition: Transition
    wait: bool = True


@attrs.frozen
class SendMessage:
    """Send a message; answered with a `Receipt`."""

    message: Message


@attrs.frozen
class LookUpMessage:
    """Ask the channel for a message; answered with a `LookupResult`, or the name of what came back instead."""

    message: Message


LARGEST_ENTRY_BYTES = 65_536
"""An outbox entry of ours is smaller: larger ones are not kept whole in a dead letter."""

Effect: TypeAlias = PollApi | Commit | SendMessage | LookUpMessage
Answer: TypeAlias = "Observation | TransitionResult | Receipt | LookupResult | str | None"
Steps: TypeAlias = Generator[Effect, Answer, None]


def _no_probe(_point: str, _job_id: str) -> None:
    """Do nothing; tests put something else in its place."""


@attrs.define(kw_only=True, eq=False)
class Workshop:
    """What every step needs: the host's policies, the clock, and where to tell of events."""

    worker_id: str
    strategy: PollingStrategy
    lease: LeasePolicy
    delivery: DeliveryPolicy
    words: Texts
    emit: Callable[[events.Event], None]
    throttled: Callable[[float], None]
    start_sending: Callable[[JobStep], bool]
    foreign_workers: bool = False
    clock: RedisClock = attrs.field(factory=RedisClock)
    draw: Callable[[], float] = random.random
    probe: Callable[[str, str], None] = _no_probe
    accounts: Accounts = attrs.field(
        default=attrs.Factory(
            lambda shop: Accounts(shop.clock.monotonic_s, shop.delivery.backoff_base_s), takes_self=True
        )
    )
    # The same as `emit`, with the whole text of the event's reason, for who asks for it.
    confide: Callable[[events.Event, str | None], None] | None = None

    def tell(self, event: events.Event, text: str | None) -> None:
        """Emit an event whose reason is more than it shows."""
        if self.confide is None:
            self.emit(event)
        else:
            self.confide(event, text)


class JobStep:
    """One claimed job on its way through a worker.

    `sending` says which kind of place it takes; `relinquish` gives what to write
    when the worker has to let go of it half-way.
    """

    __slots__ = (
        "_lost",
        "_noted",
        "_parting",
        "_permit",
        "_shop",
        "claim",
        "entry",
        "finished",
        "gone",
        "lease",
        "let_go",
        "sending",
        "started_s",
    )

    def __init__(self, shop: Workshop, claim: Claim, asked_s: float | None = None) -> None:
        self._shop = shop
        self.claim = claim
        # As it is confirmed: by the claim, which was asked for at `asked_s`, and then by each write and renewal.
        self.lease = Lease(shop.clock.monotonic_s)
        self.confirm(shop.clock.monotonic_s() if asked_s is None else asked_s)
        self.entry: OutboxEntry | None = claim.work.entry if isinstance(claim.work, SendWork) else None
        self.sending = self.entry is not None
        self._parting: Transition | None = None
        self.let_go = False
        self._lost = False
        # The entry whose send is noted in Redis.
        self._noted: OutboxEntry | None = None
        # What the send under way may begin by.
        self._permit: SendPermit | None = None
        self.finished = False
        self.gone = False
        self.started_s = shop.clock.monotonic_s()

    @property
    def polling(self) -> bool:
        """Whether the job is still being polled, and so has a lock."""
        return self.entry is None

    @property
    def parting(self) -> bool:
        """Whether a write is under way that may end this worker's lease, and whose verdict will tell."""
        return self._parting is not None

    @property
    def held(self) -> tuple[str, str, bool]:
        """What a renewal of the lease needs: the id, the token, and whether there is a lock."""
        return self.claim.job_id, self.claim.token, self.polling

    @property
    def limit_s(self) -> float:
        """How long this step may take before something is stuck: then its lease is not renewed any more."""
        shop = self._shop
        return 30 + (shop.strategy.request_timeout_s if self.polling else 4 * shop.delivery.send_timeout_s)

    def confirm(self, asked_s: float) -> None:
        """Note that Redis has confirmed the lease, which it was asked to do at this monotonic time."""
        self.lease.confirm(asked_s, self._shop.lease.duration_s)

    def lose(self) -> None:
        """Note that the lease is somebody else's by now: nothing begins here any more. Told once."""
        self.let_go = True
        self.lease.forfeit()
        if not self._lost:
            self._lost = True
            self._shop.emit(events.LeaseLost(worker_id=self._shop.worker_id, job_id=self.claim.job_id))

    def give_up_send(self) -> None:
        """Let the send under way not begin any more, if it has not: nobody waits for it."""
        if self._permit is not None:
            self._permit.withdraw()

    def relinquish(self, sends_go_on_s: float = 0.0) -> Transition | None:
        """Give what to write so that another worker goes on at once. From now on no send begins here.

        Under threads the step goes on meanwhile. This sets a flag and then reads the entry;
        a send stores its entry and then reads the flag. So either the send is seen here, or
        it does not begin. One that is noted and has not gone out yet does not go out any more.

        Args:
            sends_go_on_s: How long a send under way may still go on, in seconds.
        """
        self.let_go = True
        self.lease.forfeit()
        if self.finished:
            return None
        if self._parting is not None:
            # What was about to be written says more than the entry in hand: the user has the message, or nothing was sent.
            return self._parting
        if self.entry is not None:
            now_ms = self._shop.clock.now_ms()
            entry = self.entry
            if entry.sending_ms is not None:
                entry = attrs.evolve(entry, sending_ms=now_ms + round(sends_go_on_s * 1000))
            return Redeliver(self.claim, entry, self._shop.delivery.keep_s, now_ms)
        return Release(self.claim) if isinstance(self.claim.work, PollWork) else None

    def steps(self) -> Steps:
        """Work on the job until it is out of this worker's hands, whatever is raised on the way.

        What is raised where an effect is carried out is to be thrown in here: a step that
        fails counts as a fault, so that it backs off, and the deadline ends it.
        """
        if self.let_go:
            # It waited for a thread, and was given back meanwhile.
            return
        try:
            yield from self._work()
        except Exception as error:  # noqa: BLE001 - a host's values, hooks and logging may raise anything
            yield from self._account_for(error)
        self.finished = True

    def _account_for(self, error: Exception) -> Steps:
        """Go on after an exception: as after a fault of the poll, or of the send."""
        shop, work, now_ms = self._shop, self.claim.work, self._now()
        with contextlib.suppress(Exception):
            log.error("A job's step failed; it counts as a fault, and is tried again\n%s", trace_of(error))
        reason = own(f"a step of the worker raised {type(error).__name__}")
        if self._parting is not None:
            # What was being written tells more than what was raised while somebody waited for it.
            yield Commit(self._parting)
        elif self.entry is not None:
            sent = self.entry.sending_ms is not None
            step = after_send(self.entry, Unknown(reason) if sent else NotSent(reason), now_ms, shop.delivery)
            yield from self._deliver(step)
        elif isinstance(work, PollWork):
            fault = Fault(FaultKind.INTERNAL, reason)
            after = decide(work, self.claim.due_ms, fault, now_ms, shop.strategy, shop.draw())
            self._tell_polled(work, fault, now_ms, 0.0, after)
            if isinstance(after, NextPoll):
                yield self._reschedule(work, after)
            else:
                yield from self._conclude(work.job, after, work.attempts)
        else:
            raise error

    def _work(self) -> Steps:
        self._probe("after_claim")
        work = self.claim.work
        if isinstance(work, PollWork):
            yield from self._poll(work)
        elif isinstance(work, SendWork):
            entry = work.entry
            outcome = deliverable(entry.outcome)
            if outcome.success is not entry.outcome.success:
                entry = attrs.evolve(entry, outcome=outcome, form=MessageForm.TEXT)
            if self.claim.taken_over and entry.sending_ms is not None:
                # It was alive at its last renewal: only since then may the message be on its way.
                lease = self._shop.lease
                alive_ms = self._now() - round((lease.duration_s - lease.renew_every_s) * 1000)
                entry = attrs.evolve(entry, sending_ms=max(entry.sending_ms, alive_ms))
                entry = entry.noting(own("a worker died around this send"))
            yield from self._deliver(next_delivery_action(entry, self._now(), self._shop.delivery))
        elif isinstance(work, Abandoned):
            yield from self._resume(work)
        elif isinstance(work, Poison):
            yield from self._bury(own(work.reason))
        else:
            yield from self._drop(work)

    # --- polling ---

    def _poll(self, work: PollWork) -> Steps:
        shop, claim = self._shop, self.claim
        if claim.taken_over or work.attempts == 1:
            shop.emit(events.JobClaimed(worker_id=shop.worker_id, job_id=claim.job_id, taken_over=claim.taken_over))
        now_ms = self._now()
        due_ms = claim.due_ms
        if claim.taken_over:
            # Its holder was alive at the last renewal, and may have been asking until then.
            due_ms -= round(shop.lease.duration_s * 1000)
        judged = before_poll(work, now_ms, shop.strategy, due_ms=due_ms, place=not claim.ending)
        if isinstance(judged, Ask):
            started_s = self._monotonic_s()
            observation = cast("Observation", (yield PollApi(work.job, judged.timeout_s)))
            took_s = self._monotonic_s() - started_s
            self._probe("after_poll")
            asked_ms, now_ms = now_ms, self._now()
            due_ms = asked_ms if claim.taken_over else claim.due_ms
            after = decide(work, due_ms, observation, now_ms, shop.strategy, shop.draw())
            self._tell_polled(work, observation, asked_ms, took_s, after)
            if isinstance(after, NextPoll):
                yield self._reschedule(work, after)
                return
            judged = after
        yield from self._conclude(work.job, judged, work.attempts)

    def _reschedule(self, work: PollWork, after: NextPoll) -> Commit:
        noted = work.attempts if self._shop.foreign_workers else None
        return Commit(
            Reschedule(
                self.claim, after.due_ms, after.faults, after.last_answer_ms, noted, after.doubt_ms, after.missing_ms
            ),
            wait=False,
        )

    def _tell_polled(
        self, work: PollWork, observation: Observation, asked_ms: int, took_s: float, after: NextPoll | Outcome
    ) -> None:
        shop, now_ms = self._shop, self._now()
        fault = observation if isinstance(observation, Fault) else None
        next_s = max(0.0, (after.due_ms - now_ms) / 1000) if isinstance(after, NextPoll) else None
        if fault is not None and fault.kind is FaultKind.THROTTLED:
            wait_s = fault.retry_after_s if fault.retry_after_s is not None else shop.strategy.backoff_s(work.faults)
            shop.throttled(min(wait_s, shop.strategy.max_retry_after_s))
        shop.tell(
            events.JobPolled(
                worker_id=shop.worker_id,
                job_id=self.claim.job_id,
                attempt=work.attempts,
                # Redis's clock may have stepped back since.
                elapsed_s=max(0, now_ms - work.job.start_ms) / 1000,
                lag_s=max(0, asked_ms - self.claim.due_ms) / 1000,
                took_s=took_s,
                status=shown_word(_word(observation)),
                known=not isinstance(observation, VideoWorking) or observation.known,
                fault=fault.kind if fault else None,
                detail=told_or_withheld(fault.detail) if fault else None,
                next_s=next_s,
            ),
            fault.detail if fault else _word(observation),
        )

    def _conclude(self, job: VideoJob, outcome: Outcome, attempts: int) -> Steps:
        shop = self._shop
        self._probe("before_conclude")
        step = yield from self._open_outbox(open_outbox(job, outcome, shop.delivery))
        if step is None:
            return
        self._probe("after_conclude")
        shop.tell(
            events.JobConcluded(
                worker_id=shop.worker_id,
                job_id=job.job_id,
                conversation_id=job.conversation_id,
                outcome=outcome.kind,
                elapsed_s=max(0, outcome.at_ms - job.start_ms) / 1000,
                attempts=attempts,
                error=told_or_withheld(outcome.error),
            ),
            outcome.error,
        )
        yield from self._deliver(step)

    def _resume(self, work: Abandoned) -> Steps:
        resumed = resume_abandoned(work, self._now(), self._shop.delivery)
        if isinstance(resumed, GiveUp):
            yield from self._give_up(resumed)
            return
        step = yield from self._open_outbox(resumed)
        if step is not None:
            yield from self._deliver(step)

    # --- delivering ---

    def _open_outbox(self, entry: OutboxEntry) -> Generator[Effect, Answer, DeliveryAction | None]:
        """Store an outcome, and note in the same script that its send begins, if there is a place for it.

        Gives what to do next: without a place, the outbox keeps the outcome until
        there is one. None if the job is not ours any more.
        """
        shop = self._shop
        step: DeliveryAction = Later(entry, self._now())
        # A job that ends without a place begins no send: whoever has one takes it from the outbox.
        if not self.claim.ending and shop.start_sending(self):
            step = next_delivery_action(entry, self._now(), shop.delivery)
        # If the worker has to let go while this is being written, nothing has been sent yet.
        self._parting = Redeliver(self.claim, entry, shop.delivery.keep_s, self._now())
        verdict = yield from self._note(Conclude(self.claim, step.entry, shop.delivery.keep_s, self._lease_ms))
        if verdict is TransitionResult.APPLIED:
            self.entry = step.entry
        # After the entry: whoever lets go in between must not take the job for one that is polled.
        self._parting = None
        if verdict is not TransitionResult.APPLIED:
            self._tell_lost(verdict)
            return None
        return step

    def _note(self, writing: Conclude | BeginSend) -> Generator[Effect, Answer, Answer]:
        """Write an entry and confirm the lease in one step; remember both."""
        asked_s = self._monotonic_s()
        verdict = yield Commit(writing)
        if verdict is TransitionResult.APPLIED:
            self._noted = writing.entry
            self.confirm(asked_s)
        return verdict

    @property
    def _lease_ms(self) -> int:
        return round(self._shop.lease.duration_s * 1000)

    def _deliver(self, step: DeliveryAction) -> Steps:
        while True:
            self.entry = step.entry
            if isinstance(step, Send):
                if not (yield from self._begin_send(step.entry)):
                    return
                started_s = self._monotonic_s()
                message, permit = self._message(step.entry)
                self._permit = permit
                # A channel that stands alone has one account.
                receipt = permit.held_back() or cast("Receipt", (yield SendMessage(message)))
                # It has come back, or nobody waits for it any more: then it may still stand before its first byte.
                self.give_up_send()
                self._probe("after_send")
                self._tell_sent(step.entry, receipt, started_s)
                self._judge_account(permit, receipt, message.reference)
                step = after_send(step.entry, receipt, self._now(), self._shop.delivery, self._shop.draw())
            elif isinstance(step, LookUp):
                started_s = self._monotonic_s()
                message, permit = self._message(step.entry)
                entry, sighting = step.entry, (yield LookUpMessage(message))
                if not isinstance(sighting, LookupResult):
                    entry = entry.noting(own(f"the notifier's find gave {sighting}, which is no LookupResult"))
                    sighting = LookupResult.NO_ANSWER
                self._tell_sent(entry, sighting, started_s)
                self._judge_account(permit, sighting, message.reference)
                shows = self._shop.accounts.shows(permit.account)
                step = after_lookup(entry, sighting, self._now(), self._shop.delivery, self._shop.draw(), shows=shows)
            elif isinstance(step, Later):
                self._parting = Redeliver(self.claim, step.entry, self._shop.delivery.keep_s, step.due_ms)
                verdict = yield Commit(self._parting)
                if verdict is not TransitionResult.APPLIED:
                    self._tell_lost(verdict)
                return
            elif isinstance(step, Done):
                yield from self._settle_delivered(step)
                return
            else:
                yield from self._give_up(step)
                return

    def _begin_send(self, entry: OutboxEntry) -> Generator[Effect, Answer, bool]:
        """Note the send and confirm the lease; again if the confirmation has grown old meanwhile.

        The second look leaves the send half a lease to begin in. What stands still
        after it is held back by `Message.may_still_send`.
        """
        shop = self._shop
        while True:
            if self._noted is not entry:
                verdict = yield from self._note(BeginSend(self.claim, entry, shop.delivery.keep_s, self._lease_ms))
                if verdict is not TransitionResult.APPLIED:
                    self._tell_lost(verdict)
                    return False
            self._probe("before_send")
            if self.let_go:
                return False
            if self.lease.left_s() > shop.lease.duration_s / 2:
                return True
            self._noted = None

    def _settle_delivered(self, done: Done) -> Steps:
        shop, entry, now_ms = self._shop, done.entry, self._now()
        self._probe("before_settle")
        completed = entry.outcome.to_completed(
            entry.job,
            delivered=True,
            deliveredAt=now_ms,
            form=(done.receipt.form or entry.form).value,
            sends=entry.tries,
            messageId=done.receipt.message_id,
        )
        verdict = yield from self._settle(Settle(self.claim, dump(completed)))
        self._probe("after_settle")
        if verdict is not TransitionResult.APPLIED:
            self._tell_lost(verdict)
            return
        shop.emit(
            events.JobDelivered(
                worker_id=shop.worker_id,
                job_id=entry.job.job_id,
                conversation_id=entry.job.conversation_id,
                outcome=entry.outcome.kind,
                form=done.receipt.form or entry.form,
                attempts=entry.tries,
                after_s=max(0, now_ms - entry.outcome.at_ms) / 1000,
                channel=shown_name(done.receipt.channel),
            )
        )

    def _give_up(self, step: GiveUp) -> Steps:
        entry = step.entry
        letter = DeadLetter(self.claim.job_id, step.reason, self._now(), entry=entry)
        completed = entry.outcome.to_completed(entry.job, delivered=False, undeliverable=step.reason, sends=entry.tries)
        verdict = yield from self._settle(Settle(self.claim, dump(completed), letter))
        self._tell_dead(verdict, step.reason, entry.outcome)

    def _settle(self, settle: Settle) -> Generator[Effect, Answer, Answer]:
        self._parting = settle
        return (yield Commit(settle))

    # --- what is no job ---

    def _bury(self, reason: str) -> Steps:
        raw = self.claim.raw
        kept = None if raw is None else bounded_record(raw)
        letter = DeadLetter(self.claim.job_id, reason, self._now(), record=kept)
        if raw is not None and self.claim.raw_is_entry:
            # It goes back to its delivery, not to the polling, if it can be read one day.
            whole = raw.decode("utf-8", "surrogateescape") if len(raw) <= LARGEST_ENTRY_BYTES else kept
            letter = attrs.evolve(letter, record=None, raw_entry=whole)
        verdict = yield from self._settle(Settle(self.claim, letter=letter))
        self._tell_dead(verdict, reason, None)

    def _drop(self, gone: MissingRecord) -> Steps:
        if gone.finished:
            # Another kind of worker, or a cancel, ended it: there is nothing left to do.
            yield Commit(Settle(self.claim), wait=False)
        else:
            yield from self._bury(own("no record: it expired before its poll, or there never was a job with this id"))

    # --- telling ---

    def _tell_sent(self, entry: OutboxEntry, result: Receipt | LookupResult, started_s: float) -> None:
        shop = self._shop
        reason: str | None
        if isinstance(result, LookupResult):
            word, reason = result.value, own("asked the channel for the message of an earlier send")
        else:
            word = _RESULTS.get(type(result), "unknown")
            reason = result.detail if isinstance(result, Delivered) else result.reason
        shop.tell(
            events.SendTried(
                worker_id=shop.worker_id,
                job_id=entry.job.job_id,
                conversation_id=entry.job.conversation_id,
                form=(isinstance(result, Delivered) and result.form) or entry.form,
                attempt=entry.tries,
                result=word,
                took_s=self._monotonic_s() - started_s,
                # What a channel says beside its success is nothing that the log lacks.
                reason=told(reason) if isinstance(result, Delivered) else told_or_withheld(reason),
                channel=None if isinstance(result, LookupResult) else shown_name(result.channel),
            ),
            reason,
        )

    def _tell_lost(self, verdict: Answer) -> None:
        # What this worker has handed on itself is nobody's loss.
        if verdict is TransitionResult.LOST and not self.let_go:
            self.lose()

    def _tell_dead(self, verdict: Answer, reason: str, outcome: Outcome | None) -> None:
        if verdict is not TransitionResult.APPLIED:
            self._tell_lost(verdict)
            return
        self._shop.tell(
            events.JobDeadLettered(
                worker_id=self._shop.worker_id,
                job_id=self.claim.job_id,
                reason=told_or_withheld(reason) or WITHHELD,
                outcome=outcome.kind if outcome else None,
            ),
            reason,
        )

    def _judge_account(self, permit: SendPermit, result: Receipt | LookupResult, reference: str) -> None:
        """Note what an account told of a message; tell once if it is held back from now on."""
        accounts = self._shop.accounts
        if isinstance(result, Delivered | Refused) or result is LookupResult.FOUND or result is LookupResult.FAILED:
            accounts.ended_well(permit.account)
            if isinstance(result, LookupResult):
                accounts.showed(permit.account)
            return
        refused = isinstance(result, NotSent) and result.account_fault
        if not refused and not isinstance(result, Unknown):
            return
        pause_s = accounts.ended_badly(permit.account, permit.channel, reference, refused=refused)
        if pause_s is not None:
            self._shop.emit(
                events.ChannelHeldBack(
                    worker_id=self._shop.worker_id,
                    channel=shown_name(permit.channel),
                    messages=1 if refused else IN_A_ROW,
                    pause_s=pause_s,
                    refused=refused,
                )
            )

    def _message(self, entry: OutboxEntry) -> tuple[Message, SendPermit]:
        """Build the message, and what tells it whether it may still be sent."""
        permit = SendPermit(self.lease, self._shop.accounts, entry.job.reference)
        message = Message(
            job=entry.job,
            outcome=entry.outcome,
            form=entry.form,
            reference=entry.job.reference,
            attempt=max(1, entry.tries),
            words=self._shop.words,
            _permit=permit,
            unquoted=entry.unquoted,
        )
        return message, permit

    def _now(self) -> int:
        return self._shop.clock.now_ms()

    def _monotonic_s(self) -> float:
        return self._shop.clock.monotonic_s()

    def _probe(self, point: str) -> None:
        self._shop.probe(point, self.claim.job_id)


_RESULTS: dict[type, str] = {Delivered: "delivered", NotSent: "not_sent", Refused: "refused"}


def _word(observation: Observation) -> str:
    match observation:
        case VideoWorking(word):
            return word
        case VideoReady():
            return "completed"
        case VideoFailed():
            return "failed"
        case VideoMissing():
            return "not_found"
        case Fault(kind):
            return kind.value
