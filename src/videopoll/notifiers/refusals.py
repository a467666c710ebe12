"""What a messenger's refusal is about, in its own words: the message, the account or the moment."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from videopoll._http import NOT_JSON, retry_after_s
from videopoll._http.answerer import whose_words
from videopoll._reasons import Reason, own
from videopoll.jobs.outcome import MessageForm
from videopoll.messages import NotSent, Receipt, Refused, Unknown
from videopoll.notifiers.receipts import receipt_for_status

if TYPE_CHECKING:
    from videopoll._http import HttpReply
    from videopoll.jobs.codec import JsonValue
    from videopoll.messages import Message

__all__ = ["of_the_moment", "read_refusal", "read_status", "words_of"]
LOOKED_AT = 2_000
"""How much of a messenger's words is read, in characters."""

_COMING_UP = r"(?:loading|initiali[sz]ing|starting|connecting|syncing|restarting|booting)"

# A sentence is about what is found first, in this order: "try again later" is said of the moment, "check the number and
# try again" is not.
_OF_THE_MOMENT = re.compile(
    # Too much at once.
    r"throttl|rate[\s_-]{0,3}(?:limit|over|exceed)|over[\s_-]?limit|too[\s_](?:many|fast|quick|frequent|often)|slow[\s_]down"
    r"|flood|\b(?:420|425|429|503)\b|\blater\b|temporar|try again in\b|retry[\s_-]?(?:after|in\b)|busy|overload|maintenance"
    r"|queue (?:is )?full"
    # A line that is not there yet, or not at the moment.
    r"|not (?:yet |currently )?(?:ready|connected|initiali[sz]ed|loaded|started|online|authenticated|logged|synced)"
    rf"|disconnect|reconnect|offline|standby|^\W*{_COMING_UP}[\W\d]*$|\b(?:is|still|currently|instance|session)\W{{1,4}}{_COMING_UP}"
    r"|connection (?:is |was )?(?:closed|lost|failure)",
    re.IGNORECASE,
)
_OF_THE_ACCOUNT = re.compile(
    # Somebody has to put it right.
    r"token|api[\s_-]?key|unauthori[sz]ed|authentication|credential|\b401\b|payment|unpaid"
    r"|\b(?:instance|session|account|subscription|trial|plan)\b.{0,40}\b"
    r"(?:not|unknown|invalid|stop|expir|suspend|paus|disabled|ended|blocked|banned|limit)"
    r"|\b(?:no such|unknown|invalid|wrong) (?:instance|session|account)",
    re.IGNORECASE,
)
_FOR_GOOD = re.compile(
    r"invalid|not (?:a |an )?valid|wrong|incorrect|required|must\b|unsupported|not supported|not allowed|forbidden"
    r"|too (?:large|big|long|short)|\bmax|\b(?:size|length)\b|extension|format|codec|mime"
    r"|not (?:a |an |on |registered|found|exist)|n.t exist|no (?:whats ?app|such)|unknown (?:number|user|recipient)"
    r"|blocked|banned|opted.?out|unsubscrib|policy|duplicate|denied|corrupt|expired",
    re.IGNORECASE,
)
_PERHAPS_OF_THE_MOMENT = re.compile(
    r"again|retry|time[\s_]?d?[\s_-]?out|unavailable|limit|quota|exceeded|internal|server error|\b5\d\d\b",
    re.IGNORECASE,
)
_MAY_HAVE_GONE_OUT = re.compile(r"time[\s_]?d?[\s_-]?out|internal|server error|\b5\d\d\b", re.IGNORECASE)
"""What a gateway says of itself, as with a 5xx: it may have taken the message before."""

_OWN_REFUSALS = frozenset({400, 403, 404, 409, 410, 422})
"""Statuses with which a messenger may speak of the message, of the quote or of its line: its words tell."""

_TOO_LARGE = 413

_SAID_IN = ("error", "errors", "message", "reason", "detail", "description", "code", "errorCode", "statusCode")


def words_of(answer: JsonValue, *, depth: int = 3) -> str:
    """Return what an answer in JSON says of a refusal, whatever its shape."""
    said: list[str] = []
    if isinstance(answer, list) and depth:
        said = [words_of(one, depth=depth - 1) for one in answer[:10]]
    elif isinstance(answer, dict) and depth:
        said = [words_of(answer[name], depth=depth - 1) for name in _SAID_IN if answer.get(name)]
        if not said and depth < 3:  # noqa: PLR2004 - not the answer itself
            said = [str(answer)]
    elif answer is not None:
        said = [str(answer)]
    return " ".join(said)[:LOOKED_AT]


def of_the_moment(words: str) -> bool:
    """Return whether a messenger's words are about the moment, or about a line that is not there."""
    return _OF_THE_MOMENT.search(words[:LOOKED_AT]) is not None


def read_refusal(
    said: str, reply: HttpReply, message: Message, *, of_address: bool = False, lead: str = ""
) -> NotSent | Refused | Unknown:
    """Return what a refusal inside a 2xx comes to, in the words of the messenger.

    Where nothing was sent, what may pass is tried again, and so is a text that is
    refused in words that nobody knows. A video that is refused in such words goes
    as a text at once.

    Args:
        said: Its words; empty if it gives none.
        reply: The reply, for its ``Retry-After``.
        message: What it refuses.
        of_address: Whether it is known to refuse the recipient.
        lead: What stands before its words in the receipt: that it says it sent nothing.
    """
    words, wait_s = said[:LOOKED_AT], retry_after_s(reply.headers, time.time())
    whole = lead + (said or "no reason is given")
    if of_address:
        return Refused(Reason(whole, f"{lead}an error about the recipient's address"), try_text=False)
    of_moment, of_account = _OF_THE_MOMENT.search(words), _OF_THE_ACCOUNT.search(words)
    if of_moment or of_account:
        told = Reason(whole, f"{lead}an error of the line, or of the moment")
        return NotSent(told, wait_s, channel_fault=False, account_fault=not of_moment)
    final = _FOR_GOOD.search(words) is not None
    reason = Reason(whole, f"{lead}an error")
    if not final and not lead and _MAY_HAVE_GONE_OUT.search(words):
        return Unknown(reason)
    if not final and _PERHAPS_OF_THE_MOMENT.search(words):
        return NotSent(reason, wait_s)
    if message.reply_to:
        # It may be the quote: gone, or of another line.
        return Refused(reason, try_unquoted=True)
    return Refused(reason) if final or (said and message.form is MessageForm.VIDEO) else NotSent(reason, wait_s)


def read_status(reply: HttpReply, message: Message) -> Receipt | None:
    """Return what the status of a reply comes to, with the words of the messenger; None for a 2xx."""
    receipt, answer = receipt_for_status(reply), reply.json()
    if isinstance(receipt, Refused) and reply.status != _TOO_LARGE and reply.body.strip() and answer is NOT_JSON:
        # These messengers speak JSON: somebody else says it, of whatever.
        return NotSent(own(f"HTTP {reply.status}: {whose_words(reply)}"))
    if not isinstance(receipt, NotSent | Refused) or reply.status not in _OWN_REFUSALS or not isinstance(answer, dict):
        return receipt
    words, wait_s = words_of(answer), retry_after_s(reply.headers, time.time())
    of_moment, of_account = _OF_THE_MOMENT.search(words), _OF_THE_ACCOUNT.search(words)
    if of_moment or of_account:
        return NotSent(receipt.reason, wait_s, channel_fault=False, account_fault=not of_moment)
    if message.reply_to:
        return Refused(receipt.reason, try_text=getattr(receipt, "try_text", True), try_unquoted=True)
    return receipt
