"""The fake of WhatsApp's Cloud API behaves, and misbehaves, as it says."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from kit.cloud import SECRET, TEMPLATES, TO, TOKEN, VIDEO, message, read, send
from videopoll.jobs import MessageForm
from videopoll.messages import Accepted, ReceiptKind
from videopoll.notifiers import (
    WhatsAppCloudNotifier,
)
from videopoll.testing import (
    FakeServer,
    FakeWhatsAppCloud,
    Reply,
    wait_until,
)
from videopoll.testing.multipart import parts_of

read_receipts = WhatsAppCloudNotifier.read_receipts
answer_handshake = WhatsAppCloudNotifier.answer_handshake


@pytest.fixture
def cloud():
    with FakeWhatsAppCloud(token=TOKEN, number_id="1065", templates=TEMPLATES) as fake:
        yield fake


def test_a_form_with_files_is_read_as_another_library_wrote_it():
    video = os.urandom(100_000) + b"\r\n--boundary--\r\n" + bytes(range(256)) + b"\n"
    request = httpx.Request(
        "POST", "http://x/", data={"messaging_product": "whatsapp"}, files={"file": ("video.mp4", video, "video/mp4")}
    )
    parts = parts_of(request.headers["content-type"], request.read())
    assert parts["file"].content == video
    assert (parts["file"].filename, parts["file"].content_type) == ("video.mp4", "video/mp4")
    assert (parts["messaging_product"].text, parts["messaging_product"].content_type) == ("whatsapp", None)
    assert parts_of("application/json", b"{}") == {}


@pytest.fixture
def endpoint():
    with FakeServer() as server:
        server.route("POST", "/hook", Reply(status=200, body=b""))
        yield server


def posted(endpoint, secret=SECRET):
    receipts = [read_receipts(one.headers, one.raw, secret) for one in endpoint.requests]
    return [(receipt.kind.value, receipt.message_id) for told in receipts for receipt in told]


def test_the_fake_posts_its_receipts_until_they_are_taken(endpoint):
    endpoint.reply_with(Reply.fault(500))
    with FakeWhatsAppCloud(app_secret=SECRET, webhook_url=f"{endpoint.url}/hook") as cloud:
        sent = send(cloud, message())
        wait_until(lambda: len(endpoint.requests) == 3, describe="both, and one of them twice")
    assert posted(endpoint) == [("sent", sent.message_id), ("sent", sent.message_id), ("delivered", sent.message_id)]


def test_the_fake_can_double_its_receipts_and_turn_their_order_round(endpoint):
    with FakeWhatsAppCloud(app_secret=SECRET, webhook_url=f"{endpoint.url}/hook", doubled=True, reverse=True) as cloud:
        send(cloud, message())
        wait_until(lambda: len(endpoint.requests) == 4, describe="all of them")
    assert [kind for kind, _ in posted(endpoint)] == ["delivered", "delivered", "sent", "sent"]


def test_the_fake_tells_before_it_answers_if_its_answers_are_slow(endpoint):
    with (
        FakeWhatsAppCloud(app_secret=SECRET, webhook_url=f"{endpoint.url}/hook", latency_s=2.0) as cloud,
        ThreadPoolExecutor() as pool,
    ):
        sending = pool.submit(send, cloud, message())
        wait_until(lambda: endpoint.requests, describe="the first receipt")
        assert not sending.done()
        assert isinstance(sending.result(), Accepted)


def test_a_late_failure_is_taken_first_and_its_user_gets_nothing(cloud):
    cloud.close_window(TO, late=True)
    receipt = send(cloud, message())
    assert isinstance(receipt, Accepted)
    assert cloud.inbox(TO) == []
    (failed,) = (read(one, cloud.app_secret)[0] for one in cloud.webhooks())
    assert (failed.kind, failed.message_id) == (ReceiptKind.FAILED, receipt.message_id)
    assert cloud.webhooks() == []
    # The template goes through, and so does a video to somebody else.
    assert isinstance(send(cloud, message(MessageForm.TEMPLATE)), Accepted)
    assert isinstance(send(cloud, message(to="5491155550001")), Accepted)
    assert [one.kind for one in cloud.messages] == ["template", "video"]


@pytest.mark.parametrize(
    ("path", "headers", "body", "code"),
    [
        ("/v25.0/1065/messages", {}, {}, 190),
        ("/v25.0/999/messages", {"authorization": f"Bearer {TOKEN}"}, {}, 33),
        ("/v25.0/1065/messages", {"authorization": f"Bearer {TOKEN}"}, {"type": "video"}, 100),
        ("/nowhere", {}, {}, 100),
    ],
)
def test_the_fake_refuses_what_meta_refuses(cloud, path, headers, body, code):
    reply = httpx.post(f"{cloud.url}{path}", json=body, headers=headers, trust_env=False)
    assert reply.json()["error"]["code"] == code


@pytest.mark.parametrize(
    "change",
    [
        {"recipient_type": None},
        {"to": "+5491155550000"},
        {"to": "US.13491208655302741918"},
        {"type": "sticker"},
        {"video": {"link": VIDEO, "id": "1"}},
        {"video": {}},
        {"video": {"id": "1"}},
        {"video": {"link": "ftp://files.example/1.mp4"}},
        {"video": {"link": VIDEO, "caption": "x" * 1025}},
        {"biz_opaque_callback_data": "x" * 513},
        {"type": "text", "text": {"body": ""}},
        {"type": "text", "text": {"body": "x" * 4097}},
        {"type": "template", "template": {"name": "video_ready", "language": {"code": "en"}}},
        {"type": "template", "template": {"name": "video_ready", "language": {"code": "es"}}},
    ],
)
def test_the_fake_takes_no_request_that_meta_would_not_take(cloud, change):
    right = {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": TO,
        "type": "video",
        "video": {"link": VIDEO},
    }
    url, headers = f"{cloud.url}/v25.0/1065/messages", {"authorization": f"Bearer {TOKEN}"}
    assert httpx.post(url, json=right, headers=headers, trust_env=False).status_code == 200
    assert httpx.post(url, json={**right, **change}, headers=headers, trust_env=False).status_code == 400
    assert len(cloud.messages) == 1
