"""A model asks for a video: the tool starts the generation, enqueues the job, and answers at once."""

from __future__ import annotations

from contextlib import closing

from videopoll import VideoApiPoller
from videopoll.testing import FakeVideoApi, Sandbox
from videopoll.tool import VideoGeneratorTool
from videopoll.video_api import VideoApiGenerator

ARGUMENTS = '{"prompt": "A fox that dances in the snow", "messageToUser": "One moment, I am making your video."}'


def test_a_call_of_the_model_becomes_a_video_for_the_user():
    with (
        FakeVideoApi(api_key="key") as api,
        Sandbox(poller=VideoApiPoller(base_url=api.url, api_key="key")) as sandbox,
        closing(VideoApiGenerator(base_url=api.url, api_key="key")) as generator,
    ):
        tool = VideoGeneratorTool(sandbox.queue, generator, notifier=sandbox.notifier)

        answer = tool.call(ARGUMENTS, conversation_id="maria", call_id="call_1")
        assert answer["success"] is True
        assert answer["job_id"] == api.generated[0]
        (acknowledgement,) = sandbox.notifier.messages
        assert acknowledgement.text == "One moment, I am making your video."

        # The model's host may carry the same call out again. It is paid for once.
        assert tool.call(ARGUMENTS, conversation_id="maria", call_id="call_1") == answer
        assert len(api.generated) == 1

        sandbox.run_until_settled()
        message = sandbox.assert_delivered_once(answer["job_id"])
        assert message.video_url == api.video_url(answer["job_id"])


def test_what_is_wrong_with_a_call_is_an_answer_to_the_model():
    """It never raises into the agent's loop."""
    with (
        FakeVideoApi(api_key="key") as api,
        Sandbox() as sandbox,
        closing(VideoApiGenerator(base_url=api.url, api_key="key")) as generator,
    ):
        tool = VideoGeneratorTool(sandbox.queue, generator, notifier=sandbox.notifier)

        answer = tool.call('{"prompt": ""}', conversation_id="maria")

        assert answer["success"] is False
        assert api.generated == []
