"""The conformance suite for channels, over those that ship, and over channels with one mistake each."""

from __future__ import annotations

import base64
import itertools
import re
import threading
from pathlib import Path

import attrs
import pytest

from videopoll import (
    AsyncNotifier,
    CallbackNotifier,
    Notifier,
    NotSentError,
    SilentNotifier,
    UltraMsgNotifier,
    WebhookNotifier,
    WhatsAppFactoryNotifier,
)
from videopoll.jobs import MessageForm
from videopoll.messages import Delivered, Found, LookupResult, NotSent, Refused, Unknown
from videopoll.notifiers import (
    Ask,
    Fetch,
    HttpNotifier,
    HttpRequest,
    Keep,
    Part,
    Post,
    receipt_for_status,
    recipient_of,
)
from videopoll.testing import NotifierContract, PlainNotifierContract, Reply

ONLINE = Reply.json({"status": {"accountStatus": {"status": "authenticated", "substatus": "connected"}}})


class TestUltraMsg(NotifierContract):
    """The channel with most habits: it says 200 to everything, asks for the line's state, and can be asked."""

    accepted = Reply.json({"sent": "true", "message": "ok", "id": 5225})
    refused = Reply.json({"error": [{"to": "is invalid"}]})

    def make_notifier(self, base_url):
        return UltraMsgNotifier(base_url=base_url)

    def side_question(self, request):
        return ONLINE if request.path.endswith("/instance/status") else None

    def found(self, message):
        return Reply.json({"total": 1, "pages": 1, "messages": [{"referenceId": message.reference, "status": "sent"}]})


class TestWhatsAppFactory(NotifierContract):
    """Texts only: a video goes as its link."""

    accepted = Reply.json({"messageId": "wamid.1"})
    refused = Reply.json({"error": "number has no WhatsApp"}, status=400)

    def make_notifier(self, base_url):
        return WhatsAppFactoryNotifier(base_url=base_url)


class TestWebhook(NotifierContract):
    """Any 2xx will do, and a wrong key is tried again: its receiver may just be being deployed."""

    accepted = Reply(status=204, body=b"")
    refused = Reply.json({"gone": True}, status=410)
    recipient = None
    status_is_enough = True
    unauthorized = NotSent

    def make_notifier(self, base_url):
        secret = "whsec_" + base64.b64encode(bytes(32)).decode()
        return WebhookNotifier(f"{base_url}/hook?key=s3cr3t", secret=secret, clock=lambda: 1_757_157_600)


class Pager(HttpNotifier):
    """A channel of the host's own, as small as they come."""

    forms = frozenset({MessageForm.TEXT})

    def __init__(self, base_url):
        super().__init__()
        self._base_url = base_url

    def build(self, message):
        recipient = recipient_of(message)
        return HttpRequest(
            method="POST",
            url=f"{self._base_url}/send",
            headers={"authorization": f"Bearer {recipient.token}"},
            json={"to": recipient.to, "text": message.text, "key": message.reference},
            timeout_s=15,
        )

    def read(self, reply, message):
        fault = receipt_for_status(reply)
        if fault is not None:
            return fault
        answer = reply.json()
        page = answer.get("page") if isinstance(answer, dict) else None
        return Delivered(page) if isinstance(page, str) and page else Unknown("no page")


class TestPager(NotifierContract):
    """What the documentation shows to authors of channels."""

    accepted = Reply.json({"page": "p-1"})
    channel = Pager

    def make_notifier(self, base_url):
        return self.channel(base_url)


class PatientPager(Pager):
    """A service that wants six seconds between two messages to one user."""

    gap_s = 6.0


class TestPatientPager(TestPager):
    """One that asks for a gap has to pass as well, though one user gets many messages here."""

    channel = PatientPager


