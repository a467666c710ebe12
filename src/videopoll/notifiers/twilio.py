"""WhatsApp and SMS through Twilio: the video by its link, look-ups in its list of messages, signed callbacks.

A 201 means that the message stands in Twilio's queue. What becomes of it comes
by callback, see `videopoll.notifiers.twilio_receipts`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlencode

import attrs
from typing_extensions import override

from videopoll._http import HttpReply, HttpRequest
from videopoll._http.values import sent_s
from videopoll._reasons import own
from videopoll.errors import ConfigurationError, RefusedError
from videopoll.jobs.checks import check_kinds, check_texts, mapped, quoted
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
from videopoll.notifiers.addresses import (
    account_of,
    check_account,
    recipient_of,
    twilio_number,
    twilio_sender,
    twilio_whatsapp,
)
from videopoll.notifiers.base import HttpNotifier
from videopoll.notifiers.receipts import message_id_in, receipt_for_status
from videopoll.notifiers.twilio_receipts import FAILED_STATUSES, TwilioCallbacks, receipt_for_twilio
from videopoll.notifiers.video_check import META_LIMITS, VideoCheck, VideoLimits
from videopoll.notifiers.whatsapp_template import NO_NOTICE_TEMPLATE, NO_TEMPLATE
from videopoll.texts import cut

if TYPE_CHECKING:
    import httpx

    from videopoll.jobs.codec import JsonValue
    from videopoll.messages import Message

__all__ = ["TwilioNotifier", "TwilioSmsNotifier", "TwilioTemplate"]

TIMEOUT_S = 15.0
CAPTION_LIMIT = 1024
TEXT_LIMIT = 1600
PAGE_SIZE = 50
LONGEST_IN_QUEUE_S = 36_000
TWILIO_LIMITS = attrs.evolve(META_LIMITS, max_bytes={MessageForm.VIDEO: META_LIMITS.max_bytes[MessageForm.VIDEO]})
CLOCKS_DIFFER_S = 60

ACCOUNT_SID = re.compile(r"AC[0-9a-fA-F]{32}")
_CONTENT_SID = re.compile(r"HX[0-9a-fA-F]{32}")
_PLACES = ("caption", "link", "path")
_OF_VIDEO = re.compile(r"\{(link|path)\}")


def _variables(variables: Mapping[str, str]) -> dict[str, str]:
    return mapped(variables, "TwilioTemplate.variables", needed=True)


@attrs.frozen
class TwilioTemplate:
    """A content template that WhatsApp has approved, for users who have not written for 24 hours.

    Args:
        content_sid: Its id, ``HX…``.
        variables: What stands in its variables, by their names. ``{caption}`` is the caption of
            the video, or the notice; ``{link}`` is its link, ``{path}`` what follows the host in the
            link, without the first slash: for a template whose media URL begins with your host.
            A message without a video has no variables with a link.

    Raises:
        ConfigurationError: No template has such an id, or there is no such place.
    """

    content_sid: str
    variables: Mapping[str, str] = attrs.field(factory=lambda: {"1": "{caption}", "2": "{link}"}, converter=_variables)

    def __attrs_post_init__(self) -> None:
        check_texts("TwilioTemplate.variables", **self.variables)
        if not isinstance(self.content_sid, str) or not _CONTENT_SID.fullmatch(self.content_sid):
            msg = "TwilioTemplate.content_sid is 'HX' and 32 hex digits"
            raise ConfigurationError(msg)
        try:
            _filled(self.variables, dict.fromkeys(_PLACES, ""))
        except KeyError as error:
            msg = f"TwilioTemplate.variables has a place {{{error.args[0]}}}: there are {{caption}}, {{link}} and {{path}}"
            raise ConfigurationError(msg) from None

    def filled_for(self, message: Message) -> str:
        """Return the variables as they stand in a request."""
        link = message.video_url or ""
        path = link.partition("://")[2].partition("/")[2]
        # A variable is one line, without several spaces in a row.
        caption = cut(" ".join(message.caption.split()), CAPTION_LIMIT)
        # WhatsApp takes no empty variable, and none that the template does not have.
        variables = {name: value for name, value in self.variables.items() if link or not _OF_VIDEO.search(value)}
        filled = _filled(variables, {"caption": caption, "link": link, "path": path})
        return json.dumps(filled, ensure_ascii=False)


def _filled(variables: Mapping[str, str], places: Mapping[str, str]) -> dict[str, str]:
    return {name: re.sub(r"\{([a-z]+)\}", lambda found: places[found[1]], value) for name, value in variables.items()}


class TwilioNotifier(TwilioCallbacks, HttpNotifier):
    """Sends WhatsApp messages over Twilio: the video by its link, a template, or a text with the link.

    The recipient names the account (as ``instance_id``), its token and the sender; those of the
    notifier fill in where a recipient has none. `Recipient.to` is a phone number, with or
    without ``whatsapp:`` before it. Twilio has no quotes: `Recipient.reply_to` is left out.

    Args:
        account_sid: The account that sends by default, ``AC…``.
        auth_token: Its token; the secret of `api_key` if there is one.
        sender: Who sends by default: a number of Twilio's, or a Messaging Service, ``MG…``.
        api_key: The key that signs in, ``SK…``, instead of the account.
        template: What goes to users who have not written for 24 hours; None gives their
            videos up, with that reason.
        notice_template: What tells such users that there is no video; None gives their notices
            up, with that reason.
        status_callback: Your endpoint for Twilio's callbacks, which hands them to
            `read_receipts`. None leaves the delivery at Twilio's "queued".
        validity_s: Seconds that a message may wait in Twilio's queue before it fails; no more than
            `DeliveryPolicy.watch_s`, so that the failure is heard of. Twilio's own default is 10 hours.
        base_url: Where the API is, e.g. that of a region.
        client: A client of the host to send with. The host closes it.
        async_client: The same for asyncio.
        video_check: Look at a video's file first: what WhatsApp would not play goes as a link at once.

    Raises:
        ConfigurationError: One of them cannot work.
    """

    forms: ClassVar[frozenset[MessageForm]] = frozenset({MessageForm.VIDEO, MessageForm.TEMPLATE, MessageForm.TEXT})

    video_limits: VideoLimits | None = TWILIO_LIMITS

    def __init__(
        self,
        *,
        account_sid: str | None = None,
        auth_token: str | None = None,
        sender: str | None = None,
        api_key: str | None = None,
        template: TwilioTemplate | None = None,
        notice_template: TwilioTemplate | None = None,
        status_callback: str | None = None,
        validity_s: int = 3600,
        base_url: str = "https://api.twilio.com",
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
        video_check: VideoCheck | None = None,
    ) -> None:
        super().__init__(client=client, async_client=async_client, video_check=video_check)
        name = type(self).__name__
        check_account(name, account_sid=account_sid, auth_token=auth_token, api_key=api_key)
        check_texts(name, sender=sender)
        check_kinds(name, TwilioTemplate, template=template, notice_template=notice_template)
        if type(validity_s) is not int or validity_s not in range(6, LONGEST_IN_QUEUE_S + 1):
            given = quoted(validity_s)
            msg = f"{name}.validity_s is a whole number of seconds from 6 to {LONGEST_IN_QUEUE_S}, got {given}"
            raise ConfigurationError(msg)
        if sender is not None:
            try:
                self._sender_field(sender)
            except RefusedError as error:
                msg = f"{name}.sender: {error}"
                raise ConfigurationError(msg) from None
        self._base_url = check_url(base_url, f"{name}.base_url").rstrip("/")
        self._callback = None if status_callback is None else check_url(status_callback, f"{name}.status_callback")
        self._account_sid, self._auth_token, self._sender, self._api_key = account_sid, auth_token, sender, api_key
        self._template, self._notice_template = template, notice_template
        self._validity_s = validity_s

    @override
    def secrets(self) -> tuple[str | None, ...]:
        """Return the notifier's own token, also as it stands in a header."""
        user = self._api_key or self._account_sid
        return (self._auth_token, _basic(user, self._auth_token) if user and self._auth_token else None)

    @override
    def build(self, message: Message) -> HttpRequest:
        """Write ``POST /2010-04-01/Accounts/{sid}/Messages.json`` in the message's form."""
        recipient = recipient_of(message)
        sender = recipient.sender or self._sender
        if not sender:
            msg = "no sender: give one to the Recipient or to the notifier"
            raise RefusedError(own(msg), try_text=False)
        form = {"To": self._address(recipient.to), **self._sender_field(sender), **self._content(message)}
        form["ValidityPeriod"] = str(self._validity_s)
        if self._callback is not None:
            # Twilio signs the whole URL, so that our reference in it is as good as its id.
            joint = "&" if "?" in self._callback else "?"
            form["StatusCallback"] = f"{self._callback}{joint}{urlencode({'reference': message.reference})}"
        return self._request_for("POST", message, form=form)

    @override
    def read(self, reply: HttpReply, message: Message) -> Receipt:
        """Read the reply: an error by its code, whatever the status; a 2xx with an id is in the queue."""
        answer = reply.json()
        answer = answer if isinstance(answer, dict) else {}
        sid, status = message_id_in(answer.get("sid")), str(answer.get("status"))
        if reply.is_success and sid and status not in FAILED_STATUSES:
            return Accepted(sid, form=message.form) if self._callback else Delivered(sid, form=message.form)
        fate = self._fate(answer, message, reply.headers)
        return fate or receipt_for_status(reply) or Unknown(own("the reply has no message id"))

    @override
    def build_look_up(self, message: Message) -> HttpRequest | None:
        """Write ``GET …/Messages.json`` for the last messages to this address; None for a template, whose words are Twilio's."""
        if message.form is MessageForm.TEMPLATE and self._template_for(message):
            return None
        # Not by the date of sending, which one that waits in the queue may not have yet.
        query = {"To": self._address(recipient_of(message).to), "PageSize": str(PAGE_SIZE)}
        return self._request_for("GET", message, query=f"?{urlencode(query)}")

    @override
    def read_look_up(self, reply: HttpReply, message: Message) -> LookupAnswer:
        """Look for a message with these words, and a video if it has one, since the outcome was known."""
        answer = reply.json()
        listed = answer.get("messages") if reply.is_success and isinstance(answer, dict) else None
        if not isinstance(answer, dict) or not isinstance(listed, list):
            return LookupResult.NO_ANSWER
        if message.form is MessageForm.TEMPLATE:
            # A worker died before it found that there is none.
            return Failed(own(NO_TEMPLATE if message.video_url else NO_NOTICE_TEMPLATE), try_text=False)
        since_s, content = message.outcome.at_ms / 1000 - CLOCKS_DIFFER_S, self._content(message)
        sent = [one for one in listed if isinstance(one, dict) and str(one.get("direction")).startswith("outbound")]
        recent = [one for one in sent if sent_s({"date": str(one.get("date_created"))}, since_s) >= since_s]
        # A trial account puts words of its own before ours.
        same = [one for one in recent if str(one.get("body")).strip().endswith(content["Body"].strip())]
        ours = [one for one in same if (one.get("num_media") in {"0", 0, None}) is ("MediaUrl" not in content)]
        for one in ours:
            if one.get("status") not in FAILED_STATUSES:
                return Found(message_id_in(one.get("sid")), message.form, accepted=self._callback is not None)
        if ours:
            fate = self._fate(ours[0], message, {}) or Refused(own("Twilio could not deliver it"))
            if isinstance(fate, Refused):
                return Failed(fate.reason, then=fate.then, try_text=fate.try_text)
            return LookupResult.ABSENT
        complete = answer.get("next_page_uri") is None or len(recent) < len(sent)
        return LookupResult.ABSENT if complete else LookupResult.CANNOT_TELL

    def _content(self, message: Message) -> dict[str, str]:
        if message.form is MessageForm.TEMPLATE:
            template = self._template_for(message)
            if template is None:
                raise RefusedError(own(NO_TEMPLATE if message.video_url else NO_NOTICE_TEMPLATE), try_text=False)
            return {"ContentSid": template.content_sid, "ContentVariables": template.filled_for(message)}
        if message.form is MessageForm.VIDEO and message.video_url:
            return {"Body": cut(message.caption, CAPTION_LIMIT), "MediaUrl": message.video_url}
        return {"Body": cut(message.text, TEXT_LIMIT, keep=message.video_url or "")}

    def _template_for(self, message: Message) -> TwilioTemplate | None:
        return self._template if message.video_url else self._notice_template

    def _fate(
        self, told: Mapping[str, JsonValue], message: Message, headers: Mapping[str, str]
    ) -> NotSent | Refused | None:
        code, said = told.get("error_code", told.get("code")), told.get("error_message", told.get("message"))
        window = MessageForm.TEMPLATE if self._template_for(message) else None
        return receipt_for_twilio(code, said, window=window, headers=headers)

    def _request_for(
        self, method: str, message: Message, *, form: Mapping[str, str] | None = None, query: str = ""
    ) -> HttpRequest:
        account = account_of(recipient_of(message), self._account_sid, self._auth_token, names=ACCOUNT_SID)
        own_account = account.instance_id == self._account_sid
        user = self._api_key if self._api_key and own_account else account.instance_id
        return HttpRequest(
            method=method,
            url=f"{self._base_url}/2010-04-01/Accounts/{account.instance_id}/Messages.json{query}",
            headers={"Authorization": f"Basic {_basic(user, account.token)}"},
            form=form,
            timeout_s=TIMEOUT_S,
        )

    def _address(self, to: str) -> str:
        return twilio_whatsapp(to)

    def _sender_field(self, sender: str) -> dict[str, str]:
        return twilio_sender(sender, whatsapp=True)


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


class TwilioSmsNotifier(TwilioNotifier):
    """Sends SMS over Twilio: texts, with the link to the video.

    A video goes as its link: an MMS takes 500 KB of it, and only in some countries.

    It takes what `TwilioNotifier` takes; its `sender` is a number, a short code, a name
    of up to 11 letters and digits, or a Messaging Service.
    """

    forms: ClassVar[frozenset[MessageForm]] = frozenset({MessageForm.TEXT})

    @override
    def _address(self, to: str) -> str:
        return twilio_number(to)

    @override
    def _sender_field(self, sender: str) -> dict[str, str]:
        return twilio_sender(sender, whatsapp=False)
