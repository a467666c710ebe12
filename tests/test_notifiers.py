"""The channels: what goes over the wire, what each reply means, and what never leaks.

Everything runs against a real HTTP server, and over both sides of each channel:
the blocking one and the asyncio one.
"""

from __future__ import annotations

import asyncio
import base64
import contextvars
import hashlib
import hmac
import http.server
import json
import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar
from urllib.parse import parse_qsl, urlsplit

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from videopoll._http import FailureKind, HttpFailure
from videopoll.errors import ConfigurationError, NotSentError, RefusedError
from videopoll.jobs import MessageForm, Outcome, OutcomeKind, VideoJob
from videopoll.messages import Delivered, LookupResult, Message, NotSent, Recipient, Refused, Unknown
from videopoll.notifiers import (
    AppriseNotifier,
    CallbackNotifier,
    HttpNotifier,
    HttpReply,
    HttpRequest,
    RoutingNotifier,
    SilentNotifier,
    UltraMsgNotifier,
    WebhookNotifier,
    WhatsAppFactoryNotifier,
    receipt_for_status,
    redact,
    whatsapp_address,
)
from videopoll.notifiers.receipts import receipt_for_failure
from videopoll.policies import LONGEST_SEND_S

START_MS = 1_757_157_518_747
URL = "https://files.example/file/abc?signature=s3cr3t"
PHONE = "5491122334455"
TOKEN = "tok-9x8y7z"
JOB = VideoJob("job_1757157518747_grhexcfhk", "68bb3c35", START_MS, {"prompt": "un perro"})
CAPTION = "🎥 ¡Tu video está listo! Se generó en 45 segundos."
TEXT = f"{CAPTION}\n\n🔗 Video: {URL}"
FAILED_TEXT = (
    "😔 Hubo un problema generando tu video: no se pudo completar la generación. Por favor intenta nuevamente."
)
RECIPIENT = Recipient(channel="ultramsg", to=PHONE, instance_id="instance1150", token=TOKEN)
OK = {"sent": "true", "message": "ok", "id": 5225}


def message(form=MessageForm.VIDEO, *, recipient=RECIPIENT, kind=OutcomeKind.COMPLETED, url=URL, **changes):
    outcome = Outcome(kind, START_MS + 45_000, video_url=url, error=None if url else "content policy")
    return Message(job=JOB, outcome=outcome, form=form, reference="vp-1", recipient=recipient, **changes)


def failure_notice():
    return message(MessageForm.TEXT, kind=OutcomeKind.FAILED, url=None)


@attrs.frozen
class Seen:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self):
        return urlsplit(self.target).path

    @property
    def query(self):
        return dict(parse_qsl(urlsplit(self.target).query))

    @property
    def json(self):
        return json.loads(self.body)


class Server:
    """Answers each request with what the test said, and remembers it."""

    def __init__(self):
        self.seen = []
        self.answers = []
        self.online = {"status": {"accountStatus": {"status": "authenticated", "substatus": "connected"}}}
        self.status_gate = None
        self.status_asked = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.do_POST()

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                seen = Seen(self.command, self.path, headers, body)
                server.seen.append(seen)
                if seen.path.endswith("/instance/status"):
                    server.status_asked.set()
                    if server.status_gate is not None:
                        server.status_gate.wait(10)
                    status, answer, extra = 200, server.online, {}
                else:
                    status, answer, extra = server.answers.pop(0) if server.answers else (200, OK, {})
                if status is None:
                    self.close_connection = True
                    return
                raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {**extra, "content-length": str(len(raw))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args):
                pass

        self._httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._httpd.daemon_threads = True
        self._httpd.block_on_close = False
        self._thread = threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._httpd.server_address[1]}"

    def answer(self, body, status=200, **headers):
        self.answers.append((status, body, {name.replace("_", "-"): value for name, value in headers.items()}))

    def hang_up(self):
        self.answers.append((None, None, {}))

    def paths(self):
        return [seen.path for seen in self.seen]

    def close(self):
        self._httpd.shutdown()
        self._thread.join(10)
        self._httpd.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


class Sync:
    def notify(self, notifier, what):
        try:
            return notifier.notify(what)
        finally:
            getattr(notifier, "close", lambda: None)()

    def look_up(self, notifier, what):
        try:
            return notifier.look_up(what)
        finally:
            getattr(notifier, "close", lambda: None)()


class Async:
    def notify(self, notifier, what):
        return asyncio.run(self._closing(notifier, notifier.anotify(what)))

    def look_up(self, notifier, what):
        return asyncio.run(self._closing(notifier, notifier.alook_up(what)))

    async def _closing(self, notifier, doing):
        try:
            return await doing
        finally:
            if hasattr(notifier, "aclose"):
                await notifier.aclose()


@pytest.fixture(params=[Sync(), Async()], ids=["sync", "async"])
def side(request):
    return request.param


@pytest.fixture
def ultramsg(server):
    return UltraMsgNotifier(base_url=server.url, check_instance=False)


def assert_tells_no_secret(*things):
    for thing in things:
        for secret in (TOKEN, PHONE, "s3cr3t", "files.example"):
            assert secret not in repr(thing)


# --- UltraMsg: sending ----------------------------------------------------------------------------


def test_ultramsg_sends_a_native_video_with_a_caption(side, server, ultramsg):
    assert side.notify(ultramsg, message()) == Delivered("5225")
    (seen,) = server.seen
    assert (seen.method, seen.target) == ("POST", "/instance1150/messages/video")
    assert seen.json == {
        "token": TOKEN,
        "to": PHONE,
        "video": URL,
        "caption": CAPTION,
        "priority": 5,
        "referenceId": "vp-1",
    }


def test_ultramsg_sends_a_text_with_the_link(side, server, ultramsg):
    assert side.notify(ultramsg, message(MessageForm.TEXT)) == Delivered("5225")
    (seen,) = server.seen
    assert (seen.method, seen.target) == ("POST", "/instance1150/messages/chat")
    assert seen.json == {"token": TOKEN, "to": PHONE, "body": TEXT, "priority": 5, "referenceId": "vp-1"}


@pytest.mark.parametrize("form", MessageForm)
def test_ultramsg_sends_the_notice_of_a_failure_as_text_whatever_form_is_asked_for(side, server, ultramsg, form):
    side.notify(ultramsg, attrs.evolve(failure_notice(), form=form))
    (seen,) = server.seen
    assert (seen.path, seen.json["body"]) == ("/instance1150/messages/chat", FAILED_TEXT)


def test_ultramsg_quotes_the_message_that_it_answers(side, server, ultramsg):
    side.notify(ultramsg, message(recipient=attrs.evolve(RECIPIENT, reply_to="false_abc")))
    assert server.seen[0].json["msgId"] == "false_abc"


def test_ultramsg_fills_in_its_own_instance_and_token(side, server):
    notifier = UltraMsgNotifier(
        base_url=server.url + "/", instance_id="instance7", token="own-token", priority=0, check_instance=False
    )
    side.notify(notifier, message(recipient=Recipient(channel="ultramsg", to=PHONE)))
    (seen,) = server.seen
    assert seen.path == "/instance7/messages/video"
    assert (seen.json["token"], seen.json["priority"]) == ("own-token", 0)


def test_a_video_gets_30_seconds_and_a_text_15(ultramsg):
    assert ultramsg.build(message()).timeout_s == 30
    assert ultramsg.build(message(MessageForm.TEXT)).timeout_s == 15


@pytest.mark.parametrize("form", MessageForm)
def test_no_request_of_a_shipped_channel_outlasts_what_a_stop_allows_a_send(form):
    """Another worker, which may send again after that, would meet a send that still goes on."""
    webhook = WebhookNotifier("https://hooks.example", secret=SECRET)
    for channel in UltraMsgNotifier(), WhatsAppFactoryNotifier(base_url="https://factory.example"), webhook:
        assert channel.build(message(form)).timeout_s <= LONGEST_SEND_S


