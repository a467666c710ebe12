"""WhatsApp's Cloud API as a channel: addresses, requests, and what its error codes come to."""

from __future__ import annotations

import json
import os
import re

import attrs
import pytest
from typer.testing import CliRunner

from kit.cloud import NOTICE_TEMPLATE, NOTICE_TEMPLATES, TEMPLATE, TEMPLATES, TO, TOKEN, VIDEO, message, send
from videopoll import ConfigurationError, Recipient, RefusedError
from videopoll.cli.app import build_app
from videopoll.cli.channels import build_channels
from videopoll.cli.shipped import build_shipped
from videopoll.jobs import MessageForm
from videopoll.messages import Accepted, AcknowledgementMessage, NotSent, Refused, Unknown
from videopoll.notifiers import (
    HttpReply,
    WhatsAppCloudNotifier,
    WhatsAppTemplate,
    whatsapp_number,
)
from videopoll.testing import (
    FakeWhatsAppCloud,
    NotifierContract,
    Reply,
)
from videopoll.texts import SPANISH, Texts

read_receipts = WhatsAppCloudNotifier.read_receipts
answer_handshake = WhatsAppCloudNotifier.answer_handshake


@pytest.fixture
def cloud():
    with FakeWhatsAppCloud(
        token=TOKEN, number_id="1065", templates=TEMPLATES, notice_templates=NOTICE_TEMPLATES
    ) as fake:
        yield fake


# --- addresses ---


@pytest.mark.parametrize(
    "to", ["5491155550000", "+54 9 11 5555-0000", " +54.911.5555.0000 ", "5491155550000@c.us", "٥٤٩١١٥٥٥٥٠٠٠٠"]
)
def test_a_phone_number_becomes_its_digits(to):
    assert whatsapp_number(to) == "5491155550000"


@pytest.mark.parametrize(
    "to",
    [
        "US.13491208655302741918",  # Meta's id of a user
        "US.1349120865530",
        "13491208655302741918",  # without its country
        "Y2FwaV9ncm91cDoxNzA1NTU1MDEzOToxMjAzNjM0MDQ2OTQyMzM4MjAZD",  # Meta's id of a group
        "120363025246125486@g.us",
        "5491155550000-1612345678@g.us",
        "123456789012345@lid",
        "5491155550000:12@s.whatsapp.net",
        "whatsapp:+5491155550000",
        "+44 (0) 7911 123456",
        "005491155550000",
        "5491155550000,5491155550001",
        "",
    ],
)
def test_whatever_is_no_phone_number_is_refused_and_no_digits_are_taken_out_of_it(to):
    with pytest.raises(RefusedError) as refused:
        whatsapp_number(to)
    assert not refused.value.try_text
    assert str(refused.value).startswith("the recipient's address ")
    assert "chat id" not in str(refused.value)


# --- what is sent ---


def sent_body(cloud):
    return cloud.requests[-1].body


def test_a_video_goes_by_its_link_with_its_caption_and_our_reference(cloud):
    what = message(reply_to="wamid.HBgN")
    receipt = send(cloud, what)

    assert isinstance(receipt, Accepted)
    assert receipt.message_id == cloud.messages[0].id
    request = cloud.requests[-1]
    assert request.path == "/v25.0/1065/messages"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.body == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": TO,
        "type": "video",
        "video": {"link": VIDEO, "caption": what.caption},
        "context": {"message_id": "wamid.HBgN"},
        "biz_opaque_callback_data": what.reference,
    }


def test_a_text_has_its_link_whole_and_a_preview(cloud):
    long_url = "https://files.example/" + "x" * 3000
    assert isinstance(send(cloud, message(MessageForm.TEXT, url=long_url)), Accepted)
    assert long_url in cloud.messages[0].text
    assert sent_body(cloud)["text"]["preview_url"] is True


def test_what_is_too_long_gives_way_to_the_link(cloud):
    wordy = Texts({"es": attrs.evolve(SPANISH, done="listo " * 1000)}, default="es")
    assert isinstance(send(cloud, message(texts=wordy)), Accepted)
    assert isinstance(send(cloud, message(MessageForm.TEXT, texts=wordy)), Accepted)
    assert cloud.messages[0].text.startswith("listo listo")
    assert VIDEO in cloud.messages[1].text


