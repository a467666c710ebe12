"""The real SDKs against a model on localhost: it calls the tool, reads the answer and speaks; a worker delivers."""

from __future__ import annotations

import asyncio
import importlib
import json
import os

import pytest

from kit import API_KEY, phone
from videopoll import AsyncRedisVideoJobQueue, RedisVideoJobQueue
from videopoll.testing import FakeOpenAI, wait_until
from videopoll.tool import VideoGeneratorTool
from videopoll.video_api import VideoApiGenerator

# In CI nothing may be skipped.
need = importlib.import_module if os.environ.get("CI", "").lower() in {"1", "true"} else pytest.importorskip


class Package:
    """A package that is imported at its first use: it takes seconds, and every process of the tests reads this file."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        return getattr(need(self._name), name)


agents, openai = Package("agents"), Package("openai")

SAID = "Haz un video vertical para TikTok de una persona bailando"
TOLD = "Generando tu video, tardará 1-2 minutos..."
SPOKEN = "Tu video está en camino."
MODEL = "gpt-5"
CONVERSATION = "68bb3c3585425ee98e9f4f12"


@pytest.fixture
def model():
    with FakeOpenAI(
        lambda said: {"prompt": said, "messageToUser": TOLD, "modelSelected": 3},
        speak=lambda answer: SPOKEN if answer["success"] else "No.",
        api_key="sk-test",
    ) as model:
        yield model


class Desk:
    """The host's side: a tool of either kind, and what must have become of a conversation."""

    def __init__(self, world, model, to):
        self.world, self.model, self.to = world, model, to
        self.metadata = {"channel": "ultramsg", "to": to}
        self.generator = VideoApiGenerator(base_url=world.api.url, api_key=API_KEY)
        self.notifier = world.notifier()

    def tool(self, queue):
        return VideoGeneratorTool(queue, self.generator, notifier=self.notifier)

    async def aclose(self):
        await self.generator.aclose()
        await self.notifier.aclose()

    def close(self):
        self.generator.close()
        self.notifier.close()

    def check(self, spoken):
        assert spoken == SPOKEN
        (answer,) = self.model.answers
        assert answer["success"] is True
        assert (answer["aspect_ratio"], answer["auto_switch_applied"]) == ("9:16", True)
        assert self.world.api.generated == [answer["job_id"]]
        with self.world.worker():
            wait_until(lambda: len(self.world.ultramsg.inbox(self.to)) == 2, describe="the video arrives")
        early, video = self.world.ultramsg.inbox(self.to)
        assert early.text == TOLD
        assert video.video == self.world.api.video_url(answer["job_id"])
        assert video.text.startswith("🎥 ¡Tu video está listo!")


@pytest.fixture
def desk(world, model):
    return Desk(world, model, phone(42))


def sync_responses(client, tool, metadata):
    messages = [{"role": "user", "content": SAID}]
    while True:
        response = client.responses.create(model=MODEL, input=messages, tools=[tool.schema_responses()])
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            return response.output_text
        messages += response.output
        for item in calls:
            answer = tool.call(item.arguments, conversation_id=CONVERSATION, call_id=item.call_id, metadata=metadata)
            messages.append({"type": "function_call_output", "call_id": item.call_id, "output": json.dumps(answer)})


async def async_responses(client, tool, metadata):
    messages = [{"role": "user", "content": SAID}]
    while True:
        response = await client.responses.create(model=MODEL, input=messages, tools=[tool.schema_responses()])
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            return response.output_text
        messages += response.output
        for item in calls:
            answer = await tool.acall(
                item.arguments, conversation_id=CONVERSATION, call_id=item.call_id, metadata=metadata
            )
            messages.append({"type": "function_call_output", "call_id": item.call_id, "output": json.dumps(answer)})


def sync_chat(client, tool, metadata):
    messages = [{"role": "user", "content": SAID}]
    while True:
        completion = client.chat.completions.create(model=MODEL, messages=messages, tools=[tool.schema_chat()])
        message = completion.choices[0].message
        if not message.tool_calls:
            return message.content
        messages.append(message)
        for item in message.tool_calls:
            answer = tool.call(
                item.function.arguments, conversation_id=CONVERSATION, call_id=item.id, metadata=metadata
            )
            messages.append({"role": "tool", "tool_call_id": item.id, "content": json.dumps(answer)})


