"""WhatsApp over Evolution API: requests, what its answers mean, look-ups in its database, whole lives with crashes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import attrs
import pytest

import kit
from kit.channels import AT_MS, CAPTION, TEXT, URL, assert_no_key_is_told, both, live, message
from videopoll import ConfigurationError, OnUnknown, RefusedError
from videopoll.errors import BadSignatureError
from videopoll.jobs import MessageForm
from videopoll.messages import Accepted, Failed, Found, LookupResult, NotSent, ReceiptKind, Refused, Unknown
from videopoll.notifiers import EvolutionNotifier, HttpReply
from videopoll.testing import FakeEvolution, NotifierContract, Reply

KEY = "a-key-of-the-tests"
INSTANCE = "My shop 2.0"
TO = "5491155550000"
GROUP = "120363025246125486@g.us"


@pytest.fixture
def evolution():
    with FakeEvolution(token=KEY, instance_id=INSTANCE) as fake:
        yield fake


def notifier_to(fake, **changes):
    return EvolutionNotifier(**({"base_url": fake.url, "instance_id": INSTANCE, "token": KEY} | changes))


OFFLINE = EvolutionNotifier(base_url="https://evolution.example/", instance_id=INSTANCE, token=KEY)


def refusal(status, said):
    """Evolution's own way to say no."""
    body = {"status": status, "error": "whatever", "response": {"message": said}}
    return HttpReply(status=status, body=json.dumps(body).encode())


class TestEvolution(NotifierContract):
    """What every channel promises."""

    accepted = Reply.json({"key": {"id": "3EB0A"}, "status": "PENDING"}, status=201)
    refused = Reply.json(
        {"status": 400, "error": "Bad Request", "response": {"message": [{"exists": False, "number": "1"}]}}, status=400
    )
    unauthorized = NotSent

    def make_notifier(self, base_url):
        return EvolutionNotifier(base_url=base_url, token="a-secret-of-the-notifier")

    def found(self, message):
        text = message.form is MessageForm.TEXT
        content = {"conversation": message.text} if text else {"videoMessage": {"caption": message.caption}}
        at_s = message.outcome.at_ms // 1000 + 1
        key = {"id": "3EB0A", "remoteJid": f"{message.recipient.to}@s.whatsapp.net", "fromMe": True}
        return Reply.json(
            {"messages": {"pages": 1, "records": [{"key": key, "message": content, "messageTimestamp": at_s}]}}
        )

    def test_a_message_that_the_service_has_is_found(self):
        """The database knows no reference: another message is one with other words, which its own tests tell."""
        for _, result in self._looked_up(self.found(self.message())):
            assert result == Found("3EB0A")


# --- what is sent ---------------------------------------------------------------------------------


def test_a_video_and_a_text_arrive_at_an_instance_whose_name_has_spaces_and_dots(evolution):
    for form, kind, words in ((MessageForm.VIDEO, "video", CAPTION), (MessageForm.TEXT, "text", TEXT)):
        receipts = both(notifier_to(evolution), "notify", message(TO, form, reply_to="3EB0QUOTED"))
        ours = [one for one in evolution.inbox(TO) if one.kind == kind]
        assert [one.message_id for one in receipts] == [one.id for one in ours]
        assert [(one.text, one.video, one.reply_to, one.instance_id) for one in ours] == [
            (words, URL if kind == "video" else None, "3EB0QUOTED", INSTANCE)
        ] * 2


@pytest.mark.parametrize(
    ("url", "name", "kind"),
    [
        ("https://files.example/1.MP4?x=.mov", "video.mp4", "video/mp4"),
        ("https://files.example/1.mov", "video.mov", "video/quicktime"),
        ("https://files.example/file/abc", "video.mp4", "video/mp4"),
        ("https://files.example/1.exe", "video.mp4", "video/mp4"),
    ],
)
def test_the_files_name_says_its_type_as_nothing_else_does(url, name, kind):
    fields = OFFLINE.build(message(TO, url=url)).json
    assert (fields["fileName"], fields["mimetype"], fields["mediatype"]) == (name, kind, "video")


