"""Evolution API that delivers to a list, and fails as its source says it does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
import urllib.parse
from http import HTTPStatus
from typing import TYPE_CHECKING

from typing_extensions import override

from videopoll.jobs.checks import check_flags, check_texts
from videopoll.testing.messengers import FakeMessage, Messenger
from videopoll.testing.servers import ReceivedRequest, Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from videopoll.jobs.codec import JsonValue

__all__ = ["FakeEvolution"]

_ENDINGS = (".mp4", ".3gp", ".mov", ".webm")


class FakeEvolution(Messenger):
    """Evolution API over real HTTP: an instance, its database, and its way with errors.

    ::

        with FakeEvolution(token="key", instance_id="My shop 2.0") as messenger:
            messenger.without_whatsapp("5491155550000")
            messenger.break_after_sending()  # a 400, though the message is out
            messenger.online = False  # a 500 in its own words

    Args:
        token: The key that every call has to bring; None takes any.
        instance_id: The only instance there is; None takes any.
        stores: Whether it stores what it sends, so that it can be found.
        port: The port on 127.0.0.1; None chooses a free one.
        latency_s: Seconds that every answer takes.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        instance_id: str | None = None,
        stores: bool = True,
        port: int | None = None,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(port=port, latency_s=latency_s)
        check_texts("FakeEvolution", token=token, instance_id=instance_id)
        check_flags("FakeEvolution", stores=stores)
        self._token = token
        self._instance_id = instance_id
        self._stores = stores
        self._online = True
        self._files_come = True
        self._unknown: set[str] = set()
        self._breaks = 0
        self._stored: list[dict[str, JsonValue]] = []

    @property
    def online(self) -> bool:
        """Whether the instance is connected to WhatsApp."""
        return self._online

    @online.setter
    def online(self, value: bool) -> None:
        self._online = value

    def without_whatsapp(self, number: str) -> None:
        """Answer from now on that a number has no WhatsApp."""
        with self._lock:
            self._unknown.add(number)

    def fetch_no_files(self) -> None:
        """Fail at every file: its link does not open."""
        with self._lock:
            self._files_come = False

    def break_after_sending(self, times: int = 1) -> None:
        """Answer the next sends with a 400 after they took effect, as when its database does not take them."""
        with self._lock:
            self._breaks = times

    def fail_at_whatsapp(self, message_id: str) -> None:
        """Mark a message that was taken as refused by WhatsApp."""
        with self._lock:
            for one in self._stored:
                if one["key"]["id"] == message_id:  # type: ignore[call-overload,index]  # we wrote it
                    one["MessageUpdate"] = [{"status": "ERROR"}]

    def webhook(self, message_id: str, status: str, jwt_key: str) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body with which it tells what became of a message.

        Args:
            message_id: Which message.
            status: ``SERVER_ACK``, ``DELIVERY_ACK``, ``READ``, ``PLAYED``, ``ERROR`` or ``DELETED``.
            jwt_key: The key with which it signs its token.
        """
        now_s = int(time.time())
        head = _base64(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
        claims = {"iat": now_s, "exp": now_s + 600, "app": "evolution", "action": "webhook"}
        signed = f"{head}.{_base64(json.dumps(claims).encode())}"
        signature = _base64(hmac.new(jwt_key.encode(), signed.encode(), hashlib.sha256).digest())
        data: JsonValue = {
            "keyId": message_id,
            "remoteJid": "5491155550000@s.whatsapp.net",
            "fromMe": True,
            "status": status,
        }
        body = {"event": "messages.update", "instance": self._instance_id, "data": data, "apikey": self._token}
        return {"Authorization": f"Bearer {signed}.{signature}"}, json.dumps(body).encode()

    @override
    def _handle(self, request: ReceivedRequest) -> Reply:
        raw = request.target.partition("?")[0].strip("/").split("/")
        call, instance = "/".join(raw[:2]), urllib.parse.unquote("/".join(raw[2:]))
        if request.method != "POST" or call not in {"message/sendMedia", "message/sendText", "chat/findMessages"}:
            return _error(HTTPStatus.NOT_FOUND, "Not Found", [f"Cannot {request.method} {request.path}"])
        if self._instance_id is not None and instance != self._instance_id:
            return _error(HTTPStatus.NOT_FOUND, "Not Found", [f'The "{instance}" instance does not exist'])
        key = request.headers.get("apikey", "")
        if not key or (self._token is not None and not hmac.compare_digest(key.encode(), self._token.encode())):
            return _error(HTTPStatus.UNAUTHORIZED, "Unauthorized", "Unauthorized")
        if call == "chat/findMessages":
            return self._find(request.body)
        return self._send(request.body, instance, video=call == "message/sendMedia")

    def _send(self, body: Mapping[str, JsonValue], instance: str, *, video: bool) -> Reply:
        required = ("number", "mediatype") if video else ("number", "text")
        missing: list[JsonValue] = [
            f'requires property "{name}"' for name in required if not isinstance(body.get(name), str)
        ]
        if missing:
            return _bad_request([missing])
        media = str(body.get("media", ""))
        if video and not re.fullmatch(r"https?://[^/]*\.[^/]*(?:/.*)?", media):
            return _bad_request(["Owned media must be a url or base64"])
        if video and not self._files_come:
            return _server_error(["Error: Request failed with status code 403"])
        if not self._online:
            return _server_error("Connection Closed")
        number = str(body["number"])
        if number in self._unknown:
            return _bad_request([{"jid": f"{number}@s.whatsapp.net", "exists": False, "number": number}])
        words = str(body.get("caption", "")) if video else str(body["text"])
        quoted = body.get("quoted")
        key = quoted.get("key") if isinstance(quoted, dict) else None
        message = FakeMessage(
            id=f"3EB0{next(self._serial):016X}",
            kind="video" if video and str(body.get("fileName", "")).endswith(_ENDINGS) else "text",
            to=number,
            text=words,
            video=media if video else None,
            reply_to=str(key.get("id")) if isinstance(key, dict) else "",
            instance_id=instance,
        )
        self._messages.append(message)
        stored = self._record(message)
        if self._stores:
            self._stored.append(stored)
        if self._breaks > 0:
            self._breaks -= 1
            return _bad_request(["PrismaClientKnownRequestError: the connection to the database was lost"])
        return Reply.json({**stored, "status": "PENDING"}, status=HTTPStatus.CREATED)

    def _record(self, message: FakeMessage) -> dict[str, JsonValue]:
        chat = message.to if "@" in message.to else f"{_spelt(message.to)}@s.whatsapp.net"
        content: dict[str, JsonValue] = {"conversation": message.text}
        if message.kind == "video":
            content = {"videoMessage": {"caption": message.text, "mimetype": "video/mp4", "gifPlayback": False}}
        return {
            "key": {"id": message.id, "remoteJid": chat, "fromMe": True},
            "messageType": "conversation" if message.kind == "text" else "videoMessage",
            "message": content,
            "messageTimestamp": int(time.time()),
            "instanceId": message.instance_id,
            "source": "web",
        }

    def _find(self, query: Mapping[str, JsonValue]) -> Reply:
        where = query.get("where")
        where = where if isinstance(where, dict) else {}
        kind = where.get("messageType")
        size, page = (_whole(query.get(name), usual) for name, usual in (("offset", 50), ("page", 1)))
        found: list[JsonValue] = [
            {"MessageUpdate": [], **one} for one in reversed(self._stored) if kind is None or kind == one["messageType"]
        ]
        shown = found[(page - 1) * size : page * size]
        pages = -(-len(found) // size)
        return Reply.json({"messages": {"total": len(found), "pages": pages, "currentPage": page, "records": shown}})


def _whole(value: JsonValue, usual: int) -> int:
    return value if isinstance(value, int) and value > 0 else usual


def _spelt(number: str) -> str:
    """Spell a number as WhatsApp does: mobile numbers of Argentina with a 9."""
    return f"549{number[2:]}" if number.startswith("54") and not number.startswith("549") else number


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _error(status: HTTPStatus, word: str, said: JsonValue) -> Reply:
    return Reply.json({"status": int(status), "error": word, "response": {"message": said}}, status=status)


def _bad_request(said: JsonValue) -> Reply:
    return _error(HTTPStatus.BAD_REQUEST, "Bad Request", said)


def _server_error(said: JsonValue) -> Reply:
    return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal Server Error", said)
