"""Every Redis script as a typed call: its keys and arguments, and the reading of its reply.

The queue's sync and async twins are one line a method because of this file. Ids
travel as UTF-8 with ``surrogateescape``, so that even an id that is no text
comes back to Redis exactly as it was found.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar, cast

from videopoll.jobs.codec import Poison, is_number, load_object, raw, text_of
from videopoll.jobs.job import JobState, VideoJob
from videopoll.jobs.outcome import DeadLetter, OutboxEntry, Outcome, OutcomeKind
from videopoll.jobs.transition import (
    Abandoned,
    BeginSend,
    BeginWatch,
    Claim,
    ClaimBatch,
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
from videopoll.jobs.views import CancelResult, JobView, QueueCounts
from videopoll.observations import FaultKind
from videopoll.policies import FOREIGN_IDLE_S
from videopoll.queue import brake_calls, history_calls, layout_calls, watch_calls
from videopoll.queue.scripts import Script, ScriptCall

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from videopoll.jobs.codec import JsonValue
    from videopoll.policies import DeadLetterPolicy, KeyTtls, LeasePolicy, PollingStrategy
    from videopoll.queue.schema import Keys

T = TypeVar("T")

CLAIM = Script.load("claim", "lanes")
RESCHEDULE = Script.load("reschedule")
RELEASE = Script.load("release")
CONCLUDE = Script.load("conclude")
BEGIN_SEND = Script.load("begin_send")
REDELIVER = Script.load("redeliver")
SETTLE = Script.load("settle")
RENEW = Script.load("renew")
CANCEL = Script.load("cancel")
INSPECT = Script.load("inspect")
COUNT = Script.load("count")
RECOVER = Script.load("recover")
REDRIVE = Script.load("redrive")
POLL_NOW = Script.load("poll_now")
HAND_BACK = Script.load("hand_back")

SCRIPTS = (
    CLAIM,
    RESCHEDULE,
    RELEASE,
    CONCLUDE,
    BEGIN_SEND,
    REDELIVER,
    SETTLE,
    RENEW,
    CANCEL,
    INSPECT,
    COUNT,
    RECOVER,
    REDRIVE,
    POLL_NOW,
    HAND_BACK,
    brake_calls.BRAKE,
    *history_calls.SCRIPTS,
    *layout_calls.SCRIPTS,
    *watch_calls.SCRIPTS,
)
"""Every script there is."""

LONGEST_BLOCK_S = 5.0
"""The longest that an idle worker blocks: its connection's timeout is longer than that."""

LIST_ENDS = ((0, 4999), (-5000, -1))
"""Where the list is looked through before lost jobs are taken up: an id further inside is met twice, which harms nothing."""

MAX_DIGITS = 10
"""A counter of so many digits is none."""

MAX_BATCH = 500
"""Jobs a script call: Redis serves nobody else meanwhile, and Lua's unpack has a limit."""


