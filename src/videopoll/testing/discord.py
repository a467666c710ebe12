"""Discord on localhost: a bot's channels and direct messages, webhooks, uploads, nonces, and its codes."""

from __future__ import annotations

import hmac
import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import attrs
from typing_extensions import override

from videopoll.jobs.checks import check_texts
from videopoll.testing.messengers import FakeMessage, MessageKind, Messenger
from videopoll.testing.multipart import parts_of
from videopoll.testing.servers import ReceivedRequest, Reply

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from videopoll.jobs.codec import JsonValue

__all__ = ["FakeDiscord"]

_MAX_TEXT_CHARS = 2000
_MAX_NONCE_CHARS = 25
_MAX_FILE_BYTES = 10 * 1024 * 1024
_COMPONENTS_V2 = 1 << 15
_OPENS = re.compile(r"/api(?:/v[0-9]+)?/users/@me/channels")
_POSTS = re.compile(r"/api(?:/v[0-9]+)?/channels/([0-9]+)/messages")
_HOOKS = re.compile(r"/api(?:/v[0-9]+)?/webhooks/([0-9]+)/([^/]+)")


@attrs.define
class _Failure:
    code: int
    to: str | None
    kinds: frozenset[str]
    left: int | None
    status: int

    def matches(self, to: str, kind: str) -> bool:
        return self.left != 0 and self.to in {None, to} and (not self.kinds or kind in self.kinds)


