"""WhatsApp through UltraMsg: native videos, texts, look-ups by reference, and the line's state.

UltraMsg queues what it is given, also for an instance that is offline, and
sends the whole queue in a burst when the line comes back, which can get the
number blocked. So an offline instance holds its messages back here.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from typing_extensions import override

from videopoll._http import HttpReply, HttpRequest
from videopoll._reasons import own, quoting
from videopoll.core.belonging import OfProcess
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_flags, quoted
from videopoll.jobs.outcome import MessageForm
from videopoll.jobs.urls import check_url
from videopoll.messages import Delivered, LookupResult, NotSent, Receipt, Unknown
from videopoll.notifiers.addresses import Account, account_of, check_account, recipient_of, whatsapp_address
from videopoll.notifiers.base import HttpNotifier
from videopoll.notifiers.exchange import Ask, Await, Post, StepFailedError
from videopoll.notifiers.receipts import message_id_in
from videopoll.notifiers.refusals import read_refusal, read_status, words_of
from videopoll.notifiers.video_check import WHATSAPP_LIMITS, VideoCheck, VideoLimits
from videopoll.policies import LONGEST_SEND_S
from videopoll.texts import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import httpx

    from videopoll.jobs.codec import JsonValue
    from videopoll.messages import Message
    from videopoll.notifiers.exchange import Exchange, Step

__all__ = ["UltraMsgNotifier"]

VIDEO_TIMEOUT_S = LONGEST_SEND_S
TEXT_TIMEOUT_S = 15.0
STATUS_TIMEOUT_S = 5.0
STATUS_EVERY_S = 30.0
CAPTION_LIMIT = 1024
TEXT_LIMIT = 4096
PRIORITIES = range(11)
PAGE_SIZE = 100
_GIVEN_UP = frozenset({"unsent", "invalid", "expired"})


class UltraMsgNotifier(HttpNotifier):
    """Sends over UltraMsg: the video with a caption, or a text with the link.

    The recipient names the instance and its token; those of the notifier fill
    in where a recipient has none.

    Args:
        base_url: Where UltraMsg is.
        instance_id: The instance that sends by default, e.g. ``"instance1150"``.
        token: Its token.
        priority: From 0, sent first, to 10, bulk.
        check_instance: Ask at most every 30 s whether the instance is online,
            and hold its messages back while it is not.
        client: A client of the host to send with. The host closes it.
        async_client: The same for asyncio.
        video_check: Look at a video's file first, so that one over WhatsApp's limits goes
            as a link at once.

    Raises:
        ConfigurationError: The base URL or the priority cannot work.
    """

    video_limits: VideoLimits | None = WHATSAPP_LIMITS

    def __init__(
        self,
        *,
        base_url: str = "https://api.ultramsg.com",
        instance_id: str | None = None,
        token: str | None = None,
        priority: int = 5,
        check_instance: bool = True,
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        video_check: VideoCheck | None = None,
    ) -> None:
        super().__init__(client=client, async_client=async_client, video_check=video_check)
        check_account("UltraMsgNotifier", instance_id=instance_id, token=token)
        check_flags("UltraMsgNotifier", check_instance=check_instance)
        if type(priority) is not int or priority not in PRIORITIES:
            msg = f"UltraMsgNotifier.priority is a whole number from 0 (first) to 10 (bulk), got {quoted(priority)}"
            raise ConfigurationError(msg)
        self._base_url = check_url(base_url, "UltraMsgNotifier.base_url").rstrip("/")
        self._instance_id = instance_id
        self._token = token
        self._priority = priority
        self._lines = _Lines() if check_instance else None

    @override
    def secrets(self) -> tuple[str | None, ...]:
        """Return the notifier's own token."""
        return (self._token,)

    @override
    def build(self, message: Message) -> HttpRequest:
        """Write ``POST /{instance}/messages/video``, or ``…/chat`` for a text."""
        recipient, account = recipient_of(message), self._account(message)
        fields: dict[str, JsonValue] = {
            "token": account.token,
            "to": whatsapp_address(recipient.to, hidden_ids=True),
            "priority": self._priority,
            "referenceId": message.reference,
        }
        if message.reply_to:
            fields["msgId"] = message.reply_to
        if message.form is MessageForm.VIDEO and message.video_url:
            fields |= {"video": message.video_url, "caption": cut(message.caption, CAPTION_LIMIT)}
            return self._post(account, "video", fields, VIDEO_TIMEOUT_S)
        return self._post(account, "chat", fields | {"body": _body(message)}, TEXT_TIMEOUT_S)

    @override
    def read(self, reply: HttpReply, message: Message) -> Receipt:
        """Read the reply: most refusals come with HTTP 200."""
        fault = read_status(reply, message)
        if fault is not None:
            return fault
        answer = reply.json()
        if not isinstance(answer, dict):
            return Unknown(own(f"HTTP {reply.status}, whose body is not a JSON object"))
        sent = str(answer.get("sent")).strip().lower()
        if answer.get("error"):
            return _refused(answer["error"], sent, reply, message)
        if sent == "false":
            return read_refusal(words_of(answer), reply, message, lead="not sent: ")
        message_id = message_id_in(answer.get("id"))
        if sent == "true" and message_id:
            return Delivered(message_id)
        # It may have been queued all the same: a look-up by the reference tells.
        return Unknown(own("the reply says neither that the message was sent nor that it was refused"))

    @override
    def build_look_up(self, message: Message) -> HttpRequest:
        """Write ``GET /{instance}/messages`` with the reference as a filter."""
        query = {"referenceId": message.reference, "page": "1", "limit": str(PAGE_SIZE), "status": "all"}
        return self._get(self._account(message), "messages", query, TEXT_TIMEOUT_S)

    @override
    def read_look_up(self, reply: HttpReply, message: Message) -> LookupResult:
        """Look for the reference in the list, whether or not the filter was honoured."""
        if not reply.is_success:
            # A 404 of a proxy, or a key that is being rotated, must not make it a blind second send.
            return LookupResult.NO_ANSWER
        listed, complete = _listed(reply)
        if listed is None:
            return LookupResult.NO_ANSWER
        ours = [entry for entry in listed if entry.get("referenceId") == message.reference]
        if any(entry.get("status") not in _GIVEN_UP for entry in ours):
            return LookupResult.FOUND
        if message.form is MessageForm.TEXT and message.video_url:
            # A video that failed before, with the same reference, says nothing about its text.
            ours = [entry for entry in ours if entry.get("body") == _body(message)]
        if ours:
            return LookupResult.FAILED
        return LookupResult.ABSENT if complete else LookupResult.CANNOT_TELL

    @override
    def exchange(self, message: Message) -> Exchange:
        """Hold the message back while its instance is offline. One asks, the others wait for that answer."""
        request = self.build(message)
        if self._lines is not None:
            account = self._account(message)
            offline, asks = self._lines.state(account.instance_id)
            if asks:
                yield from _asking(offline, self._get(account, "instance/status", {}, STATUS_TIMEOUT_S))
            if not offline.done():
                yield from Await(offline, STATUS_TIMEOUT_S)
            if offline.done() and offline.result():
                return _HELD_BACK
        return self.read((yield from Post(request)), message)

    def _account(self, message: Message) -> Account:
        return account_of(recipient_of(message), self._instance_id, self._token)

    def _post(self, account: Account, kind: str, fields: dict[str, JsonValue], timeout_s: float) -> HttpRequest:
        url = f"{self._base_url}/{account.instance_id}/messages/{kind}"
        return HttpRequest(method="POST", url=url, json=fields, timeout_s=timeout_s)

    def _get(self, account: Account, path: str, query: dict[str, str], timeout_s: float) -> HttpRequest:
        url = f"{self._base_url}/{account.instance_id}/{path}?{urlencode({'token': account.token, **query})}"
        return HttpRequest(method="GET", url=url, timeout_s=timeout_s)