def test_long_texts_are_cut_to_the_limits_and_the_link_stays_whole(ultramsg):
    long_texts = attrs.evolve(message().texts.of("es"), done="🎥" * 5000)
    texts = attrs.evolve(message().texts, languages={"es": long_texts})
    caption = ultramsg.build(message(texts=texts)).json["caption"]
    body = ultramsg.build(message(MessageForm.TEXT, texts=texts)).json["body"]
    assert len(caption.encode("utf-16-le")) // 2 <= 1024
    assert len(body.encode("utf-16-le")) // 2 <= 4096
    assert body.endswith(f"…\n\n🔗 Video: {URL}")


@pytest.mark.parametrize("priority", [-1, 11, "first"])
def test_a_priority_outside_of_ultramsgs_range_is_refused(priority):
    with pytest.raises(ConfigurationError, match="from 0"):
        UltraMsgNotifier(priority=priority)


BAD_URLS = ["", "ultramsg.com", "ftp://x", "http://", "https://user:pw@x", "http://x/ y", "https://ñ.example"]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_base_url_that_cannot_work_is_refused_without_quoting_it(url):
    for make in (
        lambda: UltraMsgNotifier(base_url=url),
        lambda: WhatsAppFactoryNotifier(base_url=url),
        lambda: WebhookNotifier(url, secret=SECRET),
    ):
        with pytest.raises(ConfigurationError, match="http or https") as caught:
            make()
        assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"to": f"{PHONE},5491199999999"},
        {"to": ""},
        {"to": "1234"},
        {"to": "1" * 21},
        {"to": f"{PHONE}:12@s.whatsapp.net"},
        {"to": "+44 (0)7911 123456"},
        {"to": "120363@g.us,5491122334455"},
        {"instance_id": "../../admin"},
        {"instance_id": "instance1/x?y"},
        {"instance_id": None},
        {"token": None},
        {"token": "a\r\nb"},
    ],
)
def test_a_recipient_that_cannot_be_used_is_refused_before_anything_is_sent(side, server, changes):
    bad = message(recipient=attrs.evolve(RECIPIENT, **changes))
    for notifier in (UltraMsgNotifier(base_url=server.url), WhatsAppFactoryNotifier(base_url=server.url)):
        receipt = side.notify(notifier, bad)
        assert isinstance(receipt, Refused)
        assert not receipt.try_text
        assert_tells_no_secret(receipt)
    assert not server.seen


def test_a_message_without_a_recipient_is_refused_with_a_hint(side, server):
    receipt = side.notify(UltraMsgNotifier(base_url=server.url), message(recipient=None))
    assert isinstance(receipt, Refused)
    assert "RoutingNotifier" in receipt.reason
    assert not server.seen


@pytest.mark.parametrize("url", [None, "", "javascript:alert(1)", "file:///etc/passwd", "http://", "https://x/a\nb"])
def test_only_videos_at_a_web_address_are_sent(side, server, ultramsg, url):
    receipt = side.notify(ultramsg, message(url=url))
    assert isinstance(receipt, Refused)
    assert not server.seen


# --- UltraMsg: replies ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        OK,
        {"sent": True, "message": "ok", "id": "5225"},
        {"sent": "True", "id": 5225, "error": None},
        {"sent": "true", "id": 5225, "error": []},
    ],
)
def test_ultramsg_says_yes_in_several_ways(side, server, ultramsg, body):
    server.answer(body)
    assert side.notify(ultramsg, message()) == Delivered("5225")


@pytest.mark.parametrize(
    ("body", "reason", "try_text"),
    [
        ({"error": [{"to": "is required"}, {"body": "is too long"}]}, "to: is required; body: is too long", False),
        ({"error": [{"video": "file extension not supported"}]}, "video: file extension not supported", True),
        ({"error": "video: file is too large", "sent": "true", "id": 1}, "video: file is too large", True),
        ({"error": ["odd"]}, "['odd']", True),
        ({"sent": "false", "message": "invalid video"}, "not sent: invalid video", True),
    ],
)
def test_ultramsg_says_no_with_http_200(ultramsg, body, reason, try_text):
    assert ultramsg.read(HttpReply(status=200, body=json.dumps(body).encode()), message()) == Refused(
        reason, try_text=try_text
    )


OF_THE_MOMENT = [
    "throttled",
    "Throttling: slow down",
    "Too many requests",
    "too_many_messages",
    "Rate limit exceeded",
    "rate-overlimit",
    "RATE_LIMIT",
    "please try again later",
    "Try later",
    "temporarily unavailable",
    "server busy",
    "The queue is full",
    "under maintenance",
    "Instance is not ready",
    "instance not connected to whatsapp",
    "Instance not authenticated",
    "instance loading",
    "loading",
    "The session is still initializing",
    "phone is offline",
    "disconnected",
    "Connection Closed",
    "retry after 30 seconds",
    "error 429",
    "Wrong token. Please provide token.",
    "invalid api key",
    "instance not found",
    "Your instance Stopped due to non-payment",
    "subscription expired",
    "Unauthorized",
]


@pytest.mark.parametrize("form", MessageForm)
@pytest.mark.parametrize("said", OF_THE_MOMENT)
def test_what_passes_or_is_the_accounts_fault_is_tried_again_as_it_is(ultramsg, form, said):
    bodies = [
        {"sent": "false", "message": said},
        {"sent": False, "message": said},
        {"error": said},
        {"error": [{"instance": said}]},
        {"error": {"code": 1, "message": said}},
    ]
    quoting = message(form, recipient=attrs.evolve(RECIPIENT, reply_to="false_abc"))
    for body in bodies:
        for what in (message(form), quoting):
            receipt = ultramsg.read(HttpReply(status=200, body=json.dumps(body).encode()), what)
            assert isinstance(receipt, NotSent)
            assert receipt.counts
            assert not receipt.channel_fault
    factory = WhatsAppFactoryNotifier(base_url="https://wf.example")
    for status in (200, 400, 403, 409):
        receipt = factory.read(HttpReply(status=status, body=json.dumps({"error": said}).encode()), quoting)
        assert isinstance(receipt, NotSent), status


FOR_GOOD = [
    "invalid number",
    "Invalid phone number, please check it and try again",
    "number is not registered on WhatsApp",
    "user has blocked you",
    "not a valid WhatsApp user",
    "the number doesn't exist",
    "file extension not supported",
    "file is too large",
    "max length : 4096 char",
    "body is required",
    "link expired",
]


@pytest.mark.parametrize("form", MessageForm)
@pytest.mark.parametrize("said", FOR_GOOD)
def test_what_is_final_stays_final(ultramsg, form, said):
    for body in ({"sent": "false", "message": said}, {"error": said}, {"error": [{"body": said}]}):
        receipt = ultramsg.read(HttpReply(status=200, body=json.dumps(body).encode()), message(form))
        assert isinstance(receipt, Refused)
        assert not receipt.try_unquoted
    factory = WhatsAppFactoryNotifier(base_url="https://wf.example")
    for status in (200, 400, 422):
        reply = HttpReply(status=status, body=json.dumps({"error": said}).encode())
        assert isinstance(factory.read(reply, message(MessageForm.TEXT)), Refused)


@pytest.mark.parametrize("body", [{"sent": "false"}, {"sent": False, "message": ""}, {"sent": "false", "error": None}])
@pytest.mark.parametrize("form", MessageForm)
def test_a_refusal_without_a_reason_is_tried_again(ultramsg, form, body):
    receipt = ultramsg.read(HttpReply(status=200, body=json.dumps(body).encode()), message(form))
    assert receipt == NotSent("not sent: no reason is given")


