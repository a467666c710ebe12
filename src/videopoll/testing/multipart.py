"""What stands in the body of a form with files."""

from __future__ import annotations

import email.parser
import email.policy

import attrs

__all__ = ["Part", "parts_of"]


@attrs.frozen(kw_only=True)
class Part:
    """One field or file of a form.

    Args:
        name: The field's name.
        content: Its bytes.
        filename: The file's name; None for a plain field.
        content_type: Its own type; None where it has none.
    """

    name: str
    content: bytes = attrs.field(repr=False)
    filename: str | None = None
    content_type: str | None = None

    @property
    def text(self) -> str:
        """The bytes as UTF-8; what does not fit becomes U+FFFD."""
        return self.content.decode("utf-8", "replace")


def parts_of(content_type: str, body: bytes) -> dict[str, Part]:
    """Return the fields and files of a ``multipart/form-data`` body by name; empty if it is none.

    Read by the standard library's parser of MIME, so that a body that only its
    own writer could read is found out.

    Args:
        content_type: The request's header ``Content-Type``, with the boundary.
        body: The whole body.
    """
    if not content_type.lower().startswith("multipart/form-data"):
        return {}
    head = f"Content-Type: {content_type}\r\nMIME-Version: 1.0\r\n\r\n".encode("utf-8", "replace")
    whole = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    found: dict[str, Part] = {}
    for one in whole.iter_parts():
        name = one.get_param("name", header="content-disposition")
        content = one.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            kind = one.get_content_type() if "content-type" in one else None
            found[name] = Part(name=name, content=content, filename=one.get_filename(), content_type=kind)
    return found
