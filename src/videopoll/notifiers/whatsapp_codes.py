"""What the Cloud API's error codes mean, at once or by webhook.

Meta advises to decide by ``error.code`` and ``error_data.details``, and promises
no HTTP statuses (developers.facebook.com, WhatsApp, "Error codes"). So the status
is only looked at where an answer is not Meta's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from videopoll._reasons import quoting
from videopoll.jobs.outcome import MessageForm
from videopoll.messages import NotSent, Refused, Unknown
from videopoll.notifiers.codes import CodeMeaning, CodeTable, receipt_for_code, receipt_for_meaning

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from videopoll._http import HttpReply
    from videopoll.jobs.codec import JsonValue

__all__ = ["code_of", "lost_media_id", "receipt_for_error_of_meta", "receipt_of_360dialog"]


def _all(meaning: CodeMeaning, *codes: int | Iterable[int]) -> dict[int | str, CodeMeaning]:
    listed = [[code] if isinstance(code, int) else code for code in codes]
    return {code: meaning for group in listed for code in group}


CODES: CodeTable = {
    # 131056 is the limit of messages to one user, 131048 and 131064 are about the number's quality.
    **_all(CodeMeaning.RATE, 4, 80007, 130429, 131048, 131056, 131064),
    **_all(CodeMeaning.PASSING, 2, 131000, 131016, 131057, 2494100),
    **_all(CodeMeaning.VIDEO, 131051, 131053),
    **_all(CodeMeaning.WINDOW, 131047),
    # 130497 is "restricted from messaging users in this country", which is no reason to hold back the others.
    **_all(CodeMeaning.RECIPIENT, 130403, 130472, 130497, 131021, 131026, 131030, 131049, 131050),
    **_all(CodeMeaning.CREDENTIALS, 0, 3, 10, 33, 190, range(200, 300), 131005, 131045, 133010),
    **_all(CodeMeaning.ACCOUNT, 368, 131031, 131037, 131042),
    **_all(CodeMeaning.CONTENT, 132000, 132001, 132005, 132007, 132012, 132015, 132016, 131063),
}

PARAMETER = frozenset({100, 131008, 131009, 135000})
"""Something in the request is wrong, and only the details say what."""

NO_SUCH_OBJECT = 33
"""The subcode of 100 where the number's id is wrong, or the token may not use it: "Object with ID … does not exist"."""

WAITS_S = {131056: 6.0, 131048: 3600.0, 131064: 3600.0}
"""No wait is told in any answer: one message in 6 s to a user, and hours where it is about quality."""

_NOT_FETCHED = re.compile(r"weblink|download|fetch|http code", re.IGNORECASE)
"""Meta could not get the file: "Downloading media from weblink failed with http code 403"."""

_MEDIA_ID_GONE = re.compile(r"media\s?id\b|\['?id'?\]", re.IGNORECASE)


def code_of(error: Mapping[str, JsonValue]) -> int | None:
    """Return an error's code; None if it has none."""
    code = error.get("code")
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def receipt_for_error_of_meta(
    error: Mapping[str, JsonValue],
    *,
    status: int = 0,
    window: MessageForm | None = MessageForm.TEMPLATE,
    document: bool = False,
    quotes: bool = False,
    retry_after_s: float | None = None,
) -> NotSent | Refused | Unknown:
    """Return what an error comes to, wherever Meta says it.

    Args:
        error: The object with ``code``, ``message`` and ``error_data``.
        status: The HTTP status, for a code that is not known; 0 in a webhook.
        window: What to try when the user has not written for 24 hours.
        document: Whether a file that is no video for WhatsApp may go as a document.
        quotes: Whether the message quotes another.
        retry_after_s: How long to wait, if the answer says so.
    """
    code, data = code_of(error), error.get("error_data")
    details = str(data.get("details") or "") if isinstance(data, dict) else ""
    said = details or str(error.get("message") or error.get("title") or "")
    reason = quoting(f"error {code} of the Cloud API" if code is not None else "an error of the Cloud API", said)
    if code in PARAMETER and error.get("error_subcode") == NO_SUCH_OBJECT:
        return receipt_for_meaning(CodeMeaning.ACCOUNT, reason)
    then = MessageForm.DOCUMENT if document else None
    meaning = None if code is None else CODES.get(code)
    if meaning is CodeMeaning.WINDOW:
        then = window
    elif _NOT_FETCHED.search(said):
        then = MessageForm.UPLOAD
    receipt = receipt_for_code(CODES, code, reason, then=then, retry_after_s=retry_after_s or WAITS_S.get(code or 0))
    if receipt is not None:
        return receipt
    if error.get("is_transient") is True:
        return NotSent(reason)
    if code not in PARAMETER and status >= 500:  # noqa: PLR2004 - the definition of a server's fault
        return Unknown(reason)
    # The request is wrong in something: the quote, or the video; a text that is refused has no other form.
    return Refused(reason, then=then, try_unquoted=quotes and "context" in said.lower())


def receipt_of_360dialog(reply: HttpReply) -> NotSent | None:
    """Return what 360dialog's own refusals come to, which have no code; None for what is none of them.

    Their words are at docs.360dialog.com, "Error Code Reference".
    """
    words = reply.body[:2000].decode("utf-8", "replace")
    if reply.is_success or reply.status >= 500 or not isinstance(reply.json(), dict):  # noqa: PLR2004 - the definition of a server's fault
        return None
    reason = quoting(f"HTTP {reply.status}", words)
    if re.search(r"rate limit", words, re.IGNORECASE):
        return NotSent(reason, channel_fault=False)
    if re.search(r"lack of payment|has been disabled|endpoint is blocked|invalid api[ _]?key", words, re.IGNORECASE):
        return NotSent(reason, channel_fault=False, account_fault=True)
    return None


def lost_media_id(error: Mapping[str, JsonValue]) -> bool:
    """Whether the Cloud API does not know the id of an uploaded file any more."""
    data = error.get("error_data")
    details = str(data.get("details") or "") if isinstance(data, dict) else ""
    return code_of(error) in PARAMETER and _MEDIA_ID_GONE.search(details) is not None
