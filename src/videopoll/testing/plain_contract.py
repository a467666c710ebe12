"""What a notifier that is no `HttpNotifier` promises, as tests that its author runs over it."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar, TypeAlias, cast

from videopoll.errors import NotifierError
from videopoll.jobs.outcome import MessageForm
from videopoll.messages import Delivered, Message, NotSent, Recipient, Refused, Unknown
from videopoll.testing.contract import SIGNATURE, THREADS, NotifierContract, check, message_of_contract

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from videopoll.protocols import AsyncNotifier, Notifier

__all__ = ["PlainNotifierContract"]

_Plain: TypeAlias = "Notifier | AsyncNotifier"


class PlainNotifierContract:
    """What a plain `Notifier` or `AsyncNotifier` has to keep to, whatever it sends with.

    ::

        class TestMyChannel(PlainNotifierContract):
            def make_notifier(self):
                return MyChannel(a_working_service())

            def make_failing(self):
                return MyChannel(a_service_that_is_down())
    """

    recipient: ClassVar[Recipient | None] = NotifierContract.recipient
    """Who gets the messages; None for a channel that asks for nobody."""

    def make_notifier(self) -> _Plain:
        """Build the channel over a service that takes messages. Called for each test."""
        msg = f"{type(self).__name__} must override make_notifier(self)"
        raise NotImplementedError(msg)

    def make_failing(self) -> _Plain | None:
        """Build the channel over a service that takes none; None leaves that out."""
        return None

    def message(self, form: MessageForm = MessageForm.VIDEO, *, success: bool = True) -> Message:
        """Return the message to send; override it for a channel that needs more, e.g. metadata."""
        return message_of_contract(form, self.recipient, success=success)

    def test_a_message_is_delivered_in_every_form(self) -> None:
        """A channel may send a video as it likes, but it has to take it."""
        notifier = self.make_notifier()
        for message in (
            self.message(MessageForm.VIDEO),
            self.message(MessageForm.TEXT),
            self.message(MessageForm.TEXT, success=False),
        ):
            for receipt in _plain_receipts(notifier, message):
                check(
                    receipt is None or isinstance(receipt, Delivered),
                    f"a message that was taken is Delivered or None, got {receipt!r}",
                )

    def test_a_service_that_takes_nothing_delivers_nothing(self) -> None:
        """A receipt says so, or an exception; silence would count as delivered."""
        notifier = self.make_failing()
        if notifier is None:
            return
        for method in _plain_methods(notifier):
            try:
                receipt = method(self.message())
            except NotifierError as error:
                told = str(error)
            except Exception:  # noqa: BLE001 - any other one means that nobody knows, which is honest, and is never quoted
                told = ""
            else:
                check(
                    isinstance(receipt, NotSent | Refused | Unknown),
                    f"nothing was taken, and the notifier says {receipt!r}, which counts as delivered",
                )
                told = repr(receipt)
            check(not _tells(told, self.message()), "what the notifier says of a failure tells a token or an address")

    def test_its_repr_tells_no_secret(self) -> None:
        """It gets into logs and error messages."""
        check(not _tells(repr(self.make_notifier()), self.message()), "the notifier's repr tells a secret")

    def test_several_threads_may_use_it(self) -> None:
        """A worker sends several messages at a time."""
        notifier = self.make_notifier()
        for method in _plain_methods(notifier):
            with ThreadPoolExecutor(THREADS) as threads:
                receipts = list(threads.map(method, [self.message()] * THREADS))
            check(
                all(receipt is None or isinstance(receipt, Delivered) for receipt in receipts),
                "not every message was delivered when several were sent at once",
            )


def _plain_methods(notifier: _Plain) -> Iterator[Callable[[Message], object]]:
    """Return each of a notifier's ways to send, as a blocking function."""
    try:
        for name in ("notify", "anotify"):
            method = cast("Callable[[Message], object] | None", getattr(notifier, name, None))
            check(method is not None or name == "anotify", f"{type(notifier).__name__} has no method notify(message)")
            if method is not None and not (name == "notify" and getattr(notifier, "async_only", False)):
                yield _blocking(notifier, method)
    finally:
        close = getattr(notifier, "close", None)
        if callable(close) and not inspect.iscoroutinefunction(close):
            close()


def _blocking(notifier: _Plain, method: Callable[[Message], object]) -> Callable[[Message], object]:
    async def awaited(message: Message) -> object:
        try:
            return await cast("Awaitable[object]", method(message))
        finally:
            closing = getattr(notifier, "aclose", lambda: None)()
            if inspect.isawaitable(closing):
                await closing

    return (lambda message: asyncio.run(awaited(message))) if inspect.iscoroutinefunction(method) else method


def _plain_receipts(notifier: _Plain, message: Message) -> list[object]:
    return [method(message) for method in _plain_methods(notifier)]


def _tells(text: str, message: Message) -> bool:
    recipient = message.recipient
    secrets = [message.video_url, SIGNATURE]
    if recipient is not None:
        secrets += [recipient.token, recipient.to]
    return any(secret in text for secret in secrets if secret)
