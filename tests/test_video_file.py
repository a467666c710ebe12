"""What the first bytes of a file tell of it. The expectations are what ffprobe says of the same files."""

from __future__ import annotations

import struct
import time

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import videos
from videopoll.notifiers.video_file import HEAD_BYTES, VideoFile, read_video_file

HEADS = {name: head for name, head in vars(videos).items() if isinstance(head, bytes)}


def box(kind: bytes, *content: bytes) -> bytes:
    """Write a box of an MP4 file."""
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def with_moov_last(head: bytes) -> bytes:
    """Put the frames before the description, as encoders do that write a file once."""
    start = head.index(b"moov") - 4
    end = start + int.from_bytes(head[start : start + 4], "big")
    return head[:start] + box(b"mdat", bytes(1000)) + head[start:end]


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (videos.HIGH_B_FRAMES, ("mp4", "h264", "High", ("aac",), True)),
        (videos.MAIN_SILENT, ("mp4", "h264", "Main", (), False)),
        (videos.BASELINE, ("mp4", "h264", "Baseline", ("aac",), False)),
        (videos.H265, ("mp4", "h265", "Main", (), True)),
        (videos.MP3_SOUND, ("mp4", "h264", "High", ("mp3",), True)),
        (videos.VP9, ("mp4", "vp9", "Profile 1", ("opus",), False)),
        (videos.AV1, ("mp4", "av1", "High", (), False)),
        (videos.FRAGMENTED, ("mp4", "h264", "High", ("aac",), None)),
        (videos.PRORES, ("mov", "prores", None, ("pcm",), False)),
    ],
)
def test_codecs_sound_and_the_order_of_frames_are_told(head, told):
    found = read_video_file(head)

    assert (found.container, found.video_codec, found.profile, found.audio_codecs, found.b_frames) == told
    assert (found.width, found.height) == (64, 48)
    assert found.moov_first


def test_a_file_tells_how_long_it_plays():
    """A fragmented one does not know."""
    assert read_video_file(videos.MAIN_SILENT).duration_s == 1.0
    assert read_video_file(videos.FRAGMENTED).duration_s is None


def test_a_description_behind_the_frames_is_found_if_it_is_there():
    """Short files are read as a whole; of longer ones it is known that the description comes last."""
    last = with_moov_last(videos.HIGH_B_FRAMES)

    assert read_video_file(last) == attrs.evolve(read_video_file(videos.HIGH_B_FRAMES), moov_first=False)
    assert read_video_file(last[:900]) == VideoFile(container="mp4", moov_first=False)


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm", "webm"),
        (b"\x1a\x45\xdf\xa3\xa3B\x86\x81\x01B\x82\x88matroska", "mkv"),
        (b"RIFF\x3a\x26\0\0AVI LIST", "avi"),
        (b"RIFF\x3a\x26\0\0WEBPVP8 ", "image"),
        (b"FLV\x01\x05\0\0\0\x09", "flv"),
        (b"G" + bytes(187) + b"G" + bytes(187) + b"G", "mpeg"),
        (b"\0\0\x01\xba\x44", "mpeg"),
        (b"OggS\0\x02", "ogg"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9", "wmv"),
        (box(b"ftyp", b"3gp4\0\0\x02\0"), "3gp"),
        (box(b"ftyp", b"qt  \0\0\x02\0"), "mov"),
        (box(b"wide") + box(b"mdat", b"frames"), "mov"),
        (box(b"ftyp", b"avif\0\0\0\0"), "image"),
        (box(b"ftyp", b"M4A \0\0\0\0"), "audio"),
        (b"GIF89a", "image"),
        (b"\x89PNG\r\n", "image"),
        (b"\xff\xd8\xff\xe0", "image"),
        (b"ID3\x04", "audio"),
        (b"#EXTM3U\n#EXT-X-VERSION:3", "playlist"),
        (b"\xef\xbb\xbf \n<!doctype html>", "text"),
        (b'{"error":"expired"}', "text"),
        (b"", None),
        (bytes(600), None),
        (b"nothing that anybody knows", None),
    ],
    ids=str,
)
def test_a_file_is_known_by_its_first_bytes(head, container):
    assert read_video_file(head).container == container


