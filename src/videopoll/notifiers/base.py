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
from typing import TYPE_CHECKING, ClassVar

import attrs

from videopoll._http import Http, HttpFailure, HttpReply, HttpRequest
from videopoll._reasons import own, quoting
from videopoll.jobs.bounds import bounded_detail
from videopoll.jobs.outcome import MessageForm
from videopoll.jobs.urls import is_web_url
from videopoll.messages import Delivered, LookupResult, Message, Receipt, Refused, Unknown, receipt_for_error
from videopoll.notifiers.receipts import receipt_for_failure
from videopoll.observe.redact import one_line, redacted, without

if TYPE_CHECKING:
    import httpx

    from videopoll.notifiers.video_check import VideoCheck

__all__ = ["HttpNotifier"]


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

    forms: ClassVar[frozenset[MessageForm]] = frozenset(MessageForm)
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

    def read_look_up(self, reply: HttpReply, message: Message) -> LookupResult:
        """Read from the reply whether the channel has the message."""
        del reply, message
        return LookupResult.CANNOT_TELL

    def secrets(self) -> tuple[str | None, ...]:
        """Return what must never show in a receipt, beside what is in the message itself."""
        return ()

    def notify(self, message: Message) -> Receipt:
        """Send the message once."""
        message = self._in_own_form(message)
        request = self._request(message)
        if isinstance(request, HttpRequest) and self._video_check and (look := self._video_check.request(message)):
            request = self._video_check.refusal(self._http.send(look)) or request
        return self._send(request, message) if isinstance(request, HttpRequest) else request

    async def anotify(self, message: Message) -> Receipt:
        """Send the message once."""
        message = self._in_own_form(message)
        request = self._request(message)
        if isinstance(request, HttpRequest) and self._video_check and (look := self._video_check.request(message)):
            request = self._video_check.refusal(await self._http.asend(look)) or request
        return await self._asend(request, message) if isinstance(request, HttpRequest) else request

    def look_up(self, message: Message) -> LookupResult:
        """Ask the channel for the message by its reference."""
        message = self._in_own_form(message)
        request = self._find_request(message)
        return self._looked_up(self._http.send(request), message) if request else LookupResult.CANNOT_TELL

    async def alook_up(self, message: Message) -> LookupResult:
        """Ask the channel for the message by its reference."""
        message = self._in_own_form(message)
        request = self._find_request(message)
        return self._looked_up(await self._http.asend(request), message) if request else LookupResult.CANNOT_TELL

    def close(self) -> None:
        """Close the connections that `notify` and `look_up` opened."""
        self._http.close()

    async def aclose(self) -> None:
        """Close the connections that `anotify` and `alook_up` opened in this event loop."""
        await self._http.aclose()

    def _send(self, request: HttpRequest, message: Message) -> Receipt:
        return self._receipt(self._http.send(request, may_send=message.may_still_send), message)

    async def _asend(self, request: HttpRequest, message: Message) -> Receipt:
        return self._receipt(await self._http.asend(request, may_send=message.may_still_send), message)

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

    def _find_request(self, message: Message) -> HttpRequest | None:
        try:
            return self.build_look_up(message)
        except Exception:  # noqa: BLE001 - what cannot be asked cannot tell
            return None

    def _looked_up(self, reply: HttpReply | HttpFailure, message: Message) -> LookupResult:
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
        return Delivered(message_id, detail, receipt.form or message.form)
