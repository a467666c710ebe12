"""Whom a message goes to, and over which account: what an address must be before a request is built with it."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

import attrs

from videopoll._reasons import own
from videopoll.errors import ConfigurationError, RefusedError
from videopoll.jobs.checks import check_texts

if TYPE_CHECKING:
    from videopoll.messages import Message, Recipient

__all__ = [
    "Account",
    "account_of",
    "check_account",
    "discord_place",
    "discord_thread",
    "recipient_of",
    "telegram_chat",
    "token_of",
    "twilio_number",
    "twilio_sender",
    "twilio_whatsapp",
    "whatsapp_address",
    "whatsapp_number",
    "whatsapp_users",
]


def recipient_of(message: Message) -> Recipient:
    """Return the message's recipient.

    Raises:
        RefusedError: It has none, as nothing has asked the host for it.
    """
    if message.recipient is None:
        msg = "the message has no recipient: put this channel into a RoutingNotifier, which asks the host for it"
        raise RefusedError(own(msg), try_text=False)
    return message.recipient


_INSTANCE = re.compile(r"[A-Za-z0-9_-]{1,100}")


@attrs.frozen
class Account:
    """The sending side of a messaging service, fit for a URL's path and a header."""

    instance_id: str
    token: str = attrs.field(repr=False)


def account_of(
    recipient: Recipient, instance_id: str | None, token: str | None, *, names: re.Pattern[str] = _INSTANCE
) -> Account:
    """Return the account that sends to a recipient; the channel's own fills the gaps.

    Args:
        recipient: Whom the message is for, who may name the account.
        instance_id: The channel's own instance.
        token: The channel's own token.
        names: What an instance may be called at this channel.

    Raises:
        RefusedError: There is none, or it is not safe to build a request with.
    """
    instance_id, token = recipient.instance_id or instance_id, recipient.token or token
    if not instance_id or not token:
        problem = "no instance id or no token: give both to the Recipient or to the notifier"
    elif not names.fullmatch(instance_id):
        problem = "the instance id has characters that no instance id of this channel has"
    else:
        return Account(instance_id, token_of(token))
    raise RefusedError(own(problem), try_text=False)


def token_of(token: str | None) -> str:
    """Return a token that is fit for a header.

    Raises:
        RefusedError: There is none, or it is not safe to build a request with.
    """
    if not token:
        problem = "no token: give one to the Recipient or to the notifier"
    elif not _is_plain(token):
        problem = "the token has characters that no token has"
    else:
        return token
    raise RefusedError(own(problem), try_text=False)


def check_account(owner: str, /, **names: str | None) -> None:
    """Refuse ids and tokens of a channel's own that no request could be built with.

    Args:
        owner: The channel's class.
        **names: What was handed in, by the names of the arguments; None where a recipient has its own.

    Raises:
        ConfigurationError: One is no text, or has spaces, line ends or other characters that none has.
    """
    check_texts(owner, **names)
    for name, text in names.items():
        if text is not None and not _is_plain(text):
            msg = f"{owner}.{name} has a space, a line end or another character that none has: was it cut out cleanly?"
            raise ConfigurationError(msg)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


# --- Telegram ---

_CHAT = re.compile(r"-?[1-9][0-9]{0,18}")
_PUBLIC_NAME = re.compile(r"@[A-Za-z][A-Za-z0-9_]{3,31}")


def telegram_chat(to: str) -> str:
    """Return a chat's id, or the ``@name`` of a channel or public group, as it is.

    Raises:
        RefusedError: It is neither. A phone number is none: a bot writes to chats alone.
    """
    to = to.strip(" ")
    if _CHAT.fullmatch(to) or _PUBLIC_NAME.fullmatch(to):
        return to
    msg = (
        "the recipient's address is no chat id of Telegram: give message.chat.id of an update (digits, '-' before those"
        " of groups), or the @name of a channel"
    )
    raise RefusedError(own(msg), try_text=False)


# --- WhatsApp ---

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
    return _digits(to, "nor a group's chat id")


def whatsapp_number(to: str) -> str:
    """Return the digits of a phone number, for a channel that takes nothing else.

    The number may be written as for `whatsapp_address`. Groups, and the ids with
    which Meta names users and groups (``US.1349…``), are refused: their digits are
    somebody else's number.

    Args:
        to: What the host gave.

    Raises:
        RefusedError: It is no phone number for certain.
    """
    return _digits(to.strip(" "), "(this channel takes no groups and no user ids)")


def whatsapp_users(address: str) -> frozenset[str]:
    """Return the chat ids under which WhatsApp may know an address, as `whatsapp_address` gave it.

    Mobile numbers of Argentina and Mexico are known with a 9 or a 1 after the country code, or
    without; those of Brazil with a 9 after the area code, or without. It is the same person.
    """
    if "@" in address:
        return frozenset({address})
    at, digit = {"54": (2, "9"), "52": (2, "1"), "55": (4, "9")}.get(address[:2], (0, ""))
    numbers = {address}
    if digit and len(address) == LONG_MOBILE and address[at] == digit:
        numbers.add(address[:at] + address[at + 1 :])
    elif digit and len(address) == LONG_MOBILE - 1:
        numbers.add(address[:at] + digit + address[at:])
    return frozenset(f"{number}@s.whatsapp.net" for number in numbers)