def test_a_refusal_in_unknown_words_sends_a_video_as_text_and_tries_a_text_again(ultramsg):
    reply = HttpReply(status=200, body=b'{"error": "E_4711"}')
    assert ultramsg.read(reply, message()) == Refused("E_4711", try_text=True)
    assert ultramsg.read(reply, message(MessageForm.TEXT)) == NotSent("E_4711")


def test_the_wait_that_a_refusal_asks_for_is_kept(ultramsg):
    reply = HttpReply(status=200, headers={"retry-after": "9"}, body=b'{"sent": "false", "message": "throttled"}')
    assert ultramsg.read(reply, message()) == NotSent("not sent: throttled", 9, channel_fault=False)


def test_a_reply_that_says_sent_and_an_error_of_the_moment_is_looked_up(ultramsg):
    reply = HttpReply(status=200, body=b'{"sent": "true", "id": 7, "error": "throttled"}')
    assert isinstance(ultramsg.read(reply, message()), Unknown)


@pytest.mark.parametrize(
    "body", [{"error": [{"msgId": "not found"}]}, {"error": "message not found"}, {"sent": "false"}]
)
@pytest.mark.parametrize("form", MessageForm)
def test_a_refusal_of_what_quotes_a_message_may_be_for_the_quote(ultramsg, form, body):
    reply = HttpReply(status=200, body=json.dumps(body).encode())
    quoting = message(form, recipient=attrs.evolve(RECIPIENT, reply_to="false_abc"))
    receipt = ultramsg.read(reply, quoting)
    assert isinstance(receipt, Refused)
    assert receipt.try_unquoted
    unquoted = attrs.evolve(quoting, unquoted=True)
    assert "msgId" not in ultramsg.build(unquoted).json
    assert not getattr(ultramsg.read(reply, unquoted), "try_unquoted", False)


@pytest.mark.parametrize("status", [200, 400, 403, 404, 409, 410, 422])
def test_whatsapp_factory_may_refuse_for_the_quote_in_many_ways(status):
    factory = WhatsAppFactoryNotifier(base_url="https://wf.example", instance_id="wf-1", token=TOKEN)
    reply = HttpReply(status=status, body=b'{"error": "Not found"}')
    quoting = message(MessageForm.TEXT, recipient=attrs.evolve(RECIPIENT, reply_to="wamid.0"))
    receipt = factory.read(reply, quoting)
    assert isinstance(receipt, Refused)
    assert receipt.try_unquoted
    unquoted = attrs.evolve(quoting, unquoted=True)
    assert "quotedMessageId" not in factory.build(unquoted).json
    assert not getattr(factory.read(reply, unquoted), "try_unquoted", False)


ANOTHERS_WORDS = [
    (b"404 page not found", {"content-type": "text/plain"}),
    (b"<html><body>403 Forbidden</body></html>", {"content-type": "text/html"}),
    (b"error code: 1010", {"server": "cloudflare"}),
    (b"", {"cf-mitigated": "challenge"}),
]


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize(("body", "headers"), ANOTHERS_WORDS)
def test_a_proxy_in_front_of_a_messenger_refuses_no_message(side, server, *, status, body, headers):
    """Nor does it as long as a message quotes another."""
    ultramsg = UltraMsgNotifier(base_url=server.url, check_instance=False)
    for notifier in (ultramsg, WhatsAppFactoryNotifier(base_url=server.url), Pager(server.url)):
        server.answers.append((status, body, headers))
        receipt = side.notify(notifier, message(recipient=attrs.evolve(RECIPIENT, reply_to="false_abc")))
        assert isinstance(receipt, NotSent)
        assert not receipt.channel_fault
        assert f"HTTP {status}" in receipt.reason
        assert_tells_no_secret(receipt)


@pytest.mark.parametrize("status", [400, 405, 409, 410, 422, 451])
def test_a_messenger_of_whatsapp_that_speaks_no_json_is_somebody_else(side, server, status):
    for notifier in (
        UltraMsgNotifier(base_url=server.url, check_instance=False),
        WhatsAppFactoryNotifier(base_url=server.url),
    ):
        server.answer(b"<html><title>Bad Request</title></html>", status)
        receipt = side.notify(notifier, message())
        assert isinstance(receipt, NotSent)
        assert "HTML" in receipt.reason
    server.answer(b"<html>413 Request Entity Too Large</html>", 413)
    assert side.notify(UltraMsgNotifier(base_url=server.url, check_instance=False), message()) == Refused("HTTP 413")


def test_a_messengers_own_403_is_about_the_message(side, server):
    """A Telegram user who has blocked the bot, for one."""
    server.answer({"ok": False, "description": "Forbidden: bot was blocked by the user"}, 403)
    assert isinstance(side.notify(Pager(server.url), message()), Refused)


@pytest.mark.parametrize(
    "body", [{}, [], None, b"", b"<html>", {"sent": "true"}, {"sent": "true", "id": ""}, {"id": 5}]
)
def test_a_reply_that_says_neither_leaves_the_fate_of_the_message_open(side, server, ultramsg, body):
    server.answer(body)
    assert isinstance(side.notify(ultramsg, message()), Unknown)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (302, NotSent("HTTP 302: it redirects elsewhere; check the channel's URL")),
        (303, Unknown("HTTP 303: the answer is elsewhere; check the channel's URL")),
        (400, Refused("HTTP 400", try_text=True)),
        (401, NotSent("HTTP 401", channel_fault=False, account_fault=True)),
        (402, NotSent("HTTP 402", channel_fault=False, account_fault=True)),
        (403, Refused("HTTP 403", try_text=False)),
        (404, NotSent("HTTP 404", channel_fault=False, account_fault=True)),
        (405, Refused("HTTP 405", try_text=False)),
        (408, Unknown("HTTP 408")),
        (410, Refused("HTTP 410", try_text=False)),
        (413, Refused("HTTP 413", try_text=True)),
        (423, NotSent("HTTP 423", channel_fault=False, account_fault=True)),
        (429, NotSent("HTTP 429", retry_after_s=7)),
        (500, Unknown("HTTP 500")),
        (502, Unknown("HTTP 502")),
        (503, NotSent("HTTP 503", retry_after_s=7)),
        (504, Unknown("HTTP 504")),
    ],
)
def test_each_status_says_whether_the_message_may_have_gone_out(side, server, status, expected):
    server.answer(b"", status, retry_after="7")
    assert side.notify(UltraMsgNotifier(base_url=server.url, check_instance=False), message()) == expected


def test_a_refused_connection_proves_that_nothing_was_sent(side):
    free = Server()
    free.close()
    notifier = UltraMsgNotifier(base_url=free.url, check_instance=False)
    assert isinstance(side.notify(notifier, message()), NotSent)


def test_a_lost_reply_leaves_the_fate_of_the_message_open(side, server, ultramsg):
    server.hang_up()
    assert isinstance(side.notify(ultramsg, message()), Unknown)
    assert len(server.seen) == 1


def test_only_failures_before_the_request_promise_that_nothing_was_sent():
    kinds = {kind: type(receipt_for_failure(HttpFailure(kind=kind, detail="x"))) for kind in FailureKind}
    assert {kind for kind, receipt in kinds.items() if receipt is NotSent} == {
        FailureKind.CONNECT,
        FailureKind.CONNECT_TIMEOUT,
        FailureKind.POOL_TIMEOUT,
        FailureKind.TOO_LATE,
        FailureKind.NOT_PUBLIC,
        FailureKind.INCOMPLETE,
    }
    assert {kind for kind, receipt in kinds.items() if receipt is Refused} == {FailureKind.INVALID}


