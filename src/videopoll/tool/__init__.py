"""The OpenAI tool ``videoGenerator``: starts a video, answers at once, and has it delivered later.

The schema, the arguments and the answers are those of the tool's contract.
Nothing here imports an SDK unless `VideoGeneratorTool.as_agents_tool` is called.
"""

from __future__ import annotations

from videopoll.tool.answers import Answer
from videopoll.tool.arguments import TOOL_NAME, ToolArguments, read_arguments
from videopoll.tool.video_generator_tool import UntrackedJob, VideoGeneratorTool

__all__ = [
    "TOOL_NAME",
    "Answer",
    "ToolArguments",
    "UntrackedJob",
    "VideoGeneratorTool",
    "read_arguments",
]
