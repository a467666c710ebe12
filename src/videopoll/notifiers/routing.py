"""Asks the host who gets a message, when it is about to be sent, and hands it to the right channel."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, cast

import attrs

from videopoll._calling import (
    aclose_parts,
    async_sender,
    call_async,
    call_sync,
    close_parts,
    in_thread,
    is_async,
)
from videopoll._reasons import own, quoting
from videopoll.core.wrappers import check_notifier, warn_of_hidden_look_up
from videopoll.errors import ConfigurationError, RefusedError
from videopoll.jobs.bounds import bounded_detail
from videopoll.jobs.checks import check_callable, mapped
from videopoll.messages import (
    TOO_LATE,
    Delivered,
    LookupAnswer,
    LookupResult,
    NotSent,
    Permit,
    Receipt,
    Recipient,
    receipt_for_error,
)
from videopoll.observe.redact import redact, redacted

if TYPE_CHECKING:
    from videopoll.messages import Message
    from videopoll.protocols import AsyncNotifier, Notifier

__all__ = ["RoutingNotifier"]

Resolve: TypeAlias = Callable[[str], Recipient | Awaitable[Recipient]]
Channel: TypeAlias = "Notifier | AsyncNotifier"


class RoutingNotifier:
    """Sends each message over the channel that the host names for its conversation.

    The host is asked anew for each send, so that a token that was rotated or a
    number that changed is right at the next try. While the host cannot answer
    (`resolve` raises, gives no `Recipient`, or names a channel that is not
    here) nothing is sent: the message is tried again on the delivery's schedule
    and becomes a dead letter when that is used up. A `resolve` that knows better
    raises `RefusedError`, e.g. when the user is gone for good.

    Args:
        channels: The notifiers by name, sync and async ones.
        resolve: Gives the `Recipient` of a conversation id; a function or a
            coroutine function. Under asyncio a plain function runs in a thread.

    Raises:
        ConfigurationError: There is no channel, or a part is of the wrong kind.
    """

    def __init__(self, channels: Mapping[str, Channel], *, resolve: Resolve) -> None:
        if not isinstance(channels, Mapping) or not channels:
            msg = "RoutingNotifier needs at least one channel, in a mapping from its name to its notifier"
            raise ConfigurationError(msg)
        for name, channel in mapped(channels, "RoutingNotifier.channels").items():
            check_notifier(channel, f"the channel {name!r} of RoutingNotifier")
            warn_of_hidden_look_up(channel)
        check_callable(resolve, "RoutingNotifier.resolve", "the conversation id")
        self._channels = dict(channels)
        self._senders = {name: async_sender(_notify_of(channel)) for name, channel in channels.items()}
        self._resolve_async = is_async(resolve)
        self._recipient_of: Callable[[Message], object] = lambda message: resolve(message.conversation_id)

    @classmethod
    def from_metadata(cls, channels: Mapping[str, Channel]) -> RoutingNotifier:
        """Route by what the producer stored with the job, for hosts without a `resolve`.

        The job's metadata name the ``channel`` and the address ``to``, and may
        have a ``language`` and a ``reply_to``. Tokens do not belong there: give
        them to the notifiers.
        """
        notifier = cls(channels, resolve=_never)
        notifier._recipient_of = _recipient_in_metadata
        return notifier

    @property
    def async_only(self) -> bool:
        """Whether it takes an `AsyncRunner`: `resolve` or a channel is asynchronous."""
        return self._resolve_async or any(
            getattr(channel, "async_only", False) or is_async(channel.notify) for channel in self._channels.values()
        )

    def notify(self, message: Message) -> Receipt:
        """Send the message over its channel.

        Raises:
            TypeError: `resolve` or the channel is asynchronous.
            Exception: Whatever the channel raises.
        """
        routed = self._route(message)
        if not isinstance(routed, _Routed):
            return routed
        # Asking the host may have taken any time.
        stopped = _stopped(message)
        if stopped is not None:
            return _named(stopped, routed)
        receipt = call_sync(routed.channel.notify, routed.message, f"the channel {routed.name!r}")
        return _named(receipt, routed)

    async def anotify(self, message: Message) -> Receipt:
        """Send the message over its channel, by the channel's asyncio side where it has one.

        Raises:
            Exception: Whatever the channel raises.
        """
        routed = await self._aroute(message)
        if not isinstance(routed, _Routed):
            return routed
        stopped = _stopped(message)
        if stopped is not None:
            return _named(stopped, routed)
        return _named(await self._senders[routed.name](routed.message), routed)

    def look_up(self, message: Message) -> LookupAnswer:
        """Ask the message's channel for it, if that channel can be asked.

        Raises:
            TypeError: `resolve` or the channel is asynchronous.
            Exception: Whatever the channel raises.
        """
        routed = self._route(message)
        if not isinstance(routed, _Routed):
            return LookupResult.NO_ANSWER
        look_up: _LookUp | None = getattr(routed.channel, "look_up", None)
        if look_up is None:
            return LookupResult.CANNOT_TELL
        return cast("LookupAnswer", call_sync(look_up, routed.message, f"the channel {routed.name!r}"))

    async def alook_up(self, message: Message) -> LookupAnswer:
        """Ask the message's channel for it, if that channel can be asked.

        Raises:
            Exception: Whatever the channel raises.
        """
        routed = await self._aroute(message)
        if not isinstance(routed, _Routed):
            return LookupResult.NO_ANSWER
        look_up: _LookUp | None = getattr(routed.channel, "alook_up", getattr(routed.channel, "look_up", None))
        return await call_async(look_up, routed.message) if look_up else LookupResult.CANNOT_TELL

    def close(self) -> None:
        """Close the channels that can be closed."""
        close_parts(self._channels.values())

    async def aclose(self) -> None:
        """Close the channels that can be closed, both their sides."""
        await aclose_parts(self._channels.values())

    def _route(self, message: Message) -> _Routed | Receipt:
        try:
            found = self._recipient_of(message)
        except Exception as error:  # noqa: BLE001 - a host's function may raise anything
            return _unresolved(error)
        if inspect.isawaitable(found):
            if inspect.iscoroutine(found):
                found.close()
            msg = "RoutingNotifier.resolve is asynchronous: use AsyncRunner, or give Runner a plain function"
            raise TypeError(msg)
        return self._routed(message, found)

    async def _aroute(self, message: Message) -> _Routed | Receipt:
        try:
            if self._resolve_async:
                found = self._recipient_of(message)
            else:
                found = await in_thread(partial(self._recipient_of, message))
            if inspect.isawaitable(found):
                found = await found
        except Exception as error:  # noqa: BLE001 - a host's function may raise anything
            return _unresolved(error)
        return self._routed(message, found)

    def _routed(self, message: Message, recipient: object) -> _Routed | Receipt:
        if not isinstance(recipient, Recipient):
            reason = f"resolve gave {type(recipient).__name__} instead of a Recipient"
            return NotSent(own(reason), channel_fault=False)
        channel = self._channels.get(recipient.channel)
        if channel is None:
            have = ", ".join(sorted(self._channels))
            who = "the job names" if self._recipient_of is _recipient_in_metadata else "resolve named"
            reason = redact(f"{who} a channel that is not here; those that are: {have}")
            return NotSent(own(reason), channel_fault=False)
        if (permit := _permit(message)) is not None:
            permit.goes_over(recipient.channel, recipient.instance_id, recipient.token)
        language = recipient.language or message.language
        if message.unquoted:
            recipient = attrs.evolve(recipient, reply_to=None)
        return _Routed(recipient.channel, channel, attrs.evolve(message, recipient=recipient, language=language))


_Notify: TypeAlias = "Callable[[Message], Receipt | Awaitable[Receipt | None] | None]"
_LookUp: TypeAlias = "Callable[[Message], LookupAnswer | Awaitable[LookupAnswer]]"


def _notify_of(channel: Channel) -> _Notify:
    return cast("_Notify", getattr(channel, "anotify", channel.notify))


@attrs.frozen
class _Routed:
    name: str
    channel: Channel
    message: Message


def _stopped(message: Message) -> Receipt | None:
    """Return why the message does not go out now, though its recipient is known; None if it does."""
    if not message.may_still_send():
        return TOO_LATE
    permit = _permit(message)
    return None if permit is None else permit.held_back()


def _permit(message: Message) -> Permit | None:
    return message._permit  # noqa: SLF001 - between the worker and the router, and nothing for hosts


def _named(receipt: Receipt | None, routed: _Routed) -> Receipt:
    # Only None is "delivered": a channel that answers False or "" has said something else.
    if receipt is None:
        return Delivered(channel=routed.name)
    return attrs.evolve(receipt, channel=routed.name) if isinstance(receipt, Receipt) else receipt


def _unresolved(error: Exception) -> Receipt:
    receipt = receipt_for_error(error)
    if receipt is None:
        receipt = NotSent(quoting(f"resolve raised {type(error).__name__}", bounded_detail(error)))
    if isinstance(receipt, NotSent):
        # The channel is not to blame: the video is not turned into a text for this.
        return attrs.evolve(receipt, reason=redacted(receipt.reason), channel_fault=False)
    return attrs.evolve(receipt, reason=redacted(receipt.reason))


def _recipient_in_metadata(message: Message) -> Recipient:
    values = {name: message.metadata.get(name) for name in ("channel", "to", "language", "reply_to")}
    texts = {name: value for name, value in values.items() if isinstance(value, str) and value}
    if "channel" not in texts or "to" not in texts:
        msg = "the job's metadata must have a 'channel' and an address 'to', as there is no resolve function to ask"
        raise RefusedError(own(msg), try_text=False)
    return Recipient(**texts)


def _never(conversation_id: str) -> Recipient:
    raise NotImplementedError(conversation_id)
