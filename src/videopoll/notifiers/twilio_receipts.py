"""What Twilio's error codes mean, and what it tells of messages after it has queued them: signed callbacks.

Codes: twilio.com/docs/api/errors. Give `TwilioNotifier` your endpoint as
``status_callback``, and hand each request to `read_receipts`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from videopoll._http import HttpReply, retry_after_s
from videopoll._http.received import MAX_RECEIVED_BYTES, Headers, checked_body, checked_secrets, headers_named
from videopoll._reasons import own, quoting
from videopoll.errors import BadSignatureError
from videopoll.jobs.checks import check_kind
from videopoll.jobs.outcome import MessageForm
from videopoll.messages import MessageReceipt, NotSent, ReceiptKind, Refused
from videopoll.notifiers.codes import CodeMeaning, CodeTable, receipt_for_code

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FAILED_STATUSES", "TwilioCallbacks", "receipt_for_twilio"]


def _all(meaning: CodeMeaning, *codes: int) -> dict[int | str, CodeMeaning]:
    return dict.fromkeys(codes, meaning)


CODES: CodeTable = {
    # 63038 is the limit of a day, 30001 a full queue.
    **_all(CodeMeaning.RATE, 14107, 20429, 21611, 30001, 63017, 63018, 63038),
    **_all(CodeMeaning.PASSING, 20503, 30008, 30410, 63010, 63012, 63037),
    **_all(CodeMeaning.VIDEO, 11751, 12300, 21620, 21623, 30011, 30019, 63005, 63019, 63021),
    **_all(CodeMeaning.WINDOW, 63016),
    # 21408, 21606 and 21612 are about the sender in the country of this recipient: others may be reached.
    **_all(CodeMeaning.RECIPIENT, 21211, 21217, 21408, 21604, 21606, 21608, 21610, 21612, 21614),
    **_all(CodeMeaning.RECIPIENT, 30003, 30004, 30005, 30006, 63003, 63015, 63024, 63032, 63033),
    **_all(CodeMeaning.CREDENTIALS, 20003, 20006, 20008, 20404, 63001),
    **_all(CodeMeaning.ACCOUNT, 20005, 20010, 21212, 21601, 21660, 21703, 21705, 21910),
    **_all(CodeMeaning.ACCOUNT, 30002, 30032, 30034, 63007, 63020, 63022, 63051),
    **_all(CodeMeaning.CONTENT, 21602, 21617, 21654, 21655, 21656, 30007, 63013, 63026, 63027, 63028),
}

FAILED_STATUSES = frozenset({"failed", "undelivered", "canceled"})
_KINDS = {"sent": ReceiptKind.SENT, "delivered": ReceiptKind.DELIVERED, "read": ReceiptKind.READ} | dict.fromkeys(
    FAILED_STATUSES, ReceiptKind.FAILED
)
_SITE = re.compile(r"([A-Za-z]+)://([^/?#:]*|[^/?#]*\])(:[0-9]+)?(?=[/?#]|\Z)")
_PORTS = {"https": ":443", "http": ":80"}
SIGNATURE_HEADER = "x-twilio-signature"
MAX_FIELDS = 200


def receipt_for_twilio(
    code: object,
    said: object = None,
    *,
    window: MessageForm | None = MessageForm.TEMPLATE,
    headers: Mapping[str, str] | None = None,
) -> NotSent | Refused | None:
    """Return what a code of Twilio's comes to, wherever it says it; None for a code that is not known.

    Args:
        code: The code, as a number or as its digits.
        said: Twilio's words.
        window: What to try when the user has not written for 24 hours.
        headers: Those of the reply, for ``Retry-After``.
    """
    code = int(code) if isinstance(code, str) and re.fullmatch(r"[0-9]{1,9}", code) else code
    reason = quoting(f"error {code} of Twilio", said) if said else own(f"error {code} of Twilio")
    then = window if isinstance(code, int) and CODES.get(code) is CodeMeaning.WINDOW else None
    return receipt_for_code(CODES, code, reason, then=then, retry_after_s=retry_after_s(headers or {}, time.time()))


class TwilioCallbacks:
    """What a host does with the callbacks of Twilio. Pure."""

    @staticmethod
    def read_receipts(
        headers: Headers, body: bytes, auth_token: str | Iterable[str], *, url: str
    ) -> tuple[MessageReceipt, ...]:
        """Return what a callback says of a message; empty for one that says nothing new.

        Args:
            headers: The request's headers.
            body: Its body, byte for byte as it came.
            auth_token: The account's auth token (not the secret of an API key), or several while it
                is being changed.
            url: The whole URL that Twilio asked for, with its query: behind a proxy, the public one.

        Raises:
            BadSignatureError: It is not Twilio's, or larger than 1 MB. Answer with 403.
            ConfigurationError: There is no token, or the body is no bytes.
        """
        tokens = checked_secrets(auth_token, "auth_token", "the account's auth token")
        body = checked_body(body, "a callback")
        check_kind("read_receipts.url", url, str)
        if len(body) > MAX_RECEIVED_BYTES:
            raise BadSignatureError(own(f"the callback is larger than {MAX_RECEIVED_BYTES} bytes"))
        spellings = _with_and_without_port(url)
        query = dict(_pairs(url.partition("?")[2].partition("#")[0]))
        kind = (headers_named(headers, {"content-type"}) or {}).get("content-type", "")
        if kind.lower().startswith("application/json"):
            # The URL alone is signed then, and has the digest of the body.
            digest = query.get("bodySHA256", "").lower()
            signed, whole = "", hmac.compare_digest(hashlib.sha256(body).hexdigest().encode(), digest.encode())
            told = HttpReply(status=200, body=body).json() if whole else None
            fields: Mapping[str, object] = told if isinstance(told, dict) else {}
        else:
            pairs = _pairs(body.decode("utf-8", "replace"))
            signed, whole, fields = "".join(name + value for name, value in sorted(set(pairs))), True, dict(pairs)
        given = (headers_named(headers, {SIGNATURE_HEADER}) or {}).get(SIGNATURE_HEADER, "")
        # Some of its services sign the URL with the port, some without.
        expected = [_signature(token, written + signed) for token in tokens for written in spellings]
        fits = [hmac.compare_digest(given.encode(), one.encode()) for one in expected]
        if not any(fits) or not whole:
            raise BadSignatureError(
                own("the callback's signature is missing or does not fit the auth token and the URL")
            )
        return tuple(_receipts(fields, query.get("reference")))


def _receipts(fields: Mapping[str, object], reference: str | None) -> Iterator[MessageReceipt]:
    kind, sid = _KINDS.get(str(fields.get("MessageStatus")).lower()), fields.get("MessageSid")
    if kind is None or not isinstance(sid, str) or not sid:
        return
    if kind is not ReceiptKind.FAILED:
        yield MessageReceipt(kind=kind, message_id=sid, reference=reference)
        return
    code = fields.get("ErrorCode")
    fate = receipt_for_twilio(code) or Refused(quoting("Twilio could not deliver it, error", code))
    yield MessageReceipt(
        kind=kind,
        message_id=sid,
        reference=reference,
        reason=fate.reason,
        passing=isinstance(fate, NotSent),
        channel_fault=not isinstance(fate, NotSent) or fate.channel_fault,
        try_text=isinstance(fate, Refused) and fate.try_text,
        then=fate.then if isinstance(fate, Refused) else None,
    )


def _pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        return []


def _signature(token: str, signed: str) -> str:
    # SHA-1 is what Twilio signs with; as a keyed hash it holds.
    return base64.b64encode(hmac.new(token.encode(), signed.encode("utf-8", "replace"), hashlib.sha1).digest()).decode()


def _with_and_without_port(url: str) -> tuple[str, ...]:
    """Return the URL in both spellings."""
    found = _SITE.match(url)
    if found is None:
        return (url,)
    scheme, host, port, rest = *found.groups(), url[found.end() :]
    port = port or _PORTS.get(scheme.lower(), ":443")
    return f"{scheme}://{host}{rest}", f"{scheme}://{host}{port}{rest}"
