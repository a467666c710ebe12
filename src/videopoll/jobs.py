"""What a job is, what can become of it, and how both are written to Redis.

Owns the values `VideoJob`, `Outcome` and `OutboxEntry` and their JSON forms.
The job's record and ``video:completed`` are shared with other deployments, so
their field names are fixed. Nothing here opens a connection or reads a clock.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias, cast

import attrs

from videopoll._bounds import bounded, bounded_detail_or_none, bounded_id_or_none, time_or_none
from videopoll._numbers import LARGEST, is_number
from videopoll._reasons import Reason, own, repr_told
from videopoll.errors import InvalidJobError

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = [
    "RECORD_FIELDS",
    "Form",
    "JobState",
    "JsonValue",
    "OutboxEntry",
    "Outcome",
    "OutcomeKind",
    "Poison",
    "VideoJob",
]

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"

RECORD_FIELDS = ("jobId", "conversationId", "startTime", "status")
"""The record's own fields, which metadata may not take."""

MAX_ID_CHARS = 256
"""The longest job or conversation id that is accepted."""

MAX_CONVERSATION_ID_CHARS = 4 * MAX_ID_CHARS
"""The longest conversation id of a record that another producer wrote."""

MAX_METADATA_BYTES = 16_384
"""The largest metadata, as JSON: it is read back on every poll."""

PROMPT_CHARS = 100
"""A ``prompt`` in the metadata is cut to this many characters (contract of the record)."""

FUTURE_START_MS = 60_000
"""How far ahead of Redis's clock a ``startTime`` may be: producers' clocks may differ a little."""

EARLIEST_START_MS = 1_000_000_000_000
"""September 2001 in milliseconds. Anything below is a time in seconds."""

MAX_REASONS = 10
MAX_REASON_CHARS = 300
"""How many reasons of failed sends an outbox entry keeps, the newest, and how much of each."""


class JobState(enum.StrEnum):
    """Where a job is between its enqueueing and its end."""

    QUEUED = "queued"
    """Its id waits in the list for a worker to take it."""
    SCHEDULED = "scheduled"
    """It waits for its next poll."""
    POLLING = "polling"
    """A worker holds it and asks the video API."""
    DELIVERING = "delivering"
    """Its outcome is known, and a worker is sending it."""
    OUTBOX = "outbox"
    """Its outcome is known, and waits for the next try to send it."""
    SETTLED = "settled"
    """It has ended, and ``video:completed`` says how."""
    DEAD = "dead"
    """It is a dead letter: a person has to look at it."""
    ORPHANED = "orphaned"
    """It has a record and is nowhere else: other workers hold it in their memory, or lost it."""


TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.SCHEDULED, JobState.POLLING, JobState.SETTLED, JobState.DEAD}),
    JobState.SCHEDULED: frozenset({JobState.POLLING, JobState.SETTLED, JobState.DEAD}),
    JobState.POLLING: frozenset(
        {JobState.SCHEDULED, JobState.QUEUED, JobState.DELIVERING, JobState.SETTLED, JobState.DEAD}
    ),
    JobState.DELIVERING: frozenset({JobState.OUTBOX, JobState.SETTLED, JobState.DEAD}),
    JobState.OUTBOX: frozenset({JobState.DELIVERING, JobState.SETTLED, JobState.DEAD}),
    JobState.DEAD: frozenset({JobState.OUTBOX, JobState.QUEUED}),
    JobState.ORPHANED: frozenset({JobState.SCHEDULED, JobState.QUEUED, JobState.SETTLED}),
    JobState.SETTLED: frozenset(),
}
"""Every move a job can make. Tests hold the queue against it, and the docs draw it."""


