"""Telegram through a bot: a video by its link, the file itself where Telegram does not take the link, or a text.

What errors mean was read in the source of Telegram's own Bot API server (10.0): it puts
everything into a description, and the status says little.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, ClassVar, TypeGuard

import attrs
from typing_extensions import override

from videopoll._http import HttpReply, HttpRequest, Part, retry_after_s
from videopoll._reasons import own, quoting
from videopoll.errors import ConfigurationError, RefusedError
from videopoll.jobs.checks import check_count
from videopoll.jobs.codec import JsonValue, dump, is_number
from videopoll.jobs.outcome import MessageForm
from videopoll.jobs.urls import check_url
from videopoll.messages import Delivered, Receipt, Refused, Unknown
from videopoll.notifiers.addresses import recipient_of, telegram_chat
from videopoll.notifiers.base import HttpNotifier
from videopoll.notifiers.codes import CodeMeaning, receipt_for_meaning
from videopoll.notifiers.exchange import Fetch, FetchedVideo, Keep, Post
from videopoll.notifiers.receipts import message_id_in, receipt_for_status
from videopoll.notifiers.video_check import VideoCheck, VideoLimits
from videopoll.policies import LONGEST_SEND_S
from videopoll.texts import cut

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import httpx

    from videopoll.messages import Message
    from videopoll.notifiers.exchange import Exchange

__all__ = ["TelegramNotifier"]

CAPTION_LIMIT = 1024
TEXT_LIMIT = 4096
TEXT_TIMEOUT_S = 15.0
UPLOAD_TIMEOUT_S = 60.0
MAX_LINK_BYTES = 20_000_000
MAX_UPLOAD_BYTES = 50_000_000
"""What Telegram's servers take as an upload; 20 MB by a link. A server of the host's own takes 2000 MB."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]+(:[A-Za-z0-9_-]+)?")

# By what a description contains; the first that fits. Those of one line stand in one function of Telegram's source.
_WORDS: tuple[tuple[re.Pattern[str], CodeMeaning], ...] = tuple(
    (re.compile(words, re.IGNORECASE), meaning)
    for words, meaning in (
        (r"repl(?:y|ied) .{0,20}not found|reply_message_id_invalid", CodeMeaning.QUOTE),
        (r"rights to send videos|video.{0,10}forbidden", CodeMeaning.VIDEO),
        (
            r"chat not found|user not found|peer_id_invalid|deactivated|rights? to send|write_forbidden",
            CodeMeaning.RECIPIENT,
        ),
        (r"blocked|kicked|not a member|can't initiate|can't send messages to", CodeMeaning.RECIPIENT),
    )
)
_NOT_BY_LINK = re.compile(
    r"failed to get http url content|wrong http url|wrong (?:remote )?file identifier|wrong type of the web page content"
    r"|can't upload file by url|webpage_|file is too big",
    re.IGNORECASE,
)


