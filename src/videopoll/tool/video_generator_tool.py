"""One call of the tool, from its arguments to its answer.

A call is two flows (`videopoll.core.flow`): `VideoGeneratorTool._prepare` up to the
generation, which costs money, and `VideoGeneratorTool._carry_out` from there. An
interruption ends the first; the second comes to its end all the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Literal, cast

import attrs

from videopoll._calling import call_async, is_async
from videopoll._reasons import told_of, told_or_withheld
from videopoll.core.flow import Flow, adrive, do, drive
from videopoll.core.flow import call as call_now
from videopoll.errors import ConfigurationError, InvalidGenerationError
from videopoll.jobs.checks import check_callable, check_choice, check_seconds, check_texts
from videopoll.jobs.codec import JsonValue
from videopoll.jobs.job import MAX_OPERATION_BYTES, PROMPT_CHARS, check_id, check_metadata
from videopoll.jobs.urls import check_url
from videopoll.messages import AcknowledgementMessage, Delivered
from videopoll.observe.log import shown
from videopoll.queue.tool_calls import ToolCalls, store_of
from videopoll.tool.answers import IN_PROGRESS, Answer, error_answer, finished_answer, started_answer
from videopoll.tool.arguments import TOOL_NAME, ToolArguments, description_of, properties_of, read_arguments
from videopoll.tool.uninterrupted import InterruptedStepError, adrive_to_end, call_in_thread, drive_to_end
from videopoll.video_api.capabilities import Capabilities
from videopoll.video_api.generation import (
    DEFAULT_VERSION,
    MODELS,
    AsyncVideoGenerator,
    GenerationErrorCode,
    GenerationFailed,
    GenerationFinished,
    GenerationRequest,
    GenerationStarted,
    GenerationUnknown,
    ModelChoice,
    VideoGenerator,
    choose_model,
)

if TYPE_CHECKING:
    # The SDKs are a host's: where they are not installed, a type checker takes these for anything.
    from agents import FunctionTool  # type: ignore[import-not-found,unused-ignore]  # pyright: ignore[reportMissingImports]
    from openai.types.chat import ChatCompletionFunctionToolParam  # type: ignore[import-not-found,unused-ignore]  # pyright: ignore[reportMissingImports]
    from openai.types.responses import FunctionToolParam  # type: ignore[import-not-found,unused-ignore]  # pyright: ignore[reportMissingImports]

    from videopoll.protocols import AsyncNotifier, AsyncVideoJobQueue, Notifier, VideoJobQueue

__all__ = ["UntrackedJob", "VideoGeneratorTool"]

log: logging.Logger = logging.getLogger("videopoll.tool")

CALL_WAIT_S = 5.0
"""How long a repeated call waits for the answer of the first one."""
CALL_LOOK_EVERY_S = 0.1
NOTHING_STARTED_KEPT_S = 10.0
"""How long a repeated call gets the answer of one that surely started nothing; after that it is carried out."""

_Code = GenerationErrorCode


@attrs.frozen(kw_only=True)
class UntrackedJob:
    """A generation that was started and paid for, and could not be enqueued.

    Pass it to ``queue.enqueue`` later, or poll it yourself.

    Args:
        job_id: The video API's id of the job.
        conversation_id: Whom the video is for.
        metadata: The metadata that would have been stored with it. Kept out of ``repr``.
        reason: Why it could not be enqueued. No secrets.
    """

    job_id: str
    conversation_id: str
    metadata: Mapping[str, JsonValue] = attrs.field(repr=False)
    reason: str


@attrs.frozen
class _Call:
    """One call of the tool, as it came."""

    arguments: str | Mapping[str, object] = attrs.field(repr=False)
    conversation_id: str
    call_id: object
    metadata: Mapping[str, JsonValue] | None = attrs.field(repr=False)
    claims: list[_Claim] = attrs.field(factory=list, init=False)
    """The keys in Redis that this call has claimed, or tried to."""


@attrs.define
class _Claim:
    """A key in Redis that stands for a call, so that the same call again starts nothing."""

    key: str
    ttl_s: float
    ours: bool = False
    """Whether Redis has confirmed that this call holds it."""


@attrs.frozen
class _Plan:
    """A call that was checked, before anything was done."""

    request: GenerationRequest
    choice: ModelChoice
    message_to_user: str | None
    metadata: dict[str, JsonValue]
    # Some servers number their calls from zero in each turn, so an id means something together with its arguments only.
    call_name: str | None
    """The same for two calls with one id and equal arguments, in one conversation; None without an id."""
    wish_name: str
    """The same for two calls that ask for the same video, in one conversation."""


def _named(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _names(call: _Call, arguments: ToolArguments) -> tuple[str | None, str]:
    # Of what the arguments say: their order, spaces, and whether a null is written out do not matter.
    # A duration is no argument of the tool; names of calls are the same as those of an earlier version.
    wish = attrs.asdict(arguments.request, filter=lambda field, _: field.name != "duration_s")
    wish_name = _named("wish", call.conversation_id, wish)
    call_id = "" if call.call_id is None else str(call.call_id).strip()
    # An empty id, as some servers give, names no call.
    named = _named("call", call.conversation_id, call_id, wish, arguments.message_to_user) if call_id else None
    return named, wish_name


@attrs.frozen
class _Parts:
    """The host's parts, by the side that a driver can use."""

    acknowledge: Callable[..., object] | None
    generate: Callable[..., object]
    enqueue: Callable[..., object]
    untracked: Callable[[UntrackedJob], object] | None
    sleep: Callable[[float], object]


