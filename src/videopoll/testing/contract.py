"""What every channel promises, as tests that its author runs over it.

The classes here need no test framework: their methods raise `AssertionError`.
pytest collects them from a subclass whose name begins with ``Test``.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar, cast

import attrs
from typing_extensions import override

from videopoll._http import Http
from videopoll.jobs.job import VideoJob
from videopoll.jobs.outcome import MessageForm, Outcome, OutcomeKind
from videopoll.jobs.video import Asset, PublicLink
from videopoll.messages import (
    Delivered,
    Found,
    LookupAnswer,
    LookupResult,
    Message,
    NotSent,
    Receipt,
    Recipient,
    Refused,
    Unknown,
)
from videopoll.notifiers.base import HttpNotifier
from videopoll.notifiers.pace import Pace
from videopoll.observe.redact import SHORT_SECRET_CHARS
from videopoll.testing.assertions import Answering
from videopoll.testing.servers import FakeServer, ReceivedRequest, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from videopoll._http import HttpFailure, HttpReply, HttpRequest
    from videopoll.jobs.codec import JsonValue

__all__ = ["NotifierContract"]

START_MS = 1_757_157_518_747
TOOK_MS = 45_000
TO = "5491155550000"
TOKEN = "token-of-the-contract"  # noqa: S105 - made up
SIGNATURE = "s3cr3t-of-the-contract"
VIDEO_URL = f"https://files.example/video.mp4?signature={SIGNATURE}&size=1"
PROVIDER_ERROR = "provider-words-of-the-contract"

VIDEO_PATH = "/video-of-the-contract.mp4"
VIDEO = b"\0\0\0\x18ftypmp42" + bytes(100_000)
"""What a channel may download that uploads videos."""

HURRY_S = 0.4
"""A channel waits 15 or 30 s for a reply; a test should not take that long."""

RETRY_AFTER_S = 7
THREADS = 6
SENDS = 24

# Added or changed by what carries a request, not by the channel.
_CARRIERS = frozenset({"accept", "accept-encoding", "connection", "host", "user-agent"})

NO_NEWS: tuple[bytes, ...] = (
    b"",
    b"<html><h1>It works!</h1></html>",
    b"null",
    b"true",
    b"42",
    b'"ok"',
    b"[]",
    b"{}",
    b'[{"id": [], "error": {}}]',
    b'{"sent": {}, "id": [], "error": {"a": [1]}, "messageId": {}, "status": [], "messages": 7, "ok": []}',
    b"\xff\xfe\x00\x80",
    b"[" * 50_000,
    b'{"a":' * 50_000,
    b'"' + b"x" * 2_000_000 + b'"',
)
"""Bodies that tell nothing about a message, and that code did not expect."""


def check(condition: object, complaint: str) -> None:
    """Complain unless it is so."""
    # Not the statement: it would vanish under "python -O", and pytest does not explain it in a library.
    if not condition:
        raise AssertionError(complaint)


def message_of_contract(
    form: MessageForm, recipient: Recipient | None, *, success: bool, language: str | None = None
) -> Message:
    outcome = (
        Outcome(OutcomeKind.COMPLETED, START_MS + TOOK_MS, video_url=VIDEO_URL, file_id="file-1")
        if success
        else Outcome(OutcomeKind.FAILED, START_MS + TOOK_MS, error=PROVIDER_ERROR)
    )
    return Message(
        job=VideoJob("job_1757157518747_contract", "conversation-1", START_MS),
        outcome=outcome,
        form=form,
        reference="vp-0123456789abcdef0123456789abcdef",
        recipient=recipient,
        language=language,
    )


class _Service(FakeServer):
    """The channel's service: takes every message, unless it was told otherwise."""

    def __init__(self, contract: NotifierContract) -> None:
        super().__init__()
        self._contract = contract
        _ = contract.accepted  # or it would be missed in the middle of an answer
        self._sends: list[ReceivedRequest] = []
        self._made: list[HttpNotifier] = []

    def notifier(self, base_url: str | None = None, *, hasty: bool = False, paced: bool = False) -> HttpNotifier:
        """Build the channel over this service; it is closed when the service stops."""
        notifier = self._contract.make_notifier(base_url or self.url)
        told = (
            f"this contract is for an HttpNotifier, PlainNotifierContract for others such as {type(notifier).__name__}"
        )
        check(isinstance(notifier, HttpNotifier), told)
        if not paced:
            # One user gets many messages here.
            notifier._pace = Pace(0.0)  # noqa: SLF001 - one unit with its base class
        if hasty:
            notifier._http = _Hasty()  # noqa: SLF001 - one unit with its base class
        notifier._trusted_hosts = frozenset({"127.0.0.1"})  # noqa: SLF001 - the video lies here, too
        self._made.append(notifier)
        return notifier

    @override
    def stop(self) -> None:
        while self._made:
            self._made.pop().close()
        super().stop()

    @property
    def sends(self) -> list[ReceivedRequest]:
        """The requests that were no side questions."""
        with self._lock:
            return list(self._sends)

    def always(self, reply: Reply) -> None:
        """Answer every send like this."""
        self.heal()
        self.fail_every(1, reply, when=lambda request: self._aside(request) is None)

    def fail_request(self, number: int, reply: Reply) -> None:
        """Answer like this to the request of this number, from 0, whatever it is."""
        self.heal()
        numbers = itertools.count()
        self.fail_next(reply, when=lambda _: next(numbers) == number)

    def _aside(self, request: ReceivedRequest) -> Reply | None:
        """Return the answer to a request that is no send and no look-up; None for all others."""
        if request.path == VIDEO_PATH:
            return Reply(body=VIDEO, headers={"content-type": "video/mp4"})
        return self._contract.side_question(request)

    @override
    def _receive(self, request: ReceivedRequest) -> Reply:
        if self._aside(request) is None:
            with self._lock:
                self._sends.append(request)
        return super()._receive(request)

    @override
    def _handle(self, request: ReceivedRequest) -> Reply:
        return self._aside(request) or self._contract.accepted