def test_a_failure_is_told_as_a_text_and_the_key_is_in_no_url():
    request = OFFLINE.build(message(TO, MessageForm.TEXT, url=None))
    assert request.url == "https://evolution.example/message/sendText/My%20shop%202.0"
    assert request.headers["apikey"] == KEY
    assert request.json["text"].startswith("😔")
    assert KEY not in request.url


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a\\b", "a\nb", "", "x" * 101])
def test_a_name_that_would_lead_to_another_place_is_refused(name):
    with pytest.raises(RefusedError):
        OFFLINE.build(message(TO, instance_id=name, token="other")) if name else EvolutionNotifier(
            base_url="https://evolution.example"
        ).build(message(TO))


def test_a_base_url_that_cannot_work_is_refused_when_the_channel_is_built():
    with pytest.raises(ConfigurationError):
        EvolutionNotifier(base_url="evolution.example")


# --- whom it is for -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "number"),
    [
        (TO, TO),
        ("+54 9 11 5555-0000", TO),
        (f"{TO}@s.whatsapp.net", TO),
        (GROUP, GROUP),
        ("5491155550000-1612345678@g.us", "5491155550000-1612345678@g.us"),
        ("123456789012345@lid", "123456789012345@lid"),
    ],
)
def test_an_address_that_names_somebody_goes_out(to, number):
    assert OFFLINE.build(message(to)).json["number"] == number


@pytest.mark.parametrize(
    "to",
    [
        "US.13491208655302741918",
        "120363025246125486",  # eighteen digits, of which Evolution makes a group
        "5491155550000-1612345678",  # the same
        "5491155550000:12@s.whatsapp.net",
        "5491155550000,5491155550001",
        "005491155550000",
        "+44 (0) 7911 123456",
        "status@broadcast",
        "12025551234@newsletter",
        "whatsapp:+5491155550000",
        "0",
        "",
        "\u202e5491155550000",
        "5491155550000@lid@g.us",
    ],
)
def test_an_address_that_would_be_guessed_at_is_refused_before_anything_is_sent(evolution, to):
    for receipt in both(notifier_to(evolution), "notify", message(to)):
        assert isinstance(receipt, Refused)
        assert not receipt.try_text
        assert "the recipient's address" in receipt.reason
    assert evolution.requests == []


# --- what an answer means -------------------------------------------------------------------------


def test_a_number_without_whatsapp_is_refused_for_good(evolution):
    evolution.without_whatsapp(TO)
    for form in (MessageForm.VIDEO, MessageForm.TEXT):
        for receipt in both(notifier_to(evolution), "notify", message(TO, form)):
            assert isinstance(receipt, Refused)
            assert not receipt.try_text


@pytest.mark.parametrize(
    "said",
    [
        ["PrismaClientKnownRequestError: no connection"],
        ["Error: Timed Out"],
        ["TypeError: Cannot read properties of undefined (reading 'key')"],
        ["[object Object]"],
        "Bad Request",
        [],
    ],
)
def test_another_400_may_come_after_the_message_is_out(said):
    assert isinstance(OFFLINE.read(refusal(400, said), message(TO)), Unknown)


@pytest.mark.parametrize("said", [[['requires property "number"']], ["Owned media must be a url or base64"]])
def test_a_400_about_the_request_itself_comes_before_the_send(said):
    receipt = OFFLINE.read(refusal(400, said), message(TO))
    assert isinstance(receipt, Refused)
    assert receipt.try_text


def test_a_link_that_evolution_takes_for_none_goes_as_a_text(evolution):
    """Its check wants a name with a dot."""
    [receipt, _] = both(notifier_to(evolution), "notify", message(TO, url="http://storage/1.mp4"))
    assert isinstance(receipt, Refused)
    assert receipt.try_text


def test_a_file_that_does_not_come_is_tried_again_and_at_last_becomes_a_text(evolution):
    evolution.fetch_no_files()
    for receipt in both(notifier_to(evolution), "notify", message(TO)):
        assert isinstance(receipt, NotSent)
        assert receipt.channel_fault
        assert receipt.counts


def test_a_line_that_is_not_there_makes_no_text_of_a_video(evolution):
    evolution.online = False
    for receipt in both(notifier_to(evolution), "notify", message(TO)):
        assert isinstance(receipt, NotSent)
        assert not receipt.channel_fault