LONG_MOBILE = 13
"""Digits of a mobile number of these three countries, with the digit that is left out in places."""


_PLAIN = re.compile(rf"\+?([1-9][0-9]{{{MIN_DIGITS - 1},{MAX_DIGITS - 1}}})")
"""Almost every number: nothing in it has to be looked at any closer."""


def _digits(to: str, besides: str) -> str:
    if (plain := _PLAIN.fullmatch(to)) is not None:
        return plain[1]
    number = "".join(_ascii(character) for character in _USER.sub("", to))
    digits = "".join(character for character in number if "0" <= character <= "9")
    problem = _problem(number, digits, besides)
    if problem is None:
        return digits
    # No example with digits: it would be taken out of the receipt as somebody's number.
    msg = f"the recipient's address {problem}"
    raise RefusedError(own(msg), try_text=False)


def _ascii(character: str) -> str:
    return str(unicodedata.decimal(character)) if character.isdecimal() else character


def _problem(number: str, digits: str, besides: str) -> str | None:
    if "," in number:
        # UltraMsg would send to every number in the list.
        return "has a comma: one message goes to one person or one group"
    if _DEVICE.fullmatch(number):
        return "names one device of a user (':' and a number): give the user's number alone"
    if _HIDDEN.fullmatch(number):
        return "is a hidden id (@lid), which this channel does not take: give the phone number"
    if not _NUMBER.fullmatch(number) or _OTHER.fullmatch(number):
        neither = "neither" if besides.startswith("nor") else "not"
        return (
            f"is {neither} an international phone number (digits; '+', spaces, '-', '.' and parentheses around them)"
            f" {besides}"
        )
    if digits.startswith("0") or _TRUNK_ZERO.search(number):
        return "has a 0 that is only dialled in some places: give the country code, without 0 or 00, and the number"
    if not MIN_DIGITS <= len(digits) <= MAX_DIGITS:
        return f"has {len(digits)} digit{'' if len(digits) == 1 else 's'}: an international phone number has {MIN_DIGITS} to {MAX_DIGITS}"
    return None


# --- Twilio ---

WHATSAPP = "whatsapp:"
_SERVICE = re.compile(r"MG[0-9a-fA-F]{32}")
_SHORT_CODE = re.compile(r"[0-9]{3,6}")
_NAME = re.compile(r"(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9 +&_-]{1,11}")


def twilio_whatsapp(to: str) -> str:
    """Return ``whatsapp:+`` and the digits of a phone number, which may have ``whatsapp:`` before it already.

    Raises:
        RefusedError: It is no phone number for certain.
    """
    return f"{WHATSAPP}+{whatsapp_number(to.strip(' ').removeprefix(WHATSAPP))}"


def twilio_number(to: str) -> str:
    """Return ``+`` and the digits of a phone number, for an SMS.

    Raises:
        RefusedError: It is no phone number for certain, or is marked as one of WhatsApp.
    """
    if "@" in to or to.strip(" ").startswith(WHATSAPP):
        msg = "the recipient's address is one of WhatsApp, and this channel sends SMS: give the phone number alone"
        raise RefusedError(own(msg), try_text=False)
    return f"+{whatsapp_number(to)}"


def twilio_sender(sender: str, *, whatsapp: bool) -> dict[str, str]:
    """Return the field that names the sender: a Messaging Service, a number, or for an SMS a short code or a name.

    Raises:
        RefusedError: It is none of them.
    """
    if _SERVICE.fullmatch(sender):
        return {"MessagingServiceSid": sender}
    if not whatsapp and (_SHORT_CODE.fullmatch(sender) or _NAME.fullmatch(sender)):
        return {"From": sender}
    try:
        return {"From": twilio_whatsapp(sender) if whatsapp else twilio_number(sender)}
    except RefusedError:
        kinds = "a phone number" if whatsapp else "a phone number, a short code, a name of up to 11 letters and digits"
        msg = f"the sender is neither {kinds} nor a Messaging Service (MG and 32 hex digits)"
        raise RefusedError(own(msg), try_text=False) from None


# --- Discord ---

_PLACE = re.compile(r"(channel|user|thread):([0-9]{15,20})")


def discord_place(to: str) -> tuple[str, str]:
    """Return ``"channel"`` or ``"user"``, and the id: what a bot posts into.

    An id alone does not tell which of them it is. A thread is a channel.

    Raises:
        RefusedError: It is neither.
    """
    found = _PLACE.fullmatch(to.strip(" "))
    if found is None:
        msg = "the recipient's address is neither channel: nor user: with an id of Discord, which has 15 to 20 digits"
        raise RefusedError(own(msg), try_text=False)
    return ("user" if found[1] == "user" else "channel"), found[2]


def discord_thread(to: str, webhook_id: str) -> str | None:
    """Return the id of the thread that a webhook posts into; None for its own channel.

    Raises:
        RefusedError: It is neither: a webhook posts nowhere else.
    """
    found = _PLACE.fullmatch(to.strip(" "))
    if found is not None and found[1] == "thread":
        return found[2]
    if to.strip(" ") == f"webhook:{webhook_id}":
        return None
    msg = "the recipient's address is neither webhook: with the webhook's own id, nor thread: with the id of a thread in its channel"
    raise RefusedError(own(msg), try_text=False)