class _Hasty(Http):
    """An HTTP client that gives the service little time to answer."""

    @override
    def send(self, request: HttpRequest, *, may_send: Callable[[], bool] | None = None) -> HttpReply | HttpFailure:
        request = attrs.evolve(request, timeout_s=min(request.timeout_s, HURRY_S))
        return super().send(request, may_send=may_send)

    @override
    async def asend(
        self, request: HttpRequest, *, may_send: Callable[[], bool] | None = None
    ) -> HttpReply | HttpFailure:
        request = attrs.evolve(request, timeout_s=min(request.timeout_s, HURRY_S))
        return await super().asend(request, may_send=may_send)


@attrs.frozen
class _Side:
    """One side of a channel: the blocking one, or the one for asyncio."""

    name: str
    notify: Callable[[Message], object]
    look_up: Callable[[Message], object]

    def receipt(self, message: Message) -> Receipt:
        """Send a message."""
        receipt = self._call(self.notify, message)
        check(isinstance(receipt, Receipt), f"{self.name} has to give a Receipt, got {type(receipt).__name__}")
        return cast("Receipt", receipt)

    def looked_up(self, message: Message) -> LookupAnswer:
        """Look a message up."""
        answer = self._call(self.look_up, message)
        check(isinstance(answer, LookupAnswer), f"{self.name} has to give a LookupAnswer, got {type(answer).__name__}")
        return cast("LookupAnswer", answer)

    def _call(self, method: Callable[[Message], object], message: Message) -> object:
        try:
            return method(message)
        except Exception as error:
            complaint = f"{self.name} raised {type(error).__name__}: whatever the service does is told by a receipt"
            raise AssertionError(complaint) from error


