"""Twilio on localhost: what it queues, what it refuses at once, and what it says later by a signed callback."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import re
import urllib.parse
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs
from typing_extensions import override

from videopoll.jobs.checks import check_texts, listed, mapped
from videopoll.testing.messengers import FakeMessage, MessageKind, Messenger
from videopoll.testing.servers import ReceivedRequest, Reply

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from videopoll.jobs.codec import JsonValue

__all__ = ["FakeTwilio", "TwilioCallback"]

TwilioStatus: TypeAlias = Literal["queued", "sent", "delivered", "read", "failed", "undelivered", "canceled"]

_MAX_BODY_CHARS = 1600
_ADDRESS = re.compile(r"(?:whatsapp:)?\+[1-9][0-9]{6,14}")
_PATH = re.compile(r"/2010-04-01/Accounts/(AC[0-9a-fA-F]{32})/Messages\.json")


@attrs.frozen(kw_only=True)
class TwilioCallback:
    """One request that Twilio makes to a ``StatusCallback``.

    Args:
        url: The whole URL, with its query.
        headers: Its headers, the signature among them.
        body: Its body, byte for byte.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes


@attrs.define
class _Failure:
    code: int
    to: str | None
    kinds: frozenset[str]
    late: bool
    left: int | None
    status: int

    def matches(self, to: str, kind: str) -> bool:
        return self.left != 0 and (self.to is None or to.endswith(self.to)) and (not self.kinds or kind in self.kinds)


