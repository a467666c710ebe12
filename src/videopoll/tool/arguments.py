"""What the tool's arguments may be: the schema that the model gets, and the reading of what it wrote."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, cast

import attrs

from videopoll.errors import InvalidGenerationError
from videopoll.video_api.capabilities import Capabilities
from videopoll.video_api.generation import (
    ASPECT_RATIOS,
    MAX_NEGATIVE_PROMPT_CHARS,
    MODELS,
    GenerationRequest,
)

if TYPE_CHECKING:
    from videopoll.jobs.codec import JsonValue

__all__ = ["TOOL_NAME", "ToolArguments", "description_of", "properties_of", "read_arguments"]

TOOL_NAME: Final = "videoGenerator"

MIN_PROMPT_CHARS = 20
MAX_PROMPT_CHARS = 1000
"""The tool's own limits of a prompt: the API takes a little more, and a shorter one makes a poor video."""

MAX_MESSAGE_CHARS = 1000
"""A longer ``messageToUser`` is cut."""

MAX_ARGUMENTS_CHARS = 65_536

DESCRIPTION = (
    "Generates a short video (about 8 seconds) from a description, and optionally from an image of the user. It takes"
    " 1 to 2 minutes: the user gets the video in this chat when it is ready, so do not wait for it and do not call the"
    " tool again for the same wish."
)

_FILE_ID = re.compile(r"[0-9a-f]{32}")

PROPERTIES: dict[str, dict[str, JsonValue]] = {
    "prompt": {
        "type": "string",
        "description": (
            f"What the video shows: scene, movement, style, camera. {MIN_PROMPT_CHARS} to {MAX_PROMPT_CHARS} characters."
        ),
    },
    "imageFileId": {
        "type": ["string", "null"],
        "description": "Id of an image of the user to start from: 32 lower-case hexadecimal digits. null for none.",
    },
    "aspectRatio": {
        "type": ["string", "null"],
        "enum": ["9:16", "16:9", None],
        "description": "9:16 is vertical (TikTok, reels, stories). null unless the user asked for one.",
    },
    "negativePrompt": {
        "type": ["string", "null"],
        "description": f"What the video must not show: at most {MAX_NEGATIVE_PROMPT_CHARS} characters. null for nothing.",
    },
    "modelSelected": {
        "type": ["integer", "null"],
        "enum": [2, 3, None],
        "description": "Version of the video model, Veo 2 or Veo 3 (16:9 only). null unless the user asked for one.",
    },
    "messageToUser": {
        "type": "string",
        "description": (
            "A short message that the user gets at once, in the user's language: that the video is being made and"
            " takes 1 to 2 minutes."
        ),
    },
}


_TAKES = "1 to 2 minutes"
_LASTS = " (about 8 seconds)"
"""What is true of the API that `VideoApiGenerator` asks, and of no other."""


def description_of(capabilities: Capabilities | None) -> str:
    """Return what the model reads about the tool, by default."""
    if capabilities is None:
        return DESCRIPTION
    return DESCRIPTION.replace(_TAKES, "a few minutes").replace(_LASTS, "")


def properties_of(capabilities: Capabilities | None, *, images: bool) -> dict[str, dict[str, JsonValue]]:
    """Return the schema of the arguments: of those, and of the values, that can be asked for.

    Args:
        capabilities: What the generator can be asked for; None for `VideoApiGenerator`.
        images: Whether the host has images.
    """
    properties = copy.deepcopy(PROPERTIES)
    able = capabilities or _VEO
    if capabilities is not None:
        ratio, model, told = (properties[name] for name in ("aspectRatio", "modelSelected", "messageToUser"))
        ratio["enum"] = [*_ratios(able), None]
        model |= {"type": ["string", "null"], "enum": [*able.models, None]}
        model["description"] = "The video model. null unless the user asked for one."
        told["description"] = str(told["description"]).replace(_TAKES, "a few minutes")
    offered = {
        "imageFileId": images and able.with_image is not None,
        "aspectRatio": bool(_ratios(able)),
        "negativePrompt": able.negative_prompt,
        "modelSelected": len(able.models) > 1,
    }
    return {name: schema for name, schema in properties.items() if offered.get(name, True)}


_VEO = Capabilities(
    name="veo",
    models=tuple(map(str, MODELS)),
    aspect_ratios=ASPECT_RATIOS,
    negative_prompt=True,
    with_image=Capabilities(name="veo"),
)


def _ratios(able: Capabilities) -> tuple[str, ...]:
    more = able.with_image.aspect_ratios if able.with_image is not None else ()
    return tuple(dict.fromkeys((*able.aspect_ratios, *more)))


