"""What the channels have in common: HTTP exchanges, receipts for faults, addresses, redaction.

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
import inspect
import re
import time
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast
from urllib.parse import quote, urlsplit

import attrs

from videopoll._calling import in_thread
from videopoll._http import FailureKind, Http, HttpFailure, HttpReply, HttpRequest, retry_after_s
from videopoll._http.answerer import refused_by_another, whose_words
from videopoll._reasons import Reason, own, quoting
from videopoll.errors import ConfigurationError, NotSentError, RefusedError
from videopoll.jobs.bounds import bounded_detail
from videopoll.jobs.outcome import MessageForm
from videopoll.messages import TOO_LATE, Delivered, LookupResult, NotSent, Receipt, Refused, Unknown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    import httpx

    from videopoll.messages import Message, Recipient
    from videopoll.notifiers.video_check import VideoCheck

__all__ = [
    "HttpNotifier",
    "HttpReply",
    "HttpRequest",
    "receipt_for_error",
    "receipt_for_status",
    "recipient_of",
    "redact",
]

T = TypeVar("T")

MAX_REASON_CHARS = 200
"""How much of a provider's text gets into a receipt."""

# Whatever comes out of a provider or a host's function may quote what went in.
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://\S+", re.IGNORECASE)
_CREDENTIAL = re.compile(
    r"((?:token|secret|password|api[_-]?key)[\"']?\s{0,3}[=:]\s{0,3}|\b(?:bearer|basic)\s{1,3})[^\s&,;}]+",
    re.IGNORECASE,
)
_LONG_NUMBER = re.compile(r"\d(?:[\s().-]{0,2}\d){6,}")


def redact(text: str, *secrets: str | None) -> str:
    """Make a foreign text fit for logs: one line of at most 200 characters without secrets.

    The given secrets go, and so does whatever looks like a URL, a credential or a phone number.
    """
    text = _without(text, secrets)
    text = _URL.sub("[url]", text)
    text = _CREDENTIAL.sub(r"\1[redacted]", text)
    text = _LONG_NUMBER.sub("[number]", text)
    return _one_line(text)


def redacted(reason: str, *secrets: str | None) -> str:
    """Redact a reason; what of it is ours stays as it is."""
    cleaned = redact(reason, *secrets)
    return Reason(cleaned, reason.told) if isinstance(reason, Reason) else cleaned


def _without(text: str, secrets: Iterable[str | None]) -> str:
    for secret in sorted({secret for secret in secrets if secret}, key=len, reverse=True):
        for form in (secret, quote(secret, safe="", errors="replace")):
            text = text.replace(form, "[redacted]")
    return text


def _one_line(text: str) -> str:
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= MAX_REASON_CHARS else line[: MAX_REASON_CHARS - 1] + "…"


_INSTANCE = re.compile(r"[A-Za-z0-9_-]{1,100}")


@attrs.frozen
class Account:
    """The sending side of a messaging service, fit for a URL's path and a header."""

    instance_id: str
    token: str = attrs.field(repr=False)


def account_of(recipient: Recipient, instance_id: str | None, token: str | None) -> Account:
    """Give the account that sends to a recipient; the channel's own fills the gaps.

    Raises:
        RefusedError: There is none, or it is not safe to build a request with.
    """
    instance_id, token = recipient.instance_id or instance_id, recipient.token or token
    if not instance_id or not token:
        problem = "no instance id or no token: give both to the Recipient or to the notifier"
    elif not _INSTANCE.fullmatch(instance_id):
        problem = "the instance id has characters other than letters, digits, '_' and '-'"
    elif not token.isascii() or not token.isprintable() or " " in token:
        problem = "the token has characters that no token has"
    else:
        return Account(instance_id, token)
    raise RefusedError(own(problem), try_text=False)


def recipient_of(message: Message) -> Recipient:
    """Give the message's recipient.

    Raises:
        RefusedError: It has none, as nothing has asked the host for it.
    """
    if message.recipient is None:
        msg = "the message has no recipient: put this channel into a RoutingNotifier, which asks the host for it"
        raise RefusedError(own(msg), try_text=False)
    return message.recipient


