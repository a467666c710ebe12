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

import asyncio
from concurrent import futures
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

import attrs

from videopoll._http import Http, HttpFailure, HttpReply, HttpRequest
from videopoll._reasons import own
from videopoll.core.flow import acall_unchecked, adrive, call_unchecked, drive
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_kinds
from videopoll.jobs.outcome import MessageForm
from videopoll.jobs.urls import is_web_url
from videopoll.messages import (
    Accepted,
    Delivered,
    Failed,
    Found,
    LookupAnswer,
    LookupResult,
    Message,
    Receipt,
    Refused,
    RepeatSafe,
)
from videopoll.notifiers.exchange import Exchanging, Post
from videopoll.notifiers.hosts import host_names
from videopoll.notifiers.pace import Pace
from videopoll.observe.redact import one_line, redacted, without

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from concurrent.futures import Future

    import httpx

    from videopoll.core.flow import Flow
    from videopoll.notifiers.exchange import Exchange
    from videopoll.notifiers.video_check import VideoCheck, VideoLimits

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


def _check_written(kind: type[HttpNotifier]) -> None:
    own_exchange = kind.exchange is not HttpNotifier.exchange
    one_request = kind.build is not HttpNotifier.build and kind.read is not HttpNotifier.read
    if not own_exchange and not one_request:
        msg = f"{kind.__name__} must have both build(message) and read(reply, message), or exchange(message)"
        raise ConfigurationError(msg)


