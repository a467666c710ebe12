"""A scripted chat model: it calls a tool, reads the tool's answer, and replies."""

from __future__ import annotations

import hmac
import itertools
import json
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from typing_extensions import override

from videopoll.jobs.checks import check_callable, check_texts
from videopoll.testing.servers import FakeServer, ReceivedRequest, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from videopoll.jobs.codec import JsonValue

__all__ = ["FakeOpenAI"]

# Keywords of JSON schema that strict mode does not take everywhere.
_NOT_STRICT = frozenset({"default", "format", "maxLength", "maximum", "minLength", "minimum", "pattern"})


class FakeOpenAI(FakeServer):
    """OpenAI's Responses API and Chat Completions over real HTTP, as far as one call of one tool goes.

    ::

        with FakeOpenAI(lambda said: {"prompt": said}) as model:
            client = OpenAI(base_url=model.base_url, api_key="any")

    To a user's sentence the model answers by calling the first tool of the
    request, with all parameters that strict mode asks for. To the tool's answer
    it says something. A tool whose schema breaks the rules of strict mode is
    refused, and so is streaming.

    Args:
        arguments: Gives the arguments from what the user said. Parameters that it leaves out become null.
        speak: Gives what the model says about the tool's answer; the answer's ``message`` by default.
        api_key: The key that every call has to bring; None takes any.
        call_id: The id of each tool call; None makes up a new one.
        port: The port on 127.0.0.1; None chooses a free one.
        latency_s: Seconds that every answer takes.
    """

    def __init__(
        self,
        arguments: Callable[[str], Mapping[str, JsonValue]],
        *,
        speak: Callable[[Mapping[str, JsonValue]], str] | None = None,
        api_key: str | None = None,
        call_id: str | None = None,
        port: int | None = None,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(port=port, latency_s=latency_s)
        check_texts("FakeOpenAI", api_key=api_key, call_id=call_id)
        check_callable(arguments, "FakeOpenAI.arguments", "the user's text")
        if speak is not None:
            check_callable(speak, "FakeOpenAI.speak", "the tool's answer")
        self._arguments = arguments
        self._speak = speak or (lambda answer: str(answer.get("message")))
        self._api_key = api_key
        self._call_id = call_id
        self._serial = itertools.count(1)
        self._answers: list[dict[str, JsonValue]] = []

    @property
    def base_url(self) -> str:
        """The ``base_url`` for an SDK."""
        return f"{self.url}/v1"

    @property
    def answers(self) -> list[dict[str, JsonValue]]:
        """The tool's answers that the model has read, in order."""
        with self._lock:
            return list(self._answers)

    @override
    def _handle(self, request: ReceivedRequest) -> Reply:
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._api_key is not None and not hmac.compare_digest(key.encode(), self._api_key.encode()):
            return _refusal("Incorrect API key provided.", HTTPStatus.UNAUTHORIZED)
        body = request.body
        if body.get("stream"):
            return _refusal("this fake does not stream")
        match request.method, request.path:
            case "POST", "/v1/responses":
                return self._responses(body)
            case "POST", "/v1/chat/completions":
                return self._chat(body)
            case _:
                return _refusal("there is nothing here", HTTPStatus.NOT_FOUND)

    def _responses(self, body: Mapping[str, JsonValue]) -> Reply:
        given = body.get("input")
        items = given if isinstance(given, list) else [{"role": "user", "content": given}]
        tools = [tool for tool in _objects(body.get("tools")) if tool.get("type") == "function"]
        number, last = next(self._serial), _objects(items)[-1]
        output: dict[str, JsonValue]
        if last.get("type") == "function_call_output":
            text: dict[str, JsonValue] = {
                "type": "output_text",
                "text": self._said_about(last.get("output")),
                "annotations": [],
            }
            output = {
                "type": "message",
                "id": f"msg_{number}",
                "role": "assistant",
                "status": "completed",
                "content": [text],
            }
        else:
            problem = _strict_problem(tools)
            if problem:
                return _refusal(problem)
            output = {
                "type": "function_call",
                "id": f"fc_{number}",
                "call_id": self._call_id or f"call_{number}",
                "name": tools[0]["name"],
                "arguments": self._written(_plain(last.get("content")), tools[0]),
                "status": "completed",
            }
        return Reply.json(
            {
                "id": f"resp_{number}",
                "object": "response",
                "created_at": int(time.time()),
                "status": "completed",
                "model": body.get("model"),
                "output": [output],
                "parallel_tool_calls": True,
                "tool_choice": "auto",
                "tools": body.get("tools") or [],
                "error": None,
                "incomplete_details": None,
                "instructions": None,
                "metadata": {},
                "usage": {
                    "input_tokens": 1,
                    "input_tokens_details": {"cached_tokens": 0},
                    "output_tokens": 1,
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": 2,
                },
            }
        )

    def _chat(self, body: Mapping[str, JsonValue]) -> Reply:
        number, last = next(self._serial), _objects(body.get("messages"))[-1]
        message: dict[str, JsonValue] = {"role": "assistant", "content": None, "refusal": None}
        if last.get("role") == "tool":
            message["content"] = self._said_about(last.get("content"))
        else:
            tools = [_object(tool.get("function")) for tool in _objects(body.get("tools"))]
            problem = _strict_problem(tools)
            if problem:
                return _refusal(problem)
            call: dict[str, JsonValue] = {
                "name": tools[0]["name"],
                "arguments": self._written(_plain(last.get("content")), tools[0]),
            }
            call_id = self._call_id or f"call_{number}"
            message["tool_calls"] = [{"id": call_id, "type": "function", "function": call}]
        finish = "tool_calls" if "tool_calls" in message else "stop"
        return Reply.json(
            {
                "id": f"chatcmpl-{number}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": body.get("model"),
                "choices": [{"index": 0, "finish_reason": finish, "logprobs": None, "message": message}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        )

    def _written(self, said: str, tool: Mapping[str, JsonValue]) -> str:
        names = cast("list[str]", _object(tool.get("parameters"))["required"])
        given = self._arguments(said)
        return json.dumps({**dict.fromkeys(names), **given})

    def _said_about(self, answer: JsonValue) -> str:
        read = _object(json.loads(_plain(answer)))
        self._answers.append(read)
        return self._speak(read)


def _refusal(message: str, status: int = HTTPStatus.BAD_REQUEST) -> Reply:
    return Reply.json(
        {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}, status=status
    )


def _strict_problem(tools: list[dict[str, JsonValue]]) -> str | None:
    """Return what the real API would refuse in strict mode, or None."""
    if not tools:
        return "the request has no tool to call"
    tool = tools[0]
    parameters = _object(tool.get("parameters"))
    properties = _object(parameters.get("properties"))
    if tool.get("strict") is not True:
        return "the tool is not strict"
    if parameters.get("additionalProperties") is not False:
        return "Invalid schema for function: 'additionalProperties' is required to be supplied and to be false"
    if sorted(cast("list[str]", parameters.get("required"))) != sorted(properties):
        return "Invalid schema for function: 'required' is required to include every key in properties"
    for name, schema in properties.items():
        if _NOT_STRICT & _object(schema).keys():
            return f"Invalid schema for function: a keyword of {name} is not permitted"
    return None


def _object(value: JsonValue) -> dict[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[dict[str, JsonValue]]:
    return [_object(item) for item in cast("list[JsonValue]", value)] if isinstance(value, list) else []


def _plain(content: JsonValue) -> str:
    """Return the text of a message, which may come in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in _objects(content))
    return str(content)