@pytest.mark.parametrize("changes", [{"token": "wrong"}, {"instance_id": "another"}])
def test_a_wrong_key_or_instance_holds_the_account_back(evolution, changes):
    for receipt in both(notifier_to(evolution, **changes), "notify", message(TO)):
        assert isinstance(receipt, NotSent)
        assert receipt.account_fault


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_evolution_says_of_its_keys_and_instances_refuses_no_message(status):
    receipt = OFFLINE.read(refusal(status, "Missing global api key"), message(TO))
    assert isinstance(receipt, NotSent)
    assert receipt.account_fault


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (HttpReply(status=500, body=b"<html>502"), Unknown),
        (HttpReply(status=502, body=b""), Unknown),
        (HttpReply(status=500, body=b'{"status": 500}'), Unknown),
        (HttpReply(status=400, body=b"<html>400 Bad Request</html>"), NotSent),
        (HttpReply(status=413, body=b"<html>413</html>"), NotSent),
        (HttpReply(status=404, body=b"<html>nginx</html>"), NotSent),
        (HttpReply(status=429, body=b"{}", headers={"retry-after": "7"}), NotSent),
        (HttpReply(status=201, body=b'{"key": {}}'), Unknown),
        (HttpReply(status=201, body=b'{"key": "3EB0"}'), Unknown),
        (HttpReply(status=200, body=b"<html>"), Unknown),
    ],
)
def test_the_words_of_a_proxy_refuse_nothing_and_prove_nothing(reply, kind):
    assert isinstance(OFFLINE.read(reply, message(TO)), kind)


def test_no_key_of_the_channels_own_is_told(evolution):
    assert_no_key_is_told(evolution, notifier_to(evolution), message(TO), KEY)


# --- look-ups -------------------------------------------------------------------------------------


