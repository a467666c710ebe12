"""Descriptions against the OpenAPI documents that the makers of the APIs publish; `nox -s openapi` fetches them.

The fake is made of the descriptions: where each field and each word of its answers is declared
by a document, the description's paths and words are. And what a generation is started with is valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import httpx
import pytest

from kit.documents import NEEDS_DOCUMENTS, RAW, adapted, check, read_document
from videopoll import VideoJob
from videopoll.errors import ConfigurationError
from videopoll.testing import FakeProviders
from videopoll.video_api import GenerationRequest, GenerationStarted, HttpVideoGenerator, Meaning
from videopoll.video_api.apis import ALL

pytestmark = NEEDS_DOCUMENTS

BEYOND = {("videos", Meaning.CANCELLED), ("videos", Meaning.EXPIRED)}
"""What gateways say that speak the dialect, and OpenAI's document does not."""


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


@pytest.fixture(scope="module", params=DOCUMENTS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def document(name) -> dict[str, Any]:
    return read_document(name, DOCUMENTS[name].url)


@pytest.fixture(scope="module")
def components(document) -> dict[bool, Any]:
    """The parts that the document's schemas share: for answers, and for requests, where nothing may be missing."""
    return {whole: adapted(document.get("components", {}), whole=whole) for whole in (False, True)}


@pytest.fixture
def providers() -> Iterator[FakeProviders]:
    with FakeProviders() as providers:
        yield providers


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
