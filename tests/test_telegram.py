"""Telegram: which form goes out, what each of its errors comes to, and where a chat has moved."""

from __future__ import annotations

import contextlib
import json

import attrs
import pytest

from videopoll import ConfigurationError, Recipient
from videopoll.jobs import MessageForm
from videopoll.messages import Delivered, NotSent, Refused, Unknown
from videopoll.notifiers import HttpReply, TelegramNotifier
from videopoll.testing import FakeServer, FakeTelegram, NotifierContract, Reply, build_message, build_outcome

TOKEN = "123:s3cr3t-token-of-a-bot"
CHAT = "4242"
VIDEO = b"\0\0\0\x18ftypmp42" + bytes(200_000)


class TestTelegram(NotifierContract):
    """What every channel keeps to."""

    accepted = Reply.json({"ok": True, "result": {"message_id": 17, "video": {}}})
    refused = Reply.json({"ok": False, "error_code": 400, "description": "Bad Request: chat not found"}, status=400)
    recipient = Recipient(channel="telegram", to=CHAT)

    def make_notifier(self, base_url):
        return TelegramNotifier(token=TOKEN, base_url=base_url)


class World:
    def __init__(self, kind, call, stack):
        self.kind, self.call = kind, call
        self.telegram = stack.enter_context(FakeTelegram(token=TOKEN))
        self.storage = stack.enter_context(FakeServer())
        self.storage.route("GET", "/1.mp4", Reply(body=VIDEO, headers={"content-type": "video/mp4"}))
        self.channel = TelegramNotifier(token=TOKEN, base_url=self.telegram.url, trusted_hosts={"127.0.0.1"})

    @property
    def inbox(self):
        return [(one.to, one.kind, one.video or one.file, one.reply_to) for one in self.telegram.messages]

    def send(self, form="video", *, channel=None, to=CHAT, reply_to=None, token=None, **changes):
        outcome = build_outcome(video_url=f"{self.storage.url}/1.mp4?sig=1")
        recipient = Recipient(channel="telegram", to=to, reply_to=reply_to, token=token)
        message = attrs.evolve(build_message(outcome, form=form, recipient=recipient), **changes)
        channel = channel or self.channel
        if self.kind == "sync":
            receipt = channel.notify(message)
            channel.close()
        else:
            receipt = self.call(channel.anotify(message))
            self.call(channel.aclose())
        return receipt


@pytest.fixture(autouse=True)
def without_a_gap(monkeypatch):
    """A chat gets many messages here; what a gap does stands in test_pace."""
    monkeypatch.setattr(TelegramNotifier, "gap_s", 0.0)


@pytest.fixture
def world(kind, call):
    with contextlib.ExitStack() as stack:
        yield World(kind, call, stack)


def test_a_video_goes_by_its_link_and_can_be_streamed(world):
    receipt = world.send(reply_to="99")

    link = f"{world.storage.url}/1.mp4?sig=1"
    assert world.inbox == [(CHAT, "video", link, "99")]
    assert (receipt.message_id, receipt.form) == (world.telegram.messages[0].id, MessageForm.VIDEO)
    [request] = world.telegram.requests
    assert request.path == f"/bot{TOKEN}/sendVideo"
    assert request.body["supports_streaming"] is True
    assert request.body["reply_parameters"] == {"message_id": 99, "allow_sending_without_reply": True}
    assert not world.storage.requests, "Telegram fetches it"


@pytest.mark.parametrize(
    "why",
    [
        "failed to get HTTP URL content",
        "wrong HTTP URL specified",
        "wrong file identifier/HTTP URL specified",
        "wrong type of the web page content",
        "can't upload file by URL",
        "wrong remote file identifier specified: Wrong padding length",
    ],
)
def test_a_link_that_telegram_does_not_take_is_followed_by_an_upload(world, why):
    """Over 20 MB it says the same as for a link that does not open."""
    world.telegram.refuse_links(why)
    refused = world.send()
    assert (type(refused), refused.then) == (Refused, MessageForm.UPLOAD)

    receipt = world.send("upload", reply_to="99")
    assert isinstance(receipt, Delivered)
    assert world.inbox == [(CHAT, "video", VIDEO, "99")]
    assert b'"allow_sending_without_reply":true' in world.telegram.requests[1].raw
    assert b'name="supports_streaming"\r\n\r\ntrue\r\n' in world.telegram.requests[1].raw


def test_an_upload_that_is_too_large_goes_as_a_text(world):
    small = TelegramNotifier(token=TOKEN, base_url=world.telegram.url, trusted_hosts={"127.0.0.1"}, max_upload_bytes=9)
    before = world.send("upload", channel=small)
    world.telegram.refuse_uploads()
    after = world.send("upload")

    for receipt in (before, after):
        assert isinstance(receipt, Refused)
        assert (receipt.try_text, receipt.then) == (True, None)
    assert not world.inbox


