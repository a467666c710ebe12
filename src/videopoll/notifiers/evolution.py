"""WhatsApp through the host's own Evolution API: native videos, texts, and look-ups in its database.

What an answer means was read in Evolution's source, version 2.3.6. A reply of
400 may be about something that went wrong after the message was out: one
``try`` is around the send, its storing and the webhooks. A reply of 500 comes
from before it, out of fetching the file and asking for the number.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote, urlsplit

import attrs
from typing_extensions import override

from videopoll._http import HttpReply, HttpRequest
from videopoll._reasons import own, quoting
from videopoll.jobs.checks import check_flags, check_texts
from videopoll.jobs.codec import is_number
from videopoll.jobs.outcome import MessageForm
from videopoll.jobs.urls import check_url
from videopoll.messages import (
    Accepted,
    Delivered,
    Failed,
    Found,
    LookupAnswer,
    LookupResult,
    NotSent,
    Receipt,
    Refused,
    Unknown,
)
from videopoll.notifiers.addresses import account_of, check_account, recipient_of, whatsapp_address, whatsapp_users
from videopoll.notifiers.base import HttpNotifier
from videopoll.notifiers.evolution_receipts import EvolutionWebhooks
from videopoll.notifiers.receipts import message_id_in, receipt_for_status
from videopoll.notifiers.refusals import of_the_moment, words_of
from videopoll.notifiers.video_check import WHATSAPP_LIMITS, VideoCheck, VideoLimits
from videopoll.policies import LONGEST_SEND_S
from videopoll.texts import cut

if TYPE_CHECKING:
    import httpx

    from videopoll.jobs.codec import JsonValue
    from videopoll.messages import Message

__all__ = ["EvolutionNotifier"]

CAPTION_LIMIT = 1024
TEXT_LIMIT = 4096
PAGE_SIZE = 250
"""How far back a look-up sees: about 400 kB of an answer, which may have 1 MB."""
LOOK_UP_TIMEOUT_S = 15.0

INSTANCE_NAME = re.compile(r"(?!\.{1,2}\Z)[^/\\\x00-\x1f\x7f]{1,100}")
"""Names are the host's choice, with spaces and dots; they are encoded in the URL. A slash would end in another one."""

# It gives the file the type of its name's ending, whatever else it is told.
_TYPES = {".mp4": "video/mp4", ".3gp": "video/3gpp", ".mov": "video/quicktime", ".webm": "video/webm"}


