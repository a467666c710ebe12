"""Bodies of several parts: fields, and files that are read piece by piece as they go out."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, BinaryIO

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Multipart", "Part"]

PIECE_BYTES = 65_536

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}(; ?[A-Za-z0-9=.,_-]{1,100})?")

_QUOTED = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})
"""How browsers write a name, after the standard of HTML."""

# One a process: nobody outside can know it, and so nobody's field can end a part; and two requests of the same message
# are the same bytes.
_BOUNDARY = secrets.token_hex(16)


@attrs.frozen(kw_only=True)
class Part:
    """One part of a ``multipart/form-data`` body: a field, or a file.

    Args:
        name: The field's name.
        content: A text, or bytes, or a file that can seek: all of it is sent, read piece by piece,
            and it stays open. Kept out of ``repr``.
        filename: What the receiver is to call a file; None for a field.
        media_type: The part's own ``Content-Type``; None for none.
    """

    name: str
    content: str | bytes | BinaryIO = attrs.field(repr=False)
    filename: str | None = None
    media_type: str | None = None


class Multipart:
    """The bytes of some parts: how many there are, and what they are.

    Args:
        parts: The parts.

    Raises:
        ValueError: A media type has characters that cannot be sent, or a file cannot seek.
        OSError: A file cannot be read.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.content_type: str = f"multipart/form-data; boundary={_BOUNDARY}"
        self._pieces: list[tuple[bytes | BinaryIO, int]] = []
        for part in parts:
            content = part.content.encode() if isinstance(part.content, str) else part.content
            self._add(f"--{_BOUNDARY}\r\n{_head(part)}\r\n".encode())
            if isinstance(content, bytes):
                self._add(content)
            else:
                self._pieces.append((content, content.seek(0, 2)))
            self._add(b"\r\n")
        self._add(f"--{_BOUNDARY}--\r\n".encode())
        self.length: int = sum(size for _, size in self._pieces)

    def _add(self, piece: bytes) -> None:
        self._pieces.append((piece, len(piece)))

    def chunks(self) -> Iterator[bytes]:
        """Yield all bytes, from the beginning.

        Raises:
            OSError: A file is shorter by now, or cannot be read.
        """
        for piece, size in self._pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            piece.seek(0)
            left = size
            while left:
                read = piece.read(min(PIECE_BYTES, left))
                if not read:
                    msg = "the file has become shorter"
                    raise OSError(msg)
                left -= len(read)
                yield read


def _head(part: Part) -> str:
    head = f'Content-Disposition: form-data; name="{part.name.translate(_QUOTED)}"'
    if part.filename is not None:
        head += f'; filename="{part.filename.translate(_QUOTED)}"'
    if part.media_type is not None:
        if not _MEDIA_TYPE.fullmatch(part.media_type):
            msg = "a part's media type has characters that cannot be sent"
            raise ValueError(msg)
        head += f"\r\nContent-Type: {part.media_type}"
    return f"{head}\r\n"
