"""Messages to users, their recipients, and receipts, as values.

A `Notifier` gets a `Message` and returns a `Receipt`.
"""

from __future__ import annotations

import enum
import types
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs

from videopoll._reasons import own, repr_told, shown_name
from videopoll.errors import ConfigurationError, NotSentError, RefusedError
from videopoll.jobs.bounds import bounded_detail, bounded_detail_or_none, bounded_id_or_none
from videopoll.jobs.checks import check_choice, kind_name
from videopoll.jobs.codec import JsonValue, is_number
from videopoll.jobs.job import VideoJob
from videopoll.jobs.outcome import MessageForm, Outcome, prepared_or_none
from videopoll.texts import SPANISH_AND_ENGLISH, Texts

if TYPE_CHECKING:
    from collections.abc import Mapping


__all__ = [
    "TOO_LATE",
    "Accepted",
    "AcknowledgementMessage",
    "BaseMessage",
    "Delivered",
    "Failed",
    "Found",
    "LookupAnswer",
    "LookupResult",
    "Message",
    "MessageReceipt",
    "NotSent",
    "Receipt",
    "ReceiptKind",
    "Recipient",
    "Refused",
    "RepeatSafe",
    "Unknown",
    "receipt_for_error",
]


# Hosts hand on what a database or a service gave them: a number as a phone number, a UUID as a
# message's id. After a send it is too late to complain, so what has to be a text becomes one.


_NO_TEXT = (bool, float, bytes, bytearray, memoryview, list, tuple, dict, set, frozenset, type, types.FunctionType)
"""What has other characters as a text than what it stands for: ``5491155550001.0``, ``b'token'``."""


def _handed_in(name: str, value: object) -> str:
    if value is None or isinstance(value, _NO_TEXT):
        msg = f"Recipient.{name} must be a text or a whole number, got {kind_name(value)}"
        raise ConfigurationError(msg)
    return str(value)


def _channel(value: str) -> str:
    if not isinstance(value, str):
        msg = f"Recipient.channel must be the name of a channel, got {kind_name(value)}"
        raise ConfigurationError(msg)
    return value


def _address(value: str) -> str:
    return _handed_in("to", value)


def _instance_id(value: str | None) -> str | None:
    return None if value is None else _handed_in("instance_id", value)


def _token(value: str | None) -> str | None:
    return None if value is None else _handed_in("token", value)


def _language(value: str | None) -> str | None:
    return None if value is None else _handed_in("language", value)


def _reply_to(value: str | None) -> str | None:
    return None if value is None else _handed_in("reply_to", value)


def _sender(value: str | None) -> str | None:
    return None if value is None else _handed_in("sender", value)


def _form_or_none(value: MessageForm | None) -> MessageForm | None:
    # Whatever is no form says nothing about the form that the message went in.
    try:
        return None if value is None else MessageForm(value)
    except (ValueError, TypeError):
        return None


def _seconds_or_none(value: float | None) -> float | None:
    return max(0, value) if is_number(value) else None


def _seconds_or_zero(value: float) -> float:
    return _seconds_or_none(value) or 0.0


def _ms_or_none(value: float | None) -> int | None:
    return int(value) if is_number(value) else None


def _repr_channel(value: str | None) -> str:
    return repr(shown_name(value))


@attrs.frozen(kw_only=True)
class Recipient:
    """The user who gets a message, and the channel it goes over.

    The host's `resolve` function returns one when a message is about to be sent. It is
    never stored in Redis. Secrets stay out of ``repr``.

    Args:
        channel: The name of the notifier in `RoutingNotifier`, e.g. ``"ultramsg"``.
        to: The channel's address of the user: a phone number, a chat id.
        instance_id: The instance of the channel that sends.
        token: The credential of the channel.
        language: The user's language, e.g. ``"en"``; None for the default of the texts.
        reply_to: The id of the message that this one quotes.
        sender: Who sends, where an account has several: a number of Twilio's.

    Raises:
        ConfigurationError: `channel` is no text, or another one is neither a text nor a whole number.
    """

    channel: str = attrs.field(converter=_channel)
    to: str = attrs.field(converter=_address, repr=False)
    instance_id: str | None = attrs.field(default=None, converter=_instance_id)
    token: str | None = attrs.field(default=None, converter=_token, repr=False)
    language: str | None = attrs.field(default=None, converter=_language)
    # A WhatsApp message's id contains the number that sent it.
    reply_to: str | None = attrs.field(default=None, converter=_reply_to, repr=False)
    sender: str | None = attrs.field(default=None, converter=_sender, repr=False)