@pytest.mark.parametrize(("shown", "form"), [("animation", "video"), ("document", "document"), ("video", "video")])
def test_the_receipt_tells_in_which_form_the_video_arrived(world, shown, form):
    """An mp4 without sound becomes an animation, which plays; other formats become files."""
    world.telegram.show_videos_as(shown)
    assert world.send().form is MessageForm(form)


def test_a_text_has_the_link_whole(world):
    assert isinstance(world.send("text"), Delivered)
    assert f"{world.storage.url}/1.mp4?sig=1" in world.telegram.messages[0].text


def test_a_group_that_has_become_a_supergroup_gets_the_message_there_at_once(world):
    world.telegram.migrate("-17", "-1001234")
    receipt = world.send(to="-17")

    assert [one[0] for one in world.inbox] == ["-1001234"]
    assert receipt.detail.startswith("the group has become a supergroup")
    assert "-1001234" not in repr(receipt), "it is an address"
    world.send(to="-17", prepared=receipt.prepared)
    assert len(world.telegram.requests) == 3, "the next try goes there without asking"
    world.send(to="-18", prepared=receipt.prepared)
    assert [one[0] for one in world.inbox] == ["-1001234", "-1001234", "-18"], "it was another group's"


@pytest.mark.parametrize("moved", ["-1001234", "@stranger", 777, True, -(10**30), 0, None, [-5], {"id": -5}], ids=str)
def test_what_was_kept_and_is_no_supergroup_leads_nobody_anywhere(world, moved):
    """What is in Redis may be damaged, and a video must not reach a stranger."""
    assert isinstance(world.send(to="-17", prepared={"chat": "-17", "moved": moved}), Delivered)
    assert [one[0] for one in world.inbox] == ["-17"]


def test_no_answer_leads_to_a_person(world):
    told = {"ok": False, "error_code": 400, "description": "moved", "parameters": {"migrate_to_chat_id": 777}}
    world.telegram.fail_next(Reply.json(told, status=400))
    assert isinstance(world.send(to="-17"), Refused)
    assert world.inbox == []


def test_an_upload_to_a_group_that_has_moved_is_whole_the_second_time_too(world):
    world.telegram.migrate("-17", "-1001234")
    assert isinstance(world.send("upload", to="-17"), Delivered)
    assert world.inbox == [("-1001234", "video", VIDEO, "")]


def test_a_reply_that_is_lost_after_the_group_moved_is_unknown(world):
    world.telegram.migrate("-17", "-1001234")
    lost = Reply.dropped(accept=True)
    world.telegram.fail_next(lost, when=lambda request: request.body.get("chat_id") == "-1001234")
    receipt = world.send(to="-17")

    assert isinstance(receipt, Unknown)
    assert receipt.prepared == {"chat": "-17", "moved": -1001234}


def test_the_wait_that_telegram_asks_for_is_kept(world):
    world.telegram.fail_next(FakeTelegram.too_many(retry_after_s=7))
    receipt = world.send()
    assert isinstance(receipt, NotSent)
    assert (receipt.retry_after_s, receipt.channel_fault) == (7, False)


def said(code, description, **parameters):
    return {"ok": False, "error_code": code, "description": description, "parameters": parameters}


@pytest.mark.parametrize(
    ("answer", "form", "receipt"),
    [
        (said(403, "Forbidden: bot was blocked by the user"), "video", {"try_text": False}),
        (said(403, "Forbidden: user is deactivated"), "video", {"try_text": False}),
        (said(403, "Forbidden: bot was kicked from the supergroup chat"), "text", {"try_text": False}),
        (said(403, "Forbidden: some new reason"), "video", {"try_text": False}),
        (said(400, "Bad Request: chat not found"), "video", {"try_text": False}),
        (said(400, "Bad Request: group chat was deactivated"), "video", {"try_text": False}),
        (said(400, "Bad Request: have no rights to send a message"), "video", {"try_text": False}),
        (said(400, "Bad Request: not enough rights to send videos to the chat"), "video", {"try_text": True}),
        (said(400, "Bad Request: message to be replied not found"), "video", {"try_unquoted": True}),
        (said(400, "Bad Request: something new"), "video", {"try_text": True, "then": None}),
        (said(413, "Request Entity Too Large"), "upload", {"try_text": True, "then": None}),
        (said(400, "Bad Request: failed to get HTTP URL content"), "upload", {"try_text": True, "then": None}),
    ],
    ids=lambda one: one["description"] if isinstance(one, dict) and "description" in one else "",
)
def test_a_refusal_says_what_may_still_go_through(world, answer, form, receipt):
    world.telegram.fail_next(Reply.json(answer, status=answer["error_code"]))
    got = world.send(form)

    assert isinstance(got, Refused)
    assert {name: getattr(got, name) for name in receipt} == receipt


