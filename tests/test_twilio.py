"""WhatsApp and SMS over Twilio: requests, codes, look-ups in its list, signed callbacks, whole lives with crashes."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import urlencode

import attrs
import pytest

import kit
from kit.channels import AT_MS, CAPTION, TEXT, URL, assert_no_key_is_told, both, live, message
from videopoll import ConfigurationError, OnUnknown, RefusedError, RoutingNotifier, events
from videopoll.errors import BadSignatureError
from videopoll.jobs import MessageForm
from videopoll.messages import Accepted, Delivered, Failed, Found, LookupResult, NotSent, ReceiptKind, Refused, Unknown
from videopoll.notifiers import HttpReply, TwilioNotifier, TwilioSmsNotifier, TwilioTemplate
from videopoll.testing import FakeTwilio, NotifierContract, Reply

SID = "AC" + "0a" * 16
KEY_SID = "SK" + "0b" * 16
SERVICE = "MG" + "0c" * 16
CONTENT = "HX" + "0d" * 16
AUTH_TOKEN = "a-token-of-the-tests"
SENDER = "+14155238886"
TO = "+5491155550000"
CALLBACK = "https://host.example/twilio?shop=1"
TEMPLATE = TwilioTemplate(CONTENT)
VIDEO, TEXT_FORM = MessageForm.VIDEO, MessageForm.TEXT
IN_WHATSAPP = f"whatsapp:{TO}"


@pytest.fixture
def twilio():
    with FakeTwilio(
        account_sid=SID, auth_token=AUTH_TOKEN, api_keys={KEY_SID: "its-secret"}, content_sids=[CONTENT]
    ) as fake:
        yield fake


def notifier_to(fake, kind=TwilioNotifier, **changes):
    arguments = {"base_url": fake.url, "account_sid": SID, "auth_token": AUTH_TOKEN, "sender": SENDER}
    return kind(**(arguments | changes))


OFFLINE = TwilioNotifier(account_sid=SID, auth_token=AUTH_TOKEN, sender=SENDER)
OUTSIDE = TwilioNotifier(
    account_sid=SID, auth_token=AUTH_TOKEN, sender=SENDER, template=TEMPLATE, status_callback=CALLBACK
)
SMS = TwilioSmsNotifier(account_sid=SID, auth_token=AUTH_TOKEN, sender="videopoll")


def answer(status, /, **fields):
    return HttpReply(status=status, body=json.dumps(fields).encode())


class TestTwilio(NotifierContract):
    """What every channel promises."""

    accepted = Reply.json({"sid": "SM1", "status": "queued", "error_code": None}, status=201)
    refused = Reply.json({"code": 21610, "message": "no", "status": 400}, status=400)
    recipient = attrs.evolve(NotifierContract.recipient, instance_id=SID)
    unauthorized = NotSent
    public_ids = (SID,)

    def make_notifier(self, base_url):
        return TwilioNotifier(
            base_url=base_url, auth_token="a-secret-of-the-notifier", sender=SENDER, template=TEMPLATE
        )

    def found(self, message):
        date = format_datetime(datetime.fromtimestamp(message.outcome.at_ms / 1000 + 1, UTC))
        one = {"sid": "SM1", "direction": "outbound-api", "date_created": date, "status": "sent"}
        return Reply.json({"messages": [{**one, "body": message.caption, "num_media": "1"}], "next_page_uri": None})

    def test_a_message_that_the_service_has_is_found(self):
        """Its list knows no reference: another message is one with other words, which its own tests tell."""
        for _, result in self._looked_up(self.found(self.message())):
            assert result == Found("SM1")


class TestTwilioSms(TestTwilio):
    """The same for texts."""

    def make_notifier(self, base_url):
        return TwilioSmsNotifier(base_url=base_url, auth_token="a-secret-of-the-notifier", sender=SENDER)

    def found(self, message):
        reply = super().found(message)
        reply.body["messages"][0] |= {"body": message.text, "num_media": "0"}
        return reply


# --- what is sent ---------------------------------------------------------------------------------


def test_a_video_and_a_text_arrive_over_whatsapp(twilio):
    for form, kind, words in ((VIDEO, "video", CAPTION), (TEXT_FORM, "text", TEXT)):
        receipts = both(notifier_to(twilio), "notify", message(TO, form))
        ours = [one for one in twilio.messages if one.kind == kind]
        assert receipts == [Delivered(one.id) for one in ours]
        assert [(one.to, one.text, one.video) for one in ours] == [
            (IN_WHATSAPP, words, URL if form is VIDEO else None)
        ] * 2


def test_an_sms_is_a_text_with_the_link_whatever_form_is_asked_for(twilio):
    for form in MessageForm:
        assert all(
            isinstance(one, Delivered)
            for one in both(notifier_to(twilio, TwilioSmsNotifier), "notify", message(TO, form))
        )
    assert {(one.kind, one.to, one.text, one.video) for one in twilio.messages} == {("text", TO, TEXT, None)}


def test_with_a_callback_a_message_is_no_more_than_accepted_and_the_callback_bears_our_reference():
    form = OUTSIDE.build(message(TO)).form
    assert form["StatusCallback"] == f"{CALLBACK}&reference=vp-0123456789abcdef0123456789abcdef"
    assert form["ValidityPeriod"] == "3600"
    assert "StatusCallback" not in OFFLINE.build(message(TO)).form
    receipt = OUTSIDE.read(answer(201, sid="SM1", status="queued", error_code=None), message(TO))
    assert isinstance(receipt, Accepted)
    assert receipt == Accepted("SM1")


def test_outside_the_window_a_template_goes_with_the_caption_and_the_link(twilio):
    for receipt in both(notifier_to(twilio, template=TEMPLATE), "notify", message(TO, MessageForm.TEMPLATE)):
        assert isinstance(receipt, Delivered)
    assert [json.loads(one.text) for one in twilio.inbox(TO)] == [{"1": CAPTION, "2": URL}] * 2


def test_a_templates_media_may_begin_with_the_hosts_own_address():
    template = TwilioTemplate(CONTENT, {"1": "{path}", "name": "a {caption} b"})
    notifier = TwilioNotifier(account_sid=SID, auth_token=AUTH_TOKEN, sender=SERVICE, template=template)
    form = notifier.build(message(TO, MessageForm.TEMPLATE)).form
    assert json.loads(form["ContentVariables"]) == {"1": "file/abc.mp4?signature=s3cr3t", "name": f"a {CAPTION} b"}
    assert (form["MessagingServiceSid"], "Body" in form, "From" in form) == (SERVICE, False, False)


def test_outside_the_window_a_notice_has_a_template_of_its_own(twilio):
    """Without a link, there is no variable for it: WhatsApp takes no empty one."""
    twilio.close_window(late=False)
    notifier = notifier_to(twilio, notice_template=TEMPLATE)
    try:
        receipt = notifier.notify(message(TO, TEXT_FORM, url=None))
        assert (receipt.then, receipt.try_text) == (MessageForm.TEMPLATE, False)
        notice = message(TO, MessageForm.TEMPLATE, url=None)
        assert isinstance(notifier.notify(notice), Delivered)
        assert notifier.notify(message(TO, VIDEO)).then is None, "a video has no template here"
    finally:
        notifier.close()
    assert [json.loads(one.text) for one in twilio.inbox(TO)] == [{"1": notice.caption}]


@pytest.mark.parametrize("form", [MessageForm.TEMPLATE])
def test_without_a_template_or_a_video_there_is_nothing_to_send_outside_the_window(form):
    for notifier, url in ((OFFLINE, URL), (OUTSIDE, None)):
        with pytest.raises(RefusedError, match="only a template"):
            notifier.build(message(TO, form, url=url))


@pytest.mark.parametrize(
    "wrong",
    [
        {"sender": "whatsapp:shop"},
        {"sender": "My Shop"},  # a name is for SMS
        {"sender": ""},
        {"sender": "0044 20 7946 0000"},
        {"validity_s": 5},
        {"validity_s": 36_001},
        {"validity_s": 60.5},
        {"base_url": "api.twilio.com"},
        {"status_callback": "javascript:alert(1)"},
    ],
)
def test_what_cannot_work_is_refused_when_the_channel_is_built(wrong):
    with pytest.raises(ConfigurationError):
        TwilioNotifier(**{"account_sid": SID, "auth_token": AUTH_TOKEN, "sender": SENDER} | wrong)


@pytest.mark.parametrize("arguments", [("HX1",), ("AC" + "0" * 32,), (CONTENT, {"1": "{url}"})])
def test_a_template_that_cannot_work_is_refused_when_it_is_built(arguments):
    with pytest.raises(ConfigurationError):
        TwilioTemplate(*arguments)


def test_an_api_key_signs_in_for_its_account(twilio):
    notifier = notifier_to(twilio, api_key=KEY_SID, auth_token="its-secret")
    assert all(isinstance(one, Delivered) for one in both(notifier, "notify", message(TO)))
    # A recipient's own account signs in by itself.
    other = attrs.evolve(message(TO).recipient, instance_id="AC" + "1" * 32, token="other")
    header = notifier.build(attrs.evolve(message(TO), recipient=other)).headers["Authorization"]
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == f"AC{'1' * 32}:other"


def test_the_recipients_sender_stands_before_the_notifiers():
    recipient = attrs.evolve(message(TO).recipient, sender="whatsapp:+15550001111")
    assert OFFLINE.build(attrs.evolve(message(TO), recipient=recipient)).form["From"] == "whatsapp:+15550001111"
    with pytest.raises(RefusedError, match="no sender"):
        TwilioNotifier(account_sid=SID, auth_token=AUTH_TOKEN).build(message(TO))


@pytest.mark.parametrize("sid", ["AC1", "../Accounts", "SK" + "0" * 32, SID + "/Calls", "AC" + "g" * 32])
def test_an_account_that_is_none_is_refused_before_anything_is_sent(sid):
    with pytest.raises(RefusedError):
        TwilioNotifier(account_sid=sid, auth_token=AUTH_TOKEN, sender=SENDER).build(message(TO))


# --- whom it is for -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "to", [TO, "5491155550000", IN_WHATSAPP, "whatsapp:5491155550000", "+54 9 11 5555-0000", "5491155550000@c.us"]
)
def test_a_number_goes_out_in_twilios_form(to):
    assert OFFLINE.build(message(to)).form["To"] == IN_WHATSAPP


@pytest.mark.parametrize(
    "to",
    [
        "US.13491208655302741918",
        "120363025246125486@g.us",
        "123456789012345@lid",
        "5491155550000:12@s.whatsapp.net",
        "+5491155550000,+5491155550001",
        "whatsapp:+5491155550000;+5491155550001",
        "whatsapp:whatsapp:+5491155550000",
        "messenger:5491155550000",
        "client:5491155550000",
        "005491155550000",
        "+44 (0) 7911 123456",
        "whatsapp:",
        "",
        "+1800FLOWERS",
        "5491155550000\n+5491155550001",
    ],
)
def test_an_address_that_would_be_guessed_at_is_refused_before_anything_is_sent(twilio, to):
    for kind in (TwilioNotifier, TwilioSmsNotifier):
        for receipt in both(notifier_to(twilio, kind), "notify", message(to)):
            assert isinstance(receipt, Refused)
            assert not receipt.try_text
            assert "the recipient's address" in receipt.reason
    assert twilio.requests == []


@pytest.mark.parametrize("to", [IN_WHATSAPP, "5491155550000@c.us", "5491155550000@s.whatsapp.net"])
def test_an_sms_goes_to_no_address_of_whatsapp(to):
    with pytest.raises(RefusedError, match="SMS"):
        SMS.build(message(to))


@pytest.mark.parametrize(
    ("kind", "sender", "field"),
    [
        (TwilioNotifier, "whatsapp:+14155238886", {"From": "whatsapp:+14155238886"}),
        (TwilioNotifier, "+1 (415) 523-8886", {"From": "whatsapp:+14155238886"}),
        (TwilioNotifier, SERVICE, {"MessagingServiceSid": SERVICE}),
        (TwilioSmsNotifier, "+1 (415) 523-8886", {"From": "+14155238886"}),
        (TwilioSmsNotifier, "12345", {"From": "12345"}),
        (TwilioSmsNotifier, "My Shop 24", {"From": "My Shop 24"}),
        (TwilioSmsNotifier, SERVICE, {"MessagingServiceSid": SERVICE}),
    ],
)
def test_a_sender_is_a_number_a_service_or_for_sms_a_name(kind, sender, field):
    form = kind(account_sid=SID, auth_token=AUTH_TOKEN, sender=sender).build(message(TO)).form
    assert {name: form[name] for name in ("From", "MessagingServiceSid") if name in form} == field


# --- what an answer means -------------------------------------------------------------------------

# Twilio's list of errors says so; the table in the code is not asked.
MEANINGS = {
    "rate": [14107, 20429, 21611, 30001, 63017, 63018, 63038],
    "passing": [20503, 30008, 30410, 63010, 63012, 63037],
    "video": [11751, 12300, 21620, 21623, 30011, 30019, 63005, 63019, 63021],
    "window": [63016],
    "recipient": [
        *[21211, 21217, 21408, 21604, 21606, 21608, 21610, 21612, 21614],
        *[30003, 30004, 30005, 30006, 63003, 63015, 63024, 63032, 63033],
    ],
    "account": [
        *[20003, 20005, 20006, 20008, 20010, 20404, 21212, 21601, 21660, 21703, 21705, 21910],
        *[30002, 30032, 30034, 63001, 63007, 63020, 63022, 63051],
    ],
    "content": [21602, 21617, 21654, 21655, 21656, 30007, 63013, 63026, 63027, 63028],
}
EACH_CODE = [(meaning, code) for meaning, codes in MEANINGS.items() for code in codes]


@pytest.mark.parametrize(("meaning", "code"), EACH_CODE)
def test_a_code_decides_whatever_the_status(meaning, code):
    receipt, *others = (
        OUTSIDE.read(answer(status, code=code, message="whatever"), message(TO))
        for status in (400, 401, 404, 429, 500, 503)
    )
    assert others == [receipt] * 5
    match meaning:
        case "rate" | "passing":
            assert isinstance(receipt, NotSent)
            assert not receipt.account_fault
        case "account":
            assert isinstance(receipt, NotSent)
            assert receipt.account_fault
        case "video":
            assert isinstance(receipt, Refused)
            assert (receipt.try_text, receipt.then) == (True, None)
        case "window":
            assert isinstance(receipt, Refused)
            assert (receipt.try_text, receipt.then) == (False, MessageForm.TEMPLATE)
        case "recipient" | "content":
            assert isinstance(receipt, Refused)
            assert (receipt.try_text, receipt.then) == (False, None)
    assert str(code) in receipt.reason


def test_a_failure_outside_the_window_is_given_up_where_there_is_no_template():
    receipt = OFFLINE.read(answer(400, code=63016), message(TO))
    assert isinstance(receipt, Refused)
    assert (receipt.try_text, receipt.then) == (False, None)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (answer(201, sid="SM1", status="queued"), Delivered),
        (answer(201, sid="SM1", status="failed", error_code=63003), Refused),
        (answer(201, status="queued"), Unknown),
        (answer(500, code=20500, message="Internal Server Error"), Unknown),
        (HttpReply(status=502, body=b"<html>"), Unknown),
        (answer(400, code=99999, message="new"), Refused),
        (HttpReply(status=429, body=b"", headers={"retry-after": "7"}), NotSent),
        (HttpReply(status=201, body=b"[]"), Unknown),
    ],
)
def test_an_answer_without_a_known_code_means_what_its_status_says(reply, kind):
    assert isinstance(OFFLINE.read(reply, message(TO)), kind)


def test_no_key_of_the_channels_own_is_told(twilio):
    basic = base64.b64encode(f"{SID}:{AUTH_TOKEN}".encode()).decode()
    assert_no_key_is_told(twilio, notifier_to(twilio), message(TO), AUTH_TOKEN, basic)
    basic = base64.b64encode(f"{KEY_SID}:its-secret".encode()).decode()
    keyed = notifier_to(twilio, api_key=KEY_SID, auth_token="its-secret")
    assert_no_key_is_told(twilio, keyed, message(TO), "its-secret", basic)


# --- look-ups -------------------------------------------------------------------------------------


def listed(**changes):
    date = format_datetime(datetime.fromtimestamp(AT_MS / 1000 + changes.pop("late_s", 2), UTC))
    one = {
        "sid": "MM1",
        "direction": "outbound-api",
        "body": CAPTION,
        "num_media": "1",
        "status": "sent",
        "date_created": date,
    }
    return one | changes


def look_up(*messages, form=VIDEO, more=None, notifier=OUTSIDE):
    return notifier.read_look_up(answer(200, messages=list(messages), next_page_uri=more), message(TO, form))


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([listed()], Found("MM1", accepted=True)),
        ([listed(body=f"Sent from your Twilio trial account - {CAPTION}")], Found("MM1", accepted=True)),
        ([listed(status="queued", sid="MM2")], Found("MM2", accepted=True)),
        ([], LookupResult.ABSENT),
        ([listed(body="another")], LookupResult.ABSENT),
        ([listed(num_media="0")], LookupResult.ABSENT),
        ([listed(direction="inbound")], LookupResult.ABSENT),
        ([listed(late_s=-61)], LookupResult.ABSENT),
        ([listed(status="failed", error_code=63010)], LookupResult.ABSENT),
        ([listed(status="undelivered", error_code=63016), listed()], Found("MM1", accepted=True)),
        ([None, 7, {"direction": None}], LookupResult.ABSENT),
    ],
)
def test_what_the_list_of_messages_says(messages, said):
    assert look_up(*messages) == said


@pytest.mark.parametrize(
    ("code", "then", "try_text"),
    [(63016, MessageForm.TEMPLATE, False), (63019, None, True), (63003, None, False), (None, None, True)],
)
def test_a_message_that_failed_says_what_comes_next(code, then, try_text):
    failed = look_up(listed(status="undelivered", error_code=code))
    assert isinstance(failed, Failed)
    assert (failed.then, failed.try_text) == (then, try_text)


def test_a_long_list_that_does_not_go_back_far_enough_cannot_tell():
    others = [listed(body="another")] * 50
    assert look_up(*others, more="/next") is LookupResult.CANNOT_TELL
    assert look_up(*others, listed(late_s=-4000), more="/next") is LookupResult.ABSENT


@pytest.mark.parametrize(
    "reply", [answer(401, code=20003), answer(404, code=20404), answer(503), HttpReply(status=200, body=b"[]")]
)
def test_a_list_that_is_not_given_is_asked_for_again(reply):
    assert OFFLINE.read_look_up(reply, message(TO)) is LookupResult.NO_ANSWER


def test_a_message_is_asked_for_by_its_address_and_not_by_its_date_of_sending(twilio):
    notifier = notifier_to(twilio)
    for form in (VIDEO, TEXT_FORM):
        assert both(notifier, "look_up", message(TO, form)) == [LookupResult.ABSENT] * 2
        both(notifier, "notify", message(TO, form))
        assert both(notifier, "look_up", message(TO, form)) == [Found(twilio.messages[-1].id)] * 2
    assert OUTSIDE.build_look_up(message(TO, MessageForm.TEMPLATE)) is None


def test_a_template_that_there_is_none_of_was_never_sent(twilio):
    """A worker may have died between the note of the send and its refusal."""
    notifier = notifier_to(twilio)
    for answered in both(notifier, "look_up", message(TO, MessageForm.TEMPLATE)):
        assert isinstance(answered, Failed)
        assert "24 hours" in answered.reason
        assert (answered.then, answered.try_text) == (None, False)


# --- receipts -------------------------------------------------------------------------------------

SIGNED_URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
FIELDS = {
    "CallSid": "CA1234567890ABCDE",
    "Digits": "1234",
    "From": "+14158675309",
    "To": "+18005551212",
    "Caller": "+14158675309",
}


def read(signature, body, url=SIGNED_URL, token="12345", kind="application/x-www-form-urlencoded"):
    headers = {"X-Twilio-Signature": signature, "Content-Type": kind}
    return TwilioNotifier.read_receipts(headers, body, token, url=url)


@pytest.mark.parametrize(
    ("signature", "body", "url"),
    [
        # The vectors of Twilio's own library for Python.
        ("RSOYDt4T1cUTdK1PDd93/VVr8B8=", urlencode(FIELDS), SIGNED_URL),
        ("IK+Dwps556ElfBT0I3Rgjkr1wJU=", "Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234&Digits=1234", SIGNED_URL),
        ("RSOYDt4T1cUTdK1PDd93/VVr8B8=", urlencode(FIELDS), SIGNED_URL.replace(".com", ".com:1234")),
        (
            "Zmvh+3yNM1Phv2jhDCwEM3q5ebU=",
            urlencode(FIELDS),
            SIGNED_URL.replace("https://mycompany.com", "http://mycompany.com:1234"),
        ),
        ("kvajT1Ptam85bY51eRf/AJRuM3w=", urlencode(FIELDS), SIGNED_URL),
        ("0ZXoZLH/DfblKGATFgpif+LLRf4=", urlencode(FIELDS), SIGNED_URL.replace("https", "http")),
    ],
)
def test_a_signature_is_read_as_twilios_own_library_reads_it(signature, body, url):
    assert read(signature, body.encode(), url) == ()
    for wrong in (signature.lower(), "", signature + "=", "ö"):
        with pytest.raises(BadSignatureError):
            read(wrong, body.encode(), url)
    for changed in (url + "&x=1", url.replace("mycompany", "yourcompany")):
        with pytest.raises(BadSignatureError):
            read(signature, body.encode(), changed)
    with pytest.raises(BadSignatureError):
        read(signature, body.encode() + b"&MessageStatus=delivered", url)
    with pytest.raises(BadSignatureError):
        read(signature, body.encode(), url, token="1234")


def callbacks(twilio, status, **options):
    notifier = notifier_to(twilio, status_callback=CALLBACK)
    [receipt, _] = both(notifier, "notify", message(TO))
    twilio.callbacks()
    twilio.tell(receipt.message_id, status, **options)
    [made] = twilio.callbacks()
    return receipt.message_id, made


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("status", ["sent", "delivered", "read", "failed", "undelivered", "canceled"])
def test_a_callback_says_what_became_of_a_message_by_its_id_and_by_our_reference(twilio, status, as_json):
    message_id, made = callbacks(twilio, status, as_json=as_json)
    [receipt] = TwilioNotifier.read_receipts(made.headers, made.body, ["another", AUTH_TOKEN], url=made.url)
    kinds = {"sent": ReceiptKind.SENT, "delivered": ReceiptKind.DELIVERED, "read": ReceiptKind.READ}
    assert receipt.kind is kinds.get(status, ReceiptKind.FAILED)
    assert (receipt.message_id, receipt.reference) == (message_id, "vp-0123456789abcdef0123456789abcdef")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_callback_that_somebody_changed_is_none(twilio, as_json):
    _, made = callbacks(twilio, "undelivered", code=63016, as_json=as_json)
    for body, url in (
        (made.body.replace(b"undelivered", b"delivered"), made.url),
        (made.body, made.url.replace("vp-", "vp-1")),
    ):
        with pytest.raises(BadSignatureError):
            TwilioNotifier.read_receipts(made.headers, body, AUTH_TOKEN, url=url)
    # A JSON body whose digest is not in the signed URL is anybody's.
    headers = {**made.headers, "Content-Type": "application/json"}
    with pytest.raises(BadSignatureError):
        TwilioNotifier.read_receipts(
            headers, b'{"MessageSid": "SM1", "MessageStatus": "delivered"}', AUTH_TOKEN, url=made.url
        )


@pytest.mark.parametrize(("meaning", "code"), EACH_CODE)
def test_a_failure_that_comes_late_says_what_comes_next(twilio, meaning, code):
    _, made = callbacks(twilio, "undelivered", code=code)
    [receipt] = TwilioNotifier.read_receipts(made.headers, made.body, AUTH_TOKEN, url=made.url)
    assert str(code) in receipt.reason
    assert receipt.channel_fault is (meaning not in {"rate", "account"})
    assert (receipt.passing, receipt.try_text, receipt.then) == {
        "rate": (True, False, None),
        "passing": (True, False, None),
        "account": (True, False, None),
        "video": (False, True, None),
        "window": (False, False, MessageForm.TEMPLATE),
        "recipient": (False, False, None),
        "content": (False, False, None),
    }[meaning]


@pytest.mark.parametrize("tokens", ["", [], ["", AUTH_TOKEN]])
def test_without_a_token_no_callback_is_believed(tokens):
    with pytest.raises(ConfigurationError):
        TwilioNotifier.read_receipts({}, b"", tokens, url=SIGNED_URL)


@pytest.mark.parametrize("body", [b"\xff\xfe", b"&" * 5000, b"=" * 5000, b"a=b&" * 5000, b"x" * 1_000_001])
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "", "text/html"])
def test_whatever_is_sent_to_the_endpoint_without_a_signature_is_refused_with_one_error(body, kind):
    for url in (SIGNED_URL, "", "://", "http://[::1", "https://x:99999999/", "é"):
        with pytest.raises(BadSignatureError):
            TwilioNotifier.read_receipts([("content-type", kind)], body, AUTH_TOKEN, url=url)


# --- whole lives ----------------------------------------------------------------------------------


def channels(fake, which="TwilioNotifier", **changes):
    arguments = {"base_url": fake.url, "account_sid": SID, "auth_token": AUTH_TOKEN, "sender": SENDER}
    return {"twilio": (which, arguments | changes)}


def test_a_worker_that_dies_after_the_send_doubles_nothing(world, twilio):
    once = attrs.evolve(kit.QUICK, on_unknown=OnUnknown.AT_MOST_ONCE)
    live(world, channels(twilio), TO, die_at="after_send", delivery=once)
    assert [one.kind for one in twilio.inbox(TO)] == ["video"]


def test_a_video_that_twilio_does_not_take_goes_as_a_link(world, twilio):
    twilio.fail(12300, kinds={"video"})
    live(world, channels(twilio), TO)
    [text] = twilio.inbox(TO)
    assert (text.kind, "https://files.example/1.mp4" in text.text) == ("text", True)


def test_outside_the_window_without_a_template_the_dead_letter_has_the_channels_reason(world, twilio):
    twilio.close_window(late=False)
    [letter] = live(world, channels(twilio), TO)
    assert "63016" in letter.reason
    assert twilio.inbox(TO) == []


def test_a_message_that_is_found_in_the_queue_is_no_more_than_accepted(world, twilio):
    """Its reply was lost, and its failure comes later."""
    twilio.fail_next(Reply.dropped(accept=True))
    twilio.fail(63019, kinds={"video"}, late=True)
    world.enqueue_ready("job_1", channel="twilio", to=TO)
    channels_of_host = {"twilio": notifier_to(twilio, status_callback=CALLBACK)}
    # What is listed as failed would be sent again without a receipt.
    twilio.hide_failures()
    with world.worker(notifier=RoutingNotifier.from_metadata(channels_of_host)) as worker, world.queue() as queue:
        kit.until(lambda: worker.recorder.of(events.JobAccepted), "it was found")
        assert not queue.get("job_1").delivered

        def ended():
            handing_on(world, twilio)
            return queue.get("job_1").delivered

        kit.until(ended, "the receipts have told")
    assert [one.kind for one in twilio.inbox(TO)] == ["text"]


def handing_on(world, fake):
    """Be the host's endpoint: take each callback in, until the job is settled."""
    with world.queue() as queue:
        for made in fake.callbacks():
            queue.receive_receipts(TwilioNotifier.read_receipts(made.headers, made.body, AUTH_TOKEN, url=made.url))


@pytest.mark.parametrize(
    ("answer", "code", "kind"),
    [
        (Reply.completed(), 63016, "template"),
        (Reply.failed(), 63016, "template"),
        (Reply.completed(), 63019, "text"),
        (Reply.completed(), 63003, None),
    ],
    ids=["window", "window for a notice", "video", "recipient"],
)
def test_a_late_failure_opens_the_delivery_again_in_the_next_form(world, twilio, answer, code, kind):
    twilio.fail(code, kinds={"video"} if answer == Reply.completed() else {"text"}, late=True)
    world.enqueue("job_1", answer, channel="twilio", to=TO)
    channel = notifier_to(twilio, status_callback=CALLBACK, template=TEMPLATE, notice_template=TEMPLATE)
    notifier = RoutingNotifier.from_metadata({"twilio": channel})
    with world.worker(notifier=notifier), world.queue() as queue:

        def ended():
            handing_on(world, twilio)
            return queue.counts().dead if kind is None else queue.get("job_1").delivered

        kit.until(ended, "the receipts have told")
    assert [one.kind for one in twilio.inbox(TO)] == ([kind] if kind else [])