def test_what_a_provider_quotes_back_never_gets_into_a_receipt(side, server, ultramsg):
    quoted = f"to {PHONE} (+54 9 11-2233-4455) by {TOKEN} from {URL}"
    for body, status in (({"error": quoted}, 200), ({"sent": "false", "message": quoted}, 200), ({"why": quoted}, 400)):
        server.answer(body, status)
        receipt = side.notify(ultramsg, message())
        assert isinstance(receipt, Refused)
        assert_tells_no_secret(receipt)
        assert "2233" not in receipt.reason


def test_a_message_id_that_holds_the_number_loses_it(side, server, ultramsg):
    server.answer({"sent": "true", "id": f"true_{PHONE}@c.us_3EB0"})
    assert side.notify(ultramsg, message()) == Delivered("true_[redacted]@c.us_3EB0")


def test_nothing_that_holds_a_secret_shows_it(ultramsg):
    notifier = UltraMsgNotifier(token=TOKEN, base_url="https://files.example")
    sent = message()
    assert_tells_no_secret(notifier, ultramsg.build(sent), ultramsg.build_look_up(sent), WhatsAppFactoryNotifier)


def test_no_log_record_tells_a_secret_even_when_everything_is_logged(side, server, caplog):
    """The token of a look-up and of a status request is part of their URL."""
    caplog.set_level(logging.DEBUG)
    notifier = UltraMsgNotifier(base_url=server.url)
    side.notify(notifier, message())
    side.look_up(notifier, message())
    server.hang_up()
    side.look_up(notifier, message())
    assert {seen.method for seen in server.seen} == {"GET", "POST"}
    assert_tells_no_secret(caplog.text)


# --- UltraMsg: looking a message up ---------------------------------------------------------------


def listed(*entries, pages=1):
    return {"total": len(entries), "pages": pages, "limit": 100, "page": 1, "messages": list(entries)}


def entry(status, reference="vp-1", body=TEXT):
    return {"id": 1, "referenceId": reference, "to": f"{PHONE}@c.us", "status": status, "body": body}


def test_ultramsg_is_asked_by_reference(side, server, ultramsg):
    server.answer(listed(entry("queue")))
    assert side.look_up(ultramsg, message()) is LookupResult.FOUND
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("GET", "/instance1150/messages")
    assert seen.query == {"token": TOKEN, "referenceId": "vp-1", "page": "1", "limit": "100", "status": "all"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (listed(entry("sent")), LookupResult.FOUND),
        (listed(entry("on its way")), LookupResult.FOUND),
        ([entry("sent")], LookupResult.FOUND),
        (listed(entry("invalid"), entry("sent")), LookupResult.FOUND),
        (listed(entry("unsent")), LookupResult.FAILED),
        (listed(entry("invalid")), LookupResult.FAILED),
        (listed(entry("expired")), LookupResult.FAILED),
        (listed(), LookupResult.ABSENT),
        ([], LookupResult.ABSENT),
        (listed(entry("sent", "vp-2")), LookupResult.ABSENT),
        (listed(entry("sent", "vp-2"), pages=3), LookupResult.CANNOT_TELL),
        ([entry("sent", "vp-2")] * 100, LookupResult.CANNOT_TELL),
        ({"error": "try later"}, LookupResult.NO_ANSWER),
        (b"<html>", LookupResult.NO_ANSWER),
        ({"messages": "none"}, LookupResult.NO_ANSWER),
    ],
)
def test_the_list_of_messages_tells_what_became_of_ours(side, server, ultramsg, body, expected):
    server.answer(body)
    assert side.look_up(ultramsg, message()) is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [(status, LookupResult.NO_ANSWER) for status in (401, 403, 404, 429, 502)],
)
def test_a_list_that_is_not_given_tells_nothing(side, server, ultramsg, status, expected):
    """It is asked for again: to call it impossible would send the message a second time, blindly."""
    server.answer(b"404 page not found", status)
    assert side.look_up(ultramsg, message()) is expected


def test_a_video_that_failed_before_says_nothing_about_its_text(side, server, ultramsg):
    """Both have the same reference; taking the one for the other would give up on the user."""
    server.answer(listed(entry("invalid", body=CAPTION)))
    assert side.look_up(ultramsg, message(MessageForm.TEXT)) is LookupResult.ABSENT
    server.answer(listed(entry("invalid", body=CAPTION), entry("invalid", body=TEXT)))
    assert side.look_up(ultramsg, message(MessageForm.TEXT)) is LookupResult.FAILED


def test_no_connection_is_no_answer(side):
    free = Server()
    free.close()
    assert side.look_up(UltraMsgNotifier(base_url=free.url), message()) is LookupResult.NO_ANSWER


def test_a_recipient_that_cannot_be_used_cannot_be_asked_about(side, ultramsg):
    assert side.look_up(ultramsg, message(recipient=None)) is LookupResult.CANNOT_TELL


# --- UltraMsg: an offline instance ----------------------------------------------------------------

OFFLINE = {"status": {"accountStatus": {"status": "disconnected"}}}
STATUS_PATH = "/instance1150/instance/status"


def gated(server, now_s=None):
    notifier = UltraMsgNotifier(base_url=server.url)
    if now_s is not None:
        notifier._lines._clock = lambda: now_s[0]
    return notifier


def test_an_offline_instance_holds_its_messages_back_and_is_asked_every_30_seconds(side, server):
    now_s = [1000.0]
    notifier = gated(server, now_s)
    server.online = OFFLINE
    for _ in range(3):
        held = side.notify(notifier, message())
        assert held == NotSent("the instance is offline: the message is held back", retry_after_s=30, counts=False)
    now_s[0] += 29.9
    assert side.notify(notifier, message()) == held
    assert server.paths() == [STATUS_PATH]
    assert server.seen[0].query == {"token": TOKEN}

    server.online = {"status": {"accountStatus": {"status": "authenticated"}}}
    now_s[0] += 0.1
    assert side.notify(notifier, message()) == Delivered("5225")
    assert side.notify(notifier, message()) == Delivered("5225")
    assert server.paths() == [STATUS_PATH, STATUS_PATH, *["/instance1150/messages/video"] * 2]


def test_each_instance_has_a_line_of_its_own(side, server):
    notifier = gated(server)
    server.online = OFFLINE
    assert isinstance(side.notify(notifier, message()), NotSent)
    server.online = {"status": {"accountStatus": {"status": "authenticated"}}}
    other = message(recipient=attrs.evolve(RECIPIENT, instance_id="instance2"))
    assert side.notify(notifier, other) == Delivered("5225")


@pytest.mark.parametrize(
    "status", [None, [], {"error": "no"}, {"status": None}, {"status": {"accountStatus": {"status": 7}}}, b"<html>"]
)
def test_a_status_that_is_not_understood_is_no_reason_to_wait(side, server, status):
    server.online = status
    assert side.notify(gated(server), message()) == Delivered("5225")


def test_messages_that_come_while_the_status_is_asked_wait_for_the_answer(server):
    """Otherwise the first batch after a start would be the burst that is to be avoided."""
    server.online, server.status_gate = OFFLINE, threading.Event()
    notifier = gated(server)
    with ThreadPoolExecutor(4) as pool:
        threads = [pool.submit(notifier.notify, message()) for _ in range(4)]

        async def several():
            tasks = [asyncio.create_task(notifier.anotify(message())) for _ in range(4)]
            await asyncio.sleep(0)
            server.status_gate.set()
            receipts = await asyncio.gather(*tasks)
            await notifier.aclose()
            return receipts

        receipts = asyncio.run(several()) + [thread.result() for thread in threads]
    notifier.close()
    assert {type(receipt) for receipt in receipts} == {NotSent}
    assert server.paths() == [STATUS_PATH]