def test_a_notice_is_a_text_without_a_preview(cloud):
    send(cloud, message(MessageForm.TEXT, kind="failed"))
    assert cloud.messages[0].kind == "text"
    assert sent_body(cloud)["text"]["preview_url"] is False


def test_an_acknowledgement_goes_as_a_text(cloud):
    recipient = Recipient(channel="whatsapp_cloud", to=TO)
    said = AcknowledgementMessage(
        conversation_id="c", metadata={}, text="Just a minute", recipient=recipient, reference="vp-1"
    )
    assert isinstance(send(cloud, said), Accepted)
    assert cloud.messages[0].text == "Just a minute"


def test_a_document_has_a_name_that_a_phone_knows_how_to_open(cloud):
    assert isinstance(send(cloud, message(MessageForm.DOCUMENT)), Accepted)
    assert sent_body(cloud)["document"]["filename"] == "video.mp4"
    assert cloud.messages[0].video == VIDEO


def test_a_template_has_the_video_in_its_header_and_quotes_nothing(cloud):
    assert isinstance(send(cloud, message(MessageForm.TEMPLATE, reply_to="wamid.HBgN")), Accepted)
    assert sent_body(cloud)["template"] == {
        "name": "video_ready",
        "language": {"code": "es"},
        "components": [{"type": "header", "parameters": [{"type": "video", "video": {"link": VIDEO}}]}],
    }
    assert "context" not in sent_body(cloud)


def test_a_templates_variable_takes_the_caption_in_one_line(cloud):
    texts = Texts({"es": attrs.evolve(SPANISH, done="Listo,\n\n\tya      está")}, default="es")
    receipt = send(
        cloud, message(MessageForm.TEMPLATE, texts=texts), template=WhatsAppTemplate("noted", "es", caption=True)
    )
    assert isinstance(receipt, Accepted), receipt
    assert cloud.messages[0].text == "Listo, ya está"


def test_a_notice_goes_as_a_template_without_a_header(cloud):
    notice = message(MessageForm.TEMPLATE, kind="failed")
    assert isinstance(send(cloud, notice, notice_template=NOTICE_TEMPLATE, upload=True), Accepted)
    assert sent_body(cloud)["template"] == {
        "name": "no_video",
        "language": {"code": "es"},
        "components": [{"type": "body", "parameters": [{"type": "text", "text": " ".join(notice.caption.split())}]}],
    }
    assert isinstance(send(cloud, notice, notice_template=WhatsAppTemplate("no_video", "pt_BR")), Accepted)
    assert "components" not in sent_body(cloud)["template"]


def test_a_notice_without_a_template_of_its_own_says_what_is_missing_and_goes_as_no_text(cloud):
    """A text would be accepted, and fail in the same way."""
    receipt = send(cloud, message(MessageForm.TEMPLATE, kind="failed"))
    assert receipt == Refused(receipt.reason, try_text=False)
    assert "notice_template" in receipt.reason.told
    assert not cloud.requests


def test_without_a_template_nothing_is_asked_of_the_channel(cloud):
    receipt = send(cloud, message(MessageForm.TEMPLATE), template=None)
    assert receipt == Refused(receipt.reason, try_text=False)
    assert "template" in receipt.reason.told
    assert not cloud.requests


def test_a_recipient_brings_its_own_number_and_token(cloud):
    recipient = Recipient(channel="whatsapp_cloud", to="+54 9 11 5555-0000", instance_id="1065", token=TOKEN)
    what = attrs.evolve(message(), recipient=recipient)
    assert isinstance(send(cloud, what, number_id=None, token=None), Accepted)
    assert cloud.inbox(TO)


def test_360dialog_has_another_path_and_another_header():
    with FakeWhatsAppCloud(token="d360-key") as dialog:
        receipt = send(dialog, message(), token="d360-key", number_id=None, path="", key_header="D360-API-KEY")
        assert isinstance(receipt, Accepted)
        assert dialog.requests[-1].path == "/messages"
        assert dialog.requests[-1].headers["d360-api-key"] == "d360-key"
        assert "authorization" not in dialog.requests[-1].headers


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "v25.0/{number_id}"},
        {"path": "/../{number_id}?"},
        {"path": "/{id}"},
        {"key_header": "X Key"},
        {"base_url": "graph.facebook.com"},
    ],
)
def test_what_cannot_work_is_said_when_the_channel_is_built(wrong):
    with pytest.raises(ConfigurationError, match="WhatsAppCloudNotifier"):
        WhatsAppCloudNotifier(token="t", number_id="1", **wrong)