async def async_chat(client, tool, metadata):
    messages = [{"role": "user", "content": SAID}]
    while True:
        completion = await client.chat.completions.create(model=MODEL, messages=messages, tools=[tool.schema_chat()])
        message = completion.choices[0].message
        if not message.tool_calls:
            return message.content
        messages.append(message)
        for item in message.tool_calls:
            answer = await tool.acall(
                item.function.arguments, conversation_id=CONVERSATION, call_id=item.id, metadata=metadata
            )
            messages.append({"role": "tool", "tool_call_id": item.id, "content": json.dumps(answer)})


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_the_openai_package_from_the_users_sentence_to_the_video(kind, world, model, desk, api):
    if kind == "sync":
        with (
            openai.OpenAI(base_url=model.base_url, api_key="sk-test") as client,
            RedisVideoJobQueue.from_url(world.url, prefix=world.prefix) as queue,
        ):
            loop = sync_responses if api == "responses" else sync_chat
            spoken = loop(client, desk.tool(queue), desk.metadata)
        desk.close()
    else:

        async def main():
            async with (
                openai.AsyncOpenAI(base_url=model.base_url, api_key="sk-test") as client,
                AsyncRedisVideoJobQueue.from_url(world.url, prefix=world.prefix) as queue,
            ):
                loop = async_responses if api == "responses" else async_chat
                spoken = await loop(client, desk.tool(queue), desk.metadata)
            await desk.aclose()
            return spoken

        spoken = asyncio.run(main())

    desk.check(spoken)


async def run_agent(desk, queue, model_class):
    async with openai.AsyncOpenAI(base_url=desk.model.base_url, api_key="sk-test") as client:
        tool = desk.tool(queue).as_agents_tool(
            conversation_id_from=lambda context: context.context["conversation_id"],
            metadata_from=lambda context: context.context["metadata"],
        )
        assert tool.name == "videoGenerator"
        assert tool.strict_json_schema is True
        agent = agents.Agent(name="host", model=model_class(model=MODEL, openai_client=client), tools=[tool])
        result = await agents.Runner.run(
            agent,
            SAID,
            context={"conversation_id": CONVERSATION, "metadata": desk.metadata},
            run_config=agents.RunConfig(tracing_disabled=True),
        )
    return result.final_output


@pytest.mark.parametrize("api", ["OpenAIResponsesModel", "OpenAIChatCompletionsModel"])
def test_the_agents_sdk_from_the_users_sentence_to_the_video(kind, world, desk, api):
    async def main():
        if kind == "sync":
            with RedisVideoJobQueue.from_url(world.url, prefix=world.prefix) as queue:
                spoken = await run_agent(desk, queue, getattr(agents, api))
        else:
            async with AsyncRedisVideoJobQueue.from_url(world.url, prefix=world.prefix) as queue:
                spoken = await run_agent(desk, queue, getattr(agents, api))
        await desk.aclose()
        return spoken

    desk.check(asyncio.run(main()))


def test_a_call_that_the_agents_sdk_makes_twice_starts_one_video(world, desk):
    """The model repeats its call by id, as after a lost reply of ours."""
    desk.model._call_id = "call_same"

    async def main():
        async with AsyncRedisVideoJobQueue.from_url(world.url, prefix=world.prefix) as queue:
            for _ in range(2):
                assert await run_agent(desk, queue, agents.OpenAIResponsesModel) == SPOKEN
        await desk.aclose()

    asyncio.run(main())
    first, second = desk.model.answers
    assert first == second
    assert len(world.api.generated) == 1


def test_a_host_function_that_fails_is_an_answer_and_not_the_end_of_the_run(world, desk):
    async def main():
        async with (
            AsyncRedisVideoJobQueue.from_url(world.url, prefix=world.prefix) as queue,
            openai.AsyncOpenAI(base_url=desk.model.base_url, api_key="sk-test") as client,
        ):
            tool = desk.tool(queue).as_agents_tool(conversation_id_from=lambda _: {}["missing"])
            model = agents.OpenAIResponsesModel(model=MODEL, openai_client=client)
            agent = agents.Agent(name="host", model=model, tools=[tool])
            config = agents.RunConfig(tracing_disabled=True)
            result = await agents.Runner.run(agent, SAID, run_config=config)
        await desk.aclose()
        return result.final_output

    assert asyncio.run(main()) == "No."
    (answer,) = desk.model.answers
    assert answer["error_code"] == "TOOL_ERROR"
    assert not world.api.generated