def check_url(url: str, owner: str) -> str:
    """Give a channel's own address, if requests can be sent to it.

    Raises:
        ConfigurationError: It is no http(s) URL.
    """
    if not is_web_url(url) or not url.isascii() or "@" in urlsplit(url).netloc:
        # The URL itself stays out of the text: it may hold a password.
        msg = f"{owner} must be an http or https URL with a host name, percent-encoded and without user:password@"
        raise ConfigurationError(msg)
    return url


def check_callable(function: object, owner: str, argument: str) -> None:
    """Refuse what is no function.

    Raises:
        ConfigurationError: It cannot be called.
    """
    if not callable(function):
        msg = f"{owner} must be a function of {argument}, got {type(function).__name__}"
        raise ConfigurationError(msg)


def is_web_url(url: str) -> bool:
    """Whether a URL is http or https, names a host, and has no spaces or control characters."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and url.isprintable() and " " not in url
    except ValueError:
        return False


def is_success(reply: HttpReply) -> bool:
    """Whether the status is a 2xx."""
    return 200 <= reply.status < 300  # noqa: PLR2004 - the definition of success


def receipt_for_status(reply: HttpReply) -> Receipt | None:
    """Return what an HTTP status says about the message; None for a 2xx, whose body decides.

    407 (of a proxy on the way), 425, 429 and 503 promise that nothing was sent. A
    408 and the other 5xx may come from a proxy in front of a server that took the
    message. 401, 402, 404, 421 and 423 speak of the account, the address or the
    moment, and so does a 403 or 405 in the words of a firewall or a proxy: the
    message is tried again as it is. The other 4xx refuse it.
    """
    if is_success(reply):
        return None
    status = reply.status
    said = reply.json()
    reason = quoting(f"HTTP {status}", said) if isinstance(said, dict) else own(f"HTTP {status}")
    if status in {407, 425, 429, 503}:
        return NotSent(reason, retry_after_s=retry_after_s(reply.headers, time.time()))
    if status == 408 or status >= 500:  # noqa: PLR2004 - the definition of a server's fault
        return Unknown(reason)
    if status < 400:  # noqa: PLR2004 - the definition of a redirect
        return NotSent(own(f"HTTP {status}: it redirects elsewhere; check the channel's URL"))
    if status in _NOT_OF_THE_MESSAGE or (status in {403, 405} and refused_by_another(reply)):
        if reply.body.strip() and not isinstance(said, dict):
            reason = own(f"HTTP {status}: {whose_words(reply)}")
        return NotSent(reason, channel_fault=False, account_fault=True)
    # Who is not to get the video is not to get a text; another file or size may do.
    return Refused(reason, try_text=status not in {403, 405, 410})


_NOT_OF_THE_MESSAGE = frozenset({401, 402, 404, 421, 423})


def receipt_for_failure(failure: HttpFailure) -> Receipt:
    """Tell what the lack of a reply says about the message."""
    if failure.kind is FailureKind.TOO_LATE:
        return TOO_LATE
    reason = own(f"{failure.kind.value}: {failure.detail}")
    if failure.kind is FailureKind.INVALID:
        return Refused(reason, try_text=False)
    return NotSent(reason) if failure.surely_not_sent else Unknown(reason)


def receipt_for_error(error: Exception) -> NotSent | Refused | None:
    """Give the receipt that a `NotifierError` stands for; None for any other exception."""
    if isinstance(error, NotSentError):
        return NotSent(error.reason, retry_after_s=error.retry_after_s)
    if isinstance(error, RefusedError):
        return Refused(error.reason, try_text=error.try_text)
    return None


def message_id_in(*candidates: object) -> str | None:
    """Give the first that can be a channel's id of a message."""
    for candidate in candidates:
        if isinstance(candidate, str | int) and not isinstance(candidate, bool) and str(candidate).strip():
            return str(candidate)
    return None


