"""Whose callback it is: signatures of video APIs, checked by pure functions.

What comes from outside may be anything: headers and bodies are bounded, compared
in constant time, and read only after the signature holds. Nothing here raises for them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias

import attrs

from videopoll._http import HttpReply
from videopoll._http.received import MAX_RECEIVED_BYTES, Headers, checked_body, headers_named
from videopoll._reasons import Reason, own
from videopoll.core.belonging import NO_FORK
from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import check_kind, check_seconds, listed
from videopoll.jobs.job import MAX_ID_CHARS
from videopoll.video_api.description import ApiDescription, Meaning, Signing, normalized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from videopoll.jobs.codec import JsonValue

__all__ = ["CallbackRefused", "CallbackVerified", "Headers", "keys_of", "keys_of_jwks", "verify_callback"]

WINDOW_S = 300
"""By how much the time of a callback may differ from ours, as all of these APIs advise."""

MAX_KEYS = 20
ED25519_KEY_BYTES = 32
ED25519_SIGNATURE_BYTES = 64
LEAST_SECRET_BYTES = 8

_NEEDED = {
    Signing.STANDARD_WEBHOOKS: ("webhook-id", "webhook-timestamp", "webhook-signature"),
    Signing.OPENROUTER: ("x-openrouter-signature",),
    Signing.FAL: (
        "x-fal-webhook-request-id",
        "x-fal-webhook-user-id",
        "x-fal-webhook-timestamp",
        "x-fal-webhook-signature",
    ),
}


@attrs.frozen
class CallbackVerified:
    """A callback that is the API's own.

    Args:
        api_id: The API's id of the job.
        working: Whether it says that the job is still worked on.
    """

    api_id: str
    working: bool = False


@attrs.frozen
class CallbackRefused:
    """A callback that nothing follows from.

    Args:
        reason: Why, in our own words.
        http_status: What to answer: 401 for one that is not the API's or not of now, 400
            for one that cannot be read, 413 for one that is too large.
    """

    reason: Reason
    http_status: int = HTTPStatus.UNAUTHORIZED


def verify_callback(
    api: ApiDescription, headers: Headers, body: bytes, keys: Sequence[bytes], *, now_s: float
) -> CallbackVerified | CallbackRefused:
    """Return whose job a callback is about, or why it is refused. Never raises for what came from outside.

    Args:
        api: The description of the API.
        headers: The request's headers.
        body: Its body, byte for byte as it came.
        keys: See `keys_of` and `keys_of_jwks`; one that fits is enough, for the time of a rotation.
        now_s: The time in Unix seconds: a callback may be 300 s older or younger.

    Raises:
        ConfigurationError: The description has no callbacks, or the body is no bytes.
    """
    check_kind("verify_callback.api", api, ApiDescription)
    scheme = api.callback
    if scheme is None:
        msg = f"{api.name} has no callbacks whose signature is known: leave it to the polls"
        raise ConfigurationError(msg)
    body = checked_body(body, "a callback")
    for key in listed(keys, "verify_callback.keys", "keys, each of bytes"):
        check_kind("each of verify_callback.keys", key, bytes)
    check_seconds("verify_callback.now_s", now_s)
    if len(body) > MAX_RECEIVED_BYTES:
        return CallbackRefused(own(f"larger than {MAX_RECEIVED_BYTES} bytes"), HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    given = headers_named(headers, _NEEDED[scheme.signing])
    if given is None:
        return CallbackRefused(own("the headers of its signature are missing, or not what they should be"))
    time, signatures, signed = _READ[scheme.signing](given, body)
    if time is None:
        return CallbackRefused(own("its signature has no time"))
    if abs(now_s - time) > WINDOW_S:
        return CallbackRefused(own(f"signed more than {WINDOW_S} s ago, or ahead of this machine's clock"))
    fits = _fits_ed25519 if scheme.signing is Signing.FAL else _fits_hmac
    if not fits(signatures, signed, keys):
        return CallbackRefused(own("its signature does not fit"))
    return _named(api, HttpReply(status=200, body=body).json())


def _named(api: ApiDescription, fields: object) -> CallbackVerified | CallbackRefused:
    """Read a body that is the API's own."""
    scheme = api.callback
    told: JsonValue = fields if isinstance(fields, dict) else None
    api_id = api.text(told, scheme.id) if scheme else None
    if scheme is None or api_id is None or len(api_id) > MAX_ID_CHARS:
        return CallbackRefused(own("its body names no job"), HTTPStatus.BAD_REQUEST)
    word = api.text(told, scheme.status)
    return CallbackVerified(api_id, word is not None and api.words.get(normalized(word)) is Meaning.WORKING)