def test_whoever_is_cancelled_while_asking_leaves_nobody_waiting(server):
    server.status_gate = threading.Event()
    notifier = gated(server)

    async def cancelled_then_sent():
        asking = asyncio.create_task(notifier.anotify(message()))
        await asyncio.to_thread(server.status_asked.wait, 10)
        waiting = asyncio.create_task(notifier.anotify(message()))
        await asyncio.sleep(0)
        asking.cancel()
        receipt = await waiting
        server.status_gate.set()
        await notifier.aclose()
        return asking.cancelled(), receipt

    assert asyncio.run(cancelled_then_sent()) == (True, Delivered("5225"))


# --- WhatsApp Factory -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", MessageForm)
def test_whatsapp_factory_sends_a_text_with_the_link_whatever_form_is_asked_for(side, server, form):
    server.answer({"messageId": "wamid.1"})
    recipient = attrs.evolve(RECIPIENT, instance_id="wf-1", reply_to="wamid.0", to="+54 9 11 2233-4455@c.us")
    notifier = WhatsAppFactoryNotifier(base_url=server.url)
    assert side.notify(notifier, message(form, recipient=recipient)) == Delivered("wamid.1")
    (seen,) = server.seen
    assert (seen.method, seen.target) == ("POST", "/v1/api/whatsapp/wf-1/send/text")
    assert seen.headers["x-api-key"] == TOKEN
    assert seen.headers["content-type"] == "application/json"
    assert seen.json == {"to": PHONE, "text": TEXT, "quotedMessageId": "wamid.0"}
    assert notifier.build(message()).timeout_s == 15


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"id": 7}, 201, Delivered("7")),
        ({"messageId": "", "id": "x"}, 200, Delivered("x")),
        ({"error": "number has no WhatsApp"}, 200, Refused("number has no WhatsApp", try_text=False)),
        ({"success": False, "message": "Invalid number"}, 200, Refused("Invalid number", try_text=False)),
        ({"status": "error", "message": "too many requests"}, 200, NotSent("too many requests", channel_fault=False)),
        (
            {"error": {"code": 429, "message": "slow"}},
            200,
            NotSent("slow 429", channel_fault=False),
        ),
        ({"success": False}, 200, NotSent("no reason is given")),
        ({"error": "odd"}, 200, NotSent("odd")),
        ({"success": True, "data": {"key": {"id": "3EB0"}}}, 200, Unknown("the reply has no message id")),
        ({"ok": True}, 200, Unknown("the reply has no message id")),
        ({"id": True}, 200, Unknown("the reply has no message id")),
        ([], 200, Unknown("HTTP 200, whose body is not a JSON object")),
        (
            {"message": "bad key"},
            401,
            NotSent("HTTP 401: {'message': 'bad key'}", channel_fault=False, account_fault=True),
        ),
        (
            {"error": "Instance is not connected"},
            400,
            NotSent("HTTP 400: {'error': 'Instance is not connected'}", channel_fault=False),
        ),
        ({"error": "bad text"}, 400, Refused("HTTP 400: {'error': 'bad text'}", try_text=False)),
        (b"", 429, NotSent("HTTP 429")),
    ],
)
def test_whatsapp_factory_needs_a_message_id_for_a_success(side, server, body, status, expected):
    server.answer(body, status)
    assert side.notify(WhatsAppFactoryNotifier(base_url=server.url), message()) == expected


def test_whatsapp_factory_cannot_be_asked_about_a_message(side, server):
    assert side.look_up(WhatsAppFactoryNotifier(base_url=server.url), message()) is LookupResult.CANNOT_TELL
    assert not server.seen


# --- webhooks -------------------------------------------------------------------------------------

KEYS = [bytes(range(32)), bytes(range(1, 25))]
SECRETS = ["whsec_" + base64.b64encode(key).decode() for key in KEYS]
SECRET = SECRETS[0]


def test_a_webhook_is_signed_after_the_standard_with_every_secret(side, server):
    notifier = WebhookNotifier(f"{server.url}/hook?x=1", secret=SECRETS, clock=lambda: 1_757_157_600.9)
    server.answer(b"", 204)
    assert side.notify(notifier, message()) == Delivered()
    (seen,) = server.seen
    assert (seen.method, seen.target) == ("POST", "/hook?x=1")
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["webhook-id"] == "vp-1"
    assert seen.headers["webhook-timestamp"] == "1757157600"
    signed = b"vp-1.1757157600." + seen.body
    assert seen.headers["webhook-signature"].split(" ") == [
        "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in KEYS
    ]
    assert seen.json == {
        "type": "video.completed",
        "timestamp": "2025-09-06T11:19:23.747Z",
        "data": {"jobId": JOB.job_id, "conversationId": "68bb3c35", "success": True, "videoUrl": URL, "fileId": None},
    }


def test_a_webhook_about_a_failure_has_the_operators_reason(side, server):
    side.notify(WebhookNotifier(server.url, secret=SECRET), failure_notice())
    body = server.seen[0].json
    assert body["type"] == "video.failed"
    assert body["data"]["error"] == "content policy"
    assert "videoUrl" not in body["data"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Delivered()),
        (299, Delivered()),
        (404, NotSent("HTTP 404")),
        (410, Refused("HTTP 410", try_text=False)),
        (429, NotSent("HTTP 429")),
        (502, Unknown("HTTP 502")),
        (503, NotSent("HTTP 503")),
    ],
)
def test_a_webhook_that_is_not_taken_is_tried_again_unless_it_is_gone(side, server, status, expected):
    server.answer(b"", status)
    assert side.notify(WebhookNotifier(server.url, secret=SECRET), message()) == expected


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_short", "whsec_c2hvcnQ=", "not base64!", [], ["whsec_%%"]])
def test_a_secret_that_cannot_sign_is_refused(secret):
    with pytest.raises(ConfigurationError, match="secret"):
        WebhookNotifier("https://hooks.example", secret=secret)


# --- routing --------------------------------------------------------------------------------------


class Recording:
    def __init__(self, receipt=None):
        self.got = []
        self.receipt = receipt

    def notify(self, what):
        self.got.append(what)
        return self.receipt


class AsyncRecording(Recording):
    async def notify(self, what):
        await asyncio.sleep(0)
        return super().notify(what)


UNROUTED = message(recipient=None)


def test_the_host_is_asked_for_the_recipient_when_the_message_is_sent(side):
    asked, channel, other = [], Recording(), Recording()
    english = attrs.evolve(RECIPIENT, language="en-US")
    router = RoutingNotifier({"ultramsg": channel, "other": other}, resolve=lambda name: asked.append(name) or english)
    assert side.notify(router, UNROUTED) == Delivered()
    (got,) = channel.got
    assert asked == ["68bb3c35"]
    assert got == attrs.evolve(UNROUTED, recipient=english, language="en-US")
    assert got.caption == "🎥 Your video is ready! It took 45 seconds to generate."
    assert not other.got


def test_the_channels_own_receipt_and_exceptions_come_through(side):
    refused = Refused("no")
    assert (
        side.notify(RoutingNotifier({"ultramsg": Recording(refused)}, resolve=lambda _: RECIPIENT), UNROUTED) == refused
    )

    broken = CallbackNotifier(raising(NotSentError("busy", retry_after_s=3)))
    with pytest.raises(NotSentError):
        side.notify(RoutingNotifier({"ultramsg": broken}, resolve=lambda _: RECIPIENT), UNROUTED)


def test_the_message_keeps_its_language_when_the_recipient_has_none(side):
    channel = Recording()
    side.notify(
        RoutingNotifier({"ultramsg": channel}, resolve=lambda _: RECIPIENT), attrs.evolve(UNROUTED, language="en")
    )
    assert channel.got[0].language == "en"


def raising(error):
    def resolve(_):
        raise error

    return resolve


