"""What Evolution API tells of messages later: its webhooks ``messages.update``, read by a pure function.

Evolution signs no body. Since version 2.3 it sends a token (a JWT, signed with
HMAC-SHA256) with each webhook whose ``headers`` have a ``jwt_key``::

    POST {base_url}/webhook/set/{instance}
    {"webhook": {"enabled": true, "url": …, "events": ["MESSAGES_UPDATE"], "headers": {"jwt_key": "…"}}}

The token says who sent it, and not what: take it over TLS alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import TYPE_CHECKING

from videopoll._http import HttpReply
from videopoll._http.received import MAX_RECEIVED_BYTES, Headers, checked_body, checked_secrets, headers_named
from videopoll._reasons import own
from videopoll.errors import BadSignatureError
from videopoll.jobs.checks import check_seconds
from videopoll.jobs.codec import is_number
from videopoll.messages import MessageReceipt, ReceiptKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["EvolutionWebhooks"]

CLOCKS_DIFFER_S = 60
_KINDS = {
    "SERVER_ACK": ReceiptKind.SENT,
    "DELIVERY_ACK": ReceiptKind.DELIVERED,
    "READ": ReceiptKind.READ,
    "PLAYED": ReceiptKind.READ,
    "ERROR": ReceiptKind.FAILED,
}


class EvolutionWebhooks:
    """What a host does with the webhooks of its Evolution. Pure."""

    @staticmethod
    def read_receipts(
        headers: Headers, body: bytes, jwt_key: str | Iterable[str], *, now_s: float | None = None
    ) -> tuple[MessageReceipt, ...]:
        """Return what a webhook says of messages; empty for one that is about something else.

        Args:
            headers: The request's headers.
            body: Its body, byte for byte as it came.
            jwt_key: The key that you gave Evolution as ``jwt_key``, or several while it is being changed.
            now_s: The time in Unix seconds; None for that of the clock.

        Raises:
            BadSignatureError: It is not from your Evolution, its token has ended, or it is larger than
                1 MB. Answer with 401.
            ConfigurationError: There is no key, or the body is no bytes.
        """
        keys = checked_secrets(jwt_key, "jwt_key", "the jwt_key of Evolution's webhook")
        body = checked_body(body, "a webhook")
        if now_s is not None:
            check_seconds("read_receipts.now_s", now_s)
        if len(body) > MAX_RECEIVED_BYTES:
            raise BadSignatureError(own(f"the webhook is larger than {MAX_RECEIVED_BYTES} bytes"))
        token = (headers_named(headers, {"authorization"}) or {}).get("authorization", "")
        if not _holds(token.removeprefix("Bearer "), keys, time.time() if now_s is None else now_s):
            raise BadSignatureError(own("the webhook's token is missing, has ended, or does not fit the jwt_key"))
        return tuple(_receipts(HttpReply(status=200, body=body).json()))


def _holds(token: str, keys: list[str], now_s: float) -> bool:
    signed, _, signature = token.rpartition(".")
    expected = [_base64(hmac.new(key.encode(), signed.encode(), hashlib.sha256).digest()) for key in keys]
    fits = [hmac.compare_digest(signature.encode(), one.encode()) for one in expected]
    # Nothing in it is read before that: what it says of its own algorithm is no matter, there is one.
    if not any(fits):
        return False
    padded = signed.partition(".")[2]
    try:
        body = base64.urlsafe_b64decode(padded + "=" * (-len(padded) % 4))
    except ValueError:
        return False
    claims = HttpReply(status=200, body=body).json()
    ends_s = claims.get("exp") if isinstance(claims, dict) else None
    return is_number(ends_s) and now_s <= ends_s + CLOCKS_DIFFER_S


def _base64(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _receipts(told: object) -> Iterator[MessageReceipt]:
    if not isinstance(told, dict) or str(told.get("event")).lower() != "messages.update":
        return
    data = told.get("data")
    for one in data if isinstance(data, list) else [data]:
        if not isinstance(one, dict) or one.get("fromMe") is not True:
            continue
        kind, message_id = _KINDS.get(str(one.get("status"))), one.get("keyId")
        if kind is not None and isinstance(message_id, str) and message_id:
            reason = own("WhatsApp has answered Evolution with an error") if kind is ReceiptKind.FAILED else None
            yield MessageReceipt(kind=kind, message_id=message_id, reason=reason)
