"""The channels of a worker, from options and environment, and the host's function that finds recipients."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias, cast

from videopoll._reasons import own
from videopoll.cli.load import call_function, load_function
from videopoll.cli.options import ULTRAMSG_TOKEN, WHATSAPP_FACTORY_TOKEN, secret
from videopoll.cli.shipped import build_shipped
from videopoll.errors import ConfigurationError
from videopoll.messages import Message, NotSent, Recipient
from videopoll.notifiers import RoutingNotifier, UltraMsgNotifier, WhatsAppFactoryNotifier

__all__ = ["NoChannelNotifier", "build_channels", "build_notifier"]

if TYPE_CHECKING:
    from videopoll.protocols import AsyncNotifier, Notifier

log: logging.Logger = logging.getLogger(__name__)

Resolve: TypeAlias = Callable[[str], Recipient | Awaitable[Recipient]]
Channels: TypeAlias = "dict[str, Notifier | AsyncNotifier]"

NO_CHANNEL = (
    "no channel is configured, so no user gets anything: set --ultramsg-instance and VIDEOPOLL_ULTRAMSG_TOKEN,"
    " or --whatsapp-factory-url, --whatsapp-factory-instance and VIDEOPOLL_WHATSAPP_FACTORY_TOKEN, or --channel"
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
    hosts: Iterable[str] = (),
) -> Channels:
    """Build the channels that are fully configured, and those of ``--channel``: a name, or ``name=package.module:function``.

    With a resolver, the recipient may bring instance and token.

    Raises:
        ConfigurationError: A channel of the host's cannot be built.
    """
    channels: Channels = {}
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
    for each in hosts:
        name, equals, function = each.partition("=")
        if not equals and re.fullmatch(r"[a-z0-9_]+", name):
            channels[name] = build_shipped(name, resolving=resolving)
            continue
        if not name or not equals:
            msg = (
                f"--channel looks like name=package.module:function, or is a name such as whatsapp_cloud, got {each!r}"
            )
            raise ConfigurationError(msg)
        channels[name] = cast("Notifier | AsyncNotifier", call_function(f"--channel {name}", function))
    return channels


def build_notifier(channels: Channels, resolver: str | None) -> RoutingNotifier | NoChannelNotifier:
    """Return the notifier over these channels, or one that keeps every outcome if there is none."""
    if not channels:
        log.warning("%s%s", NO_CHANNEL[0].upper(), NO_CHANNEL[1:])
        return NoChannelNotifier()
    if resolver is None:
        return RoutingNotifier.from_metadata(channels)
    return RoutingNotifier(channels, resolve=cast("Resolve", load_function("--resolver", resolver)))