def _sides(notifier: HttpNotifier) -> Iterator[_Side]:
    async def anotify(message: Message) -> object:
        try:
            return await notifier.anotify(message)
        finally:
            await notifier.aclose()

    async def alook_up(message: Message) -> object:
        try:
            return await notifier.alook_up(message)
        finally:
            await notifier.aclose()

    yield _Side("notify", notifier.notify, notifier.look_up)
    notifier.close()
    yield _Side(
        "anotify", lambda message: asyncio.run(anotify(message)), lambda message: asyncio.run(alook_up(message))
    )


class NotifierContract(Answering):
    """What a channel over HTTP has to keep to, over both its sides and a real local server.

    Subclass it in a test module, and say how the service answers::

        class TestPager(NotifierContract):
            accepted = Reply.json({"id": "m-1"})
            refused = Reply.json({"error": "no such number"}, status=400)

            def make_notifier(self, base_url):
                return PagerNotifier(base_url=base_url)

    Each ``test_*`` method builds notifiers of its own. Nothing but the server is
    a fake; the time that a request may take is shortened.
    """

    accepted: Reply
    """What the service answers when it took a message."""

    refused: ClassVar[Reply | None] = None
    """What it answers when it refuses one for good; None leaves that out."""

    recipient: ClassVar[Recipient | None] = Recipient(
        channel="contract", to=TO, instance_id="instance1150", token=TOKEN
    )
    """Who gets the messages; None for a channel that asks for nobody."""

    status_is_enough: ClassVar[bool] = False
    """Whether any 2xx means that the message was taken, whatever the body says."""

    unauthorized: ClassVar[type[Receipt] | tuple[type[Receipt], ...]] = (NotSent, Refused)
    """What a 401 means: `NotSent` for a channel that tries again until the key is right, or `Refused`."""

    public_ids: ClassVar[tuple[str, ...]] = ()
    """What in the channel's URLs looks like a key and is none, such as the id of an account."""

    def make_notifier(self, base_url: str) -> HttpNotifier:
        """Build the channel, pointed at a server. Called for each test."""
        msg = f"{type(self).__name__} must override make_notifier(self, base_url)"
        raise NotImplementedError(msg)

    def side_question(self, request: ReceivedRequest) -> Reply | None:
        """Answer a request that is neither a send nor a look-up, e.g. one for the line's state; None for all others."""
        del request
        return None

    def found(self, message: Message) -> Reply | None:
        """Return what the service answers to a look-up of this message when it has it; None leaves that out."""
        del message
        return None

    def message(self, form: MessageForm = MessageForm.VIDEO, *, success: bool = True) -> Message:
        """Return the message to send; override it for a channel that needs more, e.g. metadata."""
        return message_of_contract(form, self.recipient, success=success)

    # --- what is sent ---

    def test_an_accepted_message_is_delivered(self) -> None:
        """A video, its fallback text and plain texts, with the sync and the async method."""
        with _Service(self) as service:
            for side in _sides(service.notifier()):
                for message in self._messages():
                    receipt = side.receipt(message)
                    check(
                        isinstance(receipt, Delivered),
                        f"{side.name}: the service took the {message.form.value}, which is Delivered, got {receipt!r}",
                    )

    def test_both_sides_send_the_same_request(self) -> None:
        """A host may change runners without its users noticing."""
        with _Service(self) as service:
            for message in self._messages():
                sent = [self._sent(service, side, message) for side in _sides(service.notifier())]
                check(sent[0] == sent[1], f"notify and anotify send different requests: {sent[0]} and {sent[1]}")

    def test_the_link_is_in_the_message(self) -> None:
        """A user who gets a text without the link has waited for nothing."""
        with _Service(self) as service:
            for side in _sides(service.notifier()):
                for form in (MessageForm.VIDEO, MessageForm.TEXT):
                    message = self.message(form)
                    self._sent(service, side, message)
                    words = [text for request in service.sends[-1:] for text in _texts(request)]
                    check(
                        any(str(message.video_url) in text for text in words),
                        f"{side.name}: the {form.value} goes out without its link",
                    )

    # --- what a reply means ---

    def test_a_refusal_is_told_as_one(self) -> None:
        """What is refused for good falls back to a text, or goes to the dead letters with the reason."""
        if self.refused is not None:
            self._expect(self.refused, Refused)

    def test_a_wrong_key_is_no_delivery(self) -> None:
        """The operator hears of it."""
        self._expect(Reply.fault(401), self.unauthorized)

    def test_a_busy_service_is_asked_again_when_it_says(self) -> None:
        """429 promises that nothing was sent, and says how long to wait."""
        for receipt in self._expect(Reply.fault(429, retry_after=RETRY_AFTER_S), NotSent):
            check(
                isinstance(receipt, NotSent) and receipt.retry_after_s == RETRY_AFTER_S,
                f"the Retry-After of {RETRY_AFTER_S} s has to be in the receipt, got {receipt!r}",
            )

    def test_a_service_that_is_down_is_tried_again(self) -> None:
        """503 promises that nothing was sent."""
        self._expect(Reply.fault(503), NotSent)

    def test_a_refused_connection_proves_that_nothing_was_sent(self) -> None:
        """So the message is sent again without a question."""
        with _Service(self) as service:
            service.stop()
            for side in _sides(service.notifier()):
                self._is(side, side.receipt(self.message()), NotSent, "a refused connection")

    def test_a_connection_that_does_not_come_about_proves_that_nothing_was_sent(self) -> None:
        """The time is up before the request could go out."""
        with socket.create_server(("127.0.0.1", 0)) as silent, _Service(self) as service:
            base_url = f"https://127.0.0.1:{silent.getsockname()[1]}"
            for side in _sides(service.notifier(base_url, hasty=True)):
                self._is(side, side.receipt(self.message()), NotSent, "a handshake that takes too long")

    def test_a_lost_reply_leaves_the_fate_of_the_message_open(self) -> None:
        """The service may have taken it: to call it unsent would send it twice, to call it delivered might lose it."""
        self._expect(Reply.dropped(accept=True), Unknown)

    def test_a_late_reply_leaves_the_fate_of_the_message_open(self) -> None:
        """The same for a service that does not answer in time."""
        self._expect(Reply.hang(accept=True), Unknown)

    def test_a_reply_that_says_nothing_is_no_delivery(self) -> None:
        """Whatever comes back is told by a receipt; only what the service surely took is Delivered."""
        for body in NO_NEWS:
            receipts = self._receipts(Reply.garbage(body))
            if not self.status_is_enough:
                told = any(isinstance(receipt, Delivered) for _, receipt in receipts)
                check(not told, f"a reply that says nothing is no Delivered: HTTP 200 with the body {body[:50]!r}")

    def test_an_error_is_no_delivery_whatever_its_body_says(self) -> None:
        """Proxies answer with pages of their own."""
        for status in (302, 400, 403, 404, 413, 500, 502):
            for body in (self.accepted.body, b"", b"[" * 50_000):
                for side, receipt in self._receipts(Reply(status=status, body=body)):
                    check(not isinstance(receipt, Delivered), f"{side.name}: HTTP {status} is no Delivered")

    # --- secrets, threads, closing ---

    def test_nothing_tells_a_secret(self) -> None:
        """Receipts go to logs and dead letters; services like to quote what they were sent."""
        with _Service(self) as service:
            notifier = service.notifier()
            message = self.message()
            secrets = self._secrets(notifier, message)
            step = _first_step(notifier, message)
            told: list[object] = [notifier, step, getattr(step, "request", None), notifier.build_look_up(message)]
            quoted = " ".join(secrets)
            secrets.append(SIGNATURE)
            answer: dict[str, JsonValue] = {"error": quoted, "message": quoted}
            replies = [Reply.json(answer, status=status) for status in (200, 400, 401, 429, 500)]
            for side in _sides(notifier):
                for reply in [*replies, Reply.garbage(quoted.encode()), Reply.dropped()]:
                    service.always(reply)
                    receipt = side.receipt(message)
                    # The whole reason too, which an operator may ask for.
                    told += [receipt, str(getattr(receipt, "reason", ""))]
            for thing in told:
                for secret in secrets:
                    check(
                        secret not in repr(thing),
                        f"the repr of {type(thing).__name__} tells a token, an address or a URL",
                    )

    def test_no_key_of_its_requests_is_told(self) -> None:
        """What a channel sends as its key has to be in its `secrets`, or a service that quotes it puts it into a receipt."""
        with _Service(self) as service:
            notifier, message = service.notifier(), self.message()
            if message.recipient is not None:
                # The recipient's own key is taken out anyway.
                message = attrs.evolve(message, recipient=attrs.evolve(message.recipient, token=None))
            for side in _sides(notifier):
                side.receipt(message)
            keys = {key for request in service.requests for key in _keys(request)}
            keys -= {message.reference, message.job.job_id, *self.public_ids}
            if message.recipient is not None:
                keys -= {message.recipient.instance_id or "", message.recipient.to}
            quoted = " ".join(sorted(keys))
            answer: dict[str, JsonValue] = dict.fromkeys(("error", "message", "description"), quoted)
            for status in (200, 400, 401, 500):
                service.always(Reply.json(answer, status=status))
                for side in _sides(notifier):
                    receipt = side.receipt(message)
                    said = f"{receipt!r} {getattr(receipt, 'reason', '')}"
                    check(
                        not any(key in said for key in keys),
                        f"{side.name}: the receipt tells a key that the request bears: give it in secrets()",
                    )

    # --- several requests ---

    def test_what_fails_before_the_message_is_posted_was_surely_not_sent(self) -> None:
        """Also if the worker dies there: the next try begins with what was kept, and sends the message once."""
        for message in self._in_all_forms():
            for number in range(self._asides(message)):
                for trouble in (Reply.dropped(), Reply.fault(500), Reply.garbage(b"<html>")):
                    self._fails_before(message, number, trouble)

    def _fails_before(self, message: Message, number: int, trouble: Reply) -> None:
        with _Service(self) as service:
            for side in _sides(service.notifier()):
                before = len(service.sends)
                service.fail_request(number, trouble)
                receipt = side.receipt(_at(message, service))
                posted = len(service.sends) > before
                check(
                    posted or isinstance(receipt, NotSent | Refused),
                    f"{side.name}: nothing was posted as {message.form.value}, which is NotSent or Refused, got {receipt!r}",
                )
                service.heal()
                kept = dict(receipt.prepared or {})
                again = side.receipt(attrs.evolve(_at(message, service), prepared=kept, attempt=2))
                check(
                    isinstance(again, Delivered) and len(service.sends) == before + posted + 1,
                    f"{side.name}: the next try has to send the {message.form.value} once, got {again!r}",
                )

    def test_what_a_channel_does_not_know_of_its_own_state_is_prepared_anew(self) -> None:
        """An earlier version may have kept it."""
        with _Service(self) as service:
            for message in self._in_all_forms():
                for side in _sides(service.notifier()):
                    odd = attrs.evolve(_at(message, service), prepared={"": [None], "id": {"x": 1}})
                    self._is(side, side.receipt(odd), Delivered, "a message with a state that nobody knows")

    def test_repeats_are_the_same_where_the_channel_makes_one_message_of_them(self) -> None:
        """It knows a message by its reference, which has to be in the request; the number of the try must not."""
        with _Service(self) as service:
            notifier, message = service.notifier(), self.message()
            if not notifier.repeats_are_safe_s:
                return
            for side in _sides(notifier):
                first, again = (self._sent(service, side, attrs.evolve(message, attempt=number)) for number in (1, 2))
                check(first == again, f"{side.name}: a repeat has to be the same request")
                other = self._sent(service, side, attrs.evolve(message, reference="vp-" + "f" * 32))
                check(first != other, f"{side.name}: the reference is not in the request, so repeats are two messages")

    def _in_all_forms(self) -> list[Message]:
        with _Service(self) as service:
            return [self.message(form) for form in sorted(service.notifier().forms)]

    def _asides(self, message: Message) -> int:
        """Return how many requests come before the one that posts the message."""
        with _Service(self) as service:
            side = next(_sides(service.notifier()))
            self._is(side, side.receipt(_at(message, service)), Delivered, f"a {message.form.value} that was taken")
            return service.requests.index(service.sends[0])

    def test_many_may_send_at_once(self) -> None:
        """A worker's threads share one notifier."""
        with _Service(self) as service:
            notifier = service.notifier()
            with ThreadPoolExecutor(THREADS) as threads:
                receipts = list(threads.map(notifier.notify, [self.message()] * SENDS))
            notifier.close()

            async def together() -> list[Receipt]:
                try:
                    return await asyncio.gather(*(notifier.anotify(self.message()) for _ in range(SENDS)))
                finally:
                    await notifier.aclose()

            receipts += asyncio.run(together())
            check(
                all(isinstance(receipt, Delivered) for receipt in receipts),
                "not every message was delivered when several were sent at once",
            )
            check(len(service.sends) == 2 * SENDS, f"{2 * SENDS} messages made {len(service.sends)} requests")

    def test_a_closed_channel_opens_again(self) -> None:
        """A runner closes its notifier at its end, and a host may start another one with it."""
        with _Service(self) as service:
            notifier = service.notifier()

            async def twice() -> list[Receipt]:
                receipts = []
                for _ in range(2):
                    receipts.append(await notifier.anotify(self.message()))
                    await notifier.aclose()
                    await notifier.aclose()
                return receipts

            receipts = []
            for _ in range(2):
                receipts.append(notifier.notify(self.message()))
                notifier.close()
                notifier.close()
                receipts += asyncio.run(twice())
            check(
                all(isinstance(receipt, Delivered) for receipt in receipts),
                "a notifier that was closed has to work when it is used again",
            )

    def test_a_channel_that_asks_for_a_gap_leaves_one(self) -> None:
        """What comes too early for a user is not sent, and uses up nothing."""
        with _Service(self) as service:
            notifier = service.notifier(paced=True)
            first, second = (notifier.notify(self.message()) for _ in range(2))
            check(isinstance(first, Delivered), f"the first message came to {type(first).__name__}")
            if notifier.gap_s:
                held = isinstance(second, NotSent) and not second.counts and second.retry_after_s
                check(held, "a message within gap_s of another one is NotSent(counts=False, retry_after_s=...)")
                check(len(service.sends) == 1, "a message within gap_s of another one went out")

    # --- looking a message up ---

    def test_a_message_that_the_service_has_is_found(self) -> None:
        """A message that is found is not sent again."""
        reply = self.found(self.message())
        if reply is None:
            return
        for side, result in self._looked_up(reply):
            check(_is_found(result), f"{side.name}: the service has the message, got {result}")
        other = attrs.evolve(self.message(), reference="vp-another")
        for side, result in self._looked_up(reply, other):
            check(not _is_found(result), f"{side.name}: another message's reference was taken for this one's")

    def test_a_look_up_without_an_answer_tells_nothing(self) -> None:
        """To call a message absent that the service could not look for would send it twice."""
        open_ended = {LookupResult.NO_ANSWER, LookupResult.CANNOT_TELL}
        for reply in (Reply.fault(503), Reply.fault(429), Reply.fault(500), Reply.dropped(), Reply.hang()):
            for side, result in self._looked_up(reply):
                check(result in open_ended, f"{side.name}: a look-up without an answer says nothing, got {result}")
        for body in NO_NEWS:
            for side, result in self._looked_up(Reply.garbage(body)):
                check(
                    not _is_found(result) or self.status_is_enough,
                    f"{side.name}: found in a reply that says nothing: {body[:50]!r}",
                )

    # --- helpers ---

    def _messages(self) -> list[Message]:
        return [
            self.message(MessageForm.VIDEO),
            self.message(MessageForm.TEXT),
            self.message(MessageForm.TEXT, success=False),
        ]

    def _sent(self, service: _Service, side: _Side, message: Message) -> tuple[object, ...]:
        before = len(service.sends)
        side.receipt(message)
        new = service.sends[before:]
        check(len(new) == 1, f"{side.name}: one message is one request, got {len(new)}")
        headers = {name: value for name, value in new[0].headers.items() if name not in _CARRIERS}
        return new[0].method, new[0].target, headers, new[0].raw

    def _receipts(self, reply: Reply) -> list[tuple[_Side, Receipt]]:
        with _Service(self) as service:
            service.always(reply)
            return [(side, side.receipt(self.message())) for side in _sides(service.notifier(hasty=True))]

    def _looked_up(self, reply: Reply, message: Message | None = None) -> list[tuple[_Side, LookupAnswer]]:
        message = message or self.message()
        with _Service(self) as service:
            service.always(reply)
            notifier = service.notifier(hasty=True)
            if notifier.build_look_up(message) is None:
                return []
            return [(side, side.looked_up(message)) for side in _sides(notifier)]

    def _expect(self, reply: Reply, kind: type[Receipt] | tuple[type[Receipt], ...]) -> list[Receipt]:
        receipts = self._receipts(reply)
        what = "a connection that ends without a reply" if reply.drop else f"HTTP {reply.status}"
        for side, receipt in receipts:
            self._is(side, receipt, kind, what)
        return [receipt for _, receipt in receipts]

    @staticmethod
    def _is(side: _Side, receipt: Receipt, kind: type[Receipt] | tuple[type[Receipt], ...], what: str) -> None:
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        check(isinstance(receipt, kind), f"{side.name}: {what} is {names}, got {receipt!r}")

    @staticmethod
    def _secrets(notifier: HttpNotifier, message: Message) -> list[str]:
        recipient = message.recipient
        for key in notifier.secrets():
            enough = key is None or len(key) >= SHORT_SECRET_CHARS
            check(
                enough,
                f"make_notifier needs keys of {SHORT_SECRET_CHARS} characters or more: shorter ones stay in texts",
            )
        secrets = [message.video_url, *notifier.secrets()]
        if recipient is not None:
            secrets += [recipient.token, recipient.to, recipient.reply_to]
        return [secret for secret in secrets if secret]