_HELD_BACK = NotSent(
    own("the instance is offline: the message is held back"), retry_after_s=STATUS_EVERY_S, counts=False
)


class _Lines(OfProcess):
    """Whether each instance is offline, asked at most every 30 s, whoever wants to know."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin_in_child()
        self._begin_in_process()

    @override
    def _begin_in_child(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[str, tuple[float, Future[bool]]] = {}

    def state(self, instance_id: str) -> tuple[Future[bool], bool]:
        """Return the newest answer, perhaps still to come, and whether the caller has to ask for it."""
        with self._lock:
            now_s = self._clock()
            asked = self._asked.get(instance_id)
            if asked is not None and now_s - asked[0] < STATUS_EVERY_S:
                return asked[1], False
            offline: Future[bool] = Future()
            self._asked[instance_id] = (now_s, offline)
            return offline, True


def _asking(offline: Future[bool], question: HttpRequest) -> Generator[Step, object, None]:
    # No answer, or one that is not understood, is no reason to hold a message back.
    says_offline = False
    try:
        reply = yield from Ask(question)
        says_offline = reply.is_success and _says_offline(reply)
    except StepFailedError:
        pass
    finally:
        # Also if it is given up here: others wait for it.
        offline.set_result(says_offline)


def _says_offline(reply: HttpReply) -> bool:
    value: object = reply.json()
    for name in ("status", "accountStatus", "status"):
        value = value.get(name) if isinstance(value, dict) else None
    return isinstance(value, str) and value.strip().lower() != "authenticated"


def _body(message: Message) -> str:
    return cut(message.text, TEXT_LIMIT, keep=message.video_url or "")


def _refused(error: JsonValue, sent: str, reply: HttpReply, message: Message) -> Receipt:
    """Read the two shapes of an error: a sentence, or a list of ``{field: problem}``."""
    said, fields = str(error) if isinstance(error, list) else words_of(error), set[str]()
    if isinstance(error, list):
        problems = [problem for problem in error if isinstance(problem, dict)]
        fields = {name for problem in problems for name in problem}
        said = "; ".join(f"{name}: {what}" for problem in problems for name, what in problem.items()) or said
    receipt = read_refusal(said, reply, message, of_address="to" in fields)
    if sent == "true" and isinstance(receipt, NotSent):
        # What it says is no refusal for certain: a look-up by the reference tells.
        return Unknown(quoting("the reply says that the message was sent, and an error", said))
    return receipt


def _listed(reply: HttpReply) -> tuple[list[dict[str, JsonValue]] | None, bool]:
    """Return the messages of a list, and whether they are all that match."""
    answer = reply.json()
    listed = answer.get("messages") if isinstance(answer, dict) else answer
    if not isinstance(listed, list):
        return None, False
    entries = [entry for entry in listed if isinstance(entry, dict)]
    pages = answer.get("pages") if isinstance(answer, dict) else None
    try:
        complete = int(str(pages)) <= 1
    except ValueError:
        complete = len(listed) < PAGE_SIZE
    return entries, complete
