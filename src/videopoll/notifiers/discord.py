"""Discord, as a bot or through a channel's webhook: the video in a gallery, as an upload, or as its link.

What the codes mean, and that a nonce makes repeats safe: docs.discord.com,
"Opcodes and Status Codes" and "Create Message". A gallery takes any link to a
video; whether each client plays it there was not tried.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote, urlencode

import attrs
from typing_extensions import override

from videopoll._http import HttpReply, HttpRequest, Part
from videopoll._http.prepare import user_agent
from videopoll._reasons import own, quoting
from videopoll.errors import ConfigurationError
from videopoll.jobs.codec import is_number
from videopoll.jobs.outcome import MessageForm
from videopoll.jobs.urls import check_url
from videopoll.messages import Delivered, NotSent, Receipt, Refused, Unknown
from videopoll.notifiers.addresses import (
    account_of,
    check_account,
    discord_place,
    discord_thread,
    recipient_of,
    token_of,
)
from videopoll.notifiers.base import HttpNotifier
from videopoll.notifiers.codes import CodeMeaning, CodeTable, receipt_for_code
from videopoll.notifiers.exchange import Ask, Exchange, Fetch, Keep, Post
from videopoll.notifiers.receipts import message_id_in, receipt_for_status
from videopoll.policies import LONGEST_SEND_S
from videopoll.texts import cut

if TYPE_CHECKING:
    from collections.abc import Iterable

    import httpx

    from videopoll.jobs.codec import JsonValue
    from videopoll.messages import Message

__all__ = ["DiscordNotifier", "DiscordWebhookNotifier"]

TIMEOUT_S = 15.0
API_VERSION = "v10"
TEXT_LIMIT = 2000
LONGEST_NONCE = 25
MAX_UPLOAD_BYTES = 10 * 1024 * 1024
"""For everybody; boosted servers take more."""

FILENAME = "video.mp4"
COMPONENTS_V2 = 1 << 15
TEXT_DISPLAY, MEDIA_GALLERY = 10, 12
HOME = "https://pypi.org/project/videopoll"


def _all(meaning: CodeMeaning, *codes: int) -> dict[int | str, CodeMeaning]:
    return dict.fromkeys(codes, meaning)


CODES: CodeTable = {
    **_all(CodeMeaning.RATE, 20016, 20028, 20029, 31002, 40003, 40062),
    **_all(CodeMeaning.PASSING, 110001, 130000),
    **_all(CodeMeaning.VIDEO, 40005, 50035, 50045, 50046),
    # What a bot may not do in one place says nothing about another.
    **_all(CodeMeaning.RECIPIENT, 10003, 10013, 40058, 50001, 50007, 50008, 50013, 50033, 50278, 220001),
    # A webhook that is gone is all there is of its account. 10,000 such answers in ten minutes ban the address.
    **_all(CodeMeaning.CREDENTIALS, 10015, 40001, 40002, 50014, 50027),
    **_all(CodeMeaning.CONTENT, 20009, 50006, 200000, 240000),
    **_all(CodeMeaning.QUOTE, 10008, 160002),
}


class _Discord(HttpNotifier):
    """What both have in common: what a message looks like, an upload, and what an answer means."""

    forms: ClassVar[frozenset[MessageForm]] = frozenset({MessageForm.VIDEO, MessageForm.UPLOAD, MessageForm.TEXT})

    def _sent(self, message: Message, request: HttpRequest) -> Exchange:
        """Post it, with the file if it is to go as an upload."""
        if message.form is MessageForm.UPLOAD:
            video = yield from Fetch(message.video_url or "", max_bytes=MAX_UPLOAD_BYTES)
            fields = json.dumps(request.json, ensure_ascii=False)
            parts = (
                Part(name="payload_json", content=fields, media_type="application/json"),
                Part(name="files[0]", content=video.file, filename=FILENAME, media_type=video.media_type),
            )
            request = attrs.evolve(request, json=None, parts=parts, timeout_s=LONGEST_SEND_S)
        reply = yield from Post(request)
        return self.read(reply, message)

    @override
    def read(self, reply: HttpReply, message: Message) -> Receipt:
        """Read the reply: an error by its code, whatever the status; a 2xx with an id is posted."""
        answer = reply.json()
        answer = answer if isinstance(answer, dict) else {}
        if reply.is_success:
            message_id = message_id_in(answer.get("id"))
            return (
                Delivered(message_id, form=message.form) if message_id else Unknown(own("the reply has no message id"))
            )
        code, wait_s = answer.get("code"), answer.get("retry_after")
        reason = quoting(
            f"error {code} of Discord" if is_number(code) else f"HTTP {reply.status}", answer.get("message")
        )
        if reply.status == 429 and is_number(wait_s):  # noqa: PLR2004 - too many requests
            return NotSent(reason, wait_s, channel_fault=False)
        then = MessageForm.UPLOAD if message.form is MessageForm.VIDEO else None
        fate = receipt_for_code(CODES, code, reason, then=then)
        return fate or receipt_for_status(reply) or Unknown(own("the reply has no message id"))

    def _fields(self, message: Message) -> dict[str, JsonValue]:
        # Nobody is mentioned, whatever stands in a text.
        fields: dict[str, JsonValue] = {"allowed_mentions": {"parse": []}}
        match message.form:
            case MessageForm.VIDEO:
                words: JsonValue = {"type": TEXT_DISPLAY, "content": cut(message.caption, TEXT_LIMIT)}
                gallery: JsonValue = {"type": MEDIA_GALLERY, "items": [{"media": {"url": message.video_url}}]}
                return fields | {"flags": COMPONENTS_V2, "components": [words, gallery]}
            case MessageForm.UPLOAD:
                return fields | {"content": cut(message.caption, TEXT_LIMIT)}
            case _:
                return fields | {"content": cut(message.text, TEXT_LIMIT, keep=message.video_url or "")}


class DiscordNotifier(_Discord):
    """Posts as a bot, into a channel or to a user: the video in a gallery, as an upload, or as its link.

    `Recipient.to` is ``channel:`` or ``user:`` and an id; a user's messages go into the direct
    messages with the bot. What is sent again within minutes, after a lost reply, is posted once.

    Args:
        token: The bot's token. That of a recipient comes first.
        base_url: Where the API is.
        trusted_hosts: Hosts from which a video may be downloaded for an upload whatever their address is.
        client: A client of the host to send with. The host closes it.
        async_client: The same for asyncio.

    Raises:
        ConfigurationError: The base URL cannot work.
    """

    repeats_are_safe_s: ClassVar[float] = 120.0
    """Discord compares nonces of "the past few minutes"."""

    def __init__(
        self,
        *,
        token: str | None = None,
        base_url: str = "https://discord.com/api/v10",
        trusted_hosts: Iterable[str] = (),
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(client=client, async_client=async_client, trusted_hosts=trusted_hosts)
        check_account("DiscordNotifier", token=token)
        self._base_url = check_url(base_url, "DiscordNotifier.base_url").rstrip("/")
        self._token = token

    @override
    def secrets(self) -> tuple[str | None, ...]:
        """Return the bot's own token."""
        return (self._token,)

    @override
    def exchange(self, message: Message) -> Exchange:
        """Open the direct messages with a user, whose channel is kept with the delivery, and post."""
        kind, place = discord_place(recipient_of(message).to)
        kept = message.prepared.get("direct") if message.prepared.get("user") == place else None
        known = kept if isinstance(kept, str) and SNOWFLAKE.fullmatch(kept) else None
        if kind == "user":
            opened = known
            if opened is None:
                reply = yield from Ask(self._request(message, "users/@me/channels", {"recipient_id": place}))
                answer = reply.json()
                opened = message_id_in(answer.get("id")) if isinstance(answer, dict) else None
                if not reply.is_success:
                    return self.read(reply, message)
                if opened is None or not SNOWFLAKE.fullmatch(opened):
                    return NotSent(own("the reply that opens direct messages has no id of a channel"))
                yield from Keep({"user": place, "direct": opened})
            place = opened
        request = self._request(message, f"channels/{place}/messages", self._posted(message))
        receipt = yield from self._sent(message, request)
        if known and isinstance(receipt, Refused) and not receipt.try_text:
            # Perhaps those of another bot, whose token it was: the next try opens them anew, and is believed.
            yield from Keep({})
            return NotSent(receipt.reason, channel_fault=False)
        return receipt

    def _posted(self, message: Message) -> dict[str, JsonValue]:
        nonce: dict[str, JsonValue] = {"nonce": message.reference[:LONGEST_NONCE], "enforce_nonce": True}
        if message.reply_to:
            nonce["message_reference"] = {"message_id": message.reply_to, "fail_if_not_exists": False}
        return self._fields(message) | nonce

    def _request(self, message: Message, path: str, fields: dict[str, JsonValue]) -> HttpRequest:
        token = token_of(recipient_of(message).token or self._token)
        return HttpRequest(
            method="POST",
            url=f"{self._base_url}/{path}",
            headers={"Authorization": f"Bot {token}", "User-Agent": _user_agent()},
            json=fields,
            timeout_s=TIMEOUT_S,
        )


