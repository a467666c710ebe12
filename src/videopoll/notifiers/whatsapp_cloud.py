"""WhatsApp through Meta's Cloud API, or a provider with the same bodies such as 360dialog.

A 200 means that Meta has taken the message, and no more: what became of it comes
by webhook, see `videopoll.notifiers.whatsapp_receipts`.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, ClassVar

import attrs
from typing_extensions import override

from videopoll._http import HttpReply, HttpRequest, Part, retry_after_s
from videopoll._reasons import own
from videopoll.errors import ConfigurationError, RefusedError
from videopoll.jobs.checks import check_callable, check_flags, check_kinds, quoted
from videopoll.jobs.codec import is_number
from videopoll.jobs.outcome import MessageForm
from videopoll.jobs.urls import check_url
from videopoll.messages import Accepted, NotSent, Receipt, Unknown
from videopoll.notifiers.addresses import account_of, check_account, recipient_of, whatsapp_number
from videopoll.notifiers.base import HttpNotifier
from videopoll.notifiers.exchange import Ask, Fetch, Keep, Post, StepFailedError
from videopoll.notifiers.receipts import message_id_in, receipt_for_status
from videopoll.notifiers.video_check import META_LIMITS, VideoCheck, VideoLimits
from videopoll.notifiers.whatsapp_codes import code_of, lost_media_id, receipt_for_error_of_meta, receipt_of_360dialog
from videopoll.notifiers.whatsapp_receipts import WhatsAppWebhooks
from videopoll.notifiers.whatsapp_template import NO_NOTICE_TEMPLATE, NO_TEMPLATE, WhatsAppTemplate
from videopoll.texts import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    import httpx

    from videopoll.jobs.codec import JsonValue
    from videopoll.messages import Message
    from videopoll.notifiers.addresses import Account
    from videopoll.notifiers.exchange import Exchange, Step

__all__ = ["WhatsAppCloudNotifier"]

TIMEOUT_S = 15.0
UPLOAD_TIMEOUT_S = 45.0
UPLOAD_LIVES_S = 29 * 86_400.0
VIDEO_LIMIT_BYTES = 16 * 1024 * 1024
DOCUMENT_LIMIT_BYTES = 100 * 1024 * 1024
CAPTION_LIMIT = 1024
TEXT_LIMIT = 4096
FILENAME = "video.mp4"


class WhatsAppCloudNotifier(WhatsAppWebhooks, HttpNotifier):
    """Sends over WhatsApp's Cloud API: the video by its link or as an upload, a document, a template, or a text.

    The recipient names the phone number id (as ``instance_id``) and its token; those of the
    notifier fill in where a recipient has none. `Recipient.to` is a phone number.

    A video goes by its link, which Meta fetches. If it says that it could not, the file is
    uploaded; if it does not take the file as a video, the link goes as a text. Once the
    user has not written for 24 hours, the template goes.

    Args:
        token: The access token; of a system user, as others end after a day.
        number_id: The id of the phone number that sends by default. It is not the number.
        template: What goes to users who have not written for 24 hours; None gives their
            videos up, with that reason.
        notice_template: What tells such users that there is no video; it has no header. None gives
            their notices up, with that reason.
        upload: Upload each video, also that of a template, which Meta recommends, instead of letting
            Meta fetch it.
        document: Send a file that is no video for WhatsApp as a document, before the link goes as
            a text. Meta lists no videos among the documents that it supports.
        base_url: Where the API is.
        path: What comes before ``/messages`` and ``/media``.
        key_header: The header with the token; in ``Authorization`` it follows ``Bearer``.
        client: A client of the host to send with. The host closes it.
        async_client: The same for asyncio.
        video_check: Look at a video's file first: what WhatsApp would not play goes as a link at once,
            or as a document, with `document`.
        trusted_hosts: Hosts from which a video may be downloaded, to be uploaded, whatever their address
            is, and also by http; from all others only by https, and from public addresses.
        clock: Gives the Unix time in seconds: an upload is used for 29 of the 30 days that Meta keeps it.

    Raises:
        ConfigurationError: The base URL, the path, the header or `trusted_hosts` cannot work.
    """

    forms: ClassVar[frozenset[MessageForm]] = frozenset(MessageForm)

    gap_s: ClassVar[float] = 6.0
    """Meta's limit for a pair of numbers; beyond it, it answers 131056."""

    video_limits: VideoLimits | None = META_LIMITS

    def __init__(
        self,
        *,
        token: str | None = None,
        number_id: str | None = None,
        template: WhatsAppTemplate | None = None,
        notice_template: WhatsAppTemplate | None = None,
        upload: bool = False,
        document: bool = False,
        base_url: str = "https://graph.facebook.com",
        path: str = "/v25.0/{number_id}",
        key_header: str = "Authorization",
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        video_check: VideoCheck | None = None,
        trusted_hosts: Iterable[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(client=client, async_client=async_client, video_check=video_check, trusted_hosts=trusted_hosts)
        name = type(self).__name__
        check_account(name, token=token, number_id=number_id)
        check_kinds(name, WhatsAppTemplate, template=template, notice_template=notice_template)
        check_flags(name, upload=upload, document=document)
        check_callable(clock, f"{name}.clock", "nothing")
        if not isinstance(path, str) or not re.fullmatch(r"(/[A-Za-z0-9._-]+|/\{number_id\})*", path):
            shown = quoted(path, text=True)
            msg = f"WhatsAppCloudNotifier.path looks like '/v25.0/{{number_id}}', or is empty, got {shown}"
            raise ConfigurationError(msg)
        if not isinstance(key_header, str) or not re.fullmatch(r"[A-Za-z0-9-]+", key_header):
            shown = quoted(key_header, text=True)
            msg = f"WhatsAppCloudNotifier.key_header is the name of a header such as 'D360-API-KEY', got {shown}"
            raise ConfigurationError(msg)
        self._base_url = check_url(base_url, "WhatsAppCloudNotifier.base_url").rstrip("/")
        self._path = path
        self._key_header = key_header
        self._token = token
        self._number_id = number_id if "{number_id}" in path else "none"
        self._template, self._notice_template = template, notice_template
        self._upload = upload
        self._document = document
        if document and self.video_limits is not None:
            sizes = {**self.video_limits.max_bytes, MessageForm.DOCUMENT: DOCUMENT_LIMIT_BYTES}
            self.video_limits = attrs.evolve(self.video_limits, max_bytes=sizes)
        self._clock = clock

    @override
    def secrets(self) -> tuple[str | None, ...]:
        """Return the notifier's own token."""
        return (self._token,)

    @override
    def exchange(self, message: Message) -> Exchange:
        """Upload the file if it is to go as an upload and is not there yet, then send the message."""
        if self._upload and message.form is MessageForm.VIDEO:
            message = attrs.evolve(message, form=MessageForm.UPLOAD)
        whatsapp_number(recipient_of(message).to)  # before a file is fetched for nobody
        try:
            message = yield from self._uploaded(message)
        except StepFailedError:
            if message.form is MessageForm.UPLOAD:
                raise
            # It has a link besides, and a text would not get through where the template does.
        reply = yield from Post(self.build(message))
        if message.prepared and _lost(reply):
            # Meta has lost the file, and so has sent nothing.
            yield from Keep({})
            message = yield from self._uploaded(attrs.evolve(message, prepared={}))
            reply = yield from Post(self.build(message))
        return self.read(reply, message)

    def _uploaded(self, message: Message) -> Generator[Step, object, Message]:
        """Return the message with the file that it needs at Meta, and fetch and upload that if it is not there."""
        account = self._account(message)
        as_file = self._upload and message.form in {MessageForm.TEMPLATE, MessageForm.DOCUMENT} and message.video_url
        if not (message.form is MessageForm.UPLOAD or as_file) or self._media_id(account, message.prepared):
            return message
        video = yield from Fetch(message.video_url or "", max_bytes=VIDEO_LIMIT_BYTES)
        parts = (
            Part(name="messaging_product", content="whatsapp"),
            Part(name="file", content=video.file, filename=FILENAME, media_type=video.media_type),
        )
        request = attrs.evolve(self._request(account, "media"), parts=parts, timeout_s=UPLOAD_TIMEOUT_S)
        reply = yield from Ask(request)
        answer = reply.json()
        media_id = message_id_in(answer.get("id")) if isinstance(answer, dict) else None
        refused = self._not_taken(reply, message)
        if refused is None and media_id is None:
            refused = NotSent(own(f"HTTP {reply.status} to the upload, without an id"))
        if refused is not None:
            raise StepFailedError(refused)
        kept: dict[str, JsonValue] = {"media": media_id, "number": account.instance_id, "at": round(self._clock())}
        yield from Keep(kept)
        return attrs.evolve(message, prepared=kept)

    def _media_id(self, account: Account, media: Mapping[str, JsonValue]) -> str | None:
        """Return the id of the uploaded file, if it is this number's and not too old."""
        media_id, at_s = media.get("media"), media.get("at")
        if media.get("number") != account.instance_id or not is_number(at_s) or self._clock() - at_s > UPLOAD_LIVES_S:
            return None
        return media_id if isinstance(media_id, str) else None

    @override
    def build(self, message: Message) -> HttpRequest:
        """Write ``POST …/messages`` in the message's form, with the uploaded file if there is one."""
        recipient = recipient_of(message)
        fields: dict[str, JsonValue] = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": whatsapp_number(recipient.to),
            # Comes back in every webhook about the message.
            "biz_opaque_callback_data": message.reference,
            **self._content(message),
        }
        if message.reply_to and message.form is not MessageForm.TEMPLATE:
            fields["context"] = {"message_id": message.reply_to}
        return attrs.evolve(self._request(self._account(message), "messages"), json=fields)

    @override
    def read(self, reply: HttpReply, message: Message) -> Receipt:
        """Read the reply: an error by its code, whatever the status; and a 2xx with an id as accepted."""
        refused = self._not_taken(reply, message)
        if refused is not None:
            return refused
        answer = reply.json()
        sent = answer.get("messages") if isinstance(answer, dict) else None
        first = sent[0] if isinstance(sent, list) and sent else None
        message_id = message_id_in(first.get("id")) if isinstance(first, dict) else None
        if message_id is None:
            return Unknown(own("the reply has no message id"))
        return Accepted(message_id, form=message.form)

    def _not_taken(self, reply: HttpReply, message: Message) -> Receipt | None:
        error = _error_of(reply)
        if error is None:
            return receipt_of_360dialog(reply) or receipt_for_status(reply)
        return receipt_for_error_of_meta(
            error,
            status=reply.status,
            window=MessageForm.TEMPLATE if self._template_for(message) else None,
            document=self._document and message.video_url is not None,
            quotes=message.reply_to is not None,
            retry_after_s=retry_after_s(reply.headers, self._clock()),
        )

    def _content(self, message: Message) -> dict[str, JsonValue]:
        caption = cut(message.caption, CAPTION_LIMIT)
        match message.form:
            case MessageForm.VIDEO | MessageForm.UPLOAD:
                return {"type": "video", "video": {**self._media(message), "caption": caption}}
            case MessageForm.DOCUMENT:
                document: JsonValue = {**self._media(message), "caption": caption, "filename": FILENAME}
                return {"type": "document", "document": document}
            case MessageForm.TEMPLATE:
                template = self._template_for(message)
                if template is None:
                    raise RefusedError(own(NO_TEMPLATE if message.video_url else NO_NOTICE_TEMPLATE), try_text=False)
                video = self._media(message) if message.video_url else None
                return {"type": "template", "template": template.to_fields(message, video)}
            case MessageForm.TEXT:
                body = cut(message.text, TEXT_LIMIT, keep=message.video_url or "")
                return {"type": "text", "text": {"body": body, "preview_url": message.video_url is not None}}

    def _template_for(self, message: Message) -> WhatsAppTemplate | None:
        return self._template if message.video_url else self._notice_template

    def _media(self, message: Message) -> dict[str, JsonValue]:
        by_link = message.form is MessageForm.VIDEO
        media_id = None if by_link else self._media_id(self._account(message), message.prepared)
        return {"link": message.video_url} if media_id is None else {"id": media_id}

    def _account(self, message: Message) -> Account:
        return account_of(recipient_of(message), self._number_id, self._token)

    def _request(self, account: Account, what: str) -> HttpRequest:
        bearer = "Bearer " if self._key_header.lower() == "authorization" else ""
        return HttpRequest(
            method="POST",
            url=f"{self._base_url}{self._path.replace('{number_id}', account.instance_id)}/{what}",
            headers={self._key_header: f"{bearer}{account.token}"},
            timeout_s=TIMEOUT_S,
        )


def _error_of(reply: HttpReply) -> dict[str, JsonValue] | None:
    answer = reply.json()
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, dict) and code_of(error) is not None else None


def _lost(reply: HttpReply) -> bool:
    error = _error_of(reply)
    return error is not None and lost_media_id(error)