class OutcomeKind(enum.StrEnum):
    """How the waiting for a video ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    NOT_FOUND = "not_found"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    CANCELLED = "cancelled"


class Form(enum.StrEnum):
    """The two forms of a message: a native video with a caption, or a text (with a link)."""

    VIDEO = "video"
    TEXT = "text"


@attrs.frozen
class Poison:
    """Something in Redis that is not a job, and why."""

    reason: str


def check_id(value: object, name: str) -> str:
    """Return `value` if it can serve as an id.

    Raises:
        InvalidJobError: It is not a string of 1 to 256 printable characters without spaces.
    """
    problem = _id_problem(value)
    if problem:
        msg = f"{name} {problem}"
        raise InvalidJobError(own(msg))
    return cast("str", value)


def _id_problem(value: object) -> str | None:
    if not isinstance(value, str):
        return f"must be a string, got {type(value).__name__}"
    if not 1 <= len(value) <= MAX_ID_CHARS:
        return f"must have 1 to {MAX_ID_CHARS} characters, got {len(value)}"
    # The ASCII space is the one white space that counts as printable.
    if not value.isprintable() or " " in value:
        return "must not contain control characters, spaces or undecodable bytes"
    if not value.strip("."):
        # "." and ".." would climb the path of the API's URL.
        return "must not consist of dots"
    return None


def _refuse_constant(text: str) -> NoReturn:
    msg = f"not JSON: {text}"
    raise ValueError(msg)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        # "1e999" reads as infinity, which cannot be written again.
        msg = f"too large: {text[:20]}"
        raise ValueError(msg)
    return number


# Made once: `json.loads` with options makes a decoder for each call, and a worker reads a record for each poll.
_JSON = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def load_object(raw: bytes) -> dict[str, JsonValue] | Poison:
    """Read a JSON object from hostile bytes."""
    try:
        value = _JSON.decode(raw.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return Poison("not JSON")
    if not isinstance(value, dict):
        return Poison("not a JSON object")
    return cast("dict[str, JsonValue]", value)


def dump(value: Mapping[str, object]) -> str:
    """Write a JSON object compactly; lone surrogates stay escaped, so it is always UTF-8."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


@attrs.frozen
class VideoJob:
    """A video that somebody waits for.

    Args:
        job_id: The video API's id of the generation.
        conversation_id: The host's name for whom the video is for.
        start_ms: When it was enqueued, in Unix milliseconds.
        metadata: What the producer added: prompt, model, recipient. Kept out
            of ``repr``, as it may hold a prompt or a phone number.
    """

    job_id: str
    conversation_id: str
    start_ms: int
    metadata: Mapping[str, JsonValue] = attrs.field(factory=dict, repr=False)

    @property
    def reference(self) -> str:
        """The name of this job's message at the channel: the same over retries and restarts."""
        digest = hashlib.sha256(f"{self.job_id}\n{self.start_ms}".encode("utf-8", "surrogatepass"))
        return f"vp-{digest.hexdigest()[:32]}"

    @classmethod
    def from_record(cls, job_id: str, raw: bytes, now_ms: int | None = None) -> VideoJob | Poison:
        """Read ``video:job:{job_id}``, trusting nothing in it.

        With `now_ms`, a start in the future is refused: so for what a stranger wrote. What was
        accepted once is never in the wrong because of a clock that stepped back since.
        """
        fields = load_object(raw)
        if isinstance(fields, Poison):
            return Poison(f"record is {fields.reason}")
        problem = _id_problem(job_id)
        if problem:
            return Poison(f"job id {problem}")
        if fields.get("jobId") != job_id:
            return Poison("record names no job id, or that of another job")
        conversation_id = fields.get("conversationId")
        if not isinstance(conversation_id, str) or not 0 < len(conversation_id) <= MAX_CONVERSATION_ID_CHARS:
            return Poison(
                "record has no conversationId"
                + (", but one that is too long" if isinstance(conversation_id, str) and conversation_id else "")
            )
        start_ms = fields.get("startTime")
        if isinstance(start_ms, float) and start_ms.is_integer():
            start_ms = int(start_ms)
        if isinstance(start_ms, bool) or not isinstance(start_ms, int):
            return Poison("record has no startTime in milliseconds")
        if start_ms < EARLIEST_START_MS:
            return Poison("startTime is not in milliseconds")
        if start_ms > (LARGEST if now_ms is None else now_ms + FUTURE_START_MS):
            return Poison("startTime is in the future")
        metadata = {name: value for name, value in fields.items() if name not in RECORD_FIELDS}
        if len(raw) > MAX_METADATA_BYTES:
            # Another kind of worker wrote it, or another version.
            metadata = _within_bounds(metadata)
        return cls(job_id, conversation_id, start_ms, metadata)

    def to_record(self) -> dict[str, JsonValue]:
        """Give the record's fields, metadata at the top level."""
        return {
            "jobId": self.job_id,
            "conversationId": self.conversation_id,
            "startTime": self.start_ms,
            "status": "polling",
            **self.metadata,
        }


