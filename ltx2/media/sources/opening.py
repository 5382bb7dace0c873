"""Opens a user's video or sound with one of a few demuxers, and chooses its streams.

The demuxer follows from the first bytes, never from a name. So nothing is opened that opens other files: no playlist,
no list of files, no image sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import av
from av.audio.stream import AudioStream
from av.codec.context import ThreadType
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import ColorTrc
from av.video.stream import VideoStream

from ltx2.media.container import MAX_PIXELS

VIDEOS = "MP4, MOV, WebM or MKV"
SOUNDS = "WAV, AIFF, FLAC, MP3, AAC, Ogg or a video"

_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_STILLS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")  # pictures, with boxes as an MP4
_ATTACHED = Disposition.attached_pic | Disposition.timed_thumbnails
_HDR = {ColorTrc.SMPTE2084: "HDR (PQ)", ColorTrc.ARIB_STD_B67: "HDR (HLG)"}
_VIDEO_DEMUXERS = ("mov", "matroska")
_HEAD_BYTES = 64


@contextmanager
def opened(file: IO[bytes], *, with_sound_files: bool = False) -> Iterator[InputContainer]:
    """Open a file that can be sought in. with_sound_files: whether files without a video are among those listed.

    Raises:
        ValueError: another format, or damaged.
    """
    file.seek(0)
    demuxer = _demuxer(file.read(_HEAD_BYTES))
    file.seek(0)
    if demuxer is None or (demuxer not in _VIDEO_DEMUXERS and not with_sound_files):
        raise ValueError(f"not a {SOUNDS} file" if with_sound_files else f"not an {VIDEOS} file")
    with reading_errors():
        options = {"enable_drefs": "0"} if demuxer == "mov" else {}  # references to other files are not followed
        container = av.open(file, "r", format=demuxer, options=options, metadata_errors="replace")
        with container:
            yield container


def is_video(file: IO[bytes]) -> bool:
    """Whether a file that can be sought in begins as an MP4, MOV, WebM or MKV does."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    return _demuxer(head) in _VIDEO_DEMUXERS


@contextmanager
def reading_errors() -> Iterator[None]:
    """Turn errors of PyAV into a ValueError."""
    try:
        yield
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise ValueError(f"cannot be decoded ({error.strerror or error})") from None


def main_video(container: InputContainer) -> VideoStream | None:
    """The main video track, or None; a cover picture is none."""
    found = [stream for stream in container.streams.video if not stream.disposition & _ATTACHED]
    return next((stream for stream in found if stream.disposition & Disposition.default), found[0] if found else None)


def video_of(container: InputContainer) -> VideoStream:
    """The main video track, decoded by one thread. ValueError: there is none, it is HDR, or its codec is unknown."""
    stream = main_video(container)
    if stream is None:
        raise ValueError("it has no video" + (", only a cover picture" if container.streams.video else ""))
    if stream.codec_context is None:
        raise ValueError("its video has a codec that cannot be decoded")
    context = stream.codec_context
    if context.width * context.height > MAX_PIXELS:
        raise ValueError(f"its pictures have {context.width}x{context.height} pixels; {MAX_PIXELS:,} is the limit")
    check_sdr(context.color_trc)  # what the file says of all pictures; a picture may say nothing
    context.thread_count, context.thread_type = 1, ThreadType.NONE
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def check_sdr(transfer: int) -> None:
    """Refuse pictures with the transfer function of HDR. transfer: as in FFmpeg, `AVColorTransferCharacteristic`."""
    if name := next((name for known, name in _HDR.items() if known == transfer), None):
        raise ValueError(f"its pictures are {name}; convert it to SDR (BT.709) first")


def sound_of(container: InputContainer) -> AudioStream | None:
    """The main sound track, or None. ValueError: its codec is unknown."""
    found = list(container.streams.audio)
    if not found:
        return None
    stream = next((stream for stream in found if stream.disposition & Disposition.default), found[0])
    if stream.codec_context is None:
        raise ValueError("its sound has a codec that cannot be decoded")
    stream.codec_context.thread_count = 1
    return stream


def _demuxer(head: bytes) -> str | None:
    """FFmpeg's name of the demuxer for a file that begins so; None: not one of those listed."""
    if head[4:8] in _BOXES and head[8:12] not in _STILLS:
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head.startswith(b"fLaC"):
        return "flac"
    if head.startswith(b"OggS"):
        return "ogg"
    if head.startswith(b"ID3"):
        return "mp3"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:  # a frame of layer III
        return "mp3"
    return None
