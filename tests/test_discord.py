"""Discord as a bot and through a webhook: requests, codes, safe repeats, uploads, whole lives with crashes."""

from __future__ import annotations

import json

import attrs
import pytest

import kit
from kit.channels import CAPTION, TEXT, URL, assert_no_key_is_told, both, live, message
from videopoll import ConfigurationError, OnUnknown, RefusedError
from videopoll.jobs import MessageForm
from videopoll.messages import Delivered, NotSent, Refused, Unknown
from videopoll.notifiers import DiscordNotifier, DiscordWebhookNotifier, HttpReply
from videopoll.testing import FakeDiscord, FakeServer, NotifierContract, Reply

TOKEN = "a-token-of-the-tests"
HOOK_TOKEN = "A-hook_token.of-the-tests"
CHANNEL, USER, THREAD = "channel:200000000000000001", "user:300000000000000001", "thread:400000000000000001"
OWN = "webhook:100000000000000001"
QUOTED = "500000000000000001"
VIDEO, UPLOAD, TEXT_FORM = MessageForm.VIDEO, MessageForm.UPLOAD, MessageForm.TEXT
HOOK = "https://discord.com/api/webhooks/100000000000000001"


@pytest.fixture
def discord():
    with FakeDiscord(token=TOKEN, webhook_token=HOOK_TOKEN) as fake:
        yield fake


def bot_of(fake, **changes):
    return DiscordNotifier(**({"base_url": f"{fake.url}/api/v10", "token": TOKEN} | changes))


def hook_of(fake, token=HOOK_TOKEN, **options):
    return DiscordWebhookNotifier(f"{fake.url}/api/webhooks/100000000000000001/{token}", **options)


BOT = DiscordNotifier(token=TOKEN)
WEBHOOK = DiscordWebhookNotifier(f"{HOOK}/{HOOK_TOKEN}")


def asked(notifier, what):
    """The first request that a message makes."""
    step = next(notifier.exchange(what))
    return step.request


def posted(notifier, what):
    """What stands in it."""
    return asked(notifier, what).json


def answer(status, /, **fields):
    return HttpReply(status=status, body=json.dumps(fields).encode())


class TestDiscordBot(NotifierContract):
    """What every channel promises."""

    accepted = Reply.json({"id": "1200000000000000001"})
    refused = Reply.json({"code": 50007, "message": "Cannot send messages to this user"}, status=403)
    recipient = attrs.evolve(NotifierContract.recipient, to=CHANNEL)
    unauthorized = NotSent

    def make_notifier(self, base_url):
        return DiscordNotifier(base_url=base_url, token="a-secret-of-the-notifier")


class TestDiscordWebhook(NotifierContract):
    """The same for a webhook."""

    accepted = Reply.json({"id": "1200000000000000001"})
    refused = Reply.json({"code": 200000, "message": "Message was blocked by automatic moderation"}, status=400)
    recipient = attrs.evolve(NotifierContract.recipient, to=OWN, instance_id=None, token=None)
    unauthorized = NotSent

    def make_notifier(self, base_url):
        return DiscordWebhookNotifier(f"{base_url}/api/webhooks/100000000000000001/{HOOK_TOKEN}")


# --- what is sent ---------------------------------------------------------------------------------


def test_a_bot_posts_a_video_as_a_gallery_and_a_text_with_the_link(discord):
    for form, kind, words in ((VIDEO, "video", CAPTION), (TEXT_FORM, "text", TEXT)):
        for each in (1, 2):
            [receipt, repeated] = both(bot_of(discord), "notify", message(CHANNEL, form, reference=f"vp-{kind}{each}"))
            [ours] = [one for one in discord.inbox(CHANNEL) if one.reference_id == f"vp-{kind}{each}"]
            assert receipt == repeated == Delivered(ours.id)
            assert (ours.kind, ours.text, ours.video) == (kind, words, URL if form is VIDEO else None)


