"""Messengers that deliver to a list, and fail on demand; and what a fake of another channel is built on."""

from __future__ import annotations

import hmac
import itertools
import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs
from typing_extensions import override

from videopoll.jobs.checks import check_flags, check_seconds, check_texts
from videopoll.testing.servers import FakeServer, ReceivedRequest, Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from videopoll.jobs.codec import JsonValue

__all__ = ["FakeMessage", "FakeUltraMsg", "FakeWhatsAppFactory", "MessageKind"]

MessageKind: TypeAlias = Literal["video", "document", "template", "text"]
"""What kind of message a user got."""

_MAX_CAPTION_CHARS = 1024
_MAX_TEXT_CHARS = 4096
_VIDEO_URL = re.compile(r"https?://\S+", re.IGNORECASE)
_PAGE_LIMIT = 100


@attrs.frozen(kw_only=True)
class FakeMessage:
    """One message that a fake messenger took.

    Args:
        id: The messenger's id of it.
        kind: A video, a document, a template, or a text.
        to: Whose it is, as it was given.
        text: The caption of a video, or the words of a text.
        video: The video's URL; None for a text, and for a file that was uploaded.
        file: The file that was uploaded; None if there was none.
        reference_id: The sender's reference; empty if there was none.
        reply_to: The message that it answers; empty if there was none.
        priority: As it was given; None if it was not.
        instance_id: The line that it went over.
        at: When, by ``time.monotonic()``.
    """

    id: str
    kind: MessageKind
    to: str
    text: str
    video: str | None = None
    file: bytes | None = attrs.field(default=None, repr=False)
    reference_id: str = ""
    reply_to: str = ""
    priority: int | None = None
    instance_id: str
    at: float = attrs.field(factory=time.monotonic)


class Messenger(FakeServer):
    """What all messengers share: what they took."""

    def __init__(self, *, port: int | None, latency_s: float) -> None:
        super().__init__(port=port, latency_s=latency_s)
        self._messages: list[FakeMessage] = []
        self._forgotten: set[str] = set()
        self._serial = itertools.count(5225)

    @property
    def messages(self) -> list[FakeMessage]:
        """Every message that was taken, in order."""
        with self._lock:
            return list(self._messages)

    def forget(self, message_id: str) -> None:
        """Lose a message of a user: what quotes it is refused from now on."""
        with self._lock:
            self._forgotten.add(message_id)

    def inbox(self, to: str) -> list[FakeMessage]:
        """What one user got; numbers are compared by their digits."""
        wanted = _address(to)
        return [message for message in self.messages if _address(message.to) == wanted]


