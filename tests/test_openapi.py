"""Descriptions against the OpenAPI documents that the makers of the APIs publish; `nox -s openapi` fetches them.

The fake is made of the descriptions: where each field and each word of its answers is declared
by a document, the description's paths and words are. And what a generation is started with is valid.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

from videopoll import VideoJob
from videopoll.errors import ConfigurationError
from videopoll.testing import FakeProviders
from videopoll.video_api import GenerationRequest, GenerationStarted, HttpVideoGenerator, Meaning
from videopoll.video_api.apis import ALL
from videopoll.video_api.description import normalized

FOLDER = os.environ.get("VIDEOPOLL_OPENAPI")
pytestmark = pytest.mark.skipif(not FOLDER, reason="needs the documents: nox -s openapi")

RAW = "https://raw.githubusercontent.com"
BEYOND = {("videos", Meaning.CANCELLED), ("videos", Meaning.EXPIRED)}
"""What gateways say that speak the dialect, and OpenAI's document does not."""

SPEC_URL = "openapi_spec_url: "
"""In the file of an SDK that Stainless makes: where its document is."""


@attrs.frozen
class Document:
    """Where an API's document is, and what it calls the paths that are described."""

    url: str
    poll: str
    start: str
    model: str


DOCUMENTS = {
    "videos": Document(f"{RAW}/openai/openai-openapi/HEAD/openapi.yaml", "/videos/{video_id}", "/videos", "sora-2"),
    "openrouter": Document(
        f"{RAW}/OpenRouterTeam/docs/HEAD/openapi/openapi.yaml", "/videos/{jobId}", "/videos", "google/veo-3.1"
    ),
    "replicate": Document(
        "https://api.replicate.com/openapi.json",
        "/predictions/{prediction_id}",
        "/models/{model_owner}/{model_name}/predictions",
        "minimax/video-01",
    ),
    "runway": Document(f"{RAW}/runwayml/openapi/HEAD/openapi.json", "/v1/tasks/{id}", "/v1/text_to_video", "gen4.5"),
    "luma": Document(
        f"{RAW}/lumalabs/luma-agents-python/HEAD/.stats.yml", "/generations/{generation_id}", "/generations", "ray-3.2"
    ),
}


def fetched(name: str) -> str:
    """Return a document; a copy in the folder is taken as it is."""
    copy = Path(FOLDER or "") / f"{name}.yaml"
    if not copy.exists():
        url = DOCUMENTS[name].url
        try:
            text = httpx.get(url, timeout=30, follow_redirects=True).raise_for_status().text
            if SPEC_URL in text:
                url = text.partition(SPEC_URL)[2].split()[0]
                text = httpx.get(url, timeout=60, follow_redirects=True).raise_for_status().text
        except httpx.HTTPError as error:
            pytest.skip(f"{url} cannot be had: {type(error).__name__}")
        copy.write_text(text, encoding="utf-8")
    return copy.read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=DOCUMENTS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def document(name) -> dict[str, Any]:
    text = fetched(name)
    if text.startswith("{"):
        return json.loads(text)
    yaml = pytest.importorskip("yaml")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@pytest.fixture(scope="module")
def components(document) -> dict[bool, Any]:
    """The parts that the document's schemas share: for answers, and for requests, where nothing may be missing."""
    return {whole: adapted(document.get("components", {}), whole=whole) for whole in (False, True)}


@pytest.fixture
def providers() -> Iterator[FakeProviders]:
    with FakeProviders() as providers:
        yield providers


def check(body: object, schema: dict[str, Any], components: dict[bool, Any], *, whole: bool) -> None:
    """Check a body by a schema; with `whole`, also that nothing is missing."""
    jsonschema = pytest.importorskip("jsonschema")
    ready = {**adapted(schema, whole=whole), "components": components[whole]}
    jsonschema.Draft202012Validator(ready).validate(body)


def adapted(schema: Any, *, whole: bool, part: bool = False) -> Any:
    """Return a schema as JSON Schema has it; without `whole`, one that knows words in any case, and asks for nothing.

    What is not declared is wrong, but within an ``allOf``, whose parts know nothing of each other.
    """
    if isinstance(schema, list):
        return [adapted(one, whole=whole, part=part) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: adapted(one, whole=whole, part=part or key == "allOf")
        for key, one in schema.items()
        # OpenAPI 3.0 had these two as booleans.
        if not (key.startswith("exclusive") and isinstance(one, bool))
        # Of an answer: the fake says the least, and its ids look alike everywhere.
        and (whole or key not in {"required", "pattern", "format"})
    }
    if isinstance(made.get("enum"), list) and not whole:
        made["enum"] = [normalized(one) if isinstance(one, str) else one for one in made["enum"]]
    if isinstance(made.get("const"), str) and not whole:
        made["const"] = normalized(made["const"])
    if isinstance(made.get("properties"), dict) and not part:
        made.setdefault("additionalProperties", False)
    return {"anyOf": [made, {"type": "null"}]} if made.pop("nullable", False) is True else made


def content(of: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a body in JSON, or else of a form."""
    found = of["content"]
    return found.get("application/json", found.get("multipart/form-data"))["schema"]


@pytest.mark.parametrize("meaning", Meaning)
def test_each_answer_of_the_fake_is_declared(name, document, components, providers, meaning):
    api, polled = ALL[name], document["paths"][DOCUMENTS[name].poll]["get"]
    try:
        started = providers.job(name, *[meaning] * len(api.words))
    except ConfigurationError:
        pytest.skip(f"{name} has no word for {meaning}")
    if (name, meaning) in BEYOND:
        pytest.skip("gateways add it")
    url = api.url(api.poll, providers.base_url(name), VideoJob(started.job_id, "", 0, started.metadata))
    for reply in (httpx.get(url, headers=dict(api.headers)) for _ in api.words):
        if reply.status_code == 200:
            check(reply.json(), content(polled["responses"]["200"]), components, whole=False)


@pytest.mark.parametrize("asked", [{}, {"aspect_ratio": "16:9"}, {"aspect_ratio": "9:16", "duration_s": 8}], ids=str)
def test_what_a_generation_is_started_with_is_valid(name, document, components, providers, asked):
    generator = HttpVideoGenerator(
        ALL[name], api_key="any", base_url=providers.base_url(name), model=DOCUMENTS[name].model
    )
    started = generator.generate(GenerationRequest(prompt="a dancing fox", **asked))
    generator.close()
    assert type(started) is GenerationStarted
    asked = document["paths"][DOCUMENTS[name].start]["post"]["requestBody"]
    check(providers.requests[-1].body, content(asked), components, whole=True)
