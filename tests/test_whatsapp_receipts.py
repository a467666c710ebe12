"""Signed webhooks of WhatsApp's Cloud API: whose they are, and what they say of a message."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from kit.cloud import SECRET, TO, read
from videopoll import ConfigurationError
from videopoll.errors import BadSignatureError
from videopoll.jobs import MessageForm
from videopoll.messages import ReceiptKind
from videopoll.notifiers import (
    WhatsAppCloudNotifier,
)
from videopoll.testing import (
    FakeWhatsAppCloud,
)

read_receipts = WhatsAppCloudNotifier.read_receipts
answer_handshake = WhatsAppCloudNotifier.answer_handshake


@pytest.fixture
def signing():
    return FakeWhatsAppCloud(app_secret=SECRET)


@pytest.mark.parametrize(
    ("status", "kind"),
    [("sent", ReceiptKind.SENT), ("delivered", ReceiptKind.DELIVERED), ("read", ReceiptKind.READ)],
)
def test_a_receipt_names_the_message_by_its_id_and_by_our_reference(signing, status, kind):
    webhook = signing.webhook("wamid.1", status, tag="vp-1")
    (receipt,) = read(webhook)
    assert (receipt.kind, receipt.message_id, receipt.reference) == (kind, "wamid.1", "vp-1")
    assert 1_700_000_000_000 < receipt.at_ms < 4_000_000_000_000


@pytest.mark.parametrize(
    ("code", "details", "then", "try_text", "passing"),
    [
        (131047, "more than 24 hours have passed", MessageForm.TEMPLATE, False, False),
        (131053, "Unsupported Video mime type video/x-msvideo", None, True, False),
        (131053, "Downloading media from weblink failed with http code 404", MessageForm.UPLOAD, True, False),
        (131026, "", None, False, False),
        (131042, "", None, False, True),
        (131000, "", None, False, True),
        (130429, "", None, False, True),
        (132015, "", None, False, False),
        (None, "", None, True, False),
    ],
)
def test_a_failure_says_what_to_try_next(signing, code, details, then, try_text, passing):  # noqa: PLR0917
    (receipt,) = read(signing.webhook("wamid.1", "failed", code=code, details=details))
    assert receipt.kind is ReceiptKind.FAILED
    assert (receipt.then, receipt.try_text, receipt.passing) == (then, try_text, passing)
    assert receipt.channel_fault is (code not in {131042, 130429}), "a payment, or a pace, makes no text of a video"


def test_a_late_codec_may_go_as_a_document_if_the_host_says_so(signing):
    webhook = signing.webhook("wamid.1", "failed", code=131053, details="Unsupported Video mime type")
    assert read(webhook, document=True)[0].then is MessageForm.DOCUMENT


def test_a_failure_keeps_the_number_to_itself(signing):
    details = f"cannot reach {TO} at https://files.example/x?signature=s3cr3t"
    (receipt,) = read(signing.webhook("wamid.1", "failed", code=131026, details=details, to=TO))
    assert receipt.reason.told == "error 131026 of the Cloud API"
    assert TO not in receipt.reason
    assert "s3cr3t" not in receipt.reason
    assert "wamid.1" not in repr(receipt)


def test_a_forged_receipt_is_not_looked_at(signing):
    with pytest.raises(BadSignatureError):
        read(signing.webhook("wamid.1", "delivered", app_secret="somebody-elses"))


def forgeries():
    webhook = FakeWhatsAppCloud(app_secret=SECRET).webhook("wamid.1", "delivered")
    right = webhook.headers["X-Hub-Signature-256"]
    yield "no header", {}, webhook.body
    yield "empty", {"X-Hub-Signature-256": ""}, webhook.body
    yield "prefix alone", {"X-Hub-Signature-256": "sha256="}, webhook.body
    yield "one digit less", {"X-Hub-Signature-256": right[:-1]}, webhook.body
    yield "another digit", {"X-Hub-Signature-256": right[:-1] + ("0" if right[-1] != "0" else "1")}, webhook.body
    yield "of SHA-1", {"X-Hub-Signature": right}, webhook.body
    yield "another body", {"X-Hub-Signature-256": right}, webhook.body + b" "
    yield "twice", [("X-Hub-Signature-256", right), ("x-hub-signature-256", right)], webhook.body
    yield "not ASCII", {"X-Hub-Signature-256": right + "é"}, webhook.body
    yield "enormous", {"X-Hub-Signature-256": right + "0" * 100_000}, webhook.body


@pytest.mark.parametrize(("headers", "body"), [pytest.param(h, b, id=name) for name, h, b in forgeries()])
def test_a_signature_that_does_not_fit_is_refused(headers, body):
    with pytest.raises(BadSignatureError):
        read_receipts(headers, body, SECRET)


def signed(body, secret=SECRET):
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return [(b"content-type", b"application/json"), (b"x-hub-signature-256", f"sha256={digest}".encode())]


def test_a_vector_from_outside_fits():
    # Made by openssl: printf '{"entry":[]}' | openssl dgst -sha256 -hmac 'app-secret-of-the-tests'
    vector = "b703a79ee06bc0823aa7790d063ac2fb6253d6797520aedfbe878b6d432fc959"
    assert read_receipts({"x-hub-signature-256": f"sha256={vector}"}, b'{"entry":[]}', SECRET) == ()


def test_two_secrets_hold_while_one_is_being_changed(signing):
    webhook = signing.webhook("wamid.1", "read")
    assert len(read(webhook, ["the-new-one", SECRET])) == 1


def test_360dialogs_signature_has_a_header_of_its_own_and_no_prefix(signing):
    webhook = signing.webhook("wamid.1", "read")
    headers = {"x-360dialog-signature": webhook.headers["X-Hub-Signature-256"].removeprefix("sha256=")}
    assert read_receipts(headers, webhook.body, SECRET, signature_header="X-360dialog-Signature")


def test_a_webhook_of_a_gigabyte_is_not_hashed():
    body = b" " * 1_000_001
    with pytest.raises(BadSignatureError, match="larger"):
        read_receipts(signed(body), body, SECRET)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"entry": {"changes": 7}}',
        b'{"entry": [7, null, {"changes": [null, {"value": []}, {"value": {"statuses": "x"}}]}]}',
        b'{"entry": [{"changes": [{"value": {"statuses": [{"id": 7, "status": "read"}, {"status": "read"}, null]}}]}]}',
        b'{"entry": [{"changes": [{"value": {"statuses": [{"id": "wamid.1", "status": "played"}]}}]}]}',
        b'{"entry": [{"changes": [{"value": {"messages": [{"id": "wamid.1", "text": {"body": "hi"}}]}}]}]}',
    ],
)
def test_a_signed_webhook_about_something_else_has_no_receipts(body):
    assert read_receipts(signed(body), body, SECRET) == ()


def test_odd_fields_of_a_failure_are_no_obstacle():
    status = {
        "id": "wamid.1",
        "status": "failed",
        "timestamp": "1e999",
        "biz_opaque_callback_data": "x" * 600,
        "recipient_id": 7,
        "errors": [{"code": True, "error_data": [], "title": {"a": 1}}],
    }
    body = json.dumps({"entry": [{"changes": [{"value": {"statuses": [status]}}]}]}).encode()
    (receipt,) = read_receipts(signed(body), body, SECRET)
    assert (receipt.kind, receipt.at_ms, receipt.reference) == (ReceiptKind.FAILED, None, None)


@pytest.mark.parametrize(("body", "secret"), [({"entry": []}, SECRET), ("{}", SECRET), (b"{}", ""), (b"{}", [])])
def test_a_parsed_body_or_no_secret_is_the_hosts_mistake(body, secret):
    with pytest.raises(ConfigurationError):
        read_receipts({}, body, secret)


def handshake(**fields):
    query = {"hub.mode": "subscribe", "hub.verify_token": "typed-in", "hub.challenge": "1158201444"}
    return {**query, **{f"hub.{name}": value for name, value in fields.items()}}


def test_the_handshake_gives_the_challenge_back():
    assert answer_handshake(handshake(), "typed-in") == "1158201444"


@pytest.mark.parametrize(
    "query",
    [
        {},
        handshake(mode="unsubscribe"),
        handshake(verify_token="guessed"),
        handshake(verify_token=["typed-in"]),
        handshake(challenge="<script>"),
        handshake(challenge="1" * 300),
        handshake(challenge=None),
    ],
)
def test_a_handshake_of_somebody_else_is_not_answered(query):
    assert answer_handshake(query, "typed-in") is None


def test_a_handshake_without_a_token_is_the_hosts_mistake():
    with pytest.raises(ConfigurationError):
        answer_handshake(handshake(verify_token=""), "")
