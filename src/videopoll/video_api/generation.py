"""What can be asked of a video API, and what can come of it, as values.

`GenerationRequest` is what somebody wants, `choose_model` picks a model and an
aspect ratio for it, and a `Generation` is the answer: started, finished, failed, or
nobody knows.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import attrs

from videopoll._reasons import own, repr_told
from videopoll.errors import InvalidGenerationError
from videopoll.jobs.job import check_id
from videopoll.jobs.urls import BadUrl, readied_url
from videopoll.video_api.operation import job_id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from videopoll.jobs.codec import JsonValue

__all__ = [
    "AsyncVideoGenerator",
    "Generation",
    "GenerationErrorCode",
    "GenerationFailed",
    "GenerationFinished",
    "GenerationRequest",
    "GenerationStarted",
    "GenerationUnknown",
    "ModelChoice",
    "VideoGenerator",
    "choose_model",
]

MAX_PROMPT_CHARS = 1255
MAX_NEGATIVE_PROMPT_CHARS = 500
"""The API's own limits, in characters."""

MAX_MODEL_CHARS = 256

MAX_DURATION_S = 600

LANDSCAPE: Final = "16:9"
PORTRAIT: Final = "9:16"


@attrs.frozen
class _Model:
    """One model of the API: its name, and the aspect ratios that it makes."""

    name: str
    aspect_ratios: tuple[str, ...]


MODELS = {2: _Model("veo-2.0-generate-001", (LANDSCAPE, PORTRAIT)), 3: _Model("veo-3.0-generate-preview", (LANDSCAPE,))}
"""The API's models by version."""

ASPECT_RATIOS = (LANDSCAPE, PORTRAIT)
DEFAULT_VERSION: Final = 2

_RATIO = re.compile(r"[1-9][0-9]?:[1-9][0-9]?")
_RATIO_WRITTEN_OUT = re.compile(r"(?<!\d)(16\s?:\s?9|9\s?:\s?16)(?!\d)")
# "Story" and "historia" alone are left out: they say what a video tells more often than where it is shown.
_PORTRAIT_WORDS = re.compile(
    r"\b(?:vertical(?:es|s)?|tik[\s-]?toks?|reels?|stories|historias?\s+(?:de|en|para)\s+(?:instagram|facebook|whatsapp))\b",
    re.IGNORECASE,
)


def read_aspect_ratio(prompt: str) -> Literal["16:9", "9:16"] | None:
    """Read the aspect ratio that a prompt asks for, in English or Spanish; None where it says nothing.

    A ratio that is written out goes first. Otherwise vertical, TikTok, reels and
    stories, as whole words in any case, mean 9:16.
    """
    written = {re.sub(r"\s", "", ratio) for ratio in _RATIO_WRITTEN_OUT.findall(prompt)}
    if len(written) == 1:
        return PORTRAIT if PORTRAIT in written else LANDSCAPE
    return PORTRAIT if _PORTRAIT_WORDS.search(prompt) else None


# --- what is asked for ------------------------------------------------------------------------------------------------


def _refuse(field: str, problem: str) -> InvalidGenerationError:
    return InvalidGenerationError(own(f"{field} {problem}"))