class VideoGeneratorTool:
    """The tool ``videoGenerator`` for agents on OpenAI's APIs: starts a video, and has it delivered.

    ::

        tool = VideoGeneratorTool(queue, VideoApiGenerator(api_key=...), file_url="https://files.example/file/")

        client.responses.create(..., tools=[tool.schema_responses()])
        answer = tool.call(item.arguments, conversation_id="68bb…", call_id=item.call_id)

    A call never raises an `Exception` into the agent's loop: whatever goes wrong
    becomes an answer with ``success: false``, an ``error_code`` and a ``message``
    that the model can pass on. It never pays twice: see `VideoApiGenerator`, and
    `call` about repeated calls.

    Parts of either kind may be mixed under `acall`, where plain functions run in
    threads; `call` needs plain ones. May be shared by threads and event loops.

    Args:
        queue: Enqueues the job: `RedisVideoJobQueue`, `AsyncRedisVideoJobQueue` or your own.
        generator: Starts the video: `VideoApiGenerator`, `HttpVideoGenerator` or your own. The tool
            offers the model what the generator can be asked for, where it says so (`Capabilities`).
        notifier: Sends ``messageToUser``, as an `AcknowledgementMessage`: a channel of WhatsApp, a
            `RoutingNotifier`, or your own.
        tell_user: The same as a function of the conversation id and the text,
            plain or async. It should bound its own time: the generation starts after it.
        file_url: The URL of your file storage: the id of an image is appended to it.
            Without it the tool takes no images.
        on_untracked: Called with an `UntrackedJob` if a started video could not
            be enqueued; plain or async.
        mode: ``"async"`` delivers the video later; ``"sync"`` waits for it, for minutes.
        default_version: For `VideoApiGenerator`: the model, 2 or 3, if the call names none. Veo 2 makes both aspect ratios.
        description: What the model reads about the tool; by default that it makes videos, and does not wait for them.
        same_wish_s: Calls of one conversation that ask for the same video within this
            many seconds are one call, whatever their ids: each gets the answer of the
            first. With 0 every id is a call of its own.
        grace_s: Seconds that a call still gets to come to its end when it is
            interrupted (a cancelled event loop, Ctrl-C, ``sys.exit``) after its
            generation has begun.

    Raises:
        ConfigurationError: A part is missing or of the wrong kind.
    """

    def __init__(
        self,
        queue: VideoJobQueue | AsyncVideoJobQueue,
        generator: VideoGenerator | AsyncVideoGenerator,
        *,
        notifier: Notifier | AsyncNotifier | None = None,
        tell_user: Callable[[str, str], object] | None = None,
        file_url: str | None = None,
        on_untracked: Callable[[UntrackedJob], object] | None = None,
        mode: Literal["async", "sync"] = "async",
        default_version: Literal[2, 3] = DEFAULT_VERSION,
        description: str | None = None,
        same_wish_s: float = 0.0,
        grace_s: float = 20.0,
    ) -> None:
        check_callable(getattr(queue, "enqueue", None), "VideoGeneratorTool.queue's enqueue", "a job id")
        check_callable(getattr(generator, "generate", None), "VideoGeneratorTool.generator's generate", "the request")
        if notifier is not None:
            check_callable(getattr(notifier, "notify", None), "VideoGeneratorTool.notifier's notify", "the message")
        if tell_user is not None:
            check_callable(tell_user, "VideoGeneratorTool.tell_user", "the conversation id and the text")
        if on_untracked is not None:
            check_callable(on_untracked, "VideoGeneratorTool.on_untracked", "an UntrackedJob")
        if notifier is not None and tell_user is not None:
            msg = "VideoGeneratorTool takes a notifier or tell_user, not both: the user would be told twice"
            raise ConfigurationError(msg)
        check_choice("VideoGeneratorTool.mode", mode, "async", "sync")
        check_choice("VideoGeneratorTool.default_version", default_version, *MODELS)
        check_texts("VideoGeneratorTool", description=description)
        check_seconds("VideoGeneratorTool.same_wish_s", same_wish_s, low=0)
        check_seconds("VideoGeneratorTool.grace_s", grace_s, low=0)
        capabilities: object = getattr(generator, "capabilities", None)
        self._capabilities = capabilities if isinstance(capabilities, Capabilities) else None
        if mode == "sync" and self._capabilities is not None:
            msg = f'{self._capabilities.name} gives a job and no video at once: VideoGeneratorTool.mode must be "async"'
            raise ConfigurationError(msg)
        self._same_wish_s, self._grace_s = same_wish_s, grace_s
        self._queue, self._generator, self._notifier, self._tell_user = queue, generator, notifier, tell_user
        self._file_url = check_url(file_url, "VideoGeneratorTool.file_url") if file_url is not None else None
        self._mode: Literal["async", "sync"] = mode
        self._on_untracked, self._default_version = on_untracked, default_version
        self._description = description_of(self._capabilities) if description is None else description
        self._calls = store_of(queue)
        self._running: set[asyncio.Task[Answer]] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._queue!r}, {self._generator!r})"

    # --- schemas ---

    def parameters(self) -> dict[str, JsonValue]:
        """Return the JSON schema of the arguments, for strict mode: all are required, and optional ones take null."""
        properties = properties_of(self._capabilities, images=self._file_url is not None)
        return {
            "type": "object",
            "properties": cast("JsonValue", properties),
            "required": list(properties),
            "additionalProperties": False,
        }

    def schema_responses(self) -> FunctionToolParam:
        """Return the tool for ``client.responses.create(tools=[...])`` (function tools of the Responses API)."""
        return cast("FunctionToolParam", {"type": "function", **self._function()})

    def schema_chat(self) -> ChatCompletionFunctionToolParam:
        """Return the tool for ``client.chat.completions.create(tools=[...])`` (function tools of Chat Completions)."""
        return cast("ChatCompletionFunctionToolParam", {"type": "function", "function": self._function()})

    def _function(self) -> dict[str, JsonValue]:
        return {
            "name": TOOL_NAME,
            "description": self._description,
            "parameters": self.parameters(),
            "strict": True,
        }

    def as_agents_tool(
        self,
        *,
        conversation_id_from: Callable[..., str | Awaitable[str]],
        metadata_from: Callable[..., Mapping[str, JsonValue] | Awaitable[Mapping[str, JsonValue]]] | None = None,
    ) -> FunctionTool:
        """Return the tool for ``Agent(tools=[...])`` of the Agents SDK, in strict mode.

        Args:
            conversation_id_from: Returns the conversation id for the SDK's ``ToolContext``, whose ``context`` is
                what you passed to ``Runner.run(context=...)``. A plain function runs in a thread; it may be async.
            metadata_from: The same for the job's metadata.

        Raises:
            ImportError: The package ``openai-agents`` is not installed.
        """
        try:
            # Not an import statement: the SDK is optional, and most hosts do without.
            sdk = importlib.import_module("agents")
        except ImportError as error:
            msg = "as_agents_tool needs the Agents SDK: pip install openai-agents"
            raise ImportError(msg) from error

        async def invoke(context: object, arguments: str) -> str:
            try:
                conversation_id = await call_async(conversation_id_from, context)
                metadata = None if metadata_from is None else await call_async(metadata_from, context)
            except Exception as error:  # noqa: BLE001 - a host's function may raise anything
                log.error("🎬 The tool cannot tell whose video it is: %s", _shown(error))  # noqa: TRY400
                return json.dumps(error_answer(_Code.TOOL_ERROR))
            call_id: str | None = getattr(context, "tool_call_id", None)
            answer = await self.acall(arguments, conversation_id=conversation_id, call_id=call_id, metadata=metadata)
            return json.dumps(answer)

        tool = sdk.FunctionTool(
            name=TOOL_NAME,
            description=self._description,
            params_json_schema=self.parameters(),
            on_invoke_tool=invoke,
            strict_json_schema=True,
        )
        return cast("FunctionTool", tool)

    # --- calls ---

    def call(
        self,
        arguments: str | Mapping[str, object],
        *,
        conversation_id: str,
        call_id: str | None = None,
        metadata: Mapping[str, JsonValue] | None = None,
    ) -> Answer:
        """Carry out one call of the tool, and wait for it. Raises no `Exception` of its own.

        From the generation on the parts are called in a thread of the call's own,
        with the context copied: an interruption of this thread then waits for up to
        `grace_s`, so that a video which may have been paid for is still followed.

        Args:
            arguments: The arguments that the model wrote: JSON text, or a mapping.
            conversation_id: Your name for whom the video is for.
            call_id: The model's id of the call. The same id with equal arguments in
                the same conversation, within the TTL of ``video:completed``, gives
                the first answer and starts nothing, unless that answer says that
                surely nothing was started: it counts for 10 s. While Redis is away
                this cannot be checked: the call is carried out, and logged.
            metadata: Further metadata to store with the job, such as the recipient for
                `RoutingNotifier.from_metadata`.

        Returns:
            The answer for the model (contract of the tool), ready for JSON.
        """
        problem = self._sync_problem()
        if problem:
            log.error("🎬 %s is asynchronous: use acall, or give the tool a plain one", problem)
            return error_answer(_Code.TOOL_ERROR)
        generator, notifier = cast("VideoGenerator", self._generator), cast("Notifier | None", self._notifier)
        parts = _Parts(
            acknowledge=notifier.notify if notifier is not None else self._tell_user,
            generate=generator.generate,
            enqueue=self._queue.enqueue,
            untracked=self._on_untracked,
            sleep=time.sleep,
        )
        call = _Call(arguments, conversation_id, call_id, metadata)
        try:
            plan = drive(self._prepare(parts, call), call_now)
        except BaseException:
            drive(self._release(call), call_now)
            raise
        return drive_to_end(self._carry_out(parts, call, plan), self._grace_s) if isinstance(plan, _Plan) else plan

    async def acall(
        self,
        arguments: str | Mapping[str, object],
        *,
        conversation_id: str,
        call_id: str | None = None,
        metadata: Mapping[str, JsonValue] | None = None,
    ) -> Answer:
        """Carry out one call of the tool under asyncio; the arguments are those of `call`. Raises no `Exception`.

        When it is cancelled, the call is carried out to its end in the background:
        a video that may have been paid for is still followed. `aclose` waits for
        it. So does ``asyncio.run`` at its end, for up to `grace_s`, if the
        generation has begun; a call that has not come so far ends there, and
        starts nothing.
        """
        generator, notifier = self._generator, self._notifier
        notify = getattr(notifier, "anotify", notifier.notify) if notifier is not None else None
        parts = _Parts(
            acknowledge=notify or self._tell_user,
            generate=getattr(generator, "agenerate", generator.generate),
            enqueue=self._queue.enqueue,
            untracked=self._on_untracked,
            sleep=asyncio.sleep,
        )
        call = _Call(arguments, conversation_id, call_id, metadata)
        task = asyncio.create_task(self._acall(parts, call), name="videoGenerator")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _acall(self, parts: _Parts, call: _Call) -> Answer:
        try:
            plan = await adrive(self._prepare(parts, call), call_in_thread)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            await adrive(self._release(call), call_in_thread)
            raise
        return (
            await adrive_to_end(self._carry_out(parts, call, plan), self._grace_s) if isinstance(plan, _Plan) else plan
        )

    async def aclose(self) -> None:
        """Wait until the calls of this event loop have ended, those whose callers went away as well."""
        loop = asyncio.get_running_loop()
        running = [task for task in self._running if task.get_loop() is loop]
        if running:
            await asyncio.wait(running)

    def _sync_problem(self) -> str | None:
        notifier_is_async = self._notifier is not None and (
            bool(getattr(self._notifier, "async_only", False)) or is_async(self._notifier.notify)
        )
        asynchronous = {
            "queue": is_async(self._queue.enqueue),
            "generator": is_async(self._generator.generate),
            "notifier": notifier_is_async,
            "tell_user": is_async(self._tell_user),
            "on_untracked": is_async(self._on_untracked),
        }
        return next((f"VideoGeneratorTool.{name}" for name, it_is in asynchronous.items() if it_is), None)

    # --- what a call comes to ---

    def _prepare(self, parts: _Parts, call: _Call) -> Flow[_Plan | Answer]:
        """Do all that costs nothing: check the call, claim its id, acknowledge it. Returns the plan, or the final answer."""
        try:
            plan = self._plan(call)
            if not isinstance(plan, _Plan):
                return plan
            known = yield from self._claim(parts, call, plan)
            if known is not None:
                return known
            if plan.message_to_user and parts.acknowledge is not None:
                yield from self._acknowledge(parts.acknowledge, call, plan, plan.message_to_user)
        except Exception as error:  # noqa: BLE001 - nothing of ours may break the agent's loop
            log.error("🎬 The tool failed: %s", _shown(error))  # noqa: TRY400 - a traceback may hold a prompt
            yield from self._release(call)
            return error_answer(_Code.TOOL_ERROR)
        return plan

    def _claim(self, parts: _Parts, call: _Call, plan: _Plan) -> Flow[Answer | None]:
        """Claim this call id, or return the answer of the call that already holds it."""
        by_wish, calls = self._same_wish_s > 0, self._calls
        if plan.call_name is None and not by_wish:
            return None
        if calls is None:
            log.warning("🎬 A repeated call would not be noticed: only the Redis queues keep the ids of calls")
            return None
        claims = [_Claim(calls.key(plan.call_name), calls.kept_s)] if plan.call_name is not None else []
        if by_wish:
            claims.append(_Claim(calls.key(plan.wish_name), self._same_wish_s))
        for claim in claims:
            known = yield from self._known(calls, parts, call, claim)
            if known is not None:
                # Its id, if that was new, stands for this answer, too.
                yield from self._keep(call, known)
                return known
        return None

    def _known(self, calls: ToolCalls, parts: _Parts, call: _Call, claim: _Claim) -> Flow[Answer | None]:
        call.claims.append(claim)
        try:
            claim.ours = yield from calls.claim(claim.key, claim.ttl_s)
        except Exception as error:  # noqa: BLE001 - the client may raise anything while Redis is away
            log.warning("🎬 Redis cannot tell whether this call was made before; it is carried out: %s", _shown(error))
            return None
        if claim.ours:
            return None
        call.claims.remove(claim)
        try:
            for _ in range(round(CALL_WAIT_S / CALL_LOOK_EVERY_S)):
                answer = yield from calls.look(claim.key)
                if answer is not None:
                    log.info("🎬 The call was made before: the first answer is given again")
                    return answer
                yield from do(parts.sleep, CALL_LOOK_EVERY_S)
        except Exception as error:  # noqa: BLE001 - it surely is a repetition, whatever its answer was
            log.warning("🎬 Redis cannot give the first answer to a repeated call: %s", _shown(error))
        return error_answer(
            _Code.TOOL_ERROR, error="This call is being carried out", message=IN_PROGRESS, may_have_started=True
        )

    def _keep(self, call: _Call, answer: Answer) -> Flow[None]:
        surely_nothing = not answer["success"] and not answer["may_have_started"]
        try:
            for claim in call.claims:
                ttl_s = min(claim.ttl_s, NOTHING_STARTED_KEPT_S) if surely_nothing else claim.ttl_s
                yield from cast("ToolCalls", self._calls).keep(claim.key, answer, ttl_s)
        except Exception as error:  # noqa: BLE001 - the client may raise anything while Redis is away
            log.warning("🎬 Redis cannot keep the answer to this call: %s", _shown(error))

    def _release(self, call: _Call) -> Flow[None]:
        """Release the id of a call that has started nothing, so that the same call again is carried out."""
        try:
            for claim in call.claims:
                if claim.ours:
                    yield from cast("ToolCalls", self._calls).release(claim.key)
        except Exception as error:  # noqa: BLE001 - the client may raise anything while Redis is away
            log.warning("🎬 Redis cannot forget a call that came to nothing: %s", _shown(error))

    def _plan(self, call: _Call) -> _Plan | Answer:
        """Check a call before it costs anything. Returns the plan, or the answer that says what is wrong."""
        try:
            check_id(call.conversation_id, "conversation_id")
            able = self._capabilities
            arguments = read_arguments(call.arguments, file_url=self._file_url, mode=self._mode, capabilities=able)
            call_name, wish_name = _names(call, arguments)
            if able is not None:
                choice = able.choose(arguments.request)
            else:
                choice = choose_model(arguments.request, default_version=self._default_version)
            request = choice.applied_to(arguments.request)
            own: dict[str, JsonValue] = {
                "prompt": request.prompt[:PROMPT_CHARS],
                "model": choice.model,
                "version": choice.version,
                "aspectRatio": choice.aspect_ratio,
                "hasNegativePrompt": request.negative_prompt is not None,
            }
            metadata = check_metadata({**check_metadata(call.metadata), **own})
            if able is not None:
                # What the API answers is stored with them, and a video must not be paid for that has no room.
                check_metadata({**metadata, "provider": able.name, "operation": " " * MAX_OPERATION_BYTES})
        except InvalidGenerationError as error:
            message = f"The video was not started: {error}. Correct the call, or ask the user."
            return error_answer(_Code.INVALID_REQUEST, error=str(error), message=message)
        except Exception as error:  # noqa: BLE001 - a host's mapping may raise anything
            log.error("🎬 The host's values cannot be used: %s", _shown(error))  # noqa: TRY400
            return error_answer(_Code.TOOL_ERROR)
        return _Plan(request, choice, arguments.message_to_user, metadata, call_name, wish_name)

    def _carry_out(self, parts: _Parts, call: _Call, plan: _Plan) -> Flow[Answer]:
        """Do what costs money, and all that has to follow it."""
        try:
            answer = yield from self._generate(parts, call, plan)
            yield from self._keep(call, answer)
        except Exception as error:  # noqa: BLE001 - nothing of ours may break the agent's loop
            log.error("🎬 The tool failed: %s", _shown(error))  # noqa: TRY400 - a traceback may hold a prompt
            return error_answer(_Code.TOOL_ERROR, may_have_started=True)
        return answer

    def _generate(self, parts: _Parts, call: _Call, plan: _Plan) -> Flow[Answer]:
        try:
            result = yield from do(parts.generate, plan.request)
        except Exception as error:  # noqa: BLE001 - a host's generator may raise anything
            log.error("🎬 The generator failed: %s", _shown(error))  # noqa: TRY400
            return error_answer(_Code.TOOL_ERROR, may_have_started=True)
        match result:
            case GenerationStarted():
                followed = yield from self._enqueue(parts, call, plan, result)
                return started_answer(result, plan.choice, followed=followed)
            case GenerationFinished():
                return finished_answer(result, plan.choice)
            case GenerationFailed(code=code, detail=detail, retries=retries):
                log.warning("🎬 No video was started: %s: %s", code, told_or_withheld(detail))
                return error_answer(code, retries=retries)
            case GenerationUnknown(code=code, detail=detail, retries=retries):
                log.error(
                    "🎬 A video may have been started, and cannot be followed: %s: %s", code, told_or_withheld(detail)
                )
                return error_answer(code, may_have_started=True, retries=retries)
            case _:
                log.error("🎬 The generator gave %s instead of a Generation", type(result).__name__)
                return error_answer(_Code.TOOL_ERROR, may_have_started=True)

    def _acknowledge(self, send: Callable[..., object], call: _Call, plan: _Plan, text: str) -> Flow[None]:
        try:
            if self._notifier is None:
                yield from do(send, call.conversation_id, text)
                return
            message = AcknowledgementMessage(
                reference=f"vp-told-{(plan.call_name or uuid.uuid4().hex)[:32]}",
                conversation_id=call.conversation_id,
                metadata=plan.metadata,
                text=text,
            )
            receipt = yield from do(send, message)
            if receipt is not None and not isinstance(receipt, Delivered):
                log.warning("🎬 The user could not be told at once: %s", _shown_receipt(receipt))
        except Exception as error:  # noqa: BLE001 - whatever happened, the video matters more
            problem = _shown(error)
            log.warning("🎬 The user of %s could not be told at once: %s", shown(call.conversation_id), problem)

    def _enqueue(self, parts: _Parts, call: _Call, plan: _Plan, started: GenerationStarted) -> Flow[bool]:
        job_id, reason = started.job_id, ""
        metadata = {**plan.metadata, **started.metadata}
        for _ in range(2):
            try:
                yield from do(parts.enqueue, job_id, conversation_id=call.conversation_id, metadata=metadata)
            except InterruptedStepError as error:
                # It says nothing about Redis, and an enqueue may be made again.
                reason = _shown(error)
            except Exception as error:  # noqa: BLE001 - a host's queue may raise anything
                reason = _shown(error)
                break
            else:
                log.info("🎬 Video job enqueued for background polling: %s", shown(job_id))
                return True
        log.error("🎬 [%s] The video was started, and cannot be enqueued: %s", shown(job_id), reason)
        if parts.untracked is not None:
            lost = UntrackedJob(job_id=job_id, conversation_id=call.conversation_id, metadata=metadata, reason=reason)
            try:
                yield from do(parts.untracked, lost)
            except Exception as error:  # noqa: BLE001 - a host's hook may raise anything
                log.error("🎬 [%s] on_untracked failed: %s", shown(job_id), _shown(error))  # noqa: TRY400
        return False


def _shown_receipt(receipt: object) -> str:
    """Return what may be shown of a receipt that is no success."""
    return f"{type(receipt).__name__}, {told_or_withheld(getattr(receipt, 'reason', None)) or 'without a reason'}"


def _shown(error: Exception) -> str:
    """Return what may be shown of an exception: its type, and the words of it that are ours."""
    name, said = type(error).__name__, told_of(error)
    return name if said == name else f"{name}: {said}"