@pytest.mark.parametrize(
    ("resolve", "hint"),
    [
        (raising(LookupError(f"{PHONE} token={TOKEN} at postgres://u:{TOKEN}@db")), "resolve raised LookupError"),
        (lambda _: None, "resolve gave NoneType instead of a Recipient"),
        (lambda _: {"channel": "ultramsg", "to": PHONE}, "resolve gave dict"),
        (lambda _: Recipient(channel=f"x{PHONE}", to=PHONE), "a channel that is not here; those that are: ultramsg"),
        (raising(NotSentError("database is down")), "database is down"),
    ],
)
def test_while_the_host_cannot_say_who_gets_it_nothing_is_sent_and_it_is_tried_again(side, resolve, hint):
    channel = Recording()
    router = RoutingNotifier({"ultramsg": channel}, resolve=resolve)
    receipt = side.notify(router, UNROUTED)
    assert isinstance(receipt, NotSent)
    assert hint in receipt.reason
    assert_tells_no_secret(receipt)
    assert side.look_up(router, UNROUTED) is LookupResult.NO_ANSWER
    assert not channel.got


def test_a_host_may_refuse_a_message_for_good(side):
    router = RoutingNotifier({"ultramsg": Recording()}, resolve=raising(RefusedError("user is gone", try_text=False)))
    assert side.notify(router, UNROUTED) == Refused("user is gone", try_text=False)


async def aresolve(_):
    await asyncio.sleep(0)
    return RECIPIENT


class CallableResolver:
    async def __call__(self, conversation_id):
        return await aresolve(conversation_id)


@pytest.mark.parametrize("resolve", [aresolve, CallableResolver(), lambda name, /: aresolve(name)])
def test_asynchronous_parts_work_under_asyncio_and_name_the_right_runner_elsewhere(resolve):
    channel = AsyncRecording()
    router = RoutingNotifier({"ultramsg": channel}, resolve=resolve)
    assert router.async_only
    assert asyncio.run(router.anotify(UNROUTED)) == Delivered()
    assert channel.got[0].recipient is RECIPIENT
    for call in (router.notify, router.look_up):
        with pytest.raises(TypeError, match="AsyncRunner"):
            call(UNROUTED)
    with pytest.raises(TypeError, match="AsyncRunner"):
        RoutingNotifier({"ultramsg": channel}, resolve=lambda _: RECIPIENT).notify(UNROUTED)


def test_a_router_of_sync_parts_serves_both_runners():
    parts = {"ultramsg": UltraMsgNotifier(), "silent": SilentNotifier(), "own": CallbackNotifier(print)}
    assert not RoutingNotifier(parts, resolve=lambda _: RECIPIENT).async_only
    assert RoutingNotifier({**parts, "own": CallbackNotifier(aresolve)}, resolve=lambda _: RECIPIENT).async_only


def test_under_asyncio_sync_functions_run_in_a_thread_with_the_context():
    variable = contextvars.ContextVar("variable")
    seen = []

    def resolve(_):
        seen.append((variable.get(), threading.current_thread()))
        return RECIPIENT

    def callback(_):
        seen.append((variable.get(), threading.current_thread()))

    variable.set("set")
    asyncio.run(RoutingNotifier({"ultramsg": CallbackNotifier(callback)}, resolve=resolve).anotify(UNROUTED))
    assert [value for value, _ in seen] == ["set", "set"]
    assert threading.current_thread() not in [thread for _, thread in seen]


def test_a_look_up_goes_to_the_messages_channel(side, server, ultramsg):
    server.answer(listed(entry("sent")))
    assert (
        side.look_up(RoutingNotifier({"ultramsg": ultramsg}, resolve=lambda _: RECIPIENT), UNROUTED)
        is LookupResult.FOUND
    )


def test_a_channel_that_cannot_be_asked_cannot_tell(side):
    router = RoutingNotifier({"ultramsg": Recording()}, resolve=lambda _: RECIPIENT)
    assert side.look_up(router, UNROUTED) is LookupResult.CANNOT_TELL


def test_without_a_resolver_the_recipient_may_stand_in_the_jobs_metadata(side):
    channel = Recording()
    router = RoutingNotifier.from_metadata({"ultramsg": channel})
    metadata = {"channel": "ultramsg", "to": PHONE, "language": "en", "reply_to": 7, "token": "ignored"}
    side.notify(router, attrs.evolve(UNROUTED, job=attrs.evolve(JOB, metadata=metadata)))
    assert channel.got[0].recipient == Recipient(channel="ultramsg", to=PHONE, language="en")
    assert not router.async_only
    missing = side.notify(router, UNROUTED)
    assert isinstance(missing, Refused)
    assert "metadata" in missing.reason
    unknown = side.notify(router, attrs.evolve(UNROUTED, job=attrs.evolve(JOB, metadata={**metadata, "channel": "x"})))
    assert unknown.reason == "the job names a channel that is not here; those that are: ultramsg"


def test_closing_a_router_closes_its_channels():
    closed = []

    class Closing(Recording):
        def close(self):
            closed.append("close")

    class AsyncClosing(AsyncRecording):
        async def close(self):
            closed.append("async close")

    router = RoutingNotifier({"a": Closing(), "b": AsyncClosing(), "c": Recording()}, resolve=lambda _: RECIPIENT)
    router.close()
    assert closed == ["close"]
    asyncio.run(router.aclose())
    assert closed == ["close", "close", "async close"]


@pytest.mark.parametrize(
    ("channels", "resolve"), [({}, print), ({"x": object()}, print), ({"x": SilentNotifier()}, "not callable")]
)
def test_a_router_that_cannot_work_is_refused(channels, resolve):
    with pytest.raises(ConfigurationError):
        RoutingNotifier(channels, resolve=resolve)


# --- the small channels ---------------------------------------------------------------------------


def test_a_callback_gets_the_message(side):
    got = []
    assert side.notify(CallbackNotifier(got.append), UNROUTED) is None
    assert got == [UNROUTED]


def test_an_async_callback_needs_the_async_runner():
    async def callback(_):
        return Refused("no")

    notifier = CallbackNotifier(callback)
    assert notifier.async_only
    assert asyncio.run(notifier.anotify(UNROUTED)) == Refused("no")
    with pytest.raises(TypeError, match="AsyncRunner"):
        notifier.notify(UNROUTED)


def test_what_cannot_be_called_is_no_callback():
    with pytest.raises(ConfigurationError, match="function of the message"):
        CallbackNotifier("print")


def test_the_silent_channel_calls_everything_delivered(side):
    assert isinstance(side.notify(SilentNotifier(), UNROUTED), Delivered)


class FakeApprise:
    """Stands in for the optional library: what is tested here is our side of it."""

    sent: ClassVar = []

    def __init__(self):
        self.urls = []

    def add(self, services):
        for one in services:
            many = isinstance(one, str) and one.startswith("many://")
            self.urls.append(ManyTargets(one.split("/")[3:]) if many else one)
        return all(not isinstance(one, str) or "://" in one for one in services)

    def __iter__(self):
        return iter(self.urls)

    def notify(self, *, body):
        (one,) = self.urls
        targets = getattr(one, "targets", one)
        self.sent.append(([targets], body))
        if "boom" in targets:
            msg = "boom"
            raise OSError(msg)
        return "fail" not in targets

    async def async_notify(self, *, body):
        return self.notify(body=body)


class ManyTargets:
    """A service of Apprise that one URL gives several targets."""

    def __init__(self, targets):
        self.targets = targets


@pytest.fixture
def apprise(monkeypatch):
    module = type("module", (), {"Apprise": FakeApprise})
    monkeypatch.setitem(sys.modules, "apprise", module)
    monkeypatch.setattr(FakeApprise, "sent", [])
    return FakeApprise


def test_apprise_sends_the_text_with_the_link(side, apprise):
    assert side.notify(AppriseNotifier("tgram://t/1"), message()) == Delivered()
    assert side.notify(AppriseNotifier(lambda what: [f"sms://{what.recipient.to}"]), message()) == Delivered()
    assert apprise.sent == [(["tgram://t/1"], TEXT), ([f"sms://{PHONE}"], TEXT)]


