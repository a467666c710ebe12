"""The machine-readable descriptions that makers of APIs publish, and how a body is checked by one.

A folder named by the environment has copies; what is not there is fetched, and skipped where it
cannot be had.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from videopoll.video_api.description import normalized

FOLDER = os.environ.get("VIDEOPOLL_OPENAPI")

NEEDS_DOCUMENTS = pytest.mark.skipif(not FOLDER, reason="needs the documents: nox -s openapi")

RAW = "https://raw.githubusercontent.com"

SPEC_URL = "openapi_spec_url: "
"""In the file of an SDK that Stainless makes: where its document is."""


def read_document(name: str, url: str) -> dict[str, Any]:
    """Return a document; a copy in the folder is taken as it is."""
    copy = Path(FOLDER or "") / f"{name}.yaml"
    if not copy.exists():
        try:
            text = httpx.get(url, timeout=30, follow_redirects=True).raise_for_status().text
            if SPEC_URL in text:
                url = text.partition(SPEC_URL)[2].split()[0]
                text = httpx.get(url, timeout=60, follow_redirects=True).raise_for_status().text
        except httpx.HTTPError as error:
            pytest.skip(f"{url} cannot be had: {type(error).__name__}")
        copy.write_text(text, encoding="utf-8")
    text = copy.read_text(encoding="utf-8")
    if text.startswith("{"):
        return json.loads(text)
    yaml = pytest.importorskip("yaml")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


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


def check(body: object, schema: dict[str, Any], components: dict[bool, Any], *, whole: bool) -> None:
    """Check a body by a schema; with `whole`, also that nothing is missing."""
    jsonschema = pytest.importorskip("jsonschema")
    ready = {**adapted(schema, whole=whole), "components": components[whole]}
    jsonschema.Draft202012Validator(ready).validate(body)