class FakeUltraMsg(Messenger):
    """UltraMsg over real HTTP, with its habit of saying 200 to everything.

    ::

        with FakeUltraMsg(token="secret") as messenger:
            messenger.refuse_videos(to="5491155550000")
            messenger.fail_next(Reply.dropped(accept=True))  # took it, and never said so
            messenger.fail_next(Reply.json({"sent": "false", "message": "throttled"}))  # no, for now

    It does not de-duplicate by ``referenceId``, and a comma in ``to`` sends to
    everybody in the list, as the real one does.

    Args:
        token: The token that every call has to bring; None takes any.
        instance_id: The only instance there is; None takes any.
        visible_after_s: Seconds until a message shows up in ``GET /messages``.
        bare_list: Answer ``GET /messages`` with a bare array instead of an object.
        port: The port on 127.0.0.1; None chooses a free one.
        latency_s: Seconds that every answer takes.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        instance_id: str | None = None,
        visible_after_s: float = 0.0,
        bare_list: bool = False,
        port: int | None = None,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(port=port, latency_s=latency_s)
        self._token = token
        self._instance_id = instance_id
        check_texts("FakeUltraMsg", token=token, instance_id=instance_id)
        check_seconds("FakeUltraMsg.visible_after_s", visible_after_s, low=0)
        check_flags("FakeUltraMsg", bare_list=bare_list)
        self._visible_after_s = visible_after_s
        self._bare_list = bare_list
        self._online = True
        self._refuse_all_videos = False
        self._refuse_videos_to: set[str] = set()
        self._resent: list[str] = []

    @property
    def online(self) -> bool:
        """Whether the line is connected to WhatsApp. Assign False to take it off: messages then wait in the queue."""
        return self._online

    @online.setter
    def online(self, value: bool) -> None:
        self._online = value

    @property
    def resent(self) -> list[str]:
        """The ids that ``resendById`` was called for."""
        with self._lock:
            return list(self._resent)

    def refuse_videos(self, to: str | None = None) -> None:
        """Refuse videos (HTTP 200 with an error): those to one number, or all."""
        with self._lock:
            if to is None:
                self._refuse_all_videos = True
            else:
                self._refuse_videos_to.add(_address(to))

    @override
    def _handle(self, request: ReceivedRequest) -> Reply:
        parts = request.path.strip("/").split("/")
        instance_id, call = parts[0], "/".join(parts[1:])
        if self._instance_id is not None and instance_id != self._instance_id:
            return Reply.json({"error": "instance not found"}, status=HTTPStatus.NOT_FOUND)
        token = request.query.get("token") or request.body.get("token")
        if not token:
            return _errors(token="is required")
        if self._token is not None and not hmac.compare_digest(str(token).encode(), self._token.encode()):
            return Reply.json({"error": "Wrong token. Please provide token as a GET parameter."})
        match request.method, call:
            case "POST", "messages/video":
                return self._video(instance_id, request.body)
            case "POST", "messages/chat":
                return self._chat(instance_id, request.body)
            case "POST", "messages/resendById":
                return self._resend(str(request.body.get("id", "")))
            case "GET", "messages":
                return self._list(instance_id, request.query)
            case "GET", "instance/status":
                word = "authenticated" if self._online else "disconnected"
                return Reply.json({"status": {"accountStatus": {"status": word, "substatus": "connected"}}})
            case _:
                return Reply.json({"error": "Path not found"}, status=HTTPStatus.NOT_FOUND)

    def _video(self, instance_id: str, body: Mapping[str, JsonValue]) -> Reply:
        to, video, caption = (_text(body, name) for name in ("to", "video", "caption"))
        if not to:
            return _errors(to="is required")
        if not _VIDEO_URL.fullmatch(video):
            return _errors(video="must be a valid http link")
        if len(caption) > _MAX_CAPTION_CHARS:
            return _errors(caption=f"max length : {_MAX_CAPTION_CHARS} char")
        if self._refuse_all_videos or _address(to) in self._refuse_videos_to:
            return Reply.json({"error": "video: file extension not supported"})
        return self._take("video", instance_id, body, text=caption, video=video)

    def _chat(self, instance_id: str, body: Mapping[str, JsonValue]) -> Reply:
        to, words = _text(body, "to"), _text(body, "body")
        if not to:
            return _errors(to="is required")
        if not words:
            return _errors(body="is required")
        if len(words) > _MAX_TEXT_CHARS:
            return _errors(body=f"max length : {_MAX_TEXT_CHARS} char")
        return self._take("text", instance_id, body, text=words, video=None)

    def _take(
        self, kind: MessageKind, instance_id: str, body: Mapping[str, JsonValue], *, text: str, video: str | None
    ) -> Reply:
        number = 0
        if _text(body, "msgId") in self._forgotten:
            return _errors(msgId="message not found")
        priority = _text(body, "priority")
        for to in _text(body, "to").split(","):
            number = next(self._serial)
            self._messages.append(
                FakeMessage(
                    id=str(number),
                    kind=kind,
                    to=to.strip(),
                    text=text,
                    video=video,
                    reference_id=_text(body, "referenceId"),
                    reply_to=_text(body, "msgId"),
                    priority=int(priority) if priority.isdigit() else None,
                    instance_id=instance_id,
                )
            )
        return Reply.json({"sent": "true", "message": "ok", "id": number})

    def _resend(self, message_id: str) -> Reply:
        if all(message.id != message_id for message in self._messages):
            return Reply.json({"error": "message not found"})
        self._resent.append(message_id)
        return Reply.json({"success": "done"})

    def _list(self, instance_id: str, query: Mapping[str, str]) -> Reply:
        reference, status = query.get("referenceId", ""), "sent" if self._online else "queue"
        now = time.monotonic()
        found: list[JsonValue] = [
            {
                "id": int(message.id),
                "referenceId": message.reference_id,
                "from": f"{instance_id}@c.us",
                "to": f"{_address(message.to)}@c.us",
                "body": message.text if message.video is None else message.video,
                "type": "chat" if message.kind == "text" else "video",
                "status": status,
                "ack": "server" if self._online else "pending",
                "created_at": int(time.time() - (now - message.at)),
                "sent_at": int(time.time()) if self._online else 0,
            }
            for message in reversed(self._messages)
            if message.instance_id == instance_id
            and now - message.at >= self._visible_after_s
            and reference in {"", message.reference_id}
            and query.get("status", "all") in {"all", status}
        ]
        page, limit = (
            max(1, int(value)) if (value := query.get(name, "")).isdigit() else default
            for name, default in (("page", 1), ("limit", _PAGE_LIMIT))
        )
        limit = min(limit, _PAGE_LIMIT)
        shown = found[(page - 1) * limit : page * limit]
        if self._bare_list:
            return Reply.json(shown)
        pages = -(-len(found) // limit)
        return Reply.json({"total": len(found), "pages": pages, "limit": limit, "page": page, "messages": shown})


class FakeWhatsAppFactory(Messenger):
    """WhatsApp Factory over real HTTP: texts only.

    Args:
        token: The key that every call has to bring; None takes any.
        instance_id: The only instance there is; None takes any.
        port: The port on 127.0.0.1; None chooses a free one.
        latency_s: Seconds that every answer takes.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        instance_id: str | None = None,
        port: int | None = None,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(port=port, latency_s=latency_s)
        check_texts("FakeWhatsAppFactory", token=token, instance_id=instance_id)
        self._token = token
        self._instance_id = instance_id

    @override
    def _handle(self, request: ReceivedRequest) -> Reply:
        found = re.fullmatch(r"/v1/api/whatsapp/([^/]+)/send/text", request.path)
        if request.method != "POST" or found is None or self._instance_id not in {None, found[1]}:
            return Reply.json({"error": "Not found"}, status=HTTPStatus.NOT_FOUND)
        key = request.headers.get("x-api-key", "")
        if self._token is not None and not hmac.compare_digest(key.encode(), self._token.encode()):
            return Reply.json({"error": "Invalid API key"}, status=HTTPStatus.UNAUTHORIZED)
        to, text = _text(request.body, "to"), _text(request.body, "text")
        if not to or not text:
            return Reply.json({"error": "to and text are required"}, status=HTTPStatus.BAD_REQUEST)
        if _text(request.body, "quotedMessageId") in self._forgotten:
            return Reply.json({"error": "Quoted message not found"}, status=HTTPStatus.NOT_FOUND)
        message_id = f"wamid.{next(self._serial)}"
        self._messages.append(
            FakeMessage(
                id=message_id,
                kind="text",
                to=to,
                text=text,
                reply_to=_text(request.body, "quotedMessageId"),
                instance_id=found[1],
            )
        )
        return Reply.json({"messageId": message_id, "status": "sent"})


def _text(body: Mapping[str, JsonValue], name: str) -> str:
    value = body.get(name)
    return "" if value is None else str(value)


def _address(to: str) -> str:
    """Return the chat id of a group or of a hidden user as it is, and the digits of anything else."""
    to = to.strip()
    return to if to.endswith(("@g.us", "@lid")) else re.sub(r"\D", "", to.partition("@")[0])


def _errors(**fields: str) -> Reply:
    """Refuse in UltraMsg's way: HTTP 200, and a list with what is wrong."""
    return Reply.json({"error": [{name: what} for name, what in fields.items()]})