class EvolutionNotifier(EvolutionWebhooks, HttpNotifier):
    """Sends over Evolution API: the video with a caption, or a text with the link.

    The recipient names the instance and its key; those of the notifier fill in where
    a recipient has none. A message whose fate is unknown is looked up among the last
    that the instance sent, if Evolution stores them (``DATABASE_SAVE_DATA_NEW_MESSAGE``).

    Args:
        base_url: Where the host's Evolution API is.
        instance_id: The name of the instance that sends by default.
        token: Its key, or the global one.
        receipts: Whether you hand its webhooks to `read_receipts`: then a message that it took
            is no more than accepted. Otherwise the delivery ends with its reply.
        client: A client of the host to send with. The host closes it.
        async_client: The same for asyncio.
        video_check: Look at a video's file first, so that one over WhatsApp's limits goes
            as a link at once.

    Raises:
        ConfigurationError: The base URL cannot work.
    """

    forms: ClassVar[frozenset[MessageForm]] = frozenset({MessageForm.VIDEO, MessageForm.TEXT})
    video_limits: VideoLimits | None = WHATSAPP_LIMITS

    def __init__(
        self,
        *,
        base_url: str,
        instance_id: str | None = None,
        token: str | None = None,
        receipts: bool = False,
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        video_check: VideoCheck | None = None,
    ) -> None:
        super().__init__(client=client, async_client=async_client, video_check=video_check)
        check_account("EvolutionNotifier", token=token)
        check_texts("EvolutionNotifier", instance_id=instance_id)
        check_flags("EvolutionNotifier", receipts=receipts)
        self._base_url = check_url(base_url, "EvolutionNotifier.base_url").rstrip("/")
        self._instance_id = instance_id
        self._token = token
        self._receipts = receipts

    @override
    def secrets(self) -> tuple[str | None, ...]:
        """Return the notifier's own key."""
        return (self._token,)

    @override
    def build(self, message: Message) -> HttpRequest:
        """Write ``POST /message/sendMedia/{instance}``, or ``…/sendText/…``."""
        fields: dict[str, JsonValue] = {"number": whatsapp_address(recipient_of(message).to, hidden_ids=True)}
        if message.reply_to:
            fields["quoted"] = {"key": {"id": message.reply_to}}
        if message.form is MessageForm.VIDEO and message.video_url:
            path = urlsplit(message.video_url).path.lower()
            ending = next((one for one in _TYPES if path.endswith(one)), ".mp4")
            fields |= {
                "mediatype": "video",
                "mimetype": _TYPES[ending],
                "fileName": f"video{ending}",
                "media": message.video_url,
                "caption": _words(message),
            }
            return self._post(message, "message/sendMedia", fields, LONGEST_SEND_S)
        return self._post(message, "message/sendText", fields | {"text": _words(message)}, LONGEST_SEND_S / 2)

    @override
    def read(self, reply: HttpReply, message: Message) -> Receipt:
        """Read the reply: 201 has the id of the message, and errors have Evolution's own words."""
        answer = reply.json()
        answer = answer if isinstance(answer, dict) else {}
        key = answer.get("key")
        message_id = message_id_in(key.get("id")) if isinstance(key, dict) else None
        if reply.is_success:
            if message_id is None:
                return Unknown(own("the reply has no message id"))
            return (
                Accepted(message_id, form=message.form) if self._receipts else Delivered(message_id, form=message.form)
            )
        response = answer.get("response")
        said = response.get("message") if isinstance(response, dict) else None
        if answer.get("status") != reply.status or said is None:
            # A proxy in front of it, whose 500 proves nothing; nor does its 400 refuse a message.
            receipt = receipt_for_status(reply)
            return NotSent(receipt.reason) if isinstance(receipt, Refused) else receipt or Unknown(own("no reply"))
        reason = quoting(f"HTTP {reply.status}", said)
        match reply.status:
            case 400 if _says_no_whatsapp(said):
                return Refused(quoting("the number has no WhatsApp", said), try_text=False)
            case 400 if _says_before_the_send(said):
                return Refused(reason)
            case 400:
                return Unknown(reason)
            case 500:
                # A line that is not there does not make a text of a video; a file that it cannot fetch does.
                return NotSent(reason, channel_fault=not of_the_moment(words_of(said)))
            case 403:
                return NotSent(reason, channel_fault=False, account_fault=True)
            case _:
                return receipt_for_status(reply) or Unknown(reason)

    @override
    def build_look_up(self, message: Message) -> HttpRequest:
        """Write ``POST /chat/findMessages/{instance}`` for the last messages of this form that the instance sent."""
        kind = "videoMessage" if message.form is MessageForm.VIDEO else "conversation"
        # Not by the chat: it stores a number's own spelling, with or without the digit that some countries add.
        where: dict[str, JsonValue] = {"messageType": kind, "key": {"fromMe": True}}
        fields: dict[str, JsonValue] = {"where": where, "page": 1, "offset": PAGE_SIZE}
        return self._post(message, "chat/findMessages", fields, LOOK_UP_TIMEOUT_S)

    @override
    def read_look_up(self, reply: HttpReply, message: Message) -> LookupAnswer:
        """Look for a message of these words, to this address, since the video was finished."""
        answer = reply.json()
        listed = answer.get("messages") if reply.is_success and isinstance(answer, dict) else None
        records = listed.get("records") if isinstance(listed, dict) else None
        if not isinstance(listed, dict) or not isinstance(records, list):
            return LookupResult.NO_ANSWER
        since_s, words = message.outcome.at_ms / 1000 - 60, _words(message)
        users = whatsapp_users(whatsapp_address(recipient_of(message).to, hidden_ids=True))
        read = [one for one in map(_Record.read, records) if one is not None]
        ours = [one for one in read if one.at_s >= since_s and one.words == words]
        theirs = [one for one in ours if one.chat in users]
        for one in theirs:
            if not one.failed:
                return Found(one.message_id, message.form, accepted=self._receipts)
        if theirs:
            return Failed(own("WhatsApp has answered Evolution with an error"))
        if any(one.chat.endswith("@lid") for one in ours):
            # Perhaps to them, by the id that hides their number.
            return LookupResult.CANNOT_TELL
        # A list without anything may be one of an Evolution that stores nothing.
        complete = listed.get("pages") == 1 or any(one.at_s < since_s for one in read)
        return LookupResult.ABSENT if read and complete else LookupResult.CANNOT_TELL

    def _post(self, message: Message, call: str, fields: dict[str, JsonValue], timeout_s: float) -> HttpRequest:
        account = account_of(recipient_of(message), self._instance_id, self._token, names=INSTANCE_NAME)
        return HttpRequest(
            method="POST",
            url=f"{self._base_url}/{call}/{quote(account.instance_id, safe='')}",
            headers={"apikey": account.token},
            json=fields,
            timeout_s=timeout_s,
        )


@attrs.frozen
class _Record:
    """What is read of a stored message."""

    message_id: str | None
    chat: str
    words: str
    at_s: float
    failed: bool

    @classmethod
    def read(cls, record: JsonValue) -> _Record | None:
        """Read one; None for what says nothing."""
        fields = record if isinstance(record, dict) else {}
        key, content, at_s = fields.get("key"), fields.get("message"), fields.get("messageTimestamp")
        if not isinstance(key, dict) or not isinstance(content, dict) or not is_number(at_s):
            return None
        video = content.get("videoMessage")
        words = video.get("caption") if isinstance(video, dict) else content.get("conversation")
        updates = fields.get("MessageUpdate")
        said = (
            {str(one.get("status")) for one in updates if isinstance(one, dict)} if isinstance(updates, list) else set()
        )
        failed = "ERROR" in said and said.isdisjoint(_TAKEN)
        return cls(message_id_in(key.get("id")), str(key.get("remoteJid")), str(words), float(at_s), failed)


_TAKEN = frozenset({"SERVER_ACK", "DELIVERY_ACK", "READ", "PLAYED"})


def _words(message: Message) -> str:
    if message.form is MessageForm.VIDEO:
        return cut(message.caption, CAPTION_LIMIT)
    return cut(message.text, TEXT_LIMIT, keep=message.video_url or "")


def _says_no_whatsapp(said: JsonValue) -> bool:
    return isinstance(said, list) and any(isinstance(one, dict) and one.get("exists") is False for one in said)


def _says_before_the_send(said: JsonValue) -> bool:
    """Whether it is about the request itself: a list of what its schema refuses, or a link that is none to it."""
    return isinstance(said, list) and any(isinstance(one, list) or one == _NO_LINK for one in said)


_NO_LINK = "Owned media must be a url or base64"