class FakeDiscord(Messenger):
    """Discord over real HTTP, for a bot and for one webhook.

    ::

        with FakeDiscord(token="t") as messenger:
            messenger.fail(50007, to="user:300000000000000001")  # takes no direct messages
            messenger.fail(50035, kinds={"video"})  # a gallery that it does not take
            messenger.messages  # to= is "channel:…", "user:…", "webhook" or "thread:…"

    A repeat with the nonce of a message is answered with that message, and posts none.

    Args:
        token: The bot's token; None takes any.
        webhook_token: The webhook's token; None takes any.
        port: The port on 127.0.0.1; None chooses a free one.
        latency_s: Seconds that every answer takes.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        webhook_token: str | None = None,
        port: int | None = None,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(port=port, latency_s=latency_s)
        check_texts("FakeDiscord", token=token, webhook_token=webhook_token)
        self._token = token
        self._webhook_token = webhook_token
        self._failures: list[_Failure] = []
        self._direct: dict[str, str] = {}
        self._nonces: dict[str, str] = {}

    def fail(
        self,
        code: int,
        *,
        to: str | None = None,
        kinds: Collection[MessageKind] = (),
        times: int | None = None,
        status: int = HTTPStatus.BAD_REQUEST,
    ) -> None:
        """Fail messages with one of Discord's codes.

        Args:
            code: The code, e.g. 50007.
            to: Only those to this place.
            kinds: Only messages of these kinds: ``"video"`` is a gallery, ``"document"`` an upload.
            times: How often; None for always.
            status: The HTTP status.
        """
        with self._lock:
            self._failures.insert(0, _Failure(code, to, frozenset(kinds), times, int(status)))

    @override
    def heal(self) -> None:
        """Forget all programmed trouble."""
        with self._lock:
            self._failures.clear()
        super().heal()

    @override
    def inbox(self, to: str) -> list[FakeMessage]:
        """What was posted to one place."""
        return [message for message in self.messages if message.to == to]

    @override
    def _handle(self, request: ReceivedRequest) -> Reply:
        if request.method != "POST":
            return _error(0, HTTPStatus.METHOD_NOT_ALLOWED, "405: Method Not Allowed")
        if hook := _HOOKS.fullmatch(request.path):
            if self._webhook_token is not None and not hmac.compare_digest(
                hook[2].encode(), self._webhook_token.encode()
            ):
                return _error(50027, HTTPStatus.UNAUTHORIZED, "Invalid Webhook Token")
            thread = request.query.get("thread_id")
            return self._post(request, "webhook" if thread is None else f"thread:{thread}", hook=True)
        given = request.headers.get("authorization", "").removeprefix("Bot ")
        if not given or (self._token is not None and not hmac.compare_digest(given.encode(), self._token.encode())):
            return _error(0, HTTPStatus.UNAUTHORIZED, "401: Unauthorized")
        if _OPENS.fullmatch(request.path):
            return self._open(str(request.body.get("recipient_id", "")))
        found = _POSTS.fullmatch(request.path)
        if found is None:
            return _error(0, HTTPStatus.NOT_FOUND, "404: Not Found")
        return self._post(request, self._direct.get(found[1], f"channel:{found[1]}"), hook=False)

    def _open(self, user: str) -> Reply:
        if not re.fullmatch(r"[0-9]{15,20}", user):
            return _error(50035, HTTPStatus.BAD_REQUEST, "Invalid Form Body")
        channel = str(900_000_000_000_000_000 + int(user) % 10**15)
        self._direct[channel] = f"user:{user}"
        return Reply.json({"id": channel, "type": 1, "recipients": [{"id": user}]})

    def _post(self, request: ReceivedRequest, to: str, *, hook: bool) -> Reply:
        parts = parts_of(request.headers.get("content-type", ""), request.raw)
        body, file = request.body, parts.get("files[0]")
        if "payload_json" in parts:
            body = cast("Mapping[str, JsonValue]", json.loads(parts["payload_json"].content))
        if hook and request.query.get("with_components") != "true":
            body = {name: value for name, value in body.items() if name != "components"}
        kind: MessageKind = "document" if file else "video" if body.get("components") else "text"
        words, video = _read(body)
        problem = _problem(body, words, hook=hook)
        if file is not None and len(file.content) > _MAX_FILE_BYTES:
            problem = 40005, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Request entity too large"
        if problem is not None:
            return _error(*problem)
        failure = next((one for one in self._failures if one.matches(to, kind)), None)
        if failure is not None:
            failure.left = None if failure.left is None else failure.left - 1
            return _error(failure.code, failure.status, f"error {failure.code} at {to}")
        nonce = str(body.get("nonce")) if body.get("enforce_nonce") is True and not hook else ""
        if nonce in self._nonces:
            return Reply.json({"id": self._nonces[nonce], "nonce": body.get("nonce")})
        quoted = body.get("message_reference")
        message = FakeMessage(
            id=str(1_200_000_000_000_000_000 + next(self._serial)),
            kind=kind,
            to=to,
            text=words,
            video=video,
            file=file.content if file else None,
            reference_id=str(body.get("nonce") or ""),
            reply_to=str(quoted.get("message_id")) if isinstance(quoted, dict) else "",
            instance_id="bot" if not hook else "webhook",
        )
        self._messages.append(message)
        if nonce:
            self._nonces[nonce] = message.id
        if hook and request.query.get("wait") != "true":
            return Reply(status=HTTPStatus.NO_CONTENT, body=b"")
        said: dict[str, JsonValue] = {"id": message.id, "content": words}
        return Reply.json(said if body.get("nonce") is None else said | {"nonce": body["nonce"]})


def _read(body: Mapping[str, JsonValue]) -> tuple[str, str | None]:
    """Return the words of a message, and the link of its video if it has a gallery."""
    words, video = str(body.get("content") or ""), None
    components = body.get("components")
    for one in components if isinstance(components, list) else ():
        if isinstance(one, dict) and one.get("type") == 10:  # noqa: PLR2004 - a text display
            words += str(one.get("content"))
        items = one.get("items") if isinstance(one, dict) else None
        for item in items if isinstance(items, list) else ():
            media = item.get("media") if isinstance(item, dict) else None
            video = str(media.get("url")) if isinstance(media, dict) else video
    return words, video


def _problem(body: Mapping[str, JsonValue], words: str, *, hook: bool) -> tuple[int, int, str] | None:
    flags, nonce, components = body.get("flags", 0), body.get("nonce"), body.get("components")
    v2 = isinstance(flags, int) and bool(flags & _COMPONENTS_V2)
    wrong = (
        (v2 and "content" in body)
        or (bool(components) and not v2)
        or len(words) > _MAX_TEXT_CHARS
        or (nonce is not None and len(str(nonce)) > _MAX_NONCE_CHARS)
        or (hook and "message_reference" in body)
    )
    if wrong:
        return 50035, HTTPStatus.BAD_REQUEST, "Invalid Form Body"
    return None if words or components else (50006, HTTPStatus.BAD_REQUEST, "Cannot send an empty message")


def _error(code: int, status: int, message: str) -> Reply:
    return Reply.json({"message": message, "code": code}, status=status)
