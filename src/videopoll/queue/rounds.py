"""What a runner does with a queue of several partitions: it claims, writes, renews and recovers in all that it serves.

Each partition may be on a server of its own, which has a clock of its own and may be away by itself. So what a runner
sees is told on one clock, takeovers are judged for each server (`videopoll.core.takeovers`), and a partition that does
not answer holds up nobody: what was to be written there is kept by the runner, and until it is written nothing is
claimed there.
"""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, TypeVar, cast

import attrs

from videopoll._reasons import own, told_of
from videopoll.clock import FOREVER_S
from videopoll.core.flow import do
from videopoll.core.takeovers import Takeovers
from videopoll.errors import QueueError, QueueRefusedError, QueueUnavailableError
from videopoll.jobs.transition import ClaimBatch, Redeliver, Release, Reschedule
from videopoll.queue.operations import partition_of

T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Mapping, Sequence
    from typing import Protocol, Unpack

    from videopoll.core.flow import Flow
    from videopoll.core.takeovers import Asked
    from videopoll.jobs.transition import Claim, Transition, TransitionResult
    from videopoll.policies import LeasePolicy
    from videopoll.protocols import ClaimOptions, RecoverOptions
    from videopoll.queue.hands import Answers
    from videopoll.queue.partitions import Partitions

    class Hand(Protocol):
        """What makes several calls at once, in threads or in tasks."""

        def all(self, kind: str, flows: Mapping[int, Flow[T]], /) -> Answers[T] | Awaitable[Answers[T]]:
            """Carry the flows out, and return what each came to in time."""
            ...

        def wait_at_most(self, seconds: float, /) -> None:
            """Bound how long a partition may hold up the others."""
            ...


__all__ = ["Rounds"]

log: logging.Logger = logging.getLogger(__name__)

IDLE_S = 3.5
"""How often each partition is looked at, though nothing is known to be due there: a little more often than an idle runner claims."""

GAP_S = 0.02
"""How far apart two claims at one partition are at least, for each that is served: with twice as many partitions a claim finds
as many jobs in each as before, so that a poll costs no more calls. It is what a runner leaves between two claims."""

LONGEST_GAP_S = 0.1
"""The longest that this makes a poll late."""

SHARE = 16
"""The least room that a partition is asked to fill where more jobs wait than there is room for. A round that splits little
room among many partitions would make as many calls as polls."""

LAYOUT_EVERY_S = 5.0
"""How often a worker asks how many partitions there are."""

PATIENCES_A_PERIOD = 4
"""How often a silent server could hold up the renewals of the others, and they would still be in time."""

AGAIN_BASE_S = 0.25
AGAIN_CAP_S = 4.0
"""How soon a partition that did not answer is asked again: after the first, doubled each time, up to the second."""

HELD_S = 15.0
"""How long a write that failed keeps a partition from being claimed at, if nobody tries it again."""

NEW_RUN_S = 15.0
"""A worker that has asked for nothing for so long has begun a new run: one that runs asks every few seconds, also in vain."""

SAME_CLOCK_MS = 5
"""Clocks that are no further apart are taken as one."""

MOST_WORKERS = 64
"""Runners of one queue object that are remembered."""


@attrs.define
class _Seen:
    """What one worker has seen of one partition. Times are monotonic, of this process."""

    takeovers: Takeovers
    looked_s: float = -FOREVER_S
    rung: bool = True
    waiting: int = 0
    look_from: int = 0
    backlog: bool = False
    workers: int = 0
    next_poll_s: float | None = None
    next_send_s: float | None = None
    next_expiry_s: float | None = None
    failures: int = 0
    again_s: float = -FOREVER_S

    def wants(self, now_s: float, gap_s: float, *, polls: bool, sends: bool) -> bool:
        """Whether there may be something to take; `gap_s` after the last look, if that has not left anything."""
        if self.rung or now_s - self.looked_s >= IDLE_S:
            return True
        return now_s >= self.rested_s(gap_s) and (
            (polls and (self.waiting > 0 or _is_due(self.next_poll_s, now_s)))
            or (sends and _is_due(self.next_send_s, now_s))
            or _is_due(self.expiry_s, now_s)
        )

    def later(self, at_s: float | None, gap_s: float) -> float | None:
        """Return when to look for what is due then."""
        return None if at_s is None else max(at_s, self.rested_s(gap_s))

    def rested_s(self, gap_s: float) -> float:
        """When to look again at the earliest."""
        return -FOREVER_S if self.backlog else self.looked_s + gap_s

    @property
    def expiry_s(self) -> float | None:
        """When to look at leases that have ended: not while takeovers wait."""
        return None if self.next_expiry_s is None else max(self.next_expiry_s, self.takeovers.held_until_s)