def _raws(texts: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(map(raw, texts))


def chunks(items: Sequence[T], size: int = MAX_BATCH) -> list[Sequence[T]]:
    """Cut a sequence into pieces of at most `size`."""
    return [items[first : first + size] for first in range(0, len(items), size)]


def claim(
    keys: Keys,
    *,
    polls: int,
    sends: int,
    token: str,
    strategy: PollingStrategy,
    lease: LeasePolicy,
    ttls: KeyTtls,
    foreign_workers: bool = False,
    endings: int = 0,
    look_from: int = 0,
    take_new: bool = True,
    take_over: bool = True,
    in_hand: Collection[str] = (),
    asked_ms: int | None = None,
) -> ScriptCall[ClaimBatch]:
    """Lease what is due, at most so many polls and sends, and what is to be ended without a poll."""

    def parse(reply: object) -> ClaimBatch:
        now_ms, next_poll, next_send, next_expiry, waiting, found, next_look, held, workers = cast(
            "tuple[int, int, int, int, int, list[_ClaimFields], int, list[bytes], int]", reply
        )
        return ClaimBatch(
            tuple([_read_one(fields, token, now_ms) for fields in found]),
            now_ms,
            next_poll if next_poll >= 0 else None,
            next_send if next_send >= 0 else None,
            next_expiry if next_expiry >= 0 else None,
            waiting,
            next_look,
            brake_calls.read_held(held),
            workers,
        )

    return ScriptCall(
        CLAIM,
        (*keys.fixed, keys.brakes, keys.workers),
        (
            keys.prefix,
            min(polls, MAX_BATCH),
            min(sends, MAX_BATCH),
            ms(lease.duration_s),
            token,
            ttls.lock_s,
            ttls.attempts_s,
            ms(strategy.initial_delay_s),
            ms(strategy.interval_s),
            ms(strategy.timeout_s) if foreign_workers else "",
            min(endings, MAX_BATCH),
            look_from,
            ms(strategy.timeout_s + strategy.interval_s),
            ttls.job_s,
            int(take_new),
            int(take_over),
            "" if asked_ms is None else asked_ms,
            ms(lease.renew_every_s),
            *_raws(in_hand),
        ),
        parse,
        repeatable=False,
    )


def ms(seconds: float) -> int:
    """Return a span of time in whole milliseconds, at least one if it is any."""
    return max(1, round(seconds * 1000)) if seconds else 0


def _ms_or_none(value: bytes) -> int | None:
    number = float(value)
    return int(number) if math.isfinite(number) and number >= 0 else None


_ClaimFields: TypeAlias = (
    "tuple[bytes, bytes, int, int, int, bytes, bytes | None, bytes | None, bytes | None, bytes, int]"
)


def _read_one(fields: _ClaimFields, token: str, now_ms: int) -> Claim:
    """Read one claim; one that cannot be read must not take along the others that were leased with it."""
    try:
        return _read_claim(fields, token, now_ms)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        reason = f"what Redis keeps of it cannot be read ({type(error).__name__})"
        kept = next((one for one in reversed(fields[6:8]) if isinstance(one, bytes)), None)
        return Claim(text_of(fields[0]), token, now_ms, Poison(reason), raw=kept)


def _read_claim(fields: _ClaimFields, token: str, now_ms: int) -> Claim:
    id_bytes, source, due_ms, attempts_before, age_ms, faults, record, outbox, completed, wrong, ending = fields
    job_id = text_of(id_bytes)
    taken_over = source == b"expired"
    # Neither a poll that somebody else has counted nor an end without one counts here.
    counted = int(not taken_over and not ending)
    job: VideoJob | Poison
    work: PollWork | SendWork | Abandoned | MissingRecord | Poison
    if wrong == b"start":
        work = Poison("startTime is in the future")
    elif wrong:
        _, name, kind = text_of(wrong).rsplit(":", 2)
        work = Poison(f"the {name} key holds a {kind}" if kind != "not a number" else f"the {name} key holds no number")
    elif outbox is not None:
        entry = OutboxEntry.from_json(job_id, outbox)
        work = entry if isinstance(entry, Poison) else SendWork(entry)
    elif record is None:
        # Reached by an id that stands in the list, the schedule or a lease all the same.
        work = MissingRecord(finished=completed is not None)
    else:
        job = VideoJob.from_record(job_id, record)
        if isinstance(job, Poison):
            work = job
        elif completed is not None:
            work = _read_ended(job, completed)
        else:
            faults_in_row, answered_ms, doubt_ms, missing_ms, _, _, last_fault = _read_faults(faults)
            known = answered_ms is not None and missing_ms is None
            if not faults:
                # Nothing to remember: the polls before were answered (the one that a dead worker was at, perhaps not).
                known = attempts_before > taken_over
            if answered_ms is None and not faults_in_row and not taken_over and age_ms >= 0:
                # The last poll was answered, so its time is that of the counter.
                answered_ms = now_ms - age_ms
            attempts = attempts_before + counted
            work = PollWork(
                job,
                attempts,
                faults_in_row,
                answered_ms,
                doubt_ms,
                known=known,
                missing_ms=missing_ms,
                last_fault=last_fault,
            )
    return Claim(
        job_id=job_id,
        token=token,
        due_ms=due_ms,
        work=work,
        raw=outbox if outbox is not None else record,
        raw_is_entry=outbox is not None,
        taken_over=taken_over,
        ending=bool(ending),
        attempts_before=attempts_before - (taken_over and not ending),
        attempts_age_ms=age_ms if age_ms >= 0 else None,
    )


def _read_ended(job: VideoJob, completed: bytes) -> Abandoned | MissingRecord | Poison:
    """Judge a record beside a completed record: both kinds of workers leave the two, each at another moment."""
    outcome, fields = Outcome.from_completed(completed), load_object(completed)
    if isinstance(outcome, Poison) or isinstance(fields, Poison):
        return Poison("the completed key is not JSON")
    if fields.get("delivered") is True or "acceptedAt" in fields or outcome.kind is OutcomeKind.CANCELLED:
        # Ours, and the last that was to be done: a producer or worker of another kind has written the record again.
        return MissingRecord(finished=True, left_over=True)
    return Abandoned(job, outcome)


class _Polled(NamedTuple):
    """What is remembered of a job between two polls."""

    faults: int = 0
    last_answer_ms: int | None = None
    doubt_ms: int | None = None
    missing_ms: int | None = None
    progress_permille: int | None = None
    queue_position: int | None = None
    last_fault: str | None = None


def _read_faults(state: bytes) -> _Polled:
    """Read what `_reschedule` has written, trusting nothing in it.

    That is "faults:last answer ms[:attempts[:doubt ms[:missing ms[:progress in permille[:place in the API's queue
    [:last fault]]]]]]".
    """
    if not state:
        return _Polled()
    count, answered, _, doubt, missing, *shown, fault = (*state.split(b":"), *_NOTHING)[:8]
    try:
        faults = max(0, int(count))
        answered_ms, doubt_ms, missing_ms = (int(one) if one else None for one in (answered, doubt, missing))
        permille, position = (int(one) if one.isdigit() else None for one in shown)
    except ValueError:
        return _Polled()
    last_fault = text_of(fault) if fault in _FAULTS else None
    return _Polled(faults, answered_ms, doubt_ms, missing_ms, permille, position, last_fault)


_NOTHING = (b"",) * 7

_FAULTS = frozenset(kind.value.encode() for kind in FaultKind)


def renew(
    keys: Keys, claims: Sequence[tuple[str, str, bool]], lease: LeasePolicy, ttls: KeyTtls
) -> ScriptCall[list[bool]]:
    """Renew leases: id, token, and whether the job is being polled."""
    return ScriptCall(
        RENEW,
        (*keys.fixed, *_raws(key(job_id) for job_id, _, _ in claims for key in (keys.lock, keys.job))),
        (
            ms(lease.duration_s),
            ttls.lock_s,
            ttls.job_s,
            *(word for job_id, token, polling in claims for word in (raw(job_id), token, int(polling))),
        ),
        lambda reply: [answer == 1 for answer in cast("list[int]", reply)],
    )


_VERDICTS = {
    0: TransitionResult.LOST,
    1: TransitionResult.APPLIED,
    2: TransitionResult.FINISHED_ELSEWHERE,
    3: TransitionResult.CONTENDED,
}


def _verdicts_on(items: Sequence[Transition]) -> Callable[[object], list[TransitionResult]]:
    """Return what reads one verdict for each transition; another number of them is a reply that cannot be read."""

    def parse(reply: object) -> list[TransitionResult]:
        verdicts = [_VERDICTS[answer] for answer in cast("list[int]", reply)]
        if len(verdicts) != len(items):
            msg = f"{len(verdicts)} verdicts on {len(items)} transitions"
            raise ValueError(msg)
        return verdicts

    return parse


HandBackReply: TypeAlias = "tuple[int, int, int, int, int, int, int, int, list[bytes]]"
"""Looked at, staying, handed back, theirs, ended, locked, in hand, sends, ids without a record."""

ApplyCall: TypeAlias = "tuple[list[int], ScriptCall[list[TransitionResult]]]"
"""A call that carries out some transitions, with their indexes among all of them."""


def apply(
    keys: Keys, transitions: Sequence[Transition], ttls: KeyTtls, dead: DeadLetterPolicy
) -> list[list[ApplyCall]]:
    """Group transitions into as few calls as there are kinds, and the calls into round trips."""
    trips: list[list[ApplyCall]] = []
    groups: dict[type, list[int]] = {}
    seen: set[str] = set()

    def close() -> None:
        for kinds in _ONE_TRIP, _THE_NEXT:
            trip = [
                (list(some), _call_for(kind, keys, [transitions[index] for index in some], ttls, dead))
                for kind in kinds
                for some in chunks(groups.get(kind, []))
            ]
            if trip:
                trips.append(trip)
        groups.clear()
        seen.clear()

    for index, transition in enumerate(transitions):
        if transition.claim.job_id in seen:
            # What is written of one job keeps its order.
            close()
        seen.add(transition.claim.job_id)
        groups.setdefault(type(transition), []).append(index)
    close()
    return trips


_ONE_TRIP = (BeginSend, Conclude, Settle, Reschedule, Release)
_THE_NEXT = (Redeliver, BeginWatch)
"""If a call fails, all are made again. A delivery that was put back by then may be in other hands: it goes last."""


def _call_for(
    kind: type, keys: Keys, items: Sequence[Transition], ttls: KeyTtls, dead: DeadLetterPolicy
) -> ScriptCall[list[TransitionResult]]:
    if kind is Reschedule:
        return _reschedule(keys, cast("Sequence[Reschedule]", items), ttls)
    if kind is Release:
        return _release(keys, cast("Sequence[Release]", items), ttls)
    if kind is Conclude:
        return _conclude(keys, cast("Sequence[Conclude]", items), ttls)
    if kind is BeginSend:
        return _begin_send(keys, cast("Sequence[BeginSend]", items))
    if kind is Redeliver:
        return _redeliver(keys, cast("Sequence[Redeliver]", items))
    if kind is BeginWatch:
        watched = cast("Sequence[BeginWatch]", items)
        return watch_calls.watch(keys, watched, ttls, _verdicts_on(watched))
    return _settle(keys, cast("Sequence[Settle]", items), ttls, dead)


def _reschedule(keys: Keys, items: Sequence[Reschedule], ttls: KeyTtls) -> ScriptCall[list[TransitionResult]]:
    args: list[str | bytes | int] = [ttls.job_s]
    locks = _raws(keys.lock(item.claim.job_id) for item in items)
    for item in items:
        permille = None if item.progress is None else round(item.progress * 1000)
        optional = (item.attempts, item.doubt_ms, item.missing_ms, permille, item.queue_position, item.last_fault)
        state = ""
        if item.faults or any(one is not None for one in optional):
            words = [
                str(item.faults),
                str(item.last_answer_ms or ""),
                *("" if one is None else str(one) for one in optional),
            ]
            while words[2:] and not words[-1]:
                words.pop()
            state = ":".join(words)
        args += (raw(item.claim.job_id), item.claim.token, item.due_ms, state)
    return ScriptCall(RESCHEDULE, (*keys.fixed, *locks), tuple(args), _verdicts_on(items))


def _release(keys: Keys, items: Sequence[Release], ttls: KeyTtls) -> ScriptCall[list[TransitionResult]]:
    args: list[str | bytes | int] = []
    job_keys: list[bytes] = []
    for item in items:
        claim = item.claim
        job_keys += [raw(keys.lock(claim.job_id)), raw(keys.attempts(claim.job_id))]
        # The last poll counts as long ago, whenever it was: the job was due when it was claimed,
        # and has to be due at once when it is met in the list.
        # What waits in the schedule keeps its due time, and its poll its age.
        left_ms = ttls.attempts_s * (500 if item.due_ms is None else 1000)
        if claim.attempts_age_ms is not None:
            left_ms = min(left_ms, ttls.attempts_s * 1000 - claim.attempts_age_ms)
        due_ms = "" if item.due_ms is None else item.due_ms
        args += (raw(claim.job_id), claim.token, claim.attempts_before, max(1, left_ms), due_ms)
    return ScriptCall(RELEASE, (*keys.fixed, *job_keys), tuple(args), _verdicts_on(items))


def _conclude(keys: Keys, items: Sequence[Conclude], ttls: KeyTtls) -> ScriptCall[list[TransitionResult]]:
    args: list[str | bytes | int] = [ttls.lock_s]
    job_keys: list[bytes] = []
    for item in items:
        job_keys += _raws(keys.of_job(item.claim.job_id))
        args += (raw(item.claim.job_id), item.claim.token, item.entry.to_json(), item.keep_s, item.lease_ms)
    return ScriptCall(CONCLUDE, (*keys.fixed, *job_keys), tuple(args), _verdicts_on(items))


def _begin_send(keys: Keys, items: Sequence[BeginSend]) -> ScriptCall[list[TransitionResult]]:
    return ScriptCall(
        BEGIN_SEND,
        (*keys.fixed, *_raws(keys.outbox(item.claim.job_id) for item in items)),
        tuple(
            word
            for item in items
            for word in (
                raw(item.claim.job_id),
                item.claim.token,
                item.entry.to_json(),
                item.keep_s,
                item.lease_ms,
            )
        ),
        _verdicts_on(items),
    )


def _redeliver(keys: Keys, items: Sequence[Redeliver]) -> ScriptCall[list[TransitionResult]]:
    return ScriptCall(
        REDELIVER,
        (*keys.fixed, *_raws(keys.outbox(item.claim.job_id) for item in items)),
        tuple(
            word
            for item in items
            for word in (raw(item.claim.job_id), item.claim.token, item.entry.to_json(), item.keep_s, item.due_ms)
        ),
        _verdicts_on(items),
    )


def _settle(
    keys: Keys, items: Sequence[Settle], ttls: KeyTtls, dead: DeadLetterPolicy
) -> ScriptCall[list[TransitionResult]]:
    args: list[str | bytes | int] = [ttls.completed_s, dead.max_count, dead.max_age_s]
    job_keys: list[bytes] = []
    for item in items:
        job_keys += _raws(keys.of_job(item.claim.job_id))
        letter = "" if item.letter is None else item.letter.to_json()
        work = item.claim.work
        bare = int(isinstance(work, MissingRecord) and not work.left_over)
        args += [raw(item.claim.job_id), item.claim.token, item.completed or "", letter, bare]
    return ScriptCall(SETTLE, (*keys.fixed, keys.dead, keys.letters, *job_keys), tuple(args), _verdicts_on(items))


def cancel(
    keys: Keys,
    job_id: str,
    *,
    completed: str,
    ttls: KeyTtls,
    notice: str = "",
    notice_s: int = 1,
) -> ScriptCall[CancelResult]:
    """Cancel a job; with `notice`, an outbox entry that tells its user."""
    return ScriptCall(
        CANCEL,
        (*keys.fixed, *_raws(keys.of_job(job_id))),
        (raw(job_id), completed, ttls.completed_s, notice, notice_s, ttls.lock_s),
        lambda reply: CancelResult(text_of(reply)),
    )


def inspect(keys: Keys, job_id: str) -> ScriptCall[JobView | None]:
    """Look a job up."""

    def parse(reply: object) -> JobView | None:
        now, *found, unlisted = cast("list[bytes | None]", reply)
        record, outbox, lock, attempts, completed, due, lease, token, faults, send_due, letter, watch, watch_ends = (
            found
        )
        if not any((record, outbox, completed, due, lease, send_due, letter)):
            return None
        now_ms = int(cast("bytes", now))
        job = VideoJob.from_record(job_id, record) if record is not None else None
        entry = OutboxEntry.from_json(job_id, outbox) if outbox is not None else None
        if entry is None and letter is not None:
            entry = DeadLetter.from_json(job_id, letter).entry
        ended = Outcome.from_completed(completed) if completed is not None else None
        if isinstance(job, Poison):
            job = None
        if isinstance(entry, Poison):
            entry = None
        written: dict[str, JsonValue] = {}
        if completed is not None and outbox is None:
            read = load_object(completed)
            written = {} if isinstance(read, Poison) else read
        delivered, state = written.get("delivered"), _state(found, unlisted=bool(unlisted))
        if state is JobState.SETTLED and watch is not None and delivered is None:
            state = JobState.WATCHED
            watched = OutboxEntry.from_json(job_id, watch)
            job = None if isinstance(watched, Poison) else watched.job
        polled = _read_faults(faults or b"")
        return JobView(
            job_id=job_id,
            state=state,
            job=job or (entry.job if entry else None),
            outcome=entry.outcome if entry else (None if isinstance(ended, Poison) else ended),
            entry=entry,
            delivered=delivered if isinstance(delivered, bool) else None,
            accepted_ms=_ms_of(written.get("acceptedAt")),
            delivered_ms=_ms_of(written.get("deliveredAt")),
            read_ms=_ms_of(written.get("readAt")),
            attempts=counted(attempts),
            faults=polled.faults,
            progress=None if polled.progress_permille is None else polled.progress_permille / 1000,
            queue_position=polled.queue_position,
            due_ms=_score(watch_ends if state is JobState.WATCHED else send_due if outbox is not None else due),
            lease_ms=_score(lease),
            holder=holder_of(token),
            foreign_lock=lock is not None and not lock.startswith(b"vp:"),
            now_ms=now_ms,
        )

    names = (*keys.of_job(job_id), keys.watch(job_id))
    return ScriptCall(
        INSPECT,
        (*keys.fixed, keys.letters, keys.watched, *_raws(names)),
        (raw(job_id), keys.lane(""), keys.send_lane("")),
        parse,
    )


def counted(counter: bytes | None) -> int:
    """Read a counter of polls, whatever stands in it."""
    return int(counter) if counter is not None and counter.isdigit() and len(counter) < MAX_DIGITS else 0


def holder_of(token: bytes | None) -> str | None:
    """Return the worker whose fencing token this is."""
    return text_of(token).rpartition(":")[0] if token else None


def _score(value: bytes | None) -> int | None:
    if value is None:
        return None
    number = float(value)
    return int(number) if math.isfinite(number) else None


def _ms_of(value: JsonValue) -> int | None:
    return int(value) if is_number(value) else None


def _state(found: Sequence[bytes | None], *, unlisted: bool) -> JobState:
    record, outbox, _, _, completed, due, lease, _, _, send_due, letter, *_ = found
    if letter is not None and outbox is None and record is None:
        return JobState.DEAD
    if lease is not None:
        return JobState.DELIVERING if outbox is not None else JobState.POLLING
    if outbox is not None or send_due is not None:
        return JobState.OUTBOX
    if due is not None:
        return JobState.SCHEDULED
    if record is None and completed is not None:
        return JobState.SETTLED
    return JobState.ORPHANED if unlisted else JobState.QUEUED


def count(keys: Keys) -> ScriptCall[QueueCounts]:
    """Count jobs by where they are."""

    def parse(reply: object) -> QueueCounts:
        now, queued, scheduled, in_flight, deliveries, dead, first, watched = cast(
            "tuple[bytes, int, int, int, int, int, bytes, int]", reply
        )
        return QueueCounts(queued, scheduled, in_flight, deliveries, dead, _ms_or_none(first), int(now), watched)

    return ScriptCall(COUNT, (*keys.fixed, keys.dead, keys.watched, keys.lanes), (keys.lane(""),), parse)


def recover(
    keys: Keys, job_ids: Sequence[str], *, idle_s: float, initial_delay_s: float, looked_at_ms: int, ttls: KeyTtls
) -> ScriptCall[list[bool]]:
    """Take up jobs that have a record and are nowhere else, nor have come in since the list was looked at."""
    return ScriptCall(
        RECOVER,
        (*keys.fixed, *_raws(key for job_id in job_ids for key in keys.of_job(job_id))),
        (
            ms(idle_s),
            ttls.attempts_s,
            ttls.job_s,
            ms(initial_delay_s),
            looked_at_ms,
            ttls.lock_s,
            *map(raw, job_ids),
        ),
        lambda reply: [answer == 1 for answer in cast("list[int]", reply)],
    )


def hand_back(keys: Keys, ttls: KeyTtls, *, stay: int, leases: bool) -> ScriptCall[HandBackReply]:
    """Hand some jobs to workers of another kind: `MAX_BATCH` of them are looked at, behind the `stay` that stay here."""
    return ScriptCall(
        HAND_BACK,
        keys.fixed,
        (keys.prefix, stay, MAX_BATCH, ttls.job_s, ttls.attempts_s, ttls.lock_s, ms(FOREIGN_IDLE_S), int(leases)),
        lambda reply: cast("HandBackReply", reply),
    )


def redrive(
    keys: Keys, job_id: str, stored: bytes, *, entry: str = "", entry_s: int = 1, record: str = "", ttls: KeyTtls
) -> ScriptCall[bool]:
    """Bring a dead letter back to its delivery or its polling; with neither, dismiss it."""
    return ScriptCall(
        REDRIVE,
        (*keys.fixed, keys.dead, keys.letters, *_raws(keys.of_job(job_id))),
        (raw(job_id), stored, entry, entry_s, raw(record), ttls.job_s),
        lambda reply: reply == 1,
    )


def poll_now(keys: Keys, job_id: str, *, counted: bool) -> ScriptCall[bool]:
    """Make the next poll of a scheduled job due at once; one that is not counted leaves the attempts as they are."""
    return ScriptCall(
        POLL_NOW,
        (*keys.fixed, raw(keys.attempts(job_id))),
        (raw(job_id), int(not counted)),
        lambda reply: reply == 1,
    )


def doorbell(keys: Keys, timeout_s: float) -> tuple[str, ...]:
    """Block until an id stands in the list. It moves to where it was: nothing is taken away."""
    return ("BLMOVE", keys.queue, keys.queue, "RIGHT", "RIGHT", f"{min(max(timeout_s, 0.001), LONGEST_BLOCK_S):.3f}")