@pytest.mark.parametrize(("name", "language"), [("Video Ready", "es"), ("", "es"), ("ready", "spanish"), ("a:b", "es")])
def test_a_template_that_cannot_exist_is_refused(name, language):
    with pytest.raises(ConfigurationError, match="WhatsAppTemplate"):
        WhatsAppTemplate(name, language)


# --- what an error comes to: by its code, whatever the status ---


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("code", [4, 80007, 130429, 131048, 131056, 131064])
def test_too_much_at_once_is_tried_later_as_the_same_message(cloud, code, status):
    cloud.fail(code, status=status)
    receipt = send(cloud, message())
    assert isinstance(receipt, NotSent)
    assert (receipt.counts, receipt.channel_fault, receipt.account_fault) == (True, False, False)
    assert (receipt.retry_after_s or 0) >= (6 if code == 131056 else 0)


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("code", [2, 131000, 131016, 131057, 2494100])
def test_a_fault_that_passes_is_tried_later(cloud, code, status):
    cloud.fail(code, status=status)
    receipt = send(cloud, message())
    assert isinstance(receipt, NotSent)
    assert not receipt.account_fault


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("code", [131051, 131053])
def test_a_file_that_is_no_video_for_whatsapp_goes_as_its_link(cloud, code, status):
    cloud.fail(code, status=status, details="Unsupported Video mime type video/x-matroska")
    receipt = send(cloud, message())
    assert receipt == Refused(receipt.reason, try_text=True, then=None)


def test_or_as_a_document_if_the_host_says_so(cloud):
    cloud.fail(131053, kinds={"video"}, details="Unsupported Video mime type video/x-matroska")
    assert send(cloud, message(), document=True).then is MessageForm.DOCUMENT


def test_a_file_that_meta_could_not_get_is_uploaded(cloud):
    cloud.fail(131053, details="Downloading media from weblink failed with http code 403, status message Forbidden")
    receipt = send(cloud, message())
    assert (receipt.then, receipt.try_text) == (MessageForm.UPLOAD, True)


@pytest.mark.parametrize("form", [MessageForm.VIDEO, MessageForm.TEXT])
def test_a_closed_window_leaves_the_template_alone(cloud, form):
    cloud.close_window()
    receipt = send(cloud, message(form))
    assert receipt == Refused(receipt.reason, try_text=False, then=MessageForm.TEMPLATE)


def test_a_closed_window_without_a_template_or_without_a_video_ends_the_message(cloud):
    cloud.close_window()
    assert send(cloud, message(), template=None).then is None
    assert send(cloud, message(MessageForm.TEXT, kind="failed")).then is None
    assert send(cloud, message(), template=None, notice_template=NOTICE_TEMPLATE).then is None


def test_a_closed_window_leaves_a_notice_its_own_template(cloud):
    cloud.close_window()
    receipt = send(cloud, message(MessageForm.TEXT, kind="failed"), template=None, notice_template=NOTICE_TEMPLATE)
    assert receipt == Refused(receipt.reason, try_text=False, then=MessageForm.TEMPLATE)


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("code", [130403, 130472, 130497, 131021, 131026, 131030, 131049, 131050])
def test_a_user_who_gets_nothing_gets_no_text_either(cloud, code, status):
    cloud.fail(code, status=status)
    receipt = send(cloud, message())
    assert receipt == Refused(receipt.reason, try_text=False)


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("code", [0, 3, 10, 33, 190, 200, 299, 131005, 131045, 133010, 368, 131031, 131037, 131042])
def test_a_fault_of_the_account_holds_all_its_messages_back(cloud, code, status):
    cloud.fail(code, status=status)
    receipt = send(cloud, message())
    assert isinstance(receipt, NotSent)
    assert (receipt.account_fault, receipt.channel_fault) == (True, False)


