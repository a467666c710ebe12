"""What the hosts beside this file talk to, on this machine alone: a Redis, a video API and a messenger.

    pip install 'videopoll[embedded]'
    python examples/hosts/stand_ins.py

It prints what to put into the environment of a host, and then each message that arrives. Ctrl-C ends it.
"""

from __future__ import annotations

from videopoll.testing import EmbeddedRedis, FakeMessage, FakeUltraMsg, FakeVideoApi, wait_until

with (
    EmbeddedRedis() as server,
    FakeVideoApi(api_key="the-api-key", ready_after_s=3) as video_api,
    FakeUltraMsg(token="the-token") as messenger,
):
    print(f"export REDIS_URL={server.url}")
    print(f"export VIDEO_API_URL={video_api.url} VIDEO_API_KEY=the-api-key")
    print(f"export ULTRAMSG_URL={messenger.url} ULTRAMSG_INSTANCE=instance1150 ULTRAMSG_TOKEN=the-token", flush=True)
    seen: list[FakeMessage] = []
    try:
        while True:
            wait_until(lambda: len(messenger.messages) > len(seen), describe="a message arrives", timeout_s=86_400)
            for message in messenger.messages[len(seen) :]:
                seen.append(message)
                print(f"{message.to} got a {message.kind}: {message.text}", message.video or "", flush=True)
    except KeyboardInterrupt:
        print()
