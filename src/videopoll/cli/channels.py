"""The channels of a worker, from options and environment, and the host's function that finds recipients."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

from videopoll._reasons import own
from videopoll.cli.options import (
    ULTRAMSG_TOKEN,
    WHATSAPP_FACTORY_TOKEN,
    secret,
)
from videopoll.errors import ConfigurationError
from videopoll.messages import Message, NotSent, Recipient
from videopoll.notifiers import RoutingNotifier, UltraMsgNotifier, WhatsAppFactoryNotifier

__all__ = ["NoChannelNotifier", "build_channels", "build_notifier", "load_resolver"]

log: logging.Logger = logging.getLogger(__name__)


NO_CHANNEL = (
    "no channel is configured, so no user gets anything: set --ultramsg-instance and VIDEOPOLL_ULTRAMSG_TOKEN,"
    " or --whatsapp-factory-url, --whatsapp-factory-instance and VIDEOPOLL_WHATSAPP_FACTORY_TOKEN"
)


class NoChannelNotifier:
    """The notifier without any channel: outcomes wait, and become dead letters that can be redriven."""

    def notify(self, message: Message) -> NotSent:
        """Send nothing."""
        del message
        return NotSent(own(NO_CHANNEL))

    async def anotify(self, message: Message) -> NotSent:
        """Send nothing."""
        return self.notify(message)


def build_channels(
    *,
    ultramsg_url: str,
    ultramsg_instance: str | None,
    whatsapp_factory_url: str | None,
    whatsapp_factory_instance: str | None,
    resolving: bool,
) -> dict[str, UltraMsgNotifier | WhatsAppFactoryNotifier]:
    """Build the channels that are fully configured. With a resolver, the recipient may bring instance and token."""
    channels: dict[str, UltraMsgNotifier | WhatsAppFactoryNotifier] = {}
    token = secret(ULTRAMSG_TOKEN)
    if resolving or (ultramsg_instance and token):
        channels["ultramsg"] = UltraMsgNotifier(base_url=ultramsg_url, instance_id=ultramsg_instance, token=token)
    elif ultramsg_instance or token:
        log.warning("UltraMsg is left out: it needs both --ultramsg-instance and %s", ULTRAMSG_TOKEN)
    token = secret(WHATSAPP_FACTORY_TOKEN)
    if whatsapp_factory_url and (resolving or (whatsapp_factory_instance and token)):
        channels["whatsapp_factory"] = WhatsAppFactoryNotifier(
            base_url=whatsapp_factory_url, instance_id=whatsapp_factory_instance, token=token
        )
    elif whatsapp_factory_url or whatsapp_factory_instance or token:
        log.warning(
            "WhatsApp Factory is left out: it needs --whatsapp-factory-url, --whatsapp-factory-instance and %s",
            WHATSAPP_FACTORY_TOKEN,
        )
    return channels


def build_notifier(
    channels: dict[str, UltraMsgNotifier | WhatsAppFactoryNotifier], resolver: str | None
) -> RoutingNotifier | NoChannelNotifier:
    """Return the notifier over these channels, or one that keeps every outcome if there is none."""
    if not channels:
        log.warning("%s%s", NO_CHANNEL[0].upper(), NO_CHANNEL[1:])
        return NoChannelNotifier()
    if resolver is None:
        return RoutingNotifier.from_metadata(channels)
    return RoutingNotifier(channels, resolve=load_resolver(resolver))


def load_resolver(name: str) -> Callable[[str], Recipient | Awaitable[Recipient]]:
    """Import the host's function, e.g. ``myshop.people:recipient_of``; also from the working directory.

    Raises:
        ConfigurationError: There is no such function.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        msg = f"--resolver looks like package.module:function, got {name!r}"
        raise ConfigurationError(msg)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except Exception as error:
        msg = f"--resolver: {module_name!r} cannot be imported ({type(error).__name__}: {error})"
        raise ConfigurationError(msg) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        msg = f"--resolver: {module_name!r} has no function {attribute!r}"
        raise ConfigurationError(msg)
    return cast("Callable[[str], Recipient | Awaitable[Recipient]]", found)
