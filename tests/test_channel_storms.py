"""A storm over each channel: what its users see in the end, whatever it answers and whoever dies."""

from __future__ import annotations

import os

import pytest

from kit.channel_storms import Fate, Weather, once, storm, twice
from videopoll.testing import FakeEvolution, Reply

USERS = int(os.environ.get("VIDEOPOLL_STORM_USERS", "24"))
KILLS = int(os.environ.get("VIDEOPOLL_STORM_KILLS", "4"))
SEED = int(os.environ.get("VIDEOPOLL_STORM_SEED", "1"))

pytestmark = [
    pytest.mark.parametrize("redis_server", ["valkey"], indirect=True),
    # Each storm has workers of both kinds.
    pytest.mark.parametrize("kind", ["sync"], indirect=True),
]


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


def evolution(fake):
    fates = [
        *ON_THE_WAY,
        Fate("a 400 after it was sent", once(said(400, ["PrismaClientKnownRequestError"]), path="/message/")),
        Fate("no WhatsApp", lambda fake, to: fake.without_whatsapp(to), frozenset(), "no WhatsApp"),
    ]
    arguments = {"base_url": fake.url, "instance_id": "shop", "token": "key"}
    return Weather(name="evolution", fake=fake, channel=("EvolutionNotifier", arguments), fates=fates, answers=True)


WEATHERS = {"evolution": (lambda: FakeEvolution(token="key", instance_id="shop"), evolution)}


@pytest.mark.parametrize("name", WEATHERS)
def test_each_user_has_one_message_or_a_letter_says_why_not(world, name):
    build, weather = WEATHERS[name]
    with build() as fake:
        assert not storm(world, weather(fake), users=USERS, kills=KILLS, seed=SEED)
