"""The channels that ship with videopoll, and the base for channels of a host's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from videopoll._lazy import export

if TYPE_CHECKING:
    from videopoll._http import HttpReply, HttpRequest, Part
    from videopoll.notifiers.addresses import recipient_of, telegram_chat, whatsapp_address, whatsapp_number
    from videopoll.notifiers.apprise import AppriseNotifier
    from videopoll.notifiers.base import HttpNotifier
    from videopoll.notifiers.callback import CallbackNotifier
    from videopoll.notifiers.codes import CodeMeaning, receipt_for_code, receipt_for_meaning
    from videopoll.notifiers.discord import DiscordNotifier, DiscordWebhookNotifier
    from videopoll.notifiers.evolution import EvolutionNotifier
    from videopoll.notifiers.exchange import Ask, Exchange, Fetch, FetchedVideo, Keep, Post, StepFailedError
    from videopoll.notifiers.receipts import receipt_for_status
    from videopoll.notifiers.routing import RoutingNotifier
    from videopoll.notifiers.silent import SilentNotifier
    from videopoll.notifiers.tee import TeeNotifier
    from videopoll.notifiers.telegram import TelegramNotifier
    from videopoll.notifiers.twilio import TwilioNotifier, TwilioSmsNotifier, TwilioTemplate
    from videopoll.notifiers.ultramsg import UltraMsgNotifier
    from videopoll.notifiers.video_check import VideoCheck, VideoLimits
    from videopoll.notifiers.webhook import WebhookNotifier
    from videopoll.notifiers.whatsapp_cloud import WhatsAppCloudNotifier
    from videopoll.notifiers.whatsapp_factory import WhatsAppFactoryNotifier
    from videopoll.notifiers.whatsapp_template import WhatsAppTemplate
    from videopoll.observe.redact import redact
else:
    __getattr__, __dir__ = export(
        __name__,
        {
            "videopoll._http": "HttpReply HttpRequest Part",
            "videopoll.notifiers.addresses": "recipient_of telegram_chat whatsapp_address whatsapp_number",
            "videopoll.notifiers.apprise": "AppriseNotifier",
            "videopoll.notifiers.base": "HttpNotifier",
            "videopoll.notifiers.callback": "CallbackNotifier",
            "videopoll.notifiers.codes": "CodeMeaning receipt_for_code receipt_for_meaning",
            "videopoll.notifiers.discord": "DiscordNotifier DiscordWebhookNotifier",
            "videopoll.notifiers.evolution": "EvolutionNotifier",
            "videopoll.notifiers.exchange": "Ask Exchange Fetch FetchedVideo Keep Post StepFailedError",
            "videopoll.notifiers.receipts": "receipt_for_status",
            "videopoll.notifiers.routing": "RoutingNotifier",
            "videopoll.notifiers.silent": "SilentNotifier",
            "videopoll.notifiers.tee": "TeeNotifier",
            "videopoll.notifiers.telegram": "TelegramNotifier",
            "videopoll.notifiers.twilio": "TwilioNotifier TwilioSmsNotifier TwilioTemplate",
            "videopoll.notifiers.ultramsg": "UltraMsgNotifier",
            "videopoll.notifiers.video_check": "VideoCheck VideoLimits",
            "videopoll.notifiers.webhook": "WebhookNotifier",
            "videopoll.notifiers.whatsapp_cloud": "WhatsAppCloudNotifier",
            "videopoll.notifiers.whatsapp_factory": "WhatsAppFactoryNotifier",
            "videopoll.notifiers.whatsapp_template": "WhatsAppTemplate",
            "videopoll.observe.redact": "redact",
        },
    )

__all__ = [
    "AppriseNotifier",
    "Ask",
    "CallbackNotifier",
    "CodeMeaning",
    "DiscordNotifier",
    "DiscordWebhookNotifier",
    "EvolutionNotifier",
    "Exchange",
    "Fetch",
    "FetchedVideo",
    "HttpNotifier",
    "HttpReply",
    "HttpRequest",
    "Keep",
    "Part",
    "Post",
    "RoutingNotifier",
    "SilentNotifier",
    "StepFailedError",
    "TeeNotifier",
    "TelegramNotifier",
    "TwilioNotifier",
    "TwilioSmsNotifier",
    "TwilioTemplate",
    "UltraMsgNotifier",
    "VideoCheck",
    "VideoLimits",
    "WebhookNotifier",
    "WhatsAppCloudNotifier",
    "WhatsAppFactoryNotifier",
    "WhatsAppTemplate",
    "receipt_for_code",
    "receipt_for_meaning",
    "receipt_for_status",
    "recipient_of",
    "redact",
    "telegram_chat",
    "whatsapp_address",
    "whatsapp_number",
]
