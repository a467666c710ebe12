"""A storm over each channel: what its users see in the end, whatever it answers and whoever dies."""

from __future__ import annotations

import os

import pytest

from kit import videos
from kit.channel_storms import Fate, Weather, once, storm, to_user, twice
from videopoll.notifiers import TwilioNotifier, WhatsAppCloudNotifier
from videopoll.testing import FakeDiscord, FakeEvolution, FakeServer, FakeTelegram, FakeTwilio, FakeWhatsAppCloud, Reply

read_of_meta = WhatsAppCloudNotifier.read_receipts
read_of_twilio = TwilioNotifier.read_receipts


USERS = int(os.environ.get("VIDEOPOLL_STORM_USERS", "12"))
KILLS = int(os.environ.get("VIDEOPOLL_STORM_KILLS", "3"))
SEED = int(os.environ.get("VIDEOPOLL_STORM_SEED", "1"))

pytestmark = [
    pytest.mark.parametrize("redis_server", ["valkey"], indirect=True),
    # Each storm has workers of both kinds.
    pytest.mark.parametrize("kind", ["sync"], indirect=True),
]


TEXT, NOTHING = frozenset({"text"}), frozenset()


def nothing(fake, to):
    """Let the channel work."""


ON_THE_WAY = [
    Fate("nothing happens", nothing),
    Fate("the reply is lost", once(Reply.dropped(accept=True))),
    Fate("a server's fault", twice(Reply.fault(503))),
    Fate("too fast", once(Reply.fault(429, retry_after=0.2))),
]
"""What happens to any channel."""


def said(status, message):
    """What Evolution says, having sent the message."""
    return Reply(status=status, body={"status": status, "error": "x", "response": {"message": message}}, accept=True)


def evolution(fake, storage):
    fates = [
        *ON_THE_WAY,
        Fate("a 400 after it was sent", once(said(400, ["PrismaClientKnownRequestError"]), path="/message/")),
        Fate("no WhatsApp", lambda fake, to: fake.without_whatsapp(to), frozenset(), "no WhatsApp"),
    ]
    arguments = {"base_url": fake.url, "instance_id": "shop", "token": "key"}
    # A look-up sees the last 250 messages of the instance. Of more users at once, some cannot be told from a loss.
    return Weather(
        name="evolution", fake=fake, channel=("EvolutionNotifier", arguments), fates=fates, answers=USERS <= 200
    )


def cloud(fake, storage):
    def receipts():
        made = [read_of_meta(one.headers, one.body, fake.app_secret) for one in fake.webhooks()]
        # Their order is not promised.
        return [receipt for some in reversed(made) for receipt in some]

    fates = [
        *ON_THE_WAY,
        Fate(
            "the window is closed, said late",
            lambda fake, to: fake.close_window(to, late=True),
            frozenset({"template"}),
        ),
        Fate("a codec, said late", lambda fake, to: fake.fail(131053, to=to, kinds={"video"}, late=True), TEXT),
        Fate("no WhatsApp, said late", lambda fake, to: fake.fail(131026, to=to, late=True), NOTHING, "131026"),
        Fate("no WhatsApp", lambda fake, to: fake.fail(131026, to=to), NOTHING, "131026"),
        Fate("too many to one user", lambda fake, to: fake.fail(131056, to=to, times=1)),
    ]
    arguments = {"base_url": fake.url, "token": "t", "number_id": "1065", "template": ["video_ready", "es"]}
    return Weather(
        name="cloud",
        fake=fake,
        channel=("WhatsAppCloudNotifier", arguments),
        fates=fates,
        answers=False,
        receipts=receipts,
    )


def twilio(fake, storage):
    def receipts():
        made = [read_of_twilio(one.headers, one.body, "tok", url=one.url) for one in fake.callbacks()]
        return [receipt for some in reversed(made) for receipt in some]

    fates = [
        *ON_THE_WAY,
        Fate("media, said late", lambda fake, to: fake.fail(63019, to=to, kinds={"video"}, late=True), TEXT),
        Fate("the window is closed, said late", lambda fake, to: fake.close_window(to, late=True), NOTHING, "24 hours"),
        Fate("no WhatsApp", lambda fake, to: fake.fail(63003, to=to), NOTHING, "63003"),
    ]
    arguments = {
        "base_url": fake.url,
        "account_sid": SID,
        "auth_token": "tok",
        "sender": "+14155238886",
        "status_callback": "https://host.example/twilio",
    }
    return Weather(
        name="twilio", fake=fake, channel=("TwilioNotifier", arguments), fates=fates, answers=True, receipts=receipts
    )


def discord(fake, storage):
    fates = [
        *ON_THE_WAY,
        Fate(
            "no galleries", lambda fake, to: fake.fail(50035, to=to, kinds={"video"}), frozenset({"video", "document"})
        ),
        Fate("no files", lambda fake, to: fake.fail(50035, to=to, kinds={"video", "document"}), TEXT),
        Fate("no rights", lambda fake, to: fake.fail(50013, to=to), NOTHING, "50013"),
    ]
    arguments = {"base_url": f"{fake.url}/api/v10", "token": "t", "trusted_hosts": ["127.0.0.1"]}
    return Weather(
        name="discord",
        fake=fake,
        channel=("DiscordNotifier", arguments),
        fates=fates,
        answers=True,
        to="channel:3000000000{:08d}".format,
        url=lambda number: f"{storage.url}/{number}.mp4",
    )


def telegram(fake, storage):
    def no_link(fake, to):
        said = {"ok": False, "error_code": 400, "description": "Bad Request: failed to get HTTP URL content"}
        fake.reply_with(Reply.json(said, status=400), when=to_user(to, path="/sendVideo"))

    fates = [
        *ON_THE_WAY,
        Fate("its link is not taken", no_link),
        Fate("the bot is blocked", lambda fake, to: fake.block(to), NOTHING, "blocked"),
        Fate("there is no such chat", lambda fake, to: fake.without_chat(to), NOTHING, "not found"),
        Fate("too many", once(FakeTelegram.too_many(retry_after_s=1))),
    ]
    arguments = {"base_url": fake.url, "token": "123:t", "trusted_hosts": ["127.0.0.1"]}
    return Weather(
        name="telegram",
        fake=fake,
        channel=("TelegramNotifier", arguments),
        fates=fates,
        answers=False,
        url=lambda number: f"{storage.url}/{number}.mp4",
    )


class Storage(FakeServer):
    """A host that has every video."""

    def _handle(self, request):
        return Reply(body=videos.MAIN_SILENT, headers={"Content-Type": "video/mp4"})


SID = "AC" + "0" * 32

WEATHERS = {
    "evolution": (lambda: FakeEvolution(token="key", instance_id="shop"), evolution),
    "cloud": (
        lambda: FakeWhatsAppCloud(token="t", number_id="1065", templates={("video_ready", "es"): 0}),
        cloud,
    ),
    "twilio": (lambda: FakeTwilio(account_sid=SID, auth_token="tok"), twilio),
    "discord": (lambda: FakeDiscord(token="t"), discord),
    "telegram": (lambda: FakeTelegram(token="123:t"), telegram),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WEATHERS)
def test_each_user_has_one_message_or_a_letter_says_why_not(world, name):
    build, weather = WEATHERS[name]
    with build() as fake, Storage() as storage:
        assert not storm(world, weather(fake, storage), users=USERS, kills=KILLS, seed=SEED)