def check_metadata(metadata: Mapping[str, JsonValue] | None) -> dict[str, JsonValue]:
    """Return a copy of `metadata` that may be stored with a job.

    Raises:
        InvalidJobError: It takes a name of the record, is no JSON, or is too large.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        msg = f"metadata must be a mapping, got {type(metadata).__name__}"
        raise InvalidJobError(own(msg))
    checked = dict(metadata)
    for name in checked:
        if not isinstance(name, str):
            msg = "metadata must have strings as names"
            raise InvalidJobError(own(msg))
    taken = sorted(checked.keys() & set(RECORD_FIELDS))
    if taken:
        msg = f"metadata may not use the names of the job's own fields: {', '.join(taken)}"
        raise InvalidJobError(own(msg))
    prompt = checked.get("prompt")
    if isinstance(prompt, str):
        checked["prompt"] = prompt[:PROMPT_CHARS]
    try:
        size = len(dump(checked))
    except (TypeError, ValueError, RecursionError) as error:
        msg = "metadata must be JSON: strings, finite numbers, booleans, None, lists and mappings"
        raise InvalidJobError(own(msg)) from error
    if size > MAX_METADATA_BYTES:
        msg = f"metadata must be at most {MAX_METADATA_BYTES} bytes as JSON, got {size}"
        raise InvalidJobError(own(msg))
    return checked


def _within_bounds(fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Keep the small values, and a remark in the place of some large ones: it is stored as often as an outcome is."""
    sizes = {name: len(dump({name: value})) for name, value in fields.items()}
    room, kept = MAX_METADATA_BYTES, dict[str, JsonValue]()
    for name in sorted(sizes, key=sizes.__getitem__):
        if sizes[name] <= room:
            kept[name] = fields[name]
            room -= sizes[name]
        elif len(kept) < MOST_FIELDS and len(name) <= MAX_ID_CHARS:
            kept[name] = f"(left out: {sizes[name]} bytes)"
    return kept


MOST_FIELDS = 50
"""With so many small values there is no more remark about a large one."""


def bounded_record(raw: bytes) -> str | None:
    """Return a record in the form in which a dead letter keeps it; None if it is large, and no record either."""
    if len(raw) <= MAX_METADATA_BYTES:
        return raw.decode("utf-8", "surrogateescape")
    fields = load_object(raw)
    if isinstance(fields, Poison):
        return None
    return dump(_within_bounds(fields))


def split_record(job_id: str, conversation_id: str, metadata: Mapping[str, JsonValue]) -> tuple[str, str]:
    """Give the record's JSON before and after the digits of ``startTime``.

    The enqueue script puts Redis's own time in between, so that a job's start
    and its schedule follow one clock, whatever the producer's clock says.
    """
    rest = {"status": "polling", **metadata}
    head = dump({"jobId": job_id, "conversationId": conversation_id})[:-1] + ',"startTime":'
    return head, "," + dump(rest)[1:]


