"""Stores an outcome with a function of the host, and then sends the message: in this order, and never one for the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from videopoll._calling import (
    aclose_parts,
    async_sender,
    call_async,
    call_sync,
    close_parts,
    is_async,
)
from videopoll._reasons import quoting
from videopoll.core.wrappers import check_notifier
from videopoll.jobs.bounds import bounded_detail
from videopoll.jobs.checks import check_callable
from videopoll.messages import TOO_LATE, LookupResult, Message, NotSent, Receipt, receipt_for_error
from videopoll.observe.redact import redact, redacted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videopoll.messages import Refused
    from videopoll.protocols import AsyncNotifier, Notifier

__all__ = ["TeeNotifier"]

Store: TypeAlias = "Callable[[Message], object | Awaitable[object]]"


class TeeNotifier:
    """Calls a function of the host before each send, e.g. to store the video's URL in a database, and then sends.

    Nothing is sent before `store` has returned. If it raises, nothing is sent either: the message
    is tried again on the delivery's schedule, and `store` with it. So it is called at least once for
    each outcome that anybody is told of, and again at each further try, with what is sent then: let
    it write the same row. What it returns is not looked at.

    All else is the other notifier's: how messages are looked up, what it says of its account, what it
    closes. A wrapper of your own that has `notify` alone hides that, and a message whose reply was
    lost is then sent twice.

    Args:
        notifier: What sends the message: a channel, or a `RoutingNotifier`.
        store: Called with the message; a function or a coroutine function. Under asyncio a plain
            function runs in a thread. It may raise `RefusedError` for a message that nobody must get.
            An `AcknowledgementMessage` of the tool is sent without it: there is no outcome yet.

    Raises:
        ConfigurationError: `notifier` is none, or `store` cannot be called.
    """

    def __init__(self, notifier: Notifier | AsyncNotifier, *, store: Store) -> None:
        check_notifier(notifier, "the notifier of TeeNotifier")
        check_callable(store, "TeeNotifier.store", "the message")
        self._notifier = notifier
        self._store = store
        send: Callable[[Message], Receipt | Awaitable[Receipt | None] | None] = getattr(
            notifier, "anotify", notifier.notify
        )
        self._send = async_sender(send)

    @property
    def async_only(self) -> bool:
        """Whether it takes an `AsyncRunner`: `store` or the notifier is asynchronous."""
        inner = self._notifier
        return is_async(self._store) or bool(getattr(inner, "async_only", False)) or is_async(inner.notify)

    def notify(self, message: Message) -> Receipt | None:
        """Store the outcome, and send the message.

        Raises:
            TypeError: The notifier is asynchronous.
            Exception: Whatever the notifier raises.
        """
        if isinstance(message, Message):
            try:
                call_sync(self._store, message, "TeeNotifier.store")
            except Exception as error:  # noqa: BLE001 - a host's function may raise anything
                return _not_stored(error)
            if not message.may_still_send():
                return TOO_LATE
        return call_sync(self._notifier.notify, message, "the notifier of TeeNotifier")

    async def anotify(self, message: Message) -> Receipt | None:
        """Store the outcome, and send the message.

        Raises:
            Exception: Whatever the notifier raises.
        """
        if isinstance(message, Message):
            try:
                await call_async(self._store, message)
            except Exception as error:  # noqa: BLE001 - a host's function may raise anything
                return _not_stored(error)
            if not message.may_still_send():
                return TOO_LATE
        return await self._send(message)

    def look_up(self, message: Message) -> LookupResult:
        """Ask the notifier for the message, if it can be asked.

        Raises:
            TypeError: The notifier is asynchronous.
            Exception: Whatever the notifier raises.
        """
        look_up: _LookUp | None = getattr(self._notifier, "look_up", None)
        return call_sync(look_up, message, "the notifier of TeeNotifier") if look_up else LookupResult.CANNOT_TELL

    async def alook_up(self, message: Message) -> LookupResult:
        """Ask the notifier for the message, if it can be asked.

        Raises:
            Exception: Whatever the notifier raises.
        """
        inner = self._notifier
        look_up: _LookUp | None = getattr(inner, "alook_up", getattr(inner, "look_up", None))
        return await call_async(look_up, message) if look_up else LookupResult.CANNOT_TELL

    def close(self) -> None:
        """Close the notifier, if it can be closed."""
        close_parts([self._notifier])

    async def aclose(self) -> None:
        """Close the notifier, if it can be closed, both its sides."""
        await aclose_parts([self._notifier])


_LookUp: TypeAlias = "Callable[[Message], LookupResult | Awaitable[LookupResult]]"


def _not_stored(error: Exception) -> NotSent | Refused:
    # The channel is not to blame: the video is not turned into a text for this.
    said = receipt_for_error(error)
    if said is None:
        return NotSent(
            quoting(f"TeeNotifier.store raised {type(error).__name__}", redact(bounded_detail(error))),
            channel_fault=False,
        )
    reason = redacted(said.reason)
    if isinstance(said, NotSent):
        return NotSent(reason, said.retry_after_s, channel_fault=False)
    return attrs.evolve(said, reason=reason)