def is_async(function: object) -> bool:
    """Whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def call_sync(function: Callable[..., T | Awaitable[T]], argument: object, name: str) -> T:
    """Call a host's function from a thread.

    Raises:
        TypeError: It is asynchronous.
    """
    result = None if is_async(function) else function(argument)
    if is_async(function) or inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        msg = f"{name} is asynchronous: use AsyncRunner, or give Runner a plain function"
        raise TypeError(msg)
    return cast("T", result)


async def call_async(function: Callable[..., T | Awaitable[T]], argument: object) -> T:
    """Call a host's function from asyncio: a sync one in a thread, with the context copied."""
    result: object = function(argument) if is_async(function) else await in_thread(partial(function, argument))
    return await cast("Awaitable[T]", result) if inspect.isawaitable(result) else cast("T", result)


async def send_async(send: Callable[[Message], T | Awaitable[T]], message: Message) -> T | Receipt:
    """Call what sends a message from asyncio: a sync one in a thread, unless it is too late when one is free."""
    if is_async(send):
        return await call_async(send, message)
    return await call_async(partial(send_in_time, send), message)


def send_in_time(send: Callable[[Message], T | Awaitable[T]], message: Message) -> T | Awaitable[T] | Receipt:
    """Call what sends a message, unless it is too late."""
    return send(message) if message.may_still_send() else TOO_LATE


class HttpNotifier(abc.ABC):
    """A channel that sends a message with one HTTP request.

    Subclasses write `build` and `read`, and do no I/O. Runners of both kinds
    use it: `notify` and `find` block, `anotify` and `afind` do not. May be used
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
        """Tell from the reply what became of the message. See `receipt_for_status`.

        Raises:
            Exception: Nobody knows what became of it.
        """

    def build_find(self, message: Message) -> HttpRequest | None:
        """Write the request that looks the message up by its reference; None where that is impossible."""
        del message
        return None

    def read_find(self, reply: HttpReply, message: Message) -> LookupResult:
        """Tell from the reply whether the channel has the message."""
        del reply, message
        return LookupResult.CANNOT_TELL

    def secrets(self) -> tuple[str | None, ...]:
        """Give what must never show in a receipt, beside what is in the message itself."""
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

    def find(self, message: Message) -> LookupResult:
        """Ask the channel for the message by its reference."""
        message = self._in_own_form(message)
        request = self._find_request(message)
        return self._sighting(self._http.send(request), message) if request else LookupResult.CANNOT_TELL

    async def afind(self, message: Message) -> LookupResult:
        """Ask the channel for the message by its reference."""
        message = self._in_own_form(message)
        request = self._find_request(message)
        return self._sighting(await self._http.asend(request), message) if request else LookupResult.CANNOT_TELL

    def close(self) -> None:
        """Let go of the connections that `notify` and `find` opened."""
        self._http.close()

    async def aclose(self) -> None:
        """Let go of the connections that `anotify` and `afind` opened in this event loop."""
        await self._http.aclose()

    def _send(self, request: HttpRequest, message: Message) -> Receipt:
        return self._receipt(self._http.send(request, may_send=message.may_still_send), message)

    async def _asend(self, request: HttpRequest, message: Message) -> Receipt:
        return self._receipt(await self._http.asend(request, may_send=message.may_still_send), message)

    def _in_own_form(self, message: Message) -> Message:
        as_it_is = message.form in self.forms and (message.form is MessageForm.TEXT or message.video_url)
        return message if as_it_is else attrs.evolve(message, form=MessageForm.TEXT)

    def _request(self, message: Message) -> HttpRequest | Receipt:
        if message.outcome.success and not is_web_url(message.video_url or ""):
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
            return self.build_find(message)
        except Exception:  # noqa: BLE001 - what cannot be asked cannot tell
            return None

    def _sighting(self, reply: HttpReply | HttpFailure, message: Message) -> LookupResult:
        if isinstance(reply, HttpFailure):
            return LookupResult.NO_ANSWER
        try:
            return self.read_find(reply, message)
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
        message_id = None if receipt.message_id is None else _one_line(_without(receipt.message_id, secrets))
        detail = None if receipt.detail is None else redacted(receipt.detail, *secrets)
        return Delivered(message_id, detail, receipt.form or message.form)