class FakeTwilio(Messenger):
    """Twilio over real HTTP: WhatsApp and SMS, its list of messages, and signed callbacks.

    ::

        with FakeTwilio(account_sid=sid, auth_token=token) as messenger:
            messenger.fail(63003, to="+5491155550000")  # not there, said at once
            messenger.close_window(late=True)  # free messages fail, which only a callback tells
            ...
            for callback in messenger.callbacks():
                read_receipts(callback.headers, callback.body, token, url=callback.url)

    Args:
        account_sid: The only account there is; None takes any.
        auth_token: Its token; it signs the callbacks, too.
        api_keys: The keys that sign in besides, and their secrets.
        content_sids: The templates that there are.
        port: The port on 127.0.0.1; None chooses a free one.
        latency_s: Seconds that every answer takes.
    """

    def __init__(
        self,
        *,
        account_sid: str | None = None,
        auth_token: str = "token-of-the-fake",  # noqa: S107 - made up
        api_keys: Mapping[str, str] | None = None,
        content_sids: Collection[str] = (),
        port: int | None = None,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(port=port, latency_s=latency_s)
        check_texts("FakeTwilio", account_sid=account_sid, auth_token=auth_token or "")
        self._account_sid = account_sid
        self._auth_token = auth_token
        self._api_keys = mapped(api_keys, "FakeTwilio.api_keys")
        self._content_sids = frozenset(listed(content_sids, "FakeTwilio.content_sids", "ids"))
        self._failures: list[_Failure] = []
        self._hides = False
        self._listed: list[dict[str, JsonValue]] = []
        self._callback_urls: dict[str, str] = {}
        self._made: list[TwilioCallback] = []

    def fail(
        self,
        code: int,
        *,
        to: str | None = None,
        kinds: Collection[MessageKind] = (),
        late: bool = False,
        times: int | None = None,
        status: int = HTTPStatus.BAD_REQUEST,
    ) -> None:
        """Fail messages with one of Twilio's error codes.

        Args:
            code: The code, e.g. 63016.
            to: Only those to this number.
            kinds: Only messages of these kinds.
            late: Queue the message, and tell by a callback that it failed.
            times: How often; None for always.
            status: The HTTP status of what is not late.
        """
        with self._lock:
            self._failures.insert(0, _Failure(code, to, frozenset(kinds), late, times, int(status)))

    def close_window(self, to: str | None = None, *, late: bool = True) -> None:
        """Fail everything but templates with 63016, as the user has not written for 24 hours."""
        self.fail(63016, to=to, kinds={"video", "text"}, late=late)

    def hide_failures(self) -> None:
        """List every message as queued: its list is slower than its callbacks."""
        with self._lock:
            self._hides = True

    @override
    def heal(self) -> None:
        """Forget all programmed trouble."""
        with self._lock:
            self._failures.clear()
        super().heal()

    def callbacks(self) -> list[TwilioCallback]:
        """Return the callbacks that were made since the last call, in order."""
        with self._lock:
            made, self._made = self._made, []
            return made

    def tell(self, message_id: str, status: TwilioStatus, *, code: int | None = None, as_json: bool = False) -> None:
        """Make the callback that says what became of a message, if its sender asked for any.

        Args:
            message_id: Which message.
            status: What became of it.
            code: Why it failed.
            as_json: Write a JSON body, signed by its digest, instead of a form.
        """
        with self._lock:
            for one in self._listed:
                if one["sid"] == message_id:
                    one |= {"status": status, "error_code": code, "error_message": code and f"error {code}"}
            url = self._callback_urls.get(message_id)
            if url is not None:
                self._made.append(self._callback(url, message_id, status, code, as_json=as_json))

    def _callback(self, url: str, message_id: str, status: str, code: int | None, *, as_json: bool) -> TwilioCallback:
        fields = {"MessageSid": message_id, "SmsSid": message_id, "MessageStatus": status, "ApiVersion": "2010-04-01"}
        if code is not None:
            fields["ErrorCode"] = str(code)
        if as_json:
            body = Reply.json(dict(fields)).body
            raw = str(body).replace("'", '"').encode()
            url += f"{'&' if '?' in url else '?'}bodySHA256={hashlib.sha256(raw).hexdigest()}"
            signed, kind = url, "application/json"
        else:
            raw = urllib.parse.urlencode(fields).encode()
            signed = url + "".join(name + fields[name] for name in sorted(fields))
            kind = "application/x-www-form-urlencoded; charset=UTF-8"
        digest = hmac.new(self._auth_token.encode(), signed.encode(), hashlib.sha1).digest()
        headers = {"Content-Type": kind, "X-Twilio-Signature": base64.b64encode(digest).decode()}
        return TwilioCallback(url=url, headers=headers, body=raw)

    @override
    def _handle(self, request: ReceivedRequest) -> Reply:
        found = _PATH.fullmatch(request.path)
        if found is None or self._account_sid not in {None, found[1]} or request.method not in {"GET", "POST"}:
            return _error(20404, HTTPStatus.NOT_FOUND, f"The requested resource {request.path} was not found")
        if not self._signed_in(request.headers.get("authorization", ""), found[1]):
            return _error(20003, HTTPStatus.UNAUTHORIZED, "Authenticate")
        if request.method == "GET":
            return self._list(request.query)
        return self._send({name: str(value) for name, value in request.body.items()}, found[1])

    def _signed_in(self, header: str, account_sid: str) -> bool:
        try:
            user, _, secret = base64.b64decode(header.removeprefix("Basic "), validate=True).decode().partition(":")
        except ValueError:
            return False
        wanted = self._api_keys.get(user, self._auth_token if user == account_sid else "")
        return bool(wanted) and hmac.compare_digest(secret.encode(), wanted.encode())

    def _send(self, form: Mapping[str, str], account_sid: str) -> Reply:
        to, body, media, content = (form.get(name, "") for name in ("To", "Body", "MediaUrl", "ContentSid"))
        sender = form.get("From") or form.get("MessagingServiceSid", "")
        kind: MessageKind = "template" if content else "video" if media else "text"
        problem = self._problem(form, to, sender)
        if problem is not None:
            return problem
        failure = next((one for one in self._failures if one.matches(to, kind)), None)
        if failure is not None and failure.left is not None:
            failure.left -= 1
        if failure is not None and not failure.late:
            return _error(failure.code, failure.status, f"error {failure.code} about {to}")
        message = FakeMessage(
            id=f"{'MM' if media else 'SM'}{next(self._serial):032x}",
            kind=kind,
            to=to,
            text=form.get("ContentVariables", "") if content else body,
            video=media or None,
            instance_id=account_sid,
        )
        listed: dict[str, JsonValue] = {
            "sid": message.id,
            "account_sid": account_sid,
            "to": to,
            "from": None if sender.startswith("MG") else sender,
            "body": body,
            "num_media": "1" if media else "0",
            "direction": "outbound-api",
            "status": "queued",
            "error_code": None,
            "error_message": None,
            "date_created": email.utils.format_datetime(email.utils.localtime()),
            "date_sent": None,
        }
        self._listed.insert(0, listed)
        if callback := form.get("StatusCallback"):
            self._callback_urls[message.id] = callback
        answer = dict(listed)
        if failure is not None:
            self.tell(message.id, "undelivered", code=failure.code)
        else:
            self._messages.append(message)
            self.tell(message.id, "sent")
            self.tell(message.id, "delivered")
        return Reply.json(answer, status=HTTPStatus.CREATED)

    def _problem(self, form: Mapping[str, str], to: str, sender: str) -> Reply | None:
        content, said = form.get("ContentSid", ""), len(form.get("Body", ""))
        wrong: dict[int, tuple[bool, str]] = {
            21211: (not _ADDRESS.fullmatch(to), f"The 'To' number {to} is not a valid phone number."),
            21603: (not sender, "A 'From' phone number is required."),
            21910: (
                not sender.startswith("MG") and sender.startswith("whatsapp:") is not to.startswith("whatsapp:"),
                "From and To should be of the same channel",
            ),
            21617: (said > _MAX_BODY_CHARS, "The concatenated message body exceeds the 1600 character limit"),
            21655: (bool(content) and content not in self._content_sids, "The ContentSid is Invalid"),
            21602: (not (said or content or form.get("MediaUrl")), "Message body is required."),
        }
        found = ((code, message) for code, (is_so, message) in wrong.items() if is_so)
        return next((_error(code, HTTPStatus.BAD_REQUEST, message) for code, message in found), None)

    def _list(self, query: Mapping[str, str]) -> Reply:
        size = min(1000, int(query.get("PageSize", "50")))
        found = [one for one in self._listed if query.get("To", one["to"]) == one["to"]]
        more = f"{_PATH.pattern}?PageToken=PA" if len(found) > size else None
        shown: list[JsonValue] = [{**one, "status": "queued"} if self._hides else one for one in found[:size]]
        return Reply.json({"messages": shown, "page": 0, "page_size": size, "next_page_uri": more})


def _error(code: int, status: int, message: str) -> Reply:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return Reply.json({"code": code, "message": message, "more_info": more, "status": int(status)}, status=status)
