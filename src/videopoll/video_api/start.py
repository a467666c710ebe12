"""How a described video API starts a generation, as data: where to ask, with which body, and where its answer has the job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import attrs

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_fields, listed
from videopoll.video_api.description import Certainty, paths_of, steps_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from videopoll.jobs.codec import JsonValue

__all__ = ["Start", "is_path", "merged"]

NAMES = frozenset({"prompt", "negative_prompt", "model", "aspect_ratio", "image", "duration", "seconds"})
"""What a body may be filled with."""

_VARIABLE = re.compile(r"\{([a-z_]+)\}")


def _ratios(value: Mapping[str, JsonValue] | tuple[str, ...]) -> dict[str, JsonValue]:
    if isinstance(value, Mapping):
        return dict(value)
    return {ratio: ratio for ratio in listed(value, "Start.aspect_ratios", "aspect ratios")}


@attrs.frozen(kw_only=True)
class Start:
    """How a video API starts a generation, as data.

    The body is the JSON that is sent, with the names in braces filled in: ``{prompt}``,
    ``{negative_prompt}``, ``{model}``, ``{aspect_ratio}``, ``{image}`` (a URL), ``{duration}``
    (seconds as a number) and ``{seconds}`` (the same as a text). What a request does
    not have is left out: the field; the text with more around it; and an object or an entry
    of a list all of whose names it does not have.

    Args:
        url: The template of the URL that is posted to: ``{base}``, and ``{model}`` if that is a path.
        body: What is posted.
        certainty: How sure it is.
        headers: Headers that this request has besides those of the description.
        multipart: Whether the body goes as ``multipart/form-data`` and not as JSON.
        id: Where the answer has the API's id of the job.
        operation: What of the answer a poll needs besides, by name: paths to texts.
        constants: What a poll needs and is the same for each job, by name.
        aspect_ratios: The aspect ratios that the API knows: as they are written, or by
            how it writes them.
        defaults: What a request that says nothing of it is filled with: an aspect ratio, a duration
            in seconds. What has none is left to the API.
        starts_nothing: HTTP statuses by which the API surely starts nothing at the moment: the same is asked
            again. What it refuses for good (400 to 405, 407, 413, 422) is not; and
            whatever else is no success may have started a generation.
        idempotency_header: The header by which the API knows a request that is sent again, if it
            does: then also what may have started a generation is asked again.
        with_image: How a generation from an image is started, where that is another address or another body.

    Raises:
        ConfigurationError: A path or a template cannot be read.
    """

    url: str
    body: Mapping[str, JsonValue]
    certainty: Certainty
    headers: Mapping[str, str] = attrs.field(factory=dict)
    multipart: bool = False
    id: tuple[str, ...] = attrs.field(default=("id",), converter=paths_of)
    operation: Mapping[str, str] = attrs.field(factory=dict)
    constants: Mapping[str, str] = attrs.field(factory=dict)
    aspect_ratios: Mapping[str, JsonValue] = attrs.field(factory=dict, converter=_ratios)
    defaults: Mapping[str, str | int] = attrs.field(factory=dict)
    starts_nothing: frozenset[int] = frozenset({429})
    idempotency_header: str | None = None
    with_image: Start | None = None

    def __attrs_post_init__(self) -> None:
        check_fields(self, Certainty=Certainty, Start=Start)
        for name, path in (*(("id", one) for one in self.id), *(("operation", one) for one in self.operation.values())):
            try:
                steps_of(path)
            except ValueError as error:
                msg = f"the start of a generation: {name}: {error}"
                raise ConfigurationError(msg) from None
        names, in_url = names_in(dict(self.body)), set(_VARIABLE.findall(self.url))
        rest = _VARIABLE.sub("", self.url)
        problem = None
        if not self.url.startswith("{base}/") or not in_url <= {"base", "model"} or "{" in rest or "}" in rest:
            problem = f"the URL {self.url!r} must begin with {{base}}/; it may have {{model}} in it"
        elif not names <= NAMES:
            problem = f"the body may have {', '.join(sorted(NAMES))} in braces, got {', '.join(sorted(names - NAMES))}"
        elif "prompt" not in names:
            problem = "the body must have {prompt} in it"
        elif not self.defaults.keys() <= {"aspect_ratio", "duration"}:
            problem = "defaults may have aspect_ratio and duration"
        elif self.defaults.get("aspect_ratio", next(iter(self.aspect_ratios), None)) not in {None, *self.aspect_ratios}:
            problem = "the default aspect_ratio must be one of aspect_ratios"
        elif self.with_image is not None and self.with_image.with_image is not None:
            problem = "with_image cannot have a with_image of its own"
        if problem is not None:
            msg = f"the start of a generation: {problem}"
            raise ConfigurationError(msg)

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths into an answer, of the start with an image, too."""
        more = self.with_image.paths if self.with_image is not None else ()
        return (*self.id, *self.operation.values(), *more)

    def takes(self, name: str) -> bool:
        """Whether a name has a place in the request."""
        return f"{{{name}}}" in self.url or name in names_in(dict(self.body))

    def made_url(self, base_url: str, model: str | None) -> str:
        """Return the URL. The model may be a path; `is_path` has checked it."""
        return self.url.replace("{base}", base_url).replace("{model}", quote(model or "", safe="/:@"))

    def made_body(self, values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Return the body with these values, without what they do not have."""
        body = _filled(dict(self.body), values)
        return body if isinstance(body, dict) else {}


def is_path(model: str) -> bool:
    """Whether a model's name can stand in a URL, with its slashes as they are: no part of it climbs."""
    return all(part.strip(".") for part in model.split("/"))


class _Absent:
    """Stands for what a request does not have."""


_ABSENT: Final = _Absent()


def names_in(template: JsonValue) -> set[str]:
    """Return the names in braces of a template."""
    return set(_names(template))


def _names(template: JsonValue) -> Iterator[str]:
    if isinstance(template, str):
        yield from _VARIABLE.findall(template)
    elif isinstance(template, dict | list):
        for one in template.values() if isinstance(template, dict) else template:
            yield from _names(one)


def _filled(template: JsonValue, values: Mapping[str, JsonValue]) -> JsonValue | _Absent:
    names = names_in(template)
    if names and (names.isdisjoint(values) or (isinstance(template, str) and not names <= values.keys())):
        return _ABSENT
    if isinstance(template, str):
        whole = _VARIABLE.fullmatch(template)
        return values[whole[1]] if whole else _VARIABLE.sub(lambda name: str(values[name[1]]), template)
    if isinstance(template, dict):
        fields = {name: _filled(one, values) for name, one in template.items()}
        return {name: one for name, one in fields.items() if not isinstance(one, _Absent)}
    if isinstance(template, list):
        entries = [_filled(one, values) for one in template]
        return [one for one in entries if not isinstance(one, _Absent)]
    return template


def merged(body: dict[str, JsonValue], more: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a body with more fields; of objects in both, each field counts by itself, and `more` wins."""
    result = dict(body)
    for name, value in more.items():
        there = result.get(name)
        result[name] = merged(there, value) if isinstance(there, dict) and isinstance(value, dict) else value
    return result
