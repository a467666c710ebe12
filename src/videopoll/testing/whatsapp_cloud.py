"""WhatsApp's Cloud API on localhost: what it takes, what it refuses at once, and what it says later by webhook."""

from __future__ import annotations

import collections
import hashlib
import hmac
import json
import re
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs
import httpx
from typing_extensions import override

from videopoll.jobs.checks import check_flags, check_kinds, check_texts
from videopoll.testing.messengers import FakeMessage, MessageKind, Messenger
from videopoll.testing.multipart import parts_of
from videopoll.testing.servers import ReceivedRequest, Reply

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from videopoll.jobs.codec import JsonValue

__all__ = ["CloudWebhook", "FakeWhatsAppCloud"]

CloudStatus: TypeAlias = Literal["sent", "delivered", "read", "failed"]

_MAX_CAPTION_CHARS = 1024
_MAX_TEXT_CHARS = 4096
_MAX_TAG_CHARS = 512
_MAX_VIDEO_BYTES = 16 * 1024 * 1024
_VIDEO_TYPES = frozenset({"video/mp4", "video/3gpp"})
_LINK = re.compile(r"https?://\S+", re.IGNORECASE)
_POSTS = re.compile(r"(?:/v[0-9]{1,3}\.[0-9])?(?:/(?P<number>[0-9]+))?/(?P<what>messages|media)")
_FREE_FORM: frozenset[MessageKind] = frozenset({"video", "document", "text"})

_TITLES = {
    0: "AuthException",
    2: "API Service",
    4: "API Too Many Calls",
    33: "Parameter value is not valid",
    100: "Invalid parameter",
    190: "Access token has expired",
    368: "Temporarily blocked for policies violations",
    130429: "Rate limit hit",
    131000: "Something went wrong",
    131009: "Parameter value is not valid",
    131026: "Message undeliverable",
    131042: "Business eligibility payment issue",
    131047: "Re-engagement message",
    131053: "Media upload error",
    131056: "(Business Account, Consumer Account) pair rate limit hit",
    132000: "Template param count mismatch",
    132001: "Template name does not exist in the translation",
}


@attrs.frozen(kw_only=True)
class CloudWebhook:
    """One request that Meta makes to the endpoint of an app: something happened to a message.

    Args:
        headers: Its headers, the signature among them.
        body: Its body, byte for byte.
    """

    headers: Mapping[str, str]
    body: bytes


@attrs.define
class _Failure:
    """An error for the messages that match, as often as `left` says."""

    code: int
    to: str | None
    kinds: frozenset[str]
    late: bool
    left: int | None
    details: str
    status: int

    def matches(self, to: str, kind: str) -> bool:
        return self.left != 0 and self.to in {None, to} and (not self.kinds or kind in self.kinds)