class HttpNotifier:
    """A channel that sends a message over HTTP.

    Subclasses write `build` and `read`, for one request, or `exchange`, for several,
    and do no I/O. Runners of both kinds use it: `notify` and `look_up` block, `anotify`
    and `alook_up` do not. May be used by several threads at once.

    Args:
        client: A client of the host to send with, e.g. one with a proxy. The host closes it.
        async_client: The same for asyncio.
        video_check: Look at a video's file first; None sends without a look.
        trusted_hosts: Hosts from which a video may be downloaded whatever their address is, and also
            by http, such as a storage inside your network. From all others only by https, and
            from public addresses. It matters to channels that upload.

    Raises:
        ConfigurationError: `trusted_hosts` is a string, a client is none of httpx's, the subclass has neither `build` and `read`
            nor `exchange`, or `video_check` has no limits and the channel has none either.
    """

    forms: ClassVar[frozenset[MessageForm]] = frozenset({MessageForm.VIDEO, MessageForm.TEXT})
    """What the channel can send. A message in another form goes as text, and so does one without a
    video in a form that is nothing without one: a template may carry a notice."""

    gap_s: ClassVar[float] = 0.0
    """Seconds between two messages to one user, where the channel asks for them. What would go out earlier is
    tried again later, and uses up nothing of its delivery's budget. Each process counts for itself."""

    video_limits: VideoLimits | None = None
    """What the channel takes as a video, for `VideoCheck`; None if that is not known."""

    repeats_are_safe_s: ClassVar[float] = 0.0
    """For how many seconds after the beginning of a send the same message can be sent again without a
    second one reaching the user, as the channel knows it by `Message.reference`; see `RepeatSafe`. 0 for never."""

    def __init__(
        self,
        *,
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        video_check: VideoCheck | None = None,
        trusted_hosts: Iterable[str] = (),
    ) -> None:
        _check_written(type(self))
        if video_check is not None:
            from videopoll.notifiers.video_check import VideoCheck  # noqa: PLC0415 - who has one has imported it

            check_kinds(type(self).__name__, VideoCheck, video_check=video_check)
        if video_check is not None and video_check.limits is None and self.video_limits is None:
            msg = f"{type(self).__name__} knows no limits of videos: give VideoCheck some (limits=VideoLimits(...))"
            raise ConfigurationError(msg)
        # The worker's places bound them: one account that hangs must not have all the connections of the others.
        self._http = Http(client=client, async_client=async_client, max_connections=1000)
        self._pace = Pace(self.gap_s)
        self._video_check = video_check
        self._trusted_hosts = host_names(trusted_hosts, f"{type(self).__name__}.trusted_hosts")

    def exchange(self, message: Message) -> Exchange:
        """Send the message with as many requests as it takes, as a generator of steps.

        By default that is one: what `build` writes, read by `read`. See
        `videopoll.notifiers.exchange` for the steps that there are.

        Raises:
            RefusedError: It cannot be sent to this recipient.
            NotSentError: It cannot be sent now.
            Exception: Before the `Post`, the message is refused; after it, nobody knows what became of it.
        """
        reply = yield from Post(self.build(message))
        return self.read(reply, message)

    def build(self, message: Message) -> HttpRequest:
        """Write the request that sends the message, in the form that it asks for.

        Raises:
            RefusedError: It cannot be sent to this recipient.
            Exception: The same; the message is refused.
        """
        raise NotImplementedError

    def read(self, reply: HttpReply, message: Message) -> Receipt:
        """Read from the reply what became of the message. See `receipt_for_status`.

        Raises:
            Exception: Nobody knows what became of it.
        """
        raise NotImplementedError

    def build_look_up(self, message: Message) -> HttpRequest | None:
        """Write the request that looks the message up by its reference; None where that is impossible."""
        del message
        return None

    def read_look_up(self, reply: HttpReply, message: Message) -> LookupAnswer:
        """Read from the reply whether the channel has the message."""
        del reply, message
        return LookupResult.CANNOT_TELL

    def secrets(self) -> tuple[str | None, ...]:
        """Return what must never show in a receipt, beside what is in the message itself and in headers for keys."""
        return ()

    def notify(self, message: Message) -> Receipt:
        """Send the message once."""
        return drive(self._notify(message, Backend(self._http.send, _wait)), call_unchecked)

    async def anotify(self, message: Message) -> Receipt:
        """Send the message once."""
        return await adrive(self._notify(message, Backend(self._http.asend, _await)), acall_unchecked)

    def look_up(self, message: Message) -> LookupAnswer:
        """Ask the channel for the message by its reference."""
        return drive(self._look_up(message, Backend(self._http.send, _wait)), call_unchecked)

    async def alook_up(self, message: Message) -> LookupAnswer:
        """Ask the channel for the message by its reference."""
        return await adrive(self._look_up(message, Backend(self._http.asend, _await)), acall_unchecked)

    def close(self) -> None:
        """Close the connections that `notify` and `look_up` opened."""
        self._http.close()

    async def aclose(self) -> None:
        """Close the connections that `anotify` and `alook_up` opened in this event loop."""
        await self._http.aclose()

    def _notify(self, message: Message, backend: Backend) -> Flow[Receipt]:
        message = self._in_own_form(message)
        if isinstance(message, Message) and message.outcome.success and not is_web_url(message.video_url or ""):
            return Refused(own("the finished video has no http or https URL"), try_text=False)
        turn = self._pace.turn(message)
        too_early = turn.too_early()
        if too_early is not None:
            return too_early
        exchanging = Exchanging(message, backend.send, backend.wait, self._trusted_hosts, turn.take)
        receipt = yield from exchanging.run(self._exchange(message))
        turn.end(receipt)
        return self._cleaned(receipt, message, exchanging.keys)

    def _exchange(self, message: Message) -> Exchange:
        if self._video_check is not None:
            refused = yield from self._video_check.look(message, self.video_limits)
            if refused is not None:
                return refused
        return (yield from self.exchange(message))

    def _look_up(self, message: Message, backend: Backend) -> Flow[LookupAnswer]:
        message = self._in_own_form(message)
        request = self._look_up_request(message)
        if request is None:
            safe_s = self.repeats_are_safe_s
            return RepeatSafe(safe_s) if safe_s > 0 else LookupResult.CANNOT_TELL
        return self._looked_up((yield from backend.send(request)), message)

    def _in_own_form(self, message: Message) -> Message:
        as_it_is = message.form in self.forms and (message.video_url or not MessageForm(message.form).has_video)
        return message if as_it_is else attrs.evolve(message, form=MessageForm.TEXT)

    def _look_up_request(self, message: Message) -> HttpRequest | None:
        try:
            return self.build_look_up(message)
        except Exception:  # noqa: BLE001 - what cannot be asked cannot tell
            return None

    def _looked_up(self, reply: HttpReply | HttpFailure, message: Message) -> LookupAnswer:
        if isinstance(reply, HttpFailure):
            return LookupResult.NO_ANSWER
        try:
            answer = self.read_look_up(reply, message)
        except Exception:  # noqa: BLE001 - an answer that cannot be read is none
            return LookupResult.NO_ANSWER
        secrets = self._all_secrets(message)
        if isinstance(answer, Failed):
            return attrs.evolve(answer, reason=redacted(answer.reason, *secrets))
        if isinstance(answer, Found) and answer.message_id is not None:
            return attrs.evolve(answer, message_id=_shown_id(answer.message_id, secrets, whole=answer.accepted))
        return answer

    def _all_secrets(self, message: Message) -> list[str | None]:
        secrets = [*self.secrets(), message.video_url]
        if (recipient := message.recipient) is not None:
            digits = "".join(filter(str.isdecimal, recipient.to))
            secrets += [recipient.token, recipient.to, recipient.reply_to, digits]
        return secrets

    def _cleaned(self, receipt: Receipt, message: Message, keys: Iterable[str] = ()) -> Receipt:
        secrets = [*self._all_secrets(message), *keys]
        if isinstance(receipt, Refused) and message.form is MessageForm.TEXT:
            # There is no other form to try.
            receipt = attrs.evolve(receipt, try_text=False)
        if not isinstance(receipt, Delivered):
            return attrs.evolve(receipt, reason=redacted(receipt.reason, *secrets))
        # An id may be a long number, so it only loses what is known to be secret.
        told = receipt.message_id
        message_id = None if told is None else _shown_id(told, secrets, whole=isinstance(receipt, Accepted))
        detail = None if receipt.detail is None else redacted(receipt.detail, *secrets)
        return attrs.evolve(receipt, message_id=message_id, detail=detail, form=receipt.form or message.form)


def _shown_id(message_id: str, secrets: Iterable[str | None], *, whole: bool) -> str | None:
    """Return a channel's id of a message without secrets; None for one that is not `whole`, where receipts must find it.

    They have the id as it was: another one would be that of another message, also for one that our reference finds.
    """
    shown = one_line(without(message_id, secrets))
    return None if whole and shown != message_id else shown