def _is_due(at_s: float | None, now_s: float) -> bool:
    return at_s is not None and at_s <= now_s


@attrs.frozen
class _Answer:
    """What a claim gave, and when."""

    batch: ClaimBatch
    asked: Asked
    at_s: float


class Rounds:
    """The rounds of the runners of one queue object.

    Args:
        partitions: All partitions.
        hands: Makes several calls at once.
        serve: Which partitions are served; None for all that there are.
    """

    def __init__(self, partitions: Partitions, hands: Hand, serve: Collection[int] | None) -> None:
        self._all = partitions
        self._hands = hands
        self._serve = None if serve is None else frozenset(serve)
        self._seen: dict[str, dict[int, _Seen]] = {}
        self._asked_s: dict[str, float] = {}
        self._zeros_ms: dict[int, float] = {}
        self._first: int | None = None
        self._held: dict[tuple[int, str], float] = {}
        self._layout_at_s = -FOREVER_S
        self._away: set[int] = set()
        self._rng = random.Random()  # noqa: S311 - spreads workers, hides nothing

    @property
    def served(self) -> list[int]:
        """The partitions that are served and known to be there."""
        return [one for one in range(self._all.count) if self._serve is None or one in self._serve]

    @property
    def _gap_s(self) -> float:
        return min(GAP_S * len(self.served), LONGEST_GAP_S)

    def rung(self, partition: int) -> None:
        """Note that an id stands in a partition's list."""
        for each in list(self._seen.values()):
            if partition in each:
                each[partition].rung = True

    def _together(self, kind: str, flows: Mapping[int, Flow[T]]) -> Flow[Answers[T]]:
        """Carry out flows at once; tell the operator who has gone and who is back.

        Raises:
            Exception: One of them raised what no server's absence explains.
        """
        answers: Answers[T] = yield from do(self._hands.all, kind, flows)
        for partition, answer in answers.items():
            prefix = self._all.cells[partition].keys.prefix
            if isinstance(answer, QueueError):
                if partition not in self._away and not getattr(answer, "about_data", False):
                    self._away.add(partition)
                    log.warning(
                        "The partition %s of the queue cannot be used; the others go on: %s", prefix, told_of(answer)
                    )
            elif isinstance(answer, Exception):
                raise answer
            elif partition in self._away and kind == "claim":
                self._away.discard(partition)
                log.info("The partition %s of the queue can be used again", prefix)
        return answers

    # --- claims ---

    def claim(self, worker_id: str, **wanted: Unpack[ClaimOptions]) -> Flow[ClaimBatch]:
        """Lease what is due, in the partitions that have something, or were not looked at for long."""
        yield from self._look_at_layout()
        if not self.served:
            msg = (
                "claim: none of the partitions to serve is known here: serve others, or raise the number of partitions"
            )
            raise QueueUnavailableError(own(msg))
        self._hands.wait_at_most(wanted["lease"].renew_every_s / PATIENCES_A_PERIOD)
        seen = self._seen_by(worker_id, wanted["lease"])
        now_s = time.monotonic()
        left = self._candidates(seen, now_s, wanted)
        answers: dict[int, _Answer] = {}
        errors: list[QueueError] = []
        while left and not any(answer.batch.claims for answer in answers.values()):
            flows = self._allot(left, seen, worker_id, wanted)
            for partition, answer in (yield from self._together("claim", flows)).items():
                if isinstance(answer, _Answer):
                    answers[partition] = answer
                    self._note(partition, seen[partition], answer)
                else:
                    errors.append(cast("QueueError", answer))
                    self._note_failure(seen[partition], cast("QueueError", answer))
            left = [partition for partition in left if partition not in flows]
        if not answers:
            msg = "claim: what is to be written first in each partition that is served cannot be written. Try again."
            raise errors[0] if errors else QueueUnavailableError(own(msg))
        return self._merged(seen, answers)

    def _look_at_layout(self) -> Flow[None]:
        now_s = time.monotonic()
        if now_s - self._layout_at_s < LAYOUT_EVERY_S:
            return
        self._layout_at_s = now_s
        # Whoever takes an id in elsewhere has told the first partition before.
        yield from self._together("layout", {0: self._all.catch_up()})

    def _seen_by(self, worker_id: str, lease: LeasePolicy) -> dict[int, _Seen]:
        seen = self._seen.setdefault(worker_id, {})
        now_s = time.monotonic()
        if now_s - self._asked_s.get(worker_id, now_s) > NEW_RUN_S:
            # What was seen in an earlier run delays nothing in this one.
            for one in seen.values():
                one.takeovers.open()
                one.again_s = -FOREVER_S
        self._asked_s[worker_id] = now_s
        while len(self._seen) > MOST_WORKERS:
            oldest = next(iter(self._seen))
            del self._seen[oldest], self._asked_s[oldest]
        for partition in self.served:
            if partition not in seen:
                seen[partition] = _Seen(Takeovers(lease))
        return seen

    def _able(self, now_s: float) -> list[int]:
        """Return the partitions in which nothing waits to be written."""
        held = {partition for (partition, _), until_s in list(self._held.items()) if until_s > now_s}
        return [partition for partition in self.served if partition not in held]

    def _candidates(self, seen: Mapping[int, _Seen], now_s: float, wanted: ClaimOptions) -> list[int]:
        """Return the partitions to ask, those first that were not asked for longest."""
        able = self._able(now_s)
        # If none has answered lately, all are tried: the runner waits by itself.
        able = [one for one in able if seen[one].again_s <= now_s] or able
        polls, sends = bool(wanted["polls"] or wanted.get("endings")), bool(wanted["sends"])
        due = [one for one in able if seen[one].wants(now_s, self._gap_s, polls=polls, sends=sends)]
        by_turn = sorted(due or able, key=lambda one: seen[one].looked_s)
        return by_turn if due else by_turn[:1]

    def _allot(
        self, left: Sequence[int], seen: Mapping[int, _Seen], worker_id: str, wanted: ClaimOptions
    ) -> dict[int, Flow[_Answer]]:
        """Split the room among partitions; return the claims."""
        polls, sends, endings = wanted["polls"], wanted["sends"], wanted.get("endings", 0)
        flows: dict[int, Flow[_Answer]] = {}
        for number, partition in enumerate(left):
            others = len(left) - number
            least = SHARE if seen[partition].backlog else 1
            room = [min(some, max(least, -(-some // others))) for some in (polls, sends)]
            looked = -(-endings // others)
            if not (any(room) or looked):
                break
            polls, sends, endings = polls - room[0], sends - room[1], endings - looked
            options: ClaimOptions = {**wanted, "polls": room[0], "sends": room[1], "endings": looked}
            flows[partition] = self._claim_at(partition, seen[partition], worker_id, options)
        return flows or {left[0]: self._claim_at(left[0], seen[left[0]], worker_id, {**wanted})}

    def _claim_at(self, partition: int, seen: _Seen, worker_id: str, wanted: ClaimOptions) -> Flow[_Answer]:
        now_s = time.monotonic()
        expected_ms = wanted.get("asked_ms")
        zero_ms = self._zeros_ms.get(partition)
        clock_ms = round(zero_ms + now_s * 1000) if zero_ms is not None else expected_ms
        asked = seen.takeovers.ask(now_s, clock_ms or 0)
        wanted["look_from"] = seen.look_from
        wanted["take_over"] = wanted.get("take_over", True) and asked.take_over
        wanted["asked_ms"] = None if expected_ms is None else asked.clock_ms
        batch = yield from self._all.cells[partition].claim(worker_id, **wanted)
        return _Answer(batch, asked, time.monotonic())

    def _note(self, partition: int, seen: _Seen, answer: _Answer) -> None:
        """Note what a partition answered."""
        batch, at_s = answer.batch, answer.at_s
        self._zeros_ms[partition] = batch.now_ms - at_s * 1000
        if self._first is None:
            self._first = partition
        seen.takeovers.claimed(answer.asked, batch, at_s)

        def monotonic(at_ms: int | None) -> float | None:
            return None if at_ms is None else at_s + (at_ms - batch.now_ms) / 1000

        seen.looked_s, seen.rung, seen.failures, seen.again_s = at_s, False, 0, -FOREVER_S
        seen.waiting, seen.look_from = batch.waiting, batch.look_from
        seen.next_poll_s, seen.next_send_s, seen.next_expiry_s = map(
            monotonic, (batch.next_poll_ms, batch.next_send_ms, batch.next_expiry_ms)
        )
        seen.workers = batch.workers
        seen.backlog = batch.waiting > 0 or _is_due(seen.next_poll_s, at_s)

    def _note_failure(self, seen: _Seen, error: QueueError) -> None:
        seen.takeovers.failed(answered=not isinstance(error, QueueUnavailableError) or error.answered)
        wait_s = min(AGAIN_BASE_S * 2.0 ** min(seen.failures, 10), AGAIN_CAP_S) * self._rng.uniform(0.5, 1.0)
        seen.failures, seen.again_s = seen.failures + 1, time.monotonic() + wait_s

    def _merged(self, seen: Mapping[int, _Seen], answers: Mapping[int, _Answer]) -> ClaimBatch:
        """Put what several partitions answered together, on the clock of one of them."""
        now_s = time.monotonic()
        now_ms = round(self._zeros_ms[cast("int", self._first)] + now_s * 1000)
        claims = [claim for partition, answer in answers.items() for claim in self._on_one_clock(partition, answer)]
        claims.sort(key=lambda claim: (not claim.taken_over, claim.due_ms))
        able = [seen[one] for one in self._able(now_s) if not seen[one].failures]
        gap_s, brakes = self._gap_s, dict[str, int]()
        for partition, answer in answers.items():
            for account, until_ms in answer.batch.brakes.items():
                brakes[account] = max(until_ms - self._off_ms(partition), brakes.get(account, 0))

        def first(times: Sequence[float | None]) -> int | None:
            return min((now_ms + round((at_s - now_s) * 1000) for at_s in times if at_s is not None), default=None)

        return attrs.evolve(
            next(iter(answers.values())).batch,
            claims=tuple(claims),
            now_ms=now_ms,
            next_poll_ms=first([one.later(one.next_poll_s, gap_s) for one in able]),
            next_send_ms=first([one.later(one.next_send_s, gap_s) for one in able]),
            next_expiry_ms=first([one.expiry_s for one in able]),
            waiting=sum(one.waiting for one in able),
            look_from=max((one.look_from for one in able), default=0),
            brakes=brakes,
            workers=max(one.workers for one in seen.values()),
        )

    def _on_one_clock(self, partition: int, answer: _Answer) -> Sequence[Claim]:
        off_ms = self._off_ms(partition)
        if not off_ms:
            return answer.batch.claims
        return [attrs.evolve(claim, due_ms=claim.due_ms - off_ms) for claim in answer.batch.claims]

    def _off_ms(self, partition: int) -> int:
        """Return by how much a partition's clock is ahead of the one that the runner is told."""
        zero_ms = self._zeros_ms.get(partition)
        if zero_ms is None or self._first is None:
            return 0
        off_ms = round(zero_ms - self._zeros_ms[self._first])
        return off_ms if abs(off_ms) > SAME_CLOCK_MS else 0

    # --- writes ---

    def apply(self, transitions: Sequence[Transition]) -> Flow[Sequence[TransitionResult | QueueError]]:
        """Carry out what was decided; where a partition does not, there is an error in the place of each result.

        Raises:
            QueueRefusedError: It is about the data of one of them.
        """
        groups = self._by_partition([transition.claim.token for transition in transitions])
        flows = {
            partition: self._all.cells[partition].apply([self._due_there(partition, transitions[one]) for one in some])
            for partition, some in groups.items()
        }
        answers = yield from self._together("apply", flows)
        results: dict[int, TransitionResult | QueueError] = {}
        for partition, answer in answers.items():
            some = groups[partition]
            if isinstance(answer, QueueRefusedError) and answer.about_data:
                raise answer
            self._hold(partition, "apply", failed=isinstance(answer, Exception))
            if isinstance(answer, Exception):
                results.update(dict.fromkeys(some, cast("QueueError", answer)))
            else:
                results.update(zip(some, answer, strict=True))
                self._plan(partition, [transitions[one] for one in some])
        return [results[one] for one in range(len(transitions))]

    def renew(self, claims: Sequence[tuple[str, str, bool]], lease: LeasePolicy) -> Flow[Sequence[bool | None]]:
        """Renew leases; None where a partition did not say.

        Raises:
            QueueError: None of those that are served did.
        """
        groups = self._by_partition([token for _, token, _ in claims])
        flows = {
            partition: self._all.cells[partition].renew([claims[one] for one in some], lease)
            for partition, some in groups.items()
        }
        answers = (yield from self._together("renew", flows)) if flows else {}
        held: list[bool | None] = [None] * len(claims)
        for partition in range(self._all.count):
            answer = answers.get(partition)
            # Where nothing is in hand, nothing has to be renewed before a claim.
            self._hold(partition, "renew", failed=isinstance(answer, Exception))
            if answer is not None and not isinstance(answer, Exception):
                for one, still in zip(groups[partition], answer, strict=True):
                    held[one] = still
        errors = [answer for answer in answers.values() if isinstance(answer, Exception)]
        if errors and len(errors) >= len(self.served):
            # Else the runner would hold all partitions back for those in which it happens to have jobs in hand.
            raise errors[0]
        return held

    def recover(self, **wanted: Unpack[RecoverOptions]) -> Flow[int]:
        """Take up jobs that have a record and are nowhere else, one partition after the other.

        Raises:
            QueueError: No partition could be looked at.
        """
        recovered, errors = 0, list[QueueError]()
        for partition in self.served:
            try:
                recovered += yield from self._all.cells[partition].recover(**wanted)
            except QueueError as error:
                errors.append(error)
        if errors and len(errors) == len(self.served):
            raise errors[0]
        return recovered

    def brake(self, pauses_s: Mapping[str, float]) -> Flow[int]:
        """Tell the workers of all partitions to leave accounts alone.

        Raises:
            QueueError: None of them took note.
        """
        flows = {one: self._all.cells[one].brake(pauses_s) for one in range(self._all.count)}
        answers = yield from self._together("brake", flows)
        held = [answer for answer in answers.values() if isinstance(answer, int)]
        errors = [answer for answer in answers.values() if isinstance(answer, Exception)]
        if not held:
            raise errors[0]
        return max(held)

    def _by_partition(self, tokens: Sequence[str]) -> dict[int, list[int]]:
        groups: dict[int, list[int]] = {}
        for number, token in enumerate(tokens):
            partition = partition_of(token)
            groups.setdefault(partition if partition < self._all.count else 0, []).append(number)
        return groups

    def _hold(self, partition: int, kind: str, *, failed: bool) -> None:
        """Note whether a write failed: until it succeeds, nothing is claimed there."""
        if failed:
            self._held[partition, kind] = time.monotonic() + HELD_S
        else:
            self._held.pop((partition, kind), None)

    def _due_there(self, partition: int, transition: Transition) -> Transition:
        """Return a transition with its time on the partition's own clock."""
        off_ms = self._off_ms(partition)
        if not off_ms or not isinstance(transition, Reschedule | Release | Redeliver) or transition.due_ms is None:
            return transition
        return attrs.evolve(transition, due_ms=transition.due_ms + off_ms)

    def _plan(self, partition: int, transitions: Sequence[Transition]) -> None:
        """Note when what was written falls due."""
        if self._first is None:
            return
        zero_ms = self._zeros_ms[self._first]
        for kind, name in (((Reschedule, Release), "next_poll_s"), ((Redeliver,), "next_send_s")):
            dues_ms = [one.due_ms for one in transitions if isinstance(one, kind) and one.due_ms is not None]
            if dues_ms:
                due_s = (min(dues_ms) - zero_ms) / 1000
                for each in list(self._seen.values()):
                    if (seen := each.get(partition)) is not None:
                        known_s = cast("float | None", getattr(seen, name))
                        setattr(seen, name, due_s if known_s is None else min(known_s, due_s))