class Permit(Protocol):
    """The right of a worker to begin one send; see `videopoll.core.permits.SendPermit`."""

    def holds(self) -> bool:
        """Return whether the send may begin at this moment."""
        ...

    def goes_over(self, channel: str, *credentials: str | None) -> None:
        """Note over which account of which channel the message goes."""
        ...

    def held_back(self) -> NotSent | None:
        """Return the receipt of a send whose account the worker holds back, else None."""
        ...


@attrs.frozen(kw_only=True)
class BaseMessage:
    """What all messages have in common: `Message` and `AcknowledgementMessage`.

    Args:
        form: `MessageForm.VIDEO` asks for a native video with `caption`, `MessageForm.TEXT` for `text`.
            The others come only to a channel that has asked for them, with `Refused.then`.
        reference: A stable name of this message, the same over retries and restarts.
        attempt: The number of this send, from 1.
        language: The language of the user; None for the default of the texts.
        recipient: The user's address, once a `RoutingNotifier` has asked the host.
        unquoted: Whether the message quotes no other message any more, as the channel has
            refused it with the quote.
        prepared: What the channel had ready when it was last tried, such as the id of a file
            that it uploaded: the `prepared` of its last receipt. Kept out of ``repr``.
    """

    form: MessageForm
    reference: str
    attempt: int = 1
    language: str | None = None
    recipient: Recipient | None = None
    unquoted: bool = False
    prepared: Mapping[str, JsonValue] = attrs.field(factory=dict, repr=False)
    # Whose send it is. No part of what the message says.
    _permit: Permit | None = attrs.field(default=None, repr=False, eq=False, alias="_permit")

    def may_still_send(self) -> bool:
        """Return whether the send may begin at this moment.

        It may not once the worker's lease on the job is over: another worker may
        be sending by then. A worker that stood still for longer than its lease, and
        a send that was given up while it waited, find out here. Ask as late as you
        can, after everything that takes time; if the answer is no, send nothing and
        answer with ``NotSent("too late", counts=False)``. The channels that come
        with videopoll ask when the first byte of their request is to go out.

        A message that no worker made may always be sent.
        """
        return self._permit is None or self._permit.holds()

    @property
    def reply_to(self) -> str | None:
        """The id of the message that this one quotes; None for none."""
        return None if self.unquoted or self.recipient is None else self.recipient.reply_to


@attrs.frozen(kw_only=True)
class Message(BaseMessage):
    """One message about the end of one job, in one form.

    Args:
        job: The job that ended.
        outcome: How it ended.
        texts: The texts to choose from.
    """

    job: VideoJob
    outcome: Outcome
    texts: Texts = attrs.field(default=SPANISH_AND_ENGLISH, repr=False)

    @property
    def video_url(self) -> str | None:
        """The URL of the finished video; None if there is none."""
        return self.outcome.video_url if self.outcome.success else None

    @property
    def conversation_id(self) -> str:
        """The host's name for whom the message is for."""
        return self.job.conversation_id

    @property
    def metadata(self) -> Mapping[str, JsonValue]:
        """The metadata that the producer stored with the job."""
        return self.job.metadata

    @property
    def caption(self) -> str:
        """The text beside a native video; for a job without a video, the notice."""
        return self.texts.notice(self.outcome, self.job.start_ms, self.language)

    @property
    def text(self) -> str:
        """The whole message as text, with the link if there is a video."""
        return self.texts.notice(self.outcome, self.job.start_ms, self.language, link=self.video_url)


