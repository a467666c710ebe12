"""What the channels of WhatsApp have in common: whom an address names, and what a refusal is about."""

from __future__ import annotations

import re
import time
import unicodedata
from typing import TYPE_CHECKING

from videopoll._http import NOT_JSON, retry_after_s
from videopoll._http.answerer import whose_words
from videopoll._reasons import Reason, own
from videopoll.errors import RefusedError
from videopoll.jobs.outcome import MessageForm
from videopoll.messages import NotSent, Receipt, Refused, Unknown
from videopoll.notifiers.base import receipt_for_status

if TYPE_CHECKING:
    from videopoll._http import HttpReply
    from videopoll.jobs.codec import JsonValue
    from videopoll.messages import Message

__all__ = ["read_refusal", "read_status", "whatsapp_address", "words_of"]

# --- addresses ---

MIN_DIGITS = 5
MAX_DIGITS = 15
"""E.164: no international number has more."""

_GROUP = re.compile(r"[A-Za-z0-9._-]{1,100}@g\.us")
_HIDDEN = re.compile(r"[0-9]{1,32}@lid")
_DEVICE = re.compile(r"[0-9]+:[0-9]+")
_USER = re.compile(r"@(?:c\.us|s\.whatsapp\.net)\Z")

_NUMBER = re.compile(r"[0-9+(). -]+")
# "(0)", "(0171)", "+44 0 7911…": what a person leaves out when dialling from abroad.
_TRUNK_ZERO = re.compile(r"\( *0[0-9]* *\)|^\+[0-9]{1,3}[ .-]0[ .-][0-9]{2}")
# The id of a chat at another messenger, and a number that a spreadsheet has turned into a fraction.
_OTHER = re.compile(r"-[0-9]+|[0-9]+\.0")


def whatsapp_address(to: str, *, hidden_ids: bool = False) -> str:
    """Return the digits of a phone number, or a chat id as it is.

    A number has its country code, and may have ``+``, spaces, ``-``, ``.`` and
    parentheses around its digits, and ``@c.us`` or ``@s.whatsapp.net`` behind
    them. Whatever else there is would have to be guessed at, and a wrong guess
    shows a video to a stranger: it is refused.

    Args:
        to: What the host gave.
        hidden_ids: Whether the channel takes ``…@lid``, the ids of users whose number is hidden.

    Raises:
        RefusedError: It names nobody for certain, or more than one person.
    """
    to = to.strip(" ")
    if _GROUP.fullmatch(to) or (hidden_ids and _HIDDEN.fullmatch(to)):
        return to
    number = "".join(_ascii(character) for character in _USER.sub("", to))
    digits = "".join(character for character in number if "0" <= character <= "9")
    problem = _problem(number, digits)
    if problem is None:
        return digits
    # No example with digits: it would be taken out of the receipt as somebody's number.
    msg = f"the recipient's address {problem}"
    raise RefusedError(own(msg), try_text=False)


def _ascii(character: str) -> str:
    return str(unicodedata.decimal(character)) if character.isdecimal() else character


def _problem(number: str, digits: str) -> str | None:
    if "," in number:
        # UltraMsg would send to every number in the list.
        return "has a comma: one message goes to one person or one group"
    if _DEVICE.fullmatch(number):
        return "names one device of a user (':' and a number): give the user's number alone"
    if _HIDDEN.fullmatch(number):
        return "is a hidden id (@lid), which this channel does not take: give the phone number"
    if not _NUMBER.fullmatch(number) or _OTHER.fullmatch(number):
        return (
            "is neither an international phone number (digits; '+', spaces, '-', '.' and parentheses around them)"
            " nor a group's chat id"
        )
    if digits.startswith("0") or _TRUNK_ZERO.search(number):
        return "has a 0 that is only dialled in some places: give the country code, without 0 or 00, and the number"
    if not MIN_DIGITS <= len(digits) <= MAX_DIGITS:
        return f"has {len(digits)} digits: an international phone number has {MIN_DIGITS} to {MAX_DIGITS}"
    return None


# --- refusals ---

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