class TestTelegramOfTheDocs(NotifierContract):
    """The example that authors copy from has to keep to the contract itself."""

    accepted = Reply.json({"ok": True, "result": {"message_id": 17}})
    refused = Reply.json({"ok": False, "description": "Bad Request: chat not found"}, status=400)

    def make_notifier(self, base_url):
        page = Path(__file__).parent.parent / "docs" / "how-to" / "add-a-channel.md"
        source = re.search(r"```python\n(.*?class TelegramNotifier.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        names = {}
        exec(source[1], names)
        return names["TelegramNotifier"](token="123:the-bots-token", base_url=base_url)


class TestCallback(PlainNotifierContract):
    """A function of the host; both sides."""

    def make_notifier(self):
        return CallbackNotifier(lambda message: Delivered(message.reference))

    def make_failing(self):
        def busy(_):
            raise NotSentError(reason="busy")

        return CallbackNotifier(busy)


class TestAsyncCallback(PlainNotifierContract):
    """A coroutine function of the host: one side only."""

    def make_notifier(self):
        async def take(_):
            return None

        return CallbackNotifier(take)

    def make_failing(self):
        async def lose(_):
            raise ConnectionResetError

        return CallbackNotifier(lose)


class TestSilent(PlainNotifierContract):
    """The channel that cannot fail."""

    def make_notifier(self):
        return SilentNotifier()


# --- mistakes -------------------------------------------------------------------------------------


class CallsEverythingDelivered(Pager):
    def read(self, reply, message):
        return Delivered()


class TrustsAnyBody(Pager):
    def read(self, reply, message):
        return receipt_for_status(reply) or Delivered()


class Crashes(Pager):
    def notify(self, message):
        receipt = super().notify(message)
        if isinstance(receipt, Unknown):
            return receipt.retry_after_s
        return receipt


class ForgetsTheLink(Pager):
    def build(self, message):
        return attrs.evolve(super().build(message), json={"text": message.caption})


class MakesUpItsReference(Pager):
    numbers = itertools.count()

    def build(self, message):
        return attrs.evolve(super().build(message), headers={"idempotency-key": str(next(self.numbers))})


class SendsTwice(Pager):
    async def anotify(self, message):
        await super().anotify(message)
        return await super().anotify(message)


class CallsALostReplyUnsent(Pager):
    def notify(self, message):
        receipt = super().notify(message)
        return NotSent(receipt.reason) if isinstance(receipt, Unknown) else receipt


class CallsARefusedConnectionUnknown(Pager):
    async def anotify(self, message):
        receipt = await super().anotify(message)
        return Unknown(receipt.reason) if isinstance(receipt, NotSent) else receipt


class IgnoresRetryAfter(Pager):
    def read(self, reply, message):
        receipt = super().read(reply, message)
        return NotSent(receipt.reason) if isinstance(receipt, NotSent) else receipt


class RefusesForGoodWhatIsDown(Pager):
    def read(self, reply, message):
        return Refused("down") if reply.status == 503 else super().read(reply, message)


class KeepsTryingAWrongKey(Pager):
    def read(self, reply, message):
        return Unknown("who are you") if reply.status == 401 else super().read(reply, message)


class DeliversWithoutReading(Pager):
    def read(self, reply, message):
        return super().read(attrs.evolve(reply, status=200), message)


@attrs.define(init=False)
class ShowsItsUrl(Pager):
    _base_url: str

    def secrets(self):
        return (self._base_url,)


class QuotesItsRecipient(Pager):
    def _cleaned(self, receipt, message, keys=()):
        return receipt


class StaysClosed(Pager):
    closed = False

    def close(self):
        super().close()
        self.closed = True

    def notify(self, message):
        return NotSent("closed") if self.closed else super().notify(message)


class SharesItsState(Pager):
    def __init__(self, base_url):
        super().__init__(base_url)
        self._in_use = threading.Semaphore(1)
        self._others = threading.Event()

    def build(self, message):
        if not self._in_use.acquire(blocking=False):
            self._others.set()
            raise RuntimeError
        # The first one stays inside until another one comes, as far as there are others.
        self._others.wait(0.05)
        self._in_use.release()
        return super().build(message)


class FindsEverything(Pager):
    def build_look_up(self, message):
        return HttpRequest(method="GET", url=f"{self._base_url}/{message.reference}", timeout_s=5)

    def read_look_up(self, reply, message):
        return LookupResult.FOUND


class FindsEverythingWithAnId(FindsEverything):
    def read_look_up(self, reply, message):
        return Found("p-1")


class FindsInWords(FindsEverything):
    def read_look_up(self, reply, message):
        return "found"


class MissesWhatItCannotSee(FindsEverything):
    def read_look_up(self, reply, message):
        return LookupResult.FOUND if reply.status == 200 and reply.json() == {"page": "p-1"} else LookupResult.ABSENT


class AsksForAGapTooLate(Pager):
    def __init__(self, base_url):
        super().__init__(base_url)
        self.gap_s = 6.0


class HasItsKeyInThePath(Pager):
    def build(self, message):
        return attrs.evolve(super().build(message), url=f"{self._base_url}/k3y-of-the-channel/send")


class Uploads(Pager):
    """Asks for a place, uploads there what it has downloaded, and posts."""

    forms = frozenset({MessageForm.UPLOAD, MessageForm.TEXT})
    step = Ask

    def exchange(self, message):
        place = message.prepared.get("place")
        if message.form is MessageForm.UPLOAD and not isinstance(place, str):
            video = yield from Fetch(message.video_url, max_bytes=1_000_000)
            url = f"{self._base_url}/upload"
            part = Part(name="file", content=video.file, filename="v.mp4", media_type=video.media_type)
            reply = yield from self.step(HttpRequest(method="POST", url=url, parts=[part], timeout_s=15))
            fault = receipt_for_status(reply)
            if fault is not None:
                return fault
            yield from Keep({"place": reply.json()["page"]})
        return self.read((yield from Post(self.build(message))), message)


class PostsWhatItPrepares(Uploads):
    step = Post


class TrustsItsState(Uploads):
    def exchange(self, message):
        if message.prepared:
            assert isinstance(message.prepared["place"], str)
        return super().exchange(message)


class NumbersItsRepeats(Pager):
    repeats_are_safe_s = 60.0

    def build(self, message):
        return attrs.evolve(super().build(message), json={"text": message.text, "attempt": message.attempt})


class ForgetsItsReference(Pager):
    repeats_are_safe_s = 60.0

    def build(self, message):
        return attrs.evolve(super().build(message), json={"text": message.text})


class TestUploads(NotifierContract):
    """A channel of several requests."""

    accepted = Reply.json({"page": "p-1"})
    channel = Uploads

    def make_notifier(self, base_url):
        return self.channel(base_url)

    def side_question(self, request):
        return Reply.json({"page": "u-1"}) if request.path == "/upload" else None


class TestPagerThatDropsRepeats(TestPager):
    """A service that makes one message of those with one key."""

    class channel(Pager):  # noqa: N801 - named as in its base
        repeats_are_safe_s = 60.0


MISTAKES = [
    (AsksForAGapTooLate, "test_a_channel_that_asks_for_a_gap_leaves_one"),
    (HasItsKeyInThePath, "test_no_key_of_its_requests_is_told"),
    (PostsWhatItPrepares, "test_what_fails_before_the_message_is_posted_was_surely_not_sent"),
    (TrustsItsState, "test_what_a_channel_does_not_know_of_its_own_state_is_prepared_anew"),
    (NumbersItsRepeats, "test_repeats_are_the_same_where_the_channel_makes_one_message_of_them"),
    (ForgetsItsReference, "test_repeats_are_the_same_where_the_channel_makes_one_message_of_them"),
    (CallsEverythingDelivered, "test_an_error_is_no_delivery_whatever_its_body_says"),
    (DeliversWithoutReading, "test_an_error_is_no_delivery_whatever_its_body_says"),
    (TrustsAnyBody, "test_a_reply_that_says_nothing_is_no_delivery"),
    (Crashes, "test_a_reply_that_says_nothing_is_no_delivery"),
    (ForgetsTheLink, "test_the_link_is_in_the_message"),
    (MakesUpItsReference, "test_both_sides_send_the_same_request"),
    (SendsTwice, "test_both_sides_send_the_same_request"),
    (CallsALostReplyUnsent, "test_a_lost_reply_leaves_the_fate_of_the_message_open"),
    (CallsALostReplyUnsent, "test_a_late_reply_leaves_the_fate_of_the_message_open"),
    (CallsARefusedConnectionUnknown, "test_a_refused_connection_proves_that_nothing_was_sent"),
    (
        CallsARefusedConnectionUnknown,
        "test_a_connection_that_does_not_come_about_proves_that_nothing_was_sent",
    ),
    (IgnoresRetryAfter, "test_a_busy_service_is_asked_again_when_it_says"),
    (RefusesForGoodWhatIsDown, "test_a_service_that_is_down_is_tried_again"),
    (KeepsTryingAWrongKey, "test_a_wrong_key_is_no_delivery"),
    (ShowsItsUrl, "test_nothing_tells_a_secret"),
    (QuotesItsRecipient, "test_nothing_tells_a_secret"),
    (SharesItsState, "test_many_may_send_at_once"),
    (StaysClosed, "test_a_closed_channel_opens_again"),
    (FindsEverything, "test_a_look_up_without_an_answer_tells_nothing"),
    (FindsEverythingWithAnId, "test_a_look_up_without_an_answer_tells_nothing"),
    (FindsInWords, "test_a_look_up_without_an_answer_tells_nothing"),
    (MissesWhatItCannotSee, "test_a_look_up_without_an_answer_tells_nothing"),
]


@pytest.mark.parametrize(("channel", "test"), MISTAKES, ids=lambda one: getattr(one, "__name__", one))
def test_a_channel_with_a_mistake_fails_the_test_that_is_about_it(channel, test):
    """A suite that nothing can fail proves nothing."""
    contract = TestUploads() if issubclass(channel, Uploads) else TestPager()
    contract.channel = channel

    with pytest.raises(AssertionError):
        getattr(contract, test)()


def test_a_key_that_is_too_short_to_be_taken_out_is_named_as_the_trouble():
    """And not a channel that does what it should."""

    class ShortKey(Pager):
        def secrets(self):
            return ("pk",)

    contract = TestPager()
    contract.channel = ShortKey
    with pytest.raises(AssertionError, match="make_notifier needs keys of 4 characters or more"):
        contract.test_nothing_tells_a_secret()


@pytest.mark.parametrize("channel", [FindsEverything, FindsEverythingWithAnId])
def test_a_channel_that_finds_another_messages_reference_fails(channel):
    """It would leave a user without the video, because somebody else got one."""
    contract = TestPager()
    contract.channel = channel
    contract.found = lambda message: Reply.json({"page": "p-1"})

    with pytest.raises(AssertionError, match="another message's reference"):
        contract.test_a_message_that_the_service_has_is_found()


def test_every_test_of_the_contract_can_fail_or_is_left_out():
    """A test that is added to the contract needs a mistake here that it finds."""
    tests = {name for name in dir(NotifierContract) if name.startswith("test_")}
    seen_failing = {test for _, test in MISTAKES} | {"test_a_message_that_the_service_has_is_found"}

    assert tests - seen_failing == {"test_an_accepted_message_is_delivered", "test_a_refusal_is_told_as_one"}
    with pytest.raises(AssertionError, match="took the video, which is Delivered"):
        wrong(accepted=Reply.json({"page": ""})).test_an_accepted_message_is_delivered()
    with pytest.raises(AssertionError, match="HTTP 200 is Refused"):
        wrong(refused=Reply.json({"page": "p-1"})).test_a_refusal_is_told_as_one()


def wrong(**replies) -> TestPager:
    contract = TestPager()
    for name, reply in replies.items():
        setattr(contract, name, reply)
    return contract


class Swallows:
    """Says nothing of a failure, which counts as delivered."""

    def notify(self, message):
        return None


class TellsTheAddress:
    """Quotes the recipient in its refusal, and in its repr."""

    def __init__(self, recipient):
        self.recipient = recipient

    def __repr__(self):
        return f"TellsTheAddress({self.recipient.to})"

    async def notify(self, message):
        reason = f"{message.recipient.to} is busy"
        raise NotSentError(reason)


@pytest.mark.parametrize(
    ("make", "test"),
    [
        (Swallows, "test_a_service_that_takes_nothing_delivers_nothing"),
        (
            lambda: TellsTheAddress(PlainNotifierContract.recipient),
            "test_a_service_that_takes_nothing_delivers_nothing",
        ),
        (lambda: TellsTheAddress(PlainNotifierContract.recipient), "test_its_repr_tells_no_secret"),
        (lambda: CallbackNotifier(lambda _: Refused("no")), "test_a_message_is_delivered_in_every_form"),
        (lambda: CallbackNotifier(lambda _: Refused("no")), "test_several_threads_may_use_it"),
    ],
    ids=["swallows", "tells", "shows", "refuses", "refuses in threads"],
)
def test_a_plain_channel_with_a_mistake_fails_too(make, test):
    """The same for channels without HTTP."""
    contract = PlainNotifierContract()
    contract.make_notifier = contract.make_failing = make

    with pytest.raises(AssertionError):
        getattr(contract, test)()


def test_a_contract_says_what_its_subclass_has_left_out():
    """An `AttributeError` of a private line would not."""

    class TestHalf(NotifierContract):
        def make_notifier(self, base_url):
            return Pager(base_url)

    with pytest.raises(AttributeError, match=r"TestHalf has no accepted: set accepted = Reply\.json\(…\)"):
        TestHalf().test_an_accepted_message_is_delivered()
    with pytest.raises(AttributeError, match=r"TestHalf has no pager$"):
        _ = TestHalf().pager


def test_a_channel_of_any_other_class_is_told_its_contract():
    class Plain:
        def notify(self, message):
            return None

    contract = TestPager()
    contract.channel = lambda base_url: Plain()
    with pytest.raises(AssertionError, match="is for an HttpNotifier, PlainNotifierContract for others such as Plain"):
        contract.test_an_accepted_message_is_delivered()


@pytest.mark.parametrize("contract", [NotifierContract(), PlainNotifierContract()])
def test_a_contract_without_a_channel_says_what_is_missing(contract):
    """The author's first error message names the method to write."""
    with pytest.raises(NotImplementedError, match="must override make_notifier"):
        contract.make_notifier(*["http://x"] * isinstance(contract, NotifierContract))


def test_what_the_contracts_take_satisfies_the_protocols():
    """A notifier that passes can be handed to a runner."""
    sync: Notifier = TestCallback().make_notifier()
    asynchronous: AsyncNotifier = TestAsyncCallback().make_notifier()

    assert not sync.async_only
    assert asynchronous.async_only