@attrs.frozen(kw_only=True)
class AcknowledgementMessage(BaseMessage):
    """A text for the user before the generation starts: there is no job yet, and no outcome.

    `videopoll.tool.VideoGeneratorTool` makes one of ``messageToUser`` and passes it to its
    notifier. Every channel that sends a text to a user can send it. A channel that reports
    outcomes has nothing to report: `WebhookNotifier` refuses it.

    Args:
        conversation_id: The host's name for whom the message is for.
        metadata: The metadata that will be stored with the job. Kept out of ``repr``.
        text: The text. Kept out of ``repr``.
    """

    conversation_id: str
    metadata: Mapping[str, JsonValue] = attrs.field(repr=False)
    text: str = attrs.field(repr=False)
    form: MessageForm = MessageForm.TEXT

    @property
    def caption(self) -> str:
        """The text."""
        return self.text

    @property
    def video_url(self) -> None:
        """None: there is no video yet."""
        return None


@attrs.frozen
class Delivered:
    """The channel accepted the message.

    Args:
        message_id: The channel's id of the message.
        detail: A note for the operator. No secrets.
        form: The form it was sent in, if another than the message asked for. Equality
            ignores it.
        channel: The channel of a `RoutingNotifier`. Equality ignores it.
        prepared: What to keep for the next try; see `BaseMessage.prepared`. Equality ignores it.
    """

    message_id: str | None = attrs.field(default=None, converter=bounded_id_or_none, repr=False)
    detail: str | None = attrs.field(default=None, converter=bounded_detail_or_none, repr=repr_told)
    form: MessageForm | None = attrs.field(default=None, eq=False, converter=_form_or_none)
    channel: str | None = attrs.field(
        default=None, eq=False, kw_only=True, converter=bounded_id_or_none, repr=_repr_channel
    )
    prepared: Mapping[str, JsonValue] | None = attrs.field(
        default=None, eq=False, kw_only=True, converter=prepared_or_none, repr=False
    )


@attrs.frozen
class Accepted(Delivered):
    """The channel accepted the message, and tells later, by a receipt, what became of it.

    The job is then watched for a while (`DeliveryPolicy.watch_s`): its user is known to
    have the message once a `MessageReceipt` says so, and one that says that the message
    failed has it sent in the next form. Return `Delivered` where the reply is the last word.

    Args:
        message_id: The channel's id of the message, by which its receipts name it. None if
            they bear our reference instead (`Message.reference`).
        detail: A note for the operator. No secrets.
        form: The form it was sent in, if another than the message asked for. Equality
            ignores it.
        channel: The channel of a `RoutingNotifier`. Equality ignores it.
        prepared: What to keep for the next try; see `BaseMessage.prepared`. Equality ignores it.
    """


@attrs.frozen
class NotSent:
    """Surely nothing was sent: the worker tries again later.

    Args:
        reason: What happened, for the operator. No secrets.
        retry_after_s: How long the channel asked to wait, in seconds.
        counts: Whether this uses up one of the delivery's attempts. False for a channel
            that is known to be offline.
        channel_fault: Whether the channel is to blame. After some such failures the
            worker sends a text instead of a video. False if, for instance, the host
            could not look the recipient up.
        account_fault: Whether the sending account is to blame: its credentials, its
            plan, a missing instance. The worker then holds back all messages of the
            account for a while.
        waits: Whether the message only waits: for its turn behind another one to the same user,
            or for its account, whose trouble was told once. No warning is logged then.
        channel: The channel of a `RoutingNotifier`. Equality ignores it.
        prepared: What to keep for the next try; see `BaseMessage.prepared`. Equality ignores it.
    """

    reason: str = attrs.field(converter=bounded_detail, repr=repr_told)
    retry_after_s: float | None = attrs.field(default=None, converter=_seconds_or_none)
    counts: bool = attrs.field(default=True, converter=bool)
    channel_fault: bool = attrs.field(default=True, converter=bool)
    account_fault: bool = attrs.field(default=False, converter=bool, kw_only=True)
    waits: bool = attrs.field(default=False, converter=bool, kw_only=True)
    channel: str | None = attrs.field(
        default=None, eq=False, kw_only=True, converter=bounded_id_or_none, repr=_repr_channel
    )
    prepared: Mapping[str, JsonValue] | None = attrs.field(
        default=None, eq=False, kw_only=True, converter=prepared_or_none, repr=False
    )