class DiscordWebhookNotifier(_Discord):
    """Posts through a channel's webhook: the video in a gallery, as an upload, or as its link.

    It needs no bot, and cannot quote. `Recipient.to` is ``webhook:`` and the webhook's id for its
    own channel, or ``thread:`` and the id of a thread in it; a message without a recipient goes
    into the channel. The recipient may name another webhook, by its id (as ``instance_id``) and token.

    Args:
        url: The webhook's URL, as Discord shows it. It is a secret.
        trusted_hosts: Hosts from which a video may be downloaded for an upload whatever their address is.
        client: A client of the host to send with. The host closes it.
        async_client: The same for asyncio.

    Raises:
        ConfigurationError: It is no URL of a webhook.
    """

    def __init__(
        self,
        url: str,
        *,
        trusted_hosts: Iterable[str] = (),
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(client=client, async_client=async_client, trusted_hosts=trusted_hosts)
        found = _WEBHOOK.fullmatch(check_url(url, "DiscordWebhookNotifier.url"))
        if found is None:
            msg = "DiscordWebhookNotifier.url looks like https://discord.com/api/webhooks/{id}/{token}"
            raise ConfigurationError(msg)
        api_url, self._webhook_id, self._token = found.groups()
        # Discord shows it without a version, which stands for an old one whose errors have no codes.
        self._api_url = f"{api_url}/{API_VERSION}" if api_url.endswith("/api") else api_url

    @override
    def secrets(self) -> tuple[str | None, ...]:
        """Return the webhook's token."""
        return (self._token,)

    @override
    def exchange(self, message: Message) -> Exchange:
        """Post with ``POST /webhooks/{id}/{token}``, and wait until the message is there."""
        recipient = message.recipient
        webhook = self._webhook_id, self._token
        if recipient is not None and (recipient.instance_id or recipient.token):
            account = account_of(recipient, self._webhook_id, self._token, names=SNOWFLAKE)
            webhook = account.instance_id, quote(account.token, safe="")
        thread = None if recipient is None else discord_thread(recipient.to, webhook[0])
        query = {"wait": "true", "with_components": "true"} | ({} if thread is None else {"thread_id": thread})
        request = HttpRequest(
            method="POST",
            url=f"{self._api_url}/webhooks/{webhook[0]}/{webhook[1]}?{urlencode(query)}",
            headers={"User-Agent": _user_agent()},
            json=self._fields(message),
            timeout_s=TIMEOUT_S,
        )
        return (yield from self._sent(message, request))


SNOWFLAKE = re.compile(r"[0-9]{15,20}")
_WEBHOOK = re.compile(r"(https?://[^/?#]+/api(?:/v[0-9]{1,2})?)/webhooks/([0-9]{15,20})/([A-Za-z0-9_.-]{1,200})/?")


def _user_agent() -> str:
    # Discord lets a firewall turn away whoever does not name itself so.
    return f"DiscordBot ({HOME}, {user_agent().partition('/')[2]})"