@pytest.mark.parametrize("name", HEADS)
def test_a_file_that_is_cut_off_anywhere_tells_less_and_nothing_else(name):
    """What is read of a file may end in the middle of a number."""
    whole = read_video_file(HEADS[name])

    for length in range(len(HEADS[name])):
        part = read_video_file(HEADS[name][:length])
        for field in attrs.fields(VideoFile):
            said, true = getattr(part, field.name), getattr(whole, field.name)
            if field.name == "audio_codecs" and said is not None:
                # Further tracks may follow; that there is none is said only when all is there.
                assert said == (true[: len(said)] if said else true), length
            else:
                assert said is None or said == true, (length, field.name)


def is_sane(found: VideoFile) -> bool:
    """Whether all that is told are words of ours, and numbers."""
    words = (found.container, found.video_codec, found.profile, *(found.audio_codecs or ()))
    numbers = (found.width, found.height, found.duration_s)
    return all(word is None or (word.isascii() and len(word) < 30) for word in words) and all(
        number is None or number > 0 for number in numbers
    )


@given(st.binary(max_size=300))
def test_no_bytes_at_all_make_it_raise(head):
    assert is_sane(read_video_file(head))
    assert is_sane(read_video_file(box(b"ftyp", b"isom") + box(b"moov", box(b"trak", head), head)))


@given(st.sampled_from(sorted(HEADS)), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8))
def test_no_damage_makes_it_raise(name, changes):
    head = bytearray(HEADS[name])
    for at, value in changes:
        head[at % len(head)] = value
    assert is_sane(read_video_file(bytes(head)))


BOX_KINDS = (b"trak", b"mdia", b"hdlr", b"minf", b"stbl", b"stsd", b"ctts", b"mvhd", b"mvex", b"mp4a", b"esds", b"wave")


@given(
    st.recursive(
        st.binary(max_size=40),
        lambda inner: st.builds(lambda kind, parts: box(kind, *parts), st.sampled_from(BOX_KINDS), st.lists(inner)),
        max_leaves=20,
    ),
)
def test_no_nesting_of_boxes_makes_it_raise(content):
    assert is_sane(read_video_file(box(b"ftyp", b"isom") + box(b"moov", content)))


@pytest.mark.parametrize(
    "hostile",
    [
        box(b"free") * (HEAD_BYTES // 8),
        box(b"moov", box(b"trak") * (HEAD_BYTES // 8)),
        box(b"moov", box(b"trak", box(b"mdia", box(b"minf", box(b"stbl")))) * (HEAD_BYTES // 40)),
        box(b"moov", box(b"free") * (HEAD_BYTES // 8)),
        b"\0\0\0\1moov" + b"\xff" * 8 + box(b"trak") * (HEAD_BYTES // 8),
        b"\0\0\0\1free" + bytes(8) + box(b"moov"),
        b"\0\0\0\0moov" * (HEAD_BYTES // 8),
    ],
    ids=["boxes", "tracks", "tables", "boxes in it", "huge", "of no size", "without an end"],
)
def test_a_file_made_to_take_long_does_not(hostile):
    """A quarter of a megabyte takes some milliseconds; what would be quadratic takes minutes."""
    began_s = time.process_time()
    read_video_file(box(b"ftyp", b"isom") + hostile)
    assert time.process_time() - began_s < 1.0


def test_a_codec_that_nobody_knows_is_called_another():
    """Its name comes from outside, and may be anything."""
    assert read_video_file(videos.MAIN_SILENT.replace(b"avc1", b"\x00\xff\n;")).video_codec == "other"
