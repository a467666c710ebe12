"""A channel that is a function of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from videopoll._calling import async_sender, call_sync, is_async
from videopoll.jobs.checks import check_callable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videopoll.messages import Message, Receipt

__all__ = ["CallbackNotifier"]

Callback: TypeAlias = "Callable[[Message], Receipt | Awaitable[Receipt | None] | None]"


class CallbackNotifier:
    """Hands each message to a function, sync or async.

    The function answers with a receipt, or with None for delivered. It may
    raise `NotSentError` or `RefusedError`; any other exception means that
    nobody knows whether the message went out.

    Args:
        function: Called with the message. An async one needs `AsyncRunner`.

    Raises:
        ConfigurationError: It cannot be called.
    """

    def __init__(self, function: Callback) -> None:
        check_callable(function, "the function of CallbackNotifier", "the message")
        self._function = function
        self._send = async_sender(function)

    @property
    def async_only(self) -> bool:
        """Whether it takes an `AsyncRunner` to use it."""
        return is_async(self._function)

    def notify(self, message: Message) -> Receipt | None:
        """Call the function.

        Raises:
            TypeError: It is asynchronous.
        """
        return call_sync(self._function, message, "the function of CallbackNotifier")

    async def anotify(self, message: Message) -> Receipt | None:
        """Call the function: a sync one in a thread, with the context copied."""
        return await self._send(message)