class TelegramNotifier(HttpNotifier):
    """Sends over a Telegram bot: the video with a caption, or a text with the link.

    Telegram fetches a video of up to 20 MB from its link. A larger one, or one whose link it
    does not take, is downloaded here and uploaded. The address is a chat's id, or the
    ``@name`` of a channel. A group that has become a supergroup gets the message there, and
    the receipt's detail says so. Telegram cannot be asked what became of a message.

    Args:
        token: The bot's token; a recipient's own comes before it.
        base_url: Where the Bot API is, e.g. a server of your own.
        max_upload_bytes: The largest video that is uploaded.
        trusted_hosts: Hosts that a video may be downloaded from whatever their address is; see `HttpNotifier`.
        client: A client of the host to send with. The host closes it.
        async_client: The same for asyncio.
        video_check: Look at a video's size first, so that one over 20 MB is uploaded at once.

    Raises:
        ConfigurationError: The token, the base URL, `max_upload_bytes` or `trusted_hosts` cannot work.
    """

    forms: ClassVar[frozenset[MessageForm]] = frozenset({MessageForm.VIDEO, MessageForm.UPLOAD, MessageForm.TEXT})

    gap_s: ClassVar[float] = 1.0
    """Telegram advises to send one message a second to a chat at most; beyond it, it answers 429."""

    video_limits: VideoLimits | None = VideoLimits(
        max_bytes={MessageForm.VIDEO: MAX_LINK_BYTES, MessageForm.UPLOAD: MAX_UPLOAD_BYTES}
    )
    """What does not play arrives as a file: that is Telegram's own choice."""

    def __init__(
        self,
        *,
        token: str | None = None,
        base_url: str = "https://api.telegram.org",
        max_upload_bytes: int = MAX_UPLOAD_BYTES,
        trusted_hosts: Iterable[str] = (),
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        video_check: VideoCheck | None = None,
    ) -> None:
        super().__init__(client=client, async_client=async_client, video_check=video_check, trusted_hosts=trusted_hosts)
        if token is not None and not (isinstance(token, str) and _TOKEN.fullmatch(token)):
            msg = "TelegramNotifier.token is no token of a bot: @BotFather gives one, digits, a colon and letters"
            raise ConfigurationError(msg)
        check_count("TelegramNotifier.max_upload_bytes", max_upload_bytes)
        self._token = token
        self._base_url = check_url(base_url, "TelegramNotifier.base_url").rstrip("/")
        self._max_upload_bytes = max_upload_bytes
        self.video_limits = VideoLimits(
            max_bytes={MessageForm.VIDEO: MAX_LINK_BYTES, MessageForm.UPLOAD: max_upload_bytes}
        )

    @override
    def secrets(self) -> tuple[str | None, ...]:
        """Return the bot's token."""
        return (self._token,)

    @override
    def exchange(self, message: Message) -> Exchange:
        """Download the video if it is to be uploaded, send the message, and once more to where its group has moved."""
        chat = telegram_chat(recipient_of(message).to)
        kept = message.prepared.get("moved") if message.prepared.get("chat") == chat else None
        moved = kept if _is_supergroup(kept) else None
        if message.reply_to and not re.fullmatch(r"[0-9]{1,15}", message.reply_to):
            return Refused(own("the id of the message to quote is no number"), try_unquoted=True)
        request = self._writer(message)
        video = None
        if message.form is MessageForm.UPLOAD:
            video = yield from Fetch(message.video_url or "", max_bytes=self._max_upload_bytes)
        reply = yield from Post(request(str(moved or chat), video))
        moved_now = _parameters(reply).get("migrate_to_chat_id")
        if not _is_supergroup(moved_now):
            return self.read(reply, message)
        yield from Keep({"chat": chat, "moved": moved_now})
        receipt = self.read((yield from Post(request(str(moved_now), video))), message)
        detail = own("the group has become a supergroup: store its new chat id, which Telegram has told your bot")
        return attrs.evolve(receipt, detail=detail) if isinstance(receipt, Delivered) else receipt

    def _writer(self, message: Message) -> _Writer:
        token = recipient_of(message).token or self._token
        if token is None or not _TOKEN.fullmatch(token):
            raise RefusedError(own("no token of a bot: give one to the Recipient or to the notifier"), try_text=False)
        fields: dict[str, JsonValue] = {}
        if message.reply_to:
            fields["reply_parameters"] = {"message_id": int(message.reply_to), "allow_sending_without_reply": True}
        if message.form is MessageForm.TEXT:
            fields["text"] = cut(message.text, TEXT_LIMIT, keep=message.video_url or "")
            return _Writer(f"{self._base_url}/bot{token}/sendMessage", fields, TEXT_TIMEOUT_S)
        fields |= {"caption": cut(message.caption, CAPTION_LIMIT), "supports_streaming": True}
        url = f"{self._base_url}/bot{token}/sendVideo"
        if message.form is MessageForm.UPLOAD:
            return _Writer(url, fields, UPLOAD_TIMEOUT_S)
        return _Writer(url, fields | {"video": message.video_url}, LONGEST_SEND_S)

    @override
    def read(self, reply: HttpReply, message: Message) -> Receipt:
        """Read the reply: ``ok`` and the message, or an error in words."""
        answer = reply.json()
        if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
            # A proxy's words, or those of the network in front of it: 413 is about the file.
            return receipt_for_status(reply) or Unknown(own(f"HTTP {reply.status}, in other words than Telegram's"))
        if answer["ok"]:
            result = answer.get("result")
            message_id = message_id_in(result.get("message_id")) if isinstance(result, dict) else None
            if not reply.is_success or message_id is None or not isinstance(result, dict):
                return receipt_for_status(reply) or Unknown(own("the reply has no message id"))
            # An animation, which an mp4 without sound becomes, is called a document, too.
            as_file = "document" in result and not {"video", "animation"} & result.keys()
            return Delivered(message_id, form=MessageForm.DOCUMENT if as_file else None)
        code = answer.get("error_code")
        return _refusal(code if isinstance(code, int) else reply.status, str(answer.get("description")), reply, message)


@attrs.frozen
class _Writer:
    """What is the same in all requests of a message."""

    url: str = attrs.field(repr=False)
    fields: Mapping[str, JsonValue] = attrs.field(repr=False)
    timeout_s: float

    def __call__(self, chat: str, video: FetchedVideo | None) -> HttpRequest:
        fields: dict[str, JsonValue] = {"chat_id": chat, **self.fields}
        if video is None:
            return HttpRequest(method="POST", url=self.url, json=fields, timeout_s=self.timeout_s)
        parts = [Part(name=name, content=_field(value)) for name, value in fields.items()]
        parts.append(Part(name="video", content=video.file, filename="video.mp4", media_type=video.media_type))
        return HttpRequest(method="POST", url=self.url, parts=parts, timeout_s=self.timeout_s)


def _field(value: JsonValue) -> str:
    if isinstance(value, dict):
        return dump(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_supergroup(value: object) -> TypeGuard[int]:
    """Whether it can be the id of a supergroup. A person's is positive: whatever was kept or told leads to none."""
    return isinstance(value, int) and -(10**18) < value < 0


def _parameters(reply: HttpReply) -> Mapping[str, JsonValue]:
    answer = reply.json()
    # Only beside a refusal: then surely nothing was sent.
    parameters = answer.get("parameters") if isinstance(answer, dict) and answer.get("ok") is False else None
    return parameters if isinstance(parameters, dict) else {}


def _refusal(code: int, said: str, reply: HttpReply, message: Message) -> Receipt:
    reason = quoting(f"Telegram's error {code}", said)
    told_s = _parameters(reply).get("retry_after")
    wait_s = told_s if is_number(told_s) else retry_after_s(reply.headers, time.time())
    if code >= 500:  # noqa: PLR2004 - a server's fault; "restart" among them, which says nothing of this message
        return Unknown(reason)
    if code == 429:  # noqa: PLR2004 - as HTTP has it
        return receipt_for_meaning(CodeMeaning.RATE, reason, retry_after_s=wait_s)
    if code in {401, 404}:
        return receipt_for_meaning(CodeMeaning.CREDENTIALS, reason)
    if message.form is MessageForm.VIDEO and _NOT_BY_LINK.search(said):
        return receipt_for_meaning(CodeMeaning.VIDEO, reason, then=MessageForm.UPLOAD)
    meaning = next((meaning for words, meaning in _WORDS if words.search(said)), None)
    if meaning is None:
        return Refused(reason, try_text=code != 403)  # noqa: PLR2004 - it may not write to this chat
    return receipt_for_meaning(meaning, reason)
