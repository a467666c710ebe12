"""How a job ended, what is on its way to its user, and how both are written to Redis."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypedDict, cast

import attrs

from videopoll._reasons import Reason, own, repr_told
from videopoll.jobs.bounds import bounded, bounded_detail, bounded_detail_or_none, bounded_id_or_none, time_or_none
from videopoll.jobs.codec import JsonValue, Poison, dump, is_number, load_object, raw, text_or_none, whole
from videopoll.jobs.job import MAX_METADATA_BYTES, VideoJob
from videopoll.jobs.video import Asset, FailureReason, PublicLink, failure_reason, read_assets, with_video, write_assets

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AcceptedMessage", "DeadLetter", "MessageForm", "OutboxEntry", "Outcome", "OutcomeKind"]

MAX_REASONS = 10


MAX_REASON_CHARS = 300
"""How many reasons of failed sends an outbox entry keeps, the newest, and how much of each."""


class OutcomeKind(enum.StrEnum):
    """How the waiting for a video ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    NOT_FOUND = "not_found"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    CANCELLED = "cancelled"


class MessageForm(enum.StrEnum):
    """In what form a message goes out.

    The first send of a video is `VIDEO`, that of a notice `TEXT`. The others are for channels
    that have them: one of them is tried once its channel has refused another and named it,
    see `videopoll.messages.Refused`.
    """

    VIDEO = "video"
    """A native video that the channel fetches from its link."""
    UPLOAD = "upload"
    """A native video whose file is uploaded to the channel."""
    DOCUMENT = "document"
    """The video as a file to download, for what the channel cannot play."""
    TEMPLATE = "template"
    """A message that the channel has approved before, for users who have not written for long."""
    TEXT = "text"
    """A text, with the link if there is a video."""

    @property
    def has_video(self) -> bool:
        """Whether it is nothing without a video."""
        return self in _WITH_VIDEO


_WITH_VIDEO = frozenset({MessageForm.VIDEO, MessageForm.UPLOAD, MessageForm.DOCUMENT})


MAX_PREPARED_BYTES = 2048
"""The largest state that a channel keeps with a delivery, as JSON: it is written with each send."""


