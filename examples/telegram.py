"""A channel of your own: Telegram, with two pure methods. It runs on this machine alone, against a local stand-in.

pip install 'videopoll[embedded]'
python examples/telegram.py
"""

from __future__ import annotations

import attrs

from videopoll import Message, PollingStrategy, Recipient, RedisVideoJobQueue, RoutingNotifier, Runner, VideoApiPoller
from videopoll.jobs import MessageForm
from videopoll.messages import Delivered, NotSent, Receipt, Unknown
from videopoll.notifiers import HttpNotifier, HttpReply, HttpRequest, receipt_for_status, recipient_of
from videopoll.testing import EmbeddedRedis, FakeServer, FakeVideoApi, Reply, wait_until
from videopoll.texts import cut


class TelegramNotifier(HttpNotifier):
    """Sends over a Telegram bot; a recipient's `to` is the chat's id."""

    def __init__(self, *, token: str, base_url: str = "https://api.telegram.org") -> None:
        super().__init__()
        self._token, self._base_url = token, base_url

    def secrets(self) -> tuple[str | None, ...]:
        return (self._token,)

    def build(self, message: Message) -> HttpRequest:
        """Write the request. Nothing is sent here, so sync and async runners share it."""
        fields = {"chat_id": recipient_of(message).to}
        if message.form is MessageForm.VIDEO:
            call = "sendVideo"
            fields |= {"video": message.video_url, "caption": cut(message.caption, 1024)}
        else:
            call = "sendMessage"
            fields["text"] = cut(message.text, 4096, keep=message.video_url or "")
        url = f"{self._base_url}/bot{self._token}/{call}"
        return HttpRequest(method="POST", url=url, json=fields, timeout_s=30)

    def read(self, reply: HttpReply, message: Message) -> Receipt:
        """Say what became of it. A 4xx is refused for good; a 5xx may have been sent."""
        del message
        answer = reply.json()
        fault = receipt_for_status(reply)
        if isinstance(fault, NotSent) and isinstance(answer, dict):
            # Telegram says in the body how long to wait.
            match answer.get("parameters"):
                case {"retry_after": int(wait_s)}:
                    return attrs.evolve(fault, retry_after_s=wait_s)
        if fault is None and isinstance(answer, dict) and answer.get("ok") is True:
            return Delivered(str(answer["result"]["message_id"]))
        return fault or Unknown("the reply does not say that the message was sent")


CHATS = {"conversation-1": "4242"}


def person_of(conversation_id: str) -> Recipient:
    return Recipient(channel="telegram", to=CHATS[conversation_id])


with (
    EmbeddedRedis() as server,
    FakeVideoApi(api_key="the-api-key", ready_after_s=1) as video_api,
    FakeServer() as telegram,  # in production: https://api.telegram.org
):
    telegram.fail_every(1, Reply.json({"ok": True, "result": {"message_id": 17}}))  # its answer to every request
    notifier = RoutingNotifier(
        {"telegram": TelegramNotifier(token="123:the-bots-token", base_url=telegram.url)}, resolve=person_of
    )
    with (
        RedisVideoJobQueue.from_url(server.url) as queue,
        Runner(
            queue,
            VideoApiPoller(base_url=video_api.url, api_key="the-api-key"),
            notifier,
            strategy=PollingStrategy(interval_s=0.5, timeout_s=20, initial_delay_s=0.2),
        ) as runner,
    ):
        runner.start()
        queue.enqueue("job_1757157518747_grhexcfhk", conversation_id="conversation-1")
        (request,) = wait_until(lambda: telegram.requests, describe="Telegram gets the video")

print(f"Chat {request.body['chat_id']} received a video: {request.body['caption']}")
print(request.body["video"])