@attrs.frozen
class Refused:
    """The channel refused the message for good.

    Args:
        reason: What the channel answered, for the operator. No secrets.
        try_text: Whether the same message as a text with a link may still go through.
        then: The form to try next, if the channel knows one; None for the text, if `try_text`.
            The text also follows where `then` was refused before: no form is tried again.
        try_unquoted: Whether the same message may still go through without the
            quote (`Message.reply_to`). The worker tries that first, once.
        channel: The channel of a `RoutingNotifier`. Equality ignores it.
        prepared: What to keep for the next try; see `BaseMessage.prepared`. Equality ignores it.
    """

    reason: str = attrs.field(converter=bounded_detail, repr=repr_told)
    try_text: bool = attrs.field(default=True, converter=bool)
    try_unquoted: bool = attrs.field(default=False, kw_only=True, converter=bool)
    then: MessageForm | None = attrs.field(default=None, kw_only=True, converter=_form_or_none)
    channel: str | None = attrs.field(
        default=None, eq=False, kw_only=True, converter=bounded_id_or_none, repr=_repr_channel
    )
    prepared: Mapping[str, JsonValue] | None = attrs.field(
        default=None, eq=False, kw_only=True, converter=prepared_or_none, repr=False
    )


@attrs.frozen
class Unknown:
    """It is unknown whether the message went out (a lost reply, a crash).

    Args:
        reason: What happened, for the operator. No secrets.
        channel: The channel of a `RoutingNotifier`. Equality ignores it.
        prepared: What to keep for the next try; see `BaseMessage.prepared`. Equality ignores it.
    """

    reason: str = attrs.field(converter=bounded_detail, repr=repr_told)
    channel: str | None = attrs.field(
        default=None, eq=False, kw_only=True, converter=bounded_id_or_none, repr=_repr_channel
    )
    prepared: Mapping[str, JsonValue] | None = attrs.field(
        default=None, eq=False, kw_only=True, converter=prepared_or_none, repr=False
    )


Receipt: TypeAlias = Delivered | NotSent | Refused | Unknown
"""The result of one send."""


class ReceiptKind(enum.StrEnum):
    """What a receipt says of a message."""

    SENT = "sent"
    """It is on its way."""
    FAILED = "failed"
    """It has not reached its user, and will not."""
    DELIVERED = "delivered"
    """It has reached its user."""
    READ = "read"
    """Its user has read it, and so has it."""


def _receipt_kind(kind: ReceiptKind | str) -> ReceiptKind:
    check_choice("MessageReceipt.kind", kind, *ReceiptKind)
    return ReceiptKind(kind)