def test_a_failure_of_apprise_leaves_the_fate_of_the_message_open(side, apprise):
    assert isinstance(side.notify(AppriseNotifier("fail://x"), message()), Unknown)


@pytest.mark.parametrize("trouble", ["fail", "boom"])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_an_apprise_service_that_took_the_message_never_gets_it_again(side, apprise, caplog, trouble, where):
    """One of three is down: the message counts as delivered, and the log says who has none."""
    urls = [f"ok://{number}" for number in range(3)]
    urls[where] = f"{trouble}://{where}"
    receipt = side.notify(AppriseNotifier(urls), message())
    assert receipt == Delivered(detail="1 of 3 services did not take it")
    assert sorted(sent for (sent,), _ in apprise.sent) == sorted(urls)
    assert "1 of 3 services did not take the message" in caplog.text
    assert_tells_no_secret(receipt, caplog.text)


def test_an_apprise_url_with_several_targets_is_sent_to_each_by_itself(side, apprise):
    """As Apprise itself sends to all of them again when one has failed."""
    receipt = side.notify(AppriseNotifier("many://token/1/fail/3"), message())
    assert receipt == Delivered(detail="1 of 3 services did not take it")
    assert [targets for (targets,), _ in apprise.sent] == [["1"], ["fail"], ["3"]]


def test_when_no_apprise_service_takes_it_the_fate_of_the_message_is_open(side, apprise):
    receipt = side.notify(AppriseNotifier(["fail://1", "fail://2"]), message())
    assert receipt == Unknown("Apprise could not send to any of 2 services")
    with pytest.raises(OSError, match="boom"):
        side.notify(AppriseNotifier("boom://1"), message())


def test_one_bad_apprise_url_of_several_is_refused_as_a_whole(apprise):
    with pytest.raises(ConfigurationError):
        AppriseNotifier(["ok://1", "nothing"])


def test_apprise_urls_that_cannot_work_are_refused_without_quoting_them(side, apprise):
    for urls in (f"{TOKEN}", []):
        with pytest.raises(ConfigurationError) as caught:
            AppriseNotifier(urls)
        assert_tells_no_secret(caught.value)
    with pytest.raises(RefusedError):
        side.notify(AppriseNotifier(lambda _: TOKEN), message())
    with pytest.raises(NotSentError, match="raised KeyError") as caught:
        side.notify(AppriseNotifier(raising(KeyError(TOKEN))), message())
    assert_tells_no_secret(caught.value)


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ImportError, match=r"pip install videopoll\[apprise\]"):
        AppriseNotifier("tgram://t/1")


# --- a channel of the host's own ------------------------------------------------------------------


class Pager(HttpNotifier):
    forms = frozenset({MessageForm.TEXT})

    def __init__(self, url, *, build_error=None, read_error=None):
        super().__init__()
        self._url, self._build_error, self._read_error = url, build_error, read_error

    def build(self, what):
        if self._build_error:
            raise self._build_error
        return HttpRequest(method="POST", url=self._url, json={"text": what.text, "form": what.form}, timeout_s=5)

    def read(self, reply, what):
        if self._read_error:
            raise self._read_error
        return receipt_for_status(reply) or Delivered()


def test_a_channel_of_two_pure_methods_serves_both_sides(side, server):
    assert side.notify(Pager(server.url), message()) == Delivered()
    assert server.seen[0].json == {"text": TEXT, "form": "text"}
    assert side.look_up(Pager(server.url), message()) is LookupResult.CANNOT_TELL


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError(f"bad number {PHONE}"), Refused("ValueError: bad number [redacted]", try_text=False)),
        (RefusedError("too long"), Refused("too long", try_text=False)),  # it was a text
        (NotSentError("busy", retry_after_s=9), NotSent("busy", retry_after_s=9)),
    ],
)
def test_an_error_while_building_the_request_sends_nothing(side, server, error, expected):
    assert side.notify(Pager(server.url, build_error=error), message()) == expected
    assert not server.seen


def test_an_error_while_reading_the_reply_leaves_the_fate_of_the_message_open(side, server):
    receipt = side.notify(Pager(server.url, read_error=KeyError(TOKEN)), message())
    assert receipt == Unknown("HTTP 200, whose body could not be read: KeyError")


def test_a_request_that_cannot_be_sent_is_refused(side):
    assert isinstance(side.notify(Pager("http://x/ö"), message()), Refused)


# --- properties -----------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["error", "sent", "id", "message", "messages", "status", "pages"]), inner)
    ),
    max_leaves=12,
)
bodies = st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode())
channels = st.sampled_from(
    [
        UltraMsgNotifier(),
        WhatsAppFactoryNotifier(base_url="https://wf.example"),
        WebhookNotifier("https://hooks.example", secret=SECRET),
    ]
)


@given(channels, st.integers(100, 599), bodies, st.text(max_size=20), st.sampled_from(MessageForm))
def test_any_reply_gives_a_receipt_and_a_sighting(notifier, status, body, retry_after, form):
    reply = HttpReply(status=status, headers={"retry-after": retry_after}, body=body)
    receipt = notifier.read(reply, message(form))
    assert isinstance(receipt, Delivered | NotSent | Refused | Unknown)
    if isinstance(receipt, Delivered):
        assert 200 <= status < 300
    assert isinstance(notifier.read_look_up(reply, message(form)), LookupResult)
    cleaned = notifier._cleaned(receipt, message(form))
    assert type(cleaned) is type(receipt)
    assert len(getattr(cleaned, "reason", "")) <= 200


@given(st.text(st.characters(codec=None), max_size=60))
def test_any_text_becomes_one_printable_line(text):
    line = redact(text)
    assert line == "" or line.isprintable()
    assert line.encode() is not None


@pytest.mark.parametrize(
    ("secret", "text", "expected"),
    [
        ("1", "HTTP 401: 1 of 1", "HTTP 401: 1 of 1"),
        ("ok", "not ok: token is broken", "not ok: token is broken"),
        ("line", "offline, line 3: pipeline", "offline, [redacted] 3: pipeline"),
        ("café", "café and cafés", "[redacted] and cafés"),
        ("secret", "mysecrets", "my[redacted]s"),
    ],
)
def test_a_short_secret_does_not_spoil_the_words_of_a_reason(secret, text, expected):
    """One of up to three characters is a word like any other; a long one goes wherever it stands."""
    assert redact(text, secret) == expected


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_secret_never_survives(before, after):
    assert "t0k€n-x" not in redact(before + "t0k€n-x" + after, "t0k€n-x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("call +54 9 11 2233-4455 now", "call +[number] now"),
        ("see https://x.example/a?b=c, please", "see [url] please"),
        ("token=abc&x=1", "token=[redacted]&x=1"),
        ('{"api_key": "abc"}', '{"api_key": [redacted]}'),
        ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
        ("Wrong token. Please provide token", "Wrong token. Please provide token"),
        ("line\nbreak\x00\ud83c", "line break"),
        ("x" * 500, "x" * 199 + "…"),
    ],
)
def test_foreign_texts_are_made_fit_for_logs(text, expected):
    assert redact(text) == expected


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "address"),
    [
        (PHONE, PHONE),
        ("+44 7911 123456", "447911123456"),
        ("+1 (415) 555-0123", "14155550123"),
        ("(+54) 9 11 2233.4455", PHONE),
        ("+33.6.12.34.56.78", "33612345678"),
        ("+225 07 12 34 56 78", "2250712345678"),
        ("+39 06 698 1234", "39066981234"),
        (f" {PHONE} ", PHONE),
        (f"{PHONE}@c.us", PHONE),
        ("+54 9 11 2233-4455@s.whatsapp.net", PHONE),
        ("120363025246125486@g.us", "120363025246125486@g.us"),
        ("5491122334455-1423455555@g.us", "5491122334455-1423455555@g.us"),
        ("٥٤٩١١٢٢٣٣", "549112233"),
        ("1" * 15, "1" * 15),
    ],
)
def test_an_address_that_says_whom_it_names_is_taken(written, address):
    assert whatsapp_address(written) == address