def test_a_webhook_posts_into_its_channel_or_a_thread_of_it(discord):
    for to, place in ((OWN, "webhook"), (THREAD, THREAD)):
        for form, kind, words in ((VIDEO, "video", CAPTION), (TEXT_FORM, "text", TEXT)):
            both(hook_of(discord), "notify", message(to, form))
            assert [(one.kind, one.text) for one in discord.inbox(place)][-2:] == [(kind, words)] * 2
    both(hook_of(discord), "notify", message(OWN, recipient=None))
    assert len(discord.inbox("webhook")) == 6


def test_a_reply_quotes_a_message_and_is_posted_also_if_that_is_gone(discord):
    both(bot_of(discord), "notify", message(CHANNEL, reply_to=QUOTED))
    assert [one.reply_to for one in discord.inbox(CHANNEL)] == [QUOTED]
    assert posted(BOT, message(CHANNEL, reply_to=QUOTED))["message_reference"]["fail_if_not_exists"] is False
    # A webhook has no quotes, and refuses a request with one.
    assert all(isinstance(one, Delivered) for one in both(hook_of(discord), "notify", message(OWN, reply_to=QUOTED)))


def test_nobody_is_mentioned_whatever_stands_in_a_text():
    for notifier, to in ((BOT, CHANNEL), (WEBHOOK, OWN)):
        for form in (VIDEO, TEXT_FORM):
            assert posted(notifier, message(to, form))["allowed_mentions"] == {"parse": []}


def test_a_link_that_is_longer_than_a_text_makes_a_refusal_and_words_give_way_to_a_shorter_one():
    long = URL + "&" + "x" * 1900
    assert long in posted(BOT, message(CHANNEL, TEXT_FORM, url=long))["content"]
    assert len(posted(BOT, message(CHANNEL, TEXT_FORM, url=long))["content"]) <= 2000
    with pytest.raises(ValueError, match="2000"):
        asked(BOT, message(CHANNEL, TEXT_FORM, url=long + "x" * 100))


@pytest.mark.parametrize(
    "url",
    [
        "https://discord.com/api/webhooks/1",
        "https://discord.com/api/webhooks/abc/def",
        "https://discord.com/channels/100000000000000001/2",
        f"{HOOK}/{HOOK_TOKEN}/slack",
        f"{HOOK}/{HOOK_TOKEN}?wait=false",
        f"{HOOK}/../{HOOK_TOKEN}",
        "discord.com",
    ],
)
def test_a_url_that_is_none_of_a_webhook_is_refused_without_quoting_it(url):
    with pytest.raises(ConfigurationError) as refused:
        DiscordWebhookNotifier(url)
    assert HOOK_TOKEN not in str(refused.value)


@pytest.mark.parametrize("token", [None, "a b", "a\nb", "ключ"])
def test_a_token_that_is_none_is_refused_before_anything_is_sent(token):
    with pytest.raises(RefusedError):
        asked(DiscordNotifier(), message(CHANNEL, token=token))


def test_the_recipient_may_bring_another_bot_or_webhook():
    assert asked(BOT, message(CHANNEL, token="another")).headers["Authorization"] == "Bot another"
    request = asked(WEBHOOK, message("webhook:100000000000000009", instance_id="100000000000000009", token="a/../b"))
    assert request.url.partition("?")[0] == "https://discord.com/api/v10/webhooks/100000000000000009/a%2F..%2Fb"
    with pytest.raises(RefusedError):
        asked(WEBHOOK, message(OWN, instance_id="../guilds", token="x"))


# --- whom it is for -------------------------------------------------------------------------------

ODD = [
    "200000000000000001",  # a channel or a user?
    "channel:",
    "channel:1",
    "channel: 200000000000000001",
    "channel:200000000000000001/messages/1",
    "channel:200000000000000001,channel:200000000000000002",
    "<#200000000000000001>",
    "<@300000000000000001>",
    "@everyone",
    "user:name#1234",
    "guild:200000000000000001",
    "channel:٢٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠١",
    "channel:200000000000000001\n",
    "5491155550000",
    "",
]


