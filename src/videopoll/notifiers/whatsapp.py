"""What the channels of WhatsApp have in common: whom an address names."""

from __future__ import annotations

import re
import unicodedata

from videopoll.errors import RefusedError

__all__ = ["whatsapp_address"]

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
    raise RefusedError(msg, try_text=False)


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
