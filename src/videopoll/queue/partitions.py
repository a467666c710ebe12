"""A queue of several partitions: what producers and operators do with it, each thing once, as with one (`Operations`).

Each partition is a whole queue of its own (`videopoll.queue.layout` tells which has a job). What is asked of all of
them is put together here; what runners do is in `videopoll.queue.rounds`.

The number of partitions may grow while everything runs. Who knows of a greater number says so to the former homes of
an id before it takes the id in at its new one, and asks whether it is known there. From then on the script that takes
ids in refuses those of whoever knows of fewer partitions there, and that one learns the new number.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from typing_extensions import override

from videopoll._reasons import own
from videopoll.core.belonging import OfProcess
from videopoll.errors import (
    ConfigurationError,
    PartitionsAwayError,
    QueueError,
    QueueRefusedError,
    QueueUnavailableError,
)
from videopoll.jobs.checks import check_count, listed, quoted
from videopoll.jobs.job import JobState, check_is_text
from videopoll.jobs.views import CancelResult, EnqueueResult, HandedBack, JobPage, QueueCounts, ReceiptCounts
from videopoll.queue import calls, layout_calls, watch_calls
from videopoll.queue.dead_letters import Letters
from videopoll.queue.layout import MOST_PARTITIONS, Layout, Moved, homes, horizon_ms, leavings
from videopoll.queue.listing import IN_FLIGHT
from videopoll.queue.operations import Operations
from videopoll.queue.receipts import AT_ONCE, checked_receipts
from videopoll.queue.rounds import Rounds
from videopoll.queue.scripts import evaluate

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Unpack

    from videopoll.core.flow import Flow
    from videopoll.jobs.outcome import DeadLetter
    from videopoll.jobs.transition import ClaimBatch, Transition, TransitionResult
    from videopoll.jobs.views import HistoryEntry, JobView, ListedJob, WorkerInfo
    from videopoll.messages import MessageReceipt
    from videopoll.policies import LeasePolicy
    from videopoll.protocols import ClaimOptions, RecoverOptions
    from videopoll.queue.listing import JobFilter
    from videopoll.queue.operations import NewJob
    from videopoll.queue.rounds import Hand

__all__ = ["Partitions", "check_partitions"]

T = TypeVar("T")
R = TypeVar("R")

MOST_WORKERS = 1000
"""Workers that are told of at most."""

MOST_NAMED = 10
"""Partitions that an error names one by one."""

SLOW_S = 0.5
"""A partition that took longer than this, in seconds, to give no answer is silent: each call to it costs as much again."""

SILENT_S = 5.0
"""Seconds for which one that is silent holds up nobody who asks all of them."""


def check_partitions(partitions: int, serve: Collection[int] | None) -> tuple[int, ...] | None:
    """Return which partitions to serve; None for all.

    Raises:
        ConfigurationError: There cannot be so many, or such ones.
    """
    check_count("partitions", partitions)
    if partitions > MOST_PARTITIONS:
        msg = f"partitions must be at most {MOST_PARTITIONS}, got {partitions}"
        raise ConfigurationError(msg)
    if serve is None:
        return None
    numbers = listed(serve, "serve", "numbers of partitions")
    if not numbers or not all(type(one) is int and one >= 0 for one in numbers):
        msg = "serve must name at least one partition by its number, such as (0, 1); leave it out to serve all of them"
        raise ConfigurationError(msg)
    if max(numbers) >= MOST_PARTITIONS:
        msg = f"serve names partition {quoted(max(numbers))}: there are at most {MOST_PARTITIONS}, counted from 0"
        raise ConfigurationError(msg)
    return numbers


@attrs.frozen
class _Known:
    """What a partition said last of the number of partitions, at `now_ms` of its clock, `at_s` monotonic seconds of ours."""

    layout: Layout
    now_ms: int
    at_s: float


class Partitions(OfProcess, Operations):
    """The flows of a queue of several partitions.

    Args:
        make: Returns the flows of one partition.
        partitions: How many there are, as far as is known here.
        serve: Which of them a runner serves; None for all that there are.
        hands: Makes calls to several at once.

    Raises:
        ConfigurationError: There cannot be so many, or such ones.
    """

    def __init__(
        self, make: Callable[[int], Operations], partitions: int, serve: Collection[int] | None, hands: Hand
    ) -> None:
        serve = check_partitions(partitions, serve)
        self._make = make
        self._growing = threading.Lock()
        self.on_growth: Callable[[], object] = lambda: None
        """Called when there are more partitions than before."""
        self.cells: tuple[Operations, ...] = tuple(map(make, range(partitions)))
        self._known: dict[int, _Known] = {}
        self._silent: dict[int, tuple[float, QueueUnavailableError]] = {}
        self.rounds: Rounds = Rounds(self, hands, serve)
        first = self.cells[0]
        # What is kept in no particular partition is in the first: the answers of an agent's calls.
        super().__init__(
            first.client,
            first.front,
            keys=first.keys,
            ttls=first.ttls,
            dead_letters=first.dead,
            delivery=first.delivery,
            hooks=(),
            tenant_key=first.tenant_key,
        )
        self._begin_in_process()

    @override
    def _begin_in_child(self) -> None:
        # Another thread of the parent may have held it.
        self._growing = threading.Lock()

    @property
    def count(self) -> int:
        """How many partitions there are, as far as is known here."""
        return len(self.cells)

    def grow(self, partitions: int) -> None:
        """Take note of more partitions.

        Raises:
            QueueRefusedError: There cannot be so many.
        """
        if partitions > MOST_PARTITIONS:
            msg = (
                f"the key {self.keys.layout} or that of another partition holds no number of partitions: see"
                f" what has written it, and set it to the number, a colon and a Unix time in milliseconds"
            )
            raise QueueRefusedError(own(msg))
        with self._growing:
            new = range(len(self.cells), partitions)
            for partition in new:
                self.cells = (*self.cells, self._make(partition))
        if new:
            self.on_growth()

    # --- how many there are ---

    def announce(self) -> Flow[list[Layout | QueueError]]:
        """Tell all partitions how many there are, and return what each knows by then, or why it did not say.

        It begins with the first, which every job has among its homes: who hears of the number there asks no further.
        """
        told: list[Layout | QueueError] = []
        while len(told) < self.count:
            try:
                known = yield from self._tell(len(told), self.count)
            except QueueError as error:
                told.append(error)
                continue
            if known.layout.partitions > self.count:
                self.grow(known.layout.partitions)
                told.clear()
            else:
                told.append(known.layout)
        return told

    def look_at(self, partition: int) -> Flow[layout_calls.KnownHere]:
        """Ask a partition how many there are, and what time it is; change nothing."""
        return self._tell(partition, 0)

    def catch_up(self, partition: int = 0) -> Flow[bool]:
        """Ask a partition how many there are; return whether there are more than was known."""
        before = self.count
        known = yield from self._tell(partition, 0)
        self.grow(known.layout.partitions)
        return self.count > before

    def _tell(self, partition: int, partitions: int, job_ids: Sequence[str] = ()) -> Flow[layout_calls.KnownHere]:
        cell = self.cells[partition]
        known = yield from evaluate(cell.front, layout_calls.layout(cell.keys, partitions, job_ids))
        self._known[partition] = _Known(known.layout, known.now_ms, time.monotonic())
        return known

    def _left_long_ago(self, partition: int, partitions: int) -> bool:
        """Whether a partition takes in nothing for who knows of fewer partitions, for so long that what it took in is over."""
        known = self._known.get(partition)
        since_ms = None if known is None else known.layout.since_ms(partitions)
        if known is None or since_ms is None:
            return False
        now_ms = known.now_ms + (time.monotonic() - known.at_s) * 1000
        return now_ms - since_ms > horizon_ms(self.ttls, self.delivery)

    def along(self, job_id: str, ask: Callable[[int], Flow[T]], found: Callable[[T], bool]) -> Flow[T]:
        """Ask the home of a job, then its former homes, until something is found; return the last answer."""
        check_is_text(job_id, "job_id")
        while True:
            *former, home = homes(job_id, self.count)
            answer = yield from ask(home)
            while former and not found(answer):
                answer = yield from ask(former.pop())
            # Who has taken it in elsewhere has told its former home before.
            if found(answer) or not (yield from self.catch_up(home)):
                return answer

    def of_all(self, ask: Callable[[Operations], Flow[T]], put_together: Callable[[list[T]], R]) -> Flow[R]:
        """Ask every partition, also those that have come since this queue was built; return what all answers come to.

        Raises:
            PartitionsAwayError: Some did not answer, or said no. It has what the answers of the others come to.
            QueueError: None of them answered.
        """
        answers: list[T] = []
        away: dict[int, QueueError] = {}
        for number in itertools.count():
            if number >= self.count:
                break
            try:
                # While the first one is away, any of the others may know of more.
                answers.append((yield from self._of_one(number, ask, more=number == 0 or 0 in away)))
            except QueueError as error:
                away[number] = error
        if not away:
            return put_together(answers)
        refusals = [error for error in away.values() if isinstance(error, QueueRefusedError)]
        first = next(iter((*refusals, *away.values())))
        if not answers:
            raise first
        raise PartitionsAwayError(
            own(f"{len(away)} of {self.count} partitions did not answer ({self._names(away)}): {first}"),
            partitions=tuple(away),
            known=put_together(answers),
            refused=bool(refusals),
        ) from first

    def learn(self) -> Flow[None]:
        """Learn how many partitions there are, from the first one that answers.

        Raises:
            QueueError: None of those that are known answers.
        """
        for number in itertools.count():
            try:
                return (yield from self._of_one(number, _nothing, more=True))
            except QueueError:
                if number + 1 >= self.count:
                    raise
        raise AssertionError

    def _of_one(self, number: int, ask: Callable[[Operations], Flow[T]], *, more: bool) -> Flow[T]:
        """Ask one of several, and whether there are more; one that was silent a moment ago is not waited for again."""
        until_s, error = self._silent.get(number, (0.0, None))
        began_s = time.monotonic()
        if error is not None and began_s < until_s:
            raise QueueUnavailableError(*error.args, answered=error.answered)
        try:
            if more:
                yield from self.catch_up(number)
            return (yield from ask(self.cells[number]))
        except QueueUnavailableError as error:
            ended_s = time.monotonic()
            if ended_s - began_s > SLOW_S:
                self._silent[number] = (ended_s + SILENT_S, error)
            raise

    def _names(self, partitions: Collection[int]) -> str:
        names = [self.cells[one].keys.prefix for one in itertools.islice(partitions, MOST_NAMED)]
        return ", ".join(names) + (f" and {len(partitions) - MOST_NAMED} more" if len(partitions) > MOST_NAMED else "")

    # --- for producers ---

    @override
    def enqueue(self, jobs: Iterable[NewJob]) -> Flow[list[EnqueueResult]]:
        """Take jobs in; all are checked before the first is sent."""
        checked = self.checked(jobs)
        results: dict[int, EnqueueResult] = {}
        while left := [number for number in range(len(checked)) if number not in results]:
            groups: dict[int, list[int]] = {}
            for number in left:
                groups.setdefault(homes(checked[number][0], self.count)[-1], []).append(number)
            try:
                for home, numbers in groups.items():
                    yield from self._take_in_at(home, numbers, checked, results)
            except Moved as moved:
                self.grow(moved.partitions)
        return [results[number] for number in range(len(checked))]

    def _take_in_at(
        self,
        home: int,
        numbers: Sequence[int],
        jobs: Sequence[layout_calls.CheckedJob],
        results: dict[int, EnqueueResult],
    ) -> Flow[None]:
        """Take some jobs in at their home, but those that a former home knows.

        Raises:
            Moved: There are more partitions.
        """
        partitions = self.count
        former: dict[int, list[int]] = {}
        for number in numbers:
            for partition, left_at in leavings(jobs[number][0], partitions):
                if not self._left_long_ago(partition, left_at):
                    former.setdefault(partition, []).append(number)
        for partition, some in former.items():
            for chunk in calls.chunks(some):
                known = yield from self._tell(partition, partitions, [jobs[number][0] for number in chunk])
                if known.layout.partitions > partitions:
                    raise Moved(known.layout.partitions)
                results.update(
                    (number, result) for number, result in zip(chunk, known.results, strict=True) if result is not None
                )
        new = [number for number in numbers if number not in results]
        found = yield from self.cells[home].take_in([jobs[number] for number in new], partitions)
        results.update(zip(new, found, strict=True))

    @override
    def get(self, job_id: str) -> Flow[JobView | None]:
        """Look a job up."""
        return self.along(job_id, lambda partition: self.cells[partition].get(job_id), lambda view: view is not None)

    def locate(self, job_id: str) -> Flow[int]:
        """Return the partition that knows a job; its home if none does."""

        def ask(partition: int) -> Flow[tuple[int, bool]]:
            view = yield from self.cells[partition].get(job_id)
            return partition, view is not None

        partition, known = yield from self.along(job_id, ask, lambda answer: answer[1])
        return partition if known else homes(job_id, self.count)[-1]

    @override
    def cancel(self, job_id: str, *, notify: bool) -> Flow[CancelResult]:
        """Stop a job, and tell its user if `notify`."""
        return self.along(
            job_id,
            lambda partition: self.cells[partition].cancel(job_id, notify=notify),
            lambda result: result is not CancelResult.UNKNOWN,
        )

    @override
    def receive_receipts(self, receipts: Iterable[MessageReceipt]) -> Flow[ReceiptCounts]:
        """Take in what channels tell of messages that they accepted before.

        A receipt names a message, and not its job: all partitions are asked for it, and one that none of them
        knows is kept in all, as any of them may learn of the message in a moment.
        """
        left = checked_receipts(receipts)
        came: list[ReceiptCounts] = []
        trouble: QueueError | None = None
        for number in itertools.count():
            try:
                if number >= self.count and not (left and (yield from self.catch_up())):
                    break
                cell = self.cells[number]
                known: list[bool] = []
                for some in calls.chunks(left, AT_ONCE):
                    _, found = yield from evaluate(cell.front, watch_calls.find_watched(cell.keys, some))
                    known += [one.job_id is not None for one in found]
                here = [receipt for receipt, is_here in zip(left, known, strict=True) if is_here]
                if here:
                    came.append((yield from cell.receive_receipts(here)))
                left = [receipt for receipt, is_here in zip(left, known, strict=True) if not is_here]
            except QueueError as error:
                # The others' are taken in all the same; who sends these will send them again.
                trouble = error
                if number >= self.count:
                    break
        if trouble is not None:
            raise trouble
        for number, cell in enumerate(self.cells if left else ()):
            counts = yield from cell.receive_receipts(left)
            came.append(counts if number == 0 else attrs.evolve(counts, kept=0, ignored=0))
        return ReceiptCounts(**_added(ReceiptCounts, came))

    # --- for runners ---

    @override
    def claim(self, worker_id: str, **wanted: Unpack[ClaimOptions]) -> Flow[ClaimBatch]:
        """Lease what is due."""
        return self.rounds.claim(worker_id, **wanted)

    @override
    def apply(self, transitions: Sequence[Transition]) -> Flow[Sequence[TransitionResult | QueueError]]:
        """Carry out what was decided about claimed jobs."""
        return self.rounds.apply(transitions)

    @override
    def renew(self, claims: Sequence[tuple[str, str, bool]], lease: LeasePolicy) -> Flow[Sequence[bool | None]]:
        """Renew leases."""
        return self.rounds.renew(claims, lease)

    @override
    def recover(self, **wanted: Unpack[RecoverOptions]) -> Flow[int]:
        """Take up jobs that have a record and are nowhere else."""
        return self.rounds.recover(**wanted)

    @override
    def brake(self, pauses_s: Mapping[str, float]) -> Flow[int]:
        """Tell all workers to leave accounts of video APIs alone: each learns it in whatever partition it claims next."""
        return self.rounds.brake(pauses_s)

    # --- for operators ---

    @override
    def held_accounts(self) -> Flow[dict[str, int]]:
        """Return which accounts are held back now, and until when, the longest first."""

        def put_together(each: Iterable[Mapping[str, int]]) -> dict[str, int]:
            latest_ms: dict[str, int] = {}
            for held in each:
                for account, until_ms in held.items():
                    latest_ms[account] = max(until_ms, latest_ms.get(account, 0))
            return dict(sorted(latest_ms.items(), key=lambda one: -one[1]))

        return self.of_all(lambda cell: cell.held_accounts(), put_together)

    @override
    def counts(self) -> Flow[QueueCounts]:
        """Count the jobs by where they are."""
        return self.of_all(lambda cell: cell.counts(), _all_counts)

    @override
    def list_jobs(self, wanted: JobFilter, *, limit: int, offset: int) -> Flow[JobPage]:
        """List jobs."""
        check_count("list_jobs.limit", limit)
        check_count("list_jobs.offset", offset, low=0)
        order = list(dict.fromkeys(_rank(state) for state in wanted.states))

        def put_together(pages: Sequence[JobPage]) -> JobPage:
            jobs: dict[str, ListedJob] = {}
            for job in sorted((job for page in pages for job in page.jobs), key=lambda job: _place(job, order)):
                jobs.setdefault(job.job_id, job)
            shown = tuple(jobs.values())[offset:]
            return JobPage(
                shown[:limit], more=len(shown) > limit or any(page.more for page in pages), now_ms=pages[0].now_ms
            )

        return self.of_all(lambda cell: cell.list_jobs(wanted, limit=offset + limit, offset=0), put_together)

    @override
    def history(self, job_id: str | None, *, limit: int) -> Flow[tuple[HistoryEntry, ...]]:
        """Read what happened lately."""

        def put_together(each: Iterable[Iterable[HistoryEntry]]) -> tuple[HistoryEntry, ...]:
            found = itertools.chain.from_iterable(each)
            return tuple(sorted(found, key=lambda entry: entry.at_ms)[-limit:])

        return self.of_all(lambda cell: cell.history(job_id, limit=limit), put_together)

    @override
    def workers(self) -> Flow[tuple[WorkerInfo, ...]]:
        """Read which workers there are: each tells of itself in every partition that it serves."""
        return self.of_all(lambda cell: cell.workers(), _all_workers)

    @override
    def poll_now(self, job_id: str, *, counted: bool) -> Flow[bool]:
        """Make the next poll of a job due at once."""
        return self.along(job_id, lambda partition: self.cells[partition].poll_now(job_id, counted=counted), bool)

    @override
    def hand_back(self) -> Flow[HandedBack]:
        """Hand scheduled jobs to workers of another kind, a bounded number a call."""

        def put_together(each: Sequence[HandedBack]) -> HandedBack:
            gone = tuple(job_id for one in each for job_id in one.gone)
            return attrs.evolve(HandedBack(**_added(HandedBack, each)), gone=gone)

        return self.of_all(lambda cell: cell.hand_back(), put_together)

    @property
    @override
    def letters(self) -> Letters:
        return _AllLetters(self)


class _AllLetters(Letters):
    """The dead letters of all partitions."""

    def __init__(self, queue: Partitions) -> None:
        super().__init__(queue)
        self._all = queue

    @override
    def list(self, limit: int, offset: int) -> Flow[builtins.list[DeadLetter]]:
        check_count("dead_letters.list.limit", limit, low=0)
        check_count("dead_letters.list.offset", offset, low=0)

        def put_together(each: Iterable[Iterable[DeadLetter]]) -> builtins.list[DeadLetter]:
            found = itertools.chain.from_iterable(each)
            return sorted(found, key=lambda letter: -letter.at_ms)[offset : offset + limit]

        return (yield from self._all.of_all(lambda cell: cell.letters.list(offset + limit, 0), put_together))

    @override
    def get(self, job_id: str) -> Flow[DeadLetter | None]:
        return self._all.along(
            job_id, lambda partition: self._all.cells[partition].letters.get(job_id), lambda letter: letter is not None
        )

    @override
    def redrive(self, job_id: str) -> Flow[bool]:
        def ask(partition: int) -> Flow[tuple[int, bool]]:
            return partition, (yield from self._all.cells[partition].letters.get(job_id)) is not None

        partition, found = yield from self._all.along(job_id, ask, lambda answer: answer[1])
        # Not before: on the way more of them may have become known.
        cells = self._all.cells
        for later in homes(job_id, self._all.count) if found else ():
            if later > partition and (yield from cells[later].get(job_id)) is not None:
                # It was taken in again since, at its new home.
                return False
        return found and (yield from cells[partition].letters.redrive(job_id))

    @override
    def dismiss(self, job_id: str) -> Flow[bool]:
        return self._all.along(job_id, lambda partition: self._all.cells[partition].letters.dismiss(job_id), bool)


def _nothing(_: Operations) -> Flow[None]:
    yield from ()


def _all_counts(each: Sequence[QueueCounts]) -> QueueCounts:
    now_ms = each[0].now_ms
    # By each server's own clock.
    late_ms = [one.now_ms - one.oldest_due_ms for one in each if one.oldest_due_ms is not None]
    summed = QueueCounts(**_added(QueueCounts, each))
    return attrs.evolve(summed, now_ms=now_ms, oldest_due_ms=now_ms - max(late_ms) if late_ms else None)


def _all_workers(each: Iterable[Iterable[WorkerInfo]]) -> tuple[WorkerInfo, ...]:
    found: dict[str, WorkerInfo] = {}
    for worker in itertools.chain.from_iterable(each):
        before = found.get(worker.worker_id)
        if before is None or (worker.alive, worker.beat_ms) > (before.alive, before.beat_ms):
            found[worker.worker_id] = worker
    return tuple(sorted(found.values(), key=lambda worker: -worker.beat_ms)[:MOST_WORKERS])


def _added(kind: type[attrs.AttrsInstance], each: Sequence[object]) -> dict[str, Any]:
    """Return the sums of the numbers of some values of a class, by the names of its fields."""
    return {
        field.name: sum(value for one in each if isinstance(value := getattr(one, field.name), int))
        for field in attrs.fields(kind)
    }


def _rank(state: JobState) -> JobState:
    return IN_FLIGHT[0] if state in IN_FLIGHT else state


def _place(job: ListedJob, order: Sequence[JobState]) -> tuple[int, int]:
    """Return where a job stands in a list: state by state, those first whose turn is next, or who ended last."""
    newest_first = job.state in {JobState.DEAD, JobState.SETTLED}
    at_ms = (job.at_ms if job.at_ms is not None else job.start_ms) or 0
    rank = order.index(_rank(job.state)) if _rank(job.state) in order else len(order)
    return rank, -at_ms if newest_first else at_ms