def _is_found(answer: LookupAnswer) -> bool:
    return answer is LookupResult.FOUND or isinstance(answer, Found)


def _at(message: Message, service: _Service) -> Message:
    """Return the message with its video at the service itself."""
    if not message.outcome.success:
        return message
    url = f"{service.url}{VIDEO_PATH}?signature={SIGNATURE}"
    return attrs.evolve(
        message, outcome=attrs.evolve(message.outcome, video_url=None, assets=(Asset(PublicLink(url)),))
    )


def _first_step(notifier: HttpNotifier, message: Message) -> object:
    """Return the first thing that the channel asks for; a look at the video comes first where there is one."""
    steps = notifier.exchange(message)
    try:
        return next(steps)
    finally:
        steps.close()


def _keys(request: ReceivedRequest) -> Iterator[str]:
    """Yield what in a request looks like a key: by its name, or by its shape where it has none."""
    named = [*request.headers.items(), *request.query.items(), *request.body.items()]
    for name, value in named:
        key = value.rpartition(" ")[2] if isinstance(value, str) else ""
        if len(key) >= SHORTEST_NAMED_KEY and re.search(r"auth|token|secret|api-?_?key", name, re.IGNORECASE):
            yield key
    for part in request.target.partition("?")[0].split("/"):
        if len(part) >= SHORTEST_KEY and re.search(r"[0-9]", part) and re.search(r"[A-Za-z]", part):
            yield part


SHORTEST_KEY = 16
SHORTEST_NAMED_KEY = 6


def _texts(request: ReceivedRequest) -> Iterator[str]:
    """Yield every text in a request."""
    yield request.raw.decode("utf-8", "replace")
    values: list[object] = [request.query, request.body]
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list):
            values += value