def keys_of(api: ApiDescription, secret: str | Iterable[str]) -> tuple[bytes, ...]:
    """Return the keys that a secret of this API stands for.

    Args:
        api: The description.
        secret: The secret as the API gives it, or several while it is being changed. For
            fal: its public keys, the ``x`` of its JWKS.

    Raises:
        ConfigurationError: One of them cannot be such a secret, or there is none. It is not quoted.
    """
    texts = (
        [secret] if isinstance(secret, str) else listed(secret, f"the secret for callbacks of {api.name}", "secrets")
    )
    keys = [_key_of(api, text) for text in texts]
    if not keys or len(keys) > MAX_KEYS:
        msg = f"the callbacks of {api.name} need a secret, and at most {MAX_KEYS}"
        raise ConfigurationError(msg)
    return tuple(keys)


def _key_of(api: ApiDescription, text: object) -> bytes:
    key, looks = b"", "the text that the API's settings show"
    signing = api.callback.signing if api.callback else None
    if isinstance(text, str):
        match signing:
            case Signing.STANDARD_WEBHOOKS:
                key, looks = _base64(text.removeprefix("whsec_")), "'whsec_' and bytes in base64"
            case Signing.FAL:
                key, looks = _base64url(text), "32 bytes in base64url: the 'x' of a key in its JWKS"
                key = key if len(key) == ED25519_KEY_BYTES else b""
            case _:
                key = text.encode("utf-8", "replace")
    if len(key) < LEAST_SECRET_BYTES:
        msg = f"a secret for the callbacks of {api.name} is {looks}"
        raise ConfigurationError(msg)
    return key


def keys_of_jwks(document: object) -> tuple[bytes, ...]:
    """Return the ED25519 keys of a JSON Web Key Set; those that are none are left out."""
    found = document.get("keys") if isinstance(document, dict) else None
    keys = [
        _base64url(str(one.get("x", "")))
        for one in (found if isinstance(found, list) else [])[:MAX_KEYS]
        if isinstance(one, dict) and one.get("kty") == "OKP" and one.get("crv") == "Ed25519"
    ]
    return tuple(key for key in keys if len(key) == ED25519_KEY_BYTES)


_Read: TypeAlias = tuple[int | None, list[bytes], bytes]
"""The time, the signatures and what was signed."""


def _standard(given: Mapping[str, str], body: bytes) -> _Read:
    name, time, signatures = (given[header] for header in _NEEDED[Signing.STANDARD_WEBHOOKS])
    versions = [one.partition(",") for one in signatures.split()]
    raw = [_base64(text) for version, _, text in versions if version == "v1"]
    return _time(time), raw, f"{name}.{time}.".encode() + body


def _openrouter(given: Mapping[str, str], body: bytes) -> _Read:
    parts = [part.strip().partition("=") for part in given["x-openrouter-signature"].split(",")]
    times = [text for name, _, text in parts if name == "t"]
    raw = [_hex(text) for name, _, text in parts if name == "v1"]
    time = times[0] if len(times) == 1 else ""
    return _time(time), raw, f"{time},".encode() + body


def _fal(given: Mapping[str, str], body: bytes) -> _Read:
    request, user, time, signature = (given[header] for header in _NEEDED[Signing.FAL])
    signed = "\n".join((request, user, time, hashlib.sha256(body).hexdigest()))
    return _time(time), [_hex(signature)], signed.encode()


_READ = {Signing.STANDARD_WEBHOOKS: _standard, Signing.OPENROUTER: _openrouter, Signing.FAL: _fal}


def _time(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,12}", text) else None


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""


def _base64url(text: str) -> bytes:
    return _base64(text.translate({ord("-"): "+", ord("_"): "/"}) + "=" * (-len(text) % 4))


def _hex(text: str) -> bytes:
    return bytes.fromhex(text) if re.fullmatch(r"(?:[0-9a-fA-F]{2}){1,64}", text) else b""


def _fits_hmac(signatures: Sequence[bytes], signed: bytes, keys: Sequence[bytes]) -> bool:
    expected = [hmac.digest(key, signed, hashlib.sha256) for key in keys]
    # All of them, whatever the first says: the time tells nothing of which it was.
    pairs = [hmac.compare_digest(one, right) for one in signatures[:MAX_KEYS] for right in expected]
    return any(pairs)


def _fits_ed25519(signatures: Sequence[bytes], signed: bytes, keys: Sequence[bytes]) -> bool:
    with NO_FORK:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    for key in keys:
        for signature in signatures:
            if len(signature) == ED25519_SIGNATURE_BYTES:
                try:
                    Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
                except (InvalidSignature, ValueError):
                    continue
                return True
    return False