@attrs.frozen
class Outcome:
    """How the waiting ended, before anybody was told.

    Args:
        kind: Which end it was.
        at_ms: When that was known, in Unix milliseconds.
        video_url: The finished video. Kept out of ``repr``: it may be signed.
        file_id: The video API's own id of the file, where it gave one.
        error: The operator's reason. Users never see it.
        timestamp: The video API's own time of the completion, as it wrote it.
        undeliverable_url: A video that was made, and cannot be handed on; for the
            operator only, and out of ``repr``.
    """

    kind: OutcomeKind
    at_ms: int
    video_url: str | None = attrs.field(default=None, repr=False)
    file_id: str | None = attrs.field(default=None, converter=bounded_id_or_none, repr=False)
    error: str | None = attrs.field(default=None, converter=bounded_detail_or_none, repr=repr_told)
    timestamp: JsonValue = attrs.field(default=None, converter=time_or_none, repr=False)
    undeliverable_url: str | None = attrs.field(default=None, repr=False)

    @property
    def success(self) -> bool:
        """Whether there is a video to deliver."""
        return self.kind is OutcomeKind.COMPLETED

    def to_completed(self, job: VideoJob, **delivery: JsonValue) -> dict[str, JsonValue]:
        """Give the fields of ``video:completed:{jobId}``, with what became of the delivery."""
        took_ms = max(0, self.at_ms - job.start_ms)
        if self.success:
            fields: dict[str, JsonValue] = {
                "success": True,
                "videoUrl": self.video_url,
                "fileId": self.file_id,
                "jobId": job.job_id,
                "completedAt": self.at_ms,
                "processingTime": took_ms,
                "timestamp": self.timestamp,
            }
        else:
            fields = {
                "success": False,
                "error": self.error,
                "jobId": job.job_id,
                "failedAt": self.at_ms,
                "processingTime": took_ms,
            }
            if self.undeliverable_url is not None:
                fields["undeliverableUrl"] = self.undeliverable_url
        return {**fields, "conversationId": job.conversation_id, "outcome": self.kind.value, **delivery}

    @classmethod
    def from_completed(cls, raw: bytes) -> Outcome | Poison:
        """Read ``video:completed:{jobId}``, whoever wrote it."""
        fields = load_object(raw)
        if isinstance(fields, Poison):
            return fields
        success = fields.get("success") is True
        at_ms = fields.get("completedAt" if success else "failedAt")
        url, file_id, error = fields.get("videoUrl"), fields.get("fileId"), fields.get("error")
        kind = OutcomeKind.COMPLETED if success else OutcomeKind.FAILED
        try:
            told = OutcomeKind(str(fields.get("outcome", kind.value)))
        except ValueError:
            told = kind
        # Every kind of worker writes and reads "success"; ours alone tell the outcome.
        if (told is OutcomeKind.COMPLETED) is success:
            kind = told
        return cls(
            kind=kind,
            at_ms=max(0, int(at_ms)) if is_number(at_ms) else 0,
            video_url=url if isinstance(url, str) else None,
            file_id=file_id if isinstance(file_id, str) else None,
            error=error if isinstance(error, str) else None,
            timestamp=fields.get("timestamp"),
            undeliverable_url=_text_or_none(fields.get("undeliverableUrl")),
        )


def _repr_reasons(reasons: tuple[str, ...]) -> str:
    return f"({', '.join(map(repr_told, reasons))})"


