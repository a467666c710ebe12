"""Signed HTTP callbacks after the Standard Webhooks specification.

A receiver checks the signature with any library for Standard Webhooks, and
drops repetitions by ``webhook-id``, which is the same over retries.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import time
from typing import TYPE_CHECKING

import attrs
from typing_extensions import override

from videopoll._http import HttpReply, HttpRequest
from videopoll._reasons import own
from videopoll.errors import ConfigurationError, RefusedError
from videopoll.jobs.checks import check_callable, listed
from videopoll.jobs.codec import dump
from videopoll.jobs.urls import check_url
from videopoll.messages import Delivered, Message, NotSent, Receipt, Refused
from videopoll.notifiers.base import HttpNotifier
from videopoll.notifiers.receipts import receipt_for_status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import httpx

    from videopoll.jobs.codec import JsonValue

__all__ = ["WebhookNotifier"]

TIMEOUT_S = 15.0
PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)
GONE = 410


class WebhookNotifier(HttpNotifier):
    """Posts each outcome to a URL of the host, signed.

    The body is small: ``{"type": "video.completed", "timestamp": …, "data":
    {"jobId", "conversationId", "success", "videoUrl", "fileId"}}``; a job
    without a video has an ``error`` instead, and a type after its outcome, such
    as ``video.failed`` or ``video.timed_out``.

    Args:
        url: Where to post.
        secret: ``whsec_`` and 24 to 64 bytes in base64; or several while they
            are being rotated, each of which signs.
        client: A client of the host to send with. The host closes it.
        async_client: The same for asyncio.
        clock: Gives the time in Unix seconds, for the signature.

    Raises:
        ConfigurationError: The URL or a secret cannot work.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | Sequence[str],
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(client=client, async_client=async_client)
        self._url = check_url(url, "WebhookNotifier.url")
        given = () if secret is None else (secret,) if isinstance(secret, str) else secret
        self._keys = tuple(map(_key, listed(given, "WebhookNotifier.secret", "secrets")))
        check_callable(clock, "WebhookNotifier.clock", "nothing")
        self._clock = clock
        if not self._keys:
            msg = "WebhookNotifier needs at least one secret, otherwise its receiver could not trust it"
            raise ConfigurationError(msg)

    @override
    def secrets(self) -> tuple[str | None, ...]:
        """Return the URL, which may hold a credential."""
        return (self._url,)

    @override
    def build(self, message: Message) -> HttpRequest:
        """Write the signed POST.

        Raises:
            RefusedError: The message is an `AcknowledgementMessage`, which has no outcome to report.
        """
        if not isinstance(message, Message):
            raise RefusedError(
                own("a webhook reports outcomes, and this message comes before there is one"), try_text=False
            )
        body = dump(_payload(message)).encode()
        timestamp = str(int(self._clock()))
        signed = f"{message.reference}.{timestamp}.".encode() + body
        headers = {
            "content-type": "application/json",
            "webhook-id": message.reference,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(_signature(key, signed) for key in self._keys),
        }
        return HttpRequest(method="POST", url=self._url, headers=headers, content=body, timeout_s=TIMEOUT_S)

    @override
    def read(self, reply: HttpReply, message: Message) -> Receipt:
        """Read the status: any 2xx is a success, and 410 means never again.

        Other refusals may come from a receiver that is being deployed, and are
        tried again: it knows a repetition by its ``webhook-id``.
        """
        del message
        receipt = receipt_for_status(reply)
        if isinstance(receipt, Refused) and reply.status == GONE:
            return attrs.evolve(receipt, try_text=False)
        if isinstance(receipt, Refused | NotSent):
            return NotSent(receipt.reason, receipt.retry_after_s if isinstance(receipt, NotSent) else None)
        return receipt or Delivered()


def _key(secret: object) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True) if isinstance(secret, str) else b""
    except (ValueError, binascii.Error):
        key = b""
    if len(key) not in SECRET_BYTES:
        msg = (
            "a WebhookNotifier.secret is 'whsec_' followed by 24 to 64 random bytes in base64;"
            " make one with: 'whsec_' + base64.b64encode(secrets.token_bytes(32)).decode()"
        )
        raise ConfigurationError(msg)
    return key


def _signature(key: bytes, signed: bytes) -> str:
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _payload(message: Message) -> dict[str, JsonValue]:
    outcome = message.outcome
    at = dt.datetime.fromtimestamp(outcome.at_ms / 1000, dt.UTC)
    data: dict[str, JsonValue] = {
        "jobId": message.job.job_id,
        "conversationId": message.conversation_id,
        "success": outcome.success,
    }
    if outcome.success:
        data |= {"videoUrl": message.video_url, "fileId": outcome.file_id}
    else:
        data["error"] = outcome.error
    return {
        "type": f"video.{outcome.kind.value}",
        "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": data,
    }