def prepared_or_none(value: object) -> Mapping[str, JsonValue] | None:
    """Return what a channel wants kept with a delivery; None for what cannot be, which is prepared anew.

    It comes from channels, of a host's own too, after a send: it is too late to complain.
    """
    try:
        written = dump(cast("Mapping[str, object]", value)) if isinstance(value, dict) else ""
    except (ValueError, TypeError, RecursionError):
        return None
    if not written or len(written) > MAX_PREPARED_BYTES:
        return None
    read = load_object(written.encode())
    return None if isinstance(read, Poison) else read


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
        reason: Why there is no video, where the API told. Users get a text for it.
        assets: All that was made, the video first; just the video at `video_url` if the
            API named nothing else.
        refreshable: Whether asking the API again gives a fresh link.
    """

    kind: OutcomeKind
    at_ms: int
    video_url: str | None = attrs.field(default=None, repr=False)
    file_id: str | None = attrs.field(default=None, converter=bounded_id_or_none, repr=False)
    error: str | None = attrs.field(default=None, converter=bounded_detail_or_none, repr=repr_told)
    timestamp: JsonValue = attrs.field(default=None, converter=time_or_none, repr=False)
    undeliverable_url: str | None = attrs.field(default=None, repr=False)
    reason: FailureReason = attrs.field(default=FailureReason.UNKNOWN, kw_only=True)
    assets: tuple[Asset, ...] = attrs.field(default=(), kw_only=True, repr=False)
    refreshable: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        url, assets = with_video(self.video_url, self.assets)
        object.__setattr__(self, "video_url", url)
        object.__setattr__(self, "assets", assets)

    @property
    def success(self) -> bool:
        """Whether there is a video to deliver."""
        return self.kind is OutcomeKind.COMPLETED

    def to_completed(self, job: VideoJob, **delivery: JsonValue) -> dict[str, JsonValue]:
        """Return the fields of ``video:completed:{jobId}``, with what became of the delivery."""
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
                **self._more(locked=False),
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
            if self.reason is not FailureReason.UNKNOWN:
                fields["reason"] = self.reason.value
        return {**fields, "conversationId": job.conversation_id, "outcome": self.kind.value, **delivery}

    def _more(self, *, locked: bool) -> dict[str, JsonValue]:
        """Return the fields that most outcomes do not have, and earlier versions pass over."""
        more: dict[str, JsonValue] = {}
        if self.reason is not FailureReason.UNKNOWN:
            more["reason"] = self.reason.value
        if self.assets and self.assets != (Asset(PublicLink(self.video_url or "")),):
            more["assets"] = write_assets(self.assets, locked=locked)
        if self.refreshable:
            more["refreshable"] = True
        return more

    def to_fields(self) -> dict[str, JsonValue]:
        """Return the outcome as it stands in an outbox entry."""
        return {
            "kind": self.kind.value,
            "at": self.at_ms,
            "videoUrl": self.video_url,
            "fileId": self.file_id,
            "error": self.error,
            "timestamp": self.timestamp,
            **({"undeliverableUrl": self.undeliverable_url} if self.undeliverable_url else {}),
            **self._more(locked=True),
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, JsonValue]) -> Outcome:
        """Read the outcome of an outbox entry.

        Raises:
            KeyError, TypeError, ValueError: It is damaged.
        """
        return cls(OutcomeKind(str(fields["kind"])), whole(fields["at"]), **_common(fields))

    @classmethod
    def from_completed(cls, stored: bytes) -> Outcome | Poison:
        """Read ``video:completed:{jobId}``, whoever wrote it."""
        fields = load_object(stored)
        if isinstance(fields, Poison):
            return fields
        success = fields.get("success") is True
        at_ms = fields.get("completedAt" if success else "failedAt")
        kind = OutcomeKind.COMPLETED if success else OutcomeKind.FAILED
        try:
            told = OutcomeKind(str(fields.get("outcome", kind.value)))
        except ValueError:
            told = kind
        # Every kind of worker writes and reads "success"; ours alone tell the outcome.
        if (told is OutcomeKind.COMPLETED) is success:
            kind = told
        return cls(kind, max(0, int(at_ms)) if is_number(at_ms) else 0, **_common(fields))


class _Common(TypedDict):
    """What an outbox entry and ``video:completed`` say of an outcome in the same words."""

    video_url: str | None
    file_id: str | None
    error: str | None
    timestamp: JsonValue
    undeliverable_url: str | None
    reason: FailureReason
    assets: tuple[Asset, ...]
    refreshable: bool


def _common(fields: Mapping[str, JsonValue]) -> _Common:
    return {
        "video_url": text_or_none(fields.get("videoUrl")),
        "file_id": text_or_none(fields.get("fileId")),
        "error": text_or_none(fields.get("error")),
        "timestamp": fields.get("timestamp"),
        "undeliverable_url": text_or_none(fields.get("undeliverableUrl")),
        "reason": failure_reason(fields.get("reason")),
        "assets": read_assets(fields.get("assets")),
        "refreshable": fields.get("refreshable") is True,
    }


@attrs.frozen(kw_only=True)
class AcceptedMessage:
    """A message that its channel has accepted: a receipt will tell what became of it.

    Args:
        at_ms: When it was accepted, in Unix milliseconds of Redis's clock.
        form: The form that it went in.
        message_id: The channel's id of it.
        channel: The channel of a `RoutingNotifier`.
        receipt: The receipt that opened the delivery again, as it is kept; None while there is none.
    """

    at_ms: int
    form: MessageForm
    message_id: str | None = attrs.field(default=None, repr=False)
    channel: str | None = attrs.field(default=None, repr=False)
    receipt: str | None = attrs.field(default=None, repr=False)

    def to_fields(self) -> dict[str, JsonValue]:
        """Return it as it stands in an outbox entry."""
        return {
            "at": self.at_ms,
            "form": self.form.value,
            "messageId": self.message_id,
            "channel": self.channel,
            "receipt": self.receipt,
        }

    @classmethod
    def from_fields(cls, fields: JsonValue) -> AcceptedMessage | None:
        """Read what stands in an outbox entry; None if there is nothing.

        Raises:
            KeyError, TypeError, ValueError: It is damaged.
        """
        if not isinstance(fields, dict):
            return None
        return cls(
            at_ms=whole(fields["at"]),
            form=MessageForm(str(fields["form"])),
            message_id=text_or_none(fields.get("messageId")),
            channel=text_or_none(fields.get("channel")),
            receipt=text_or_none(fields.get("receipt")),
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
        lookups: How often the channel was asked about that send without success.
        reasons: What went wrong, the newest last.
        unquoted: Whether the channel has refused the message with its quote, so that it goes without.
        unknowns: Sends whose fate nobody could learn, all forms together.
        refused_forms: The forms that the channel has refused, which are not tried again.
        begun_ms: When the send at `sending_ms` began; or the first of those that it repeats, for a
            channel that makes one message of repeats.
        prepared: What the channel has prepared for the message, such as the id of an uploaded
            file. Kept out of ``repr``.
        accepted: The message that a receipt tells of, or will; None if the channel has accepted none.
    """

    job: VideoJob
    outcome: Outcome
    form: MessageForm
    deadline_ms: int
    tries: int = 0
    form_failures: int = 0
    sending_ms: int | None = None
    lookups: int = 0
    reasons: tuple[str, ...] = attrs.field(default=(), repr=_repr_reasons)
    unquoted: bool = False
    unknowns: int = 0
    refused_forms: frozenset[MessageForm] = frozenset()
    begun_ms: int | None = None
    prepared: Mapping[str, JsonValue] = attrs.field(factory=dict, repr=False)
    accepted: AcceptedMessage | None = None
    # As it is written: often more than once, as it is.
    _json: str | None = attrs.field(default=None, init=False, repr=False, eq=False)

    def noting(self, reason: str) -> OutboxEntry:
        """Return a copy that remembers one more reason, and forgets the oldest."""
        return attrs.evolve(self, reasons=(*self.reasons, bounded(reason, MAX_REASON_CHARS))[-MAX_REASONS:])

    def to_json(self) -> str:
        """Write ``video:poll:outbox:{jobId}``; version 1 of its form.

        Earlier versions know two forms, and pass over fields that they do not know. What they
        find under ``form`` is the one of the two that comes nearest: a worker of such a version
        sends the message in that, and forgets the rest.
        """
        if self._json is None:
            object.__setattr__(self, "_json", self._written())
        return cast("str", self._json)

    def _written(self) -> str:
        return dump(
            {
                "v": 1,
                "record": self.job.to_record(),
                "outcome": self.outcome.to_fields(),
                "form": (MessageForm.VIDEO if self.form.has_video else MessageForm.TEXT).value,
                "deadline": self.deadline_ms,
                "tries": self.tries,
                "formFailures": self.form_failures,
                "sending": self.sending_ms,
                "finds": self.lookups,
                "reasons": list(self.reasons),
                **({"unquoted": True} if self.unquoted else {}),
                "unknowns": self.unknowns,
                **({} if self.accepted is None else {"accepted": self.accepted.to_fields()}),
                # What of each is ours: it may be shown anywhere.
                "told": [reason.told if isinstance(reason, Reason) else "" for reason in self.reasons],
                **self._more(),
            }
        )

    def _more(self) -> dict[str, JsonValue]:
        """Return the fields that most entries do not have, and earlier versions pass over."""
        more: dict[str, JsonValue] = {}
        if self.form not in {MessageForm.VIDEO, MessageForm.TEXT}:
            more["sendAs"] = self.form.value
        if self.refused_forms:
            more["refused"] = [form.value for form in sorted(self.refused_forms)]
        if self.begun_ms is not None:
            more["begun"] = self.begun_ms
        if self.prepared:
            more["prepared"] = dict(self.prepared)
        return more

    @classmethod
    def from_json(cls, job_id: str, stored: bytes, now_ms: int | None = None) -> OutboxEntry | Poison:
        """Read an outbox entry, trusting nothing in it."""
        fields = load_object(stored)
        if isinstance(fields, Poison):
            return Poison(f"outbox entry is {fields.reason}")
        record, outcome = fields.get("record"), fields.get("outcome")
        if not isinstance(record, dict) or not isinstance(outcome, dict):
            return Poison("outbox entry has no record or no outcome")
        # What is small with its outcome is small without it.
        large = len(stored) > MAX_METADATA_BYTES and len(dump(record)) > MAX_METADATA_BYTES
        job = VideoJob.from_fields(job_id, record, now_ms, large=large)
        if isinstance(job, Poison):
            return job
        try:
            return cls(
                job=job,
                outcome=Outcome.from_fields(outcome),
                form=_form(fields.get("sendAs")) or MessageForm(str(fields["form"])),
                deadline_ms=whole(fields["deadline"]),
                tries=whole(fields["tries"]),
                form_failures=whole(fields["formFailures"]),
                sending_ms=None if fields["sending"] is None else whole(fields["sending"]),
                lookups=whole(fields["finds"]),
                reasons=_read_reasons(fields["reasons"], fields.get("told")),
                unquoted=fields.get("unquoted") is True,
                # Earlier versions did not count them.
                unknowns=whole(fields.get("unknowns", 0)),
                refused_forms=_forms(fields.get("refused")),
                begun_ms=None if fields.get("begun") is None else whole(fields["begun"]),
                prepared=prepared_or_none(fields.get("prepared")) or {},
                accepted=AcceptedMessage.from_fields(fields.get("accepted")),
            )
        except (KeyError, TypeError, ValueError) as error:
            return Poison(f"outbox entry is damaged ({type(error).__name__})")