@pytest.mark.parametrize("code", [401, 404])
def test_a_wrong_token_holds_all_messages_back_instead_of_losing_them(world, code):
    for status in (code, 200):
        # A refusal inside a 200, as some proxies make it, is none the less one.
        world.telegram.fail_next(Reply.json(said(code, "Unauthorized"), status=status))
        receipt = world.send()
        assert isinstance(receipt, NotSent)
        assert receipt.account_fault


@pytest.mark.parametrize("code", [500, 502])
def test_a_server_that_restarts_may_have_sent_it(world, code):
    world.telegram.fail_next(Reply.json(said(code, "Internal Server Error: restart"), status=code))
    assert isinstance(world.send(), Unknown)


def test_a_recipient_may_have_a_bot_of_its_own(world):
    receipt = world.send(token="9:of-another-bot")
    assert isinstance(receipt, NotSent), "the fake knows one bot"
    assert world.telegram.requests[0].path.startswith("/bot9:of-another-bot/")


@pytest.mark.parametrize("token", ["", "x/../y", "a b", "1:2\n"])
def test_a_token_that_would_change_the_path_is_refused(world, token):
    with pytest.raises(ConfigurationError, match="BotFather"):
        TelegramNotifier(token=token)
    if token:
        assert isinstance(world.send(token=token), Refused)
        assert not world.telegram.requests


@pytest.mark.parametrize(
    "to", ["+5491155550000", "05491155550000", "t.me/somebody", "somebody", "@x", "1.5", "", "1,2", "-"]
)
def test_an_address_that_names_no_chat_for_certain_is_refused_before_anything_is_sent(world, to):
    receipt = world.send(to=to)
    assert isinstance(receipt, Refused)
    assert "chat id of Telegram" in receipt.reason
    assert not world.telegram.requests


@pytest.mark.parametrize("to", ["4242", "-17", "-1001234567890", "@our_channel", " 4242 ", 4242])
def test_ids_and_names_of_channels_go_as_they_are(world, to):
    assert isinstance(world.send(to=to), Delivered)
    assert world.inbox[0][0] == str(to).strip()


def test_a_quote_that_is_no_number_costs_the_quote_alone(world):
    assert world.send(reply_to="wamid.7").try_unquoted
    assert not world.telegram.requests


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"ok": "true"}', b'{"ok": true}', b'{"ok": true, "result": []}', b'{"ok": 1}']
)
def test_a_reply_that_says_nothing_is_unknown(body):
    channel = TelegramNotifier(token=TOKEN)
    message = build_message(recipient=Recipient(channel="telegram", to=CHAT))
    assert isinstance(channel.read(HttpReply(status=200, body=body), message), Unknown)


def test_an_error_never_shows_the_token(world):
    world.telegram.fail_next(Reply.json(said(400, json.dumps({"url": f"/bot{TOKEN}/sendVideo"})), status=400))
    assert TOKEN not in str(world.send().reason)


def test_limits_that_cannot_work_are_refused():
    with pytest.raises(ConfigurationError, match="max_upload_bytes"):
        TelegramNotifier(token=TOKEN, max_upload_bytes=0)


# --- set up without code ---


def built(monkeypatch, *names, resolving=False, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(f"VIDEOPOLL_{name}", value)
    cli = pytest.importorskip("videopoll.cli.channels", reason="needs the extra cli")
    return cli.build_channels(
        ultramsg_url="https://x",
        ultramsg_instance=None,
        whatsapp_factory_url=None,
        whatsapp_factory_instance=None,
        resolving=resolving,
        hosts=names,
    )


def test_a_worker_builds_telegram_from_the_environment_alone(world, monkeypatch):
    channels = built(
        monkeypatch,
        "telegram",
        TELEGRAM_TOKEN=TOKEN,
        TELEGRAM_BASE_URL=world.telegram.url,
        TRUSTED_HOSTS="storage.lan 127.0.0.1",
    )

    assert isinstance(world.send("upload", channel=channels["telegram"]), Delivered)
    assert world.inbox == [(CHAT, "video", VIDEO, "")]


def test_what_is_missing_or_wrong_is_told_by_the_names_of_variables(monkeypatch):
    with pytest.raises(ConfigurationError, match="needs VIDEOPOLL_TELEGRAM_TOKEN"):
        built(monkeypatch, "telegram")
    assert "telegram" in built(monkeypatch, "telegram", resolving=True), "recipients bring the token"
    with pytest.raises(ConfigurationError, match="BotFather") as told:
        built(monkeypatch, "telegram", TELEGRAM_TOKEN="my token")
    assert "my token" not in str(told.value)
    with pytest.raises(ConfigurationError, match=r"telegrm: videopoll ships .*telegram"):
        built(monkeypatch, "telegrm")
