"""WhatsApp through WhatsApp Factory: texts only, so a video goes as its link."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from videopoll._http import HttpReply, HttpRequest
from videopoll._reasons import own
from videopoll.jobs.outcome import MessageForm
from videopoll.jobs.urls import check_url
from videopoll.messages import Delivered, Receipt, Unknown
from videopoll.notifiers.addresses import account_of, check_account, recipient_of, whatsapp_address
from videopoll.notifiers.base import HttpNotifier
from videopoll.notifiers.receipts import message_id_in
from videopoll.notifiers.refusals import read_refusal, read_status, words_of
from videopoll.texts import cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

    from videopoll.jobs.codec import JsonValue
    from videopoll.messages import Message

__all__ = ["WhatsAppFactoryNotifier"]

TIMEOUT_S = 15.0
TEXT_LIMIT = 4096
"""WhatsApp's own limit of a text."""


def text_url(base_url: str, instance_id: str) -> str:
    """Return where an instance takes texts; both are checked already."""
    return f"{base_url}/v1/api/whatsapp/{instance_id}/send/text"


class WhatsAppFactoryNotifier(HttpNotifier):
    """Sends texts over WhatsApp Factory.

    The recipient names the instance and its token; those of the notifier fill
    in where a recipient has none.

    Args:
        base_url: Where the host's WhatsApp Factory is.
        instance_id: The instance that sends by default.
        token: Its key.
        client: A client of the host to send with. The host closes it.
        async_client: The same for asyncio.

    Raises:
        ConfigurationError: The base URL cannot work.
    """

    forms: ClassVar[frozenset[MessageForm]] = frozenset({MessageForm.TEXT})

    def __init__(
        self,
        *,
        base_url: str,
        instance_id: str | None = None,
        token: str | None = None,
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(client=client, async_client=async_client)
        check_account("WhatsAppFactoryNotifier", instance_id=instance_id, token=token)
        self._base_url = check_url(base_url, "WhatsAppFactoryNotifier.base_url").rstrip("/")
        self._instance_id = instance_id
        self._token = token

    @override
    def secrets(self) -> tuple[str | None, ...]:
        """Return the notifier's own token."""
        return (self._token,)

    @override
    def build(self, message: Message) -> HttpRequest:
        """Write ``POST /v1/api/whatsapp/{instance}/send/text``."""
        recipient = recipient_of(message)
        account = account_of(recipient, self._instance_id, self._token)
        fields: dict[str, JsonValue] = {
            "to": whatsapp_address(recipient.to),
            "text": cut(message.text, TEXT_LIMIT, keep=message.video_url or ""),
        }
        if message.reply_to:
            fields["quotedMessageId"] = message.reply_to
        return HttpRequest(
            method="POST",
            url=text_url(self._base_url, account.instance_id),
            headers={"x-api-key": account.token},
            json=fields,
            timeout_s=TIMEOUT_S,
        )

    @override
    def read(self, reply: HttpReply, message: Message) -> Receipt:
        """Read the reply: only one with a message id is a success."""
        fault = read_status(reply, message)
        if fault is not None:
            return fault
        answer = reply.json()
        if not isinstance(answer, dict):
            return Unknown(own(f"HTTP {reply.status}, whose body is not a JSON object"))
        message_id = message_id_in(answer.get("messageId"), answer.get("id"))
        if message_id:
            return Delivered(message_id)
        if _refuses(answer):
            return read_refusal(words_of(answer), reply, message)
        return Unknown(own("the reply has no message id"))


def _refuses(answer: Mapping[str, JsonValue]) -> bool:
    """Whether an answer without a message id says that nothing was sent."""
    words = (str(answer.get(name)).strip().lower() for name in ("status", "success", "sent"))
    return bool(answer.get("error") or answer.get("errors")) or not _NO.isdisjoint(words)


_NO = frozenset({"false", "error", "failed", "failure", "fail", "rejected"})
