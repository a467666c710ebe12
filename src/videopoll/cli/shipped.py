"""The channels that ``--channel NAME`` names, each built from environment variables alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

from videopoll.errors import ConfigurationError, RefusedError
from videopoll.jobs.job import VideoJob
from videopoll.jobs.outcome import MessageForm, Outcome, OutcomeKind
from videopoll.messages import Message, Recipient
from videopoll.notifiers import (
    DiscordNotifier,
    DiscordWebhookNotifier,
    EvolutionNotifier,
    TelegramNotifier,
    TwilioNotifier,
    TwilioSmsNotifier,
    TwilioTemplate,
    WhatsAppCloudNotifier,
    WhatsAppTemplate,
)

if TYPE_CHECKING:
    from videopoll.notifiers import HttpNotifier

__all__ = ["SHIPPED", "ShippedChannel", "build_shipped", "is_configured", "problem_of"]


@attrs.frozen
class ShippedChannel:
    """A channel that the command line builds by its name.

    Args:
        build: Makes its notifier of the values of the variables; those that are not set are missing.
        needed: The variables without which nothing can be sent, unless the host's resolver gives
            accounts.
        to: An address such as it takes, to write a message to that is never sent.
        others: Those that may be missing.
    """

    build: Callable[[Mapping[str, str]], HttpNotifier]
    needed: tuple[str, ...]
    to: str
    others: tuple[str, ...] = ()

    @property
    def variables(self) -> tuple[str, ...]:
        """All its variables."""
        return (*self.needed, *self.others)


def build_shipped(name: str, *, resolving: bool) -> HttpNotifier:
    """Return the notifier of a channel that ships with videopoll, as the environment configures it.

    Args:
        name: As it stands after ``--channel``.
        resolving: Whether a resolver of the host may bring the account of each message.

    Raises:
        ConfigurationError: There is no such channel, or a variable is missing or wrong.
    """
    shipped = SHIPPED.get(name)
    if shipped is None:
        names = ", ".join(SHIPPED)
        msg = f"--channel {name}: videopoll ships {names}; one of your own is name=package.module:function"
        raise ConfigurationError(msg)
    values = {variable: value for variable in shipped.variables if (value := os.environ.get(variable, "").strip())}
    missing = [variable for variable in shipped.needed if variable not in values]
    if missing and not resolving:
        msg = f"--channel {name} needs {' and '.join(missing)}: set it in the environment"
        raise ConfigurationError(msg)
    return shipped.build(values)


def problem_of(name: str, *, resolving: bool) -> str | None:
    """Return what is wrong with the form of a channel's variables; None if nothing is. Nothing is asked or sent.

    Args:
        name: As it stands after ``--channel``.
        resolving: Whether a resolver of the host may bring the account of each message.

    Raises:
        ConfigurationError: The channel cannot be built.
    """
    notifier, shipped = build_shipped(name, resolving=resolving), SHIPPED[name]
    if not is_configured(name):
        return None
    message = Message(
        job=VideoJob("videopoll-doctor", "-", 0),
        outcome=Outcome(OutcomeKind.FAILED, 0),
        form=MessageForm.TEXT,
        reference="-",
        recipient=Recipient(channel=name, to=shipped.to),
    )
    try:
        # What it would ask for first: credentials that cannot work are refused as it is written.
        next(notifier.exchange(message), None)
    except RefusedError as error:
        return error.reason
    return None


def is_configured(name: str) -> bool:
    """Whether all variables are set that a channel needs."""
    return all(os.environ.get(variable, "").strip() for variable in SHIPPED[name].needed)


# --- what several have ---

_TRUSTED_HOSTS = "VIDEOPOLL_TRUSTED_HOSTS"
"""For every channel that downloads what it uploads; spaces separate the hosts."""


def _trusted_hosts(values: Mapping[str, str]) -> list[str]:
    return values.get(_TRUSTED_HOSTS, "").split()


def _is_on(values: Mapping[str, str], variable: str) -> bool:
    text = values.get(variable, "false").lower()
    if text not in {"true", "false", "1", "0"}:
        msg = f"{variable} is true or false, got {text!r}"
        raise ConfigurationError(msg)
    return text in {"true", "1"}


# --- WhatsApp Cloud API ---

_CLOUD = "VIDEOPOLL_WHATSAPP_CLOUD"
_360DIALOG = (".360dialog.io",)


def _whatsapp_cloud(values: Mapping[str, str]) -> HttpNotifier:
    base_url = values.get(f"{_CLOUD}_BASE_URL", "https://graph.facebook.com")
    of_360dialog = (urlsplit(base_url).hostname or "").endswith(_360DIALOG)
    return WhatsAppCloudNotifier(
        token=values.get(f"{_CLOUD}_TOKEN"),
        number_id=values.get(f"{_CLOUD}_NUMBER_ID"),
        template=_template(values, f"{_CLOUD}_TEMPLATE"),
        notice_template=_template(values, f"{_CLOUD}_NOTICE_TEMPLATE"),
        upload=_is_on(values, f"{_CLOUD}_UPLOAD"),
        trusted_hosts=_trusted_hosts(values),
        base_url=base_url,
        path="" if of_360dialog else "/v25.0/{number_id}",
        key_header="D360-API-KEY" if of_360dialog else "Authorization",
    )


def _template(values: Mapping[str, str], variable: str) -> WhatsAppTemplate | None:
    text = values.get(variable)
    if text is None:
        return None
    name, _, rest = text.partition(":")
    language, _, caption = rest.partition(":")
    if not language or caption not in {"", "caption"}:
        msg = (
            f"{variable} looks like name:language, or name:language:caption where the body has a variable"
            f" for the caption, got {text!r}"
        )
        raise ConfigurationError(msg)
    return WhatsAppTemplate(name, language, caption=bool(caption))


# --- Twilio ---

_TWILIO = "VIDEOPOLL_TWILIO"


def _twilio(values: Mapping[str, str]) -> HttpNotifier:
    template, notice = values.get(f"{_TWILIO}_CONTENT_SID"), values.get(f"{_TWILIO}_NOTICE_CONTENT_SID")
    return TwilioNotifier(
        account_sid=values.get(f"{_TWILIO}_ACCOUNT_SID"),
        auth_token=values.get(f"{_TWILIO}_AUTH_TOKEN"),
        sender=values.get(f"{_TWILIO}_FROM"),
        template=None if template is None else TwilioTemplate(template),
        notice_template=None if notice is None else TwilioTemplate(notice),
        status_callback=values.get(f"{_TWILIO}_STATUS_CALLBACK"),
    )


def _twilio_sms(values: Mapping[str, str]) -> HttpNotifier:
    return TwilioSmsNotifier(
        account_sid=values.get(f"{_TWILIO}_ACCOUNT_SID"),
        auth_token=values.get(f"{_TWILIO}_AUTH_TOKEN"),
        sender=values.get(f"{_TWILIO}_SMS_FROM"),
        status_callback=values.get(f"{_TWILIO}_STATUS_CALLBACK"),
    )


# --- Evolution, Discord ---

_EVOLUTION = "VIDEOPOLL_EVOLUTION"
_DISCORD = "VIDEOPOLL_DISCORD"


def _evolution(values: Mapping[str, str]) -> HttpNotifier:
    return EvolutionNotifier(
        base_url=values.get(f"{_EVOLUTION}_URL", ""),
        instance_id=values.get(f"{_EVOLUTION}_INSTANCE"),
        token=values.get(f"{_EVOLUTION}_API_KEY"),
    )


def _discord(values: Mapping[str, str]) -> HttpNotifier:
    return DiscordNotifier(token=values.get(f"{_DISCORD}_TOKEN"), trusted_hosts=_trusted_hosts(values))


def _discord_webhook(values: Mapping[str, str]) -> HttpNotifier:
    url = values.get(f"{_DISCORD}_WEBHOOK_URL", "")
    return DiscordWebhookNotifier(url, trusted_hosts=_trusted_hosts(values))


# --- Telegram ---


def _telegram(values: Mapping[str, str]) -> HttpNotifier:
    return TelegramNotifier(
        token=values.get("VIDEOPOLL_TELEGRAM_TOKEN"),
        base_url=values.get("VIDEOPOLL_TELEGRAM_BASE_URL", "https://api.telegram.org"),
        trusted_hosts=_trusted_hosts(values),
    )


_SNOWFLAKE = "100000000000000000"
_NUMBER = "+14155550100"
"""Nobody's: numbers with 555-01 in the middle are kept free."""