@pytest.mark.parametrize("to", ODD)
def test_an_address_that_would_be_guessed_at_is_refused_before_anything_is_sent(discord, to):
    for notifier in (bot_of(discord), hook_of(discord)):
        for receipt in both(notifier, "notify", message(to)):
            assert isinstance(receipt, Refused)
            assert not receipt.try_text
            assert "the recipient's address" in receipt.reason
    assert discord.requests == []


def test_a_bots_addresses_are_none_of_a_webhooks():
    for to in (CHANNEL, USER, "webhook:100000000000000002", "channel"):
        with pytest.raises(RefusedError):
            asked(WEBHOOK, message(to))
    with pytest.raises(RefusedError):
        asked(BOT, message(OWN))


# --- what an answer means -------------------------------------------------------------------------

# Discord's list of codes says so; the table in the code is not asked.
MEANINGS = {
    "later": [20016, 20028, 20029, 31002, 40003, 40062, 110001, 130000],
    "video": [40005, 50035, 50045, 50046],
    "recipient": [10003, 10013, 40058, 50001, 50007, 50008, 50013, 50033, 50278, 220001],
    "account": [10015, 40001, 40002, 50014, 50027],
    "content": [20009, 50006, 200000, 240000],
}


@pytest.mark.parametrize(
    ("meaning", "code"), [(meaning, code) for meaning, codes in MEANINGS.items() for code in codes]
)
def test_a_code_decides_whatever_the_status(meaning, code):
    for notifier, to in ((BOT, CHANNEL), (WEBHOOK, OWN)):
        receipt, *others = (
            notifier.read(answer(status, code=code, message="whatever"), message(to))
            for status in (400, 401, 403, 404, 413, 500)
        )
        assert others == [receipt] * 5
        match meaning:
            case "later" | "account":
                assert isinstance(receipt, NotSent)
                assert receipt.account_fault is (meaning == "account")
            case "video":
                assert isinstance(receipt, Refused)
                assert (receipt.try_text, receipt.then) == (True, UPLOAD)
                uploaded = notifier.read(answer(400, code=code), message(to, UPLOAD))
                assert isinstance(uploaded, Refused)
                assert (uploaded.try_text, uploaded.then) == (True, None)
            case _:
                assert isinstance(receipt, Refused)
                assert (receipt.try_text, receipt.then) == (False, None)


def test_a_quote_that_a_bot_may_not_make_is_left_out():
    receipt = BOT.read(answer(403, code=160002, message="no history"), message(CHANNEL, reply_to=QUOTED))
    assert isinstance(receipt, Refused)
    assert receipt.try_unquoted


@pytest.mark.parametrize(
    ("reply", "kind", "wait_s"),
    [
        (answer(429, message="You are being rate limited.", retry_after=64.57, **{"global": False}), NotSent, 64.57),
        (HttpReply(status=429, body=b"error code: 1015", headers={"retry-after": "65"}), NotSent, 65),
        (answer(401, code=0, message="401: Unauthorized"), NotSent, None),
        (answer(500, code=0, message="500: Internal Server Error"), Unknown, None),
        (HttpReply(status=502, body=b"<html>"), Unknown, None),
        (answer(400, code=99999), Refused, None),
        (HttpReply(status=204, body=b""), Unknown, None),
        (answer(200, id=None), Unknown, None),
    ],
)
def test_an_answer_without_a_known_code_means_what_its_status_says(reply, kind, wait_s):
    receipt = BOT.read(reply, message(CHANNEL))
    assert isinstance(receipt, kind)
    assert getattr(receipt, "retry_after_s", None) == wait_s


def test_a_wrong_token_holds_the_account_back(discord):
    for notifier, to in ((bot_of(discord, token="wrong"), CHANNEL), (hook_of(discord, "wrong"), OWN)):
        for receipt in both(notifier, "notify", message(to)):
            assert isinstance(receipt, NotSent)
            assert receipt.account_fault


