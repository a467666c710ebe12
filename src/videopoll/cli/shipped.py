"""The channels that ``--channel NAME`` names, each built from environment variables alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

from videopoll.errors import ConfigurationError
from videopoll.notifiers import WhatsAppCloudNotifier, WhatsAppTemplate

if TYPE_CHECKING:
    from videopoll.notifiers import HttpNotifier

__all__ = ["SHIPPED", "ShippedChannel", "build_shipped"]


@attrs.frozen
class ShippedChannel:
    """A channel that the command line builds by its name.

    Args:
        build: Makes its notifier of the values of the variables; those that are not set are missing.
        needed: The variables without which nothing can be sent, unless the host's resolver gives
            accounts.
        others: Those that may be missing.
    """

    build: Callable[[Mapping[str, str]], HttpNotifier]
    needed: tuple[str, ...]
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


# --- WhatsApp Cloud API ---

_CLOUD = "VIDEOPOLL_WHATSAPP_CLOUD"
_360DIALOG = (".360dialog.io",)


def _whatsapp_cloud(values: Mapping[str, str]) -> HttpNotifier:
    template = values.get(f"{_CLOUD}_TEMPLATE")
    base_url = values.get(f"{_CLOUD}_BASE_URL", "https://graph.facebook.com")
    of_360dialog = (urlsplit(base_url).hostname or "").endswith(_360DIALOG)
    return WhatsAppCloudNotifier(
        token=values.get(f"{_CLOUD}_TOKEN"),
        number_id=values.get(f"{_CLOUD}_NUMBER_ID"),
        template=None if template is None else _template(template),
        base_url=base_url,
        path="" if of_360dialog else "/v25.0/{number_id}",
        key_header="D360-API-KEY" if of_360dialog else "Authorization",
    )


def _template(text: str) -> WhatsAppTemplate:
    name, _, rest = text.partition(":")
    language, _, caption = rest.partition(":")
    if not language or caption not in {"", "caption"}:
        msg = (
            f"{_CLOUD}_TEMPLATE looks like name:language, or name:language:caption where the body has a variable"
            f" for the caption, got {text!r}"
        )
        raise ConfigurationError(msg)
    return WhatsAppTemplate(name, language, caption=bool(caption))


SHIPPED: Mapping[str, ShippedChannel] = {
    "whatsapp_cloud": ShippedChannel(
        _whatsapp_cloud,
        needed=(f"{_CLOUD}_TOKEN", f"{_CLOUD}_NUMBER_ID"),
        # The secret is for the endpoint that takes receipts in, and no worker needs it.
        others=(f"{_CLOUD}_TEMPLATE", f"{_CLOUD}_BASE_URL"),
    ),
}