@attrs.frozen(kw_only=True)
class MessageReceipt:
    """What a channel tells of a message that it accepted before.

    A channel's ``read_receipts`` makes them of a signed request of the channel;
    `RedisVideoJobQueue.receive_receipts` takes them. At least one of `message_id` and
    `reference` names the message.

    Args:
        kind: What it says.
        message_id: The channel's id of the message.
        reference: Our name of the message, where the channel gives it back (`Message.reference`).
        reason: Why it failed, for the operator. No secrets.
        then: The form to try next, of a message that failed; None for the text, if `try_text`.
        try_text: Whether the same message as a text with a link may still go through.
        passing: Whether a message that failed may go through in the same form later.
        channel_fault: Whether the form may be to blame where it is `passing`: after some such
            failures a text follows a video. False for what is about the account, or the pace.
        at_ms: When it happened, by the channel's clock, in Unix milliseconds.
        channel: The channel of a `RoutingNotifier`, where two of them may have messages of
            one id; None matches every channel.
    """

    kind: ReceiptKind = attrs.field(converter=_receipt_kind)
    message_id: str | None = attrs.field(default=None, converter=bounded_id_or_none, repr=False)
    reference: str | None = attrs.field(default=None, converter=bounded_id_or_none)
    reason: str | None = attrs.field(default=None, converter=bounded_detail_or_none, repr=repr_told)
    then: MessageForm | None = attrs.field(default=None, converter=_form_or_none)
    try_text: bool = attrs.field(default=True, converter=bool)
    passing: bool = attrs.field(default=False, converter=bool)
    channel_fault: bool = attrs.field(default=True, converter=bool)
    at_ms: int | None = attrs.field(default=None, converter=_ms_or_none)
    channel: str | None = attrs.field(default=None, converter=bounded_id_or_none, repr=_repr_channel)


TOO_LATE = NotSent(own("too late to begin: the lease on the job is over"), counts=False, channel_fault=False)
"""The receipt of a send that `Message.may_still_send` held back."""


def receipt_for_error(error: Exception) -> NotSent | Refused | None:
    """Return the receipt that a `NotifierError` stands for, or None for any other exception."""
    if isinstance(error, NotSentError):
        return NotSent(error.reason, retry_after_s=error.retry_after_s)
    if isinstance(error, RefusedError):
        return Refused(error.reason, try_text=error.try_text, then=error.then)
    return None


class LookupResult(enum.Enum):
    """The answer of a channel that was asked for a message by its reference."""

    FOUND = "found"
    """The channel has the message."""
    ABSENT = "absent"
    """The channel does not have it, or not yet."""
    FAILED = "failed"
    """The channel took the message and failed to send it."""
    CANNOT_TELL = "cannot_tell"
    """The channel cannot be asked."""
    NO_ANSWER = "no_answer"
    """The channel did not answer: ask again later."""


@attrs.frozen
class Found:
    """The channel has the message: `LookupResult.FOUND`, and what is known of it.

    Args:
        message_id: The channel's id of the message.
        form: The form it has it in, if another than was asked for. Equality ignores it.
        accepted: Whether a receipt will still tell what becomes of it, as with `Accepted`.
    """

    message_id: str | None = attrs.field(default=None, converter=bounded_id_or_none, repr=False)
    form: MessageForm | None = attrs.field(default=None, eq=False, converter=_form_or_none)
    accepted: bool = attrs.field(default=False, kw_only=True, converter=bool)


@attrs.frozen
class Failed:
    """The channel took the message and failed to send it: `LookupResult.FAILED`, and why.

    Args:
        reason: What the channel says, for the operator. No secrets.
        then: The form to try next; as in `Refused`.
        try_text: Whether the same message as a text with a link may still go through.
    """

    reason: str = attrs.field(converter=bounded_detail, repr=repr_told)
    then: MessageForm | None = attrs.field(default=None, kw_only=True, converter=_form_or_none)
    try_text: bool = attrs.field(default=True, kw_only=True, converter=bool)


@attrs.frozen
class RepeatSafe:
    """The channel cannot be asked, but sending the same message again makes no second one.

    It knows a message by our reference, and answers a repeat with what became of the first.
    The worker repeats it, whatever `DeliveryPolicy.on_unknown` says. After `within_s` it counts
    as `LookupResult.CANNOT_TELL`.

    Args:
        within_s: Seconds after the beginning of the first send in which a repeat may begin. State
            less than the channel promises: a repeat is on its way for some time.
    """

    within_s: float = attrs.field(converter=_seconds_or_zero)


LookupAnswer: TypeAlias = LookupResult | Found | Failed | RepeatSafe
"""What a channel answers to the question for a message: a plain `LookupResult`, or one that says more."""
