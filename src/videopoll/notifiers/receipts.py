"""What a reply, or the lack of one, says about the fate of a message."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from videopoll._http import FailureKind, retry_after_s
from videopoll._http.answerer import refused_by_another, whose_words
from videopoll._reasons import own, quoting
from videopoll.messages import TOO_LATE, NotSent, Receipt, Refused, Unknown

if TYPE_CHECKING:
    from videopoll._http import HttpFailure, HttpReply

__all__ = ["message_id_in", "receipt_for_failure", "receipt_for_status"]


def receipt_for_status(reply: HttpReply) -> Receipt | None:
    """Return what an HTTP status says about the message; None for a 2xx, whose body decides.

    407 (of a proxy on the way), 425, 429 and 503 promise that nothing was sent. A
    408 and the other 5xx may come from a proxy in front of a server that took the
    message; a 303 may follow what was done. 401, 402, 404, 421 and 423 speak of the account, the address or the
    moment, and so does a 403 or 405 in the words of a firewall or a proxy: the
    message is tried again as it is. The other 4xx refuse it.
    """
    if reply.is_success:
        return None
    status = reply.status
    said = reply.json()
    reason = quoting(f"HTTP {status}", said) if isinstance(said, dict) else own(f"HTTP {status}")
    if status in {407, 425, 429, 503}:
        return NotSent(reason, retry_after_s=retry_after_s(reply.headers, time.time()))
    if status == 408 or status >= 500:  # noqa: PLR2004 - the definition of a server's fault
        return Unknown(reason)
    if status == 303:  # noqa: PLR2004 - by its definition what was asked for may be done, and its result elsewhere
        return Unknown(own("HTTP 303: the answer is elsewhere; check the channel's URL"))
    if status < 400:  # noqa: PLR2004 - the definition of a redirect
        return NotSent(own(f"HTTP {status}: it redirects elsewhere; check the channel's URL"))
    if status in _NOT_OF_THE_MESSAGE or (status in {403, 405} and refused_by_another(reply)):
        if reply.body.strip() and not isinstance(said, dict):
            reason = own(f"HTTP {status}: {whose_words(reply)}")
        return NotSent(reason, channel_fault=False, account_fault=True)
    # Who is not to get the video is not to get a text; another file or size may do.
    return Refused(reason, try_text=status not in {403, 405, 410})


_NOT_OF_THE_MESSAGE = frozenset({401, 402, 404, 421, 423})


def receipt_for_failure(failure: HttpFailure) -> Receipt:
    """Return what the lack of a reply says about the message."""
    if failure.kind is FailureKind.TOO_LATE:
        return TOO_LATE
    reason = own(f"{failure.kind.value}: {failure.detail}")
    if failure.kind is FailureKind.INVALID:
        return Refused(reason, try_text=False)
    return NotSent(reason) if failure.surely_not_sent else Unknown(reason)


def message_id_in(*candidates: object) -> str | None:
    """Return the first that can be a channel's id of a message, or None."""
    for candidate in candidates:
        if isinstance(candidate, str | int) and not isinstance(candidate, bool) and str(candidate).strip():
            return str(candidate)
    return None