def _form(word: JsonValue) -> MessageForm | None:
    """Read a form; None for a word that a later version has: what stands under ``form`` is known to all."""
    return MessageForm(word) if isinstance(word, str) and word in set(MessageForm) else None


def _forms(words: JsonValue) -> frozenset[MessageForm]:
    read = (_form(word) for word in words) if isinstance(words, list) else ()
    return frozenset(form for form in read if form is not None)


def _read_reasons(reasons: JsonValue, told: JsonValue) -> tuple[Reason, ...]:
    """Read the reasons of sends, and what of them is ours; an older worker did not note that."""
    listed = cast("list[object]", reasons)
    ours = told if isinstance(told, list) and len(told) == len(listed) else [""] * len(listed)
    return tuple(
        Reason(str(reason), said if isinstance(said, str) else "") for reason, said in zip(listed, ours, strict=True)
    )


@attrs.frozen
class DeadLetter:
    """Something that could not be processed or delivered.

    Args:
        job_id: Its id, exactly as it stood in Redis.
        reason: Why, for the operator.
        at_ms: When, in Unix milliseconds.
        record: The job's record as it was read, if there was one.
        entry: The outbox entry, if there is an outcome to deliver.
        raw_entry: The outbox entry as it was read, if it is damaged.
    """

    job_id: str
    reason: str = attrs.field(converter=bounded_detail, repr=repr_told)
    at_ms: int
    record: str | None = attrs.field(default=None, repr=False)
    entry: OutboxEntry | None = attrs.field(default=None, repr=False)
    raw_entry: str | None = attrs.field(default=None, repr=False)

    def to_json(self) -> str:
        """Write the letter as it is kept; version 1 of its form."""
        return dump(
            {
                "v": 1,
                "jobId": self.job_id,
                "reason": self.reason,
                "told": self.reason.told if isinstance(self.reason, Reason) else "",
                "at": self.at_ms,
                "record": self.record,
                "entry": self.raw_entry if self.entry is None else self.entry.to_json(),
            }
        )

    @classmethod
    def from_json(cls, job_id: str, stored: bytes) -> DeadLetter:
        """Read a letter, whatever state it is in."""
        fields = load_object(stored)
        if isinstance(fields, Poison):
            return cls(job_id, own(f"the dead letter itself is {fields.reason}"), 0)
        at_ms, record, written = fields.get("at"), _storable(fields.get("record")), _storable(fields.get("entry"))
        at_ms, told = at_ms if isinstance(at_ms, int) else 0, fields.get("told")
        if written is None and record is not None and _is_entry(record):
            # Earlier versions kept an outcome that they could not read as if it were a record.
            record, written = None, record
        entry = OutboxEntry.from_json(job_id, raw(written)) if written is not None else None
        return cls(
            job_id,
            Reason(str(fields.get("reason", "unknown")), told if isinstance(told, str) else ""),
            at_ms,
            record,
            None if isinstance(entry, Poison) else entry,
            written if isinstance(entry, Poison) else None,
        )


def _is_entry(text: str) -> bool:
    """Whether this is an outbox entry and no record: that names its job."""
    fields = load_object(raw(text))
    return not isinstance(fields, Poison) and "outcome" in fields and "record" in fields and "jobId" not in fields


def _storable(value: object) -> str | None:
    """Return a text that can go back to Redis; a lone surrogate of another sort cannot."""
    if not isinstance(value, str):
        return None
    try:
        raw(value)
    except UnicodeEncodeError:
        return None
    return value