def test_no_key_of_the_channels_own_is_told(discord):
    assert_no_key_is_told(discord, bot_of(discord), message(CHANNEL), TOKEN)
    assert_no_key_is_told(discord, hook_of(discord), message(OWN), HOOK_TOKEN)


# --- direct messages, uploads ---------------------------------------------------------------------


@pytest.fixture
def files():
    with FakeServer() as server:
        yield server


def serve(files, content, media_type="video/mp4"):
    files.route("GET", "/1.mp4", Reply(status=200, body=content, headers={"Content-Type": media_type}))
    return f"{files.url}/1.mp4"


def test_a_users_message_goes_into_the_direct_messages_which_are_opened_once(discord):
    receipts = both(bot_of(discord), "notify", message(USER))
    [ours] = discord.inbox(USER)
    assert receipts == [Delivered(ours.id)] * 2
    kept = receipts[0].prepared
    before = len(discord.requests)
    both(bot_of(discord), "notify", message(USER, prepared=kept))
    assert [one.path.endswith("/messages") for one in discord.requests[before:]] == [True, True]
    # What was kept for another user is not theirs.
    both(bot_of(discord), "notify", message("user:300000000000000002", prepared=kept, reference="vp-2"))
    assert [one.to for one in discord.messages] == [USER, "user:300000000000000002"]


@pytest.mark.parametrize("direct", ["1/../../webhooks/1", "", 5, None, ["200000000000000001"]], ids=str)
def test_direct_messages_that_were_kept_and_cannot_be_some_are_opened_anew(discord, direct):
    kept = {"user": USER.partition(":")[2], "direct": direct}
    both(bot_of(discord), "notify", message(USER, prepared=kept))
    assert [one.to for one in discord.messages] == [USER]


def test_direct_messages_of_another_bot_are_no_reason_to_give_a_message_up(discord):
    """The recipient's token was changed between two tries."""
    kept = {"user": USER.partition(":")[2], "direct": "999000000000000001"}
    for _ in range(2):
        discord.fail_next(Reply.json({"code": 50001, "message": "Missing Access"}, status=403))
    for receipt in both(bot_of(discord), "notify", message(USER, prepared=kept)):
        assert isinstance(receipt, NotSent), receipt
        assert receipt.prepared == {}
    both(bot_of(discord), "notify", message(USER, prepared={}))
    assert [one.to for one in discord.messages] == [USER]


@pytest.mark.parametrize(
    ("reply", "kind", "try_text"),
    [
        (Reply.json({"code": 50033, "message": "Invalid Recipient(s)"}, status=400), Refused, False),
        (Reply.json({"code": 40003, "message": "too fast"}, status=429), NotSent, None),
        (Reply.json({"code": 0, "message": "401: Unauthorized"}, status=401), NotSent, None),
        (Reply.fault(500), NotSent, None),
        (Reply.garbage(), NotSent, None),
        (Reply.json({"id": "../guilds"}), NotSent, None),
        (Reply.dropped(), NotSent, None),
    ],
)
def test_what_fails_before_the_message_was_surely_not_sent(discord, reply, kind, try_text):
    discord.reply_with(reply, reply, path="/users/@me/channels")
    for receipt in both(bot_of(discord), "notify", message(USER)):
        assert isinstance(receipt, kind)
        assert getattr(receipt, "try_text", None) == try_text
    assert discord.messages == []
    assert {one.path for one in discord.requests} == {"/api/v10/users/@me/channels"}


def test_an_upload_is_posted_with_the_caption_and_the_file(discord, files):
    url = serve(files, b"a video" * 100_000)
    trusting = {"trusted_hosts": ["127.0.0.1"]}
    for notifier, to, place in (
        (bot_of(discord, **trusting), CHANNEL, CHANNEL),
        (hook_of(discord, **trusting), OWN, "webhook"),
    ):
        receipts = both(notifier, "notify", message(to, UPLOAD, url=url))
        assert all(isinstance(one, Delivered) for one in receipts)
        uploaded = discord.inbox(place)[-1]
        assert (uploaded.kind, uploaded.text, uploaded.file) == ("document", CAPTION, b"a video" * 100_000)
    assert len(discord.inbox(CHANNEL)) == 1


