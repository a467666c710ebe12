"""What a job is, and how its record is written to Redis.

The record is shared with other deployments, so its field names are fixed.
Nothing here opens a connection or reads a clock.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from typing import cast

import attrs

from videopoll._reasons import own
from videopoll.errors import ConfigurationError, InvalidJobError
from videopoll.jobs.checks import quoted
from videopoll.jobs.codec import LARGEST, JsonValue, Poison, dump, load_object, raw

__all__ = [
    "RECORD_FIELDS",
    "TRANSITIONS",
    "JobState",
    "VideoJob",
    "check_id",
    "check_is_text",
    "check_metadata",
    "check_tenant_key",
    "with_tenant",
]

RECORD_FIELDS = ("jobId", "conversationId", "startTime", "status")
"""The record's own fields, which metadata may not take."""


MAX_ID_CHARS = 512
"""The longest job or conversation id that is accepted: gateways put a provider and a model into their ids, up to 350."""


MAX_CONVERSATION_ID_CHARS = 2 * MAX_ID_CHARS
"""The longest conversation id of a record that another producer wrote."""


MAX_METADATA_BYTES = 16_384
"""The largest metadata, as JSON: it is read back on every poll."""


MAX_OPERATION_BYTES = 4096
"""The largest ``operation`` of a job, as JSON: what a poll needs besides the id. The tool keeps room for it."""


TENANT = "tenant"
"""The entry of a record that names its tenant."""


MAX_TENANT_CHARS = 128
"""The longest name of a tenant."""


PROMPT_CHARS = 100
"""A ``prompt`` in the metadata is cut to this many characters (contract of the record)."""


FUTURE_START_MS = 60_000
"""How far ahead of Redis's clock a ``startTime`` may be: producers' clocks may differ a little."""


EARLIEST_START_MS = 1_000_000_000_000
"""September 2001 in milliseconds. Anything below is a time in seconds."""


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
    WATCHED = "watched"
    """Its channel has accepted the message, and a receipt may still tell whether its user gets it."""
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
    JobState.DELIVERING: frozenset({JobState.OUTBOX, JobState.WATCHED, JobState.SETTLED, JobState.DEAD}),
    JobState.WATCHED: frozenset({JobState.OUTBOX, JobState.SETTLED}),
    JobState.OUTBOX: frozenset({JobState.DELIVERING, JobState.SETTLED, JobState.DEAD}),
    JobState.DEAD: frozenset({JobState.OUTBOX, JobState.QUEUED}),
    JobState.ORPHANED: frozenset({JobState.SCHEDULED, JobState.QUEUED, JobState.SETTLED}),
    JobState.SETTLED: frozenset(),
}
"""Every move a job can make. Tests hold the queue against it, and the docs draw it."""


def check_id(value: object, name: str) -> str:
    """Return `value` if it can serve as an id.

    Raises:
        InvalidJobError: It is not a string of 1 to 512 printable characters without spaces.
    """
    problem = _id_problem(value)
    if problem:
        msg = f"{name} {problem}"
        raise InvalidJobError(own(msg))
    return cast("str", value)


def check_is_text(value: object, name: str) -> str:
    """Return an id of whatever characters, as it may stand in Redis: what is no job has one, too.

    Raises:
        InvalidJobError: It is not a string, or has characters that nothing in Redis has.
    """
    if not isinstance(value, str):
        msg = f"{name} must be a string, got {type(value).__name__}"
        raise InvalidJobError(own(msg))
    try:
        raw(value)
    except UnicodeEncodeError:
        msg = f"{name} must not contain half a character"
        raise InvalidJobError(own(msg)) from None
    return value


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

    @property
    def tenant(self) -> str | None:
        """Whose job this is among all that share the queue, as its record says (``tenant``); None if it says nothing."""
        tenant = self.metadata.get(TENANT)
        return tenant if isinstance(tenant, str) and _tenant_problem(tenant) is None else None

    @classmethod
    def from_record(cls, job_id: str, raw: bytes, now_ms: int | None = None) -> VideoJob | Poison:
        """Read ``video:job:{job_id}``, trusting nothing in it.

        With `now_ms`, a start in the future is refused: so for what a stranger wrote. What was
        accepted once is never in the wrong because of a clock that stepped back since.
        """
        fields = load_object(raw)
        if isinstance(fields, Poison):
            return Poison(f"record is {fields.reason}")
        return cls.from_fields(job_id, fields, now_ms, large=len(raw) > MAX_METADATA_BYTES)

    @classmethod
    def from_fields(
        cls, job_id: str, fields: Mapping[str, JsonValue], now_ms: int | None = None, *, large: bool
    ) -> VideoJob | Poison:
        """Read a record's fields as `from_record` does; those of a `large` one are kept within bounds."""
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
        if large:
            # Another kind of worker wrote it, or another version.
            metadata = _within_bounds(metadata)
        return cls(job_id, conversation_id, start_ms, metadata)

    def to_record(self) -> dict[str, JsonValue]:
        """Return the record's fields, metadata at the top level."""
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


def check_tenant_key(value: object) -> str | None:
    """Return `value` if it can name the entry of the metadata that says whose a job is, or is None.

    Raises:
        ConfigurationError: It is neither None nor the name of an entry that metadata may have.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not value or value in RECORD_FIELDS:
        msg = (
            "tenant_key must name an entry of the jobs' metadata, such as 'brand', and none of the job's own fields,"
            f" got {quoted(value, text=True)}"
        )
        raise ConfigurationError(own(msg))
    return value


def with_tenant(metadata: dict[str, JsonValue], tenant_key: str) -> dict[str, JsonValue]:
    """Return metadata that was checked, with the value of `tenant_key` as the tenant of the job's record.

    Raises:
        InvalidJobError: It cannot be a tenant, or another entry stands where the tenant is to stand.
    """
    tenant = metadata.get(tenant_key)
    if tenant_key != TENANT and TENANT in metadata:
        msg = f"metadata may not use the name {TENANT} where the tenant is named by another entry"
        raise InvalidJobError(msg)
    if tenant is None:
        return metadata
    if isinstance(tenant, int) and not isinstance(tenant, bool):
        tenant = str(tenant)
    problem = _tenant_problem(tenant)
    if problem:
        msg = f"the tenant, the metadata's entry that tenant_key names, {problem}"
        raise InvalidJobError(own(msg))
    return {**metadata, TENANT: tenant}


def _tenant_problem(value: object) -> str | None:
    if not isinstance(value, str):
        return f"must be a string or a whole number, got {type(value).__name__}"
    if not 1 <= len(value) <= MAX_TENANT_CHARS:
        return f"must have 1 to {MAX_TENANT_CHARS} characters, got {len(value)}"
    return None if value.isprintable() else "must not contain control characters or undecodable bytes"


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
    """Return the record's JSON before and after the digits of ``startTime``.

    The enqueue script puts Redis's own time in between, so that a job's start
    and its schedule follow one clock, whatever the producer's clock says.
    """
    rest = {"status": "polling", **metadata}
    head = dump({"jobId": job_id, "conversationId": conversation_id})[:-1] + ',"startTime":'
    return head, "," + dump(rest)[1:]