@pytest.mark.parametrize("form", [MessageForm.VIDEO, MessageForm.UPLOAD, MessageForm.TEXT])
def test_a_wrong_id_of_the_number_holds_its_messages_back(form):
    """The commonest mistake of all, as others met it: every message would be a dead letter at once."""
    error = {
        "message": "Unsupported post request. Object with ID '1065' does not exist, cannot be loaded due to missing"
        " permissions, or does not support this operation.",
        "type": "GraphMethodException",
        "code": 100,
        "error_subcode": 33,
    }
    reply = HttpReply(status=400, body=json.dumps({"error": error}).encode())
    receipt = WhatsAppCloudNotifier(token=TOKEN, number_id="1065").read(reply, message(form))
    assert isinstance(receipt, NotSent)
    assert (receipt.account_fault, receipt.channel_fault) == (True, False)


@pytest.mark.parametrize("code", [132000, 132001, 132005, 132007, 132012, 132015, 132016, 131063])
def test_a_template_that_meta_refuses_ends_the_message(cloud, code):
    cloud.fail(code)
    receipt = send(cloud, message(MessageForm.TEMPLATE))
    assert receipt == Refused(receipt.reason, try_text=False)


@pytest.mark.parametrize("code", [100, 131008, 131009, 135000, 999_999])
def test_a_request_that_is_wrong_somewhere_goes_as_a_text(cloud, code):
    cloud.fail(code, kinds={"video"})
    receipt = send(cloud, message())
    assert isinstance(receipt, Refused)
    assert receipt.try_text


def test_a_code_that_nobody_knows_with_a_5xx_leaves_the_fate_open(cloud):
    cloud.fail(999_999, status=500)
    assert isinstance(send(cloud, message()), Unknown)


def test_a_fault_that_meta_calls_transient_is_tried_later(cloud):
    cloud.reply_with(Reply.json({"error": {"code": 999_999, "is_transient": True}}, status=400))
    assert isinstance(send(cloud, message()), NotSent)


def test_a_quote_that_is_gone_is_left_out(cloud):
    cloud.forget("wamid.HBgN")
    receipt = send(cloud, message(reply_to="wamid.HBgN"))
    assert receipt.try_unquoted
    assert isinstance(send(cloud, message(reply_to="wamid.HBgN", unquoted=True)), Accepted)


def test_words_beside_an_id_are_no_refusal():
    """A message that was taken must not be sent again for them."""
    taken = {"messages": [{"id": "wamid.1"}], "meta": {"developer_message": "80 % of your rate limit is used"}}
    reply = HttpReply(status=200, body=json.dumps(taken).encode())
    receipt = WhatsAppCloudNotifier(token=TOKEN, number_id="1065").read(reply, message())
    assert receipt == Accepted("wamid.1")


@pytest.mark.parametrize(
    ("said", "status", "held_back"),
    [
        ("You have exceeded the endpoint rate limit.", 400, False),
        ("Could not send message due to lack of payment.", 400, True),
        ("Your WhatsApp for Business API has been disabled", 400, True),
        ("The endpoint is blocked", 403, True),
        ("Invalid API key", 401, True),
        ("Invalid api_key", 401, True),
    ],
)
@pytest.mark.parametrize("shape", [lambda said: {"error": said}, lambda said: {"meta": {"developer_message": said}}])
def test_what_360dialog_says_in_words(cloud, said, status, held_back, shape):
    cloud.reply_with(Reply.json(shape(said), status=status))
    receipt = send(cloud, message())
    assert isinstance(receipt, NotSent)
    assert receipt.account_fault is held_back


def test_a_refusal_shows_metas_code_and_keeps_the_number_and_the_link_to_itself(cloud):
    cloud.fail(131053, details=f"cannot get {VIDEO} for {TO} with {TOKEN}")
    reason = send(cloud, message()).reason
    assert reason.told == "error 131053 of the Cloud API"
    assert not any(secret in reason for secret in (VIDEO, "s3cr3t", TO, TOKEN))