def test_a_file_over_ten_megabytes_goes_as_a_link(discord, files):
    url = serve(files, b"x" * (10 * 1024 * 1024 + 1))
    for receipt in both(bot_of(discord, trusted_hosts=["127.0.0.1"]), "notify", message(CHANNEL, UPLOAD, url=url)):
        assert isinstance(receipt, Refused)
        assert (receipt.try_text, receipt.then) == (True, None)
    assert discord.requests == []


def test_a_file_inside_the_network_is_not_fetched_unless_its_host_is_trusted(discord, files):
    url = serve(files, b"a video")
    for receipt in both(bot_of(discord), "notify", message(CHANNEL, UPLOAD, url=url)):
        assert isinstance(receipt, Refused)
    assert files.requests == []


# --- whole lives ----------------------------------------------------------------------------------


def bots(fake):
    return {"discord": ("DiscordNotifier", {"base_url": f"{fake.url}/api/v10", "token": TOKEN})}


def hooks(fake):
    return {"discord": ("DiscordWebhookNotifier", {"url": f"{fake.url}/api/webhooks/100000000000000001/{HOOK_TOKEN}"})}


ONCE = attrs.evolve(kit.QUICK, on_unknown=OnUnknown.AT_MOST_ONCE)


def test_a_worker_that_dies_after_the_send_doubles_nothing_and_loses_nothing(world, discord):
    """Though a bot cannot ask for a message: the repeat is answered with the first."""
    [delivered] = live(world, bots(discord), CHANNEL, die_at="after_send", delivery=ONCE)
    assert [one.kind for one in discord.inbox(CHANNEL)] == ["video"]
    assert delivered.form is VIDEO
    assert len(discord.requests) == 2


def test_a_gallery_that_discord_does_not_take_is_uploaded_and_what_is_too_large_is_a_link(world, discord, files):
    discord.fail(50035, kinds={"video"})
    trusting = {"base_url": f"{discord.url}/api/v10", "token": TOKEN, "trusted_hosts": ["127.0.0.1"]}
    live(world, {"discord": ("DiscordNotifier", trusting)}, USER, url=serve(files, b"a video"))
    assert [(one.kind, one.file) for one in discord.inbox(USER)] == [("document", b"a video")]


def test_an_upload_that_discord_does_not_take_either_is_a_link(world, discord, files):
    discord.fail(50035, kinds={"video"})
    discord.fail(40005, kinds={"document"}, status=413)
    trusting = {"base_url": f"{discord.url}/api/v10", "token": TOKEN, "trusted_hosts": ["127.0.0.1"]}
    url = serve(files, b"a video")
    live(world, {"discord": ("DiscordNotifier", trusting)}, CHANNEL, url=url)
    assert [(one.kind, url in one.text) for one in discord.inbox(CHANNEL)] == [("text", True)]


def test_a_lost_reply_of_a_bot_doubles_nothing(world, discord):
    discord.fail_next(Reply.dropped(accept=True))
    [delivered] = live(world, bots(discord), CHANNEL, delivery=ONCE)
    assert delivered.form is VIDEO
    assert [one.kind for one in discord.inbox(CHANNEL)] == ["video"]


def test_a_lost_reply_of_a_webhook_is_the_hosts_choice(world, discord):
    discord.fail_next(Reply.dropped(accept=True))
    [letter] = live(world, hooks(discord), OWN, delivery=ONCE)
    assert "at most once" in letter.reason
    assert len(discord.inbox("webhook")) == 1


def test_what_a_user_does_not_take_is_a_dead_letter_with_discords_reason(world, discord):
    discord.fail(50001, to=CHANNEL, status=403)
    [letter] = live(world, bots(discord), CHANNEL)
    assert "50001" in letter.reason
    assert discord.messages == []
