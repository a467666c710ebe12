"""What channels send, and what their fakes answer, against the descriptions that the makers publish; `nox -s openapi`.

Every request of a channel is made for real, over its fake, and sent there a second time to see the
answer. A field that the description does not declare is wrong in both; a required one that is
missing is wrong in a request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl

import attrs
import httpx
import pytest

from kit import videos
from kit.documents import NEEDS_DOCUMENTS, RAW, read_document
from videopoll import Recipient
from videopoll.jobs import MessageForm
from videopoll.notifiers import (
    DiscordNotifier,
    DiscordWebhookNotifier,
    TelegramNotifier,
    TwilioNotifier,
    TwilioTemplate,
    WhatsAppCloudNotifier,
    WhatsAppTemplate,
)
from videopoll.testing import (
    FakeDiscord,
    FakeServer,
    FakeTelegram,
    FakeTwilio,
    FakeWhatsAppCloud,
    ReceivedRequest,
    Reply,
    build_message,
    build_outcome,
)
from videopoll.testing.multipart import parts_of

pytestmark = NEEDS_DOCUMENTS

URLS = {
    "whatsapp_cloud": f"{RAW}/facebook/openapi/HEAD/business-messaging-api_v23.0.yaml",
    "telegram": f"{RAW}/PaulSonOfLars/telegram-bot-api-spec/HEAD/api.json",
    "twilio": f"{RAW}/twilio/twilio-oai/HEAD/spec/json/twilio_api_v2010.json",
    "discord": f"{RAW}/discord/discord-api-spec/HEAD/specs/openapi.json",
}


# --- descriptions ---------------------------------------------------------------------------------


@attrs.frozen
class Described:
    """One operation of a description: what may be asked for, and what comes back.

    Args:
        query: The names of its query.
        bodies: The schema of a body, by media type.
        replies: The schemas of a reply in JSON, by status; ``default`` for others.
        shared: What the schemas refer to.
    """

    query: frozenset[str]
    bodies: dict[str, Any]
    replies: dict[str, Any]
    shared: dict[str, Any]

    def check(self, body: object, schema: dict[str, Any], *, whole: bool) -> None:
        """Check a body; with `whole`, also that nothing is missing."""
        jsonschema = pytest.importorskip("jsonschema")
        bases = frozenset(_bases(self.shared)) | frozenset(_bases(schema))
        parts = {
            name: closed(one, whole=whole, part=name in bases)
            for name, one in self.shared.get("components", {}).get("schemas", {}).items()
        }
        ready = {**closed(schema, whole=whole), "components": {"schemas": parts}}
        jsonschema.Draft202012Validator(ready).validate(body)


def _bases(schema: Any, *, below: bool = False) -> Iterator[str]:
    """Yield the names of the components that others are made of, by ``allOf``."""
    if isinstance(schema, list):
        for one in schema:
            yield from _bases(one, below=below)
    elif isinstance(schema, dict):
        if below and isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        for key, one in schema.items():
            yield from _bases(one, below=key == "allOf")


_NO_RULES = frozenset({"discriminator", "example", "examples", "xml", "readOnly", "writeOnly", "format"})


_TOGETHER = ("allOf", "oneOf", "anyOf")
"""Where several schemas say together what one object has."""


def closed(schema: Any, *, whole: bool, part: bool = False) -> Any:
    """Return a schema as JSON Schema has it, in which a field that nobody declares is wrong.

    Meta says so of each part of an ``allOf`` alone, so that no message at all would be right.
    """
    if isinstance(schema, list):
        return [closed(one, whole=whole, part=part) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, one in schema.items():
        if key == "properties":
            made[key] = {name: closed(field, whole=whole) for name, field in one.items()}
        elif key in _NO_RULES or (key == "required" and not whole) or (key == "additionalProperties" and one is False):
            continue
        else:
            made[key] = closed(one, whole=whole, part=part or key in _TOGETHER)
    declares = any("properties" in one for key in _TOGETHER for one in (made, *made.get(key, ())))
    if not part and (declares or "allOf" in made) and "additionalProperties" not in made:
        made["unevaluatedProperties"] = False
    return {"anyOf": [made, {"type": "null"}]} if made.pop("nullable", False) is True else made


def operation_of(document: dict[str, Any], method: str, path: str) -> Described:
    """Return the operation that a request is for, by an OpenAPI document."""
    for template, methods in document["paths"].items():
        pattern = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template))
        # A base path may stand before it.
        if method.lower() in methods and re.fullmatch(f"(?:/api(?:/v[0-9]+)?)?{pattern}", path):
            found = methods[method.lower()]
            break
    else:
        pytest.fail(f"no description has {method} {path}")
    parameters = [
        document["components"]["parameters"][one["$ref"].rpartition("/")[2]] if "$ref" in one else one
        for one in (*methods.get("parameters", ()), *found.get("parameters", ()))
    ]
    responses = {
        status: reply["content"]["application/json"]["schema"]
        for status, reply in found["responses"].items()
        if "application/json" in reply.get("content", {})
    }
    return Described(
        frozenset(one["name"] for one in parameters if one["in"] == "query"),
        {kind: body["schema"] for kind, body in found.get("requestBody", {}).get("content", {}).items()},
        responses,
        document,
    )


def cloud_operation(document: dict[str, Any], method: str, path: str) -> Described:
    """Meta's description wants a ``policy`` of each template that most of its own examples lack, and has no errors."""
    found = operation_of(document, method, path)
    found.shared["components"]["schemas"]["LanguageObject"]["required"] = ["code"]
    found.replies.setdefault("default", {"type": "object", "required": ["error"]})
    return found