@attrs.frozen
class OutboxEntry:
    """An outcome that its user has not got yet, and what was tried.

    Args:
        job: Whose outcome it is.
        outcome: What to tell the user.
        form: The form of the next message.
        deadline_ms: When to stop trying, in Unix milliseconds of Redis's clock.
        tries: Sends begun, all forms together.
        form_failures: Sends in the present form that failed for a passing reason.
        sending_ms: When a send began whose end is not known; None when there is none.
        finds: How often the channel was asked about that send without success.
        reasons: What went wrong, the newest last.
        unquoted: Whether the channel has refused the message with its quote, so that it goes without.
        unknowns: Sends whose fate nobody could learn, all forms together.
    """

    job: VideoJob
    outcome: Outcome
    form: Form
    deadline_ms: int
    tries: int = 0
    form_failures: int = 0
    sending_ms: int | None = None
    finds: int = 0
    reasons: tuple[str, ...] = attrs.field(default=(), repr=_repr_reasons)
    unquoted: bool = False
    unknowns: int = 0

    def noting(self, reason: str) -> OutboxEntry:
        """Give a copy that remembers one more reason, and forgets the oldest."""
        return attrs.evolve(self, reasons=(*self.reasons, bounded(reason, MAX_REASON_CHARS))[-MAX_REASONS:])

    def to_json(self) -> str:
        """Write ``video:poll:outbox:{jobId}``; version 1 of its form."""
        outcome = self.outcome
        return dump(
            {
                "v": 1,
                "record": self.job.to_record(),
                "outcome": {
                    "kind": outcome.kind.value,
                    "at": outcome.at_ms,
                    "videoUrl": outcome.video_url,
                    "fileId": outcome.file_id,
                    "error": outcome.error,
                    "timestamp": outcome.timestamp,
                    **({"undeliverableUrl": outcome.undeliverable_url} if outcome.undeliverable_url else {}),
                },
                "form": self.form.value,
                "deadline": self.deadline_ms,
                "tries": self.tries,
                "formFailures": self.form_failures,
                "sending": self.sending_ms,
                "finds": self.finds,
                "reasons": list(self.reasons),
                **({"unquoted": True} if self.unquoted else {}),
                "unknowns": self.unknowns,
                # What of each is ours: it may be shown anywhere.
                "told": [reason.told if isinstance(reason, Reason) else "" for reason in self.reasons],
            }
        )

    @classmethod
    def from_json(cls, job_id: str, raw: bytes, now_ms: int | None = None) -> OutboxEntry | Poison:
        """Read an outbox entry, trusting nothing in it."""
        fields = load_object(raw)
        if isinstance(fields, Poison):
            return Poison(f"outbox entry is {fields.reason}")
        record, outcome = fields.get("record"), fields.get("outcome")
        if not isinstance(record, dict) or not isinstance(outcome, dict):
            return Poison("outbox entry has no record or no outcome")
        job = VideoJob.from_record(job_id, dump(record).encode(), now_ms)
        if isinstance(job, Poison):
            return job
        try:
            return cls(
                job=job,
                outcome=Outcome(
                    kind=OutcomeKind(str(outcome["kind"])),
                    at_ms=_whole(outcome["at"]),
                    video_url=_text_or_none(outcome.get("videoUrl")),
                    file_id=_text_or_none(outcome.get("fileId")),
                    error=_text_or_none(outcome.get("error")),
                    timestamp=outcome.get("timestamp"),
                    undeliverable_url=_text_or_none(outcome.get("undeliverableUrl")),
                ),
                form=Form(str(fields["form"])),
                deadline_ms=_whole(fields["deadline"]),
                tries=_whole(fields["tries"]),
                form_failures=_whole(fields["formFailures"]),
                sending_ms=None if fields["sending"] is None else _whole(fields["sending"]),
                finds=_whole(fields["finds"]),
                reasons=_read_reasons(fields["reasons"], fields.get("told")),
                unquoted=fields.get("unquoted") is True,
                # Earlier versions did not count them.
                unknowns=_whole(fields.get("unknowns", 0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            return Poison(f"outbox entry is damaged ({type(error).__name__})")


def _read_reasons(reasons: JsonValue, told: JsonValue) -> tuple[Reason, ...]:
    """Read the reasons of sends, and what of them is ours; an older worker did not note that."""
    listed = cast("list[object]", reasons)
    ours = told if isinstance(told, list) and len(told) == len(listed) else [""] * len(listed)
    return tuple(
        Reason(str(reason), said if isinstance(said, str) else "") for reason, said in zip(listed, ours, strict=True)
    )


def _whole(value: JsonValue) -> int:
    if not isinstance(value, int) or not is_number(value):
        msg = "not a whole number"
        raise TypeError(msg)
    return value


def _text_or_none(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
