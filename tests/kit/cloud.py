"""What tests of the Cloud API share: messages to send with it, and its receipts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from videopoll import Recipient
from videopoll.jobs import MessageForm
from videopoll.notifiers import WhatsAppCloudNotifier, WhatsAppTemplate
from videopoll.testing import build_message, build_outcome

if TYPE_CHECKING:
    from videopoll.messages import Message, MessageReceipt, Receipt
    from videopoll.testing import FakeWhatsAppCloud
    from videopoll.testing.whatsapp_cloud import CloudWebhook

TO = "5491155550000"
TOKEN = "EAAG-token-of-the-tests"
VIDEO = "https://files.example/video.mp4?signature=s3cr3t"
TEMPLATE = WhatsAppTemplate("video_ready", "es")
SECRET = "app-secret-of-the-tests"
TEMPLATES = {("video_ready", "es"): 0, ("noted", "es"): 1}
NOTICE_TEMPLATE = WhatsAppTemplate("no_video", "es", caption=True)
NOTICE_TEMPLATES = {("no_video", "es"): 1, ("no_video", "pt_BR"): 0}


def notifier_for(cloud: FakeWhatsAppCloud, **options: Any) -> WhatsAppCloudNotifier:
    """Build the channel over a fake."""
    options = {"token": TOKEN, "number_id": "1065", "template": TEMPLATE, "base_url": cloud.url, **options}
    return WhatsAppCloudNotifier(**options)


def message(
    form: MessageForm = MessageForm.VIDEO,
    *,
    to: str = TO,
    reply_to: str | None = None,
    url: str = VIDEO,
    kind: str = "completed",
    unquoted: bool = False,
    texts: Any = None,
) -> Message:
    """Build a message about the end of a job."""
    recipient = Recipient(channel="whatsapp_cloud", to=to, reply_to=reply_to)
    outcome = build_outcome(kind, video_url=url)
    made = build_message(outcome, form=form, recipient=recipient, language="es", texts=texts)
    return attrs.evolve(made, unquoted=unquoted)


def send(cloud: FakeWhatsAppCloud, what: Any, **options: Any) -> Receipt:
    """Send it over a fake."""
    notifier = notifier_for(cloud, **options)
    try:
        return notifier.notify(what)
    finally:
        notifier.close()


def read(webhook: CloudWebhook, secret: Any = SECRET, **options: Any) -> tuple[MessageReceipt, ...]:
    """Read a webhook of a fake."""
    return WhatsAppCloudNotifier.read_receipts(webhook.headers, webhook.body, secret, **options)