SHIPPED: Mapping[str, ShippedChannel] = {
    "telegram": ShippedChannel(
        _telegram,
        needed=("VIDEOPOLL_TELEGRAM_TOKEN",),
        to="1",
        others=("VIDEOPOLL_TELEGRAM_BASE_URL", _TRUSTED_HOSTS),
    ),
    "whatsapp_cloud": ShippedChannel(
        _whatsapp_cloud,
        needed=(f"{_CLOUD}_TOKEN", f"{_CLOUD}_NUMBER_ID"),
        to=_NUMBER,
        # The secret is for the endpoint that takes receipts in, and no worker needs it.
        others=(
            f"{_CLOUD}_TEMPLATE",
            f"{_CLOUD}_NOTICE_TEMPLATE",
            f"{_CLOUD}_UPLOAD",
            _TRUSTED_HOSTS,
            f"{_CLOUD}_BASE_URL",
        ),
    ),
    "evolution": ShippedChannel(
        _evolution, needed=(f"{_EVOLUTION}_URL", f"{_EVOLUTION}_INSTANCE", f"{_EVOLUTION}_API_KEY"), to=_NUMBER
    ),
    "twilio": ShippedChannel(
        _twilio,
        needed=(f"{_TWILIO}_ACCOUNT_SID", f"{_TWILIO}_AUTH_TOKEN", f"{_TWILIO}_FROM"),
        to=_NUMBER,
        others=(f"{_TWILIO}_CONTENT_SID", f"{_TWILIO}_NOTICE_CONTENT_SID", f"{_TWILIO}_STATUS_CALLBACK"),
    ),
    "twilio_sms": ShippedChannel(
        _twilio_sms,
        needed=(f"{_TWILIO}_ACCOUNT_SID", f"{_TWILIO}_AUTH_TOKEN", f"{_TWILIO}_SMS_FROM"),
        to=_NUMBER,
        others=(f"{_TWILIO}_STATUS_CALLBACK",),
    ),
    "discord": ShippedChannel(
        _discord, needed=(f"{_DISCORD}_TOKEN",), to=f"channel:{_SNOWFLAKE}", others=(_TRUSTED_HOSTS,)
    ),
    "discord_webhook": ShippedChannel(
        _discord_webhook, needed=(f"{_DISCORD}_WEBHOOK_URL",), to=f"thread:{_SNOWFLAKE}", others=(_TRUSTED_HOSTS,)
    ),
}
