"""What a video file tells of itself in its first bytes. Pure, and safe with any bytes at all.

The layout of MP4 and QuickTime files is that of ISO/IEC 14496-12 (boxes), 14496-14 and
14496-15 (what describes a codec). Of other files only the kind is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HEAD_BYTES", "VideoFile", "read_video_file"]

HEAD_BYTES = 256 * 1024
"""How much of a file is looked at, in bytes. The description of a minute of video has about 50 KB."""

OTHER = "other"


@attrs.frozen(kw_only=True)
class VideoFile:
    """What is known of a video file. None stands for what its first bytes do not tell.

    Args:
        container: ``mp4``, ``mov``, ``3gp``, ``webm``, ``mkv``, ``avi``, ``flv``, ``mpeg``, ``ogg`` or ``wmv``;
            ``audio``, ``image``, ``playlist`` or ``text`` for what is no video (a page that says "expired").
        video_codec: ``h264``, ``h265``, ``av1``, ``vp9``, ``vp8``, ``mpeg4``, ``h263``, ``prores``,
            ``encrypted`` or ``other``. This and what follows are told of mp4, mov and 3gp alone.
        profile: That of the codec, in the words of its standard, e.g. ``High``.
        audio_codecs: One for each audio track: ``aac``, ``mp3``, ``opus``, ``amr``, ``ac3``, ``alac``, ``flac``,
            ``pcm``, ``encrypted`` or ``other``, as far as they are told of. Empty for a video that surely has no sound.
        moov_first: Whether the description stands before the video, so that it plays while it loads.
        b_frames: Whether frames are stored in another order than they are shown in.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        duration_s: How long it plays, in seconds.
    """

    container: str | None = None
    video_codec: str | None = None
    profile: str | None = None
    audio_codecs: tuple[str, ...] | None = None
    moov_first: bool | None = None
    b_frames: bool | None = None
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None


def read_video_file(head: bytes) -> VideoFile:
    """Return what the first bytes of a file tell of it. Takes time in proportion to them, and never raises.

    Args:
        head: The file, or its beginning; `HEAD_BYTES` are enough. The more, the more is known.
    """
    container = _container(head)
    if container not in _ISO:
        return VideoFile(container=container)
    moov, moov_first = None, None
    for box in _boxes(head, 0, len(head)):
        if box.kind in {b"moov", b"mdat"} and moov_first is None:
            moov_first = box.kind == b"moov"
        if box.kind == b"moov":
            moov = box
            break
    found = VideoFile(container=container, moov_first=moov_first)
    return found if moov is None else _described(head, moov, found)


# --- which kind of file ---

_ISO = frozenset({"mp4", "mov", "3gp"})

_BRANDS = {b"qt  ": "mov", b"M4A ": "audio", b"M4B ": "audio"} | dict.fromkeys(
    (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"jpeg", b"crx "), "image"
)
_OLD_QUICKTIME = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"FLV\x01", "flv"),
    (0, b"OggS", "ogg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wmv"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"\x00\x00\x01\xb3", "mpeg"),
    (8, b"AVI ", "avi"),
    (8, b"WEBP", "image"),
    (8, b"WAVE", "audio"),
    (0, b"GIF8", "image"),
    (0, b"\x89PNG", "image"),
    (0, b"\xff\xd8\xff", "image"),
    (0, b"ID3", "audio"),
    (0, b"fLaC", "audio"),
    (0, b"#EXTM3U", "playlist"),
)


def _container(head: bytes) -> str | None:
    kind = head[4:8]
    if kind == b"ftyp" and len(head) >= 12:  # noqa: PLR2004 - with its brand
        brand = head[8:12]
        return "3gp" if brand[:2] == b"3g" else _BRANDS.get(brand, "mp4")
    if kind in _OLD_QUICKTIME:
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "webm" if b"webm" in head[:64] else "mkv" if b"matroska" in head[:64] else None
    for at, magic, container in _MAGIC:
        if head.startswith(magic, at):
            return container
    packets = head[:377:188]
    if len(packets) > 1 and set(packets) == {0x47}:
        return "mpeg"
    begins = head[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    return "text" if begins[:1] in {b"<", b"{", b"["} else None


# --- boxes ---


@attrs.frozen
class _Box:
    """A box: its kind, where its content begins and ends, and whether all of that is there."""

    kind: bytes
    start: int
    end: int
    whole: bool


def _boxes(data: bytes, start: int, end: int) -> Iterator[_Box]:
    """Yield the boxes between two places, as far as they are there. What is no box ends it."""
    end = min(end, len(data))
    while end - start >= 8:  # noqa: PLR2004 - a size and a kind
        size, kind, header = _number(data, start, 4), data[start + 4 : start + 8], 8
        if size == 1:
            size, header = _number(data, start + 8, 8), 16
        elif size == 0:  # To the end of the file.
            size = end - start
        if size < header:
            return
        yield _Box(kind, start + header, min(start + size, end), start + size <= end)
        start += size


def _number(data: bytes, at: int, size: int) -> int:
    """Return an unsigned number; 0 where there is none."""
    return int.from_bytes(data[at : at + size], "big") if at + size <= len(data) else 0


def _inside(data: bytes, box: _Box | None, *path: bytes) -> _Box | None:
    """Return the first box at a path below this one."""
    for kind in path:
        if box is None:
            return None
        box = next((one for one in _boxes(data, box.start, box.end) if one.kind == kind), None)
    return box


# --- what describes the video ---


@attrs.frozen
class _Track:
    kind: bytes
    codec: str
    entry: _Box
    table: _Box
    reordered: bool


def _described(data: bytes, moov: _Box, found: VideoFile) -> VideoFile:
    tracks = [
        track
        for box in _boxes(data, moov.start, moov.end)
        if box.kind == b"trak" and (track := _track(data, box)) is not None
    ]
    audio = tuple(track.codec for track in tracks if track.kind == b"soun")
    found = attrs.evolve(found, duration_s=_duration_s(data, moov), audio_codecs=audio if audio or moov.whole else None)
    video = next((track for track in tracks if track.kind == b"vide"), None)
    if video is None:
        return found
    fragmented = _inside(data, moov, b"mvex") is not None
    known_order = video.table.whole and moov.whole and not fragmented
    return attrs.evolve(
        found,
        video_codec=video.codec,
        profile=_profile(data, video),
        b_frames=True if video.reordered else False if known_order else None,
        width=_number(data, video.entry.start + 24, 2) or None,
        height=_number(data, video.entry.start + 26, 2) or None,
    )


def _track(data: bytes, trak: _Box) -> _Track | None:
    mdia = _inside(data, trak, b"mdia")
    handler, table = _inside(data, mdia, b"hdlr"), _inside(data, mdia, b"minf", b"stbl")
    described = _inside(data, table, b"stsd")
    if handler is None or table is None or described is None:
        return None
    entry = next(_boxes(data, described.start + 8, described.end), None)
    if entry is None or not entry.whole:
        return None
    kind, offsets = data[handler.start + 8 : handler.start + 12], _inside(data, table, b"ctts")
    codec = _VIDEO.get(entry.kind, OTHER) if kind == b"vide" else _audio_codec(data, entry)
    return _Track(kind, codec, entry, table, offsets is not None and _differ(data, offsets))


def _differ(data: bytes, offsets: _Box) -> bool:
    """Return whether frames are shown a different time after they are stored."""
    return len({data[at : at + 4] for at in range(offsets.start + 12, offsets.end - 3, 8)}) > 1


def _duration_s(data: bytes, moov: _Box) -> float | None:
    header = _inside(data, moov, b"mvhd")
    if header is None or not header.whole:
        return None
    if data[header.start : header.start + 1] == b"\x01":
        per_s, length, unknown = _number(data, header.start + 20, 4), _number(data, header.start + 24, 8), 2**64 - 1
    else:
        per_s, length, unknown = _number(data, header.start + 12, 4), _number(data, header.start + 16, 4), 2**32 - 1
    return length / per_s if per_s and 0 < length < unknown else None


_VIDEO = {
    b"avc1": "h264",
    b"avc3": "h264",
    b"hvc1": "h265",
    b"hev1": "h265",
    b"dvh1": "h265",
    b"dvhe": "h265",
    b"av01": "av1",
    b"vp09": "vp9",
    b"vp08": "vp8",
    b"mp4v": "mpeg4",
    b"s263": "h263",
    b"h263": "h263",
    b"H263": "h263",
    b"apco": "prores",
    b"apcs": "prores",
    b"apcn": "prores",
    b"apch": "prores",
    b"ap4h": "prores",
    b"ap4x": "prores",
    b"encv": "encrypted",
}

_AUDIO = {
    b".mp3": "mp3",
    b"Opus": "opus",
    b"samr": "amr",
    b"sawb": "amr",
    b"ac-3": "ac3",
    b"ec-3": "ac3",
    b"alac": "alac",
    b"fLaC": "flac",
    b"sowt": "pcm",
    b"twos": "pcm",
    b"lpcm": "pcm",
    b"ipcm": "pcm",
    b"in24": "pcm",
    b"fl32": "pcm",
    b"enca": "encrypted",
}

_OBJECT_TYPES = {0x40: "aac", 0x66: "aac", 0x67: "aac", 0x68: "aac", 0x69: "mp3", 0x6B: "mp3"}
"""What an ``mp4a`` track may hold, by ISO/IEC 14496-1."""

_CONFIGS = (b"avcC", b"hvcC", b"vpcC", b"av1C")

_PROFILES: dict[bytes, dict[int, str]] = {
    b"avcC": {
        44: "CAVLC 4:4:4 Intra",
        66: "Baseline",
        77: "Main",
        88: "Extended",
        100: "High",
        110: "High 10",
        122: "High 4:2:2",
        244: "High 4:4:4 Predictive",
    },
    b"hvcC": {1: "Main", 2: "Main 10", 3: "Main Still Picture", 4: "Format Range Extensions"},
    b"vpcC": {0: "Profile 0", 1: "Profile 1", 2: "Profile 2", 3: "Profile 3"},
    b"av1C": {0: "Main", 1: "High", 2: "Professional"},
}


def _profile(data: bytes, video: _Track) -> str | None:
    # Behind the fixed fields of a picture's sample entry stand boxes.
    for box in _boxes(data, video.entry.start + 78, video.entry.end):
        if box.kind in _CONFIGS and box.end - box.start >= 6:  # noqa: PLR2004 - up to the last field that is read
            first = data[box.start + 1]
            number = {b"avcC": first, b"hvcC": first & 0x1F, b"vpcC": data[box.start + 4], b"av1C": first >> 5}
            return _PROFILES[box.kind].get(number[box.kind], OTHER)
    return None


def _audio_codec(data: bytes, entry: _Box) -> str:
    if entry.kind != b"mp4a":
        return _AUDIO.get(entry.kind, OTHER)
    # QuickTime has more fixed fields in its versions 1 and 2 of a sound's sample entry.
    version = _number(data, entry.start + 8, 2)
    boxes = attrs.evolve(entry, start=entry.start + 28 + {1: 16, 2: 36}.get(version, 0))
    described = _inside(data, boxes, b"esds") or _inside(data, boxes, b"wave", b"esds")
    return "aac" if described is None else _object_type(data, described)


def _object_type(data: bytes, esds: _Box) -> str:
    """Return the codec that an elementary stream's descriptor names: its tag 3 holds a tag 4, which begins with it."""
    at = _descriptor(data, esds.start + 4, esds.end, 3)
    if at is None or at + 3 > esds.end:
        return "aac"
    flags, at = data[at + 2], at + 3
    if flags & 0x80:
        at += 2
    if flags & 0x40:
        at += 1 + _number(data, at, 1)
    if flags & 0x20:
        at += 2
    at_type = _descriptor(data, at, esds.end, 4)
    return "aac" if at_type is None or at_type >= esds.end else _OBJECT_TYPES.get(data[at_type], OTHER)


def _descriptor(data: bytes, at: int, end: int, tag: int) -> int | None:
    """Return where the content of a descriptor begins; its length has one to four bytes."""
    if at >= end or data[at] != tag:
        return None
    for at_length in range(at + 1, min(at + 5, end)):
        if data[at_length] < 0x80:  # noqa: PLR2004 - the last of them
            return at_length + 1
    return None
