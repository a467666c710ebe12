"""The base of every channel that sends with HTTP.

A new HTTP channel is a subclass of `HttpNotifier` with two pure methods. It is
then sync and async at once::

    class Pager(HttpNotifier):
        forms = frozenset({MessageForm.TEXT})

        def build(self, message):
            fields = {"to": recipient_of(message).to, "text": message.text}
            return HttpRequest(method="POST", url="https://pager.example/send", json=fields, timeout_s=15)

        def read(self, reply, message):
            return receipt_for_status(reply) or Delivered()
"""

from __future__ import annotations

import abc
import asyncio
from concurrent import futures
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

import attrs

from videopoll._http import Http, HttpFailure, HttpReply, HttpRequest
from videopoll._reasons import own, quoting
from videopoll.core.flow import acall, adrive, call, drive
from videopoll.jobs.bounds import bounded_detail
from videopoll.jobs.outcome import MessageForm
from videopoll.jobs.urls import is_web_url
from videopoll.messages import (
    Delivered,
    LookupAnswer,
    LookupResult,
    Message,
    Receipt,
    Refused,
    Unknown,
    receipt_for_error,
)
from videopoll.notifiers.receipts import receipt_for_failure
from videopoll.observe.redact import one_line, redacted, without

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future

    import httpx

    from videopoll.core.flow import Flow
    from videopoll.notifiers.video_check import VideoCheck

__all__ = ["Backend", "HttpNotifier"]


@attrs.frozen
class Backend:
    """What a channel's flows do over threads, or over asyncio.

    Args:
        send: `Http.send` or `Http.asend`.
        wait: Waits until a future is done, for at most so many seconds.
    """

    _send: Callable[..., HttpReply | HttpFailure | Awaitable[HttpReply | HttpFailure]]
    _wait: Callable[[Future[bool], float], Awaitable[None] | None]

    def send(
        self, request: HttpRequest, *, may_send: Callable[[], bool] | None = None
    ) -> Flow[HttpReply | HttpFailure]:
        """Carry out a request. See `Http.send`."""
        return cast("HttpReply | HttpFailure", (yield partial(self._send, request, may_send=may_send)))

    def wait(self, future: Future[bool], timeout_s: float) -> Flow[None]:
        """Wait until `future` is done, for at most `timeout_s` seconds."""
        yield partial(self._wait, future, timeout_s)


def _wait(future: Future[bool], timeout_s: float) -> None:
    futures.wait([future], timeout_s)


async def _await(future: Future[bool], timeout_s: float) -> None:
    if not future.done():
        await asyncio.wait([asyncio.wrap_future(future)], timeout=timeout_s)