def _text(longest: int) -> Callable[[object, attrs.Attribute[str], object], None]:
    def check(_: object, attribute: attrs.Attribute[str], value: object) -> None:
        if not isinstance(value, str):
            raise _refuse(attribute.name, f"must be a text, got {type(value).__name__}")
        if not value.strip():
            raise _refuse(attribute.name, "must not be empty")
        if len(value) > longest:
            raise _refuse(attribute.name, f"must have at most {longest} characters, got {len(value)}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _refuse(attribute.name, "must be valid Unicode, without lone surrogates") from None

    return check


def _one_of(*choices: object) -> Callable[[object, attrs.Attribute[Any], object], None]:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        # True is 1 and 2.0 is 2 for Python; the API takes neither.
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise _refuse(attribute.name, f"must be one of {', '.join(map(str, choices))}")

    return check


def _is_ratio(_: object, attribute: attrs.Attribute[str], value: object) -> None:
    if not isinstance(value, str) or not _RATIO.fullmatch(value):
        raise _refuse(attribute.name, f"must be written like {LANDSCAPE}")


def _is_duration(_: object, attribute: attrs.Attribute[int], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_DURATION_S:
        raise _refuse(attribute.name, f"must be a whole number of seconds from 1 to {MAX_DURATION_S}")


def _web_url(_: object, attribute: attrs.Attribute[str], value: object) -> None:
    readied = readied_url(value)
    if isinstance(readied, BadUrl):
        raise _refuse(attribute.name, readied.problem)


@attrs.frozen(kw_only=True)
class GenerationRequest:
    """A video that somebody wants. The prompts and the image's URL stay out of ``repr``.

    What an API cannot make of it, its generator refuses before anything is sent.

    Args:
        prompt: What the video shows: 1 to 1255 characters.
        mode: ``"async"`` gives a job id at once; ``"sync"`` gives the video, after minutes.
        version: 2 or 3, for `VideoApiGenerator`; None for the model's, or else for the default, which is 2.
        model: The model's name, as the API writes it; None for the version's, or for the generator's.
        aspect_ratio: Such as ``"16:9"``; None to read 16:9 or 9:16 from the prompt.
        image_url: An http or https link to the image to start from.
        negative_prompt: What the video must not show: at most 500 characters.
        duration_s: How long the video is, in whole seconds; None for the API's default.

    Raises:
        InvalidGenerationError: A value cannot work; the text says which, and does not quote it.
    """

    prompt: str = attrs.field(repr=False, validator=_text(MAX_PROMPT_CHARS))
    mode: Literal["async", "sync"] = attrs.field(default="async", validator=_one_of("async", "sync"))
    version: int | None = attrs.field(default=None, validator=attrs.validators.optional(_one_of(*MODELS)))
    model: str | None = attrs.field(default=None, validator=attrs.validators.optional(_text(MAX_MODEL_CHARS)))
    aspect_ratio: str | None = attrs.field(default=None, validator=attrs.validators.optional(_is_ratio))
    image_url: str | None = attrs.field(default=None, repr=False, validator=attrs.validators.optional(_web_url))
    negative_prompt: str | None = attrs.field(
        default=None, repr=False, validator=attrs.validators.optional(_text(MAX_NEGATIVE_PROMPT_CHARS))
    )
    duration_s: int | None = attrs.field(default=None, validator=attrs.validators.optional(_is_duration))

    def __attrs_post_init__(self) -> None:
        if self.version is not None and self.model is not None and MODELS[self.version].name != self.model:
            msg = f"model is not that of version {self.version}: give only one of the two"
            raise InvalidGenerationError(msg)


@attrs.frozen(kw_only=True)
class ModelChoice:
    """Which model makes a video, in which aspect ratio, and why.

    Args:
        version: 2 or 3 at `VideoApiGenerator`, None elsewhere.
        model: Its name; None where the API has no choice.
        aspect_ratio: Such as ``"16:9"``; None where the API decides.
        reason: Why, in a sentence for the chat model. Quotes nothing.
        switched: Whether it is another model than the one that was asked for.
    """

    version: int | None = None
    model: str | None = None
    aspect_ratio: str | None = None
    reason: str
    switched: bool = False

    def applied_to(self, request: GenerationRequest) -> GenerationRequest:
        """Return the request with this choice written into it; choosing again changes nothing."""
        return attrs.evolve(request, version=self.version, model=self.model, aspect_ratio=self.aspect_ratio)


def choose_model(request: GenerationRequest, *, default_version: int = DEFAULT_VERSION) -> ModelChoice:
    """Choose what makes the video at `VideoApiGenerator`.

    The request's own aspect ratio wins; without one it is read from the prompt
    (`read_aspect_ratio`), and 16:9 where that says nothing. The aspect ratio
    then wins over the model: one that cannot make it is switched for one that can.

    Args:
        request: What is asked for.
        default_version: 2 or 3, for a request that names neither a version nor a model.

    Raises:
        InvalidGenerationError: It has no such model, makes no such aspect ratio, or cannot be told how long a video is.
    """
    fields = attrs.fields(GenerationRequest)
    _one_of(None, *(model.name for model in MODELS.values()))(request, fields.model, request.model)
    _one_of(None, *ASPECT_RATIOS)(request, fields.aspect_ratio, request.aspect_ratio)
    if request.duration_s is not None:
        raise _refuse(fields.duration_s.name, "cannot be chosen here: leave it out")
    asked = request.version or next((version for version, model in MODELS.items() if model.name == request.model), None)
    version = asked or default_version
    read = None if request.aspect_ratio else read_aspect_ratio(request.prompt)
    ratio = request.aspect_ratio or read or LANDSCAPE
    of_ratio = f"{ratio} (read from the prompt)" if read else ratio
    if ratio in MODELS[version].aspect_ratios:
        reason = f"Veo {version} was {'asked for' if asked else 'chosen by default'}, and makes {of_ratio}."
        return ModelChoice(version=version, model=MODELS[version].name, aspect_ratio=ratio, reason=reason)
    other = next(one for one, model in MODELS.items() if ratio in model.aspect_ratios)
    reason = f"Switched from Veo {version} to Veo {other}: Veo {version} cannot make {of_ratio}."
    return ModelChoice(version=other, model=MODELS[other].name, aspect_ratio=ratio, reason=reason, switched=True)


# --- what came of it --------------------------------------------------------------------------------------------------


class GenerationErrorCode(enum.StrEnum):
    """What went wrong, in the words of the tool's contract."""

    INVALID_REQUEST = "INVALID_REQUEST"
    """The request itself is wrong: another prompt or other values may work."""
    AUTHENTICATION_ERROR = "AUTHENTICATION_ERROR"
    """The API refuses our key: an operator has to act."""
    FILE_TOO_LARGE = "FILE_TOO_LARGE"
    """The image is larger than 25 MB."""
    RATE_LIMITED = "RATE_LIMITED"
    """Too many generations at the moment (about 10 a minute are allowed)."""
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    """The API is down for now."""
    TIMEOUT = "TIMEOUT"
    """No connection, or no answer, within the time."""
    CONNECTION_ERROR = "CONNECTION_ERROR"
    """No connection, or it broke."""
    API_ERROR = "API_ERROR"
    """The API answered with an error, or with something that is no answer."""
    TOOL_ERROR = "TOOL_ERROR"
    """Our own side cannot do it: an operator has to act."""


@attrs.frozen(kw_only=True)
class GenerationStarted:
    """The video is being made: enqueue the job to have it delivered.

    ::

        queue.enqueue(started.job_id, conversation_id="68bb…", metadata=started.metadata)

    Args:
        job_id: The job's id, checked to be usable as one.
        retries: How often the request was sent again.
        provider: The name of the API's description, if it has one.
        operation: What a poll needs besides the job's id, as `HttpVideoPoller` reads
            it: the ``id`` that the API knows, and URLs or path parts that came with it.
            Kept out of ``repr``.
    """

    job_id: str
    retries: int = 0
    provider: str | None = None
    operation: Mapping[str, str] = attrs.field(factory=dict, repr=False)

    @classmethod
    def of(cls, provider: str, api_id: str, **operation: str) -> GenerationStarted:
        """Return what was started at a provider, also by an SDK of its own.

        Args:
            provider: The name of the API's description, such as ``"fal"``.
            api_id: The id that the API gave. The job is called ``"<provider>:<id>"``.
            operation: What else a poll needs, such as fal's ``status_url`` and ``response_url``.

        Raises:
            InvalidJobError: The id cannot be used.
        """
        known = check_id(api_id, "the API's id")
        return cls(job_id=job_id_of(provider, known), provider=provider, operation={**operation, "id": known})

    @property
    def metadata(self) -> dict[str, JsonValue]:
        """What the job's metadata must hold, so that a poll finds it."""
        told: dict[str, JsonValue] = {} if self.provider is None else {"provider": self.provider}
        return {**told, "operation": dict(self.operation)} if self.operation else told


@attrs.frozen(kw_only=True)
class GenerationFinished:
    """The video is there already.

    Args:
        video_url: Where: http or https. Kept out of ``repr``: it may be signed.
        file_id: The API's own id of the file.
        retries: How often the request was sent again.
    """

    video_url: str = attrs.field(repr=False)
    file_id: str | None = None
    retries: int = 0


@attrs.frozen(kw_only=True)
class GenerationFailed:
    """Surely no generation is running.

    Args:
        code: What went wrong.
        detail: What happened, for the operator: no secrets, no prompt. Not for users.
        passing: Whether the same request may work later.
        retry_after_s: How long the API asked to wait, in seconds.
        retries: How often the request was sent again.
    """

    code: GenerationErrorCode
    detail: str = attrs.field(repr=repr_told)
    passing: bool = False
    retry_after_s: float | None = None
    retries: int = 0


@attrs.frozen(kw_only=True)
class GenerationUnknown:
    """A generation may have been started, and nobody knows its id: do not simply ask again.

    Args:
        code: What went wrong.
        detail: What happened, for the operator: no secrets, no prompt. Not for users.
        retries: How often the request was sent again.
    """

    code: GenerationErrorCode
    detail: str = attrs.field(repr=repr_told)
    retries: int = 0


Generation: TypeAlias = GenerationStarted | GenerationFinished | GenerationFailed | GenerationUnknown
"""All that can come of asking for a video."""


class VideoGenerator(Protocol):
    """Starts generations. `videopoll.tool.VideoGeneratorTool` takes one of these or an `AsyncVideoGenerator`.

    It may have an attribute ``capabilities``: what it can be asked for, as `Capabilities`.
    """

    def generate(self, request: GenerationRequest) -> Generation:
        """Ask for a video once.

        An exception counts as "may have been started".
        """
        ...


class AsyncVideoGenerator(Protocol):
    """The asyncio side of `VideoGenerator`."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """Ask for a video once."""
        ...
