"""Channels that the command line builds by their name: Evolution API, Twilio and Discord, from the environment alone."""

from __future__ import annotations

import pytest

pytest.importorskip("typer", reason="needs the extra cli")

from videopoll.cli.shipped import build_shipped
from videopoll.errors import ConfigurationError
from videopoll.messages import Accepted, Delivered, Recipient
from videopoll.testing import FakeDiscord, FakeEvolution, FakeTwilio, build_message, build_outcome

SID, CONTENT = "AC" + "0a" * 16, "HX" + "0d" * 16
ENVIRONMENTS = {
    "evolution": {
        "EVOLUTION_URL": "https://evolution.example",
        "EVOLUTION_INSTANCE": "My shop 2.0",
        "EVOLUTION_API_KEY": "k",
    },
    "twilio": {"TWILIO_ACCOUNT_SID": SID, "TWILIO_AUTH_TOKEN": "t", "TWILIO_FROM": "whatsapp:+14155238886"},
    "twilio_sms": {"TWILIO_ACCOUNT_SID": SID, "TWILIO_AUTH_TOKEN": "t", "TWILIO_SMS_FROM": "My Shop"},
    "discord": {"DISCORD_TOKEN": "t"},
    "discord_webhook": {"DISCORD_WEBHOOK_URL": "https://discord.com/api/webhooks/100000000000000001/token"},
}


def built(monkeypatch, name, **changes):
    for variable, value in (ENVIRONMENTS[name] | changes).items():
        monkeypatch.setenv(f"VIDEOPOLL_{variable}", value)
    return build_shipped(name, resolving=False)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_each_variable_that_is_missing_is_named(monkeypatch, name):
    for missing in ENVIRONMENTS[name]:
        with pytest.raises(ConfigurationError, match=missing):
            built(monkeypatch, name, **{missing: " "})
    assert built(monkeypatch, name)


def sent(notifier, to, fake):
    notifier._base_url = fake.url if not isinstance(fake, FakeDiscord) else f"{fake.url}/api/v10"
    try:
        recipient = Recipient(channel="here", to=to)
        receipt = notifier.notify(build_message(build_outcome("completed"), recipient=recipient))
    finally:
        notifier.close()
    assert isinstance(receipt, Delivered)
    return receipt


def test_what_is_built_sends(monkeypatch):
    with FakeEvolution(token="k", instance_id="My shop 2.0") as evolution:
        sent(built(monkeypatch, "evolution", EVOLUTION_URL=evolution.url), "5491155550000", evolution)
    with FakeTwilio(account_sid=SID, auth_token="t") as twilio:
        sent(built(monkeypatch, "twilio"), "+5491155550000", twilio)
        sent(built(monkeypatch, "twilio_sms"), "+5491155550000", twilio)
        assert [(one.kind, one.to) for one in twilio.messages] == [
            ("video", "whatsapp:+5491155550000"),
            ("text", "+5491155550000"),
        ]
    with FakeDiscord(token="t", webhook_token="token") as discord:
        sent(built(monkeypatch, "discord"), "channel:200000000000000001", discord)
        url = f"{discord.url}/api/webhooks/100000000000000001/token"
        sent(built(monkeypatch, "discord_webhook", DISCORD_WEBHOOK_URL=url), "webhook:100000000000000001", discord)
        assert [one.to for one in discord.messages] == ["channel:200000000000000001", "webhook"]


def test_twilio_has_its_template_and_callback(monkeypatch):
    more = {"TWILIO_CONTENT_SID": CONTENT, "TWILIO_STATUS_CALLBACK": "https://host.example/twilio"}
    with FakeTwilio(account_sid=SID, auth_token="t", content_sids=[CONTENT]) as twilio:
        assert isinstance(sent(built(monkeypatch, "twilio", **more), "+5491155550000", twilio), Accepted)
        assert [one.url.partition("?")[0] for one in twilio.callbacks()] == ["https://host.example/twilio"] * 2
    with pytest.raises(ConfigurationError, match="content_sid"):
        built(monkeypatch, "twilio", TWILIO_CONTENT_SID="HX1")