TELEGRAM_TYPES: dict[str, dict[str, Any]] = {
    "Integer": {"type": "integer"},
    "String": {"type": "string"},
    "Boolean": {"type": "boolean"},
    "True": {"const": True},
    "Float": {"type": "number"},
    "InputFile": {"type": "string"},
}


def telegram_type(name: str) -> dict[str, Any]:
    """Return the schema of a type by its name."""
    if name.startswith("Array of "):
        return {"type": "array", "items": telegram_type(name.removeprefix("Array of "))}
    return TELEGRAM_TYPES.get(name) or {"$ref": f"#/components/schemas/{name}"}


def telegram_fields(described: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a type, or of a method's fields."""
    if "subtypes" in described:
        return {"anyOf": [telegram_type(name) for name in described["subtypes"]]}
    fields = described.get("fields", [])
    return {
        "type": "object",
        "properties": {one["name"]: {"anyOf": [telegram_type(name) for name in one["types"]]} for one in fields},
        "required": [one["name"] for one in fields if one["required"]],
    }


def telegram_operation(document: dict[str, Any], method: str, path: str) -> Described:
    """Return the operation of a path such as ``/bot<token>/sendVideo``."""
    del method
    described = document["methods"][path.rpartition("/")[2]]
    result = {"anyOf": [telegram_type(name) for name in described["returns"]]}
    shared = {"components": {"schemas": {name: telegram_fields(one) for name, one in document["types"].items()}}}
    body = telegram_fields(described)
    yes = {"type": "object", "properties": {"ok": {"const": True}, "result": result}}
    no = {
        "type": "object",
        "properties": {
            "ok": {"const": False},
            "error_code": {"type": "integer"},
            "description": {"type": "string"},
            "parameters": telegram_type("ResponseParameters"),
        },
    }
    return Described(
        frozenset(), {"application/json": body, "multipart/form-data": body}, {"200": yes, "default": no}, shared
    )


# --- bodies ---------------------------------------------------------------------------------------


def fields_of(content_type: str, content: bytes) -> dict[str, Any]:
    """Return the fields of a form; a file stands for its name."""
    if content_type.startswith("multipart/form-data"):
        return {name: part.filename or part.text for name, part in parts_of(content_type, content).items()}
    return dict(parse_qsl(content.decode(), keep_blank_values=True, strict_parsing=True))


def typed(fields: dict[str, str], schema: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a form with the types that are declared: there they are all texts."""
    return {name: _typed(value, _property(schema, name, shared)) for name, value in fields.items()}


def _property(schema: dict[str, Any], name: str, shared: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        schema = shared["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for one in (schema, *schema.get("allOf", ())):
        found = one.get("properties", {}).get(name) if "$ref" not in one else _property(one, name, shared)
        if found:
            return found
    return {}


def _typed(value: str, declared: dict[str, Any]) -> Any:
    kinds = [declared, *declared.get("anyOf", ()), *declared.get("oneOf", ())]
    if any(one.get("type") == "array" for one in kinds):
        return [value]
    if any("string" in (one.get("type"), *(one["type"] if isinstance(one.get("type"), list) else ())) for one in kinds):
        return value
    return (
        json.loads(value)
        if any(one.get("type") in {"integer", "boolean", "number"} or "$ref" in one or "const" in one for one in kinds)
        else value
    )


# --- channels -------------------------------------------------------------------------------------


@attrs.frozen
class Maker:
    """A channel, its fake, and the description of its maker.

    Args:
        fake: Builds the fake.
        notifier: Builds the channel over it.
        operation: Finds the operation of a request in the description.
        to: An address.
        reply_to: A message to quote.
        undeclared: Fields of a request that exist, and are missing in the description.
    """

    fake: Callable[[], Any]
    notifier: Callable[[Any], Any]
    operation: Callable[[dict[str, Any], str, str], Described]
    to: str
    reply_to: str
    undeclared: frozenset[str] = frozenset()


def cloud() -> Maker:
    """WhatsApp's Cloud API. Its description lacks the field that comes back in receipts, and what stands beside a video."""
    return Maker(
        fake=lambda: FakeWhatsAppCloud(token="t", number_id="1065", templates={("video_ready", "es"): 1}),
        notifier=lambda fake: WhatsAppCloudNotifier(
            base_url=fake.url,
            token="t",
            number_id="1065",
            template=WhatsAppTemplate("video_ready", "es", caption=True),
            document=True,
            trusted_hosts=["127.0.0.1"],
        ),
        operation=cloud_operation,
        to="5491155550000",
        reply_to="wamid.HBgNNTQ5MTE1NTU1MDAwMA==",
        undeclared=frozenset({"biz_opaque_callback_data", "caption", "filename"}),
    )


SID = "AC" + "0" * 32
TEMPLATE_SID = "HX" + "0" * 32


def twilio() -> Maker:
    """Twilio, which has no quotes."""
    return Maker(
        fake=lambda: FakeTwilio(account_sid=SID, auth_token="t", content_sids=[TEMPLATE_SID]),
        notifier=lambda fake: TwilioNotifier(
            base_url=fake.url,
            account_sid=SID,
            auth_token="t",
            sender="+14155238886",
            template=TwilioTemplate(TEMPLATE_SID),
            status_callback="https://host.example/twilio",
        ),
        operation=operation_of,
        to="+5491155550000",
        reply_to="SM" + "0" * 32,
    )


def discord(to: str) -> Maker:
    """A bot of Discord's, in a channel or with a user."""
    return Maker(
        fake=lambda: FakeDiscord(token="t"),
        notifier=lambda fake: DiscordNotifier(base_url=f"{fake.url}/api/v10", token="t", trusted_hosts=["127.0.0.1"]),
        operation=operation_of,
        to=to,
        reply_to="400000000000000001",
    )


def discord_webhook() -> Maker:
    """A webhook of Discord's."""
    return Maker(
        fake=lambda: FakeDiscord(webhook_token="t"),
        notifier=lambda fake: DiscordWebhookNotifier(
            url=f"{fake.url}/api/webhooks/500000000000000001/t", trusted_hosts=["127.0.0.1"]
        ),
        operation=operation_of,
        to="webhook:500000000000000001",
        reply_to="400000000000000001",
    )


def telegram() -> Maker:
    """A bot of Telegram's."""
    return Maker(
        fake=lambda: FakeTelegram(token="123:t"),
        notifier=lambda fake: TelegramNotifier(base_url=fake.url, token="123:t", trusted_hosts=["127.0.0.1"]),
        operation=telegram_operation,
        to="4242",
        reply_to="17",
    )


MAKERS: dict[str, tuple[str, Callable[[], Maker]]] = {
    "whatsapp_cloud": ("whatsapp_cloud", cloud),
    "telegram": ("telegram", telegram),
    "twilio": ("twilio", twilio),
    "discord": ("discord", lambda: discord("channel:300000000000000001")),
    "discord_user": ("discord", lambda: discord("user:300000000000000001")),
    "discord_webhook": ("discord", discord_webhook),
}


@pytest.fixture(scope="module", params=MAKERS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def document(name) -> dict[str, Any]:
    return read_document(MAKERS[name][0], URLS[MAKERS[name][0]])


@pytest.fixture(scope="module")
def storage() -> Iterator[FakeServer]:
    """A host with a video."""
    with FakeServer() as storage:
        file = Reply(body=videos.MAIN_SILENT, headers={"Content-Type": "video/mp4"})
        storage.route("GET", "/video.mp4", file)
        yield storage


@pytest.mark.parametrize("quoting", [False, True], ids=["", "quoting"])
@pytest.mark.parametrize("kind", ["completed", "failed"])
@pytest.mark.parametrize("form", MessageForm)
def test_each_message_and_its_answer_are_as_described(name, document, storage, form, kind, quoting):  # noqa: PLR0917
    maker = MAKERS[name][1]()
    recipient = Recipient(channel=name, to=maker.to, reply_to=maker.reply_to if quoting else None)
    message = build_message(build_outcome(kind, video_url=f"{storage.url}/video.mp4"), form=form, recipient=recipient)
    with maker.fake() as fake:
        notifier = maker.notifier(fake)
        if form not in notifier.forms or (kind == "failed" and form is not MessageForm.TEXT):
            pytest.skip("the channel has no such message")
        notifier.notify(message)
        notifier.look_up(message)
        notifier.close()
        assert fake.requests
        for request in list(fake.requests):
            described = check_request(maker, document, request)
            check_reply(described, fake, request)


def check_request(maker: Maker, document: dict[str, Any], request: ReceivedRequest) -> Described:
    """Check the query and the body of a request, and return its description."""
    described = maker.operation(document, request.method, request.path)
    assert set(request.query) <= described.query
    if request.raw:
        kind = request.headers["content-type"].partition(";")[0]
        schema = described.bodies[kind]
        fields = json.loads(request.raw) if kind == "application/json" else None
        if fields is None:
            fields = typed(fields_of(request.headers["content-type"], request.raw), schema, described.shared)
            # So does Discord put the fields of a message beside its files.
            fields |= json.loads(fields.pop("payload_json", "{}"))
        described.check(without(maker.undeclared, fields), schema, whole=True)
    return described


def without(names: frozenset[str], value: Any) -> Any:
    """Return a body without the fields of these names, wherever they stand."""
    if isinstance(value, list):
        return [without(names, one) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: without(names, one) for key, one in value.items() if key not in names}


def check_reply(described: Described, fake: FakeServer, request: ReceivedRequest) -> None:
    """Send a request once more, and check the answer."""
    headers = {key: one for key, one in request.headers.items() if key in {"authorization", "content-type", "apikey"}}
    reply = httpx.request(request.method, fake.url + request.target, headers=headers, content=request.raw)
    schema = described.replies.get(str(reply.status_code), described.replies.get("default"))
    assert schema is not None, reply.status_code
    described.check(reply.json(), schema, whole=False)