class FakeWhatsAppCloud(Messenger):
    """WhatsApp's Cloud API over real HTTP: links, uploads, documents, templates, texts, and signed receipts.

    ::

        with FakeWhatsAppCloud(token="t", number_id="1065", templates={("video_ready", "es"): 0}) as messenger:
            messenger.fail(131026, to="5491155550000")  # no WhatsApp, said at once
            messenger.close_window(late=True)  # free messages fail, which only a receipt tells
            ...
            for webhook in messenger.webhooks():
                read_receipts(webhook.headers, webhook.body, messenger.app_secret)

    It takes the paths of Meta (``/v25.0/{number id}/messages``) and those of
    360dialog (``/messages``), and the keys of both.

    Args:
        token: The token that every call has to bring; None takes any.
        number_id: The only phone number id there is; None takes any.
        app_secret: What the receipts are signed with.
        templates: The approved templates with a video in the header: name and language, and how
            many parameters the body has.
        notice_templates: The same of templates without a header.
        webhook_url: Where receipts are posted by themselves, each until it is answered with
            a 2xx; None leaves them to `webhooks`. May be assigned later.
        doubled: Post each receipt twice.
        reverse: Say that a message was delivered before it says that it was sent.
        port: The port on 127.0.0.1; None chooses a free one.
        latency_s: Seconds that every answer takes. Receipts do not wait for it: with it, they
            come before the answer.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        number_id: str | None = None,
        app_secret: str = "app-secret-of-the-fake",  # noqa: S107 - made up
        templates: Mapping[tuple[str, str], int] | None = None,
        notice_templates: Mapping[tuple[str, str], int] | None = None,
        webhook_url: str | None = None,
        doubled: bool = False,
        reverse: bool = False,
        port: int | None = None,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(port=port, latency_s=latency_s)
        check_kinds("FakeWhatsAppCloud", Mapping, templates=templates, notice_templates=notice_templates)
        check_texts("FakeWhatsAppCloud", token=token, number_id=number_id, app_secret=app_secret or "")
        check_texts("FakeWhatsAppCloud", webhook_url=webhook_url)
        check_flags("FakeWhatsAppCloud", doubled=doubled, reverse=reverse)
        self.app_secret: str = app_secret
        self.webhook_url: str | None = webhook_url
        self._token = token
        self._number_id = number_id
        # How many parameters the header has, and how many the body.
        self._templates = {name: (1, count) for name, count in (templates or {}).items()}
        self._templates |= {name: (0, count) for name, count in (notice_templates or {}).items()}
        self.doubled: bool = doubled
        self.reverse: bool = reverse
        self._failures: list[_Failure] = []
        self._media: dict[str, tuple[bytes, str]] = {}
        self._made: list[CloudWebhook] = []
        self._outgoing: collections.deque[CloudWebhook] = collections.deque()
        self._wakes = threading.Event()
        self._ends = threading.Event()
        self._poster: threading.Thread | None = None

    @property
    def uploads(self) -> Mapping[str, bytes]:
        """The files that were uploaded, by their media ids."""
        with self._lock:
            return {name: content for name, (content, _) in self._media.items()}

    def fail(
        self,
        code: int,
        *,
        to: str | None = None,
        kinds: Collection[MessageKind | Literal["upload"]] = (),
        late: bool = False,
        times: int | None = None,
        details: str = "",
        status: int = HTTPStatus.BAD_REQUEST,
    ) -> None:
        """Fail messages with one of Meta's error codes.

        Args:
            code: The code, e.g. 131026.
            to: Only those to this number.
            kinds: Only messages of these kinds; ``"upload"`` is the upload of a file.
            late: Take the message, and tell by a receipt that it failed.
            times: How often; None for always.
            details: What stands in ``error_data.details``.
            status: The HTTP status, of which Meta promises nothing.
        """
        failure = _Failure(code, to, frozenset(kinds), late, times, details, int(status))
        with self._lock:
            self._failures.insert(0, failure)

    def close_window(self, to: str | None = None, *, late: bool = False) -> None:
        """Fail everything but templates with 131047, as the user has not written for 24 hours."""
        details = "Message failed to send because more than 24 hours have passed since the customer last replied"
        self.fail(131047, to=to, kinds=_FREE_FORM, late=late, details=details)

    @override
    def heal(self) -> None:
        """Forget all programmed trouble."""
        with self._lock:
            self._failures.clear()
        super().heal()

    def forget_media(self) -> None:
        """Lose all uploaded files, as after 30 days."""
        with self._lock:
            self._media.clear()

    def webhooks(self) -> list[CloudWebhook]:
        """Return the receipts that were made since the last call, in order."""
        with self._lock:
            made, self._made = self._made, []
        return made

    def webhook(
        self,
        message_id: str,
        status: CloudStatus,
        *,
        code: int | None = None,
        details: str = "",
        tag: str | None = None,
        to: str = "5491155550000",
        app_secret: str | None = None,
    ) -> CloudWebhook:
        """Make a receipt of your own, e.g. a forged one.

        Args:
            message_id: Which message it is about.
            status: What happened to it.
            code: Meta's error code of a failure.
            details: What stands in ``error_data.details``.
            tag: What the message had as ``biz_opaque_callback_data``.
            to: The number of the user.
            app_secret: What to sign with; None signs as Meta does.
        """
        said: dict[str, JsonValue] = {
            "id": message_id,
            "status": status,
            "timestamp": str(int(time.time())),
            "recipient_id": to,
        }
        if tag is not None:
            said["biz_opaque_callback_data"] = tag
        if code is not None:
            title = _TITLES.get(code, "Error")
            error: dict[str, JsonValue] = {"code": code, "title": title, "message": title}
            error["error_data"] = {"details": details}
            said["errors"] = [error]
        value: dict[str, JsonValue] = {
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "15550783881", "phone_number_id": self._number_id or "1065"},
            "statuses": [said],
        }
        entry: dict[str, JsonValue] = {"id": "1022", "changes": [{"value": value, "field": "messages"}]}
        body = json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()
        secret = self.app_secret if app_secret is None else app_secret
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={signature}"}
        return CloudWebhook(headers=headers, body=body)

    @override
    def start(self) -> None:
        """Start to listen, and to post receipts; does nothing if it listens already."""
        super().start()
        if self._poster is None:
            self._ends.clear()
            self._poster = threading.Thread(target=self._post, name="receipts of the Cloud API", daemon=True)
            self._poster.start()

    @override
    def stop(self) -> None:
        """Stop listening and posting. Receipts that were not posted yet wait for the next start."""
        poster, self._poster = self._poster, None
        if poster is not None:
            self._ends.set()
            self._wakes.set()
            poster.join()
        super().stop()

    def _post(self) -> None:
        with httpx.Client(timeout=10.0, trust_env=False) as client:
            while not self._ends.is_set():
                self._wakes.wait(0.2)  # or the URL was assigned
                self._wakes.clear()
                while self._outgoing and self.webhook_url is not None and not self._ends.is_set():
                    webhook = self._outgoing[0]
                    try:
                        taken = client.post(self.webhook_url, content=webhook.body, headers=webhook.headers).is_success
                    except httpx.HTTPError:
                        taken = False
                    if taken:
                        self._outgoing.popleft()
                    else:
                        # As Meta does, which waits longer.
                        self._ends.wait(0.1)

    @override
    def _handle(self, request: ReceivedRequest) -> Reply:
        found = _POSTS.fullmatch(request.path)
        if found is None or request.method != "POST":
            return _error(100, "Unsupported request - method type or path", status=HTTPStatus.NOT_FOUND)
        if not self._may(request.headers):
            if found["number"] is None:
                return Reply.json({"error": "Invalid API key"}, status=HTTPStatus.UNAUTHORIZED)
            return _error(190, "Error validating access token", status=HTTPStatus.UNAUTHORIZED)
        if found["number"] is not None and self._number_id not in {None, found["number"]}:
            return _error(33, "Unsupported post request. The object does not exist", status=HTTPStatus.BAD_REQUEST)
        return self._upload(request) if found["what"] == "media" else self._take(request.body)

    def _may(self, headers: Mapping[str, str]) -> bool:
        given = headers.get("d360-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        return self._token is None or hmac.compare_digest(given.encode(), self._token.encode())

    def _failure(self, to: str, kind: str) -> _Failure | None:
        for failure in self._failures:
            if failure.matches(to, kind):
                failure.left = None if failure.left is None else failure.left - 1
                return failure
        return None

    def _upload(self, request: ReceivedRequest) -> Reply:
        parts = parts_of(request.headers.get("content-type", ""), request.raw)
        product, file = parts.get("messaging_product"), parts.get("file")
        if product is None or product.text != "whatsapp" or file is None or not file.filename:
            return _error(100, "The parameters messaging_product and file are required")
        failure = self._failure("", "upload")
        if failure is not None:
            return _error(failure.code, failure.details, status=failure.status)
        if file.content_type not in _VIDEO_TYPES:
            return _error(100, f"Param file must be a file with one of the supported types, not {file.content_type}")
        if len(file.content) > _MAX_VIDEO_BYTES:
            return _error(100, "Media file size too big", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        media_id = str(next(self._serial))
        self._media[media_id] = (file.content, file.content_type)
        return Reply.json({"id": media_id})

    def _take(self, body: Mapping[str, JsonValue]) -> Reply:
        to, kind, tag = str(body.get("to", "")), str(body.get("type", "")), body.get("biz_opaque_callback_data")
        if body.get("messaging_product") != "whatsapp" or body.get("recipient_type") != "individual":
            return _error(100, "messaging_product and recipient_type are required")
        if not re.fullmatch(r"[0-9]{5,15}", to):
            return _error(131009, "Invalid recipient: to")
        if tag is not None and not (isinstance(tag, str) and len(tag) <= _MAX_TAG_CHARS):
            return _error(100, "biz_opaque_callback_data is too long")
        content, context = body.get(kind), body.get("context")
        read = _READ.get(kind)
        if read is None or not isinstance(content, dict):
            return _error(100, f"type and its object are required: {kind}")
        if isinstance(context, dict) and context.get("message_id") in self._forgotten:
            return _error(131009, "Invalid context: message_id")
        said = read(self, content)
        if isinstance(said, Reply):
            return said
        message = attrs.evolve(
            said,
            id=f"wamid.{next(self._serial)}",
            to=to,
            reference_id=str(tag or ""),
            reply_to=str(context.get("message_id", "")) if isinstance(context, dict) else "",
            instance_id=self._number_id or "",
        )
        failure = self._failure(to, kind)
        if failure is not None and not failure.late:
            return _error(failure.code, failure.details, status=failure.status)
        if failure is None:
            self._messages.append(message)
        self._tell(message, failure)
        return Reply.json(
            {
                "messaging_product": "whatsapp",
                "contacts": [{"input": to, "wa_id": to}],
                "messages": [{"id": message.id, "message_status": "accepted"}],
            }
        )

    def _tell(self, message: FakeMessage, failure: _Failure | None) -> None:
        def told(status: CloudStatus, code: int | None = None, details: str = "") -> CloudWebhook:
            tag = message.reference_id or None
            return self.webhook(message.id, status, code=code, details=details, tag=tag, to=message.to)

        if failure is not None:
            made = [told("failed", failure.code, failure.details)]
        else:
            made = [told("sent"), told("delivered")]
        if self.reverse:
            made.reverse()
        made = [one for one in made for _ in range(2 if self.doubled else 1)]
        self._made += made
        self._outgoing += made
        self._wakes.set()

    def _of_media(self, content: Mapping[str, JsonValue], kind: MessageKind) -> FakeMessage | Reply:
        link, media_id, caption = content.get("link"), content.get("id"), str(content.get("caption") or "")
        if (link is None) is (media_id is None):
            return _error(100, f"exactly one of {kind}['link'] and {kind}['id'] is required")
        if len(caption) > _MAX_CAPTION_CHARS:
            return _error(131009, f"caption: at most {_MAX_CAPTION_CHARS} characters")
        if media_id is not None:
            if str(media_id) not in self._media:
                return _error(131009, f"{kind}['id']: media ID {media_id} does not exist")
            return _message(kind, caption, file=self._media[str(media_id)][0])
        if not _LINK.fullmatch(str(link)):
            return _error(100, f"{kind}['link'] must be a valid URI")
        return _message(kind, caption, video=str(link))

    def _of_video(self, content: Mapping[str, JsonValue]) -> FakeMessage | Reply:
        return self._of_media(content, "video")

    def _of_document(self, content: Mapping[str, JsonValue]) -> FakeMessage | Reply:
        return self._of_media(content, "document")

    def _of_text(self, content: Mapping[str, JsonValue]) -> FakeMessage | Reply:
        words = str(content.get("body") or "")
        if not words or len(words) > _MAX_TEXT_CHARS:
            return _error(100, f"text['body'] has 1 to {_MAX_TEXT_CHARS} characters")
        return _message("text", words)

    def _of_template(self, content: Mapping[str, JsonValue]) -> FakeMessage | Reply:
        language = content.get("language")
        code = language.get("code") if isinstance(language, dict) else None
        wanted = self._templates.get((str(content.get("name")), str(code)))
        if wanted is None:
            return _error(132001, f"template name ({content.get('name')}) does not exist in {code}")
        header, words = _parameters(content, "header"), _parameters(content, "body")
        if (len(header), len(words)) != wanted or any(one.get("type") != "video" for one in header):
            return _error(132000, f"header: {len(header)}, body: {len(words)}: expected {wanted[0]} video, {wanted[1]}")
        texts = [str(word.get("text") or "") for word in words]
        if any(not text or re.search(r"[\n\t]| {5}", text) for text in texts):
            return _error(100, "Param text cannot have new-line/tab characters or more than 4 consecutive spaces")
        if not header:
            return _message("template", "\n".join(texts))
        video = header[0].get("video")
        said = self._of_media(video if isinstance(video, dict) else {}, "template")
        return said if isinstance(said, Reply) else attrs.evolve(said, text="\n".join(texts))


_READ = {
    "video": FakeWhatsAppCloud._of_video,  # noqa: SLF001 - their table
    "document": FakeWhatsAppCloud._of_document,  # noqa: SLF001
    "text": FakeWhatsAppCloud._of_text,  # noqa: SLF001
    "template": FakeWhatsAppCloud._of_template,  # noqa: SLF001
}


def _message(kind: MessageKind, text: str, *, video: str | None = None, file: bytes | None = None) -> FakeMessage:
    return FakeMessage(id="", kind=kind, to="", text=text, video=video, file=file, instance_id="")


def _parameters(template: Mapping[str, JsonValue], which: str) -> list[dict[str, JsonValue]]:
    found: list[dict[str, JsonValue]] = []
    for component in _dicts(template.get("components")):
        if component.get("type") == which:
            found += _dicts(component.get("parameters"))
    return found


def _dicts(value: JsonValue) -> Iterable[dict[str, JsonValue]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _error(code: int, details: str, *, status: int = HTTPStatus.BAD_REQUEST) -> Reply:
    title = _TITLES.get(code, "Error")
    return Reply.json(
        {
            "error": {
                "message": f"(#{code}) {title}",
                "type": "OAuthException",
                "code": code,
                "error_data": {"messaging_product": "whatsapp", "details": details},
                "fbtrace_id": "Az8or2yhqkZfEZ-_4Qn_Bam",
            }
        },
        status=status,
    )
