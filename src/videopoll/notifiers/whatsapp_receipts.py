"""What Meta tells of WhatsApp messages after it has accepted them: signed webhooks, read by pure functions.

Mount an endpoint that hands the request on::

    GET   WhatsAppCloudNotifier.answer_handshake(query, verify_token)      200 with the text, or 403 for None
    POST  WhatsAppCloudNotifier.read_receipts(headers, body, app_secret)   200; 401 for a BadSignatureError

What comes from outside may be anything: the body is bounded, its signature compared in
constant time, and nothing in it is read before that holds.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from videopoll._http import HttpReply
from videopoll._http.received import MAX_RECEIVED_BYTES, Headers, checked_body, checked_secrets, headers_named
from videopoll._reasons import own
from videopoll.errors import BadSignatureError, ConfigurationError
from videopoll.jobs.checks import check_flags, check_texts, kind_name
from videopoll.messages import MessageReceipt, NotSent, ReceiptKind, Refused
from videopoll.notifiers.whatsapp_codes import receipt_for_error_of_meta
from videopoll.observe.redact import redacted

if TYPE_CHECKING:
    from videopoll.jobs.codec import JsonValue

__all__ = ["WhatsAppWebhooks"]

MAX_RECEIPTS = 1_000
"""The most that one webhook is read for; Meta gathers at most some hundreds."""

LONGEST_TAG = 512
LONGEST_CHALLENGE = 256
SIGNATURE_HEADER = "x-hub-signature-256"

_KINDS = {kind.value: kind for kind in ReceiptKind}
_FAILED_WITHOUT_REASON: Mapping[str, JsonValue] = {"message": "the webhook gives no reason"}


class WhatsAppWebhooks:
    """What a host does with the webhooks of the Cloud API. Pure."""

    @staticmethod
    def read_receipts(
        headers: Headers,
        body: bytes,
        app_secret: str | Iterable[str],
        *,
        document: bool = False,
        signature_header: str = SIGNATURE_HEADER,
    ) -> tuple[MessageReceipt, ...]:
        """Return what a webhook says of messages; empty for one that is about something else.

        Args:
            headers: The request's headers.
            body: Its body, byte for byte as it came.
            app_secret: The secret of the Meta app (App settings, Basic), or several while it is
                being changed.
            document: The same as that of `WhatsAppCloudNotifier`.
            signature_header: The header with the signature: hex digits of HMAC-SHA256, with or
                without ``sha256=`` before them. 360dialog's is ``x-360dialog-signature``.

        Raises:
            BadSignatureError: It is not Meta's, or larger than 1 MB. Answer with 401.
            ConfigurationError: There is no secret, or the body is no bytes.
        """
        secrets = checked_secrets(app_secret, "app_secret", "the app secret of the Meta app")
        body = checked_body(body, "a webhook")
        check_flags("read_receipts", document=document)
        check_texts("read_receipts", signature_header=signature_header or "")
        if len(body) > MAX_RECEIVED_BYTES:
            raise BadSignatureError(own(f"the webhook is larger than {MAX_RECEIVED_BYTES} bytes"))
        name = signature_header.lower()
        given = (headers_named(headers, {name}) or {}).get(name, "")
        expected = [hmac.new(secret.encode(), body, hashlib.sha256).hexdigest() for secret in secrets]
        # All of them, whatever the first says: the time tells nothing of which it was.
        fits = [hmac.compare_digest(given.removeprefix("sha256=").lower(), one) for one in expected]
        if not any(fits):
            raise BadSignatureError(own("the webhook's signature is missing or does not fit the app secret"))
        statuses = list(_statuses(HttpReply(status=200, body=body).json()))
        return tuple(
            receipt for status in statuses[:MAX_RECEIPTS] if (receipt := _receipt(status, document)) is not None
        )

    @staticmethod
    def answer_handshake(query: Mapping[str, str], verify_token: str) -> str | None:
        """Return the text with which Meta's GET is answered when an endpoint is set up; None to answer with 403.

        Args:
            query: The fields of the request's query.
            verify_token: What you typed into the app's settings as "Verify token".

        Raises:
            ConfigurationError: The token is empty or no text, or the query is no mapping.
        """
        if not callable(getattr(query, "get", None)):
            msg = f"answer_handshake's query must be a mapping, got {kind_name(query)}"
            raise ConfigurationError(msg)
        if not isinstance(verify_token, str) or not verify_token:
            msg = "answer_handshake needs the verify token that stands in the app's settings"
            raise ConfigurationError(msg)
        token, challenge = query.get("hub.verify_token"), query.get("hub.challenge")
        if query.get("hub.mode") != "subscribe" or not isinstance(token, str) or not isinstance(challenge, str):
            return None
        right = hmac.compare_digest(token.encode("utf-8", "replace"), verify_token.encode("utf-8", "replace"))
        # Meta's is a number; whatever else could be a page with a script.
        plain = re.fullmatch(r"[A-Za-z0-9_-]+", challenge) and len(challenge) <= LONGEST_CHALLENGE
        return challenge if right and plain else None


def _statuses(told: object) -> Iterator[Mapping[str, JsonValue]]:
    for entry in _dicts(told, "entry"):
        for change in _dicts(entry, "changes"):
            yield from _dicts(change.get("value"), "statuses")


def _dicts(holder: object, name: str) -> Iterator[Mapping[str, JsonValue]]:
    listed = holder.get(name) if isinstance(holder, dict) else None
    return (one for one in listed if isinstance(one, dict)) if isinstance(listed, list) else iter(())


def _receipt(status: Mapping[str, JsonValue], document: bool) -> MessageReceipt | None:  # noqa: FBT001 - private
    kind, message_id, tag = (
        _KINDS.get(str(status.get("status"))),
        status.get("id"),
        status.get("biz_opaque_callback_data"),
    )
    if kind is None or not isinstance(message_id, str) or not message_id:
        return None
    reference = tag if isinstance(tag, str) and 0 < len(tag) <= LONGEST_TAG else None
    at = str(status.get("timestamp"))
    at_ms = int(at) * 1000 if re.fullmatch(r"[0-9]{1,12}", at) else None
    if kind is not ReceiptKind.FAILED:
        return MessageReceipt(kind=kind, message_id=message_id, reference=reference, at_ms=at_ms)
    error = next(_dicts(status, "errors"), _FAILED_WITHOUT_REASON)
    fate = receipt_for_error_of_meta(error, document=document)
    to = status.get("recipient_id")
    return MessageReceipt(
        kind=kind,
        message_id=message_id,
        reference=reference,
        at_ms=at_ms,
        reason=redacted(fate.reason, to if isinstance(to, str) else None),
        passing=isinstance(fate, NotSent),
        channel_fault=not isinstance(fate, NotSent) or fate.channel_fault,
        try_text=isinstance(fate, Refused) and fate.try_text,
        then=fate.then if isinstance(fate, Refused) else None,
    )