def record(chat=f"{TO}@s.whatsapp.net", words=CAPTION, at_s=AT_MS // 1000 + 2, **fields):
    content = {"videoMessage": {"caption": words}} if words != TEXT else {"conversation": words}
    return {
        "key": {"id": "x", "remoteJid": chat, "fromMe": True},
        "message": content,
        "messageTimestamp": at_s,
        **fields,
    }


OLDER = record("1@s.whatsapp.net", at_s=AT_MS // 1000 - 4000)


def look_up(*records, form=MessageForm.VIDEO, to=TO, pages=1):
    body = {"messages": {"total": len(records), "pages": pages, "currentPage": 1, "records": list(records)}}
    return OFFLINE.read_look_up(HttpReply(status=200, body=json.dumps(body).encode()), message(to, form))


@pytest.mark.parametrize(
    ("to", "chat"),
    [
        (TO, "5491155550000@s.whatsapp.net"),
        (TO, "541155550000@s.whatsapp.net"),
        ("541155550000", "5491155550000@s.whatsapp.net"),
        ("5215512345678", "525512345678@s.whatsapp.net"),
        ("551187654321", "5511987654321@s.whatsapp.net"),
        ("5511987654321", "551187654321@s.whatsapp.net"),
        (GROUP, GROUP),
        ("123456789012345@lid", "123456789012345@lid"),
    ],
)
def test_a_message_is_found_however_its_number_is_spelt(to, chat):
    assert look_up(record(chat), to=to) == Found("x")
    assert look_up(record(chat, TEXT), to=to, form=MessageForm.TEXT) == Found("x")


FAILED = Failed("WhatsApp has answered Evolution with an error")


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([record("5491155550001@s.whatsapp.net")], LookupResult.ABSENT),
        ([record("551155550000@s.whatsapp.net")], LookupResult.ABSENT),
        ([record(words="another video")], LookupResult.ABSENT),
        ([record(at_s=AT_MS // 1000 - 61)], LookupResult.ABSENT),
        ([record("123456789012345@lid")], LookupResult.CANNOT_TELL),
        ([], LookupResult.CANNOT_TELL),
        ([{"key": None}, None, 7, {"key": {}, "message": {}, "messageTimestamp": "x"}], LookupResult.CANNOT_TELL),
        ([record(MessageUpdate=[{"status": "ERROR"}])], FAILED),
        ([record(MessageUpdate=[{"status": "ERROR"}, {"status": "DELIVERY_ACK"}])], Found("x")),
        ([record(MessageUpdate=[{"status": "ERROR"}]), record()], Found("x")),
    ],
)
def test_what_the_list_of_sent_messages_says(records, said):
    assert look_up(*records) == said


def test_a_long_list_that_does_not_go_back_far_enough_cannot_tell():
    others = [record(words="another video")] * 50
    assert look_up(*others, pages=9) is LookupResult.CANNOT_TELL
    assert look_up(*others, OLDER, pages=9) is LookupResult.ABSENT


@pytest.mark.parametrize("status", [400, 401, 404, 500, 503])
def test_a_list_that_is_not_given_is_asked_for_again(status):
    assert OFFLINE.read_look_up(refusal(status, "no"), message(TO)) is LookupResult.NO_ANSWER


def test_a_message_is_asked_for_in_the_gateways_database(evolution):
    notifier = notifier_to(evolution)
    assert both(notifier, "look_up", message("5491155559999")) == [LookupResult.CANNOT_TELL] * 2
    for form in (MessageForm.VIDEO, MessageForm.TEXT):
        both(notifier, "notify", message("541155550000", form))
        assert both(notifier, "look_up", message("541155550000", form)) == [Found(evolution.messages[-1].id)] * 2
        assert both(notifier, "look_up", message("5491155559999", form)) == [LookupResult.ABSENT] * 2
        for sent in evolution.messages:
            evolution.fail_at_whatsapp(sent.id)
        assert both(notifier, "look_up", message("541155550000", form)) == [FAILED] * 2


# --- receipts -------------------------------------------------------------------------------------

JWT_KEY = "a-jwt-key-of-the-tests"
NOW_S = 1_757_157_600
# Written by PyJWT 2.10 with the key "secret": {"iat": 1757157600, "exp": 1757158200, "app": "evolution", "action": "webhook"}
TOKEN_OF_ANOTHER_LIBRARY = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpYXQiOjE3NTcxNTc2MDAsImV4cCI6MTc1NzE1ODIwMCwiYXBwIjoiZXZvbHV0aW9uIiwiYWN0aW9uIjoid2ViaG9vayJ9.XBcwnzwz64mAgcylg_RQVZ38x5KOD1BKoJchUPOTBS4"


def read(headers, body, key=JWT_KEY, **options):
    return EvolutionNotifier.read_receipts(headers, body, key, **options)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("SERVER_ACK", ReceiptKind.SENT),
        ("DELIVERY_ACK", ReceiptKind.DELIVERED),
        ("READ", ReceiptKind.READ),
        ("PLAYED", ReceiptKind.READ),
        ("ERROR", ReceiptKind.FAILED),
        ("PENDING", None),
        ("DELETED", None),
    ],
)
def test_a_webhook_says_what_became_of_a_message(evolution, status, kind):
    receipts = read(*evolution.webhook("3EB0A", status, JWT_KEY), ["another", JWT_KEY])
    assert [(one.kind, one.message_id) for one in receipts] == ([(kind, "3EB0A")] if kind else [])
    assert all((one.try_text, one.then, one.passing) == (True, None, False) for one in receipts)


def test_a_message_is_no_more_than_accepted_where_receipts_are_read(evolution):
    [receipt, _] = both(notifier_to(evolution, receipts=True), "notify", message(TO))
    assert isinstance(receipt, Accepted)
    [receipt, _] = both(notifier_to(evolution), "notify", message(TO))
    assert not isinstance(receipt, Accepted)


def test_a_token_of_another_library_holds_for_as_long_as_it_says():
    headers = [(b"authorization", f"Bearer {TOKEN_OF_ANOTHER_LIBRARY}".encode())]
    assert read(headers, b"{}", "secret", now_s=NOW_S) == ()
    assert read(headers, b"{}", "secret", now_s=NOW_S + 660) == ()
    with pytest.raises(BadSignatureError):
        read(headers, b"{}", "secret", now_s=NOW_S + 661)
    with pytest.raises(BadSignatureError):
        read(headers, b"{}", "Secret", now_s=NOW_S)


@pytest.mark.parametrize("claims", ["", "a", "@@@", "W10", "e30", "eyJleHAiOiJ4In0", "eyJleHAiOjFlOTk5fQ"])
def test_a_token_that_is_signed_and_says_nothing_does_not_hold(claims):
    """Whoever has the key and makes a mistake gets a 401, and no traceback of ours."""
    signed = f"e30.{claims}"
    digest = hmac.new(JWT_KEY.encode(), signed.encode(), hashlib.sha256).digest()
    token = f"{signed}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"
    with pytest.raises(BadSignatureError):
        read({"Authorization": f"Bearer {token}"}, b"{}")


NONE = "eyJhbGciOiJub25lIn0.eyJleHAiOjk5OTk5OTk5OTl9."  # {"alg": "none"}, {"exp": 9999999999}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {NONE}"},
        {"Authorization": f"Bearer {TOKEN_OF_ANOTHER_LIBRARY[:-1]}"},
        {"Authorization": f"Bearer {TOKEN_OF_ANOTHER_LIBRARY}x"},
        {"Authorization": "Bearer " + TOKEN_OF_ANOTHER_LIBRARY.replace("eyJ", "eyj", 1)},
        {"Authorization": "Bearer ключ"},
        [
            ("authorization", f"Bearer {TOKEN_OF_ANOTHER_LIBRARY}"),
            ("Authorization", f"Bearer {TOKEN_OF_ANOTHER_LIBRARY}"),
        ],
        {"apikey": KEY},
    ],
)
def test_a_webhook_without_the_token_is_nobodys(headers):
    with pytest.raises(BadSignatureError):
        read(headers, b"{}", "secret", now_s=NOW_S)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"[" * 50_000, b'{"event": "messages.update", "data": 7}', b'{"event": "messages.update", "data": [null, {}]}',
     b'{"event": "messages.update", "data": {"keyId": 7, "fromMe": true, "status": "READ"}}',
     b'{"event": "messages.update", "data": {"keyId": "3EB0A", "fromMe": false, "status": "READ"}}',
     b'{"event": "messages.upsert", "data": {"keyId": "3EB0A", "fromMe": true, "status": "READ"}}'],
)  # fmt: skip
def test_a_webhook_about_something_else_says_nothing(evolution, body):
    headers, _ = evolution.webhook("3EB0A", "READ", JWT_KEY)
    assert read(headers, body) == ()


