"""Telegram's Bot API that delivers to a list, with the error texts of Telegram's own server."""

from __future__ import annotations

import hmac
import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, TypeAlias

from typing_extensions import override

from videopoll.jobs.checks import check_texts
from videopoll.testing.messengers import FakeMessage, Messenger
from videopoll.testing.multipart import parts_of
from videopoll.testing.servers import ReceivedRequest, Reply

if TYPE_CHECKING:
    from videopoll.jobs.codec import JsonValue

__all__ = ["FakeTelegram"]

_MAX_CAPTION_CHARS = 1024
_MAX_TEXT_CHARS = 4096
_MAX_UPLOAD_BYTES = 50_000_000

_Arrives: TypeAlias = Literal["video", "animation", "document"]


class FakeTelegram(Messenger):
    """The Bot API over real HTTP.

    ::

        with FakeTelegram(token="123:secret") as telegram:
            telegram.refuse_links()  # too large by URL, or not to be had: an upload is taken
            telegram.block("4242")  # this user has blocked the bot
            telegram.migrate("-17", "-1001234")  # this group has become a supergroup
            telegram.fail_next(FakeTelegram.too_many(retry_after_s=7))

    Args:
        token: The bot's token; None takes any.
        port: The port on 127.0.0.1; None chooses a free one.
        latency_s: Seconds that every answer takes.
    """

    def __init__(self, *, token: str | None = None, port: int | None = None, latency_s: float = 0.0) -> None:
        super().__init__(port=port, latency_s=latency_s)
        check_texts("FakeTelegram", token=token)
        self._token = token
        self._links_refused: str | None = None
        self._uploads_refused = False
        self._missing: set[str] = set()
        self._blocked: set[str] = set()
        self._moved: dict[str, str] = {}
        self._arrives: _Arrives = "video"

    @staticmethod
    def too_many(*, retry_after_s: int) -> Reply:
        """Return the answer to too many messages."""
        return _error(429, f"Too Many Requests: retry after {retry_after_s}", parameters={"retry_after": retry_after_s})

    def refuse_links(self, why: str = "failed to get HTTP URL content") -> None:
        """Take no video by its link, with these words of Telegram's."""
        with self._lock:
            self._links_refused = why

    def refuse_uploads(self) -> None:
        """Take no upload: 413."""
        with self._lock:
            self._uploads_refused = True

    def without_chat(self, chat: str) -> None:
        """Answer from now on that there is no such chat."""
        with self._lock:
            self._missing.add(chat)

    def block(self, chat: str) -> None:
        """Refuse a user's messages: the user has blocked the bot."""
        with self._lock:
            self._blocked.add(chat)

    def migrate(self, chat: str, to: str) -> None:
        """Turn a group into a supergroup with another id."""
        with self._lock:
            self._moved[chat] = to

    def show_videos_as(self, kind: _Arrives) -> None:
        """Take videos in this form from now on."""
        with self._lock:
            self._arrives = kind

    @override
    def inbox(self, to: str) -> list[FakeMessage]:
        """What one chat got."""
        return [message for message in self.messages if message.to == to]

    @override
    def _handle(self, request: ReceivedRequest) -> Reply:
        found = re.fullmatch(r"/bot([^/]+)/(\w+)", request.path)
        if found is None or not re.fullmatch(r"[0-9]+:.+", found[1]):
            return _error(404, "Not Found")
        if self._token is not None and not hmac.compare_digest(found[1].encode(), self._token.encode()):
            return _error(401, "Unauthorized")
        parts = parts_of(request.headers.get("content-type", ""), request.raw)
        fields: dict[str, JsonValue] = {name: part.text for name, part in parts.items() if part.filename is None}
        fields |= request.body
        if found[2] not in {"sendVideo", "sendMessage"}:
            return _error(404, "Not Found: method not found")
        chat = str(fields.get("chat_id", ""))
        refused = self._refused_chat(chat)
        if refused is not None:
            return refused
        file = parts["video"].content if "video" in parts and parts["video"].filename is not None else None
        if found[2] == "sendVideo":
            return self._video(chat, fields, file, found[1])
        text = str(fields.get("text", ""))
        if not text or len(text) > _MAX_TEXT_CHARS:
            return _error(400, "Bad Request: message is too long" if text else "Bad Request: message text is empty")
        return self._take(chat, fields, text, found[1])

    def _refused_chat(self, chat: str) -> Reply | None:
        if chat in self._moved:
            words = "Bad Request: group chat was upgraded to a supergroup chat"
            return _error(400, words, parameters={"migrate_to_chat_id": int(self._moved[chat])})
        if not chat or chat in self._missing:
            return _error(400, "Bad Request: chat not found")
        return _error(403, "Forbidden: bot was blocked by the user") if chat in self._blocked else None

    def _video(self, chat: str, fields: dict[str, JsonValue], file: bytes | None, token: str) -> Reply:
        caption, link = str(fields.get("caption", "")), str(fields.get("video", ""))
        if len(caption) > _MAX_CAPTION_CHARS:
            return _error(400, "Bad Request: message caption is too long")
        if file is None and not re.match(r"https?://", link):
            return _error(400, "Bad Request: wrong file identifier/HTTP URL specified")
        if file is None and self._links_refused is not None:
            return _error(400, f"Bad Request: {self._links_refused}")
        if file is not None and (self._uploads_refused or len(file) > _MAX_UPLOAD_BYTES):
            return _error(413, "Request Entity Too Large")
        return self._take(chat, fields, caption, token, link=link or None, file=file)

    def _take(
        self,
        chat: str,
        fields: dict[str, JsonValue],
        text: str,
        token: str,
        *,
        link: str | None = None,
        file: bytes | None = None,
    ) -> Reply:
        quoted = fields.get("reply_parameters")
        reply_to = json.loads(quoted) if isinstance(quoted, str) else quoted
        number, is_video = next(self._serial), link is not None or file is not None
        shown = self._arrives if is_video else "text"
        self._messages.append(
            FakeMessage(
                id=str(number),
                kind="text" if shown == "text" else "document" if shown == "document" else "video",
                to=chat,
                text=text,
                video=link if file is None else None,
                file=file,
                reply_to=str(reply_to.get("message_id", "")) if isinstance(reply_to, dict) else "",
                instance_id=token.partition(":")[0],
            )
        )
        result: dict[str, JsonValue] = {"message_id": number, "chat": {"id": _number(chat)}, "text": text}
        if is_video:
            result = {
                "message_id": number,
                "chat": {"id": _number(chat)},
                "caption": text,
                shown: {"file_id": f"f{number}"},
            }
            if shown == "animation":
                result["document"] = {"file_id": f"f{number}"}
        return Reply.json({"ok": True, "result": result})


def _error(code: int, description: str, *, parameters: dict[str, JsonValue] | None = None) -> Reply:
    body: dict[str, JsonValue] = {"ok": False, "error_code": code, "description": description}
    if parameters:
        body["parameters"] = parameters
    return Reply.json(body, status=HTTPStatus(code))


def _number(chat: str) -> int:
    """Return the id of a chat; a channel that was named has one, too."""
    return int(chat) if re.fullmatch(r"-?[0-9]{1,15}", chat) else -1_001_000_000_000