@attrs.frozen(kw_only=True)
class ToolArguments:
    """The arguments of one call, checked.

    Args:
        request: The request to the video API; its model is not chosen yet.
        message_to_user: The text that the user gets at once; None for none.
    """

    request: GenerationRequest
    message_to_user: str | None = attrs.field(default=None, repr=False)


def read_arguments(
    arguments: str | Mapping[str, object],
    *,
    file_url: str | None = None,
    mode: Literal["async", "sync"] = "async",
    capabilities: Capabilities | None = None,
) -> ToolArguments:
    """Read the arguments that a model wrote, trusting nothing in them.

    Optional ones may be missing or null.

    Args:
        arguments: JSON text, or the mapping it contains.
        file_url: The URL of the host's file storage: the id of an image is appended to it.
        mode: The mode to ask the API for.
        capabilities: What the generator can be asked for; None for `VideoApiGenerator`.

    Raises:
        InvalidGenerationError: They cannot be used. The error tells the model what to change, and quotes nothing.
    """
    fields = _fields(arguments)
    unknown = fields.keys() - PROPERTIES.keys()
    if unknown:
        msg = f"there are parameters that the tool does not have; it has {', '.join(PROPERTIES)}"
        raise InvalidGenerationError(msg)
    message = _text(fields, "messageToUser", longest=None)
    request = GenerationRequest(
        prompt=_text(fields, "prompt", shortest=MIN_PROMPT_CHARS, longest=MAX_PROMPT_CHARS, needed=True) or "",
        mode=mode,
        version=None if capabilities else cast("int | None", _choice(fields, "modelSelected", tuple(MODELS))),
        model=cast("str | None", _choice(fields, "modelSelected", capabilities.models)) if capabilities else None,
        aspect_ratio=cast("str | None", _choice(fields, "aspectRatio", _ratios(capabilities or _VEO))),
        image_url=_image_url(fields, file_url),
        negative_prompt=_text(fields, "negativePrompt", longest=MAX_NEGATIVE_PROMPT_CHARS),
    )
    return ToolArguments(request=request, message_to_user=message[:MAX_MESSAGE_CHARS] if message else None)


def _fields(arguments: object) -> dict[str, object]:
    if isinstance(arguments, Mapping):
        return dict(arguments)
    if not isinstance(arguments, str):
        problem = f"the arguments must be JSON text or a mapping, got {type(arguments).__name__}"
    elif len(arguments) > MAX_ARGUMENTS_CHARS:
        problem = f"the arguments must have at most {MAX_ARGUMENTS_CHARS} characters"
    else:
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        problem = "the arguments must be one JSON object"
    raise InvalidGenerationError(problem)


def _text(
    fields: Mapping[str, object], name: str, *, longest: int | None, shortest: int = 0, needed: bool = False
) -> str | None:
    value = fields.get(name)
    if value is None and not needed:
        return None
    if not isinstance(value, str):
        msg = f"{name} must be a text"
        raise InvalidGenerationError(msg)
    if not needed and not value.strip():
        return None  # Models that cannot write null write an empty text.
    if len(value.strip()) < shortest or (longest is not None and len(value) > longest):
        limits = f"{shortest} to {longest}" if shortest else f"at most {longest}"
        msg = f"{name} must have {limits} characters, got {len(value.strip())}"
        raise InvalidGenerationError(msg)
    try:
        value.encode()
    except UnicodeEncodeError:
        msg = f"{name} must be valid Unicode, without lone surrogates"
        raise InvalidGenerationError(msg) from None
    return value


def _choice(fields: Mapping[str, object], name: str, choices: tuple[object, ...]) -> object | None:
    value = fields.get(name)
    if value is not None and not any(type(value) is type(choice) and value == choice for choice in choices):
        listed = f"one of {', '.join(map(str, choices))}, or " if choices else ""
        msg = f"{name} must be {listed}null"
        raise InvalidGenerationError(msg)
    return value


def _image_url(fields: Mapping[str, object], file_url: str | None) -> str | None:
    file_id = fields.get("imageFileId")
    if file_id is None:
        return None
    if not isinstance(file_id, str) or not _FILE_ID.fullmatch(file_id):
        msg = "imageFileId must be 32 lower-case hexadecimal digits, or null"
        raise InvalidGenerationError(msg)
    if file_url is None:
        msg = "imageFileId cannot be used here: make the video from the description alone"
        raise InvalidGenerationError(msg)
    return file_url + file_id
