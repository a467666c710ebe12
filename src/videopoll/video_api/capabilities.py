"""What a generator can be asked for, and what it is asked for in the end. Pure values."""

from __future__ import annotations

import attrs

from videopoll._reasons import own
from videopoll.errors import InvalidGenerationError
from videopoll.jobs.checks import check_fields
from videopoll.video_api.generation import (
    GenerationRequest,
    ModelChoice,
    read_aspect_ratio,
)

__all__ = ["Capabilities"]


@attrs.frozen(kw_only=True)
class Capabilities:
    """What a generator can be asked for. The tool offers the model no more than that.

    A generator that has one as its attribute ``capabilities`` is asked for what its
    `choose` chooses; one without is asked for what `choose_model` chooses.

    Args:
        name: The API's name, for texts.
        models: Its models that may be asked for, the default first; empty where there is no choice.
        aspect_ratios: Those that it can be asked for.
        default_aspect_ratio: The one of requests that say nothing of it; None leaves it to the API.
        negative_prompt: Whether it takes one.
        duration: Whether it can be told how long a video is.
        with_image: The same for requests with an image; None if it takes none.
    """

    name: str
    models: tuple[str, ...] = ()
    aspect_ratios: tuple[str, ...] = ()
    default_aspect_ratio: str | None = None
    negative_prompt: bool = False
    duration: bool = False
    with_image: Capabilities | None = None

    def __attrs_post_init__(self) -> None:
        check_fields(self, Capabilities=Capabilities)

    def choose(self, request: GenerationRequest) -> ModelChoice:
        """Choose model and aspect ratio.

        Raises:
            InvalidGenerationError: The API cannot make what is asked for; the text says what to change.
        """
        here = self if request.image_url is None or self.with_image is None else self.with_image
        problem = _problem(here, request, takes_image=here is not self)
        if problem is not None:
            raise InvalidGenerationError(own(problem))
        model = request.model or next(iter(here.models), None)
        by = "asked for" if request.model is not None else "chosen by the host"
        ratio, read = request.aspect_ratio or here.default_aspect_ratio, read_aspect_ratio(request.prompt)
        why = "asked for" if request.aspect_ratio is not None else "the default"
        if request.aspect_ratio is None and read in here.aspect_ratios:
            ratio, why = read, "read from the prompt"
        reasons = (f"{model} was {by}" if model else "", f"{ratio} was {why}" if ratio else "")
        reason = "; ".join(filter(None, reasons)) or f"{here.name} chooses by itself"
        return ModelChoice(model=model, aspect_ratio=ratio, reason=f"{reason}.")


def _problem(able: Capabilities, asked: GenerationRequest, *, takes_image: bool) -> str | None:
    """Return why the API cannot make what is asked for."""
    ratio = asked.aspect_ratio
    ratios = f"ask for {_or(able.aspect_ratios)}" if able.aspect_ratios else "leave it out"
    problems = {
        f"{able.name} starts from no image: make the video from the description alone": (
            asked.image_url is not None and not takes_image
        ),
        f"{able.name} gives a job and no video at once: mode must be async": asked.mode != "async",
        f"{able.name} has no versions: leave version out": asked.version is not None,
        f"model must be {_or(able.models) or 'left out'}": (asked.model is not None and asked.model not in able.models),
        f"{able.name} cannot be asked for the aspect ratio {ratio} here: {ratios}": (
            ratio is not None and ratio not in able.aspect_ratios
        ),
        f"{able.name} takes no negative prompt: leave it out": (
            asked.negative_prompt is not None and not able.negative_prompt
        ),
        f"{able.name} cannot be told how long the video is: leave it out": (
            asked.duration_s is not None and not able.duration
        ),
    }
    return next((problem for problem, there in problems.items() if there), None)


def _or(names: tuple[str, ...]) -> str:
    return " or ".join(names)