class HttpNotifier(abc.ABC):
    """A channel that sends a message with one HTTP request.

    Subclasses write `build` and `read`, and do no I/O. Runners of both kinds
    use it: `notify` and `look_up` block, `anotify` and `alook_up` do not. May be used
    by several threads at once.

    Args:
        client: A client of the host to send with, e.g. one with a proxy. The host closes it.
        async_client: The same for asyncio.
        video_check: Look at a video's size and type first; None sends without a look.
    """

    forms: ClassVar[frozenset[MessageForm]] = frozenset({MessageForm.VIDEO, MessageForm.TEXT})
    """What the channel can send. A message in another form, or without a video, goes as text."""

    def __init__(
        self,
        *,
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        video_check: VideoCheck | None = None,
    ) -> None:
        self._http = Http(client=client, async_client=async_client)
        self._video_check = video_check

    @abc.abstractmethod
    def build(self, message: Message) -> HttpRequest:
        """Write the request that sends the message, in the form that it asks for.

        Raises:
            RefusedError: It cannot be sent to this recipient.
            Exception: The same; the message is refused.
        """

    @abc.abstractmethod
    def read(self, reply: HttpReply, message: Message) -> Receipt:
        """Read from the reply what became of the message. See `receipt_for_status`.

        Raises:
            Exception: Nobody knows what became of it.
        """

    def build_look_up(self, message: Message) -> HttpRequest | None:
        """Write the request that looks the message up by its reference; None where that is impossible."""
        del message
        return None

    def read_look_up(self, reply: HttpReply, message: Message) -> LookupAnswer:
        """Read from the reply whether the channel has the message."""
        del reply, message
        return LookupResult.CANNOT_TELL

    def secrets(self) -> tuple[str | None, ...]:
        """Return what must never show in a receipt, beside what is in the message itself."""
        return ()

    def notify(self, message: Message) -> Receipt:
        """Send the message once."""
        return drive(self._notify(message, Backend(self._http.send, _wait)), call)

    async def anotify(self, message: Message) -> Receipt:
        """Send the message once."""
        return await adrive(self._notify(message, Backend(self._http.asend, _await)), acall)

    def look_up(self, message: Message) -> LookupAnswer:
        """Ask the channel for the message by its reference."""
        return drive(self._look_up(message, Backend(self._http.send, _wait)), call)

    async def alook_up(self, message: Message) -> LookupAnswer:
        """Ask the channel for the message by its reference."""
        return await adrive(self._look_up(message, Backend(self._http.asend, _await)), acall)

    def close(self) -> None:
        """Close the connections that `notify` and `look_up` opened."""
        self._http.close()

    async def aclose(self) -> None:
        """Close the connections that `anotify` and `alook_up` opened in this event loop."""
        await self._http.aclose()

    def _notify(self, message: Message, backend: Backend) -> Flow[Receipt]:
        message = self._in_own_form(message)
        request = self._request(message)
        if not isinstance(request, HttpRequest):
            return request
        if self._video_check and (look := self._video_check.request(message)):
            refused = self._video_check.refusal((yield from backend.send(look)))
            if refused is not None:
                return refused
        held_back = yield from self._before_send(message, backend)
        if held_back is not None:
            return held_back
        return self._receipt((yield from backend.send(request, may_send=message.may_still_send)), message)

    def _before_send(self, message: Message, backend: Backend) -> Flow[Receipt | None]:
        """Return why the message does not go out now, which may take requests; None if it does."""
        del message, backend
        yield from ()
        return None

    def _look_up(self, message: Message, backend: Backend) -> Flow[LookupAnswer]:
        message = self._in_own_form(message)
        request = self._look_up_request(message)
        if request is None:
            return LookupResult.CANNOT_TELL
        return self._looked_up((yield from backend.send(request)), message)

    def _in_own_form(self, message: Message) -> Message:
        as_it_is = message.form in self.forms and (message.form is MessageForm.TEXT or message.video_url)
        return message if as_it_is else attrs.evolve(message, form=MessageForm.TEXT)

    def _request(self, message: Message) -> HttpRequest | Receipt:
        if isinstance(message, Message) and message.outcome.success and not is_web_url(message.video_url or ""):
            return Refused(own("the finished video has no http or https URL"), try_text=False)
        try:
            return self.build(message)
        except Exception as error:  # noqa: BLE001 - a host's subclass may raise anything; nothing was sent yet
            refused = receipt_for_error(error) or Refused(
                quoting(type(error).__name__, bounded_detail(error)), try_text=False
            )
            return self._cleaned(refused, message)

    def _receipt(self, reply: HttpReply | HttpFailure, message: Message) -> Receipt:
        if isinstance(reply, HttpFailure):
            receipt = receipt_for_failure(reply)
        else:
            try:
                receipt = self.read(reply, message)
            except Exception as error:  # noqa: BLE001 - the request went out: only `read` could have told its fate
                fallback = Unknown(own(f"HTTP {reply.status}, whose body could not be read: {type(error).__name__}"))
                receipt = receipt_for_error(error) or fallback
        return self._cleaned(receipt, message)

    def _look_up_request(self, message: Message) -> HttpRequest | None:
        try:
            return self.build_look_up(message)
        except Exception:  # noqa: BLE001 - what cannot be asked cannot tell
            return None

    def _looked_up(self, reply: HttpReply | HttpFailure, message: Message) -> LookupAnswer:
        if isinstance(reply, HttpFailure):
            return LookupResult.NO_ANSWER
        try:
            return self.read_look_up(reply, message)
        except Exception:  # noqa: BLE001 - an answer that cannot be read is none
            return LookupResult.NO_ANSWER

    def _cleaned(self, receipt: Receipt, message: Message) -> Receipt:
        secrets = [*self.secrets(), message.video_url]
        if (recipient := message.recipient) is not None:
            digits = "".join(filter(str.isdecimal, recipient.to))
            secrets += [recipient.token, recipient.to, recipient.reply_to, digits]
        if isinstance(receipt, Refused) and message.form is MessageForm.TEXT:
            # There is no other form to try.
            receipt = attrs.evolve(receipt, try_text=False)
        if not isinstance(receipt, Delivered):
            return attrs.evolve(receipt, reason=redacted(receipt.reason, *secrets))
        # An id may be a long number, so it only loses what is known to be secret.
        message_id = None if receipt.message_id is None else one_line(without(receipt.message_id, secrets))
        detail = None if receipt.detail is None else redacted(receipt.detail, *secrets)
        return attrs.evolve(receipt, message_id=message_id, detail=detail, form=receipt.form or message.form)