STRANGERS = {
    "a device of a user": "5491155550001:12@s.whatsapp.net",
    "a device, bare": "5491155550001:1",
    "a trunk zero": "+44 (0)7911 123456",
    "a trunk zero with spaces": "+44 ( 0 ) 7911 123456",
    "a trunk zero before an area": "+49 (0171) 1234567",
    "a trunk zero by itself": "+44 0 7911 123456",
    "dialled from Europe": "0049171123456",
    "dialled from Europe, spaced": "00 49 171 123456",
    "dialled from within": "011 15-5555-0000",
    "a zero in front": "+0 49 171 123456",
    "a user id of Meta": "US.13491208655302741918",
    "a user id of Meta, short": "US.1349120865530",
    "two numbers": f"{PHONE} 5491155550001",
    "two numbers, a slash": f"{PHONE}/5491155550001",
    "two numbers, a semicolon": "5491155;5491156",
    "two numbers on two lines": "5491155\n5491156",
    "two numbers in two columns": "5491155\t5491156",
    "two numbers in two words": "5491155 and 5491156",
    "an extension": "+1 415 555 0123 x123",
    "an extension of RFC 3966": "tel:+14155550123;ext=123",
    "a link": "tel:+14155550123",
    "a link of WhatsApp": "https://wa.me/14155550123",
    "an address of Twilio": "whatsapp:+14155550123",
    "a pause": "14155550123p12",
    "a pause of digits": "14155550123*12#",
    "a fraction of a spreadsheet": f"{PHONE}.0",
    "a power of a spreadsheet": "5.49112233E+12",
    "a chat id of another messenger": "-1001234567890",
    "a hidden id": "227650123456789@lid",
    "a broadcast": "5491155550001@broadcast",
    "a newsletter": "120363025246125486@newsletter",
    "a group that is none": "5491155550001@g.us.example",
    "a group without its ending": "120363025246125486",
    "two chats": f"{PHONE}@c.us{PHONE}@c.us",
    "a mail address": "5491155550001@example.org",
    "an emoji": "54911\u0035\ufe0f\u20e355550001",
    "a superscript": "5491155550001²",
    "a circled digit": "549115555000①",
    "a zero-width space": "5491155550001\u200b2",
    "a direction mark": "\u202a5491155550001\u202c",
    "a newline behind": f"{PHONE}\n",
    "a letter that looks like a digit": "549115555OOO1",
    "a name": "Ana 5491155550001",
    "too few": "1234",
    "too many": "1" * 16,
    "nothing": "",
    "no digits": "+ ( ) - .",
    "null": "None",
    "hexadecimal": "0x13be8d2c3a1",
    "a comma": f"{PHONE},5491199999999",
    "a comma of decimals": "5491122334455,00",
}


@pytest.mark.parametrize("written", STRANGERS.values(), ids=STRANGERS)
def test_an_address_that_would_have_to_be_guessed_at_reaches_nobody(side, server, written):
    with pytest.raises(RefusedError, match="the recipient's address") as caught:
        whatsapp_address(written)
    assert not caught.value.try_text
    receipt = side.notify(
        WhatsAppFactoryNotifier(base_url=server.url), message(recipient=attrs.evolve(RECIPIENT, to=written))
    )
    assert receipt == Refused(caught.value.reason, try_text=False)  # the sentence comes through whole
    assert not server.seen


def test_a_hidden_id_goes_to_the_messenger_that_may_know_it(side, server, ultramsg):
    hidden = "227650123456789@lid"
    assert side.notify(ultramsg, message(recipient=attrs.evolve(RECIPIENT, to=hidden))) == Delivered("5225")
    assert server.seen[0].json["to"] == hidden
    assert isinstance(
        side.notify(ultramsg, message(recipient=attrs.evolve(RECIPIENT, to="227650123456789:3@lid"))), Refused
    )
    assert len(server.seen) == 1


@pytest.mark.parametrize("to", [None, 5491122334455.0, True, b"5491122334455"])
def test_a_value_that_would_change_its_digits_on_becoming_a_text_is_no_address(to):
    with pytest.raises(ConfigurationError, match=r"Recipient\.to"):
        Recipient(channel="ultramsg", to=to)


def test_a_whole_number_is_an_address():
    assert Recipient(channel="ultramsg", to=5491122334455).to == PHONE


separators = st.text("+-() .", max_size=2)


@given(st.text("123456789", min_size=5, max_size=15), st.lists(separators, min_size=16, max_size=16), st.booleans())
def test_a_number_is_reduced_to_its_digits(digits, between, suffixed):
    written = "".join(gap + digit for gap, digit in zip(between, digits, strict=False)) + between[-1]
    assume(not written.strip().startswith("-"))
    assert whatsapp_address(written + "@c.us" * suffixed) == digits


@given(st.text("0123456789-", min_size=1, max_size=40))
def test_a_groups_chat_id_goes_as_it_is(name):
    assert whatsapp_address(f"{name}@g.us") == f"{name}@g.us"


near_addresses = st.text(st.sampled_from("0123456789+-() .,:;@xlidcusg\u200b\n\t٥²"), max_size=40)


@given(st.text(max_size=40) | near_addresses, st.booleans())
def test_whatever_is_written_it_reaches_the_one_whom_it_names_or_nobody(to, hidden_ids):
    try:
        address = whatsapp_address(to, hidden_ids=hidden_ids)
    except RefusedError:
        return
    if address.isdigit():
        written = to.strip().removesuffix("@c.us").removesuffix("@s.whatsapp.net")
        assert [int(digit) for digit in address] == [int(character) for character in written if character.isdecimal()]
        assert all(character.isdecimal() or character in "+-() ." for character in written)
        assert not address.startswith("0")
        assert address.isascii()
        assert 5 <= len(address) <= 15
    else:
        assert address == to.strip()
        assert address.endswith("@g.us") or (hidden_ids and address.endswith("@lid"))


def test_redaction_of_a_large_reply_takes_no_time():
    began_s = time.perf_counter()
    for text in ("1" * 200_000, "token=" * 40_000, "http://" * 40_000, "a" * 300_000, "1 - " * 60_000):
        redact(text)
    assert time.perf_counter() - began_s < 5


@pytest.mark.parametrize(
    ("status", "body", "refused"),
    [
        (401, b"", True),
        (404, b'{"error": "instance not found"}', True),
        (404, b"404 page not found", True),
        (429, b"", False),
        (200, b'{"error": "Wrong token, please provide token as a GET parameter"}', True),
        (200, b'{"sent": "false", "message": "throttled"}', False),
    ],
)
def test_a_refusal_of_the_account_is_told_from_one_of_the_moment(status, body, refused):
    receipt = UltraMsgNotifier().read(HttpReply(status=status, headers={}, body=body), message())
    assert isinstance(receipt, NotSent)
    assert receipt.account_fault is refused


@pytest.mark.parametrize("said", ["timeout", "Internal error", "upstream answered 502"])
def test_what_a_gateway_says_of_itself_inside_a_200_leaves_the_fate_of_the_message_open(said):
    """As an HTTP 500 does: it may have taken the message before, and must not get it forty times."""
    body = json.dumps({"error": said}).encode()
    assert isinstance(UltraMsgNotifier().read(HttpReply(status=200, headers={}, body=body), message()), Unknown)
    refused = json.dumps({"sent": "false", "message": said}).encode()
    assert isinstance(UltraMsgNotifier().read(HttpReply(status=200, headers={}, body=refused), message()), NotSent)