@pytest.mark.parametrize("keys", ["", [], ["", JWT_KEY]])
def test_without_a_key_no_webhook_is_believed(keys):
    with pytest.raises(ConfigurationError):
        read({}, b"{}", keys)


# --- whole lives ----------------------------------------------------------------------------------


def channels(fake):
    return {"evolution": ("EvolutionNotifier", {"base_url": fake.url, "instance_id": INSTANCE, "token": KEY})}


def test_a_400_after_the_send_doubles_nothing(world, evolution):
    evolution.break_after_sending()
    [delivered] = live(world, channels(evolution), TO)
    assert [one.kind for one in evolution.inbox(TO)] == ["video"]
    assert delivered.form is MessageForm.VIDEO


@pytest.mark.parametrize("point", ["before_send", "after_send"])
def test_a_worker_that_dies_around_the_send_doubles_nothing(world, evolution, point):
    both(notifier_to(evolution), "notify", message("5491100000009"))  # so that its database is not empty
    live(
        world,
        channels(evolution),
        TO,
        die_at=point,
        delivery=attrs.evolve(kit.QUICK, on_unknown=OnUnknown.AT_MOST_ONCE),
    )
    assert [one.kind for one in evolution.inbox(TO)] == ["video"]


def test_a_file_that_evolution_cannot_fetch_goes_as_a_link(world, evolution):
    evolution.fetch_no_files()
    live(world, channels(evolution), TO, delivery=attrs.evolve(kit.QUICK, video_attempts=2))
    [text] = evolution.inbox(TO)
    assert (text.kind, "https://files.example/1.mp4" in text.text) == ("text", True)


def test_a_number_without_whatsapp_is_a_dead_letter_with_the_channels_reason(world, evolution):
    evolution.without_whatsapp(TO)
    [letter] = live(world, channels(evolution), TO)
    assert "no WhatsApp" in letter.reason
    assert evolution.inbox(TO) == []