class TestContract(NotifierContract):
    accepted = Reply.json({"messages": [{"id": "wamid.1"}]})
    refused = Reply.json({"error": {"code": 131026, "message": "(#131026) Message undeliverable"}}, status=400)

    def make_notifier(self, base_url):
        return WhatsAppCloudNotifier(base_url=base_url, template=TEMPLATE)

    def side_question(self, request):
        return Reply.json({"id": "media-1"}) if request.path.endswith("/media") else None


# --- without code ---


def built(monkeypatch, *, resolving=False, **env):
    for name in list(os.environ):
        if name.startswith("VIDEOPOLL_"):
            monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(f"VIDEOPOLL_WHATSAPP_CLOUD_{name}", value)
    return build_channels(
        ultramsg_url="https://api.ultramsg.com",
        ultramsg_instance=None,
        whatsapp_factory_url=None,
        whatsapp_factory_instance=None,
        resolving=resolving,
        hosts=["whatsapp_cloud"],
    )["whatsapp_cloud"]


def test_a_worker_builds_the_channel_of_its_environment_alone(cloud, monkeypatch):
    notifier = built(monkeypatch, TOKEN=TOKEN, NUMBER_ID="1065", TEMPLATE="noted:es:caption", BASE_URL=cloud.url)
    assert isinstance(notifier.notify(message()), Accepted)
    assert isinstance(notifier.notify(message(MessageForm.TEMPLATE, to="5491155550001")), Accepted)
    assert cloud.messages[1].kind == "template"
    notifier.close()


def test_it_goes_to_meta_or_to_360dialog(monkeypatch):
    meta = built(monkeypatch, TOKEN="t", NUMBER_ID="1065").build(message())
    assert (meta.url, meta.headers) == ("https://graph.facebook.com/v25.0/1065/messages", {"Authorization": "Bearer t"})
    dialog = built(monkeypatch, TOKEN="t", NUMBER_ID="1065", BASE_URL="https://waba-v2.360dialog.io").build(message())
    assert (dialog.url, dialog.headers) == ("https://waba-v2.360dialog.io/messages", {"D360-API-KEY": "t"})
    other = built(monkeypatch, TOKEN="t", NUMBER_ID="1065", BASE_URL="https://not360dialog.io").build(message())
    assert "D360-API-KEY" not in other.headers


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"TOKEN": "t"}, "VIDEOPOLL_WHATSAPP_CLOUD_NUMBER_ID"),
        ({"NUMBER_ID": "1065", "TOKEN": " "}, "VIDEOPOLL_WHATSAPP_CLOUD_TOKEN"),
        ({"TOKEN": "t", "NUMBER_ID": "1065", "TEMPLATE": "video_ready"}, "name:language"),
        ({"TOKEN": "t", "NUMBER_ID": "1065", "TEMPLATE": "video_ready:es:two"}, "name:language"),
    ],
)
def test_what_is_missing_is_said_by_its_variable(monkeypatch, env, said):
    with pytest.raises(ConfigurationError, match=said):
        built(monkeypatch, **env)


def test_a_resolver_may_bring_the_account(monkeypatch):
    assert isinstance(built(monkeypatch, resolving=True), WhatsAppCloudNotifier)


def test_a_name_that_is_not_shipped_is_answered_with_those_that_are():
    with pytest.raises(ConfigurationError, match=r"whatsapp_cloud.*name=package\.module:function"):
        build_shipped("whatsap_cloud", resolving=False)


def test_the_channels_are_listed_without_a_value(monkeypatch):
    monkeypatch.setenv("VIDEOPOLL_WHATSAPP_CLOUD_TOKEN", TOKEN)
    shown = CliRunner().invoke(build_app(), ["channels"]).output
    assert re.search(r"whatsapp_cloud\s+VIDEOPOLL_WHATSAPP_CLOUD_TOKEN\s+yes\s+set", shown)
    assert re.search(r"whatsapp_cloud\s+VIDEOPOLL_WHATSAPP_CLOUD_TEMPLATE\s+not set", shown)
    assert TOKEN not in shown
    listed = json.loads(CliRunner().invoke(build_app(), ["channels", "--json"]).output)
    assert {
        "channel": "whatsapp_cloud",
        "variable": "VIDEOPOLL_WHATSAPP_CLOUD_TOKEN",
        "needed": True,
        "set": True,
    } in listed
