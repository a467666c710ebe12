"""From the user's sentence to the delivered video, with the OpenAI Agents SDK and asyncio, on this machine alone.

pip install 'videopoll[embedded]' openai-agents
python examples/openai_agents.py
"""

from __future__ import annotations

import asyncio

from agents import Agent, OpenAIResponsesModel, RunConfig
from agents import Runner as AgentRunner
from openai import AsyncOpenAI

from videopoll import (
    AsyncRedisVideoJobQueue,
    AsyncRunner,
    PollingStrategy,
    Recipient,
    RoutingNotifier,
    UltraMsgNotifier,
    VideoApiPoller,
)
from videopoll.testing import EmbeddedRedis, FakeOpenAI, FakeUltraMsg, FakeVideoApi, async_wait_until
from videopoll.tool import VideoGeneratorTool
from videopoll.video_api import VideoApiGenerator

USER, CONVERSATION = "5491155550001", "68bb3c3585425ee98e9f4f12"
PEOPLE = {CONVERSATION: USER}


async def recipient_of(conversation_id: str) -> Recipient:
    """Who gets the messages? This is your database's part."""
    return Recipient(
        channel="ultramsg", to=PEOPLE[conversation_id], instance_id="instance1150", token="the-agents-token"
    )


async def main() -> None:
    with (
        # In production: your Redis, the video API, UltraMsg and OpenAI.
        EmbeddedRedis() as server,
        FakeVideoApi(api_key="the-api-key", ready_after_s=2) as video_api,
        FakeUltraMsg(token="the-agents-token") as ultramsg,
        FakeOpenAI(
            lambda said: {"prompt": said, "messageToUser": "Generando tu video, tardará 1-2 minutos..."},
            speak=lambda answer: f"¡En camino! Te lo mando en {answer['aspect_ratio']} cuando esté listo.",
        ) as model,
    ):
        notifier = RoutingNotifier({"ultramsg": UltraMsgNotifier(base_url=ultramsg.url)}, resolve=recipient_of)
        poller = VideoApiPoller(base_url=video_api.url, api_key="the-api-key")
        generator = VideoApiGenerator(base_url=video_api.url, api_key="the-api-key")
        # The defaults poll after 5 s and then every 10 s.
        strategy = PollingStrategy(interval_s=0.5, timeout_s=20, initial_delay_s=0.2)

        async with (
            AsyncOpenAI(base_url=model.base_url, api_key="sk-none") as client,
            AsyncRedisVideoJobQueue.from_url(server.url) as queue,
            AsyncRunner(queue, poller, notifier, strategy=strategy) as runner,
        ):
            runner.start()
            tool = VideoGeneratorTool(queue, generator, notifier=notifier).as_agents_tool(
                conversation_id_from=lambda context: context.context["conversation_id"]
            )
            agent = Agent(
                name="Video assistant",
                instructions="Make the videos that the user asks for.",
                model=OpenAIResponsesModel(model="gpt-5", openai_client=client),
                tools=[tool],
            )
            sentence = "Haz un video vertical para TikTok de una persona bailando"
            print(f"👤 {sentence}")
            result = await AgentRunner.run(
                agent,
                sentence,
                context={"conversation_id": CONVERSATION},
                run_config=RunConfig(tracing_disabled=True),  # traces would go to OpenAI
            )
            print(f"🤖 {result.final_output}")
            await async_wait_until(lambda: len(ultramsg.inbox(USER)) == 2, timeout_s=20)
            await generator.aclose()

        early, video = ultramsg.inbox(USER)
        print(f"📱 at once: {early.text}")
        print(f"📱 later:   {video.text} {video.video}")


asyncio.run(main())
